// Command dev is everything Almanac needs on one machine, in one process: a Temporal server with its Web UI, the
// control worker and three nodes. It promises that nothing listens beyond the loopback interface, that executions
// outlive it (unless --ephemeral), and that Ctrl-C ends all it started, except a command that a step runs on a node: as
// when an agent is restarted, that goes on, and the next start finds it again. It refuses to know what a runbook does:
// the demonstration is the command line program `starter`, run as a person would run it.
//
// Which server it uses: the one at TEMPORAL_ADDRESS, if that is set; else one started by the `temporal` command, if
// that is on PATH; else the one linked into this program. A build with the tag `external` links none, and takes
// seconds where the other takes minutes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"github.com/almanac-run/almanac/dev/settings"
	"github.com/almanac-run/almanac/internal/codec"
	"github.com/almanac-run/almanac/internal/node"
)

// options are the command line and the environment.
type options struct {
	ephemeral    bool
	dir          string // state, logs and the nodes' directories
	port         int
	uiPort       int // 0 for no Web UI
	demo         bool
	demoExit     bool   // end with the demonstration, with its exit code
	starter      string // path of the command line program
	address      string // of a server that runs already
	aws          string // awsSimulated or awsReal
	insecure     bool   // encrypt nothing
	certificates string // directory that deploy/certificates.sh made; empty: the server asks nobody who he is
	codec        string // URL at which the Web UI has payloads decrypted; empty if nothing is encrypted
	out          io.Writer
	table        bool // out is a terminal, on which starter redraws a table
}

func main() {
	node.ExecMain() // a command on a node is run by a copy of this program
	var o options
	flag.BoolVar(&o.ephemeral, "ephemeral", false, "keep executions in memory only")
	flag.StringVar(&o.dir, "dir", ".almanac", "directory of the database, the logs and the nodes")
	flag.IntVar(&o.port, "port", 7233, "port of the Temporal server")
	flag.IntVar(&o.uiPort, "ui-port", 8233, "port of the Web UI; 0 for none")
	flag.BoolVar(&o.demo, "demo", false, "run the demonstration when all is ready")
	flag.StringVar(&o.starter, "starter", "bin/starter", "command line program that the demonstration runs")
	flag.StringVar(&o.aws, "aws", awsSimulated, "what aws.* actions call: a simulated cloud, or the real one")
	flag.StringVar(&o.certificates, "certificates", "", "`directory` that sh deploy/certificates.sh trial made: connections need a certificate, and may do what its role may; needs --ui-port 0")
	flag.BoolVar(&o.insecure, "insecure", false, "encrypt nothing (ALMANAC_INSECURE=1)")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "Usage: almanac-dev [flags]\n\nRuns a Temporal server, its Web UI, a worker and three nodes until Ctrl-C.\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "almanac-dev takes no argument, got %q\n", flag.Args())
		os.Exit(2)
	}
	o.insecure = o.insecure || os.Getenv(codec.EnvInsecure) == "1"
	o.demoExit = os.Getenv("DEMO_EXIT") == "1"
	o.address = os.Getenv("TEMPORAL_ADDRESS")
	o.out = os.Stdout
	if info, err := os.Stdout.Stat(); err == nil {
		o.table = info.Mode()&os.ModeCharDevice != 0
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, func() {
		stop() // a second Ctrl-C ends the process at once
		fmt.Fprintln(os.Stderr, "\nStopping.")
	})
	code, err := run(ctx, o)
	if err != nil {
		fmt.Fprintf(os.Stderr, "almanac-dev: %v\n", err)
	}
	os.Exit(code)
}

// run starts everything in order, waits for the end of ctx, a failure or the demonstration, and stops everything in
// reverse. The code is the process's: that of the demonstration if it ends the process, else 1 with an error.
func run(ctx context.Context, o options) (code int, err error) {
	if err := checkCertificates(o); err != nil {
		return 1, err
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return 1, fmt.Errorf("make directory: %w", err)
	}
	aws, err := cloud(ctx, o)
	if err != nil {
		return 1, err
	}
	keys, err := openKeys(ctx, o)
	if err != nil {
		return 1, err
	}
	if o.codec, err = decrypting(ctx, o, keys); err != nil {
		return 1, err
	}
	server, err := startServer(ctx, o)
	if err != nil {
		return 1, ended(ctx, err)
	}
	defer func() {
		if e := server.stop(); e != nil && err == nil {
			code, err = 1, e
		}
	}()
	logger, closeLog, err := openLog(filepath.Join(o.dir, "dev.log"))
	if err != nil {
		return 1, err
	}
	defer closeLog()
	opts := server.clientOptions(logger)
	if err := server.identify(&opts, asAdmin); err != nil {
		return 1, err
	}
	c, err := client.DialContext(ctx, opts)
	if err != nil {
		return 1, ended(ctx, fmt.Errorf("connect to %s: %w", server.address, err))
	}
	err = settings.AddSearchAttributes(ctx, c, server.namespace)
	c.Close()
	if err != nil {
		return 1, ended(ctx, err)
	}

	group, groupCtx := errgroup.WithContext(ctx)
	names := []string{}
	for _, component := range components(o, server, keys, aws, logger) {
		names = append(names, component.Name)
		group.Go(func() error {
			err := component.Run(groupCtx)
			if groupCtx.Err() != nil {
				return nil // it was told to stop
			}
			if err == nil {
				err = errors.New("ended by itself")
			}
			return fmt.Errorf("%s: %w", component.Name, err)
		})
	}
	group.Go(func() error {
		select {
		case <-groupCtx.Done():
			return nil
		case <-server.ended:
			return errors.New("the temporal server ended by itself")
		}
	})
	announce(o, server, names)
	if o.demo {
		code, err = demo(groupCtx, o, server)
		switch {
		case err != nil:
			group.Go(func() error { return err })
		case o.demoExit:
			if code == rolledBack {
				fmt.Fprintf(o.out, "\nBoth failed and were rolled back, which is what they show: the exit code is %d, and make calls that an error.\n", code)
			}
			group.Go(func() error { return errDone })
		default:
			fmt.Fprintf(o.out, "\nEverything stays up until Ctrl-C. In another terminal: %s%s list\n", settingsFor(o, server), o.starter)
		}
	}
	switch err := group.Wait(); {
	case errors.Is(err, errDone):
		return code, nil
	case err != nil:
		return 1, ended(ctx, err)
	}
	return 0, nil
}

// errDone ends the process because the demonstration is over.
var errDone = errors.New("done")

// ended drops an error that is only the consequence of Ctrl-C.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// settingsFor are the variables that the command line program needs to find what runs here, as a shell takes them
// before a command: those that differ from what it would take by itself.
func settingsFor(o options, s *server) string {
	text := ""
	for _, v := range append([]variable{
		{"TEMPORAL_ADDRESS", s.address, "127.0.0.1:7233"},
		{"TEMPORAL_NAMESPACE", s.namespace, "default"},
		{"ALMANAC_UI", s.ui, "http://127.0.0.1:8233"},
		{"ALMANAC_OUTPUT_DIR", filepath.Join(o.dir, "output"), filepath.Join(".almanac", "output")},
		encryptionFor(o),
	}, certificateFor(s)...) {
		if v.value != "" && v.value != v.usual && v.value != os.Getenv(v.name) {
			text += v.name + "=" + v.value + " "
		}
	}
	return text
}

func announce(o options, s *server, components []string) {
	fmt.Fprintf(o.out, "Temporal   %s, %s\n", s.address, s.how)
	if s.ui != "" {
		fmt.Fprintf(o.out, "Web UI     %s\n", s.ui)
	}
	if len(components) > 0 {
		fmt.Fprintf(o.out, "Running    %s\n", strings.Join(components, ", "))
	}
	fmt.Fprintf(o.out, "AWS        %s\n", o.aws)
	fmt.Fprintf(o.out, "Files      %s\n", o.dir)
	if o.certificates != "" {
		fmt.Fprintf(o.out, "Callers    are who the certificates of %s say\n", o.certificates)
	}
	if o.insecure {
		fmt.Fprintf(o.out, "Encrypted  nothing (--insecure)\n")
	}
	if !o.demo {
		fmt.Fprintf(o.out, "\nIn another terminal: %s%s run demo/tour\nCtrl-C stops everything.\n", settingsFor(o, s), o.starter)
	}
}
