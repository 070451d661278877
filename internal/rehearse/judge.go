package rehearse

import (
	"fmt"
	"slices"
	"strings"

	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// judge says what a run left behind, and what of that the runbook means to
// leave. straight is the run in which nothing goes wrong.
func judge(r, straight *run) (left, kept []Left) {
	if r.wasDone() {
		return r.surplus(straight)
	}
	for _, t := range r.live {
		if t.own && r.customUndid(t) {
			continue
		}
		l := Left{Thing: t, Step: t.work, What: t.String()}
		why, meant := r.why(t)
		l.Why, l.Fix = why.why, why.fix
		if meant {
			kept = append(kept, l)
		} else {
			left = append(left, l)
		}
	}
	for _, t := range r.gone {
		l := Left{Thing: t, Step: t.work, What: "the removal of " + t.String(), Why: "it was there before, and nothing brings it back",
			Fix: fmt.Sprintf("let step %s be the last that can fail, and say rollback: none there if that is meant", t.Step)}
		if r.meansToStay(t.Step) != "" {
			l.Why, l.Fix = r.meansToStay(t.Step), ""
			kept = append(kept, l)
		} else {
			left = append(left, l)
		}
	}
	return left, kept
}

// meansToStay says where the runbook says that what a step does is not taken
// back; "" if it does not.
func (r *run) meansToStay(path string) string {
	if r.Program.OnFailure == program.OnFailureStop {
		return "on_failure: stop"
	}
	for _, p := range around(path) {
		if s := r.steps[p]; s != nil && s.Rollback != nil && s.Rollback.None {
			return "rollback: none of step " + p
		}
		if p := r.Program.Children[r.books[p]]; p != nil && p.OnFailure == program.OnFailureStop {
			return "on_failure: stop of runbook " + p.Runbook
		}
	}
	if strings.HasPrefix(path, "finally.") || strings.Contains(path, "/finally.") {
		return "it was made in finally:, which nothing takes back"
	}
	return ""
}

// wasDone tells whether the steps succeeded: what they made is to stay. Steps of
// finally: may have failed after them, which takes nothing back.
func (r *run) wasDone() bool {
	f := r.Result.Failure
	return r.Result.Outcome == workflows.Succeeded || r.Result.Outcome == workflows.Failed && f != nil && strings.HasPrefix(f.Step, "finally.")
}

// surplus is what a run that succeeded left beyond what the straight run leaves:
// the same work done twice.
func (r *run) surplus(straight *run) (left, kept []Left) {
	key := func(t Thing) string { return t.Kind + " " + t.work }
	allowed := map[string]int{}
	for _, t := range straight.live {
		allowed[key(t)]++
	}
	// Those that are the straight run's too come first; of a work done twice the
	// execution knows the second.
	same := func(t Thing) bool {
		return slices.ContainsFunc(straight.live, func(o Thing) bool { return o.Kind == t.Kind && o.ID == t.ID })
	}
	live := slices.Clone(r.live)
	slices.SortStableFunc(live, func(a, b Thing) int {
		switch {
		case same(a) == same(b):
			return 0
		case same(a) != (r.fault.kind == Late):
			return -1
		}
		return 1
	})
	for _, t := range live {
		k := key(t)
		if allowed[k]--; allowed[k] >= 0 {
			continue
		}
		l := Left{Thing: t, Step: t.work, What: t.String(), Twice: true}
		if !straight.makes(t) {
			l.Twice, l.Why = false, "it succeeded in another way than the straight run, and made this"
			kept = append(kept, l)
			continue
		}
		if by := straight.removed[t.key()]; by != "" {
			l.Twice, l.Why = false, "step "+stepOf(by)+" removes it when all goes well"
			if by == r.fault.work {
				l.Why = "step " + stepOf(by) + " removes it, and that is what failed"
				kept = append(kept, l)
			} else {
				left = append(left, l)
			}
			continue
		}
		switch {
		case r.fault.kind == Late:
			l.Why = "the first attempt had made it when its time was over, and the retry: made another"
			l.Fix = fmt.Sprintf("give step %s a longer timeout:, or leave timeout out of retry: { on: [...] }", stepOf(l.Step))
		default:
			l.Why = "it was made again, though the token was the same"
			l.Fix = "this is a mistake of the action: it has to find by its token what an attempt before made"
		}
		left = append(left, l)
	}
	return left, kept
}

// makes tells whether the same work made a thing of the same kind in this run,
// whether it still is there or not.
func (r *run) makes(t Thing) bool {
	if slices.ContainsFunc(r.live, func(o Thing) bool { return o.Kind == t.Kind && o.work == t.work }) {
		return true
	}
	for key, work := range r.made {
		if kind, _, _ := strings.Cut(key, " "); kind == t.Kind && work == t.work {
			return true
		}
	}
	return false
}

// customUndid tells whether the rollback: of the step that made a thing, or of a
// step around it, ran and ended well.
func (r *run) customUndid(t Thing) bool {
	for _, path := range around(t.Step) {
		step := r.steps[path]
		if step == nil || step.Rollback == nil || step.Rollback.None {
			continue
		}
		if err, ran := r.undone[path]; ran && err == nil {
			return true
		}
	}
	return false
}

// around lists the paths of a step and of the steps around it, innermost first.
func around(path string) []string {
	var all []string
	for path != "" {
		all = append(all, path)
		path = path[:max(strings.LastIndexAny(path, "./["), 0)]
	}
	return all
}

type reason struct{ why, fix string }

// why says why a thing is still there, and whether that is meant.
func (r *run) why(t Thing) (reason, bool) {
	step := r.steps[t.Step]
	id := stepOf(t.work)
	for _, key := range append([]string{t.work}, around(t.Step)...) {
		err, tried := r.undone[key]
		switch {
		case !tried:
			continue
		case err != nil:
			return reason{"it could not be taken back: " + sayError(err), "see to it that the compensation works, or can be done by hand"}, false
		case step != nil && step.Rollback != nil:
			return reason{"the rollback: of the step ran and did not remove it", "let rollback: of step " + id + " remove it"}, false
		}
		return reason{"its compensation ran and did not remove it", "this is a mistake of the action's compensation"}, false
	}
	if why := r.meansToStay(t.Step); why != "" {
		return reason{why, ""}, true
	}
	for _, f := range r.Result.NotRolledBack {
		if strings.HasSuffix(t.Step, f.Step) {
			return reason{"it could not be taken back: " + firstLine(f.Message), ""}, false
		}
	}
	form := ""
	if w := r.at[t.work]; w != nil {
		form = w.form
	}
	if w := r.at[t.work]; w != nil && !w.compensates {
		return reason{
			form + " has no compensation, and the step says no rollback:",
			"say in step " + id + " how it is taken back (rollback: …), or that it stays (rollback: none)",
		}, false
	}
	return reason{"nothing took it back", "rollback did not come to step " + id}, false
}
