package dial

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Polls remembers whether the server refuses to give work. Temporal's SDK asks again for ever, and tells nobody but its
// log. The zero value is ready.
type Polls struct {
	mu      sync.Mutex
	refused map[poll]refusal
}

// poll is a kind of polls; a worker asks the queue of its own in another way than that of all.
type poll struct {
	method string
	queue  enums.TaskQueueKind
}

type refusal struct {
	at  time.Time
	why *status.Status
}

// settled is after how long a poll that the server has not answered is not refused: a refusal comes at once, work within a minute.
const settled = 3 * time.Second

// Watch makes p see the polls of a client with these options.
func (p *Polls) Watch(opts client.Options) client.Options {
	opts.ConnectionOptions.DialOptions = append(slices.Clone(opts.ConnectionOptions.DialOptions), grpc.WithChainUnaryInterceptor(p.intercept))
	return opts
}

// Err is how the server refused the last poll of a kind, nil if it refused none. Silence, and a server that is away, are no refusal.
func (p *Polls) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var method string
	var last refusal
	for of, r := range p.refused {
		if last.why == nil || r.at.After(last.at) {
			method, last = of.method, r
		}
	}
	if last.why == nil {
		return nil
	}
	return fmt.Errorf("the Temporal server refuses this program's polls (%s): %s: %s", method, last.why.Code(), last.why.Message())
}

func (p *Polls) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	of := poll{method: method[strings.LastIndex(method, "/")+1:]}
	if of.method != "PollWorkflowTaskQueue" && of.method != "PollActivityTaskQueue" {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	if r, ok := req.(interface{ GetTaskQueue() *taskqueue.TaskQueue }); ok {
		of.queue = r.GetTaskQueue().GetKind()
	}
	began := time.Now()
	waits := time.AfterFunc(settled, func() { p.taken(of, began) })
	err := invoke(ctx, method, req, reply, cc, opts...)
	waits.Stop()
	switch status.Code(err) {
	case codes.PermissionDenied, codes.Unauthenticated, codes.NotFound, codes.InvalidArgument, codes.FailedPrecondition, codes.Unimplemented:
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.refused == nil {
			p.refused = map[poll]refusal{}
		}
		p.refused[of] = refusal{time.Now(), status.Convert(err)}
	case codes.Canceled: // by us
	default:
		p.taken(of, began)
	}
	return err
}

// taken forgets a refusal, unless it came after this poll began.
func (p *Polls) taken(of poll, began time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if began.After(p.refused[of].at) {
		delete(p.refused, of)
	}
}
