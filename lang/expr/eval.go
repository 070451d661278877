package expr

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// language is the CEL environment without any name in scope, made once.
var language = sync.OnceValues(func() (*cel.Env, error) {
	opts := []cel.EnvOption{
		cel.StdLib(cel.StdLibSubset(&env.LibrarySubset{ExcludeFunctions: excluded()})),
		cel.OptionalTypes(),
		cel.CustomTypeAdapter(adapter{}),
		cel.CrossTypeNumericComparisons(true),
		cel.ParserRecursionLimit(maxNesting),
		cel.ParserExpressionSizeLimit(maxText),
		cel.ParserErrorRecoveryLimit(4),
	}
	return cel.NewCustomEnv(append(opts, functions()...)...)
})

// compiled is an expression ready to run, or why it is not.
type compiled struct {
	path []string // if it is only a chain of fields
	prog cel.Program
	ast  *ast.AST
	err  error
}

var programs cache[compiled]

// Eval gives the value of a checked expression. names holds what is in scope,
// by name, as the values that FromJSON gives; they are not changed, and the
// result may share parts with them. It is safe for concurrent use, and for
// workflow code: no clock, no I/O, no goroutine, no order of a Go map. An error
// says what was missing or out of range.
func Eval(text string, names map[string]any) (any, error) {
	c := programs.get(text, compile)
	if c.err != nil {
		return nil, c.err
	}
	if c.path != nil {
		if v, ok := follow(names, c.path); ok {
			return v, nil
		}
		return nil, c.missing(names)
	}
	out, _, err := c.prog.Eval(names)
	if err == nil {
		var v any
		if v, err = native(out); err == nil {
			return v, nil
		}
	}
	return nil, c.explain(err)
}

// follow walks fields from a name in scope.
func follow(names map[string]any, path []string) (any, bool) {
	var v any = names
	for _, name := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = m[name]; !ok {
			return nil, false
		}
	}
	return v, true
}

// missing says where following the path ended.
func (c compiled) missing(names map[string]any) error {
	for i := range c.path {
		v, ok := follow(names, c.path[:i+1])
		at := strings.Join(c.path[:i+1], ".")
		switch {
		case !ok && i == 0:
			return fmt.Errorf("nothing is named %s here", at)
		case !ok:
			return fmt.Errorf("no such key: %s, in %s", c.path[i], at)
		}
		if _, isMap := v.(map[string]any); !isMap {
			return fmt.Errorf("%s has no fields", at)
		}
	}
	return errors.New("no such key")
}

// plainChain returns the names of `a.b.c`, if text is nothing else.
func plainChain(text string) []string {
	path := strings.Split(strings.Trim(text, " \t\r\n"), ".")
	for i, name := range path {
		if !isName(name) || celWords[name] || (i == 0 && notNames[name]) {
			return nil
		}
	}
	return path
}

func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// celWords cannot be names anywhere; notNames not as the first of a chain,
// because CEL reserves them or gives them a meaning of their own.
var (
	celWords = set("true false null in")
	notNames = set("as break const continue else for function if import let loop package namespace return var void while " +
		"bool bytes double duration dyn int list map null_type optional optional_type string timestamp type uint google")
)

func set(words string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(words) {
		m[w] = true
	}
	return m
}

func compile(text string) compiled {
	if path := plainChain(text); path != nil {
		return compiled{path: path}
	}
	if utf8.RuneCountInString(text) > maxText {
		return compiled{err: fmt.Errorf("expression is longer than %d characters", maxText)}
	}
	e, err := language()
	if err != nil {
		return compiled{err: err}
	}
	parsed, iss := e.Parse(text)
	if iss.Err() != nil {
		return compiled{err: fmt.Errorf("expression: %s", iss.Errors()[0].Message)}
	}
	shape := shapeOf(parsed.NativeRep().Expr())
	if err := shape.tooMuch(); err != nil {
		return compiled{err: err}
	}
	var vars []cel.EnvOption
	for _, name := range shape.free {
		vars = append(vars, cel.Variable(name, cel.DynType))
	}
	if e, err = e.Extend(vars...); err != nil {
		return compiled{err: fmt.Errorf("expression: %w", err)}
	}
	checked, iss := e.Check(parsed)
	if iss.Err() != nil {
		return compiled{err: fmt.Errorf("expression: %s", iss.Errors()[0].Message)}
	}
	// Not cel.OptOptimize: it would replace matches by CEL's own, which is not bounded.
	opts := []cel.ProgramOption{cel.CustomDecoratorV2(ownLiterals)}
	if shape.unbounded() {
		opts = append(opts, cel.CostTracking(prices{}), cel.CostLimit(maxCost))
	}
	prog, err := e.Program(checked, opts...)
	if err != nil {
		return compiled{err: fmt.Errorf("expression: %w", err)}
	}
	return compiled{prog: prog, ast: checked.NativeRep()}
}

// shape is what of an expression decides how it must be run.
type shape struct {
	free   []string // names that it takes from the scope
	nodes  int
	loops  int
	nested int // how deep list and map literals stand in each other

	searches int // calls of matches
}

// tooMuch says why an expression must not even be given to CEL's checker, which
// takes long over deeply nested types; nil if it may.
func (s shape) tooMuch() error {
	switch {
	case s.loops > maxLoops:
		return fmt.Errorf("the expression has more than %d loops (map, filter, all, exists, optMap)", maxLoops)
	case s.nested > maxLiterals:
		return fmt.Errorf("the expression has lists and maps nested more than %d deep", maxLiterals)
	}
	return nil
}

// unbounded tells whether running it needs the cost limit. Without a loop every
// node is evaluated at most once, and a function takes time in proportion to the
// data at worst: few nodes are a bound, and counting would make a condition five
// times as slow. A search by a regular expression is the dearest, up to 16 ms.
func (s shape) unbounded() bool { return s.loops > 0 || s.nodes > 64 || s.searches > 4 }

func shapeOf(e ast.Expr) shape {
	var s shape
	seen := map[string]bool{}
	literals := 0 // around the node being walked
	var walk func(e ast.Expr, bound map[string]int)
	walk = func(e ast.Expr, bound map[string]int) {
		s.nodes++
		if e.Kind() == ast.ListKind || e.Kind() == ast.MapKind {
			literals++
			defer func() { literals-- }()
			s.nested = max(s.nested, literals)
		}
		switch e.Kind() {
		case ast.IdentKind:
			name := strings.TrimPrefix(e.AsIdent(), ".")
			if bound[name] == 0 && !seen[name] && !notNames[name] {
				seen[name] = true
				s.free = append(s.free, name)
			}
		case ast.SelectKind:
			walk(e.AsSelect().Operand(), bound)
		case ast.CallKind:
			c := e.AsCall()
			if c.FunctionName() == "matches" {
				s.searches++
			}
			if c.IsMemberFunction() {
				walk(c.Target(), bound)
			}
			for _, a := range c.Args() {
				walk(a, bound)
			}
		case ast.ListKind:
			for _, a := range e.AsList().Elements() {
				walk(a, bound)
			}
		case ast.MapKind:
			for _, entry := range e.AsMap().Entries() {
				walk(entry.AsMapEntry().Key(), bound)
				walk(entry.AsMapEntry().Value(), bound)
			}
		case ast.StructKind:
			for _, f := range e.AsStruct().Fields() {
				walk(f.AsStructField().Value(), bound)
			}
		case ast.ComprehensionKind:
			c := e.AsComprehension()
			s.loops++
			walk(c.IterRange(), bound)
			walk(c.AccuInit(), bound)
			vars := []string{c.IterVar(), c.IterVar2(), c.AccuVar()}
			for _, v := range vars {
				bound[v]++
			}
			walk(c.LoopCondition(), bound)
			walk(c.LoopStep(), bound)
			walk(c.Result(), bound)
			for _, v := range vars {
				bound[v]--
			}
		}
	}
	walk(e, map[string]int{})
	return s
}

// prices tells what a call cost, from the sizes that its arguments and result
// had: the names of an expression have no types when it runs, so that CEL
// cannot know which overload it is.
type prices struct{}

func (prices) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	c := uint64(1)
	switch function {
	case "size", operators.Index, operators.OptIndex, operators.OptSelect, operators.Conditional, "hasValue", "value", "orValue", "or":
	case operators.Equals, operators.NotEquals, operators.In:
		for _, a := range args {
			c += bulk(a, true)
		}
	default:
		for _, a := range args {
			if _, growing := a.(traits.MutableLister); !growing {
				c += bulk(a, false)
			}
		}
		if _, growing := result.(traits.MutableLister); !growing && result != nil {
			c += bulk(result, false)
		}
	}
	return &c
}

func bulk(v ref.Val, deep bool) uint64 {
	switch v := v.(type) {
	case types.String:
		return uint64(len(v)) / 10
	case traits.Mapper, traits.Lister:
		if deep {
			return uint64(weigh(v, maxWeight)) / 2
		}
		return uint64(v.(traits.Sizer).Size().(types.Int))
	}
	return 0
}

// explain makes CEL's errors readable and says where in the expression they are.
func (c compiled) explain(err error) error {
	var cancelled interpreter.EvalCancelledError
	var limit cost.LimitExceededError
	if errors.As(err, &cancelled) || errors.As(err, &limit) {
		return fmt.Errorf("the expression takes too long: more than %d operations", maxCost)
	}
	msg := err.Error()
	if name, ok := strings.CutPrefix(msg, "no such attribute(s): "); ok {
		return fmt.Errorf("nothing is named %s here", name)
	}
	var at *types.Err
	if !errors.As(err, &at) || at.NodeID() == 0 {
		return err
	}
	where := ""
	ast.PreOrderVisit(c.ast.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.ID() == at.NodeID() {
			where = (&checking{}).written(e)
		}
	}))
	switch {
	case where == "" || where == "(…)":
		return err
	case strings.HasPrefix(msg, "no such overload"):
		return fmt.Errorf("%s does not take values of these types", where)
	}
	return fmt.Errorf("%s, in %s", msg, where)
}
