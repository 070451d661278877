package node

import (
	"context"
	"errors"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/internal/journal"
	"github.com/almanac-run/almanac/internal/output"
	"github.com/almanac-run/almanac/internal/output/retain"
	"github.com/almanac-run/almanac/internal/output/ship"
)

// keepWithin is how long outputs may be on their way to the central store until they are sent anew.
const keepWithin = 6 * time.Hour

// UsualOutputs is how long outputs are kept unless it is said otherwise: as long as entries of the journal, and 10 GiB at most.
var UsualOutputs = retain.Limits{Keep: retain.Age(journal.Keep), Most: 10 << 30}

// own are the node's outputs: nodes may share a directory.
func own(o Options) func(ref string) bool {
	return func(ref string) bool { return output.OfTarget(ref, o.ID) }
}

// newShipper brings the node's outputs to the central store, by the control worker: a node has no
// credentials of the store.
func newShipper(o Options, r *registrar) *ship.Shipper {
	send := func(ctx context.Context, outputs []output.Kept) (output.KeepOutput, error) {
		var out output.KeepOutput
		err := r.handOver(ctx, "output", "outputs", keepWithin, output.ActivityKeep, output.KeepInput{Outputs: outputs}, &out)
		var no *temporal.ApplicationError
		var inside *temporal.ActivityError
		if errors.As(err, &no) && !errors.As(err, &inside) && no.Type() == string(action.Invalid) {
			return output.KeepOutput{Off: true}, nil // of a control worker that is older than the central store
		}
		return out, err
	}
	return ship.New(output.Dir(o.OutputDir), own(o), send, o.Logger.With("node", o.ID))
}

// removeOutputs removes outputs of this node that have been kept for long enough.
func removeOutputs(ctx context.Context, o Options) {
	removed, err := retain.Once(ctx, output.Dir(o.OutputDir).Own(own(o)), o.Outputs, time.Now())
	if err != nil && ctx.Err() == nil {
		o.Logger.Warn("old outputs remain", "node", o.ID, "error", err)
	}
	if removed.Outputs > 0 {
		o.Logger.Info("old outputs were removed", "node", o.ID, "outputs", removed.Outputs, "bytes", removed.Bytes)
	}
}

// endings tells when an activity has ended: there may be an output.
type endings struct {
	interceptor.WorkerInterceptorBase
	tell func()
}

func (e *endings) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	return &ending{interceptor.ActivityInboundInterceptorBase{Next: next}, e}
}

type ending struct {
	interceptor.ActivityInboundInterceptorBase
	e *endings
}

func (a *ending) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	if activity.GetInfo(ctx).ActivityType.Name != host.OutputRead {
		defer a.e.tell()
	}
	return a.Next.ExecuteActivity(ctx, in)
}
