package program

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseType(t *testing.T) {
	for _, s := range []string{"any", "string", "int", "float", "bool", "duration", "timestamp", "secret", "object", "object{}",
		"list<string>", "map<list<int>>", "object{id: string, size?: int}", "list<object{a: map<object{b?: any}>}>"} {
		v, err := ParseType(s)
		if err != nil || v.String() != s {
			t.Errorf("%s: got %s, %v", s, v, err)
		}
	}
	for text, want := range map[string]string{
		"": "unknown type", "strin": "types are string", "list": "list needs", "list<": "unknown type", "list<int": "lacks its closing >",
		"int int": "unexpected", "object{a: int": "lacks , or }", "object{a: int, a: int}": "twice", "object{a int}": "lacks :",
		strings.Repeat("list<", 40) + "int": "nested",
	} {
		if _, err := ParseType(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: got %v, want %q", text, err, want)
		}
	}
}

func FuzzParseType(f *testing.F) {
	for _, s := range []string{"string", "list<map<int>>", "object{a: int, b?: list<any>}", "object{", "map<", "object{a?:object{}}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, err := ParseType(text)
		if err != nil {
			return
		}
		again, err := ParseType(v.String())
		if err != nil {
			t.Fatalf("%q reads as %s, which does not read: %v", text, v, err)
		}
		if d := cmp.Diff(v, again); d != "" {
			t.Fatalf("%q: %s", text, d)
		}
	})
}

func TestParseDuration(t *testing.T) {
	for _, tt := range []struct {
		text string
		want time.Duration
		bad  bool
	}{
		{"90s", 90 * time.Second, false}, {"1d12h", 36 * time.Hour, false}, {"1.5d", 36 * time.Hour, false}, {"-1d1h", -25 * time.Hour, false},
		{"0", 0, false}, {"2d", 48 * time.Hour, false}, {"106751d", 106751 * 24 * time.Hour, true}, {"1d-1h", 0, true}, {"d", 0, true},
		{"", 0, true}, {"1", 0, true}, {"1e3d", 0, true}, {"NaNd", 0, true}, {"1d1", 0, true}, {"1h1d", 0, true}, {"99999999999999d", 0, true},
	} {
		got, err := ParseDuration(tt.text)
		if (err != nil) != tt.bad || (!tt.bad && got != tt.want) {
			t.Errorf("%q: got %v, %v", tt.text, got, err)
		}
	}
}

func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"1d", "1.5d2h", "-3m", "1h1ms", "106750d23h", "9e9d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDuration(s)
		if err != nil {
			return
		}
		if back, err := ParseDuration(d.String()); err != nil || back != d {
			t.Fatalf("%q is %v, which reads as %v, %v", s, d, back, err)
		}
		if !strings.HasPrefix(s, "-") && d < 0 {
			t.Fatalf("%q overflowed to %v", s, d)
		}
	})
}

func TestProgramJSON(t *testing.T) {
	at := Pos{3, 7}
	expr := &Expr{Text: "a < b && c > 'ä'", Pos: at}
	lit := &Value{Lit: json.RawMessage(`{"a":1.0,"b":"<x>"}`)}
	p := Program{
		Version: Version, Runbook: "a/b", Summary: "s", Details: "# d", File: "x.yaml", Digest: "sha256:00",
		Inputs: []Input{{Name: "i", Type: ListOf(Type{Kind: Secret}), Default: json.RawMessage(`[]`), Enum: []json.RawMessage{json.RawMessage(`1`)},
			Pattern: "^<", Min: json.RawMessage(`1`), Max: json.RawMessage(`2`), Pos: at}},
		Vars:      []Output{{Name: "v", Type: MapOf(Type{Kind: Object, Fields: []Field{{Name: "f", Type: Type{Kind: Int}, Optional: true}}}), Value: Value{Expr: expr}, Pos: at}},
		Timeout:   lit,
		OnFailure: OnFailureAsk,
		Steps: []Step{
			{ID: "call", Named: true, Kind: KindAction, Pos: at, If: expr, Type: Type{Kind: Object, Fields: []Field{}},
				Call:     &Call{Action: "host.command.run", With: []Entry{{"k", Value{Text: []Part{{Lit: "x"}, {Expr: expr}}}}}, Output: TargetsType(Type{Kind: Any}), Compensates: true, Timeout: Duration(36 * time.Hour), Until: expr, Every: lit},
				Targets:  &Targets{Where: expr, AllowEmpty: true, Batches: []Value{*lit}, Gate: expr},
				Retry:    &Retry{Attempts: lit, On: []string{"throttled"}},
				OnError:  &OnError{Steps: []Step{{ID: "h", Kind: KindStop, Message: lit, Type: Type{Kind: Object}}}},
				Rollback: &Rollback{None: true}},
			{ID: "loop", Kind: KindForEach, Type: Type{Kind: Object}, ForEach: &ForEach{Items: Value{List: []Value{*lit}}, ItemType: Type{Kind: Any}}, Steps: []Step{}[:0:0]},
			{ID: "par", Kind: KindParallel, Type: Type{Kind: Object}, Branches: []Branch{{Name: "a", Pos: at, Steps: []Step{{ID: "w", Kind: KindWait, Wait: lit, Type: Type{Kind: Object}}}}}},
			{ID: "ok", Kind: KindApproval, Type: Type{Kind: Object}, Approval: &Approval{Message: *lit, OnTimeout: OnTimeoutReject}},
			{ID: "rep", Kind: KindRepeat, Type: Type{Kind: Object}, Repeat: &Repeat{Until: *expr}, SkipUnless: []string{"call"}},
			{ID: "child", Kind: KindRunbook, Type: Type{Kind: Object}, Child: &Child{Runbook: "c"}},
		},
		Children: map[string]*Program{"c": {Version: Version, Runbook: "c", OnFailure: OnFailureStop, Steps: []Step{}}},
	}
	p.Steps[1].Steps = nil
	first, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var back Program
	if err := json.Unmarshal(first, &back); err != nil {
		t.Fatal(err)
	}
	second, err := json.Marshal(back)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(first), string(second)); d != "" {
		t.Error(d)
	}
	// json.Marshal escapes < inside a RawMessage; apart from that nothing may change.
	compact := cmp.Comparer(func(a, b json.RawMessage) bool {
		x, y := string(a), string(b)
		un := strings.NewReplacer(`\u003c`, "<", `\u003e`, ">")
		return un.Replace(x) == un.Replace(y)
	})
	if d := cmp.Diff(p, back, compact); d != "" {
		t.Error(d)
	}
}

func TestPosText(t *testing.T) {
	var p Pos
	if err := p.UnmarshalText([]byte("12:7")); err != nil || p != (Pos{Line: 12, Col: 7}) {
		t.Errorf("12:7 is read as %v, %v", p, err)
	}
	for _, bad := range []string{"", "12", "12:", ":7", "a:b", "1:2:3"} {
		if err := p.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is read as %v", bad, p)
		}
	}
}
