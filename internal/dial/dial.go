// Package dial connects a long-running program to Temporal.
//
// It gives Options and Dial. It promises to find the server as Temporal's own tools do (profiles,
// TEMPORAL_* variables), and to wait for one that is not there yet, saying so.
// It refuses to know what the connection is for.
package dial

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/log"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// WorkerHeartbeat is how often our workers tell the server that they are there:
// so long after its start a node can be missing from the list of nodes, at most.
const WorkerHeartbeat = 10 * time.Second

// reconnect is how often a connection is tried that is not there. A server that is back after a while gives nodes ten
// seconds to take up their work again; the SDK's own default is ten seconds, too.
const reconnect = 3 * time.Second

// Options are the client options of the environment and the profile it names.
func Options(identity string, logger *slog.Logger) (client.Options, error) {
	opts, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return opts, fmt.Errorf("settings of the connection: %w", err)
	}
	if opts, err = Renewed(opts, envconfig.LoadClientConfigProfileOptions{}); err != nil {
		return opts, fmt.Errorf("settings of the connection: %w", err)
	}
	opts.Identity = identity
	opts.WorkerHeartbeatInterval = WorkerHeartbeat
	opts.ConnectionOptions.DialOptions = append(opts.ConnectionOptions.DialOptions, grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: time.Second, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnect},
		MinConnectTimeout: 10 * time.Second,
	}))
	opts.Logger = log.NewStructuredLogger(logger)
	return opts, nil
}

// Dial connects, and tries again until it succeeds or ctx ends.
func Dial(ctx context.Context, opts client.Options, logger *slog.Logger) (client.Client, error) {
	address := opts.HostPort
	if address == "" {
		address = client.DefaultHostPort
	}
	opts, err := Several(opts)
	if err != nil {
		return nil, err
	}
	var said time.Time
	for pause := time.Second; ; pause = min(2*pause, reconnect) {
		attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
		c, err := client.DialContext(attempt, opts)
		cancel()
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if time.Since(said) >= 30*time.Second { // it is tried more often than anybody wants to read
			said = time.Now()
			logger.Warn("no connection to Temporal; trying again", "address", address, "error", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
