package workflows_test

import (
	"path/filepath"
	"testing"

	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

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
