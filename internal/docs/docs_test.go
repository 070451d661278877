package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/catalog"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/lang/compile"
	"github.com/almanac-run/almanac/workflows"
)

const root = "../.."

// golden compares a derived file with what it should be; UPDATE=1 rewrites it.
func golden(t *testing.T, name string, want []byte) {
	t.Helper()
	file := filepath.Join(root, name)
	if os.Getenv("UPDATE") != "" {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is not what the definitions say; UPDATE=1 rewrites it (-want +got):\n%s", name, diff)
	}
}

func TestActionsPage(t *testing.T) {
	golden(t, "docs/actions.md", action.Reference(catalog.Actions()))
}

func TestSchema(t *testing.T) {
	schema, err := compile.Schema(catalog.Actions())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "docs/runbook.schema.json", schema)
}

func TestActionsAreWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range catalog.Actions() {
		if seen[a.Name] {
			t.Errorf("%s is defined twice", a.Name)
		}
		seen[a.Name] = true
		if !regexp.MustCompile(`^[a-z]+(\.[a-z0-9_]+){1,2}$`).MatchString(a.Name) {
			t.Errorf("%s is no name of an action", a.Name)
		}
		if a.Example == "" {
			t.Errorf("%s has no example", a.Name)
		}
		if strings.HasSuffix(a.Summary, ".") || strings.Contains(a.Summary, "\n") {
			t.Errorf("%s: summary %q is more than one line without a full stop", a.Name, a.Summary)
		}
	}
}

// Every example is a step that compiles without a warning, as it stands.
func TestExamplesCompile(t *testing.T) {
	for _, a := range catalog.Actions() {
		t.Run(a.Name, func(t *testing.T) {
			var b strings.Builder
			b.WriteString("runbook: test/example\n")
			inputs := map[string]bool{}
			for _, m := range regexp.MustCompile(`\binputs\.(\w+)`).FindAllStringSubmatch(a.Example, -1) {
				if len(inputs) == 0 {
					b.WriteString("inputs:\n")
				}
				if !inputs[m[1]] {
					b.WriteString("  " + m[1] + ": { type: secret }\n")
				}
				inputs[m[1]] = true
			}
			b.WriteString("steps:\n  - " + strings.ReplaceAll(strings.TrimSpace(a.Example), "\n", "\n    ") + "\n")
			_, diagnostics := compile.Compile("example.yaml", []byte(b.String()), compile.Options{Actions: catalog.Actions()})
			for _, d := range diagnostics {
				t.Errorf("%s\n%s", d, b.String())
			}
		})
	}
}

// The compose setup registers the search attributes that executions set: one
// that is missing stops every execution at its first workflow task.
func TestSearchAttributesOfCompose(t *testing.T) {
	script, err := os.ReadFile(filepath.Join(root, "deploy", "setup-namespace.sh"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		workflows.AttrRunbook: "Keyword", workflows.AttrStatus: "Keyword", workflows.AttrStep: "Keyword",
		workflows.AttrCaller: "Keyword", workflows.AttrTargets: "KeywordList", registry.AttrCompliance: "Keyword",
	}
	got := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^(Almanac\w+) (\w+)$`).FindAllStringSubmatch(string(script), -1) {
		got[m[1]] = m[2]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("deploy/setup-namespace.sh (-want +got):\n%s", diff)
	}
	api, err := os.ReadFile(filepath.Join(root, "workflows", "api.go"))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(regexp.MustCompile(`(?m)^\s+Attr\w+\s+= "`).FindAll(api, -1)); n != len(want)-1 { // the registry's stands there
		t.Errorf("workflows has %d search attributes, this test knows %d", n, len(want)-1)
	}
}
