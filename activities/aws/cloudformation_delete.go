package aws

import (
	"context"
	"time"

	"github.com/almanac-run/almanac/action"
)

type deleteStackInput struct {
	Scope
	StackName string `json:"stack_name" jsonschema:"stack to delete, by name or id"`
}

func deleteStack(env Env) action.Action {
	return action.New(action.Def[deleteStackInput, struct{}]{
		Name:    "aws.cloudformation.delete",
		Summary: "Delete a CloudFormation stack and wait until it is gone",
		Details: `
The request token is the step's. A stack that is gone already is fine. What is deleted cannot be had back: rollback leaves it.
`,
		Example: `action: aws.cloudformation.delete
with: { stack_name: network }`,
		Timeout: 2 * time.Hour,
		Do: func(ctx context.Context, in deleteStackInput) (struct{}, error) {
			c := env.in(ctx, in.Scope)
			stack, err := c.stack(ctx, in.StackName)
			if err != nil || stack == nil {
				return struct{}{}, err
			}
			return struct{}{}, c.deleteStack(ctx, stack.text("StackId"), c.token())
		},
	})
}

// deleteStack deletes a stack by its id: that is its own for ever, while another
// may get its name.
func (c client) deleteStack(ctx context.Context, id, token string) error {
	if _, err := c.call(ctx, "cloudformation", "DeleteStack", members{"StackName": id, "ClientRequestToken": token}); err != nil && !noStack(err) {
		return err
	}
	stack, err := c.waitStack(ctx, id)
	if err != nil {
		return err
	}
	if status := stack.text("StackStatus"); stack != nil && status != "DELETE_COMPLETE" {
		return c.stackFailed(ctx, stack)
	}
	return nil
}
