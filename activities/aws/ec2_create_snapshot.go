package aws

import (
	"context"
	"time"

	"github.com/almanac-run/almanac/action"
)

type createSnapshotInput struct {
	Scope
	VolumeID    string            `json:"volume_id" jsonschema:"volume to take a snapshot of"`
	Description string            `json:"description,omitempty" jsonschema:"what the snapshot is"`
	Tags        map[string]string `json:"tags,omitempty" jsonschema:"tags of the snapshot, beside Almanac's own"`
}

type createSnapshotOutput struct {
	SnapshotID string `json:"snapshot_id" jsonschema:"the snapshot"`
	SizeGiB    int64  `json:"size_gib" jsonschema:"size of the volume"`
}

func createSnapshot(env Env) action.Action {
	return action.New(action.Def[createSnapshotInput, createSnapshotOutput]{
		Name:    "aws.ec2.create_snapshot",
		Summary: "Take a snapshot of a volume and wait until it is completed",
		Details: `
EC2 takes no token for this. Before every attempt the action looks for a snapshot with the step's tag, which is given in the call that
makes one; before a second attempt it looks for a minute and a half, since what was just made is not seen at once.

Rollback deletes the snapshot.
`,
		Example: `id: snapshot
action: aws.ec2.create_snapshot
with: { volume_id: vol-0123456789abcdef0, description: "Before the migration" }`,
		Timeout: 2 * time.Hour,
		Do: func(ctx context.Context, in createSnapshotInput) (createSnapshotOutput, error) {
			c := env.in(ctx, in.Scope)
			tags, err := c.tagged(in.Tags, "snapshot")
			if err != nil {
				return createSnapshotOutput{}, err
			}
			id, err := c.ourSnapshot(ctx, !c.first())
			if err != nil {
				return createSnapshotOutput{}, err
			}
			if id == "" {
				answer, err := c.news(ctx, "ec2", "CreateSnapshot", members{"VolumeId": in.VolumeID, "TagSpecifications": tags}.
					with(members{"Description": in.Description}))
				if err != nil {
					return createSnapshotOutput{}, err
				}
				id = answer.text("SnapshotId")
			}
			out := createSnapshotOutput{SnapshotID: id}
			err = c.wait(ctx, 2*time.Hour, "snapshot "+id, func() (bool, string, error) {
				found, err := c.list(ctx, "ec2", "DescribeSnapshots", "Snapshots", members{"Filters": []any{filter("snapshot-id", id)}})
				if err != nil || len(found) == 0 {
					return false, "not seen yet", err
				}
				out.SizeGiB = found[0].int("VolumeSize")
				state := found[0].text("State")
				if state == "error" {
					return false, "", action.Errorf(action.Failed, "snapshot %s failed: %s", id, found[0].text("StateMessage"))
				}
				return state == "completed", state + " " + found[0].text("Progress"), nil
			})
			return out, err
		},
		Compensate: func(ctx context.Context, in createSnapshotInput, out *createSnapshotOutput) error {
			c, id := env.in(ctx, in.Scope), ""
			if out != nil {
				id = out.SnapshotID
			} else {
				var err error
				if id, err = c.ourSnapshot(ctx, true); id == "" {
					return err
				}
			}
			return c.deleteSnapshots(ctx, []string{id})
		},
	})
}

// ourSnapshot finds the snapshot of this step; empty if there is none.
func (c client) ourSnapshot(ctx context.Context, mayHave bool) (id string, err error) {
	look := func() (bool, string, error) {
		found, err := c.list(ctx, "ec2", "DescribeSnapshots", "Snapshots", members{"OwnerIds": []any{"self"}, "Filters": []any{c.ours()}})
		if len(found) > 0 {
			id = found[0].text("SnapshotId")
		}
		return id != "", "none so far", err
	}
	if !mayHave {
		_, _, err = look()
		return id, err
	}
	_, err = c.within(ctx, newsTakes, "look for a snapshot of this step", look)
	return id, err
}
