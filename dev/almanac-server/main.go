// Command almanac-server is one process of a Temporal server for Almanac: all its services, on PostgreSQL, with TLS between all
// that talk to each other and the authorizer of package authorizer before clients. Run two or more, on machines of
// their own; they share the work, and any of them may die. docker-compose.yml runs it, and dev/e2e/cluster proves it.
//
// It has no Web UI and sends nothing anywhere. docs/cluster.md says how to run it.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"go.temporal.io/server/common/config"

	"github.com/almanac-run/almanac/dev/server"
)

const usage = `Usage: almanac-server COMMAND [flags]

  schema   make the databases, or bring their tables up to this version; once, before the first member of a version starts
  serve    be a member of the cluster, until SIGTERM
  health   exit with 0 if the member at --address serves

Flags:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // who asks twice is in a hurry: the second signal ends the process
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "almanac-server:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	m := server.Member{Log: os.Stderr}
	// A refusal is for the log, too: it is how an intruder or a wrong certificate is seen. What he sent may be long.
	m.Denied = func(who, method, why string) { fmt.Fprintf(os.Stderr, "denied: %s, %s: %.1000s\n", who, method, why) }
	f := flag.NewFlagSet("almanac-server", flag.ContinueOnError)
	f.StringVar(&m.Database, "database", cmp.Or(os.Getenv("ALMANAC_DATABASE"), "postgres://temporal@postgresql:5432"),
		"PostgreSQL (ALMANAC_DATABASE); a password in PGPASSWORD; with an sslmode, its certificates are not those of --certificates")
	f.StringVar(&m.Certificates, "certificates", cmp.Or(os.Getenv("ALMANAC_CERTIFICATES"), "certificates/server"),
		"directory that deploy/certificates.sh made for servers (ALMANAC_CERTIFICATES)")
	f.StringVar(&m.Address, "address", os.Getenv("ALMANAC_ADDRESS"), "IP address of this machine for members and clients (ALMANAC_ADDRESS; default: of its first network)")
	f.IntVar(&m.Port, "port", 7233, "port for clients; members use the ports up to 10 above it, and up to 300 below, among themselves")
	shards := f.Int("shards", 16, "parts of the history that members share out; counts at the very first start only")
	f.DurationVar(&m.Retention, "retention", 30*24*time.Hour, "how long ended executions stay visible; counts when the namespace is made")
	f.Usage = func() {
		fmt.Fprint(f.Output(), usage)
		f.PrintDefaults()
	}
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		f.Usage()
		return errors.New("which command?")
	}
	switch err := f.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return err
	case f.NArg() > 0:
		return fmt.Errorf("%s takes no argument, got %q", args[0], f.Args())
	}
	if m.Shards = int32(*shards); *shards < 1 || *shards > 16384 {
		return fmt.Errorf("--shards %d: want 1 to 16384", *shards)
	}
	if m.Address == "" {
		ip, err := config.ListenIP()
		if err != nil {
			return fmt.Errorf("no address of this machine found, name one with --address: %w", err)
		}
		m.Address = ip.String()
	}
	switch args[0] {
	case "schema":
		return server.MakeSchema(ctx, m)
	case "serve":
		return serve(ctx, m)
	case "health":
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return m.Healthy(ctx)
	}
	return fmt.Errorf("there is no command %q: schema, serve, health", args[0])
}

func serve(ctx context.Context, m server.Member) error {
	s, err := server.StartMember(ctx, m)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "almanac-server: serving at %s\n", s.Address())
	<-ctx.Done()
	return s.Stop()
}
