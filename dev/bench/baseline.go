package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/almanac-run/almanac/patch"
)

// tenRules are a careful operator's.
const tenRules = `{
	"baseline": "prod-linux",
	"rules": [
		{"approve": "patch.classification == 'security' && patch.severity == 'critical'"},
		{"approve": "patch.classification == 'security' && patch.severity == 'important'", "after": "3d"},
		{"approve": "patch.classification == 'security'", "after": "7d"},
		{"approve": "patch.classification == 'bugfix' && patch.severity in ['critical', 'important']", "after": "14d"},
		{"approve": "patch.cve.exists(c, c.startsWith('CVE-2026-1')) && patch.name.startsWith('lib')", "level": "critical"},
		{"approve": "patch.name in ['sudo', 'openssl', 'ca-certificates']", "os": ["debian", "ubuntu"]},
		{"approve": "patch.repository == 'internal' && patch.name.matches('^(agent|web)[0-9]*$')"},
		{"reject": "patch.name.startsWith('kernel') || patch.name.startsWith('linux-image')"},
		{"reject": "has(patch.age) && patch.age < duration('12h') && patch.severity != 'critical'"},
		{"reject": "patch.advisory == 'DSA-5678-1' || 'CVE-2026-666' in patch.cve"}
	],
	"pin": {"nginx*": "1.24.*"}
}`

// machine makes up one of which n packages are installed, with an offer for each.
func machine(n int, now time.Time) patch.Machine {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	m := patch.Machine{OS: "debian", Version: "13", Manager: "apt"}
	for i := range n {
		name := fmt.Sprintf("%s%d", pick("lib", "nginx-", "linux-image-", "python3-", "agent", "perl-"), i)
		installed := fmt.Sprintf("1.%d.%d-%d+deb13u1", 20+random.IntN(8), random.IntN(4), random.IntN(3))
		o := patch.Offer{
			Name: name, Arch: "amd64", Installed: installed, Version: fmt.Sprintf("1.%d.%d-%d+deb13u2", 24+random.IntN(8), random.IntN(4), random.IntN(3)),
			Severity: pick("", "critical", "important", "moderate", "low"), Classification: pick("", "security", "security", "bugfix"),
			Advisory: fmt.Sprintf("DSA-%d-1", 5000+i), Repository: pick("updates", "security", "internal"), Published: now.Add(-time.Duration(random.IntN(30*24)) * time.Hour),
		}
		for range random.IntN(4) {
			o.CVEs = append(o.CVEs, fmt.Sprintf("CVE-2026-%d", random.IntN(5000)))
		}
		m.Installed = append(m.Installed, patch.Installed{Name: name, Arch: "amd64", Version: installed})
		m.Offers = append(m.Offers, o)
	}
	return m
}

// baseline measures how long a node takes to decide about its packages.
func (b *bench) baseline(context.Context) error {
	const packages, most = 2000, 20 * time.Millisecond
	rules, err := patch.FromJSON(json.RawMessage(tenRules))
	if err != nil {
		return err
	}
	now := time.Now()
	m := machine(packages, now)
	var first time.Duration
	var took []time.Duration
	for i := range 21 {
		began := time.Now()
		r := patch.Decide(rules, m, now)
		d := time.Since(began)
		if len(r.Decisions) != packages || r.Missing == 0 || r.Waiting == 0 || r.Rejected == 0 || len(r.Problems) > 0 {
			return fmt.Errorf("a baseline that decides nothing: %d decisions, %d missing, %d waiting, %d rejected, %v", len(r.Decisions), r.Missing, r.Waiting, r.Rejected, r.Problems)
		}
		if i == 0 { // it compiles the rules
			first = d
			continue
		}
		took = append(took, d)
	}
	fastest := slices.Min(took) // whatever else the machine does can only add to it
	fmt.Fprintf(os.Stderr, "baseline: %s the first time, then %s to %s\n", first, fastest, slices.Max(took))
	b.row("baseline, 10 rules, 2,000 packages", fastest.String(), most.String(), fastest.Seconds()/most.Seconds(), "≤ 1.00", fastest <= most)
	return nil
}
