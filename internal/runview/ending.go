package runview

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// How much of a failed command's output is shown.
const (
	tailLines     = 20
	waitTailLines = 5 // while it asks what to do: the table must stay in sight

	undoneWithOutput = 3 // of how many compensations that failed the output is shown
)

// Ending reports how an execution ended: the outcome, the failure with its
// place, target, exit code and last lines, what was rolled back and what was
// not, the outputs, and the commands to go on with. v.Result must not be nil.
func Ending(v workflows.View, x Execution, o Options) string {
	r := v.Result
	var b strings.Builder
	sym, color := "✔", statusColor(string(r.Outcome))
	if r.Outcome != workflows.Succeeded {
		sym = "✘"
	}
	took := ""
	if v.EndedAt != nil && !v.StartedAt.IsZero() {
		took = " after " + Elapsed(v.EndedAt.Sub(v.StartedAt))
	}
	fmt.Fprintf(&b, "%s%s: %s %s\n", o.paint(sym+" "+string(r.Outcome), color, text.Bold), took, line(v.Runbook), line(x.ID))
	if r.Message != "" && (r.Failure == nil || r.Failure.Step == "" || !strings.Contains(r.Message, firstLine(r.Failure.Message))) {
		fmt.Fprintf(&b, "  %s\n", indentAfter(bounded(Clean(r.Message)), "  "))
	}

	if r.Failure != nil && r.Failure.Step != "" { // a cancelled execution need not have a step that failed
		b.WriteByte('\n')
		b.WriteString(failure(r.Failure, o))
	}
	if recap := recap(v, o); recap != "" {
		b.WriteByte('\n')
		b.WriteString(recap)
	}
	if undone := undone(v, o); undone != "" {
		b.WriteByte('\n')
		b.WriteString(undone)
	}
	if len(r.Outputs) > 0 {
		fmt.Fprintf(&b, "\n%s\n", o.paint("outputs", text.Bold))
		b.WriteString(pairs(r.Outputs, o))
	}
	next := next(v, x, o)
	if x.URL != "" {
		next = append(next, x.URL)
	}
	if len(next) > 0 {
		fmt.Fprintf(&b, "\n%s\n", o.paint("next", text.Bold))
		for _, c := range next {
			fmt.Fprintf(&b, "  %s\n", c)
		}
	}
	return b.String()
}

// bounded cuts a message that would push all else off the screen; -o json has it whole.
func bounded(s string) string {
	const most = 2000
	if r := []rune(s); len(r) > most {
		s = fmt.Sprintf("%s… (%d more characters)", string(r[:most]), len(r)-most)
	}
	if lines := strings.Split(s, "\n"); len(lines) > tailLines {
		s = fmt.Sprintf("%s\n… (%d more lines)", strings.Join(lines[:tailLines], "\n"), len(lines)-tailLines)
	}
	return s
}

// failure shows f and the failures in child runbooks that caused it, the
// innermost last: that is where to look.
func failure(f *workflows.Failure, o Options) string {
	var b strings.Builder
	for depth := 0; f != nil && depth < 16; f, depth = f.Cause, depth+1 {
		if depth > 0 {
			fmt.Fprintf(&b, "because in runbook %s\n", line(f.Runbook))
		}
		where := ""
		if f.Target != "" {
			where += " on " + line(f.Target)
		}
		if f.Action != "" {
			where += " (" + line(f.Action) + ")"
		}
		d := detailOf(f.Detail)
		exit := ""
		if d.ExitCode > 0 && !strings.Contains(f.Message, fmt.Sprint(d.ExitCode)) {
			exit = fmt.Sprintf(" with exit code %d", d.ExitCode)
		}
		if f.Cause != nil {
			fmt.Fprintf(&b, "step %s%s failed\n", line(f.Step), where)
		} else {
			fmt.Fprintf(&b, "%s%s: %s\n", o.paint("step "+line(f.Step)+where+" failed"+exit, text.Bold),
				kindNote(f.Kind), o.paint(indentAfter(bounded(strings.TrimSpace(Clean(f.Message))), "  "), text.FgRed))
			b.WriteString(tail(d.Tail, tailLines, o))
		}
		b.WriteString(place(f, o))
	}
	return b.String()
}

// kindNote says what an error's kind means where the word alone does not.
func kindNote(kind string) string {
	switch kind {
	case "", "failed":
		return ""
	case "unreached":
		return " [unreached: nothing ran there]"
	case "lost":
		return " [lost: it may have happened]"
	case "unknown":
		return " [unknown: it may have happened, and was not run again]"
	}
	return " [" + line(kind) + "]"
}

func place(f *workflows.Failure, o Options) string {
	if f.File == "" || f.Pos == (program.Pos{}) {
		return ""
	}
	s := fmt.Sprintf("  %s\n", o.paint(fmt.Sprintf("%s:%s", line(f.File), f.Pos), text.Faint))
	if o.Source != nil {
		s += snippet(o.Source(f.File), f.Pos, 1, text.FgRed, o)
	}
	return s
}

// commandDetail is what a failed command tells of itself: activities/host's
// CommandDetail, as far as it is shown.
type commandDetail struct {
	ExitCode int    `json:"exit_code"`
	Tail     string `json:"tail"`
	Ref      string `json:"ref"`
}

func detailOf(raw json.RawMessage) commandDetail {
	var d commandDetail
	_ = json.Unmarshal(raw, &d) // another action's detail: there is nothing to show
	return d
}

// tail shows the last lines of s, at most most of them.
func tail(s string, most int, o Options) string {
	s = strings.TrimRight(Clean(s), "\n")
	if s == "" {
		return ""
	}
	lines := strings.Split(s, "\n")
	if len(lines) > most {
		lines = lines[len(lines)-most:]
	}
	var b strings.Builder
	for _, l := range lines {
		l = clip(strings.ReplaceAll(l, "\t", "    "), o.width()-4)
		fmt.Fprintln(&b, strings.TrimRight("  "+o.paint("│", text.Faint)+" "+l, " "))
	}
	return b.String()
}

// undone says what rollback took back, what it could not, and how finally went.
func undone(v workflows.View, o Options) string {
	var b strings.Builder
	r := v.Result
	if len(r.RolledBack) > 0 {
		fmt.Fprintf(&b, "%s  %s\n", o.paint("rolled back    ", text.FgGreen), names(r.RolledBack))
	}
	for i, f := range r.NotRolledBack {
		target := ""
		if f.Target != "" {
			target = " on " + line(f.Target)
		}
		fmt.Fprintf(&b, "%s  %s%s: %s\n", o.paint("not rolled back", text.FgRed, text.Bold), line(f.Step), target, line(firstLine(f.Message)))
		if i < undoneWithOutput {
			b.WriteString(tail(detailOf(f.Detail).Tail, waitTailLines, o))
		}
	}
	var finally []string
	for _, s := range v.Steps {
		if s.Phase != "finally" || s.Depth > 0 || s.State == workflows.StatePending {
			continue
		}
		note := line(strings.TrimPrefix(s.Path, "finally.")) + " " + line(s.State)
		if s.State == workflows.StateFailed && s.Message != "" {
			note += ": " + line(s.Message)
		}
		finally = append(finally, note)
	}
	if len(finally) > 0 {
		fmt.Fprintf(&b, "finally          %s\n", strings.Join(finally, ", "))
	}
	return b.String()
}

// names joins step paths; of a long list the first ten.
func names(paths []string) string {
	const most = 10
	more := ""
	if len(paths) > most {
		more = fmt.Sprintf(", and %d more", len(paths)-most)
		paths = paths[:most]
	}
	return line(strings.Join(paths, ", ")) + more
}

// withOutput are the actions of which logs shows what they wrote.
var withOutput = []string{"host.command.run", "host.patch.install"}

// next are the commands that the outcome calls for.
func next(v workflows.View, x Execution, o Options) []string {
	var cmds []string
	id := Quote(line(x.ID))
	for f := v.Result.Failure; f != nil; f = f.Cause {
		if f.Cause != nil || detailOf(f.Detail).Ref == "" {
			continue
		}
		cmds = append(cmds, logsCommand(f, x, o))
	}
	for i, f := range v.Result.NotRolledBack {
		if i < undoneWithOutput && detailOf(f.Detail).Ref != "" {
			cmds = append(cmds, logsCommand(f, x, o))
		}
	}
	failed, left := false, false
	for _, s := range Recaps(v) {
		failed = failed || s.Recap.Failed > 0 && slices.Contains(withOutput, s.Form)
		left = left || leftUndone(s.Recap)
	}
	if failed {
		cmds = append(cmds, o.Program+" logs "+id+" --failed   # the last lines of each that failed")
	}
	if left {
		cmds = append(cmds, o.Program+" run --only-failed "+id+"   # again, on the targets that it was not done on")
	}
	if slices.ContainsFunc(v.Result.NotRolledBack, func(f *workflows.Failure) bool { return strings.HasPrefix(f.Action, "aws.") }) {
		cmds = append(cmds, o.Program+" sweep --execution "+id+"   # what is left in AWS; with --yes it is removed")
	}
	cmds = slices.Compact(cmds) // the failure may be that of the rollback
	if v.Result.LeftCount > 0 {
		why := "take back what is left"
		switch f := v.Result.Failure; {
		case f == nil:
			why += ", if nothing that succeeded later stands on it"
		case strings.HasPrefix(f.Step, "finally.") && len(v.Result.NotRolledBack) == 0:
			why = "only if what it did is not wanted: its steps went well, and finally did not"
		}
		cmds = append(cmds, o.Program+" rollback "+id+"   # "+why)
	}
	if len(cmds) == 0 && v.Result.Outcome != workflows.Succeeded {
		cmds = append(cmds, o.Program+" logs "+id+"   # what the commands before it wrote")
	}
	return cmds
}

// logsCommand prints the complete output of the command that failed with f.
func logsCommand(f *workflows.Failure, x Execution, o Options) string {
	c := o.Program + " logs " + Quote(line(x.ID)) + " --step " + Quote(line(f.Step))
	if f.Target != "" {
		c += " --target " + Quote(line(f.Target))
	}
	return c
}

// pairs writes named values, one on a line, by name; a value that is not short
// and plain as indented JSON below its name.
func pairs(m map[string]json.RawMessage, o Options) string {
	keys := make([]string, 0, len(m))
	width := 0
	for k := range m {
		keys = append(keys, k)
		width = max(width, len(k))
	}
	slices.Sort(keys)
	var b strings.Builder
	for _, k := range keys {
		val := PlainValue(m[k])
		if strings.Contains(val, "\n") || len(val) > o.width()-width-6 {
			var buf bytes.Buffer
			if len(m[k]) > 0 && (m[k][0] == '{' || m[k][0] == '[') && json.Indent(&buf, m[k], "", "  ") == nil {
				val = buf.String()
			}
			fmt.Fprintf(&b, "  %s\n    %s\n", line(k), indentAfter(Clean(val), "    "))
			continue
		}
		fmt.Fprintf(&b, "  %-*s  %s\n", width, line(k), Clean(val))
	}
	return b.String()
}

// PlainValue writes a JSON value for people: a string without its quotes, a
// secret as its reference, anything else as compact JSON.
func PlainValue(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var secret struct {
		Ref string `json:"$secret"`
	}
	if json.Unmarshal(raw, &secret) == nil && secret.Ref != "" {
		return "secret " + secret.Ref
	}
	var buf bytes.Buffer
	if json.Compact(&buf, raw) != nil {
		return string(raw)
	}
	return buf.String()
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}

func indentAfter(s, indent string) string { return strings.ReplaceAll(s, "\n", "\n"+indent) }
