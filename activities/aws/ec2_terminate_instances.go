package aws

import (
	"context"
	"time"

	"github.com/almanac-run/almanac/action"
)

type terminateInstancesInput struct {
	Scope
	InstanceIDs []string `json:"instance_ids" jsonschema:"instances to terminate"`
}

type terminateInstanceInput struct {
	Scope
	InstanceID string `json:"instance_id" jsonschema:"instance to terminate"`
}

const terminateDetails = `
One that is terminated already is fine. One that EC2 does not find is taken for gone only after five minutes in which it was not
found: shortly after a launch EC2 may not find an instance that runs. What is terminated cannot be had back: rollback leaves it.
`

func terminateInstances(env Env) action.Action {
	return action.New(action.Def[terminateInstancesInput, struct{}]{
		Name:    "aws.ec2.terminate_instances",
		Summary: "Terminate instances and wait until they are",
		Details: terminateDetails,
		Example: `action: aws.ec2.terminate_instances
with: { instance_ids: [i-0123456789abcdef0, i-0123456789abcdef1] }`,
		Timeout: 30 * time.Minute,
		Do: func(ctx context.Context, in terminateInstancesInput) (struct{}, error) {
			return struct{}{}, terminate(ctx, env, in.Scope, in.InstanceIDs)
		},
	})
}

func terminateInstance(env Env) action.Action {
	return action.New(action.Def[terminateInstanceInput, struct{}]{
		Name:    "aws.ec2.terminate_instance",
		Summary: "Terminate an instance and wait until it is",
		Details: terminateDetails,
		Example: `action: aws.ec2.terminate_instance
with: { instance_id: i-0123456789abcdef0 }`,
		Timeout: 30 * time.Minute,
		Do: func(ctx context.Context, in terminateInstanceInput) (struct{}, error) {
			return struct{}{}, terminate(ctx, env, in.Scope, []string{in.InstanceID})
		},
	})
}

func terminate(ctx context.Context, env Env, s Scope, ids []string) error {
	if err := wellFormed(instanceForm, "instance", ids...); err != nil {
		return err
	}
	return env.in(ctx, s).terminate(ctx, ids)
}
