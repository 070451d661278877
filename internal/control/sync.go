package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"golang.org/x/sync/errgroup"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/workflows"
)

// syncer brings the registry up to date with Systems Manager.
type syncer struct {
	client    client.Client
	lister    registry.Lister
	taskQueue string
	places    []action.Target
	list      func(ctx context.Context, place action.Target) ([]registry.Node, error)
	log       *slog.Logger
}

// atOnce is how many nodes are reported side by side.
const atOnce = 20

// start sees to it that each place has its workflow.
func (s *syncer) start(ctx context.Context) error {
	for _, place := range s.places {
		_, err := s.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
			ID: workflows.SyncID(place), TaskQueue: s.taskQueue,
			WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
			StaticSummary:            "nodes of Systems Manager in " + place.Region,
		}, workflows.SyncType, place)
		if err != nil {
			return fmt.Errorf("keep the nodes of Systems Manager in %s: %w", place.Region, err)
		}
	}
	return nil
}

// sync is the activity workflows.ActionSync.
func (s *syncer) sync(ctx context.Context, _ string, place action.Target) (bool, error) {
	if !slices.Contains(s.places, place) {
		return false, nil
	}
	found, err := s.list(ctx, place)
	if err != nil {
		return true, err
	}
	known, err := s.lister.All(ctx, time.Now())
	if err != nil {
		return true, err
	}
	at := map[string]*registry.Node{}
	for i := range known {
		if known[i].Registration {
			at[known[i].ID] = &known[i].Node
		}
	}
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(atOnce)
	there := map[string]bool{}
	for _, n := range found {
		there[n.ID] = true
		if have := at[n.ID]; have == nil || have.Reach == registry.ReachSSM && !same(*have, n) {
			work.Go(func() error { return s.report(ctx, n) })
		}
	}
	for id, n := range at {
		// What Systems Manager does not list any more is gone: it keeps what is only away.
		if n.Reach == registry.ReachSSM && n.Region == place.Region && n.Role == place.Role && (place.Account == "" || n.Account == place.Account) && !there[id] {
			work.Go(func() error {
				err := s.client.TerminateWorkflow(ctx, registry.WorkflowID(id), "", "Systems Manager does not list it any more")
				var none *serviceerror.NotFound
				if errors.As(err, &none) {
					return nil
				}
				return err
			})
		}
	}
	return true, work.Wait()
}

// same tells whether a report would say nothing new. When a node was seen is not news as long as it is there.
func same(a, b registry.Node) bool {
	strip := func(n registry.Node) registry.Node {
		n.Registered, n.Reported, n.Compliance, n.PastBoots = time.Time{}, time.Time{}, nil, nil
		if n.Online {
			n.Seen = time.Time{}
		}
		n.Seen = n.Seen.UTC().Truncate(time.Second)
		if len(n.Tags) == 0 {
			n.Tags = nil
		}
		return n
	}
	return reflect.DeepEqual(strip(a), strip(b)) && sameFindings(a.Compliance, b.Compliance)
}

// sameFindings compares what was found with what is known of the same baselines.
func sameFindings(known, found []registry.Compliance) bool {
	for _, f := range found {
		if !slices.ContainsFunc(known, func(k registry.Compliance) bool {
			return k.Baseline == f.Baseline && k.Status == f.Status && k.Failed == f.Failed && k.RebootPending == f.RebootPending && reflect.DeepEqual(k.Missing, f.Missing)
		}) {
			return false
		}
	}
	return true
}

// report tells the registry what a node is and what it comes to.
func (s *syncer) report(ctx context.Context, n registry.Node) error {
	activity.RecordHeartbeat(ctx)
	findings := n.Compliance
	n.Compliance = nil
	_, err := s.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: registry.WorkflowID(n.ID), TaskQueue: s.taskQueue,
		WorkflowIDConflictPolicy:                 enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		Memo:                                     map[string]any{registry.Memo: n},
		TypedSearchAttributes:                    temporal.NewSearchAttributes(temporal.NewSearchAttributeKeyKeyword(registry.AttrCompliance).ValueSet(registry.Unknown)),
		StaticSummary:                            "node " + n.ID,
	}, registry.WorkflowType, n)
	var already *serviceerror.WorkflowExecutionAlreadyStarted
	if errors.As(err, &already) {
		update, uerr := s.client.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
			WorkflowID: registry.WorkflowID(n.ID), UpdateName: registry.UpdateReport, Args: []any{n}, WaitForStage: client.WorkflowUpdateStageCompleted,
		})
		if err = uerr; err == nil {
			err = update.Get(ctx, nil)
		}
	}
	if err != nil {
		return fmt.Errorf("node %s: %w", n.ID, err)
	}
	for _, c := range findings {
		if err := s.client.SignalWorkflow(ctx, registry.WorkflowID(n.ID), "", registry.SignalFacts, c); err != nil {
			return fmt.Errorf("node %s: %w", n.ID, err)
		}
	}
	return nil
}
