package expr

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/checker"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/decls"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/almanac-run/almanac/lang/program"
)

// Check finds what an expression means in a scope, and everything that is wrong
// with it. If there are problems, Checked is only what could be found out.
// Problems are in the order of their offsets. Nothing is evaluated.
func Check(text string, scope Scope) (Checked, []Problem) {
	c := &checking{text: []rune(text), scope: scope, present: map[string]bool{}, blamed: map[string]bool{}, known: map[int64]bool{}}
	switch {
	case len(c.text) > maxText:
		c.problem(0, 1, CodeSyntax, "the expression has %d characters; at most %d are allowed", len(c.text), maxText)
	case strings.TrimSpace(text) == "":
		c.problem(0, len(c.text), CodeSyntax, "the expression is empty")
	default:
		for _, guard := range scope.Guards {
			maps.Copy(c.present, guards.get(guard, provedBy))
		}
		if path := plainChain(text); path != nil {
			c.plain(path)
		} else {
			c.full(text)
		}
	}
	slices.SortStableFunc(c.problems, func(a, b Problem) int { return cmp.Compare(a.Offset, b.Offset) })
	c.problems = slices.Compact(c.problems)
	slices.SortStableFunc(c.refs, func(a, b Ref) int { return cmp.Compare(a.Offset, b.Offset) })
	return Checked{Type: c.result, Refs: c.refs, Cost: c.cost}, c.problems
}

// guards remembers what a guard proves: it is the same for every expression of a step.
var guards cache[map[string]bool]

// provedBy returns the keys of the paths that are there if guard is true.
func provedBy(guard string) map[string]bool {
	parsed, _ := parse(guard)
	if parsed == nil {
		return nil // its own check reports what is wrong with it
	}
	return (&checking{}).proved(parsed.NativeRep().Expr(), true)
}

// checking is one run of Check.
type checking struct {
	text  []rune
	scope Scope

	tree    *ast.AST // with CEL's types; nil while guards are read
	objects objects
	bound   map[string]variable // what macros bind, at the node being walked
	made    int                 // variables bound so far

	present map[string]bool // keys of paths known to be there, at the node being walked
	blamed  map[string]bool // keys of paths already reported as unguarded
	known   map[int64]bool  // nodes whose mistake was reported, so that CEL's words for it are dropped

	result   program.Type
	refs     []Ref
	cost     uint64
	problems []Problem
}

// variable is what a macro binds; its key tells it from others of the same name.
type variable struct {
	key string
	typ program.Type
}

func (c *checking) problem(offset, width int, code, format string, args ...any) {
	c.problems = append(c.problems, Problem{Offset: offset, Width: max(width, 1), Code: code, Message: fmt.Sprintf(format, args...)})
}

// parse parses text in the language; the issues are nil if it could.
func parse(text string) (*cel.Ast, *cel.Issues) {
	e, err := language()
	if err != nil {
		return nil, cel.ErrorAsIssues(err)
	}
	parsed, iss := e.Parse(text)
	if iss.Err() != nil {
		return nil, iss
	}
	return parsed, nil
}

// plain checks an expression that is only a chain of fields: most are, and CEL
// is not needed for them.
func (c *checking) plain(path []string) {
	at := 0
	for c.text[at] == ' ' || c.text[at] == '\t' || c.text[at] == '\r' || c.text[at] == '\n' {
		at++
	}
	root, found := c.lookup(path[0])
	if !found {
		c.undeclared(path[0], at)
		return
	}
	ch := chain{name: path[0], key: path[0], typ: root, at: at, declared: true}
	at += len(path[0])
	for _, field := range path[1:] {
		at++ // the dot
		ch.parts = append(ch.parts, part{field: field, at: at})
		at += len(field)
	}
	c.result = c.follow(ch)
	c.cost = uint64(len(path))
}

// full checks an expression by CEL, then walks what CEL found.
func (c *checking) full(text string) {
	parsed, iss := parse(text)
	if parsed == nil {
		c.syntax(iss)
		return
	}
	if err := shapeOf(parsed.NativeRep().Expr()).tooMuch(); err != nil {
		c.problem(0, len(c.text), CodeExpensive, "%v", err)
		return
	}
	base, err := baseChecker()
	if err != nil {
		c.problem(0, 1, CodeSyntax, "%v", err)
		return
	}
	env, _ := language()
	chk, err := checker.NewEnv(env.Container, &c.objects, checker.ValidatedDeclarations(base), checker.CrossTypeNumericComparisons(true))
	if err == nil {
		var vars []*decls.VariableDecl
		for _, n := range c.scope.Names {
			if !strings.Contains(text, n.Name) {
				continue // a large scope is not converted for a small expression
			}
			vars = append(vars, decls.NewVariable(n.Name, c.objects.celType(n.Type)))
		}
		err = chk.AddIdents(vars...)
	}
	if err != nil {
		c.problem(0, 1, CodeSyntax, "%v", err)
		return
	}
	tree, errs := checker.Check(parsed.NativeRep(), parsed.Source(), chk)
	c.tree, c.bound = tree, map[string]variable{}
	root := tree.Expr()
	c.result = c.walk(root)
	if c.result.Kind == "" {
		c.result = program.Type{Kind: program.Any}
	}
	for _, e := range errs.GetErrors() {
		if !c.known[e.ExprID] {
			c.translate(e)
		}
	}
	if len(c.problems) == 0 {
		c.final(root)
	}
	if len(c.problems) == 0 {
		c.estimate()
	}
}

// baseChecker holds the declarations of the language's functions, made once.
var baseChecker = sync.OnceValues(func() (*checker.Env, error) {
	env, err := language()
	if err != nil {
		return nil, err
	}
	base, err := checker.NewEnv(env.Container, &objects{}, checker.CrossTypeNumericComparisons(true))
	if err != nil {
		return nil, err
	}
	for _, fn := range env.Functions() {
		if fn.IsDeclarationDisabled() {
			continue
		}
		if err := base.AddFunctions(fn); err != nil {
			return nil, err
		}
	}
	return base, nil
})

// final refuses a result that no value of the language can be.
func (c *checking) final(root ast.Expr) {
	at := c.start(root)
	t := c.celType(root)
	if holdsOptional(t) {
		c.problem(at, len(c.text)-at, CodeType, "the value may be absent; end with .orValue(…)")
		return
	}
	if k := otherKey(t); k != nil {
		c.problem(at, len(c.text)-at, CodeType, "the keys of a map are strings, not %s", c.objects.programType(k))
	}
}

// otherKey returns the type of the keys of a map in t that are no strings, or nil.
func otherKey(t *types.Type) *types.Type {
	if t.Kind() == types.MapKind {
		if k := t.Parameters()[0]; k.Kind() != types.StringKind && k.Kind() != types.DynKind && k.Kind() != types.TypeParamKind {
			return k
		}
	}
	for _, p := range t.Parameters() {
		if k := otherKey(p); k != nil {
			return k
		}
	}
	return nil
}

func (c *checking) celType(e ast.Expr) *types.Type {
	if c.tree == nil {
		return types.DynType
	}
	return c.tree.GetType(e.ID())
}

func (c *checking) lookup(name string) (program.Type, bool) {
	for _, n := range c.scope.Names {
		if n.Name == name {
			return n.Type, true
		}
	}
	return program.Type{}, false
}

// part is one field of a chain.
type part struct {
	field string
	at    int  // of the field's first character
	opt   bool // written .?field
	test  bool // the last one inside has(…)
	id    int64
}

// chain is a value and the fields selected from it, one from another.
type chain struct {
	name     string // as messages write the value
	key      string // tells the value from others; empty if nothing is known of it
	typ      program.Type
	at       int
	declared bool // the value is a name in scope
	parts    []part
}

// follow walks a chain through the types, and reports fields that do not exist
// or may be absent. It returns the type of the last part.
func (c *checking) follow(ch chain) program.Type {
	ref := Ref{Path: []string{ch.name}, Offset: ch.at, Guarded: true}
	t, written, key := ch.typ, ch.name, ch.key
	for i, p := range ch.parts {
		ref.Path = append(ref.Path, p.field)
		key = join2(key, p.field)
		asked := p.opt || p.test || c.present[key]
		before := written
		written += "." + p.field
		switch {
		case t.Kind == program.Object && t.Fields != nil:
			f, ok := t.Field(p.field)
			if !ok {
				c.known[p.id] = true
				c.unknownField(ch, i, before, t)
				return program.Type{Kind: program.Any}
			}
			if f.Optional && !asked {
				ref.Guarded = false
				if !c.blamed[key] || ch.key == "" {
					c.blamed[key] = true
					c.problem(ch.at, p.at+len(p.field)-ch.at, CodeUnguarded, "%s may be absent here; ask has(%s) first, or write %s", written, written, c.optionalForm(ch, i))
				}
			}
			t = f.Type
		case t.Kind == program.Map:
			ref.Guarded = ref.Guarded && asked
			t = *t.Elem
		case t.Kind == program.Any || t.Kind == program.Object:
			ref.Guarded = ref.Guarded && asked
			t = program.Type{Kind: program.Any}
		case t.Kind == program.Secret:
			c.known[p.id] = true
			c.problem(ch.at, p.at+len(p.field)-ch.at, CodeSecret, "%s is a secret: an expression cannot look into it", before)
			return program.Type{Kind: program.Any}
		default:
			c.known[p.id] = true
			c.problem(p.at, len(p.field), CodeReference, "%s is %s and has no fields", before, article(t))
			return program.Type{Kind: program.Any}
		}
		ref.Test = ref.Test || p.opt || p.test
	}
	if ch.declared {
		c.refs = append(c.refs, ref)
	}
	return t
}

// optionalForm writes the chain with .? from part i on.
func (c *checking) optionalForm(ch chain, i int) string {
	var b strings.Builder
	b.WriteString(ch.name)
	for j, p := range ch.parts {
		b.WriteByte('.')
		if j >= i || p.opt {
			b.WriteByte('?')
		}
		b.WriteString(p.field)
	}
	return b.String() + ".orValue(…)"
}

func join2(key, field string) string {
	if key == "" {
		return ""
	}
	return key + "." + field
}

func article(t program.Type) string {
	s := t.String()
	if strings.ContainsRune("aeio", rune(s[0])) {
		return "an " + s
	}
	return "a " + s
}

// walk visits e and everything in it, left to right, knowing at each node what
// is present there. It returns the type of e.
func (c *checking) walk(e ast.Expr) program.Type {
	switch e.Kind() {
	case ast.IdentKind, ast.SelectKind:
		return c.selection(e)
	case ast.LiteralKind:
		switch e.AsLiteral().Type() {
		case types.UintType:
			c.problem(c.start(e), 1, CodeUnsupported, "there are no unsigned ints; write the number without u")
		case types.BytesType:
			c.problem(c.start(e), 1, CodeUnsupported, "there are no bytes; write a string without b")
		}
	case ast.CallKind:
		c.call(e)
	case ast.ListKind:
		for i, el := range e.AsList().Elements() {
			c.value(el)
			if !e.AsList().IsOptional(int32(i)) {
				c.joins(el, lastOf(c.celType(e)))
			}
		}
	case ast.MapKind:
		for _, en := range e.AsMap().Entries() {
			c.value(en.AsMapEntry().Key())
			c.value(en.AsMapEntry().Value())
			if !en.AsMapEntry().IsOptional() {
				c.joins(en.AsMapEntry().Value(), lastOf(c.celType(e)))
			}
		}
	case ast.StructKind:
		c.known[e.ID()] = true
		c.problem(c.start(e), 1, CodeUnsupported, "%s{…} makes nothing; write a map: {\"key\": value}", e.AsStruct().TypeName())
	case ast.ComprehensionKind:
		c.comprehension(e)
	}
	return c.objects.programType(c.celType(e))
}

// joins reports a part that CEL lets stand for a value of type whole and that is
// none: null is an object or a duration to it, and what may be absent fits into any list.
func (c *checking) joins(part ast.Expr, whole *types.Type) {
	at := c.first(part)
	switch t := c.celType(part); {
	case t.Kind() == types.NullTypeKind && whole.Kind() != types.NullTypeKind && whole.Kind() != types.DynKind:
		c.problem(at, c.wordAt(at), CodeType, "null cannot stand for %s", article(c.objects.programType(whole)))
	case isOptional(t) && !isOptional(whole):
		c.problem(at, c.wordAt(at), CodeType, "the value may be absent; end with .orValue(…)")
	}
}

// lastOf returns the type of a list's elements or a map's values.
func lastOf(t *types.Type) *types.Type {
	if params := t.Parameters(); len(params) > 0 {
		return params[len(params)-1]
	}
	return types.DynType
}

// value walks a part of a larger expression, where a secret may not stand.
func (c *checking) value(e ast.Expr) program.Type {
	t := c.walk(e)
	// Only names and fields are reported: what is made from them was, inside.
	if (e.Kind() == ast.IdentKind || e.Kind() == ast.SelectKind) && t.Holds(program.Secret) {
		name := c.written(e)
		if strings.HasPrefix(name, "@") { // the growing result of a macro
			return t
		}
		at, width := c.first(e), len([]rune(name))
		if t.Kind == program.Secret {
			c.problem(at, width, CodeSecret, "%s is a secret: it may only stand alone, as ${{ %s }}", name, name)
		} else {
			c.problem(at, width, CodeSecret, "%s holds a secret, which an expression cannot look into", name)
		}
	}
	return t
}

// selection handles a name and the fields selected from it, or from any other value.
func (c *checking) selection(e ast.Expr) program.Type {
	ch, ok := c.chainOf(e)
	if !ok {
		return program.Type{Kind: program.Any}
	}
	t := c.follow(ch)
	if len(ch.parts) > 0 && ch.parts[len(ch.parts)-1].test {
		return program.Type{Kind: program.Bool}
	}
	return t
}

// chainOf takes a selection apart. It is not ok if its first name is undeclared.
func (c *checking) chainOf(e ast.Expr) (chain, bool) {
	var parts []part
	for {
		switch {
		case e.Kind() == ast.SelectKind:
			s := e.AsSelect()
			parts = append(parts, part{field: s.FieldName(), at: c.fieldAt(e), test: s.IsTestOnly(), id: e.ID()})
			e = s.Operand()
			continue
		case isOptSelect(e):
			args := e.AsCall().Args()
			parts = append(parts, part{field: fmt.Sprint(args[1].AsLiteral().Value()), at: c.start(args[1]), opt: true, id: e.ID()})
			e = args[0]
			continue
		}
		break
	}
	slices.Reverse(parts)
	ch := chain{parts: parts, at: c.first(e), key: c.key(e), name: c.written(e)}
	if e.Kind() != ast.IdentKind {
		ch.typ = c.walk(e)
		if c.tree != nil && isOptional(c.celType(e)) { // fields of what may be absent: asked for already
			ch.typ = c.objects.programType(c.celType(e).Parameters()[0])
		}
		return ch, true
	}
	name := e.AsIdent()
	if v, ok := c.bound[name]; ok {
		ch.typ = v.typ
		return ch, true
	}
	t, found := c.lookup(name)
	if !found {
		c.known[e.ID()] = true
		for _, p := range parts {
			c.known[p.id] = true // CEL blames the outermost
		}
		c.undeclared(name, c.start(e))
		return ch, false
	}
	ch.typ, ch.declared = t, true
	return ch, true
}

func isOptSelect(e ast.Expr) bool {
	if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != operators.OptSelect || len(e.AsCall().Args()) != 2 {
		return false
	}
	return e.AsCall().Args()[1].Kind() == ast.LiteralKind
}

// key identifies the value of e: equal keys are equal values. It is empty if
// that cannot be told.
func (c *checking) key(e ast.Expr) string {
	switch e.Kind() {
	case ast.IdentKind:
		if v, ok := c.bound[e.AsIdent()]; ok {
			return v.key
		}
		return e.AsIdent()
	case ast.SelectKind:
		return join2(c.key(e.AsSelect().Operand()), e.AsSelect().FieldName())
	case ast.CallKind:
		call := e.AsCall()
		if call.FunctionName() == operators.Index && call.Args()[1].Kind() == ast.LiteralKind {
			if k := c.key(call.Args()[0]); k != "" {
				return fmt.Sprintf("%s[%q]", k, fmt.Sprint(call.Args()[1].AsLiteral().Value()))
			}
		}
		if isOptSelect(e) {
			return join2(c.key(call.Args()[0]), fmt.Sprint(call.Args()[1].AsLiteral().Value()))
		}
	}
	return ""
}

func (c *checking) call(e ast.Expr) {
	call := e.AsCall()
	args := call.Args()
	switch fn := call.FunctionName(); {
	case isOptSelect(e):
		c.optional(e, false)
	case fn == "value" && call.IsMemberFunction() && isOptSelect(call.Target()):
		c.optional(call.Target(), true)
	case fn == operators.LogicalAnd, fn == operators.LogicalOr:
		saved := c.present
		for _, a := range args {
			c.value(a)
			c.present = maps.Clone(c.present)
			c.assume(a, fn == operators.LogicalAnd)
		}
		c.present = saved
	case fn == operators.Conditional:
		saved := c.present
		c.value(args[0])
		c.present = maps.Clone(saved)
		c.assume(args[0], true)
		c.value(args[1])
		c.present = maps.Clone(saved)
		c.assume(args[0], false)
		c.value(args[2])
		c.present = saved
		c.joins(args[1], c.celType(e))
		c.joins(args[2], c.celType(e))
	case fn == operators.Index && c.celType(args[0]).Kind() == types.StructKind:
		c.walk(args[0]) // refused by its type; a secret in it is beside the point
		c.value(args[1])
	default:
		if call.IsMemberFunction() && !isNamespace(call.Target()) {
			c.value(call.Target())
		}
		for _, a := range args {
			c.value(a)
		}
		c.constant(fn, args)
		if fn == "orValue" && len(args) == 1 {
			c.joins(args[0], c.celType(e))
		}
	}
}

// constant reports a literal that its function can never take.
func (c *checking) constant(fn string, args []ast.Expr) {
	if len(args) == 0 || args[len(args)-1].Kind() != ast.LiteralKind {
		return
	}
	lit := args[len(args)-1]
	text, ok := lit.AsLiteral().(types.String)
	if !ok {
		return
	}
	wrong := func(format string, a ...any) {
		at := c.start(lit)
		c.problem(at, min(len([]rune(c.written(lit))), len(c.text)-at), CodeType, format, a...)
	}
	switch fn {
	case "matches":
		if v, isErr := matches(types.String(""), text).(*types.Err); isErr {
			wrong("%v", v)
		}
	case "duration":
		if v, isErr := duration(text).(*types.Err); isErr {
			wrong("%v", v)
		}
	case "timestamp":
		if _, err := program.ParseTimestamp(string(text)); err != nil {
			wrong("%v", err)
		}
	case "int", "float", "bool":
		to := map[string]ref.Type{"int": types.IntType, "float": types.DoubleType, "bool": types.BoolType}[fn]
		if types.IsError(text.ConvertToType(to)) {
			wrong("%s is no %s", c.written(lit), fn)
		}
	}
}

// optional walks a.?b. If the value is sure to be asked for, as by .value(),
// the question marks guard nothing.
func (c *checking) optional(e ast.Expr, sure bool) {
	if ch, ok := c.chainOf(e); ok {
		for i := range ch.parts {
			ch.parts[i].opt = ch.parts[i].opt && !sure
		}
		if t := c.follow(ch); t.Holds(program.Secret) {
			c.problem(ch.at, len([]rune(c.written(e))), CodeSecret, "%s is a secret: it may only stand alone", c.written(e))
		}
	}
}

// isNamespace tells whether e is the `optional` of optional.of(x).
func isNamespace(e ast.Expr) bool { return e.Kind() == ast.IdentKind && e.AsIdent() == "optional" }

func (c *checking) comprehension(e ast.Expr) {
	f := e.AsComprehension()
	c.value(f.IterRange())
	c.value(f.AccuInit())
	saved := c.bound
	c.bound = maps.Clone(saved)
	elem := program.Type{Kind: program.Any}
	switch t := c.celType(f.IterRange()); t.Kind() {
	case types.ListKind:
		elem = c.objects.programType(t.Parameters()[0])
	case types.MapKind:
		elem = c.objects.programType(t.Parameters()[0])
	}
	c.bind(f.IterVar(), elem)
	if f.HasIterVar2() {
		c.bind(f.IterVar2(), program.Type{Kind: program.Any})
	}
	accu := c.celType(f.AccuInit())
	if isOptional(accu) {
		accu = accu.Parameters()[0]
	}
	c.bind(f.AccuVar(), c.objects.programType(accu))
	c.value(f.LoopCondition())
	c.value(f.LoopStep())
	c.value(f.Result())
	c.bound = saved
}

func (c *checking) bind(name string, t program.Type) {
	c.made++
	c.bound[name] = variable{key: name + "#" + strconv.Itoa(c.made), typ: t}
}

// assume notes what must be present if e came out as truth.
func (c *checking) assume(e ast.Expr, truth bool) {
	for key := range c.proved(e, truth) {
		c.present[key] = true
	}
}

// proved returns the keys of the paths that are there if e came out as truth.
func (c *checking) proved(e ast.Expr, truth bool) map[string]bool {
	keys := map[string]bool{}
	if e.Kind() == ast.SelectKind {
		if e.AsSelect().IsTestOnly() && truth {
			c.addPath(keys, e)
		}
		return keys
	}
	if e.Kind() != ast.CallKind {
		return keys
	}
	call := e.AsCall()
	args := call.Args()
	switch fn := call.FunctionName(); {
	case fn == operators.LogicalNot:
		return c.proved(args[0], !truth)
	case fn == operators.LogicalAnd && truth, fn == operators.LogicalOr && !truth:
		for _, a := range args {
			maps.Copy(keys, c.proved(a, truth))
		}
	case fn == operators.LogicalAnd, fn == operators.LogicalOr:
		for i, a := range args {
			if k := c.proved(a, truth); i == 0 {
				keys = k
			} else {
				maps.DeleteFunc(keys, func(key string, _ bool) bool { return !k[key] })
			}
		}
	case fn == operators.Conditional:
		yes, no := c.proved(args[0], true), c.proved(args[0], false)
		maps.Copy(yes, c.proved(args[1], truth))
		maps.Copy(no, c.proved(args[2], truth))
		for k := range yes {
			if no[k] {
				keys[k] = true
			}
		}
	case fn == "hasValue" && truth && call.IsMemberFunction() && len(args) == 0 && isOptSelect(call.Target()):
		c.addPath(keys, call.Target())
	}
	return keys
}

// addPath adds the path of a selection and all that it begins with.
func (c *checking) addPath(keys map[string]bool, e ast.Expr) {
	for e.Kind() == ast.SelectKind || isOptSelect(e) {
		if k := c.key(e); k != "" {
			keys[k] = true
		}
		if e.Kind() == ast.SelectKind {
			e = e.AsSelect().Operand()
		} else {
			e = e.AsCall().Args()[0]
		}
	}
}

// The sizes that costs are estimated with. Real values may be larger: then the
// limit at run time decides. They are small so that a loop in a loop over two
// lists is accepted, and a third is not.
const (
	sizeList   = 50
	sizeMap    = 50
	sizeString = 256
)

// sizes estimates what data an expression will find.
type sizes struct{}

func (s sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	if n.Type() == nil {
		return nil
	}
	return s.ofType(n.Type(), 0)
}

func (s sizes) ofType(t *types.Type, depth int) *cost.SizeEstimate {
	if depth > 8 {
		return nil
	}
	var e cost.SizeEstimate
	switch t.Kind() {
	case types.StringKind:
		e = cost.RangedSizeEstimate(0, sizeString)
	case types.ListKind:
		e = cost.RangedSizeEstimate(0, sizeList)
		e.Elem = s.ofType(t.Parameters()[0], depth+1)
	case types.MapKind:
		e = cost.RangedSizeEstimate(0, sizeMap)
		e.Key, e.Elem = s.ofType(t.Parameters()[0], depth+1), s.ofType(t.Parameters()[1], depth+1)
	case types.DynKind, types.StructKind, types.TypeParamKind:
		e = cost.RangedSizeEstimate(0, sizeList)
		if depth < 3 {
			e.Elem, e.Key = s.ofType(types.DynType, depth+1), s.ofType(types.StringType, depth+1)
		}
	case types.OpaqueKind:
		if !isOptional(t) {
			return nil
		}
		e = cost.RangedSizeEstimate(0, 1)
		e.Elem = s.ofType(t.Parameters()[0], depth+1)
	default:
		return nil
	}
	return &e
}

func (s sizes) EstimateCallCost(fn, _ string, target *cost.AstNode, args []cost.AstNode) *cost.CallEstimate {
	var of []cost.SizeEstimate
	if target != nil {
		of = append(of, cost.EstimateSize(s, *target))
	}
	for _, a := range args {
		of = append(of, cost.EstimateSize(s, a))
	}
	estimate := func(work, result cost.SizeEstimate) *cost.CallEstimate {
		result.Min = 0
		c := work.MultiplyByCostFactor(0.1).Add(cost.FixedCostEstimate(1))
		return &cost.CallEstimate{CostEstimate: c, ResultSize: &result}
	}
	at := func(i int) cost.SizeEstimate {
		if i < len(of) {
			return of[i]
		}
		return cost.FixedSizeEstimate(0)
	}
	one := cost.FixedSizeEstimate(1)
	switch fn {
	case "lowerAscii", "upperAscii", "trim", "substring":
		return estimate(at(0), at(0))
	case "charAt", "indexOf", "lastIndexOf":
		return estimate(at(0), one)
	case "replace":
		grown := at(0).Add(one).Multiply(at(2).Add(one))
		return estimate(grown, grown)
	case "split":
		parts := at(0).Add(one)
		piece := at(0)
		parts.Elem = &piece
		return estimate(parts.Multiply(cost.FixedSizeEstimate(10)), parts)
	case "join":
		elem := cost.FixedSizeEstimate(sizeString)
		if at(0).Elem != nil {
			elem = *at(0).Elem
		}
		whole := at(0).Multiply(elem.Add(at(1)).Add(one))
		return estimate(whole, whole)
	case "min", "max":
		result := cost.FixedSizeEstimate(sizeString)
		if at(0).Elem != nil {
			result = *at(0).Elem
		}
		return estimate(at(0).Multiply(cost.FixedSizeEstimate(10)), result)
	}
	return nil
}

func (c *checking) estimate() {
	e, err := cost.Cost(c.tree, sizes{})
	if err != nil {
		c.problem(0, len(c.text), CodeExpensive, "the cost of the expression cannot be estimated: %v", err)
		return
	}
	if c.cost = e.Max; c.cost > maxEstimate {
		c.problem(0, len(c.text), CodeExpensive,
			"the expression may take more than %d operations on lists of %d elements; loops inside loops are the usual cause", maxEstimate, sizeList)
	}
}
