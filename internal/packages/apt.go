package packages

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/patch"
)

// apt is the package manager of Debian and Ubuntu.
type apt struct{ system }

func (a apt) Name() string { return "apt" }

func (a apt) tool(name string, args ...string) []string { return a.argv("", name, args...) }

func (a apt) Machine(ctx context.Context) (patch.Machine, error) {
	m := patch.Machine{OS: a.release["ID"], Version: a.release["VERSION_ID"], Manager: a.Name()}
	_, err := a.refresh(ctx, func(r result) error {
		// apt-get takes a repository that it cannot reach for a warning, and goes on with old lists.
		if r.code != 0 || unreachableSigns.MatchString(r.all) {
			return explain("apt-get update", r.all)
		}
		return nil
	}, a.tool("apt-get", "-q", "-o", "Acquire::Retries=2", "update"))
	if err != nil {
		return m, err
	}
	state, err := a.State(ctx)
	if err != nil {
		return m, err
	}
	m.Installed, m.RebootPending = state.Installed, state.RebootPending
	m.Offers, err = a.offers(ctx, state)
	return m, err
}

func (a apt) State(ctx context.Context) (State, error) {
	r, err := a.ask(ctx, 2*time.Minute, a.tool("dpkg-query", "-W", "-f", `${db:Status-Abbrev}\t${Package}\t${Architecture}\t${Version}\n`))
	if err == nil && r.code != 0 {
		err = explain("dpkg-query", r.all)
	}
	if err != nil {
		return State{}, err
	}
	s := parseDpkg(r.stdout)
	r, err = a.ask(ctx, 2*time.Minute, a.tool("apt-mark", "showauto"))
	if err == nil && r.code != 0 {
		err = explain("apt-mark showauto", r.all)
	}
	if err != nil {
		return State{}, err
	}
	s.Auto = strings.Fields(r.stdout)
	s.RebootPending, err = a.rebootPending(ctx)
	return s, err
}

// parseDpkg reads lines of status, name, architecture and version.
func parseDpkg(out string) State {
	var s State
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		// The second letter: installed, or only waiting for triggers of others. What was
		// unpacked and not configured is not installed.
		if len(f) != 4 || len(f[0]) < 2 || !strings.ContainsRune("iWt", rune(f[0][1])) {
			continue
		}
		s.Installed = append(s.Installed, Package{Name: f[1], Arch: f[2], Version: f[3]})
		if f[0][0] == 'h' {
			s.Held = append(s.Held, f[1])
		}
	}
	sortPackages(s.Installed)
	return s
}

// offers asks for the versions of what is installed. apt-cache's policy is the
// one place where apt says what it would choose, administrators' pins included.
func (a apt) offers(ctx context.Context, s State) ([]patch.Offer, error) {
	r, err := a.ask(ctx, 2*time.Minute, a.tool("apt-cache", "policy"))
	if err == nil && r.code != 0 {
		err = explain("apt-cache policy", r.all)
	}
	if err != nil {
		return nil, err
	}
	sources := parseSources(r.stdout)
	r, err = a.ask(ctx, time.Minute, a.tool("dpkg", "--print-architecture"))
	if err != nil {
		return nil, err
	}
	native := strings.TrimSpace(r.stdout)
	offers := []patch.Offer{}
	for some := range slices.Chunk(s.Installed, 500) {
		names := []string{}
		for _, p := range some {
			if check([]Package{p}) != nil {
				continue // dpkg would not have installed it
			}
			name := p.Name
			if p.Arch != "all" {
				name += ":" + p.Arch
			}
			names = append(names, name)
		}
		r, err := a.ask(ctx, 2*time.Minute, a.tool("apt-cache", append([]string{"policy", "--"}, names...)...))
		if err == nil && r.code != 0 {
			err = explain("apt-cache policy", r.all)
		}
		if err != nil {
			return nil, err
		}
		offers = append(offers, parsePolicy(r.stdout, some, native, sources)...)
	}
	return offers, a.describe(ctx, offers)
}

// A source is one index of a repository, as apt's policy names it.
type source struct {
	name     string // "bookworm-security/main"
	security bool
}

// parseSources reads "apt-cache policy": each index with its release. The key
// is the line that names it, without the priority.
func parseSources(out string) map[string]source {
	sources := map[string]source{}
	key := ""
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if line == "Pinned packages:" {
			break
		}
		if rest, ok := strings.CutPrefix(line, "release "); ok {
			is := map[string]string{}
			for pair := range strings.SplitSeq(rest, ",") {
				k, v, _ := strings.Cut(pair, "=")
				is[k] = v
			}
			f := strings.Fields(key)
			s := source{security: is["l"] == "Debian-Security" || strings.HasSuffix(is["n"], "-security") || strings.HasSuffix(is["a"], "-security")}
			if len(f) > 1 {
				s.name = f[1]
			}
			sources[key] = s
			continue
		}
		if _, rest, ok := strings.Cut(line, " "); ok && !strings.HasPrefix(line, "origin ") {
			key = strings.TrimSpace(rest)
		}
	}
	return sources
}

// parsePolicy reads "apt-cache policy NAME…". The version table is sorted,
// newest first: what stands between the candidate and what is installed is offered. Only packages
// of another architecture than the native one are named with it.
func parsePolicy(out string, installed []Package, native string, sources map[string]source) []patch.Offer {
	at := map[string]Package{}
	for _, p := range installed {
		at[p.Name+":"+p.Arch+"\x00"+p.Version] = p
		if p.Arch == native || p.Arch == "all" {
			at[p.Name+"\x00"+p.Version] = p
		}
	}
	var offers, table []patch.Offer
	var name, have, candidate string
	reached, listed := false, false
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		text := strings.TrimSpace(line)
		switch indent := len(line) - len(strings.TrimLeft(line, " ")); {
		case indent == 0:
			name, have, candidate, table, reached, listed = strings.TrimSuffix(text, ":"), "", "", nil, false, false
		case strings.HasPrefix(text, "Installed: "):
			have = strings.TrimPrefix(text, "Installed: ")
		case strings.HasPrefix(text, "Candidate: "):
			candidate = strings.TrimPrefix(text, "Candidate: ")
		case text == "Version table:":
			listed = true
		case !listed:
		case strings.HasPrefix(line, " *** "):
			// Ours. What follows is older, and offered by nobody who asks.
			if p, ok := at[name+"\x00"+have]; ok {
				for _, o := range table {
					o.Arch = p.Arch
					offers = append(offers, o)
				}
			}
			listed = false
		case indent == 5:
			f := strings.Fields(text)
			reached = reached || f[0] == candidate
			if reached && len(f) > 1 && !strings.HasPrefix(f[1], "-") && f[1] != "0" {
				bare, _, _ := strings.Cut(name, ":")
				table = append(table, patch.Offer{Name: bare, Installed: have, Version: f[0]})
			}
		default:
			_, key, _ := strings.Cut(text, " ")
			s, ok := sources[strings.TrimSpace(key)]
			if n := len(table); ok && n > 0 {
				// It may come from several.
				if table[n-1].Repository == "" || s.security {
					table[n-1].Repository = s.name
				}
				if s.security {
					table[n-1].Classification = "security"
				}
			}
		}
	}
	return offers
}

// aptInstall repairs what was interrupted, and installs. Its arguments are the
// preferences, which keep packages where they are, then options and packages.
const aptInstall = `
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
printf '%s\n' "$1" > "$temporary/preferences"
shift
if test -e /etc/apt/preferences; then cat /etc/apt/preferences >> "$temporary/preferences"; fi
dpkg --force-confdef --force-confold --configure -a
apt-get -y -q -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold -o Dpkg::Use-Pty=0 \
	-o APT::Install-Recommends=false -o Acquire::Retries=2 -o Dir::Etc::Preferences="$temporary/preferences" \
	--no-remove "$@"
`

func (a apt) script(text string, args ...string) Command {
	return a.command(a.tool("sh", append([]string{"-ec", text, "almanac"}, args...)...))
}

func (a apt) Install(want, hold []Package) (Command, error) {
	if err := check(want, hold); err != nil {
		return Command{}, err
	}
	args := []string{preferences(hold), "--only-upgrade", "install", "--"}
	return a.script(aptInstall, append(args, exact(want)...)...), nil
}

// preferences pins packages to what is installed: no other version exists then
// for the one who looks for dependencies.
func preferences(hold []Package) string {
	var b strings.Builder
	for _, p := range hold {
		fmt.Fprintf(&b, "Package: %s\nPin: version %s\nPin-Priority: 1001\n\n", p.Name, p.Version)
	}
	return b.String()
}

func exact(list []Package) []string {
	var names []string
	for _, p := range list {
		name := p.Name
		if p.Arch != "" && p.Arch != "all" {
			name += ":" + p.Arch
		}
		names = append(names, name+"="+p.Version)
	}
	return names
}

// aptRestore goes on past what cannot be done, and removes what nothing needs:
// dpkg, other than apt-get, refuses to remove what is needed.
const aptRestore = `
dpkg --force-confdef --force-confold --configure -a
back=$1
shift
code=0
restore() {
	apt-get -y -q -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold -o Dpkg::Use-Pty=0 \
		-o APT::Install-Recommends=false -o Acquire::Retries=2 --no-remove --allow-downgrades --allow-change-held-packages install -- "$@"
}
if test "$back" -gt 0; then
	i=0 all=
	for p in "$@"; do
		if test $i -lt "$back"; then all="$all $p"; fi
		i=$((i+1))
	done
	set -f
	restore $all || {
		code=$?
		for p in $all; do restore "$p" || code=$?; done
	}
fi
shift "$back"
for p in "$@"; do dpkg --remove "$p" || code=$?; done
exit $code
`

func (a apt) Restore(ctx context.Context, back, remove []Package) (Command, []Package, error) {
	if err := check(back, remove); err != nil {
		return Command{}, nil, err
	}
	var there, gone []Package
	for some := range slices.Chunk(back, 500) {
		var names []string
		for _, p := range some {
			names = append(names, p.Name)
		}
		// A name that no repository knows makes its exit code 100, others are shown all the same.
		r, err := a.ask(ctx, 2*time.Minute, a.tool("apt-cache", append([]string{"show", "--"}, names...)...))
		if err != nil {
			return Command{}, nil, err
		}
		known := parseShown(r.stdout)
		for _, p := range some {
			if known[p] || known[Package{Name: p.Name, Arch: "all", Version: p.Version}] {
				there = append(there, p)
			} else {
				gone = append(gone, p)
			}
		}
	}
	if len(there)+len(remove) == 0 {
		return Command{}, gone, nil
	}
	args := append([]string{fmt.Sprint(len(there))}, exact(there)...)
	for _, p := range remove {
		name := p.Name
		if p.Arch != "" && p.Arch != "all" {
			name += ":" + p.Arch
		}
		args = append(args, name)
	}
	return a.script(aptRestore, args...), gone, nil
}

// parseShown reads the records of "apt-cache show".
func parseShown(out string) map[Package]bool {
	known := map[Package]bool{}
	var p Package
	var file bool // a record without a file is that of what is installed
	for line := range strings.Lines(out + "\n") {
		key, value, _ := strings.Cut(strings.TrimRight(line, "\n"), ": ")
		switch key {
		case "Package":
			p.Name = value
		case "Architecture":
			p.Arch = value
		case "Version":
			p.Version = value
		case "Filename":
			file = true
		case "":
			if file {
				known[p] = true
			}
			p, file = Package{}, false
		}
	}
	return known
}

func (a apt) Settle(auto []string) Command {
	auto = slices.DeleteFunc(slices.Clone(auto), func(name string) bool { return !nameForm.MatchString(name) })
	if len(auto) == 0 {
		return Command{}
	}
	return a.command(a.tool("apt-mark", append([]string{"-q", "auto", "--"}, auto...)...))
}

func (a apt) Explain(code int, output string) error {
	return explain(fmt.Sprintf("apt-get: exit code %d", code), output)
}
