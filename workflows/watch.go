package workflows

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/lang/program"
)

// Watcher is told of the parts of executions as they end, for metrics and
// traces. It is not told again at a replay; a part whose workflow task a worker
// did not live to report is told again by the next, with the same Link. It is
// called from workflow code: it must not block, and changes nothing.
type Watcher func(Part)

// Part is an execution, a step of it, or one target of a step, that has ended.
// It says what happened, and nothing of inputs, outputs and messages.
type Part struct {
	Of        PartOf
	Execution string // workflow id
	Run       string // run id
	Runbook   string
	Step      string // path; empty for the execution
	Action    string // action, or the step's form
	Node      string // of a call on one
	Call      bool   // it called Action, and is not the sum of several calls
	Undo      bool   // it took Action back
	Start     time.Time
	End       time.Time
	State     string // an Outcome for an execution, else the state of a step
	Kind      string // of its failure; empty if it has none
	Link
}

// PartOf says what a Part is.
type PartOf string

// The parts.
const (
	PartExecution PartOf = "execution"
	PartStep      PartOf = "step"
	PartTarget    PartOf = "target" // of a step on several
	PartUndo      PartOf = "undo"   // a compensation
)

// Link is the place of a Part in its trace. All of it is derived from the
// execution's id, first run and path: nothing has to be remembered, and who
// tells of a part a second time tells of the same one.
type Link struct {
	Trace  [16]byte // of the outermost execution
	Span   [8]byte
	Parent [8]byte // zero: it has none
}

type (
	watcherKey struct{}
	linkKey    struct{}
)

// watchedBy is Runbook, of which watchers are told.
func watchedBy(watchers []Watcher) func(workflow.Context, converter.EncodedValues) (*Result, error) {
	if len(watchers) == 0 {
		return Runbook
	}
	var all Watcher = func(p Part) {
		for _, w := range watchers {
			w(p)
		}
	}
	return func(ctx workflow.Context, args converter.EncodedValues) (*Result, error) {
		return Runbook(workflow.WithValue(ctx, watcherKey{}, all), args)
	}
}

// watchedExecution begins the part that is the execution.
func (r *run) watchedExecution(ctx workflow.Context) workflow.Context {
	if r.watcher, _ = ctx.Value(watcherKey{}).(Watcher); r.watcher == nil {
		return ctx
	}
	l := Link{Span: spanOf(r.id, r.firstRun, "")}
	switch above, linked := ctx.Value(linkKey{}).(Link); {
	case linked && above.Span == l.Span: // an earlier run of this execution
		l = above
	case linked: // the step that calls this runbook
		l.Trace, l.Parent = above.Trace, above.Span
	default:
		sum := sha256.Sum256([]byte("trace\x00" + r.id + "\x00" + r.firstRun))
		copy(l.Trace[:], sum[:])
	}
	r.link = l
	return workflow.WithValue(ctx, linkKey{}, l)
}

// tellExecution tells that the execution has ended.
func (r *run) tellExecution(ctx workflow.Context) {
	end := r.state.End
	p := Part{Of: PartExecution, Runbook: r.prog.Runbook, Start: r.state.StartedAt, End: workflow.Now(ctx), State: string(end.Outcome), Link: r.link}
	if end.Failure != nil {
		p.Kind = end.Failure.Kind
	}
	r.tell(ctx, p)
}

// tellRefused tells that an execution has ended before its first step. What it was to run may be unreadable: its type is
// what it was started as.
func tellRefused(ctx workflow.Context) {
	info := workflow.GetInfo(ctx)
	r := &run{id: info.WorkflowExecution.ID, firstRun: info.FirstRunID}
	r.watchedExecution(ctx)
	r.tell(ctx, Part{
		Of: PartExecution, Runbook: info.WorkflowType.Name, Start: info.WorkflowStartTime, End: workflow.Now(ctx),
		State: string(Failed), Kind: string(action.Invalid), Link: r.link,
	})
}

func nothing() {}

// watched begins a part below that of ctx, and returns what tells that it has
// ended, if it has.
func (r *run) watched(ctx workflow.Context, key string, ended func() *Part) (workflow.Context, func()) {
	above, _ := ctx.Value(linkKey{}).(Link)
	l := Link{Trace: above.Trace, Span: spanOf(r.id, r.firstRun, key), Parent: above.Span}
	inner := workflow.WithValue(ctx, linkKey{}, l)
	return inner, func() {
		if p := ended(); p != nil {
			p.Link = l
			r.tell(ctx, *p)
		}
	}
}

// watchedStep is watched, of a step.
func (r *run) watchedStep(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step) (workflow.Context, func()) {
	if r.watcher == nil { // a replay passes here ten thousand times: nothing is made
		return ctx, nothing
	}
	before := rec.End // of a step that failed in an earlier run of the execution
	return r.watched(ctx, path, func() *Part {
		if rec.Start == nil || rec.End == nil || rec.End == before {
			return nil
		}
		p := partOf(rec, path, s)
		p.Of, p.Runbook = PartStep, sc.prog.Runbook
		p.Call = s.Call != nil && (s.Targets == nil || s.Targets.Single) && rec.State != StateSkipped
		return p
	})
}

// watchedTarget is watched, of one target of a step.
func (r *run) watchedTarget(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step) (workflow.Context, func()) {
	if r.watcher == nil {
		return ctx, nothing
	}
	before := rec.End
	// An operator may have it tried again, which is another part.
	key := fmt.Sprintf("%s@%s\x00%d", path, rec.Target, rec.Start.UnixNano())
	return r.watched(ctx, key, func() *Part {
		if rec.Start == nil || rec.End == nil || rec.End == before {
			return nil
		}
		p := partOf(rec, path, s)
		p.Of, p.Call, p.Runbook = PartTarget, true, sc.prog.Runbook
		return p
	})
}

func partOf(rec *record, path string, s *program.Step) *Part {
	p := &Part{Step: path, Action: string(s.Kind), Node: rec.Target, Start: *rec.Start, End: *rec.End, State: rec.State}
	if s.Call != nil {
		p.Action = s.Call.Action
	}
	if rec.Failure != nil {
		p.Kind = rec.Failure.Kind
	}
	return p
}

// watchedUndo is watched, of a compensation.
func (r *run) watchedUndo(ctx workflow.Context, u *undo) (workflow.Context, func()) {
	if r.watcher == nil {
		return ctx, nothing
	}
	return r.watched(ctx, "undo\x00"+u.Path+"@"+u.Target+"\x00"+u.Token, func() *Part {
		if u.Start == nil || u.End == nil {
			return nil
		}
		p := &Part{Of: PartUndo, Undo: true, Call: u.Custom == nil, Runbook: u.Runbook, Step: u.Path, Action: u.Action, Node: u.Target, Start: *u.Start, End: *u.End, State: u.State}
		if u.Custom != nil {
			p.Action = "rollback"
		}
		return p
	})
}

func (r *run) tell(ctx workflow.Context, p Part) {
	if r.watcher == nil || workflow.IsReplaying(ctx) {
		return
	}
	p.Execution, p.Run = r.id, workflow.GetInfo(ctx).WorkflowExecution.RunID
	r.watcher(p)
}

func spanOf(id, firstRun, key string) (span [8]byte) {
	sum := sha256.Sum256([]byte("span\x00" + id + "\x00" + firstRun + "\x00" + key))
	copy(span[:], sum[:])
	if binary.BigEndian.Uint64(span[:]) == 0 {
		span[0] = 1 // zero means none
	}
	return span
}

// linkHeader is the header that carries a Link from an execution to its
// activities, its children and its next run: 32 bytes, in the clear.
const linkHeader = "almanac-link"

// Links returns what carries Links. Without it each execution is a trace of its
// own, and activities know none.
func Links() workflow.ContextPropagator { return links{} }

// LinkOf is the Link of the part that an activity works for.
func LinkOf(ctx context.Context) (Link, bool) {
	l, ok := ctx.Value(linkKey{}).(Link)
	return l, ok
}

type links struct{}

func (links) Inject(context.Context, workflow.HeaderWriter) error { return nil }

func (links) Extract(ctx context.Context, h workflow.HeaderReader) (context.Context, error) {
	if l, ok := readLink(h); ok {
		ctx = context.WithValue(ctx, linkKey{}, l)
	}
	return ctx, nil
}

func (links) InjectFromWorkflow(ctx workflow.Context, h workflow.HeaderWriter) error {
	if l, ok := ctx.Value(linkKey{}).(Link); ok {
		b := append(append(l.Trace[:], l.Span[:]...), l.Parent[:]...)
		h.Set(linkHeader, &commonpb.Payload{Data: b})
	}
	return nil
}

func (links) ExtractToWorkflow(ctx workflow.Context, h workflow.HeaderReader) (workflow.Context, error) {
	if l, ok := readLink(h); ok {
		ctx = workflow.WithValue(ctx, linkKey{}, l)
	}
	return ctx, nil
}

func readLink(h workflow.HeaderReader) (l Link, ok bool) {
	p, ok := h.Get(linkHeader)
	if !ok || len(p.GetData()) != 32 {
		return l, false
	}
	b := p.GetData()
	copy(l.Trace[:], b)
	copy(l.Span[:], b[16:])
	copy(l.Parent[:], b[24:])
	return l, true
}
