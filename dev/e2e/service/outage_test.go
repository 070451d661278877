package service

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/almanac-run/almanac/dev/server"
)

const outageNodes = 6

// TestOutage stops the only server for half a minute while commands run on nodes, and starts it again: the commands end in
// the meantime or after it, and no node is lost, since agents are back in less time than the server gives them: also one
// that was restarted meanwhile. With ALMANAC_LONG=1 it is stopped for four minutes.
func TestOutage(t *testing.T) {
	t.Parallel()
	outage, length := 30*time.Second, "45"
	if os.Getenv("ALMANAC_LONG") != "" {
		outage, length = 4*time.Minute, "270"
	}
	options := server.Options{File: filepath.Join(t.TempDir(), "db")}
	srv, err := server.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Stop() })
	_, port, err := net.SplitHostPort(srv.Address())
	if err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, dir: t.TempDir(), address: srv.Address()}
	h.start(nil, "worker")
	agent := func(id string) *process {
		return h.start(nil, "agent", "--id", id, "--state-dir", filepath.Join(h.dir, "state-"+id), "--ec2-metadata", "off")
	}
	var nodes []string
	var last *process
	for i := range outageNodes {
		nodes = append(nodes, fmt.Sprintf("n%d", i))
		last = agent(nodes[i])
	}
	file := h.write("long.yaml", `
runbook: test/long
inputs:
  nodes: { type: list<string> }
  log: { type: string }
  length: { type: string }
steps:
  - id: work
    targets: { nodes: "${{ inputs.nodes }}", max_concurrency: 100% }
    env: { LOG: "${{ inputs.log }}", LENGTH: "${{ inputs.length }}" }
    run: echo "begin $ALMANAC_NODE" >> "$LOG"; if [ "$ALMANAC_NODE" = n0 ]; then sleep 15; else sleep "$LENGTH"; fi; echo "end $ALMANAC_NODE" >> "$LOG"
`)
	log := filepath.Join(h.dir, "log")
	count := func(word string) int {
		text, _ := os.ReadFile(log) // not there yet: none
		return strings.Count(string(text), word)
	}
	within := func(what string, so func() bool) {
		t.Helper()
		for end := time.Now().Add(2 * time.Minute); !so(); time.Sleep(200 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: it does not come", what)
			}
		}
	}
	within("the nodes", func() bool {
		return strings.Count(h.must("starter", "nodes", "-o", "json"), `"online": true`) == outageNodes
	})
	h.must("starter", "run", file, "--id", "long", "--detach", "-i", "nodes="+strings.Join(nodes, ","), "-i", "log="+log, "-i", "length="+length)
	within("all have begun", func() bool { return count("begin") == outageNodes })

	if err := srv.Stop(); err != nil {
		t.Fatal(err)
	}
	_ = last.Process.Kill() // and meanwhile an agent dies, and its service manager starts it again
	<-last.ended
	agent(nodes[len(nodes)-1])
	time.Sleep(outage)
	if options.Port, err = strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
	again, err := server.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Stop() })
	code, out := h.run("starter", "watch", "long")
	if code != 0 || count("begin") != outageNodes || count("end") != outageNodes {
		t.Errorf("exit code %d, %d began, %d ended:\n%s", code, count("begin"), count("end"), out)
	}
}
