package aws

import (
	"context"
	"time"

	"github.com/almanac-run/almanac/action"
)

type findImagesInput struct {
	findImageInput
	Skip   int `json:"skip,omitempty" jsonschema:"leave out so many of the newest" default:"0"`
	Newest int `json:"newest,omitempty" jsonschema:"of the others, only so many of the newest" default:"all"`
}

type findImagesOutput struct {
	ImageIDs []string          `json:"image_ids" jsonschema:"the images, the newest first"`
	Images   []findImageOutput `json:"images" jsonschema:"the same with what is known of each"`
}

func findImages(env Env) action.Action {
	return action.New(action.Def[findImagesInput, findImagesOutput]{
		Name:    "aws.ec2.find_images",
		Summary: "List images that are available, the newest first",
		Details: `
It reads only. No image is no error. Deprecated images of one's own are always listed.
`,
		Example: `id: old
action: aws.ec2.find_images
with: { name: "base-*", skip: 3 }`,
		Timeout: 5 * time.Minute,
		Do: func(ctx context.Context, in findImagesInput) (findImagesOutput, error) {
			if in.Skip < 0 || in.Newest < 0 {
				return findImagesOutput{}, action.Errorf(action.Invalid, "skip and newest cannot be negative")
			}
			found, err := env.in(ctx, in.Scope).findImages(ctx, in.findImageInput)
			if err != nil {
				return findImagesOutput{}, err
			}
			found = found[min(in.Skip, len(found)):]
			if in.Newest > 0 {
				found = found[:min(in.Newest, len(found))]
			}
			out := findImagesOutput{ImageIDs: []string{}, Images: []findImageOutput{}}
			for _, image := range found {
				out.ImageIDs = append(out.ImageIDs, image.text("ImageId"))
				out.Images = append(out.Images, imageFound(image))
			}
			return out, nil
		},
	})
}
