// Package awsapi calls AWS: every service and operation, by name, driven by AWS's
// own service models.
//
// It promises that a call is signed, sent to the right endpoint and retried for
// what passes within seconds, that an error keeps AWS's code, and that no
// idempotency token is ever made up. It refuses to know actions, workflows and
// what a call is for.
package awsapi

import (
	"context"
	"fmt"
)

// Caller makes one call of an operation. Client is the real one; the simulated
// cloud is another.
type Caller interface {
	// Call calls an operation of a service, by the names that the AWS CLI and
	// botocore use for services ("ec2", "autoscaling", "stepfunctions") and that
	// AWS's models use for operations ("RunInstances").
	//
	// Input and output are members by their names in the model. Values are string,
	// bool, int64, float64, time.Time, []byte (also of a streaming body), []any,
	// map[string]any (structures and maps), and any of these for documents. Input
	// may also hold int and json.Number. What AWS did not answer is absent.
	// The error is an *Error if AWS, or whoever stands for it, answered one.
	Call(ctx context.Context, in Scope, service, operation string, input map[string]any) (map[string]any, error)
}

// Scope says as whom and where a call is made. Empty fields mean what the
// environment and the profile of the process say.
type Scope struct {
	Region  string `json:"region,omitempty"`
	Role    string `json:"role,omitempty"`    // ARN to assume, or a role's name if Account is given
	Account string `json:"account,omitempty"` // 12 digits: the call is refused if the credentials are another account's
}

// Class sorts errors by what can be done about them. The values are those of
// action.Kind.
type Class string

// The classes of errors.
const (
	Throttled   Class = "throttled"   // the same call will do later
	Unavailable Class = "unavailable" // likewise; nobody knows whether it had an effect
	Denied      Class = "denied"
	NotFound    Class = "not_found"
	Conflict    Class = "conflict" // it exists already, or is in a state that does not allow it
	Invalid     Class = "invalid"  // the same call will never do
	Failed      Class = "failed"   // anything else
)

// Error is AWS's answer to a call that it did not carry out.
type Error struct {
	Service, Operation string
	Code               string // AWS's own, such as "InvalidInstanceID.NotFound"
	Message            string
	Status             int    // of HTTP; 0 if there was no answer
	RequestID          string // for AWS's support; may be empty
	Class              Class
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s %s: %s: %s", e.Service, e.Operation, e.Code, e.Message)
}
