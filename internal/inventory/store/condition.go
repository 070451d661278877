package store

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/almanac-run/almanac/internal/inventory"
	"github.com/almanac-run/almanac/lang/expr"
	"github.com/almanac-run/almanac/lang/program"
)

// scope is what a condition may refer to: item, an object of any fields. Package rules has it, too.
var scope = expr.Scope{Names: []expr.Name{{Name: "item", Type: program.Type{Kind: program.Object}}}}

// A condition is an expression over `item`, with what its references tell of how
// little has to be known to decide it.
//
// CEL's `&&` and `||` let an error pass only if the other side does not decide. So
// `item.kind == "package" && item.version == "1"` is false of everything that is not
// a package, whatever else it may be: asked of an item of which only the kind is known, it says so, and all
// those items need not be looked at. That does not hold if the expression asks whether
// something is there (has(), .?), or takes the item as a whole.
type condition struct {
	text string

	early  bool // may be asked of an item of which only kind and key are known
	byKey  bool // the key may help
	node   bool // depends on who has the item
	sooner bool // may be asked before it is known who has it; true if node is false
}

// holderFields are the fields of an item that are no part of the fact.
var holderFields = []string{"node", "first_seen"}

// compileCondition checks an expression. The error says where the mistake is and what it is.
func compileCondition(text string) (condition, error) {
	c := condition{text: text, early: true, sooner: true}
	checked, problems := expr.Check(text, scope)
	if len(problems) > 0 {
		p, runes := problems[0], []rune(text)
		before := string(runes[:min(p.Offset, len(runes))])
		line := strings.Count(before, "\n") + 1
		col := utf8.RuneCountInString(before[strings.LastIndex(before, "\n")+1:]) + 1
		return c, questionf("the condition, at %d:%d: %s", line, col, p.Message)
	}
	if k := checked.Type.Kind; k != program.Bool && k != program.Any {
		return c, questionf("the condition gives a %s; it has to give a bool, as item.key == \"openssl\" does", checked.Type)
	}
	for _, ref := range checked.Refs {
		if len(ref.Path) < 2 {
			c.early, c.sooner, c.node = false, false, true
			continue
		}
		field := ref.Path[1]
		of := slices.Contains(holderFields, field)
		c.node = c.node || of
		c.byKey = c.byKey || field == "key"
		if ref.Test {
			c.early = c.early && (field == "kind" || field == "key")
			c.sooner = c.sooner && !of
		}
	}
	return c, nil
}

// A verdict is what is known of a condition.
type verdict int

const (
	no      verdict = iota
	yes             // it holds
	unclear         // more has to be known; of everything: it cannot be decided
)

// ask evaluates the condition on what is known of an item.
func (c condition) ask(item map[string]any) (verdict, error) {
	if c.text == "" {
		return yes, nil
	}
	v, err := expr.Eval(c.text, map[string]any{"item": item})
	if err != nil {
		return unclear, err
	}
	switch v {
	case true:
		return yes, nil
	case false:
		return no, nil
	}
	return unclear, fmt.Errorf("the condition gives %s, not a bool", expr.Text(v))
}

// absent tells whether a condition could not be decided because the item has no such field.
func absent(err error) bool { return err != nil && strings.Contains(err.Error(), "no such key") }

// facts decodes a fact into what a condition sees.
func (f fact) item() (map[string]any, error) {
	v, err := expr.FromJSON(json.RawMessage(f.value), program.Type{Kind: program.Any})
	if err != nil {
		return nil, err
	}
	values, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s %s: the values are no map", f.kind, f.key)
	}
	item := maps.Clone(values)
	if item == nil {
		item = map[string]any{}
	}
	for _, name := range holderFields {
		delete(item, name) // the values' own are below item.values
	}
	item["kind"], item["key"], item["values"] = f.kind, f.key, values
	return item, nil
}

// held adds what is known only of one node's item.
func held(item map[string]any, node string, firstSeen int64) map[string]any {
	item["node"], item["first_seen"] = node, fromMicros(firstSeen)
	return item
}

func (f fact) found(node string, firstSeen int64) (inventory.Found, error) {
	item, err := itemOf(f.kind, f.key, f.value)
	return inventory.Found{Node: node, Kind: item.Kind, Key: item.Key, Values: item.Values, FirstSeen: fromMicros(firstSeen)}, err
}

// Rules are checked as conditions; a mistake in one is an error.
func compileRule(r inventory.Rule) (where, assert condition, err error) {
	if r.Where != "" {
		if where, err = compileCondition(r.Where); err != nil {
			return where, assert, fmt.Errorf("rule %s: where: %w", r.Name, err)
		}
	} else {
		where = condition{early: true, sooner: true}
	}
	if assert, err = compileCondition(r.Assert); err != nil {
		err = fmt.Errorf("rule %s: assert: %w", r.Name, err)
	}
	return where, assert, err
}
