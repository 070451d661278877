package compile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/lang/expr"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/lang/syntax"
)

// valueOpts says what else may stand in a place.
type valueOpts struct {
	secret bool          // a secret, as a whole value
	field  *action.Field // the input of an action: its enum, and the fields inside it
	script bool          // no expressions: it is code
}

// value compiles a value for a place that wants type want, and infers its type.
// The value is nil if it has a mistake, which then has been reported; the type
// then is `any` or what is known of it.
func (c *compiler) value(n *syntax.Node, want program.Type, sc *scope, o valueOpts) (*program.Value, program.Type) {
	switch n.Kind {
	case syntax.List:
		return c.list(n, want, sc, o)
	case syntax.Map:
		return c.mapping(n, want, sc, o)
	}
	if n.HasExpr() {
		if o.script {
			c.scriptExpressions(n)
			return nil, want
		}
		return c.templated(n, want, sc, o)
	}
	lit, t := c.literal(n, want)
	if lit == nil {
		return nil, t
	}
	if o.field != nil && o.field.Enum != nil && n.Kind == syntax.String && want.Kind == program.String {
		c.enum(n, o.field.Name, o.field.Enum)
	}
	return &program.Value{Lit: lit}, t
}

// scriptExpressions refuses expressions in a script: what an expression gives
// must never become code.
func (c *compiler) scriptExpressions(n *syntax.Node) {
	segments, ok := c.segments(n)
	if !ok {
		return
	}
	for _, s := range segments {
		if s.Expr {
			c.errorAt(n.At(s.Start), width(s.Text)+6, "expression-in-script",
				"a script is not a template; hand the value over as `env: { VALUE: ${{ %s }} }` and write \"$VALUE\" here", clip(s.Text))
		}
	}
}

// templated compiles a scalar with expressions in it.
func (c *compiler) templated(n *syntax.Node, want program.Type, sc *scope, o valueOpts) (*program.Value, program.Type) {
	segments, ok := c.segments(n)
	if !ok {
		return nil, anyType
	}
	if len(segments) == 1 {
		e, t, ok := c.expression(n, segments[0], sc)
		if !ok {
			return nil, anyType
		}
		if !c.fits(e.Pos, width(segments[0].Text), t, want, o) {
			return nil, t
		}
		if t.Holds(program.Secret) && !secretChain.MatchString(e.Text) {
			c.errorAt(e.Pos, width(e.Text), "misplaced-secret", "a secret may only be named, as ${{ inputs.name }} without anything else")
			return nil, t
		}
		c.types[e.Pos] = t
		return &program.Value{Expr: e}, t
	}
	good := true
	v := &program.Value{}
	for _, s := range segments {
		if !s.Expr {
			v.Text = append(v.Text, program.Part{Lit: s.Text})
			continue
		}
		e, t, ok := c.expression(n, s, sc)
		if ok && t.Holds(program.Secret) {
			c.errorAt(e.Pos, width(s.Text), "misplaced-secret", "a secret cannot be part of a text; give it as a value of its own: ${{ %s }}", clip(s.Text))
			ok = false
		}
		good = good && ok
		v.Text = append(v.Text, program.Part{Expr: e})
	}
	if want.Kind != program.String && want.Kind != program.Any {
		c.errorf(n, "wrong-type", "text around an expression makes a string, and this wants %s; write the expression alone", article(want))
		good = false
	}
	if !good {
		return nil, stringType
	}
	return v, stringType
}

// secretChain is how an expression names a secret. The interpreter lets a reference to a
// secret pass only from such an expression: all others may have made it up.
var secretChain = regexp.MustCompile(`^(inputs|vars)(\.[a-z0-9_]+)+$`)

// fits reports an expression whose type cannot stand where want is expected.
func (c *compiler) fits(pos program.Pos, width int, have, want program.Type, o valueOpts) bool {
	if have.Holds(program.Secret) {
		if o.secret && (have.Kind == program.Secret || mismatch(have, want) == "") {
			return true
		}
		c.errorAt(pos, width, "misplaced-secret", "a secret cannot stand here; only inputs of actions that are marked secret, `env:` and secret inputs of runbooks take one")
		return false
	}
	if want.Kind == program.Secret && have.Kind != program.Any {
		c.errorAt(pos, width, "wrong-type", "have %s, want a secret: ${{ inputs.name }} of an input of type secret, or a literal reference such as env:NAME", have)
		return false
	}
	if why := mismatch(have, want); why != "" {
		c.errorAt(pos, width, "wrong-type", "%s%s", why, conversion(have, want))
		return false
	}
	return true
}

// conversion says how to get from one type to another, if there is a short way.
func conversion(have, want program.Type) string {
	switch {
	case want.Kind == program.String && have.Kind != program.List && have.Kind != program.Map && have.Kind != program.Object:
		return "; convert it with string(…)"
	case want.Kind == program.Int && (have.Kind == program.String || have.Kind == program.Float):
		return "; convert it with int(…)"
	case want.Kind == program.DurationType && have.Kind == program.String:
		return "; convert it with duration(…)"
	case want.Kind == program.Timestamp && have.Kind == program.String:
		return "; convert it with timestamp(…)"
	case want.Kind == program.List && mismatch(have, *want.Elem) == "":
		return "; put it into a list: [ … ]"
	}
	return ""
}

func (c *compiler) list(n *syntax.Node, want program.Type, sc *scope, o valueOpts) (*program.Value, program.Type) {
	elem := anyType
	switch want.Kind {
	case program.List:
		elem = *want.Elem
	case program.Any:
		o = valueOpts{} // a secret stands alone
	default:
		c.errorf(n, "wrong-type", "have a list, want %s", want)
		return nil, anyType
	}
	good := true
	values, types := make([]program.Value, 0, len(n.Items)), make([]program.Type, 0, len(n.Items))
	for _, item := range n.Items {
		v, t := c.value(item, elem, sc, o)
		if v == nil {
			good = false
			continue
		}
		values, types = append(values, *v), append(types, t)
	}
	t := program.ListOf(join(types))
	if want.Kind == program.List && want.Elem.Kind != program.Any {
		t = want
	}
	if !good {
		return nil, t
	}
	for _, v := range values {
		if v.Lit == nil {
			return &program.Value{List: values}, t
		}
	}
	var b bytes.Buffer
	b.WriteByte('[')
	for i, v := range values {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(v.Lit)
	}
	b.WriteByte(']')
	return &program.Value{Lit: b.Bytes()}, t
}

func (c *compiler) mapping(n *syntax.Node, want program.Type, sc *scope, o valueOpts) (*program.Value, program.Type) {
	switch want.Kind {
	case program.Map, program.Object, program.Any:
	default:
		c.errorf(n, "wrong-type", "have a map, want %s", want)
		return nil, anyType
	}
	entries, t, good := c.mapEntries(n, want, sc, o)
	if !good {
		return nil, t
	}
	for _, e := range entries {
		if e.Value.Lit == nil {
			return &program.Value{Map: entries}, t
		}
	}
	var b bytes.Buffer
	b.WriteByte('{')
	for i, e := range entries {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(quote(e.Key))
		b.WriteByte(':')
		b.Write(e.Value.Lit)
	}
	b.WriteByte('}')
	return &program.Value{Lit: b.Bytes()}, t
}

func (c *compiler) mapEntries(n *syntax.Node, want program.Type, sc *scope, o valueOpts) ([]program.Entry, program.Type, bool) {
	good := true
	t := program.Type{Kind: program.Object, Fields: []program.Field{}}
	var entries []program.Entry
	var known []string
	for _, f := range want.Fields {
		known = append(known, f.Name)
	}
	for _, p := range n.Pairs {
		if !c.plainKey(p.Key) {
			good = false
			continue
		}
		elem, inner := anyType, valueOpts{} // a secret stands alone
		switch {
		case want.Kind == program.Map:
			elem, inner = *want.Elem, o
		case want.Kind == program.Object && want.Fields != nil:
			f, ok := want.Field(p.Key.Value)
			if !ok {
				c.errorf(p.Key, "unknown-field", "there is no field %s here%s", p.Key.Value, suggest(p.Key.Value, "there are", known))
				good = false
				continue
			}
			elem = f.Type
			if inner.field = fieldOf(o.field, f.Name); inner.field != nil {
				inner.secret = inner.field.Secret
			}
		}
		v, et := c.value(p.Value, elem, sc, inner)
		t.Fields = append(t.Fields, program.Field{Name: p.Key.Value, Type: et})
		if v == nil {
			good = false
			continue
		}
		entries = append(entries, program.Entry{Key: p.Key.Value, Value: *v})
	}
	for _, f := range want.Fields {
		if !f.Optional && n.Get(f.Name) == nil {
			c.errorf(n, "missing-field", "%s is missing here", f.Name)
			good = false
		}
	}
	if want.Kind == program.Map && want.Elem.Kind != program.Any || want.Kind == program.Object && want.Fields != nil {
		t = want
	}
	return entries, t, good
}

func fieldOf(of *action.Field, name string) *action.Field {
	if of == nil {
		return nil
	}
	for i := range of.Fields {
		if of.Fields[i].Name == name {
			return &of.Fields[i]
		}
	}
	return nil
}

// plainKey refuses an expression in a key.
func (c *compiler) plainKey(key *syntax.Node) bool {
	if key.HasExpr() {
		c.errorf(key, "expression-in-key", "a key is fixed and cannot hold an expression; build the map in an expression instead: ${{ {inputs.key: \"value\"} }}")
		return false
	}
	return true
}

// literal turns a scalar without expressions into the JSON of a value of type
// want, in the canonical form that run time uses too.
func (c *compiler) literal(n *syntax.Node, want program.Type) (json.RawMessage, program.Type) {
	wrong := func(hint string) (json.RawMessage, program.Type) {
		c.errorf(n, "wrong-type", "have %s, want %s%s", found(n), want, hint)
		return nil, want
	}
	if n.Kind == syntax.Null && want.Kind != program.Any {
		if want.Kind == program.String {
			return wrong("; an empty string is written \"\"")
		}
		return wrong("")
	}
	switch want.Kind {
	case program.String:
		if n.Kind != syntax.String {
			return wrong("; quote it: " + strconv.Quote(n.Value))
		}
		return quote(n.Value), want
	case program.Int:
		switch n.Kind {
		case syntax.Int:
			return c.int(n), want
		case syntax.String:
			if _, err := strconv.ParseInt(n.Value, 10, 64); err == nil {
				return wrong("; write it without quotes")
			}
		}
		return wrong("")
	case program.Float:
		switch n.Kind {
		case syntax.Int:
			return c.int(n), want
		case syntax.Float:
			return c.float(n), want
		case syntax.String:
			if _, err := strconv.ParseFloat(n.Value, 64); err == nil {
				return wrong("; write it without quotes")
			}
		}
		return wrong("")
	case program.Bool:
		switch {
		case n.Kind == syntax.Bool:
			return json.RawMessage(strings.ToLower(n.Value)), want
		case n.Kind == syntax.String:
			switch strings.ToLower(n.Value) {
			case "yes", "on", "true", "y":
				return wrong("; write true")
			case "no", "off", "false", "n":
				return wrong("; write false")
			}
		}
		return wrong("")
	case program.DurationType:
		if n.Kind != syntax.String {
			return wrong(", such as 90s, 10m or 1d12h")
		}
		d, err := program.ParseDuration(n.Value)
		if err != nil {
			c.errorf(n, "bad-duration", "%v", err)
			return nil, want
		}
		return quote(d.String()), want
	case program.Timestamp:
		ts, err := program.ParseTimestamp(n.Value)
		if err != nil {
			c.errorf(n, "bad-timestamp", "%v", err)
			return nil, want
		}
		raw, err := expr.ToJSON(ts)
		if err != nil {
			return wrong("")
		}
		return raw, want
	case program.Secret:
		if n.Kind != syntax.String || program.CheckRef(n.Value) != nil {
			// The text may be the secret itself: it must not be shown.
			c.errorf(n, "bad-secret", "a secret is given by reference, never as a value: env:NAME or file:/path")
			return nil, want
		}
		return json.RawMessage(`{"$secret":` + string(quote(n.Value)) + `}`), want
	case program.Any:
		return c.untyped(n)
	}
	return wrong("")
}

// untyped is a literal where anything may stand: its type is how it is written.
func (c *compiler) untyped(n *syntax.Node) (json.RawMessage, program.Type) {
	switch n.Kind {
	case syntax.Null:
		return json.RawMessage("null"), anyType
	case syntax.Bool:
		return json.RawMessage(strings.ToLower(n.Value)), boolType
	case syntax.Int:
		return c.int(n), intType
	case syntax.Float:
		return c.float(n), program.Type{Kind: program.Float}
	}
	return quote(n.Value), stringType
}

// int reads an int; what YAML versions read differently is refused.
func (c *compiler) int(n *syntax.Node) json.RawMessage {
	digits := strings.TrimLeft(n.Value, "+-")
	if len(digits) > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9' {
		plain := strings.TrimLeft(digits[:len(digits)-1], "0") + digits[len(digits)-1:]
		if n.Value[0] == digits[0] && len(plain) > 1 && !strings.ContainsAny(plain, "89") {
			plain = "0o" + plain
		}
		if n.Value[0] == '-' {
			plain = "-" + plain
		}
		c.errorf(n, "ambiguous-number", "%s is octal to some and decimal to others; write %s, or quote it if it is text", n.Value, plain)
		return nil
	}
	v, err := strconv.ParseInt(strings.TrimPrefix(n.Value, "+"), 0, 64)
	if err != nil {
		c.errorf(n, "wrong-type", "%s does not fit into an int of 64 bits", n.Value)
		return nil
	}
	return json.RawMessage(strconv.FormatInt(v, 10))
}

func (c *compiler) float(n *syntax.Node) json.RawMessage {
	v, err := strconv.ParseFloat(n.Value, 64)
	if err != nil || math.IsInf(v, 0) || math.IsNaN(v) {
		c.errorf(n, "wrong-type", "%s is not a number that a float can hold", n.Value)
		return nil
	}
	raw, err := expr.ToJSON(v)
	if err != nil {
		return nil
	}
	return raw
}

// quote writes a string as canonical JSON.
func quote(s string) json.RawMessage {
	raw, err := expr.ToJSON(s)
	if err != nil {
		return json.RawMessage(`""`) // a string always has a JSON form
	}
	return raw
}

// found describes a node for "have …".
func found(n *syntax.Node) string {
	switch n.Kind {
	case syntax.Null:
		return "nothing"
	case syntax.List, syntax.Map:
		if len(n.Items)+len(n.Pairs) == 0 {
			return "an empty " + n.Kind.String()
		}
		return "a " + n.Kind.String()
	case syntax.String:
		return fmt.Sprintf("string %q", clip(n.Value))
	}
	return n.Kind.String() + " " + clip(n.Value)
}
