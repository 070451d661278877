package compile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/almanac-run/almanac/lang/expr"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/lang/syntax"
)

// bare compiles the value of a key that holds an expression without braces,
// such as `if:`. Braces around the whole are accepted. want is what it must give.
func (c *compiler) bare(n *syntax.Node, key string, sc *scope, want program.Type) *program.Expr {
	if n == nil {
		return nil
	}
	if n.Kind == syntax.Null || n.Kind == syntax.List || n.Kind == syntax.Map {
		c.errorf(n, "wrong-type", "`%s:` wants an expression that gives a %s; found %s", key, want, found(n))
		return nil
	}
	seg := syntax.Segment{Text: strings.TrimSpace(n.Value),
		Offset: utf8.RuneCountInString(n.Value) - utf8.RuneCountInString(strings.TrimLeft(n.Value, " \t\n"))}
	if strings.HasPrefix(seg.Text, "${{") {
		segments, ok := c.segments(n)
		switch {
		case !ok:
			return nil
		case len(segments) > 1 && strings.TrimSpace(segments[1].Text) != "" || len(segments) > 2:
			c.errorf(n, "partial-expression", "`%s:` is an expression as a whole; write it without ${{ }}", key)
			return nil
		}
		seg = segments[0]
	}
	e, t, ok := c.expression(n, seg, sc)
	if !ok {
		return nil
	}
	if why := mismatch(t, want); why != "" {
		c.errorAt(e.Pos, width(seg.Text), "wrong-type", "`%s:` must be %s, and this is %s", key, article(want), article(t))
	}
	return e
}

// segments cuts a scalar; an expression that does not end is a diagnostic.
func (c *compiler) segments(n *syntax.Node) ([]syntax.Segment, bool) {
	segments, bad, ok := n.Segments()
	if !ok {
		c.errorAt(bad, 3, "unterminated-expression", "this ${{ has no closing }}; a literal ${{ is written ${{ \"${{\" }}")
	}
	return segments, ok
}

// expression checks one expression in its scope. ok is false if it has a
// mistake, which then has been reported; the type is `any`.
func (c *compiler) expression(n *syntax.Node, seg syntax.Segment, sc *scope) (e *program.Expr, t program.Type, ok bool) {
	e = &program.Expr{Text: seg.Text, Pos: n.At(seg.Offset)}
	if seg.Text == "" {
		c.errorAt(n.At(seg.Start), 3, expr.CodeSyntax, "the expression is empty")
		return e, anyType, false
	}
	if len(c.diags) == maxDiagnostics {
		return e, anyType, false
	}
	checked, problems := expr.Check(seg.Text, c.names(seg.Text, sc, false))
	if skip := sc.collector(); skip != nil && slices.ContainsFunc(problems, func(p expr.Problem) bool { return p.Code == expr.CodeUnguarded }) {
		// What is missing only because a step did not run makes this step be skipped.
		sure, rest := expr.Check(seg.Text, c.names(seg.Text, sc, true))
		if len(rest) == 0 {
			c.need(skip, sc, checked.Refs, problems)
		}
		checked, problems = sure, rest
	}
	for _, p := range problems {
		c.problem(n, seg, sc, p)
	}
	if len(problems) > 0 {
		for _, m := range inputMention.FindAllStringSubmatch(seg.Text, -1) {
			c.used[m[1]] = true
		}
		return e, anyType, false
	}
	for _, ref := range checked.Refs {
		// The interpreter keeps the outputs of the steps that the text names.
		const root = "steps"
		if rest := []rune(seg.Text)[min(ref.Offset, utf8.RuneCountInString(seg.Text)):]; ref.Path[0] == root && !stepChain.MatchString(string(rest)) {
			c.errorAt(n.At(seg.Offset+ref.Offset), len(root), "whole-steps", "steps is no value of its own; refer to one step, as steps.<id>, on one line")
			return e, anyType, false
		}
		if ref.Path[0] == "inputs" {
			if len(ref.Path) > 1 {
				c.used[ref.Path[1]] = true
			} else {
				c.used["*"] = true
			}
		}
	}
	return e, checked.Type, true
}

// stepChain is how a step is named.
var stepChain = regexp.MustCompile(`^steps[ \t]*\.[ \t]*\??[ \t]*[a-z_]`)

var inputMention = regexp.MustCompile(`\binputs\s*\.\s*\??\s*([a-z_][a-z0-9_]*)`)

// need notes the steps whose absence is among the problems of an expression.
func (c *compiler) need(skip *[]string, sc *scope, refs []expr.Ref, problems []expr.Problem) {
	for _, ref := range refs {
		blamed := slices.ContainsFunc(problems, func(p expr.Problem) bool { return p.Offset == ref.Offset })
		if !blamed || ref.Path[0] != "steps" || len(ref.Path) < 2 || slices.Contains(*skip, ref.Path[1]) {
			continue
		}
		if info, ok := c.infos[ref.Path[1]]; ok {
			if _, maybe := sc.sight(info); maybe {
				*skip = append(*skip, info.id)
			}
		}
	}
}

// problem reports what expr found, in words that know the runbook.
func (c *compiler) problem(n *syntax.Node, seg syntax.Segment, sc *scope, p expr.Problem) {
	pos := n.At(seg.Offset + p.Offset)
	if p.Code == expr.CodeReference || p.Code == expr.CodeUnguarded {
		for _, m := range mention.FindAllStringSubmatchIndex(seg.Text, -1) {
			if m[2] < 0 {
				continue
			}
			from, to := utf8.RuneCountInString(seg.Text[:m[0]]), utf8.RuneCountInString(seg.Text[:m[3]])
			if p.Offset+max(p.Width, 1) <= from || p.Offset >= to {
				continue
			}
			id := seg.Text[m[2]:m[3]]
			start := utf8.RuneCountInString(seg.Text[:m[2]])
			info := c.infos[id]
			visible := false
			if info != nil {
				visible, _ = sc.sight(info)
			}
			switch {
			case !visible:
				c.errorAt(n.At(seg.Offset+start), width(id), "unknown-step", "%s", c.unseen(id, sc))
				return
			case p.Code == expr.CodeUnguarded:
				if _, maybe := sc.sight(info); maybe {
					c.errorAt(pos, max(p.Width, 1), p.Code, "step %s may not have run%s; guard it: has(steps.%s) && …, or steps.?%s.?output.orValue(\"…\"), or give this step `if: has(steps.%s)`",
						id, c.why(info), id, id, id)
					return
				}
			}
		}
	}
	c.errorAt(pos, max(p.Width, 1), p.Code, "%s", p.Message)
}

// why says what makes a step uncertain.
func (c *compiler) why(info *stepInfo) string {
	if len(info.conds) > 0 && info.conds[0] == "" {
		return " (its if: is wrong)"
	}
	if len(info.conds) > 0 {
		return fmt.Sprintf(" (if: %s)", clip(info.conds[0]))
	}
	if info.unsure != "" {
		return " (" + info.unsure + ")"
	}
	return ""
}

// unseen says why steps.id means nothing here.
func (c *compiler) unseen(id string, sc *scope) string {
	if info := c.infos[id]; info != nil && info.hidden != "" {
		return fmt.Sprintf("step %s cannot be seen from here: it is %s", id, info.hidden)
	}
	if pos, ok := c.ids[id]; ok {
		if c.infos[id] != nil {
			return fmt.Sprintf("step %s (at %s) cannot be seen from here: it belongs to another branch", id, pos)
		}
		return fmt.Sprintf("step %s (at %s) has not run yet at this point; only steps before this one can be referred to", id, pos)
	}
	var known []string
	for _, info := range c.visible(sc) {
		known = append(known, info.id)
	}
	if len(known) == 0 {
		return fmt.Sprintf("there is no step %s; no named step runs before this one", id)
	}
	return fmt.Sprintf("there is no step %s%s", id, suggest(id, "steps before this one are", known))
}

// width is how many characters of the first line of an expression to underline.
func width(text string) int {
	first, _, _ := strings.Cut(text, "\n")
	return utf8.RuneCountInString(first)
}

func clip(s string) string {
	const most = 60
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}
