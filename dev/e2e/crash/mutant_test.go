package crash

import (
	"context"
	"testing"

	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/workflow"

	enumspb "go.temporal.io/api/enums/v1"
)

// plant is a bug in a process of its own, of a kind that has been made before by somebody.
type plant struct {
	token     bool   // a token of its own for each attempt
	swallow   string // the compensation of that thing reports success and does nothing
	gone      bool   // a compensation takes "I do not find it" for "it is gone"
	lazy      bool   // an action reports success and does nothing
	mild      bool   // an action that fails reports success
	shadow    bool   // an effect that is in no history
	keeps     bool   // a lock is never given back
	orphans   bool   // a child is left alone when its caller is cancelled
	forgetful bool   // an agent that was restarted does not know what it has run
	deaf      bool   // an agent says that a command is cancelled, and lets it run
	stays     bool   // a node keeps a file that was to be as it was
}

var planted plant

// mutant is a plant, the run that shows it, and what the checks have to say.
type mutant struct {
	plant
	bug     string
	subject string
	at      string // "kill POINT", "cancel POINT", or empty: nothing happens
	caught  string // is in one of the violations
	events  int    // after so many the server suggests to continue as new; 0: its usual number

	build func(*testing.T) string // makes the program of the worker, where the bug is in code of the product; nil: this one
}

// mutants by name. The others are in mutants_test.go.
var mutants = map[string]mutant{
	"":        {},
	"token":   {plant: plant{token: true}, bug: "a token of its own for each attempt", subject: "image", at: "kill effect make builder#1:after", caught: "make builder: 2 times, want 1"},
	"swallow": {plant: plant{swallow: "image"}, bug: "a compensation that reports success and does nothing", subject: "image", caught: "image is left"},
}

// settled is a future of something that is not done.
func settled(ctx workflow.Context) workflow.Future {
	f, set := workflow.NewFuture(ctx)
	set.SetValue(nil)
	return f
}

// abandon starts a child that does not hear of a cancellation, and does not wait for it then.
func abandon(ctx workflow.Context, next interceptor.WorkflowOutboundInterceptor, name string, args ...any) workflow.ChildWorkflowFuture {
	options := workflow.GetChildWorkflowOptions(ctx)
	options.ParentClosePolicy = enumspb.PARENT_CLOSE_POLICY_ABANDON
	calm, _ := workflow.NewDisconnectedContext(workflow.WithChildOptions(ctx, options))
	child := next.ExecuteChildWorkflow(calm, name, args...)
	f, set := workflow.NewFuture(ctx)
	workflow.Go(ctx, func(ctx workflow.Context) {
		_ = workflow.Await(ctx, child.IsReady)
		if ctx.Err() != nil {
			set.SetError(ctx.Err())
			return
		}
		set.Chain(child)
	})
	return alone{child, f}
}

type alone struct {
	workflow.ChildWorkflowFuture
	f workflow.Future
}

func (a alone) Get(ctx workflow.Context, into any) error { return a.f.Get(ctx, into) }
func (a alone) IsReady() bool                            { return a.f.IsReady() }

// deaf is in an agent: a cancelled command is reported as cancelled, and goes on.
type deaf struct {
	interceptor.InterceptorBase
}

func (d *deaf) InterceptActivity(ctx context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	i := &deafIn{}
	i.Next = next
	return i
}

type deafIn struct {
	interceptor.ActivityInboundInterceptorBase
}

func (i *deafIn) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	type answer struct {
		out any
		err error
	}
	done := make(chan answer, 1)
	go func() {
		out, err := i.Next.ExecuteActivity(context.WithoutCancel(ctx), in)
		done <- answer{out, err}
	}()
	select {
	case a := <-done:
		return a.out, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
