package host

import (
	"context"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/patch"
)

// comply tells the registry what the node comes to against a baseline. It is
// told again with the next scan: so an error is not one of the step.
func (n Node) comply(ctx context.Context, r patch.Report) {
	if n.Comply != nil {
		_ = n.Comply(ctx, Finding(ctx, r))
	}
}

// Finding is a report as the registry keeps it.
func Finding(ctx context.Context, r patch.Report) registry.Compliance {
	c := registry.Compliance{
		Baseline: r.Baseline, Status: r.Status, Failed: r.Failed, RebootPending: r.RebootPending, Message: r.Why,
		Missing: map[string]int{}, Execution: action.FromContext(ctx).Execution,
	}
	for severity, n := range r.MissingBySeverity {
		if n > 0 {
			c.Missing[severity] = n
		}
	}
	return c
}
