package runbooks_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.temporal.io/sdk/temporal"

	"github.com/almanac-run/almanac/internal/catalog"
	"github.com/almanac-run/almanac/internal/trace"
	"github.com/almanac-run/almanac/lang/compile"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/runbooks"
)

func compiled(t *testing.T, name string) *program.Program {
	t.Helper()
	file, source, err := runbooks.Source(name)
	if err != nil {
		t.Fatal(err)
	}
	p, diagnostics := compile.Compile(file, source, compile.Options{Actions: catalog.Actions(), Runbook: runbooks.Source})
	for _, d := range diagnostics {
		t.Errorf("%s (%s)", d, d.Code)
	}
	if p == nil {
		t.FailNow()
	}
	return p
}

func TestEachIsWhole(t *testing.T) {
	names := runbooks.Names()
	for _, want := range []string{"demo/tour", "linux/rolling-restart", "linux/run-command", "linux/write-config"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is missing from %v", want, names)
		}
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			file, source, err := runbooks.Source(name)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(string(source), "\n")
			schema, ok := strings.CutPrefix(first, "# yaml-language-server: $schema=")
			if !ok {
				t.Fatalf("begins with %q, not with the line by which editors find the schema", first)
			}
			if got := filepath.Join(filepath.Dir(file), schema); got != "docs/runbook.schema.json" {
				t.Errorf("its schema line leads to %s", got)
			}
			p := compiled(t, name)
			if p.Runbook != name || p.Summary == "" || p.Details == "" {
				t.Errorf("runbook %q, summary %q, description of %d bytes", p.Runbook, p.Summary, len(p.Details))
			}
			for _, in := range p.Inputs {
				if in.Summary == "" {
					t.Errorf("input %s has no summary", in.Name)
				}
			}
			archives, _ := filepath.Glob(name + "*.txtar")
			if _, _, err := runbooks.Tests(name); err != nil && len(archives) == 0 {
				t.Errorf("has neither a script test nor unit tests beside it")
			}
		})
	}
	for _, name := range []string{"", "linux/none", "../runbooks", "/etc/passwd", "linux/run-command.yaml"} {
		if _, _, err := runbooks.Source(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v, want fs.ErrNotExist", name, err)
		}
	}
}

// TestScripts plays each NAME.CASE.txtar: the inputs, what happens, and the
// calls that follow, in order. Package trace says what a script is. Actions
// answer typicalAnswers if it says nothing.
func TestScripts(t *testing.T) {
	trace.Golden(t, "*/*.txtar", func(t *testing.T, file string, parts map[string]string) string {
		name, _, _ := strings.Cut(strings.TrimSuffix(file, ".txtar"), ".")
		return trace.Play{
			Program: compiled(t, name),
			Inputs:  parts["inputs"],
			Script:  parts["script"],
			Answer: func(_ context.Context, action, _ string, _ json.RawMessage) (json.RawMessage, error) {
				typical, ok := typicalAnswers[action]
				if !ok {
					return nil, temporal.NewNonRetryableApplicationError("the script says no answer of "+action, "internal", nil)
				}
				return json.RawMessage(typical), nil
			},
		}.Run(t)
	})
}

// typicalAnswers are what actions answer if the script does not say.
var typicalAnswers = map[string]string{
	"host.command.run":     `{"exit_code":0,"stdout":"","ref":"run/out","size":0,"duration":"1s"}`,
	"host.file.write":      `{"path":"","changed":true,"created":false,"size":1}`,
	"host.service.status":  `{"name":"","active":true,"enabled":true,"changed":false}`,
	"host.service.restart": `{"name":"","active":true,"enabled":true,"changed":false}`,
	"host.service.reload":  `{"name":"","active":true,"enabled":true,"changed":false}`,
}
