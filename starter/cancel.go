package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"

	"github.com/almanac-run/almanac/internal/runview"
)

func (a *app) cancelCommand() *cobra.Command {
	var reason string
	var wait bool
	cmd := &cobra.Command{
		Use:   "cancel EXECUTION",
		Short: "Cancel an execution: stop what runs, and roll back",
		Long: `Cancel an execution. What runs on nodes is stopped, what was done is rolled back
unless the runbook says otherwise, and its finally: steps run. The command
returns when the server has taken the request; with --wait it follows to the end
and exits with the outcome's code.`,
		Example:           a.examples("starter cancel demo-tour-20261123-101500-x2ab --reason 'wrong cluster' --wait"),
		Args:              one("EXECUTION"),
		ValidArgsFunction: a.executionArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, s *server) error {
				short, done := context.WithTimeout(ctx, 2*queryTimeout)
				defer done()
				d, err := s.describe(short, args[0])
				if err != nil {
					return a.explain(s, args[0], err)
				}
				if d.GetWorkflowExecutionInfo().GetCloseTime() != nil {
					return fmt.Errorf("execution %s has ended; %s show %s says how", args[0], a.again(), runview.Quote(args[0]))
				}
				err = s.CancelWorkflowWithOptions(short, client.CancelWorkflowOptions{WorkflowID: args[0], Reason: reason})
				if err != nil {
					return a.explain(s, args[0], err)
				}
				if wait {
					return a.follow(ctx, s, args[0])
				}
				if a.json() {
					return printJSON(a.stdout, s.execution(args[0]))
				}
				fmt.Fprintf(a.stdout, "%s is being cancelled; follow it with: %s watch %s\n", args[0], a.again(), runview.Quote(args[0]))
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, kept with the execution as readable text: not encrypted")
	cmd.Flags().BoolVar(&wait, "wait", false, "follow to the end")
	return cmd
}
