package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workerpb "go.temporal.io/api/worker/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// queuePrefix begins the task queue of a node's agent; what follows is its id.
const queuePrefix = "node/"

// fresh is how old an agent's last sign of life may be: several of its heartbeats.
const fresh = 45 * time.Second

// Listed is a node and whether it can be worked on now.
type Listed struct {
	Node
	Registration bool      `json:"registration"`       // false: its agent is there and has not reported, as one of an older version
	LastSeen     time.Time `json:"last_seen,omitzero"` // last sign of life
	Alive        bool      `json:"online"`             // seen lately
	Running      int       `json:"running"`            // actions that its agent runs
	Status       string    `json:"compliance_status"`  // Node.Status
	ClockWrong   bool      `json:"clock_wrong"`        // and therefore no target
}

// Absent says why the node is no target now, or "".
func (l *Listed) Absent() string {
	switch {
	case l.Alive && l.ClockWrong:
		return fmt.Sprintf("its clock is off by %s", time.Duration(l.Clock).Round(time.Second))
	case l.Alive:
		return ""
	case l.LastSeen.IsZero():
		return "offline"
	}
	return "offline since " + l.LastSeen.UTC().Format(time.DateTime)
}

// Lister finds the nodes that a server knows.
type Lister struct {
	Service   workflowservice.WorkflowServiceClient
	Namespace string
	Converter converter.DataConverter // nil: the SDK's default
}

// All lists every node, by id. now is the caller's clock, by which signs of life
// are judged; agents whose clock is known to be off are judged by what it is off.
func (l Lister) All(ctx context.Context, now time.Time) ([]Listed, error) {
	return l.list(ctx, fmt.Sprintf("WorkflowType = '%s' AND ExecutionStatus = 'Running'", WorkflowType), "TaskQueue starts_with '"+queuePrefix+"'", now)
}

// One finds one node; nil if it is not known.
func (l Lister) One(ctx context.Context, id string, now time.Time) (*Listed, error) {
	if strings.ContainsAny(id, `'"\`) {
		return nil, nil
	}
	// By its description, since the list may be a moment late.
	described, err := l.Service.DescribeWorkflowExecution(ctx, &workflowservice.DescribeWorkflowExecutionRequest{
		Namespace: l.Namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: WorkflowID(id)},
	})
	var none *serviceerror.NotFound
	if err != nil && !errors.As(err, &none) {
		return nil, err
	}
	nodes := map[string]*Listed{}
	if info := described.GetWorkflowExecutionInfo(); err == nil && info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		l.take(nodes, info, now)
	}
	if err := l.alive(ctx, nodes, fmt.Sprintf("TaskQueue = '%s%s'", queuePrefix, id), now); err != nil {
		return nil, err
	}
	return nodes[id], nil
}

func (l Lister) list(ctx context.Context, query, workers string, now time.Time) ([]Listed, error) {
	nodes := map[string]*Listed{}
	request := &workflowservice.ListWorkflowExecutionsRequest{Namespace: l.Namespace, PageSize: 1000, Query: query}
	for {
		page, err := l.Service.ListWorkflowExecutions(ctx, request)
		if err != nil {
			return nil, fmt.Errorf("list the nodes: %w", err)
		}
		for _, info := range page.GetExecutions() {
			l.take(nodes, info, now)
		}
		if request.NextPageToken = page.GetNextPageToken(); len(request.NextPageToken) == 0 {
			break
		}
	}
	if err := l.alive(ctx, nodes, workers, now); err != nil {
		return nil, err
	}
	all := make([]Listed, 0, len(nodes))
	for _, n := range nodes {
		all = append(all, *n)
	}
	slices.SortFunc(all, func(a, b Listed) int { return strings.Compare(a.ID, b.ID) })
	return all, nil
}

// take adds the node that the memo of its workflow describes.
func (l Lister) take(nodes map[string]*Listed, info *workflowpb.WorkflowExecutionInfo, now time.Time) {
	c := l.Converter
	if c == nil {
		c = converter.GetDefaultDataConverter()
	}
	// If it is encrypted, it is for this node: the memo of another would not be read.
	c = converter.WithDataConverterSerializationContext(c, converter.WorkflowSerializationContext{
		Namespace: l.Namespace, WorkflowID: info.GetExecution().GetWorkflowId(),
	})
	listed := &Listed{Registration: true}
	// A memo that cannot be read is of a program that is newer than this one: its node is there by its worker.
	if err := c.FromPayload(info.GetMemo().GetFields()[Memo], &listed.Node); err != nil || listed.ID == "" {
		return
	}
	if info.GetExecution().GetWorkflowId() != WorkflowID(listed.ID) {
		return // it says that it is another
	}
	listed.Status, listed.ClockWrong = listed.Node.Status(), listed.Node.ClockWrong()
	if listed.Reach == ReachSSM {
		listed.Alive, listed.LastSeen = listed.Online, listed.Seen
	} else {
		// Its first heartbeat comes some seconds after its report.
		listed.Alive, listed.LastSeen = now.Sub(listed.Reported) < fresh, listed.Reported
	}
	nodes[listed.ID] = listed
}

// alive adds what the server knows of the agents' workers.
func (l Lister) alive(ctx context.Context, nodes map[string]*Listed, query string, now time.Time) error {
	request := &workflowservice.ListWorkersRequest{Namespace: l.Namespace, PageSize: 1000, Query: query}
	for {
		page, err := l.Service.ListWorkers(ctx, request)
		if err != nil {
			return fmt.Errorf("list the agents: %w", err)
		}
		//lint:ignore SA1019 the only list with the time of the heartbeat; see below for servers that leave it out
		infos := page.GetWorkersInfo()
		if len(infos) == 0 {
			for _, w := range page.GetWorkers() { // the server forgets those that have not been heard of for minutes
				infos = append(infos, &workerpb.WorkerInfo{WorkerHeartbeat: &workerpb.WorkerHeartbeat{
					TaskQueue: w.GetTaskQueue(), Status: w.GetStatus(), HostInfo: &workerpb.WorkerHostInfo{HostName: w.GetHostName()}, HeartbeatTime: timestamppb.New(now),
				}})
			}
		}
		for _, w := range infos {
			beat := w.GetWorkerHeartbeat()
			id, ok := strings.CutPrefix(beat.GetTaskQueue(), queuePrefix)
			if !ok {
				continue
			}
			n := nodes[id]
			if n == nil {
				n = &Listed{Node: Node{ID: id, Name: beat.GetHostInfo().GetHostName(), Reach: ReachAgent, Tags: map[string]string{}}, Status: Unknown}
				nodes[id] = n
			}
			if n.Reach == ReachAgent {
				n.seen(beat, now)
			}
		}
		if request.NextPageToken = page.GetNextPageToken(); len(request.NextPageToken) == 0 {
			break
		}
	}
	// The server remembers workers for a while that have stopped: of a node that was forgotten, too.
	maps.DeleteFunc(nodes, func(_ string, n *Listed) bool { return !n.Registration && !n.Alive })
	return nil
}

// seen adds a heartbeat, which has the time of the node's clock.
func (l *Listed) seen(beat *workerpb.WorkerHeartbeat, now time.Time) {
	at := beat.GetHeartbeatTime().AsTime().Add(-time.Duration(l.Clock))
	if at.After(now) {
		at = now
	}
	if at.Before(l.LastSeen) {
		return // of an agent that ran before
	}
	l.LastSeen, l.Running = at, int(beat.GetActivityTaskSlotsInfo().GetCurrentUsedSlots())
	switch beat.GetStatus() {
	case enumspb.WORKER_STATUS_SHUTDOWN, enumspb.WORKER_STATUS_SHUTTING_DOWN:
		l.Alive = false
	default:
		l.Alive = now.Sub(at) < fresh
	}
}
