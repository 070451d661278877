package store

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/almanac-run/almanac/internal/inventory"
)

type queryCursor struct {
	Kind string `json:"k"`
	Key  string `json:"y"`
	Fact []byte `json:"f"`
	Node string `json:"n"`
}

// few is up to how many alternatives are named in a statement; above, it is faster to read everything.
const few = 500

// Query returns the items that nodes have now and that meet a condition, at most
// limit (1 to 1000) of them at a time. An item that lacks a field the condition asks for does not meet it.
func (s *Store) Query(ctx context.Context, text string, limit int, cursor string) (inventory.QueryPage, error) {
	page := inventory.QueryPage{Items: []inventory.Found{}}
	if limit < 1 || limit > 1000 {
		return page, questionf("a page has 1 to 1000 items, not %d", limit)
	}
	c, err := compileCondition(text)
	if err != nil {
		return page, err
	}
	var from queryCursor
	if err := readCursor(cursor, &from); err != nil {
		return page, err
	}
	sel, err := s.selection(ctx, c, nil)
	if err != nil {
		return page, fmt.Errorf("inventory: %w", err)
	}
	size := 0
	err = s.facts(ctx, sel, from, func(f fact) (bool, error) {
		item, err := f.item()
		if err != nil {
			return false, err
		}
		known := unclear
		if c.sooner {
			var why error
			known, why = c.ask(item)
			if known == no || known == unclear && !c.node {
				undecided(&page, why)
				return false, nil
			}
		}
		after := ""
		if f.kind == from.Kind && f.key == from.Key && bytes.Equal(f.id, from.Fact) {
			after = from.Node
		}
		return s.holders(ctx, f, sel.nodes, after, "", limit-len(page.Items)+1, func(node string, first int64) (bool, error) {
			if known == unclear {
				now, why := c.ask(held(item, node, first))
				if now != yes {
					undecided(&page, why)
					return false, nil
				}
			}
			if len(page.Items) == limit || size > pageBytes {
				last := page.Items[len(page.Items)-1]
				page.Cursor = writeCursor(queryCursor{from.Kind, from.Key, from.Fact, last.Node})
				return true, nil
			}
			found, err := f.found(node, first)
			page.Items = append(page.Items, found)
			size += len(f.key) + len(f.value) + 120
			from = queryCursor{Kind: f.kind, Key: f.key, Fact: f.id}
			return false, err
		})
	})
	if err != nil {
		return page, fmt.Errorf("inventory: %w", err)
	}
	return page, nil
}

// undecided counts a fact for which the condition failed, unless only because it lacks a field.
func undecided(p *inventory.QueryPage, why error) {
	if why == nil || absent(why) {
		return
	}
	if p.Unclear++; p.Why == "" {
		p.Why = why.Error()
	}
}

// A selection is what of the facts has to be looked at for a condition. nil: all of them.
type selection struct {
	kinds []string    // empty but not nil: nothing can meet the condition
	keys  [][2]string // kind and key, sorted
	nodes []string    // who has to have them
}

// selection finds out by the kinds, keys and nodes alone which of them cannot meet
// the condition. only, if not nil, are the kinds that matter.
func (s *Store) selection(ctx context.Context, c condition, only []string) (selection, error) {
	sel := selection{kinds: only}
	if !c.early {
		return sel, nil
	}
	may := func(known map[string]any) bool {
		v, _ := c.ask(known)
		return v != no
	}
	// A section for each kind of a node: far fewer than facts.
	kinds := []string{}
	err := s.rows(ctx, s.db, `SELECT DISTINCT kind FROM sections`, nil, func(r *sql.Rows) error {
		var kind string
		err := r.Scan(&kind)
		if (only == nil || slices.Contains(only, kind)) && may(map[string]any{"kind": kind}) {
			kinds = append(kinds, kind)
		}
		return err
	})
	if err != nil {
		return sel, err
	}
	if sel.kinds = kinds; len(kinds) == 0 {
		return sel, nil
	}
	if c.byKey {
		keys := [][2]string{}
		statement, args := `SELECT DISTINCT kind, key FROM facts WHERE kind IN (`+marks(len(kinds), "")+`)`, anys(kinds)
		err := s.rows(ctx, s.db, statement, args, func(r *sql.Rows) error {
			var k [2]string
			err := r.Scan(&k[0], &k[1])
			if len(keys) <= few && may(map[string]any{"kind": k[0], "key": k[1]}) {
				keys = append(keys, k)
			}
			return err
		})
		if err != nil {
			return sel, err
		}
		if len(keys) == 0 {
			sel.kinds = []string{}
		}
		if len(keys) <= few {
			slices.SortFunc(keys, func(a, b [2]string) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) })
			sel.keys = keys
		}
	}
	if c.node && c.sooner {
		nodes, all := []string{}, 0
		err := s.rows(ctx, s.db, `SELECT node FROM nodes ORDER BY node`, nil, func(r *sql.Rows) error {
			var node string
			err := r.Scan(&node)
			if all++; len(nodes) <= few && may(map[string]any{"node": node}) {
				nodes = append(nodes, node)
			}
			return err
		})
		if err != nil {
			return sel, err
		}
		if len(nodes) == 0 {
			sel.kinds = []string{}
		}
		if len(nodes) <= few {
			sel.nodes = nodes
		}
	}
	return sel, nil
}

func anys(texts []string) []any {
	args := make([]any, len(texts))
	for i, t := range texts {
		args[i] = t
	}
	return args
}

// facts calls each for the selected facts in order, beginning with that of from, until
// each says that it is enough. each may use the database: nothing is open meanwhile.
func (s *Store) facts(ctx context.Context, sel selection, from queryCursor, each func(fact) (enough bool, err error)) error {
	kinds := slices.Clone(sel.kinds)
	if sel.kinds == nil {
		err := s.rows(ctx, s.db, `SELECT DISTINCT kind FROM sections`, nil, func(r *sql.Rows) error {
			var kind string
			err := r.Scan(&kind)
			kinds = append(kinds, kind)
			return err
		})
		if err != nil {
			return err
		}
	}
	slices.Sort(kinds)
	for _, kind := range kinds {
		if kind < from.Kind {
			continue
		}
		at := queryCursor{Kind: kind, Fact: []byte{}}
		if kind == from.Kind {
			at.Key, at.Fact = from.Key, from.Fact
		}
		enough, err := false, error(nil)
		switch {
		case sel.nodes != nil:
			enough, err = s.factsOfNodes(ctx, at, sel, each)
		case sel.keys != nil:
			enough, err = s.factsOfKeys(ctx, at, sel, each)
		default:
			enough, err = s.factsOfKind(ctx, at, each)
		}
		if err != nil || enough {
			return err
		}
	}
	return nil
}

// batch is how many facts are in memory at a time: each may be 256 KiB.
const batch = 200

func (s *Store) someFacts(ctx context.Context, where string, args []any) ([]fact, error) {
	facts := make([]fact, 0, batch)
	err := s.rows(ctx, s.db, `SELECT id, kind, key, value FROM facts WHERE `+where, args, func(r *sql.Rows) error {
		var f fact
		err := r.Scan(&f.id, &f.kind, &f.key, &f.value)
		facts = append(facts, f)
		return err
	})
	return facts, err
}

func (s *Store) factsOfKind(ctx context.Context, at queryCursor, each func(fact) (bool, error)) (bool, error) {
	compare := ">=" // the cursor's own fact may have more holders
	for {
		facts, err := s.someFacts(ctx, `kind = ? AND (key, id) `+compare+` (?, ?) ORDER BY key, id LIMIT ?`, []any{at.Kind, at.Key, at.Fact, batch})
		if err != nil {
			return true, err
		}
		for _, f := range facts {
			if enough, err := each(f); err != nil || enough {
				return true, err
			}
		}
		if len(facts) < batch {
			return false, nil
		}
		at.Key, at.Fact, compare = facts[batch-1].key, facts[batch-1].id, ">"
	}
}

func (s *Store) factsOfKeys(ctx context.Context, at queryCursor, sel selection, each func(fact) (bool, error)) (bool, error) {
	for _, k := range sel.keys {
		if k[0] != at.Kind || k[1] < at.Key {
			continue
		}
		id, compare := []byte{}, ">="
		if k[1] == at.Key {
			id = at.Fact
		}
		for {
			facts, err := s.someFacts(ctx, `kind = ? AND key = ? AND id `+compare+` ? ORDER BY id LIMIT ?`, []any{k[0], k[1], id, batch})
			if err != nil {
				return true, err
			}
			for _, f := range facts {
				if enough, err := each(f); err != nil || enough {
					return true, err
				}
			}
			if len(facts) < batch {
				break
			}
			id, compare = facts[batch-1].id, ">"
		}
	}
	return false, nil
}

// factsOfNodes is for few nodes: which facts they have is asked once.
func (s *Store) factsOfNodes(ctx context.Context, at queryCursor, sel selection, each func(fact) (bool, error)) (bool, error) {
	var ids [][]byte
	args := append([]any{at.Kind, at.Key, at.Fact, int64(never)}, anys(sel.nodes)...)
	err := s.rows(ctx, s.db, `SELECT id FROM facts WHERE kind = ? AND (key, id) >= (?, ?)
		AND id IN (SELECT fact FROM items WHERE gone_at = ? AND node IN (`+marks(len(sel.nodes), "")+`)) ORDER BY key, id`, args, func(r *sql.Rows) error {
		var id []byte
		err := r.Scan(&id)
		ids = append(ids, id)
		return err
	})
	if err != nil {
		return true, err
	}
	for some := range slices.Chunk(ids, batch) {
		args := make([]any, len(some))
		for i, id := range some {
			args[i] = id
		}
		facts, err := s.someFacts(ctx, `id IN (`+marks(len(some), "")+`) ORDER BY key, id`, args)
		if err != nil {
			return true, err
		}
		for _, f := range facts {
			if enough, err := each(f); err != nil || enough {
				return true, err
			}
		}
	}
	return false, nil
}

// holders calls each for the nodes that have a fact now, in order: those after one,
// up to another if that is not empty, and of nodes only if that is not nil.
func (s *Store) holders(ctx context.Context, f fact, nodes []string, after, upTo string, atATime int, each func(node string, firstSeen int64) (enough bool, err error)) (enough bool, err error) {
	where, fixed := "", []any{f.id, int64(never)}
	if upTo != "" {
		where += ` AND node <= ?`
		fixed = append(fixed, upTo)
	}
	if nodes != nil {
		where += ` AND node IN (` + marks(len(nodes), "") + `)`
		fixed = append(fixed, anys(nodes)...)
	}
	atATime = max(atATime, 100)
	for {
		type holder struct {
			node  string
			first int64
		}
		var some []holder
		err := s.rows(ctx, s.db, `SELECT node, MIN(first_seen) FROM items WHERE fact = ? AND gone_at = ?`+where+
			` AND node > ? GROUP BY node ORDER BY node LIMIT ?`, append(slices.Clone(fixed), after, atATime), func(r *sql.Rows) error {
			var h holder
			err := r.Scan(&h.node, &h.first)
			some = append(some, h)
			return err
		})
		if err != nil {
			return true, err
		}
		for _, h := range some {
			if enough, err := each(h.node, h.first); err != nil || enough {
				return true, err
			}
		}
		if len(some) < atATime {
			return false, nil
		}
		after = some[len(some)-1].node
	}
}

// keysNamed is how many of the items that break a rule are named.
const keysNamed = 5

// Check applies rules to all nodes, up to 2,000 of them at a time. A rule that fails to be
// decided of an item is broken by it. baseline is what the result is called; with record it is kept as their compliance.
func (s *Store) Check(ctx context.Context, baseline string, rules []inventory.Rule, record bool, cursor string) (inventory.CheckPage, error) {
	page := inventory.CheckPage{Nodes: []inventory.Checked{}}
	var after string
	if err := readCursor(cursor, &after); err != nil {
		return page, err
	}
	const nodesAtATime = 2000
	var nodes []string
	err := s.rows(ctx, s.db, `SELECT node FROM nodes WHERE node > ? ORDER BY node LIMIT ?`, []any{after, nodesAtATime}, func(r *sql.Rows) error {
		var node string
		err := r.Scan(&node)
		nodes = append(nodes, node)
		return err
	})
	if err != nil || len(nodes) == 0 {
		return page, err
	}
	if len(nodes) == nodesAtATime {
		page.Cursor = writeCursor(nodes[len(nodes)-1])
	}
	at := s.now().UTC()
	place := map[string]int{}
	for i, node := range nodes {
		place[node] = i
		page.Nodes = append(page.Nodes, inventory.Checked{Compliance: inventory.Compliance{Node: node, Baseline: baseline, At: at}, Broken: []inventory.Broken{}})
	}
	for _, rule := range rules {
		if err := s.checkRule(ctx, rule, after, nodes, place, page.Nodes); err != nil {
			return page, err
		}
	}
	kept := make([]inventory.Compliance, 0, len(page.Nodes))
	for i := range page.Nodes {
		n := &page.Nodes[i]
		n.Status = inventory.Compliant
		for _, b := range n.Broken {
			n.Missing.Add(b.Severity)
		}
		switch {
		case len(n.Broken) > 0:
			n.Status = inventory.NonCompliant
		case len(n.Undecided) > 0:
			n.Status = inventory.Undecided
		}
		kept = append(kept, n.Compliance)
	}
	if record {
		if err := s.RecordCompliance(ctx, kept...); err != nil {
			return page, err
		}
	}
	known, err := s.since(ctx, baseline, nodes)
	for i := range page.Nodes {
		if c, ok := known[page.Nodes[i].Node]; ok && c.Status == page.Nodes[i].Status {
			page.Nodes[i].Since = c.Since
		} else {
			page.Nodes[i].Since = at
		}
	}
	cut(&page)
	return page, err
}

// cut ends the page before it is too large to be sent.
func cut(p *inventory.CheckPage) {
	size := 0
	for i, n := range p.Nodes {
		size += 400
		for _, b := range n.Broken {
			size += 100 + len(b.Rule) + len(b.Summary) + len(b.Why)
			for _, k := range b.Keys {
				size += len(k) + 4
			}
		}
		for _, u := range n.Undecided {
			size += len(u) + 4
		}
		if i > 0 && size > pageBytes {
			p.Cursor = writeCursor(p.Nodes[i-1].Node)
			p.Nodes = p.Nodes[:i]
			return
		}
	}
}

// checkRule notes in checked what a rule finds among nodes, which are sorted and come after one.
func (s *Store) checkRule(ctx context.Context, rule inventory.Rule, after string, nodes []string, place map[string]int, checked []inventory.Checked) error {
	where, assert, err := compileRule(rule)
	if err != nil {
		return err
	}
	last := nodes[len(nodes)-1]
	reported := map[string]bool{}
	err = s.rows(ctx, s.db, `SELECT DISTINCT node FROM sections WHERE kind = ? AND node > ? AND node <= ?`, []any{rule.Kind, after, last}, func(r *sql.Rows) error {
		var node string
		err := r.Scan(&node)
		reported[node] = true
		return err
	})
	if err != nil {
		return err
	}
	sel, err := s.selection(ctx, where, []string{rule.Kind})
	if err != nil {
		return err
	}
	sel.nodes = nil // others have to be judged, too
	broken := map[string]*inventory.Broken{}
	applies := map[string]bool{}
	err = s.facts(ctx, sel, queryCursor{}, func(f fact) (bool, error) {
		item, err := f.item()
		if err != nil {
			return false, err
		}
		about, ok := unclear, unclear
		if where.sooner {
			about, _ = where.ask(item)
		}
		if about == no || about == unclear && !where.node {
			return false, nil
		}
		var why error
		if assert.sooner {
			ok, why = assert.ask(item)
		}
		if about == yes && ok == yes && !rule.Required {
			return false, nil
		}
		_, err = s.holders(ctx, f, nil, after, last, len(nodes), func(node string, first int64) (bool, error) {
			if _, here := place[node]; !here {
				return false, nil // it was first reported a moment ago
			}
			about, ok, why := about, ok, why
			if about == unclear || ok == unclear {
				held(item, node, first)
			}
			if about == unclear {
				if about, _ = where.ask(item); about != yes {
					return false, nil
				}
			}
			applies[node] = true
			if ok == unclear && assert.node {
				ok, why = assert.ask(item)
			}
			if ok == yes {
				return false, nil
			}
			b := broken[node]
			if b == nil {
				b = &inventory.Broken{Rule: rule.Name, Summary: rule.Summary, Severity: rule.Severity, Keys: []string{}}
				broken[node] = b
			}
			b.Items++
			if len(b.Keys) < keysNamed {
				b.Keys = append(b.Keys, f.key)
			}
			if why != nil && b.Why == "" {
				b.Why = why.Error()
			}
			return false, nil
		})
		return false, err
	})
	if err != nil {
		return err
	}
	for i := range checked {
		node := checked[i].Node
		switch {
		case broken[node] != nil:
			checked[i].Broken = append(checked[i].Broken, *broken[node])
		case !reported[node]:
			checked[i].Undecided = append(checked[i].Undecided, rule.Name)
		case rule.Required && !applies[node]:
			checked[i].Broken = append(checked[i].Broken, inventory.Broken{Rule: rule.Name, Summary: rule.Summary, Severity: rule.Severity, Keys: []string{}})
		}
	}
	return nil
}
