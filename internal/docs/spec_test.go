package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/catalog"
	"github.com/almanac-run/almanac/lang/compile"
	"github.com/almanac-run/almanac/runbooks"
)

// A block of the specification: a runbook, and what the compiler says of it if
// it is marked as an error.
var specBlock = regexp.MustCompile("(?s)```yaml( error)?\n(.*?)```\n(?:```\n(.*?)```\n)?")

// Every example of the specification compiles without a warning, or gives
// exactly the diagnostics that stand below it; UPDATE=1 rewrites those.
func TestSpecExamples(t *testing.T) {
	file := filepath.Join(root, "docs", "spec.md")
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	opts := compile.Options{Actions: catalog.Actions(), Runbook: runbooks.Source, Runbooks: runbooks.Names()}
	seen := 0
	updated := specBlock.ReplaceAllStringFunc(string(page), func(block string) string {
		seen++
		m := specBlock.FindStringSubmatch(block)
		wrong, source, want := m[1] != "", m[2], m[3]
		name := fmt.Sprintf("example %d (%s)", seen, strings.SplitN(source, "\n", 2)[0])
		prog, diags := compile.Compile("spec.md", []byte(source), opts)
		var b strings.Builder
		for _, d := range diags {
			b.WriteString(strings.TrimPrefix(d.String(), "spec.md:") + "\n")
		}
		switch {
		case wrong && prog != nil:
			t.Errorf("%s is marked as an error and compiles", name)
		case !wrong && len(diags) > 0:
			t.Errorf("%s:\n%s", name, b.String())
		case wrong && os.Getenv("UPDATE") == "":
			if diff := cmp.Diff(want, b.String()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		case wrong:
			return "```yaml error\n" + source + "```\n```\n" + b.String() + "```\n"
		}
		return block
	})
	if seen < 18 {
		t.Errorf("only %d examples found", seen)
	}
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, []byte(updated), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// The page must keep up with the kinds of errors.
	for _, k := range action.Kinds {
		if !strings.Contains(string(page), "`"+string(k)+"`") {
			t.Errorf("the page does not name the error kind %s", k)
		}
	}
}
