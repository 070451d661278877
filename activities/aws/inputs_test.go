package aws

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/internal/simcloud"
)

// With every input given, what is sent still fits AWS's models: checked looks at
// that. Whether the simulated cloud takes it does not matter, unless want says so.
func TestAllInputs(t *testing.T) {
	tags := map[string]any{"a": "b"}
	for _, tt := range []struct {
		action string
		in     func(w *world) map[string]any
		want   string // in the ledger or, with a colon in front, the error
	}{
		{"aws.ec2.run_instance", func(w *world) map[string]any {
			subnet := w.given("ec2", "DescribeSubnets", map[string]any{}).list("Subnets")[0].text("SubnetId")
			group := w.given("ec2", "DescribeSecurityGroups", map[string]any{}).list("SecurityGroups")[0].text("GroupId")
			return map[string]any{"image_id": w.publicImage(), "instance_type": "t3.small", "subnet_id": subnet, "security_group_ids": []any{group}, "key_name": "k",
				"instance_profile": "arn:aws:iam::123456789012:instance-profile/node", "user_data": "x", "tags": tags, "options": map[string]any{"EbsOptimized": true, "MetadataOptions": map[string]any{"HttpTokens": "optional"}},
				"region": "us-east-1", "role": "arn:aws:iam::123456789012:role/ops", "account": "123456789012"}
		}, "made instance"},
		{"aws.ec2.create_image", func(w *world) map[string]any {
			return map[string]any{"instance_id": w.instance(), "name": "base-1", "no_reboot": true}
		}, "made image"},
		{"aws.ec2.copy_image", func(w *world) map[string]any {
			return map[string]any{"image_id": w.image("base-1"), "source_region": "us-east-1", "region": "eu-west-1", "name": "copy", "description": "d", "encrypted": true, "kms_key_id": "k", "tags": tags}
		}, "made image"},
		{"aws.ec2.copy_image", func(w *world) map[string]any {
			return map[string]any{"image_id": "ami-00000000000000000", "region": "eu-west-1"}
		}, ":InvalidAMIID.NotFound"},
		{"aws.ec2.find_image", func(w *world) map[string]any {
			return map[string]any{"owners": []any{"amazon"}, "name": "al2023-*", "architecture": "arm64", "filters": map[string]any{"root-device-type": []any{"ebs"}}, "deprecated": true}
		}, "DescribeImages"},
		{"aws.ssm.put_parameter", func(w *world) map[string]any {
			return map[string]any{"name": "/app/x", "value": "v", "type": "SecureString", "key_id": "alias/aws/ssm", "description": strings.Repeat("ü", 1000), "tags": tags}
		}, "made parameter"},
		{"aws.ssm.put_parameter", func(w *world) map[string]any {
			return map[string]any{"name": "/app/x", "value": "v", "tags": map[string]any{"almanac:x": ""}}
		}, ":Almanac's own"},
		{"aws.secretsmanager.put", func(w *world) map[string]any {
			return map[string]any{"name": "app/db", "value": "v", "description": "d", "kms_key_id": "alias/x", "tags": tags}
		}, "made secret"},
		{"aws.autoscaling.update_launch_template", func(w *world) map[string]any {
			image := w.image("base-1")
			group(w)
			return map[string]any{"launch_template": one(w, "launch-template"), "image_id": image, "description": strings.Repeat("x", 300)}
		}, "(version 2)"},
		{"aws.autoscaling.update_launch_template", func(w *world) map[string]any {
			return map[string]any{"launch_template": "none", "image_id": "ami-00000000000000000"}
		}, ":InvalidLaunchTemplateName.NotFoundException"},
		{"aws.autoscaling.start_instance_refresh", func(w *world) map[string]any {
			return map[string]any{"auto_scaling_group": group(w), "max_healthy_percentage": 120, "instance_warmup": "2m", "replace_matching": true}
		}, "Successful"},
		{"aws.autoscaling.start_instance_refresh", func(w *world) map[string]any {
			return map[string]any{"auto_scaling_group": "none"}
		}, ":no Auto Scaling group none"},
		{"aws.cloudformation.deploy", func(w *world) map[string]any {
			return map[string]any{"stack_name": "network", "template_url": "https://x.s3.amazonaws.com/t", "parameters": map[string]any{"A": "b"}, "capabilities": []any{"CAPABILITY_IAM"},
				"service_role_arn": "arn:aws:iam::123456789012:role/cf", "tags": tags}
		}, "made stack"},
		{"aws.cloudformation.deploy", func(w *world) map[string]any {
			w.given("cloudformation", "CreateStack", map[string]any{"StackName": "network", "TemplateBody": "Resources: {}", "Tags": tagList(map[string]string{tagExecution: "old", "x": "y"})})
			return map[string]any{"stack_name": "network", "template_body": "Resources: {A: {}}", "tags": tags}
		}, "(update)"},
		{"aws.lambda.invoke", func(w *world) map[string]any {
			return map[string]any{"function": "check", "qualifier": "$LATEST"}
		}, "made invocation"},
		{"aws.s3.put_object", func(w *world) map[string]any {
			w.given("s3", "CreateBucket", map[string]any{"Bucket": "reports"})
			return map[string]any{"bucket": "reports", "key": "a", "body": "", "content_type": "text/csv", "kms_key_id": "k"}
		}, "made object"},
		{"aws.s3.put_object", func(w *world) map[string]any {
			return map[string]any{"bucket": "none", "key": "a", "body": ""}
		}, ":NoSuchBucket"},
		{"aws.s3.get_object", func(w *world) map[string]any {
			return map[string]any{"bucket": "none", "key": "a", "version_id": "v", "max_bytes": 600000}
		}, ":max_bytes"},
		{"aws.sns.publish", func(w *world) map[string]any {
			return map[string]any{"topic_arn": w.given("sns", "CreateTopic", map[string]any{"Name": "images"}).text("TopicArn"), "message": "m", "subject": "s"}
		}, "made message"},
		{"aws.sqs.send", func(w *world) map[string]any {
			return map[string]any{"queue_url": w.given("sqs", "CreateQueue", map[string]any{"QueueName": "jobs"}).text("QueueUrl"), "body": "b", "delay": "5s"}
		}, "made message"},
		{"aws.ssm.send_command", func(w *world) map[string]any {
			images := w.given("ec2", "DescribeImages", map[string]any{"Filters": []any{filter("platform", "windows")}})
			return map[string]any{"instance_ids": []any{w.instanceOf(images.list("Images")[0].text("ImageId"))}, "script": "Get-Date", "shell": "powershell", "working_directory": `C:\`,
				"args": []any{"a"}, "env": map[string]any{"A": "b"}, "execution_timeout": "1m", "delivery_timeout": "1m", "max_concurrency": "10%", "max_errors": "1"}
		}, "made command"},
		{"aws.securityhub.import_findings", func(w *world) map[string]any {
			return map[string]any{"product_arn": "arn:aws:securityhub:us-east-1:123456789012:product/123456789012/default", "findings": []any{map[string]any{
				"Id": "mine", "Title": "t", "Description": "d", "Severity": map[string]any{"Normalized": 10}, "Resources": []any{map[string]any{"Type": "Other", "Id": "x"}}}}}
		}, "made finding mine"},
		{"aws.securityhub.import_compliance", func(w *world) map[string]any {
			n := registry.Listed{Node: registry.Node{ID: "web-1", Compliance: []registry.Compliance{{Baseline: "linux"}, {Baseline: "sshd"}}}}
			w.env.Nodes = func(context.Context) ([]registry.Listed, error) { return []registry.Listed{n}, nil }
			return map[string]any{"baseline": "sshd", "fleet": "east"}
		}, "made finding almanac/compliance/east/web-1/sshd"},
	} {
		t.Run(tt.action, func(t *testing.T) {
			w := newWorld(t, functions)
			_, err := w.do(tt.action, 1, tt.in(w))
			got := w.ledger()
			want, isError := strings.CutPrefix(tt.want, ":")
			if isError {
				if got = ""; err != nil {
					got = err.Error()
				}
			}
			if !strings.Contains(got, want) {
				t.Errorf("%q is not in\n%s\n%v", want, got, err)
			}
		})
	}
}

// cancels is a cloud in which the update of a stack can be cancelled, upon which
// CloudFormation goes back.
type cancels struct {
	awsapi.Caller
	cancelled *bool
}

func (c cancels) Call(ctx context.Context, in awsapi.Scope, service, operation string, input map[string]any) (map[string]any, error) {
	if operation == "CancelUpdateStack" {
		*c.cancelled = true
		return map[string]any{}, nil
	}
	out, err := c.Caller.Call(ctx, in, service, operation, input)
	if operation == "DescribeStacks" && err == nil && *c.cancelled {
		out["Stacks"].([]any)[0].(map[string]any)["StackStatus"] = "UPDATE_ROLLBACK_COMPLETE"
	}
	return out, err
}

func TestUpdateIsCancelled(t *testing.T) {
	w := newWorld(t, func(o *simcloud.Options) {
		o.Delays.Stack = simcloud.Range{Min: time.Hour, Max: time.Hour}
		o.Faults = []simcloud.Fault{{Operation: "UpdateStack", Kind: simcloud.Lose}}
	})
	w.given("cloudformation", "CreateStack", map[string]any{"StackName": "network", "TemplateBody": "Resources: {}"})
	in := map[string]any{"stack_name": "network", "template_body": "Resources: { A: {} }"}
	if _, err := w.do("aws.cloudformation.deploy", 1, in); err == nil {
		t.Fatal("no error")
	}
	cancelled := false
	w.env.Caller = cancels{w.env.Caller, &cancelled}
	if err := w.compensate("aws.cloudformation.deploy", in, nil); err != nil || !cancelled {
		t.Errorf("%v, cancelled %t", err, cancelled)
	}
}

// A stack that can only be deleted is not updated.
func TestStackThatFailed(t *testing.T) {
	w := newWorld(t, func(o *simcloud.Options) { o.Fails = func(simcloud.Resource) string { return "no" } })
	w.given("cloudformation", "CreateStack", map[string]any{"StackName": "network", "TemplateBody": "Resources: {}"})
	_, err := w.do("aws.cloudformation.deploy", 1, map[string]any{"stack_name": "network", "template_body": "Resources: { A: {} }"})
	wants(t, err, action.Conflict, "ROLLBACK_COMPLETE", "delete it first")
}
