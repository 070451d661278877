package runbooks_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The script that linux/run-command gives to nodes runs the one from the input:
// whole, as it is, with nothing on its standard input, and leaving no file.
func TestRunCommandRunsTheGivenScript(t *testing.T) {
	var wrapper string
	for _, e := range compiled(t, "linux/run-command").Steps[0].Call.With {
		if e.Key == "script" {
			if err := json.Unmarshal(e.Value.Lit, &wrapper); err != nil {
				t.Fatal(err)
			}
		}
	}
	cases := []struct {
		name, shell, script, want string
		code                      int
	}{
		{"quotes", "sh", `echo "it's" '$(touch pwned)' \\`, "it's $(touch pwned) \\\n", 0},
		{"here document", "bash", "cat <<'END'\n$HOME `id`\nEND\n", "$HOME `id`\n", 0},
		{"no standard input", "sh", "cat; echo end", "end\n", 0},
		{"exit code", "sh", "exit 7", "", 7},
		{"ends at the first failure", "sh", "false\necho not reached", "", 1},
		{"in a pipe too", "bash", "false | cat\necho not reached", "", 1},
		{"environment", "sh", `printf %s "$VALUE"`, "'; touch pwned #\n\"", 0},
		{"another language", "python3", "import os\nprint(repr(os.environ['VALUE']))", `'\'; touch pwned #\n"'` + "\n", 0},
		{"large", "sh", "# " + strings.Repeat("x", 1<<20) + "\necho large", "large\n", 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if _, err := exec.LookPath(c.shell); err != nil && os.Getenv("CI") != "true" {
				t.Skip(err)
			}
			dir := t.TempDir()
			cmd := exec.Command("sh", "-e", "-c", wrapper, "sh", c.shell)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "TMPDIR="+dir, "VALUE='; touch pwned #\n\"")
			cmd.Stdin = strings.NewReader(c.script)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			err := cmd.Run()
			code := 0
			if exit := new(exec.ExitError); errors.As(err, &exit) {
				code = exit.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, out.String()); diff != "" || code != c.code {
				t.Errorf("exit code %d, want %d; output (-want +got):\n%s", code, c.code, diff)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
				t.Errorf("it left %v", left)
			}
		})
	}
}
