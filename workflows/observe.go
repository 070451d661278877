package workflows

import (
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/lang/program"
)

// Observer is told of the steps of an execution and of its children as they are
// taken up (StateRunning), skipped (StateSkipped), or their error was handled
// (StateHandled). Rehearsals use it to tell what was never reached; it must not
// change anything.
type Observer func(runbook string, s *program.Step, path, state string)

type observerKey struct{}

// WithObserver returns a context under which Runbook tells o.
func WithObserver(ctx workflow.Context, o Observer) workflow.Context {
	return workflow.WithValue(ctx, observerKey{}, o)
}

// observe tells the run's observer, if it has one.
func (r *run) observe(sc *scope, s *program.Step, path, state string) {
	if r.observer != nil {
		r.observer(sc.prog.Runbook, s, path, state)
	}
}
