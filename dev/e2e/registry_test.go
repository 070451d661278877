package e2e

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/almanac-run/almanac/internal/control"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/workflows"
)

// farRunbook writes on two nodes; on one of them until somebody says stop.
const farRunbook = `
runbook: test/far
inputs:
  dir: { type: string }
steps:
  - id: write
    targets: [far-1, far-2]
    env: { DIR: "${{ inputs.dir }}" }
    run: |
      echo "begin on $ALMANAC_NODE"
      if test "$ALMANAC_NODE" = far-1; then
        i=0
        while ! test -e "$DIR/stop"; do i=$((i + 1)); echo "line $i"; sleep 0.2; done
      else
        seq 1 60000
      fi
      printf 'end \377 without a newline'
`

// TestOutputOfNodes reads output with the starter that only the nodes have:
// live while a command runs, and whole when it has ended. A node that is away is named.
func TestOutputOfNodes(t *testing.T) {
	t.Parallel()
	srv, c := serve(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.Run(ctx, control.Options{Client: c, Logger: silent()}) }()
	t.Cleanup(func() { cancel(); <-done })
	b := buildAgent(t, srv.Address(), c)
	b.start(t, "far-1", nodeDir(t, "far-1"))
	far2 := b.start(t, "far-2", nodeDir(t, "far-2"))
	d := sit(t, srv.Address())
	dir := t.TempDir()
	run := b.begin(t, "far", farRunbook, inputs("dir", dir))

	live := d.command("logs", "far", "--target", "far-1", "-f")
	live.Stderr = os.Stderr
	pipe, err := live.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := live.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(time.Minute, func() { _ = live.Process.Kill() }) // then what follows reads the end of its output
	defer late.Stop()
	lines := bufio.NewReader(pipe)
	var got strings.Builder
	for !strings.Contains(got.String(), "line 20\n") {
		line, err := lines.ReadString('\n')
		if got.WriteString(line); err != nil {
			t.Fatalf("after %q: %v", got.String(), err)
		}
	}
	if exists(dir + "/stop") {
		t.Fatal("it was not live")
	}
	if err := os.WriteFile(dir+"/stop", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		var line string
		line, err = lines.ReadString('\n')
		got.WriteString(line)
	}
	if err := live.Wait(); err != nil {
		t.Error(err)
	}
	if s := got.String(); !strings.HasPrefix(s, "begin on far-1\nline 1\nline 2\n") || !strings.HasSuffix(s, "end \xff without a newline") {
		t.Errorf("live: %q … %q", s[:min(40, len(s))], s[max(0, len(s)-40):])
	}
	if r := ended(t, run); r.Outcome != workflows.Succeeded {
		t.Fatalf("%s: %s", r.Outcome, r.Message)
	}

	seq, err := exec.Command("seq", "1", "60000").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := "begin on far-2\n" + string(seq) + "end \xff without a newline"
	if code, out := d.call("logs", "far", "--target", "far-2"); code != 0 || out != want {
		t.Errorf("exit code %d, %d bytes, want %d: %.200q", code, len(out), len(want), out)
	}
	if code, out := d.call("logs", "far", "--target", "far-2", "--tail", "2"); code != 0 || out != "60000\nend \xff without a newline" {
		t.Errorf("exit code %d, %.200q", code, out)
	}
	if code, out := d.call("logs", "far"); code != 0 || strings.Count(out, "write@far-1 | begin on far-1\n") != 1 || strings.Count(out, "write@far-2 | 60000\n") != 1 {
		t.Errorf("exit code %d, %.200q", code, out)
	}
	far2.kill()
	code, out := d.call("logs", "far", "--target", "far-2")
	if code == 0 || !strings.Contains(out, "far-2") || !strings.Contains(out, "does not answer") {
		t.Errorf("exit code %d, %q", code, out)
	}
}

// TestRegistryWithoutWorker restarts an agent while no control worker runs: it
// serves at once, since it is the registered one, and another with its id is refused as before.
func TestRegistryWithoutWorker(t *testing.T) {
	t.Parallel()
	srv, c := serve(t, nil)
	b := buildAgent(t, srv.Address(), c)
	state := nodeDir(t, "alone")
	first := b.start(t, "alone", state, "--task-queue", "nobody", "--tag", "role=web")
	n, err := b.lister.One(t.Context(), "alone", time.Now())
	if err != nil || n == nil || !n.Alive || n.Tags["role"] != "web" || n.Reach != registry.ReachAgent || n.BootID == "" {
		t.Errorf("%+v, %v", n, err)
	}
	first.kill()
	began := time.Now()
	b.start(t, "alone", state, "--task-queue", "nobody")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it served after %v", took)
	}
	b.launch(t, nil, b.address, "alone", nodeDir(t, "alone"), "--task-queue", "nobody").refused(20*time.Second, "another agent serves node alone")
	b.launch(t, nil, b.address, "no/id", filepath.Join(t.TempDir(), "x")).refused(5*time.Second, "node id")
}
