package store

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/almanac-run/almanac/internal/inventory"
)

func query(t *testing.T, s *Store, text string) string {
	t.Helper()
	var b strings.Builder
	for cursor := ""; ; {
		page, err := s.Query(t.Context(), text, 2, cursor) // small pages, so that each is continued
		if err != nil {
			return err.Error()
		}
		for _, f := range page.Items {
			fmt.Fprintf(&b, "%s %s %s\n", f.Node, f.Kind, f.Key)
		}
		if page.Unclear > 0 {
			fmt.Fprintf(&b, "unclear: %s\n", page.Why)
		}
		if cursor = page.Cursor; cursor == "" {
			return b.String()
		}
	}
}

func fleet(t testing.TB, s *Store) {
	record(t, s, "db-1", 1, "package openssl version=3.0 arch=amd64; package bash version=5.2; user root uid=0; port tcp/22 port=22")
	record(t, s, "web-1", 1, "package openssl version=3.0 arch=amd64; package bash version=5.2; port tcp/22 port=22; port tcp/80 port=80")
	record(t, s, "web-2", 1, "package openssl version=2.9 arch=amd64; package bash version=5.2; user root uid=0; user eve uid=0")
	record(t, s, "web-3", 1, "package openssl version=2.9 arch=amd64")
	record(t, s, "web-3", 2, "package openssl version=3.0 arch=amd64 node=liar kind=odd")
}

func TestQuery(t *testing.T) {
	tests := []struct{ text, want string }{
		{`item.kind == "package" && item.key == "openssl" && item.version < "3"`, "web-2 package openssl"},
		{`item.kind == "package" && item.key == "openssl"`, "db-1 package openssl\nweb-1 package openssl\nweb-3 package openssl\nweb-2 package openssl"},
		{`item.version == "5.2"`, "db-1 package bash\nweb-1 package bash\nweb-2 package bash"},
		{`item.node == "web-1" && item.kind == "port"`, "web-1 port tcp/22\nweb-1 port tcp/80"},
		{`item.node.startsWith("web-") && item.uid == 0`, "web-2 user eve\nweb-2 user root"},
		{`item.kind == "user" && item.uid == 0 && item.key != "root"`, "web-2 user eve"},
		{`has(item.port) && item.port > 50`, "web-1 port tcp/80"},
		{`item.kind == "port" || item.key == "eve"`, "db-1 port tcp/22\nweb-1 port tcp/22\nweb-1 port tcp/80\nweb-2 user eve"},
		{`!has(item.version) && item.kind == "user"`, "db-1 user root\nweb-2 user root\nweb-2 user eve"},
		{`has(item.node) && item.key == "eve"`, "web-2 user eve"},
		{`!has(item.node)`, ""},
		{`item.?uid.orValue(7) == 0 && item.node != "db-1"`, "web-2 user root\nweb-2 user eve"},
		{`item["kind"] == "user" && item.node == "web-2"`, "web-2 user root\nweb-2 user eve"},
		{`"uid" in item && item.key == "eve"`, "web-2 user eve"},
		{`item.values.kind == "odd"`, "web-3 package openssl"},
		{`item.node == "liar" || item.kind == "odd"`, ""},
		{`item.first_seen > timestamp("2026-11-01T01:30:00Z")`, "web-3 package openssl"},
		{`item.kind == "package" ? item.version == "2.9" : item.port == 80`, "web-1 port tcp/80\nweb-2 package openssl"},
		{`item.kind == "user" && item.uid + "x" == "0x"`, "unclear: no such overload"},
		{`item.kind == "nothing"`, ""},
		{`item.kind = "x"`, "the condition, at 1:11: "},
		{`itm.kind == "x"`, "the condition, at 1:1: "},
		{"item.kind == \"x\" &&\n  node == \"y\"", "the condition, at 2:3: "},
		{`"text"`, "has to give a bool"},
		{`item.kind`, "unclear: the condition gives package, not a bool"},
		{``, "the expression is empty"},
	}
	onBoth(t, func(t *testing.T, s *Store, _ *time.Time) {
		fleet(t, s)
		for _, tt := range tests {
			got := query(t, s, tt.text)
			if len(tt.want) > 0 && (strings.HasPrefix(tt.want, "unclear") || strings.HasPrefix(tt.want, "the ") || strings.HasPrefix(tt.want, "has to")) {
				if !strings.Contains(got, tt.want) {
					t.Errorf("%s: %s, want %q", tt.text, got, tt.want)
				}
				continue
			}
			if !sameLines(got, tt.want) {
				t.Errorf("%s:\n%s\nwant\n%s", tt.text, got, tt.want)
			}
		}
	})
}

// sameLines ignores the order of facts of one key, which is that of their digests.
func sameLines(a, b string) bool {
	lines := map[string]int{}
	for l := range strings.Lines(strings.TrimSpace(a) + "\n") {
		lines[l]++
	}
	for l := range strings.Lines(strings.TrimSpace(b) + "\n") {
		lines[l]--
	}
	for _, n := range lines {
		if n != 0 {
			return false
		}
	}
	return true
}

// What is decided early by kind, key or node alone gives what asking everything gives.
func TestEarlyIsRight(t *testing.T) {
	s, err := Open(t.Context(), t.TempDir()+"/x.db")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fleet(t, s)
	parts := []string{`item.kind == "package"`, `item.kind != "user"`, `item.key == "bash"`, `item.version == "3.0"`, `has(item.version)`,
		`item.uid == 0`, `item.node == "web-2"`, `item.node != "web-2"`, `has(item.first_seen)`, `item.?port.hasValue()`, `"arch" in item`,
		`[1, 2].exists(x, x == item.uid)`, `item.values.size() == 2`}
	asked := 0
	for _, a := range parts {
		for _, b := range parts {
			for _, form := range []string{"%s && %s", "%s || %s", "!(%s) && %s", "%s ? %s : true", "!(%s || !(%s))"} {
				text := fmt.Sprintf(form, a, b)
				got := query(t, s, text)
				// The same, kept from being decided early.
				want := query(t, s, "(size(item) > 0) && ("+text+")")
				if !sameLines(got, want) {
					t.Errorf("%s:\n%s\nwithout shortcuts\n%s", text, got, want)
				}
				asked++
			}
		}
	}
	if asked < 800 {
		t.Errorf("only %d conditions", asked)
	}
}

func TestCheck(t *testing.T) {
	rules := []inventory.Rule{
		{Name: "openssl-3", Severity: "critical", Kind: "package", Where: `item.key == "openssl"`, Assert: `item.version >= "3"`, Required: true, Summary: "OpenSSL is 3"},
		{Name: "only-root", Severity: "low", Kind: "user", Where: `item.uid == 0`, Assert: `item.key == "root"`},
		{Name: "no-web", Severity: "moderate", Kind: "port", Where: `item.node != "web-1"`, Assert: `item.port == 22`},
		{Name: "strange", Severity: "important", Kind: "port", Where: `item.port == 80`, Assert: `item.owner == "www"`},
	}
	onBoth(t, func(t *testing.T, s *Store, clock *time.Time) {
		fleet(t, s)
		record(t, s, "old-1", 1, "package bash version=1; user root uid=0; port tcp/22 port=22")
		check := func(record bool) string {
			page, err := s.Check(t.Context(), "hardening", rules, record, "")
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, n := range page.Nodes {
				fmt.Fprintf(&b, "%s %s %v since %d", n.Node, n.Status, n.Missing, int(n.Since.Sub(at(0)).Hours()))
				for _, x := range n.Broken {
					fmt.Fprintf(&b, "; %s %d %v %s", x.Rule, x.Items, x.Keys, x.Why)
				}
				if len(n.Undecided) > 0 {
					fmt.Fprintf(&b, "; unknown %v", n.Undecided)
				}
				b.WriteString("\n")
			}
			return b.String()
		}
		const first = `
db-1 compliant {0 0 0 0 0} since 100
old-1 non_compliant {1 0 0 0 0} since 100; openssl-3 0 [] 
web-1 non_compliant {0 1 0 0 0} since 100; strange 1 [tcp/80] no such key: owner, in item.owner; unknown [only-root]
web-2 non_compliant {1 0 0 1 0} since 100; openssl-3 1 [openssl] ; only-root 1 [eve] ; unknown [no-web strange]
web-3 unknown {0 0 0 0 0} since 100; unknown [only-root no-web strange]`
		same(t, "not recorded", check(false), first)
		if page, err := s.Compliance(t.Context(), ComplianceFilter{}); err != nil || len(page.Compliance) != 0 {
			t.Errorf("it was recorded: %v, %v", page, err)
		}
		same(t, "recorded", check(true), first)
		*clock = at(124)
		record(t, s, "web-2", 120, "package openssl version=3.0 arch=amd64; user root uid=0")
		got := check(true)
		if !strings.Contains(got, "db-1 compliant {0 0 0 0 0} since 100") || !strings.Contains(got, "web-2 unknown {0 0 0 0 0} since 124") {
			t.Errorf("a day later:\n%s", got)
		}
		page, err := s.Compliance(t.Context(), ComplianceFilter{Status: inventory.NonCompliant})
		if err != nil || len(page.Compliance) != 2 || page.Compliance[0].Node != "old-1" || page.Compliance[0].Missing.Critical != 1 {
			t.Errorf("%+v, %v", page, err)
		}
		bad := rules[:1:1]
		bad = append(bad, inventory.Rule{Name: "bad", Kind: "user", Assert: `item.uid ==`})
		if _, err := s.Check(t.Context(), "x", bad, false, ""); err == nil || !strings.Contains(err.Error(), "rule bad: assert: ") {
			t.Errorf("a rule with a mistake: %v", err)
		}
	})
}

func TestComplianceHistory(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store, clock *time.Time) {
		*clock = at(24*6 + 1)
		put := func(node string, hours int, status inventory.Status) {
			err := s.RecordCompliance(t.Context(), inventory.Compliance{Node: node, Baseline: "b", Status: status, At: at(hours)})
			if err != nil {
				t.Fatal(err)
			}
		}
		put("a", 24*1+5, inventory.NonCompliant)
		put("a", 24*1+9, inventory.NonCompliant) // no change
		put("a", 24*3, inventory.Compliant)      // on the stroke of the day
		put("b", 24*2+1, inventory.Compliant)
		put("b", 24*2+2, inventory.NonCompliant) // there and back within a day
		put("b", 24*2+3, inventory.Compliant)
		put("b", 24*5+3, inventory.Undecided)
		put("b", 24*4, inventory.NonCompliant) // late: passed over
		days, err := s.ComplianceHistory(t.Context(), at(0), "")
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, d := range days {
			fmt.Fprintf(&b, "%s %d %d %d\n", d.Day.Format("02"), d.Compliant, d.NonCompliant, d.Unknown)
		}
		same(t, "days", b.String(), "01 0 0 0\n02 0 1 0\n03 1 1 0\n04 2 0 0\n05 2 0 0\n06 1 0 1\n07 1 0 1")
		// From the middle on, the same numbers.
		later, err := s.ComplianceHistory(t.Context(), at(24*4+7), "b")
		if err != nil || len(later) != 3 || later[0] != days[4] || later[2] != days[6] {
			t.Errorf("%+v, %v", later, err)
		}
		for _, bad := range []inventory.Compliance{{Node: "a", Baseline: "b", Status: "fine", At: at(1)}, {Node: "a", Status: inventory.Compliant, At: at(1)}} {
			if err := s.RecordCompliance(t.Context(), bad); err == nil {
				t.Errorf("%+v was taken", bad)
			}
		}
	})
}
