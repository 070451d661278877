package workflows

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/lang/expr"
	"github.com/almanac-run/almanac/lang/program"
)

// compensationTimeout bounds one attempt at a compensation.
const compensationTimeout = time.Hour

// rollback runs the compensations recorded below a path ("" is all), last
// first. It goes on past one that fails: one step that cannot be taken back is
// no reason to leave the others in place. It returns errHalted or nil.
func (r *run) rollback(ctx workflow.Context, below string) error {
	for {
		i := r.lastUndo(below)
		if i < 0 {
			return nil
		}
		first := i
		// The nodes of one step are independent of each other.
		for first > 0 && r.state.Undo[first-1].Path == r.state.Undo[i].Path && r.state.Undo[i].Target != "" && below == "" {
			first--
		}
		group := slices.Clone(r.state.Undo[first : i+1])
		nodes := perTarget(group)
		if err := r.boundary(ctx, r.scope.detached()); err != nil {
			return err
		}
		halted := false
		all := sequence(len(nodes))
		next := func() (int, bool) {
			// Where there are thousands, the history is cut between them.
			if r.drain(ctx) && r.newer(ctx, changeCut) {
				halted = true
				return 0, false
			}
			return all()
		}
		fanout(ctx, min(len(nodes), 50), next, func(ctx workflow.Context, i int) {
			for _, u := range nodes[i] {
				if u.State == StateRolledBack || u.State == StateNotRolledBack {
					continue
				}
				if r.takeBack(ctx, u) != nil {
					halted = true
					return
				}
			}
		})
		if halted {
			return errHalted
		}
		// Bodies beside this one may have recorded and dropped others meanwhile.
		r.state.Undo = slices.DeleteFunc(r.state.Undo, func(u *undo) bool { return slices.Contains(group, u) })
	}
}

// perTarget sorts compensations by node, each node's last first: the attempts
// at one step on one node build on each other.
func perTarget(group []*undo) [][]*undo {
	var nodes [][]*undo
	at := map[string]int{}
	for _, u := range slices.Backward(group) {
		i, ok := at[u.Target]
		if !ok {
			i = len(nodes)
			at[u.Target] = i
			nodes = append(nodes, nil)
		}
		nodes[i] = append(nodes[i], u)
	}
	return nodes
}

// detached is the scope without its group: rollback belongs to no body.
func (sc *scope) detached() *scope {
	d := *sc
	d.group, d.silent = nil, true
	return &d
}

func (r *run) lastUndo(below string) int {
	for i := len(r.state.Undo) - 1; i >= 0; i-- {
		p := r.state.Undo[i].Path
		if below == "" || p == below || strings.HasPrefix(p, below) && strings.ContainsAny(p[len(below):len(below)+1], ".[#/") {
			return i
		}
	}
	return -1
}

// takeBack runs one compensation and notes how it went.
func (r *run) takeBack(ctx workflow.Context, u *undo) error {
	if u.Start == nil {
		now := workflow.Now(ctx)
		u.Start, u.State, u.Message = &now, StateRollingBack, ""
		r.state.Taken = append(r.state.Taken, u)
		r.dirty = true
	}
	ctx, ended := r.watchedUndo(ctx, u)
	defer ended()
	var err error
	if u.Custom != nil {
		err = r.takeBackCustom(ctx, u)
	} else {
		err = r.compensate(ctx, u)
	}
	if errors.Is(err, errHalted) {
		return err
	}
	if err != nil {
		r.keepFailed(u, err)
	}
	now := workflow.Now(ctx)
	u.End, u.State = &now, StateRolledBack
	u.Input, u.Output, u.Sub = nil, nil, nil // not needed to show it
	if u.Custom != nil {
		u.Custom = &custom{Step: u.Custom.Step}
	}
	r.dirty = true
	name := u.Path
	if u.Target != "" {
		name += "@" + u.Target
	}
	if err == nil {
		if end := r.state.End; end != nil {
			end.RolledBack = append(end.RolledBack, name)
		}
		r.trim()
		return nil
	}
	f := asFailure(err)
	if f.Step == "" {
		f.Step, f.Pos, f.Runbook = u.Path, u.Pos, u.Runbook
		if p := r.programs[u.Runbook]; p != nil {
			f.File = p.File
		}
	}
	u.State, u.Message = StateNotRolledBack, firstLine(f.Message)
	if end := r.state.End; end != nil && len(end.NotRolledBack) > mostShown || len(r.state.LeftBehind) > mostShown {
		f = f.brief()
	}
	if end := r.state.End; end != nil {
		end.NotRolledBack = append(end.NotRolledBack, f)
	} else {
		r.state.LeftBehind = append(r.state.LeftBehind, f)
	}
	return nil
}

// keepFailed keeps a compensation that has failed, so that it can be tried again in
// an execution of its own. Of a `rollback:` of several steps those that have
// succeeded are not run again.
func (r *run) keepFailed(u *undo, err error) {
	left := *u
	left.State, left.Start, left.End, left.Message = "", nil, nil, firstLine(err.Error())
	if u.Sub != nil {
		left.Sub = nil
		if s := find(r.programs[u.Runbook], u.Custom.Step); s != nil {
			left.Sub = whatIsDone(u.Sub, s.Rollback.Steps)
		}
	}
	r.state.Left = append(r.state.Left, &left)
}

// whatIsDone keeps of the record of some steps those that are done, also of blocks that are not.
func whatIsDone(rec *record, steps []program.Step) *record {
	kept := &record{Sub: map[string]*record{}}
	for i := range steps {
		switch id := steps[i].ID; {
		case rec.Sub[id] == nil:
		case rec.Sub[id].done():
			kept.Sub[id] = rec.Sub[id]
		case steps[i].Kind == program.KindBlock:
			kept.Sub[id] = whatIsDone(rec.Sub[id], steps[i].Steps)
		}
	}
	return kept
}

// tellLeft adds to a result what has failed to be taken back, and what nobody has
// tried to, if it fits.
func (r *run) tellLeft(ctx workflow.Context, end *Result, untried []*undo) error {
	left := slices.Concat(untried, r.state.Left)
	slices.Reverse(left[len(untried):]) // the last was tried first
	slices.SortStableFunc(left, byNumber)
	if len(left) == 0 {
		return nil
	}
	keys := slices.Clone(r.state.LeftKeys)
	for _, h := range r.state.Keys {
		if h.Held && strings.HasPrefix(h.Key, lockPrefix) {
			keys = append(keys, h.Key)
		}
	}
	slices.Sort(keys)
	if workflow.GetInfo(ctx).ParentWorkflowExecution != nil {
		r.selfContained(left)
	} else {
		r.signed(left) // what takes it back has the same inputs and vars
	}
	raw, err := json.Marshal(&State{Undo: left, Recorded: r.state.Recorded, Vars: r.state.Vars, LeftKeys: slices.Compact(keys)})
	if err != nil {
		return err
	}
	whole, err := json.Marshal(end)
	if err != nil {
		return err
	}
	// It travels in this result, and beside the program in the start of what takes it back.
	next, err := json.Marshal(&Start{Inputs: r.start.Inputs, Only: r.start.Only, TakeBack: &TakeBack{Program: r.prog, Left: raw}})
	if err != nil {
		return err
	}
	if len(whole)+len(raw) <= mostPayload && len(next) <= mostPayload {
		end.Left, end.LeftCount = raw, len(left)
	}
	return nil
}

// byNumber is the order in which compensations were recorded.
func byNumber(a, b *undo) int { return cmp.Compare(a.Number, b.Number) }

// trim keeps what is shown of a long rollback small: of those that went well,
// the last hundred.
func (r *run) trim() {
	const most = 200
	if len(r.state.Taken) <= most {
		return
	}
	drop := len(r.state.Taken) - most/2
	kept := r.state.Taken[:0:0]
	for i, u := range r.state.Taken {
		if i >= drop || u.State != StateRolledBack {
			kept = append(kept, u)
		}
	}
	r.state.Taken = kept
}

// compensate calls the compensation that the action declares, with retries of
// its own: what passes by itself is waited for.
func (r *run) compensate(ctx workflow.Context, u *undo) error {
	id := "undo." + activityID(u.Path, u.Target, 1) + "." + u.Token[:6]
	policy := usual.policy()
	options := workflow.ActivityOptions{
		StartToCloseTimeout: compensationTimeout,
		HeartbeatTimeout:    heartbeat,
		RetryPolicy:         policy,
		Summary:             "take back " + summary(&record{Name: u.Name}, u.Path, u.Target),
	}
	output := u.Output
	if output == nil || len(u.Input)+len(output) > mostPayload {
		// Too large for one message: the token has to do.
		output = json.RawMessage("null")
	}
	// A node that is away for a moment is waited for longer than by a step.
	args := at(&options, u.Target, u.Remote, 3*nodeAnswersIn, u.Input, output)
	work := r.activity(ctx, options, CompensatePrefix+u.Action, id, u.Token, args...)
	if err := work.get(ctx, nil); err != nil {
		f := &Failure{Target: u.Target, Action: u.Action}
		f.fromActivity(err)
		return f
	}
	return nil
}

// forget drops a record whose effect certainly never began.
func (r *run) forget(u *undo) {
	if u != nil {
		r.state.Undo = slices.DeleteFunc(r.state.Undo, func(o *undo) bool { return o == u })
	}
}

// recordCustom records the `rollback:` of a step before the step begins; its
// values are completed when the step completes.
func (r *run) recordCustom(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step) error {
	if s.Rollback == nil || s.Rollback.None || sc.silent {
		return nil
	}
	if s.Kind != program.KindAction {
		path = attemptPath(rec, path)
	}
	for _, u := range r.state.Undo {
		if u.Custom != nil && u.Path == path {
			return nil // by an earlier run of the execution
		}
	}
	c := &custom{Step: s.ID, Steps: map[string]json.RawMessage{}}
	for _, id := range stepsRead(s.Rollback.Steps) {
		v, ok := sc.steps[id]
		if !ok {
			continue
		}
		raw, err := expr.ToJSON(v)
		if err != nil {
			return err
		}
		c.Steps[id] = raw
	}
	if sc.loop != nil {
		c.Item, c.Index, c.Loop = sc.loop.item, &sc.loop.index, sc.loop.step
	}
	u := &undo{Path: path, Name: rec.Name, Custom: c, Runbook: sc.prog.Runbook, Pos: s.Pos}
	r.state.record(u)
	r.state.Undo = append(r.state.Undo, u)
	return nil
}

// completeCustom adds what the step itself gave to the values of its rollback.
func (r *run) completeCustom(sc *scope, rec *record, path string, s *program.Step) {
	if s.Rollback == nil || s.Rollback.None || sc.silent {
		return
	}
	if s.Kind != program.KindAction {
		path = attemptPath(rec, path)
	}
	for _, u := range slices.Backward(r.state.Undo) {
		if u.Custom == nil || u.Path != path {
			continue
		}
		if rec.Out != nil && slices.Contains(stepsRead(s.Rollback.Steps), s.ID) {
			u.Custom.Steps[s.ID] = rec.Out
		}
		return
	}
}

// takeBackCustom runs the steps of a `rollback:` with the values of its moment.
func (r *run) takeBackCustom(ctx workflow.Context, u *undo) error {
	c := u.Custom
	p := r.programs[u.Runbook]
	s := find(p, c.Step)
	if s == nil || s.Rollback == nil {
		return fmt.Errorf("step %s of runbook %s is not in the program", c.Step, u.Runbook)
	}
	inputs, vars := r.scope.names["inputs"].(map[string]any), r.scope.names["vars"].(map[string]any)
	if p != r.prog || c.Inputs != nil {
		// Of another execution: a child's.
		maps.Copy(r.read, reads(p))
		var err error
		if inputs, err = typed(c.Inputs, p.Inputs, func(i program.Input) (string, program.Type) { return i.Name, i.Type }); err != nil {
			return err
		}
		if vars, err = typed(c.Vars, p.Vars, func(o program.Output) (string, program.Type) { return o.Name, o.Type }); err != nil {
			return err
		}
	}
	sc := newScope(ctx, r, p, inputs, vars)
	sc.silent = true
	if c.ID != "" {
		was := sc.names["execution"].(map[string]any)
		was["id"], was["started_at"] = c.ID, c.Began
	}
	for _, id := range workflow.DeterministicKeys(c.Steps) {
		of := find(p, id)
		if of == nil {
			continue
		}
		v, err := expr.FromJSON(c.Steps[id], of.Type)
		if err != nil {
			return err
		}
		sc.steps[id] = v
	}
	if c.Index != nil {
		sc.names["index"] = int64(*c.Index)
		if of := find(p, c.Loop); of != nil {
			v, err := expr.FromJSON(c.Item, of.ForEach.ItemType)
			if err != nil {
				return err
			}
			sc.names["item"] = v
		}
	}
	if u.Sub == nil {
		u.Sub = &record{}
	}
	return r.list(ctx, sc, u.Sub, u.Path+".rollback.", s.Rollback.Steps)
}

// handOver is what a child runbook that succeeded leaves to its caller.
func (r *run) handOver() []*undo { return r.selfContained(r.state.Undo) }

// selfContained makes compensations complete in themselves, for an execution of another runbook.
func (r *run) selfContained(us []*undo) []*undo {
	own := r.signed(us)
	if len(own) == 0 {
		return us
	}
	inputs := map[string]json.RawMessage{}
	for _, in := range r.prog.Inputs {
		if v, ok := r.scope.names["inputs"].(map[string]any)[in.Name]; ok {
			if raw, err := expr.ToJSON(v); err == nil {
				inputs[in.Name] = raw
			}
		}
	}
	for _, c := range own {
		c.Inputs, c.Vars = inputs, r.state.Vars
	}
	return us
}

// signed notes whose the `rollback:`s of this execution are, and returns those that were not noted yet.
func (r *run) signed(us []*undo) (own []*custom) {
	for _, u := range us {
		if u.Custom != nil && u.Custom.ID == "" && u.Runbook == r.prog.Runbook {
			u.Custom.ID, u.Custom.Began = r.id, r.state.StartedAt
			own = append(own, u.Custom)
		}
	}
	return own
}

func packUndo(us []*undo) (json.RawMessage, error) {
	return json.Marshal(&State{Undo: us})
}

func unpackUndo(raw json.RawMessage) (us []*undo, keys []string, err error) {
	var s State
	err = json.Unmarshal(raw, &s)
	return s.Undo, s.LeftKeys, err
}

// stepsRead lists the ids of steps that the expressions of steps mention, sorted.
func stepsRead(steps []program.Step) []string {
	found := map[string]bool{}
	mentions(steps, found)
	return workflow.DeterministicKeys(found)
}

// reads tells of which steps a program reads outputs: only those are kept.
func reads(p *program.Program) map[string]bool {
	found := map[string]bool{}
	ofOutputs(p.Vars, found)
	ofValue(p.Timeout, found)
	mentions(p.Steps, found)
	mentions(p.Finally, found)
	ofOutputs(p.Outputs, found)
	return found
}

// mentions adds the ids in steps.<id> in all expressions of steps and of those
// inside them. It runs at every start of every replay: it looks, and makes nothing.
func mentions(steps []program.Step, found map[string]bool) {
	for i := range steps {
		s := &steps[i]
		for _, id := range s.SkipUnless {
			found[id] = true
		}
		ofExpr(s.If, found)
		ofExpr(s.Assert, found)
		for _, v := range []*program.Value{s.Name, s.Timeout, s.Wait, s.Message} {
			ofValue(v, found)
		}
		ofOutputs(s.Outputs, found)
		if r := s.Retry; r != nil {
			for _, v := range []*program.Value{r.Attempts, r.Backoff, r.MaxBackoff, r.Factor} {
				ofValue(v, found)
			}
		}
		if c := s.Call; c != nil {
			ofEntries(c.With, found)
			ofExpr(c.Until, found)
			ofValue(c.Every, found)
		}
		if t := s.Targets; t != nil {
			ofExpr(t.Where, found)
			ofExpr(t.Gate, found)
			for _, v := range []*program.Value{t.Nodes, t.MaxConcurrency, t.MaxErrors, t.Bake} {
				ofValue(v, found)
			}
			ofValues(t.Batches, found)
		}
		if s.Child != nil {
			ofEntries(s.Child.With, found)
		}
		if f := s.ForEach; f != nil {
			ofValue(&f.Items, found)
			ofValue(f.MaxConcurrency, found)
			ofValue(f.MaxErrors, found)
		}
		if r := s.Repeat; r != nil {
			ofExpr(&r.Until, found)
			ofValue(r.Every, found)
			ofValue(r.Attempts, found)
		}
		if a := s.Approval; a != nil {
			ofValue(&a.Message, found)
			for _, v := range []*program.Value{a.Approvers, a.Quorum, a.Timeout} {
				ofValue(v, found)
			}
		}
		mentions(s.Steps, found)
		for b := range s.Branches {
			mentions(s.Branches[b].Steps, found)
		}
		if s.OnError != nil {
			mentions(s.OnError.Steps, found)
		}
		if s.Rollback != nil {
			mentions(s.Rollback.Steps, found)
		}
	}
}

func ofOutputs(outs []program.Output, found map[string]bool) {
	for i := range outs {
		ofValue(&outs[i].Value, found)
	}
}

func ofEntries(entries []program.Entry, found map[string]bool) {
	for i := range entries {
		ofValue(&entries[i].Value, found)
	}
}

func ofValues(values []program.Value, found map[string]bool) {
	for i := range values {
		ofValue(&values[i], found)
	}
}

func ofValue(v *program.Value, found map[string]bool) {
	if v == nil {
		return
	}
	ofExpr(v.Expr, found)
	for i := range v.Text {
		ofExpr(v.Text[i].Expr, found)
	}
	ofValues(v.List, found)
	ofEntries(v.Map, found)
}

// stepsUse finds what looks like the id in steps.<id>; steps["id"] and steps as
// a whole are refused by the compiler.
var stepsUse = regexp.MustCompile(`\bsteps\s*\.\s*\??\s*([a-z_][a-z0-9_]*)`)

func ofExpr(e *program.Expr, found map[string]bool) {
	if e == nil || !strings.Contains(e.Text, "steps") {
		return
	}
	for _, m := range stepsUse.FindAllStringSubmatch(e.Text, -1) {
		found[m[1]] = true
	}
}
