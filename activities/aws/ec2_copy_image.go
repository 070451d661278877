package aws

import (
	"context"
	"time"

	"github.com/almanac-run/almanac/action"
)

type copyImageInput struct {
	Scope
	ImageID      string            `json:"image_id" jsonschema:"image to copy"`
	SourceRegion string            `json:"source_region,omitempty" jsonschema:"region of that image" default:"that of the worker"`
	Name         string            `json:"name,omitempty" jsonschema:"name of the copy" default:"that of the image"`
	Description  string            `json:"description,omitempty" jsonschema:"what the copy is"`
	Encrypted    bool              `json:"encrypted,omitempty" jsonschema:"encrypt the copy's snapshots" default:"as the image's are"`
	KMSKeyID     string            `json:"kms_key_id,omitempty" jsonschema:"key to encrypt them with, of the copy's region" default:"the account's key for EBS"`
	Tags         map[string]string `json:"tags,omitempty" jsonschema:"tags of the copy and its snapshots, beside Almanac's own"`
}

func copyImage(env Env) action.Action {
	return action.New(action.Def[copyImageInput, imageOutput]{
		Name:    "aws.ec2.copy_image",
		Summary: "Copy an image to the step's region and wait until the copy is available",
		Details: `
` + "`region`" + ` is where the copy is made, ` + "`source_region`" + ` where the image is. The client token is the step's: an attempt whose
predecessor's answer was lost gets the copy that was begun. Copy and snapshots are tagged in the call that makes them.

Rollback deregisters the copy and deletes its snapshots, also those of a copy that failed.
`,
		Example: `id: copy
action: aws.ec2.copy_image
with: { image_id: ami-0123456789abcdef0, source_region: eu-central-1, region: eu-west-1 }`,
		Timeout: 2 * time.Hour,
		Do: func(ctx context.Context, in copyImageInput) (imageOutput, error) {
			c := env.in(ctx, in.Scope)
			source, name, err := c.sourceImage(ctx, in)
			if err != nil {
				return imageOutput{}, err
			}
			tags, err := c.tagged(in.Tags, "image", "snapshot")
			if err != nil {
				return imageOutput{}, err
			}
			input := members{"ClientToken": c.token(), "SourceImageId": in.ImageID, "SourceRegion": source, "Name": name, "TagSpecifications": tags}.
				with(members{"Description": in.Description, "KmsKeyId": in.KMSKeyID})
			if in.Encrypted || in.KMSKeyID != "" {
				input["Encrypted"] = true
			}
			answer, err := c.news(ctx, "ec2", "CopyImage", input)
			id := answer.text("ImageId")
			if is(err, "InvalidAMIName.Duplicate") {
				id, err = c.adopt(ctx, name, err)
			}
			if err != nil {
				return imageOutput{}, err
			}
			image, err := c.waitImage(ctx, id)
			return imageMade(image), err
		},
		Compensate: func(ctx context.Context, in copyImageInput, out *imageOutput) error {
			return env.in(ctx, in.Scope).unmakeImage(ctx, out)
		},
	})
}

// ownRegion is the region in which calls are made that name none: only AWS knows.
func (c client) ownRegion(ctx context.Context) (string, error) {
	zones, err := c.call(ctx, "ec2", "DescribeAvailabilityZones", members{})
	if err != nil {
		return "", err
	}
	for _, z := range zones.list("AvailabilityZones") {
		if region := z.text("RegionName"); region != "" {
			return region, nil
		}
	}
	return "", action.Errorf(action.Failed, "AWS does not say which region the worker's is; name it")
}

// sourceImage completes what the input leaves out: where the image is, and what it is called.
func (c client) sourceImage(ctx context.Context, in copyImageInput) (region, name string, err error) {
	from, region, name := c.at(in.SourceRegion), in.SourceRegion, in.Name
	if region == "" {
		if region, err = from.ownRegion(ctx); err != nil {
			return "", "", err
		}
	}
	if name == "" {
		answer, err := from.news(ctx, "ec2", "DescribeImages", members{"ImageIds": []any{in.ImageID}, "IncludeDeprecated": true})
		if err != nil {
			return "", "", err
		}
		if all := answer.list("Images"); len(all) > 0 {
			name = all[0].text("Name")
		}
		if name == "" {
			return "", "", action.Errorf(action.NotFound, "there is no image %s in %s; source_region says where it is", in.ImageID, region)
		}
	}
	return region, name, nil
}
