package rehearse

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/lang/syntax"
	"github.com/almanac-run/almanac/workflows"
)

// Suffix is what a file of tests is called after its runbook: NAME.test.yaml.
const Suffix = ".test.yaml"

// File is a NAME.test.yaml.
type File struct {
	Name     string
	Rehearse *Scene // what a rehearsal begins with; nil: nothing
	Tests    []Test
	source   []byte
}

// Test is one case of a File.
type Test struct {
	Name   string
	Scene  Scene
	Expect Expect
	Pos    program.Pos
}

// Expect is what has to come out. What is not said is not looked at.
type Expect struct {
	Outcome    workflows.Outcome
	Failed     string // path of the step that fails
	Message    string // a part of the message
	Outputs    map[string]json.RawMessage
	RolledBack *[]string // all of them, in order
	Left       *[]string // paths of the steps whose work is left
	Trace      *string

	pos      map[string]program.Pos // of each key
	traceKey program.Pos
}

// ParseFile reads a NAME.test.yaml for a compiled runbook, and finds all its
// mistakes. A scene's inputs are checked as those of an execution are.
func ParseFile(name string, source []byte, prog *program.Program) (*File, []syntax.Diagnostic) {
	root, ds := syntax.Parse(name, source)
	if root == nil {
		return nil, ds
	}
	r := &reader{file: name, prog: prog, ds: ds}
	f := &File{Name: name, source: source}
	r.keys(root, "a file of tests", map[string]func(*syntax.Node){
		"rehearse": func(n *syntax.Node) {
			f.Rehearse = &Scene{}
			r.keys(n, "rehearse:", r.sceneKeys(f.Rehearse, false))
			r.inputs(f.Rehearse, n, n.Get("inputs"), true)
		},
		"tests": func(n *syntax.Node) {
			names := map[string]bool{}
			for _, item := range r.list(n) {
				t := r.test(item)
				if names[t.Name] {
					r.errorf(item, "the test %q is there twice", t.Name)
				}
				names[t.Name] = true
				f.Tests = append(f.Tests, t)
			}
		},
	})
	syntax.Sort(r.ds)
	for _, d := range r.ds {
		if d.Severity == syntax.Error {
			return nil, r.ds
		}
	}
	return f, r.ds
}

// reader reads a tree strictly and collects what is wrong with it.
type reader struct {
	file string
	prog *program.Program
	ds   []syntax.Diagnostic
}

func (r *reader) errorf(n *syntax.Node, format string, args ...any) {
	r.ds = append(r.ds, syntax.Diagnostic{Severity: syntax.Error, File: r.file, Pos: n.Pos, Width: n.Width, Code: "test", Message: fmt.Sprintf(format, args...)})
}

// keys reads a map; what is not among the known keys is a mistake.
func (r *reader) keys(n *syntax.Node, of string, known map[string]func(*syntax.Node)) {
	if n.Kind != syntax.Map {
		r.errorf(n, "%s is a map with %s; found a %s", of, strings.Join(sorted(known), ", "), n.Kind)
		return
	}
	for _, p := range n.Pairs {
		read, ok := known[p.Key.Value]
		if !ok {
			hint := "it has " + strings.Join(sorted(known), ", ")
			if near := program.Nearest(p.Key.Value, sorted(known)); near != "" {
				hint = "did you mean " + near + "?"
			}
			r.errorf(p.Key, "%s has no key %s; %s", of, p.Key.Value, hint)
			continue
		}
		read(p.Value)
	}
}

func (r *reader) list(n *syntax.Node) []*syntax.Node {
	if n.Kind != syntax.List {
		r.errorf(n, "have %s, want a list", n.Kind)
		return nil
	}
	return n.Items
}

func (r *reader) text(into *string) func(*syntax.Node) {
	return func(n *syntax.Node) {
		if n.Kind != syntax.String {
			r.errorf(n, "have %s %s, want string; quote it", n.Kind, n.Value)
			return
		}
		*into = n.Value
	}
}

func (r *reader) texts(into *[]string) func(*syntax.Node) {
	return func(n *syntax.Node) {
		*into = []string{}
		for _, item := range r.list(n) {
			var s string
			r.text(&s)(item)
			*into = append(*into, s)
		}
	}
}

func (r *reader) duration(into *time.Duration) func(*syntax.Node) {
	return func(n *syntax.Node) {
		d, err := program.ParseDuration(n.Value)
		if err != nil || n.Kind == syntax.List || n.Kind == syntax.Map {
			r.errorf(n, "want a duration such as 90s or 1h30m")
			return
		}
		*into = d
	}
}

// value is a node as JSON.
func (r *reader) value(n *syntax.Node) json.RawMessage {
	switch n.Kind {
	case syntax.Null:
		return json.RawMessage("null")
	case syntax.Bool:
		return json.RawMessage(strings.ToLower(n.Value))
	case syntax.Int:
		i, err := strconv.ParseInt(strings.TrimPrefix(n.Value, "+"), base10(n.Value), 64)
		if err != nil {
			r.errorf(n, "%s is no int of 64 bits", n.Value)
			return json.RawMessage("0")
		}
		return json.RawMessage(strconv.FormatInt(i, 10))
	case syntax.Float:
		f, err := strconv.ParseFloat(n.Value, 64)
		raw, jsonErr := json.Marshal(f)
		if err != nil || jsonErr != nil {
			r.errorf(n, "%s is no number", n.Value)
			return json.RawMessage("0")
		}
		return raw
	case syntax.List:
		all := []json.RawMessage{}
		for _, item := range n.Items {
			all = append(all, r.value(item))
		}
		return mustJSON(all)
	case syntax.Map:
		return mustJSON(r.fields(n))
	}
	return mustJSON(n.Value)
}

// base10 is the base in which an int is written: 0 is that of its prefix.
func base10(s string) int {
	if strings.HasPrefix(s, "0x") || strings.HasPrefix(s, "0o") {
		return 0
	}
	return 10
}

func (r *reader) fields(n *syntax.Node) map[string]json.RawMessage {
	if n.Kind != syntax.Map {
		r.errorf(n, "have %s, want a map", n.Kind)
	}
	m := map[string]json.RawMessage{}
	for _, p := range n.Pairs {
		m[p.Key.Value] = r.value(p.Value)
	}
	return m
}

func mustJSON(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // of raw JSON, strings, and maps and lists of them
	}
	return raw
}

func (r *reader) test(n *syntax.Node) Test {
	t := Test{Pos: n.Pos}
	known := r.sceneKeys(&t.Scene, true)
	known["name"] = r.text(&t.Name)
	known["expect"] = func(n *syntax.Node) { t.Expect = r.expect(n) }
	r.keys(n, "a test", known)
	if n.Kind == syntax.Map {
		if t.Name == "" {
			r.errorf(n, "the test has no name:")
		}
		r.inputs(&t.Scene, n, n.Get("inputs"), false)
	}
	if t.Scene.People == nil {
		t.Scene.People = []Person{}
	}
	return t
}

func (r *reader) sceneKeys(s *Scene, test bool) map[string]func(*syntax.Node) {
	known := map[string]func(*syntax.Node){
		"inputs": func(*syntax.Node) {}, // see inputs
		"nodes":  func(n *syntax.Node) { s.Nodes = r.nodes(n) },
		"answers": func(n *syntax.Node) {
			if n.Kind != syntax.Map {
				r.errorf(n, "answers: is a map from steps to what they answer; found a %s", n.Kind)
				return
			}
			for _, p := range n.Pairs {
				s.Answers = append(s.Answers, r.answers(p)...)
			}
		},
		"given": func(n *syntax.Node) {
			for _, item := range r.list(n) {
				s.Given = append(s.Given, r.given(item))
			}
		},
		"caller": r.text(&s.Caller),
		"at": func(n *syntax.Node) {
			t, err := program.ParseTimestamp(n.Value)
			if err != nil {
				r.errorf(n, "want a time such as 2026-01-02T03:04:05Z")
			}
			s.At = t
		},
	}
	if test {
		known["people"] = func(n *syntax.Node) {
			s.People = []Person{}
			for _, item := range r.list(n) {
				s.People = append(s.People, r.person(item))
			}
		}
	}
	return known
}

// inputs checks the inputs of a scene. Those of a rehearsal may be completed
// on the command line.
func (r *reader) inputs(s *Scene, scene, n *syntax.Node, partial bool) {
	given := map[string]json.RawMessage{}
	places := map[string]*syntax.Node{}
	if n != nil && n.Kind == syntax.Map {
		for _, p := range n.Pairs {
			given[p.Key.Value], places[p.Key.Value] = r.value(p.Value), p.Value
			for _, in := range r.prog.Inputs {
				var ref string
				if in.Name == p.Key.Value && in.Type.Kind == program.Secret && json.Unmarshal(given[in.Name], &ref) == nil {
					given[in.Name] = mustJSON(map[string]string{"$secret": ref})
				}
			}
		}
	} else if n != nil {
		r.errorf(n, "inputs: is a map; found a %s", n.Kind)
	}
	checked, wrong := program.CheckInputs(r.prog.Inputs, given)
	for _, w := range wrong {
		at, ok := places[w.Input]
		if partial && !ok {
			continue
		}
		if !ok {
			if at = n; at == nil {
				at = scene
			}
		}
		r.errorf(at, "%v", w)
	}
	if s.Inputs = given; !partial {
		s.Inputs = checked
	}
}

func (r *reader) nodes(n *syntax.Node) []Node {
	nodes := []Node{}
	for _, item := range r.list(n) {
		node := Node{OS: "debian", Version: "12", Arch: "amd64", Tags: map[string]string{}}
		if item.Kind == syntax.String {
			node.ID = item.Value
		} else {
			r.keys(item, "a node", map[string]func(*syntax.Node){
				"id": r.text(&node.ID), "name": r.text(&node.Name), "os": r.text(&node.OS), "version": r.text(&node.Version), "arch": r.text(&node.Arch),
				"tags": func(n *syntax.Node) {
					if n.Kind != syntax.Map {
						r.errorf(n, "tags: is a map")
					}
					for _, p := range n.Pairs {
						var v string
						r.text(&v)(p.Value)
						node.Tags[p.Key.Value] = v
					}
				},
			})
		}
		if node.ID == "" {
			r.errorf(item, "a node has an id")
		}
		if node.Name == "" {
			node.Name = node.ID
		}
		nodes = append(nodes, node)
	}
	return nodes
}

func (r *reader) given(n *syntax.Node) Given {
	g := Given{Pos: n.Pos, Input: json.RawMessage("{}")}
	r.keys(n, "what is given", map[string]func(*syntax.Node){
		"call": r.text(&g.Call), "region": r.text(&g.Region), "as": r.text(&g.As),
		"input": func(n *syntax.Node) { g.Input = mustJSON(r.fields(n)) },
	})
	if service, operation, ok := strings.Cut(g.Call, "."); n.Kind == syntax.Map && (!ok || service == "" || operation == "") {
		r.errorf(n, "what is given has call:, such as ec2.CreateLaunchTemplate")
	}
	return g
}

// answers are those of one step: a map, or a list of them that apply in turn.
func (r *reader) answers(p syntax.Pair) []Answer {
	items := []*syntax.Node{p.Value}
	if p.Value.Kind == syntax.List {
		items = p.Value.Items
	}
	var all []Answer
	for _, item := range items {
		a := Answer{Path: p.Key.Value, Pos: p.Key.Pos}
		r.keys(item, "an answer", map[string]func(*syntax.Node){
			"outputs": func(n *syntax.Node) { a.Outputs = mustJSON(r.fields(n)) },
			"takes":   r.duration(&a.Takes),
			"times": func(n *syntax.Node) {
				i, err := strconv.Atoi(n.Value)
				if err != nil || i < 1 {
					r.errorf(n, "times: is a number from 1")
				}
				a.Times = i
			},
			"error": func(n *syntax.Node) {
				var kind string
				r.keys(n, "error:", map[string]func(*syntax.Node){
					"kind": r.text(&kind), "message": r.text(&a.Message),
					"detail": func(n *syntax.Node) { a.Detail = r.value(n) },
				})
				a.Kind = action.Kind(kind)
				if kind == "" {
					a.Kind = action.Failed
				}
				if !slices.Contains(action.Kinds, a.Kind) {
					r.errorf(n, "%s is no kind of error; the kinds are %v", a.Kind, action.Kinds)
				}
			},
		})
		if a.Kind != "" && a.Outputs != nil {
			r.errorf(item, "an answer has outputs or an error, not both")
		}
		all = append(all, a)
	}
	return all
}

var does = []string{
	workflows.AnswerApprove, workflows.AnswerReject, workflows.AnswerResume, workflows.AnswerRetry,
	workflows.AnswerSkip, workflows.AnswerContinue, workflows.AnswerRollback, workflows.AnswerStop, "cancel",
}

func (r *reader) person(n *syntax.Node) Person {
	p := Person{Pos: n.Pos}
	var doesNode *syntax.Node
	r.keys(n, "what a person does", map[string]func(*syntax.Node){
		"step": r.text(&p.Step), "by": r.text(&p.By), "comment": r.text(&p.Comment), "after": r.duration(&p.After),
		"does": func(n *syntax.Node) { doesNode = n; r.text(&p.Does)(n) },
		"with": func(n *syntax.Node) { p.With = r.fields(n) },
	})
	switch {
	case doesNode == nil:
		r.errorf(n, "what a person does has does: one of %s", strings.Join(does, ", "))
	case !slices.Contains(does, p.Does):
		r.errorf(doesNode, "people cannot %s; they %s", p.Does, strings.Join(does, ", "))
	}
	return p
}

var outcomes = []workflows.Outcome{workflows.Succeeded, workflows.Failed, workflows.RolledBack, workflows.RollbackFailed, workflows.Cancelled, workflows.TimedOut}

func (r *reader) expect(n *syntax.Node) Expect {
	e := Expect{pos: map[string]program.Pos{}}
	if n.Kind == syntax.Map {
		for _, p := range n.Pairs {
			e.pos[p.Key.Value] = p.Value.Pos
			if p.Key.Value == "trace" {
				e.traceKey = p.Key.Pos
			}
		}
	}
	r.keys(n, "expect:", map[string]func(*syntax.Node){
		"outcome": func(n *syntax.Node) {
			var s string
			r.text(&s)(n)
			if e.Outcome = workflows.Outcome(s); !slices.Contains(outcomes, e.Outcome) {
				r.errorf(n, "%s is no outcome; the outcomes are %v", s, outcomes)
			}
		},
		"failed": r.text(&e.Failed), "message": r.text(&e.Message),
		"outputs":     func(n *syntax.Node) { e.Outputs = r.fields(n) },
		"rolled_back": func(n *syntax.Node) { e.RolledBack = new([]string); r.texts(e.RolledBack)(n) },
		"left_behind": func(n *syntax.Node) { e.Left = new([]string); r.texts(e.Left)(n) },
		"trace": func(n *syntax.Node) {
			e.Trace = new(string)
			if n.Kind != syntax.Null {
				r.text(e.Trace)(n)
			}
		},
	})
	return e
}
