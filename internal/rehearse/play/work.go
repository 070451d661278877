package play

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// Attempt is one attempt at a piece of work: an action, its compensation, or a
// question that the interpreter asks by itself.
type Attempt struct {
	Action string // its name, without "compensate:"
	Undo   bool   // it is the compensation

	// ID is the activity's, Path is that of the child execution, "/" and the ID: a
	// step's path with iteration, node and generation; "undo." before it, and a part
	// of the token after it, of a compensation.
	ID, Path  string
	Execution string
	Node      string // "" on the control worker
	Token     string
	Input     json.RawMessage
	Output    json.RawMessage // of a compensation: what the action gave; null if not known
	N         int             // from 1
	Timeout   time.Duration

	stage *Stage
}

// What may become of an attempt, beside an answer and an error of the action. A
// Handler returns one of these.
var (
	ErrUnreached = errors.New("nobody takes the work")
	ErrDied      = errors.New("whoever did the work is gone")
	ErrTimeout   = errors.New("the work takes longer than its timeout")
	ErrCancel    = errors.New("somebody cancels the execution while the work runs")
)

// intercept takes the place of the server's activities.
type intercept struct {
	interceptor.WorkerInterceptorBase
	stage *Stage
}

func (i *intercept) InterceptWorkflow(_ workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	in := &inbound{stage: i.stage}
	in.Next = next
	return in
}

type inbound struct {
	interceptor.WorkflowInboundInterceptorBase
	stage *Stage
}

func (i *inbound) Init(out interceptor.WorkflowOutboundInterceptor) error {
	o := &outbound{stage: i.stage}
	o.Next = out
	return i.Next.Init(o)
}

func (i *inbound) ExecuteWorkflow(ctx workflow.Context, in *interceptor.ExecuteWorkflowInput) (any, error) {
	s := i.stage
	info := workflow.GetInfo(ctx)
	if info.ParentWorkflowExecution == nil {
		s.id = info.WorkflowExecution.ID
	}
	if s.Steps != nil {
		child := s.child(info.WorkflowExecution.ID)
		ctx = workflows.WithObserver(ctx, func(runbook string, step *program.Step, path, state string) {
			s.Steps(runbook, step, child+path, state)
		})
	}
	return i.Next.ExecuteWorkflow(ctx, in)
}

type outbound struct {
	interceptor.WorkflowOutboundInterceptorBase
	stage *Stage
}

func (o *outbound) UpsertTypedSearchAttributes(ctx workflow.Context, updates ...temporal.SearchAttributeUpdate) error {
	set := temporal.NewSearchAttributes(updates...)
	if status, ok := set.GetKeyword(temporal.NewSearchAttributeKeyKeyword(workflows.AttrStatus)); ok && status == "waiting" {
		step, _ := set.GetKeyword(temporal.NewSearchAttributeKeyKeyword(workflows.AttrStep))
		o.stage.waiting(workflow.GetInfo(ctx).WorkflowExecution.ID, step)
	}
	return o.Next.UpsertTypedSearchAttributes(ctx, updates...)
}

func (o *outbound) ExecuteActivity(ctx workflow.Context, name string, args ...any) workflow.Future {
	f, settable := workflow.NewFuture(ctx)
	if name == workflows.ActionLock {
		err := o.stage.said(args[1].(workflows.Turns).Key, args[2].(workflows.LockMessage))
		if o.stage.Cut {
			o.stage.env.SetContinueAsNewSuggested(true)
		}
		settable.Set(nil, err)
		return f
	}
	options := workflow.GetActivityOptions(ctx)
	a := &Attempt{
		stage: o.stage, ID: options.ActivityID, Timeout: options.StartToCloseTimeout,
		Execution: workflow.GetInfo(ctx).WorkflowExecution.ID,
	}
	a.Path = o.stage.child(a.Execution) + a.ID
	a.Action, a.Undo = strings.CutPrefix(name, workflows.CompensatePrefix)
	if node, ok := strings.CutPrefix(options.TaskQueue, workflows.NodeQueue("")); ok {
		a.Node = node
	}
	for i, into := range []*json.RawMessage{nil, &a.Input, &a.Output} {
		switch {
		case i >= len(args):
		case i == 0:
			a.Token, _ = args[0].(string)
		default:
			// As it would arrive.
			raw, err := json.Marshal(args[i])
			if err != nil {
				settable.Set(nil, err)
				return future{f}
			}
			*into = raw
		}
	}
	workflow.Go(ctx, func(ctx workflow.Context) {
		out, err := o.stage.work(ctx, a, options)
		if o.stage.Cut {
			o.stage.env.SetContinueAsNewSuggested(true)
		}
		settable.Set(out, err)
	})
	return future{f}
}

// future reads JSON into whatever its reader has.
type future struct{ workflow.Future }

func (f future) Get(ctx workflow.Context, into any) error {
	var raw json.RawMessage
	if err := f.Future.Get(ctx, &raw); err != nil || into == nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

// work makes attempts until one decides, with the pauses between them.
func (s *Stage) work(ctx workflow.Context, first *Attempt, options workflow.ActivityOptions) (json.RawMessage, error) {
	for n := 1; ; n++ {
		if ctx.Err() != nil {
			return nil, temporal.NewCanceledError()
		}
		a := *first
		a.N = n
		out, err := s.attempt(ctx, &a, options)
		if err == nil {
			return out, nil
		}
		pause, again := backoff(options.RetryPolicy, n, err)
		if !again {
			return nil, err
		}
		if err := workflow.Sleep(ctx, pause); err != nil {
			return nil, temporal.NewCanceledError()
		}
	}
}

// backoff is the server's: whether an error is worth another attempt, and after which pause.
func backoff(p *temporal.RetryPolicy, n int, err error) (time.Duration, bool) {
	if p == nil || p.MaximumAttempts > 0 && n >= int(p.MaximumAttempts) {
		return 0, false
	}
	var app *temporal.ApplicationError
	var timeout *temporal.TimeoutError
	switch {
	case errors.As(err, &app):
		if app.NonRetryable() || slices.Contains(p.NonRetryableErrorTypes, app.Type()) {
			return 0, false
		}
	case errors.As(err, &timeout):
		switch timeout.TimeoutType() {
		case enumspb.TIMEOUT_TYPE_HEARTBEAT:
		case enumspb.TIMEOUT_TYPE_START_TO_CLOSE:
			if slices.Contains(p.NonRetryableErrorTypes, "TemporalTimeout:StartToClose") {
				return 0, false
			}
		default:
			return 0, false
		}
	default:
		return 0, false
	}
	d := float64(p.InitialInterval) * math.Pow(max(p.BackoffCoefficient, 1), float64(n-1))
	if p.MaximumInterval > 0 {
		d = min(d, float64(p.MaximumInterval))
	}
	return time.Duration(d), true
}

// fiber is one attempt's thread of time: its handler either computes, and all
// else stands still, or sleeps.
type fiber struct {
	stage  *Stage
	events chan event
}

// event is what a handler does with its turn: it sleeps until a time, or has ended.
type event struct {
	until time.Time
	wake  chan struct{}
	ended bool
	out   json.RawMessage
	err   error
}

type fiberKey struct{}

// Sleep passes virtual time within a Handler. It returns early with the
// context's error if the context ends.
func Sleep(ctx context.Context, d time.Duration) error {
	f, ok := ctx.Value(fiberKey{}).(*fiber)
	if !ok {
		return errors.New("no play: nobody passes the time")
	}
	if err := ctx.Err(); err != nil || d <= 0 {
		return err
	}
	e := event{until: f.stage.env.Now().Add(d), wake: make(chan struct{})}
	select {
	case f.events <- e:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-e.wake:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Now is the time in the play, within a Handler.
func (a *Attempt) Now() time.Time { return a.stage.env.Now() }

// attempt lets the handler do one attempt, and the time pass that it takes.
func (s *Stage) attempt(ctx workflow.Context, a *Attempt, options workflow.ActivityOptions) (json.RawMessage, error) {
	if s.ended.Attempts++; s.ended.Attempts > s.Most {
		s.giveUp()
	}
	calm, _ := workflow.NewDisconnectedContext(ctx)
	inner, cancel := context.WithCancelCause(s.quit)
	defer cancel(nil)
	f := &fiber{stage: s, events: make(chan event, 100)}
	inner = context.WithValue(inner, fiberKey{}, f)
	go func() {
		out, err := handled(s.Handler, inner, a)
		f.events <- event{ended: true, out: out, err: err}
	}()
	var deadline time.Time
	if options.StartToCloseTimeout > 0 {
		deadline = s.env.Now().Add(options.StartToCloseTimeout)
	}
	late := false
	for {
		e := <-f.events
		if e.ended {
			return s.settle(ctx, calm, options, deadline, late, e)
		}
		until := e.until
		if !deadline.IsZero() && until.After(deadline) {
			until = deadline
		}
		if inner.Err() == nil {
			if err := s.pass(ctx, calm, until); err != nil {
				return nil, err
			}
		}
		switch {
		case ctx.Err() != nil:
			cancel(temporal.NewCanceledError())
		case !e.until.After(until):
			close(e.wake)
		default:
			late = true
			cancel(context.DeadlineExceeded)
		}
	}
}

// pass lets time pass, until somebody cancels.
func (s *Stage) pass(ctx, calm workflow.Context, until time.Time) error {
	_, err := workflow.AwaitWithTimeout(calm, until.Sub(s.env.Now()), func() bool { return ctx.Err() != nil })
	return err
}

// settle says what became of an attempt that has ended.
func (s *Stage) settle(ctx, calm workflow.Context, options workflow.ActivityOptions, deadline time.Time, late bool, e event) (json.RawMessage, error) {
	var app *temporal.ApplicationError
	var timeout *temporal.TimeoutError
	passes := func(d time.Duration, err error) (json.RawMessage, error) {
		if err := s.pass(ctx, calm, s.env.Now().Add(d)); err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, temporal.NewCanceledError()
		}
		return nil, err
	}
	switch {
	case late || errors.Is(e.err, ErrTimeout):
		return passes(deadline.Sub(s.env.Now()), temporal.NewTimeoutError(enumspb.TIMEOUT_TYPE_START_TO_CLOSE, nil))
	case errors.Is(e.err, ErrUnreached):
		return passes(options.ScheduleToStartTimeout, temporal.NewTimeoutError(enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START, nil))
	case errors.Is(e.err, ErrDied):
		return passes(options.HeartbeatTimeout, temporal.NewHeartbeatTimeoutError())
	case errors.Is(e.err, ErrCancel):
		s.Cancel()
		// A child's or a block's own cancellation comes later than the execution's.
		return passes(time.Minute, temporal.NewCanceledError())
	case e.err == nil:
		raw, err := json.Marshal(e.out)
		return raw, err
	case ctx.Err() != nil:
		return nil, temporal.NewCanceledError()
	case errors.As(e.err, &app), errors.As(e.err, &timeout):
		return nil, e.err
	}
	var details []any
	var known *action.Error
	if errors.As(e.err, &known) && known.Detail != nil {
		raw, err := json.Marshal(known.Detail)
		if err != nil {
			return nil, err
		}
		details = []any{json.RawMessage(raw)}
	}
	return nil, temporal.NewApplicationErrorWithOptions(e.err.Error(), string(action.KindOf(e.err)), temporal.ApplicationErrorOptions{Details: details})
}

// handled is the handler's answer; a panic is an error of kind internal.
func handled(handler func(context.Context, *Attempt) (json.RawMessage, error), ctx context.Context, a *Attempt) (out json.RawMessage, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = action.Errorf(action.Internal, "panic: %v", r)
		}
	}()
	out, err = handler(ctx, a)
	if err == nil && len(out) == 0 {
		out = json.RawMessage("null")
	}
	if err == nil && !json.Valid(out) {
		return nil, fmt.Errorf("%s answers what is not JSON: %s", a.Action, out)
	}
	return out, err
}

// Brief leaves out of an input what stands in the runbook word for word: all of
// a script but its first line.
func Brief(input json.RawMessage) string {
	return scriptRE.ReplaceAllString(strings.ReplaceAll(string(input), `\u003e`, ">"), `"script":"$1…"`)
}

var scriptRE = regexp.MustCompile(`"script":"((?:[^"\\]|\\"|\\u....)*)\\n(?:[^"\\]|\\.)+"`)
