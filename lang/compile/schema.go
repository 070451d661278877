package compile

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/google/jsonschema-go/jsonschema"
)

// Schema returns the JSON Schema (draft 2020-12) of a runbook's YAML, for
// editors: the keys of the language from the same tables as the checks, the
// inputs of the given actions from their definitions. It accepts every runbook
// that Compile accepts; what needs types or order, only Compile refuses.
func Schema(actions []action.Info) ([]byte, error) {
	root := objectOf(topKeys)
	root.Schema = "https://json-schema.org/draft/2020-12/schema"
	root.Title = "Almanac runbook"
	root.Defs = map[string]*jsonschema.Schema{
		"step":       stepSchema(actions),
		"steps":      {Type: "array", MinItems: jsonschema.Ptr(1), Items: ref("step")},
		"template":   {Type: "string", Pattern: `\$\{\{`, Description: "Text with ${{ … }} expressions in it."},
		"expression": {Type: "string", Pattern: `^\s*\$\{\{[\s\S]*\}\}\s*$`, Description: "One ${{ … }} expression."},
		"name":       {Type: "string", Pattern: nameText.String()},
		"duration":   {Type: "string", Pattern: `^[-+0-9.]|\$\{\{`, Description: "A duration such as 90s, 10m or 1d12h, or an expression that gives one."},
		"rate": {AnyOf: []*jsonschema.Schema{{Type: "integer", Minimum: jsonschema.Ptr(0.0)},
			{Type: "string", Pattern: `^[0-9]{1,3}%$|\$\{\{`}}, Description: "A number, a percentage such as 10%, or an expression that gives one."},
	}
	raw, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	return append(raw, '\n'), nil
}

// shape makes the schema of what may stand on the right of a key.
type shape func() *jsonschema.Schema

func ref(def string) *jsonschema.Schema { return &jsonschema.Schema{Ref: "#/$defs/" + def} }

func of(t string) *jsonschema.Schema { return &jsonschema.Schema{Type: t} }

// either is a literal of some shape, or an expression.
func either(s *jsonschema.Schema) *jsonschema.Schema {
	return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{s, ref("expression")}}
}

func shapeText() *jsonschema.Schema     { return of("string") }
func shapeAny() *jsonschema.Schema      { return &jsonschema.Schema{} }
func shapeList() *jsonschema.Schema     { return of("array") }
func shapeSteps() *jsonschema.Schema    { return ref("steps") }
func shapeName() *jsonschema.Schema     { return ref("name") }
func shapeDuration() *jsonschema.Schema { return ref("duration") }
func shapeRate() *jsonschema.Schema     { return ref("rate") }
func shapeInt() *jsonschema.Schema {
	return either(&jsonschema.Schema{Type: "integer", Minimum: jsonschema.Ptr(1.0)})
}
func shapeNumber() *jsonschema.Schema      { return either(of("number")) }
func shapeBool() *jsonschema.Schema        { return either(of("boolean")) }
func shapeLiteralBool() *jsonschema.Schema { return of("boolean") }
func shapeExpr() *jsonschema.Schema        { return &jsonschema.Schema{Types: []string{"string", "boolean"}} }
func shapeStrings() *jsonschema.Schema {
	return either(&jsonschema.Schema{Type: "array", Items: of("string")})
}
func shapeLock() *jsonschema.Schema {
	return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{of("string"), {Type: "array", Items: of("string"), MinItems: jsonschema.Ptr(1)}}}
}
func shapeCount() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "integer", Minimum: jsonschema.Ptr(1.0)}
}
func shapeScalar() *jsonschema.Schema {
	return &jsonschema.Schema{Types: []string{"string", "number"}}
}
func shapeRates() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "array", MinItems: jsonschema.Ptr(1), Items: ref("rate")}
}
func shapeRunbookName() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Pattern: runbookName.String()}
}
func shapeType() *jsonschema.Schema {
	enum := &jsonschema.Schema{Type: "string"}
	for _, t := range typeNames {
		enum.Enum = append(enum.Enum, t)
	}
	return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{enum, {Type: "string", Pattern: `^\s*(list|map|object)\s*[<{]`}}}
}
func shapeItems() *jsonschema.Schema {
	return either(&jsonschema.Schema{Types: []string{"array", "object"}})
}
func shapeValues() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "object"}
}
func shapeInputs() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "object", PropertyNames: ref("name"), AdditionalProperties: objectOf(inputKeys)}
}
func shapeEnv() *jsonschema.Schema {
	return either(&jsonschema.Schema{Type: "object", AdditionalProperties: of("string")})
}
func shapeBranches() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "object", MinProperties: jsonschema.Ptr(1), PropertyNames: ref("name"), AdditionalProperties: ref("steps")}
}
func shapeOnError() *jsonschema.Schema {
	return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{oneOf("continue"), objectOf(onErrorKeys)}}
}
func shapeRollback() *jsonschema.Schema {
	return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{oneOf("none"), objectOf(rollbackStepsKeys), ref("step")}}
}
func shapeTargets() *jsonschema.Schema {
	return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{shapeStrings(), objectOf(targetsKeys)}}
}
func shapeKinds() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "array", Items: oneOf(kindNames()...)}
}

// shapeActionName is filled in by stepSchema, which knows the actions.
func shapeActionName() *jsonschema.Schema { return of("string") }

func shapeOneOf(values ...string) shape {
	return func() *jsonschema.Schema { return oneOf(values...) }
}

// shapeKeys is a map with the keys of a table. The table is asked for late,
// since tables contain each other.
func shapeKeys(table func() []key) shape {
	return func() *jsonschema.Schema { return objectOf(table()) }
}

func oneOf(values ...string) *jsonschema.Schema {
	s := of("string")
	for _, v := range values {
		s.Enum = append(s.Enum, v)
	}
	return s
}

func never() *jsonschema.Schema { return &jsonschema.Schema{Not: &jsonschema.Schema{}} }

// objectOf is the schema of a map with the keys of a table and no others.
func objectOf(table []key) *jsonschema.Schema {
	s := &jsonschema.Schema{Type: "object", Properties: map[string]*jsonschema.Schema{}, AdditionalProperties: never()}
	for _, k := range table {
		p := k.shape()
		p.Description = k.doc
		s.Properties[k.name] = p
		s.PropertyOrder = append(s.PropertyOrder, k.name)
		if k.required {
			s.Required = append(s.Required, k.name)
		}
	}
	return s
}

// stepSchema is one step: all keys of all forms, exactly one lead key, each key
// only with the forms it belongs to, and `with:` by the action's name.
func stepSchema(actions []action.Info) *jsonschema.Schema {
	var table []key
	owners := map[string][]string{}
	var leads []string
	for _, f := range forms() {
		leads = append(leads, f.lead.name)
		for _, k := range f.all() {
			owners[k.name] = append(owners[k.name], f.lead.name)
			if !slices.ContainsFunc(table, func(o key) bool { return o.name == k.name }) {
				table = append(table, k)
			}
		}
	}
	s := objectOf(table)
	for _, lead := range leads {
		s.OneOf = append(s.OneOf, &jsonschema.Schema{Required: []string{lead}})
	}
	s.DependentSchemas = map[string]*jsonschema.Schema{}
	for name, forms := range owners {
		if len(forms) == len(leads) || slices.Contains(leads, name) {
			continue
		}
		dep := &jsonschema.Schema{}
		for _, lead := range forms {
			dep.AnyOf = append(dep.AnyOf, &jsonschema.Schema{Required: []string{lead}})
		}
		s.DependentSchemas[name] = dep
	}
	for _, a := range actions {
		name := s.Properties["action"]
		name.Enum = append(name.Enum, a.Name)
		is := any(a.Name)
		then := &jsonschema.Schema{Properties: map[string]*jsonschema.Schema{"with": inputsSchema(a)}}
		if slices.ContainsFunc(a.Inputs, func(f action.Field) bool { return f.Required }) {
			then.Required = append(then.Required, "with")
		}
		if a.OnNode() {
			then.Required = append(then.Required, "targets")
		} else {
			then.Properties["targets"] = never()
		}
		s.AllOf = append(s.AllOf, &jsonschema.Schema{
			If:   &jsonschema.Schema{Required: []string{"action"}, Properties: map[string]*jsonschema.Schema{"action": {Const: &is}}},
			Then: then,
		})
	}
	return s
}

// inputsSchema is the `with:` of one action.
func inputsSchema(a action.Info) *jsonschema.Schema {
	s := fieldsSchema(a.Inputs)
	s.Description = a.Summary + "."
	return s
}

func fieldsSchema(fields []action.Field) *jsonschema.Schema {
	s := &jsonschema.Schema{Type: "object", Properties: map[string]*jsonschema.Schema{}, AdditionalProperties: never()}
	for _, f := range fields {
		p := typeSchema(f.Type, f)
		p.Description = f.Summary
		if f.Default != "" {
			p.Description += fmt.Sprintf(" (default %s)", f.Default)
		}
		s.Properties[f.Name] = p
		s.PropertyOrder = append(s.PropertyOrder, f.Name)
		if f.Required {
			s.Required = append(s.Required, f.Name)
		}
	}
	return s
}

// typeSchema is a value of a type, or an expression that gives one.
func typeSchema(t program.Type, f action.Field) *jsonschema.Schema {
	switch t.Kind {
	case program.String:
		if f.Enum != nil {
			return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{oneOf(f.Enum...), ref("template")}}
		}
		return of("string")
	case program.Secret, program.Timestamp:
		return of("string")
	case program.DurationType:
		return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{ref("duration")}}
	case program.Int:
		return either(of("integer"))
	case program.Float:
		return either(of("number"))
	case program.Bool:
		return either(of("boolean"))
	case program.List:
		return either(&jsonschema.Schema{Type: "array", Items: typeSchema(*t.Elem, f)})
	case program.Map:
		return either(&jsonschema.Schema{Type: "object", AdditionalProperties: typeSchema(*t.Elem, f)})
	case program.Object:
		if f.Fields != nil {
			return either(fieldsSchema(f.Fields))
		}
		return either(of("object"))
	}
	return &jsonschema.Schema{}
}
