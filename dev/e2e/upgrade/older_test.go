package upgrade

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// older builds the programs of some commits ago, ten or more, the first that build (ALMANAC_OLDER names another commit).
func older(t *testing.T) string {
	t.Helper()
	if commit := os.Getenv("ALMANAC_OLDER"); commit != "" {
		return build(t, extract(t, commit), []string{"worker", "agent"}, nil)
	}
	for n := 10; ; n++ {
		commit := fmt.Sprintf("HEAD~%d", n)
		out, err := tryBuild(t, extract(t, commit), []string{"worker", "agent"}, nil)
		if err == nil {
			t.Logf("the older version is %s", commit)
			return out
		}
		if n == 30 {
			t.Fatal(err)
		}
	}
}

// extract writes the files of a commit into a folder of their own.
func extract(t *testing.T, commit string) string {
	t.Helper()
	dir := t.TempDir()
	archive := exec.Command("git", "archive", commit)
	archive.Dir = root(t)
	files, err := archive.Output()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("there is no %s: fetch the whole history", commit)
		}
		t.Skipf("there is no %s: a shallow clone?", commit)
	}
	tar := exec.Command("tar", "-x", "-C", dir)
	tar.Stdin = bytes.NewReader(files)
	if out, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

const long = `runbook: test/long
inputs:
  log: { type: string }
steps:
  - id: work
    targets: [n1, n2]
    env: { LOG: "${{ inputs.log }}" }
    run: 'echo "begin-$ALMANAC_NODE" >> "$LOG"; sleep 12; echo "end-$ALMANAC_NODE" >> "$LOG"'
  - { id: ok, approval: { message: "Go on?" } }
  - id: file
    targets: [n1, n2]
    action: host.file.write
    with: { path: "${{ inputs.log }}.file", content: "text\n" }
  - { id: where, targets: { where: "node.id == 'n2'" }, env: { LOG: "${{ inputs.log }}" }, run: 'echo where >> "$LOG"' }
`

// TestOlder runs workers and agents of some commits ago with those of now: either may be replaced first, in the
// middle of commands and of executions, and an upgrade may be taken back.
func TestOlder(t *testing.T) {
	if os.Getenv("ALMANAC_LONG") == "" {
		t.Skip("ALMANAC_LONG is not set")
	}
	t.Parallel()
	before := older(t)
	now := build(t, root(t), []string{"worker", "agent", "starter"}, nil)
	for _, first := range []string{"worker", "agent"} {
		t.Run(first+" first", func(t *testing.T) {
			h := settle(t, now)
			work := h.worker(before, "")
			agents := map[string]*process{"n1": h.agent(before, "n1"), "n2": h.agent(before, "n2")}
			replaceWorker := func(folder string) { work.end(syscall.SIGTERM); work = h.worker(folder, "") }
			replaceAgents := func(folder string) {
				for id := range agents {
					agents[id].end(syscall.SIGTERM)
					agents[id] = h.agent(folder, id)
				}
			}
			h.wait("n1", "nodes")
			h.wait("n2", "nodes")
			h.begin("over", approval, "waiting")
			h.begin("rollback", rollback, "rolling")
			h.begin("long", long, "")
			log := filepath.Join(h.dir, "long.log")
			for end := time.Now().Add(time.Minute); strings.Count(text(log), "begin") < 2; time.Sleep(100 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("the commands do not begin")
				}
			}
			if first == "worker" {
				replaceWorker(now)
				h.begin("new", approval, "waiting") // on an agent of before
				h.must("approve", "new")
				h.done("new", 0, "one", "two")
				replaceAgents(now)
			} else {
				replaceAgents(now)
				h.begin("new", approval, "waiting") // on a worker of before
				h.must("approve", "new")
				h.done("new", 0, "one", "two")
				replaceWorker(now)
			}
			h.must("approve", "over")
			h.done("over", 0, "one", "two")
			h.done("rollback", 5, "made", "taken")
			h.wait("approve", "show", "long")
			h.begin("back", approval, "waiting")
			replaceWorker(before) // taken back
			h.must("approve", "back")
			h.done("back", 0, "one", "two")
			h.must("approve", "long")
			h.done("long", 0, "begin-n1", "begin-n2", "end-n1", "end-n2", "where")
		})
	}
}

// text is what is in a file so far.
func text(file string) string {
	b, _ := os.ReadFile(file)
	return string(b)
}
