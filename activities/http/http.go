// Package http is the actions that call a web server: webhooks, health checks,
// APIs that have no actions of their own.
//
// It gives Actions. It promises that what a runbook passes in stays data (a
// query value is encoded, a header cannot hold a second one), and what
// internal/httpcall promises of every call. It refuses to know the other side:
// the kind of an error comes from the HTTP status alone.
package http

import (
	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/httpcall"
)

// Actions lists the actions of this package.
func Actions() []action.Action {
	client := httpcall.New()
	return []action.Action{
		request(client),
	}
}
