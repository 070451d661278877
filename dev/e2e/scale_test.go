package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/workflows"
)

// What no run of an execution may hold.
const (
	mostRunEvents = 8_000
	mostRunBytes  = 8 << 20
)

// crowd is many nodes in one process. Each polls its task queue as an agent
// does, and answers without doing anything.
type crowd struct {
	// do answers one piece of work of a node; beat reports that it goes on, and
	// tells whether it is to be cancelled.
	do func(node, activity string, beat func() bool) (any, error)

	mu     sync.Mutex
	began  map[string]int // pieces of work, by activity id
	atOnce atomic.Int64
	most   atomic.Int64 // at once, ever
}

// gather starts the nodes, and ends them with the test.
func gather(t *testing.T, address string, nodes []string, do func(node, activity string, beat func() bool) (any, error)) *crowd {
	t.Helper()
	c := &crowd{do: do, began: map[string]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	// One connection for all would have thousands of streams wait for one lock.
	var services []workflowservice.WorkflowServiceClient
	var clients []client.Client
	for range 1 + len(nodes)/500 {
		conn, err := client.Dial(client.Options{HostPort: address, Logger: quiet{}})
		if err != nil {
			t.Fatal(err)
		}
		clients, services = append(clients, conn), append(services, conn.WorkflowService())
	}
	for i, node := range nodes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for ctx.Err() == nil {
				if err := c.poll(ctx, services[i%len(services)], node); err != nil && ctx.Err() == nil {
					time.Sleep(100 * time.Millisecond)
				}
			}
		}()
	}
	// The server opens thousands of queues one after the other: a node is there when its poll is.
	var up sync.WaitGroup
	for k := range 20 {
		up.Add(1)
		go func() {
			defer up.Done()
			for i := k; i < len(nodes); i += 20 {
				for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
					d, err := services[i%len(services)].DescribeTaskQueue(ctx, &workflowservice.DescribeTaskQueueRequest{Namespace: "default",
						TaskQueue: &taskqueuepb.TaskQueue{Name: workflows.NodeQueue(nodes[i])}, TaskQueueType: enumspb.TASK_QUEUE_TYPE_ACTIVITY})
					if err == nil && len(d.Pollers) > 0 {
						break
					}
				}
			}
		}()
	}
	up.Wait()
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		for _, conn := range clients {
			conn.Close()
		}
	})
	return c
}

func (c *crowd) poll(ctx context.Context, service workflowservice.WorkflowServiceClient, node string) error {
	poll, cancel := context.WithTimeout(ctx, 70*time.Second)
	defer cancel()
	task, err := service.PollActivityTaskQueue(poll, &workflowservice.PollActivityTaskQueueRequest{
		Namespace: "default", TaskQueue: &taskqueuepb.TaskQueue{Name: workflows.NodeQueue(node)}, Identity: node,
	})
	if err != nil || len(task.GetTaskToken()) == 0 {
		return err
	}
	c.mu.Lock()
	c.began[task.ActivityId]++
	c.mu.Unlock()
	n := c.atOnce.Add(1)
	for most := c.most.Load(); n > most && !c.most.CompareAndSwap(most, n); most = c.most.Load() {
	}
	cancelled := false
	out, err := c.do(node, task.ActivityType.GetName(), func() bool {
		beat, err := service.RecordActivityTaskHeartbeat(ctx, &workflowservice.RecordActivityTaskHeartbeatRequest{TaskToken: task.TaskToken, Namespace: "default"})
		cancelled = err == nil && beat.CancelRequested
		return cancelled || err != nil
	})
	c.atOnce.Add(-1)
	switch {
	case cancelled:
		_, err = service.RespondActivityTaskCanceled(ctx, &workflowservice.RespondActivityTaskCanceledRequest{TaskToken: task.TaskToken, Namespace: "default"})
	case err != nil:
		_, err = service.RespondActivityTaskFailed(ctx, &workflowservice.RespondActivityTaskFailedRequest{TaskToken: task.TaskToken, Namespace: "default",
			Failure: temporal.GetDefaultFailureConverter().ErrorToFailure(err)})
	default:
		var payloads *commonpb.Payloads
		if payloads, err = converter.GetDefaultDataConverter().ToPayloads(out); err != nil {
			return err
		}
		_, err = service.RespondActivityTaskCompleted(ctx, &workflowservice.RespondActivityTaskCompletedRequest{TaskToken: task.TaskToken, Namespace: "default", Result: payloads})
	}
	return err
}

func nodeNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("node-%05d", i)
	}
	return names
}

// scale is how many nodes a test has: few enough for every day, and the real
// number when there is time for it.
func scale(few int) (n int, dynamic map[string]any) {
	if os.Getenv("ALMANAC_LONG") != "" {
		return 5000, nil
	}
	return few, often(500) // so that few are cut into runs as well
}

// history measures the runs of an execution, and says if one is too large.
func history(t *testing.T, c client.Client, id string) {
	t.Helper()
	time.Sleep(time.Second) // the list lags behind
	list, err := c.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{Query: fmt.Sprintf("WorkflowId = '%s'", id), PageSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	var events, bytes, all int64
	for _, e := range list.Executions {
		d, err := c.DescribeWorkflowExecution(t.Context(), id, e.Execution.RunId)
		if err != nil {
			t.Fatal(err)
		}
		info := d.WorkflowExecutionInfo
		replay(t, c, id, e.Execution.RunId)
		events, bytes, all = max(events, info.HistoryLength), max(bytes, info.HistorySizeBytes), all+info.HistoryLength
	}
	t.Logf("%d runs with %d events; the most in one: %d events, %d KiB", len(list.Executions), all, events, bytes>>10)
	most := int64(mostRunEvents)
	if os.Getenv("ALMANAC_LONG") == "" {
		most = 1_500 // what the server suggests, 500 more, and what was in flight
	}
	if events > most || bytes > mostRunBytes {
		t.Errorf("a run has %d events and %d bytes, over %d and %d", events, bytes, most, mostRunBytes)
	}
	if len(list.Executions) < 2 {
		t.Errorf("%d runs: nothing was cut", len(list.Executions))
	}
}

// replay does a run again from its history, as a worker does that has restarted.
func replay(t *testing.T, c client.Client, id, run string) {
	t.Helper()
	var h historypb.History
	for it := c.GetWorkflowHistory(t.Context(), id, run, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); it.HasNext(); {
		e, err := it.Next()
		if err != nil {
			t.Fatal(err)
		}
		h.Events = append(h.Events, e)
	}
	r := worker.NewWorkflowReplayer()
	r.RegisterDynamicWorkflow(workflows.Runbook, workflow.DynamicRegisterOptions{})
	if err := r.ReplayWorkflowHistoryWithOptions(quiet{}, &h, worker.ReplayWorkflowHistoryOptions{OriginalExecution: workflow.Execution{ID: id, RunID: run}}); err != nil {
		t.Errorf("run %s does not replay: %v", run, err)
	}
}

const scaleRunbook = `
runbook: test/scale
on_failure: stop
inputs:
  nodes: { type: list<string> }
steps:
  - id: work
    targets: { nodes: "${{ inputs.nodes }}", max_concurrency: 50, max_errors: 100% }
    run: apt-get upgrade
  - assert: steps.work.nodes["node-00001"].exit_code == 0 && steps.work.nodes["node-00001"].ref != ""
outputs:
  ok: ${{ size(steps.work.succeeded) }}
  failed: ${{ size(steps.work.failed) }}
  unreached: ${{ size(steps.work.unreached) }}
`

// noise is text that cannot be compressed.
func noise(bytes int) string {
	raw := make([]byte, bytes*3/4)
	for i := range raw {
		raw[i] = byte(rand.IntN(256))
	}
	return base64.StdEncoding.EncodeToString(raw)
}

// TestScale runs a command on many nodes that each answer with 4 KiB, of which
// some fail and some are not there: every one is tried exactly once, never more
// than the limit at once, and no run of the execution grows too large.
// ALMANAC_LONG=1 takes 5,000 nodes and the server's own limits.
func TestScale(t *testing.T) {
	n, dynamic := scale(600)
	srv, c := serve(t, dynamic)
	nodes := nodeNames(n)
	var there []string
	away, bad := 0, 0
	for i, node := range nodes {
		switch {
		case i >= 20 && i < 20+n/100: // side by side, so that they are waited for together
			away++
			continue
		case i%10 == 5:
			bad++
		}
		there = append(there, node)
	}
	people := gather(t, srv.Address(), there, func(node, _ string, _ func() bool) (any, error) {
		time.Sleep(30 * time.Millisecond) // so that several run at once
		ref := "scale/work%40" + node + "/" + node + ".log"
		if strings.HasSuffix(node, "5") {
			return nil, temporal.NewApplicationErrorWithOptions("exit code 100", "failed", temporal.ApplicationErrorOptions{NonRetryable: true,
				Details: []any{map[string]any{"exit_code": 100, "tail": noise(4<<10) + "\nE: could not get lock, held by process " + fmt.Sprint(rand.IntN(9999)), "ref": ref, "size": 9999}}})
		}
		return map[string]any{"exit_code": 0, "stdout": noise(4 << 10), "ref": ref, "size": 9999, "duration": "1s"}, nil
	})
	work(t, c, "scale")
	raw, err := json.Marshal(nodes)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r := ended(t, begin(t, c, "scale", compileLedger(t, scaleRunbook, nil), map[string]json.RawMessage{"nodes": raw}))
	took := time.Since(began)
	t.Logf("%d nodes, %d not there, %d failing: %s after %.1fs, %.0f nodes a second, at most %d at once", n, away, bad, r.Outcome, took.Seconds(), float64(n)/took.Seconds(), people.most.Load())
	if r.Outcome != workflows.Succeeded {
		t.Fatalf("%s: %s", r.Outcome, r.Message)
	}
	for name, want := range map[string]int{"ok": n - away - bad, "failed": bad, "unreached": away} {
		if got := string(r.Outputs[name]); got != fmt.Sprint(want) {
			t.Errorf("%s is %s, want %d", name, got, want)
		}
	}
	if len(people.began) != len(there) {
		t.Errorf("%d nodes began, want %d", len(people.began), len(there))
	}
	for id, times := range people.began {
		if times != 1 {
			t.Errorf("%s began %d times", id, times)
		}
	}
	if most := people.most.Load(); most > 50 || most < 5 {
		t.Errorf("%d at once", most)
	}
	history(t, c, "scale")

	v := view(c, "scale")
	if v == nil || v.Steps[0].Recap == nil {
		t.Fatal("no recap")
	}
	recap := v.Steps[0].Recap
	if recap.Succeeded != n-away-bad || recap.Failed != bad || recap.Unreached != away || len(recap.Failures) != 2 || recap.Failures[0].Count != bad || recap.Failures[0].ExitCode != 100 {
		t.Errorf("recap %+v", recap)
	}
	if raw, err := json.Marshal(v); err != nil || len(raw) > 1<<20 {
		t.Errorf("the view is %d bytes, %v", len(raw), err)
	}
	listed := 0
	for from := 0; ; {
		var page workflows.TargetsPage
		got, err := c.QueryWorkflow(t.Context(), "scale", "", workflows.QueryTargets, from)
		if err != nil || got.Get(&page) != nil {
			t.Fatal(err)
		}
		listed += len(page.Targets)
		if from = page.Next; from == 0 {
			break
		}
	}
	if listed != n {
		t.Errorf("%d targets are listed", listed)
	}
}

const scaleRollbackRunbook = `
runbook: test/scale-rollback
inputs:
  nodes: { type: list<string> }
  content: { type: string }
steps:
  - id: write
    targets: { nodes: "${{ inputs.nodes }}", max_concurrency: 50 }
    action: host.file.write
    with: { path: /etc/thing, content: "${{ inputs.content }}" }
  - fail: and now it is taken back
`

// TestScaleRollback takes back on many nodes what was done there; that is cut
// into runs, too.
func TestScaleRollback(t *testing.T) {
	n, dynamic := scale(800)
	srv, c := serve(t, dynamic)
	nodes := nodeNames(n)
	people := gather(t, srv.Address(), nodes, func(_, activity string, _ func() bool) (any, error) {
		if strings.HasPrefix(activity, workflows.CompensatePrefix) {
			return nil, nil
		}
		return map[string]any{"changed": true}, nil
	})
	work(t, c, "scale-rollback")
	raw, err := json.Marshal(nodes)
	if err != nil {
		t.Fatal(err)
	}
	in := inputs("content", noise(2<<10))
	in["nodes"] = raw
	began := time.Now()
	r := ended(t, begin(t, c, "scale-rollback", compileLedger(t, scaleRollbackRunbook, nil), in))
	t.Logf("%d nodes: %s after %.1fs", n, r.Outcome, time.Since(began).Seconds())
	if r.Outcome != workflows.RolledBack || len(r.RolledBack) != n {
		t.Errorf("%s, %d rolled back: %s", r.Outcome, len(r.RolledBack), r.Message)
	}
	if len(people.began) != 2*n {
		t.Errorf("%d pieces of work, want %d", len(people.began), 2*n)
	}
	for id, times := range people.began {
		if times != 1 {
			t.Errorf("%s began %d times", id, times)
		}
	}
	history(t, c, "scale-rollback")
}

// TestScaleCancel cancels a command on many nodes: those where it runs are told,
// no other begins, and it ends within seconds.
func TestScaleCancel(t *testing.T) {
	n, dynamic := scale(600)
	srv, c := serve(t, dynamic)
	nodes := nodeNames(n)
	people := gather(t, srv.Address(), nodes, func(_, _ string, beat func() bool) (any, error) {
		for !beat() {
			time.Sleep(time.Second)
		}
		return nil, nil
	})
	work(t, c, "scale-cancel")
	raw, err := json.Marshal(nodes)
	if err != nil {
		t.Fatal(err)
	}
	run := begin(t, c, "scale-cancel", compileLedger(t, scaleRunbook, nil), map[string]json.RawMessage{"nodes": raw})
	wait(t, "fifty commands", func() bool { return people.atOnce.Load() == 50 })
	cancelled := time.Now()
	if err := c.CancelWorkflow(t.Context(), "scale-cancel", ""); err != nil {
		t.Fatal(err)
	}
	r := ended(t, run)
	took := time.Since(cancelled)
	t.Logf("%s %.1fs after it was asked for, on %d nodes", r.Outcome, took.Seconds(), n)
	if r.Outcome != workflows.Cancelled || took > 15*time.Second || people.atOnce.Load() != 0 || len(people.began) != 50 {
		t.Errorf("%s after %v, %d began, %d run on", r.Outcome, took, len(people.began), people.atOnce.Load())
	}
	v := view(c, "scale-cancel")
	if v == nil || v.Steps[0].Recap == nil || v.Steps[0].Recap.Cancelled != 50 || v.Steps[0].Recap.Skipped != n-50 {
		t.Errorf("recap %+v", v)
	}
}
