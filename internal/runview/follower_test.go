package runview

import (
	"testing"
	"time"

	"github.com/almanac-run/almanac/workflows"
)

// The status is told before the steps that it speaks of.
func TestFollowerTellsStatusFirst(t *testing.T) {
	at := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	var f Follower
	f.Next(workflows.View{Runbook: "a", Status: "running", StartedAt: at}, Execution{ID: "x"}, "starter", at)
	events := f.Next(workflows.View{Runbook: "a", Status: "finally", StartedAt: at, Steps: []workflows.StepView{
		{Path: "work", State: workflows.StateSucceeded, StartedAt: &at, EndedAt: &at},
		{Path: "finally.bye", Phase: "finally", State: workflows.StateRunning, StartedAt: &at},
	}}, Execution{ID: "x"}, "starter", at.Add(time.Second))
	var got []string
	for _, e := range events {
		got = append(got, e.Step+" "+e.State)
	}
	if want := []string{"work succeeded", " finally", "finally.bye running"}; len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("got %q, want %q", got, want)
	}
}
