package compile

import (
	"fmt"

	"github.com/almanac-run/almanac/lang/expr"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/lang/syntax"
)

// block compiles `steps:`, alone or as the body of a loop.
func (c *compiler) block(step *program.Step, m keyed, sc *scope) program.Type {
	items, repeat := m.get("for_each"), m.get("repeat")
	if items != nil && repeat != nil {
		c.errorf(repeat, "several-forms", "a block is either a `for_each:` or a `repeat:`; put one inside the other")
	}
	if items != nil {
		return c.forEach(step, items, m, sc)
	}
	for _, name := range []string{"max_concurrency", "max_errors"} {
		if n := m.get(name); n != nil {
			c.errorf(n, "misplaced-key", "`%s:` means nothing without `for_each:`", name)
		}
	}
	if repeat != nil {
		return c.repeat(step, repeat, m, sc)
	}
	list := sc.inner()
	step.Steps = c.steps(m.get("steps"), list)
	step.Outputs = c.outputs(m.get("outputs"), strict(list), program.Type{})
	leave(list, sc, "", "")
	return program.Type{Kind: program.Object, Fields: []program.Field{}}
}

// strict returns a scope at the end of a list: what stands there cannot be
// skipped because of the steps inside.
func strict(list *scope) *scope {
	s := list.inner()
	s.strict = true
	return s
}

func (c *compiler) forEach(step *program.Step, items *syntax.Node, m keyed, sc *scope) program.Type {
	step.Kind = program.KindForEach
	step.ForEach = &program.ForEach{ItemType: anyType,
		MaxConcurrency: c.rate(m.get("max_concurrency"), sc, 1),
		MaxErrors:      c.rate(m.get("max_errors"), sc, 0)}
	v, t := c.value(items, anyType, sc, valueOpts{})
	switch {
	case v == nil:
	case t.Kind == program.List:
		step.ForEach.ItemType = *t.Elem
	case t.Kind == program.Map:
		step.ForEach.ItemType = object("key", stringType, "value", *t.Elem)
	case t.Kind == program.Object:
		var types []program.Type
		for _, f := range t.Fields {
			types = append(types, f.Type)
		}
		step.ForEach.ItemType = object("key", stringType, "value", join(types))
	case items.Kind == syntax.String && !items.HasExpr():
		c.errorf(items, "wrong-type", "`for_each:` wants a list or a map, and this is text; an expression is written ${{ %s }}", clip(items.Value))
	case t.Kind != program.Any:
		c.errorf(items, "wrong-type", "`for_each:` wants a list or a map, and this is %s", article(t))
	}
	if v != nil {
		step.ForEach.Items = *v
	}
	list := sc.with(expr.Name{Name: "item", Type: step.ForEach.ItemType}, expr.Name{Name: "index", Type: intType})
	step.Steps = c.steps(m.get("steps"), list)
	step.Outputs = c.outputs(m.get("outputs"), strict(list), program.Type{})
	hide(list, c.inside("the for_each", step, "steps.%s.results"))

	each := program.Type{Kind: program.Object, Fields: []program.Field{}}
	for _, o := range step.Outputs {
		each.Fields = append(each.Fields, program.Field{Name: o.Name, Type: o.Type})
	}
	return object("results", program.ListOf(each), "succeeded", intType, "failed", intType)
}

// inside says of the steps in a loop why they cannot be seen from outside.
func (c *compiler) inside(what string, step *program.Step, as string) string {
	if step.Named {
		return fmt.Sprintf("inside %s %s; give that `outputs:` and refer to "+as, what, step.ID, step.ID)
	}
	return fmt.Sprintf("inside %s at %s; give that an id and `outputs:` and refer to "+as, what, step.Pos, "<id>")
}

func (c *compiler) repeat(step *program.Step, n *syntax.Node, m keyed, sc *scope) program.Type {
	step.Kind = program.KindRepeat
	r := c.keys(n, "`repeat:`", repeatKeys, nil)
	step.Repeat = &program.Repeat{
		Every:    c.duration(r.get("every"), sc, zeroOrMore),
		Attempts: c.count(r.get("attempts"), sc, 1),
	}
	list := sc.with(expr.Name{Name: "index", Type: intType})
	step.Steps = c.steps(m.get("steps"), list)
	if until := c.bare(r.get("until"), "until", strict(list), boolType); until != nil {
		step.Repeat.Until = *until
	}
	own := object("attempts", intType)
	step.Outputs = c.outputs(m.get("outputs"), strict(list), own)
	hide(list, c.inside("the repeat", step, "steps.%s"))
	return own
}

func (c *compiler) parallel(step *program.Step, m keyed, sc *scope) program.Type {
	n := m.get("parallel")
	var lists []*scope
	if n.Kind != syntax.Map || len(n.Pairs) == 0 {
		c.errorf(n, "wrong-type", "`parallel:` is a map of branches, each a list of steps; found %s", found(n))
		return program.Type{Kind: program.Object}
	}
	for _, p := range n.Pairs {
		if !c.name(p.Key, "branch") {
			continue
		}
		list := sc.inner()
		step.Branches = append(step.Branches, program.Branch{Name: p.Key.Value, Pos: p.Key.Pos, Steps: c.steps(p.Value, list)})
		lists = append(lists, list)
	}
	all := sc.inner()
	for _, list := range lists {
		leave(list, all, "", "")
	}
	step.Outputs = c.outputs(m.get("outputs"), strict(all), program.Type{})
	leave(all, sc, "", "")
	return program.Type{Kind: program.Object, Fields: []program.Field{}}
}
