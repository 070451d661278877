// Package activities serves actions as Temporal activities.
//
// It gives Register. It promises each action what action.Call says: a token,
// heartbeats without the action's doing, secrets that are masked in whatever
// leaves the process (outputs, errors, heartbeats); and the engine that errors
// arrive as failures whose type is the error's kind, that a panic is an error,
// and that no message is too large for history. It refuses to know any action,
// and does not retry.
//
// The activity type of an action is its name, with arguments (token, input);
// that of its compensation is "compensate:" and the name, with arguments
// (token, input, output), output being null if it is not known. Where the
// actions of a node are served from elsewhere (RegisterRemote), one more
// argument says which node is meant.
package activities

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/output"
	"github.com/almanac-run/almanac/internal/secret"
)

// Options change what all actions share.
type Options struct {
	// Secrets returns the value of a reference; nil is secret.Resolve.
	Secrets func(ctx context.Context, ref string) (string, error)

	// Logger is told of mistakes of our own (kind internal); nil is slog.Default.
	Logger *slog.Logger
}

// Limits of what goes into history.
const (
	MaxOutput  = 1 << 20 // bytes of an action's output, as JSON
	MaxMessage = 4 << 10 // bytes of an error's message; of a longer one the head and the tail are kept
	MaxDetail  = 64 << 10
)

// Register makes r serve actions and their compensations.
func Register(r worker.ActivityRegistry, actions []action.Action, opts Options) {
	opts.complete()
	for _, a := range actions {
		r.RegisterActivityWithOptions(
			func(ctx context.Context, token string, input json.RawMessage) (json.RawMessage, error) {
				return opts.do(ctx, a, token, input, action.Target{})
			}, activity.RegisterOptions{Name: a.Name})
		if !a.Compensates {
			continue
		}
		r.RegisterActivityWithOptions(
			func(ctx context.Context, token string, input, output json.RawMessage) error {
				return opts.compensate(ctx, a, token, input, output, action.Target{})
			}, activity.RegisterOptions{Name: "compensate:" + a.Name})
	}
}

// RegisterRemote makes r serve actions of nodes on which it is not: each call says which.
func RegisterRemote(r worker.ActivityRegistry, actions []action.Action, opts Options) {
	opts.complete()
	for _, a := range actions {
		r.RegisterActivityWithOptions(
			func(ctx context.Context, token string, input json.RawMessage, target action.Target) (json.RawMessage, error) {
				return opts.do(ctx, a, token, input, target)
			}, activity.RegisterOptions{Name: a.Name})
		if !a.Compensates {
			continue
		}
		r.RegisterActivityWithOptions(
			func(ctx context.Context, token string, input, output json.RawMessage, target action.Target) error {
				return opts.compensate(ctx, a, token, input, output, target)
			}, activity.RegisterOptions{Name: "compensate:" + a.Name})
	}
}

func (o *Options) complete() {
	if o.Secrets == nil {
		o.Secrets = secret.Resolve
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

func (o Options) do(ctx context.Context, a action.Action, token string, input json.RawMessage, target action.Target) (json.RawMessage, error) {
	return serve(ctx, o, a.Name, token, target, func(ctx context.Context) (any, error) {
		return a.Do(ctx, input)
	})
}

func (o Options) compensate(ctx context.Context, a action.Action, token string, input, output json.RawMessage, target action.Target) error {
	_, err := serve(ctx, o, a.Name, token, target, func(ctx context.Context) (any, error) {
		return nil, a.Compensate(ctx, input, output)
	})
	return err
}

// serve runs one call of an action.
func serve(ctx context.Context, opts Options, name, token string, target action.Target, do func(context.Context) (any, error)) (json.RawMessage, error) {
	info := activity.GetInfo(ctx)
	masker := &secret.Masker{}
	beat := startHeart(ctx, info, masker)
	defer beat.stop()
	call := action.Call{
		Token:     token,
		Execution: info.WorkflowExecution.ID,
		Step:      info.ActivityID,
		Attempt:   int(info.Attempt),
		Heartbeat: beat.set,
		Reveal: func(ctx context.Context, ref string) (string, error) {
			value, err := opts.Secrets(ctx, ref)
			if err != nil {
				return "", secretError(err)
			}
			masker.Add(value)
			return value, nil
		},
		Abandoned: func() bool { return abandoned(ctx) },
		Wanted:    beat.wanted,
		Mask:      masker.Mask,
		Target:    target,
	}
	result, err := do(action.WithCall(ctx, call))
	beat.stop()
	var raw json.RawMessage
	if err == nil {
		raw, err = encode(result, masker, MaxOutput)
	}
	if err == nil {
		return raw, nil
	}
	switch {
	case ctx.Err() == nil:
	case abandoned(ctx):
		// Not the step was cancelled: this process ends, or the engine does not hear us.
		err = &action.Error{Kind: action.Lost, Err: fmt.Errorf("the worker stopped or lost its connection while the step ran: %w", err), Detail: detailOf(err)}
	case errors.Is(ctx.Err(), context.Canceled):
		return nil, temporal.NewCanceledError()
	default:
		err = &action.Error{Kind: action.Timeout, Err: err, Detail: detailOf(err)}
	}
	if action.KindOf(err) == action.Internal {
		opts.Logger.Error("action failed by a mistake of ours", "action", name, "step", call.Step,
			"execution", call.Execution, "error", masker.Mask(err.Error()))
	}
	return nil, failure(err, masker)
}

// abandoned tells whether the engine stopped listening: see action.Call.
func abandoned(ctx context.Context) bool {
	select {
	case <-activity.GetWorkerStopChannel(ctx):
		return true
	default:
	}
	// The SDK ends the context for several reasons, and says which.
	var cancelled *temporal.CanceledError
	cause := context.Cause(ctx)
	return cause != nil && !errors.As(cause, &cancelled) && !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded)
}

// secretError gives an error of a secrets provider its kind.
func secretError(err error) error {
	var known *action.Error
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return action.Errorf(action.NotFound, "%w", err)
	case errors.Is(err, fs.ErrPermission):
		return action.Errorf(action.Denied, "%w", err)
	}
	return action.Errorf(action.Invalid, "%w", err)
}

// failure is err as it travels: its kind, its message and its detail, masked.
func failure(err error, masker *secret.Masker) error {
	kind := action.KindOf(err)
	var details []any
	if d := detailOf(err); d != nil {
		if raw, err := encode(d, masker, MaxDetail); err == nil {
			details = []any{raw}
		}
	}
	message := err.Error()
	if kind == action.Internal && strings.HasPrefix(message, "panic: ") {
		message, _, _ = strings.Cut(message, "\n") // the stack is in the log
	}
	return temporal.NewApplicationErrorWithOptions(bounded(masker.Mask(message)), string(kind),
		temporal.ApplicationErrorOptions{Details: details})
}

func detailOf(err error) any {
	var e *action.Error
	if errors.As(err, &e) {
		return e.Detail
	}
	return nil
}

// bounded keeps head and tail of a long message: what failed stands at the
// beginning of most messages, why at the end.
func bounded(message string) string {
	message = strings.ToValidUTF8(message, "\uFFFD")
	if len(message) <= MaxMessage {
		return message
	}
	e := output.Excerpt{Head: MaxMessage / 2, Tail: MaxMessage/2 - 64}
	e.Write([]byte(message))
	return e.Text()
}

// encode returns v as masked JSON, or an error if it is larger than limit bytes.
func encode(v any, masker *secret.Masker, limit int) (json.RawMessage, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, action.Errorf(action.Internal, "output: %w", err)
	}
	if !masker.Empty() {
		var data any
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		if err := dec.Decode(&data); err != nil {
			return nil, action.Errorf(action.Internal, "output: %w", err)
		}
		if raw, err = json.Marshal(masker.MaskData(data)); err != nil {
			return nil, action.Errorf(action.Internal, "output: %w", err)
		}
	}
	if len(raw) > limit {
		return nil, action.Errorf(action.Failed, "the output is %d bytes; more than %d do not fit into an execution's history", len(raw), limit)
	}
	return raw, nil
}

// heart tells the engine, a few times within the heartbeat timeout, that the
// call is alive and what is known of it.
type heart struct {
	ctx    context.Context
	masker *secret.Masker
	quit   chan struct{}
	done   chan struct{}

	mu     sync.Mutex
	detail any
	said   said // since nobody listens
	once   sync.Once
}

func startHeart(ctx context.Context, info activity.Info, masker *secret.Masker) *heart {
	// The first detail is there at once: it proves that the work has begun.
	h := &heart{ctx: ctx, masker: masker, quit: make(chan struct{}), done: make(chan struct{}),
		detail: map[string]any{"attempt": info.Attempt}}
	if info.HeartbeatTimeout <= 0 {
		close(h.done)
		return h
	}
	h.beat()
	go func() {
		defer close(h.done)
		tick := time.NewTicker(max(info.HeartbeatTimeout/3, 10*time.Millisecond))
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				h.beat()
			case <-h.quit:
				return
			case <-ctx.Done():
				if abandoned(ctx) {
					h.ask(info, tick)
					return
				}
				// Until the action has ended its work it has to be known to be alive;
				// the SDK still sends what is recorded after a cancel.
				select {
				case <-tick.C:
					h.beat()
				case <-h.quit:
					return
				}
			}
		}
	}()
	return h
}

// maxHeartbeat bounds one heartbeat's detail.
const maxHeartbeat = 16 << 10

// set is action.Call.Heartbeat. The detail goes out with the next beat: the
// engine needs no more of them, however often an action calls.
func (h *heart) set(detail any) {
	h.mu.Lock()
	h.detail = detail
	h.mu.Unlock()
}

func (h *heart) beat() { activity.RecordHeartbeat(h.ctx, h.now()) }

// now is the present detail.
func (h *heart) now() json.RawMessage {
	h.mu.Lock()
	detail := h.detail
	h.mu.Unlock()
	raw, err := encode(detail, h.masker, maxHeartbeat)
	if err != nil {
		raw = json.RawMessage(fmt.Sprintf("%q", "detail too large"))
	}
	return raw
}

// ask goes on with heartbeats when the SDK has given up, until the engine says that it
// does not want this attempt any more.
func (h *heart) ask(info activity.Info, tick *time.Ticker) {
	c := activity.GetClient(h.ctx)
	for {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(h.ctx), info.HeartbeatTimeout/3)
		err := c.RecordActivityHeartbeat(ctx, info.TaskToken, h.now())
		cancel()
		var gone *serviceerror.NotFound
		var cancelled *temporal.CanceledError
		h.mu.Lock()
		switch {
		case err == nil:
			h.said = said{wanted: true, known: true}
		case errors.As(err, &gone), errors.As(err, &cancelled):
			h.said = said{known: true}
		default:
			h.said = said{}
		}
		last := h.said
		h.mu.Unlock()
		if last.known && !last.wanted {
			return
		}
		select {
		case <-tick.C:
		case <-h.quit:
			return
		}
	}
}

// said is what the engine has said of the attempt.
type said struct{ wanted, known bool }

// wanted is action.Call.Wanted.
func (h *heart) wanted() (wanted, known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.said.wanted, h.said.known
}

func (h *heart) stop() {
	h.once.Do(func() { close(h.quit) })
	<-h.done
}
