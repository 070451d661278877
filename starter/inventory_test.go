package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/almanac-run/almanac/internal/inventory"
	"github.com/almanac-run/almanac/internal/inventory/serve"
	"github.com/almanac-run/almanac/internal/inventory/store"
)

// inventoryOf is a control worker's inventory, asked without a server, with these items two days ago and then an hour ago.
func inventoryOf(t *testing.T, before, after map[string][]inventory.Item) asker {
	t.Helper()
	st, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "inventory.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	for _, report := range []struct {
		ago   time.Duration
		nodes map[string][]inventory.Item
	}{{48 * time.Hour, before}, {time.Hour, after}} {
		for node, items := range report.nodes {
			s, err := inventory.New(node, time.Now().Add(-report.ago), items)
			if err == nil {
				err = st.Record(t.Context(), s)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return func(ctx context.Context, activity string, in, out any) error {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		for _, a := range serve.Activities(st, nil) {
			if a.Name == activity {
				answer, err := a.Do(ctx, raw)
				if err != nil {
					return err
				}
				b, err := json.Marshal(answer)
				if err != nil {
					return err
				}
				if len(b) > 1<<20 {
					return fmt.Errorf("an answer of %d bytes", len(b))
				}
				return json.Unmarshal(b, out)
			}
		}
		return fmt.Errorf("no activity %s", activity)
	}
}

func item(kind, key string, values map[string]any) inventory.Item {
	return inventory.Item{Kind: kind, Key: key, Values: values}
}

func inventoryApp() (*app, *bytes.Buffer, *bytes.Buffer) {
	var out, errs bytes.Buffer
	return &app{program: "starter", stdin: strings.NewReader(""), stdout: &out, stderr: &errs, output: "text", color: "never", sources: map[string][]byte{}}, &out, &errs
}

func smallFleet(t *testing.T) asker {
	openssl := func(v string) inventory.Item {
		return item("package", "openssl", map[string]any{"version": v, "build": json.Number("9007199254740993")})
	}
	sshd := item("fact", "sshd", map[string]any{"permitrootlogin": "yes", "port": 22})
	return inventoryOf(t,
		map[string][]inventory.Item{"web-1": {openssl("3.0"), item("package", "nano", nil)}, "web-2": {openssl("3.0")}},
		map[string][]inventory.Item{"web-1": {openssl("3.1"), item("package", "evil\x1b[31m", nil), sshd}})
}

func TestInventoryCommands(t *testing.T) {
	ask := smallFleet(t)
	now := time.Now()
	ctx := t.Context()
	tests := []struct {
		name string
		run  func(a *app) error
		json bool
		want []string // lines that are part of what is printed, in order
	}{
		{"show", func(a *app) error { return a.inventoryShow(ctx, ask, inventory.ShowInput{Node: "web-1"}, false) }, false, []string{
			"KIND     KEY        VALUES", "fact     sshd       permitrootlogin=yes port=22", "package  evil", "package  openssl    build=9007199254740993 version=3.1", "3 items, last reported "}},
		{"show then", func(a *app) error {
			return a.inventoryShow(ctx, ask, inventory.ShowInput{Node: "web-1", At: now.Add(-24 * time.Hour), Kinds: []string{"package"}}, true)
		}, false, []string{"kind,key,values", "package,nano,", "package,openssl,build=9007199254740993 version=3.0"}},
		{"show nothing", func(a *app) error {
			return a.inventoryShow(ctx, ask, inventory.ShowInput{Node: "web-1", Kinds: []string{"x"}}, false)
		}, false, []string{"nothing of kind x is known of web-1; it never reported that"}},
		{"show nothing then", func(a *app) error {
			return a.inventoryShow(ctx, ask, inventory.ShowInput{Node: "web-1", At: time.Date(2020, 1, 2, 3, 4, 0, 0, time.Local)}, false)
		}, false, []string{"nothing is known of web-1 at 2020-01-02 03:04; its first report was at "}},
		{"show json", func(a *app) error { return a.inventoryShow(ctx, ask, inventory.ShowInput{Node: "web-2"}, false) }, true, []string{`"build": 9007199254740993`}},
		{"diff", func(a *app) error {
			return a.inventoryDiff(ctx, ask, inventory.DiffInput{Node: "web-1", Since: now.Add(-24 * time.Hour)}, false)
		}, false, []string{"fact was first reported since then", "added", "removed", "nano", "changed", "openssl", "version 3.0 → 3.1", "3 changes"}},
		{"no diff", func(a *app) error {
			return a.inventoryDiff(ctx, ask, inventory.DiffInput{Node: "web-2", Since: now.Add(-24 * time.Hour)}, false)
		}, false, []string{"nothing changed"}},
		{"query", func(a *app) error { return a.inventoryQuery(ctx, ask, `item.version == "3.0"`, 10, false) }, false, []string{"web-2  package  openssl  build=9007199254740993 version=3.0", "1 item"}},
		{"query more", func(a *app) error { return a.inventoryQuery(ctx, ask, `item.kind == "package"`, 2, false) }, false, []string{"there are more than 2; --limit shows more", "2 items"}},
		{"query odd", func(a *app) error { return a.inventoryQuery(ctx, ask, `item.version > 3`, 2, true) }, false, []string{"the condition failed for 2 facts: "}},
	}
	for _, tt := range tests {
		a, out, errs := inventoryApp()
		if tt.json {
			a.output = "json"
		}
		if err := tt.run(a); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		all := errs.String() + out.String()
		rest := all
		for _, want := range tt.want {
			_, after, ok := strings.Cut(rest, want)
			if !ok {
				t.Errorf("%s: %q is not (or not in order) in\n%s", tt.name, want, all)
				break
			}
			rest = after
		}
		if strings.Contains(all, "\x1b") {
			t.Errorf("%s: a node's text reaches the terminal as it is", tt.name)
		}
	}
	a, _, _ := inventoryApp()
	if err := a.inventoryShow(ctx, ask, inventory.ShowInput{Node: "nobody"}, false); err == nil || !strings.Contains(err.Error(), "host.inventory.collect") {
		t.Errorf("%v", err)
	}
}

const sshRules = `rules:
  - name: no-root
    severity: critical
    kind: fact
    where: item.key == "sshd"
    assert: item.permitrootlogin == "no"
  - name: openssl
    severity: low
    kind: package
    assert: item.key != "openssl" || item.version == "3.1"
`

func TestInventoryCheckCommand(t *testing.T) {
	ask := smallFleet(t)
	file := filepath.Join(t.TempDir(), "ssh.yaml")
	if err := os.WriteFile(file, []byte(sshRules), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		failOn string
		code   int
		says   string
	}{{"", 0, ""}, {"critical", exitNotCompliant, "1 of 2 nodes break a rule"}, {"low", exitNotCompliant, "2 of 2 nodes break"}, {"any", exitNotCompliant, "2 of 2 nodes do not comply"}} {
		a, out, _ := inventoryApp()
		in, err := a.readRules(file)
		if err != nil {
			t.Fatal(err)
		}
		if in.Baseline != "ssh" || len(in.Rules) != 2 {
			t.Errorf("%+v", in)
		}
		err = a.inventoryCheck(t.Context(), ask, in, tt.failOn, false)
		exit, _ := err.(*exitError)
		if tt.code == 0 && err != nil || tt.code != 0 && (exit == nil || exit.code != tt.code || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("--fail-on %s: %v", tt.failOn, err)
		}
		for _, want := range []string{"web-1  critical  no-root  sshd", "web-2  low       openssl  openssl", "web-2  unknown   no-root  the node never reported this kind",
			"2 rules checked on 2 nodes: 0 compliant, 2 not, 0 unknown"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q is not in\n%s", want, out)
			}
		}
	}
	a, _, errs := inventoryApp()
	bad := strings.Replace(sshRules, "low", "lo", 1)
	if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := a.readRules(file)
	if exit, _ := err.(*exitError); exit == nil || exit.code != exitInvalid || !strings.Contains(errs.String(), "did you mean low?") {
		t.Errorf("%v\n%s", err, errs)
	}
}

func TestMoment(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.Local)
	for text, want := range map[string]time.Time{
		"": {}, "7d": now.AddDate(0, 0, -7), "90m": now.Add(-90 * time.Minute), "2026-11-01": time.Date(2026, 11, 1, 0, 0, 0, 0, time.Local),
		"2026-11-01T12:00:00Z": time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC),
	} {
		if got, err := moment("--at", text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"yesterday", "-7d", "2026-13-01"} {
		if _, err := moment("--at", text, now); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}
