// Package play runs one execution of a runbook in memory: the interpreter
// without a server, on a clock that skips what nothing happens in.
//
// It gives Play. It promises that time is the workflow's and no other (what an
// action sleeps, a backoff, a time-out that passes), that work is asked for,
// tried again and cancelled as the server would, that everything else stands
// still while a handler computes, and therefore that the same Play goes the
// same way each time. It refuses to know what actions do: its Handler does
// that, and says what becomes of an attempt by the error it returns.
package play

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// Play is one execution to play.
type Play struct {
	Program *program.Program
	Inputs  map[string]json.RawMessage
	Caller  string
	Only    []string        // nodes, as in workflows.Start
	Left    json.RawMessage // what an execution of the program has left: this one takes it back; nil: it runs the program
	ID      string          // of the execution; empty: one of the SDK's
	Began   time.Time       // when it starts; zero: a fixed day

	// Handler does one attempt at a piece of work. It runs alone: the clock, the
	// workflow and all other handlers stand still until it returns or sleeps.
	Handler func(ctx context.Context, a *Attempt) (json.RawMessage, error)

	// Waits is told of what waits for a person, and returns what will be said to it.
	// child is the path of the child execution it is in, with "/"; "" of the outermost.
	Waits func(child string, w workflows.Wait) []Saying

	// Steps is told of each step that is taken up, skipped, or whose error was handled.
	Steps func(runbook string, s *program.Step, path, state string)

	// Locks is told what executions say to locks, and what they are told. May be nil.
	Locks func(lock, what string)

	Moments []Moment     // what happens at a certain time
	Started func(*Stage) // told before anything happens; may be nil

	// Patience bounds the time of the machine that it may take, Most the attempts;
	// then it is cancelled, and Ended.Endless is set. Zero: a minute, 20,000.
	Patience time.Duration
	Most     int

	// Cut lets the execution continue as new whenever work has ended, a timer has
	// fired or somebody cancels, and nothing else is on its way.
	Cut bool
}

// Saying is an answer of a person to something that waits.
type Saying struct {
	After  time.Duration // since it waits
	Verb   string        // name of the update
	Answer workflows.Answer
	Said   func() // told when it is said; may be nil
}

// Moment is something that happens at a certain time.
type Moment struct {
	After time.Duration // since the execution began
	Do    func(*Stage)
}

// Ended is how it went.
type Ended struct {
	Result       workflows.Result
	View         workflows.View // zero if the runbook was refused
	Err          error          // it has no result: it would wait for ever, or is broken
	Began, Ended time.Time
	Endless      bool
	Refused      []string // answers that did not fit, and why
	Attempts     int
}

// Stage is a Play while it runs.
type Stage struct {
	*Play
	env     *testsuite.TestWorkflowEnvironment
	id      string // of the outermost execution
	ended   Ended
	moments []*Moment // that are still to come
	answers int
	locks   map[string]*workflows.Turns // by workflow id
	mail    []*workflows.Turn           // not delivered yet
	quit    context.Context             // ends with the play
}

// Run plays it to its end.
func (p Play) Run() (ended *Ended, err error) {
	defer func() {
		// The test environment reports its own failures so.
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	if p.Began.IsZero() {
		p.Began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	}
	if p.Most == 0 {
		p.Most = 20_000
	}
	if p.Patience == 0 {
		p.Patience = time.Minute
	}
	quit, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := &Stage{Play: &p, quit: quit}
	for i := range p.Moments {
		s.moments = append(s.moments, &p.Moments[i])
	}
	s.ended.Began = p.Began
	next := &workflows.Start{Program: p.Program, Inputs: p.Inputs, Caller: p.Caller, Only: p.Only}
	if p.Left != nil {
		next.Program, next.TakeBack = nil, &workflows.TakeBack{Of: "before", Program: p.Program, Left: p.Left}
	}
	now := p.Began
	for runs := 1; next != nil; runs++ {
		if runs > 1000 {
			return nil, errors.New("continues as new for ever")
		}
		if next, err = s.run(next, now); err != nil {
			return nil, err
		}
		now = s.env.Now()
	}
	s.finish()
	return &s.ended, nil
}

// run plays one run of the execution; next is what it continues with, if it does.
func (s *Stage) run(start *workflows.Start, now time.Time) (next *workflows.Start, err error) {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(log.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	env := suite.NewTestWorkflowEnvironment()
	s.env = env
	env.SetWorkerOptions(worker.Options{
		Interceptors:             []interceptor.WorkerInterceptor{&intercept{stage: s}},
		DeadlockDetectionTimeout: time.Minute, // a handler computes as part of the workflow's task
	})
	env.SetTestTimeout(s.Patience)
	env.SetStartTime(now)
	if s.ID != "" {
		env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: s.ID})
	}
	env.RegisterDynamicWorkflow(workflows.Runbook, workflow.DynamicRegisterOptions{})
	for _, m := range slices.Clone(s.moments) {
		env.RegisterDelayedCallback(func() {
			s.moments = slices.DeleteFunc(s.moments, func(o *Moment) bool { return o == m })
			m.Do(s)
		}, max(0, s.Began.Add(m.After).Sub(now)))
	}
	for _, turn := range slices.Clone(s.mail) {
		s.deliver(turn)
	}
	if s.Cut {
		env.SetOnTimerFiredListener(func(string) { env.SetContinueAsNewSuggested(true) })
	}
	if s.Started != nil {
		s.Started(s)
	}
	patience := time.AfterFunc(s.Patience/2, s.giveUp)
	defer patience.Stop()
	env.ExecuteWorkflow(s.Program.Runbook, *start)
	if !env.IsWorkflowCompleted() {
		return nil, errors.New("the execution did not end")
	}
	var again *workflow.ContinueAsNewError
	if !errors.As(env.GetWorkflowError(), &again) {
		return nil, nil
	}
	next = new(workflows.Start)
	return next, converter.GetDefaultDataConverter().FromPayloads(again.Input, next)
}

// giveUp ends what seems to have no end.
func (s *Stage) giveUp() {
	if !s.ended.Endless {
		s.ended.Endless = true
		s.env.CancelWorkflow()
	}
}

// Now is the time in the play.
func (s *Stage) Now() time.Time { return s.env.Now() }

// Cancel cancels the execution.
func (s *Stage) Cancel() {
	if s.Cut { // the server may suggest it in the very task that brings the cancellation
		s.env.RegisterDelayedCallback(func() { s.env.SetContinueAsNewSuggested(true) }, 0)
	}
	s.env.CancelWorkflow()
}

// After does f when so much time has passed.
func (s *Stage) After(d time.Duration, f func()) { s.env.RegisterDelayedCallback(f, d) }

// Signal sends a signal to the outermost execution.
func (s *Stage) Signal(name string, answer workflows.Answer) { s.env.SignalWorkflow(name, answer) }

// Update answers the outermost execution; refused is told if it does not fit.
func (s *Stage) Update(name string, answer workflows.Answer, refused func(error)) {
	s.env.UpdateWorkflow(name, "", &testsuite.TestUpdateCallback{
		OnReject:   refused,
		OnAccept:   func() {},
		OnComplete: func(any, error) {},
	}, answer)
}

// waiting lets people answer the step that has begun to wait in an execution.
func (s *Stage) waiting(id, step string) {
	if s.Waits == nil {
		return
	}
	s.env.RegisterDelayedCallback(func() {
		got, err := s.env.QueryWorkflowByID(id, workflows.QueryState)
		if err != nil {
			return
		}
		var v workflows.View
		if got.Get(&v) != nil {
			return
		}
		i := slices.IndexFunc(v.Waiting, func(w workflows.Wait) bool { return w.Step == step })
		if i < 0 {
			return
		}
		w := v.Waiting[i]
		for _, say := range s.Waits(s.child(id), w) {
			say.Answer.Step = w.Step
			s.env.RegisterDelayedCallback(func() {
				s.answers++
				if say.Said != nil {
					say.Said()
				}
				err := s.env.UpdateWorkflowByID(id, say.Verb, fmt.Sprint("say-", s.answers), &testsuite.TestUpdateCallback{
					OnReject:   func(err error) { s.ended.Refused = append(s.ended.Refused, say.Verb+" "+w.Step+": "+err.Error()) },
					OnAccept:   func() {},
					OnComplete: func(any, error) {},
				}, say.Answer)
				if err != nil {
					s.ended.Refused = append(s.ended.Refused, say.Verb+" "+w.Step+": "+err.Error())
				}
			}, say.After)
		}
	}, 0)
}

// child is the path of a child execution, with "/" after it.
func (s *Stage) child(id string) string {
	if len(id) > len(s.id)+1 {
		return id[len(s.id)+1:] + "/"
	}
	return ""
}

// finish reads how the last run ended.
func (s *Stage) finish() {
	e := &s.ended
	e.Ended = s.env.Now()
	if got, err := s.env.QueryWorkflow(workflows.QueryState); err == nil {
		_ = got.Get(&e.View)
	}
	err := s.env.GetWorkflowError()
	var app *temporal.ApplicationError
	var cancelled *temporal.CanceledError
	switch {
	case err == nil:
		err = s.env.GetWorkflowResult(&e.Result)
	case errors.As(err, &app) && app.HasDetails():
		err = app.Details(&e.Result)
	case errors.As(err, &cancelled) && cancelled.HasDetails():
		err = cancelled.Details(&e.Result)
	}
	e.Err = err
}
