package telemetry

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/sdk/client"
)

// sdkMetrics are the metrics that Temporal's SDK reports. The SDK makes the
// series of one metric with different labels, which a vector of Prometheus's
// library refuses; so each series is a metric of its own, and this is the
// collector of all. Names are those of Temporal's documentation: a counter ends
// in _total, a timer in _seconds.
//
// Of the SDK's labels those are left out that multiply series and tell nobody
// anything: workflow_type (a runbook's name) and activity_type stand at counters of
// what they name only. A histogram of each runbook times each action would be
// thousands of series, and almanac_step_duration_seconds tells what they take. A gauge
// is one of the whole worker: with such a label it would keep what was so when that
// type was last seen. Also left out are labels that say "none", client_name, which is
// always the same, and the latency of each attempt of a request, of which there is the latency as a whole.
type sdkMetrics struct {
	mu     sync.Mutex
	series map[string]prometheus.Metric // by name and labels
	count  map[string]int               // series of a name
	types  names                        // workflow types, which are names of runbooks
}

// mostSeries bounds the series of one metric of the SDK: later ones are not told.
const mostSeries = 1000

// latencies are the buckets of the SDK's timers, in seconds. 0.2 and 2 are
// those at which Temporal's guide and our rule AlmanacWorkersBusy give alarm; a long poll takes a minute.
var latencies = []float64{.01, .05, .1, .2, .5, 1, 2, 10, 60}

func newSDKMetrics() *sdkMetrics {
	return &sdkMetrics{series: map[string]prometheus.Metric{}, count: map[string]int{}}
}

// Describe says nothing: which series there are is known when the SDK makes them.
func (m *sdkMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect gives all series.
func (m *sdkMetrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	all := slices.Collect(maps.Values(m.series))
	m.mu.Unlock()
	for _, s := range all {
		ch <- s
	}
}

func (m *sdkMetrics) root() client.MetricsHandler { return sdkHandler{m, nil} }

// sdkHandler is a client.MetricsHandler with labels.
type sdkHandler struct {
	all    *sdkMetrics
	labels prometheus.Labels
}

func (h sdkHandler) WithTags(tags map[string]string) client.MetricsHandler {
	labels := maps.Clone(h.labels)
	if labels == nil {
		labels = prometheus.Labels{}
	}
	for name, value := range tags {
		if name == "workflow_type" {
			value = h.all.types.bound(value)
		}
		labels[strings.ReplaceAll(name, "-", "_")] = strings.ToValidUTF8(value, "")
	}
	return sdkHandler{h.all, labels}
}

func (h sdkHandler) Counter(name string) client.MetricsCounter {
	of := ""
	switch {
	case strings.HasPrefix(name, "temporal_workflow_"):
		of = "workflow_type"
	case strings.HasPrefix(name, "temporal_activity_"):
		of = "activity_type"
	}
	c, ok := h.metric(name+"_total", of, func(name, help string, labels prometheus.Labels) prometheus.Metric {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels})
	}).(prometheus.Counter)
	return counter(func(n int64) {
		if ok && n > 0 {
			c.Add(float64(n))
		}
	})
}

func (h sdkHandler) Gauge(name string) client.MetricsGauge {
	g, ok := h.metric(name, "", func(name, help string, labels prometheus.Labels) prometheus.Metric {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels})
	}).(prometheus.Gauge)
	return gauge(func(v float64) {
		if ok {
			g.Set(v)
		}
	})
}

func (h sdkHandler) Timer(name string) client.MetricsTimer {
	if strings.HasSuffix(name, "_latency_attempt") {
		return timer(func(time.Duration) {})
	}
	t, ok := h.metric(name+"_seconds", "", func(name, help string, labels prometheus.Labels) prometheus.Metric {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: latencies, ConstLabels: labels})
	}).(prometheus.Histogram)
	return timer(func(d time.Duration) {
		if ok {
			t.Observe(d.Seconds())
		}
	})
}

// metric returns the series of a name and h's labels, made if it is new; nil if
// there are too many. Of the labels that hold types it has the one called of.
func (h sdkHandler) metric(name, of string, create func(name, help string, labels prometheus.Labels) prometheus.Metric) prometheus.Metric {
	labels := maps.Clone(h.labels)
	maps.DeleteFunc(labels, func(label, value string) bool {
		return value == "none" || label == "client_name" || label != of && (label == "workflow_type" || label == "activity_type")
	})
	key := name
	for _, l := range slices.Sorted(maps.Keys(labels)) {
		key += "\x00" + l + "\x00" + labels[l]
	}
	m := h.all
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.series[key]
	if s == nil && m.count[name] < mostSeries {
		m.count[name]++
		s = create(name, "Of Temporal's SDK: "+strings.ReplaceAll(strings.TrimPrefix(name, "temporal_"), "_", " ")+".", labels)
		m.series[key] = s
	}
	return s
}

type (
	counter func(int64)
	gauge   func(float64)
	timer   func(time.Duration)
)

func (c counter) Inc(n int64)          { c(n) }
func (g gauge) Update(v float64)       { g(v) }
func (t timer) Record(d time.Duration) { t(d) }
