package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/almanac-run/almanac/internal/inventory"
)

// bunch is how many rows one statement takes.
const bunch = 500

// Record keeps a snapshot. Sections that are older than what is known of them are passed
// over, so that a report may come twice, or late. A node's clock that is ahead does not
// count: nothing was found later than now. It returns an *inventory.MissingError, having
// kept the rest, if a section is only said to be unchanged and the store has another.
func (s *Store) Record(ctx context.Context, snap inventory.Snapshot) error {
	if err := snap.Check(); err != nil {
		return fmt.Errorf("inventory: %w", err)
	}
	if now := s.now(); snap.At.After(now) {
		snap.At = now
	}
	// In one order everywhere: two transactions that add the same facts then wait for each other in that order.
	sections := slices.Clone(snap.Sections)
	slices.SortFunc(sections, func(a, b inventory.Section) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Scope, b.Scope))
	})
	var missing []string
	err := s.change(ctx, func(tx *sql.Tx) error {
		missing = nil
		// In PostgreSQL this is also the lock under which a node is changed.
		err := s.exec(ctx, tx, `INSERT INTO nodes (node, seen_at) VALUES (?, ?)
			ON CONFLICT (node) DO UPDATE SET seen_at = CASE WHEN excluded.seen_at > nodes.seen_at THEN excluded.seen_at ELSE nodes.seen_at END`,
			snap.Node, micros(snap.At))
		if err != nil {
			return err
		}
		known, err := s.sections(ctx, tx, snap.Node)
		if err != nil {
			return err
		}
		for _, section := range sections {
			have, ok := known[[2]string{section.Kind, section.Scope}]
			switch {
			case ok && !snap.At.After(have.SeenAt):
			case ok && have.digest == section.Digest:
				err = s.exec(ctx, tx, `UPDATE sections SET seen_at = ? WHERE node = ? AND kind = ? AND scope = ?`,
					micros(snap.At), snap.Node, section.Kind, section.Scope)
			case section.Unchanged:
				missing = append(missing, section.Name())
			default:
				err = s.recordSection(ctx, tx, snap.Node, snap.At, section)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", section.Name(), err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("inventory of node %s: %w", snap.Node, err)
	}
	if len(missing) > 0 {
		return &inventory.MissingError{Sections: missing}
	}
	return nil
}

// reported is a section and the digest of its items.
type reported struct {
	inventory.Reported
	digest string
}

// sections returns what is known of a node's, by kind and scope.
func (s *Store) sections(ctx context.Context, q querier, node string) (map[[2]string]reported, error) {
	all := map[[2]string]reported{}
	err := s.rows(ctx, q, `SELECT kind, scope, digest, first_at, seen_at FROM sections WHERE node = ?`, []any{node}, func(r *sql.Rows) error {
		var section reported
		var first, seen int64
		err := r.Scan(&section.Kind, &section.Scope, &section.digest, &first, &seen)
		section.FirstAt, section.SeenAt = fromMicros(first), fromMicros(seen)
		all[[2]string{section.Kind, section.Scope}] = section
		return err
	})
	return all, err
}

// a fact is an item without its node.
type fact struct {
	id        []byte
	kind, key string
	value     string // JSON
}

func factOf(i inventory.Item) (fact, error) {
	value, err := i.JSON()
	if err != nil {
		return fact{}, err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s %d:%s%s", i.Kind, len(i.Key), i.Key, value)
	return fact{id: h.Sum(nil)[:16], kind: i.Kind, key: i.Key, value: value}, nil
}

// recordSection ends what a node no longer has and begins what is new.
func (s *Store) recordSection(ctx context.Context, tx *sql.Tx, node string, at time.Time, section inventory.Section) error {
	have := map[string]bool{} // ids of facts
	err := s.rows(ctx, tx, `SELECT i.fact FROM items i JOIN facts f ON f.id = i.fact WHERE i.node = ? AND i.scope = ? AND i.gone_at = ? AND f.kind = ?`,
		[]any{node, section.Scope, int64(never), section.Kind}, func(r *sql.Rows) error {
			var id []byte
			err := r.Scan(&id)
			have[string(id)] = true
			return err
		})
	if err != nil {
		return err
	}
	var begin []fact
	for _, item := range section.Items {
		f, err := factOf(item)
		if err != nil {
			return err
		}
		if have[string(f.id)] {
			delete(have, string(f.id))
			continue
		}
		begin = append(begin, f)
	}
	var end [][]byte
	for id := range have {
		end = append(end, []byte(id))
	}
	for ids := range slices.Chunk(end, bunch) {
		args := []any{micros(at), node, section.Scope, int64(never)}
		for _, id := range ids {
			args = append(args, id)
		}
		err := s.exec(ctx, tx, `UPDATE items SET gone_at = ? WHERE node = ? AND scope = ? AND gone_at = ? AND fact IN (`+marks(len(ids), "")+`)`, args...)
		if err != nil {
			return err
		}
	}
	// In one order, as in Record.
	slices.SortFunc(begin, func(a, b fact) int { return bytes.Compare(a.id, b.id) })
	for facts := range slices.Chunk(begin, bunch) {
		var args, rows []any
		for _, f := range facts {
			args = append(args, f.id, f.kind, f.key, f.value)
			rows = append(rows, node, f.id, section.Scope, micros(at), int64(never))
		}
		if err := s.exec(ctx, tx, `INSERT INTO facts (id, kind, key, value) VALUES `+marks(len(facts), "(?, ?, ?, ?)")+` ON CONFLICT DO NOTHING`, args...); err != nil {
			return err
		}
		if err := s.exec(ctx, tx, `INSERT INTO items (node, fact, scope, first_seen, gone_at) VALUES `+marks(len(facts), "(?, ?, ?, ?, ?)"), rows...); err != nil {
			return err
		}
	}
	return s.exec(ctx, tx, `INSERT INTO sections (node, kind, scope, digest, first_at, seen_at) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (node, kind, scope) DO UPDATE SET digest = excluded.digest, seen_at = excluded.seen_at`,
		node, section.Kind, section.Scope, section.Digest, micros(at), micros(at))
}

// Forget drops everything about a node, its compliance too. That nothing is known of it is no error.
func (s *Store) Forget(ctx context.Context, node string) error {
	err := s.change(ctx, func(tx *sql.Tx) error { return s.forget(ctx, tx, node) })
	if err != nil {
		return fmt.Errorf("forget the inventory of node %s: %w", node, err)
	}
	return nil
}

func (s *Store) forget(ctx context.Context, tx *sql.Tx, node string) error {
	for _, table := range []string{"nodes", "sections", "items", "compliance", "compliance_history"} {
		if err := s.exec(ctx, tx, `DELETE FROM `+table+` WHERE node = ?`, node); err != nil {
			return err
		}
	}
	return nil
}

// Expire drops what ended longer ago than keep, what was not reported for so long, and
// nodes of which nothing was. Call it about once a day: who records new facts waits for its end.
func (s *Store) Expire(ctx context.Context, keep time.Duration) error {
	before := micros(s.now().Add(-keep))
	if err := s.expire(ctx, before); err != nil {
		return fmt.Errorf("expire the inventory: %w", err)
	}
	return nil
}

// expire works in small transactions: those that record meanwhile take locks in another order.
func (s *Store) expire(ctx context.Context, before int64) error {
	var silent []string
	err := s.rows(ctx, s.db, `SELECT n.node FROM nodes n WHERE n.seen_at < ? AND NOT EXISTS (SELECT 1 FROM compliance c WHERE c.node = n.node AND c.at >= ?)`,
		[]any{before, before}, func(r *sql.Rows) error {
			var node string
			err := r.Scan(&node)
			silent = append(silent, node)
			return err
		})
	if err != nil {
		return err
	}
	for _, node := range silent {
		if err := s.change(ctx, func(tx *sql.Tx) error { return s.forget(ctx, tx, node) }); err != nil {
			return err
		}
	}
	for _, statement := range []string{
		`DELETE FROM items WHERE gone_at < ?`,
		`DELETE FROM items WHERE EXISTS (SELECT 1 FROM sections s, facts f WHERE s.node = items.node AND s.scope = items.scope
			AND f.id = items.fact AND f.kind = s.kind AND s.seen_at < ?)`,
		`DELETE FROM sections WHERE seen_at < ?`,
		`DELETE FROM compliance WHERE at < ?`,
		`DELETE FROM compliance_history WHERE until_at < ?`,
	} {
		if err := s.exec(ctx, s.db, statement, before); err != nil {
			return err
		}
	}
	return s.change(ctx, func(tx *sql.Tx) error {
		if s.postgres {
			// Nobody may begin an item of a fact that is being dropped.
			if err := s.exec(ctx, tx, `LOCK TABLE facts IN SHARE ROW EXCLUSIVE MODE`); err != nil {
				return err
			}
		}
		if err := s.exec(ctx, tx, `DELETE FROM facts WHERE NOT EXISTS (SELECT 1 FROM items i WHERE i.fact = facts.id)`); err != nil {
			return err
		}
		return s.exec(ctx, tx, `DELETE FROM compliance_history WHERE NOT EXISTS
			(SELECT 1 FROM compliance c WHERE c.node = compliance_history.node AND c.baseline = compliance_history.baseline)`)
	})
}
