package control

import (
	"testing"

	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/workflows"
)

// A mistake in the definition of an action panics when it is made.
func TestInternalActions(t *testing.T) {
	if a := nodesAction(registry.Lister{}, nil); a.Name != workflows.ActionNodes {
		t.Errorf("action %s", a.Name)
	}
}
