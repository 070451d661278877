package awsapi

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limits keeps calls of one operation, as one role in one region, below the rate
// at which AWS throttles them. AWS does not say what that rate is; so a key
// learns it as TCP does.
//
// Until the first throttled answer only the calls in flight are bounded: by few,
// and by one more with every fourth success, or 200 calls that start together would
// all be throttled before the first answer is there. With every success, a bucket
// that takes 100 at once would find 100 more in flight, all in vain. After it the rate is
// bounded, too. It falls at a throttled answer, at most once in a second, since
// the calls that were under way at that moment say nothing new; and it rises
// with every second that passes without one.
type limits struct {
	mu   sync.Mutex
	keys map[string]*limit
}

const (
	firstWindow = 8   // calls in flight at first
	maxWindow   = 256 // and at most
	winsAPlace  = 4   // successes for one call more in flight
	firstRate   = 4.0 // calls a second after the first throttled answer
	leastRate   = 0.5
	freeRate    = 100.0 // from here on the rate is not bounded
	fallsTo     = 0.7
	rises       = 0.25 // calls a second, every second
	forgetAfter = 10 * time.Minute
)

type limit struct {
	mu     sync.Mutex
	freed  chan struct{} // closed and renewed when a place is free
	turn   chan struct{}
	flying int
	window int
	wins   int           // successes since the window last grew
	rate   *rate.Limiter // nil until the first throttled answer
	raised time.Time     // when the rate last rose
	cut    time.Time     // when it last fell
	used   time.Time
}

func (l *limits) key(key string) *limit {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	k := l.keys[key]
	if k == nil {
		for name, old := range l.keys {
			if old.idle(now) {
				delete(l.keys, name)
			}
		}
		if l.keys == nil {
			l.keys = map[string]*limit{}
		}
		k = &limit{window: firstWindow, freed: make(chan struct{}), turn: make(chan struct{}, 1)}
		l.keys[key] = k
	}
	k.mu.Lock()
	k.used = now
	k.mu.Unlock()
	return k
}

func (k *limit) idle(now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.flying == 0 && now.Sub(k.used) > forgetAfter
}

// wait returns when a call may be sent. done must be called with its outcome.
func (k *limit) wait(ctx context.Context) error {
	for {
		k.mu.Lock()
		if k.flying < k.window {
			k.flying++
			k.rise(time.Now())
			limiter := k.rate
			k.mu.Unlock()
			if limiter == nil {
				return nil
			}
			if err := k.pace(ctx, limiter); err != nil {
				k.release()
				return err
			}
			return nil
		}
		freed := k.freed
		k.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pace waits for the limiter, one call after the other: those that wait in the
// limiter have times that a new rate does not move, and would come in bunches.
func (k *limit) pace(ctx context.Context, limiter *rate.Limiter) error {
	select {
	case k.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-k.turn }()
	if err := limiter.Wait(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &Error{Code: "LocalRateExceeded", Class: Throttled,
			Message: "AWS throttles this operation, and its turn would come after the deadline"}
	}
	return nil
}

// rise raises the rate for the seconds that passed. k.mu is held.
func (k *limit) rise(now time.Time) {
	if k.rate == nil {
		return
	}
	seconds := now.Sub(k.raised).Seconds()
	if seconds < 1 {
		return
	}
	k.raised = now
	next := float64(k.rate.Limit()) + rises*seconds
	if next >= freeRate {
		k.rate, k.window = nil, maxWindow
		return
	}
	k.rate.SetLimit(rate.Limit(next))
}

func (k *limit) release() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.free()
}

func (k *limit) free() {
	k.flying--
	close(k.freed)
	k.freed = make(chan struct{})
}

// done ends what wait began.
func (k *limit) done(throttled bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.free()
	now := time.Now()
	switch {
	case throttled && k.rate == nil:
		k.rate, k.raised, k.cut = rate.NewLimiter(firstRate, 1), now, now
		k.window = firstWindow
	case throttled && now.Sub(k.cut) >= time.Second:
		k.rate.SetLimit(rate.Limit(max(leastRate, float64(k.rate.Limit())*fallsTo)))
		k.raised, k.cut = now, now
	case !throttled && k.rate == nil:
		if k.wins++; k.wins == winsAPlace {
			k.wins, k.window = 0, min(k.window+1, maxWindow)
		}
	}
}
