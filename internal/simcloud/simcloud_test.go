package simcloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/almanac-run/almanac/internal/awsapi"
)

// world is a cloud with a clock that a test turns.
type world struct {
	testing.TB
	*Cloud
	mu sync.Mutex
	at time.Time
	in awsapi.Scope
}

type m = map[string]any

func newWorld(t testing.TB, o Options) *world {
	t.Helper()
	w := &world{TB: t, at: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), in: awsapi.Scope{Region: "eu-west-1"}}
	o.Clock = func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.at
	}
	w.Cloud = New(o)
	t.Cleanup(w.Close)
	return w
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = w.at.Add(d)
}

// do makes a call that must succeed. what is "ec2 RunInstances".
func (w *world) do(what string, members m) m {
	w.Helper()
	out, err := w.try(what, members)
	if err != nil {
		w.Fatal(err)
	}
	return out
}

func (w *world) try(what string, members m) (m, error) {
	service, operation, _ := strings.Cut(what, " ")
	out, err := w.Call(context.Background(), w.in, service, operation, members)
	if odd := oddKind(out); odd != "" {
		w.Errorf("%s answers %s", what, odd)
	}
	return out, err
}

// oddKind finds a value that is none of those of awsapi.Caller.
func oddKind(v any) string {
	switch v := v.(type) {
	case string, bool, int64, float64, time.Time, []byte:
		return ""
	case []any:
		for _, one := range v {
			if odd := oddKind(one); odd != "" {
				return odd
			}
		}
		return ""
	case m:
		for name, one := range v {
			if odd := oddKind(one); odd != "" {
				return name + ": " + odd
			}
		}
		return ""
	}
	return fmt.Sprintf("%T", v)
}

// fails makes a call that must fail with a code.
func (w *world) fails(code, what string, members m) *awsapi.Error {
	w.Helper()
	out, err := w.try(what, members)
	var answer *awsapi.Error
	if !errors.As(err, &answer) || answer.Code != code {
		w.Fatalf("%s %v: %v, %v; want error %s", what, members, out, err, code)
	}
	return answer
}

// given makes a call of setting up.
func (w *world) given(what string, members m) m {
	w.Helper()
	service, operation, _ := strings.Cut(what, " ")
	out, err := w.Given().Call(context.Background(), w.in, service, operation, members)
	if err != nil {
		w.Fatal(err)
	}
	return out
}

// at finds a value by names and indices: at(out, "Instances", 0, "InstanceId").
func at(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			o, _ := v.(m)
			v = o[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

func text(v any, path ...any) string {
	s, _ := at(v, path...).(string)
	return s
}

func length(v any, path ...any) int {
	l, _ := at(v, path...).([]any)
	return len(l)
}

func (w *world) is(what string, got, want any) {
	w.Helper()
	g, err := json.Marshal(got)
	if err != nil {
		w.Fatal(err)
	}
	x, err := json.Marshal(want)
	if err != nil {
		w.Fatal(err)
	}
	if string(g) != string(x) {
		w.Fatalf("%s: got %s, want %s", what, g, x)
	}
}

// linux is the public image of Amazon Linux.
func (w *world) linux() string {
	w.Helper()
	return text(w.given("ssm GetParameter", m{"Name": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"}), "Parameter", "Value")
}

// tags as the maker of a step would give them.
func tags(kind, token string) []any {
	return []any{m{"ResourceType": kind, "Tags": []any{
		m{"Key": "almanac:execution", "Value": "e1"}, m{"Key": "almanac:step", "Value": "s"}, m{"Key": "almanac:token", "Value": token},
	}}}
}

func (w *world) runInput(token string, with m) m {
	in := m{"ImageId": w.linux(), "InstanceType": "m6i.large", "MinCount": 1, "MaxCount": 1, "IamInstanceProfile": m{"Name": "p"}}
	if token != "" {
		in["ClientToken"] = token
		in["TagSpecifications"] = tags("instance", token)
	}
	for k, v := range with {
		in[k] = v
	}
	return in
}

// instances sets up n instances that run and have agents.
func (w *world) agents(n int) []string {
	w.Helper()
	out := w.given("ec2 RunInstances", w.runInput("", m{"MinCount": n, "MaxCount": n, "TagSpecifications": []any{
		m{"ResourceType": "instance", "Tags": []any{m{"Key": "role", "Value": "web"}}},
	}}))
	var ids []string
	for i := range n {
		ids = append(ids, text(out, "Instances", i, "InstanceId"))
	}
	return ids
}

func (w *world) ec2State(id string) string {
	w.Helper()
	return text(w.do("ec2 DescribeInstances", m{"InstanceIds": []any{id}}), "Reservations", 0, "Instances", 0, "State", "Name")
}

func TestEveryOperationHasMembers(t *testing.T) {
	n := 0
	for service, all := range operations {
		if _, ok := servicesRules[service]; !ok {
			t.Errorf("%s has no rules", service)
		}
		for operation := range all {
			n++
			if _, ok := members[service+" "+operation]; !ok {
				t.Errorf("%s %s has no members", service, operation)
			}
		}
	}
	if n != len(members) {
		t.Errorf("%d operations, %d in members", n, len(members))
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t, Options{})
	ami := w.linux()
	arm := text(w.do("ssm GetParameter", m{"Name": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"}), "Parameter", "Value")
	run := func(with m) m { return w.runInput("", with) }
	for _, tt := range []struct {
		what string
		in   m
		code string
	}{
		{"ec2 CreateKeyPair", m{}, "NotSimulated"},
		{"glacier Do", m{}, "NotSimulated"},
		{"ec2 RunInstances", m{"MinCount": 1}, "MissingParameter"},
		{"ec2 RunInstances", m{"MinCount": 1, "MaxCount": 1}, "MissingParameter"}, // no image
		{"ec2 RunInstances", run(m{"ImageID": ami}), "UnknownParameter"},
		{"ec2 RunInstances", run(m{"MinCount": "1"}), "InvalidParameterValue"},
		{"ec2 RunInstances", run(m{"MinCount": 2}), "InvalidParameterValue"},
		{"ec2 RunInstances", run(m{"ImageId": "ami-0123456789abcdef0"}), "InvalidAMIID.NotFound"},
		{"ec2 RunInstances", run(m{"ImageId": "latest"}), "InvalidAMIID.Malformed"},
		{"ec2 RunInstances", run(m{"ImageId": arm}), "InvalidParameterValue"}, // architecture
		{"ec2 RunInstances", run(m{"InstanceType": "large"}), "InvalidParameterValue"},
		{"ec2 RunInstances", run(m{"SubnetId": "subnet-0123456789abcdef0"}), "InvalidSubnetID.NotFound"},
		{"ec2 RunInstances", run(m{"SecurityGroupIds": []any{"sg-0123456789abcdef0"}}), "InvalidGroup.NotFound"},
		{"ec2 RunInstances", run(m{"Placement": m{"AvailabilityZone": "us-east-1a"}}), "InvalidParameterValue"},
		{"ec2 RunInstances", run(m{"TagSpecifications": tags("image", "t")}), "InvalidParameterValue"},
		{"ec2 RunInstances", run(m{"DryRun": true}), "DryRunOperation"},
		{"ec2 RunInstances", run(m{"LaunchTemplate": m{"LaunchTemplateName": "none"}}), "InvalidLaunchTemplateName.NotFoundException"},
		{"ec2 DescribeInstances", m{"InstanceIds": []any{"i-0123456789abcdef0"}}, "InvalidInstanceID.NotFound"},
		{"ec2 DescribeInstances", m{"InstanceIds": []any{"web-1"}}, "InvalidInstanceID.Malformed"},
		{"ec2 DescribeInstances", m{"Filters": []any{m{"Name": "image", "Values": []any{"x"}}}}, "InvalidParameterValue"},
		{"ec2 DescribeInstances", m{"Filters": []any{m{"Name": "tenancy", "Values": []any{"host"}}}}, "NotSimulated"}, // AWS knows it
		{"ec2 RunInstances", run(m{"InstanceMarketOptions": m{"MarketType": "spot"}}), "NotSimulated"},
		{"ec2 CreateTags", m{"Resources": []any{ami}, "Tags": []any{m{"Key": "aws:x", "Value": ""}}}, "InvalidParameterValue"},
		{"ec2 CreateTags", m{"Resources": []any{"i-0123456789abcdef0"}, "Tags": []any{m{"Key": "x", "Value": ""}}}, "InvalidInstanceID.NotFound"},
		{"ec2 DeregisterImage", m{"ImageId": ami}, "AuthFailure"}, // not ours
		{"ec2 DeleteSnapshot", m{"SnapshotId": "snap-0123456789abcdef0"}, "InvalidSnapshot.NotFound"},
		{"ec2 CreateSnapshot", m{"VolumeId": "vol-0123456789abcdef0"}, "InvalidVolume.NotFound"},
		{"ec2 DescribeRegions", m{"RegionNames": []any{"eu-wset-1"}}, "InvalidParameterValue"},
		{"ssm GetParameter", m{}, "ValidationException"},
		{"ssm GetParameter", m{"Name": "none"}, "ParameterNotFound"},
		{"autoscaling StartInstanceRefresh", m{"AutoScalingGroupName": "none"}, "ValidationError"},
		{"s3 GetObject", m{"Bucket": "none", "Key": "k"}, "NoSuchBucket"},
		{"lambda Invoke", m{"FunctionName": "none"}, "ResourceNotFoundException"},
		{"sts AssumeRole", m{"RoleArn": "admin", "RoleSessionName": "s"}, "ValidationError"},
		{"sns Publish", m{"TopicArn": "arn:aws:sns:eu-west-1:123456789012:none", "Message": "m"}, "NotFound"},
		{"sqs SendMessage", m{"QueueUrl": "none", "MessageBody": "m"}, "AWS.SimpleQueueService.NonExistentQueue"},
		{"kms GenerateDataKey", m{"KeyId": "none", "KeySpec": "AES_256"}, "NotFoundException"},
		{"securityhub BatchImportFindings", m{"Findings": []any{}}, "InvalidInputException"},
	} {
		w.fails(tt.code, tt.what, tt.in)
	}
	if live := w.Live(); len(live) != 0 {
		t.Errorf("refused calls left %v", live)
	}
	w.in.Region = "eu-wset-1"
	w.fails("NoEndpoint", "ec2 DescribeInstances", nil)
	w.in = awsapi.Scope{Account: "999999999999"}
	w.fails("AccountMismatch", "sts GetCallerIdentity", nil)
	w.in = awsapi.Scope{Account: "999999999999", Role: "ops"}
	w.is("account", w.do("sts GetCallerIdentity", nil)["Account"], "999999999999")
	w.in = awsapi.Scope{Role: "arn:aws:iam::888888888888:role/x/ops"}
	w.is("account", w.do("sts GetCallerIdentity", nil)["Account"], "888888888888")
}

// Emulators make one instance for each of these calls.
func TestOneTokenMakesOneInstance(t *testing.T) {
	w := newWorld(t, Options{Delays: RealDelays(), Limits: Limits{Resources: RealLimits().Resources}})
	in := w.runInput("tok", nil)
	var wait sync.WaitGroup
	ids := make([]string, 8)
	for n := range ids {
		wait.Go(func() {
			out, err := w.try("ec2 RunInstances", in)
			if err != nil {
				t.Error(err)
			}
			ids[n] = text(out, "Instances", 0, "InstanceId")
		})
	}
	wait.Wait()
	if u := slices.Compact(slices.Clone(ids)); len(u) != 1 || u[0] == "" {
		t.Errorf("made %v", ids)
	}
	live := slices.DeleteFunc(w.Live(), func(r Resource) bool { return r.Kind != "instance" })
	w.is("instances", len(live), 1)
}

func TestTokens(t *testing.T) {
	w := newWorld(t, Options{Delays: Delays{Shutdown: Range{time.Minute, time.Minute}}})
	first := text(w.do("ec2 RunInstances", w.runInput("tok", nil)), "Instances", 0, "InstanceId")

	// Same parameters: the same instance. Other parameters: refused.
	w.is("again", text(w.do("ec2 RunInstances", w.runInput("tok", nil)), "Instances", 0, "InstanceId"), first)
	w.fails("IdempotentParameterMismatch", "ec2 RunInstances", w.runInput("tok", m{"InstanceType": "m6i.xlarge"}))

	// Another region or account is another token.
	elsewhere := func(in awsapi.Scope) string {
		was := w.in
		defer func() { w.in = was }()
		w.in = in
		return text(w.do("ec2 RunInstances", w.runInput("tok", nil)), "Instances", 0, "InstanceId")
	}
	if elsewhere(awsapi.Scope{Region: "us-east-1"}) == first || elsewhere(awsapi.Scope{Region: "eu-west-1", Account: "999999999999", Role: "r"}) == first {
		t.Error("a token means the same in another place")
	}

	// Another zone is another token: a retry there makes a second instance.
	zone := func(z string) string {
		return text(w.do("ec2 RunInstances", w.runInput("tok", m{"Placement": m{"AvailabilityZone": z}})), "Instances", 0, "InstanceId")
	}
	a, b := zone("eu-west-1a"), zone("eu-west-1b")
	if a == b || a == first || zone("eu-west-1a") != a {
		t.Errorf("zones: %s %s %s", first, a, b)
	}

	// A refused call uses no token up.
	w.fails("InvalidAMIID.NotFound", "ec2 RunInstances", w.runInput("other", m{"ImageId": "ami-0123456789abcdef0"}))
	w.do("ec2 RunInstances", w.runInput("other", nil))

	// What the token made is gone.
	w.do("ec2 TerminateInstances", m{"InstanceIds": []any{first}})
	w.fails("IdempotentInstanceTerminated", "ec2 RunInstances", w.runInput("tok", nil))
	w.pass(2 * time.Hour)
	w.fails("InvalidInstanceID.NotFound", "ec2 DescribeInstances", m{"InstanceIds": []any{first}})
	w.fails("IdempotentInstanceTerminated", "ec2 RunInstances", w.runInput("tok", nil))

	// Look-up by token.
	out := w.do("ec2 DescribeInstances", m{"Filters": []any{m{"Name": "client-token", "Values": []any{"other"}}}})
	w.is("found", length(out, "Reservations"), 1)
	w.fails("InvalidParameterValue", "ec2 RunInstances", w.runInput(strings.Repeat("x", 65), nil))
}

// NotFound after RunInstances means nothing: not even that it cannot cost money.
func TestVisibility(t *testing.T) {
	delays := Delays{Visible: Range{0, time.Minute}, Launch: Range{time.Second, time.Second}}
	late, flaps, costs := 0, 0, 0
	for seed := range uint64(40) {
		w := newWorld(t, Options{Seed: seed, Delays: delays})
		id := text(w.do("ec2 RunInstances", w.runInput("tok", nil)), "Instances", 0, "InstanceId")
		if _, err := w.try("ec2 TerminateInstances", m{"InstanceIds": []any{id}}); err != nil {
			late++
			w.pass(2 * time.Second)
			var answer *awsapi.Error
			if !errors.As(err, &answer) || answer.Code != "InvalidInstanceID.NotFound" || answer.Class != awsapi.NotFound {
				t.Fatal(err)
			}
			if live := w.Live(); len(live) == 2 { // the instance and its volume
				costs++
			}
		}
		seen, flapped := false, false
		for range 70 {
			out, err := w.try("ec2 DescribeInstances", m{"Filters": []any{m{"Name": "client-token", "Values": []any{"tok"}}}})
			if err != nil {
				t.Fatal(err)
			}
			now := length(out, "Reservations") == 1
			flapped = flapped || seen && !now
			seen = now
			w.pass(time.Second)
		}
		if !seen {
			t.Fatalf("seed %d: never seen", seed)
		}
		if flapped {
			flaps++
		}
	}
	if late < 20 || costs != late || flaps == 0 {
		t.Errorf("late %d, still costing %d, seen and then not %d", late, costs, flaps)
	}
}

func TestInstanceStates(t *testing.T) {
	min := Range{time.Minute, time.Minute}
	w := newWorld(t, Options{Delays: Delays{Launch: min, Stop: min, Shutdown: min, Checks: min}})
	out := w.do("ec2 RunInstances", w.runInput("tok", nil))
	id := text(out, "Instances", 0, "InstanceId")
	one := m{"InstanceIds": []any{id}}
	w.is("answered", text(out, "Instances", 0, "State", "Name"), "pending")
	w.fails("IncorrectInstanceState", "ec2 StopInstances", one)
	w.is("status of what does not run", length(w.do("ec2 DescribeInstanceStatus", one), "InstanceStatuses"), 0)
	w.pass(time.Minute)
	w.is("running", w.ec2State(id), "running")
	health := func() string {
		return text(w.do("ec2 DescribeInstanceStatus", one), "InstanceStatuses", 0, "InstanceStatus", "Status")
	}
	w.is("checks", health(), "initializing")
	w.pass(time.Minute)
	w.is("checks", health(), "ok")
	w.do("ec2 RebootInstances", one)
	w.is("checks after a reboot", health(), "initializing")
	stopped := w.do("ec2 StopInstances", one)
	w.is("stop", []any{text(stopped, "StoppingInstances", 0, "PreviousState", "Name"), text(stopped, "StoppingInstances", 0, "CurrentState", "Name")}, []any{"running", "stopping"})
	w.fails("IncorrectInstanceState", "ec2 StartInstances", one)
	w.fails("IncorrectState", "ec2 RebootInstances", one)
	w.pass(time.Minute)
	w.is("stopped", w.ec2State(id), "stopped")
	w.do("ec2 StopInstances", one) // already so
	w.do("ec2 StartInstances", one)
	w.pass(time.Minute)
	w.do("ec2 StartInstances", one) // already so
	w.do("ec2 TerminateInstances", one)
	w.is("terminating", w.ec2State(id), "shutting-down")
	w.pass(time.Minute)
	w.do("ec2 TerminateInstances", one) // already so
	w.is("terminated", w.ec2State(id), "terminated")
	w.is("live", w.Live(), []Resource{})
	w.pass(time.Hour)
	w.fails("InvalidInstanceID.NotFound", "ec2 TerminateInstances", one)

	// All or none.
	id = text(w.do("ec2 RunInstances", w.runInput("tok2", nil)), "Instances", 0, "InstanceId")
	w.fails("InvalidInstanceID.NotFound", "ec2 TerminateInstances", m{"InstanceIds": []any{id, "i-0123456789abcdef0"}})
	w.is("untouched", w.ec2State(id), "pending")

	p := text(w.do("ec2 RunInstances", w.runInput("tok3", m{"DisableApiTermination": true})), "Instances", 0, "InstanceId")
	w.fails("OperationNotPermitted", "ec2 TerminateInstances", m{"InstanceIds": []any{p}})
}

func TestCapacityAndLimits(t *testing.T) {
	w := newWorld(t, Options{Limits: Limits{
		Instances:  3,
		NoCapacity: func(zone, kind string) bool { return kind == "p5.48xlarge" && zone != "eu-west-1c" },
	}})
	big := func(token string, with m) m {
		with["InstanceType"] = "p5.48xlarge"
		return w.runInput(token, with)
	}
	w.fails("InsufficientInstanceCapacity", "ec2 RunInstances", big("a", m{"Placement": m{"AvailabilityZone": "eu-west-1a"}}))
	out := w.do("ec2 RunInstances", big("b", m{}))
	w.is("zone", text(out, "Instances", 0, "Placement", "AvailabilityZone"), "eu-west-1c")

	w.do("ec2 RunInstances", w.runInput("c", m{"MaxCount": 2}))
	w.fails("InstanceLimitExceeded", "ec2 RunInstances", w.runInput("d", nil))
	// Terminated instances count for a while.
	w.do("ec2 TerminateInstances", m{"InstanceIds": []any{text(out, "Instances", 0, "InstanceId")}})
	w.fails("InstanceLimitExceeded", "ec2 RunInstances", w.runInput("d", nil))
	w.pass(time.Hour)
	w.do("ec2 RunInstances", w.runInput("d", nil))
}

func TestThrottling(t *testing.T) {
	w := newWorld(t, Options{Limits: Limits{
		Requests: map[string]Rate{
			"ec2 RunInstances": {2, 1}, "ec2": {1, 1}, "ssm": {1, 1}, "autoscaling": {1, 1}, "s3": {1, 1}, "lambda": {1, 1},
		},
		Resources: Rate{5, 1},
	}})
	run := func(token string, n int) m { return w.runInput(token, m{"MaxCount": n, "MinCount": n}) }
	w.do("ec2 RunInstances", run("a", 1))
	w.do("ec2 RunInstances", run("b", 1))
	if e := w.fails("RequestLimitExceeded", "ec2 RunInstances", run("c", 1)); e.Class != awsapi.Throttled || e.Status != 503 {
		t.Errorf("%+v", e)
	}
	w.do("ec2 DescribeImages", nil) // a bucket of its own
	w.fails("RequestLimitExceeded", "ec2 DescribeImages", nil)
	w.do("ec2 DescribeInstances", nil)
	w.pass(time.Second)
	w.do("ec2 RunInstances", run("c", 1))
	// The second bucket: one request, too many instances.
	w.pass(time.Second)
	w.fails("RequestLimitExceeded", "ec2 RunInstances", run("d", 6))
	w.pass(3 * time.Second)
	w.do("ec2 RunInstances", run("d", 5))

	w.in.Region = "us-east-1" // the buckets of a region are its own
	w.do("ec2 DescribeImages", nil)
	for what, code := range map[string]string{
		"ssm DescribeInstanceInformation": "ThrottlingException", "autoscaling DescribeAutoScalingGroups": "Throttling",
	} {
		w.do(what, nil)
		if e := w.fails(code, what, nil); e.Class != awsapi.Throttled {
			t.Errorf("%+v", e)
		}
	}
}

func TestFaults(t *testing.T) {
	w := newWorld(t, Options{Faults: []Fault{
		{Operation: "RunInstances", When: func(c Call) bool { return c.Token == "lost" }, Kind: Lose},
		{Operation: "RunInstances", When: func(c Call) bool { return c.Token == "refused" }, Kind: Refuse, Code: "UnauthorizedOperation"},
		{Operation: "DescribeRegions", From: 2, Times: 2, Kind: Refuse},
		{Service: "s3", Kind: Throttle, Times: 2, Each: true},
		{Service: "sts", Kind: Delay, Wait: time.Hour, Times: -1},
		{Service: "kms", Kind: Hang},
		{Operation: "RunInstances", When: func(c Call) bool { return c.Token == "dropped" }, Kind: Drop},
		{Operation: "RunInstances", When: func(c Call) bool { return c.Token == "500" }, Kind: Lose, Code: "InternalError"},
		{Service: "ssm", From: 2, Kind: Refuse, Code: "ExpiredTokenException"},
	}})
	var waited time.Duration
	w.Sleep = func(_ context.Context, d time.Duration) error { waited += d; return nil }

	// It happened, and nobody said so. The same token finds it.
	e := w.fails("ConnectionError", "ec2 RunInstances", w.runInput("lost", nil))
	if e.Class != awsapi.Unavailable || e.Status != 0 || e.RequestID != "" {
		t.Errorf("%+v", e)
	}
	w.is("live", len(w.Live()), 2)
	w.do("ec2 RunInstances", w.runInput("lost", nil))
	w.is("live", len(w.Live()), 2)

	if e := w.fails("UnauthorizedOperation", "ec2 RunInstances", w.runInput("refused", nil)); e.Class != awsapi.Denied {
		t.Errorf("%+v", e)
	}
	w.is("live", len(w.Live()), 2)

	// Without an effect it looks the same.
	lost, dropped := e, w.fails("ConnectionError", "ec2 RunInstances", w.runInput("dropped", nil))
	w.is("class", []any{dropped.Class, dropped.Status}, []any{lost.Class, lost.Status})
	w.is("live", len(w.Live()), 2)
	w.do("ec2 TerminateInstances", m{"InstanceIds": []any{w.Live()[0].ID}})
	if e := w.fails("InternalError", "ec2 RunInstances", w.runInput("500", nil)); e.Class != awsapi.Unavailable || e.Status != 500 {
		t.Errorf("%+v", e)
	}
	w.is("live", len(w.Live()), 2)
	w.do("ssm DescribeInstanceInformation", nil)
	if e := w.fails("ExpiredTokenException", "ssm DescribeInstanceInformation", nil); e.Class != awsapi.Denied {
		t.Errorf("%+v", e)
	}

	w.do("ec2 DescribeRegions", nil)
	w.fails("InternalError", "ec2 DescribeRegions", nil)
	w.fails("InternalError", "ec2 DescribeRegions", nil)
	w.do("ec2 DescribeRegions", nil)

	for _, name := range []string{"bucket-a", "bucket-b"} { // each twice, in whatever order
		w.fails("SlowDown", "s3 HeadBucket", m{"Bucket": name})
	}
	for _, name := range []string{"bucket-b", "bucket-a"} {
		w.fails("SlowDown", "s3 HeadBucket", m{"Bucket": name})
		w.fails("404", "s3 HeadBucket", m{"Bucket": name})
	}

	w.do("sts GetCallerIdentity", nil)
	w.is("waited", waited, time.Hour)

	ctx, stop := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer stop()
	if _, err := w.Call(ctx, w.in, "kms", "CreateKey", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hang: %v", err)
	}
	w.is("live", len(w.Live()), 2)

	ledger := w.Ledger()
	w.is("first", ledger[0].String()[:len("1 eu-west-1 ec2 RunInstances token=lost met lost answer error=ConnectionError; made instance i-")],
		"1 eu-west-1 ec2 RunInstances token=lost met lost answer error=ConnectionError; made instance i-")
	last := ledger[len(ledger)-1]
	if last.Fault != string(Hang) || last.Error != "no answer" || last.Seq != len(ledger) {
		t.Errorf("%+v", last)
	}
}

// What a call meets depends on the seed and on what it says, not on who comes first.
func TestChanceDoesNotDependOnOrder(t *testing.T) {
	meets := func(seed uint64, order []int, together bool) map[string]string {
		w := newWorld(t, Options{Seed: seed, Chance: Chance{Refuse: 0.1, Lose: 0.1, Throttle: 0.1}})
		w.linux()
		var mu sync.Mutex
		got := map[string]string{}
		one := func(n int) {
			token := fmt.Sprint("tok", n)
			out, err := w.try("ec2 RunInstances", w.runInput(token, nil))
			mu.Lock()
			defer mu.Unlock()
			got[token] = text(out, "Instances", 0, "InstanceId")
			var e *awsapi.Error
			if errors.As(err, &e) {
				got[token] = e.Code
			}
		}
		var wait sync.WaitGroup
		for _, n := range order {
			if together {
				wait.Go(func() { one(n) })
			} else {
				one(n)
			}
		}
		wait.Wait()
		return got
	}
	var order []int
	for n := range 60 {
		order = append(order, n)
	}
	back := slices.Clone(order)
	slices.Reverse(back)
	first := meets(1, order, false)
	for _, other := range []map[string]string{meets(1, back, false), meets(1, order, true)} {
		for token, got := range first {
			if other[token] != got {
				t.Errorf("%s: %s and %s", token, got, other[token])
			}
		}
	}
	kinds := map[string]int{}
	for _, got := range first {
		if !strings.HasPrefix(got, "i-") {
			kinds[got]++
		}
	}
	if len(kinds) != 3 {
		t.Errorf("faults met: %v", kinds)
	}
	if fmt.Sprint(meets(2, order, false)) == fmt.Sprint(first) {
		t.Error("another seed is the same world")
	}
}

// story is a run of calls that depends on many delays.
func story(t *testing.T, seed uint64) string {
	w := newWorld(t, Options{Seed: seed, Delays: RealDelays(), Limits: RealLimits(), Chance: Chance{Lose: 0.05, Throttle: 0.1}})
	if err := w.AddGroup(context.Background(), w.in, Group{Name: "web", ImageID: w.linux(), Size: 4}); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	for n := range 30 {
		token := fmt.Sprint("tok", n/3)
		for _, call := range []struct {
			what string
			in   m
		}{
			{"ec2 RunInstances", w.runInput(token, nil)},
			{"ec2 DescribeInstances", nil},
			{"autoscaling StartInstanceRefresh", m{"AutoScalingGroupName": "web"}},
			{"ssm SendCommand", m{"DocumentName": "AWS-RunShellScript", "Targets": []any{m{"Key": "InstanceIds", "Values": []any{"*"}}}, "Parameters": m{"commands": []any{"true"}}}},
			{"ssm ListCommandInvocations", nil},
		} {
			out, err := w.try(call.what, call.in)
			answer, jsonErr := json.Marshal(out)
			fmt.Fprintln(&log, string(answer), err, jsonErr)
		}
		w.pass(40 * time.Second)
	}
	for _, e := range w.Ledger() {
		fmt.Fprintln(&log, e)
	}
	fmt.Fprintln(&log, w.Live())
	return log.String()
}

func TestSameSeedSameLedger(t *testing.T) {
	first := story(t, 7)
	if again := story(t, 7); again != first {
		t.Error("the same seed and calls give another world")
	}
	if story(t, 8) == first {
		t.Error("another seed gives the same world")
	}
}

func TestLedger(t *testing.T) {
	w := newWorld(t, Options{})
	ids := w.agents(2)
	before := w.Live()
	w.is("nothing of setting up is in the ledger", len(w.Ledger()), 0)

	id := text(w.do("ec2 RunInstances", w.runInput("tok", nil)), "Instances", 0, "InstanceId")
	e := w.Ledger()[0]
	w.is("marks", []any{e.Token, e.Execution, e.Step, e.Effects[0].Kind, e.Effects[0].ID}, []any{"tok", "e1", "s", "instance", id})
	w.is("untagged", len(w.Untagged()), 0)

	bare := w.runInput("", nil)
	other := text(w.do("ec2 RunInstances", bare), "Instances", 0, "InstanceId")
	w.is("untagged", []any{len(w.Untagged()), w.Untagged()[0].ID}, []any{1, other})

	// The snapshot behind an image needs a tag of its own.
	w.do("ec2 CreateImage", m{"InstanceId": id, "Name": "web-1", "TagSpecifications": tags("image", "img")})
	w.is("untagged", []any{len(w.Untagged()), w.Untagged()[1].Kind}, []any{2, "snapshot"})

	w.do("ec2 TerminateInstances", m{"InstanceIds": []any{ids[0]}})
	w.do("ec2 CreateTags", m{"Resources": []any{ids[1]}, "Tags": []any{m{"Key": "x", "Value": "1"}}})
	d := Diff(before, w.Live())
	w.is("difference", []any{len(d.Made), len(d.Removed), len(d.Changed), d.Empty()}, []any{6, 2, 1, false})
	w.is("text", strings.Split(d.String(), " ")[0], "+")
	w.is("none", Diff(before, before).Empty(), true)

	// What was put back is not what was never touched.
	before = w.Live()
	for range 2 {
		w.do("ec2 CreateTags", m{"Resources": []any{ids[1]}, "Tags": []any{m{"Key": "x", "Value": "1"}}})
	}
	w.is("changed", Diff(before, w.Live()).Changed[0].ID, ids[1])
}

// What a caller does with its input and its answer afterwards is its own affair.
func TestNothingIsShared(t *testing.T) {
	w := newWorld(t, Options{})
	data := m{"ImageId": w.linux(), "TagSpecifications": []m{{"ResourceType": "instance", "Tags": []map[string]string{{"Key": "a", "Value": "b"}}}}}
	w.do("ec2 CreateLaunchTemplate", m{"LaunchTemplateName": "web", "LaunchTemplateData": data})
	data["ImageId"] = "changed"
	describe := func() m {
		out := w.do("ec2 DescribeLaunchTemplateVersions", m{"LaunchTemplateName": "web", "Versions": []string{"1"}})
		return at(out, "LaunchTemplateVersions", 0, "LaunchTemplateData").(m)
	}
	describe()["ImageId"] = "changed"
	at(describe(), "TagSpecifications", 0, "Tags", 0).(m)["Key"] = "changed"
	w.is("kept", []any{describe()["ImageId"], at(describe(), "TagSpecifications", 0, "Tags", 0, "Key")}, []any{w.linux(), "a"})
}

func TestDelays(t *testing.T) {
	fast := RealDelays().Times(0.1)
	all := reflect.ValueOf(fast)
	for n := range all.NumField() {
		was := reflect.ValueOf(RealDelays()).Field(n).Interface().(Range)
		if got := all.Field(n).Interface().(Range); got.Max != was.Max/10 {
			t.Errorf("%s: %v of %v", all.Type().Field(n).Name, got, was)
		}
	}
}

func TestPages(t *testing.T) {
	w := newWorld(t, Options{PageSize: 3})
	ids := w.agents(7)
	var seen []string
	in := m{}
	for pages := 1; ; pages++ {
		out := w.do("ec2 DescribeInstances", in)
		for _, r := range out["Reservations"].([]any) {
			for n := range length(r, "Instances") {
				seen = append(seen, text(r, "Instances", n, "InstanceId"))
			}
		}
		if in["NextToken"] = out["NextToken"]; in["NextToken"] == nil {
			w.is("pages", pages, 3)
			break
		}
	}
	slices.Sort(ids)
	slices.Sort(seen)
	w.is("seen", seen, ids)
}

// Nothing here is checked but that the race detector and the seed hold.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t, Options{Delays: RealDelays(), Chance: Chance{Lose: 0.1, Refuse: 0.1}})
	if err := w.AddGroup(context.Background(), w.in, Group{Name: "web", ImageID: w.linux(), Size: 5}); err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for n := range 8 {
		wait.Go(func() {
			for round := range 12 {
				token := fmt.Sprint(n, "-", round)
				_, _ = w.try("ec2 RunInstances", w.runInput(token, nil))
				_, _ = w.try("ssm SendCommand", m{"DocumentName": "AWS-RunShellScript", "Comment": token, "Targets": []any{m{"Key": "tag:aws:autoscaling:groupName", "Values": []any{"web"}}}, "Parameters": m{"commands": []any{"true"}}})
				_, _ = w.try("ssm ListCommandInvocations", m{"Details": true})
				_, _ = w.try("autoscaling StartInstanceRefresh", m{"AutoScalingGroupName": "web"})
				_, _ = w.try("ec2 DescribeInstances", nil)
				_, _ = w.try("ssm PutParameter", m{"Name": token, "Type": "String", "Value": "v"})
				w.pass(time.Second)
				w.Live()
				w.Untagged()
			}
		})
	}
	wait.Wait()
	seqs := 0
	for n, e := range w.Ledger() {
		if e.Seq != n+1 {
			t.Fatalf("entry %d has number %d", n+1, e.Seq)
		}
		seqs++
	}
	if seqs < 8*12*6 {
		t.Errorf("%d entries", seqs)
	}
}
