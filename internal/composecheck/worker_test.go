package composecheck

import (
	"slices"
	"testing"
	"time"
)

// The worker is asked whether it is ready by its own program, since its image has no other, and has more time to stop
// than the actions that it waits for.
func TestWorkerIsAsked(t *testing.T) {
	w := project(t).Services["worker"]
	if v := w.Environment["ALMANAC_LISTEN"]; v == nil || *v == "" {
		t.Error("the worker does not listen, so that nobody can ask it")
	}
	if w.GetScale() != 2 {
		t.Errorf("there are %d workers, want 2: one dies, the other goes on", w.GetScale())
	}
	if w.HealthCheck == nil || !slices.Equal(w.HealthCheck.Test, []string{"CMD", "/usr/local/bin/worker", "health"}) {
		t.Errorf("health check %+v", w.HealthCheck)
	}
	if w.StopGracePeriod == nil || time.Duration(*w.StopGracePeriod) < 45*time.Second {
		t.Errorf("Docker kills the worker %v after SIGTERM; its actions alone may take 30 s", w.StopGracePeriod)
	}
	if len(w.Ports) > 0 {
		t.Errorf("the worker's metrics are published: %+v", w.Ports)
	}
}
