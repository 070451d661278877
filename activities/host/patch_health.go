package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/command"
	"github.com/almanac-run/almanac/internal/journal"
	"github.com/almanac-run/almanac/internal/output"
)

// When the node's health is looked at.
const (
	afterInstall = "the installation"
	afterRestart = "the restart"
	afterRestore = "the updates were taken back"
)

const (
	usualHealthTimeout = 5 * time.Minute
	mostComplaint      = 200 // characters of its last line that an error quotes
)

// healthLook is what a look at the node's health has found.
type healthLook struct {
	When     string `json:"when"`
	Ill      string `json:"ill,omitempty"` // what the script says against it; empty if it succeeded
	ExitCode int    `json:"exit_code"`
	Tail     string `json:"tail,omitempty"` // the last lines of its output
}

// healthScript is the script as host.command.run takes it.
func (in patchInstallInput) healthScript() commandRunInput {
	return commandRunInput{Script: in.Health, Shell: in.HealthShell, Env: in.HealthEnv}
}

// healthy is the error of a node that is ill at that time, once what is to happen then has happened.
func (p *patching) healthy(ctx context.Context, in patchInstallInput, when string) error {
	found, err := p.look(ctx, in, when)
	if err != nil || found.Ill == "" {
		return err
	}
	changed, added, removed := compare(p.state.Before.Installed, p.state.After.Installed)
	updates := len(changed) + len(added) + len(removed)
	detail := p.detail(updates)
	detail.ExitCode, detail.Tail = found.ExitCode, found.Tail
	text, many := "health check failed: "+found.Ill, "updates"
	if updates == 1 {
		many = "update"
	}
	if n := len(p.state.Failures); n > 0 {
		text += fmt.Sprintf("; %d of the approved updates were not installed", n)
	}
	switch {
	case updates == 0:
		text += "; this step has changed no package"
	case in.OnUnhealthy == "keep":
		text += fmt.Sprintf("; %d %s kept", updates, many)
	default:
		err := p.takeBack(ctx)
		var e *action.Error
		switch {
		case err == nil:
			text += fmt.Sprintf("; %d %s taken back", updates, many)
			detail.Upgraded = 0
		case errors.As(err, &e) && e.Kind == action.Failed: // some could not be, and are named
			text += "; " + err.Error()
			if d, ok := e.Detail.(PatchDetail); ok {
				detail.Failed, detail.Upgraded = d.Failed, len(d.Failed)
			}
		case errors.As(err, &e):
			return &action.Error{Kind: e.Kind, Detail: detail, Err: fmt.Errorf("%s; taking the updates back: %w", text, err)} // the next attempt goes on here
		default:
			return err
		}
		switch again, err := p.look(ctx, in, afterRestore); {
		case action.KindOf(err) == action.Lost || action.KindOf(err) == action.Unavailable || ctx.Err() != nil:
			return err
		case err != nil:
			text += "; its health could not be looked at again: " + err.Error()
		case again.Ill != "":
			text += "; it is still not healthy: " + again.Ill
		default:
			text += "; it is healthy again"
		}
	}
	detail.Ref, detail.Size = p.output()
	return &action.Error{Kind: action.Failed, Err: errors.New(text), Detail: detail}
}

// look runs the health script, once for each time that there is something to
// look at. A run that says nothing about the node, as when the agent stops, is done anew.
func (p *patching) look(ctx context.Context, in patchInstallInput, when string) (healthLook, error) {
	if in.Health == "" {
		return healthLook{}, nil
	}
	if i := slices.IndexFunc(p.state.Looks, func(l healthLook) bool { return l.When == when }); i >= 0 {
		return p.state.Looks[i], nil
	}
	entry, err := p.node.Journal().Entry(fmt.Sprintf("%s-health-%d", p.call.Token, p.state.Look))
	if err != nil {
		return healthLook{}, stateError(err)
	}
	outputs := output.Dir(p.node.OutputDir)
	timeout := cmp.Or(time.Duration(in.HealthTimeout), usualHealthTimeout)
	var specErr error
	job := command.Job{
		Entry: entry, Execution: p.call.Execution, Step: p.call.Step, Idempotent: true,
		Stopping: p.node.Stopping, Nobody: p.node.nobody(p.call), Abandoned: p.call.Abandoned,
		Spec: func() (command.Spec, error) {
			p.note("almanac: health check after " + when)
			spec, err := p.node.commandSpec(ctx, in.healthScript())
			spec.Deadline, specErr = time.Now().Add(timeout), err
			if d, ok := ctx.Deadline(); ok {
				d = d.Add(-min(3*time.Second, time.Until(d)/10)) // with time to say so
				if d.Before(spec.Deadline) {
					spec.Deadline = d
				}
			}
			return spec, err
		},
		Watch: func(rec journal.Record) { p.call.Heartbeat(commandDetail(outputs, rec, 1)) },
	}
	rec, err := command.Run(ctx, job)
	var unknown *command.UnknownError
	for try := 1; errors.As(err, &unknown) && try < 3; try++ {
		rec, err = command.Run(ctx, job)
	}
	switch {
	case specErr != nil:
		return healthLook{}, specErr
	case errors.Is(err, command.ErrStopping), errors.Is(err, command.ErrSuperseded):
		return healthLook{}, &action.Error{Kind: action.Lost, Err: err}
	case errors.Is(err, command.ErrNoMain):
		return healthLook{}, action.Errorf(action.Internal, "run the health check: %w", err)
	case err != nil && ctx.Err() != nil:
		return healthLook{}, err
	case err != nil:
		return healthLook{}, action.Errorf(action.Unavailable, "run the health check: %w", err)
	case rec.Error != "" && rec.Passing:
		return healthLook{}, action.Errorf(action.Unavailable, "the health check could not be started: %s", rec.Error)
	case rec.Error != "":
		return healthLook{}, action.Errorf(action.Invalid, "the health check could not be started: %s", rec.Error)
	}
	next := p.state.clone()
	next.Look++
	detail := commandDetail(outputs, rec, tailLines)
	found := healthLook{When: when, ExitCode: rec.ExitCode, Tail: detail.Tail}
	var nothing error // the run says nothing about the node
	switch ran := rec.EndedAt.Sub(rec.StartedAt); {
	case rec.Stopped == journal.Cancelled:
		nothing = action.Errorf(action.Cancelled, "the health check was cancelled; the updates are kept")
	case rec.Stopped == journal.TimedOut && ran < timeout-time.Second:
		nothing = action.Errorf(action.Timeout, "the step's timeout passed during the health check; the updates are kept")
	case rec.Stopped == journal.TimedOut:
		found.Ill = fmt.Sprintf("it did not end within %s", timeout)
	case rec.Stopped != "":
		nothing = action.Errorf(action.Unavailable, "the health check was ended from outside (is the node shutting down?)")
	case rec.ExitCode != 0:
		found.Ill = fmt.Sprintf("exit %d", rec.ExitCode)
	}
	if nothing == nil {
		if line := lastLine(found.Tail); found.Ill != "" && line != "" {
			found.Ill += ": " + line
		}
		next.Looks = append(next.Looks, found)
	}
	if err := p.save(next); err != nil {
		return healthLook{}, err
	}
	return found, nothing
}

// lastLine is the last line of a text that is not blank, abridged.
func lastLine(text string) string {
	text = strings.TrimSpace(text)
	line := []rune(strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:]))
	if len(line) > mostComplaint {
		line = append(line[:mostComplaint-1], '…')
	}
	return string(line)
}
