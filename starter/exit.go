package main

import (
	"fmt"
	"strings"

	"github.com/almanac-run/almanac/workflows"
)

// The exit codes. Scripts rely on them: do not renumber.
const (
	exitSucceeded      = 0
	exitFailed         = 1
	exitUsage          = 2
	exitInvalid        = 3
	exitNoServer       = 4
	exitRolledBack     = 5
	exitCancelled      = 6
	exitRollbackFailed = 7
	exitTimedOut       = 8
	exitDetached       = 9
	exitLeftBehind     = 10
	exitTestFailed     = 11
	exitNotCompliant   = 12
)

// exitCodes is what the help text and docs/cli.md say of them.
var exitCodes = []struct {
	code    int
	meaning string
}{
	{exitSucceeded, "it succeeded; or what was asked is done (`--detach`: the execution is started)"},
	{exitFailed, "the execution failed and was not rolled back; or the command could not do what was asked"},
	{exitUsage, "the command line is wrong"},
	{exitInvalid, "the runbook has mistakes, or its inputs do; nothing was started"},
	{exitNoServer, "no Temporal server could be reached, or it stopped answering"},
	{exitRolledBack, "the execution failed, and what it had done was rolled back"},
	{exitCancelled, "the execution was cancelled"},
	{exitRollbackFailed, "the execution failed, and something could not be rolled back"},
	{exitTimedOut, "the execution took longer than its timeout"},
	{exitDetached, "Ctrl-C: the execution goes on without being followed"},
	{exitLeftBehind, "rehearse: in some run something was left behind"},
	{exitTestFailed, "test: a test failed"},
	{exitNotCompliant, "compliance: nodes lack what `--fail-on` names"},
}

func exitText() string {
	var b strings.Builder
	b.WriteString("Exit codes:\n")
	for _, e := range exitCodes {
		fmt.Fprintf(&b, "  %-2d %s\n", e.code, e.meaning)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// exitOf is the exit code of an execution that ended.
func exitOf(o workflows.Outcome) int {
	switch o {
	case workflows.Succeeded:
		return exitSucceeded
	case workflows.RolledBack:
		return exitRolledBack
	case workflows.Cancelled:
		return exitCancelled
	case workflows.RollbackFailed:
		return exitRollbackFailed
	case workflows.TimedOut:
		return exitTimedOut
	}
	return exitFailed
}

// exitError ends the program with a code; err is nil if all has been said.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

// Unwrap returns the cause.
func (e *exitError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

func invalidf(format string, args ...any) error {
	return &exitError{exitInvalid, fmt.Errorf(format, args...)}
}
