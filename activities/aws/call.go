package aws

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/awsapi"
)

type callInput struct {
	Scope
	Service   string          `json:"service" jsonschema:"service as the AWS CLI names it, such as route53"`
	Operation string          `json:"operation" jsonschema:"operation as AWS's API names it, such as ListHostedZones"`
	Input     json.RawMessage `json:"input,omitempty" jsonschema:"what the operation takes, by AWS's names" default:"{}"`
	Paginate  bool            `json:"paginate,omitempty" jsonschema:"read all pages and join their lists" default:"false"`
}

type callOutput struct {
	Output json.RawMessage `json:"output" jsonschema:"what AWS answered, by AWS's names; times as text, bytes in base64"`
}

// mostItems bounds what pages may hold together.
const mostItems = 10_000

func call(env Env) action.Action {
	return action.New(action.Def[callInput, callOutput]{
		Name:    "aws.call",
		Summary: "Call any operation of any AWS service",
		Details: `
For what has no action of its own. Members that AWS's model says are idempotency tokens and that ` + "`input`" + ` leaves out are made of the step's token, the same in every
attempt. An operation that has none is called again if its answer was lost: see that this does no harm, or that the step can tell.

There is nothing that the action could take back by itself: give the step a ` + "`rollback:`" + `, which must cope with a call that never happened. What AWS's model marks as
sensitive is ` + "`***`" + ` in the output.
`,
		Example: `id: zones
action: aws.call
with: { service: route53, operation: ListHostedZones, paginate: true }`,
		Timeout: 15 * time.Minute,
		Inspect: env.inspectCall,
		Do: func(ctx context.Context, in callInput) (callOutput, error) {
			c := env.in(ctx, in.Scope)
			input, err := object("input", in.Input)
			if err != nil {
				return callOutput{}, err
			}
			models, err := c.models()
			if err != nil {
				return callOutput{}, err
			}
			about, err := models.Describe(in.Service, in.Operation)
			if err != nil {
				return callOutput{}, kinded(err)
			}
			for _, m := range about.Input.Members {
				if _, given := input[m.Name]; m.Token && !given {
					input[m.Name] = c.uuid("call")
				}
			}
			var answer members
			if in.Paginate && c.Caller != nil {
				answer, err = awsapi.All(ctx, c.Caller, models, c.scope, in.Service, in.Operation, input, mostItems)
				err = kinded(err)
			} else {
				answer, err = c.call(ctx, in.Service, in.Operation, input)
			}
			if err != nil {
				return callOutput{}, err
			}
			raw, err := json.Marshal(withoutSecrets(about.Output, map[string]any(answer)))
			if err != nil {
				return callOutput{}, action.Errorf(action.Failed, "%s %s: the answer cannot be written as JSON: %w", in.Service, in.Operation, err)
			}
			return callOutput{Output: raw}, nil
		},
	})
}

// packed opens the models of this program once: it takes a moment.
var packed = sync.OnceValues(func() (*awsapi.Models, error) { return awsapi.OpenModels("") })

func (e Env) models() (*awsapi.Models, error) {
	if e.Models != nil {
		return e.Models, nil
	}
	return packed()
}

// withoutSecrets is a value of that shape with *** for what is sensitive.
func withoutSecrets(s *awsapi.Shape, v any) any {
	if s == nil || v == nil {
		return v
	}
	if s.Sensitive {
		return "***"
	}
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, one := range v {
			of := s.Item
			for _, m := range s.Members {
				if m.Name == name {
					of = m.Shape
				}
			}
			out[name] = withoutSecrets(of, one)
		}
		return out
	case []any:
		out := []any{}
		for _, one := range v {
			out = append(out, withoutSecrets(s.Item, one))
		}
		return out
	}
	return v
}
