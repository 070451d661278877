package workflows_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"

	"github.com/almanac-run/almanac/internal/rehearse/play"
	"github.com/almanac-run/almanac/workflows"
)

// What a node had begun before it was lost is taken back, however long that took: it is no work that nobody took.
func TestLostIsNotLate(t *testing.T) {
	t.Parallel()
	asked, taken := 0, 0
	ended, err := play.Play{
		Program: compileTest(t, "runbook: test/lost\nsteps:\n  - { id: made, targets: [n1], action: host.thing.make, with: { name: a } }\n", nil),
		Handler: func(ctx context.Context, a *play.Attempt) (json.RawMessage, error) {
			if a.Undo {
				taken++
				return json.RawMessage("null"), nil
			}
			if asked++; asked > 1 {
				return nil, play.ErrUnreached
			}
			// As the server tells it: an attempt that gave signs of life, and a further one that nobody took.
			if err := play.Sleep(ctx, time.Minute); err != nil {
				return nil, err
			}
			return nil, temporal.NewTimeoutError(enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START, nil, "alive")
		},
	}.Run()
	if err != nil {
		t.Fatal(err)
	}
	if r := ended.Result; asked != 1 || taken != 1 || r.Outcome != workflows.RolledBack || r.Failure.Kind != "lost" {
		t.Errorf("asked %d times, taken back %d times, %s: %v", asked, taken, r.Outcome, r.Failure)
	}
}

// Work of a rollback has a token of its own also where two attempts at one called runbook have left the same: under one
// token a node would answer the second from its journal, and not run it.
func TestTokensOfTwoAttempts(t *testing.T) {
	t.Parallel()
	kid := "runbook: test/kid\nPOLICY\nsteps:\n  - id: made\n    action: test.make\n    with: { name: a }\n    rollback: { id: unmake, targets: [n1], action: host.thing.look, with: { name: a } }\nFAIL\n"
	for name, texts := range map[string][2]string{
		"left":        {"on_failure: stop", "  - { id: broken, fail: broken }"},
		"handed over": {"on_failure: rollback", "finally:\n  - { id: broken, fail: broken }"},
	} {
		t.Run(name, func(t *testing.T) {
			p := compileTest(t, "runbook: test/twice\nsteps:\n  - { id: kid, runbook: test/kid, retry: { attempts: 2 } }\n", map[string]string{
				"test/kid.yaml": strings.NewReplacer("POLICY", texts[0], "FAIL", texts[1]).Replace(kid),
			})
			tokens := map[string]string{}
			run := func(left json.RawMessage) *workflows.Result {
				t.Helper()
				ended, err := play.Play{
					Program: p, Left: left,
					Handler: func(_ context.Context, a *play.Attempt) (json.RawMessage, error) {
						if a.Node != "" {
							if before, ok := tokens[a.Token]; ok {
								t.Errorf("%s has the token of %s", a.Path, before)
							}
							tokens[a.Token] = a.Path
						}
						return json.RawMessage(`{"id":"a","size":0}`), nil
					},
				}.Run()
				if err != nil {
					t.Fatal(err)
				}
				return &ended.Result
			}
			if r := run(nil); r.Left != nil {
				run(r.Left)
			}
			if len(tokens) != 2 {
				t.Errorf("taken back: %v, want two", tokens)
			}
		})
	}
}

// What is left is told only if the start of an execution that takes it back is a message that the server takes.
func TestLeftFitsIntoAStart(t *testing.T) {
	t.Parallel()
	runbook := `
runbook: test/full
on_failure: stop
inputs:
  items: { type: list<int> }
steps:
  - { id: all, for_each: "${{ inputs.items }}", steps: [{ id: one, action: test.make, with: { name: a } }] }
  - { id: broken, fail: broken }
  - { id: more, pause: "%s" }
`
	for words, fits := range map[int]bool{0: true, 400 << 10: false} {
		p := compileTest(t, fmt.Sprintf(runbook, strings.Repeat("w", words)), nil)
		inputs := map[string]json.RawMessage{"items": json.RawMessage("[" + strings.Repeat("0,", 21) + "0]")}
		random := rand.NewChaCha8([32]byte{1})
		ended, err := play.Play{Program: p, Inputs: inputs, Handler: func(context.Context, *play.Attempt) (json.RawMessage, error) {
			b := make([]byte, 60<<10)
			_, _ = random.Read(b)
			return json.Marshal(map[string]any{"id": base64.StdEncoding.EncodeToString(b), "size": 1})
		}}.Run()
		if err != nil {
			t.Fatal(err)
		}
		left := ended.Result.Left
		if (left != nil) != fits {
			t.Errorf("with %d bytes of program %d bytes are left", words, len(left))
		}
		if start, err := json.Marshal(workflows.Start{Inputs: inputs, TakeBack: &workflows.TakeBack{Program: p, Left: left}}); err != nil || len(start) > 2<<20 {
			t.Errorf("the start of a take-back has %d bytes, %v", len(start), err)
		}
	}
}

// A take-back that is cancelled while it waits for its lock has left all that it was to take back; one that is cancelled
// later goes on to its end.
func TestTakeBackCancelled(t *testing.T) {
	t.Parallel()
	p := compileTest(t, "runbook: test/locked\nlock: one\non_failure: stop\nsteps:\n  - { id: made, action: test.make, with: { name: a } }\n  - { id: too, action: test.make, with: { name: b } }\n  - { id: broken, fail: broken }\n", nil)
	for _, cut := range []bool{false, true} {
		taken := 0
		run := func(left json.RawMessage, moments ...play.Moment) *workflows.Result {
			t.Helper()
			ended, err := play.Play{Program: p, Left: left, Cut: cut, Moments: moments, Handler: func(ctx context.Context, a *play.Attempt) (json.RawMessage, error) {
				if a.Undo {
					taken++
					if err := play.Sleep(ctx, time.Minute); err != nil {
						return nil, err
					}
				}
				return json.RawMessage(`{"id":"a","size":0}`), nil
			}}.Run()
			if err != nil {
				t.Fatal(err)
			}
			return &ended.Result
		}
		r := run(nil)
		other := workflows.LockMessage{Verb: workflows.LockAsk, Claim: workflows.Claim{Holder: workflows.Holder{ID: "other"}, Limit: 1}}
		r = run(r.Left,
			play.Moment{Do: func(s *play.Stage) { s.Lock(workflows.LockID("one"), other) }},
			play.Moment{After: time.Hour, Do: func(s *play.Stage) { s.Cancel() }})
		if r.Outcome != workflows.Cancelled || r.LeftCount != 2 || taken != 0 {
			t.Fatalf("cancelled while it waits: %s, %d left, %d taken back: %s", r.Outcome, r.LeftCount, taken, r.Message)
		}
		r = run(r.Left, play.Moment{After: 30 * time.Second, Do: func(s *play.Stage) { s.Cancel() }})
		if r.Outcome != workflows.Succeeded || r.Left != nil || taken != 2 {
			t.Errorf("cancelled in the middle: %s, %d left, %d taken back: %s", r.Outcome, r.LeftCount, taken, r.Message)
		}
	}
}

// The values of a runbook are told once, however many `rollback:`s are left: what takes them back has them itself.
func TestLeftTellsValuesOnce(t *testing.T) {
	t.Parallel()
	p := compileTest(t, `
runbook: test/once
on_failure: stop
inputs:
  items: { type: list<int> }
  text: { type: string }
vars:
  shout: "${{ inputs.text }}!"
steps:
  - id: all
    for_each: ${{ inputs.items }}
    steps:
      - id: one
        action: test.look
        with: { name: "${{ string(item) }}" }
        rollback: { id: back, action: test.look, with: { name: "${{ string(item) }} ${{ vars.shout }} ${{ inputs.text }} ${{ execution.id }}" } }
  - { id: broken, fail: broken }
`, nil)
	b := make([]byte, 60<<10)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	text := base64.StdEncoding.EncodeToString(b)
	raw, _ := json.Marshal(text)
	inputs := map[string]json.RawMessage{"text": raw, "items": json.RawMessage("[" + strings.Repeat("0,", 99) + "0]")}
	run := func(id string, left json.RawMessage, look func(input string)) *workflows.Result {
		t.Helper()
		ended, err := play.Play{ID: id, Program: p, Inputs: inputs, Left: left, Handler: func(_ context.Context, a *play.Attempt) (json.RawMessage, error) {
			look(string(a.Input))
			return json.RawMessage(`{"id":"a","size":0}`), nil
		}}.Run()
		if err != nil {
			t.Fatal(err)
		}
		return &ended.Result
	}
	r := run("first", nil, func(string) {})
	if r.LeftCount != 100 || len(r.Left) > 1<<20 {
		t.Fatalf("%d left in %d bytes", r.LeftCount, len(r.Left))
	}
	right := 0
	run("second", r.Left, func(input string) {
		if input == fmt.Sprintf(`{"name":"0 %s! %s first"}`, text, text) {
			right++
		}
	})
	if right != 100 {
		t.Errorf("%d of 100 are taken back with the values of the time", right)
	}
}

// What a runbook leaves that a `rollback:` calls is taken back first, and then it is called again.
func TestLeftWithinRollback(t *testing.T) {
	t.Parallel()
	p := compileTest(t, `
runbook: test/within
on_failure: stop
steps:
  - { id: first, action: test.make, with: { name: first } }
  - { id: second, action: test.make, with: { name: second }, rollback: { id: kid, runbook: test/kid } }
  - { id: broken, fail: broken }
`, map[string]string{"test/kid.yaml": `
runbook: test/kid
steps:
  - { id: made, action: test.make, with: { name: kid } }
  - { id: look, action: test.look, with: { name: look } }
`})
	run := func(left json.RawMessage, broken bool) (*workflows.Result, []string) {
		t.Helper()
		var done []string
		ended, err := play.Play{Program: p, Left: left, Handler: func(_ context.Context, a *play.Attempt) (json.RawMessage, error) {
			what := a.Action + " " + string(a.Input[len(`{"name":"`):len(a.Input)-len(`"}`)])
			if a.Undo {
				what = "undo " + what
			}
			done = append(done, what)
			if broken && (a.Action == "test.look" || a.Undo && strings.Contains(what, "kid")) {
				return nil, temporal.NewApplicationError("no", "failed")
			}
			return json.RawMessage(`{"id":"a","size":0}`), nil
		}}.Run()
		if err != nil {
			t.Fatal(err)
		}
		return &ended.Result, done
	}
	r, _ := run(nil, false)
	r, _ = run(r.Left, true)
	if r.LeftCount != 2 {
		t.Fatalf("%d left", r.LeftCount)
	}
	r, done := run(r.Left, false)
	if got, want := strings.Join(done, ", "), "undo test.make kid, test.make kid, test.look look"; got != want || r.Outcome != workflows.Succeeded {
		t.Errorf("%s: %s, want %s", r.Outcome, got, want)
	}
}
