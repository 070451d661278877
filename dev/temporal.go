package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	sdklog "go.temporal.io/sdk/log"

	"github.com/almanac-run/almanac/dev/settings"
)

const host = "127.0.0.1"

// server is a Temporal server in use, whoever runs it.
type server struct {
	how          string // what it is, for people
	address      string
	namespace    string
	ui           string // http://host:port, empty if there is none or none is known
	client       client.Options
	certificates string // options.certificates
	stop         func() error
	ended        <-chan struct{} // closed when it ends by itself; nil if nobody can tell
}

func (s *server) clientOptions(logger *slog.Logger) client.Options {
	o := s.client
	o.HostPort, o.Namespace, o.Logger = s.address, s.namespace, sdklog.NewStructuredLogger(logger)
	return o
}

// executionURL is where the Web UI shows an execution; empty without Web UI.
func (s *server) executionURL(id string) string {
	if s.ui == "" {
		return ""
	}
	return s.ui + "/namespaces/" + s.namespace + "/workflows/" + id
}

// startServer finds or starts a server and waits until it answers.
func startServer(ctx context.Context, o options) (*server, error) {
	if o.certificates != "" {
		if _, err := exec.LookPath("temporal"); err == nil || o.address != "" {
			return nil, errors.New("--certificates is for the server that is linked into this program: unset TEMPORAL_ADDRESS, and take temporal off PATH")
		}
	}
	if o.address != "" {
		return useServer()
	}
	if err := portsFree(o); err != nil {
		return nil, err
	}
	if path, err := exec.LookPath("temporal"); err == nil {
		return startCommand(ctx, o, path)
	}
	return startEmbedded(ctx, o)
}

// useServer takes address, namespace, TLS and key from the environment or from the temporal command's profile.
func useServer() (*server, error) {
	c, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return nil, fmt.Errorf("read temporal profile: %w", err)
	}
	s := &server{how: "already running", address: c.HostPort, namespace: c.Namespace, client: c, stop: func() error { return nil }}
	if s.namespace == "" {
		s.namespace = settings.Namespace
	}
	return s, nil
}

// startCommand runs `temporal server start-dev`. Its database is not the embedded server's: the two may be of
// different versions.
func startCommand(ctx context.Context, o options, path string) (*server, error) {
	logPath := filepath.Join(o.dir, "server.log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	child := newChild(exec.Command(path, commandArgs(o)...))
	child.cmd.Stdout, child.cmd.Stderr = log, log
	if err := child.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start temporal server: %w", err), log.Close())
	}
	s := &server{
		how:       "run by " + path + stateOf(o),
		address:   hostPort(o.port),
		namespace: settings.Namespace,
		ui:        uiAddress(o.uiPort),
		stop:      func() error { child.stop(); return log.Close() },
		ended:     child.done,
	}
	if err := waitForServer(ctx, s, child); err != nil {
		return nil, errors.Join(fmt.Errorf("temporal server (see %s): %w", logPath, err), s.stop())
	}
	return s, nil
}

func commandArgs(o options) []string {
	args := []string{"server", "start-dev", "--ip", host, "--port", strconv.Itoa(o.port), "--log-level", "error"}
	if o.uiPort == 0 {
		args = append(args, "--headless")
	} else {
		args = append(args, "--ui-ip", host, "--ui-port", strconv.Itoa(o.uiPort))
		if o.codec != "" {
			args = append(args, "--ui-codec-endpoint", o.codec)
		}
	}
	if !o.ephemeral {
		args = append(args, "--db-filename", filepath.Join(o.dir, "temporal.db"))
		for _, name := range sortedKeys(settings.Pragmas) {
			args = append(args, "--sqlite-pragma", name+"="+settings.Pragmas[name])
		}
	}
	for _, name := range sortedKeys(settings.SearchAttributes) {
		args = append(args, "--search-attribute", name+"="+settings.SearchAttributes[name].String())
	}
	for _, value := range settings.DynamicFlags() {
		args = append(args, "--dynamic-config-value", value)
	}
	return args
}

// waitForServer waits until the server and its Web UI answer, or its process ends.
func waitForServer(ctx context.Context, s *server, process *child) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c, err := client.NewLazyClient(s.clientOptions(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		_, err := c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: s.namespace})
		if err == nil {
			err = reachable(ctx, s.ui)
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-process.done:
			return fmt.Errorf("ended at once: %v", process.err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// reachable says whether a web page answers, whatever it answers. No page is reachable.
func reachable(ctx context.Context, url string) error {
	if url == "" {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// portsFree says who holds a port and what to do about it.
func portsFree(o options) error {
	if holder, taken := portTaken(o.port); taken {
		return fmt.Errorf("port %d is used by %s: stop it, use it (TEMPORAL_ADDRESS=%s), or choose another with --port", o.port, holder, hostPort(o.port))
	}
	if o.uiPort == 0 {
		return nil
	}
	if holder, taken := portTaken(o.uiPort); taken {
		return fmt.Errorf("port %d is used by %s: stop it, or choose another with --ui-port (0 for no Web UI)", o.uiPort, holder)
	}
	return nil
}

func portTaken(port int) (holder string, taken bool) {
	l, err := net.Listen("tcp", hostPort(port))
	if err == nil {
		l.Close()
		return "", false
	}
	if holder = portHolder(port); holder == "" {
		holder = "another process"
	}
	return holder, true
}

func stateOf(o options) string {
	if o.ephemeral {
		return ", in memory"
	}
	return ""
}

func uiAddress(port int) string {
	if port == 0 {
		return ""
	}
	return "http://" + hostPort(port)
}

func hostPort(port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// openLog opens a log for the components' warnings and errors.
func openLog(name string) (*slog.Logger, func() error, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open log: %w", err)
	}
	return slog.New(slog.NewJSONHandler(f, &slog.HandlerOptions{Level: slog.LevelWarn})), f.Close, nil
}
