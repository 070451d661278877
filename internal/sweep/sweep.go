// Package sweep finds what executions have made in AWS and left behind, and
// removes it.
//
// It gives Find (what bears our tags), Judge (what of it is left over, and why the
// rest is not) and Removal. It promises to remove only what was judged left over,
// in an order that works, and only if at that moment it still bears the tags by
// which it was judged and its execution still is as it was. It refuses to know how
// executions are looked up (Server), and to guess: what it cannot judge stays.
package sweep

import (
	"context"
	"strings"
	"time"

	"github.com/almanac-run/almanac/workflows"
)

// The tags. activities/aws gives them to all that it makes; a test holds that
// these are the same. TagKeep is given by people.
const (
	TagExecution = "almanac:execution"
	TagStep      = "almanac:step"
	TagToken     = "almanac:token"
	TagKeep      = "almanac:keep"
)

// Resource is something in AWS that bears the tag of an execution.
type Resource struct {
	Kind      string    `json:"kind"` // "instance", "image", …; of what we cannot remove, service and type of its ARN
	ID        string    `json:"id"`   // by which its service knows it; the ARN if we cannot remove it
	ARN       string    `json:"arn,omitempty"`
	Region    string    `json:"region"`
	Role      string    `json:"role,omitempty"` // as which it was found
	Name      string    `json:"name,omitempty"`
	Execution string    `json:"execution"` // as the tag says it: see TagValue
	Step      string    `json:"step,omitempty"`
	Token     string    `json:"token,omitempty"`
	State     string    `json:"state,omitempty"` // AWS's word
	Made      time.Time `json:"made,omitzero"`   // zero if it is not known
	Hint      string    `json:"hint,omitempty"`  // how a person removes what we cannot

	tags    map[string]string
	partOf  []string // ids of what needs it: a snapshot's images, a volume's instances
	changed bool     // somebody has given it another value since it was made, and may need it
	kind    *kind    // nil if we cannot remove it
}

// Status is how an execution stands: Running, Terminated, or an outcome.
type Status = workflows.Outcome

// What an execution may be besides ended with an outcome.
const (
	Running    Status = "running"
	Terminated Status = "terminated" // the server ended it: nothing was rolled back
)

// Execution is what the server knows of one execution.
type Execution struct {
	ID     string
	Parent string // id of the execution that called it; "" if none did
	Status Status

	// Stopped says that its runbook leaves what it did if it fails (on_failure:
	// stop), or that nobody can tell: nothing was rolled back, by intention.
	Stopped bool

	Started time.Time // zero if it is not known
}

// Server knows executions.
type Server interface {
	// Executions returns those whose id, as the value of a tag (TagValue), is this:
	// several if an id was used again, or if ids differ in what a tag cannot hold.
	// It returns none if it knows none; an error means that it cannot tell.
	Executions(ctx context.Context, tag string) ([]Execution, error)
}

// TagValue is an id as AWS takes it for a tag's value. It cannot always be read
// backwards.
func TagValue(id string) string {
	id = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(" +-=._:/@", r) {
			return r
		}
		return '_'
	}, id)
	return id[:min(len(id), maxTagValue)]
}

// maxTagValue is how long a tag's value may be.
const maxTagValue = 256

// Exact tells whether only one id has this as the value of its tag.
func Exact(tag string) bool { return len(tag) < maxTagValue && !strings.Contains(tag, "_") }
