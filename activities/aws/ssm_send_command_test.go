package aws

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/simcloud"
)

// node runs what is sent as the SSM agent does: the lines as a script of sh.
type node struct {
	*testing.T
	state string
}

func newNode(t *testing.T) node { return node{t, t.TempDir()} }

type ran struct {
	Exit           int
	Stdout, Stderr string
}

func (n node) deliver(lines []string) ran {
	n.Helper()
	file := filepath.Join(n.TempDir(), "_script.sh")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o700); err != nil {
		n.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", file)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "ALMANAC_STATE_DIR=" + n.state, "COUNT=" + filepath.Join(n.state, "count")}
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); cmd.ProcessState == nil {
		n.Fatal(err)
	}
	return ran{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// count is how often a script has run that does `echo x >>"$COUNT"`.
func (n node) count() int {
	b, _ := os.ReadFile(filepath.Join(n.state, "count"))
	return strings.Count(string(b), "x")
}

const counts = "echo x >>\"$COUNT\"\n"

func TestScriptRunsOnce(t *testing.T) {
	n := newNode(t)
	lines := script{token: testToken, text: counts + "echo out; echo err >&2; exit 3"}.lines()
	want := ran{3, "out\n", "err\n"}
	for range 3 {
		if diff := cmp.Diff(want, n.deliver(lines)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	var wg sync.WaitGroup
	lines = script{token: "b" + testToken[1:], text: counts + "sleep 0.2; echo done"}.lines()
	for range 4 { // delivered again while it runs
		wg.Go(func() {
			if got := n.deliver(lines); got.Exit != 0 || got.Stdout != "done\n" {
				t.Errorf("got %+v", got)
			}
		})
	}
	wg.Wait()
	if n.count() != 2 {
		t.Errorf("ran %d times, want 2", n.count())
	}
}

// What a script leaves running keeps nobody waiting.
func TestScriptLeavesSomethingRunning(t *testing.T) {
	n := newNode(t)
	lines := script{token: testToken, shell: "sh", text: "sleep 20 >/dev/null 2>&1 & echo $!"}.lines()
	first := n.deliver(lines)
	began := time.Now()
	if second := n.deliver(lines); second != first || time.Since(began) > 10*time.Second {
		t.Errorf("%+v, then %+v after %s", first, second, time.Since(began))
	}
	if err := exec.Command("kill", strings.TrimSpace(first.Stdout)).Run(); err != nil {
		t.Error(err)
	}
}

func TestScriptValuesStayData(t *testing.T) {
	hostile := []string{
		"", "plain", "'; touch pwned; '", "$(touch pwned)", "`touch pwned`", "a\nb\n\n", "\\", "\"", "{{ ssm:/secret }}", "-n", "*", "ü €", "%s %d", " lead and trail ", "\t", "it's \\n $HOME",
	}
	for _, shell := range []string{"", "bash", "sh"} {
		n := newNode(t)
		env := map[string]string{"IFS": "x", "almanac": "y", "N": "z"}
		for i, v := range hostile {
			env["V"+string(rune('a'+i))] = v
		}
		dir := filepath.Join(n.state, "a dir'; touch pwned")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		s := script{token: testToken, shell: shell, args: hostile, env: env, dir: dir,
			text: `for a in "$@"; do printf '[%s]' "$a"; done; printf '|'; printf '[%s]' "$Va" "$Vb" "$Vc" "$Vd" "$Ve" "$Vf" "$Vg" "$Vh" "$Vi" "$Vj" "$Vk" "$Vl" "$Vm" "$Vn" "$Vo" "$Vp"; pwd; umask`}
		if err := s.check(); err != nil {
			t.Fatal(err)
		}
		lines := s.lines()
		for _, v := range hostile {
			if len(v) > 3 && strings.Contains(strings.Join(lines, "\n"), v) {
				t.Errorf("%q stands in what is sent", v)
			}
		}
		list := "[" + strings.Join(hostile, "][") + "]"
		if diff := cmp.Diff(ran{0, list + "|" + list + dir + "\n0022\n", ""}, n.deliver(lines)); diff != "" {
			t.Errorf("shell %q (-want +got):\n%s", shell, diff)
		}
		if found, _ := filepath.Glob(filepath.Join(n.state, "*", "pwned")); len(found) > 0 {
			t.Errorf("a value was run: %v", found)
		}
	}
	for _, bad := range []script{
		{env: map[string]string{"A B": ""}}, {env: map[string]string{"A=$(x)": ""}}, {env: map[string]string{"1": ""}},
		{env: map[string]string{"almanac_own": ""}}, {env: map[string]string{"A": "\x00"}}, {args: []string{"\x00"}},
	} {
		if action.KindOf(bad.check()) != action.Invalid {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

func TestScriptEnds(t *testing.T) {
	n := newNode(t)
	for _, tt := range []struct {
		shell, text string
		want        ran
	}{
		{"sh", "false\necho not reached", ran{1, "", ""}},
		{"bash", "false | cat\necho not reached", ran{1, "", ""}},
		{"", "cat; echo no input", ran{0, "no input\n", ""}},
		{"sh", "kill -9 $$", ran{137, "", "Killed\n"}},
		{"python3", "import sys; print(sys.argv[1:]); sys.exit(4)", ran{4, "[]\n", ""}},
	} {
		got := n.deliver(script{token: tt.shell + b64(tt.text), shell: tt.shell, text: tt.text}.lines())
		if tt.want.Stderr == "Killed\n" {
			got.Stderr = tt.want.Stderr // each shell has words of its own
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s %q (-want +got):\n%s", tt.shell, tt.text, diff)
		}
	}
	got := n.deliver(script{token: testToken, shell: "sh", text: "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done"}.lines())
	if len(got.Stdout) > 21000 || !strings.HasPrefix(got.Stdout, "line 0\n") || !strings.HasSuffix(got.Stdout, "line 4999\n") || !strings.Contains(got.Stdout, "the middle is left out") {
		t.Errorf("long output: %d bytes", len(got.Stdout))
	}
}

// By 194 SSM's agent restarts the machine and runs the command again: the answer of
// the second run is the same, and it would never end.
func TestScriptDoesNotRestartTheMachine(t *testing.T) {
	n := newNode(t)
	for _, whole := range []bool{false, true} {
		got := n.deliver(script{token: testToken + fmt.Sprint(whole), shell: "sh", text: "echo x; echo y >&2; exit 194", whole: whole}.lines())
		r := Ran{Stderr: got.Stderr, Output: Place{Bucket: "x"}}
		if r.readBytes(); whole && (r.bytes["stdout"] != 2 || r.bytes["stderr"] != 2) {
			t.Errorf("%q: %v", got.Stderr, r.bytes)
		}
		if code, stderr := exitCode(got.Exit, r.Stderr); got.Exit != 1 || code != 194 || stderr != "y\n" || got.Stdout != "x\n" {
			t.Errorf("%+v: %d, %q", got, code, stderr)
		}
	}
	for _, tt := range []struct {
		told   int
		stderr string
		want   int
	}{{1, "almanac: exit code 0\n", 1}, {0, "almanac: exit code 194\n", 0}, {1, "almanac: exit code 3010\r\nx", 3010}, {1, "x\nalmanac: exit code 194\n", 1}, {3, "", 3}} {
		if code, _ := exitCode(tt.told, tt.stderr); code != tt.want {
			t.Errorf("%+v: %d", tt, code)
		}
	}
}

// One that is safe to repeat by itself is run again if it failed, and not if it did not.
func TestScriptRepeatable(t *testing.T) {
	n := newNode(t)
	s := script{token: testToken, shell: "sh", text: counts + `test "$(wc -l <"$COUNT")" -ge 2`, repeat: true}
	for i, want := range []int{1, 0, 0} {
		if got := n.deliver(s.lines()); got.Exit != want {
			t.Errorf("run %d: %+v", i, got)
		}
	}
	if n.count() != 2 {
		t.Errorf("ran %d times, want 2", n.count())
	}
}

func TestScriptLeavesNoPlaceholder(t *testing.T) {
	for _, s := range []script{{token: testToken}, {token: testToken, shell: "pwsh", user: "nobody", stdin: "x", dir: "/", whole: true}, {token: testToken, home: true, again: true, repeat: true, args: []string{"a"}}} {
		if left := regexp.MustCompile("@[A-Z]+@").FindString(strings.Join(s.lines(), "\n")); left != "" {
			t.Errorf("%+v: %s", s, left)
		}
	}
}

// A script of which nobody knows how it ended is not run again, unless it may be.
func TestScriptUnknown(t *testing.T) {
	n := newNode(t)
	s := script{token: testToken, shell: "sh", text: counts + "echo ended"}
	own := filepath.Join(n.state, "commands", testToken)
	if err := os.MkdirAll(own, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(own, "begun"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := n.deliver(s.lines()); got.Exit != exitUnknown || !strings.HasPrefix(got.Stderr, saysUnknown) || n.count() != 0 {
			t.Errorf("got %+v, ran %d times", got, n.count())
		}
	}
	s.again = true
	if got := n.deliver(s.lines()); got.Exit != 0 || got.Stdout != "ended\n" {
		t.Errorf("got %+v", got)
	}
}

// What is sent to Windows cannot be run here: at least no value stands in it as it is.
func TestPowerShellText(t *testing.T) {
	s := script{token: testToken, text: "Write-Host $env:A '@EXPORT@'", args: []string{"'; Remove-Item x; '", "$(x)"}, env: map[string]string{"A": "`$(calc)`"}, dir: "C:\\a b'"}
	text := strings.Join(s.powershell(), "\n")
	for _, v := range []string{"Remove-Item", "$(x)", "calc", "Write-Host", "C:\\a b", "@TOKEN@", "@SCRIPT@", "@ARGS@", "@EXPORT@", "@AGAIN@", "@EXIT@", "@SAYS@", "@SAYSEXIT@", "@REBOOT@", "@STDOUT@", "@STDERR@"} {
		if strings.Contains(text, v) {
			t.Errorf("%q stands in what is sent", v)
		}
	}
	for _, v := range []string{b64(s.text), b64(s.args[0]), b64(s.env["A"]), b64(s.dir), "SetEnvironmentVariable('A', (Almanac-Text '"} {
		if !strings.Contains(text, v) {
			t.Errorf("%q is missing", v)
		}
	}
}

func shells(results map[string]simcloud.CommandResult) func(*simcloud.Options) {
	return func(o *simcloud.Options) {
		o.Shell = func(_ context.Context, c simcloud.Command) simcloud.CommandResult {
			return results[c.Instance.Tags["role"]]
		}
		o.Agent = func(i simcloud.Instance) simcloud.Agent {
			return map[string]simcloud.Agent{"silent": {Silent: true}, "undeliverable": {Undeliverable: true}, "never": {Never: true}}[i.Tags["role"]]
		}
	}
}

func (w *world) role(name string) string {
	out := w.given("ec2", "RunInstances", map[string]any{"ImageId": w.publicImage(), "InstanceType": "t3.small", "MinCount": 1, "MaxCount": 1, "ClientToken": name,
		"TagSpecifications": []any{map[string]any{"ResourceType": "instance", "Tags": tagList(map[string]string{"role": name, "fleet": "web"})}}})
	return out.list("Instances")[0].text("InstanceId")
}

// SSM calls a command a success that was not delivered to some nodes: each node
// is judged by itself, and named.
func TestCommandIsJudgedByNode(t *testing.T) {
	results := map[string]simcloud.CommandResult{
		"good": {Stdout: "fine\n"}, "bad": {ExitCode: 7, Stdout: "half\n", Stderr: "disk full\n"}, "slow": {Duration: 2 * time.Hour},
		"lost": {ExitCode: exitUnknown, Stderr: saysUnknown + "…\n"},
	}
	tags := map[string]any{"fleet": []any{"web"}}
	for _, tt := range []struct {
		name  string
		nodes []string
		more  map[string]any
		kind  action.Kind // empty: it succeeds
		says  []string    // roles stand for their nodes
	}{
		{"all good", []string{"good"}, nil, "", []string{`"exit_code":0`, `"stdout":"fine"`}},
		{"one is bad", []string{"good", "bad"}, map[string]any{"max_errors": "5"}, action.Failed, []string{"bad", "exit code 7", "disk full", "half"}},
		{"a code that means success", []string{"bad"}, map[string]any{"success_codes": []any{0, 7}}, "", []string{`"exit_code":7`}},
		{"undeliverable", []string{"good", "undeliverable"}, map[string]any{"max_errors": "5"}, action.Unreached, []string{"undeliverable", "Undeliverable"}},
		{"silent", []string{"good", "silent"}, map[string]any{"max_errors": "5", "delivery_timeout": "1m"}, action.Unreached, []string{"silent", "DeliveryTimedOut"}},
		{"slow", []string{"slow"}, nil, action.Failed, []string{"slow", "timed out"}},
		{"unknown", []string{"lost", "good"}, map[string]any{"max_errors": "5"}, action.Unknown, []string{"lost"}},
		{"stopped after the first error", []string{"bad", "good", "silent"}, map[string]any{"max_concurrency": "1", "delivery_timeout": "1m"}, action.Failed, []string{"bad"}},
		{"nobody", nil, nil, action.NotFound, []string{"no managed node"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, func(o *simcloud.Options) {
				o.Delays = simcloud.RealDelays()
				shells(results)(o)
			})
			ids := map[string]string{}
			for _, role := range tt.nodes {
				ids[role] = w.role(role)
			}
			in := with(map[string]any{"target_tags": tags, "script": "true"}, tt.more)
			out, err := w.do("aws.ssm.send_command", 1, in)
			text := string(out)
			if tt.kind != "" {
				wants(t, err, tt.kind)
				text = err.Error()
			} else if err != nil {
				t.Fatal(err)
			}
			for _, s := range tt.says {
				if id, ok := ids[s]; ok {
					s = id
				}
				if !strings.Contains(text, s) {
					t.Errorf("%s does not say %q", text, s)
				}
			}
			if w.effects("command") != 1 {
				t.Errorf("%d commands", w.effects("command"))
			}
			if tt.kind == action.Failed || tt.kind == action.Unreached {
				var e *action.Error
				errors.As(err, &e)
				if detail, err := json.Marshal(e.Detail); err != nil || !strings.Contains(string(detail), `"results":[{"instance_id":"i-`) {
					t.Errorf("detail %s: %v", detail, err)
				}
			}
		})
	}
}

func TestCommandRefused(t *testing.T) {
	w := newWorld(t, shells(nil))
	never := w.role("never")
	_, err := w.do("aws.ssm.send_command", 1, map[string]any{"instance_ids": []any{never}, "script": "true"})
	wants(t, err, action.Unreached, never, "aws.ssm.wait_managed")
	_, err = w.do("aws.ssm.wait_managed", 1, map[string]any{"instance_ids": []any{never}})
	wants(t, err, action.Timeout, never, "has not registered")
	for _, tt := range []struct {
		in   map[string]any
		says string
	}{
		{map[string]any{"script": "true"}, "instance_ids or target_tags"},
		{map[string]any{"instance_ids": []any{never}}, "script or document"},
		{map[string]any{"instance_ids": []any{never}, "script": "true", "document": "x"}, "script or document"},
		{map[string]any{"instance_ids": []any{never}, "document": "x", "env": map[string]any{"A": ""}}, "a document has parameters"},
		{map[string]any{"instance_ids": []any{never}, "script": "x", "parameters": map[string]any{"A": []any{}}}, "a script has args and env"},
		{map[string]any{"instance_ids": []any{never}, "script": "x", "env": map[string]any{"A;": ""}}, "no name of a variable"},
		{map[string]any{"instance_ids": make([]string, 51), "script": "x"}, "51 instances"},
	} {
		_, err := w.do("aws.ssm.send_command", 1, tt.in)
		wants(t, err, action.Invalid, tt.says)
	}
}

func TestCommandDocument(t *testing.T) {
	w := newWorld(t, nil)
	in := map[string]any{"instance_ids": []any{w.role("good")}, "document": "AWS-ConfigureAWSPackage", "parameters": map[string]any{"action": []any{"Install"}, "name": []any{"AmazonCloudWatchAgent"}}}
	out, err := w.do("aws.ssm.send_command", 1, in)
	if err != nil || !strings.Contains(string(out), "was successful") {
		t.Errorf("%s, %v", out, err)
	}
}

// When nobody waits any more the command is cancelled.
func TestCommandCancelled(t *testing.T) {
	w := newWorld(t, func(o *simcloud.Options) {
		shells(map[string]simcloud.CommandResult{"slow": {Duration: 50 * time.Minute}})(o)
	})
	in := map[string]any{"instance_ids": []any{w.role("slow")}, "script": "sleep 3000"}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.env.Sleep = func(ctx context.Context, d time.Duration) error {
		cancel()
		return w.sleep(ctx, d)
	}
	_, err := w.doIn(w.contextOf(ctx, 1), "aws.ssm.send_command", in)
	if err == nil || !strings.Contains(err.Error(), "was cancelled: Cancelled on i-") || !strings.Contains(w.ledger(), "CancelCommand") {
		t.Errorf("%v\n%s", err, w.ledger())
	}
	// And by the compensation, if the worker was gone at that time.
	w = newWorld(t, func(o *simcloud.Options) {
		shells(map[string]simcloud.CommandResult{"slow": {Duration: 50 * time.Minute}})(o)
		o.Faults = []simcloud.Fault{{Operation: "SendCommand", Kind: simcloud.Lose}}
	})
	in = map[string]any{"instance_ids": []any{w.role("slow")}, "script": "sleep 3000"}
	if _, err := w.do("aws.ssm.send_command", 1, in); err == nil {
		t.Fatal("no error")
	}
	if err := w.compensate("aws.ssm.send_command", in, nil); err != nil || !strings.Contains(w.ledger(), "(cancel)") {
		t.Errorf("%v\n%s", err, w.ledger())
	}
}

// By the real clock, with scripts that really run: once on each node, though
// the answer was lost and the command is looked for again.
func TestCommandForReal(t *testing.T) {
	if testing.Short() {
		t.Skip("waits by the real clock")
	}
	t.Parallel()
	dir := t.TempDir()
	w := newWorld(t, func(o *simcloud.Options) {
		o.Clock, o.Sleep, o.Shell = nil, nil, simcloud.RealShell(dir)
		o.Faults = []simcloud.Fault{{Operation: "SendCommand", Kind: simcloud.Lose}}
	})
	w.env.Sleep, w.env.Now = nil, nil
	in := map[string]any{"instance_ids": []any{w.role("a"), w.role("b")}, "env": map[string]any{"TEXT": "it's"}, "args": []any{"$(x)"},
		"script": `echo x >>"$HOME/count"; echo "$TEXT $1 $ALMANAC_STEP"`}
	if _, err := w.do("aws.ssm.send_command", 1, in); err == nil {
		t.Fatal("no error")
	}
	out, err := w.do("aws.ssm.send_command", 2, in)
	if err != nil || strings.Count(string(out), `"stdout":"it's $(x) build.step[3]"`) != 2 {
		t.Errorf("%s, %v", out, err)
	}
	ran, err := filepath.Glob(filepath.Join(dir, "*", "count"))
	if err != nil || len(ran) != 2 {
		t.Errorf("ran on %v, %v", ran, err)
	}
	for _, file := range ran {
		if b, err := os.ReadFile(file); err != nil || string(b) != "x\n" {
			t.Errorf("%s: %q, %v", file, b, err)
		}
	}
}

func TestTail(t *testing.T) {
	for _, tt := range []struct {
		text string
		most int
		want string
	}{{"abc\n", 10, "abc"}, {"one\ntwo\nthree\n", 8, "three"}, {"aüüü", 5, "üü"}, {"", 3, ""}} {
		if got := tail(tt.text, tt.most); got != tt.want {
			t.Errorf("tail(%q, %d) = %q, want %q", tt.text, tt.most, got, tt.want)
		}
	}
}
