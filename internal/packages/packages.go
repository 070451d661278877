// Package packages speaks with the package manager of a machine.
//
// It gives Find, which finds the package manager that the machine has (apt, dnf
// or yum, zypper, Windows Update), and Manager, what it can be asked: what is
// installed and offered, with the security data of the distribution, and the
// commands that install exactly these versions or put others back. It promises
// that a repository that cannot be reached is an error that names it, that whatever the tools
// print is data, and that it changes nothing itself: what changes the machine is a Command, for
// the caller to run and to watch. It refuses to know baselines, nodes and history.
package packages

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/almanac-run/almanac/patch"
)

// Package is one version of a package.
type Package = patch.Installed

// Manager is a package manager on one machine. Its methods only look, but for
// the metadata that Machine refreshes. They may be called from one goroutine at a time.
type Manager interface {
	// Name is apt, dnf (yum too), zypper or windows.
	Name() string

	// Machine asks the repositories what they offer, and says what the machine is.
	Machine(ctx context.Context) (patch.Machine, error)

	// State says how the machine is now, without asking anyone.
	State(ctx context.Context) (State, error)

	// Install is the command that brings the wanted packages, which are installed in an older
	// version, to the wanted version, with what they need. It fails
	// rather than change one of hold, which are installed, or remove any. It may be run again
	// if it was interrupted.
	Install(want, hold []Package) (Command, error)

	// Restore is the command that puts packages back to an older version, and
	// removes others if nothing needs them. gone are those whose version no repository offers any more: they
	// are not part of the command, whose Argv is nil if nothing is left to do.
	Restore(ctx context.Context, back, remove []Package) (cmd Command, gone []Package, err error)

	// Settle is the command that tells the manager again which packages are
	// there only because others need them, which some forget when such
	// a package is named to them. Argv is nil if there is nothing to tell.
	Settle(auto []string) Command

	// Explain says why a command that ended with that exit code failed, by what it printed
	// at last. It wraps ErrBusy or ErrUnreachable if that is why.
	Explain(code int, output string) error
}

// State is what has to be known of a machine to find out later what has
// changed, and to put it back.
type State struct {
	Installed     []Package `json:"installed"`      // sorted by name, architecture, version
	Auto          []string  `json:"auto,omitempty"` // names of those there because others need them, if the manager forgets that
	Held          []string  `json:"held,omitempty"` // names of those that an administrator has said to leave alone
	RebootPending bool      `json:"reboot_pending"`
}

// Command is a program to run, with all of its environment.
type Command struct {
	Argv []string
	Env  []string // NAME=value
}

// ErrBusy says that another program is using the package manager. It passes.
var ErrBusy = errors.New("another program is using the package manager")

// ErrUnreachable says that a repository did not answer as it should.
var ErrUnreachable = errors.New("a repository cannot be reached")

// ErrNone says that there is no package manager that we know.
var ErrNone = errors.New("no package manager that is known (apt-get, dnf, yum, zypper)")

// Find returns the package manager of the machine, or of the directory root that
// stands for a whole machine. That needs a user who may chroot. A root without a package manager of its own
// may be managed by the machine's dnf or zypper.
func Find(root string) (Manager, error) {
	s := system{root: root}
	s.release = s.osRelease()
	if root == "" && runtime.GOOS == "windows" {
		return windows{s}, nil
	}
	// A machine may have tools of others: Debian has dnf, as a package. So its family's come first.
	families := []struct {
		tools, ids []string
		manager    func(s system, tool string) Manager
	}{
		{[]string{"apt-get"}, []string{"debian", "ubuntu"}, func(s system, _ string) Manager { return apt{s} }},
		{[]string{"dnf", "yum"}, []string{"fedora", "rhel", "centos", "amzn"}, func(s system, tool string) Manager { return dnf{s, tool} }},
		{[]string{"zypper"}, []string{"suse", "sles", "opensuse"}, func(s system, _ string) Manager { return zypper{s} }},
	}
	ids := append([]string{s.release["ID"]}, strings.Fields(s.release["ID_LIKE"])...)
	ours := func(id string) func(string) bool {
		return func(known string) bool { return id == known || strings.HasPrefix(id, known+"-") }
	}
	for _, inside := range []bool{true, false} {
		if !inside && root == "" {
			break
		}
		for _, mine := range []bool{true, false} {
			for _, f := range families {
				if mine != slices.ContainsFunc(ids, func(id string) bool { return slices.ContainsFunc(f.ids, ours(id)) }) {
					continue
				}
				for _, tool := range f.tools {
					switch {
					case inside && s.has(tool):
						return f.manager(s, tool), nil
					case !inside && mine && tool != "apt-get" && (system{}).has(tool):
						s.foreign = true
						return f.manager(s, tool), nil
					}
				}
			}
		}
	}
	return nil, ErrNone
}

// What a tool is told must be a name or a version, and no option, path or
// pattern. This is what Debian's policy and rpm allow, and a little more.
var (
	nameForm    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,254}$`)
	archForm    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]{0,31}$`)
	versionForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+~^:-]{0,254}$`)
)

func check(lists ...[]Package) error {
	for _, list := range lists {
		for _, p := range list {
			if !nameForm.MatchString(p.Name) || p.Arch != "" && !archForm.MatchString(p.Arch) || !versionForm.MatchString(p.Version) {
				return fmt.Errorf("package %.100q, version %.100q, architecture %.40q: not a name, a version or an architecture that a package manager may be told", p.Name, p.Version, p.Arch)
			}
		}
	}
	return nil
}

func sortPackages(list []Package) {
	slices.SortFunc(list, func(a, b Package) int {
		return strings.Compare(a.Name+"\x00"+a.Arch+"\x00"+a.Version, b.Name+"\x00"+b.Arch+"\x00"+b.Version)
	})
}

func names(list []Package) []string {
	names := []string{}
	for _, p := range list {
		names = append(names, p.Name)
	}
	return names
}
