package awsapi

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/document"
)

// maxNesting bounds the depth of values: of input, since some shapes hold
// themselves, and of what AWS answers.
const maxNesting = 100

// misfit is a value that does not fit the model.
type misfit struct{ path, message string }

func (m *misfit) Error() string {
	if m.path == "" {
		return m.message
	}
	return m.path + ": " + m.message
}

func below(path, name string) string {
	if path == "" || strings.HasPrefix(name, "[") {
		return path + name
	}
	return path + "." + name
}

// coerce turns what a runbook holds into what the model wants: the values it
// returns are of the types that Caller names. It changes a type only where
// nothing can be lost: an int becomes text, a float does not (1.10 is not "1.1").
func coerce(n *node, v any, path string, depth int) (any, error) {
	if depth > maxNesting {
		return nil, &misfit{path, "is nested too deeply"}
	}
	switch n.kind {
	case Structure:
		given, ok := v.(map[string]any)
		if !ok {
			break
		}
		out := make(map[string]any, len(given))
		for _, name := range slices.Sorted(maps.Keys(given)) {
			v, f := given[name], n.fields[name]
			if f == nil {
				return nil, &misfit{below(path, name), noMember(n.shape, name)}
			}
			if v == nil {
				continue
			}
			v, err := f.coerce(v, below(path, name), depth+1)
			if err != nil {
				return nil, err
			}
			out[name] = v
		}
		for _, f := range n.order {
			if _, ok := out[f.name]; f.required && !ok && !f.IdempotencyToken {
				return nil, &misfit{below(path, f.name), "is required"}
			}
		}
		return out, nil
	case List:
		given, ok := v.([]any)
		if !ok {
			break
		}
		out := make([]any, len(given))
		for i, v := range given {
			at := below(path, "["+strconv.Itoa(i)+"]")
			if v == nil {
				return nil, &misfit{at, "is null"}
			}
			v, err := coerce(n.item.node, v, at, depth+1)
			if err != nil {
				return nil, err
			}
			out[i] = v
		}
		return out, nil
	case Map:
		given, ok := v.(map[string]any)
		if !ok {
			break
		}
		out := make(map[string]any, len(given))
		for _, key := range slices.Sorted(maps.Keys(given)) {
			v := given[key]
			if v == nil {
				continue
			}
			v, err := coerce(n.item.node, v, below(path, key), depth+1)
			if err != nil {
				return nil, err
			}
			out[key] = v
		}
		return out, nil
	case Any:
		if v, ok := plain(v, depth); ok {
			return v, nil
		}
	default:
		if v, ok := coerceScalar(n.kind, v); ok {
			return v, nil
		}
	}
	return nil, &misfit{path, mismatch(n.kind, n.shape.Sensitive, v)}
}

func (f *field) coerce(v any, path string, depth int) (any, error) {
	if _, ok := v.(string); f.JSONValue && !ok { // a string is JSON text already
		v, ok := plain(v, depth)
		if !ok {
			return nil, &misfit{path, "is no JSON value"}
		}
		text, err := json.Marshal(v)
		if err != nil {
			return nil, &misfit{path, err.Error()}
		}
		return string(text), nil
	}
	if _, ok := v.(io.ReadSeeker); ok && f.Streaming && f.node.kind == Blob {
		return v, nil
	}
	return coerce(f.node, v, path, depth)
}

func coerceScalar(kind Kind, v any) (any, bool) {
	switch kind {
	case String:
		switch v := v.(type) {
		case string:
			return v, true
		case int:
			return strconv.Itoa(v), true
		case int64:
			return strconv.FormatInt(v, 10), true
		case json.Number:
			_, err := strconv.ParseInt(v.String(), 10, 64)
			return v.String(), err == nil
		case bool:
			return strconv.FormatBool(v), true
		}
	case Int:
		switch v := v.(type) {
		case int64:
			return v, true
		case int:
			return int64(v), true
		case float64: // of JSON, which has one kind of number
			n := int64(v)
			return n, float64(n) == v && math.Abs(v) < 1<<53
		case json.Number:
			n, err := strconv.ParseInt(v.String(), 10, 64)
			return n, err == nil
		case string:
			n, err := strconv.ParseInt(v, 10, 64)
			return n, err == nil
		}
	case Float:
		switch v := v.(type) {
		case float64:
			return v, true
		case int:
			return float64(v), true
		case int64:
			return float64(v), true
		case json.Number:
			n, err := v.Float64()
			return n, err == nil
		case string:
			n, err := strconv.ParseFloat(v, 64)
			return n, err == nil
		}
	case Bool:
		switch v := v.(type) {
		case bool:
			return v, true
		case string:
			return v == "true", v == "true" || v == "false"
		}
	case Timestamp:
		switch v := v.(type) {
		case time.Time:
			return v, true
		case int:
			return time.Unix(int64(v), 0).UTC(), true
		case int64:
			return time.Unix(v, 0).UTC(), true
		case float64:
			return epoch(v), math.Abs(v) < 1e11
		case json.Number:
			n, err := v.Float64()
			return epoch(n), err == nil && math.Abs(n) < 1e11
		case string:
			for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", time.DateTime, time.DateOnly} {
				if t, err := time.Parse(layout, v); err == nil {
					return t, true
				}
			}
			n, err := strconv.ParseFloat(v, 64)
			return epoch(n), err == nil && math.Abs(n) < 1e11
		}
	case Blob:
		switch v := v.(type) {
		case []byte:
			return v, true
		case string:
			return []byte(v), true
		case map[string]any:
			if text, ok := v["base64"].(string); ok && len(v) == 1 {
				b, err := base64.StdEncoding.DecodeString(text)
				return b, err == nil
			}
		}
	}
	return nil, false
}

func epoch(seconds float64) time.Time {
	whole, part := math.Modf(seconds)
	return time.Unix(int64(whole), int64(math.Round(part*1e3))*1e6).UTC()
}

// plain is a value as a JSON document holds it: bytes and times become text,
// and a json.Number becomes a number.
func plain(v any, depth int) (any, bool) {
	if depth > maxNesting {
		return nil, false
	}
	switch v := v.(type) {
	case nil, string, bool, int64:
		return v, true
	case int:
		return int64(v), true
	case float64:
		return v, !math.IsNaN(v) && !math.IsInf(v, 0)
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n, true
		}
		n, err := v.Float64()
		return n, err == nil
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano), true
	case []byte:
		return base64.StdEncoding.EncodeToString(v), true
	case []any:
		out := make([]any, len(v))
		for i := range v {
			var ok bool
			if out[i], ok = plain(v[i], depth+1); !ok {
				return nil, false
			}
		}
		return out, true
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			var ok bool
			if out[k], ok = plain(v[k], depth+1); !ok {
				return nil, false
			}
		}
		return out, true
	}
	return nil, false
}

// articles name the kinds in messages.
var articles = map[Kind]string{
	Structure: "a map", List: "a list", Map: "a map", String: "a string", Int: "an int", Float: "a number",
	Bool: "true or false", Timestamp: "a time (2006-01-02T15:04:05Z, or seconds since 1970)", Blob: "a string or bytes", Any: "a value that JSON can hold",
}

func mismatch(want Kind, sensitive bool, v any) string {
	got := describeValue(v)
	if sensitive { // not its value, then
		switch v.(type) {
		case string:
			got = "a string that is none"
		case int, int64, float64, json.Number:
			got = "a number"
		}
	}
	text := fmt.Sprintf("needs %s, got %s", articles[want], got)
	switch v.(type) {
	case float64, json.Number:
		if want == String {
			text += "; quote it"
		}
	}
	return text
}

func describeValue(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		if len(v) > 40 {
			v = strings.ToValidUTF8(v[:40], "") + "…"
		}
		return strconv.Quote(v)
	case bool, int, int64, float64, json.Number:
		return fmt.Sprint(v)
	case time.Time:
		return "a time"
	case []byte, io.Reader:
		return "bytes"
	case []any:
		return "a list"
	case map[string]any:
		return "a map"
	}
	return fmt.Sprintf("a %T", v)
}

func noMember(sh *shape, name string) string {
	known := slices.Sorted(maps.Keys(sh.Members))
	if near := suggest(name, known); near != "" {
		return "there is no such member" + near
	}
	if len(known) == 0 {
		return "there is no such member; there are none"
	}
	const most = 12
	if len(known) > most {
		return fmt.Sprintf("there is no such member; there are %s and %d more", strings.Join(known[:most], ", "), len(known)-most)
	}
	return "there is no such member; there are " + strings.Join(known, ", ")
}

// input is coerced input as a protocol takes it.
type input struct {
	node   *node
	values map[string]any
	skip   string    // a member that is not written
	stream io.Reader // instead of the payload; may be nil
}

// Serialize implements smithy.Serializable.
func (in *input) Serialize(s smithy.ShapeSerializer) {
	s.WriteStruct(in.node.schema)
	for _, f := range in.node.order {
		if v, ok := in.values[f.name]; ok && f.name != in.skip {
			if _, ok := v.(io.Reader); !ok {
				write(s, f.schema, f.node, v)
			}
		}
	}
	s.CloseStruct()
}

// GetPayloadStream implements smithy.StreamingInput.
func (in *input) GetPayloadStream() io.Reader { return in.stream }

func write(s smithy.ShapeSerializer, schema *smithy.Schema, n *node, v any) {
	switch v := v.(type) {
	case string:
		if n.kind == Any {
			s.WriteDocument(schema, document.String(v))
			return
		}
		s.WriteString(schema, v)
	case time.Time:
		s.WriteTime(schema, v)
	case []byte:
		s.WriteBlob(schema, v)
	case bool:
		if n.kind == Any {
			s.WriteDocument(schema, document.Boolean(v))
			return
		}
		s.WriteBool(schema, v)
	case int64:
		if n.kind == Any {
			s.WriteDocument(schema, document.Number(strconv.FormatInt(v, 10)))
			return
		}
		s.WriteInt64(schema, v)
	case float64:
		if n.kind == Any {
			s.WriteDocument(schema, document.Opaque{Value: v})
			return
		}
		s.WriteFloat64(schema, v)
	case []any:
		if n.kind == Any {
			s.WriteDocument(schema, document.Opaque{Value: v})
			return
		}
		s.WriteList(schema)
		for _, v := range v {
			write(s, schema.ListMember(), n.item.node, v)
		}
		s.CloseList()
	case map[string]any:
		switch n.kind {
		case Any:
			// Not document.Map: the library (1.28.9) panics at one in another.
			s.WriteDocument(schema, document.Opaque{Value: v})
		case Map:
			s.WriteMap(schema)
			for _, key := range slices.Sorted(maps.Keys(v)) {
				s.WriteKey(schema.MapKey(), key)
				write(s, schema.MapValue(), n.item.node, v[key])
			}
			s.CloseMap()
		default:
			s.WriteStruct(schema)
			for _, f := range n.order {
				if v, ok := v[f.name]; ok {
					write(s, f.schema, f.node, v)
				}
			}
			s.CloseStruct()
		}
	}
}

// output is filled by a protocol.
type output struct {
	node   *node // nil if the operation answers nothing
	values map[string]any
}

// Deserialize implements smithy.Deserializable.
func (out *output) Deserialize(d smithy.ShapeDeserializer) error {
	if out.node == nil {
		return nil
	}
	v, err := read(d, out.node.schema, out.node, "", 0)
	if m, ok := v.(map[string]any); ok {
		out.values = m
	}
	return err
}

func read(d smithy.ShapeDeserializer, schema *smithy.Schema, n *node, location string, depth int) (any, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("the answer is nested too deeply")
	}
	switch n.kind {
	case Structure:
		if err := d.ReadStruct(schema); err != nil {
			return nil, err
		}
		out := map[string]any{}
		for {
			ms, err := d.ReadStructMember()
			if err != nil || ms == nil {
				return out, err
			}
			f := n.wire[ms.MemberName()]
			if f == nil {
				return nil, fmt.Errorf("unexpected member %q", ms.MemberName())
			}
			// Headers are never null, and a body that is no JSON is not to be looked at.
			raw := f.Location != "" && depth == 0 || f.payload && (f.node.kind == Blob || f.node.kind == String)
			if !raw {
				null, err := d.ReadNil(ms)
				if err != nil {
					return nil, err
				}
				if null {
					continue
				}
			}
			v, err := read(d, ms, f.node, f.Location, depth+1)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.name, err)
			}
			if text, ok := v.(string); ok && f.JSONValue && f.Location == "header" {
				var inner any
				if err := decode([]byte(text), &inner); err != nil {
					return nil, fmt.Errorf("%s: %w", f.name, err)
				}
				v, _ = plain(inner, 0)
			}
			out[f.name] = v
		}
	case List:
		if err := d.ReadList(schema); err != nil {
			return nil, err
		}
		out := []any{}
		for {
			more, err := d.ReadListItem(schema.ListMember())
			if err != nil || !more {
				return out, err
			}
			null, err := d.ReadNil(schema.ListMember())
			if err != nil {
				return nil, err
			}
			if null {
				out = append(out, nil)
				continue
			}
			v, err := read(d, schema.ListMember(), n.item.node, "", depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
	case Map:
		if err := d.ReadMap(schema); err != nil {
			return nil, err
		}
		out := map[string]any{}
		for {
			key, more, err := d.ReadMapKey(schema.MapKey())
			if err != nil || !more {
				return out, err
			}
			null, err := d.ReadNil(schema.MapValue())
			if err != nil {
				return nil, err
			}
			if null {
				continue
			}
			v, err := read(d, schema.MapValue(), n.item.node, "", depth+1)
			if err != nil {
				return nil, err
			}
			out[key] = v
		}
	case String:
		var v string
		err := d.ReadString(schema, &v)
		return v, err
	case Int:
		if location == "statusCode" { // the one method that knows it
			var v int32
			err := d.ReadInt32(schema, &v)
			return int64(v), err
		}
		var v int64
		err := d.ReadInt64(schema, &v)
		return v, err
	case Float:
		var v float64
		err := d.ReadFloat64(schema, &v)
		return v, err
	case Bool:
		var v bool
		err := d.ReadBool(schema, &v)
		return v, err
	case Timestamp:
		var v time.Time
		err := d.ReadTime(schema, &v)
		return v, err
	case Blob:
		v := []byte{}
		err := d.ReadBlob(schema, &v)
		return v, err
	}
	var doc document.Value
	if err := d.ReadDocument(schema, &doc); err != nil {
		return nil, err
	}
	return fromDocument(doc, depth)
}

func fromDocument(doc document.Value, depth int) (any, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("the answer is nested too deeply")
	}
	switch doc := doc.(type) {
	case document.Opaque:
		v, ok := fromJSON(doc.Value, depth)
		if !ok {
			return nil, fmt.Errorf("a document holds a %T", doc.Value)
		}
		return v, nil
	case document.Boolean:
		return bool(doc), nil
	case document.String:
		return string(doc), nil
	case document.Number:
		v, _ := fromJSON(json.Number(doc), depth)
		return v, nil
	case document.Blob:
		return []byte(doc), nil
	case document.Timestamp:
		return time.Time(doc), nil
	case document.List:
		out := make([]any, len(doc))
		for i := range doc {
			var err error
			if out[i], err = fromDocument(doc[i], depth+1); err != nil {
				return nil, err
			}
		}
		return out, nil
	case document.Map:
		out := make(map[string]any, len(doc))
		for k := range doc {
			var err error
			if out[k], err = fromDocument(doc[k], depth+1); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return nil, nil
}

// fromJSON is plain for what the library's parser makes, which has a number type of its own.
func fromJSON(v any, depth int) (any, bool) {
	if depth > maxNesting {
		return nil, false
	}
	switch v := v.(type) {
	case document.Number:
		return plain(json.Number(v), depth)
	case []any:
		for i := range v {
			var ok bool
			if v[i], ok = fromJSON(v[i], depth+1); !ok {
				return nil, false
			}
		}
		return v, true
	case map[string]any:
		for k := range v {
			var ok bool
			if v[k], ok = fromJSON(v[k], depth+1); !ok {
				return nil, false
			}
		}
		return v, true
	}
	return plain(v, depth)
}
