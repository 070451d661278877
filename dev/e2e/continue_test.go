package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	enumspb "go.temporal.io/api/enums/v1"
	sdkpb "go.temporal.io/api/sdk/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// twentyRunbook has twenty steps in blocks, loops and branches, and fails at the
// end, so that each effect is made once and taken back once.
const twentyRunbook = `
runbook: test/twenty
steps:
  - { id: s1, action: crash.make, with: { name: s1 } }
  - { id: s2, action: crash.make, with: { name: s2 } }
  - id: block
    steps:
      - { id: s3, action: crash.make, with: { name: s3 } }
      - { id: s4, action: crash.make, with: { name: "s4" } }
  - id: loop
    for_each: [a, b, c, d]
    max_concurrency: 2
    steps:
      - { id: s5, action: crash.make, with: { name: "s5${{ item }}" } }
      - { id: s6, action: crash.make, with: { name: "s6${{ item }}" } }
  - id: sides
    parallel:
      left: [ { id: s7, action: crash.make, with: { name: s7 } }, { id: s8, action: crash.make, with: { name: s8 } } ]
      right: [ { id: s9, action: crash.make, with: { name: s9 } } ]
  - { id: nap, wait: 1s }
  - { id: s10, action: crash.make, with: { name: s10 } }
  - { id: s11, action: crash.make, with: { name: s11 } }
  - { id: s12, action: crash.make, with: { name: s12 } }
  - { id: s13, action: crash.make, with: { name: s13 } }
  - { id: s14, action: crash.make, with: { name: s14 } }
  - { id: broken, action: crash.fail, with: { name: broken } }
finally:
  - { id: s15, action: crash.make, with: { name: s15 } }
`

// richRunbook has every form inside every other, and fails at the end.
const richRunbook = `
runbook: test/rich
summary: Every form
inputs:
  names: { type: list<string>, default: [a, b, c] }
vars: { prefix: "v" }
steps:
  - { id: base, action: crash.make, with: { name: base } }
  - id: outer
    for_each: ${{ inputs.names }}
    outputs: { made: "${{ steps.o.id }}" }
    steps:
      - { id: o, action: crash.make, with: { name: "${{ vars.prefix }}-o-${{ item }}" } }
      - id: inner
        for_each: [one, two]
        max_concurrency: 2
        steps:
          - { id: i, action: crash.make, with: { name: "i-${{ item }}-${{ index }}" } }
          - { id: ii, action: crash.note, with: { name: "ii-${{ item }}" } }
      - id: repeated
        repeat: { until: "index == 1", every: 100ms }
        steps: [ { id: r, action: crash.make, with: { name: "r-${{ index }}" } } ]
  - id: sides
    parallel:
      left: [ { id: l1, action: crash.make, with: { name: l1 } }, { id: l2, wait: 300ms }, { id: l3, action: crash.make, with: { name: l3 } } ]
      right: [ { id: r1, action: crash.make, with: { name: r1 } }, { id: r2, action: crash.make, with: { name: r2 } }, { id: r3, action: crash.make, with: { name: r3 } } ]
  - { id: kid, runbook: test/kid, with: { what: inside } }
  - id: caught
    action: crash.fail
    with: { name: caught }
    on_error:
      steps:
        - { id: c1, action: crash.make, with: { name: "c1-${{ error.kind }}" } }
        - { id: c2, action: crash.note, with: { name: "c2-${{ error.message }}" } }
        - { id: c3, action: crash.make, with: { name: c3 } }
  - id: customs
    for_each: [x, y, z]
    steps:
      - id: custom
        action: crash.note
        with: { name: "custom-${{ item }}" }
        rollback:
          steps:
            - { id: u1, action: crash.note, with: { name: "u1-${{ item }}-${{ steps.custom.id }}" } }
            - { id: u2, action: crash.note, with: { name: "u2-${{ index }}" } }
            - { id: u3, action: crash.note, with: { name: "u3-${{ steps.base.id != '' }}" } }
  - id: retried
    retry: { attempts: 3, backoff: 100ms }
    steps:
      - { id: t1, action: crash.make, with: { name: t1 } }
      - { id: t2, action: crash.make, with: { name: t2 } }
      - { id: t3, action: crash.flaky, with: { name: t3 } }
      - { id: t4, action: crash.make, with: { name: t4 } }
  - { id: check, assert: size(steps.outer.results) == 3 && steps.kid.id != "" }
  - { id: broken, action: crash.fail, with: { name: broken } }
finally:
  - { id: f1, action: crash.note, with: { name: "f1-${{ steps.base.id != '' }}" } }
  - { id: f2, action: crash.note, with: { name: "f2-${{ steps.kid.id != '' }}" } }
  - { id: f3, action: crash.note, with: { name: f3 } }
`

const kidRunbook = `
runbook: test/kid
inputs:
  what: { type: string }
vars: { more: "more ${{ inputs.what }}" }
steps:
  - { id: k1, action: crash.make, with: { name: "k1-${{ inputs.what }}" } }
  - { id: k2, wait: 200ms }
  - { id: k3, approval: { message: "Go on?" } }
  - id: k4
    for_each: [1, 2, 3]
    steps: [ { id: k5, action: crash.make, with: { name: "k5-${{ index }}" } } ]
  - id: k6
    action: crash.make
    with: { name: k6 }
    rollback: { id: k7, action: crash.note, with: { name: "k7-${{ vars.more }}" } }
outputs:
  id: ${{ steps.k1.id }}
`

// TestContinueAsNew runs the same runbooks on a server that never suggests to
// continue as new, and on one that does so all the time: the ledger and the
// result are the same.
func TestContinueAsNew(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, source string
		more         map[string]string
	}{
		{"twenty", twentyRunbook, nil},
		{"rich", richRunbook, map[string]string{"test/kid": kidRunbook}},
	}
	type outcome struct {
		Log        []string // sorted: what runs side by side has no order
		Things     int
		Result     workflows.Outcome
		Message    string
		RolledBack []string
	}
	_, plain := serve(t, nil)
	_, cut := serve(t, often(20))
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			var got []outcome
			for _, c := range []client.Client{plain, cut} {
				queue := "continue-" + tt.name
				l := work(t, c, queue)
				p := compileLedger(t, tt.source, tt.more)
				run := begin(t, c, queue, p, nil)
				if tt.more != nil {
					answer(t, c, queue+"/kid", workflows.AnswerApprove, workflows.Answer{By: "ana"})
				}
				r := ended(t, run)
				slices.Sort(r.RolledBack)
				log, things := l.read(t)
				got = append(got, outcome{log, things, r.Outcome, r.Message, r.RolledBack})
				if n := runs(t, c, queue); c == cut {
					t.Logf("%d runs", n)
					if n < 5 {
						t.Errorf("%d runs: it hardly continued as new", n)
					}
				}
			}
			if got[0].Result != workflows.RolledBack || len(got[0].Log) < 30 {
				t.Errorf("outcome %+v", got[0])
			}
			if diff := cmp.Diff(got[0], got[1]); diff != "" {
				t.Errorf("continue-as-new makes a difference (-without +with):\n%s", diff)
			}
		})
	}
}

const peopleRunbook = `
runbook: test/people
summary: Wait for people while something else goes on
steps:
  - id: sides
    parallel:
      people: [ { id: ok, approval: { message: "Go on?", approvers: [ana, li], quorum: 2 } }, { id: after, action: crash.make, with: { name: after } } ]
      machine:
        - id: busy
          for_each: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
          steps: [ { id: make, action: crash.make, with: { name: "b-${{ index }}" } }, { id: nap, wait: 100ms } ]
  - { id: long, wait: 1h }
`

// TestPeopleAcrossRuns approves, by Update and by Signal, and cancels while an
// execution continues as new again and again.
func TestPeopleAcrossRuns(t *testing.T) {
	t.Parallel()
	_, c := serve(t, often(20))
	queue := "people"
	l := work(t, c, queue)
	run := begin(t, c, queue, compileLedger(t, peopleRunbook, nil), nil)
	time.Sleep(time.Second)
	answer(t, c, queue, workflows.AnswerApprove, workflows.Answer{Step: "sides.people.ok", By: "ana"})
	before := 0
	wait(t, "a second run", func() bool { before = runs(t, c, queue); return before >= 2 })
	if err := c.SignalWorkflow(t.Context(), queue, "", workflows.AnswerApprove, workflows.Answer{By: "li"}); err != nil {
		t.Fatal(err)
	}
	wait(t, "the long wait", func() bool {
		v := view(c, queue)
		return v != nil && slices.ContainsFunc(v.Steps, func(s workflows.StepView) bool { return s.Path == "long" && s.State == workflows.StateWaiting })
	})
	if n := runs(t, c, queue); n <= before {
		t.Errorf("%d runs before the second approval and %d in all: it hardly continued as new", before, n)
	}
	desc, err := c.DescribeWorkflow(t.Context(), queue, "")
	if err != nil {
		t.Fatal(err)
	}
	attr := func(name string) string {
		v, _ := desc.TypedSearchAttributes.GetKeyword(temporal.NewSearchAttributeKeyKeyword(name))
		return v
	}
	if attr(workflows.AttrRunbook) != "test/people" || attr(workflows.AttrCaller) != "ana" {
		t.Errorf("search attributes %v", desc.TypedSearchAttributes)
	}
	if desc.Memo.GetFields()["Why"] == nil {
		t.Error("the memo is gone")
	}
	// The server drops the static summary; the runbook's own is in the current details.
	var meta sdkpb.WorkflowMetadata
	got, err := c.QueryWorkflow(t.Context(), queue, "", "__temporal_workflow_metadata")
	if err != nil || got.Get(&meta) != nil || !strings.Contains(meta.CurrentDetails, "Wait for people while something else goes on") {
		t.Errorf("current details %q, %v", meta.CurrentDetails, err)
	}
	if err := c.CancelWorkflow(t.Context(), queue, ""); err != nil {
		t.Fatal(err)
	}
	r := ended(t, run)
	log, things := l.read(t)
	if r.Outcome != workflows.Cancelled || things != 0 || len(log) != 42 || len(r.RolledBack) != 21 {
		t.Errorf("%s, %d things left, %d effects, %d rolled back", r.Outcome, things, len(log), len(r.RolledBack))
	}
}

// TestAnswerBetweenRuns sends an answer that comes with the first workflow task of a run which continues another: to a step
// that waits in a branch, which that task comes to after it has begun to listen.
func TestAnswerBetweenRuns(t *testing.T) {
	t.Parallel()
	_, c := serve(t, often(20))
	queue := "between"
	work(t, c, queue)
	p := compileLedger(t, peopleRunbook, nil)
	run := begin(t, c, queue, p, nil)
	wait(t, "a second run", func() bool { return runs(t, c, queue) >= 2 })
	var start workflows.Start
	for h := c.GetWorkflowHistory(t.Context(), queue, run.GetRunID(), false, enumspb.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT); h.HasNext(); {
		e, err := h.Next()
		if err != nil {
			t.Fatal(err)
		}
		if err := converter.GetDefaultDataConverter().FromPayloads(e.GetWorkflowExecutionContinuedAsNewEventAttributes().GetInput(), &start); err != nil {
			t.Fatal(err)
		}
	}
	approved := func(id string) {
		t.Helper()
		wait(t, id, func() bool {
			v := view(c, id)
			return v != nil && len(v.Waiting) == 1
		})
		if got := view(c, id).Waiting[0].Approved; !slices.Equal(got, []string{"li"}) {
			t.Errorf("%s: approved by %v", id, got)
		}
		if err := c.TerminateWorkflow(t.Context(), id, "", ""); err != nil {
			t.Fatal(err)
		}
	}
	said := workflows.Answer{By: "li"}
	options := client.StartWorkflowOptions{TaskQueue: queue, TypedSearchAttributes: workflows.Attributes(p.Runbook, "ana")}
	if _, err := c.SignalWithStartWorkflow(t.Context(), "by-signal", workflows.AnswerApprove, said, options, p.Runbook, start); err != nil {
		t.Fatal(err)
	}
	approved("by-signal")
	options.ID, options.WorkflowIDConflictPolicy = "by-update", enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL
	update, err := c.UpdateWithStartWorkflow(t.Context(), client.UpdateWithStartWorkflowOptions{
		StartWorkflowOperation: c.NewWithStartWorkflowOperation(options, p.Runbook, start),
		UpdateOptions:          client.UpdateWorkflowOptions{UpdateName: workflows.AnswerApprove, Args: []any{said}, WaitForStage: client.WorkflowUpdateStageCompleted},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := update.Get(t.Context(), nil); err != nil {
		t.Errorf("the update: %v", err)
	}
	approved("by-update")
}

const loopRunbook = `
runbook: test/loop
inputs:
  n: { type: "list<int>" }
  at_once: { type: int, default: 1 }
  fail: { type: bool, default: false }
steps:
  - id: loop
    for_each: ${{ inputs.n }}
    max_concurrency: ${{ inputs.at_once }}
    outputs: { id: "${{ steps.one.id }}" }
    steps: [ { id: one, action: crash.nothing, with: { name: "item ${{ item }}" } } ]
  - { id: broken, if: inputs.fail, fail: that is it }
outputs:
  succeeded: ${{ steps.loop.succeeded }}
  results: ${{ size(steps.loop.results) }}
`

// TestCancelAcrossRuns cancels a busy execution at any moment.
func TestCancelAcrossRuns(t *testing.T) {
	t.Parallel()
	_, c := serve(t, often(20))
	p := compileLedger(t, loopRunbook, nil)
	for i := range 5 {
		queue := fmt.Sprintf("cancel-%d", i)
		l := work(t, c, queue)
		run := begin(t, c, queue, p, numbers(500, 1+i%2*3, false))
		wait(t, "the first items", func() bool { return l.calls.Load() >= int64(5+i) })
		time.Sleep(time.Duration(i*37) * time.Millisecond)
		if err := c.CancelWorkflow(t.Context(), queue, ""); err != nil {
			t.Fatal(err)
		}
		r := ended(t, run)
		if r.Outcome != workflows.Cancelled || l.undone.Load() != int64(len(r.RolledBack)) || len(r.NotRolledBack) > 0 || l.calls.Load() > l.undone.Load() || l.calls.Load() < 5 {
			t.Errorf("%s; %d made, %d taken back, %d named, not: %v", r.Outcome, l.calls.Load(), l.undone.Load(), len(r.RolledBack), r.NotRolledBack)
		}
	}
}

// TestLoops runs large loops. ALMANAC_LONG=1 runs them as large as they may be.
func TestLoops(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name       string
		items      int
		atOnce     int
		fail, long bool
		events     int
	}{
		{name: "serial, cut", items: 300, atOnce: 1, events: 200},
		{name: "concurrent, cut", items: 300, atOnce: 50, events: 200},
		{name: "rollback, cut", items: 300, atOnce: 10, fail: true, events: 200},
		{name: "serial", items: 10_000, atOnce: 1, long: true},
		{name: "concurrent", items: 5_000, atOnce: 50, long: true},
		{name: "rollback", items: 2_000, atOnce: 50, fail: true, long: true},
	}
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			if tt.long && os.Getenv("ALMANAC_LONG") == "" {
				t.Skip("ALMANAC_LONG is not set")
			}
			dynamic := map[string]any{}
			if tt.events > 0 {
				dynamic = often(tt.events)
			}
			_, c := serve(t, dynamic)
			l := work(t, c, "loops")
			began := time.Now()
			r := ended(t, begin(t, c, "loops", compileLedger(t, loopRunbook, nil), numbers(tt.items, tt.atOnce, tt.fail)))
			took := time.Since(began)
			t.Logf("%d items in %v, %.0f/s, %d runs", tt.items, took.Round(100*time.Millisecond), float64(tt.items)/took.Seconds(), runs(t, c, "loops"))
			if n := l.calls.Load(); n != int64(tt.items) {
				t.Errorf("%d calls, want %d", n, tt.items)
			}
			want := fmt.Sprint(tt.items)
			switch {
			case tt.fail && (r.Outcome != workflows.RolledBack || len(r.RolledBack) != tt.items || l.undone.Load() != int64(tt.items)):
				t.Errorf("%s, %d rolled back, %d taken back", r.Outcome, len(r.RolledBack), l.undone.Load())
			case !tt.fail && (r.Outcome != workflows.Succeeded || string(r.Outputs["succeeded"]) != want || string(r.Outputs["results"]) != want):
				t.Errorf("%s, outputs %s", r.Outcome, r.Outputs)
			}
		})
	}
}

func numbers(n, atOnce int, fail bool) map[string]json.RawMessage {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	raw, _ := json.Marshal(list)
	return map[string]json.RawMessage{"n": raw, "at_once": json.RawMessage(fmt.Sprint(atOnce)), "fail": json.RawMessage(fmt.Sprint(fail))}
}

// begin starts an execution, with all that a starter says of it. Its id is the queue's name.
func begin(t *testing.T, c client.Client, queue string, p *program.Program, inputs map[string]json.RawMessage) client.WorkflowRun {
	t.Helper()
	run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
		ID: queue, TaskQueue: queue, TypedSearchAttributes: workflows.Attributes(p.Runbook, "ana"),
		StaticSummary: "a summary", StaticDetails: "some details", Memo: map[string]any{"Why": "test"},
	}, p.Runbook, workflows.Start{Program: p, Inputs: inputs, Caller: "ana"})
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// answer sends an answer until it is taken.
func answer(t *testing.T, c client.Client, id, name string, a workflows.Answer) {
	t.Helper()
	wait(t, name+" of "+id, func() bool {
		h, err := c.UpdateWorkflow(t.Context(), client.UpdateWorkflowOptions{WorkflowID: id, UpdateName: name, Args: []any{a}, WaitForStage: client.WorkflowUpdateStageCompleted})
		if err == nil {
			err = h.Get(t.Context(), nil)
		}
		// On a busy machine it may have been taken, and nobody was told.
		return err == nil || strings.Contains(err.Error(), "has approved")
	})
}

// wait polls until something is so. It waits long, since many tests run at once: what never comes is told all the same.
func wait(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !so(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: it does not come", what)
		}
	}
}

func view(c client.Client, id string) *workflows.View {
	got, err := c.QueryWorkflow(context.Background(), id, "", workflows.QueryState)
	v := new(workflows.View)
	if err != nil || got.Get(v) != nil {
		return nil
	}
	return v
}

// runs counts the runs of an execution.
func runs(t *testing.T, c client.Client, id string) int {
	t.Helper()
	time.Sleep(200 * time.Millisecond) // the list lags behind
	list, err := c.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{Query: fmt.Sprintf("WorkflowId = '%s'", id), PageSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return len(list.Executions)
}

// read returns the ledger's effects without tokens, sorted, and how many things are there.
func (l *ledger) read(t *testing.T) (log []string, things int) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(l.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		log = append(log, line[:strings.LastIndexByte(line, ' ')])
	}
	slices.Sort(log)
	all, err := filepath.Glob(filepath.Join(l.dir, "things", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if !strings.HasSuffix(name, ".note") {
			things++
		}
	}
	return log, things
}
