package telemetry

import (
	"context"
	"encoding/hex"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"github.com/almanac-run/almanac/workflows"
)

// spans is an OTLP receiver over gRPC.
type spans struct {
	collector.UnimplementedTraceServiceServer
	mu  sync.Mutex
	all []*tracepb.Span
}

func (s *spans) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range req.ResourceSpans {
		for _, scope := range of.ScopeSpans {
			s.all = append(s.all, scope.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// TestTracesByGRPC sends spans in the other protocol: their ids, times and parents are those of the parts, and
// whether they are sent is decided once for a whole trace.
func TestTracesByGRPC(t *testing.T) {
	for _, name := range []string{envTracesEndpoint, envTracesProtocol, envDisabled, envExporter} {
		t.Setenv(name, "")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got := &spans{}
	s := grpc.NewServer()
	collector.RegisterTraceServiceServer(s, got)
	go func() { _ = s.Serve(l) }() // it ends by Stop
	defer s.Stop()
	t.Setenv(envEndpoint, "http://"+l.Addr().String())
	t.Setenv(envProtocol, "grpc")

	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	send := func(parts ...workflows.Part) []*tracepb.Span {
		t.Helper()
		traces, err := NewTraces(t.Context(), "v1", slog.Default())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range parts {
			traces.Watch(p)
		}
		if err := traces.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		got.mu.Lock()
		defer got.mu.Unlock()
		all := got.all
		got.all = nil
		return all
	}
	part := func(trace, span, parent byte) workflows.Part {
		return workflows.Part{Of: workflows.PartStep, Step: "a", State: "succeeded", Start: start, End: start.Add(time.Minute), Link: workflows.Link{Trace: [16]byte{trace}, Span: [8]byte{span}, Parent: [8]byte{parent}}}
	}
	all := send(part(1, 2, 3))
	if len(all) != 1 {
		t.Fatalf("%d spans", len(all))
	}
	one := all[0]
	if one.TraceId[0] != 1 || one.SpanId[0] != 2 || one.ParentSpanId[0] != 3 || one.EndTimeUnixNano-one.StartTimeUnixNano != uint64(time.Minute) {
		t.Errorf("trace %s, span %s, parent %s", hex.EncodeToString(one.TraceId), hex.EncodeToString(one.SpanId), hex.EncodeToString(one.ParentSpanId))
	}
	if n := len(send(workflows.Part{Of: workflows.PartStep, State: workflows.StateSkipped})); n != 0 {
		t.Error("what was skipped has a span")
	}

	t.Setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
	t.Setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
	var parts []workflows.Part
	for i := range 200 {
		root := part(byte(i), 2, 0)
		root.Trace[8] = byte(i * 37) // the ratio is decided by the second half
		below := root
		below.Span, below.Parent = [8]byte{4}, [8]byte{2}
		parts = append(parts, root, below)
	}
	count := map[string]int{}
	for _, s := range send(parts...) {
		count[string(s.TraceId)]++
	}
	for id, n := range count {
		if n != 2 {
			t.Errorf("trace %x has %d of its 2 spans", id, n)
		}
	}
	if len(count) < 50 || len(count) > 150 {
		t.Errorf("%d of 200 traces", len(count))
	}
}
