// Package outputs runs the real programs and a central store of outputs. It has tests only.
package outputs

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/almanac-run/almanac/dev/server"
)

const (
	secretWord = "hunter2-hunter2"
	runbook    = `
runbook: test/outputs
inputs:
  token: { type: secret }
  lines: { type: int }
steps:
  - id: small
    targets: [far]
    env: { TOKEN: "${{ inputs.token }}" }
    run: echo "the token is $TOKEN, and that was all"
  - id: large
    targets: [far]
    env: { TOKEN: "${{ inputs.token }}", LINES: "${{ string(inputs.lines) }}" }
    run: |
      awk -v n="$LINES" 'BEGIN { for (i = 1; i <= n; i++) printf "%07d %s and so on, so that it is longer\n", i, ENVIRON["TOKEN"] }'
`
	lineLength = int64(len("0000001 *** and so on, so that it is longer\n"))
)

// programs is the directory of what users run.
var programs string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	var err error
	if programs, err = os.MkdirTemp("", "almanac-outputs"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(programs)
	build := exec.Command("go", "build", "-o", programs+"/", "./worker", "./agent", "./starter")
	build.Dir = filepath.Join("..", "..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// scene is a server, its worker and one agent, with keys. Nobody shares a directory.
type scene struct {
	t       *testing.T
	bin     string
	dir     string // where the starter runs
	address string
	db      string
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{t: t, bin: programs, dir: t.TempDir(), db: filepath.Join(t.TempDir(), "db")}
	srv, err := server.Start(t.Context(), server.Options{File: s.db})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Stop() })
	s.address = srv.Address()
	s.write("outputs.yaml", runbook)
	s.write("token", secretWord+"\n")
	for _, dir := range []string{".almanac", "state"} {
		if err := os.Mkdir(s.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.write(".almanac/keys", s.must("worker", "key", "new", "--id", "k1"))
	s.write("state/keys", s.must("worker", "node-key", "far"))
	return s
}

func (s *scene) path(name string) string { return filepath.Join(s.dir, name) }

func (s *scene) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, program), args...)
	cmd.Dir = s.dir
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "ALMANAC_") }),
		"TEMPORAL_ADDRESS="+s.address, "TEMPORAL_CONFIG_FILE=/nonexistent")
	return cmd
}

func (s *scene) run(program string, args ...string) (int, string) {
	s.t.Helper()
	cmd := s.command(program, args...)
	out, _ := cmd.CombinedOutput() // the exit code is looked at
	return cmd.ProcessState.ExitCode(), string(out)
}

func (s *scene) must(program string, args ...string) string {
	s.t.Helper()
	code, out := s.run(program, args...)
	if code != 0 {
		s.t.Fatalf("%s %s: exit code %d\n%s", program, strings.Join(args, " "), code, out)
	}
	return out
}

// start runs a program until stop is called or the test ends.
func (s *scene) start(program string, args ...string) (pid int, stop func()) {
	s.t.Helper()
	cmd := s.command(program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	log, err := os.Create(s.path(fmt.Sprint(program, time.Now().UnixNano(), ".log")))
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		log.Close()
	}
	s.t.Cleanup(func() {
		stop()
		if text, _ := os.ReadFile(log.Name()); s.t.Failed() {
			s.t.Logf("%s:\n%s", program, text)
		}
	})
	return cmd.Process.Pid, stop
}

func (s *scene) wait(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(3 * time.Minute); !ok(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// central lists what the central store has: sizes by reference.
func (s *scene) central() map[string]int64 {
	found := map[string]int64{}
	_ = filepath.WalkDir(s.path("central"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // it is not there yet
		}
		if info, err := d.Info(); err == nil {
			rel, _ := filepath.Rel(s.path("central"), path)
			found[rel] = info.Size()
		}
		return nil
	})
	return found
}

// peak is the most memory that a process had, in MiB.
func peak(pid int) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
			kib, _ := strconv.Atoi(f[1])
			return kib >> 10
		}
	}
	return -1
}

func size(files ...string) int64 {
	n := int64(0)
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			n += info.Size()
		}
	}
	return n
}

// Outputs that a node has written are in the central store, with secrets masked, and are shown from there after the node is
// gone; then they expire, and say so. OUTPUTS_MIB says how much the large one has.
func TestCentralStore(t *testing.T) {
	s := newScene(t)
	mib := int64(8)
	if v, err := strconv.ParseInt(os.Getenv("OUTPUTS_MIB"), 10, 64); err == nil {
		mib = v
	}
	lines := mib << 20 / lineLength
	worker, stopWorker := s.start("worker", "--output", "central", "--output-dir", "worker-output")
	agent, stopAgent := s.start("agent", "--id", "far", "--state-dir", "state", "--ec2-metadata", "off")
	s.wait("the node", func() bool { _, out := s.run("starter", "nodes"); return strings.Contains(out, "far") })
	before := size(s.db, s.db+"-wal")
	s.must("starter", "run", "./outputs.yaml", "--id", "one", "-i", "token=file:"+s.path("token"), "-i", fmt.Sprint("lines=", lines))
	ran, grown := time.Now(), size(s.db, s.db+"-wal")-before
	s.wait("the outputs in the central store", func() bool {
		c := s.central()
		return c["one/large#1/far.log"] == lines*lineLength && c["one/small#1/far.log"] > 0 || c["one/large/far.log"] == lines*lineLength && c["one/small/far.log"] > 0
	})
	t.Logf("%d MiB: in the central store after %.1f s, five of them waiting; the server's database grew by %.1f MiB (%.1f by the execution); at most %d MiB of memory in the worker, %d in the agent",
		mib, time.Since(ran).Seconds(), float64(size(s.db, s.db+"-wal")-before)/(1<<20), float64(grown)/(1<<20), peak(worker), peak(agent))
	s.told()

	// The node is gone, with its disk.
	stopAgent()
	if err := os.RemoveAll(s.path("state")); err != nil {
		t.Fatal(err)
	}
	all := s.must("starter", "logs", "one", "--step", "large")
	if int64(len(all)) != lines*lineLength || !strings.HasSuffix(all, fmt.Sprintf("%07d *** and so on, so that it is longer\n", lines)) {
		t.Errorf("%d bytes, want %d; the end is %q", len(all), lines*lineLength, all[max(0, len(all)-100):])
	}
	if out := s.must("starter", "logs", "one", "--tail", "1"); !strings.Contains(out, "the token is ***, and that was all") || strings.Count(out, "\n") != 2 {
		t.Errorf("the last lines: %q", out)
	}
	for name := range s.central() {
		if b, err := os.ReadFile(filepath.Join(s.path("central"), name)); err != nil || strings.Contains(string(b), secretWord) {
			t.Errorf("%s: the secret is readable, or %v", name, err)
		}
	}

	// The next worker keeps them for a second.
	stopWorker()
	s.start("worker", "--output", "central", "--output-dir", "worker-output", "--output-keep", "1s")
	s.wait("the outputs gone", func() bool {
		for name := range s.central() {
			if strings.HasSuffix(name, ".log") {
				return false
			}
		}
		return true
	})
	code, out := s.run("starter", "logs", "one")
	if code == 0 || strings.Count(out, "expired on "+time.Now().UTC().Format(time.DateOnly)+" (kept for 1s)") != 2 {
		t.Errorf("after they expired: exit code %d\n%s", code, out)
	}
}

// told looks at what is left on the server of what the agent told and the worker asked.
func (s *scene) told() {
	t := s.t
	c, err := client.Dial(client.Options{HostPort: s.address, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var tells, asks int
	events := int64(0)
	s.wait("the tellings to be listed", func() bool {
		list, err := c.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{Query: "WorkflowType = 'almanac.tell' OR WorkflowType = 'almanac.ask'"})
		if err != nil {
			t.Fatal(err)
		}
		tells, asks = 0, 0
		open := false
		for _, e := range list.GetExecutions() {
			if events = max(events, e.GetHistoryLength()); strings.HasPrefix(e.GetExecution().GetWorkflowId(), "ask/") {
				asks++
			} else {
				tells++
			}
			open = open || e.GetCloseTime() == nil
		}
		return tells > 0 && !open
	})
	t.Logf("on the server: %d tellings, %d questions that are about to be deleted, of at most %d events", tells, asks, events)
	if events > 11 || tells > 4 {
		t.Errorf("%d tellings of up to %d events, want at most 4 of 11", tells, events)
	}
}

// quiet is a log of the SDK that nobody reads.
type quiet struct{}

func (quiet) Debug(string, ...any) {}
func (quiet) Info(string, ...any)  {}
func (quiet) Warn(string, ...any)  {}
func (quiet) Error(string, ...any) {}

// A store that cannot be used ends the worker at its start, with the reason.
func TestBadStore(t *testing.T) {
	s := newScene(t)
	for args, want := range map[string]string{
		"--output s3://": "want s3://bucket/prefix",
		"--output postgres://almanac:hunter2-hunter2@/none?port=none": "output store postgres://almanac:***@/none",
		"--output /dev/null/outputs":                                  "output store /dev/null/outputs: ",
		"--output x --output-endpoint http://127.0.0.1:9":             "want s3://bucket/prefix",
		"--output-max-size 10GB":                                      "such as 10GiB",
		"--output-keep soon":                                          "soon",
	} {
		code, out := s.run("worker", strings.Fields(args)...)
		if code == 0 || !strings.Contains(out, want) || strings.Contains(out, "hunter2") {
			t.Errorf("worker %s: exit code %d, %s", args, code, out)
		}
	}
}
