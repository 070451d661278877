package expr

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// world is what the table's expressions find.
func world() map[string]any {
	return map[string]any{
		"inputs": map[string]any{
			"name": "web", "count": int64(3), "ratio": 0.5, "on": true, "wait": 90 * time.Second,
			"at":      time.Date(2026, 11, 23, 10, 30, 0, 0, time.UTC),
			"regions": []any{"eu", "us", "ap"},
			"tags":    map[string]any{"z": "1", "a": "2", "m": "3", "b": "4", "y": "5"},
			"deep":    map[string]any{"k2": map[string]any{"b": int64(1), "a": int64(2), "c": int64(3)}, "k1": []any{int64(1)}},
			"none":    nil, "umlaut": "äöü", "empty": []any{},
		},
		"steps": map[string]any{"build": map[string]any{"image_id": "ami-1", "ok": true}},
		"item":  int64(7),
	}
}

func TestEval(t *testing.T) {
	for _, tt := range []struct {
		text string
		want string // Text of the value, or "error: " and part of the message
	}{
		// Chains, CEL not needed.
		{"item", "7"}, {" steps.build.image_id ", "ami-1"}, {"inputs.tags", `{"a":"2","b":"4","m":"3","y":"5","z":"1"}`},
		{"inputs.none", ""},
		{"steps.copy.image_id", "error: no such key: copy, in steps.copy"},
		{"stepz.copy", "error: nothing is named stepz"},
		{"inputs.name.x", "error: inputs.name has no fields"},

		// Operators.
		{"1 + 2 * 3", "7"}, {"7 / 2", "3"}, {"7 % 4", "3"}, {"-7 / 2", "-3"}, {"1.5 + 2.0", "3.5"}, {"4.0 / 2.0", "2"},
		{"1 / 0", "error: zero"}, {"1 % 0", "error: zero"}, {"9223372036854775807 + 1", "error: overflow"}, {"1.0 / 0.0", "+Inf"},
		{`"a" + "b"`, "ab"}, {"[1] + [2, 3]", "[1,2,3]"}, {"inputs.regions + ['x']", `["eu","us","ap","x"]`},
		{"inputs.count > 2 && inputs.on", "true"}, {"inputs.count < 2.5", "false"}, {"!inputs.on || inputs.name == 'web'", "true"},
		{"inputs.count == 3 ? 'three' : 'other'", "three"}, {"'eu' in inputs.regions", "true"}, {"'a' in inputs.tags", "true"}, {"'q' in inputs.tags", "false"},
		{"inputs.regions[1]", "us"}, {"inputs.regions[3]", "error: index out of bounds"}, {"inputs.tags['m']", "3"},
		{"inputs.tags['q']", "error: no such key: q"}, {"inputs.tags.q + ''", "error: no such key: q"},
		{"[1, 2] == [1, 2]", "true"}, {"{'a': 1} == {'a': 2}", "false"}, {"inputs.tags == inputs.tags", "true"},
		{"item + 'x'", "error: no such overload"}, {"inputs.none == null", "true"},

		// Presence and optional values.
		{"has(steps.build) && steps.build.ok", "true"}, {"has(steps.copy) && steps.copy.ok", "false"}, {"has(steps.copy) ? steps.copy.x : 'd'", "d"},
		{"steps.?copy.?x.orValue('d')", "d"}, {"steps.?build.?image_id.orValue('d')", "ami-1"}, {"steps.?build.image_id.orValue('d')", "ami-1"},
		{"steps.?copy.image_id.orValue('d')", "d"}, {"steps.?build.?image_id.hasValue()", "true"}, {"steps.?copy", "error: may be absent"},
		{"steps.?build.optMap(b, b.image_id).orValue('')", "ami-1"}, {"inputs.regions.first().orValue('')", "eu"}, {"inputs.empty.last().orValue('none')", "none"},
		{"{?'a': steps.?copy, 'b': 1}", `{"b":1}`}, {"inputs.regions[?9].orValue('x')", "x"},

		// string gives what the value becomes inside text.
		{"string(1e8) + ' ' + string(inputs.ratio) + ' ' + string(3.0)", "100000000 0.5 3"}, {"string(inputs.wait)", "1m30s"}, {"string(inputs.at)", "2026-11-23T10:30:00Z"},
		{"inputs.deep.k1.map(x, string(x))", `["1"]`},

		// Maps are walked by key, wherever they come from.
		{"inputs.tags.map(k, k)", `["a","b","m","y","z"]`}, {"inputs.tags.map(k, inputs.tags[k])", `["2","4","3","5","1"]`},
		{"{'z': 1, 'a': 2, 'm': 3, 'b': 4}.map(k, k)", `["a","b","m","z"]`}, {"{3: 1, 1: 1, 2: 1}.map(k, k)", "[1,2,3]"},
		{"{'z': 1, 3: 1, true: 1, 'a': 1, 1: 1, false: 1}.map(k, string(k))", `["false","true","1","3","a","z"]`},
		{"[inputs.deep].map(d, d.map(k, k))", `[["k1","k2"]]`}, {"inputs.deep.map(k, k + '!').filter(k, k != 'k1!')", `["k2!"]`},
		{"inputs.deep.k2.map(k, k)", `["a","b","c"]`}, {"{'o': {'z': 1, 'y': 2, 'x': 3}}.o.map(k, k)", `["x","y","z"]`},
		{"inputs.tags.filter(k, k > 'b')", `["m","y","z"]`}, {"inputs.tags.exists(k, 1 / (int(inputs.tags[k]) - 2) > 0)", "true"},
		{"inputs.tags.all(k, 1 / (int(inputs.tags[k]) - 2) > 100)", "false"},
		{"inputs.tags.map(k, 10 / (int(inputs.tags[k]) - 2))", "error: zero"},
		{"[{'b': 1, 'a': 2}, {'d': 1, 'c': 2}].map(m, m.map(k, k))", `[["a","b"],["c","d"]]`},
		{"dyn(inputs.tags).map(k, k)", `["a","b","m","y","z"]`}, {"optional.of(inputs.tags).value().map(k, k)", `["a","b","m","y","z"]`},
		{"{'b': [1], 'a': inputs.tags}", `{"a":{"a":"2","b":"4","m":"3","y":"5","z":"1"},"b":[1]}`},
		{"inputs.regions.exists_one(r, r.startsWith('u'))", "true"}, {"inputs.regions.map(r, r != 'us', r + '-1')", `["eu-1","ap-1"]`},
		{"{1: 'a'}", "error: keys of a map are strings"},

		// Text.
		{"inputs.name.upperAscii() + 'X'.lowerAscii()", "WEBx"}, {"'  a b '.trim()", "a b"}, {"'a,b,,c'.split(',')", `["a","b","","c"]`}, {"'äb'.split('')", `["ä","b"]`},
		{"'aXbX'.replace('X', '--')", "a--b--"}, {"inputs.umlaut.substring(1)", "öü"}, {"inputs.umlaut.substring(1, 2)", "ö"}, {"inputs.umlaut.substring(0, 3)", "äöü"}, {"inputs.umlaut.substring(3)", ""},
		{"inputs.umlaut.substring(2, 9)", "error: out of range"}, {"inputs.umlaut.substring(-1)", "error: out of range"}, {"inputs.umlaut.substring(0, 4)", "error: out of range"},
		{"inputs.umlaut.charAt(2)", "ü"}, {"inputs.umlaut.charAt(3)", "error: out of range"}, {"inputs.umlaut.indexOf('ü')", "2"}, {"'abab'.lastIndexOf('ab')", "2"}, {"'a'.indexOf('q')", "-1"},
		{"inputs.umlaut.size()", "3"}, {"size(inputs.regions)", "3"}, {"inputs.regions.join(', ')", "eu, us, ap"}, {"['a', 'b'].join()", "ab"}, {"[1].join()", "error"}, {"inputs.empty.join('x')", ""},
		{"inputs.name.matches('^w.b$')", "true"}, {"matches(inputs.name, 'x')", "false"}, {"inputs.name.matches('(')", "error: not a regular expression"},
		{"inputs.name.contains('e') && inputs.name.startsWith('w') && inputs.name.endsWith('b')", "true"},
		{"string(3) + string(1.5) + string(true) + string(2.0)", "31.5true2"}, {"int('12') + int(2.9)", "14"}, {"int('x')", "error"}, {"float('1.5') + float(2)", "3.5"}, {"bool('true')", "true"},
		{"min([3, 1, 2])", "1"}, {"max(['a', 'c', 'b'])", "c"}, {"max(inputs.empty)", "error: max of an empty list"}, {"min([1, 'a'])", "error"},

		// Time.
		{"inputs.wait + duration('1d')", "24h1m30s"}, {"inputs.at + inputs.wait", "2026-11-23T10:31:30Z"}, {"inputs.at - timestamp('2026-11-23T10:00:00Z')", "30m0s"},
		{"inputs.at.getHours()", "10"}, {"inputs.at.getDayOfWeek()", "1"}, {"inputs.at > timestamp('2026-01-01T00:00:00Z')", "true"}, {"inputs.wait.getSeconds()", "90"},
		{"duration('soon')", "error: not a duration"}, {"inputs.at.getHours('Europe/Berlin')", "error"}, {"now()", "error"},

		// Not in the language.
		{"b'x'", "error"}, {"1u", "error"}, {"type(1)", "error"}, {"1 +", "error: expression"}, {"", "error"}, {"[1].sort()", "error"},
		{strings.Repeat("(", 300) + "1" + strings.Repeat(")", 300), "error: expression"}, {strings.Repeat("1+", 5000) + "1", "error: longer than"},
	} {
		t.Run(tt.text[:min(len(tt.text), 60)], func(t *testing.T) {
			var first string
			for i := range 100 {
				got := ""
				v, err := Eval(tt.text, world())
				if err != nil {
					got = "error: " + err.Error()
				} else {
					got = Text(v)
				}
				if i == 0 {
					first = got
					if want, isErr := strings.CutPrefix(tt.want, "error"); isErr {
						if err == nil || !strings.Contains(got, strings.TrimPrefix(want, ": ")) {
							t.Fatalf("got %s, want %s", got, tt.want)
						}
					} else if got != tt.want {
						t.Fatalf("got %s, want %s", got, tt.want)
					}
				} else if got != first {
					t.Fatalf("evaluation %d gave %s, the first %s", i, got, first)
				}
			}
		})
	}
}

// The same in programs made anew: nothing may hang on how CEL was set up.
func TestEvalFreshPrograms(t *testing.T) {
	text := "inputs.tags.map(k, k) + {'q': 1, 'p': 2, 'r': 3}.map(k, k)"
	for range 100 {
		programs = cache[compiled]{}
		v, err := Eval(text, world())
		if err != nil || Text(v) != `["a","b","m","y","z","p","q","r"]` {
			t.Fatal(Text(v), err)
		}
	}
}

func TestEvalDoesNotChangeItsNames(t *testing.T) {
	w := world()
	for _, text := range []string{"inputs.regions + ['x']", "inputs.regions.map(r, r)", "[inputs.tags].map(m, m)", "inputs.tags"} {
		if _, err := Eval(text, w); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(world(), w); d != "" {
		t.Error(d)
	}
}

func TestEvalConcurrently(t *testing.T) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 200 {
				if i%50 == 0 {
					programs.mu.Lock()
					programs.made = nil
					programs.mu.Unlock()
				}
				v, err := Eval("inputs.tags.map(k, k).join('') + steps.build.image_id", world())
				if err != nil || v != "abmyzami-1" {
					t.Error(v, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestJSON(t *testing.T) {
	for _, tt := range []struct{ typ, in, out string }{
		{"int", "3.0", "3"}, {"float", "3", "3.0"}, {"float", "0.1", "0.1"}, {"float", "1e300", "1e+300"}, {"float", "-0.0", "-0.0"},
		{"any", `{"b": 1, "a": [1.5, 2.0, 1e2, null, true]}`, `{"a":[1.5,2.0,100.0,null,true],"b":1}`},
		{"any", "9007199254740993", "9007199254740993"}, {"int", "-9223372036854775808", "-9223372036854775808"},
		{"duration", `"1d"`, `"24h0m0s"`}, {"timestamp", `"2026-11-23T10:00:00.5+01:00"`, `"2026-11-23T09:00:00.5Z"`},
		{"string", `"\u00e4 \u003c \n"`, `"ä < \n"`}, {"secret", `{"$secret":"env:X"}`, `{"$secret":"env:X"}`},
		{"object{a?: int}", `{"a": null, "new": 1}`, `{"new":1}`},
	} {
		v, err := FromJSON([]byte(tt.in), typeOf(t, tt.typ))
		if err != nil {
			t.Errorf("%s %s: %v", tt.typ, tt.in, err)
			continue
		}
		out, err := ToJSON(v)
		if err != nil || string(out) != tt.out {
			t.Errorf("%s %s: got %s, %v, want %s", tt.typ, tt.in, out, err, tt.out)
		}
		again, err := FromJSON(out, typeOf(t, tt.typ))
		if d := cmp.Diff(v, again); err != nil || d != "" {
			t.Errorf("%s %s does not come back: %v %s", tt.typ, tt.in, err, d)
		}
	}
	if _, err := FromJSON([]byte("9223372036854775808"), typeOf(t, "any")); err == nil {
		t.Error("an int of more than 64 bits was accepted")
	}
	for _, text := range []string{"1.0 / 0.0", "0.0 / 0.0"} {
		v, err := Eval(text, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ToJSON(v); err == nil {
			t.Errorf("%s has a JSON form", text)
		}
	}
}
