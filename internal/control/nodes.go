package control

import (
	"context"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/workflows"
)

// nodesAction is the activity by which the interpreter finds the nodes that
// conditions are about. It is served like an action, but runbooks do not have it.
func nodesAction(lister registry.Lister) action.Action {
	return action.New(action.Def[workflows.NodesQuery, workflows.NodesPage]{
		Name:    workflows.ActionNodes,
		Summary: "List the nodes of the registry",
		Timeout: 30 * time.Second,
		Do: func(ctx context.Context, q workflows.NodesQuery) (workflows.NodesPage, error) {
			// The clock of this machine only judges how old signs of life are.
			all, err := lister.All(ctx, time.Now())
			if err != nil {
				return workflows.NodesPage{}, action.Errorf(action.Unavailable, "%w", err)
			}
			return workflows.PackNodes(all, q.After)
		},
	})
}
