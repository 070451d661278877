package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/internal/registry"
)

// How often a node reports without a reason: its life shows in the heartbeats
// of its worker, which cost no history. One whose clock is wrong wants to be a
// target again, and looks more often.
const (
	reportEvery      = time.Hour
	reportWhileWrong = 5 * time.Minute
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
	self    registry.Node
	trigger chan struct{} // a report is due
	wrong   atomic.Bool   // the clock, as it was measured last
	lastErr string
}

func newRegistrar(o Options, n host.Node) (*registrar, error) {
	name, err := installation(o.StateDir)
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", o.ID, err)
	}
	d := host.Describe(n)
	return &registrar{o: o, trigger: make(chan struct{}, 1), self: registry.Node{
		ID: d.ID, Name: d.Name, Platform: d.Platform, OS: d.OS, Version: d.Version, Arch: d.Arch, AgentVersion: d.AgentVersion, Tags: d.Tags,
		BootID: d.BootID, Reach: registry.ReachAgent, Installation: name, Limit: registry.Duration(o.ClockLimit),
		Region: o.Region, Account: o.Account,
	}}, nil
}

// installation is the name that this state directory gave itself when it was made.
func installation(stateDir string) (string, error) {
	file := filepath.Join(stateDir, "installation")
	b, err := os.ReadFile(file)
	if name := strings.TrimSpace(string(b)); err == nil && len(name) == 32 {
		return name, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	random := make([]byte, 16)
	if _, err := rand.Read(random); err != nil {
		return "", err
	}
	name := hex.EncodeToString(random)
	if err := os.WriteFile(file+".new", []byte(name+"\n"), 0o600); err != nil {
		return "", err
	}
	return name, os.Rename(file+".new", file)
}

// register reports the node for the first time since this process began, and
// waits for whoever has to answer. Only then may it poll: an error of type
// refused says that the id is another's.
func (r *registrar) register(ctx context.Context) error {
	if err := r.noRival(ctx); err != nil {
		return err
	}
	for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
		err := r.report(ctx)
		var no refused
		if err == nil || errors.As(err, &no) || ctx.Err() != nil {
			return err
		}
		r.o.Logger.Warn("the registry does not answer; trying again", "node", r.o.ID, "in", pause, "error", err)
		if !sleep(ctx, pause) {
			return ctx.Err()
		}
	}
}

// noRival finds out, if the machine has another boot id than the registry's,
// whether this is a machine that was restarted or a copy of one that still runs:
// then its heartbeats go on.
func (r *registrar) noRival(ctx context.Context) error {
	known := r.known(ctx)
	if known.ID == "" || known.BootID == r.self.BootID || known.Installation != r.self.Installation {
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
			return refused{fmt.Errorf("another machine (%s) serves node %s with a copy of this state directory; on the copy, remove the state directory and give its agent another --id", known.Name, r.o.ID)}
		}
	}
	return nil
}

// known is what the registry has of the node; zero if nothing.
func (r *registrar) known(ctx context.Context) registry.Node {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var n registry.Node
	d, err := r.o.Client.DescribeWorkflowExecution(ctx, registry.WorkflowID(r.o.ID), "")
	if err != nil || d.GetWorkflowExecutionInfo().GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return n
	}
	if memo := d.GetWorkflowExecutionInfo().GetMemo().GetFields()[registry.Memo]; memo != nil {
		_ = converter.GetDefaultDataConverter().FromPayload(memo, &n) // of a newer program: as if it said nothing
	}
	return n
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
	for {
		told := r.self.Clock
		if err := r.tell(ctx); err != nil {
			return err
		}
		r.wrong.Store(r.self.ClockWrong())
		if d := r.self.Clock - told; time.Duration(max(d, -d)) < worthReporting+time.Duration(r.self.Uncertain) {
			r.self.Clock = told // as it stands there
			return nil
		}
		if r.self.ClockWrong() {
			r.o.Logger.Error("the clock of this node is wrong: it is no target until it is right", "node", r.o.ID,
				"ahead", time.Duration(r.self.Clock).Round(time.Millisecond), "limit", time.Duration(r.self.Limit))
		} else {
			r.o.Logger.Info("the clock of this node", "node", r.o.ID, "ahead", time.Duration(r.self.Clock).Round(time.Millisecond))
		}
	}
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
		d, err := r.o.Client.WorkflowService().DescribeWorkflowExecution(ctx, &workflowservice.DescribeWorkflowExecutionRequest{
			Namespace: r.o.Namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: run.GetID(), RunId: run.GetRunID()},
		})
		if err != nil {
			return err
		}
		// The next report is an update, which leaves these to the registry.
		r.measure(began, r.o.Now(), d.GetWorkflowExecutionInfo().GetStartTime().AsTime())
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
// ends or the registry says that the id is another's now.
func (r *registrar) keep(ctx context.Context) error {
	tick := time.NewTicker(lookAtClockEvery)
	defer tick.Stop()
	wall, mono := r.o.Now().Round(0), time.Now()
	last := mono
	for {
		every := reportEvery
		if r.wrong.Load() {
			every = reportWhileWrong
		}
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
			due = max(jumped, -jumped) > clockJump || now.Sub(last) >= every
		}
		if !due {
			continue
		}
		last = time.Now()
		err := r.report(ctx)
		var no refused
		switch {
		case errors.As(err, &no):
			return err
		case err != nil && ctx.Err() == nil && err.Error() != r.lastErr:
			r.o.Logger.Warn("the registry did not take a report", "node", r.o.ID, "error", err)
			r.lastErr = err.Error()
		}
	}
}

// due asks for a report soon.
func (r *registrar) due() {
	select {
	case r.trigger <- struct{}{}:
	default:
	}
}

// Compliance tells the registry what the node comes to against a baseline.
func (r *registrar) compliance(ctx context.Context, c registry.Compliance) error {
	return r.o.Client.SignalWorkflow(ctx, registry.WorkflowID(r.o.ID), "", registry.SignalFacts, c)
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
// each piece measures the clock. What has begun goes on, and what is taken back is taken back.
type clockGuard struct {
	interceptor.WorkerInterceptorBase
	limit time.Duration
	now   func() time.Time
	r     *registrar
}

func (g *clockGuard) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	return &guarded{interceptor.ActivityInboundInterceptorBase{Next: next}, g}
}

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
	if wrong && info.Attempt == 1 && !strings.HasPrefix(info.ActivityType.Name, "compensate:") {
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
