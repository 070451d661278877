package contract

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/aws"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/simcloud"
)

// deed is an action with an input that has an effect. Each of its calls loses
// its reply in turn, and the action is then tried again, or taken back. What is
// there afterwards is compared with what there is when nothing goes wrong.
type deed struct {
	action string
	what   string // tells deeds of one action apart
	// before makes what there is before, and returns the input.
	before  func(s *stage) object
	stays   bool // it cannot be taken back, and says so with kind conflict
	options []func(*simcloud.Options)
	// spare takes from a call what moto cannot carry.
	spare func(operation string, in object)
}

func (d deed) name() string { return strings.TrimSpace("action " + d.action + " " + d.what) }

const stepToken = "abcdefghijklmnopqrstuvwxyz"

// attempts is how often an action is tried again after what passes. In process
// nothing is sent twice within an attempt: so they are many.
const attempts = 50

// world is a place with a deed in it.
type world struct {
	*stage
	deed   deed
	act    action.Action
	input  json.RawMessage
	before []string
}

// sparing leaves out of calls what moto cannot carry.
type sparing struct {
	awsapi.Caller
	spare func(operation string, in object)
}

func (c sparing) Call(ctx context.Context, in awsapi.Scope, service, operation string, input map[string]any) (map[string]any, error) {
	c.spare(operation, input)
	return c.Caller.Call(ctx, in, service, operation, input)
}

// enter makes a place, and what there is before the deed.
func (d deed) enter(p place, wrap func(awsapi.Caller) awsapi.Caller) *world {
	w := &world{stage: &stage{place: p}, deed: d}
	faulty := w.caller
	if d.spare != nil && p.backend == "moto" {
		faulty = sparing{faulty, d.spare}
	}
	if wrap != nil {
		faulty = wrap(faulty)
	}
	for _, a := range aws.Actions(aws.Env{Caller: faulty, Sleep: p.sleep, Now: p.now, Models: p.models}) {
		if a.Name == d.action {
			w.act = a
		}
	}
	w.caller = p.direct // for what is there before, and to look
	in := d.before(w.stage)
	if _, ok := in["region"]; !ok {
		in["region"] = "us-east-1"
	}
	in["role"], in["account"] = p.scope.Role, p.scope.Account
	raw, err := json.Marshal(in)
	if err != nil {
		panic(err)
	}
	w.input = raw
	w.settle()
	w.before = w.inventory()
	w.script.set()
	return w
}

func (w *world) context(attempt int) context.Context {
	return action.WithCall(context.Background(), action.Call{
		Token: stepToken, Execution: "contract-1", Step: "step", Attempt: attempt,
		Heartbeat: func(any) {}, Abandoned: func() bool { return false }, Mask: func(s string) string { return s },
		Reveal: func(context.Context, string) (string, error) { return "hunter2hunter2", nil },
	})
}

func (w *world) once(attempt int) (json.RawMessage, error) {
	out, err := w.act.Do(w.context(attempt), w.input)
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// passes tells whether a server tries again after this.
func passes(err error) bool {
	k := action.KindOf(err)
	return k == action.Unavailable || k == action.Throttled
}

// do does the deed as a server does: with the same token, until it is done or
// fails for good.
func (w *world) do() (out json.RawMessage, err error) {
	for n := 1; n <= attempts; n++ {
		if out, err = w.once(n); err == nil || !passes(err) {
			return out, err
		}
	}
	return nil, err
}

func (w *world) takeBack(out json.RawMessage) (err error) {
	for n := 1; n <= attempts; n++ {
		if err = w.act.Compensate(w.context(n), w.input, out); err == nil || !passes(err) {
			return err
		}
	}
	return err
}

// differs compares what there is with what there should be.
func (w *world) differs(want []string, err error) string {
	if err != nil {
		return err.Error()
	}
	w.settle()
	if diff := cmp.Diff(want, w.inventory()); diff != "" {
		return "(-want +got)\n" + diff
	}
	return ""
}

// play does a deed in many worlds.
func (d deed) play(open func() place, wrap func(awsapi.Caller) awsapi.Caller) outcome {
	s := &stage{}
	func() {
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(over); !ok {
					panic(r)
				}
				s.settles("the world before can be made", "see the log")
			}
		}()
		d.tell(s, open, wrap)
	}()
	return s.outcome
}

func (d deed) tell(s *stage, open func() place, wrap func(awsapi.Caller) awsapi.Caller) {
	w := d.enter(open(), wrap)
	out, err := w.do()
	if !s.settles("it is done", textOf(err)) {
		return
	}
	var writes []string // the calls whose replies can be lost
	for _, a := range w.script.arrivals() {
		if a.writes() {
			writes = append(writes, a.operation)
		}
	}
	w.settle()
	done := w.inventory()
	again := d.enter(open(), wrap)
	_, err = again.do()
	if err == nil {
		_, err = again.do()
	}
	s.settles("done again under its token, it is one", again.differs(done, err))
	takesBack := w.act.Compensates && !d.stays
	switch {
	case d.stays:
		err := w.takeBack(out)
		s.holds("it says that it cannot be taken back", action.KindOf(err) == action.Conflict, err)
	case takesBack:
		takesBack = s.settles("taken back, all is as before", w.differs(w.before, w.takeBack(out)))
		s.settles("taken back twice, too", w.differs(w.before, w.takeBack(out)))
	}
	for n, operation := range writes {
		which := fmt.Sprintf("reply %d, of %s", n+1, operation)
		w := d.enter(open(), wrap)
		w.script.set(fault{kind: loseReply, from: n + 1})
		out, err := w.do()
		s.settles(which+", lost: it is one", w.differs(done, err))
		if takesBack {
			s.settles(which+", lost: taken back, nothing is left", w.differs(w.before, w.takeBack(out)))

			// All attempts of our client are lost, and the action fails; nothing is known of it.
			w = d.enter(open(), wrap)
			w.script.set(fault{kind: loseReply, from: n + 1, times: 3})
			if _, err := w.once(1); err != nil {
				w.script.set()
				s.settles(which+", never comes: taken back, nothing is left", w.differs(w.before, w.takeBack(nil)))
			}
		}
	}
	if len(writes) > 0 {
		w = d.enter(open(), wrap)
		w.script.set(fault{kind: throttle, times: 2})
		out, err = w.do()
		s.settles("throttled, it is done in the end", w.differs(done, err))
		if takesBack {
			w.script.set(fault{kind: loseReply})
			err = w.takeBack(out)
			s.settles("the reply of its compensation lost, nothing is left", w.differs(w.before, err))
		}
	}
	if slices.ContainsFunc(s.failures, func(f failure) bool { return strings.HasSuffix(f.claim, "it is one") }) {
		return // then it is not when replies are lost at random, either
	}
	for seed := range uint64(2) {
		weather := fmt.Sprintf("in bad weather %d", seed)
		w = d.enter(open(), wrap)
		w.script.setChance(chance{seed: seed, dropRequest: .08, loseReply: .08, throttle: .08, fail500: .08, delay: .08, wait: 20 * time.Millisecond})
		out, err = w.do()
		s.settles(weather+", it is one", w.differs(done, err))
		if takesBack {
			s.settles(weather+", taken back, nothing is left", w.differs(w.before, w.takeBack(out)))
		}
	}
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestActions does every deed in every back end.
func TestActions(t *testing.T) {
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) {
			b.needed(t)
			for _, d := range deeds {
				t.Run(d.name(), func(t *testing.T) {
					t.Parallel()
					judge(t, b.name, d.name(), d.play(func() place { return b.open(t, d.options...) }, nil))
				})
			}
		})
	}
}

// inventory is what there is in the account, without what is made up anew each
// time (ids and times), sorted.
func (s *stage) inventory() []string {
	all := []string{}
	add := func(kind string, of any, about ...string) {
		line := kind + " " + strings.Join(about, " ")
		set := tags(of)
		for _, key := range slices.Sorted(maps.Keys(set)) {
			line += " " + key + "=" + set[key]
		}
		all = append(all, line)
	}
	// see reads all that an operation lists; what is not simulated is looked for otherwise.
	see := func(region, service, operation string, in object) object {
		scope := s.scope
		scope.Region = region
		out, err := awsapi.All(context.Background(), s.direct, s.models, scope, service, operation, in, 0)
		var e *awsapi.Error
		if errors.As(err, &e) && e.Code == "NotSimulated" {
			return nil
		}
		if err != nil {
			panic(err)
		}
		return out
	}
	for _, region := range []string{"us-east-1", "eu-west-1"} {
		for _, r := range items(see(region, "ec2", "DescribeInstances", nil), "Reservations") {
			for _, i := range items(r, "Instances") {
				if state := text(i, "State.Name"); state != "terminated" && state != "shutting-down" {
					add("instance", i["Tags"], region, state, text(i, "InstanceType"))
				}
			}
		}
		for _, i := range items(see(region, "ec2", "DescribeImages", object{"Owners": list("self")}), "Images") {
			shared := see(region, "ec2", "DescribeImageAttribute", object{"ImageId": i["ImageId"], "Attribute": "launchPermission"})
			add("image", i["Tags"], region, text(i, "Name"), text(i, "State"), text(i, "DeprecationTime"), strings.Join(texts(shared, "LaunchPermissions", "UserId"), ","))
		}
		for _, v := range items(see(region, "ec2", "DescribeSnapshots", object{"OwnerIds": list("self")}), "Snapshots") {
			add("snapshot", v["Tags"], region, text(v, "State"))
		}
		for _, v := range items(see(region, "ec2", "DescribeVolumes", nil), "Volumes") {
			add("volume", v["Tags"], region, text(v, "State"))
		}
		for _, v := range items(see(region, "ec2", "DescribeLaunchTemplates", nil), "LaunchTemplates") {
			add("template", v["Tags"], region, text(v, "LaunchTemplateName"), fmt.Sprint(v["DefaultVersionNumber"], " of ", v["LatestVersionNumber"]))
		}
	}
	home := func(service, operation string, in object) object { return see("us-east-1", service, operation, in) }
	for _, name := range s.names("parameter", "/app/x") {
		p := home("ssm", "GetParameter", object{"Name": name, "WithDecryption": true})
		versions := items(home("ssm", "GetParameterHistory", object{"Name": name}), "Parameters")
		add("parameter", home("ssm", "ListTagsForResource", object{"ResourceType": "Parameter", "ResourceId": name})["TagList"], name,
			text(p, "Parameter.Type"), text(p, "Parameter.Value"), text(versions[len(versions)-1], "Description"))
	}
	for _, name := range s.names("secret", "app/db") {
		v := home("secretsmanager", "DescribeSecret", object{"SecretId": name})
		if v["DeletedDate"] == nil {
			value := home("secretsmanager", "GetSecretValue", object{"SecretId": name})
			add("secret", v["Tags"], name, text(value, "SecretString"))
		}
	}
	for _, v := range items(home("cloudformation", "DescribeStacks", nil), "Stacks") {
		if status := text(v, "StackStatus"); status != "DELETE_COMPLETE" {
			add("stack", v["Tags"], text(v, "StackName"), status, text(v, "Outputs.0.OutputValue"))
		}
	}
	for _, name := range s.names("bucket", "contract-"+s.account) {
		for _, o := range items(home("s3", "ListObjectsV2", object{"Bucket": name}), "Contents") {
			got := home("s3", "GetObject", object{"Bucket": name, "Key": o["Key"]})
			body, _ := got["Body"].([]byte)
			add("object", nil, text(o, "Key"), string(body))
		}
	}
	for _, what := range s.sent() {
		add(what, nil)
	}
	slices.Sort(all)
	return all
}

// names of what there is of a kind. moto's lists tell, and simcloud's own one.
func (s *stage) names(kind, one string) []string {
	if s.cloud != nil {
		var names []string
		for _, r := range s.cloud.Live() {
			if r.Kind == kind && r.Account == s.account {
				names = append(names, r.Name)
			}
		}
		return names
	}
	var err error
	switch kind {
	case "parameter":
		_, err = s.call("ssm", "GetParameter", object{"Name": one})
	case "secret":
		_, err = s.call("secretsmanager", "DescribeSecret", object{"SecretId": one})
	case "bucket":
		_, err = s.call("s3", "HeadBucket", object{"Bucket": one})
	}
	if err != nil {
		return nil
	}
	return []string{one}
}

// sent are messages and findings that have arrived.
func (s *stage) sent() []string {
	var all []string
	if s.cloud != nil {
		for _, e := range s.cloud.Ledger() {
			for _, f := range e.Effects {
				if f.Kind == "message" && f.Change == "made" {
					all = append(all, "message")
				}
			}
		}
		for _, f := range s.cloud.Findings() {
			all = append(all, "finding "+text(f, "Title"))
		}
		return all
	}
	queues, _ := get(s.do("sqs", "ListQueues", nil), "QueueUrls").([]any)
	for _, url := range queues {
		all = append(all, "messages "+text(s.do("sqs", "GetQueueAttributes", object{"QueueUrl": url, "AttributeNames": list("ApproximateNumberOfMessages")}), "Attributes.ApproximateNumberOfMessages"))
	}
	found, err := s.call("securityhub", "GetFindings", nil)
	if err != nil {
		return all
	}
	for _, f := range items(found, "Findings") {
		all = append(all, "finding "+text(f, "Title"))
	}
	return all
}
