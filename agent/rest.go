package main

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/almanac-run/almanac/internal/memory"
)

// An agent mostly waits. What its start and its work have touched it gives back:
// memory, and the pages of its program, most of which only the start needs.
const (
	restAfter = 5 * time.Second
	restEvery = 5 * time.Minute
	gcPercent = 50 // a heap of a few megabytes is collected in a millisecond; half of it again is enough to grow
)

// rest gives back what is not needed, from time to time, until ctx ends.
func rest(ctx context.Context) {
	debug.SetGCPercent(gcPercent)
	for pause := restAfter; ; pause = restEvery {
		select {
		case <-time.After(pause):
			memory.GiveBack()
		case <-ctx.Done():
			return
		}
	}
}
