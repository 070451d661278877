package e2e

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/almanac-run/almanac/internal/inventory"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/workflows"
)

// TestCompliance asks a server how a fleet complies, as somebody at a desk does,
// and has it and an execution on its nodes made into pages.
func TestCompliance(t *testing.T) {
	t.Parallel()
	srv, c := serve(t, nil)
	w := worker.New(c, workflows.TaskQueue, worker.Options{})
	workflows.Register(w)
	kept := func(context.Context, string, workflows.ComplianceRecord) error { return nil }
	w.RegisterActivityWithOptions(kept, activity.RegisterOptions{Name: workflows.ActionRecordCompliance})
	var asked struct {
		Since    time.Time `json:"since"`
		Baseline string    `json:"baseline"`
	}
	history := func(_ context.Context, _ string, in json.RawMessage) (any, error) {
		if err := json.Unmarshal(in, &asked); err != nil {
			return nil, err
		}
		day := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
		return map[string]any{"days": []inventory.ComplianceDay{{Day: day}, {Day: day.AddDate(0, 0, 1), Compliant: 1, NonCompliant: 2, Unknown: 1}}}, nil
	}
	w.RegisterActivityWithOptions(history, activity.RegisterOptions{Name: "almanac.compliance.history"})
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)

	finds := func(id string, all ...registry.Compliance) {
		t.Helper()
		_, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: registry.WorkflowID(id), TaskQueue: registry.TaskQueue}, registry.WorkflowType,
			registry.Node{ID: id, Name: id + ".example", OS: "debian", Version: "13", Reach: registry.ReachSSM, Online: true, Seen: time.Now(), Tags: map[string]string{"role": strings.TrimRight(id, "0123456789-")}})
		for _, found := range all {
			if err == nil {
				err = c.SignalWorkflow(t.Context(), registry.WorkflowID(id), "", registry.SignalFacts, found)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	finds("web-1", registry.Compliance{Baseline: "linux", Status: registry.Compliant})
	finds("web-2", registry.Compliance{Baseline: "linux", Status: registry.NonCompliant, Missing: map[string]int{"critical": 3, "important": 12}, Message: "</td><script>x</script>"})
	finds("web-3")
	finds("db-1", registry.Compliance{Baseline: "linux", Status: registry.NonCompliant, RebootPending: true})
	const listed = `WorkflowType = "almanac.node" AND AlmanacCompliance = "non_compliant"` // as the help says
	wait(t, "what the nodes come to", func() bool {
		page, err := c.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{Namespace: "default", Query: listed})
		return err == nil && len(page.GetExecutions()) == 2
	})

	d := sit(t, srv.Address())
	says := func(code int, parts []string, args ...string) string {
		t.Helper()
		got, out := d.call(args...)
		if got != code {
			t.Errorf("%q: exit code %d, want %d\n%s", args, got, code, out)
		}
		for _, part := range parts {
			if !strings.Contains(out, part) {
				t.Errorf("%q lacks %q:\n%s", args, part, out)
			}
		}
		return out
	}
	wait(t, "all four nodes", func() bool {
		_, out := d.call("compliance")
		return strings.Contains(out, "1 of 4 compliant, 1 unknown; missing: 3 critical, 12 important on 1 node\n") && strings.Count(out, "\n") == 6
	})
	if out := says(0, []string{"web-2", "web-3", "db-1"}, "compliance", "--missing"); strings.Contains(out, "web-1") {
		t.Errorf("a node that complies is shown as missing something:\n%s", out)
	}
	says(12, []string{"--fail-on critical: 1 of 4 nodes lack"}, "compliance", "--fail-on", "critical")
	says(0, nil, "compliance", "--fail-on", "critical", "--where", `node.id == "db-1"`)
	says(12, []string{"--fail-on any: 1 of 1 nodes"}, "compliance", "--fail-on", "any", "--where", `node.id == "db-1"`)
	says(12, nil, "compliance", "--fail-on", "any", "--where", `node.id == "web-3"`)
	says(0, nil, "compliance", "--fail-on", "any", "--where", `node.id == "web-1"`)
	says(1, []string{"nothing to judge"}, "compliance", "--fail-on", "any", "--where", `node.id == "nobody"`)
	says(0, []string{"0 of 4 compliant, 4 unknown"}, "compliance", "--baseline", "sshd")
	var all struct {
		Standings []registry.Compliance `json:"standings"`
		Fleet     struct {
			Nodes int `json:"nodes"`
		} `json:"fleet"`
	}
	if err := json.Unmarshal([]byte(says(0, nil, "compliance", "-o", "json")), &all); err != nil || len(all.Standings) != 4 || all.Fleet.Nodes != 4 || all.Standings[0].Since.IsZero() {
		t.Errorf("%v: %+v", err, all)
	}
	rows, err := csv.NewReader(strings.NewReader(says(0, nil, "compliance", "--csv"))).ReadAll()
	if err != nil || len(rows) != 5 {
		t.Errorf("%v: %q", err, rows)
	}
	says(0, []string{"2026-11-25  1", "25%"}, "compliance", "--history", "30d", "--baseline", "linux")
	if back := time.Since(asked.Since); asked.Baseline != "linux" || back < 30*24*time.Hour || back > 31*24*time.Hour {
		t.Errorf("asked was %+v", asked)
	}

	page := func(parts ...string) {
		t.Helper()
		text := text(filepath.Join(d.dir, "page.html"))
		for _, part := range parts {
			if !strings.Contains(text, part) {
				t.Errorf("the page lacks %q", part)
			}
		}
		if strings.Contains(text, "<script>x") {
			t.Error("what a node says has become markup")
		}
	}
	says(0, []string{"page.html ("}, "nodes", "--html", "page.html")
	page("<code>web-2</code>", "3 critical, 12 important", "2026-11-25: 1 compliant, 2 not compliant, 1 unknown", "&lt;/td&gt;&lt;script&gt;")
	says(0, nil, "nodes", "--where", `node.tags.role == "db"`, "--html", "page.html")
	page("<code>db-1</code>", "known of the whole fleet only")

	// An execution on nodes, of which one fails and one is away.
	d.agents("n1", "n2")
	if err := os.WriteFile(filepath.Join(d.dir, "repeat.yaml"), []byte(repeatRunbook), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.dir, "ok-n1"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, out := d.call("run", "./repeat.yaml", "--id", "first", "-i", "nodes=n1,n2,n3", "-i", "dir="+d.dir); !strings.Contains(out, "1 ok, 1 failed, 1 unreached") {
		t.Errorf("%s", out)
	}
	says(2, []string{"--html FILE"}, "report", "first")
	says(0, nil, "report", "first", "--html", "page.html")
	page("test/repeat", "sha256:", "work: 3 targets", "run --only-failed first", "n1: succeeded", "n2: failed", "n3: unreached", "no ok for n2", "exit code 3")
	says(1, []string{"there is no execution nobody"}, "report", "nobody", "--html", "page.html")
}

// TestReportOfRuns makes the page of an execution that was continued as new a few
// times: what each run did is on it.
func TestReportOfRuns(t *testing.T) {
	t.Parallel()
	srv, c := serve(t, often(50))
	work(t, c, workflows.TaskQueue)
	var items []string
	for i := range 60 {
		items = append(items, fmt.Sprint(i))
	}
	p := compileLedger(t, `
runbook: test/runs
steps:
  - id: all
    for_each: [`+strings.Join(items, ", ")+`]
    steps:
      - { id: one, action: crash.nothing, with: { name: "${{ string(item) }}" } }
`, nil)
	run := begin(t, c, workflows.TaskQueue, p, nil)
	began := run.GetRunID()
	if r := ended(t, run); r.Outcome != workflows.Succeeded {
		t.Fatalf("%s: %s", r.Outcome, r.Message)
	}
	last, err := c.DescribeWorkflowExecution(t.Context(), run.GetID(), "")
	if err != nil || last.GetWorkflowExecutionInfo().GetExecution().GetRunId() == began {
		t.Fatalf("it was not continued as new (%v)", err)
	}
	d := sit(t, srv.Address())
	if code, out := d.call("report", run.GetID(), "--html", "page.html"); code != 0 {
		t.Fatal(out)
	}
	got := text(filepath.Join(d.dir, "page.html"))
	for i := range 60 {
		if !strings.Contains(got, fmt.Sprintf("[%d].one: succeeded", i)) {
			t.Errorf("iteration %d is not on the page", i)
		}
	}
}
