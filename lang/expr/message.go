package expr

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"

	"github.com/almanac-run/almanac/lang/program"
)

// start returns the offset that the parser gave e: of its first character, or
// of its operator.
func (c *checking) start(e ast.Expr) int {
	if c.tree == nil {
		return 0
	}
	return c.offset(e.ID())
}

func (c *checking) offset(id int64) int {
	r, ok := c.tree.SourceInfo().GetOffsetRange(id)
	if !ok {
		return 0
	}
	return min(max(int(r.Start), 0), len(c.text))
}

// first returns the offset of e's first character.
func (c *checking) first(e ast.Expr) int {
	at := c.start(e)
	switch e.Kind() {
	case ast.SelectKind:
		return min(at, c.first(e.AsSelect().Operand()))
	case ast.CallKind:
		call := e.AsCall()
		if call.IsMemberFunction() {
			return min(at, c.first(call.Target()))
		}
		if args := call.Args(); len(args) > 0 {
			return min(at, c.first(args[0]))
		}
	case ast.ComprehensionKind:
		return min(at, c.first(e.AsComprehension().IterRange()))
	}
	return at
}

// fieldAt returns the offset of the field's name in a selection; the parser
// gives that of the dot.
func (c *checking) fieldAt(e ast.Expr) int {
	if c.tree == nil {
		return 0
	}
	field := []rune(e.AsSelect().FieldName())
	at := c.start(e)
	if e.AsSelect().IsTestOnly() { // the parser gives the place of has
		at = c.last(e.AsSelect().Operand())
	}
	for i := at; i+len(field) <= len(c.text); i++ {
		if slices.Equal(c.text[i:i+len(field)], field) && (i == 0 || !wordRune(c.text[i-1])) {
			return i
		}
	}
	return at
}

// last returns an offset at or after the last name in a selection's operand.
func (c *checking) last(e ast.Expr) int {
	if e.Kind() == ast.SelectKind {
		return c.fieldAt(e) + len([]rune(e.AsSelect().FieldName()))
	}
	if e.Kind() == ast.IdentKind {
		return c.start(e) + len([]rune(e.AsIdent()))
	}
	return c.start(e)
}

func wordRune(r rune) bool {
	return r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}

// written writes e as a message names it.
func (c *checking) written(e ast.Expr) string {
	switch e.Kind() {
	case ast.IdentKind:
		return e.AsIdent()
	case ast.SelectKind:
		return c.written(e.AsSelect().Operand()) + "." + e.AsSelect().FieldName()
	case ast.LiteralKind:
		switch v := e.AsLiteral().Value().(type) {
		case string:
			return fmt.Sprintf("%q", v)
		default:
			return fmt.Sprint(v)
		}
	case ast.CallKind:
		call := e.AsCall()
		args := call.Args()
		switch {
		case isOptSelect(e):
			return c.written(args[0]) + ".?" + fmt.Sprint(args[1].AsLiteral().Value())
		case call.FunctionName() == operators.Index && len(args) == 2:
			return c.written(args[0]) + "[" + c.written(args[1]) + "]"
		case call.IsMemberFunction():
			return c.written(call.Target()) + "." + call.FunctionName() + "(…)"
		}
		if _, ok := operators.FindReverse(call.FunctionName()); !ok {
			return call.FunctionName() + "(…)"
		}
	case ast.ComprehensionKind:
		return c.written(e.AsComprehension().IterRange()) + "…"
	}
	return "(…)"
}

func (c *checking) undeclared(name string, at int) {
	var names []string
	for _, n := range c.scope.Names {
		names = append(names, n.Name)
	}
	what := "nothing is in scope here"
	if len(names) > 0 {
		what = "in scope are " + listed(names)
	}
	c.problem(at, len([]rune(name)), CodeReference, "undeclared reference to '%s'%s; %s", name, didYouMean("", name, names), what)
}

func (c *checking) unknownField(ch chain, i int, before string, t program.Type) {
	p := ch.parts[i]
	var names []string
	for _, f := range t.Fields {
		names = append(names, f.Name)
	}
	has := "it has " + listed(names)
	if len(names) == 0 {
		has = before + " has nothing"
	}
	c.problem(p.at, len([]rune(p.field)), CodeReference, "undeclared reference to '%s.%s'%s; %s",
		before, p.field, didYouMean(before+".", p.field, names), has)
}

// listed joins names for a message, not more than one reads.
func listed(names []string) string {
	const most = 12
	names = slices.Sorted(slices.Values(names))
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

func didYouMean(prefix, name string, names []string) string {
	if near := program.Nearest(name, names); near != "" {
		return " (did you mean '" + prefix + near + "'?)"
	}
	return ""
}

// syntax reports what the parser said, in its places.
func (c *checking) syntax(iss *cel.Issues) {
	for i, e := range iss.Errors() {
		if i == 4 {
			break // what follows the first mistakes is mostly their echo
		}
		msg := strings.TrimPrefix(e.Message, "Syntax error: ")
		msg = strings.NewReplacer("<EOF>", "the end", "\\n", " ").Replace(msg)
		if before, _, ok := strings.Cut(msg, " expecting {"); ok {
			msg = before // a list of thirty tokens helps nobody
		}
		msg = strings.ReplaceAll(msg, "'the end'", "the end")
		if strings.HasPrefix(msg, "token recognition error at: ") {
			msg = "unexpected " + strings.TrimPrefix(msg, "token recognition error at: ")
			switch first := strings.TrimSpace(strings.Trim(msg[len("unexpected "):], "'")); {
			case strings.HasPrefix(first, "&"), strings.HasPrefix(first, "|"):
				msg += "; and is &&, or is ||"
			case strings.HasPrefix(first, "="):
				msg += "; equal is =="
			case strings.HasPrefix(first, `"`), strings.HasPrefix(first, "'"):
				msg = "the string is not closed"
			}
		}
		msg = strings.Replace(msg, "mismatched input", "unexpected", 1)
		msg = strings.Replace(msg, "extraneous input", "unexpected", 1)
		msg = strings.Replace(msg, "no viable alternative at input", "cannot understand", 1)
		at := c.place(e.Location)
		width := c.wordAt(at)
		switch word := string(c.text[at:min(at+width, len(c.text))]); {
		case word == "and":
			msg += "; and is &&"
		case word == "or":
			msg += "; or is ||"
		case strings.HasSuffix(strings.TrimSpace(string(c.text[:at])), "not"):
			msg += "; not is !"
		case strings.HasPrefix(string(c.text[at:]), "${"):
			msg += "; inside an expression names stand without ${{ }}"
		}
		c.problem(at, width, CodeSyntax, "syntax error: %s", msg)
	}
}

// place returns the offset of a line and column.
func (c *checking) place(l common.Location) int {
	line, at := 1, 0
	for at < len(c.text) && line < l.Line() {
		if c.text[at] == '\n' {
			line++
		}
		at++
	}
	return min(max(at+l.Column(), 0), len(c.text))
}

// wordAt returns the width of the word or operator at an offset.
func (c *checking) wordAt(at int) int {
	n := 0
	for at+n < len(c.text) && wordRune(c.text[at+n]) {
		n++
	}
	if n == 0 && at+1 < len(c.text) && slices.Contains([]string{"&&", "||", "==", "!=", "<=", ">="}, string(c.text[at:at+2])) {
		n = 2
	}
	return max(n, 1)
}

var (
	noOverload   = regexp.MustCompile(`^found no matching overload for '(.+?)' applied to '(.*)'$`)
	noFunction   = regexp.MustCompile(`^undeclared reference to '([^']*)'`)
	wrongType    = regexp.MustCompile(`^expected type '(.*)' but found '(.*)'$`)
	noRange      = regexp.MustCompile(`^expression of type '(.*)' cannot be range of a comprehension`)
	noFields     = regexp.MustCompile(`^type '(.*)' does not support field selection$`)
	operatorName = map[string]string{
		operators.Add: "+", operators.Subtract: "-", operators.Multiply: "*", operators.Divide: "/", operators.Modulo: "%",
		operators.Negate: "-", operators.LogicalNot: "!", operators.LogicalAnd: "&&", operators.LogicalOr: "||",
		operators.Equals: "==", operators.NotEquals: "!=", operators.Less: "<", operators.LessEquals: "<=",
		operators.Greater: ">", operators.GreaterEquals: ">=", operators.In: "in", operators.Index: "[]", operators.Conditional: "?:",
	}
	takes = map[string]string{
		"+": "takes two strings, two ints, two floats, two lists, or durations and timestamps",
		"-": "takes two ints, two floats, or durations and timestamps",
		"*": "takes two ints or two floats", "/": "takes two ints or two floats", "%": "takes two ints",
		"!": "takes a bool", "&&": "takes two bools", "||": "takes two bools",
		"==": "compares two values of one type", "!=": "compares two values of one type",
		"<": "compares two values of one type", "<=": "compares two values of one type",
		">": "compares two values of one type", ">=": "compares two values of one type",
		"in": "takes a value and a list of such values, or a key and a map",
		"[]": "takes a list and an int, or a map and a string",
		"?:": "takes a bool and two values of one type",
	}
)

// translate says in the words of the runbook what CEL's checker said.
func (c *checking) translate(e *common.Error) {
	at := c.place(e.Location)
	width := c.wordAt(at)
	node, found := c.nodeByID(e.ExprID)
	if m := noOverload.FindStringSubmatch(e.Message); m != nil {
		c.overload(e, m[1], m[2], at)
		return
	}
	if m := noFunction.FindStringSubmatch(e.Message); m != nil {
		name := m[1]
		if found && node.Kind() == ast.CallKind {
			name = node.AsCall().FunctionName()
			at = c.nameBefore(at, name)
		}
		c.noFunction(name, at)
		return
	}
	if m := wrongType.FindStringSubmatch(e.Message); m != nil {
		if found {
			at = c.first(node)
			width = max(c.wordAt(at), len([]rune(c.written(node))))
			if at+width > len(c.text) {
				width = len(c.text) - at
			}
		}
		c.problem(at, width, CodeType, "have %s, want %s", c.typeText(m[2]), c.typeText(m[1]))
		return
	}
	if m := noRange.FindStringSubmatch(e.Message); m != nil {
		c.problem(at, width, CodeType, "have %s, want a list or map to go through", c.typeText(m[1]))
		return
	}
	if m := noFields.FindStringSubmatch(e.Message); m != nil {
		c.problem(at, width, CodeReference, "a value of type %s has no fields", c.typeText(m[1]))
		return
	}
	c.problem(at, width, CodeType, "%s", c.typeText(e.Message))
}

func (c *checking) overload(e *common.Error, fn, signature string, at int) {
	types := c.typeText(signature)
	if strings.Contains(types, "secret") && slices.ContainsFunc(c.problems, func(p Problem) bool { return p.Code == CodeSecret }) {
		return // said already, better
	}
	op := operatorName[fn]
	if op == "" {
		for _, macro := range []string{"optMap", "optFlatMap"} { // made of calls of hasValue and value
			if strings.HasSuffix(string(c.text[:at]), macro) {
				if fn != "hasValue" {
					return
				}
				fn = macro
			}
		}
		at = c.nameBefore(at, fn)
		c.problem(at, len([]rune(fn)), CodeType, "%s", c.callMessage(fn, types))
		return
	}
	list := splitTypes(types)
	if len(list) == 1 && op == "-" {
		c.problem(at, 1, CodeType, "- takes an int or a float, not %s", list[0])
		return
	}
	if op == "?:" && len(list) == 3 {
		if list[0] == "bool" {
			list = list[1:]
			c.problem(at, 1, CodeType, "?: gives one of two values of one type, not %s and %s", list[0], list[1])
			return
		}
		c.problem(at, 1, CodeType, "?: takes a bool before the ?, not %s", list[0])
		return
	}
	hint := ""
	if len(list) == 2 {
		hint = conversion(op, list[0], list[1])
	}
	width := len(op)
	if op == "[]" {
		width = 1
	}
	c.problem(at, width, CodeType, "%s %s, not %s%s", op, takes[op], strings.Join(list, " and "), hint)
}

// conversion says how two types could meet.
func conversion(op, a, b string) string {
	pair := func(x, y string) bool { return a == x && b == y || a == y && b == x }
	switch {
	case op == "[]" && strings.HasPrefix(a, "object"):
		return "; select the field with a dot"
	case op == "in":
		return ""
	case pair("int", "float"):
		return "; convert the int with float(…)"
	case op == "+" && (pair("string", "int") || pair("string", "float") || pair("string", "bool")):
		return "; convert with string(…)"
	case pair("string", "int"):
		return "; convert the string with int(…)"
	case pair("string", "duration"):
		return `; write duration("10m")`
	case pair("string", "timestamp"):
		return "; convert the string with timestamp(…)"
	}
	return ""
}

func (c *checking) callMessage(fn, types string) string {
	target, args := "", types
	if i := memberDot(types); i > 0 {
		target, args = types[:i], types[i+1:]
	}
	args = strings.TrimSuffix(strings.TrimPrefix(args, "("), ")")
	if target != "" {
		if args == "" {
			return fmt.Sprintf("%s has no .%s()", target, fn)
		}
		return fmt.Sprintf("%s has no .%s(%s)", target, fn, args)
	}
	if args == "" {
		return fmt.Sprintf("%s() needs an argument", fn)
	}
	return fmt.Sprintf("%s() does not take %s", fn, strings.Join(splitTypes(args), " and "))
}

// memberDot finds the dot in "string.(int)".
func memberDot(sig string) int { return strings.Index(sig, ".(") }

// splitTypes splits "(int, map<string>)" at its outer commas.
func splitTypes(s string) []string {
	s = strings.TrimSuffix(strings.TrimPrefix(s, "("), ")")
	var out []string
	depth, from := 0, 0
	for i, r := range s {
		switch r {
		case '<', '{', '(':
			depth++
		case '>', '}', ')':
			depth--
		case ',':
			if depth == 0 {
				out = append(out, strings.TrimSpace(s[from:i]))
				from = i + 1
			}
		}
	}
	return append(out, strings.TrimSpace(s[from:]))
}

var (
	celParens   = regexp.MustCompile(`\b(list|map|optional_type)\(`)
	celOptional = regexp.MustCompile(`\boptional_type\b`)
	celDouble   = regexp.MustCompile(`\bdouble\b`)
	celDyn      = regexp.MustCompile(`\bdyn\b|\b_var\d+\b`)
	celWellDur  = regexp.MustCompile(`\bgoogle\.protobuf\.(Duration|Timestamp)\b`)
)

// typeText writes CEL's names of types as runbooks do.
func (c *checking) typeText(s string) string {
	s = celWellDur.ReplaceAllStringFunc(s, func(m string) string {
		return strings.ToLower(m[strings.LastIndexByte(m, '.')+1:])
	})
	s = celDouble.ReplaceAllString(s, "float")
	s = celDyn.ReplaceAllString(s, "any")
	// list(T) → list<T>, innermost brackets found by counting.
	for {
		loc := celParens.FindStringIndex(s)
		if loc == nil {
			break
		}
		open, depth := loc[1]-1, 0
		closing := -1
		for i := open; i < len(s); i++ {
			if s[i] == '(' {
				depth++
			} else if s[i] == ')' {
				if depth--; depth == 0 {
					closing = i
					break
				}
			}
		}
		if closing < 0 {
			break
		}
		s = s[:open] + "<" + s[open+1:closing] + ">" + s[closing+1:]
	}
	s = strings.ReplaceAll(s, "map<string, ", "map<")
	s = celOptional.ReplaceAllString(s, "optional")
	return objectName.ReplaceAllStringFunc(s, func(name string) string {
		if t, ok := c.objects.find(name); ok {
			if len(t.Fields) > 6 {
				return "object"
			}
			return t.String()
		}
		return name
	})
}

// renamed are functions of CEL and its extensions that are not in the language,
// and what is there instead.
var renamed = map[string]string{
	"double":  "it is called float",
	"uint":    "use int",
	"type":    "types are known when the runbook is checked",
	"bytes":   "there are no bytes",
	"now":     "there is no clock; use execution.now",
	"len":     "use size",
	"length":  "use size",
	"format":  "join text with +, or write it outside the expression",
	"lower":   "it is called lowerAscii",
	"toLower": "it is called lowerAscii",
	"upper":   "it is called upperAscii",
	"toUpper": "it is called upperAscii",
	"sort":    "lists keep their order",
	"always":  "what must run however it ends stands under `finally:`",
	"failure": "what must run after an error stands under `on_error:`, or under `finally:`",
	"success": "a step runs only if those before it have succeeded",
	"bind":    "make it one of vars:",
}

// macroForms says how the macros are written, for one with other arguments.
var macroForms = map[string]string{
	"has": "has(a.b)", "all": "list.all(x, condition)", "exists": "list.exists(x, condition)",
	"exists_one": "list.exists_one(x, condition)", "map": "list.map(x, value) or list.map(x, condition, value)",
	"filter": "list.filter(x, condition)", "optMap": "optional.optMap(x, value)", "optFlatMap": "optional.optFlatMap(x, optional)",
}

func (c *checking) noFunction(name string, at int) {
	if form, ok := macroForms[name]; ok {
		c.problem(at, len([]rune(name)), CodeType, "%s is written %s", name, form)
		return
	}
	hint := ""
	if r, ok := renamed[name]; ok {
		hint = "; " + r
	} else if e, err := language(); err == nil {
		var names []string
		for fn := range e.Functions() {
			if isName(fn) {
				names = append(names, fn)
			}
		}
		names = slices.AppendSeq(names, maps.Keys(macroForms))
		slices.Sort(names)
		hint = didYouMean("", name, names)
	}
	c.problem(at, len([]rune(name)), CodeReference, "there is no function %s%s", name, hint)
}

// nameBefore returns the offset of a function's name, given that of its parenthesis.
func (c *checking) nameBefore(at int, name string) int {
	want := []rune(name)
	for i := min(at, len(c.text)-len(want)); i >= 0; i-- {
		if slices.Equal(c.text[i:i+len(want)], want) {
			return i
		}
	}
	return at
}

func (c *checking) nodeByID(id int64) (ast.Expr, bool) {
	var found ast.Expr
	ast.PreOrderVisit(c.tree.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.ID() == id && found == nil {
			found = e
		}
	}))
	return found, found != nil
}
