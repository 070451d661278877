package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/almanac-run/almanac/internal/inventory"
)

// pageBytes bounds the JSON of one page of answers: Temporal takes 2 MB, and is slow with more than a few hundred KiB.
const pageBytes = 700 << 10

// ErrCursor says that a cursor was not made by the store for that question.
var ErrCursor = errors.New("the cursor is not one that the inventory gave for this question")

// ErrQuestion says that a question cannot be answered, whatever the store holds: a condition has a mistake.
var ErrQuestion = errors.New("the question has a mistake")

// questionError is an error that is ErrQuestion and does not say so.
type questionError struct{ error }

func (questionError) Is(target error) bool { return target == ErrQuestion }

func (e questionError) Unwrap() error { return e.error }

func questionf(format string, args ...any) error { return questionError{fmt.Errorf(format, args...)} }

// A cursor says where the next page begins. Callers keep it as text and do not look into it.
func writeCursor(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of strings and numbers only
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func readCursor(text string, into any) error {
	if text == "" {
		return nil
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || json.Unmarshal(b, into) != nil {
		return ErrCursor
	}
	return nil
}

type nodeCursor struct {
	At    int64  `json:"a"`
	Kind  string `json:"k"`
	Key   string `json:"y"`
	Scope string `json:"s"`
	First int64  `json:"f"`
}

// Node returns what a node had at a time (zero: now), of some kinds (none: all).
func (s *Store) Node(ctx context.Context, node string, at time.Time, kinds []string, cursor string) (inventory.NodePage, error) {
	page := inventory.NodePage{Sections: []inventory.Reported{}, Items: []inventory.Item{}}
	if at.IsZero() {
		at = s.now()
	}
	from := nodeCursor{At: micros(at)}
	if err := readCursor(cursor, &from); err != nil {
		return page, err
	}
	page.At = fromMicros(from.At)
	sections, err := s.sections(ctx, s.db, node)
	if err == nil && len(sections) == 0 {
		err = ErrNoNode
	}
	if err != nil {
		return page, fmt.Errorf("node %s: %w", node, err)
	}
	for _, section := range sections {
		if len(kinds) == 0 || slices.Contains(kinds, section.Kind) {
			page.Sections = append(page.Sections, section.Reported)
		}
	}
	slices.SortFunc(page.Sections, func(a, b inventory.Reported) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Scope, b.Scope))
	})
	where, args := "", []any{node, from.At, from.At, from.Kind, from.Key, from.Scope, from.First}
	if len(kinds) > 0 {
		where = ` AND f.kind IN (` + marks(len(kinds), "") + `)`
		for _, k := range kinds {
			args = append(args, k)
		}
	}
	const limit = 5000
	args = append(args, limit+1)
	last, size, n := from, 0, 0
	var before struct{ kind, key, value string }
	err = s.rows(ctx, s.db, `SELECT f.kind, f.key, f.value, i.scope, i.first_seen FROM items i JOIN facts f ON f.id = i.fact
		WHERE i.node = ? AND i.first_seen <= ? AND i.gone_at > ? AND (f.kind, f.key, i.scope, i.first_seen) > (?, ?, ?, ?)`+where+`
		ORDER BY f.kind, f.key, i.scope, i.first_seen LIMIT ?`, args, func(r *sql.Rows) error {
		row := nodeCursor{At: from.At}
		var value string
		if err := r.Scan(&row.Kind, &row.Key, &value, &row.Scope, &row.First); err != nil {
			return err
		}
		if n++; page.Cursor != "" {
			return nil
		}
		if n > limit || size > 0 && size+len(row.Key)+len(value) > pageBytes {
			page.Cursor = writeCursor(last)
			return nil
		}
		last = row
		// Two scopes may have found the same thing.
		if now := (struct{ kind, key, value string }{row.Kind, row.Key, value}); now == before {
			return nil
		} else {
			before = now
		}
		size += len(row.Key) + len(value) + 60
		item, err := itemOf(row.Kind, row.Key, value)
		page.Items = append(page.Items, item)
		return err
	})
	if err != nil {
		return page, fmt.Errorf("node %s: %w", node, err)
	}
	return page, nil
}

func itemOf(kind, key, value string) (inventory.Item, error) {
	var item inventory.Item
	raw, err := json.Marshal(struct {
		Kind   string          `json:"kind"`
		Key    string          `json:"key"`
		Values json.RawMessage `json:"values"`
	}{kind, key, json.RawMessage(value)})
	if err == nil {
		err = json.Unmarshal(raw, &item)
	}
	return item, err
}

type diffCursor struct {
	Since int64 `json:"s"`
	Until int64 `json:"u"`
	Skip  int   `json:"n"`
}

// Diff compares what a node had at two times; until zero is now.
func (s *Store) Diff(ctx context.Context, node string, since, until time.Time, kinds []string, cursor string) (inventory.DiffPage, error) {
	page := inventory.DiffPage{Changes: []inventory.Change{}}
	if until.IsZero() {
		until = s.now()
	}
	from := diffCursor{Since: micros(since), Until: micros(until)}
	if err := readCursor(cursor, &from); err != nil {
		return page, err
	}
	if from.Since >= from.Until || from.Skip < 0 {
		return page, questionf("node %s: %s is not before %s", node, fromMicros(from.Since).Format(time.RFC3339), fromMicros(from.Until).Format(time.RFC3339))
	}
	sections, err := s.sections(ctx, s.db, node)
	if err == nil && len(sections) == 0 {
		err = ErrNoNode
	}
	if err != nil {
		return page, fmt.Errorf("node %s: %w", node, err)
	}
	for key, section := range sections {
		if len(kinds) > 0 && !slices.Contains(kinds, section.Kind) {
			delete(sections, key)
		} else if first := micros(section.FirstAt); first > from.Since && first <= from.Until {
			page.First = append(page.First, inventory.Section{Kind: section.Kind, Scope: section.Scope}.Name())
		}
	}
	slices.Sort(page.First)
	type id struct{ kind, key, scope string }
	type pair struct {
		before, after string
		at            int64
	}
	found := map[id]*pair{}
	err = s.rows(ctx, s.db, `SELECT f.kind, f.key, f.value, i.scope, i.first_seen, i.gone_at FROM items i JOIN facts f ON f.id = i.fact
		WHERE i.node = ? AND i.gone_at > ? AND i.first_seen <= ?`, []any{node, from.Since, from.Until}, func(r *sql.Rows) error {
		var x id
		var value string
		var first, gone int64
		if err := r.Scan(&x.kind, &x.key, &value, &x.scope, &first, &gone); err != nil {
			return err
		}
		section, ok := sections[[2]string{x.kind, x.scope}]
		if !ok {
			return nil
		}
		then := max(from.Since, micros(section.FirstAt))
		was, is := first <= then && gone > then, gone > from.Until
		if was == is || then > from.Until {
			return nil
		}
		p := found[x]
		if p == nil {
			p = &pair{}
			found[x] = p
		}
		if was {
			p.before, p.at = value, max(p.at, gone)
		} else {
			p.after, p.at = value, max(p.at, first)
		}
		return nil
	})
	if err != nil {
		return page, fmt.Errorf("node %s: %w", node, err)
	}
	order := make([]id, 0, len(found))
	for x := range found {
		order = append(order, x)
	}
	slices.SortFunc(order, func(a, b id) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.key, b.key), cmp.Compare(a.scope, b.scope))
	})
	size := 0
	for i, x := range order[min(from.Skip, len(order)):] {
		p := found[x]
		if p.before == p.after {
			continue // it was away in between
		}
		if add := len(x.key) + len(p.before) + len(p.after) + 120; size > 0 && size+add > pageBytes {
			page.Cursor = writeCursor(diffCursor{from.Since, from.Until, from.Skip + i})
			break
		} else {
			size += add
		}
		c := inventory.Change{What: "changed", At: fromMicros(p.at), Kind: x.kind, Key: x.key}
		for _, side := range []struct {
			value  string
			values *map[string]any
			other  string // what it is called if this side is not there
		}{{p.before, &c.Before, "added"}, {p.after, &c.After, "removed"}} {
			if side.value == "" {
				c.What = side.other
				continue
			}
			item, err := itemOf(x.kind, x.key, side.value)
			if err != nil {
				return page, fmt.Errorf("node %s: %w", node, err)
			}
			*side.values = item.Values
		}
		page.Changes = append(page.Changes, c)
	}
	return page, nil
}
