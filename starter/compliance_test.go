package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/internal/registry"
)

func fleetForTest() []registry.Listed {
	node := func(id string, all ...registry.Compliance) registry.Listed {
		return registry.Listed{Node: registry.Node{ID: id, Compliance: all}}
	}
	return []registry.Listed{
		node("a", registry.Compliance{Baseline: "linux", Status: registry.Compliant}),
		node("b", registry.Compliance{Baseline: "linux", Status: registry.NonCompliant, Missing: map[string]int{"critical": 3, "low": 1, "zzz": 2}},
			registry.Compliance{Baseline: "sshd", Status: registry.Compliant}),
		node("c", registry.Compliance{Baseline: "linux", Status: registry.NonCompliant, Missing: map[string]int{"important": 12, "moderate": 0}}),
		node("d"),
		node("e", registry.Compliance{Baseline: "linux", Status: registry.NonCompliant, RebootPending: true}),
	}
}

func TestStandings(t *testing.T) {
	for _, tt := range []struct {
		baseline, rows, line string
	}{
		{"", "a/linux=compliant b/linux=non_compliant b/sshd=compliant c/linux=non_compliant d/=unknown e/linux=non_compliant",
			"1 of 5 compliant, 1 unknown; missing: 3 critical, 12 important, 1 low, 2 zzz on 2 nodes"},
		{"linux", "a/linux=compliant b/linux=non_compliant c/linux=non_compliant d/linux=unknown e/linux=non_compliant",
			"1 of 5 compliant, 1 unknown; missing: 3 critical, 12 important, 1 low, 2 zzz on 2 nodes"},
		{"sshd", "a/sshd=unknown b/sshd=compliant c/sshd=unknown d/sshd=unknown e/sshd=unknown", "1 of 5 compliant, 4 unknown"},
	} {
		var rows []string
		all := standings(fleetForTest(), tt.baseline)
		for _, s := range all {
			rows = append(rows, fmt.Sprintf("%s/%s=%s", s.Node, s.Baseline, s.Status))
		}
		if diff := cmp.Diff(tt.rows, strings.Join(rows, " ")); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.baseline, diff)
		}
		if got := sum(all).String(); got != tt.line {
			t.Errorf("%q: %s\nwant %s", tt.baseline, got, tt.line)
		}
	}
}

func TestFailOn(t *testing.T) {
	all := standings(fleetForTest(), "")
	for failOn, want := range map[string]string{
		"critical": "b/linux", "important": "b/linux c/linux", "moderate": "b/linux c/linux", "low": "b/linux c/linux", "any": "b/linux c/linux d/ e/linux",
	} {
		var hit []string
		for i := range all {
			if all[i].lacks(failOn) {
				hit = append(hit, all[i].Node+"/"+all[i].Baseline)
			}
		}
		if got := strings.Join(hit, " "); got != want {
			t.Errorf("%s: %s, want %s", failOn, got, want)
		}
	}
}

func TestComplianceFlags(t *testing.T) {
	for _, tt := range []struct {
		f    complianceFilter
		says string
	}{
		{complianceFilter{failOn: "high"}, "critical, important"},
		{complianceFilter{history: "30"}, "--history"},
		{complianceFilter{history: "400d"}, "at most 366d"},
		{complianceFilter{history: "3d", where: "true"}, "whole fleet"},
		{complianceFilter{where: "node.nam"}, "--where"},
		{complianceFilter{history: "30d", baseline: "linux"}, ""},
		{complianceFilter{failOn: "any", missing: true}, ""},
	} {
		err := tt.f.check()
		if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%+v: %v, want %q", tt.f, err, tt.says)
		}
	}
	f := complianceFilter{history: "30d"}
	if err := f.check(); err != nil || f.days != 30*24*time.Hour {
		t.Errorf("%s %v", f.days, err)
	}
}

// A condition about a tag that some node lacks says how to ask for it.
func TestThose(t *testing.T) {
	all := []registry.Listed{
		{Node: registry.Node{ID: "web-1", Tags: map[string]string{"stage": "production"}}},
		{Node: registry.Node{ID: "web-2"}},
	}
	if _, err := those(all, `node.tags.stage == "production"`); err == nil || !strings.Contains(err.Error(), `of node web-2`) ||
		!strings.Contains(err.Error(), `node.tags[?"NAME"].orValue("")`) {
		t.Errorf("%v, want the node and a way out", err)
	}
	found, err := those(all, `node.tags[?"stage"].orValue("") == "production"`)
	if err != nil || len(found) != 1 || found[0].ID != "web-1" {
		t.Errorf("%v, %v, want web-1", found, err)
	}
}

func TestComplianceCSV(t *testing.T) {
	var b strings.Builder
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	err := complianceCSV(&app{stdout: &b}, []standing{{"=cmd()", "web", registry.Compliance{Baseline: "linux", Status: registry.NonCompliant,
		Missing: map[string]int{"critical": 1, "zzz": 2}, Failed: 1, Message: "a, \"b\"\x1b", Since: at, At: at, Execution: "x"}}})
	const want = "node,name,baseline,status,since,critical,important,moderate,low,other,failed,reboot_pending,at,execution,message\n" +
		"'=cmd(),web,linux,non_compliant,2026-11-25T12:00:00Z,1,0,0,0,2,1,false,2026-11-25T12:00:00Z,x,\"a, \"\"b\"\"\uFFFD\"\n"
	if err != nil || b.String() != want {
		t.Errorf("%v\n%s\nwant\n%s", err, b.String(), want)
	}
}
