package aws

import (
	"context"
	"time"

	"github.com/almanac-run/almanac/action"
)

type deprecateImageInput struct {
	Scope
	ImageID string    `json:"image_id" jsonschema:"image to deprecate"`
	At      time.Time `json:"at" jsonschema:"when it is to be deprecated, to the minute; in the future"`
}

type deprecateImageOutput struct {
	Before string `json:"before" jsonschema:"when it was to be deprecated before; empty if never"`
}

func deprecateImage(env Env) action.Action {
	return action.New(action.Def[deprecateImageInput, deprecateImageOutput]{
		Name:    "aws.ec2.deprecate_image",
		Summary: "Set when an image is deprecated",
		Details: `
Others do not find a deprecated image any more; who has its id goes on using it. The time that was set before is noted on the image (tag
` + "`almanac:note:deprecate`" + `) before it is changed; rollback sets it again, or takes the deprecation away.
`,
		Example: `action: aws.ec2.deprecate_image
with: { image_id: ami-0123456789abcdef0, at: "${{ execution.started_at + duration('720h') }}" }`,
		Timeout: 10 * time.Minute,
		Do: func(ctx context.Context, in deprecateImageInput) (deprecateImageOutput, error) {
			c := env.in(ctx, in.Scope)
			if err := wellFormed(imageForm, "image", in.ImageID); err != nil {
				return deprecateImageOutput{}, err
			}
			notes, err := c.notes(ctx, "deprecate", []string{in.ImageID}, !c.first())
			if err != nil {
				return deprecateImageOutput{}, err
			}
			before, noted := notes[in.ImageID]
			if !noted {
				answer, err := c.news(ctx, "ec2", "DescribeImages", members{"ImageIds": []any{in.ImageID}, "IncludeDeprecated": true})
				if err != nil {
					return deprecateImageOutput{}, err
				}
				for _, image := range answer.list("Images") {
					before = image.text("DeprecationTime")
				}
				if err := c.note(ctx, "deprecate", map[string]string{in.ImageID: before}); err != nil {
					return deprecateImageOutput{}, err
				}
			}
			_, err = c.news(ctx, "ec2", "EnableImageDeprecation", members{"ImageId": in.ImageID, "DeprecateAt": in.At.UTC()})
			return deprecateImageOutput{Before: before}, err
		},
		Compensate: func(ctx context.Context, in deprecateImageInput, out *deprecateImageOutput) error {
			c := env.in(ctx, in.Scope)
			notes, err := c.notes(ctx, "deprecate", []string{in.ImageID}, out == nil)
			before, noted := notes[in.ImageID]
			if err != nil || !noted {
				return err // nothing was changed, or all is taken back
			}
			if at, parsed := time.Parse(time.RFC3339, before); parsed == nil && at.After(c.Now()) {
				_, err = c.news(ctx, "ec2", "EnableImageDeprecation", members{"ImageId": in.ImageID, "DeprecateAt": at})
			} else if before == "" {
				_, err = c.news(ctx, "ec2", "DisableImageDeprecation", members{"ImageId": in.ImageID})
			} else {
				err = action.Errorf(action.Conflict, "image %s was deprecated since %s; AWS takes no time in the past, so that it is left as it is", in.ImageID, before)
			}
			if notFound(err) {
				return nil
			}
			if err != nil {
				return err
			}
			return c.forget(ctx, "deprecate", []string{in.ImageID})
		},
	})
}
