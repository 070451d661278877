package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	common "go.temporal.io/api/common/v1"
	enums "go.temporal.io/api/enums/v1"
	workflow "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"

	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/workflows"
)

// listFilter says which executions to list.
type listFilter struct {
	runbook, caller string
	statuses        []string
	limit           int
	called          bool
}

var statuses = []string{"running", "waiting", "rolling_back", "finally", "succeeded", "failed", "rolled_back", "rollback_failed", "cancelled", "timed_out"}

func (a *app) listCommand() *cobra.Command {
	var f listFilter
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List executions, the newest first",
		Long: `List executions of runbooks, the newest first. Those that a runbook called are
left out unless --called is given.`,
		Example: a.examples(
			"starter list --status waiting,rollback_failed",
			"starter list --runbook linux/rolling-restart --limit 5 -o json",
		),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, status := range f.statuses {
				if !slices.Contains(statuses, status) {
					return usagef("--status is one of %s, not %q", strings.Join(statuses, ", "), status)
				}
			}
			if f.limit < 1 {
				return usagef("--limit is at least 1")
			}
			return a.with(cmd.Context(), func(ctx context.Context, s *server) error { return a.list(ctx, s, f) })
		},
	}
	cmd.Flags().StringVar(&f.runbook, "runbook", "", "only executions of this runbook")
	cmd.Flags().StringSliceVar(&f.statuses, "status", nil, "only executions in these: "+strings.Join(statuses, ", "))
	cmd.Flags().StringVar(&f.caller, "caller", "", "only executions that this user started")
	cmd.Flags().IntVar(&f.limit, "limit", 20, "how many at most")
	cmd.Flags().BoolVar(&f.called, "called", false, "also executions that a runbook called")
	a.complete(cmd, "status", statuses...)
	_ = cmd.RegisterFlagCompletionFunc("runbook", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return runbookNames(), cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

// listed is one execution in a list.
type listed struct {
	runview.Execution
	Runbook   string     `json:"runbook"`
	Status    string     `json:"status"`
	StartedAt time.Time  `json:"started_at"`
	EndedAt   *time.Time `json:"ended_at,omitempty"`
	Caller    string     `json:"caller,omitempty"`
	Step      string     `json:"step,omitempty"`    // that waits or failed
	Version   string     `json:"version,omitempty"` // of the worker to which it is bound
}

func (a *app) list(ctx context.Context, s *server, f listFilter) error {
	found, err := s.find(ctx, f)
	if err != nil {
		return a.explain(s, "", err)
	}
	if a.json() {
		return printJSON(a.stdout, found)
	}
	if len(found) == 0 {
		if f.runbook+f.caller != "" || f.statuses != nil {
			fmt.Fprintf(a.stderr, "no such executions; %s list shows all\n", a.again())
		} else {
			fmt.Fprintf(a.stderr, "no executions; %s run RUNBOOK starts one\n", a.again())
		}
		return nil
	}
	var rows [][]string
	for _, e := range found {
		end := time.Now()
		if e.EndedAt != nil {
			end = *e.EndedAt
		}
		rows = append(rows, []string{e.ID, e.Runbook, e.Status, e.StartedAt.Local().Format("2006-01-02 15:04:05"),
			runview.Elapsed(end.Sub(e.StartedAt)), e.Caller, e.Step})
	}
	heading, rows := fit([]string{"EXECUTION", "RUNBOOK", "STATUS", "STARTED", "TIME", "CALLER", "STEP"}, rows,
		a.view(a.stdout).Width, "CALLER", "RUNBOOK", "STARTED", "TIME", "STEP")
	columns(a.stdout, "", heading, rows)
	a.waitForVersions(ctx, s, found)
	return nil
}

// find lists executions by their search attributes.
func (s *server) find(ctx context.Context, f listFilter) ([]listed, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	where := []string{workflows.AttrRunbook + " IS NOT NULL"}
	oneOf := func(attr string, values ...string) {
		var quoted []string
		for _, v := range values {
			if v != "" {
				quoted = append(quoted, "'"+strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v)+"'")
			}
		}
		if quoted != nil {
			where = append(where, fmt.Sprintf("%s IN (%s)", attr, strings.Join(quoted, ", ")))
		}
	}
	oneOf(workflows.AttrRunbook, f.runbook)
	oneOf(workflows.AttrStatus, f.statuses...)
	oneOf(workflows.AttrCaller, f.caller)
	found := []listed{}
	var token []byte
	for len(found) < f.limit {
		page, err := s.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Namespace: s.namespace, Query: strings.Join(where, " AND "), PageSize: int32(min(max(f.limit, 20), 1000)), NextPageToken: token,
		})
		if err != nil {
			return nil, err
		}
		for _, info := range page.GetExecutions() {
			if info.GetStatus() == enums.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW || !f.called && info.GetParentExecution() != nil {
				continue
			}
			found = append(found, s.listed(info))
		}
		if token = page.GetNextPageToken(); len(token) == 0 {
			break
		}
	}
	// The server gives first those that run, then those that ended last.
	slices.SortStableFunc(found, func(a, b listed) int { return b.StartedAt.Compare(a.StartedAt) })
	return found[:min(len(found), f.limit)], nil
}

func (s *server) listed(info *workflow.WorkflowExecutionInfo) listed {
	e := listed{
		Execution: s.execution(info.GetExecution().GetWorkflowId()),
		Runbook:   info.GetType().GetName(),
		StartedAt: info.GetStartTime().AsTime(),
		Status:    attribute(info.GetSearchAttributes(), workflows.AttrStatus),
		Caller:    attribute(info.GetSearchAttributes(), workflows.AttrCaller),
		Step:      attribute(info.GetSearchAttributes(), workflows.AttrStep),
	}
	if attribute(info.GetSearchAttributes(), attrBehavior) == "Pinned" {
		e.Version = attribute(info.GetSearchAttributes(), attrVersion)
	}
	if info.GetStatus() != enums.WORKFLOW_EXECUTION_STATUS_RUNNING {
		closed := info.GetCloseTime().AsTime()
		e.EndedAt = &closed
		if !runview.Finished(e.Status) { // nobody told the attribute: the server ended it
			e.Status = strings.ToLower(info.GetStatus().String())
		}
		if e.Status == string(workflows.Succeeded) {
			e.Step = "" // it waited there once
		}
	}
	return e
}

func attribute(attrs *common.SearchAttributes, name string) string {
	var s string
	if p := attrs.GetIndexedFields()[name]; p != nil {
		_ = converter.GetDefaultDataConverter().FromPayload(p, &s) // of another type: not ours
	}
	return s
}

// executionArgs completes the id of an execution, by asking the server.
func (a *app) executionArgs(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	s, err := a.dial(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer s.Close()
	found, _ := s.find(cmd.Context(), listFilter{limit: 30})
	var ids []string
	for _, e := range found {
		ids = append(ids, e.ID+"\t"+e.Runbook+" "+e.Status)
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
