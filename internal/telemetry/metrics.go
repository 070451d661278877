package telemetry

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.temporal.io/sdk/client"

	"github.com/almanac-run/almanac/workflows"
)

// Metrics are the metrics of a worker: its own, the SDK's, and those of the process.
type Metrics struct {
	registry *prometheus.Registry
	sdk      *sdkMetrics

	executions       *prometheus.CounterVec
	steps            *prometheus.HistogramVec
	failures         *prometheus.CounterVec
	rollbackFailures *prometheus.CounterVec
	waiting          *prometheus.GaugeVec
	asked            prometheus.Gauge

	runbooks, actions names
}

// seconds are the buckets of a step's duration: from a call of an API to an installation.
var seconds = []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600}

// NewMetrics returns the metrics of a worker of this version.
func NewMetrics(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		sdk:      newSDKMetrics(),
		executions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "almanac_executions_total", Help: "Executions that ended, by runbook and outcome.",
		}, []string{"runbook", "outcome"}),
		steps: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "almanac_step_duration_seconds", Help: "Time from the beginning to the end of a step that calls an action, or of one of its targets, with all attempts.", Buckets: seconds,
		}, []string{"action"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "almanac_step_failures_total", Help: "Calls of an action that failed after all attempts, by the kind of the last error.",
		}, []string{"action", "kind"}),
		rollbackFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "almanac_rollback_failures_total", Help: "Compensations that failed: something was left behind.",
		}, []string{"action"}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "almanac_executions_waiting", Help: "Executions that wait for a person (approval, pause, choice) or for a lock. All workers tell the same number: take max(), not sum().",
		}, []string{"for"}),
		asked: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "almanac_executions_waiting_asked_timestamp_seconds", Help: "When almanac_executions_waiting was last counted, as Unix time.",
		}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "almanac_build_info", Help: "1, with the version of the worker.", ConstLabels: prometheus.Labels{"version": version}})
	build.Set(1)
	m.registry.MustRegister(m.executions, m.steps, m.failures, m.rollbackFailures, m.waiting, m.asked, build, m.sdk,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *Metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4})
}

// SDK is what Temporal's SDK reports to.
func (m *Metrics) SDK() client.MetricsHandler { return m.sdk.root() }

// Watch counts what has ended. It is a workflows.Watcher.
func (m *Metrics) Watch(p workflows.Part) {
	action := func() string { return m.actions.bound(p.Action) }
	switch {
	case p.Of == workflows.PartExecution:
		m.executions.WithLabelValues(m.runbooks.bound(p.Runbook), p.State).Inc()
	case p.Of == workflows.PartUndo:
		if p.State == workflows.StateNotRolledBack {
			m.rollbackFailures.WithLabelValues(action()).Inc()
		}
	case p.Call && p.State != workflows.StateCancelled:
		m.steps.WithLabelValues(action()).Observe(max(0, p.End.Sub(p.Start).Seconds()))
		if p.Kind != "" {
			m.failures.WithLabelValues(action(), p.Kind).Inc()
		}
	}
}

// Queries that count the executions which wait.
const (
	queryWaiting = "ExecutionStatus = 'Running' AND AlmanacStatus = 'waiting'"
	queryLocked  = queryWaiting + " AND (AlmanacStep STARTS_WITH 'lock/' OR AlmanacStep STARTS_WITH 'slots/')"
)

// countEvery is how often the waiting are counted.
const countEvery = 15 * time.Second

// Count counts the executions that wait, until ctx ends. If the server does not
// tell, the last number stays, and the time at which it was counted.
func (m *Metrics) Count(ctx context.Context, count func(ctx context.Context, query string) (int64, error)) {
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	for {
		m.countOnce(ctx, count)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (m *Metrics) countOnce(ctx context.Context, count func(ctx context.Context, query string) (int64, error)) {
	ctx, cancel := context.WithTimeout(ctx, countEvery)
	defer cancel()
	all, err := count(ctx, queryWaiting)
	if err != nil {
		return
	}
	locked, err := count(ctx, queryLocked)
	if err != nil {
		return
	}
	m.waiting.WithLabelValues("person").Set(float64(max(0, all-locked)))
	m.waiting.WithLabelValues("lock").Set(float64(locked))
	m.asked.SetToCurrentTime()
}

// mostNames is how many values a label takes whose values people choose: those
// that come later are counted as "other".
const mostNames = 200

// names are the values that a label has. The zero value is ready.
type names struct {
	mu   sync.Mutex
	seen map[string]bool
}

func (n *names) bound(name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.seen[name]:
	case len(n.seen) >= mostNames || len(name) > 200:
		return "other"
	default:
		if n.seen == nil {
			n.seen = map[string]bool{}
		}
		n.seen[name] = true
	}
	return name
}
