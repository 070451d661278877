package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// mostChildren bounds how many child runbooks of an execution are asked for
// their targets.
const mostChildren = 1000

// rest is what a finished execution has left undone on its targets.
type rest struct {
	of         string           // its id
	start      *workflows.Start // what it was started with
	nodes      []string         // on which a step failed, was unreached, skipped or cut off; sorted
	rolledBack int              // other nodes on which something was done and taken back again
}

// restOf asks a finished execution on which targets it did not do its work.
func (a *app) restOf(ctx context.Context, s *server, id string) (*rest, error) {
	d, err := s.describe(ctx, id)
	if err != nil {
		return nil, a.explain(s, id, err)
	}
	if d.GetWorkflowExecutionInfo().GetCloseTime() == nil {
		return nil, usagef("execution %s has not ended: what fails is known when it has; follow it with: %s watch %s", id, a.again(), runview.Quote(id))
	}
	r := &rest{of: id}
	if r.start, err = s.started(ctx, id); err != nil {
		return nil, fmt.Errorf("how %s was started cannot be read: %w", id, err)
	}
	targets, err := s.targets(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("the targets of %s are not known (%w); is a worker running?", id, err)
	}
	left := map[string]bool{}
	for _, t := range targets {
		if notDone(t.State) {
			left[t.Target] = true
		}
	}
	if len(left) == 0 {
		return nil, invalidf("on no target of %s did anything fail, and none was unreached or skipped: there is nothing to run again", id)
	}
	r.nodes = slices.Sorted(maps.Keys(left))
	short, cancel := context.WithTimeout(ctx, 2*queryTimeout)
	defer cancel()
	if result, err := s.result(short, id); err == nil {
		back := map[string]bool{}
		for _, name := range result.RolledBack {
			if _, node, ok := strings.Cut(name, "@"); ok && !left[node] {
				back[node] = true
			}
		}
		r.rolledBack = len(back)
	}
	return r, nil
}

// notDone tells whether a step has not done its work on a target.
func notDone(state string) bool {
	switch state {
	case workflows.StateFailed, workflows.StateUnreached, workflows.StateSkipped, workflows.StateCancelled:
		return true
	}
	return false
}

// inputsFor are the inputs of the execution that the program has, too.
func (r *rest) inputsFor(prog *program.Program) map[string]json.RawMessage {
	given := map[string]json.RawMessage{}
	for name, raw := range r.start.Inputs {
		if _, known := input(prog, name); known {
			given[name] = raw
		}
	}
	return given
}

// String says on what the execution that is about to start will run.
func (r *rest) String() string {
	const most = 8
	names := strings.Join(r.nodes[:min(most, len(r.nodes))], ", ")
	if n := len(r.nodes) - most; n > 0 {
		names += fmt.Sprintf(" and %d more", n)
	}
	s := fmt.Sprintf("only on %s, where %s did not do its work: %s; steps on one node run as they are", plural(len(r.nodes), "target"), r.of, names)
	if r.rolledBack > 0 {
		s += fmt.Sprintf("\nwhat it did on %s was rolled back, and is not done again", plural(r.rolledBack, "other target"))
	}
	return runview.Clean(s)
}

// onSeveral tells whether a program has a step on several targets.
func onSeveral(prog *program.Program) bool {
	var any func(steps []program.Step) bool
	any = func(steps []program.Step) bool {
		return slices.ContainsFunc(steps, func(s program.Step) bool {
			return s.Targets != nil && !s.Targets.Single || any(s.Steps) ||
				slices.ContainsFunc(s.Branches, func(b program.Branch) bool { return any(b.Steps) }) ||
				s.OnError != nil && any(s.OnError.Steps)
		})
	}
	if any(prog.Steps) || any(prog.Finally) {
		return true
	}
	for _, child := range prog.Children {
		if any(child.Steps) || any(child.Finally) {
			return true
		}
	}
	return false
}

// targets lists how the targets of an execution stand, and of the runbooks that
// it called, whose steps have the path of the calling step before their own.
func (s *server) targets(ctx context.Context, id string) ([]workflows.TargetView, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	children := 0
	var of func(id, prefix string) ([]workflows.TargetView, error)
	of = func(id, prefix string) ([]workflows.TargetView, error) {
		var all []workflows.TargetView
		for from := 0; ; {
			var page workflows.TargetsPage
			answer, err := s.QueryWorkflow(ctx, id, "", workflows.QueryTargets, from)
			if err == nil {
				err = answer.Get(&page)
			}
			if err != nil {
				return nil, err
			}
			for _, t := range page.Targets {
				t.Step = prefix + t.Step
				all = append(all, t)
			}
			if page.Next <= from {
				break
			}
			from = page.Next
		}
		v, err := s.view(ctx, id)
		if err != nil {
			return nil, err
		}
		for _, step := range v.Steps {
			if step.Child == "" || step.StartedAt == nil || children == mostChildren {
				continue
			}
			children++
			inner, err := of(step.Child, prefix+step.Path+".")
			if err != nil {
				return nil, err
			}
			all = append(all, inner...)
		}
		return all, nil
	}
	return of(id, "")
}
