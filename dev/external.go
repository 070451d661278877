//go:build external

package main

import (
	"context"
	"errors"
)

// startEmbedded has no server to start.
func startEmbedded(context.Context, options) (*server, error) {
	return nil, errors.New("this program is built without a server: set TEMPORAL_ADDRESS, put the temporal command on PATH, or build without the tag external")
}
