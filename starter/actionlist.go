package main

import (
	"cmp"
	"slices"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/catalog"
)

// actionInfos lists what is known of the actions that this build was made
// with, by name. Nothing here runs them.
func actionInfos() []action.Info {
	return slices.SortedFunc(slices.Values(catalog.Actions()), func(a, b action.Info) int { return cmp.Compare(a.Name, b.Name) })
}
