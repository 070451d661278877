// Package compile turns the text of a runbook into a program, or says
// everything that is wrong with it.
//
// It gives Compile and the JSON Schema of the language. It promises that one
// pass reports every mistake at its place, each once and without follow-up
// errors; that a program it returns refers to nothing that may be absent when it
// runs; that literals and expressions fit the inputs they are given to; and that
// the same source gives the same bytes. It refuses to know YAML (syntax does),
// CEL (expr does), how an action works (action.Info is all it sees), and
// anything of running.
package compile

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/lang/syntax"
)

// MaxProgram is the most that a program may weigh as JSON, its children
// included: it travels in the first event of its execution.
const MaxProgram = 1_000_000

// Options says what a runbook may call.
type Options struct {
	Actions []action.Info

	// Runbook returns the source of a runbook that a `runbook:` step names, or
	// an error that is fs.ErrNotExist. Nil: there are none.
	Runbook func(name string) (file string, source []byte, err error)

	// Runbooks lists names that Runbook knows, for "did you mean" alone; may be nil.
	Runbooks []string
}

// Compile compiles the source of one runbook and of those it calls. The
// diagnostics are sorted; the program is nil if any of them is an Error. file is
// only for diagnostics and messages. Called runbooks add their errors, in their own files.
func Compile(file string, source []byte, opts Options) (*program.Program, []syntax.Diagnostic) {
	b := &build{opts: opts, actions: make(map[string]action.Info, len(opts.Actions)), runbooks: map[string]*child{}, forms: forms()}
	for _, info := range opts.Actions {
		b.actions[info.Name] = info
		b.names = append(b.names, info.Name)
	}
	slices.Sort(b.names)
	prog, diags := b.compile(file, source, nil)
	for _, name := range slices.Sorted(mapKeys(b.runbooks)) {
		for _, d := range b.runbooks[name].diags {
			if d.Severity == syntax.Error {
				diags = append(diags, d)
			}
		}
	}
	if prog != nil && !failed(diags) {
		for name, called := range b.runbooks {
			if prog.Children == nil {
				prog.Children = map[string]*program.Program{}
			}
			prog.Children[name] = called.program
		}
		if d, ok := tooLarge(file, prog); ok {
			diags = append(diags, d)
		}
	}
	syntax.Sort(diags)
	diags = slices.CompactFunc(diags, func(a, b syntax.Diagnostic) bool { return a == b })
	if failed(diags) {
		return nil, diags
	}
	return prog, diags
}

func mapKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func failed(diags []syntax.Diagnostic) bool {
	return slices.ContainsFunc(diags, func(d syntax.Diagnostic) bool { return d.Severity == syntax.Error })
}

func tooLarge(file string, prog *program.Program) (syntax.Diagnostic, bool) {
	raw, err := json.Marshal(prog)
	d := syntax.Diagnostic{Severity: syntax.Error, File: file, Pos: program.Pos{Line: 1, Col: 1}, Code: "program-too-large"}
	switch {
	case err != nil:
		d.Message = fmt.Sprintf("the program cannot be written as JSON: %v", err)
	case len(raw) > MaxProgram:
		d.Message = fmt.Sprintf("the program is %d bytes with the runbooks it calls; at most %d fit into an execution. Move large scripts and data to files on the nodes", len(raw), MaxProgram)
	default:
		return d, false
	}
	return d, true
}

// build is one call of Compile: the runbook and all it calls.
type build struct {
	opts     Options
	actions  map[string]action.Info
	names    []string          // of the actions, sorted
	runbooks map[string]*child // called ones, by name
	forms    []form
	fields   int      // in the types of vars and outputs
	stack    []string // names of the runbooks being compiled, outermost first
}

// child is a called runbook that has been compiled.
type child struct {
	program *program.Program // nil if it has errors
	diags   []syntax.Diagnostic
	err     error // from Options.Runbook
}

// called returns a runbook by name, compiling it the first time. circle is the
// path that leads back to it, if there is one.
func (b *build) called(name string) (c *child, circle []string) {
	if i := slices.Index(b.stack, name); i >= 0 {
		return nil, append(slices.Clone(b.stack[i:]), name)
	}
	if c, ok := b.runbooks[name]; ok {
		return c, nil
	}
	c = &child{err: fs.ErrNotExist}
	if b.opts.Runbook != nil {
		var file string
		var source []byte
		if file, source, c.err = b.opts.Runbook(name); c.err == nil {
			c.program, c.diags = b.compile(file, source, &name)
		}
	}
	if c.err == nil {
		b.runbooks[name] = c
	}
	return c, nil
}

// compiler compiles one runbook.
type compiler struct {
	*build
	file   string
	source string
	diags  []syntax.Diagnostic
	root   *syntax.Node

	ids   map[string]program.Pos // given by the author, wherever they stand
	auto  map[string]bool        // ids made for unnamed steps
	infos map[string]*stepInfo   // by id, once compiled

	inputs    program.Type // object
	vars      program.Type // object, growing
	execution program.Type
	used      map[string]bool              // inputs that an expression refers to
	aws       []program.Entry              // of the runbook's `aws:`
	types     map[program.Pos]program.Type // of values that are one expression
}

func (b *build) compile(file string, source []byte, want *string) (*program.Program, []syntax.Diagnostic) {
	root, diags := syntax.Parse(file, source)
	if root == nil {
		return nil, diags
	}
	c := &compiler{build: b, file: file, source: string(source), diags: diags, root: root,
		ids: map[string]program.Pos{}, auto: map[string]bool{}, infos: map[string]*stepInfo{}, used: map[string]bool{},
		types:     map[program.Pos]program.Type{},
		inputs:    program.Type{Kind: program.Object, Fields: []program.Field{}},
		vars:      program.Type{Kind: program.Object, Fields: []program.Field{}},
		execution: executionType(),
	}
	sum := sha256.Sum256(source)
	prog := c.runbook(want)
	prog.File, prog.Digest = file, "sha256:"+hex.EncodeToString(sum[:])
	if failed(c.diags) {
		prog = nil
	}
	syntax.Sort(c.diags)
	return prog, c.diags
}

// runbook compiles the top level. want is the name it was called by, if it was.
func (c *compiler) runbook(want *string) *program.Program {
	prog := &program.Program{Version: program.BaseVersion, OnFailure: program.OnFailureRollback, Steps: []program.Step{}}
	m := c.keys(c.root, "a runbook", topKeys, nil)
	if n := m.get("runbook"); n != nil {
		prog.Runbook = c.word(n, "the name of a runbook", runbookName, "lower-case words joined by / such as linux/patch")
		if want != nil && prog.Runbook != "" && prog.Runbook != *want {
			c.errorf(n, "runbook-name", "this file is known as %q but names itself %q", *want, prog.Runbook)
		}
	}
	name := prog.Runbook
	if want != nil {
		name = *want
	}
	c.stack = append(c.stack, name)
	defer func() { c.stack = c.stack[:len(c.stack)-1] }()

	prog.Summary = c.text(m.get("summary"), "summary")
	prog.Details = c.text(m.get("description"), "description")
	if n := m.get("on_failure"); n != nil {
		prog.OnFailure = c.oneOf(n, "on_failure", program.OnFailureRollback, program.OnFailureStop, program.OnFailureAsk)
	}
	for _, list := range []string{"steps", "finally"} {
		c.collectIDs(m.get(list))
	}
	prog.Inputs = c.declareInputs(m.get("inputs"))

	main := &scope{}
	c.limits(prog, m, main) // before there are vars: these are computed when its turn has come
	prog.Vars = c.declareVars(m.get("vars"), main)
	prog.Timeout = c.duration(m.get("timeout"), main, positive)
	c.aws = c.awsScope(m.get("aws"), main)
	if n := m.get("steps"); n != nil {
		prog.Steps = c.steps(n, main)
	}
	if n := m.get("finally"); n != nil {
		last := &scope{parent: main, late: true, collect: true}
		prog.Finally = c.steps(n, last)
		hide(last, "in finally, which runs after everything else")
	}
	prog.Outputs = c.outputs(m.get("outputs"), main, program.Type{})
	c.unusedInputs(prog.Inputs)
	return prog
}

func (c *compiler) declareVars(n *syntax.Node, sc *scope) []program.Output {
	var vars []program.Output
	for _, p := range c.entries(n, "vars") {
		if !c.name(p.Key, "var") {
			continue
		}
		v, t := c.value(p.Value, anyType, sc, valueOpts{secret: true})
		t = c.bounded(p.Value, t)
		c.vars.Fields = append(c.vars.Fields, program.Field{Name: p.Key.Value, Type: t})
		if v != nil {
			vars = append(vars, program.Output{Name: p.Key.Value, Type: t, Value: *v, Pos: p.Key.Pos})
		}
	}
	return vars
}

// outputs compiles an `outputs:` map; names that taken has already are refused.
func (c *compiler) outputs(n *syntax.Node, sc *scope, taken program.Type) []program.Output {
	var outs []program.Output
	for _, p := range c.entries(n, "outputs") {
		if !c.name(p.Key, "output") {
			continue
		}
		if _, dup := taken.Field(p.Key.Value); dup {
			c.errorf(p.Key, "duplicate-output", "the step has an output %s already; choose another name", p.Key.Value)
			continue
		}
		if v, t := c.value(p.Value, anyType, sc, valueOpts{}); v != nil {
			outs = append(outs, program.Output{Name: p.Key.Value, Type: c.bounded(p.Value, t), Value: *v, Pos: p.Key.Pos})
		}
	}
	return outs
}

// How many fields the type of a var or output may have, those inside it
// counted, and all of them together. More would not fit into a program; and a few lines
// that each name the one before twice would have as many fields as memory has.
const (
	maxFields    = 5_000
	maxAllFields = 200_000
)

// bounded returns the type of a var or output, or `any` if it is too large.
func (c *compiler) bounded(n *syntax.Node, t program.Type) program.Type {
	size := fieldsIn(t, maxFields)
	if c.fields += size; size > maxFields || c.fields > maxAllFields {
		c.errorf(n, "too-large", "this has too many fields, those of the values in it counted: at most %d, and %d in all of a runbook", maxFields, maxAllFields)
		return anyType
	}
	return t
}

// fieldsIn counts the fields of t. It stops, with a number above most, as soon
// as there are more than that.
func fieldsIn(t program.Type, most int) int {
	if t.Elem != nil {
		return fieldsIn(*t.Elem, most)
	}
	n := len(t.Fields)
	for _, f := range t.Fields {
		if n > most {
			break
		}
		n += fieldsIn(f.Type, most-n)
	}
	return n
}

// collectIDs notes every id that the author gave in a list of steps, so that ids
// made for unnamed steps stay clear of them and a reference to a later step can say so.
func (c *compiler) collectIDs(list *syntax.Node) {
	if list == nil {
		return
	}
	for _, step := range list.Items {
		c.collectStep(step)
	}
}

func (c *compiler) collectStep(step *syntax.Node) {
	for _, p := range step.Pairs {
		switch p.Key.Value {
		case "id":
			if _, dup := c.ids[p.Value.Value]; !dup && p.Value.Kind == syntax.String {
				c.ids[p.Value.Value] = p.Value.Pos
			}
		case "steps":
			c.collectIDs(p.Value)
		case "parallel":
			for _, branch := range p.Value.Pairs {
				c.collectIDs(branch.Value)
			}
		case "on_error", "rollback":
			c.collectStep(p.Value)
		}
	}
}

var (
	nameText    = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,63}$`)
	runbookName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)*$`)
	anyType     = program.Type{Kind: program.Any}
	stringType  = program.Type{Kind: program.String}
	intType     = program.Type{Kind: program.Int}
	boolType    = program.Type{Kind: program.Bool}
)

// executionType is the type of `execution` in expressions.
func executionType() program.Type {
	ts := program.Type{Kind: program.Timestamp}
	return object("id", stringType, "runbook", stringType, "caller", stringType, "digest", stringType,
		"started_at", ts, "now", ts)
}

// NodeType is the type of `node` in `where:`.
func NodeType() program.Type {
	return object("id", stringType, "name", stringType, "os", stringType, "version", stringType, "arch", stringType,
		"tags", program.MapOf(stringType), "platform", stringType, "reach", stringType, "compliance", stringType,
		"region", stringType, "account", stringType, "boot_id", stringType, "agent_version", stringType)
}

// errorType is the type of `error` in `on_error:`.
func errorType() program.Type {
	return object("kind", stringType, "message", stringType, "step", stringType)
}

// object builds an object type from names and types in turn.
func object(pairs ...any) program.Type {
	t := program.Type{Kind: program.Object, Fields: []program.Field{}}
	for i := 0; i < len(pairs); i += 2 {
		t.Fields = append(t.Fields, program.Field{Name: pairs[i].(string), Type: pairs[i+1].(program.Type)})
	}
	return t
}

// errorf adds an error at a node; errorAt at a place.
func (c *compiler) errorf(n *syntax.Node, code, format string, args ...any) {
	c.errorAt(n.Pos, n.Width, code, format, args...)
}

func (c *compiler) errorAt(pos program.Pos, width int, code, format string, args ...any) {
	if len(c.diags) == maxDiagnostics {
		return
	}
	c.diags = append(c.diags, syntax.Diagnostic{Severity: syntax.Error, File: c.file, Pos: pos, Width: width,
		Code: code, Message: fmt.Sprintf(format, args...)})
}

func (c *compiler) warnf(pos program.Pos, width int, code, format string, args ...any) {
	n := len(c.diags)
	if c.errorAt(pos, width, code, format, args...); len(c.diags) > n {
		c.diags[n].Severity = syntax.Warning
	}
}

// maxDiagnostics is how many mistakes one file is told: nobody reads more, and to
// look for what each of them may have meant takes time.
const maxDiagnostics = 1_000

func notExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
