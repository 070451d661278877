package simcloud

import (
	"regexp"
	"slices"
	"time"
)

var ec2Operations = map[string]func(*call) (map[string]any, error){
	"RunInstances": runInstances, "DescribeInstances": describeInstances, "DescribeInstanceStatus": describeInstanceStatus,
	"StartInstances": startInstances, "StopInstances": stopInstances, "RebootInstances": rebootInstances,
	"TerminateInstances": terminateInstances, "GetConsoleOutput": getConsoleOutput,

	"CreateImage": createImage, "CopyImage": copyImage, "RegisterImage": registerImage, "DeregisterImage": deregisterImage,
	"DescribeImages": describeImages, "ModifyImageAttribute": modifyImageAttribute, "DescribeImageAttribute": describeImageAttribute,
	"EnableImageDeprecation": enableImageDeprecation, "DisableImageDeprecation": disableImageDeprecation,

	"CreateSnapshot": createSnapshot, "CreateSnapshots": createSnapshots, "CopySnapshot": copySnapshot,
	"DescribeSnapshots": describeSnapshots, "DeleteSnapshot": deleteSnapshot, "ModifySnapshotAttribute": modifySnapshotAttribute,
	"DescribeSnapshotAttribute": describeSnapshotAttribute, "DescribeVolumes": describeVolumes, "DeleteVolume": deleteVolume,

	"CreateTags": createTags, "DeleteTags": deleteTags, "DescribeTags": describeTags,

	"CreateLaunchTemplate": createLaunchTemplate, "CreateLaunchTemplateVersion": createLaunchTemplateVersion,
	"DescribeLaunchTemplates": describeLaunchTemplates, "DescribeLaunchTemplateVersions": describeLaunchTemplateVersions,
	"ModifyLaunchTemplate": modifyLaunchTemplate, "DeleteLaunchTemplate": deleteLaunchTemplate,
	"DeleteLaunchTemplateVersions": deleteLaunchTemplateVersions,

	"DescribeRegions": describeRegions, "DescribeAvailabilityZones": describeAvailabilityZones, "DescribeVpcs": describeVpcs,
	"DescribeSubnets": describeSubnets, "DescribeSecurityGroups": describeSecurityGroups,
}

// phase is a state that becomes another by itself.
type phase struct {
	during, after string
	until         time.Time
	reason        string // why after is a failure
}

func (p phase) at(now time.Time) string {
	if now.Before(p.until) {
		return p.during
	}
	return p.after
}

// ids of EC2, by how its errors name them.
var ids = map[string]struct {
	form      *regexp.Regexp
	code      string // in Invalid….NotFound
	malformed string
	says      string
}{
	"instance":        {regexp.MustCompile(`^i-[0-9a-f]{8,17}$`), "InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed", "instance ID"},
	"image":           {regexp.MustCompile(`^ami-[0-9a-f]{8,17}$`), "InvalidAMIID.NotFound", "InvalidAMIID.Malformed", "image id"},
	"snapshot":        {regexp.MustCompile(`^snap-[0-9a-f]{8,17}$`), "InvalidSnapshot.NotFound", "InvalidSnapshotID.Malformed", "snapshot"},
	"volume":          {regexp.MustCompile(`^vol-[0-9a-f]{8,17}$`), "InvalidVolume.NotFound", "InvalidVolumeID.Malformed", "volume"},
	"launch-template": {regexp.MustCompile(`^lt-[0-9a-f]{8,17}$`), "InvalidLaunchTemplateId.NotFound", "InvalidLaunchTemplateId.Malformed", "launch template"},
	"subnet":          {regexp.MustCompile(`^subnet-[0-9a-f]{8,17}$`), "InvalidSubnetID.NotFound", "InvalidSubnetID.Malformed", "subnet ID"},
	"security-group":  {regexp.MustCompile(`^sg-[0-9a-f]{8,17}$`), "InvalidGroup.NotFound", "InvalidGroupId.Malformed", "security group"},
	"vpc":             {regexp.MustCompile(`^vpc-[0-9a-f]{8,17}$`), "InvalidVpcID.NotFound", "InvalidVpcId.Malformed", "vpc ID"},
}

// byID finds what belongs to the caller and is seen by what answers it.
func byID[T interface{ common() *resource }](k *call, kind string, t *table[T], id string) (T, error) {
	row, ok := t.get(id)
	if ok && row.common().place == k.place && !row.common().removed && k.sees(row.common()) {
		return row, nil
	}
	var none T
	return none, k.noSuch(kind, id)
}

func (k *call) noSuch(kind, id string) error {
	about := ids[kind]
	if !about.form.MatchString(id) {
		return k.fail(about.malformed, "Invalid id: \"%s\"", id)
	}
	return k.fail(about.code, "The %s '%s' does not exist", about.says, id)
}

// described are the rows that ids name, all of them found, or all that are seen.
func described[T interface{ common() *resource }](k *call, kind string, t *table[T], named []string) ([]T, error) {
	var rows []T
	for _, id := range named {
		row, err := byID(k, kind, t, id)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	if named != nil {
		return rows, nil
	}
	for _, row := range t.all() {
		if r := row.common(); r.place == k.place && !r.removed && k.sees(r) {
			rows = append(rows, row)
		}
	}
	return rows, nil
}

func describeRegions(k *call) (map[string]any, error) {
	if err := k.unsimulated("Filters"); err != nil {
		return nil, err
	}
	names := k.in.strs("RegionNames")
	for _, name := range names {
		if !slices.Contains(regions, name) {
			return nil, k.fail("InvalidParameterValue", "Invalid region provided: %s", name)
		}
	}
	if names == nil {
		names = regions
	}
	return object("Regions", list(names, func(name string) map[string]any {
		return object("RegionName", name, "Endpoint", "ec2."+name+".amazonaws.com", "OptInStatus", "opt-in-not-required")
	})), nil
}

func describeAvailabilityZones(k *call) (map[string]any, error) {
	if err := k.unsimulated("Filters", "ZoneNames", "ZoneIds"); err != nil {
		return nil, err
	}
	return object("AvailabilityZones", list([]string{"a", "b", "c"}, func(letter string) map[string]any {
		return object("ZoneName", k.region+letter, "RegionName", k.region, "State", "available", "ZoneType", "availability-zone")
	})), nil
}

func describeVpcs(k *call) (map[string]any, error) {
	rows, err := described(k, "vpc", &k.vpcs, k.in.strs("VpcIds"))
	if err != nil {
		return nil, err
	}
	rows, err = filter(k, rows, fields[*vpc]{
		"vpc-id":     field(func(v *vpc) string { return v.id }),
		"is-default": field(func(*vpc) string { return "true" }),
		"isDefault":  field(func(*vpc) string { return "true" }),
	})
	if err != nil {
		return nil, err
	}
	return object("Vpcs", list(rows, func(v *vpc) map[string]any {
		return object("VpcId", v.id, "State", "available", "IsDefault", true, "CidrBlock", "172.31.0.0/16", "OwnerId", v.account, "Tags", tagList(v.tags))
	})), nil
}

func describeSubnets(k *call) (map[string]any, error) {
	rows, err := described(k, "subnet", &k.subnets, k.in.strs("SubnetIds"))
	if err != nil {
		return nil, err
	}
	rows, err = filter(k, rows, fields[*subnet]{
		"subnet-id":         field(func(s *subnet) string { return s.id }),
		"vpc-id":            field(func(s *subnet) string { return s.vpc }),
		"availability-zone": field(func(s *subnet) string { return s.zone }),
		"default-for-az":    field(func(*subnet) string { return "true" }),
		"state":             field(func(*subnet) string { return "available" }),
	})
	if err != nil {
		return nil, err
	}
	return object("Subnets", list(rows, func(s *subnet) map[string]any {
		return object("SubnetId", s.id, "VpcId", s.vpc, "AvailabilityZone", s.zone, "CidrBlock", s.cidr, "State", "available",
			"DefaultForAz", true, "MapPublicIpOnLaunch", true, "AvailableIpAddressCount", 4091, "OwnerId", s.account, "Tags", tagList(s.tags))
	})), nil
}

func describeSecurityGroups(k *call) (map[string]any, error) {
	rows, err := described(k, "security-group", &k.securityGroups, k.in.strs("GroupIds"))
	if err != nil {
		return nil, err
	}
	if names := k.in.strs("GroupNames"); names != nil {
		rows = slices.DeleteFunc(rows, func(g *securityGroup) bool { return !slices.Contains(names, g.name) })
	}
	rows, err = filter(k, rows, fields[*securityGroup]{
		"group-id":   field(func(g *securityGroup) string { return g.id }),
		"group-name": field(func(g *securityGroup) string { return g.name }),
		"vpc-id":     field(func(g *securityGroup) string { return g.vpc }),
	})
	if err != nil {
		return nil, err
	}
	return object("SecurityGroups", list(rows, func(g *securityGroup) map[string]any {
		return object("GroupId", g.id, "GroupName", g.name, "VpcId", g.vpc, "Description", g.description, "OwnerId", g.account, "Tags", tagList(g.tags))
	})), nil
}
