package aws

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
)

type executeMachineInput struct {
	Scope
	StateMachineARN string          `json:"state_machine_arn" jsonschema:"state machine of type standard, by ARN; a version or an alias may stand behind it"`
	Input           json.RawMessage `json:"input,omitempty" jsonschema:"what it gets; Step Functions keeps it readable: it is no place for a secret" default:"{}"`
}

type executeMachineOutput struct {
	ExecutionARN string          `json:"execution_arn" jsonschema:"the execution"`
	Result       json.RawMessage `json:"result" jsonschema:"its output"`
}

func executeMachine(env Env) action.Action {
	return action.New(action.Def[executeMachineInput, executeMachineOutput]{
		Name:    "aws.stepfunctions.execute",
		Summary: "Run a Step Functions state machine and wait for its result",
		Details: `
The execution's name is the step's token, which Step Functions takes once in 90 days: an attempt whose predecessor's answer was lost finds the execution that was started. Express state machines
have no executions that could be found, and are refused.

On cancel and time-out the execution is stopped. Rollback stops one that still runs; what it did is for the runbook's own ` + "`rollback:`" + ` to take back.
`,
		Example: `action: aws.stepfunctions.execute
with:
  state_machine_arn: arn:aws:states:eu-central-1:123456789012:stateMachine:reindex
  input: { full: true }
timeout: 1h`,
		Timeout: 4 * time.Hour,
		Do: func(ctx context.Context, in executeMachineInput) (executeMachineOutput, error) {
			return env.in(ctx, in.Scope).execute(ctx, in)
		},
		Compensate: func(ctx context.Context, in executeMachineInput, out *executeMachineOutput) error {
			if out != nil {
				return nil // it ended
			}
			c := env.in(ctx, in.Scope)
			arn, err := c.executionARN(in.StateMachineARN)
			if err != nil {
				return nil // it was refused for the same reason
			}
			_, err = c.within(ctx, commandNewsTakes, "look for the execution", func() (bool, string, error) {
				err := c.stopMachine(ctx, arn)
				if is(err, "ExecutionDoesNotExist") {
					return false, "none so far", nil
				}
				return err == nil, "", err
			})
			return err
		},
	})
}

// executionARN is the ARN that Step Functions gives the execution of this step.
func (c client) executionARN(machine string) (string, error) {
	parts := strings.Split(machine, ":")
	if len(parts) < 7 || parts[0] != "arn" || parts[2] != "states" || parts[5] != "stateMachine" {
		return "", action.Errorf(action.Invalid, "%q is no ARN of a state machine", machine)
	}
	return strings.Join(append(append(parts[:5:5], "execution"), parts[6], c.token()), ":"), nil
}

func (c client) execute(ctx context.Context, in executeMachineInput) (executeMachineOutput, error) {
	out := executeMachineOutput{}
	arn, err := c.executionARN(in.StateMachineARN)
	if err != nil {
		return out, err
	}
	input := string(in.Input)
	if input == "" {
		input = "{}"
	}
	_, err = c.call(ctx, "stepfunctions", "StartExecution", members{"stateMachineArn": in.StateMachineARN, "name": c.token(), "input": input})
	if err != nil && !is(err, "ExecutionAlreadyExists") {
		return out, err
	}
	var run members
	err = c.wait(ctx, 4*time.Hour, "execution "+arn, func() (bool, string, error) {
		var err error
		run, err = c.call(ctx, "stepfunctions", "DescribeExecution", members{"executionArn": arn})
		if is(err, "ExecutionDoesNotExist") {
			return false, "not known yet", nil
		}
		status := run.text("status")
		return status != "" && status != "RUNNING" && status != "PENDING_REDRIVE", status, err
	})
	if err != nil {
		if ctx.Err() != nil && !c.step.Abandoned() {
			late, stop := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
			defer stop()
			err = fmt.Errorf("%w; execution %s: %s", err, arn, asked(c.stopMachine(late, arn)))
		}
		return out, err
	}
	if status := run.text("status"); status != "SUCCEEDED" {
		return out, action.Errorf(action.Failed, "execution %s is %s: %s: %s", arn, status, run.text("error"), tail(run.text("cause"), outputOfEach))
	}
	out.ExecutionARN, out.Result = arn, json.RawMessage(run.text("output"))
	if !json.Valid(out.Result) {
		out.Result = json.RawMessage("null")
	}
	return out, nil
}

func (c client) stopMachine(ctx context.Context, arn string) error {
	_, err := c.call(ctx, "stepfunctions", "StopExecution", members{
		"executionArn": arn, "error": "Almanac.Cancelled", "cause": "step " + c.step.Step + " of execution " + c.step.Execution + " was given up or is rolled back",
	})
	return err
}

func asked(err error) string {
	if err != nil {
		return "its cancellation could not be asked for: " + err.Error()
	}
	return "its cancellation was asked for"
}
