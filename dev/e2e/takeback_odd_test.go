package e2e

import (
	"strings"
	"testing"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// TestTakeBackOdd takes back what is left where something is not as usual.
func TestTakeBackOdd(t *testing.T) {
	t.Parallel()
	srv, c := serve(t, nil)
	l := work(t, c, workflows.TaskQueue)
	d := sit(t, srv.Address())
	start := func(id string, s workflows.Start) client.WorkflowRun {
		t.Helper()
		p := s.Runs()
		run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
			ID: id, TaskQueue: workflows.TaskQueue, TypedSearchAttributes: workflows.Attributes(p.Runbook, "ana"),
		}, p.Runbook, s)
		if err != nil {
			t.Fatal(err)
		}
		return run
	}
	expect := func(want int, part string, args ...string) {
		t.Helper()
		if code, out := d.call(args...); code != want || !strings.Contains(out, part) {
			t.Errorf("starter %v: exit code %d, want %d and %q:\n%s", args, code, want, part, out)
		}
	}
	stays := "runbook: test/stays\non_failure: stop\nsteps:\n  - { id: made, action: crash.make, with: { name: a } }\n  - { id: broken, fail: broken }\n"
	p := compileLedger(t, stays, nil)

	// One that an older worker has refused did nothing: the next is another.
	old := ended(t, start("refused", workflows.Start{Program: p}))
	later := *p
	later.Version = program.Version + 1
	ended(t, start("refused-rollback", workflows.Start{TakeBack: &workflows.TakeBack{Of: "refused", Run: lastRun(t, c, "refused"), Program: &later, Left: old.Left}}))
	expect(0, "refused-rollback-2 takes back 1 step of refused", "rollback", "refused")
	expect(0, "made rolled_back", "watch", "refused-rollback-2")
	expect(1, "refused-rollback-2 has done that", "rollback", "refused")

	// An id may have a thousand bytes.
	long := strings.Repeat("x", 1000)
	ended(t, start(long, workflows.Start{Program: p}))
	expect(0, "takes back 1 step of", "rollback", long)
	expect(1, "-rollback ", "rollback", long) // is about it, or has done that

	// Of a called one whose caller was terminated nobody else knows what it left.
	boss := compileLedger(t, "runbook: test/boss\nsteps:\n  - { id: kid, runbook: test/kid }\n", map[string]string{
		"test/kid": "runbook: test/kid\non_failure: stop\nsteps:\n  - { id: made, action: crash.make, with: { name: b } }\n  - { id: stand, pause: stand }\n",
	})
	start("boss", workflows.Start{Program: boss})
	wait(t, "the pause", func() bool {
		v := view(c, "boss/kid")
		return v != nil && len(v.Waiting) == 1
	})
	if err := c.TerminateWorkflow(t.Context(), "boss", "", "test"); err != nil {
		t.Fatal(err)
	}
	ended(t, c.GetWorkflow(t.Context(), "boss/kid", ""))
	expect(1, "ended by the server", "rollback", "boss")
	expect(0, "takes back 1 step of boss/kid", "rollback", "boss/kid")
	expect(0, "made rolled_back", "watch", "boss/kid-rollback")

	// What ran on some nodes only is taken back on no others.
	d.agents("n1", "n2")
	part := compileLedger(t, `
runbook: test/part
on_failure: stop
steps:
  - id: made
    action: crash.make
    with: { name: c }
    rollback: { id: unmake, targets: { nodes: [n1, n2] }, run: 'true' }
  - { id: broken, fail: broken }
`, nil)
	ended(t, start("part", workflows.Start{Program: part, Only: []string{"n1"}}))
	expect(0, "takes back 1 step of part", "rollback", "part")
	if r := ended(t, c.GetWorkflow(t.Context(), "part-rollback", "")); r.Outcome != workflows.Succeeded {
		t.Errorf("%s: %s", r.Outcome, r.Message)
	}
	if nodes := scheduledOn(t, c, "part-rollback"); len(nodes) != 1 || nodes[0] != workflows.NodeQueue("n1") {
		t.Errorf("it ran on %v, want n1", nodes)
	}
	if log, things := l.read(t); things > 2 {
		t.Errorf("%d things are there: %v", things, log)
	}
}

// TestTakeBackOnce lets several people take back the same at once, in an execution that continues as new several times.
func TestTakeBackOnce(t *testing.T) {
	t.Parallel()
	srv, c := serve(t, often(20))
	l := work(t, c, workflows.TaskQueue)
	d := sit(t, srv.Address())
	p := compileLedger(t, `
runbook: test/many
on_failure: stop
steps:
  - { id: all, for_each: "${{ [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20] }}", steps: [{ id: made, action: crash.make, with: { name: "a${{ item }}" } }] }
  - { id: broken, fail: broken }
`, nil)
	run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
		ID: "many", TaskQueue: workflows.TaskQueue, TypedSearchAttributes: workflows.Attributes(p.Runbook, "ana"),
	}, p.Runbook, workflows.Start{Program: p})
	if err != nil {
		t.Fatal(err)
	}
	if r := ended(t, run); r.LeftCount != 20 {
		t.Fatalf("%d left", r.LeftCount)
	}
	codes := make(chan int, 4)
	for range cap(codes) {
		go func() {
			code, _ := d.call("rollback", "many")
			codes <- code
		}()
	}
	won := 0
	for range cap(codes) {
		if <-codes == 0 {
			won++
		}
	}
	r := ended(t, c.GetWorkflow(t.Context(), "many-rollback", ""))
	log, things := l.read(t)
	if won != 1 || r.Outcome != workflows.Succeeded || things != 0 || len(log) != 40 {
		t.Errorf("%d began it, %s: %s; %d things are there, %d effects", won, r.Outcome, r.Message, things, len(log))
	}
	if n := runs(t, c, "many-rollback"); n < 3 {
		t.Errorf("it has %d runs", n)
	}
}

func lastRun(t *testing.T, c client.Client, id string) string {
	t.Helper()
	d, err := c.DescribeWorkflowExecution(t.Context(), id, "")
	if err != nil {
		t.Fatal(err)
	}
	return d.GetWorkflowExecutionInfo().GetExecution().GetRunId()
}

// scheduledOn are the queues of nodes to which an execution gave work.
func scheduledOn(t *testing.T, c client.Client, id string) (queues []string) {
	t.Helper()
	for h := c.GetWorkflowHistory(t.Context(), id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); h.HasNext(); {
		e, err := h.Next()
		if err != nil {
			t.Fatal(err)
		}
		if q := e.GetActivityTaskScheduledEventAttributes().GetTaskQueue().GetName(); strings.HasPrefix(q, workflows.NodeQueue("")) {
			queues = append(queues, q)
		}
	}
	return queues
}
