package workflows

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/fleet"
	"github.com/almanac-run/almanac/lang/expr"
	"github.com/almanac-run/almanac/lang/program"
)

// scope is what the expressions of one body of steps see, and where that body
// belongs.
type scope struct {
	run   *run
	prog  *program.Program
	names map[string]any // of expressions; "steps" is the field steps
	steps map[string]any // outputs of what has completed, by id
	group *group
	loop  *loop // the innermost for_each; nil outside

	// silent bodies record no compensation: `finally`, rollback itself, and
	// what stands below a `rollback:` that replaces theirs.
	silent bool

	// caught bodies stand in a step with on_error: nobody is asked about them.
	caught bool
}

// loop is one iteration of a for_each.
type loop struct {
	step  string
	item  json.RawMessage
	index int
}

// group is a set of bodies that run side by side. Once one of them has failed,
// the others start no further step; what they have started is let finish,
// since a command that is cut off half way is worse than one that ends.
type group struct {
	parent *group
	halted bool
}

func (g *group) stopped() bool {
	for ; g != nil; g = g.parent {
		if g.halted {
			return true
		}
	}
	return false
}

func newScope(ctx workflow.Context, r *run, p *program.Program, inputs, vars map[string]any) *scope {
	info := workflow.GetInfo(ctx)
	sc := &scope{run: r, prog: p, steps: map[string]any{}}
	sc.names = map[string]any{
		"inputs": inputs,
		"vars":   vars,
		"steps":  sc.steps,
		"execution": map[string]any{
			"id":         info.WorkflowExecution.ID,
			"runbook":    p.Runbook,
			"caller":     r.start.Caller,
			"digest":     p.Digest,
			"started_at": r.state.StartedAt,
		},
	}
	return sc
}

// nested returns a scope for a body whose steps are not seen from outside.
func (sc *scope) nested() *scope {
	n := *sc
	n.names = maps.Clone(sc.names)
	n.steps = maps.Clone(sc.steps)
	n.names["steps"] = n.steps
	return &n
}

// with returns a scope in which one more name is known; steps are shared.
func (sc *scope) with(name string, value any) *scope {
	n := *sc
	n.names = maps.Clone(sc.names)
	n.names[name] = value
	return &n
}

// fail makes a Failure of the place in this scope's runbook.
func (sc *scope) fail(kind action.Kind, pos program.Pos, format string, args ...any) *Failure {
	return &Failure{
		Kind: string(kind), Message: fmt.Sprintf(format, args...),
		Runbook: sc.prog.Runbook, File: sc.prog.File, Pos: pos,
	}
}

// eval evaluates one expression.
func (sc *scope) eval(ctx workflow.Context, e *program.Expr) (any, error) {
	sc.names["execution"].(map[string]any)["now"] = workflow.Now(ctx)
	v, err := expr.Eval(e.Text, sc.names)
	if err != nil {
		message := err.Error()
		if !strings.HasSuffix(message, e.Text) {
			message += ", in " + abridged(e.Text, 200)
		}
		return nil, sc.fail(action.Invalid, e.Pos, "%s", message)
	}
	return v, nil
}

func abridged(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n]) + "…"
	}
	return s
}

// truth evaluates a condition.
func (sc *scope) truth(ctx workflow.Context, e *program.Expr) (bool, error) {
	v, err := sc.eval(ctx, e)
	if err != nil {
		return false, err
	}
	b, ok := v.(bool)
	if !ok {
		return false, sc.fail(action.Invalid, e.Pos, "have %s, want true or false, in %s", abridged(expr.Text(v), 100), abridged(e.Text, 200))
	}
	return b, nil
}

// trusted are the expressions whose secret references are the caller's own:
// inputs are checked for references where none may be, vars are made of inputs,
// and items have passed here before. What a node or a web server answers could
// otherwise name a file of the worker for a later step to send away.
var trusted = regexp.MustCompile(`^\s*(inputs|vars|item)(\.[a-z0-9_]+)*\s*$`)

// raw evaluates a Value to JSON.
func (sc *scope) raw(ctx workflow.Context, v *program.Value) (json.RawMessage, error) {
	switch {
	case v.Expr != nil:
		x, err := sc.eval(ctx, v.Expr)
		if err != nil {
			return nil, err
		}
		raw, err := expr.ToJSON(x)
		if err != nil {
			return nil, sc.fail(action.Invalid, v.Expr.Pos, "%v", err)
		}
		if bytes.Contains(raw, []byte(`"$secret":`)) && !trusted.MatchString(v.Expr.Text) {
			return nil, sc.fail(action.Denied, v.Expr.Pos, "the value holds a reference to a secret that did not come from an input, in %s", abridged(v.Expr.Text, 200))
		}
		return raw, nil
	case v.Text != nil:
		text := ""
		for _, p := range v.Text {
			if p.Expr == nil {
				text += p.Lit
				continue
			}
			x, err := sc.eval(ctx, p.Expr)
			if err != nil {
				return nil, err
			}
			text += expr.Text(x)
			if err := sc.fits(v, len(text)); err != nil {
				return nil, err
			}
		}
		return json.Marshal(text)
	case v.List != nil:
		list := []byte{'['}
		for i := range v.List {
			raw, err := sc.raw(ctx, &v.List[i])
			if err != nil {
				return nil, err
			}
			if i > 0 {
				list = append(list, ',')
			}
			list = append(list, raw...)
			if err := sc.fits(v, len(list)); err != nil {
				return nil, err
			}
		}
		return append(list, ']'), nil
	case v.Map != nil:
		return sc.object(ctx, v.Map, nil)
	}
	return v.Lit, nil
}

// fits refuses a value that is put together of others and that nothing could
// carry: vars made of vars could double forty times.
func (sc *scope) fits(v *program.Value, size int) error {
	if size <= mostInput {
		return nil
	}
	return sc.fail(action.Invalid, posOf(v), "the value is larger than the limit of %d bytes", mostInput)
}

// object evaluates entries to a JSON object; over replaces the values of some keys.
func (sc *scope) object(ctx workflow.Context, entries []program.Entry, over map[string]json.RawMessage) (json.RawMessage, error) {
	out := []byte{'{'}
	member := func(key string, raw json.RawMessage) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		k, _ := json.Marshal(key) // a string always can
		out = append(append(append(out, k...), ':'), raw...)
	}
	seen := map[string]bool{}
	for i := range entries {
		e := &entries[i]
		seen[e.Key] = true
		raw, changed := over[e.Key]
		if !changed {
			var err error
			if raw, err = sc.raw(ctx, &e.Value); err != nil {
				return nil, err
			}
		}
		member(e.Key, raw)
		if err := sc.fits(&e.Value, len(out)); err != nil {
			return nil, err
		}
	}
	for _, key := range workflow.DeterministicKeys(over) {
		if !seen[key] {
			member(key, over[key])
		}
	}
	return append(out, '}'), nil
}

// decode evaluates a Value into a Go variable; what says what is wanted.
func (sc *scope) decode(ctx workflow.Context, v *program.Value, into any, what string) error {
	raw, err := sc.raw(ctx, v)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return sc.fail(action.Invalid, posOf(v), "have %s, want %s", abridged(string(raw), 100), what)
	}
	return nil
}

// posOf is the place of the first expression in v, if it has one.
func posOf(v *program.Value) program.Pos {
	if v.Expr != nil {
		return v.Expr.Pos
	}
	for _, p := range v.Text {
		if p.Expr != nil {
			return p.Expr.Pos
		}
	}
	return program.Pos{}
}

func (sc *scope) text(ctx workflow.Context, v *program.Value) (string, error) {
	if v == nil {
		return "", nil
	}
	var s string
	err := sc.decode(ctx, v, &s, "a string")
	return s, err
}

func (sc *scope) integer(ctx workflow.Context, v *program.Value, absent int) (int, error) {
	if v == nil {
		return absent, nil
	}
	n := absent
	err := sc.decode(ctx, v, &n, "a whole number")
	return n, err
}

func (sc *scope) duration(ctx workflow.Context, v *program.Value, absent time.Duration) (time.Duration, error) {
	if v == nil {
		return absent, nil
	}
	var d program.Duration
	err := sc.decode(ctx, v, &d, `a duration ("90s", "1h30m")`)
	return time.Duration(d), err
}

// limit evaluates a number or percentage.
func (sc *scope) limit(ctx workflow.Context, v *program.Value, absent fleet.Limit) (fleet.Limit, error) {
	if v == nil {
		return absent, nil
	}
	raw, err := sc.raw(ctx, v)
	if err != nil {
		return absent, err
	}
	text := string(raw)
	if len(raw) > 0 && raw[0] == '"' {
		if err := json.Unmarshal(raw, &text); err != nil {
			return absent, err
		}
	}
	l, err := fleet.ParseLimit(text)
	if err != nil {
		return absent, sc.fail(action.Invalid, posOf(v), "%v", err)
	}
	return l, nil
}

// outputs evaluates named values, each by its type.
func (sc *scope) outputs(ctx workflow.Context, outs []program.Output) (map[string]any, error) {
	values := make(map[string]any, len(outs))
	for i := range outs {
		o := &outs[i]
		raw, err := sc.raw(ctx, &o.Value)
		if err != nil {
			return nil, err
		}
		if values[o.Name], err = expr.FromJSON(raw, o.Type); err != nil {
			return nil, sc.fail(action.Invalid, o.Pos, "%s: %v", o.Name, err)
		}
	}
	return values, nil
}
