package workflows_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/workflows"
)

func readHistory(t *testing.T, file string) *historypb.History {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := client.HistoryFromJSON(f, client.HistoryJSONOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// replayed gives a replayer the workflows that a worker has, and nothing of what else Register may say.
type replayed struct {
	worker.Registry
	worker.WorkflowReplayer
}

func (r replayed) RegisterWorkflowWithOptions(w any, o workflow.RegisterOptions) {
	r.WorkflowReplayer.RegisterWorkflowWithOptions(w, o)
}

func (r replayed) RegisterDynamicWorkflow(w any, o workflow.DynamicRegisterOptions) {
	r.WorkflowReplayer.RegisterDynamicWorkflow(w, o)
}

func (r replayed) RegisterWorkflow(w any) { r.WorkflowReplayer.RegisterWorkflow(w) }

func replay(h *historypb.History) error {
	r := worker.NewWorkflowReplayer()
	workflows.Register(replayed{WorkflowReplayer: r})
	started := h.Events[0].GetWorkflowExecutionStartedEventAttributes()
	return r.ReplayWorkflowHistoryWithOptions(mute{}, h, worker.ReplayWorkflowHistoryOptions{
		OriginalExecution: workflow.Execution{ID: started.WorkflowId, RunID: started.OriginalExecutionRunId},
	})
}

type mute struct{}

func (mute) Debug(string, ...any)     {}
func (mute) Info(string, ...any)      {}
func (mute) Warn(string, ...any)      {}
func (mute) Error(string, ...any)     {}
func (m mute) With(...any) log.Logger { return m }

// TestReplay replays histories that a server has recorded (TestRecord of dev/e2e/upgrade
// writes them). One that fails means that executions which run now would be stuck after an upgrade of their worker: keep
// the order of commands as it was for programs of that version.
func TestReplay(t *testing.T) {
	began := time.Now()
	files := histories(t)
	t.Run("histories", func(t *testing.T) {
		for _, file := range files {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
				t.Parallel()
				if err := replay(readHistory(t, file)); err != nil {
					t.Error(err)
				}
			})
		}
	})
	took := time.Since(began)
	t.Logf("%d histories replayed in %v", len(files), took.Round(time.Millisecond))
	if len(files) < 40 || took > 30*time.Second {
		t.Errorf("%d histories in %v; want at least 40 in less than 30s", len(files), took)
	}
}

func histories(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/history/*.json")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestReplayNotices shows that TestReplay can fail: it replays histories in which
// two commands have changed places, or one is another.
func TestReplayNotices(t *testing.T) {
	tampers := map[string]func(scheduled []*historypb.ActivityTaskScheduledEventAttributes){
		"two steps change places": func(s []*historypb.ActivityTaskScheduledEventAttributes) {
			last := len(s) - 1
			s[0].ActivityId, s[last].ActivityId = s[last].ActivityId, s[0].ActivityId
		},
		"another action":  func(s []*historypb.ActivityTaskScheduledEventAttributes) { s[1].ActivityType.Name = "crash.other" },
		"another attempt": func(s []*historypb.ActivityTaskScheduledEventAttributes) { s[len(s)-1].ActivityId += "#2" },
	}
	for name, tamper := range tampers {
		t.Run(name, func(t *testing.T) {
			h := readHistory(t, "testdata/history/rollback.v1.json")
			var scheduled []*historypb.ActivityTaskScheduledEventAttributes
			for _, e := range h.Events {
				if a := e.GetActivityTaskScheduledEventAttributes(); a != nil {
					scheduled = append(scheduled, a)
				}
			}
			tamper(scheduled)
			if err := replay(h); err == nil {
				t.Error("nobody noticed")
			}
		})
	}
}
