package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/almanac-run/almanac/workflows"
)

// scrape returns /metrics.
func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	s := httptest.NewServer(Handler(NewHealth(""), m))
	defer s.Close()
	resp, err := http.Get(s.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v: %s", resp.Status, err, text)
	}
	return string(text)
}

// worked are metrics of a worker to which everything has happened.
func worked(t *testing.T) *Metrics {
	t.Helper()
	m := NewMetrics("v1")
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, p := range []workflows.Part{
		{Of: workflows.PartExecution, Runbook: "linux/patch", State: "rollback_failed", Kind: "failed"},
		{Of: workflows.PartExecution, Runbook: "linux/patch", State: "succeeded"},
		{Of: workflows.PartStep, Step: "a", Action: "http.request", Call: true, State: "succeeded", End: start.Add(2 * time.Second)},
		{Of: workflows.PartTarget, Step: "b", Action: "host.command.run", Node: "web-1", Call: true, State: "failed", Kind: "unreached", End: start.Add(20 * time.Second)},
		{Of: workflows.PartTarget, Step: "b", Action: "host.command.run", Node: "web-2", Call: true, State: "cancelled", End: start.Add(time.Second)},
		{Of: workflows.PartStep, Step: "b", Action: "host.command.run", State: "failed", Kind: "failed", End: start.Add(20 * time.Second)}, // the sum of its targets
		{Of: workflows.PartUndo, Step: "a", Action: "http.request", State: "not_rolled_back"},
		{Of: workflows.PartUndo, Step: "b", Action: "http.request", State: "rolled_back"},
	} {
		p.Start = start
		m.Watch(p)
	}
	m.countOnce(t.Context(), func(_ context.Context, query string) (int64, error) {
		if strings.Contains(query, "lock/") {
			return 2, nil
		}
		return 5, nil
	})
	// The SDK labels everything with everything, and says "none" where it has nothing to say.
	sdk := m.SDK().WithTags(map[string]string{
		"namespace": "default", "client_name": "temporal_go", "worker_type": "none", "workflow_type": "linux/patch", "activity_type": "http.request", "task-queue": "none",
	})
	for _, tags := range []map[string]string{{"operation": "PollWorkflowTaskQueue"}, {"operation": "StartWorkflowExecution", "workflow_type": "linux/other"}} {
		h := sdk.WithTags(tags)
		h.Counter("temporal_request").Inc(1)
		h.Timer("temporal_request_latency").Record(20 * time.Millisecond)
		h.Timer("temporal_request_latency_attempt").Record(20 * time.Millisecond)
	}
	sdk.Gauge("temporal_sticky_cache_size").Update(3)
	sdk.WithTags(map[string]string{"workflow_type": "linux/other"}).Gauge("temporal_sticky_cache_size").Update(4)
	sdk.Counter("temporal_activity_execution_failed").Inc(1)
	sdk.WithTags(map[string]string{"worker_type": "ActivityWorker"}).Gauge("temporal_worker_task_slots_available").Update(7)
	sdk.WithTags(map[string]string{"worker_type": "ActivityWorker"}).Gauge("temporal_worker_task_slots_used").Update(1)
	sdk.WithTags(map[string]string{"poller_type": "workflow_task"}).Gauge("temporal_num_pollers").Update(2)
	sdk.Timer("temporal_activity_schedule_to_start_latency").Record(time.Second)
	sdk.Timer("temporal_workflow_task_schedule_to_start_latency").Record(time.Second)
	sdk.Counter("temporal_request_failure").Inc(1)
	sdk.Counter("temporal_long_request_failure").Inc(1)
	sdk.Counter("temporal_workflow_task_execution_failed").Inc(1)
	return m
}

func TestMetrics(t *testing.T) {
	text := scrape(t, worked(t))
	for _, want := range []string{
		`almanac_executions_total{outcome="rollback_failed",runbook="linux/patch"} 1`,
		`almanac_executions_total{outcome="succeeded",runbook="linux/patch"} 1`,
		`almanac_step_duration_seconds_bucket{action="http.request",le="1"} 0`,
		`almanac_step_duration_seconds_bucket{action="http.request",le="2.5"} 1`,
		`almanac_step_duration_seconds_sum{action="http.request"} 2`,
		`almanac_step_duration_seconds_count{action="host.command.run"} 1`,
		`almanac_step_failures_total{action="host.command.run",kind="unreached"} 1`,
		`almanac_rollback_failures_total{action="http.request"} 1`,
		`almanac_executions_waiting{for="person"} 3`,
		`almanac_executions_waiting{for="lock"} 2`,
		`almanac_build_info{version="v1"} 1`,
		`temporal_request_total{namespace="default",operation="PollWorkflowTaskQueue"} 1`,
		`temporal_request_total{namespace="default",operation="StartWorkflowExecution"} 1`,
		`temporal_request_latency_seconds_bucket{namespace="default",operation="PollWorkflowTaskQueue",le="0.05"} 1`,
		`temporal_sticky_cache_size{namespace="default"} 4`,
		`temporal_activity_execution_failed_total{activity_type="http.request",namespace="default"} 1`,
		`temporal_workflow_task_execution_failed_total{namespace="default",workflow_type="linux/patch"} 1`,
		`temporal_worker_task_slots_available{namespace="default",worker_type="ActivityWorker"} 7`,
		"go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if strings.Contains(text, `kind="failed"`) {
		t.Error("a step on several targets is counted beside its targets")
	}
	if strings.Contains(text, "_attempt_seconds") {
		t.Error("there are latencies of attempts")
	}
	for _, name := range metricNames(text) {
		if !strings.Contains(text, "# HELP "+name+" ") {
			t.Errorf("%s has no help", name)
		}
	}
}

// metricNames are the names of the metrics in a scrape.
func metricNames(text string) []string {
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+) `).FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

// Whatever runbooks are called and whatever the SDK says, there is an end to series.
func TestBounded(t *testing.T) {
	m := NewMetrics("v1")
	for i := range 3000 {
		name := fmt.Sprint("made-up/", i)
		m.Watch(workflows.Part{Of: workflows.PartExecution, Runbook: name, State: "succeeded"})
		m.Watch(workflows.Part{Of: workflows.PartStep, Action: name, Call: true, State: "succeeded"})
		m.SDK().WithTags(map[string]string{"workflow_type": name}).Counter("temporal_workflow_completed").Inc(1)
		m.SDK().WithTags(map[string]string{"task_queue": name}).Counter("temporal_other").Inc(1)
	}
	text := scrape(t, m)
	for name, most := range map[string]int{"almanac_executions_total{": mostNames + 1, "almanac_step_duration_seconds_sum{": mostNames + 1, "temporal_workflow_completed_total{": mostNames + 1, "temporal_other_total{": mostSeries} {
		if n := strings.Count(text, "\n"+name); n != most {
			t.Errorf("%d series of %s, want %d", n, name, most)
		}
	}
	if !strings.Contains(text, `almanac_executions_total{outcome="succeeded",runbook="other"} 2800`) {
		t.Error("what came later is not counted as other")
	}
}

// What waits stays as it was last counted if the server does not tell.
func TestCountFails(t *testing.T) {
	m := NewMetrics("v1")
	m.countOnce(t.Context(), func(context.Context, string) (int64, error) { return 0, errors.New("away") })
	if text := scrape(t, m); strings.Contains(text, `almanac_executions_waiting{`) {
		t.Error("there is a number that nobody told")
	}
}

func TestHealth(t *testing.T) {
	var answer error
	h := NewHealth("starting")
	s := httptest.NewServer(Handler(h, NewMetrics("v1")))
	defer s.Close()
	address := strings.TrimPrefix(s.URL, "http://")
	ask := func(want string) {
		t.Helper()
		err := Ask(t.Context(), address)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	ask("503 Service Unavailable: not ready: starting")
	h.Ready(func(context.Context) error { return answer })
	ask("")
	answer = errors.New("connection refused")
	ask("not ready: connection refused")
	answer = nil
	h.NotReady("the worker stops")
	ask("the worker stops")
	s.Close()
	ask("refused")
	if err := Ask(t.Context(), "nonsense"); err == nil {
		t.Error("an address without a port was taken")
	}
}

// 0.0.0.0 is where one listens, not whom one asks.
func TestAskEverywhere(t *testing.T) {
	at, stop, err := Serve("0.0.0.0:0", Handler(NewHealth("starting"), NewMetrics("v1")))
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := Ask(t.Context(), fmt.Sprintf("0.0.0.0:%d", at.(*net.TCPAddr).Port)); err == nil || !strings.Contains(err.Error(), "starting") {
		t.Error(err)
	}
}

func TestNotify(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Notify("READY=1"); err != nil {
		t.Error(err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
	if err := Notify("READY=1"); err == nil {
		t.Error("nobody listens, and nobody says so")
	}
}

func TestTracesOff(t *testing.T) {
	for _, name := range []string{envEndpoint, envTracesEndpoint, envProtocol, envTracesProtocol, envDisabled, envExporter} {
		t.Setenv(name, "")
	}
	if tr, err := NewTraces(t.Context(), "v1", slog.Default()); tr != nil || err != nil {
		t.Errorf("%v, %v without an endpoint", tr, err)
	}
	t.Setenv(envEndpoint, "http://127.0.0.1:1")
	t.Setenv(envProtocol, "smoke")
	if _, err := NewTraces(t.Context(), "v1", slog.Default()); err == nil || !strings.Contains(err.Error(), "want http/protobuf or grpc") {
		t.Error(err)
	}
}

// TestAlerts holds the shipped rules, and the tables of the documentation, against a scrape.
func TestAlerts(t *testing.T) {
	metrics := metricNames(scrape(t, worked(t)))
	known := func(name string) bool {
		for _, suffix := range []string{"", "_bucket", "_count", "_sum"} {
			if slices.Contains(metrics, strings.TrimSuffix(name, suffix)) {
				return true
			}
		}
		return false
	}
	text, err := os.ReadFile("../../deploy/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil {
		t.Fatal(err)
	}
	metric := regexp.MustCompile(`\b(almanac|temporal|go|process)_[a-z_]+`)
	increased := regexp.MustCompile(`increase\(([a-z_]+)[^\[]*\[([0-9a-z]+)\]`)
	docs, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	rules := 0
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			rules++
			names := metric.FindAllString(r.Expr, -1)
			if len(names) == 0 && !strings.Contains(r.Expr, "up{") || r.Alert == "" || r.Annotations["summary"] == "" || r.Labels["severity"] == "" {
				t.Errorf("rule %q: expression %q, severity %q, summary %q", r.Alert, r.Expr, r.Labels["severity"], r.Annotations["summary"])
			}
			if strings.Count(r.Expr, "(") != strings.Count(r.Expr, ")") {
				t.Errorf("rule %s: parentheses of %q", r.Alert, r.Expr)
			}
			// A counter that begins with 1 has not increased.
			for _, m := range increased.FindAllStringSubmatch(r.Expr, -1) {
				if !strings.Contains(r.Expr, "unless "+m[1]+" offset "+m[2]) {
					t.Errorf("rule %s does not see a first %s", r.Alert, m[1])
				}
			}
			for _, n := range names {
				if !known(n) {
					t.Errorf("rule %s: no worker has the metric %s", r.Alert, n)
				}
			}
			if !strings.Contains(string(docs), "`"+r.Alert+"`") {
				t.Errorf("rule %s is not in docs/operations.md", r.Alert)
			}
		}
	}
	if rules < 5 {
		t.Errorf("%d rules", rules)
	}
	for _, n := range metrics {
		if strings.HasPrefix(n, "almanac_") && !strings.Contains(string(docs), "`"+n+"`") {
			t.Errorf("metric %s is not in docs/operations.md", n)
		}
	}
	for _, n := range metric.FindAllString(string(docs), -1) {
		if (strings.HasPrefix(n, "almanac_") || strings.HasPrefix(n, "temporal_")) && !known(n) {
			t.Errorf("docs/operations.md tells of %s, which no worker has", n)
		}
	}
}
