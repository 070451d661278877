package rehearse

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// Rehearse runs it straight, and then each way to fail. The error is one of the
// scene: a step or fault that is not there, or a play that cannot be played.
func Rehearse(o Options) (*Report, error) {
	began := time.Now()
	straight := o.play(fault{})
	if straight.err != nil {
		return nil, straight.err
	}
	report := &Report{Runbook: o.Program.Runbook, Seed: o.Seed, Works: len(straight.works),
		Made: []Thing{}, Unreached: []Unreached{}, Untried: []Untried{}, Unseen: []string{}} // never null
	report.Straight = o.result(straight, straight)
	if straight.Result.Outcome == workflows.Succeeded {
		report.Made = append(report.Made, straight.live...)
		report.Straight.Left = nil
	}
	for _, w := range straight.works {
		if w.instant {
			report.Instant++
		}
	}
	cases, untried := straight.cases()
	report.Untried = append(report.Untried, untried...)
	chosen, err := o.choose(cases)
	if err != nil {
		return nil, err
	}
	runs := make([]*run, len(chosen))
	report.Cases = make([]Case, len(chosen))
	var done int
	var mu sync.Mutex
	next := make(chan int)
	var group sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), max(len(chosen), 1)) {
		group.Go(func() {
			for i := range next {
				runs[i] = o.play(chosen[i])
				report.Cases[i] = o.result(runs[i], straight)
				mu.Lock()
				done++
				if o.Progress != nil {
					o.Progress(done, len(chosen))
				}
				mu.Unlock()
			}
		})
	}
	for i := range chosen {
		next <- i
	}
	close(next)
	group.Wait()

	if report.Whole = len(chosen) == len(cases); report.Whole {
		report.Unreached = append(report.Unreached, unreached(o.Program, append(runs, straight))...)
	}
	report.Unseen = append(report.Unseen, straight.unseen()...)
	if report.Whole {
		for i, a := range o.Scene.Answers {
			if !slices.ContainsFunc(append(runs, straight), func(r *run) bool { return r.used[i] }) {
				report.Unused = append(report.Unused, a.Path)
			}
		}
	}
	report.Took = time.Since(began)
	return report, nil
}

// choose takes the cases that were asked for.
func (o *Options) choose(all []fault) ([]fault, error) {
	if o.Step == "" && o.Fault == "" {
		return all, nil
	}
	var chosen []fault
	var steps []string
	for _, f := range all {
		if !slices.Contains(steps, f.work) {
			steps = append(steps, f.work)
		}
		if (o.Step == "" || slices.Contains(keys(f.work), o.Step)) && (o.Fault == "" || o.Fault == f.kind || o.Fault == f.name()) {
			chosen = append(chosen, f)
		}
	}
	if len(chosen) > 0 {
		return chosen, nil
	}
	var kinds []string
	for _, f := range all {
		if slices.Contains(keys(f.work), o.Step) {
			kinds = append(kinds, f.name())
		}
	}
	if len(kinds) > 0 {
		return nil, fmt.Errorf("step %s cannot fail as %s; it can as %s", o.Step, o.Fault, strings.Join(slices.Compact(kinds), ", "))
	}
	if o.Step == "" {
		return nil, fmt.Errorf("no step fails as %s", o.Fault)
	}
	hint := ""
	var known []string
	for _, f := range all {
		known = append(known, keys(f.work)...)
	}
	if near := program.Nearest(o.Step, known); near != "" {
		hint = ", did you mean " + near + "?"
	}
	return nil, fmt.Errorf("no work at step %s%s; there is work at %s", o.Step, hint, strings.Join(steps, ", "))
}

// name is a fault as --fault takes it.
func (f fault) name() string {
	if f.call > 0 && (f.kind == DiesBefore || f.kind == DiesAfter) {
		return fmt.Sprintf("%s:%d", f.kind, f.call)
	}
	return f.kind
}

// cases lists what can go wrong in a run like this one, and what is left out
// because the like of it is tried.
func (r *run) cases() ([]fault, []Untried) {
	groups := map[string][]string{}
	for _, w := range r.works {
		groups[alike(w.base)] = append(groups[alike(w.base)], w.base)
	}
	var untried []Untried
	chosen := map[string]bool{}
	for _, w := range r.works {
		group := groups[alike(w.base)]
		if group[0] != w.base {
			continue
		}
		picks := group
		if len(group) > 3 {
			picks = []string{group[0], group[len(group)/2], group[len(group)-1]}
			untried = append(untried, Untried{Step: alike(w.base), Tried: 3, Of: len(group)})
		}
		for _, p := range picks {
			chosen[p] = true
		}
	}
	var all []fault
	for _, w := range r.works {
		if chosen[w.base] && !w.answered {
			all = append(all, r.casesOf(w)...)
		}
	}
	return all, untried
}

func (r *run) casesOf(w *work) []fault {
	switch w.wait {
	case "approval":
		all := []fault{{work: w.base, kind: Rejected}}
		if w.waits.Deadline != nil || r.Program.Timeout != nil {
			all = append(all, fault{work: w.base, kind: Unanswered})
		}
		return append(all, fault{work: w.base, kind: Cancelled})
	case "pause", "wait":
		return []fault{{work: w.base, kind: Cancelled}}
	case "ask", "halt":
		return nil
	}
	all := []fault{{work: w.base, kind: Fails}}
	if w.node != "" {
		all = append(all, fault{work: w.base, kind: NodeGone})
	}
	all = append(all, fault{work: w.base, kind: Timeout})
	if s := r.steps[stepOf(w.base)]; s != nil && s.Retry != nil && (len(s.Retry.On) == 0 || slices.Contains(s.Retry.On, "timeout")) {
		all = append(all, fault{work: w.base, kind: Late})
	}
	all = append(all, fault{work: w.base, kind: Lost}, fault{work: w.base, kind: Retried})
	throttled := fault{work: w.base, kind: Throttled}
	for i, q := range w.requests {
		if q.changed > 0 && throttled.call == 0 {
			throttled.call = i + 1
		}
	}
	if throttled.call == 0 && len(w.requests) > 0 {
		throttled.call = 1
	}
	all = append(all, throttled)
	for i, q := range w.requests {
		n := i + 1
		again := i > 0 && q.changed == 0 && w.requests[i-1].operation == q.operation
		last := i+1 == len(w.requests) || w.requests[i+1].operation != q.operation || w.requests[i+1].changed > 0
		if again && !last {
			continue // one more look at the same thing
		}
		if !again {
			all = append(all, fault{work: w.base, kind: DiesBefore, call: n})
		}
		all = append(all, fault{work: w.base, kind: DiesAfter, call: n})
	}
	all = append(all, fault{work: w.base, kind: Cancelled})
	if len(w.requests) > 0 && w.compensates && r.takesBack(stepOf(w.base)) {
		all = append(all, fault{work: w.base, kind: UndoDies})
	}
	return all
}

// takesBack tells whether rollback calls the compensations of a step's actions.
func (r *run) takesBack(path string) bool {
	if r.Program.OnFailure == program.OnFailureStop || strings.HasPrefix(path, "finally.") || strings.Contains(path, "/finally.") {
		return false
	}
	return !slices.ContainsFunc(around(path), func(p string) bool { return r.steps[p] != nil && r.steps[p].Rollback != nil })
}

// result is a run as it is reported.
func (o *Options) result(r, straight *run) Case {
	c := Case{Step: r.fault.work, Fault: r.fault.kind}
	if w := straight.at[r.fault.work]; w != nil {
		c.Form = w.form
		if r.fault.call > 0 {
			c.Fault = r.fault.name()
			c.At = fmt.Sprintf("%d: %s", r.fault.call, w.requests[r.fault.call-1].operation)
		}
	}
	if o.Trace {
		c.Trace = r.trace
	}
	if r.err != nil {
		c.Error = r.err.Error()
		return c
	}
	if r.Err != nil {
		c.Error = "it waits for ever"
		if len(r.View.Waiting) > 0 {
			c.Error = fmt.Sprintf("step %s waits for ever for %s", r.View.Waiting[0].Step, strings.Join(r.View.Waiting[0].Choices, " or "))
		}
		return c
	}
	c.Outcome, c.Message, c.RolledBack = r.Result.Outcome, r.Result.Message, r.Result.RolledBack
	if f := r.Result.Failure; f != nil {
		c.Failed = f.Step
	}
	c.Seconds = r.Ended.Ended.Sub(r.Began).Seconds()
	c.Left, c.Kept = judge(r, straight)
	switch r.fault.kind {
	case Retried, Throttled, DiesBefore, DiesAfter:
		c.Unrecovered = r.Result.Outcome != workflows.Succeeded && straight.Result.Outcome == workflows.Succeeded
	}
	return c
}

// unseen lists the steps that change what nobody can know, and that say no rollback:.
func (r *run) unseen() []string {
	var all []string
	for _, w := range r.works {
		path := stepOf(w.base)
		if w.wait != "" || !w.unseen || slices.Contains(all, alike(w.base)) {
			continue
		}
		covered := false
		for _, p := range around(path) {
			if s := r.steps[p]; s != nil && s.Rollback != nil {
				covered = true
			}
		}
		if !covered {
			all = append(all, alike(w.base))
		}
	}
	return all
}

// unreached lists the steps that no run took up.
func unreached(prog *program.Program, runs []*run) []Unreached {
	var all []Unreached
	look := func(p *program.Program) {
		each(p, func(s *program.Step) {
			for _, r := range runs {
				if c := r.coverage[stepKey{p.Runbook, s.ID}]; c != nil && c.taken {
					return
				}
			}
			u := Unreached{Runbook: p.Runbook, Step: s.ID, Form: form(s), File: p.File, Pos: s.Pos}
			if s.If != nil {
				u.If = strings.Join(strings.Fields(s.If.Text), " ")
			}
			all = append(all, u)
		})
	}
	look(prog)
	for _, name := range sorted(prog.Children) {
		look(prog.Children[name])
	}
	return all
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func form(s *program.Step) string {
	switch {
	case s.Call != nil:
		return s.Call.Action
	case s.Child != nil:
		return s.Child.Runbook
	}
	return string(s.Kind)
}

// each calls fn for every step of a program, nested ones included.
func each(p *program.Program, fn func(*program.Step)) {
	var walk func([]program.Step)
	walk = func(steps []program.Step) {
		for i := range steps {
			s := &steps[i]
			fn(s)
			walk(s.Steps)
			for _, b := range s.Branches {
				walk(b.Steps)
			}
			if s.OnError != nil {
				walk(s.OnError.Steps)
			}
			if s.Rollback != nil {
				walk(s.Rollback.Steps)
			}
		}
	}
	walk(p.Steps)
	walk(p.Finally)
}
