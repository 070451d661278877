package authorizer

import (
	"slices"
	"testing"

	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/workflows"
)

// The names that the rules go by are those of the programs.
func TestNames(t *testing.T) {
	for have, want := range map[string]string{
		nodeType: registry.WorkflowType, askType: workflows.AskType, tellType: workflows.TellType, syncType: workflows.SyncType, lockType: workflows.LockType,
		nodePrefix: registry.WorkflowID(""), slotPrefix: workflows.SlotsID(""), nodeAttribute: registry.AttrCompliance,
		outputPrefix: "ask/" + workflows.ActionReadOutput + "/",
	} {
		if have != want {
			t.Errorf("%q, and the programs say %q", have, want)
		}
	}
	if !slices.Contains(own, nodePrefix) || workflows.NodeQueue("") != nodePrefix {
		t.Errorf("queues of nodes begin with %q", workflows.NodeQueue(""))
	}
}
