package aws

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/lang/program"
)

// inspectCall holds the inputs of aws.call against AWS's model, before anything
// runs, and tells what the operation answers.
func (e Env) inspectCall(in map[string]any) (found action.Inspection) {
	service, known := in["service"].(string)
	models, err := e.models()
	if !known || err != nil {
		return found // an expression; what is wrong shows when it runs
	}
	wrong := func(input string, err error) action.Inspection {
		message := err.Error()
		if known, ok := errors.AsType[*awsapi.Error](err); ok {
			message = known.Message
		}
		return action.Inspection{Problems: []action.Problem{{Path: []any{input}, Message: message}}}
	}
	if _, err := models.Operations(service); err != nil {
		return wrong("service", err)
	}
	operation, known := in["operation"].(string)
	if !known {
		return found
	}
	about, err := models.Describe(service, operation)
	if err != nil {
		return wrong("operation", err)
	}
	if paginate, _ := in["paginate"].(bool); paginate && !about.Paginated {
		found.Problems = append(found.Problems, action.Problem{Path: []any{"paginate"}, Message: service + " " + operation + " has no pages"})
	}
	input, known := in["input"].(map[string]any)
	if known || in["input"] == nil {
		for _, p := range models.Check(service, operation, foreseen(input).(map[string]any)) {
			found.Problems = append(found.Problems, action.Problem{Path: append([]any{"input"}, steps(p.Path, input)...), Name: p.Name,
				Message: service + " " + operation + ": " + p.String(), Warning: p.Warning})
		}
	}
	found.Output = &program.Type{Kind: program.Object, Fields: []program.Field{{Name: "output", Type: answerType(about.Output)}}}
	return found
}

// foreseen is an input with awsapi's mark for what is known later.
func foreseen(v any) any {
	switch v := v.(type) {
	case action.Later:
		return awsapi.Unknown{Type: shapeOf(v.Type)}
	case []any:
		all := make([]any, len(v))
		for i := range v {
			all[i] = foreseen(v[i])
		}
		return all
	case map[string]any:
		all := map[string]any{}
		for name := range v {
			all[name] = foreseen(v[name])
		}
		return all
	}
	return v
}

// steps takes a path such as "Filters[0].Name" apart. A name may hold dots itself: what is
// given tells where it ends.
func steps(path string, given any) []any {
	var all []any
	for path != "" {
		if rest, ok := strings.CutPrefix(path, "["); ok {
			index, after, _ := strings.Cut(rest, "]")
			i, _ := strconv.Atoi(index)
			if list, _ := given.([]any); i < len(list) {
				given = list[i]
			}
			all, path = append(all, i), strings.TrimPrefix(after, ".")
			continue
		}
		end := strings.IndexAny(path, ".[")
		if end < 0 {
			end = len(path)
		}
		name := path[:end]
		members, _ := given.(map[string]any)
		for known := range members {
			if rest, ok := strings.CutPrefix(path, known); ok && len(known) > len(name) && (rest == "" || rest[0] == '.' || rest[0] == '[') {
				name = known
			}
		}
		given = members[name]
		all, path = append(all, name), strings.TrimPrefix(path[len(name):], ".")
	}
	return all
}

var shapes = map[program.TypeKind]awsapi.Kind{
	program.String: awsapi.String, program.DurationType: awsapi.String, program.Int: awsapi.Int, program.Float: awsapi.Float,
	program.Bool: awsapi.Bool, program.Timestamp: awsapi.Timestamp, program.List: awsapi.List, program.Map: awsapi.Map,
}

// shapeOf is what AWS may be given for a value of a type; nil is anything.
func shapeOf(t program.Type) *awsapi.Shape {
	if t.Kind == program.Object && t.Fields != nil {
		s := &awsapi.Shape{Kind: awsapi.Structure}
		for _, f := range t.Fields {
			s.Members = append(s.Members, awsapi.Member{Name: f.Name, Shape: shapeOf(f.Type), Required: !f.Optional})
		}
		return s
	}
	kind, ok := shapes[t.Kind]
	if !ok {
		return nil
	}
	s := &awsapi.Shape{Kind: kind}
	if t.Elem != nil {
		s.Item = shapeOf(*t.Elem)
	}
	return s
}

// answerFields bounds the type of an answer: what lies behind so many members is
// of any type.
const answerFields = 2000

// answerType is what expressions know of an answer. Nothing in it is marked as
// optional, though AWS leaves out what it has not: a guard for each member would
// be most of a runbook. has() tells, and to read what is absent fails the step.
func answerType(s *awsapi.Shape) program.Type {
	left := answerFields
	return (&typer{left: &left}).of(s)
}

type typer struct {
	left *int
	in   []string // the structures around
}

func (t *typer) of(s *awsapi.Shape) program.Type {
	switch {
	case s == nil || s.Sensitive || slices.Contains(t.in, s.Name):
		return program.Type{Kind: program.Any}
	case s.Kind == awsapi.Structure:
		if *t.left -= len(s.Members); *t.left < 0 {
			return program.Type{Kind: program.Object}
		}
		inner := &typer{left: t.left, in: append(slices.Clip(t.in), s.Name)}
		out := program.Type{Kind: program.Object, Fields: []program.Field{}}
		for _, m := range s.Members {
			out.Fields = append(out.Fields, program.Field{Name: m.Name, Type: inner.of(m.Shape)})
		}
		return out
	case s.Kind == awsapi.List:
		return program.ListOf(t.of(s.Item))
	case s.Kind == awsapi.Map:
		return program.MapOf(t.of(s.Item))
	case s.Kind == awsapi.Blob: // in base64
		return program.Type{Kind: program.String}
	}
	for of, kind := range shapes {
		if kind == s.Kind && of != program.DurationType {
			return program.Type{Kind: of}
		}
	}
	return program.Type{Kind: program.Any}
}
