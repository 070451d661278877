package aws

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/simcloud"
)

// wants fails unless err is of that kind and says all these.
func wants(t *testing.T, err error, kind action.Kind, says ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s saying %q", kind, says)
	}
	if got := action.KindOf(err); got != kind {
		t.Errorf("kind %s, want %s: %v", got, kind, err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error %q does not say %q", err, s)
		}
	}
}

func TestKinds(t *testing.T) {
	for _, tt := range []struct {
		err  *awsapi.Error
		kind action.Kind
		says string
	}{
		{&awsapi.Error{Service: "ec2", Operation: "RunInstances", Code: "UnauthorizedOperation", Message: "no", Class: awsapi.Denied}, action.Denied, "ec2 RunInstances: UnauthorizedOperation: no; whom the worker acts as needs the permission ec2:RunInstances"},
		{&awsapi.Error{Service: "stepfunctions", Operation: "StartExecution", Code: "AccessDeniedException", Message: "no", Class: awsapi.Denied}, action.Denied, "states:StartExecution"},
		{&awsapi.Error{Service: "ec2", Operation: "RunInstances", Code: "ExpiredToken", Message: "old", Class: awsapi.Denied}, action.Denied, "ec2 RunInstances: ExpiredToken: old"},
		{&awsapi.Error{Service: "ec2", Operation: "RunInstances", Code: "IdempotentParameterMismatch", Class: awsapi.Invalid}, action.Internal, "IdempotentParameterMismatch"},
		{&awsapi.Error{Service: "ec2", Operation: "RunInstances", Code: "IdempotentInstanceTerminated", Class: awsapi.Conflict}, action.NotFound, "was terminated since"},
		{&awsapi.Error{Service: "ssm", Operation: "SendCommand", Code: "InvalidInstanceId", Class: awsapi.Conflict}, action.Unreached, "aws.ssm.wait_managed"},
		{&awsapi.Error{Service: "ec2", Operation: "X", Code: "RequestLimitExceeded", Class: awsapi.Throttled}, action.Throttled, ""},
		{&awsapi.Error{Service: "ec2", Operation: "X", Code: "ConnectionError", Class: awsapi.Unavailable}, action.Unavailable, ""},
		{&awsapi.Error{Service: "ec2", Operation: "X", Code: "New", Class: "new"}, action.Failed, ""},
	} {
		err := kinded(tt.err)
		wants(t, err, tt.kind, tt.says)
		if code(err) != tt.err.Code {
			t.Errorf("code %q, want %q", code(err), tt.err.Code)
		}
	}
	if err := kinded(context.Canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Without a client every action says so, and nothing panics.
func TestNoClient(t *testing.T) {
	for _, s := range specimens {
		w, in, _ := s.world(t)
		w.env.Caller = nil
		_, err := w.do(s.action, 1, in)
		wants(t, err, action.Denied, "no access to AWS")
	}
}

// What AWS refuses has no effect, and there is nothing to take back.
func TestDenied(t *testing.T) {
	for _, s := range specimens {
		w, in, before := s.world(t, func(o *simcloud.Options) {
			o.Faults = []simcloud.Fault{{Kind: simcloud.Refuse, Code: "AccessDenied", Times: -1, When: writes}}
		})
		_, err := w.do(s.action, 1, in)
		if err == nil {
			continue // it reads only
		}
		wants(t, err, action.Denied, "needs the permission")
		w.cloud.Faults = nil
		if s.compensates(t) {
			s.takeBack(w, in, nil, before, s.action+" after a refusal")
		}
	}
}

// An attempt that is cancelled while it waits leaves nothing that is not found.
func TestCancelled(t *testing.T) {
	for _, s := range specimens {
		for after := range 4 {
			w, in, before := s.world(t, func(o *simcloud.Options) { o.Delays = simcloud.RealDelays() })
			ctx, cancel := context.WithCancel(t.Context())
			sleeps := 0
			w.env.Sleep = func(ctx context.Context, d time.Duration) error {
				if sleeps++; sleeps > after {
					cancel()
				}
				return w.sleep(ctx, d)
			}
			_, err := w.doIn(w.contextOf(ctx, 1), s.action, in)
			cancel()
			if err == nil {
				continue
			}
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", s.action, err)
			}
			w.env.Sleep = w.sleep
			if s.compensates(t) {
				s.takeBack(w, in, nil, before, s.action+" after a cancel")
			}
			w.whole()
		}
	}
}

func TestNameTaken(t *testing.T) {
	w := newWorld(t, nil)
	theirs := w.image("base-1")
	in := map[string]any{"instance_id": w.instance(), "name": "base-1"}
	_, err := w.do("aws.ec2.create_image", 1, in)
	wants(t, err, action.Conflict, "base-1", theirs, "not made by Almanac")
	w.given("ec2", "CreateTags", map[string]any{"Resources": []any{theirs}, "Tags": tagList(map[string]string{tagExecution: "other", tagStep: "image", tagToken: "another"})})
	_, err = w.do("aws.ec2.create_image", 2, in)
	wants(t, err, action.Conflict, "made by step image of execution other")
	_, err = w.do("aws.ec2.copy_image", 1, map[string]any{"image_id": theirs, "source_region": "us-east-1"})
	wants(t, err, action.Conflict, theirs)
	before := w.cloud.Live()
	if err := w.compensate("aws.ec2.create_image", in, nil); err != nil || !simcloud.Diff(before, w.cloud.Live()).Empty() {
		t.Errorf("compensation took another's image: %v", err)
	}
}

func TestImageFails(t *testing.T) {
	w := newWorld(t, func(o *simcloud.Options) {
		o.Fails = func(r simcloud.Resource) string {
			if r.Kind == "image" && r.Tags[tagToken] != "" {
				return "the disk is broken"
			}
			return ""
		}
		o.Delays.Image = simcloud.Range{Min: time.Minute, Max: time.Minute}
	})
	in := map[string]any{"instance_id": w.instance(), "name": "base-1"}
	before := w.cloud.Live()
	_, err := w.do("aws.ec2.create_image", 1, in)
	wants(t, err, action.Failed, "failed", "the disk is broken")
	if err := w.compensate("aws.ec2.create_image", in, nil); err != nil {
		t.Error(err)
	}
	if d := simcloud.Diff(before, w.cloud.Live()); len(d.Made) > 0 {
		t.Errorf("left: %s", d)
	}
}

// AWS says the same of an image that is gone and of one that is not ready: only a look tells.
func TestImagePending(t *testing.T) {
	w := newWorld(t, func(o *simcloud.Options) {
		o.Delays.Image = simcloud.Range{Min: 20 * time.Minute, Max: 20 * time.Minute}
		o.Faults = []simcloud.Fault{
			{Operation: "CreateImage", Kind: simcloud.Lose},
			{Operation: "DeregisterImage", Kind: simcloud.Refuse, Code: "InvalidAMIID.Unavailable"},
		}
	})
	in := map[string]any{"instance_id": w.instance(), "name": "base-1"}
	if _, err := w.do("aws.ec2.create_image", 1, in); err == nil {
		t.Fatal("no error")
	}
	if err := w.compensate("aws.ec2.create_image", in, nil); err != nil {
		t.Fatal(err)
	}
	if one(w, "image") != "" || one(w, "snapshot") != "" {
		t.Errorf("left: %v", w.cloud.Live())
	}
}

// What a step before has made may not be known yet where this one asks.
func TestLateNews(t *testing.T) {
	for seed := range uint64(5) {
		w := newWorld(t, func(o *simcloud.Options) {
			o.Seed, o.Delays.Visible = seed, simcloud.Range{Max: time.Minute}
		})
		out, err := w.cloud.Call(t.Context(), awsapi.Scope{}, "ec2", "RunInstances", map[string]any{
			"ImageId": w.publicImage(), "InstanceType": "t3.small", "MinCount": 1, "MaxCount": 1, "ClientToken": "x"})
		if err != nil {
			t.Fatal(err)
		}
		id := members(out).list("Instances")[0].text("InstanceId")
		if _, err := w.do("aws.ec2.create_tags", 1, map[string]any{"resources": []any{id}, "tags": map[string]any{"a": "b"}}); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		image, err := w.do("aws.ec2.create_image", 1, map[string]any{"instance_id": id, "name": "base-1"})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		var made imageOutput
		if err := json.Unmarshal(image, &made); err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			action string
			in     map[string]any
		}{
			{"aws.ec2.share_image", map[string]any{"accounts": []any{"111111111111"}, "snapshots": true}},
			{"aws.ec2.deprecate_image", map[string]any{"at": "2027-11-25T00:00:00Z"}},
			{"aws.ec2.copy_image", map[string]any{"region": "eu-west-1"}},
			{"aws.ec2.deregister_image", nil},
		} {
			if _, err := w.do(step.action, 1, with(map[string]any{"image_id": made.ImageID}, step.in)); err != nil {
				t.Errorf("seed %d: %s: %v", seed, step.action, err)
			}
		}
	}
}

func TestTerminatedTwice(t *testing.T) {
	w := newWorld(t, nil)
	in := map[string]any{"image_id": w.publicImage(), "instance_type": "t3.small"}
	out, err := w.do("aws.ec2.run_instance", 1, in)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.compensate("aws.ec2.run_instance", in, out); err != nil {
		t.Fatal(err)
	}
	_, err = w.do("aws.ec2.run_instance", 2, in)
	wants(t, err, action.NotFound, "IdempotentInstanceTerminated", "not made again")
	_, err = w.do("aws.ec2.run_instance", 2, with(in, map[string]any{"instance_type": "t3.large"}))
	wants(t, err, action.Internal, "IdempotentParameterMismatch")
}

func TestLaunchRefuses(t *testing.T) {
	w := newWorld(t, func(o *simcloud.Options) {
		o.Limits.NoCapacity = func(_, kind string) bool { return kind == "p5.48xlarge" }
		o.Fails = func(r simcloud.Resource) string {
			if r.Tags["fails"] != "" {
				return "volume limit"
			}
			return ""
		}
	})
	ok := map[string]any{"image_id": w.publicImage(), "instance_type": "t3.small"}
	for _, tt := range []struct {
		more map[string]any
		kind action.Kind
		says string
	}{
		{map[string]any{"options": map[string]any{"ClientToken": "x"}}, action.Invalid, "options has ClientToken"},
		{map[string]any{"options": []any{1}}, action.Invalid, "options is not an object"},
		{map[string]any{"tags": map[string]any{"almanac:token": "x"}}, action.Invalid, "Almanac's own"},
		{map[string]any{"image_id": "ami-00000000000000000"}, action.NotFound, "InvalidAMIID.NotFound"},
	} {
		_, err := w.do("aws.ec2.run_instance", 1, with(ok, tt.more))
		wants(t, err, tt.kind, tt.says)
	}
	_, err := w.do("aws.ec2.run_instances", 1, with(ok, map[string]any{"count": 0}))
	wants(t, err, action.Invalid, "count")
	_, err = w.do("aws.ec2.run_instance", 1, with(ok, map[string]any{"instance_type": "p5.48xlarge"}))
	if code(err) != "InsufficientInstanceCapacity" {
		t.Errorf("got %v", err)
	}
	_, err = w.do("aws.ec2.run_instance", 1, with(ok, map[string]any{"tags": map[string]any{"fails": "yes"}}))
	wants(t, err, action.Failed, "volume limit")
}

// Right after a launch EC2 may not find what runs: that is not believed.
func TestTerminateWhatIsNotSeenYet(t *testing.T) {
	w := newWorld(t, func(o *simcloud.Options) { o.Delays.Visible = simcloud.Range{Min: time.Minute, Max: time.Minute} })
	out, err := w.cloud.Call(t.Context(), awsapi.Scope{}, "ec2", "RunInstances", map[string]any{
		"ImageId": w.publicImage(), "InstanceType": "t3.small", "MinCount": 1, "MaxCount": 1, "ClientToken": "x"})
	if err != nil {
		t.Fatal(err)
	}
	id := members(out).list("Instances")[0].text("InstanceId")
	if _, err := w.do("aws.ec2.terminate_instance", 1, map[string]any{"instance_id": id}); err != nil {
		t.Fatal(err)
	}
	if live := w.cloud.Live(); len(live) > 0 {
		t.Errorf("live: %v", live)
	}
	began := w.time()
	if _, err := w.do("aws.ec2.terminate_instance", 1, map[string]any{"instance_id": "i-00000000000000000"}); err != nil {
		t.Fatal(err)
	}
	if waited := w.time().Sub(began); waited < goneTakes {
		t.Errorf("an instance that is not found was taken for gone after %s", waited)
	}
	_, err = w.do("aws.ec2.terminate_instance", 1, map[string]any{"instance_id": "web-1"})
	wants(t, err, action.Invalid, `"web-1" is no id`)
}

// One protected instance does not keep the others from being terminated.
func TestTerminateProtected(t *testing.T) {
	w := newWorld(t, nil)
	a := w.instance()
	b := w.given("ec2", "RunInstances", map[string]any{"ImageId": w.publicImage(), "InstanceType": "t3.small", "MinCount": 1, "MaxCount": 1,
		"ClientToken": "b", "DisableApiTermination": true}).list("Instances")[0].text("InstanceId")
	_, err := w.do("aws.ec2.terminate_instances", 1, map[string]any{"instance_ids": []any{b, a}})
	wants(t, err, action.Conflict, b, "protected")
	if state := w.stateOf(a); state != "terminated" && state != "shutting-down" {
		t.Errorf("%s is %s", a, state)
	}
}

func TestStopOnlyWhatRan(t *testing.T) {
	w := newWorld(t, func(o *simcloud.Options) { o.Delays = simcloud.RealDelays() })
	a, b := w.instance(), w.instance()
	w.given("ec2", "StopInstances", map[string]any{"InstanceIds": []any{b}})
	in := map[string]any{"instance_ids": []any{a, b}}
	out, err := w.do("aws.ec2.stop_instances", 1, in)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf(`{"changed":["%s"]}`, a); string(out) != want {
		t.Errorf("out %s, want %s", out, want)
	}
	for n, out := range []json.RawMessage{nil, out} {
		if err := w.compensate("aws.ec2.stop_instances", in, out); err != nil {
			t.Fatal(err)
		}
		if w.stateOf(a) != "running" || w.stateOf(b) != "stopped" {
			t.Errorf("after compensation %d: %s, %s", n, w.stateOf(a), w.stateOf(b))
		}
	}
	w.given("ec2", "TerminateInstances", map[string]any{"InstanceIds": []any{b}})
	_, err = w.do("aws.ec2.start_instances", 1, in)
	wants(t, err, action.Conflict, b)
	_, err = w.do("aws.ec2.start_instances", 1, map[string]any{"instance_ids": []any{"i-00000000000000000"}})
	wants(t, err, action.NotFound, "i-00000000000000000")
}

func TestRebootOnce(t *testing.T) {
	for _, again := range []bool{false, true} {
		w := newWorld(t, func(o *simcloud.Options) {
			o.Faults = []simcloud.Fault{{Operation: "RebootInstances", Kind: simcloud.Lose}}
		})
		in := map[string]any{"instance_ids": []any{w.instance()}, "idempotent": again}
		if _, err := w.do("aws.ec2.reboot_instances", 1, in); action.KindOf(err) != action.Unavailable {
			t.Fatal(err)
		}
		_, err := w.do("aws.ec2.reboot_instances", 2, in)
		reboots := strings.Count(w.ledger(), "(reboot)")
		if again && (err != nil || reboots != 2) {
			t.Errorf("idempotent: %v, %d reboots", err, reboots)
		}
		if !again {
			wants(t, err, action.Unknown, "see whether they have rebooted")
			if reboots != 1 {
				t.Errorf("%d reboots", reboots)
			}
		}
	}
}

func TestShareLeavesOthers(t *testing.T) {
	w := newWorld(t, nil)
	id := w.image("base-1")
	w.given("ec2", "ModifyImageAttribute", map[string]any{"ImageId": id, "LaunchPermission": map[string]any{"Add": []any{map[string]any{"UserId": "111111111111"}}}})
	in := map[string]any{"image_id": id, "accounts": []any{"111111111111", "222222222222"}}
	out, err := w.do("aws.ec2.share_image", 1, in)
	if err != nil || string(out) != `{"added":["222222222222"]}` {
		t.Fatalf("%s %v", out, err)
	}
	if err := w.compensate("aws.ec2.share_image", in, nil); err != nil || sharedWith(w) != "111111111111" {
		t.Errorf("%v, shared with %s", err, sharedWith(w))
	}
}

func TestDeprecateRestores(t *testing.T) {
	w := newWorld(t, nil)
	id := w.image("base-1")
	w.given("ec2", "EnableImageDeprecation", map[string]any{"ImageId": id, "DeprecateAt": w.time().AddDate(2, 0, 0)})
	before := deprecation(w)
	in := map[string]any{"image_id": id, "at": "2027-01-01T00:00:00Z"}
	if _, err := w.do("aws.ec2.deprecate_image", 1, in); err != nil || deprecation(w) == before {
		t.Fatal(err)
	}
	if err := w.compensate("aws.ec2.deprecate_image", in, nil); err != nil || deprecation(w) != before {
		t.Errorf("%v, %s, want %s", err, deprecation(w), before)
	}
}

// A snapshot that another image needs is left.
func TestDeregisterKeepsWhatIsNeeded(t *testing.T) {
	w := newWorld(t, nil)
	id := w.image("base-1")
	snapshot := one(w, "snapshot")
	w.given("ec2", "RegisterImage", map[string]any{"Name": "other", "Architecture": "x86_64", "RootDeviceName": "/dev/xvda",
		"BlockDeviceMappings": []any{map[string]any{"DeviceName": "/dev/xvda", "Ebs": map[string]any{"SnapshotId": snapshot}}}})
	out, err := w.do("aws.ec2.deregister_image", 1, map[string]any{"image_id": id})
	if err != nil || string(out) != fmt.Sprintf(`{"kept_snapshot_ids":["%s"]}`, snapshot) || one(w, "snapshot") == "" {
		t.Errorf("%s, %v", out, err)
	}
}

func TestFindImage(t *testing.T) {
	w := newWorld(t, nil)
	w.image("base-1")
	w.now = w.now.Add(time.Hour)
	newest := w.image("base-2")
	w.now = w.now.Add(time.Hour)
	w.image("other")
	out, err := w.do("aws.ec2.find_image", 1, map[string]any{"name": "base-*"})
	if err != nil || !strings.Contains(string(out), newest) || !strings.Contains(string(out), "2026-11-25T13:00:00Z") {
		t.Errorf("%s, %v", out, err)
	}
	_, err = w.do("aws.ec2.find_image", 1, map[string]any{"name": "base-*", "architecture": "arm64"})
	wants(t, err, action.NotFound, "self")
}

// What was somebody else's before is theirs again, and what they did since stays.
func TestTagsComeBack(t *testing.T) {
	w := newWorld(t, nil)
	id := w.instance()
	set := func(tags map[string]string) {
		w.given("ec2", "CreateTags", map[string]any{"Resources": []any{id}, "Tags": tagList(tags)})
	}
	set(map[string]string{"a": "1", "b": strings.Repeat("x", 256), "c": strings.Repeat("y", 256)})
	in := map[string]any{"resources": []any{id}, "tags": map[string]any{"a": "2", "b": "2", "c": "2", "d": "2", "e": "2"}}
	if _, err := w.do("aws.ec2.create_tags", 1, in); err != nil {
		t.Fatal(err)
	}
	set(map[string]string{"e": "theirs"})
	if err := w.compensate("aws.ec2.create_tags", in, json.RawMessage(`{}`)); err != nil {
		t.Fatal(err)
	}
	got := tagsOf(members(w.given("ec2", "DescribeInstances", map[string]any{})).list("Reservations")[0].list("Instances")[0])
	want := map[string]string{"a": "1", "b": strings.Repeat("x", 256), "c": strings.Repeat("y", 256), "e": "theirs"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	_, err := w.do("aws.ec2.create_tags", 1, map[string]any{"resources": []any{id}, "tags": map[string]any{"almanac:x": "2"}})
	wants(t, err, action.Invalid, "Almanac's own")
}

func TestParameters(t *testing.T) {
	w := newWorld(t, nil)
	put := func(value string) {
		w.given("ssm", "PutParameter", map[string]any{"Name": "/app/x", "Type": "String", "Value": value, "Overwrite": true})
	}
	put("old")
	in := map[string]any{"name": "/app/x", "value": "new"}
	_, err := w.do("aws.ssm.put_parameter", 1, in)
	wants(t, err, action.Conflict, "overwrite: true")
	out, err := w.do("aws.ssm.put_parameter", 1, with(in, map[string]any{"value": "old"}))
	if err != nil || string(out) != `{"name":"/app/x","version":1,"changed":false}` {
		t.Errorf("%s, %v", out, err)
	}
	in["overwrite"] = true
	if _, err = w.do("aws.ssm.put_parameter", 1, in); err != nil {
		t.Fatal(err)
	}
	put("theirs")
	wants(t, w.compensate("aws.ssm.put_parameter", in, nil), action.Conflict, "somebody else")
	if parameterState(w) != "String theirs" {
		t.Errorf("now %s", parameterState(w))
	}
	w.given("ssm", "PutParameter", map[string]any{"Name": "/app/secret", "Type": "SecureString", "Value": "hunter2hunter2"})
	_, err = w.do("aws.ssm.get_parameter", 1, map[string]any{"name": "/app/secret"})
	wants(t, err, action.Invalid, "SecureString")
	_, err = w.do("aws.ssm.get_parameter", 1, map[string]any{"name": "/none"})
	wants(t, err, action.NotFound, "ParameterNotFound")
}

func TestSecretOfOthers(t *testing.T) {
	w := newWorld(t, nil)
	in := map[string]any{"name": "app/db", "value": map[string]any{"$secret": "env:PASSWORD"}}
	if _, err := w.do("aws.secretsmanager.put", 1, in); err != nil {
		t.Fatal(err)
	}
	w.given("secretsmanager", "PutSecretValue", map[string]any{"SecretId": "app/db", "SecretString": "theirs", "ClientRequestToken": strings.Repeat("1", 32)})
	wants(t, w.compensate("aws.secretsmanager.put", in, nil), action.Conflict, "another value")
	if secretState(w) != "theirs, another before" {
		t.Errorf("now %s", secretState(w))
	}
	_, err := w.do("aws.secretsmanager.put", 1, map[string]any{"name": "app/db", "value": map[string]any{"$secret": "env:NONE"}})
	wants(t, err, action.NotFound, "env:NONE")
}

func TestObjects(t *testing.T) {
	w := newWorld(t, nil)
	w.given("s3", "CreateBucket", map[string]any{"Bucket": "reports"})
	put := func(body string) {
		w.given("s3", "PutObject", map[string]any{"Bucket": "reports", "Key": "a", "Body": []byte(body)})
	}
	put("theirs")
	in := map[string]any{"bucket": "reports", "key": "a", "body": "ours"}
	_, err := w.do("aws.s3.put_object", 1, in)
	wants(t, err, action.Conflict, "overwrite: true")
	out, err := w.do("aws.s3.put_object", 1, with(in, map[string]any{"body": "theirs"}))
	if err != nil || !strings.Contains(string(out), `"changed":false`) {
		t.Errorf("%s, %v", out, err)
	}
	in["overwrite"] = true
	for attempt := range 2 {
		if _, err = w.do("aws.s3.put_object", attempt+1, in); err != nil || objectState(w) != "ours" {
			t.Fatal(err)
		}
	}
	wants(t, w.compensate("aws.s3.put_object", in, nil), action.Conflict, "without versioning")
	put("theirs again")
	if err := w.compensate("aws.s3.put_object", in, nil); err != nil || objectState(w) != "theirs again" {
		t.Errorf("%v, now %s", err, objectState(w))
	}
	put("\xff")
	_, err = w.do("aws.s3.get_object", 1, map[string]any{"bucket": "reports", "key": "a"})
	wants(t, err, action.Invalid, "UTF-8")
	put("12345")
	_, err = w.do("aws.s3.get_object", 1, map[string]any{"bucket": "reports", "key": "a", "max_bytes": 4})
	wants(t, err, action.Invalid, "5 bytes")
	_, err = w.do("aws.s3.get_object", 1, map[string]any{"bucket": "reports", "key": "none"})
	wants(t, err, action.NotFound)
}

func TestStacks(t *testing.T) {
	w := newWorld(t, func(o *simcloud.Options) {
		o.Delays.Stack = simcloud.Range{Min: time.Minute, Max: time.Minute}
		o.Fails = func(r simcloud.Resource) string {
			if r.Name == "broken" {
				return "the subnet is taken"
			}
			return ""
		}
	})
	in := map[string]any{"stack_name": "broken", "template_body": "Resources: {}"}
	_, err := w.do("aws.cloudformation.deploy", 1, in)
	wants(t, err, action.Failed, "broken", "ROLLBACK_COMPLETE", "the subnet is taken")
	if err := w.compensate("aws.cloudformation.deploy", in, nil); err != nil || len(w.cloud.Live()) > 0 {
		t.Errorf("%v, live %v", err, w.cloud.Live())
	}
	w.given("cloudformation", "CreateStack", map[string]any{"StackName": "theirs", "TemplateBody": "Resources: {}"})
	in = map[string]any{"stack_name": "theirs", "template_body": "Resources: {}"}
	out, err := w.do("aws.cloudformation.deploy", 1, in)
	if err != nil || !strings.Contains(string(out), `"unchanged"`) {
		t.Errorf("%s, %v", out, err)
	}
	_, err = w.do("aws.cloudformation.deploy", 1, map[string]any{"stack_name": "theirs"})
	wants(t, err, action.Invalid, "template_body or template_url")
	if _, err := w.cloud.Call(t.Context(), awsapi.Scope{}, "cloudformation", "UpdateStack", map[string]any{"StackName": "theirs", "TemplateBody": "Resources: {B: {}}"}); err != nil {
		t.Fatal(err)
	}
	_, err = w.do("aws.cloudformation.deploy", 1, with(in, map[string]any{"template_body": "Resources: {C: {}}"}))
	wants(t, err, action.Conflict, "busy")
}

func TestFunctionFails(t *testing.T) {
	w := newWorld(t, func(o *simcloud.Options) {
		o.Functions = map[string]simcloud.Function{"check": func(context.Context, []byte) ([]byte, error) { return nil, errors.New("too old") }}
		o.Machines = map[string]simcloud.Machine{"reindex": func(string) (string, error) { return "", errors.New("no index") }}
	})
	_, err := w.do("aws.lambda.invoke", 1, map[string]any{"function": "check"})
	wants(t, err, action.Failed, "check", "too old")
	_, err = w.do("aws.stepfunctions.execute", 1, map[string]any{"state_machine_arn": machineARN})
	wants(t, err, action.Failed, "FAILED", "no index")
	_, err = w.do("aws.stepfunctions.execute", 1, map[string]any{"state_machine_arn": "reindex"})
	wants(t, err, action.Invalid, "ARN")
}

func TestFindingsRefused(t *testing.T) {
	w := newWorld(t, nil)
	_, err := w.do("aws.securityhub.import_findings", 1, map[string]any{"findings": []any{map[string]any{"Title": "t", "Description": "d", "Id": "mine", "AwsAccountId": "999999999999", "Resources": []any{map[string]any{"Type": "Other", "Id": "x"}}}}})
	wants(t, err, action.Invalid, "mine", "AwsAccountId")
}

func TestRefreshes(t *testing.T) {
	t.Run("another's is under way", func(t *testing.T) {
		w := newWorld(t, func(o *simcloud.Options) { o.Delays = simcloud.RealDelays() })
		in := map[string]any{"auto_scaling_group": group(w)}
		if _, err := w.cloud.Call(t.Context(), awsapi.Scope{}, "autoscaling", "StartInstanceRefresh", map[string]any{"AutoScalingGroupName": "web"}); err != nil {
			t.Fatal(err)
		}
		_, err := w.do("aws.autoscaling.start_instance_refresh", 1, in)
		wants(t, err, action.Conflict, "InstanceRefreshInProgress")
		before := w.ledger()
		if err := w.compensate("aws.autoscaling.start_instance_refresh", in, nil); err != nil {
			t.Error(err)
		}
		if after := w.ledger()[len(before):]; strings.Contains(after, "CancelInstanceRefresh") || strings.Contains(after, "RollbackInstanceRefresh") {
			t.Errorf("another's refresh was ended:\n%s", after)
		}
	})
	t.Run("a group that follows the default version", func(t *testing.T) {
		w := newWorld(t, func(o *simcloud.Options) { o.Delays = simcloud.RealDelays() })
		name := group(w)
		w.given("autoscaling", "UpdateAutoScalingGroup", map[string]any{"AutoScalingGroupName": name, "LaunchTemplate": map[string]any{"LaunchTemplateName": name, "Version": "$Default"}})
		template := map[string]any{"launch_template": name, "image_id": w.image("base-1")}
		update, err := w.do("aws.autoscaling.update_launch_template", 1, template)
		if err != nil {
			t.Fatal(err)
		}
		in := map[string]any{"auto_scaling_group": name}
		refresh, err := w.do("aws.autoscaling.start_instance_refresh", 1, in)
		if err != nil || groupState(w) != "$Default:2 2 2" {
			t.Fatalf("%s, %v", groupState(w), err)
		}
		// Rollback is last first: the version of before is not the default yet.
		if err := w.compensate("aws.autoscaling.start_instance_refresh", in, refresh); err != nil {
			t.Fatal(err)
		}
		if err := w.compensate("aws.autoscaling.update_launch_template", template, update); err != nil {
			t.Fatal(err)
		}
		if groupState(w) != "$Default:1 1 1" || templateState(w) != "1*" {
			t.Errorf("%s, %s", groupState(w), templateState(w))
		}
	})
	t.Run("it fails", func(t *testing.T) {
		var broken bool
		w := newWorld(t, func(o *simcloud.Options) {
			o.Delays = simcloud.RealDelays()
			o.Fails = func(r simcloud.Resource) string {
				if broken && r.Kind == "instance" {
					return "it does not boot"
				}
				return ""
			}
		})
		name := group(w)
		w.given("ec2", "CreateLaunchTemplateVersion", map[string]any{"LaunchTemplateName": name, "SourceVersion": "1", "LaunchTemplateData": map[string]any{"InstanceType": "m7i.large"}})
		broken = true
		in := map[string]any{"auto_scaling_group": name, "launch_template_version": 2}
		_, err := w.do("aws.autoscaling.start_instance_refresh", 1, in)
		wants(t, err, action.Failed, "Failed")
		broken = false
		if err := w.compensate("aws.autoscaling.start_instance_refresh", in, nil); err != nil {
			t.Fatalf("%v: %s\n%s", err, groupState(w), w.ledger())
		}
		if got := groupState(w); got != "1:1 1 1" {
			t.Errorf("now %s", got)
		}
	})
	t.Run("it is given up half way", func(t *testing.T) {
		for seed := range uint64(6) {
			w := newWorld(t, func(o *simcloud.Options) { o.Seed, o.Delays = seed, simcloud.RealDelays() })
			name := group(w)
			w.given("ec2", "CreateLaunchTemplateVersion", map[string]any{"LaunchTemplateName": name, "SourceVersion": "1", "LaunchTemplateData": map[string]any{"InstanceType": "m7i.large"}})
			in := map[string]any{"auto_scaling_group": name, "launch_template_version": 2}
			ctx, cancel := context.WithCancel(t.Context())
			end := w.time().Add(time.Duration(seed) * 2 * time.Minute)
			w.env.Sleep = func(ctx context.Context, d time.Duration) error {
				if w.time().After(end) {
					cancel()
				}
				return w.sleep(ctx, d)
			}
			_, err := w.doIn(w.contextOf(ctx, 1), "aws.autoscaling.start_instance_refresh", in)
			cancel()
			if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			w.env.Sleep = w.sleep
			if err := w.compensate("aws.autoscaling.start_instance_refresh", in, nil); err != nil {
				t.Fatal(err)
			}
			if got := groupState(w); got != "1:1 1 1" {
				t.Errorf("seed %d: now %s\n%s", seed, got, w.ledger())
			}
		}
	})
}

func TestCall(t *testing.T) {
	w := newWorld(t, func(o *simcloud.Options) { o.PageSize = 2 })
	for range 5 {
		w.instance()
	}
	out, err := w.do("aws.call", 1, map[string]any{"service": "ec2", "operation": "DescribeInstances", "paginate": true})
	if err != nil || strings.Count(string(out), `"InstanceId"`) != 5 || strings.Contains(string(out), "NextToken") {
		t.Errorf("%s, %v", out, err)
	}
	w.given("secretsmanager", "CreateSecret", map[string]any{"Name": "app/db", "SecretString": "hunter2hunter2", "ClientRequestToken": strings.Repeat("0", 32)})
	out, err = w.do("aws.call", 1, map[string]any{"service": "secretsmanager", "operation": "GetSecretValue", "input": map[string]any{"SecretId": "app/db"}})
	if err != nil || !strings.Contains(string(out), `"SecretString":"***"`) {
		t.Errorf("%s, %v", out, err)
	}
	before := len(w.cloud.Live())
	for attempt := range 2 { // the token is there, and the same
		if _, err := w.do("aws.call", attempt+1, map[string]any{"service": "ec2", "operation": "RunInstances", "input": map[string]any{
			"ImageId": w.publicImage(), "InstanceType": "t3.small", "MinCount": 1, "MaxCount": 1}}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(w.cloud.Live()) - before; n != 2 {
		t.Errorf("%d resources, want an instance and its volume", n)
	}
	for _, tt := range []struct {
		in   map[string]any
		says string
	}{
		{map[string]any{"service": "ecc2", "operation": "X"}, "ec2"},
		{map[string]any{"service": "ec2", "operation": "DescribeInstance"}, "DescribeInstances"},
		{map[string]any{"service": "ec2", "operation": "DescribeInstances", "input": []any{}}, "not an object"},
	} {
		_, err = w.do("aws.call", 1, tt.in)
		wants(t, err, action.Invalid, tt.says)
	}
}
