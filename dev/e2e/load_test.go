package e2e

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/dev/load"
	"github.com/almanac-run/almanac/internal/control"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/workflows"
)

const loadRunbook = `
runbook: test/load
on_failure: stop
inputs:
  nodes: { type: list<string> }
steps:
  - id: named
    targets: { nodes: "${{ inputs.nodes }}", max_concurrency: 7, max_errors: 100% }
    run: "true"
  - id: selected
    targets: { where: 'node.os == "debian" && node.tags.role == "web"', max_concurrency: 7 }
    run: "true"
outputs:
  named: ${{ steps.named.succeeded }}
  failed: ${{ steps.named.failed }}
  selected: ${{ steps.selected.succeeded }}
`

// TestLoad runs commands on a hundred nodes that the load driver plays: the
// registry knows each, each named and each selected one gets its work exactly
// once, never more at once than allowed, and one that fails is counted as such.
func TestLoad(t *testing.T) {
	t.Parallel()
	srv, c := serve(t, nil)
	nodes := load.Nodes(100)
	const bad = "node-00003"
	fleet, err := load.Serve(t.Context(), srv.Address(), load.IDs(nodes), func(w load.Work) (any, error) {
		time.Sleep(20 * time.Millisecond) // so that several run at once
		if w.Node == bad {
			return nil, temporal.NewNonRetryableApplicationError("exit code 1", string(action.Failed), nil)
		}
		return load.Nothing(w)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fleet.Stop)
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- control.Run(ctx, control.Options{Client: c, Logger: slog.New(slog.DiscardHandler)}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	if err := load.Register(t.Context(), c, nodes); err != nil {
		t.Fatal(err)
	}
	all, err := registry.Lister{Service: c.WorkflowService(), Namespace: "default"}.All(t.Context(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != len(nodes) {
		t.Fatalf("%d nodes are listed, want %d", len(all), len(nodes))
	}
	want := map[load.Piece]int{}
	var selected []string
	for i, n := range nodes {
		if l := all[i]; l.ID != n.ID || l.Name != n.Name || l.Tags["rack"] != n.Tags["rack"] || !l.Registration || l.Absent() != "" {
			t.Errorf("listed as %+v, want %+v", l, n)
		}
		want[load.Piece{Node: n.ID, ID: "named@" + n.ID}]++
		if n.OS == "debian" && n.Tags["role"] == "web" {
			want[load.Piece{Node: n.ID, ID: "selected@" + n.ID}]++
			selected = append(selected, n.ID)
		}
	}

	raw, err := json.Marshal(load.IDs(nodes))
	if err != nil {
		t.Fatal(err)
	}
	p := compileLedger(t, loadRunbook, nil)
	run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{TaskQueue: workflows.TaskQueue, ID: "load"}, p.Runbook,
		workflows.Start{Program: p, Inputs: map[string]json.RawMessage{"nodes": raw}})
	if err != nil {
		t.Fatal(err)
	}
	r := ended(t, run)
	var named, failed, chosen []string
	for name, into := range map[string]*[]string{"named": &named, "failed": &failed, "selected": &chosen} {
		if err := json.Unmarshal(r.Outputs[name], into); err != nil {
			t.Fatalf("%s: %s: output %s: %v", r.Outcome, r.Message, name, err)
		}
	}
	if len(named) != len(nodes)-1 || !slices.Equal(failed, []string{bad}) || !slices.Equal(chosen, selected) {
		t.Errorf("%d succeeded, %v failed, %v were selected; want %d, %s and %v", len(named), failed, chosen, len(nodes)-1, bad, selected)
	}
	if diff := cmp.Diff(want, fleet.Began()); diff != "" {
		t.Errorf("what began on which node (-want +got):\n%s", diff)
	}
	if now, most := fleet.AtOnce(); now != 0 || most > 7 || most < 2 {
		t.Errorf("%d at once at the end, %d at most", now, most)
	}
}
