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
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/almanac-run/almanac/internal/codec"
	"github.com/almanac-run/almanac/internal/dial"
	"github.com/almanac-run/almanac/internal/node"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/internal/settings"
	"github.com/almanac-run/almanac/internal/worklog"
)

func main() {
	node.ExecMain()
	// Nothing that we or what we start makes can be written by others only because nobody set a umask.
	syscall.Umask(syscall.Umask(0o077) | 0o022)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	slog.SetDefault(logger)
	if err := command(logger).ExecuteContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}

func command(logger *slog.Logger) *cobra.Command {
	o := node.Options{Logger: logger, Outputs: node.UsualOutputs}
	var tags tagOptions
	var keyFile, logFormat, logLevel string
	var insecure bool
	hostname, _ := os.Hostname()
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Serve this node",
		Long: `Serve this node until SIGTERM or Ctrl-C. Commands that run then go on; the next agent with the same
state directory finds them again. Connects as Temporal's tools do: TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE,
TEMPORAL_PROFILE and so on.

Tags come from --tag, from the lines (name=value) of --tags-file, and on an instance of EC2 from its metadata service, if the
instance's metadata options let tags through; the first of these wins. AWS_EC2_METADATA_SERVICE_ENDPOINT names another endpoint.

Each flag can be set by an environment variable, ALMANAC_ and its name (ALMANAC_TASK_QUEUE), and in the file of --config. A
flag goes before the environment, the environment before the file.

A unit for systemd is in deploy/almanac-agent.service. Without its KillMode=process, commands end with the agent.`,
		Example:       "agent --id web-1 --tag role=web --tag zone=b\nagent --tags-file /etc/almanac/tags --ec2-metadata off",
		Version:       node.Version(),
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := settings.Resolve(cmd.Flags()); err != nil {
				return err
			}
			logger, err := worklog.New(cmd.ErrOrStderr(), logFormat, logLevel)
			if err != nil {
				return err
			}
			slog.SetDefault(logger)
			o.Logger = logger
			for _, w := range settings.Misspelt(cmd.Flags(), os.Environ()) {
				logger.Warn(w)
			}
			// What is wrong with the command line is said before there is a connection.
			if err := node.CheckID(o.ID); err != nil {
				return err
			}
			if err := tags.complete(cmd.Context(), &o, logger); err != nil {
				return err
			}
			opts, err := dial.Options("agent "+o.ID, logger)
			if err != nil {
				return err
			}
			// A connection that died without a word (a cut, a firewall that forgot it) must be noticed
			// before the engine gives up what runs here. A server takes no more than a ping in ten seconds.
			opts.ConnectionOptions.KeepAliveTime, opts.ConnectionOptions.KeepAliveTimeout = 10*time.Second, 5*time.Second
			encryption, err := codec.Open(cmd.Context(), codec.Settings{
				Options: codec.Options{Namespace: opts.Namespace}, Node: o.ID, File: keyFile, DefaultFile: filepath.Join(o.StateDir, "keys"),
				Insecure: insecure, Logger: logger,
			})
			if err != nil {
				return err
			}
			var polls dial.Polls
			opts, o.ServerAway = polls.Watch(opts), polls.Away
			opts.DataConverter, opts.FailureConverter = encryption.Converters()
			o.Converter = encryption.Converter()
			if o.Client, err = dial.Dial(cmd.Context(), opts, logger); err != nil {
				return err
			}
			defer o.Client.Close()
			o.Namespace = opts.Namespace
			go rest(cmd.Context())
			return node.Run(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	settings.AddFile(f)
	f.StringVar(&logFormat, "log-format", worklog.Text, "text or json")
	f.StringVar(&logLevel, "log-level", "info", "least level that is logged: debug, info, warn or error")
	f.StringVar(&o.ID, "id", hostname, "id of the node, as runbooks name it in targets")
	f.StringArrayVar(&tags.tags, "tag", nil, "name=value, for targets by condition; may be repeated")
	f.StringVar(&tags.file, "tags-file", "", "file with a tag in each line, as name=value")
	f.StringVar(&tags.metadata, "ec2-metadata", metadataAuto, "tags, region and account from EC2's metadata service: auto (if the firmware says EC2), on, off")
	f.StringVar(&keyFile, "key-file", "", "this node's keys, as worker node-key prints them (default ALMANAC_KEYS, ALMANAC_KEY_FILE, \"keys\" in the state directory)")
	settings.Instead(f, "key-file", codec.EnvKeys)
	f.BoolVar(&insecure, "insecure", false, "encrypt nothing (ALMANAC_INSECURE=1)")
	f.StringVar(&o.StateDir, "state-dir", "/var/lib/almanac", "directory of the journal and the backups")
	f.StringVar(&o.OutputDir, "output-dir", "", "directory of the complete outputs (default \"output\" in the state directory)")
	f.Int64Var(&o.MaxOutput, "max-output", 1<<30, "bytes that are kept of one command's output; the rest is left out, and the result says so")
	f.Var(&o.Outputs.Keep, "output-keep", "how long complete outputs are kept here; 0 is for ever")
	f.Var(&o.Outputs.Most, "output-max-size", "how much of them is kept here, the oldest goes first; 0 is no limit")
	f.DurationVar(&o.ClockLimit, "clock-limit", node.ClockLimit, "a clock that is off by more makes the node no target")
	f.StringVar(&o.TaskQueue, "task-queue", registry.TaskQueue, "task queue of the control worker, which keeps the registry")
	f.StringVar(&o.Root, "root", "", "directory that stands for the whole machine, for several nodes on one")
	return cmd
}
