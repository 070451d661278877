package main

import (
	"cmp"
	"slices"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/activities/http"
	"github.com/almanac-run/almanac/activities/notify"
)

// actionInfos lists what is known of the actions that this build was made
// with, by name. Nothing here runs them.
func actionInfos() []action.Info {
	var infos []action.Info
	for _, group := range [][]action.Action{host.Actions(host.Node{}), http.Actions(), notify.Actions()} {
		for _, a := range group {
			infos = append(infos, a.Info)
		}
	}
	slices.SortFunc(infos, func(a, b action.Info) int { return cmp.Compare(a.Name, b.Name) })
	return infos
}
