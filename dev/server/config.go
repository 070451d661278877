package server

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/membership/static"
	"go.temporal.io/server/common/persistence/sql/sqlplugin"
	sqliteplugin "go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/schema/sqlite"
	"go.temporal.io/server/temporal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/almanac-run/almanac/dev/authorizer"
	"github.com/almanac-run/almanac/dev/settings"
)

const (
	clusterName = "active"
	storeName   = "sqlite"
	retention   = 30 * 24 * time.Hour
)

// serverOptions gives the configuration of one server, and makes its namespace in the database.
func serverOptions(o Options, p ports, g *guard, logger log.Logger) ([]temporal.ServerOption, error) {
	store := sqlConfig(o.File)
	namespace, err := sqlite.NewNamespaceConfig(clusterName, settings.Namespace, false, settings.SearchAttributes)
	if err != nil {
		return nil, fmt.Errorf("describe namespace: %w", err)
	}
	namespace.Detail.Config.Retention = durationpb.New(retention)
	if err := sqlite.CreateNamespaces(store, namespace); err != nil {
		return nil, fmt.Errorf("make namespace: %w", err)
	}
	dynamic := dynamicconfig.StaticClient{}
	layers := []map[string]any{settings.Dynamic, o.Dynamic}
	if g != nil {
		layers = []map[string]any{settings.Dynamic, authorizer.Dynamic, o.Dynamic}
	}
	for _, values := range layers {
		for k, v := range values {
			dynamic[dynamicconfig.MakeKey(k)] = v
		}
	}
	hosts := map[primitives.ServiceName]static.Hosts{}
	for name, port := range p.services() {
		hosts[name] = static.SingleLocalHost(hostPort(port))
	}
	cfg := serverConfig(p, store)
	services := temporal.DefaultServices
	access := []temporal.ServerOption{
		temporal.WithAuthorizer(authorization.NewNoopAuthorizer()),
		temporal.WithClaimMapper(func(*config.Config) authorization.ClaimMapper { return authorization.NewNoopClaimMapper() }),
	}
	if g != nil {
		services = append(slices.Clone(services), string(primitives.InternalFrontendService))
		if access, err = g.options(cfg, logger); err != nil {
			return nil, err
		}
	}
	return append([]temporal.ServerOption{
		temporal.WithConfig(cfg),
		temporal.ForServices(services),
		temporal.WithStaticHosts(hosts),
		temporal.WithLogger(logger),
		temporal.WithDynamicConfigClient(dynamic),
	}, access...), nil
}

func serverConfig(p ports, store *config.SQL) *config.Config {
	cfg := &config.Config{
		Persistence: config.Persistence{
			DefaultStore:     storeName,
			VisibilityStore:  storeName,
			NumHistoryShards: 1,
			DataStores:       map[string]config.DataStore{storeName: {SQL: store}},
		},
		ClusterMetadata: &cluster.Config{
			FailoverVersionIncrement: 10,
			MasterClusterName:        clusterName,
			CurrentClusterName:       clusterName,
			ClusterInformation: map[string]cluster.ClusterInformation{clusterName: {
				Enabled:                true,
				InitialFailoverVersion: 1,
				RPCAddress:             hostPort(p.frontend),
				HTTPAddress:            hostPort(p.http),
			}},
		},
		DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
		Services:            map[string]config.Service{},
		PublicClient:        config.PublicClient{HostPort: hostPort(p.frontend)},
	}
	if p.internal != 0 {
		cfg.PublicClient = config.PublicClient{} // the parts call the internal frontend
	}
	cfg.Global.Membership = config.Membership{MaxJoinDuration: 30 * time.Second, BroadcastAddress: host}
	cfg.Archival.History.State = config.ArchivalDisabled
	cfg.Archival.Visibility.State = config.ArchivalDisabled
	cfg.NamespaceDefaults.Archival.History.State = config.ArchivalDisabled
	cfg.NamespaceDefaults.Archival.Visibility.State = config.ArchivalDisabled
	for name, port := range p.services() {
		rpc := config.RPC{GRPCPort: port, BindOnIP: host}
		if name == primitives.FrontendService {
			rpc.HTTPPort = p.http // Nexus needs it
		}
		cfg.Services[string(name)] = config.Service{RPC: rpc}
	}
	return cfg
}

func (p ports) services() map[primitives.ServiceName]int {
	services := map[primitives.ServiceName]int{
		primitives.FrontendService: p.frontend,
		primitives.HistoryService:  p.history,
		primitives.MatchingService: p.matching,
		primitives.WorkerService:   p.worker,
	}
	if p.internal != 0 {
		services[primitives.InternalFrontendService] = p.internal
	}
	return services
}

func hostPort(port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// sqlConfig describes the database. The server keeps one connection per database for the life of the process; a
// database in memory therefore needs a name that no other has.
func sqlConfig(file string) *config.SQL {
	cfg := &config.SQL{PluginName: sqliteplugin.PluginName}
	if file == "" {
		cfg.DatabaseName = uuid.NewString()
		cfg.ConnectAttributes = map[string]string{"mode": "memory", "cache": "shared"}
		return cfg
	}
	cfg.DatabaseName = uriPath(file)
	cfg.ConnectAttributes = maps.Clone(settings.Pragmas)
	cfg.ConnectAttributes["mode"] = "rw"
	return cfg
}

// uriPath writes a file name as SQLite's file: URIs want it.
func uriPath(file string) string { return (&url.URL{Path: filepath.ToSlash(file)}).EscapedPath() }

// makeSchema makes the tables if there are none, in one transaction, so that a start that is cut off leaves no
// database with half of them.
func makeSchema(ctx context.Context, file string) error {
	db, err := sql.Open("sqlite", "file:"+uriPath(file))
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	defer db.Close()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	defer tx.Rollback()
	var tables int
	if err := tx.QueryRow(`SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'executions'`).Scan(&tables); err != nil {
		return fmt.Errorf("read database %s: %w", file, err)
	}
	if tables > 0 {
		return nil
	}
	if err := sqlite.SetupSchemaOnDB(schemaWriter{tx: tx}); err != nil {
		return fmt.Errorf("make tables: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("make tables: %w", err)
	}
	return nil
}

// schemaWriter is the one method of AdminDB that writing the schema needs.
type schemaWriter struct {
	sqlplugin.AdminDB
	tx *sql.Tx
}

func (w schemaWriter) Exec(statement string, args ...any) error {
	_, err := w.tx.Exec(statement, args...)
	return err
}

// newLogger gives the server's logger. A fatal entry panics: ending the process is not the server's to decide.
func newLogger(w io.Writer) log.Logger { return newLoggerAt(w, zapcore.WarnLevel) }

func newLoggerAt(w io.Writer, level zapcore.Level) log.Logger {
	encoder := zap.NewProductionEncoderConfig()
	encoder.EncodeTime = zapcore.RFC3339TimeEncoder
	core := zapcore.NewCore(zapcore.NewJSONEncoder(encoder), zapcore.AddSync(w), level)
	return log.NewZapLogger(zap.New(core, zap.WithFatalHook(zapcore.WriteThenPanic)))
}
