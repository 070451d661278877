package rehearse

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/rehearse/play"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// The ways to fail.
const (
	Fails      = "fails"       // an error before the effect
	NodeGone   = "unreached"   // the node does not take the work
	Timeout    = "timeout"     // the effect, and then nothing until the time is over
	Late       = "late"        // the same once; then the step's retry
	Lost       = "lost"        // the effect, and the answer is lost, each time
	Retried    = "retried"     // the effect, the answer is lost once, and the work is asked for again
	Throttled  = "throttled"   // asked too often, twice
	DiesBefore = "dies-before" // the worker dies before a request of the action
	DiesAfter  = "dies-after"  // … and after it
	Cancelled  = "cancelled"   // somebody cancels after the effect
	UndoDies   = "undo-dies"   // the same, and the worker dies within the compensation
	Rejected   = "rejected"
	Unanswered = "unanswered"
)

// FaultKind is a way to fail and what it means.
type FaultKind struct{ Name, Meaning string }

// Faults are the ways to fail, in the order in which they are tried.
var Faults = []FaultKind{
	{Fails, "it fails before it has an effect"},
	{NodeGone, "the node does not take the work"},
	{Timeout, "it has its effect, and no answer comes within its timeout"},
	{Late, "the same once; then its retry: works"},
	{Lost, "it has its effect, and whoever did it is gone, at every attempt"},
	{Retried, "it has its effect, the answer is lost, and it is asked for again"},
	{Throttled, "it comes too often, twice, and then works"},
	{DiesBefore, "the worker dies before a request to the cloud, and another goes on"},
	{DiesAfter, "the worker dies after a request to the cloud, and another goes on"},
	{Cancelled, "somebody cancels while it runs"},
	{UndoDies, "the same, and the worker dies while it is taken back"},
	{Rejected, "somebody says no"},
	{Unanswered, "nobody says anything"},
}

// fault is what goes wrong in one run.
type fault struct {
	work string // base path of the work, or of what waits
	kind string
	call int // of DiesBefore, DiesAfter, Throttled, UndoDies: the request, from 1
}

// request is one that an action made.
type request struct {
	operation string
	changed   int // things that it made, changed or removed
}

// work is one piece of work of a run.
type work struct {
	base, form, node string
	compensates      bool
	requests         []request
	wait             string // "approval", "pause", "wait" or ""
	waits            workflows.Wait
	answered         bool // by the scene, with an error
	unknown          bool // the cloud does not know what it does: its answer is made up
	unseen           bool // it changes what nobody can know
	instant          bool // its answer is made up, and took no time
}

// seen tells what became of a step in a run.
type seen struct{ taken, skipped, handled, undone bool }

// stepKey names a step of a program.
type stepKey struct{ runbook, id string }

// stage is one run while it is played.
type stage struct {
	*Options
	fault fault
	infos map[string]action.Info

	cloud     Cloud
	simulated map[string]action.Action

	mu       sync.Mutex
	now      func() time.Time
	on       *play.Stage
	began    time.Time
	works    []*work
	at       map[string]*work
	things   []*Thing          // noted by ourselves
	undone   map[string]error  // work and steps for which a compensation was tried, and how that ended
	made     map[string]string // by kind and id of the cloud's things: the work
	removed  map[string]string // likewise, who removed it
	counts   map[string]int    // how often the answers of a path were used
	used     map[int]bool      // answers, by index
	said     map[int]bool      // people, by index
	met      bool              // the fault has come
	hits     int
	steps    map[string]*program.Step // by path
	books    map[string]string        // their runbooks
	coverage map[stepKey]*seen
	trace    []string
}

// attempt is what a stage knows of an attempt while it runs.
type attempt struct {
	*play.Attempt
	base     string
	requests []request
	dead     bool
}

type attemptKey struct{}

// run is a stage that has been played.
type run struct {
	*stage
	*play.Ended
	live []Thing // what it made and is still there
	gone []Thing // what was there before, and is not
	err  error
}

func (o *Options) play(f fault) *run {
	s := &stage{
		Options: o, fault: f, infos: map[string]action.Info{}, simulated: map[string]action.Action{},
		at: map[string]*work{}, made: map[string]string{}, removed: map[string]string{}, undone: map[string]error{}, counts: map[string]int{}, used: map[int]bool{}, said: map[int]bool{},
		steps: map[string]*program.Step{}, books: map[string]string{}, coverage: map[stepKey]*seen{},
	}
	for _, info := range o.Actions {
		s.infos[info.Name] = info
	}
	s.began = o.Scene.At
	if s.began.IsZero() {
		s.began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	}
	s.now = func() time.Time { return s.began }
	r := &run{stage: s}
	if o.Cloud != nil {
		s.cloud, r.err = o.Cloud(CloudEnv{
			Seed: o.Seed, Inputs: o.Scene.Inputs, Program: o.Program, Given: o.Scene.Given,
			Now: func() time.Time { return s.now() }, Sleep: play.Sleep, Around: s.around,
		})
		if r.err != nil {
			return r
		}
		defer s.cloud.Close()
		for _, a := range s.cloud.Actions() {
			s.simulated[a.Name] = a
		}
	}
	p := play.Play{
		Program: o.Program, Inputs: o.Scene.Inputs, Caller: cmp.Or(o.Scene.Caller, "rehearsal"), ID: "rehearsal", Began: s.began,
		Handler: s.handle, Waits: s.waits, Steps: s.step, Patience: time.Minute,
	}
	for i, who := range o.Scene.People {
		if who.Does == "cancel" {
			p.Moments = append(p.Moments, play.Moment{After: who.After, Do: func(on *play.Stage) {
				s.said[i] = true
				s.note("", "%scancels", by(who.By))
				on.Cancel()
			}})
		}
	}
	p.Started = func(on *play.Stage) { s.on, s.now = on, on.Now }
	r.Ended, r.err = p.Run()
	if r.err != nil {
		return r
	}
	if r.Endless {
		r.err = errors.New("it goes on for ever: after 20,000 attempts or half a minute it was given up")
	}
	if s.cloud != nil {
		given := map[string]Thing{}
		for _, t := range s.cloud.Given() {
			given[t.key()] = t
		}
		for _, t := range s.cloud.Live() {
			// What no request made belongs to something: the members of a group come and go.
			key := t.key()
			if _, was := given[key]; !was && s.made[key] != "" {
				t.work = s.made[key]
				t.Step = stepOf(t.work)
				r.live = append(r.live, t)
			}
			delete(given, key)
		}
		for _, key := range sorted(given) {
			if t := given[key]; s.removed[key] != "" {
				t.work = s.removed[key]
				t.Step = stepOf(t.work)
				r.gone = append(r.gone, t)
			}
		}
	}
	for _, t := range s.things {
		r.live = append(r.live, *t)
	}
	return r
}

func by(who string) string {
	if who == "" {
		return "somebody "
	}
	return who + " "
}

// note adds a line to the trace.
func (s *stage) note(path, format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if path != "" {
		line = path + " " + line
	}
	s.trace = append(s.trace, line)
}

// step is told of steps as the interpreter takes them up.
func (s *stage) step(runbook string, step *program.Step, path, state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path = generation.ReplaceAllString(path, "")
	s.steps[path], s.books[path] = step, runbook
	if i := strings.LastIndex(path, ".rollback."); i >= 0 {
		s.takenBack(path[:i])
	}
	c := s.covered(runbook, step.ID)
	switch state {
	case workflows.StateSkipped:
		c.skipped = true
		s.note(path, "is skipped")
	case workflows.StateHandled:
		c.handled = true
	default:
		c.taken = true
	}
	if state == workflows.StateRunning && (step.Kind == program.KindWait || step.Kind == program.KindWaitUntil) {
		s.begin(&work{base: path, form: string(step.Kind), wait: "wait"})
		s.cancelAt(path)
	}
}

// takenBack notes that the rollback: of a step runs.
func (s *stage) takenBack(path string) {
	if _, ok := s.undone[path]; !ok {
		s.undone[path] = nil
	}
	if step := s.steps[path]; step != nil {
		s.covered(s.books[path], step.ID).undone = true
	}
}

func (s *stage) covered(runbook, id string) *seen {
	key := stepKey{runbook, id}
	if s.coverage[key] == nil {
		s.coverage[key] = &seen{}
	}
	return s.coverage[key]
}

// cancelAt cancels what has begun to wait, if that is the fault.
func (s *stage) cancelAt(path string) {
	if s.fault.work == path && s.fault.kind == Cancelled && !s.met {
		s.met = true
		s.on.After(time.Millisecond, func() {
			s.note("", "somebody cancels")
			s.on.Cancel()
		})
	}
}

// begin notes a piece of work when it is met first.
func (s *stage) begin(w *work) *work {
	if known := s.at[w.base]; known != nil {
		return known
	}
	s.at[w.base] = w
	s.works = append(s.works, w)
	return w
}

// handle does one attempt at a piece of work.
func (s *stage) handle(ctx context.Context, p *play.Attempt) (json.RawMessage, error) {
	switch p.Action {
	case workflows.ActionNodes:
		return s.listNodes()
	case workflows.ActionDescribe:
		if strings.Contains(p.ID, ".describe@") {
			return s.describe(p.Node)
		}
	}
	a := &attempt{Attempt: p, base: base(p)}
	ctx = context.WithValue(ctx, attemptKey{}, a)
	line := p.Action
	if p.Undo {
		line = "is taken back: " + line
	}
	line += " " + readable.Replace(play.Brief(p.Input))
	if p.N > 1 {
		line += fmt.Sprintf(" (attempt %d)", p.N)
	}
	at := len(s.trace)
	s.note(a.base, "%s", line)
	out, err := s.attempt(ctx, a)
	if a.dead {
		out, err = nil, play.ErrDied
	}
	if a.Undo {
		s.undone[a.base] = err
	} else if i := strings.LastIndex(a.base, ".rollback."); i >= 0 {
		s.undone[a.base[:i]] = err
	}
	if err != nil {
		s.trace[at] += ": " + sayError(err)
	}
	return out, err
}

// readable takes back what JSON escapes for the sake of HTML.
var readable = strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&")

func sayError(err error) string {
	for _, e := range []struct {
		err  error
		says string
	}{{play.ErrDied, "lost"}, {play.ErrTimeout, "timeout"}, {play.ErrUnreached, "unreached"}, {play.ErrCancel, "cancelled"}} {
		if errors.Is(err, e.err) {
			return e.says
		}
	}
	return fmt.Sprintf("%s: %s", action.KindOf(err), firstLine(err.Error()))
}

func firstLine(s string) string {
	first, _, _ := strings.Cut(s, "\n")
	return first
}

// attempt does the work, or goes wrong with it.
func (s *stage) attempt(ctx context.Context, a *attempt) (json.RawMessage, error) {
	if a.Undo {
		return s.takeBack(ctx, a)
	}
	info := s.infos[a.Action]
	w := s.begin(&work{base: a.base, form: a.Action, node: a.Node, compensates: info.Compensates, unseen: unseen(a.Action, a.Input)})
	if s.fault.work != a.base || s.fault.kind == "" {
		return s.do(ctx, a, info, w)
	}
	s.met = true
	s.hits++
	switch s.fault.kind {
	case Fails:
		return nil, action.Errorf(action.Failed, "rehearsed: it fails")
	case NodeGone:
		return nil, play.ErrUnreached
	case Throttled:
		if s.fault.call == 0 && s.hits <= 2 {
			return nil, action.Errorf(action.Throttled, "rehearsed: too many requests")
		}
		return s.do(ctx, a, info, w)
	}
	out, err := s.do(ctx, a, info, w)
	if err != nil && !a.dead {
		return nil, err
	}
	switch {
	case s.fault.kind == Timeout, s.fault.kind == Late && s.hits == 1:
		return nil, play.ErrTimeout
	case s.fault.kind == Lost, s.fault.kind == Retried && s.hits == 1:
		return nil, play.ErrDied
	case s.fault.kind == Cancelled, s.fault.kind == UndoDies:
		if s.hits == 1 {
			return nil, play.ErrCancel
		}
	}
	return out, err
}

// do does the work: as the scene says, in the simulated cloud, or with an answer that is made up.
func (s *stage) do(ctx context.Context, a *attempt, info action.Info, w *work) (json.RawMessage, error) {
	if i := s.answer(a.base); i >= 0 {
		said := s.Scene.Answers[i]
		if said.Takes > 0 {
			if err := play.Sleep(ctx, said.Takes); err != nil {
				return nil, err
			}
		}
		switch said.Kind {
		case "":
		case action.Unreached:
			w.answered = true
			return nil, play.ErrUnreached
		case action.Lost:
			w.answered = true
			return nil, play.ErrDied
		case action.Timeout:
			w.answered = true
			return nil, play.ErrTimeout
		default:
			w.answered = true
			err := &action.Error{Kind: said.Kind, Err: errors.New(cmp.Or(said.Message, "as the answers say"))}
			if said.Detail != nil {
				err.Detail = said.Detail
			}
			return nil, err
		}
		s.makes(a, info)
		return plausible(info, a.Input, said.Outputs)
	}
	if real, ok := s.simulated[a.Action]; ok {
		out, err := real.Do(s.call(ctx, a), a.Input)
		w.requests = append(w.requests, a.requests...)
		if err == nil {
			raw, err := json.Marshal(out)
			if err == nil {
				s.custom(a)
			}
			return raw, err
		}
		if !s.cloud.Unknown(err) {
			return nil, err
		}
		w.unknown = true
	}
	s.makes(a, info)
	w.instant = true
	return plausible(info, a.Input, nil)
}

// call is what a real action knows of its step. No secret is ever read.
func (s *stage) call(ctx context.Context, a *attempt) context.Context {
	return action.WithCall(ctx, action.Call{
		Token: a.Token, Execution: a.Execution, Step: a.ID, Attempt: a.N,
		Heartbeat: func(any) {},
		Abandoned: func() bool { return a.dead },
		Reveal:    func(_ context.Context, ref string) (string, error) { return "rehearsed " + ref, nil },
		Mask:      func(text string) string { return text },
	})
}

// makes notes what an action that is not simulated makes, if it or its step says how it is taken back.
func (s *stage) makes(a *attempt, info action.Info) {
	if !info.Compensates {
		s.custom(a)
		return
	}
	what := "what " + a.Action + " did"
	if a.Node != "" {
		what += " on " + a.Node
	}
	s.thing(&Thing{Kind: a.Action, ID: a.Node + " " + string(a.Input), Step: stepOf(a.base), work: a.base, what: what, own: true})
}

// custom notes what a step makes that has a rollback of its own.
func (s *stage) custom(a *attempt) {
	path := stepOf(a.base)
	step := s.steps[path]
	if step == nil || step.Rollback == nil || step.Rollback.None {
		return
	}
	if s.simulated[a.Action].Name != "" {
		return // the cloud knows
	}
	what := "what step " + path + " did"
	s.thing(&Thing{Kind: "step", ID: path, Step: path, work: path, what: what, own: true})
}

func (s *stage) thing(t *Thing) {
	for _, o := range s.things {
		if o.Kind == t.Kind && o.ID == t.ID {
			return
		}
	}
	s.things = append(s.things, t)
}

// takeBack is a compensation.
func (s *stage) takeBack(ctx context.Context, a *attempt) (json.RawMessage, error) {
	if step := s.steps[stepOf(a.base)]; step != nil {
		s.covered(s.books[stepOf(a.base)], step.ID).undone = true
	}
	if i := s.answer("undo." + a.base); i >= 0 {
		if said := s.Scene.Answers[i]; said.Kind != "" {
			return nil, &action.Error{Kind: said.Kind, Err: errors.New(cmp.Or(said.Message, "as the answers say"))}
		}
	}
	if real, ok := s.simulated[a.Action]; ok && s.madeByCloud(a.base) {
		return json.RawMessage("null"), real.Compensate(s.call(ctx, a), a.Input, a.Output)
	}
	s.things = slices.DeleteFunc(s.things, func(t *Thing) bool {
		return t.Kind == a.Action && t.ID == a.Node+" "+string(a.Input)
	})
	return json.RawMessage("null"), nil
}

// madeByCloud tells whether the work really ran in the cloud, and was not answered by the scene.
func (s *stage) madeByCloud(base string) bool {
	w := s.at[base]
	return w == nil || len(w.requests) > 0 && !w.unknown
}

// around stands around each request that a simulated action makes.
func (s *stage) around(ctx context.Context, operation string, throttled error, do func() ([]Effect, error)) error {
	a, _ := ctx.Value(attemptKey{}).(*attempt)
	if a == nil {
		_, err := do()
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.dead {
		return context.Canceled
	}
	n := len(a.requests) + 1
	f := s.fault
	mine := f.work == a.base && !a.Undo
	switch {
	case mine && f.kind == DiesBefore && f.call == n && a.N == 1 && s.hits == 1:
		a.dead = true
		s.note("", "  the worker dies before %s", operation)
		return context.Canceled
	case mine && f.kind == Throttled && f.call > 0 && f.call == n && s.hits <= 2:
		return throttled
	}
	effects, err := do()
	a.requests = append(a.requests, request{operation, len(effects)})
	if s.Requests {
		s.request(a, operation, effects, err)
	}
	for _, e := range effects {
		switch e.Change {
		case "made":
			s.made[e.Thing.key()] = a.base
		case "removed":
			s.removed[e.Thing.key()] = a.base
		}
	}
	switch {
	case mine && f.kind == DiesAfter && f.call == n && a.N == 1 && s.hits == 1,
		f.kind == UndoDies && f.work == a.base && a.Undo && a.N == 1 && len(effects) > 0:
		a.dead = true
		s.note("", "  the worker dies")
		return context.Canceled
	}
	return err
}

// request adds a request to the trace; one more look at the same thing is left out.
func (s *stage) request(a *attempt, operation string, effects []Effect, err error) {
	line := fmt.Sprintf("  %d: %s", len(a.requests), operation)
	for _, e := range effects {
		line += fmt.Sprintf(", %s %s %s", e.Change, e.Thing.Kind, e.Thing.ID)
	}
	if err != nil {
		line += ": " + firstLine(err.Error())
	}
	if n := len(a.requests) - 2; n >= 0 && err == nil && len(effects) == 0 && a.requests[n].operation == operation && a.requests[n].changed == 0 {
		return
	}
	s.note("", "%s", line)
}

// answer finds what the scene says that a piece of work answers this time; -1 if nothing.
func (s *stage) answer(base string) int {
	for _, key := range keys(base) {
		n := s.counts[key+"\x00"+base]
		found, total := -1, 0
		for i, a := range s.Scene.Answers {
			if a.Path != key {
				continue
			}
			found = i
			if total += a.Times; a.Times == 0 || n < total {
				break
			}
			found = -1
		}
		if found >= 0 {
			s.counts[key+"\x00"+base]++
			s.used[found] = true
			return found
		}
	}
	return -1
}

func (s *stage) nodes() []Node {
	if s.Scene.Nodes != nil {
		return s.Scene.Nodes
	}
	return madeUp()
}

func (s *stage) listNodes() (json.RawMessage, error) {
	ids := []string{}
	for _, n := range s.nodes() {
		ids = append(ids, n.ID)
	}
	return json.Marshal(map[string]any{"nodes": ids})
}

func (s *stage) describe(id string) (json.RawMessage, error) {
	for _, n := range s.nodes() {
		if n.ID == id {
			return json.Marshal(n)
		}
	}
	return nil, play.ErrUnreached
}

// waits says what people say to a step that waits for them.
func (s *stage) waits(child string, w workflows.Wait) []play.Saying {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := generation.ReplaceAllString(child+w.Step, "")
	what := s.begin(&work{base: path, form: w.Kind, wait: w.Kind, waits: w})
	s.note(path, "waits for %s", strings.Join(w.Choices, " or "))
	if s.Scene.People != nil {
		return s.people(path, w)
	}
	const thinks = time.Minute
	if s.fault.work == path && what.wait != "" {
		switch s.fault.kind {
		case Unanswered:
			s.met = true
			return nil
		case Rejected:
			s.met = true
			return s.sayings(path, w, Person{Does: workflows.AnswerReject, After: thinks})
		case Cancelled:
			s.cancelAt(path)
			return nil
		}
	}
	switch w.Kind {
	case "approval":
		var all []play.Saying
		for i := range max(w.Quorum, 1) {
			who := fmt.Sprintf("approver-%d", i+1)
			if i < len(w.Approvers) {
				who = w.Approvers[i]
			}
			all = append(all, s.sayings(path, w, Person{Does: workflows.AnswerApprove, By: who, After: thinks})...)
		}
		return all
	case "pause":
		return s.sayings(path, w, Person{Does: workflows.AnswerResume, After: thinks})
	}
	return s.sayings(path, w, Person{Does: workflows.AnswerRollback, After: thinks})
}

// people are the scene's who answer a step that waits.
func (s *stage) people(path string, w workflows.Wait) []play.Saying {
	var all []play.Saying
	for i, who := range s.Scene.People {
		if who.Does == "cancel" || s.said[i] || !slices.Contains(w.Choices, who.Does) ||
			who.Step != "" && !slices.Contains(keys(path), who.Step) {
			continue
		}
		if (w.Kind == "ask" || w.Kind == "halt") && len(all) > 0 {
			break // the next answers what comes after this one
		}
		s.said[i] = true
		all = append(all, s.sayings(path, w, who)...)
	}
	return all
}

func (s *stage) sayings(path string, w workflows.Wait, who Person) []play.Saying {
	if who.By == "" && len(w.Approvers) > 0 {
		who.By = w.Approvers[0]
	}
	return []play.Saying{{After: who.After, Verb: who.Does, Answer: workflows.Answer{By: who.By, Comment: who.Comment, With: who.With},
		Said: func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.note(path, "%ssays %s", by(who.By), who.Does)
		}}}
}
