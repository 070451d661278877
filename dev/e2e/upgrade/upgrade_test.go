// Package upgrade tests upgrades with the programs that users run: workers of two
// versions, one of which the other cannot follow, serve executions that are open
// while the versions change.
//
// Its promises: an execution ends on the version it began on and does each thing
// once, whatever is current meanwhile; an operator sees what waits for a version
// that is gone, and has a way out; a version that cannot follow is noticed and does
// no harm. ALMANAC_LONG=1 adds the version of some commits ago.
package upgrade

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"

	"github.com/almanac-run/almanac/dev/server"
	"github.com/almanac-run/almanac/internal/node"
	"github.com/almanac-run/almanac/workflows"
)

func TestMain(m *testing.M) {
	node.ExecMain()
	role := map[string]func() error{"worker": freshWorker, "memo": printMemo}[os.Getenv("UPGRADE_ROLE")]
	if role == nil {
		os.Exit(m.Run())
	}
	if err := role(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// root is the repository.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", "..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// build builds programs from the tree at dir, with some text of some files replaced.
func build(t *testing.T, dir string, programs []string, changes map[string][2]string) string {
	t.Helper()
	out, err := tryBuild(t, dir, programs, changes)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryBuild(t *testing.T, dir string, programs []string, changes map[string][2]string) (string, error) {
	t.Helper()
	out := t.TempDir()
	args := []string{"build", "-buildvcs=false", "-o", out + "/"}
	if len(changes) > 0 {
		args = append(args, "-overlay", overlaid(t, dir, changes))
	}
	for _, p := range programs {
		args = append(args, "./"+p)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, text)
	}
	return out, nil
}

// overlaid writes the file of go's -overlay by which text of some files is another. Each text is there once.
func overlaid(t *testing.T, dir string, changes map[string][2]string) string {
	t.Helper()
	replace := map[string]string{}
	for file, change := range changes {
		path := filepath.Join(dir, filepath.FromSlash(file))
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(text), change[0]) != 1 {
			t.Fatalf("%s has not once %q: the planted difference needs another place", file, change[0])
		}
		changed := filepath.Join(t.TempDir(), filepath.Base(file))
		if err := os.WriteFile(changed, []byte(strings.Replace(string(text), change[0], change[1], 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[path] = changed
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// another makes an interpreter that does the same in another way: ids of activities differ, and an execution that one
// has begun the other cannot follow.
var another = map[string][2]string{"workflows/call.go": {"\tid := path\n\tif node", "\tid := \"n-1:\" + path\n\tif node"}}

// house is a server and what runs beside it.
type house struct {
	t            *testing.T
	dir, address string
	starter      string // folder of the program
}

func settle(t *testing.T, starter string) *house {
	t.Helper()
	srv, err := server.Start(t.Context(), server.Options{File: filepath.Join(t.TempDir(), "db"), Dynamic: map[string]any{
		// What drains is looked at every three minutes otherwise.
		"matching.wv.VersionDrainageStatusVisibilityGracePeriod": "2s",
		"matching.wv.VersionDrainageStatusRefreshInterval":       "2s",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Stop() })
	return &house{t: t, dir: t.TempDir(), address: srv.Address(), starter: starter}
}

func (h *house) environment() []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "ALMANAC_") || strings.HasPrefix(v, "TEMPORAL_")
	})
	return append(env, "ALMANAC_INSECURE=1", "TEMPORAL_ADDRESS="+h.address, "TEMPORAL_CONFIG_FILE=/nonexistent", "ALMANAC_CALLER=ana")
}

// a process of ours.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  string
	dead bool
}

// start runs a program of a folder until the test ends or it is stopped.
func (h *house) start(folder, program string, args ...string) *process {
	h.t.Helper()
	log, err := os.CreateTemp(h.dir, program+"-*.log")
	if err != nil {
		h.t.Fatal(err)
	}
	p := &process{t: h.t, cmd: exec.Command(filepath.Join(folder, program), args...), log: log.Name()}
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = h.dir, h.environment(), log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := p.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	log.Close()
	h.t.Cleanup(func() {
		p.end(syscall.SIGTERM)
		if h.t.Failed() {
			text, _ := os.ReadFile(p.log)
			h.t.Logf("%s %s:\n%s", program, strings.Join(args, " "), last(string(text), 4000))
		}
	})
	return p
}

func (p *process) end(s syscall.Signal) {
	if !p.dead {
		p.dead = true
		_ = p.cmd.Process.Signal(s)
		_ = p.cmd.Wait()
	}
}

func last(s string, n int) string { return s[max(0, len(s)-n):] }

// known leaves out flags that a program of an older version does not have, with their values.
func known(t *testing.T, folder, program string, pairs ...string) []string {
	t.Helper()
	help, err := exec.Command(filepath.Join(folder, program), "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, help)
	}
	var args []string
	for i := 0; i < len(pairs); i += 2 {
		if strings.Contains(string(help), pairs[i]+" ") {
			args = append(args, pairs[i], pairs[i+1])
		}
	}
	return args
}

func (h *house) worker(folder, build string) *process {
	h.t.Helper()
	args := known(h.t, folder, "worker", "--inventory", filepath.Join(h.dir, "inventory-"+build+".db"))
	if build != "" {
		args = append(args, "--deployment", "almanac", "--build-id", build)
	}
	return h.start(folder, "worker", args...)
}

func (h *house) agent(folder, id string) *process {
	h.t.Helper()
	state := filepath.Join(h.dir, "state-"+id)
	if err := os.MkdirAll(state, 0o700); err != nil {
		h.t.Fatal(err)
	}
	return h.start(folder, "agent", known(h.t, folder, "agent", "--id", id, "--state-dir", state, "--ec2-metadata", "off")...)
}

func (h *house) run(args ...string) (int, string) {
	h.t.Helper()
	cmd := exec.Command(filepath.Join(h.starter, "starter"), args...)
	cmd.Dir, cmd.Env = h.dir, h.environment()
	out, _ := cmd.CombinedOutput() // the exit code is looked at
	return cmd.ProcessState.ExitCode(), string(out)
}

func (h *house) must(args ...string) string {
	h.t.Helper()
	code, out := h.run(args...)
	if code != 0 {
		h.t.Fatalf("starter %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// wait waits until a command prints something.
func (h *house) wait(want string, args ...string) string {
	h.t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(300 * time.Millisecond) {
		_, out := h.run(args...)
		if strings.Contains(out, want) {
			return out
		}
		if time.Now().After(end) {
			h.t.Fatalf("starter %s: no %q in\n%s", strings.Join(args, " "), want, out)
		}
	}
}

// begin starts an execution of a runbook and waits until its view says something.
func (h *house) begin(id, runbook, until string) {
	h.t.Helper()
	file := filepath.Join(h.dir, id+".yaml")
	if err := os.WriteFile(file, []byte(runbook), 0o600); err != nil {
		h.t.Fatal(err)
	}
	h.must("run", "./"+id+".yaml", "--id", id, "--detach", "-i", "log="+filepath.Join(h.dir, id+".log"))
	if until != "" {
		h.wait(until, "show", id)
	}
}

// done waits for the end of an execution, and looks at its exit code and at what it did: each line once.
func (h *house) done(id string, code int, lines ...string) {
	h.t.Helper()
	got, out := h.run("watch", id)
	if got != code {
		h.t.Errorf("%s: exit code %d, want %d\n%s", id, got, code, last(out, 2000))
	}
	text, _ := os.ReadFile(filepath.Join(h.dir, id+".log"))
	did := strings.Fields(string(text))
	slices.Sort(did)
	slices.Sort(lines)
	if !slices.Equal(did, lines) {
		h.t.Errorf("%s did %q, want %q", id, did, lines)
	}
}

// signal sends what somebody says in the Web UI: unlike the starter, it asks nothing first.
func (h *house) signal(id, name string, arg any) {
	h.t.Helper()
	c, err := client.Dial(client.Options{HostPort: h.address, Logger: quiet{}})
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	if err := c.SignalWorkflow(h.t.Context(), id, "", name, arg); err != nil {
		h.t.Fatal(err)
	}
}

type quiet struct{}

func (quiet) Debug(string, ...any)     {}
func (quiet) Info(string, ...any)      {}
func (quiet) Warn(string, ...any)      {}
func (quiet) Error(string, ...any)     {}
func (q quiet) With(...any) log.Logger { return q }

// versionOf tells to which build an execution is bound.
func (h *house) versionOf(id string) string {
	h.t.Helper()
	var all []struct{ ID, Version string }
	if err := json.Unmarshal([]byte(h.must("list", "-o", "json", "--limit", "100")), &all); err != nil {
		h.t.Fatal(err)
	}
	for _, e := range all {
		if e.ID == id {
			return strings.TrimPrefix(e.Version, "almanac:")
		}
	}
	h.t.Fatalf("%s is not in the list", id)
	return ""
}

func (h *house) on(build string, ids ...string) {
	h.t.Helper()
	for _, id := range ids {
		got := ""
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(300 * time.Millisecond) { // the list lags behind
			if got = h.versionOf(id); got == build {
				break
			}
		}
		if got != build {
			h.t.Errorf("%s is on version %q, want %q", id, got, build)
		}
	}
}

type versionRow struct {
	Build, Status string
	Open          int `json:"open_executions"`
	Workers       int
}

// version waits until a version is as is wanted.
func (h *house) version(build string, so func(versionRow) bool) {
	h.t.Helper()
	var all []versionRow
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if err := json.Unmarshal([]byte(h.must("versions", "-o", "json")), &all); err != nil {
			h.t.Fatal(err)
		}
		if i := slices.IndexFunc(all, func(v versionRow) bool { return v.Build == build }); i >= 0 && so(all[i]) {
			return
		}
	}
	h.t.Fatalf("version %s is not as it should be: %+v", build, all)
}

const head = "inputs:\n  log: { type: string }\nsteps:\n"

// note is a step that writes a word into the log.
func note(id string) string {
	return fmt.Sprintf("  - { id: %[1]s, targets: [n1], env: { LOG: \"${{ inputs.log }}\" }, run: 'echo %[1]s >> \"$LOG\"' }\n", id)
}

var (
	approval = "runbook: test/approval\n" + head + note("one") + "  - { id: ok, approval: { message: \"Go on?\" } }\n" + note("two")
	timer    = "runbook: test/timer\n" + head + note("one") + "  - { id: nap, wait: 25s }\n" + note("two")
	fan      = "runbook: test/fan\n" + head + `  - id: fan
    for_each: [a, b, c, d, e, f, g, h]
    max_concurrency: 2
    steps:
      - { id: work, targets: [n1], env: { LOG: "${{ inputs.log }}", X: "${{ item }}" }, run: 'sleep 5; echo "$X" >> "$LOG"' }
`
	rollback = "runbook: test/rollback\n" + head + `  - id: made
    targets: [n1]
    env: { LOG: "${{ inputs.log }}" }
    run: echo made >> "$LOG"
    rollback:
      steps:
        - { id: calm, wait: 25s }
        - { id: take, targets: [n1], env: { LOG: "${{ inputs.log }}" }, run: 'echo taken >> "$LOG"' }
  - { id: broken, fail: broken }
`
	eight = []string{"a", "b", "c", "d", "e", "f", "g", "h"}
)

// TestUpgrade upgrades while executions are open, goes back while executions of the new version are open, and loses a
// version before it is drained.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	now := build(t, root(t), []string{"worker", "agent", "starter"}, nil)
	before := build(t, root(t), []string{"worker"}, another)
	h := settle(t, now)
	h.agent(now, "n1")
	h.worker(before, "1")
	h.wait("almanac:1 is current", "versions", "use", "1")
	h.wait("n1", "nodes")

	// n-1 has executions in every state.
	h.begin("approval", approval, "waiting")
	h.begin("stays", approval, "waiting")
	h.begin("moved", approval, "waiting")
	h.begin("timer", timer, "nap")
	h.begin("rollback", rollback, "rolling")
	h.begin("fan", fan, "")
	old := []string{"approval", "stays", "moved", "timer", "rollback", "fan"}
	h.on("1", old...)

	// n comes, and takes what is new.
	second := h.worker(now, "2")
	h.must("versions", "use", "2", "--ramp", "50")
	if code, out := h.run("versions", "use", "1", "--ramp", "0"); code != 1 || !strings.Contains(out, "almanac:1 is current") {
		t.Errorf("what is current takes no part: %d %s", code, out)
	}
	h.must("versions", "use", "unversioned", "--ramp", "0") // nor is it that one's part which ends
	h.version("2", func(v versionRow) bool { return v.Status == "ramping" })
	h.must("versions", "use", "2", "--ramp", "100") // all of what starts, while 1 is current
	h.begin("ramped", approval, "waiting")
	h.on("2", "ramped")
	h.must("approve", "ramped")
	h.done("ramped", 0, "one", "two")
	h.version("1", func(v versionRow) bool { return v.Status == "current" })
	h.must("versions", "use", "2")
	h.begin("new", approval, "waiting")
	h.on("2", "new")
	h.version("1", func(v versionRow) bool { return v.Status == "draining" && v.Open > 0 })

	// That n cannot follow n-1 is noticed, and harms nobody.
	h.must("versions", "move", "1", "moved")
	h.signal("moved", workflows.AnswerApprove, workflows.Answer{By: "ana"})
	h.wait("fails to go on with it", "show", "moved")

	h.must("approve", "approval")
	h.done("approval", 0, "one", "two")
	h.done("timer", 0, "one", "two")
	h.done("rollback", 5, "made", "taken")
	h.done("fan", 0, eight...)
	h.on("1", "approval", "stays", "timer", "rollback", "fan")

	// Back to n-1, while n has open executions.
	h.must("versions", "use", "1")
	h.done("moved", 0, "one", "two")
	h.begin("again", approval, "waiting")
	h.on("1", "again")
	h.on("2", "new")
	h.must("approve", "again")
	h.done("again", 0, "one", "two")

	// n is lost before it is drained.
	h.begin("other", approval, "waiting")
	kill := syscall.SIGTERM
	if os.Getenv("ALMANAC_LONG") != "" {
		kill = syscall.SIGKILL // the server knows after 45 s
	}
	second.end(kill)
	h.version("2", func(v versionRow) bool { return v.Status == "draining" && v.Open == 1 && v.Workers == 0 })
	for _, args := range [][]string{{"show", "new"}, {"list"}, {"versions"}} {
		if _, out := h.run(args...); !strings.Contains(out, "of version almanac:2") {
			t.Errorf("starter %s does not say what waits:\n%s", args[0], out)
		}
	}
	if code, out := h.run("versions", "use", "2"); code != 1 || !strings.Contains(out, "no worker of version almanac:2 runs") {
		t.Errorf("a version without workers became current: %d %s", code, out)
	}

	// The way out: a version that can follow, here the same under another name.
	h.worker(now, "3")
	h.must("versions", "use", "3")
	h.must("versions", "move", "2")
	h.must("approve", "new")
	h.done("new", 0, "one", "two")
	h.version("2", func(v versionRow) bool { return v.Status == "drained" && v.Open == 0 })
	h.must("approve", "stays")
	h.must("approve", "other")
	h.done("stays", 0, "one", "two")
	h.done("other", 0, "one", "two")
	h.version("1", func(v versionRow) bool { return v.Status == "drained" && v.Open == 0 })
	h.version("3", func(v versionRow) bool { return v.Status == "current" })
	if out := h.must("nodes"); !strings.Contains(out, "n1") {
		t.Errorf("the registry has not moved along: %s", out)
	}
}

// TestUseWaits makes a version current whose worker asks for activities only, as one that has just been started may: the
// command waits until the worker asks for everything that the current version serves.
func TestUseWaits(t *testing.T) {
	t.Parallel()
	now := build(t, root(t), []string{"worker", "agent", "starter"}, nil)
	h := settle(t, now)
	h.agent(now, "n1")
	h.worker(now, "1")
	h.wait("almanac:1 is current", "versions", "use", "1")
	h.wait("n1", "nodes")
	h.begin("fan", fan, "") // the server asks for queues only that are in use

	c, err := client.Dial(client.Options{HostPort: h.address, WorkerHeartbeatInterval: time.Second, Logger: log.NewStructuredLogger(slog.New(slog.DiscardHandler))})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	half := worker.New(c, workflows.TaskQueue, worker.Options{
		DisableWorkflowWorker: true,
		DeploymentOptions:     worker.DeploymentOptions{UseVersioning: true, Version: worker.WorkerDeploymentVersion{DeploymentName: "almanac", BuildID: "2"}},
	})
	half.RegisterActivityWithOptions(func() error { return nil }, activity.RegisterOptions{Name: "none"})
	if err := half.Start(); err != nil {
		t.Fatal(err)
	}
	defer half.Stop()
	h.version("2", func(v versionRow) bool { return v.Workers > 0 })

	used := make(chan string, 1)
	go func() {
		code, out := h.run("versions", "use", "2")
		used <- fmt.Sprint(code, " ", out)
	}()
	time.Sleep(3 * time.Second)
	h.worker(now, "2")
	if out := <-used; !strings.HasPrefix(out, "0 ") || !strings.Contains(out, "does not ask for all work yet") || !strings.Contains(out, "almanac:2 is current") {
		t.Errorf("versions use 2: %s", out)
	}
	h.begin("new", approval, "waiting")
	h.on("2", "new")
	h.must("approve", "new")
	h.done("new", 0, "one", "two")
	h.done("fan", 0, eight...)
	h.on("1", "fan")
}

// TestUpgradeFromUnversioned gives a worker a version while executions are open, and takes it away again.
func TestUpgradeFromUnversioned(t *testing.T) {
	t.Parallel()
	now := build(t, root(t), []string{"worker", "agent", "starter"}, nil)
	h := settle(t, now)
	h.agent(now, "n1")
	plain := h.worker(now, "")
	h.wait("n1", "nodes")
	h.begin("before", approval, "waiting")
	h.begin("fan", fan, "")
	h.on("", "before")

	h.worker(now, "1")
	h.must("versions", "use", "1")
	plain.end(syscall.SIGTERM)
	h.begin("with", approval, "waiting")
	h.on("1", "with")
	h.must("approve", "before")
	h.done("before", 0, "one", "two")
	h.done("fan", 0, eight...)
	h.on("1", "before", "fan")

	h.worker(now, "")
	h.must("versions", "use", "unversioned")
	h.begin("after", approval, "waiting")
	h.on("", "after")
	h.must("approve", "after")
	h.must("approve", "with")
	h.done("after", 0, "one", "two")
	h.done("with", 0, "one", "two")
	h.on("1", "with")
}
