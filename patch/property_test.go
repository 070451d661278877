package patch

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"github.com/almanac-run/almanac/lang/expr"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// tenRules are what a careful operator has.
const tenRules = `baseline: prod-linux
summary: Security updates after a week, critical ones at once.
rules:
  - approve: patch.classification == "security" && patch.severity == "critical"
  - approve: patch.classification == "security" && patch.severity == "important"
    after: 3d
  - approve: patch.classification == "security"
    after: 7d
  - approve: patch.classification == "bugfix" && patch.severity in ["critical", "important"]
    after: 14d
  - approve: patch.cve.exists(c, c == "CVE-2026-1000") && patch.name.startsWith("lib")
    level: critical
  - os: [debian, ubuntu]
    approve: patch.name in ["sudo", "openssl", "ca-certificates"] && !has(patch.published)
  - approve: patch.repository == "internal" && patch.name.matches("^(agent|web)[0-9]*$")
  - reject: patch.name.startsWith("kernel") || patch.name.startsWith("linux-image")
  - reject: has(patch.age) && patch.age < duration("12h") && patch.severity != "critical"
  - reject: patch.advisory == "RHSA-2026:1234" || "CVE-2026-666" in patch.cve
pin: { "nginx*": "1.24.*", "postgresql-15*": "15.*" }
`

// parsed reads a baseline as a node gets it: as an object.
func parsed(tb testing.TB, source string) *Baseline {
	tb.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(source), &v); err != nil {
		tb.Fatal(err)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	b, err := FromJSON(raw)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// machineOf makes up a machine with n offers.
func machineOf(r *rand.Rand, n int) Machine {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	m := Machine{OS: pick("debian", "rhel", "sles"), Version: "9.4", RebootPending: r.IntN(4) == 0}
	m.Manager = map[string]string{"debian": "apt", "rhel": "dnf", "sles": "zypper"}[m.OS]
	version := func() string {
		v := fmt.Sprintf("1.%d%s%d-%d", 20+r.IntN(8), pick(".", "~rc", "+", "a"), r.IntN(4), r.IntN(3))
		return pick("", "", "", "1:") + v
	}
	seen := map[id]string{}
	for len(m.Offers) < n {
		o := Offer{
			Name: pick("kernel", "linux-image-", "nginx", "nginx-core", "sudo", "openssl", "libx", "liby", "agent", "web", "pkg") + pick("", fmt.Sprint(r.IntN(max(n/8, 1)))),
			Arch: pick("amd64", "amd64", "i386"), Version: version(),
			Severity: pick("", "critical", "important", "moderate", "low", "Critical"), Classification: pick("", "security", "bugfix", "enhancement"),
			Advisory: pick("", "RHSA-2026:1234", "RHSA-2026:1"), Repository: pick("", "internal", "updates"),
		}
		if r.IntN(4) > 0 {
			o.Published = noon.Add(-time.Duration(r.IntN(20*24)) * time.Hour)
		}
		if r.IntN(2) > 0 {
			o.FirstSeen = noon.Add(-time.Duration(r.IntN(20*24)) * time.Hour)
		}
		for range r.IntN(3) {
			o.CVEs = append(o.CVEs, pick("CVE-2026-1000", "CVE-2026-666", "CVE-2026-7"))
		}
		if _, ok := seen[id{o.Name, o.Arch}]; !ok {
			seen[id{o.Name, o.Arch}] = version()
			m.Installed = append(m.Installed, Installed{o.Name, o.Arch, seen[id{o.Name, o.Arch}]})
		}
		o.Installed = seen[id{o.Name, o.Arch}]
		m.Offers = append(m.Offers, o)
		if r.IntN(5) == 0 { // another repository, or another advisory, has it too
			o.Repository, o.Advisory = pick("", "internal", "updates"), pick("", "RHSA-2026:1")
			m.Offers = append(m.Offers, o)
		}
	}
	return m
}

// What holds for every machine.
func TestDecideHolds(t *testing.T) {
	b := parsed(t, tenRules)
	decided := map[string]int{}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 7))
		m := machineOf(r, 1+r.IntN(80))
		report := Decide(b, m, noon)
		for _, d := range report.Decisions {
			decided[d.Decision]++
		}
		check(t, b, m, report)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}

		// Neither the order of the offers nor that of the rules decides.
		want := outcome(report)
		shuffled := m
		shuffled.Offers = slices.Clone(m.Offers)
		r.Shuffle(len(m.Offers), func(i, j int) { shuffled.Offers[i], shuffled.Offers[j] = shuffled.Offers[j], shuffled.Offers[i] })
		if diff := cmp.Diff(want, outcome(Decide(b, shuffled, noon))); diff != "" {
			t.Fatalf("seed %d: another order of the offers (-want +got):\n%s", seed, diff)
		}
		other := *b
		other.Rules = slices.Clone(b.Rules)
		r.Shuffle(len(other.Rules), func(i, j int) { other.Rules[i], other.Rules[j] = other.Rules[j], other.Rules[i] })
		if diff := cmp.Diff(want, outcome(Decide(&other, m, noon))); diff != "" {
			t.Fatalf("seed %d: another order of the rules (-want +got):\n%s", seed, diff)
		}
		if diff := cmp.Diff(report, Decide(b, m, noon)); diff != "" {
			t.Fatalf("seed %d: the second time (-want +got):\n%s", seed, diff)
		}
	}
	for _, d := range []string{Install, Wait, Reject, Pinned, NotInBaseline, Superseded} {
		if decided[d] < 100 {
			t.Errorf("the machines have no variety: %v", decided)
		}
	}
}

// outcome is what is decided, without who decided it: sorted lines.
func outcome(r Report) []string {
	var lines []string
	for _, d := range r.Decisions {
		lines = append(lines, fmt.Sprint(d.Name, d.Arch, d.Version, d.Repository, d.Advisory, d.Published, d.FirstSeen, d.Decision, d.Until))
	}
	slices.Sort(lines)
	return lines
}

// check looks at a report without asking the code that made it.
func check(t *testing.T, b *Baseline, m Machine, r Report) {
	t.Helper()
	if len(r.Decisions) != len(m.Offers) {
		t.Fatalf("%d decisions about %d offers", len(r.Decisions), len(m.Offers))
	}
	compare := order(m.Manager)
	once := map[id]bool{}
	counts := map[string]int{}
	for i, d := range r.Decisions {
		o := m.Offers[i]
		if d.Name != o.Name || d.Arch != o.Arch || d.Version != o.Version {
			t.Errorf("decision %d is about %s %s, and the offer is %s %s", i, d.Name, d.Version, o.Name, o.Version)
		}
		switch d.Decision {
		case Install, Wait, Reject, Pinned, NotInBaseline, Superseded:
		default:
			t.Errorf("%s %s: decision %q", d.Name, d.Version, d.Decision)
		}
		if !d.Until.IsZero() && (d.Decision != Wait || !d.Until.After(r.DecidedAt)) {
			t.Errorf("%s %s: %s until %s", d.Name, d.Version, d.Decision, d.Until)
		}
		if d.Decision != Install {
			continue
		}
		if once[d.id()] {
			t.Errorf("two versions of %s are installed", d.Name)
		}
		once[d.id()] = true
		if compare != nil && o.Installed != "" && compare(o.Version, o.Installed) <= 0 {
			t.Errorf("%s %s is a downgrade of %s", d.Name, o.Version, o.Installed)
		}
		names := map[string]any{"patch": (&judge{now: r.DecidedAt}).fields(o)}
		approved := false
		for _, rule := range b.Rules {
			if !rule.means(m.OS, m.Version) {
				continue
			}
			if v, _ := expr.Eval(rule.Reject, names); rule.Reject != "" && v != false {
				t.Errorf("%s %s is installed, and %s rejects it", d.Name, d.Version, rule.Reject)
			}
			if v, _ := expr.Eval(rule.Approve, names); rule.Approve != "" && v == true {
				since := o.Published
				if since.IsZero() {
					since = o.FirstSeen
				}
				approved = approved || rule.After == 0 || !since.IsZero() && !since.Add(time.Duration(rule.After)).After(r.DecidedAt)
			}
		}
		if !approved {
			t.Errorf("%s %s is installed, and no rule approves it now", d.Name, d.Version)
		}
		for names, versions := range b.Pin {
			if matches(names, d.Name) && !fits(versions, d.Version) {
				t.Errorf("%s %s is installed, and pinned to %s", d.Name, d.Version, versions)
			}
		}
	}
	for _, d := range r.Patches {
		counts[d.Decision]++
	}
	if total := r.Missing + r.Failed + r.Waiting + r.Rejected + r.Pinned + r.NotInBaseline; total != len(r.Patches)+r.Omitted {
		t.Errorf("%d counted, %d listed and %d omitted", total, len(r.Patches), r.Omitted)
	}
	if r.Omitted == 0 && (counts[Install] != r.Missing || counts[Wait] != r.Waiting || counts[Reject] != r.Rejected || counts[Pinned] != r.Pinned || counts[NotInBaseline] != r.NotInBaseline) {
		t.Errorf("listed %v, counted %+v", counts, r)
	}
	severe := 0
	for _, n := range r.MissingBySeverity {
		severe += n
	}
	if r.Missing != len(once) || severe != r.Missing || len(r.ToInstall()) != r.Missing {
		t.Errorf("%d missing, %d by severity, %d to install, want %d", r.Missing, severe, len(r.ToInstall()), len(once))
	}
	if (r.Status == Compliant) != (r.Missing == 0 && !r.RebootPending && len(r.Problems) == 0) {
		t.Errorf("%s, with %d missing (%s)", r.Status, r.Missing, r.Why)
	}
	if r.Installed > 0 && r.Patched+r.Other > r.Installed {
		t.Errorf("%d patched and %d other of %d", r.Patched, r.Other, r.Installed)
	}
	for _, h := range r.ToHold() {
		if once[h.id()] {
			t.Errorf("%s is to be held and to be installed", h.Name)
		}
	}
}

// Every package is patched, missing or other.
func TestNumbersAddUp(t *testing.T) {
	b := parsed(t, tenRules)
	for seed := range uint64(50) {
		m := machineOf(rand.New(rand.NewPCG(seed, 9)), 60)
		r := Decide(b, m, noon)
		if r.Patched+r.Other+r.Missing != r.Installed {
			t.Errorf("seed %d: %d patched, %d other, %d missing of %d", seed, r.Patched, r.Other, r.Missing, r.Installed)
		}
		failed := Failure{}
		for _, d := range r.ToInstall() {
			failed = Failure{Name: d.Name, Arch: d.Arch, Version: d.Version, Why: "x"}
		}
		after := r.WithFailures([]Failure{failed})
		if failed.Name != "" && (after.Failed != 1 || after.Missing != r.Missing-1 || after.Patched != r.Patched || after.Other != r.Other) {
			t.Errorf("seed %d: after a failure %+v", seed, after)
		}
		if r.Failed != 0 {
			t.Errorf("seed %d: the report itself was changed", seed)
		}
	}
}

// A baseline, written as JSON and read back, is the same, and decides the same.
func TestJSONRoundTrip(t *testing.T) {
	b := parsed(t, tenRules)
	raw, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	back, err := FromJSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b, back); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if b.Digest() != back.Digest() || !strings.HasPrefix(b.Digest(), "sha256:") {
		t.Errorf("digests %s and %s", b.Digest(), back.Digest())
	}
	// Layout is not part of it, a rule is.
	laid := parsed(t, strings.ReplaceAll("# a comment\n"+tenRules, "after: 7d", "after: \"168h\""))
	if laid.Digest() != b.Digest() {
		t.Error("the digest depends on the layout")
	}
	if parsed(t, strings.ReplaceAll(tenRules, "after: 7d", "after: 8d")).Digest() == b.Digest() {
		t.Error("the digest does not depend on a rule")
	}
}

// A hostile machine does not make a report large.
func TestReportIsBounded(t *testing.T) {
	b := parsed(t, "baseline: all\nrules: [approve: \"true\"]\n")
	for name, text := range map[string]string{"long": strings.Repeat("x", 100_000), "control": strings.Repeat("\x01", 1000), "not UTF-8": strings.Repeat("\xff", 1000), "short": "x"} {
		m := Machine{OS: "debian", Manager: "apt"}
		for i := range 3000 {
			o := Offer{Name: fmt.Sprint("p", i, text), Installed: "1", Version: "2" + text, Advisory: text, Severity: text}
			for range 100 {
				o.CVEs = append(o.CVEs, text)
			}
			if name != "short" && i > 200 {
				break
			}
			m.Offers = append(m.Offers, o)
		}
		r := Decide(b, m, noon)
		raw, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if len(raw) > maxBytes+8<<10 || len(r.Patches) == 0 || len(r.Patches) > maxPatches || len(r.Patches)+r.Omitted != len(m.Offers) {
			t.Errorf("%s: %d bytes, %d listed, %d omitted of %d", name, len(raw), len(r.Patches), r.Omitted, len(m.Offers))
		}
	}
}

func TestPins(t *testing.T) {
	for _, tt := range []struct {
		pattern, version string
		want             bool
	}{
		{"1.24.*", "1.24.0-1", true}, {"1.24.*", "2:1.24.0-1", true}, {"1.24.*", "1.240.0", false}, {"1.24.*", "1.25.0", false},
		{"1.24.0", "1.24.0-2+deb12u1", true}, {"1.24.0", "1.24.01-2", false}, {"1.24.0-1", "1:1.24.0-1", true}, {"1.24.0-1", "1.24.0-2", false},
		{"2:*", "2:1.0", true}, {"2:*", "1:1.0", false}, {"15.[0-4]*", "15.4-1", true}, {"15.[0-4]*", "15.6-1", false}, {"*", "anything", true},
	} {
		if got := fits(tt.pattern, tt.version); got != tt.want {
			t.Errorf("%s fits %s: %v, want %v", tt.version, tt.pattern, got, tt.want)
		}
	}
}

func TestDelay(t *testing.T) {
	for text, want := range map[string]string{"7d": "7d", "168h": "7d", "12h": "12h0m0s", "0s": "0s", "1d12h": "36h0m0s"} {
		var d Delay
		if err := d.UnmarshalText([]byte(text)); err != nil || d.String() != want {
			t.Errorf("%s: %s, %v, want %s", text, d, err, want)
		}
	}
}

// Whatever the object, FromJSON does not panic, and what it accepts decides
// something and can be written and read again.
func FuzzFromJSON(f *testing.F) {
	raw, err := json.Marshal(parsed(f, tenRules))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"baseline": "a", "rules": [{"approve": true, "os": "debian"}, {"reject": "patch.cve[0] == 'x'"}], "pin": {"a": "1.*"}}`))
	f.Add([]byte(`{"baseline": 1, "rules": {}, "pin": [1.20]}`))
	m := machineOf(rand.New(rand.NewPCG(1, 1)), 5)
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := FromJSON(raw)
		if (b == nil) == (err == nil) {
			t.Fatalf("%v, %v", b, err)
		}
		if err != nil {
			return
		}
		again, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		back, err := FromJSON(again)
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if back.Digest() != b.Digest() {
			t.Errorf("%s came back as another", again)
		}
		check(t, b, m, Decide(b, m, noon))
	})
}

// Whatever a machine says, Decide keeps its promises.
func FuzzDecide(f *testing.F) {
	b := parsed(f, tenRules)
	for seed := range uint64(3) {
		raw, err := json.Marshal(machineOf(rand.New(rand.NewPCG(seed, 3)), 4))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte(`{"manager": "pacman", "offers": [{"name": "a", "version": "2"}]}`))
	f.Add([]byte(`{"manager": "windows", "offers": [{"name": "KB1"}, {"name": "KB1"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var m Machine
		if json.Unmarshal(raw, &m) != nil {
			return
		}
		r := Decide(b, m, noon)
		check(t, b, m, r)
		if order(m.Manager) == nil && r.Missing > 0 {
			t.Error("something is installed whose version nobody can compare")
		}
	})
}

// 2,000 offers against ten rules; the bar is 20 ms.
func BenchmarkDecide(b *testing.B) {
	baseline := parsed(b, tenRules)
	m := machineOf(rand.New(rand.NewPCG(1, 2)), 2000)
	m.OS, m.Manager = "debian", "apt"
	for b.Loop() {
		Decide(baseline, m, noon)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1e6, "ms")
	b.ReportMetric(0, "ns/op")
}
