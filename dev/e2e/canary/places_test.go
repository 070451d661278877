package canary

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/johannesboyne/gofakes3"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/proxy"
	querypb "go.temporal.io/api/query/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/almanac-run/almanac/workflows"
)

// place is somewhere that is searched. Its contents are searched one by one.
type place struct {
	name     string
	contents func(yield func([]byte))
}

// places are all that is searched, beside processes. To add a place, add a line.
func (w *world) places() []place {
	return []place{
		{"database", w.files("server")},
		{"log of the server", w.files("logs/server")},
		{"log of worker", w.files("logs/worker*")},
		{"log of agent", w.files("logs/agent")},
		{"log of codec", w.files("logs/codec")},
		{"log of panic worker", w.files("logs/panic worker")},
		{"log of a worker that cannot start", w.files("logs/refused")},
		{"terminal of starter", w.bytes(&w.answered)},
		{"gRPC replies", w.reply("grpc")},
		{"HTTP API", w.reply("http")},
		{"what the keys open", w.reply("opened")},
		{"metrics", w.reply("metrics")},
		{"traces", w.reply("traces")},
		{"journal", w.files("state/journal")},
		{"agent's state", w.files("state", "state/journal", "state/output")},
		{"output store", w.files("state/output")},
		{"central output store", w.files("central")},
		{"S3 addresses", w.reply("s3 addresses")},
		{"S3 headers", w.reply("s3 headers")},
		{"S3 objects", w.reply("s3 bodies")},
		{"S3 objects", w.objects},
		{"S3 names", w.names},
		{"PostgreSQL outputs", w.reply("postgres outputs")},
		{"PostgreSQL inventory", w.reply("postgres inventory")},
		{"PostgreSQL log", w.files("logs/postgresql")},
		{"cmdline of shell", w.files("seen/cmdline.shell")},
		{"environ of shell", w.files("seen/environ.shell")},
		{"cmdline of supervisor", w.files("seen/cmdline.supervisor")},
		{"environ of supervisor", w.files("seen/environ.supervisor")},
		{"settings as printed", w.files("logs/config")},
		{"worker's directory", w.files(".almanac", ".almanac/inventory.db")},
		{"inventory", w.files(".almanac/inventory.db*")},
		{"temporary files", w.files("tmp")},
		{"home", w.files("home")},
		{"files of people", w.files("secrets")},
		{"destination", w.bytes(&w.arrived)},
		{"destination", w.files("root")},
	}
}

func (w *world) bytes(b *[]byte) func(func([]byte)) {
	return func(yield func([]byte)) {
		w.mu.Lock()
		defer w.mu.Unlock()
		yield(*b)
	}
}

func (w *world) reply(name string) func(func([]byte)) {
	return func(yield func([]byte)) {
		w.mu.Lock()
		defer w.mu.Unlock()
		yield(w.replies[name])
	}
}

// stored calls each for what is in the bucket.
func (w *world) stored(each func(*gofakes3.Object)) {
	list, err := w.bucket.ListBucket("outputs", nil, gofakes3.ListBucketPage{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, c := range list.Contents {
		o, err := w.bucket.GetObject("outputs", c.Key, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		each(o)
		_ = o.Contents.Close()
	}
}

func (w *world) objects(yield func([]byte)) {
	w.stored(func(o *gofakes3.Object) {
		b, err := io.ReadAll(o.Contents)
		if err != nil {
			w.t.Error(err)
		}
		yield(b)
	})
}

func (w *world) names(yield func([]byte)) {
	w.stored(func(o *gofakes3.Object) {
		yield([]byte(o.Name))
		for name, value := range o.Metadata {
			if strings.HasPrefix(name, "X-Amz-Meta-") { // the fake keeps what was sent to S3 alone, too
				yield([]byte(name + ": " + value))
			}
		}
	})
}

// files are the contents and names of the files that a pattern names, and below
// them, but for those below the others. One that ends meanwhile is none.
func (w *world) files(pattern string, but ...string) func(func([]byte)) {
	return func(yield func([]byte)) {
		roots, err := filepath.Glob(w.path(pattern))
		if err != nil {
			w.t.Fatal(err)
		}
		for _, root := range roots {
			_ = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
				if err != nil {
					return nil
				}
				for _, b := range but {
					if strings.HasPrefix(name, w.path(b)) {
						return nil
					}
				}
				yield([]byte(strings.TrimPrefix(name, w.dir)))
				if d.Type().IsRegular() {
					b, err := os.ReadFile(name)
					if err != nil && !os.IsNotExist(err) {
						w.t.Error(err)
					}
					yield(b)
				}
				return nil
			})
		}
	}
}

// look searches all places now. It returns what it found, and the bytes it has read of each place.
func (w *world) look(s *searcher, found *[]sighting, size map[string]int) {
	for _, p := range w.places() {
		p.contents(func(b []byte) {
			size[p.name] += len(b)
			*found = append(*found, s.search(p.name, b)...)
		})
	}
}

// fetch asks the server by both of its doors for all that it shows of the executions.
func (w *world) fetch(ids []string) {
	w.t.Helper()
	const ns = "default"
	ctx, api := w.t.Context(), w.client.WorkflowService()
	keep := func(what string, m proto.Message, err error) {
		w.t.Helper()
		if err != nil {
			w.t.Errorf("%s: %v", what, err)
			return
		}
		b, err := proto.Marshal(m)
		if err != nil {
			w.t.Error(err)
		}
		w.replies["grpc"] = append(w.replies["grpc"], b...)
	}
	list, err := api.ListWorkflowExecutions(ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: ns, PageSize: 1000})
	keep("list", list, err)
	if len(list.GetExecutions()) < len(ids) {
		w.t.Errorf("the list has %d executions, want at least %d", len(list.GetExecutions()), len(ids))
	}
	schedules, err := api.ListSchedules(ctx, &workflowservice.ListSchedulesRequest{Namespace: ns, MaximumPageSize: 100})
	keep("list schedules", schedules, err)
	for _, s := range schedules.GetSchedules() {
		d, err := api.DescribeSchedule(ctx, &workflowservice.DescribeScheduleRequest{Namespace: ns, ScheduleId: s.ScheduleId})
		keep("describe schedule", d, err)
		w.open(d)
	}
	workers, err := api.ListWorkers(ctx, &workflowservice.ListWorkersRequest{Namespace: ns, PageSize: 100})
	keep("list workers", workers, err)
	for _, queue := range []string{workflows.TaskQueue, "node/n1"} {
		d, err := api.DescribeTaskQueue(ctx, &workflowservice.DescribeTaskQueueRequest{Namespace: ns, TaskQueue: &taskqueuepb.TaskQueue{Name: queue}})
		keep("describe task queue", d, err)
	}
	base := w.srv.UIAddress() + "/api/v1/namespaces/" + ns
	w.get(base + "/workflows")
	w.get(base + "/schedules")
	w.get(base + "/task-queues/" + url.PathEscape(workflows.TaskQueue))
	for _, e := range list.GetExecutions() {
		x := e.Execution
		// A question is deleted when it has been answered, perhaps now.
		question := strings.HasPrefix(x.WorkflowId, "ask/")
		var gone *serviceerror.NotFound
		d, err := api.DescribeWorkflowExecution(ctx, &workflowservice.DescribeWorkflowExecutionRequest{Namespace: ns, Execution: x})
		if question && errors.As(err, &gone) {
			continue
		}
		keep("describe "+x.WorkflowId, d, err)
		for token, more := []byte(nil), true; more; more = len(token) > 0 {
			h, err := api.GetWorkflowExecutionHistory(ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: ns, Execution: x, NextPageToken: token})
			if question && errors.As(err, &gone) {
				break
			}
			keep("history of "+x.WorkflowId, h, err)
			token = h.GetNextPageToken()
			w.open(h)
		}
		w.open(d)
		if e.Status == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
			h, err := api.GetWorkflowExecutionHistoryReverse(ctx, &workflowservice.GetWorkflowExecutionHistoryReverseRequest{Namespace: ns, Execution: x, MaximumPageSize: 10})
			keep("history backwards", h, err)
		}
		if question {
			continue
		}
		id := base + "/workflows/" + url.PathEscape(x.WorkflowId)
		w.get(id)
		w.get(id + "/history?execution.runId=" + x.RunId)
	}
	for _, id := range ids {
		for _, name := range []string{workflows.QueryState, "__stack_trace", "__temporal_workflow_metadata"} {
			q, err := api.QueryWorkflow(ctx, &workflowservice.QueryWorkflowRequest{Namespace: ns, Execution: &commonpb.WorkflowExecution{WorkflowId: id}, Query: &querypb.WorkflowQuery{QueryType: name}})
			keep("query "+id, q, err)
			w.open(q)
		}
		w.post(base+"/workflows/"+url.PathEscape(id)+"/query/"+workflows.QueryState, `{"query":{"queryType":"`+workflows.QueryState+`"}}`)
	}
}

// open keeps what the keys open of a reply. Secrets are not to be there either: executions hold references to them.
func (w *world) open(m proto.Message) {
	w.t.Helper()
	if w.keys == nil {
		return // it is as readable as all else
	}
	visitor := func(_ *proxy.VisitPayloadsContext, ps []*commonpb.Payload) ([]*commonpb.Payload, error) {
		opened, err := w.keys.Decode(ps)
		for _, p := range opened {
			w.replies["opened"] = append(append(w.replies["opened"], p.Data...), '\n')
		}
		return ps, err
	}
	if err := proxy.VisitPayloads(context.Background(), m, proxy.VisitPayloadsOptions{Visitor: visitor, SkipSearchAttributes: true}); err != nil {
		w.t.Error(err)
	}
}

func (w *world) get(address string) {
	w.t.Helper()
	resp, err := http.Get(address)
	w.answer(address, resp, err)
}

func (w *world) post(address, body string) {
	w.t.Helper()
	req, err := http.NewRequest(http.MethodPost, address, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	// As the Web UI does: its server wants to know that the page is its own.
	req.Header.Set("Content-Type", "application/json")
	if home, err := http.Get(w.srv.UIAddress() + "/api/v1/settings"); err == nil {
		home.Body.Close()
		for _, c := range home.Cookies() {
			req.AddCookie(c)
			if strings.Contains(strings.ToLower(c.Name), "csrf") {
				req.Header.Set("X-CSRF-TOKEN", c.Value)
			}
		}
	}
	resp, err := http.DefaultClient.Do(req)
	w.answer(address, resp, err)
}

func (w *world) answer(address string, resp *http.Response, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Error(err)
		return
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		w.t.Errorf("%s: %s %v %s", address, resp.Status, err, b[:min(len(b), 300)])
	}
	w.replies["http"] = append(w.replies["http"], bytes.TrimSpace(b)...)
	w.replies["http"] = fmt.Appendf(w.replies["http"], "\n%v\n", resp.Header)
}
