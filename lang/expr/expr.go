// Package expr is the expression language of runbooks: CEL, bounded and made
// deterministic.
//
// It gives Check (types, references and mistakes of one expression, for the
// compiler), Eval (its value, for the interpreter) and the passage between
// values and JSON. It promises that evaluating the same text over the same
// values gives the same result on every machine and at every replay, in bounded
// time and memory; that it reads no clock, file or environment; and that
// messages speak of the runbook's types. It is the only package that knows CEL,
// and it knows neither YAML nor steps: what is in scope comes in as types.
//
// # The language
//
// Standard CEL with optional values (`a.?b.orValue(c)`) and these changes.
// `float` takes the place of `double`; there are no unsigned ints, no bytes, no
// type values, no time zones by name (they would be read from the machine). Maps
// are walked by sorted key. Of the string functions there are charAt, contains,
// endsWith, indexOf, join, lastIndexOf, lowerAscii, matches, replace, size,
// split, startsWith, substring, trim and upperAscii; min and max take a list;
// string gives what Text does.
// Strings that an expression makes are at most 1 MiB, lists 10,000 elements.
package expr

import "github.com/almanac-run/almanac/lang/program"

// Limits of one expression.
const (
	maxText     = 10_000  // characters
	maxNesting  = 100     // of parentheses, calls and literals
	maxLoops    = 12      // map, filter, all, exists, optMap …; each may double what the last one made
	maxLiterals = 20      // of list and map literals within each other
	maxEstimate = 100_000 // cost that Check estimates, given the declared sizes
	maxCost     = 20_000  // cost when it runs, about as many microseconds
	maxString   = 1 << 20 // bytes of a string that an expression makes
	maxList     = 10_000  // elements of a list that an expression makes
	maxWeight   = 20_000  // values inside a list or map that an expression makes, nested ones counted
)

// Scope is what an expression may refer to.
type Scope struct {
	Names []Name

	// Guards are expressions known to be true where the checked one runs, such
	// as the `if:` of its step: what they prove to be present may be used.
	Guards []string
}

// Name is one name in scope. A step that may not have run is an Optional field
// of the object type of `steps`.
type Name struct {
	Name string
	Type program.Type
}

// Checked is what is known of a correct expression.
type Checked struct {
	Type program.Type
	Refs []Ref  // in the order of their offsets
	Cost uint64 // estimated, at most 100,000
}

// Ref is one use of a name in scope: the longest chain of fields from it.
type Ref struct {
	Path   []string // ["steps", "build", "image_id"]
	Offset int      // of its first character

	// Guarded: it cannot fail for absence, since every part of the path is
	// there by its type or was asked for.
	Guarded bool

	// Test: it is itself the question, as in has(steps.build) or steps.?build.
	Test bool
}

// Problem is one mistake in an expression. Offset and Width count characters
// (runes) of the text. Code is stable: it becomes the code of a diagnostic.
type Problem struct {
	Offset, Width int
	Code, Message string
}

// The codes of problems.
const (
	CodeSyntax      = "expression-syntax"
	CodeReference   = "unknown-reference"
	CodeUnguarded   = "unguarded-reference"
	CodeType        = "expression-type"
	CodeSecret      = "secret-in-expression"
	CodeExpensive   = "expression-too-expensive"
	CodeUnsupported = "expression-unsupported"
)
