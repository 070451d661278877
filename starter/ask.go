package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	common "go.temporal.io/api/common/v1"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/almanac-run/almanac/workflows"
)

// askTimeout bounds one question, that of a node which is slow included.
const askTimeout = 2 * time.Minute

// refusal is an answer that is none: its kind is one of action.Kinds.
type refusal struct{ kind, message string }

func (r *refusal) Error() string { return r.message }

// ask looks something up where it is known: by an activity of the control
// worker, or of a node. It is deleted when the answer has come; the server takes a minute for that.
func (s *server) ask(ctx context.Context, activity, node string, in, out any) error {
	input, err := json.Marshal(in)
	if err != nil {
		return err
	}
	random := make([]byte, 10)
	if _, err := rand.Read(random); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	run, err := s.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: fmt.Sprintf("ask/%s/%x", activity, random), TaskQueue: workflows.TaskQueue,
		WorkflowIDReusePolicy:    enums.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
		WorkflowExecutionTimeout: askTimeout,
		StaticSummary:            "a question of the starter",
	}, workflows.AskType, workflows.Question{Activity: activity, Node: node, Input: input})
	if err != nil {
		return err
	}
	var answer json.RawMessage
	err = run.Get(ctx, &answer)
	late, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer done()
	_, _ = s.WorkflowService().DeleteWorkflowExecution(late, &workflowservice.DeleteWorkflowExecutionRequest{ // else it ends with its retention
		Namespace: s.namespace, WorkflowExecution: &common.WorkflowExecution{WorkflowId: run.GetID(), RunId: run.GetRunID()},
	})
	if ctx.Err() != nil {
		return fmt.Errorf("no answer within %s: is a control worker running (worker)?", askTimeout)
	}
	var said *temporal.ApplicationError
	var slow *temporal.TimeoutError
	switch {
	case errors.As(err, &said):
		return &refusal{said.Type(), said.Message()}
	case errors.As(err, &slow) && node != "":
		return fmt.Errorf("node %s does not answer", node)
	case err != nil:
		return err
	}
	return json.Unmarshal(answer, out)
}
