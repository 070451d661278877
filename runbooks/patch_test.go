package runbooks_test

import (
	"testing"

	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/patch"
	"github.com/almanac-run/almanac/runbooks"
)

// The baselines that runbooks have as a default are right: the compiler knows
// them as objects only.
func TestDefaultBaselines(t *testing.T) {
	found := 0
	for _, name := range runbooks.Names() {
		for _, in := range compiled(t, name).Inputs {
			if in.Name != "baseline" || in.Type.Kind != program.Object || len(in.Default) == 0 {
				continue
			}
			found++
			if _, err := patch.FromJSON(in.Default); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if found < 3 {
		t.Errorf("%d runbooks have a baseline", found)
	}
}
