package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/runbooks"
	"github.com/almanac-run/almanac/workflows"
)

func (a *app) showCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show EXECUTION",
		Short: "Show an execution: its steps, what waits, how it ended",
		Long: `Show an execution as it stands: a table of its steps, what waits for a person
with the commands that answer it, and, if it has ended, its outcome, failure and
outputs. With -o json this is one object: the execution's view with id and url.`,
		Example:           a.examples("starter show demo-tour-20261123-101500-x2ab", "starter show demo-tour-20261123-101500-x2ab -o json"),
		Args:              one("EXECUTION"),
		ValidArgsFunction: a.executionArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, s *server) error { return a.show(ctx, s, args[0]) })
		},
	}
}

// with connects, and closes the connection afterwards.
func (a *app) with(ctx context.Context, do func(context.Context, *server) error) error {
	s, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	return do(ctx, s)
}

func (s *server) describe(ctx context.Context, id string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	return s.DescribeWorkflowExecution(ctx, id, "")
}

func (a *app) show(ctx context.Context, s *server, id string) error {
	d, err := s.describe(ctx, id)
	if err != nil {
		return a.explain(s, id, err)
	}
	x := s.execution(id)
	info := d.GetWorkflowExecutionInfo()
	var v workflows.View
	if info.GetStatus() == enums.WORKFLOW_EXECUTION_STATUS_RUNNING {
		if v, err = s.view(ctx, id); err != nil {
			if name := s.deserted(ctx, info); name != "" {
				fmt.Fprintln(a.stderr, a.waitsForVersion(name)+": steps are not known until then")
			} else if n, perr := s.pollers(ctx); perr == nil && n == 0 {
				fmt.Fprintf(a.stderr, "no worker is polling task queue %s: steps are not known until one does\n", workflows.TaskQueue)
			} else if n := d.GetPendingWorkflowTask().GetAttempt(); n > 1 {
				fmt.Fprintf(a.stderr, "the worker fails to go on with it (attempt %d): as a rule its version does something else than what the execution has done.\nNothing is lost or done twice: it goes on with a worker of the version it began on; see %s versions\n", n, a.again())
			} else {
				fmt.Fprintln(a.stderr, "the worker did not answer: steps are not known")
			}
			v = workflows.View{Runbook: info.GetType().GetName(), Status: "running", StartedAt: info.GetStartTime().AsTime()}
		}
	} else {
		short, cancel := context.WithTimeout(ctx, 2*queryTimeout)
		defer cancel()
		r, err := s.result(short, id)
		if err != nil {
			return a.explain(s, id, err)
		}
		v = s.lastView(ctx, id, r)
		a.findSources(ctx, s, id, v)
	}
	if a.json() {
		return printJSON(a.stdout, struct {
			runview.Execution
			workflows.View
		}{x, v})
	}
	o := a.view(a.stdout)
	o.Height = 0
	if v.Result == nil {
		fmt.Fprint(a.stdout, runview.Table(v, x, o))
		return nil
	}
	table := x
	table.URL = ""
	fmt.Fprint(a.stdout, runview.Table(v, table, o), "\n", runview.Ending(v, x, o))
	return nil
}

// findSources reads the files of the runbooks that failed, so that their lines
// can be shown, as far as they still are what the execution was compiled from.
func (a *app) findSources(ctx context.Context, s *server, id string, v workflows.View) {
	if v.Result == nil || v.Result.Failure == nil {
		return
	}
	prog, err := s.program(ctx, id)
	if err != nil {
		return // the place is shown without its line
	}
	programs := []*program.Program{prog}
	for _, child := range prog.Children {
		programs = append(programs, child)
	}
	a.sources = map[string][]byte{} // a file may have changed since it was read to be started
	for _, p := range programs {
		source, err := readFile(p.File)
		if err != nil || digest(source) != p.Digest {
			if _, source, err = runbooks.Source(p.Runbook); err != nil || digest(source) != p.Digest {
				continue
			}
		}
		a.sources[p.File] = source
	}
}

func digest(source []byte) string {
	sum := sha256.Sum256(source)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// program returns the program of an execution.
func (s *server) program(ctx context.Context, id string) (*program.Program, error) {
	start, err := s.started(ctx, id)
	if err != nil {
		return nil, err
	}
	return start.Program, nil
}

// started returns what an execution was started with, from its history.
func (s *server) started(ctx context.Context, id string) (*workflows.Start, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	history := s.GetWorkflowHistory(ctx, id, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	if !history.HasNext() {
		return nil, fmt.Errorf("execution %s has no history", id)
	}
	first, err := history.Next()
	if err != nil {
		return nil, err
	}
	var start workflows.Start
	if err := s.convert().FromPayloads(first.GetWorkflowExecutionStartedEventAttributes().GetInput(), &start); err != nil {
		return nil, err
	}
	start.Program = start.Runs()
	if start.Program == nil {
		return nil, fmt.Errorf("execution %s is not that of a runbook", id)
	}
	return &start, nil
}
