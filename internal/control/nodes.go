package control

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/internal/ssmnode"
	"github.com/almanac-run/almanac/workflows"
)

// nodesAction is the activity by which the interpreter finds nodes: all of them
// for a condition, or how those are reached that a step names. It is served like
// an action, but runbooks do not have it. find looks for a node that the
// registry does not know yet; nil if it is nowhere.
func nodesAction(lister registry.Lister, find func(context.Context, string) (*registry.Node, error)) action.Action {
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
			if q.IDs == nil {
				return workflows.PackNodes(all, q.After)
			}
			asked := []registry.Listed{}
			for _, id := range q.IDs {
				i := slices.IndexFunc(all, func(n registry.Listed) bool { return n.ID == id })
				if i >= 0 {
					asked = append(asked, all[i])
					continue
				}
				n, err := find(ctx, id)
				if err != nil {
					return workflows.NodesPage{}, err
				}
				if n != nil {
					asked = append(asked, registry.Listed{Node: *n, Alive: n.Online})
				}
			}
			return workflows.PackNodes(asked, "")
		},
	})
}

// finder looks for a node in the places that the worker is set up for.
func finder(o Options) func(context.Context, string) (*registry.Node, error) {
	if o.AWS == nil || len(o.SSM) == 0 {
		return func(context.Context, string) (*registry.Node, error) { return nil, nil }
	}
	var scopes []awsapi.Scope
	for _, p := range o.SSM {
		scopes = append(scopes, scope(p))
	}
	return func(ctx context.Context, id string) (*registry.Node, error) {
		return ssmnode.Find(ctx, o.AWS, scopes, id)
	}
}

func scope(p action.Target) awsapi.Scope {
	return awsapi.Scope{Region: p.Region, Role: p.Role, Account: p.Account}
}

// listNodes lists the nodes that Systems Manager knows in a place.
func listNodes(caller awsapi.Caller) func(context.Context, action.Target) ([]registry.Node, error) {
	return func(ctx context.Context, place action.Target) ([]registry.Node, error) {
		if caller == nil { // not an empty list: what is not listed is taken for gone
			return nil, errors.New("this worker has no access to AWS")
		}
		var found []registry.Node
		err := ssmnode.List(ctx, caller, scope(place), func(n registry.Node) {
			found = append(found, n)
			activity.RecordHeartbeat(ctx) // thousands take minutes
		})
		return found, err
	}
}
