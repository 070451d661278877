package expr

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/almanac-run/almanac/lang/program"
)

// objects gives the object types of one scope to CEL's checker, which knows
// them by name. Equal types have one name, so that they are assignable.
type objects struct {
	types []program.Type
	names map[string]string // text of the type → name
}

var secretType = cel.OpaqueType("secret")

// celType returns CEL's type for t.
func (o *objects) celType(t program.Type) *types.Type {
	switch t.Kind {
	case program.String:
		return types.StringType
	case program.Int:
		return types.IntType
	case program.Float:
		return types.DoubleType
	case program.Bool:
		return types.BoolType
	case program.DurationType:
		return types.DurationType
	case program.Timestamp:
		return types.TimestampType
	case program.List:
		return types.NewListType(o.celType(*t.Elem))
	case program.Map:
		return types.NewMapType(types.StringType, o.celType(*t.Elem))
	case program.Secret:
		return secretType
	case program.Object:
		if t.Fields != nil {
			return types.NewObjectType(o.name(t))
		}
	}
	return types.DynType
}

func (o *objects) name(t program.Type) string {
	// The text of a type with many fields (all steps) is long, and it is in one place only.
	var text string
	if len(t.Fields) > 50 {
		text = fmt.Sprintf("%p", t.Fields)
	} else {
		text = t.String()
	}
	if o.names == nil {
		o.names = map[string]string{}
	}
	if o.names[text] == "" {
		o.names[text] = "object" + strconv.Itoa(len(o.types))
		o.types = append(o.types, t)
	}
	return o.names[text]
}

var objectName = regexp.MustCompile(`\bobject(\d+)\b`)

func (o *objects) find(name string) (program.Type, bool) {
	m := objectName.FindStringSubmatch(name)
	if m == nil {
		return program.Type{}, false
	}
	i, err := strconv.Atoi(m[1])
	if err != nil || i >= len(o.types) {
		return program.Type{}, false
	}
	return o.types[i], true
}

// programType returns the runbook's type for one of CEL's: any, if it has none.
func (o *objects) programType(t *types.Type) program.Type {
	switch t.Kind() {
	case types.StringKind:
		return program.Type{Kind: program.String}
	case types.IntKind:
		return program.Type{Kind: program.Int}
	case types.DoubleKind:
		return program.Type{Kind: program.Float}
	case types.BoolKind:
		return program.Type{Kind: program.Bool}
	case types.DurationKind:
		return program.Type{Kind: program.DurationType}
	case types.TimestampKind:
		return program.Type{Kind: program.Timestamp}
	case types.ListKind:
		return program.ListOf(o.programType(t.Parameters()[0]))
	case types.MapKind:
		return program.MapOf(o.programType(t.Parameters()[1]))
	case types.StructKind:
		if p, ok := o.find(t.TypeName()); ok {
			return p
		}
	case types.OpaqueKind:
		if t.TypeName() == "secret" {
			return program.Type{Kind: program.Secret}
		}
	}
	return program.Type{Kind: program.Any}
}

// The rest is CEL's types.Provider.

func (*objects) EnumValue(string) ref.Val         { return types.NewErr("no enums") }
func (*objects) FindIdent(string) (ref.Val, bool) { return nil, false }

func (o *objects) FindStructType(name string) (*types.Type, bool) {
	if _, ok := o.find(name); !ok {
		return nil, false
	}
	return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
}

func (o *objects) FindStructFieldNames(name string) ([]string, bool) {
	t, ok := o.find(name)
	var names []string
	for _, f := range t.Fields {
		names = append(names, f.Name)
	}
	slices.Sort(names)
	return names, ok
}

func (o *objects) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	t, ok := o.find(name)
	if !ok {
		return nil, false
	}
	f, ok := t.Field(field)
	if !ok {
		return nil, false
	}
	return &types.FieldType{Type: o.celType(f.Type)}, true
}

func (*objects) NewValue(name string, _ map[string]ref.Val) ref.Val {
	return types.NewErr("%s cannot be made", name)
}

// isOptional tells whether t is an optional value of some type.
func isOptional(t *types.Type) bool {
	return t.Kind() == types.OpaqueKind && t.TypeName() == "optional_type"
}

// holdsOptional tells whether an optional value is anywhere in a value of type t.
func holdsOptional(t *types.Type) bool {
	return isOptional(t) || slices.ContainsFunc(t.Parameters(), holdsOptional)
}
