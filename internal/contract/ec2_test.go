package contract

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/almanac-run/almanac/internal/awsapi"
)

// publicImage is an image of Amazon's.
func (s *stage) publicImage() string {
	out := s.do("ec2", "DescribeImages", object{"Owners": list("amazon"), "Filters": list(filter("name", "al2023-ami-*"), filter("architecture", "x86_64"))})
	s.holds("an owner's images are found by a pattern", text(out, "Images.0.ImageId") != "", out)
	return text(out, "Images.0.ImageId")
}

// launch is RunInstances with what every launch says.
func launch(image, token string, more object) object {
	in := object{"ImageId": image, "InstanceType": "t3.small", "MinCount": 1, "MaxCount": 1, "ClientToken": token}
	for name, v := range more {
		in[name] = v
	}
	return in
}

// instance launches one and lets it start.
func (s *stage) instance(token string, more object) (id string, launched object) {
	out := s.do("ec2", "RunInstances", launch(s.publicImage(), token, more))
	s.settle()
	return text(out, "Instances.0.InstanceId"), out
}

func (s *stage) state(id string) string {
	out, err := s.call("ec2", "DescribeInstances", object{"InstanceIds": list(id)})
	if err != nil {
		return err.Error()
	}
	return text(out, "Reservations.0.Instances.0.State.Name")
}

// living are the instances that are not terminated.
func (s *stage) living(filters ...any) []string {
	filters = append(filters, filter("instance-state-name", "pending", "running", "stopping", "stopped"))
	out := s.do("ec2", "DescribeInstances", object{"Filters": filters})
	ids := []string{}
	for _, r := range items(out, "Reservations") {
		ids = append(ids, texts(r, "Instances", "InstanceId")...)
	}
	return ids
}

const (
	noInstance = "i-0123456789abcdef0"
	noImage    = "ami-0123456789abcdef0"
	noSnapshot = "snap-0123456789abcdef0"
)

var ec2Scenarios = []scenario{
	{name: "ec2 instance lifecycle", by: "EC2 User Guide, Instance lifecycle; EC2 API Reference, RunInstances, StopInstances, StartInstances, RebootInstances, TerminateInstances, Error codes",
		run: func(s *stage) {
			id, launched := s.instance("lifecycle", object{"TagSpecifications": append(spec("instance", tag("stage", "new")), spec("volume", tag("stage", "disk"))...)})
			s.equal("a launch is answered with pending", get(launched, "Instances.0.State.Name"), any("pending"))
			s.equal("its code goes with it", get(launched, "Instances.0.State.Code"), any(int64(0)))
			s.equal("after a while it is running", s.state(id), "running")
			out := s.do("ec2", "DescribeInstances", object{"InstanceIds": list(id)})
			i := get(out, "Reservations.0.Instances.0")
			s.equal("the instance has its tags from the beginning", tags(get(i, "Tags")), map[string]string{"stage": "new"})
			s.equal("it knows its token", text(i, "ClientToken"), "lifecycle")
			s.holds("it is in a zone of the region", strings.HasPrefix(text(i, "Placement.AvailabilityZone"), "us-east-1"), i)
			s.holds("it has a private address", text(i, "PrivateIpAddress") != "", i)
			volume := text(i, "BlockDeviceMappings.0.Ebs.VolumeId")
			s.holds("it has a root volume", strings.HasPrefix(volume, "vol-"), i)
			volumes := s.do("ec2", "DescribeVolumes", object{"VolumeIds": list(volume)})
			s.equal("the volume has its tags from the beginning", tags(get(volumes, "Volumes.0.Tags")), map[string]string{"stage": "disk"})
			s.equal("the volume is in use", text(volumes, "Volumes.0.State"), "in-use")
			s.equal("it is found by a tag", s.living(filter("tag:stage", "new")), []string{id})
			s.equal("it is found by a tag's key", s.living(filter("tag-key", "stage")), []string{id})
			s.equal("no other tag finds it", s.living(filter("tag:stage", "old")), []string{})
			status := s.do("ec2", "DescribeInstanceStatus", object{"InstanceIds": list(id)})
			s.equal("status checks pass", text(status, "InstanceStatuses.0.InstanceStatus.Status"), "ok")

			s.refused("DryRun says that it would", "DryRunOperation", "ec2", "StopInstances", object{"InstanceIds": list(id), "DryRun": true})
			s.equal("and does not", s.state(id), "running")
			out = s.do("ec2", "StopInstances", object{"InstanceIds": list(id)})
			s.equal("a stop tells the state before", text(out, "StoppingInstances.0.PreviousState.Name"), "running")
			s.equal("and is answered with stopping", text(out, "StoppingInstances.0.CurrentState.Name"), "stopping")
			s.settle()
			s.equal("after a while it is stopped", s.state(id), "stopped")
			s.conflicts("what is stopped cannot be rebooted", "ec2", "RebootInstances", object{"InstanceIds": list(id)})
			out, _ = s.may("a stopped instance may be stopped", "ec2", "StopInstances", object{"InstanceIds": list(id)})
			s.equal("and stays so", text(out, "StoppingInstances.0.CurrentState.Name"), "stopped")
			out = s.do("ec2", "StartInstances", object{"InstanceIds": list(id)})
			s.equal("a start is answered with pending", text(out, "StartingInstances.0.CurrentState.Name"), "pending")
			s.settle()
			s.equal("after a while it runs again", s.state(id), "running")
			s.may("what runs can be rebooted", "ec2", "RebootInstances", object{"InstanceIds": list(id)})

			out = s.do("ec2", "TerminateInstances", object{"InstanceIds": list(id)})
			s.equal("a termination is answered with shutting-down", text(out, "TerminatingInstances.0.CurrentState.Name"), "shutting-down")
			s.settle()
			s.equal("a terminated instance is described for a while", s.state(id), "terminated")
			s.may("it may be terminated again", "ec2", "TerminateInstances", object{"InstanceIds": list(id)})
			s.refused("it cannot be started", "IncorrectInstanceState", "ec2", "StartInstances", object{"InstanceIds": list(id)})
			s.refused("its volume has gone with it", "InvalidVolume.NotFound", "ec2", "DescribeVolumes", object{"VolumeIds": list(volume)})
			s.refused("an unknown instance is not described", "InvalidInstanceID.NotFound", "ec2", "DescribeInstances", object{"InstanceIds": list(noInstance)})
			s.refused("nor terminated", "InvalidInstanceID.NotFound", "ec2", "TerminateInstances", object{"InstanceIds": list(noInstance)})
			s.refused("nor is one with an id that cannot be", "InvalidInstanceID.Malformed", "ec2", "DescribeInstances", object{"InstanceIds": list("i-x")})
			s.refused("a filter that there is not is refused", "InvalidParameterValue", "ec2", "DescribeInstances", object{"Filters": list(filter("colour", "red"))})
		}},
	{name: "ec2 launch tokens", by: "EC2 API Reference, Ensuring idempotency; EC2 API Reference, RunInstances, Error codes",
		run: func(s *stage) {
			image := s.publicImage()
			first := s.do("ec2", "RunInstances", launch(image, "token", nil))
			again := s.do("ec2", "RunInstances", launch(image, "token", nil))
			s.settle()
			s.equal("the same token is the same instance", text(again, "Instances.0.InstanceId"), text(first, "Instances.0.InstanceId"))
			s.equal("and there is one only", len(s.living()), 1)
			s.refused("the same token with other parameters is refused", "IdempotentParameterMismatch", "ec2", "RunInstances", launch(image, "token", object{"InstanceType": "t3.large"}))
			out, ok := s.may("an instance can be looked up by its token", "ec2", "DescribeInstances", object{"Filters": list(filter("client-token", "token"))})
			if ok {
				s.equal("and is the one", texts(get(out, "Reservations.0"), "Instances", "InstanceId"), []string{text(first, "Instances.0.InstanceId")})
			}
			other := s.do("ec2", "RunInstances", launch(image, "another", nil))
			s.holds("another token is another instance", text(other, "Instances.0.InstanceId") != text(first, "Instances.0.InstanceId"), other)
			var at sync.WaitGroup
			for range 8 {
				at.Go(func() {
					// Those that fail are missing from what is counted.
					_, _ = s.call("ec2", "RunInstances", launch(image, "eight", object{"TagSpecifications": spec("instance", tag("calls", "eight"))}))
				})
			}
			at.Wait()
			s.settle()
			s.equal("eight calls at once are one instance", len(s.living(filter("tag:calls", "eight"))), 1)
			zoned := func(zone string) string {
				return text(s.do("ec2", "RunInstances", launch(image, "zone", object{"Placement": object{"AvailabilityZone": zone}})), "Instances.0.InstanceId")
			}
			s.holds("in another zone the same token is another instance", zoned("us-east-1a") != zoned("us-east-1b"))
			s.do("ec2", "TerminateInstances", object{"InstanceIds": list(text(first, "Instances.0.InstanceId"))})
			s.settle()
			s.refused("the token of a terminated instance is used up", "IdempotentInstanceTerminated", "ec2", "RunInstances", launch(image, "token", nil))
			s.refused("an image that there is not is refused", "InvalidAMIID.NotFound", "ec2", "RunInstances", launch(noImage, "none", nil))
			s.refused("an image with an id that cannot be is refused", "InvalidAMIID.Malformed", "ec2", "RunInstances", launch("ami-x", "malformed", nil))
			two := s.do("ec2", "RunInstances", launch(image, "two", object{"MinCount": 2, "MaxCount": 2}))
			s.equal("two are two, in order", []any{get(two, "Instances.0.AmiLaunchIndex"), get(two, "Instances.1.AmiLaunchIndex")}, []any{int64(0), int64(1)})
		}},
	{name: "ec2 pages", by: "EC2 API Reference, Pagination; DescribeInstances, DescribeTags",
		run: func(s *stage) {
			image := s.publicImage()
			for n := range 7 {
				s.do("ec2", "RunInstances", launch(image, fmt.Sprint("page", n), object{"TagSpecifications": spec("instance", tag("n", fmt.Sprint(n)))}))
			}
			s.settle()
			out := s.do("ec2", "DescribeInstances", object{"MaxResults": 5})
			s.equal("a page holds as many as it may", []any{len(items(out, "Reservations")), text(out, "NextToken") != ""}, []any{5, true})
			all, err := awsapi.All(context.Background(), s.caller, s.models, s.scope, "ec2", "DescribeInstances", object{"MaxResults": 5}, 0)
			s.holds("all pages hold all", err == nil && len(items(all, "Reservations")) == 7, err, len(items(all, "Reservations")))
			all, err = awsapi.All(context.Background(), s.caller, s.models, s.scope, "ec2", "DescribeTags", object{"MaxResults": 5}, 0)
			s.holds("so it is with tags", err == nil && len(items(all, "Tags")) == 7, err, len(items(all, "Tags")))
		}},
	{name: "ec2 images", by: "EC2 API Reference, CreateImage, DescribeImages, ModifyImageAttribute, EnableImageDeprecation, DeregisterImage, Error codes",
		run: func(s *stage) {
			id, _ := s.instance("images", nil)
			made := s.do("ec2", "CreateImage", object{"InstanceId": id, "Name": "base-1", "Description": "base", "TagSpecifications": spec("image", tag("stage", "new"))})
			image := text(made, "ImageId")
			s.settle()
			out := s.do("ec2", "DescribeImages", object{"ImageIds": list(image)})
			i := get(out, "Images.0")
			s.equal("after a while it is available", text(i, "State"), "available")
			s.equal("it has name and description", []string{text(i, "Name"), text(i, "Description")}, []string{"base-1", "base"})
			s.equal("it has its tags from the beginning", tags(get(i, "Tags")), map[string]string{"stage": "new"})
			s.equal("it is the account's own", text(i, "OwnerId"), s.account)
			s.equal("nobody else's to launch", get(i, "Public"), any(false))
			s.equal("it says what it was made of", text(i, "SourceInstanceId"), id)
			snapshot := text(i, "BlockDeviceMappings.0.Ebs.SnapshotId")
			s.holds("it has a snapshot", strings.HasPrefix(snapshot, "snap-"), i)
			out = s.do("ec2", "DescribeImages", object{"Owners": list("self"), "Filters": list(filter("name", "base-*"), filter("tag:stage", "new"))})
			s.equal("it is found by owner, name and tag", texts(out, "Images", "ImageId"), []string{image})
			if out, ok := s.may("it is looked for by its snapshot", "ec2", "DescribeImages", object{"Filters": list(filter("block-device-mapping.snapshot-id", snapshot))}); ok {
				s.equal("and found", texts(out, "Images", "ImageId"), []string{image})
			}
			s.refused("its snapshot is in use", "InvalidSnapshot.InUse", "ec2", "DeleteSnapshot", object{"SnapshotId": snapshot})
			s.refused("the name is taken", "InvalidAMIName.Duplicate", "ec2", "CreateImage", object{"InstanceId": id, "Name": "base-1"})
			s.refused("an instance that there is not has no image", "InvalidInstanceID.NotFound", "ec2", "CreateImage", object{"InstanceId": noInstance, "Name": "none"})
			tagged := append(spec("image", tag("stage", "two")), spec("snapshot", tag("stage", "disk"))...)
			if made, ok := s.may("snapshots are tagged in the call that makes the image", "ec2", "CreateImage", object{"InstanceId": id, "Name": "base-2", "TagSpecifications": tagged}); ok {
				s.settle()
				out = s.do("ec2", "DescribeImages", object{"ImageIds": list(get(made, "ImageId"))})
				out = s.do("ec2", "DescribeSnapshots", object{"SnapshotIds": list(get(out, "Images.0.BlockDeviceMappings.0.Ebs.SnapshotId"))})
				s.equal("with their own tags", tags(get(out, "Snapshots.0.Tags")), map[string]string{"stage": "disk"})
			}

			s.do("ec2", "ModifyImageAttribute", object{"ImageId": image, "LaunchPermission": object{"Add": list(object{"UserId": "111122223333"})}})
			out = s.do("ec2", "DescribeImageAttribute", object{"ImageId": image, "Attribute": "launchPermission"})
			s.equal("it is shared with an account", texts(out, "LaunchPermissions", "UserId"), []string{"111122223333"})
			s.may("to share it again is fine", "ec2", "ModifyImageAttribute", object{"ImageId": image, "LaunchPermission": object{"Add": list(object{"UserId": "111122223333"})}})
			s.do("ec2", "ModifyImageAttribute", object{"ImageId": image, "LaunchPermission": object{"Remove": list(object{"UserId": "111122223333"})}})
			out = s.do("ec2", "DescribeImageAttribute", object{"ImageId": image, "Attribute": "launchPermission"})
			s.equal("and not any more", len(items(out, "LaunchPermissions")), 0)
			if _, ok := s.may("it can be deprecated", "ec2", "EnableImageDeprecation", object{"ImageId": image, "DeprecateAt": "2030-01-01T00:00:00Z"}); ok {
				out = s.do("ec2", "DescribeImages", object{"ImageIds": list(image)})
				s.equal("and says from when", text(out, "Images.0.DeprecationTime"), "2030-01-01T00:00:00.000Z")
			}

			s.do("ec2", "DeregisterImage", object{"ImageId": image})
			out = s.do("ec2", "DescribeImages", object{"Owners": list("self"), "Filters": list(filter("image-id", image))})
			s.equal("what is deregistered is not listed", len(items(out, "Images")), 0)
			// "Recently deregistered images … return empty results", and an error later on.
			gone, err := s.call("ec2", "DescribeImages", object{"ImageIds": list(image)})
			s.holds("nor described by its id", err == nil && len(items(gone, "Images")) == 0 || refusal("InvalidAMIID.NotFound", gone, err) == "", gone, err)
			s.refused("nor deregistered again", "InvalidAMIID.Unavailable", "ec2", "DeregisterImage", object{"ImageId": image})
			s.refused("one that never was is not deregistered", "InvalidAMIID.NotFound", "ec2", "DeregisterImage", object{"ImageId": noImage})
			out = s.do("ec2", "DescribeSnapshots", object{"SnapshotIds": list(snapshot)})
			s.equal("its snapshot stays", texts(out, "Snapshots", "SnapshotId"), []string{snapshot})
			s.may("and can be deleted now", "ec2", "DeleteSnapshot", object{"SnapshotId": snapshot})
			s.may("the name is free again", "ec2", "CreateImage", object{"InstanceId": id, "Name": "base-1"})
		}},
	{name: "ec2 image copies", by: "EC2 API Reference, CopyImage; Ensuring idempotency",
		run: func(s *stage) {
			id, _ := s.instance("copies", nil)
			made := s.do("ec2", "CreateImage", object{"InstanceId": id, "Name": "base"})
			s.settle()
			copyIn := object{"SourceImageId": get(made, "ImageId"), "SourceRegion": "us-east-1", "Name": "base", "Description": "copy", "ClientToken": "copy",
				"TagSpecifications": append(spec("image", tag("stage", "copy")), spec("snapshot", tag("stage", "disk"))...)}
			first, err := s.in("eu-west-1", "ec2", "CopyImage", copyIn)
			s.holds("a copy is made in another region", err == nil && text(first, "ImageId") != "", err)
			again, err := s.in("eu-west-1", "ec2", "CopyImage", copyIn)
			s.holds("the same token is the same copy", err == nil && text(again, "ImageId") == text(first, "ImageId"), again, err)
			s.settle()
			out, err := s.in("eu-west-1", "ec2", "DescribeImages", object{"ImageIds": list(get(first, "ImageId"))})
			s.holds("it is described there", err == nil, err)
			s.equal("it has name, description and state", []string{text(out, "Images.0.Name"), text(out, "Images.0.Description"), text(out, "Images.0.State")}, []string{"base", "copy", "available"})
			s.equal("it has its tags from the beginning", tags(get(out, "Images.0.Tags")), map[string]string{"stage": "copy"})
			s.equal("it says where it is from", []string{text(out, "Images.0.SourceImageId"), text(out, "Images.0.SourceImageRegion")}, []string{text(made, "ImageId"), "us-east-1"})
			s.refused("it is not described here", "InvalidAMIID.NotFound", "ec2", "DescribeImages", object{"ImageIds": list(get(first, "ImageId"))})
			copyIn["ClientToken"], copyIn["SourceImageId"] = "none", noImage
			_, err = s.in("eu-west-1", "ec2", "CopyImage", copyIn)
			s.settles("an image that there is not is not copied", refusal("InvalidAMIID.NotFound", nil, err))
		}},
	{name: "ec2 snapshots", by: "EC2 API Reference, CreateSnapshot, DescribeSnapshots, DeleteSnapshot, DeleteVolume, Error codes",
		run: func(s *stage) {
			_, launched := s.instance("snapshots", nil)
			out := s.do("ec2", "DescribeInstances", object{"InstanceIds": list(get(launched, "Instances.0.InstanceId"))})
			volume := text(out, "Reservations.0.Instances.0.BlockDeviceMappings.0.Ebs.VolumeId")
			made := s.do("ec2", "CreateSnapshot", object{"VolumeId": volume, "Description": "before", "TagSpecifications": spec("snapshot", tag("stage", "new"))})
			s.equal("a snapshot begins as pending", text(made, "State"), "pending")
			s.equal("it is tagged in the answer already", tags(get(made, "Tags")), map[string]string{"stage": "new"})
			s.settle()
			id := text(made, "SnapshotId")
			out = s.do("ec2", "DescribeSnapshots", object{"OwnerIds": list("self"), "Filters": list(filter("tag:stage", "new"))})
			s.equal("it is found by owner and tag", texts(out, "Snapshots", "SnapshotId"), []string{id})
			s.equal("after a while it is completed", []string{text(out, "Snapshots.0.State"), text(out, "Snapshots.0.Progress")}, []string{"completed", "100%"})
			s.equal("it says of what", []string{text(out, "Snapshots.0.VolumeId"), text(out, "Snapshots.0.Description")}, []string{volume, "before"})
			s.holds("and how large", get(out, "Snapshots.0.VolumeSize") != nil, out)
			again := s.do("ec2", "CreateSnapshot", object{"VolumeId": volume, "Description": "before", "TagSpecifications": spec("snapshot", tag("stage", "new"))})
			s.holds("asked for again, it is made again", text(again, "SnapshotId") != id, again)
			s.settle()
			s.do("ec2", "DeleteSnapshot", object{"SnapshotId": id})
			s.refused("deleted twice is not found", "InvalidSnapshot.NotFound", "ec2", "DeleteSnapshot", object{"SnapshotId": id})
			s.refused("one that never was is not described", "InvalidSnapshot.NotFound", "ec2", "DescribeSnapshots", object{"SnapshotIds": list(noSnapshot)})
			s.refused("a volume that there is not has no snapshot", "InvalidVolume.NotFound", "ec2", "CreateSnapshot", object{"VolumeId": "vol-0123456789abcdef0"})
			s.refused("a volume in use is not deleted", "VolumeInUse", "ec2", "DeleteVolume", object{"VolumeId": volume})
		}},
	{name: "ec2 tags", by: "EC2 API Reference, CreateTags, DeleteTags, DescribeTags, Tag restrictions",
		run: func(s *stage) {
			id, _ := s.instance("tags", object{"TagSpecifications": spec("instance", tag("a", "1"))})
			all := func() map[string]string {
				return tags(get(s.do("ec2", "DescribeTags", object{"Filters": list(filter("resource-id", id))}), "Tags"))
			}
			s.do("ec2", "CreateTags", object{"Resources": list(id), "Tags": list(tag("a", "2"), tag("b", ""))})
			s.equal("a tag is written over, and may be empty", all(), map[string]string{"a": "2", "b": ""})
			out := s.do("ec2", "DescribeTags", object{"Filters": list(filter("key", "a"))})
			s.equal("a tag says whose it is", []string{text(out, "Tags.0.ResourceId"), text(out, "Tags.0.ResourceType")}, []string{id, "instance"})
			s.do("ec2", "DeleteTags", object{"Resources": list(id), "Tags": list(tag("a", "other"))})
			s.equal("a tag of another value is not deleted", all(), map[string]string{"a": "2", "b": ""})
			s.do("ec2", "DeleteTags", object{"Resources": list(id), "Tags": list(object{"Key": "a"}, object{"Key": "absent"})})
			s.equal("a key without a value is any value", all(), map[string]string{"b": ""})
			s.refused("what there is not is not tagged", "InvalidInstanceID.NotFound", "ec2", "CreateTags", object{"Resources": list(id, noInstance), "Tags": list(tag("c", "1"))})
			s.equal("nor is anything else of that call", all(), map[string]string{"b": ""})
			s.refused("aws: is AWS's own", "InvalidParameterValue", "ec2", "CreateTags", object{"Resources": list(id), "Tags": list(tag("aws:x", "1"))})
			many := list()
			for i := range 50 {
				many = append(many, tag("k"+strings.Repeat("x", i), "v"))
			}
			s.refused("51 tags are too many", "TagLimitExceeded", "ec2", "CreateTags", object{"Resources": list(id), "Tags": many})
		}},
	{name: "ec2 launch templates", by: "EC2 API Reference, CreateLaunchTemplate, CreateLaunchTemplateVersion, ModifyLaunchTemplate, DeleteLaunchTemplateVersions, Error codes",
		run: func(s *stage) {
			image := s.publicImage()
			in := object{"LaunchTemplateName": "web", "ClientToken": "web", "VersionDescription": "first",
				"LaunchTemplateData": object{"ImageId": image, "InstanceType": "t3.small"}, "TagSpecifications": spec("launch-template", tag("stage", "new"))}
			made := s.do("ec2", "CreateLaunchTemplate", in)
			id := text(made, "LaunchTemplate.LaunchTemplateId")
			s.settle()
			again, ok := s.may("the same token is answered again", "ec2", "CreateLaunchTemplate", in)
			if ok {
				s.equal("with the same template", text(again, "LaunchTemplate.LaunchTemplateId"), id)
			}
			in["ClientToken"] = "other"
			s.refused("the name is taken", "InvalidLaunchTemplateName.AlreadyExistsException", "ec2", "CreateLaunchTemplate", in)
			out := s.do("ec2", "DescribeLaunchTemplates", object{"LaunchTemplateNames": list("web")})
			s.equal("it has its tags from the beginning", tags(get(out, "LaunchTemplates.0.Tags")), map[string]string{"stage": "new"})
			s.equal("its first version is default and latest", []any{get(out, "LaunchTemplates.0.DefaultVersionNumber"), get(out, "LaunchTemplates.0.LatestVersionNumber")}, []any{int64(1), int64(1)})

			next := object{"LaunchTemplateName": "web", "ClientToken": "next", "SourceVersion": "1", "VersionDescription": "second", "LaunchTemplateData": object{"InstanceType": "t3.large"}}
			second := s.do("ec2", "CreateLaunchTemplateVersion", next)
			s.equal("a version is one more", get(second, "LaunchTemplateVersion.VersionNumber"), any(int64(2)))
			s.equal("it has what its source has", text(second, "LaunchTemplateVersion.LaunchTemplateData.ImageId"), image)
			s.equal("and what it says itself", text(second, "LaunchTemplateVersion.LaunchTemplateData.InstanceType"), "t3.large")
			third := s.do("ec2", "CreateLaunchTemplateVersion", next)
			s.equal("the same token is the same version", get(third, "LaunchTemplateVersion.VersionNumber"), any(int64(2)))
			out = s.do("ec2", "DescribeLaunchTemplateVersions", object{"LaunchTemplateId": id, "Versions": list("$Default")})
			s.equal("the default is what it was", get(out, "LaunchTemplateVersions.0.VersionNumber"), any(int64(1)))
			s.do("ec2", "ModifyLaunchTemplate", object{"LaunchTemplateName": "web", "DefaultVersion": "2", "ClientToken": "default"})
			out = s.do("ec2", "DescribeLaunchTemplateVersions", object{"LaunchTemplateId": id, "Versions": list("$Default")})
			s.equal("until it is another", get(out, "LaunchTemplateVersions.0.VersionNumber"), any(int64(2)))
			run := s.do("ec2", "RunInstances", object{"LaunchTemplate": object{"LaunchTemplateId": id, "Version": "$Default"}, "MinCount": 1, "MaxCount": 1, "ClientToken": "run"})
			s.equal("a launch takes what the version says", []string{text(run, "Instances.0.ImageId"), text(run, "Instances.0.InstanceType")}, []string{image, "t3.large"})
			if out, ok := s.may("versions are deleted", "ec2", "DeleteLaunchTemplateVersions", object{"LaunchTemplateId": id, "Versions": list("1", "2", "9")}); ok {
				s.equal("what could be deleted is told", []any{get(out, "SuccessfullyDeletedLaunchTemplateVersions.0.VersionNumber"), len(items(out, "SuccessfullyDeletedLaunchTemplateVersions"))}, []any{int64(1), 1})
				s.equal("and what could not: the default, and one that there is not", len(items(out, "UnsuccessfullyDeletedLaunchTemplateVersions")), 2)
			}
			s.refused("a version that there is not is not described", "InvalidLaunchTemplateId.VersionNotFound", "ec2", "DescribeLaunchTemplateVersions", object{"LaunchTemplateId": id, "Versions": list("9")})
			s.do("ec2", "DeleteLaunchTemplate", object{"LaunchTemplateId": id})
			s.refused("what is deleted is not found by name", "InvalidLaunchTemplateName.NotFoundException", "ec2", "DescribeLaunchTemplates", object{"LaunchTemplateNames": list("web")})
			s.refused("nor by id", "InvalidLaunchTemplateId.NotFound", "ec2", "DescribeLaunchTemplates", object{"LaunchTemplateIds": list(id)})
		}},
}
