package aws

import (
	"context"
	"time"

	"github.com/almanac-run/almanac/action"
)

func startInstances(env Env) action.Action {
	return action.New(action.Def[switchInput, switchOutput]{
		Name:    "aws.ec2.start_instances",
		Summary: "Start instances that are stopped and wait until they run",
		Details: switchDetails,
		Example: `id: start
action: aws.ec2.start_instances
with: { instance_ids: [i-0123456789abcdef0] }`,
		Timeout: 30 * time.Minute,
		Do: func(ctx context.Context, in switchInput) (switchOutput, error) {
			return env.in(ctx, in.Scope).change(ctx, in.InstanceIDs, toRunning)
		},
		Compensate: func(ctx context.Context, in switchInput, out *switchOutput) error {
			return env.in(ctx, in.Scope).changeBack(ctx, in.InstanceIDs, toRunning, out)
		},
	})
}
