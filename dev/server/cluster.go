package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/iancoleman/strcase"
	"github.com/jmoiron/sqlx"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/persistence/sql/sqlplugin/postgresql"
	"go.temporal.io/server/common/persistence/sql/sqlplugin/postgresql/driver"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/temporal"
	"go.temporal.io/server/tools/common/schema"
	sqltool "go.temporal.io/server/tools/sql"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/almanac-run/almanac/dev/authorizer"
	"github.com/almanac-run/almanac/dev/settings"
)

// Member is one of the server processes of a cluster: all its services are in the process, its state is in PostgreSQL,
// and it finds the other members through the database and by gossip. Every connection, to clients, members and database,
// is TLS with certificates of both sides, and the authorizer decides about each call of a client.
type Member struct {
	// Database is postgres://USER@HOST:PORT of the databases temporal and temporal_visibility, which MakeSchema makes.
	// Without an sslmode in it, the files of Certificates are used, and PostgreSQL's name is checked.
	Database string

	// Certificates is a directory as deploy/certificates.sh makes it for servers. Files that change are read again
	// within the hour, those of the database with each new connection; one of them lasts for an hour at most.
	Certificates string

	Address   string        // IP address of this member, at which the others and clients reach it
	Port      int           // of the frontend; the other services have the ports after it, and 300 less for gossip
	Shards    int32         // parts of the history, which members share out; never changes after the first start
	Retention time.Duration // of ended executions, when the namespace is made
	Log       io.Writer     // gets warnings and errors as JSON

	authorizer.Options // Namespace and SealKey are set here
}

// The databases.
const (
	mainDatabase       = "temporal"
	visibilityDatabase = "temporal_visibility"
	inventoryDatabase  = "almanac" // the control workers', which have a role of this name
)

// The files of Member.Certificates, as pairs without .crt and .key.
const (
	frontPair, frontCA       = "tls", "ca.crt"
	insidePair, insideCA     = "inside", "inside-ca.crt"
	databasePair, databaseCA = "database", "database-ca.crt"
	sealFile                 = "seal.key"
)

func (m Member) file(name string) string { return filepath.Join(m.Certificates, name) }

func (m Member) hostPort(offset int) string {
	return net.JoinHostPort(m.Address, strconv.Itoa(m.Port+offset))
}

// The services, by how far their port is from the frontend's: those that Temporal has by default.
var offsets = map[primitives.ServiceName]int{
	primitives.FrontendService: 0, primitives.HistoryService: 1, primitives.MatchingService: 2,
	primitives.InternalFrontendService: 3, primitives.WorkerService: 6,
}

const (
	httpOffset   = 10
	gossipOffset = -300
)

// clusterDynamic is what a cluster has beyond settings.Dynamic.
var clusterDynamic = map[string]any{
	"system.enableRingpopTLS":            true,
	"history.longPollExpirationInterval": "20s", // who waits for an end asks less often
	"frontend.keepAliveMinTime":          "5s",  // agents look every ten seconds whether their connection lives
}

// StartMember starts a member, and returns when the namespace and the search attributes are there. ctx bounds the start.
// A database that cannot be reached or has no tables of this version is an error.
func StartMember(ctx context.Context, m Member) (_ *Server, err error) {
	logger := newLogger(m.Log)
	s := &Server{log: &logFile{}, address: m.hostPort(0)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
		}
	}()
	m.Namespace = settings.Namespace
	if m.SealKey, err = os.ReadFile(m.file(sealFile)); err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	if n := len(m.SealKey); n < 32 { // with none, each member would make up its own, and refuse what agents of the others report
		return nil, fmt.Errorf("certificates: %s has %d bytes, want 32: copy it from where the certificates were made", m.file(sealFile), n)
	}
	a := Authorization{Options: m.Options, Cert: m.file(frontPair + ".crt"), Key: m.file(frontPair + ".key"), ClientCA: m.file(frontCA)}
	if s.guard, err = frontGuard(a); err != nil {
		return nil, err
	}
	if s.guard.client, err = m.insideClient(); err != nil {
		return nil, err
	}
	s.guard.internode = config.GroupTLS{
		Server: config.ServerTLS{
			CertFile: m.file(insidePair + ".crt"), KeyFile: m.file(insidePair + ".key"),
			ClientCAFiles: []string{m.file(insideCA)}, RequireClientAuth: true,
		},
		Client: config.ClientTLS{ServerName: insides, RootCAFiles: []string{m.file(insideCA)}},
	}
	cfg, err := m.config()
	if err != nil {
		return nil, err
	}
	if err := reach(cfg.Persistence.DataStores[mainDatabase].SQL); err != nil {
		return nil, err
	}
	cfg.Global.TLS.RefreshInterval = time.Hour
	access, err := s.guard.options(cfg, logger)
	if err != nil {
		return nil, err
	}
	dynamic := dynamicconfig.StaticClient{}
	for _, values := range []map[string]any{settings.Dynamic, authorizer.Dynamic, clusterDynamic} {
		for k, v := range values {
			dynamic[dynamicconfig.MakeKey(k)] = v
		}
	}
	options := append([]temporal.ServerOption{
		temporal.WithConfig(cfg),
		temporal.ForServices(slices.Concat(temporal.DefaultServices, []string{string(primitives.InternalFrontendService)})),
		temporal.WithLogger(logger),
		temporal.WithDynamicConfigClient(dynamic),
	}, access...)
	// Members that start at the same moment on an empty database all want to write down what it is, and one is the first.
	for try := 1; ; try++ {
		if s.temporal, err = startTemporal(options); err == nil {
			break
		}
		if try == 3 || ctx.Err() != nil {
			return nil, err
		}
		time.Sleep(time.Second)
	}
	return s, m.prepare(ctx, s.guard.client)
}

// prepare makes the namespace, if no other member has.
func (m Member) prepare(ctx context.Context, inside *tls.Config) error {
	options := client.Options{HostPort: m.hostPort(offsets[primitives.InternalFrontendService]), Namespace: m.Namespace, Logger: silent{}}
	options.ConnectionOptions.TLS = inside
	c, err := client.NewLazyClient(options)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer c.Close()
	err = poll(ctx, func() error {
		_, err := c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: m.Namespace})
		var none *serviceerror.NamespaceNotFound
		if !errors.As(err, &none) {
			return err
		}
		_, err = c.WorkflowService().RegisterNamespace(ctx, &workflowservice.RegisterNamespaceRequest{
			Namespace: m.Namespace, WorkflowExecutionRetentionPeriod: durationpb.New(m.Retention),
		})
		return errors.Join(errors.New("the namespace is being made"), err)
	})
	if err != nil {
		return fmt.Errorf("wait for the server: %w", err)
	}
	return poll(ctx, func() error { return settings.AddSearchAttributes(ctx, c, m.Namespace) })
}

func (m Member) insideClient() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(m.file(insidePair+".crt"), m.file(insidePair+".key"))
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	roots := x509.NewCertPool()
	raw, err := os.ReadFile(m.file(insideCA))
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	if !roots.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("certificates: %s has no certificate", m.file(insideCA))
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: insides, MinVersion: tls.VersionTLS12}, nil
}

// Healthy asks a member that runs at this address whether it serves.
func (m Member) Healthy(ctx context.Context) error {
	inside, err := m.insideClient()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(m.hostPort(offsets[primitives.InternalFrontendService]), grpc.WithTransportCredentials(credentials.NewTLS(inside)))
	if err != nil {
		return err
	}
	defer conn.Close()
	r, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: "temporal.api.workflowservice.v1.WorkflowService"})
	if err == nil && r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		err = fmt.Errorf("the server says %s", r.GetStatus())
	}
	return err
}

func (m Member) config() (*config.Config, error) {
	if ip := net.ParseIP(m.Address); ip == nil || ip.IsUnspecified() {
		return nil, fmt.Errorf("address %q: want the IP address at which others reach this machine", m.Address)
	}
	if first, last := 1-gossipOffset, 65535-httpOffset; m.Port < first || m.Port > last {
		return nil, fmt.Errorf("port %d: want %d to %d, since the ports around it are used too", m.Port, first, last)
	}
	cfg := serverConfig(ports{frontend: m.Port, http: m.Port + httpOffset, internal: m.Port + offsets[primitives.InternalFrontendService]}, nil)
	stores := map[string]config.DataStore{}
	for _, name := range []string{mainDatabase, visibilityDatabase} {
		store, err := m.sql(name)
		if err != nil {
			return nil, err
		}
		stores[name] = config.DataStore{SQL: store}
	}
	cfg.Persistence = config.Persistence{
		DefaultStore: mainDatabase, VisibilityStore: visibilityDatabase, NumHistoryShards: m.Shards, DataStores: stores,
	}
	info := cfg.ClusterMetadata.ClusterInformation[clusterName]
	info.RPCAddress, info.HTTPAddress = m.hostPort(0), m.hostPort(httpOffset)
	cfg.ClusterMetadata.ClusterInformation[clusterName] = info
	cfg.Global.Membership.BroadcastAddress = m.Address
	for name, offset := range offsets {
		rpc := config.RPC{GRPCPort: m.Port + offset, MembershipPort: m.Port + offset + gossipOffset, BindOnIP: m.Address}
		if name == primitives.FrontendService {
			rpc.HTTPPort = m.Port + httpOffset
		}
		cfg.Services[string(name)] = config.Service{RPC: rpc}
	}
	return cfg, nil
}

// address is where one of the databases is, with all that it takes to connect.
func (m Member) address(database string) (*url.URL, error) {
	u, err := url.Parse(m.Database)
	if err != nil || u.Scheme != "postgres" || u.Hostname() == "" || u.User.Username() == "" || u.Path != "" && u.Path != "/" {
		return nil, errors.New("database: want postgres://USER@HOST:PORT, without a database's name") // it may have a password
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), "5432")
	}
	u.Path = "/" + database
	attributes := u.Query()
	if !attributes.Has("sslmode") {
		for k, v := range map[string]string{
			"sslmode": "verify-full", "sslrootcert": m.file(databaseCA), "sslcert": m.file(databasePair + ".crt"), "sslkey": m.file(databasePair + ".key"),
		} {
			if !attributes.Has(k) {
				attributes.Set(k, v)
			}
		}
	}
	u.RawQuery = attributes.Encode()
	return u, nil
}

// sql describes one of the databases.
func (m Member) sql(database string) (*config.SQL, error) {
	u, err := m.address(database)
	if err != nil {
		return nil, err
	}
	return &config.SQL{
		Connect: func(c *config.SQL) (*sqlx.DB, error) { return connect(u.String(), c) },
		// What follows but the limits is for messages: Connect has all that it needs.
		PluginName: postgresql.PluginNamePGX, ConnectProtocol: "tcp", ConnectAddr: u.Host, User: u.User.Username(), DatabaseName: database,
		MaxConns: 20, MaxIdleConns: 20, MaxConnLifetime: time.Hour,
	}, nil
}

// connect makes a pool of connections as Temporal does it, but that each reads the certificate's files: Temporal reads them once, and
// a member would show an expired certificate after a month, whatever is in the files.
func connect(address string, limits *config.SQL) (*sqlx.DB, error) {
	db, err := (&driver.PGXDriver{}).CreateRefreshableConnection(func() (string, error) { return address, nil })
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(limits.MaxConns)
	db.SetMaxIdleConns(limits.MaxIdleConns)
	db.SetConnMaxLifetime(limits.MaxConnLifetime)
	db.MapperFunc(strcase.ToSnake) // columns are named so
	return db, nil
}

// MakeSchema makes the databases and brings their tables up to this server's version; one that is up to date stays
// as it is. Members of the version before go on with it: make it first, then start the new members. It also makes an
// empty database for control workers, and a role for it. The role in Database needs no more than to make databases and roles. What
// was cut off is completed by the next; of several at once one works, and the others wait.
func MakeSchema(ctx context.Context, m Member) error {
	logger := newLogger(m.Log)
	return m.connected("postgres", logger, func(c *sqltool.Connection) error {
		// Held until the connection ends. The number is ours, and means nothing.
		if err := c.Exec("SELECT pg_advisory_lock(7233072340)"); err != nil {
			return fmt.Errorf("wait for another who makes the tables: %w", err)
		}
		for _, name := range []string{mainDatabase, visibilityDatabase, inventoryDatabase} {
			if err := c.CreateDatabase(name); err != nil {
				return fmt.Errorf("make database %s: %w", name, err)
			}
		}
		if err := c.Exec(inventoryRights); err != nil {
			return fmt.Errorf("role %s, and its rights: %w", inventoryDatabase, err)
		}
		for database, name := range map[string]string{mainDatabase: "postgresql/v12/temporal", visibilityDatabase: "postgresql/v12/visibility"} {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := m.connected(database, logger, func(c *sqltool.Connection) error { return makeTables(repeatable{c}, name, logger) }); err != nil {
				return fmt.Errorf("tables of database %s: %w", database, err)
			}
		}
		return nil
	})
}

// Of its own database the role may do all, in the others nothing. Who is no superuser gives a database only to a role that he is
// a member of.
const inventoryRights = `DO $$ BEGIN
	IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '` + inventoryDatabase + `') THEN
		CREATE ROLE ` + inventoryDatabase + ` LOGIN;
	END IF;
	IF (SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = '` + inventoryDatabase + `') <> '` + inventoryDatabase + `' THEN
		GRANT ` + inventoryDatabase + ` TO CURRENT_USER;
		ALTER DATABASE ` + inventoryDatabase + ` OWNER TO ` + inventoryDatabase + `;
	END IF;
	REVOKE CONNECT ON DATABASE ` + mainDatabase + `, ` + visibilityDatabase + ` FROM PUBLIC;
END $$`

// repeatable completes tables that were left half made. Temporal's steps pass over what is there already, but for rows.
type repeatable struct{ *sqltool.Connection }

func (r repeatable) Exec(statement string, args ...any) error {
	if strings.HasPrefix(statement, "INSERT ") {
		statement = strings.TrimRight(statement, "; \n") + " ON CONFLICT DO NOTHING"
	}
	return r.Connection.Exec(statement, args...)
}

func makeTables(c schema.DB, name string, logger log.Logger) error {
	if err := schema.NewSetupSchemaTask(c, &schema.SetupConfig{InitialVersion: "0.0"}, logger).Run(); err != nil {
		return err
	}
	return schema.NewUpdateSchemaTask(c, &schema.UpdateConfig{SchemaName: name}, logger).Run()
}

// reach says why a database cannot be reached: Temporal's own connections only log it.
func reach(cfg *config.SQL) error {
	db, err := cfg.Connect(cfg)
	if err != nil {
		return fmt.Errorf("connect to database %s at %s: %w", cfg.DatabaseName, cfg.ConnectAddr, err)
	}
	return db.Close()
}

// connected does something with one connection: a lock that it takes is kept until the end.
func (m Member) connected(database string, logger log.Logger, do func(*sqltool.Connection) error) error {
	cfg, err := m.sql(database)
	if err != nil {
		return err
	}
	cfg.MaxConns, cfg.MaxIdleConns, cfg.MaxConnLifetime = 1, 1, 0
	if err := reach(cfg); err != nil {
		return err
	}
	c, err := sqltool.NewConnection(cfg, logger)
	if err != nil {
		return fmt.Errorf("connect to database %s at %s: %w", database, cfg.ConnectAddr, err)
	}
	defer c.Close()
	return do(c)
}
