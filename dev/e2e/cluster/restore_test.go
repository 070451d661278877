//go:build linux

package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Each command leaves a line in its node's ledger, as those of work do.
const (
	rolling = `
runbook: test/rolling
inputs: { dir: { type: string } }
steps:
  - id: roll
    targets: { nodes: [web-1, web-2, web-3], batches: [1] }
    env: { DIR: "${{ inputs.dir }}", ID: "${{ execution.id }}" }
    run: |
      echo "roll $ID" >> "$DIR/$ALMANAC_NODE"
      sleep 4
`
	calling = `
runbook: test/calling
inputs: { dir: { type: string } }
steps:
  - id: before
    targets: [web-1]
    env: { DIR: "${{ inputs.dir }}", ID: "${{ execution.id }}" }
    run: echo "before $ID" >> "$DIR/$ALMANAC_NODE"
  - wait: 8s
  - id: call
    runbook: test/called
    with: { dir: "${{ inputs.dir }}", of: "${{ execution.id }}" }
`
	called = `
runbook: test/called
inputs: { dir: { type: string }, of: { type: string } }
steps:
  - id: change
    targets: [web-1]
    env: { DIR: "${{ inputs.dir }}", ID: "${{ inputs.of }}" }
    run: echo "called $ID" >> "$DIR/$ALMANAC_NODE"
  - id: deeper
    runbook: test/deep
    with: { dir: "${{ inputs.dir }}", of: "${{ inputs.of }}" }
`
	deep = `
runbook: test/deep
inputs: { dir: { type: string }, of: { type: string } }
steps:
  - id: change
    targets: [web-1]
    env: { DIR: "${{ inputs.dir }}", ID: "${{ inputs.of }}" }
    run: echo "deep $ID" >> "$DIR/$ALMANAC_NODE"
`
	// With the answer "die" nobody sees how the command ended.
	answered = `
runbook: test/answered
inputs: { dir: { type: string } }
steps:
  - id: ask
    approval: { message: "What?" }
  - id: act
    targets: [web-1]
    env: { DIR: "${{ inputs.dir }}", ID: "${{ execution.id }}", WHAT: "${{ steps.ask.comment }}" }
    run: |
      echo "$WHAT $ID" >> "$DIR/$ALMANAC_NODE"
      if [ "$WHAT" = die ]; then kill -9 $PPID; sleep 60; fi
`
)

// documented are the commands of docs/cluster.md that begin with a comment.
func (h *house) documented(comment string, env ...string) string {
	h.t.Helper()
	page, err := os.ReadFile("../../../docs/cluster.md")
	if err != nil {
		h.t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```sh\n *" + regexp.QuoteMeta(comment) + "[^\n]*\n(.*?)```").FindSubmatch(page)
	if block == nil {
		h.t.Fatalf("docs/cluster.md has no commands %q", comment)
	}
	cmd := exec.Command("sh", "-euc", string(block[1]))
	cmd.Dir, cmd.Env = filepath.Join(h.dir, "backup"), append(environment(), env...)
	return h.must(cmd)
}

// TestRestore destroys the database of a cluster that works, and restores it from a backup that was made before: with the commands of
// docs/cluster.md. What was done since is not done again, what was begun since is gone and leaves traces, and nothing succeeds that was not done.
func TestRestore(t *testing.T) {
	t.Parallel()
	programs := os.Getenv(inside)
	if programs == "" {
		programs = build(t)
	}
	if enter(t, programs) {
		return
	}
	h := settle(t, programs)
	ledger, backup := filepath.Join(h.dir, "ledger"), filepath.Join(h.dir, "backup")
	for _, dir := range []string{ledger, backup} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"work": work, "rolling": rolling, "calling": calling, "answered": answered, "test/called": called, "test/deep": deep} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(h.dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		h.write(name+".yaml", text)
	}
	start := func(runbook, id string, more ...string) {
		t.Helper()
		h.try(append([]string{"run", "./" + runbook + ".yaml", "--id", id, "--detach", "-i", "dir=" + ledger}, more...)...)
	}
	begun := func(node, line string) {
		t.Helper()
		h.until(line+" on "+node, time.Minute, func() bool { return h.count(ledger, node, line) > 0 })
	}
	waits := func(ids ...string) {
		t.Helper()
		for _, id := range ids {
			h.until(id+" waits for an answer", 2*time.Minute, func() bool { return h.waiting(id) })
		}
	}
	ends := func(id string, want int, says string) {
		t.Helper()
		h.ends(id, want)
		if _, out := h.starter("show", id); !strings.Contains(out, says) {
			t.Errorf("%s says not %q:\n%s", id, says, out)
		}
	}
	psql := []string{"PGHOST=" + filepath.Join(h.dir, "postgresql"), "PGPORT=" + strconv.Itoa(postgresPort), "PGUSER=temporal"}

	// What is open while the backup is made.
	for _, id := range []string{"asked", "refused"} {
		start("work", id, "-i", "nodes=web-1", "-i", "pause=0")
	}
	for _, id := range []string{"other-answer", "unknown"} {
		start("answered", id)
	}
	waits("asked", "refused", "other-answer", "unknown")
	h.agents["web-3"].end(syscall.SIGKILL)
	start("rolling", "rolling")
	begun("web-1", "roll rolling")
	start("calling", "calling")
	begun("web-1", "before calling")
	start("work", "running", "-i", "nodes=web-2", "-i", "pause=30")
	begun("web-2", "begin running")
	start("work", "queued", "-i", "nodes=web-3", "-i", "pause=0")
	time.Sleep(time.Second) // the agent that would take it is away
	since := time.Now()
	h.documented("# the backup", psql...)
	h.say("backup made in %.1f s", time.Since(since).Seconds())

	// What the backup does not know.
	h.agents["web-3"].start()
	begun("web-3", "end queued")
	if os.Getenv("ALMANAC_LONG") != "" {
		// Then parts of the history change hands, and what nodes hold is stamped with later clocks than the backup's.
		for range 3 {
			for i, s := range h.servers {
				s.end(syscall.SIGKILL)
				s.start()
				h.until(s.name+" serves again", 2*time.Minute, func() bool { return h.server(i+1, "health").Run() == nil })
			}
		}
		time.Sleep(10 * time.Second) // until all ask for work again
		h.say("each server was killed three times")
	}
	for id, answer := range map[string]string{"asked": "fine", "refused": "fine", "other-answer": "one", "unknown": "die"} {
		h.try("approve", id, "ask", "-m", answer)
	}
	start("work", "late", "-i", "nodes=web-1", "-i", "pause=0")
	start("work", "late-running", "-i", "nodes=web-2", "-i", "pause=301")
	begun("web-2", "begin late-running")
	begun("web-1", "deep calling")
	begun("web-1", "end late")
	ends("asked", succeeded, "succeeded")
	ends("refused", succeeded, "succeeded")
	ends("other-answer", succeeded, "succeeded")
	ends("unknown", failed, "it is not known how the command ended")
	ends("calling", succeeded, "succeeded")
	ends("rolling", succeeded, "succeeded")
	h.say("what the backup does not know has happened")

	// The end of the world.
	h.postgres.end(syscall.SIGQUIT)
	if err := os.RemoveAll(filepath.Join(h.dir, "postgresql", "data")); err != nil {
		t.Fatal(err)
	}
	for _, p := range slices.Concat(h.servers, h.workers) {
		p.end(syscall.SIGKILL)
	}
	h.initdb()
	h.postgres.start()
	h.until("PostgreSQL answers", time.Minute, h.postgresAnswers)
	began := time.Now()
	h.documented("# the restore", psql...)
	h.say("restored in %.1f s", time.Since(began).Seconds())
	h.must(h.server(server1, "schema"))
	for i, s := range h.servers {
		s.start()
		h.until(s.name+" serves", 2*time.Minute, func() bool { return h.server(i+1, "health").Run() == nil })
	}
	_, list := h.starter("list", "--limit", "100")
	for _, id := range []string{"asked", "refused", "other-answer", "unknown", "rolling", "calling", "running", "queued"} {
		if !regexp.MustCompile(`(?m)^` + id + ` .* (running|waiting) `).MatchString(list) {
			t.Errorf("%s is not open before the workers are back:\n%s", id, list)
		}
	}
	if code, out := h.starter("show", "late"); code == 0 || strings.Contains(list, "late") {
		t.Errorf("what was begun after the backup is there: %s\n%s", out, list)
	}
	h.traces(since)
	time.Sleep(time.Until(since.Add(16 * time.Second))) // nobody restores sooner, and then it is not seen that a node had no chance
	time.Sleep(10 * time.Second)                        // until the servers know each other, as the page says
	for _, w := range h.workers {
		w.start()
	}
	h.until("three nodes are there", 2*time.Minute, func() bool { return h.online() == "web-1 web-2 web-3" })
	h.say("workers are back, and three nodes are there")

	waits("asked", "refused", "other-answer", "unknown")
	h.try("approve", "asked", "ask", "-m", "fine")
	h.try("reject", "refused", "ask", "-m", "no longer")
	h.try("approve", "other-answer", "ask", "-m", "two")
	h.try("approve", "unknown", "ask", "-m", "die")
	ends("asked", succeeded, "succeeded")
	ends("refused", rolledBack, "")
	ends("other-answer", failed, "with other inputs")
	ends("unknown", failed, "it is not known how the command ended")
	ends("calling", succeeded, "succeeded")
	ends("rolling", succeeded, "succeeded")
	for _, id := range []string{"running", "queued"} {
		waits(id)
		h.try("approve", id, "ask")
		ends(id, succeeded, "succeeded")
	}
	want := map[string]int{}
	for node, lines := range map[string][]string{
		"web-1": {
			"begin asked", "end asked", "finish asked",
			"begin refused", "end refused", "undo refused",
			"finish refused", // which nobody took back: the restored execution never came so far
			"one other-answer", "die unknown", "roll rolling",
			"before calling", "called calling", "deep calling",
			"begin late", "end late",
		},
		"web-2": {"roll rolling", "begin running", "end running", "finish running", "begin late-running"},
		"web-3": {"roll rolling", "begin queued", "end queued", "finish queued"},
	} {
		for _, line := range lines {
			want[node+" "+line] = 1
		}
	}
	for _, line := range compare(want, lines(ledger)) {
		t.Error(line)
	}
	h.until("the command that no execution knows is ended", time.Minute, func() bool {
		others, _ := h.net.processes("web-2", filepath.Join(programs, "agent"), "DIR="+ledger)
		return len(others) == 0
	})
	h.say("the command that no execution knows was ended")
	h.leftovers(ledger)
}

// traces looks for what ran after the backup, as docs/cluster.md does.
func (h *house) traces(since time.Time) {
	h.t.Helper()
	var found strings.Builder
	for _, node := range nodes {
		found.WriteString(h.documented("# on each node", "STATE="+filepath.Join(h.dir, "node-"+node), "SINCE="+since.Format(time.RFC3339Nano)))
	}
	for _, what := range []string{"late/change/web-1.log", "late-running/change/web-2.log", "refused/finish/web-1.log", "queued/change/web-3.log", "rolling/roll/web-3.log", "calling%2Fcall/change/web-1.log"} {
		if !strings.Contains(found.String(), what) {
			h.t.Errorf("the nodes' outputs after the backup have no %s:\n%s", what, found.String())
		}
	}
	for _, what := range []string{"asked/change/web-1.log", "rolling/roll/web-1.log"} {
		if strings.Contains(found.String(), what) {
			h.t.Errorf("%s is older than the backup:\n%s", what, found.String())
		}
	}
}
