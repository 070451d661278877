package compile

import (
	"encoding/json"
	"regexp"
	"strconv"
	"time"

	"github.com/almanac-run/almanac/lang/expr"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/lang/syntax"
)

// declareInputs compiles `inputs:`.
func (c *compiler) declareInputs(n *syntax.Node) []program.Input {
	var inputs []program.Input
	for _, p := range c.entries(n, "inputs") {
		if !c.name(p.Key, "input") {
			continue
		}
		in := program.Input{Name: p.Key.Value, Type: anyType, Pos: p.Key.Pos}
		if p.Value.Kind == syntax.String {
			c.errorf(p.Value, "wrong-type", "an input is a map: %s: { type: %s }", p.Key.Value, clip(p.Value.Value))
		} else if m := c.keys(p.Value, "input "+p.Key.Value, inputKeys, nil); m.get("type") != nil {
			in.Type = c.inputType(m.get("type"))
			c.constraints(&in, m)
		}
		c.inputs.Fields = append(c.inputs.Fields, program.Field{Name: in.Name, Type: in.Type})
		inputs = append(inputs, in)
	}
	return inputs
}

// foreignTypes are words that other languages have for our types.
var foreignTypes = map[string]string{"integer": "int", "number": "float", "double": "float", "boolean": "bool", "str": "string", "text": "string",
	"array": "list<string>", "dict": "map<string>", "password": "secret", "datetime": "timestamp"}

// inputType reads the type of an input; `any` stands for one that is wrong.
func (c *compiler) inputType(n *syntax.Node) program.Type {
	if n.Kind == syntax.List || n.Kind == syntax.Map {
		c.errorf(n, "bad-type", "a type is a word such as string or list<string>; found %s", found(n))
		return anyType
	}
	t, err := program.ParseType(n.Value)
	switch {
	case err != nil:
		hint := suggestOnly(n.Value, typeNames)
		if foreign := foreignTypes[n.Value]; foreign != "" {
			hint = "; did you mean " + foreign + "?"
		} else if n.Value == "list" || n.Value == "map" {
			hint = "" // the error says it
		}
		c.errorf(n, "bad-type", "%v%s", err, hint)
		return anyType
	case t.Holds(program.Any):
		c.errorf(n, "bad-type", "an input has a type that can be checked: string, int, float, bool, duration, timestamp, list<T>, map<T>, object, secret")
		return anyType
	case t.Kind != program.Secret && t.Holds(program.Secret):
		c.errorf(n, "bad-type", "a secret is an input of its own and cannot be inside %s", article(t))
		return anyType
	}
	return t
}

var typeNames = []string{"string", "int", "float", "bool", "duration", "timestamp", "list<string>", "map<string>", "object", "secret"}

// constraints compiles default, enum, pattern, min and max, which must fit the
// type, and the default must keep to the others.
func (c *compiler) constraints(in *program.Input, m keyed) {
	t := in.Type
	in.Summary = c.text(m.get("summary"), "summary")
	good := t.Kind != program.Any

	if n := m.get("enum"); n != nil {
		good = c.inputEnum(in, n) && good
	}
	if n := m.get("pattern"); n != nil {
		good = c.pattern(in, n) && good
	}
	of, length := t, false
	switch t.Kind {
	case program.String, program.List, program.Map:
		of, length = intType, true
	}
	for _, bound := range []struct {
		name string
		into *json.RawMessage
	}{{"min", &in.Min}, {"max", &in.Max}} {
		n := m.get(bound.name)
		if n == nil {
			continue
		}
		switch of.Kind {
		case program.Int, program.Float, program.DurationType, program.Timestamp:
			if *bound.into = c.fixed(n, bound.name, of); *bound.into == nil {
				good = false
			} else if length && intOf(*bound.into) < 0 {
				c.errorf(n, "wrong-value", "a length cannot be negative")
				good = false
			}
		case program.Any:
		default:
			c.errorf(n, "misplaced-key", "`%s:` means nothing for %s", bound.name, article(t))
			good = false
		}
	}
	if good && in.Min != nil && in.Max != nil && less(in.Max, in.Min, of) {
		c.errorf(m.get("max"), "wrong-value", "max is less than min: no value fits")
		good = false
	}
	if n := m.get("default"); n != nil {
		in.Default = c.fixed(n, "default", t)
		if in.Default == nil {
			in.Default = json.RawMessage("null") // given, though wrong: the input is not required
		} else if good {
			if why := violation(*in, in.Default); why != "" {
				c.errorf(n, "input-constraint", "the default does not keep to the input's own constraints: %s", why)
			}
		}
	}
}

// fixed compiles a literal value.
func (c *compiler) fixed(n *syntax.Node, what string, t program.Type) json.RawMessage {
	if expressionIn(n) {
		c.errorf(n, "expression-not-allowed", "`%s:` is read before anything runs and cannot hold an expression", what)
		return nil
	}
	v, _ := c.value(n, t, &scope{}, valueOpts{})
	if v == nil {
		return nil
	}
	return v.Lit
}

func expressionIn(n *syntax.Node) bool {
	for _, item := range n.Items {
		if expressionIn(item) {
			return true
		}
	}
	for _, p := range n.Pairs {
		if expressionIn(p.Value) {
			return true
		}
	}
	return n.HasExpr()
}

func (c *compiler) inputEnum(in *program.Input, n *syntax.Node) bool {
	t := in.Type
	if t.Kind == program.List {
		t = *t.Elem
	}
	switch t.Kind {
	case program.Any:
		return false
	case program.String, program.Int, program.Float, program.DurationType, program.Timestamp:
	default:
		c.errorf(n, "misplaced-key", "`enum:` means nothing for %s", article(in.Type))
		return false
	}
	if n.Kind != syntax.List || len(n.Items) == 0 {
		c.errorf(n, "wrong-type", "`enum:` is a list of the values that are allowed; found %s", found(n))
		return false
	}
	good := true
	for _, item := range n.Items {
		if lit := c.fixed(item, "enum", t); lit != nil {
			in.Enum = append(in.Enum, lit)
		} else {
			good = false
		}
	}
	return good
}

func (c *compiler) pattern(in *program.Input, n *syntax.Node) bool {
	t := in.Type
	if t.Kind == program.List {
		t = *t.Elem
	}
	if t.Kind != program.String && t.Kind != program.Any {
		c.errorf(n, "misplaced-key", "`pattern:` means nothing for %s; it is for strings and lists of strings", article(in.Type))
		return false
	}
	in.Pattern = c.text(n, "pattern")
	if _, err := regexp.Compile(in.Pattern); err != nil {
		c.errorf(n, "bad-pattern", "not an RE2 pattern: %v", err)
		return false
	}
	return in.Pattern != ""
}

// violation says which constraint of the input a literal breaks; "" if none.
func violation(in program.Input, lit json.RawMessage) string {
	in.Default = nil
	if _, errs := program.CheckInputs([]program.Input{in}, map[string]json.RawMessage{in.Name: lit}); len(errs) > 0 {
		return errs[0].Message
	}
	return ""
}

// unusedInputs warns of inputs that nothing refers to.
func (c *compiler) unusedInputs(inputs []program.Input) {
	if c.used["*"] {
		return
	}
	if failed(c.diags) {
		// Parts with mistakes were not looked into: what is mentioned there counts.
		for _, m := range inputMention.FindAllStringSubmatch(c.source, -1) {
			c.used[m[1]] = true
		}
	}
	for _, in := range inputs {
		if !c.used[in.Name] {
			c.warnf(in.Pos, width(in.Name), "unused-input", "input %s is never used", in.Name)
		}
	}
}

func intOf(lit json.RawMessage) int64 {
	v, err := strconv.ParseInt(string(lit), 10, 64)
	if err != nil {
		return 0
	}
	return v
}

// less compares two literals of an ordered type.
func less(a, b json.RawMessage, t program.Type) bool {
	x, errX := expr.FromJSON(a, t)
	y, errY := expr.FromJSON(b, t)
	if errX != nil || errY != nil {
		return false
	}
	switch x := x.(type) {
	case int64:
		y, ok := y.(int64)
		return ok && x < y
	case float64:
		y, ok := y.(float64)
		return ok && x < y
	case time.Duration:
		y, ok := y.(time.Duration)
		return ok && x < y
	case time.Time:
		y, ok := y.(time.Time)
		return ok && x.Before(y)
	}
	return false
}
