package aws

import (
	"context"
	"fmt"
	"time"

	"github.com/almanac-run/almanac/action"
)

// How long AWS's news takes. What was just made is not known everywhere at
// once, and who asks twice may be answered by one that knows and one that does not.
const (
	// newsTakes is how long to look for what may have been made before it is
	// taken for not made.
	newsTakes = 90 * time.Second

	// goneTakes is how long an instance has to be not found before it is taken for
	// gone: AWS warns that one which is not found may be running.
	goneTakes = 5 * time.Minute

	// commandNewsTakes is newsTakes of SSM's commands.
	commandNewsTakes = 15 * time.Second
)

// Pauses between two looks.
const (
	firstPause = 2 * time.Second
	lastPause  = 15 * time.Second

	// passingErrors is how many looks in a row may fail by what passes.
	passingErrors = 10
)

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// within looks again and again, until there is an answer, an error that does not
// pass, or time is up. It returns whether there was an answer. look tells, if it
// has none, what it sees: that is reported with every heartbeat. Looks that fail
// by what passes are made again.
func (c client) within(ctx context.Context, limit time.Duration, what string, look func() (bool, string, error)) (bool, error) {
	began, pause, wrong := c.Now(), firstPause, 0
	for {
		done, sees, err := look()
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case err != nil && passing(err) && wrong < passingErrors:
			wrong++
			sees = err.Error()
		case err != nil:
			return false, err
		case done:
			return true, nil
		default:
			wrong = 0
		}
		waited := c.Now().Sub(began)
		if waited >= limit {
			return false, err // that the last look failed is not that there is nothing
		}
		c.step.Heartbeat(fmt.Sprintf("%s: %s, %s", what, sees, waited.Round(time.Second)))
		if err := c.Sleep(ctx, min(pause, limit-waited)); err != nil {
			return false, err
		}
		pause = min(pause*3/2, lastPause)
	}
}

// wait is within for what has to come: that it has not when the attempt's time
// is up is an error. usual bounds it where the attempt has no end of its own.
func (c client) wait(ctx context.Context, usual time.Duration, what string, look func() (bool, string, error)) error {
	limit := usual
	if end, ok := ctx.Deadline(); ok {
		limit = end.Sub(c.Now())
	}
	last := ""
	ok, err := c.within(ctx, limit, what, func() (bool, string, error) {
		done, sees, err := look()
		last = sees
		return done, sees, err
	})
	switch {
	case err == nil && !ok:
		err = action.Errorf(action.Timeout, "%s: %s after %s", what, last, limit.Round(time.Second))
	case err != nil && ctx.Err() != nil:
		err = fmt.Errorf("%s: %s: %w", what, last, err)
	}
	return err
}

// news makes a call that names something which may have been made a moment ago:
// that AWS does not find it is believed only after newsTakes.
func (c client) news(ctx context.Context, service, operation string, in members) (out members, err error) {
	_, ended := c.within(ctx, newsTakes, operation, func() (bool, string, error) {
		out, err = c.call(ctx, service, operation, in)
		return !notFound(err), "not found so far", nil
	})
	if ended != nil {
		return nil, ended
	}
	return out, err
}

// removed makes calls that remove things, each until AWS has done so or has not
// found it for so long that it is not there. busy says of an error that the thing
// is in use for a moment; in the end it is the error.
func (c client) removed(ctx context.Context, what string, ids []string, busy func(error) bool, remove func(id string) error) error {
	left := sorted(ids)
	var inUse error
	_, err := c.within(ctx, newsTakes, "remove "+what, func() (bool, string, error) {
		var again []string
		inUse = nil
		for _, id := range left {
			switch err := remove(id); {
			case err == nil:
			case notFound(err):
				again = append(again, id)
			case busy != nil && busy(err):
				again, inUse = append(again, id), err
			default:
				return false, "", err
			}
		}
		left = again
		return len(left) == 0, named(left) + " left", nil
	})
	if err != nil {
		return err
	}
	return inUse
}
