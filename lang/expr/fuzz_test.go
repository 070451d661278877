package expr

import (
	"strings"
	"testing"

	"github.com/almanac-run/almanac/lang/program"
)

// documented are the errors that a checked expression may still end with: what
// depends on values, not on types.
var documented = []string{
	"zero", "overflow", "out of range", "out of bounds", "no such key", "range error", "invalid", "parse", "conversion",
	"more than", "larger than", "too long", "at most", "empty list", "regular expression", "is not a duration", "too long a duration",
	"key", "optional.none() dereference", "duplicate", "unsupported index", "has no fields",
}

// What Check accepts, Eval of values of those types never panics, nor reports a
// mistake of types, and gives a value of the type that Check told, twice the same.
func FuzzCheckEval(f *testing.F) {
	scope := scopeOf(f, `inputs: object{name: string, count: int, ratio: float, on: bool, regions: list<string>, tags: map<string>, items: list<object{id: string, size?: int}>, wait: duration, at: timestamp, pw: secret, dyn: object, dyns: list<any>}
steps: object{copy?: object{image_id: string, region?: string}, build: object{image_id: string, n: int}}
item: string`)
	for _, seed := range []string{
		"inputs.name", "has(steps.copy) ? steps.copy.image_id : inputs.name", "steps.?copy.?region.orValue('x') + item",
		"inputs.items.filter(i, has(i.size) && i.size > 1).map(i, i.id).join(',')", "inputs.tags.map(k, inputs.tags[k])",
		"inputs.count / (inputs.count - 3)", "inputs.at + inputs.wait > timestamp('2026-01-01T00:00:00Z')", "[1, 'a', inputs.ratio]",
		"{'a': inputs.count, 'b': 2}.map(k, k)", "inputs.name.matches('^w') && inputs.regions[0] in inputs.regions", "max([inputs.count, 2]) + min([1])",
		"inputs.regions.exists_one(r, r.contains('u')) || inputs.on", "inputs.regions.map(r, r != 'eu', {'n': r, 's': r.size()})",
		"steps.?copy.optMap(c, c.image_id).orValue('')", "string(inputs.ratio) + inputs.name.substring(1, 2).upperAscii().replace('E', 'e')", "duration('1d') + inputs.wait",
		"inputs.pw", "-inputs.count % 2 == 1 ? null : null", "inputs.items[0].?size.orValue(0) + inputs.items.size()", "int('12') + int(inputs.ratio)", "dyn(inputs.count) + 1",
		"[[1], [2]].map(x, x + [3])", "inputs.regions.first().orValue('x').split('')", "size({}) + size([])", "a.b", "1 +", "\"\\u00e4\".size()", "inputs.at.getDayOfWeek()",
		"optional.of(1).hasValue() && optional.none().orValue(true)", "inputs.tags.?a.orValue('')", "{?'a': steps.?copy}", "[?steps.?copy]", "inputs.items.all(i, i.id.startsWith('a'))",
	} {
		f.Add(seed)
	}
	worlds := []map[string]any{fuzzWorld(true), fuzzWorld(false)}
	f.Fuzz(func(t *testing.T, text string) {
		c, problems := Check(text, scope)
		for _, p := range problems {
			if n := len([]rune(text)); p.Offset < 0 || p.Offset > n || p.Width < 1 || p.Message == "" || p.Code == "" {
				t.Fatalf("%q: bad problem %+v", text, p)
			}
			if strings.Contains(p.Message, "optional_type") || strings.Contains(p.Message, "_var") || strings.Contains(p.Message, "google.protobuf") {
				t.Fatalf("%q: message in CEL's words: %s", text, p.Message)
			}
		}
		if len(problems) > 0 {
			_, _ = Eval(text, worlds[0]) // must not panic either
			return
		}
		for _, w := range worlds {
			v, err := Eval(text, w)
			if err != nil {
				// What is dyn is checked only when it runs.
				if strings.Contains(text, "dyn") || strings.Contains(err.Error(), "internal") {
					if strings.Contains(err.Error(), "internal") {
						t.Fatalf("%q: %v", text, err)
					}
					return
				}
				for _, d := range documented {
					if strings.Contains(err.Error(), d) {
						return
					}
				}
				if !certain(text) {
					return
				}
				t.Fatalf("%q was accepted as %s, and failed: %v", text, c.Type, err)
			}
			if !fits(v, c.Type) {
				t.Fatalf("%q was accepted as %s, and gave %T %v", text, c.Type, v, v)
			}
			again, err := Eval(text, w)
			if err != nil || Text(again) != Text(v) {
				t.Fatalf("%q gave %s, then %s, %v", text, Text(v), Text(again), err)
			}
		}
	})
}

// certain tells whether no part of the expression is of type any: mixed lists
// and maps are, and then an operator may meet what it does not take.
func certain(text string) bool {
	return !strings.ContainsAny(text, "[{") && !strings.Contains(text, "null") && !strings.Contains(text, "none")
}

func fuzzWorld(full bool) map[string]any {
	w := world()
	in := w["inputs"].(map[string]any)
	in["pw"] = map[string]any{"$secret": "env:X"}
	in["dyn"] = map[string]any{"x": int64(1), "y": map[string]any{"z": []any{1.5}}, "n": 2.5, "s": "t"}
	in["dyns"] = []any{int64(1), "x", 2.5, nil, true}
	in["items"] = []any{map[string]any{"id": "a", "size": int64(2)}, map[string]any{"id": "b"}}
	steps := w["steps"].(map[string]any)
	steps["build"] = map[string]any{"image_id": "i", "n": int64(1)}
	if full {
		steps["copy"] = map[string]any{"image_id": "c", "region": "r"}
	} else {
		in["items"], in["regions"] = []any{}, []any{}
	}
	w["item"] = "x"
	return w
}

// fits tells whether v is a value of type t.
func fits(v any, t program.Type) bool {
	switch t.Kind {
	case program.Any:
		return true
	case program.List:
		l, ok := v.([]any)
		for _, e := range l {
			ok = ok && fits(e, *t.Elem)
		}
		return ok
	case program.Map:
		m, ok := v.(map[string]any)
		for _, e := range m {
			ok = ok && fits(e, *t.Elem)
		}
		return ok
	}
	raw, err := ToJSON(v)
	if err != nil {
		return strings.Contains(err.Error(), "no JSON form") && t.Kind == program.Float
	}
	_, err = FromJSON(raw, t)
	return err == nil
}
