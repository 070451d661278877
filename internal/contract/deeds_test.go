package contract

import (
	"slices"
	"testing"

	"github.com/almanac-run/almanac/activities/aws"
	"github.com/almanac-run/almanac/internal/simcloud"
)

func (s *stage) image(name string) string {
	id, _ := s.instance("before", nil)
	made := s.do("ec2", "CreateImage", object{"InstanceId": id, "Name": name})
	return text(made, "ImageId")
}

func (s *stage) running() string {
	id, _ := s.instance("before", object{"TagSpecifications": spec("instance", tag("stage", "old"))})
	return id
}

// withoutSnapshotTags is CreateImage without the part that moto answers 500 to.
func withoutSnapshotTags(operation string, in object) {
	if operation != "CreateImage" {
		return
	}
	var left []any
	for _, s := range items(in, "TagSpecifications") {
		if s["ResourceType"] != "snapshot" {
			left = append(left, s)
		}
	}
	in["TagSpecifications"] = left
}

var deeds = []deed{
	{action: "aws.ec2.run_instance", before: func(s *stage) object {
		return object{"image_id": s.publicImage(), "instance_type": "t3.small", "tags": object{"Name": "builder"}}
	}},
	{action: "aws.ec2.run_instances", before: func(s *stage) object {
		return object{"image_id": s.publicImage(), "instance_type": "t3.small", "count": 2}
	}},
	{action: "aws.ec2.stop_instances", before: func(s *stage) object { return object{"instance_ids": list(s.running())} }},
	{action: "aws.ec2.start_instances", before: func(s *stage) object {
		id := s.running()
		s.do("ec2", "StopInstances", object{"InstanceIds": list(id)})
		s.settle()
		return object{"instance_ids": list(id)}
	}},
	{action: "aws.ec2.reboot_instances", before: func(s *stage) object { return object{"instance_ids": list(s.running()), "idempotent": true} }},
	{action: "aws.ec2.terminate_instance", before: func(s *stage) object { return object{"instance_id": s.running()} }},
	{action: "aws.ec2.terminate_instances", before: func(s *stage) object { return object{"instance_ids": list(s.running())} }},
	{action: "aws.ec2.create_image", spare: withoutSnapshotTags, before: func(s *stage) object { return object{"instance_id": s.running(), "name": "base-1"} }},
	{action: "aws.ec2.copy_image", before: func(s *stage) object {
		return object{"image_id": s.image("base"), "source_region": "us-east-1", "region": "eu-west-1"}
	}},
	{action: "aws.ec2.find_image", before: func(s *stage) object {
		s.image("base-1")
		s.settle()
		return object{"name": "base-*"}
	}},
	{action: "aws.ec2.find_images", before: func(s *stage) object {
		s.image("base-1")
		s.settle()
		return object{"name": "base-*", "newest": 1}
	}},
	{action: "aws.ec2.share_image", before: func(s *stage) object {
		return object{"image_id": s.image("base"), "accounts": list("111122223333"), "snapshots": true}
	}},
	{action: "aws.ec2.deprecate_image", before: func(s *stage) object { return object{"image_id": s.image("base"), "at": "2030-01-01T00:00:00Z"} }},
	{action: "aws.ec2.deregister_image", before: func(s *stage) object { return object{"image_id": s.image("base")} }},
	{action: "aws.ec2.create_snapshot", before: func(s *stage) object {
		out := s.do("ec2", "DescribeInstances", object{"InstanceIds": list(s.running())})
		return object{"volume_id": text(out, "Reservations.0.Instances.0.BlockDeviceMappings.0.Ebs.VolumeId"), "description": "before"}
	}},
	{action: "aws.ec2.create_tags", before: func(s *stage) object {
		return object{"resources": list(s.running()), "tags": object{"stage": "new", "owner": "ops"}}
	}},
	{action: "aws.ec2.delete_tags", before: func(s *stage) object {
		return object{"resources": list(s.running()), "keys": list("stage", "absent")}
	}},
	{action: "aws.ssm.put_parameter", what: "(new)", before: func(*stage) object {
		return object{"name": "/app/x", "value": object{"$secret": "env:PASSWORD"}}
	}},
	{action: "aws.ssm.put_parameter", what: "(over)", before: func(s *stage) object {
		s.do("ssm", "PutParameter", object{"Name": "/app/x", "Type": "String", "Value": "old", "Description": "what it is"})
		return object{"name": "/app/x", "value": "new", "overwrite": true}
	}},
	{action: "aws.ssm.put_parameter", what: "(over one without description)", before: func(s *stage) object {
		s.do("ssm", "PutParameter", object{"Name": "/app/x", "Type": "String", "Value": "old"})
		return object{"name": "/app/x", "value": "new", "overwrite": true}
	}},
	{action: "aws.ssm.get_parameter", before: func(s *stage) object {
		s.do("ssm", "PutParameter", object{"Name": "/app/x", "Type": "String", "Value": "old"})
		return object{"name": "/app/x"}
	}},
	{action: "aws.secretsmanager.put", what: "(new)", before: func(*stage) object {
		return object{"name": "app/db", "value": object{"$secret": "env:PASSWORD"}}
	}},
	{action: "aws.secretsmanager.put", what: "(over)", before: func(s *stage) object {
		s.do("secretsmanager", "CreateSecret", object{"Name": "app/db", "SecretString": "old", "ClientRequestToken": "00000000000000000000000000000000"})
		return object{"name": "app/db", "value": object{"$secret": "env:PASSWORD"}}
	}},
	{action: "aws.autoscaling.update_launch_template", before: func(s *stage) object {
		s.do("ec2", "CreateLaunchTemplate", object{"LaunchTemplateName": "web", "ClientToken": "web", "LaunchTemplateData": object{"ImageId": s.publicImage(), "InstanceType": "t3.small"}})
		return object{"launch_template": "web", "image_id": s.image("base")}
	}},
	{action: "aws.cloudformation.deploy", what: "(new)", options: []func(*simcloud.Options){stacks}, before: func(*stage) object {
		return object{"stack_name": "network", "template_body": bucketTemplate, "parameters": object{"Size": "2"}}
	}},
	{action: "aws.cloudformation.deploy", what: "(over)", stays: true, options: []func(*simcloud.Options){stacks}, before: func(s *stage) object {
		s.do("cloudformation", "CreateStack", object{"StackName": "network", "TemplateBody": bucketTemplate, "ClientRequestToken": "before"})
		return object{"stack_name": "network", "template_body": otherTemplate, "parameters": object{"Size": "2"}}
	}},
	{action: "aws.cloudformation.delete", options: []func(*simcloud.Options){stacks}, before: func(s *stage) object {
		s.do("cloudformation", "CreateStack", object{"StackName": "network", "TemplateBody": bucketTemplate, "ClientRequestToken": "before"})
		return object{"stack_name": "network"}
	}},
	{action: "aws.lambda.invoke", options: []func(*simcloud.Options){echo}, before: func(s *stage) object {
		s.function()
		return object{"function": "echo", "payload": object{"a": 1}}
	}},
	{action: "aws.s3.put_object", what: "(new)", before: func(s *stage) object {
		s.do("s3", "CreateBucket", object{"Bucket": "contract-" + s.account})
		return object{"bucket": "contract-" + s.account, "key": "a", "body": "hello"}
	}},
	{action: "aws.s3.put_object", what: "(over)", stays: true, before: func(s *stage) object {
		s.do("s3", "CreateBucket", object{"Bucket": "contract-" + s.account})
		s.do("s3", "PutObject", object{"Bucket": "contract-" + s.account, "Key": "a", "Body": []byte("old")})
		return object{"bucket": "contract-" + s.account, "key": "a", "body": "hello", "overwrite": true}
	}},
	{action: "aws.s3.get_object", before: func(s *stage) object {
		s.do("s3", "CreateBucket", object{"Bucket": "contract-" + s.account})
		s.do("s3", "PutObject", object{"Bucket": "contract-" + s.account, "Key": "a", "Body": []byte("old")})
		return object{"bucket": "contract-" + s.account, "key": "a"}
	}},
	{action: "aws.call", before: func(*stage) object {
		return object{"service": "ec2", "operation": "CreateLaunchTemplate", "input": object{
			"LaunchTemplateName": "web", "LaunchTemplateData": object{"InstanceType": "t3.small"}}}
	}},
	{action: "aws.sns.publish", what: "(FIFO)", before: func(s *stage) object {
		topic := text(s.do("sns", "CreateTopic", object{"Name": "images.fifo", "Attributes": object{"FifoTopic": "true"}}), "TopicArn")
		if s.cloud == nil {
			s.do("sqs", "CreateQueue", object{"QueueName": "images.fifo", "Attributes": object{"FifoQueue": "true"}})
			s.do("sns", "Subscribe", object{"TopicArn": topic, "Protocol": "sqs", "Endpoint": "arn:aws:sqs:us-east-1:" + s.account + ":images.fifo"})
		}
		return object{"topic_arn": topic, "message": "ready"}
	}},
	{action: "aws.sqs.send", what: "(FIFO)", before: func(s *stage) object {
		return object{"queue_url": s.do("sqs", "CreateQueue", object{"QueueName": "jobs.fifo", "Attributes": object{"FifoQueue": "true"}})["QueueUrl"], "body": "reindex"}
	}},
	{action: "aws.securityhub.import_findings", before: func(s *stage) object {
		if s.cloud == nil {
			s.do("securityhub", "EnableSecurityHub", nil)
		}
		return object{"findings": list(object{"Title": "t", "Description": "d", "Severity": object{"Label": "LOW"},
			"Types": list("Software and Configuration Checks"), "Resources": list(object{"Type": "Other", "Id": "x"})})}
	}},
}

// undone are the actions that are no deed, and why. activities/aws tests them
// against simcloud, as it does all.
var undone = map[string]string{
	"aws.autoscaling.start_instance_refresh": "StartInstanceRefresh: " + noCall,
	"aws.ssm.wait_managed":                   "DescribeInstanceInformation: " + noCall,
	"aws.ssm.send_command":                   "moto sends a command to every instance of the account, and each succeeds at once (ssm/models.py)",
	"aws.securityhub.import_compliance":      "moto finds no findings by their generator (securityhub/models.py)",
	"aws.stepfunctions.execute":              "an execution of moto runs for ever",
}

// Every action is a deed, or it is said why not.
func TestDeeds(t *testing.T) {
	for _, a := range aws.Actions(aws.Env{}) {
		isDeed := slices.ContainsFunc(deeds, func(d deed) bool { return d.action == a.Name })
		if isDeed == (undone[a.Name] != "") {
			t.Errorf("%s is to be a deed, or to have a reason why it is none", a.Name)
		}
	}
}
