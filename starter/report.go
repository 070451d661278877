package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enums "go.temporal.io/api/enums/v1"
	history "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/converter"

	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/internal/report"
	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/workflows"
)

func (a *app) reportCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "report EXECUTION --html FILE",
		Short: "Write what an execution did as a page to read and hand on",
		Long: `Write one HTML page about an execution, running or ended: its timeline, step by
step and target by target, what failed and how alike, what was rolled back and
what is left. The page needs no network and no script. It holds no outputs and no
inputs, but the last lines of what failed: look at them before you hand it on.`,
		Example:           a.examples("starter report demo-tour-20261123-101500-x2ab --html tour.html"),
		Args:              one("EXECUTION"),
		ValidArgsFunction: a.executionArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usagef("report writes a page: --html FILE says where (- is standard output)")
			}
			return a.with(cmd.Context(), func(ctx context.Context, s *server) error {
				x, err := a.executionReport(ctx, s, args[0])
				if err != nil {
					return err
				}
				return a.writePage(file, x)
			})
		},
	}
	cmd.Flags().StringVar(&file, "html", "", "file to write; - is standard output")
	return cmd
}

// writePage writes a page to a file, once all of it is made.
func (a *app) writePage(file string, p interface{ Write(io.Writer) error }) error {
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		return err
	}
	if file == "-" {
		_, err := a.stdout.Write(b.Bytes())
		return err
	}
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		return err
	}
	if a.json() {
		return printJSON(a.stdout, map[string]string{"html": file})
	}
	fmt.Fprintf(a.stdout, "%s (%d KiB)\n", file, (b.Len()+1023)>>10)
	return nil
}

// historyIn is how long the page of a fleet waits for its daily figures, and
// historyBack how far they go back.
const (
	historyIn   = 20 * time.Second
	historyBack = 90 * 24 * time.Hour
)

// fleetReport gathers the page of a fleet. Without an inventory store it has no
// figures over time, and says why.
func (a *app) fleetReport(ctx context.Context, s *server, nodes []registry.Listed, f nodesFilter) report.Fleet {
	now := time.Now()
	r := report.Fleet{Title: "Namespace " + s.namespace, At: now, Command: a.again() + " nodes"}
	if f.where != "" {
		r.Title += ", where " + f.where
		r.Command += " --where " + runview.Quote(f.where)
		r.NoDays = "they are known of the whole fleet only, and this page is of a part"
	} else {
		asked, cancel := context.WithTimeout(ctx, historyIn)
		days, err := s.history(asked, historyBack, "")
		cancel()
		if err != nil {
			r.NoDays = err.Error()
		}
		known := false // the days before the first scan say nothing
		for _, d := range days {
			if known = known || d.Compliant+d.NonCompliant+d.Unknown > 0; known {
				r.Days = append(r.Days, report.Day{Day: d.Day, Compliant: d.Compliant, NonCompliant: d.NonCompliant, Unknown: d.Unknown})
			}
		}
	}
	r.Command += " --html " + runview.Quote(f.html)
	for i := range nodes {
		n := &nodes[i]
		row := nodeRow(n, now)
		node := report.Node{ID: row[0], Name: row[1], OS: row[2], Reach: row[3], Seen: row[4], Clock: row[5], Agent: row[8], Status: n.Status, Away: n.Absent()}
		for _, name := range slices.Sorted(maps.Keys(n.Tags)) {
			node.Tags = append(node.Tags, name+"="+n.Tags[name])
		}
		for _, c := range n.Compliance {
			node.Standings = append(node.Standings, report.Standing{Baseline: c.Baseline, Status: c.Status, Missing: missingText(c.Missing), Failed: c.Failed,
				Restart: c.RebootPending, Why: c.Message, Since: c.Since, At: c.At})
		}
		r.Nodes = append(r.Nodes, node)
	}
	return r
}

// executionReport gathers the page of an execution: its view, and from its
// history when what ran where.
func (a *app) executionReport(ctx context.Context, s *server, id string) (report.Execution, error) {
	x := report.Execution{ID: id, At: time.Now(), URL: s.execution(id).URL}
	d, err := s.describe(ctx, id)
	if err != nil {
		return x, a.explain(s, id, err)
	}
	info := d.GetWorkflowExecutionInfo()
	var v workflows.View
	if info.GetStatus() == enums.WORKFLOW_EXECUTION_STATUS_RUNNING {
		if v, err = s.view(ctx, id); err != nil {
			v = workflows.View{Runbook: info.GetType().GetName(), Status: "running", StartedAt: info.GetStartTime().AsTime()}
			x.Partial = "No worker answered: the steps are not known."
		}
	} else {
		short, cancel := context.WithTimeout(ctx, 2*queryTimeout)
		defer cancel()
		r, err := s.result(short, id)
		if err != nil {
			return x, a.explain(s, id, err)
		}
		v = s.lastView(ctx, id, r)
		if len(v.Steps) == 0 {
			x.Partial = "No worker answered: the steps are not known."
		}
	}
	x.Runbook, x.Status, x.Caller, x.Started = v.Runbook, v.Status, v.Caller, v.StartedAt
	if v.EndedAt != nil {
		x.Ended = *v.EndedAt
	}
	if prog, err := s.program(ctx, id); err == nil {
		x.Summary, x.Digest = prog.Summary, prog.Digest
	}
	work := timeline{convert: s.convert()}
	if err := s.readTimeline(ctx, id, info.GetExecution().GetRunId(), &work); err != nil {
		x.Partial = strings.TrimSpace(x.Partial + " Of some targets it is not known when they ran: " + err.Error())
	}
	if work.more > 0 {
		x.Partial = strings.TrimSpace(fmt.Sprintf("%s %d pieces of work are not shown: the page has room for %d.", x.Partial, work.more, mostReported))
	}
	x.Steps = stepsOf(s, v, work.all, x.Ended)
	a.tellEnd(&x, v, id)
	return x, nil
}

// tellEnd adds how it ended: failures, rollback, what is left.
func (a *app) tellEnd(x *report.Execution, v workflows.View, id string) {
	for _, s := range runview.Recaps(v) {
		for _, g := range s.Recap.Failures {
			why := g.Kind
			if g.ExitCode > 0 && g.Kind == "failed" {
				why = fmt.Sprintf("exit code %d", g.ExitCode)
			}
			x.Groups = append(x.Groups, report.Group{Step: s.Path, Why: why, Line: g.Line, Count: g.Count, Targets: g.Nodes})
		}
		if s.Recap.Others > 0 {
			x.Groups = append(x.Groups, report.Group{Step: s.Path, Why: "in other ways", Count: s.Recap.Others})
		}
	}
	r := v.Result
	if r == nil {
		return
	}
	for f := r.Failure; f != nil && len(x.Failures) < 16; f = f.Cause {
		if f.Step != "" {
			x.Failures = append(x.Failures, failureOf(f))
		}
	}
	if r.Failure == nil || !strings.Contains(r.Message, firstLine(r.Failure.Message)) {
		x.Message = r.Message
	}
	x.RolledBack = counted(r.RolledBack)
	for _, f := range r.NotRolledBack {
		x.NotRolledBack = append(x.NotRolledBack, failureOf(f))
	}
	q := runview.Quote(id)
	if r.Outcome == workflows.Succeeded {
		if len(x.Groups) > 0 { // as many may fail as the step allows
			x.Commands = append(x.Commands, a.again()+" run --only-failed "+q)
		}
		return
	}
	switch r.Outcome {
	case workflows.Failed, workflows.TimedOut:
		if len(r.RolledBack)+len(r.NotRolledBack) == 0 {
			x.Left = "Nothing was rolled back: what the steps have done is still there."
		}
	case workflows.RolledBack, workflows.Cancelled:
		x.Left = "Of what rollback takes back, nothing is left."
		if r.Outcome == workflows.Cancelled && len(r.RolledBack) == 0 {
			x.Left = "There was nothing to roll back."
		}
		if len(r.NotRolledBack) > 0 {
			x.Left = ""
		}
	}
	x.Commands = append(x.Commands, a.again()+" show "+q, a.again()+" logs "+q)
	if len(x.Groups) > 0 {
		x.Commands = append(x.Commands, a.again()+" run --only-failed "+q)
	}
	if r.LeftCount > 0 {
		x.Commands = append(x.Commands, a.again()+" rollback "+q)
	}
	if x.Left == "" || r.Outcome == workflows.Failed || r.Outcome == workflows.TimedOut {
		x.Commands = append(x.Commands, a.again()+" sweep")
	}
}

// counted names each step once, with how often it is in the list.
func counted(paths []string) []string {
	times := map[string]int{}
	var names []string
	for _, p := range paths {
		if times[p]++; times[p] == 1 {
			names = append(names, p)
		}
	}
	for i, p := range names {
		if times[p] > 1 {
			names[i] = fmt.Sprintf("%s on %d targets", p, times[p])
		}
	}
	return names
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// mostTail bounds the output of one failure on a page.
const mostTail = 4 << 10

func failureOf(f *workflows.Failure) report.Failure {
	var d struct {
		Tail string `json:"tail"`
	}
	_ = json.Unmarshal(f.Detail, &d) // of another action than a command: there is none
	if len(d.Tail) > mostTail {
		d.Tail = "…" + d.Tail[len(d.Tail)-mostTail:]
	}
	r := report.Failure{Step: f.Step, Target: f.Target, Action: f.Action, Kind: f.Kind, Message: f.Message, Tail: strings.ToValidUTF8(d.Tail, "\uFFFD")}
	if f.File != "" {
		r.Place = fmt.Sprintf("%s:%s", f.File, f.Pos)
	}
	return r
}

// mostReported bounds the pieces of work on a page, mostEvents the events that
// are read for it.
const (
	mostReported = 20000
	mostEvents   = 2000000
	timelineIn   = 2 * time.Minute
)

// piece is one step on one target, or in one iteration, as the history has it.
type piece struct {
	path, node string
	report.Work
}

// timeline collects the pieces of work of an execution from its events.
type timeline struct {
	all  []*piece
	more int // pieces that found no room

	convert converter.DataConverter // of messages that are encrypted; nil: none are

	byKey map[string]*piece
	byID  map[int64]*piece // of the run's events that scheduled them
}

// readTimeline reads the history of an execution, all runs of it, the first first.
func (s *server) readTimeline(ctx context.Context, id, run string, t *timeline) error {
	ctx, cancel := context.WithTimeout(ctx, timelineIn)
	defer cancel()
	events, first := 0, true
	for run != "" {
		next := ""
		t.byID = map[int64]*piece{}
		for h := s.GetWorkflowHistory(ctx, id, run, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); h.HasNext(); {
			e, err := h.Next()
			if err != nil {
				return err
			}
			if started := e.GetWorkflowExecutionStartedEventAttributes(); started != nil && first {
				first = false
				if began := started.GetFirstExecutionRunId(); began != "" && began != run {
					next = began
					break
				}
			}
			if events++; events > mostEvents {
				return fmt.Errorf("there are more than %d events", mostEvents)
			}
			t.add(e)
			if again := e.GetWorkflowExecutionContinuedAsNewEventAttributes(); again != nil {
				next = again.GetNewExecutionRunId()
			}
		}
		run = next
	}
	return nil
}

var generation = regexp.MustCompile(`#[0-9]+$`)

// add takes an event of the present run.
func (t *timeline) add(e *history.HistoryEvent) {
	at := e.GetEventTime().AsTime()
	end := func(scheduled int64, state, message string) {
		if p := t.byID[scheduled]; p != nil {
			p.End, p.State, p.Message = at, state, message
			delete(t.byID, scheduled)
		}
	}
	switch e.GetEventType() {
	case enums.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
		a := e.GetActivityTaskScheduledEventAttributes()
		name, id := a.GetActivityType().GetName(), a.GetActivityId()
		if strings.HasPrefix(name, workflows.CompensatePrefix) || strings.HasPrefix(name, "almanac.") || name == workflows.ActionDescribe {
			return // the view has the rollback; the others are no work of a step
		}
		path, node, _ := strings.Cut(generation.ReplaceAllString(id, ""), "@")
		if n, ok := strings.CutPrefix(a.GetTaskQueue().GetName(), "node/"); ok {
			node = n
		}
		if t.byKey == nil {
			t.byKey = map[string]*piece{}
		}
		p := t.byKey[path+"@"+node]
		if p == nil {
			if len(t.all) >= mostReported {
				t.more++
				return
			}
			p = &piece{path: path, node: node, Work: report.Work{Start: at}}
			t.byKey[path+"@"+node] = p
			t.all = append(t.all, p)
		}
		p.State, p.End, p.Message = workflows.StateRunning, time.Time{}, ""
		p.Attempts++
		t.byID[e.GetEventId()] = p
	case enums.EVENT_TYPE_ACTIVITY_TASK_STARTED:
		a := e.GetActivityTaskStartedEventAttributes()
		if p := t.byID[a.GetScheduledEventId()]; p != nil {
			if p.Attempts == 1 && a.GetAttempt() <= 1 {
				p.Start = at // and not since it waited
			}
			p.Attempts += max(int(a.GetAttempt())-1, 0)
		}
	case enums.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
		end(e.GetActivityTaskCompletedEventAttributes().GetScheduledEventId(), workflows.StateSucceeded, "")
	case enums.EVENT_TYPE_ACTIVITY_TASK_FAILED:
		a := e.GetActivityTaskFailedEventAttributes()
		if t.convert != nil && a.GetFailure() != nil {
			converter.DecodeCommonFailureAttributes(t.convert, a.GetFailure())
		}
		end(a.GetScheduledEventId(), workflows.StateFailed, brief(a.GetFailure().GetMessage()))
	case enums.EVENT_TYPE_ACTIVITY_TASK_CANCELED:
		end(e.GetActivityTaskCanceledEventAttributes().GetScheduledEventId(), workflows.StateCancelled, "")
	case enums.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT:
		a := e.GetActivityTaskTimedOutEventAttributes()
		switch a.GetFailure().GetTimeoutFailureInfo().GetTimeoutType() {
		case enums.TIMEOUT_TYPE_SCHEDULE_TO_START:
			end(a.GetScheduledEventId(), workflows.StateUnreached, "nobody took the work")
		case enums.TIMEOUT_TYPE_HEARTBEAT:
			end(a.GetScheduledEventId(), workflows.StateFailed, "it was heard of no more")
		default:
			end(a.GetScheduledEventId(), workflows.StateFailed, "took longer than its timeout")
		}
	}
}

// brief is the first line of a message, as far as a row has room.
func brief(s string) string {
	s = firstLine(s)
	if r := []rune(s); len(r) > 160 {
		s = string(r[:159]) + "…"
	}
	return s
}

// stepsOf makes the rows of the page: the steps of the view, with their work on
// targets below them.
func stepsOf(s *server, v workflows.View, work []*piece, ended time.Time) []report.Step {
	var steps []report.Step
	at := map[string]int{} // rows by path, rollback left out
	undone := map[string]int{}
	row := func(w *workflows.StepView) report.Step {
		r := report.Step{Path: w.Path, Name: w.Name, Form: w.Form, Phase: w.Phase, State: w.State, Message: brief(w.Message), Target: w.Target, Child: w.Child, Depth: w.Depth}
		if w.StartedAt != nil && w.State != workflows.StateSkipped {
			r.Start = *w.StartedAt
		}
		if w.EndedAt != nil {
			r.End = *w.EndedAt
		} else if !r.Start.IsZero() {
			r.End = ended
		}
		if w.Child != "" && w.StartedAt != nil {
			r.ChildURL = s.execution(w.Child).URL
		}
		if w.Total > 0 {
			r.Counts = strconv.Itoa(w.Done) + " of " + strconv.Itoa(w.Total)
		}
		if c := w.Recap; c != nil {
			for _, p := range []struct {
				n    int
				what string
			}{{c.Failed, "failed"}, {c.Unreached, "unreached"}, {c.Skipped, "skipped"}, {c.Cancelled, "cancelled"}} {
				if p.n > 0 {
					r.Counts += fmt.Sprintf(", %d %s", p.n, p.what)
				}
			}
		} else if w.Errors > 0 {
			r.Counts += fmt.Sprintf(", %d failed", w.Errors)
		}
		return r
	}
	asWork := func(r report.Step) report.Work {
		return report.Work{Name: r.Target, State: r.State, Message: r.Message, Start: r.Start, End: r.End}
	}
	for i := range v.Steps {
		w := &v.Steps[i]
		r := row(w)
		if w.Phase == "rollback" { // the targets of a step are one row
			if i, ok := undone[w.Path]; ok {
				steps[i] = together(steps[i], r)
				continue
			}
			undone[w.Path] = len(steps)
			if w.Target != "" {
				r.Works = []report.Work{asWork(r)}
			}
			steps = append(steps, r)
			continue
		}
		if parent, ok := at[strings.TrimSuffix(w.Path, "@"+w.Target)]; ok && w.Target != "" && strings.HasSuffix(w.Path, "@"+w.Target) {
			steps[parent].Works = append(steps[parent].Works, asWork(r)) // the history knows them all, if it can be read
			continue
		}
		at[w.Path] = len(steps)
		steps = append(steps, r)
	}
	byHistory := map[int]bool{}
	for _, p := range work {
		i, name, ok := rowFor(at, p.path)
		if !ok || name == "" && (p.node == "" || p.node == steps[i].Target) {
			continue // it is the row itself
		}
		if !byHistory[i] {
			byHistory[i] = true
			steps[i].Works = nil
		}
		w := p.Work
		w.Name = strings.TrimSpace(strings.TrimPrefix(name+" on "+p.node, " on "))
		if p.node == "" {
			w.Name = name
		}
		if w.End.IsZero() && !ended.IsZero() {
			w.End, w.State = ended, workflows.StateCancelled
		}
		steps[i].Works = append(steps[i].Works, w)
	}
	for i := range steps {
		if len(steps[i].Works) == 1 && steps[i].Target != "" {
			steps[i].Works = nil
		}
		slices.SortStableFunc(steps[i].Works, func(a, b report.Work) int { return cmp.Or(a.Start.Compare(b.Start), strings.Compare(a.Name, b.Name)) })
	}
	return steps
}

// together is one row of the rollback of a step on several targets.
func together(all, one report.Step) report.Step {
	all.Works = append(all.Works, report.Work{Name: one.Target, State: one.State, Message: one.Message, Start: one.Start, End: one.End})
	all.Target = ""
	if !one.Start.IsZero() && (all.Start.IsZero() || one.Start.Before(all.Start)) {
		all.Start = one.Start
	}
	if one.End.After(all.End) {
		all.End = one.End
	}
	if one.State == workflows.StateNotRolledBack || all.State == workflows.StateRolledBack && one.State != workflows.StateRolledBack {
		if all.State != workflows.StateNotRolledBack {
			all.State, all.Message = one.State, one.Message
		}
	}
	all.Counts = plural(len(all.Works), "target")
	return all
}

// rowFor finds the row that shows a path: its own, or that of the loop or block
// around it; name is then what is left of the path.
func rowFor(at map[string]int, path string) (i int, name string, ok bool) {
	for end := len(path); end > 0; end = strings.LastIndexAny(path[:end], ".[#") {
		if i, ok := at[path[:end]]; ok {
			return i, strings.Trim(path[end:], "."), true
		}
	}
	return 0, "", false
}
