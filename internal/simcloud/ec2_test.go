package simcloud

import (
	"strings"
	"testing"
	"time"

	"github.com/almanac-run/almanac/internal/awsapi"
)

func (w *world) imageState(id string) string {
	w.Helper()
	return text(w.do("ec2 DescribeImages", m{"ImageIds": []any{id}}), "Images", 0, "State")
}

func TestImages(t *testing.T) {
	w := newWorld(t, Options{
		Delays: Delays{Image: Range{5 * time.Minute, 5 * time.Minute}, Snapshot: Range{time.Minute, time.Minute}},
		Fails: func(r Resource) string {
			if r.Name == "bad" {
				return "the disk is broken"
			}
			return ""
		},
	})
	from := w.agents(1)[0]
	create := func(name string) m {
		return m{"InstanceId": from, "Name": name, "TagSpecifications": append(tags("image", name), tags("snapshot", name)...)}
	}
	id := text(w.do("ec2 CreateImage", create("web-1")), "ImageId")
	w.is("at first", w.imageState(id), "pending")
	w.fails("InvalidAMIID.Unavailable", "ec2 RunInstances", w.runInput("t", m{"ImageId": id}))
	w.fails("InvalidAMIID.Unavailable", "ec2 ModifyImageAttribute", m{"ImageId": id, "LaunchPermission": m{"Add": []any{m{"UserId": "222222222222"}}}})
	w.pass(5 * time.Minute)
	w.is("then", w.imageState(id), "available")
	w.do("ec2 RunInstances", w.runInput("t", m{"ImageId": id}))

	// A name is unique in an account and region, and no time of day.
	e := w.fails("InvalidAMIName.Duplicate", "ec2 CreateImage", create("web-1"))
	w.is("class", e.Class, awsapi.Conflict)
	w.fails("InvalidAMIName.Malformed", "ec2 CreateImage", create("web 12:00:00"))
	out := w.do("ec2 DescribeImages", m{"Owners": []any{"self"}, "Filters": []any{m{"Name": "name", "Values": []any{"web-*"}}, m{"Name": "tag:almanac:token", "Values": []any{"web-1"}}}})
	w.is("found by name and tag", text(out, "Images", 0, "ImageId"), id)

	bad := text(w.do("ec2 CreateImage", create("bad")), "ImageId")
	w.pass(5 * time.Minute)
	out = w.do("ec2 DescribeImages", m{"ImageIds": []any{bad}})
	w.is("failed", []any{text(out, "Images", 0, "State"), text(out, "Images", 0, "StateReason", "Message")}, []any{"failed", "the disk is broken"})

	// Deregistered: its snapshots stay, unless asked otherwise.
	snap := text(w.do("ec2 DescribeImages", m{"ImageIds": []any{id}}), "Images", 0, "BlockDeviceMappings", 0, "Ebs", "SnapshotId")
	w.fails("InvalidSnapshot.InUse", "ec2 DeleteSnapshot", m{"SnapshotId": snap})
	w.do("ec2 DeregisterImage", m{"ImageId": id})
	w.fails("InvalidAMIID.Unavailable", "ec2 DeregisterImage", m{"ImageId": id})
	w.fails("InvalidAMIID.NotFound", "ec2 DescribeImages", m{"ImageIds": []any{id}})
	w.do("ec2 DeleteSnapshot", m{"SnapshotId": snap})
	w.fails("InvalidSnapshot.NotFound", "ec2 DeleteSnapshot", m{"SnapshotId": snap})
	id = text(w.do("ec2 CreateImage", create("web-1")), "ImageId") // the name is free again
	out = w.do("ec2 DeregisterImage", m{"ImageId": id, "DeleteAssociatedSnapshots": true})
	w.is("results", []any{length(out, "DeleteSnapshotResults"), text(out, "DeleteSnapshotResults", 0, "ReturnCode")}, []any{1, "success"})
	w.is("untagged", len(w.Untagged()), 0)

	// Making an image reboots, unless told not to.
	boots := func() int { i, _ := w.instances.get(from); return i.boots }
	was := boots()
	in := create("quiet")
	in["NoReboot"] = true
	w.do("ec2 CreateImage", in)
	w.is("no reboot", boots(), was)
	w.do("ec2 CreateImage", create("loud"))
	w.is("reboot", boots(), was+1)
}

func TestImageCopies(t *testing.T) {
	w := newWorld(t, Options{Delays: Delays{Image: Range{time.Minute, time.Minute}}})
	from := w.agents(1)[0]
	id := text(w.do("ec2 CreateImage", m{"InstanceId": from, "Name": "web-1"}), "ImageId")
	w.in.Region = "us-east-1"
	w.fails("InvalidAMIID.NotFound", "ec2 DescribeImages", m{"ImageIds": []any{id}})
	in := m{"SourceImageId": id, "SourceRegion": "eu-west-1", "Name": "web-1", "ClientToken": "c", "TagSpecifications": append(tags("image", "c"), tags("snapshot", "c")...)}
	w.fails("InvalidAMIID.Unavailable", "ec2 CopyImage", in)
	w.pass(time.Minute)
	first := text(w.do("ec2 CopyImage", in), "ImageId")
	w.is("the same token", text(w.do("ec2 CopyImage", in), "ImageId"), first)
	w.fails("IdempotentParameterMismatch", "ec2 CopyImage", m{"SourceImageId": id, "SourceRegion": "eu-west-1", "Name": "web-2", "ClientToken": "c"})
	w.fails("InvalidAMIName.Duplicate", "ec2 CopyImage", m{"SourceImageId": id, "SourceRegion": "eu-west-1", "Name": "web-1", "ClientToken": "d"})
	w.fails("InvalidAMIID.NotFound", "ec2 CopyImage", m{"SourceImageId": first, "SourceRegion": "eu-west-1", "Name": "web-3"})
	w.is("copy", []any{w.imageState(first), text(w.do("ec2 DescribeImages", m{"ImageIds": []any{first}}), "Images", 0, "SourceImageRegion")}, []any{"pending", "eu-west-1"})

	// Another account sees it once it is shared, and may copy it once its snapshot is.
	w.pass(time.Minute)
	snap := text(w.do("ec2 DescribeImages", m{"ImageIds": []any{first}}), "Images", 0, "BlockDeviceMappings", 0, "Ebs", "SnapshotId")
	mine, theirs := w.in, awsapi.Scope{Region: "us-east-1", Role: "ops", Account: "222222222222"}
	w.in = theirs
	w.fails("InvalidAMIID.NotFound", "ec2 DescribeImages", m{"ImageIds": []any{first}})
	w.in = mine
	w.do("ec2 ModifyImageAttribute", m{"ImageId": first, "LaunchPermission": m{"Add": []any{m{"UserId": "222222222222"}}}})
	w.do("ec2 ModifyImageAttribute", m{"ImageId": first, "Attribute": "launchPermission", "OperationType": "add", "UserIds": []any{"333333333333"}})
	w.is("shared", w.do("ec2 DescribeImageAttribute", m{"ImageId": first, "Attribute": "launchPermission"})["LaunchPermissions"],
		[]any{m{"UserId": "222222222222"}, m{"UserId": "333333333333"}})
	w.fails("InvalidAMIAttributeItemValue", "ec2 ModifyImageAttribute", m{"ImageId": first, "LaunchPermission": m{"Add": []any{m{"UserId": "222"}}}})
	w.in = theirs
	w.is("seen", w.imageState(first), "available")
	w.fails("AuthFailure", "ec2 DeregisterImage", m{"ImageId": first})
	w.fails("InvalidRequest", "ec2 CopyImage", m{"SourceImageId": first, "SourceRegion": "us-east-1", "Name": "theirs"})
	w.in = mine
	w.do("ec2 ModifySnapshotAttribute", m{"SnapshotId": snap, "CreateVolumePermission": m{"Add": []any{m{"UserId": "222222222222"}}}})
	w.is("snapshot shared", length(w.do("ec2 DescribeSnapshotAttribute", m{"SnapshotId": snap, "Attribute": "createVolumePermission"}), "CreateVolumePermissions"), 1)
	w.in = theirs
	w.do("ec2 CopyImage", m{"SourceImageId": first, "SourceRegion": "us-east-1", "Name": "theirs"})
	w.in = mine
	w.do("ec2 ModifyImageAttribute", m{"ImageId": first, "LaunchPermission": m{"Remove": []any{m{"UserId": "222222222222"}}}})
	w.in = theirs
	w.fails("InvalidAMIID.NotFound", "ec2 DescribeImages", m{"ImageIds": []any{first}})
}

func TestImageDeprecation(t *testing.T) {
	w := newWorld(t, Options{})
	id := text(w.do("ec2 CreateImage", m{"InstanceId": w.agents(1)[0], "Name": "web-1"}), "ImageId")
	w.do("ec2 ModifyImageAttribute", m{"ImageId": id, "LaunchPermission": m{"Add": []any{m{"Group": "all"}}}})
	w.fails("InvalidParameterValue", "ec2 EnableImageDeprecation", m{"ImageId": id, "DeprecateAt": w.at.Add(-time.Hour)})
	w.do("ec2 EnableImageDeprecation", m{"ImageId": id, "DeprecateAt": w.at.Add(time.Hour)})
	mine, theirs := w.in, awsapi.Scope{Region: "eu-west-1", Role: "ops", Account: "222222222222"}
	count := func(in m) int {
		in["Filters"] = []any{m{"Name": "name", "Values": []any{"web-1"}}}
		return length(w.do("ec2 DescribeImages", in), "Images")
	}
	w.pass(time.Hour)
	w.is("to its owner", count(m{}), 1)
	w.in = theirs
	w.is("to others", []any{count(m{}), count(m{"IncludeDeprecated": true})}, []any{0, 1})
	w.in = mine
	w.do("ec2 DisableImageDeprecation", m{"ImageId": id})
	w.in = theirs
	w.is("to others again", count(m{}), 1)
}

func TestSnapshots(t *testing.T) {
	w := newWorld(t, Options{Delays: Delays{Snapshot: Range{time.Minute, time.Minute}}})
	id := w.agents(1)[0]
	volume := text(w.do("ec2 DescribeVolumes", m{"Filters": []any{m{"Name": "attachment.instance-id", "Values": []any{id}}}}), "Volumes", 0, "VolumeId")
	w.fails("VolumeInUse", "ec2 DeleteVolume", m{"VolumeId": volume})
	made := w.do("ec2 CreateSnapshot", m{"VolumeId": volume, "TagSpecifications": tags("snapshot", "t")})
	snap := text(made, "SnapshotId")
	w.is("at first", []any{made["State"], made["Progress"]}, []any{"pending", "40%"})
	w.fails("IncorrectState", "ec2 RegisterImage", m{"Name": "x-1", "Architecture": "x86_64", "RootDeviceName": "/dev/xvda",
		"BlockDeviceMappings": []any{m{"DeviceName": "/dev/xvda", "Ebs": m{"SnapshotId": snap}}}})
	// No token: twice is two.
	other := text(w.do("ec2 CreateSnapshot", m{"VolumeId": volume, "TagSpecifications": tags("snapshot", "t")}), "SnapshotId")
	if other == snap {
		t.Error("two snapshots are one")
	}
	found := w.do("ec2 DescribeSnapshots", m{"OwnerIds": []any{"self"}, "Filters": []any{m{"Name": "tag:almanac:token", "Values": []any{"t"}}}})
	w.is("by tag", length(found, "Snapshots"), 2)
	w.is("of an instance", length(w.do("ec2 CreateSnapshots", m{"InstanceSpecification": m{"InstanceId": id}}), "Snapshots"), 1)
	w.pass(time.Minute)
	w.is("register", w.imageState(text(w.do("ec2 RegisterImage", m{"Name": "x-1", "Architecture": "x86_64", "RootDeviceName": "/dev/xvda",
		"BlockDeviceMappings": []any{m{"DeviceName": "/dev/xvda", "Ebs": m{"SnapshotId": snap}}}}), "ImageId")), "available")
	w.fails("InvalidBlockDeviceMapping", "ec2 RegisterImage", m{"Name": "x-2", "RootDeviceName": "/dev/sda1"})
	w.in.Region = "us-east-1"
	w.do("ec2 CopySnapshot", m{"SourceRegion": "eu-west-1", "SourceSnapshotId": snap})
	w.fails("InvalidSnapshot.NotFound", "ec2 DescribeSnapshots", m{"SnapshotIds": []any{snap}})
}

func TestFailures(t *testing.T) {
	w := newWorld(t, Options{
		Delays: Delays{Launch: Range{time.Minute, time.Minute}},
		Fails: func(r Resource) string {
			if r.Kind == "snapshot" || r.Tags["almanac:token"] == "bad" {
				return "no luck"
			}
			return ""
		},
	})
	volume := text(w.do("ec2 DescribeVolumes", m{"Filters": []any{m{"Name": "attachment.instance-id", "Values": anyOf(w.agents(1))}}}), "Volumes", 0, "VolumeId")
	w.do("ec2 CreateSnapshot", m{"VolumeId": volume})
	out := w.do("ec2 DescribeSnapshots", m{"OwnerIds": []any{"self"}})
	w.is("snapshot", []any{text(out, "Snapshots", 0, "State"), text(out, "Snapshots", 0, "StateMessage")}, []any{"error", "no luck"})
	id := text(w.do("ec2 RunInstances", w.runInput("bad", nil)), "Instances", 0, "InstanceId")
	w.is("at first", w.ec2State(id), "pending")
	w.pass(time.Minute)
	out = w.do("ec2 DescribeInstances", m{"InstanceIds": []any{id}})
	w.is("then", []any{w.ec2State(id), text(out, "Reservations", 0, "Instances", 0, "StateReason", "Message")}, []any{"terminated", "no luck"})
}

func TestVolumesLeftBehind(t *testing.T) {
	w := newWorld(t, Options{})
	id := text(w.do("ec2 RunInstances", w.runInput("t", m{"BlockDeviceMappings": []any{
		m{"DeviceName": "/dev/sdf", "Ebs": m{"VolumeSize": 10, "DeleteOnTermination": false}},
	}})), "Instances", 0, "InstanceId")
	w.fails("InvalidBlockDeviceMapping", "ec2 RunInstances", w.runInput("u", m{"BlockDeviceMappings": []any{m{"DeviceName": "/dev/xvda", "Ebs": m{"VolumeSize": 1}}}}))
	w.is("untagged", len(w.Untagged()), 1)
	w.do("ec2 TerminateInstances", m{"InstanceIds": []any{id}})
	live := w.Live()
	w.is("live", []any{len(live), live[0].Kind}, []any{1, "volume"})
	w.do("ec2 DeleteVolume", m{"VolumeId": live[0].ID})
	w.is("live", len(w.Live()), 0)
}

func TestTags(t *testing.T) {
	w := newWorld(t, Options{})
	id := w.agents(1)[0]
	one := []any{id}
	w.do("ec2 CreateTags", m{"Resources": one, "Tags": []any{m{"Key": "a", "Value": "1"}, m{"Key": "b", "Value": "2"}}})
	w.do("ec2 DeleteTags", m{"Resources": one, "Tags": []any{m{"Key": "a", "Value": "other"}, m{"Key": "b"}}})
	out := w.do("ec2 DescribeTags", m{"Filters": []any{m{"Name": "resource-id", "Values": one}}})
	w.is("tags", out["Tags"], []any{
		m{"Key": "a", "ResourceId": id, "ResourceType": "instance", "Value": "1"}, m{"Key": "role", "ResourceId": id, "ResourceType": "instance", "Value": "web"},
	})
	var many []any
	for n := range 51 {
		many = append(many, m{"Key": strings.Repeat("k", n+1), "Value": ""})
	}
	w.fails("TagLimitExceeded", "ec2 CreateTags", m{"Resources": one, "Tags": many})
	w.fails("TagLimitExceeded", "ec2 CreateTags", m{"Resources": one, "Tags": many[:49]})
	w.is("tag filters", length(w.do("ec2 DescribeInstances", m{"Filters": []any{m{"Name": "tag:role", "Values": []any{"w?b"}}, m{"Name": "tag-key", "Values": []any{"a"}}, m{"Name": "instance-state-name", "Values": []any{"pending", "running"}}}}), "Reservations"), 1)
}

func TestLaunchTemplates(t *testing.T) {
	w := newWorld(t, Options{})
	data := m{"ImageId": w.linux(), "InstanceType": "m6i.large"}
	in := m{"LaunchTemplateName": "web", "LaunchTemplateData": data, "ClientToken": "t", "TagSpecifications": tags("launch-template", "t")}
	id := text(w.do("ec2 CreateLaunchTemplate", in), "LaunchTemplate", "LaunchTemplateId")
	w.is("again", text(w.do("ec2 CreateLaunchTemplate", in), "LaunchTemplate", "LaunchTemplateId"), id)
	w.fails("InvalidLaunchTemplateName.AlreadyExistsException", "ec2 CreateLaunchTemplate", m{"LaunchTemplateName": "web", "LaunchTemplateData": data})

	next := m{"LaunchTemplateName": "web", "SourceVersion": "1", "LaunchTemplateData": m{"InstanceType": "m6i.xlarge"}, "ClientToken": "v2"}
	for range 2 {
		w.is("version", at(w.do("ec2 CreateLaunchTemplateVersion", next), "LaunchTemplateVersion", "VersionNumber"), 2)
	}
	run := func(version string) string {
		spec := m{"LaunchTemplateId": id}
		if version != "" {
			spec["Version"] = version
		}
		return text(w.do("ec2 RunInstances", m{"LaunchTemplate": spec, "MinCount": 1, "MaxCount": 1}), "Instances", 0, "InstanceType")
	}
	w.is("types", []any{run(""), run("$Latest"), run("2"), run("$Default")}, []any{"m6i.large", "m6i.xlarge", "m6i.xlarge", "m6i.large"})
	w.do("ec2 ModifyLaunchTemplate", m{"LaunchTemplateId": id, "DefaultVersion": "2"})
	w.is("default", run(""), "m6i.xlarge")
	w.fails("InvalidLaunchTemplateId.VersionNotFound", "ec2 ModifyLaunchTemplate", m{"LaunchTemplateId": id, "DefaultVersion": "3"})
	out := w.do("ec2 DeleteLaunchTemplateVersions", m{"LaunchTemplateId": id, "Versions": []any{"1", "2", "7"}})
	w.is("deleted", []any{length(out, "SuccessfullyDeletedLaunchTemplateVersions"), length(out, "UnsuccessfullyDeletedLaunchTemplateVersions")}, []any{1, 2})
	out = w.do("ec2 DescribeLaunchTemplateVersions", m{"LaunchTemplateId": id})
	w.is("left", []any{length(out, "LaunchTemplateVersions"), text(out, "LaunchTemplateVersions", 0, "LaunchTemplateData", "ImageId")}, []any{1, w.linux()})
	w.do("ec2 DeleteLaunchTemplate", m{"LaunchTemplateId": id})
	w.fails("InvalidLaunchTemplateName.NotFoundException", "ec2 DescribeLaunchTemplates", m{"LaunchTemplateNames": []any{"web"}})
}

func TestFurniture(t *testing.T) {
	w := newWorld(t, Options{})
	w.is("subnets", length(w.do("ec2 DescribeSubnets", nil), "Subnets"), 3)
	w.is("groups", text(w.do("ec2 DescribeSecurityGroups", nil), "SecurityGroups", 0, "GroupName"), "default")
	w.is("regions", text(w.do("ec2 DescribeRegions", m{"RegionNames": []any{"eu-west-1"}}), "Regions", 0, "RegionName"), "eu-west-1")
	w.is("zones", length(w.do("ec2 DescribeAvailabilityZones", nil), "AvailabilityZones"), 3)
	w.is("vpcs", length(w.do("ec2 DescribeVpcs", m{"Filters": []any{m{"Name": "is-default", "Values": []any{"true"}}}}), "Vpcs"), 1)
	out := w.do("ec2 DescribeImages", m{"Owners": []any{"amazon"}, "Filters": []any{m{"Name": "platform", "Values": []any{"windows"}}}})
	w.is("windows", []any{length(out, "Images"), text(out, "Images", 0, "PlatformDetails"), text(out, "Images", 0, "ImageOwnerAlias")}, []any{1, "Windows", "amazon"})
	w.is("resolved", text(w.do("ec2 RunInstances", w.runInput("", m{"ImageId": "resolve:ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"})), "Instances", 0, "ImageId"), w.linux())
	path := w.do("ssm GetParametersByPath", m{"Path": "/aws/service", "Recursive": true})
	w.is("public parameters", length(path, "Parameters"), 6)
	w.is("console", text(w.do("ec2 GetConsoleOutput", m{"InstanceId": w.agents(1)[0]}), "Output") != "", true)
	ours := w.linux()
	w.in.Region = "us-east-1"
	if w.linux() == ours {
		t.Error("an image is the same in two regions")
	}
}
