package activities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/action"
)

type testInput struct {
	Do   string        `json:"do" jsonschema:"what to do"`
	With action.Secret `json:"with,omitzero" jsonschema:"a value"`
}

type testOutput struct {
	Text string         `json:"text,omitempty" jsonschema:"text"`
	More map[string]any `json:"more,omitempty" jsonschema:"more"`
}

const password = "hunter2-hunter2"

// behaviours are what the test's action does, by name.
var behaviours = map[string]func(ctx context.Context, in testInput) (testOutput, error){
	"call": func(ctx context.Context, in testInput) (testOutput, error) {
		c := action.FromContext(ctx)
		return testOutput{Text: fmt.Sprint(c.Token, " ", c.Execution, " ", c.Attempt, " ", c.Step != "")}, nil
	},
	"reveal": func(ctx context.Context, in testInput) (testOutput, error) {
		v, err := in.With.Reveal(ctx)
		return testOutput{Text: "is " + v, More: map[string]any{v: []any{v, 12345678901234567, 1.5}}}, err
	},
	"fail with secret": func(ctx context.Context, in testInput) (testOutput, error) {
		v, _ := in.With.Reveal(ctx)
		return testOutput{}, &action.Error{Kind: action.Failed, Err: errors.New("cannot log in with " + v), Detail: map[string]string{"said": v}}
	},
	"wrapped": func(context.Context, testInput) (testOutput, error) {
		return testOutput{}, fmt.Errorf("around: %w", action.Errorf(action.Throttled, "slow down"))
	},
	"unclassified": func(context.Context, testInput) (testOutput, error) { return testOutput{}, errors.New("oops") },
	"panic":        func(context.Context, testInput) (testOutput, error) { panic("oh no") },
	"nil pointer": func(context.Context, testInput) (testOutput, error) {
		var p *testInput
		return testOutput{Text: p.Do}, nil
	},
	"large output": func(context.Context, testInput) (testOutput, error) {
		return testOutput{Text: strings.Repeat("x", 2<<20)}, nil
	},
	"large message": func(context.Context, testInput) (testOutput, error) {
		return testOutput{}, action.Errorf(action.Failed, "begin %s end", strings.Repeat("ü\xff", 1<<20))
	},
	"large detail": func(context.Context, testInput) (testOutput, error) {
		return testOutput{}, &action.Error{Kind: action.Failed, Err: errors.New("x"), Detail: strings.Repeat("x", 1<<20)}
	},
	"wait": func(ctx context.Context, in testInput) (testOutput, error) {
		<-ctx.Done()
		return testOutput{}, action.Errorf(action.Cancelled, "stopped: %w", ctx.Err())
	},
	"beat": func(ctx context.Context, in testInput) (testOutput, error) {
		v, _ := in.With.Reveal(ctx)
		action.FromContext(ctx).Heartbeat(map[string]string{"line": "logging in with " + v})
		time.Sleep(200 * time.Millisecond)
		return testOutput{}, nil
	},
}

func testAction() action.Action {
	return action.New(action.Def[testInput, testOutput]{
		Name: "test.thing.do", Summary: "Do a thing",
		Do: func(ctx context.Context, in testInput) (testOutput, error) { return behaviours[in.Do](ctx, in) },
		Compensate: func(ctx context.Context, in testInput, out *testOutput) error {
			if out == nil {
				return action.Errorf(action.Conflict, "%s: nothing is known", action.FromContext(ctx).Token)
			}
			return action.Errorf(action.Denied, "known: %s", out.Text)
		},
	})
}

func environment(t *testing.T) *testsuite.TestActivityEnvironment {
	env := quiet().NewTestActivityEnvironment()
	Register(env, []action.Action{testAction()}, options())
	return env
}

func quiet() *testsuite.WorkflowTestSuite {
	s := &testsuite.WorkflowTestSuite{}
	s.SetLogger(log.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	return s
}

func options() Options {
	return Options{
		Secrets: func(_ context.Context, ref string) (string, error) {
			switch ref {
			case "env:PASSWORD":
				return password, nil
			case "env:DENIED":
				return "", fmt.Errorf("secret %s: %w", ref, fs.ErrPermission)
			}
			return "", fmt.Errorf("secret %s: %w", ref, fs.ErrNotExist)
		},
		Logger: slog.New(slog.DiscardHandler),
	}
}

func input(do, ref string) json.RawMessage {
	in := map[string]any{"do": do}
	if ref != "" {
		in["with"] = map[string]string{"$secret": ref}
	}
	b, _ := json.Marshal(in)
	return b
}

func TestResults(t *testing.T) {
	tests := []struct{ do, ref, want string }{
		{"call", "", `{"text":"tok default-test-workflow-id 1 true"}`},
		{"reveal", "env:PASSWORD", `{"more":{"***":["***",12345678901234567,1.5]},"text":"is ***"}`},
	}
	for _, tt := range tests {
		v, err := environment(t).ExecuteActivity("test.thing.do", "tok", input(tt.do, tt.ref))
		if err != nil {
			t.Errorf("%s: %v", tt.do, err)
			continue
		}
		var got json.RawMessage
		if err := v.Get(&got); err != nil || string(got) != tt.want {
			t.Errorf("%s: %s, %v; want %s", tt.do, got, err, tt.want)
		}
	}
}

func TestErrors(t *testing.T) {
	tests := []struct {
		do, ref string
		kind    action.Kind
		message string // begins so
		detail  string
	}{
		{"fail with secret", "env:PASSWORD", action.Failed, "cannot log in with ***", `{"said":"***"}`},
		{"reveal", "env:NONE", action.NotFound, "secret env:NONE", ""},
		{"reveal", "env:DENIED", action.Denied, "secret env:DENIED", ""},
		{"wrapped", "", action.Throttled, "around: slow down", ""},
		{"unclassified", "", action.Internal, "oops", ""},
		{"panic", "", action.Internal, "panic: oh no", ""}, // and no stack, see below
		{"nil pointer", "", action.Internal, "panic: runtime error", ""},
		{"large output", "", action.Failed, "the output is 2097163 bytes", ""},
		{"large message", "", action.Failed, "begin ü", ""},
		{"large detail", "", action.Failed, "x", ""},
	}
	for _, tt := range tests {
		_, err := environment(t).ExecuteActivity("test.thing.do", "tok", input(tt.do, tt.ref))
		var app *temporal.ApplicationError
		if !errors.As(err, &app) {
			t.Errorf("%s: %v", tt.do, err)
			continue
		}
		if app.Type() != string(tt.kind) || !strings.HasPrefix(app.Message(), tt.message) || app.NonRetryable() {
			t.Errorf("%s: %s %.80q, want %s %q", tt.do, app.Type(), app.Message(), tt.kind, tt.message)
		}
		if len(app.Message()) > MaxMessage || !utf8.ValidString(app.Message()) {
			t.Errorf("%s: message of %d bytes", tt.do, len(app.Message()))
		}
		if strings.Contains(app.Message(), "goroutine") {
			t.Errorf("%s: the message holds a stack: %q", tt.do, app.Message())
		}
		if tt.do == "large message" && !strings.HasSuffix(app.Message(), " end") {
			t.Errorf("the end is lost: %q", app.Message()[len(app.Message())-40:])
		}
		var detail json.RawMessage
		if app.HasDetails() {
			app.Details(&detail)
		}
		if string(detail) != tt.detail {
			t.Errorf("%s: detail %s, want %s", tt.do, detail, tt.detail)
		}
		if strings.Contains(err.Error(), password) {
			t.Errorf("%s: the error shows the secret: %v", tt.do, err)
		}
	}
}

func TestCompensation(t *testing.T) {
	tests := []struct{ output, kind, message string }{
		{`null`, "conflict", "tok: nothing is known"},
		{`{"text":"it","of_an_older_version":1}`, "denied", "known: it"},
	}
	for _, tt := range tests {
		_, err := environment(t).ExecuteActivity("compensate:test.thing.do", "tok", input("call", ""), json.RawMessage(tt.output))
		var app *temporal.ApplicationError
		if !errors.As(err, &app) || app.Type() != tt.kind || app.Message() != tt.message {
			t.Errorf("%s: %v", tt.output, err)
		}
	}
}

func TestCancelAndTimeout(t *testing.T) {
	env := environment(t)
	ctx, cancel := context.WithCancel(context.Background())
	env.SetWorkerOptions(worker.Options{BackgroundActivityContext: ctx})
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err := env.ExecuteActivity("test.thing.do", "tok", input("wait", ""))
	if !temporal.IsCanceledError(err) {
		t.Errorf("cancelled: %v", err)
	}

	env = environment(t)
	ctx, cancel = context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	env.SetWorkerOptions(worker.Options{BackgroundActivityContext: ctx})
	_, err = env.ExecuteActivity("test.thing.do", "tok", input("wait", ""))
	if !temporal.IsTimeoutError(err) { // the SDK itself says so
		t.Errorf("timed out: %v", err)
	}
}

// The worker stops while an action runs: that is not a cancel of the step.
func TestWorkerStops(t *testing.T) {
	env := environment(t)
	ctx, cancel := context.WithCancel(context.Background())
	env.SetWorkerOptions(worker.Options{BackgroundActivityContext: ctx})
	stopping := make(chan struct{})
	env.SetWorkerStopChannel(stopping)
	time.AfterFunc(50*time.Millisecond, func() { close(stopping); cancel() })
	_, err := env.ExecuteActivity("test.thing.do", "tok", input("wait", ""))
	var app *temporal.ApplicationError
	if !errors.As(err, &app) || app.Type() != string(action.Lost) {
		t.Errorf("%v, want kind lost", err)
	}
}

// The engine closed the call, or cannot be reached: that is not a cancel either.
func TestEngineStopsListening(t *testing.T) {
	env := environment(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	env.SetWorkerOptions(worker.Options{BackgroundActivityContext: ctx})
	time.AfterFunc(50*time.Millisecond, func() { cancel(serviceerror.NewNotFound("no such activity")) })
	_, err := env.ExecuteActivity("test.thing.do", "tok", input("wait", ""))
	var app *temporal.ApplicationError
	if !errors.As(err, &app) || app.Type() != string(action.Lost) {
		t.Errorf("%v, want kind lost", err)
	}
}

func TestHeartbeats(t *testing.T) {
	env := quiet().NewTestWorkflowEnvironment()
	Register(env, []action.Action{testAction()}, options())
	var mu sync.Mutex
	var beats []string
	env.SetOnActivityHeartbeatListener(func(_ *activity.Info, details converter.EncodedValues) {
		var raw json.RawMessage
		details.Get(&raw)
		mu.Lock()
		beats = append(beats, string(raw))
		mu.Unlock()
	})
	env.ExecuteWorkflow(func(ctx workflow.Context) error {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute, HeartbeatTimeout: 120 * time.Millisecond})
		return workflow.ExecuteActivity(ctx, "test.thing.do", "tok", input("beat", "env:PASSWORD")).Get(ctx, nil)
	})
	if err := env.GetWorkflowError(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(beats) < 2 || beats[0] != `{"attempt":1}` {
		t.Fatalf("beats %q: the first must come at once, and others follow", beats)
	}
	if last := beats[len(beats)-1]; last != `{"line":"logging in with ***"}` {
		t.Errorf("last beat %s", last)
	}
}

func TestSeveralActionsAtOnceKeepTheirSecretsApart(t *testing.T) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := environment(t).ExecuteActivity("test.thing.do", "tok", input("reveal", "env:PASSWORD")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
