package host

import (
	"context"

	"github.com/almanac-run/almanac/action"
)

func serviceStatus(n Node) action.Action {
	return action.New(action.Def[serviceInput, serviceOutput]{
		Name:    "host.service.status",
		Summary: "Say whether a service runs",
		Details: "A service that does not run is no error.\n\n" + serviceDetails,
		Example: "id: status\ntargets: [web-1]\naction: host.service.status\nwith: { name: nginx }",
		Do: func(ctx context.Context, in serviceInput) (serviceOutput, error) {
			return n.service(ctx, in, "")
		},
	})
}
