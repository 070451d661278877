package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"reflect"
	"syscall"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	taskqueue "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/temporal"

	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/workflows"
)

const (
	pollEvery    = 300 * time.Millisecond  // how often a followed execution is asked
	pollSlow     = 1500 * time.Millisecond // and one that does not change: it may wait for days
	queryTimeout = 3 * time.Second
	silentFor    = 3 * time.Second // without an answer, the task queue's pollers are looked at
)

func pathEscape(s string) string { return url.PathEscape(s) }

// follow shows an execution until it ends or Ctrl-C. Its error carries the exit
// code of the outcome.
func (a *app) follow(ctx context.Context, s *server, id string) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	x := s.execution(id)
	_, tty := terminal(a.stdout)
	show := &shower{app: a, x: x, table: tty && !a.json() && os.Getenv("TERM") != "dumb", screen: runview.NewScreen(a.stdout)}

	type ended struct {
		result *workflows.Result
		err    error
	}
	done := make(chan ended, 1)
	go func() {
		for {
			r, err := s.result(ctx, id)
			if err != nil && silent(err) {
				if _, derr := s.describe(ctx, id); derr == nil {
					continue // it is back, or this machine slept
				}
			}
			done <- ended{r, err}
			return
		}
	}()
	views := make(chan workflows.View)
	go func() {
		defer close(views)
		var last workflows.View
		every := pollEvery
		for ctx.Err() == nil {
			if v, err := s.view(ctx, id); err == nil {
				if every = min(every*5/4, pollSlow); !reflect.DeepEqual(v, last) {
					every = pollEvery
				}
				last = v
				select {
				case views <- v:
				case <-ctx.Done():
				}
			}
			select {
			case <-time.After(every):
			case <-ctx.Done():
			}
		}
	}()

	redraw := time.NewTicker(250 * time.Millisecond)
	defer redraw.Stop()
	answered := time.Now()
	warned := false
	for {
		select {
		case v, ok := <-views:
			if ok {
				answered, warned = time.Now(), false
				show.note = ""
				show.view(v)
			}
			if !ok {
				views = nil
			}
		case <-redraw.C:
			if !warned && time.Since(answered) > silentFor {
				warned = true
				switch n, err := s.pollers(ctx); {
				case ctx.Err() != nil:
				case err != nil:
					show.say(fmt.Sprintf("no answer from the server at %s: what is shown may be old; trying again", s.address))
				case s.desertedID(ctx, id) != "":
					show.say(a.waitsForVersion(s.desertedID(ctx, id)))
				case n == 0:
					show.say(fmt.Sprintf("no worker is polling task queue %s: start one (make dev runs one); waiting for it", workflows.TaskQueue))
				default:
					show.say("the worker does not answer; waiting for it")
				}
			}
			show.redraw()
		case <-ctx.Done():
			show.screen.Close()
			fmt.Fprintf(a.stderr, "\n%s goes on; come back with: %s watch %s\n", id, a.again(), runview.Quote(id))
			return &exitError{code: exitDetached}
		case end := <-done:
			if ctx.Err() != nil {
				continue
			}
			if end.err != nil {
				show.screen.Close()
				return a.lost(s, id, end.err)
			}
			v := s.lastView(ctx, id, end.result)
			a.findSources(ctx, s, id, v)
			return show.end(v)
		}
	}
}

// lost explains why an execution can no longer be followed, and how to come back.
func (a *app) lost(s *server, id string, err error) error {
	err = a.explain(s, id, err)
	var exit *exitError
	if errors.As(err, &exit) && exit.code == exitNoServer {
		exit.err = fmt.Errorf("%w\ncome back with: %s watch %s", exit.err, a.again(), runview.Quote(id))
	}
	return err
}

// shower shows a followed execution: as a table that is redrawn, or as events.
type shower struct {
	app      *app
	x        runview.Execution
	table    bool
	screen   *runview.Screen
	follower runview.Follower
	last     *workflows.View
	note     string
}

func (w *shower) view(v workflows.View) {
	w.last = &v
	if w.table {
		w.redraw()
		return
	}
	for _, e := range w.follower.Next(v, w.x, w.app.again(), time.Now()) {
		_ = runview.WriteEvent(w.app.stdout, e, w.app.json())
	}
}

// redraw draws the table again: its clocks go on.
func (w *shower) redraw() {
	if !w.table {
		return
	}
	o := w.app.view(w.app.stdout)
	v := workflows.View{Runbook: w.x.ID, Status: "starting"}
	x := w.x
	if w.last != nil {
		v = *w.last
	} else {
		x.ID = ""
	}
	note := ""
	if w.note != "" {
		note = "\n" + w.note + "\n"
	}
	most := o.Height
	if o.Height > 0 && note != "" {
		o.Height = max(o.Height-2-len(note)/max(o.Width, 1), 1)
	}
	w.screen.Draw(runview.Table(v, x, o)+note, o.Width, most)
}

// say tells of something that is no change of the execution.
func (w *shower) say(note string) {
	switch {
	case w.table:
		w.note = note
		w.redraw()
	case w.app.json():
		_ = runview.WriteEvent(w.app.stdout, runview.Event{Time: time.Now(), Type: runview.EventNote, State: "note", Message: note}, true)
	default:
		fmt.Fprintln(w.app.stderr, note)
	}
}

// end shows how it ended, and returns the exit code as an error.
func (w *shower) end(v workflows.View) error {
	a := w.app
	code := exitOf(v.Result.Outcome)
	o := a.view(a.stdout)
	o.Height = 0
	if w.table {
		w.screen.Clear()
		x := w.x
		x.URL = "" // Ending has it
		fmt.Fprint(a.stdout, runview.Table(v, x, o), "\n", runview.Ending(v, w.x, o))
	} else {
		w.view(v)
		if a.json() {
			e := runview.Event{Time: time.Now(), Type: runview.EventResult, Execution: w.x.ID, URL: w.x.URL, Runbook: v.Runbook,
				State: string(v.Result.Outcome), Message: v.Result.Message, Result: v.Result, Exit: &code}
			for _, s := range runview.Recaps(v) {
				if e.Recaps == nil {
					e.Recaps = map[string]workflows.Recap{}
				}
				e.Recaps[s.Path] = *s.Recap
			}
			if v.EndedAt != nil {
				e.Time = *v.EndedAt
			}
			if err := runview.WriteEvent(a.stdout, e, true); err != nil {
				return err
			}
		} else {
			fmt.Fprint(a.stdout, "\n", runview.Ending(v, w.x, o))
		}
	}
	if code == exitSucceeded {
		return nil
	}
	return &exitError{code: code}
}

// view asks the execution how it stands.
func (s *server) view(ctx context.Context, id string) (workflows.View, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var v workflows.View
	answer, err := s.QueryWorkflow(ctx, id, "", workflows.QueryState)
	if err == nil {
		err = answer.Get(&v)
	}
	return v, err
}

// result is how an execution ended, as it is shown.
func (s *server) result(ctx context.Context, id string) (*workflows.Result, error) {
	r, err := s.ending(ctx, id)
	if err == nil {
		r.Undo, r.Left = nil, nil // for other executions, and for nobody to read
	}
	return r, err
}

// ending waits for the end. The error is one of the connection: how the
// execution ended is in the Result.
func (s *server) ending(ctx context.Context, id string) (*workflows.Result, error) {
	r := &workflows.Result{}
	err := s.GetWorkflow(ctx, id, "").Get(ctx, r)
	if err == nil {
		return r, nil
	}
	var ended *temporal.WorkflowExecutionError
	if !errors.As(err, &ended) {
		return nil, err
	}
	var app *temporal.ApplicationError
	var cancelled *temporal.CanceledError
	var timeout *temporal.TimeoutError
	var terminated *temporal.TerminatedError
	switch {
	case errors.As(err, &app):
		if app.HasDetails() && app.Details(r) == nil && r.Outcome != "" {
			return r, nil
		}
		// Without the key its details are unknown, but not its type, which is the outcome.
		outcome := workflows.Outcome(app.Type())
		switch outcome {
		case workflows.RolledBack, workflows.RollbackFailed, workflows.TimedOut:
		default:
			outcome = workflows.Failed
		}
		return &workflows.Result{Outcome: outcome, Message: app.Message()}, nil
	case errors.As(err, &cancelled):
		if cancelled.HasDetails() && cancelled.Details(r) == nil && r.Outcome != "" {
			return r, nil
		}
		return &workflows.Result{Outcome: workflows.Cancelled}, nil
	case errors.As(err, &timeout):
		return &workflows.Result{Outcome: workflows.TimedOut, Message: "the server ended it: nothing was rolled back"}, nil
	case errors.As(err, &terminated):
		return &workflows.Result{Outcome: workflows.Failed, Message: "it was terminated: nothing was rolled back"}, nil
	}
	return &workflows.Result{Outcome: workflows.Failed, Message: ended.Error()}, nil
}

// lastView is the View of an execution that ended: as its worker tells, else
// with what the server knows.
func (s *server) lastView(ctx context.Context, id string, r *workflows.Result) workflows.View {
	v, err := s.view(ctx, id)
	if err != nil {
		v = workflows.View{Runbook: id}
	}
	v.Status, v.Result = string(r.Outcome), r
	if err == nil && v.EndedAt != nil {
		return v
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	if d, err := s.DescribeWorkflowExecution(ctx, id, ""); err == nil {
		info := d.GetWorkflowExecutionInfo()
		v.Runbook = info.GetType().GetName()
		if v.StartedAt.IsZero() {
			v.StartedAt = info.GetStartTime().AsTime()
		}
		if t := info.GetCloseTime(); t != nil {
			closed := t.AsTime()
			v.EndedAt = &closed
		}
	}
	return v
}

// pollers counts the workers that take executions.
func (s *server) pollers(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	d, err := s.WorkflowService().DescribeTaskQueue(ctx, &workflowservice.DescribeTaskQueueRequest{
		Namespace:     s.namespace,
		TaskQueue:     &taskqueue.TaskQueue{Name: workflows.TaskQueue, Kind: enums.TASK_QUEUE_KIND_NORMAL},
		TaskQueueType: enums.TASK_QUEUE_TYPE_WORKFLOW,
	})
	if err != nil {
		var notFound *serviceerror.NotFound
		if errors.As(err, &notFound) {
			return 0, nil
		}
		return 0, err
	}
	return len(d.GetPollers()), nil
}
