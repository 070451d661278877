// Package program is the compiled form of a runbook: plain data that travels
// with its execution.
//
// It gives the types that the compiler writes and the interpreter reads, and
// the type language both share. It promises that a Program can be written as
// JSON and read back unchanged, holds no run-time value and no pointer to
// machinery, and carries the Version it was made for. It knows no YAML, no CEL
// and no Temporal: expressions are text with a place.
package program

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Version is the format of Program and the meaning of its steps. It changes
// when an interpreter of the version before could not run it; a recorded
// history of the new version is added to the replay tests in the same change.
const Version = 2

// BaseVersion is that of a program that an interpreter of the first version runs
// as it is meant: the compiler gives a program the least version that will do,
// so that workers can be replaced one by one.
//
// 2: Lock and MaxRunning.
const BaseVersion = 1

// Program is one compiled runbook. It is immutable once compiled.
type Program struct {
	Version int      `json:"version"`
	Runbook string   `json:"runbook"` // name, as in `runbook:`; the workflow type
	Summary string   `json:"summary,omitempty"`
	Details string   `json:"details,omitempty"` // Markdown, from `description:`
	File    string   `json:"file,omitempty"`    // as the compiler was given it; for messages only
	Digest  string   `json:"digest"`            // "sha256:" and hex of the source text
	Inputs  []Input  `json:"inputs,omitempty"`  // in source order
	Vars    []Output `json:"vars,omitempty"`    // in source order; each may use those before it
	Timeout *Value   `json:"timeout,omitempty"` // duration; nil is no limit

	// Lock, a string or a list<string>, is what one execution at a time may hold; nil: nothing.
	// MaxRunning is how many executions of the runbook may run at once; 0: any number.
	Lock       *Value `json:"lock,omitempty"`
	LockPos    Pos    `json:"lock_pos,omitzero"` // of the first of both
	MaxRunning int    `json:"max_running,omitempty"`

	OnFailure string   `json:"on_failure"` // OnFailureRollback, OnFailureStop or OnFailureAsk
	Steps     []Step   `json:"steps"`
	Finally   []Step   `json:"finally,omitempty"`
	Outputs   []Output `json:"outputs,omitempty"`

	// Children holds every runbook that this one calls, directly or through
	// another child, by name. Only the outermost Program has them.
	Children map[string]*Program `json:"children,omitempty"`
}

// The values of `on_failure:`.
const (
	OnFailureRollback = "rollback"
	OnFailureStop     = "stop"
	OnFailureAsk      = "ask"
)

// Pos is a place in the source: line and column, both from 1, the column in
// characters. The zero Pos is "nowhere". Its JSON form is "line:col".
type Pos struct{ Line, Col int }

// String returns "line:col".
func (p Pos) String() string { return fmt.Sprintf("%d:%d", p.Line, p.Col) }

// MarshalText writes "line:col".
func (p Pos) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads "line:col". A program has one place for every step and
// value, and is read at every replay: fmt.Sscanf would be most of that time.
func (p *Pos) UnmarshalText(b []byte) error {
	line, col, ok := strings.Cut(string(b), ":")
	l, lineErr := strconv.Atoi(line)
	c, colErr := strconv.Atoi(col)
	if !ok || lineErr != nil || colErr != nil {
		return fmt.Errorf("%q is not a place; it is line:col", clip(string(b)))
	}
	p.Line, p.Col = l, c
	return nil
}

// Expr is one CEL expression, checked by the compiler.
type Expr struct {
	Text string `json:"cel"`
	Pos  Pos    `json:"pos"` // of its first character
}

// Value is what stands on the right of a key: a literal, an expression, text
// with expressions in it, or a list or map of Values. Exactly one of the fields
// Lit, Expr, Text, List and Map is set.
type Value struct {
	Lit  json.RawMessage `json:"lit,omitempty"`  // any JSON value
	Expr *Expr           `json:"expr,omitempty"` // keeps the expression's type
	Text []Part          `json:"text,omitempty"` // becomes one string
	List []Value         `json:"list,omitempty"` // never empty: an empty list is Lit
	Map  []Entry         `json:"map,omitempty"`  // in source order, keys unique; never empty
}

// Part is a piece of a text Value: literal text if Expr is nil.
type Part struct {
	Lit  string `json:"lit,omitempty"`
	Expr *Expr  `json:"expr,omitempty"`
}

// Entry is one key of a map Value.
type Entry struct {
	Key   string `json:"key"`
	Value Value  `json:"value"`
}

// Input is a declared input with its constraints. A constraint that was not
// given is zero.
type Input struct {
	Name    string            `json:"name"`
	Type    Type              `json:"type"`
	Summary string            `json:"summary,omitempty"`
	Default json.RawMessage   `json:"default,omitempty"` // nil: the input is required
	Enum    []json.RawMessage `json:"enum,omitempty"`
	Pattern string            `json:"pattern,omitempty"` // RE2, for strings (and each string of a list); unanchored
	Min     json.RawMessage   `json:"min,omitempty"`     // a number, a duration, a timestamp, or a length for strings, lists and maps
	Max     json.RawMessage   `json:"max,omitempty"`     // likewise
	Pos     Pos               `json:"pos"`
}

// Output is a named value: an output, or a var.
type Output struct {
	Name  string `json:"name"`
	Type  Type   `json:"type"` // as the compiler inferred it
	Value Value  `json:"value"`
	Pos   Pos    `json:"pos"`
}

// Kind is the form of a step.
type Kind string

// The forms of a step; exactly one each. A Step of kind K has the field of K
// set and those of the other forms zero.
const (
	KindAction    Kind = "action"   // Call; also `run:`, which is host.command.run
	KindRunbook   Kind = "runbook"  // Child
	KindBlock     Kind = "block"    // Steps alone
	KindForEach   Kind = "for_each" // ForEach and Steps
	KindRepeat    Kind = "repeat"   // Repeat and Steps
	KindParallel  Kind = "parallel" // Branches
	KindApproval  Kind = "approval"
	KindPause     Kind = "pause"      // Message
	KindWait      Kind = "wait"       // Wait, a duration
	KindWaitUntil Kind = "wait_until" // Wait, a timestamp
	KindAssert    Kind = "assert"     // Assert, and Message
	KindStop      Kind = "stop"       // Message
	KindFail      Kind = "fail"       // Message
)

// Step is one step of a Program.
type Step struct {
	// ID is unique in the runbook, nested steps included. If the author gave
	// none it is made from the form and the place ("assert_12", by line) and
	// Named is false: nothing can refer to it.
	ID    string `json:"id"`
	Named bool   `json:"named,omitempty"`
	Name  *Value `json:"name,omitempty"` // string, for people
	Pos   Pos    `json:"pos"`
	Kind  Kind   `json:"kind"`
	If    *Expr  `json:"if,omitempty"` // bool; false skips the step

	// SkipUnless lists ids of steps that must have completed, else the step is
	// skipped: the compiler sets it in `finally`, where a reference to a step
	// that never ran means that there is nothing to clean up.
	SkipUnless []string `json:"skip_unless,omitempty"`

	Timeout  *Value    `json:"timeout,omitempty"` // duration; per attempt for an action or runbook, else for the whole
	Retry    *Retry    `json:"retry,omitempty"`
	OnError  *OnError  `json:"on_error,omitempty"`
	Rollback *Rollback `json:"rollback,omitempty"` // nil: as the action declares
	Outputs  []Output  `json:"outputs,omitempty"`  // added to what the form gives; `result` is in scope
	Type     Type      `json:"type"`               // of steps.<id>, always an object

	Call     *Call     `json:"call,omitempty"`
	Targets  *Targets  `json:"targets,omitempty"` // with Call only
	Child    *Child    `json:"child,omitempty"`
	Steps    []Step    `json:"steps,omitempty"`
	ForEach  *ForEach  `json:"for_each,omitempty"`
	Repeat   *Repeat   `json:"repeat,omitempty"`
	Branches []Branch  `json:"branches,omitempty"` // in source order
	Approval *Approval `json:"approval,omitempty"`
	Wait     *Value    `json:"wait,omitempty"`
	Assert   *Expr     `json:"assert,omitempty"`
	Message  *Value    `json:"message,omitempty"` // string
}

// Call is an action and its inputs, with what the compiler knew of the action.
type Call struct {
	Action      string   `json:"action"`
	With        []Entry  `json:"with,omitempty"`
	Output      Type     `json:"output"`                // what the action returns; `result` in expressions
	Compensates bool     `json:"compensates,omitempty"` // the action declares a compensation
	Timeout     Duration `json:"timeout"`               // the action's own, if the step says none; never 0
	Until       *Expr    `json:"until,omitempty"`       // bool over result; false calls again
	Every       *Value   `json:"every,omitempty"`       // duration between calls; nil is 10 s
}

// Child is a runbook called as a child workflow.
type Child struct {
	Runbook string  `json:"runbook"` // in Program.Children
	With    []Entry `json:"with,omitempty"`
}

// ForEach runs Step.Steps once per item, `item` and `index` in scope.
type ForEach struct {
	Items          Value  `json:"items"` // list<T>, or map<T>: then item is {key, value}, by key
	ItemType       Type   `json:"item_type"`
	MaxConcurrency *Value `json:"max_concurrency,omitempty"` // int or "10%"; nil is 1
	MaxErrors      *Value `json:"max_errors,omitempty"`      // int or "10%"; nil is 0
}

// Repeat runs Step.Steps until Until is true.
type Repeat struct {
	Until    Expr   `json:"until"`
	Every    *Value `json:"every,omitempty"`    // duration between passes; nil is none
	Attempts *Value `json:"attempts,omitempty"` // int; nil is no limit but the step's timeout
}

// Branch is one named branch of `parallel:`.
type Branch struct {
	Name  string `json:"name"`
	Steps []Step `json:"steps"`
	Pos   Pos    `json:"pos"`
}

// Approval waits for named people.
type Approval struct {
	Message   Value  `json:"message"`             // string
	Approvers *Value `json:"approvers,omitempty"` // list<string>; nil or empty: anyone
	Quorum    *Value `json:"quorum,omitempty"`    // int; nil is 1
	Timeout   *Value `json:"timeout,omitempty"`   // duration; nil waits for ever
	OnTimeout string `json:"on_timeout"`          // OnTimeoutFail, OnTimeoutApprove or OnTimeoutReject
}

// The values of an approval's `on_timeout:`.
const (
	OnTimeoutFail    = "fail"
	OnTimeoutApprove = "approve"
	OnTimeoutReject  = "reject"
)

// Retry says how often and for which kinds of error a step is tried again. A
// nil field has the default: 5 attempts in all, 1 s, doubling, 1 minute at most.
type Retry struct {
	Attempts   *Value   `json:"attempts,omitempty"`    // int, the first one counted; 1 is no retry
	Backoff    *Value   `json:"backoff,omitempty"`     // duration before the second attempt
	MaxBackoff *Value   `json:"max_backoff,omitempty"` // duration
	Factor     *Value   `json:"factor,omitempty"`      // float, ≥ 1
	On         []string `json:"on,omitempty"`          // action.Kind names; empty: see action.Kind.Retryable, or any if Attempts is given
}

// OnError says what happens when the step has failed for good. Exactly one
// field is set.
type OnError struct {
	Continue bool   `json:"continue,omitempty"`
	Steps    []Step `json:"steps,omitempty"` // `error` in scope; if they succeed the step counts as handled
}

// Rollback replaces the step's compensation. Exactly one field is set.
type Rollback struct {
	None  bool   `json:"none,omitempty"`
	Steps []Step `json:"steps,omitempty"` // evaluated with the values of the moment the step completed
}

// Targets says on which nodes a call runs. Exactly one of Nodes and Where is set.
type Targets struct {
	Nodes          *Value  `json:"nodes,omitempty"` // list<string> of node ids
	Where          *Expr   `json:"where,omitempty"` // bool over node
	AllowEmpty     bool    `json:"allow_empty,omitempty"`
	MaxConcurrency *Value  `json:"max_concurrency,omitempty"` // int or "10%"; nil is 50
	MaxErrors      *Value  `json:"max_errors,omitempty"`      // int or "10%"; nil is 0
	Batches        []Value `json:"batches,omitempty"`         // ints or percents of all targets, growing; the last repeats
	Bake           *Value  `json:"bake,omitempty"`            // duration after each batch but the last
	Gate           *Expr   `json:"gate,omitempty"`            // bool over result (the step's outputs so far) after each batch

	// OnHalt says what happens when more than MaxErrors have failed or Gate is
	// false: OnFailureRollback, OnFailureStop or OnFailureAsk; empty: as the
	// runbook says of any failure.
	OnHalt string `json:"on_halt,omitempty"`

	// Single is true if Nodes is a literal list of one: steps.<id> then has the
	// action's own outputs, else the per-node shape of TargetsType.
	Single bool `json:"single,omitempty"`
}

// TargetsType is the type of steps.<id> for a step on several targets whose
// action returns out: nodes maps each node that succeeded to its outputs, and
// each node on which the step has ended is in one of the lists.
func TargetsType(out Type) Type {
	return Type{Kind: Object, Fields: []Field{
		{Name: "nodes", Type: MapOf(out)},
		{Name: "succeeded", Type: ListOf(Type{Kind: String})},
		{Name: "failed", Type: ListOf(Type{Kind: String})},
		{Name: "unreached", Type: ListOf(Type{Kind: String})},
		{Name: "skipped", Type: ListOf(Type{Kind: String})},
	}}
}

// Duration is a time.Duration whose JSON form is text ("1m30s").
type Duration time.Duration

// MarshalText writes the duration as time.Duration's String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what ParseDuration reads.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := ParseDuration(string(b))
	*d = Duration(v)
	return err
}
