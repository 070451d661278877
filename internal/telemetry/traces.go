package telemetry

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"

	"github.com/almanac-run/almanac/workflows"
)

// Traces sends executions as traces: the execution is the root, its steps are
// spans, and below them the targets, the attempts of this worker and the child
// runbooks.
//
// A span is made when its part has ended, with the time at which that began and
// an id that follows from what it is. So an execution that waits for days needs no
// process that remembers its spans, and any worker can end what another began.
type Traces struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// The variables by which OpenTelemetry's exporters find their receiver.
const (
	envEndpoint       = "OTEL_EXPORTER_OTLP_ENDPOINT"
	envTracesEndpoint = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	envProtocol       = "OTEL_EXPORTER_OTLP_PROTOCOL"
	envTracesProtocol = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
	envDisabled       = "OTEL_SDK_DISABLED"
	envExporter       = "OTEL_TRACES_EXPORTER"
)

// NewTraces returns what OpenTelemetry's variables (OTEL_…) say; nil if they
// name no receiver.
func NewTraces(ctx context.Context, version string, logger *slog.Logger) (*Traces, error) {
	if os.Getenv(envEndpoint) == "" && os.Getenv(envTracesEndpoint) == "" || os.Getenv(envDisabled) == "true" || os.Getenv(envExporter) == "none" {
		return nil, nil
	}
	var exporter sdktrace.SpanExporter
	var err error
	switch protocol := cmp.Or(os.Getenv(envTracesProtocol), os.Getenv(envProtocol), "http/protobuf"); protocol {
	case "http/protobuf":
		exporter, err = otlptracehttp.New(ctx)
	case "grpc":
		exporter, err = otlptracegrpc.New(ctx)
	default:
		return nil, fmt.Errorf("%s: %q: want http/protobuf or grpc", envProtocol, protocol)
	}
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	// The later of two wins: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
	about, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "almanac-worker"), attribute.String("service.version", version)),
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { logger.Warn("traces cannot be sent", "error", err) }))
	t := &Traces{provider: sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about), sdktrace.WithIDGenerator(given{}))}
	t.tracer = t.provider.Tracer("github.com/almanac-run/almanac")
	return t, nil
}

// Close sends what is left, as long as ctx allows.
func (t *Traces) Close(ctx context.Context) error { return t.provider.Shutdown(ctx) }

// Watch makes a span of what has ended. It is a workflows.Watcher.
func (t *Traces) Watch(p workflows.Part) {
	if p.State == workflows.StateSkipped {
		return
	}
	name := p.Step
	switch p.Of {
	case workflows.PartExecution:
		name = p.Runbook
	case workflows.PartTarget:
		name = p.Step + " on " + p.Node
	case workflows.PartUndo:
		name = "take back " + p.Step
	}
	attributes := []attribute.KeyValue{
		attribute.String("almanac.part", string(p.Of)),
		attribute.String("almanac.execution", p.Execution),
		attribute.String("almanac.run", p.Run),
		attribute.String("almanac.runbook", p.Runbook),
		attribute.String("almanac.outcome", p.State),
	}
	for _, a := range [][2]string{{"step", p.Step}, {"action", p.Action}, {"node", p.Node}, {"error.kind", p.Kind}} {
		if a[1] != "" {
			attributes = append(attributes, attribute.String("almanac."+a[0], a[1]))
		}
	}
	failed := p.Kind
	if p.State == workflows.StateNotRolledBack {
		failed = p.State
	}
	t.span(p.Link, name, p.Start, p.End, failed, attributes)
}

// span makes a span that has the ids of l.
func (t *Traces) span(l workflows.Link, name string, start, end time.Time, failed string, attributes []attribute.KeyValue) {
	ctx := context.WithValue(context.Background(), givenKey{}, l)
	// Whether a trace is sampled is asked of its root, which may not be here: its id decides.
	_, root := t.tracer.Start(ctx, "", trace.WithNewRoot())
	flags := root.SpanContext().TraceFlags()
	if !flags.IsSampled() {
		return
	}
	if l.Parent != [8]byte{} {
		ctx = trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: l.Trace, SpanID: l.Parent, TraceFlags: flags, Remote: true}))
	}
	_, s := t.tracer.Start(ctx, name, trace.WithTimestamp(start), trace.WithAttributes(attributes...))
	if failed != "" {
		s.SetStatus(codes.Error, failed)
	}
	s.End(trace.WithTimestamp(end))
}

// given is the generator of ids that are given in the context.
type (
	given    struct{}
	givenKey struct{}
)

func (given) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	l, _ := ctx.Value(givenKey{}).(workflows.Link)
	return l.Trace, l.Span
}

func (given) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	l, _ := ctx.Value(givenKey{}).(workflows.Link)
	return l.Span
}

// Interceptor makes a span of each attempt at an activity on this worker.
func (t *Traces) Interceptor() interceptor.WorkerInterceptor { return &attempts{traces: t} }

type attempts struct {
	interceptor.WorkerInterceptorBase
	traces *Traces
}

func (a *attempts) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	return &attempt{ActivityInboundInterceptorBase: interceptor.ActivityInboundInterceptorBase{Next: next}, traces: a.traces}
}

type attempt struct {
	interceptor.ActivityInboundInterceptorBase
	traces *Traces
}

func (a *attempt) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	l, linked := workflows.LinkOf(ctx)
	if !linked {
		return a.Next.ExecuteActivity(ctx, in)
	}
	start := time.Now()
	out, err := a.Next.ExecuteActivity(ctx, in)
	info := activity.GetInfo(ctx)
	l.Parent = l.Span
	_, _ = rand.Read(l.Span[:]) // it never fails
	failed := ""
	if err != nil {
		failed = "error"
		if app := (*temporal.ApplicationError)(nil); errors.As(err, &app) {
			failed = app.Type()
		}
	}
	a.traces.span(l, info.ActivityType.Name, start, time.Now(), failed, []attribute.KeyValue{
		attribute.String("almanac.part", "attempt"),
		attribute.String("almanac.execution", info.WorkflowExecution.ID),
		attribute.String("almanac.run", info.WorkflowExecution.RunID),
		attribute.String("almanac.step", info.ActivityID),
		attribute.String("almanac.action", info.ActivityType.Name),
		attribute.Int("almanac.attempt", int(info.Attempt)),
		attribute.String("almanac.outcome", cmp.Or(failed, workflows.StateSucceeded)),
	})
	return out, err
}
