package canary

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// pair is a kind of canary and a place where it is, or may be, found.
type pair struct{ kind, place string }

// allowed is the reviewed list: what may be found, and where. A pair that is false may
// also be missed: it is seen in a process that lives for a moment, on a machine that may be busy.
type allowed map[pair]bool

// readAllowed reads lines of "kinds | places | why"; several kinds or places are
// separated by commas, and each pair of them has to be found, unless a ~ stands before the place.
func readAllowed(text string) (allowed, error) {
	list := allowed{}
	for i, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		f := strings.Split(line, "|")
		if len(f) != 3 || strings.TrimSpace(f[2]) == "" {
			return nil, fmt.Errorf("allowed.txt:%d: want kinds | places | why", i+1)
		}
		for kind := range strings.SplitSeq(f[0], ",") {
			for place := range strings.SplitSeq(f[1], ",") {
				name, fleeting := strings.CutPrefix(strings.TrimSpace(place), "~")
				p := pair{strings.TrimSpace(kind), name}
				if _, twice := list[p]; twice {
					return nil, fmt.Errorf("allowed.txt:%d: %s in %s is on the list twice", i+1, p.kind, p.place)
				}
				list[p] = !fleeting
			}
		}
	}
	return list, nil
}

// judge holds what was found against the list.
func (list allowed) judge(g garrison, found []sighting) (on int, mistakes []string) {
	seen := map[pair]bool{}
	for _, s := range found {
		p := pair{s.kind, s.place}
		if seen[p] {
			continue
		}
		seen[p] = true
		if _, ok := list[p]; ok {
			on++
			continue
		}
		mistakes = append(mistakes, fmt.Sprintf("%s | %s: found outside the list, %s", s.kind, s.place, s.how))
	}
	for p, always := range list {
		switch {
		case g[p.kind] == nil:
			mistakes = append(mistakes, fmt.Sprintf("%s | %s: on the list, but no such canary is planted", p.kind, p.place))
		case !seen[p] && always:
			mistakes = append(mistakes, fmt.Sprintf("%s | %s: on the list, and not found there: take it off", p.kind, p.place))
		}
	}
	// What nobody has seen anywhere may never have been there at all.
	for _, kind := range slices.Sorted(maps.Keys(g)) {
		if !slices.ContainsFunc(found, func(s sighting) bool { return s.kind == kind }) {
			mistakes = append(mistakes, kind+": found nowhere, not even where it was to arrive: was it planted?")
		}
	}
	slices.Sort(mistakes)
	return on, mistakes
}

func (w *world) theList() allowed {
	w.t.Helper()
	text, err := os.ReadFile("allowed.txt")
	if err != nil {
		w.t.Fatal(err)
	}
	list, err := readAllowed(string(text))
	if err != nil {
		w.t.Fatal(err)
	}
	maps.DeleteFunc(list, func(p pair, _ bool) bool { return !w.has(p) })
	return list
}

// has tells whether there is such a pair: there is none of PostgreSQL if that is not installed.
func (w *world) has(p pair) bool {
	return w.outputs != "" || !strings.HasPrefix(p.place, "PostgreSQL ") && p.kind != "pg.store_password"
}

func TestList(t *testing.T) {
	g := garrison{"a": {kind: "a"}, "b": {kind: "b"}, "c": {kind: "c"}}
	list, err := readAllowed("# a remark\n\na, b | log,db | why\nz | db | why\na | ~argv | why\nc | ~environ | why\n")
	if err != nil {
		t.Fatal(err)
	}
	on, mistakes := list.judge(g, []sighting{{"a", "log", ""}, {"a", "db", ""}, {"b", "log", ""}, {"a", "argv", "raw"}, {"a", "home", "raw"}, {"a", "log", "again"}})
	want := []string{
		"a | home: found outside the list, raw",
		"b | db: on the list, and not found there: take it off",
		"c: found nowhere, not even where it was to arrive: was it planted?",
		"z | db: on the list, but no such canary is planted",
	}
	if on != 4 || !slices.Equal(mistakes, want) {
		t.Errorf("%d on the list, mistakes %q\nwant 4, %q", on, mistakes, want)
	}
	for _, text := range []string{"a | log", "a | log | ", "a | log | why\na,b | log | why"} {
		if _, err := readAllowed(text); err == nil {
			t.Errorf("%q is taken for a list", text)
		}
	}
}
