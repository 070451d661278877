package sweep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/internal/awsapi"
)

// Result is what became of a resource that was to be removed.
type Result struct {
	Judged
	Removed bool   `json:"removed"`
	Gone    bool   `json:"gone,omitempty"` // it was gone before
	Error   string `json:"error,omitempty"`
}

// Removal removes what was judged so.
type Removal struct {
	Caller  awsapi.Caller
	Server  Server
	Options Options

	// Sleep waits between two looks at what takes time; nil is a timer.
	Sleep func(ctx context.Context, d time.Duration) error

	// Done is told of each result; nil: nobody is.
	Done func(Result)
}

// pause is the time between two looks.
const pause = 5 * time.Second

// errChanged is why something is not removed any more.
var errChanged = errors.New("it is no longer as it was judged")

// Run removes all that Remove says, in the order of kinds, and goes on past what
// fails. Immediately before, each is read and judged again.
func (m Removal) Run(ctx context.Context, all []Judged) []Result {
	if m.Sleep == nil {
		m.Sleep = sleep
	}
	var results []Result
	for _, k := range kinds {
		var these []*Result
		for _, j := range all {
			if j.kind != k || !j.Remove {
				continue
			}
			r := &Result{Judged: j}
			err := ctx.Err()
			if err == nil {
				r.Gone, err = m.one(ctx, j)
			}
			r.Removed = err == nil && !r.Gone
			if err != nil {
				r.Error = err.Error()
			}
			these = append(these, r)
		}
		m.wait(ctx, k, these)
		for _, r := range these {
			results = append(results, *r)
			if m.Done != nil {
				m.Done(*r)
			}
		}
	}
	return results
}

// one removes one resource, if it still is what was judged.
func (m Removal) one(ctx context.Context, j Judged) (gone bool, err error) {
	c := client{m.Caller, awsapi.Scope{Region: j.Region, Role: j.Role}}
	now, err := j.kind.read(ctx, c, j.ID)
	if err != nil {
		return false, err
	}
	if now == nil {
		return true, nil
	}
	if now.ID != j.ID || now.Execution != j.Execution || now.Step != j.Step || now.Token != j.Token {
		return false, fmt.Errorf("%w: its tags are others now", errChanged)
	}
	if len(now.partOf) > 0 { // it was to be removed before, and could not be
		return false, fmt.Errorf("%s needs it", strings.Join(now.partOf, ", "))
	}
	again, err := judge{Server: m.Server, known: map[string][]Execution{}}.one(ctx, *now, m.Options)
	if err != nil {
		return false, err
	}
	if !again.Remove {
		return false, fmt.Errorf("%w: %s", errChanged, again.Reason)
	}
	err = j.kind.remove(ctx, c, *now)
	if isGone(err) {
		err = nil
	}
	return false, err
}

// wait waits until what was removed is gone.
func (m Removal) wait(ctx context.Context, k *kind, these []*Result) {
	if k.wait == 0 {
		return
	}
	for waited := time.Duration(0); ; waited += pause {
		var left []*Result
		for _, r := range these {
			if !r.Removed {
				continue
			}
			now, err := k.read(ctx, client{m.Caller, awsapi.Scope{Region: r.Region, Role: r.Role}}, r.ID)
			switch {
			case err != nil && !passing(err):
				r.Removed, r.Error = false, fmt.Sprintf("asked for, but whether it is done is not known: %v", err)
			case err == nil && now == nil:
				continue
			case now != nil && now.State == "DELETE_FAILED":
				r.Removed, r.Error = false, "its deletion failed; the events of the stack say why"
			case waited >= k.wait:
				r.Removed, r.Error = false, fmt.Sprintf("asked for, but not done within %s", k.wait)
			default:
				left = append(left, r)
			}
		}
		if len(left) == 0 {
			return
		}
		if err := m.Sleep(ctx, pause); err != nil {
			for _, r := range left {
				r.Removed, r.Error = false, "asked for, but not waited for"
			}
			return
		}
	}
}

// passing tells whether the same call may do a little later.
func passing(err error) bool {
	var e *awsapi.Error
	return errors.As(err, &e) && slices.Contains([]awsapi.Class{awsapi.Throttled, awsapi.Unavailable}, e.Class)
}

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
