package e2e

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/almanac-run/almanac/internal/node"
	"github.com/almanac-run/almanac/workflows"
)

func agentProcess() error {
	c, err := client.Dial(client.Options{HostPort: os.Getenv("E2E_ADDRESS"), Logger: quiet{}})
	if err != nil {
		return err
	}
	return node.Run(context.Background(), node.Options{Client: c, ID: os.Getenv("E2E_NODE"), StateDir: filepath.Join(os.Getenv("E2E_DIR"), "state"),
		Root: os.Getenv("E2E_DIR"), Logger: slog.New(slog.DiscardHandler)})
}

// fleet is agents as processes of their own, by node id.
type fleet struct {
	t       *testing.T
	address string
	dir     string
	agents  map[string]*exec.Cmd
}

func startFleet(t *testing.T, address string, ids ...string) *fleet {
	t.Helper()
	f := &fleet{t: t, address: address, dir: t.TempDir(), agents: map[string]*exec.Cmd{}}
	for _, id := range ids {
		f.start(id)
	}
	t.Cleanup(func() {
		for id := range f.agents {
			f.kill(id)
		}
	})
	return f
}

func (f *fleet) start(id string) {
	f.t.Helper()
	dir := filepath.Join(f.dir, id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		f.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "E2E_ROLE=agent", "E2E_ADDRESS="+f.address, "E2E_NODE="+id, "E2E_DIR="+dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.agents[id] = cmd
}

// kill ends an agent as a crash does: nothing of it runs on but its commands.
func (f *fleet) kill(id string) {
	_ = f.agents[id].Process.Kill()
	_ = f.agents[id].Wait()
	delete(f.agents, id)
}

func text(name string) string {
	raw, _ := os.ReadFile(name)
	return string(raw)
}

func inputs(pairs ...string) map[string]json.RawMessage {
	m := map[string]json.RawMessage{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]], _ = json.Marshal(pairs[i+1])
	}
	return m
}

const nodesRunbook = `
runbook: test/nodes
inputs:
  dir: { type: string }
steps:
  - id: work
    targets: [a, b, c]
    env: { DIR: "${{ inputs.dir }}" }
    run: |
      echo begin >> "$DIR/$ALMANAC_NODE"
      sleep 8
      echo end >> "$DIR/$ALMANAC_NODE"
`

// TestAgentKilled kills one agent of three with SIGKILL in the middle of a
// command: it is given up by name while the others end theirs; or it comes
// back, and its command, which has never stopped, has run once.
func TestAgentKilled(t *testing.T) {
	t.Parallel()
	p := compileLedger(t, nodesRunbook, nil)
	for _, back := range []bool{false, true} {
		name := map[bool]string{false: "gone", true: "back"}[back]
		t.Run(name, func(t *testing.T) {
			srv, c := serve(t, nil)
			f := startFleet(t, srv.Address(), "a", "b", "c")
			dir := t.TempDir()
			work(t, c, "agents-"+name)
			run := begin(t, c, "agents-"+name, p, inputs("dir", dir))
			wait(t, "the commands", func() bool {
				return text(dir+"/a") != "" && text(dir+"/b") != "" && text(dir+"/c") != ""
			})
			f.kill("b")
			killed := time.Now()
			if back {
				time.Sleep(time.Second)
				f.start("b")
			}
			r := ended(t, run)
			took := time.Since(killed).Round(100 * time.Millisecond)
			t.Logf("%s after %v: %s", r.Outcome, took, r.Message)
			if a, c := text(dir+"/a"), text(dir+"/c"); a != "begin\nend\n" || c != a {
				t.Errorf("on the other nodes: %q, %q", a, c)
			}
			switch {
			case back && (r.Outcome != workflows.Succeeded || text(dir+"/b") != "begin\nend\n"):
				t.Errorf("%s, on b: %q", r.Outcome, text(dir+"/b"))
			case !back && (r.Outcome != workflows.Failed || r.Failure.Target != "b" || r.Failure.Kind != "lost" || !strings.Contains(r.Message, "on b: node b was lost") || took > 40*time.Second):
				t.Errorf("%s after %v: %+v", r.Outcome, took, r.Failure)
			}
		})
	}
}

const familyRunbook = `
runbook: test/family
inputs:
  dir: { type: string }
steps:
  - id: family
    targets: [a]
    env: { DIR: "${{ inputs.dir }}" }
    run: |
      echo $$ >> "$DIR/pids"
      sleep 1000 & echo $! >> "$DIR/pids"
      sh -c 'sh -c "sleep 1000 & echo \$! >> $DIR/pids; echo \$\$ >> $DIR/pids; wait" & echo $$ >> "$DIR/pids"; trap "" TERM; wait' &
      wait
`

// TestCancelKillsFamily cancels an execution: the command's children and theirs
// end, one that does not listen to TERM too.
func TestCancelKillsFamily(t *testing.T) {
	t.Parallel()
	srv, c := serve(t, nil)
	startFleet(t, srv.Address(), "a")
	dir := t.TempDir()
	work(t, c, "family")
	run := begin(t, c, "family", compileLedger(t, familyRunbook, nil), inputs("dir", dir))
	wait(t, "five processes", func() bool { return strings.Count(text(dir+"/pids"), "\n") == 5 })
	if err := c.CancelWorkflow(t.Context(), "family", ""); err != nil {
		t.Fatal(err)
	}
	if r := ended(t, run); r.Outcome != workflows.Cancelled {
		t.Errorf("%s: %s", r.Outcome, r.Message)
	}
	for _, pid := range strings.Fields(text(dir + "/pids")) {
		if status := text("/proc/" + pid + "/status"); status != "" && !strings.Contains(status, "Z (zombie)") {
			t.Errorf("process %s still runs:\n%s", pid, status)
		}
	}
}

const valueRunbook = `
runbook: test/value
inputs:
  dir: { type: string }
  value: { type: string }
  large: { type: string }
steps:
  - id: write
    targets: [a]
    env: { DIR: "${{ inputs.dir }}", VALUE: "${{ inputs.value }}", LARGE: "${{ inputs.large }}", MIXED: "<${{ inputs.value }}>" }
    run: |
      cd "$DIR"
      printf %s "$VALUE" > value
      printf %s "$LARGE" > large
      printf %s "$MIXED" > mixed
`

// TestValuesAreNoCode hands hostile and large values to a command.
func TestValuesAreNoCode(t *testing.T) {
	t.Parallel()
	srv, c := serve(t, nil)
	startFleet(t, srv.Address(), "a")
	dir := t.TempDir()
	pwned := dir + "/pwned"
	value := "$(touch " + pwned + ")`touch " + pwned + "`'; touch " + pwned + " #\"; touch " + pwned + "\n${IFS}\\ \t${{ inputs.dir }} %s äöü\r\n\n"
	large := strings.Repeat("0123456789abcde\n", 1<<16)
	large = "$(touch " + pwned + ")" + large[:1<<20-100]
	work(t, c, "value")
	r := ended(t, begin(t, c, "value", compileLedger(t, valueRunbook, nil), inputs("dir", dir, "value", value, "large", large)))
	if r.Outcome != workflows.Succeeded {
		t.Fatalf("%s: %s", r.Outcome, r.Message)
	}
	for name, want := range map[string]string{"value": value, "large": large, "mixed": "<" + value + ">"} {
		if got := text(dir + "/" + name); got != want {
			t.Errorf("%s: %d bytes, want %d: %.200q", name, len(got), len(want), got)
		}
	}
	if _, err := os.Stat(pwned); err == nil {
		t.Error("a value was run")
	}
}

// TestAgentProgram runs the tests of the program agent that want a server.
func TestAgentProgram(t *testing.T) {
	t.Parallel()
	srv, _ := serve(t, nil)
	cmd := exec.Command("go", "test", "-count=1", "-run", "^TestAgent$", "-v", "./agent")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "TEMPORAL_ADDRESS="+srv.Address())
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestAgent") {
		t.Errorf("%v\n%s", err, out)
	}
}
