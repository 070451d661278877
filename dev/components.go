package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"go.temporal.io/sdk/client"

	"github.com/almanac-run/almanac/internal/control"
	"github.com/almanac-run/almanac/internal/dial"
	"github.com/almanac-run/almanac/internal/node"
)

// Component is a part that runs until its context ends. One that ends by itself, well or badly, ends the process.
type Component struct {
	Name string
	Run  func(ctx context.Context) error
}

// components is the one place that says what runs beside the server: the control worker, and three nodes with a
// directory each that stands for the machine. They share the directory of complete outputs.
func components(o options, s *server, logger *slog.Logger) []Component {
	output := filepath.Join(o.dir, "output")
	list := []Component{
		connected("worker", s, logger, func(ctx context.Context, c client.Client) error {
			return control.Run(ctx, control.Options{Client: c, Namespace: s.namespace, Logger: logger})
		}),
	}
	for i, id := range []string{"web-1", "web-2", "web-3"} {
		list = append(list, connected(id, s, logger, func(ctx context.Context, c client.Client) error {
			root := filepath.Join(o.dir, "nodes", id, "root")
			if err := os.MkdirAll(root, 0o700); err != nil {
				return fmt.Errorf("make the node's root: %w", err)
			}
			return node.Run(ctx, node.Options{
				Client:    c,
				ID:        id,
				Root:      root,
				StateDir:  filepath.Join(o.dir, "nodes", id, "state"),
				OutputDir: output,
				Tags:      map[string]string{"role": "web", "zone": string(rune('a' + i))},
				Logger:    logger,
			})
		}))
	}
	return list
}

// connected is a component with a connection of its own, so that the server sees who is who.
func connected(name string, s *server, logger *slog.Logger, run func(context.Context, client.Client) error) Component {
	return Component{Name: name, Run: func(ctx context.Context) error {
		opts := s.clientOptions(logger)
		opts.Identity = name + "@almanac-dev"
		opts.WorkerHeartbeatInterval = dial.WorkerHeartbeat
		c, err := client.DialContext(ctx, opts)
		if err != nil {
			return fmt.Errorf("connect to %s: %w", s.address, err)
		}
		defer c.Close()
		return run(ctx, c)
	}}
}
