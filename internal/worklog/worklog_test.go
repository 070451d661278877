package worklog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
)

// What the SDK says of an activity has our names, and nothing of what it was about.
func TestNames(t *testing.T) {
	var out bytes.Buffer
	logger, err := New(&out, JSON, "debug")
	if err != nil {
		t.Fatal(err)
	}
	failed := temporal.NewApplicationError("exit status 1: canary", "failed", "canary")
	sdk := log.NewStructuredLogger(logger)
	log.With(sdk, "Namespace", "default", "WorkflowID", "e1").Error("Activity error.",
		"RunID", "r1", "ActivityID", "deploy[2].restart@web-1#3", "ActivityType", "host.run", "Attempt", 2,
		"took", 90*time.Second, "Result", []byte("canary"), "Error", fmt.Errorf("wrapped: %w", failed), "PanicError", "canary")
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	for key, want := range map[string]any{
		"execution": "e1", "run": "r1", "step": "deploy[2].restart#3", "node": "web-1", "action": "host.run",
		"attempt": 2.0, "took": "1m30s", "error": "failed", "Result": LeftOut, "PanicError": LeftOut, "level": "ERROR",
	} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
	if strings.Contains(out.String(), "canary") {
		t.Errorf("the log tells what nobody should read: %s", out.String())
	}
}

// What is of use to who looks for a fault is kept.
func TestKept(t *testing.T) {
	var out bytes.Buffer
	logger, err := New(&out, Text, "warn")
	if err != nil {
		t.Fatal(err)
	}
	logger.Info("not told")
	logger.Warn("no connection", "error", errors.New("connection refused"), "step", "one", "PanicError", "runtime error: index out of range [3]")
	for _, want := range []string{`error="connection refused"`, "step=one", "index out of range"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s is missing: %s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "not told") {
		t.Error("the level is not kept")
	}
}

func TestMistakes(t *testing.T) {
	for _, tt := range [][3]string{{"xml", "info", `log format "xml": want text or json`}, {"text", "loud", `log level "loud": want debug, info, warn or error`}} {
		if _, err := New(&bytes.Buffer{}, tt[0], tt[1]); err == nil || err.Error() != tt[2] {
			t.Errorf("%v, want %s", err, tt[2])
		}
	}
}
