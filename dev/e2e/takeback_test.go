package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/almanac-run/almanac/workflows"
)

const leaveRunbook = `
runbook: test/leave
on_failure: POLICY
inputs:
  dir: { type: string }
steps:
  - id: file
    targets: [n1]
    action: host.file.write
    with: { path: "${{ inputs.dir }}/conf", content: "new" }
  - id: made
    targets: [n1]
    env: { DIR: "${{ inputs.dir }}" }
    run: echo made >> "$DIR/log"
    rollback:
      steps:
        - { id: begin, targets: [n1], env: { DIR: "${{ inputs.dir }}" }, run: 'echo begin >> "$DIR/log"' }
        - { id: unmake, targets: [n1], env: { DIR: "${{ inputs.dir }}" }, run: 'test -e "$DIR/fixed" && echo unmade >> "$DIR/log"' }
  - { id: broken, fail: broken }
finally:
  - { id: tidy, targets: [n1], env: { DIR: "${{ inputs.dir }}" }, run: 'echo tidy >> "$DIR/log"' }
`

// TestTakeBack takes back what could not be rolled back, when the reason is gone, and what was left on purpose.
func TestTakeBack(t *testing.T) {
	t.Parallel()
	srv, c := serve(t, nil)
	work(t, c, workflows.TaskQueue)
	d := sit(t, srv.Address())
	d.agents("n1")
	for name, policy := range map[string]string{"leave.yaml": "rollback", "stay.yaml": "stop"} {
		if err := os.WriteFile(filepath.Join(d.dir, name), []byte(strings.ReplaceAll(leaveRunbook, "POLICY", policy)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want int, parts []string, args ...string) {
		t.Helper()
		code, out := d.call(args...)
		if code != want {
			t.Errorf("starter %v: exit code %d, want %d:\n%s", args, code, want, out)
		}
		for _, part := range parts {
			if !strings.Contains(out, part) {
				t.Errorf("starter %v lacks %q:\n%s", args, part, out)
			}
		}
		if strings.Contains(out, `"left":`) {
			t.Errorf("starter %v prints what is for another execution only:\n%s", args, out)
		}
	}
	log := func(want string) {
		t.Helper()
		if got := strings.Join(strings.Fields(text(filepath.Join(d.dir, "log"))), " "); got != want {
			t.Errorf("what was done: %s, want %s", got, want)
		}
	}

	expect(7, []string{"starter rollback first"}, "run", "./leave.yaml", "--id", "first", "-i", "dir="+d.dir)
	log("made begin tidy")
	if _, err := os.Stat(filepath.Join(d.dir, "conf")); err == nil {
		t.Error("the file is still there")
	}
	expect(2, []string{"STEP"}, "rollback", "first", "made")
	expect(0, []string{"first-rollback takes back 1 step of first as li", "watch first-rollback"}, "rollback", "first", "--by", "li")
	expect(7, []string{"not all that first left", "starter rollback first-rollback"}, "watch", "first-rollback")
	log("made begin tidy") // begin has succeeded: it is not run again
	expect(0, []string{"takes back what first left"}, "show", "first-rollback")
	expect(1, []string{"starter rollback first-rollback"}, "rollback", "first")

	if err := os.WriteFile(filepath.Join(d.dir, "fixed"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	expect(0, []string{`"id": "first-rollback-2"`, `"left_count": 1`}, "rollback", "first-rollback", "-o", "json")
	expect(0, []string{"made"}, "watch", "first-rollback-2")
	log("made begin tidy unmade")
	expect(1, []string{"left nothing"}, "rollback", "first-rollback-2")
	expect(0, []string{`"takes_back": "first-rollback"`}, "show", "first-rollback-2", "-o", "json")

	expect(1, []string{"starter rollback stays"}, "run", "./stay.yaml", "--id", "stays", "-i", "dir="+d.dir)
	log("made begin tidy unmade made tidy")
	if got := text(filepath.Join(d.dir, "conf")); got != "new" {
		t.Errorf("the file: %q", got)
	}
	expect(0, []string{"takes back 2 steps of stays"}, "rollback", "stays")
	expect(0, nil, "watch", "stays-rollback")
	log("made begin tidy unmade made tidy begin unmade")
	if _, err := os.Stat(filepath.Join(d.dir, "conf")); err == nil {
		t.Error("the file is still there")
	}
	expect(1, []string{"stays-rollback has done that"}, "rollback", "stays")

	// What a called runbook left is its caller's.
	work(t, c, "family")
	p := compileLedger(t, "runbook: test/family\nsteps:\n  - { id: kid, runbook: test/kid }\n", map[string]string{
		"test/kid": "runbook: test/kid\non_failure: stop\nsteps:\n  - { id: made, action: crash.make, with: { name: a } }\n  - { id: broken, fail: broken }\n",
	})
	if r := ended(t, begin(t, c, "family", p, nil)); r.LeftCount != 1 {
		t.Errorf("%d left", r.LeftCount)
	}
	expect(1, []string{"was called by family", "starter rollback family"}, "rollback", "family/kid")
	expect(0, nil, "rollback", "family")
	expect(0, []string{"kid/made rolled_back"}, "watch", "family-rollback")
}
