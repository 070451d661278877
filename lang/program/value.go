package program

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Decode reads a JSON value as type t, into plain Go values: nil,
// bool, int64, float64, string, time.Duration, time.Time (UTC), []any and
// map[string]any. Numbers are read exactly: an int that needs more than 64 bits
// or has a fraction is refused. Under `any` a number written without fraction
// or exponent is an int64, every other a float64. A secret stays its reference,
// a map[string]any. An object may hold fields that its type does not name: they
// come from a newer action, and no checked expression reads them.
func Decode(raw json.RawMessage, t Type) (any, error) { return decoder{}.decode(raw, t) }

// DecodeOutput is Decode for what an action or a runbook gave. It takes what is
// there: an object may lack fields that its type names, since it comes from an
// older action than the compiler knew, and a list or map that is null is empty.
// To fail here would fail a step whose work is done; an expression that reads
// the missing field fails by itself.
func DecodeOutput(raw json.RawMessage, t Type) (any, error) {
	return decoder{lenient: true}.decode(raw, t)
}

type decoder struct{ lenient bool }

func (d decoder) decode(raw json.RawMessage, t Type) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("not JSON: more follows the value")
	}
	return d.typed(v, t, "")
}

// typed converts what encoding/json decoded (in place) to t. path names the place inside
// the whole value, for messages: ".tags[3]".
func (d decoder) typed(v any, t Type, path string) (any, error) {
	if v == nil && d.lenient {
		switch t.Kind {
		case List:
			return []any{}, nil
		case Map:
			return map[string]any{}, nil
		}
	}
	wrong := func() error { return fmt.Errorf("%shave %s, want %s", place(path), jsonKind(v), t) }
	switch t.Kind {
	case String:
		if s, ok := v.(string); ok {
			return s, nil
		}
	case Bool:
		if b, ok := v.(bool); ok {
			return b, nil
		}
	case Int:
		if n, ok := v.(json.Number); ok {
			i, err := wholeNumber(n)
			if err != nil {
				return nil, fmt.Errorf("%s%w", place(path), err)
			}
			return i, nil
		}
	case Float:
		if n, ok := v.(json.Number); ok {
			f, err := n.Float64()
			if err != nil {
				return nil, fmt.Errorf("%s%s is out of the range of float", place(path), n)
			}
			return f, nil
		}
	case DurationType:
		if s, ok := v.(string); ok {
			d, err := ParseDuration(s)
			if err != nil {
				return nil, fmt.Errorf("%s%w", place(path), err)
			}
			return d, nil
		}
	case Timestamp:
		if s, ok := v.(string); ok {
			ts, err := ParseTimestamp(s)
			if err != nil {
				return nil, fmt.Errorf("%s%w", place(path), err)
			}
			return ts, nil
		}
	case List:
		if l, ok := v.([]any); ok {
			for i := range l {
				var err error
				if l[i], err = d.typed(l[i], *t.Elem, path+"["+strconv.Itoa(i)+"]"); err != nil {
					return nil, err
				}
			}
			return l, nil
		}
	case Map:
		if m, ok := v.(map[string]any); ok {
			for _, k := range slices.Sorted(maps.Keys(m)) {
				var err error
				if m[k], err = d.typed(m[k], *t.Elem, path+"["+strconv.Quote(k)+"]"); err != nil {
					return nil, err
				}
			}
			return m, nil
		}
	case Object:
		if m, ok := v.(map[string]any); ok {
			return d.object(m, t, path)
		}
	case Secret:
		if m, ok := v.(map[string]any); ok {
			if _, ok := m["$secret"].(string); ok && len(m) == 1 {
				return m, nil
			}
		}
		return nil, fmt.Errorf("%s%w", place(path), errPlainSecret)
	case Any:
		return untyped(v, path)
	}
	return nil, wrong()
}

func (d decoder) object(m map[string]any, t Type, path string) (any, error) {
	for _, f := range t.Fields {
		v, ok := m[f.Name]
		if !ok || v == nil && f.Optional {
			if !f.Optional && !d.lenient {
				return nil, fmt.Errorf("%slacks %s", place(path), f.Name)
			}
			delete(m, f.Name)
			continue
		}
		var err error
		if m[f.Name], err = d.typed(v, f.Type, path+"."+f.Name); err != nil {
			return nil, err
		}
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if _, known := t.Field(k); !known {
			var err error
			if m[k], err = untyped(m[k], path+"."+k); err != nil {
				return nil, err
			}
		}
	}
	return m, nil
}

// untyped turns the numbers inside v into int64 and float64.
func untyped(v any, path string) (any, error) {
	switch v := v.(type) {
	case json.Number:
		if !strings.ContainsAny(string(v), ".eE") {
			i, err := wholeNumber(v)
			if err != nil {
				return nil, fmt.Errorf("%s%w", place(path), err)
			}
			return i, nil
		}
		f, err := v.Float64()
		if err != nil {
			return nil, fmt.Errorf("%s%s is out of the range of float", place(path), v)
		}
		return f, nil
	case []any:
		for i := range v {
			var err error
			if v[i], err = untyped(v[i], path+"["+strconv.Itoa(i)+"]"); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			var err error
			if v[k], err = untyped(v[k], path+"."+k); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// wholeNumber reads n exactly; 3.0 and 3e2 are whole too.
func wholeNumber(n json.Number) (int64, error) {
	if i, err := strconv.ParseInt(string(n), 10, 64); err == nil {
		return i, nil
	}
	if strings.ContainsAny(string(n), ".eE") {
		// Up to 2^53 a float64 holds every whole number, so nothing is lost.
		if f, err := n.Float64(); err == nil && f == math.Trunc(f) && math.Abs(f) <= 1<<53 {
			return int64(f), nil
		}
		return 0, fmt.Errorf("have %s, want int", n)
	}
	return 0, fmt.Errorf("%s is out of the range of int", n)
}

func place(path string) string {
	if path == "" {
		return ""
	}
	return strings.TrimPrefix(path, ".") + ": "
}

func jsonKind(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "bool"
	case string:
		return "string"
	case json.Number:
		return "a number"
	case []any:
		return "a list"
	}
	return "a map"
}
