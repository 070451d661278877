package contract

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/almanac-run/almanac/internal/simcloud"
)

var scenarios = slices.Concat(ec2Scenarios, storeScenarios, serviceScenarios)

const (
	bucketTemplate = `{"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}, "Parameters": {"Size": {"Type": "String", "Default": "1"}}, "Outputs": {"Size": {"Value": {"Ref": "Size"}}}}`
	otherTemplate  = `{"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}, "Other": {"Type": "AWS::SQS::Queue"}}, "Parameters": {"Size": {"Type": "String", "Default": "1"}}, "Outputs": {"Size": {"Value": {"Ref": "Size"}}}}`
)

// stacks stands for what CloudFormation makes of our templates.
func stacks(o *simcloud.Options) {
	o.Stack = func(s simcloud.Stack) map[string]string {
		size := s.Parameters["Size"]
		if size == "" {
			size = "1"
		}
		return map[string]string{"Size": size}
	}
}

// echo stands for the function that answers what it is asked.
func echo(o *simcloud.Options) {
	o.Functions = map[string]simcloud.Function{"echo": func(_ context.Context, in []byte) ([]byte, error) { return in, nil }}
}

// function makes the function echo where it is not there already.
func (s *stage) function() {
	if s.cloud != nil {
		return // it is code of the test; see echo
	}
	role := s.do("iam", "CreateRole", object{"RoleName": "function", "AssumeRolePolicyDocument": "{}"})
	var code bytes.Buffer
	z := zip.NewWriter(&code)
	f, err := z.Create("index.py")
	if err == nil {
		_, err = f.Write([]byte("def handler(event, context): return event\n"))
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		panic(err)
	}
	s.do("lambda", "CreateFunction", object{"FunctionName": "echo", "Runtime": "python3.13", "Handler": "index.handler", "Role": get(role, "Role.Arn"), "Code": object{"ZipFile": code.Bytes()}})
}

func (s *stage) finding(id, title, updated string) object {
	return object{"SchemaVersion": "2018-10-08", "Id": id, "ProductArn": "arn:aws:securityhub:us-east-1:" + s.account + ":product/" + s.account + "/default",
		"GeneratorId": "almanac", "AwsAccountId": s.account, "CreatedAt": "2026-11-25T00:00:00Z", "UpdatedAt": updated, "Title": title, "Description": "d",
		"Types": list("Software and Configuration Checks"), "Severity": object{"Label": "LOW"}, "Resources": list(object{"Type": "Other", "Id": "x"})}
}

var serviceScenarios = []scenario{
	{name: "sts", by: "STS API Reference, GetCallerIdentity, AssumeRole",
		run: func(s *stage) {
			out := s.do("sts", "GetCallerIdentity", object{})
			s.equal("a call is made as the account of its role", text(out, "Account"), s.account)
			s.holds("and as a session of that role", strings.HasPrefix(text(out, "Arn"), "arn:aws:sts::"+s.account+":assumed-role/contract/"), out)
			out = s.do("sts", "AssumeRole", object{"RoleArn": "arn:aws:iam::111122223333:role/other", "RoleSessionName": "almanac", "DurationSeconds": 900})
			s.equal("a session is named", text(out, "AssumedRoleUser.Arn"), "arn:aws:sts::111122223333:assumed-role/other/almanac")
			s.holds("its key is a temporary one", strings.HasPrefix(text(out, "Credentials.AccessKeyId"), "ASIA") && text(out, "Credentials.SessionToken") != "", out)
			s.holds("and ends", get(out, "Credentials.Expiration") != nil, out)
			s.refused("less than a quarter of an hour is refused", "ValidationError", "sts", "AssumeRole", object{"RoleArn": "arn:aws:iam::111122223333:role/other", "RoleSessionName": "almanac", "DurationSeconds": 60})
			s.refused("what is no role is refused", "ValidationError", "sts", "AssumeRole", object{"RoleArn": "arn:aws:iam::111122223333:user/other-one", "RoleSessionName": "almanac"})
		}},
	{name: "securityhub findings", by: "Security Hub API Reference, BatchImportFindings; AWS Security Finding Format, Required attributes",
		run: func(s *stage) {
			s.may("Security Hub is enabled", "securityhub", "EnableSecurityHub", object{})
			out := s.do("securityhub", "BatchImportFindings", object{"Findings": list(s.finding("f-1", "one", "2026-11-25T01:00:00Z"), s.finding("f-2", "two", "2026-11-25T01:00:00Z"))})
			s.equal("findings are imported", []any{out["SuccessCount"], out["FailedCount"]}, []any{int64(2), int64(0)})
			out = s.do("securityhub", "BatchImportFindings", object{"Findings": list(s.finding("f-1", "again", "2026-11-25T02:00:00Z"))})
			s.equal("the same id is imported again", out["SuccessCount"], any(int64(1)))
			out, ok := s.may("findings are read", "securityhub", "GetFindings", object{"Filters": object{"Id": list(object{"Value": "f-1", "Comparison": "EQUALS"})}})
			if ok {
				s.equal("and is one, the newer", texts(out, "Findings", "Title"), []string{"again"})
			}
			mine := s.finding("f-3", "of another", "2026-11-25T01:00:00Z")
			mine["AwsAccountId"] = "111122223333"
			out = s.do("securityhub", "BatchImportFindings", object{"Findings": list(mine, s.finding("f-4", "of mine", "2026-11-25T01:00:00Z"))})
			s.equal("one of another account fails, the others do not", []any{out["SuccessCount"], out["FailedCount"], get(out, "FailedFindings.0.Id")}, []any{int64(1), int64(1), "f-3"})
			s.refused("none is refused", "InvalidInputException", "securityhub", "BatchImportFindings", object{"Findings": list()})
		}},
	{name: "cloudformation stacks", options: []func(*simcloud.Options){stacks},
		by: "CloudFormation API Reference, CreateStack, UpdateStack, DescribeStacks, DescribeStackEvents, DeleteStack",
		run: func(s *stage) {
			create := object{"StackName": "network", "TemplateBody": bucketTemplate, "ClientRequestToken": "create", "Tags": list(tag("stage", "new"))}
			made := s.do("cloudformation", "CreateStack", create)
			id := text(made, "StackId")
			s.holds("an id is an ARN", strings.HasPrefix(id, "arn:aws:cloudformation:us-east-1:"+s.account+":stack/network/"), made)
			out := s.do("cloudformation", "DescribeStacks", object{"StackName": "network"})
			s.equal("it begins in progress", text(out, "Stacks.0.StackStatus"), "CREATE_IN_PROGRESS")
			s.settle()
			out = s.do("cloudformation", "DescribeStacks", object{"StackName": id})
			s.equal("after a while it is complete", text(out, "Stacks.0.StackStatus"), "CREATE_COMPLETE")
			s.equal("it has its tags from the beginning", tags(get(out, "Stacks.0.Tags")), map[string]string{"stage": "new"})
			s.equal("and outputs", []string{text(out, "Stacks.0.Outputs.0.OutputKey"), text(out, "Stacks.0.Outputs.0.OutputValue")}, []string{"Size", "1"})
			again, ok := s.may("the same token is answered again", "cloudformation", "CreateStack", create)
			if ok {
				s.equal("with the same stack", text(again, "StackId"), id)
			}
			s.refused("another token finds the name taken", "AlreadyExistsException", "cloudformation", "CreateStack", object{"StackName": "network", "TemplateBody": bucketTemplate, "ClientRequestToken": "other"})
			events := s.do("cloudformation", "DescribeStackEvents", object{"StackName": "network"})
			s.equal("events are newest first", text(events, "StackEvents.0.ResourceStatus"), "CREATE_COMPLETE")
			s.equal("and carry the token", text(events, "StackEvents.0.ClientRequestToken"), "create")
			s.refused("an update that changes nothing is refused", "ValidationError", "cloudformation", "UpdateStack", object{"StackName": "network", "TemplateBody": bucketTemplate, "ClientRequestToken": "same"})
			update := object{"StackName": "network", "TemplateBody": otherTemplate, "ClientRequestToken": "update", "Parameters": list(object{"ParameterKey": "Size", "ParameterValue": "2"})}
			s.do("cloudformation", "UpdateStack", update)
			s.settle()
			out = s.do("cloudformation", "DescribeStacks", object{"StackName": "network"})
			s.equal("an update is complete after a while", text(out, "Stacks.0.StackStatus"), "UPDATE_COMPLETE")
			s.equal("its outputs are new", text(out, "Stacks.0.Outputs.0.OutputValue"), "2")
			s.equal("tags that it does not give stay", tags(get(out, "Stacks.0.Tags")), map[string]string{"stage": "new"})
			s.refused("a stack that there is not is not described", "ValidationError", "cloudformation", "DescribeStacks", object{"StackName": "none"})
			s.refused("nor updated", "ValidationError", "cloudformation", "UpdateStack", object{"StackName": "none", "TemplateBody": bucketTemplate})
			s.may("but may be deleted", "cloudformation", "DeleteStack", object{"StackName": "none", "ClientRequestToken": "none"})
			s.do("cloudformation", "DeleteStack", object{"StackName": "network", "ClientRequestToken": "delete"})
			s.settle()
			s.refused("what is deleted is not described by name", "ValidationError", "cloudformation", "DescribeStacks", object{"StackName": "network"})
			out = s.do("cloudformation", "DescribeStacks", object{"StackName": id})
			s.equal("but by its id", text(out, "Stacks.0.StackStatus"), "DELETE_COMPLETE")
		}},
	{name: "sqs", by: "SQS API Reference, CreateQueue, SendMessage, ReceiveMessage, DeleteMessage; SQS Developer Guide, Exactly-once processing; " +
		"Smithy, awsQueryCompatible trait: the code is the one of the header x-amzn-query-error",
		run: func(s *stage) {
			queue := text(s.do("sqs", "CreateQueue", object{"QueueName": "jobs", "tags": object{"stage": "new"}}), "QueueUrl")
			s.equal("a queue is made once", text(s.do("sqs", "CreateQueue", object{"QueueName": "jobs", "tags": object{"stage": "new"}}), "QueueUrl"), queue)
			s.equal("it is found by its name", text(s.do("sqs", "GetQueueUrl", object{"QueueName": "jobs"}), "QueueUrl"), queue)
			sent := s.do("sqs", "SendMessage", object{"QueueUrl": queue, "MessageBody": "one"})
			s.equal("the sum of the body is answered", text(sent, "MD5OfMessageBody"), "f97c5d29941bfb1b2fdab0874906ab82")
			got := s.do("sqs", "ReceiveMessage", object{"QueueUrl": queue, "MaxNumberOfMessages": 10, "VisibilityTimeout": 60})
			s.equal("what is sent is received", texts(got, "Messages", "Body"), []string{"one"})
			hidden := s.do("sqs", "ReceiveMessage", object{"QueueUrl": queue, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 0})
			s.equal("but not twice at once", len(items(hidden, "Messages")), 0)
			s.do("sqs", "DeleteMessage", object{"QueueUrl": queue, "ReceiptHandle": text(got, "Messages.0.ReceiptHandle")})
			s.may("what is deleted may be deleted again", "sqs", "DeleteMessage", object{"QueueUrl": queue, "ReceiptHandle": text(got, "Messages.0.ReceiptHandle")})
			fifo := text(s.do("sqs", "CreateQueue", object{"QueueName": "jobs.fifo", "Attributes": object{"FifoQueue": "true"}}), "QueueUrl")
			first := s.do("sqs", "SendMessage", object{"QueueUrl": fifo, "MessageBody": "one", "MessageGroupId": "g", "MessageDeduplicationId": "token"})
			again := s.do("sqs", "SendMessage", object{"QueueUrl": fifo, "MessageBody": "one", "MessageGroupId": "g", "MessageDeduplicationId": "token"})
			s.equal("the same deduplication id is the same message", text(again, "MessageId"), text(first, "MessageId"))
			got = s.do("sqs", "ReceiveMessage", object{"QueueUrl": fifo, "MaxNumberOfMessages": 10})
			s.equal("and is delivered once", len(items(got, "Messages")), 1)
			s.refused("a group is needed", "MissingParameter", "sqs", "SendMessage", object{"QueueUrl": fifo, "MessageBody": "one", "MessageDeduplicationId": "x"})
			s.refused("a queue that there is not is not written to", "AWS.SimpleQueueService.NonExistentQueue", "sqs", "SendMessage", object{"QueueUrl": queue + "-none", "MessageBody": "x"})
			s.refused("nor found", "AWS.SimpleQueueService.NonExistentQueue", "sqs", "GetQueueUrl", object{"QueueName": "none"})
		}},
	{name: "sns to sqs", by: "SNS API Reference, CreateTopic, Subscribe, Publish; SNS Developer Guide, Fanout to Amazon SQS queues",
		run: func(s *stage) {
			topic := text(s.do("sns", "CreateTopic", object{"Name": "images"}), "TopicArn")
			s.equal("a topic's ARN is", topic, "arn:aws:sns:us-east-1:"+s.account+":images")
			s.equal("a topic is made once", text(s.do("sns", "CreateTopic", object{"Name": "images"}), "TopicArn"), topic)
			queue := text(s.do("sqs", "CreateQueue", object{"QueueName": "images"}), "QueueUrl")
			out := s.do("sns", "Publish", object{"TopicArn": topic, "Message": "nobody listens"})
			s.holds("a message has an id", text(out, "MessageId") != "", out)
			s.refused("a topic that there is not is not published to", "NotFound", "sns", "Publish", object{"TopicArn": topic + "-none", "Message": "x"})
			s.do("sns", "Subscribe", object{"TopicArn": topic, "Protocol": "sqs", "Endpoint": "arn:aws:sqs:us-east-1:" + s.account + ":images"})
			sent := s.do("sns", "Publish", object{"TopicArn": topic, "Message": "ready", "Subject": "image",
				"MessageAttributes": object{"almanac-token": object{"DataType": "String", "StringValue": "t"}}})
			got := s.do("sqs", "ReceiveMessage", object{"QueueUrl": queue, "MaxNumberOfMessages": 10})
			s.equal("one message is delivered", len(items(got, "Messages")), 1)
			var body struct {
				Type, MessageID, TopicArn, Message, Subject string
				MessageAttributes                           map[string]struct{ Type, Value string }
			}
			err := json.Unmarshal([]byte(text(got, "Messages.0.Body")), &body)
			s.holds("its body is SNS's envelope", err == nil && body.Type == "Notification" && body.TopicArn == topic, got, err)
			s.equal("which holds the message", []string{body.Message, body.Subject, body.MessageID}, []string{"ready", "image", text(sent, "MessageId")})
			s.equal("and its attributes", body.MessageAttributes["almanac-token"].Value, "t")
		}},
	{name: "lambda", options: []func(*simcloud.Options){echo}, by: "Lambda API Reference, Invoke, GetFunction",
		run: func(s *stage) {
			s.function()
			out := s.do("lambda", "Invoke", object{"FunctionName": "echo", "Payload": []byte(`{"a":1}`)})
			s.equal("a function answers", []any{out["StatusCode"], out["Payload"]}, []any{int64(200), []byte(`{"a":1}`)})
			s.equal("nothing went wrong in it", out["FunctionError"], nil)
			out = s.do("lambda", "Invoke", object{"FunctionName": "echo", "InvocationType": "Event", "Payload": []byte(`{"a":1}`)})
			s.equal("an event is accepted", out["StatusCode"], any(int64(202)))
			out, ok := s.may("a dry run is answered", "lambda", "Invoke", object{"FunctionName": "echo", "InvocationType": "DryRun"})
			if ok {
				s.equal("with no content", out["StatusCode"], any(int64(204)))
			}
			out = s.do("lambda", "GetFunction", object{"FunctionName": "echo"})
			s.equal("a function is described", text(out, "Configuration.FunctionArn"), "arn:aws:lambda:us-east-1:"+s.account+":function:echo")
			s.refused("one that there is not is not called", "ResourceNotFoundException", "lambda", "Invoke", object{"FunctionName": "none"})
			s.refused("what is no JSON is refused", "InvalidRequestContentException", "lambda", "Invoke", object{"FunctionName": "echo", "Payload": []byte("{")})
		}},
	{name: "autoscaling", by: "Auto Scaling API Reference, CreateAutoScalingGroup, UpdateAutoScalingGroup, StartInstanceRefresh, DescribeInstanceRefreshes, CancelInstanceRefresh",
		run: func(s *stage) {
			image := s.publicImage()
			s.do("ec2", "CreateLaunchTemplate", object{"LaunchTemplateName": "web", "ClientToken": "web", "LaunchTemplateData": object{"ImageId": image, "InstanceType": "t3.small"}})
			s.settle()
			create := object{"AutoScalingGroupName": "web", "MinSize": 1, "MaxSize": 4, "DesiredCapacity": 2, "AvailabilityZones": list("us-east-1a", "us-east-1b"),
				"LaunchTemplate": object{"LaunchTemplateName": "web", "Version": "1"}, "Tags": list(object{"Key": "stage", "Value": "new", "PropagateAtLaunch": true})}
			s.do("autoscaling", "CreateAutoScalingGroup", create)
			s.settle()
			out := s.do("autoscaling", "DescribeAutoScalingGroups", object{"AutoScalingGroupNames": list("web")})
			g := get(out, "AutoScalingGroups.0")
			s.equal("a group has its size", []any{get(g, "MinSize"), get(g, "MaxSize"), get(g, "DesiredCapacity")}, []any{int64(1), int64(4), int64(2)})
			s.equal("and so many instances", len(items(g, "Instances")), 2)
			s.equal("which are in service", []string{text(g, "Instances.0.LifecycleState"), text(g, "Instances.0.HealthStatus")}, []string{"InService", "Healthy"})
			s.equal("of its template's version", text(g, "Instances.0.LaunchTemplate.Version"), "1")
			s.equal("they have the group's tags", len(s.living(filter("tag:stage", "new"))), 2)
			s.equal("and one of AWS's", len(s.living(filter("tag:aws:autoscaling:groupName", "web"))), 2)
			s.refused("a group has something to launch", "ValidationError", "autoscaling", "CreateAutoScalingGroup", object{"AutoScalingGroupName": "x", "MinSize": 1, "MaxSize": 1, "AvailabilityZones": list("us-east-1a")})
			out = s.do("autoscaling", "DescribeAutoScalingGroups", object{"AutoScalingGroupNames": list("none")})
			s.equal("one that there is not is not in the list", len(items(out, "AutoScalingGroups")), 0)
			s.refused("nor updated", "ValidationError", "autoscaling", "UpdateAutoScalingGroup", object{"AutoScalingGroupName": "none", "MinSize": 1})
			s.do("autoscaling", "UpdateAutoScalingGroup", object{"AutoScalingGroupName": "web", "DesiredCapacity": 3})
			s.settle()
			s.equal("a group grows", len(s.living(filter("tag:stage", "new"))), 3)
			if refresh, ok := s.may("its instances are refreshed", "autoscaling", "StartInstanceRefresh", object{"AutoScalingGroupName": "web"}); ok {
				s.refused("one refresh at a time", "InstanceRefreshInProgress", "autoscaling", "StartInstanceRefresh", object{"AutoScalingGroupName": "web"})
				out = s.do("autoscaling", "DescribeInstanceRefreshes", object{"AutoScalingGroupName": "web"})
				s.equal("it is described", text(out, "InstanceRefreshes.0.InstanceRefreshId"), text(refresh, "InstanceRefreshId"))
			}
			s.refused("the name is taken", "AlreadyExists", "autoscaling", "CreateAutoScalingGroup", create)
		}},
}
