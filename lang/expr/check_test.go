package expr

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/almanac-run/almanac/lang/program"
)

func typeOf(t testing.TB, text string) program.Type {
	t.Helper()
	v, err := program.ParseType(text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// scopeOf reads a scope: "name: type" lines; "guard: expression" lines.
func scopeOf(t testing.TB, text string) Scope {
	var s Scope
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(strings.TrimSpace(line), ": ")
		switch {
		case !ok:
		case name == "guard":
			s.Guards = append(s.Guards, rest)
		default:
			s.Names = append(s.Names, Name{name, typeOf(t, rest)})
		}
	}
	return s
}

// Each archive has a scope, expressions (one a line; `⏎` in one is a line break) and what
// Check says: the type and references, or the problems with the text they point at.
func TestCheck(t *testing.T) {
	files, err := filepath.Glob("testdata/check/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no archives", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			parts := map[string]*txtar.File{}
			for i := range a.Files {
				parts[a.Files[i].Name] = &a.Files[i]
			}
			scope := scopeOf(t, string(parts["scope"].Data))
			var got strings.Builder
			for line := range strings.Lines(string(parts["expressions"].Data)) {
				if line = strings.TrimRight(line, "\n"); line != "" {
					report(&got, strings.ReplaceAll(line, "⏎", "\n"), scope)
				}
			}
			if parts["want"] == nil {
				a.Files = append(a.Files, txtar.File{Name: "want"})
				parts["want"] = &a.Files[len(a.Files)-1]
			}
			if os.Getenv("UPDATE") != "" {
				parts["want"].Data = []byte(got.String())
				if err := os.WriteFile(file, txtar.Format(a), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(string(parts["want"].Data), got.String()); d != "" {
				t.Error(d)
			}
		})
	}
}

func report(b *strings.Builder, text string, scope Scope) {
	c, problems := Check(text, scope)
	fmt.Fprintf(b, "%s\n", strings.ReplaceAll(text, "\n", "⏎"))
	runes := []rune(text)
	for _, p := range problems {
		fmt.Fprintf(b, "  %d %q %s: %s\n", p.Offset, string(runes[min(p.Offset, len(runes)):min(p.Offset+p.Width, len(runes))]), p.Code, p.Message)
	}
	if len(problems) > 0 {
		return
	}
	fmt.Fprintf(b, "  %s", c.Type)
	for _, r := range c.Refs {
		fmt.Fprintf(b, "  %s@%d", strings.Join(r.Path, "."), r.Offset)
		if r.Test {
			b.WriteString(" test")
		}
		if !r.Guarded {
			b.WriteString(" unguarded")
		}
	}
	b.WriteByte('\n')
}
