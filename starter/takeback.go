package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflow "go.temporal.io/api/workflow/v1"

	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/workflows"
)

// takeBack starts an execution that takes back what one that has ended has left.
func (a *app) takeBack(ctx context.Context, s *server, info *workflow.WorkflowExecutionInfo, said workflows.Answer) error {
	id := info.GetExecution().GetWorkflowId()
	if said.Step != "" {
		return usagef("execution %s has ended: all that it left is taken back, and STEP cannot be given", id)
	}
	short, cancel := context.WithTimeout(ctx, 2*queryTimeout)
	defer cancel()
	parent := info.GetParentExecution().GetWorkflowId()
	if parent != "" && !s.cutOff(short, parent) {
		return fmt.Errorf("execution %s was called by %s, which has what it left, too: %s rollback %s", id, parent, a.again(), runview.Quote(info.GetRootExecution().GetWorkflowId()))
	}
	r, err := s.ending(short, id)
	if err != nil {
		return a.explain(s, id, err)
	}
	switch {
	case r.Left != nil:
	case endedByServer(info):
		return fmt.Errorf("execution %s was ended by the server, and did not say what it left; %s show %s tells what it had done", id, a.again(), runview.Quote(id))
	case r.Failure == nil && r.Outcome != workflows.Succeeded:
		return fmt.Errorf("what execution %s left cannot be read: it ended as %s, and the rest is encrypted with a key that is not here, or was not written by a worker", id, r.Outcome)
	case len(r.NotRolledBack) > 0:
		return fmt.Errorf("what execution %s left cannot be taken back from here: it ran on an older worker, or it is too much for one message; %s show %s names it", id, a.again(), runview.Quote(id))
	default:
		return fmt.Errorf("execution %s has ended (%s) and left nothing that can be taken back", id, r.Outcome)
	}
	start, err := s.started(ctx, id)
	if err != nil {
		return fmt.Errorf("how %s was started cannot be read: %w", id, err)
	}
	back, err := a.backOf(ctx, s, info)
	if err != nil {
		return err
	}
	err = a.start(ctx, s, workflows.Start{
		Inputs:   start.Inputs,
		Caller:   said.By,
		Only:     start.Only,
		TakeBack: &workflows.TakeBack{Of: id, Run: info.GetExecution().GetRunId(), Program: start.Program, Left: r.Left},
	}, back)
	if err != nil {
		return a.lost(s, back, err)
	}
	x := s.execution(back)
	if a.json() {
		return printJSON(a.stdout, struct {
			runview.Execution
			TakesBack string `json:"takes_back"`
			LeftCount int    `json:"left_count"`
		}{x, id, r.LeftCount})
	}
	if more := len(r.NotRolledBack) - r.LeftCount; more > 0 {
		fmt.Fprintf(a.stderr, "%d more could not be rolled back and are not among them, since they were too much for a message or an older worker's: %s show %s names all\n", more, a.again(), runview.Quote(id))
	}
	fmt.Fprintf(a.stdout, "%s takes back %s of %s as %s; follow it with: %s watch %s\n", back, plural(r.LeftCount, "step"), id, said.By, a.again(), runview.Quote(back))
	return nil
}

// cutOff tells whether an execution was ended by the server, or is gone: what those that it called have left is in
// their own results only.
func (s *server) cutOff(ctx context.Context, id string) bool {
	d, err := s.describe(ctx, id)
	var none *serviceerror.NotFound
	return errors.As(err, &none) || err == nil && endedByServer(d.GetWorkflowExecutionInfo())
}

func endedByServer(info *workflow.WorkflowExecutionInfo) bool {
	status := info.GetStatus()
	return status == enums.WORKFLOW_EXECUTION_STATUS_TERMINATED || status == enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT
}

// backOf finds an id for the execution that takes back what one has left. There is one such only that has begun: a
// second one would take back again what the first has taken back.
func (a *app) backOf(ctx context.Context, s *server, of *workflow.WorkflowExecutionInfo) (string, error) {
	id := of.GetExecution().GetWorkflowId()
	for back := nextBack(id); ; back = nextBack(back) {
		d, err := s.describe(ctx, back)
		var none *serviceerror.NotFound
		if errors.As(err, &none) {
			return back, nil
		}
		if err != nil {
			return "", a.explain(s, back, err)
		}
		info := d.GetWorkflowExecutionInfo()
		if info.GetType().GetName() != of.GetType().GetName() {
			continue // somebody else's
		}
		start, err := s.started(ctx, back)
		if err != nil {
			return "", fmt.Errorf("whether %s has taken back what %s left cannot be read: %w", back, id, err)
		}
		if start.TakeBack == nil || start.TakeBack.Of != id || start.TakeBack.Run != of.GetExecution().GetRunId() {
			continue // somebody else's, or of an earlier execution under this id
		}
		switch {
		case info.GetStatus() == enums.WORKFLOW_EXECUTION_STATUS_RUNNING:
			return "", fmt.Errorf("%s is about it; follow it with: %s watch %s", back, a.again(), runview.Quote(back))
		case endedByServer(info):
			return "", fmt.Errorf("%s was about it, was ended by the server, and did not say what it left; %s show %s tells what it had done", back, a.again(), runview.Quote(back))
		}
		r, err := s.ending(ctx, back)
		if err != nil {
			return "", a.explain(s, back, err)
		}
		if r.Outcome == workflows.Failed && r.Failure != nil && r.Left == nil {
			continue // it was refused, by an older worker perhaps, and did nothing
		}
		return "", fmt.Errorf("%s has done that (%s show %[3]s); what it left in turn is taken back by: %[2]s rollback %[3]s", back, a.again(), runview.Quote(back))
	}
}

var backRE = regexp.MustCompile(`^(.*-rollback)(?:-(\d+))?$`)

// nextBack is the id of the execution that takes back what another has left:
// X-rollback for X, X-rollback-2 for that, and so on.
func nextBack(id string) string {
	m := backRE.FindStringSubmatch(id)
	if m == nil {
		const most = 900 // bytes; the server takes a thousand
		if len(id) > most {
			sum := sha256.Sum256([]byte(id))
			id = strings.ToValidUTF8(id[:most-20], "") + fmt.Sprintf("~%x", sum[:8])
		}
		return id + "-rollback"
	}
	n, err := strconv.Atoi(m[2])
	if err != nil {
		n = 1
	}
	return fmt.Sprintf("%s-%d", m[1], n+1)
}
