// Package catalog is the one list of everything that a runbook can do.
//
// It gives Actions, which describes it for the compiler and the reference page,
// and Control, the part that needs no node. It promises that an action is in
// Actions if and only if some part of Almanac serves it. It refuses to know who
// serves what, and links no database.
package catalog

import (
	"slices"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/aws"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/activities/http"
	"github.com/almanac-run/almanac/activities/notify"
)

// Actions describes every action, in the order of the reference page.
func Actions() []action.Info {
	var infos []action.Info
	for _, a := range append(host.Actions(host.Node{}), Control(aws.Env{})...) {
		infos = append(infos, a.Info)
	}
	return infos
}

// Control lists the actions that the control worker serves. A zero Env is enough for what they are, not for running them.
func Control(env aws.Env) []action.Action {
	return slices.Concat(http.Actions(), notify.Actions(), aws.Actions(env))
}
