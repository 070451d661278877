package action

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type inner struct {
	Path string `json:"path" jsonschema:"inner path"`
	Mode int    `json:"mode,omitempty" jsonschema:"inner mode"`
}

// Embedded gives its fields to the struct that holds it.
type Embedded struct {
	Region string `json:"region,omitempty" jsonschema:"from the embedded struct"`
}

type everything struct {
	Embedded
	Text     string            `json:"text" jsonschema:"text" enum:"a,b" default:"a"`
	Flag     bool              `json:"flag,omitempty" jsonschema:"flag"`
	N        int               `json:"n,omitempty" jsonschema:"int"`
	N32      int32             `json:"n32,omitempty" jsonschema:"int32"`
	N64      int64             `json:"n64,omitempty" jsonschema:"int64"`
	F        float64           `json:"f,omitempty" jsonschema:"float"`
	Wait     Duration          `json:"wait,omitempty" jsonschema:"duration"`
	At       time.Time         `json:"at,omitzero" jsonschema:"timestamp"`
	Any      any               `json:"any,omitempty" jsonschema:"any"`
	Raw      json.RawMessage   `json:"raw,omitempty" jsonschema:"raw"`
	List     []string          `json:"list,omitempty" jsonschema:"list"`
	Map      map[string]int    `json:"map,omitempty" jsonschema:"map"`
	Password Secret            `json:"password,omitzero" jsonschema:"secret"`
	Env      map[string]Secret `json:"env,omitempty" jsonschema:"map of secrets"`
	Pointer  *int              `json:"pointer,omitempty" jsonschema:"pointer"`
	Object   inner             `json:"object,omitzero" jsonschema:"object"`
	Objects  []inner           `json:"objects,omitempty" jsonschema:"objects"`
	Hidden   string            `json:"-"`
}

func TestFieldsOf(t *testing.T) {
	a := New(Def[everything, struct{}]{
		Name: "test.everything", Summary: "Take everything",
		Do: func(context.Context, everything) (struct{}, error) { return struct{}{}, nil },
	})
	want := []string{
		"region string", "text! string [a b] =a", "flag bool", "n int", "n32 int", "n64 int", "f float",
		"wait duration", "at timestamp", "any any", "raw any", "list list<string>", "map map<int>",
		"password string secret", "env map<string> secret", "pointer int",
		"object object{path: string, mode?: int} (path! string; mode int)",
		"objects list<object{path: string, mode?: int}> (path! string; mode int)",
	}
	var got []string
	for _, f := range a.Inputs {
		got = append(got, fieldText(f))
		if f.Summary == "" {
			t.Errorf("%s lost its summary", f.Name)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	if a.Outputs == nil || len(a.Outputs) != 0 {
		t.Errorf("outputs of an empty struct: %#v, want an empty list: an open object would accept any name", a.Outputs)
	}
	if a.Timeout != time.Hour || a.Compensates {
		t.Errorf("timeout %s, compensates %t; want 1h0m0s, false", a.Timeout, a.Compensates)
	}
}

func fieldText(f Field) string {
	var b strings.Builder
	b.WriteString(f.Name)
	if f.Required {
		b.WriteByte('!')
	}
	fmt.Fprintf(&b, " %s", f.Type)
	if f.Secret {
		b.WriteString(" secret")
	}
	if f.Enum != nil {
		fmt.Fprintf(&b, " %v", f.Enum)
	}
	if f.Default != "" {
		b.WriteString(" =" + f.Default)
	}
	if f.Fields != nil {
		var inner []string
		for _, g := range f.Fields {
			inner = append(inner, fieldText(g))
		}
		fmt.Fprintf(&b, " (%s)", strings.Join(inner, "; "))
	}
	return b.String()
}

func TestOutputType(t *testing.T) {
	a := New(Def[struct{}, inner]{Name: "host.x.y", Summary: "s",
		Do: func(context.Context, struct{}) (inner, error) { return inner{}, nil }})
	if got, want := a.OutputType().String(), "object{path: string, mode?: int}"; got != want {
		t.Errorf("OutputType = %s, want %s", got, want)
	}
	if !a.OnNode() || (Info{Name: "http.request"}).OnNode() {
		t.Error("only actions of the world host run on nodes")
	}
}

func do[In any](context.Context, In) (struct{}, error) { return struct{}{}, nil }

func TestNewRefuses(t *testing.T) {
	cases := map[string]func(){
		"lacks a name":            func() { New(Def[struct{}, struct{}]{Summary: "s", Do: do[struct{}]}) },
		"lacks a name, a summary": func() { New(Def[struct{}, struct{}]{Name: "n", Do: do[struct{}]}) },
		"or Do":                   func() { New(Def[struct{}, struct{}]{Name: "n", Summary: "s"}) },
		"int is not a struct":     func() { New(Def[int, struct{}]{Name: "n", Summary: "s", Do: do[int]}) },
		"needs a json name":       func() { newOf[struct{ A string }]() },
		"needs a jsonschema summ": func() {
			newOf[struct {
				A string `json:"a"`
			}]()
		},
		"chan int has no place": func() {
			newOf[struct {
				A chan int `json:"a" jsonschema:"x"`
			}]()
		},
		"map[int]string has no": func() {
			newOf[struct {
				A map[int]string `json:"a" jsonschema:"x"`
			}]()
		},
		"uint has no place": func() {
			newOf[struct {
				A uint `json:"a" jsonschema:"x"`
			}]()
		},
	}
	for want, f := range cases {
		t.Run(want, func(t *testing.T) {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, want) {
					t.Errorf("panic %q, want one with %q", got, want)
				}
			}()
			f()
		})
	}
}

func newOf[In any]() { New(Def[In, struct{}]{Name: "n", Summary: "s", Do: do[In]}) }

type request struct {
	Path  string          `json:"path" jsonschema:"path"`
	Count int             `json:"count,omitempty" jsonschema:"count"`
	Inner inner           `json:"inner,omitzero" jsonschema:"inner"`
	Raw   json.RawMessage `json:"raw,omitempty" jsonschema:"raw"`
	When  string          `json:"when,omitempty" jsonschema:"when" enum:"now,later"`
}

func echo() Action {
	return New(Def[request, request]{Name: "test.echo", Summary: "Echo",
		Do: func(_ context.Context, in request) (request, error) { return in, nil },
		Compensate: func(_ context.Context, in request, out *request) error {
			if out == nil {
				return Errorf(Conflict, "%s, out unknown", in.Path)
			}
			return Errorf(Conflict, "%s, out %s", in.Path, out.Path)
		},
	})
}

func TestDoDecodesStrictly(t *testing.T) {
	cases := []struct{ in, want string }{
		{`{"path":"/a","count":2}`, `{"path":"/a","count":2}`},
		{`{"path":"/a","raw":{"id":12345678901234567890}}`, `{"path":"/a","raw":{"id":12345678901234567890}}`},
		{`{"path":""}`, `{"path":""}`},
		{`{}`, `invalid: input "path" is missing`},
		{``, `invalid: input "path" is missing`},
		{`{"path":null}`, `invalid: input "path" is missing`},
		{`{"path":"/a","extra":1}`, `invalid: there is no input "extra"; there is path, count, inner, raw, when`},
		{`{"path":"/a","COUNT":1}`, `invalid: there is no input "COUNT"; there is path, count, inner, raw, when`},
		{`{"path":"/a","inner":{"path":"b","depth":1}}`, `invalid: input: json: unknown field "depth"`},
		{`{"path":"/a","when":"later"}`, `{"path":"/a","when":"later"}`},
		{`{"path":"/a","when":"Later"}`, `invalid: input "when" is "Later"; it may be now, later`},
		{`{"path":7}`, `invalid: input: json: cannot unmarshal number into Go struct field request.path of type string`},
		{`[1]`, `invalid: inputs are not a JSON object: json: cannot unmarshal array into Go value of type map[string]json.RawMessage`},
		{`{"path":"/a"} {}`, `invalid: inputs are not a JSON object: invalid character '{' after top-level value`},
	}
	for _, c := range cases {
		out, err := echo().Do(t.Context(), json.RawMessage(c.in))
		got := errText(err)
		if err == nil {
			b, err := json.Marshal(out)
			if err != nil {
				t.Fatal(err)
			}
			got = string(b)
		}
		if got != c.want {
			t.Errorf("Do(%s)\n got %s\nwant %s", c.in, got, c.want)
		}
	}
}

func TestCompensateTakesWhatIsKnown(t *testing.T) {
	cases := []struct{ in, out, want string }{
		{`{"path":"/a"}`, `null`, "conflict: /a, out unknown"},
		{`{"path":"/a"}`, ``, "conflict: /a, out unknown"},
		{`{"path":"/a"}`, `{"path":"/b"}`, "conflict: /a, out /b"},
		{`{"path":"/a","since_removed":1}`, `{"path":"/b","since_removed":1}`, "conflict: /a, out /b"},
		{`{"path":"/a"}`, `[]`, "internal: recorded output of test.echo: json: cannot unmarshal array into Go value of type action.request"},
		{`[]`, `null`, "internal: recorded input of test.echo: json: cannot unmarshal array into Go value of type action.request"},
	}
	for _, c := range cases {
		err := echo().Compensate(t.Context(), json.RawMessage(c.in), json.RawMessage(c.out))
		if got := errText(err); got != c.want {
			t.Errorf("Compensate(%s, %s)\n got %s\nwant %s", c.in, c.out, got, c.want)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return string(KindOf(err)) + ": " + err.Error()
}

func TestPanicBecomesInternalError(t *testing.T) {
	a := New(Def[struct{}, struct{}]{Name: "test.panic", Summary: "Panic",
		Do:         func(context.Context, struct{}) (struct{}, error) { panic("at work") },
		Compensate: func(context.Context, struct{}, *struct{}) error { panic("at rollback") }})
	_, doErr := a.Do(t.Context(), json.RawMessage(`{}`))
	undoErr := a.Compensate(t.Context(), json.RawMessage(`{}`), nil)
	for want, err := range map[string]error{"panic: at work": doErr, "panic: at rollback": undoErr} {
		if KindOf(err) != Internal || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want an internal error that begins %q", err, want)
		}
	}
}

func TestKinds(t *testing.T) {
	base := errors.New("base")
	err := fmt.Errorf("outer: %w", Errorf(Throttled, "too often: %w", base))
	if KindOf(err) != Throttled || !errors.Is(err, base) || err.Error() != "outer: too often: base" {
		t.Errorf("kind %s, text %q", KindOf(err), err)
	}
	if KindOf(base) != Internal {
		t.Errorf("an error without a kind has kind %s, want internal", KindOf(base))
	}
	var retried []Kind
	seen := map[Kind]bool{}
	for _, k := range Kinds {
		if seen[k] {
			t.Errorf("kind %s is listed twice", k)
		}
		seen[k] = true
		if k.Retryable() {
			retried = append(retried, k)
		}
	}
	if diff := cmp.Diff([]Kind{Throttled, Unavailable, Lost}, retried); diff != "" {
		t.Errorf("retried without being asked (-want +got):\n%s", diff)
	}
}

func TestSecretJSON(t *testing.T) {
	cases := []struct {
		json string
		want Secret
		err  bool
	}{
		{`"plain"`, Secret{Plain: "plain"}, false},
		{`""`, Secret{}, false},
		{`{"$secret":"env:TOKEN"}`, Secret{Ref: "env:TOKEN"}, false},
		{`{"$secret":""}`, Secret{}, true},
		{`{"other":"env:TOKEN"}`, Secret{}, true},
		{`{}`, Secret{}, true},
		{`7`, Secret{}, true},
		{`["a"]`, Secret{}, true},
	}
	for _, c := range cases {
		var s Secret
		err := json.Unmarshal([]byte(c.json), &s)
		if (err != nil) != c.err || (err == nil && s != c.want) {
			t.Errorf("%s: got %+v, %v", c.json, s, err)
		}
		if err != nil {
			continue
		}
		if back, _ := json.Marshal(s); string(back) != c.json {
			t.Errorf("%s is written back as %s", c.json, back)
		}
	}
}

func TestSecretReveal(t *testing.T) {
	ctx := WithCall(t.Context(), Call{Reveal: func(_ context.Context, ref string) (string, error) { return "value of " + ref, nil }})
	if v, err := (Secret{Ref: "env:A"}).Reveal(ctx); v != "value of env:A" || err != nil {
		t.Errorf("got %q, %v", v, err)
	}
	if v, err := (Secret{Plain: "p"}).Reveal(t.Context()); v != "p" || err != nil {
		t.Errorf("got %q, %v", v, err)
	}
	if _, err := (Secret{Ref: "env:A"}).Reveal(t.Context()); err == nil {
		t.Error("a reference was revealed without an engine")
	}
}

func TestOutsideTheEngine(t *testing.T) {
	c := FromContext(t.Context())
	c.Heartbeat("x")
	if c.Mask("text") != "text" || c.Attempt != 1 {
		t.Errorf("got %+v", c)
	}
}

func TestDurationText(t *testing.T) {
	var d struct {
		D Duration `json:"d"`
	}
	if err := json.Unmarshal([]byte(`{"d":"90s"}`), &d); err != nil {
		t.Fatal(err)
	}
	if b, _ := json.Marshal(d); string(b) != `{"d":"1m30s"}` {
		t.Errorf("written back as %s", b)
	}
	if err := json.Unmarshal([]byte(`{"d":"soon"}`), &d); err == nil {
		t.Error(`"soon" is a duration`)
	}
}
