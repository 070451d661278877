// Package serve is the control worker's side of the inventory.
//
// It gives Activities, which store what nodes report and answer the command line's
// questions, one activity for each. It promises that an answer fits into a Temporal
// payload: a long one comes in parts, each with the cursor of the next. It refuses to know
// how they are called, and how the store keeps things.
package serve

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/inventory"
	"github.com/almanac-run/almanac/internal/inventory/store"
)

// answerIn bounds one answer: a question that takes longer is to be put more narrowly.
const answerIn = 2 * time.Minute

// Activities returns the activities that work on a store. tell is told of each
// finding about compliance that is to be kept; nil: nobody is.
func Activities(st *store.Store, tell func(context.Context, inventory.Compliance) error) []action.Action {
	return []action.Action{
		keep(st),
		show(st),
		diff(st),
		query(st),
		check(st, tell),
		forget(st),
		compliance(st),
		complianceHistory(st),
	}
}

// storeError gives an error its kind: what the store says of the question cannot be helped by
// asking again, and everything else may be a database that is not there for a moment.
func storeError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNoNode):
		return action.Errorf(action.NotFound, "%w; it is known once a runbook has run host.inventory.collect on it", err)
	case errors.Is(err, store.ErrCursor), errors.Is(err, store.ErrQuestion):
		return &action.Error{Kind: action.Invalid, Err: err}
	}
	return &action.Error{Kind: action.Unavailable, Err: err}
}

func keep(st *store.Store) action.Action {
	return action.New(action.Def[inventory.StoreInput, inventory.StoreOutput]{
		Name:    inventory.ActivityStore,
		Summary: "Keep what a node reports",
		Timeout: answerIn,
		Do: func(ctx context.Context, in inventory.StoreInput) (inventory.StoreOutput, error) {
			out := inventory.StoreOutput{Missing: []string{}}
			snap, err := inventory.Decode(in.Snapshot)
			if err != nil {
				return out, action.Errorf(action.Invalid, "inventory: %w", err)
			}
			// A server that knows its callers lets a node begin only what bears its name.
			if from := action.FromContext(ctx).Execution; strings.HasPrefix(from, "tell/") && !strings.HasPrefix(from, "tell/"+snap.Node+"/") {
				return out, action.Errorf(action.Denied, "a report about node %s that another has sent", snap.Node)
			}
			err = st.Record(ctx, snap)
			var missing *inventory.MissingError
			if errors.As(err, &missing) {
				out.Missing = missing.Sections
				return out, nil
			}
			return out, storeError(err)
		},
	})
}

func show(st *store.Store) action.Action {
	return action.New(action.Def[inventory.ShowInput, inventory.NodePage]{
		Name:    inventory.ActivityShow,
		Summary: "Say what a node has, or had",
		Timeout: answerIn,
		Do: func(ctx context.Context, in inventory.ShowInput) (inventory.NodePage, error) {
			page, err := st.Node(ctx, in.Node, in.At, in.Kinds, in.Cursor)
			return page, storeError(err)
		},
	})
}

func diff(st *store.Store) action.Action {
	return action.New(action.Def[inventory.DiffInput, inventory.DiffPage]{
		Name:    inventory.ActivityDiff,
		Summary: "Say what changed on a node",
		Timeout: answerIn,
		Do: func(ctx context.Context, in inventory.DiffInput) (inventory.DiffPage, error) {
			page, err := st.Diff(ctx, in.Node, in.Since, in.Until, in.Kinds, in.Cursor)
			return page, storeError(err)
		},
	})
}

func query(st *store.Store) action.Action {
	return action.New(action.Def[inventory.QueryInput, inventory.QueryPage]{
		Name:    inventory.ActivityQuery,
		Summary: "Find items of all nodes by a condition",
		Timeout: answerIn,
		Do: func(ctx context.Context, in inventory.QueryInput) (inventory.QueryPage, error) {
			if in.Limit == 0 {
				in.Limit = 1000
			}
			page, err := st.Query(ctx, in.Query, in.Limit, in.Cursor)
			return page, storeError(err)
		},
	})
}

func check(st *store.Store, tell func(context.Context, inventory.Compliance) error) action.Action {
	return action.New(action.Def[inventory.CheckInput, inventory.CheckPage]{
		Name:    inventory.ActivityCheck,
		Summary: "Check rules on all nodes",
		Timeout: answerIn,
		Do: func(ctx context.Context, in inventory.CheckInput) (inventory.CheckPage, error) {
			if in.Baseline == "" || len(in.Rules) == 0 {
				return inventory.CheckPage{}, action.Errorf(action.Invalid, "a check needs a baseline and rules")
			}
			page, err := st.Check(ctx, in.Baseline, in.Rules, in.Record, in.Cursor)
			if err != nil || !in.Record || tell == nil {
				return page, storeError(err)
			}
			for _, n := range page.Nodes {
				if err := tell(ctx, n.Compliance); err != nil {
					return page, action.Errorf(action.Unavailable, "the registry was not told of %s: %w", n.Node, err)
				}
			}
			return page, nil
		},
	})
}

func forget(st *store.Store) action.Action {
	return action.New(action.Def[inventory.ForgetInput, inventory.Forgotten]{
		Name:    inventory.ActivityForget,
		Summary: "Forget what is known of a node, its compliance too",
		Timeout: answerIn,
		Do: func(ctx context.Context, in inventory.ForgetInput) (inventory.Forgotten, error) {
			return inventory.Forgotten{}, storeError(st.Forget(ctx, in.Node))
		},
	})
}

func compliance(st *store.Store) action.Action {
	return action.New(action.Def[inventory.ComplianceInput, inventory.CompliancePage]{
		Name:    inventory.ActivityCompliance,
		Summary: "Say how nodes stand to baselines",
		Timeout: answerIn,
		Do: func(ctx context.Context, in inventory.ComplianceInput) (inventory.CompliancePage, error) {
			page, err := st.Compliance(ctx, store.ComplianceFilter{Nodes: in.Nodes, Baseline: in.Baseline, Status: in.Status, Cursor: in.Cursor})
			return page, storeError(err)
		},
	})
}

func complianceHistory(st *store.Store) action.Action {
	return action.New(action.Def[inventory.ComplianceHistoryInput, inventory.ComplianceDays]{
		Name:    inventory.ActivityComplianceHistory,
		Summary: "Say how the fleet stood to baselines, day by day",
		Timeout: answerIn,
		Do: func(ctx context.Context, in inventory.ComplianceHistoryInput) (inventory.ComplianceDays, error) {
			days, err := st.ComplianceHistory(ctx, in.Since, in.Baseline)
			return inventory.ComplianceDays{Days: days}, storeError(err)
		},
	})
}
