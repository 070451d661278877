package aws

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/registry"
)

// fleetOf makes nodes that a test may change: their ids, then what they come to.
func (w *world) fleetOf(ids ...string) map[string]*registry.Listed {
	nodes := map[string]*registry.Listed{}
	w.env.Nodes = func(context.Context) ([]registry.Listed, error) {
		var all []registry.Listed
		for _, id := range ids {
			if n := nodes[id]; n != nil {
				all = append(all, *n)
			}
		}
		return all, nil
	}
	for _, id := range ids {
		nodes[id] = &registry.Listed{Node: registry.Node{ID: id}}
	}
	return nodes
}

func (w *world) assess(n *registry.Listed, c registry.Compliance) { n.Node = n.Assess(c, w.time()) }

// report imports, and returns the findings in a few words, by id.
func (w *world) report(in map[string]any) (string, map[string]string) {
	w.Helper()
	if err := w.sleep(context.Background(), time.Minute); err != nil {
		w.Fatal(err)
	}
	out, err := w.do("aws.securityhub.import_compliance", 1, in)
	if err != nil {
		w.Fatal(err)
	}
	found := map[string]string{}
	for _, f := range w.cloud.Findings() {
		f := members(f)
		found[strings.TrimPrefix(f.text("Id"), "almanac/compliance/")] = strings.Join([]string{f.in("Compliance").text("Status"),
			f.in("Workflow").text("Status"), f.in("Severity").text("Label"), f.text("RecordState")}, " ")
	}
	return string(out), found
}

func (w *world) person(id, workflow string) {
	w.given("securityhub", "BatchUpdateFindings", map[string]any{"Workflow": map[string]any{"Status": workflow}, "FindingIdentifiers": []any{map[string]any{
		"Id": "almanac/compliance/" + id, "ProductArn": "arn:aws:securityhub:us-east-1:123456789012:product/123456789012/default"}}})
}

// A fleet over some days: what Security Hub has after each report.
func TestComplianceOverTime(t *testing.T) {
	w := newWorld(t, nil)
	nodes := w.fleetOf("a", "b", "c", "i-0123456789abcdef0")
	is := func(what, out string, want map[string]string) {
		t.Helper()
		got, found := w.report(map[string]any{})
		if diff := cmp.Diff(want, found); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
		if got != out {
			t.Errorf("%s: %s, want %s", what, got, out)
		}
	}
	good := registry.Compliance{Baseline: "linux", Status: registry.Compliant}
	bad := registry.Compliance{Baseline: "linux", Status: registry.NonCompliant, Missing: map[string]int{"important": 2, "low": 5}}
	w.assess(nodes["a"], good)
	w.assess(nodes["b"], bad)
	w.assess(nodes["b"], registry.Compliance{Baseline: "sshd", Status: registry.NonCompliant, Missing: map[string]int{"critical": 1}})
	w.assess(nodes["i-0123456789abcdef0"], bad)
	instance := "main/i-0123456789abcdef0/linux"
	is("the first report", `{"compliant":1,"non_compliant":3,"archived":0,"unknown":1}`, map[string]string{
		"main/a/linux": "PASSED RESOLVED INFORMATIONAL ACTIVE", "main/b/linux": "FAILED NEW HIGH ACTIVE", "main/b/sshd": "FAILED NEW CRITICAL ACTIVE",
		instance: "FAILED NEW HIGH ACTIVE"})

	w.person("main/b/linux", "NOTIFIED")
	w.person("main/b/sshd", "SUPPRESSED")
	w.assess(nodes["a"], bad)
	w.assess(nodes["b"], registry.Compliance{Baseline: "sshd", Status: registry.Compliant})
	w.assess(nodes["i-0123456789abcdef0"], good)
	is("some have changed", `{"compliant":2,"non_compliant":2,"archived":0,"unknown":1}`, map[string]string{
		"main/a/linux": "FAILED NEW HIGH ACTIVE", "main/b/linux": "FAILED NOTIFIED HIGH ACTIVE", "main/b/sshd": "PASSED SUPPRESSED INFORMATIONAL ACTIVE",
		instance: "PASSED RESOLVED INFORMATIONAL ACTIVE"})

	gone := nodes["b"]
	delete(nodes, "b")
	is("one has left", `{"compliant":1,"non_compliant":1,"archived":2,"unknown":1}`, map[string]string{
		"main/a/linux": "FAILED NEW HIGH ACTIVE", "main/b/linux": "FAILED NOTIFIED HIGH ARCHIVED", "main/b/sshd": "PASSED SUPPRESSED INFORMATIONAL ARCHIVED",
		instance: "PASSED RESOLVED INFORMATIONAL ACTIVE"})

	nodes["b"] = gone
	w.assess(nodes["b"], good)
	is("it is back, and well", `{"compliant":3,"non_compliant":1,"archived":0,"unknown":1}`, map[string]string{
		"main/a/linux": "FAILED NEW HIGH ACTIVE", "main/b/linux": "PASSED RESOLVED INFORMATIONAL ACTIVE", "main/b/sshd": "PASSED SUPPRESSED INFORMATIONAL ACTIVE",
		instance: "PASSED RESOLVED INFORMATIONAL ACTIVE"})

	// Of another fleet, and of one baseline: the others stay as they are.
	only := nodes["a"]
	clear(nodes)
	nodes["a"] = only
	if out, found := w.report(map[string]any{"fleet": "east", "baseline": "linux"}); out != `{"compliant":0,"non_compliant":1,"archived":0,"unknown":0}` || len(found) != 5 {
		t.Errorf("another fleet: %s %v", out, found)
	}
	w.assess(only, good)
	if _, found := w.report(map[string]any{"baseline": "linux"}); found["main/a/linux"] != "PASSED RESOLVED INFORMATIONAL ACTIVE" || found["main/b/sshd"] != "PASSED SUPPRESSED INFORMATIONAL ACTIVE" ||
		found["main/b/linux"] != "PASSED RESOLVED INFORMATIONAL ARCHIVED" || found["east/a/linux"] != "FAILED NEW HIGH ACTIVE" {
		t.Errorf("one baseline: %v", found)
	}
	nodes["b"] = gone
	if _, found := w.report(map[string]any{}); found["main/b/linux"] != "PASSED RESOLVED INFORMATIONAL ACTIVE" {
		t.Errorf("back from the archive, where it was resolved: %s", found["main/b/linux"])
	}
}

func TestComplianceFinding(t *testing.T) {
	since := time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)
	common := members{"ProductArn": "arn:aws-cn:securityhub:cn-north-1:123456789012:product/123456789012/default", "AwsAccountId": "123456789012", "CreatedAt": "now"}
	node := registry.Node{ID: "i-0123456789abcdef0", Name: "db-7", Region: "cn-northwest-1", Account: "999999999999"}
	f := complianceFinding(common, "main", &node, registry.Compliance{Baseline: "linux", Status: registry.NonCompliant, Missing: map[string]int{"critical": 1, "other": 2},
		Failed: 1, RebootPending: true, Message: "held back", Since: since, At: since.Add(time.Hour)})
	got, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
 "AwsAccountId": "123456789012",
 "Compliance": {
  "Status": "FAILED"
 },
 "CreatedAt": "2026-11-20T08:00:00.000Z",
 "Description": "Node i-0123456789abcdef0 (db-7) does not comply with baseline linux: 1 critical missing, 2 other missing, 1 could not be installed, a restart is due. held back",
 "FindingProviderFields": {
  "Severity": {
   "Label": "CRITICAL"
  },
  "Types": [
   "Software and Configuration Checks/Patch Management"
  ]
 },
 "FirstObservedAt": "2026-11-20T08:00:00.000Z",
 "GeneratorId": "almanac/compliance/main/linux",
 "Id": "almanac/compliance/main/i-0123456789abcdef0/linux",
 "LastObservedAt": "2026-11-20T09:00:00.000Z",
 "PatchSummary": {
  "FailedCount": 1,
  "Id": "linux",
  "MissingCount": 3
 },
 "ProductArn": "arn:aws-cn:securityhub:cn-north-1:123456789012:product/123456789012/default",
 "RecordState": "ACTIVE",
 "Resources": [
  {
   "Id": "arn:aws-cn:ec2:cn-northwest-1:999999999999:instance/i-0123456789abcdef0",
   "Partition": "aws-cn",
   "Region": "cn-northwest-1",
   "Type": "AwsEc2Instance"
  }
 ],
 "Severity": {
  "Label": "CRITICAL"
 },
 "Title": "Compliance of node i-0123456789abcdef0 with baseline linux",
 "Types": [
  "Software and Configuration Checks/Patch Management"
 ],
 "Workflow": {
  "Status": "NEW"
 }
}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	for _, tt := range []struct {
		c    registry.Compliance
		want string
	}{
		{registry.Compliance{Status: registry.Compliant}, "INFORMATIONAL"},
		{registry.Compliance{Missing: map[string]int{"important": 1, "low": 1}}, "HIGH"},
		{registry.Compliance{Missing: map[string]int{"moderate": 1, "low": 1}}, "MEDIUM"},
		{registry.Compliance{Missing: map[string]int{"other": 1}, Failed: 1}, "MEDIUM"},
		{registry.Compliance{Missing: map[string]int{"other": 1}}, "LOW"},
		{registry.Compliance{RebootPending: true}, "LOW"},
	} {
		if got := severityOf(tt.c); got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.c, got, tt.want)
		}
	}
}

// Whatever a node and a baseline are called, ASFF takes it, and two never share a finding.
func TestComplianceLengths(t *testing.T) {
	common := members{"ProductArn": "arn:aws:securityhub:us-east-1:123456789012:product/123456789012/default", "AwsAccountId": "123456789012"}
	ids := map[string]bool{}
	for _, baseline := range []string{strings.Repeat("ü", 600), strings.Repeat("ü", 600) + "2", "\xff\xfe", strings.Repeat("x", 5000)} {
		f := members(complianceFinding(common, "main", &registry.Node{ID: strings.Repeat("n", 128), Name: strings.Repeat("long ", 300)},
			registry.Compliance{Baseline: baseline, Message: strings.Repeat("why ", 1000), Status: registry.NonCompliant}))
		for name, most := range map[string]int{"Title": 256, "Description": 1024, "Id": 512, "GeneratorId": 512} {
			if s := f.text(name); utf8.RuneCountInString(s) > most || !utf8.ValidString(s) || s == "" {
				t.Errorf("%s of %d characters, at most %d: %q", name, utf8.RuneCountInString(s), most, s)
			}
		}
		if id := f.text("Id"); ids[id] {
			t.Errorf("two findings are %s", id)
		} else {
			ids[id] = true
		}
	}
}

func TestComplianceBatches(t *testing.T) {
	w := newWorld(t, nil)
	var ids []string
	for i := range 250 {
		ids = append(ids, fmt.Sprintf("n-%03d", i))
	}
	nodes := w.fleetOf(ids...)
	for _, n := range nodes {
		w.assess(n, registry.Compliance{Baseline: "linux", Status: registry.NonCompliant})
	}
	w.report(map[string]any{})
	for _, n := range nodes {
		w.assess(n, registry.Compliance{Baseline: "linux", Status: registry.Compliant})
	}
	_, found := w.report(map[string]any{})
	for id, got := range found {
		if got != "PASSED RESOLVED INFORMATIONAL ACTIVE" {
			t.Errorf("%s: %s", id, got)
		}
	}
	calls := map[string]int{}
	for _, e := range w.cloud.Ledger() {
		calls[e.Operation]++
	}
	if len(found) != 250 || calls["BatchImportFindings"] != 6 || calls["BatchUpdateFindings"] != 3 || calls["GetFindings"] < 4 {
		t.Errorf("%d findings by %v", len(found), calls)
	}
}

// failing has Security Hub refuse a node, and forget another.
type failing struct{ awsapi.Caller }

func (f failing) Call(ctx context.Context, in awsapi.Scope, service, operation string, input map[string]any) (map[string]any, error) {
	switch operation {
	case "BatchImportFindings":
		return map[string]any{"SuccessCount": int64(1), "FailedFindings": []any{map[string]any{"Id": "almanac/compliance/main/b/linux", "ErrorCode": "InvalidInput", "ErrorMessage": "no good"}}}, nil
	case "BatchUpdateFindings":
		return map[string]any{"UnprocessedFindings": []any{map[string]any{"FindingIdentifier": map[string]any{"Id": "almanac/compliance/main/a/linux"}, "ErrorCode": "ConcurrentUpdateError", "ErrorMessage": "twice"}}}, nil
	}
	return f.Caller.Call(ctx, in, service, operation, input)
}

func TestComplianceRefused(t *testing.T) {
	w := newWorld(t, nil)
	_, err := w.do("aws.securityhub.import_compliance", 1, map[string]any{})
	wants(t, err, action.Denied, "no nodes")
	nodes := w.fleetOf("a", "b")
	_, err = w.do("aws.securityhub.import_compliance", 1, map[string]any{"fleet": "a/b"})
	wants(t, err, action.Invalid, "slashes")
	for _, n := range nodes {
		w.assess(n, registry.Compliance{Baseline: "linux", Status: registry.NonCompliant})
	}
	w.report(map[string]any{})
	w.assess(nodes["a"], registry.Compliance{Baseline: "linux", Status: registry.Compliant})
	w.env.Caller = failing{w.env.Caller}
	_, err = w.do("aws.securityhub.import_compliance", 1, map[string]any{})
	wants(t, err, action.Invalid, "refused 2 of 2", "main/b/linux: InvalidInput: no good", "main/a/linux: ConcurrentUpdateError")
	w.env.Nodes = func(context.Context) ([]registry.Listed, error) { return nil, errors.New("no server") }
	_, err = w.do("aws.securityhub.import_compliance", 1, map[string]any{})
	wants(t, err, action.Unavailable, "no server")
}
