//go:build mutants

package crash

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func init() {
	maps.Copy(mutants, map[string]mutant{
		"lazy":   {plant: plant{lazy: true}, bug: "an action that reports success and does nothing", subject: "image", caught: "make image: 0 times, want 1"},
		"mild":   {plant: plant{mild: true}, bug: "a failure that is taken for success", subject: "image", caught: "the outcome is succeeded"},
		"shadow": {plant: plant{shadow: true}, bug: "an effect that no history knows", subject: "image", caught: "the history has no work nowhere"},
		"gone":   {plant: plant{gone: true}, bug: "a compensation that takes not found for gone", subject: "lost", at: "kill effect make s2#1:after", caught: "s2 is left"},
		"late": {bug: "a compensation that is registered after the effect", subject: "lost", at: "kill effect make s2#1:after", caught: "s2 is left",
			build: patched("workflows/call.go",
				"		r.state.Undo = append(r.state.Undo, u)\n	}\n	options", "	}\n	options",
				"u.Output = out\n", "u.Output = out\n r.state.Undo = append(r.state.Undo, u)\n")},
		"forward": {bug: "compensations that run first made first", subject: "image", caught: "which was made later",
			build: patched("workflows/rollback.go", "for i := len(r.state.Undo) - 1; i >= 0; i-- {", "for i := 0; i < len(r.state.Undo); i++ {")},
		"cut": {bug: "what continues as new forgets what is to be taken back", subject: "image", caught: "image is left", events: 15,
			build: patched("workflows/runbook.go", "next.State = r.state\n", "state := *r.state\n state.Undo = nil\n next.State = &state\n")},
		"keeps":     {plant: plant{keeps: true}, bug: "a lock that is never given back", subject: "errors", caught: "lock/EXECUTION is still open"},
		"orphans":   {plant: plant{orphans: true}, bug: "a called runbook that is left alone when its caller is cancelled", subject: "children", at: "cancel RespondActivityTaskCompleted first low#1:after", caught: "EXECUTION/first is still open"},
		"forgetful": {plant: plant{forgetful: true}, bug: "an agent that has forgotten its journal after a restart", subject: "batches", at: "kill command exit roll@a#1:at", caught: "make app@a: 2 times, want 1"},
		"deaf":      {plant: plant{deaf: true}, bug: "a cancelled command that goes on", subject: "batches", at: "cancel command start roll@a#1:at", caught: "a process is left"},
		"stays":     {plant: plant{stays: true}, bug: "a node's file that is not put back", subject: "batches", caught: "the file on node"},
	})
}

// patched builds this program with changes in a file of the module (what was and what is, in turn): what no process can be told to do wrong.
func patched(file string, changes ...string) func(*testing.T) string {
	return func(t *testing.T) string {
		t.Helper()
		dir := t.TempDir()
		real, err := filepath.Abs(filepath.Join("..", "..", "..", filepath.FromSlash(file)))
		if err != nil {
			t.Fatal(err)
		}
		source := text(real)
		for i := 0; i < len(changes); i += 2 {
			if n := strings.Count(source, changes[i]); n != 1 {
				t.Fatalf("%s has %q %d times: plant the bug anew", file, changes[i], n)
			}
			source = strings.Replace(source, changes[i], changes[i+1], 1)
		}
		changed := filepath.Join(dir, "changed.go")
		overlay := filepath.Join(dir, "overlay.json")
		raw, _ := json.Marshal(map[string]any{"Replace": map[string]string{real: changed}})
		must(os.WriteFile(changed, []byte(source), 0o644))
		must(os.WriteFile(overlay, raw, 0o644))
		exe := filepath.Join(dir, "crash.test")
		out, err := exec.Command("go", "test", "-c", "-tags", "mutants", "-overlay", overlay, "-o", exe, ".").CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return exe
	}
}
