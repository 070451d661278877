package ssmnode

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/internal/simcloud"
)

func (w *world) listed(scope awsapi.Scope) map[string]registry.Node {
	w.Helper()
	all := map[string]registry.Node{}
	err := List(w.Context(), w.env.AWS.Caller, scope, func(n registry.Node) {
		if _, twice := all[n.ID]; twice {
			w.Errorf("%s is listed twice", n.ID)
		}
		all[n.ID] = n
	})
	if err != nil {
		w.Fatal(err)
	}
	return all
}

func TestList(t *testing.T) {
	w := newWorld(t, func(o *simcloud.Options) {
		patches(bash, curl)(o)
		o.PageSize = 3
	})
	win := w.launch(windowsImage, map[string]string{"Name": "win-1", "role": "db"})
	arm := w.given("ssm", "GetParameter", m{"Name": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"})["Parameter"].(m)["Value"]
	out := w.given("ec2", "RunInstances", m{"ImageId": arm, "InstanceType": "t4g.small", "MinCount": 60, "MaxCount": 60, "ClientToken": "many"})
	first := text(objects(out, "Instances")[0], "InstanceId")
	hybrid := w.cloud.Register(simcloud.Hybrid{Name: "rack-7", Tags: map[string]string{"site": "berlin"}})
	w.given("ec2", "StopInstances", m{"InstanceIds": []any{first}})
	w.must("host.patch.scan", m{"baseline": security})
	all := w.listed(awsapi.Scope{})
	if len(all) != 63 {
		t.Errorf("%d nodes", len(all))
	}
	ignore := cmpopts.IgnoreFields(registry.Node{}, "Seen", "Registered")
	at := cmpopts.IgnoreFields(registry.Compliance{}, "At")
	for id, want := range map[string]registry.Node{
		w.id: {Name: w.id + ".us-east-1.compute.internal", Platform: "linux", OS: "amzn", Version: "2023", Arch: "amd64", AgentVersion: "3.3.3050.0",
			Tags: map[string]string{"Name": "web-1", "role": "web"}, Region: "us-east-1", Online: true,
			Compliance: []registry.Compliance{{Baseline: "pb-0123456789abcdef0", Status: "non_compliant", Missing: map[string]int{"critical": 1}, Message: "1 missing"}}},
		win: {Name: win + ".us-east-1.compute.internal", Platform: "windows", OS: "windows", Version: "10.0.20348", Arch: "amd64", AgentVersion: "3.3.3050.0",
			Tags: map[string]string{"Name": "win-1", "role": "db"}, Region: "us-east-1", Online: true},
		first:  {Name: first + ".us-east-1.compute.internal", Platform: "linux", OS: "amzn", Version: "2023", Arch: "arm64", AgentVersion: "3.3.3050.0", Tags: map[string]string{}, Region: "us-east-1"},
		hybrid: {Name: "rack-7", Platform: "linux", OS: "amzn", Version: "2023", AgentVersion: "3.3.3050.0", Tags: map[string]string{"site": "berlin"}, Online: true},
	} {
		want.ID, want.Reach, want.Account = id, registry.ReachSSM, "123456789012"
		got := all[id]
		if diff := cmp.Diff(want, got, ignore, at); diff != "" {
			t.Errorf("%s (-want +got):\n%s", id, diff)
		}
		if got.Seen.IsZero() || got.Registered.IsZero() {
			t.Errorf("%s: seen %s, registered %s", id, got.Seen, got.Registered)
		}
	}
	if len(w.listed(awsapi.Scope{Region: "eu-west-1"})) != 0 {
		t.Error("nodes of another region")
	}
	// How many calls it takes does not grow with every instance.
	calls := map[string]int{}
	for _, e := range w.cloud.Ledger() {
		calls[e.Operation]++
	}
	if calls["ListTagsForResource"] != 1 {
		t.Errorf("calls: %v", calls)
	}
}

func TestFind(t *testing.T) {
	w := newWorld(t, nil)
	scopes := []awsapi.Scope{{Region: "eu-west-1"}, {Region: "us-east-1"}, {Region: "nowhere-1"}}
	n, err := Find(t.Context(), w.env.AWS.Caller, scopes, w.id)
	if err != nil || n == nil || n.Region != "us-east-1" || n.Tags["role"] != "web" {
		t.Errorf("%+v, %v", n, err)
	}
	n, err = Find(t.Context(), w.env.AWS.Caller, scopes[:2], "i-0123456789abcdef0")
	if err != nil || n != nil {
		t.Errorf("%+v, %v", n, err)
	}
	var e *awsapi.Error
	if _, err = Find(t.Context(), w.env.AWS.Caller, scopes, "i-0123456789abcdef0"); !errors.As(err, &e) || e.Code != awsapi.CodeEndpoint {
		t.Errorf("%v", err)
	}
}

func TestDescribe(t *testing.T) {
	w := newWorld(t, nil)
	out := w.must("host.node.describe", m{})
	want := m{"id": w.id, "name": w.id + ".us-east-1.compute.internal", "os": "amzn", "version": "2023", "arch": "amd64", "platform": "linux",
		"agent_version": "3.3.3050.0", "boot_id": "", "tags": m{"Name": "web-1", "role": "web"}}
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	w.id = "mi-0123456789abcdef0"
	_, err := w.do("host.node.describe", m{})
	wants(t, err, action.Unreached, w.id)
	w.env.AWS.Caller = nil
	_, err = w.do("host.node.describe", m{})
	wants(t, err, action.Denied, "no access to AWS")
	_, err = w.doIn(w.contextOf(context.Background(), action.Target{}), "host.node.describe", m{})
	wants(t, err, action.Internal, "names no node")
}

func TestSystem(t *testing.T) {
	for name, want := range map[string]string{
		"Amazon Linux": "amzn", "Amazon Linux AMI": "amzn", "Ubuntu": "ubuntu", "Debian GNU/Linux": "debian", "Red Hat Enterprise Linux Server": "rhel",
		"CentOS Linux": "centos", "SLES": "sles", "Oracle Linux Server": "ol", "Rocky Linux": "rocky", "AlmaLinux": "almalinux", "Weird OS": "weird", "": "",
	} {
		if got := system(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	for zone, want := range map[string]string{"eu-west-1a": "eu-west-1", "us-west-2-lax-1a": "us-west-2", "us-gov-west-1b": "us-gov-west-1", "": "", "x": ""} {
		if got := region(zone); got != want {
			t.Errorf("%s is in %s, want %s", zone, got, want)
		}
	}
}
