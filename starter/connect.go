package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/log"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/almanac-run/almanac/internal/codec"
	"github.com/almanac-run/almanac/internal/dial"
	"github.com/almanac-run/almanac/internal/runview"
)

// reachIn is how long a server may take to answer the first call.
const reachIn = 3 * time.Second

// uiEnv is the address of the Web UI, if it is not that of a local server.
const uiEnv = "ALMANAC_UI"

// server is the connection to a Temporal server.
type server struct {
	client.Client
	address, namespace string
	codec              *codec.Codec // nil: nothing is encrypted
}

// clientOptions come from Temporal's own profiles and environment, and from flags.
func (a *app) clientOptions() (client.Options, error) {
	opts, err := envconfig.LoadClientOptions(envconfig.LoadClientOptionsRequest{
		ConfigFilePath:    a.configFile,
		ConfigFileProfile: a.profile,
	})
	if err != nil {
		return opts, usagef("Temporal configuration: %w", err)
	}
	if a.address != "" {
		opts.HostPort = a.address
	}
	if a.namespace != "" {
		opts.Namespace = a.namespace
	}
	if opts.HostPort == "" {
		opts.HostPort = client.DefaultHostPort
	}
	if opts.Namespace == "" {
		opts.Namespace = client.DefaultNamespace
	}
	opts.Logger = log.NewStructuredLogger(slog.New(slog.DiscardHandler)) // errors are returned, too
	return opts, nil
}

// dial connects to the server. The caller closes it.
func (a *app) dial(ctx context.Context) (*server, error) {
	opts, err := a.clientOptions()
	if err != nil {
		return nil, err
	}
	encryption, err := a.encryption(ctx, opts.Namespace)
	if err != nil {
		return nil, err
	}
	opts.DataConverter, opts.FailureConverter = encryption.Converters()
	ctx, cancel := context.WithTimeout(ctx, reachIn)
	defer cancel()
	address := opts.HostPort
	if opts, err = dial.Several(opts); err != nil {
		return nil, usagef("%w", err)
	}
	c, err := client.DialContext(ctx, opts)
	if err != nil {
		return nil, a.unreachable(address, err)
	}
	return &server{c, address, opts.Namespace, encryption}, nil
}

func (a *app) unreachable(address string, err error) error {
	const start = "start one with `make dev`, or name another with --address, --profile or TEMPORAL_ADDRESS"
	// A server that wants TLS says nothing to who speaks without it, or without a certificate.
	why, hint := "nothing answers", start+"\nif it wants TLS and certificates, set TEMPORAL_TLS… (docs/cluster.md) or choose a profile"
	switch s := status.Convert(err); {
	case s.Code() == codes.Unauthenticated || s.Code() == codes.PermissionDenied || isPermissionDenied(err):
		why, hint = "it refuses the credentials", "check TEMPORAL_API_KEY, or the certificate of the profile"
	case strings.Contains(err.Error(), "tls:") || strings.Contains(err.Error(), "x509:"):
		why, hint = "the TLS handshake failed: "+lastPart(err), "check the profile's tls settings (TEMPORAL_TLS…)"
	case strings.Contains(err.Error(), "no such host"):
		why, hint = "there is no such host", start
	case strings.Contains(err.Error(), "connection refused"):
		why, hint = "connection refused", start
	}
	return &exitError{exitNoServer, fmt.Errorf("no Temporal server at %s: %s\n%s", address, why, hint)}
}

func isPermissionDenied(err error) bool {
	var denied *serviceerror.PermissionDenied
	return errors.As(err, &denied)
}

func lastPart(err error) string {
	s := err.Error()
	if i := strings.LastIndex(s, "x509:"); i >= 0 {
		return strings.Trim(s[i:], `" `)
	}
	if i := strings.LastIndex(s, "tls:"); i >= 0 {
		return strings.Trim(s[i:], `" `)
	}
	return s
}

// explain turns the answer of the server about an execution into what to do next. What is explained stays as it is.
func (a *app) explain(s *server, id string, err error) error {
	var explained *exitError
	var notFound *serviceerror.NotFound
	var noNamespace *serviceerror.NamespaceNotFound
	switch {
	case err == nil:
		return nil
	case errors.As(err, &explained):
		return err
	case errors.As(err, &noNamespace):
		return &exitError{exitNoServer, fmt.Errorf("there is no namespace %s at %s; name another with --namespace", s.namespace, s.address)}
	case errors.As(err, &notFound):
		if strings.Contains(notFound.Message, "already completed") {
			return fmt.Errorf("execution %s has ended; %s show %s says how", id, a.again(), runview.Quote(id))
		}
		return fmt.Errorf("there is no execution %s in namespace %s; %s list shows them", id, s.namespace, a.again())
	case strings.Contains(err.Error(), "non-printable ASCII"): // of a header that carries the id
		return fmt.Errorf("there is no execution %q: an id is printable ASCII; %s list shows them", id, a.again())
	case isPermissionDenied(err):
		return &exitError{exitFailed, fmt.Errorf("the server does not allow it: %w", err)}
	case isCode(err, codes.Unavailable):
		return &exitError{exitNoServer, fmt.Errorf("lost the server at %s; the execution, if any, goes on: try again", s.address)}
	case silent(err):
		return &exitError{exitNoServer, fmt.Errorf("the server at %s did not answer in time; the execution, if any, goes on", s.address)}
	}
	return err
}

// silent tells whether an error means that the server gave no answer.
func silent(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || isCode(err, codes.DeadlineExceeded) || isCode(err, codes.Unavailable)
}

func isCode(err error, code codes.Code) bool {
	var unavailable *serviceerror.Unavailable
	var deadline *serviceerror.DeadlineExceeded
	return status.Code(err) == code || code == codes.Unavailable && errors.As(err, &unavailable) ||
		code == codes.DeadlineExceeded && errors.As(err, &deadline)
}

// execution names an execution, with its page in the Web UI if that is known.
func (s *server) execution(id string) runview.Execution {
	x := runview.Execution{ID: id}
	ui := strings.TrimSuffix(os.Getenv(uiEnv), "/")
	if ui == "" {
		host, port, err := net.SplitHostPort(s.address)
		ip := net.ParseIP(host)
		if err == nil && port == "7233" && (host == "localhost" || ip != nil && ip.IsLoopback()) {
			ui = "http://127.0.0.1:8233"
		}
	}
	if ui != "" {
		x.URL = ui + "/namespaces/" + pathEscape(s.namespace) + "/workflows/" + pathEscape(id)
	}
	return x
}
