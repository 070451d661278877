// Package rules reads files of rules: what has to hold of the items of an inventory.
//
// It gives Parse. It promises that every mistake in a file is found in one pass, at its place, and
// that the expressions of a file without mistakes are right. It refuses to know items and how rules are applied to them.
//
// A file looks like this; its name without the ending is the name of the baseline:
//
//	rules:
//	  - name: sshd-no-root
//	    summary: sshd forbids root login
//	    severity: critical
//	    kind: fact
//	    where: item.key == "sshd"
//	    assert: item.permitrootlogin == "no"
//	    required: true
package rules

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/agext/levenshtein"

	"github.com/almanac-run/almanac/internal/inventory"
	"github.com/almanac-run/almanac/lang/expr"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/lang/syntax"
)

// Severities a rule may have, the gravest first.
var Severities = []string{"critical", "important", "moderate", "low"}

// Limits of a file.
const (
	maxRules   = 500
	maxSummary = 500 // characters
)

var (
	fileKeys = []string{"rules"}
	ruleKeys = []string{"name", "summary", "severity", "kind", "where", "assert", "required"}
	nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	kindForm = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)
)

// Scope is what a condition may refer to: item, an object of any fields.
var Scope = expr.Scope{Names: []expr.Name{{Name: "item", Type: program.Type{Kind: program.Object}}}}

// Baseline is the name of the baseline that a file of rules makes: that of the file.
func Baseline(file string) string {
	base := filepath.Base(file)
	return strings.TrimSuffix(base, filepath.Ext(base))
}

// Parse reads a file of rules. They are nil if there is an error among the diagnostics,
// which are all there are, in the order of their places. file is only for them.
func Parse(file string, source []byte) ([]inventory.Rule, []syntax.Diagnostic) {
	root, diags := syntax.Parse(file, source)
	for i, d := range diags {
		switch d.Code { // in the words of runbooks
		case "empty-file":
			diags[i].Message = "the file is empty; a file of rules begins with `rules:`"
		case "not-a-map":
			diags[i].Message = "a file of rules has the key `rules:` with a list"
		case "several-documents":
			diags[i].Message = "a file holds one list of rules; a second document begins here"
		}
	}
	r := &reader{file: file, diags: diags}
	var all []inventory.Rule
	if root != nil {
		all = r.read(root)
	}
	syntax.Sort(r.diags)
	if slices.ContainsFunc(r.diags, func(d syntax.Diagnostic) bool { return d.Severity == syntax.Error }) {
		return nil, r.diags
	}
	return all, r.diags
}

type reader struct {
	file  string
	diags []syntax.Diagnostic
}

func (r *reader) errorf(n *syntax.Node, code, format string, args ...any) {
	r.errorAt(n.Pos, n.Width, code, format, args...)
}

func (r *reader) errorAt(pos program.Pos, width int, code, format string, args ...any) {
	r.diags = append(r.diags, syntax.Diagnostic{Severity: syntax.Error, File: r.file, Pos: pos, Width: width, Code: code, Message: fmt.Sprintf(format, args...)})
}

func (r *reader) read(root *syntax.Node) []inventory.Rule {
	list := r.keys(root, "a file of rules", fileKeys)["rules"]
	switch {
	case list == nil:
		r.errorf(root, "missing-key", "a file of rules needs `rules:`, a list")
		return nil
	case list.Kind != syntax.List || len(list.Items) == 0:
		r.errorf(list, "wrong-type", "`rules:` is a list of rules, each with `name:`, `severity:`, `kind:` and `assert:`; found %s", found(list))
		return nil
	case len(list.Items) > maxRules:
		r.errorf(list, "too-large", "a file has at most %d rules; found %d", maxRules, len(list.Items))
		return nil
	}
	all := []inventory.Rule{}
	places := map[string]program.Pos{}
	for _, n := range list.Items {
		if n.Kind != syntax.Map {
			r.errorf(n, "wrong-type", "a rule is a map with `name:`, `severity:`, `kind:` and `assert:`; found %s", found(n))
			continue
		}
		all = append(all, r.rule(n, places))
	}
	return all
}

func (r *reader) rule(n *syntax.Node, places map[string]program.Pos) inventory.Rule {
	var rule inventory.Rule
	keys := r.keys(n, "a rule", ruleKeys)
	for _, key := range []string{"name", "severity", "kind", "assert"} {
		if keys[key] == nil {
			r.errorf(n, "missing-key", "a rule needs `%s:`", key)
		}
	}
	if name := keys["name"]; name != nil {
		rule.Name = name.Value
		switch other, twice := places[name.Value]; {
		case name.Kind == syntax.List || name.Kind == syntax.Map || !nameForm.MatchString(name.Value):
			r.errorf(name, "wrong-value", "a rule's `name:` is of small letters, digits, '.', '_' and '-', at most 64; found %s", found(name))
		case twice:
			r.errorf(name, "duplicate-name", "there are two rules %s; the other is at %s", name.Value, other)
		default:
			places[name.Value] = name.Pos
		}
	}
	if s := keys["severity"]; s != nil {
		if rule.Severity = s.Value; !slices.Contains(Severities, s.Value) {
			r.errorf(s, "wrong-value", "`severity:` is one of %s; found %s%s", strings.Join(Severities, ", "), found(s), suggest(s.Value, Severities))
		}
	}
	if k := keys["kind"]; k != nil {
		if rule.Kind = k.Value; k.Kind != syntax.String || !kindForm.MatchString(k.Value) {
			r.errorf(k, "wrong-value", "`kind:` is the kind of the items, such as package, service, file or fact; found %s", found(k))
		}
	}
	if s := keys["summary"]; s != nil {
		if rule.Summary = s.Value; s.Kind != syntax.String || utf8.RuneCountInString(s.Value) > maxSummary {
			r.errorf(s, "wrong-type", "`summary:` is a text of at most %d characters", maxSummary)
		}
	}
	if w := keys["where"]; w != nil {
		rule.Where = r.expression(w, "where")
	}
	if a := keys["assert"]; a != nil {
		rule.Assert = r.expression(a, "assert")
	}
	if q := keys["required"]; q != nil {
		if rule.Required = strings.EqualFold(q.Value, "true"); q.Kind != syntax.Bool {
			r.errorf(q, "wrong-type", "`required:` is true or false; found %s", found(q))
		}
	}
	return rule
}

// expression returns the CEL of a key, checked.
func (r *reader) expression(n *syntax.Node, key string) string {
	if n.Kind != syntax.String && n.Kind != syntax.Bool {
		r.errorf(n, "wrong-type", "`%s:` is an expression over item that is true or false; found %s", key, found(n))
		return ""
	}
	text := strings.TrimSpace(n.Value)
	before := utf8.RuneCountInString(n.Value) - utf8.RuneCountInString(strings.TrimLeft(n.Value, " \t\r\n"))
	if strings.HasPrefix(text, "${{") {
		r.errorf(n, "partial-expression", "`%s:` is an expression as a whole; write it without ${{ }}", key)
		return ""
	}
	if n.Kind == syntax.Bool {
		text = strings.ToLower(text) // as CEL writes it
	}
	checked, problems := expr.Check(text, Scope)
	for _, p := range problems {
		r.errorAt(n.At(before+p.Offset), max(p.Width, 1), p.Code, "%s", p.Message)
	}
	if k := checked.Type.Kind; len(problems) == 0 && k != program.Bool && k != program.Any {
		r.errorAt(n.At(before), utf8.RuneCountInString(text), "wrong-type", "`%s:` must be true or false, and this is a %s", key, checked.Type)
	}
	return text
}

// keys returns the values by key; a key that is not known is reported.
func (r *reader) keys(n *syntax.Node, what string, known []string) map[string]*syntax.Node {
	m := map[string]*syntax.Node{}
	for _, p := range n.Pairs {
		if slices.Contains(known, p.Key.Value) {
			m[p.Key.Value] = p.Value
		} else {
			r.errorf(p.Key, "unknown-key", "%s has no key %q%s; it has %s", what, p.Key.Value, suggest(p.Key.Value, known), strings.Join(known, ", "))
		}
	}
	return m
}

func found(n *syntax.Node) string {
	switch n.Kind {
	case syntax.List, syntax.Map, syntax.Null:
		return n.Kind.String()
	}
	text := []rune(n.Value)
	if len(text) > 60 {
		text = append(text[:60], '…')
	}
	return fmt.Sprintf("%q", string(text))
}

func suggest(word string, known []string) string {
	for _, k := range known {
		if len(word) <= 50 && levenshtein.Distance(strings.ToLower(word), k, nil) <= (len(k)+2)/4 {
			return fmt.Sprintf(" (did you mean %s?)", k)
		}
	}
	return ""
}
