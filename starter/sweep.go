package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflow "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/internal/sweep"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// sweepOptions are the flags of sweep.
type sweepOptions struct {
	sweep.Options
	regions         []string
	all, yes        bool
	role, olderThan string
}

func (a *app) sweepCommand() *cobra.Command {
	var o sweepOptions
	cmd := &cobra.Command{
		Use:   "sweep",
		Short: "Find what executions left behind in AWS, and remove it",
		Long: `Find what is in AWS, was made by executions (tag almanac:execution), and is left
over: its execution was rolled back, cancelled, timed out or terminated. Without
--yes it is only shown, with the command that removes it.

Left alone is what belongs to an execution that runs (or was called by one that
does), or to one that succeeded; what has the tag almanac:keep with any value but
false; what belongs to a stack, a group or a fleet of AWS, or is a backup; and a
parameter, secret, template or stack that was changed since it was made. What a
failed execution left because its runbook says on_failure: stop is removed with
--stopped only. What is of executions that the server does not know is removed if
--execution names them: their retention may have passed, or another server may be
running them.

Immediately before each removal, tags and execution are looked at again. Secrets
can be restored for 30 days; all else is gone. What cannot be removed from here is
listed with a command or place where it can.

AWS is called with your own credentials, as the aws program finds them (AWS_PROFILE,
AWS_REGION, …).`,
		Example: a.examples(
			"starter sweep",
			"starter sweep --all-regions --older-than 1h -o json",
			"starter sweep --execution aws-build-image-20261123-101500-x2ab --yes",
		),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.all && len(o.regions) > 0 {
				return usagef("give --region or --all-regions")
			}
			if o.olderThan != "" {
				var err error
				if o.OlderThan, err = program.ParseDuration(o.olderThan); err != nil || o.OlderThan < 0 {
					return usagef("--older-than is a duration such as 30m, 1h or 2d, not %q", o.olderThan)
				}
			}
			return a.with(cmd.Context(), func(ctx context.Context, s *server) error {
				ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
				defer stop()
				caller, err := awsapi.New(ctx, awsapi.Options{Session: "almanac-sweep"})
				if err != nil {
					return err
				}
				return a.explain(s, o.Execution, a.sweep(ctx, caller, executions{s}, o))
			})
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.regions, "region", nil, "region to look in, may be repeated; else that of the environment")
	f.BoolVar(&o.all, "all-regions", false, "look in all regions that the account has")
	f.StringVar(&o.role, "role", "", "ARN of a role to assume, such as one in another account")
	f.StringVar(&o.Execution, "execution", "", "only what this execution made, and those that it called")
	f.StringVar(&o.olderThan, "older-than", "", "remove only what was made at least so long ago, such as 1h or 2d")
	f.BoolVar(&o.Stopped, "stopped", false, "remove also what a failed execution left by on_failure: stop")
	f.BoolVar(&o.yes, "yes", false, "remove it")
	_ = cmd.RegisterFlagCompletionFunc("execution", func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return a.executionArgs(cmd, nil, word)
	})
	return cmd
}

// sweptJSON is what -o json prints.
type sweptJSON struct {
	Resources []sweep.Judged  `json:"resources"`
	Problems  []sweep.Problem `json:"problems"`
	Results   []sweep.Result  `json:"results,omitempty"` // with --yes
	Command   string          `json:"command,omitempty"` // that removes, without --yes
}

func (a *app) sweep(ctx context.Context, caller awsapi.Caller, s sweep.Server, o sweepOptions) error {
	scopes, err := o.scopes(ctx, caller)
	if err != nil {
		return err
	}
	found, problems, err := sweep.Find(ctx, caller, scopes)
	if err != nil {
		return err
	}
	all, err := sweep.Judge(ctx, s, found, o.Options)
	if err != nil {
		return err
	}
	out := sweptJSON{Resources: append([]sweep.Judged{}, all...), Problems: append([]sweep.Problem{}, problems...)}
	todo := 0
	for _, j := range all {
		if j.Remove {
			todo++
		}
	}
	if todo > 0 && !o.yes {
		out.Command = a.again() + " sweep" + o.flags() + " --yes"
	}
	printed := false
	if !a.json() {
		printed = a.printJudged(all, o)
	}
	failed := 0
	if o.yes {
		removal := sweep.Removal{Caller: caller, Server: s, Options: o.Options}
		if !a.json() {
			if todo > 0 {
				fmt.Fprintln(a.stdout)
			}
			removal.Done = a.printResult
		}
		out.Results = removal.Run(ctx, all)
		for _, r := range out.Results {
			if r.Error != "" {
				failed++
			}
		}
	}
	switch {
	case a.json():
		if err := printJSON(a.stdout, out); err != nil {
			return err
		}
	case o.yes && todo > 0:
		fmt.Fprintf(a.stdout, "\n%s removed, %d could not be\n", plural(todo-failed, "resource"), failed)
	case todo > 0:
		fmt.Fprintf(a.stdout, "\n%s would be removed by\n  %s\n", plural(todo, "resource"), out.Command)
	case printed:
		fmt.Fprintln(a.stdout, "\nnothing to remove")
	default:
		fmt.Fprintln(a.stdout, "nothing to remove")
	}
	for _, p := range problems {
		fmt.Fprintf(a.stderr, "could not look everywhere: %s\n", runview.Clean(p.String()))
	}
	if failed+len(problems) > 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}

// scopes are where to look.
func (o sweepOptions) scopes(ctx context.Context, caller awsapi.Caller) ([]awsapi.Scope, error) {
	scope := awsapi.Scope{Role: o.role}
	names := o.regions
	switch {
	case o.all:
		var err error
		if names, err = sweep.Regions(ctx, caller, scope); err != nil {
			return nil, err
		}
	case len(names) == 0:
		here, err := sweep.Here(ctx, caller, scope)
		if err != nil {
			return nil, err
		}
		names = []string{here}
	}
	var all []awsapi.Scope
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		all = append(all, awsapi.Scope{Region: name, Role: o.role})
	}
	return all, nil
}

// flags are those of the command line again, but for --yes.
func (o sweepOptions) flags() string {
	var b strings.Builder
	value := func(flag, v string) {
		if v != "" {
			b.WriteString(" --" + flag + " " + runview.Quote(v))
		}
	}
	for _, r := range o.regions {
		value("region", r)
	}
	if o.all {
		b.WriteString(" --all-regions")
	}
	value("role", o.role)
	value("execution", o.Execution)
	value("older-than", o.olderThan)
	if o.Stopped {
		b.WriteString(" --stopped")
	}
	return b.String()
}

// printJudged prints what is left over and what may be. What is certainly wanted
// is counted only, unless its execution was named. It tells whether there was
// anything to print.
func (a *app) printJudged(all []sweep.Judged, o sweepOptions) (printed bool) {
	w, view := a.stdout, a.view(a.stdout)
	counts := map[sweep.Verdict]int{}
	for _, group := range []struct {
		title string
		in    func(sweep.Judged) bool
	}{
		{"left over", func(j sweep.Judged) bool { return j.Remove }},
		{"left over, and not removed by this", func(j sweep.Judged) bool { return j.Verdict == sweep.Left && !j.Remove }},
		{"kept by the runbook; --stopped removes it", func(j sweep.Judged) bool { return j.Verdict == sweep.Stopped && !j.Remove }},
		{"of executions that the server does not know: forgotten since, or of another server or namespace; --execution ID removes it", func(j sweep.Judged) bool { return j.Verdict == sweep.Unknown && !j.Remove }},
		{"left alone", func(j sweep.Judged) bool {
			certain := j.Verdict == sweep.InUse || j.Verdict == sweep.Kept
			if certain {
				counts[j.Verdict]++
			}
			return certain && o.Execution != ""
		}},
	} {
		var rows [][]string
		var hints []string
		for _, j := range all {
			if !group.in(j) {
				continue
			}
			made := ""
			if !j.Made.IsZero() {
				made = j.Made.Local().Format("2006-01-02 15:04")
			}
			id := j.ID
			if parts := strings.SplitN(id, ":", 6); j.Hint == "" && len(parts) == 6 {
				id = parts[5] // of an ARN; the name of a parameter has no colons
			}
			rows = append(rows, []string{j.Kind, id, short(j.Name, 40), j.Region, j.Execution, short(j.Step, 40), made, j.Reason})
			if j.Hint != "" {
				hints = append(hints, j.Hint)
			}
		}
		if len(rows) == 0 {
			continue
		}
		if printed {
			fmt.Fprintln(w)
		}
		printed = true
		fmt.Fprintf(w, "%s:\n", group.title)
		heading, rows := fit([]string{"KIND", "ID", "NAME", "REGION", "EXECUTION", "STEP", "MADE", "WHY"}, rows, max(view.Width-2, 0), "NAME", "MADE", "STEP", "REGION", "WHY")
		columns(w, "  ", heading, rows)
		slices.Sort(hints)
		for _, h := range slices.Compact(hints) {
			fmt.Fprintf(w, "  by hand: %s\n", runview.Clean(h))
		}
	}
	if o.Execution == "" && len(counts) > 0 {
		if printed {
			fmt.Fprintln(w)
		}
		printed = true
		if n := counts[sweep.Kept]; n > 0 {
			fmt.Fprintf(w, "%s wanted: of executions that succeeded, or marked\n", plural(n, "resource"))
		}
		if n := counts[sweep.InUse]; n > 0 {
			fmt.Fprintf(w, "%s of executions that run\n", plural(n, "resource"))
		}
	}
	return printed
}

func (a *app) printResult(r sweep.Result) {
	what := "removed"
	switch {
	case r.Error != "":
		what = "NOT removed: " + r.Error
	case r.Gone:
		what = "was gone"
	}
	fmt.Fprintf(a.stdout, "%s %s in %s: %s\n", r.Kind, runview.Clean(r.ID), r.Region, runview.Clean(what))
}

// executions is a sweep.Server that asks Temporal.
type executions struct{ *server }

// mostListed is how many executions with similar ids are looked through.
const mostListed = 20_000

// Executions implements sweep.Server. The list of executions is late with its
// news, and the description of the last one with an id is not: so both are asked for.
func (x executions) Executions(ctx context.Context, tag string) ([]sweep.Execution, error) {
	listed, err := x.runs(ctx, tag)
	if err != nil {
		return nil, err
	}
	asked := map[string]bool{} // by id and run
	var all []sweep.Execution
	ask := func(id, run string) error {
		d, err := x.DescribeWorkflowExecution(ctx, id, run)
		var notFound *serviceerror.NotFound
		if errors.As(err, &notFound) || err != nil && strings.Contains(err.Error(), "non-printable ASCII") {
			return nil
		}
		if err != nil {
			return err
		}
		info := d.GetWorkflowExecutionInfo()
		key := id + "\x00" + info.GetExecution().GetRunId()
		if asked[key] || info.GetStatus() == enums.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW || attribute(info.GetSearchAttributes(), workflows.AttrRunbook) == "" {
			return nil
		}
		asked[key] = true
		all = append(all, x.known(ctx, info))
		return nil
	}
	last := map[string]bool{tag: true}
	for _, e := range listed {
		last[e.GetExecution().GetWorkflowId()] = true
	}
	for _, id := range slices.Sorted(maps.Keys(last)) {
		if err := ask(id, ""); err != nil {
			return nil, err
		}
	}
	for _, e := range listed {
		id, run := e.GetExecution().GetWorkflowId(), e.GetExecution().GetRunId()
		if asked[id+"\x00"+run] {
			continue
		}
		if err := ask(id, run); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// runs lists the last runs of executions whose id is this one as a tag.
func (x executions) runs(ctx context.Context, tag string) ([]*workflow.WorkflowExecutionInfo, error) {
	quoted := func(s string) string { return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'" }
	query := "WorkflowId = " + quoted(tag)
	if !sweep.Exact(tag) {
		beginning, _, _ := strings.Cut(tag, "_")
		if query = "WorkflowId STARTS_WITH " + quoted(beginning); beginning == "" {
			query = workflows.AttrRunbook + " IS NOT NULL"
		}
	}
	var found []*workflow.WorkflowExecutionInfo
	var token []byte
	for n := 0; ; {
		page, err := x.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: x.namespace, Query: query, PageSize: 1000, NextPageToken: token})
		if err != nil {
			return nil, err
		}
		for _, e := range page.GetExecutions() {
			if e.GetStatus() != enums.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW && sweep.TagValue(e.GetExecution().GetWorkflowId()) == tag {
				found = append(found, e)
			}
		}
		if token = page.GetNextPageToken(); len(token) == 0 {
			return found, nil
		}
		if n += len(page.GetExecutions()); n > mostListed {
			return nil, fmt.Errorf("more than %d executions have an id that begins alike", mostListed)
		}
	}
}

// known is what sweep wants to know of an execution.
func (x executions) known(ctx context.Context, info *workflow.WorkflowExecutionInfo) sweep.Execution {
	id, run := info.GetExecution().GetWorkflowId(), info.GetExecution().GetRunId()
	e := sweep.Execution{ID: id, Parent: info.GetParentExecution().GetWorkflowId(), Status: sweepStatus(info)}
	switch e.Status {
	case workflows.Cancelled, workflows.TimedOut, sweep.Terminated:
		e.Stopped = x.stops(ctx, id, run)
	}
	// The first of the runs that continued one another began it; it may be forgotten.
	switch first := info.GetFirstRunId(); first {
	case run:
		e.Started = info.GetStartTime().AsTime()
	case "":
	default:
		if d, err := x.DescribeWorkflowExecution(ctx, id, first); err == nil {
			e.Started = d.GetWorkflowExecutionInfo().GetStartTime().AsTime()
		}
	}
	return e
}

func sweepStatus(info *workflow.WorkflowExecutionInfo) sweep.Status {
	outcome := attribute(info.GetSearchAttributes(), workflows.AttrStatus)
	switch info.GetStatus() {
	case enums.WORKFLOW_EXECUTION_STATUS_COMPLETED:
		return workflows.Succeeded
	case enums.WORKFLOW_EXECUTION_STATUS_CANCELED:
		return workflows.Cancelled
	case enums.WORKFLOW_EXECUTION_STATUS_TERMINATED:
		return sweep.Terminated
	case enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT:
		return workflows.TimedOut
	case enums.WORKFLOW_EXECUTION_STATUS_FAILED:
		if runview.Finished(outcome) {
			return workflows.Outcome(outcome)
		}
		return workflows.Failed // by a mistake of ours: nobody knows what it did
	}
	return sweep.Running
}

// stops tells whether an execution's runbook leaves what it did if it fails;
// also if its program cannot be read.
func (x executions) stops(ctx context.Context, id, run string) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	history := x.GetWorkflowHistory(ctx, id, run, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	if !history.HasNext() {
		return true
	}
	first, err := history.Next()
	if err != nil {
		return true
	}
	var start workflows.Start
	err = x.convert().FromPayloads(first.GetWorkflowExecutionStartedEventAttributes().GetInput(), &start)
	p := start.Runs()
	return err != nil || p == nil || p.OnFailure == program.OnFailureStop
}
