package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

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
