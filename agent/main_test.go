package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/internal/dial"
)

// server is a Temporal server with this test's agent and workflow.
type server struct {
	t *testing.T
	client.Client
	queue, node, dir, program string
	agent                     *exec.Cmd
}

// The agent as people run it, against a real server, killed and restarted.
func TestAgent(t *testing.T) {
	if os.Getenv("TEMPORAL_ADDRESS") == "" {
		t.Skip("TEMPORAL_ADDRESS is not set: no server to test the agent with")
	}
	logger := slog.New(slog.DiscardHandler)
	opts, err := dial.Options("agent test", logger)
	if err != nil {
		t.Fatal(err)
	}
	opts.Logger = log.NewStructuredLogger(logger)
	c, err := client.Dial(opts)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	unique := fmt.Sprint(time.Now().UnixNano())
	s := &server{t: t, Client: c, queue: "agent-test-" + unique, node: "n-" + unique, dir: t.TempDir()}
	s.program = filepath.Join(s.dir, "agent")
	if out, err := exec.Command("go", "build", "-o", s.program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	w := worker.New(c, s.queue, worker.Options{})
	w.RegisterWorkflowWithOptions(oneActivity, workflow.RegisterOptions{Name: "one"})
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	s.start()
	defer func() { s.stop(syscall.SIGKILL) }()

	out, err := s.wait(s.run("ok", "echo hello"))
	if err != nil || out["stdout"] != "hello" {
		t.Errorf("out %v, error %v", out, err)
	}
	_, err = s.wait(s.run("fails", "echo why; exit 3"))
	var app *temporal.ApplicationError
	var detail struct {
		Tail     string `json:"tail"`
		ExitCode int    `json:"exit_code"`
	}
	if !errors.As(err, &app) || app.Type() != "failed" || app.Details(&detail) != nil || detail.Tail != "why" || detail.ExitCode != 3 {
		t.Errorf("error %v, detail %+v", err, detail)
	}
	for _, how := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGSTOP} {
		effects := filepath.Join(s.dir, "effects"+fmt.Sprint(int(how)))
		r := s.run(fmt.Sprint("survives", int(how)), "echo x >> "+effects+"; sleep 7; echo end")
		for range 200 {
			if _, err := os.Stat(effects); err == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if how == syscall.SIGSTOP {
			// The engine gives the agent up, and asks anew: then both deliveries are there.
			s.agent.Process.Signal(how)
			time.Sleep(4500 * time.Millisecond)
			s.agent.Process.Signal(syscall.SIGCONT)
		} else {
			s.stop(how)
			s.start()
		}
		out, err := s.wait(r)
		text, _ := os.ReadFile(effects)
		if err != nil || out["stdout"] != "end" || string(text) != "x\n" {
			t.Errorf("%v: out %v, error %v, effects %q", how, out, err, text)
		}
	}
	pids := filepath.Join(s.dir, "pids")
	r := s.run("cancelled", "sleep 100 & echo $! > "+pids+"; echo $$ >> "+pids+"; wait")
	for range 200 {
		if text, _ := os.ReadFile(pids); strings.Count(string(text), "\n") == 2 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := c.CancelWorkflow(t.Context(), r.GetID(), ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.wait(r); !temporal.IsCanceledError(errors.Unwrap(err)) && !temporal.IsCanceledError(err) {
		t.Errorf("cancelled: %v", err)
	}
	text, _ := os.ReadFile(pids)
	for _, pid := range strings.Fields(string(text)) {
		if status, err := os.ReadFile("/proc/" + pid + "/status"); err == nil && !strings.Contains(string(status), "Z (zombie)") {
			t.Errorf("process %s still runs", pid)
		}
	}
}

// Without a umask, as some supervisors start their programs, nothing gets open to others.
func TestUmask(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells a process's umask")
	}
	program := filepath.Join(t.TempDir(), "agent")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	agent := exec.Command("sh", "-c", `umask 0; exec "$0" --insecure --id n --state-dir "$1"`, program, t.TempDir())
	agent.Env = append(os.Environ(), "TEMPORAL_ADDRESS=127.0.0.1:1") // nobody there: it waits
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer agent.Wait()
	defer agent.Process.Kill()
	var status []byte
	for range 200 {
		status, _ = os.ReadFile(fmt.Sprintf("/proc/%d/status", agent.Process.Pid))
		if text := string(status); strings.HasPrefix(text, "Name:\tagent\n") && strings.Contains(text, "Umask:\t0022\n") {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("status of the agent:\n%s", status)
}

func (s *server) start() {
	s.t.Helper()
	s.agent = exec.Command(s.program, "--insecure", "--id", s.node, "--state-dir", filepath.Join(s.dir, "state"))
	if err := s.agent.Start(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) stop(sig syscall.Signal) {
	s.agent.Process.Signal(sig)
	s.agent.Wait()
}

func (s *server) run(token, script string) client.WorkflowRun {
	s.t.Helper()
	r, err := s.ExecuteWorkflow(context.Background(), client.StartWorkflowOptions{TaskQueue: s.queue, WorkflowExecutionTimeout: time.Minute},
		"one", token, "node/"+s.node, map[string]any{"script": script})
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s *server) wait(r client.WorkflowRun) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out map[string]any
	err := r.Get(ctx, &out)
	return out, err
}

// oneActivity runs a command as the interpreter does.
func oneActivity(ctx workflow.Context, token, queue string, in json.RawMessage) (json.RawMessage, error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue: queue, ActivityID: "step", StartToCloseTimeout: 30 * time.Second, HeartbeatTimeout: 3 * time.Second, WaitForCancellation: true,
		RetryPolicy: &temporal.RetryPolicy{NonRetryableErrorTypes: []string{"failed", "unknown"}, MaximumAttempts: 5},
	})
	var out json.RawMessage
	err := workflow.ExecuteActivity(ctx, "host.command.run", token, in).Get(ctx, &out)
	return out, err
}
