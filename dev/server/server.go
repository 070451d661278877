// Package server runs a Temporal server with its Web UI inside this process, on SQLite: a file that outlives the
// process, or memory. It listens on the loopback interface only, sends nothing anywhere, prints nothing, and is set up
// as package settings says. Several servers can run in one process, each on a file of its own.
//
// It is for development and tests. Without Options.Authorization it has no authentication and no TLS. It has one history
// shard, and it does not know what an Almanac runbook is.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	uiserver "github.com/temporalio/ui-server/v2/server"
	uiconfig "github.com/temporalio/ui-server/v2/server/config"
	uioptions "github.com/temporalio/ui-server/v2/server/server_options"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/server/temporal"
	"go.uber.org/zap/zapcore"

	"github.com/almanac-run/almanac/dev/settings"
)

const host = "127.0.0.1"

// FreePort as Options.UIPort asks for any free port.
const FreePort = -1

// Options say where a server keeps its state and where it listens. The zero value is a server in memory, on a free
// port, without Web UI and without log.
type Options struct {
	File    string         // SQLite database, made if missing; memory if empty
	Port    int            // gRPC port; any free one if 0
	UIPort  int            // Web UI's port; no Web UI if 0, any free port if FreePort
	LogFile string         // file that gets the server's warnings and errors, appended; nowhere if empty
	Debug   bool           // LogFile gets all that the server has to say
	Dynamic map[string]any // dynamic configuration beyond settings.Dynamic, which it overrides
	Codec   string         // URL of the codec server that the Web UI asks to decrypt payloads; empty: none

	Authorization *Authorization // who may do what; nil: everybody everything, without TLS
}

// Server is a running server.
type Server struct {
	address, uiAddress string
	log                *logFile
	lock               io.Closer // nil in memory
	temporal           temporal.Server
	ui                 *uiserver.Server
	guard              *guard // nil without authorization
	ports              ports
}

// Start starts a server and returns when it answers: the namespace and the search attributes are there, and so is the
// Web UI. ctx bounds the start alone. A file that another process uses and a port that is taken are errors.
func Start(ctx context.Context, o Options) (_ *Server, err error) {
	s := &Server{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
		}
	}()
	if s.log, err = openLog(o.LogFile); err != nil {
		return nil, err
	}
	if o.File != "" {
		if s.lock, err = lockFile(o.File + ".lock"); err != nil {
			return nil, err
		}
		if err := makeSchema(ctx, o.File); err != nil {
			return nil, err
		}
	}
	if s.guard, err = newGuard(o, settings.Namespace); err != nil {
		return nil, err
	}
	p, err := choosePorts(o)
	if err != nil {
		return nil, err
	}
	s.ports, s.address = p, hostPort(p.frontend)
	level := zapcore.WarnLevel
	if o.Debug {
		level = zapcore.DebugLevel
	}
	options, err := serverOptions(o, p, s.guard, newLoggerAt(s.log, level))
	if err != nil {
		return nil, err
	}
	if s.temporal, err = startTemporal(options); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	if p.ui != 0 {
		if err := s.startUI(ctx, p.ui, o.Codec); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Address is where clients connect to, as host:port.
func (s *Server) Address() string { return s.address }

// UIAddress is the Web UI's address, as http://host:port; empty if there is none.
func (s *Server) UIAddress() string { return s.uiAddress }

// Stop ends the server. Executions in a file are kept. Calls that wait for work are cut off. The log ends first: parts
// of the server complain of each other's end.
func (s *Server) Stop() error {
	var errs []error
	if s.log != nil {
		errs = append(errs, s.log.Close())
	}
	if s.ui != nil {
		s.ui.Stop()
	}
	if s.temporal != nil {
		errs = append(errs, s.temporal.Stop())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	s.log, s.ui, s.temporal, s.lock = nil, nil, nil, nil
	return errors.Join(errs...)
}

// startTemporal turns the server's way of giving up while it is built, a fatal log entry, into an error.
func startTemporal(options []temporal.ServerOption) (_ temporal.Server, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("start temporal server: %v", r)
		}
	}()
	t, err := temporal.NewServer(options...)
	if err != nil {
		return nil, fmt.Errorf("build temporal server: %w", err)
	}
	if err := t.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start temporal server: %w", err), t.Stop())
	}
	return t, nil
}

// prepare waits for the server to answer and adds what an older file lacks.
func (s *Server) prepare(ctx context.Context) error {
	options := client.Options{HostPort: s.address, Namespace: settings.Namespace, Logger: silent{}}
	if s.guard != nil {
		options.HostPort, options.ConnectionOptions.TLS = hostPort(s.ports.internal), s.guard.client
	}
	c, err := client.NewLazyClient(options)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer c.Close()
	err = poll(ctx, func() error {
		_, err := c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: settings.Namespace})
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for the server: %w", err)
	}
	return poll(ctx, func() error { return settings.AddSearchAttributes(ctx, c, settings.Namespace) })
}

func (s *Server) startUI(ctx context.Context, port int, codec string) error {
	s.ui = uiserver.NewServer(uioptions.WithConfigProvider(&uiconfig.Config{
		TemporalGRPCAddress: s.address,
		Host:                host,
		Port:                port,
		EnableUI:            true,
		DefaultNamespace:    settings.Namespace,
		DisableNewsFetch:    true,
		Codec:               uiconfig.Codec{Endpoint: codec},
		HideLogs:            true,
		CORS:                uiconfig.CORS{CookieInsecure: true}, // plain HTTP, on this machine only
	}))
	go func() { _ = s.ui.Start() }() // it ends with Stop; the port was seen to be free
	s.uiAddress = "http://" + hostPort(port)
	err := poll(ctx, func() error {
		resp, err := http.Get(s.uiAddress + "/healthz")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	if err != nil {
		return fmt.Errorf("wait for the web ui: %w", err)
	}
	return nil
}

// poll repeats f until it succeeds, ctx ends or 30 seconds have passed.
func poll(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// silent is the SDK's logger for the moment of the start.
type silent struct{}

var _ sdklog.Logger = silent{}

func (silent) Debug(string, ...any) {}
func (silent) Info(string, ...any)  {}
func (silent) Warn(string, ...any)  {}
func (silent) Error(string, ...any) {}

// ports are where the parts of one server listen.
type ports struct {
	frontend, http, history, matching, worker, ui int
	internal                                      int // the frontend for the server's own parts; 0 without authorization
}

func choosePorts(o Options) (p ports, err error) {
	if p.frontend, err = ReservePort(o.Port); err != nil {
		return p, err
	}
	if o.UIPort != 0 {
		if p.ui, err = ReservePort(max(o.UIPort, 0)); err != nil {
			return p, fmt.Errorf("web ui: %w", err)
		}
	}
	free := []*int{&p.http, &p.history, &p.matching, &p.worker}
	if o.Authorization != nil {
		free = append(free, &p.internal)
	}
	for _, port := range free {
		if *port, err = ReservePort(0); err != nil {
			return p, err
		}
	}
	return p, nil
}

// ReservePort checks that a port of the loopback interface is free, or finds one that is if port is 0, and keeps it
// free for about a minute. A connection that the listening side closes first leaves the port in TIME_WAIT: the kernel
// gives it to nobody who asks for any port, and yet it can be bound by its number.
func ReservePort(port int) (int, error) {
	l, err := net.Listen("tcp", hostPort(port))
	if err != nil {
		if port != 0 {
			return 0, fmt.Errorf("port %d is taken: %w", port, err)
		}
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return 0, fmt.Errorf("reserve a port: %w", err)
	}
	defer dialed.Close()
	accepted, err := l.Accept()
	if err != nil {
		return 0, fmt.Errorf("reserve a port: %w", err)
	}
	accepted.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// logFile is where the server's log goes. Parts of the server outlive its Stop for some seconds; what they then have
// to say is dropped.
type logFile struct {
	mu   sync.Mutex
	file *os.File // nil if there is none, and after Close
}

func openLog(name string) (*logFile, error) {
	if name == "" {
		return &logFile{}, nil
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return &logFile{file: f}, nil
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return len(p), nil
	}
	return l.file.Write(p)
}

func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	f := l.file
	l.file = nil
	return f.Close()
}
