// Package load plays a fleet of nodes in one process.
//
// It gives Serve, which answers the work of thousands of nodes, and Register and
// Beat, which make the registry know them. It promises that each node polls its
// own task queue with one poll, as an agent does, and says how often each got
// which piece of work and how many had some at once. It refuses to do the work: there is no machine behind a node.
//
// A real agent has a worker of its own, with its connection, timers and
// heartbeats; a thousand of them in one process would be measured themselves.
package load

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"golang.org/x/sync/errgroup"

	"github.com/almanac-run/almanac/dev/settings"
	"github.com/almanac-run/almanac/internal/node"
)

// Work is one piece of work that a node was given.
type Work struct {
	Node     string // id
	Activity string // type, such as "host.command.run"
	ID       string // of the activity: of one execution each has another

	// Beat reports that the work goes on, and tells whether it is to end: it was
	// cancelled, or nobody waits for it any more.
	Beat func() bool
}

// Answer answers a piece of work. An error fails it.
type Answer func(Work) (any, error)

// Nothing answers as a command does that ends at once and prints nothing.
func Nothing(Work) (any, error) {
	return map[string]any{"exit_code": 0, "duration": "0s"}, nil
}

// Fleet is nodes that are served.
type Fleet struct {
	answer Answer
	links  []client.Client
	stop   context.CancelFunc
	done   sync.WaitGroup

	mu           sync.Mutex
	began        map[Piece]int
	atOnce, most int
}

// Piece names a piece of work.
type Piece struct{ Node, ID string }

// nodesPerLink is how many nodes share a connection: thousands of polls on one
// wait for one lock.
const nodesPerLink = 500

// Serve polls for the nodes of a server until Stop. It returns when all of them
// can be given work, or with an error when ctx ends before that.
func Serve(ctx context.Context, address string, nodes []string, answer Answer) (_ *Fleet, err error) {
	polls, stop := context.WithCancel(context.WithoutCancel(ctx))
	f := &Fleet{answer: answer, stop: stop, began: map[Piece]int{}}
	defer func() {
		if err != nil {
			f.Stop()
		}
	}()
	for range 1 + len(nodes)/nodesPerLink {
		c, err := client.DialContext(ctx, client.Options{HostPort: address, Namespace: settings.Namespace, Logger: quiet{}})
		if err != nil {
			return nil, fmt.Errorf("serve nodes: %w", err)
		}
		f.links = append(f.links, c)
	}
	for i, id := range nodes {
		f.done.Go(func() { f.serve(polls, f.service(i), id) })
	}
	// The server opens thousands of queues one after the other: a node is there when its poll is.
	there, ctx := errgroup.WithContext(ctx)
	there.SetLimit(20)
	for i, id := range nodes {
		there.Go(func() error { return polled(ctx, f.service(i), id) })
	}
	return f, there.Wait()
}

func (f *Fleet) service(i int) workflowservice.WorkflowServiceClient {
	return f.links[i/nodesPerLink].WorkflowService()
}

// polled waits until somebody polls a node's queue.
func polled(ctx context.Context, service workflowservice.WorkflowServiceClient, id string) error {
	for {
		d, err := service.DescribeTaskQueue(ctx, &workflowservice.DescribeTaskQueueRequest{
			Namespace: settings.Namespace, TaskQueue: &taskqueuepb.TaskQueue{Name: node.Queue(id)}, TaskQueueType: enumspb.TASK_QUEUE_TYPE_ACTIVITY,
		})
		if err == nil && len(d.Pollers) > 0 {
			return nil
		}
		if !pause(ctx, 50*time.Millisecond) {
			return fmt.Errorf("nobody polls for node %s: %w", id, context.Cause(ctx))
		}
	}
}

// Stop ends the polls and waits for the answers that are under way.
func (f *Fleet) Stop() {
	f.stop()
	f.done.Wait()
	for _, c := range f.links {
		c.Close()
	}
}

// Began says how often each piece of work was given to a node since Reset.
func (f *Fleet) Began() map[Piece]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.began)
}

// AtOnce says how many pieces of work are under way now, and how many were at
// most since Reset.
func (f *Fleet) AtOnce() (now, most int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.atOnce, f.most
}

// Reset forgets what Began and AtOnce count.
func (f *Fleet) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.began)
	f.most = f.atOnce
}

// serve is one node.
func (f *Fleet) serve(ctx context.Context, service workflowservice.WorkflowServiceClient, id string) {
	for ctx.Err() == nil {
		if err := f.poll(ctx, service, id); err != nil && !pause(ctx, 100*time.Millisecond) {
			return
		}
	}
}

// poll waits for a piece of work and answers it. That none came is no error.
func (f *Fleet) poll(ctx context.Context, service workflowservice.WorkflowServiceClient, id string) error {
	wait, cancel := context.WithTimeout(ctx, 70*time.Second) // the server answers after 60
	defer cancel()
	task, err := service.PollActivityTaskQueue(wait, &workflowservice.PollActivityTaskQueueRequest{
		Namespace: settings.Namespace, TaskQueue: &taskqueuepb.TaskQueue{Name: node.Queue(id)}, Identity: id,
	})
	if err != nil || len(task.GetTaskToken()) == 0 {
		return err
	}
	f.count(Piece{id, task.GetActivityId()})
	cancelled := false
	out, err := f.answer(Work{Node: id, Activity: task.GetActivityType().GetName(), ID: task.GetActivityId(), Beat: func() bool {
		beat, err := service.RecordActivityTaskHeartbeat(ctx, &workflowservice.RecordActivityTaskHeartbeatRequest{Namespace: settings.Namespace, TaskToken: task.TaskToken})
		cancelled = err == nil && beat.CancelRequested
		return cancelled || err != nil
	}})
	// Before the server hears of it: else a node that begins in its place would seem one too many.
	f.mu.Lock()
	f.atOnce--
	f.mu.Unlock()
	switch {
	case cancelled:
		_, err = service.RespondActivityTaskCanceled(ctx, &workflowservice.RespondActivityTaskCanceledRequest{Namespace: settings.Namespace, TaskToken: task.TaskToken})
	case err != nil:
		_, err = service.RespondActivityTaskFailed(ctx, &workflowservice.RespondActivityTaskFailedRequest{Namespace: settings.Namespace, TaskToken: task.TaskToken,
			Failure: temporal.GetDefaultFailureConverter().ErrorToFailure(err)})
	default:
		var result *commonpb.Payloads
		if result, err = converter.GetDefaultDataConverter().ToPayloads(out); err == nil {
			_, err = service.RespondActivityTaskCompleted(ctx, &workflowservice.RespondActivityTaskCompletedRequest{Namespace: settings.Namespace, TaskToken: task.TaskToken, Result: result})
		}
	}
	return err
}

func (f *Fleet) count(p Piece) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.began[p]++
	f.atOnce++
	f.most = max(f.most, f.atOnce)
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

type quiet struct{}

func (quiet) Debug(string, ...any)     {}
func (quiet) Info(string, ...any)      {}
func (quiet) Warn(string, ...any)      {}
func (quiet) Error(string, ...any)     {}
func (q quiet) With(...any) log.Logger { return q }
