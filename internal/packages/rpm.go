package packages

import (
	"context"
	"path/filepath"
	"strings"
	"time"
)

// rpm is what dnf, yum and zypper stand on.

const rpmFormat = `%{NAME}\t%{EPOCH}:%{VERSION}-%{RELEASE}\t%{ARCH}\n`

func (s system) rpmState(ctx context.Context) (State, error) {
	argv := []string{"rpm", "-qa", "--qf", rpmFormat}
	switch {
	case s.foreign:
		argv = append([]string{"rpm", "--root", s.root}, argv[1:]...)
	case s.root != "":
		argv = append([]string{"chroot", s.root}, argv...)
	}
	r, err := s.ask(ctx, 2*time.Minute, argv)
	if err == nil && r.code != 0 {
		err = explain("rpm -qa", r.all)
	}
	if err != nil {
		return State{}, err
	}
	state := State{Installed: parseRPM(r.stdout)}
	state.RebootPending, err = s.rebootPending(ctx)
	return state, err
}

// parseRPM reads lines of name, epoch:version-release and architecture. What has
// no architecture is a key, not a package.
func parseRPM(out string) []Package {
	list := []Package{}
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(f) != 3 || f[2] == "(none)" || f[0] == "gpg-pubkey" {
			continue
		}
		list = append(list, Package{Name: f[0], Arch: f[2], Version: evr(f[1])})
	}
	sortPackages(list)
	return list
}

// evr writes a version as rpm itself does: with an epoch only if that is not 0.
func evr(v string) string {
	for _, none := range []string{"(none):", "0:"} {
		if rest, ok := strings.CutPrefix(v, none); ok {
			return rest
		}
	}
	return v
}

// nevra names one version of a package to dnf.
func nevra(p Package) string {
	v := p.Version
	if !strings.Contains(v, ":") {
		v = "0:" + v
	}
	name := p.Name + "-" + v
	if p.Arch != "" {
		name += "." + p.Arch
	}
	return name
}

// updateinfo finds the updateinfo files that the tools have fetched. Those of a
// repository that is no longer used do no harm: nothing is offered by it.
func (s system) updateinfo() []string {
	var files []string
	for _, pattern := range []string{
		"var/cache/dnf/*/repodata/*updateinfo.xml*",
		"var/cache/libdnf5/*/repodata/*updateinfo.xml*",
		"var/cache/yum/*updateinfo.xml*", "var/cache/yum/*/*updateinfo.xml*", "var/cache/yum/*/*/*updateinfo.xml*", "var/cache/yum/*/*/*/*updateinfo.xml*",
		"var/cache/zypp/raw/*/repodata/*updateinfo.xml*",
	} {
		found, _ := filepath.Glob(filepath.Join(escapeGlob(s.in(".")), pattern)) // the patterns are right
		files = append(files, found...)
	}
	return files
}

var globEscaper = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

func escapeGlob(s string) string { return globEscaper.Replace(s) }
