// Package store keeps what nodes report, over time.
//
// It gives Open, for a file (SQLite) or a PostgreSQL server, and what can be
// done then: Record a snapshot; look at a Node, now or as it was; Diff two times; Query the fleet
// by a condition; Check rules; and keep compliance. It promises that recording is safe to
// repeat and to do in any order, that a report in which nothing changed adds no rows, and that several
// workers may use one PostgreSQL. It is the only package that knows SQL, and refuses to know how facts are found.
package store

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/almanac-run/almanac/internal/pgtext"
)

// ErrNoNode says that nothing is known of a node.
var ErrNoNode = errors.New("the inventory knows no such node")

// Store is an open store. It is safe for concurrent use.
type Store struct {
	db       *sql.DB
	postgres bool
	now      func() time.Time
}

//go:embed migrations/*.sql
var migrations embed.FS

// atOnce bounds the connections of one process.
const atOnce = 8

// Open opens a store and brings its tables up to date. dsn is a connection string
// of PostgreSQL (postgres://…), or the path of a file of SQLite, which is made if it is
// not there. The file belongs to one machine; several processes on it may use it. Passwords in dsn do not appear in errors.
func Open(ctx context.Context, dsn string) (*Store, error) {
	s := &Store{now: time.Now, postgres: pgtext.Is(dsn)}
	var err error
	what, driver := "inventory store "+pgtext.Masked(dsn), "sqlite"
	if s.postgres {
		driver, err = "pgx", readable(dsn)
	} else {
		dsn, err = sqliteFile(dsn)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if s.db, err = sql.Open(driver, dsn); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	s.db.SetMaxOpenConns(atOnce)
	s.db.SetMaxIdleConns(atOnce)
	if err := s.migrate(ctx); err != nil {
		_ = s.db.Close()
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return s, nil
}

// Close closes the store.
func (s *Store) Close() error { return s.db.Close() }

// readable finds out whether the driver will understand dsn, whose own errors quote it.
func readable(dsn string) error {
	if err := pgtext.Check(dsn); err != nil {
		return err
	}
	if _, err := pgx.ParseConfig(dsn); err != nil {
		return pgtext.Unquoted(err)
	}
	return nil
}

// sqliteFile makes the file, which only its owner may read, and returns its name for the driver.
func sqliteFile(path string) (string, error) {
	if path == "" || strings.Contains(path, "://") || pgtext.Masked(path) != path { // password=… would be the name of a file
		return "", errors.New("want the path of a file, or postgres://…")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	// Who writes says so at once (_txlock), since SQLite refuses a reader that turns into a writer.
	u := url.URL{Scheme: "file", Path: path,
		RawQuery: "_txlock=immediate&_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_pragma=foreign_keys(1)"}
	return u.String(), nil
}

func (s *Store) migrate(ctx context.Context) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	dialect, opts := goose.DialectSQLite3, []goose.ProviderOption{goose.WithDisableGlobalRegistry(true)}
	if s.postgres {
		// Several workers may start at once.
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 60))
		if err != nil {
			return err
		}
		dialect, opts = goose.DialectPostgres, append(opts, goose.WithSessionLocker(locker))
	}
	p, err := goose.NewProvider(dialect, s.db, dir, opts...)
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	// SQLite has no such lock. Who is second finds the tables made by the first, undoes what it
	// began, and has nothing to do when it looks again.
	for try := 0; err != nil && !s.postgres && try < 5 && ctx.Err() == nil; try++ {
		time.Sleep(50 * time.Millisecond)
		_, err = p.Up(ctx)
	}
	if err != nil {
		return fmt.Errorf("bring the tables up to date: %w", err)
	}
	have, err := p.GetDBVersion(ctx)
	if err != nil {
		return err
	}
	sources := p.ListSources()
	if newest := sources[len(sources)-1].Version; have > newest {
		return fmt.Errorf("its tables are of version %d, and this program knows %d: use a newer one", have, newest)
	}
	return nil
}

// never is when what still is ends.
const never = math.MaxInt64

func micros(t time.Time) int64 { return t.UnixMicro() }

func fromMicros(n int64) time.Time { return time.UnixMicro(n).UTC() }

// bind turns the ? of a statement into what the database takes.
func (s *Store) bind(statement string) string {
	if !s.postgres {
		return statement
	}
	var b strings.Builder
	n := 0
	for part := range strings.SplitSeq(statement, "?") {
		if n > 0 {
			b.WriteString("$" + strconv.Itoa(n))
		}
		b.WriteString(part)
		n++
	}
	return b.String()
}

// marks returns "?, ?, ?" for n values, each of them tuple if that is not empty.
func marks(n int, tuple string) string {
	return strings.TrimSuffix(strings.Repeat(cmp.Or(tuple, "?")+", ", n), ", ")
}

// querier is a database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// rows calls each for every row that a statement gives.
func (s *Store) rows(ctx context.Context, q querier, statement string, args []any, each func(*sql.Rows) error) error {
	rows, err := q.QueryContext(ctx, s.bind(statement), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (s *Store) exec(ctx context.Context, q querier, statement string, args ...any) error {
	_, err := q.ExecContext(ctx, s.bind(statement), args...)
	return err
}

// change runs do in a transaction.
func (s *Store) change(ctx context.Context, do func(tx *sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	if err := do(tx); err != nil {
		return err
	}
	return tx.Commit()
}
