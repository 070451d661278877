package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/runbooks"
)

// The steps of a plan fit the terminal.
func TestPlanFits(t *testing.T) {
	for _, name := range runbooks.Names() {
		a := &app{program: "starter", stderr: &bytes.Buffer{}, sources: map[string][]byte{}}
		prog, err := a.load(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, width := range []int{60, 79} {
			var b bytes.Buffer
			printPlan(&b, makePlan(prog, nil), runview.Options{Width: width, Color: true})
			_, steps, _ := strings.Cut(b.String(), "\nsteps\n")
			steps, _, _ = strings.Cut(steps, "\nplan: ")
			for l := range strings.Lines(steps) {
				if w := text.StringWidthWithoutEscSequences(strings.TrimSuffix(l, "\n")); w > width {
					t.Errorf("%s: %d columns, not %d: %s", name, w, width, l)
				}
			}
		}
	}
}
