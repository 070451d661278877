package e2e

import (
	"bufio"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/almanac-run/almanac/internal/node"
	"github.com/almanac-run/almanac/workflows"
)

// desk is where somebody sits who calls the program starter.
type desk struct {
	t        *testing.T
	starter  string // the program
	address  string
	dir, out string // working directory, output store
}

func sit(t *testing.T, address string) *desk {
	t.Helper()
	d := &desk{t: t, starter: filepath.Join(t.TempDir(), "starter"), address: address, dir: t.TempDir(), out: t.TempDir()}
	build := exec.Command("go", "build", "-o", d.starter, "./starter")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return d
}

func (d *desk) command(args ...string) *exec.Cmd {
	cmd := exec.Command(d.starter, args...)
	cmd.Dir = d.dir
	cmd.Env = append(os.Environ(), "TEMPORAL_ADDRESS="+d.address, "ALMANAC_OUTPUT_DIR="+d.out)
	return cmd
}

// call runs the starter and returns its exit code and what it wrote.
func (d *desk) call(args ...string) (int, string) {
	d.t.Helper()
	cmd := d.command(args...)
	out, _ := cmd.CombinedOutput() // the exit code is looked at
	return cmd.ProcessState.ExitCode(), string(out)
}

// agents runs agents in this process that share the desk's output store, and waits until they poll:
// on a busy machine work would be given up before they have fetched it.
func (d *desk) agents(ids ...string) {
	d.t.Helper()
	for _, id := range ids {
		c, err := client.Dial(client.Options{HostPort: d.address, Logger: quiet{}, Identity: "agent " + id})
		if err != nil {
			d.t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		dir := d.t.TempDir()
		go func() {
			defer close(done)
			_ = node.Run(ctx, node.Options{Client: c, ID: id, StateDir: dir, OutputDir: d.out, Logger: slog.New(slog.DiscardHandler)})
			c.Close()
		}()
		d.t.Cleanup(func() { cancel(); <-done })
	}
	for _, id := range ids {
		c, err := client.Dial(client.Options{HostPort: d.address, Logger: quiet{}})
		if err != nil {
			d.t.Fatal(err)
		}
		wait(d.t, "agent "+id, func() bool {
			queue, err := c.DescribeTaskQueue(context.Background(), workflows.NodeQueue(id), enumspb.TASK_QUEUE_TYPE_ACTIVITY)
			return err == nil && len(queue.GetPollers()) > 0
		})
		c.Close()
	}
}

const repeatRunbook = `
runbook: test/repeat
on_failure: stop
inputs:
  nodes: { type: list<string> }
  dir: { type: string }
steps:
  - id: work
    targets: { nodes: "${{ inputs.nodes }}", max_errors: 100% }
    env: { DIR: "${{ inputs.dir }}" }
    run: |
      echo "$ALMANAC_NODE" >> "$DIR/ran"
      for i in $(seq 1 80); do echo "line $i"; done
      test -e "$DIR/ok-$ALMANAC_NODE" || { echo "no ok for $ALMANAC_NODE"; exit 3; }
`

// TestOnlyFailed runs a runbook on four nodes, of which one is right, two fail
// and one is away; then again on those three only; and then there is nothing
// left to do.
func TestOnlyFailed(t *testing.T) {
	t.Parallel()
	srv, c := serve(t, nil)
	work(t, c, workflows.TaskQueue)
	d := sit(t, srv.Address())
	d.agents("n1", "n2", "n3")
	if err := os.WriteFile(filepath.Join(d.dir, "repeat.yaml"), []byte(repeatRunbook), 0o644); err != nil {
		t.Fatal(err)
	}
	touch := func(name string) {
		if err := os.WriteFile(filepath.Join(d.dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ran := func() []string {
		all := strings.Fields(text(filepath.Join(d.dir, "ran")))
		slices.Sort(all)
		return all
	}
	has := func(what, out string, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if !strings.Contains(out, part) {
				t.Errorf("%s lacks %q:\n%s", what, part, out)
			}
		}
	}
	touch("ok-n1")
	code, out := d.call("run", "./repeat.yaml", "--id", "first", "-i", "nodes=n1,n2,n3,n4", "-i", "dir="+d.dir)
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	has("run", out, "1 ok, 2 failed, 1 unreached", "2 × exit 3: no ok for …", "n2, n3", "1 × unreached", "starter logs first --failed", "run --only-failed first")
	_, out = d.call("show", "first", "-o", "json")
	has("show", out, `"recap"`, `"exit_code": 3`, `"unreached": 1`)

	code, out = d.call("logs", "first", "--failed")
	if lines := strings.Count(out, "\n"); code != 0 || lines != 100 || strings.Contains(out, "@n1") || strings.Contains(out, "line 30\n") {
		t.Errorf("logs --failed: exit code %d, %d lines:\n%s", code, lines, out)
	}
	has("logs --failed", out, "work@n2 | line 80\n", "work@n3 | no ok for n3\n")
	if code, out = d.call("logs", "first", "--target", "n1"); code != 0 || !strings.HasPrefix(out, "line 1\nline 2\n") || strings.Count(out, "\n") != 80 {
		t.Errorf("logs --target: exit code %d:\n%s", code, out)
	}

	d.agents("n4")
	touch("ok-n2")
	touch("ok-n4")
	code, out = d.call("run", "--only-failed", "first", "--id", "second")
	has("run --only-failed", out, "only on 3 targets, where first did not do its work: n2, n3, n4", "2 ok, 1 failed")
	if got, want := ran(), []string{"n1", "n2", "n2", "n3", "n3", "n4"}; code != 0 || !slices.Equal(got, want) {
		t.Errorf("exit code %d, it ran on %v, want %v", code, got, want)
	}
	touch("ok-n3")
	code, out = d.call("run", "./repeat.yaml", "--only-failed", "second", "--id", "third")
	has("run --only-failed", out, "1 ok")
	if got, want := ran(), []string{"n1", "n2", "n2", "n3", "n3", "n3", "n4"}; code != 0 || !slices.Equal(got, want) {
		t.Errorf("exit code %d, it ran on %v, want %v", code, got, want)
	}
	code, out = d.call("run", "--only-failed", "third")
	has("run --only-failed of what went well", out, "nothing to run again", "nothing was started")
	if code != 3 {
		t.Errorf("exit code %d", code)
	}
	code, out = d.call("logs", "third", "--failed")
	has("logs --failed of what went well", out, "on no target of third")
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	if code, out = d.call("run", "demo/tour", "--only-failed", "first"); code != 2 {
		t.Errorf("another runbook: exit code %d: %s", code, out)
	}
}

const haltRunbook = `
runbook: test/halt
inputs:
  dir: { type: string }
steps:
  - id: work
    targets: { nodes: [n1, n2, n3], max_concurrency: 1, on_halt: ask }
    env: { DIR: "${{ inputs.dir }}" }
    run: |
      echo begin
      while ! test -e "$DIR/go"; do sleep 0.1; done
      echo end; test "$ALMANAC_NODE" != n1
outputs:
  ok: ${{ steps.work.succeeded.join(",") }}
`

// TestHaltedAtTheDesk follows the output of one node while it is written, is
// asked when the step is halted, and lets it continue.
func TestHaltedAtTheDesk(t *testing.T) {
	t.Parallel()
	srv, c := serve(t, nil)
	work(t, c, workflows.TaskQueue)
	d := sit(t, srv.Address())
	d.agents("n1", "n2", "n3")
	if err := os.WriteFile(filepath.Join(d.dir, "halt.yaml"), []byte(haltRunbook), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, out := d.call("run", "./halt.yaml", "--id", "halt", "-i", "dir="+d.dir, "--detach"); code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	logs := d.command("logs", "halt", "--target", "n1", "-f")
	pipe, err := logs.StdoutPipe()
	if err == nil {
		err = logs.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = logs.Process.Kill(); _ = logs.Wait() })
	lines := make(chan string, 10)
	go func() {
		for sc := bufio.NewScanner(pipe); sc.Scan(); {
			lines <- sc.Text()
		}
	}()
	next := func(want string) {
		t.Helper()
		select {
		case got := <-lines:
			if got != want {
				t.Errorf("logs -f prints %q, want %q", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("logs -f does not print %q", want)
		}
	}
	next("begin") // and it cannot end yet
	if err := os.WriteFile(filepath.Join(d.dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	next("end")
	wait(t, "the question", func() bool { v := view(c, "halt"); return v != nil && len(v.Waiting) == 1 })
	if _, out := d.call("show", "halt"); !strings.Contains(out, "was halted, and asks what to do") || !strings.Contains(out, "continue halt") {
		t.Errorf("show:\n%s", out)
	}
	if code, out := d.call("continue", "halt"); code != 0 {
		t.Errorf("continue: exit code %d: %s", code, out)
	}
	code, out := d.call("watch", "halt")
	if code != 0 || !strings.Contains(out, "ok  n2,n3") || !strings.Contains(out, "2 ok, 1 failed") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}
