// Package workercomponent adds no worker to the Temporal server. It stands in for the package of the same path, which
// runs the worker controller's workflows; see package iface.
package workercomponent

import "go.uber.org/fx"

// Module provides nothing.
var Module = fx.Options()
