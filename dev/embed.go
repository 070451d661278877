//go:build !external

package main

import (
	"context"
	"path/filepath"

	embedded "github.com/almanac-run/almanac/dev/server"
	"github.com/almanac-run/almanac/dev/settings"
)

// startEmbedded starts the server that is linked into this program.
func startEmbedded(ctx context.Context, o options) (*server, error) {
	so := embedded.Options{Port: o.port, UIPort: o.uiPort, LogFile: filepath.Join(o.dir, "server.log"), Codec: o.codec}
	if !o.ephemeral {
		so.File = filepath.Join(o.dir, "dev.db")
	}
	s, err := embedded.Start(ctx, so)
	if err != nil {
		return nil, err
	}
	return &server{
		how:       "in this process" + stateOf(o),
		address:   s.Address(),
		namespace: settings.Namespace,
		ui:        s.UIAddress(),
		stop:      s.Stop,
	}, nil
}
