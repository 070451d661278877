package host

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/journal"
	"github.com/almanac-run/almanac/internal/output"
)

// Whatever a value holds, it arrives as it is and never runs.
func TestValuesArriveAndNeverRun(t *testing.T) {
	values := map[string]string{
		"substitution": "$(touch pwned)`touch pwned`",
		"quotes":       `'; touch pwned; echo "`,
		"newlines":     "a\n touch pwned\n\n\n",
		"variables":    "$HOME ${IFS} $0 %s %x \\n",
		"unicode":      "naïve 世界 \u202e",
		"control":      "\x01\x1b[31m\x7f",
		"not UTF-8":    "\xff\xfe",
		"64 KiB":       strings.Repeat("$(touch pwned)'\"\n", 4096),
		"1 MB":         strings.Repeat("$(touch pwned)'\"\n", 65536) + "\n\n",
		"empty":        "",
		"looks like -": "-rf /",
	}
	for _, shell := range []string{"bash", "sh"} {
		for name, value := range values {
			t.Run(shell+" "+name, func(t *testing.T) {
				b := newBench(t)
				dir := t.TempDir()
				secrets["env:VALUE"] = value // as a reference, which keeps bytes that JSON has not
				_, err := b.do(callContext("tok"), "host.command.run", map[string]any{
					"script": `printf %s "$VALUE" > got`, "shell": shell, "working_directory": dir,
					"env": map[string]any{"VALUE": map[string]any{"$secret": "env:VALUE"}},
				})
				if err != nil {
					t.Fatal(err)
				}
				got, _ := os.ReadFile(filepath.Join(dir, "got"))
				if string(got) != value {
					t.Errorf("got %d bytes %.60q, want %d bytes %.60q", len(got), got, len(value), value)
				}
				if files, _ := os.ReadDir(dir); len(files) != 1 {
					t.Errorf("files %v: the value was run", files)
				}
			})
		}
	}
}

// A large value is a file too, for programs that the script starts; many values
// that are large together arrive as well.
func TestLargeValues(t *testing.T) {
	b := newBench(t)
	big := strings.Repeat("0123456789abcde\n", 65536)
	env := map[string]any{"BIG": big}
	for _, c := range "ABCDEFGHIJKLMNOPQRST" {
		env["V_"+string(c)] = big[:60000]
	}
	out, err := b.do(callContext("tok"), "host.command.run", map[string]any{
		"script": "wc -c < $BIG_FILE; cat $BIG_FILE $BIG_FILE | wc -c; echo ${#V_A} ${#V_T}; env | grep -c ^BIG= || true; exit $((LINENO - 1))",
		"shell":  "bash", "env": env,
	})
	if err != nil || out["stdout"] != "1048576\n2097152\n60000 60000\n0" {
		t.Fatalf("stdout %q, error %v", out["stdout"], err)
	}
	out, err = b.do(callContext("tok2"), "host.command.run", map[string]any{
		"script": "import os\nprint(len(open(os.environ['BIG_FILE']).read()))", "shell": "python3", "env": map[string]any{"BIG": big},
	})
	if err != nil || out["stdout"] != "1048576" {
		t.Fatalf("stdout %q, error %v", out["stdout"], err)
	}
}

func TestCommandFailureDetail(t *testing.T) {
	b := newBench(t)
	_, err := b.do(callContext("tok"), "host.command.run", map[string]any{"script": "seq 1 100; exit 9"})
	var e *action.Error
	if !errors.As(err, &e) || e.Kind != action.Failed {
		t.Fatalf("error %v", err)
	}
	want := CommandDetail{ExitCode: 9, Ref: "exec-1/step/web-1.log", Size: 292,
		Tail: "81\n82\n83\n84\n85\n86\n87\n88\n89\n90\n91\n92\n93\n94\n95\n96\n97\n98\n99\n100"}
	if diff := cmp.Diff(want, e.Detail); diff != "" {
		t.Errorf("detail (-want +got):\n%s", diff)
	}
	if got := string(marshal(t, e.Detail)); !strings.HasPrefix(got, `{"exit_code":9,"tail":"81\n`) || !strings.HasSuffix(got, `,"ref":"exec-1/step/web-1.log","size":292}`) {
		t.Errorf("JSON %s", got)
	}
}

// ssh and others exit with 255: that is no signal.
func TestExitCodeIsNoSignal(t *testing.T) {
	b := newBench(t)
	_, err := b.do(callContext("tok"), "host.command.run", map[string]any{"script": "exit 255"})
	if err == nil || err.Error() != "exit code 255" {
		t.Errorf("error %v", err)
	}
}

func TestCommandCancelAndTimeout(t *testing.T) {
	tests := []struct {
		name string
		ctx  func(context.Context) (context.Context, context.CancelFunc)
		kind action.Kind
	}{
		{"cancel", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(300*time.Millisecond, cancel)
			return ctx, cancel
		}, action.Cancelled},
		{"timeout", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 300*time.Millisecond)
		}, action.Timeout},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			ctx, cancel := tt.ctx(callContext("tok"))
			defer cancel()
			begin := time.Now()
			_, err := b.do(ctx, "host.command.run", map[string]any{"script": "echo here; sleep 100 & sleep 100"})
			var e *action.Error
			if !errors.As(err, &e) || e.Kind != tt.kind {
				t.Fatalf("error %v, want kind %s", err, tt.kind)
			}
			if d := e.Detail.(CommandDetail); d.Tail != "here" {
				t.Errorf("detail %+v", d)
			}
			if took := time.Since(begin); took > 4*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestCommandUnknown(t *testing.T) {
	b := newBench(t)
	entry, err := b.Journal().Entry("tok")
	if err != nil {
		t.Fatal(err)
	}
	started := journal.Record{State: journal.Started, Run: 1, BootID: "another", Ref: output.Ref("exec-1", "step", "web-1")}
	if err := entry.SetRecord(started); err != nil {
		t.Fatal(err)
	}
	marker := filepath.Join(t.TempDir(), "ran")
	in := map[string]any{"script": "touch " + marker}
	if _, err := b.do(callContext("tok"), "host.command.run", in); action.KindOf(err) != action.Unknown {
		t.Fatalf("error %v, want kind unknown", err)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Fatal("it was run again")
	}
	in["idempotent"] = true
	if _, err := b.do(callContext("tok"), "host.command.run", in); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(marker); err != nil {
		t.Fatal("an idempotent command was not run again")
	}
}

func TestCommandStopping(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	stopping := make(chan struct{})
	b.Stopping = stopping
	in := map[string]any{"script": "touch began; until test -e go; do sleep 0.02; done; echo end", "working_directory": dir}
	time.AfterFunc(300*time.Millisecond, func() { close(stopping) })
	if _, err := b.do(callContext("tok"), "host.command.run", in); action.KindOf(err) != action.Lost {
		t.Fatalf("error %v, want kind lost", err)
	}
	os.WriteFile(filepath.Join(dir, "go"), nil, 0o600)
	b.Stopping = nil
	out, err := b.do(callContext("tok"), "host.command.run", in)
	if err != nil || out["stdout"] != "end" {
		t.Fatalf("out %v, error %v", out, err)
	}
}

func TestCommandInRoot(t *testing.T) {
	b := newBench(t)
	b.Root = t.TempDir()
	os.MkdirAll(filepath.Join(b.Root, "bin"), 0o755)
	os.MkdirAll(filepath.Join(b.Root, "srv"), 0o755)
	os.WriteFile(filepath.Join(b.Root, "bin", "hello"), []byte("#!/bin/sh\necho hello from $PWD\n"), 0o755)
	os.Symlink("/etc", filepath.Join(b.Root, "out"))
	tests := []struct{ dir, stdout, kind string }{
		{"", "hello from " + b.Root + " " + b.Root + " " + b.Root, ""},
		{"/srv", "hello from " + b.Root + "/srv " + b.Root + " " + b.Root, ""},
		{"srv", "hello from " + b.Root + "/srv " + b.Root + " " + b.Root, ""},
		{"../../srv", "hello from " + b.Root + "/srv " + b.Root + " " + b.Root, ""},
		{"/out", "", "failed"},
		{"/nowhere", "", "not_found"},
	}
	for i, tt := range tests {
		out, err := b.do(callContext("tok"+string(rune('a'+i))), "host.command.run",
			map[string]any{"script": `echo "$(hello) $HOME $NODE_ROOT"`, "working_directory": tt.dir})
		switch {
		case tt.kind != "" && (err == nil || string(action.KindOf(err)) != tt.kind):
			t.Errorf("directory %q: error %v, want kind %s", tt.dir, err, tt.kind)
		case tt.kind == "" && (err != nil || out["stdout"] != tt.stdout):
			t.Errorf("directory %q: stdout %q, error %v, want %q", tt.dir, out["stdout"], err, tt.stdout)
		}
	}
}

func TestCommandUser(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") != "true" {
		t.Skip("only root can run commands as somebody else")
	}
	b := newBench(t)
	big := strings.Repeat("x", 100000)
	out, err := b.do(callContext("tok"), "host.command.run", map[string]any{
		"script": `id -un; echo "$USER $LOGNAME"; wc -c < $BIG_FILE; cat`, "user": "nobody", "working_directory": "/",
		"env": map[string]any{"BIG": big}, "stdin": "in",
	})
	if err != nil || out["stdout"] != "nobody\nnobody nobody\n100000\nin" {
		t.Fatalf("stdout %q, error %v", out["stdout"], err)
	}
}

func TestExamplesNameTheirAction(t *testing.T) {
	for _, a := range Actions(Node{}) {
		if !strings.Contains(a.Example, "action: "+a.Name+"\n") && !strings.HasSuffix(a.Example, "action: "+a.Name) {
			t.Errorf("%s: its example does not use it:\n%s", a.Name, a.Example)
		}
	}
}
