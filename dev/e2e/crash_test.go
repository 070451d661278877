package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// crashRunbook has twenty steps in blocks, loops and branches, and fails at the
// end, so that each effect is made once and taken back once.
const crashRunbook = `
runbook: test/crash
steps:
  - { id: s1, action: crash.make, with: { name: s1 } }
  - { id: s2, action: crash.make, with: { name: s2 } }
  - id: block
    steps:
      - { id: s3, action: crash.make, with: { name: s3 } }
      - { id: s4, action: crash.make, with: { name: "s4" } }
  - id: loop
    for_each: [a, b, c, d]
    max_concurrency: 2
    steps:
      - { id: s5, action: crash.make, with: { name: "s5${{ item }}" } }
      - { id: s6, action: crash.make, with: { name: "s6${{ item }}" } }
  - id: sides
    parallel:
      left: [ { id: s7, action: crash.make, with: { name: s7 } }, { id: s8, action: crash.make, with: { name: s8 } } ]
      right: [ { id: s9, action: crash.make, with: { name: s9 } } ]
  - { id: nap, wait: 1s }
  - { id: s10, action: crash.make, with: { name: s10 } }
  - { id: s11, action: crash.make, with: { name: s11 } }
  - { id: s12, action: crash.make, with: { name: s12 } }
  - { id: s13, action: crash.make, with: { name: s13 } }
  - { id: s14, action: crash.make, with: { name: s14 } }
  - { id: broken, action: crash.fail, with: { name: broken } }
finally:
  - { id: s15, action: crash.make, with: { name: s15 } }
`

// made are the effects that crashRunbook has, and last is what remains.
const (
	madeByCrash = 20 // s1-s4, 8 of the loop, s7-s14; s15 of finally comes on top
	effects     = 2*madeByCrash + 1
)

// crashRun runs crashRunbook with a worker that dies at one effect, and returns
// what is wrong with what it left. More is added to the worker's environment.
func crashRun(t *testing.T, c client.Client, address string, p *program.Program, at int, when string, more ...string) (wrong []string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "things"), 0o755); err != nil {
		t.Fatal(err)
	}
	queue := fmt.Sprintf("crash-%s-%d%s", when, at, strings.Join(more, ""))
	starts := keepRunning(t, "worker", append(more, "E2E_DIR="+dir, "E2E_QUEUE="+queue, "E2E_ADDRESS="+address,
		"E2E_KILL_AT="+strconv.Itoa(at), "E2E_WHEN="+when)...)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: queue, TaskQueue: queue}, p.Runbook, workflows.Start{Program: p})
	if err != nil {
		t.Fatal(err)
	}
	err = run.Get(ctx, nil)
	var app *temporal.ApplicationError
	var result workflows.Result
	if !errors.As(err, &app) || app.Details(&result) != nil {
		t.Fatalf("ended with %v", err)
	}
	if at > 0 && starts() < 2 {
		t.Errorf("the worker was not killed")
	}
	return check(t, dir, &result)
}

// check compares the ledger with what was promised: each effect once, taken
// back once, last first, and nothing left but what `finally` made. It returns
// each promise that was broken.
func check(t *testing.T, dir string, result *workflows.Result) (wrong []string) {
	t.Helper()
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if result.Outcome != workflows.RolledBack || len(result.RolledBack) != madeByCrash {
		bad("outcome %s, %d rolled back, want %d", result.Outcome, len(result.RolledBack), madeByCrash)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	var makes, takes []string
	for line := range strings.Lines(string(raw)) {
		verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		step, _, _ := strings.Cut(rest, " ")
		count[verb+" "+step]++
		if verb == "make" && step != "s15" {
			makes = append(makes, step)
		} else if verb == "take" {
			takes = append(takes, step)
		}
	}
	for what, n := range count {
		if n != 1 {
			bad("%s happened %d times", what, n)
		}
	}
	if len(makes) != madeByCrash || len(takes) != madeByCrash {
		bad("%d made, %d taken back, want %d each", len(makes), len(takes), madeByCrash)
	}
	things, err := os.ReadDir(filepath.Join(dir, "things"))
	if err != nil {
		t.Fatal(err)
	}
	if len(things) != 1 {
		bad("%d things left, want the one of finally", len(things))
	}
	// Outside the loop and the branches the order is fixed.
	fixed := []string{"s14", "s13", "s12", "s11", "s10", "s4", "s3", "s2", "s1"}
	i := 0
	for _, step := range takes {
		if i < len(fixed) && step == fixed[i] {
			i++
		}
	}
	if i != len(fixed) {
		bad("taken back in the order %v", takes)
	}
	return wrong
}

// TestWorkerKilled kills the worker with SIGKILL before and after effects, of
// the steps and of the rollback. ALMANAC_CRASH=all tries every point.
func TestWorkerKilled(t *testing.T) {
	t.Parallel()
	srv, c := serve(t, nil)
	p := compileLedger(t, crashRunbook, nil)
	stride := 7
	if os.Getenv("ALMANAC_CRASH") == "all" {
		stride = 1
	}
	t.Run("points", func(t *testing.T) {
		for at := 1; at <= effects; at += stride {
			for _, when := range []string{"before", "after"} {
				t.Run(fmt.Sprintf("%s effect %d", when, at), func(t *testing.T) {
					t.Parallel()
					for _, w := range crashRun(t, c, srv.Address(), p, at, when) {
						t.Error(w)
					}
				})
			}
		}
	})
}

// TestMutantsAreCaught plants bugs in the worker and wants the checks of
// TestWorkerKilled to find them: the checks could not fail otherwise.
func TestMutantsAreCaught(t *testing.T) {
	t.Parallel()
	srv, c := serve(t, nil)
	p := compileLedger(t, crashRunbook, nil)
	for _, tt := range []struct{ mutant, bug, want string }{
		{"token", "a token of its own for each attempt", "make s2 happened 2 times"},
		{"swallow", "a compensation that reports success and does nothing", "2 things left, want the one of finally"},
	} {
		t.Run(tt.mutant, func(t *testing.T) {
			t.Parallel()
			wrong := crashRun(t, c, srv.Address(), p, 2, "after", "E2E_MUTANT="+tt.mutant)
			if !slices.Contains(wrong, tt.want) {
				t.Errorf("%s: found %q, want %q", tt.bug, wrong, tt.want)
			}
		})
	}
}

const lostRunbook = `
runbook: test/lost
steps:
  - { id: s1, action: crash.make, with: { name: s1 } }
  - { id: s2, action: crash.make, with: { name: s2 }, retry: { attempts: 1 } }
`

// TestEffectOfLostAttempt kills the worker after the effect of a step that is
// not tried again: nobody has reported the effect, and it is taken back.
func TestEffectOfLostAttempt(t *testing.T) {
	t.Parallel()
	srv, c := serve(t, nil)
	dir := t.TempDir()
	must(os.Mkdir(filepath.Join(dir, "things"), 0o755))
	keepRunning(t, "worker", "E2E_DIR="+dir, "E2E_QUEUE=lost", "E2E_ADDRESS="+srv.Address(), "E2E_KILL_AT=2", "E2E_WHEN=after")
	r := ended(t, begin(t, c, "lost", compileLedger(t, lostRunbook, nil), nil))
	if r.Outcome != workflows.RolledBack || r.Failure == nil || r.Failure.Kind != "lost" {
		t.Errorf("%s: %+v", r.Outcome, r.Failure)
	}
	log, things := (&ledger{dir: dir}).read(t)
	if want := []string{"make s1", "make s2", "take s1", "take s2"}; !slices.Equal(log, want) || things != 0 {
		t.Errorf("effects %q, want %q; %d things left", log, want, things)
	}
}

// TestServerKilled kills the server with SIGKILL while executions run, and a
// worker as well.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	l.Close()
	db := filepath.Join(t.TempDir(), "db")

	var mu sync.Mutex
	var current *exec.Cmd
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for ctx.Err() == nil {
			cmd := exec.CommandContext(ctx, os.Args[0])
			cmd.Env = append(os.Environ(), "E2E_ROLE=server", "E2E_PORT="+port, "E2E_DB="+db)
			cmd.Stderr = os.Stderr
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			mu.Lock()
			if cmd.Start() == nil {
				current = cmd
			}
			mu.Unlock()
			_ = cmd.Wait()
		}
	}()
	t.Cleanup(func() { cancel(); <-stopped })

	var c client.Client
	for try := 0; ; try++ {
		if c, err = client.Dial(client.Options{HostPort: address, Logger: quiet{}}); err == nil {
			break
		}
		if try > 100 {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Cleanup(c.Close)
	p := compileLedger(t, crashRunbook, nil)
	var kills sync.WaitGroup
	kills.Go(func() {
		for range 3 {
			time.Sleep(1500 * time.Millisecond)
			mu.Lock()
			_ = current.Process.Kill()
			mu.Unlock()
		}
	})
	t.Run("runs", func(t *testing.T) {
		for _, at := range []int{0, 9, 30} {
			t.Run(fmt.Sprint(at), func(t *testing.T) {
				t.Parallel()
				for _, w := range crashRun(t, c, address, p, at, "after") {
					t.Error(w)
				}
			})
		}
	})
	kills.Wait()
}
