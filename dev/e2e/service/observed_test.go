package service

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	temporalpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/proto"
)

// receiver is an OTLP receiver.
type receiver struct {
	*httptest.Server
	mu    sync.Mutex
	spans map[string]*tracepb.Span // by id
	raw   strings.Builder
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{spans: map[string]*tracepb.Span{}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body := io.Reader(req.Body)
		if req.Header.Get("Content-Encoding") == "gzip" {
			unzipped, err := gzip.NewReader(req.Body)
			if err != nil {
				t.Error(err)
				return
			}
			body = unzipped
		}
		raw, err := io.ReadAll(body)
		var got v1.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(raw, &got)
		}
		if err != nil || req.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", req.URL.Path, err)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.raw.Write(raw)
		for _, of := range got.ResourceSpans {
			for _, scope := range of.ScopeSpans {
				for _, s := range scope.Spans {
					r.spans[hex.EncodeToString(s.SpanId)] = s
				}
			}
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func attribute(s *tracepb.Span, key string) string {
	for _, a := range s.Attributes {
		if a.Key == "almanac."+key {
			switch v := a.Value.Value.(type) {
			case *commonpb.AnyValue_StringValue:
				return v.StringValue
			case *commonpb.AnyValue_IntValue:
				return fmt.Sprint(v.IntValue)
			}
		}
	}
	return ""
}

// tree draws the spans of an execution: a line for each, below its parent, with what it came to.
func (r *receiver) tree(execution string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	below := map[string][]*tracepb.Span{}
	for _, s := range r.spans {
		parent := hex.EncodeToString(s.ParentSpanId)
		if len(s.ParentSpanId) > 0 && r.spans[parent] == nil {
			parent = "missing"
		}
		below[parent] = append(below[parent], s)
	}
	var b strings.Builder
	var draw func(s *tracepb.Span, depth int)
	draw = func(s *tracepb.Span, depth int) {
		line := strings.Repeat("  ", depth) + s.Name + ": " + attribute(s, "part") + " " + attribute(s, "action")
		if node := attribute(s, "node"); node != "" {
			line += " on " + node
		}
		if n := attribute(s, "attempt"); n != "" {
			line += " attempt " + n
		}
		fmt.Fprintf(&b, "%s, %s\n", line, attribute(s, "outcome"))
		r.children(below[hex.EncodeToString(s.SpanId)], func(c *tracepb.Span) { draw(c, depth+1) })
	}
	r.children(below[""], func(s *tracepb.Span) {
		if attribute(s, "execution") == execution {
			draw(s, 0)
		}
	})
	for _, s := range below["missing"] {
		fmt.Fprintf(&b, "without its parent: %s\n", s.Name)
	}
	return b.String()
}

func (r *receiver) children(spans []*tracepb.Span, draw func(*tracepb.Span)) {
	slices.SortFunc(spans, func(a, b *tracepb.Span) int {
		if a.StartTimeUnixNano != b.StartTimeUnixNano {
			return int(int64(a.StartTimeUnixNano) - int64(b.StartTimeUnixNano))
		}
		return strings.Compare(a.Name, b.Name)
	})
	for _, s := range spans {
		draw(s)
	}
}

const (
	parentRunbook = `
runbook: test/parent
inputs:
  url: { type: string }
  what: { type: string }
  password: { type: secret }
steps:
  - id: loop
    for_each: [a, b]
    steps:
      - id: up
        targets: [ "${{ item }}" ]
        env: { WHAT: "${{ inputs.what }}" }
        run: echo "$WHAT"; echo canary-output-"$(printf 91)"bc
  - id: both
    targets: [a, b]
    run: echo canary-output-"$(printf 91)"bc
  - id: child
    runbook: test/child
    with: { url: "${{ inputs.url }}", what: "${{ inputs.what }}" }
  - id: file
    targets: [a]
    action: host.file.write
    with: { path: /tmp/almanac-canary, content: "${{ inputs.what }}" }
  - id: ok
    approval: { message: "canary-message-d9e0?" }
  - id: boom
    action: http.request
    with: { method: POST, url: "${{ inputs.url }}/fails", body: "${{ inputs.what }}", headers: { X-Password: "${{ inputs.password }}" } }
`
	childRunbook = `
runbook: test/child
inputs:
  url: { type: string }
  what: { type: string }
steps:
  - id: call
    action: http.request
    with: { method: POST, url: "${{ inputs.url }}/works", body: "${{ inputs.what }}" }
  - id: shell
    on_error: continue
    targets: [a]
    run: echo canary-output-"$(printf 91)"bc >&2; exit 3
`
)

// What an execution with a loop, several targets, a child, a rollback and a change of workers comes to.
const wantTree = `test/parent: execution , rolled_back
  loop: step for_each, succeeded
    loop[0].up: step host.command.run on a, succeeded
    loop[1].up: step host.command.run on b, succeeded
  both: step host.command.run, succeeded
    both on a: target host.command.run on a, succeeded
    both on b: target host.command.run on b, succeeded
  child: step runbook, succeeded
    test/child: execution , succeeded
      call: step http.request, succeeded
        http.request: attempt http.request attempt 1, succeeded
      shell: step host.command.run on a, handled
  file: step host.file.write on a, succeeded
  ok: step approval, succeeded
  boom: step http.request, failed
    http.request: attempt http.request attempt 1, invalid
  take back file: undo host.file.write on a, rolled_back
`

// TestObserved looks at an execution as operators do, while everybody logs all they have to say.
func TestObserved(t *testing.T) {
	t.Parallel()
	h := settle(t)
	h.write("test/parent.yaml", parentRunbook)
	h.write("test/child.yaml", childRunbook)
	h.write("secret", "canary-password-17aa")
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/fails") {
			w.WriteHeader(http.StatusBadRequest)
		}
		fmt.Fprint(w, "canary-answer-41ee")
	}))
	t.Cleanup(web.Close)
	otlp := newReceiver(t)
	traced := []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + otlp.URL}
	at := port(t)
	settings := h.write("worker.yaml", "listen: "+at+"\nlog-level: debug\nlog-format: json\n")
	worker := []string{"--config", settings}
	w := h.start(traced, "worker", worker...)
	logs := []*buffer{w.log}
	var agent *process
	for _, id := range []string{"a", "b"} {
		state := h.dir + "/state-" + id
		if err := os.MkdirAll(state, 0o700); err != nil {
			t.Fatal(err)
		}
		root := h.dir + "/root-" + id
		if err := os.MkdirAll(root+"/tmp", 0o700); err != nil {
			t.Fatal(err)
		}
		agent = h.start([]string{"ALMANAC_LOG_LEVEL=debug", "ALMANAC_ID=" + id}, "agent", "--state-dir", state, "--ec2-metadata", "off", "--root", root)
		logs = append(logs, agent.log)
	}
	until(t, "the nodes", func() bool {
		_, out := h.run("starter", "nodes", "-o", "json")
		return strings.Contains(out, `"a"`) && strings.Contains(out, `"b"`)
	})
	run := func(id string) {
		t.Helper()
		h.must("starter", "run", "test/parent", "--id", id, "--detach", "-i", "url="+web.URL, "-i", "what=canary-input-7f3a", "-i", "password=file:"+h.dir+"/secret")
		until(t, "the approval", func() bool {
			_, out := h.run("starter", "show", id)
			return strings.Contains(out, "waiting") && strings.Contains(out, "canary-message")
		})
	}
	stop := func(w *process) {
		t.Helper()
		if err := w.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code := w.end(t); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
	finish := func(id string) {
		t.Helper()
		h.must("starter", "approve", id, "ok", "--comment", "canary-comment-ab18")
		if code, out := h.run("starter", "watch", id); code != 5 { // rolled back
			t.Errorf("exit code %d: %s", code, out)
		}
	}
	run("one")
	waiting := `almanac_executions_waiting{for="person"} 1`
	until(t, "the metric of those that wait", func() bool { _, text := get("http://" + at + "/metrics"); return strings.Contains(text, waiting) })
	_, first := get("http://" + at + "/metrics")
	stop(w)
	w = h.start(traced, "worker", worker...)
	logs = append(logs, w.log)
	until(t, "the second worker", func() bool { return ready(at) })
	finish("one")
	until(t, "nobody waits", func() bool {
		_, text := get("http://" + at + "/metrics")
		return strings.Contains(text, `almanac_executions_waiting{for="person"} 0`)
	})
	_, second := get("http://" + at + "/metrics")
	stop(w) // which sends what is left

	got := otlp.tree("one")
	if got != wantTree {
		t.Errorf("the trace is\n%s\nwant\n%s", got, wantTree)
	}
	traces := map[string]bool{}
	otlp.mu.Lock()
	for _, s := range otlp.spans {
		traces[hex.EncodeToString(s.TraceId)] = true
		if s.EndTimeUnixNano < s.StartTimeUnixNano {
			t.Errorf("%s ends before it begins", s.Name)
		}
	}
	raw := otlp.raw.String()
	otlp.mu.Unlock()
	if len(traces) != 1 {
		t.Errorf("%d traces, want one", len(traces))
	}

	// Counted by the worker under which it ended, and not again by the one that replayed it.
	for text, wants := range map[string][]string{
		first:  {`almanac_step_duration_seconds_count{action="host.command.run"} 5`, `almanac_executions_total{outcome="succeeded",runbook="test/child"} 1`, `almanac_step_failures_total{action="host.command.run",kind="failed"} 1`},
		second: {`almanac_executions_total{outcome="rolled_back",runbook="test/parent"} 1`, `almanac_step_failures_total{action="http.request",kind="invalid"} 1`, `almanac_step_duration_seconds_count{action="http.request"} 1`},
	} {
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("missing: %s\n%s", want, lines(text, "almanac_"))
			}
		}
	}
	if strings.Contains(second, `action="host.command.run"`) {
		t.Errorf("the second worker counts what the first has counted:\n%s", lines(second, "almanac_"))
	}
	// The shipped alerts are about what a real worker tells.
	rules, err := os.ReadFile("../../../deploy/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	both := first + second
	for _, name := range regexp.MustCompile(`\btemporal_[a-z_]+`).FindAllString(string(rules), -1) {
		switch name {
		case "temporal_request_failure_total", "temporal_long_request_failure_total", "temporal_workflow_task_execution_failed_total": // nothing failed
		case "temporal_activity_schedule_to_start_latency_seconds_bucket": // this worker got its activities with the workflow's task
		default:
			if strings.Contains(both, name) {
				continue
			}
			t.Errorf("alerts.yaml has %s, which no worker told", name)
		}
	}
	labels := `temporal_workflow_task_schedule_to_start_latency_seconds_bucket{`
	if i := strings.Index(both, labels); i < 0 || !strings.Contains(both[i:i+strings.IndexByte(both[i:], '\n')], `task_queue="almanac"`) {
		t.Errorf("%s has no task_queue", labels)
	}

	// Nothing of what people put in or commands put out is anywhere.
	canary := regexp.MustCompile(`canary-(input|output|answer|message|comment|password)[^\n]*`)
	seen := map[string]string{"metrics": both, "spans": raw}
	for i, l := range logs {
		seen[fmt.Sprint("log ", i)] = l.String()
	}
	for where, text := range seen {
		if found := canary.FindString(text); found != "" {
			i := strings.Index(text, found)
			t.Errorf("%s: …%s", where, text[max(0, i-300):i+len(found)])
		}
		if len(text) < 400 {
			t.Errorf("%s has %d bytes: this test sees nothing", where, len(text))
		}
	}
	// Lines about work say whose.
	for _, line := range strings.Split(logs[0].String(), "\n") {
		if strings.Contains(line, `"msg":"step has ended"`) && strings.Contains(line, `"loop[0].up"`) {
			for _, key := range []string{`"execution":"one"`, `"run":"`, `"runbook":"test/parent"`, `"action":"host.command.run"`, `"node":"a"`, `"state":"succeeded"`} {
				if !strings.Contains(line, key) {
					t.Errorf("no %s in %s", key, line)
				}
			}
		}
	}
	if !strings.Contains(logs[0].String(), `"msg":"step has ended"`) {
		t.Error("no line about a step")
	}

	// What the links cost in history.
	w = h.start(nil, "worker", worker...)
	until(t, "the third worker", func() bool { return ready(at) })
	run("two")
	stop(w)
	w = h.start(nil, "worker", worker...)
	finish("two")
	c, err := client.Dial(client.Options{HostPort: h.address})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	size := func(id string) (all, headers, n int) {
		events := c.GetWorkflowHistory(t.Context(), id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
		for events.HasNext() {
			e, err := events.Next()
			if err != nil {
				t.Fatal(err)
			}
			all += proto.Size(e)
			for _, header := range []*temporalpb.Header{e.GetActivityTaskScheduledEventAttributes().GetHeader(), e.GetStartChildWorkflowExecutionInitiatedEventAttributes().GetHeader()} {
				if len(header.GetFields()) > 0 {
					headers += proto.Size(header)
					n++
				}
			}
		}
		return all, headers, n
	}
	t.Logf("memory: worker %s, agent %s", w.memory(t), agent.memory(t))
	all, headers, n := size("one")
	t.Logf("links in a history of %d bytes: %d of %d bytes each, %.1f %%", all, n, headers/max(n, 1), 100*float64(headers)/float64(all))
	if n < 8 || headers > 100*n {
		t.Errorf("%d links of %d bytes", n, headers)
	}
	if _, headers, _ := size("two"); headers > 0 {
		t.Errorf("without traces there are %d bytes of links", headers)
	}
}

// lines are those that begin with some text.
func lines(text, prefix string) string {
	var b strings.Builder
	for _, line := range strings.SplitAfter(text, "\n") {
		if strings.HasPrefix(line, prefix) && !strings.Contains(line, "_bucket") {
			b.WriteString(line)
		}
	}
	return b.String()
}
