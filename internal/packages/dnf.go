package packages

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/patch"
)

// dnf is the package manager of Fedora, RHEL and Amazon Linux; yum, its
// predecessor, takes the same words.
type dnf struct {
	system
	name string // dnf or yum
}

func (d dnf) Name() string { return "dnf" }

// tool is how dnf is called: it does not wait for another dnf (we do), and a repository that
// cannot be reached is an error.
func (d dnf) tool(args ...string) []string {
	always := []string{"-y", "--setopt=exit_on_lock=1", "--setopt=*.skip_if_unavailable=0", "--setopt=best=1", "--color=never"}
	if d.foreign {
		if v := d.release["VERSION_ID"]; versionForm.MatchString(v) {
			always = append(always, "--releasever="+v)
		}
	}
	return d.argv("--installroot=", d.name, append(always, args...)...)
}

func (d dnf) Machine(ctx context.Context) (patch.Machine, error) {
	m := patch.Machine{OS: d.release["ID"], Version: d.release["VERSION_ID"], Manager: d.Name()}
	fails := func(what string) func(result) error {
		return func(r result) error {
			if r.code != 0 {
				return d.explain(what, r.code, r.all)
			}
			return nil
		}
	}
	refresh := d.tool("-q", "makecache", "--refresh")
	if d.name == "yum" {
		refresh = d.tool("-q", "makecache")
	}
	if _, err := d.refresh(ctx, fails(d.name+" makecache"), refresh); err != nil {
		return m, err
	}
	state, err := d.State(ctx)
	if err != nil {
		return m, err
	}
	m.Installed, m.RebootPending = state.Installed, state.RebootPending
	// dnf 5 wants the newline written, the others add one.
	query := d.tool("-q", "-C", "repoquery", "--upgrades", "--qf", `%{name}\t%{epoch}:%{version}-%{release}\t%{arch}\t%{repoid}\n`)
	if d.name == "yum" {
		query = append([]string{"repoquery", "-q", "-C"}, "--pkgnarrow=updates", "-a", "--qf", "%{name}\t%{epoch}:%{version}-%{release}\t%{arch}\t%{repoid}")
		if d.root != "" {
			query = append([]string{"chroot", d.root}, query...)
		}
	}
	r, err := d.refresh(ctx, fails(d.name+" repoquery"), query)
	if err != nil {
		return m, err
	}
	m.Offers = parseRepoquery(r.stdout, state.Installed)
	return m, d.advisories(ctx, m.Offers)
}

// parseRepoquery reads lines of name, epoch:version-release, architecture and repository.
func parseRepoquery(out string, installed []Package) []patch.Offer {
	have := map[string]string{}
	for _, p := range installed {
		have[p.Name+"."+p.Arch] = p.Version
		if have[p.Name] == "" {
			have[p.Name] = p.Version
		}
	}
	offers := []patch.Offer{}
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(f) != 4 {
			continue
		}
		o := patch.Offer{Name: f[0], Version: evr(f[1]), Arch: f[2], Repository: f[3]}
		o.Installed = have[o.Name+"."+o.Arch]
		if o.Installed == "" {
			o.Installed = have[o.Name] // noarch became one of an architecture, or the other way round
		}
		if o.Installed != "" && !slices.ContainsFunc(offers, func(k patch.Offer) bool { return k.Name == o.Name && k.Arch == o.Arch && k.Version == o.Version }) {
			offers = append(offers, o)
		}
	}
	return offers
}

func (d dnf) State(ctx context.Context) (State, error) { return d.rpmState(ctx) }

func (d dnf) Install(want, hold []Package) (Command, error) {
	if err := check(want, hold); err != nil {
		return Command{}, err
	}
	var args []string
	for _, p := range hold {
		args = append(args, "--exclude="+p.Name)
	}
	args = append(args, "--setopt=install_weak_deps=0", "upgrade")
	for _, p := range want {
		args = append(args, nevra(p))
	}
	return d.command(d.tool(args...)), nil
}

// rpmRestore goes on past what cannot be done, and removes what nothing needs:
// rpm, other than dnf, refuses to remove what is needed. It gets the number of words of
// the command that puts back and of the one that removes, the number of packages to put back, the two commands, and the packages.
const rpmRestore = `
n=$1 m=$2 back=$3
shift 3
code=0
if test "$back" -gt 0; then
	"${@:1:n}" "${@:n+m+1:back}" || {
		code=$?
		for p in "${@:n+m+1:back}"; do "${@:1:n}" "$p" || code=$?; done
	}
fi
for p in "${@:n+m+back+1}"; do "${@:n+1:m}" "$p" || code=$?; done
exit $code
`

func (d dnf) Restore(ctx context.Context, back, remove []Package) (Command, []Package, error) {
	if err := check(back, remove); err != nil {
		return Command{}, nil, err
	}
	var there, gone []Package
	for some := range slices.Chunk(back, 500) {
		args := []string{"-q", "-C", "repoquery", "--qf", `%{name}\t%{epoch}:%{version}-%{release}\t%{arch}\n`}
		for _, p := range some {
			args = append(args, nevra(p))
		}
		argv := d.tool(args...)
		if d.name == "yum" {
			argv = append([]string{"repoquery"}, args[:2]...)
			argv = append(append(argv, "--show-duplicates"), args[3:]...)
			if d.root != "" {
				argv = append([]string{"chroot", d.root}, argv...)
			}
		}
		r, err := d.ask(ctx, 5*time.Minute, argv)
		if err != nil {
			return Command{}, nil, err
		}
		if r.code != 0 {
			return Command{}, nil, d.explain(d.name+" repoquery", r.code, r.all)
		}
		known := parseRPM(r.stdout)
		for _, p := range some {
			if slices.Contains(known, p) {
				there = append(there, p)
			} else {
				gone = append(gone, p)
			}
		}
	}
	words := []string{}
	for _, p := range there {
		words = append(words, nevra(p))
	}
	return d.restore(d.tool("downgrade"), words, remove), gone, nil
}

// restore makes the command of rpmRestore.
func (s system) restore(down []string, back []string, remove []Package) Command {
	if len(back)+len(remove) == 0 {
		return Command{}
	}
	erase := []string{"rpm", "-e"}
	switch {
	case s.foreign:
		erase = []string{"rpm", "--root", s.root, "-e"}
	case s.root != "":
		erase = []string{"chroot", s.root, "rpm", "-e"}
	}
	argv := []string{"bash", "-c", rpmRestore, "almanac", fmt.Sprint(len(down)), fmt.Sprint(len(erase)), fmt.Sprint(len(back))}
	argv = append(append(append(argv, down...), erase...), back...)
	for _, p := range remove {
		argv = append(argv, p.Name+"-"+withoutEpoch(p.Version)+"."+p.Arch)
	}
	return s.command(argv)
}

func withoutEpoch(version string) string {
	if _, v, ok := strings.Cut(version, ":"); ok {
		return v
	}
	return version
}

// Settle has nothing to do: dnf and rpm remember why a package is there.
func (d dnf) Settle([]string) Command { return Command{} }

func (d dnf) Explain(code int, output string) error { return d.explain(d.name, code, output) }

func (d dnf) explain(what string, code int, output string) error {
	if code == 200 { // by its manual: somebody else has the lock
		output = "existing lock: another copy is running\n" + output
	}
	return explain(fmt.Sprintf("%s: exit code %d", what, code), output)
}
