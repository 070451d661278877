package action

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReference(t *testing.T) {
	type in struct {
		Path  string            `json:"path" jsonschema:"where | to write"`
		Owner string            `json:"owner,omitempty" jsonschema:"who owns it" default:"root"`
		On    string            `json:"on,omitempty" jsonschema:"when" enum:"now,later"`
		Env   map[string]Secret `json:"env,omitempty" jsonschema:"environment"`
		Parts []inner           `json:"parts,omitempty" jsonschema:"pieces"`
	}
	b := New(Def[in, inner]{Name: "host.b.write", Summary: "Write it", Details: "More of it.\n", Timeout: 90 * time.Minute,
		Example:    "\n- action: host.b.write\n  with: { path: /a }\n",
		Do:         func(context.Context, in) (inner, error) { return inner{}, nil },
		Compensate: func(context.Context, in, *inner) error { return nil }})
	a := New(Def[struct{}, struct{}]{Name: "a.read", Summary: "Read it", Do: do[struct{}]})

	page := string(Reference([]Info{b.Info, a.Info}))
	_, page, _ = strings.Cut(page, "| action |")
	page, _, _ = strings.Cut(page, "## Kinds")
	want := `| action | | rollback |
| --- | --- | --- |
| [!a.read!](#aread) | Read it |  |
| [!host.b.write!](#hostbwrite) | Write it | yes |

## a.read

Read it.

One attempt may take 1h unless the step says !timeout:!. Has nothing to take back: rollback passes it by, unless the step says !rollback:!.

## host.b.write

Write it.

More of it.

Runs on the step's targets. One attempt may take 1h30m unless the step says !timeout:!. Takes part in rollback.

| input | type | | if left out |
| --- | --- | --- | --- |
| !path! | !string! | where \| to write | required |
| !owner! | !string! | who owns it | root |
| !on! | !string! | when: !now!, !later! |  |
| !env! | !map<string>! | environment (*secret*) |  |
| !parts! | !list<object>! | pieces |  |
| !parts.path! | !string! | inner path | required |
| !parts.mode! | !int! | inner mode |  |

| output | type | | |
| --- | --- | --- | --- |
| !path! | !string! | inner path |  |
| !mode! | !int! | inner mode | may be absent |

!!!yaml
- action: host.b.write
  with: { path: /a }
!!!

`
	if diff := cmp.Diff(strings.ReplaceAll(want, "!", "`"), "| action |"+page); diff != "" {
		t.Errorf("page (-want +got):\n%s", diff)
	}
}

func TestKindsTableIsWhole(t *testing.T) {
	var want, got []string
	for _, k := range Kinds {
		again := "|"
		if k.Retryable() {
			again = "| yes |"
		}
		want = append(want, fmt.Sprintf("%s %s", k, again))
	}
	for line := range strings.Lines(kindsTable) {
		if strings.HasPrefix(line, "| `") {
			name := strings.Split(line, "`")[1]
			again := "|"
			if strings.HasSuffix(line, "| yes |\n") {
				again = "| yes |"
			}
			got = append(got, name+" "+again)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("kindsTable differs from Kinds (-want +got):\n%s", diff)
	}
}
