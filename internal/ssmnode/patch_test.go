package ssmnode

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/simcloud"
)

func patches(all ...simcloud.Patch) func(*simcloud.Options) {
	return func(o *simcloud.Options) {
		o.Patches = func(simcloud.Instance) []simcloud.Patch { return all }
		o.Shell = nil
	}
}

var (
	bash    = simcloud.Patch{ID: "bash.x86_64", Title: "bash.x86_64:0:4.2.46-34.amzn2", Classification: "Security", Severity: "Critical", State: "Missing", CVEs: "CVE-2026-1, CVE-2026-2"}
	kernel  = simcloud.Patch{ID: "kernel.x86_64", Title: "kernel.x86_64:1:6.1-5", Classification: "Security", Severity: "Medium", State: "Missing"}
	vim     = simcloud.Patch{ID: "vim", Title: "vim-9.1", Classification: "Bugfix", Severity: "", State: "Missing"}
	curl    = simcloud.Patch{ID: "curl.x86_64", Title: "curl.x86_64:0:8.5-1", Classification: "Security", Severity: "Low", State: "Installed"}
	glibc   = simcloud.Patch{ID: "glibc.x86_64", Title: "glibc.x86_64:0:2.34-2", State: "InstalledOther"}
	bad     = simcloud.Patch{ID: "openssl.x86_64", Title: "openssl.x86_64:0:3.0.15-1", Classification: "Security", Severity: "Important", State: "Missing", Fails: true}
	refused = simcloud.Patch{ID: "telnet.x86_64", Title: "telnet.x86_64:0:1-1", State: "InstalledRejected"}
)

func baseline(rules ...any) m { return m{"baseline": "prod", "rules": rules} }

var security = baseline(m{"approve": `patch.classification == "security"`})

func TestPatchScan(t *testing.T) {
	w := newWorld(t, patches(bash, kernel, vim, curl, glibc))
	out := w.must("host.patch.scan", m{"baseline": security})
	got := fmt.Sprint(out["baseline"], " ", out["manager"], " ", out["status"], " ", out["why"], " ", out["missing"], out["missing_by_severity"], " ", out["not_in_baseline"], out["installed"], out["patched"], out["other"], out["os"], out["version"])
	want := "prod dnf non_compliant 2 missing (1 critical, 1 moderate) 2 map[critical:1 important:0 low:0 moderate:1 other:0] 1 2 1 1amzn2023"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var lines []string
	for _, p := range out["patches"].([]any) {
		p := p.(m)
		lines = append(lines, fmt.Sprint(p["name"], " ", p["arch"], " ", p["version"], " ", p["severity"], " ", p["decision"], " ", p["cves"]))
	}
	if got, want := strings.Join(lines, "\n"), "bash x86_64 4.2.46-34.amzn2 critical install [CVE-2026-1 CVE-2026-2]\nkernel x86_64 1:6.1-5 moderate install <nil>\nvim <nil> 9.1  not_in_baseline <nil>"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// Patch Manager gives no dates: what has to wait waits.
	w.token = "b" + token[1:]
	out = w.must("host.patch.scan", m{"baseline": baseline(m{"approve": "true", "after": "7d"})})
	if out["status"] != "compliant" || out["waiting"] != 3.0 {
		t.Error(out)
	}
	w = newWorld(t, patches(curl, refused))
	if out = w.must("host.patch.scan", m{"baseline": security}); out["status"] != "non_compliant" || !strings.Contains(out["why"].(string), "1 installed that pb-") {
		t.Error(out)
	}
}

func TestPatchInstall(t *testing.T) {
	w := newWorld(t, patches(bash, kernel, curl))
	in := m{"baseline": security}
	out := w.must("host.patch.install", in)
	if fmt.Sprint(out["status"], " ", out["missing"], " ", out["upgraded_count"], " ", out["rebooted"], " ", out["reboot_pending"]) != "compliant 0 2 true false" {
		t.Error(out)
	}
	if first := out["upgraded"].([]any)[0].(m); first["name"] != "bash" || first["to"] != "4.2.46-34.amzn2" {
		t.Error(first)
	}
	sent := w.sent()
	if sent != 2 { // scan and install
		t.Errorf("%d commands", sent)
	}
	// Its answer was lost: the same, and nothing is sent.
	w.attempt = 2
	if again := w.must("host.patch.install", in); fmt.Sprint(again["upgraded"]) != fmt.Sprint(out["upgraded"]) || w.sent() != sent {
		t.Errorf("again: %v, %d sent", again, w.sent())
	}
	err := w.compensate("host.patch.install", in, out)
	wants(t, err, action.Failed, "takes no update back", "bash 4.2.46-34.amzn2", "snapshot")
	wants(t, w.compensate("host.patch.install", in, nil), action.Failed, "takes no update back")

	w = newWorld(t, patches(bash))
	out = w.must("host.patch.install", m{"baseline": security, "reboot": "never"})
	if out["reboot_pending"] != true || out["rebooted"] != false || out["status"] != "non_compliant" || !strings.Contains(out["why"].(string), "reboot") {
		t.Error(out)
	}
	w = newWorld(t, patches(curl))
	out = w.must("host.patch.install", in)
	if out["upgraded_count"] != 0.0 || w.sent() != 1 {
		t.Errorf("%v, %d sent", out, w.sent())
	}
	for _, o := range []m{out, nil} {
		if err := w.compensate("host.patch.install", in, o); err != nil {
			t.Error(err)
		}
	}
}

// The health script runs when Patch Manager is done, also if there was nothing to do; and what
// cannot be taken back stays, and is said to.
func TestPatchInstallHealth(t *testing.T) {
	check := `echo "running $WHAT"; test "$WHAT" = good`
	for _, tt := range []struct {
		has  []simcloud.Patch
		in   m
		says []string // nil: it succeeds
		sent int
	}{
		{[]simcloud.Patch{bash, kernel}, m{"health": check, "health_env": m{"WHAT": "good"}}, nil, 3},
		{[]simcloud.Patch{bash, kernel}, m{"health": check, "health_env": m{"WHAT": "bad"}}, []string{"health check failed: exit 1: running bad; 2 updates stay, since Patch Manager takes none back"}, 3},
		{[]simcloud.Patch{bash, kernel}, m{"health": check, "on_unhealthy": "keep"}, []string{"health check failed: exit 1: running; 2 updates kept"}, 3},
		{[]simcloud.Patch{curl}, m{"health": "exit 3"}, []string{"health check failed: exit 3; this step has changed nothing"}, 2},
		{[]simcloud.Patch{curl}, m{"health": "true", "health_shell": "sh"}, nil, 2},
		{[]simcloud.Patch{curl}, m{"health": "sleep 10800", "health_timeout": "1m"}, []string{"health check failed: it did not end within 1m0s"}, 2},
	} {
		w := newWorld(t, func(o *simcloud.Options) {
			shell := o.Shell
			patches(tt.has...)(o)
			o.Shell = func(ctx context.Context, c simcloud.Command) simcloud.CommandResult {
				if c.Document == "AWS-RunShellScript" && tt.in["health_timeout"] != nil {
					return simcloud.CommandResult{Duration: 3 * time.Hour}
				}
				return shell(ctx, c)
			}
		})
		tt.in["baseline"] = security
		_, err := w.do("host.patch.install", tt.in)
		if tt.says == nil && err != nil {
			t.Errorf("%v: %v", tt.in, err)
		} else if tt.says != nil {
			wants(t, err, action.Failed, tt.says...)
		}
		if w.sent() != tt.sent || t.Failed() {
			t.Errorf("%v: %d commands", tt.in, w.sent())
		}
		if tt.in["on_unhealthy"] == "keep" {
			var e *action.Error
			if errors.As(err, &e); e.Detail.(host.PatchDetail).ExitCode != 1 || e.Detail.(host.PatchDetail).Upgraded != 2 || strings.TrimSpace(e.Detail.(host.PatchDetail).Tail) != "running" {
				t.Errorf("%+v", e.Detail)
			}
		}
	}
}

func TestPatchInstallFails(t *testing.T) {
	w := newWorld(t, patches(bash, bad))
	_, err := w.do("host.patch.install", m{"baseline": security})
	wants(t, err, action.Failed, "1 of the approved updates were not installed", "openssl")
	var e *action.Error
	if errors.As(err, &e); e.Detail.(host.PatchDetail).Failed[0].Name != "openssl" || e.Detail.(host.PatchDetail).Upgraded != 1 {
		t.Errorf("%+v", e.Detail)
	}
}

// Patch Manager installs all that its own baseline wants: a step that does not
// want all of it is refused before anything is installed.
func TestPatchInstallRefused(t *testing.T) {
	for _, tt := range []struct {
		in   m
		kind action.Kind
		says string
	}{
		{m{"baseline": baseline(m{"approve": `patch.severity == "critical"`})}, action.Conflict, "kernel 1:6.1-5 (not in baseline)"},
		{m{"baseline": baseline(m{"approve": "true"}, m{"reject": `patch.name == "kernel"`})}, action.Conflict, "kernel 1:6.1-5 (reject)"},
		{m{"baseline": baseline(m{"approve": "true", "after": "7d"})}, action.Conflict, "(wait)"},
		{m{"baseline": security, "exclude": []any{"ker*"}}, action.Conflict, "kernel 1:6.1-5 (excluded)"},
		{m{"baseline": security, "reboot": "always"}, action.Invalid, "aws.ec2.reboot_instances"},
		{m{"baseline": security, "snapshot": "lvm"}, action.Invalid, "aws.ec2.create_snapshot"},
		{m{"baseline": m{"baseline": "x"}}, action.Invalid, "rules"},
	} {
		w := newWorld(t, patches(bash, kernel))
		_, err := w.do("host.patch.install", tt.in)
		wants(t, err, tt.kind, tt.says)
		if state := w.given("ssm", "DescribeInstancePatches", m{"InstanceId": w.id}); strings.Contains(fmt.Sprint(state), "State:Installed") {
			t.Errorf("%s: something is installed", tt.says)
		}
	}
}

func TestPatchOldAgent(t *testing.T) {
	for version, old := range map[string]bool{"3.3.2745.9": true, "3.2.9999.0": true, "2.3.1": true, "": false, "3.3.2746.0": false, "3.4.1.0": false, "4.0.0.0": false} {
		w := newWorld(t, func(o *simcloud.Options) {
			patches(curl)(o)
			o.Agent = func(simcloud.Instance) simcloud.Agent { return simcloud.Agent{Version: version} }
		})
		_, err := w.do("host.patch.scan", m{"baseline": security})
		if old {
			wants(t, err, action.Conflict, version, "AWS-UpdateSSMAgent")
		} else if err != nil {
			t.Errorf("%s: %v", version, err)
		}
		if old == (w.sent() > 0) {
			t.Errorf("%s: %d sent", version, w.sent())
		}
	}
	if !olderThan("", oldestAgent) || !olderThan("x.y", oldestAgent) {
		t.Error("an agent without a version is new")
	}
}

// A report of an earlier run is not taken for this one's.
func TestPatchReportIsLate(t *testing.T) {
	w := newWorld(t, patches(bash))
	w.must("host.patch.scan", m{"baseline": security})
	old := w.given("ssm", "DescribeInstancePatchStates", m{"InstanceIds": []any{w.id}})
	if err := w.sleep(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	real, asked := w.env.AWS.Caller, 0
	w.env.AWS.Caller = callerFunc(func(ctx context.Context, in awsapi.Scope, service, op string, input map[string]any) (map[string]any, error) {
		out, err := real.Call(ctx, in, service, op, input)
		if op == "DescribeInstancePatchStates" {
			if asked++; asked <= 2 {
				return old, nil
			}
		}
		return out, err
	})
	w.token = "b" + token[1:]
	w.must("host.patch.scan", m{"baseline": security})
	if asked != 3 {
		t.Errorf("asked %d times", asked)
	}
	// One that never comes is an error, and not the one before.
	w.token = "c" + token[1:]
	if err := w.sleep(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	asked = -1000
	_, err := w.do("host.patch.scan", m{"baseline": security})
	wants(t, err, action.Failed, "shows no report")
}
