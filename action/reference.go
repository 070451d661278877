package action

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Reference returns the reference page of the actions, as Markdown, sorted by
// name: all that a reader of a runbook may want to know of an action, and
// nothing that is not in its definition.
func Reference(actions []Info) []byte {
	actions = slices.Clone(actions)
	slices.SortFunc(actions, func(a, b Info) int { return cmp.Compare(a.Name, b.Name) })

	var b bytes.Buffer
	b.WriteString(`# Actions

What a step's ` + "`action:`" + ` may name. This page is made from the definitions in ` + "`activities/`" + `;
` + "`UPDATE=1 go test ./internal/docs/`" + ` rewrites it.

Actions of the world ` + "`host`" + ` run on the nodes that the step's ` + "`targets:`" + ` name, all others on the worker.
An action whose answer was lost is called again: each is safe to repeat within one step.
An input marked *secret* may be a secret; any other may not.

| action | | rollback |
| --- | --- | --- |
`)
	for _, a := range actions {
		undo := ""
		if a.Compensates {
			undo = "yes"
		}
		fmt.Fprintf(&b, "| [`%s`](#%s) | %s | %s |\n", a.Name, anchor(a.Name), cell(a.Summary), undo)
	}
	for _, a := range actions {
		b.WriteByte('\n')
		section(&b, a)
	}
	b.WriteString(kindsTable)
	return b.Bytes()
}

func section(b *bytes.Buffer, a Info) {
	fmt.Fprintf(b, "## %s\n\n%s.\n", a.Name, a.Summary)
	if details := strings.TrimSpace(a.Details); details != "" {
		fmt.Fprintf(b, "\n%s\n", details)
	}
	b.WriteString("\n")
	if a.OnNode() {
		b.WriteString("Runs on the step's targets. ")
	}
	fmt.Fprintf(b, "One attempt may take %s unless the step says `timeout:`. ", short(a.Timeout))
	if a.Compensates {
		b.WriteString("Takes part in rollback.\n")
	} else {
		b.WriteString("Has nothing to take back: rollback passes it by, unless the step says `rollback:`.\n")
	}
	if len(a.Inputs) > 0 {
		b.WriteString("\n| input | type | | if left out |\n| --- | --- | --- | --- |\n")
		rows(b, "", a.Inputs, func(f Field) string {
			switch {
			case f.Required:
				return "required"
			case f.Default != "":
				return cell(f.Default)
			}
			return ""
		})
	}
	if len(a.Outputs) > 0 {
		b.WriteString("\n| output | type | | |\n| --- | --- | --- | --- |\n")
		rows(b, "", a.Outputs, func(f Field) string {
			if f.Required {
				return ""
			}
			return "may be absent"
		})
	}
	if example := strings.Trim(a.Example, "\n"); example != "" {
		fmt.Fprintf(b, "\n```yaml\n%s\n```\n", example)
	}
}

// rows writes a line per field, and below it one per field of its objects.
func rows(b *bytes.Buffer, prefix string, fields []Field, last func(Field) string) {
	for _, f := range fields {
		about := cell(f.Summary)
		if len(f.Enum) > 0 {
			about += ": `" + strings.Join(f.Enum, "`, `") + "`"
		}
		if f.Secret {
			about += " (*secret*)"
		}
		t := f.Type.String()
		if f.Fields != nil {
			t, _, _ = strings.Cut(t, "{") // the fields follow, a line each
			t += strings.Repeat(">", strings.Count(t, "<"))
		}
		fmt.Fprintf(b, "| `%s%s` | `%s` | %s | %s |\n", prefix, f.Name, t, about, last(f))
		rows(b, prefix+f.Name+".", f.Fields, last)
	}
}

// kindsTable says what the kinds of errors mean; a test compares it with Kinds.
const kindsTable = `
## Kinds of errors

What ` + "`error.kind`" + ` and ` + "`retry: { on: […] }`" + ` know. A step that says nothing about retry is tried again only
after the kinds marked so.

| kind | | tried again |
| --- | --- | --- |
| ` + "`invalid`" + ` | the input can never work | |
| ` + "`denied`" + ` | not allowed, or rejected by a person | |
| ` + "`not_found`" + ` | what the input names does not exist | |
| ` + "`conflict`" + ` | it exists already, or is in another state | |
| ` + "`throttled`" + ` | asked too often; later will do | yes |
| ` + "`unavailable`" + ` | the other side is not there, or broken; later may do | yes |
| ` + "`failed`" + ` | the work ran and failed: an exit code, a failed check | |
| ` + "`internal`" + ` | a mistake of Almanac's own | |
| ` + "`timeout`" + ` | took longer than the step's timeout | |
| ` + "`unreached`" + ` | the node did not take the work: nothing ran | |
| ` + "`lost`" + ` | whoever ran it stopped reporting; the effect may have happened | yes |
| ` + "`unknown`" + ` | a node cannot tell how the command ended; it was not run again | |
| ` + "`cancelled`" + ` | the execution was cancelled | |
`

// anchor is the fragment under which a heading is found, as GitHub makes it.
func anchor(heading string) string {
	return strings.NewReplacer(".", "", " ", "-").Replace(strings.ToLower(heading))
}

// cell makes text safe to stand in one cell of a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ").Replace(text)
}

// short is a duration without its zero parts: "1h", not "1h0m0s".
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
