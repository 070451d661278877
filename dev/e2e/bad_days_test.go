package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/almanac-run/almanac/internal/control"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/workflows"
)

// badDays is one server with its control worker, on which nodes have bad days.
type badDays struct {
	address string
	c       client.Client
	agent   string // the program
	lister  registry.Lister
}

// TestBadDays lets nodes have bad days, side by side. After each the outcome of
// every node is what it has to be, and nothing of a command is left running.
func TestBadDays(t *testing.T) {
	t.Parallel()
	srv, c := serve(t, nil)
	b := buildAgent(t, srv.Address(), c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.Run(ctx, control.Options{Client: c, Logger: silent()}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for name, day := range map[string]func(*testing.T, *badDays){
		"Rebooted":         rebooted,
		"TwoOfOneID":       twoOfOneID,
		"CopiedMachine":    copiedMachine,
		"ShortCutByProxy":  shortCutByProxy,
		"ShortCutOfLink":   shortCutOfLink,
		"LongCutOfLink":    longCutOfLink,
		"FullStateDisk":    fullStateDisk,
		"FullOutputDisk":   fullOutputDisk,
		"WrongClock":       wrongClock,
		"EndlessOutput":    endlessOutput,
		"StubbornChildren": stubbornChildren,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			day(t, b)
		})
	}
}

// buildAgent builds the program agent, for nodes of that server.
func buildAgent(t *testing.T, address string, c client.Client) *badDays {
	t.Helper()
	b := &badDays{address: address, c: c, agent: filepath.Join(t.TempDir(), "agent"),
		lister: registry.Lister{Service: c.WorkflowService(), Namespace: client.DefaultNamespace}}
	build := exec.Command("go", "build", "-o", b.agent, "./agent")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return b
}

// needsRoot skips what cannot be shown as another user, but never in CI.
func needsRoot(t *testing.T, what string) {
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("CI") != "true" {
		t.Skipf("%s wants root", what)
	}
}

// daemon is an agent as a process of its own.
type daemon struct {
	t    *testing.T
	id   string
	cmd  *exec.Cmd
	done chan struct{}
	mu   sync.Mutex
	log  bytes.Buffer
}

func (d *daemon) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.Write(p)
}

func (d *daemon) said() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.String()
}

// launch starts an agent, by the command before if there is one: it gets the
// agent's command line as its last arguments.
func (b *badDays) launch(t *testing.T, before []string, address, id, state string, more ...string) *daemon {
	t.Helper()
	args := append(before, b.agent, "--id", id, "--state-dir", state, "--ec2-metadata", "off")
	args = append(args, more...)
	d := &daemon{t: t, id: id, cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{})}
	d.cmd.Env = append(os.Environ(), "TEMPORAL_ADDRESS="+address)
	d.cmd.Stdout, d.cmd.Stderr = d, d
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = d.cmd.Wait() // its exit code is looked at
		close(d.done)
	}()
	t.Cleanup(func() {
		d.kill()
		for _, pid := range running(id) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if t.Failed() {
			t.Logf("agent %s:\n%s", id, d.said())
		}
	})
	return d
}

// start is launch, and waits until the agent serves its node.
func (b *badDays) start(t *testing.T, id, state string, more ...string) *daemon {
	t.Helper()
	d := b.launch(t, nil, b.address, id, state, more...)
	d.ready(20 * time.Second)
	return d
}

func (d *daemon) ready(within time.Duration) {
	d.t.Helper()
	eventually(d.t, within, "agent "+d.id+" is ready", func() bool { return strings.Contains(d.said(), "node is ready") })
}

func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	<-d.done
}

// refused waits for the agent to give up, which it has to do with an exit code and these words.
func (d *daemon) refused(within time.Duration, words string) {
	d.t.Helper()
	select {
	case <-d.done:
	case <-time.After(within):
		d.t.Errorf("agent %s still runs after %v; it said:\n%s", d.id, within, d.said())
		return
	}
	if code := d.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(d.said(), words) {
		d.t.Errorf("agent %s ended with %d, want 1 and %q:\n%s", d.id, code, words, d.said())
	}
	if strings.Contains(d.said(), "node is ready") {
		d.t.Errorf("agent %s has served the node before:\n%s", d.id, d.said())
	}
}

// running lists the processes that commands of a node consist of: each has the node's id in its
// environment. Supervisors hold a lock in the journal of the node.
func running(node string) []int {
	dirs, _ := os.ReadDir("/proc")
	var pids []int
	for _, dir := range dirs {
		pid, err := strconv.Atoi(dir.Name())
		if err != nil {
			continue
		}
		env, _ := os.ReadFile("/proc/" + dir.Name() + "/environ")
		line, _ := os.ReadFile("/proc/" + dir.Name() + "/cmdline")
		if bytes.Contains(append([]byte{0}, env...), []byte("\x00ALMANAC_NODE="+node+"\x00")) ||
			bytes.HasPrefix(line, []byte("almanac\x00exec-command\x00")) && holds(dir.Name(), "/"+node+"/") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// holds tells whether a process has a file open whose name has that part.
func holds(pid, part string) bool {
	fds, _ := os.ReadDir("/proc/" + pid + "/fd")
	for _, fd := range fds {
		if name, err := os.Readlink("/proc/" + pid + "/fd/" + fd.Name()); err == nil && strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// nothingLeft fails if something of the node's commands still runs after a moment.
func nothingLeft(t *testing.T, node string, within time.Duration) {
	t.Helper()
	for end := time.Now().Add(within); len(running(node)) > 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			for _, pid := range running(node) {
				t.Errorf("on %s is left: process %d %q", node, pid, strings.ReplaceAll(text(fmt.Sprintf("/proc/%d/cmdline", pid)), "\x00", " "))
			}
			return
		}
	}
}

// eventually is wait for so long.
func eventually(t *testing.T, within time.Duration, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !so(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, within)
		}
	}
}

// begin starts a runbook on the control worker.
func (b *badDays) begin(t *testing.T, id, source string, in map[string]json.RawMessage) client.WorkflowRun {
	t.Helper()
	p := compileLedger(t, source, nil)
	run, err := b.c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: workflows.TaskQueue}, p.Runbook, workflows.Start{Program: p, Inputs: in})
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// hello runs a command on a node, which has to succeed.
func (b *badDays) hello(t *testing.T, id, node string) {
	t.Helper()
	r := ended(t, b.begin(t, id, "runbook: test/hello\nsteps:\n  - { id: hello, targets: ["+node+"], run: echo hello }\n", nil))
	if r.Outcome != workflows.Succeeded {
		t.Errorf("%s: %s", r.Outcome, r.Message)
	}
}

// nodeDir is the state directory of a node, whose path has the node's id in it.
func nodeDir(t *testing.T, id string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), id, "state")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}
