package workflows_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/trace"
	"github.com/almanac-run/almanac/lang/compile"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// TestTraces plays each archive of testdata: a runbook (runbook.yaml, with other
// runbooks beside it as NAME.yaml), its inputs, a script of what happens, and
// the trace of calls that is expected. With a script "then", an execution
// follows that takes back what the first has left. Package trace says what a script is.
func TestTraces(t *testing.T) {
	trace.Golden(t, "testdata/*.txtar", func(t *testing.T, _ string, parts map[string]string) string {
		t.Parallel()
		play := trace.Play{
			Program: compileTest(t, parts["runbook.yaml"], parts),
			Inputs:  parts["inputs"],
			Only:    strings.Fields(parts["only"]),
			Script:  parts["script"],
			Then:    parts["then"],
			Answer:  fakeAnswer,
			Silent:  []string{workflows.ActionDescribe}, // all nodes are asked at once
			View:    true,
		}
		whole := play.Run(t)
		play.Cut = true
		if diff := cmp.Diff(whole, play.Run(t)); diff != "" {
			t.Errorf("continue-as-new makes a difference (-without +with):\n%s", diff)
		}
		return whole
	})
}

// fakeAnswer runs the fake actions, and describes three nodes.
func fakeAnswer(ctx context.Context, name, node string, input json.RawMessage) (json.RawMessage, error) {
	switch name {
	case workflows.ActionNodes:
		return json.RawMessage(`{"nodes":["web-2","db-1","web-1"]}`), nil
	case workflows.ActionDescribe:
		role, _, _ := strings.Cut(node, "-")
		return json.RawMessage(fmt.Sprintf(`{"id":%q,"name":%q,"os":"linux","version":"12","arch":"amd64","tags":{"role":%q}}`, node, node, role)), nil
	}
	for _, a := range fakeActions() {
		if a.Name == name {
			out, err := a.Do(ctx, input)
			if err != nil {
				return nil, err
			}
			return json.Marshal(out)
		}
	}
	return nil, fmt.Errorf("no action %s", name)
}

// Fake actions: make creates something that can be taken back, look does not;
// host.thing.make is the same on nodes.
type thing struct {
	Name string `json:"name" jsonschema:"what to make"`
	Size int    `json:"size,omitempty" jsonschema:"how large"`
}
type made struct {
	ID   string `json:"id" jsonschema:"what was made"`
	Size int    `json:"size" jsonschema:"how large it is"`
}

type login struct {
	User     string        `json:"user" jsonschema:"who"`
	Password action.Secret `json:"password,omitzero" jsonschema:"password"`
	Extra    any           `json:"extra,omitempty" jsonschema:"anything else"`
}
type loggedIn struct {
	OK    bool `json:"ok" jsonschema:"whether it worked"`
	Extra any  `json:"extra" jsonschema:"anything else"`
}

func fakeActions() []action.Action {
	do := func(_ context.Context, in thing) (made, error) { return made{ID: in.Name + "-id", Size: in.Size}, nil }
	undo := func(context.Context, thing, *made) error { return nil }
	return []action.Action{
		action.New(action.Def[login, loggedIn]{Name: "test.login", Summary: "Log in",
			Do: func(context.Context, login) (loggedIn, error) { return loggedIn{OK: true}, nil }}),
		action.New(action.Def[thing, made]{Name: "test.make", Summary: "Make a thing", Do: do, Compensate: undo}),
		action.New(action.Def[thing, made]{Name: "test.look", Summary: "Look at a thing", Do: do}),
		action.New(action.Def[thing, made]{Name: "host.thing.make", Summary: "Make a thing on a node", Do: do, Compensate: undo}),
		action.New(action.Def[thing, made]{Name: "host.thing.look", Summary: "Look at a thing on a node", Do: do}),
	}
}

func fakeInfos() (infos []action.Info) {
	for _, a := range fakeActions() {
		infos = append(infos, a.Info)
	}
	return infos
}

// compileTest compiles a runbook with the fake actions; more are its children by name.
func compileTest(t testing.TB, source string, more map[string]string) *program.Program {
	t.Helper()
	p, ds := compile.Compile("runbook.yaml", []byte(source), compile.Options{
		Actions: fakeInfos(),
		Runbook: func(name string) (string, []byte, error) {
			if s, ok := more[name+".yaml"]; ok {
				return name + ".yaml", []byte(s), nil
			}
			return "", nil, fs.ErrNotExist
		},
	})
	for _, d := range ds {
		t.Log(d)
	}
	if p == nil {
		t.Fatal("does not compile")
	}
	return p
}
