package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

func (a *app) runCommand() *cobra.Command {
	var in inputFlags
	var id string
	var detach bool
	cmd := &cobra.Command{
		Use:   "run RUNBOOK",
		Short: "Run a runbook and follow it to its end",
		Long: `Compile a runbook, check its inputs, start it and follow it to its end. With a
mistake in the runbook or its inputs nothing is started.

On a terminal, inputs that are missing are asked for, and a table is redrawn;
elsewhere each change is one line:

  TIME STEP STATE [DETAIL]

with the time as RFC 3339 in UTC and "-" as the step of the execution itself.
With -o json each change is one JSON object on one line; the last has type
"result". Ctrl-C stops following: the execution goes on, and watch comes back
to it. The exit code says how the execution ended.`,
		Example: a.examples(
			"starter run linux/rolling-restart -i service=nginx -i targets=web-1,web-2",
			"starter run ./patch.yaml --inputs prod.yaml -i max_errors=2",
			"starter run demo/tour --detach",
		),
		Args:              one("RUNBOOK"),
		ValidArgsFunction: runbookArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			err := a.run(cmd.Context(), args[0], in, id, detach)
			var exit *exitError
			if errors.As(err, &exit) && exit.code == exitInvalid {
				exit.err = fmt.Errorf("%w\nnothing was started", exit.err)
			}
			return err
		},
	}
	in.add(a, cmd)
	cmd.Flags().StringVar(&id, "id", "", "id of the execution; the server refuses a second one while it runs")
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "start only: print the id and do not follow")
	return cmd
}

func (a *app) run(ctx context.Context, runbook string, in inputFlags, id string, detach bool) error {
	if strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r > '~' }) {
		return usagef("--id is of printable ASCII characters, not %q", id)
	}
	prog, err := a.load(runbook)
	if err != nil {
		return err
	}
	inputs, err := a.inputs(runbook, prog, in, true)
	if err != nil {
		return err
	}
	if id == "" {
		id = newID(prog.Runbook, time.Now())
	}
	s, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	if !detach && !a.json() {
		fmt.Fprintln(a.stderr, summary(makePlan(prog, inputs)))
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := a.start(ctx, s, prog, inputs, id); err != nil {
		if ctx.Err() != nil {
			return &exitError{exitDetached, fmt.Errorf("interrupted while the server was asked to start %s; whether it did: %s show %s", id, a.again(), runview.Quote(id))}
		}
		return a.lost(s, id, err)
	}
	x := s.execution(id)
	if detach {
		if a.json() {
			return printJSON(a.stdout, x)
		}
		fmt.Fprintln(a.stdout, id)
		if x.URL != "" {
			fmt.Fprintln(a.stderr, x.URL)
		}
		fmt.Fprintf(a.stderr, "follow it with: %s watch %s\n", a.again(), runview.Quote(id))
		return nil
	}
	return a.follow(ctx, s, id)
}

// start starts the execution: the compiled program travels with it.
func (a *app) start(ctx context.Context, s *server, prog *program.Program, inputs map[string]json.RawMessage, id string) error {
	by := caller()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, err := s.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID:                                       id,
		TaskQueue:                                workflows.TaskQueue,
		WorkflowIDConflictPolicy:                 enums.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		StaticSummary:                            prog.Summary,
		StaticDetails:                            prog.Details,
		TypedSearchAttributes: temporal.NewSearchAttributes(
			temporal.NewSearchAttributeKeyKeyword(workflows.AttrRunbook).ValueSet(prog.Runbook),
			temporal.NewSearchAttributeKeyKeyword(workflows.AttrStatus).ValueSet("running"),
			temporal.NewSearchAttributeKeyKeyword(workflows.AttrCaller).ValueSet(by),
		),
	}, prog.Runbook, workflows.Start{Program: prog, Inputs: inputs, Caller: by})

	var started *serviceerror.WorkflowExecutionAlreadyStarted
	var invalid *serviceerror.InvalidArgument
	switch {
	case errors.As(err, &started):
		return fmt.Errorf("execution %s runs already; follow it with: %s watch %s", id, a.again(), runview.Quote(id))
	case errors.As(err, &invalid) && strings.Contains(invalid.Message, "search attribute"):
		return fmt.Errorf("namespace %s lacks the search attributes of runbooks; add them once:\n  temporal operator search-attribute create --namespace %s"+
			" --name %s --type Keyword --name %s --type Keyword --name %s --type Keyword --name %s --type Keyword --name %s --type KeywordList",
			s.namespace, s.namespace, workflows.AttrRunbook, workflows.AttrStatus, workflows.AttrStep, workflows.AttrCaller, workflows.AttrTargets)
	case errors.As(err, &invalid) && strings.Contains(strings.ToLower(invalid.Message), "size"):
		return invalidf("the runbook and its inputs are too large for one message to the server: %s", invalid.Message)
	}
	return a.explain(s, id, err)
}

// newID makes an id that says what runs and since when, and that two starts in
// one second do not share.
func newID(runbook string, now time.Time) string {
	return strings.ReplaceAll(runbook, "/", "-") + now.UTC().Format("-20060102-150405-") + strings.ToLower(rand.Text()[:4])
}
