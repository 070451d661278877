//go:build crash

package server

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
)

// The test binary runs a server when it is told a file, so that a test can kill it.
func TestMain(m *testing.M) {
	if file := os.Getenv("CRASH_FILE"); file != "" {
		port, _ := strconv.Atoi(os.Getenv("CRASH_PORT"))
		if _, err := Start(context.Background(), Options{File: file, Port: port, LogFile: file + ".log"}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		select {}
	}
	os.Exit(m.Run())
}

// TestCrash kills a server at random moments and starts it again on its file, until an execution of many steps is
// through. None of its steps may be lost, and none scheduled twice.
func TestCrash(t *testing.T) {
	const stepCount, crashes = 200, 5
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	file := filepath.Join(t.TempDir(), "crash.db")
	port, err := ReservePort(0)
	if err != nil {
		t.Fatal(err)
	}
	server := serveApart(t, file, port)
	defer func() { _ = server.Process.Kill() }()

	s := &Server{address: hostPort(port)}
	if err := s.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := dial(t, s)
	w := worker.New(c, "test", worker.Options{})
	w.RegisterWorkflow(steps)
	w.RegisterActivity(step)
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "crash", TaskQueue: "test"}, steps, stepCount)
	if err != nil {
		t.Fatal(err)
	}
	for range crashes {
		time.Sleep(time.Duration(100+random.IntN(400)) * time.Millisecond)
		_ = server.Process.Kill()
		_ = server.Wait()
		server = serveApart(t, file, port)
	}
	if err := s.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := run.Get(ctx, nil); err != nil {
		t.Fatal(err)
	}
	scheduled := 0
	history := c.GetWorkflowHistory(ctx, "crash", run.GetRunID(), false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for history.HasNext() {
		event, err := history.Next()
		if err != nil {
			t.Fatal(err)
		}
		if event.GetEventType() == enumspb.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED {
			scheduled++
		}
	}
	if scheduled != stepCount {
		t.Errorf("%d steps scheduled after %d crashes, want %d", scheduled, crashes, stepCount)
	}
}

func serveApart(t *testing.T, file string, port int) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "CRASH_FILE="+file, "CRASH_PORT="+strconv.Itoa(port))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}
