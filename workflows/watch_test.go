package workflows_test

import (
	"encoding/json"
	"path/filepath"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// A history that is replayed by a worker that has watchers and carries links is the same, and tells nothing.
func TestWatchedReplay(t *testing.T) {
	files, err := filepath.Glob("testdata/history/*.json")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d histories, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			told := 0
			if err := watchedReplay(readHistory(t, file), func(workflows.Part) { told++ }); err != nil {
				t.Error(err)
			}
			if told > 0 {
				t.Errorf("%d parts were told of again", told)
			}
		})
	}
}

// An execution whose input is wrong ends before its first step, and is told of once.
func TestWatchedRefused(t *testing.T) {
	for name, input := range map[string]any{
		"no input of ours":     "hello",
		"no program":           workflows.Start{},
		"a program of later":   workflows.Start{Program: &program.Program{Version: program.Version + 1, Runbook: "test/refused"}},
		"an input that is not": workflows.Start{Program: &program.Program{Version: 1, Runbook: "test/refused"}, Inputs: map[string]json.RawMessage{"x": json.RawMessage("1")}},
	} {
		t.Run(name, func(t *testing.T) {
			var told []workflows.Part
			watch := func(p workflows.Part) { told = append(told, p) }
			var suite testsuite.WorkflowTestSuite
			suite.SetLogger(mute{})
			env := suite.NewTestWorkflowEnvironment()
			env.SetContextPropagators([]workflow.ContextPropagator{workflows.Links()})
			workflows.Register(env, watch)
			env.ExecuteWorkflow("test/refused", input)
			if env.GetWorkflowError() == nil {
				t.Fatal("it was not refused")
			}
			if len(told) != 1 {
				t.Fatalf("%d parts are told of", len(told))
			}
			p := told[0]
			if p.Of != workflows.PartExecution || p.Runbook != "test/refused" || p.State != string(workflows.Failed) || p.Kind != "invalid" ||
				p.Execution == "" || p.Run == "" || p.Start.IsZero() || p.End.Before(p.Start) || p.Trace == [16]byte{} || p.Span == [8]byte{} {
				t.Errorf("%+v", p)
			}

			// The history of such an execution, as workers of before left it.
			payloads, err := converter.GetDefaultDataConverter().ToPayloads(input)
			if err != nil {
				t.Fatal(err)
			}
			queue := &taskqueuepb.TaskQueue{Name: "almanac"}
			h := &historypb.History{Events: []*historypb.HistoryEvent{
				{EventType: enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{
					WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{
						WorkflowType: &commonpb.WorkflowType{Name: "test/refused"}, TaskQueue: queue, Input: payloads, WorkflowId: "one", OriginalExecutionRunId: "run", FirstExecutionRunId: "run",
					},
				}},
				{EventType: enumspb.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED, Attributes: &historypb.HistoryEvent_WorkflowTaskScheduledEventAttributes{
					WorkflowTaskScheduledEventAttributes: &historypb.WorkflowTaskScheduledEventAttributes{TaskQueue: queue},
				}},
				{EventType: enumspb.EVENT_TYPE_WORKFLOW_TASK_STARTED, Attributes: &historypb.HistoryEvent_WorkflowTaskStartedEventAttributes{
					WorkflowTaskStartedEventAttributes: &historypb.WorkflowTaskStartedEventAttributes{ScheduledEventId: 2},
				}},
				{EventType: enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED, Attributes: &historypb.HistoryEvent_WorkflowTaskCompletedEventAttributes{
					WorkflowTaskCompletedEventAttributes: &historypb.WorkflowTaskCompletedEventAttributes{ScheduledEventId: 2, StartedEventId: 3},
				}},
				{EventType: enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED, Attributes: &historypb.HistoryEvent_WorkflowExecutionFailedEventAttributes{
					WorkflowExecutionFailedEventAttributes: &historypb.WorkflowExecutionFailedEventAttributes{WorkflowTaskCompletedEventId: 4},
				}},
			}}
			for i, e := range h.Events {
				e.EventId = int64(i + 1)
			}
			if err := watchedReplay(h, watch); err != nil || len(told) != 1 {
				t.Errorf("replayed: %v, and %d parts are told of again", err, len(told)-1)
			}
		})
	}
}

func watchedReplay(h *historypb.History, w workflows.Watcher) error {
	r, err := worker.NewWorkflowReplayerWithOptions(worker.WorkflowReplayerOptions{ContextPropagators: []workflow.ContextPropagator{workflows.Links()}})
	if err != nil {
		return err
	}
	workflows.Register(replayed{WorkflowReplayer: r}, w)
	started := h.Events[0].GetWorkflowExecutionStartedEventAttributes()
	return r.ReplayWorkflowHistoryWithOptions(mute{}, h, worker.ReplayWorkflowHistoryOptions{
		OriginalExecution: workflow.Execution{ID: started.WorkflowId, RunID: started.OriginalExecutionRunId},
	})
}
