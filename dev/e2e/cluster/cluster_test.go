//go:build linux

// Package cluster proves the topology of docker-compose.yml with real processes: PostgreSQL, two processes of
// almanac-server, two control workers and three agents, each agent in a network of its own, all connections with
// certificates of both sides. What may die dies while executions run; their outcome, and what happened on the nodes, is what it
// would have been without. docs/cluster.md has the figures that it prints.
package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// work leaves a line in the node's ledger for each thing that it does.
const work = `
runbook: test/work
inputs:
  dir: { type: string }
  nodes: { type: list<string> }
  pause: { type: int, default: 3 }
  fail: { type: bool, default: false }
timeout: 10m
steps:
  - id: change
    targets: { nodes: "${{ inputs.nodes }}" }
    timeout: 5m
    env: { DIR: "${{ inputs.dir }}", ID: "${{ execution.id }}", PAUSE: "${{ string(inputs.pause) }}" }
    run: |
      echo "begin $ID" >> "$DIR/$ALMANAC_NODE"
      sleep "$PAUSE"
      echo "end $ID" >> "$DIR/$ALMANAC_NODE"
    rollback:
      targets: { nodes: "${{ inputs.nodes }}" }
      env: { DIR: "${{ inputs.dir }}", ID: "${{ execution.id }}" }
      run: echo "undo $ID" >> "$DIR/$ALMANAC_NODE"
  - id: ask
    approval: { message: "Go on?" }
  - id: finish
    targets: { nodes: "${{ inputs.nodes }}" }
    env: { DIR: "${{ inputs.dir }}", ID: "${{ execution.id }}" }
    run: echo "finish $ID" >> "$DIR/$ALMANAC_NODE"
  - id: check
    if: inputs.fail
    targets: [web-1]
    run: exit 3
`

// execution is one of work, and what should become of it.
type execution struct {
	id    string
	nodes []string
	fail  bool
}

// The exit codes of starter watch.
const succeeded, failed, rolledBack = 0, 1, 5

func TestCluster(t *testing.T) {
	t.Parallel()
	programs := os.Getenv(inside)
	if programs == "" {
		programs = build(t)
	}
	if enter(t, programs) {
		return
	}
	h := settle(t, programs)
	ledger := filepath.Join(h.dir, "ledger")
	if err := os.Mkdir(ledger, 0o755); err != nil {
		t.Fatal(err)
	}
	h.write("work.yaml", work)
	var all []execution
	// begin starts an execution, and returns when its command runs on a node.
	begin := func(id, node string, fail bool, on ...string) {
		t.Helper()
		all = append(all, execution{id, on, fail})
		h.try("run", "./work.yaml", "--id", id, "--detach", "-i", "dir="+ledger, "-i", "nodes="+strings.Join(on, ","), "-i", fmt.Sprint("fail=", fail))
		h.until(id+" runs on "+node, time.Minute, func() bool { return h.count(ledger, node, "begin "+id) == 1 })
	}
	// approved tells how long it took until an execution waits for approval, and gives it.
	approved := func(id string) float64 {
		t.Helper()
		took := h.until(id+" waits for approval", 3*time.Minute, func() bool { return h.waiting(id) })
		h.try("approve", id, "ask")
		return took.Seconds()
	}

	begin("calm", "web-1", false, nodes...)
	h.say("without trouble: %.1f s until it waits for approval", approved("calm"))

	// A cut that is shorter than the engine's patience with a node; one that is longer is another test's (dev/e2e).
	var cut time.Time
	if h.net.namespaces {
		begin("cut", "web-3", true, nodes...)
		h.net.cut("web-3")
		time.Sleep(12 * time.Second)
		h.net.mend("web-3")
		h.say("the network of web-3 was cut for 12 s; %.1f s", approved("cut"))

		// Now it stays cut while others die, and has nothing to do.
		h.outcome(all[len(all)-1])
		h.net.cut("web-3")
		cut = time.Now()
	}
	there := nodes[:2]

	begin("worker", "web-1", true, there...)
	h.workers[0].end(syscall.SIGKILL)
	h.say("worker w1 killed; %.1f s until the execution waits for approval", approved("worker"))
	h.workers[0].start()
	begin("worker-2", "web-1", false, there...)
	h.workers[1].end(syscall.SIGKILL)
	h.say("worker w2 killed; %.1f s", approved("worker-2"))
	h.workers[1].start()

	// Who connects anew, as all do now, shows the new certificate.
	h.certificates("certificates", "-t", "200", "agent", "web-1", "web-2")
	h.certificates("certificates", "-t", "200", "worker", "w1", "w2")
	h.renewDatabase()
	for i, server := range h.servers {
		id := fmt.Sprintf("server-%d", i+1)
		begin(id, "web-2", i == 0, there...)
		server.end(syscall.SIGKILL)
		killed := time.Now()
		answered := h.until("the other server answers", 2*time.Minute, func() bool { code, _ := h.starter("list"); return code == 0 })
		approved(id)
		h.say("%s killed; the other answers after %.1f s, the execution waits for approval after %.1f s", server.name, answered.Seconds(), time.Since(killed).Seconds())
		server.start()
		h.until(server.name+" serves again", 2*time.Minute, func() bool { return h.server(i+1, "health").Run() == nil })
	}

	if h.net.namespaces {
		// The servers keep in memory who gave a sign of life: for some seconds after one of them came or went, everybody may seem away.
		h.until("web-3 is away in starter nodes, and no other", 2*time.Minute, func() bool {
			_, out := h.starter("nodes")
			return h.online() == "web-1 web-2" && strings.Contains(out, "3 nodes, 1 no target now")
		})
		away := time.Since(cut)
		h.net.mend("web-3")
		back := h.until("three nodes are there again", 2*time.Minute, func() bool { return h.online() == "web-1 web-2 web-3" })
		h.say("web-3 away in starter nodes %.1f s after its network was cut, there %.1f s after it was mended", away.Seconds(), back.Seconds())
	}

	begin("agent", "web-2", false, nodes...)
	h.agents["web-2"].end(syscall.SIGKILL)
	time.Sleep(2 * time.Second)
	h.agents["web-2"].start()
	h.say("agent of web-2 killed, and back after 2 s; %.1f s", approved("agent"))

	begin("database", "web-1", true, nodes...)
	h.postgres.end(syscall.SIGQUIT) // without a goodbye: it recovers when it starts
	time.Sleep(2 * time.Second)
	h.postgres.start()
	h.say("PostgreSQL crashed, and back after 2 s; %.1f s", approved("database"))

	for _, x := range all {
		h.outcome(x)
	}
	h.say("%d executions ended", len(all))
	h.until("three nodes are there again", 2*time.Minute, func() bool { return h.online() == "web-1 web-2 web-3" })
	wrong := audit(ledger, all)
	for _, line := range wrong {
		t.Error(line)
	}
	left := h.leftovers(ledger)
	h.say("lines of the nodes' ledgers that are wrong: %d; processes left on nodes: %d", len(wrong), left)
	h.refusals()
}

// outcome waits for the end of an execution, and looks how it ended.
func (h *house) outcome(x execution) {
	h.t.Helper()
	if x.fail {
		h.ends(x.id, rolledBack)
	} else {
		h.ends(x.id, succeeded)
	}
}

// ends waits for the end of an execution, and looks at the exit code that tells how it ended.
func (h *house) ends(id string, want int) {
	h.t.Helper()
	var code int
	var out string
	h.until(id+" ends", 3*time.Minute, func() bool {
		code, out = h.starter("watch", id)
		return code != 4 // the server may be away
	})
	if code != want {
		h.t.Errorf("%s: exit code %d, want %d\n%s", id, code, want, out)
	}
}

// audit compares the ledgers with what the executions should have done, and returns what is wrong.
func audit(ledger string, all []execution) []string {
	want := map[string]int{}
	for _, x := range all {
		for _, node := range x.nodes {
			for _, what := range []string{"begin", "end", "finish"} {
				want[node+" "+what+" "+x.id]++
			}
			if x.fail {
				want[node+" undo "+x.id]++
			}
		}
	}
	return compare(want, lines(ledger))
}

// lines counts the lines of the nodes' ledgers, as "NODE LINE".
func lines(ledger string) map[string]int {
	got := map[string]int{}
	for _, node := range nodes {
		text, _ := os.ReadFile(filepath.Join(ledger, node)) // none: nothing happened there
		for line := range strings.Lines(string(text)) {
			got[node+" "+strings.TrimSpace(line)]++
		}
	}
	return got
}

// compare tells which lines are not there as often as they should.
func compare(want, got map[string]int) []string {
	both := maps.Clone(want)
	maps.Copy(both, got)
	var wrong []string
	for _, line := range slices.Sorted(maps.Keys(both)) {
		if got[line] != want[line] {
			wrong = append(wrong, fmt.Sprintf("%s: %d times, want %d", line, got[line], want[line]))
		}
	}
	return wrong
}

// The audit sees what is missing, what was done twice, and what nobody asked for.
func TestAudit(t *testing.T) {
	t.Parallel()
	all := []execution{{id: "a", nodes: []string{"web-1"}, fail: true}, {id: "b", nodes: []string{"web-1", "web-2"}}}
	const one = "begin a\nend a\nbegin b\nend b\nfinish b\nfinish a\nundo a\n"
	const two = "begin b\nend b\nfinish b\n"
	for _, tt := range []struct{ one, two, want string }{
		{one, two, ""},
		{one + "undo a\n", two, "web-1 undo a: 2 times, want 1"},
		{one, two + "undo b\n", "web-2 undo b: 1 times, want 0"},
		{one, strings.TrimSuffix(two, "finish b\n"), "web-2 finish b: 0 times, want 1"},
		{one, "", "web-2 begin b: 0 times, want 1\nweb-2 end b: 0 times, want 1\nweb-2 finish b: 0 times, want 1"},
		{one, two + "begin c\n", "web-2 begin c: 1 times, want 0"},
	} {
		dir := t.TempDir()
		for name, text := range map[string]string{"web-1": tt.one, "web-2": tt.two} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := strings.Join(audit(dir, all), "\n"); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// leftovers counts what still runs on the nodes beside the agent, and a helper that it keeps for the next command.
func (h *house) leftovers(mark string) (left int) {
	for _, node := range nodes {
		var others []string
		var agents int
		for range 50 { // what has ended a moment ago is still being tidied up
			if others, agents = h.net.processes(node, filepath.Join(h.programs, "agent"), "DIR="+mark); len(others) == 0 && agents <= 2 {
				break
			}
			time.Sleep(200 * time.Millisecond)
		}
		if len(others) > 0 || agents > 2 {
			h.t.Errorf("%s: %d agent processes, and %q", node, agents, others)
			left += len(others) + max(0, agents-2)
		}
		if h.net.namespaces && agents == 0 {
			h.t.Errorf("%s: no agent found: this check sees nothing", node)
		}
	}
	return left
}

func (h *house) count(ledger, node, line string) int {
	text, _ := os.ReadFile(filepath.Join(ledger, node)) // none: not yet
	n := 0
	for l := range strings.Lines(string(text)) {
		if strings.TrimSpace(l) == line {
			n++
		}
	}
	return n
}

// try repeats a command until a server takes it: one may just have died.
func (h *house) try(args ...string) {
	h.t.Helper()
	var code int
	var out string
	h.until("starter "+strings.Join(args, " "), time.Minute, func() bool {
		code, out = h.starter(args...)
		return code != 4
	})
	if code != 0 {
		h.t.Fatalf("starter %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
}

// online are the nodes that can be worked on, as starter nodes tells.
func (h *house) online() string {
	code, out := h.starter("nodes", "-o", "json")
	var list []struct {
		ID     string `json:"id"`
		Online bool   `json:"online"`
	}
	if code != 0 || json.Unmarshal([]byte(out), &list) != nil {
		return ""
	}
	var ids []string
	for _, n := range list {
		if n.Online {
			ids = append(ids, n.ID)
		}
	}
	slices.Sort(ids)
	return strings.Join(ids, " ")
}

// waiting tells whether an execution waits for a person.
func (h *house) waiting(id string) bool {
	code, out := h.starter("show", id, "-o", "json")
	var view struct {
		Waiting []struct {
			Step string `json:"step"`
		} `json:"waiting"`
	}
	return code == 0 && json.Unmarshal([]byte(out), &view) == nil && len(view.Waiting) > 0
}
