// Package contract holds our simulated cloud and a stranger's, moto, to the same
// scenarios. It has tests only.
//
// A scenario is told once, against awsapi.Caller, and says what AWS's
// documentation promises. It runs in process against simcloud, and over the wire,
// with our client and a proxy that breaks things, against moto in server mode.
// Where one of them is known to be unlike AWS stands in the list of differences;
// what is not on it fails, and what is on it and does not differ any more fails,
// too. So agreement of the two is evidence for the scenarios, and the list says
// of what there is none. The typed actions of activities/aws run over the same
// proxy, with answers that are lost.
//
// `make contract` runs it all and prints what agreed. Without moto only the
// half against simcloud runs.
package contract

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Most of the time is spent waiting for what our client waits for.
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	code := m.Run()
	moto.stop()
	if testing.Verbose() || os.Getenv("ALMANAC_CONTRACT") != "" {
		fmt.Print(report.table())
	}
	os.Exit(code)
}

// TestScenarios holds every back end to every scenario.
func TestScenarios(t *testing.T) {
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) {
			b.needed(t)
			for _, sc := range scenarios {
				t.Run(sc.name, func(t *testing.T) {
					t.Parallel()
					judge(t, b.name, sc.name, sc.play(b.open(t, sc.options...)))
				})
			}
		})
	}
}

// judge compares what came of a scenario with the differences that are known.
func judge(t *testing.T, backend, scenario string, got outcome) {
	t.Helper()
	wrong, listed := verdict(differences, backend, scenario, got)
	for _, w := range wrong {
		t.Error(w)
	}
	report.add(backend, scenario, fmt.Sprintf("%d pass", got.held), listed, t.Failed())
}

// verdict is what is wrong: claims that failed and are not listed, and such as are
// listed and did not.
func verdict(differences []difference, backend, scenario string, got outcome) (wrong []string, listed int) {
	met := map[string]bool{}
	for _, d := range differences {
		if d.backend == backend && d.scenario == scenario {
			met[d.claim] = false
		}
	}
	for _, f := range got.failures {
		if _, ok := met[f.claim]; ok {
			met[f.claim] = true
			listed++
			continue
		}
		wrong = append(wrong, f.claim+": "+f.detail)
	}
	for _, claim := range slices.Sorted(maps.Keys(met)) {
		if !met[claim] {
			wrong = append(wrong, fmt.Sprintf("%q does not differ any more: take it off the list", claim))
		}
	}
	return wrong, listed
}

func TestVerdict(t *testing.T) {
	list := []difference{
		{"moto", "a", "meant", "why"}, {"moto", "a", "stale", "why"}, {"moto", "b", "of another", "why"}, {"simcloud", "a", "of another", "why"},
	}
	got := outcome{held: 1, failures: []failure{{"meant", "d"}, {"of another", "d"}}}
	wrong, listed := verdict(list, "moto", "a", got)
	want := []string{"of another: d", `"stale" does not differ any more: take it off the list`}
	if diff := cmp.Diff(want, wrong); diff != "" || listed != 1 {
		t.Errorf("%d listed, %s", listed, diff)
	}
}

// report is what TestMain prints.
var report results

type results struct {
	mu    sync.Mutex
	order []string
	cells map[string]string // by scenario and back end
}

func (r *results) add(backend, scenario, text string, listed int, failed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cells == nil {
		r.cells = map[string]string{}
	}
	if !slices.Contains(r.order, scenario) {
		r.order = append(r.order, scenario)
	}
	if listed > 0 {
		text += fmt.Sprintf(", %d listed", listed)
	}
	if failed {
		text += ", FAILED"
	}
	r.cells[scenario+"\x00"+backend] = text
}

func (r *results) table() string {
	if len(r.order) == 0 {
		return ""
	}
	var b strings.Builder
	row := func(cells ...string) { fmt.Fprintf(&b, "%-60s %-24s %s\n", cells[0], cells[1], cells[2]) }
	row("scenario", "simcloud", "moto "+motoVersion)
	slices.Sort(r.order)
	for _, scenario := range r.order {
		cells := []string{scenario}
		for _, b := range backends {
			text := r.cells[scenario+"\x00"+b.name]
			if text == "" {
				text = "-"
			}
			cells = append(cells, text)
		}
		row(cells...)
	}
	fmt.Fprintf(&b, "\n%d differences are listed:\n", len(differences))
	for _, d := range differences {
		fmt.Fprintf(&b, "%s, %s: %s\n\t%s\n", d.backend, d.scenario, d.claim, d.why)
	}
	return b.String()
}
