package aws

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/internal/simcloud"
)

// publicImage is the image of Amazon that instances are launched from.
func (w *world) publicImage() string {
	images := w.given("ec2", "DescribeImages", map[string]any{"Owners": []any{"amazon"}, "Filters": []any{filter("name", "al2023-*x86_64")}})
	return images.list("Images")[0].text("ImageId")
}

// instance is a running instance that was there before.
func (w *world) instance() string { return w.instanceOf(w.publicImage()) }

func (w *world) instanceOf(image string) string {
	out := w.given("ec2", "RunInstances", map[string]any{"ImageId": image, "InstanceType": "t3.small", "MinCount": 1, "MaxCount": 1, "ClientToken": image + fmt.Sprint(len(w.cloud.Live()))})
	return out.list("Instances")[0].text("InstanceId")
}

// image is an image of the account that was there before.
func (w *world) image(name string) string {
	return w.given("ec2", "CreateImage", map[string]any{"InstanceId": w.instance(), "Name": name}).text("ImageId")
}

func (w *world) stateOf(id string) string {
	out := w.given("ec2", "DescribeInstances", map[string]any{"InstanceIds": []any{id}})
	return stateOf(out.list("Reservations")[0].list("Instances")[0])
}

// onlyInstance is the state of the one instance that is not terminated.
func onlyInstance(w *world) string {
	for _, r := range w.cloud.Live() {
		if r.Kind == "instance" {
			return w.stateOf(r.ID)
		}
	}
	return ""
}

func one(w *world, kind string) string {
	for _, r := range w.cloud.Live() {
		if r.Kind == kind {
			return r.ID
		}
	}
	return ""
}

func group(w *world) (name string) {
	name = "web"
	if err := w.cloud.AddGroup(context.Background(), awsapi.Scope{}, simcloud.Group{Name: name, ImageID: w.publicImage(), Size: 3}); err != nil {
		w.Fatal(err)
	}
	return name
}

// groupState is the setting of the group and the versions of its instances.
func groupState(w *world) string {
	g := w.given("autoscaling", "DescribeAutoScalingGroups", map[string]any{}).list("AutoScalingGroups")[0]
	return g.in("LaunchTemplate").text("Version") + ":" + strings.Join(versionsOf(g), " ")
}

func templateState(w *world) string {
	var all []string
	for _, v := range w.given("ec2", "DescribeLaunchTemplateVersions", map[string]any{"LaunchTemplateName": "web"}).list("LaunchTemplateVersions") {
		text := fmt.Sprint(v.int("VersionNumber"))
		if v.flag("DefaultVersion") {
			text += "*"
		}
		all = append(all, text)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func parameterState(w *world) string {
	out, err := w.cloud.Given().Call(context.Background(), awsapi.Scope{}, "ssm", "GetParameter", map[string]any{"Name": "/app/x", "WithDecryption": true})
	if err != nil {
		return "none"
	}
	p := members(out).in("Parameter")
	return p.text("Type") + " " + p.text("Value")
}

func secretState(w *world) string {
	out, err := w.cloud.Given().Call(context.Background(), awsapi.Scope{}, "secretsmanager", "GetSecretValue", map[string]any{"SecretId": "app/db"})
	if err != nil {
		return "none"
	}
	text := members(out).text("SecretString")
	about := w.given("secretsmanager", "DescribeSecret", map[string]any{"SecretId": "app/db"}).in("VersionIdsToStages")
	for version := range about {
		if slices.Contains(about.texts(version), previousStage) {
			text += ", another before"
		}
	}
	return text
}

func objectState(w *world) string {
	out, err := w.cloud.Given().Call(context.Background(), awsapi.Scope{}, "s3", "GetObject", map[string]any{"Bucket": "reports", "Key": "a"})
	if err != nil {
		return "none"
	}
	return string(out["Body"].([]byte))
}

func stackState(w *world) string {
	out, err := w.cloud.Given().Call(context.Background(), awsapi.Scope{}, "cloudformation", "DescribeStacks", map[string]any{"StackName": "network"})
	if err != nil {
		return "none"
	}
	return members(out).list("Stacks")[0].text("StackStatus")
}

func functions(o *simcloud.Options) {
	o.Functions = map[string]simcloud.Function{"check": func(_ context.Context, payload []byte) ([]byte, error) {
		return json.RawMessage(`{"got":` + string(payload) + `}`), nil
	}}
	o.Machines = map[string]simcloud.Machine{"reindex": func(input string) (string, error) { return `{"n":1,"in":` + input + `}`, nil }}
	o.Stack = func(s simcloud.Stack) map[string]string { return map[string]string{"Name": s.Name} }
}

const machineARN = "arn:aws:states:us-east-1:123456789012:stateMachine:reindex"

var specimens = []specimen{
	{action: "aws.ec2.run_instance", made: "+ instance, + volume",
		setup: func(w *world) map[string]any {
			return map[string]any{"image_id": w.publicImage(), "instance_type": "t3.small", "tags": map[string]any{"Name": "builder"}}
		}},
	{action: "aws.ec2.run_instances", made: "+ instance, + instance, + instance, + volume, + volume, + volume, + volume, + volume, + volume",
		setup: func(w *world) map[string]any {
			return map[string]any{"image_id": w.publicImage(), "instance_type": "t3.small", "count": 3, "user_data": "#!/bin/sh\n", "instance_profile": "node",
				"options": map[string]any{"BlockDeviceMappings": []any{map[string]any{"DeviceName": "/dev/sdf", "Ebs": map[string]any{"VolumeSize": 20, "DeleteOnTermination": false}}}}}
		}},
	{action: "aws.ec2.stop_instances", made: "~ instance, running -> stopped", state: onlyInstance,
		setup: func(w *world) map[string]any { return map[string]any{"instance_ids": []any{w.instance()}} }},
	{action: "aws.ec2.start_instances", made: "~ instance, stopped -> running", state: onlyInstance,
		setup: func(w *world) map[string]any {
			id := w.instance()
			w.given("ec2", "StopInstances", map[string]any{"InstanceIds": []any{id}})
			return map[string]any{"instance_ids": []any{id}}
		}},
	{action: "aws.ec2.reboot_instances", made: "~ instance", again: action.Unknown,
		setup: func(w *world) map[string]any { return map[string]any{"instance_ids": []any{w.instance()}} }},
	{action: "aws.ec2.terminate_instance", made: "- instance, - volume",
		setup: func(w *world) map[string]any { return map[string]any{"instance_id": w.instance()} }},
	{action: "aws.ec2.terminate_instances", made: "- instance, - instance, - volume, - volume",
		setup: func(w *world) map[string]any {
			return map[string]any{"instance_ids": []any{w.instance(), w.instance()}}
		}},
	{action: "aws.ec2.create_image", made: "+ image, + snapshot",
		setup: func(w *world) map[string]any {
			return map[string]any{"instance_id": w.instance(), "name": "base-1", "description": "base", "tags": map[string]any{"stage": "new"}}
		}},
	{action: "aws.ec2.copy_image", made: "+ image, + snapshot",
		setup: func(w *world) map[string]any {
			return map[string]any{"image_id": w.image("base-1"), "region": "eu-west-1"}
		}},
	{action: "aws.ec2.find_image",
		setup: func(w *world) map[string]any {
			w.image("base-1")
			return map[string]any{"name": "base-*", "architecture": "x86_64"}
		}},
	{action: "aws.ec2.find_images",
		setup: func(w *world) map[string]any {
			w.image("base-1")
			return map[string]any{"name": "base-*"}
		}},
	{action: "aws.ec2.share_image", made: "~ image,  -> 111111111111 222222222222", state: sharedWith,
		setup: func(w *world) map[string]any {
			return map[string]any{"image_id": w.image("base-1"), "accounts": []any{"222222222222", "111111111111"}, "snapshots": true}
		}},
	{action: "aws.ec2.deprecate_image", made: "~ image,  -> 2027-11-25T00:00:00.000Z", state: deprecation,
		setup: func(w *world) map[string]any {
			return map[string]any{"image_id": w.image("base-1"), "at": "2027-11-25T00:00:00Z"}
		}},
	{action: "aws.ec2.deregister_image", made: "- image, - snapshot",
		setup: func(w *world) map[string]any { return map[string]any{"image_id": w.image("base-1")} }},
	{action: "aws.ec2.create_snapshot", made: "+ snapshot",
		setup: func(w *world) map[string]any {
			w.instance()
			return map[string]any{"volume_id": one(w, "volume"), "description": "before", "tags": map[string]any{"a": "b"}}
		}},
	{action: "aws.ec2.create_tags", made: "~ image, ~ instance",
		setup: func(w *world) map[string]any {
			image := w.image("base-1")
			id := one(w, "instance")
			w.given("ec2", "CreateTags", map[string]any{"Resources": []any{id}, "Tags": tagList(map[string]string{"stage": "old", "other": "x"})})
			return map[string]any{"resources": []any{image, id}, "tags": map[string]any{"stage": "new", "owner": "ops"}}
		}},
	{action: "aws.ec2.delete_tags", made: "~ instance",
		setup: func(w *world) map[string]any {
			id := w.instance()
			w.given("ec2", "CreateTags", map[string]any{"Resources": []any{id}, "Tags": tagList(map[string]string{"stage": strings.Repeat("ü", 120), "other": " x"})})
			return map[string]any{"resources": []any{id}, "keys": []any{"stage", "other", "absent"}}
		}},
	{action: "aws.ssm.wait_managed",
		setup: func(w *world) map[string]any { return map[string]any{"instance_ids": []any{w.instance()}} }},
	{action: "aws.ssm.send_command", effect: "command",
		setup: func(w *world) map[string]any {
			return map[string]any{"instance_ids": []any{w.instance()}, "script": "echo hello", "env": map[string]any{"A": "b"}}
		}},
	{action: "aws.ssm.put_parameter", made: "+ parameter, none -> SecureString hunter2hunter2", state: parameterState,
		setup: func(w *world) map[string]any {
			return map[string]any{"name": "/app/x", "value": map[string]any{"$secret": "env:PASSWORD"}, "description": "password"}
		}},
	{action: "aws.ssm.put_parameter", made: "String old -> String new", state: parameterState,
		setup: func(w *world) map[string]any {
			w.given("ssm", "PutParameter", map[string]any{"Name": "/app/x", "Type": "String", "Value": "old", "Description": "what it is"})
			return map[string]any{"name": "/app/x", "value": "new", "overwrite": true}
		}},
	{action: "aws.ssm.get_parameter",
		setup: func(w *world) map[string]any {
			w.given("ssm", "PutParameter", map[string]any{"Name": "/app/x", "Type": "String", "Value": "old"})
			return map[string]any{"name": "/app/x"}
		}},
	{action: "aws.secretsmanager.put", made: "+ secret, none -> hunter2hunter2", state: secretState,
		setup: func(w *world) map[string]any {
			return map[string]any{"name": "app/db", "value": map[string]any{"$secret": "env:PASSWORD"}}
		}},
	{action: "aws.secretsmanager.put", made: "old -> hunter2hunter2, another before", state: secretState,
		setup: func(w *world) map[string]any {
			w.given("secretsmanager", "CreateSecret", map[string]any{"Name": "app/db", "SecretString": "old", "ClientRequestToken": strings.Repeat("0", 32)})
			return map[string]any{"name": "app/db", "value": map[string]any{"$secret": "env:PASSWORD"}}
		}},
	{action: "aws.autoscaling.update_launch_template", made: "1* -> 1 2*", state: templateState,
		setup: func(w *world) map[string]any {
			image := w.image("base-1")
			return map[string]any{"launch_template": group(w), "image_id": image, "description": "newer"}
		}},
	{action: "aws.autoscaling.start_instance_refresh", state: groupState, replaces: true,
		made: "~ launch-template, 1:1 1 1 -> 2:2 2 2",
		setup: func(w *world) map[string]any {
			name := group(w)
			w.given("ec2", "CreateLaunchTemplateVersion", map[string]any{"LaunchTemplateName": name, "SourceVersion": "1", "LaunchTemplateData": map[string]any{"InstanceType": "m7i.large"}})
			return map[string]any{"auto_scaling_group": name, "launch_template_version": 2, "min_healthy_percentage": 50}
		}},
	{action: "aws.cloudformation.deploy", made: "+ stack, none -> CREATE_COMPLETE", state: stackState, options: functions,
		setup: func(w *world) map[string]any {
			return map[string]any{"stack_name": "network", "template_body": "Resources: {}", "parameters": map[string]any{"Range": "10.0.0.0/16"}}
		}},
	{action: "aws.cloudformation.deploy", made: "CREATE_COMPLETE -> UPDATE_COMPLETE", state: stackState, options: functions, stays: action.Conflict,
		setup: func(w *world) map[string]any {
			w.given("cloudformation", "CreateStack", map[string]any{"StackName": "network", "TemplateBody": "Resources: {}"})
			return map[string]any{"stack_name": "network", "template_body": "Resources: { A: {} }"}
		}},
	{action: "aws.cloudformation.delete", made: "- stack, CREATE_COMPLETE -> none", state: stackState,
		setup: func(w *world) map[string]any {
			w.given("cloudformation", "CreateStack", map[string]any{"StackName": "network", "TemplateBody": "Resources: {}"})
			return map[string]any{"stack_name": "network"}
		}},
	{action: "aws.lambda.invoke", options: functions,
		setup: func(w *world) map[string]any {
			return map[string]any{"function": "check", "payload": map[string]any{"a": 1}}
		}},
	{action: "aws.stepfunctions.execute", options: functions, effect: "execution",
		setup: func(w *world) map[string]any {
			return map[string]any{"state_machine_arn": machineARN, "input": map[string]any{"full": true}}
		}},
	{action: "aws.s3.put_object", made: "+ object, none -> hello", state: objectState,
		setup: func(w *world) map[string]any {
			w.given("s3", "CreateBucket", map[string]any{"Bucket": "reports"})
			return map[string]any{"bucket": "reports", "key": "a", "body": "hello"}
		}},
	{action: "aws.s3.get_object",
		setup: func(w *world) map[string]any {
			w.given("s3", "CreateBucket", map[string]any{"Bucket": "reports"})
			w.given("s3", "PutObject", map[string]any{"Bucket": "reports", "Key": "a", "Body": []byte("hello")})
			return map[string]any{"bucket": "reports", "key": "a"}
		}},
	{action: "aws.sns.publish", effect: "message",
		setup: func(w *world) map[string]any {
			arn := w.given("sns", "CreateTopic", map[string]any{"Name": "images.fifo"}).text("TopicArn")
			return map[string]any{"topic_arn": arn, "message": "ready", "attributes": map[string]any{"a": "b"}}
		}},
	{action: "aws.sqs.send", effect: "message",
		setup: func(w *world) map[string]any {
			url := w.given("sqs", "CreateQueue", map[string]any{"QueueName": "jobs.fifo"}).text("QueueUrl")
			return map[string]any{"queue_url": url, "body": "reindex"}
		}},
	{action: "aws.securityhub.import_findings", effect: "finding",
		setup: func(w *world) map[string]any {
			return map[string]any{"findings": []any{map[string]any{"Title": "t", "Description": "d", "Severity": map[string]any{"Label": "LOW"},
				"Types": []any{"Software and Configuration Checks"}, "Resources": []any{map[string]any{"Type": "Other", "Id": "x"}}}}}
		}},
	{action: "aws.securityhub.import_compliance", effect: "finding",
		setup: func(w *world) map[string]any {
			n := registry.Listed{Node: registry.Node{ID: "web-1"}}
			n.Node = n.Assess(registry.Compliance{Baseline: "linux", Status: registry.NonCompliant, Missing: map[string]int{"critical": 1}}, w.time())
			w.env.Nodes = func(context.Context) ([]registry.Listed, error) { return []registry.Listed{n}, nil }
			return map[string]any{}
		}},
	{action: "aws.call", made: "+ launch-template",
		setup: func(w *world) map[string]any {
			return map[string]any{"service": "ec2", "operation": "CreateLaunchTemplate", "input": map[string]any{
				"LaunchTemplateName": "web", "LaunchTemplateData": map[string]any{"InstanceType": "t3.small"},
				"TagSpecifications": []any{map[string]any{"ResourceType": "launch-template", "Tags": tagList(map[string]string{tagExecution: "x"})}},
			}}
		}},
}

func sharedWith(w *world) string {
	id := one(w, "image")
	var all []string
	for _, p := range w.given("ec2", "DescribeImageAttribute", map[string]any{"ImageId": id, "Attribute": "launchPermission"}).list("LaunchPermissions") {
		all = append(all, p.text("UserId"))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func deprecation(w *world) string {
	return w.given("ec2", "DescribeImages", map[string]any{"ImageIds": []any{one(w, "image")}}).list("Images")[0].text("DeprecationTime")
}
