package simcloud

import (
	"encoding/hex"
	"slices"
	"strings"

	"github.com/almanac-run/almanac/internal/awsapi"
)

// regions that exist.
var regions = []string{
	"ap-northeast-1", "ap-southeast-1", "ap-southeast-2", "ca-central-1", "eu-central-1", "eu-north-1", "eu-west-1",
	"eu-west-2", "eu-west-3", "sa-east-1", "us-east-1", "us-east-2", "us-west-1", "us-west-2",
}

// find says where a call goes and as whom, as a real caller does before it calls.
func (k *call) find(in awsapi.Scope) error {
	k.place = place{k.Account, k.Region}
	if in.Region != "" {
		k.region = in.Region
	}
	if !slices.Contains(regions, k.region) {
		return k.fail("NoEndpoint", "there is no region %q", k.region)
	}
	if in.Role != "" {
		if parts := strings.SplitN(in.Role, ":", 6); len(parts) == 6 && parts[0] == "arn" && parts[2] == "iam" {
			k.account = parts[4]
		} else if in.Account != "" {
			k.account = in.Account
		}
	}
	if in.Account != "" && in.Account != k.account {
		return k.fail("AccountMismatch", "the credentials are of account %s, not of %s", k.account, in.Account)
	}
	return nil
}

// network is what instances are placed in.
type network struct {
	vpcs           table[*vpc]
	subnets        table[*subnet]
	securityGroups table[*securityGroup]
}

type vpc struct{ *resource }

type subnet struct {
	*resource
	vpc, zone, cidr string
}

type securityGroup struct {
	*resource
	vpc, description string
}

// publicImage is an image that everyone finds in every region.
type publicImage struct {
	name, owner, arch, platform, details, root string
	size                                       int
	parameters                                 []string
}

// publicImages are a few of those that runbooks begin with.
var publicImages = []publicImage{
	{"al2023-ami-2023.9.20261105.0-kernel-6.1-x86_64", "137112412989", "x86_64", "", "Linux/UNIX", "/dev/xvda", 8, []string{
		"/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64",
		"/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-6.1-x86_64",
	}},
	{"al2023-ami-2023.9.20261105.0-kernel-6.1-arm64", "137112412989", "arm64", "", "Linux/UNIX", "/dev/xvda", 8, []string{
		"/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64",
		"/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-6.1-arm64",
	}},
	{"ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20261101", "099720109477", "x86_64", "", "Linux/UNIX", "/dev/sda1", 8, []string{
		"/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id",
	}},
	{"Windows_Server-2022-English-Full-Base-2026.11.12", "801119661308", "x86_64", "windows", "Windows", "/dev/sda1", 30, []string{
		"/aws/service/ami-windows-latest/Windows_Server-2022-English-Full-Base",
	}},
}

// world makes the furniture of a place, when it is first entered: a default VPC
// with a subnet in each of three zones, public images and their parameters.
func (c *Cloud) world(p place) {
	if c.worlds[p] {
		return
	}
	c.worlds[p] = true
	id := func(prefix string, parts ...any) string {
		return prefix + hex.EncodeToString(c.hash(append([]any{"furniture", prefix, p.region}, parts...)...))[:17]
	}
	furniture := func(kind, id, name string) *resource {
		return &resource{place: p, kind: kind, id: id, name: name, tags: map[string]string{}, made: c.now(), origin: byAWS}
	}
	main := id("vpc-", p.account)
	c.vpcs.put(main, &vpc{furniture("vpc", main, "")})
	for i, letter := range []string{"a", "b", "c"} {
		s := id("subnet-", p.account, letter)
		c.subnets.put(s, &subnet{furniture("subnet", s, ""), main, p.region + letter, "172.31." + []string{"0", "16", "32"}[i] + ".0/20"})
	}
	sg := id("sg-", p.account)
	c.securityGroups.put(sg, &securityGroup{furniture("security-group", sg, "default"), main, "default VPC security group"})

	for _, pub := range publicImages {
		ami := id("ami-", pub.name)
		for _, name := range pub.parameters {
			r := furniture("parameter", name, name)
			c.parameters.put(p.key(name), &parameter{resource: r, versions: []*version{{
				number: 1, value: ami, kind: "String", dataType: "aws:ec2:image", modified: r.made, labels: map[string]bool{},
			}}})
		}
		if _, ok := c.images.get(ami); ok {
			continue // another account has been here
		}
		r := furniture("image", ami, pub.name)
		r.account = pub.owner
		snap := id("snap-", pub.name)
		c.images.put(ami, &image{
			resource: r, alias: "amazon", arch: pub.arch, platform: pub.platform, details: pub.details, root: pub.root,
			shared: map[string]bool{everyone: true}, created: r.made, phase: phase{after: "available"},
			devices: []device{{name: pub.root, snapshot: snap, size: int64(pub.size), kind: "gp3", goes: true}},
		})
	}
}

// zoneOf says whether a region has a zone.
func zoneOf(region, zone string) bool {
	letter, ok := strings.CutPrefix(zone, region)
	return ok && (letter == "a" || letter == "b" || letter == "c")
}
