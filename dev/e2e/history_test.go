package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/almanac-run/almanac/internal/node"
	"github.com/almanac-run/almanac/workflows"
)

const formsRunbook = `
runbook: test/forms
inputs:
  names: { type: list<string>, default: [x, y, z] }
  big: { type: bool, default: false }
vars: { prefix: "p-${{ size(inputs.names) }}" }
timeout: 1h
steps:
  - { id: skipped, if: inputs.big, action: crash.note, with: { name: big } }
  - id: loop
    for_each: ${{ inputs.names }}
    max_concurrency: 2
    outputs: { made: "${{ steps.one.id }}" }
    steps: [ { id: one, action: crash.note, with: { name: "${{ vars.prefix }}-${{ item }}" } } ]
  - id: again
    repeat: { until: "index >= 2", every: 10ms, attempts: 5 }
    steps: [ { id: probe, action: crash.note, with: { name: "pass ${{ index }}" } } ]
  - id: polled
    action: crash.note
    with: { name: polled }
    until: result.id == "polled"
  - id: sides
    timeout: 1m
    parallel:
      left: [ { id: l, action: crash.note, with: { name: left } } ]
      right: [ { id: later, wait: 100ms }, { id: r, action: crash.note, with: { name: right } } ]
  - { id: until, wait_until: "${{ execution.started_at + duration('1s') }}" }
  - { id: flaky, action: crash.flaky, with: { name: flaky }, retry: { attempts: 2, backoff: 10ms } }
  - { id: check, assert: size(steps.loop.results) == 3 }
  - { id: enough, stop: enough }
finally:
  - { id: clean, action: crash.note, with: { name: clean } }
outputs: { results: "${{ steps.loop.results }}" }
`

const targetsRunbook = `
runbook: test/targets
steps:
  - { id: one, targets: [n1], run: echo one }
  - id: some
    targets: { nodes: [n1, n2], max_concurrency: 1, batches: [1], bake: 100ms, gate: size(result.failed) == 0 }
    run: echo some
  - id: fails
    targets: { nodes: [n1, n2], max_errors: 2 }
    run: exit 3
  - { id: gone, targets: [n3], run: "true" }
`

const haltedRunbook = `
runbook: test/halted
steps:
  - id: some
    targets: { nodes: [n1, n2, n3], max_concurrency: 1, max_errors: 2, batches: [1], gate: size(result.failed) == 0, on_halt: ask }
    run: test "$ALMANAC_NODE" = n2
  - id: more
    targets: { nodes: [n1, n2], on_halt: stop }
    run: "false"
`

const askRunbook = `
runbook: test/ask
on_failure: ask
steps:
  - { id: rest, pause: Have a look }
  - { id: ok, approval: { message: "Go on?", timeout: 1h }, on_error: continue }
  - { id: flaky, action: crash.flaky, with: { name: flaky } }
  - { id: broken, action: crash.fail, with: { name: broken } }
`

const napRunbook = `
runbook: test/nap
timeout: 2s
steps:
  - { id: one, action: crash.make, with: { name: one } }
  - { id: nap, wait: 1h }
`

// TestHistories runs the executions of which workflows/testdata/history keeps
// histories since the first version, for the replay test there. UPDATE_HISTORY=1
// writes those that are missing: what is there is kept for as long as such executions
// may run. New ones are recorded by dev/e2e/upgrade.
func TestHistories(t *testing.T) {
	if os.Getenv("UPDATE_HISTORY") == "" {
		t.Skip("UPDATE_HISTORY is not set")
	}
	kid := map[string]string{"test/kid": kidRunbook}
	rich := strings.NewReplacer("[a, b, c]", "[a]", "[x, y, z]", "[x]", "[one, two]", "[one]", "results) == 3", "results) == 1",
		"attempts: 3, backoff: 100ms", "attempts: 2, backoff: 100ms", "{ id: r3,", "{ id: r3, if: false,").Replace(richRunbook)
	srv, plain := serve(t, nil)
	_, cut := serve(t, often(60))
	for _, id := range []string{"n1", "n2"} {
		c, err := client.Dial(client.Options{HostPort: srv.Address(), Logger: quiet{}, Identity: "agent " + id})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		dir := t.TempDir()
		go func() {
			defer close(done)
			_ = node.Run(ctx, node.Options{Client: c, ID: id, StateDir: dir, Logger: slog.New(slog.DiscardHandler)})
			c.Close()
		}()
		t.Cleanup(func() { cancel(); <-done })
	}
	approveKid := func(t *testing.T, c client.Client, id string) {
		answer(t, c, id+"/kid", workflows.AnswerApprove, workflows.Answer{By: "ana"})
	}
	for _, tt := range []struct {
		name, source string
		c            client.Client
		more         map[string]string
		meanwhile    func(t *testing.T, c client.Client, id string)
	}{
		{name: "forms", source: formsRunbook, c: plain},
		{name: "rollback", source: rich, more: kid, c: plain, meanwhile: approveKid},
		{name: "continued", source: rich, more: kid, c: cut, meanwhile: approveKid},
		{name: "targets", source: targetsRunbook, c: plain},
		{name: "halted", source: haltedRunbook, c: plain, meanwhile: func(t *testing.T, c client.Client, id string) {
			answer(t, c, id, workflows.AnswerRetry, workflows.Answer{By: "ana"})
			answer(t, c, id, workflows.AnswerContinue, workflows.Answer{By: "ana"})
			answer(t, c, id, workflows.AnswerContinue, workflows.Answer{By: "ana"})
		}},
		{name: "timed-out", source: napRunbook, c: plain},
		{name: "cancelled", source: peopleRunbook, c: plain, meanwhile: func(t *testing.T, c client.Client, id string) {
			time.Sleep(500 * time.Millisecond)
			must(c.CancelWorkflow(t.Context(), id, ""))
		}},
		{name: "asked", source: askRunbook, c: plain, meanwhile: func(t *testing.T, c client.Client, id string) {
			time.Sleep(300 * time.Millisecond)
			must(c.SignalWorkflow(t.Context(), id, "", workflows.AnswerResume, workflows.Answer{By: "ana"}))
			answer(t, c, id, workflows.AnswerReject, workflows.Answer{By: "li", Comment: "no"})
			answer(t, c, id, workflows.AnswerRetry, workflows.Answer{Step: "flaky"})
			answer(t, c, id, workflows.AnswerSkip, workflows.Answer{Step: "broken"})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			work(t, tt.c, tt.name)
			run := begin(t, tt.c, tt.name, compileLedger(t, tt.source, tt.more), nil)
			if tt.meanwhile != nil {
				tt.meanwhile(t, tt.c, tt.name)
			}
			first := run.GetRunID()
			t.Log(ended(t, run).Outcome)
			save(t, tt.c, tt.name, first, tt.name)
			if tt.name == "rollback" {
				save(t, tt.c, tt.name+"/kid", "", "child")
			}
			if tt.name == "continued" {
				save(t, tt.c, tt.name, "", tt.name+"-last")
			}
		})
	}
}

// save writes the history of one run.
func save(t *testing.T, c client.Client, id, run, name string) {
	t.Helper()
	var h historypb.History
	for it := c.GetWorkflowHistory(t.Context(), id, run, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); it.HasNext(); {
		e, err := it.Next()
		if err != nil {
			t.Fatal(err)
		}
		e.TaskId = 0 // nobody needs it
		if a := e.GetWorkflowTaskScheduledEventAttributes(); a != nil {
			a.TaskQueue = nil
		}
		if a := e.GetWorkflowTaskStartedEventAttributes(); a != nil {
			a.RequestId, a.Identity = "", ""
		}
		if a := e.GetWorkflowTaskCompletedEventAttributes(); a != nil {
			a.Identity, a.MeteringMetadata = "", nil
		}
		if a := e.GetActivityTaskScheduledEventAttributes(); a != nil {
			a.RetryPolicy, a.TaskQueue = nil, nil
		}
		if a := e.GetActivityTaskStartedEventAttributes(); a != nil {
			a.RequestId, a.Identity = "", ""
		}
		if a := e.GetActivityTaskCompletedEventAttributes(); a != nil {
			a.Identity = ""
		}
		h.Events = append(h.Events, e)
	}
	raw, err := protojson.Marshal(&h)
	if err != nil {
		t.Fatal(err)
	}
	var compact bytes.Buffer // protojson adds spaces, now and then
	if err := json.Compact(&compact, raw); err != nil {
		t.Fatal(err)
	}
	raw = compact.Bytes()
	t.Logf("%s: %d events, %d bytes", name, len(h.Events), len(raw))
	if !strings.Contains(name, ".v") { // of the version of its program
		name += ".v1"
	}
	file := filepath.Join("../../workflows/testdata/history", name+".json")
	if _, err := os.Stat(file); err == nil {
		t.Logf("%s is there already, and stays", file)
		return
	}
	if err := os.WriteFile(file, append(raw, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
