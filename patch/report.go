package patch

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// The states of a machine.
const (
	Compliant    = "compliant"
	NonCompliant = "non_compliant"
)

// Report is what a baseline says about a machine. Numbers count packages; of a
// package for two architectures each counts.
type Report struct {
	Baseline  string    `json:"baseline" jsonschema:"name of the baseline"`
	Digest    string    `json:"digest" jsonschema:"digest of the baseline"`
	DecidedAt time.Time `json:"decided_at" jsonschema:"when"`
	Manager   string    `json:"manager" jsonschema:"package manager: apt, dnf, zypper or windows"`
	Status    string    `json:"status" jsonschema:"compliant or non_compliant"`
	Why       string    `json:"why" jsonschema:"what makes it non_compliant; empty otherwise"`

	Installed int `json:"installed" jsonschema:"packages on the machine"`
	Patched   int `json:"patched" jsonschema:"of these, those for which nothing newer is offered"`
	Other     int `json:"other" jsonschema:"of these, those for which something newer is offered that the baseline does not have installed now"`

	Missing           int            `json:"missing" jsonschema:"approved and not installed"`
	MissingBySeverity map[string]int `json:"missing_by_severity" jsonschema:"the same by severity: critical, important, moderate, low and other"`
	Failed            int            `json:"failed" jsonschema:"tried and not installed"`
	Waiting           int            `json:"waiting" jsonschema:"approved later"`
	Rejected          int            `json:"rejected" jsonschema:"held back by a rule"`
	Pinned            int            `json:"pinned" jsonschema:"held back by a pin"`
	NotInBaseline     int            `json:"not_in_baseline" jsonschema:"offered, and no rule approves it"`
	RebootPending     bool           `json:"reboot_pending" jsonschema:"the machine has to be restarted before all is in effect"`

	Problems []string   `json:"problems,omitempty" jsonschema:"rules that could not be evaluated"`
	Patches  []Decision `json:"patches" jsonschema:"what these numbers count, the worst first, of each package the newest of a decision; at most 500, and 64 KiB"`
	Omitted  int        `json:"omitted" jsonschema:"how many are not in the list, since it would be too long"`

	// Decisions are all, one for each offer in the order of the machine's. They
	// stay where they were made: see ToInstall and ToHold.
	Decisions []Decision `json:"-"`
}

// The limits of a report: it is kept in histories.
const (
	maxPatches = 500
	maxBytes   = 64 << 10 // of their JSON
	maxField   = 120      // characters of a name, a version …
	maxWhy     = 300
	maxCVEs    = 20
)

// other counts what has no severity, or one that nobody knows.
const other = "other"

// Failure is a package whose installation was tried, and failed.
type Failure struct {
	Name, Arch, Version string
	Why                 string // one line
}

// WithFailures returns the report with these counted as failed instead of as
// missing. What it does not mention as missing it does not count: it was installed after all.
func (r Report) WithFailures(failures []Failure) Report {
	why := make(map[Failure]string, len(failures))
	for _, f := range failures {
		why[Failure{Name: f.Name, Arch: f.Arch, Version: f.Version}] = f.Why
	}
	r.Decisions = slices.Clone(r.Decisions)
	moved := 0
	for i, d := range r.Decisions {
		if w, ok := why[Failure{Name: d.Name, Arch: d.Arch, Version: d.Version}]; ok && d.Decision == Install {
			r.Decisions[i].Decision, r.Decisions[i].Why = Failed, w
			moved++
		}
	}
	if moved > 0 {
		patched, rest := r.Patched, r.Other
		r.summarize(nil)
		r.Patched, r.Other = patched, rest
	}
	return r
}

// ToInstall returns what is approved and not installed, complete: one version of
// each package.
func (r Report) ToInstall() []Decision {
	var install []Decision
	for _, d := range r.Decisions {
		if d.Decision == Install {
			install = append(install, d)
		}
	}
	return install
}

// ToHold returns what must stay as it is even if an update that is installed
// would bring another version along, complete: packages that a rule or a pin
// holds back and of which no version is approved. What only waits, or is in no
// rule, may come along.
func (r Report) ToHold() []Decision {
	done := map[id]bool{}
	for _, d := range r.ToInstall() {
		done[d.id()] = true
	}
	var hold []Decision
	for _, d := range r.Decisions {
		if (d.Decision == Reject || d.Decision == Pinned) && !done[d.id()] {
			done[d.id()] = true
			hold = append(hold, d)
		}
	}
	return hold
}

// summarize counts the decisions and lists them. newest holds what is installed.
func (r *Report) summarize(newest map[id]string) {
	listed := r.standing()
	counts := map[string]int{}
	r.MissingBySeverity = map[string]int{other: 0}
	for _, s := range severities {
		r.MissingBySeverity[s] = 0
	}
	open, held := map[id]bool{}, map[id]bool{}
	for _, d := range listed {
		counts[d.Decision]++
		switch d.Decision {
		case Install:
			r.MissingBySeverity[severity(d.Severity)]++
			fallthrough
		case Failed:
			open[d.id()] = true
		default:
			held[d.id()] = true
		}
	}
	r.Patched, r.Other = 0, 0
	for p := range newest {
		switch {
		case open[p]:
		case held[p]:
			r.Other++
		default:
			r.Patched++
		}
	}
	r.Missing, r.Failed, r.Waiting, r.Rejected = counts[Install], counts[Failed], counts[Wait], counts[Reject]
	r.Pinned, r.NotInBaseline = counts[Pinned], counts[NotInBaseline]
	r.list(listed)
	r.judge()
}

// standing returns what there is to tell: for each package and decision the
// newest version, the worst first. What is superseded is not worth a word.
func (r *Report) standing() []Decision {
	type key struct {
		id
		decision string
	}
	compare := order(r.Manager)
	last := map[key]int{}
	for i, d := range r.Decisions {
		if d.Decision == Superseded {
			continue
		}
		k := key{d.id(), d.Decision}
		if j, ok := last[k]; !ok || compare != nil && compare(d.Version, r.Decisions[j].Version) > 0 {
			last[k] = i
		}
	}
	listed := make([]Decision, 0, len(last))
	for _, i := range slices.Sorted(maps.Values(last)) {
		listed = append(listed, r.Decisions[i])
	}
	rank := []string{Failed, Install, Wait, Reject, Pinned, NotInBaseline}
	slices.SortStableFunc(listed, func(a, b Decision) int {
		return cmp.Or(
			cmp.Compare(slices.Index(rank, a.Decision), slices.Index(rank, b.Decision)),
			cmp.Compare(weight(a.Severity), weight(b.Severity)),
			cmp.Compare(a.Name, b.Name), cmp.Compare(a.Arch, b.Arch))
	})
	return listed
}

// list puts as many as there is room for into the report.
func (r *Report) list(listed []Decision) {
	r.Patches = make([]Decision, 0, min(len(listed), maxPatches))
	room := maxBytes
	for _, d := range listed[:min(len(listed), maxPatches)] {
		d = d.bounded()
		raw, err := json.Marshal(d)
		if room -= len(raw) + 1; err != nil || room < 0 {
			break
		}
		r.Patches = append(r.Patches, d)
	}
	r.Omitted = len(listed) - len(r.Patches)
}

// bounded shortens what a machine may have made long.
func (d Decision) bounded() Decision {
	for _, s := range []*string{&d.Name, &d.Arch, &d.Installed, &d.Version, &d.Severity, &d.Classification, &d.Advisory, &d.Repository} {
		*s = shorten(*s, maxField)
	}
	d.Why = shorten(d.Why, maxWhy)
	cves := d.CVEs[:min(len(d.CVEs), maxCVEs)]
	d.CVEs = nil
	for _, c := range cves {
		d.CVEs = append(d.CVEs, shorten(c, maxField))
	}
	return d
}

// judge says whether the machine is as the baseline wants it, and why not.
func (r *Report) judge() {
	var why []string
	if r.Missing > 0 {
		var by []string
		for _, s := range append(slices.Clone(severities), other) {
			if n := r.MissingBySeverity[s]; n > 0 {
				by = append(by, fmt.Sprintf("%d %s", n, s))
			}
		}
		why = append(why, fmt.Sprintf("%d missing (%s)", r.Missing, strings.Join(by, ", ")))
	}
	if r.Failed > 0 {
		why = append(why, fmt.Sprintf("%d failed", r.Failed))
	}
	if r.RebootPending {
		why = append(why, "a reboot is pending")
	}
	if len(r.Problems) > 0 {
		why = append(why, r.Problems[0])
	}
	r.Status, r.Why = Compliant, strings.Join(why, "; ")
	if len(why) > 0 {
		r.Status = NonCompliant
	}
}

// severity names what a severity counts as.
func severity(s string) string {
	if slices.Contains(severities, s) {
		return s
	}
	return other
}

// weight orders severities, the worst first.
func weight(s string) int {
	if i := slices.Index(severities, s); i >= 0 {
		return i
	}
	return len(severities)
}
