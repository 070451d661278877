// Package fleet is the arithmetic of rate control: how many targets at once,
// how many errors are too many, which targets form which batch.
//
// It promises that every target is in exactly one batch and that limits have
// the meaning of Systems Manager's max-concurrency and max-errors. It knows
// counts, not nodes.
package fleet

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Limit is a number ("5") or a percentage ("10%") of a total.
type Limit struct {
	N       int
	Percent bool
}

// ParseLimit reads "5" or "10%". Numbers are not negative, percentages 0 to 100.
func ParseLimit(text string) (Limit, error) {
	digits, percent := strings.CutSuffix(strings.TrimSpace(text), "%")
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 || percent && n > 100 || n > math.MaxInt32 {
		return Limit{}, fmt.Errorf("%q is neither a number (5) nor a percentage (10%%)", text)
	}
	return Limit{N: n, Percent: percent}, nil
}

// AtOnce is the limit as a number of targets to work on at once: a percentage
// rounds up, and it is at least 1.
func (l Limit) AtOnce(total int) int {
	n := l.N
	if l.Percent {
		n = (total*l.N + 99) / 100
	}
	return max(n, 1)
}

// Errors is the limit as a number of errors that are tolerated: work stops
// after one more. A percentage rounds down.
func (l Limit) Errors(total int) int {
	if l.Percent {
		return total * l.N / 100
	}
	return l.N
}

// Batches splits total targets: sizes gives the size of each batch, the last
// repeats until all are covered; without sizes there is one batch. Each batch
// is [start, end).
func Batches(total int, sizes []Limit) [][2]int {
	var batches [][2]int
	for start, i := 0, 0; start < total; i++ {
		size := total
		if len(sizes) > 0 {
			size = sizes[min(i, len(sizes)-1)].AtOnce(total)
		}
		end := min(start+size, total)
		batches = append(batches, [2]int{start, end})
		start = end
	}
	return batches
}
