package expr

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/almanac-run/almanac/lang/program"
)

// FromJSON reads a JSON value as type t, into what Eval takes and gives; see
// program.DecodeOutput.
func FromJSON(raw json.RawMessage, t program.Type) (any, error) { return program.DecodeOutput(raw, t) }

// maxDepth bounds how deep values are nested; encoding/json has its own bound for what it reads.
const maxDepth = 1000

// ToJSON writes a value that Eval gave as canonical JSON: keys sorted, nothing
// escaped that need not be, whole floats with ".0" so that they stay floats,
// durations as Go writes them ("1m30s"), timestamps in RFC 3339 in UTC. A float
// that is infinite or not a number has no JSON and is an error.
func ToJSON(v any) (json.RawMessage, error) {
	b, err := appendJSON(nil, v, 0)
	return b, err
}

func appendJSON(b []byte, v any, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("value is nested more than %d deep", maxDepth)
	}
	var err error
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case int64:
		return strconv.AppendInt(b, v, 10), nil
	case int:
		return strconv.AppendInt(b, int64(v), 10), nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("the float %v has no JSON form", v)
		}
		return appendFloat(b, v), nil
	case string:
		return appendString(b, v), nil
	case time.Duration:
		return appendString(b, v.String()), nil
	case time.Time:
		return appendString(b, v.UTC().Format(time.RFC3339Nano)), nil
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendJSON(b, e, depth+1); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case map[string]any:
		b = append(b, '{')
		for i, k := range sortedKeys(v) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendString(b, k), ':')
			if b, err = appendJSON(b, v[k], depth+1); err != nil {
				return nil, err
			}
		}
		return append(b, '}'), nil
	}
	return nil, fmt.Errorf("a %T is no value of the language", v)
}

// appendFloat writes the shortest text that reads back as f and is not an int.
func appendFloat(b []byte, f float64) []byte {
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	start := len(b)
	b = strconv.AppendFloat(b, f, format, -1, 64)
	if !bytes.ContainsAny(b[start:], ".e") {
		b = append(b, ".0"...)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always encodes; what is not UTF-8 becomes U+FFFD
	return append(b, bytes.TrimSuffix(out.Bytes(), []byte("\n"))...)
}

// Text returns what a value becomes inside text: a string is itself, nil is
// nothing, a whole float loses its ".0", durations and timestamps are as in
// ToJSON, lists and maps are their JSON.
func Text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case float64:
		return strings.TrimSuffix(string(appendFloat(nil, v)), ".0")
	case time.Duration:
		return v.String()
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	}
	b, err := ToJSON(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
