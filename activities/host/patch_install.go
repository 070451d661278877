package host

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/packages"
	"github.com/almanac-run/almanac/patch"
)

type patchInstallInput struct {
	Baseline      json.RawMessage          `json:"baseline" jsonschema:"which updates are wanted: a baseline, as an object"`
	Reboot        string                   `json:"reboot,omitempty" jsonschema:"whether the node is restarted afterwards" enum:"never,if_needed,always" default:"if_needed"`
	RebootTimeout action.Duration          `json:"reboot_timeout,omitzero" jsonschema:"how long the node may take to be back" default:"15m"`
	Exclude       []string                 `json:"exclude,omitempty" jsonschema:"names of packages to leave as they are, whatever the baseline says; * stands for any text" default:"[]"`
	Health        string                   `json:"health,omitempty" jsonschema:"script that succeeds on a healthy node; it is run after the installation and after a restart" code:"true" default:"none: the node's health is not looked at"`
	HealthShell   string                   `json:"health_shell,omitempty" jsonschema:"what reads that script" enum:"bash,sh,pwsh,python3" default:"bash if the node has it, else sh"`
	HealthEnv     map[string]action.Secret `json:"health_env,omitempty" jsonschema:"its environment variables, beside PATH, HOME and a few more"`
	HealthTimeout action.Duration          `json:"health_timeout,omitzero" jsonschema:"how long it may take; a node on which it takes longer is not healthy" default:"5m"`
	OnUnhealthy   string                   `json:"on_unhealthy,omitempty" jsonschema:"what happens to the updates of a node that is not healthy" enum:"restore,keep" default:"restore"`
	Snapshot      string                   `json:"snapshot,omitempty" jsonschema:"snapshot of the node's root file system to take before, where it has one" enum:"none,lvm,btrfs" default:"none"`
}

type patchInstallOutput struct {
	patch.Report
	Upgraded      []patchChange `json:"upgraded" jsonschema:"packages whose version has changed, those that others needed too; at most 500"`
	UpgradedCount int           `json:"upgraded_count" jsonschema:"how many packages have another version"`
	Added         []patchChange `json:"added" jsonschema:"packages that are new because others needed them; at most 500"`
	Kernel        string        `json:"kernel" jsonschema:"the kernel that runs now; empty on a node with a root directory"`
	Rebooted      bool          `json:"rebooted" jsonschema:"the node was restarted by this step"`
	Snapshot      string        `json:"snapshot" jsonschema:"the snapshot that was taken; empty if none was"`
	Ref           string        `json:"ref" jsonschema:"where the complete output of the package manager is kept; starter logs prints it"`
	Size          int64         `json:"size" jsonschema:"bytes of its complete output"`
}

type patchChange struct {
	Name string `json:"name" jsonschema:"the package"`
	Arch string `json:"arch,omitempty" jsonschema:"its architecture"`
	From string `json:"from" jsonschema:"version before; empty if it was not there"`
	To   string `json:"to" jsonschema:"version now"`
}

// PatchDetail is the detail of the error of an installation or of its rollback.
type PatchDetail struct {
	Failed   []PatchFailure `json:"failed"`              // what could not be done; the first 100
	Upgraded int            `json:"upgraded"`            // how many packages have another version
	ExitCode int            `json:"exit_code,omitempty"` // of the health check, if that is what failed
	Snapshot string         `json:"snapshot,omitempty"`  // how to go back to the snapshot
	Tail     string         `json:"tail,omitempty"`      // the last lines of the output; of the health check, if that failed
	Ref      string         `json:"ref,omitempty"`
	Size     int64          `json:"size,omitempty"`
}

// PatchFailure is a package that could not be brought to a version.
type PatchFailure struct {
	Name    string `json:"name"`
	Arch    string `json:"arch,omitempty"`
	Version string `json:"version"` // that it should have; empty: it should not be there
	Why     string `json:"why"`
}

// mostChanges bounds the lists of an output, which history keeps.
const mostChanges = 500

func patchInstall(n Node) action.Action {
	return action.New(action.Def[patchInstallInput, patchInstallOutput]{
		Name:    "host.patch.install",
		Summary: "Install the updates that a baseline approves",
		Details: patchInstallDetails,
		Example: `id: install
targets: [web-1]
action: host.patch.install
with:
  baseline:
    baseline: security
    rules:
      - { approve: 'patch.classification == "security"' }
      - { reject: 'patch.name.startsWith("linux-image")' }
  reboot: if_needed`,
		Timeout: 2 * time.Hour,
		Inspect: inspectBaseline,
		Do: func(ctx context.Context, in patchInstallInput) (patchInstallOutput, error) {
			out, err := n.installPatches(ctx, in)
			if out.Baseline != "" { // also if something could not be installed
				n.comply(ctx, out.Report)
			}
			return out, err
		},
		Compensate: n.uninstallPatches,
	})
}

const patchInstallDetails = `Scans as ` + "`host.patch.scan`" + ` does, and installs exactly the approved versions and what they need. Packages that a rule or a pin
holds back, that are excluded, or that an administrator has held (apt-mark hold) stay as they are: an update that cannot do without changing one of
them fails. No package is removed. If the updates do not go together they are tried one by one; the step fails if one of them is not
installed, and its error names each.

The package manager goes on if the agent is restarted, and if the step is cancelled: half an installation does more harm than a whole one. Its
timeout ends it. What was interrupted, as by a power failure, is repaired and finished by the next attempt. If another program is using the package manager it is
waited for, up to five minutes; configuration files that were changed on the node are kept.

With ` + "`reboot: if_needed`" + ` the node is restarted if the distribution says so or a kernel is newer than the last start; the step goes
on when the node is back, and fails if it is not within ` + "`reboot_timeout`" + `. A node with a root directory is never restarted.

` + "`health`" + ` is a script as that of ` + "`host.command.run`" + `, run as the agent's user after the installation, also if there was nothing to install, and
once more after a restart. It is run once each time: what needs a moment to come up is for the script to wait for, within ` + "`health_timeout`" + `. If it fails, the
versions before are put back at once, as in a rollback, it is run again, and the step fails and says what came of it. A node that is found ill before a
restart is not restarted. With ` + "`on_unhealthy: keep`" + ` the updates stay, and the step fails.

Rollback puts the versions before back where a repository still offers them, removes what was new and nobody needs, and fails naming what it
cannot put back. It does not restart the node. A snapshot is the stronger way: the error says how to go back to it. It stays until somebody removes it.`

func (n Node) installPatches(ctx context.Context, in patchInstallInput) (patchInstallOutput, error) {
	in.Reboot, in.Snapshot = cmp.Or(in.Reboot, "if_needed"), cmp.Or(in.Snapshot, "none")
	in.OnUnhealthy = cmp.Or(in.OnUnhealthy, "restore")
	in.RebootTimeout = cmp.Or(in.RebootTimeout, action.Duration(15*time.Minute))
	baseline, err := parseBaseline(in.Baseline)
	if err != nil {
		return patchInstallOutput{}, err
	}
	if in.Reboot == "always" && !n.canReboot() {
		return patchInstallOutput{}, action.Errorf(action.Invalid, "reboot: this node has a root directory, and cannot be restarted; say never or if_needed")
	}
	for _, pattern := range in.Exclude {
		if _, err := path.Match(pattern, ""); err != nil {
			return patchInstallOutput{}, action.Errorf(action.Invalid, "exclude: %q is no name of a package", pattern)
		}
	}
	p, err := n.patching(ctx)
	if err != nil {
		return patchInstallOutput{}, err
	}
	// A node that was found ill has its old versions back by this step's own doing, and the step says so.
	ill := slices.ContainsFunc(p.state.Looks, func(l healthLook) bool { return l.Ill != "" })
	if (p.state.RolledBack || p.state.RollingBack) && !ill {
		return patchInstallOutput{}, action.Errorf(action.Conflict, "this step was rolled back on this node already")
	}
	if !p.state.Decided {
		if in.Health != "" { // what is wrong with the script is found before anything is changed
			if _, err := n.commandSpec(ctx, in.healthScript()); err != nil {
				return patchInstallOutput{}, fmt.Errorf("health: %w", err)
			}
		}
		if err := p.decide(ctx, baseline, in); err != nil {
			return patchInstallOutput{}, err
		}
	}
	if err := p.snapshot(ctx, in.Snapshot); err != nil {
		return patchInstallOutput{}, err
	}
	if err := p.install(ctx); err != nil {
		return patchInstallOutput{}, err
	}
	out, failed := p.report(baseline, p.state.After)
	if err := p.healthy(ctx, in, afterInstall); err != nil {
		return p.asItIs(ctx, baseline), err
	}
	if failed != nil {
		return out, failed
	}
	if in.Reboot == "always" || in.Reboot == "if_needed" && out.RebootPending && n.canReboot() {
		if err := p.reboot(ctx, time.Duration(in.RebootTimeout)); err != nil {
			return out, err
		}
		// What was waiting for it may be there only now.
		now, err := p.manager.State(ctx)
		if err != nil {
			return out, packagesError(err)
		}
		if err := p.healthy(ctx, in, afterRestart); err != nil {
			return p.asItIs(ctx, baseline), err
		}
		return p.report(baseline, now)
	}
	return out, nil
}

// decide looks at the machine and settles what is to be installed: once, so that
// every attempt does the same.
func (p *patching) decide(ctx context.Context, baseline *patch.Baseline, in patchInstallInput) error {
	machine, err := p.manager.Machine(ctx)
	if err != nil {
		return packagesError(err)
	}
	if err := p.node.firstSeen(&machine, time.Now()); err != nil {
		return err
	}
	before, err := p.manager.State(ctx)
	if err != nil {
		return packagesError(err)
	}
	machine.Installed = before.Installed
	s := patchState{Decided: true, Machine: machine, Before: before, DecidedAt: time.Now()}
	report := patch.Decide(baseline, machine, s.DecidedAt)
	excluded := func(name string) bool {
		return slices.ContainsFunc(in.Exclude, func(pattern string) bool {
			ok, _ := path.Match(pattern, name) // checked before
			return ok
		})
	}
	var want []packages.Package
	held := map[packages.Package]bool{}
	hold := func(name, arch, version string) {
		p := packages.Package{Name: name, Arch: arch, Version: version}
		if version != "" && !held[p] {
			held[p] = true
			s.Hold = append(s.Hold, p)
		}
	}
	for _, d := range report.ToHold() {
		hold(d.Name, d.Arch, d.Installed)
	}
	for _, d := range report.ToInstall() {
		switch {
		case excluded(d.Name):
			hold(d.Name, d.Arch, d.Installed)
		case slices.Contains(before.Held, d.Name):
			s.Failures = append(s.Failures, patch.Failure{Name: d.Name, Arch: d.Arch, Version: d.Version, Why: "it is held on the node"})
		default:
			want = append(want, packages.Package{Name: d.Name, Arch: d.Arch, Version: d.Version})
		}
	}
	for _, o := range machine.Offers {
		if excluded(o.Name) {
			hold(o.Name, o.Arch, o.Installed) // nor may another update bring it along
		}
	}
	if len(want) > 0 {
		s.Queue = [][]packages.Package{want}
	}
	return p.begin(s)
}

// install runs what is left of the queue, one transaction after the other.
func (p *patching) install(ctx context.Context) error {
	var waiting time.Time
	for len(p.state.Queue) > 0 {
		group := p.state.Queue[0]
		cmd, err := p.manager.Install(group, p.state.Hold)
		if err != nil {
			return action.Errorf(action.Failed, "%w", err)
		}
		ended, err := p.run(ctx, fmt.Sprintf("install-%d", p.state.Run), cmd)
		if err != nil {
			return err
		}
		if err := ended.interrupted(); err != nil {
			next := p.state.clone()
			next.Run++ // of this run there is nothing more to learn
			return errors.Join(err, p.save(next))
		}
		now, err := p.manager.State(ctx)
		if err != nil {
			return packagesError(err)
		}
		// What counts is what is there: an exit code says little about one of many.
		left := missing(group, now.Installed)
		why := p.manager.Explain(ended.ExitCode, ended.text)
		next := p.state.clone()
		next.Run++
		switch {
		case len(left) == 0:
			next.Queue = next.Queue[1:]
		case ended.ExitCode != 0 && (errors.Is(why, packages.ErrBusy) || errors.Is(why, packages.ErrUnreachable)):
			// The next run has a number of its own: what the journal knows of this one is that it failed.
			if err := p.save(next); err != nil {
				return err
			}
			if waiting.IsZero() {
				waiting = time.Now()
			}
			if !errors.Is(why, packages.ErrBusy) || time.Since(waiting) > lockPatience {
				return packagesError(why)
			}
			select {
			case <-time.After(lockAgain):
			case <-ctx.Done():
				return packagesError(why)
			}
			continue
		case len(group) > 1:
			next.Queue = next.Queue[1:]
			for _, one := range left {
				next.Queue = append(next.Queue, []packages.Package{one})
			}
		default:
			reason := "the package manager left it as it was"
			if ended.ExitCode != 0 {
				reason = strings.Join(strings.Fields(why.Error()), " ")
			}
			next.Failures = append(next.Failures, patch.Failure{Name: left[0].Name, Arch: left[0].Arch, Version: left[0].Version, Why: reason})
			next.Queue = next.Queue[1:]
		}
		if len(next.Queue) == 0 {
			if err := p.settle(ctx, fmt.Sprintf("settle-%d", p.state.Run)); err != nil {
				return err
			}
			if now, err = p.manager.State(ctx); err != nil {
				return packagesError(err)
			}
		}
		next.After = now
		if err := p.save(next); err != nil {
			return err
		}
	}
	if p.state.After.Installed == nil { // there was nothing to do
		p.state.After = p.state.Before
	}
	return nil
}

// settle makes what was there only for others be there only for others again, in a
// run of that name.
func (p *patching) settle(ctx context.Context, name string) error {
	now, err := p.manager.State(ctx)
	if err != nil {
		return packagesError(err)
	}
	was := map[string]bool{}
	for _, name := range p.state.Before.Auto {
		was[name] = true
	}
	for _, name := range now.Auto {
		delete(was, name)
	}
	var lost []string
	for _, pkg := range now.Installed {
		if was[pkg.Name] {
			delete(was, pkg.Name)
			lost = append(lost, pkg.Name)
		}
	}
	cmd := p.manager.Settle(lost)
	if cmd.Argv == nil {
		return nil
	}
	// What it cannot tell costs a later clean-up some packages, and is no reason to fail.
	_, err = p.run(ctx, name, cmd)
	return err
}

// asItIs is the output of a step whose node is not healthy: as that is now.
func (p *patching) asItIs(ctx context.Context, baseline *patch.Baseline) patchInstallOutput {
	now, err := p.manager.State(ctx)
	if err != nil {
		return patchInstallOutput{} // the step has an error already
	}
	out, _ := p.report(baseline, now) // as above
	return out
}

// report says how the node is, which is in that state.
func (p *patching) report(baseline *patch.Baseline, now packages.State) (patchInstallOutput, error) {
	s := p.state
	machine := s.Machine
	machine.Installed, machine.RebootPending = now.Installed, now.RebootPending
	out := patchInstallOutput{
		Report: patch.Decide(baseline, machine, s.DecidedAt).WithFailures(s.Failures), Upgraded: []patchChange{}, Added: []patchChange{},
		Kernel: p.node.kernel(), Rebooted: s.Rebooted, Snapshot: s.Snapshot,
	}
	out.Ref, out.Size = p.output()
	changed, added, _ := compare(s.Before.Installed, now.Installed)
	out.UpgradedCount = len(changed)
	out.Upgraded = append(out.Upgraded, changed[:min(len(changed), mostChanges)]...)
	out.Added = append(out.Added, added[:min(len(added), mostChanges)]...)
	if len(s.Failures) == 0 {
		return out, nil
	}
	detail := p.detail(len(changed))
	var named []string
	for _, f := range s.Failures[:min(len(s.Failures), mostFailures)] {
		detail.Failed = append(detail.Failed, PatchFailure(f))
		named = append(named, f.Name+" "+f.Version)
	}
	return out, &action.Error{Kind: action.Failed, Detail: detail, Err: fmt.Errorf("%d of the approved updates were not installed: %s: %s",
		len(s.Failures), abridgedList(named), s.Failures[0].Why)}
}
