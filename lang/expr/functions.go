package expr

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/almanac-run/almanac/lang/program"
)

// excluded is what of CEL's standard library is not in the language: what makes
// types that runbooks do not have, what reads time zones from the machine, and
// what is declared below in a bounded form.
func excluded() []*env.Function {
	var fns []*env.Function
	for _, name := range []string{
		"bytes", "double", "uint", "type", // no such types, or another name
		operators.Add, "matches", "duration", // bounded, or days, below
	} {
		fns = append(fns, env.NewFunction(name))
	}
	zoned := map[string]string{
		"getFullYear":     overloads.TimestampToYearWithTz,
		"getMonth":        overloads.TimestampToMonthWithTz,
		"getDayOfYear":    overloads.TimestampToDayOfYearWithTz,
		"getDayOfMonth":   overloads.TimestampToDayOfMonthZeroBasedWithTz,
		"getDate":         overloads.TimestampToDayOfMonthOneBasedWithTz,
		"getDayOfWeek":    overloads.TimestampToDayOfWeekWithTz,
		"getHours":        overloads.TimestampToHoursWithTz,
		"getMinutes":      overloads.TimestampToMinutesWithTz,
		"getSeconds":      overloads.TimestampToSecondsWithTz,
		"getMilliseconds": overloads.TimestampToMillisecondsWithTz,
	}
	// string gives what the value is inside text, see Text.
	fns = append(fns, env.NewFunction("string", &env.Overload{ID: overloads.DoubleToString}, &env.Overload{ID: overloads.DurationToString}))
	for name, overload := range zoned {
		fns = append(fns, env.NewFunction(name, &env.Overload{ID: overload}))
	}
	return fns
}

var (
	typeA   = cel.TypeParamType("A")
	listOfA = cel.ListType(typeA)
	str     = cel.StringType
)

func args(ts ...*cel.Type) []*cel.Type { return ts }

// functions are declared here and not taken from cel-go's extensions because
// those do not bound a single call: a replace of one 1 MB string by another in
// a third is a terabyte, a search backwards is quadratic.
func functions() []cel.EnvOption {
	return []cel.EnvOption{
		cel.Function(operators.Add,
			cel.Overload(overloads.AddInt64, args(cel.IntType, cel.IntType), cel.IntType),
			cel.Overload(overloads.AddDouble, args(cel.DoubleType, cel.DoubleType), cel.DoubleType),
			cel.Overload(overloads.AddString, args(str, str), str),
			cel.Overload(overloads.AddList, args(listOfA, listOfA), listOfA),
			cel.Overload(overloads.AddDurationDuration, args(cel.DurationType, cel.DurationType), cel.DurationType),
			cel.Overload(overloads.AddDurationTimestamp, args(cel.DurationType, cel.TimestampType), cel.TimestampType),
			cel.Overload(overloads.AddTimestampDuration, args(cel.TimestampType, cel.DurationType), cel.TimestampType),
			cel.SingletonBinaryBinding(add, traits.AdderType)),
		cel.Function("float",
			cel.Overload("int_to_float", args(cel.IntType), cel.DoubleType, cel.UnaryBinding(convert(types.DoubleType))),
			cel.Overload("string_to_float", args(str), cel.DoubleType, cel.UnaryBinding(convert(types.DoubleType))),
			cel.Overload("float_to_float", args(cel.DoubleType), cel.DoubleType, cel.UnaryBinding(convert(types.DoubleType)))),
		cel.Function("string",
			cel.Overload("float_to_string", args(cel.DoubleType), str, cel.UnaryBinding(text)),
			cel.Overload("duration_to_text", args(cel.DurationType), str, cel.UnaryBinding(text))),
		cel.Function("duration",
			cel.Overload(overloads.StringToDuration, args(str), cel.DurationType, cel.UnaryBinding(duration)),
			cel.Overload(overloads.DurationToDuration, args(cel.DurationType), cel.DurationType, cel.UnaryBinding(convert(types.DurationType)))),
		cel.Function("matches",
			cel.MemberOverload(overloads.MatchesString, args(str, str), cel.BoolType),
			cel.Overload(overloads.Matches, args(str, str), cel.BoolType),
			cel.SingletonBinaryBinding(matches)),
		cel.Function("charAt",
			cel.MemberOverload("string_char_at", args(str, cel.IntType), str, cel.BinaryBinding(func(s, i ref.Val) ref.Val {
				return substring(s, i, i.(types.Int)+1)
			}))),
		cel.Function("substring",
			cel.MemberOverload("string_substring_from", args(str, cel.IntType), str, cel.BinaryBinding(func(s, i ref.Val) ref.Val {
				return substring(s, i, types.Int(utf8.RuneCountInString(string(s.(types.String)))))
			})),
			cel.MemberOverload("string_substring_from_to", args(str, cel.IntType, cel.IntType), str,
				cel.FunctionBinding(func(a ...ref.Val) ref.Val { return substring(a[0], a[1], a[2].(types.Int)) }))),
		cel.Function("indexOf",
			cel.MemberOverload("string_index_of", args(str, str), cel.IntType, cel.BinaryBinding(func(s, sub ref.Val) ref.Val {
				return runeIndex(s, strings.Index(string(s.(types.String)), string(sub.(types.String))))
			}))),
		cel.Function("lastIndexOf",
			cel.MemberOverload("string_last_index_of", args(str, str), cel.IntType, cel.BinaryBinding(func(s, sub ref.Val) ref.Val {
				return runeIndex(s, strings.LastIndex(string(s.(types.String)), string(sub.(types.String))))
			}))),
		cel.Function("lowerAscii",
			cel.MemberOverload("string_lower_ascii", args(str), str, cel.UnaryBinding(ascii('A', 'Z', 'a'-'A')))),
		cel.Function("upperAscii",
			cel.MemberOverload("string_upper_ascii", args(str), str, cel.UnaryBinding(ascii('a', 'z', 'A'-'a')))),
		cel.Function("trim",
			cel.MemberOverload("string_trim", args(str), str, cel.UnaryBinding(func(s ref.Val) ref.Val {
				return types.String(strings.TrimSpace(string(s.(types.String))))
			}))),
		cel.Function("replace",
			cel.MemberOverload("string_replace", args(str, str, str), str, cel.FunctionBinding(replace))),
		cel.Function("split",
			cel.MemberOverload("string_split", args(str, str), cel.ListType(str), cel.BinaryBinding(split))),
		cel.Function("join",
			cel.MemberOverload("list_join", args(cel.ListType(str)), str, cel.UnaryBinding(func(l ref.Val) ref.Val {
				return join(l, types.String(""))
			})),
			cel.MemberOverload("list_join_by", args(cel.ListType(str), str), str, cel.BinaryBinding(join))),
		cel.Function("min", extremes("min", types.IntNegOne)...),
		cel.Function("max", extremes("max", types.IntOne)...),
	}
}

var (
	errLongString = fmt.Errorf("the expression makes a string of more than %d MiB", maxString>>20)
	errLongList   = fmt.Errorf("the expression makes a list of more than %d elements", maxList)
)

// add is + on everything. Lists are copied at once: CEL's own keep both sides,
// which makes reading an element as slow as the chain of sums is long.
func add(a, b ref.Val) ref.Val {
	switch left := a.(type) {
	case types.String:
		if right, ok := b.(types.String); ok && len(left)+len(right) > maxString {
			return types.WrapErr(errLongString)
		}
	case traits.MutableLister: // the growing result of map or filter
		return left.Add(b)
	case traits.Lister:
		right, ok := b.(traits.Lister)
		if !ok {
			return types.MaybeNoSuchOverloadErr(b)
		}
		n, m := left.Size().(types.Int), right.Size().(types.Int)
		if n+m > maxList {
			return types.WrapErr(errLongList)
		}
		both := make([]ref.Val, 0, n+m)
		for i := types.Int(0); i < n; i++ {
			both = append(both, left.Get(i))
		}
		for i := types.Int(0); i < m; i++ {
			both = append(both, right.Get(i))
		}
		return madeList(adapter{}, both)
	}
	if left, ok := a.(traits.Adder); ok {
		return left.Add(b)
	}
	return types.MaybeNoSuchOverloadErr(a)
}

func convert(t ref.Type) func(ref.Val) ref.Val {
	return func(v ref.Val) ref.Val { return v.ConvertToType(t) }
}

func text(v ref.Val) ref.Val { return types.String(Text(v.Value())) }

func duration(s ref.Val) ref.Val {
	d, err := program.ParseDuration(string(s.(types.String)))
	if err != nil {
		return types.WrapErr(err)
	}
	return types.Duration{Duration: d}
}

// maxMatch bounds the work of one matches: bytes of the text times instructions
// of the pattern, which is what Go's regular expressions take at worst.
const maxMatch = 4_000_000

// pattern is a compiled regular expression and its size in instructions.
type pattern struct {
	re   *regexp.Regexp
	size int
	err  error
}

var patterns cache[pattern]

func compilePattern(text string) pattern {
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return pattern{err: fmt.Errorf("not a regular expression: %w", err)}
	}
	if instructions(parsed) > maxPattern {
		return pattern{err: errors.New("the regular expression is too large: its repetitions are written out")}
	}
	prog, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return pattern{err: fmt.Errorf("not a regular expression: %w", err)}
	}
	re, err := regexp.Compile(text)
	return pattern{re: re, size: len(prog.Inst), err: err}
}

// maxPattern bounds the instructions of a pattern: (a{1000}){…} is short, and takes long to compile.
const maxPattern = 5_000

// instructions is about how many there will be, which is known before the
// repetitions are written out.
func instructions(re *syntax.Regexp) int {
	n := 1 + len(re.Rune)
	for _, sub := range re.Sub {
		n += instructions(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return n
}

func matches(s, re ref.Val) ref.Val {
	subject, ok := s.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(s)
	}
	given, ok := re.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(re)
	}
	text := string(given)
	if len(text) > 1000 {
		return types.NewErr("a regular expression has at most 1000 bytes")
	}
	p := patterns.get(text, compilePattern)
	if p.err != nil {
		return types.WrapErr(p.err)
	}
	if len(subject)*p.size <= maxMatch {
		return types.Bool(p.re.MatchString(string(subject)))
	}
	return types.NewErr("the text is too long for this regular expression")
}

// substring cuts by characters, as all of CEL counts.
func substring(s, from ref.Val, to types.Int) ref.Val {
	text, i := string(s.(types.String)), from.(types.Int)
	if i < 0 || to < i || int64(to) > int64(len(text)) {
		return types.NewErr("index out of range: %d to %d", i, to)
	}
	rest := text
	for n := types.Int(0); n < to; n++ {
		if rest == "" {
			return types.NewErr("index out of range: %d to %d", i, to)
		}
		if n == i {
			text = rest
		}
		_, size := utf8.DecodeRuneInString(rest)
		rest = rest[size:]
	}
	if i == to {
		return types.String("")
	}
	return types.String(text[:len(text)-len(rest)])
}

func runeIndex(s ref.Val, at int) ref.Val {
	if at < 0 {
		return types.IntNegOne
	}
	return types.Int(utf8.RuneCountInString(string(s.(types.String))[:at]))
}

func ascii(from, to byte, shift int) func(ref.Val) ref.Val {
	return func(s ref.Val) ref.Val {
		b := []byte(s.(types.String))
		for i, c := range b {
			if from <= c && c <= to {
				b[i] = byte(int(c) + shift)
			}
		}
		return types.String(b)
	}
}

func replace(a ...ref.Val) ref.Val {
	s, old, by := string(a[0].(types.String)), string(a[1].(types.String)), string(a[2].(types.String))
	if len(s)+strings.Count(s, old)*(len(by)-len(old)) > maxString {
		return types.WrapErr(errLongString)
	}
	return types.String(strings.ReplaceAll(s, old, by))
}

func split(s, sep ref.Val) ref.Val {
	text, by := string(s.(types.String)), string(sep.(types.String))
	if strings.Count(text, by) >= maxList {
		return types.WrapErr(errLongList)
	}
	parts := strings.Split(text, by)
	vals := make([]ref.Val, len(parts))
	for i, p := range parts {
		vals[i] = types.String(p)
	}
	return madeList(adapter{}, vals)
}

func join(list, sep ref.Val) ref.Val {
	l, by := list.(traits.Lister), string(sep.(types.String))
	var b strings.Builder
	for i, n := types.Int(0), l.Size().(types.Int); i < n; i++ {
		e, ok := l.Get(i).(types.String)
		if !ok {
			return types.NewErr("join takes a list of strings, not of %s", l.Get(i).Type().TypeName())
		}
		if b.Len()+len(e)+len(by) > maxString {
			return types.WrapErr(errLongString)
		}
		if i > 0 {
			b.WriteString(by)
		}
		b.WriteString(string(e))
	}
	return types.String(b.String())
}

// extremes declares min or max for lists of everything that has an order.
func extremes(name string, want types.Int) []cel.FunctionOpt {
	opts := []cel.FunctionOpt{cel.SingletonUnaryBinding(extreme(name, want))}
	for _, t := range args(cel.IntType, cel.DoubleType, str, cel.DurationType, cel.TimestampType) {
		opts = append(opts, cel.Overload("list_"+name+"_"+t.TypeName(), args(cel.ListType(t)), t))
	}
	return opts
}

// extreme finds the element that compares as want to every other.
func extreme(name string, want types.Int) func(ref.Val) ref.Val {
	return func(list ref.Val) ref.Val {
		l, ok := list.(traits.Lister)
		if !ok {
			return types.MaybeNoSuchOverloadErr(list)
		}
		n := l.Size().(types.Int)
		if n == 0 {
			return types.WrapErr(errors.New(name + " of an empty list"))
		}
		best := l.Get(types.Int(0))
		for i := types.Int(0); i < n; i++ {
			e := l.Get(i)
			c, ok := e.(traits.Comparer)
			if !ok {
				return types.NewErr("%s takes a list of numbers, strings, durations or timestamps", name)
			}
			order := c.Compare(best)
			if types.IsError(order) {
				return order
			}
			if order == want {
				best = e
			}
		}
		return best
	}
}
