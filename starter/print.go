package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/almanac-run/almanac/internal/runview"
)

// printJSON writes v as indented JSON.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// columns writes rows as a table without lines, below a heading unless it is
// empty. Cells are cleaned.
func columns(w io.Writer, indent string, heading []string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	t := table.NewWriter()
	t.SetStyle(table.Style{Box: table.BoxStyle{PaddingRight: "  "}, Options: table.OptionsNoBordersAndSeparators})
	t.SuppressTrailingSpaces()
	add := func(cells []string) {
		row := make(table.Row, len(cells))
		for i, c := range cells {
			row[i] = strings.ReplaceAll(runview.Clean(c), "\n", " ")
		}
		t.AppendRow(row)
	}
	if len(heading) > 0 {
		add(heading)
	}
	for _, r := range rows {
		add(r)
	}
	for _, l := range strings.Split(t.Render(), "\n") {
		fmt.Fprintln(w, strings.TrimRight(indent+l, " "))
	}
}

// fit leaves out columns, those of dispensable in their order, until the table
// is at most width wide, if that is known: a broken line is harder to read.
func fit(heading []string, rows [][]string, width int, dispensable ...string) ([]string, [][]string) {
	all := append([][]string{heading}, rows...)
	for _, name := range dispensable {
		total := 0
		for i := range all[0] {
			most := 0
			for _, r := range all {
				most = max(most, text.StringWidthWithoutEscSequences(r[i]))
			}
			total += most + 2
		}
		if width == 0 || total-2 <= width {
			break
		}
		at := slices.Index(all[0], name)
		for i, r := range all {
			all[i] = slices.Delete(slices.Clone(r), at, at+1)
		}
	}
	return all[0], all[1:]
}
