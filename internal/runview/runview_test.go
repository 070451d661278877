package runview

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/lang/syntax"
	"github.com/almanac-run/almanac/workflows"
)

// Each archive in testdata holds Views (*.json, in order), perhaps sources
// (src/…), and what is rendered from them, by name: "table WIDTHxHEIGHT" and
// "ending WIDTH" of the last View; "lines" and "events" of them all.
// UPDATE=1 rewrites what is rendered.
func TestRender(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var views []workflows.View
			sources := map[string][]byte{}
			changed := false
			for i, f := range ar.Files {
				if src, ok := strings.CutPrefix(f.Name, "src/"); ok {
					sources[src] = f.Data
					continue
				}
				if strings.HasSuffix(f.Name, ".json") {
					var v workflows.View
					dec := json.NewDecoder(bytes.NewReader(f.Data))
					dec.DisallowUnknownFields()
					if err := dec.Decode(&v); err != nil {
						t.Fatalf("%s: %v", f.Name, err)
					}
					views = append(views, v)
					continue
				}
				got := render(t, f.Name, views, sources)
				if diff := cmp.Diff(string(f.Data), got); diff != "" {
					if os.Getenv("UPDATE") == "" {
						t.Errorf("%s (-want +got):\n%s", f.Name, diff)
					}
					ar.Files[i].Data = []byte(got)
					changed = true
				}
			}
			if changed && os.Getenv("UPDATE") != "" {
				if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

var (
	now  = time.Date(2026, 11, 23, 10, 5, 0, 0, time.UTC)
	exec = Execution{ID: "demo-tour-7f3c", URL: "http://127.0.0.1:8233/namespaces/default/workflows/demo-tour-7f3c"}
)

func render(t *testing.T, name string, views []workflows.View, sources map[string][]byte) string {
	t.Helper()
	o := Options{Now: now, Program: "starter", Source: func(f string) []byte { return sources[f] }}
	kind, size, _ := strings.Cut(name, " ")
	_, _ = fmt.Sscanf(size, "%dx%d", &o.Width, &o.Height)
	last := views[len(views)-1]
	switch kind {
	case "table":
		s := Table(last, exec, o)
		for _, l := range strings.Split(s, "\n") {
			if w := text.StringWidthWithoutEscSequences(l); w > o.Width && !strings.Contains(l, "http://") && !strings.Contains(l, "starter ") {
				t.Errorf("%s: a line of %d columns: %s", name, w, l)
			}
		}
		if h := height(s, o.Width); o.Height > 0 && h >= o.Height { // a line is the cursor's
			t.Errorf("%s: %d lines", name, h)
		}
		coloured := o
		coloured.Color = true
		if got := text.StripEscape(Table(last, exec, coloured)); trimmed(got) != s {
			t.Errorf("%s: colours change the text:\n%s", name, cmp.Diff(s, trimmed(got)))
		}
		return s
	case "ending":
		return Ending(last, exec, o)
	case "lines", "events":
		var b strings.Builder
		var f Follower
		for i, v := range views {
			for _, e := range f.Next(v, exec, "starter", now.Add(time.Duration(i)*time.Second)) {
				if err := WriteEvent(&b, e, kind == "events"); err != nil {
					t.Fatal(err)
				}
			}
		}
		return b.String()
	}
	t.Fatalf("unknown rendering %q", name)
	return ""
}

func trimmed(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

func TestDiagnostics(t *testing.T) {
	source := "steps:\n  - id: a\n\tif: größe == \"日本\" && steps.b.x\r\n" +
		"  - run: " + strings.Repeat("x", 200) + " here " + strings.Repeat("y", 50) + "\n"
	at := func(line, col, width int) syntax.Diagnostic {
		return syntax.Diagnostic{Severity: syntax.Error, File: "a.yaml", Pos: program.Pos{Line: line, Col: col}, Width: width,
			Code: "x", Message: "wrong"}
	}
	tests := []struct {
		name string
		d    syntax.Diagnostic
		want string
	}{
		{"first line", at(1, 1, 5), "    1 | steps:\n      | ^^^^^\n"},
		{"tab and wide characters", at(3, 15, 4), "    2 |   - id: a\n    3 |  if: größe == \"日本\" && steps.b.x\n      |               ^^^^^^\n"},
		{"no width", at(2, 5, 0), "    1 | steps:\n    2 |   - id: a\n      |     ^\n"},
		{"wider than the line", at(2, 5, 99), "    1 | steps:\n    2 |   - id: a\n      |     ^^^^^\n"},
		{"after the end", at(2, 99, 1), "    1 | steps:\n    2 |   - id: a\n      |          ^\n"},
		{"far right", at(4, 211, 4), "    3 |\n    4 | …xxxxxxxxxxxxxxx here yyyyyyyyyyyyyyyyyyyyyyyyyyyyy…\n      |                  ^^^^\n"},
		{"no such line", at(99, 1, 1), ""},
		{"nowhere", at(0, 0, 0), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := Options{Width: 60, Source: func(string) []byte { return []byte(source) }}
			_, got, _ := strings.Cut(Diagnostics([]syntax.Diagnostic{tt.d}, o), "\n")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestElapsed(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second:                "0.0s",
		0:                           "0.0s",
		1240 * time.Millisecond:     "1.2s",
		9960 * time.Millisecond:     "9.9s",
		42 * time.Second:            "42s",
		250 * time.Second:           "4m10s",
		2*time.Hour + 5*time.Minute: "2h05m",
		76 * time.Hour:              "3d4h",
	} {
		if got := Elapsed(d); got != want {
			t.Errorf("Elapsed(%v) = %q, want %q", d, got, want)
		}
	}
}

// What comes from nodes and remote systems must not reach the terminal as a command.
func FuzzClean(f *testing.F) {
	for _, s := range []string{"\x1b[2J", "a\r\nb", "a\rb", "\u202e", "\x9b31m", "\xff", "\x07", "plain"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range Clean(s) {
			if r != '\n' && r != '\t' && (r < ' ' || r >= 0x7f && r < 0xa0) {
				t.Errorf("Clean(%q) leaves %q", s, r)
			}
		}
		if strings.ContainsAny(line(s), "\n\t") {
			t.Errorf("line(%q) = %q", s, line(s))
		}
	})
}

func TestQuote(t *testing.T) {
	for s, want := range map[string]string{
		"plain-id/x":      "plain-id/x",
		"copies[3].copy":  "'copies[3].copy'",
		"":                "''",
		"it's $(touch x)": `'it'\''s $(touch x)'`,
	} {
		if got := Quote(s); got != want {
			t.Errorf("Quote(%q) = %s, want %s", s, got, want)
		}
	}
}

func TestScreen(t *testing.T) {
	var b strings.Builder
	s := NewScreen(&b)
	s.Draw("one\n"+strings.Repeat("x", 25)+"\n", 10, 0) // 1 + 3 lines
	s.Draw("one\n"+strings.Repeat("x", 25)+"\n", 10, 0) // the same: nothing is written
	s.Draw("two\n"+strings.Repeat("y", 15)+"\n", 10, 4)
	s.Draw("three\n", 5, 4)                 // narrower now: it stands on 4 lines
	s.Draw("one\ntwo\nthree\nfour\n", 5, 4) // what does not fit is cut above
	s.Clear()
	want := "\x1b[?25l\rone\x1b[K\n" + strings.Repeat("x", 25) + "\x1b[K\n\x1b[J" +
		"\x1b[4A\rtwo\x1b[K\n" + strings.Repeat("y", 15) + "\x1b[K\n\x1b[J" +
		"\x1b[4A\rthree\x1b[K\n\x1b[J" +
		"\x1b[1A\rtwo\x1b[K\nthree\x1b[K\nfour\x1b[K\n\x1b[J" +
		"\x1b[3A\r\x1b[J\x1b[?25h"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Only of what writes something is it said that logs shows it.
func TestEndingNamesLogsOfCommands(t *testing.T) {
	for form, want := range map[string]bool{"host.command.run": true, "host.service.status": false} {
		v := workflows.View{
			Steps:  []workflows.StepView{{Path: "known", Form: form, Recap: &workflows.Recap{Total: 2, Failed: 2}}},
			Result: &workflows.Result{Outcome: workflows.Failed},
		}
		if got := Ending(v, Execution{ID: "x"}, Options{Program: "starter"}); strings.Contains(got, "logs x --failed") != want {
			t.Errorf("%s: want logs --failed %v, got\n%s", form, want, got)
		}
	}
}

// A message that fills the screen pushes away what to do next.
func TestEndingBoundsMessages(t *testing.T) {
	for name, message := range map[string]string{"long": strings.Repeat("日", 5000), "many lines": strings.Repeat("x\n", 500)} {
		v := workflows.View{Runbook: "a", Result: &workflows.Result{Outcome: workflows.Failed, Message: message,
			Failure: &workflows.Failure{Step: "s", Message: message}}}
		got := Ending(v, exec, Options{Program: "starter"})
		if lines := strings.Count(got, "\n"); len([]rune(got)) > 2500 || lines > 30 || !strings.Contains(got, " more ") || !strings.Contains(got, "starter logs ") {
			t.Errorf("%s: %d lines:\n%s", name, lines, got)
		}
	}
}

// An id is the choice of whoever starts an execution.
func TestHostileID(t *testing.T) {
	x := Execution{ID: "x\x1b[2J", URL: "http://ui"}
	v := workflows.View{Runbook: "a", Status: "\x1b[31mx", Result: &workflows.Result{Outcome: workflows.Failed},
		Waiting: []workflows.Wait{{Step: "s", Kind: "pause", Choices: []string{"resume"}}}}
	for _, height := range []int{0, 5} {
		o := Options{Program: "starter", Width: 30, Height: height}
		if got := Table(v, x, o) + Ending(v, x, o); strings.ContainsRune(got, '\x1b') {
			t.Errorf("%q", got)
		}
	}
}

// Of an execution of which only finally failed nothing is left undone: that it can be taken back is no advice to do so.
func TestEndingNamesRollback(t *testing.T) {
	for step, want := range map[string]string{"made": "take back what is left\n", "finally.tidy": "only if what it did is not wanted", "": "take back what is left, if nothing"} {
		v := workflows.View{Status: "failed", Result: &workflows.Result{Outcome: workflows.Failed, LeftCount: 1, Failure: &workflows.Failure{Step: step, Kind: "failed", Message: "no"}}}
		if step == "" {
			v.Status, v.Result.Outcome, v.Result.Failure = "succeeded", workflows.Succeeded, nil
		}
		if got := Ending(v, exec, Options{Now: now, Program: "starter"}); !strings.Contains(got, "starter rollback demo-tour-7f3c   # "+want) {
			t.Errorf("%s:\n%s", step, got)
		}
	}
}
