package control

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	enumspb "go.temporal.io/api/enums/v1"
	workerpb "go.temporal.io/api/worker/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"

	"github.com/almanac-run/almanac/action"
)

// workers is a Temporal server that knows workers, a page at a time.
type workers struct {
	workflowservice.WorkflowServiceClient
	pages [][]*workerpb.WorkerListInfo
	query string
	err   error
}

func (w *workers) ListWorkers(_ context.Context, in *workflowservice.ListWorkersRequest, _ ...grpc.CallOption) (*workflowservice.ListWorkersResponse, error) {
	if w.err != nil {
		return nil, w.err
	}
	w.query = in.Query
	page := len(in.NextPageToken)
	out := &workflowservice.ListWorkersResponse{Workers: w.pages[page]}
	if page+1 < len(w.pages) {
		out.NextPageToken = make([]byte, page+1)
	}
	return out, nil
}

func TestNodes(t *testing.T) {
	worker := func(queue string, status enumspb.WorkerStatus) *workerpb.WorkerListInfo {
		return &workerpb.WorkerListInfo{TaskQueue: queue, Status: status}
	}
	server := &workers{pages: [][]*workerpb.WorkerListInfo{
		{worker("node/web-2", enumspb.WORKER_STATUS_RUNNING), worker("almanac", enumspb.WORKER_STATUS_RUNNING)},
		{worker("node/web-1", enumspb.WORKER_STATUS_UNSPECIFIED), worker("node/web-2", enumspb.WORKER_STATUS_RUNNING),
			worker("node/web-3", enumspb.WORKER_STATUS_SHUTTING_DOWN), worker("node/web-4", enumspb.WORKER_STATUS_SHUTDOWN)},
		{},
	}}
	l := nodeLister{service: server, namespace: "default"}
	got, err := l.nodes(t.Context())
	if want := []string{"web-1", "web-2"}; err != nil || !reflect.DeepEqual(got.Nodes, want) {
		t.Errorf("nodes %v, error %v, want %v", got.Nodes, err, want)
	}
	if !strings.HasPrefix(server.query, "TaskQueue starts_with 'node/' AND HeartbeatTime > '20") {
		t.Errorf("query %q", server.query)
	}
	server.err = errors.New("down")
	if _, err := l.nodes(t.Context()); !errors.Is(err, server.err) || action.KindOf(err) != action.Unavailable {
		t.Errorf("error %v", err)
	}
	server.err, server.pages = nil, [][]*workerpb.WorkerListInfo{{}}
	if got, err := l.nodes(t.Context()); err != nil || got.Nodes == nil {
		t.Errorf("no nodes: %#v, %v; want an empty list", got.Nodes, err)
	}
}

func TestActionsAreNamedOnce(t *testing.T) {
	var names []string
	for _, info := range Actions() {
		if slices.Contains(names, info.Name) {
			t.Errorf("two actions %s", info.Name)
		}
		names = append(names, info.Name)
	}
	for _, want := range []string{"host.command.run", "host.file.write", "http.request"} {
		if !slices.Contains(names, want) {
			t.Errorf("no action %s in %v", want, names)
		}
	}
	for _, a := range controlActions(nil) {
		if a.OnNode() {
			t.Errorf("%s is served by the control worker, but is an action of nodes", a.Name)
		}
	}
}
