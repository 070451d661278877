package aws

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
)

// members are those of a structure of AWS, by the names in its models. What is
// absent reads as nothing.
type members map[string]any

// with is a copy that has more, too. What is empty ("", nil, an empty list) is
// left out, since AWS tells an empty member from none.
func (m members) with(more members) map[string]any {
	all := maps.Clone(map[string]any(m))
	if all == nil {
		all = map[string]any{}
	}
	for name, v := range more {
		switch v := v.(type) {
		case nil:
			continue
		case string:
			if v == "" {
				continue
			}
		case []any:
			if len(v) == 0 {
				continue
			}
		case map[string]any:
			if len(v) == 0 {
				continue
			}
		}
		all[name] = v
	}
	return all
}

func (m members) text(name string) string {
	s, _ := m[name].(string)
	return s
}

func (m members) flag(name string) bool {
	b, _ := m[name].(bool)
	return b
}

func (m members) int(name string) int64 {
	switch n := m[name].(type) {
	case int64:
		return n
	case int:
		return int64(n)
	case float64:
		return int64(n)
	}
	return 0
}

func (m members) time(name string) time.Time {
	switch t := m[name].(type) {
	case time.Time:
		return t
	case string: // EC2's model has some as text
		at, err := time.Parse(time.RFC3339, t)
		if err == nil {
			return at
		}
	}
	return time.Time{}
}

// in is a structure within.
func (m members) in(name string) members {
	in, _ := m[name].(map[string]any)
	return in
}

// list is a list of structures.
func (m members) list(name string) []members {
	var all []members
	items, _ := m[name].([]any)
	for _, item := range items {
		if one, ok := item.(map[string]any); ok {
			all = append(all, one)
		}
	}
	return all
}

// texts is a list of strings.
func (m members) texts(name string) []string {
	var all []string
	items, _ := m[name].([]any)
	for _, item := range items {
		if one, ok := item.(string); ok {
			all = append(all, one)
		}
	}
	return all
}

// anys makes the list that a call takes.
func anys[T any](items []T) []any {
	all := make([]any, len(items))
	for i, item := range items {
		all[i] = item
	}
	return all
}

// filter is one of EC2's Filters.
func filter(name string, values ...string) map[string]any {
	return map[string]any{"Name": name, "Values": anys(values)}
}

// object reads an input that holds members by AWS's own names. Those named
// taken are set by the action or by an input of its own.
func object(input string, raw json.RawMessage, taken ...string) (members, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return members{}, nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		return nil, action.Errorf(action.Invalid, "%s is not an object of names and values", input)
	}
	for _, name := range taken {
		if _, ok := m[name]; ok {
			return nil, action.Errorf(action.Invalid, "%s has %s, which the action sets itself", input, name)
		}
	}
	return m, nil
}

// sorted is a sorted copy without repetitions.
func sorted(texts []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(texts)))
}

// named is a list for a message.
func named(texts []string) string { return strings.Join(texts, ", ") }
