package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
)

// silentServer greets, and then answers nothing.
type silentServer struct {
	workflowservice.UnimplementedWorkflowServiceServer
}

func (silentServer) GetSystemInfo(context.Context, *workflowservice.GetSystemInfoRequest) (*workflowservice.GetSystemInfoResponse, error) {
	return &workflowservice.GetSystemInfoResponse{}, nil
}

func (silentServer) GetWorkflowExecutionHistory(ctx context.Context, _ *workflowservice.GetWorkflowExecutionHistoryRequest) (*workflowservice.GetWorkflowExecutionHistoryResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// buffer can be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Who follows is told that the server does not answer, and Ctrl-C says how to come back.
func TestFollowSilentServer(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	grpcServer := grpc.NewServer()
	workflowservice.RegisterWorkflowServiceServer(grpcServer, silentServer{})
	go func() { _ = grpcServer.Serve(listener) }()
	defer grpcServer.Stop()

	var stdout, stderr buffer
	a := &app{program: "starter", stdout: &stdout, stderr: &stderr, address: listener.Addr().String(), configFile: "/nonexistent"}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := a.dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	done := make(chan error, 1)
	go func() { done <- a.follow(ctx, s, "x") }()
	for end := time.Now().Add(30 * time.Second); !strings.Contains(stderr.String(), "no answer from the server at 127.0.0.1:"); {
		if time.Now().After(end) {
			t.Fatalf("nothing was said: %s", &stderr)
		}
		time.Sleep(20 * time.Millisecond)
	}
	cancel()
	var exit *exitError
	if err := <-done; !errors.As(err, &exit) || exit.code != exitDetached {
		t.Errorf("it ended with %v", err)
	}
	if want := "x goes on; come back with: starter --config-file /nonexistent --address " + a.address + " watch x\n"; !strings.HasSuffix(stderr.String(), want) {
		t.Errorf("%q does not end with %q", &stderr, want)
	}
	if stdout.String() != "" {
		t.Errorf("on standard output: %s", &stdout)
	}
}

// A server that is lost is no failed execution.
func TestLost(t *testing.T) {
	a := &app{program: "starter"}
	s := &server{address: "host:7233", namespace: "default"}
	for _, err := range []error{serviceerror.NewUnavailable("x"), serviceerror.NewDeadlineExceeded("x"), context.DeadlineExceeded} {
		var exit *exitError
		if got := a.lost(s, "x y", err); !errors.As(got, &exit) || exit.code != exitNoServer ||
			!strings.HasSuffix(exit.err.Error(), "\ncome back with: starter watch 'x y'") {
			t.Errorf("%v: %v", err, got)
		}
	}
	if got := a.lost(s, "x", serviceerror.NewNotFound("x")).Error(); strings.Contains(got, "come back") {
		t.Error(got)
	}
	refused := a.explain(s, "x", serviceerror.NewPermissionDenied("viewer/ui may not", ""))
	if got := a.explain(s, "x", refused).Error(); got != "the server does not allow it: viewer/ui may not" {
		t.Error(got)
	}
	if got := a.unreachable("host:7233", context.DeadlineExceeded).Error(); !strings.Contains(got, "TEMPORAL_TLS") {
		t.Error(got)
	}
	if got := a.unreachable("host:7233", errors.New("connection refused")).Error(); strings.Contains(got, "TEMPORAL_TLS") {
		t.Error(got)
	}
	// A piece of an id that was copied with the ellipsis of a narrow terminal.
	if got := a.explain(s, "demo…", errors.New("header key contains value with non-printable ASCII characters")).Error(); !strings.HasPrefix(got, `there is no execution "demo…"`) {
		t.Error(got)
	}
}
