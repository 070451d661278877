package dial

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What a server answers to a poll, and what is said of it after all polls before.
func TestPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Polls
		poll := func(method string, kind enums.TaskQueueKind, after time.Duration, err error) {
			t.Helper()
			req := &workflowservice.PollWorkflowTaskQueueRequest{TaskQueue: &taskqueue.TaskQueue{Kind: kind}}
			got := p.intercept(t.Context(), "/temporal.api.workflowservice.v1.WorkflowService/"+method, req, nil, nil,
				func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
					time.Sleep(after)
					return err
				})
			if !errors.Is(got, err) {
				t.Errorf("%s: the error is %v, want %v", method, got, err)
			}
		}
		says := func(want string) {
			t.Helper()
			if err := p.Err(); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%v, want %q", err, want)
			}
		}
		const work, call = "PollWorkflowTaskQueue", "PollActivityTaskQueue"
		const all, own = enums.TASK_QUEUE_KIND_NORMAL, enums.TASK_QUEUE_KIND_STICKY
		denied := status.Error(codes.PermissionDenied, "not you")
		says("")
		poll("StartWorkflowExecution", all, 0, denied)
		says("")
		for _, code := range []codes.Code{codes.PermissionDenied, codes.Unauthenticated, codes.NotFound, codes.InvalidArgument} {
			poll(work, all, 0, status.Error(code, "no, "+code.String()))
			says("refuses this program's polls (PollWorkflowTaskQueue): " + code.String() + ": no, ")
		}
		time.Sleep(time.Second)
		poll(work, own, time.Millisecond, nil)
		poll(call, all, time.Millisecond, nil)
		says("refuses") // the queue of all is another
		poll(work, all, time.Second, status.Error(codes.Canceled, "we stop"))
		says("refuses")
		for _, err := range []error{nil, status.Error(codes.DeadlineExceeded, "no work"), status.Error(codes.Unavailable, "away"), status.Error(codes.ResourceExhausted, "busy")} {
			time.Sleep(time.Second)
			poll(call, all, 0, denied)
			says("PollActivityTaskQueue")
			poll(work, all, time.Second, nil)
			says("PollActivityTaskQueue")
			poll(call, all, time.Second, err)
			says("")
		}

		// A poll that the server holds is not refused; one that it held before it began to refuse says nothing of that.
		poll(work, all, 0, denied)
		time.Sleep(time.Second)
		go poll(work, all, time.Minute, nil)
		time.Sleep(settled - time.Millisecond)
		says("refuses")
		time.Sleep(2 * time.Millisecond)
		says("")
		poll(work, all, 0, denied)
		time.Sleep(2 * time.Minute)
		says("refuses")

		// A server to which connections are refused is stopped; of one that is silent that cannot be said.
		down := func(want bool) {
			t.Helper()
			if p.Away() != want {
				t.Errorf("it is away: %v, want %v", !want, want)
			}
		}
		refused := status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial tcp 10.0.0.1:7233: connect: connection refused"`)
		down(false)
		poll(call, all, 0, refused)
		down(true)
		for _, err := range []error{status.Error(codes.Unavailable, "closing transport due to: EOF"), status.Error(codes.Unavailable, "no route to host"), status.Error(codes.DeadlineExceeded, "context deadline exceeded")} {
			poll(call, all, 0, err)
			down(true) // it has not answered
		}
		for _, err := range []error{denied, nil} {
			poll(call, all, 0, refused)
			poll(call, all, 0, err)
			down(false)
		}
		poll(call, all, 0, status.Error(codes.Unavailable, "no route to host"))
		down(false)
		poll(call, all, 0, refused)
		go poll(call, all, time.Minute, nil)
		time.Sleep(settled - time.Millisecond)
		down(true)
		time.Sleep(2 * time.Millisecond)
		down(false)
		time.Sleep(time.Minute)
	})
}
