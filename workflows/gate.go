package workflows

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/action"
)

// hold is a lock, or a place among those of its runbook, that the execution
// holds or waits for.
type hold struct {
	Key    string    `json:"key"` // workflow id of the lock
	Limit  int       `json:"limit"`
	Since  time.Time `json:"since,omitzero"`  // when it was asked for
	Asked  bool      `json:"asked,omitempty"` // the lock may know of it
	Told   bool      `json:"told,omitempty"`  // it has to be waited for
	Held   bool      `json:"held,omitempty"`
	Behind []string  `json:"behind,omitempty"` // who held it when it was asked for
	Ahead  int       `json:"ahead,omitempty"`  // how many waited then

	refused bool
}

const (
	// calledPatience is how long a called runbook waits for a lock. What its
	// callers hold others may wait for, who hold what it waits for: one of them
	// has to give up. An execution that nobody called takes all it needs in one
	// order before it begins, and waits as long as it takes.
	calledPatience = time.Hour

	mostKeys      = 20
	mostKeyLength = 200
)

// enter waits until the execution holds its locks and a place among those of its runbook.
func (r *run) enter(ctx workflow.Context) error {
	st := r.state
	if st.Admitted != nil || r.prog.Lock == nil && r.prog.MaxRunning == 0 && len(r.leftKeys()) == 0 {
		return nil
	}
	if st.Keys == nil {
		var err error
		if st.Keys, err = r.wanted(ctx); err != nil {
			return err
		}
	}
	listening, stop := workflow.WithCancel(ctx)
	defer stop()
	workflow.Go(listening, func(ctx workflow.Context) {
		// Not by a selector: that has taken a signal before its turn comes to handle it, and
		// what it has taken is lost if the execution continues as new in the same task.
		said := workflow.GetSignalChannel(ctx, SignalTurn)
		for workflow.Await(ctx, func() bool { return said.Len() > 0 }) == nil {
			r.turns(ctx)
		}
	})
	for _, h := range st.Keys {
		if err := r.take(ctx, h); err != nil {
			return err
		}
	}
	now := workflow.Now(ctx)
	st.Admitted = &now
	r.dirty = true
	if slices.ContainsFunc(st.Keys, func(h *hold) bool { return h.Told }) {
		r.attribute(ctx, AttrStatus, "running", AttrStep, "")
	}
	return nil
}

// wanted is what the execution has to hold, in the order in which it is asked for.
func (r *run) wanted(ctx workflow.Context) ([]*hold, error) {
	keys := []*hold{}
	if v := r.prog.Lock; v != nil {
		raw, err := r.scope.raw(ctx, v)
		if err != nil {
			return nil, err
		}
		var names []string
		var one string
		if json.Unmarshal(raw, &one) == nil {
			names = []string{one}
		} else if json.Unmarshal(raw, &names) != nil {
			return nil, r.scope.fail(action.Invalid, r.prog.LockPos, "lock: have %s, want a string or a list of strings", abridged(string(raw), 100))
		}
		slices.Sort(names)
		names = slices.Compact(names)
		if len(names) > mostKeys {
			return nil, r.scope.fail(action.Invalid, r.prog.LockPos, "lock: %d keys, at most %d can be held; lock what they have in common", len(names), mostKeys)
		}
		for _, name := range names {
			if strings.TrimSpace(name) == "" || len(name) > mostKeyLength || strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsPrint(c) }) {
				return nil, r.scope.fail(action.Invalid, r.prog.LockPos, "lock: %q is no key: at most %d bytes of printable text, and not empty", abridged(name, 60), mostKeyLength)
			}
			keys = append(keys, &hold{Key: LockID(name), Limit: 1})
		}
	}
	for _, key := range r.leftKeys() {
		if !slices.ContainsFunc(keys, func(h *hold) bool { return h.Key == key }) {
			keys = append(keys, &hold{Key: key, Limit: 1})
		}
	}
	slices.SortFunc(keys, func(a, b *hold) int { return strings.Compare(a.Key, b.Key) })
	if n := r.prog.MaxRunning; n > 0 {
		keys = append(keys, &hold{Key: SlotsID(r.prog.Runbook), Limit: n})
	}
	return keys, nil
}

// leftKeys are the locks of the runbooks whose work this execution takes back.
func (r *run) leftKeys() []string {
	if r.start.TakeBack == nil {
		return nil
	}
	return r.state.LeftKeys
}

// self is this execution, as locks know it.
func (r *run) self() Holder { return Holder{ID: r.id, FirstRun: r.firstRun} }

// within is what a called runbook has above it.
func (r *run) within() []Holder { return append(slices.Clone(r.start.Within), r.self()) }

// take asks for one lock and waits for it.
func (r *run) take(ctx workflow.Context, h *hold) error {
	if h.Held {
		return nil
	}
	if !h.Asked {
		h.Since, h.Asked = workflow.Now(ctx), true
		// A cancellation does not reach this: what was asked for and what is given back would overtake each other.
		calm, _ := workflow.NewDisconnectedContext(ctx)
		claim := Claim{Holder: r.self(), Limit: h.Limit, Within: r.start.Within, Since: h.Since}
		o := workflow.ActivityOptions{
			ActivityID:             identifier(h.Key),
			StartToCloseTimeout:    10 * time.Second,
			ScheduleToCloseTimeout: 24 * time.Hour,
			RetryPolicy:            &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: time.Minute},
			Summary:                "ask for " + h.Key,
		}
		r.inflight++
		err := workflow.ExecuteActivity(workflow.WithActivityOptions(calm, o), ActionLock, r.token(h.Key), Turns{Key: h.Key}, LockMessage{Verb: LockAsk, Claim: claim}).Get(calm, nil)
		r.inflight--
		if err != nil {
			return r.scope.fail(action.Unavailable, r.prog.LockPos, "%s could not be asked for: %v", h.Key, err)
		}
	}
	r.dirty = true
	var deadline *time.Time
	if len(r.start.Within) > 0 {
		t := h.Since.Add(calledPatience)
		deadline = &t
	}
	met, err := r.await(ctx, r.scope, deadline, "wait for "+h.Key, func() bool { return h.Held || h.refused })
	switch {
	case err != nil:
		return err
	case h.refused:
		return r.scope.fail(action.Unavailable, r.prog.LockPos, "%s: too many executions wait for it already; start this one later", h.Key)
	case !met:
		return r.scope.fail(action.Conflict, r.prog.LockPos, "%s was not free within %s, %s; a runbook that another calls waits no longer, since others may wait for what its caller holds",
			h.Key, calledPatience, h.behind())
	}
	return nil
}

// turns takes what locks have said.
func (r *run) turns(ctx workflow.Context) {
	ch := workflow.GetSignalChannel(ctx, SignalTurn)
	for {
		var t Turn
		if !ch.ReceiveAsync(&t) {
			return
		}
		i := slices.IndexFunc(r.state.Keys, func(h *hold) bool { return h.Key == t.Key })
		if i < 0 || t.Holder != r.self() || r.state.Keys[i].Held {
			continue // meant for another that had this id, or said twice
		}
		h := r.state.Keys[i]
		r.dirty = true
		switch {
		case t.Held:
			h.Held, h.Behind, h.Ahead = true, nil, 0
		case t.Refused:
			h.refused = true
		default:
			h.Told, h.Behind, h.Ahead = true, t.Behind, t.Ahead
			r.attribute(ctx, AttrStatus, "waiting", AttrStep, h.Key)
			r.paint(ctx)
		}
	}
}

// giveBack gives back what is held and what is waited for. A called runbook whose
// work its caller may still have to take back passes its locks on to it.
func (r *run) giveBack(ctx workflow.Context, pass bool) {
	var told []workflow.Future
	for _, h := range slices.Backward(r.state.Keys) {
		if !h.Asked {
			continue
		}
		m := LockMessage{Verb: LockGive, Claim: Claim{Holder: r.self()}}
		if pass && h.Held && strings.HasPrefix(h.Key, lockPrefix) {
			if n := len(r.start.Within); n > 0 {
				m.Verb, m.To = LockPass, &r.start.Within[n-1]
			}
		}
		told = append(told, workflow.SignalExternalWorkflow(ctx, h.Key, "", SignalLock, m))
	}
	for i, f := range told {
		// A lock that is not there holds nothing.
		if err := f.Get(ctx, nil); err != nil {
			workflow.GetLogger(ctx).Debug("a lock was not there to be given back", "index", i, "error", err)
		}
	}
}

// passed are the locks that giveBack passes on.
func (r *run) passed() []string {
	var keys []string
	for _, h := range r.state.Keys {
		if h.Held && strings.HasPrefix(h.Key, lockPrefix) && len(r.start.Within) > 0 {
			keys = append(keys, h.Key)
		}
	}
	return keys
}

// inherit takes over what a called runbook has passed on.
func (r *run) inherit(keys []string) {
	for _, key := range keys {
		if !slices.ContainsFunc(r.state.Keys, func(h *hold) bool { return h.Key == key }) {
			r.state.Keys = append(r.state.Keys, &hold{Key: key, Limit: 1, Asked: true, Held: true})
		}
	}
}

// awaited is the lock that the execution waits for; nil if none.
func (r *run) awaited() *hold {
	if r.state.Admitted != nil || r.state.End != nil {
		return nil
	}
	for _, h := range r.state.Keys {
		if h.Asked && !h.Held {
			return h
		}
	}
	return nil
}

// queued is the lock that it waits for as far as people are told: not while the
// lock has not answered, which is a moment for one that is free.
func (r *run) queued() *hold {
	if h := r.awaited(); h != nil && h.Told {
		return h
	}
	return nil
}

// behind says whom it waits for.
func (h *hold) behind() string {
	text := "held by others"
	if len(h.Behind) > 0 {
		text = "held by " + strings.Join(h.Behind, ", ")
	}
	if h.Ahead > 0 {
		text += fmt.Sprintf("; %d before it", h.Ahead)
	}
	return text
}

// began is when the steps began to count against the runbook's timeout: what an
// execution waits for others is not its own time.
func (s *State) began() time.Time {
	if s.Admitted != nil {
		return *s.Admitted
	}
	return s.StartedAt
}

// shut is how an execution ends that never held what it must.
func (r *run) shut(ctx workflow.Context, err error) *Result {
	end := r.ending(ctx, err)
	if h := r.awaited(); h != nil && end.Outcome == Cancelled {
		end.Failure.Message = "cancelled while it waited for " + h.Key
		end.Message = end.Failure.Message
	}
	return end
}
