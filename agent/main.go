// Agent serves one node: it runs commands and changes files and services when a
// runbook's step says so. It only makes outgoing connections, to the Temporal server that the
// environment (TEMPORAL_ADDRESS and so on) or Temporal's profile names.
//
// Under systemd, set KillMode=process: commands go on while the agent restarts.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/almanac-run/almanac/internal/dial"
	"github.com/almanac-run/almanac/internal/node"
	"github.com/almanac-run/almanac/internal/registry"
)

func main() {
	node.ExecMain()
	// Nothing that we or what we start makes can be written by others only because nobody set a umask.
	syscall.Umask(syscall.Umask(0o077) | 0o022)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	slog.SetDefault(logger)
	if err := command(logger).ExecuteContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}

func command(logger *slog.Logger) *cobra.Command {
	o := node.Options{Logger: logger}
	var tags []string
	hostname, _ := os.Hostname()
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Serve this node",
		Long: `Serve this node until SIGTERM or Ctrl-C. Commands that run then go on; the next agent with the same
state directory finds them again. Connects as Temporal's tools do: TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE,
TEMPORAL_PROFILE and so on.`,
		Example:       "agent --id web-1 --tag role=web --tag zone=b",
		Version:       node.Version(),
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Tags = map[string]string{}
			for _, tag := range tags {
				key, value, ok := strings.Cut(tag, "=")
				if !ok || key == "" {
					return fmt.Errorf("tag %q: want name=value", tag)
				}
				o.Tags[key] = value
			}
			opts, err := dial.Options("agent "+o.ID, logger)
			if err != nil {
				return err
			}
			if o.Client, err = dial.Dial(cmd.Context(), opts, logger); err != nil {
				return err
			}
			defer o.Client.Close()
			o.Namespace = opts.Namespace
			return node.Run(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.ID, "id", hostname, "id of the node, as runbooks name it in targets")
	f.StringArrayVar(&tags, "tag", nil, "name=value, for targets by condition; may be repeated")
	f.StringVar(&o.StateDir, "state-dir", "/var/lib/almanac", "directory of the journal and the backups")
	f.StringVar(&o.OutputDir, "output-dir", "", "directory of the complete outputs (default \"output\" in the state directory)")
	f.DurationVar(&o.ClockLimit, "clock-limit", node.ClockLimit, "a clock that is off by more makes the node no target")
	f.StringVar(&o.TaskQueue, "task-queue", registry.TaskQueue, "task queue of the control worker, which keeps the registry")
	f.StringVar(&o.Root, "root", "", "directory that stands for the whole machine, for several nodes on one")
	return cmd
}
