package service

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.temporal.io/sdk/client"
)

// TestSeries counts what a worker tells after eight executions of four runbooks: whoever keeps it pays for each series.
func TestSeries(t *testing.T) {
	t.Parallel()
	h := settle(t)
	web := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(web.Close)
	at := port(t)
	h.start(nil, "worker", "--listen", at)
	state := filepath.Join(h.dir, "state")
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	h.start(nil, "agent", "--id", "a", "--state-dir", state, "--ec2-metadata", "off")
	until(t, "the node", func() bool { _, out := h.run("starter", "nodes", "-o", "json"); return strings.Contains(out, `"a"`) })
	const runbooks, executions = 4, 8
	for i := range runbooks {
		h.write(fmt.Sprintf("test/r%d.yaml", i), fmt.Sprintf(seriesRunbook, i))
	}
	for i := range executions {
		h.must("starter", "run", fmt.Sprintf("test/r%d", i%runbooks), "-i", "url="+web.URL)
	}

	// An execution that is refused before its first step is counted as others are.
	c, err := client.Dial(client.Options{HostPort: h.address})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	bad, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{TaskQueue: "almanac"}, "test/refused", "no input of ours")
	if err != nil {
		t.Fatal(err)
	}
	if err := bad.Get(t.Context(), nil); err == nil {
		t.Error("it was not refused")
	}

	_, text := get("http://" + at + "/metrics")
	if want := `almanac_executions_total{outcome="failed",runbook="test/refused"} 1`; !strings.Contains(text, want) {
		t.Errorf("missing: %s\n%s", want, lines(text, "almanac_"))
	}
	of, all, ofRunbooks := map[string]int{}, 0, 0
	for _, m := range regexp.MustCompile(`(?m)^([a-z_]+)(\{.*\})? `).FindAllStringSubmatch(text, -1) {
		of[m[1]]++
		all++
		if strings.Contains(m[2], `"test/r`) {
			ofRunbooks++
		}
	}
	t.Logf("%d KB, %d series, %d of them of a runbook", len(text)>>10, all, ofRunbooks)
	if len(text) > 64<<10 || all > 450 || ofRunbooks > 5*(runbooks+1) {
		for _, name := range slices.Sorted(maps.Keys(of)) {
			t.Logf("%5d %s", of[name], name)
		}
		t.Error("want 64 KB at most, 450 series, and five for each runbook")
	}
	// What Temporal's guides tell people to watch is there.
	for _, want := range []string{
		"temporal_request_total{", "temporal_request_latency_seconds_bucket{", "temporal_long_request_total{",
		"temporal_workflow_task_schedule_to_start_latency_seconds_bucket{", "temporal_workflow_task_execution_latency_seconds_bucket{",
		"temporal_activity_execution_latency_seconds_bucket{", "temporal_worker_task_slots_available{", "temporal_worker_task_slots_used{", "temporal_num_pollers{",
		"temporal_sticky_cache_size{", "temporal_sticky_cache_hit_total{", "temporal_sticky_cache_total_forced_eviction_total{", "temporal_workflow_completed_total{",
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("missing: %s", want)
		}
	}
}

const seriesRunbook = `
runbook: test/r%d
inputs:
  url: { type: string }
lock: l
steps:
  - id: call
    action: http.request
    with: { method: POST, url: "${{ inputs.url }}" }
  - id: both
    targets: [a]
    run: echo hello
  - id: fails
    on_error: continue
    targets: [a]
    run: exit 3
`
