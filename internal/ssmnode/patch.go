package ssmnode

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/aws"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/patch"
)

// Patch Manager knows two baselines here. Its own, that of the node's patch group,
// says what there is: of anything else it tells nothing. The step's decides about
// that, as it does on other nodes. So what the step's baseline wants and Patch
// Manager's does not is never seen; and since Patch Manager installs all that its
// own wants, an installation is refused if the step's does not want all of it.

const patchDocument = "AWS-RunPatchBaseline"

// oldestAgent is the first SSM agent that passes parameters of a document as
// environment variables. Older ones put them into the script as text.
const oldestAgent = "3.3.2746.0"

// complying tells the registry what a step has found out about a node. It is told
// again with the next one: so an error is not one of the step.
func complying[In, Out any](do func(node, context.Context, In) (Out, error), report func(Out) patch.Report) func(node, context.Context, In) (Out, error) {
	return func(n node, ctx context.Context, in In) (Out, error) {
		out, err := do(n, ctx, in)
		if r := report(out); r.Baseline != "" && n.Env.Comply != nil {
			_ = n.Env.Comply(ctx, n.target.ID, host.Finding(ctx, r))
		}
		return out, err
	}
}

func (n node) scanPatches(ctx context.Context, in host.PatchScanInput) (host.PatchScanOutput, error) {
	baseline, err := patch.FromJSON(in.Baseline)
	if err != nil {
		return host.PatchScanOutput{}, action.Errorf(action.Invalid, "%w", err)
	}
	m, err := n.patchManager(ctx)
	if err != nil {
		return host.PatchScanOutput{}, err
	}
	found, err := m.run(ctx, "scan", map[string]string{"Operation": "Scan"})
	if err != nil {
		return host.PatchScanOutput{}, err
	}
	return host.PatchScanOutput{Report: found.report(baseline), OS: m.os, Version: m.version}, nil
}

func (n node) installPatches(ctx context.Context, in host.PatchInstallInput) (host.PatchInstallOutput, error) {
	none := host.PatchInstallOutput{}
	baseline, err := patch.FromJSON(in.Baseline)
	if err != nil {
		return none, action.Errorf(action.Invalid, "%w", err)
	}
	reboot := "RebootIfNeeded"
	switch {
	case in.Reboot == "never":
		reboot = "NoReboot"
	case in.Reboot == "always":
		return none, action.Errorf(action.Invalid, "reboot: Patch Manager restarts a node only if it has installed something; say if_needed, and restart it with aws.ec2.reboot_instances")
	}
	if in.Snapshot != "" && in.Snapshot != "none" {
		return none, action.Errorf(action.Invalid, "snapshot: Patch Manager takes no snapshot of the file system; take one of the volume before, with aws.ec2.create_snapshot")
	}
	m, err := n.patchManager(ctx)
	if err != nil {
		return none, err
	}
	begun := ""
	if n.call.Attempt > 1 {
		if begun, err = n.Sent(ctx, "install"); err != nil {
			return none, err
		}
	}
	if begun == "" {
		found, err := m.run(ctx, "scan", map[string]string{"Operation": "Scan"})
		if err != nil {
			return none, err
		}
		if err := found.wanted(baseline, in.Exclude); err != nil {
			return none, err
		}
		if len(found.missing()) == 0 && found.state.pending == 0 {
			out := host.PatchInstallOutput{Report: found.report(baseline), Upgraded: []host.PatchChange{}, Added: []host.PatchChange{}, Ref: found.kept.ref, Size: found.kept.size}
			return out, n.healthy(ctx, in, out)
		}
	}
	found, err := m.run(ctx, "install", map[string]string{"Operation": "Install", "RebootOption": reboot})
	if err != nil {
		return none, err
	}
	out := host.PatchInstallOutput{Report: found.report(baseline), Upgraded: []host.PatchChange{}, Added: []host.PatchChange{}, Ref: found.kept.ref, Size: found.kept.size}
	for _, p := range found.installed() {
		out.UpgradedCount++
		if len(out.Upgraded) < mostChanges {
			name, arch := p.nameArch()
			out.Upgraded = append(out.Upgraded, host.PatchChange{Name: name, Arch: arch, To: p.version()})
		}
	}
	out.Rebooted = reboot != "NoReboot" && out.UpgradedCount > 0 && found.state.pending == 0
	if err := n.healthy(ctx, in, out); err != nil {
		return out, err
	}
	if failed := found.in("Failed"); len(failed) > 0 {
		detail := host.PatchDetail{Failed: []host.PatchFailure{}, Upgraded: out.UpgradedCount, Tail: found.kept.tail, Ref: found.kept.ref, Size: found.kept.size}
		for _, p := range failed[:min(len(failed), mostFailures)] {
			name, arch := p.nameArch()
			detail.Failed = append(detail.Failed, host.PatchFailure{Name: name, Arch: arch, Version: p.version(), Why: "Patch Manager says so; see the output"})
		}
		return out, &action.Error{Kind: action.Failed, Detail: detail, Err: fmt.Errorf("%d of the approved updates were not installed: %s", len(failed), titles(failed))}
	}
	if found.failed != nil {
		return out, found.failed
	}
	return out, nil
}

// healthy runs the health script of an installation: once, when Patch Manager is
// done and has restarted the node if it wanted to. It has nothing with which updates could be taken back; so they stay,
// whatever on_unhealthy says, and the error says so.
func (n node) healthy(ctx context.Context, in host.PatchInstallInput, out host.PatchInstallOutput) error {
	if in.Health == "" {
		return nil
	}
	timeout := cmp.Or(time.Duration(in.HealthTimeout), 5*time.Minute)
	_, err := n.runWithin(ctx, host.CommandRunInput{Script: in.Health, Shell: in.HealthShell, Env: in.HealthEnv, Idempotent: true}, timeout)
	said := ""
	switch kind := action.KindOf(err); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return err
	case kind == action.Timeout:
		said = fmt.Sprintf("it did not end within %s", timeout)
	case kind != action.Failed:
		return fmt.Errorf("health check: %w", err)
	}
	detail := host.PatchDetail{Failed: []host.PatchFailure{}, Upgraded: out.UpgradedCount, Ref: out.Ref, Size: out.Size}
	var e *action.Error
	if errors.As(err, &e) {
		if d, ok := e.Detail.(host.CommandDetail); ok {
			detail.ExitCode, detail.Tail, detail.Ref, detail.Size = d.ExitCode, d.Tail, d.Ref, d.Size
		}
	}
	if said == "" {
		said = fmt.Sprintf("exit %d", detail.ExitCode)
		if line := host.LastLine(detail.Tail); line != "" {
			said += ": " + line
		}
	}
	stay := "this step has changed nothing"
	switch n := out.UpgradedCount; {
	case n > 0 && in.OnUnhealthy == "keep":
		stay = fmt.Sprintf("%d updates kept", n)
	case n > 0:
		stay = fmt.Sprintf("%d updates stay, since Patch Manager takes none back; to go back, restore a snapshot of the node's volume", n)
	}
	return &action.Error{Kind: action.Failed, Detail: detail, Err: fmt.Errorf("health check failed: %s; %s", said, stay)}
}

const (
	mostChanges  = 500
	mostFailures = 100
)

// uninstallPatches cannot take anything back: it says what stays.
func (n node) uninstallPatches(ctx context.Context, _ host.PatchInstallInput, out *host.PatchInstallOutput) error {
	what := ""
	switch {
	case out != nil && out.UpgradedCount == 0:
		return nil
	case out != nil:
		var names []string
		for _, c := range out.Upgraded {
			names = append(names, c.Name+" "+c.To)
		}
		what = fmt.Sprintf("%d updates: %s", out.UpgradedCount, abridged(names))
	default:
		id, err := n.Sent(ctx, "install")
		if err != nil || id == "" {
			return err
		}
		what = "what command " + id + " has installed"
	}
	return action.Errorf(action.Failed, "Patch Manager takes no update back; on %s there stay %s. To go back, restore a snapshot of its volume", n.target.ID, what)
}

// patchManager is Patch Manager for one node.
type patchManager struct {
	node
	os, version, manager string
}

func (n node) patchManager(ctx context.Context) (patchManager, error) {
	known, err := n.find(ctx, true)
	if err != nil {
		return patchManager{}, err
	}
	if olderThan(known.AgentVersion, oldestAgent) {
		return patchManager{}, action.Errorf(action.Conflict, "the SSM agent of %s is version %s; older than %s, agents put the parameters of %s into its script as text: update it (document AWS-UpdateSSMAgent) and try again",
			n.target.ID, known.AgentVersion, oldestAgent, patchDocument)
	}
	m := patchManager{node: n, os: known.OS, version: known.Version, manager: "dnf"}
	switch {
	case known.Platform == "windows":
		m.manager = "windows"
	case slices.Contains([]string{"debian", "ubuntu", "raspbian"}, known.OS):
		m.manager = "apt"
	case known.OS == "sles":
		m.manager = "zypper"
	case known.Platform == "darwin":
		return patchManager{}, action.Errorf(action.Invalid, "%s runs macOS, whose updates have no report here: use host.command.run with softwareupdate", n.target.ID)
	}
	return m, nil
}

// olderThan compares versions of the SSM agent. What cannot be read is old.
func olderThan(version, limit string) bool {
	a, b := strings.Split(version, "."), strings.Split(limit, ".")
	for i := range b {
		have := -1
		if i < len(a) {
			if v, err := strconv.Atoi(a[i]); err == nil {
				have = v
			}
		}
		want, _ := strconv.Atoi(b[i])
		if have != want {
			return have < want
		}
	}
	return false
}

// found is what Patch Manager reports after a run.
type found struct {
	state   patchState
	patches []onePatch
	began   time.Time
	manager patchManager
	kept    kept
	failed  error // of the command; the report may say of what
}

// onePatch is a patch as Patch Manager lists it.
type onePatch struct {
	id, title, classification, severity, state string
	cves                                       []string
	installed                                  time.Time
}

// run runs the patch baseline on the node and reads its report.
func (m patchManager) run(ctx context.Context, purpose string, parameters map[string]string) (found, error) {
	ran, err := m.Document(ctx, purpose, patchDocument, parameters, m.Output)
	if err != nil {
		return found{}, err
	}
	k, err := m.keep(ctx, ran)
	if err != nil {
		return found{}, err
	}
	detail := host.PatchDetail{Failed: []host.PatchFailure{}, Tail: k.tail, Ref: k.ref, Size: k.size}
	if err := verdict(ran, detail); err != nil {
		return found{}, err
	}
	f := found{began: ran.Began, manager: m, kept: k}
	reported, err := m.Within(ctx, "report of Patch Manager", func() (bool, error) {
		out, err := m.Call(ctx, "ssm", "DescribeInstancePatchStates", map[string]any{"InstanceIds": []any{m.target.ID}})
		for _, s := range objects(out, "InstancePatchStates") {
			f.state = stateOf(s)
		}
		// By the node's clock, which may differ a little.
		return err == nil && !f.state.at.IsZero() && f.state.at.After(ran.Began.Add(-2*time.Minute)), err
	})
	if err != nil {
		return found{}, err
	}
	if ran.Status == aws.Failed {
		f.failed = &action.Error{Kind: action.Failed, Detail: detail, Err: fmt.Errorf("%s: exit code %d; command %s", patchDocument, ran.ExitCode, ran.CommandID)}
		if !reported || purpose == "scan" {
			return found{}, f.failed
		}
	}
	if !reported {
		return found{}, &action.Error{Kind: action.Failed, Detail: detail, Err: fmt.Errorf("command %s ended, and Patch Manager shows no report of it: may the node's instance profile do ssm:PutInventory and ssm:PutComplianceItems?", ran.CommandID)}
	}
	f.patches, err = m.patches(ctx)
	return f, err
}

func (m patchManager) patches(ctx context.Context) ([]onePatch, error) {
	var all []onePatch
	in := map[string]any{"InstanceId": m.target.ID, "MaxResults": int64(100)}
	for range 500 {
		out, err := m.Call(ctx, "ssm", "DescribeInstancePatches", in)
		if err != nil {
			return nil, err
		}
		for _, p := range objects(out, "Patches") {
			one := onePatch{id: text(p, "KBId"), title: text(p, "Title"), classification: text(p, "Classification"), severity: text(p, "Severity"),
				state: strings.ReplaceAll(text(p, "State"), "_", ""), installed: when(p, "InstalledTime")}
			for cve := range strings.SplitSeq(text(p, "CVEIds"), ",") {
				if cve = strings.TrimSpace(cve); cve != "" {
					one.cves = append(one.cves, cve)
				}
			}
			all = append(all, one)
		}
		if text(out, "NextToken") == "" {
			break
		}
		in["NextToken"] = out["NextToken"]
	}
	return all, nil
}

// in are the patches in one of these states, in whatever case AWS writes them.
func (f found) in(states ...string) []onePatch {
	var all []onePatch
	for _, p := range f.patches {
		if slices.ContainsFunc(states, func(s string) bool { return strings.EqualFold(s, p.state) }) {
			all = append(all, p)
		}
	}
	return all
}

// missing is what Patch Manager would install.
func (f found) missing() []onePatch { return f.in("Missing", "Failed") }

// installed is what this run has installed.
func (f found) installed() []onePatch {
	return slices.DeleteFunc(f.in("Installed", "InstalledPendingReboot"), func(p onePatch) bool { return p.installed.Before(f.began.Add(-2 * time.Minute)) })
}

// report is what the step's baseline says about what Patch Manager has found.
func (f found) report(baseline *patch.Baseline) patch.Report {
	machine := patch.Machine{OS: f.manager.os, Version: f.manager.version, Manager: f.manager.manager, RebootPending: f.state.pending > 0}
	var failures []patch.Failure
	for _, p := range f.missing() {
		o := p.offer()
		machine.Offers = append(machine.Offers, o)
		if strings.EqualFold(p.state, "Failed") {
			failures = append(failures, patch.Failure{Name: o.Name, Arch: o.Arch, Version: o.Version, Why: "Patch Manager says so; see the output"})
		}
	}
	r := patch.Decide(baseline, machine, f.manager.AWS.Time()).WithFailures(failures)
	r.Patched, r.Other = f.state.installed+f.state.pending, f.state.other+f.state.rejected
	r.Installed = r.Patched + r.Other
	if n := f.state.rejected; n > 0 {
		r.Status = patch.NonCompliant
		r.Why = strings.TrimPrefix(fmt.Sprintf("%s; %d installed that %s rejects", r.Why, n, f.state.baseline), "; ")
	}
	return r
}

// wanted refuses an installation of which the step does not want all.
func (f found) wanted(baseline *patch.Baseline, exclude []string) error {
	report := f.report(baseline)
	var not []string
	for _, d := range report.Decisions {
		excluded := slices.ContainsFunc(exclude, func(pattern string) bool { ok, _ := path.Match(pattern, d.Name); return ok })
		switch {
		case excluded:
			not = append(not, d.Name+" "+d.Version+" (excluded)")
		case d.Decision != patch.Install && d.Decision != patch.Failed && d.Decision != patch.Superseded:
			not = append(not, d.Name+" "+d.Version+" ("+strings.ReplaceAll(d.Decision, "_", " ")+")")
		}
	}
	if len(not) == 0 {
		return nil
	}
	return action.Errorf(action.Conflict, "Patch Manager would install %d updates that the step's baseline %s does not want now: %s. It installs all that its own baseline %s (patch group %s) approves: change that one, or put Almanac's agent on the node",
		len(not), baseline.Name, abridged(not), f.state.baseline, f.state.group)
}

// offer is a patch as a baseline's rules see it. Patch Manager gives no date.
func (p onePatch) offer() patch.Offer {
	name, arch := p.nameArch()
	return patch.Offer{Name: name, Arch: arch, Version: p.version(), Severity: severity(p.severity), Classification: classification(p.classification), CVEs: p.cves}
}

// arches end the id of a package of Linux: bash.x86_64.
var arches = []string{"x86_64", "aarch64", "noarch", "i686", "amd64", "arm64", "i386", "all"}

func (p onePatch) nameArch() (name, arch string) {
	if i := strings.LastIndexByte(p.id, '.'); i > 0 && slices.Contains(arches, p.id[i+1:]) {
		return p.id[:i], p.id[i+1:]
	}
	if p.id == "" {
		return p.title, ""
	}
	return p.id, ""
}

// version is what the title says behind the id: bash.x86_64:0:4.2.46-34.amzn2.
func (p onePatch) version() string {
	name, _ := p.nameArch()
	for _, before := range []string{p.id + ":", name + ":", name + "-", name + " "} {
		if rest, ok := strings.CutPrefix(p.title, before); ok && rest != "" {
			return strings.TrimPrefix(rest, "0:")
		}
	}
	return p.title
}

func severity(text string) string {
	switch s := strings.ToLower(text); s {
	case "critical", "important", "moderate", "low":
		return s
	case "medium":
		return "moderate"
	}
	return ""
}

func classification(text string) string {
	switch s := strings.ToLower(strings.ReplaceAll(text, " ", "")); s {
	case "securityupdates", "criticalupdates", "security":
		return "security"
	case "recommended", "bugfix":
		return "bugfix"
	default:
		return s
	}
}

func titles(patches []onePatch) string {
	var all []string
	for _, p := range patches {
		all = append(all, p.title)
	}
	return abridged(all)
}

// abridged is a list for a message.
func abridged(texts []string) string {
	const most = 10
	if len(texts) > most {
		return strings.Join(texts[:most], ", ") + fmt.Sprintf(" and %d more", len(texts)-most)
	}
	return strings.Join(texts, ", ")
}
