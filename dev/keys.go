package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/almanac-run/almanac/dev/settings"
	"github.com/almanac-run/almanac/internal/codec"
	"github.com/almanac-run/almanac/internal/codecserver"
)

// keyFile is where an installation has its key: that of the environment, else one of its own.
func keyFile(o options) string {
	if file := os.Getenv(codec.EnvFile); file != "" {
		return file
	}
	return filepath.Join(o.dir, "keys")
}

// openKeys makes the installation's key if there is none, and reads it; nil if nothing is to be encrypted.
func openKeys(ctx context.Context, o options) (*codec.Keyring, error) {
	if o.insecure {
		return nil, nil
	}
	if os.Getenv(codec.EnvKeys) == "" && os.Getenv(codec.EnvFile) == "" {
		if err := codec.MakeFile(keyFile(o)); err != nil {
			return nil, err
		}
	}
	return codec.OpenKeys(ctx, codec.Settings{DefaultFile: keyFile(o)})
}

// controlCodec encrypts for the worker; nil if nothing is to be encrypted.
func controlCodec(keys *codec.Keyring, s *server) *codec.Codec {
	if keys == nil {
		return nil
	}
	return codec.New(keys, codec.Options{Namespace: s.namespace})
}

// nodeCodec encrypts for a node, as it would with the key that `worker node-key` gives it.
func nodeCodec(keys *codec.Keyring, id string, s *server) *codec.Codec {
	if keys == nil {
		return nil
	}
	return codec.NewNode(keys, id, codec.Options{Namespace: s.namespace})
}

// variable is one of the environment, and the value that it need not be given.
type variable struct{ name, value, usual string }

// encryptionFor is the variable that the command line program needs to read what is encrypted here.
func encryptionFor(o options) variable {
	if o.insecure {
		return variable{codec.EnvInsecure, "1", ""}
	}
	if os.Getenv(codec.EnvKeys) != "" {
		return variable{} // which every program reads
	}
	return variable{codec.EnvFile, keyFile(o), codec.DefaultFile}
}

// decrypting serves the Web UI of a server that is started here, until ctx ends, and returns the URL; empty if there
// is nothing to serve. The Web UI has no login here that it could pass on: what it has to know is in the URL, which
// whoever can open the Web UI can see. That is everybody on this machine, as it is for the server itself.
func decrypting(ctx context.Context, o options, keys *codec.Keyring) (string, error) {
	if keys == nil || o.uiPort == 0 || o.address != "" {
		return "", nil
	}
	token := rand.Text()
	who, err := codecserver.Tokens("web-ui " + token)
	if err != nil {
		return "", err
	}
	h, err := codecserver.Handler(codecserver.Options{
		Codec:   codec.New(keys, codec.Options{Namespace: settings.Namespace}),
		Origins: []string{uiAddress(o.uiPort), fmt.Sprintf("http://localhost:%d", o.uiPort)},
		Who:     []codecserver.Who{who},
	})
	if err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", hostPort(0))
	if err != nil {
		return "", fmt.Errorf("decrypt for the web ui: %w", err)
	}
	path := "/" + rand.Text()
	known := http.StripPrefix(path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Authorization", "Bearer "+token)
		h.ServeHTTP(w, r)
	}))
	go func() { _ = codecserver.Serve(ctx, l, known, "", "") }() // it ends with ctx
	return "http://" + l.Addr().String() + path, nil
}
