package crash

import (
	"context"
	"fmt"
	"sync"

	commandpb "go.temporal.io/api/command/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
)

// reports makes a point of each report that a worker or an agent sends to the
// server. It stands below the SDK's own retry: each message on the wire counts.
//
// A heartbeat is one only the first time in an attempt, when it is sent at once;
// how many follow is a matter of time.
type reports struct {
	world *world
	role  string

	mu    sync.Mutex
	tasks map[string]task // by task token
}

type task struct {
	workflow string // id
	work     string // activity id; empty: a workflow task
	beaten   bool
}

func (r *reports) remember(token []byte, t task) {
	if len(token) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tasks[string(token)] = t
}

func (r *reports) task(token []byte) task {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tasks[string(token)]
}

// intercept is a grpc.UnaryClientInterceptor.
func (r *reports) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	call := func() error {
		err := invoke(ctx, method, req, reply, cc, opts...)
		if err == nil {
			r.learn(reply)
		}
		return err
	}
	if root, name := r.name(req); name != "" {
		return r.world.pass(root, r.role+name, call)
	}
	return call()
}

// learn keeps of what the tasks are that the server gives out.
func (r *reports) learn(reply any) {
	switch m := reply.(type) {
	case *workflowservice.PollActivityTaskQueueResponse:
		r.remember(m.GetTaskToken(), task{workflow: m.GetWorkflowExecution().GetWorkflowId(), work: m.GetActivityId()})
	case *workflowservice.PollWorkflowTaskQueueResponse:
		r.remember(m.GetTaskToken(), task{workflow: m.GetWorkflowExecution().GetWorkflowId()})
	case *workflowservice.RespondWorkflowTaskCompletedResponse:
		if t := m.GetWorkflowTask(); t != nil {
			r.learn(t)
		}
		for _, t := range m.GetActivityTasks() {
			r.learn(t)
		}
	}
}

// name is what a report is called, and the execution it is about; empty if it is no point.
func (r *reports) name(req any) (root, name string) {
	of := func(what string, token []byte) (string, string) {
		t := r.task(token)
		return rootOf(t.workflow), what + " " + within(t.workflow) + r.world.plain(t.work)
	}
	switch m := req.(type) {
	case *workflowservice.RespondWorkflowTaskCompletedRequest:
		root, name = of("RespondWorkflowTaskCompleted", m.GetTaskToken())
		return root, name + r.commands(m.GetCommands())
	case *workflowservice.RespondWorkflowTaskFailedRequest:
		return of("RespondWorkflowTaskFailed", m.GetTaskToken())
	case *workflowservice.RespondActivityTaskCompletedRequest:
		return of("RespondActivityTaskCompleted", m.GetTaskToken())
	case *workflowservice.RespondActivityTaskFailedRequest:
		return of("RespondActivityTaskFailed", m.GetTaskToken())
	case *workflowservice.RespondActivityTaskCanceledRequest:
		return of("RespondActivityTaskCanceled", m.GetTaskToken())
	case *workflowservice.RecordActivityTaskHeartbeatRequest:
		t := r.task(m.GetTaskToken())
		if t.beaten {
			return "", ""
		}
		t.beaten = true
		r.remember(m.GetTaskToken(), t)
		return of("RecordActivityTaskHeartbeat", m.GetTaskToken())
	case *workflowservice.SignalWithStartWorkflowExecutionRequest:
		return rootOf(m.GetWorkflowId()), "SignalWithStart lock"
	}
	return "", ""
}

// commands names what a workflow task came to by the first thing that it asks
// for: the number of workflow tasks depends on how what runs side by side falls together.
func (r *reports) commands(all []*commandpb.Command) string {
	for _, c := range all {
		switch c.GetCommandType() {
		case enumspb.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES, enumspb.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES:
			continue
		case enumspb.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK:
			return "asks for " + r.world.plain(c.GetScheduleActivityTaskCommandAttributes().GetActivityId())
		case enumspb.COMMAND_TYPE_START_TIMER:
			return "begins to wait"
		}
		return fmt.Sprint(c.GetCommandType())
	}
	return "asks for nothing"
}
