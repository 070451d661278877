package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/lang/expr"
	"github.com/almanac-run/almanac/lang/program"
)

// The decisions about a planned step.
const (
	willRun  = "run"
	willSkip = "skip"
	later    = "later" // depends on what is known only while it runs
)

// plan is what an execution would do, as far as it can be told before.
type plan struct {
	Runbook   string                     `json:"runbook"`
	Summary   string                     `json:"summary,omitempty"`
	Digest    string                     `json:"digest"`
	OnFailure string                     `json:"on_failure"`
	Timeout   string                     `json:"timeout,omitempty"`
	Lock      *plannedValue              `json:"lock,omitempty"`        // the keys it waits for
	Places    int                        `json:"max_running,omitempty"` // how many executions of it run at once
	Inputs    map[string]json.RawMessage `json:"inputs"`
	Vars      []plannedValue             `json:"vars"`
	Steps     []plannedStep              `json:"steps"` // in order, nested ones after their parent, then finally
	Totals    planTotals                 `json:"totals"`

	inputs []program.Input // for the order

	fleet []registry.Listed // nil: not asked
}

// planTotals count steps; those below a loop count once.
type planTotals struct {
	Run       int `json:"run"`
	Skip      int `json:"skip"`
	Later     int `json:"later"`
	Approvals int `json:"approvals"` // that will, or may, be asked
	Undo      int `json:"undo"`      // that rollback would take back
}

// plannedValue is a named value, or what it depends on.
type plannedValue struct {
	Name  string `json:"name"`
	Value string `json:"value"` // as text; what is not known stands in parentheses
	Known bool   `json:"known"`
}

type plannedStep struct {
	Path      string         `json:"path"`
	Depth     int            `json:"depth"`
	Phase     string         `json:"phase,omitempty"` // "finally"
	Name      string         `json:"name,omitempty"`
	Form      string         `json:"form"`
	Decision  string         `json:"decision"`
	Why       string         `json:"why,omitempty"`        // the condition that decides, or will
	DependsOn []string       `json:"depends_on,omitempty"` // ids of steps; only if later
	Targets   string         `json:"targets,omitempty"`
	Note      string         `json:"note,omitempty"` // how often, who must approve, for how long
	With      []plannedValue `json:"with,omitempty"`
	Undo      string         `json:"undo,omitempty"` // what rollback would run
	Pos       program.Pos    `json:"pos"`

	prog *program.Program // whose step it is: ids are unique in one
}

// planner evaluates one program with what is known before it runs.
type planner struct {
	root  *program.Program // has the children
	prog  *program.Program
	names map[string]any // inputs and vars, as far as they are known
	scope expr.Scope
	vars  map[string][]string // of vars that are not known: what they wait for
	plan  *plan
}

// makePlan plans an execution of prog with checked inputs.
func makePlan(prog *program.Program, inputs map[string]json.RawMessage) *plan {
	return planOn(prog, inputs, nil)
}

// planOn is makePlan with the nodes of the registry, among which conditions then choose.
func planOn(prog *program.Program, inputs map[string]json.RawMessage, fleet []registry.Listed) *plan {
	pl := &plan{fleet: fleet, Runbook: prog.Runbook, Summary: prog.Summary, Digest: prog.Digest, OnFailure: prog.OnFailure,
		Inputs: inputs, Vars: []plannedValue{}, Steps: []plannedStep{}, inputs: prog.Inputs}
	p := newPlanner(prog, prog, inputs, pl)
	for _, v := range prog.Vars {
		text, known := p.text(v.Value)
		pl.Vars = append(pl.Vars, plannedValue{v.Name, text, known})
	}
	if prog.Timeout != nil {
		pl.Timeout = p.span(*prog.Timeout)
	}
	pl.Places = prog.MaxRunning
	if prog.Lock != nil {
		text, known := p.text(*prog.Lock)
		pl.Lock = &plannedValue{"lock", text, known}
	}
	p.steps(prog.Steps, "", 0, "", nil)
	p.steps(prog.Finally, "finally.", 0, "finally", nil)
	for _, s := range pl.Steps {
		switch s.Decision {
		case willRun:
			pl.Totals.Run++
		case willSkip:
			pl.Totals.Skip++
			continue
		case later:
			pl.Totals.Later++
		}
		if s.Form == string(program.KindApproval) {
			pl.Totals.Approvals++
		}
		if s.Undo != "" {
			pl.Totals.Undo++
		}
	}
	return pl
}

// newPlanner prepares a program's inputs and vars. An input that is nil is not known.
func newPlanner(root, prog *program.Program, inputs map[string]json.RawMessage, pl *plan) *planner {
	known := map[string]any{}
	anyType := program.Type{Kind: program.Any}
	inputsType := program.Type{Kind: program.Object, Fields: []program.Field{}}
	for _, in := range prog.Inputs {
		inputsType.Fields = append(inputsType.Fields, program.Field{Name: in.Name, Type: in.Type})
		if raw := inputs[in.Name]; raw != nil {
			if v, err := expr.FromJSON(raw, in.Type); err == nil {
				known[in.Name] = v
			}
		}
	}
	vars := map[string]any{}
	varsType := program.Type{Kind: program.Object, Fields: []program.Field{}}
	stepsType := program.Type{Kind: program.Object, Fields: []program.Field{}}
	allSteps(prog, func(s *program.Step) {
		stepsType.Fields = append(stepsType.Fields, program.Field{Name: s.ID, Type: s.Type})
	})
	p := &planner{root: root, prog: prog, names: map[string]any{"inputs": known, "vars": vars}, vars: map[string][]string{}, plan: pl}
	for _, v := range prog.Vars {
		varsType.Fields = append(varsType.Fields, program.Field{Name: v.Name, Type: v.Type})
	}
	p.scope = expr.Scope{Names: []expr.Name{
		{Name: "inputs", Type: inputsType}, {Name: "vars", Type: varsType}, {Name: "steps", Type: stepsType},
		{Name: "item", Type: anyType}, {Name: "index", Type: program.Type{Kind: program.Int}}, {Name: "node", Type: anyType},
		{Name: "result", Type: anyType}, {Name: "error", Type: anyType}, {Name: "execution", Type: anyType},
	}}
	for _, v := range prog.Vars {
		if value, ok := p.value(v.Value); ok {
			vars[v.Name] = value
		} else {
			p.vars[v.Name] = p.waitsFor(v.Value)
		}
	}
	return p
}

// allSteps calls fn for every step of a program, nested ones included.
func allSteps(prog *program.Program, fn func(*program.Step)) {
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
	walk(prog.Steps)
	walk(prog.Finally)
}

// eval gives the value of an expression if it can be told: also when a part
// that is not known does not matter. Steps, items and the execution are not in
// scope, so that an expression which needs them has an error.
func (p *planner) eval(e *program.Expr) (any, bool) {
	v, err := expr.Eval(e.Text, p.names)
	return v, err == nil
}

// needs are the things that an expression waits for: "check" (a step), "start",
// "each item", …
func (p *planner) needs(e *program.Expr) []string {
	checked, _ := expr.Check(e.Text, p.scope)
	var needs []string
	for _, r := range checked.Refs {
		switch root := r.Path[0]; {
		case root == "steps" && len(r.Path) > 1:
			needs = append(needs, r.Path[1])
		case root == "steps":
			needs = append(needs, "the steps before")
		case root == "vars" && len(r.Path) > 1:
			needs = append(needs, p.vars[r.Path[1]]...)
		case root == "vars" || root == "inputs":
			if len(r.Path) > 1 {
				if known, _ := p.names["inputs"].(map[string]any); known[r.Path[1]] == nil && root == "inputs" {
					needs = append(needs, "its inputs") // of a called runbook
				}
			}
		case root == "execution":
			needs = append(needs, "start")
		case root == "item" || root == "index":
			needs = append(needs, "each item")
		case root == "node":
			needs = append(needs, "each node")
		default:
			needs = append(needs, "its result")
		}
	}
	slices.Sort(needs)
	return slices.Compact(needs)
}

// waitsFor are the needs of all expressions in a value.
func (p *planner) waitsFor(v program.Value) []string {
	var needs []string
	var walk func(program.Value)
	walk = func(v program.Value) {
		if v.Expr != nil {
			if _, ok := p.eval(v.Expr); !ok {
				needs = append(needs, p.needs(v.Expr)...)
			}
		}
		for _, part := range v.Text {
			if part.Expr != nil {
				walk(program.Value{Expr: part.Expr})
			}
		}
		for _, e := range v.List {
			walk(e)
		}
		for _, e := range v.Map {
			walk(e.Value)
		}
	}
	walk(v)
	slices.Sort(needs)
	return slices.Compact(needs)
}

// value gives what a Value becomes, if all of it can be told.
func (p *planner) value(v program.Value) (any, bool) {
	switch {
	case v.Expr != nil:
		return p.eval(v.Expr)
	case v.Text != nil:
		var b strings.Builder
		for _, part := range v.Text {
			if part.Expr == nil {
				b.WriteString(part.Lit)
				continue
			}
			x, ok := p.eval(part.Expr)
			if !ok {
				return nil, false
			}
			b.WriteString(expr.Text(x))
		}
		return b.String(), true
	case v.List != nil:
		list := make([]any, len(v.List))
		for i, e := range v.List {
			x, ok := p.value(e)
			if !ok {
				return nil, false
			}
			list[i] = x
		}
		return list, true
	case v.Map != nil:
		m := map[string]any{}
		for _, e := range v.Map {
			x, ok := p.value(e.Value)
			if !ok {
				return nil, false
			}
			m[e.Key] = x
		}
		return m, true
	}
	x, err := expr.FromJSON(v.Lit, program.Type{Kind: program.Any})
	return x, err == nil
}

// text writes what a Value becomes; what is not known is in parentheses.
func (p *planner) text(v program.Value) (string, bool) {
	switch {
	case v.Expr != nil:
		if ref := p.secret(v.Expr); ref != "" {
			return ref, true
		}
		x, ok := p.eval(v.Expr)
		if !ok {
			return knownAfter(p.needs(v.Expr)), false
		}
		raw, err := expr.ToJSON(x)
		if err != nil {
			return "(cannot be shown)", false
		}
		return runview.PlainValue(raw), true
	case v.Text != nil:
		var b strings.Builder
		known := true
		for _, part := range v.Text {
			if part.Expr == nil {
				b.WriteString(part.Lit)
			} else if x, ok := p.eval(part.Expr); ok {
				b.WriteString(expr.Text(x))
			} else {
				known = false
				b.WriteString(knownAfter(p.needs(part.Expr)))
			}
		}
		return b.String(), known
	case v.List != nil:
		parts, known := make([]string, len(v.List)), true
		for i, e := range v.List {
			text, ok := p.text(e)
			parts[i], known = text, known && ok
		}
		return "[" + strings.Join(parts, ", ") + "]", known
	case v.Map != nil:
		parts, known := make([]string, len(v.Map)), true
		for i, e := range v.Map {
			text, ok := p.text(e.Value)
			parts[i], known = e.Key+": "+text, known && ok
		}
		return "{" + strings.Join(parts, ", ") + "}", known
	}
	return runview.PlainValue(v.Lit), true
}

// span is the text of a duration as people write it: 1h, not 1h0m0s.
func (p *planner) span(v program.Value) string {
	text, _ := p.text(v)
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// secret is the reference that stands behind `inputs.x`, if x is a secret.
func (p *planner) secret(e *program.Expr) string {
	name, ok := strings.CutPrefix(strings.TrimSpace(e.Text), "inputs.")
	if in, known := input(p.prog, name); !ok || !known || in.Type.Kind != program.Secret || p.prog != p.root {
		return ""
	}
	return runview.PlainValue(p.plan.Inputs[name])
}

func knownAfter(needs []string) string {
	switch {
	case len(needs) == 0:
		return "(known later)"
	case len(needs) == 1 && needs[0] == "start":
		return "(known at start)"
	case len(needs) == 1 && strings.HasPrefix(needs[0], "each "):
		return "(" + strings.TrimPrefix(needs[0], "each ") + ")"
	case len(needs) == 1 && needs[0] == "its inputs":
		return "(known when it is called)"
	}
	return "(known after " + strings.Join(needs, ", ") + ")"
}

// steps plans a sequence of steps. outer is the decision of the step around
// them if it is not to run for certain.
func (p *planner) steps(steps []program.Step, prefix string, depth int, phase string, outer *plannedStep) {
	ends := ""
	for i := range steps {
		s := &steps[i]
		ps := plannedStep{Path: prefix + s.ID, Depth: depth, Phase: phase, Form: form(s), Decision: willRun, Pos: s.Pos, prog: p.prog}
		if s.Name != nil {
			ps.Name, _ = p.text(*s.Name)
		}
		switch {
		case ends != "":
			ps.Decision, ps.Why = willSkip, ends+" ends the execution"
		case outer != nil:
			ps.Decision, ps.DependsOn = outer.Decision, outer.DependsOn
		}
		if s.If != nil && ps.Decision != willSkip {
			p.decide(&ps, s.If)
		}
		if ps.Decision == willRun {
			p.unless(&ps, s.SkipUnless)
		}
		p.describe(&ps, s)
		p.plan.Steps = append(p.plan.Steps, ps)
		if s.Kind == program.KindStop || s.Kind == program.KindFail {
			if ps.Decision == willRun && depth == 0 {
				ends = s.ID
			}
		}
		inside := &ps
		if ps.Decision == willRun {
			inside = nil
		}
		p.steps(s.Steps, ps.Path+".", depth+1, phase, inside)
		for _, b := range s.Branches {
			p.steps(b.Steps, ps.Path+"."+b.Name+".", depth+1, phase, inside)
		}
		if s.Child != nil {
			p.child(s.Child, ps, phase, inside)
		}
	}
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

func (p *planner) decide(ps *plannedStep, cond *program.Expr) {
	text := "if: " + strings.Join(strings.Fields(cond.Text), " ")
	x, ok := p.eval(cond)
	switch {
	case ok && x == false:
		ps.Decision, ps.Why, ps.DependsOn = willSkip, text+" is false", nil
	case !ok:
		ps.Decision, ps.Why = later, text
		ps.DependsOn = p.needs(cond)
	}
}

// unless decides a step of `finally` by the steps that it refers to: it is
// skipped if one of them is.
func (p *planner) unless(ps *plannedStep, ids []string) {
	for _, other := range p.plan.Steps {
		if other.prog != p.prog || !slices.Contains(ids, lastID(other.Path)) || other.Decision == willRun {
			continue
		}
		ps.Decision, ps.Why = other.Decision, "only if "+lastID(other.Path)+" completed"
		if ps.Decision == later {
			ps.DependsOn = append(ps.DependsOn, lastID(other.Path))
			continue
		}
		ps.DependsOn = nil
		return
	}
}

func lastID(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }

// describe fills in what a step would do.
func (p *planner) describe(ps *plannedStep, s *program.Step) {
	var notes []string
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	value := func(v *program.Value) string {
		text, _ := p.text(*v)
		return text
	}
	switch {
	case s.Call != nil:
		for _, e := range s.Call.With {
			text, known := p.text(e.Value)
			ps.With = append(ps.With, plannedValue{e.Key, text, known})
		}
		if s.Call.Until != nil {
			note("until %s", s.Call.Until.Text)
		}
	case s.Child != nil:
		for _, e := range s.Child.With {
			text, known := p.text(e.Value)
			ps.With = append(ps.With, plannedValue{e.Key, text, known})
		}
	case s.ForEach != nil:
		if x, ok := p.value(s.ForEach.Items); ok {
			n := 0
			switch x := x.(type) {
			case []any:
				n = len(x)
			case map[string]any:
				n = len(x)
			}
			if list, ok := x.([]any); ok && n > 0 && n <= 5 {
				items := make([]string, n)
				for i := range list {
					items[i] = expr.Text(list[i])
				}
				note("%s: %s", plural(n, "time"), strings.Join(items, ", "))
			} else {
				note("%s", plural(n, "time"))
			}
			if n == 0 && ps.Decision == willRun {
				ps.Decision, ps.Why = willSkip, "no items"
			}
		} else {
			note("for each of %s", knownAfter(p.waitsFor(s.ForEach.Items)))
		}
		if s.ForEach.MaxConcurrency != nil {
			note("%s at a time", value(s.ForEach.MaxConcurrency))
		}
	case s.Repeat != nil:
		note("until %s", s.Repeat.Until.Text)
		if s.Repeat.Attempts != nil {
			note("at most %s times", value(s.Repeat.Attempts))
		}
	case s.Approval != nil:
		who := "anyone"
		if s.Approval.Approvers != nil {
			who = value(s.Approval.Approvers)
		}
		quorum := "1"
		if s.Approval.Quorum != nil {
			quorum = value(s.Approval.Quorum)
		}
		note("%s of %s", quorum, who)
		if s.Approval.Timeout != nil {
			note("after %s: %s", p.span(*s.Approval.Timeout), s.Approval.OnTimeout)
		}
		note("%q", value(&s.Approval.Message))
	case s.Wait != nil:
		note("%s", p.span(*s.Wait))
	case s.Assert != nil:
		note("%s", s.Assert.Text)
		if x, ok := p.eval(s.Assert); ok && x == false && ps.Decision == willRun {
			ps.Why = "it is false: the step fails"
		}
	case s.Message != nil:
		note("%q", value(s.Message))
	}
	if s.Targets != nil {
		ps.Targets = p.targets(s.Targets)
	}
	switch {
	case s.Rollback != nil && s.Rollback.None:
	case s.Rollback != nil:
		var ids []string
		for i := range s.Rollback.Steps {
			ids = append(ids, form(&s.Rollback.Steps[i]))
		}
		ps.Undo = strings.Join(ids, ", ")
	case s.Call != nil && s.Call.Compensates:
		ps.Undo = "undo " + s.Call.Action
	}
	if p.plan.OnFailure == program.OnFailureStop {
		ps.Undo = ""
	}
	if s.OnError != nil && s.OnError.Continue {
		note("goes on if it fails")
	} else if s.OnError != nil {
		note("handles its error")
	}
	ps.Note = strings.Join(notes, "; ")
}

func (p *planner) targets(t *program.Targets) string {
	value := func(v *program.Value) string {
		text, _ := p.text(*v)
		return text
	}
	var parts []string
	if t.Where != nil {
		if now := p.matching(t.Where); now != "" {
			parts = append(parts, now)
		}
		parts = append(parts, "nodes where "+strings.Join(strings.Fields(t.Where.Text), " "))
	} else if t.Nodes != nil {
		parts = append(parts, strings.Trim(strings.ReplaceAll(value(t.Nodes), `"`, ""), "[]"))
	}
	if t.MaxConcurrency != nil {
		parts = append(parts, value(t.MaxConcurrency)+" at a time")
	}
	if len(t.Batches) > 0 {
		sizes := make([]string, len(t.Batches))
		for i := range t.Batches {
			sizes[i] = value(&t.Batches[i])
		}
		parts = append(parts, "batches of "+strings.Join(sizes, ", "))
	}
	if t.MaxErrors != nil {
		parts = append(parts, value(t.MaxErrors)+" may fail")
	}
	if t.OnHalt != "" {
		parts = append(parts, "when halted: "+t.OnHalt)
	}
	return strings.Join(parts, "; ")
}

// matching says which nodes of the registry a condition holds for now.
func (p *planner) matching(where *program.Expr) string {
	if p.plan.fleet == nil || slices.ContainsFunc(p.needs(where), func(what string) bool { return what != "each node" }) {
		return ""
	}
	const most = 5
	var there, away []string
	total := 0
	for i := range p.plan.fleet {
		n := &p.plan.fleet[i]
		names := maps.Clone(p.names)
		names["node"] = n.Facts()
		v, err := expr.Eval(where.Text, names)
		switch {
		case err != nil || v != true:
		case n.Absent() != "":
			away = append(away, n.ID)
		default:
			if total++; total <= most {
				there = append(there, n.ID)
			}
		}
	}
	if total > most {
		there = append(there, "…")
	}
	text := plural(total, "node") + " now"
	if total > 0 {
		text += ": " + strings.Join(there, ", ")
	}
	if len(away) > 0 {
		text += fmt.Sprintf("; %d away: %s", len(away), strings.Join(away[:min(len(away), most)], ", "))
	}
	return text
}

// child plans a called runbook below its step.
func (p *planner) child(c *program.Child, ps plannedStep, phase string, inside *plannedStep) {
	prog := p.root.Children[c.Runbook]
	if prog == nil {
		return
	}
	inputs := map[string]json.RawMessage{}
	for _, in := range prog.Inputs {
		if in.Default != nil {
			inputs[in.Name] = in.Default
		}
	}
	for _, e := range c.With {
		delete(inputs, e.Key)
		if x, ok := p.value(e.Value); ok {
			if raw, err := expr.ToJSON(x); err == nil {
				inputs[e.Key] = raw
			}
		}
	}
	called := newPlanner(p.root, prog, inputs, p.plan)
	called.steps(prog.Steps, ps.Path+".", ps.Depth+1, phase, inside)
	called.steps(prog.Finally, ps.Path+".finally.", ps.Depth+1, phase, inside)
}
