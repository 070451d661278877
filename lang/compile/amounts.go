package compile

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/lang/syntax"
)

// The least that a duration may be.
const (
	zeroOrMore = time.Duration(0)
	positive   = time.Duration(1)
)

// duration compiles a duration: a literal or an expression of that type.
func (c *compiler) duration(n *syntax.Node, sc *scope, least time.Duration) *program.Value {
	if n == nil {
		return nil
	}
	v, _ := c.value(n, program.Type{Kind: program.DurationType}, sc, valueOpts{})
	if v != nil && v.Lit != nil {
		if d, err := program.ParseDuration(n.Value); err == nil && d < least {
			c.errorf(n, "bad-duration", "the duration must be more than %s", map[bool]string{true: "0", false: "or equal to 0"}[least > 0])
		}
	}
	return v
}

// count compiles a whole number that is at least least.
func (c *compiler) count(n *syntax.Node, sc *scope, least int64) *program.Value {
	if n == nil {
		return nil
	}
	v, _ := c.value(n, intType, sc, valueOpts{})
	if v != nil && v.Lit != nil {
		if i, err := strconv.ParseInt(string(v.Lit), 10, 64); err == nil && i < least {
			c.errorf(n, "wrong-value", "have %d, want at least %d", i, least)
		}
	}
	return v
}

func (c *compiler) factor(n *syntax.Node, sc *scope) *program.Value {
	if n == nil {
		return nil
	}
	v, _ := c.value(n, program.Type{Kind: program.Float}, sc, valueOpts{})
	if v != nil && v.Lit != nil {
		if f, err := strconv.ParseFloat(string(v.Lit), 64); err == nil && f < 1 {
			c.errorf(n, "wrong-value", "have %s, want at least 1", n.Value)
		}
	}
	return v
}

var percent = regexp.MustCompile(`^([0-9]{1,3})%$`)

// rate compiles a number or percentage, as max_concurrency, max_errors and batches want it.
func (c *compiler) rate(n *syntax.Node, sc *scope, least int64) *program.Value {
	switch {
	case n == nil:
		return nil
	case n.Kind == syntax.Int:
		return c.count(n, sc, least)
	case n.Kind == syntax.String && n.HasExpr():
		v, t := c.value(n, anyType, sc, valueOpts{})
		if v != nil && t.Kind != program.Int && t.Kind != program.String && t.Kind != program.Any {
			c.errorf(n, "wrong-type", "have %s, want a number or a percentage such as 10%%", t)
		}
		return v
	case n.Kind == syntax.String:
		if m := percent.FindStringSubmatch(n.Value); m != nil {
			if p, err := strconv.ParseInt(m[1], 10, 64); err == nil && p <= 100 && p >= least {
				return &program.Value{Lit: quote(n.Value)}
			}
		}
	}
	c.errorf(n, "bad-rate", "have %s, want a number of at least %d or a percentage from %d%% to 100%%", found(n), least, least)
	return nil
}

// rates compiles `batches:`.
func (c *compiler) rates(n *syntax.Node, sc *scope) []program.Value {
	if n == nil {
		return nil
	}
	if n.Kind != syntax.List || len(n.Items) == 0 {
		c.errorf(n, "wrong-type", "`batches:` is a list of sizes such as [1, 10%%, 100%%]; found %s", found(n))
		return nil
	}
	var list []program.Value
	last := map[bool]int64{}
	for _, item := range n.Items {
		v := c.rate(item, sc, 1)
		if v == nil {
			continue
		}
		list = append(list, *v)
		size, isPercent, ok := literalRate(v.Lit)
		if ok && size < last[isPercent] {
			c.errorf(item, "wrong-value", "batches grow, and %s is smaller than the one before", item.Value)
		}
		if ok {
			last[isPercent] = size
		}
	}
	return list
}

func literalRate(lit json.RawMessage) (size int64, isPercent, ok bool) {
	if lit == nil {
		return 0, false, false
	}
	if n, err := fmt.Sscanf(string(lit), `"%d%%"`, &size); err == nil && n == 1 {
		return size, true, true
	}
	size, err := strconv.ParseInt(string(lit), 10, 64)
	return size, false, err == nil
}
