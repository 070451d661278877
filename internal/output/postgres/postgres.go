// Package postgres keeps outputs as large objects in PostgreSQL.
//
// It gives Store, an output.Central. A table says which large object holds an output. It promises that an
// output is there as a whole or not at all, since it is written in one transaction, that
// nothing is left behind by a worker that was killed, and that a password appears in no error.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/almanac-run/almanac/internal/output"
	"github.com/almanac-run/almanac/internal/pgtext"
)

// Store is a database. It is safe for concurrent use. Made by New.
type Store struct {
	db   *pgxpool.Pool
	name string      // without a password
	made atomic.Bool // the table is there
}

var _ output.Central = (*Store)(nil)

const (
	// Connections of one process. Each output that comes from a node holds one for as long as that takes, and
	// readers wait for none of these.
	atOnce = 24
	block  = 256 << 10 // bytes that are written at once
	setup  = `
create table if not exists almanac_output (
	ref text primary key,
	object oid,                   -- null: it was removed, and note says why
	size bigint not null,
	at timestamptz not null,      -- when it was kept, or removed
	note text not null default ''
)`
	// Several workers may start at once, and the same output may come twice.
	setupLock  = `select pg_advisory_xact_lock(7041776, 0)`
	outputLock = `select pg_advisory_xact_lock(7041776, hashtext($1))`
)

// New returns the store that address names (postgres://…). It calls nobody.
func New(address string) (*Store, error) {
	s := &Store{name: pgtext.Masked(address)}
	if err := pgtext.Check(address); err != nil {
		return nil, s.wrap(err)
	}
	config, err := pgxpool.ParseConfig(address)
	if err != nil {
		return nil, s.wrap(pgtext.Unquoted(err))
	}
	config.MaxConns = atOnce
	// A certificate in a file is read for each connection: it is renewed more often than the program starts.
	config.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		now, err := pgxpool.ParseConfig(address)
		if err != nil {
			return pgtext.Unquoted(err)
		}
		c.TLSConfig, c.Fallbacks = now.ConnConfig.TLSConfig, now.ConnConfig.Fallbacks
		return nil
	}
	if s.db, err = pgxpool.NewWithConfig(context.Background(), config); err != nil {
		return nil, s.wrap(err)
	}
	return s, nil
}

// Check finds out whether the database is there, and makes the table if that is not. Without it, the first use does.
func (s *Store) Check(ctx context.Context) error {
	err := pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, setupLock); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, setup)
		return err
	})
	if err != nil {
		return s.wrap(err)
	}
	s.made.Store(true)
	return nil
}

// ready is Check, until it has succeeded once.
func (s *Store) ready(ctx context.Context) error {
	if s.made.Load() {
		return nil
	}
	return s.Check(ctx)
}

// Refused tells whether the server answered, and refuses what no further attempt changes: the
// password, a database that is not there, or a permission.
func Refused(err error) bool {
	var no *pgconn.PgError
	return errors.As(err, &no) && (strings.HasPrefix(no.Code, "28") || no.Code == "3D000" || no.Code == "42501")
}

// Close closes the connections.
func (s *Store) Close() { s.db.Close() }

func (s *Store) String() string { return s.name }

func (s *Store) wrap(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		err = errors.New(err.Error()) // the server's socket is not there: that says nothing of an output
	}
	return fmt.Errorf("output store %s: %w", s.name, err)
}

// change runs do in a transaction.
func (s *Store) change(ctx context.Context, do func(pgx.Tx) error) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	if err := pgx.BeginFunc(ctx, s.db, do); err != nil {
		return s.wrap(err)
	}
	return nil
}

// read runs do in a transaction that sees one moment: an output that is replaced meanwhile stays readable in it.
func (s *Store) read(ctx context.Context, do func(pgx.Tx) error) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	var none error
	err := pgx.BeginTxFunc(ctx, s.db, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		err := do(tx)
		if errors.Is(err, fs.ErrNotExist) {
			none = err
		}
		return err
	})
	switch {
	case none != nil:
		return none
	case err != nil:
		return s.wrap(err)
	}
	return nil
}

// Put implements output.Central.
func (s *Store) Put(ctx context.Context, ref string, from io.Reader, size int64) error {
	if err := output.Check(ref); err != nil {
		return err
	}
	return s.change(ctx, func(tx pgx.Tx) error {
		objects := tx.LargeObjects()
		id, err := objects.Create(ctx, 0)
		if err != nil {
			return err
		}
		object, err := objects.Open(ctx, id, pgx.LargeObjectModeWrite)
		if err != nil {
			return err
		}
		// Without its ReadFrom and WriteTo: in blocks.
		if _, err := io.CopyBuffer(struct{ io.Writer }{object}, struct{ io.Reader }{output.Exactly(from, size)}, make([]byte, block)); err != nil {
			return err
		}
		return s.set(ctx, tx, ref, &id, size, "")
	})
}

// set replaces what is known of an output, and removes the object that was there before.
func (s *Store) set(ctx context.Context, tx pgx.Tx, ref string, id *uint32, size int64, note string) error {
	if _, err := tx.Exec(ctx, outputLock, ref); err != nil {
		return err
	}
	var before *uint32
	if err := tx.QueryRow(ctx, `select object from almanac_output where ref = $1`, ref).Scan(&before); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if before != nil {
		objects := tx.LargeObjects()
		if err := objects.Unlink(ctx, *before); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, `insert into almanac_output (ref, object, size, at, note) values ($1, $2, $3, now(), $4)
		on conflict (ref) do update set object = excluded.object, size = excluded.size, at = excluded.at, note = excluded.note`, ref, id, size, note)
	return err
}

// look finds an output.
func (s *Store) look(ctx context.Context, tx pgx.Tx, ref string) (id uint32, size int64, err error) {
	var object *uint32
	var note string
	err = tx.QueryRow(ctx, `select object, size, note from almanac_output where ref = $1`, ref).Scan(&object, &size, &note)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, 0, err
	}
	if object == nil {
		return 0, 0, output.None(ref, note)
	}
	return *object, size, nil
}

// ReadAt implements output.Central.
func (s *Store) ReadAt(ctx context.Context, ref string, p []byte, offset int64) (n int, err error) {
	if err := output.Check(ref); err != nil {
		return 0, err
	}
	if offset < 0 {
		return 0, fmt.Errorf("output %s: read at %d", ref, offset)
	}
	end := false
	err = s.read(ctx, func(tx pgx.Tx) error {
		id, size, err := s.look(ctx, tx, ref)
		if err != nil {
			return err
		}
		if offset+int64(len(p)) > size {
			end, p = true, p[:max(size-offset, 0)]
		}
		if len(p) == 0 {
			return nil
		}
		objects := tx.LargeObjects()
		object, err := objects.Open(ctx, id, pgx.LargeObjectModeRead)
		if err != nil {
			return err
		}
		if _, err := object.Seek(offset, io.SeekStart); err != nil {
			return err
		}
		n, err = io.ReadFull(object, p)
		return err
	})
	if err == nil && end {
		return n, io.EOF
	}
	return n, err
}

// Size implements output.Central.
func (s *Store) Size(ctx context.Context, ref string) (size int64, err error) {
	if err := output.Check(ref); err != nil {
		return 0, err
	}
	err = s.read(ctx, func(tx pgx.Tx) error {
		_, size, err = s.look(ctx, tx, ref)
		return err
	})
	return size, err
}

// List implements output.Shelf.
func (s *Store) List(ctx context.Context, each func(output.Entry) error) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	// In pages: each may use the store, and take its time.
	for after := ""; ; {
		rows, err := s.db.Query(ctx, `select ref, size, at, object is null from almanac_output where ref > $1 order by ref limit 1000`, after)
		if err != nil {
			return s.wrap(err)
		}
		page, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e output.Entry, err error) {
			return e, row.Scan(&e.Ref, &e.Size, &e.At, &e.Note)
		})
		if err != nil {
			return s.wrap(err)
		}
		for _, e := range page {
			if err := each(e); err != nil {
				return err
			}
			after = e.Ref
		}
		if len(page) == 0 {
			return nil
		}
	}
}

// Expire implements output.Shelf.
func (s *Store) Expire(ctx context.Context, ref, note string) error {
	if err := output.Check(ref); err != nil {
		return err
	}
	return s.change(ctx, func(tx pgx.Tx) error { return s.set(ctx, tx, ref, nil, 0, note) })
}

// Forget implements output.Shelf.
func (s *Store) Forget(ctx context.Context, ref string) error {
	if err := output.Check(ref); err != nil {
		return err
	}
	return s.change(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `delete from almanac_output where ref = $1 and object is null`, ref)
		return err
	})
}
