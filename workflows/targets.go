package workflows

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/fleet"
	"github.com/almanac-run/almanac/lang/expr"
	"github.com/almanac-run/almanac/lang/program"
)

// standings says how each target of a step stands, in the order of record.Nodes.
type standings []byte

const (
	markWaits     = '.' // not begun
	markRuns      = 'r'
	markSucceeded = 's'
	markFailed    = 'f'
	markUnreached = 'u'
	markCancelled = 'c' // cut off: its execution was cancelled, or it was to be tried again when the step was halted
)

// MarshalText keeps it readable in a history.
func (m standings) MarshalText() ([]byte, error) { return m, nil }

// UnmarshalText reads what MarshalText wrote.
func (m *standings) UnmarshalText(b []byte) error { *m = bytes.Clone(b); return nil }

// Why a step on several targets was halted.
const (
	haltErrors = "errors" // more have failed than are tolerated
	haltGate   = "gate"   // its gate is closed
)

// changeGate is the version from which retry at a closed gate is for the nodes
// that failed; before, the gate was evaluated again, and no more.
const changeGate = "retry at a gate"

// What is kept of what nodes answer: thousands of them share one state, which
// has to fit into one message.
const (
	mostWhole = 200 // targets up to which answers are kept as they are
	mostText  = 200 // bytes of a text in an answer of one of more

	mostAnswers = 8 << 20 // bytes of all answers of a step
)

// only keeps those nodes on which the execution may run, if it is told which.
func (r *run) only(nodes []string) []string {
	if r.start.Only == nil {
		return nodes
	}
	may := make(map[string]bool, len(r.start.Only))
	for _, n := range r.start.Only {
		may[n] = true
	}
	return slices.DeleteFunc(nodes, func(n string) bool { return !may[n] })
}

// onTargets runs the action on each node, in batches, at most so many at once,
// until too many have failed.
func (r *run) onTargets(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step) error {
	t := s.Targets
	atOnce, err := sc.limit(ctx, t.MaxConcurrency, fifty)
	if err != nil {
		return err
	}
	tolerated, err := sc.limit(ctx, t.MaxErrors, none)
	if err != nil {
		return err
	}
	sizes := make([]fleet.Limit, len(t.Batches))
	for i := range t.Batches {
		if sizes[i], err = sc.limit(ctx, &t.Batches[i], one); err != nil {
			return err
		}
	}
	bake, err := sc.duration(ctx, t.Bake, 0)
	if err != nil {
		return err
	}
	total := len(rec.Nodes)
	most := tolerated.Errors(total)
	r.track(rec, s)
	inner := *sc
	inner.group = &group{parent: sc.group}
	if rec.Again || rec.Errors-rec.Forgiven > most {
		// An operator said retry: the nodes that failed are tried again.
		r.reopen(rec)
	}
	control := fleet.Control{AtOnce: min(atOnce.AtOnce(total), mostInFlight), Tolerated: most}
	control.Failed(rec.Errors - rec.Forgiven)
	batches := fleet.Batches(total, sizes)
	for b, batch := range batches {
		if b < rec.Passed {
			continue
		}
		remaining := r.remaining(ctx, &inner, rec, batch[1])
		next := func() (int, bool) {
			if !control.MayStart() {
				return 0, false
			}
			i, ok := remaining()
			if ok {
				control.Start()
			}
			return i, ok
		}
		var errs []error
		fanout(ctx, control.AtOnce, next, func(ctx workflow.Context, i int) {
			err := r.onNode(ctx, sc, rec, path, s, i)
			control.End(rec.Marks[i] == markFailed || rec.Marks[i] == markUnreached)
			if err != nil {
				errs = append(errs, err)
				inner.group.halted = inner.group.halted || control.Halted()
			}
		})
		if control.Halted() {
			rec.Halted = haltErrors
			f := *asFailure(worst(ctx, errs)) // the node's own is kept as it is
			if total > 1 {
				untried := ""
				if n := total - rec.Errors - rec.Done; n > 0 {
					untried = fmt.Sprintf(", %d not tried", n)
				}
				f.Message = fmt.Sprintf("%s (%d of %d nodes failed%s)", f.Message, rec.Errors, total, untried)
			}
			return &f
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case len(rec.Open) > 0 || rec.Next < batch[1]:
			return errHalted
		case b == len(batches)-1:
			continue
		}
		if bake > 0 {
			if rec.Until == nil {
				baked := workflow.Now(ctx).Add(bake)
				rec.Until = &baked
			}
			if err := r.sleepUntil(ctx, sc, *rec.Until, fmt.Sprintf("%s: bake after batch %d of %d", path, b+1, len(batches))); err != nil {
				return err
			}
		}
		if t.Gate != nil {
			if err := r.gate(ctx, sc, rec, s, b+1, len(batches)); err != nil {
				return err
			}
		}
		rec.Passed, rec.Until = b+1, nil
	}
	rec.Out, err = r.perNode(sc, rec, s, true)
	return err
}

// track makes the places where it is noted how the nodes fare.
func (r *run) track(rec *record, s *program.Step) {
	total := len(rec.Nodes)
	if rec.Results == nil && rec.Kept <= mostAnswers && r.keepsAnswers(s) {
		rec.Results = make([]json.RawMessage, total)
	}
	if len(rec.Marks) == total {
		return
	}
	// It is new, or was begun by a worker that kept no marks.
	rec.Marks = bytes.Repeat([]byte{markWaits}, total)
	for i, node := range rec.Nodes {
		sub := rec.Sub["@"+node]
		switch {
		case i < len(rec.Results) && !missing(rec.Results[i]):
			rec.Marks[i] = markSucceeded
		case sub != nil && sub.State == StateFailed:
			rec.Marks[i] = markOf(sub.Failure)
		}
	}
}

func markOf(f *Failure) byte {
	if f != nil && f.Kind == string(action.Unreached) {
		return markUnreached
	}
	return markFailed
}

// reopen makes the nodes that failed open again.
func (r *run) reopen(rec *record) {
	for i, node := range rec.Nodes[:rec.Next] {
		if sub := rec.Sub["@"+node]; sub != nil && sub.State == StateFailed {
			sub.State, sub.Failure = "", nil
			rec.Marks[i] = markWaits
			if !slices.Contains(rec.Open, i) {
				rec.Open = append(rec.Open, i)
			}
		}
	}
	rec.Errors, rec.Forgiven, rec.Again = 0, 0, false
}

// goOn lets a halted step go on with the nodes that it has not begun: what has
// failed so far is accepted.
func (rec *record) goOn() {
	rec.Forgiven = rec.Errors
	if rec.Halted == haltGate {
		rec.Passed++
	}
	rec.Halted, rec.Until = "", nil
}

// onNode runs the action on one node and counts how it went.
func (r *run) onNode(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step, i int) error {
	node := rec.Nodes[i]
	sub := rec.sub("@" + node)
	now := workflow.Now(ctx)
	sub.Name, sub.Start, sub.State, sub.Target, sub.With = rec.Name, &now, StateRunning, node, rec.With
	ctx, ended := r.watchedTarget(ctx, sc, sub, path, s)
	defer ended()
	rec.Marks[i] = markRuns
	r.dirty = true
	out, err := r.invoke(ctx, sc, sub, path, node, s)
	var f *Failure
	switch {
	case err == nil:
		rec.Done++
		rec.Marks[i] = markSucceeded
		if rec.Results != nil {
			rec.Results[i] = bounds(out, len(rec.Nodes))
			if rec.Kept += len(rec.Results[i]); rec.Kept > mostAnswers {
				rec.Results = nil
			}
		}
		r.end(ctx, sub, StateSucceeded)
		rec.Logs = append(rec.Logs, sub.Logs...)
		if len(rec.Logs) > 20 {
			rec.Logs = rec.Logs[len(rec.Logs)-20:]
		}
		delete(rec.Sub, "@"+node)
	case errors.As(err, &f):
		rec.Errors++
		rec.Marks[i] = markOf(f)
		f = sc.place(f, path, s)
		_ = r.failed(ctx, sub, f) // counted here; the step decides what it means
		if rec.Errors > mostShown {
			sub.Failure = f.brief()
		}
		err = f
	default:
		r.close(ctx, sub, err)
		if sub.State == StateCancelled {
			rec.Marks[i] = markCancelled
		}
		return err // it stays open
	}
	rec.Open = slices.DeleteFunc(rec.Open, func(o int) bool { return o == i })
	return err
}

// perNode is steps.<id> of a step on several targets. Nodes that were not begun
// are skipped once the step has ended.
func (r *run) perNode(sc *scope, rec *record, s *program.Step, ended bool) (json.RawMessage, error) {
	if rec.Kept > mostAnswers {
		return nil, sc.fail(action.Invalid, s.Pos, "what %d nodes answered is more than the %d MiB that an execution holds of one step: let the action answer less, or refer to none of steps.%s.nodes",
			len(rec.Nodes), mostAnswers>>20, s.ID)
	}
	nodes := map[string]json.RawMessage{}
	lists := map[byte][]string{markSucceeded: {}, markFailed: {}, markUnreached: {}, markWaits: {}}
	for i, node := range rec.Nodes {
		mark := rec.Marks[i]
		switch {
		case mark == markSucceeded && i < len(rec.Results):
			nodes[node] = rec.Results[i]
		case (mark == markWaits || mark == markCancelled || mark == markRuns) && !ended:
			continue
		case mark == markCancelled || mark == markRuns:
			mark = markWaits
		}
		lists[mark] = append(lists[mark], node)
	}
	return json.Marshal(map[string]any{
		"nodes": nodes, "succeeded": lists[markSucceeded], "failed": lists[markFailed], "unreached": lists[markUnreached],
		"skipped": lists[markWaits],
	})
}

func (r *run) gate(ctx workflow.Context, sc *scope, rec *record, s *program.Step, batch, of int) error {
	raw, err := r.perNode(sc, rec, s, false)
	if err != nil {
		return err
	}
	result, err := expr.FromJSON(raw, program.TargetsType(s.Call.Output))
	if err != nil {
		return err
	}
	open, err := sc.with("result", result).truth(ctx, s.Targets.Gate)
	if err != nil || open {
		return err
	}
	rec.Halted = haltGate
	return sc.fail(action.Failed, s.Targets.Gate.Pos, "the gate is closed after batch %d of %d: %s", batch, of, abridged(s.Targets.Gate.Text, 200))
}

// onHalt is what the step itself says about having been halted, or "". An
// error that is handled, and one while things are taken back, halts nothing.
func onHalt(sc *scope, rec *record, s *program.Step) string {
	if rec.Halted == "" || sc.silent || sc.caught {
		return ""
	}
	return s.Targets.OnHalt
}

// leave ends a halted step with what it has: the nodes that were not begun are
// skipped, and its outputs say which.
func (r *run) leave(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step) error {
	var err error
	if rec.Out, err = r.perNode(sc, rec, s, true); err != nil {
		return err
	}
	return r.complete(ctx, sc, rec, path, s)
}

// ofLists matches what a gate or output reads of the lists of nodes.
var ofLists = regexp.MustCompile(`\bresult\s*\.\s*(succeeded|failed|unreached|skipped)\b`)

// keepsAnswers tells whether anything in the program reads what single nodes
// answered: else it is not kept.
func (r *run) keepsAnswers(s *program.Step) bool {
	if r.read[s.ID] {
		return true
	}
	reads := func(e *program.Expr) bool {
		return e != nil && strings.Contains(ofLists.ReplaceAllString(e.Text, ""), "result")
	}
	var inside func(v *program.Value) bool
	inside = func(v *program.Value) bool {
		return reads(v.Expr) ||
			slices.ContainsFunc(v.Text, func(p program.Part) bool { return reads(p.Expr) }) ||
			slices.ContainsFunc(v.List, func(v program.Value) bool { return inside(&v) }) ||
			slices.ContainsFunc(v.Map, func(e program.Entry) bool { return inside(&e.Value) })
	}
	return reads(s.Targets.Gate) || slices.ContainsFunc(s.Outputs, func(o program.Output) bool { return inside(&o.Value) })
}

// bounds is what is kept of one node's answer: of many nodes, of each longer
// text the last line. Its complete output is in the output store.
func bounds(out json.RawMessage, total int) json.RawMessage {
	if total <= mostWhole || len(out) <= mostText {
		return out
	}
	dec := json.NewDecoder(bytes.NewReader(out))
	dec.UseNumber() // a number stays as it is written
	var v any
	if dec.Decode(&v) != nil {
		return out // whoever reads it says what is wrong
	}
	short, err := json.Marshal(shorten(v, ""))
	if err != nil {
		return out
	}
	return short
}

func shorten(v any, key string) any {
	switch v := v.(type) {
	case string:
		if key != "ref" { // half of a reference names nothing
			return lastLine(v)
		}
	case []any:
		for i := range v {
			v[i] = shorten(v[i], "")
		}
	case map[string]any:
		for _, k := range workflow.DeterministicKeys(v) {
			v[k] = shorten(v[k], k)
		}
	}
	return v
}

// lastLine is a text of at most mostText bytes, or the end of its last line.
func lastLine(s string) string {
	if len(s) <= mostText {
		return s
	}
	s = strings.TrimRight(s, "\n")
	s = s[strings.LastIndexByte(s, '\n')+1:]
	if len(s) > mostText {
		s = "…" + strings.ToValidUTF8(s[len(s)-mostText+len("…"):], "")
	}
	return s
}

// What a recap names.
const (
	mostAlike = 10 // groups of failures
	mostNamed = 5  // nodes of each
)

// recap counts how the nodes of a step stand; nil if it has none, or ran
// before they were counted.
func (rec *record) recap() *Recap {
	if len(rec.Nodes)+len(rec.Away) == 0 || len(rec.Marks) != len(rec.Nodes) {
		return nil
	}
	c := &Recap{Total: len(rec.Nodes), Away: len(rec.Away)}
	over := rec.done() || rec.State == StateFailed || rec.State == StateCancelled
	alike := map[string]*Alike{}
	for i, node := range rec.Nodes {
		switch markOver(rec.Marks[i], over) {
		case StateSucceeded:
			c.Succeeded++
			continue
		case StateRunning:
			c.Running++
			continue
		case StatePending:
			continue
		case StateSkipped:
			c.Skipped++
			c.Left = named(c.Left, node)
			continue
		case StateCancelled:
			c.Cancelled++
			c.Left = named(c.Left, node)
			continue
		case StateUnreached:
			c.Unreached++
		default:
			c.Failed++
		}
		t := targetOf(rec.Sub["@"+node])
		key := t.Kind + "\x00" + fmt.Sprint(t.ExitCode) + "\x00" + numbers.ReplaceAllString(strings.ReplaceAll(t.Line, node, ""), "0")
		if alike[key] == nil {
			alike[key] = &Alike{Kind: t.Kind, ExitCode: t.ExitCode, Line: t.Line}
		}
		if alike[key].Count++; alike[key].Count == 2 { // what it says of one node it says of all
			alike[key].Line = strings.ReplaceAll(alike[key].Line, alike[key].Nodes[0], "…")
		}
		alike[key].Nodes = named(alike[key].Nodes, node)
	}
	for _, node := range rec.Away {
		c.Left = named(c.Left, node)
	}
	for _, key := range workflow.DeterministicKeys(alike) {
		c.Failures = append(c.Failures, *alike[key])
	}
	slices.SortStableFunc(c.Failures, func(a, b Alike) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Nodes[0], b.Nodes[0]))
	})
	if len(c.Failures) > mostAlike {
		for _, a := range c.Failures[mostAlike:] {
			c.Others += a.Count
		}
		c.Failures = c.Failures[:mostAlike]
	}
	return c
}

// numbers differ from node to node in what is else the same complaint.
var numbers = regexp.MustCompile(`[0-9]+`)

func named(names []string, one string) []string {
	if len(names) < mostNamed {
		names = append(names, one)
	}
	return names
}

// markOver is a mark as a state, of a step that is over or not.
func markOver(mark byte, over bool) string {
	switch {
	case mark == markSucceeded:
		return StateSucceeded
	case mark == markFailed:
		return StateFailed
	case mark == markUnreached:
		return StateUnreached
	case mark == markCancelled || mark == markRuns && over:
		return StateCancelled
	case mark == markRuns:
		return StateRunning
	case over:
		return StateSkipped
	}
	return StatePending
}

// targetOf is what is known of a failed target: its kind of error, its exit
// code and last line if it was a command, and where its output is.
func targetOf(sub *record) TargetView {
	var t TargetView
	if sub == nil || sub.Failure == nil {
		return t
	}
	d := detailOf(sub.Failure.Detail)
	t.Kind, t.ExitCode, t.Ref = sub.Failure.Kind, d.ExitCode, d.Ref
	if t.Line = lastOf(d.Tail); t.Line == "" {
		t.Line = firstLine(sub.Failure.Message)
	}
	t.Line = lastLine(t.Line)
	return t
}

// commandDetail is what the failure of a command tells of itself, as far as it
// is counted: see CommandDetail of the host's actions.
type commandDetail struct {
	ExitCode int    `json:"exit_code"`
	Tail     string `json:"tail,omitempty"`
	Ref      string `json:"ref,omitempty"`
	Size     int64  `json:"size,omitempty"`
}

func detailOf(raw json.RawMessage) commandDetail {
	var d commandDetail
	_ = json.Unmarshal(raw, &d) // another action's: nothing of it is counted
	return d
}

// lastOf is the last line of a text that is not blank.
func lastOf(s string) string {
	s = strings.TrimSpace(s)
	return strings.TrimSpace(s[strings.LastIndexByte(s, '\n')+1:])
}

// mostTargets bounds a TargetsPage.
const mostTargets = 2000

// page lists how the targets of all steps stand, from the one numbered from on.
func (r *run) page(from int) TargetsPage {
	p := TargetsPage{Targets: []TargetView{}}
	n := 0
	add := func(t TargetView) bool {
		if n++; n <= from {
			return true
		}
		if len(p.Targets) == mostTargets {
			p.Next = n - 1
			return false
		}
		p.Targets = append(p.Targets, t)
		return true
	}
	see := func(s *program.Step, rec *record, path string, _ int) bool {
		switch {
		case rec == nil || s.Targets == nil:
		case s.Targets.Single:
			if rec.Target == "" {
				break
			}
			t := targetOf(rec)
			t.Step, t.Target, t.State = path, rec.Target, rec.State
			if t.Kind == string(action.Unreached) {
				t.State = StateUnreached
			}
			return add(t)
		case len(rec.Marks) == len(rec.Nodes):
			over := rec.done() || rec.State == StateFailed || rec.State == StateCancelled
			for i, node := range rec.Nodes {
				t := targetOf(rec.Sub["@"+node])
				t.Step, t.Target, t.State = path, node, markOver(rec.Marks[i], over)
				if !add(t) {
					return false
				}
			}
			for _, node := range rec.Away {
				if !add(TargetView{Step: path, Target: node, State: StateUnreached, Kind: string(action.Unreached), Line: "it matched, and was away"}) {
					return false
				}
			}
		}
		return true
	}
	if walk(r.prog.Steps, r.state.Steps, "", 0, see) {
		walk(r.prog.Finally, r.state.Finally, "finally.", 0, see)
	}
	return p
}
