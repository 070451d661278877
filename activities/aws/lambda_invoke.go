package aws

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"time"

	"github.com/almanac-run/almanac/action"
)

type invokeInput struct {
	Scope
	Function  string          `json:"function" jsonschema:"function, by name or ARN"`
	Qualifier string          `json:"qualifier,omitempty" jsonschema:"version or alias" default:"$LATEST"`
	Payload   json.RawMessage `json:"payload,omitempty" jsonschema:"the event that the function gets; no place for a secret, which the function can read itself"`
}

type invokeOutput struct {
	Result  json.RawMessage `json:"result" jsonschema:"what the function returned"`
	Version string          `json:"version,omitempty" jsonschema:"the version that ran"`
}

func invokeFunction(env Env) action.Action {
	return action.New(action.Def[invokeInput, invokeOutput]{
		Name:    "aws.lambda.invoke",
		Summary: "Call a Lambda function and wait for its result",
		Details: `
Lambda does not recognise a call that comes twice, and a call whose answer was lost is made again. Every attempt carries the step's token in the client context
(` + "`context.client_context.custom[\"almanac-token\"]`" + `, beside ` + "`almanac-execution` and `almanac-step`" + `), by which a function that has an effect can recognise
it. An error of the function is of kind failed. There is nothing that could be taken back: give the step a ` + "`rollback:`" + `.
`,
		Example: `id: check
action: aws.lambda.invoke
with: { function: check-image, payload: { image_id: ami-0123456789abcdef0 } }`,
		Timeout: 20 * time.Minute,
		Do: func(ctx context.Context, in invokeInput) (invokeOutput, error) {
			c := env.in(ctx, in.Scope)
			about, err := json.Marshal(map[string]any{"custom": c.asAttributes()})
			if err != nil {
				return invokeOutput{}, action.Errorf(action.Internal, "client context: %w", err)
			}
			input := members{"FunctionName": in.Function, "InvocationType": "RequestResponse", "ClientContext": base64.StdEncoding.EncodeToString(about)}.
				with(members{"Qualifier": in.Qualifier})
			if len(in.Payload) > 0 {
				input["Payload"] = []byte(in.Payload)
			}
			answer, err := c.call(ctx, "lambda", "Invoke", input)
			if err != nil {
				return invokeOutput{}, err
			}
			result, _ := answer["Payload"].([]byte)
			if answer.text("FunctionError") != "" {
				var why struct{ ErrorMessage, ErrorType string }
				if json.Unmarshal(result, &why) != nil || why.ErrorMessage == "" {
					why.ErrorMessage = tail(string(result), outputOfEach)
				}
				return invokeOutput{}, action.Errorf(action.Failed, "function %s failed: %s: %s", in.Function, why.ErrorType, why.ErrorMessage)
			}
			if !json.Valid(result) {
				result = []byte("null")
			}
			return invokeOutput{Result: result, Version: answer.text("ExecutedVersion")}, nil
		},
	})
}

// asAttributes names the step to those who get a message or a call twice.
func (c client) asAttributes() map[string]string {
	return map[string]string{"almanac-token": c.token(), "almanac-execution": c.step.Execution, "almanac-step": c.step.Step}
}
