package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/almanac-run/almanac/internal/control"
	"github.com/almanac-run/almanac/internal/dial"
	"github.com/almanac-run/almanac/internal/node"
	"github.com/almanac-run/almanac/internal/settings"
	"github.com/almanac-run/almanac/internal/telemetry"
	"github.com/almanac-run/almanac/internal/worklog"
	"github.com/almanac-run/almanac/workflows"
)

// service is what makes a service of the worker: its settings, its log, and what
// operators see of it.
type service struct {
	listen              string
	logFormat, logLevel string
}

func (s *service) add(f *pflag.FlagSet, o *control.Options) {
	settings.AddFile(f)
	// Off unless asked for: whoever reaches it reads it, and two workers of one machine need two.
	f.StringVar(&s.listen, "listen", "", "address of /healthz, /readyz and /metrics, as 127.0.0.1:9464; else there are none")
	f.StringVar(&s.logFormat, "log-format", worklog.Text, "text or json")
	f.StringVar(&s.logLevel, "log-level", "info", "least level that is logged: debug, info, warn or error")
	f.DurationVar(&o.StopTimeout, "stop-timeout", control.DefaultStopTimeout, "how long running actions may take to end when the worker stops; the next worker tries again what is then cut off")
}

// open resolves the settings and makes the log.
func (s *service) open(cmd *cobra.Command) (*slog.Logger, error) {
	if _, err := settings.Resolve(cmd.Flags()); err != nil {
		return nil, err
	}
	logger, err := worklog.New(cmd.ErrOrStderr(), s.logFormat, s.logLevel)
	if err != nil {
		return nil, err
	}
	slog.SetDefault(logger)
	for _, w := range settings.Misspelt(cmd.Flags(), os.Environ()) {
		logger.Warn(w)
	}
	return logger, nil
}

// watch sets up what operators see, before there is a connection: why there is
// none is the first thing they want to know. The returned function ends it.
func (s *service) watch(ctx context.Context, opts *client.Options, o *control.Options) (func(), error) {
	o.Watchers = append(o.Watchers, logParts(o.Logger))
	var closers []func()
	health := telemetry.NewHealth("no connection to the Temporal server yet")
	metrics := telemetry.NewMetrics(node.Version())
	var polls dial.Polls
	*opts = polls.Watch(*opts)
	if s.listen != "" {
		at, stop, err := telemetry.Serve(s.listen, telemetry.Handler(health, metrics))
		if err != nil {
			return nil, err
		}
		closers = append(closers, stop)
		o.Logger.Info("listening", "address", at.String())
		opts.MetricsHandler = metrics.SDK()
		o.Watchers = append(o.Watchers, metrics.Watch)
	}
	traces, err := telemetry.NewTraces(ctx, node.Version(), o.Logger)
	if err != nil {
		return nil, err
	}
	if traces != nil {
		opts.ContextPropagators = append(opts.ContextPropagators, workflows.Links())
		o.Watchers = append(o.Watchers, traces.Watch)
		o.Interceptors = append(o.Interceptors, traces.Interceptor())
		closers = append(closers, func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if err := traces.Close(ctx); err != nil {
				o.Logger.Warn("the last traces were not sent", "error", err)
			}
		})
	}
	notify := func(state string) {
		if err := telemetry.Notify(state); err != nil {
			o.Logger.Warn("the service manager cannot be told", "state", state, "error", err)
		}
	}
	o.Ready = func() {
		health.Ready(func(ctx context.Context) error {
			if _, err := o.Client.CheckHealth(ctx, &client.CheckHealthRequest{}); err != nil {
				return fmt.Errorf("the Temporal server does not answer: %w", err)
			}
			return polls.Err()
		})
		notify("READY=1")
		if s.listen != "" {
			go metrics.Count(ctx, func(ctx context.Context, query string) (int64, error) { return count(ctx, o.Client, query) })
		}
		if ctx.Err() != nil {
			health.NotReady(stopping)
		}
	}
	context.AfterFunc(ctx, func() {
		health.NotReady(stopping)
		notify("STOPPING=1")
	})
	return func() {
		for _, c := range slices.Backward(closers) {
			c()
		}
	}, nil
}

const stopping = "the worker stops"

func count(ctx context.Context, c client.Client, query string) (int64, error) {
	resp, err := c.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{Query: query})
	return resp.GetCount(), err
}

// logParts writes a line for each execution, step and compensation that has ended.
func logParts(logger *slog.Logger) workflows.Watcher {
	return func(p workflows.Part) {
		level, what := slog.LevelDebug, string(p.Of)+" has ended"
		switch {
		case p.State == workflows.StateNotRolledBack:
			level = slog.LevelError
		case p.Kind != "":
			level = slog.LevelWarn
		case p.Of == workflows.PartExecution:
			level = slog.LevelInfo
		}
		attrs := []slog.Attr{
			slog.String("execution", p.Execution), slog.String("run", p.Run), slog.String("runbook", p.Runbook),
			slog.String("state", p.State), slog.Duration("took", p.End.Sub(p.Start)),
		}
		for _, a := range [][2]string{{"step", p.Step}, {"node", p.Node}, {"action", p.Action}, {"kind", p.Kind}} {
			if a[1] != "" {
				attrs = append(attrs, slog.String(a[0], a[1]))
			}
		}
		logger.LogAttrs(context.Background(), level, what, attrs...)
	}
}

// configCommand prints the settings that the same command line without "config" has.
func configCommand(root *cobra.Command) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the settings in effect, and where each comes from",
		Long: `Print the settings that the worker would have with the same flags, environment and file, and where each comes
from. Passwords are masked. Temporal's own (TEMPORAL_…) and AWS's are not among them.`,
		Example: "worker config --config /etc/almanac/worker.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := settings.Resolve(root.Flags())
			if err != nil {
				return err
			}
			for _, w := range settings.Misspelt(root.Flags(), os.Environ()) {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
			}
			switch format {
			case "json":
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(all)
			case "text":
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "SETTING\tVALUE\tFROM")
				for _, s := range all {
					fmt.Fprintf(w, "%s\t%s\t%s\n", s.Name, s.Value, s.Source)
				}
				return w.Flush()
			}
			return fmt.Errorf("--format %q: want text or json", format)
		},
	}
	cmd.Flags().AddFlagSet(root.Flags())
	cmd.Flags().StringVarP(&format, "format", "o", "text", "text or json")
	return cmd
}

// healthCommand is for a container's health check, which has no other program to ask with.
func healthCommand(root *cobra.Command, s *service) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "health",
		Short:   "Ask the worker of this machine whether it is ready",
		Long:    "Ask the worker at --listen whether it is ready. The exit code is 0 if it is, else 1, and the reason is printed.",
		Example: "worker health --listen 127.0.0.1:9464",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := settings.Resolve(root.Flags()); err != nil {
				return err
			}
			if s.listen == "" {
				return errors.New("the worker has no --listen (ALMANAC_LISTEN), so that there is nothing to ask")
			}
			if err := telemetry.Ask(cmd.Context(), s.listen); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "ready")
			return nil
		},
	}
	cmd.Flags().AddFlagSet(root.Flags())
	return cmd
}
