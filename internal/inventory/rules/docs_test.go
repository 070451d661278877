package rules

import (
	"os"
	"strings"
	"testing"
)

// The rules in docs/inventory.md are right.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../../../docs/inventory.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(page), "```yaml\nrules:")
	text, _, ended := strings.Cut(rest, "```")
	if !ok || !ended {
		t.Fatal("the page has no rules")
	}
	if all, diags := Parse("docs/inventory.md", []byte("rules:"+text)); len(all) != 3 || len(diags) != 0 {
		t.Errorf("%v", diags)
	}
}
