package aws

import (
	"context"
	"time"

	"github.com/almanac-run/almanac/action"
)

func runInstance(env Env) action.Action {
	return action.New(action.Def[Launch, instanceMade]{
		Name:    "aws.ec2.run_instance",
		Summary: "Launch an instance and wait until it runs",
		Details: launchDetails,
		Example: `id: builder
action: aws.ec2.run_instance
with:
  image_id: ami-0123456789abcdef0
  instance_type: t3.small
  instance_profile: managed-node
  options:
    BlockDeviceMappings: [{ DeviceName: /dev/xvda, Ebs: { VolumeSize: 20, VolumeType: gp3 } }]`,
		Timeout: 30 * time.Minute,
		Do: func(ctx context.Context, in Launch) (instanceMade, error) {
			made, err := env.in(ctx, in.Scope).launch(ctx, in, 1)
			if err != nil {
				return instanceMade{}, err
			}
			return made[0], nil
		},
		Compensate: func(ctx context.Context, in Launch, out *instanceMade) error {
			var ids []string
			if out != nil {
				ids = []string{out.InstanceID}
			}
			return env.in(ctx, in.Scope).unlaunch(ctx, ids, 1)
		},
	})
}
