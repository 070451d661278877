// Package e2e tests what only real processes can show: workers, agents and
// servers that are killed, a browser that looks at the Web UI.
package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities"
	"github.com/almanac-run/almanac/dev/server"
	"github.com/almanac-run/almanac/internal/catalog"
	"github.com/almanac-run/almanac/internal/node"
	"github.com/almanac-run/almanac/lang/compile"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// The test binary plays the processes that are killed.
func TestMain(m *testing.M) {
	node.ExecMain() // an agent runs commands by copies of this program
	switch os.Getenv("E2E_ROLE") {
	case "agent":
		must(agentProcess())
	case "aws":
		must(awsWorkerProcess())
	default:
		// Their servers, workers and agents are apart from anything; encryption_test.go has keys.
		must(os.Setenv("ALMANAC_INSECURE", "1"))
		// Most of the time these tests wait for something to be given up.
		flag.Parse()
		must(flag.Set("test.parallel", "16"))
		os.Exit(m.Run())
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// ledger is a world in which things are made and taken away: a directory with a
// file for each thing that is there, named by its token, and a log of effects.
type ledger struct {
	dir           string
	mu            sync.Mutex
	calls, undone atomic.Int64 // of crash.nothing
}

// effect does something once per token: a real system with client tokens.
func (l *ledger) effect(verb, token, step string, do func(path string) (bool, error)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	did, err := do(filepath.Join(l.dir, "things", token))
	if err != nil {
		return err
	}
	if did {
		f, err := os.OpenFile(filepath.Join(l.dir, "log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(f, "%s %s %s\n", verb, step, token); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

type thing struct {
	Name string `json:"name" jsonschema:"what to make"`
}
type made struct {
	ID string `json:"id" jsonschema:"what was made"`
}

func (l *ledger) actions() []action.Action {
	return []action.Action{
		action.New(action.Def[thing, made]{
			Name: "crash.make", Summary: "Make a thing",
			Do: func(ctx context.Context, in thing) (made, error) {
				token := action.FromContext(ctx).Token
				err := l.effect("make", token, in.Name, func(path string) (bool, error) {
					f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
					if errors.Is(err, os.ErrExist) {
						return false, nil
					}
					if err != nil {
						return false, err
					}
					return true, f.Close()
				})
				return made{ID: token}, err
			},
			Compensate: func(ctx context.Context, in thing, _ *made) error {
				return l.effect("take", action.FromContext(ctx).Token, in.Name, func(path string) (bool, error) {
					err := os.Remove(path)
					if errors.Is(err, os.ErrNotExist) {
						return false, nil
					}
					return err == nil, err
				})
			},
		}),
		action.New(action.Def[thing, made]{Name: "crash.note", Summary: "Make a thing that cannot be taken back",
			Do: func(ctx context.Context, in thing) (made, error) {
				token := action.FromContext(ctx).Token
				return made{ID: in.Name}, l.effect("note", token, in.Name, func(path string) (bool, error) {
					return true, os.WriteFile(path+".note", nil, 0o644)
				})
			}}),
		action.New(action.Def[thing, made]{Name: "crash.flaky", Summary: "Fail the first time",
			Do: func(ctx context.Context, in thing) (made, error) {
				path := filepath.Join(l.dir, "flaky-"+in.Name)
				if _, err := os.Stat(path); err == nil {
					return made{ID: in.Name}, nil
				}
				if err := os.WriteFile(path, nil, 0o644); err != nil {
					return made{}, err
				}
				return made{}, action.Errorf(action.Failed, "the first time it fails")
			}}),
		action.New(action.Def[thing, made]{Name: "crash.nothing", Summary: "Do nothing, which can be taken back",
			Do: func(_ context.Context, in thing) (made, error) {
				l.calls.Add(1)
				return made{ID: in.Name}, nil
			},
			Compensate: func(context.Context, thing, *made) error { l.undone.Add(1); return nil }}),
		action.New(action.Def[thing, made]{Name: "crash.fail", Summary: "Fail",
			Do: func(context.Context, thing) (made, error) {
				return made{}, action.Errorf(action.Failed, "it broke")
			}}),
	}
}

// keepRunning starts this binary in a role again and again until the test ends;
// only the first process gets the kill.
func keepRunning(t *testing.T, role string, env ...string) (starts func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var mu sync.Mutex
	n := 0
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			cmd := exec.CommandContext(ctx, os.Args[0])
			cmd.Env = append(append(os.Environ(), "E2E_ROLE="+role), env...)
			mu.Lock()
			if n > 0 {
				cmd.Env = append(cmd.Env, "E2E_KILL_AT=0")
			}
			n++
			mu.Unlock()
			cmd.Stderr = os.Stderr
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			_ = cmd.Run() // that it dies is the point
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return func() int { mu.Lock(); defer mu.Unlock(); return n }
}

// serve runs a server and, in this process, a worker with the ledger's actions.
func serve(t *testing.T, dynamic map[string]any) (*server.Server, client.Client) {
	t.Helper()
	srv, err := server.Start(t.Context(), server.Options{File: filepath.Join(t.TempDir(), "db"), Dynamic: dynamic})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Stop() })
	c, err := client.Dial(client.Options{HostPort: srv.Address(), Logger: quiet{}, Identity: "e2e"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return srv, c
}

// often makes the server suggest to continue as new after so many events.
func often(events int) map[string]any {
	return map[string]any{"limit.historyCount.suggestContinueAsNew": events, "history.workflowIdReuseMinimalInterval": "1ms"}
}

// work starts a worker in this process, for a queue of its own, and a ledger.
func work(t *testing.T, c client.Client, queue string) *ledger {
	t.Helper()
	l := &ledger{dir: t.TempDir()}
	if err := os.Mkdir(filepath.Join(l.dir, "things"), 0o755); err != nil {
		t.Fatal(err)
	}
	w := worker.New(c, queue, worker.Options{MaxConcurrentActivityTaskPollers: 10, MaxConcurrentWorkflowTaskPollers: 4})
	workflows.Register(w)
	activities.Register(w, l.actions(), activities.Options{})
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return l
}

// compileLedger compiles a runbook with the ledger's actions and those of
// nodes; more are further runbooks by name.
func compileLedger(t *testing.T, source string, more map[string]string) *program.Program {
	t.Helper()
	infos := catalog.Actions()
	for _, a := range new(ledger).actions() {
		infos = append(infos, a.Info)
	}
	p, ds := compile.Compile("test.yaml", []byte(source), compile.Options{Actions: infos,
		Runbook: func(name string) (string, []byte, error) {
			if s, ok := more[name]; ok {
				return name + ".yaml", []byte(s), nil
			}
			return "", nil, fs.ErrNotExist
		}})
	if p == nil {
		t.Fatal(ds)
	}
	return p
}

// ended waits for an execution and returns its result, however it ended.
func ended(t *testing.T, run client.WorkflowRun) *workflows.Result {
	t.Helper()
	patience := 2 * time.Minute
	if os.Getenv("ALMANAC_LONG") != "" {
		patience = 10 * time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	result := new(workflows.Result)
	err := run.Get(ctx, result)
	var app *temporal.ApplicationError
	var cancelled *temporal.CanceledError
	switch {
	case errors.As(err, &app) && app.HasDetails():
		err = app.Details(result)
	case errors.As(err, &cancelled) && cancelled.HasDetails():
		err = cancelled.Details(result)
	}
	if err != nil {
		t.Fatalf("ended with %v", err)
	}
	return result
}

type quiet struct{}

func (quiet) Debug(string, ...any)     {}
func (quiet) Info(string, ...any)      {}
func (quiet) Warn(string, ...any)      {}
func (quiet) Error(string, ...any)     {}
func (q quiet) With(...any) log.Logger { return q }
