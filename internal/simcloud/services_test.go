package simcloud

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/almanac-run/almanac/internal/awsapi"
)

func TestSecrets(t *testing.T) {
	w := newWorld(t, Options{})
	token := func(n int) string { return fmt.Sprintf("token-%032d", n) }
	create := func(n int, value string) m {
		return m{"Name": "db", "SecretString": value, "ClientRequestToken": token(n)}
	}
	first := w.do("secretsmanager CreateSecret", create(1, "one"))
	w.is("again", w.do("secretsmanager CreateSecret", create(1, "one")), first)
	w.fails("ResourceExistsException", "secretsmanager CreateSecret", create(1, "two"))
	w.fails("ResourceExistsException", "secretsmanager CreateSecret", create(2, "one"))
	put := func(n int, value string) m {
		return m{"SecretId": "db", "SecretString": value, "ClientRequestToken": token(n)}
	}
	for range 2 {
		w.is("put", w.do("secretsmanager PutSecretValue", put(2, "two"))["VersionId"], token(2))
	}
	w.fails("ResourceExistsException", "secretsmanager PutSecretValue", put(2, "three"))
	w.fails("InvalidParameterException", "secretsmanager PutSecretValue", m{"SecretId": "db", "SecretString": "x"})
	w.fails("InvalidParameterException", "secretsmanager PutSecretValue", m{"SecretId": "db", "SecretString": "x", "ClientRequestToken": "short"})
	get := func(with m) any {
		with["SecretId"] = "db"
		return w.do("secretsmanager GetSecretValue", with)["SecretString"]
	}
	w.is("stages", []any{get(m{}), get(m{"VersionStage": "AWSPREVIOUS"}), get(m{"VersionId": token(1)})}, []any{"two", "one", "one"})
	w.is("described", w.do("secretsmanager DescribeSecret", m{"SecretId": first["ARN"]})["VersionIdsToStages"],
		m{token(1): []any{"AWSPREVIOUS"}, token(2): []any{"AWSCURRENT"}})

	move := m{"SecretId": "db", "VersionStage": "AWSCURRENT", "MoveToVersionId": token(1)}
	w.fails("InvalidParameterException", "secretsmanager UpdateSecretVersionStage", move)
	move["RemoveFromVersionId"] = token(2)
	w.do("secretsmanager UpdateSecretVersionStage", move)
	w.is("rolled back", []any{get(m{}), get(m{"VersionStage": "AWSPREVIOUS"})}, []any{"one", "two"})

	w.fails("InvalidParameterException", "secretsmanager DeleteSecret", m{"SecretId": "db", "RecoveryWindowInDays": 1})
	w.do("secretsmanager DeleteSecret", m{"SecretId": "db", "RecoveryWindowInDays": 7})
	w.fails("InvalidRequestException", "secretsmanager GetSecretValue", m{"SecretId": "db"})
	w.fails("InvalidRequestException", "secretsmanager CreateSecret", create(3, "new"))
	w.is("live", len(w.Live()), 0)
	w.pass(7 * 24 * time.Hour)
	w.fails("ResourceNotFoundException", "secretsmanager GetSecretValue", m{"SecretId": "db"})
	w.do("secretsmanager CreateSecret", create(3, "new"))
}

func TestS3(t *testing.T) {
	w := newWorld(t, Options{})
	here := m{"Bucket": "acme-logs", "CreateBucketConfiguration": m{"LocationConstraint": "eu-west-1"}}
	w.fails("IllegalLocationConstraintException", "s3 CreateBucket", m{"Bucket": "acme-logs"})
	w.fails("InvalidBucketName", "s3 CreateBucket", m{"Bucket": "Acme_Logs"})
	w.do("s3 CreateBucket", here)
	w.fails("BucketAlreadyOwnedByYou", "s3 CreateBucket", here)
	w.is("location", w.do("s3 GetBucketLocation", m{"Bucket": "acme-logs"}), m{"LocationConstraint": "eu-west-1"})
	mine := w.in
	w.in = awsapi.Scope{Region: "eu-west-1", Role: "r", Account: "222222222222"}
	w.fails("BucketAlreadyExists", "s3 CreateBucket", here)
	w.fails("AccessDenied", "s3 GetObject", m{"Bucket": "acme-logs", "Key": "k"})
	w.in = awsapi.Scope{Region: "us-east-1"}
	w.fails("PermanentRedirect", "s3 GetObject", m{"Bucket": "acme-logs", "Key": "k"})
	w.in = mine

	object := func(key string, with m) m {
		in := m{"Bucket": "acme-logs", "Key": key}
		for k, v := range with {
			in[k] = v
		}
		return in
	}
	put := object("a/1", m{"Body": []byte("one"), "IfNoneMatch": "*", "Metadata": m{"x": "y"}})
	etag := w.do("s3 PutObject", put)["ETag"]
	if e := w.fails("PreconditionFailed", "s3 PutObject", put); e.Status != 412 || e.Class != awsapi.Conflict {
		t.Errorf("%+v", e)
	}
	got := w.do("s3 GetObject", object("a/1", nil))
	w.is("object", []any{string(got["Body"].([]byte)), got["ETag"], got["ContentLength"], got["Metadata"]}, []any{"one", etag, 3, m{"x": "y"}})
	w.fails("NoSuchKey", "s3 GetObject", object("none", nil))
	if e := w.fails("404", "s3 HeadObject", object("none", nil)); e.Class != awsapi.NotFound || e.Status != 404 {
		t.Errorf("%+v", e)
	}
	w.fails("NotModified", "s3 GetObject", object("a/1", m{"IfNoneMatch": etag}))
	w.fails("PreconditionFailed", "s3 PutObject", object("a/1", m{"Body": []byte("two"), "IfMatch": `"other"`}))
	w.do("s3 PutObject", object("a/1", m{"Body": []byte("two"), "IfMatch": etag}))
	w.do("s3 CopyObject", object("b/2", m{"CopySource": "acme-logs/a%2F1"}))
	w.is("copy", string(w.do("s3 GetObject", object("b/2", nil))["Body"].([]byte)), "two")
	for n := range 5 {
		w.do("s3 PutObject", object(fmt.Sprint("a/", n), m{"Body": "x"}))
	}

	var keys []string
	in := m{"Bucket": "acme-logs", "MaxKeys": 2}
	for {
		out := w.do("s3 ListObjectsV2", in)
		for n := range length(out, "Contents") {
			keys = append(keys, text(out, "Contents", n, "Key"))
		}
		if out["IsTruncated"] == false {
			break
		}
		in["ContinuationToken"] = out["NextContinuationToken"]
	}
	w.is("keys", keys, []string{"a/0", "a/1", "a/2", "a/3", "a/4", "b/2"})
	folders := w.do("s3 ListObjectsV2", m{"Bucket": "acme-logs", "Delimiter": "/", "MaxKeys": 1})
	next := w.do("s3 ListObjectsV2", m{"Bucket": "acme-logs", "Delimiter": "/", "MaxKeys": 1, "ContinuationToken": folders["NextContinuationToken"]})
	w.is("folders", []any{folders["CommonPrefixes"], next["CommonPrefixes"], next["IsTruncated"]}, []any{[]any{m{"Prefix": "a/"}}, []any{m{"Prefix": "b/"}}, false})
	w.do("s3 DeleteObject", object("a/0", nil))
	w.do("s3 DeleteObject", object("a/0", nil))
	w.do("s3 PutObject", object("long", m{"Body": []byte("0123456789")}))
	for of, want := range map[string]string{"bytes=0-3": "0123", "bytes=4-99": "456789", "bytes=9-9": "9"} {
		out := w.do("s3 GetObject", object("long", m{"Range": of}))
		w.is(of, string(out["Body"].([]byte)), want)
	}
	w.fails("InvalidRange", "s3 GetObject", object("long", m{"Range": "bytes=10-19"}))
	w.fails("NotSimulated", "s3 GetObject", object("long", m{"Range": "bytes=-5"}))
}

func TestKMS(t *testing.T) {
	w := newWorld(t, Options{})
	key := text(w.do("kms CreateKey", nil), "KeyMetadata", "Arn")
	data := m{"KeyId": key, "KeySpec": "AES_256", "EncryptionContext": m{"ns": "a", "b": "c"}}
	out := w.do("kms GenerateDataKey", data)
	if bytes.Equal(out["Plaintext"].([]byte), w.do("kms GenerateDataKey", data)["Plaintext"].([]byte)) {
		t.Error("two data keys are one")
	}
	open := m{"CiphertextBlob": out["CiphertextBlob"], "EncryptionContext": m{"b": "c", "ns": "a"}}
	w.is("opened", w.do("kms Decrypt", open)["Plaintext"], out["Plaintext"])
	w.fails("InvalidCiphertextException", "kms Decrypt", m{"CiphertextBlob": out["CiphertextBlob"], "EncryptionContext": m{"ns": "b"}})
	w.fails("InvalidCiphertextException", "kms Decrypt", m{"CiphertextBlob": []byte("x")})
	other := text(w.do("kms CreateKey", m{"Description": "other"}), "KeyMetadata", "KeyId")
	w.fails("IncorrectKeyException", "kms Decrypt", m{"CiphertextBlob": out["CiphertextBlob"], "KeyId": other})
	w.fails("ValidationException", "kms GenerateDataKey", m{"KeyId": key})
	w.do("kms DisableKey", m{"KeyId": key})
	w.fails("DisabledException", "kms Decrypt", open)
	w.fails("DisabledException", "kms GenerateDataKey", data)
	w.do("kms EnableKey", m{"KeyId": key})
	w.do("kms Decrypt", open)
}

func TestStepFunctions(t *testing.T) {
	w := newWorld(t, Options{
		Delays: Delays{Machine: Range{time.Minute, time.Minute}},
		Machines: map[string]Machine{
			"good": func(in string) (string, error) { return `{"n":1}`, nil },
			"bad":  func(in string) (string, error) { return "", errors.New("no") },
		},
	})
	start := func(machine, name, input string) m {
		return m{"stateMachineArn": "arn:aws:states:eu-west-1:123456789012:stateMachine:" + machine, "name": name, "input": input}
	}
	arn := w.do("stepfunctions StartExecution", start("good", "a", "{}"))["executionArn"]
	w.is("again while it runs", w.do("stepfunctions StartExecution", start("good", "a", "{}"))["executionArn"], arn)
	w.fails("ExecutionAlreadyExists", "stepfunctions StartExecution", start("good", "a", `{"x":1}`))
	w.is("running", w.do("stepfunctions DescribeExecution", m{"executionArn": arn})["status"], "RUNNING")
	w.pass(time.Minute)
	out := w.do("stepfunctions DescribeExecution", m{"executionArn": arn})
	w.is("done", []any{out["status"], out["output"]}, []any{"SUCCEEDED", `{"n":1}`})
	if e := w.fails("ExecutionAlreadyExists", "stepfunctions StartExecution", start("good", "a", "{}")); e.Class != awsapi.Conflict {
		t.Errorf("%+v", e)
	}
	w.pass(91 * 24 * time.Hour)
	w.do("stepfunctions StartExecution", start("good", "a", "{}"))

	arn = w.do("stepfunctions StartExecution", start("bad", "b", "{}"))["executionArn"]
	w.pass(time.Minute)
	out = w.do("stepfunctions DescribeExecution", m{"executionArn": arn})
	w.is("failed", []any{out["status"], out["cause"]}, []any{"FAILED", "no"})
	arn = w.do("stepfunctions StartExecution", start("good", "c", "{}"))["executionArn"]
	w.do("stepfunctions StopExecution", m{"executionArn": arn})
	w.is("stopped", w.do("stepfunctions DescribeExecution", m{"executionArn": arn})["status"], "ABORTED")
	w.fails("StateMachineDoesNotExist", "stepfunctions StartExecution", start("none", "a", "{}"))
	w.fails("InvalidExecutionInput", "stepfunctions StartExecution", start("good", "d", "{"))
	w.fails("InvalidName", "stepfunctions StartExecution", start("good", "a b", "{}"))
	w.do("stepfunctions CreateStateMachine", m{"name": "echo", "definition": "{}", "roleArn": "r"})
	w.do("stepfunctions StartExecution", start("echo", "a", "{}"))
}

func TestStacks(t *testing.T) {
	w := newWorld(t, Options{
		Delays: Delays{Stack: Range{time.Minute, time.Minute}},
		Fails: func(r Resource) string {
			if strings.HasPrefix(r.Name, "bad") {
				return "no quota"
			}
			return ""
		},
		Stack: func(s Stack) map[string]string { return map[string]string{"Size": s.Parameters["Size"]} },
	})
	in := func(token, size string) m {
		return m{"StackName": "web", "ClientRequestToken": token, "TemplateBody": `{"Resources":{"Q":{"Type":"AWS::SQS::Queue"}}}`,
			"Parameters": []any{m{"ParameterKey": "Size", "ParameterValue": size}}}
	}
	status := func(name any) []any {
		out := w.do("cloudformation DescribeStacks", m{"StackName": name})
		return []any{text(out, "Stacks", 0, "StackStatus"), text(out, "Stacks", 0, "Outputs", 0, "OutputValue"), text(out, "Stacks", 0, "StackStatusReason")}
	}
	arn := w.do("cloudformation CreateStack", in("t1", "1"))["StackId"]
	w.is("again", w.do("cloudformation CreateStack", in("t1", "1"))["StackId"], arn)
	w.fails("TokenAlreadyExistsException", "cloudformation CreateStack", in("t1", "2"))
	w.fails("AlreadyExistsException", "cloudformation CreateStack", in("t2", "1"))
	w.is("at first", status("web"), []any{"CREATE_IN_PROGRESS", "", ""})
	w.fails("ValidationError", "cloudformation UpdateStack", in("t3", "2"))
	w.pass(time.Minute)
	w.is("then", status("web"), []any{"CREATE_COMPLETE", "1", ""})
	e := w.fails("ValidationError", "cloudformation UpdateStack", in("t3", "1"))
	w.is("message", e.Message, "No updates are to be performed.")
	w.do("cloudformation UpdateStack", in("t3", "2"))
	w.do("cloudformation UpdateStack", in("t3", "2"))
	w.fails("TokenAlreadyExistsException", "cloudformation UpdateStack", in("t1", "2"))
	w.pass(time.Minute)
	w.is("updated", status("web"), []any{"UPDATE_COMPLETE", "2", ""})
	events := w.do("cloudformation DescribeStackEvents", m{"StackName": "web"})
	w.is("events", []any{length(events, "StackEvents"), text(events, "StackEvents", 1, "LogicalResourceId"), text(events, "StackEvents", 0, "ResourceStatus")}, []any{6, "Q", "UPDATE_COMPLETE"})

	for range 2 {
		w.do("cloudformation DeleteStack", m{"StackName": "web", "ClientRequestToken": "t4"})
	}
	w.is("deleting", status("web")[0], "DELETE_IN_PROGRESS")
	w.pass(time.Minute)
	w.fails("ValidationError", "cloudformation DescribeStacks", m{"StackName": "web"})
	w.is("by ARN", status(arn)[0], "DELETE_COMPLETE")
	w.do("cloudformation DeleteStack", m{"StackName": "web"}) // what is not there is deleted

	w.do("cloudformation CreateStack", m{"StackName": "bad", "TemplateBody": "x"})
	w.pass(time.Minute)
	w.is("failed", status("bad"), []any{"ROLLBACK_COMPLETE", "", "no quota"})
	w.do("cloudformation CreateStack", m{"StackName": "bad2", "TemplateBody": "x", "OnFailure": "DO_NOTHING"})
	w.pass(time.Minute)
	w.is("failed", status("bad2")[0], "CREATE_FAILED")
}

func TestFindings(t *testing.T) {
	w := newWorld(t, Options{})
	finding := func(id, updated string, with m) any {
		f := m{"SchemaVersion": "2018-10-08", "Id": id, "ProductArn": "p", "GeneratorId": "g", "AwsAccountId": "123456789012", "CreatedAt": "2026-11-01T00:00:00Z",
			"UpdatedAt": updated, "Title": "t " + updated, "Description": "d", "Resources": []any{m{"Id": "r", "Type": "Other"}}}
		for k, v := range with {
			f[k] = v
		}
		return f
	}
	out := w.do("securityhub BatchImportFindings", m{"Findings": []any{
		finding("a", "2026-11-02T00:00:00Z", nil), finding("b", "2026-11-02T00:00:00Z", m{"AwsAccountId": "1"}), finding("c", "2026-11-02T00:00:00Z", m{"Title": nil}),
	}})
	w.is("in part", []any{out["SuccessCount"], out["FailedCount"], text(out, "FailedFindings", 0, "Id")}, []any{1, 2, "b"})
	w.do("securityhub BatchImportFindings", m{"Findings": []any{finding("a", "2026-11-03T00:00:00Z", nil)}})
	w.do("securityhub BatchImportFindings", m{"Findings": []any{finding("a", "2026-11-01T00:00:00Z", nil)}})
	w.is("one, and the newest", []any{len(w.Findings()), w.Findings()[0]["Title"]}, []any{1, "t 2026-11-03T00:00:00Z"})
	workflow := func() any { return text(w.Findings()[0], "Workflow", "Status") }
	who := m{"Id": "a", "ProductArn": "p"}
	w.is("a workflow begins as new", workflow(), "NEW")
	out = w.do("securityhub BatchUpdateFindings", m{"FindingIdentifiers": []any{who, m{"Id": "none", "ProductArn": "p"}}, "Workflow": m{"Status": "RESOLVED"}})
	w.is("one is not there", text(out, "UnprocessedFindings", 0, "FindingIdentifier", "Id"), "none")
	w.do("securityhub BatchImportFindings", m{"Findings": []any{finding("a", "2026-11-04T00:00:00Z", m{"Workflow": m{"Status": "NOTIFIED"}, "Compliance": m{"Status": "PASSED"}})}})
	w.is("an import does not change it", workflow(), "RESOLVED")
	w.do("securityhub BatchImportFindings", m{"Findings": []any{finding("a", "2026-11-05T00:00:00Z", m{"Compliance": m{"Status": "FAILED"}})}})
	w.is("but it begins anew when the check fails", workflow(), "NEW")
	w.do("securityhub BatchUpdateFindings", m{"FindingIdentifiers": []any{who}, "Workflow": m{"Status": "SUPPRESSED"}})
	w.do("securityhub BatchImportFindings", m{"Findings": []any{finding("a", "2026-11-06T00:00:00Z", m{"RecordState": "ARCHIVED"}), finding("ab", "2026-11-06T00:00:00Z", nil)}})
	w.do("securityhub BatchImportFindings", m{"Findings": []any{finding("a", "2026-11-07T00:00:00Z", nil)}})
	w.is("what is suppressed stays so", []any{workflow(), text(w.Findings()[0], "RecordState")}, []any{"SUPPRESSED", "ACTIVE"})
	find := func(name, value, how string) int {
		out := w.do("securityhub GetFindings", m{"Filters": m{name: []any{m{"Value": value, "Comparison": how}}}})
		all, _ := out["Findings"].([]any)
		return len(all)
	}
	w.is("found by id", []any{find("Id", "a", "EQUALS"), find("Id", "a", "PREFIX"), find("WorkflowStatus", "NEW", "EQUALS")}, []any{1, 2, 1})
	w.fails("NotSimulated", "securityhub GetFindings", m{"Filters": m{"Title": []any{m{"Value": "t", "Comparison": "EQUALS"}}}})
	w.fails("NotSimulated", "securityhub BatchUpdateFindings", m{"FindingIdentifiers": []any{who}, "Note": m{"Text": "n", "UpdatedBy": "b"}})
	w.fails("InvalidInputException", "securityhub BatchImportFindings", m{"Findings": slices.Repeat([]any{finding("a", "2026-11-01T00:00:00Z", nil)}, 101)})
}

func TestLambda(t *testing.T) {
	var w *world
	w = newWorld(t, Options{Functions: map[string]Function{
		"echo": func(_ context.Context, in []byte) ([]byte, error) { return in, nil },
		"bad":  func(context.Context, []byte) ([]byte, error) { return nil, errors.New("no") },
		"calls": func(ctx context.Context, _ []byte) ([]byte, error) { // a function may call the cloud
			_, err := w.Call(ctx, w.in, "sts", "GetCallerIdentity", nil)
			return nil, err
		},
	}})
	out := w.do("lambda Invoke", m{"FunctionName": "echo", "Payload": []byte(`{"a":1}`)})
	w.is("answer", []any{out["StatusCode"], string(out["Payload"].([]byte)), out["FunctionError"]}, []any{200, `{"a":1}`, nil})
	out = w.do("lambda Invoke", m{"FunctionName": "arn:aws:lambda:eu-west-1:123456789012:function:bad"})
	w.is("error", []any{out["StatusCode"], out["FunctionError"], string(out["Payload"].([]byte))}, []any{200, "Unhandled", `{"errorMessage":"no","errorType":"Error"}`})
	w.is("event", w.do("lambda Invoke", m{"FunctionName": "bad", "InvocationType": "Event"})["StatusCode"], 202)
	w.is("function", text(w.do("lambda GetFunction", m{"FunctionName": "echo"}), "Configuration", "State"), "Active")
	w.do("lambda Invoke", m{"FunctionName": "calls"})
	w.fails("InvalidRequestContentException", "lambda Invoke", m{"FunctionName": "echo", "Payload": "{"})
}

func TestMessages(t *testing.T) {
	w := newWorld(t, Options{})
	topic := w.do("sns CreateTopic", m{"Name": "ops"})["TopicArn"]
	a := w.do("sns Publish", m{"TopicArn": topic, "Message": "m"})["MessageId"]
	if b := w.do("sns Publish", m{"TopicArn": topic, "Message": "m"})["MessageId"]; a == b { // no token: two
		t.Error("two messages are one")
	}
	fifo := w.do("sns CreateTopic", m{"Name": "ops.fifo"})["TopicArn"]
	w.fails("InvalidParameter", "sns Publish", m{"TopicArn": fifo, "Message": "m"})
	once := m{"TopicArn": fifo, "Message": "m", "MessageGroupId": "g", "MessageDeduplicationId": "d"}
	a = w.do("sns Publish", once)["MessageId"]
	w.is("deduplicated", w.do("sns Publish", once)["MessageId"], a)
	w.pass(5 * time.Minute)
	if b := w.do("sns Publish", once)["MessageId"]; a == b {
		t.Error("a deduplication id is known for five minutes only")
	}

	url := w.do("sqs CreateQueue", m{"QueueName": "jobs"})["QueueUrl"]
	w.is("url", w.do("sqs GetQueueUrl", m{"QueueName": "jobs"})["QueueUrl"], url)
	w.do("sqs SendMessage", m{"QueueUrl": url, "MessageBody": "one"})
	receive := func() m { return w.do("sqs ReceiveMessage", m{"QueueUrl": url}) }
	got := receive()
	w.is("body", text(got, "Messages", 0, "Body"), "one")
	w.is("not twice", length(receive(), "Messages"), 0)
	w.pass(30 * time.Second)
	got = receive()
	w.do("sqs DeleteMessage", m{"QueueUrl": url, "ReceiptHandle": text(got, "Messages", 0, "ReceiptHandle")})
	w.pass(30 * time.Second)
	w.is("gone", length(receive(), "Messages"), 0)
}

func TestSTS(t *testing.T) {
	w := newWorld(t, Options{})
	out := w.do("sts AssumeRole", m{"RoleArn": "arn:aws:iam::222222222222:role/ops", "RoleSessionName": "s"})
	w.is("role", text(out, "AssumedRoleUser", "Arn"), "arn:aws:sts::222222222222:assumed-role/ops/s")
	w.fails("ValidationError", "sts AssumeRole", m{"RoleArn": "arn:aws:iam::222222222222:role/ops", "RoleSessionName": "s", "DurationSeconds": 60})
	w.is("account", w.do("sts GetCallerIdentity", nil)["Account"], "123456789012")
}

// asg sets up a group "web" of n instances and a second version of its template.
func (w *world) asg(n int) {
	w.Helper()
	if err := w.AddGroup(context.Background(), w.in, Group{Name: "web", ImageID: w.linux(), Size: n, Tags: map[string]string{"role": "web"}}); err != nil {
		w.Fatal(err)
	}
	w.given("ec2 CreateLaunchTemplateVersion", m{"LaunchTemplateName": "web", "SourceVersion": "1", "LaunchTemplateData": m{"InstanceType": "m6i.xlarge"}})
}

// group counts the instances of "web" by type and state.
func (w *world) group() map[string]int {
	w.Helper()
	out := w.do("autoscaling DescribeAutoScalingGroups", m{"AutoScalingGroupNames": []any{"web"}})
	count := map[string]int{}
	for n := range length(out, "AutoScalingGroups", 0, "Instances") {
		i := at(out, "AutoScalingGroups", 0, "Instances", n)
		count[text(i, "InstanceType")+" "+text(i, "LifecycleState")]++
	}
	return count
}

func (w *world) refresh() []any {
	w.Helper()
	r := at(w.do("autoscaling DescribeInstanceRefreshes", m{"AutoScalingGroupName": "web"}), "InstanceRefreshes", 0)
	return []any{at(r, "Status"), at(r, "PercentageComplete")}
}

func toVersion2(prefs m) m {
	return m{"AutoScalingGroupName": "web", "Preferences": prefs,
		"DesiredConfiguration": m{"LaunchTemplate": m{"LaunchTemplateName": "web", "Version": "2"}}}
}

func TestGroups(t *testing.T) {
	w := newWorld(t, Options{})
	w.asg(3)
	w.is("in service", w.group(), map[string]int{"m6i.large InService": 3})
	w.do("autoscaling UpdateAutoScalingGroup", m{"AutoScalingGroupName": "web", "DesiredCapacity": 5})
	w.is("grown", w.group(), map[string]int{"m6i.large InService": 5})
	w.fails("ValidationError", "autoscaling UpdateAutoScalingGroup", m{"AutoScalingGroupName": "web", "DesiredCapacity": 50})
	w.fails("ValidationError", "autoscaling UpdateAutoScalingGroup", m{"AutoScalingGroupName": "web", "LaunchTemplate": m{"LaunchTemplateName": "none"}})
	w.do("autoscaling UpdateAutoScalingGroup", m{"AutoScalingGroupName": "web", "MinSize": 1, "DesiredCapacity": 1})
	w.is("shrunk", w.group(), map[string]int{"m6i.large InService": 1})
	w.is("untagged", len(w.Untagged()), 0)
	w.is("found by the group's tags", length(w.do("ec2 DescribeInstances", m{"Filters": []any{m{"Name": "tag:aws:autoscaling:groupName", "Values": []any{"web"}}, m{"Name": "instance-state-name", "Values": []any{"running"}}}}), "Reservations"), 1)
	w.fails("AlreadyExists", "autoscaling CreateAutoScalingGroup", m{"AutoScalingGroupName": "web", "MinSize": 1, "MaxSize": 1})
	w.fails("ValidationError", "autoscaling CreateAutoScalingGroup", m{"AutoScalingGroupName": "new", "MinSize": 1, "MaxSize": 1})
	// What is terminated behind its back is replaced.
	id := text(w.do("autoscaling DescribeAutoScalingGroups", nil), "AutoScalingGroups", 0, "Instances", 0, "InstanceId")
	w.do("ec2 TerminateInstances", m{"InstanceIds": []any{id}})
	w.is("replaced", w.group(), map[string]int{"m6i.large InService": 1})
}

func TestInstanceRefresh(t *testing.T) {
	delays := Delays{Replace: Range{time.Minute, time.Minute}}
	begin := func(o Options, prefs m) *world {
		o.Delays = delays
		w := newWorld(t, o)
		w.asg(4)
		w.do("autoscaling StartInstanceRefresh", toVersion2(prefs))
		return w
	}
	half := m{"MinHealthyPercentage": 50}

	w := begin(Options{}, half)
	w.fails("InstanceRefreshInProgress", "autoscaling StartInstanceRefresh", toVersion2(half))
	w.is("begun", []any{w.refresh(), w.group()}, []any{[]any{"InProgress", 0}, map[string]int{"m6i.large InService": 2, "m6i.xlarge InService": 2}})
	w.pass(time.Minute)
	w.is("half", w.refresh(), []any{"InProgress", 50})
	w.pass(time.Minute)
	w.is("done", []any{w.refresh(), w.group()}, []any{[]any{"Successful", 100}, map[string]int{"m6i.xlarge InService": 4}})
	w.is("kept", text(w.do("autoscaling DescribeAutoScalingGroups", nil), "AutoScalingGroups", 0, "LaunchTemplate", "Version"), "2")
	w.fails("ActiveInstanceRefreshNotFound", "autoscaling CancelInstanceRefresh", m{"AutoScalingGroupName": "web"})
	// Nothing left to do for those that match.
	w.do("autoscaling StartInstanceRefresh", toVersion2(m{"SkipMatching": true}))
	w.is("matching", w.refresh(), []any{"Successful", 100})

	w = begin(Options{}, half)
	w.pass(time.Minute)
	w.do("autoscaling CancelInstanceRefresh", m{"AutoScalingGroupName": "web"})
	w.is("cancelling", w.refresh()[0], "Cancelling")
	w.pass(time.Minute)
	w.is("cancelled", []any{w.refresh()[0], w.group()}, []any{"Cancelled", map[string]int{"m6i.xlarge InService": 4}})

	w = begin(Options{}, half)
	w.pass(time.Minute - 1)
	w.do("autoscaling RollbackInstanceRefresh", m{"AutoScalingGroupName": "web"})
	w.pass(5 * time.Minute)
	w.is("rolled back", []any{w.refresh()[0], w.group()}, []any{"RollbackSuccessful", map[string]int{"m6i.large InService": 4}})

	w = begin(Options{}, m{"MinHealthyPercentage": 50, "CheckpointPercentages": []any{50, 100}, "CheckpointDelay": 600, "BakeTime": 60})
	w.pass(5 * time.Minute)
	w.is("at the checkpoint", w.refresh(), []any{"InProgress", 50})
	w.pass(7*time.Minute + 1)
	w.is("second checkpoint passed", w.refresh(), []any{"Baking", 100})
	w.pass(time.Hour)
	w.is("after it", w.refresh(), []any{"Successful", 100})

	bad := func(r Resource) string {
		if r.Tags["aws:ec2launchtemplate:version"] == "2" {
			return "it does not boot"
		}
		return ""
	}
	w = begin(Options{Fails: bad}, half)
	w.is("failed", w.refresh()[0], "Failed")
	w = begin(Options{Fails: bad}, m{"MinHealthyPercentage": 50, "AutoRollback": true})
	w.pass(5 * time.Minute)
	w.is("rolled back by itself", []any{w.refresh()[0], w.group()}, []any{"RollbackSuccessful", map[string]int{"m6i.large InService": 4}})

	// Without a desired configuration there is nothing to go back to.
	w = newWorld(t, Options{Delays: delays})
	w.asg(2)
	w.do("autoscaling StartInstanceRefresh", m{"AutoScalingGroupName": "web"})
	w.fails("IrreversibleInstanceRefresh", "autoscaling RollbackInstanceRefresh", m{"AutoScalingGroupName": "web"})
}
