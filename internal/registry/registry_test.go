package registry

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

var at = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func node(change func(*Node)) Node {
	n := Node{ID: "web-1", Name: "web-1.example", Reach: ReachAgent, Installation: "a", BootID: "b1", Registered: at}
	if change != nil {
		change(&n)
	}
	return n
}

func TestAdmit(t *testing.T) {
	known := node(func(n *Node) { n.PastBoots = []string{"b0"} })
	tests := []struct {
		name   string
		report Node
		says   string // empty: admitted
	}{
		{"the same agent again", node(nil), ""},
		{"after a restart of the machine", node(func(n *Node) { n.BootID = "b2" }), ""},
		{"another installation", node(func(n *Node) { n.Installation = "b" }), "another agent serves node web-1: on web-1.example, since 2026-11-25 12:00:00"},
		{"another installation on the same boot", node(func(n *Node) { n.Installation, n.BootID = "b", "b1" }), "starter nodes forget web-1"},
		{"a boot that was followed by another", node(func(n *Node) { n.BootID = "b0" }), "two machines serve node web-1"},
		{"another node", node(func(n *Node) { n.ID = "web-2" }), "not web-2"},
		{"Systems Manager", node(func(n *Node) { n.Reach, n.Installation = ReachSSM, "" }), ""},
	}
	for _, tt := range tests {
		err := known.Admit(tt.report)
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.says)
		}
	}
}

func TestMerge(t *testing.T) {
	n := node(func(n *Node) { n.Compliance = []Compliance{{Baseline: "x", Status: Compliant}} })
	later := at.Add(time.Hour)
	merged := n.Merge(node(func(n *Node) { n.BootID, n.Version, n.Registered = "b2", "13", later }), later)
	if merged.Version != "13" || !merged.Registered.Equal(at) || !merged.Reported.Equal(later) || len(merged.Compliance) != 1 || fmt.Sprint(merged.PastBoots) != "[b1]" {
		t.Errorf("after a restart: %+v", merged)
	}
	if again := merged.Merge(node(func(n *Node) { n.BootID = "b2" }), later); fmt.Sprint(again.PastBoots) != "[b1]" {
		t.Errorf("a report without a restart adds a boot: %v", again.PastBoots)
	}
	if same := n.Merge(node(func(n *Node) { n.Reach, n.Version = ReachSSM, "x" }), later); same.Reach != ReachAgent || same.Version != "" {
		t.Errorf("Systems Manager took a node with an agent: %+v", same)
	}
	remote := node(func(n *Node) { n.Reach = ReachSSM })
	if taken := remote.Merge(node(nil), later); taken.Reach != ReachAgent {
		t.Errorf("the agent did not take a node of Systems Manager: %+v", taken)
	}
	for i := range 50 {
		merged = merged.Merge(node(func(n *Node) { n.BootID = fmt.Sprint("c", i) }), later)
	}
	if len(merged.PastBoots) != mostBoots || merged.PastBoots[mostBoots-1] != "c48" {
		t.Errorf("past boots %v", merged.PastBoots)
	}
}

func TestAssess(t *testing.T) {
	n := node(nil)
	if n.Status() != Unknown {
		t.Errorf("status %s", n.Status())
	}
	n = n.Assess(Compliance{Baseline: "b", Status: Compliant}, at)
	n = n.Assess(Compliance{Baseline: "a", Status: NonCompliant}, at.Add(1*time.Hour))
	n = n.Assess(Compliance{Baseline: "a", Status: NonCompliant, Failed: 1}, at.Add(2*time.Hour))
	if n.Status() != NonCompliant || n.Compliance[0].Baseline != "a" || !n.Compliance[0].Since.Equal(at.Add(time.Hour)) || !n.Compliance[0].At.Equal(at.Add(2*time.Hour)) || n.Compliance[0].Failed != 1 {
		t.Errorf("%s %+v", n.Status(), n.Compliance)
	}
	n = n.Assess(Compliance{Baseline: "a", Status: Compliant}, at.Add(3*time.Hour))
	if n.Status() != Compliant || !n.Compliance[0].Since.Equal(at.Add(3*time.Hour)) {
		t.Errorf("%s %+v", n.Status(), n.Compliance)
	}
	for i := range 30 {
		n = n.Assess(Compliance{Baseline: fmt.Sprintf("z%02d", i), Status: Compliant}, at.Add(time.Duration(4+i)*time.Hour))
	}
	if len(n.Compliance) != mostBaselines || n.Compliance[0].Baseline != "z10" {
		t.Errorf("%d baselines, the first %s: the oldest go first", len(n.Compliance), n.Compliance[0].Baseline)
	}
}

func TestClockWrong(t *testing.T) {
	for _, tt := range []struct {
		clock, uncertain time.Duration
		wrong            bool
	}{
		{0, 0, false}, {time.Minute, 0, false}, {61 * time.Second, 0, true}, {-61 * time.Second, 0, true},
		{61 * time.Second, 5 * time.Second, false}, // nobody can be sure
		{-time.Hour, 5 * time.Second, true},
	} {
		n := Node{Limit: Duration(time.Minute), Clock: Duration(tt.clock), Uncertain: Duration(tt.uncertain)}
		if n.ClockWrong() != tt.wrong {
			t.Errorf("%s ± %s: %v", tt.clock, tt.uncertain, n.ClockWrong())
		}
	}
}
