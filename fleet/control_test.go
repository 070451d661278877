package fleet

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// The cut-off is exact: with targets one at a time that all fail, n tolerated
// errors mean n+1 targets that ran, whether n is a number or a percentage.
func TestCutOff(t *testing.T) {
	for _, tt := range []struct {
		errors string
		total  int
		ran    int
	}{
		{"0", 10, 1}, {"1", 10, 2}, {"3", 10, 4}, {"9", 10, 10}, {"10", 10, 10}, {"99", 10, 10},
		{"0%", 50, 1}, {"10%", 50, 6}, {"10%", 9, 1}, {"10%", 19, 2}, {"33%", 100, 34}, {"100%", 7, 7},
	} {
		l, err := ParseLimit(tt.errors)
		if err != nil {
			t.Fatal(err)
		}
		c := Control{AtOnce: 1, Tolerated: l.Errors(tt.total)}
		ran := 0
		for ; ran < tt.total && c.MayStart(); ran++ {
			c.Start()
			c.End(true)
		}
		if ran != tt.ran {
			t.Errorf("max_errors %s of %d: %d targets ran, want %d", tt.errors, tt.total, ran, tt.ran)
		}
	}
}

// Whatever the limits, the batches and the order in which targets end: every
// target begins at most once, and all do unless it halts; never more than the
// limit run at once; a batch begins when the one before has ended; none begins
// after error n+1; and it is halted exactly if more than n have failed.
func TestRateControl(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	limit := func() Limit { return Limit{N: r.IntN(101), Percent: r.IntN(2) == 0} }
	halts := 0
	for range 5000 {
		total := r.IntN(120)
		atOnce, tolerated := limit().AtOnce(total), limit().Errors(total)
		sizes := make([]Limit, r.IntN(4))
		for i := range sizes {
			sizes[i] = limit()
		}
		badOneIn := 1 + r.IntN(8)
		what := fmt.Sprintf("%d targets, %d at once, %d errors, batches %v", total, atOnce, tolerated, sizes)

		c := Control{AtOnce: atOnce, Tolerated: tolerated}
		begun, failed := make([]int, total), 0
		var running []int
		for _, batch := range Batches(total, sizes) {
			next := batch[0]
			for {
				for next < batch[1] && c.MayStart() {
					if failed > tolerated {
						t.Fatalf("%s: target %d begins after %d errors", what, next, failed)
					}
					c.Start()
					begun[next]++
					running = append(running, next)
					next++
				}
				if len(running) > atOnce {
					t.Fatalf("%s: %d run", what, len(running))
				}
				if len(running) == 0 {
					break
				}
				// It must not hesitate either.
				if len(running) < atOnce && next < batch[1] && failed <= tolerated {
					t.Fatalf("%s: only %d run, with %d errors", what, len(running), failed)
				}
				i := r.IntN(len(running))
				running = slices.Delete(running, i, i+1)
				bad := r.IntN(badOneIn) == 0
				if bad {
					failed++
				}
				c.End(bad)
				if c.Halted() != (failed > tolerated) {
					t.Fatalf("%s: halted is %v after %d errors", what, c.Halted(), failed)
				}
			}
			if c.Halted() {
				break
			}
		}
		for i, n := range begun {
			if n > 1 || n == 0 && !c.Halted() {
				t.Fatalf("%s: target %d began %d times", what, i, n)
			}
		}
		if c.Halted() {
			halts++
		}
	}
	if halts < 500 || halts > 4500 {
		t.Errorf("%d of 5000 halted: the cases say little", halts)
	}
}
