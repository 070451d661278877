package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/workflows"
)

// nodeLister finds the nodes whose agents are there.
type nodeLister struct {
	service   workflowservice.WorkflowServiceClient
	namespace string
}

// fresh is how old an agent's last sign of life may be. Workers give one a
// minute unless they are told otherwise (ours are, see package dial); a node
// that died within it is found out when it is asked for its description.
const fresh = 90 * time.Second

type listed struct {
	Nodes []string `json:"nodes" jsonschema:"ids, sorted"`
}

// action is the activity that the interpreter calls to find targets by
// condition. It is served like an action, but runbooks do not have it.
func (l nodeLister) action() action.Action {
	return action.New(action.Def[struct{}, listed]{
		Name:    workflows.ActionNodes,
		Summary: "List the nodes whose agents are there",
		Timeout: 30 * time.Second,
		Do:      func(ctx context.Context, _ struct{}) (listed, error) { return l.nodes(ctx) },
	})
}

func (l nodeLister) nodes(ctx context.Context) (listed, error) {
	const prefix = "node/"
	found := listed{Nodes: []string{}}
	// The server counts by the workers' clocks, which may be wrong by minutes
	// on some machine: so a worker from the future is there too.
	since := time.Now().UTC().Add(-fresh).Format(time.RFC3339)
	request := &workflowservice.ListWorkersRequest{
		Namespace: l.namespace,
		PageSize:  1000,
		Query:     fmt.Sprintf("TaskQueue starts_with '%s' AND HeartbeatTime > '%s'", prefix, since),
	}
	for {
		page, err := l.service.ListWorkers(ctx, request)
		if err != nil {
			return found, action.Errorf(action.Unavailable, "list the workers: %w", err)
		}
		for _, w := range page.GetWorkers() {
			if s := w.GetStatus(); s == enumspb.WORKER_STATUS_SHUTDOWN || s == enumspb.WORKER_STATUS_SHUTTING_DOWN {
				continue
			}
			if id, ok := strings.CutPrefix(w.GetTaskQueue(), prefix); ok {
				found.Nodes = append(found.Nodes, id)
			}
		}
		if len(page.GetNextPageToken()) == 0 {
			break
		}
		request.NextPageToken = page.GetNextPageToken()
	}
	slices.Sort(found.Nodes)
	found.Nodes = slices.Compact(found.Nodes)
	return found, nil
}
