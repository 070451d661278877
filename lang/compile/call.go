package compile

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/lang/expr"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/lang/syntax"
)

// commandAction is what `run:` means; scriptInput is its code.
const (
	commandAction = "host.command.run"
	scriptInput   = "script"
)

// runKeys are the keys of a `run:` step that are inputs of commandAction, under the same names.
func runKeys() []key {
	return []key{
		{"shell", false, shapeText, "bash, sh, pwsh or python3."},
		{"env", false, shapeEnv, "Environment variables of the script; a secret may stand here."},
		{"working_directory", false, shapeText, "Where the script runs."},
		{"user", false, shapeText, "As whom the script runs."},
		{"idempotent", false, shapeBool, "Whether the script may run again if its end was not seen."},
	}
}

var actionName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$`)

// action compiles `action:`.
func (c *compiler) action(step *program.Step, m keyed, sc *scope) program.Type {
	n := m.get("action")
	name := c.word(n, "the name of an action", actionName, "words joined by dots, such as host.command.run")
	info, ok := c.actions[name]
	if !ok {
		if name != "" {
			c.errorf(n, "unknown-action", "there is no action %s%s", name, suggest(name, "there are", c.build.names))
		}
		return c.unknownCall(step, m, sc)
	}
	step.Call = c.newCall(info)
	before := len(c.diags)
	step.Call.With = c.inAWS(c.with(n, m.get("with"), "action "+name, info.Inputs, sc), m.get("aws"), info, sc)
	if len(c.diags) == before { // else the mistake would be told twice
		c.inspect(step.Call, n, m.get("with"), info)
	}
	return c.finishCall(step, n, m, info, sc)
}

// unknownCall checks what can be checked of a call to nobody knows what.
func (c *compiler) unknownCall(step *program.Step, m keyed, sc *scope) program.Type {
	for _, p := range c.entries(m.get("with"), "with") {
		c.value(p.Value, anyType, sc, valueOpts{secret: true})
	}
	open := program.Type{Kind: program.Object}
	step.Call = &program.Call{Output: open}
	if n := m.get("targets"); n != nil {
		c.targets(n, open, sc)
	}
	c.until(step, m, sc)
	step.Outputs = c.outputs(m.get("outputs"), sc.with(expr.Name{Name: "result", Type: open}), program.Type{})
	return open
}

// run compiles `run:`, which is commandAction with its inputs as keys of the step.
func (c *compiler) run(step *program.Step, m keyed, sc *scope) program.Type {
	n := m.get("run")
	info, ok := c.actions[commandAction]
	if !ok {
		c.errorf(n, "unknown-action", "`run:` needs the action %s, and there is none", commandAction)
		return c.unknownCall(step, m, sc)
	}
	step.Call = c.newCall(info)
	for _, field := range info.Inputs {
		value := n
		if field.Name != scriptInput {
			if value = m.get(field.Name); value == nil || !slices.Contains(keyNames(runKeys()), field.Name) {
				continue
			}
		}
		if v := c.input(value, field, sc); v != nil {
			step.Call.With = append(step.Call.With, program.Entry{Key: field.Name, Value: *v})
		}
	}
	c.environment(m.get("env"))
	return c.finishCall(step, n, m, info, sc)
}

var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// environment checks the names of environment variables.
func (c *compiler) environment(n *syntax.Node) {
	if n == nil {
		return
	}
	for _, p := range n.Pairs {
		if !p.Key.HasExpr() && !variable.MatchString(p.Key.Value) {
			c.errorf(p.Key, "bad-name", "%q is not the name of an environment variable: letters, digits and _, not beginning with a digit", clip(p.Key.Value))
		}
	}
}

func (c *compiler) newCall(info action.Info) *program.Call {
	return &program.Call{Action: info.Name, Output: info.OutputType(), Compensates: info.Compensates,
		Timeout: program.Duration(info.Timeout)}
}

// finishCall compiles what `action:` and `run:` share and returns the type of
// the step's outputs.
func (c *compiler) finishCall(step *program.Step, n *syntax.Node, m keyed, info action.Info, sc *scope) program.Type {
	t := step.Call.Output
	switch targets := m.get("targets"); {
	case targets != nil && !info.OnNode():
		c.errorf(targets, "misplaced-targets", "action %s does not run on nodes; only host.* actions have targets", info.Name)
	case targets != nil:
		step.Targets = c.targets(targets, t, sc)
		if step.Targets != nil && !step.Targets.Single {
			t = program.TargetsType(t)
		}
	case info.OnNode():
		what := "`run:`"
		if n == m.get("action") {
			what = "action " + info.Name
		}
		c.errorf(n, "missing-targets", "%s runs on nodes and needs `targets:`, such as targets: [web-1] or targets: { where: node.os == \"linux\" }", what)
		t = program.Type{Kind: program.Object} // the author meant one or many: unknown
	}
	c.until(step, m, sc)
	step.Outputs = c.outputs(m.get("outputs"), sc.with(expr.Name{Name: "result", Type: t}), t)
	return t
}

func (c *compiler) until(step *program.Step, m keyed, sc *scope) {
	step.Call.Until = c.bare(m.get("until"), "until", sc.with(expr.Name{Name: "result", Type: step.Call.Output}), boolType)
	if n := m.get("every"); n != nil {
		if m.get("until") == nil {
			c.errorf(n, "misplaced-key", "`every:` means nothing without `until:`")
		}
		step.Call.Every = c.duration(n, sc, positive)
	}
}

// with compiles the inputs of an action against its declaration.
func (c *compiler) with(at, n *syntax.Node, what string, fields []action.Field, sc *scope) []program.Entry {
	var names []string
	for _, f := range fields {
		names = append(names, f.Name)
	}
	given := map[string]bool{}
	var entries []program.Entry
	for _, p := range c.entries(n, "with") {
		name := p.Key.Value
		if !c.plainKey(p.Key) {
			continue
		}
		i := slices.IndexFunc(fields, func(f action.Field) bool { return f.Name == name })
		if i < 0 {
			c.errorf(p.Key, "unknown-input", "%s has no input %q%s", what, clip(name), suggest(name, "it has", names))
			given[nearest(name, names)] = true
			c.value(p.Value, anyType, sc, valueOpts{secret: true})
			continue
		}
		given[name] = true
		if v := c.input(p.Value, fields[i], sc); v != nil {
			entries = append(entries, program.Entry{Key: name, Value: *v})
		}
	}
	if n != nil && n.Kind != syntax.Map {
		return nil
	}
	for _, f := range fields {
		if f.Required && !given[f.Name] {
			c.errorf(at, "missing-input", "%s needs input %s (%s)%s", what, f.Name, f.Type, summary(f))
		}
	}
	return entries
}

func summary(f action.Field) string {
	if f.Summary == "" {
		return ""
	}
	return ": " + f.Summary
}

func (c *compiler) input(n *syntax.Node, f action.Field, sc *scope) *program.Value {
	v, _ := c.value(n, f.Type, sc, valueOpts{secret: f.Secret, field: &f, script: f.Code})
	return v
}

// targets compiles `targets:`; out is what the action returns on one node.
func (c *compiler) targets(n *syntax.Node, out program.Type, sc *scope) *program.Targets {
	t := &program.Targets{}
	if n.Kind != syntax.Map {
		c.nodes(n, t, sc)
		return t
	}
	m := c.keys(n, "`targets:`", targetsKeys, nil)
	nodes, where := m.get("nodes"), m.get("where")
	switch {
	case nodes != nil && where != nil:
		c.errorf(where, "several-forms", "`targets:` has either `nodes:` or `where:`, not both")
	case nodes == nil && where == nil && n.Get("nodes") == nil && n.Get("where") == nil:
		c.errorf(n, "missing-key", "`targets:` needs `where:` or `nodes:`")
	}
	if nodes != nil {
		c.nodes(nodes, t, sc)
	}
	t.Where = c.bare(where, "where", sc.with(expr.Name{Name: "node", Type: NodeType()}), boolType)
	if empty := m.get("allow_empty"); empty != nil {
		if lit, _ := c.literal(empty, boolType); lit != nil {
			t.AllowEmpty = string(lit) == "true"
		}
	}
	t.MaxConcurrency = c.rate(m.get("max_concurrency"), sc, 1)
	t.MaxErrors = c.rate(m.get("max_errors"), sc, 0)
	t.Batches = c.rates(m.get("batches"), sc)
	t.Bake = c.duration(m.get("bake"), sc, zeroOrMore)
	t.Gate = c.bare(m.get("gate"), "gate", sc.with(expr.Name{Name: "result", Type: program.TargetsType(out)}), boolType)
	if halt := m.get("on_halt"); halt != nil && t.Single {
		c.errorf(halt, "misplaced-key", "`on_halt:` is for several nodes; of one node `on_failure:` says what happens")
	} else if halt != nil {
		t.OnHalt = c.oneOf(halt, "on_halt", program.OnFailureRollback, program.OnFailureStop, program.OnFailureAsk)
	}
	return t
}

func (c *compiler) nodes(n *syntax.Node, t *program.Targets, sc *scope) {
	switch {
	case n.Kind == syntax.String && !n.HasExpr():
		c.errorf(n, "wrong-type", "targets are a list of node ids: [%s]", clip(n.Value))
		return
	case n.Kind == syntax.List && len(n.Items) == 0:
		c.errorf(n, "no-targets", "this list of nodes is empty")
		return
	}
	t.Nodes, _ = c.value(n, program.ListOf(stringType), sc, valueOpts{})
	t.Single = n.Kind == syntax.List && len(n.Items) == 1
	seen := map[string]bool{}
	for _, item := range n.Items {
		if item.Kind != syntax.String || item.HasExpr() {
			continue
		}
		switch {
		case item.Value == "":
			c.errorf(item, "wrong-value", "a node id cannot be empty")
		case seen[item.Value]:
			c.errorf(item, "wrong-value", "node %s is listed twice", clip(item.Value))
		}
		seen[item.Value] = true
	}
}

// childRunbook compiles `runbook:`.
func (c *compiler) childRunbook(step *program.Step, m keyed, sc *scope) program.Type {
	n := m.get("runbook")
	open := program.Type{Kind: program.Object}
	out := open
	name := c.word(n, "the name of a runbook", runbookName, "lower-case words joined by / such as linux/patch")
	step.Child = &program.Child{Runbook: name}
	var known *program.Program
	if name != "" {
		switch called, circle := c.called(name); {
		case circle != nil:
			c.errorf(n, "runbook-circle", "runbooks call each other in a circle: %s", joinArrow(circle))
		case notExist(called.err):
			c.errorf(n, "unknown-runbook", "there is no runbook %s%s", name, suggest(name, "there are", c.opts.Runbooks))
		case called.err != nil:
			c.errorf(n, "unknown-runbook", "runbook %s cannot be read: %v", name, called.err)
		case called.program == nil:
			c.errorf(n, "broken-runbook", "runbook %s has mistakes of its own", name)
		default:
			known = called.program
			out = program.Type{Kind: program.Object, Fields: []program.Field{}}
			ends := stops(known.Steps)
			for _, o := range known.Outputs {
				out.Fields = append(out.Fields, program.Field{Name: o.Name, Type: o.Type, Optional: ends && usesSteps(&o.Value)})
			}
		}
	}
	if known != nil {
		step.Child.With = c.childInputs(n, m.get("with"), known, sc)
	} else {
		for _, p := range c.entries(m.get("with"), "with") {
			c.value(p.Value, anyType, sc, valueOpts{secret: true})
		}
	}
	step.Outputs = c.outputs(m.get("outputs"), sc.with(expr.Name{Name: "result", Type: out}), out)
	return out
}

// stops tells whether there is a `stop:` among the steps, so that later ones may never run.
func stops(steps []program.Step) bool {
	return slices.ContainsFunc(steps, func(s program.Step) bool {
		return s.Kind == program.KindStop || stops(s.Steps) ||
			slices.ContainsFunc(s.Branches, func(b program.Branch) bool { return stops(b.Steps) }) ||
			s.OnError != nil && stops(s.OnError.Steps)
	})
}

// usesSteps tells whether a value is made of what steps gave.
func usesSteps(v *program.Value) bool {
	uses := func(e *program.Expr) bool { return e != nil && mention.MatchString(e.Text) }
	return uses(v.Expr) ||
		slices.ContainsFunc(v.Text, func(p program.Part) bool { return uses(p.Expr) }) ||
		slices.ContainsFunc(v.List, func(v program.Value) bool { return usesSteps(&v) }) ||
		slices.ContainsFunc(v.Map, func(e program.Entry) bool { return usesSteps(&e.Value) })
}

func joinArrow(names []string) string {
	text := ""
	for i, n := range names {
		if i > 0 {
			text += " → "
		}
		text += n
	}
	return text
}

// childInputs compiles `with:` against the inputs that a runbook declares;
// literals are held against its constraints.
func (c *compiler) childInputs(at, n *syntax.Node, known *program.Program, sc *scope) []program.Entry {
	fields := make([]action.Field, 0, len(known.Inputs))
	for _, in := range known.Inputs {
		fields = append(fields, action.Field{Name: in.Name, Type: in.Type, Summary: in.Summary,
			Required: in.Default == nil, Secret: in.Type.Kind == program.Secret})
	}
	entries := c.with(at, n, fmt.Sprintf("runbook %s", known.Runbook), fields, sc)
	for _, e := range entries {
		if e.Value.Lit == nil {
			continue
		}
		i := slices.IndexFunc(known.Inputs, func(in program.Input) bool { return in.Name == e.Key })
		if why := violation(known.Inputs[i], e.Value.Lit); why != "" {
			c.errorf(n.Get(e.Key), "input-constraint", "input %s of runbook %s: %s", e.Key, known.Runbook, why)
		}
	}
	return entries
}
