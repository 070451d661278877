package main

import (
	"strings"
	"testing"
)

func TestFit(t *testing.T) {
	heading := []string{"ID", "BOOK", "STATUS", "BY"}
	rows := [][]string{{"日本-1", "a/b", "failed", "ana"}}
	for width, want := range map[int]string{
		0:  "ID BOOK STATUS BY",
		27: "ID BOOK STATUS BY",
		26: "ID BOOK STATUS BY",
		22: "ID BOOK STATUS",
		17: "ID STATUS",
		3:  "ID STATUS", // the others stay
	} {
		h, r := fit(heading, rows, width, "BY", "BOOK")
		if got := strings.Join(h, " "); got != want || len(r[0]) != len(h) {
			t.Errorf("%d columns wide: %s (%q), want %s", width, got, r, want)
		}
	}
	if len(heading) != 4 || len(rows[0]) != 4 {
		t.Error("the table given was changed")
	}
}
