package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/almanac-run/almanac/internal/catalog"
	"github.com/almanac-run/almanac/lang/compile"
	"github.com/almanac-run/almanac/runbooks"
)

// The README's runbook compiles without a warning, its commands name programs
// and targets that exist, and its links lead somewhere.
func TestReadme(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	opts := compile.Options{Actions: catalog.Actions(), Runbook: runbooks.Source, Runbooks: runbooks.Names()}
	blocks := specBlock.FindAllStringSubmatch(string(page), -1)
	if len(blocks) == 0 {
		t.Error("the README shows no runbook")
	}
	for _, m := range blocks {
		if _, diags := compile.Compile("README.md", []byte(m[2]), opts); len(diags) > 0 {
			t.Errorf("its runbook: %v", diags)
		}
	}
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`\bmake ([a-z]+)`).FindAllStringSubmatch(string(page), -1) {
		if !strings.Contains(string(makefile), "\n"+m[1]+":") {
			t.Errorf("the Makefile has no target %s", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(string(page), -1) {
		if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
			t.Errorf("link: %v", err)
		}
	}
}
