package control

import (
	"slices"
	"testing"

	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/workflows"
)

func TestActionsAreNamedOnce(t *testing.T) {
	var names []string
	for _, info := range Actions() {
		if slices.Contains(names, info.Name) {
			t.Errorf("two actions %s", info.Name)
		}
		names = append(names, info.Name)
	}
	for _, want := range []string{"host.command.run", "host.file.write", "http.request"} {
		if !slices.Contains(names, want) {
			t.Errorf("no action %s in %v", want, names)
		}
	}
	for _, a := range controlActions(nil) {
		if a.OnNode() {
			t.Errorf("%s is served by the control worker, but is an action of nodes", a.Name)
		}
	}
}

// A mistake in the definition of an action panics when it is made.
func TestInternalActions(t *testing.T) {
	if a := nodesAction(registry.Lister{}); a.Name != workflows.ActionNodes {
		t.Errorf("action %s", a.Name)
	}
}
