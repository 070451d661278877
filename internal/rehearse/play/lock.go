package play

import (
	"fmt"
	"slices"
	"strings"

	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/workflows"
)

// Locks are played by the state machine of the real ones, without their workflow.

// Lock lets another execution ask for a lock, give it back, or pass it on.
func (s *Stage) Lock(lock string, m workflows.LockMessage) { _ = s.said(lock, m) }

// said tells a lock what an execution says, and executions what it answers.
func (s *Stage) said(lock string, m workflows.LockMessage) error {
	if s.locks == nil {
		s.locks = map[string]*workflows.Turns{}
	}
	t := s.locks[lock]
	if t == nil {
		t = &workflows.Turns{Key: lock}
		s.locks[lock] = t
	}
	what := m.Verb + " " + s.who(m.Claim.ID)
	if m.To != nil {
		what += " to " + s.who(m.To.ID)
	}
	s.lockNote(lock, what)
	var turns []workflows.Turn
	if refused := t.Apply(m); refused != nil {
		turns = append(turns, *refused)
	}
	for more := t.Next(100); len(more) > 0; more = t.Next(100) {
		turns = append(turns, more...)
	}
	for _, turn := range turns {
		what := "held by " + s.who(turn.ID)
		if !turn.Held {
			var behind []string
			for _, id := range turn.Behind {
				behind = append(behind, s.who(id))
			}
			what = fmt.Sprintf("%s waits behind %s, %d before it", s.who(turn.ID), strings.Join(behind, ", "), turn.Ahead)
		}
		s.lockNote(lock, what)
		if turn.ID == s.id || strings.HasPrefix(turn.ID, s.id+"/") {
			s.mail = append(s.mail, &turn)
			s.deliver(&turn)
		}
	}
	return nil
}

func (s *Stage) lockNote(lock, what string) {
	if s.Locks != nil {
		s.Locks(lock, what)
	}
}

// who is an execution's name in what is told: the outermost is "this".
func (s *Stage) who(id string) string {
	if rest, ok := strings.CutPrefix(id, s.id); ok && s.id != "" {
		return "this" + rest
	}
	return id
}

// deliver gives an execution its turn; the next run gets it if this one ends before.
func (s *Stage) deliver(turn *workflows.Turn) {
	s.env.RegisterDelayedCallback(func() {
		if !slices.Contains(s.mail, turn) {
			return
		}
		s.mail = slices.DeleteFunc(s.mail, func(o *workflows.Turn) bool { return o == turn })
		if s.Cut { // the server may suggest it in the very task that brings the turn
			s.env.SetContinueAsNewSuggested(true)
		}
		if turn.ID == s.id {
			s.env.SignalWorkflow(workflows.SignalTurn, *turn)
			return
		}
		_ = s.env.SignalWorkflowByID(turn.ID, workflows.SignalTurn, *turn) // a child that has ended hears nothing
	}, 0)
}

func (o *outbound) SignalExternalWorkflow(ctx workflow.Context, id, run, name string, arg any) workflow.Future {
	m, ok := arg.(workflows.LockMessage)
	if !ok || name != workflows.SignalLock {
		return o.Next.SignalExternalWorkflow(ctx, id, run, name, arg)
	}
	f, settable := workflow.NewFuture(ctx)
	settable.Set(nil, o.stage.said(id, m))
	return f
}
