// Package action is the typed definition of what a runbook can do.
//
// It gives New, which turns one Def (name, input and output structs, Do and
// Compensate) into an Action: from the structs come the checks, the CEL types,
// the JSON Schema and the reference page, so that nothing is written twice. It
// promises that an Action's Run decodes strictly, never panics past its caller
// and returns errors of a Kind. It refuses to know Temporal, YAML and CEL, and
// decides nothing about retry.
//
// # Struct tags
//
// A field's JSON name is its input's name; without `omitempty` it is required.
// `jsonschema:"…"` is its summary; `enum:"a,b"` lists what a string may be;
// `default:"x"` documents what an omitted field means; `code:"true"` marks text that is run. The type Secret marks an
// input that may be a secret. time.Duration fields are not used: type them
// Duration. A json.RawMessage is any value, kept as it was written (no number
// loses digits). Outputs are plain data of JSON kinds.
package action

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// Def defines one action. In and Out are structs.
type Def[In, Out any] struct {
	Name    string // "host.file.write"
	Summary string // one line, no full stop
	Details string // Markdown, for the reference page; may be empty
	Example string // a YAML step that uses it; compiled by a test

	// Timeout bounds one attempt if the step says nothing; 0 is one hour.
	Timeout time.Duration

	// Inspect knows more of a step's inputs than their types say; nil if nothing
	// does. The compiler asks it, so that it must not take long or call anyone.
	Inspect func(in map[string]any) Inspection

	// Do must be safe to repeat with the same Token: it runs at least once.
	Do func(ctx context.Context, in In) (Out, error)

	// Compensate takes back what Do did with the same input and Token; nil if
	// the action makes nothing that can be taken back. It is safe to repeat. out is nil if
	// Do's answer was lost or Do failed: then Do may have run, run in part, or
	// not at all, and Compensate has to find out by the token.
	Compensate func(ctx context.Context, in In, out *Out) error
}

// Action is a Def with its types erased. Made by New; immutable.
type Action struct {
	Info
	do         func(ctx context.Context, in json.RawMessage) (any, error)
	compensate func(ctx context.Context, in, out json.RawMessage) error
}

// New makes an Action. It panics if the definition is wrong: a mistake in our
// own code, found by the first test that builds the list of actions.
func New[In, Out any](d Def[In, Out]) Action {
	if d.Name == "" || d.Summary == "" || d.Do == nil {
		panic(fmt.Sprintf("action %q lacks a name, a summary or Do", d.Name))
	}
	if d.Timeout == 0 {
		d.Timeout = time.Hour
	}
	a := Action{Info: Info{
		Name: d.Name, Summary: d.Summary, Details: d.Details, Example: d.Example,
		Timeout:     d.Timeout,
		Compensates: d.Compensate != nil,
		Inspect:     d.Inspect,
		Inputs:      fieldsOf(d.Name, reflect.TypeFor[In]()),
		Outputs:     fieldsOf(d.Name, reflect.TypeFor[Out]()),
	}}
	a.do = func(ctx context.Context, raw json.RawMessage) (any, error) {
		var in In
		if err := decode(raw, a.Inputs, &in); err != nil {
			return nil, err
		}
		return d.Do(ctx, in)
	}
	if d.Compensate != nil {
		a.compensate = func(ctx context.Context, rawIn, rawOut json.RawMessage) error {
			// What an older worker recorded may have other fields: take what is known.
			var in In
			if err := json.Unmarshal(rawIn, &in); err != nil {
				return Errorf(Internal, "recorded input of %s: %w", d.Name, err)
			}
			if len(rawOut) == 0 || string(rawOut) == "null" {
				return d.Compensate(ctx, in, nil)
			}
			var out Out
			if err := json.Unmarshal(rawOut, &out); err != nil {
				return Errorf(Internal, "recorded output of %s: %w", d.Name, err)
			}
			return d.Compensate(ctx, in, &out)
		}
	}
	return a
}

// decode reads the inputs into the struct: every required one is there, none is
// unknown, an enum's is one of its values. The names are compared here because encoding/json ignores their case.
func decode(raw json.RawMessage, fields []Field, into any) error {
	var given map[string]json.RawMessage
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &given); err != nil {
			return Errorf(Invalid, "inputs are not a JSON object: %w", err)
		}
	}
	names := make([]string, 0, len(fields))
	for _, f := range fields {
		names = append(names, f.Name)
		if v, ok := given[f.Name]; f.Required && (!ok || string(v) == "null") {
			return Errorf(Invalid, "input %q is missing", f.Name)
		}
		if text := ""; f.Enum != nil && json.Unmarshal(given[f.Name], &text) == nil && !slices.Contains(f.Enum, text) {
			return Errorf(Invalid, "input %q is %q; it may be %s", f.Name, text, strings.Join(f.Enum, ", "))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if !slices.Contains(names, name) {
			return Errorf(Invalid, "there is no input %q; there is %s", name, strings.Join(names, ", "))
		}
	}
	if len(raw) == 0 {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return Errorf(Invalid, "input: %w", err)
	}
	return nil
}

// Do runs the action. in is a JSON object of its inputs. The result is the Out
// struct. A panic becomes an error of kind Internal.
func (a Action) Do(ctx context.Context, in json.RawMessage) (out any, err error) {
	defer recovered(&err)
	return a.do(ctx, in)
}

// Compensate takes back what Do did; out is null or empty if not known. It must
// not be called if Info.Compensates is false.
func (a Action) Compensate(ctx context.Context, in, out json.RawMessage) (err error) {
	defer recovered(&err)
	return a.compensate(ctx, in, out)
}

func recovered(err *error) {
	if r := recover(); r != nil {
		*err = Errorf(Internal, "panic: %v\n%s", r, debug.Stack())
	}
}
