// Package service tests the worker as a service, with the programs that users
// run: how it stops, what it tells its health checks, Prometheus, an OTLP
// receiver and its log. It promises that nothing of inputs and outputs is told
// there.
package service

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"

	"github.com/almanac-run/almanac/dev/server"
)

var programs string // folder of what users run

func TestMain(m *testing.M) {
	code := func() int {
		dir, err := os.MkdirTemp("", "almanac-service")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		build := exec.Command("go", "build", "-buildvcs=false", "-o", dir+"/", "./worker", "./agent", "./starter")
		build.Dir = filepath.Join("..", "..", "..")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
			return 1
		}
		programs = dir
		return m.Run()
	}()
	os.Exit(code)
}

// house is a Temporal server, and a folder in which programs run.
type house struct {
	t       *testing.T
	dir     string
	address string
}

func settle(t *testing.T) *house {
	t.Helper()
	srv, err := server.Start(t.Context(), server.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Stop() })
	return &house{t: t, dir: t.TempDir(), address: srv.Address()}
}

func (h *house) write(name, text string) string {
	h.t.Helper()
	file := filepath.Join(h.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return file
}

func (h *house) command(env []string, program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(programs, program), args...)
	cmd.Dir = h.dir
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "ALMANAC_") || strings.HasPrefix(v, "OTEL_") || strings.HasPrefix(v, "NOTIFY_")
	})
	cmd.Env = append(append(cmd.Env, "ALMANAC_INSECURE=1", "ALMANAC_RUNBOOKS="+h.dir, "TEMPORAL_ADDRESS="+h.address, "TEMPORAL_CONFIG_FILE=/nonexistent"), env...)
	return cmd
}

// run runs a program to its end and returns its exit code and what it printed.
func (h *house) run(program string, args ...string) (int, string) {
	h.t.Helper()
	cmd := h.command(nil, program, args...)
	out, _ := cmd.CombinedOutput() // the exit code is looked at
	return cmd.ProcessState.ExitCode(), string(out)
}

func (h *house) must(program string, args ...string) string {
	h.t.Helper()
	code, out := h.run(program, args...)
	if code != 0 {
		h.t.Fatalf("%s %s: exit code %d\n%s", program, strings.Join(args, " "), code, out)
	}
	return out
}

// process is a program that runs.
type process struct {
	*exec.Cmd
	log   *buffer
	ended chan struct{}
}

// start starts a program, which is stopped when the test ends.
func (h *house) start(env []string, program string, args ...string) *process {
	h.t.Helper()
	p := &process{Cmd: h.command(env, program, args...), log: &buffer{}, ended: make(chan struct{})}
	p.Stdout, p.Stderr = p.log, p.log
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() {
		_ = p.Wait() // the exit code is looked at
		close(p.ended)
	}()
	h.t.Cleanup(func() {
		_ = p.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.ended:
		case <-time.After(time.Minute):
			_ = p.Process.Kill()
		}
		if h.t.Failed() {
			h.t.Logf("%s:\n%s", program, p.log)
		}
	})
	return p
}

// end waits for the process and returns its exit code, -1 if a signal ended it.
func (p *process) end(t *testing.T) int {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(time.Minute):
		t.Fatal("the process does not end")
	}
	return p.ProcessState.ExitCode()
}

// memory is what the process has resident, as the system tells it.
func (p *process) memory(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
	if err != nil {
		return "unknown"
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}

// buffer is a log that is read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *buffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *buffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// until waits for something, a minute at most.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// port is an address that was free a moment ago.
func port(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// get returns the status and the text of a page; 0 if nobody answers.
func get(url string) (int, string) {
	resp, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body) // what is missing fails the test
	return resp.StatusCode, string(text)
}

func ready(address string) bool {
	code, _ := get("http://" + address + "/readyz")
	return code == http.StatusOK
}

// slow is a web server whose calls end when the test says so.
type slow struct {
	*httptest.Server
	mu    sync.Mutex
	calls int
}

func newSlow(t *testing.T, until func(call int) <-chan struct{}) *slow {
	s := &slow{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.calls++
		n := s.calls
		s.mu.Unlock()
		select {
		case <-until(n):
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *slow) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

const callRunbook = `
runbook: test/call
inputs:
  url: { type: string }
steps:
  - id: call
    action: http.request
    with: { method: POST, url: "${{ inputs.url }}", timeout: 5m }
`

// TestStop tells a worker to stop in the middle of an action: it is not ready at
// once, lets the action finish, and nothing is done again by the next worker.
func TestStop(t *testing.T) {
	t.Parallel()
	h := settle(t)
	h.write("call.yaml", callRunbook)
	finish := make(chan struct{})
	web := newSlow(t, func(int) <-chan struct{} { return finish })
	socket := filepath.Join(h.dir, "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	told := func() string {
		b := make([]byte, 100)
		_ = manager.SetReadDeadline(time.Now().Add(time.Minute))
		n, err := manager.Read(b)
		if err != nil {
			t.Fatalf("the service manager is told nothing: %v", err)
		}
		return string(b[:n])
	}
	at := port(t)
	w := h.start([]string{"NOTIFY_SOCKET=" + socket, "ALMANAC_LISTEN=" + at}, "worker")
	if got := told(); got != "READY=1" || !ready(at) {
		t.Errorf("the service manager is told %q, and it is ready: %t", got, ready(at))
	}
	t.Logf("a worker that has begun to serve takes %s with --listen", w.memory(t))
	if out := h.must("worker", "health", "--listen", at); out != "ready\n" {
		t.Errorf("worker health: %q", out)
	}
	h.must("starter", "run", "./call.yaml", "--id", "one", "--detach", "-i", "url="+web.URL)
	until(t, "the call", func() bool { return web.count() == 1 })
	began := time.Now()
	if err := w.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := told(); got != "STOPPING=1" {
		t.Errorf("the service manager is told %q", got)
	}
	if code, text := get("http://" + at + "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(text, "the worker stops") {
		t.Errorf("after SIGTERM: %d %s", code, text)
	}
	if code, out := h.run("worker", "health", "--listen", at); code != 1 || !strings.Contains(out, "the worker stops") {
		t.Errorf("worker health after SIGTERM: exit code %d, %s", code, out)
	}
	if code, _ := get("http://" + at + "/healthz"); code != http.StatusOK {
		t.Errorf("it lives, and /healthz says %d", code)
	}
	close(finish)
	if code := w.end(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	t.Logf("stopped %s after SIGTERM", time.Since(began).Round(100*time.Millisecond))
	h.start(nil, "worker")
	if code, out := h.run("starter", "watch", "one"); code != 0 {
		t.Errorf("exit code %d: %s", code, out)
	}
	if n := web.count(); n != 1 {
		t.Errorf("the call was made %d times", n)
	}
}

// TestStopCutsOff gives an action less time than it takes: it is reported, and
// the next worker takes it up without waiting for a silence to be noticed.
func TestStopCutsOff(t *testing.T) {
	t.Parallel()
	h := settle(t)
	h.write("call.yaml", callRunbook)
	over := make(chan struct{})
	close(over)
	web := newSlow(t, func(call int) <-chan struct{} {
		if call == 1 {
			return nil // never
		}
		return over
	})
	at := port(t)
	w := h.start(nil, "worker", "--listen", at, "--stop-timeout", "1s")
	until(t, "ready", func() bool { return ready(at) })
	h.must("starter", "run", "./call.yaml", "--id", "one", "--detach", "-i", "url="+web.URL)
	until(t, "the call", func() bool { return web.count() == 1 })
	if err := w.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := w.end(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	stopped := time.Now()
	w = h.start(nil, "worker")
	until(t, "the second call", func() bool { return web.count() == 2 })
	t.Logf("taken up %s after the first worker had ended; without --listen a worker takes %s", time.Since(stopped).Round(100*time.Millisecond), w.memory(t))
	if code, out := h.run("starter", "watch", "one"); code != 0 {
		t.Errorf("exit code %d: %s", code, out)
	}
	c, err := client.Dial(client.Options{HostPort: h.address})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	events := c.GetWorkflowHistory(t.Context(), "one", "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		e, err := events.Next()
		if err != nil {
			t.Fatal(err)
		}
		if a := e.GetActivityTaskStartedEventAttributes(); a != nil {
			// Not a time-out: the first worker said so itself.
			if kind := a.GetLastFailure().GetApplicationFailureInfo().GetType(); a.Attempt != 2 || kind != "lost" {
				t.Errorf("attempt %d after %q (%s)", a.Attempt, kind, a.GetLastFailure().GetMessage())
			}
			return
		}
	}
	t.Error("the history has no activity")
}

// TestSecondSignal ends a worker that waits for an action.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	h := settle(t)
	h.write("call.yaml", callRunbook)
	web := newSlow(t, func(int) <-chan struct{} { return nil }) // never
	at := port(t)
	w := h.start(nil, "worker", "--listen", at, "--stop-timeout", "10m")
	until(t, "ready", func() bool { return ready(at) })
	h.must("starter", "run", "./call.yaml", "--id", "one", "--detach", "-i", "url="+web.URL)
	until(t, "the call", func() bool { return web.count() == 1 })
	if err := w.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	until(t, "not ready", func() bool { return !ready(at) })
	select {
	case <-w.ended:
		t.Error("the first signal ended it")
	case <-time.After(2 * time.Second):
	}
	if err := w.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	w.end(t)
}

// TestNotReady asks a worker that has no server yet.
func TestNotReady(t *testing.T) {
	t.Parallel()
	h := &house{t: t, dir: t.TempDir(), address: port(t)}
	at := port(t)
	w := h.start(nil, "worker", "--listen", at)
	until(t, "alive", func() bool { code, _ := get("http://" + at + "/healthz"); return code == http.StatusOK })
	if code, text := get("http://" + at + "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(text, "no connection to the Temporal server yet") {
		t.Errorf("%d %s", code, text)
	}
	if err := w.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := w.end(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// silent is a server that takes connections, and then does not answer.
type silent struct {
	workflowservice.UnimplementedWorkflowServiceServer
	once  sync.Once
	asked chan struct{}
}

func (s *silent) GetSystemInfo(context.Context, *workflowservice.GetSystemInfoRequest) (*workflowservice.GetSystemInfoResponse, error) {
	return &workflowservice.GetSystemInfoResponse{}, nil
}

func (s *silent) DescribeNamespace(ctx context.Context, _ *workflowservice.DescribeNamespaceRequest) (*workflowservice.DescribeNamespaceResponse, error) {
	s.once.Do(func() { close(s.asked) })
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestStopAtStart tells a worker to stop which waits for an answer before it can serve: that is no failure.
func TestStopAtStart(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv, web := grpc.NewServer(), &silent{asked: make(chan struct{})}
	workflowservice.RegisterWorkflowServiceServer(srv, web)
	go func() { _ = srv.Serve(l) }() // it ends by Stop
	t.Cleanup(srv.Stop)
	h := &house{t: t, dir: t.TempDir(), address: l.Addr().String()}
	w := h.start(nil, "worker")
	select {
	case <-web.asked:
	case <-time.After(time.Minute):
		t.Fatal("it does not ask")
	}
	if err := w.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := w.end(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
