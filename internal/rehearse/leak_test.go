package rehearse

import (
	"runtime"
	"testing"
	"time"
)

// A rehearsal leaves nothing of its own behind either.
func TestNoGoroutinesLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	rehearsed(t, "runbook: t\nsteps:\n  - { id: a, action: box.make, with: { name: a } }\n  - { id: ok, approval: { message: x, timeout: 1h } }\n")
	for range 50 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("%d goroutines more than before", runtime.NumGoroutine()-before)
}
