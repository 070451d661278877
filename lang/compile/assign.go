package compile

import (
	"fmt"

	"github.com/almanac-run/almanac/lang/program"
)

// mismatch says why a value of type have cannot stand where want is expected;
// "" if it can. `any` fits everywhere: it is checked when the expression runs.
func mismatch(have, want program.Type) string {
	if have.Kind == program.Any || want.Kind == program.Any && have.Kind != program.Secret {
		return ""
	}
	plain := fmt.Sprintf("have %s, want %s", have, want)
	switch {
	case have.Kind == program.Int && want.Kind == program.Float:
		return ""
	case have.Kind == program.Object && want.Kind == program.Map:
		for _, f := range have.Fields {
			if mismatch(f.Type, *want.Elem) != "" {
				return plain
			}
		}
		return ""
	case have.Kind == program.Map && want.Kind == program.Object:
		// Which keys it has is not known: those it must have can be checked.
		for _, f := range want.Fields {
			if !f.Optional && mismatch(*have.Elem, f.Type) != "" {
				return plain
			}
		}
		return ""
	case have.Kind != want.Kind:
		return plain
	case have.Kind == program.List || have.Kind == program.Map:
		if mismatch(*have.Elem, *want.Elem) != "" {
			return plain
		}
	case have.Kind == program.Object && have.Fields != nil && want.Fields != nil:
		for _, f := range want.Fields {
			g, ok := have.Field(f.Name)
			switch {
			case !ok && !f.Optional:
				return fmt.Sprintf("%s; it lacks %s", plain, f.Name)
			case ok && g.Optional && !f.Optional:
				return fmt.Sprintf("%s; its %s may be absent", plain, f.Name)
			case ok && mismatch(g.Type, f.Type) != "":
				return fmt.Sprintf("%s; its %s is %s", plain, f.Name, article(g.Type))
			}
		}
		for _, g := range have.Fields {
			if _, ok := want.Field(g.Name); !ok {
				return fmt.Sprintf("%s; there is no field %s", plain, g.Name)
			}
		}
	}
	return ""
}

// join is the type of a list's elements: theirs if they agree, else any.
func join(types []program.Type) program.Type {
	if len(types) == 0 {
		return anyType
	}
	first := types[0].String()
	for _, t := range types[1:] {
		if t.String() != first {
			return anyType
		}
	}
	return types[0]
}

// article puts "a" or "an" before a type.
func article(t program.Type) string {
	switch t.Kind {
	case program.Any:
		return "any value"
	case program.Int, program.Object:
		return "an " + t.String()
	}
	return "a " + t.String()
}
