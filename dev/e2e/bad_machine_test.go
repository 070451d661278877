package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/almanac-run/almanac/internal/dial"
	"github.com/almanac-run/almanac/internal/node"
	"github.com/almanac-run/almanac/workflows"
)

func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

// booted runs an agent where the kernel's boot id is another: that of a machine
// of its own, or of this one after a restart.
func booted(t *testing.T, id string) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "boot_id")
	if err := os.WriteFile(file, []byte(id+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return []string{"unshare", "--mount", "--propagation", "private", "sh", "-c",
		`mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"`, file}
}

const rebootRunbook = `
runbook: test/reboot
on_failure: stop
inputs:
  dir: { type: string }
steps:
  - id: both
    parallel:
      once:
        - id: once
          targets: [boot-once]
          env: { DIR: "${{ inputs.dir }}" }
          on_error: continue
          run: |
            echo run >> "$DIR/once"
            sleep 1000
      again:
        - id: again
          targets: [boot-again]
          action: host.command.run
          with:
            env: { DIR: "${{ inputs.dir }}" }
            idempotent: true
            script: |
              echo run >> "$DIR/again"
              test "$(wc -l < "$DIR/again")" -gt 1 || sleep 1000
`

// rebooted restarts two machines in the middle of a command. Nobody knows how
// that ended: it is not run again, unless it says that this does no harm.
func rebooted(t *testing.T, b *badDays) {
	needsRoot(t, "another boot id")
	state := map[string]string{"boot-once": nodeDir(t, "boot-once"), "boot-again": nodeDir(t, "boot-again")}
	agents := map[string]*daemon{}
	up := func(boot string) {
		for id, dir := range state {
			agents[id] = b.launch(t, booted(t, boot), b.address, id, dir)
		}
	}
	up("11111111-0000-0000-0000-000000000000")
	for _, d := range agents {
		d.ready(20 * time.Second)
	}
	dir := t.TempDir()
	run := b.begin(t, "reboot", strings.Replace(rebootRunbook, "          on_error: continue\n", "", 1), inputs("dir", dir))
	eventually(t, 20*time.Second, "the commands", func() bool { return text(dir+"/once") != "" && text(dir+"/again") != "" })
	for id, d := range agents {
		d.kill()
		for _, pid := range running(id) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		nothingLeft(t, id, 5*time.Second)
	}
	up("22222222-0000-0000-0000-000000000000")
	r := ended(t, run)
	if r.Outcome != workflows.Failed || r.Failure == nil {
		t.Fatalf("%s: %s", r.Outcome, r.Message)
	}
	f := r.Failure
	for f.Cause != nil && f.Target == "" {
		f = f.Cause
	}
	if f.Target != "boot-once" || f.Kind != "unknown" || !strings.Contains(f.Message, "the node was restarted while it ran") {
		t.Errorf("%+v", f)
	}
	if once, again := text(dir+"/once"), text(dir+"/again"); once != "run\n" || again != "run\nrun\n" {
		t.Errorf("effects %q and %q", once, again)
	}
	for id := range agents {
		nothingLeft(t, id, 5*time.Second)
		b.hello(t, "reboot-"+id, id)
	}
}

// twoOfOneID starts agents under an id that is taken, on the same machine. The
// first goes on as if nothing had been.
func twoOfOneID(t *testing.T, b *badDays) {
	state := nodeDir(t, "twin")
	b.start(t, "twin", state)
	clone := nodeDir(t, "twin")
	if out, err := exec.Command("cp", "-a", state+"/.", clone).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	other := b.launch(t, nil, b.address, "twin", nodeDir(t, "twin"))
	same := b.launch(t, nil, b.address, "twin", state)
	copied := b.launch(t, nil, b.address, "twin", clone)
	other.refused(20*time.Second, "another agent serves node twin")
	same.refused(20*time.Second, "another agent runs with the state directory "+state)
	copied.refused(40*time.Second, "with a copy of this state directory")
	b.hello(t, "twin", "twin")
}

// copiedMachine starts a copy of a machine that runs: the same state directory, another boot id.
func copiedMachine(t *testing.T, b *badDays) {
	needsRoot(t, "another boot id")
	state := nodeDir(t, "copied")
	b.start(t, "copied", state)
	clone := nodeDir(t, "copied")
	if out, err := exec.Command("cp", "-a", state+"/.", clone).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b.launch(t, booted(t, "33333333-0000-0000-0000-000000000000"), b.address, "copied", clone).
		refused(40*time.Second, "with a copy of this state directory")
	b.hello(t, "copied", "copied")
}

const clockRunbook = `
runbook: test/clock
on_failure: stop
inputs:
  dir: { type: string }
steps:
  - id: work
    targets: { where: "'day' in node.tags && node.tags.day == 'clock'" }
    env: { DIR: "${{ inputs.dir }}" }
    run: echo "$ALMANAC_NODE" >> "$DIR/ran"
`

// wrongClock puts a node's clock an hour ahead: it is shown so, no condition
// finds it, and who names it is told why it does not serve. Right again, it is a target again.
func wrongClock(t *testing.T, b *badDays) {
	var ahead atomic.Int64
	c, err := client.Dial(client.Options{HostPort: b.address, Logger: quiet{}, WorkerHeartbeatInterval: dial.WorkerHeartbeat})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ahead.Store(int64(time.Hour))
	state := nodeDir(t, "clock-wrong")
	stop, done := make(chan struct{}), make(chan error, 1)
	ctx, cancel := contextUntil(t, stop)
	go func() {
		done <- node.Run(ctx, node.Options{Client: c, ID: "clock-wrong", StateDir: state, Tags: map[string]string{"day": "clock"}, Logger: silent(),
			Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	}()
	defer func() { cancel(); <-done }()
	b.start(t, "clock-right", nodeDir(t, "clock-right"), "--tag", "day=clock")
	shown := func(wrong bool) func() bool {
		return func() bool {
			n, err := b.lister.One(t.Context(), "clock-wrong", time.Now())
			return err == nil && n != nil && n.Alive && n.ClockWrong == wrong
		}
	}
	eventually(t, 20*time.Second, "the clock is shown as wrong", shown(true))
	if n, err := b.lister.One(t.Context(), "clock-wrong", time.Now()); err != nil || !strings.Contains(n.Absent(), "its clock is off by 1h0m") {
		t.Errorf("absent %q, error %v", n.Absent(), err)
	}
	where := func(id, want string) {
		dir := t.TempDir()
		r := ended(t, b.begin(t, id, clockRunbook, inputs("dir", dir)))
		if ran := text(dir + "/ran"); r.Outcome != workflows.Succeeded || len(ran) != len(want) || !strings.Contains(ran, "clock-right\n") {
			t.Errorf("%s: %s: ran on %q, want %q", r.Outcome, r.Message, ran, want)
		}
	}
	where("clock-1", "clock-right\n")
	r := ended(t, b.begin(t, "clock-2", "runbook: test/named\nsteps:\n  - { id: named, targets: [clock-wrong], run: echo hello }\n", nil))
	if r.Outcome != workflows.Failed || r.Failure.Kind != "unreached" || !strings.Contains(r.Message, "the clock of node clock-wrong is 1h0m") || !strings.Contains(r.Message, "set it right") {
		t.Errorf("%s: %s: %+v", r.Outcome, r.Message, r.Failure)
	}
	ahead.Store(0)
	eventually(t, 30*time.Second, "the clock is shown as right", shown(false))
	where("clock-3", "clock-right\nclock-wrong\n")
}

const stubbornRunbook = `
runbook: test/stubborn
on_failure: stop
inputs:
  dir: { type: string }
  node: { type: string }
  limit: { type: duration }
steps:
  - id: work
    targets: [ "${{ inputs.node }}" ]
    timeout: ${{ inputs.limit }}
    env: { DIR: "${{ inputs.dir }}" }
    run: |
      trap "" TERM INT HUP
      setsid sh -c 'trap "" TERM HUP; sleep 1001 & sleep 1002' </dev/null >/dev/null 2>&1 &
      ( ( setsid sh -c 'trap "" TERM HUP; while :; do sleep 1003; done' & ) & )
      ( setsid nohup sleep 1004 >/dev/null 2>&1 & )
      sleep 1
      touch "$DIR/begun"
      while :; do sleep 1; done
`

// stubbornChildren cancels, and times out, a command that does not listen to
// TERM, with children and orphans in sessions of their own that do not either.
func stubbornChildren(t *testing.T, b *badDays) {
	for _, how := range []string{"cancelled", "late"} {
		id, dir := "stubborn-"+how, t.TempDir()
		b.start(t, id, nodeDir(t, id))
		limit := map[string]string{"cancelled": "10m", "late": "6s"}[how]
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			in := inputs("dir", dir, "node", id)
			in["limit"], _ = json.Marshal(limit)
			run := b.begin(t, id, stubbornRunbook, in)
			eventually(t, 20*time.Second, "the command", func() bool { return text(dir+"/begun") == "" && exists(dir+"/begun") })
			if n := len(running(id)); n < 6 {
				t.Errorf("%d processes of the command, want at least 6", n)
			}
			began := time.Now()
			want := workflows.Failed
			if how == "cancelled" {
				want = workflows.Cancelled
				if err := b.c.CancelWorkflow(t.Context(), id, ""); err != nil {
					t.Fatal(err)
				}
			}
			r := ended(t, run)
			if r.Outcome != want || how == "late" && r.Failure.Kind != "timeout" {
				t.Errorf("%s: %s: %+v", r.Outcome, r.Message, r.Failure)
			}
			if took := time.Since(began); took > 25*time.Second {
				t.Errorf("it took %v", took)
			}
			// The engine does not wait for the grace of what is too late.
			nothingLeft(t, id, map[string]time.Duration{"cancelled": time.Second, "late": 7 * time.Second}[how])
		})
	}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// endlessOutput lets one command write without end until its time is over, and
// one write more than is kept: the disk takes no more than the limit, and the result says what is missing.
func endlessOutput(t *testing.T, b *badDays) {
	const limit = 1 << 20
	state := nodeDir(t, "endless")
	b.start(t, "endless", state, "--max-output", "1048576")
	r := ended(t, b.begin(t, "much", `
runbook: test/much
steps:
  - id: much
    targets: [endless]
    run: head -c 3000000 /dev/zero | tr '\0' x
outputs:
  omitted: ${{ steps.much.?omitted.orValue(0) }}
`, nil))
	if omitted := string(r.Outputs["omitted"]); r.Outcome != workflows.Succeeded || omitted != fmt.Sprint(3000000-limit) {
		t.Errorf("%s: %s, omitted %s", r.Outcome, r.Message, omitted)
	}
	r = ended(t, b.begin(t, "endless", `
runbook: test/endless
steps:
  - id: endless
    targets: [endless]
    timeout: 5s
    run: yes
`, nil))
	kept := 0
	err := filepath.WalkDir(filepath.Join(state, "output"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		all, err := io.ReadAll(io.LimitReader(f, 10*limit))
		if err == nil && (len(all) < limit || len(all) > limit+200 || !strings.HasSuffix(string(all), "the output is too large; the rest is left out\n")) {
			t.Errorf("%s has %d bytes, and ends %q", path, len(all), all[max(0, len(all)-80):])
		}
		kept++
		return err
	})
	if err != nil || kept != 2 {
		t.Errorf("%d outputs, %v", kept, err)
	}
	if r.Outcome != workflows.Failed || r.Failure.Kind != "timeout" || !strings.Contains(string(r.Failure.Detail), "too large") {
		t.Errorf("%s: %s: %+v, %s", r.Outcome, r.Message, r.Failure, r.Failure.Detail)
	}
	nothingLeft(t, "endless", time.Second)
}
