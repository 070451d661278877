package workflows

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
)

// LockType is the workflow type of Lock, and SignalLock the signal by which executions
// speak to it: a LockMessage. It answers each by the signal SignalTurn: a Turn.
const (
	LockType   = "almanac.lock"
	SignalLock = "lock"
	SignalTurn = "turn"
)

// ActionLock is the control worker's activity that hands a LockMessage to a
// lock, and starts that if it does not run. Its arguments are (token, Turns,
// LockMessage), of Turns the key only. ActionLockLook tells which of some
// executions have ended without a word: its arguments are (token, []Holder), it
// returns those of them.
const (
	ActionLock     = "almanac.lock.ask"
	ActionLockLook = "almanac.lock.look"
)

// LockID is the workflow id of a key of `lock:`, and SlotsID that of a runbook's
// `max_running:`. Every execution takes what it needs in the order of these ids,
// locks first: so two that need the same never wait for each other.
func LockID(key string) string { return lockPrefix + key }

// SlotsID is the workflow id of the places of a runbook with `max_running:`.
func SlotsID(runbook string) string { return "slots/" + runbook }

const lockPrefix = "lock/"

// Holder is one execution in all its runs.
type Holder struct {
	ID       string `json:"id"`
	FirstRun string `json:"first_run"` // another execution may have had that id before
}

// Claim is what an execution asks of a lock.
type Claim struct {
	Holder
	Limit  int       `json:"limit"`            // how many may hold it at once; at least 1
	Within []Holder  `json:"within,omitempty"` // its callers: it does not wait for what they hold
	Since  time.Time `json:"since"`
	Told   bool      `json:"told,omitempty"` // that it waits
}

// What an execution says to a lock.
const (
	LockAsk  = "ask"
	LockGive = "give" // it holds it, or waits for it, no more
	LockPass = "pass" // LockMessage.To holds it from now on
)

// LockMessage is what an execution says to a lock. Saying it twice changes nothing.
type LockMessage struct {
	Verb  string  `json:"verb"`
	Claim Claim   `json:"claim"` // of LockGive and LockPass, the Holder only
	To    *Holder `json:"to,omitempty"`
}

// Turn is what a lock says to an execution.
type Turn struct {
	Key     string   `json:"key"` // workflow id of the lock
	Holder           // to whom; another that has its id does not listen
	Held    bool     `json:"held,omitempty"`
	Refused bool     `json:"refused,omitempty"` // too many wait
	Behind  []string `json:"behind,omitempty"`  // who holds it, the first; of one that waits
	Ahead   int      `json:"ahead,omitempty"`   // how many wait before it
}

// Turns is the state of a lock: who holds it and who waits, in order.
type Turns struct {
	Key     string  `json:"key"` // its workflow id
	Holders []Claim `json:"holders,omitempty"`
	Queue   []Claim `json:"queue,omitempty"`
}

// mostTurns bounds the bytes of the claims to one lock, which have to fit into
// one message when it continues as new: some eight thousand executions.
const mostTurns = 1600 << 10

// weight is what a claim has in JSON at most, names excepted.
func (c Claim) weight() int {
	n := 180 + len(c.ID)
	for _, h := range c.Within {
		n += 70 + len(h.ID)
	}
	return n
}

func (t *Turns) weight() int {
	n := 0
	for _, c := range t.Holders {
		n += c.weight()
	}
	for _, c := range t.Queue {
		n += c.weight()
	}
	return n
}

// Apply takes a message. It returns the turn of one that is refused.
func (t *Turns) Apply(m LockMessage) *Turn {
	is := func(c Claim) bool { return c.Holder == m.Claim.Holder }
	switch m.Verb {
	case LockAsk:
		switch {
		case slices.ContainsFunc(t.Holders, is) || slices.ContainsFunc(t.Queue, is):
		case len(t.Queue) > 1000 && t.weight()+m.Claim.weight() > mostTurns:
			return &Turn{Key: t.Key, Holder: m.Claim.Holder, Refused: true}
		default:
			m.Claim.Limit, m.Claim.Told = max(m.Claim.Limit, 1), false
			t.Queue = append(t.Queue, m.Claim)
		}
	case LockGive:
		t.Forget(m.Claim.Holder)
	case LockPass:
		i := slices.IndexFunc(t.Holders, is)
		if i < 0 || m.To == nil {
			return nil
		}
		if slices.ContainsFunc(t.Holders, func(c Claim) bool { return c.Holder == *m.To }) {
			t.Holders = slices.Delete(t.Holders, i, i+1)
			return nil
		}
		c := &t.Holders[i]
		c.Holder = *m.To
		if at := slices.Index(c.Within, *m.To); at >= 0 {
			c.Within = c.Within[:at] // outermost first: what stands after is below it
		}
	}
	return nil
}

// Forget drops an execution that has ended.
func (t *Turns) Forget(h Holder) {
	is := func(c Claim) bool { return c.Holder == h }
	t.Holders, t.Queue = slices.DeleteFunc(t.Holders, is), slices.DeleteFunc(t.Queue, is)
}

// Next gives the lock to those whose turn it is, and returns what they and those
// that begin to wait are to be told, at most so many. What is left is due with
// the next call.
func (t *Turns) Next(most int) []Turn {
	var told []Turn
	for i := 0; i < len(t.Queue) && len(told) < most; {
		c := t.Queue[i]
		others, within := 0, false
		for _, h := range t.Holders {
			if slices.Contains(c.Within, h.Holder) {
				within = true
			} else {
				others++
			}
		}
		// Whoever is called by the holder goes first: the holder waits for it.
		if others < c.Limit && (i == 0 || within) {
			t.Holders = append(t.Holders, c)
			t.Queue = slices.Delete(t.Queue, i, i+1)
			told = append(told, Turn{Key: t.Key, Holder: c.Holder, Held: true})
			i = 0
			continue
		}
		if !c.Told {
			t.Queue[i].Told = true
			told = append(told, Turn{Key: t.Key, Holder: c.Holder, Behind: t.names(5), Ahead: i})
		}
		i++
	}
	return told
}

func (t *Turns) names(most int) []string {
	var ids []string
	for _, h := range t.Holders[:min(len(t.Holders), most)] {
		ids = append(ids, h.ID)
	}
	return ids
}

// How often holders are looked at that may have ended without a word
// (terminated, timed out, or deleted): often only if somebody waits, and soon
// after somebody has begun to.
const (
	lookSoon      = 10 * time.Second
	lookEvery     = time.Minute
	lookEveryIdle = time.Hour
)

// Lock is the workflow of one lock: a key of `lock:`, or the places of a
// runbook. It starts with the first claim and ends when nobody has one.
func Lock(ctx workflow.Context, t Turns) error {
	const atOnce = 100 // turns told in one workflow task
	t.Key = workflow.GetInfo(ctx).WorkflowExecution.ID
	said := workflow.GetSignalChannelWithOptions(ctx, SignalLock, workflow.SignalChannelOptions{Description: "Ask for it, give it back, or pass it on"})
	looked := workflow.Now(ctx)
	var due time.Time // of timer
	var timer workflow.Future
	cancel := func() {}
	fresh := len(t.Queue) > 0 // somebody has begun to wait since the last look
	// tell waits until each has been told. One that is not there has ended.
	tell := func(turns []Turn) {
		var futures []workflow.Future
		for _, turn := range turns {
			futures = append(futures, workflow.SignalExternalWorkflow(ctx, turn.ID, "", SignalTurn, turn))
		}
		for i, f := range futures {
			if f.Get(ctx, nil) != nil {
				t.Forget(turns[i].Holder)
			}
		}
	}
	for {
		var refused []Turn
		for {
			var m LockMessage
			if !said.ReceiveAsync(&m) {
				break
			}
			if r := t.Apply(m); r != nil {
				refused = append(refused, *r)
			}
		}
		workflow.SetCurrentDetails(ctx, t.details())
		if len(refused) > 0 {
			tell(refused)
			continue
		}
		if len(t.Holders)+len(t.Queue) == 0 {
			return nil
		}
		if workflow.GetInfo(ctx).GetContinueAsNewSuggested() {
			return workflow.NewContinueAsNewError(ctx, LockType, t)
		}
		if turns := t.Next(atOnce); len(turns) > 0 {
			fresh = fresh || slices.ContainsFunc(turns, func(turn Turn) bool { return !turn.Held })
			tell(turns)
			continue
		}
		every := lookEveryIdle
		switch {
		case len(t.Queue) > 0 && fresh:
			every = lookSoon
		case len(t.Queue) > 0:
			every = lookEvery
		}
		if at := looked.Add(every); timer == nil || at.Before(due) {
			cancel()
			var inner workflow.Context
			inner, cancel = workflow.WithCancel(ctx)
			due = at
			timer = workflow.NewTimerWithOptions(inner, max(at.Sub(workflow.Now(ctx)), time.Second), workflow.TimerOptions{Summary: "look after the holders"})
		}
		if err := workflow.Await(ctx, func() bool { return said.Len() > 0 || timer.IsReady() }); err != nil {
			return err // somebody has cancelled the lock itself: those that wait ask for nothing, and see it
		}
		if timer.IsReady() {
			timer, looked, fresh = nil, workflow.Now(ctx), false
			t.look(ctx)
		}
	}
}

// look lets go what is held by executions that have ended without a word.
func (t *Turns) look(ctx workflow.Context) {
	if len(t.Holders) == 0 {
		return
	}
	var holders, gone []Holder
	for _, h := range t.Holders {
		holders = append(holders, h.Holder)
	}
	o := workflow.ActivityOptions{
		StartToCloseTimeout: 30 * time.Second,
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: 10 * time.Second, MaximumAttempts: 5},
		Summary:             "who of the holders has ended",
	}
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), ActionLockLook, t.Key, holders).Get(ctx, &gone)
	if err != nil {
		workflow.GetLogger(ctx).Warn("the holders of a lock could not be looked at", "lock", t.Key, "error", err)
		return
	}
	for _, h := range gone {
		t.Forget(h)
	}
}

// details is what the Web UI shows of a lock.
func (t *Turns) details() string {
	const most = 20
	var b strings.Builder
	b.WriteString("| | execution | since |\n| --- | --- | --- |\n")
	rows := func(what string, claims []Claim) {
		for _, c := range claims[:min(len(claims), most)] {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", what, cell(c.ID), c.Since.UTC().Format(time.DateTime))
		}
		if n := len(claims) - most; n > 0 {
			fmt.Fprintf(&b, "| | … and %d more | |\n", n)
		}
	}
	rows("holds it", t.Holders)
	rows("waits", t.Queue)
	return b.String()
}
