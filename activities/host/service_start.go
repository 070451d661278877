package host

import (
	"context"

	"github.com/almanac-run/almanac/action"
)

func serviceStart(n Node) action.Action {
	return action.New(action.Def[serviceInput, serviceOutput]{
		Name:    "host.service.start",
		Summary: "Start a service",
		Details: "Rollback stops it, if it was not running before.\n\n" + serviceDetails,
		Example: "id: start\ntargets: [web-1]\naction: host.service.start\nwith: { name: nginx }",
		Do: func(ctx context.Context, in serviceInput) (serviceOutput, error) {
			return n.service(ctx, in, "start")
		},
		Compensate: func(ctx context.Context, in serviceInput, out *serviceOutput) error {
			return n.unservice(ctx, in, out, true)
		},
	})
}
