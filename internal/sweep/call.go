package sweep

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/almanac-run/almanac/internal/awsapi"
)

// client makes calls in one region.
type client struct {
	awsapi.Caller
	scope awsapi.Scope
}

func (c client) call(ctx context.Context, service, operation string, in members) (members, error) {
	return c.Call(ctx, c.scope, service, operation, in)
}

// list makes the calls for all pages of a list. token is the member that leads
// to the next one, in the answer as in the input.
func (c client) list(ctx context.Context, service, operation, token, name string, in members) ([]members, error) {
	var all []members
	for range awsapi.MaxPages {
		out, err := c.call(ctx, service, operation, in)
		if err != nil {
			return nil, err
		}
		all = append(all, out.list(name)...)
		next := out.text(token)
		if next == "" {
			return all, nil
		}
		in[token] = next
	}
	return nil, fmt.Errorf("%s %s: more than %d pages", service, operation, awsapi.MaxPages)
}

// is tells whether AWS said one of these codes.
func is(err error, codes ...string) bool {
	var e *awsapi.Error
	if errors.As(err, &e) {
		for _, code := range codes {
			if e.Code == code {
				return true
			}
		}
	}
	return false
}

// isGone tells whether AWS says that there is no such thing.
func isGone(err error) bool {
	var e *awsapi.Error
	return errors.As(err, &e) && e.Class == awsapi.NotFound
}

// members are those of a structure of AWS. What is absent reads as nothing.
type members map[string]any

func (m members) text(name string) string {
	s, _ := m[name].(string)
	return s
}

func (m members) flag(name string) bool {
	b, _ := m[name].(bool)
	return b
}

func (m members) int(name string) int64 {
	n, _ := m[name].(int64)
	return n
}

func (m members) time(name string) time.Time {
	switch t := m[name].(type) {
	case time.Time:
		return t
	case string: // EC2's model has some as text
		at, err := time.Parse(time.RFC3339, t)
		if err == nil {
			return at
		}
	}
	return time.Time{}
}

func (m members) in(name string) members {
	in, _ := m[name].(map[string]any)
	return in
}

func (m members) list(name string) []members {
	var all []members
	items, _ := m[name].([]any)
	for _, item := range items {
		if one, ok := item.(map[string]any); ok {
			all = append(all, one)
		}
	}
	return all
}

// tags reads a list of keys and values.
func (m members) tags(name string) map[string]string {
	tags := map[string]string{}
	for _, t := range m.list(name) {
		tags[t.text("Key")] = t.text("Value")
	}
	return tags
}

func anys(texts ...string) []any {
	all := make([]any, len(texts))
	for i, t := range texts {
		all[i] = t
	}
	return all
}
