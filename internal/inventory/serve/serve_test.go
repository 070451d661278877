package serve

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/internal/inventory"
	"github.com/almanac-run/almanac/internal/inventory/store"
)

func open(t *testing.T) *store.Store {
	st, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "inventory.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

// do runs an activity as the worker does, from JSON to JSON.
func do(t *testing.T, st *store.Store, name string, in any) (string, error) {
	t.Helper()
	raw, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range Activities(st, nil) {
		if a.Name == name {
			out, err := a.Do(t.Context(), raw)
			if err != nil {
				return "", err
			}
			b, err := json.Marshal(out)
			if err != nil {
				t.Fatal(err)
			}
			return string(b), nil
		}
	}
	t.Fatalf("no activity %s", name)
	return "", nil
}

func report(t *testing.T, node string, at time.Time, items ...inventory.Item) inventory.StoreInput {
	t.Helper()
	s, err := inventory.New(node, at, items)
	if err != nil {
		t.Fatal(err)
	}
	text, err := inventory.Encode(s)
	if err != nil {
		t.Fatal(err)
	}
	return inventory.StoreInput{Snapshot: text}
}

func TestActivities(t *testing.T) {
	st := open(t)
	now := time.Now().UTC()
	item := inventory.Item{Kind: "package", Key: "openssl", Values: map[string]any{"version": "3.0"}}
	steps := []struct {
		name string
		in   any
		says string
		kind action.Kind
	}{
		{inventory.ActivityShow, inventory.ShowInput{Node: "web-1"}, "host.inventory.collect", action.NotFound},
		{inventory.ActivityStore, report(t, "web-1", now.Add(-48*time.Hour), item), `{"missing":[]}`, ""},
		{inventory.ActivityStore, report(t, "web-1", now.Add(-time.Hour)), `{"missing":[]}`, ""}, // no section: nothing is gone
		{inventory.ActivityStore, inventory.StoreInput{Snapshot: "x"}, "base64", action.Invalid},
		{inventory.ActivityShow, inventory.ShowInput{Node: "web-1"}, `"version":"3.0"`, ""},
		{inventory.ActivityShow, inventory.ShowInput{Node: "web-1", At: now.Add(-72 * time.Hour)}, `"items":[]`, ""},
		{inventory.ActivityShow, inventory.ShowInput{Node: "web-1", Cursor: "%"}, "cursor", action.Invalid},
		{inventory.ActivityDiff, inventory.DiffInput{Node: "web-1", Since: now.Add(-24 * time.Hour)}, `"changes":[]`, ""},
		{inventory.ActivityDiff, inventory.DiffInput{Node: "web-1", Since: now.Add(24 * time.Hour)}, "is not before", action.Invalid},
		{inventory.ActivityQuery, inventory.QueryInput{Query: `item.version == "3.0"`}, `"node":"web-1"`, ""},
		{inventory.ActivityQuery, inventory.QueryInput{Query: `item.`}, "the condition, at 1:", action.Invalid},
		{inventory.ActivityQuery, inventory.QueryInput{Query: `true`, Limit: 5000}, "1 to 1000", action.Invalid},
		{inventory.ActivityCheck, inventory.CheckInput{Baseline: "b", Rules: []inventory.Rule{{Name: "r", Severity: "low", Kind: "package", Assert: "item.version > \"2\""}}, Record: true}, `"status":"compliant"`, ""},
		{inventory.ActivityCheck, inventory.CheckInput{Baseline: "b", Rules: []inventory.Rule{{Name: "r", Kind: "package", Assert: "x"}}}, "rule r: assert: the condition", action.Invalid},
		{inventory.ActivityCheck, inventory.CheckInput{Baseline: "b", Rules: []inventory.Rule{}}, "needs a baseline and rules", action.Invalid},
		{inventory.ActivityCompliance, inventory.ComplianceInput{}, `"baseline":"b","status":"compliant"`, ""},
		{inventory.ActivityComplianceHistory, inventory.ComplianceHistoryInput{Since: now.Add(-24 * time.Hour)}, `"compliant":1`, ""},
		{inventory.ActivityComplianceHistory, inventory.ComplianceHistoryInput{Since: now.AddDate(-50, 0, 0)}, "days", action.Invalid},
		{inventory.ActivityForget, inventory.ForgetInput{Node: "web-1"}, "{}", ""},
		{inventory.ActivityShow, inventory.ShowInput{Node: "web-1"}, "host.inventory.collect", action.NotFound},
	}
	for i, s := range steps {
		out, err := do(t, st, s.name, s.in)
		switch {
		case s.kind == "" && (err != nil || !strings.Contains(out, s.says)):
			t.Errorf("%d %s: %s, %v, want %s", i, s.name, out, err, s.says)
		case s.kind != "" && (err == nil || action.KindOf(err) != s.kind || !strings.Contains(err.Error(), s.says)):
			t.Errorf("%d %s: %v (%s), want %s (%s)", i, s.name, err, action.KindOf(err), s.says, s.kind)
		}
	}
	st.Close()
	if _, err := do(t, st, inventory.ActivityShow, inventory.ShowInput{Node: "web-1"}); action.KindOf(err) != action.Unavailable {
		t.Errorf("a database that is not there: %v", err)
	}
}

// From a node's files to an answer: what is collected is reported, kept and found.
func TestFromNodeToAnswer(t *testing.T) {
	st := open(t)
	n := host.Node{ID: "web-1", Root: t.TempDir(), StateDir: t.TempDir()}
	n.Report = func(ctx context.Context, facts inventory.Snapshot) error {
		text, err := inventory.Encode(facts)
		if err != nil {
			return err
		}
		answer, err := do(t, st, inventory.ActivityStore, inventory.StoreInput{Snapshot: text})
		if err != nil {
			return err
		}
		var out inventory.StoreOutput
		if err := json.Unmarshal([]byte(answer), &out); err != nil {
			return err
		}
		if len(out.Missing) > 0 {
			return &inventory.MissingError{Sections: out.Missing}
		}
		return nil
	}
	write := func(path, text string) {
		file := filepath.Join(n.Root, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	actions := host.Actions(n)
	i := slices.IndexFunc(actions, func(a action.Action) bool { return a.Name == "host.inventory.collect" })
	collect := func() {
		in := json.RawMessage(`{"kinds":["user"],"files":["/etc/ssh/*"],"facts":[{"name":"sshd","script":"printf '{\"permitrootlogin\":\"%s\"}' $(cat etc/ssh/root)"}]}`)
		if _, err := actions[i].Do(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	check := inventory.CheckInput{Baseline: "ssh", Record: true, Rules: []inventory.Rule{{Name: "no-root", Severity: "critical", Kind: "fact",
		Where: `item.key == "sshd"`, Assert: `item.permitrootlogin == "no"`, Required: true}}}
	write("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n")
	write("etc/ssh/root", "yes")
	collect()
	if got, err := do(t, st, inventory.ActivityCheck, check); err != nil || !strings.Contains(got, `"status":"non_compliant"`) {
		t.Errorf("%s, %v", got, err)
	}
	between := time.Now()
	write("etc/ssh/root", "no")
	collect()
	if got, err := do(t, st, inventory.ActivityCheck, check); err != nil || !strings.Contains(got, `"status":"compliant"`) {
		t.Errorf("%s, %v", got, err)
	}
	got, err := do(t, st, inventory.ActivityDiff, inventory.DiffInput{Node: "web-1", Since: between, Kinds: []string{"fact"}})
	if err != nil || !strings.Contains(got, `"before":{"permitrootlogin":"yes"},"after":{"permitrootlogin":"no"}`) {
		t.Errorf("%s, %v", got, err)
	}
	// The store is lost: the next report brings everything, though nothing has changed.
	if err := st.Forget(t.Context(), "web-1"); err != nil {
		t.Fatal(err)
	}
	collect()
	if got, err := do(t, st, inventory.ActivityShow, inventory.ShowInput{Node: "web-1"}); err != nil || strings.Count(got, `"key"`) != 3 {
		t.Errorf("%s, %v", got, err)
	}
}

// Answers of every kind stay below what a payload may hold, and their parts make up the whole.
func TestPages(t *testing.T) {
	st := open(t)
	long := strings.Repeat("x", 5000)
	for n := range 3 {
		var items []inventory.Item
		for i := range 400 {
			items = append(items, inventory.Item{Kind: "fact", Key: fmt.Sprintf("k%04d", i), Values: map[string]any{"v": long, "n": n}})
		}
		for _, hours := range []int{-2, -1} {
			items[0].Values["hours"] = hours
			in := report(t, fmt.Sprintf("web-%d", n), time.Now().Add(time.Duration(hours)*time.Hour), items...)
			if _, err := do(t, st, inventory.ActivityStore, in); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, of := range map[string]struct {
		in   func(cursor string) any
		part string // stands once in the answer for each
		want int
	}{
		inventory.ActivityShow:  {func(c string) any { return inventory.ShowInput{Node: "web-1", Cursor: c} }, `"kind":"fact","key"`, 400},
		inventory.ActivityQuery: {func(c string) any { return inventory.QueryInput{Query: `item.kind == "fact"`, Cursor: c} }, `"key":"k`, 1200},
		inventory.ActivityDiff: {func(c string) any {
			return inventory.DiffInput{Node: "web-1", Since: time.Now().Add(-90 * time.Minute), Cursor: c}
		}, `"what":"changed"`, 1},
	} {
		got, cursor := 0, ""
		for {
			out, err := do(t, st, name, of.in(cursor))
			if err != nil {
				t.Fatal(err)
			}
			if len(out) > 1<<20 {
				t.Errorf("%s: an answer of %d bytes", name, len(out))
			}
			got += strings.Count(out, of.part)
			var page struct{ Cursor string }
			if err := json.Unmarshal([]byte(out), &page); err != nil {
				t.Fatal(err)
			}
			if cursor = page.Cursor; cursor == "" {
				break
			}
		}
		if got != of.want {
			t.Errorf("%s: %d in all parts, want %d", name, got, of.want)
		}
	}
}
