package control

import (
	"context"
	"errors"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/almanac-run/almanac/workflows"
)

// Locks registers the activities by which executions reach locks, and locks
// look after those that hold them.
func Locks(r worker.ActivityRegistry, c client.Client) {
	l := locks{c}
	r.RegisterActivityWithOptions(l.ask, activity.RegisterOptions{Name: workflows.ActionLock})
	r.RegisterActivityWithOptions(l.look, activity.RegisterOptions{Name: workflows.ActionLockLook})
}

type locks struct{ client client.Client }

// ask hands a message to a lock, which is started if it does not run. Workflow
// code has no way to do both at once.
func (l locks) ask(ctx context.Context, _ string, t workflows.Turns, m workflows.LockMessage) error {
	_, err := l.client.SignalWithStartWorkflow(ctx, t.Key, workflows.SignalLock, m, client.StartWorkflowOptions{
		TaskQueue:             activity.GetInfo(ctx).TaskQueue,
		WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		StaticSummary:         "Who holds " + t.Key + ", and who waits for it",
	}, workflows.LockType, workflows.Turns{})
	return err
}

// look returns those of some executions that have ended.
func (l locks) look(ctx context.Context, _ string, holders []workflows.Holder) ([]workflows.Holder, error) {
	gone := []workflows.Holder{}
	for _, h := range holders {
		d, err := l.client.DescribeWorkflowExecution(ctx, h.ID, "")
		var none *serviceerror.NotFound
		switch info := d.GetWorkflowExecutionInfo(); {
		case errors.As(err, &none):
			gone = append(gone, h)
		case err != nil:
			return nil, err
		case info.GetFirstRunId() != h.FirstRun, info.GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING && info.GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW:
			gone = append(gone, h)
		}
	}
	return gone, nil
}
