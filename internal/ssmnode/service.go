package ssmnode

import (
	"context"
	_ "embed" // the script

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/host"
)

//go:embed service.sh
var serviceScript string

// serviceAction is an action of host.service, by its verb.
func serviceAction(env Env, info action.Info, verb string) action.Action {
	what := "active"
	if verb == "enable" || verb == "disable" {
		what = "enabled"
	}
	do := func(n node, ctx context.Context, in host.ServiceInput) (host.ServiceOutput, error) {
		is, err := n.service(ctx, info.Name, "", in, map[string]string{"service_verb": verb})
		if err != nil {
			return host.ServiceOutput{}, err
		}
		return host.ServiceOutput{Name: in.Name, Active: is["active"] == "yes", Enabled: is["enabled"] == "yes", Changed: is["changed"] == "yes"}, nil
	}
	if !info.Compensates {
		return serve(env, info.Name, do, nil)
	}
	return serve(env, info.Name, do, func(n node, ctx context.Context, in host.ServiceInput, out *host.ServiceOutput) error {
		values := map[string]string{"service_verb": "undo", "service_what": what}
		if out != nil && out.Changed {
			values["service_changed"] = "yes"
		}
		_, err := n.service(ctx, info.Name, "undo", in, values)
		return err
	})
}

func (n node) service(ctx context.Context, action, purpose string, in host.ServiceInput, env map[string]string) (map[string]string, error) {
	if err := serviceName(in.Name); err != nil {
		return nil, err
	}
	values := map[string]string{"service_name": in.Name, "service_what": "", "service_changed": ""}
	for name, value := range env {
		values[name] = value
	}
	return n.fixed(ctx, action, purpose, serviceScript, values, "")
}

func serviceName(name string) error {
	if !host.ServiceName().MatchString(name) || len(name) > 200 {
		return action.Errorf(action.Invalid, "%q is no name of a service", name)
	}
	return nil
}
