package host

import (
	"context"

	"github.com/almanac-run/almanac/action"
)

func serviceEnable(n Node) action.Action {
	return action.New(action.Def[serviceInput, serviceOutput]{
		Name:    "host.service.enable",
		Summary: "Make a service start with the node",
		Details: "Rollback disables it, if it was not enabled before. It is not started.\n\n" + serviceDetails,
		Example: "id: enable\ntargets: [web-1]\naction: host.service.enable\nwith: { name: nginx }",
		Do: func(ctx context.Context, in serviceInput) (serviceOutput, error) {
			return n.service(ctx, in, "enable")
		},
		Compensate: func(ctx context.Context, in serviceInput, out *serviceOutput) error {
			return n.unservice(ctx, in, out, false)
		},
	})
}
