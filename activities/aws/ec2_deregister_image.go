package aws

import (
	"context"
	"time"

	"github.com/almanac-run/almanac/action"
)

type deregisterImageInput struct {
	Scope
	ImageID string `json:"image_id" jsonschema:"image to deregister"`
}

type deregisterImageOutput struct {
	KeptSnapshotIDs []string `json:"kept_snapshot_ids" jsonschema:"those of its snapshots that another image needs, which are left"`
}

func deregisterImage(env Env) action.Action {
	return action.New(action.Def[deregisterImageInput, deregisterImageOutput]{
		Name:    "aws.ec2.deregister_image",
		Summary: "Deregister an image and delete its snapshots",
		Details: `
Before the image goes, its snapshots are tagged (` + "`almanac:note:deregister`" + `): so that a later attempt finds those that an attempt before it has left. An image that is
gone already is fine. What is deleted cannot be had back: rollback leaves it.
`,
		Example: `action: aws.ec2.deregister_image
with: { image_id: ami-0123456789abcdef0 }`,
		Timeout: 15 * time.Minute,
		Do: func(ctx context.Context, in deregisterImageInput) (deregisterImageOutput, error) {
			return env.in(ctx, in.Scope).deregister(ctx, in.ImageID)
		},
	})
}

func (c client) deregister(ctx context.Context, id string) (deregisterImageOutput, error) {
	out := deregisterImageOutput{KeptSnapshotIDs: []string{}}
	if err := wellFormed(imageForm, "image", id); err != nil {
		return out, err
	}
	var image members
	if _, err := c.within(ctx, newsTakes, "look for image "+id, func() (bool, string, error) {
		var err error
		image, err = c.image(ctx, filter("image-id", id))
		return image != nil, "not found so far", err
	}); err != nil {
		return out, err
	}
	if image != nil {
		notes := map[string]string{}
		for _, s := range snapshotsOf(image) {
			notes[s] = id
		}
		if err := c.note(ctx, "deregister", notes); err != nil {
			return out, err
		}
		if err := c.deregisterImages(ctx, []string{id}); err != nil {
			return out, err
		}
	}
	noted, err := c.list(ctx, "ec2", "DescribeSnapshots", "Snapshots", members{
		"OwnerIds": []any{"self"}, "Filters": []any{filter("tag:"+noteKey("deregister", 1), c.step.Token+" "+id)},
	})
	if err != nil {
		return out, err
	}
	var unused []string
	for _, s := range noted {
		snapshot := s.text("SnapshotId")
		other, err := c.image(ctx, filter("block-device-mapping.snapshot-id", snapshot))
		if err != nil {
			return out, err
		}
		if other != nil && other.text("ImageId") != id {
			out.KeptSnapshotIDs = append(out.KeptSnapshotIDs, snapshot)
			continue
		}
		unused = append(unused, snapshot)
	}
	return out, c.deleteSnapshots(ctx, unused)
}
