package compile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/lang/expr"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/lang/syntax"
)

// steps compiles a list of steps into sc, which then knows them.
func (c *compiler) steps(n *syntax.Node, sc *scope) []program.Step {
	if n.Kind != syntax.List {
		c.errorf(n, "wrong-type", "steps are a list, each beginning with `- `; found %s", found(n))
		return nil
	}
	if len(n.Items) == 0 {
		c.errorf(n, "no-steps", "there are no steps")
	}
	list := make([]program.Step, 0, len(n.Items))
	var ended string
	for _, item := range n.Items {
		if ended != "" {
			c.warnf(item.Pos, item.Width, "unreachable-step", "this step never runs: the `%s:` before it always ends the execution", ended)
			ended = ""
		}
		step, ok := c.step(item, sc)
		if !ok {
			continue
		}
		list = append(list, step)
		if (step.Kind == program.KindStop || step.Kind == program.KindFail) && step.If == nil {
			ended = string(step.Kind)
		}
	}
	return list
}

// step compiles one step and declares it in sc. ok is false if not even its
// form is known.
func (c *compiler) step(n *syntax.Node, sc *scope) (program.Step, bool) {
	step := program.Step{Pos: n.Pos}
	if n.Kind != syntax.Map {
		c.errorf(n, "wrong-type", "a step is a map with a key such as `action:` or `run:`; found %s", found(n))
		return step, false
	}
	f, ok := c.formOf(n)
	if !ok {
		c.identify(&step, n.Get("id"), "step")
		c.declareUnknown(&step, sc)
		return step, false
	}
	what := fmt.Sprintf("a step with `%s:`", f.lead.name)
	m := c.keys(n, what, f.all(), func(name string) string { return c.elsewhere(name, what, f) })
	if m.get(f.lead.name) == nil { // reported: it has no value
		c.identify(&step, m.get("id"), f.lead.name)
		c.declareUnknown(&step, sc)
		return step, false
	}
	step.Kind = f.kind
	c.identify(&step, m.get("id"), f.lead.name)

	here := sc.inner()
	if sc.collects() {
		here.skip = &step.SkipUnless
	}
	var cond string
	if n := m.get("if"); n != nil {
		if step.If = c.bare(n, "if", here, boolType); step.If != nil {
			cond = step.If.Text
		}
		here = here.under(cond)
	}
	if n := m.get("name"); n != nil {
		step.Name, _ = c.value(n, stringType, here, valueOpts{})
	}
	step.Timeout = c.duration(m.get("timeout"), here, positive)
	step.Retry = c.retry(m.get("retry"), here)

	own := f.compile(c, &step, m, here)
	step.Type = own
	for _, o := range step.Outputs {
		if own.Fields == nil || step.Kind == program.KindForEach { // a loop's are in its results
			break
		}
		step.Type.Fields = append(slices.Clip(step.Type.Fields), program.Field{Name: o.Name, Type: o.Type})
	}

	info := &stepInfo{id: step.ID, typ: step.Type}
	step.Rollback = c.rollback(m.get("rollback"), here, info)
	inside := here.steps // of a block that failed, none is certain
	setScope(inside, nil)
	step.OnError = c.onError(m.get("on_error"), here)
	if step.OnError != nil && step.Targets != nil && step.Targets.OnHalt != "" {
		c.errorf(m.get("on_error"), "misplaced-key", "`on_error:` handles what `on_halt:` is for: have one of them")
	}
	setScope(inside, here)

	if cond != "" || m.get("if") != nil {
		info.conds = []string{cond}
	}
	switch {
	case m.get("on_error") != nil:
		info.unsure = fmt.Sprintf("the on_error at %s", m.get("on_error").Pos)
	case len(step.SkipUnless) > 0:
		info.unsure = "it is skipped if " + alternatives(step.SkipUnless) + " never completed"
	}
	if step.Named {
		c.declare(sc, info)
	}
	// The steps inside stay visible, as certain as this one.
	for at := here; at != sc; at = at.parent {
		leave(at, sc, cond, info.unsure)
		at.steps = nil
	}
	return step, true
}

// declareUnknown declares a step whose form is not known: its outputs are
// unknown, not wrong, so that whoever refers to them has no mistake.
func (c *compiler) declareUnknown(step *program.Step, sc *scope) {
	if step.Named {
		c.declare(sc, &stepInfo{id: step.ID, typ: program.Type{Kind: program.Object}})
	}
}

// formOf finds out which form a step has.
func (c *compiler) formOf(n *syntax.Node) (form, bool) {
	var have []form
	all := c.forms
	for _, p := range n.Pairs {
		for _, f := range all {
			if f.lead.name == p.Key.Value {
				have = append(have, f)
			}
		}
	}
	switch len(have) {
	case 1:
		return have[0], true
	case 0:
		var leads []string
		for _, f := range all {
			leads = append(leads, f.lead.name)
		}
		for _, p := range n.Pairs {
			if p.Key.Value == "for_each" || p.Key.Value == "repeat" {
				c.errorf(p.Key, "missing-key", "`%s:` needs `steps:` to run", p.Key.Value)
				return form{}, false
			}
		}
		for _, p := range n.Pairs {
			if near := nearest(p.Key.Value, leads); near != "" && !slices.ContainsFunc(commonKeys, func(k key) bool { return k.name == p.Key.Value }) {
				c.errorf(p.Key, "unknown-key", "a step has no key %q; did you mean %s?", p.Key.Value, near)
				return form{}, false
			}
			if ours := foreignKeys[p.Key.Value]; ours != "" {
				c.errorf(p.Key, "unknown-key", "a step has no key %q; it is written `%s`", p.Key.Value, ours)
				return form{}, false
			}
		}
		c.errorf(n, "no-form", "this step does nothing; it needs one of %s", strings.Join(leads, ", "))
		return form{}, false
	}
	var names []string
	for _, f := range have {
		names = append(names, "`"+f.lead.name+":`")
	}
	pos := n.Pairs[0].Key
	for _, p := range n.Pairs {
		if p.Key.Value == have[1].lead.name {
			pos = p.Key
		}
	}
	c.errorf(pos, "several-forms", "a step does one thing, and this one has %s; make them steps of their own", strings.Join(names, " and "))
	return form{}, false
}

// elsewhere says of a key that belongs to other forms which those are.
func (c *compiler) elsewhere(name, what string, _ form) string {
	var leads []string
	for _, f := range c.forms {
		if slices.ContainsFunc(f.all(), func(k key) bool { return k.name == name }) {
			leads = append(leads, "`"+f.lead.name+":`")
		}
	}
	if len(leads) == 0 {
		return ""
	}
	if len(leads) > 4 {
		return fmt.Sprintf("%s cannot have `%s:`", what, name)
	}
	return fmt.Sprintf("%s cannot have `%s:`; it belongs to %s", what, name, strings.Join(leads, ", "))
}

// identify gives a step its id: the author's, or one made from form and line.
func (c *compiler) identify(step *program.Step, n *syntax.Node, lead string) {
	if n != nil && c.name(n, "step") {
		first := c.ids[n.Value]
		_, taken := c.infos[n.Value]
		if first == n.Pos || first == (program.Pos{}) && !taken {
			step.ID, step.Named = n.Value, true
			return
		}
		c.errorf(n, "duplicate-id", "the id %s is given twice; the other is at %s", n.Value, first)
	}
	for i := 1; ; i++ {
		id := fmt.Sprintf("%s_%d", lead, step.Pos.Line)
		if i > 1 {
			id = fmt.Sprintf("%s_%d", id, i)
		}
		if _, taken := c.ids[id]; !taken && !c.auto[id] {
			step.ID, c.auto[id] = id, true
			return
		}
	}
}

func (c *compiler) retry(n *syntax.Node, sc *scope) *program.Retry {
	if n == nil {
		return nil
	}
	m := c.keys(n, "`retry:`", retryKeys, nil)
	r := &program.Retry{
		Attempts:   c.count(m.get("attempts"), sc, 1),
		Backoff:    c.duration(m.get("backoff"), sc, zeroOrMore),
		MaxBackoff: c.duration(m.get("max_backoff"), sc, positive),
		Factor:     c.factor(m.get("factor"), sc),
	}
	if on := m.get("on"); on != nil {
		if on.Kind != syntax.List {
			c.errorf(on, "wrong-type", "`on:` is a list of error kinds: [%s]; found %s", strings.Join(kindNames(), ", "), found(on))
			return r
		}
		for _, item := range on.Items {
			r.On = append(r.On, c.oneOf(item, "on", kindNames()...))
		}
	}
	return r
}

func kindNames() []string {
	names := make([]string, len(action.Kinds))
	for i, k := range action.Kinds {
		names[i] = string(k)
	}
	return names
}

func (c *compiler) onError(n *syntax.Node, sc *scope) *program.OnError {
	switch {
	case n == nil:
		return nil
	case n.Kind == syntax.Map:
		m := c.keys(n, "`on_error:`", onErrorKeys, nil)
		inner := sc.with(expr.Name{Name: "error", Type: errorType()})
		o := &program.OnError{}
		if s := m.get("steps"); s != nil {
			o.Steps = c.steps(s, inner)
		}
		hide(inner, "inside an on_error, whose steps run only after an error")
		return o
	case n.Value == "continue":
		return &program.OnError{Continue: true}
	}
	c.errorf(n, "wrong-value", "`on_error:` is `continue` or `{ steps: […] }`, and cannot be %s", found(n))
	return nil
}

// rollback compiles what takes a step back. The step itself is in scope, but
// may have failed half way: then a step that needs its outputs is skipped.
func (c *compiler) rollback(n *syntax.Node, sc *scope, self *stepInfo) *program.Rollback {
	if n == nil {
		return nil
	}
	if n.Kind != syntax.Map {
		if n.Value != "none" {
			c.errorf(n, "wrong-value", "`rollback:` is `none`, `{ steps: […] }` or a step such as `{ action: …, with: … }`, and cannot be %s", found(n))
			return nil
		}
		return &program.Rollback{None: true}
	}
	around := sc.inner()
	around.collect = true
	if self.id != "" {
		seen := *self
		seen.unsure = "it may have failed half way"
		if known := c.infos[self.id]; known != nil {
			return nil // a duplicate id, reported
		}
		c.declare(around, &seen)
		defer delete(c.infos, self.id)
	}
	list := around.inner()
	r := &program.Rollback{}
	if len(n.Pairs) == 1 && n.Get("steps") != nil {
		m := c.keys(n, "`rollback:`", rollbackStepsKeys, nil)
		r.Steps = c.steps(m.get("steps"), list)
	} else if step, ok := c.step(n, list); ok {
		r.Steps = []program.Step{step}
	}
	hide(list, "inside a rollback, whose steps run only when the execution is taken back")
	around.steps = nil
	return r
}
