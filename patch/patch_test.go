package patch

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
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

// What is decided: a baseline, a machine and a time give a report.
func TestDecide(t *testing.T) {
	archives(t, "decide", "report", func(t *testing.T, files map[string][]byte) []byte {
		b := parsed(t, string(files["baseline.yaml"]))
		var m Machine
		if err := json.Unmarshal(files["machine.json"], &m); err != nil {
			t.Fatal(err)
		}
		now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
		r := Decide(b, m, now)
		if f, ok := files["failures.json"]; ok {
			var failures []Failure
			if err := json.Unmarshal(f, &failures); err != nil {
				t.Fatal(err)
			}
			r = r.WithFailures(failures)
		}
		var out strings.Builder
		for _, d := range r.Decisions {
			fmt.Fprintf(&out, "%s %s -> %s: %s", d.Name, d.Installed, d.Version, d.Decision)
			if d.Rule > 0 {
				fmt.Fprintf(&out, ", rule %d", d.Rule)
			}
			if !d.Until.IsZero() {
				fmt.Fprintf(&out, ", until %s", d.Until.Format(time.RFC3339))
			}
			if d.Why != "" {
				fmt.Fprintf(&out, " (%s)", d.Why)
			}
			out.WriteByte('\n')
		}
		names := func(ds []Decision) string {
			var s []string
			for _, d := range ds {
				s = append(s, d.Name+"="+d.Version)
			}
			return strings.Join(s, " ")
		}
		fmt.Fprintf(&out, "install: %s\nhold: %s\n", names(r.ToInstall()), names(r.ToHold()))
		listed := names(r.Patches)
		r.Patches, r.Digest = nil, ""
		raw, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "listed: %s\n%s\n", listed, raw)
		return []byte(out.String())
	})
}
