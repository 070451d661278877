package packages

import (
	"context"
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/patch"
)

// zypper is the package manager of SUSE.
type zypper struct{ system }

func (z zypper) Name() string { return "zypper" }

func (z zypper) tool(args ...string) []string {
	if z.foreign {
		return append([]string{"zypper", "--root", z.root, "--non-interactive"}, args...)
	}
	return z.argv("", "zypper", append([]string{"--non-interactive"}, args...)...)
}

func (z zypper) Machine(ctx context.Context) (patch.Machine, error) {
	m := patch.Machine{OS: z.release["ID"], Version: z.release["VERSION_ID"], Manager: z.Name()}
	fails := func(what string) func(result) error {
		return func(r result) error {
			if r.code != 0 {
				return z.explain(what, r.code, r.all)
			}
			return nil
		}
	}
	if _, err := z.refresh(ctx, fails("zypper refresh"), z.tool("refresh")); err != nil {
		return m, err
	}
	state, err := z.State(ctx)
	if err != nil {
		return m, err
	}
	m.Installed, m.RebootPending = state.Installed, state.RebootPending
	best, err := z.refresh(ctx, fails("zypper list-updates"), z.tool("--xmlout", "--no-refresh", "list-updates", "--all", "--type", "package"))
	if err != nil {
		return m, err
	}
	all, err := z.refresh(ctx, fails("zypper search"), z.tool("--xmlout", "--no-refresh", "search", "--details", "--type", "package"))
	if err != nil {
		return m, err
	}
	if m.Offers, err = parseZypper(best.stdout, all.stdout); err != nil {
		return m, err
	}
	return m, z.advisories(ctx, m.Offers)
}

// parseZypper reads which packages have an update, from list-updates, and the
// versions between that and the installed one, from search, which sorts them newest first.
func parseZypper(best, all string) ([]patch.Offer, error) {
	var updates struct {
		Updates []struct {
			Name   string `xml:"name,attr"`
			Arch   string `xml:"arch,attr"`
			New    string `xml:"edition,attr"`
			Old    string `xml:"edition-old,attr"`
			Source struct {
				Alias string `xml:"alias,attr"`
			} `xml:"source"`
		} `xml:"update-status>update-list>update"`
	}
	if err := xml.Unmarshal([]byte(best), &updates); err != nil {
		return nil, fmt.Errorf("zypper list-updates: %w", err)
	}
	var found struct {
		Solvables []struct {
			Name       string `xml:"name,attr"`
			Arch       string `xml:"arch,attr"`
			Edition    string `xml:"edition,attr"`
			Repository string `xml:"repository,attr"`
		} `xml:"search-result>solvable-list>solvable"`
	}
	if err := xml.Unmarshal([]byte(all), &found); err != nil {
		return nil, fmt.Errorf("zypper search: %w", err)
	}
	type version struct{ edition, repository string }
	versions := map[string][]version{}
	for _, s := range found.Solvables {
		key := s.Name + "." + s.Arch
		versions[key] = append(versions[key], version{s.Edition, s.Repository})
	}
	offers := []patch.Offer{}
	for _, u := range updates.Updates {
		o := patch.Offer{Name: u.Name, Arch: u.Arch, Installed: evr(u.Old), Version: evr(u.New), Repository: u.Source.Alias}
		offers = append(offers, o)
		between := false
		for _, v := range versions[u.Name+"."+u.Arch] {
			switch {
			case v.edition == u.Old:
				between = false
			case v.edition == u.New:
				between = true
			case between && evr(v.edition) != offers[len(offers)-1].Version:
				o.Version, o.Repository = evr(v.edition), v.repository
				offers = append(offers, o)
			}
		}
	}
	return offers, nil
}

func (z zypper) State(ctx context.Context) (State, error) {
	s, err := z.rpmState(ctx)
	if err != nil {
		return s, err
	}
	r, err := z.ask(ctx, time.Minute, z.tool("--xmlout", "--no-refresh", "locks"))
	if err != nil {
		return s, err
	}
	s.Held = parseLocks(r.stdout)
	return s, nil
}

// parseLocks reads the names that are locked; patterns are left to zypper.
func parseLocks(out string) []string {
	var locks struct {
		Names []string `xml:"locks>lock>name"`
	}
	if xml.Unmarshal([]byte(out), &locks) != nil {
		return nil // older ones do not speak XML here; zypper then refuses by itself
	}
	return locks.Names
}

// zypperInstall looks first whether a package would change that must not: zypper
// knows locks that stay, but none for one run. Its arguments are the number of names to hold, that of the
// words that ask for the plan and of those that install; then these three, and the packages.
const zypperInstall = `
held=("${@:4:$1}")
plan=("${@:4+$1:$2}")
install=("${@:4+$1+$2:$3}")
wanted=("${@:4+$1+$2+$3}")
would=$("${plan[@]}" "${wanted[@]}") || { code=$?; printf '%s\n' "$would"; exit $code; }
for name in "${held[@]}"; do
	case $would in
	*'type="package" name="'"$name"'"'*)
		echo "Problem: $name would change too, and is to stay as it is"
		exit 4 ;;
	esac
done
"${install[@]}" "${wanted[@]}"
`

func (z zypper) Install(want, hold []Package) (Command, error) {
	if err := check(want, hold); err != nil {
		return Command{}, err
	}
	options := []string{"--no-refresh", "install", "--no-recommends", "--auto-agree-with-licenses"}
	plan, install := z.tool(append(append([]string{"--xmlout"}, options...), "--dry-run")...), z.tool(options...)
	argv := []string{"bash", "-c", zypperInstall, "almanac", fmt.Sprint(len(hold)), fmt.Sprint(len(plan)), fmt.Sprint(len(install))}
	return z.command(slices.Concat(argv, names(hold), plan, install, zypperNames(want))), nil
}

func zypperNames(list []Package) []string {
	var names []string
	for _, p := range list {
		name := p.Name
		if p.Arch != "" {
			name += "." + p.Arch
		}
		names = append(names, name+"="+p.Version)
	}
	return names
}

func (z zypper) Restore(ctx context.Context, back, remove []Package) (Command, []Package, error) {
	if err := check(back, remove); err != nil {
		return Command{}, nil, err
	}
	r, err := z.ask(ctx, 5*time.Minute, z.tool("--xmlout", "--no-refresh", "search", "--details", "--type", "package"))
	if err == nil && r.code != 0 {
		err = z.explain("zypper search", r.code, r.all)
	}
	if err != nil {
		return Command{}, nil, err
	}
	var there, gone []Package
	for _, p := range back {
		// It is not what is installed now, so that who shows it has it.
		if strings.Contains(r.stdout, fmt.Sprintf(`name="%s" kind="package" edition="%s" arch="%s"`, p.Name, p.Version, p.Arch)) {
			there = append(there, p)
		} else {
			gone = append(gone, p)
		}
	}
	return z.restore(z.tool("--no-refresh", "install", "--oldpackage", "--no-recommends"), zypperNames(there), remove), gone, nil
}

// Settle has nothing to do.
func (z zypper) Settle([]string) Command { return Command{} }

func (z zypper) Explain(code int, output string) error { return z.explain("zypper", code, output) }

func (z zypper) explain(what string, code int, output string) error {
	if code == 7 { // by its manual: somebody else has the lock
		output = "system management is locked\n" + output
	}
	return explain(fmt.Sprintf("%s: exit code %d", what, code), output)
}
