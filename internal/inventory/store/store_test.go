package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/internal/inventory"
	"github.com/almanac-run/almanac/internal/pgtest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	server.Stop()
	os.Exit(code)
}

// server is one PostgreSQL for all tests, started by the first that needs it.
var server pgtest.Server

// onBoth runs a test on SQLite and on PostgreSQL. The time is that of clock.
func onBoth(t *testing.T, test func(t *testing.T, s *Store, clock *time.Time)) {
	for _, kind := range []string{"sqlite", "postgres"} {
		t.Run(kind, func(t *testing.T) {
			dsn := filepath.Join(t.TempDir(), "inventory.db")
			if kind == "postgres" {
				dsn = server.Database(t)
			}
			s, err := Open(t.Context(), dsn)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			clock := at(100)
			s.now = func() time.Time { return clock }
			test(t, s, &clock)
		})
	}
}

// at is some hours after the first day of tests.
func at(hours int) time.Time {
	return time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(hours) * time.Hour)
}

// items reads "package openssl version=3.0 arch=amd64; user root uid=0": numbers are ints.
func items(text string) []inventory.Item {
	var all []inventory.Item
	for line := range strings.SplitSeq(text, ";") {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		i := inventory.Item{Kind: words[0], Key: words[1], Values: map[string]any{}}
		for _, w := range words[2:] {
			k, v, _ := strings.Cut(w, "=")
			if n, err := strconv.Atoi(v); err == nil {
				i.Values[k] = n
			} else {
				i.Values[k] = v
			}
		}
		all = append(all, i)
	}
	return all
}

func snapshot(t testing.TB, node string, hours int, text string) inventory.Snapshot {
	t.Helper()
	s, err := inventory.New(node, at(hours), items(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func record(t testing.TB, s *Store, node string, hours int, text string) {
	t.Helper()
	if err := s.Record(t.Context(), snapshot(t, node, hours, text)); err != nil {
		t.Fatal(err)
	}
}

// written is the other way: one item a line.
func written(all []inventory.Item) string {
	var b strings.Builder
	for _, i := range all {
		values, _ := i.JSON()
		fmt.Fprintf(&b, "%s %s %s\n", i.Kind, i.Key, values)
	}
	return b.String()
}

func nodeAt(t *testing.T, s *Store, node string, hours int, kinds ...string) string {
	t.Helper()
	page, err := s.Node(t.Context(), node, at(hours), kinds, "")
	if err != nil {
		t.Fatal(err)
	}
	return written(page.Items)
}

func same(t *testing.T, what, got, want string) {
	t.Helper()
	if diff := cmp.Diff(strings.TrimSpace(want), strings.TrimSpace(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func count(t *testing.T, s *Store, table string) int {
	t.Helper()
	n := 0
	if err := s.db.QueryRow("SELECT count(*) FROM " + table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestHistory(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store, _ *time.Time) {
		record(t, s, "web-1", 1, "package openssl version=3.0; package bash version=5.2; user root uid=0")
		record(t, s, "web-1", 10, "package openssl version=3.1; package bash version=5.2; package curl version=8; user root uid=0")
		record(t, s, "web-1", 20, "package openssl version=3.0; package curl version=8") // users are not reported
		record(t, s, "db-1", 5, "package bash version=5.1")

		same(t, "before the first report", nodeAt(t, s, "web-1", 0), "")
		same(t, "at the first", nodeAt(t, s, "web-1", 1), `
package bash {"version":"5.2"}
package openssl {"version":"3.0"}
user root {"uid":0}`)
		same(t, "between", nodeAt(t, s, "web-1", 15, "package"), `
package bash {"version":"5.2"}
package curl {"version":8}
package openssl {"version":"3.1"}`)
		same(t, "after the last", nodeAt(t, s, "web-1", 99), `
package curl {"version":8}
package openssl {"version":"3.0"}
user root {"uid":0}`)

		diff := func(since, until int) string {
			page, err := s.Diff(t.Context(), "web-1", at(since), at(until), nil, "")
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, c := range page.Changes {
				fmt.Fprintf(&b, "%d %s %s %s %v %v\n", int(c.At.Sub(at(0)).Hours()), c.What, c.Kind, c.Key, c.Before, c.After)
			}
			return b.String() + strings.Join(page.First, ",")
		}
		same(t, "diff of one step", diff(5, 15), `
10 added package curl map[] map[version:8]
10 changed package openssl map[version:3.0] map[version:3.1]`)
		same(t, "there and back is no change", diff(5, 30), `
20 removed package bash map[version:5.2] map[]
10 added package curl map[] map[version:8]`)
		same(t, "from before the first report", diff(0, 15), `
10 added package curl map[] map[version:8]
10 changed package openssl map[version:3.0] map[version:3.1]
package,user`)
	})
}

// A report that comes again, late or from a clock that is ahead changes nothing that it should not.
func TestRepeatedLateAndAhead(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store, clock *time.Time) {
		record(t, s, "web-1", 10, "package a v=2")
		record(t, s, "web-1", 10, "package a v=2")
		record(t, s, "web-1", 5, "package a v=1; package b v=1") // late
		same(t, "late", nodeAt(t, s, "web-1", 99), `package a {"v":2}`)
		rows := count(t, s, "items") + count(t, s, "facts") + count(t, s, "sections")
		for day := 1; day <= 3; day++ {
			record(t, s, "web-1", 10+24*day, "package a v=2")
		}
		if now := count(t, s, "items") + count(t, s, "facts") + count(t, s, "sections"); now != rows {
			t.Errorf("reports without a change added rows: %d, had %d", now, rows)
		}
		*clock = at(90)
		record(t, s, "web-1", 5000, "package a v=3")
		page, err := s.Node(t.Context(), "web-1", time.Time{}, nil, "")
		if err != nil || len(page.Sections) != 1 || !page.Sections[0].SeenAt.Equal(at(90)) {
			t.Errorf("a clock ahead: %+v, %v", page.Sections, err)
		}
		*clock = at(91)
		record(t, s, "web-1", 91, "package a v=4")
		same(t, "after a clock that was ahead", nodeAt(t, s, "web-1", 91), `package a {"v":4}`)
	})
}

// "Unchanged" is taken only by a store that has the same.
func TestUnchanged(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store, _ *time.Time) {
		snap := snapshot(t, "web-1", 1, "package a v=1; user root uid=0")
		later := snap
		later.At = at(2)
		later.Sections = nil
		for _, section := range snap.Sections {
			section.Items, section.Unchanged = nil, true
			later.Sections = append(later.Sections, section)
		}
		var missing *inventory.MissingError
		if err := s.Record(t.Context(), later); !errors.As(err, &missing) || fmt.Sprint(missing.Sections) != "[package user]" {
			t.Errorf("an empty store took it: %v", err)
		}
		if err := s.Record(t.Context(), snap); err != nil {
			t.Fatal(err)
		}
		if err := s.Record(t.Context(), later); err != nil {
			t.Error(err)
		}
		page, _ := s.Node(t.Context(), "web-1", at(3), nil, "")
		if !page.Sections[0].SeenAt.Equal(at(2)) || !page.Sections[0].FirstAt.Equal(at(1)) {
			t.Errorf("seen at %v", page.Sections[0])
		}
	})
}

// Two runbooks that look for different files do not take each other's away.
func TestScopes(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store, _ *time.Time) {
		put := func(hours int, scope, text string) {
			section, err := inventory.NewSection("file", scope, items(text))
			if err != nil {
				t.Fatal(err)
			}
			snap := inventory.Snapshot{Node: "web-1", At: at(hours), Sections: []inventory.Section{section}}
			if err := s.Record(t.Context(), snap); err != nil {
				t.Fatal(err)
			}
		}
		put(1, "/etc/*.conf", "file /etc/a.conf size=1; file /etc/b.conf size=2")
		put(2, "/etc/a*", "file /etc/a.conf size=1")
		put(3, "/etc/*.conf", "file /etc/b.conf size=2")
		same(t, "one pattern still finds it", nodeAt(t, s, "web-1", 4), `
file /etc/a.conf {"size":1}
file /etc/b.conf {"size":2}`)
		found := query(t, s, `item.key == "/etc/a.conf"`)
		same(t, "it is found once", found, "web-1 file /etc/a.conf")
		put(5, "/etc/a*", "")
		same(t, "and then none", nodeAt(t, s, "web-1", 6), `file /etc/b.conf {"size":2}`)
	})
}

func TestForgetAndExpire(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store, clock *time.Time) {
		record(t, s, "web-1", 1, "package a v=1; user root uid=0")
		record(t, s, "web-1", 50, "package a v=2")
		record(t, s, "web-2", 1, "package a v=1")
		record(t, s, "web-3", 90, "package a v=9")
		ctx := t.Context()
		*clock = at(100)
		if err := s.Expire(ctx, 95*time.Hour); err != nil { // before 5
			t.Fatal(err)
		}
		same(t, "what is there stays", nodeAt(t, s, "web-1", 60), `package a {"v":2}`)
		same(t, "as does what ended later", nodeAt(t, s, "web-1", 40), `package a {"v":1}`)
		if _, err := s.Node(ctx, "web-2", at(99), nil, ""); !errors.Is(err, ErrNoNode) {
			t.Errorf("a silent node is still known: %v", err)
		}
		if err := s.Expire(ctx, 40*time.Hour); err != nil { // before 60
			t.Fatal(err)
		}
		if n := count(t, s, "items"); n != 1 {
			t.Errorf("%d items, want 1", n)
		}
		if n := count(t, s, "facts"); n != 1 {
			t.Errorf("%d facts, want 1", n)
		}
		for range 2 {
			if err := s.Forget(ctx, "web-3"); err != nil {
				t.Fatal(err)
			}
		}
		if n := count(t, s, "nodes") + count(t, s, "sections") + count(t, s, "items"); n != 0 {
			t.Errorf("%d rows are left", n)
		}
	})
}

// Several workers record for the same and for different nodes, with the same new facts.
func TestAtOnce(t *testing.T) {
	dsns := map[string]func(t *testing.T) string{
		"sqlite":   func(t *testing.T) string { return filepath.Join(t.TempDir(), "inventory.db") },
		"postgres": func(t *testing.T) string { return server.Database(t) },
	}
	for kind, dsn := range dsns {
		t.Run(kind, func(t *testing.T) {
			where := dsn(t)
			const workers, nodes, rounds = 4, 5, 6
			var wg sync.WaitGroup
			for w := range workers {
				wg.Go(func() {
					s, err := Open(t.Context(), where) // the tables are made at once, too
					if err != nil {
						t.Error(err)
						return
					}
					defer s.Close()
					for round := range rounds {
						for n := range nodes {
							// In an order of its own, with facts that all share.
							node := fmt.Sprintf("n%d", (n+w)%nodes)
							var text strings.Builder
							for i := range 60 {
								fmt.Fprintf(&text, "package p%d v=%d;", i, round)
							}
							if err := s.Record(context.Background(), snapshot(t, node, round*workers+w+1, text.String())); err != nil {
								t.Error(err)
							}
							c := inventory.Compliance{Node: node, Baseline: "b", Status: inventory.Compliant, At: at(round*workers + w)}
							if (round+w)%2 == 0 {
								c.Status = inventory.NonCompliant
							}
							if err := s.RecordCompliance(context.Background(), c); err != nil {
								t.Error(err)
							}
						}
						if w == 0 {
							if err := s.Expire(context.Background(), 1000*24*time.Hour); err != nil {
								t.Error(err)
							}
						}
					}
				})
			}
			wg.Wait()
			s, err := Open(t.Context(), where)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			for n := range nodes {
				page, err := s.Node(t.Context(), fmt.Sprintf("n%d", n), at(99), nil, "")
				if err != nil || len(page.Items) != 60 {
					t.Errorf("node %d has %d items, want 60: %v", n, len(page.Items), err)
				}
				for _, i := range page.Items {
					if fmt.Sprint(i.Values["v"]) != "5" {
						t.Fatalf("an older report won: %v", i)
					}
				}
			}
		})
	}
}

// Two workers that add the same facts in opposite orders do not wait for each other in a circle.
func TestNoDeadlock(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store, _ *time.Time) {
		var wg sync.WaitGroup
		for worker := range 2 {
			wg.Go(func() {
				for round := range 15 {
					var text strings.Builder
					for _, kind := range []string{"alpha", "beta"} {
						for i := range 400 {
							fmt.Fprintf(&text, "%s k%d v=%d;", kind, i, round)
						}
					}
					snap := snapshot(t, fmt.Sprintf("n%d", worker), round+1, text.String())
					if worker == 1 {
						slices.Reverse(snap.Sections)
					}
					if err := s.Record(t.Context(), snap); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	later := filepath.Join(dir, "later.db")
	s, err := Open(t.Context(), later)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(later); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, want 0600: %v", info.Mode(), err)
	}
	if _, err := s.db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)`); err != nil {
		t.Fatal(err)
	}
	s.Close()
	other := filepath.Join(dir, "other.db")
	if err := os.WriteFile(other, []byte(strings.Repeat("this is no database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for dsn, says := range map[string]string{
		"":                         "want the path of a file",
		"mysql://root@localhost/x": "want the path of a file",
		later:                      "use a newer one",
		other:                      "not a database",
		"/proc/nowhere/x.db":       "no such file",
		"postgres://a:hunter2-hunter2@/x?host=/nowhere":                  "/nowhere",
		"postgres://a@/x?password=hunter2-hunter2&host=/nowhere&sslmode": "/nowhere",
		"postgres://a:hunter2-hunter2@%zz/x":                             "postgres://",
		"postgres://a:hunter2/hunter2@/x":                                "%2F",
		"postgres://a@h/x?password=hunter2-hunter2&sslmode=strict":       "sslmode is invalid",
		"mysql://root:hunter2-hunter2@localhost/x":                       "want the path of a file",
		"host=/nowhere user=a password=hunter2-hunter2":                  "want the path of a file",
	} {
		s, err := Open(t.Context(), dsn)
		if err == nil {
			s.Close()
			t.Errorf("%s was opened", dsn)
			continue
		}
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", dsn, err, says)
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the password is in %v", err)
		}
	}
}

// What a node that lies could send is refused, and nothing of it is kept.
func TestRecordRefuses(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	good := snapshot(t, "web-1", 1, "package a v=1")
	bad := good
	bad.Sections = []inventory.Section{good.Sections[0]}
	bad.Sections[0].Digest = strings.Repeat("0", 32)
	if err := s.Record(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("%v", err)
	}
	if n := count(t, s, "nodes"); n != 0 {
		t.Error("something of it was kept")
	}
}

func TestLongNodeIsPaged(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store, _ *time.Time) {
		var text strings.Builder
		for i := range 6000 {
			fmt.Fprintf(&text, "package p%05d v=%d;", i, i)
		}
		record(t, s, "web-1", 1, "package p00000 v=old")
		record(t, s, "web-1", 2, text.String())
		seen, pages := map[string]bool{}, 0
		for cursor := ""; pages == 0 || cursor != ""; pages++ {
			page, err := s.Node(t.Context(), "web-1", time.Time{}, nil, cursor)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range page.Items {
				seen[i.Key] = true
			}
			cursor = page.Cursor
		}
		if len(seen) != 6000 || pages != 2 {
			t.Errorf("%d items in %d pages", len(seen), pages)
		}
		seen, pages = map[string]bool{}, 0
		for cursor := ""; pages == 0 || cursor != ""; pages++ {
			page, err := s.Diff(t.Context(), "web-1", at(1), at(3), nil, cursor)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range page.Changes {
				seen[c.Key] = true
			}
			cursor = page.Cursor
		}
		if len(seen) != 6000 || pages != 2 {
			t.Errorf("%d changes in %d pages", len(seen), pages)
		}
		if _, err := s.Node(t.Context(), "web-1", time.Time{}, nil, "%%%"); !errors.Is(err, ErrCursor) {
			t.Errorf("a cursor that is none: %v", err)
		}
	})
}
