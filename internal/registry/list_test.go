package registry

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	workerpb "go.temporal.io/api/worker/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// server is a Temporal server that knows nodes and workers, one on each page.
type server struct {
	workflowservice.WorkflowServiceClient
	nodes   []Node
	workers []*workerpb.WorkerHeartbeat
	err     error
}

// workflowID is that of a node, but for one that passes itself off as another.
func (s *server) workflowID(at int) string {
	if s.nodes[at].Name == "liar" {
		return WorkflowID("liar")
	}
	return WorkflowID(s.nodes[at].ID)
}

func next(at, of int) []byte {
	if at+1 < of {
		return make([]byte, at+1)
	}
	return nil
}

func (s *server) ListWorkflowExecutions(_ context.Context, in *workflowservice.ListWorkflowExecutionsRequest, _ ...grpc.CallOption) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	at := len(in.NextPageToken)
	out := &workflowservice.ListWorkflowExecutionsResponse{NextPageToken: next(at, len(s.nodes))}
	if at < len(s.nodes) {
		memo, err := converter.GetDefaultDataConverter().ToPayload(s.nodes[at])
		if err != nil {
			return nil, err
		}
		out.Executions = []*workflowpb.WorkflowExecutionInfo{{Execution: &commonpb.WorkflowExecution{WorkflowId: s.workflowID(at)}, Memo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{Memo: memo}}}}
	}
	return out, s.err
}

func (s *server) ListWorkers(_ context.Context, in *workflowservice.ListWorkersRequest, _ ...grpc.CallOption) (*workflowservice.ListWorkersResponse, error) {
	at := len(in.NextPageToken)
	out := &workflowservice.ListWorkersResponse{NextPageToken: next(at, len(s.workers))}
	if at < len(s.workers) {
		//lint:ignore SA1019 what the lister reads
		out.WorkersInfo = []*workerpb.WorkerInfo{{WorkerHeartbeat: s.workers[at]}}
	}
	return out, s.err
}

func beat(queue string, at time.Time, status enumspb.WorkerStatus, used int32) *workerpb.WorkerHeartbeat {
	return &workerpb.WorkerHeartbeat{TaskQueue: queue, Status: status, HeartbeatTime: timestamppb.New(at),
		ActivityTaskSlotsInfo: &workerpb.WorkerSlotsInfo{CurrentUsedSlots: used}}
}

func TestAll(t *testing.T) {
	const running = enumspb.WORKER_STATUS_RUNNING
	minute := Duration(time.Minute)
	long := at.Add(-time.Hour)
	s := &server{
		nodes: []Node{
			{ID: "fine", Name: "liar", Reach: ReachAgent, Reported: at, Limit: minute},
			{ID: "dead", Reach: ReachAgent, Reported: long, Limit: minute},
			{ID: "early", Reach: ReachAgent, Reported: long, Clock: Duration(time.Hour), Limit: minute},
			{ID: "fine", Reach: ReachAgent, Reported: long, Limit: minute, Compliance: []Compliance{{Baseline: "b", Status: NonCompliant}}},
			{ID: "i-0123456789abcdef0", Reach: ReachSSM, Online: true, Seen: at},
			{ID: "i-0123456789abcdef1", Reach: ReachSSM, Seen: long},
			{ID: "new", Reach: ReachAgent, Reported: at.Add(-time.Second), Limit: minute},
			{ID: "stopped", Reach: ReachAgent, Reported: long, Limit: minute},
		},
		workers: []*workerpb.WorkerHeartbeat{
			beat("almanac", at, running, 9),
			beat("node/dead", at.Add(-time.Minute), running, 0),
			beat("node/early", at.Add(time.Hour), running, 0), // by its own clock
			beat("node/fine", at.Add(-5*time.Second), running, 3),
			beat("node/fine", at.Add(-5*time.Minute), enumspb.WORKER_STATUS_SHUTDOWN, 7), // the agent before
			beat("node/forgotten", at.Add(-time.Second), enumspb.WORKER_STATUS_SHUTDOWN, 0),
			beat("node/older", at, running, 0),
			beat("node/stopped", at.Add(-time.Second), enumspb.WORKER_STATUS_SHUTDOWN, 0),
		},
	}
	all, err := Lister{Service: s}.All(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{ // why it is no target
		"dead": "offline since 2026-11-25 11:59:00", "early": "its clock is off by 1h0m0s", "fine": "", "i-0123456789abcdef0": "",
		"i-0123456789abcdef1": "offline since 2026-11-25 11:00:00", "new": "", "older": "", "stopped": "offline since 2026-11-25 11:59:59",
	}
	var ids []string
	for i := range all {
		n := &all[i]
		ids = append(ids, n.ID)
		if why, ok := want[n.ID]; !ok || n.Absent() != why {
			t.Errorf("%s: absent %q, want %q", n.ID, n.Absent(), why)
		}
		if n.ID == "fine" && (n.Name != "" || n.Running != 3 || n.Status != NonCompliant || !n.Registration) {
			t.Errorf("%+v", n)
		}
		if n.ID == "older" && n.Registration {
			t.Errorf("a node that never reported is registered")
		}
	}
	if got := strings.Join(ids, " "); got != "dead early fine i-0123456789abcdef0 i-0123456789abcdef1 new older stopped" {
		t.Errorf("nodes %s", got)
	}
	s.err = errors.New("down")
	if _, err := (Lister{Service: s}).All(t.Context(), at); !errors.Is(err, s.err) {
		t.Errorf("error %v", err)
	}
}
