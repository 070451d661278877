package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	deployment "go.temporal.io/api/deployment/v1"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	worker "go.temporal.io/api/worker/v1"
	workflow "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/almanac-run/almanac/internal/dial"
	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/workflows"
)

// unversioned is how workers are called that have no version.
const unversioned = "unversioned"

// The server's own search attributes that say where an execution runs.
const (
	attrVersion  = "TemporalWorkerDeploymentVersion"
	attrBehavior = "TemporalWorkflowVersioningBehavior"
)

// workerFresh is how old a worker's last sign of life may be: several of its heartbeats. The first one comes workerSpeaks
// after its start.
const (
	workerFresh  = 45 * time.Second
	workerSpeaks = dial.WorkerHeartbeat
)

// workerServes is how long a worker that has given a sign of life may take until it asks for work of each kind. The
// server counts a queue as used for 30 s after its last task; a queue that only the version before had is free then.
const workerServes = 40 * time.Second

// version is one version of the worker, or the workers that have none.
type version struct {
	Deployment string  `json:"deployment,omitempty"`
	Build      string  `json:"build"`
	Status     string  `json:"status"` // current, ramping, draining, drained or inactive
	Ramp       float32 `json:"ramp_percent,omitempty"`
	Open       int64   `json:"open_executions"` // that are bound to it; of unversioned: that have no version
	Workers    int     `json:"workers"`         // heard of lately
}

func (v version) name() string {
	if v.Build == unversioned {
		return unversioned
	}
	return v.Deployment + ":" + v.Build
}

func (a *app) versionsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "versions",
		Short: "Show the versions of the worker, and which executions they have",
		Long: `Show the versions of the worker that there are (worker --deployment), how each
stands, how many open executions are bound to it and how many of its workers run.

  current    takes what starts now
  ramping    takes a part of it
  draining   takes nothing new, and still has open executions: keep its workers
  drained    has none left: its workers can go
  inactive   was never current

An execution stays with the version on which it began. docs/upgrades.md tells how
to upgrade and how to go back.`,
		Example: a.examples(
			"starter versions",
			"starter versions use 1.4.0 --ramp 10",
			"starter versions use 1.4.0",
			"starter versions move 1.3.0",
		),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, s *server) error { return a.versions(ctx, s) })
		},
	}
	cmd.AddCommand(a.versionsUseCommand(), a.versionsMoveCommand())
	return cmd
}

func (a *app) versionsUseCommand() *cobra.Command {
	var name string
	var ramp float32
	cmd := &cobra.Command{
		Use:   "use BUILD",
		Short: "Let new executions run on a version",
		Long: `Make a version current: what starts from now on runs on it. What is open stays
where it began; nodes and locks, which serve all executions, move at once. To go
back, use the version before. "unversioned" stands for workers without a version.

--ramp gives the version a part of what starts, in percent; 0 ends that.`,
		Example: a.examples("starter versions use 1.4.0", "starter versions use 1.4.0 --ramp 10", "starter versions use unversioned"),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("which version? starter versions lists them")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !(ramp >= 0 && ramp <= 100) { // NaN is neither
				return usagef("--ramp is 0 to 100, in percent")
			}
			var percent *float32
			if cmd.Flags().Changed("ramp") {
				percent = &ramp
			}
			return a.with(cmd.Context(), func(ctx context.Context, s *server) error {
				return a.useVersion(ctx, s, name, args[0], percent)
			})
		},
		ValidArgsFunction: a.buildArgs,
	}
	cmd.Flags().StringVar(&name, "deployment", "", "name of the deployment, if there are several")
	cmd.Flags().Float32Var(&ramp, "ramp", 0, "only this part of what starts, in percent")
	return cmd
}

func (a *app) versionsMoveCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "move BUILD [EXECUTION...]",
		Short: "Take open executions off a version",
		Long: `Let open executions that are bound to a version go on with the current one, now and
after later upgrades: all of them, or those that are named. That is the way out
when no worker of the version can be started any more. It is safe if the current
version replays what the other did, as the project's own releases do. If it does
not, the execution stands still ("starter show" says so), nothing is done twice,
and a worker of the old version takes it up again after "starter versions use" of it.`,
		Example: a.examples("starter versions move 1.3.0", "starter versions move 1.3.0 demo-tour-20261123-101500-x2ab"),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("which version? starter versions lists them")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, s *server) error {
				return a.moveExecutions(ctx, s, name, args[0], args[1:])
			})
		},
		ValidArgsFunction: a.buildArgs,
	}
	cmd.Flags().StringVar(&name, "deployment", "", "name of the deployment, if there are several")
	return cmd
}

func (a *app) versions(ctx context.Context, s *server) error {
	all, err := s.versions(ctx)
	if err != nil {
		return a.explain(s, "", err)
	}
	if a.json() {
		return printJSON(a.stdout, all)
	}
	var rows [][]string
	deserted := ""
	for _, v := range all {
		status := v.Status
		if v.Ramp > 0 {
			status += fmt.Sprintf(" %g%%", v.Ramp)
		}
		rows = append(rows, []string{cmp.Or(v.Deployment, "-"), v.Build, status, strconv.FormatInt(v.Open, 10), strconv.Itoa(v.Workers)})
		if v.Workers == 0 && v.Open > 0 {
			deserted += fmt.Sprintf("%d open executions wait for a worker of version %s: start one", v.Open, v.name())
			if v.Build != unversioned {
				deserted += fmt.Sprintf(", or %s versions move %s", a.again(), v.Build)
			}
			deserted += "\n"
		}
	}
	columns(a.stdout, "", []string{"DEPLOYMENT", "BUILD", "STATUS", "OPEN", "WORKERS"}, rows)
	fmt.Fprint(a.stderr, deserted)
	if len(all) == 1 {
		fmt.Fprintln(a.stderr, "no worker has a version; docs/upgrades.md says when that is worth while")
	}
	return nil
}

var versionStatus = map[enums.WorkerDeploymentVersionStatus]string{
	enums.WORKER_DEPLOYMENT_VERSION_STATUS_INACTIVE: "inactive",
	enums.WORKER_DEPLOYMENT_VERSION_STATUS_CREATED:  "inactive",
	enums.WORKER_DEPLOYMENT_VERSION_STATUS_CURRENT:  "current",
	enums.WORKER_DEPLOYMENT_VERSION_STATUS_RAMPING:  "ramping",
	enums.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINING: "draining",
	enums.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINED:  "drained",
}

// versions lists the versions of the worker, the newest first, and at the end the workers that have none.
func (s *server) versions(ctx context.Context) ([]version, error) {
	deployments, err := s.deployments(ctx)
	if err != nil {
		return nil, err
	}
	running, err := s.workers(ctx)
	if err != nil {
		return nil, err
	}
	all := []version{}
	plain := version{Build: unversioned, Status: "current", Workers: running[unversioned]}
	for _, d := range deployments {
		summaries, routing := d.GetVersionSummaries(), d.GetRoutingConfig()
		slices.SortStableFunc(summaries, func(x, y *deployment.WorkerDeploymentInfo_WorkerDeploymentVersionSummary) int {
			return y.GetCreateTime().AsTime().Compare(x.GetCreateTime().AsTime())
		})
		for _, sum := range summaries {
			v := version{Deployment: d.GetName(), Build: sum.GetDeploymentVersion().GetBuildId(), Status: cmp.Or(versionStatus[sum.GetStatus()], "unknown")}
			if v.Status == "ramping" {
				v.Ramp = routing.GetRampingVersionPercentage()
			}
			v.Workers = running[v.name()]
			if v.Open, err = s.count(ctx, boundTo(v.name())); err != nil {
				return nil, err
			}
			all = append(all, v)
		}
		if status, ramp := plainStatus(routing); status != "current" {
			plain.Status, plain.Ramp = status, ramp
		}
	}
	if plain.Open, err = s.count(ctx, workflows.AttrRunbook+" IS NOT NULL AND ExecutionStatus = 'Running' AND "+attrBehavior+" IS NULL"); err != nil {
		return nil, err
	}
	return append(all, plain), nil
}

// boundTo finds the open executions that only this version runs.
func boundTo(name string) string {
	return fmt.Sprintf("ExecutionStatus = 'Running' AND %s = '%s' AND %s = 'Pinned'", attrVersion, strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(name), attrBehavior)
}

func (s *server) count(ctx context.Context, query string) (int64, error) {
	n, err := s.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{Namespace: s.namespace, Query: query})
	return n.GetCount(), err
}

// deployments are all of the namespace, those of other programs too.
func (s *server) deployments(ctx context.Context) ([]*deployment.WorkerDeploymentInfo, error) {
	var all []*deployment.WorkerDeploymentInfo
	request := &workflowservice.ListWorkerDeploymentsRequest{Namespace: s.namespace, PageSize: 100}
	for {
		page, err := s.WorkflowService().ListWorkerDeployments(ctx, request)
		if err != nil {
			return nil, err
		}
		for _, d := range page.GetWorkerDeployments() {
			described, err := s.WorkflowService().DescribeWorkerDeployment(ctx, &workflowservice.DescribeWorkerDeploymentRequest{Namespace: s.namespace, DeploymentName: d.GetName()})
			if err != nil {
				return nil, err
			}
			all = append(all, described.GetWorkerDeploymentInfo())
		}
		if request.NextPageToken = page.GetNextPageToken(); len(request.NextPageToken) == 0 {
			return all, nil
		}
	}
}

// workers counts the control workers that were heard of lately, by the name of their version.
func (s *server) workers(ctx context.Context) (map[string]int, error) {
	request := &workflowservice.ListWorkersRequest{Namespace: s.namespace, PageSize: 1000, Query: "TaskQueue = '" + workflows.TaskQueue + "'"}
	found := map[string]int{}
	now := time.Now()
	for {
		page, err := s.WorkflowService().ListWorkers(ctx, request)
		if err != nil {
			return nil, err
		}
		//lint:ignore SA1019 the only list with the time of the heartbeat; see below for servers that leave it out
		infos := page.GetWorkersInfo()
		if len(infos) == 0 {
			for _, w := range page.GetWorkers() {
				infos = append(infos, &worker.WorkerInfo{WorkerHeartbeat: &worker.WorkerHeartbeat{
					DeploymentVersion: w.GetDeploymentVersion(), Status: w.GetStatus(), HeartbeatTime: timestamppb.New(now),
				}})
			}
		}
		for _, w := range infos {
			beat := w.GetWorkerHeartbeat()
			if now.Sub(beat.GetHeartbeatTime().AsTime()) > workerFresh || beat.GetStatus() == enums.WORKER_STATUS_SHUTDOWN || beat.GetStatus() == enums.WORKER_STATUS_SHUTTING_DOWN {
				continue
			}
			name := unversioned
			if v := beat.GetDeploymentVersion(); v.GetBuildId() != "" && v.GetDeploymentName() != "" {
				name = v.GetDeploymentName() + ":" + v.GetBuildId()
			}
			found[name]++
		}
		if request.NextPageToken = page.GetNextPageToken(); len(request.NextPageToken) == 0 {
			return found, nil
		}
	}
}

// deserted says that an execution waits for a worker of its version and none runs, or "".
func (s *server) deserted(ctx context.Context, info *workflow.WorkflowExecutionInfo) string {
	name := bound(info)
	if name == "" {
		return ""
	}
	if running, err := s.workers(ctx); err != nil || running[name] > 0 {
		return ""
	}
	return name
}

// desertedID is deserted, by the id of the execution.
func (s *server) desertedID(ctx context.Context, id string) string {
	d, err := s.describe(ctx, id)
	if err != nil {
		return ""
	}
	return s.deserted(ctx, d.GetWorkflowExecutionInfo())
}

// waitsForVersion says what an execution waits for, and the way out.
func (a *app) waitsForVersion(name string) string {
	_, build, _ := strings.Cut(name, ":")
	return fmt.Sprintf("it waits for a worker of version %s, of which none runs: start one, or %s versions move %s", name, a.again(), build)
}

// waitForVersions says which of some executions wait for workers of versions of which none runs.
func (a *app) waitForVersions(ctx context.Context, s *server, found []listed) {
	waiting := map[string]int{}
	for _, e := range found {
		if e.Version != "" && e.EndedAt == nil {
			waiting[e.Version]++
		}
	}
	if len(waiting) == 0 {
		return
	}
	running, err := s.workers(ctx)
	if err != nil {
		return // the list is what was asked for
	}
	for _, name := range slices.Sorted(maps.Keys(waiting)) {
		if running[name] == 0 {
			fmt.Fprintf(a.stderr, "%d of these wait for a worker of version %s, of which none runs; %s versions shows all\n", waiting[name], name, a.again())
		}
	}
}

// bound is the name of the version that alone runs an execution, or "".
func bound(info *workflow.WorkflowExecutionInfo) string {
	v := info.GetVersioningInfo()
	behavior := v.GetBehavior()
	at := v.GetDeploymentVersion()
	if o := v.GetVersioningOverride(); o.GetPinned() != nil {
		behavior, at = enums.VERSIONING_BEHAVIOR_PINNED, o.GetPinned().GetVersion()
	} else if o.GetAutoUpgrade() {
		return ""
	}
	if behavior != enums.VERSIONING_BEHAVIOR_PINNED || at.GetBuildId() == "" {
		return ""
	}
	return at.GetDeploymentName() + ":" + at.GetBuildId()
}

// version finds a build among the deployments that there are.
func (a *app) version(ctx context.Context, s *server, name, build string) (*version, error) {
	all, err := s.versions(ctx)
	if err != nil {
		return nil, a.explain(s, "", err)
	}
	var found, builds []string
	var which version
	for _, v := range all {
		if v.Build != unversioned {
			builds = append(builds, v.Build)
		}
		if (name == "" || v.Deployment == name) && v.Build == build && v.Build != unversioned {
			found, which = append(found, v.Deployment), v
		}
	}
	switch len(found) {
	case 0:
		if len(builds) == 0 {
			return nil, fmt.Errorf("no worker with a version has been here: start one with worker --deployment almanac --build-id %s", runview.Quote(build))
		}
		return nil, fmt.Errorf("there is no version %s; there are %s", build, strings.Join(builds, ", "))
	case 1:
		return &which, nil
	}
	return nil, usagef("version %s is in several deployments: give --deployment, one of %s", build, strings.Join(found, ", "))
}

func (a *app) useVersion(ctx context.Context, s *server, name, build string, ramp *float32) error {
	var v *version
	var err error
	switch {
	case build != unversioned && ramp != nil && *ramp == 0:
		v, err = a.version(ctx, s, name, build)
	case build != unversioned:
		v, err = a.await(ctx, s, name, build)
	default:
		v, err = a.plain(ctx, s, name)
	}
	if err != nil {
		return err
	}
	target := v.Build
	if target == unversioned {
		target = ""
	}
	handle := s.WorkerDeploymentClient().GetHandle(v.Deployment)
	said := fmt.Sprintf("%s is current", v.name())
	if ramp != nil {
		o := client.WorkerDeploymentSetRampingVersionOptions{BuildID: target, Percentage: *ramp}
		said = fmt.Sprintf("%s takes %g%% of what starts", v.name(), *ramp)
		if *ramp == 0 {
			o.BuildID, said = "", fmt.Sprintf("%s takes nothing of what starts", v.name())
		}
		switch {
		case *ramp == 0 && v.Status == "current":
			return fmt.Errorf("%s is current: it takes what starts, until another one is current", v.name())
		case *ramp == 0 && v.Status != "ramping": // it is another one that takes a part
		default:
			err = a.whenServing(ctx, v, func() error {
				_, err := handle.SetRampingVersion(ctx, o)
				return err
			})
		}
	} else {
		err = a.whenServing(ctx, v, func() error {
			_, err := handle.SetCurrentVersion(ctx, client.WorkerDeploymentSetCurrentVersionOptions{BuildID: target})
			return err
		})
	}
	if err != nil {
		return a.explain(s, "", err)
	}
	if a.json() {
		return printJSON(a.stdout, struct {
			Deployment string   `json:"deployment"`
			Build      string   `json:"build"`
			Ramp       *float32 `json:"ramp_percent,omitempty"`
		}{v.Deployment, v.Build, ramp})
	}
	fmt.Fprintln(a.stdout, said)
	return nil
}

// plain is the workers without a version, as they stand in a deployment: that of the name, or the only one.
func (a *app) plain(ctx context.Context, s *server, name string) (*version, error) {
	deployments, err := s.deployments(ctx)
	if err != nil {
		return nil, a.explain(s, "", err)
	}
	if len(deployments) == 0 {
		return nil, errors.New("no worker with a version has been here: those without one take all that starts")
	}
	if name == "" && len(deployments) == 1 {
		name = deployments[0].GetName()
	}
	var names []string
	for _, d := range deployments {
		if d.GetName() == name {
			v := &version{Deployment: name, Build: unversioned}
			v.Status, v.Ramp = plainStatus(d.GetRoutingConfig())
			return v, nil
		}
		names = append(names, d.GetName())
	}
	if name == "" {
		return nil, usagef("there are several deployments: give --deployment, one of %s", strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("there is no deployment %s; there is %s", name, strings.Join(names, ", "))
}

// plainStatus is how workers without a version stand in a deployment.
func plainStatus(r *deployment.RoutingConfig) (status string, ramp float32) {
	switch ramp := r.GetRampingVersionPercentage(); {
	case r.GetCurrentDeploymentVersion().GetBuildId() == "":
		return "current", 0
	case ramp > 0 && r.GetRampingDeploymentVersion().GetBuildId() == "":
		return "ramping", ramp
	}
	return "not current", 0
}

// await finds a version of which a worker runs; one that was started a moment ago is waited for.
func (a *app) await(ctx context.Context, s *server, name, build string) (*version, error) {
	said := false
	for end := time.Now().Add(workerSpeaks + 5*time.Second); ; {
		v, err := a.version(ctx, s, name, build)
		var exit *exitError
		switch {
		case errors.As(err, &exit):
			return nil, err
		case err == nil && v.Workers > 0:
			return v, nil
		case time.Now().Before(end):
		case err != nil:
			return nil, err
		default:
			return nil, fmt.Errorf("no worker of version %s runs: what starts would wait for one; start it first", v.name())
		}
		if !said {
			said = true
			fmt.Fprintf(a.stderr, "no worker of version %s yet; waiting for one\n", build)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// whenServing changes what a version takes. A worker that was started a moment ago may have sent its first sign of life,
// and not yet have asked for work of each kind; the server refuses such a version until it has.
func (a *app) whenServing(ctx context.Context, v *version, change func() error) error {
	said := false
	for end := time.Now().Add(workerServes); ; {
		err := change()
		var refused *serviceerror.FailedPrecondition
		if !errors.As(err, &refused) || !strings.Contains(refused.Message, "missing active task queues") {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("the workers of version %s do not ask for all the work which those of the current one do: look at their logs, or wait until all have started", v.name())
		}
		if !said {
			said = true
			fmt.Fprintf(a.stderr, "the worker of version %s does not ask for all work yet; waiting for it\n", v.name())
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// moveExecutions lets executions go on with the current version.
func (a *app) moveExecutions(ctx context.Context, s *server, name, build string, named []string) error {
	v, err := a.version(ctx, s, name, build)
	if err != nil {
		return err
	}
	ids := named
	if len(named) == 0 {
		request := &workflowservice.ListWorkflowExecutionsRequest{Namespace: s.namespace, PageSize: 1000, Query: boundTo(v.name())}
		for {
			page, err := s.ListWorkflow(ctx, request)
			if err != nil {
				return a.explain(s, "", err)
			}
			for _, info := range page.GetExecutions() {
				ids = append(ids, info.GetExecution().GetWorkflowId())
			}
			if request.NextPageToken = page.GetNextPageToken(); len(request.NextPageToken) == 0 {
				break
			}
		}
	}
	moved := []string{}
	var gone *serviceerror.NotFound
	for _, id := range ids {
		d, err := s.describe(ctx, id)
		if len(named) == 0 && errors.As(err, &gone) {
			continue // deleted meanwhile
		}
		if err != nil {
			return a.explain(s, id, err)
		}
		if at := bound(d.GetWorkflowExecutionInfo()); at != v.name() {
			fmt.Fprintf(a.stderr, "%s is not bound to version %s\n", id, v.name())
			continue
		}
		_, err = s.UpdateWorkflowExecutionOptions(ctx, client.UpdateWorkflowExecutionOptionsRequest{
			WorkflowId: id,
			WorkflowExecutionOptionsChanges: client.WorkflowExecutionOptionsChanges{
				VersioningOverride: &client.VersioningOverrideChange{Value: &client.AutoUpgradeVersioningOverride{}},
			},
		})
		if errors.As(err, &gone) {
			continue // it has ended meanwhile
		}
		if err != nil {
			return a.explain(s, id, err)
		}
		moved = append(moved, id)
		if !a.json() {
			fmt.Fprintf(a.stdout, "%s goes on with the current version\n", id)
		}
	}
	if a.json() {
		return printJSON(a.stdout, map[string][]string{"moved": moved})
	}
	if len(moved) == 0 {
		fmt.Fprintf(a.stderr, "no open execution is bound to version %s\n", v.name())
	}
	return nil
}

// buildArgs completes builds.
func (a *app) buildArgs(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var builds []string
	if len(args) == 0 {
		_ = a.with(cmd.Context(), func(ctx context.Context, s *server) error {
			all, err := s.versions(ctx)
			for _, v := range all {
				builds = append(builds, v.Build+"\t"+v.Status)
			}
			return err
		})
	}
	return builds, cobra.ShellCompDirectiveNoFileComp
}
