package aws

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
)

type runInstancesInput struct {
	Launch
	Count int `json:"count" jsonschema:"how many; all of them are launched, or none"`
}

type runInstancesOutput struct {
	InstanceIDs []string       `json:"instance_ids" jsonschema:"the instances, in the order in which EC2 numbers them"`
	Instances   []instanceMade `json:"instances" jsonschema:"the same with what is known of each"`
}

func runInstances(env Env) action.Action {
	return action.New(action.Def[runInstancesInput, runInstancesOutput]{
		Name:    "aws.ec2.run_instances",
		Summary: "Launch several like instances and wait until they run",
		Details: launchDetails,
		Example: `id: workers
action: aws.ec2.run_instances
with: { count: 3, image_id: ami-0123456789abcdef0, instance_type: m7i.large, instance_profile: managed-node }`,
		Timeout: 30 * time.Minute,
		Do: func(ctx context.Context, in runInstancesInput) (runInstancesOutput, error) {
			made, err := env.in(ctx, in.Scope).launch(ctx, in.Launch, in.Count)
			out := runInstancesOutput{Instances: made}
			for _, i := range made {
				out.InstanceIDs = append(out.InstanceIDs, i.InstanceID)
			}
			return out, err
		},
		Compensate: func(ctx context.Context, in runInstancesInput, out *runInstancesOutput) error {
			var ids []string
			if out != nil {
				ids = out.InstanceIDs
			}
			return env.in(ctx, in.Scope).unlaunch(ctx, ids, in.Count)
		},
	})
}

const launchDetails = `
The client token of the launch is the step's: an attempt whose predecessor's answer was lost gets the instances that were
launched already. Instances and volumes are tagged in the call that makes them. Instance metadata is given to requests with a token only (IMDSv2),
unless ` + "`options`" + ` says otherwise.

Rollback terminates the instances and waits until they are terminated; volumes that were launched with them and outlive them
are deleted. If it is not known what was launched it looks for the step's tag, for a minute and a half.
`

// Launch is what to launch.
type Launch struct {
	Scope
	ImageID          string            `json:"image_id" jsonschema:"image to launch"`
	InstanceType     string            `json:"instance_type" jsonschema:"such as t3.small"`
	SubnetID         string            `json:"subnet_id,omitempty" jsonschema:"subnet to launch in" default:"one of the default VPC's"`
	SecurityGroupIDs []string          `json:"security_group_ids,omitempty" jsonschema:"security groups" default:"the VPC's default group"`
	InstanceProfile  string            `json:"instance_profile,omitempty" jsonschema:"instance profile, by name or ARN; Systems Manager needs one"`
	KeyName          string            `json:"key_name,omitempty" jsonschema:"key pair for SSH"`
	UserData         string            `json:"user_data,omitempty" jsonschema:"what the instance reads when it first boots, as text; whoever may describe the instance can read it: it is no place for a secret"`
	Tags             map[string]string `json:"tags,omitempty" jsonschema:"tags of the instances and volumes, beside Almanac's own"`
	Options          json.RawMessage   `json:"options,omitempty" jsonschema:"any other members of RunInstances, by AWS's names, such as BlockDeviceMappings or Placement"`
}

// instanceMade is what is known of an instance that was launched.
type instanceMade struct {
	InstanceID       string `json:"instance_id" jsonschema:"the instance"`
	PrivateIP        string `json:"private_ip,omitempty" jsonschema:"its private IPv4 address"`
	PublicIP         string `json:"public_ip,omitempty" jsonschema:"its public IPv4 address"`
	AvailabilityZone string `json:"availability_zone" jsonschema:"where it runs"`
}

func (in Launch) input(c client, count int) (members, error) {
	if count < 1 {
		return nil, action.Errorf(action.Invalid, "count is %d; it is 1 or more", count)
	}
	options, err := object("options", in.Options, "ClientToken", "MinCount", "MaxCount", "TagSpecifications", "DryRun",
		"ImageId", "InstanceType", "SubnetId", "SecurityGroupIds", "IamInstanceProfile", "KeyName", "UserData")
	if err != nil {
		return nil, err
	}
	tags, err := c.tagged(in.Tags, "instance", "volume")
	if err != nil {
		return nil, err
	}
	var profile map[string]any
	switch {
	case strings.HasPrefix(in.InstanceProfile, "arn:"):
		profile = map[string]any{"Arn": in.InstanceProfile}
	case in.InstanceProfile != "":
		profile = map[string]any{"Name": in.InstanceProfile}
	}
	if _, ok := options["MetadataOptions"]; !ok {
		options["MetadataOptions"] = map[string]any{"HttpTokens": "required", "HttpEndpoint": "enabled"}
	}
	return options.with(members{
		"ClientToken": c.token(), "MinCount": int64(count), "MaxCount": int64(count), "TagSpecifications": tags,
		"ImageId": in.ImageID, "InstanceType": in.InstanceType, "SubnetId": in.SubnetID, "SecurityGroupIds": anys(in.SecurityGroupIDs),
		"IamInstanceProfile": profile, "KeyName": in.KeyName, "UserData": base64.StdEncoding.EncodeToString([]byte(in.UserData)),
	}), nil
}

// launch launches instances and waits until they run.
func (c client) launch(ctx context.Context, in Launch, count int) ([]instanceMade, error) {
	input, err := in.input(c, count)
	if err != nil {
		return nil, err
	}
	answer, err := c.news(ctx, "ec2", "RunInstances", input)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, i := range answer.list("Instances") {
		ids = append(ids, i.text("InstanceId"))
	}
	now, err := c.waitStates(ctx, ids, "running", false)
	if err != nil {
		return nil, err
	}
	var made []instanceMade
	for _, id := range ids {
		i := now[id]
		made = append(made, instanceMade{InstanceID: id, PrivateIP: i.text("PrivateIpAddress"), PublicIP: i.text("PublicIpAddress"),
			AvailabilityZone: i.in("Placement").text("AvailabilityZone")})
	}
	return made, nil
}

// unlaunch takes back what launch did: ids, or, if they are not known, what has
// the token.
func (c client) unlaunch(ctx context.Context, ids []string, count int) error {
	if ids == nil {
		found := map[string]bool{}
		if _, err := c.within(ctx, newsTakes, "look for instances of this step", func() (bool, string, error) {
			now, err := c.instances(ctx, c.ours())
			for id := range now { // each has its own time until it is seen
				found[id] = true
			}
			return len(found) >= count, "not all are seen so far", err
		}); err != nil {
			return err
		}
		ids = slices.Sorted(maps.Keys(found))
	}
	if len(ids) == 0 {
		return nil
	}
	if err := c.terminate(ctx, ids); err != nil {
		return err
	}
	volumes, err := c.list(ctx, "ec2", "DescribeVolumes", "Volumes", members{"Filters": []any{c.ours()}})
	if err != nil {
		return err
	}
	var left []string
	for _, v := range volumes {
		goes := slices.ContainsFunc(v.list("Attachments"), func(a members) bool { return a.flag("DeleteOnTermination") })
		if !goes && v.text("State") != "deleting" {
			left = append(left, v.text("VolumeId"))
		}
	}
	return c.removed(ctx, "volumes", left, inUse, func(id string) error {
		_, err := c.call(ctx, "ec2", "DeleteVolume", members{"VolumeId": id})
		return err
	})
}
