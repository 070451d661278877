package workflows_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/almanac-run/almanac/internal/trace"
)

// TestTooLarge holds what a message of 2 MB cannot: the state of a loop with
// large results goes on without continue-as-new, and outputs that do not fit
// fail the execution while it can still be taken back, instead of wedging it.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	runbook := `
runbook: test/large
inputs:
  items: { type: list<int> }
steps:
  - id: all
    for_each: ${{ inputs.items }}
    steps:
      - { id: one, action: test.make, with: { name: "${{ string(item) }}" } }
    outputs: { id: "${{ steps.one.id }}" }
outputs:
  %s
`
	items, _ := json.Marshal(map[string]any{"items": make([]int, 40)})
	random := rand.NewChaCha8([32]byte{1})
	for outputs, want := range map[string]string{
		"count: ${{ size(steps.all.results) }}": "output count = 40",
		"all: ${{ steps.all.results }}":         "over the limit",
	} {
		play := trace.Play{
			Program: compileTest(t, fmt.Sprintf(runbook, outputs), nil),
			Inputs:  string(items),
			Cut:     true,
			Answer: func(_ context.Context, _, _ string, _ json.RawMessage) (json.RawMessage, error) {
				b := make([]byte, 60<<10)
				_, _ = random.Read(b)
				return json.Marshal(map[string]any{"id": base64.StdEncoding.EncodeToString(b), "size": 1})
			},
		}
		got := play.Run(t)
		end := got[max(0, len(got)-300):]
		if !strings.Contains(end, want) {
			t.Errorf("outputs %s: the trace ends with %q, want %q", outputs, end, want)
		}
		if n := strings.Count(got, "compensate:"); strings.Contains(want, "limit") && n != 40 {
			t.Errorf("outputs %s: %d compensations, want 40", outputs, n)
		}
	}
}
