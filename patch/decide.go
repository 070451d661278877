package patch

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/almanac-run/almanac/lang/expr"
)

// What is decided about an offer. Every offer has exactly one decision.
const (
	Install       = "install"         // approved, and the newest that is; missing until it is installed
	Wait          = "wait"            // approved later
	Reject        = "reject"          // a rule rejects it
	Pinned        = "pinned"          // a pin holds the package to other versions
	NotInBaseline = "not_in_baseline" // no rule approves it
	Superseded    = "superseded"      // a newer version is installed or approved
	Failed        = "failed"          // its installation was tried, and failed
)

// Decision is an offer with what is decided about it.
type Decision struct {
	Offer
	Decision string    `json:"decision" jsonschema:"install, failed, wait, reject, pinned or not_in_baseline"`
	Rule     int       `json:"rule,omitempty" jsonschema:"number of the rule that decided, from 1"`
	Until    time.Time `json:"until,omitzero" jsonschema:"of wait: when it will be approved; absent if there is no date to count from"`
	Why      string    `json:"why,omitempty" jsonschema:"what else there is to say"`
}

// Decide says what is to be done about each offer of a machine at a time. It is
// pure: the same arguments give the same report. The baseline comes from FromJSON or package patch/baseline.
func Decide(b *Baseline, m Machine, now time.Time) Report {
	j := judge{baseline: b, numbers: b.For(m.OS, m.Version), now: now, compare: order(m.Manager)}
	if j.compare == nil {
		j.problem("the versions of the package manager %q cannot be compared: nothing is installed", shorten(m.Manager, 40))
		j.blind, j.compare = true, func(_, _ string) int { return 0 }
	}
	newest := make(map[id]string, len(m.Installed))
	for _, p := range m.Installed {
		if v, ok := newest[id{p.Name, p.Arch}]; !ok || j.compare(p.Version, v) > 0 {
			newest[id{p.Name, p.Arch}] = p.Version
		}
	}
	decisions := make([]Decision, 0, len(m.Offers))
	for _, o := range m.Offers {
		installed := o.Installed
		if v, ok := newest[id{o.Name, o.Arch}]; ok && j.compare(v, installed) > 0 {
			installed = v // several versions may be, as of a kernel
		}
		decisions = append(decisions, j.decide(o, installed))
	}
	j.choose(decisions)
	r := Report{Baseline: b.Name, Digest: b.Digest(), DecidedAt: now.UTC(), Manager: shorten(m.Manager, maxField), RebootPending: m.RebootPending,
		Installed: len(newest), Problems: j.problems, Decisions: decisions}
	r.summarize(newest)
	return r
}

// id is a package of a machine: of some names there is one for each architecture.
type id struct{ name, arch string }

func (d Decision) id() id { return id{d.Name, d.Arch} }

// judge decides about the offers of one machine.
type judge struct {
	baseline *Baseline
	numbers  []int // of the rules for this machine
	now      time.Time
	compare  func(a, b string) int
	blind    bool // it cannot compare versions
	problems []string
}

// maxProblems bounds the problems of a report.
const maxProblems = 10

func (j *judge) problem(format string, args ...any) {
	text := shorten(fmt.Sprintf(format, args...), maxWhy)
	if len(j.problems) < maxProblems && !slices.Contains(j.problems, text) {
		j.problems = append(j.problems, text)
	}
}

// decide decides about one offer, of all the versions of its package alone.
func (j *judge) decide(o Offer, installed string) Decision {
	d := Decision{Offer: o}
	if j.blind {
		d.Decision, d.Why = Reject, "its version cannot be compared"
		return d
	}
	// What is not installed (an update of Windows) is newer than nothing.
	if installed != "" && j.compare(o.Version, installed) <= 0 {
		d.Decision, d.Why = Superseded, "not newer than what is installed"
		return d
	}
	names := map[string]any{"patch": j.fields(o)}
	for _, number := range j.numbers {
		rule := j.baseline.Rules[number-1]
		if rule.Reject == "" {
			continue
		}
		// A rule that cannot be evaluated rejects: it might have, and to leave out an update can be made good.
		if is, err := j.holds(number, rule.Reject, names, o); is || err != nil {
			d.Decision, d.Rule = Reject, number
			if err != nil {
				d.Why = err.Error()
			}
			return d
		}
	}
	if pattern := j.baseline.pinned(o.Name, o.Version); pattern != "" {
		d.Decision, d.Why = Pinned, "pinned to "+pattern
		return d
	}
	d.Decision = NotInBaseline
	for _, number := range j.numbers {
		rule := j.baseline.Rules[number-1]
		if rule.Approve == "" {
			continue
		}
		is, err := j.holds(number, rule.Approve, names, o)
		if err != nil {
			d.Why = cmp.Or(d.Why, err.Error())
		}
		if is && j.approve(&d, number, rule) {
			return d
		}
	}
	return d
}

// approve notes what a rule that matches means for the offer, and tells whether
// it is approved now. Of several rules that let it wait, the shortest wait counts.
func (j *judge) approve(d *Decision, number int, rule Rule) bool {
	until, why := time.Time{}, ""
	switch since := d.since(); {
	case rule.After == 0:
	case since.IsZero():
		// Nobody knows how long others have had it: to take it for old would make the delay void.
		if d.Decision != Wait {
			d.Decision, d.Rule = Wait, number
			d.Why = fmt.Sprintf("its rule wants %s since publication, and the distribution gives no date", rule.After)
		}
		return false
	default:
		until = since.Add(time.Duration(rule.After))
		if d.Published.IsZero() {
			why = "counted from when it was first seen here, since the distribution gives no date"
		}
	}
	if until.After(j.now) {
		if d.Decision != Wait || d.Until.IsZero() || until.Before(d.Until) {
			d.Decision, d.Rule, d.Until, d.Why = Wait, number, until.UTC(), why
		}
		return false
	}
	d.Decision, d.Rule, d.Until, d.Why = Install, number, time.Time{}, ""
	d.Severity = cmp.Or(rule.Level, d.Severity)
	return true
}

// fields are what a rule sees of an offer.
func (j *judge) fields(o Offer) map[string]any {
	cves := make([]any, len(o.CVEs))
	for i, c := range o.CVEs {
		cves[i] = c
	}
	fields := map[string]any{
		"name": o.Name, "arch": o.Arch, "installed": o.Installed, "version": o.Version, "severity": o.Severity,
		"classification": o.Classification, "advisory": o.Advisory, "cve": cves, "repository": o.Repository,
	}
	if !o.Published.IsZero() {
		fields["published"] = o.Published.UTC()
	}
	if since := o.since(); !since.IsZero() {
		fields["age"] = j.now.Sub(since)
	}
	return fields
}

// holds evaluates a rule.
func (j *judge) holds(number int, text string, names map[string]any, o Offer) (bool, error) {
	v, err := expr.Eval(text, names)
	if err != nil {
		err = fmt.Errorf("rule %d: %w", number, err)
		j.problem("%v, for %s %s", err, shorten(o.Name, 60), shorten(o.Version, 60))
		return false, err
	}
	is, ok := v.(bool)
	if !ok {
		err = fmt.Errorf("rule %d is neither true nor false", number)
		j.problem("%v, for %s %s", err, shorten(o.Name, 60), shorten(o.Version, 60))
	}
	return is, err
}

// choose leaves one approved version of each package, the newest. It brings
// along what the approved ones before it would have: the worst severity counts,
// and the vulnerabilities of all are closed.
func (j *judge) choose(decisions []Decision) {
	chosen := map[id]int{}
	for i, d := range decisions {
		if d.Decision != Install {
			continue
		}
		best, ok := chosen[d.id()]
		if !ok || j.better(d, decisions[best]) {
			chosen[d.id()] = i
		}
	}
	for i := range decisions {
		d := &decisions[i]
		best, ok := chosen[d.id()]
		if !ok || best == i || d.Decision != Install && j.compare(d.Version, decisions[best].Version) > 0 {
			continue
		}
		if d.Decision == Install {
			newest := &decisions[best]
			if weight(d.Severity) < weight(newest.Severity) {
				newest.Severity = d.Severity
			}
			newest.CVEs = union(newest.CVEs, d.CVEs)
		}
		if d.Decision != Superseded {
			d.Decision, d.Rule, d.Until, d.Why = Superseded, 0, time.Time{}, decisions[best].Version+" is approved"
		}
	}
}

// better tells which of two approved offers of a package is chosen: the newer.
// Of equal ones, as of two repositories, what is written decides, and not the
// order in which they came.
func (j *judge) better(a, b Decision) bool {
	return cmp.Or(
		j.compare(a.Version, b.Version),
		cmp.Compare(b.Version, a.Version), cmp.Compare(b.Repository, a.Repository), cmp.Compare(b.Advisory, a.Advisory),
		b.Published.Compare(a.Published), b.FirstSeen.Compare(a.FirstSeen),
	) > 0
}

// union returns a with what only b has; neither is changed.
func union(a, b []string) []string {
	have := make(map[string]bool, len(a))
	for _, v := range a {
		have[v] = true
	}
	all := slices.Clip(a)
	for _, v := range b {
		if !have[v] {
			have[v] = true
			all = append(all, v)
		}
	}
	return all
}
