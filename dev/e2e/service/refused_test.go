package service

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.temporal.io/api/proxy"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// guarded is the house's server behind one that refuses what refuse says, by the name of the method.
func (h *house) guarded(refuse func(method string) error) *house {
	h.t.Helper()
	conn, err := grpc.NewClient(h.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = conn.Close() })
	behind, err := proxy.NewWorkflowServiceProxyServer(proxy.WorkflowServiceProxyOptions{Client: workflowservice.NewWorkflowServiceClient(conn)})
	if err != nil {
		h.t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if err := refuse(info.FullMethod[strings.LastIndex(info.FullMethod, "/")+1:]); err != nil {
			return nil, err
		}
		return next(ctx, req)
	}))
	workflowservice.RegisterWorkflowServiceServer(srv, behind)
	well := health.NewServer()
	well.SetServingStatus("temporal.api.workflowservice.v1.WorkflowService", healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(srv, well)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	go func() { _ = srv.Serve(l) }() // it ends by Stop
	h.t.Cleanup(srv.Stop)
	return &house{t: h.t, dir: h.dir, address: l.Addr().String()}
}

// TestPollsRefused withdraws a worker's permission to take work: it says so where its health is asked, and is ready when it has it back.
func TestPollsRefused(t *testing.T) {
	t.Parallel()
	var refusing atomic.Bool
	h := settle(t).guarded(func(method string) error {
		if refusing.Load() && strings.HasPrefix(method, "Poll") {
			return status.Error(codes.PermissionDenied, "worker w may not")
		}
		return nil
	})
	refusing.Store(true)
	at := port(t)
	h.start(nil, "worker", "--listen", at)
	until(t, "not ready for the refusal", func() bool {
		code, text := get("http://" + at + "/readyz")
		return code == http.StatusServiceUnavailable && strings.Contains(text, "refuses this program's polls (Poll") && strings.Contains(text, "PermissionDenied: worker w may not")
	})
	if code, out := h.run("worker", "health", "--listen", at); code != 1 || !strings.Contains(out, "worker w may not") {
		t.Errorf("worker health: exit code %d, %s", code, out)
	}
	refusing.Store(false)
	allowed := time.Now()
	until(t, "ready", func() bool { return ready(at) })
	t.Logf("ready %s after polls are allowed", time.Since(allowed).Round(100*time.Millisecond))
}
