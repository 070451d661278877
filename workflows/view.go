package workflows

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/lang/program"
)

const (
	mostRows       = 2000 // steps of a View
	mostTargetRows = 50   // of one step, targets that failed, and as many that run; its Recap counts them all
)

// view shows the execution as it stands.
func (r *run) view() View {
	st := r.state
	v := View{Runbook: r.prog.Runbook, Status: r.status(), StartedAt: st.StartedAt, Caller: r.start.Caller, Result: st.End}
	if back := r.start.TakeBack; back != nil {
		v.TakesBack = back.Of
	}
	if end := st.End; end != nil {
		first := *end // all is in what the execution returns
		first.NotRolledBack = end.NotRolledBack[:min(len(end.NotRolledBack), mostTargetRows)]
		first.Undo, first.Left = nil, nil
		v.Result = &first
	}
	add := func(phase string) func(*program.Step, *record, string, int) bool {
		return func(s *program.Step, rec *record, path string, depth int) bool {
			v.Steps = append(v.Steps, stepView(s, rec, path, depth, phase))
			if rec == nil || s.Targets == nil {
				return len(v.Steps) < mostRows
			}
			failed, others := 0, 0
			for _, node := range rec.Nodes {
				sub := rec.Sub["@"+node]
				if sub == nil {
					continue
				}
				if sub.State == StateFailed {
					failed++
				} else {
					others++
				}
				if sub.State == StateFailed && failed <= mostTargetRows || sub.State != StateFailed && others <= mostTargetRows {
					row := recordView(sub, path+"@"+node, depth+1, phase)
					row.Form, row.Target, row.Pos = s.Call.Action, node, s.Pos
					v.Steps = append(v.Steps, row)
				}
			}
			return len(v.Steps) < mostRows
		}
	}
	steps, finally := r.shown()
	walk(steps, st.Steps, "", 0, add(""))
	for _, u := range st.Taken {
		v.Steps = append(v.Steps, undoView(u))
	}
	walk(finally, st.Finally, "finally.", 0, add(string(phaseFinally)))
	if h := r.queued(); h != nil {
		v.Waiting = append(v.Waiting, Wait{Step: h.Key, Kind: WaitLock, Message: h.behind(), Choices: []string{}, Pos: r.prog.LockPos})
	}
	for _, path := range r.order {
		v.Waiting = append(v.Waiting, r.waits[path].Wait)
	}
	return v
}

// shown are the steps that the execution runs; one that takes back what another has left runs none.
func (r *run) shown() (steps, finally []program.Step) {
	if r.start.TakeBack != nil {
		return nil, nil
	}
	return r.prog.Steps, r.prog.Finally
}

func undoView(u *undo) StepView {
	form := u.Action
	if u.Custom != nil {
		form = "rollback"
	}
	return StepView{Path: u.Path, Name: u.Name, Form: form, Phase: string(phaseRollback), State: u.State,
		StartedAt: u.Start, EndedAt: u.End, Target: u.Target, Message: u.Message, Pos: u.Pos}
}

func (r *run) status() string {
	st := r.state
	switch {
	case r.finished:
		return string(st.End.Outcome)
	case st.Phase == phaseRollback:
		return "rolling_back"
	case st.Phase == phaseFinally:
		return "finally"
	case len(r.order) > 0 || r.queued() != nil:
		return "waiting"
	}
	return "running"
}

func stepView(s *program.Step, rec *record, path string, depth int, phase string) StepView {
	row := StepView{State: StatePending}
	if rec != nil {
		row = recordView(rec, path, depth, phase)
	}
	row.Path, row.Depth, row.Phase, row.Pos = path, depth, phase, s.Pos
	row.Form = string(s.Kind)
	switch {
	case s.Call != nil:
		row.Form = s.Call.Action
	case s.Child != nil:
		row.Form = s.Child.Runbook
	}
	if row.Name == "" && s.Name != nil && s.Name.Lit != nil {
		if name, err := strconv.Unquote(string(s.Name.Lit)); err == nil {
			row.Name = name
		}
	}
	return row
}

func recordView(rec *record, path string, depth int, phase string) StepView {
	state := rec.State
	if state == "" {
		state = StatePending
	}
	return StepView{Path: path, Depth: depth, Phase: phase, Name: rec.Name, State: state, StartedAt: rec.Start, EndedAt: rec.End,
		Target: rec.Target, Done: rec.Done, Errors: rec.Errors, Total: rec.Total, Message: rec.Message, Outputs: rec.Logs, Child: rec.Child,
		Recap: rec.recap()}
}

func sortByIndex(keys []string) {
	index := func(key string) int {
		n, _ := strconv.Atoi(key[1:max(1, strings.IndexByte(key, ']'))]) // "[12]", "[12]#2"
		return n
	}
	slices.SortFunc(keys, func(a, b string) int { return cmp.Or(cmp.Compare(index(a), index(b)), cmp.Compare(a, b)) })
}

// mostPainted bounds the rows of the table in the current details. A runbook
// of more steps shows those around the one that runs: it is painted at every
// step, in replay too, which the rows of a whole page would slow down.
const (
	mostPainted   = 40
	paintedBefore = 5
	paintedAfter  = 10
)

// paint keeps the workflow's current details, which the Web UI shows, as the
// execution stands. It is called before everything that takes time, and costs
// no history.
func (r *run) paint(ctx workflow.Context) {
	if r.dirty {
		r.dirty = false
		workflow.SetCurrentDetails(ctx, r.markdown())
	}
}

var marks = map[string]string{
	StatePending: "·", StateRunning: "▶", StateWaiting: "⏸", StateSucceeded: "✔", StateFailed: "✘", StateHandled: "✔",
	StateSkipped: "–", StateCancelled: "✘", StateRollingBack: "↩", StateRolledBack: "↩", StateNotRolledBack: "✘",
}

func (r *run) markdown() string {
	var b strings.Builder
	b.Grow(r.detailBytes + 256)
	defer func() { r.detailBytes = b.Len() }()
	b.WriteString("**" + cell(r.prog.Runbook) + "** " + r.status() + "\n\n")
	if s := r.prog.Summary; s != "" { // the server drops the static summary when it continues as new
		fmt.Fprintf(&b, "%s\n\n", cell(s))
	}
	if back := r.start.TakeBack; back != nil {
		fmt.Fprintf(&b, "> takes back what **%s** has left\n\n", cell(back.Of))
	}
	if h := r.queued(); h != nil {
		fmt.Fprintf(&b, "> waits since %s for **%s**, %s\n\n", h.Since.UTC().Format(time.TimeOnly), cell(h.Key), cell(h.behind()))
	}
	for _, path := range r.order {
		w := r.waits[path]
		fmt.Fprintf(&b, "> **%s** waits for %s%s: %s\n\n", cell(path), strings.Join(w.Choices, " or "), inTime(w.Deadline), cell(abridged(w.Message, 500)))
	}
	if end := r.state.End; end != nil && end.Failure != nil {
		fmt.Fprintf(&b, "> %s\n\n", cell(firstLine(end.Failure.Error())))
	}
	b.WriteString("| | step | state | time | targets |\n|---|---|---|---|---|\n")
	rows := 0
	table := func(phase phase) func(*program.Step, *record, string, int) bool {
		return func(s *program.Step, rec *record, path string, depth int) bool {
			rows++
			b.WriteString(r.row(s, rec, path, depth, phase))
			return rows < mostPainted
		}
	}
	steps, finally := r.shown()
	first, last := 0, len(steps)
	if last > mostPainted {
		first = max(0, min(r.at, last-paintedAfter)-paintedBefore)
		last = min(last, first+paintedBefore+paintedAfter)
	}
	if first > 0 {
		b.WriteString("| | … " + strconv.Itoa(first) + " before | | | |\n")
	}
	if !walk(steps[first:last], r.state.Steps, "", 0, table(phaseSteps)) || last < len(steps) {
		b.WriteString("| | … | | | |\n")
	}
	taken := r.state.Taken
	if skip := len(taken) - mostPainted; skip > 0 {
		taken = taken[skip:]
	}
	for _, u := range taken {
		v := undoView(u)
		b.WriteString(rowOf(&v))
	}
	rows = 0
	walk(finally, r.state.Finally, "finally.", 0, table(phaseFinally))
	return b.String()
}

// painted is a row as it was painted, with what it was painted from.
type painted struct {
	state, message     string
	done, errors, most int
	text               string
}

// row is one line of the table. Painting happens at every change, replay
// included, so that what has not changed is not made again.
func (r *run) row(s *program.Step, rec *record, path string, depth int, phase phase) string {
	var p painted
	if rec != nil {
		p = painted{state: rec.State, message: rec.Message, done: rec.Done, errors: rec.Errors, most: rec.Total}
	}
	old, ok := r.painted[path]
	p.text = old.text
	if ok && p == old {
		return old.text
	}
	v := stepView(s, rec, path, depth, string(phase))
	p.text = rowOf(&v)
	if r.painted == nil || len(r.painted) > 10*mostPainted {
		r.painted = map[string]painted{}
	}
	r.painted[path] = p
	return p.text
}

func rowOf(s *StepView) string {
	name := s.Path
	if s.Name != "" {
		name = s.Name + " (" + s.Path + ")"
	}
	if s.Phase == string(phaseRollback) {
		name = "roll back " + name
	}
	state := strings.ReplaceAll(s.State, "_", " ")
	if s.Message != "" {
		state += ": " + abridged(s.Message, 120)
	}
	took := ""
	switch {
	case s.StartedAt == nil || s.State == StateSkipped:
	case s.EndedAt != nil:
		took = s.EndedAt.Sub(*s.StartedAt).Round(100 * time.Millisecond).String()
	default:
		took = "since " + s.StartedAt.UTC().Format("15:04:05")
	}
	targets := s.Target
	if s.Total > 0 {
		targets = fmt.Sprintf("%d of %d", s.Done, s.Total)
		if s.Errors > 0 {
			targets += fmt.Sprintf(", %d failed", s.Errors)
		}
	}
	return "| " + marks[s.State] + " | " + strings.Repeat("  ", s.Depth) + cell(name) + " | " + cell(state) + " | " + took + " | " + cell(targets) + " |\n"
}

var cells = strings.NewReplacer("\\", "\\\\", "|", "\\|", "\n", " ", "\r", " ", "<", "&lt;", "`", "'", "[", "\\[", "!", "\\!")

// cell makes text from users and nodes harmless inside a Markdown table.
func cell(s string) string { return cells.Replace(s) }
