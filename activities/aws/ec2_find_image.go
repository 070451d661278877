package aws

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/almanac-run/almanac/action"
)

type findImageInput struct {
	Scope
	Owners       []string            `json:"owners,omitempty" jsonschema:"whose images: accounts, or self, amazon, aws-marketplace" default:"[self]"`
	Name         string              `json:"name,omitempty" jsonschema:"name; * and ? stand for others"`
	Architecture string              `json:"architecture,omitempty" jsonschema:"for which processor" enum:"x86_64,arm64"`
	Tags         map[string]string   `json:"tags,omitempty" jsonschema:"tags that it has"`
	Filters      map[string][]string `json:"filters,omitempty" jsonschema:"other filters of DescribeImages, each with the values of which one is to hold"`
	Deprecated   bool                `json:"deprecated,omitempty" jsonschema:"find deprecated ones of others too" default:"false"`
}

type findImageOutput struct {
	ImageID      string            `json:"image_id" jsonschema:"the image"`
	Name         string            `json:"name" jsonschema:"its name"`
	OwnerID      string            `json:"owner_id" jsonschema:"the account whose it is"`
	Architecture string            `json:"architecture" jsonschema:"for which processor"`
	CreatedAt    time.Time         `json:"created_at" jsonschema:"when it was made"`
	RootDevice   string            `json:"root_device" jsonschema:"name of its root device"`
	SnapshotIDs  []string          `json:"snapshot_ids" jsonschema:"the snapshots that it consists of"`
	Tags         map[string]string `json:"tags" jsonschema:"its tags"`
}

func findImage(env Env) action.Action {
	return action.New(action.Def[findImageInput, findImageOutput]{
		Name:    "aws.ec2.find_image",
		Summary: "Find the newest image that is available",
		Details: `
It reads only. No such image is an error of kind not_found.
`,
		Example: `id: base
action: aws.ec2.find_image
with: { owners: [amazon], name: "al2023-ami-2023.*-kernel-6.1-x86_64" }`,
		Timeout: 5 * time.Minute,
		Do: func(ctx context.Context, in findImageInput) (findImageOutput, error) {
			images, err := env.in(ctx, in.Scope).findImages(ctx, in)
			if err != nil {
				return findImageOutput{}, err
			}
			if len(images) == 0 {
				return findImageOutput{}, action.Errorf(action.NotFound, "there is no such image of %s in this region", named(in.owners()))
			}
			return imageFound(images[0]), nil
		},
	})
}

func (in findImageInput) owners() []string {
	if len(in.Owners) == 0 {
		return []string{"self"}
	}
	return in.Owners
}

// findImages lists the images that are available, the newest first.
func (c client) findImages(ctx context.Context, in findImageInput) ([]members, error) {
	filters := []any{filter("state", "available")}
	if in.Name != "" {
		filters = append(filters, filter("name", in.Name))
	}
	if in.Architecture != "" {
		filters = append(filters, filter("architecture", in.Architecture))
	}
	for _, key := range slices.Sorted(maps.Keys(in.Tags)) {
		filters = append(filters, filter("tag:"+key, in.Tags[key]))
	}
	for _, name := range slices.Sorted(maps.Keys(in.Filters)) {
		filters = append(filters, filter(name, in.Filters[name]...))
	}
	images, err := c.list(ctx, "ec2", "DescribeImages", "Images",
		members{"Owners": anys(in.owners()), "Filters": filters, "IncludeDeprecated": in.Deprecated})
	slices.SortFunc(images, func(a, b members) int {
		// Two of one moment come in any order, but always the same.
		return cmp.Or(b.time("CreationDate").Compare(a.time("CreationDate")), cmp.Compare(b.text("ImageId"), a.text("ImageId")))
	})
	return images, err
}

func imageFound(image members) findImageOutput {
	return findImageOutput{
		ImageID: image.text("ImageId"), Name: image.text("Name"), OwnerID: image.text("OwnerId"), Architecture: image.text("Architecture"),
		CreatedAt: image.time("CreationDate"), RootDevice: image.text("RootDeviceName"),
		SnapshotIDs: append([]string{}, snapshotsOf(image)...), Tags: tagsOf(image),
	}
}
