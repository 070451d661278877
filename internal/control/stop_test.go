package control

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/interceptor"
)

// slowEnd is an activity that takes a while to notice that it was cut off.
type slowEnd struct {
	interceptor.ActivityInboundInterceptorBase
	begun chan struct{}
	ended bool
}

func (s *slowEnd) ExecuteActivity(ctx context.Context, _ *interceptor.ExecuteActivityInput) (any, error) {
	close(s.begun)
	<-ctx.Done()
	time.Sleep(200 * time.Millisecond)
	s.ended = true
	return nil, ctx.Err()
}

// A worker that stops waits for what it has cut off, but not for ever.
func TestRunning(t *testing.T) {
	r := &running{}
	began := time.Now()
	if r.wait(time.Hour); time.Since(began) > time.Minute {
		t.Error("it waits for nothing")
	}
	s := &slowEnd{begun: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { _, _ = r.InterceptActivity(ctx, s).ExecuteActivity(ctx, nil) }()
	<-s.begun
	if r.count() != 1 {
		t.Errorf("%d run", r.count())
	}
	r.wait(50 * time.Millisecond)
	if r.count() != 1 {
		t.Error("it was not cut off, and has ended")
	}
	cancel()
	r.wait(2 * time.Second)
	if r.count() != 0 || !s.ended {
		t.Error("it did not wait")
	}
}

// A worker that gets no more work must not go on as if it did.
func TestUntilStopped(t *testing.T) {
	gaveUp := make(chan error, 1)
	gaveUp <- errors.New("namespace not found")
	if err := untilStopped(t.Context(), gaveUp); err == nil || !strings.Contains(err.Error(), "namespace not found") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := untilStopped(ctx, gaveUp); err != nil {
		t.Error(err)
	}
}
