// Package worklog makes the log of a program that does the work of executions.
//
// It gives New. It promises one name for each thing, whoever writes the line, we
// or Temporal's SDK: execution, run, runbook, step, node, action, attempt; and that what an
// action or a workflow failed with is told as its kind: its message may hold what
// a command printed or was given. It refuses to know where the log goes.
package worklog

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"go.temporal.io/sdk/temporal"
)

// Formats are the values of --log-format.
const (
	Text = "text"
	JSON = "json"
)

// New returns a logger for a format and a level (debug, info, warn or error).
func New(w io.Writer, format, level string) (*slog.Logger, error) {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: want debug, info, warn or error", level)
	}
	o := &slog.HandlerOptions{Level: least, ReplaceAttr: replace}
	switch format {
	case Text:
		return slog.New(slog.NewTextHandler(w, o)), nil
	case JSON:
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, fmt.Errorf("log format %q: want text or json", format)
}

// names are what the SDK calls things that have a name here.
var names = map[string]string{
	"WorkflowID":   "execution",
	"RunID":        "run",
	"WorkflowType": "runbook",
	"ActivityID":   "step",
	"ActivityType": "action",
	"Attempt":      "attempt",
	"Namespace":    "namespace",
	"TaskQueue":    "task_queue",
	"WorkerID":     "worker",
	"Error":        "error",
}

// LeftOut stands where the SDK would log a value of somebody's.
const LeftOut = "(left out)"

func replace(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	if name, ok := names[a.Key]; ok {
		a.Key = name
	}
	switch a.Key {
	case "Result":
		return slog.String(a.Key, LeftOut)
	case "PanicError":
		// Of the runtime, as "index out of range", or of somebody, with who knows what in it.
		if !strings.HasPrefix(a.Value.String(), "runtime error: ") {
			return slog.String(a.Key, LeftOut)
		}
	case "step":
		// An activity's id is "path@node", and from the second time on "path@node#2".
		path, node, on := strings.Cut(a.Value.String(), "@")
		if on {
			node, again, more := strings.Cut(node, "#")
			if more {
				path += "#" + again
			}
			return slog.Attr{Value: slog.GroupValue(slog.String("step", path), slog.String("node", node))}
		}
	}
	if a.Value.Kind() == slog.KindDuration { // JSON would have nanoseconds
		return slog.String(a.Key, a.Value.Duration().String())
	}
	if err, ok := a.Value.Any().(error); ok {
		return slog.String(a.Key, Describe(err))
	}
	return a
}

// Describe is an error as the log tells it.
func Describe(err error) string {
	var app *temporal.ApplicationError
	var panicked *temporal.PanicError
	switch {
	case errors.As(err, &app):
		return app.Type()
	case errors.As(err, &panicked):
		return "panic"
	}
	return err.Error()
}
