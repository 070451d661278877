package action

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/almanac-run/almanac/lang/program"
)

// Call is what an action may know of the step that runs it.
type Call struct {
	// Token is the idempotency token: the same for every attempt of one step in
	// one iteration, and for its compensation; different for all others.
	// 26 characters of a-z and 2-7.
	Token string

	// Execution and Step (a path such as "copies[3].copy") name the step, for
	// tags, logs and the output store. Attempt counts from 1.
	Execution, Step string
	Attempt         int

	// Heartbeat tells the engine that work goes on and what is known so far;
	// it is cheap, and may be called from any goroutine. The engine also does so by itself. Never nil.
	Heartbeat func(detail any)

	// Reveal returns the value of a secret reference and makes sure that the
	// value is masked in everything that leaves the process. Never nil.
	Reveal func(ctx context.Context, ref string) (string, error)

	// Abandoned tells, once the context has ended, whether the engine just stopped
	// listening (it is out of reach, or this process ends), and not that the step
	// was cancelled or took too long: another attempt may come soon. Never nil.
	Abandoned func() bool

	// Wanted tells, once Abandoned, what the engine last said: whether it still waits
	// for this attempt. It is not known while the engine does not answer. Never nil.
	Wanted func() (wanted, known bool)

	// Mask replaces every revealed value in text by "***". Never nil.
	Mask func(text string) string

	// Target is the machine that the call is for, if who serves the call is not
	// on it. On a node's own agent it is zero.
	Target Target
}

// Target is a machine that is worked on from elsewhere, through Systems
// Manager. Its JSON travels with the call.
type Target struct {
	ID       string `json:"id"`                 // i-… or mi-…
	Platform string `json:"platform,omitempty"` // linux, windows, darwin
	Region   string `json:"region,omitempty"`   // empty: that of the worker
	Account  string `json:"account,omitempty"`  // empty: whichever the credentials are of
	Role     string `json:"role,omitempty"`     // to assume; empty: the worker's own credentials
}

type callKey struct{}

// WithCall returns a context that carries c.
func WithCall(ctx context.Context, c Call) context.Context {
	return context.WithValue(ctx, callKey{}, c)
}

// FromContext returns the Call that ctx carries; outside the engine (in a test)
// an empty one whose functions do nothing and refuse to reveal.
func FromContext(ctx context.Context) Call {
	if c, ok := ctx.Value(callKey{}).(Call); ok {
		return c
	}
	return Call{
		Attempt:   1,
		Heartbeat: func(any) {},
		Abandoned: func() bool { return false },
		Wanted:    func() (wanted, known bool) { return false, false },
		Reveal: func(context.Context, string) (string, error) {
			return "", Errorf(Internal, "no secrets here")
		},
		Mask: func(s string) string { return s },
	}
}

// Secret is an input that may be a plain value or a reference to a secret. Its
// JSON is a string, or {"$secret": "env:NAME"}. Printing it never shows a secret.
type Secret struct {
	Plain string // the value, if it is not a secret
	Ref   string // the reference, else empty
}

// Reveal returns the value, resolving a reference at this moment.
func (s Secret) Reveal(ctx context.Context) (string, error) {
	if s.Ref == "" {
		return s.Plain, nil
	}
	return FromContext(ctx).Reveal(ctx, s.Ref)
}

// IsZero tells whether nothing was given.
func (s Secret) IsZero() bool { return s == Secret{} }

// MarshalJSON writes the JSON form.
func (s Secret) MarshalJSON() ([]byte, error) {
	if s.Ref == "" {
		return json.Marshal(s.Plain)
	}
	return json.Marshal(map[string]string{"$secret": s.Ref})
}

// UnmarshalJSON reads the JSON form.
func (s *Secret) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '{' {
		var ref struct {
			Ref string `json:"$secret"`
		}
		if err := json.Unmarshal(b, &ref); err != nil || ref.Ref == "" {
			return fmt.Errorf("want a string or a secret reference")
		}
		*s = Secret{Ref: ref.Ref}
		return nil
	}
	*s = Secret{}
	return json.Unmarshal(b, &s.Plain)
}

// Duration is a time.Duration whose JSON is text as in a runbook ("90s", "1h30m", "2d").
type Duration time.Duration

// MarshalText writes the text form.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads the text form.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := program.ParseDuration(string(b))
	*d = Duration(v)
	return err
}
