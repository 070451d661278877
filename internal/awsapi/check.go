package awsapi

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
)

// Unknown stands in the input of Check for a value that is known only when the
// step runs. Of its Type, Kind decides, and where they are given Item and
// Members; a nil Type is Any.
type Unknown struct{ Type *Shape }

// Problem is a mistake in an input.
type Problem struct {
	Path    string // "TagSpecifications[0].Tags"; empty for the input as a whole
	Message string // "needs a list, got a map"

	// Warning: AWS may take it all the same. The model may be older than an enum's
	// newest value.
	Warning bool

	Name bool // there is no member of the name that Path ends with
}

func (p Problem) String() string {
	if p.Path == "" {
		return p.Message
	}
	return p.Path + ": " + p.Message
}

// Check compares an input with the model and returns what is wrong with it, in
// the order of paths. Values are those of Caller, and Unknown. What it accepts,
// AWS may still refuse: lengths, patterns and what depends on other members. It
// does not ask for idempotency tokens, since who makes the call adds them
// (Member.Token tells where).
func (m *Models) Check(service, operation string, input map[string]any) []Problem {
	s, op, err := m.lookup(service, operation)
	if err != nil {
		message := err.Error()
		if e, ok := err.(*Error); ok {
			message = e.Message
		}
		return []Problem{{Message: message}}
	}
	c := &checker{service: s}
	if _, err := s.compile(op); err != nil {
		if e, ok := err.(*Error); ok {
			c.add("", "%s", e.Message)
		}
	}
	if op.Input == nil {
		if len(input) > 0 {
			c.add("", "it takes no input")
		}
		return c.problems
	}
	c.structure(s.Shapes[op.Input.Shape], input, "", 0)
	slices.SortStableFunc(c.problems, func(a, b Problem) int { return comparePaths(a.Path, b.Path) })
	return c.problems
}

// comparePaths puts [2] before [10].
func comparePaths(a, b string) int {
	for a != "" && b != "" {
		if a[0] == '[' && b[0] == '[' {
			var i, j int
			if n, _ := fmt.Sscanf(a, "[%d]", &i); n == 1 {
				if n, _ := fmt.Sscanf(b, "[%d]", &j); n == 1 && i != j {
					return i - j
				}
			}
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

type checker struct {
	service  *service
	problems []Problem
}

func (c *checker) add(path, format string, args ...any) {
	c.problems = append(c.problems, Problem{Path: path, Message: fmt.Sprintf(format, args...)})
}

func (c *checker) value(r *ref, v any, path string, depth int) {
	sh := c.service.Shapes[r.Shape]
	if depth > maxNesting {
		c.add(path, "is nested too deeply")
		return
	}
	if u, ok := v.(Unknown); ok {
		c.unknown(sh, u.Type, path, depth)
		return
	}
	if r.JSONValue || kindOf(sh) == Any {
		c.document(v, path, depth)
		return
	}
	if _, ok := v.(io.ReadSeeker); ok && (r.Streaming || sh.Streaming) {
		return
	}
	kind := kindOf(sh)
	switch kind {
	case Structure:
		if given, ok := v.(map[string]any); ok {
			c.structure(sh, given, path, depth)
			return
		}
	case List:
		if given, ok := v.([]any); ok {
			for i, v := range given {
				at := below(path, "["+strconv.Itoa(i)+"]")
				if v == nil {
					c.add(at, "is null")
					continue
				}
				c.value(sh.Member, v, at, depth+1)
			}
			return
		}
	case Map:
		if given, ok := v.(map[string]any); ok {
			for _, key := range slices.Sorted(maps.Keys(given)) {
				if given[key] != nil {
					c.enum(c.service.Shapes[sh.Key.Shape], key, below(path, key))
					c.value(sh.Value, given[key], below(path, key), depth+1)
				}
			}
			return
		}
	default:
		if got, ok := coerceScalar(kind, v); ok {
			c.enum(sh, got, path)
			return
		}
	}
	message := mismatch(kind, sh.Sensitive, v)
	switch kind {
	case Structure:
		message += "; " + listed(sh)
	case List:
		if item := c.service.Shapes[sh.Member.Shape]; kindOf(item) != Structure || isMap(v) {
			message += "; write - before it to make it a list of one"
		}
	}
	c.add(path, "%s", message)
}

func isMap(v any) bool {
	_, ok := v.(map[string]any)
	return ok
}

func listed(sh *shape) string {
	known := slices.Sorted(maps.Keys(sh.Members))
	const most = 8
	text := "its members are "
	for i, name := range known {
		if i == most {
			return text + fmt.Sprintf(" and %d more", len(known)-most)
		}
		if i > 0 {
			text += ", "
		}
		text += name
	}
	return text
}

func (c *checker) structure(sh *shape, given map[string]any, path string, depth int) {
	set := 0
	meant := map[string]bool{} // by what is misspelt
	for _, name := range slices.Sorted(maps.Keys(given)) {
		r := sh.Members[name]
		if r == nil {
			meant[nearest(name, slices.Sorted(maps.Keys(sh.Members)))] = true
			c.problems = append(c.problems, Problem{Path: below(path, name), Message: noMember(sh, name), Name: true})
			continue
		}
		if given[name] != nil {
			set++
			c.value(r, given[name], below(path, name), depth+1)
		}
	}
	for _, name := range sh.Required {
		if given[name] == nil && !meant[name] && sh.Members[name] != nil && !(depth == 0 && sh.Members[name].IdempotencyToken) {
			c.add(below(path, name), "is required (%s)", articles[kindOf(c.service.Shapes[sh.Members[name].Shape])])
		}
	}
	if sh.Union && set != 1 {
		c.add(path, "needs exactly one member, got %d; %s", set, listed(sh))
	}
}

func (c *checker) enum(sh *shape, v any, path string) {
	text, ok := v.(string)
	if !ok || len(sh.Enum) == 0 || slices.Contains(sh.Enum, text) {
		return
	}
	message := fmt.Sprintf("%s is none of the values that are known", strconv.Quote(text))
	if near := suggest(text, sh.Enum); near != "" {
		message += near
	} else if len(sh.Enum) <= 12 {
		message += fmt.Sprintf(", which are %q", sh.Enum)
	}
	c.problems = append(c.problems, Problem{Path: path, Message: message, Warning: true})
}

// document looks for what JSON cannot hold. Unknown values are fine.
func (c *checker) document(v any, path string, depth int) {
	if depth > maxNesting {
		c.add(path, "is nested too deeply")
		return
	}
	switch v := v.(type) {
	case Unknown:
	case []any:
		for i := range v {
			c.document(v[i], below(path, "["+strconv.Itoa(i)+"]"), depth+1)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			c.document(v[key], below(path, key), depth+1)
		}
	default:
		if _, ok := plain(v, 0); !ok {
			c.add(path, "%s", mismatch(Any, false, v))
		}
	}
}

// unknown compares what a value will be with what is wanted. Text may hold a
// number or a time when it is there, so it is let pass where text would be read;
// a list or a map never becomes text.
func (c *checker) unknown(sh *shape, t *Shape, path string, depth int) {
	if t == nil || t.Kind == Any || kindOf(sh) == Any || depth > maxNesting {
		return
	}
	want := kindOf(sh)
	fits := false
	switch want {
	case String:
		fits = t.Kind == String || t.Kind == Int || t.Kind == Bool
	case Int:
		fits = t.Kind == Int || t.Kind == String
	case Float:
		fits = t.Kind == Int || t.Kind == Float || t.Kind == String
	case Bool:
		fits = t.Kind == Bool || t.Kind == String
	case Timestamp:
		fits = t.Kind == Timestamp || t.Kind == String || t.Kind == Int || t.Kind == Float
	case Blob:
		fits = t.Kind == Blob || t.Kind == String
	case List:
		if fits = t.Kind == List; fits && t.Item != nil {
			c.unknown(c.service.Shapes[sh.Member.Shape], t.Item, below(path, "[*]"), depth+1)
		}
	case Map:
		fits = t.Kind == Map || t.Kind == Structure
		item := c.service.Shapes[sh.Value.Shape]
		if t.Kind == Map && t.Item != nil {
			c.unknown(item, t.Item, below(path, "*"), depth+1)
		}
		for _, m := range t.Members {
			if t.Kind == Structure {
				c.unknown(item, m.Shape, below(path, m.Name), depth+1)
			}
		}
	case Structure:
		fits = t.Kind == Map || t.Kind == Structure
		if t.Kind == Structure && t.Members != nil {
			given := map[string]any{}
			for _, m := range t.Members {
				given[m.Name] = Unknown{m.Shape}
			}
			c.structure(sh, given, path, depth)
		}
	}
	if !fits {
		message := fmt.Sprintf("needs %s, the expression gives %s", c.typeText(sh), t.text())
		if want == String && t.Kind == Float {
			message += "; make it a string yourself, so that it looks as it should"
		}
		c.add(path, "%s", message)
	}
}

func (c *checker) typeText(sh *shape) string {
	switch kindOf(sh) {
	case List:
		switch kindOf(c.service.Shapes[sh.Member.Shape]) {
		case Structure, Map:
			return "a list of maps"
		case List:
			return "a list of lists"
		case String:
			return "a list of strings"
		}
	}
	return articles[kindOf(sh)]
}

// text names a type as runbooks do.
func (t *Shape) text() string {
	switch {
	case t.Kind == Structure:
		return "an object"
	case (t.Kind == List || t.Kind == Map) && t.Item != nil:
		return string(t.Kind) + "<" + string(t.Item.Kind) + ">"
	}
	return string(t.Kind)
}
