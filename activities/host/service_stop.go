package host

import (
	"context"

	"github.com/almanac-run/almanac/action"
)

func serviceStop(n Node) action.Action {
	return action.New(action.Def[serviceInput, serviceOutput]{
		Name:    "host.service.stop",
		Summary: "Stop a service",
		Details: "Rollback starts it again, if it was running before.\n\n" + serviceDetails,
		Example: "id: stop\ntargets: [web-1]\naction: host.service.stop\nwith: { name: nginx }",
		Do: func(ctx context.Context, in serviceInput) (serviceOutput, error) {
			return n.service(ctx, in, "stop")
		},
		Compensate: func(ctx context.Context, in serviceInput, out *serviceOutput) error {
			return n.unservice(ctx, in, out, true)
		},
	})
}
