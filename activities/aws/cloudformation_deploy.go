package aws

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
)

type deployStackInput struct {
	Scope
	StackName    string            `json:"stack_name" jsonschema:"stack to make or to update"`
	TemplateBody string            `json:"template_body,omitempty" jsonschema:"the template, as text"`
	TemplateURL  string            `json:"template_url,omitempty" jsonschema:"in place of template_body: where it lies in S3"`
	Parameters   map[string]string `json:"parameters,omitempty" jsonschema:"parameters of the template; what an update leaves out gets the template's default"`
	Capabilities []string          `json:"capabilities,omitempty" jsonschema:"what the template may do, such as CAPABILITY_NAMED_IAM"`
	ServiceRole  string            `json:"service_role_arn,omitempty" jsonschema:"role that CloudFormation works as"`
	Tags         map[string]string `json:"tags,omitempty" jsonschema:"tags of the stack and its resources, beside Almanac's own; an update without them leaves the tags as they are"`
}

type deployStackOutput struct {
	StackID   string            `json:"stack_id" jsonschema:"the stack"`
	Operation string            `json:"operation" jsonschema:"what was done" enum:"created,updated,unchanged"`
	Outputs   map[string]string `json:"outputs" jsonschema:"the stack's outputs"`
}

// What deployStack can have done.
const (
	stackCreated   = "created"
	stackUpdated   = "updated"
	stackUnchanged = "unchanged"
)

func deployStack(env Env) action.Action {
	return action.New(action.Def[deployStackInput, deployStackOutput]{
		Name:    "aws.cloudformation.deploy",
		Summary: "Make or update a CloudFormation stack and wait until that is done",
		Details: `
The request token is the step's, and stands in the stack's events: by that a later attempt finds what was begun, and waits for it. A stack that is busy with
something else, or can only be deleted, is an error of kind conflict.

Rollback deletes a stack that the step has made. An update under way is cancelled, upon which CloudFormation itself goes back. An update that is done is not
taken back, since CloudFormation does not keep the template of before: rollback fails with kind conflict and says so. Give such a step
a ` + "`rollback:`" + ` that deploys the template of before.
`,
		Example: `id: network
action: aws.cloudformation.deploy
with:
  stack_name: network
  template_url: https://templates.s3.amazonaws.com/network.yaml
  parameters: { Range: 10.0.0.0/16 }
timeout: 30m`,
		Timeout: 2 * time.Hour,
		Do: func(ctx context.Context, in deployStackInput) (deployStackOutput, error) {
			return env.in(ctx, in.Scope).deploy(ctx, in)
		},
		Compensate: func(ctx context.Context, in deployStackInput, out *deployStackOutput) error {
			return env.in(ctx, in.Scope).deployBack(ctx, in, out)
		},
	})
}

// stack describes a stack by its name or id; nil if there is none.
func (c client) stack(ctx context.Context, name string) (members, error) {
	answer, err := c.call(ctx, "cloudformation", "DescribeStacks", members{"StackName": name})
	if err != nil {
		if noStack(err) {
			err = nil
		}
		return nil, err
	}
	for _, s := range answer.list("Stacks") {
		return s, nil
	}
	return nil, nil
}

// noStack tells whether there is no such stack; CloudFormation has no code for it.
func noStack(err error) bool {
	return is(err, "ValidationError") && strings.Contains(err.Error(), "does not exist")
}

// begun tells whether this step has begun something with a stack.
func (c client) begun(ctx context.Context, stack members) (bool, error) {
	if stack == nil {
		return false, nil
	}
	if tagsOf(stack)[tagToken] == c.token() {
		return true, nil
	}
	events, err := c.list(ctx, "cloudformation", "DescribeStackEvents", "StackEvents", members{"StackName": stack.text("StackId")})
	if noStack(err) {
		return false, nil
	}
	return slices.ContainsFunc(events, func(e members) bool { return e.text("ClientRequestToken") == c.token() }), err
}

func (in deployStackInput) input(c client) (members, error) {
	if (in.TemplateBody == "") == (in.TemplateURL == "") {
		return nil, action.Errorf(action.Invalid, "give either template_body or template_url")
	}
	var parameters []any
	for _, key := range slices.Sorted(maps.Keys(in.Parameters)) {
		parameters = append(parameters, map[string]any{"ParameterKey": key, "ParameterValue": in.Parameters[key]})
	}
	return members{"StackName": in.StackName, "ClientRequestToken": c.token()}.with(members{
		"TemplateBody": in.TemplateBody, "TemplateURL": in.TemplateURL, "Parameters": parameters, "Capabilities": anys(in.Capabilities), "RoleARN": in.ServiceRole,
	}), nil
}

func (c client) deploy(ctx context.Context, in deployStackInput) (deployStackOutput, error) {
	input, err := in.input(c)
	if err != nil {
		return deployStackOutput{}, err
	}
	tags, err := c.tags(in.Tags)
	if err != nil {
		return deployStackOutput{}, err
	}
	stack, err := c.stack(ctx, in.StackName)
	if err != nil {
		return deployStackOutput{}, err
	}
	operation := stackUpdated
	if stack == nil {
		operation = stackCreated
		answer, err := c.call(ctx, "cloudformation", "CreateStack", members(input).with(members{"Tags": tags}))
		switch {
		case err == nil:
			return c.waitDeployed(ctx, answer.text("StackId"), operation)
		case !is(err, "AlreadyExistsException"):
			return deployStackOutput{}, err
		}
		// Made in this moment, perhaps by an attempt before.
		if stack, err = c.stack(ctx, in.StackName); err != nil {
			return deployStackOutput{}, err
		}
		if stack == nil {
			return deployStackOutput{}, action.Errorf(action.Unavailable, "the stack %s exists, but CloudFormation does not describe it yet", in.StackName)
		}
	}
	begun, err := c.begun(ctx, stack)
	if err != nil {
		return deployStackOutput{}, err
	}
	if tagsOf(stack)[tagToken] == c.token() {
		operation = stackCreated
	}
	switch status := stack.text("StackStatus"); {
	case begun:
	case strings.HasSuffix(status, "_IN_PROGRESS"):
		return deployStackOutput{}, action.Errorf(action.Conflict, "the stack %s is busy: %s", in.StackName, status)
	case !slices.Contains([]string{"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE"}, status):
		return deployStackOutput{}, action.Errorf(action.Conflict, "the stack %s is %s and cannot be updated: delete it first (aws.cloudformation.delete)", in.StackName, status)
	default:
		if len(in.Tags) > 0 {
			// They are in place of those of before: what says who made the stack stays.
			all := tagsOf(stack)
			maps.DeleteFunc(all, func(key, _ string) bool { return !strings.HasPrefix(key, tagPrefix) })
			maps.Copy(all, in.Tags)
			input["Tags"] = tagList(all)
		}
		_, err := c.call(ctx, "cloudformation", "UpdateStack", input)
		if is(err, "ValidationError") && strings.Contains(err.Error(), "No updates are to be performed") {
			operation, err = stackUnchanged, nil
		}
		if err != nil {
			return deployStackOutput{}, err
		}
	}
	return c.waitDeployed(ctx, stack.text("StackId"), operation)
}

func (c client) waitDeployed(ctx context.Context, id, operation string) (deployStackOutput, error) {
	stack, err := c.waitStack(ctx, id)
	if err != nil {
		return deployStackOutput{}, err
	}
	if status := stack.text("StackStatus"); operation != stackUnchanged && status != "CREATE_COMPLETE" && status != "UPDATE_COMPLETE" {
		return deployStackOutput{}, c.stackFailed(ctx, stack)
	}
	out := deployStackOutput{StackID: id, Operation: operation, Outputs: map[string]string{}}
	for _, o := range stack.list("Outputs") {
		out.Outputs[o.text("OutputKey")] = o.text("OutputValue")
	}
	return out, nil
}

// waitStack waits until nothing is under way with a stack; nil if it is gone.
func (c client) waitStack(ctx context.Context, id string) (members, error) {
	var stack members
	err := c.wait(ctx, 2*time.Hour, "stack", func() (bool, string, error) {
		var err error
		stack, err = c.stack(ctx, id)
		status := stack.text("StackStatus")
		return err == nil && !strings.HasSuffix(status, "_IN_PROGRESS"), status, err
	})
	return stack, err
}

// stackFailed is the error of a stack that did not become what it should, with
// what failed first.
func (c client) stackFailed(ctx context.Context, stack members) error {
	text := stack.text("StackStatusReason")
	events, err := c.list(ctx, "cloudformation", "DescribeStackEvents", "StackEvents", members{"StackName": stack.text("StackId")})
	if err != nil {
		text += "; its events could not be read: " + err.Error()
	}
	for _, e := range events { // newest first: what comes last began it
		if e.text("ClientRequestToken") == c.token() && strings.HasSuffix(e.text("ResourceStatus"), "_FAILED") && !strings.Contains(e.text("ResourceStatusReason"), "cancelled") {
			text = e.text("LogicalResourceId") + " " + e.text("ResourceStatus") + ": " + e.text("ResourceStatusReason")
		}
	}
	return action.Errorf(action.Failed, "stack %s is %s: %s", stack.text("StackName"), stack.text("StackStatus"), text)
}

func (c client) deployBack(ctx context.Context, in deployStackInput, out *deployStackOutput) error {
	if out != nil && out.Operation == stackUnchanged {
		return nil
	}
	name := in.StackName
	if out != nil {
		name = out.StackID
	}
	var stack members
	begun := false
	if _, err := c.within(ctx, commandNewsTakes, "look for the stack", func() (bool, string, error) {
		var err error
		if stack, err = c.stack(ctx, name); err == nil {
			begun, err = c.begun(ctx, stack)
		}
		return begun, "nothing of this step so far", err
	}); err != nil || !begun {
		return err
	}
	if tagsOf(stack)[tagToken] == c.token() {
		return c.deleteStack(ctx, stack.text("StackId"), c.uuid("delete"))
	}
	if stack.text("StackStatus") == "UPDATE_IN_PROGRESS" {
		if _, err := c.call(ctx, "cloudformation", "CancelUpdateStack", members{"StackName": stack.text("StackId"), "ClientRequestToken": c.uuid("cancel")}); err != nil && !is(err, "ValidationError") {
			return err
		}
	}
	stack, err := c.waitStack(ctx, stack.text("StackId"))
	if err != nil {
		return err
	}
	if stack.text("StackStatus") == "UPDATE_COMPLETE" {
		return action.Errorf(action.Conflict, "the stack %s was updated by this step, and CloudFormation keeps no template of before: deploy that again", in.StackName)
	}
	return nil
}
