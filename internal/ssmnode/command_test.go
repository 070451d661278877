package ssmnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/aws"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/simcloud"
)

// The same actions, the same runbooks: what an author sees of an action is what
// package host says.
func TestActionsAreThoseOfHost(t *testing.T) {
	ours := map[string]action.Info{}
	for _, a := range Actions(Env{}) {
		if _, twice := ours[a.Name]; twice {
			t.Errorf("%s stands there twice", a.Name)
		}
		ours[a.Name] = a.Info
	}
	for _, want := range infos() {
		got, ok := ours[want.Name]
		if !ok {
			t.Errorf("%s is not served on nodes that Systems Manager reaches", want.Name)
			continue
		}
		if (got.Inspect == nil) != (want.Inspect == nil) {
			t.Errorf("%s: Inspect is missing", want.Name)
		}
		got.Inspect, want.Inspect = nil, nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-host +ssm):\n%s", want.Name, diff)
		}
		delete(ours, want.Name)
	}
	for name := range ours {
		t.Errorf("%s is no action of host", name)
	}
}

const counts = `echo x >>"$HOME/count"` + "\n"

func TestCommand(t *testing.T) {
	w := newWorld(t, nil)
	out := w.must("host.command.run", m{
		"script": counts + `pwd; cat; printf '%s|' "$A" "$1" "$ALMANAC_NODE" "$ALMANAC_EXECUTION" "$ALMANAC_STEP" "$ALMANAC_TOKEN"; echo; echo problem >&2`,
		"env":    m{"A": "it's $(rm -rf /) `x`\n\"quoted\" {{ssm:secret}}\n"}, "args": []any{"-n $HOME"}, "stdin": "in\n",
	})
	want := w.home() + "\nin\nit's $(rm -rf /) `x`\n\"quoted\" {{ssm:secret}}\n|-n $HOME|" + w.id + "|deploy-1|load@" + w.id + "|" + token + "|"
	if out["stdout"] != want || out["exit_code"] != 0.0 {
		t.Errorf("%q\nwant %q, %v", out["stdout"], want, out)
	}
	if out["ref"] != "deploy-1/load/"+w.id+".log" || w.kept(out["ref"]) != want+"\nproblem\n" || out["size"] != float64(len(want)+9) {
		t.Errorf("kept %q, %v", w.kept(out["ref"]), out)
	}
	// Asked again, it answers the same and runs nothing.
	w.attempt = 2
	if again := w.must("host.command.run", m{"script": counts}); again["stdout"] != out["stdout"] || w.sent() != 1 {
		t.Errorf("%v, %d sent", again, w.sent())
	}
	if w.file("count") != "x\n" || w.kept(out["ref"]) != want+"\nproblem\n" {
		t.Errorf("ran %q, kept %q", w.file("count"), w.kept(out["ref"]))
	}
	for _, e := range w.cloud.Ledger() {
		if strings.Contains(fmt.Sprint(e), "rm -rf") {
			t.Errorf("a value stands in what is sent: %v", e)
		}
	}
}

func TestCommandFails(t *testing.T) {
	w := newWorld(t, nil)
	_, err := w.do("host.command.run", m{"script": "echo half; echo why >&2; exit 3"})
	wants(t, err, action.Failed, "exit code 3")
	var e *action.Error
	if errors.As(err, &e); e.Detail.(host.CommandDetail).Tail != "half\nwhy" || e.Detail.(host.CommandDetail).ExitCode != 3 {
		t.Errorf("%+v", e.Detail)
	}
	w.token = "b" + token[1:]
	if out := w.must("host.command.run", m{"script": "exit 3", "success_codes": []any{3}}); out["exit_code"] != 3.0 {
		t.Error(out)
	}
	// By 194 SSM's agent would restart the machine, and then run the command again.
	w.token = "c" + token[1:]
	_, err = w.do("host.command.run", m{"script": "echo x >&2; exit 194"})
	wants(t, err, action.Failed, "exit code 194")
	if errors.As(err, &e); e.Detail.(host.CommandDetail).Tail != "x" {
		t.Errorf("%+v", e.Detail)
	}
	if v := w.given("ssm", "ListCommandInvocations", m{"Details": true}); strings.Contains(fmt.Sprint(v), "ResponseCode:194") {
		t.Error("SSM is told 194")
	}
	for _, tt := range []struct {
		in   m
		says string
	}{
		{m{"script": "x", "env": m{"A B": ""}}, "no name of a variable"},
		{m{"script": "x", "env": m{"PASSWORD": m{"$secret": "env:PASSWORD"}}}, "env PASSWORD is a secret"},
		{m{"script": "x", "stdin": m{"$secret": "env:PASSWORD"}}, "stdin is a secret"},
		{m{"script": "x", "env": m{"A": "\x00"}}, "zero byte"},
		{m{"script": "x", "user": "a;b"}, "no name of a user"},
		{m{"script": "# " + strings.Repeat("long ", 20_000)}, "aws.s3.put_object"},
	} {
		before := w.sent()
		_, err := w.do("host.command.run", tt.in)
		wants(t, err, action.Invalid, tt.says)
		if w.sent() != before {
			t.Errorf("%s: a command was sent", tt.says)
		}
	}
}

func TestCommandOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI has to run this as root")
		}
		t.Skip("only root can become another user")
	}
	if _, err := exec.LookPath("runuser"); err != nil {
		t.Skip("there is no runuser")
	}
	w := newWorld(t, nil)
	out := w.must("host.command.run", m{"script": `id -un; echo "$HOME $USER $1 $A"`, "user": "nobody", "args": []any{"$(id)"}, "env": m{"A": "it's"}})
	if !strings.HasPrefix(out["stdout"].(string), "nobody\n/") || !strings.HasSuffix(out["stdout"].(string), " nobody $(id) it's") {
		t.Errorf("%q", out["stdout"])
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "tmp.*", "script")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	w.token = "b" + token[1:]
	_, err := w.do("host.command.run", m{"script": "id", "user": "nosuchuser"})
	wants(t, err, action.Failed, "exit code 1")
}

func TestCommandOnWindows(t *testing.T) {
	var sent []simcloud.Command
	w := newWorld(t, func(o *simcloud.Options) {
		o.Shell = func(_ context.Context, c simcloud.Command) simcloud.CommandResult {
			sent = append(sent, c)
			return simcloud.CommandResult{Stdout: "done\r\n", Duration: 3 * time.Second}
		}
	})
	w.id = w.launch(windowsImage, map[string]string{"Name": "win-1"})
	out := w.must("host.command.run", m{"script": "Get-Date", "env": m{"A": "'; Remove-Item x"}})
	text := strings.Join(sent[0].Script, "\n")
	if out["duration"] != "3s" || sent[0].Document != "AWS-RunPowerShellScript" || strings.Contains(text, "Get-Date") || strings.Contains(text, "Remove-Item") {
		t.Errorf("%v, %s\n%s", out, sent[0].Document, text)
	}
	for _, in := range []m{{"script": "x", "shell": "bash"}, {"script": "x", "stdin": "x"}, {"script": "x", "user": "x"}} {
		_, err := w.do("host.command.run", in)
		wants(t, err, action.Invalid)
	}
	_, err := w.do("host.file.write", m{"path": "/x", "content": ""})
	wants(t, err, action.Invalid, "PowerShell")
	_, err = w.do("host.service.start", m{"name": "x"})
	wants(t, err, action.Invalid, "host.command.run")
}

// What is longer than the API tells comes from where the node puts it.
func TestCompleteOutput(t *testing.T) {
	script := `seq 0 59999 | sed 's/^/line /'; printf end; seq 0 1999 | sed 's/^/problem /' >&2`
	var all strings.Builder
	for i := range 60000 {
		fmt.Fprintf(&all, "line %d\n", i)
	}
	all.WriteString("end\n")
	stdout := all.Len() - 1
	for i := range 2000 {
		fmt.Fprintf(&all, "problem %d\n", i)
	}
	for name, place := range map[string]aws.Place{"S3": {Bucket: "outputs", Prefix: "almanac/runs"}, "S3 without prefix": {Bucket: "outputs"}, "CloudWatch Logs": {LogGroup: "/almanac"}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *simcloud.Options) {
				o.Delays.Command = simcloud.Range{Min: 8 * time.Second, Max: 8 * time.Second}
			})
			w.given("s3", "CreateBucket", m{"Bucket": "outputs"})
			w.env.Output = place
			out := w.must("host.command.run", m{"script": script})
			if got := w.kept(out["ref"]); got != all.String() {
				t.Errorf("kept %d bytes, want %d: %.60q … %.60q", len(got), all.Len(), got, got[max(0, len(got)-60):])
			}
			if out["size"] != float64(all.Len()) {
				t.Errorf("size %v", out["size"])
			}
			excerpt := out["stdout"].(string)
			if !strings.HasPrefix(excerpt, "line 0\n") || !strings.HasSuffix(excerpt, "line 59999\nend") || len(excerpt) > 4200 ||
				!strings.Contains(excerpt, fmt.Sprintf("%d bytes left out", stdout-4096)) {
				t.Errorf("%d bytes: %.80q", len(excerpt), excerpt)
			}
			// An attempt whose answer was lost adds nothing.
			w.attempt = 2
			w.must("host.command.run", m{"script": script})
			if got := w.kept(out["ref"]); len(got) != all.Len() {
				t.Errorf("kept %d bytes after the second attempt", len(got))
			}
		})
	}
	// What the wrapper says in front of standard error is no part of it.
	w := newWorld(t, nil)
	w.env.Output = aws.Place{LogGroup: "/almanac"}
	out := w.must("host.command.run", m{"script": "printf out; printf problem >&2; exit 194", "success_codes": []any{194}})
	if got := w.kept(out["ref"]); got != "out\nproblem" || out["exit_code"] != 194.0 {
		t.Errorf("%q, %v", got, out)
	}
	// Without a place beginning and end are there, and where the rest is.
	w = newWorld(t, nil)
	out = w.must("host.command.run", m{"script": script})
	if got := w.kept(out["ref"]); !strings.HasPrefix(got, "line 0\n") || !strings.Contains(got, "\nline 59999\nend\n") || !strings.Contains(got, "the middle is left out") || !strings.Contains(got, "problem 1999\n") {
		t.Errorf("%.100q", got)
	}
	// A node that may not write there does not make the command a failure.
	w = newWorld(t, nil)
	w.env.Output = aws.Place{Bucket: "nobodys"}
	out = w.must("host.command.run", m{"script": script})
	if got := w.kept(out["ref"]); !strings.HasPrefix(got, "line 0\n") || !strings.Contains(got, "the rest of the output is missing: s3 ListObjectsV2: NoSuchBucket") {
		t.Errorf("%q", got[max(0, len(got)-300):])
	}
}

func agent(a simcloud.Agent) func(*simcloud.Options) {
	return func(o *simcloud.Options) { o.Agent = func(simcloud.Instance) simcloud.Agent { return a } }
}

// Whatever goes wrong, nothing runs twice, and the kind says what is known.
func TestCommandTraps(t *testing.T) {
	lose := func(f simcloud.Fault) func(*simcloud.Options) {
		return func(o *simcloud.Options) { o.Faults = []simcloud.Fault{f} }
	}
	for _, tt := range []struct {
		name   string
		change func(*simcloud.Options)
		kind   action.Kind // of the first attempt; empty: it succeeds
		says   string
		again  action.Kind // of the second attempt
		ran    string      // how often, in x
	}{
		{"late news", func(o *simcloud.Options) {
			o.Delays.Command = simcloud.Range{Min: 10 * time.Second, Max: 10 * time.Second}
		}, "", "", "", "x\n"},
		{"the answer to SendCommand is lost", lose(simcloud.Fault{Operation: "SendCommand", Kind: simcloud.Lose}), action.Unavailable, "", "", "x\n"},
		{"the request is lost", lose(simcloud.Fault{Operation: "SendCommand", Kind: simcloud.Drop}), action.Unavailable, "", "", "x\n"},
		{"the answer is lost, and the news is late", func(o *simcloud.Options) {
			o.Delays.Command = simcloud.Range{Min: 10 * time.Second, Max: 10 * time.Second}
			o.Faults = []simcloud.Fault{{Operation: "SendCommand", Kind: simcloud.Lose}}
		}, action.Unavailable, "", "", "x\n"},
		{"throttled while it waits", lose(simcloud.Fault{Operation: "GetCommandInvocation", Kind: simcloud.Throttle, Times: 5}), "", "", "", "x\n"},
		{"delivered twice", agent(simcloud.Agent{Twice: true}), "", "", "", "x\n"},
		{"undeliverable", agent(simcloud.Agent{Undeliverable: true}), action.Unreached, "Undeliverable", action.Unreached, "-"},
		{"silent", agent(simcloud.Agent{Silent: true}), action.Unreached, "DeliveryTimedOut", action.Unreached, "-"},
		{"it ran, and the node did not say how it ended", agent(simcloud.Agent{Mute: true}), action.Unknown, "DeliveryTimedOut", action.Unknown, "x\n"},
		{"not registered", agent(simcloud.Agent{Never: true}), action.Unreached, "has never registered", action.Unreached, "-"},
		{"SendCommand is refused by what passes", lose(simcloud.Fault{Operation: "SendCommand", Kind: simcloud.Refuse, Code: "InternalServerError"}), action.Unavailable, "", "", "x\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, tt.change)
			check := func(kind action.Kind) {
				t.Helper()
				out, err := w.do("host.command.run", m{"script": counts + "echo done"})
				if kind != "" {
					wants(t, err, kind, tt.says)
				} else if err != nil || out["stdout"] != "done" {
					t.Errorf("%v, %v", out, err)
				}
			}
			check(tt.kind)
			w.attempt = 2
			check(tt.again)
			if got := w.file("count"); got != tt.ran {
				t.Errorf("ran %q, want %q\n%s", got, tt.ran, w.ledger())
			}
		})
	}
}

// Nobody can know how a script ended whose machine is gone; whoever waits is told so soon.
func TestMachineGoesAway(t *testing.T) {
	for _, operation := range []string{"TerminateInstances", "StopInstances"} {
		w := newWorld(t, long)
		real := w.env.AWS.Caller
		var began time.Time // when the machine goes
		w.env.AWS.Caller = callerFunc(func(ctx context.Context, in awsapi.Scope, service, op string, input map[string]any) (map[string]any, error) {
			out, err := real.Call(ctx, in, service, op, input)
			if op == "GetCommandInvocation" && text(out, "Status") == "InProgress" && began.IsZero() {
				began = w.time()
				w.given("ec2", operation, m{"InstanceIds": []any{w.id}})
			}
			return out, err
		})
		_, err := w.do("host.command.run", m{"script": "sleep 10800"})
		wants(t, err, action.Unknown, "the instance is ")
		if took := w.time().Sub(began); took > 3*time.Minute {
			t.Errorf("it took %s", took)
		}
		if !strings.Contains(w.ledger(), "CancelCommand") {
			t.Error("it may begin when the instance is started again")
		}
	}
}

type callerFunc func(context.Context, awsapi.Scope, string, string, map[string]any) (map[string]any, error)

func (f callerFunc) Call(ctx context.Context, in awsapi.Scope, service, operation string, input map[string]any) (map[string]any, error) {
	return f(ctx, in, service, operation, input)
}

// long lets scripts take three hours.
func long(o *simcloud.Options) {
	o.Shell = func(context.Context, simcloud.Command) simcloud.CommandResult {
		return simcloud.CommandResult{Duration: 3 * time.Hour}
	}
}

func TestCommandTakesTooLong(t *testing.T) {
	w := newWorld(t, long)
	_, err := w.do("host.command.run", m{"script": "sleep 10800"})
	wants(t, err, action.Timeout, "ExecutionTimedOut")
}

// If the machine went down while a script ran, nobody knows what it has done: it is
// not run again, unless it may be.
func TestCommandUnknown(t *testing.T) {
	w := newWorld(t, nil)
	own := filepath.Join(w.home(), ".almanac", "commands", token)
	if err := os.MkdirAll(own, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(own, "begun"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := w.do("host.command.run", m{"script": counts})
	wants(t, err, action.Unknown, "began on this node before")
	if w.file("count") != "-" {
		t.Error("it ran")
	}
	w = newWorld(t, nil)
	if err := os.MkdirAll(filepath.Join(w.home(), ".almanac", "commands", token), 0o700); err != nil {
		t.Fatal(err)
	}
	w.put(".almanac/commands/"+token+"/begun", "", 0o600)
	w.must("host.command.run", m{"script": counts, "idempotent": true})
	if w.file("count") != "x\n" {
		t.Errorf("ran %q", w.file("count"))
	}
}

// On cancel the processes on the node end, and that is waited for.
func TestCommandIsCancelled(t *testing.T) {
	if testing.Short() {
		t.Skip("waits by the real clock")
	}
	t.Parallel()
	w := newWorld(t, func(o *simcloud.Options) { o.Clock, o.Sleep, o.Delays = nil, nil, simcloud.Delays{} })
	ctx, cancel := context.WithCancel(w.Context())
	defer cancel()
	go func() {
		for w.file("pid") == "-" {
			time.Sleep(20 * time.Millisecond)
		}
		cancel()
	}()
	_, err := w.doIn(w.contextOf(ctx, action.Target{ID: w.id, Platform: "linux"}), "host.command.run", m{"script": `sleep 300 & echo $! >"$HOME/pid.new"; mv "$HOME/pid.new" "$HOME/pid"; wait`})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "was cancelled: Cancelled on "+w.id) {
		t.Errorf("%v", err)
	}
	pid := strings.TrimSpace(w.file("pid"))
	for range 100 {
		if exec.Command("kill", "-0", pid).Run() != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("process %s still runs", pid)
}

// Cancelled while it was being sent, and the answer is lost: it is found, and stopped.
// A run of Patch Manager goes on.
func TestCancelledAsItIsSent(t *testing.T) {
	for _, tt := range []struct {
		action  string
		in      m
		stopped bool
	}{
		{"host.command.run", m{"script": "sleep 10800"}, true},
		{"host.patch.scan", m{"baseline": security}, false},
	} {
		w := newWorld(t, func(o *simcloud.Options) {
			long(o)
			o.Faults = []simcloud.Fault{{Operation: "SendCommand", Kind: simcloud.Lose}}
		})
		ctx, cancel := context.WithCancel(w.Context())
		defer cancel()
		real := w.env.AWS.Caller
		w.env.AWS.Caller = callerFunc(func(ctx context.Context, in awsapi.Scope, service, op string, input map[string]any) (map[string]any, error) {
			out, err := real.Call(ctx, in, service, op, input)
			if op == "SendCommand" {
				cancel()
			}
			return out, err
		})
		_, err := w.doIn(w.contextOf(ctx, action.Target{ID: w.id, Platform: "linux"}), tt.action, tt.in)
		if err == nil || strings.Contains(w.ledger(), "CancelCommand") != tt.stopped || strings.Contains(err.Error(), "was cancelled: Cancelled on "+w.id) != tt.stopped {
			t.Errorf("%s: %v\n%s", tt.action, err, w.ledger())
		}
	}
}

// A worker that stops leaves the command alone: the next attempt finds it.
func TestWorkerStops(t *testing.T) {
	w := newWorld(t, nil)
	ctx, cancel := context.WithCancel(w.Context())
	defer cancel()
	w.env.AWS.Sleep = func(ctx context.Context, d time.Duration) error {
		cancel()
		return w.sleep(ctx, d)
	}
	in, err := json.Marshal(m{"script": counts})
	if err != nil {
		t.Fatal(err)
	}
	call := action.FromContext(w.context(action.Target{ID: w.id, Platform: "linux"}))
	call.Abandoned = func() bool { return true }
	if _, err := w.find("host.command.run").Do(action.WithCall(ctx, call), in); err == nil {
		t.Error("no error")
	}
	if strings.Contains(w.ledger(), "CancelCommand") || w.sent() != 1 {
		t.Errorf("%d sent\n%s", w.sent(), w.ledger())
	}
	w.attempt, w.env.AWS.Sleep = 2, w.sleep
	w.must("host.command.run", m{"script": counts})
	if w.file("count") != "x\n" {
		t.Errorf("ran %q", w.file("count"))
	}
}
