package host

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/command"
)

func TestMain(m *testing.M) {
	command.Main()
	os.Exit(m.Run())
}

// bench is a node for a test, and the calls it is asked to do.
type bench struct {
	t *testing.T
	Node
}

func newBench(t *testing.T) bench {
	return bench{t, Node{ID: "web-1", StateDir: t.TempDir()}}
}

var secrets = map[string]string{"env:PASSWORD": "hunter2-hunter2"}

func callContext(token string) context.Context {
	return action.WithCall(context.Background(), action.Call{
		Token: token, Execution: "exec-1", Step: "step@web-1", Attempt: 1,
		Heartbeat: func(any) {},
		Reveal: func(_ context.Context, ref string) (string, error) {
			return secrets[ref], nil
		},
		Mask: func(s string) string { return s },
	})
}

// do runs an action by name, as the engine would.
func (b bench) do(ctx context.Context, name string, in any) (map[string]any, error) {
	b.t.Helper()
	out, err := b.action(name).Do(ctx, marshal(b.t, in))
	var m map[string]any
	if err := json.Unmarshal(marshal(b.t, out), &m); err != nil {
		b.t.Fatal(err)
	}
	return m, err
}

func (b bench) action(name string) action.Action {
	b.t.Helper()
	for _, a := range Actions(b.Node) {
		if a.Name == name {
			return a
		}
	}
	b.t.Fatalf("no action %s", name)
	return action.Action{}
}

func marshal(t *testing.T, v any) json.RawMessage {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b bench) log(ref any) string {
	b.t.Helper()
	out, err := os.ReadFile(b.StateDir + "/output/" + ref.(string))
	if err != nil {
		b.t.Fatal(err)
	}
	return string(out)
}

func TestCommandRun(t *testing.T) {
	tests := []struct {
		name   string
		in     map[string]any
		stdout string
		kind   action.Kind // of the error, if one is wanted
		says   string      // in the error or the log
	}{
		{"output", map[string]any{"script": "echo a; sleep 0.1; echo b >&2"}, "a", "", "a\nb\n"},
		{"first failure ends it", map[string]any{"script": "false\necho not here"}, "", action.Failed, "exit code 1"},
		{"pipe fails", map[string]any{"script": "false | cat", "shell": "bash"}, "", action.Failed, "exit code 1"},
		{"sh", map[string]any{"script": "echo $0 | head -c 7", "shell": "sh"}, "/dev/fd", "", ""},
		{"python", map[string]any{"script": "import os\nprint(os.environ['A'])", "shell": "python3", "env": map[string]any{"A": "x"}}, "x", "", ""},
		{"no such shell", map[string]any{"script": "", "shell": "fish"}, "", action.Invalid, "may be bash"},
		{"missing shell", map[string]any{"script": "", "shell": "pwsh"}, "", action.Invalid, "no pwsh"},
		{"arguments", map[string]any{"script": `printf '%s|' "$@"`, "args": []string{"a b", "$(touch pwned)"}}, "a b|$(touch pwned)|", "", ""},
		{"stdin", map[string]any{"script": "cat", "stdin": "in\n"}, "in", "", ""},
		{"no stdin", map[string]any{"script": "cat"}, "", "", ""},
		{"success codes", map[string]any{"script": "exit 3", "success_codes": []int{0, 3}}, "", "", ""},
		{"zero is no success", map[string]any{"script": "exit 0", "success_codes": []int{3}}, "", action.Failed, "exit code 0"},
		{"signal", map[string]any{"script": "kill -9 $$"}, "", action.Failed, "exit code 137 (signal 9)"},
		{"no such user", map[string]any{"script": "id", "user": "nobody-here"}, "", action.Invalid, "no user"},
		{"no such directory", map[string]any{"script": "id", "working_directory": "/nowhere"}, "", action.NotFound, "working_directory /nowhere"},
		{"directory", map[string]any{"script": "pwd", "working_directory": "/usr"}, "/usr", "", ""},
		{"bad variable", map[string]any{"script": "id", "env": map[string]any{"A=B": "x"}}, "", action.Invalid, "no name of a variable"},
		{"own environment is not passed on", map[string]any{"script": "env | grep -c LEAK || true"}, "0", "", ""},
		{"who it is", map[string]any{"script": "echo $ALMANAC_NODE $ALMANAC_EXECUTION"}, "web-1 exec-1", "", ""},
		{"secret is masked", map[string]any{"script": "echo -n hunter2-; sleep 0.1; echo hunter2; echo $S | base64 >&2", "env": map[string]any{"S": map[string]any{"$secret": "env:PASSWORD"}}}, "***", "", "***"},
	}
	t.Setenv("LEAK", "1")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			out, err := b.do(callContext("tok"), "host.command.run", tt.in)
			switch {
			case tt.kind == "" && err != nil:
				t.Fatalf("error %v", err)
			case tt.kind != "" && err == nil:
				t.Fatalf("no error, out %v", out)
			case tt.kind != "":
				if action.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.says) {
					t.Fatalf("error of kind %s: %v; want %s: …%s", action.KindOf(err), err, tt.kind, tt.says)
				}
				return
			}
			if out["stdout"] != tt.stdout {
				t.Errorf("stdout %q, want %q", out["stdout"], tt.stdout)
			}
			log := b.log(out["ref"])
			if !strings.Contains(log, tt.says) {
				t.Errorf("log %q lacks %q", log, tt.says)
			}
			if strings.Contains(log, "hunter2") {
				t.Errorf("log shows the secret: %q", log)
			}
		})
	}
}
