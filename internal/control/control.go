// Package control is the body of the control worker.
//
// It gives Run, which runs executions and the actions that need no node, those of nodes that only
// Systems Manager reaches, the registry and the inventory. It refuses to know the
// compiler and the command line.
package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/worker"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities"
	"github.com/almanac-run/almanac/activities/aws"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/awssecret"
	"github.com/almanac-run/almanac/internal/catalog"
	"github.com/almanac-run/almanac/internal/inventory/serve"
	"github.com/almanac-run/almanac/internal/inventory/store"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/internal/secret"
	"github.com/almanac-run/almanac/internal/ssmnode"
	"github.com/almanac-run/almanac/workflows"
)

// Options of a control worker. Client is required.
type Options struct {
	Client    client.Client
	TaskQueue string // empty: workflows.TaskQueue
	Logger    *slog.Logger
	Namespace string // that of Client; empty: default

	// Converter is that of Client, which reads what nodes reported; nil: the SDK's default.
	Converter converter.DataConverter

	// Deployment and BuildID are the version of this worker among others of the same
	// name: see docs/upgrades.md. Without a name it has none.
	Deployment, BuildID string

	// StopTimeout is how long actions that run may take to end when the worker
	// stops; 0 is thirty seconds. What is then unfinished is reported lost, and
	// tried again by the next worker.
	StopTimeout time.Duration

	// Watchers are told of what ends, and Interceptors see what is asked of the worker.
	Watchers     []workflows.Watcher
	Interceptors []interceptor.WorkerInterceptor

	// Ready is called when the worker has begun to take work; may be nil.
	Ready func()

	AWS awsapi.Caller // nil: the actions of aws. are denied, and what AWS keeps of secrets

	// Inventory is where the inventory and the compliance of nodes are kept: a
	// file of SQLite, or a connection string of PostgreSQL. Empty: nowhere.
	Inventory string

	// Keep is how long the inventory remembers what is no more; 0 is forever.
	Keep time.Duration

	// SSM are the places in AWS whose nodes are reached through Systems Manager.
	SSM []action.Target

	// Output is where such nodes put long output, and OutputDir the output store it is brought to.
	Output    aws.Place
	OutputDir string

	// Central is where outputs are brought when they have ended, those of all nodes.
	Central Central
}

// secrets resolves references of AWS by its caller, if there is one, and others here.
func secrets(caller awsapi.Caller) func(context.Context, string) (string, error) {
	if caller == nil {
		return secret.Resolve
	}
	return awssecret.Resolver{Caller: caller, Next: secret.Resolve}.Resolve
}

// DefaultStopTimeout is the usual Options.StopTimeout.
const DefaultStopTimeout = 30 * time.Second

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
	o.StopTimeout = cmp.Or(o.StopTimeout, DefaultStopTimeout)
	version, err := o.version()
	if err != nil {
		return err
	}
	cut := &running{}
	gaveUp := make(chan error, 1)
	w := worker.New(o.Client, o.TaskQueue, worker.Options{
		DeploymentOptions:                      version,
		MaxConcurrentActivityExecutionSize:     200,
		MaxConcurrentWorkflowTaskExecutionSize: 100,
		// After a worker has died its executions wait so long for its return.
		StickyScheduleToStartTimeout: 5 * time.Second,
		WorkerStopTimeout:            o.StopTimeout,
		Interceptors:                 append(o.Interceptors, cut),
		// The answer to a heartbeat tells that a step was cancelled: so late, at most.
		MaxHeartbeatThrottleInterval: 3 * time.Second,
		OnFatalError:                 func(err error) { gaveUp <- err },
	})
	workflows.Register(w, o.Watchers...)
	lister := registry.Lister{Service: o.Client.WorkflowService(), Namespace: o.Namespace, Converter: o.Converter}
	served := activities.Options{Logger: o.Logger, Secrets: secrets(o.AWS)}
	find := finder(o)
	env := aws.Env{Caller: o.AWS, Nodes: func(ctx context.Context) ([]registry.Listed, error) { return lister.All(ctx, time.Now()) }}
	activities.Register(w, append(catalog.Control(env), nodesAction(lister, find)), served)
	kept := keeper{client: o.Client}
	central, closeCentral, err := openCentral(ctx, o.Central, o.Logger)
	if err != nil {
		return err
	}
	defer closeCentral()
	outputs := newArchivist(ctx, o, central)
	local := outputs.local()
	remote := ssmnode.Env{AWS: env, Output: o.Output, OutputDir: o.OutputDir, Comply: kept.signal, Kept: local.Due}
	if o.Inventory != "" {
		st, err := store.Open(ctx, o.Inventory)
		if err != nil {
			return err
		}
		defer st.Close()
		kept.store, remote.Report = st, st.Record
		activities.Register(w, serve.Activities(st, kept.tell), served)
		go expire(ctx, st, o)
	}
	activities.RegisterRemote(w, ssmnode.Actions(remote), served)
	activities.Register(w, []action.Action{outputs.read(), outputs.action()}, served)
	go outputs.run(ctx, local)
	w.RegisterActivityWithOptions(kept.recordCompliance, activity.RegisterOptions{Name: workflows.ActionRecordCompliance})
	Locks(w, o.Client)
	sync := &syncer{client: o.Client, lister: lister, taskQueue: o.TaskQueue, places: o.SSM, list: listNodes(o.AWS), log: o.Logger}
	w.RegisterActivityWithOptions(sync.sync, activity.RegisterOptions{Name: workflows.ActionSync})
	if err := w.Start(); err != nil {
		if ctx.Err() != nil {
			return nil // told to stop while the server did not answer
		}
		return fmt.Errorf("control worker: %w", err)
	}
	if err := sync.start(ctx); err != nil {
		w.Stop()
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	o.Logger.Info("control worker is ready", "task_queue", o.TaskQueue)
	if version.UseVersioning {
		o.Logger.Info("this worker has a version: new executions come to it once that is current (starter versions use)", "deployment", o.Deployment, "build", o.BuildID)
	}
	if o.Ready != nil {
		o.Ready()
	}
	err = untilStopped(ctx, gaveUp)
	o.Logger.Info("control worker stops", "actions", cut.count(), "stop_timeout", o.StopTimeout)
	w.Stop()
	cut.wait(reportWithin)
	o.Logger.Info("control worker has stopped")
	return err
}
