package program

import (
	"encoding/json"
	"strings"
	"testing"
)

func raw(s string) json.RawMessage { return json.RawMessage(s) }

func mustType(t *testing.T, text string) Type {
	t.Helper()
	v, err := ParseType(text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestCheckInputsOne(t *testing.T) {
	for _, tt := range []struct {
		name, typ string
		in        Input
		given     string
		want      string // part of the message; empty: accepted
	}{
		{"string", "string", Input{}, `"a b"`, ""},
		{"string is no int", "string", Input{}, `3`, "have a number, want string"},
		{"null", "string", Input{}, `null`, "have null, want string"},
		{"int", "int", Input{}, `9223372036854775807`, ""},
		{"int range", "int", Input{}, `9223372036854775808`, "out of the range of int"},
		{"int fraction", "int", Input{}, `1.5`, "have 1.5, want int"},
		{"whole float is int", "int", Input{}, `3.0`, ""},
		{"float takes int", "float", Input{}, `3`, ""},
		{"float range", "float", Input{}, `1e999`, "out of the range of float"},
		{"bool", "bool", Input{}, `"true"`, "have string, want bool"},
		{"duration", "duration", Input{}, `"1d12h"`, ""},
		{"duration wrong", "duration", Input{}, `"soon"`, `"soon" is not a duration`},
		{"timestamp", "timestamp", Input{}, `"2026-11-23T10:00:00+01:00"`, ""},
		{"timestamp wrong", "timestamp", Input{}, `"yesterday"`, "is not a timestamp"},
		{"timestamp beyond the years", "timestamp", Input{}, `"9999-12-31T23:59:59-01:00"`, "is not a timestamp"},
		{"list", "list<int>", Input{}, `[1, "x"]`, "[1]: have string, want int"},
		{"map", "map<bool>", Input{}, `{"a": true, "b": 1}`, `["b"]: have a number, want bool`},
		{"object", "object", Input{}, `{"a": [1, {"b": null}]}`, ""},
		{"object is no list", "object", Input{}, `[]`, "have a list, want object"},
		{"object field unknown", "object{size: int}", Input{}, `{"size": 1, "sice": 2}`, "did you mean size?"},
		{"object field missing", "object{size: int}", Input{}, `{}`, "lacks size"},
		{"object field optional", "object{size?: int}", Input{}, `{}`, ""},
		{"not JSON", "string", Input{}, `"a`, "not JSON"},
		{"more than JSON", "string", Input{}, `"a" 1`, "more follows"},

		{"enum", "string", Input{Enum: []json.RawMessage{raw(`"a"`), raw(`"b"`)}}, `"c"`, `"c" is not one of "a", "b"`},
		{"enum int", "int", Input{Enum: []json.RawMessage{raw(`1`)}}, `1`, ""},
		{"enum duration by value", "duration", Input{Enum: []json.RawMessage{raw(`"60s"`)}}, `"1m"`, ""},
		{"enum of a list", "list<string>", Input{Enum: []json.RawMessage{raw(`"a"`)}}, `["a", "b"]`, `"b" is not one of`},
		{"pattern", "string", Input{Pattern: "^ami-[0-9a-f]+$"}, `"ami-xyz"`, "does not match the pattern ^ami-"},
		{"pattern ok", "string", Input{Pattern: "^ami-[0-9a-f]+$"}, `"ami-0f"`, ""},
		{"pattern in list", "list<string>", Input{Pattern: "^a"}, `["ab", "ba"]`, `"ba" does not match`},
		{"min int", "int", Input{Min: raw(`3`)}, `2`, "at least 3"},
		{"min int equal", "int", Input{Min: raw(`3`)}, `3`, ""},
		{"max float", "float", Input{Max: raw(`0.5`)}, `0.75`, "at most 0.5"},
		{"max duration", "duration", Input{Max: raw(`"1d"`)}, `"25h"`, "at most 24h0m0s"},
		{"min timestamp", "timestamp", Input{Min: raw(`"2026-01-01T00:00:00Z"`)}, `"2025-01-01T00:00:00Z"`, "at least 2026-01-01"},
		{"length in characters", "string", Input{Max: raw(`3`)}, `"äöü"`, ""},
		{"length", "string", Input{Min: raw(`4`)}, `"äöü"`, "has 3 characters; at least 4"},
		{"elements", "list<int>", Input{Max: raw(`1`)}, `[1, 2]`, "has 2 elements; at most 1"},
		{"entries", "map<int>", Input{Min: raw(`1`)}, `{}`, "has 0 entries"},

		{"secret", "secret", Input{}, `{"$secret": "env:DB"}`, ""},
		{"secret plain", "secret", Input{}, `"hunter2"`, "wants a reference"},
		{"secret scheme", "secret", Input{}, `{"$secret": "hunter2"}`, "wants a reference"},
		{"secret empty", "secret", Input{}, `{"$secret": "env:"}`, "wants a reference"},
		{"secret more", "secret", Input{}, `{"$secret": "env:A", "x": "hunter2"}`, "wants a reference"},
		{"secret no string", "secret", Input{}, `{"$secret": 1}`, "wants a reference"},
		{"secrets in a list", "list<secret>", Input{}, `[{"$secret": "file:/x"}, "hunter2"]`, "[1]: wants a reference"},
		{"smuggled into any", "any", Input{}, `{"a": [{"$secret": "file:/etc/shadow"}]}`, "only be given to an input of type secret"},
		{"smuggled by case", "object", Input{}, `{"$SECRET": "file:/etc/shadow"}`, "only be given"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := tt.in
			in.Name, in.Type = "x", mustType(t, tt.typ)
			out, errs := CheckInputs([]Input{in}, map[string]json.RawMessage{"x": raw(tt.given)})
			var got string
			for _, e := range errs {
				got += e.Error() + "\n"
			}
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			if strings.Contains(got, "hunter2") {
				t.Fatalf("the message holds the secret: %q", got)
			}
			if string(out["x"]) != tt.given {
				t.Fatalf("out is %s, given was %s", out["x"], tt.given)
			}
		})
	}
}

func TestCheckInputsAll(t *testing.T) {
	inputs := []Input{
		{Name: "region", Type: Type{Kind: String}},
		{Name: "count", Type: Type{Kind: Int}, Default: raw(`3`)},
		{Name: "size", Type: Type{Kind: Int}, Min: raw(`5`), Max: raw(`1`)},
	}
	out, errs := CheckInputs(inputs, map[string]json.RawMessage{"size": raw(`3`), "regoin": raw(`"x"`), "zz": raw(`1`)})
	var got []string
	for _, e := range errs {
		got = append(got, e.Error())
	}
	want := `input region: is required, and was not given; its type is string
input size: 3 is out of range: at least 5 is allowed
input size: 3 is out of range: at most 1 is allowed
input regoin: there is no such input; did you mean region?; there is region, count, size
input zz: there is no such input; there is region, count, size`
	if g := strings.Join(got, "\n"); g != want {
		t.Errorf("got\n%s\nwant\n%s", g, want)
	}
	if string(out["count"]) != "3" {
		t.Errorf("default: %s", out["count"])
	}
}

func TestHostileInputIsKept(t *testing.T) {
	for _, text := range []string{
		"$(touch pwned)", "`id`; rm -rf / #", "a\nb\r\n\x00c", `"quoted' \ `, "${{ secrets.x }}", "<script>&amp;", "\u2028\ufeff", strings.Repeat("ä", 500_000),
	} {
		raw, err := ParseInput(Type{Kind: String}, text)
		if err != nil {
			t.Fatal(err)
		}
		out, errs := CheckInputs([]Input{{Name: "x", Type: Type{Kind: String}}}, map[string]json.RawMessage{"x": raw})
		if errs != nil {
			t.Fatal(errs)
		}
		v, err := Decode(out["x"], Type{Kind: String})
		if err != nil || v != text {
			t.Errorf("%.20q came back as %.20q, %v", text, v, err)
		}
	}
	if _, err := ParseInput(Type{Kind: String}, "\xff"); err == nil {
		t.Error("invalid UTF-8 was accepted: its bytes cannot arrive unchanged")
	}
}

func TestParseInput(t *testing.T) {
	for _, tt := range []struct{ typ, text, want string }{
		{"string", " a ", `" a "`}, {"string", "", `""`}, {"string", "<a>", `"<a>"`},
		{"int", "42", "42"}, {"int", "+007", "7"}, {"int", "-0", "0"}, {"int", "4x", "error"}, {"int", "", "error"}, {"int", "1.0", "error"},
		{"float", "1.5", "1.5"}, {"float", "2", "2"}, {"float", "inf", "error"}, {"float", "NaN", "error"}, {"float", "0x1p4", "16"},
		{"bool", "true", "true"}, {"bool", "yes", "error"},
		{"duration", "1d", `"1d"`}, {"duration", "1", "error"},
		{"timestamp", "2026-11-23T00:00:00Z", `"2026-11-23T00:00:00Z"`}, {"timestamp", "now", "error"},
		{"list<string>", "a, b", `["a","b"]`}, {"list<string>", "", `[]`}, {"list<int>", "1,2", `[1,2]`}, {"list<int>", "[1,2]", `[1,2]`}, {"list<int>", "1,x", "error"},
		{"map<int>", "a=1,b=2", `{"a":1,"b":2}`}, {"map<int>", `{"a":1}`, `{"a":1}`}, {"map<int>", "a", "error"},
		{"object", `{"a":1}`, `{"a":1}`}, {"object", "a", "error"},
		{"any", `{"a":1}`, `{"a":1}`}, {"any", "plain", `"plain"`},
		{"secret", "env:NAME", `{"$secret":"env:NAME"}`}, {"secret", "hunter2", "error"},
	} {
		got, err := ParseInput(mustType(t, tt.typ), tt.text)
		if err != nil {
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the message holds the secret: %v", err)
			}
			got = raw("error")
		}
		if string(got) != tt.want {
			t.Errorf("%s %q: got %s, want %s (%v)", tt.typ, tt.text, got, tt.want, err)
		}
	}
}

// What ParseInput makes, CheckInputs and Decode must understand.
func FuzzParseInput(f *testing.F) {
	for _, s := range []string{"1", "a,b", `{"a":[1.5,null]}`, "1d", "env:X", "a=b", "-0", "0x10", "2026-11-23T00:00:00Z"} {
		for k := range byte(11) {
			f.Add(k, s)
		}
	}
	types := []string{"string", "int", "float", "bool", "duration", "timestamp", "list<string>", "map<int>", "object", "secret", "any"}
	f.Fuzz(func(t *testing.T, kind byte, text string) {
		typ := mustType(t, types[int(kind)%len(types)])
		raw, err := ParseInput(typ, text)
		if err != nil {
			return
		}
		if !json.Valid(raw) {
			t.Fatalf("%s %q became %s, which is no JSON", typ, text, raw)
		}
		if _, err := Decode(raw, typ); err != nil {
			t.Fatalf("%s %q became %s: %v", typ, text, raw, err)
		}
	})
}
