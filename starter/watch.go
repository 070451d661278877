package main

import (
	"context"

	"github.com/spf13/cobra"
)

func (a *app) watchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "watch EXECUTION",
		Short: "Follow an execution to its end",
		Long: `Follow an execution as run does: a table on a terminal, a line for each change
elsewhere, JSON objects with -o json. The exit code says how it ended; Ctrl-C
stops following and leaves it running.`,
		Example:           a.examples("starter watch demo-tour-20261123-101500-x2ab"),
		Args:              one("EXECUTION"),
		ValidArgsFunction: a.executionArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, s *server) error {
				if _, err := s.describe(ctx, args[0]); err != nil {
					return a.explain(s, args[0], err)
				}
				return a.follow(ctx, s, args[0])
			})
		},
	}
}
