package program

import (
	"fmt"
	"slices"
	"strings"
)

// TypeKind is the outermost part of a Type.
type TypeKind string

// The kinds of types. Any is what the compiler knows nothing of: checked when
// the expression runs.
const (
	Any          TypeKind = "any"
	String       TypeKind = "string"
	Int          TypeKind = "int" // 64 bits, signed
	Float        TypeKind = "float"
	Bool         TypeKind = "bool"
	DurationType TypeKind = "duration"  // JSON: text as time.ParseDuration reads, with d for days
	Timestamp    TypeKind = "timestamp" // JSON: RFC 3339 text
	List         TypeKind = "list"
	Map          TypeKind = "map"    // keys are strings
	Object       TypeKind = "object" // named fields; without fields, any
	Secret       TypeKind = "secret" // a reference; JSON: {"$secret": "env:NAME"}
)

// Type is the type of an input, an output or an expression. The zero Type is
// not a type. Its text form is what runbooks use: `list<string>`,
// `map<int>`, `object`, `object{id: string, size?: int}`; `?` marks a field
// that may be absent.
type Type struct {
	Kind   TypeKind
	Elem   *Type   // of List and Map; never nil there
	Fields []Field // of Object, in order; nil: any fields of any type
}

// Field is one field of an Object type.
type Field struct {
	Name     string
	Type     Type
	Optional bool
}

// ListOf and MapOf build the types list<elem> and map<elem>.
func ListOf(elem Type) Type { return Type{Kind: List, Elem: &elem} }

// MapOf builds map<elem>.
func MapOf(elem Type) Type { return Type{Kind: Map, Elem: &elem} }

// Field returns the field of that name, and whether there is one.
func (t Type) Field(name string) (Field, bool) {
	for _, f := range t.Fields {
		if f.Name == name {
			return f, true
		}
	}
	return Field{}, false
}

// Holds tells whether t is of a kind, or anything in it.
func (t Type) Holds(kind TypeKind) bool {
	return t.Kind == kind || t.Elem != nil && t.Elem.Holds(kind) ||
		slices.ContainsFunc(t.Fields, func(f Field) bool { return f.Type.Holds(kind) })
}

// String returns the text form.
func (t Type) String() string {
	switch {
	case t.Kind == List || t.Kind == Map:
		if t.Elem == nil {
			return string(t.Kind) + "<any>"
		}
		return string(t.Kind) + "<" + t.Elem.String() + ">"
	case t.Kind == Object && t.Fields != nil:
		var b strings.Builder
		b.WriteString("object{")
		for i, f := range t.Fields {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(f.Name)
			if f.Optional {
				b.WriteByte('?')
			}
			b.WriteString(": ")
			b.WriteString(f.Type.String())
		}
		b.WriteByte('}')
		return b.String()
	}
	return string(t.Kind)
}

// MarshalText writes the text form.
func (t Type) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads the text form.
func (t *Type) UnmarshalText(b []byte) error {
	v, err := ParseType(string(b))
	if err != nil {
		return err
	}
	*t = v
	return nil
}

// maxTypeDepth bounds nesting, so that a hostile type text cannot exhaust the stack.
const maxTypeDepth = 16

// ParseType reads the text form of a type.
func ParseType(text string) (Type, error) {
	p := &typeParser{rest: text}
	t, err := p.parse(0)
	if err != nil {
		return Type{}, err
	}
	if p.space(); p.rest != "" {
		return Type{}, fmt.Errorf("type %q: unexpected %q after the type", text, p.rest)
	}
	return t, nil
}

type typeParser struct{ rest string }

func (p *typeParser) space() { p.rest = strings.TrimLeft(p.rest, " \t") }

func (p *typeParser) take(s string) bool {
	p.space()
	after, ok := strings.CutPrefix(p.rest, s)
	p.rest = after
	return ok
}

func (p *typeParser) word() string {
	p.space()
	n := 0
	for n < len(p.rest) {
		c := p.rest[n]
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			break
		}
		n++
	}
	w := p.rest[:n]
	p.rest = p.rest[n:]
	return w
}

func (p *typeParser) parse(depth int) (Type, error) {
	if depth > maxTypeDepth {
		return Type{}, fmt.Errorf("type is nested more than %d deep", maxTypeDepth)
	}
	word := p.word()
	switch k := TypeKind(word); k {
	case Any, String, Int, Float, Bool, DurationType, Timestamp, Secret:
		return Type{Kind: k}, nil
	case List, Map:
		if !p.take("<") {
			return Type{}, fmt.Errorf("%s needs the type of its elements: %s<string>", k, k)
		}
		elem, err := p.parse(depth + 1)
		if err != nil {
			return Type{}, err
		}
		if !p.take(">") {
			return Type{}, fmt.Errorf("%s<%s lacks its closing >", k, elem)
		}
		return Type{Kind: k, Elem: &elem}, nil
	case Object:
		t := Type{Kind: Object}
		if !p.take("{") {
			return t, nil
		}
		t.Fields = []Field{}
		for !p.take("}") {
			if len(t.Fields) > 0 && !p.take(",") {
				return Type{}, fmt.Errorf("object lacks , or } at %q", p.rest)
			}
			f := Field{Name: p.word()}
			if f.Name == "" {
				return Type{}, fmt.Errorf("object lacks a field name at %q", p.rest)
			}
			if _, dup := t.Field(f.Name); dup {
				return Type{}, fmt.Errorf("object has field %s twice", f.Name)
			}
			f.Optional = p.take("?")
			if !p.take(":") {
				return Type{}, fmt.Errorf("field %s lacks : and its type", f.Name)
			}
			var err error
			if f.Type, err = p.parse(depth + 1); err != nil {
				return Type{}, err
			}
			t.Fields = append(t.Fields, f)
		}
		return t, nil
	}
	return Type{}, fmt.Errorf("unknown type %q; types are string, int, float, bool, duration, timestamp, list<T>, map<T>, object, secret", word)
}
