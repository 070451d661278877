package rehearse

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// Verdict is how a test went.
type Verdict struct {
	Name   string
	Wrong  []Wrong // nothing: it passed
	Trace  string
	Case   Case
	Took   time.Duration // of the machine's time
	file   *File
	test   *Test
	played *run
}

// Wrong is one expectation that was not met.
type Wrong struct {
	Pos     program.Pos // in the file of tests
	Message string      // one line or more
	trace   bool
}

// Play plays a test. o has its program, its actions and its cloud.
func (f *File) Play(t *Test, o Options) *Verdict {
	began := time.Now()
	o.Scene, o.Trace = t.Scene, true
	r := o.play(fault{})
	v := &Verdict{Name: t.Name, file: f, test: t, played: r}
	v.Case = o.result(r, r)
	v.Trace = strings.Join(r.trace, "\n") + "\n"
	v.check(r)
	v.Took = time.Since(began)
	return v
}

func (v *Verdict) wrong(pos program.Pos, format string, args ...any) {
	v.Wrong = append(v.Wrong, Wrong{Pos: pos, Message: fmt.Sprintf(format, args...)})
}

func (v *Verdict) check(r *run) {
	e := v.test.Expect
	at := func(key string) program.Pos { return cmp.Or(e.pos[key], v.test.Pos) }
	if v.Case.Error != "" {
		says := ""
		if r.err == nil {
			says = "; say in people: what people do"
		}
		v.wrong(v.test.Pos, "%s%s", v.Case.Error, says)
		return
	}
	if e.Outcome != "" && e.Outcome != r.Result.Outcome {
		v.wrong(at("outcome"), "the outcome is %s, want %s%s", r.Result.Outcome, e.Outcome, because(r.Result.Message))
	}
	if e.Failed != "" && e.Failed != v.failed() {
		if v.failed() == "" {
			v.wrong(at("failed"), "no step failed, want %s", e.Failed)
		} else {
			v.wrong(at("failed"), "step %s failed, want %s%s", v.failed(), e.Failed, because(r.Result.Message))
		}
	}
	if e.Message != "" && !strings.Contains(r.Result.Message, e.Message) {
		v.wrong(at("message"), "the message is %q, want %q in it", r.Result.Message, e.Message)
	}
	for _, name := range sorted(e.Outputs) {
		got, ok := r.Result.Outputs[name]
		switch {
		case !ok:
			v.wrong(at("outputs"), "there is no output %s; there is %s", name, cmp.Or(strings.Join(sorted(r.Result.Outputs), ", "), "none"))
		case !sameJSON(got, e.Outputs[name]):
			v.wrong(at("outputs"), "output %s is %s, want %s", name, got, e.Outputs[name])
		}
	}
	if e.RolledBack != nil && !slices.Equal(*e.RolledBack, r.Result.RolledBack) {
		v.wrong(at("rolled_back"), "rolled back is, in this order (- wanted, + got):\n%s", diff(*e.RolledBack, r.Result.RolledBack))
	}
	if e.Left != nil {
		steps := map[string]bool{} // one step may leave several things: an image and its snapshots
		for _, l := range append(slices.Clone(v.Case.Left), v.Case.Kept...) {
			steps[l.Step] = true
		}
		if r.Result.Outcome == workflows.Succeeded {
			for _, t := range r.live {
				steps[t.work] = true
			}
		}
		want := slices.Compact(slices.Sorted(slices.Values(*e.Left)))
		if got := slices.Sorted(maps.Keys(steps)); !slices.Equal(want, got) {
			v.wrong(at("left_behind"), "what is left is of (- wanted, + got):\n%s", diff(want, got))
		}
	}
	if e.Trace != nil && *e.Trace != v.Trace {
		v.wrong(at("trace"), "the trace is (- wanted, + got):\n%s", diff(strings.Split(strings.TrimSuffix(*e.Trace, "\n"), "\n"), strings.Split(strings.TrimSuffix(v.Trace, "\n"), "\n")))
		v.Wrong[len(v.Wrong)-1].trace = true
	}
	// What was said and never asked for hides a step that is called otherwise.
	for i, a := range v.test.Scene.Answers {
		if !r.used[i] {
			hint := ""
			if near := program.Nearest(a.Path, r.paths()); near != "" && near != a.Path { // it may be one that was never reached
				hint = "; did you mean " + near + "?"
			}
			v.wrong(a.Pos, "nothing at step %s asked for this answer%s", a.Path, hint)
		}
	}
	for i, p := range v.test.Scene.People {
		if !r.said[i] {
			v.wrong(p.Pos, "nobody came to %s%s", p.Does, strings.TrimSuffix(" "+p.Step, " "))
		}
	}
	for _, refused := range r.Refused {
		v.wrong(v.test.Pos, "refused: %s", refused)
	}
}

// Accept takes the trace that came for the one that is expected.
func (v *Verdict) Accept() {
	v.Wrong = slices.DeleteFunc(v.Wrong, func(w Wrong) bool { return w.trace })
}

// failed is the path of the step that failed, in child runbooks the innermost.
func (v *Verdict) failed() string {
	f := v.played.Result.Failure
	path := ""
	for ; f != nil; f = f.Cause {
		switch {
		case path == "" || f.Runbook == "":
			path = f.Step
		case f.Step != "" && !strings.HasPrefix(f.Step, path):
			path += "/" + f.Step
		}
	}
	return path
}

func (r *run) paths() []string {
	var all []string
	for _, w := range r.works {
		all = append(all, keys(w.base)...)
	}
	each(r.Program, func(s *program.Step) { all = append(all, s.ID) })
	return all
}

func because(message string) string {
	if message == "" {
		return ""
	}
	return ": " + message
}

func sameJSON(a, b json.RawMessage) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// diff shows two lists as one, with what is only in one of them marked.
func diff(want, got []string) string {
	// The longest common part, in the plain way: the lists are short.
	most := make([][]int, len(want)+1)
	for i := range most {
		most[i] = make([]int, len(got)+1)
	}
	for i := len(want) - 1; i >= 0; i-- {
		for j := len(got) - 1; j >= 0; j-- {
			if want[i] == got[j] {
				most[i][j] = most[i+1][j+1] + 1
			} else {
				most[i][j] = max(most[i+1][j], most[i][j+1])
			}
		}
	}
	var b strings.Builder
	line := func(sign, text string) { b.WriteString(strings.TrimRight(sign+" "+text, " ") + "\n") }
	i, j := 0, 0
	for i < len(want) || j < len(got) {
		switch {
		case i < len(want) && j < len(got) && want[i] == got[j]:
			line(" ", want[i])
			i, j = i+1, j+1
		case j >= len(got) || i < len(want) && most[i+1][j] >= most[i][j+1]:
			line("-", want[i])
			i++
		default:
			line("+", got[j])
			j++
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// Rewritten returns the file's text with the traces that were expected replaced
// by those that came, and whether that makes a difference.
func (f *File) Rewritten(verdicts []*Verdict) ([]byte, bool) {
	lines := strings.Split(string(f.source), "\n")
	changed := false
	for _, v := range slices.Backward(verdicts) { // so that the places of those before stay right
		e := v.test.Expect
		if e.Trace == nil || *e.Trace == v.Trace || v.Case.Error != "" {
			continue
		}
		changed = true
		at := e.traceKey.Line - 1
		indent := strings.Repeat(" ", e.traceKey.Col-1)
		end := at + 1
		for end < len(lines) && (strings.HasPrefix(lines[end], indent+" ") || strings.TrimSpace(lines[end]) == "" && end+1 < len(lines)) {
			end++
		}
		for end > at+1 && strings.TrimSpace(lines[end-1]) == "" {
			end--
		}
		block := []string{lines[at][:e.traceKey.Col-1] + "trace: |"}
		for _, l := range strings.Split(strings.TrimSuffix(v.Trace, "\n"), "\n") {
			block = append(block, indent+"  "+l)
		}
		lines = slices.Concat(lines[:at], block, lines[end:])
	}
	return []byte(strings.Join(lines, "\n")), changed
}

// Coverage is what of a runbook was taken over all tests.
type Coverage struct {
	Runbook string   `json:"runbook"`
	Steps   Share    `json:"steps"`
	Ifs     Share    `json:"ifs"` // sides of `if:`
	Errors  Share    `json:"on_error"`
	Undone  Share    `json:"rollback"`
	Missing []string `json:"missing,omitempty"` // "6:3: step a was never taken"
}

// Share is so many of so many.
type Share struct {
	Of    int `json:"of"`
	Taken int `json:"taken"`
}

func (s *Share) count(yes bool) bool {
	s.Of++
	if yes {
		s.Taken++
	}
	return yes
}

// Cover tells what of a program the tests took.
func Cover(prog *program.Program, verdicts []*Verdict) Coverage {
	c := Coverage{Runbook: prog.Runbook}
	miss := func(s *program.Step, format string, args ...any) {
		c.Missing = append(c.Missing, fmt.Sprintf("%s: step %s ", s.Pos, s.ID)+fmt.Sprintf(format, args...))
	}
	undoable := map[string]bool{}
	if prog.OnFailure != program.OnFailureStop {
		undoables(prog.Steps, undoable)
	}
	each(prog, func(s *program.Step) {
		var all seen
		for _, v := range verdicts {
			if one := v.played.coverage[stepKey{prog.Runbook, s.ID}]; one != nil {
				all.taken, all.skipped = all.taken || one.taken, all.skipped || one.skipped
				all.handled, all.undone = all.handled || one.handled, all.undone || one.undone
			}
		}
		if !c.Steps.count(all.taken) {
			miss(s, "was never taken")
		}
		if s.If != nil {
			c.Ifs.count(all.taken)
			if !c.Ifs.count(all.skipped) {
				miss(s, "was never skipped by its if:")
			}
		}
		if s.OnError != nil && !c.Errors.count(all.handled) {
			miss(s, "never needed its on_error:")
		}
		if undoable[s.ID] && !c.Undone.count(all.undone) {
			miss(s, "was never rolled back")
		}
	})
	return c
}

// undoables finds the steps that rollback may take back: what stands below a
// step with a rollback: of its own is that step's affair.
func undoables(steps []program.Step, found map[string]bool) {
	for i := range steps {
		s := &steps[i]
		if s.Rollback != nil {
			found[s.ID] = !s.Rollback.None
			continue
		}
		if s.Call != nil && s.Call.Compensates {
			found[s.ID] = true
		}
		undoables(s.Steps, found)
		for b := range s.Branches {
			undoables(s.Branches[b].Steps, found)
		}
	}
}
