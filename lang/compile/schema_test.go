package compile

import (
	"encoding/json"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/almanac-run/almanac/lang/syntax"
	"github.com/google/jsonschema-go/jsonschema"
	"github.com/rogpeppe/go-internal/txtar"
)

func resolved(t *testing.T) *jsonschema.Resolved {
	t.Helper()
	raw, err := Schema(infos())
	if err != nil {
		t.Fatal(err)
	}
	var schema jsonschema.Schema
	if err := json.Unmarshal(raw, &schema); err != nil {
		t.Fatal(err)
	}
	r, err := schema.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// plain is what a YAML reader of an editor makes of a runbook.
func plain(t *testing.T, n *syntax.Node) any {
	t.Helper()
	switch n.Kind {
	case syntax.Null:
		return nil
	case syntax.Bool:
		return strings.EqualFold(n.Value, "true")
	case syntax.Int:
		i, err := strconv.ParseInt(n.Value, 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		return i
	case syntax.Float:
		f, err := strconv.ParseFloat(n.Value, 64)
		if err != nil {
			t.Fatal(err)
		}
		return f
	case syntax.List:
		list := make([]any, len(n.Items))
		for i, item := range n.Items {
			list[i] = plain(t, item)
		}
		return list
	case syntax.Map:
		m := map[string]any{}
		for _, p := range n.Pairs {
			m[p.Key.Value] = plain(t, p.Value)
		}
		return m
	}
	return n.Value
}

// The schema accepts every runbook that the compiler accepts.
func TestSchemaAcceptsAll(t *testing.T) {
	r := resolved(t)
	paths, err := filepath.Glob("testdata/ok/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal("no cases", err)
	}
	for _, path := range paths {
		ar, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range ar.Files {
			if !strings.HasSuffix(f.Name, ".yaml") {
				continue
			}
			root, diags := syntax.Parse(f.Name, f.Data)
			if root == nil {
				t.Fatal(diags)
			}
			if err := r.Validate(plain(t, root)); err != nil {
				t.Errorf("%s: %s: %v", path, f.Name, err)
			}
		}
	}
}

func TestSchemaRejects(t *testing.T) {
	r := resolved(t)
	steps := func(step string) string { return "runbook: x\nsteps: [ " + step + " ]\n" }
	for name, source := range map[string]string{
		"unknown key of the runbook":   "runbook: x\nstepss: []\nsteps: [ { action: noop } ]\n",
		"no steps":                     "runbook: x\n",
		"unknown key of a step":        steps(`{ action: noop, wiht: {} }`),
		"unknown key of an input":      "runbook: x\ninputs: { a: { typ: string } }\nsteps: [ { action: noop } ]\n",
		"input without type":           "runbook: x\ninputs: { a: { default: x } }\nsteps: [ { action: noop } ]\n",
		"unknown action":               steps(`{ action: nope }`),
		"unknown input of an action":   steps(`{ action: cloud.machine.create, with: { image: x, imagee: y } }`),
		"missing input":                steps(`{ action: cloud.machine.create, with: { count: 1 } }`),
		"missing with":                 steps(`{ action: cloud.machine.create }`),
		"wrong type of an input":       steps(`{ action: cloud.machine.create, with: { image: x, count: many } }`),
		"wrong value of an enum":       steps(`{ action: cloud.machine.create, with: { image: x, size: huge } }`),
		"unknown field of an object":   steps(`{ action: cloud.machine.create, with: { image: x, disks: [ { kind: ssd, colour: red } ] } }`),
		"host action without targets":  steps(`{ action: host.service.restart }`),
		"targets on another action":    steps(`{ action: noop, targets: [a] }`),
		"two forms":                    steps(`{ action: noop, run: x }`),
		"no form":                      steps(`{ id: x }`),
		"key of another form":          steps(`{ wait: 5s, with: {} }`),
		"for_each without steps":       steps(`{ action: noop, for_each: [1] }`),
		"unknown key of retry":         steps(`{ action: noop, retry: { attempt: 1 } }`),
		"unknown kind":                 steps(`{ action: noop, retry: { on: [flaky] } }`),
		"unknown key of targets":       steps(`{ run: x, targets: { were: "true" } }`),
		"unknown key of an approval":   steps(`{ approval: { message: x, quorom: 1 } }`),
		"unknown on_timeout":           steps(`{ approval: { message: x, on_timeout: explode } }`),
		"unknown on_failure":           "runbook: x\non_failure: panic\nsteps: [ { action: noop } ]\n",
		"empty list of steps":          "runbook: x\nsteps: []\n",
		"mistake inside a nested step": steps(`{ steps: [ { parallel: { a: [ { action: noop, wiht: {} } ] } } ] }`),
		"mistake inside on_error":      steps(`{ action: noop, on_error: { steps: [ { nope: 1 } ] } }`),
		"retry on a stop":              steps(`{ stop: x, retry: {} }`),
	} {
		t.Run(name, func(t *testing.T) {
			root, diags := syntax.Parse("f", []byte(source))
			if root == nil {
				t.Fatal(diags)
			}
			if r.Validate(plain(t, root)) == nil {
				t.Error("accepted")
			}
			if prog, _ := Compile("f", []byte(source), Options{Actions: infos()}); prog != nil {
				t.Error("the compiler accepts it, so the schema must")
			}
		})
	}
}

// Every key of the language has a description, in the schema an editor reads.
func TestSchemaDescribes(t *testing.T) {
	for _, table := range [][]key{topKeys, inputKeys, commonKeys, retryKeys, onErrorKeys, rollbackStepsKeys, targetsKeys, repeatKeys, approvalKeys} {
		for _, k := range table {
			if k.doc == "" || k.shape == nil {
				t.Errorf("key %s lacks a description or a shape", k.name)
			}
		}
	}
	for _, f := range forms() {
		for _, k := range f.all() {
			if k.doc == "" || k.shape == nil {
				t.Errorf("key %s of %s lacks a description or a shape", k.name, f.lead.name)
			}
		}
	}
}
