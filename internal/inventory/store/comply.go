package store

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/almanac-run/almanac/internal/inventory"
)

// RecordCompliance keeps how nodes stand to baselines. Since is not taken from them: a node has
// a status since the first of the reports in a row that say so. What is older than what is known is passed over.
func (s *Store) RecordCompliance(ctx context.Context, all ...inventory.Compliance) error {
	all = slices.Clone(all)
	// In one order everywhere, so that transactions do not wait for each other in a circle.
	slices.SortFunc(all, func(a, b inventory.Compliance) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Baseline, b.Baseline))
	})
	err := s.change(ctx, func(tx *sql.Tx) error {
		for _, c := range all {
			if err := s.recordCompliance(ctx, tx, c); err != nil {
				return fmt.Errorf("node %s: %w", c.Node, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("compliance: %w", err)
	}
	return nil
}

func (s *Store) recordCompliance(ctx context.Context, tx *sql.Tx, c inventory.Compliance) error {
	switch c.Status {
	case inventory.Compliant, inventory.NonCompliant, inventory.Undecided:
	default:
		return questionf("status %q is none of compliant, non_compliant, unknown", c.Status)
	}
	if c.Node == "" || c.Baseline == "" || c.At.IsZero() {
		return questionf("compliance needs a node, a baseline and a time")
	}
	if now := s.now(); c.At.After(now) {
		c.At = now
	}
	at := micros(c.At)
	// The first to insert a row is also the first to have its lock.
	err := s.exec(ctx, tx, `INSERT INTO compliance (node, baseline, status, since, missing_critical, missing_important, missing_moderate, missing_low, missing_other, reboot_pending, at)
		VALUES (?, ?, '', 0, 0, 0, 0, 0, 0, FALSE, 0) ON CONFLICT DO NOTHING`, c.Node, c.Baseline)
	if err != nil {
		return err
	}
	lock := ""
	if s.postgres {
		lock = " FOR UPDATE"
	}
	var status inventory.Status
	var since, known int64
	row := tx.QueryRowContext(ctx, s.bind(`SELECT status, since, at FROM compliance WHERE node = ? AND baseline = ?`+lock), c.Node, c.Baseline)
	if err := row.Scan(&status, &since, &known); err != nil {
		return err
	}
	if at <= known {
		return nil
	}
	if status != c.Status {
		since = at
		if err := s.exec(ctx, tx, `UPDATE compliance_history SET until_at = ? WHERE node = ? AND baseline = ? AND until_at = ?`, at, c.Node, c.Baseline, int64(never)); err != nil {
			return err
		}
		if err := s.exec(ctx, tx, `INSERT INTO compliance_history (node, baseline, status, since, until_at) VALUES (?, ?, ?, ?, ?)`,
			c.Node, c.Baseline, string(c.Status), at, int64(never)); err != nil {
			return err
		}
	}
	m := c.Missing
	return s.exec(ctx, tx, `UPDATE compliance SET status = ?, since = ?, missing_critical = ?, missing_important = ?, missing_moderate = ?, missing_low = ?,
		missing_other = ?, reboot_pending = ?, at = ? WHERE node = ? AND baseline = ?`,
		string(c.Status), since, m.Critical, m.Important, m.Moderate, m.Low, m.Other, c.RebootPending, at, c.Node, c.Baseline)
}

// ComplianceFilter selects nodes and baselines; what is empty selects all.
type ComplianceFilter struct {
	Nodes    []string // at most 500
	Baseline string
	Status   inventory.Status
	Limit    int    // of a page; 0 is 1000
	Cursor   string // of the page before
}

// Compliance returns how nodes stand to baselines now.
func (s *Store) Compliance(ctx context.Context, f ComplianceFilter) (inventory.CompliancePage, error) {
	page := inventory.CompliancePage{Compliance: []inventory.Compliance{}}
	var from [2]string
	if err := readCursor(f.Cursor, &from); err != nil {
		return page, err
	}
	if len(f.Nodes) > few {
		return page, questionf("compliance: %d nodes at a time; at most %d", len(f.Nodes), few)
	}
	if f.Limit < 1 || f.Limit > 2000 {
		f.Limit = 1000
	}
	where, args := `(node, baseline) > (?, ?)`, []any{from[0], from[1]}
	if len(f.Nodes) > 0 {
		where += ` AND node IN (` + marks(len(f.Nodes), "") + `)`
		args = append(args, anys(f.Nodes)...)
	}
	if f.Baseline != "" {
		where, args = where+` AND baseline = ?`, append(args, f.Baseline)
	}
	if f.Status != "" {
		where, args = where+` AND status = ?`, append(args, string(f.Status))
	}
	err := s.rows(ctx, s.db, `SELECT node, baseline, status, since, missing_critical, missing_important, missing_moderate, missing_low, missing_other, reboot_pending, at
		FROM compliance WHERE `+where+` ORDER BY node, baseline LIMIT ?`, append(args, f.Limit+1), func(r *sql.Rows) error {
		var c inventory.Compliance
		var since, at int64
		m := &c.Missing
		if err := r.Scan(&c.Node, &c.Baseline, &c.Status, &since, &m.Critical, &m.Important, &m.Moderate, &m.Low, &m.Other, &c.RebootPending, &at); err != nil {
			return err
		}
		if n := len(page.Compliance); n == f.Limit {
			last := page.Compliance[n-1]
			page.Cursor = writeCursor([2]string{last.Node, last.Baseline})
			return nil
		}
		c.Since, c.At = fromMicros(since), fromMicros(at)
		page.Compliance = append(page.Compliance, c)
		return nil
	})
	if err != nil {
		return page, fmt.Errorf("compliance: %w", err)
	}
	return page, nil
}

// since returns what is known of nodes and one baseline.
func (s *Store) since(ctx context.Context, baseline string, nodes []string) (map[string]inventory.Compliance, error) {
	known := map[string]inventory.Compliance{}
	for some := range slices.Chunk(nodes, few) {
		page, err := s.Compliance(ctx, ComplianceFilter{Nodes: some, Baseline: baseline})
		if err != nil {
			return nil, err
		}
		for _, c := range page.Compliance {
			known[c.Node] = c
		}
	}
	return known, nil
}

// maxDays bounds a history.
const maxDays = 4000

// ComplianceHistory returns how the fleet stood at the end of each day (UTC) from that of since
// until today: how many pairs of node and baseline were compliant. baseline empty: all.
// Only statuses are kept over time, not what was missing.
func (s *Store) ComplianceHistory(ctx context.Context, since time.Time, baseline string) ([]inventory.ComplianceDay, error) {
	now := s.now().UTC()
	first, today := since.UTC().Truncate(24*time.Hour), now.Truncate(24*time.Hour)
	n := int(today.Sub(first)/(24*time.Hour)) + 1
	if n < 1 || n > maxDays {
		return nil, questionf("compliance: %d days; at most %d, and none that is to come", n, maxDays)
	}
	where, args := "", []any{micros(first)}
	if baseline != "" {
		where, args = ` AND baseline = ?`, append(args, baseline)
	}
	// Where the counts change: each status counts from the day it began to the day before it ended.
	type key struct {
		day    int
		status inventory.Status
	}
	changes := map[key]int{}
	err := s.rows(ctx, s.db, `SELECT status, since, until_at FROM compliance_history WHERE until_at > ?`+where, args, func(r *sql.Rows) error {
		var status inventory.Status
		var from, until int64
		if err := r.Scan(&status, &from, &until); err != nil {
			return err
		}
		begin := max(dayOf(from, first), 0)
		changes[key{begin, status}]++
		if until != never {
			changes[key{max(dayOf(until, first), begin), status}]--
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("compliance: %w", err)
	}
	days := make([]inventory.ComplianceDay, n)
	for i := range days {
		d := &days[i]
		if i > 0 {
			*d = days[i-1]
		}
		d.Day = first.AddDate(0, 0, i)
		d.Compliant += changes[key{i, inventory.Compliant}]
		d.NonCompliant += changes[key{i, inventory.NonCompliant}]
		d.Unknown += changes[key{i, inventory.Undecided}]
	}
	return days, nil
}

func dayOf(at int64, first time.Time) int {
	d := fromMicros(at).Sub(first)
	if d < 0 {
		return -1
	}
	return int(d / (24 * time.Hour))
}
