package baseline

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"gopkg.in/yaml.v3"

	"github.com/almanac-run/almanac/lang/syntax"
	"github.com/almanac-run/almanac/patch"
)

// archives runs f on each archive of a folder and compares what it returns with
// the archive's file `want`; UPDATE=1 rewrites that.
func archives(t *testing.T, folder, want string, f func(t *testing.T, files map[string][]byte) []byte) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", folder, "*.txtar"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no archives in %s: %v", folder, err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if len(strings.TrimSpace(string(ar.Comment))) == 0 {
				t.Error("the first lines must say what the case shows")
			}
			files := map[string][]byte{}
			for _, file := range ar.Files {
				files[file.Name] = file.Data
			}
			got := f(t, files)
			if os.Getenv("UPDATE") != "" {
				ar.Files = slices.DeleteFunc(ar.Files, func(f txtar.File) bool { return f.Name == want })
				ar.Files = append(ar.Files, txtar.File{Name: want, Data: got})
				if err := os.WriteFile(path, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(files[want]), string(got)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", want, diff)
			}
		})
	}
}

// What is wrong with baselines, as files and as objects.
func TestWrong(t *testing.T) {
	archives(t, "wrong", "diagnostics", func(t *testing.T, files map[string][]byte) []byte {
		var out strings.Builder
		for _, name := range []string{"baseline.yaml", "baseline.json"} {
			source, ok := files[name]
			if !ok {
				continue
			}
			if name == "baseline.json" {
				_, err := patch.FromJSON(source)
				fmt.Fprintln(&out, err)
				continue
			}
			b, diags := Parse(name, source)
			failed := false
			for _, d := range diags {
				fmt.Fprintf(&out, "%s (%s)\n", d, d.Code)
				failed = failed || d.Severity == syntax.Error
			}
			if (b == nil) != failed {
				t.Errorf("the baseline is %v", b)
			}
		}
		return []byte(out.String())
	})
}

// The examples of docs/baselines.md are right, without a warning.
func TestExamples(t *testing.T) {
	page, err := os.ReadFile("../../docs/baselines.md")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(page, -1) {
		b, diags := Parse("docs/baselines.md", m[1])
		for _, d := range diags {
			t.Errorf("%s\nin:\n%s", d, m[1])
		}
		if b == nil {
			continue
		}
		if names[b.Name] {
			t.Errorf("%s is there twice", b.Name)
		}
		names[b.Name] = true
	}
	if len(names) < 7 {
		t.Errorf("%d examples", len(names))
	}
	for _, m := range regexp.MustCompile("(?s)```yaml inputs\n(.*?)```").FindAllSubmatch(page, -1) {
		var inputs struct{ Baseline any }
		if err := yaml.Unmarshal(m[1], &inputs); err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(inputs.Baseline)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := patch.FromJSON(raw); err != nil {
			t.Errorf("%v\nin:\n%s", err, m[1])
		}
	}
}

// A file and the object that it becomes on the wire are the same baseline.
func TestFileIsObject(t *testing.T) {
	b, diags := Parse("baseline.yaml", []byte(seed))
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	raw, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	back, err := patch.FromJSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b, back); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

const seed = `baseline: prod-linux
summary: Security updates after a week, critical ones at once.
rules:
  - approve: patch.classification == "security" && patch.severity == "critical"
  - approve: >-
      patch.classification
      == "security"
    after: 7d
    level: low
  - os: [amzn, "rhel:9"]
    reject: patch.name.startsWith("kernel")
pin: { nginx: "1.24.*" }
`

// Whatever the text, Parse does not panic, says where, and what it accepts
// decides something and goes through JSON.
func FuzzParse(f *testing.F) {
	f.Add(seed)
	f.Add("baseline: a\nrules: [approve: true, reject: 'patch.cve[0] == \"x\"']\npin: {a: \"1.*\"}\n")
	f.Add("baseline: a\nrules:\n  - approve: >-\n      patch.name\n      == \"a\"\n    after: 1d\n    os: [debian, 'rhel:9']\n")
	f.Add("baseline: \nrules: {}\npin: 1.20\n")
	m := patch.Machine{OS: "debian", Manager: "apt", Offers: []patch.Offer{{Name: "nginx", Installed: "1", Version: "2", CVEs: []string{"CVE-2026-1"}}}}
	f.Fuzz(func(t *testing.T, source string) {
		b, diags := Parse("b.yaml", []byte(source))
		lines := strings.Count(source, "\n") + 1
		failed := false
		for _, d := range diags {
			failed = failed || d.Severity == syntax.Error
			if d.Pos.Line < 1 || d.Pos.Line > lines || d.Pos.Col < 1 {
				t.Errorf("%s is outside", d)
			}
		}
		if (b == nil) != failed {
			t.Fatalf("%v with %v", b, diags)
		}
		if b == nil {
			return
		}
		raw, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		back, err := patch.FromJSON(raw)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		if back.Digest() != b.Digest() {
			t.Errorf("%s came back as another", raw)
		}
		if r := patch.Decide(b, m, time.Unix(0, 0)); len(r.Decisions) != 1 {
			t.Errorf("%d decisions", len(r.Decisions))
		}
	})
}
