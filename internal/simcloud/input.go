package simcloud

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// input is the members of a call's input, or of a structure in it. What is
// absent reads as the zero value; so does what has another kind, which check has
// refused where it matters.
type input map[string]any

func (in input) has(name string) bool { return in[name] != nil }

func (in input) str(name string) string {
	s, _ := in[name].(string)
	return s
}

func (in input) bool(name string) bool {
	b, _ := in[name].(bool)
	return b
}

func (in input) int(name string) int64 {
	n, _ := number(in[name])
	return n
}

// intOr is int, or what holds if there is none.
func (in input) intOr(name string, otherwise int64) int64 {
	if n, ok := number(in[name]); ok {
		return n
	}
	return otherwise
}

func number(v any) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case float64:
		return int64(v), v == float64(int64(v))
	}
	return 0, false
}

func (in input) time(name string) time.Time {
	switch v := in[name].(type) {
	case time.Time:
		return v
	case string:
		t, _ := time.Parse(time.RFC3339, v)
		return t
	}
	return time.Time{}
}

func (in input) bytes(name string) []byte {
	switch v := in[name].(type) {
	case []byte:
		return v
	case string:
		return []byte(v)
	}
	return nil
}

func (in input) sub(name string) input {
	v, _ := in[name].(map[string]any)
	return v
}

func (in input) subs(name string) []input {
	var subs []input
	for _, v := range elements(in[name]) {
		if m, ok := v.(map[string]any); ok {
			subs = append(subs, m)
		}
	}
	return subs
}

func (in input) strs(name string) []string {
	var texts []string
	for _, v := range elements(in[name]) {
		if s, ok := v.(string); ok {
			texts = append(texts, s)
		}
	}
	return texts
}

// texts is a map of strings.
func (in input) texts(name string) map[string]string {
	texts := map[string]string{}
	for key, v := range in.sub(name) {
		texts[key] = fmt.Sprint(v)
	}
	return texts
}

// elements returns a list's.
func elements(v any) []any {
	all, _ := v.([]any)
	return all
}

// plain copies a value and makes it one of those that awsapi.Caller names, so
// that nothing of a caller's is kept and nothing of ours is given away.
func plain(v any) any {
	switch v := v.(type) {
	case nil, string, bool, int64, float64, time.Time:
		return v
	case []byte:
		return slices.Clone(v)
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String()
	case input:
		return plain(map[string]any(v))
	case map[string]any:
		all := make(map[string]any, len(v))
		for key, one := range v {
			if one != nil {
				all[key] = plain(one)
			}
		}
		return all
	case []any:
		all := make([]any, len(v))
		for i, one := range v {
			all[i] = plain(one)
		}
		return all
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Int, reflect.Int32:
		return r.Int()
	case reflect.Slice:
		all := make([]any, r.Len())
		for i := range all {
			all[i] = plain(r.Index(i).Interface())
		}
		return all
	case reflect.Map:
		all := make(map[string]any, r.Len())
		for _, key := range r.MapKeys() {
			all[key.String()] = plain(r.MapIndex(key).Interface())
		}
		return all
	}
	return v
}

// tags reads a list of keys and values.
func (in input) tags(name string) map[string]string {
	tags := map[string]string{}
	for _, t := range in.subs(name) {
		tags[t.str("Key")] = t.str("Value")
	}
	return tags
}

// tagsFor reads the tags that TagSpecifications give to a type of resource.
func (in input) tagsFor(kind string) map[string]string {
	tags := map[string]string{}
	for _, spec := range in.subs("TagSpecifications") {
		if spec.str("ResourceType") == kind {
			maps.Copy(tags, spec.tags("Tags"))
		}
	}
	return tags
}

// tagSpecs refuses types that the operation does not make, and tags that AWS
// would not take.
func (k *call) tagSpecs(kinds ...string) error {
	for _, spec := range k.in.subs("TagSpecifications") {
		if kind := spec.str("ResourceType"); !slices.Contains(kinds, kind) {
			return k.fail("InvalidParameterValue", "'%s' is not a valid taggable resource type for this operation.", kind)
		}
		if err := k.tagsTaken(spec.subs("Tags")); err != nil {
			return err
		}
	}
	return nil
}

func (k *call) tagsTaken(tags []input) error {
	seen := map[string]bool{}
	for _, t := range tags {
		key := t.str("Key")
		switch {
		case key == "" || len(key) > 128:
			return k.fail("InvalidParameterValue", "Tag keys must be from 1 to 128 characters long.")
		case strings.HasPrefix(strings.ToLower(key), "aws:"):
			return k.fail("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use.")
		case len(t.str("Value")) > 256:
			return k.fail("InvalidParameterValue", "Tag value exceeds the maximum length of 256 characters.")
		case seen[key]:
			return k.fail("InvalidParameterValue", "Duplicate tag key '%s' specified.", key)
		}
		seen[key] = true
	}
	if len(seen) > 50 {
		return k.fail("TagLimitExceeded", "More than 50 tags specified.")
	}
	return nil
}

// check refuses members that are missing, unknown or of another kind.
func (k *call) check() error {
	known := map[string]bool{}
	rules := servicesRules[k.service]
	for member := range strings.FieldsSeq(members[k.service+" "+k.operation]) {
		name, kind, _ := strings.Cut(member, ":")
		kind, required := strings.CutSuffix(kind, "!")
		known[name] = true
		v := k.in[name]
		if v == nil || v == "" && required && kind == "s" {
			if required {
				return k.fail(rules.missing, "The request must contain the parameter %s", name)
			}
			continue
		}
		if !isKind(kind, v) {
			return k.fail(rules.invalid, "Invalid value for parameter %s: %T", name, v)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(k.in)) {
		if !known[name] {
			return k.fail(rules.unknown, "The parameter %s is not recognized", name)
		}
	}
	return nil
}

func isKind(kind string, v any) bool {
	switch kind {
	case "s":
		_, ok := v.(string)
		return ok
	case "b":
		_, ok := v.(bool)
		return ok
	case "i":
		_, ok := number(v)
		return ok
	case "l":
		_, ok := v.([]any)
		return ok
	case "m":
		_, ok := v.(map[string]any)
		return ok
	case "t":
		return !input{"t": v}.time("t").IsZero()
	case "d":
		_, text := v.(string)
		_, bytes := v.([]byte)
		return text || bytes
	}
	return true
}

// unsimulated refuses members that would change what the call means.
func (k *call) unsimulated(names ...string) error {
	for _, name := range names {
		if k.in.has(name) {
			return k.fail("NotSimulated", "%s of %s %s is not simulated; give an answer to it", name, k.service, k.operation)
		}
	}
	return nil
}

// object is an answer: names and values, without what AWS would not answer (nil,
// "", the zero time).
func object(pairs ...any) map[string]any {
	out := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		if v := answer(pairs[i+1]); v != nil {
			out[pairs[i].(string)] = v
		}
	}
	return out
}

func answer(v any) any {
	switch v := v.(type) {
	case string:
		if v == "" {
			return nil
		}
	case time.Time:
		if v.IsZero() {
			return nil
		}
	}
	if r := reflect.ValueOf(v); (r.Kind() == reflect.Slice || r.Kind() == reflect.Map) && r.IsNil() {
		return nil
	}
	return v
}

// list answers rows; empty if there are none.
func list[T any](rows []T, one func(T) map[string]any) []any {
	all := make([]any, 0, len(rows))
	for _, row := range rows {
		all = append(all, one(row))
	}
	return all
}

// tagList answers tags, sorted; nil if there are none.
func tagList(tags map[string]string) []any {
	var all []any
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		all = append(all, map[string]any{"Key": key, "Value": tags[key]})
	}
	return all
}

// fields are what a list may be filtered by, besides tags.
type fields[T any] map[string]func(T) []string

// field is a filter by one value.
func field[T any](f func(T) string) func(T) []string {
	return func(row T) []string { return []string{f(row)} }
}

// filter leaves what Filters ask for: every filter, any of its values; * and ?
// stand for others.
func filter[T interface{ common() *resource }](k *call, rows []T, by fields[T]) ([]T, error) {
	for _, f := range k.in.subs("Filters") {
		name := f.str("Name")
		values := f.strs("Values")
		get, ok := by[name]
		if key, isTag := strings.CutPrefix(name, "tag:"); isTag {
			get, ok = func(row T) []string {
				if v, has := row.common().tags[key]; has {
					return []string{v}
				}
				return nil
			}, true
		} else if name == "tag-key" {
			get, ok = func(row T) []string { return slices.Collect(maps.Keys(row.common().tags)) }, true
		}
		if !ok && slices.Contains(strings.Fields(filters[k.service+" "+k.operation]), name) {
			return nil, k.fail("NotSimulated", "the filter %s of %s %s is not simulated; give an answer to it", name, k.service, k.operation)
		}
		if !ok {
			return nil, k.fail("InvalidParameterValue", "The filter '%s' is invalid", name)
		}
		if len(values) == 0 {
			return nil, k.fail("InvalidParameterValue", "The filter '%s' has no values", name)
		}
		rows = slices.DeleteFunc(slices.Clone(rows), func(row T) bool {
			return !slices.ContainsFunc(get(row), func(v string) bool {
				return slices.ContainsFunc(values, func(pattern string) bool { return matches(pattern, v) })
			})
		})
	}
	return rows, nil
}

func matches(pattern, value string) bool {
	if !strings.ContainsAny(pattern, "*?") {
		return pattern == value
	}
	quoted := strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(pattern))
	return regexp.MustCompile("^(?s:" + quoted + ")$").MatchString(value)
}

// page cuts a list at the size that the member of that name asks for, and returns
// the token of what follows; "" if nothing does.
func page[T any](k *call, rows []T, sizeMember string) ([]T, string) {
	from, _ := strconv.Atoi(strings.TrimPrefix(k.in.str("NextToken"), "after-"))
	size := int(k.in.intOr(sizeMember, int64(k.PageSize)))
	from = min(from, len(rows))
	to := min(from+max(size, 1), len(rows))
	if to == len(rows) {
		return rows[from:], ""
	}
	return rows[from:to], "after-" + strconv.Itoa(to)
}
