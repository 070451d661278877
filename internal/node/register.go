package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/internal/inventory"
	"github.com/almanac-run/almanac/internal/journal"
	"github.com/almanac-run/almanac/internal/registry"
)

// How often a node reports without a reason: its life shows in the heartbeats
// of its worker, which cost no history. One whose clock is wrong wants to be a
// target again, and looks more often.
const (
	reportEvery      = time.Hour
	reportWhileWrong = 5 * time.Minute
	reportAgain      = time.Minute      // after one that was not taken
	lookFirst        = 30 * time.Second // at the registry, which costs no history: whose the id is
	lookEvery        = 10 * time.Minute
	mostReports      = 4 // in a row: a clock that jumps with each of them is reported again later
	lookAtClockEvery = 10 * time.Second
	clockJump        = 5 * time.Second // of the wall clock against the monotonic one: worth a report
	worthReporting   = time.Second     // a clock that is off by less is as good as right
	rivalBeats       = 13 * time.Second
)

// refused is a registry's answer that no further attempt changes.
type refused struct{ error }

// registrar keeps the registry's entry of this node.
type registrar struct {
	o       Options
	node    host.Node
	self    registry.Node
	moved   bool          // the state directory is not where it was made: a copy, or brought back from a backup
	trigger chan struct{} // a report is due
	wrong   atomic.Bool   // the clock, as it was measured last
	lastErr string
}

func newRegistrar(o Options, n host.Node) (*registrar, error) {
	name, moved, err := installation(o.StateDir)
	if err != nil {
		return nil, fmt.Errorf("node %s: state directory: %w", o.ID, err)
	}
	r := &registrar{o: o, node: n, moved: moved, trigger: make(chan struct{}, 1), self: registry.Node{
		Reach: registry.ReachAgent, Installation: name, Limit: registry.Duration(o.ClockLimit), Region: o.Region, Account: o.Account,
	}}
	r.describe()
	return r, nil
}

// describe says what the node is now: its system may have been upgraded.
func (r *registrar) describe() {
	d := host.Describe(r.node)
	s := &r.self
	s.ID, s.Name, s.Platform, s.OS, s.Version, s.Arch = d.ID, d.Name, d.Platform, d.OS, d.Version, d.Arch
	s.AgentVersion, s.Tags, s.BootID = d.AgentVersion, d.Tags, d.BootID
}

// installation is the name that this state directory gave itself when it was
// made, and whether it is in another place since. Beside the name stands the
// place, so that a copy on the same machine is seen as one.
func installation(stateDir string) (name string, moved bool, err error) {
	const file = "installation"
	at := place(stateDir)
	b, err := os.ReadFile(filepath.Join(stateDir, file))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", false, err
	}
	if f := strings.Fields(string(b)); len(f) == 2 && len(f[0]) == 32 {
		return f[0], f[1] != at, nil
	}
	random := make([]byte, 16)
	if _, err := rand.Read(random); err != nil {
		return "", false, err
	}
	name = hex.EncodeToString(random)
	return name, false, settle(stateDir, name)
}

// settle notes that the installation belongs where it is.
func settle(stateDir, name string) error {
	return journal.At(stateDir).Write("installation", []byte(name+" "+place(stateDir)+"\n"))
}

// place names a directory on this machine; a copy of it has another.
func place(dir string) string {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return "-"
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// register makes sure that the id is this node's. Only then may it poll: an
// error of type refused says that the id is another's. Who is the registered
// one already, on a machine that has not been restarted, reports while it
// serves: an agent that comes back for its commands must not wait for the control worker.
func (r *registrar) register(ctx context.Context) error {
	known, err := r.known(ctx)
	if err != nil {
		known = registry.Node{} // then the answer to the report decides
	}
	if known.ID != "" {
		if err := known.Admit(r.self); err != nil {
			return refused{err}
		}
		if err := r.noRival(ctx, known); err != nil {
			return err
		}
		r.self.Clock, r.self.Uncertain = known.Clock, known.Uncertain
	}
	if known.ID == "" || known.Reach != registry.ReachAgent || known.BootID != r.self.BootID {
		if err := r.insist(ctx); err != nil {
			return err
		}
	} else {
		r.wrong.Store(known.ClockWrong())
		r.due()
	}
	if !r.moved {
		return nil
	}
	r.moved = false
	if err := settle(r.o.StateDir, r.self.Installation); err != nil {
		r.o.Logger.Warn("the state directory does not know its place", "node", r.o.ID, "error", err)
	}
	return nil
}

// insist reports until whoever has to answer has answered.
func (r *registrar) insist(ctx context.Context) error {
	for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
		err := r.report(ctx)
		var no refused
		if err == nil || errors.As(err, &no) || ctx.Err() != nil {
			return err
		}
		message := "the registry does not answer (is a control worker running?); trying again"
		var denied *serviceerror.PermissionDenied
		if errors.As(err, &denied) {
			message = "the server refuses this node (is --id the name in its certificate?); trying again"
		}
		r.o.Logger.Warn(message, "node", r.o.ID, "in", pause, "error", err)
		if !sleep(ctx, pause) {
			return ctx.Err()
		}
	}
}

// noRival finds out, if the machine has another boot id than the registry's or
// the state directory was moved, whether this is a machine that was restarted
// (restored) or a copy of one that still runs: then its heartbeats go on.
func (r *registrar) noRival(ctx context.Context, known registry.Node) error {
	if known.Reach != registry.ReachAgent || known.BootID == r.self.BootID && !r.moved {
		return nil
	}
	before := r.beats(ctx)
	if len(before) == 0 {
		return nil
	}
	r.o.Logger.Info("an agent of this node ran until a moment ago; waiting to see whether it still does", "node", r.o.ID)
	if !sleep(ctx, rivalBeats) {
		return ctx.Err()
	}
	for key, at := range r.beats(ctx) {
		if first, ok := before[key]; ok && at.After(first) {
			return refused{fmt.Errorf("another agent (on %s) serves node %s with a copy of this state directory; on the copy, remove the state directory and give its agent another --id", known.Name, r.o.ID)}
		}
	}
	return nil
}

// known is what the registry has of the node; zero if nothing.
func (r *registrar) known(ctx context.Context) (registry.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var n registry.Node
	d, err := r.o.Client.DescribeWorkflowExecution(ctx, registry.WorkflowID(r.o.ID), "")
	var none *serviceerror.NotFound
	if errors.As(err, &none) || err == nil && d.GetWorkflowExecutionInfo().GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return n, nil
	}
	if err == nil {
		// It may be of a newer program, which this one does not understand.
		err = r.o.Converter.FromPayload(d.GetWorkflowExecutionInfo().GetMemo().GetFields()[registry.Memo], &n)
	}
	if err != nil {
		return registry.Node{}, err
	}
	return n, nil
}

// beats are the latest heartbeats of workers on this node's queue, by worker.
func (r *registrar) beats(ctx context.Context) map[string]time.Time {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	beats := map[string]time.Time{}
	page, err := r.o.Client.WorkflowService().ListWorkers(ctx, &workflowservice.ListWorkersRequest{
		Namespace: r.o.Namespace, PageSize: 100, Query: fmt.Sprintf("TaskQueue = '%s'", Queue(r.o.ID)),
	})
	if err != nil {
		return beats
	}
	//lint:ignore SA1019 the list that replaces it has no heartbeats
	for _, w := range page.GetWorkersInfo() {
		b := w.GetWorkerHeartbeat()
		if s := b.GetStatus(); s != enumspb.WORKER_STATUS_SHUTDOWN && s != enumspb.WORKER_STATUS_SHUTTING_DOWN {
			beats[b.GetWorkerInstanceKey()] = b.GetHeartbeatTime().AsTime()
		}
	}
	return beats
}

// report tells the registry what the node is, and measures the clock by the
// answer. If the clock is not what was told, it tells that too.
func (r *registrar) report(ctx context.Context) error {
	r.describe()
	for range mostReports {
		told := r.self
		if err := r.tell(ctx); err != nil {
			return err
		}
		wrong := r.self.ClockWrong()
		r.wrong.Store(wrong)
		d := r.self.Clock - told.Clock
		if time.Duration(max(d, -d)) < worthReporting+time.Duration(r.self.Uncertain) && wrong == told.ClockWrong() {
			r.self.Clock, r.self.Uncertain = told.Clock, told.Uncertain // as it stands there
			return nil
		}
		if r.self.ClockWrong() {
			r.o.Logger.Error("the clock of this node is wrong: it is no target until it is right", "node", r.o.ID,
				"ahead", time.Duration(r.self.Clock).Round(time.Millisecond), "limit", time.Duration(r.self.Limit))
		} else {
			r.o.Logger.Info("the clock of this node", "node", r.o.ID, "ahead", time.Duration(r.self.Clock).Round(time.Millisecond))
		}
	}
	return errors.New("the clock changes with each look at it")
}

// tell starts the node's workflow, or updates the one there is.
func (r *registrar) tell(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	began := r.o.Now()
	run, err := r.o.Client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: registry.WorkflowID(r.o.ID), TaskQueue: r.o.TaskQueue,
		WorkflowIDConflictPolicy:                 enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		Memo:                                     map[string]any{registry.Memo: r.self},
		TypedSearchAttributes:                    temporal.NewSearchAttributes(temporal.NewSearchAttributeKeyKeyword(registry.AttrCompliance).ValueSet(registry.Unknown)),
		StaticSummary:                            "node " + r.o.ID,
	}, registry.WorkflowType, r.self)
	if err == nil {
		ended := r.o.Now()
		d, err := r.o.Client.WorkflowService().DescribeWorkflowExecution(ctx, &workflowservice.DescribeWorkflowExecutionRequest{
			Namespace: r.o.Namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: run.GetID(), RunId: run.GetRunID()},
		})
		if err != nil {
			return err
		}
		// The next report is an update, which leaves these to the registry.
		r.measure(began, ended, d.GetWorkflowExecutionInfo().GetStartTime().AsTime())
		return nil
	}
	var already *serviceerror.WorkflowExecutionAlreadyStarted
	if !errors.As(err, &already) {
		return err
	}
	began = r.o.Now()
	update, err := r.o.Client.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
		WorkflowID: registry.WorkflowID(r.o.ID), UpdateName: registry.UpdateReport,
		Args: []any{r.self}, WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	var answer registry.Reported
	if err == nil {
		err = update.Get(ctx, &answer)
	}
	var no *temporal.ApplicationError
	if errors.As(err, &no) {
		return refused{errors.New(no.Message())}
	}
	if err != nil {
		return err
	}
	r.measure(began, r.o.Now(), answer.Now)
	return nil
}

// measure compares the node's clock with a moment that the server had between
// began and ended.
func (r *registrar) measure(began, ended, server time.Time) {
	half := ended.Sub(began) / 2
	r.self.Clock = registry.Duration(began.Add(half).Sub(server))
	r.self.Uncertain = registry.Duration(half)
}

// keep reports again from time to time and when there is a reason, until ctx
// ends or the registry says that the id is another's now. Between reports it
// looks whose the id is: a copy of this node that came while we were out of reach has it now.
func (r *registrar) keep(ctx context.Context) error {
	tick := time.NewTicker(lookAtClockEvery)
	defer tick.Stop()
	wall, mono := r.o.Now().Round(0), time.Now()
	next, look := mono.Add(reportEvery), mono.Add(lookFirst)
	for {
		due := false
		select {
		case <-ctx.Done():
			return nil
		case <-r.trigger:
			due = true
		case <-tick.C:
			now := time.Now()
			jumped := r.o.Now().Round(0).Sub(wall) - now.Sub(mono)
			wall, mono = r.o.Now().Round(0), now
			due = max(jumped, -jumped) > clockJump || now.After(next)
			if now.After(look) {
				look = now.Add(lookEvery)
				known, err := r.known(ctx)
				// If it is nobody's the node was forgotten, and registers anew.
				due = due || err == nil && (known.Installation != r.self.Installation || known.BootID != r.self.BootID)
			}
		}
		if !due {
			continue
		}
		err := r.report(ctx)
		var no refused
		switch {
		case errors.As(err, &no):
			return err
		case ctx.Err() != nil:
			return nil
		case err != nil:
			next = time.Now().Add(reportAgain)
			if err.Error() != r.lastErr {
				r.o.Logger.Warn("the registry did not take a report; trying again", "node", r.o.ID, "in", reportAgain, "error", err)
			}
			r.lastErr = err.Error()
		default:
			r.lastErr = ""
			next = time.Now().Add(reportEvery)
			if r.wrong.Load() {
				next = time.Now().Add(reportWhileWrong)
			}
		}
	}
}

// comply tells the registry what the node comes to against a baseline.
func (r *registrar) comply(ctx context.Context, c registry.Compliance) error {
	return r.o.Client.SignalWorkflow(ctx, registry.WorkflowID(r.o.ID), "", registry.SignalFacts, c)
}

// inventory hands the facts of the node over to the control worker.
func (r *registrar) inventory(ctx context.Context, facts inventory.Snapshot) error {
	parts, err := facts.Parts()
	if err != nil {
		return err
	}
	var missing []string
	for _, part := range parts {
		text, err := inventory.Encode(part)
		if err != nil {
			return err
		}
		var out inventory.StoreOutput
		if err := r.handOver(ctx, action.FromContext(ctx).Token, "inventory", time.Hour, inventory.ActivityStore, inventory.StoreInput{Snapshot: text}, &out); err != nil {
			return err
		}
		missing = append(missing, out.Missing...)
	}
	if len(missing) > 0 {
		return &inventory.MissingError{Sections: missing}
	}
	return nil
}

// handOver has an activity of the control worker done with something of this node's. token says what it is about.
func (r *registrar) handOver(ctx context.Context, token, what string, limit time.Duration, activity string, in, out any) error {
	input, err := json.Marshal(in)
	if err != nil {
		return err
	}
	run, err := r.o.Client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: "tell/" + r.o.ID + "/" + token + "/" + strings.ToLower(rand.Text()[:8]), TaskQueue: r.o.TaskQueue,
		WorkflowExecutionTimeout: limit, StaticSummary: what + " of " + r.o.ID,
	}, tellWorkflow, map[string]any{"activity": activity, "input": json.RawMessage(input)})
	if err != nil {
		return err
	}
	var raw json.RawMessage
	if err := run.Get(ctx, &raw); err != nil {
		return err
	}
	return json.Unmarshal(raw, out)
}

// tellWorkflow is workflows.TellType, by name: an agent links no interpreter.
const tellWorkflow = "almanac.tell"

// due asks for a report soon.
func (r *registrar) due() {
	select {
	case r.trigger <- struct{}{}:
	default:
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// clockGuard refuses new work while the clock is wrong: certificates, logs and
// packages would be judged by it. The server says when it gave the work out, so
// each piece measures the clock. What has begun goes on, what is taken back is
// taken back, and what was written can be read.
type clockGuard struct {
	interceptor.WorkerInterceptorBase
	limit time.Duration
	now   func() time.Time
	r     *registrar
}

func (g *clockGuard) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	return &guarded{interceptor.ActivityInboundInterceptorBase{Next: next}, g}
}

// harmless are the activities that no clock can make wrong.
var harmless = []string{host.OutputRead}

type guarded struct {
	interceptor.ActivityInboundInterceptorBase
	g *clockGuard
}

func (a *guarded) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	info := activity.GetInfo(ctx)
	ahead := a.g.now().Sub(info.StartedTime)
	wrong := max(ahead, -ahead) > a.g.limit
	if wrong != a.g.r.wrong.Load() {
		a.g.r.due()
	}
	if wrong && info.Attempt == 1 && !strings.HasPrefix(info.ActivityType.Name, "compensate:") && !slices.Contains(harmless, info.ActivityType.Name) {
		way := "ahead of"
		if ahead < 0 {
			way, ahead = "behind", -ahead
		}
		return nil, temporal.NewNonRetryableApplicationError(fmt.Sprintf(
			"the clock of node %s is %s %s the server's, and more than %s is too much: set it right (timedatectl, chronyc makestep)", a.g.r.o.ID, ahead.Round(time.Second), way, a.g.limit),
			string(action.Unreached), nil)
	}
	return a.Next.ExecuteActivity(ctx, in)
}
