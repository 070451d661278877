package program

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/agext/levenshtein"
)

// InputError is one mistake in the inputs given to a runbook. Message says what
// was found and what was expected; it never holds what was given for a secret.
type InputError struct {
	Input   string `json:"input"`
	Message string `json:"message"`
}

// Error returns "input <name>: <message>".
func (e InputError) Error() string { return "input " + e.Input + ": " + e.Message }

// CheckInputs checks what was given against the declared inputs, and fills in
// the defaults of those that were not given. What it returns for a given input
// are the given bytes. Every mistake is reported: in the order of the
// declarations, then unknown inputs by name. A default is not checked here; the
// compiler did, by giving it to CheckInputs.
func CheckInputs(inputs []Input, given map[string]json.RawMessage) (map[string]json.RawMessage, []InputError) {
	out := make(map[string]json.RawMessage, len(inputs))
	var errs []InputError
	var names []string
	for _, in := range inputs {
		names = append(names, in.Name)
		raw, ok := given[in.Name]
		switch {
		case ok:
			out[in.Name] = raw
			for _, err := range in.check(raw) {
				errs = append(errs, InputError{in.Name, err.Error()})
			}
		case in.Default != nil:
			out[in.Name] = in.Default
		default:
			errs = append(errs, InputError{in.Name, "is required, and was not given; its type is " + in.Type.String()})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if !slices.Contains(names, name) {
			errs = append(errs, InputError{name, "there is no such input" + nearest(name, names)})
		}
	}
	return out, errs
}

// nearest ends a message about an unknown name with what there is.
func nearest(name string, names []string) string {
	if len(names) == 0 {
		return "; the runbook takes none"
	}
	var hint string
	if n := Nearest(name, names); n != "" {
		hint = "; did you mean " + n + "?"
	}
	return hint + "; there is " + strings.Join(names, ", ")
}

// Nearest returns the one of names that name may be a misspelling of, or "".
func Nearest(name string, names []string) string {
	best, least := "", 3
	for _, n := range names {
		if d := levenshtein.Distance(strings.ToLower(name), strings.ToLower(n), nil); d < least && (d == 1 && len(n) > 1 || 2*d < len(n)) {
			best, least = n, d
		}
	}
	return best
}

// check returns what is wrong with a given value.
func (in Input) check(raw json.RawMessage) []error {
	if !utf8.Valid(raw) {
		return []error{errors.New("is not valid UTF-8")}
	}
	v, err := Decode(raw, in.Type)
	if err != nil {
		return []error{err}
	}
	if err := checkPlaces(v, in.Type, ""); err != nil {
		return []error{err}
	}
	if in.Type.Holds(Secret) {
		return nil // no constraint looks at a secret
	}
	var errs []error
	add := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	add(in.checkEnum(v))
	add(in.checkPattern(v))
	add(in.checkBound(v, in.Min, "at least", -1))
	add(in.checkBound(v, in.Max, "at most", +1))
	return errs
}

// checkPlaces refuses what Decode lets pass and a person giving inputs may not
// do: fields that an object does not have, references of unknown schemes, and
// references where no secret is asked for, which would let the giver of an
// ordinary input read the worker's files.
func checkPlaces(v any, t Type, path string) error {
	switch v := v.(type) {
	case []any:
		elem := Type{Kind: Any}
		if t.Elem != nil {
			elem = *t.Elem
		}
		for i, e := range v {
			if err := checkPlaces(e, elem, path+"["+strconv.Itoa(i)+"]"); err != nil {
				return err
			}
		}
	case map[string]any:
		if t.Kind == Secret {
			ref, _ := v["$secret"].(string)
			if err := CheckRef(ref); err != nil {
				return fmt.Errorf("%s%w", place(path), err)
			}
			return nil
		}
		// Whatever decodes it into a struct does not mind the case.
		if slices.ContainsFunc(slices.Collect(maps.Keys(v)), func(k string) bool { return strings.EqualFold(k, "$secret") }) {
			return fmt.Errorf("%sa $secret may only be given to an input of type secret", place(path))
		}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			sub := Type{Kind: Any}
			switch {
			case t.Kind == Map:
				sub = *t.Elem
			case t.Kind == Object && t.Fields != nil:
				f, ok := t.Field(k)
				if !ok {
					var names []string
					for _, f := range t.Fields {
						names = append(names, f.Name)
					}
					return fmt.Errorf("%sthere is no field %q%s", place(path), clip(k), nearest(k, names))
				}
				sub = f.Type
			}
			if err := checkPlaces(v[k], sub, path+"."+k); err != nil {
				return err
			}
		}
	}
	return nil
}

// schemes of secret references; what follows must not be empty.
var schemes = []string{"env:", "file:", "ssm:", "secretsmanager:"}

var errPlainSecret = errors.New(`wants a reference to a secret, not its value: env:NAME or file:/path, in JSON {"$secret": "env:NAME"}`)

// CheckRef checks a reference to a secret, "env:NAME". What it refuses may be the secret itself, so it
// is not repeated.
func CheckRef(ref string) error {
	for _, s := range schemes {
		if rest, ok := strings.CutPrefix(ref, s); ok && rest != "" && !strings.ContainsFunc(rest, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil
		}
	}
	return errPlainSecret
}

func (in Input) checkEnum(v any) error {
	if len(in.Enum) == 0 {
		return nil
	}
	// The choices of a list are those of each element.
	t, values := in.Type, []any{v}
	if t.Kind == List {
		t, values = *t.Elem, v.([]any)
	}
	var choices []any
	var texts []string
	for _, raw := range in.Enum {
		choice, err := Decode(raw, t)
		if err != nil {
			return fmt.Errorf("has an enum that is not %s: %w", t, err)
		}
		choices = append(choices, choice)
		texts = append(texts, string(raw))
	}
	for _, v := range values {
		if !slices.ContainsFunc(choices, func(c any) bool { return reflect.DeepEqual(c, v) }) {
			return fmt.Errorf("%s is not one of %s", show(v), strings.Join(texts, ", "))
		}
	}
	return nil
}

func (in Input) checkPattern(v any) error {
	if in.Pattern == "" {
		return nil
	}
	re, err := regexp.Compile(in.Pattern)
	if err != nil {
		return fmt.Errorf("has a pattern that is no regular expression: %w", err)
	}
	values := []any{v}
	if l, ok := v.([]any); ok {
		values = l
	}
	for _, v := range values {
		if s, ok := v.(string); ok && !re.MatchString(s) {
			return fmt.Errorf("%s does not match the pattern %s", show(v), in.Pattern)
		}
	}
	return nil
}

// checkBound checks one of min and max; it is broken if v compares to it as sign.
func (in Input) checkBound(v any, bound json.RawMessage, words string, sign int) error {
	if bound == nil {
		return nil
	}
	t, unit := in.Type, ""
	size := -1
	switch x := v.(type) {
	case string:
		size, unit = utf8.RuneCountInString(x), "characters"
	case []any:
		size, unit = len(x), "elements"
	case map[string]any:
		size, unit = len(x), "entries"
	}
	if size >= 0 {
		t, v = Type{Kind: Int}, int64(size)
	}
	limit, err := Decode(bound, t)
	if err != nil {
		return fmt.Errorf("has a bound that is not %s: %w", t, err)
	}
	if order, ok := compare(v, limit); !ok || order != sign {
		return nil
	}
	if unit != "" {
		return fmt.Errorf("has %d %s; %s %d are allowed", size, unit, words, limit)
	}
	return fmt.Errorf("%s is out of range: %s %s is allowed", show(v), words, show(limit))
}

func compare(a, b any) (int, bool) {
	switch a := a.(type) {
	case int64:
		if b, ok := b.(int64); ok {
			return cmp.Compare(a, b), true
		}
	case float64:
		if b, ok := b.(float64); ok {
			return cmp.Compare(a, b), true
		}
	case time.Duration:
		if b, ok := b.(time.Duration); ok {
			return cmp.Compare(a, b), true
		}
	case time.Time:
		if b, ok := b.(time.Time); ok {
			return a.Compare(b), true
		}
	}
	return 0, false
}

// show writes a value for a message, shortened.
func show(v any) string {
	switch v := v.(type) {
	case string:
		return strconv.Quote(clip(v))
	case time.Time:
		return v.Format(time.RFC3339)
	case []any, map[string]any:
		return "the value"
	}
	return fmt.Sprint(v)
}

// ParseInput reads an input as a person types it, `-i name=text`, into JSON: a
// string is the text itself, byte for byte; numbers, bools, durations and
// timestamps as in a runbook; a secret is its reference (env:NAME). A list is
// JSON, or elements between commas; a map is JSON, or key=value between commas; an
// object is JSON; any is JSON if it can be read as that, else a string.
func ParseInput(t Type, text string) (json.RawMessage, error) {
	if !utf8.ValidString(text) {
		return nil, errors.New("is not valid UTF-8")
	}
	trimmed := strings.TrimSpace(text)
	switch t.Kind {
	case String:
		return quote(text), nil
	case Secret:
		if err := CheckRef(trimmed); err != nil {
			return nil, err
		}
		return json.RawMessage(`{"$secret":` + string(quote(trimmed)) + `}`), nil
	case Int:
		if _, err := strconv.ParseInt(trimmed, 10, 64); err != nil {
			return nil, fmt.Errorf("have %q, want int", clip(text))
		}
		return json.RawMessage(strings.TrimPrefix(trimLeadingZeros(trimmed), "+")), nil
	case Float:
		f, err := strconv.ParseFloat(trimmed, 64)
		if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
			return nil, fmt.Errorf("have %q, want float", clip(text))
		}
		return json.Marshal(f)
	case Bool:
		if trimmed != "true" && trimmed != "false" {
			return nil, fmt.Errorf("have %q, want true or false", clip(text))
		}
		return json.RawMessage(trimmed), nil
	case DurationType, Timestamp:
		raw := quote(trimmed)
		_, err := Decode(raw, t)
		return raw, err
	case List:
		if !strings.HasPrefix(trimmed, "[") {
			return parseList(*t.Elem, trimmed)
		}
	case Map:
		if !strings.HasPrefix(trimmed, "{") {
			return parseMap(*t.Elem, trimmed)
		}
	case Any:
		if !json.Valid([]byte(text)) {
			return quote(text), nil
		}
	}
	raw := json.RawMessage(text)
	if _, err := Decode(raw, t); err != nil {
		return nil, err
	}
	return raw, nil
}

func parseList(elem Type, text string) (json.RawMessage, error) {
	var all []json.RawMessage
	if text != "" {
		for i, piece := range strings.Split(text, ",") {
			raw, err := ParseInput(elem, strings.TrimSpace(piece))
			if err != nil {
				return nil, fmt.Errorf("[%d]: %w", i, err)
			}
			all = append(all, raw)
		}
	}
	return join(all, '[', ']'), nil
}

func parseMap(elem Type, text string) (json.RawMessage, error) {
	var all []json.RawMessage
	if text != "" {
		for piece := range strings.SplitSeq(text, ",") {
			key, value, ok := strings.Cut(strings.TrimSpace(piece), "=")
			if !ok {
				return nil, errors.New("want a map: JSON, or key=value between commas")
			}
			raw, err := ParseInput(elem, value)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", clip(key), err)
			}
			all = append(all, append(append(quote(key), ':'), raw...))
		}
	}
	return join(all, '{', '}'), nil
}

func join(all []json.RawMessage, open, end byte) json.RawMessage {
	out := []byte{open}
	for i, raw := range all {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, raw...)
	}
	return append(out, end)
}

// trimLeadingZeros makes an int that a person types one that JSON allows.
func trimLeadingZeros(s string) string {
	sign := ""
	if s[0] == '-' || s[0] == '+' {
		sign, s = s[:1], s[1:]
	}
	if s = strings.TrimLeft(s, "0"); s == "" {
		return "0"
	}
	return sign + s
}

// quote writes s as JSON with as few escapes as can be.
func quote(s string) json.RawMessage {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always encodes
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
