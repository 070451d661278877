package service

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestMisspelt gives worker and agent a variable that is misspelt, among all variables that any of our programs knows:
// they warn of that one, and do not tell its value.
func TestMisspelt(t *testing.T) {
	t.Parallel()
	const wrong = "ALMANAC_INVENTROY"
	known := map[string]bool{}
	variable := regexp.MustCompile(`\bALMANAC_[A-Z0-9_]*[A-Z0-9]\b`)
	err := filepath.WalkDir("../../..", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() {
			if strings.HasPrefix(name, ".") && name != ".." || name == "bin" || name == "testdata" {
				return fs.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(file, "_test.go") || !slices.Contains([]string{".go", ".md", ".yml", ".service", ".sh", ".example"}, filepath.Ext(file)) {
			return nil
		}
		text, err := os.ReadFile(file)
		for _, name := range variable.FindAllString(string(text), -1) {
			known[name] = true
		}
		return err
	})
	if err != nil || len(known) < 20 {
		t.Fatalf("%d variables, %v", len(known), err)
	}
	delete(known, wrong) // the documentation has it as an example
	h := &house{t: t, dir: t.TempDir(), address: "127.0.0.1:1"}
	own := map[string]map[string]bool{} // which a program reads itself: they must have values that fit
	for _, program := range []string{"worker", "agent"} {
		own[program] = map[string]bool{}
		for _, m := range regexp.MustCompile(`--([a-z0-9-]+) `).FindAllStringSubmatch(h.must(program, "--help"), -1) {
			name := "ALMANAC_" + strings.ToUpper(strings.ReplaceAll(m[1], "-", "_"))
			own[program][name], known[name] = true, true
		}
	}
	for _, tt := range []struct{ misspelt, meant, program, args string }{
		{wrong, "ALMANAC_INVENTORY", "worker", "config"},
		{wrong, "ALMANAC_INVENTORY", "worker", "--stop-timeout=0s"},
		{"ALMANAC_STATE_DRI", "ALMANAC_STATE_DIR", "agent", "--id=no/id"},
	} {
		env := []string{tt.misspelt + "=canary-4d1c"}
		for _, name := range slices.Sorted(maps.Keys(known)) {
			if !own[tt.program][name] {
				env = append(env, name+"=x")
			}
		}
		if len(env) < 20 {
			t.Errorf("%s: %s: this test sees nothing", tt.program, env)
		}
		out, _ := h.command(env, tt.program, tt.args).CombinedOutput() // what does not only print its settings fails, by its flag
		text := string(out)
		if want := tt.misspelt + " is no setting; did you mean " + tt.meant + "?"; strings.Count(text, "did you mean") != 1 || !strings.Contains(text, want) {
			t.Errorf("%s %s: want %q alone in\n%s", tt.program, tt.args, want, text)
		}
		if strings.Contains(text, "canary-4d1c") {
			t.Errorf("%s %s tells the value:\n%s", tt.program, tt.args, text)
		}
	}
}
