package compile

import (
	"strings"
	"unicode"

	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/lang/syntax"
)

// mostLockKey is the most that a key of `lock:` may have in bytes: it is part of a workflow's id.
const mostLockKey = 200

// limits compiles `lock:` and `max_running:`.
func (c *compiler) limits(prog *program.Program, m keyed, sc *scope) {
	if n := m.get("max_running"); n != nil {
		switch {
		case n.HasExpr():
			// Else each execution would say for itself how many others there may be.
			c.errorf(n, "expression-not-allowed", "`max_running:` is one number for all executions and cannot hold an expression")
		default:
			if v := c.count(n, sc, 1); v != nil && v.Lit != nil {
				prog.MaxRunning, prog.LockPos, prog.Version = int(min(intOf(v.Lit), 1<<30)), n.Pos, 2
			}
		}
	}
	if n := m.get("lock"); n != nil {
		prog.Lock, prog.LockPos, prog.Version = c.lock(n, sc), n.Pos, 2
	}
}

// lock compiles one key or a list of keys.
func (c *compiler) lock(n *syntax.Node, sc *scope) *program.Value {
	switch {
	case n.Kind == syntax.List:
		if len(n.Items) == 0 {
			c.errorf(n, "wrong-value", "`lock:` names no key; leave it out if nothing is to be locked")
			return nil
		}
		for _, item := range n.Items {
			c.lockKey(item)
		}
		v, _ := c.value(n, program.ListOf(stringType), sc, valueOpts{})
		return v
	case n.HasExpr():
		v, t := c.value(n, anyType, sc, valueOpts{})
		if v != nil && t.Kind != program.String && t.Kind != program.Any && mismatch(t, program.ListOf(stringType)) != "" {
			c.errorf(n, "wrong-type", "have %s, want a string or a list of strings: the keys that one execution at a time may hold", t)
			return nil
		}
		return v
	}
	c.lockKey(n)
	v, _ := c.value(n, stringType, sc, valueOpts{})
	return v
}

// lockKey checks a literal key; what an expression gives is checked when the execution starts.
func (c *compiler) lockKey(n *syntax.Node) {
	if n.Kind != syntax.String || n.HasExpr() {
		return
	}
	if s := n.Value; strings.TrimSpace(s) == "" || len(s) > mostLockKey || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		c.errorf(n, "wrong-value", "%q is no key: at most %d bytes of printable text, and not empty", clip(s), mostLockKey)
	}
}
