package compile

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/almanac-run/almanac/lang/expr"
	"github.com/almanac-run/almanac/lang/program"
)

// A scope is where an expression stands: the steps before it in its list, the
// scopes around it, and what is true and named there. Each list of steps has
// one; leaving a list moves its steps into the scope around it, or hides them.
type scope struct {
	parent *scope
	steps  []*stepInfo // compiled in this list, in order
	conds  []string    // the `if:` of the steps around (and of the step itself): true here
	locals []expr.Name // item, index, node, result, error

	// late: the list runs when the outer steps may have ended anywhere
	// (`finally:`), so that none of them is certain.
	late bool

	// collect: a step of the list that refers to what may be absent is skipped
	// at run time instead of refused here; skip, in the scope of one such step,
	// gathers the ids. strict ends this.
	collect, strict bool
	skip            *[]string
}

// stepInfo is a step as later expressions see it.
type stepInfo struct {
	id     string
	typ    program.Type
	scope  *scope   // where it is visible; nil: nowhere any more
	conds  []string // the `if:`s under which it ran, seen from scope
	unsure string   // why it may not have completed whatever the conditions; "" if that cannot be
	hidden string   // why it is not visible, for the message
}

// inner returns a scope for a list of steps inside the current one.
func (s *scope) inner() *scope { return &scope{parent: s} }

// with returns the same place with more names; a name hides one of the same name further out.
func (s *scope) with(names ...expr.Name) *scope {
	in := s.inner()
	in.locals = names
	return in
}

// under returns the same place where cond is known to be true.
func (s *scope) under(cond string) *scope {
	in := s.inner()
	in.conds = []string{cond}
	return in
}

// conditions returns everything known to be true, outermost last. What is said
// of an `item` is left out where another loop has given the name to its own.
func (s *scope) conditions() []string {
	var conds []string
	for at := s; at != nil; at = at.parent {
		for _, cond := range at.conds {
			if sameNames(cond, at, s) {
				conds = append(conds, cond)
			}
		}
	}
	return conds
}

// sameNames tells whether cond speaks of the same things at a as at b.
func sameNames(cond string, a, b *scope) bool {
	for _, at := range []*scope{a, b} {
		for ; at != nil; at = at.parent {
			for _, n := range at.locals {
				if speaksOf(cond, n.Name) && a.binder(n.Name) != b.binder(n.Name) {
					return false
				}
			}
		}
	}
	return true
}

// speaksOf tells whether name is a word of cond.
func speaksOf(cond, name string) bool {
	return slices.Contains(strings.FieldsFunc(cond, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) }), name)
}

// binder returns the scope that gives a local name its meaning at s, or nil.
func (s *scope) binder(name string) *scope {
	for ; s != nil; s = s.parent {
		if slices.ContainsFunc(s.locals, func(n expr.Name) bool { return n.Name == name }) {
			return s
		}
	}
	return nil
}

// collector returns the nearest skip list, if the expression stands where there is one.
func (s *scope) collector() *[]string {
	for ; s != nil && !s.strict; s = s.parent {
		if s.skip != nil {
			return s.skip
		}
	}
	return nil
}

// collects tells whether steps of the list note what they need.
func (s *scope) collects() bool {
	for ; s != nil; s = s.parent {
		if s.collect {
			return true
		}
	}
	return false
}

// sight tells whether a step is visible from s, and whether it may be absent.
func (s *scope) sight(info *stepInfo) (visible, maybe bool) {
	late := false
	for at := s; at != nil; at = at.parent {
		if info.scope == at {
			return true, late || info.unsure != "" || !s.implies(info)
		}
		late = late || at.late
	}
	return false, false
}

// implies tells whether the conditions under which a step ran are known to be
// true at s, word for word.
func (s *scope) implies(info *stepInfo) bool {
	for _, cond := range info.conds {
		// The clock moves on between two evaluations of the same text.
		if speaksOf(cond, "now") || !s.knows(cond, info.scope) {
			return false
		}
	}
	return true
}

// knows tells whether cond, as it is meant at there, is known to be true at s.
func (s *scope) knows(cond string, there *scope) bool {
	for at := s; at != nil; at = at.parent {
		if slices.Contains(at.conds, cond) && sameNames(cond, at, there) {
			return true
		}
	}
	return false
}

// declare makes a step visible to what follows it in its list.
func (c *compiler) declare(sc *scope, info *stepInfo) {
	info.scope = sc
	sc.steps = append(sc.steps, info)
	c.infos[info.id] = info
}

// leave moves the steps of an inner list out to sc, where they are as certain
// as the step that holds the list.
func leave(from, sc *scope, cond, unsure string) {
	for _, info := range from.steps {
		info.scope = sc
		if cond != "" {
			info.conds = append(slices.Clone(info.conds), cond)
		}
		info.unsure = cmp.Or(info.unsure, unsure)
		sc.steps = append(sc.steps, info)
	}
}

func setScope(infos []*stepInfo, sc *scope) {
	for _, info := range infos {
		info.scope = sc
	}
}

// hide makes the steps of an inner list invisible from now on.
func hide(from *scope, why string) {
	for _, info := range from.steps {
		info.scope, info.hidden = nil, why
	}
}

var mention = regexp.MustCompile(`\bsteps\s*(?:\.\s*\??\s*([A-Za-z_][A-Za-z0-9_]*))?`)

// names returns the scope of one expression. Of the steps only those that the
// text mentions are in it, so that a long runbook costs no more per expression
// than a short one. certain: treat every visible step as present.
func (c *compiler) names(text string, sc *scope, certain bool) expr.Scope {
	steps := program.Type{Kind: program.Object, Fields: []program.Field{}}
	add := func(info *stepInfo) {
		if _, dup := steps.Field(info.id); dup {
			return
		}
		if visible, maybe := sc.sight(info); visible {
			steps.Fields = append(steps.Fields, program.Field{Name: info.id, Type: info.typ, Optional: maybe && !certain})
		}
	}
	for _, m := range mention.FindAllStringSubmatch(text, -1) {
		if info, ok := c.infos[m[1]]; ok {
			add(info)
		} else if m[1] == "" {
			for _, info := range c.visible(sc) {
				add(info)
			}
		}
	}
	names := []expr.Name{
		{Name: "inputs", Type: c.inputs}, {Name: "vars", Type: c.vars},
		{Name: "steps", Type: steps}, {Name: "execution", Type: c.execution},
	}
	fixed := len(names)
	for at := sc; at != nil; at = at.parent {
		for _, n := range at.locals {
			if !slices.ContainsFunc(names[fixed:], func(o expr.Name) bool { return o.Name == n.Name }) {
				names = append(names, n)
			}
		}
	}
	return expr.Scope{Names: names, Guards: sc.conditions()}
}

// visible lists the named steps that an expression at sc can see, outermost first.
func (c *compiler) visible(sc *scope) []*stepInfo {
	var scopes []*scope
	for ; sc != nil; sc = sc.parent {
		scopes = append(scopes, sc)
	}
	var infos []*stepInfo
	for _, s := range slices.Backward(scopes) {
		infos = append(infos, s.steps...)
	}
	return infos
}
