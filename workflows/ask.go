package workflows

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/internal/output"
)

// AskType is the workflow type of Ask.
const AskType = "almanac.ask"

// Question is something to look up where it is known: on the control worker,
// or on a node.
type Question struct {
	Activity string          `json:"activity"`
	Node     string          `json:"node,omitempty"` // empty: the control worker
	Input    json.RawMessage `json:"input,omitempty"`
}

// ActionReadOutput is a node's activity that reads a part of one complete output.
const ActionReadOutput = "host.output.read"

// questions are the activities that may be asked.
var questions = []string{
	ActionNodes, ActionReadOutput,
	"almanac.inventory.show", "almanac.inventory.diff", "almanac.inventory.query", "almanac.inventory.check", "almanac.inventory.forget",
	"almanac.compliance.list", "almanac.compliance.history",
}

// Ask is the workflow by which a program that only knows the Temporal server
// gets an answer from where things are known: one activity, once. It is not
// there for changes, but to what is known. Who asked deletes it when the answer has come.
func Ask(ctx workflow.Context, q Question) (json.RawMessage, error) {
	if !slices.Contains(questions, q.Activity) {
		return nil, temporal.NewNonRetryableApplicationError(fmt.Sprintf("%q is nothing that can be asked", q.Activity), "invalid", nil)
	}
	return once(ctx, q, time.Minute)
}

// TellType is the workflow type of Tell.
const TellType = "almanac.tell"

// ActionStoreInventory is the control worker's activity that keeps what a node found on itself.
const ActionStoreInventory = "almanac.inventory.store"

// Tell is the workflow by which a node's agent hands something over to the
// control worker that is too large for the registry: it is Ask in the other direction.
func Tell(ctx workflow.Context, q Question) (json.RawMessage, error) {
	limit, ok := told[q.Activity]
	if !ok || q.Node != "" {
		return nil, temporal.NewNonRetryableApplicationError(fmt.Sprintf("%q is nothing that a node can tell", q.Activity), "invalid", nil)
	}
	return once(ctx, q, limit)
}

// told are the activities that a node may have done, and how long one attempt may take. Of outputs a GiB takes some
// ten minutes; what was not done is told again.
var told = map[string]time.Duration{ActionStoreInventory: time.Minute, output.ActivityKeep: 2 * time.Hour}

// once does what is asked: each attempt may take as long as limit, all of them twice that.
func once(ctx workflow.Context, q Question, limit time.Duration) (json.RawMessage, error) {
	o := workflow.ActivityOptions{
		ScheduleToCloseTimeout: 2 * limit,
		StartToCloseTimeout:    limit,
		HeartbeatTimeout:       heartbeat,
		RetryPolicy:            usualPolicy,
	}
	if q.Node != "" {
		o.TaskQueue, o.ScheduleToStartTimeout = NodeQueue(q.Node), nodeAnswersIn
	}
	var out json.RawMessage
	token := workflow.GetInfo(ctx).WorkflowExecution.ID
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), q.Activity, token, q.Input).Get(ctx, &out)
	return out, err
}
