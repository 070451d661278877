package action

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/almanac-run/almanac/lang/program"
)

// Info is what is known of an action without running it: plain data, from which
// the checks, the reference page and the JSON Schema come.
type Info struct {
	Name, Summary, Details, Example string
	Timeout                         time.Duration // of one attempt if the step says none
	Compensates                     bool
	Inputs, Outputs                 []Field // in the order of the struct

	Inspect func(in map[string]any) Inspection `json:"-"` // nil if no more is known than the fields say
}

// Later stands among the inputs that Inspect is given for a value that is known
// only when the step runs. Other values are those of JSON, numbers as json.Number.
type Later struct{ Type program.Type }

// Inspection is what there is to say of the inputs of one step, before it runs.
type Inspection struct {
	Problems []Problem
	Output   *program.Type // what this step returns, an object; nil: as the action declares
}

// Problem is a mistake in an input.
type Problem struct {
	Path    []any  // from the inputs inwards: names (string) and places in lists (int)
	Name    bool   // the name at the end of Path is wrong, not its value
	Message string // what was found, what was expected
	Warning bool   // it may do all the same
}

// OnNode tells whether the action runs on a node (`targets:`) and not on the
// control worker: those of the world "host" do.
func (i Info) OnNode() bool { return strings.HasPrefix(i.Name, "host.") }

// OutputType is the type of what the action returns.
func (i Info) OutputType() program.Type { return objectOf(i.Outputs) }

// Field is one input or output.
type Field struct {
	Name     string
	Type     program.Type
	Summary  string
	Default  string   // what an omitted input means, as text; empty if nothing
	Enum     []string // what a string may be; nil: anything
	Required bool     // of an output: always there
	Secret   bool     // may be a secret; of a map: its values may be
	Code     bool     // it is run as it is: what an expression gives must never become part of it
	Fields   []Field  // of an object or a list or map of objects: its fields; nil: open
}

func objectOf(fields []Field) program.Type {
	t := program.Type{Kind: program.Object, Fields: make([]program.Field, 0, len(fields))}
	for _, f := range fields {
		t.Fields = append(t.Fields, program.Field{Name: f.Name, Type: f.Type, Optional: !f.Required})
	}
	return t
}

func fieldsOf(action string, t reflect.Type) []Field {
	if t.Kind() != reflect.Struct {
		panic(fmt.Sprintf("action %s: %s is not a struct", action, t))
	}
	fields := []Field{}
	for i := range t.NumField() {
		sf := t.Field(i)
		if sf.Anonymous && sf.Type.Kind() == reflect.Struct {
			fields = append(fields, fieldsOf(action, sf.Type)...)
			continue
		}
		name, opts, _ := strings.Cut(sf.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		if name == "" || !sf.IsExported() {
			panic(fmt.Sprintf("action %s: field %s of %s needs a json name", action, sf.Name, t))
		}
		f := Field{
			Name:     name,
			Summary:  sf.Tag.Get("jsonschema"),
			Default:  sf.Tag.Get("default"),
			Required: !strings.Contains(opts, "omitempty") && !strings.Contains(opts, "omitzero"),
		}
		if f.Summary == "" {
			panic(fmt.Sprintf("action %s: field %s of %s needs a jsonschema summary", action, sf.Name, t))
		}
		if enum := sf.Tag.Get("enum"); enum != "" {
			f.Enum = strings.Split(enum, ",")
		}
		f.Code = sf.Tag.Get("code") == "true"
		f.Type, f.Fields, f.Secret = typeOf(action, sf.Type)
		fields = append(fields, f)
	}
	return fields
}

var (
	secretType   = reflect.TypeFor[Secret]()
	durationType = reflect.TypeFor[Duration]()
	timeType     = reflect.TypeFor[time.Time]()
	rawType      = reflect.TypeFor[json.RawMessage]()
)

// typeOf maps a Go type to the runbook's; with it the fields of an inner
// struct, and whether it is a Secret.
func typeOf(action string, t reflect.Type) (program.Type, []Field, bool) {
	switch t {
	case secretType:
		return program.Type{Kind: program.String}, nil, true
	case durationType:
		return program.Type{Kind: program.DurationType}, nil, false
	case timeType:
		return program.Type{Kind: program.Timestamp}, nil, false
	case rawType:
		return program.Type{Kind: program.Any}, nil, false
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeOf(action, t.Elem())
	case reflect.String:
		return program.Type{Kind: program.String}, nil, false
	case reflect.Bool:
		return program.Type{Kind: program.Bool}, nil, false
	case reflect.Int, reflect.Int64, reflect.Int32:
		return program.Type{Kind: program.Int}, nil, false
	case reflect.Float64:
		return program.Type{Kind: program.Float}, nil, false
	case reflect.Interface:
		return program.Type{Kind: program.Any}, nil, false
	case reflect.Slice:
		elem, fields, secret := typeOf(action, t.Elem())
		return program.ListOf(elem), fields, secret
	case reflect.Map:
		if t.Key().Kind() == reflect.String {
			elem, fields, secret := typeOf(action, t.Elem())
			return program.MapOf(elem), fields, secret
		}
	case reflect.Struct:
		fields := fieldsOf(action, t)
		return objectOf(fields), fields, false
	}
	panic(fmt.Sprintf("action %s: type %s has no place in a runbook", action, t))
}
