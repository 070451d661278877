package control

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/interceptor"
)

// reportWithin is how long what was cut off at a stop may take to be reported.
const reportWithin = 2 * time.Second

// untilStopped waits until ctx ends, or the SDK has given up: when the server has
// said for two minutes that there is no such namespace, it asks for no more work.
// The program must end then, so that its service manager begins it anew: it would
// say that it is ready for ever, and do nothing.
func untilStopped(ctx context.Context, gaveUp <-chan error) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-gaveUp:
		return fmt.Errorf("control worker: the server gives it no more work: %w", err)
	}
}

// running counts the activities that run, so that the worker does not end before
// those which it has cut off are reported: else the server would learn of them
// only by the silence of their heartbeats.
type running struct {
	interceptor.WorkerInterceptorBase
	n atomic.Int64
}

func (r *running) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	return &counted{interceptor.ActivityInboundInterceptorBase{Next: next}, r}
}

func (r *running) count() int64 { return r.n.Load() }

// wait waits until none runs, for so long at most, and a moment more for the report of the last.
func (r *running) wait(most time.Duration) {
	if r.n.Load() == 0 {
		return
	}
	for end := time.Now().Add(most); r.n.Load() > 0 && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	time.Sleep(most / 4)
}

type counted struct {
	interceptor.ActivityInboundInterceptorBase
	all *running
}

func (c *counted) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	c.all.n.Add(1)
	defer c.all.n.Add(-1)
	return c.Next.ExecuteActivity(ctx, in)
}
