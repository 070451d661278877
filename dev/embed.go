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
	if o.certificates != "" {
		file := func(name string) string { return filepath.Join(o.certificates, asServer, name) }
		so.Authorization = &embedded.Authorization{Cert: file("tls.crt"), Key: file("tls.key"), ClientCA: file("ca.crt")}
	}
	s, err := embedded.Start(ctx, so)
	if err != nil {
		return nil, err
	}
	return &server{
		how:          "in this process" + stateOf(o),
		address:      s.Address(),
		namespace:    settings.Namespace,
		ui:           s.UIAddress(),
		certificates: o.certificates,
		stop:         s.Stop,
	}, nil
}
