package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const long = `
runbook: test/long
inputs:
  dir: { type: string }
  nodes: { type: list<string> }
steps:
  - id: work
    targets: { nodes: "${{ inputs.nodes }}", max_concurrency: 100% }
    env: { DIR: "${{ inputs.dir }}" }
    run: |
      echo begin >> "$DIR/$ALMANAC_NODE"
      sleep 60
      echo end >> "$DIR/$ALMANAC_NODE"
`

// TestDatabaseAway stops PostgreSQL for longer than anybody has patience while commands run on nodes: the servers answer
// meanwhile, and know nothing. No node is given up, and no command is ended or runs twice. It runs alone: two cores
// are few for several clusters.
func TestDatabaseAway(t *testing.T) {
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
	h.write("long.yaml", long)
	h.try("run", "./long.yaml", "--id", "long", "--detach", "-i", "dir="+ledger, "-i", "nodes="+strings.Join(nodes, ","))
	h.until("the commands run", time.Minute, func() bool { return len(lines(ledger)) == len(nodes) })
	h.postgres.end(syscall.SIGQUIT)
	h.say("PostgreSQL is away")
	time.Sleep(42 * time.Second)
	h.postgres.start()
	h.say("PostgreSQL is back")
	h.ends("long", succeeded)
	want := map[string]int{}
	for _, n := range nodes {
		want[n+" begin"], want[n+" end"] = 1, 1
	}
	for _, wrong := range compare(want, lines(ledger)) {
		t.Error(wrong)
	}
	h.say("all commands ended, each once: %v", fmt.Sprint(len(nodes)))
}
