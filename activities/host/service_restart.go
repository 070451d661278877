package host

import (
	"context"

	"github.com/almanac-run/almanac/action"
)

func serviceRestart(n Node) action.Action {
	return action.New(action.Def[serviceInput, serviceOutput]{
		Name:    "host.service.restart",
		Summary: "Restart a service, or start it",
		Details: "Rollback stops it if it was not running before; that it was restarted cannot be taken back.\n\n" + serviceDetails,
		Example: "id: restart\ntargets: [web-1]\naction: host.service.restart\nwith: { name: nginx }",
		Do: func(ctx context.Context, in serviceInput) (serviceOutput, error) {
			return n.service(ctx, in, "restart")
		},
		Compensate: func(ctx context.Context, in serviceInput, out *serviceOutput) error {
			return n.unservice(ctx, in, out, true)
		},
	})
}
