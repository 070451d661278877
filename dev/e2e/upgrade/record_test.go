package upgrade

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities"
	"github.com/almanac-run/almanac/dev/server"
	"github.com/almanac-run/almanac/internal/control"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/lang/compile"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// A scene is an execution whose history is recorded for the replay tests.
type scene struct {
	name    string
	runbook string
	more    map[string]string // further runbooks, by name
	inputs  map[string]any
	only    []string
	script  string // what work does, as "PATH: KIND [xN]; …"; all else succeeds
	cut     bool   // on a server that suggests to continue as new all the time
	older   bool   // by an interpreter from before all changes that it asks histories for
	version int    // of the program, in place of its own
	back    bool   // another execution takes back what it left, and is recorded too
	then    func(s *stage)
}

// stage is where a scene plays.
type stage struct {
	t  *testing.T
	c  client.Client
	id string
}

// answer sends an answer until it is taken.
func (s *stage) answer(name string, a workflows.Answer) {
	s.t.Helper()
	s.until(name, func() error {
		h, err := s.c.UpdateWorkflow(s.t.Context(), client.UpdateWorkflowOptions{WorkflowID: s.id, UpdateName: name, Args: []any{a}, WaitForStage: client.WorkflowUpdateStageCompleted})
		if err == nil {
			err = h.Get(s.t.Context(), nil)
		}
		return err
	})
}

func (s *stage) signal(name string, arg any) {
	s.t.Helper()
	if err := s.c.SignalWorkflow(s.t.Context(), s.id, "", name, arg); err != nil {
		s.t.Fatal(err)
	}
}

// shows waits until the view has a step in that state, as "PATH STATE".
func (s *stage) shows(step, state string) {
	s.t.Helper()
	s.until(step+" "+state, func() error {
		got, err := s.c.QueryWorkflow(s.t.Context(), s.id, "", workflows.QueryState)
		if err != nil {
			return err
		}
		var v workflows.View
		if err := got.Get(&v); err != nil {
			return err
		}
		for _, have := range v.Steps {
			if have.Path == step && have.State == state {
				return nil
			}
		}
		return errors.New("not yet")
	})
}

func (s *stage) until(what string, so func() error) {
	s.t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = so(); err == nil {
			return
		}
	}
	s.t.Fatalf("%s: %s: %v", s.id, what, err)
}

func (s *stage) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) cancel() { s.t.Helper(); s.must(s.c.CancelWorkflow(s.t.Context(), s.id, "")) }

// of is the stage of another execution, such as a child.
func (s *stage) of(id string) *stage { return &stage{s.t, s.c, id} }

var ana = workflows.Answer{By: "ana"}

// answers is a scene in which people say one thing after the other.
func answers(names ...string) func(*stage) {
	return func(s *stage) {
		for _, n := range names {
			s.answer(n, ana)
		}
	}
}

var kids = map[string]string{
	"test/kid":     "runbook: test/kid\ninputs: { what: { type: string } }\nsteps:\n  - { id: k, action: test.make, with: { name: \"${{ inputs.what }}\" } }\n  - { id: ok, approval: { message: \"Go on?\" } }\noutputs: { id: \"${{ steps.k.id }}\" }\n",
	"test/quick":   "runbook: test/quick\ninputs: { what: { type: string } }\nsteps:\n  - { id: k, action: test.make, with: { name: \"${{ inputs.what }}\" } }\noutputs: { id: \"${{ steps.k.id }}\" }\n",
	"test/locking": "runbook: test/locking\nlock: inner\nsteps:\n  - { id: k, action: test.make, with: { name: k } }\n",
}

// scenes are what is recorded. What of the language each shows is counted by TestReplayCorpus of workflows, which fails
// when something has no history: then add a scene, and record it.
var scenes = []scene{
	{name: "inputs", inputs: map[string]any{"image": "web-1", "nodes": []string{"n1"}, "password": map[string]string{"$secret": "env:CORPUS_SECRET"}}, runbook: `
runbook: test/inputs
summary: Every type of input
description: |
  With a **description**.
inputs:
  image: { type: string, pattern: "^[a-z]+-[0-9]+$", summary: Image to start from }
  size: { type: string, enum: [small, large], default: small }
  count: { type: int, min: 1, max: 10, default: 2 }
  ratio: { type: float, default: 0.5 }
  patience: { type: duration, max: 1d, default: 1h30m }
  since: { type: timestamp, default: 2026-01-01T00:00:00Z }
  nodes: { type: list<string>, min: 1 }
  labels: { type: map<string>, default: { a: b } }
  options: { type: object, default: { verbose: true } }
  password: { type: secret }
vars:
  title: ${{ inputs.image }} (${{ inputs.size }}, ${{ inputs.count }} × ${{ inputs.ratio }})
steps:
  - { id: log_in, name: "Log in at ${{ vars.title }}", action: test.login, with: { user: ana, password: "${{ inputs.password }}", extra: { labels: "${{ inputs.labels }}", options: "${{ inputs.options }}", list: [1, "${{ inputs.count }}"] } } }
  - { id: until, wait_until: "${{ inputs.since }}" }
  - { id: make, targets: "${{ inputs.nodes }}", timeout: "${{ inputs.patience }}", action: host.thing.make, with: { name: "${{ vars.title }}" }, outputs: { all: "${{ size(result.succeeded) }}" } }
outputs: { made: "${{ steps.make.all }}", title: "${{ vars.title }}" }
`},
	{name: "refused-input", runbook: "runbook: test/refused\ninputs: { a: { type: string } }\nsteps: [ { wait: \"${{ duration(inputs.a) }}\" } ]\n"},
	{name: "refused-version", version: program.Version + 97, runbook: "runbook: test/refused\nsteps: [ { wait: 1ms } ]\n"},
	{name: "stopped", runbook: `
runbook: test/stopped
steps:
  - { id: a, action: test.look, with: { name: a } }
  - id: block
    steps:
      - { id: b, if: "false", action: test.look, with: { name: b } }
      - { id: c, if: "steps.a.id != ''", stop: "enough, ${{ steps.a.id }}" }
  - { id: d, action: test.look, with: { name: d } }
outputs: { a: "${{ steps.a.id }}" }
`},
	{name: "fail", runbook: "runbook: test/fail\non_failure: stop\nsteps:\n  - { id: a, action: test.make, with: { name: a } }\n  - { id: f, fail: \"no ${{ steps.a.id }}\" }\nfinally:\n  - { id: clean, action: test.look, with: { name: \"${{ steps.a.id }}\" } }\n"},
	{name: "assert", runbook: "runbook: test/assert\nsteps:\n  - { id: a, action: test.make, with: { name: a } }\n  - { id: check, assert: steps.a.id == '', message: \"it has ${{ steps.a.id }}\" }\n"},
	{name: "repeat-exhausted", runbook: "runbook: test/repeat\nsteps:\n  - id: r\n    repeat: { until: \"steps.l.size == 1\", every: 10ms, attempts: 3 }\n    steps: [ { id: l, action: test.look, with: { name: l } } ]\n"},
	{name: "until-timeout", runbook: "runbook: test/until\nsteps:\n  - { id: u, action: test.look, with: { name: l }, until: result.size == 1, every: 100ms, timeout: 1s, on_error: continue }\n  - { id: v, action: test.look, with: { name: l, size: 1 }, until: result.size == 1 }\n"},
	{name: "step-timeout", script: "hangs: hang", runbook: `
runbook: test/step_timeout
steps:
  - id: block
    timeout: 700ms
    on_error: { steps: [ { id: told, action: test.look, with: { name: "${{ error.kind }}" } } ] }
    steps: [ { id: a, action: test.make, with: { name: a } }, { id: nap, wait: 1h } ]
  - { id: hangs, timeout: 1s, action: test.make, with: { name: hangs } }
`},
	{name: "parallel-fails", script: "sides.left.b: slow", runbook: `
runbook: test/parallel
steps:
  - id: sides
    parallel:
      left: [ { id: a, action: test.make, with: { name: a } }, { id: b, action: test.make, with: { name: b } }, { id: never, action: test.make, with: { name: c } } ]
      right: [ { id: nap, wait: 300ms }, { id: broken, fail: broken } ]
      calm: [ { id: c, action: test.make, with: { name: d } } ]
`},
	{name: "loops", script: "outer[1].inner[0].x: failed; tolerant[1].t: failed; tolerant[2].t: denied", runbook: `
runbook: test/loops
inputs: { map: { type: map<string>, default: { a: one, b: two, c: three } } }
steps:
  - id: outer
    for_each: ${{ inputs.map }}
    max_concurrency: 50%
    steps:
      - id: inner
        for_each: [x, y]
        max_concurrency: 2
        on_error: continue
        steps: [ { id: x, action: test.make, with: { name: "${{ item }}" } } ]
      - { id: y, action: test.make, with: { name: y } }
    outputs: { key: "${{ item.key }}" }
  - id: tolerant
    for_each: [p, q, r, s]
    max_errors: 50%
    steps: [ { id: t, action: test.make, with: { name: "${{ item }}" } } ]
outputs: { keys: "${{ steps.outer.results.map(r, r.key) }}" }
`},
	{name: "loop-fails", script: "loop[1].x: failed", runbook: "runbook: test/loop\nsteps:\n  - id: loop\n    for_each: [a, b, c, d]\n    max_concurrency: 2\n    steps: [ { id: x, action: test.make, with: { name: \"${{ item }}\" } }, { id: n, wait: 50ms } ]\n"},
	{name: "errors", script: "a: failed; b: failed; c: invalid; d.e: denied; told: failed", runbook: `
runbook: test/errors
steps:
  - { id: a, action: test.make, with: { name: a }, on_error: continue }
  - { id: b, action: test.make, with: { name: b }, on_error: { steps: [ { id: note, action: test.look, with: { name: "${{ error.kind }} ${{ error.message }}" } } ] } }
  - { id: c, action: test.make, with: { name: c }, rollback: none, on_error: continue }
  - { id: d, on_error: { steps: [ { id: told, action: test.look, with: { name: x } } ] }, steps: [ { id: e, action: test.make, with: { name: e } } ] }
`},
	{name: "retries", script: "a: failed x2; b: throttled x1; block.c: failed x2; d: lost x1", runbook: `
runbook: test/retries
steps:
  - { id: a, action: test.make, with: { name: a }, retry: { attempts: 3, backoff: 10ms, max_backoff: 15ms, factor: 2, on: [failed] } }
  - { id: b, action: test.make, with: { name: b } }
  - id: block
    retry: { attempts: 3, backoff: 10ms }
    steps: [ { id: m, action: test.make, with: { name: m } }, { id: c, action: test.make, with: { name: c } } ]
  - { id: d, action: test.look, with: { name: d } }
`},
	{name: "custom-rollback", script: "broken: failed", runbook: `
runbook: test/custom
steps:
  - { id: kept, action: test.make, with: { name: kept }, rollback: none }
  - { id: a, action: test.make, with: { name: a }, rollback: { action: test.look, with: { name: "undo ${{ steps.a.id }}" } } }
  - id: b
    rollback: { steps: [ { id: nap, wait: 50ms }, { id: u, action: test.look, with: { name: u } }, { id: u2, targets: [n1], action: host.thing.make, with: { name: u2 } } ] }
    steps: [ { id: in_b, action: test.make, with: { name: in_b } } ]
  - { id: broken, action: test.make, with: { name: broken } }
`},
	{name: "rollback-failed", script: "undo.b: denied; broken: failed", runbook: "runbook: test/rollback_failed\nsteps:\n  - { id: a, action: test.make, with: { name: a } }\n  - { id: b, action: test.make, with: { name: b } }\n  - { id: broken, action: test.look, with: { name: broken } }\nfinally:\n  - { id: f, action: test.look, with: { name: f } }\n"},
	{name: "cancelled-rolled-back", runbook: "runbook: test/cancelled\nsteps:\n  - { id: a, action: test.make, with: { name: a } }\n  - { id: nap, wait: 1h }\nfinally:\n  - { id: f, action: test.look, with: { name: \"${{ steps.a.id }}\" } }\n", then: func(s *stage) {
		s.shows("nap", workflows.StateWaiting)
		s.cancel()
	}},
	{name: "cancelled-action", script: "hangs: hang", runbook: "runbook: test/cancelled_action\non_failure: stop\nsteps:\n  - { id: a, action: test.make, with: { name: a } }\n  - { id: hangs, action: test.make, with: { name: b } }\n", then: func(s *stage) {
		s.shows("hangs", workflows.StateRunning)
		time.Sleep(300 * time.Millisecond)
		s.cancel()
	}},
	{name: "cancelled-in-rollback", script: "broken: failed; undo.a: slow", runbook: "runbook: test/cancelled_rollback\nsteps:\n  - { id: a, action: test.make, with: { name: a } }\n  - { id: broken, action: test.look, with: { name: broken } }\n", then: func(s *stage) {
		time.Sleep(600 * time.Millisecond)
		s.cancel()
	}},
	{name: "timed-out-rolled-back", runbook: "runbook: test/timed_out\ntimeout: 1s\nsteps:\n  - { id: a, action: test.make, with: { name: a } }\n  - { id: nap, wait: 1h }\n"},
	{name: "terminated", runbook: "runbook: test/terminated\nsteps:\n  - { id: a, action: test.make, with: { name: a } }\n  - { id: nap, wait: 1h }\n", then: func(s *stage) {
		s.shows("nap", workflows.StateWaiting)
		s.must(s.c.TerminateWorkflow(s.t.Context(), s.id, "", "a test"))
	}},
	{name: "approvals", runbook: `
runbook: test/approvals
steps:
  - { id: yes, approval: { message: "Quorum", approvers: [ana, li, bob], quorum: 2, timeout: 1h } }
  - { id: by_time, approval: { message: "Time says yes", timeout: 100ms, on_timeout: approve } }
  - { id: no, approval: { message: "Time says no", timeout: 100ms, on_timeout: reject }, on_error: continue }
  - { id: late, approval: { message: "Time says too late", timeout: 100ms, on_timeout: fail }, on_error: continue }
  - { id: rejected, approval: { message: "A person says no" } }
outputs: { by: "${{ steps.yes.by }}", how: "${{ steps.by_time.decision }}" }
`, then: func(s *stage) {
		s.shows("yes", workflows.StateWaiting)
		_, err := s.c.UpdateWorkflow(s.t.Context(), client.UpdateWorkflowOptions{WorkflowID: s.id, UpdateName: workflows.AnswerApprove,
			Args: []any{workflows.Answer{By: "stranger"}}, WaitForStage: client.WorkflowUpdateStageCompleted})
		if err == nil {
			s.t.Log("a stranger's answer was admitted, to be refused")
		}
		s.answer(workflows.AnswerApprove, ana)
		s.signal(workflows.AnswerApprove, workflows.Answer{By: "nobody"}) // refused: a line in the log
		s.answer(workflows.AnswerApprove, workflows.Answer{By: "li", Comment: "fine"})
		s.answer(workflows.AnswerReject, workflows.Answer{By: "bob", Step: "rejected", Comment: "no"})
	}},
	{name: "signals-early", runbook: "runbook: test/early\nsteps:\n  - { id: before, wait: 700ms }\n  - { id: rest, pause: \"Have a look\" }\n", then: func(s *stage) {
		for range 5 {
			s.signal(workflows.AnswerResume, ana)
		}
		s.shows("rest", workflows.StateWaiting)
		s.signal(workflows.AnswerResume, workflows.Answer{By: "li"})
	}},
	{name: "ask-rollback", script: "b: failed", runbook: "runbook: test/ask\non_failure: ask\nsteps:\n  - { id: a, action: test.make, with: { name: a } }\n  - { id: b, action: test.make, with: { name: b } }\n", then: answers(workflows.AnswerRollback)},
	{name: "ask-stop", script: "b: failed", runbook: "runbook: test/ask\non_failure: ask\nsteps:\n  - { id: a, action: test.make, with: { name: a } }\n  - { id: b, action: test.make, with: { name: b } }\n", then: answers(workflows.AnswerStop)},
	{name: "ask-retry-with", script: "b: failed x1", runbook: "runbook: test/ask\non_failure: ask\nsteps:\n  - { id: a, action: test.make, with: { name: a } }\n  - { id: b, action: test.make, with: { name: b } }\n", then: func(s *stage) {
		s.answer(workflows.AnswerRetry, workflows.Answer{By: "ana", With: map[string]json.RawMessage{"name": json.RawMessage(`"other"`)}})
	}},
	{name: "where", runbook: `
runbook: test/where
steps:
  - { id: web, targets: { where: "node.tags.role == 'web'" }, action: host.thing.make, with: { name: a } }
  - { id: nobody, targets: { where: "node.tags.role == 'none'", allow_empty: true }, action: host.thing.make, with: { name: b } }
  - { id: nothing, targets: { where: "node.tags.role == 'none'" }, action: host.thing.make, with: { name: c } }
`},
	{name: "batches", script: "roll@n2: failed", runbook: `
runbook: test/batches
steps:
  - id: roll
    targets: { nodes: [n1, n2, n3], max_concurrency: 50%, max_errors: 1, batches: [1, 100%], bake: 20ms, gate: size(result.failed) < 2 }
    action: host.thing.make
    with: { name: a }
`},
	{name: "gate-closed", script: "roll@n1: failed", runbook: `
runbook: test/gate
steps:
  - { id: a, action: test.make, with: { name: a } }
  - id: roll
    targets: { nodes: [n1, n2, n3], max_errors: 3, batches: [1], gate: size(result.failed) == 0, on_halt: rollback }
    action: host.thing.make
    with: { name: a }
`},
	{name: "older-gate", older: true, script: "roll@n1: failed x1", runbook: `
runbook: test/gate
steps:
  - id: roll
    targets: { nodes: [n1, n2, n3], max_errors: 3, batches: [1], gate: size(result.failed) == 0, on_halt: ask }
    action: host.thing.make
    with: { name: a }
`, then: answers(workflows.AnswerRetry, workflows.AnswerContinue, workflows.AnswerContinue)}, // it asked again, since nothing was tried again
	{name: "halt-stop", script: "roll@n1: failed", runbook: "runbook: test/halt\nsteps:\n  - { id: roll, targets: { nodes: [n1, n2, n3], max_concurrency: 1, on_halt: stop }, action: host.thing.make, with: { name: a } }\n"},
	{name: "halt-ask", script: "roll@n1: failed; roll@n3: failed x1", runbook: "runbook: test/halt\nsteps:\n  - { id: roll, targets: { nodes: [n1, n2, n3], max_concurrency: 1, on_halt: ask }, action: host.thing.make, with: { name: a } }\n", then: answers(workflows.AnswerContinue, workflows.AnswerRetry, workflows.AnswerContinue)},
	{name: "halt-skip", script: "roll@n2: failed", runbook: "runbook: test/halt\nsteps:\n  - { id: roll, targets: { nodes: [n1, n2, n3], max_concurrency: 1, on_halt: ask }, action: host.thing.make, with: { name: a } }\n  - { id: more, action: test.look, with: { name: \"${{ steps.roll.skipped.join(',') }}\" } }\n", then: answers(workflows.AnswerSkip)},
	{name: "only-failed", only: []string{"n2"}, runbook: "runbook: test/only\nsteps:\n  - { id: roll, targets: { nodes: [n1, n2, n3] }, action: host.thing.make, with: { name: a } }\n"},
	{name: "restart", script: "one@n1: restarting x1; some@n2: restarting x2", runbook: "runbook: test/restart\nsteps:\n  - { id: one, targets: [n1], action: host.thing.make, with: { name: a } }\n  - { id: some, targets: { nodes: [n1, n2], max_concurrency: 1 }, action: host.thing.make, with: { name: b } }\n"},
	{name: "unreached", runbook: "runbook: test/unreached\nsteps:\n  - { id: some, targets: { nodes: [n1, n9], max_errors: 1 }, action: host.thing.make, with: { name: a } }\n  - { id: one, targets: [n9], action: host.thing.make, with: { name: b } }\n"},
	{name: "rollback-on-nodes", script: "broken@n2: failed; undo.roll@n2: denied", runbook: "runbook: test/rollback_nodes\nsteps:\n  - { id: roll, targets: { nodes: [n1, n2, n3] }, action: host.thing.make, with: { name: a } }\n  - { id: broken, targets: [n2], action: host.thing.look, with: { name: b } }\n"},
	{name: "child-undone", more: kids, script: "broken: failed", runbook: "runbook: test/parent\nsteps:\n  - { id: kid, runbook: test/quick, with: { what: a } }\n  - { id: use, action: test.look, with: { name: \"${{ steps.kid.id }}\" } }\n  - { id: broken, action: test.look, with: { name: broken } }\n"},
	{name: "child-succeeds", more: kids, runbook: "runbook: test/parent\nsteps:\n  - { id: kid, runbook: test/kid, with: { what: a } }\noutputs: { id: \"${{ steps.kid.id }}\" }\n", then: func(s *stage) {
		s.of(s.id+"/kid").answer(workflows.AnswerApprove, ana)
	}},
	{name: "child-rejected", more: kids, runbook: "runbook: test/parent\nsteps:\n  - { id: a, action: test.make, with: { name: a } }\n  - { id: kid, runbook: test/kid, with: { what: a } }\n", then: func(s *stage) {
		s.of(s.id+"/kid").answer(workflows.AnswerReject, ana)
	}},
	{name: "child-terminated", more: kids, runbook: "runbook: test/parent\nsteps:\n  - { id: a, action: test.make, with: { name: a } }\n  - { id: kid, runbook: test/kid, with: { what: a } }\n", then: func(s *stage) {
		s.of(s.id+"/kid").shows("ok", workflows.StateWaiting)
		s.must(s.c.TerminateWorkflow(s.t.Context(), s.id+"/kid", "", "a test"))
	}},
	{name: "child-cancelled", more: kids, runbook: "runbook: test/parent\nsteps:\n  - { id: a, action: test.make, with: { name: a } }\n  - { id: kid, runbook: test/kid, with: { what: a } }\n", then: func(s *stage) {
		s.of(s.id+"/kid").shows("ok", workflows.StateWaiting)
		s.cancel()
	}},
	{name: "finally-fails", script: "finally.f: failed", runbook: "runbook: test/finally\nsteps:\n  - { id: a, action: test.make, with: { name: a } }\n  - { id: skipped, if: \"false\", action: test.make, with: { name: b } }\nfinally:\n  - { id: f, action: test.look, with: { name: \"${{ steps.a.id }}\" } }\n  - { id: g, action: test.look, with: { name: \"${{ steps.skipped.id }}\" } }\n"},
	{name: "locks", more: kids, script: "broken: failed", inputs: map[string]any{"what": "b"}, runbook: "runbook: test/locks\ninputs: { what: { type: string } }\nlock: [a, \"${{ inputs.what }}\"]\nmax_running: 2\nsteps:\n  - { id: kid, runbook: test/locking }\n  - { id: broken, action: test.look, with: { name: broken } }\n"},
	{name: "cut-steps", cut: true, runbook: "runbook: test/cut\nvars: { n: 3 }\ntimeout: 1h\nsteps:\n  - id: loop\n    for_each: [1, 2, 3, 4, 5, 6, 7, 8]\n    steps: [ { id: x, action: test.make, with: { name: \"${{ string(vars.n) }}\" } }, { id: y, wait: 1ms } ]\n"},
	{name: "cut-rollback", cut: true, script: "broken: failed", runbook: "runbook: test/cut\nsteps:\n  - id: loop\n    for_each: [1, 2, 3, 4, 5, 6, 7, 8]\n    max_concurrency: 8\n    steps: [ { id: x, action: test.make, with: { name: x } } ]\n  - { id: broken, action: test.look, with: { name: broken } }\n"},
	{name: "cut-finally", cut: true, runbook: "runbook: test/cut\nsteps:\n  - { id: a, action: test.make, with: { name: a } }\nfinally:\n" + strings.Repeat("  - { action: test.look, with: { name: f } }\n", 8)},
	{name: "cut-waiting", cut: true, runbook: "runbook: test/cut\nsteps:\n  - { id: ok, approval: { message: \"Go on?\", approvers: [ana, li], quorum: 2 } }\n  - id: loop\n    for_each: [1, 2, 3, 4, 5, 6]\n    steps: [ { id: x, action: test.look, with: { name: x } } ]\n", then: func(s *stage) {
		s.answer(workflows.AnswerApprove, ana)
		s.answer(workflows.AnswerApprove, workflows.Answer{By: "li"})
	}},
	{name: "cut-branch", cut: true, runbook: "runbook: test/cut\nsteps:\n  - id: sides\n    parallel:\n      people: [ { id: ok, approval: { message: \"Go on?\", approvers: [ana, li], quorum: 2 } } ]\n      machine:\n        - id: loop\n          for_each: [1, 2, 3, 4, 5, 6]\n          steps: [ { id: x, action: test.look, with: { name: x } } ]\n", then: func(s *stage) {
		s.answer(workflows.AnswerApprove, ana)
		s.answer(workflows.AnswerApprove, workflows.Answer{By: "li"})
	}},
	{name: "left", back: true, more: kids, script: "undo.a: denied; undo.kid/k: denied; own.rollback.u: failed; broken: failed", runbook: `
runbook: test/left
vars: { word: "hello" }
steps:
  - { id: a, action: test.make, with: { name: a } }
  - { id: kid, runbook: test/quick, with: { what: a } }
  - { id: own, action: test.make, with: { name: own }, rollback: { steps: [ { id: v, action: test.look, with: { name: "${{ vars.word }} ${{ steps.own.id }}" } }, { id: u, action: test.look, with: { name: u } } ] } }
  - { id: broken, action: test.look, with: { name: broken } }
`},
	{name: "reset", runbook: "runbook: test/reset\nsteps:\n  - { id: a, action: test.make, with: { name: a } }\n  - { id: nap, wait: 200ms }\n  - { id: b, action: test.make, with: { name: b } }\n", then: func(s *stage) {
		s.must(s.c.GetWorkflow(s.t.Context(), s.id, "").Get(s.t.Context(), nil))
		_, err := s.c.ResetWorkflowExecution(s.t.Context(), &workflowservice.ResetWorkflowExecutionRequest{
			Namespace: "default", WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: s.id}, RequestId: "reset", Reason: "a test",
			WorkflowTaskFinishEventId: 10,
		})
		s.must(err)
	}},
	{name: "open-waiting", runbook: "runbook: test/open\nsteps:\n  - { id: a, action: test.make, with: { name: a } }\n  - { id: ok, approval: { message: \"Go on?\", approvers: [ana, li], quorum: 2, timeout: 30d } }\n", then: func(s *stage) {
		s.answer(workflows.AnswerApprove, ana)
	}},
	{name: "open-rollback", script: "broken: failed", runbook: "runbook: test/open\nsteps:\n  - { id: a, action: test.make, with: { name: a } }\n  - { id: b, action: test.make, with: { name: b }, rollback: { steps: [ { id: nap, wait: 30d } ] } }\n  - { id: broken, action: test.look, with: { name: broken } }\n", then: func(s *stage) {
		time.Sleep(time.Second)
	}},
}

type login struct {
	User     string        `json:"user" jsonschema:"who"`
	Password action.Secret `json:"password,omitzero" jsonschema:"password"`
	Extra    any           `json:"extra,omitempty" jsonschema:"anything else"`
}
type loggedIn struct {
	OK bool `json:"ok" jsonschema:"whether it worked"`
}
type sized struct {
	Name string `json:"name" jsonschema:"what to make"`
	Size int    `json:"size,omitempty" jsonschema:"how large"`
}
type identified struct {
	ID   string `json:"id" jsonschema:"what was made"`
	Size int    `json:"size" jsonschema:"how large it is"`
}

// cast plays the actions of all scenes by their scripts.
type cast struct {
	mu    sync.Mutex
	lines map[string]map[string]*line // by scene and path
}

type line struct {
	kind  string
	times int // left; -1: always
}

// generation is what an activity id has behind its path: from the second time on, and always for a compensation.
var generation = regexp.MustCompile(`#\d+$|^(undo\..*)\.[a-z0-9]{6}$`)

func (k *cast) learn(t *testing.T, s scene) {
	t.Helper()
	k.lines[s.name] = map[string]*line{}
	for _, part := range strings.Split(s.script, ";") {
		path, does, ok := strings.Cut(strings.TrimSpace(part), ": ")
		if !ok {
			continue
		}
		l := &line{does, -1}
		if kind, n, ok := strings.Cut(does, " x"); ok {
			times, err := strconv.Atoi(n)
			if err != nil {
				t.Fatal(err)
			}
			l = &line{kind, times}
		}
		k.lines[s.name][path] = l
	}
}

func (k *cast) play(ctx context.Context) error {
	info := activity.GetInfo(ctx)
	name, _, _ := strings.Cut(info.WorkflowExecution.ID, "/")
	k.mu.Lock()
	l := k.lines[name][generation.ReplaceAllString(info.ActivityID, "$1")]
	if l == nil || l.times == 0 {
		k.mu.Unlock()
		return nil
	}
	if l.times > 0 {
		l.times--
	}
	k.mu.Unlock()
	switch l.kind {
	case "hang":
		<-ctx.Done()
		return ctx.Err()
	case "slow":
		time.Sleep(time.Second)
		return nil
	case string(action.Restarting):
		return &action.Error{Kind: action.Restarting, Err: errors.New("it restarts"), Detail: action.RestartDetail{Within: "1m"}}
	}
	return action.Errorf(action.Kind(l.kind), "it is %s", l.kind)
}

func (k *cast) actions() []action.Action {
	do := func(ctx context.Context, in sized) (identified, error) {
		return identified{ID: in.Name + "-id", Size: in.Size}, k.play(ctx)
	}
	undo := func(ctx context.Context, _ sized, _ *identified) error { return k.play(ctx) }
	return []action.Action{
		action.New(action.Def[login, loggedIn]{Name: "test.login", Summary: "Log in",
			Do: func(ctx context.Context, _ login) (loggedIn, error) { return loggedIn{OK: true}, k.play(ctx) }}),
		action.New(action.Def[sized, identified]{Name: "test.make", Summary: "Make a thing", Do: do, Compensate: undo}),
		action.New(action.Def[sized, identified]{Name: "test.look", Summary: "Look at a thing", Do: do}),
		action.New(action.Def[sized, identified]{Name: "host.thing.make", Summary: "Make a thing on a node", Do: do, Compensate: undo}),
		action.New(action.Def[sized, identified]{Name: "host.thing.look", Summary: "Look at a thing on a node", Do: do}),
	}
}

func (k *cast) compile(t *testing.T, s scene) *program.Program {
	t.Helper()
	var infos []action.Info
	for _, a := range k.actions() {
		infos = append(infos, a.Info)
	}
	p, ds := compile.Compile("test.yaml", []byte(s.runbook), compile.Options{Actions: infos, Runbook: func(name string) (string, []byte, error) {
		if source, ok := s.more[name]; ok {
			return name + ".yaml", []byte(source), nil
		}
		return "", nil, os.ErrNotExist
	}})
	if p == nil {
		t.Fatalf("%s: %v", s.name, ds)
	}
	if s.version > 0 {
		p.Version = s.version
	}
	return p
}

// somebody is who does everything that is recorded: a history must not tell about the machine where it was made.
const somebody = "corpus"

func (k *cast) open(t *testing.T, dynamic map[string]any) client.Client {
	t.Helper()
	srv, err := server.Start(t.Context(), server.Options{File: filepath.Join(t.TempDir(), "db"), Dynamic: dynamic})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Stop() })
	c, err := client.Dial(client.Options{HostPort: srv.Address(), Logger: quiet{}, Identity: somebody})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	for _, queue := range []string{workflows.TaskQueue, "node/n1", "node/n2", "node/n3"} {
		w := worker.New(c, queue, worker.Options{Identity: somebody, MaxHeartbeatThrottleInterval: time.Second})
		activities.Register(w, k.actions(), activities.Options{})
		if queue == workflows.TaskQueue {
			workflows.Register(w)
			control.Locks(w, c)
			w.RegisterActivityWithOptions(func(context.Context, string, json.RawMessage) (workflows.NodesPage, error) {
				return workflows.PackNodes([]registry.Listed{
					{Node: registry.Node{ID: "n1", Reach: registry.ReachAgent, Tags: map[string]string{"role": "web"}}, Alive: true},
					{Node: registry.Node{ID: "n2", Reach: registry.ReachAgent, Tags: map[string]string{"role": "db"}}, Alive: true},
					{Node: registry.Node{ID: "n3", Reach: registry.ReachAgent, Tags: map[string]string{"role": "web"}}},
				}, "")
			}, activity.RegisterOptions{Name: workflows.ActionNodes})
			w.RegisterActivityWithOptions(func(context.Context, string, json.RawMessage) error { return nil }, activity.RegisterOptions{Name: workflows.ActionRecordCompliance})
			w.RegisterActivityWithOptions(func(context.Context, string, json.RawMessage) (json.RawMessage, error) {
				return json.RawMessage(`{"stored":true}`), nil
			}, activity.RegisterOptions{Name: workflows.ActionStoreInventory})
			looks := 0
			w.RegisterActivityWithOptions(func(context.Context, string, action.Target) (bool, error) {
				if looks++; looks == 1 {
					return true, errors.New("it is away")
				}
				return false, nil
			}, activity.RegisterOptions{Name: workflows.ActionSync})
		}
		if err := w.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Stop)
	}
	return c
}

const folder = "../../../workflows/testdata/history"

// missing tells whether there is no history of that name: those that are there are kept, for as long as such executions may run.
func missing(name string) bool {
	_, err := os.Stat(filepath.Join(folder, name+".json"))
	return errors.Is(err, os.ErrNotExist)
}

// TestRecord records the histories of scenes that have none. UPDATE_HISTORY=1 writes them.
func TestRecord(t *testing.T) {
	if os.Getenv("UPDATE_HISTORY") == "" {
		t.Skip("UPDATE_HISTORY is not set")
	}
	t.Setenv("CORPUS_SECRET", "a secret of the corpus")
	k := &cast{lines: map[string]map[string]*line{}}
	var todo []scene
	older := os.Getenv("UPDATE_HISTORY") == "older"
	before := false
	for _, s := range scenes {
		if p := k.compile(t, s); !missing(fmt.Sprintf("%s.v%d", s.name, min(p.Version, program.Version))) {
			continue
		}
		if s.older == older {
			k.learn(t, s)
			todo = append(todo, s)
		}
		before = before || s.older && !older
	}
	if before {
		recordOlder(t)
	}
	plain := k.open(t, nil)
	cut := k.open(t, map[string]any{"limit.historyCount.suggestContinueAsNew": 20, "history.workflowIdReuseMinimalInterval": "1ms"})
	t.Run("scenes", func(t *testing.T) {
		for _, s := range todo {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				c := plain
				if s.cut {
					c = cut
				}
				k.record(t, c, s)
			})
		}
	})
	t.Run("others", func(t *testing.T) { recordOthers(t, plain, cut) })
}

// recordOlder records the scenes of an interpreter from before the changes that histories are asked for (newer).
func recordOlder(t *testing.T) {
	t.Helper()
	overlay := overlaid(t, root(t), map[string][2]string{"workflows/runbook.go": {
		"return workflow.GetVersion(ctx, change, workflow.DefaultVersion, 1) >= 1", "return change == \"\"",
	}})
	cmd := exec.Command("go", "test", "-vet=off", "-overlay", overlay, "-run", "^TestRecord$", "-v", ".")
	cmd.Env = append(os.Environ(), "UPDATE_HISTORY=older")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func (k *cast) record(t *testing.T, c client.Client, s scene) {
	p := k.compile(t, s)
	inputs := map[string]json.RawMessage{}
	for name, v := range s.inputs {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		inputs[name] = raw
	}
	run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
		ID: s.name, TaskQueue: workflows.TaskQueue, TypedSearchAttributes: workflows.Attributes(p.Runbook, "ana"),
	}, p.Runbook, workflows.Start{Program: p, Inputs: inputs, Caller: "ana", Only: s.only})
	if err != nil {
		t.Fatal(err)
	}
	if s.then != nil {
		s.then(&stage{t, c, s.name})
	}
	if strings.HasPrefix(s.name, "open-") {
		save(t, c, s.name, "", fmt.Sprintf("%s.v%d", s.name, p.Version))
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := c.GetWorkflow(ctx, s.name, "").Get(ctx, nil); ctx.Err() != nil {
		t.Fatal(err)
	} else {
		t.Log(err)
	}
	for i, id := range runsOf(t, c, s.name, run.GetRunID()) {
		name := s.name
		if i > 0 {
			name += "-" + strconv.Itoa(i+1)
		}
		save(t, c, s.name, id, fmt.Sprintf("%s.v%d", name, min(p.Version, program.Version)))
	}
	if s.back {
		var result workflows.Result
		var ended *temporal.ApplicationError
		if err := c.GetWorkflow(ctx, s.name, "").Get(ctx, nil); !errors.As(err, &ended) || ended.Details(&result) != nil || result.Left == nil {
			t.Fatalf("it left nothing: %v", err)
		}
		back := s.name + "-rollback"
		run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: back, TaskQueue: workflows.TaskQueue, TypedSearchAttributes: workflows.Attributes(p.Runbook, "ana")},
			p.Runbook, workflows.Start{Inputs: inputs, Caller: "ana", TakeBack: &workflows.TakeBack{Of: s.name, Program: p, Left: result.Left}})
		if err != nil {
			t.Fatal(err)
		}
		if err := run.Get(ctx, nil); err != nil {
			t.Fatal(err)
		}
		save(t, c, back, "", fmt.Sprintf("%s.v%d", back, p.Version))
	}
	if s.more != nil {
		save(t, c, s.name+"/kid", "", fmt.Sprintf("%s-kid.v%d", s.name, p.Version))
	}
}

// runsOf are the runs of an execution, the first first, without those in the middle of many: they hold nothing new.
func runsOf(t *testing.T, c client.Client, id, first string) []string {
	all := []string{first}
	for len(all) < 50 {
		next := ""
		for it := c.GetWorkflowHistory(t.Context(), id, all[len(all)-1], false, enumspb.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT); it.HasNext(); {
			e, err := it.Next()
			if err != nil {
				t.Fatal(err)
			}
			next = e.GetWorkflowExecutionContinuedAsNewEventAttributes().GetNewExecutionRunId()
		}
		if next == "" {
			break
		}
		all = append(all, next)
	}
	if d, err := c.DescribeWorkflowExecution(t.Context(), id, ""); err == nil {
		if now := d.GetWorkflowExecutionInfo().GetExecution().GetRunId(); now != all[len(all)-1] { // it was reset
			all = append(all, now)
		}
	}
	if len(all) > 3 {
		all = append(all[:2:2], all[len(all)-1])
	}
	return all
}

// recordOthers records the workflows that are no runbooks.
func recordOthers(t *testing.T, plain, cut client.Client) {
	begin := func(t *testing.T, c client.Client, id, kind string, args ...any) (*stage, client.WorkflowRun) {
		run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: workflows.TaskQueue}, kind, args...)
		if err != nil {
			t.Fatal(err)
		}
		return &stage{t, c, id}, run
	}
	if missing("node.v1") {
		for _, c := range []client.Client{plain, cut} {
			n := registry.Node{ID: "n1", Name: "n1", Platform: "linux", OS: "debian", Version: "13", Arch: "amd64", Reach: registry.ReachAgent,
				Tags: map[string]string{"role": "web"}, BootID: "boot-1", Installation: "first"}
			s, run := begin(t, c, "node/n1", registry.WorkflowType, n)
			report := func(change func(*registry.Node)) {
				change(&n)
				h, err := c.UpdateWorkflow(t.Context(), client.UpdateWorkflowOptions{WorkflowID: s.id, UpdateName: registry.UpdateReport, Args: []any{n}, WaitForStage: client.WorkflowUpdateStageCompleted})
				if err == nil {
					err = h.Get(t.Context(), nil)
				}
				if (err != nil) != (n.Installation != "first") {
					t.Errorf("report: %v", err)
				}
			}
			report(func(n *registry.Node) { n.Tags["role"] = "db" })
			s.signal(registry.SignalFacts, registry.Compliance{Baseline: "linux/base", Status: registry.NonCompliant, Missing: map[string]int{"high": 2}})
			s.signal(registry.SignalFacts, registry.Compliance{Baseline: "", Status: "rubbish"})
			report(func(n *registry.Node) { n.Installation = "second" })
			report(func(n *registry.Node) { n.Installation, n.BootID = "first", "boot-2" })
			time.Sleep(time.Second)
			s.signal(registry.SignalFacts, registry.Compliance{Baseline: "linux/base", Status: registry.Compliant})
			time.Sleep(time.Second)
			if c == plain {
				save(t, c, s.id, run.GetRunID(), "node.v1")
				continue
			}
			report(func(n *registry.Node) { n.Clock = registry.Duration(time.Hour) })
			time.Sleep(time.Second)
			save(t, c, s.id, run.GetRunID(), "node-cut.v1")
			save(t, c, s.id, "", "node-cut-2.v1")
		}
	}
	for _, o := range []struct {
		name, id, kind string
		arg            any
	}{
		{"ask.v1", "ask/1", workflows.AskType, workflows.Question{Activity: workflows.ActionNodes, Input: json.RawMessage("{}")}},
		{"ask-refused.v1", "ask/2", workflows.AskType, workflows.Question{Activity: "test.make"}},
		{"tell.v1", "tell/n1/1", workflows.TellType, workflows.Question{Activity: workflows.ActionStoreInventory, Input: json.RawMessage("{}")}},
		{"sync.v1", "sync/ssm/eu-west-1", workflows.SyncType, action.Target{Region: "eu-west-1"}},
	} {
		if missing(o.name) {
			_, run := begin(t, plain, o.id, o.kind, o.arg)
			_ = run.Get(t.Context(), nil) // the history tells how
			save(t, plain, o.id, "", o.name)
		}
	}
}

// save writes the history of one run, without what replay does not need.
func save(t *testing.T, c client.Client, id, run, name string) {
	t.Helper()
	var h historypb.History
	for it := c.GetWorkflowHistory(t.Context(), id, run, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); it.HasNext(); {
		e, err := it.Next()
		if err != nil {
			t.Fatal(err)
		}
		e.TaskId = 0
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
	if !missing(name) {
		return
	}
	t.Logf("%s: %d events, %d bytes", name, len(h.Events), compact.Len())
	compact.WriteByte('\n')
	if err := os.WriteFile(filepath.Join(folder, name+".json"), compact.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
