// Package control is the body of the control worker.
//
// It gives Run, which runs executions and the actions that need no node, and
// Actions, everything a runbook can do. It promises that an action is in
// Actions if and only if some part of Almanac serves it. It refuses to know the
// compiler and the command line.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities"
	"github.com/almanac-run/almanac/activities/aws"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/activities/http"
	"github.com/almanac-run/almanac/activities/notify"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/awssecret"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/internal/secret"
	"github.com/almanac-run/almanac/workflows"
)

// Options of a control worker. Client is required.
type Options struct {
	Client    client.Client
	TaskQueue string // empty: workflows.TaskQueue
	Logger    *slog.Logger
	Namespace string        // that of Client; empty: default
	AWS       awsapi.Caller // nil: the actions of aws. are denied, and what AWS keeps of secrets
}

// Actions describes every action, in the order of the reference page.
func Actions() []action.Info {
	var infos []action.Info
	for _, a := range append(host.Actions(host.Node{}), controlActions(nil)...) {
		infos = append(infos, a.Info)
	}
	return infos
}

func controlActions(caller awsapi.Caller) []action.Action {
	return slices.Concat(http.Actions(), notify.Actions(), aws.Actions(aws.Env{Caller: caller}))
}

// secrets resolves references of AWS by its caller, if there is one, and others here.
func secrets(caller awsapi.Caller) func(context.Context, string) (string, error) {
	if caller == nil {
		return secret.Resolve
	}
	return awssecret.Resolver{Caller: caller, Next: secret.Resolve}.Resolve
}

// stopTimeout is how long actions may take to end when the worker stops: what
// is then unfinished is reported lost and tried again by the next worker.
const stopTimeout = 10 * time.Second

// Run serves until ctx ends.
func Run(ctx context.Context, o Options) error {
	if o.Client == nil {
		return errors.New("control worker: Client is required")
	}
	if o.TaskQueue == "" {
		o.TaskQueue = workflows.TaskQueue
	}
	if o.Namespace == "" {
		o.Namespace = client.DefaultNamespace
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	w := worker.New(o.Client, o.TaskQueue, worker.Options{
		MaxConcurrentActivityExecutionSize:     200,
		MaxConcurrentWorkflowTaskExecutionSize: 100,
		// After a worker has died its executions wait so long for its return.
		StickyScheduleToStartTimeout: 5 * time.Second,
		WorkerStopTimeout:            stopTimeout,
		// The answer to a heartbeat tells that a step was cancelled: so late, at most.
		MaxHeartbeatThrottleInterval: 3 * time.Second,
	})
	workflows.Register(w)
	lister := registry.Lister{Service: o.Client.WorkflowService(), Namespace: o.Namespace}
	activities.Register(w, append(controlActions(o.AWS), nodesAction(lister)), activities.Options{Logger: o.Logger, Secrets: secrets(o.AWS)})
	if err := w.Start(); err != nil {
		return fmt.Errorf("control worker: %w", err)
	}
	o.Logger.Info("control worker is ready", "task_queue", o.TaskQueue)
	<-ctx.Done()
	w.Stop()
	return nil
}
