package workflows

import (
	"encoding/json"
	"errors"
	"fmt"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"

	"github.com/almanac-run/almanac/action"
)

// errHalted ends a body of steps that has to be left for now: the execution is
// about to continue as new, or a body beside it has failed. It is no failure.
var errHalted = errors.New("halted")

// stopped is `stop:`, on its way out.
type stopped struct{ message string }

func (s *stopped) Error() string { return "stopped: " + s.message }

// Error returns "file:line:col: step path on target: message".
func (f *Failure) Error() string {
	place := ""
	if f.File != "" && f.Pos.Line > 0 {
		place = fmt.Sprintf("%s:%s: ", f.File, f.Pos)
	}
	if f.Step != "" {
		place += "step " + f.Step
		if f.Target != "" {
			place += " on " + f.Target
		}
		place += ": "
	}
	return place + f.Message
}

// brief is f without what only its first few fellows need.
func (f *Failure) brief() *Failure {
	b := *f
	b.Message, b.Detail, b.Cause = firstLine(f.Message), nil, nil
	if d := detailOf(f.Detail); d.Ref != "" {
		d.Tail = lastLine(lastOf(d.Tail))
		b.Detail, _ = json.Marshal(d) // it has no part that could not be written
	}
	return &b
}

// asFailure returns the Failure that err is, or makes one of kind internal.
func asFailure(err error) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	return &Failure{Kind: string(action.Internal), Message: err.Error()}
}

// notTaken tells whether nobody took an activity in time, not even for an attempt before.
func notTaken(err error) bool {
	var timeout *temporal.TimeoutError
	return errors.As(err, &timeout) && timeout.TimeoutType() == enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START && !timeout.HasLastHeartbeatDetails()
}

// fromActivity fills kind, message and detail of f from what an activity
// returned. begun is false if it is certain that the activity never ran.
func (f *Failure) fromActivity(err error) (begun bool) {
	begun = true
	var app *temporal.ApplicationError
	var timeout *temporal.TimeoutError
	switch {
	case errors.As(err, &timeout):
		switch timeout.TimeoutType() {
		case enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START:
			f.Kind, f.Message = string(action.Unreached), "nobody took the work"
			if f.Target != "" {
				f.Message = "node " + f.Target + " is not reached: no agent of that name took the work"
			}
			// A heartbeat of an earlier attempt tells that it had begun.
			begun = timeout.HasLastHeartbeatDetails()
			if begun {
				f.Kind = string(action.Lost)
				f.Message = "stopped reporting, and did not come back"
				if f.Target != "" {
					f.Message = "node " + f.Target + " was lost: its agent " + f.Message
				}
			}
		case enumspb.TIMEOUT_TYPE_HEARTBEAT:
			f.Kind, f.Message = string(action.Lost), "whoever ran it stopped reporting"
			if f.Target != "" {
				f.Message = "node " + f.Target + " was lost: its agent stopped reporting"
			}
		default:
			f.Kind, f.Message = string(action.Timeout), "took longer than its timeout"
		}
	case errors.As(err, &app):
		f.Kind, f.Message = app.Type(), app.Message()
		if !knownKind(f.Kind) {
			f.Kind = string(action.Internal)
		}
		if app.HasDetails() {
			var detail json.RawMessage
			if app.Details(&detail) == nil && string(detail) != "null" {
				f.Detail = detail
			}
		}
	case temporal.IsCanceledError(err):
		f.Kind, f.Message = string(action.Cancelled), "cancelled"
	default:
		f.Kind, f.Message = string(action.Internal), err.Error()
	}
	return begun
}

func knownKind(k string) bool {
	for _, known := range action.Kinds {
		if string(known) == k {
			return true
		}
	}
	return false
}
