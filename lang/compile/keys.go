package compile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/lang/syntax"
)

// key is one key of the language: what the checker accepts, what editors
// complete, and what they say about it.
type key struct {
	name     string
	required bool
	shape    shape // what may stand on its right, for the JSON Schema
	doc      string
}

// topKeys are the keys of a runbook.
var topKeys = []key{
	{"runbook", true, shapeRunbookName, "Name of the runbook: lower-case words joined by /, such as linux/patch. It is the workflow type."},
	{"summary", false, shapeText, "One line that says what the runbook does."},
	{"description", false, shapeText, "What one should know before running it; Markdown."},
	{"inputs", false, shapeInputs, "What whoever starts the runbook gives it, by name."},
	{"vars", false, shapeValues, "Values computed once, before the first step; each may use those above it."},
	{"timeout", false, shapeDuration, "How long the execution may take before it is stopped and rolled back."},
	{"lock", false, shapeLock, "Keys, one or a list, that one execution at a time may hold; others wait in order. Made of inputs and execution."},
	{"max_running", false, shapeCount, "How many executions of the runbook may run at once; others wait in order."},
	awsKey,
	{"on_failure", false, shapeOneOf("rollback", "stop", "ask"), "What happens when a step fails: take back what was done (rollback, the default), leave it (stop), or ask an operator (ask)."},
	{"steps", true, shapeSteps, "What is done, in order."},
	{"finally", false, shapeSteps, "Steps that run at the end, however it ended. One that refers to a step that never completed is skipped."},
	{"outputs", false, shapeValues, "What the execution returns, by name."},
}

// inputKeys are the keys of one declared input.
var inputKeys = []key{
	{"type", true, shapeType, "string, int, float, bool, duration, timestamp, list<T>, map<T>, object or secret."},
	{"summary", false, shapeText, "One line that says what it is for."},
	{"default", false, shapeAny, "The value if none is given; without it the input is required."},
	{"enum", false, shapeList, "The values it may have."},
	{"pattern", false, shapeText, "RE2 pattern that the string, or each string of a list, must contain; anchor it with ^ and $."},
	{"min", false, shapeScalar, "The least value; of strings, lists and maps the least length."},
	{"max", false, shapeScalar, "The greatest value; of strings, lists and maps the greatest length."},
}

// commonKeys may stand in any step but stop and fail, which take the first three.
var commonKeys = []key{
	{"id", false, shapeName, "Name by which later expressions refer to the step: steps.<id>."},
	{"name", false, shapeText, "Title for people."},
	{"if", false, shapeExpr, "CEL; the step is skipped unless it is true."},
	{"timeout", false, shapeDuration, "How long one attempt of an action or runbook, or any other step as a whole, may take."},
	{"retry", false, shapeKeys(func() []key { return retryKeys }), "How often, and after which kinds of error, the step is tried again."},
	{"on_error", false, shapeOnError, "continue, or steps that handle the error (`error` is in scope)."},
	{"rollback", false, shapeRollback, "none, or what takes the step back instead of the action's own compensation."},
}

// bareKeys is how many of commonKeys stop and fail take.
const bareKeys = 3

// foreignKeys are keys that steps have in GitHub Actions and Ansible, and how this language says the same.
var foreignKeys = map[string]string{
	"uses": "action: …", "continue-on-error": "on_error: continue", "ignore_errors": "on_error: continue", "timeout-minutes": "timeout: 5m",
	"when": "if: …", "loop": "for_each: …", "with_items": "for_each: …", "rescue": "on_error: { steps: […] }", "always": "finally: […]",
}

var retryKeys = []key{
	{"attempts", false, shapeInt, "Attempts in all, the first one counted; 5 if not given."},
	{"backoff", false, shapeDuration, "Pause before the second attempt; 1s if not given."},
	{"max_backoff", false, shapeDuration, "The longest pause; 1m if not given."},
	{"factor", false, shapeNumber, "By how much each pause is longer than the one before; 2 if not given."},
	{"on", false, shapeKinds, "Kinds of error after which to try again; any if not given."},
}

var onErrorKeys = []key{
	{"steps", true, shapeSteps, "Steps that handle the error; error.kind, error.message and error.step are in scope."},
}

var rollbackStepsKeys = []key{
	{"steps", true, shapeSteps, "Steps that take the step back."},
}

var targetsKeys = []key{
	{"nodes", false, shapeStrings, "Node ids."},
	{"where", false, shapeExpr, "CEL over node (id, name, os, version, arch, tags) that selects nodes."},
	{"allow_empty", false, shapeLiteralBool, "Whether selecting no node is fine; otherwise it is an error."},
	{"max_concurrency", false, shapeRate, "How many nodes at a time: a number or a percentage; 50 if not given."},
	{"max_errors", false, shapeRate, "How many nodes may fail before no more are started: a number or a percentage; 0 if not given."},
	{"batches", false, shapeRates, "Sizes of the batches, numbers or percentages; the last one repeats."},
	{"bake", false, shapeDuration, "Pause after each batch but the last."},
	{"gate", false, shapeExpr, "CEL over result, evaluated after each batch; unless true, no more are started."},
	{"on_halt", false, shapeOneOf("rollback", "stop", "ask"), "What happens when too many have failed or the gate is closed: take back what was done (rollback), leave it (stop), or ask an operator (ask). As on_failure says if not given."},
}

var repeatKeys = []key{
	{"until", true, shapeExpr, "CEL, evaluated after each pass; true ends the loop."},
	{"every", false, shapeDuration, "Pause between passes."},
	{"attempts", false, shapeInt, "The most passes; more is an error."},
}

var approvalKeys = []key{
	{"message", true, shapeText, "What is asked."},
	{"approvers", false, shapeStrings, "Who may answer; anyone if not given."},
	{"quorum", false, shapeInt, "How many must approve; 1 if not given."},
	{"timeout", false, shapeDuration, "How long to wait; for ever if not given."},
	{"on_timeout", false, shapeOneOf("fail", "approve", "reject"), "What the time-out counts as; fail if not given."},
}

// form is one form of a step: the key that marks it and the keys that belong to it.
type form struct {
	lead    key
	kind    program.Kind
	keys    []key
	bare    bool // takes only the first of the common keys
	compile func(*compiler, *program.Step, keyed, *scope) program.Type
}

var (
	withKey    = key{"with", false, shapeValues, "Inputs, by name."}
	targetsKey = key{"targets", false, shapeTargets, "On which nodes it runs: a list of node ids, or a selection with rate control."}
	untilKey   = key{"until", false, shapeExpr, "CEL over result; the action is called again until it is true."}
	everyKey   = key{"every", false, shapeDuration, "Pause between calls with until; 10s if not given."}
	outputsKey = key{"outputs", false, shapeValues, "More outputs of the step; result is what it returned."}
)

// forms returns the forms of a step, in the order of the reference. It is a
// function because the forms contain steps.
func forms() []form {
	return []form{
		{key{"action", false, shapeActionName, "Call an action."}, program.KindAction,
			[]key{withKey, targetsKey, untilKey, everyKey, outputsKey, awsKey}, false, (*compiler).action},
		{key{"run", false, shapeText, "Run a shell script on the targets. Hand values over with env; expressions cannot stand in a script."}, program.KindAction,
			append(runKeys(), targetsKey, untilKey, everyKey, outputsKey), false, (*compiler).run},
		{key{"runbook", false, shapeRunbookName, "Run another runbook as a child."}, program.KindRunbook,
			[]key{withKey, outputsKey}, false, (*compiler).childRunbook},
		{key{"steps", false, shapeSteps, "A block of steps; with for_each or repeat, a loop."}, program.KindBlock,
			[]key{
				{"for_each", false, shapeItems, "Run the steps once per item of a list or map; item and index are in scope."},
				{"max_concurrency", false, shapeRate, "With for_each: how many items at a time, a number or a percentage; 1 if not given."},
				{"max_errors", false, shapeRate, "With for_each: how many items may fail, a number or a percentage; 0 if not given."},
				{"repeat", false, shapeKeys(func() []key { return repeatKeys }), "Run the steps until a condition is true."},
				{"outputs", false, shapeValues, "Outputs of the block; the steps inside are in scope. Of for_each, of each item."},
			}, false, (*compiler).block},
		{key{"parallel", false, shapeBranches, "Run named branches at the same time."}, program.KindParallel,
			[]key{{"outputs", false, shapeValues, "Outputs; the steps of all branches are in scope."}}, false, (*compiler).parallel},
		{key{"approval", false, shapeKeys(func() []key { return approvalKeys }), "Wait until people approve."}, program.KindApproval,
			nil, false, (*compiler).approval},
		{key{"wait", false, shapeDuration, "Wait for a duration."}, program.KindWait, nil, false, (*compiler).wait},
		{key{"wait_until", false, shapeText, "Wait until a time."}, program.KindWaitUntil, nil, false, (*compiler).waitUntil},
		{key{"pause", false, shapeText, "Wait until an operator resumes; says why."}, program.KindPause, nil, false, (*compiler).pause},
		{key{"assert", false, shapeExpr, "CEL; the step fails unless it is true."}, program.KindAssert,
			[]key{{"message", false, shapeText, "What to say if it is not."}}, false, (*compiler).assert},
		{key{"stop", false, shapeText, "End the execution well; says why."}, program.KindStop, nil, true, (*compiler).stop},
		{key{"fail", false, shapeText, "End the execution as failed; says why."}, program.KindFail, nil, true, (*compiler).stop},
	}
}

// all returns every key that a step of the form may have.
func (f form) all() []key {
	common := commonKeys
	if f.bare {
		common = commonKeys[:bareKeys]
	}
	return slices.Concat([]key{f.lead}, f.keys, common)
}

// keyed is a map whose keys have been checked.
type keyed map[string]*syntax.Node

func (m keyed) get(name string) *syntax.Node { return m[name] }

// keys checks a map against its table: unknown keys, keys without a value, and
// required ones that are missing. what names the map in messages. elsewhere says why a
// key that is not in the table may not stand here; it may be nil.
func (c *compiler) keys(n *syntax.Node, what string, table []key, elsewhere func(name string) string) keyed {
	m := keyed{}
	if n.Kind != syntax.Map {
		c.errorf(n, "wrong-type", "%s is a map with the keys %s; found %s", what, strings.Join(keyNames(table), ", "), found(n))
		return m
	}
	misspelt := map[string]bool{}
	for _, p := range n.Pairs {
		name := p.Key.Value
		if !slices.ContainsFunc(table, func(k key) bool { return k.name == name }) {
			if elsewhere != nil {
				if why := elsewhere(name); why != "" {
					c.errorf(p.Key, "misplaced-key", "%s", why)
					continue
				}
			}
			misspelt[nearest(name, keyNames(table))] = true
			hint := suggest(name, "it has", keyNames(table))
			if ours := foreignKeys[name]; ours != "" && elsewhere != nil {
				hint = "; it is written `" + ours + "`"
			}
			c.errorf(p.Key, "unknown-key", "%s has no key %q%s", what, clip(name), hint)
			continue
		}
		if p.Value.Kind == syntax.Null && name != "default" {
			c.errorf(p.Key, "empty-value", "`%s:` has no value", name)
			misspelt[name] = true
			continue
		}
		m[name] = p.Value
	}
	for _, k := range table {
		if k.required && m[k.name] == nil && !misspelt[k.name] {
			c.errorAt(n.Pos, 1, "missing-key", "%s needs `%s:`", what, k.name)
		}
	}
	return m
}

func keyNames(table []key) []string {
	names := make([]string, len(table))
	for i, k := range table {
		names[i] = k.name
	}
	return names
}

// entries returns the pairs of a map of names that the author chose.
func (c *compiler) entries(n *syntax.Node, what string) []syntax.Pair {
	if n == nil {
		return nil
	}
	if n.Kind != syntax.Map {
		c.errorf(n, "wrong-type", "`%s:` is a map of names; found %s", what, found(n))
		return nil
	}
	return n.Pairs
}

// name checks a name that the author chose.
func (c *compiler) name(n *syntax.Node, what string) bool {
	switch {
	case n.HasExpr():
		c.errorf(n, "expression-not-allowed", "the name of %s is fixed and cannot hold an expression", withArticle(what))
		return false
	case n.Kind == syntax.List || n.Kind == syntax.Map || !nameText.MatchString(n.Value):
		c.errorf(n, "bad-name", "%q is not the name of %s: lower-case letters, digits and _, not beginning with a digit, at most 64", clip(n.Value), withArticle(what))
		return false
	case slices.Contains(reserved, n.Value):
		c.errorf(n, "bad-name", "%s is a word of the expression language; choose another name for this %s", n.Value, what)
		return false
	}
	return true
}

// reserved are the words that cannot follow a dot in CEL.
var reserved = []string{"true", "false", "null", "in"}

func withArticle(what string) string {
	if strings.ContainsRune("aeiou", rune(what[0])) {
		return "an " + what
	}
	return "a " + what
}

// text returns a literal string.
func (c *compiler) text(n *syntax.Node, what string) string {
	switch {
	case n == nil:
		return ""
	case n.Kind != syntax.String:
		c.literal(n, stringType)
		return ""
	case n.HasExpr():
		c.errorf(n, "expression-not-allowed", "`%s:` is read before anything runs and cannot hold an expression", what)
		return ""
	}
	return n.Value
}

// word returns a literal string of a fixed form.
func (c *compiler) word(n *syntax.Node, what string, form interface{ MatchString(string) bool }, like string) string {
	switch {
	case n.Kind == syntax.List || n.Kind == syntax.Map || n.Kind == syntax.Null:
		c.errorf(n, "wrong-type", "%s is a string; found %s", what, found(n))
	case n.HasExpr():
		c.errorf(n, "expression-not-allowed", "%s is fixed and cannot hold an expression", what)
	case !form.MatchString(n.Value):
		c.errorf(n, "bad-name", "%q is not %s: %s", clip(n.Value), what, like)
	default:
		return n.Value
	}
	return ""
}

// oneOf returns a literal string out of a few.
func (c *compiler) oneOf(n *syntax.Node, what string, values ...string) string {
	if n.HasExpr() {
		c.errorf(n, "expression-not-allowed", "`%s:` is fixed and cannot hold an expression; it is one of %s", what, strings.Join(values, ", "))
		return values[0]
	}
	if !slices.Contains(values, n.Value) || n.Kind == syntax.List || n.Kind == syntax.Map {
		c.errorf(n, "wrong-value", "`%s:` is %s, and cannot be %s%s", what, alternatives(values), found(n), suggestOnly(n.Value, values))
		return values[0]
	}
	return n.Value
}

func suggestOnly(name string, known []string) string {
	if near := nearest(name, known); near != "" {
		return fmt.Sprintf("; did you mean %s?", near)
	}
	return ""
}

// alternatives joins values with commas and a last "or".
func alternatives(values []string) string {
	if len(values) < 2 {
		return strings.Join(values, "")
	}
	return strings.Join(values[:len(values)-1], ", ") + " or " + values[len(values)-1]
}

// enum checks a literal against the values it may have.
func (c *compiler) enum(n *syntax.Node, what string, values []string) {
	if !slices.Contains(values, n.Value) {
		c.errorf(n, "wrong-value", "%s is %s, and cannot be %q%s", what, alternatives(values), clip(n.Value), suggestOnly(n.Value, values))
	}
}
