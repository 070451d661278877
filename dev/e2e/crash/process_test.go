package crash

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/grpc"

	"github.com/almanac-run/almanac/activities"
	"github.com/almanac-run/almanac/dev/server"
	"github.com/almanac-run/almanac/internal/control"
	"github.com/almanac-run/almanac/internal/node"
	"github.com/almanac-run/almanac/workflows"
)

// The test binary plays the processes, too.
func TestMain(m *testing.M) {
	node.ExecMain() // an agent runs commands by copies of this program
	planted = mutants[os.Getenv("CRASH_MUTANT")].plant
	switch os.Getenv("CRASH_ROLE") {
	case "server":
		must(serverProcess())
	case "worker":
		must(workerProcess())
	case "agent":
		must(agentProcess())
	default:
		if everything() {
			go tellProgress()
		}
		code := m.Run()
		printFigures()
		os.Exit(code)
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// taskTimeout is how long a workflow task of a worker that was killed is waited for.
const taskTimeout = 3 * time.Second

func serverProcess() error {
	port, err := strconv.Atoi(os.Getenv("CRASH_PORT"))
	if err != nil {
		return err
	}
	dynamic := map[string]any{"history.defaultWorkflowTaskTimeout": taskTimeout.String()}
	if events, err := strconv.Atoi(os.Getenv("CRASH_EVENTS")); err == nil {
		dynamic["limit.historyCount.suggestContinueAsNew"] = events
		dynamic["history.workflowIdReuseMinimalInterval"] = "1ms"
	}
	if _, err = server.Start(context.Background(), server.Options{File: os.Getenv("CRASH_DB"), Port: port, Dynamic: dynamic}); err != nil {
		return err
	}
	select {}
}

// logger writes warnings into the log of the lane.
func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// dial connects a process that counts its reports.
func dial(w *world, role string, more ...interceptor.ClientInterceptor) (client.Client, error) {
	r := &reports{world: w, role: role, tasks: map[string]task{}}
	return client.Dial(client.Options{HostPort: os.Getenv("CRASH_ADDRESS"), Logger: log.NewStructuredLogger(logger()), Interceptors: more,
		ConnectionOptions: client.ConnectionOptions{DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(r.intercept)}}})
}

func workerProcess() error {
	w := &world{dir: os.Getenv("CRASH_DIR"), lane: os.Getenv("CRASH_LANE") + "-"}
	c, err := dial(w, "")
	if err != nil {
		return err
	}
	k := worker.New(c, os.Getenv("CRASH_LANE"), worker.Options{
		StickyScheduleToStartTimeout: time.Second, MaxHeartbeatThrottleInterval: 500 * time.Millisecond,
		MaxConcurrentActivityTaskPollers: 3, MaxConcurrentWorkflowTaskPollers: 3,
		Interceptors: []interceptor.WorkerInterceptor{&haste{}},
	})
	workflows.Register(k)
	control.Locks(k, c)
	activities.Register(k, w.actions(), activities.Options{Logger: logger()})
	return k.Run(nil)
}

func agentProcess() error {
	root, id := os.Getenv("CRASH_ROOT"), os.Getenv("CRASH_NODE")
	must(os.WriteFile(filepath.Join(root, "agent.pid"), []byte(strconv.Itoa(os.Getpid())), 0o644))
	state := filepath.Join(root, "state")
	if planted.forgetful {
		must(os.RemoveAll(filepath.Join(state, "journal")))
	}
	var more []interceptor.ClientInterceptor
	if planted.deaf {
		more = append(more, &deaf{})
	}
	c, err := dial(&world{dir: os.Getenv("CRASH_DIR"), lane: os.Getenv("CRASH_LANE") + "-"}, "agent ", more...)
	if err != nil {
		return err
	}
	return node.Run(context.Background(), node.Options{Client: c, ID: id, StateDir: state, Root: root, TaskQueue: os.Getenv("CRASH_LANE"),
		Logger: logger()})
}

// haste makes the interpreter notice sooner that somebody has died, so that
// thousands of deaths fit into an hour. It changes no order and no number of attempts. A
// node's agent may take longer to come back, since the machine is busy.
type haste struct {
	interceptor.WorkerInterceptorBase
}

func (h *haste) InterceptWorkflow(ctx workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	i := &hasteIn{}
	i.Next = next
	return i
}

type hasteIn struct {
	interceptor.WorkflowInboundInterceptorBase
}

func (i *hasteIn) Init(out interceptor.WorkflowOutboundInterceptor) error {
	o := &hasteOut{}
	o.Next = out
	return i.Next.Init(o)
}

type hasteOut struct {
	interceptor.WorkflowOutboundInterceptorBase
}

func (o *hasteOut) ExecuteActivity(ctx workflow.Context, name string, args ...any) workflow.Future {
	options := workflow.GetActivityOptions(ctx)
	if options.HeartbeatTimeout > 0 {
		options.HeartbeatTimeout = 2 * time.Second
		if options.ScheduleToStartTimeout > 0 { // on a node
			options.HeartbeatTimeout, options.ScheduleToStartTimeout = 4*time.Second, time.Minute
		}
	}
	if options.HeartbeatTimeout == 0 {
		// One that does not say that it is alive is waited for all its time.
		options.StartToCloseTimeout = min(options.StartToCloseTimeout, 5*time.Second)
	}
	if options.RetryPolicy != nil {
		policy := *options.RetryPolicy
		policy.InitialInterval = 100 * time.Millisecond
		policy.NonRetryableErrorTypes = append([]string(nil), policy.NonRetryableErrorTypes...)
		options.RetryPolicy = &policy
	}
	if planted.stays && name == workflows.CompensatePrefix+"host.file.write" {
		return settled(ctx)
	}
	return o.Next.ExecuteActivity(workflow.WithActivityOptions(ctx, options), name, args...)
}

func (o *hasteOut) SignalExternalWorkflow(ctx workflow.Context, id, run, signal string, arg any) workflow.Future {
	if m, ok := arg.(workflows.LockMessage); ok && planted.keeps && m.Verb == workflows.LockGive {
		return settled(ctx)
	}
	return o.Next.SignalExternalWorkflow(ctx, id, run, signal, arg)
}

func (o *hasteOut) ExecuteChildWorkflow(ctx workflow.Context, name string, args ...any) workflow.ChildWorkflowFuture {
	if planted.orphans {
		return abandon(ctx, o.Next, name, args...)
	}
	return o.Next.ExecuteChildWorkflow(ctx, name, args...)
}

// kept is a process that is started again whenever it dies.
type kept struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	current *exec.Cmd
	starts  int
}

func keep(exe, logFile string, env ...string) *kept {
	ctx, cancel := context.WithCancel(context.Background())
	k := &kept{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(k.done)
		for ctx.Err() == nil {
			cmd := exec.CommandContext(ctx, exe)
			cmd.Env = append(os.Environ(), env...)
			f, err := os.OpenFile(logFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
			must(err)
			cmd.Stderr, cmd.Stdout = f, f
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			k.mu.Lock()
			began := time.Now()
			err = cmd.Start()
			k.current, k.starts = cmd, k.starts+1
			k.mu.Unlock()
			if err == nil {
				_ = cmd.Wait()
			}
			f.Close()
			// One that cannot begin, since the server is away, does not try all the time.
			if time.Since(began) < 100*time.Millisecond {
				time.Sleep(100 * time.Millisecond)
			}
		}
	}()
	return k
}

func (k *kept) kill() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current != nil && k.current.Process != nil {
		_ = k.current.Process.Kill()
	}
}

func (k *kept) stop() {
	k.cancel()
	<-k.done
}

// site is a server in a process of its own, on a file, and what belongs to it.
type site struct {
	t       *testing.T
	dir     string // with world, and the logs of all processes
	address string
	server  *kept
	client  client.Client
}

// open starts a server that suggests to continue as new after so many events; 0: after its usual number.
func open(t *testing.T, events int) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir()}
	must(os.Mkdir(s.world(), 0o755))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	_, port, _ := net.SplitHostPort(s.address)
	l.Close()
	env := []string{"CRASH_ROLE=server", "CRASH_PORT=" + port, "CRASH_DB=" + filepath.Join(s.dir, "db")}
	if events > 0 {
		env = append(env, "CRASH_EVENTS="+strconv.Itoa(events))
	}
	s.server = keep(os.Args[0], filepath.Join(s.dir, "server.log"), env...)
	t.Cleanup(s.server.stop)
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if s.client, err = client.Dial(client.Options{HostPort: s.address, Logger: quiet{}}); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the server does not start: %v\n%s", err, text(filepath.Join(s.dir, "server.log")))
		}
	}
	t.Cleanup(s.client.Close)
	return s
}

func (s *site) world() string { return filepath.Join(s.dir, "world") }

// lane is a worker, and three nodes if they are wanted, that one execution at a
// time has for itself. They stay from one execution to the next: only a kill costs a start.
type lane struct {
	site   *site
	name   string
	mutant string // what is planted in its processes; empty: nothing
	procs  []*kept
	nodes  []string // ids
}

var lanes struct {
	sync.Mutex
	n int
}

// lane starts a lane.
func (s *site) lane(nodes bool, mutant string) *lane {
	lanes.Lock()
	lanes.n++
	l := &lane{site: s, name: fmt.Sprintf("l%d", lanes.n), mutant: mutant}
	lanes.Unlock()
	env := []string{"CRASH_ADDRESS=" + s.address, "CRASH_DIR=" + s.world(), "CRASH_LANE=" + l.name, "CRASH_MUTANT=" + mutant}
	exe := os.Args[0]
	if build := mutants[mutant].build; build != nil {
		exe = build(s.t)
	}
	l.procs = append(l.procs, keep(exe, l.log(), append(env, "CRASH_ROLE=worker")...))
	if nodes {
		for _, letter := range []string{"a", "b", "c"} {
			id := l.name + "-" + letter
			root := l.root(id)
			must(os.MkdirAll(filepath.Join(root, "bin"), 0o755))
			must(os.WriteFile(filepath.Join(root, "bin", "point"), []byte(pointProgram), 0o755))
			must(os.WriteFile(filepath.Join(root, "bin", "effect"), []byte(effectProgram), 0o755))
			l.nodes = append(l.nodes, id)
			l.procs = append(l.procs, keep(os.Args[0], l.log(), append(env, "CRASH_ROLE=agent", "CRASH_NODE="+id, "CRASH_ROOT="+root)...))
		}
	}
	return l
}

func (l *lane) root(id string) string { return filepath.Join(l.site.dir, "nodes", id) }
func (l *lane) log() string           { return filepath.Join(l.site.dir, l.name+".log") }

func (l *lane) stop() {
	for _, p := range l.procs {
		p.stop()
	}
}

func text(name string) string {
	raw, _ := os.ReadFile(name)
	return string(raw)
}

type quiet struct{}

func (quiet) Debug(string, ...any)     {}
func (quiet) Info(string, ...any)      {}
func (quiet) Warn(string, ...any)      {}
func (quiet) Error(string, ...any)     {}
func (q quiet) With(...any) log.Logger { return q }
