package workflows

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/lang/expr"
	"github.com/almanac-run/almanac/lang/program"
)

// list runs steps one after the other. prefix is the path of the body they
// stand in, with its dot.
func (r *run) list(ctx workflow.Context, sc *scope, parent *record, prefix string, steps []program.Step) error {
	for i := range steps {
		if parent == r.state.Steps {
			r.at = i
		}
		if err := r.step(ctx, sc, parent, prefix, &steps[i]); err != nil {
			return err
		}
	}
	return nil
}

// step runs one step, whatever its form: whether it runs at all, its form, its
// outputs, and what happens if it fails. It returns nil if what follows may run,
// a *Failure, a *stopped, errHalted, or the error of a cancelled ctx.
func (r *run) step(ctx workflow.Context, sc *scope, parent *record, prefix string, s *program.Step) error {
	path := prefix + s.ID
	rec := parent.sub(s.ID)
	if rec.done() {
		return r.recall(sc, rec, s)
	}
	ctx, ended := r.watchedStep(ctx, sc, rec, path, s)
	defer ended()
	if err := r.boundary(ctx, sc); err != nil {
		return err
	}
	if rec.Start == nil {
		now := workflow.Now(ctx)
		rec.Start, rec.State = &now, StateRunning
		r.dirty = true
		why, err := r.skips(ctx, sc, s)
		if err != nil {
			return r.unprepared(ctx, sc, rec, path, s, err)
		}
		if why != "" {
			rec.Message = why
			r.end(ctx, rec, StateSkipped)
			r.observe(sc, s, path, StateSkipped)
			return nil
		}
		if rec.Name, err = sc.text(ctx, s.Name); err != nil {
			return r.unprepared(ctx, sc, rec, path, s, err)
		}
		r.observe(sc, s, path, StateRunning)
	}
	for {
		f, err := r.try(ctx, sc, rec, path, s)
		if f == nil {
			if ctx.Err() != nil && r.cut == "" {
				r.cut = path
			}
			r.close(ctx, rec, err)
			return err
		}
		f = sc.place(f, path, s)
		if s.OnError != nil {
			return r.onError(ctx, sc, rec, path, s, f)
		}
		policy := onHalt(sc, rec, s)
		if policy == "" && r.prog.OnFailure == program.OnFailureAsk && !sc.silent && !sc.caught && leaf(s) {
			policy = program.OnFailureAsk
		}
		if policy == program.OnFailureAsk {
			choice, err := r.ask(ctx, sc, rec, path, s, f)
			switch {
			case err != nil:
				r.close(ctx, rec, err)
				return err
			case choice == AnswerRetry:
				rec.Again = rec.Halted == haltGate && r.newer(ctx, changeGate)
				now := workflow.Now(ctx)
				rec.State, rec.Failure, rec.Start, rec.Limit, rec.Until, rec.Halted = StateRunning, nil, &now, nil, nil, ""
				continue
			case choice == AnswerContinue:
				rec.goOn()
				rec.State, rec.Failure, rec.Limit = StateRunning, nil, nil
				continue
			case choice == AnswerSkip:
				if rec.Halted != "" {
					if err := r.leave(ctx, sc, rec, path, s); err != nil {
						return r.failed(ctx, rec, sc.place(asFailure(err), path, s))
					}
				}
				rec.Message = "skipped by an operator after: " + f.Message
				r.end(ctx, rec, StateHandled)
				return nil
			}
			policy = choice
		}
		if policy != "" { // else it keeps what an inner step says
			f.Then = policy
		}
		return r.failed(ctx, rec, f)
	}
}

// unprepared ends a step whose `if:` or `name:` cannot be evaluated.
func (r *run) unprepared(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step, err error) error {
	f := sc.place(asFailure(err), path, s)
	if s.OnError != nil {
		return r.onError(ctx, sc, rec, path, s, f)
	}
	return r.failed(ctx, rec, f)
}

// try does what the step's form says and completes the step. f is nil if it did
// not fail. What has failed in an earlier run of the execution is not done
// again: what follows from its failure goes on.
func (r *run) try(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step) (f *Failure, err error) {
	if rec.Failure != nil && !rec.Back {
		return rec.Failure, nil
	}
	if s.OnError != nil {
		inner := *sc
		inner.caught = true
		err = r.form(ctx, &inner, rec, path, s)
	} else {
		err = r.form(ctx, sc, rec, path, s)
	}
	if err == nil {
		err = r.complete(ctx, sc, rec, path, s)
	}
	errors.As(err, &f)
	return f, err
}

// leaf tells whether a step has no steps of its own.
func leaf(s *program.Step) bool {
	switch s.Kind {
	case program.KindBlock, program.KindForEach, program.KindRepeat, program.KindParallel:
		return false
	}
	return true
}

// place completes a failure with where it happened; what is known is kept, so
// that the innermost step names itself.
func (sc *scope) place(f *Failure, path string, s *program.Step) *Failure {
	if f.Step != "" {
		return f
	}
	f.Step = path
	f.Runbook, f.File = sc.prog.Runbook, sc.prog.File
	if f.Pos.Line == 0 {
		f.Pos = s.Pos
	}
	if f.Action == "" {
		f.Action = string(s.Kind)
		if s.Call != nil {
			f.Action = s.Call.Action
		}
	}
	return f
}

// recall puts the outputs of a step that has run in an earlier run of the
// execution back into scope.
func (r *run) recall(sc *scope, rec *record, s *program.Step) error {
	left := rec.State == StateHandled && rec.Halted != "" // an operator left it with what it had
	if (rec.State == StateSucceeded || left) && rec.Out != nil {
		v, err := expr.FromJSON(rec.Out, s.Type)
		if err != nil {
			return sc.fail(action.Internal, s.Pos, "recorded outputs of step %s: %v", s.ID, err)
		}
		sc.steps[s.ID] = v
	}
	// The steps inside a block or branch are seen from outside as well.
	switch {
	case rec.State == StateSkipped:
	case s.Kind == program.KindBlock:
		return r.recallAll(sc, rec, s.Steps)
	case s.Kind == program.KindParallel:
		for _, b := range s.Branches {
			if branch := rec.Sub[b.Name]; branch != nil {
				if err := r.recallAll(sc, branch, b.Steps); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// recallAll recalls what has completed of some steps, inside a block that has
// not as well.
func (r *run) recallAll(sc *scope, rec *record, steps []program.Step) error {
	for i := range steps {
		inner := rec.Sub[steps[i].ID]
		if inner == nil {
			continue
		}
		if err := r.recall(sc, inner, &steps[i]); err != nil {
			return err
		}
	}
	return nil
}

// skips says why a step is skipped, or "".
func (r *run) skips(ctx workflow.Context, sc *scope, s *program.Step) (string, error) {
	for _, id := range s.SkipUnless {
		if _, ran := sc.steps[id]; !ran {
			return "step " + id + " did not complete", nil
		}
	}
	if s.If == nil {
		return "", nil
	}
	yes, err := sc.truth(ctx, s.If)
	if err != nil || yes {
		return "", err
	}
	return "if: " + abridged(s.If.Text, 80) + " is false", nil
}

// complete puts a step's outputs in scope and ends it.
func (r *run) complete(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step) error {
	if !r.read[s.ID] && len(s.Outputs) == 0 {
		rec.Out, rec.Results = nil, nil
		r.end(ctx, rec, StateSucceeded)
		return nil
	}
	v, known := any(map[string]any{}), rec.Out != nil
	if known {
		var err error
		if v, err = expr.FromJSON(rec.Out, s.Type); err != nil {
			return sc.fail(action.Internal, s.Pos, "outputs: %v", err)
		}
	}
	if len(s.Outputs) > 0 && s.Kind != program.KindForEach && s.Kind != program.KindRepeat {
		more, err := sc.with("result", v).outputs(ctx, s.Outputs)
		if err != nil {
			return err
		}
		merged := maps.Clone(v.(map[string]any))
		maps.Copy(merged, more)
		v = merged
		if rec.Out, err = expr.ToJSON(v); err != nil {
			return sc.fail(action.Internal, s.Pos, "outputs: %v", err)
		}
	}
	sc.steps[s.ID] = v
	r.completeCustom(sc, rec, path, s)
	if !r.read[s.ID] {
		rec.Out = nil
	} else if rec.Out == nil {
		rec.Out = json.RawMessage("{}")
	}
	rec.Results = nil // they are in Out
	r.end(ctx, rec, StateSucceeded)
	return nil
}

// end marks a step as ended.
func (r *run) end(ctx workflow.Context, rec *record, state string) {
	now := workflow.Now(ctx)
	rec.State, rec.End = state, &now
	r.dirty = true
}

// failed ends a step with a failure.
func (r *run) failed(ctx workflow.Context, rec *record, f *Failure) error {
	rec.Message = firstLine(f.Message)
	rec.Failure = f
	r.end(ctx, rec, StateFailed)
	return f
}

// close ends a step that neither completed nor failed.
func (r *run) close(ctx workflow.Context, rec *record, err error) {
	var stop *stopped
	switch {
	case err == nil || errors.Is(err, errHalted) && r.draining:
	case errors.As(err, &stop):
		r.end(ctx, rec, StateSucceeded)
	default:
		rec.Message = ""
		r.end(ctx, rec, StateCancelled)
	}
}

// onError does what the step says about its failure.
func (r *run) onError(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step, f *Failure) error {
	rec.Message, rec.Failure = firstLine(f.Message), f
	if !s.OnError.Continue {
		inner := sc.with("error", map[string]any{"kind": f.Kind, "message": f.Message, "step": f.Step})
		if err := r.list(ctx, inner, rec.sub("on_error"), path+".on_error.", s.OnError.Steps); err != nil {
			var second *Failure
			if errors.As(err, &second) {
				if second.Cause == nil && second != f {
					second.Cause = f
				}
				return r.failed(ctx, rec, second)
			}
			r.close(ctx, rec, err)
			return err
		}
	}
	r.end(ctx, rec, StateHandled)
	r.observe(sc, s, path, StateHandled)
	return nil
}

func firstLine(s string) string {
	for i, c := range s {
		if c == '\n' {
			return s[:i]
		}
	}
	return abridged(s, 300)
}

// form does what the step's form says.
func (r *run) form(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step) error {
	outer := sc
	if s.Rollback != nil && !sc.silent {
		if !rec.Back {
			if err := r.recordCustom(ctx, outer, rec, path, s); err != nil {
				return err
			}
		}
		inner := *sc
		inner.silent = true
		sc = &inner
	}
	if s.Kind == program.KindAction {
		return r.call(ctx, sc, rec, path, s)
	}
	retries, err := r.retries(ctx, sc, s.Retry)
	if err != nil {
		return err
	}
	for {
		if rec.Try == 0 {
			rec.Try = 1
		}
		if !rec.Back {
			err := r.limited(ctx, sc, rec, path, s)
			var f *Failure
			if !errors.As(err, &f) || s.Retry == nil || rec.Try >= retries.attempts || !retries.again(f.Kind) {
				return err
			}
			next := workflow.Now(ctx).Add(retries.backoff(rec.Try))
			rec.Back, rec.Failure, rec.Until = true, f, &next
			rec.Message = fmt.Sprintf("attempt %d of %d: %s", rec.Try, retries.attempts, firstLine(f.Message))
			r.dirty = true
		}
		// What this attempt has done is taken back before the next begins, even if
		// somebody cancels meanwhile.
		calm, _ := workflow.NewDisconnectedContext(ctx)
		if err := r.rollback(calm, path); err != nil {
			return err
		}
		if err := r.sleepUntil(ctx, sc, *rec.Until, "retry "+path); err != nil {
			return err
		}
		*rec = record{State: StateRunning, Name: rec.Name, Start: rec.Start, Try: rec.Try + 1, Gen: rec.Gen}
		if err := r.recordCustom(ctx, outer, rec, path, s); err != nil {
			return err
		}
	}
}

// limited runs a form within the step's timeout.
func (r *run) limited(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step) error {
	limit, err := sc.duration(ctx, s.Timeout, 0)
	if err != nil {
		return err
	}
	if s.Timeout == nil {
		return r.once(ctx, sc, rec, path, s)
	}
	if rec.Limit == nil {
		t := workflow.Now(ctx).Add(limit)
		rec.Limit = &t
	}
	timedOut, err := within(ctx, rec.Limit.Sub(workflow.Now(ctx)), "timeout of "+path, func(ctx workflow.Context) error {
		return r.once(ctx, sc, rec, path, s)
	})
	if timedOut {
		r.cut = ""
		return sc.fail(action.Timeout, s.Pos, "took longer than its timeout (%s)", limit)
	}
	return err
}

func (r *run) once(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step) error {
	inner := attemptPath(rec, path) + "."
	switch s.Kind {
	case program.KindRunbook:
		return r.child(ctx, sc, rec, path, s)
	case program.KindBlock:
		return r.list(ctx, sc, rec, inner, s.Steps)
	case program.KindForEach:
		return r.forEach(ctx, sc, rec, path, s)
	case program.KindRepeat:
		return r.repeat(ctx, sc, rec, path, s)
	case program.KindParallel:
		return r.parallel(ctx, sc, rec, inner, s)
	case program.KindApproval:
		return r.approval(ctx, sc, rec, path, s)
	case program.KindPause:
		return r.pause(ctx, sc, rec, path, s)
	case program.KindWait, program.KindWaitUntil:
		return r.wait(ctx, sc, rec, path, s)
	case program.KindAssert:
		return r.assert(ctx, sc, s)
	case program.KindStop, program.KindFail:
		message, err := sc.text(ctx, s.Message)
		if err != nil {
			return err
		}
		if s.Kind == program.KindStop {
			return &stopped{message}
		}
		return sc.fail(action.Failed, s.Pos, "%s", message)
	}
	return sc.fail(action.Internal, s.Pos, "unknown form %q", s.Kind)
}

func (r *run) assert(ctx workflow.Context, sc *scope, s *program.Step) error {
	yes, err := sc.truth(ctx, s.Assert)
	if err != nil || yes {
		return err
	}
	message := "assertion is false: " + abridged(s.Assert.Text, 200)
	if s.Message != nil {
		if message, err = sc.text(ctx, s.Message); err != nil {
			return err
		}
	}
	return sc.fail(action.Failed, s.Assert.Pos, "%s", message)
}

// wait is `wait:` and `wait_until:`.
func (r *run) wait(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step) error {
	if rec.Until == nil {
		var until time.Time
		if s.Kind == program.KindWait {
			d, err := sc.duration(ctx, s.Wait, 0)
			if err != nil {
				return err
			}
			until = rec.Start.Add(d)
		} else if err := sc.decode(ctx, s.Wait, &until, "a timestamp (RFC 3339)"); err != nil {
			return err
		}
		rec.Until = &until
	}
	rec.State = StateWaiting
	rec.Message = "until " + rec.Until.UTC().Format(time.RFC3339)
	r.dirty = true
	if err := r.sleepUntil(ctx, sc, *rec.Until, path); err != nil {
		return err
	}
	rec.Message = ""
	return nil
}

// sleep waits for d, or until the body is halted or cancelled.
func (r *run) sleep(ctx workflow.Context, sc *scope, d time.Duration, summary string) error {
	return r.sleepUntil(ctx, sc, workflow.Now(ctx).Add(d), summary)
}

func (r *run) sleepUntil(ctx workflow.Context, sc *scope, t time.Time, summary string) error {
	_, err := r.await(ctx, sc, &t, summary, func() bool { return false })
	return err
}

// await blocks until cond is true (and returns true), or the deadline passes
// (false; nil is no deadline). It returns errHalted if the body has to be left.
func (r *run) await(ctx workflow.Context, sc *scope, deadline *time.Time, summary string, cond func() bool) (bool, error) {
	r.paint(ctx)
	fired := false
	if deadline != nil {
		d := deadline.Sub(workflow.Now(ctx))
		if d <= 0 {
			return cond(), ctx.Err()
		}
		tctx, cancel := workflow.WithCancel(ctx)
		defer cancel()
		timer := workflow.NewTimerWithOptions(tctx, d, workflow.TimerOptions{Summary: summary})
		workflow.Go(tctx, func(ctx workflow.Context) { fired = timer.Get(ctx, nil) == nil })
	}
	err := workflow.Await(ctx, func() bool { return cond() || fired || r.drain(ctx) || sc.group.stopped() })
	switch {
	case err != nil:
		return false, err
	case cond():
		return true, nil
	case fired:
		return false, nil
	case ctx.Err() != nil:
		// It came in the very task that ends this run. The next would not know of it.
		return false, ctx.Err()
	}
	return false, errHalted
}

// repeat runs the steps until the condition holds.
func (r *run) repeat(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step) error {
	attempts, err := sc.integer(ctx, s.Repeat.Attempts, 0)
	if err != nil {
		return err
	}
	every, err := sc.duration(ctx, s.Repeat.Every, 0)
	if err != nil {
		return err
	}
	rec.Total = attempts
	for {
		if rec.Until != nil {
			if err := r.sleepUntil(ctx, sc, *rec.Until, path+" again"); err != nil {
				return err
			}
			rec.Until = nil
		}
		if err := r.boundary(ctx, sc); err != nil {
			return err
		}
		key := iterationKey(rec, rec.Done)
		inner := sc.nested()
		inner.names["index"] = int64(rec.Done)
		l := loop{index: rec.Done}
		if sc.loop != nil {
			l.step, l.item = sc.loop.step, sc.loop.item
		}
		inner.loop = &l
		if err := r.list(ctx, inner, rec.sub(key), path+key+".", s.Steps); err != nil {
			return err
		}
		met, err := inner.truth(ctx, &s.Repeat.Until)
		if err != nil {
			return err
		}
		delete(rec.Sub, key)
		rec.Done++
		r.dirty = true
		if met {
			// What the last pass gave is what the step's outputs are made of.
			out, err := inner.outputs(ctx, s.Outputs)
			if err != nil {
				return err
			}
			out["attempts"] = int64(rec.Done)
			rec.Out, err = expr.ToJSON(out)
			return err
		}
		if attempts > 0 && rec.Done >= attempts {
			return sc.fail(action.Failed, s.Repeat.Until.Pos, "not true after %d attempts: %s", attempts, abridged(s.Repeat.Until.Text, 200))
		}
		if every > 0 {
			next := workflow.Now(ctx).Add(every)
			rec.Until = &next
		}
	}
}

// parallel runs the branches side by side.
func (r *run) parallel(ctx workflow.Context, sc *scope, rec *record, prefix string, s *program.Step) error {
	inner := *sc
	inner.group = &group{parent: sc.group}
	errs := make([]error, len(s.Branches))
	fanout(ctx, len(s.Branches), sequence(len(s.Branches)), func(ctx workflow.Context, i int) {
		b := &s.Branches[i]
		branch := rec.sub(b.Name)
		if branch.Start == nil {
			now := workflow.Now(ctx)
			branch.Start, branch.State = &now, StateRunning
		}
		errs[i] = r.list(ctx, &inner, branch, prefix+b.Name+".", b.Steps)
		switch {
		case errs[i] == nil:
			r.end(ctx, branch, StateSucceeded)
		case errors.Is(errs[i], errHalted):
		default:
			branch.Message = firstLine(errs[i].Error())
			r.end(ctx, branch, StateFailed)
			inner.group.halted = true
		}
	})
	return worst(ctx, errs)
}

// worst picks the error that decides: a failure or stop over a cancellation,
// over having been halted; the first of its sort.
func worst(ctx workflow.Context, errs []error) error {
	var halted error
	for _, err := range errs {
		var f *Failure
		var stop *stopped
		switch {
		case errors.As(err, &f) || errors.As(err, &stop):
			return err
		case err != nil && halted == nil:
			halted = err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return halted
}

// sequence returns a source of 0 … n-1.
func sequence(n int) func() (int, bool) {
	next := 0
	return func() (int, bool) {
		if next >= n {
			return 0, false
		}
		next++
		return next - 1, true
	}
}

// fanout calls fn for what next yields, at most limit at a time, and returns
// when all have returned. One at a time needs no coroutine.
func fanout(ctx workflow.Context, limit int, next func() (int, bool), fn func(workflow.Context, int)) {
	if limit <= 1 {
		for i, ok := next(); ok; i, ok = next() {
			fn(ctx, i)
		}
		return
	}
	wg := workflow.NewWaitGroup(ctx)
	for range limit {
		i, ok := next()
		if !ok {
			break
		}
		wg.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer wg.Done()
			for ok := true; ok; i, ok = next() {
				fn(ctx, i)
			}
		})
	}
	wg.Wait(ctx)
}

// forEach runs the steps for each item.
func (r *run) forEach(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step) error {
	items, err := r.items(ctx, sc, s)
	if err != nil {
		return err
	}
	limit, err := sc.limit(ctx, s.ForEach.MaxConcurrency, one)
	if err != nil {
		return err
	}
	tolerated, err := sc.limit(ctx, s.ForEach.MaxErrors, none)
	if err != nil {
		return err
	}
	rec.Total = len(items)
	if len(s.Outputs) > 0 && rec.Results == nil {
		rec.Results = make([]json.RawMessage, len(items))
	}
	most := tolerated.Errors(len(items))

	inner := *sc
	inner.group = &group{parent: sc.group}
	var bad, left []error // failures; a stop or a cancellation
	fanout(ctx, limit.AtOnce(len(items)), r.remaining(ctx, &inner, rec, len(items)), func(ctx workflow.Context, i int) {
		err := r.iteration(ctx, &inner, rec, path, s, i, items[i])
		if errors.Is(err, errHalted) {
			return // it stays in rec.Open
		}
		rec.Open = slices.DeleteFunc(rec.Open, func(o int) bool { return o == i })
		r.dirty = true
		var f *Failure
		switch {
		case err == nil:
			rec.Done++
		case errors.As(err, &f):
			rec.Errors++
			bad = append(bad, err)
			if rec.Errors > most {
				inner.group.halted = true
			}
		default:
			left = append(left, err)
			inner.group.halted = true
		}
	})
	if rec.Errors <= most {
		bad = nil // tolerated
	}
	if err := worst(ctx, append(bad, left...)); err != nil {
		return err
	}
	if len(rec.Open) > 0 || rec.Next < len(items) {
		return errHalted
	}
	out := map[string]any{"succeeded": int64(rec.Done), "failed": int64(rec.Errors)}
	if rec.Out, err = expr.ToJSON(out); err != nil {
		return err
	}
	if len(s.Outputs) > 0 {
		results := []byte{'['}
		for _, raw := range rec.Results {
			if missing(raw) {
				continue // it failed, and that was tolerated
			}
			if len(results) > 1 {
				results = append(results, ',')
			}
			results = append(results, raw...)
		}
		rec.Out = append(append(append(rec.Out[:len(rec.Out)-1:len(rec.Out)-1], `,"results":`...), results...), ']', '}')
	} else {
		rec.Out = append(rec.Out[:len(rec.Out)-1:len(rec.Out)-1], `,"results":[]}`...)
	}
	rec.Results = nil
	return nil
}

// remaining yields the indexes that have not ended: those left open by an
// earlier run, then the new ones; none once the body has to be left.
func (r *run) remaining(ctx workflow.Context, sc *scope, rec *record, total int) func() (int, bool) {
	open := slices.Clone(rec.Open)
	return func() (int, bool) {
		if r.boundary(ctx, sc) != nil {
			return 0, false
		}
		if len(open) > 0 {
			i := open[0]
			open = open[1:]
			return i, true
		}
		if rec.Next >= total {
			return 0, false
		}
		i := rec.Next
		rec.Next++
		rec.Open = append(rec.Open, i)
		return i, true
	}
}

func (r *run) iteration(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step, i int, item json.RawMessage) error {
	v, err := expr.FromJSON(item, s.ForEach.ItemType)
	if err != nil {
		return sc.place(sc.fail(action.Invalid, s.Pos, "item %d: %v", i, err), path, s)
	}
	inner := sc.nested()
	inner.names["item"], inner.names["index"] = v, int64(i)
	inner.loop = &loop{step: s.ID, item: item, index: i}
	key := iterationKey(rec, i)
	sub := rec.sub(key)
	if err := r.list(ctx, inner, sub, path+key+".", s.Steps); err != nil {
		if asFailed := new(Failure); errors.As(err, &asFailed) && rec.Errors >= mostShown {
			delete(rec.Sub, key)
		}
		return err
	}
	if len(s.Outputs) > 0 {
		out, err := inner.outputs(ctx, s.Outputs)
		if err != nil {
			return sc.place(asFailure(err), path, s)
		}
		if rec.Results[i], err = expr.ToJSON(out); err != nil {
			return err
		}
	}
	delete(rec.Sub, key)
	return nil
}

// attemptPath is the path of one attempt at a step.
func attemptPath(rec *record, path string) string {
	if rec.Try > 1 {
		return fmt.Sprintf("%s#%d", path, rec.Try)
	}
	return path
}

// iterationKey is an iteration's place in the path, other in each attempt at the loop.
func iterationKey(rec *record, i int) string {
	return attemptPath(rec, fmt.Sprintf("[%d]", i))
}

// items evaluates what a loop goes over, as JSON values.
func (r *run) items(ctx workflow.Context, sc *scope, s *program.Step) ([]json.RawMessage, error) {
	raw, err := sc.raw(ctx, &s.ForEach.Items)
	if err != nil {
		return nil, err
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) == nil {
		return list, nil
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, sc.fail(action.Invalid, s.Pos, "have %s, want a list or a map to loop over", abridged(string(raw), 100))
	}
	for _, key := range workflow.DeterministicKeys(m) {
		item, err := json.Marshal(map[string]any{"key": key, "value": m[key]})
		if err != nil {
			return nil, err
		}
		list = append(list, item)
	}
	return list, nil
}

// child runs another runbook as a child workflow.
func (r *run) child(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step) error {
	input, err := sc.object(ctx, s.Child.With, rec.With)
	if err != nil {
		return err
	}
	var inputs map[string]json.RawMessage
	if err := json.Unmarshal(input, &inputs); err != nil {
		return err
	}
	p := r.programs[s.Child.Runbook]
	if p == nil {
		return sc.fail(action.Internal, s.Pos, "the program of runbook %s is missing", s.Child.Runbook)
	}
	start := Start{Program: r.withChildren(p), Inputs: inputs, Caller: r.start.Caller, Only: r.start.Only, Within: r.within()}
	size, err := r.size(start.Program)
	if err != nil {
		return err
	}
	if size += len(input); size > mostPayload {
		return sc.fail(action.Invalid, s.Pos, "runbook %s and its inputs are %d bytes, over the limit of %d", p.Runbook, size, mostPayload)
	}
	if err := r.admit(ctx, size); err != nil {
		return err
	}
	rec.Gen++
	rec.Child = identifier(r.id + "/" + activityID(path, "", rec.Gen))
	r.dirty = true
	cctx := workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:            rec.Child,
		WaitForCancellation:   true,
		ParentClosePolicy:     parentClose,
		TypedSearchAttributes: Attributes(p.Runbook, r.start.Caller),
		StaticSummary:         bounded(p.Summary),
		StaticDetails:         p.Details,
	})
	r.paint(ctx)
	var result Result
	err = workflow.ExecuteChildWorkflow(cctx, p.Runbook, start).Get(ctx, &result)
	r.inflight--
	if rec.Gen > 1 && r.newer(ctx, changeAttempt) {
		path = activityID(path, "", rec.Gen)
	}
	if err != nil {
		return r.childFailed(ctx, sc, path, s, p, err)
	}
	r.inherit(result.Keys)
	if err := r.takeOver(sc, path, &result); err != nil {
		return err
	}
	rec.Out, err = json.Marshal(result.Outputs)
	if result.Outputs == nil {
		rec.Out = json.RawMessage("{}")
	}
	return err
}

// takeOver records what a child runbook leaves to its caller to take back, and
// what it could not take back itself.
func (r *run) takeOver(sc *scope, path string, result *Result) error {
	theirs := func(raw json.RawMessage) (us []*undo, keys []string, err error) {
		if len(raw) == 0 {
			return nil, nil, nil
		}
		us, keys, err = unpackUndo(raw)
		for _, u := range us {
			u.Path = path + "/" + u.Path
		}
		return us, keys, err
	}
	handed, _, err := theirs(result.Undo)
	if err != nil {
		return err
	}
	left, keys, err := theirs(result.Left)
	if err != nil {
		return err
	}
	if sc.silent { // of what it has not tried a `rollback:` above takes care
		left = slices.DeleteFunc(left, func(u *undo) bool { return u.Message == "" })
	}
	both := slices.Concat(handed, left)
	slices.SortStableFunc(both, byNumber)
	r.state.record(both...)
	if !sc.silent {
		r.state.Undo = append(r.state.Undo, handed...)
	}
	slices.Reverse(left) // as they would have been tried
	r.state.Left = append(r.state.Left, left...)
	r.state.LeftKeys = append(r.state.LeftKeys, keys...)
	slices.Sort(r.state.LeftKeys)
	r.state.LeftKeys = slices.Compact(r.state.LeftKeys)
	return nil
}

func (r *run) childFailed(ctx workflow.Context, sc *scope, path string, s *program.Step, p *program.Program, err error) error {
	f := sc.fail(action.Failed, s.Pos, "runbook %s: %v", p.Runbook, err)
	f.Action = p.Runbook
	var app *temporal.ApplicationError
	var cancelled *temporal.CanceledError
	var theirs Result
	switch {
	case errors.As(err, &app) && app.HasDetails() && app.Details(&theirs) == nil,
		errors.As(err, &cancelled) && cancelled.HasDetails() && cancelled.Details(&theirs) == nil:
		f.Message = fmt.Sprintf("runbook %s ended as %s", p.Runbook, theirs.Outcome)
		if theirs.Failure != nil {
			f.Message += ": " + firstLine(theirs.Failure.Message)
			f.Kind = theirs.Failure.Kind
		}
		f.Cause = theirs.Failure
	}
	r.state.LeftBehind = append(r.state.LeftBehind, theirs.NotRolledBack...)
	r.inherit(theirs.Keys)
	if uerr := r.takeOver(sc, path, &theirs); uerr != nil {
		return uerr
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return f
}

// size is that of a child's program, with the programs it calls, as JSON.
func (r *run) size(p *program.Program) (int, error) {
	if n, ok := r.sizes[p.Runbook]; ok {
		return n, nil
	}
	raw, err := json.Marshal(p)
	if r.sizes == nil {
		r.sizes = map[string]int{}
	}
	r.sizes[p.Runbook] = len(raw)
	return len(raw), err
}

// withChildren returns p with the programs that it calls.
func (r *run) withChildren(p *program.Program) *program.Program {
	needed := map[string]*program.Program{}
	var collect func(*program.Program)
	collect = func(p *program.Program) {
		each(p, func(s *program.Step) {
			if s.Child != nil && needed[s.Child.Runbook] == nil && r.programs[s.Child.Runbook] != nil {
				needed[s.Child.Runbook] = r.programs[s.Child.Runbook]
				collect(needed[s.Child.Runbook])
			}
		})
	}
	collect(p)
	whole := *p
	whole.Children = needed
	return &whole
}
