package runbooks_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/internal/command"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

func TestMain(m *testing.M) {
	command.Main()
	os.Exit(m.Run())
}

// fleet is some nodes, each a directory.
type fleet struct {
	t     *testing.T
	dir   string
	runs  int
	nodes map[string]map[string]action.Action // by node and action name
}

func newFleet(t *testing.T, names ...string) *fleet {
	f := &fleet{t: t, dir: t.TempDir(), nodes: map[string]map[string]action.Action{}}
	for _, name := range names {
		n := host.Node{ID: name, Root: filepath.Join(f.dir, name), StateDir: filepath.Join(f.dir, name+".state")}
		for _, dir := range []string{n.Root, n.StateDir} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		f.nodes[name] = map[string]action.Action{}
		for _, a := range host.Actions(n) {
			f.nodes[name][a.Name] = a
		}
	}
	return f
}

func (f *fleet) write(path, text string, mode os.FileMode) {
	f.t.Helper()
	file := filepath.Join(f.dir, path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) read(path string) string {
	b, err := os.ReadFile(filepath.Join(f.dir, path))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// serve does what the agents of the nodes do.
func (f *fleet) serve(ctx context.Context, args converter.EncodedValues) (json.RawMessage, error) {
	info := activity.GetInfo(ctx)
	name, undo := strings.CutPrefix(info.ActivityType.Name, workflows.CompensatePrefix)
	a, ok := f.nodes[strings.TrimPrefix(info.TaskQueue, workflows.NodeQueue(""))][name]
	if !ok {
		return nil, temporal.NewNonRetryableApplicationError("nobody serves "+name+" on "+info.TaskQueue, "internal", nil)
	}
	var token string
	var input, output json.RawMessage
	ctx = action.WithCall(ctx, action.Call{
		Execution: "test", Step: info.ActivityID, Attempt: int(info.Attempt),
		Heartbeat: func(any) {}, Mask: func(s string) string { return s },
		Reveal: func(context.Context, string) (string, error) { return "", errors.New("no secrets here") },
	})
	call := action.FromContext(ctx)
	if undo {
		if err := args.Get(&token, &input, &output); err != nil {
			return nil, err
		}
		call.Token = token
		return json.RawMessage("null"), failure(a.Compensate(action.WithCall(ctx, call), input, output))
	}
	if err := args.Get(&token, &input); err != nil {
		return nil, err
	}
	call.Token = token
	out, err := a.Do(action.WithCall(ctx, call), input)
	if err != nil {
		return nil, failure(err)
	}
	return json.Marshal(out)
}

func failure(err error) error {
	if err == nil {
		return nil
	}
	var detail any
	if e := new(action.Error); errors.As(err, &e) {
		detail = e.Detail
	}
	return temporal.NewApplicationError(err.Error(), string(action.KindOf(err)), detail)
}

// run runs a shipped runbook on the nodes; what asks for approval gets it.
func (f *fleet) run(name, inputsJSON string) workflows.Result {
	f.t.Helper()
	p := compiled(f.t, name)
	given := map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(inputsJSON), &given); err != nil {
		f.t.Fatal(err)
	}
	inputs, mistakes := program.CheckInputs(p.Inputs, given)
	for _, m := range mistakes {
		f.t.Fatalf("input %s: %s", m.Input, m.Message)
	}
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(log.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	env := suite.NewTestWorkflowEnvironment()
	env.SetTestTimeout(time.Minute)
	env.RegisterDynamicWorkflow(workflows.Runbook, workflow.DynamicRegisterOptions{})
	env.RegisterDynamicActivity(f.serve, activity.DynamicRegisterOptions{})
	env.RegisterDelayedCallback(func() {
		env.UpdateWorkflow(workflows.AnswerApprove, "", &testsuite.TestUpdateCallback{
			OnReject: func(error) {}, OnAccept: func() {}, OnComplete: func(any, error) {},
		}, workflows.Answer{By: "ana"})
	}, time.Minute)
	f.runs++
	env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: fmt.Sprintf("run-%d", f.runs)}) // tokens come from it
	env.ExecuteWorkflow(p.Runbook, workflows.Start{Program: p, Inputs: inputs, Caller: "ana"})
	var r workflows.Result
	err := env.GetWorkflowError()
	if app := new(temporal.ApplicationError); errors.As(err, &app) && app.HasDetails() {
		err = app.Details(&r)
	} else if err == nil {
		err = env.GetWorkflowResult(&r)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// The tour on three nodes: the release is seen, then taken back to the byte.
func TestTourOnNodes(t *testing.T) {
	f := newFleet(t, "web-1", "web-2", "web-3")
	f.write("web-2/www/index.html", "a page of its own\n", 0o640)

	r := f.run("demo/tour", `{}`)
	if r.Outcome != workflows.RolledBack || r.Failure == nil || !strings.Contains(string(r.Failure.Detail), "HTTP 500") {
		t.Errorf("outcome %s, failure %+v", r.Outcome, r.Failure)
	}
	for node, want := range map[string]string{
		"web-1": "Release 1.0, painted grey\n", "web-2": "a page of its own\n", "web-3": "Release 1.0, painted grey\n",
	} {
		if got := f.read(node + "/www/index.html"); got != want {
			t.Errorf("%s serves %q, want %q", node, got, want)
		}
	}
	if info, err := os.Stat(filepath.Join(f.dir, "web-2/www/index.html")); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode of web-2's page: %v, %v", info, err)
	}

	r = f.run("demo/tour", `{"fail": false, "nodes": ["web-1"], "colour": "blue"}`)
	if got := f.read("web-1/www/index.html"); r.Outcome != workflows.Succeeded || !strings.HasPrefix(got, "Release 2.0, painted blue") {
		t.Errorf("outcome %s (%s), web-1 serves %q", r.Outcome, r.Message, got)
	}
}

// A service that counts what it is told, and keeps the configuration it read last.
const service = `#!/bin/sh
cd "$NODE_ROOT"
case $1 in
status) test ! -e down ;;
reload|restart) echo "$1" >> told; cp etc/app.conf running; if grep -q crash running; then touch down; else rm -f down; fi ;;
esac
`

func TestWriteConfigOnNodes(t *testing.T) {
	f := newFleet(t, "a", "b")
	for _, node := range []string{"a", "b"} {
		f.write(node+"/etc/init.d/app", service, 0o755)
		f.write(node+"/etc/app.conf", "old\n", 0o600)
		f.write(node+"/running", "old\n", 0o644)
	}
	const inputs = `{"targets": ["a", "b"], "path": "/etc/app.conf", "service": "app", "validate": "! grep -q wrong .$CONFIG", "content": `
	for _, c := range []struct {
		name, content string
		outcome       workflows.Outcome
		want          string // content, and what the service runs with
	}{
		{"invalid", "wrong\n", workflows.RolledBack, "old\n"},
		{"crashes the service", "crash\n", workflows.RolledBack, "old\n"},
		{"good", "new $(touch pwned) '\n", workflows.Succeeded, "new $(touch pwned) '\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			content, err := json.Marshal(c.content)
			if err != nil {
				t.Fatal(err)
			}
			r := f.run("linux/write-config", inputs+string(content)+"}")
			if r.Outcome != c.outcome {
				t.Errorf("outcome %s (%s), want %s", r.Outcome, r.Message, c.outcome)
			}
			for _, node := range []string{"a", "b"} {
				conf, running := f.read(node+"/etc/app.conf"), f.read(node+"/running")
				if conf != c.want || running != c.want {
					t.Errorf("%s has %q and runs with %q, want %q", node, conf, running, c.want)
				}
				if _, err := os.Stat(filepath.Join(f.dir, node, "down")); err == nil {
					t.Errorf("the service of %s is down", node)
				}
			}
		})
	}
	if info, err := os.Stat(filepath.Join(f.dir, "a/etc/app.conf")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v, %v", info, err)
	}
}

func TestRollingRestartOnNodes(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	for _, node := range []string{"a", "b", "c"} {
		f.write(node+"/etc/init.d/app", service, 0o755)
		f.write(node+"/etc/app.conf", "old\n", 0o600)
	}
	r := f.run("linux/rolling-restart", `{"service": "app", "targets": ["a", "b", "c"], "check": "test -s running", "check_attempts": 2, "check_every": "100ms"}`)
	if r.Outcome != workflows.Succeeded {
		t.Errorf("outcome %s (%s)", r.Outcome, r.Message)
	}
	f.write("b/etc/app.conf", "crash\n", 0o600)
	r = f.run("linux/rolling-restart", `{"service": "app", "targets": ["a", "b", "c"]}`)
	if r.Outcome == workflows.Succeeded {
		t.Errorf("outcome %s (%s)", r.Outcome, r.Message)
	}
	for node, want := range map[string]int{"a": 2, "b": 2, "c": 1} {
		if got := strings.Count(f.read(node+"/told"), "restart"); got != want {
			t.Errorf("%s was restarted %d times, want %d", node, got, want)
		}
	}
}
