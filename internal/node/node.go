// Package node is the body of a node's agent.
//
// It gives Run, which serves the actions of package host on the node's own
// task queue, and ExecMain, which a program that calls Run has to call first. It promises that
// commands go on when Run ends, and to serve nothing but its own node. It
// refuses to know the control worker, and needs no connection but the one it is given.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/worker"

	"github.com/almanac-run/almanac/activities"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/internal/command"
	"github.com/almanac-run/almanac/internal/journal"
	"github.com/almanac-run/almanac/internal/output/retain"
	"github.com/almanac-run/almanac/internal/registry"
)

// Options say which node it is. ID, StateDir and Client are required.
type Options struct {
	Client    client.Client
	ID        string        // up to 128 of letters, digits, '.', '_' and '-'
	Root      string        // directory that stands for the whole machine; empty: the machine
	StateDir  string        // journal and backups; of this node alone
	OutputDir string        // complete output of commands; empty: "output" in StateDir
	MaxOutput int64         // bytes that are kept of one command's output; 0: 1 GiB
	Outputs   retain.Limits // how long outputs are kept, and how many; zero: for ever, all
	Tags      map[string]string
	Logger    *slog.Logger // nil: slog.Default

	// Converter is that of Client, which reads what the registry has of the node; nil: the SDK's default.
	Converter converter.DataConverter

	Namespace  string        // that of Client; empty: default
	TaskQueue  string        // of the control worker; empty: registry.TaskQueue
	ClockLimit time.Duration // by how much its clock may be off; 0: a minute

	// Region and Account say where in AWS the node is; empty: nowhere.
	Region, Account string

	// ServerAway tells of a server that does not answer whether that is its own trouble: then nobody has given up what
	// runs here. nil: never.
	ServerAway func() bool

	// Now is the node's clock; nil: the machine's.
	Now func() time.Time
}

// ClockLimit is by how much a node's clock may be off unless it is said otherwise.
const ClockLimit = time.Minute

// ExecMain must be the first call of main in a program that calls Run: commands
// are run by copies of that program, and ExecMain does their work and exits.
func ExecMain() { command.Main() }

var idForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// CheckID says what is wrong with the id of a node, if anything is.
func CheckID(id string) error {
	if !idForm.MatchString(id) {
		return fmt.Errorf("node id %q: want letters, digits, '.', '_' and '-', at most 128", id)
	}
	return nil
}

// Queue is the task queue of a node.
func Queue(id string) string { return "node/" + id }

// atOnce is how many actions a node works on at a time.
const atOnce = 100

// Run serves the node until ctx ends. It returns soon then: commands that run
// go on, and are found again by the next Run with the same StateDir.
func Run(ctx context.Context, o Options) error {
	if err := o.complete(); err != nil {
		return err
	}
	n := host.Node{
		ID: o.ID, Tags: maps.Clone(o.Tags), Version: Version(),
		Root: o.Root, StateDir: o.StateDir, OutputDir: o.OutputDir, MaxOutput: o.MaxOutput, Stopping: ctx.Done(), ServerAway: o.ServerAway,
	}
	// One state directory serves one agent.
	lock, err := journal.At(o.StateDir).TryLock("agent.lock")
	// What an agent was about to start when it was killed holds its lock for a moment.
	for range 30 {
		if !errors.Is(err, journal.ErrHeld) || !sleep(ctx, 100*time.Millisecond) {
			break
		}
		lock, err = journal.At(o.StateDir).TryLock("agent.lock")
	}
	switch {
	case errors.Is(err, journal.ErrHeld):
		return fmt.Errorf("node %s: another agent runs with the state directory %s; stop it first, or give this one another --id and --state-dir", o.ID, o.StateDir)
	case err != nil:
		return fmt.Errorf("node %s: %w", o.ID, err)
	}
	defer lock.Unlock()
	command.Ready()
	registrar, err := newRegistrar(o, n)
	if err != nil {
		return err
	}
	n.Report, n.Comply = registrar.inventory, registrar.comply
	if err := registrar.register(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("node %s: %w", o.ID, err)
	}
	outputs := newShipper(o, registrar)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	gaveUp := make(chan error, 1)
	w := worker.New(o.Client, Queue(o.ID), worker.Options{
		Interceptors:                       []interceptor.WorkerInterceptor{&clockGuard{limit: o.ClockLimit, now: o.Now, r: registrar}, &endings{tell: outputs.Due}},
		DisableWorkflowWorker:              true,
		MaxConcurrentActivityExecutionSize: atOnce,
		// A server serves a limited number of long polls: one for each node.
		MaxConcurrentActivityTaskPollers: 1,
		WorkerStopTimeout:                2 * time.Second,
		// The answer to a heartbeat tells that a step was cancelled: so late, at most.
		MaxHeartbeatThrottleInterval: 3 * time.Second,
		// The server has said for two minutes that there is no such namespace, and the SDK asks for no more
		// work. The service manager begins the agent anew.
		OnFatalError: func(err error) { gaveUp <- err; stop() },
	})
	activities.Register(w, append(host.Actions(n), host.ReadOutput(n)), activities.Options{Logger: o.Logger})
	if err := w.Start(); err != nil {
		if ctx.Err() != nil {
			return nil // told to stop while the server did not answer
		}
		return fmt.Errorf("node %s: %w", o.ID, err)
	}
	o.Logger.Info("node is ready", "node", o.ID, "state", o.StateDir, "root", o.Root)
	go expire(ctx, o, n, registrar)
	go outputs.Run(ctx)
	err = registrar.keep(ctx)
	select {
	case gone := <-gaveUp:
		err = fmt.Errorf("the server gives it no more work: %w", gone)
	default:
	}
	w.Stop()
	o.Logger.Info("node has stopped; commands go on", "node", o.ID)
	if err != nil {
		return fmt.Errorf("node %s: %w", o.ID, err)
	}
	return nil
}

func (o *Options) complete() error {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if err := CheckID(o.ID); err != nil {
		return err
	}
	if o.Namespace == "" {
		o.Namespace = client.DefaultNamespace
	}
	if o.TaskQueue == "" {
		o.TaskQueue = registry.TaskQueue
	}
	if o.ClockLimit == 0 {
		o.ClockLimit = ClockLimit
	}
	if o.Converter == nil {
		o.Converter = converter.GetDefaultDataConverter()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Client == nil || o.StateDir == "" {
		return errors.New("node: Client and StateDir are required")
	}
	if o.OutputDir == "" {
		o.OutputDir = filepath.Join(o.StateDir, "output")
	}
	var err error
	for _, dir := range []*string{&o.StateDir, &o.OutputDir, &o.Root} {
		if *dir == "" {
			continue
		}
		if *dir, err = filepath.Abs(*dir); err != nil {
			return fmt.Errorf("node %s: %w", o.ID, err)
		}
	}
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return fmt.Errorf("node %s: state directory: %w", o.ID, err)
	}
	info, err := os.Stat(o.StateDir)
	if err != nil {
		return fmt.Errorf("node %s: state directory: %w", o.ID, err)
	}
	// Who can write there decides what runs on the node.
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("node %s: others can write in the state directory %s; chmod 700 it", o.ID, o.StateDir)
	}
	if o.Root != "" {
		if info, err := os.Stat(o.Root); err != nil || !info.IsDir() {
			return fmt.Errorf("node %s: the root directory %s is not there", o.ID, o.Root)
		}
	}
	return nil
}

// expire drops old entries of the journal and old outputs once an hour, until ctx ends.
func expire(ctx context.Context, o Options, n host.Node, r *registrar) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		if !r.wrong.Load() { // by a clock that is years ahead everything is old
			if _, err := n.Journal().Expire(time.Now(), journal.Keep); err != nil {
				o.Logger.Warn("old entries of the journal remain", "node", o.ID, "error", err)
			}
			removeOutputs(ctx, o)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Version is the version of this program, as it was built.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "devel"
	}
	return info.Main.Version
}
