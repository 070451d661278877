package patch

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/almanac-run/almanac/lang/expr"
)

var (
	// A field's row of the table of what rules see.
	fieldRow = regexp.MustCompile("(?m)^\\| `patch\\.([a-z]+)` \\| ([^|]+) \\|")
	codes    = regexp.MustCompile("`(approve|reject): ((?:[^`])+)`")
)

// docs/baselines.md says what is so: its table of fields is the type that rules
// are checked against. Package patch/baseline reads its examples.
func TestDocs(t *testing.T) {
	raw, err := os.ReadFile("../docs/baselines.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(raw)
	var told []string
	for _, m := range fieldRow.FindAllStringSubmatch(page, -1) {
		f, ok := patchType.Field(m[1])
		if want := strings.ReplaceAll(f.Type.String(), "<string>", "&lt;string&gt;"); !ok || strings.TrimSpace(m[2]) != want {
			t.Errorf("patch.%s is a %q there, and a %q here", m[1], m[2], want)
		}
		told = append(told, m[1])
	}
	for _, f := range patchType.Fields {
		if !slices.Contains(told, f.Name) {
			t.Errorf("patch.%s is not in the table", f.Name)
		}
	}
	for _, key := range slices.Concat(baselineKeys, ruleKeys) {
		if key != "approve" && key != "reject" && !strings.Contains(page, "| `"+key+":` |") {
			t.Errorf("the key %s is not in the table", key)
		}
	}
	// The expressions of the table of Patch Manager.
	short := 0
	for _, m := range codes.FindAllStringSubmatch(page, -1) {
		text := strings.NewReplacer(`\|`, "|", "… && ", "").Replace(m[2])
		if !strings.Contains(text, "patch.") {
			continue
		}
		short++
		if _, problems := expr.Check(text, scope); len(problems) > 0 {
			t.Errorf("%s: %v", text, problems)
		}
	}
	if short < 3 {
		t.Errorf("%d expressions in the tables", short)
	}
}
