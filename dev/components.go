package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/codec"
	"github.com/almanac-run/almanac/internal/control"
	"github.com/almanac-run/almanac/internal/dial"
	"github.com/almanac-run/almanac/internal/node"
	"github.com/almanac-run/almanac/internal/simcloud"
)

// Component is a part that runs until its context ends. One that ends by itself, well or badly, ends the process.
type Component struct {
	Name string
	Run  func(ctx context.Context) error
}

// components is the one place that says what runs beside the server: the control worker, and three nodes with a
// directory each that stands for the machine. They share the directory of complete outputs.
func components(o options, s *server, keys *codec.Keyring, aws awsapi.Caller, logger *slog.Logger) []Component {
	encryption := controlCodec(keys, s)
	output := filepath.Join(o.dir, "output")
	list := []Component{
		connected("worker", asWorker, s, encryption, logger, func(ctx context.Context, c client.Client) error {
			return control.Run(ctx, control.Options{
				Client: c, Converter: encryption.Converter(), Namespace: s.namespace, AWS: aws, Logger: logger,
				Inventory: filepath.Join(o.dir, "inventory.db"), OutputDir: output, SSM: places(o), StopTimeout: 10 * time.Second,
			})
		}),
	}
	for i, id := range []string{"web-1", "web-2", "web-3"} {
		own := nodeCodec(keys, id, s)
		list = append(list, connected(id, asAgent(id), s, own, logger, func(ctx context.Context, c client.Client) error {
			root := filepath.Join(o.dir, "nodes", id, "root")
			if err := os.MkdirAll(root, 0o700); err != nil {
				return fmt.Errorf("make the node's root: %w", err)
			}
			return node.Run(ctx, node.Options{
				Client:    c,
				Converter: own.Converter(),
				Namespace: s.namespace,
				ID:        id,
				Root:      root,
				StateDir:  filepath.Join(o.dir, "nodes", id, "state"),
				OutputDir: output,
				Outputs:   node.UsualOutputs,
				Tags:      map[string]string{"role": "web", "zone": string(rune('a' + i))},
				Logger:    logger,
			})
		}))
	}
	return list
}

// places are where the nodes of Systems Manager are looked for: in the region
// that simulated instances are in unless a runbook says another. In the real AWS, nowhere.
func places(o options) []action.Target {
	if o.aws == awsSimulated {
		return []action.Target{{Region: "us-east-1"}}
	}
	return nil
}

// The values of --aws.
const (
	awsSimulated = "simulated"
	awsReal      = "real"
)

// cloud is what stands for AWS: the real one as the environment and the profiles
// say, or a simulated one that forgets all when the process ends, in which what
// takes a minute takes a second. Scripts on its instances really run, each
// instance's in a directory.
func cloud(ctx context.Context, o options) (awsapi.Caller, error) {
	switch o.aws {
	case awsReal:
		return awsapi.New(ctx, awsapi.Options{})
	case awsSimulated:
		dir, err := filepath.Abs(filepath.Join(o.dir, "instances"))
		if err != nil {
			return nil, err
		}
		return simcloud.New(simcloud.Options{
			Delays: simcloud.RealDelays().Times(1.0 / 60), Shell: simcloud.RealShell(dir), HostManagement: true,
		}), nil
	}
	return nil, fmt.Errorf("--aws is %s or %s, not %q", awsSimulated, awsReal, o.aws)
}

// connected is a component with a connection of its own, so that the server sees who is who.
func connected(name, who string, s *server, encryption *codec.Codec, logger *slog.Logger, run func(context.Context, client.Client) error) Component {
	return Component{Name: name, Run: func(ctx context.Context) error {
		opts := s.clientOptions(logger)
		if err := s.identify(&opts, who); err != nil {
			return err
		}
		opts.Identity = name + "@almanac-dev"
		opts.DataConverter, opts.FailureConverter = encryption.Converters()
		opts.WorkerHeartbeatInterval = dial.WorkerHeartbeat
		c, err := client.DialContext(ctx, opts)
		if err != nil {
			return fmt.Errorf("connect to %s: %w", s.address, err)
		}
		defer c.Close()
		return run(ctx, c)
	}}
}
