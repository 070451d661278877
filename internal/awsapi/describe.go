package awsapi

import (
	"maps"
	"slices"
)

// Shape is what a value is, without AWS's protocols: a tree, in which shapes
// that are used twice are the same pointer.
type Shape struct {
	Kind      Kind
	Name      string   // in the model; empty if the shape is none of a model's
	Members   []Member // of a structure, sorted by name
	Union     bool     // exactly one of Members is given
	Item      *Shape   // of lists and maps; map keys are strings
	Enum      []string // the values of a string that the model knows; AWS may know more
	Sensitive bool     // AWS asks not to log it
}

// Member is a member of a structure.
type Member struct {
	Name       string
	Shape      *Shape
	Required   bool // of input; the model need not say all that AWS requires
	Token      bool // an idempotency token, which a call must have
	Deprecated bool
}

// Description is what an operation takes and answers. Input and Output are
// structures, never nil.
type Description struct {
	Input, Output *Shape
	Paginated     bool     // All and Pages know how to go on
	Errors        []string // codes that the model knows, sorted
	ReadOnly      bool     // as far as the model says
	Deprecated    bool
}

// maxDepth bounds a Shape: some hold themselves. What lies deeper is Any.
const maxDepth = 12

// Describe tells what an operation takes and answers.
func (m *Models) Describe(service, operation string) (*Description, error) {
	s, op, err := m.lookup(service, operation)
	if err != nil {
		return nil, err
	}
	d := &Description{Paginated: s.paginator(op) != nil, ReadOnly: op.Readonly || op.HTTP.Method == "GET", Deprecated: op.Deprecated}
	t := &describer{service: s, made: map[place]*Shape{}}
	d.Input, d.Output = t.root(op.Input), t.root(op.Output)
	for _, r := range op.Errors {
		code := r.Shape
		if sh := s.Shapes[r.Shape]; sh != nil && sh.Error.Code != "" {
			code = sh.Error.Code
		}
		d.Errors = append(d.Errors, code)
	}
	slices.Sort(d.Errors)
	return d, nil
}

type place struct {
	shape string
	depth int
}

type describer struct {
	service *service
	made    map[place]*Shape
}

func (t *describer) root(r *ref) *Shape {
	if r == nil {
		return &Shape{Kind: Structure}
	}
	return t.shape(r.Shape, 0)
}

func (t *describer) shape(name string, depth int) *Shape {
	sh := t.service.Shapes[name]
	out := &Shape{Kind: kindOf(sh), Name: name, Union: sh.Union, Enum: sh.Enum, Sensitive: sh.Sensitive}
	if depth >= maxDepth && (out.Kind == Structure || out.Kind == List || out.Kind == Map) {
		return &Shape{Kind: Any, Name: name}
	}
	at := place{name, depth}
	if made := t.made[at]; made != nil {
		return made
	}
	t.made[at] = out
	switch out.Kind {
	case Structure:
		for _, name := range slices.Sorted(maps.Keys(sh.Members)) {
			r := sh.Members[name]
			m := Member{Name: name, Required: slices.Contains(sh.Required, name), Token: r.IdempotencyToken && depth == 0, Deprecated: r.Deprecated}
			if r.JSONValue {
				m.Shape = &Shape{Kind: Any, Name: r.Shape}
			} else {
				m.Shape = t.shape(r.Shape, depth+1)
			}
			out.Members = append(out.Members, m)
		}
	case List:
		out.Item = t.shape(sh.Member.Shape, depth+1)
	case Map:
		out.Item = t.shape(sh.Value.Shape, depth+1)
	}
	return out
}
