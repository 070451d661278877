// Worker is the control worker: it runs executions, and the actions that need
// no node. It connects to the Temporal server that the environment
// (TEMPORAL_ADDRESS and so on) or Temporal's profile names, and to AWS with what
// AWS's environment and profiles say. Any number may run.
package main

import (
	"cmp"
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
	var places []string
	var keys keyFlags
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
			encryption, err := codec.Open(cmd.Context(), keys.settings(opts.Namespace, logger))
			if err != nil {
				return err
			}
			opts.DataConverter, opts.FailureConverter = encryption.Converters()
			o.Converter = encryption.Converter()
			if o.Client, err = dial.Dial(cmd.Context(), opts, logger); err != nil {
				return err
			}
			defer o.Client.Close()
			o.Namespace = opts.Namespace
			if o.SSM, err = ssmPlaces(places); err != nil {
				return err
			}
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
	keys.add(f)
	keys.addInsecure(f)
	f.StringVar(&o.TaskQueue, "task-queue", workflows.TaskQueue, "task queue to serve")
	f.StringVar(&o.Inventory, "inventory", cmp.Or(os.Getenv("ALMANAC_INVENTORY"), ".almanac/inventory.db"),
		"where inventory and compliance are kept: a file (SQLite), or postgres://… (ALMANAC_INVENTORY; a password in PGPASSWORD)")
	f.DurationVar(&o.Keep, "inventory-keep", 400*24*time.Hour, "how long the inventory remembers what is no more; 0 is forever")
	f.StringArrayVar(&places, "ssm", nil, "region whose nodes are reached through Systems Manager, or region=role to assume; may be repeated")
	f.StringVar(&o.OutputDir, "output-dir", cmp.Or(os.Getenv("ALMANAC_OUTPUT_DIR"), ".almanac/output"), "output store of commands that run through Systems Manager (ALMANAC_OUTPUT_DIR)")
	f.StringVar(&o.Output.Bucket, "ssm-output-bucket", "", "S3 bucket to which nodes of Systems Manager write output that is longer than its API tells")
	f.StringVar(&o.Output.Prefix, "ssm-output-prefix", "almanac", "prefix of the keys in that bucket")
	f.StringVar(&o.Output.LogGroup, "ssm-output-log-group", "", "CloudWatch Logs group, in place of a bucket")
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
