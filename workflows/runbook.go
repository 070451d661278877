package workflows

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/lang/expr"
	"github.com/almanac-run/almanac/lang/program"
)

// Register lets the worker run every runbook: a workflow of any type whose
// input is a Start.
//
// On a worker that has a version (docs/upgrades.md) an execution stays with the
// version that it began on, and what serves all executions goes to the current one:
// a node's or a lock's workflow lives longer than any version.
//
// Watchers are told of what ends.
func Register(r worker.Registry, watchers ...Watcher) {
	r.RegisterDynamicWorkflow(watchedBy(watchers), workflow.DynamicRegisterOptions{
		LoadDynamicRuntimeOptions: func(workflow.LoadDynamicRuntimeOptionsDetails) (workflow.DynamicRuntimeOptions, error) {
			return workflow.DynamicRuntimeOptions{VersioningBehavior: workflow.VersioningBehaviorPinned}, nil
		},
	})
	for name, fn := range map[string]any{registry.WorkflowType: Node, AskType: Ask, TellType: Tell, SyncType: Sync, LockType: Lock} {
		r.RegisterWorkflowWithOptions(fn, workflow.RegisterOptions{Name: name, VersioningBehavior: workflow.VersioningBehaviorAutoUpgrade})
	}
}

// Runbook is the workflow of every runbook. Its one argument is a Start.
func Runbook(ctx workflow.Context, args converter.EncodedValues) (*Result, error) {
	var start Start
	if err := args.Get(&start); err != nil {
		return nil, refused(ctx, fmt.Errorf("the input cannot be read: %w; start it with the starter, and with keys that the worker has", err))
	}
	if p := start.Runs(); p == nil || p.Version < 1 || p.Version > program.Version {
		return nil, refused(ctx, fmt.Errorf("the program has no version that this worker knows (up to %d)", program.Version))
	}
	r, err := newRun(ctx, &start)
	if err != nil {
		return nil, refused(ctx, err)
	}
	return r.main(ctx)
}

// refused ends an execution before its first step.
func refused(ctx workflow.Context, err error) error {
	tellRefused(ctx)
	f := &Failure{Kind: string(action.Invalid), Message: err.Error()}
	return temporal.NewNonRetryableApplicationError(err.Error(), string(Failed), nil, Result{Outcome: Failed, Message: err.Error(), Failure: f})
}

// run is one run of one execution.
type run struct {
	start *Start
	prog  *program.Program
	state *State
	scope *scope // of the outermost steps

	id, firstRun string
	origin       string          // for tokens: the first run, of the outermost caller if there is one
	read         map[string]bool // ids of steps whose outputs the program reads
	programs     map[string]*program.Program

	inflight    int    // activities and children that have not answered
	draining    bool   // continue-as-new as soon as nothing is in flight
	tooLarge    bool   // the state does not fit into a new run's input
	cut         string // path of the first step that a cancellation met
	timedOut    bool   // the runbook's own timeout has passed
	waits       map[string]*wait
	order       []string           // keys of waits, oldest first
	toReopen    []string           // keys that the run before had and that this one has not come to yet; in its first workflow task only
	firstTask   int                // history length in that
	listening   bool               // signals are taken as they come
	dirty       bool               // the view has changed since it was painted
	at          int                // index of the outermost step that runs
	painted     map[string]painted // rows of the current details, by path
	detailBytes int                // size of the current details when last painted
	finished    bool               // the outcome is final
	taskAt      int                // history length when the bytes of this workflow task began to count
	taskBytes   int                // scheduled in this workflow task
	ticking     bool               // somebody waits for the next workflow task
	sizes       map[string]int     // of children's programs, in bytes
	observer    Observer           // nil but in rehearsals
	watcher     Watcher            // nil: nobody is told
	link        Link               // of the execution; for the watcher

	// What the history held when the server first suggested to continue as new.
	suggestedEvents, suggestedBytes int
}

func newRun(ctx workflow.Context, start *Start) (*run, error) {
	info := workflow.GetInfo(ctx)
	p := start.Runs()
	r := &run{
		start: start, prog: p, state: start.State,
		id: info.WorkflowExecution.ID, firstRun: info.FirstRunID,
		programs: map[string]*program.Program{p.Runbook: p},
		waits:    map[string]*wait{},
		dirty:    true,
	}
	// A caller that is brought back to an earlier state calls again, which is another run with the same id.
	if r.origin = r.firstRun; len(start.Within) > 0 && r.newer(ctx, changeOrigin) {
		r.origin = start.Within[0].FirstRun
	}
	r.observer, _ = ctx.Value(observerKey{}).(Observer)
	maps.Copy(r.programs, p.Children)
	r.read = reads(p)
	if r.state == nil {
		r.state = &State{Phase: phaseSteps, StartedAt: workflow.Now(ctx), Steps: &record{}}
		if back := start.TakeBack; back != nil {
			var left State
			if err := json.Unmarshal(back.Left, &left); err != nil {
				return nil, fmt.Errorf("what %s has left cannot be read: %w", back.Of, err)
			}
			r.state.Undo, r.state.Recorded, r.state.Vars, r.state.LeftKeys = left.Undo, left.Recorded, left.Vars, left.LeftKeys
			start.TakeBack = &TakeBack{Of: back.Of, Run: back.Run, Program: back.Program}
		}
	}

	// The starter has checked the inputs; whoever starts a workflow otherwise has not.
	given, problems := program.CheckInputs(p.Inputs, start.Inputs)
	if len(problems) > 0 {
		return nil, fmt.Errorf("input %s: %s", problems[0].Input, problems[0].Message)
	}
	inputs, err := typed(given, p.Inputs, func(i program.Input) (string, program.Type) { return i.Name, i.Type })
	if err != nil {
		return nil, err
	}
	vars, err := typed(r.state.Vars, p.Vars, func(o program.Output) (string, program.Type) { return o.Name, o.Type })
	if err != nil {
		return nil, err
	}
	r.scope = newScope(ctx, r, p, inputs, vars)
	if r.state.Phase != phaseSteps {
		// What comes after the steps may read what they gave.
		if err := r.recallAll(r.scope, r.state.Steps, p.Steps); err != nil {
			return nil, err
		}
	}
	r.state.relink()
	r.toReopen, r.state.Open, r.firstTask = r.state.Open, nil, info.GetCurrentHistoryLength()
	return r, nil
}

// typed decodes raw values by the types of their declarations.
func typed[D any](raw map[string]json.RawMessage, decls []D, of func(D) (string, program.Type)) (map[string]any, error) {
	values := map[string]any{}
	for _, d := range decls {
		name, t := of(d)
		r, ok := raw[name]
		if !ok {
			continue
		}
		v, err := expr.FromJSON(r, t)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		values[name] = v
	}
	return values, nil
}

// main is the story of an execution: its turn, the steps, then rollback if they
// failed, then `finally`, then the outcome.
func (r *run) main(ctx workflow.Context) (*Result, error) {
	ctx = r.watchedExecution(ctx)
	if err := r.answers(ctx); err != nil {
		return nil, err
	}
	st := r.state
	if st.Phase == phaseSteps {
		err := r.whole(ctx, func() error { return r.enter(ctx) })
		if workflow.IsContinueAsNewError(err) {
			return nil, err
		}
		if err != nil {
			// It has not begun: there is nothing to take back, and nothing to clean up.
			st.End = r.shut(ctx, err)
			ctx, _ = workflow.NewDisconnectedContext(ctx)
			return r.finish(ctx)
		}
		if r.start.TakeBack != nil {
			st.End, st.Phase = &Result{Outcome: Succeeded}, phaseRollback
		} else {
			err = r.whole(ctx, func() error { return r.body(ctx) })
			if workflow.IsContinueAsNewError(err) {
				return nil, err
			}
			st.End = r.ending(ctx, err)
			st.End.NotRolledBack = st.LeftBehind
			st.Phase = phaseFinally
			if f := st.End.Failure; f != nil && r.policy() == program.OnFailureRollback && len(st.Undo)+len(st.LeftBehind) > 0 {
				st.Phase = phaseRollback
			}
		}
		if st.Phase == phaseRollback {
			r.attribute(ctx, AttrStatus, "rolling_back")
		}
	}

	// From here on a cancellation has been heard: what remains is to clean up.
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	if st.Phase == phaseRollback {
		if err := r.whole(ctx, func() error { return r.rollback(ctx, "") }); err != nil {
			return nil, err
		}
		st.Phase = phaseFinally
		r.settle()
	}
	if err := r.whole(ctx, func() error { return r.finally(ctx) }); err != nil {
		return nil, err
	}
	return r.finish(ctx)
}

// policy is what to do about the failure that ended the steps: what an operator
// chose when asked, what its step says, else what the runbook says. A cancelled or timed-out execution asks nobody.
func (r *run) policy() string {
	switch end := r.state.End; {
	case end != nil && end.Failure != nil && end.Failure.Then != "":
		return end.Failure.Then
	case r.state.Steps.Choice == AnswerStop: // of a run whose worker was older
		return program.OnFailureStop
	case r.prog.OnFailure == program.OnFailureAsk:
		return program.OnFailureRollback
	}
	return r.prog.OnFailure
}

// body runs the vars and the steps, within the runbook's timeout.
func (r *run) body(ctx workflow.Context) error {
	st := r.state
	if st.Vars == nil {
		st.Vars = map[string]json.RawMessage{}
		vars := r.scope.names["vars"].(map[string]any)
		for i := range r.prog.Vars {
			v := &r.prog.Vars[i]
			one, err := r.scope.outputs(ctx, r.prog.Vars[i:i+1])
			if err != nil {
				return err
			}
			vars[v.Name] = one[v.Name]
			if st.Vars[v.Name], err = expr.ToJSON(one[v.Name]); err != nil {
				return r.scope.fail(action.Invalid, v.Pos, "var %s: %v", v.Name, err)
			}
		}
	}
	if st.Deadline == nil && r.prog.Timeout != nil {
		limit, err := r.scope.duration(ctx, r.prog.Timeout, 0)
		if err != nil {
			return err
		}
		deadline := st.began().Add(limit)
		st.Deadline = &deadline
	}
	steps := func(ctx workflow.Context) error { return r.list(ctx, r.scope, st.Steps, "", r.prog.Steps) }
	if st.Deadline == nil {
		return steps(ctx)
	}
	timedOut, err := within(ctx, st.Deadline.Sub(workflow.Now(ctx)), "timeout of the runbook", steps)
	r.timedOut = timedOut
	return err
}

// within runs fn and cancels it when d has passed; it tells whether that
// happened before fn ended by itself.
func within(ctx workflow.Context, d time.Duration, summary string, fn func(workflow.Context) error) (bool, error) {
	inner, cancel := workflow.WithCancel(ctx)
	defer cancel()
	fired := false
	workflow.Go(inner, func(ctx workflow.Context) {
		timer := workflow.NewTimerWithOptions(ctx, d, workflow.TimerOptions{Summary: summary})
		if timer.Get(ctx, nil) == nil {
			fired = true
			cancel()
		}
	})
	err := fn(inner)
	return fired && err != nil && ctx.Err() == nil, err
}

// ending says how the steps ended; err is nil, a stopped, a Failure or a
// cancellation.
func (r *run) ending(ctx workflow.Context, err error) *Result {
	var stop *stopped
	var f *Failure
	switch {
	case errors.As(err, &stop):
		err = nil
	case r.timedOut:
		at := ""
		if r.cut != "" {
			at = " while " + r.cut + " ran"
		}
		f = r.scope.fail(action.Timeout, program.Pos{}, "the runbook's timeout (%s) passed%s", r.state.Deadline.Sub(r.state.began()), at)
		return &Result{Outcome: TimedOut, Message: f.Message, Failure: f}
	case err != nil && ctx.Err() != nil:
		f = r.scope.fail(action.Cancelled, program.Pos{}, "cancelled")
		if r.cut != "" {
			f.Message = "cancelled while " + r.cut + " ran"
		}
		return &Result{Outcome: Cancelled, Message: f.Message, Failure: f}
	}
	end := &Result{Outcome: Succeeded}
	if stop != nil {
		end.Message = stop.message
	}
	if err == nil {
		end.Outputs, err = r.outputs(ctx, stop != nil)
	}
	if err == nil {
		err = r.returnable(ctx, end)
	}
	if err != nil {
		f = asFailure(err)
		return &Result{Outcome: Failed, Message: f.Error(), Failure: f}
	}
	return end
}

// outputs evaluates the runbook's outputs. After `stop:` those whose steps did
// not run are left out.
func (r *run) outputs(ctx workflow.Context, partial bool) (map[string]json.RawMessage, error) {
	outs := map[string]json.RawMessage{}
	for i := range r.prog.Outputs {
		o := &r.prog.Outputs[i]
		raw, err := r.scope.raw(ctx, &o.Value)
		if err != nil && partial {
			continue
		}
		if err != nil {
			return nil, err
		}
		outs[o.Name] = raw
	}
	if len(outs) == 0 {
		return nil, nil
	}
	return outs, nil
}

// settle turns the outcome of the steps into that after rollback.
func (r *run) settle() {
	end := r.state.End
	back := r.start.TakeBack
	switch {
	case len(end.NotRolledBack) > 0 && back != nil:
		end.Outcome, end.Failure = RollbackFailed, end.NotRolledBack[0]
		end.Message = fmt.Sprintf("not all that %s left could be taken back", back.Of)
	case len(end.NotRolledBack) > 0 && end.Outcome != Succeeded:
		end.Outcome = RollbackFailed
	case end.Outcome == Failed:
		end.Outcome = RolledBack
	}
}

// finally runs each of the steps of `finally:`, whatever became of those before.
func (r *run) finally(ctx workflow.Context) error {
	if len(r.prog.Finally) == 0 || r.start.TakeBack != nil { // it has run
		return nil
	}
	st := r.state
	if st.Finally == nil {
		st.Finally = &record{}
	}
	sc := *r.scope
	sc.silent = true
	for i := range r.prog.Finally {
		s := &r.prog.Finally[i]
		if st.Finally.sub(s.ID).State == StateFailed {
			continue
		}
		err := r.step(ctx, &sc, st.Finally, "finally.", s)
		var f *Failure
		switch {
		case errors.Is(err, errHalted):
			return err
		case errors.As(err, &f) && st.End.Failure == nil:
			st.End.Outcome, st.End.Message, st.End.Failure = Failed, f.Error(), f
		}
	}
	return nil
}

// finish reports the outcome.
func (r *run) finish(ctx workflow.Context) (*Result, error) {
	r.drainSignals(ctx) // so that those which answer nothing are in the log
	end := r.state.End
	if f := end.Failure; f != nil && f.Step != "" {
		r.attribute(ctx, AttrStatus, string(end.Outcome), AttrStep, f.Step)
	} else {
		r.attribute(ctx, AttrStatus, string(end.Outcome))
	}
	r.finished, r.dirty = true, true
	r.paint(ctx)
	end.shorten()
	undo := r.state.Undo
	if workflow.GetInfo(ctx).ParentWorkflowExecution != nil && len(undo) > 0 && (end.Outcome == Succeeded || r.policy() == program.OnFailureRollback) {
		// It succeeded, or only its finally failed: nothing has been taken back.
		raw, err := packUndo(r.handOver())
		if err != nil {
			return nil, err
		}
		end.Undo, end.Keys = raw, r.passed()
		undo = nil
	}
	if end.Outcome == Succeeded {
		undo = nil // that is what it was to do
	}
	if err := r.tellLeft(ctx, end, undo); err != nil {
		return nil, err
	}
	r.giveBack(ctx, len(end.Undo) > 0)
	r.tellExecution(ctx)
	if end.Outcome == Succeeded {
		return end, nil
	}
	if end.Outcome == Cancelled {
		return nil, temporal.NewCanceledError(*end)
	}
	return nil, temporal.NewNonRetryableApplicationError(end.Message, string(end.Outcome), nil, *end)
}

// Search attributes as typed keys.
var (
	attrKeys = map[string]temporal.SearchAttributeKeyKeyword{
		AttrRunbook: temporal.NewSearchAttributeKeyKeyword(AttrRunbook),
		AttrStatus:  temporal.NewSearchAttributeKeyKeyword(AttrStatus),
		AttrStep:    temporal.NewSearchAttributeKeyKeyword(AttrStep),
		AttrCaller:  temporal.NewSearchAttributeKeyKeyword(AttrCaller),
	}
	attrTargets = temporal.NewSearchAttributeKeyKeywordList(AttrTargets)
)

// Attributes are the search attributes of an execution at its start.
func Attributes(runbook, caller string) temporal.SearchAttributes {
	return temporal.NewSearchAttributes(
		attrKeys[AttrRunbook].ValueSet(bounded(runbook)),
		attrKeys[AttrStatus].ValueSet("running"),
		attrKeys[AttrCaller].ValueSet(bounded(caller)),
	)
}

// Fair is the priority of what a caller starts: the server, where it is set up
// for fairness, serves callers in turns, however much one of them has started. All work
// of the execution inherits it.
func Fair(caller string) temporal.Priority {
	const most = 64 // bytes that the server takes
	if len(caller) > most {
		sum := sha256.Sum256([]byte(caller))
		caller = strings.ToValidUTF8(caller[:most-20], "") + fmt.Sprintf("~%x", sum[:8])
	}
	return temporal.Priority{FairnessKey: caller}
}

// bounded keeps a search attribute under the size at which the server
// terminates the execution (2 KB).
func bounded(s string) string {
	const most = 500
	for len(s) > most {
		r := []rune(s)
		s = string(r[:len(r)*9/10])
	}
	return s
}

// attribute sets search attributes, given as names and values in turn. Each
// call costs one event of history.
func (r *run) attribute(ctx workflow.Context, pairs ...string) {
	var updates []temporal.SearchAttributeUpdate
	for i := 0; i < len(pairs); i += 2 {
		updates = append(updates, attrKeys[pairs[i]].ValueSet(bounded(pairs[i+1])))
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx, updates...); err != nil {
		workflow.GetLogger(ctx).Warn("search attributes not set", "attributes", pairs, "error", err)
	}
}

// targets records the nodes that the execution works on.
func (r *run) targets(ctx workflow.Context, nodes []string) {
	const most = 20
	var known []string
	if v, ok := workflow.GetTypedSearchAttributes(ctx).GetKeywordList(attrTargets); ok {
		known = v
	}
	all := slices.Clone(known)
	for _, n := range nodes {
		if len(all) < most && !slices.Contains(all, n) && len(n) <= 64 {
			all = append(all, n)
		}
	}
	if len(all) == len(known) {
		return
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx, attrTargets.ValueSet(all)); err != nil {
		workflow.GetLogger(ctx).Warn("search attribute not set", "name", AttrTargets, "error", err)
	}
}

// Histories are cut by continue-as-new soon after the server suggests it (4,096
// events or 4 MiB): at a quiet moment, and if none comes, as while thousands of
// targets are worked on, after so many more. That leaves room for what is in
// flight below the 8,000 events that a run shall have at most, and far below
// the 51,200 events and 50 MB at which the server gives up.
const (
	moreEvents = 500
	moreBytes  = 1 << 19
	lastEvents = 40_000 // of an execution whose state does not fit into a new run

	// Of runs whose worker was older.
	mostEvents = 16_000
	mostBytes  = 16 << 20
)

// changeCut is the version from which histories are cut after moreEvents, and
// in the middle of a rollback on many targets.
const changeCut = "cut sooner"

// changeOrigin is the version from which the tokens of a called runbook hang on the first run
// of the outermost caller, and changeLate that from which work is asked for again whose time ran out unseen.
const (
	changeOrigin = "tokens of the caller"
	changeLate   = "asked again when late"
)

// changeAttempt is the version from which what a further attempt at a called runbook leaves is below a path of its own:
// both attempts' work of a rollback would have one token, and a node does that once.
const changeAttempt = "path of a further attempt"

// boundary is passed before each step, iteration and target: the places where
// an execution can be cancelled, halted or cut.
func (r *run) boundary(ctx workflow.Context, sc *scope) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if r.drain(ctx) || sc.group.stopped() {
		return errHalted
	}
	if r.tooLarge && r.state.Phase == phaseSteps && workflow.GetInfo(ctx).GetCurrentHistoryLength() > lastEvents {
		return sc.fail(action.Failed, program.Pos{}, "the execution holds too much data to go on: the outputs and inputs of its steps do not fit into one message of %d bytes", mostPayload)
	}
	return nil
}

// drain tells whether the execution is to continue as new as soon as nothing is
// in flight.
func (r *run) drain(ctx workflow.Context) bool {
	info := workflow.GetInfo(ctx)
	if r.draining || r.tooLarge || !info.GetContinueAsNewSuggested() {
		return r.draining
	}
	events, bytes := info.GetCurrentHistoryLength(), info.GetCurrentHistorySize()
	if r.suggestedEvents == 0 {
		r.suggestedEvents, r.suggestedBytes = events, bytes
	}
	switch {
	case r.inflight == 0 || events > mostEvents || bytes > mostBytes:
		r.draining = true
	case events > r.suggestedEvents+moreEvents || bytes > r.suggestedBytes+moreBytes:
		r.draining = r.newer(ctx, changeCut)
	}
	return r.draining
}

// newer tells whether this run of the execution began, or had not come so far,
// when workers knew a change of what they do.
func (r *run) newer(ctx workflow.Context, change string) bool {
	return workflow.GetVersion(ctx, change, workflow.DefaultVersion, 1) >= 1
}

// whole does one part of the execution to its end, or returns the error that
// continues it in a new run. Signals that have arrived are taken first. A state
// that does not fit into one message goes on in this run, which is walked again.
func (r *run) whole(ctx workflow.Context, part func() error) error {
	for {
		err := part()
		switch {
		case !errors.Is(err, errHalted):
			return err
		case ctx.Err() != nil:
			return ctx.Err() // a cancellation is not carried to the next run
		}
		r.drainSignals(ctx)
		if r.awaited() != nil {
			r.turns(ctx)
		}
		next := *r.start
		next.State = r.state
		r.state.Open = slices.Clone(r.order)
		raw, err := json.Marshal(next)
		if err == nil && len(raw) > mostPayload && len(r.state.Left) > 0 {
			r.state.Left = nil // what has failed is still named
			raw, err = json.Marshal(next)
		}
		if err != nil {
			return err
		}
		if len(raw) <= mostPayload {
			return workflow.NewContinueAsNewError(ctx, workflow.GetInfo(ctx).WorkflowType.Name, json.RawMessage(raw))
		}
		r.draining, r.tooLarge = false, true
	}
}

// returnable refuses what a successful execution would return if it does not fit into
// one message, while it can still be taken back.
func (r *run) returnable(ctx workflow.Context, end *Result) error {
	raw, err := json.Marshal(end)
	if err != nil {
		return err
	}
	size := len(raw)
	if workflow.GetInfo(ctx).ParentWorkflowExecution != nil {
		undo, err := packUndo(r.handOver())
		if err != nil {
			return err
		}
		size += len(undo)
	}
	if size > mostPayload {
		return r.scope.fail(action.Invalid, program.Pos{}, "the outputs are %d bytes, over the limit of %d", size, mostPayload)
	}
	return nil
}

// shorten makes a result fit into one message: names before details, and the
// first of very many.
func (e *Result) shorten() {
	size := func() int { raw, _ := json.Marshal(e); return len(raw) }
	if size() <= mostPayload {
		return
	}
	e.RolledBack = append(e.RolledBack[:min(len(e.RolledBack), 1000):min(len(e.RolledBack), 1000)], "…")
	for _, f := range e.NotRolledBack {
		f.Message, f.Detail, f.Cause = firstLine(f.Message), nil, nil
	}
	if size() > mostPayload {
		e.NotRolledBack = e.NotRolledBack[:min(len(e.NotRolledBack), 1000)]
	}
	if size() > mostPayload {
		e.Outputs = nil
	}
}
