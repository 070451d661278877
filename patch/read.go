package patch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/agext/levenshtein"

	"github.com/almanac-run/almanac/lang/expr"
	"github.com/almanac-run/almanac/lang/program"
)

// The limits of a baseline. They are far above what a person maintains; a node
// evaluates every rule for every offer.
const (
	maxRules = 100
	maxPins  = 500
	maxText  = 500     // characters of a summary, name or pattern
	maxJSON  = 1 << 20 // bytes
)

// scope is what rules may refer to. Fields that may be absent have to be asked
// for (`has(patch.age) && …`): a distribution often gives no date, and no value stands for that.
var scope = expr.Scope{Names: []expr.Name{{Name: "patch", Type: patchType}}}

var patchType = program.Type{Kind: program.Object, Fields: []program.Field{
	{Name: "name", Type: program.Type{Kind: program.String}},
	{Name: "arch", Type: program.Type{Kind: program.String}},
	{Name: "installed", Type: program.Type{Kind: program.String}},
	{Name: "version", Type: program.Type{Kind: program.String}},
	{Name: "severity", Type: program.Type{Kind: program.String}},
	{Name: "classification", Type: program.Type{Kind: program.String}},
	{Name: "advisory", Type: program.Type{Kind: program.String}},
	{Name: "cve", Type: program.ListOf(program.Type{Kind: program.String})},
	{Name: "repository", Type: program.Type{Kind: program.String}},
	{Name: "published", Type: program.Type{Kind: program.Timestamp}, Optional: true},
	{Name: "age", Type: program.Type{Kind: program.DurationType}, Optional: true},
}}

// severities and classifications are what package managers translate the
// distributions' words to. Worst first.
var (
	severities      = []string{"critical", "important", "moderate", "low"}
	classifications = []string{"security", "bugfix", "enhancement"}
)

// Node is a value as it was written in a baseline. Package patch/baseline makes
// a tree of a file, FromJSON one of an object.
type Node struct {
	Kind  Kind
	Text  string // of a scalar
	Items []*Node
	Pairs []Pair // of a map, keys unique
	Place any    // whatever tells who made the tree where the node is
}

// Pair is one key of a map and its value.
type Pair struct{ Key, Value *Node }

// Kind is what a Node is, as messages call it.
type Kind string

// The kinds of nodes.
const (
	Nothing Kind = "nothing"
	Bool    Kind = "bool"
	Number  Kind = "number"
	String  Kind = "string"
	List    Kind = "list"
	Map     Kind = "map"
)

// Mistake is something wrong with a baseline, or doubtful.
type Mistake struct {
	Node    *Node
	Offset  int // of the character of its text that it is about; below 0: the whole node
	Width   int // characters from there; 0 with the whole node
	Warning bool
	Code    string // stable, kebab-case
	Message string
}

// Read makes a baseline of a tree whose root is a Map. It is nil if one of the mistakes is no warning.
func Read(root *Node) (*Baseline, []Mistake) {
	r := reader{mistakes: &[]Mistake{}}
	b := r.baseline(root)
	if slices.ContainsFunc(*r.mistakes, func(m Mistake) bool { return !m.Warning }) {
		b = nil
	}
	return b, *r.mistakes
}

// FromJSON reads a baseline that came as an object: from an input, or from
// whoever parsed it. The error says what is wrong with it, all of it. Warnings are not errors.
func FromJSON(raw json.RawMessage) (*Baseline, error) {
	if len(raw) > maxJSON {
		return nil, errors.New("the baseline is larger than 1 MiB")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("the baseline is not JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the baseline is not JSON: more follows the value")
	}
	root := tree(v, "")
	if root.Kind != Map {
		return nil, errors.New("a baseline is an object with the keys `baseline` and `rules`")
	}
	b, mistakes := Read(root)
	if b != nil {
		return b, nil
	}
	var wrong []error
	for _, m := range mistakes {
		if m.Warning || len(wrong) > 20 {
			continue
		}
		place, _ := m.Node.Place.(string)
		if m.Offset > 0 {
			place += fmt.Sprintf(" (character %d)", m.Offset+1)
		}
		if place != "" {
			place += ": "
		}
		wrong = append(wrong, errors.New(place+m.Message))
	}
	return nil, fmt.Errorf("the baseline is wrong:\n%w", errors.Join(wrong...))
}

// tree gives a decoded JSON value the form of a baseline. Places are paths: rules[1].approve.
func tree(v any, place string) *Node {
	n := &Node{Kind: Nothing, Place: place}
	switch v := v.(type) {
	case bool:
		n.Kind, n.Text = Bool, fmt.Sprint(v)
	case json.Number:
		n.Kind, n.Text = Number, v.String()
	case string:
		n.Kind, n.Text = String, v
	case []any:
		n.Kind = List
		for i, item := range v {
			n.Items = append(n.Items, tree(item, fmt.Sprintf("%s[%d]", place, i)))
		}
	case map[string]any:
		n.Kind = Map
		for _, k := range slices.Sorted(maps.Keys(v)) {
			at := strings.TrimPrefix(place+"."+k, ".")
			n.Pairs = append(n.Pairs, Pair{Key: &Node{Kind: String, Text: k, Place: at}, Value: tree(v[k], at)})
		}
	}
	return n
}

// reader turns a tree into a baseline.
type reader struct{ mistakes *[]Mistake }

func (r reader) errorf(n *Node, code, format string, args ...any) {
	*r.mistakes = append(*r.mistakes, Mistake{Node: n, Offset: -1, Code: code, Message: fmt.Sprintf(format, args...)})
}

// inside is errorf about characters of the node's text.
func (r reader) inside(n *Node, offset, width int, code, format string, args ...any) {
	*r.mistakes = append(*r.mistakes, Mistake{Node: n, Offset: offset, Width: width, Code: code, Message: fmt.Sprintf(format, args...)})
}

var (
	baselineKeys = []string{"baseline", "summary", "rules", "pin"}
	ruleKeys     = []string{"os", "approve", "after", "level", "reject"}
	baselineName = regexp.MustCompile(`^[a-z0-9][a-z0-9_./-]{0,99}$`)
	osName       = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]*(:[A-Za-z0-9_.-]+)?$`)
)

func (r reader) baseline(n *Node) *Baseline {
	b := &Baseline{Rules: []Rule{}}
	keys := r.keys(n, "a baseline", baselineKeys)
	if name := keys["baseline"]; name == nil {
		r.errorf(n, "missing-key", "a baseline needs `baseline:`, its name")
	} else if b.Name = r.text(name, "`baseline:`"); b.Name != "" && !baselineName.MatchString(b.Name) {
		r.errorf(name, "bad-name", "%q is not the name of a baseline: lower-case letters, digits, _, ., / and -, at most 100", clip(b.Name))
	}
	if summary := keys["summary"]; summary != nil {
		b.Summary = r.text(summary, "`summary:`")
	}
	switch rules := keys["rules"]; {
	case rules == nil:
		r.errorf(n, "missing-key", "a baseline needs `rules:`; without a rule it approves nothing")
	case rules.Kind != List || len(rules.Items) == 0:
		r.errorf(rules, "wrong-type", "`rules:` is a list of rules, such as `- approve: patch.classification == \"security\"`")
	case len(rules.Items) > maxRules:
		r.errorf(rules, "too-large", "the baseline has %d rules; at most %d are allowed", len(rules.Items), maxRules)
	default:
		for _, item := range rules.Items {
			b.Rules = append(b.Rules, r.rule(item))
		}
	}
	if pin := keys["pin"]; pin != nil {
		b.Pin = r.pin(pin)
	}
	return b
}

func (r reader) rule(n *Node) Rule {
	var rule Rule
	if n.Kind != Map {
		r.errorf(n, "wrong-type", "a rule is a map with `approve:` or `reject:`; found a %s", n.Kind)
		return rule
	}
	keys := r.keys(n, "a rule", ruleKeys)
	approve, reject := keys["approve"], keys["reject"]
	switch {
	case approve != nil && reject != nil:
		r.errorf(reject, "wrong-value", "a rule approves or rejects; make two rules of it")
	case approve != nil:
		rule.Approve = r.expression(approve, "`approve:`")
	case reject != nil:
		rule.Reject = r.expression(reject, "`reject:`")
	default:
		r.errorf(n, "missing-key", "a rule needs `approve:` or `reject:`, an expression over patch")
	}
	if after := keys["after"]; after != nil {
		if reject != nil && approve == nil {
			r.errorf(after, "misplaced-key", "`after:` belongs to `approve:`; to reject what is new, write `reject: has(patch.age) && patch.age < duration(\"7d\")`")
		}
		if err := rule.After.UnmarshalText([]byte(after.Text)); err != nil || after.Kind != String {
			r.errorf(after, "wrong-value", "`after:` is a delay since the publication, such as 7d or 12h; found %q", clip(after.Text))
		} else if rule.After < 0 {
			r.errorf(after, "wrong-value", "`after:` cannot be negative")
		}
	}
	if level := keys["level"]; level != nil {
		if rule.Level = level.Text; !slices.Contains(severities, level.Text) {
			r.errorf(level, "wrong-value", "`level:` is one of %s; found %q%s", strings.Join(severities, ", "), clip(level.Text), suggest(level.Text, severities))
		}
		if reject != nil && approve == nil {
			r.errorf(level, "misplaced-key", "`level:` belongs to `approve:`: it is the severity of what is missing")
		}
	}
	if os := keys["os"]; os != nil {
		rule.OS = r.systems(os)
	}
	return rule
}

func (r reader) systems(n *Node) []string {
	items := n.Items
	if n.Kind != List {
		items = []*Node{n}
	}
	if len(items) == 0 || len(items) > maxRules {
		r.errorf(n, "wrong-value", "`os:` names one to %d systems, such as [debian, \"rhel:9\"]; leave it out for every system", maxRules)
	}
	var names []string
	for _, item := range items[:min(len(items), maxRules)] {
		if item.Kind != String || !osName.MatchString(item.Text) {
			r.errorf(item, "bad-name", "%q is not the name of a system: the ID of /etc/os-release, such as debian, or windows; with a version, rhel:9", clip(item.Text))
		}
		names = append(names, item.Text)
	}
	return names
}

func (r reader) pin(n *Node) map[string]string {
	if n.Kind != Map || len(n.Pairs) == 0 {
		r.errorf(n, "wrong-type", "`pin:` is a map of packages to versions, such as { nginx: \"1.24.*\" }")
		return nil
	}
	if len(n.Pairs) > maxPins {
		r.errorf(n, "too-large", "the baseline pins %d packages; at most %d are allowed", len(n.Pairs), maxPins)
		return nil
	}
	pins := map[string]string{}
	for _, p := range n.Pairs {
		if r.pattern(p.Key) && r.pattern(p.Value) {
			pins[p.Key.Text] = p.Value.Text
		}
	}
	return pins
}

func (r reader) pattern(n *Node) bool {
	switch _, err := path.Match(n.Text, ""); {
	case n.Kind == Number:
		r.errorf(n, "wrong-type", "quote the version: %q; as a number it would lose its zeros", n.Text)
	case n.Kind != String || n.Text == "":
		r.errorf(n, "wrong-type", "a package and its version are text, such as nginx: \"1.24.*\"; found %s", found(n))
	case err != nil:
		r.errorf(n, "wrong-value", "%q is not a pattern: * stands for any text, ? for a character, [a-z] for one of several, \\ before one of those for itself", clip(n.Text))
	case utf8.RuneCountInString(n.Text) > maxText:
		r.errorf(n, "too-large", "the pattern has more than %d characters", maxText)
	default:
		return true
	}
	return false
}

// text returns a string that is not empty and not long.
func (r reader) text(n *Node, what string) string {
	if n.Kind != String || strings.TrimSpace(n.Text) == "" {
		r.errorf(n, "wrong-type", "%s is text; found %s", what, found(n))
		return ""
	}
	if utf8.RuneCountInString(n.Text) > maxText {
		r.errorf(n, "too-large", "%s has more than %d characters", what, maxText)
		return ""
	}
	return n.Text
}

// expression returns a rule's CEL, checked.
func (r reader) expression(n *Node, what string) string {
	if n.Kind != String && n.Kind != Bool {
		r.errorf(n, "wrong-type", "%s is an expression over patch that is true or false; found %s", what, found(n))
		return ""
	}
	text := strings.TrimSpace(n.Text)
	before := utf8.RuneCountInString(n.Text) - utf8.RuneCountInString(strings.TrimLeft(n.Text, " \t\r\n"))
	if strings.HasPrefix(text, "${{") {
		r.errorf(n, "partial-expression", "%s is an expression as a whole; write it without ${{ }}", what)
		return ""
	}
	if n.Kind == Bool {
		text = strings.ToLower(text) // as CEL writes it
	}
	checked, problems := expr.Check(text, scope)
	for _, p := range problems {
		r.inside(n, before+p.Offset, p.Width, p.Code, "%s", p.Message)
	}
	if len(problems) == 0 && checked.Type.Kind != program.Bool && checked.Type.Kind != program.Any {
		r.inside(n, before, utf8.RuneCountInString(text), "wrong-type", "%s must be true or false, and this is a %s", what, checked.Type)
	}
	r.words(n, text, before)
	return text
}

// compared finds what a rule compares the two fields to that have few values.
var (
	compared = regexp.MustCompile(`\bpatch\.(severity|classification)\s*(?:[=!]=\s*("[^"]*"|'[^']*')|in\s*(\[[^\]]*\]))`)
	quoted   = regexp.MustCompile(`"[^"]*"|'[^']*'`)
)

// words warns of a value that these fields never have: such a rule is right and
// matches nothing, which nobody notices.
func (r reader) words(n *Node, text string, before int) {
	for _, m := range compared.FindAllStringSubmatchIndex(text, -1) {
		field, known := text[m[2]:m[3]], severities
		if field == "classification" {
			known = classifications
		}
		from, to := m[4], m[5]
		if from < 0 {
			from, to = m[6], m[7]
		}
		for _, q := range quoted.FindAllStringIndex(text[from:to], -1) {
			word := text[from+q[0]+1 : from+q[1]-1]
			if word == "" || slices.Contains(known, word) {
				continue
			}
			r.inside(n, before+utf8.RuneCountInString(text[:from+q[0]]), utf8.RuneCountInString(word)+2, "unknown-value",
				"no patch has the %s %q%s; there are %s, and \"\" if it is not said", field, clip(word), suggest(word, known), strings.Join(known, ", "))
			(*r.mistakes)[len(*r.mistakes)-1].Warning = true
		}
	}
}

// keys returns the values by key; a key that is not known is reported.
func (r reader) keys(n *Node, what string, known []string) map[string]*Node {
	m := map[string]*Node{}
	for _, p := range n.Pairs {
		if name := p.Key.Text; slices.Contains(known, name) {
			m[name] = p.Value
		} else {
			r.errorf(p.Key, "unknown-key", "%s has no key %q%s; it has %s", what, clip(name), suggest(name, known), strings.Join(known, ", "))
		}
	}
	return m
}

// others are words of AWS Patch Manager and what stands for them here.
var others = map[string]string{"medium": "moderate", "high": "important", "informational": "low", "bug": "bugfix", "approveafterdays": "after", "compliancelevel": "level"}

// suggest names what was probably meant.
func suggest(word string, known []string) string {
	lower := strings.ToLower(word)
	meant := others[lower]
	if !slices.Contains(known, meant) {
		meant = ""
		for _, k := range known {
			if len(word) <= 50 && meant == "" && levenshtein.Distance(lower, k, nil) <= (len(k)+2)/4 {
				meant = k
			}
		}
	}
	if meant == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s?)", meant)
}

func found(n *Node) string {
	switch n.Kind {
	case Nothing:
		return "nothing"
	case List, Map:
		return "a " + string(n.Kind)
	}
	return fmt.Sprintf("%q", clip(n.Text))
}

// clip shortens text that a message quotes.
func clip(s string) string { return shorten(s, 60) }

// shorten cuts text to at most n characters.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	if r := []rune(s[:min(len(s), 4*n)]); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
