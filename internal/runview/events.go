package runview

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/workflows"
)

// Event is one change of an execution. As a line it is
//
//	TIME STEP STATE [DETAIL]
//
// where TIME is RFC 3339 in UTC, STEP a step's path, or "-" for the execution
// itself, and DETAIL the rest of the line. As JSON it is one object on one line.
type Event struct {
	Time time.Time `json:"time"`
	Type string    `json:"type"` // EventExecution, EventStep, EventWaiting, EventNote or EventResult

	Execution string `json:"execution,omitempty"` // workflow id
	URL       string `json:"url,omitempty"`
	Runbook   string `json:"runbook,omitempty"`

	Step    string  `json:"step,omitempty"`
	Phase   string  `json:"phase,omitempty"`
	Name    string  `json:"name,omitempty"`
	Form    string  `json:"form,omitempty"`
	State   string  `json:"state"` // of the step or, without a step, the execution's status
	Target  string  `json:"target,omitempty"`
	Done    int     `json:"done,omitempty"`
	Errors  int     `json:"errors,omitempty"`
	Total   int     `json:"total,omitempty"`
	Seconds float64 `json:"seconds,omitempty"` // how long the step took, once it is over
	Message string  `json:"message,omitempty"`

	Recap  *workflows.Recap           `json:"recap,omitempty"`  // of a step on several targets that is over
	Recaps map[string]workflows.Recap `json:"recaps,omitempty"` // of EventResult: of all such steps, by path
	Wait   *workflows.Wait            `json:"wait,omitempty"`
	Result *workflows.Result          `json:"result,omitempty"`
	Exit   *int                       `json:"exit,omitempty"` // of EventResult: the exit code
}

// The types of events.
const (
	EventExecution = "execution" // it began, or its status changed
	EventStep      = "step"      // a step's state or counts changed
	EventWaiting   = "waiting"   // a person must answer
	EventNote      = "note"      // something to know, such as that no worker polls
	EventResult    = "result"    // the last one
)

// String returns the line, without a line break.
func (e Event) String() string {
	step := e.Step
	if step == "" {
		step = "-"
	}
	s := fmt.Sprintf("%s %s %s", e.Time.UTC().Format(time.RFC3339), line(step), line(e.State))
	var detail []string
	if e.Seconds > 0 {
		detail = append(detail, Elapsed(time.Duration(e.Seconds*float64(time.Second))))
	}
	if e.Form != "" && e.Type == EventStep && e.Seconds == 0 {
		detail = append(detail, line(e.Form))
	}
	if e.Total > 0 {
		n := fmt.Sprintf("%d/%d", e.Done, e.Total)
		switch {
		case leftUndone(e.Recap):
			n += " (" + counts(e.Recap) + ")"
		case e.Errors > 0:
			n += fmt.Sprintf(" (%d failed)", e.Errors)
		}
		detail = append(detail, n)
	}
	if e.Target != "" && !strings.HasSuffix(e.Step, "@"+e.Target) {
		detail = append(detail, "on "+line(e.Target))
	}
	if e.Message != "" {
		detail = append(detail, line(e.Message))
	}
	if e.URL != "" {
		detail = append(detail, e.URL)
	}
	if len(detail) > 0 {
		s += " " + strings.Join(detail, " ")
	}
	return s
}

// WriteEvent writes e as a line, or as JSON.
func WriteEvent(w io.Writer, e Event, asJSON bool) error {
	if !asJSON {
		_, err := fmt.Fprintln(w, e)
		return err
	}
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", b)
	return err
}

// Follower turns a sequence of Views of one execution into events. Its zero
// value is ready.
type Follower struct {
	status string
	steps  map[string]workflows.StepView
	waits  map[string]bool
}

// Next returns what changed since the View before, in order of time. Of a loop
// or fan-out the counts are told about ten times, and whenever an error is added.
func (f *Follower) Next(v workflows.View, x Execution, program string, now time.Time) []Event {
	if f.steps == nil {
		f.steps, f.waits = map[string]workflows.StepView{}, map[string]bool{}
	}
	var events []Event
	for _, s := range v.Steps {
		key := s.Phase + "\x00" + s.Path
		if s.Phase == "rollback" {
			key += "\x00" + s.Target // one row for each node
		}
		before, known := f.steps[key]
		if !known {
			before.State = workflows.StatePending
		}
		counted := s.Errors > before.Errors || s.Done-before.Done >= max(1, s.Total/10)
		if s.State == before.State && (over(s.State) || !counted) {
			if !known {
				f.steps[key] = s
			}
			continue
		}
		f.steps[key] = s
		if s.State == workflows.StateWaiting && slices.ContainsFunc(v.Waiting, func(w workflows.Wait) bool { return w.Step == s.Path }) {
			continue // the event of the wait says more
		}
		e := Event{Time: now, Type: EventStep, Step: s.Path, Phase: s.Phase, Name: s.Name, Form: s.Form, State: s.State,
			Target: s.Target, Done: s.Done, Errors: s.Errors, Total: s.Total, Message: s.Message}
		switch {
		case over(s.State) && s.EndedAt != nil:
			e.Time = *s.EndedAt
			e.Recap = s.Recap
			if s.StartedAt != nil && s.State != workflows.StateSkipped {
				e.Seconds = s.EndedAt.Sub(*s.StartedAt).Seconds()
			}
		case s.State == workflows.StateRunning && before.State != s.State && s.StartedAt != nil:
			e.Time = *s.StartedAt
		}
		events = append(events, e)
	}
	slices.SortStableFunc(events, func(a, b Event) int { return cmp.Compare(a.Time.UnixNano(), b.Time.UnixNano()) })

	still := map[string]bool{}
	for _, w := range v.Waiting {
		key := w.Step + "\x00" + w.Kind + "\x00" + strings.Join(w.Approved, ",")
		still[key] = true
		if f.waits[key] {
			continue
		}
		msg := line(strings.TrimSpace(w.Message))
		if note := waitNote(w, time.Time{}); note != "" {
			msg += " [" + note + "]"
		}
		if cmds := AnswerCommands(w, x, len(v.Waiting) > 1, program); len(cmds) > 0 {
			msg += ": " + strings.Join(cmds, " | ")
		}
		events = append(events, Event{Time: now, Type: EventWaiting, Step: w.Step, State: workflows.StateWaiting, Message: msg, Wait: &w})
	}
	f.waits = still

	if f.status == "" {
		events = append([]Event{{Time: v.StartedAt, Type: EventExecution, Runbook: v.Runbook, State: "running", Execution: x.ID, URL: x.URL,
			Message: v.Runbook + " " + x.ID}}, events...)
	}
	if v.Status != f.status && (v.Status == "rolling_back" || v.Status == "finally") {
		phase := map[string]string{"rolling_back": "rollback", "finally": "finally"}[v.Status]
		e := Event{Time: now, Type: EventExecution, Runbook: v.Runbook, State: v.Status}
		at := slices.IndexFunc(events, func(e Event) bool { return e.Phase == phase })
		if at >= 0 {
			e.Time = events[at].Time // it began with that step
		} else {
			at = len(events)
		}
		events = slices.Insert(events, at, e)
	}
	f.status = v.Status
	return events
}
