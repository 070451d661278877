package compile

import (
	"bytes"
	"encoding/json"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/lang/syntax"
)

// inspect lets an action say what it knows of the inputs of one step. at is the
// action's name, with the node of the inputs, nil if there is none.
func (c *compiler) inspect(call *program.Call, at, with *syntax.Node, info action.Info) {
	if info.Inspect == nil {
		return
	}
	in := map[string]any{}
	for _, e := range call.With {
		in[e.Key] = c.foreseen(&e.Value)
	}
	found := info.Inspect(in)
	for _, p := range found.Problems {
		n := at
		if with != nil {
			n = inside(with, p.Path, p.Name)
		}
		if p.Warning {
			c.warnf(n.Pos, n.Width, "doubtful-input", "%s", p.Message)
		} else {
			c.errorf(n, "wrong-input", "%s", p.Message)
		}
	}
	if found.Output != nil && fieldsIn(*found.Output, maxFields) <= maxFields {
		call.Output = *found.Output
	}
}

// foreseen is what is known of a value before the step runs: plain data, with an
// action.Later for each expression.
func (c *compiler) foreseen(v *program.Value) any {
	switch {
	case v.Expr != nil:
		return action.Later{Type: c.types[v.Expr.Pos]}
	case v.Text != nil:
		return action.Later{Type: stringType}
	case v.List != nil:
		list := make([]any, len(v.List))
		for i := range v.List {
			list[i] = c.foreseen(&v.List[i])
		}
		return list
	case v.Map != nil:
		m := map[string]any{}
		for i := range v.Map {
			m[v.Map[i].Key] = c.foreseen(&v.Map[i].Value)
		}
		return m
	}
	dec := json.NewDecoder(bytes.NewReader(v.Lit))
	dec.UseNumber() // 3 is no 3.0
	var lit any
	if dec.Decode(&lit) != nil {
		return nil // our own JSON
	}
	return lit
}

// inside returns the node at a path, or the innermost that there is: of what is
// missing, the map that lacks it. With name it is the key at the path's end.
func inside(n *syntax.Node, path []any, name bool) *syntax.Node {
	for i, at := range path {
		var next *syntax.Node
		switch at := at.(type) {
		case int:
			if n.Kind == syntax.List && at < len(n.Items) {
				next = n.Items[at]
			}
		case string:
			for _, p := range n.Pairs {
				if p.Key.Value == at {
					next = p.Value
					if name && i == len(path)-1 {
						next = p.Key
					}
				}
			}
		}
		if next == nil {
			break
		}
		n = next
	}
	return n
}
