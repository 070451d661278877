// Worker is the control worker: it runs executions, and the actions that need
// no node. It connects to the Temporal server that the environment
// (TEMPORAL_ADDRESS and so on) or Temporal's profile names, and to AWS with what
// AWS's environment and profiles say. Any number may run.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/control"
	"github.com/almanac-run/almanac/internal/dial"
	"github.com/almanac-run/almanac/internal/node"
	"github.com/almanac-run/almanac/workflows"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	slog.SetDefault(logger)
	if err := command(logger).ExecuteContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

func command(logger *slog.Logger) *cobra.Command {
	o := control.Options{Logger: logger}
	cmd := &cobra.Command{
		Use:   "worker",
		Short: "Run executions",
		Long: `Run executions, and the actions that need no node, until SIGTERM or Ctrl-C. Connects as Temporal's tools do:
TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_PROFILE and so on; and to AWS, when a runbook asks for it, as AWS's do:
AWS_PROFILE, AWS_REGION, the role of the machine and so on.`,
		Version:       node.Version(),
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			hostname, _ := os.Hostname()
			opts, err := dial.Options(fmt.Sprintf("worker %d@%s", os.Getpid(), hostname), logger)
			if err != nil {
				return err
			}
			if o.Client, err = dial.Dial(cmd.Context(), opts, logger); err != nil {
				return err
			}
			defer o.Client.Close()
			o.Namespace = opts.Namespace
			aws, err := awsapi.New(cmd.Context(), awsapi.Options{})
			if err != nil {
				return err
			}
			o.AWS = aws
			return control.Run(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.TaskQueue, "task-queue", workflows.TaskQueue, "task queue to serve")
	return cmd
}
