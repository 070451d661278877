package workflows_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/workflows"
)

func named(id string) workflows.Holder { return workflows.Holder{ID: id, FirstRun: "run of " + id} }

func ask(id string, limit int, within ...string) workflows.LockMessage {
	c := workflows.Claim{Holder: named(id), Limit: limit}
	for _, w := range within {
		c.Within = append(c.Within, named(w))
	}
	return workflows.LockMessage{Verb: workflows.LockAsk, Claim: c}
}

func give(id string) workflows.LockMessage {
	return workflows.LockMessage{Verb: workflows.LockGive, Claim: workflows.Claim{Holder: named(id)}}
}

func pass(id, to string) workflows.LockMessage {
	m := give(id)
	h := named(to)
	m.Verb, m.To = workflows.LockPass, &h
	return m
}

func ids(claims []workflows.Claim) string {
	var list []string
	for _, c := range claims {
		list = append(list, c.ID)
	}
	return fmt.Sprint(list)
}

func TestTurns(t *testing.T) {
	tests := map[string]struct {
		said            []workflows.LockMessage
		holders, queued string
	}{
		"one at a time, in order":           {[]workflows.LockMessage{ask("a", 1), ask("b", 1), ask("c", 1)}, "[a]", "[b c]"},
		"given back":                        {[]workflows.LockMessage{ask("a", 1), ask("b", 1), ask("c", 1), give("a")}, "[b]", "[c]"},
		"one that waits gives up":           {[]workflows.LockMessage{ask("a", 1), ask("b", 1), ask("c", 1), give("b"), give("a")}, "[c]", "[]"},
		"said twice":                        {[]workflows.LockMessage{ask("a", 1), ask("a", 1), ask("b", 1), ask("b", 1), give("a"), give("a")}, "[b]", "[]"},
		"three places":                      {[]workflows.LockMessage{ask("a", 3), ask("b", 3), ask("c", 3), ask("d", 3), give("b")}, "[a c d]", "[]"},
		"fewer places than there were":      {[]workflows.LockMessage{ask("a", 3), ask("b", 3), ask("c", 1), give("a")}, "[b]", "[c]"},
		"nobody overtakes":                  {[]workflows.LockMessage{ask("a", 2), ask("b", 1), ask("c", 2)}, "[a]", "[b c]"},
		"not behind its caller":             {[]workflows.LockMessage{ask("a", 1), ask("x", 1), ask("a/child", 1, "a")}, "[a a/child]", "[x]"},
		"behind a sibling":                  {[]workflows.LockMessage{ask("a", 1), ask("a/1", 1, "a"), ask("a/2", 1, "a"), ask("x", 1)}, "[a a/1]", "[a/2 x]"},
		"after its sibling":                 {[]workflows.LockMessage{ask("a", 1), ask("a/1", 1, "a"), ask("x", 1), ask("a/2", 1, "a"), give("a/1")}, "[a a/2]", "[x]"},
		"passed on":                         {[]workflows.LockMessage{ask("a/1", 1, "a"), ask("x", 1), pass("a/1", "a")}, "[a]", "[x]"},
		"passed on to one that has it":      {[]workflows.LockMessage{ask("a", 1), ask("a/1", 1, "a"), ask("x", 1), pass("a/1", "a"), give("a")}, "[x]", "[]"},
		"passed on, and a sibling after":    {[]workflows.LockMessage{ask("a/1", 1, "a"), ask("x", 1), ask("a/2", 1, "a"), pass("a/1", "a")}, "[a a/2]", "[x]"},
		"passed on by nobody":               {[]workflows.LockMessage{ask("a", 1), pass("b", "c")}, "[a]", "[]"},
		"the same id, another execution":    {[]workflows.LockMessage{ask("a", 1), {Verb: workflows.LockGive, Claim: workflows.Claim{Holder: workflows.Holder{ID: "a", FirstRun: "older"}}}}, "[a]", "[]"},
		"a limit of nothing is one":         {[]workflows.LockMessage{ask("a", 0), ask("b", -1)}, "[a]", "[b]"},
		"what is not known changes nothing": {[]workflows.LockMessage{ask("a", 1), {Verb: "steal", Claim: workflows.Claim{Holder: named("b")}}}, "[a]", "[]"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var turns workflows.Turns
			for _, m := range test.said {
				turns.Apply(m)
				for len(turns.Next(2)) > 0 {
				}
			}
			if ids(turns.Holders) != test.holders || ids(turns.Queue) != test.queued {
				t.Errorf("held by %s, %s wait; want %s and %s", ids(turns.Holders), ids(turns.Queue), test.holders, test.queued)
			}
		})
	}
}

// TestTurnsAlways: whatever is said, no more than the limit hold a lock who do
// not call each other, each that may is let in, in order, and nobody is lost.
func TestTurnsAlways(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		limit := 1 + r.IntN(3)
		var turns workflows.Turns
		var asked []string // in order, that still want it
		entered := map[string]bool{}
		var order, want []string
		for n := range 200 {
			if len(asked) == 0 || r.IntN(2) == 0 {
				id := fmt.Sprint("e", n)
				asked, want = append(asked, id), append(want, id)
				turns.Apply(ask(id, limit))
			} else {
				i := r.IntN(len(asked))
				if !entered[asked[i]] {
					want = slices.DeleteFunc(want, func(id string) bool { return id == asked[i] })
				}
				turns.Apply(give(asked[i]))
				asked = slices.Delete(asked, i, i+1)
			}
			for {
				told := turns.Next(1 + r.IntN(3))
				if len(told) == 0 {
					break
				}
				for _, turn := range told {
					if turn.Held {
						entered[turn.ID] = true
						order = append(order, turn.ID)
					}
				}
			}
			if have := len(turns.Holders); have > limit || have != min(limit, len(asked)) {
				t.Fatalf("seed %d: %d hold it, %d want it, limit %d", seed, have, len(asked), limit)
			}
			if len(turns.Holders)+len(turns.Queue) != len(asked) {
				t.Fatalf("seed %d: %d and %d of %d", seed, len(turns.Holders), len(turns.Queue), len(asked))
			}
		}
		if diff := cmp.Diff(want[:len(order)], order); diff != "" {
			t.Fatalf("seed %d: let in out of order (-want +got):\n%s", seed, diff)
		}
	}
}

// lockTest is a lock in the SDK's test environment; executions are what their signals say.
type lockTest struct {
	env  *testsuite.TestWorkflowEnvironment
	told []string        // in order
	dead map[string]bool // signals do not arrive
	gone []string        // what is found when the lock looks
	look int             // how often it looked
}

func newLockTest(t *testing.T) *lockTest {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(mute{})
	l := &lockTest{env: suite.NewTestWorkflowEnvironment(), dead: map[string]bool{}}
	l.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: "lock/a"})
	l.env.SetTestTimeout(10 * time.Second)
	l.env.RegisterWorkflowWithOptions(workflows.Lock, workflow.RegisterOptions{Name: workflows.LockType})
	l.env.RegisterActivityWithOptions(func(string, []workflows.Holder) ([]workflows.Holder, error) {
		l.look++
		found := []workflows.Holder{}
		for _, id := range l.gone {
			found = append(found, named(id))
		}
		return found, nil
	}, activity.RegisterOptions{Name: workflows.ActionLockLook})
	l.env.SetWorkerOptions(worker.Options{Interceptors: []interceptor.WorkerInterceptor{&hears{lock: l}}})
	return l
}

// hears takes the place of the executions that a lock speaks to.
type hears struct {
	interceptor.WorkerInterceptorBase
	lock *lockTest
}

type hearsInbound struct {
	interceptor.WorkflowInboundInterceptorBase
	lock *lockTest
}

type hearsOutbound struct {
	interceptor.WorkflowOutboundInterceptorBase
	lock *lockTest
}

func (h *hears) InterceptWorkflow(_ workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	in := &hearsInbound{lock: h.lock}
	in.Next = next
	return in
}

func (h *hearsInbound) Init(out interceptor.WorkflowOutboundInterceptor) error {
	o := &hearsOutbound{lock: h.lock}
	o.Next = out
	return h.Next.Init(o)
}

func (h *hearsOutbound) SignalExternalWorkflow(ctx workflow.Context, id, _, _ string, arg any) workflow.Future {
	f, settable := workflow.NewFuture(ctx)
	turn := arg.(workflows.Turn)
	if h.lock.dead[id] {
		settable.SetError(errors.New("no such execution"))
		return f
	}
	what := "holds " + turn.Key
	switch {
	case turn.Refused:
		what = "is refused"
	case !turn.Held:
		what = fmt.Sprintf("waits behind %v and %d", turn.Behind, turn.Ahead)
	}
	h.lock.told = append(h.lock.told, id+" "+what)
	settable.SetValue(nil)
	return f
}

func (l *lockTest) at(d time.Duration, said ...workflows.LockMessage) {
	l.env.RegisterDelayedCallback(func() {
		for _, m := range said {
			l.env.SignalWorkflow(workflows.SignalLock, m)
		}
	}, d)
}

func (l *lockTest) want(t *testing.T, told ...string) {
	t.Helper()
	if !l.env.IsWorkflowCompleted() {
		t.Error("the lock did not end")
	}
	if diff := cmp.Diff(told, l.told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

func TestLock(t *testing.T) {
	l := newLockTest(t)
	l.at(0, ask("e1", 1), ask("e2", 1), ask("e3", 1))
	l.at(time.Hour, give("e1"))
	l.at(2*time.Hour, give("e3"), give("e2"))
	l.env.ExecuteWorkflow(workflows.LockType, workflows.Turns{})
	l.want(t, "e1 holds lock/a", "e2 waits behind [e1] and 0", "e3 waits behind [e1] and 1", "e2 holds lock/a")
	if err := l.env.GetWorkflowError(); err != nil {
		t.Error(err)
	}
}

// TestLockLetsGo: what is held by an execution that ended without a word is free
// a minute later if somebody waits; one that is dead when its turn comes is passed over.
func TestLockLetsGo(t *testing.T) {
	l := newLockTest(t)
	l.at(0, ask("e1", 1), ask("e2", 1), ask("e3", 1))
	l.env.RegisterDelayedCallback(func() { l.dead["e1"], l.dead["e2"], l.gone = true, true, []string{"e1"} }, 10*time.Minute)
	at := time.Duration(0)
	l.env.RegisterDelayedCallback(func() { at = 12 * time.Minute; l.env.SignalWorkflow(workflows.SignalLock, give("e3")) }, 12*time.Minute)
	l.env.ExecuteWorkflow(workflows.LockType, workflows.Turns{})
	l.want(t, "e1 holds lock/a", "e2 waits behind [e1] and 0", "e3 waits behind [e1] and 1", "e3 holds lock/a")
	if at == 0 || l.look < 10 {
		t.Errorf("looked %d times", l.look)
	}
}

// TestLockIdle: a lock for which nobody waits looks once an hour, and ends when
// its holder is gone.
func TestLockIdle(t *testing.T) {
	l := newLockTest(t)
	l.at(0, ask("e1", 1))
	l.env.RegisterDelayedCallback(func() { l.gone = []string{"e1"} }, 150*time.Minute)
	l.env.ExecuteWorkflow(workflows.LockType, workflows.Turns{})
	l.want(t, "e1 holds lock/a")
	if l.look != 3 {
		t.Errorf("looked %d times, want 3", l.look)
	}
}

// TestLockContinues: continue-as-new keeps holders and queue, and loses no message.
func TestLockContinues(t *testing.T) {
	l := newLockTest(t)
	l.at(0, ask("e1", 1), ask("e2", 1))
	l.env.RegisterDelayedCallback(func() {
		l.env.SetContinueAsNewSuggested(true)
		l.env.SignalWorkflow(workflows.SignalLock, ask("e3", 1))
	}, time.Minute/2)
	l.env.ExecuteWorkflow(workflows.LockType, workflows.Turns{})
	var again *workflow.ContinueAsNewError
	if !errors.As(l.env.GetWorkflowError(), &again) {
		t.Fatal(l.env.GetWorkflowError())
	}
	var turns workflows.Turns
	if err := converter.GetDefaultDataConverter().FromPayloads(again.Input, &turns); err != nil {
		t.Fatal(err)
	}
	if ids(turns.Holders) != "[e1]" || ids(turns.Queue) != "[e2 e3]" {
		t.Fatalf("held by %s, %s wait", ids(turns.Holders), ids(turns.Queue))
	}
	next := newLockTest(t)
	next.at(time.Second, give("e1"))
	next.at(time.Minute, give("e2"))
	next.at(2*time.Minute, give("e3"))
	next.env.ExecuteWorkflow(workflows.LockType, turns)
	next.want(t, "e3 waits behind [e1] and 1", "e2 holds lock/a", "e3 holds lock/a")
}

// TestLockFull: what would not fit into one message is refused, not lost.
func TestLockFull(t *testing.T) {
	var turns workflows.Turns
	n := 0
	for ; n < 100_000; n++ {
		c := ask(fmt.Sprintf("linux-patch-fleet-20261123-101500-%05d", n), 1).Claim
		c.FirstRun = "0192d3c4-5b6a-7c8d-9e0f-102132435465"
		c.Since = time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC)
		if refused := turns.Apply(workflows.LockMessage{Verb: workflows.LockAsk, Claim: c}); refused != nil {
			if !refused.Refused || refused.ID != c.ID {
				t.Errorf("told %+v", refused)
			}
			break
		}
	}
	for len(turns.Next(1000)) > 0 {
	}
	raw, err := converter.GetDefaultDataConverter().ToPayloads(turns)
	if err != nil || n < 6000 || raw.Size() > 1900<<10 {
		t.Errorf("%d fit, in %d bytes, %v", n, raw.Size(), err)
	}
}

// TestFair: a fairness key has at most the 64 bytes that the server takes, and
// two callers with long names have two.
func TestFair(t *testing.T) {
	long := strings.Repeat("ü", 40)
	keys := map[string]bool{}
	for _, caller := range []string{"", "ana", long, long + "x", strings.Repeat("a", 64), strings.Repeat("a", 65)} {
		key := workflows.Fair(caller).FairnessKey
		if len(key) > 64 || !utf8.ValidString(key) || len(caller) <= 64 && key != caller {
			t.Errorf("caller %q has the key %q", caller, key)
		}
		keys[key] = true
	}
	if len(keys) != 6 {
		t.Errorf("%d keys for 6 callers", len(keys))
	}
}

// TestAnswerWhileContinuing: an answer by signal that comes in the very task in
// which the execution continues as new is in the state that it continues with.
func TestAnswerWhileContinuing(t *testing.T) {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(mute{})
	env := suite.NewTestWorkflowEnvironment()
	env.RegisterDynamicWorkflow(workflows.Runbook, workflow.DynamicRegisterOptions{})
	p := compileTest(t, "runbook: test/pause\nsteps:\n  - { id: rest, pause: Have a look }\n", nil)
	env.RegisterDelayedCallback(func() {
		env.SignalWorkflowSkippingWorkflowTask(workflows.AnswerResume, workflows.Answer{By: "ana"})
	}, time.Minute)
	env.RegisterDelayedCallback(func() {
		env.SetContinueAsNewSuggested(true)
		env.SignalWorkflow("nothing", nil) // it begins the task
	}, 2*time.Minute)
	env.ExecuteWorkflow(p.Runbook, workflows.Start{Program: p})
	var again *workflow.ContinueAsNewError
	if !errors.As(env.GetWorkflowError(), &again) {
		t.Fatal(env.GetWorkflowError())
	}
	var next workflows.Start
	if err := converter.GetDefaultDataConverter().FromPayloads(again.Input, &next); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(next.State)
	if err != nil || !strings.Contains(string(raw), `"by":"ana"`) {
		t.Errorf("it continues without the answer: %s, %v", raw, err)
	}
}
