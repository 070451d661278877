package sweep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/aws"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/simcloud"
	"github.com/almanac-run/almanac/workflows"
)

const region = "eu-central-1"

type m = map[string]any

// world is a simulated cloud, whose time passes when somebody sleeps, and a
// server that knows some executions.
type world struct {
	*testing.T
	*simcloud.Cloud
	now        time.Time
	executions []Execution
	before     func(operation string, in map[string]any) // of each call
	noServer   error
}

func newWorld(t *testing.T, executions ...Execution) *world {
	t.Helper()
	w := &world{T: t, now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC), executions: executions}
	w.Cloud = simcloud.New(simcloud.Options{Seed: 1, Region: region, Clock: func() time.Time { return w.now }, Delays: simcloud.RealDelays()})
	t.Cleanup(w.Close)
	return w
}

// Executions is the server's.
func (w *world) Executions(_ context.Context, tag string) ([]Execution, error) {
	return slices.DeleteFunc(slices.Clone(w.executions), func(e Execution) bool { return TagValue(e.ID) != tag }), w.noServer
}

// Call holds the input against AWS's model.
func (w *world) Call(ctx context.Context, in awsapi.Scope, service, operation string, input map[string]any) (map[string]any, error) {
	for _, p := range models.Check(service, operation, input) {
		w.Errorf("%s %s: %s", service, operation, p)
	}
	if w.before != nil {
		w.before(operation, input)
	}
	return w.Cloud.Call(ctx, in, service, operation, input)
}

var models = func() *awsapi.Models {
	m, err := awsapi.OpenModels("")
	if err != nil {
		panic(err)
	}
	return m
}()

func text(m map[string]any, name string) string {
	s, _ := m[name].(string)
	return s
}

// given makes a call without a trace: "ec2 RunInstances".
func (w *world) given(what string, in m) m {
	w.Helper()
	service, operation, _ := strings.Cut(what, " ")
	out, err := w.Given().Call(context.Background(), awsapi.Scope{Region: region}, service, operation, in)
	if err != nil {
		w.Fatalf("given %s: %v", what, err)
	}
	return out
}

func tagList(execution string, more ...string) []any {
	all := []any{m{"Key": TagExecution, "Value": execution}, m{"Key": TagStep, "Value": "s"}, m{"Key": TagToken, "Value": "t-" + execution}}
	for i := 0; i < len(more); i += 2 {
		all = append(all, m{"Key": more[i], "Value": more[i+1]})
	}
	return all
}

func specs(execution string, kinds ...string) []any {
	var all []any
	for _, k := range kinds {
		all = append(all, m{"ResourceType": k, "Tags": tagList(execution)})
	}
	return all
}

func (w *world) instance(execution string, more ...string) string {
	w.Helper()
	ami := text(w.given("ssm GetParameter", m{"Name": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"})["Parameter"].(m), "Value")
	in := m{"ImageId": ami, "InstanceType": "m6i.large", "MinCount": 1, "MaxCount": 1}
	if execution != "" {
		in["TagSpecifications"] = specs(execution, "instance", "volume")
	}
	for _, name := range more {
		in[name] = true
	}
	id := text(w.given("ec2 RunInstances", in)["Instances"].([]any)[0].(m), "InstanceId")
	w.now = w.now.Add(5 * time.Minute) // it runs, and everyone knows
	return id
}

func (w *world) image(instance, name, execution string) string {
	w.Helper()
	id := text(w.given("ec2 CreateImage", m{"InstanceId": instance, "Name": name, "TagSpecifications": specs(execution, "image", "snapshot")}), "ImageId")
	w.now = w.now.Add(time.Hour)
	return id
}

func (w *world) tag(id string, tags ...string) {
	w.Helper()
	var all []any
	for i := 0; i < len(tags); i += 2 {
		all = append(all, m{"Key": tags[i], "Value": tags[i+1]})
	}
	w.given("ec2 CreateTags", m{"Resources": []any{id}, "Tags": all})
}

func (w *world) judged(o Options) []Judged {
	w.Helper()
	found, problems, err := Find(context.Background(), w, []awsapi.Scope{{Region: region}})
	if err != nil || len(problems) > 0 {
		w.Fatal(err, problems)
	}
	o.Now = w.now
	all, err := Judge(context.Background(), w, found, o)
	if err != nil {
		w.Fatal(err)
	}
	return all
}

func (w *world) removal(o Options) Removal {
	o.Now = w.now
	return Removal{Caller: w, Server: w, Options: o, Sleep: func(ctx context.Context, d time.Duration) error {
		w.now = w.now.Add(d)
		return ctx.Err()
	}}
}

// live is what there is, one line for each, with ids by their kind.
func (w *world) live() string {
	var b strings.Builder
	for _, r := range w.Live() {
		fmt.Fprintf(&b, "%s of %q\n", r.Kind, r.Tags[TagExecution])
	}
	return b.String()
}

func lines(all []Judged) string {
	var b strings.Builder
	for _, j := range all {
		mark := " "
		if j.Remove {
			mark = "-"
		}
		fmt.Fprintf(&b, "%s %s of %s: %s: %s\n", mark, j.Kind, j.Execution, j.Verdict, j.Reason)
	}
	return b.String()
}

func results(all []Result) string {
	var b strings.Builder
	for _, r := range all {
		what := "removed"
		switch {
		case r.Gone:
			what = "gone"
		case !r.Removed:
			what = "stays: " + r.Error
		}
		fmt.Fprintf(&b, "%s of %s: %s\n", r.Kind, r.Execution, what)
	}
	return b.String()
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if diff := cmp.Diff(strings.TrimSpace(strings.ReplaceAll(want, "\n\t\t", "\n")), strings.TrimSpace(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func ended(id string, s Status) Execution { return Execution{ID: id, Status: s} }

// One of each kind, made by an execution that was rolled back, besides what
// others have made: the first goes, in an order that works, and nothing else.
func TestRemovesWhatIsLeftOver(t *testing.T) {
	w := newWorld(t, ended("bad", workflows.RolledBack), ended("good", workflows.Succeeded), ended("now", Running))
	for _, execution := range []string{"bad", "good", "now", ""} {
		i := w.instance(execution)
		if execution == "" {
			continue
		}
		w.image(i, "of "+execution, execution)
		w.given("ec2 CreateLaunchTemplate", m{"LaunchTemplateName": "of-" + execution, "LaunchTemplateData": m{"InstanceType": "m6i.large"}, "TagSpecifications": specs(execution, "launch-template")})
		w.given("ssm PutParameter", m{"Name": "/of/" + execution, "Value": "v", "Type": "String", "Tags": tagList(execution)})
		w.given("ssm PutParameter", m{"Name": "of-" + execution, "Value": "v", "Type": "String", "Tags": tagList(execution)})
		w.given("secretsmanager CreateSecret", m{"Name": "of/" + execution, "SecretString": "v", "ClientRequestToken": strings.Repeat("t", 32), "Tags": tagList(execution)})
		w.given("cloudformation CreateStack", m{"StackName": "of-" + execution, "TemplateBody": "{}", "Tags": tagList(execution)})
		w.given("sns CreateTopic", m{"Name": "of-" + execution, "Tags": tagList(execution)})
	}
	w.now = w.now.Add(time.Hour)
	all := w.judged(Options{})
	want(t, "judged", lines(all), `- instance of bad: left: bad was rolled back
		- image of bad: left: bad was rolled back
		- snapshot of bad: left: bad was rolled back
		- launch template of bad: left: bad was rolled back
		- stack of bad: left: bad was rolled back
		- parameter of bad: left: bad was rolled back
		- parameter of bad: left: bad was rolled back
		- secret of bad: left: bad was rolled back
		  sns of bad: left: bad was rolled back
		  instance of good: kept: good succeeded: it is a result
		  image of good: kept: good succeeded: it is a result
		  snapshot of good: kept: good succeeded: it is a result
		  launch template of good: kept: good succeeded: it is a result
		  stack of good: kept: good succeeded: it is a result
		  parameter of good: kept: good succeeded: it is a result
		  parameter of good: kept: good succeeded: it is a result
		  secret of good: kept: good succeeded: it is a result
		  sns of good: kept: good succeeded: it is a result
		  instance of now: running: now is running
		  image of now: running: now is running
		  snapshot of now: running: now is running
		  launch template of now: running: now is running
		  stack of now: running: now is running
		  parameter of now: running: now is running
		  parameter of now: running: now is running
		  secret of now: running: now is running
		  sns of now: running: now is running`)
	for _, j := range all {
		if j.Kind == "sns" && j.Hint != "aws sns delete-topic --topic-arn "+j.ARN+" --region "+region {
			t.Errorf("hint %q", j.Hint)
		}
		if j.Made.IsZero() && j.kind != nil {
			t.Errorf("nobody knows when %s %s was made", j.Kind, j.ID)
		}
	}
	before := w.Live()
	did := w.removal(Options{}).Run(context.Background(), all)
	want(t, "results", results(did), `instance of bad: removed
		image of bad: removed
		snapshot of bad: removed
		launch template of bad: removed
		stack of bad: removed
		parameter of bad: removed
		parameter of bad: removed
		secret of bad: removed`)
	d := simcloud.Diff(before, w.Live())
	for _, r := range d.Removed {
		if r.Tags[TagExecution] != "bad" {
			t.Errorf("removed %s %s", r.Kind, r.ID)
		}
	}
	if len(d.Made)+len(d.Changed) > 0 {
		t.Errorf("changed: %s", d)
	}
	if left := w.judged(Options{Execution: "bad"}); len(left) != 1 || left[0].Kind != "sns" {
		t.Errorf("left: %s", lines(left))
	}
}

// A resource whose tags changed between the look and the removal stays, and so
// does one whose execution was reset meanwhile, or whose keep came late.
func TestWhatChangedMeanwhileStays(t *testing.T) {
	for _, tt := range []struct {
		what   string
		change func(w *world, id string)
		why    string
	}{
		{"lost its tag", func(w *world, id string) {
			w.given("ec2 DeleteTags", m{"Resources": []any{id}, "Tags": []any{m{"Key": TagExecution}}})
		}, "it is no longer as it was judged: its tags are others now"},
		{"belongs to another execution", func(w *world, id string) { w.tag(id, TagExecution, "other") }, "it is no longer as it was judged: its tags are others now"},
		{"belongs to another that is left over too", func(w *world, id string) { w.tag(id, TagExecution, "bad2") }, "it is no longer as it was judged: its tags are others now"},
		{"of another step", func(w *world, id string) { w.tag(id, TagToken, "x") }, "it is no longer as it was judged: its tags are others now"},
		{"to be kept", func(w *world, id string) { w.tag(id, TagKeep, "true") }, "it is no longer as it was judged: it has the tag almanac:keep"},
		{"the execution runs again", func(w *world, _ string) { w.executions[0].Status = Running }, "it is no longer as it was judged: bad is running"},
		{"the server cannot tell any more", func(w *world, _ string) { w.noServer = errors.New("lost") }, "look for execution bad: lost"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			w := newWorld(t, ended("bad", workflows.Cancelled), ended("bad2", workflows.Cancelled))
			id := w.instance("bad")
			all := w.judged(Options{})
			tt.change(w, id)
			before := w.Live()
			want(t, "results", results(w.removal(Options{}).Run(context.Background(), all)), "instance of bad: stays: "+tt.why)
			if d := simcloud.Diff(before, w.Live()); !d.Empty() {
				t.Errorf("changed: %s", d)
			}
		})
	}
}

// The tags are read immediately before each removal, not before the first: what
// changes while an instance is waited for is seen.
func TestTagsAreReadBeforeEachRemoval(t *testing.T) {
	w := newWorld(t, ended("bad", workflows.RolledBack))
	image := w.image(w.instance("bad"), "image", "bad")
	all := w.judged(Options{})
	w.before = func(operation string, _ map[string]any) {
		if operation == "TerminateInstances" {
			w.tag(image, TagKeep, "yes")
		}
	}
	want(t, "results", results(w.removal(Options{}).Run(context.Background(), all)), `instance of bad: removed
		image of bad: stays: it is no longer as it was judged: it has the tag almanac:keep
		snapshot of bad: stays: `+image+` needs it`)
}

func TestJudge(t *testing.T) {
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	child := func(id, parent string, s Status) Execution { return Execution{ID: id, Parent: parent, Status: s} }
	for _, tt := range []struct {
		what       string
		executions []Execution
		tag        string
		more       string // tags
		o          Options
		want       string // "-" before the verdict: it would be removed
	}{
		{what: "rolled back", executions: []Execution{ended("e", workflows.RolledBack)}, want: "-left"},
		{what: "not rolled back entirely", executions: []Execution{ended("e", workflows.RollbackFailed)}, want: "-left"},
		{what: "timed out", executions: []Execution{ended("e", workflows.TimedOut)}, want: "-left"},
		{what: "terminated", executions: []Execution{ended("e", Terminated)}, want: "-left"},
		{what: "terminated, and leaves by intention", executions: []Execution{{ID: "e", Status: Terminated, Stopped: true}}, want: "stopped"},
		{what: "failed", executions: []Execution{ended("e", workflows.Failed)}, want: "stopped"},
		{what: "failed, and asked for", executions: []Execution{ended("e", workflows.Failed)}, o: Options{Stopped: true}, want: "-stopped"},
		{what: "failed, and named only", executions: []Execution{ended("e", workflows.Failed)}, o: Options{Execution: "e"}, want: "stopped"},
		{what: "succeeded", executions: []Execution{ended("e", workflows.Succeeded)}, o: Options{Execution: "e", Stopped: true}, want: "kept"},
		{what: "runs", executions: []Execution{ended("e", Running)}, o: Options{Execution: "e", Stopped: true}, want: "running"},
		{what: "a status of the future", executions: []Execution{ended("e", "paused")}, want: "running"},
		{what: "unknown", want: "unknown"},
		{what: "unknown, and all but named", o: Options{Stopped: true}, want: "unknown"},
		{what: "unknown, and named", o: Options{Execution: "e"}, want: "-unknown"},
		{what: "another is named", executions: []Execution{ended("e", workflows.RolledBack)}, o: Options{Execution: "f"}, want: ""},

		{what: "keep", executions: []Execution{ended("e", workflows.RolledBack)}, more: TagKeep + "=", want: "kept"},
		{what: "keep: false", executions: []Execution{ended("e", workflows.RolledBack)}, more: TagKeep + "=False", want: "-left"},
		{what: "keep, unknown and named", more: TagKeep + "=yes", o: Options{Execution: "e"}, want: "kept"},
		{what: "of a stack", executions: []Execution{ended("e", workflows.RolledBack)}, more: "aws:cloudformation:stack-id=s", want: "kept"},
		{what: "copied by AWS Backup", executions: []Execution{ended("e", workflows.RolledBack)}, more: "aws:backup:source-resource=s", want: "kept"},

		{what: "old enough", executions: []Execution{ended("e", workflows.RolledBack)}, o: Options{OlderThan: time.Hour, Now: at.Add(time.Hour)}, want: "-left"},
		{what: "too young", executions: []Execution{ended("e", workflows.RolledBack)}, o: Options{OlderThan: time.Hour, Now: at.Add(59 * time.Minute)}, want: "left"},

		{what: "the id was used again: one succeeded", executions: []Execution{ended("e", workflows.RolledBack), ended("e", workflows.Succeeded)}, want: "kept"},
		{what: "the id was used again: it runs", executions: []Execution{ended("e", workflows.RolledBack), ended("e", Running)}, want: "running"},
		{what: "the id was used again, after it was made", executions: []Execution{{ID: "e", Status: workflows.RolledBack, Started: at.Add(time.Hour)}}, want: "unknown"},
		{what: "the clocks are apart a little", executions: []Execution{{ID: "e", Status: workflows.RolledBack, Started: at.Add(time.Minute)}}, want: "-left"},
		{what: "made by the first of two", executions: []Execution{{ID: "e", Status: workflows.RolledBack}, {ID: "e", Status: workflows.Succeeded, Started: at.Add(time.Hour)}}, want: "-left"},
		{what: "two ids in one tag", tag: "a_1", executions: []Execution{ended("a_1", workflows.RolledBack), ended("a#1", Running)}, want: "running"},

		{what: "child of one that runs", tag: "e/c", executions: []Execution{child("e/c", "e", workflows.RolledBack), ended("e", Running)}, want: "running"},
		{what: "child that succeeded, of one that was rolled back", tag: "e/c", executions: []Execution{child("e/c", "e", workflows.Succeeded), ended("e", workflows.RolledBack)}, want: "-left"},
		{what: "child that succeeded, of one that failed", tag: "e/c", executions: []Execution{child("e/c", "e", workflows.Succeeded), ended("e", workflows.Failed)}, want: "stopped"},
		{what: "child that was rolled back, of one that went on", tag: "e/c", executions: []Execution{child("e/c", "e", workflows.RolledBack), ended("e", workflows.Succeeded)}, want: "-left"},
		{what: "child that leaves, of one that was rolled back", tag: "e/c", executions: []Execution{child("e/c", "e", workflows.Failed), ended("e", workflows.RolledBack)}, want: "stopped"},
		{what: "child and caller succeeded", tag: "e/c", executions: []Execution{child("e/c", "e", workflows.Succeeded), ended("e", workflows.Succeeded)}, want: "kept"},
		{what: "child of a child of one that runs", tag: "e/c/d", executions: []Execution{child("e/c/d", "e/c", workflows.RolledBack), child("e/c", "e", workflows.RolledBack), ended("e", Running)}, want: "running"},
		{what: "child in a loop", tag: "e/c_3_", executions: []Execution{child("e/c[3]", "e", workflows.RolledBack), ended("e", workflows.RolledBack)}, want: "-left"},
		{what: "child of one that is not known", tag: "e/c", executions: []Execution{child("e/c", "e", workflows.RolledBack)}, want: "unknown"},
		{what: "forgotten child of one that runs", tag: "e/c", executions: []Execution{ended("e", Running)}, o: Options{Execution: "e"}, want: "running"},
		{what: "forgotten child of one that is over", tag: "e/c", executions: []Execution{ended("e", workflows.RolledBack)}, want: "unknown"},
		{what: "forgotten child, caller named", tag: "e/c", executions: []Execution{ended("e", workflows.RolledBack)}, o: Options{Execution: "e"}, want: "-unknown"},
		{what: "not a child, though it begins alike", tag: "e2", o: Options{Execution: "e"}, want: ""},
		{what: "an id with a slash of its own", tag: "team/e", executions: []Execution{ended("team/e", workflows.RolledBack)}, want: "-left"},
	} {
		if tt.tag == "" {
			tt.tag = "e"
		}
		w := &world{T: t, executions: tt.executions}
		tags := map[string]string{TagExecution: tt.tag}
		if key, value, ok := strings.Cut(tt.more, "="); ok {
			tags[key] = value
		}
		r := instances().described(client{}, "i-1", tags)
		r.Made = at
		all, err := Judge(context.Background(), w, []Resource{r}, tt.o)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, j := range all {
			if got = string(j.Verdict); j.Remove {
				got = "-" + got
			}
			if j.Reason == "" {
				t.Errorf("%s: no reason", tt.what)
			}
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.what, got, tt.want)
		}
	}
}

func TestServerThatCannotTell(t *testing.T) {
	w := &world{T: t, noServer: errors.New("lost")}
	if all, err := Judge(context.Background(), w, []Resource{{Execution: "e"}}, Options{}); err == nil || len(all) > 0 {
		t.Errorf("%v, %v", all, err)
	}
}

// One that cannot be removed hinders no other. An image is removed though its
// instance is not, and a volume that an instance has goes with it only.
func TestGoesOnPastFailures(t *testing.T) {
	w := newWorld(t, ended("bad", workflows.RolledBack))
	protected := w.instance("bad", "DisableApiTermination")
	w.image(protected, "image", "bad")
	w.instance("bad")
	w.given("ec2 CreateSnapshot", m{"VolumeId": w.volume(protected), "TagSpecifications": specs("bad", "snapshot")})
	w.now = w.now.Add(time.Hour)
	did := w.removal(Options{}).Run(context.Background(), w.judged(Options{}))
	slices.SortStableFunc(did, func(a, b Result) int { return strings.Compare(a.Kind+a.Error, b.Kind+b.Error) })
	want(t, "results", results(did), `image of bad: removed
		instance of bad: removed
		instance of bad: stays: ec2 TerminateInstances: OperationNotPermitted: The instance '`+protected+`' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again.
		snapshot of bad: removed
		snapshot of bad: removed`)
	want(t, "live", w.live(), `instance of "bad"
		volume of "bad"`)
}

// What is asked for and does not come to pass is said, and not waited for
// without end.
func TestWaitsAsLongAsItMay(t *testing.T) {
	w := newWorld(t, ended("bad", workflows.RolledBack))
	w.instance("bad")
	all := w.judged(Options{})
	r := w.removal(Options{})
	r.Caller = ineffective{w}
	began := w.now
	want(t, "results", results(r.Run(context.Background(), all)), "instance of bad: stays: asked for, but not done within 15m0s")
	if took := w.now.Sub(began); took != 15*time.Minute {
		t.Errorf("it took %s", took)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	want(t, "results", results(r.Run(ctx, all)), "instance of bad: stays: context canceled")
}

// ineffective takes requests to remove, and does nothing.
type ineffective struct{ awsapi.Caller }

func (i ineffective) Call(ctx context.Context, in awsapi.Scope, service, operation string, input map[string]any) (map[string]any, error) {
	if operation == "TerminateInstances" {
		return nil, nil
	}
	return i.Caller.Call(ctx, in, service, operation, input)
}

// volume is the first volume of an instance.
func (w *world) volume(instance string) string {
	w.Helper()
	out := w.given("ec2 DescribeVolumes", m{"Filters": []any{filter("attachment.instance-id", instance)}})
	return text(out["Volumes"].([]any)[0].(m), "VolumeId")
}

// A snapshot of an image that is kept is kept with it, whatever its own tags say.
func TestPartOfWhatStaysStays(t *testing.T) {
	w := newWorld(t, ended("bad", workflows.RolledBack))
	image := w.image(w.instance(""), "image", "bad")
	w.tag(image, TagKeep, "")
	want(t, "judged", lines(w.judged(Options{})), `  image of bad: kept: it has the tag almanac:keep
		  snapshot of bad: kept: `+image+` needs it, which stays`)
}

// Two parameters whose ARNs are the same are told apart by their tags.
func TestParametersOfOneARN(t *testing.T) {
	for _, ours := range []string{"p", "/p"} {
		w := newWorld(t, ended("bad", workflows.RolledBack))
		for _, name := range []string{"p", "/p"} {
			in := m{"Name": name, "Value": "v", "Type": "String"}
			if name == ours {
				in["Tags"] = tagList("bad")
			}
			w.given("ssm PutParameter", in)
		}
		all := w.judged(Options{})
		if len(all) != 1 || all[0].ID != ours {
			t.Errorf("%s: found %s", ours, lines(all))
		}
		w.removal(Options{}).Run(context.Background(), all)
		for _, r := range w.Live() {
			if r.Name == ours {
				t.Errorf("%s is still there", ours)
			}
		}
		if len(w.Live()) != 1 {
			t.Errorf("%s: %s", ours, w.live())
		}
	}
}

func TestTagValue(t *testing.T) {
	for id, want := range map[string]bool{"a/b-1": true, "a_b": false, "a[3]": false, strings.Repeat("a", 256): false, strings.Repeat("ä", 300): false} {
		tag := TagValue(id)
		if Exact(tag) != want || len(tag) > 256 || want && tag != id {
			t.Errorf("%s: %s, exact: %t", id, tag, Exact(tag))
		}
	}
	if got := TagValue("a[3].b#2"); got != "a_3_.b_2" {
		t.Error(got)
	}
}

// What was given another value since belongs to who gave it.
func TestChangedSinceStays(t *testing.T) {
	w := newWorld(t, ended("bad", workflows.RolledBack))
	w.given("ssm PutParameter", m{"Name": "/p", "Value": "v", "Type": "String", "Tags": tagList("bad")})
	w.given("ssm PutParameter", m{"Name": "/p", "Value": "w", "Overwrite": true})
	w.given("secretsmanager CreateSecret", m{"Name": "s", "SecretString": "v", "ClientRequestToken": strings.Repeat("t", 32), "Tags": tagList("bad")})
	w.given("secretsmanager PutSecretValue", m{"SecretId": "s", "SecretString": "w", "ClientRequestToken": strings.Repeat("u", 32)})
	w.given("cloudformation CreateStack", m{"StackName": "s", "TemplateBody": "{}", "Tags": tagList("bad")})
	w.now = w.now.Add(time.Hour)
	w.given("cloudformation UpdateStack", m{"StackName": "s", "TemplateBody": `{"a":1}`, "Tags": tagList("bad")})
	w.now = w.now.Add(time.Hour)
	want(t, "judged", lines(w.judged(Options{Execution: "bad"})), `  stack of bad: kept: it was changed since its step made it, and may be needed
		  parameter of bad: kept: it was changed since its step made it, and may be needed
		  secret of bad: kept: it was changed since its step made it, and may be needed`)
}

// Find says into what it could not look, once for each kind, and goes on.
func TestFindGoesOn(t *testing.T) {
	w := newWorld(t)
	w.image(w.instance("e"), "image", "e")
	for _, tt := range []struct {
		refused, kinds, problems string
	}{
		{"DescribeImages", "instance", `eu-central-1: list images: ec2 DescribeImages: UnauthorizedOperation: no
		eu-central-1: list snapshots: ec2 DescribeImages: UnauthorizedOperation: no`},
		{"resourcegroupstaggingapi", "instance image snapshot", `eu-central-1: list what else is tagged: resourcegroupstaggingapi GetResources: UnauthorizedOperation: no`},
	} {
		found, problems, err := Find(context.Background(), refusing{w.Cloud, tt.refused}, []awsapi.Scope{{Region: region}, {Region: "nowhere-1"}})
		if err != nil {
			t.Fatal(err)
		}
		var kinds, got []string
		for _, r := range found {
			kinds = append(kinds, r.Kind)
		}
		elsewhere := 0
		for _, p := range problems {
			if p.Region == region {
				got = append(got, p.String())
			} else {
				elsewhere++
			}
		}
		want(t, "kinds", strings.Join(kinds, " "), tt.kinds)
		want(t, "problems", strings.Join(got, "\n"), tt.problems)
		if elsewhere != 6 { // EC2's five kinds and the tagging API
			t.Errorf("%d problems elsewhere", elsewhere)
		}
	}
}

// refusing refuses services and operations.
type refusing struct {
	awsapi.Caller
	what string
}

func (r refusing) Call(ctx context.Context, in awsapi.Scope, service, operation string, input map[string]any) (map[string]any, error) {
	if words := strings.Fields(r.what); slices.Contains(words, service) || slices.Contains(words, operation) {
		return nil, &awsapi.Error{Service: service, Operation: operation, Code: "UnauthorizedOperation", Message: "no", Class: awsapi.Denied}
	}
	return r.Caller.Call(ctx, in, service, operation, input)
}

// All that actions make is found, by the tags that they give: also of an
// execution whose id a tag cannot hold.
func TestFindsWhatActionsMake(t *testing.T) {
	w := newWorld(t, ended("loop[3]#x", workflows.RolledBack))
	source := w.instance("")
	ctx := action.WithCall(context.Background(), action.Call{Token: "abcdefghijklmnopqrstuvwxyz", Execution: "loop[3]#x", Step: "copies[3].copy", Attempt: 1,
		Heartbeat: func(any) {}, Abandoned: func() bool { return false }, Mask: func(s string) string { return s },
		Reveal: func(context.Context, string) (string, error) { return "", nil }})
	made := false
	for _, a := range aws.Actions(aws.Env{Caller: w.Cloud, Now: func() time.Time { return w.now }, Sleep: func(ctx context.Context, d time.Duration) error {
		w.now = w.now.Add(d)
		return ctx.Err()
	}}) {
		if a.Name == "aws.ec2.create_image" {
			if _, err := a.Do(ctx, []byte(`{"instance_id":"`+source+`","name":"image","region":"`+region+`"}`)); err != nil {
				t.Fatal(err)
			}
			made = true
		}
	}
	if !made {
		t.Fatal("there is no action aws.ec2.create_image")
	}
	w.now = w.now.Add(time.Hour)
	want(t, "judged", lines(w.judged(Options{Execution: "loop[3]#x"})), `- image of loop_3__x: left: loop[3]#x was rolled back
		- snapshot of loop_3__x: left: loop[3]#x was rolled back`)
}

// What does not fit on one page is found too.
func TestFindsAllPages(t *testing.T) {
	w := newWorld(t, ended("bad", workflows.RolledBack))
	const many = 230
	for i := range many {
		w.given("ssm PutParameter", m{"Name": fmt.Sprintf("/p/%d", i), "Value": "v", "Type": "String", "Tags": tagList("bad")})
	}
	if n := len(w.judged(Options{})); n != many {
		t.Errorf("%d found of %d", n, many)
	}
}

func TestKindOf(t *testing.T) {
	for arn, want := range map[string]string{
		"arn:aws:ec2:eu-central-1:1:instance/i-1":                    "instance i-1",
		"arn:aws-cn:ec2:cn-north-1:1:launch-template/lt-1":           "launch template lt-1",
		"arn:aws:ssm:eu-central-1:1:parameter/a/b":                   "parameter a/b",
		"arn:aws:secretsmanager:eu-central-1:1:secret:a/b-x":         "secret arn:aws:secretsmanager:eu-central-1:1:secret:a/b-x",
		"arn:aws:cloudformation:eu-central-1:1:stack/a/8":            "stack arn:aws:cloudformation:eu-central-1:1:stack/a/8",
		"arn:aws:cloudformation:eu-central-1:1:stackset/a:8":         "none",
		"arn:aws:ec2:eu-central-1:1:instance-connect-endpoint/eice1": "none",
		"nonsense": "none",
	} {
		got := "none"
		if k, id := kindOf(arn); k != nil {
			got = k.name + " " + id
		}
		if got != want {
			t.Errorf("%s: %s, want %s", arn, got, want)
		}
	}
}

func TestHints(t *testing.T) {
	for arn, want := range map[string]string{
		"arn:aws:s3:::my-bucket":                       "s3: aws s3 rb s3://my-bucket --force",
		"arn:aws:dynamodb:eu-west-1:1:table/a":         "dynamodb table: aws dynamodb delete-table --table-name a --region eu-west-1",
		"arn:aws:logs:eu-west-1:1:log-group:/a b/$(x)": "logs log-group: aws logs delete-log-group --log-group-name '/a b/$(x)' --region eu-west-1",
		"arn:aws:rds:eu-west-1:1:db:a":                 "rds db: in the console: Resource Groups & Tag Editor, almanac:execution = e",
	} {
		r := foreign(client{}, arn, map[string]string{TagExecution: "e"})
		if got := r.Kind + ": " + r.Hint; got != want {
			t.Errorf("%s: %s, want %s", arn, got, want)
		}
	}
}
