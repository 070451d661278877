package main

import (
	"context"
	"crypto/rand"
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

	"github.com/almanac-run/almanac/internal/codec"
	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

func (a *app) runCommand() *cobra.Command {
	var in inputFlags
	var id, onlyFailed string
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
to it. The exit code says how the execution ended.

--only-failed runs a runbook again where a finished execution has not done its
work: its steps on several targets run on those that failed, were unreached,
skipped or cut off in it, in whatever step, and on no others; steps on one node
run as they are. Inputs that are not given are those of that execution, and
without RUNBOOK the runbook is the one that it ran, as it was.`,
		Example: a.examples(
			"starter run linux/rolling-restart -i service=nginx -i targets=web-1,web-2",
			"starter run ./patch.yaml --inputs prod.yaml -i max_errors=2",
			"starter run demo/tour --detach",
			"starter run --only-failed linux-patch-fleet-20261123-101500-x2ab",
		),
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && onlyFailed != "" {
				return nil
			}
			return one("RUNBOOK")(cmd, args)
		},
		ValidArgsFunction: runbookArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			runbook := ""
			if len(args) > 0 {
				runbook = args[0]
			}
			err := a.run(cmd.Context(), runbook, in, onlyFailed, id, detach)
			var exit *exitError
			if errors.As(err, &exit) && exit.code == exitInvalid {
				exit.err = fmt.Errorf("%w\nnothing was started", exit.err)
			}
			return err
		},
	}
	in.add(a, cmd)
	cmd.Flags().StringVar(&id, "id", "", "id of the execution; the server refuses a second one while it runs")
	cmd.Flags().StringVar(&onlyFailed, "only-failed", "", "run only on the targets on which this finished execution has not done its work")
	_ = cmd.RegisterFlagCompletionFunc("only-failed", a.executionArgs)
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "start only: print the id and do not follow")
	return cmd
}

func (a *app) run(ctx context.Context, runbook string, in inputFlags, onlyFailed, id string, detach bool) error {
	if strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r > '~' }) {
		return usagef("--id is of printable ASCII characters, not %q", id)
	}
	if codec.ReservedID(id) {
		return usagef("--id %s: ids that begin with node/ and tell/ are those of the registry of nodes, whose agents can read them", id)
	}
	var s *server
	var left *rest
	var prog *program.Program
	var err error
	if runbook != "" { // its mistakes are told without a server
		if prog, err = a.load(runbook); err != nil {
			return err
		}
	}
	if onlyFailed != "" {
		if s, err = a.dial(ctx); err != nil {
			return err
		}
		defer s.Close()
		if left, err = a.restOf(ctx, s, onlyFailed); err != nil {
			return err
		}
		if prog == nil {
			prog, runbook = left.start.Program, left.start.Program.Runbook
		}
		if was := left.start.Program.Runbook; was != prog.Runbook {
			return usagef("%s ran %s, not %s", onlyFailed, was, prog.Runbook)
		}
		if !onSeveral(prog) {
			return invalidf("%s has no step on several targets, which is what --only-failed is for; give it other nodes as inputs", prog.Runbook)
		}
		in.given = left.inputsFor(prog)
	}
	inputs, err := a.inputs(runbook, prog, in, true)
	if err != nil {
		return err
	}
	if id == "" {
		id = newID(prog.Runbook, time.Now())
	}
	if s == nil {
		if s, err = a.dial(ctx); err != nil {
			return err
		}
		defer s.Close()
	}
	if !detach && !a.json() {
		fmt.Fprintln(a.stderr, summary(makePlan(prog, inputs)))
	}
	start := workflows.Start{Program: prog, Inputs: inputs, Caller: caller()}
	if left != nil {
		start.Only = left.nodes
		fmt.Fprintln(a.stderr, left)
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := a.start(ctx, s, start, id); err != nil {
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
func (a *app) start(ctx context.Context, s *server, start workflows.Start, id string) error {
	prog := start.Runs()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	reuse := enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
	if start.TakeBack != nil {
		reuse = enums.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
	}
	_, err := s.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID:                                       id,
		TaskQueue:                                workflows.TaskQueue,
		WorkflowIDReusePolicy:                    reuse,
		WorkflowIDConflictPolicy:                 enums.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		StaticSummary:                            prog.Summary,
		StaticDetails:                            prog.Details,
		Priority:                                 workflows.Fair(start.Caller),
		TypedSearchAttributes: temporal.NewSearchAttributes(
			temporal.NewSearchAttributeKeyKeyword(workflows.AttrRunbook).ValueSet(prog.Runbook),
			temporal.NewSearchAttributeKeyKeyword(workflows.AttrStatus).ValueSet("running"),
			temporal.NewSearchAttributeKeyKeyword(workflows.AttrCaller).ValueSet(start.Caller),
		),
	}, prog.Runbook, start)

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
