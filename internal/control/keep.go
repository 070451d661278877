package control

import (
	"context"
	"errors"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/almanac-run/almanac/internal/inventory"
	"github.com/almanac-run/almanac/internal/inventory/store"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/workflows"
)

// keeper keeps what the registry tells over time.
type keeper struct {
	client client.Client
	store  *store.Store // nil: the registry is all there is
}

// recordCompliance is the activity workflows.ActionRecordCompliance. Of what it
// is told twice the store keeps one.
func (k keeper) recordCompliance(ctx context.Context, _ string, c workflows.ComplianceRecord) error {
	if k.store == nil {
		return nil
	}
	return k.store.RecordCompliance(ctx, inventory.Compliance{
		Node: c.Node, Baseline: c.Baseline, Status: inventory.Status(c.Status), Since: c.Since, At: c.At, RebootPending: c.RebootPending,
		Missing: missing(c.Missing),
	})
}

func missing(counts map[string]int) inventory.Missing {
	m := inventory.Missing{Critical: counts["critical"], Important: counts["important"], Moderate: counts["moderate"], Low: counts["low"]}
	for severity, n := range counts {
		switch severity {
		case "critical", "important", "moderate", "low":
		default:
			m.Other += n
		}
	}
	return m
}

// tell tells the registry what the inventory's rules have found. A node that the
// registry does not know has its finding in the store only.
func (k keeper) tell(ctx context.Context, c inventory.Compliance) error {
	finding := registry.Compliance{Baseline: c.Baseline, Status: string(c.Status), RebootPending: c.RebootPending, Missing: map[string]int{}}
	if c.Status == inventory.Undecided {
		return nil
	}
	for severity, n := range map[string]int{"critical": c.Missing.Critical, "important": c.Missing.Important, "moderate": c.Missing.Moderate, "low": c.Missing.Low, "other": c.Missing.Other} {
		if n > 0 {
			finding.Missing[severity] = n
		}
	}
	return k.signal(ctx, c.Node, finding)
}

func (k keeper) signal(ctx context.Context, node string, c registry.Compliance) error {
	err := k.client.SignalWorkflow(ctx, registry.WorkflowID(node), "", registry.SignalFacts, c)
	var none *serviceerror.NotFound
	if errors.As(err, &none) {
		return nil
	}
	return err
}

// expire drops what the inventory has kept for long enough, once a day until ctx ends.
func expire(ctx context.Context, st *store.Store, o Options) {
	if o.Keep <= 0 {
		return
	}
	tick := time.NewTicker(24 * time.Hour)
	defer tick.Stop()
	for {
		if err := st.Expire(ctx, o.Keep); err != nil && ctx.Err() == nil {
			o.Logger.Warn("old entries of the inventory remain", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
