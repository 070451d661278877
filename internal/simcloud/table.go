package simcloud

import (
	"maps"
	"slices"
)

// table is what a service keeps, by key. The zero value is empty.
type table[T any] struct{ rows map[string]T }

func (t *table[T]) put(key string, row T) {
	if t.rows == nil {
		t.rows = map[string]T{}
	}
	t.rows[key] = row
}

func (t *table[T]) get(key string) (T, bool) {
	row, ok := t.rows[key]
	return row, ok
}

func (t *table[T]) drop(key string) { delete(t.rows, key) }

// all returns the rows in the order of their keys: who came first must not show.
func (t *table[T]) all() []T {
	rows := make([]T, 0, len(t.rows))
	for _, key := range slices.Sorted(maps.Keys(t.rows)) {
		rows = append(rows, t.rows[key])
	}
	return rows
}

// key is where a name that is unique in an account and region is kept.
func (p place) key(name string) string { return p.account + " " + p.region + " " + name }
