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
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// Polls sees what becomes of the polls of a client, and remembers whether the server refuses to give work, and whether
// there is none. Temporal's SDK asks again for ever, and tells nobody but its log. A poll that finds no connection waits
// for one: the SDK would rest up to ten seconds when it is back, which is all the time that a node has to go on with its work.
// The zero value is ready.
type Polls struct {
	mu      sync.Mutex
	refused map[poll]refusal
	down    bool
	conn    *grpc.ClientConn
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

// Away tells, of a server that does not answer, whether that is its own trouble, in which it gives nobody up: it was
// stopped, or it is there and cannot do its work (its database is away). If it is silent all of a sudden, that cannot be
// said: perhaps a cable is cut. Silence after a refused connection is that of a machine which restarts.
func (p *Polls) Away() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.down || p.conn != nil && p.conn.GetState() == connectivity.Ready
}

// disconnected waits for the connection, and no more than a second, after which it can be told why there is none. It
// is false if there is one, so that the server itself was not available, and when ctx ends.
func disconnected(ctx context.Context, cc *grpc.ClientConn) bool {
	if cc == nil {
		return false
	}
	state := cc.GetState()
	switch state {
	case connectivity.Ready, connectivity.Shutdown:
		return false
	}
	cc.Connect() // if it is idle
	// Between two attempts its state is that of the last one, failed.
	second, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	cc.WaitForStateChange(second, state)
	return ctx.Err() == nil
}

func (p *Polls) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	of := poll{method: method[strings.LastIndex(method, "/")+1:]}
	if of.method != "PollWorkflowTaskQueue" && of.method != "PollActivityTaskQueue" {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	if r, ok := req.(interface{ GetTaskQueue() *taskqueue.TaskQueue }); ok {
		of.queue = r.GetTaskQueue().GetKind()
	}
	p.mu.Lock()
	p.conn = cc
	p.mu.Unlock()
	began := time.Now()
	do := func() error { return invoke(ctx, method, req, reply, cc, opts...) }
	err := p.invoke(of, cc, do)
	for status.Code(err) == codes.Unavailable && disconnected(ctx, cc) {
		began = time.Now()
		err = p.invoke(of, cc, do)
	}
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

// invoke does one poll, and notes whether there is a server.
func (p *Polls) invoke(of poll, cc *grpc.ClientConn, do func() error) error {
	began := time.Now()
	waits := time.AfterFunc(settled, func() {
		if cc == nil || cc.GetState() == connectivity.Ready { // else it waits for the connection
			p.taken(of, began)
			p.setDown(false)
		}
	})
	err := do()
	waits.Stop()
	switch status.Code(err) {
	case codes.Unavailable:
		// gRPC has no other word for it than this, of the system.
		if strings.Contains(err.Error(), "connection refused") {
			p.setDown(true)
		}
	case codes.DeadlineExceeded, codes.Canceled: // by us
	default:
		p.setDown(false)
	}
	return err
}

func (p *Polls) setDown(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
}

// taken forgets a refusal, unless it came after this poll began.
func (p *Polls) taken(of poll, began time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if began.After(p.refused[of].at) {
		delete(p.refused, of)
	}
}
