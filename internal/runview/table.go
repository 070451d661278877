package runview

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/almanac-run/almanac/workflows"
)

// Finished tells whether a View's status is an outcome.
func Finished(status string) bool {
	switch workflows.Outcome(status) {
	case workflows.Succeeded, workflows.Failed, workflows.RolledBack, workflows.RollbackFailed, workflows.Cancelled, workflows.TimedOut:
		return true
	}
	return false
}

// over tells whether a step's state is a last one.
func over(state string) bool {
	switch state {
	case workflows.StatePending, workflows.StateRunning, workflows.StateWaiting, workflows.StateRollingBack:
		return false
	}
	return true
}

var spinner = []string{"◐", "◓", "◑", "◒"}

// symbol is one column wide.
func symbol(state string, now time.Time) (string, text.Color) {
	switch state {
	case workflows.StateRunning, workflows.StateRollingBack:
		return spinner[int(now.UnixMilli()/250)%len(spinner)], text.FgCyan
	case workflows.StateWaiting:
		return "‖", text.FgYellow
	case workflows.StateSucceeded:
		return "✔", text.FgGreen
	case workflows.StateFailed, workflows.StateNotRolledBack:
		return "✘", text.FgRed
	case workflows.StateHandled:
		return "!", text.FgYellow
	case workflows.StateSkipped:
		return "-", text.Faint
	case workflows.StateCancelled:
		return "⊘", text.FgYellow
	case workflows.StateRolledBack:
		return "↶", text.FgGreen
	}
	return "·", text.Faint
}

func statusColor(status string) text.Color {
	switch status {
	case string(workflows.Succeeded):
		return text.FgGreen
	case "running", "finally":
		return text.FgCyan
	case "waiting", "rolling_back", string(workflows.RolledBack), string(workflows.Cancelled):
		return text.FgYellow
	}
	return text.FgRed
}

// Table renders an execution as a table: a head, a row for each step, and what
// waits for a person with the commands that answer it. It ends with a line break.
func Table(v workflows.View, x Execution, o Options) string {
	var b strings.Builder
	head(&b, v, x, o)
	rows := rowsOf(v)
	waits := waiting(v, x, o, waitFull, len(v.Waiting))
	if o.Height > 0 {
		room := o.Height - height(b.String(), o.width()) - 2 // the heading of the steps, and the line of the cursor
		few := min(len(rows), fewestRows)
		if height(waits, o.width()) > room-few {
			waits = waiting(v, x, o, waitCommands, len(v.Waiting))
		}
		if height(waits, o.width()) > room-few {
			waits = waiting(v, x, o, waitNames, room-few-3)
		}
		rows = fold(rows, room-height(waits, o.width()))
	}
	steps(&b, rows, o)
	b.WriteString(waits)
	return b.String()
}

const (
	fewestRows  = 5  // that the table keeps while people are asked
	smallHeight = 16 // a lower terminal has no room for the link
)

// height counts the lines that s, which ends with a line break, takes on a
// terminal of width columns, if that is known: a link or a command may take several.
func height(s string, width int) int {
	n := 0
	for l := range strings.Lines(s) {
		n++
		if w := text.StringWidthWithoutEscSequences(strings.TrimSuffix(l, "\n")); width > 0 && w > width {
			n += (w - 1) / width
		}
	}
	return n
}

func head(b *strings.Builder, v workflows.View, x Execution, o Options) {
	end := o.Now
	if v.EndedAt != nil {
		end = *v.EndedAt
	}
	elapsed := ""
	if !v.StartedAt.IsZero() {
		elapsed = "  " + Elapsed(end.Sub(v.StartedAt))
	}
	by := ""
	if v.Caller != "" {
		by = "  by " + line(v.Caller)
	}
	runbook, status := o.paint(line(v.Runbook), text.Bold), o.paint(line(v.Status), statusColor(v.Status))+elapsed
	title := runbook + "  " + line(x.ID) + by + "  " + status
	if text.StringWidthWithoutEscSequences(title) > o.width() { // other commands want the id: it is never cut
		title = clip(runbook+"  "+status+by, o.width()) + "\n" + line(x.ID)
	}
	fmt.Fprintln(b, title)
	if v.TakesBack != "" {
		fmt.Fprintln(b, "takes back what "+line(v.TakesBack)+" left")
	}
	if x.URL != "" && (o.Height == 0 || o.Height >= smallHeight) {
		fmt.Fprintln(b, o.paint(x.URL, text.Faint)) // not clipped: a cut link is no link
	}
	fmt.Fprintln(b)
}

// row is a step, a heading, or a note on steps left out.
type row struct {
	step  *workflows.StepView
	label string // indented name
	note  string
}

func rowsOf(v workflows.View) []row {
	var rows []row
	phase := ""
	var above []string // paths of the steps around the next one
	for i := range v.Steps {
		s := &v.Steps[i]
		if s.Phase != phase {
			phase, above = s.Phase, nil
			rows = append(rows, row{note: phase})
		}
		above = above[:min(max(s.Depth, 0), len(above))]
		label := strings.TrimPrefix(s.Path, s.Phase+".")
		if len(above) > 0 { // below its parent a step is shown by the rest of its path
			if rest, ok := strings.CutPrefix(s.Path, above[len(above)-1]); ok {
				label = strings.TrimLeft(rest, ".@")
			}
		}
		above = append(above, s.Path)
		if s.Name != "" && !ofTarget(*s) { // the rows of a step's targets differ by the target
			label = s.Name
		}
		rows = append(rows, row{step: s, label: strings.Repeat("  ", len(above)-1) + line(label)})
	}
	return rows
}

// fold leaves out rows until at most limit are left: first finished ones, from
// the first on, then from the last on coming ones, nested ones that run, other
// nested ones and, if there are still too many, any.
func fold(rows []row, limit int) []row {
	limit = max(limit, 3)
	if len(rows) <= limit {
		return rows
	}
	excess := len(rows) - limit + 2 // the two notes take a line each
	hidden := make([]bool, len(rows))
	hide := func(i int, states ...string) int {
		s := rows[i].step
		if excess == 0 || hidden[i] || s == nil || len(states) > 0 && !slices.Contains(states, s.State) {
			return 0
		}
		hidden[i] = true
		excess--
		return 1
	}
	done, coming, more := 0, 0, 0
	for i := range rows {
		done += hide(i, workflows.StateSucceeded, workflows.StateSkipped, workflows.StateRolledBack)
	}
	for i := range slices.Backward(rows) {
		coming += hide(i, workflows.StatePending)
	}
	for i, r := range slices.Backward(rows) {
		if r.step != nil && r.step.Depth > 0 {
			more += hide(i, workflows.StateRunning)
		}
	}
	for i, r := range slices.Backward(rows) {
		if r.step != nil && r.step.Depth > 0 {
			more += hide(i)
		}
	}
	for i := range slices.Backward(rows) {
		more += hide(i)
	}
	kept := []row{}
	if done > 0 {
		kept = append(kept, row{note: fmt.Sprintf("… %d finished", done)})
	}
	for i, r := range rows {
		if !hidden[i] {
			kept = append(kept, r)
		}
	}
	var notes []string
	if more > 0 {
		notes = append(notes, fmt.Sprintf("%d more", more))
	}
	if coming > 0 {
		notes = append(notes, fmt.Sprintf("%d to come", coming))
	}
	if len(notes) > 0 {
		kept = append(kept, row{note: "… " + strings.Join(notes, ", ")})
	}
	return kept
}

func steps(b *strings.Builder, rows []row, o Options) {
	if len(rows) == 0 {
		return
	}
	narrow := o.width() < 72
	// The step's name takes what it needs up to two fifths, the action up to a
	// quarter, the time eight columns; the detail gets the rest.
	nameWidth, formWidth := len("STEP"), len("ACTION")
	for _, r := range rows {
		if r.step == nil {
			nameWidth = max(nameWidth, text.StringWidthWithoutEscSequences(r.note))
			continue
		}
		nameWidth = max(nameWidth, text.StringWidthWithoutEscSequences(r.label))
		formWidth = max(formWidth, len(r.step.Form))
	}
	nameWidth = min(nameWidth, o.width()*2/5)
	formWidth = min(formWidth, o.width()/4)
	detailWidth := o.width() - nameWidth - 15
	if !narrow {
		detailWidth -= formWidth + 2
	}

	t := table.NewWriter()
	t.SetStyle(table.Style{
		Box:     table.BoxStyle{PaddingRight: "  "},
		Options: table.OptionsNoBordersAndSeparators,
	})
	t.SuppressTrailingSpaces()
	t.SetColumnConfigs([]table.ColumnConfig{{Number: 4, Align: text.AlignRight, AlignHeader: text.AlignRight}})
	add := func(mark, name, form, time, detail string) {
		name, form = clip(name, nameWidth), clip(form, formWidth)
		if narrow {
			t.AppendRow(table.Row{mark, name, "", time, detail})
			return
		}
		t.AppendRow(table.Row{mark, name, form, time, detail})
	}
	if narrow {
		t.SetColumnConfigs([]table.ColumnConfig{{Number: 3, Hidden: true}, {Number: 4, Align: text.AlignRight}})
	}
	faint := func(s string) string { return o.paint(s, text.Faint) }
	add(" ", faint("STEP"), faint("ACTION"), faint("TIME"), faint("DETAIL"))
	for _, r := range rows {
		if r.step == nil {
			add(" ", faint(r.note), "", "", "")
			continue
		}
		s := r.step
		sym, color := symbol(s.State, o.Now)
		name := r.label
		if !over(s.State) && s.State != workflows.StatePending {
			name = o.paint(name, text.Bold)
		} else if s.State == workflows.StateSkipped {
			name = faint(name)
		}
		d := clip(detail(*s, !narrow), max(detailWidth, 8))
		switch s.State {
		case workflows.StateFailed, workflows.StateNotRolledBack:
			d = o.paint(d, text.FgRed)
		case workflows.StateSkipped, workflows.StatePending:
			d = faint(d)
		}
		add(o.paint(sym, color), name, faint(line(s.Form)), took(*s, o.Now), d)
	}
	b.WriteString(t.Render())
	b.WriteByte('\n')
}

// ofTarget tells whether the row is that of one of a step's targets, whose
// path ends with the target.
func ofTarget(s workflows.StepView) bool {
	return s.Target != "" && s.Depth > 0 && strings.HasSuffix(s.Path, "@"+s.Target)
}

func took(s workflows.StepView, now time.Time) string {
	switch {
	case s.StartedAt == nil || s.State == workflows.StateSkipped:
		return ""
	case s.EndedAt != nil:
		return Elapsed(s.EndedAt.Sub(*s.StartedAt))
	case over(s.State) || now.IsZero():
		return ""
	}
	return Elapsed(now.Sub(*s.StartedAt))
}

// detail is what there is to say of a step beside its name, state and time,
// with a bar for what is counted if there is room for one.
func detail(s workflows.StepView, room bool) string {
	var parts []string
	if s.Total > 0 {
		counts := fmt.Sprintf("%d/%d", s.Done, s.Total)
		failed := s.Errors
		if s.Recap != nil {
			failed = s.Recap.Failed
		}
		if failed > 0 {
			counts += fmt.Sprintf(", %d failed", failed)
		}
		if c := s.Recap; c != nil {
			for _, p := range []struct {
				n    int
				what string
			}{{c.Unreached, "unreached"}, {c.Skipped, "skipped"}, {c.Cancelled, "cancelled"}, {c.Away, "away"}} {
				if p.n > 0 {
					counts += fmt.Sprintf(", %d %s", p.n, p.what)
				}
			}
		}
		if room && !over(s.State) {
			counts = bar(s.Done+s.Errors, s.Total) + " " + counts
		}
		parts = append(parts, counts)
	}
	if s.Target != "" && !ofTarget(s) {
		parts = append(parts, "on "+line(s.Target))
	}
	if s.Message != "" {
		parts = append(parts, line(s.Message))
	}
	return strings.Join(parts, "  ")
}

func bar(done, total int) string {
	const width = 10
	full := min(width*done/total, width)
	return strings.Repeat("▓", full) + strings.Repeat("░", width-full)
}

// How much waiting tells: what does not fit above the table's edge would
// scroll away, and the terminal with it.
const (
	waitFull     = iota
	waitCommands // no messages
	waitNames    // and the commands are those of show
)

// waiting lists what a person must answer, with the commands that do; of names
// alone the first most.
func waiting(v workflows.View, x Execution, o Options, detail, most int) string {
	if len(v.Waiting) == 0 {
		return ""
	}
	var b strings.Builder
	for i, w := range v.Waiting {
		what := map[string]string{"approval": "waits for approval", "pause": "paused", "ask": "failed, and asks what to do",
			"halt": "was halted, and asks what to do", workflows.WaitLock: "is not free: its turn will come"}[w.Kind]
		if what == "" {
			what = "waits (" + line(w.Kind) + ")"
		}
		title := clip(o.paint("‖ "+line(w.Step)+" "+what, text.FgYellow, text.Bold), o.width()) + "\n"
		if detail == waitNames {
			if i == max(most, 1) {
				fmt.Fprintf(&b, "  … and %d more\n", len(v.Waiting)-i)
				break
			}
			b.WriteString(title)
			continue
		}
		b.WriteString("\n" + title)
		if detail == waitFull {
			b.WriteString(question(w, v, x, o))
		}
		for _, c := range AnswerCommands(w, x, len(v.Waiting) > 1, o.Program) {
			fmt.Fprintf(&b, "  %s\n", c)
		}
	}
	if detail == waitNames {
		return "\n" + b.String() + fmt.Sprintf("  %s show %s   # how to answer\n", o.Program, Quote(line(x.ID)))
	}
	return b.String()
}

// question is what a person who is asked must know.
func question(w workflows.Wait, v workflows.View, x Execution, o Options) string {
	var b strings.Builder
	if w.Message != "" {
		for _, l := range strings.Split(Clean(strings.TrimSpace(w.Message)), "\n") {
			for _, l := range strings.Split(text.WrapSoft(l, o.width()-4), "\n") {
				fmt.Fprintf(&b, "  %s\n", strings.TrimRight(l, " "))
			}
		}
	}
	for _, s := range v.Steps {
		if w.Kind == "halt" && s.Path == w.Step && s.Recap != nil {
			fmt.Fprintf(&b, "  %s of %d\n", counts(s.Recap), s.Recap.Total)
			b.WriteString(failures(s.Recap, 3, "  ", o))
		}
	}
	for f := w.Failure; f != nil; f = f.Cause { // whoever is asked must see what happened
		if d := detailOf(f.Detail); f.Cause == nil && d.Tail != "" {
			b.WriteString(tail(d.Tail, waitTailLines, o))
			if d.Ref != "" && f.Runbook == v.Runbook {
				fmt.Fprintf(&b, "  %s\n", logsCommand(f, x, o))
			}
		}
	}
	if note := waitNote(w, o.Now); note != "" {
		fmt.Fprintf(&b, "  %s\n", clip(o.paint(note, text.Faint), o.width()-2))
	}
	return b.String()
}

func waitNote(w workflows.Wait, now time.Time) string {
	var parts []string
	if w.Quorum > 0 {
		n := fmt.Sprintf("%d of %d approved", len(w.Approved), w.Quorum)
		if len(w.Approved) > 0 {
			n += " (" + line(strings.Join(w.Approved, ", ")) + ")"
		}
		parts = append(parts, n)
	}
	if len(w.Approvers) > 0 {
		parts = append(parts, "may approve: "+line(strings.Join(w.Approvers, ", ")))
	}
	if w.Deadline != nil {
		left := ""
		if !now.IsZero() {
			left = " (in " + Elapsed(w.Deadline.Sub(now)) + ")"
		}
		parts = append(parts, "until "+w.Deadline.UTC().Format(time.RFC3339)+left)
	}
	return strings.Join(parts, "; ")
}

// AnswerCommands are the command lines that answer w, one for each choice. The
// step is named if several steps wait.
func AnswerCommands(w workflows.Wait, x Execution, several bool, program string) []string {
	var cmds []string
	for _, choice := range w.Choices {
		c := program + " " + line(choice) + " " + Quote(line(x.ID))
		if several {
			c += " " + Quote(line(w.Step))
		}
		if choice == workflows.AnswerReject {
			c += ` --comment "…"`
		}
		cmds = append(cmds, c)
	}
	return cmds
}
