package host

import (
	"strings"
	"testing"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/packages"
	"github.com/almanac-run/almanac/lang/program"
)

func pkg(name, arch, version string) packages.Package {
	return packages.Package{Name: name, Arch: arch, Version: version}
}

func TestPatchCompare(t *testing.T) {
	before := []packages.Package{pkg("bash", "amd64", "1"), pkg("gone", "all", "1"), pkg("kernel", "x86_64", "1"), pkg("libc", "amd64", "1"), pkg("libc", "i386", "1")}
	after := []packages.Package{pkg("bash", "amd64", "2"), pkg("new", "all", "1"), pkg("kernel", "x86_64", "1"), pkg("kernel", "x86_64", "2"), pkg("libc", "amd64", "1"), pkg("libc", "i386", "2")}
	changed, added, removed := compare(before, after)
	show := func(list []patchChange) string {
		var all []string
		for _, c := range list {
			all = append(all, c.Name+"."+c.Arch+" "+c.From+">"+c.To)
		}
		return strings.Join(all, ", ")
	}
	if got := show(changed); got != "bash.amd64 1>2, libc.i386 1>2" {
		t.Errorf("changed %s", got)
	}
	if got := show(added); got != "new.all >1, kernel.x86_64 >2" {
		t.Errorf("added %s", got)
	}
	if got := show(removed); got != "gone.all 1>" {
		t.Errorf("removed %s", got)
	}
}

func TestPatchSnapshotCommands(t *testing.T) {
	const token = "abcdefghijklmnopqrstuvwxyz"
	tests := []struct{ kind, of, name, exists, take, back string }{
		{"lvm", "vg0/root", "lvm:vg0/root:almanac-abcdefghijkl", "lvs vg0/almanac-abcdefghijkl",
			"lvcreate --yes --snapshot --extents 20%ORIGIN --name almanac-abcdefghijkl vg0/root", "lvconvert --merge vg0/almanac-abcdefghijkl"},
		{"btrfs", "/", "btrfs:/:/.almanac-abcdefghijkl", "btrfs subvolume show /.almanac-abcdefghijkl",
			"btrfs subvolume snapshot -r / /.almanac-abcdefghijkl", "btrfs subvolume snapshot /.almanac-abcdefghijkl /.almanac-abcdefghijkl-rw"},
		{"lvm", "sda1", "", "", "", ""},
		{"lvm", "", "", "", "", ""},
		{"lvm", "vg0/a\nvg0/b", "", "", "", ""},
	}
	for _, tt := range tests {
		name, exists, take := snapshotCommands(tt.kind, tt.of, token)
		if name != tt.name || strings.Join(exists, " ") != tt.exists || strings.Join(take, " ") != tt.take || !strings.Contains(snapshotBack(name), tt.back) {
			t.Errorf("%s of %q: %s, %v, %v, %s", tt.kind, tt.of, name, exists, take, snapshotBack(name))
		}
	}
}

// A baseline that is written in the runbook is checked before it starts; one that is not known yet, when the step runs.
func TestPatchInspect(t *testing.T) {
	good := map[string]any{"baseline": "b", "rules": []any{map[string]any{"approve": "patch.severity == 'critical'"}}}
	tests := []struct {
		in   any
		says string
	}{
		{good, ""},
		{action.Later{Type: program.Type{Kind: program.Any}}, ""},
		{map[string]any{"baseline": "b", "rules": []any{action.Later{}}}, ""},
		{map[string]any{"baseline": "b", "rules": []any{map[string]any{"approve": "patch.serenity == 'x'"}}}, "serenity"},
		{"text", "object"},
	}
	for _, tt := range tests {
		problems := inspectBaseline(map[string]any{"baseline": tt.in}).Problems
		switch {
		case tt.says == "" && len(problems) > 0:
			t.Errorf("%v: %v", tt.in, problems)
		case tt.says != "" && (len(problems) != 1 || !strings.Contains(problems[0].Message, tt.says)):
			t.Errorf("%v: %v, want %q", tt.in, problems, tt.says)
		}
	}
	if problems := inspectBaseline(nil).Problems; problems != nil {
		t.Error(problems)
	}
}

// What is wrong with the inputs is said before anything is looked at.
func TestPatchRefuses(t *testing.T) {
	b := newBench(t)
	b.Root = t.TempDir() // there is no package manager
	good := map[string]any{"baseline": "b", "rules": []any{securityRule}}
	tests := []struct {
		name string
		in   map[string]any
		kind action.Kind
		says string
	}{
		{"scan", map[string]any{"baseline": map[string]any{"rules": 3}}, action.Invalid, "baseline"},
		{"install", map[string]any{"baseline": "x"}, action.Invalid, "baseline"},
		{"install", map[string]any{"baseline": good, "reboot": "maybe"}, action.Invalid, "maybe"},
		{"install", map[string]any{"baseline": good, "reboot": "always"}, action.Invalid, "root directory"},
		{"install", map[string]any{"baseline": good, "exclude": []string{"[a"}}, action.Invalid, "[a"},
		{"install", map[string]any{"baseline": good}, "", "package"},
	}
	for _, tt := range tests {
		_, err := b.do(callContext("refuse"), "host.patch."+tt.name, tt.in)
		if err == nil || !strings.Contains(err.Error(), tt.says) || tt.kind != "" && action.KindOf(err) != tt.kind {
			t.Errorf("%s %v: %v, want %s %q", tt.name, tt.in, err, tt.kind, tt.says)
		}
	}
}
