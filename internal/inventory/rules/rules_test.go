package rules

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// Each archive has a file of rules and what becomes of it: the rules, or the diagnostics. UPDATE=1 rewrites them.
func TestParse(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.txtar")
	if len(files) < 3 {
		t.Fatal("the archives are missing")
	}
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+1 < len(a.Files); i += 2 {
			var got strings.Builder
			all, diags := Parse("rules.yaml", a.Files[i].Data)
			for _, d := range diags {
				got.WriteString(d.String() + "\n")
			}
			for _, r := range all {
				enc := json.NewEncoder(&got)
				enc.SetEscapeHTML(false)
				if err := enc.Encode(r); err != nil {
					t.Fatal(err)
				}
			}
			if os.Getenv("UPDATE") != "" {
				a.Files[i+1].Data = []byte(got.String())
			} else if diff := cmp.Diff(string(a.Files[i+1].Data), got.String()); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", file, a.Files[i].Name, diff)
			}
		}
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestBaseline(t *testing.T) {
	for file, want := range map[string]string{"ssh.yaml": "ssh", "a/b/cis-1.2.yml": "cis-1.2", "-": "-"} {
		if got := Baseline(file); got != want {
			t.Errorf("%s: %s, want %s", file, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.txtar")
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for i := 0; i < len(a.Files); i += 2 {
			f.Add(a.Files[i].Data)
		}
	}
	f.Fuzz(func(t *testing.T, source []byte) {
		all, diags := Parse("x.yaml", source)
		if all == nil && len(diags) == 0 {
			t.Error("neither rules nor a diagnostic")
		}
	})
}
