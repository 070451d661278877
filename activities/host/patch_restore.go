package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/output"
	"github.com/almanac-run/almanac/internal/packages"
)

// uninstallPatches puts the versions back that were there before the step.
func (n Node) uninstallPatches(ctx context.Context, in patchInstallInput, out *patchInstallOutput) error {
	p, err := n.patching(ctx)
	if err != nil {
		return err
	}
	if !p.state.RolledBack && !p.state.Decided && out != nil && len(out.Upgraded)+len(out.Added) > 0 {
		return action.Errorf(action.NotFound, "which versions were there before is no longer known on this node")
	}
	decided := p.state.Decided
	err = p.takeBack(ctx)
	if baseline, wrong := parseBaseline(in.Baseline); wrong == nil && decided {
		if r := p.asItIs(ctx, baseline).Report; r.Baseline != "" {
			n.comply(ctx, r) // what was taken back is missing again
		}
	}
	return err
}

// takeBack puts the versions back that were there before the step, and goes on
// where an attempt before was.
func (p *patching) takeBack(ctx context.Context) error {
	if p.state.RolledBack {
		return nil
	}
	next := p.state.clone()
	next.RollingBack = true
	if !p.state.Decided {
		next.RolledBack = true // it was never begun, or did nothing, and is not to begin late
	}
	if err := p.save(next); err != nil || next.RolledBack {
		return err
	}
	// It may still run: then it comes to its end first, as it would have.
	if _, err := p.run(ctx, fmt.Sprintf("install-%d", p.state.Run), packages.Command{}); err != nil && !errors.Is(err, errNotBegun) {
		return err
	}
	begin, asked := time.Now(), false
	for {
		left, cmd, err := p.putBack(ctx)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			return p.rolledBack()
		}
		var why error
		if cmd.Argv != nil {
			ended, err := p.run(ctx, fmt.Sprintf("restore-%d", p.state.Restore), cmd)
			if err != nil {
				return err
			}
			next := p.state.clone()
			next.Restore++
			if err := p.save(next); err != nil {
				return err
			}
			if err := ended.interrupted(); err != nil {
				return err
			}
			if ended.ExitCode != 0 {
				why = p.manager.Explain(ended.ExitCode, ended.text)
			}
		}
		if left, _, err = p.putBack(ctx); err != nil {
			return err
		}
		switch {
		case len(left) == 0:
			if err := p.settle(ctx, fmt.Sprintf("settle-back-%d", p.state.Restore)); err != nil {
				return err
			}
			return p.rolledBack()
		case errors.Is(why, packages.ErrUnreachable) && !asked:
			// What is known of the repositories may be old: they are asked, and if that fails too, so does the rest.
			asked = true
			if _, err := p.manager.Machine(ctx); err != nil {
				return p.leftBehind(action.Unavailable, left, err)
			}
		case errors.Is(why, packages.ErrBusy) && time.Since(begin) < lockPatience:
			select {
			case <-time.After(lockAgain):
			case <-ctx.Done():
				return packagesError(why)
			}
		case errors.Is(why, packages.ErrBusy) || errors.Is(why, packages.ErrUnreachable):
			return p.leftBehind(action.Unavailable, left, why)
		default:
			return p.leftBehind(action.Failed, left, why)
		}
	}
}

// putBack says what is not yet as it was, and gives the command that changes
// that; it has none if nothing can be done.
func (p *patching) putBack(ctx context.Context) ([]PatchFailure, packages.Command, error) {
	now, err := p.manager.State(ctx)
	if err != nil {
		return nil, packages.Command{}, packagesError(err)
	}
	changed, added, removed := compare(p.state.Before.Installed, now.Installed)
	if p.state.After.Installed != nil && len(p.state.Queue) == 0 {
		// What came later is somebody else's.
		ours := map[pkgKey]bool{}
		c, a, r := compare(p.state.Before.Installed, p.state.After.Installed)
		for _, change := range slices.Concat(c, a, r) {
			ours[pkgKey{change.Name, change.Arch}] = true
		}
		foreign := func(c patchChange) bool { return !ours[pkgKey{c.Name, c.Arch}] }
		changed, added, removed = slices.DeleteFunc(changed, foreign), slices.DeleteFunc(added, foreign), slices.DeleteFunc(removed, foreign)
	}
	var left []PatchFailure
	var back, remove []packages.Package
	for _, c := range slices.Concat(changed, removed) {
		back = append(back, packages.Package{Name: c.Name, Arch: c.Arch, Version: c.From})
	}
	for _, c := range added {
		remove = append(remove, packages.Package{Name: c.Name, Arch: c.Arch, Version: c.To})
	}
	cmd, gone, err := p.manager.Restore(ctx, back, remove)
	if err != nil {
		return nil, cmd, packagesError(err)
	}
	for _, b := range back {
		f := PatchFailure{Name: b.Name, Arch: b.Arch, Version: b.Version, Why: "the package manager could not put it back"}
		if slices.Contains(gone, b) {
			f.Why = "no repository offers this version any more"
		}
		left = append(left, f)
	}
	for _, r := range remove {
		left = append(left, PatchFailure{Name: r.Name, Arch: r.Arch, Why: "it came with the update, and could not be removed"})
	}
	return left, cmd, nil
}

func (p *patching) rolledBack() error {
	next := p.state.clone()
	next.RolledBack = true
	return p.save(next)
}

// leftBehind is the error of a rollback that could not put everything back.
func (p *patching) leftBehind(kind action.Kind, left []PatchFailure, why error) error {
	detail := p.detail(0)
	var named []string
	for _, f := range left {
		named = append(named, strings.TrimSpace(f.Name+" "+f.Version)+" ("+f.Why+")")
	}
	detail.Failed = left[:min(len(left), mostFailures)]
	err := fmt.Errorf("%d packages are not as they were before: %s", len(left), abridgedList(named))
	if why != nil {
		err = fmt.Errorf("%w: %w", err, why)
	}
	if detail.Snapshot != "" {
		err = fmt.Errorf("%w; %s", err, detail.Snapshot)
	}
	return &action.Error{Kind: kind, Err: err, Detail: detail}
}

// note writes a line of ours into the step's output.
func (p *patching) note(line string) {
	ref, _ := p.output()
	w, err := output.Dir(p.node.OutputDir).Append(ref)
	if err != nil {
		return // there is no better place to say it
	}
	defer w.Close()
	fmt.Fprintln(w, line)
}
