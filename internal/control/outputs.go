package control

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/output"
	"github.com/almanac-run/almanac/internal/output/postgres"
	"github.com/almanac-run/almanac/internal/output/retain"
	"github.com/almanac-run/almanac/internal/output/s3"
	"github.com/almanac-run/almanac/internal/output/ship"
	"github.com/almanac-run/almanac/internal/pgtext"
	"github.com/almanac-run/almanac/workflows"
)

// Central says where outputs are kept centrally, and for how long. The zero value: nowhere.
type Central struct {
	// Address is s3://bucket/prefix, postgres://… or a directory.
	Address string

	// Endpoint is the URL of what speaks like S3 in place of AWS; empty: AWS.
	Endpoint string

	// Limits are those of the central store, and of the outputs in OutputDir.
	Limits retain.Limits
}

// openCentral opens the central store; nil if there is none. A store that refuses is an error; one that does
// not answer is tried again when it is needed: executions do not wait for it.
func openCentral(ctx context.Context, c Central, log *slog.Logger) (output.Central, func(), error) {
	store, done, err := newCentral(ctx, c)
	if store == nil || err != nil {
		return nil, done, err
	}
	switch err := check(ctx, store); {
	case err != nil && refuses(err):
		done()
		return nil, nil, err
	case err != nil:
		log.Warn("the output store cannot be used at the moment; it is tried again when it is needed", "error", err)
	}
	return store, done, nil
}

// checkFor is how long the start of a worker waits for the central store.
const checkFor = 30 * time.Second

// check is the store's Check, which a directory of a network that is away may not return from.
func check(ctx context.Context, store output.Central) error {
	ctx, cancel := context.WithTimeout(ctx, checkFor)
	defer cancel()
	checked := make(chan error, 1)
	go func() { checked <- store.Check(ctx) }()
	select {
	case err := <-checked:
		return err
	case <-ctx.Done():
		return fmt.Errorf("output store: %w", ctx.Err())
	}
}

// refuses tells whether the error of a store is one that stays until somebody changes something.
func refuses(err error) bool {
	var no *awsapi.Error
	if errors.As(err, &no) {
		return no.Class == awsapi.Denied || no.Class == awsapi.NotFound || no.Class == awsapi.Invalid
	}
	return postgres.Refused(err) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EROFS)
}

// newCentral makes the central store that is asked for, without calling it, and what closes it.
func newCentral(ctx context.Context, c Central) (output.Central, func(), error) {
	nothing := func() {}
	switch {
	case c.Endpoint != "" && !strings.HasPrefix(c.Address, "s3://"):
		return nil, nil, fmt.Errorf("an endpoint is set for the output store (%s), and the store is none of S3's: want s3://bucket/prefix", pgtext.Masked(c.Endpoint))
	case c.Address == "":
		return nil, nothing, nil
	case pgtext.Is(c.Address):
		s, err := postgres.New(c.Address)
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	case strings.HasPrefix(c.Address, "s3://"):
		aws, err := awsapi.New(ctx, awsapi.Options{Endpoint: c.Endpoint})
		if err != nil {
			return nil, nil, err
		}
		s, err := s3.New(aws, aws.Models(), c.Address)
		if err != nil {
			return nil, nil, err
		}
		return s, nothing, nil
	case strings.Contains(c.Address, "://"):
		scheme, _, _ := strings.Cut(c.Address, "://") // behind it may be a password
		return nil, nil, fmt.Errorf("output store %s://…: want a directory, s3://bucket/prefix or postgres://…", scheme)
	case pgtext.Masked(c.Address) != c.Address: // password=… would be the name of a directory
		return nil, nil, fmt.Errorf("output store %s: want a directory, s3://bucket/prefix or postgres://…", pgtext.Masked(c.Address))
	}
	return output.InDir(c.Address), nothing, nil
}

// archivist takes outputs into the central store.
type archivist struct {
	store    output.Central // nil: there is none
	dir      output.Dir     // of what ran through Systems Manager; empty: none
	limits   retain.Limits
	log      *slog.Logger
	places   chan struct{} // one for each output that is being fetched
	fetching sync.Map      // the nodes of these, as files are named: a node has one place
	stopping <-chan struct{}
	away     atomic.Pointer[away] // nil: the store has not failed yet

	// ask reads a part of an output on its node.
	ask func(ctx context.Context, node string, in host.OutputReadInput) (host.OutputReadOutput, error)
}

// fetches is how many outputs are fetched at once: each has up to 8 MiB in memory. No other waits for its turn here, where it
// would take the place of an execution's work: its node comes again.
const fetches = 8

// away says that the store did not answer, and until when nobody tries again. Else, while it is away, all nodes' tellings wait for it
// at once, in the places of executions' work.
type away struct {
	err   error
	until time.Time
}

func (a *away) Error() string { return a.err.Error() }

const (
	answerWithin = 30 * time.Second // of the store, about a small output
	awayFor      = 30 * time.Second
)

var (
	errBusy  = fmt.Errorf("the control worker fetches %d other outputs at the moment", fetches)
	errTwice = errors.New("the control worker fetches another output of this node at the moment")
)

// newArchivist makes an archivist that begins nothing more when ctx ends.
func newArchivist(ctx context.Context, o Options, store output.Central) *archivist {
	return &archivist{
		store: store, dir: output.Dir(o.OutputDir), limits: o.Central.Limits, log: o.Logger,
		places: make(chan struct{}, fetches), stopping: ctx.Done(), ask: asker(o),
	}
}

// run sends what is in the directory and removes what is old, until ctx ends.
func (a *archivist) run(ctx context.Context, local *ship.Shipper) {
	if a.store != nil && a.dir != "" {
		go local.Run(ctx)
	}
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		a.retain(ctx, time.Now())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// retain removes what is old. Several workers may do so at once.
func (a *archivist) retain(ctx context.Context, now time.Time) {
	shelves := map[string]output.Shelf{}
	if a.dir != "" {
		shelves[string(a.dir)] = a.dir.Own(ofAWS)
	}
	if a.store != nil {
		shelves["central store"] = a.store
	}
	for where, shelf := range shelves {
		removed, err := retain.Once(ctx, shelf, a.limits, now)
		if err != nil && ctx.Err() == nil {
			a.log.Warn("old outputs remain", "where", where, "error", err)
		}
		if removed.Outputs > 0 {
			a.log.Info("old outputs were removed", "where", where, "outputs", removed.Outputs, "bytes", removed.Bytes)
		}
	}
}

// ofAWS tells whether an output is of a node that Systems Manager reaches: those are written here.
func ofAWS(ref string) bool { return workflows.OfAWS(strings.TrimSuffix(path.Base(ref), ".log")) }

// local sends what was written here.
func (a *archivist) local() *ship.Shipper {
	return ship.New(a.dir, ofAWS, func(ctx context.Context, outputs []output.Kept) (output.KeepOutput, error) {
		return a.keep(ctx, outputs, func(_ context.Context, k output.Kept) (io.ReadCloser, error) { return a.dir.Open(k.Ref) })
	}, a.log)
}

// action is the activity by which agents have their outputs taken into the central store.
func (a *archivist) action() action.Action {
	return action.New(action.Def[output.KeepInput, output.KeepOutput]{
		Name:    output.ActivityKeep,
		Summary: "Take outputs of a node into the central store",
		Do: func(ctx context.Context, in output.KeepInput) (output.KeepOutput, error) {
			// Who tells stands in the workflow's id, which the server has checked; not in what it says.
			id, _, ok := strings.Cut(strings.TrimPrefix(action.FromContext(ctx).Execution, "tell/"), "/")
			if !ok || id == "" {
				return output.KeepOutput{}, action.Errorf(action.Denied, "only a node tells of outputs")
			}
			for _, k := range in.Outputs {
				if err := output.Check(k.Ref); err != nil || !output.OfTarget(k.Ref, id) {
					return output.KeepOutput{}, action.Errorf(action.Denied, "output %q is none of node %s", k.Ref, id)
				}
				if k.Size < 0 {
					return output.KeepOutput{}, action.Errorf(action.Invalid, "output %q has %d bytes", k.Ref, k.Size)
				}
			}
			return a.keep(ctx, in.Outputs, func(ctx context.Context, k output.Kept) (io.ReadCloser, error) {
				return io.NopCloser(&fetched{ctx: ctx, a: a, node: id, ref: k.Ref}), nil
			})
		},
	})
}

// keep takes outputs that are not in the store into it. Of those that are larger than what came with them, open gives all.
func (a *archivist) keep(ctx context.Context, outputs []output.Kept, open func(context.Context, output.Kept) (io.ReadCloser, error)) (output.KeepOutput, error) {
	out := output.KeepOutput{Off: a.store == nil, Failed: map[string]string{}}
	if out.Off {
		return out, nil
	}
	// A worker that stops does not finish a long one: the next begins it anew.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-a.stopping:
			cancel(action.Errorf(action.Unavailable, "the control worker stops"))
		case <-ctx.Done():
		}
	}()
	for _, k := range outputs {
		if gone := a.away.Load(); gone != nil && time.Now().Before(gone.until) {
			out.Failed[k.Ref] = gone.Error()
			continue
		}
		err := a.one(ctx, k, open)
		if ctx.Err() != nil {
			return out, context.Cause(ctx)
		}
		if err != nil {
			out.Failed[k.Ref] = err.Error()
			var gone *away
			if errors.As(err, &gone) {
				a.away.Store(gone)
			}
			if !errors.Is(err, errBusy) && !errors.Is(err, errTwice) {
				a.log.Warn("an output is not in the central store; it is tried again", "output", k.Ref, "error", err)
			}
			continue
		}
		out.Kept = append(out.Kept, k.Ref)
	}
	return out, nil
}

func (a *archivist) one(ctx context.Context, k output.Kept, open func(context.Context, output.Kept) (io.ReadCloser, error)) error {
	// It may be there already, since all this is done at least once. An output only grows, unless it was begun anew.
	soon, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	size, err := a.store.Size(soon, k.Ref)
	switch {
	case err == nil && size >= k.Size && !k.Anew:
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return &away{err, time.Now().Add(awayFor)}
	}
	if k.Data != "" || k.Size == 0 {
		err := a.store.Put(soon, k.Ref, base64.NewDecoder(base64.StdEncoding, strings.NewReader(k.Data)), k.Size)
		if err != nil && soon.Err() != nil {
			return &away{err, time.Now().Add(awayFor)}
		}
		return err
	}
	node := path.Base(k.Ref)
	if _, busy := a.fetching.LoadOrStore(node, true); busy {
		return errTwice
	}
	defer a.fetching.Delete(node)
	select {
	case a.places <- struct{}{}:
		defer func() { <-a.places }()
	default:
		return errBusy
	}
	from, err := open(ctx, k)
	if err != nil {
		return err
	}
	defer from.Close()
	return a.store.Put(ctx, k.Ref, &unlessLonger{from, k.Size, func() error {
		if size, err := a.store.Size(ctx, k.Ref); err == nil && size > k.Size && !k.Anew {
			return fmt.Errorf("output %s: a longer one has come meanwhile", k.Ref)
		}
		return nil
	}}, k.Size)
}

// unlessLonger asks check before it gives the last of left bytes: a fetch takes long, and the output may have been
// continued, and told of to another worker, which was quicker.
type unlessLonger struct {
	r     io.Reader
	left  int64
	check func() error
}

func (u *unlessLonger) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	if u.left -= int64(n); u.left <= 0 && n > 0 {
		if longer := u.check(); longer != nil {
			return 0, longer
		}
	}
	return n, err
}

// fetched reads an output on its node from the beginning, in parts. Each is a question, as the starter asks them.
type fetched struct {
	ctx       context.Context
	a         *archivist
	node, ref string
	at        int64
	part      []byte
}

func (f *fetched) Read(p []byte) (int, error) {
	if len(f.part) == 0 {
		out, err := f.a.ask(f.ctx, f.node, host.OutputReadInput{Ref: f.ref, Offset: f.at})
		if err != nil {
			return 0, err
		}
		if f.part, err = out.Bytes(); err != nil {
			return 0, fmt.Errorf("node %s: output %s: %w", f.node, f.ref, err)
		}
		if out.Offset != f.at || len(f.part) == 0 {
			return 0, io.EOF
		}
		f.at += int64(len(f.part))
	}
	n := copy(p, f.part)
	f.part = f.part[n:]
	return n, nil
}

const (
	askTimeout = 2 * time.Minute // of one question to a node
	mostSaid   = 1000            // bytes of what it says is wrong: that is logged, and told the node
)

// asker reads parts of outputs on their nodes. Each question is deleted when the answer has come.
func asker(o Options) func(context.Context, string, host.OutputReadInput) (host.OutputReadOutput, error) {
	return func(ctx context.Context, node string, in host.OutputReadInput) (out host.OutputReadOutput, err error) {
		input, err := json.Marshal(in)
		if err != nil {
			return out, err
		}
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		run, err := o.Client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
			ID: "ask/" + host.OutputRead + "/" + strings.ToLower(rand.Text()), TaskQueue: o.TaskQueue,
			WorkflowExecutionTimeout: askTimeout, StaticSummary: "an output of " + node + ", for the central store",
		}, workflows.AskType, workflows.Question{Activity: workflows.ActionReadOutput, Node: node, Input: input})
		if err != nil {
			return out, err
		}
		var answer json.RawMessage
		err = run.Get(ctx, &answer)
		late, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer done()
		_, _ = o.Client.WorkflowService().DeleteWorkflowExecution(late, &workflowservice.DeleteWorkflowExecutionRequest{ // else it ends with its retention
			Namespace: o.Namespace, WorkflowExecution: &common.WorkflowExecution{WorkflowId: run.GetID(), RunId: run.GetRunID()},
		})
		var said *temporal.ApplicationError
		var slow *temporal.TimeoutError
		switch {
		case errors.As(err, &said):
			return out, errors.New(output.Text([]byte(said.Message()[:min(len(said.Message()), mostSaid)])))
		case errors.As(err, &slow):
			return out, fmt.Errorf("node %s does not answer", node)
		case err != nil:
			return out, err
		}
		return out, json.Unmarshal(answer, &out)
	}
}

// read is the activity that reads complete outputs which are here or in the central store.
func (a *archivist) read() action.Action {
	return action.New(action.Def[host.OutputReadInput, host.OutputReadOutput]{
		Name:    host.OutputRead,
		Summary: "Read a part of a command's complete output",
		Do: func(ctx context.Context, in host.OutputReadInput) (host.OutputReadOutput, error) {
			if err := output.Check(in.Ref); err != nil {
				return host.OutputReadOutput{}, action.Errorf(action.Invalid, "%w", err)
			}
			if ofAWS(in.Ref) && a.dir != "" {
				id := strings.TrimSuffix(path.Base(in.Ref), ".log")
				out, err := host.Node{ID: id, OutputDir: string(a.dir)}.ReadOutput(ctx, in)
				if err == nil || a.store == nil || action.KindOf(err) != action.NotFound {
					return out, err
				}
			}
			if a.store == nil {
				return host.OutputReadOutput{}, action.Errorf(action.NotFound, "output %q is on its node", in.Ref)
			}
			return a.readCentral(ctx, in)
		},
	})
}

func (a *archivist) readCentral(ctx context.Context, in host.OutputReadInput) (host.OutputReadOutput, error) {
	size, err := a.store.Size(ctx, in.Ref)
	var expired *output.ExpiredError
	switch {
	case errors.As(err, &expired):
		return host.OutputReadOutput{}, action.Errorf(action.NotFound, "%w", expired)
	case errors.Is(err, fs.ErrNotExist):
		return host.OutputReadOutput{}, action.Errorf(action.NotFound, "output %q is not in the central store", in.Ref)
	case err != nil:
		return host.OutputReadOutput{}, action.Errorf(action.Unavailable, "%w", err)
	}
	out, err := host.OutputPart(in, size, func(p []byte, offset int64) (int, error) { return a.store.ReadAt(ctx, in.Ref, p, offset) })
	out.Ended = true
	return out, err
}
