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
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/codec"
	"github.com/almanac-run/almanac/internal/control"
	"github.com/almanac-run/almanac/internal/dial"
	"github.com/almanac-run/almanac/internal/node"
	"github.com/almanac-run/almanac/internal/output/retain"
	"github.com/almanac-run/almanac/internal/settings"
	"github.com/almanac-run/almanac/workflows"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	slog.SetDefault(logger)
	if err := command(logger).ExecuteContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

func command(logger *slog.Logger) *cobra.Command {
	o := control.Options{Keep: 400 * 24 * time.Hour, Central: control.Central{Limits: retain.Limits{Keep: retain.Age(90 * 24 * time.Hour)}}}
	var s service
	var places []string
	var keys keyFlags
	cmd := &cobra.Command{
		Use:   "worker",
		Short: "Run executions",
		Long: `Run executions, and the actions that need no node, until SIGTERM or Ctrl-C. Connects as Temporal's tools do:
TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_PROFILE and so on; and to AWS, when a runbook asks for it, as AWS's do:
AWS_PROFILE, AWS_REGION, the role of the machine and so on.

Each flag can be set by an environment variable, ALMANAC_ and its name (ALMANAC_TASK_QUEUE), and in the file of --config. A
flag goes before the environment, the environment before the file. docs/operations.md has all of it.`,
		Version:       node.Version(),
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := s.open(cmd)
			if err != nil {
				return err
			}
			o.Logger = logger
			// What is wrong with the settings is said before there is a connection.
			if o.StopTimeout <= 0 {
				return fmt.Errorf("--stop-timeout %s: want some time, such as 30s", o.StopTimeout)
			}
			if o.SSM, err = ssmPlaces(places); err != nil {
				return err
			}
			if o.Deployment != "" && o.BuildID == "" && node.Version() != "(devel)" {
				o.BuildID = node.Version()
			}
			if err := o.CheckVersion(); err != nil {
				return err
			}
			hostname, _ := os.Hostname()
			opts, err := dial.Options(fmt.Sprintf("worker %d@%s", os.Getpid(), hostname), logger)
			if err != nil {
				return err
			}
			encryption, err := codec.Open(cmd.Context(), keys.settings(opts.Namespace, logger))
			if err != nil {
				return err
			}
			opts.DataConverter, opts.FailureConverter = encryption.Converters()
			o.Converter = encryption.Converter()
			closeTelemetry, err := s.watch(cmd.Context(), &opts, &o)
			if err != nil {
				return err
			}
			defer closeTelemetry()
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
	cmd.AddCommand(codecCommand(logger), keyCommand(), nodeKeyCommand())
	f := cmd.Flags()
	s.add(f, &o)
	keys.add(f)
	keys.addInsecure(f)
	settings.Instead(f, "key-file", codec.EnvKeys)
	f.StringVar(&o.TaskQueue, "task-queue", workflows.TaskQueue, "task queue to serve")
	f.StringVar(&o.Deployment, "deployment", "", "name that all versions of this worker have: executions stay with the version they began on (docs/upgrades.md)")
	f.StringVar(&o.BuildID, "build-id", "", "version of this worker in its deployment; else that of the program")
	f.StringVar(&o.Inventory, "inventory", ".almanac/inventory.db",
		"where inventory and compliance are kept: a file (SQLite), or postgres://… (a password in PGPASSWORD)")
	f.Var((*retain.Age)(&o.Keep), "inventory-keep", "how long the inventory remembers what is no more; 0 is for ever")
	f.StringArrayVar(&places, "ssm", nil, "region whose nodes are reached through Systems Manager, or region=role to assume; may be repeated")
	f.StringVar(&o.OutputDir, "output-dir", ".almanac/output", "output store of commands that run through Systems Manager")
	f.StringVar(&o.Central.Address, "output", "", "central store, to which complete outputs are brought: a directory, s3://bucket/prefix or postgres://… (a password in PGPASSWORD)")
	f.StringVar(&o.Central.Endpoint, "output-endpoint", "", "URL of what speaks like S3, in place of AWS")
	f.Var(&o.Central.Limits.Keep, "output-keep", "how long complete outputs are kept; 0 is for ever")
	f.Var(&o.Central.Limits.Most, "output-max-size", "how much of them is kept, the oldest goes first: 10GiB; 0 is no limit")
	f.StringVar(&o.Output.Bucket, "ssm-output-bucket", "", "S3 bucket to which nodes of Systems Manager write output that is longer than its API tells")
	f.StringVar(&o.Output.Prefix, "ssm-output-prefix", "almanac", "prefix of the keys in that bucket")
	f.StringVar(&o.Output.LogGroup, "ssm-output-log-group", "", "CloudWatch Logs group, in place of a bucket")
	cmd.AddCommand(configCommand(cmd), healthCommand(cmd, &s))
	return cmd
}

// ssmPlaces reads the values of --ssm.
func ssmPlaces(values []string) ([]action.Target, error) {
	var places []action.Target
	for _, v := range values {
		region, role, _ := strings.Cut(v, "=")
		if !regionForm.MatchString(region) || role != "" && !strings.HasPrefix(role, "arn:") {
			return nil, fmt.Errorf("--ssm %q: want a region, eu-central-1, or a region and the ARN of a role, eu-central-1=arn:aws:iam::123456789012:role/almanac", v)
		}
		place := action.Target{Region: region, Role: role}
		if part := strings.Split(role, ":"); len(part) > 4 {
			place.Account = part[4]
		}
		places = append(places, place)
	}
	return places, nil
}

var regionForm = regexp.MustCompile(`^[a-z]{2,}(-[a-z]+)+-[0-9]+$`)
