package aws

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/simcloud"
)

// A specimen is an action with an input that has an effect, and what is to come
// of it. TestSpecimens does with each all that at-least-once execution may do.
type specimen struct {
	action string

	// setup makes what is there before, and returns the input.
	setup func(w *world) map[string]any

	// made is what there is afterwards that was not there before (+), is gone (-)
	// or has other tags (~), and what of state is another; empty: nothing.
	made string

	// state tells what a list of what exists does not.
	state func(w *world) string

	// effect is a kind of effect in the ledger of which there may be one only.
	effect string

	// again is the kind of error that a second attempt may end with, for what
	// nobody can know.
	again action.Kind

	// stays is the kind of error with which a compensation says that something
	// cannot be taken back.
	stays action.Kind

	// replaces says that instances come in place of others, also when it is taken back.
	replaces bool

	options func(o *simcloud.Options)
}

const testToken = "abcdefghijklmnopqrstuvwxyz"

// world is a cloud whose time passes only when somebody sleeps.
type world struct {
	*testing.T
	cloud *simcloud.Cloud
	env   Env

	mu      sync.Mutex
	now     time.Time
	slept   time.Duration
	secrets map[string]string
}

func newWorld(t *testing.T, change func(*simcloud.Options)) *world {
	t.Helper()
	w := &world{T: t, now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC), secrets: map[string]string{"env:PASSWORD": "hunter2hunter2"}}
	o := simcloud.Options{Seed: 1, Clock: w.time, HostManagement: true, Sleep: w.sleep}
	if change != nil {
		change(&o)
	}
	w.cloud = simcloud.New(o)
	t.Cleanup(w.cloud.Close)
	w.env = Env{Caller: checked{w}, Sleep: w.sleep, Now: w.time}
	return w
}

func (w *world) time() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// sleep lets time pass. Who sleeps for days waits for what never comes.
func (w *world) sleep(ctx context.Context, d time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now, w.slept = w.now.Add(d), w.slept+d
	if w.slept > 72*time.Hour {
		return errors.New("slept for three days")
	}
	return ctx.Err()
}

// checked holds every call against AWS's own models: an input that does not fit,
// or a token that is missing, fails the test.
type checked struct{ *world }

func (c checked) Call(ctx context.Context, in awsapi.Scope, service, operation string, input map[string]any) (map[string]any, error) {
	models, err := packed()
	if err != nil {
		c.Fatal(err)
	}
	for _, p := range models.Check(service, operation, input) {
		c.Errorf("%s %s: %s", service, operation, p)
	}
	about, err := models.Describe(service, operation)
	if err != nil {
		c.Fatal(err)
	}
	for _, m := range about.Input.Members {
		if _, ok := input[m.Name]; m.Token && !ok {
			c.Errorf("%s %s is called without its token %s", service, operation, m.Name)
		}
	}
	text, err := json.Marshal(input)
	if err != nil {
		c.Fatal(err)
	}
	for _, value := range c.secrets {
		allowed := service == "ssm" && operation == "PutParameter" || service == "secretsmanager"
		if strings.Contains(string(text), value) && !allowed {
			c.Errorf("%s %s holds a secret", service, operation)
		}
	}
	return c.cloud.Call(ctx, in, service, operation, input)
}

// given calls AWS to set up or to look, without a trace.
func (w *world) given(service, operation string, input map[string]any) members {
	w.Helper()
	out, err := w.cloud.Given().Call(context.Background(), awsapi.Scope{}, service, operation, input)
	if err != nil {
		w.Fatalf("given %s %s: %v", service, operation, err)
	}
	return out
}

func (w *world) context(attempt int) context.Context {
	return w.contextOf(context.Background(), attempt)
}

func (w *world) contextOf(ctx context.Context, attempt int) context.Context {
	return action.WithCall(ctx, action.Call{
		Token: testToken, Execution: "image-2026-11-25", Step: "build.step[3]", Attempt: attempt,
		Heartbeat: func(any) {},
		Abandoned: func() bool { return false },
		Mask:      func(s string) string { return s },
		Reveal: func(_ context.Context, ref string) (string, error) {
			if v, ok := w.secrets[ref]; ok {
				return v, nil
			}
			return "", action.Errorf(action.NotFound, "no secret %s", ref)
		},
	})
}

func find(t *testing.T, env Env, name string) action.Action {
	t.Helper()
	all := Actions(env)
	at := slices.IndexFunc(all, func(a action.Action) bool { return a.Name == name })
	if at < 0 {
		t.Fatalf("there is no action %s", name)
	}
	return all[at]
}

// do runs an action; out is its output as JSON, nil if it failed.
func (w *world) do(name string, attempt int, in map[string]any) (json.RawMessage, error) {
	w.Helper()
	return w.doIn(w.context(attempt), name, in)
}

func (w *world) doIn(ctx context.Context, name string, in map[string]any) (json.RawMessage, error) {
	w.Helper()
	raw, err := json.Marshal(in)
	if err != nil {
		w.Fatal(err)
	}
	out, err := find(w.T, w.env, name).Do(ctx, raw)
	if err != nil {
		w.check(name, err.Error())
		return nil, err
	}
	text, err := json.Marshal(out)
	if err != nil {
		w.Fatal(err)
	}
	w.check(name, string(text))
	return text, nil
}

// check sees that no secret is in what leaves an action.
func (w *world) check(name, text string) {
	w.Helper()
	for _, v := range w.secrets {
		if strings.Contains(text, v) {
			w.Errorf("%s shows a secret: %s", name, text)
		}
	}
}

func (w *world) compensate(name string, in map[string]any, out json.RawMessage) error {
	w.Helper()
	raw, err := json.Marshal(in)
	if err != nil {
		w.Fatal(err)
	}
	return find(w.T, w.env, name).Compensate(w.context(1), raw, out)
}

// seen is what the world looks like: what exists, and what a specimen's state tells.
type seen struct {
	live  []simcloud.Resource
	state string
}

func (w *world) look(s specimen) seen {
	v := seen{live: w.cloud.Live()}
	if s.replaces {
		v.live = slices.DeleteFunc(v.live, func(r simcloud.Resource) bool { return r.Kind == "instance" || r.Kind == "volume" })
	}
	if s.state != nil {
		v.state = s.state(w)
	}
	return v
}

// since tells what is another: "+ instance, + volume, ~ image, on -> off".
func (v seen) since(before seen) string {
	d := simcloud.Diff(before.live, v.live)
	var all []string
	// What was changed and changed back is as it was.
	retagged := slices.DeleteFunc(d.Changed, func(r simcloud.Resource) bool {
		return slices.ContainsFunc(before.live, func(old simcloud.Resource) bool { return old.ID == r.ID && maps.Equal(old.Tags, r.Tags) })
	})
	for sign, of := range map[string][]simcloud.Resource{"+": d.Made, "-": d.Removed, "~": retagged} {
		for _, r := range of {
			all = append(all, sign+" "+r.Kind)
		}
	}
	slices.Sort(all)
	if v.state != before.state {
		all = append(all, before.state+" -> "+v.state)
	}
	return strings.Join(all, ", ")
}

// effects counts what calls made of a kind.
func (w *world) effects(kind string) int {
	n := 0
	for _, e := range w.cloud.Ledger() {
		for _, f := range e.Effects {
			if f.Change == "made" && f.Kind == kind {
				n++
			}
		}
	}
	return n
}

func (w *world) ledger() string {
	var b strings.Builder
	for _, e := range w.cloud.Ledger() {
		fmt.Fprintln(&b, e)
	}
	return b.String()
}

func (w *world) whole() {
	w.Helper()
	for _, r := range w.cloud.Untagged() {
		w.Errorf("untagged: %s %s", r.Kind, r.ID)
	}
	if w.Failed() {
		w.Logf("ledger:\n%s", w.ledger())
	}
}

// writes tells whether a call may have an effect.
func writes(c simcloud.Call) bool {
	for _, prefix := range []string{"Describe", "List", "Get", "Head"} {
		if strings.HasPrefix(c.Operation, prefix) {
			return false
		}
	}
	return true
}

// TestSpecimens does with every action what at-least-once execution does: each
// of its calls in turn is lost or refused, and the action is then called again,
// or taken back without an output.
func TestSpecimens(t *testing.T) {
	covered := map[string]bool{}
	for _, s := range specimens {
		covered[s.action] = true
		t.Run(s.action, func(t *testing.T) {
			t.Parallel()
			t.Run("once", func(t *testing.T) { s.once(t) })
			for _, kind := range []simcloud.FaultKind{simcloud.Lose, simcloud.Refuse, simcloud.Throttle} {
				// Every call that may have an effect, in a cloud without delays; reads are
				// told apart only by the first few.
				for n := 1; ; n++ {
					more := true
					t.Run(fmt.Sprintf("%s %d", kind, n), func(t *testing.T) { more = s.broken(t, kind, n, nil) })
					if !more || n > 25 {
						break
					}
				}
			}
			for seed := range uint64(4) {
				slow := func(o *simcloud.Options) { o.Seed, o.Delays = seed, simcloud.RealDelays() }
				t.Run(fmt.Sprintf("slow %d", seed), func(t *testing.T) {
					s.late(t, slow)
					for n := 1; n <= 4 && s.broken(t, simcloud.Lose, n, slow); n++ {
					}
				})
			}
		})
	}
	for _, a := range Actions(Env{}) {
		if !covered[a.Name] {
			t.Errorf("no specimen of %s", a.Name)
		}
	}
}

func (s specimen) world(t *testing.T, change ...func(*simcloud.Options)) (*world, map[string]any, seen) {
	t.Helper()
	w := newWorld(t, func(o *simcloud.Options) {
		for _, f := range append([]func(*simcloud.Options){s.options}, change...) {
			if f != nil {
				f(o)
			}
		}
	})
	in := s.setup(w)
	return w, in, w.look(s)
}

func (s specimen) compensates(t *testing.T) bool { return find(t, Env{}, s.action).Compensates }

// once: Do, Do again, taken back, and again; taken back without Do.
func (s specimen) once(t *testing.T) {
	w, in, before := s.world(t)
	out, err := w.do(s.action, 1, in)
	if err != nil {
		t.Fatalf("Do: %v\n%s", err, w.ledger())
	}
	if diff := cmp.Diff(s.made, w.look(s).since(before)); diff != "" {
		t.Errorf("after Do (-want +got):\n%s", diff)
	}
	for attempt := range 2 { // attempt 1 again is what a reset of the workflow does
		again, err := w.do(s.action, attempt+1, in)
		if err != nil {
			t.Fatalf("Do again: %v", err)
		}
		if diff := cmp.Diff(string(out), string(again)); diff != "" {
			t.Errorf("output of the second Do (-first +second):\n%s", diff)
		}
		if diff := cmp.Diff(s.made, w.look(s).since(before)); diff != "" {
			t.Errorf("after the second Do (-want +got):\n%s", diff)
		}
	}
	s.one(w)
	w.whole()
	if !s.compensates(t) {
		return
	}
	for n := range 2 {
		s.takeBack(w, in, out, before, fmt.Sprintf("compensation %d", n+1))
	}
	w, in, before = s.world(t)
	for n := range 2 {
		if err := w.compensate(s.action, in, nil); err != nil {
			t.Errorf("compensation %d without Do: %v", n+1, err)
		}
		if diff := w.look(s).since(before); diff != "" {
			t.Errorf("compensation %d without Do changed: %s", n+1, diff)
		}
	}
	w, in, before = s.world(t)
	if _, err = w.do(s.action, 1, in); err != nil {
		t.Fatal(err)
	}
	for n := range 2 {
		s.takeBack(w, in, nil, before, fmt.Sprintf("compensation %d without output", n+1))
	}
	w.whole()
}

func (s specimen) one(w *world) {
	w.Helper()
	if s.effect != "" {
		if n := w.effects(s.effect); n != 1 {
			w.Errorf("%d effects of kind %s, want 1\n%s", n, s.effect, w.ledger())
		}
	}
}

func (s specimen) takeBack(w *world, in map[string]any, out json.RawMessage, before seen, what string) {
	w.Helper()
	err := w.compensate(s.action, in, out)
	if s.stays != "" && action.KindOf(err) == s.stays || is(err, "NotSimulated") {
		return
	}
	if err != nil {
		w.Errorf("%s: %v", what, err)
	}
	if diff := w.look(s).since(before); diff != "" {
		w.Errorf("%s left: %s\n%s", what, diff, w.ledger())
	}
}

// broken: the nth call that may have an effect meets a fault, then Do is called
// again; and then, in another world, it is taken back. It returns whether there
// was such a call.
func (s specimen) broken(t *testing.T, kind simcloud.FaultKind, n int, change func(*simcloud.Options)) bool {
	fault := func(o *simcloud.Options) {
		o.Faults = append(o.Faults, simcloud.Fault{Kind: kind, When: writes, From: n})
	}
	w, in, before := s.world(t, change, fault)
	_, err := w.do(s.action, 1, in)
	if !slices.ContainsFunc(w.cloud.Ledger(), func(e simcloud.Entry) bool { return e.Fault != "" }) {
		return false
	}
	if err != nil && action.KindOf(err) != action.Unavailable && action.KindOf(err) != action.Throttled {
		t.Errorf("Do: kind %s: %v", action.KindOf(err), err)
	}
	if kind == simcloud.Throttle && err != nil && action.KindOf(err) != action.Throttled {
		t.Errorf("Do: kind %s, want throttled", action.KindOf(err))
	}
	out, err := w.do(s.action, 2, in)
	switch {
	case err == nil:
		if diff := cmp.Diff(s.made, w.look(s).since(before)); diff != "" {
			t.Errorf("after the second Do (-want +got):\n%s", diff)
		}
		s.one(w)
	case s.again == "" || action.KindOf(err) != s.again:
		t.Errorf("Do again: %v", err)
	}
	w.whole()
	if !s.compensates(t) {
		return true
	}
	s.takeBack(w, in, out, before, "compensation after the second Do")

	w, in, before = s.world(t, change, fault)
	_, err = w.do(s.action, 1, in)
	if err == nil {
		return true // it has coped by itself
	}
	for n := range 2 {
		s.takeBack(w, in, nil, before, fmt.Sprintf("compensation %d after a fault", n+1))
	}
	w.whole()

	// The compensation itself is lost at each of its calls.
	for m := 1; m <= 12; m++ {
		w, in, _ = s.world(t, change, fault)
		if _, err = w.do(s.action, 1, in); err == nil {
			return true
		}
		at := len(slices.DeleteFunc(w.cloud.Ledger(), func(e simcloud.Entry) bool {
			return !writes(simcloud.Call{Operation: e.Operation}) || e.Operation == ""
		}))
		w, in, before = s.world(t, change, fault, func(o *simcloud.Options) {
			o.Faults = append(o.Faults, simcloud.Fault{Kind: simcloud.Lose, When: writes, From: at + m})
		})
		if _, err = w.do(s.action, 1, in); err == nil {
			return true
		}
		err = w.compensate(s.action, in, nil)
		met := 0
		for _, e := range w.cloud.Ledger() {
			if e.Fault != "" {
				met++
			}
		}
		if met < 2 {
			break
		}
		s.takeBack(w, in, nil, before, fmt.Sprintf("compensation after one whose call %d was lost (%v)", m, err))
		w.whole()
	}
	return true
}

// late: news are late and everything takes its time.
func (s specimen) late(t *testing.T, change func(*simcloud.Options)) {
	w, in, before := s.world(t, change)
	out, err := w.do(s.action, 1, in)
	if err != nil {
		t.Fatalf("Do: %v\n%s", err, w.ledger())
	}
	if diff := cmp.Diff(s.made, w.look(s).since(before)); diff != "" {
		t.Errorf("after Do (-want +got):\n%s", diff)
	}
	s.one(w)
	if s.compensates(t) {
		s.takeBack(w, in, out, before, "compensation")
	}
	w.whole()
}

// with is an input with a few others.
func with(in map[string]any, more map[string]any) map[string]any {
	all := maps.Clone(in)
	maps.Copy(all, more)
	return all
}

// TestChance lets calls of all kinds fail at random, answers be lost and news be
// late, and tries as the engine does: again after what passes. In the end there
// is one effect, and after a rollback none.
func TestChance(t *testing.T) {
	seeds := uint64(12)
	if testing.Short() {
		seeds = 2
	}
	for _, s := range specimens {
		t.Run(s.action, func(t *testing.T) {
			t.Parallel()
			for seed := range seeds {
				w, in, before := s.world(t, func(o *simcloud.Options) {
					o.Seed, o.Delays = seed, simcloud.RealDelays()
					o.Chance = simcloud.Chance{Refuse: 0.08, Lose: 0.08, Throttle: 0.08}
				})
				var out json.RawMessage
				err := w.untilItPasses(func(attempt int) (err error) {
					out, err = w.do(s.action, attempt, in)
					return err
				})
				if err == nil {
					if diff := cmp.Diff(s.made, w.look(s).since(before)); diff != "" {
						t.Errorf("seed %d: after Do (-want +got):\n%s", seed, diff)
					}
					s.one(w)
				} else if s.again == "" || action.KindOf(err) != s.again {
					t.Errorf("seed %d: Do: %v", seed, err)
				}
				if s.compensates(t) {
					if seed%2 == 0 {
						out = nil
					}
					err := w.untilItPasses(func(int) error { return w.compensate(s.action, in, out) })
					switch {
					case s.stays != "" && action.KindOf(err) == s.stays, is(err, "NotSimulated"):
					case err != nil:
						t.Errorf("seed %d: compensation: %v", seed, err)
					default:
						if diff := w.look(s).since(before); diff != "" {
							t.Errorf("seed %d: left: %s", seed, diff)
						}
					}
				}
				w.whole()
				if t.Failed() {
					return
				}
			}
		})
	}
}

func (w *world) untilItPasses(try func(attempt int) error) error {
	for attempt := 1; ; attempt++ {
		err := try(attempt)
		if err == nil || !action.KindOf(err).Retryable() || attempt == 100 {
			return err
		}
		if err := w.sleep(context.Background(), 10*time.Second); err != nil {
			return err
		}
	}
}
