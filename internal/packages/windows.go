package packages

import (
	"context"
	_ "embed" // for the script
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/patch"
)

// windows is Windows Update. It was written from Microsoft's documentation and
// has never run: its tests read answers that were written by hand, and our agent does not build for
// Windows yet.
//
// An update is a package that is installed or not: its name is its KB number,
// its version the revision. To put it back is to remove it, where Windows can.
type windows struct{ system }

//go:embed windows.ps1
var windowsScript string

func (w windows) Name() string { return "windows" }

func (w windows) script(do string, names []string, more ...string) Command {
	list, _ := json.Marshal(names) // strings always can
	env := append(slices.Clone(os.Environ()), "ALMANAC_DO="+do, "ALMANAC_UPDATES="+string(list))
	return Command{
		Argv: []string{"powershell.exe", "-NoProfile", "-NonInteractive", "-ExecutionPolicy", "Bypass", "-Command", windowsScript},
		Env:  append(env, more...),
	}
}

type windowsUpdate struct {
	ID         string    `json:"id"`
	Revision   string    `json:"revision"`
	Title      string    `json:"title"`
	KB         []string  `json:"kb"`
	Severity   string    `json:"severity"`
	Categories []string  `json:"categories"`
	Bulletins  []string  `json:"bulletins"`
	CVEs       []string  `json:"cves"`
	Published  time.Time `json:"published"`
}

type windowsAnswer struct {
	Installed []windowsUpdate `json:"installed"`
	Offered   []windowsUpdate `json:"offered"`
	Version   string          `json:"version"`
	Reboot    bool            `json:"reboot"`
}

func (w windows) look(ctx context.Context, offers string) (windowsAnswer, error) {
	var a windowsAnswer
	c := w.script("look", nil, "ALMANAC_OFFERS="+offers)
	w.environ = c.Env
	r, err := w.ask(ctx, 30*time.Minute, c.Argv)
	if err == nil && r.code != 0 {
		err = explain("windows update", r.all)
	}
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal([]byte(r.stdout), &a); err != nil {
		return a, fmt.Errorf("windows update: its answer is not what was expected: %w", err)
	}
	return a, nil
}

func (w windows) Machine(ctx context.Context) (patch.Machine, error) {
	a, err := w.look(ctx, "yes")
	return a.machine(), err
}

func (w windows) State(ctx context.Context) (State, error) {
	a, err := w.look(ctx, "no")
	m := a.machine()
	return State{Installed: m.Installed, RebootPending: m.RebootPending}, err
}

func (a windowsAnswer) machine() patch.Machine {
	m := patch.Machine{OS: "windows", Version: a.Version, Manager: "windows", Offers: []patch.Offer{}, RebootPending: a.Reboot}
	for _, u := range a.Installed {
		if name := u.name(); name != "" {
			m.Installed = append(m.Installed, Package{Name: name, Version: u.Revision})
		}
	}
	sortPackages(m.Installed)
	for _, u := range a.Offered {
		if u.name() == "" {
			continue // nothing that could be named in a baseline
		}
		o := patch.Offer{Name: u.name(), Version: u.Revision, Repository: "windows-update", Published: u.Published, CVEs: u.CVEs}
		switch strings.ToLower(u.Severity) {
		case "critical", "important", "moderate", "low":
			o.Severity = strings.ToLower(u.Severity)
		}
		for _, c := range u.Categories {
			switch {
			case c == "Security Updates":
				o.Classification = "security"
			case o.Classification == "" && (c == "Critical Updates" || c == "Updates" || c == "Update Rollups"):
				o.Classification = "bugfix"
			case o.Classification == "" && (c == "Feature Packs" || c == "Service Packs" || c == "Upgrades"):
				o.Classification = "enhancement"
			}
		}
		if len(u.Bulletins) > 0 {
			o.Advisory = u.Bulletins[0]
		}
		m.Offers = append(m.Offers, o)
	}
	return m
}

func (u windowsUpdate) name() string {
	if len(u.KB) == 0 || !nameForm.MatchString("KB"+u.KB[0]) {
		return ""
	}
	return "KB" + u.KB[0]
}

func (w windows) Install(want, hold []Package) (Command, error) {
	if err := check(want, hold); err != nil {
		return Command{}, err
	}
	return w.script("install", names(want)), nil // Windows does not pull one in for another
}

func (w windows) Restore(_ context.Context, back, remove []Package) (Command, []Package, error) {
	if err := check(back, remove); err != nil {
		return Command{}, nil, err
	}
	if len(remove) == 0 {
		return Command{}, back, nil
	}
	return w.script("remove", names(remove)), back, nil // an older revision is not offered
}

// Settle has nothing to do.
func (w windows) Settle([]string) Command { return Command{} }

func (w windows) Explain(code int, output string) error {
	return explain(fmt.Sprintf("windows update: exit code %d", code), output)
}
