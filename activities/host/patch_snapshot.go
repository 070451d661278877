package host

import (
	"context"
	"fmt"
	"strings"

	"github.com/almanac-run/almanac/action"
)

// A snapshot of the root file system is named by its kind, what it is of, and its own name:
// "lvm:vg0/root:almanac-abcdefgh", "btrfs:/:/.almanac-abcdefgh".

// snapshot takes the snapshot that the step wants, before anything is changed.
func (p *patching) snapshot(ctx context.Context, kind string) error {
	if kind == "none" || p.state.Run > 0 || len(p.state.Queue) == 0 {
		return nil
	}
	if p.node.Root != "" {
		return action.Errorf(action.Invalid, "snapshot: a node with a root directory has no file system of its own")
	}
	run := func(argv []string) (string, error) {
		out, code, err := p.node.execute(ctx, argv[0], argv[1:]...)
		if err == nil && code != 0 {
			err = action.Errorf(action.Failed, "snapshot: %s: exit code %d: %s", strings.Join(argv, " "), code, strings.TrimSpace(out))
		}
		return strings.TrimSpace(out), err
	}
	of := "/"
	if kind == "lvm" {
		device, err := run([]string{"findmnt", "-n", "-o", "SOURCE", "/"})
		if err != nil {
			return err
		}
		if of, err = run([]string{"lvs", "--noheadings", "--separator", "/", "-o", "vg_name,lv_name", "--", device}); err != nil {
			return err
		}
	}
	name, exists, take := snapshotCommands(kind, of, p.call.Token)
	if name == "" {
		return action.Errorf(action.Invalid, "snapshot: %q is no logical volume", of)
	}
	if p.state.Snapshot == "" {
		next := p.state.clone()
		next.Snapshot = name
		if err := p.save(next); err != nil {
			return err
		}
	}
	if _, err := run(exists); err == nil {
		return nil // an attempt before took it
	}
	_, err := run(take)
	return err
}

// snapshotCommands returns the name of a step's snapshot, the command that
// succeeds if it is there, and the one that takes it.
func snapshotCommands(kind, of, token string) (name string, exists, take []string) {
	own := "almanac-" + token[:min(len(token), 12)]
	if kind == "btrfs" {
		dir := strings.TrimSuffix(of, "/") + "/." + own
		return "btrfs:" + of + ":" + dir, []string{"btrfs", "subvolume", "show", dir}, []string{"btrfs", "subvolume", "snapshot", "-r", of, dir}
	}
	group, volume, ok := strings.Cut(of, "/")
	if !ok || group == "" || volume == "" || strings.ContainsAny(of, " \n") {
		return "", nil, nil
	}
	return "lvm:" + of + ":" + own, []string{"lvs", group + "/" + own},
		[]string{"lvcreate", "--yes", "--snapshot", "--extents", "20%ORIGIN", "--name", own, of}
}

// snapshotBack says how to go back to a snapshot; empty if there is none.
func snapshotBack(name string) string {
	f := strings.SplitN(name, ":", 3)
	if len(f) != 3 {
		return ""
	}
	if f[0] == "btrfs" {
		return fmt.Sprintf("the snapshot is the subvolume %s; to go back: btrfs subvolume snapshot %[1]s %[1]s-rw, "+
			"make that the default (btrfs subvolume set-default), restart", f[2])
	}
	group, _, _ := strings.Cut(f[1], "/")
	return fmt.Sprintf("to go back to the snapshot: lvconvert --merge %s/%s, then restart; if it is not needed: lvremove %[1]s/%[2]s", group, f[2])
}
