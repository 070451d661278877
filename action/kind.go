package action

import (
	"errors"
	"fmt"
)

// Kind classifies an error: what went wrong, in the few ways that a caller can
// act on. Kinds are part of the language (`retry: {on: [throttled]}`,
// `error.kind`), and travel as the type of a Temporal failure: do not rename.
type Kind string

// The kinds an action may return.
const (
	Invalid     Kind = "invalid"     // the input can never work
	Denied      Kind = "denied"      // not allowed, or rejected by a person
	NotFound    Kind = "not_found"   // what the input names does not exist
	Conflict    Kind = "conflict"    // it exists already, or is in another state
	Throttled   Kind = "throttled"   // asked too often; later will do
	Unavailable Kind = "unavailable" // the other side is not there, or broken; later may do
	Failed      Kind = "failed"      // the work ran and failed: an exit code, a failed check
	Internal    Kind = "internal"    // a mistake of ours
)

// The kinds that the engine adds.
const (
	Timeout   Kind = "timeout"   // took longer than the step's timeout
	Unreached Kind = "unreached" // the node did not take the work: nothing ran
	Lost      Kind = "lost"      // whoever ran it stopped reporting; the effect may have happened
	Unknown   Kind = "unknown"   // a node cannot tell how the command ended; it was not run again
	Cancelled Kind = "cancelled"

	// Restarting is not a failure: the node restarts as part of the work, and is to be offered the
	// same work under the same token when it is back. Its detail is a RestartDetail. No step ends with it.
	Restarting Kind = "restarting"
)

// Kinds lists every kind, in the order of the reference page.
var Kinds = []Kind{Invalid, Denied, NotFound, Conflict, Throttled, Unavailable, Failed, Internal,
	Timeout, Unreached, Lost, Unknown, Cancelled}

// Retryable tells whether a step that says nothing about retry is tried again
// after an error of this kind: what passes by itself is, what a person must look at is not.
func (k Kind) Retryable() bool {
	return k == Throttled || k == Unavailable || k == Lost
}

// RestartDetail is the detail of an Error of kind Restarting.
type RestartDetail struct {
	Within string `json:"within"` // how long the node may be away, as a duration's text
}

// Error is an error with a kind.
type Error struct {
	Kind   Kind
	Err    error
	Detail any // what else is known, shown to people and kept as data (a command's result); nil if nothing
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an error of kind k; the rest is as for fmt.Errorf.
func Errorf(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Err: fmt.Errorf(format, args...)}
}

// KindOf returns the kind of err: that of the first Error in its chain, else Internal.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}
