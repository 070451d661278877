// Package retain removes outputs that have been kept for long enough.
//
// It gives Limits, as flags state them, and Once, which holds a shelf to them. It promises that an
// output which is being written stays, that of too many the oldest go first, those that are
// in the central store before those that are not, that what went says so for a while, and
// that memory is bounded however much is there.
package retain

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/almanac-run/almanac/internal/output"
	"github.com/almanac-run/almanac/lang/program"
)

// Limits say how long and how much is kept. Zero values are no limits.
type Limits struct {
	Keep Age
	Most Size
}

// Age is a duration that a flag takes as runbooks write it: 30d, 12h.
type Age time.Duration

// Set implements pflag.Value.
func (a *Age) Set(text string) error {
	d, err := program.ParseDuration(text)
	if err == nil && d < 0 {
		err = errors.New("want 0 (for ever) or more")
	}
	*a = Age(d)
	return err
}

func (a *Age) String() string {
	d := time.Duration(*a)
	if days := d / (24 * time.Hour); days > 0 && d == days*24*time.Hour {
		return fmt.Sprintf("%dd", days)
	}
	return d.String()
}

// Type implements pflag.Value.
func (*Age) Type() string { return "duration" }

// Size is a number of bytes that a flag takes with a unit: 500MiB, 10GiB, 1TiB.
type Size int64

var units = []string{"B", "KiB", "MiB", "GiB", "TiB"}

// Set implements pflag.Value.
func (s *Size) Set(text string) error {
	for i := len(units) - 1; i >= 0; i-- {
		number, ok := strings.CutSuffix(text, units[i])
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if n *= float64(int64(1) << (10 * i)); err != nil || n < 0 || !(n < math.MaxInt64) {
			break
		}
		*s = Size(n)
		return nil
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n >= 0 {
		*s = Size(n)
		return nil
	}
	return fmt.Errorf("%q is no size: want bytes, or a number with KiB, MiB, GiB or TiB, such as 10GiB; 0 is no limit", text)
}

func (s *Size) String() string {
	for i := len(units) - 1; i > 0; i-- {
		if unit := Size(1) << (10 * i); *s >= unit {
			return strconv.FormatFloat(math.Round(float64(*s)/float64(unit)*100)/100, 'f', -1, 64) + units[i]
		}
	}
	return strconv.FormatInt(int64(*s), 10)
}

// Type implements pflag.Value.
func (*Size) Type() string { return "size" }

// notes is how long what was removed says so.
const notes = 90 * 24 * time.Hour

// Removed counts what Once has removed.
type Removed struct {
	Outputs int
	Bytes   int64
}

// Once holds a shelf to the limits. It goes on past an output that cannot be removed, and
// returns the first such error.
func Once(ctx context.Context, shelf output.Shelf, l Limits, now time.Time) (Removed, error) {
	p := pass{shelf: shelf, l: l, now: now, kept: map[class]int64{}}
	if err := shelf.List(ctx, func(e output.Entry) error { return p.byAge(ctx, e) }); err != nil {
		return p.removed, err
	}
	p.plan()
	if len(p.free) == 0 {
		return p.removed, p.failed
	}
	return p.removed, errors.Join(shelf.List(ctx, func(e output.Entry) error { return p.bySize(ctx, e) }), p.failed)
}

// pass is one call of Once. It goes through the shelf twice, since what is there may not fit into memory: first it
// counts bytes by minute, then it removes as many of each minute as have to go.
type pass struct {
	shelf   output.Shelf
	l       Limits
	now     time.Time
	kept    map[class]int64 // bytes
	free    map[class]int64 // of these, how many have to go
	removed Removed
	failed  error
}

// class is a minute's outputs. Those that are in the central store as well go before all others.
type class struct {
	unsent bool
	minute int64
}

func classOf(e output.Entry) class { return class{!e.Sent, e.At.Unix() / 60} }

func (p *pass) byAge(ctx context.Context, e output.Entry) error {
	age := p.now.Sub(e.At)
	switch {
	case e.Note:
		if age > notes {
			p.note(ctx, p.shelf.Forget(ctx, e.Ref))
		}
	case e.Live:
	case p.l.Keep > 0 && age > time.Duration(p.l.Keep):
		p.expire(ctx, e, fmt.Sprintf("kept for %s", &p.l.Keep))
	default:
		p.kept[classOf(e)] += e.Size
	}
	return ctx.Err()
}

// plan decides what of each minute has to go.
func (p *pass) plan() {
	total := int64(0)
	for _, n := range p.kept {
		total += n
	}
	p.free = map[class]int64{}
	if p.l.Most <= 0 {
		return
	}
	over := total - int64(p.l.Most)
	for _, c := range slices.SortedFunc(maps.Keys(p.kept), func(a, b class) int {
		if a.unsent != b.unsent {
			if b.unsent {
				return -1
			}
			return 1
		}
		return int(min(max(a.minute-b.minute, -1), 1))
	}) {
		if over <= 0 {
			return
		}
		p.free[c] = min(over, p.kept[c])
		over -= p.kept[c]
	}
}

func (p *pass) bySize(ctx context.Context, e output.Entry) error {
	if c := classOf(e); !e.Note && !e.Live && p.free[c] > 0 {
		p.free[c] -= e.Size
		p.expire(ctx, e, fmt.Sprintf("only %s are kept, the newest", &p.l.Most))
	}
	return ctx.Err()
}

func (p *pass) expire(ctx context.Context, e output.Entry, why string) {
	err := p.shelf.Expire(ctx, e.Ref, fmt.Sprintf("expired on %s (%s)", p.now.UTC().Format(time.DateOnly), why))
	if err == nil {
		p.removed.Outputs++
		p.removed.Bytes += e.Size
	}
	p.note(ctx, err)
}

func (p *pass) note(ctx context.Context, err error) {
	if p.failed == nil && ctx.Err() == nil {
		p.failed = err
	}
}
