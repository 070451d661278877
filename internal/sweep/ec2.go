package sweep

import (
	"context"
	"maps"
	"slices"
	"time"
)

// EC2 describes by filters, and so answers for what is tagged now; the tagging
// API may be late. By filters also one that is gone is no error.

func filter(name string, values ...string) map[string]any {
	return map[string]any{"Name": name, "Values": anys(values...)}
}

// tagged is the filter for all that an execution has made.
var tagged = filter("tag-key", TagExecution)

const (
	perPage          = 1000
	templatesPerPage = 200
	valuesPerFilter  = 200
)

func instances() *kind {
	k := &kind{name: "instance", arn: [2]string{"ec2", "instance/"}, wait: 15 * time.Minute}
	find := func(ctx context.Context, c client, by any) ([]Resource, error) {
		found, err := c.list(ctx, "ec2", "DescribeInstances", "NextToken", "Reservations", members{
			"Filters": []any{by, filter("instance-state-name", "pending", "running", "stopping", "stopped", "shutting-down")}, "MaxResults": perPage})
		var all []Resource
		for _, reservation := range found {
			for _, i := range reservation.list("Instances") {
				r := k.described(c, i.text("InstanceId"), i.tags("Tags"))
				// The time of the last start: it may be older, not younger.
				r.State, r.Made = i.in("State").text("Name"), i.time("LaunchTime")
				all = append(all, r)
			}
		}
		return all, err
	}
	k.list = func(ctx context.Context, c client) ([]Resource, error) { return find(ctx, c, tagged) }
	k.read = func(ctx context.Context, c client, id string) (*Resource, error) {
		return first(find(ctx, c, filter("instance-id", id)))
	}
	k.remove = func(ctx context.Context, c client, r Resource) error {
		if r.State == shuttingDown {
			return nil
		}
		_, err := c.call(ctx, "ec2", "TerminateInstances", members{"InstanceIds": anys(r.ID)})
		return err
	}
	return k
}

// shuttingDown is the state of an instance that will be terminated by itself.
const shuttingDown = "shutting-down"

func images() *kind {
	k := &kind{name: "image", arn: [2]string{"ec2", "image/"}, wait: 2 * time.Minute}
	find := func(ctx context.Context, c client, by any) ([]Resource, error) {
		found, err := c.list(ctx, "ec2", "DescribeImages", "NextToken", "Images", members{
			"Owners": anys("self"), "Filters": []any{by}, "IncludeDisabled": true, "MaxResults": perPage})
		var all []Resource
		for _, i := range found {
			r := k.described(c, i.text("ImageId"), i.tags("Tags"))
			r.Name, r.State, r.Made = i.text("Name"), i.text("State"), i.time("CreationDate")
			all = append(all, r)
		}
		return all, err
	}
	k.list = func(ctx context.Context, c client) ([]Resource, error) { return find(ctx, c, tagged) }
	k.read = func(ctx context.Context, c client, id string) (*Resource, error) {
		return first(find(ctx, c, filter("image-id", id)))
	}
	// Its snapshots have tags of their own, and are removed by them: one that
	// somebody else has given it stays.
	k.remove = func(ctx context.Context, c client, r Resource) error {
		_, err := c.call(ctx, "ec2", "DeregisterImage", members{"ImageId": r.ID})
		if is(err, "InvalidAMIID.Unavailable") {
			return nil // AWS's word for one that was deregistered
		}
		return err
	}
	return k
}

func snapshots() *kind {
	k := &kind{name: "snapshot", arn: [2]string{"ec2", "snapshot/"}}
	find := func(ctx context.Context, c client, by any) ([]Resource, error) {
		found, err := c.list(ctx, "ec2", "DescribeSnapshots", "NextToken", "Snapshots", members{
			"OwnerIds": anys("self"), "Filters": []any{by}, "MaxResults": perPage})
		var all []Resource
		for _, s := range found {
			r := k.described(c, s.text("SnapshotId"), s.tags("Tags"))
			r.State, r.Made = s.text("State"), s.time("StartTime")
			all = append(all, r)
		}
		if err != nil {
			return nil, err
		}
		return all, findImages(ctx, c, all)
	}
	k.list = func(ctx context.Context, c client) ([]Resource, error) { return find(ctx, c, tagged) }
	k.read = func(ctx context.Context, c client, id string) (*Resource, error) {
		return first(find(ctx, c, filter("snapshot-id", id)))
	}
	k.remove = func(ctx context.Context, c client, r Resource) error {
		_, err := c.call(ctx, "ec2", "DeleteSnapshot", members{"SnapshotId": r.ID})
		return err
	}
	return k
}

// findImages finds out which images of this account need snapshots.
func findImages(ctx context.Context, c client, snapshots []Resource) error {
	for some := range slices.Chunk(snapshots, valuesPerFilter) {
		at := map[string]*Resource{}
		for i := range some {
			at[some[i].ID] = &some[i]
		}
		images, err := c.list(ctx, "ec2", "DescribeImages", "NextToken", "Images", members{"Owners": anys("self"), "IncludeDisabled": true, "MaxResults": perPage,
			"Filters": []any{filter("block-device-mapping.snapshot-id", slices.Sorted(maps.Keys(at))...)}})
		if err != nil {
			return err
		}
		for _, i := range images {
			for _, d := range i.list("BlockDeviceMappings") {
				if r := at[d.in("Ebs").text("SnapshotId")]; r != nil {
					r.partOf = append(r.partOf, i.text("ImageId"))
				}
			}
		}
	}
	return nil
}

func volumes() *kind {
	k := &kind{name: "volume", arn: [2]string{"ec2", "volume/"}}
	find := func(ctx context.Context, c client, by any) ([]Resource, error) {
		found, err := c.list(ctx, "ec2", "DescribeVolumes", "NextToken", "Volumes", members{"Filters": []any{by}, "MaxResults": perPage})
		var all []Resource
		for _, v := range found {
			r := k.described(c, v.text("VolumeId"), v.tags("Tags"))
			r.State, r.Made = v.text("State"), v.time("CreateTime")
			goes := false
			for _, a := range v.list("Attachments") {
				r.partOf = append(r.partOf, a.text("InstanceId"))
				goes = goes || a.flag("DeleteOnTermination")
			}
			if !goes && r.State != "deleting" { // else it goes with its instance
				all = append(all, r)
			}
		}
		return all, err
	}
	k.list = func(ctx context.Context, c client) ([]Resource, error) { return find(ctx, c, tagged) }
	k.read = func(ctx context.Context, c client, id string) (*Resource, error) {
		return first(find(ctx, c, filter("volume-id", id)))
	}
	k.remove = func(ctx context.Context, c client, r Resource) error {
		_, err := c.call(ctx, "ec2", "DeleteVolume", members{"VolumeId": r.ID})
		return err
	}
	return k
}

func launchTemplates() *kind {
	k := &kind{name: "launch template", arn: [2]string{"ec2", "launch-template/"}}
	find := func(ctx context.Context, c client, in members) ([]Resource, error) {
		found, err := c.list(ctx, "ec2", "DescribeLaunchTemplates", "NextToken", "LaunchTemplates", in)
		var all []Resource
		for _, t := range found {
			r := k.described(c, t.text("LaunchTemplateId"), t.tags("Tags"))
			r.Name, r.Made = t.text("LaunchTemplateName"), t.time("CreateTime")
			r.changed = t.int("LatestVersionNumber") > 1
			all = append(all, r)
		}
		return all, err
	}
	k.list = func(ctx context.Context, c client) ([]Resource, error) {
		return find(ctx, c, members{"Filters": []any{tagged}, "MaxResults": templatesPerPage})
	}
	k.read = func(ctx context.Context, c client, id string) (*Resource, error) {
		return first(find(ctx, c, members{"LaunchTemplateIds": anys(id)})) // it has no filter by id
	}
	k.remove = func(ctx context.Context, c client, r Resource) error {
		_, err := c.call(ctx, "ec2", "DeleteLaunchTemplate", members{"LaunchTemplateId": r.ID})
		return err
	}
	return k
}

// first is the one that was asked for; nil if there is none.
func first(found []Resource, err error) (*Resource, error) {
	if err != nil || len(found) == 0 {
		if isGone(err) {
			err = nil
		}
		return nil, err
	}
	return &found[0], nil
}
