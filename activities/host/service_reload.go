package host

import (
	"context"

	"github.com/almanac-run/almanac/action"
)

func serviceReload(n Node) action.Action {
	return action.New(action.Def[serviceInput, serviceOutput]{
		Name:    "host.service.reload",
		Summary: "Make a service read its configuration again",
		Details: "There is no rollback: write the configuration with host.file.write before, and reload once more in its rollback if that is needed.\n\n" + serviceDetails,
		Example: "id: reload\ntargets: [web-1]\naction: host.service.reload\nwith: { name: nginx }",
		Do: func(ctx context.Context, in serviceInput) (serviceOutput, error) {
			return n.service(ctx, in, "reload")
		},
	})
}
