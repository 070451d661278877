package upgrade

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// mutants are interpreters that do something else than what histories hold: what a careless change would do.
var mutants = []struct {
	name, file, from, to string
	long                 bool // with ALMANAC_LONG only: each costs a build
}{
	{"two branches change places", "step.go", "b := &s.Branches[i]", "b := &s.Branches[len(s.Branches)-1-i]", false},
	{"a deadline has no timer", "step.go", "\t\ttimer := workflow.NewTimerWithOptions(tctx, d, workflow.TimerOptions{Summary: summary})\n\t\tworkflow.Go(tctx, func(ctx workflow.Context) { fired = timer.Get(ctx, nil) == nil })", "\t\t_, _ = tctx, d", false},
	{"another activity id", "call.go", another["workflows/call.go"][0], another["workflows/call.go"][1], true},
	{"rollback goes forward", "rollback.go", "i := r.lastUndo(below)", "i := r.lastUndo(below)\n\t\tif i > 0 && below == \"\" {\n\t\t\ti = 0\n\t\t}", true},
	{"no timeout of the runbook or a block", "runbook.go", "if timer.Get(ctx, nil) == nil {", "if false && timer.Get(ctx, nil) == nil {", true},
	{"the outcome is no search attribute", "runbook.go", "\t} else {\n\t\tr.attribute(ctx, AttrStatus, string(end.Outcome))\n\t}", "\t}", true},
	{"a rollback is not told", "runbook.go", "\t\t\tr.attribute(ctx, AttrStatus, \"rolling_back\")\n", "", true},
	{"never continued as new", "runbook.go", "if r.draining || r.tooLarge ||", "if true || r.tooLarge ||", true},
	{"a version is not asked for", "runbook.go", "return workflow.GetVersion(ctx, change, workflow.DefaultVersion, 1) >= 1", "return change != \"\"", true},
	{"another id for a child", "step.go", "rec.Child = identifier(r.id + \"/\" +", "rec.Child = identifier(r.id + \"//\" +", true},
	{"a node's memo after its status", "node.go", "\t\tif err := workflow.UpsertMemo(ctx, map[string]any{registry.Memo: n}); err != nil {\n\t\t\treturn err\n\t\t}\n", "\t\tdefer func() { _ = workflow.UpsertMemo(ctx, map[string]any{registry.Memo: n}) }()\n", true},
	{"no finally", "runbook.go", "if len(r.prog.Finally) == 0 ||", "if len(r.prog.Finally) >= 0 ||", true},
	{"two at a time in place of one", "call.go", "one   = fleet.Limit{N: 1}", "one   = fleet.Limit{N: 2}", true},
	{"a step is tried again at once", "call.go", "if err := r.sleep(ctx, sc, again.backoff(n), \"retry \"+path); err != nil {", "if err := error(nil); err != nil {", true},
	{"a restart is not waited for", "call.go", "if within <= 0 || node == \"\" {", "if within <= 0 || node != \"\" {", true},
	{"a sync waits before it looks", "sync.go", "for !workflow.GetInfo(ctx).GetContinueAsNewSuggested() {", "_ = workflow.Sleep(ctx, syncEvery)\n\tfor !workflow.GetInfo(ctx).GetContinueAsNewSuggested() {", true},
	{"a question is asked twice", "ask.go", "\treturn out, err\n}", "\t_ = workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), q.Activity, token, q.Input).Get(ctx, nil)\n\treturn out, err\n}", true},
}

var failed = regexp.MustCompile(`--- FAIL: TestReplay/histories/(\S+)`)

// TestMutants shows that the recorded histories notice a careless change of the interpreter: it plants one after the
// other, and replays. ALMANAC_LONG=1 plants all.
func TestMutants(t *testing.T) {
	t.Parallel()
	dir := root(t)
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			if m.long && os.Getenv("ALMANAC_LONG") == "" {
				t.Skip("ALMANAC_LONG is not set")
			}
			file := overlaid(t, dir, map[string][2]string{"workflows/" + m.file: {m.from, m.to}})
			cmd := exec.Command("go", "test", "-vet=off", "-overlay", file, "-run", "^TestReplay$", "./workflows")
			cmd.Dir = dir
			out, _ := cmd.CombinedOutput() // that it fails is the point
			var caught []string
			for _, f := range failed.FindAllStringSubmatch(string(out), -1) {
				caught = append(caught, f[1])
			}
			slices.Sort(caught)
			if len(caught) == 0 {
				t.Fatalf("no history notices it:\n%s", last(string(out), 1500))
			}
			t.Logf("noticed by %d histories: %s", len(caught), strings.Join(caught, " "))
		})
	}
}
