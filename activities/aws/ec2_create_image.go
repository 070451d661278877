package aws

import (
	"context"
	"time"

	"github.com/almanac-run/almanac/action"
)

type createImageInput struct {
	Scope
	InstanceID  string            `json:"instance_id" jsonschema:"instance to make an image of"`
	Name        string            `json:"name" jsonschema:"name of the image; no other image of the account in the region may have it"`
	Description string            `json:"description,omitempty" jsonschema:"what the image is"`
	NoReboot    bool              `json:"no_reboot,omitempty" jsonschema:"do not reboot a running instance for it; what was not yet written to its disks may be missing" default:"false"`
	Tags        map[string]string `json:"tags,omitempty" jsonschema:"tags of the image and its snapshots, beside Almanac's own"`
}

func createImage(env Env) action.Action {
	return action.New(action.Def[createImageInput, imageOutput]{
		Name:    "aws.ec2.create_image",
		Summary: "Make an image of an instance and wait until it is available",
		Details: `
EC2 takes no token for this; the name does its work, since it is unique. If the name is taken by an image with the step's own
token, an attempt before made it, and it is waited for. If it is another's the step fails with kind conflict and says whose.
Image and snapshots are tagged in the call that makes them.

Rollback deregisters the image and deletes its snapshots, also those of an image that failed.
`,
		Example: `id: image
action: aws.ec2.create_image
with: { instance_id: i-0123456789abcdef0, name: "base-${{ execution.id }}" }`,
		Timeout: 2 * time.Hour,
		Do: func(ctx context.Context, in createImageInput) (imageOutput, error) {
			c := env.in(ctx, in.Scope)
			tags, err := c.tagged(in.Tags, "image", "snapshot")
			if err != nil {
				return imageOutput{}, err
			}
			answer, err := c.news(ctx, "ec2", "CreateImage", members{"InstanceId": in.InstanceID, "Name": in.Name, "TagSpecifications": tags}.
				with(members{"Description": in.Description, "NoReboot": in.NoReboot}))
			id := members(answer).text("ImageId")
			if is(err, "InvalidAMIName.Duplicate") {
				id, err = c.adopt(ctx, in.Name, err)
			}
			if err != nil {
				return imageOutput{}, err
			}
			image, err := c.waitImage(ctx, id)
			return imageMade(image), err
		},
		Compensate: func(ctx context.Context, in createImageInput, out *imageOutput) error {
			return env.in(ctx, in.Scope).unmakeImage(ctx, out)
		},
	})
}
