package host

import (
	"context"

	"github.com/almanac-run/almanac/action"
)

func serviceDisable(n Node) action.Action {
	return action.New(action.Def[serviceInput, serviceOutput]{
		Name:    "host.service.disable",
		Summary: "Make a service no longer start with the node",
		Details: "Rollback enables it again, if it was enabled before. It is not stopped.\n\n" + serviceDetails,
		Example: "id: disable\ntargets: [web-1]\naction: host.service.disable\nwith: { name: nginx }",
		Do: func(ctx context.Context, in serviceInput) (serviceOutput, error) {
			return n.service(ctx, in, "disable")
		},
		Compensate: func(ctx context.Context, in serviceInput, out *serviceOutput) error {
			return n.unservice(ctx, in, out, false)
		},
	})
}
