package workflows

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/fleet"
	"github.com/almanac-run/almanac/lang/expr"
	"github.com/almanac-run/almanac/lang/program"
)

// How long whoever runs an activity may be silent, and how long a node's agent
// may take to fetch its work: together the time after which a node that died is
// given up. An agent that comes back in between goes on where it was.
const (
	heartbeat       = 10 * time.Second
	nodeAnswersIn   = 10 * time.Second
	mostInFlight    = 500     // activities at once; over 2,000 wedge a workflow
	mostTaskBytes   = 2 << 20 // of commands in one workflow task; over 4 MB terminate it
	mostInput       = 1536 << 10
	mostPayload     = 1900 << 10 // of one message; a payload over 2 MB wedges an execution
	defaultEvery    = 10 * time.Second
	defaultAttempts = 5
	mostShown       = 5 // failed targets or iterations kept in the view
)

var (
	one   = fleet.Limit{N: 1}
	none  = fleet.Limit{}
	fifty = fleet.Limit{N: 50}
)

const parentClose = 3 // enums.PARENT_CLOSE_POLICY_REQUEST_CANCEL: a child rolls itself back

// call runs an action: on the control worker, or on targets.
func (r *run) call(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step) error {
	if s.Targets == nil {
		out, err := r.invoke(ctx, sc, rec, path, "", s)
		if err == nil {
			rec.Out = out
		}
		return err
	}
	if rec.Nodes == nil {
		nodes, err := r.resolve(ctx, sc, rec, path, s)
		if err != nil {
			return err
		}
		if !s.Targets.Single {
			nodes, rec.Away = r.only(nodes), r.only(rec.Away)
		}
		rec.Nodes, rec.Total = nodes, len(nodes)
		r.targets(ctx, nodes)
	}
	if s.Targets.Single {
		rec.Target, rec.Total = rec.Nodes[0], 0
		out, err := r.invoke(ctx, sc, rec, path, rec.Nodes[0], s)
		if err == nil {
			rec.Out = out
		}
		return err
	}
	return r.onTargets(ctx, sc, rec, path, s)
}

// resolve finds the nodes of a step, in the order given or by name, each once.
func (r *run) resolve(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step) ([]string, error) {
	nodes := []string{}
	if s.Targets.Nodes != nil {
		var given []string
		if err := sc.decode(ctx, s.Targets.Nodes, &given, "a list of node ids"); err != nil {
			return nil, err
		}
		for _, n := range given {
			if n == "" || len(n) > 128 || strings.ContainsAny(n, "/ \n") {
				return nil, sc.fail(action.Invalid, s.Pos, "%q is no node id", abridged(n, 40))
			}
			if !slices.Contains(nodes, n) {
				nodes = append(nodes, n)
			}
		}
		if err := r.place(ctx, sc, path, s, nodes); err != nil {
			return nil, err
		}
	} else {
		found, err := r.where(ctx, sc, rec, path, s)
		if err != nil {
			return nil, err
		}
		nodes = found
	}
	if len(nodes) == 0 && !s.Targets.AllowEmpty {
		return nil, sc.fail(action.NotFound, s.Pos, "no node matched; say allow_empty: true in targets if that is right")
	}
	return nodes, nil
}

// where takes the nodes of the registry for which the condition holds. Those
// that are away or whose clock is off are no targets, and are named.
func (r *run) where(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step) ([]string, error) {
	found, err := r.registered(ctx, sc, path, s)
	if err != nil {
		return nil, err
	}
	nodes, absent := []string{}, []string{}
	for _, n := range found {
		yes, err := sc.with("node", n.Facts).truth(ctx, s.Targets.Where)
		switch id, _ := n.Facts["id"].(string); {
		case err != nil:
			return nil, err
		case yes && n.Absent != "":
			absent = append(absent, id+" ("+n.Absent+")")
			rec.Away = append(rec.Away, id)
		case yes:
			nodes = append(nodes, id)
			r.reach(id, n.Target)
		}
	}
	if len(absent) > 0 {
		rec.Message = abridged(fmt.Sprintf("left out %d that match and are away: %s", len(absent), strings.Join(absent, ", ")), 300)
		r.dirty = true
	}
	return nodes, nil
}

// retries is a Retry with its defaults.
type retries struct {
	attempts        int
	first, most     time.Duration
	factor          float64
	on              []string
	anyKind, absent bool
}

// usual is what a step has that says nothing about retry.
var usual = retries{attempts: defaultAttempts, first: time.Second, most: time.Minute, factor: 2, absent: true}

func (r *run) retries(ctx workflow.Context, sc *scope, p *program.Retry) (retries, error) {
	t := usual
	if p == nil {
		return t, nil
	}
	t.absent, t.on, t.anyKind = false, p.On, len(p.On) == 0
	var err error
	if t.attempts, err = sc.integer(ctx, p.Attempts, t.attempts); err != nil {
		return t, err
	}
	if t.first, err = sc.duration(ctx, p.Backoff, t.first); err != nil {
		return t, err
	}
	if t.most, err = sc.duration(ctx, p.MaxBackoff, max(t.most, t.first)); err != nil {
		return t, err
	}
	if p.Factor != nil {
		err = sc.decode(ctx, p.Factor, &t.factor, "a number")
	}
	// What the server would refuse wedges the execution.
	t.attempts, t.factor = min(max(t.attempts, 1), 1_000_000), max(t.factor, 1)
	t.first = max(t.first, time.Millisecond)
	t.most = max(t.most, t.first)
	return t, err
}

// again tells whether an error of this kind is worth another attempt.
func (t retries) again(kind string) bool {
	switch k := action.Kind(kind); {
	case t.absent:
		return k.Retryable()
	case t.anyKind:
		return !slices.Contains([]action.Kind{action.Invalid, action.Denied, action.Cancelled, action.Unknown, action.Internal}, k)
	}
	return slices.Contains(t.on, kind)
}

// backoff is the pause after attempt n.
func (t retries) backoff(n int) time.Duration {
	d := float64(t.first) * math.Pow(t.factor, float64(n-1))
	return time.Duration(min(d, float64(t.most)))
}

// sameWork tells whether an error of this kind leaves the work as it was asked
// for: it is asked for again under the same token, by the server. After any
// other error a further attempt is new work with a token of its own: a command
// that ran and failed must run again, not be answered from the node's journal.
func sameWork(k action.Kind) bool {
	return k == action.Throttled || k == action.Unavailable || k == action.Lost
}

// usualPolicy is that of steps that say nothing; the SDK only reads it.
var usualPolicy = usual.newPolicy()

// policy is what the server retries by itself.
func (t retries) policy() *temporal.RetryPolicy {
	if t.absent {
		return usualPolicy
	}
	return t.newPolicy()
}

func (t retries) newPolicy() *temporal.RetryPolicy {
	p := &temporal.RetryPolicy{
		InitialInterval: t.first, BackoffCoefficient: t.factor, MaximumInterval: t.most,
		MaximumAttempts: int32(t.attempts),
		// A timeout of the work itself is not a lost worker (TimeoutFailureTypePrefix in the server).
		// A restart is for the interpreter to wait for, longer than the server would.
		NonRetryableErrorTypes: []string{"TemporalTimeout:StartToClose", string(action.Restarting)},
	}
	for _, k := range action.Kinds {
		if k != action.Lost && !(sameWork(k) && t.again(string(k))) {
			p.NonRetryableErrorTypes = append(p.NonRetryableErrorTypes, string(k))
		}
	}
	return p
}

// invoke calls the action of a step once, or as often as `until:` and `retry:`
// say, on one node or on the control worker. It returns the action's output.
func (r *run) invoke(ctx workflow.Context, sc *scope, rec *record, path, node string, s *program.Step) (json.RawMessage, error) {
	again, err := r.retries(ctx, sc, s.Retry)
	if err != nil {
		return nil, err
	}
	limit, err := sc.duration(ctx, s.Timeout, time.Duration(s.Call.Timeout))
	if err != nil {
		return nil, err
	}
	if limit <= 0 {
		return nil, sc.fail(action.Invalid, s.Pos, "the timeout is %s; it must be more than nothing", limit)
	}
	if s.Call.Until == nil {
		return r.attempts(ctx, sc, rec, path, node, s, again, limit)
	}
	every, err := sc.duration(ctx, s.Call.Every, defaultEvery)
	if err != nil {
		return nil, err
	}
	var out json.RawMessage
	deadline := rec.Start.Add(limit)
	timedOut, err := within(ctx, deadline.Sub(workflow.Now(ctx)), "timeout of "+path, func(ctx workflow.Context) error {
		for {
			if err := r.boundary(ctx, sc); err != nil {
				return err
			}
			if out, err = r.attempts(ctx, sc, rec, path, node, s, again, limit); err != nil {
				return err
			}
			result, err := expr.FromJSON(out, s.Call.Output)
			if err != nil {
				return sc.fail(action.Internal, s.Pos, "output: %v", err)
			}
			if met, err := sc.with("result", result).truth(ctx, s.Call.Until); met || err != nil {
				return err
			}
			rec.Message = "not yet: " + abridged(s.Call.Until.Text, 80)
			r.dirty = true
			if err := r.sleep(ctx, sc, every, path+" again"); err != nil {
				return err
			}
		}
	})
	if timedOut {
		return nil, sc.fail(action.Timeout, s.Call.Until.Pos, "not true within %s: %s", limit, abridged(s.Call.Until.Text, 200))
	}
	rec.Message = ""
	return out, err
}

// attempts calls the action until it succeeds or `retry:` says no more.
func (r *run) attempts(ctx workflow.Context, sc *scope, rec *record, path, node string, s *program.Step, again retries, limit time.Duration) (json.RawMessage, error) {
	for {
		rec.Try++
		n := rec.Try
		out, err := r.attempt(ctx, sc, rec, path, node, s, again, limit)
		if err == nil && n > 1 {
			rec.Message = ""
		}
		var f *Failure
		if !errors.As(err, &f) || n >= again.attempts || sameWork(action.Kind(f.Kind)) || !again.again(f.Kind) {
			rec.Try = 0
			return out, err
		}
		rec.Message = fmt.Sprintf("attempt %d of %d: %s", n, again.attempts, firstLine(f.Message))
		r.dirty = true
		if err := r.sleep(ctx, sc, again.backoff(n), "retry "+path); err != nil {
			return nil, err
		}
	}
}

// attempt schedules the action once, under a token of its own. Its compensation
// is recorded before.
func (r *run) attempt(ctx workflow.Context, sc *scope, rec *record, path, node string, s *program.Step, again retries, limit time.Duration) (json.RawMessage, error) {
	input, err := sc.object(ctx, s.Call.With, rec.With)
	if err != nil {
		return nil, err
	}
	if len(input) > mostInput {
		return nil, sc.fail(action.Invalid, s.Pos, "the inputs are %d bytes, over the limit of %d", len(input), mostInput)
	}
	rec.Gen++
	id := activityID(path, node, rec.Gen)
	token := r.token(id)
	remote := r.state.Remote[node]
	var u *undo
	if s.Call.Compensates && !sc.silent {
		u = &undo{Path: path, Name: rec.Name, Target: node, Remote: remote, Action: s.Call.Action, Input: input, Token: token, Runbook: sc.prog.Runbook, Pos: s.Pos}
		r.state.record(u)
		r.state.Undo = append(r.state.Undo, u)
	}
	options := workflow.ActivityOptions{
		ActivityID:          id,
		StartToCloseTimeout: limit,
		HeartbeatTimeout:    heartbeat,
		WaitForCancellation: true,
		RetryPolicy:         again.policy(),
		Summary:             summary(rec, s.ID, node),
	}
	args := at(&options, node, remote, nodeAnswersIn, input)
	work := r.activity(ctx, options, s.Call.Action, id, token, args...)
	if work.err != nil {
		r.forget(u)
		return nil, work.err
	}
	var out json.RawMessage
	asked := workflow.Now(ctx)
	err = work.get(ctx, &out)
	if notTaken(err) && workflow.Now(ctx).Sub(asked) > options.ScheduleToStartTimeout*3/2 && ctx.Err() == nil && r.newer(ctx, changeLate) {
		// The time ran out while the server was away or, if it was restored from a backup, long ago: the node may have done it.
		if work = r.activity(ctx, options, s.Call.Action, id, token, args...); work.err != nil {
			return nil, work.err
		}
		err = work.get(ctx, &out)
	}
	restarted := time.Duration(0)
	for n := 0; n < mostRestarts && ctx.Err() == nil; n++ {
		within := restarts(err)
		if within <= 0 || node == "" {
			break
		}
		// The same work, under the same token, waits in the node's queue until its agent is back.
		restarted = min(within, limit)
		options.ScheduleToStartTimeout = restarted
		rec.Message = fmt.Sprintf("node %s restarts; it may take %s", node, restarted)
		r.dirty = true
		if work = r.activity(ctx, options, s.Call.Action, id, token, args...); work.err != nil {
			return nil, work.err
		}
		if err = work.get(ctx, &out); err == nil {
			rec.Message = ""
		}
	}
	if err == nil {
		if u != nil {
			u.Output = out
		}
		rec.Logs = appendLog(rec.Logs, node, out)
		return out, nil
	}
	f := sc.fail("", s.Pos, "")
	f.Target, f.Action = node, s.Call.Action
	switch begun := f.fromActivity(err); {
	case begun:
	case restarted > 0: // it began before the restart
		f.Kind, f.Message = string(action.Lost), fmt.Sprintf("node %s was not back %s after its restart", node, restarted)
	default:
		r.forget(u) // nothing ran: there is nothing to take back
	}
	if f.Kind == string(action.Timeout) && f.Message == "took longer than its timeout" {
		f.Message = fmt.Sprintf("took longer than its timeout (%s)", limit)
	}
	rec.Logs = appendLog(rec.Logs, node, f.Detail)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, f
}

// mostRestarts bounds how often a node may ask to be waited for in one attempt of a step.
const mostRestarts = 5

// restarts tells how long a node that restarts as part of its work is to be
// waited for; 0 if that is not what the error says.
func restarts(err error) time.Duration {
	var app *temporal.ApplicationError
	var detail json.RawMessage
	var restart action.RestartDetail
	if !errors.As(err, &app) || app.Type() != string(action.Restarting) || app.Details(&detail) != nil || json.Unmarshal(detail, &restart) != nil {
		return 0
	}
	within, err := program.ParseDuration(restart.Within)
	if err != nil {
		return 0
	}
	return within
}

// activityID names one piece of scheduled work for people and for the output
// store: the step's path, its target, and its generation from the second on.
func activityID(path, node string, gen int) string {
	id := path
	if node != "" {
		id += "@" + node
	}
	if gen > 1 {
		id += fmt.Sprintf("#%d", gen)
	}
	return id
}

// identifier keeps an id within the thousand bytes that the server takes: of a
// longer one, the beginning, a hash of the whole, and the end.
func identifier(id string) string {
	const most = 900
	if len(id) <= most {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return strings.ToValidUTF8(fmt.Sprintf("%s~%x~%s", id[:most/2-20], sum[:8], id[len(id)-most/2+20:]), "")
}

// token is the idempotency token of an activity id in this execution, the same
// in all its runs, after a reset and after the server's restore from a backup.
func (r *run) token(id string) string {
	sum := sha256.Sum256([]byte(r.id + "\x00" + r.origin + "\x00" + id))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:26])
}

func summary(rec *record, id, node string) string {
	s := rec.Name
	if s == "" {
		s = id
	}
	if node != "" && !strings.Contains(s, node) {
		s += " on " + node
	}
	return bounded(s)
}

// appendLog keeps the pointer to complete output that an action's result or
// failure detail holds, if it does.
func appendLog(logs []Pointer, node string, raw json.RawMessage) []Pointer {
	var p struct {
		Ref  string `json:"ref"`
		Size int64  `json:"size"`
	}
	// Most results hold none, and reading them would cost at every replay.
	if !bytes.Contains(raw, []byte(`"ref"`)) || json.Unmarshal(raw, &p) != nil || p.Ref == "" {
		return logs
	}
	return append(logs, Pointer{Target: node, Ref: p.Ref, Size: p.Size})
}

// pending is an activity on its way.
type pending struct {
	run    *run
	err    error
	future workflow.Future
}

// activity schedules an activity, as soon as the limits of what may be in
// flight and in one workflow task allow.
func (r *run) activity(ctx workflow.Context, options workflow.ActivityOptions, name, id, token string, args ...any) pending {
	size := 0
	for _, a := range args {
		if raw, ok := a.(json.RawMessage); ok {
			size += len(raw)
		}
	}
	if err := r.admit(ctx, size); err != nil {
		return pending{err: err}
	}
	options.ActivityID = identifier(id)
	return pending{run: r, future: workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), name, append([]any{token}, args...)...)}
}

// admit waits until one more command of so many bytes may leave, and counts it
// as in flight.
func (r *run) admit(ctx workflow.Context, size int) error {
	room := func() bool {
		if at := workflow.GetInfo(ctx).GetCurrentHistoryLength(); at != r.taskAt {
			r.taskAt, r.taskBytes = at, 0
		}
		return r.inflight < mostInFlight && (r.taskBytes == 0 || r.taskBytes+size <= mostTaskBytes)
	}
	for !room() {
		var err error
		if r.inflight < mostInFlight && !r.ticking {
			// The commands so far go out when the workflow task ends; a timer is
			// the shortest way to get another. One is enough for all who wait.
			r.ticking = true
			err = workflow.Sleep(ctx, time.Millisecond)
			r.ticking, r.taskBytes = false, 0
		} else {
			err = workflow.Await(ctx, func() bool { return room() || r.inflight < mostInFlight && !r.ticking })
		}
		if err != nil {
			return err
		}
	}
	r.taskBytes += size
	r.inflight++
	return nil
}

func (p pending) get(ctx workflow.Context, into any) error {
	if p.err != nil {
		return p.err
	}
	p.run.paint(ctx)
	defer func() { p.run.inflight-- }()
	return p.future.Get(ctx, into)
}
