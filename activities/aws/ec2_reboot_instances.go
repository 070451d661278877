package aws

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/almanac-run/almanac/action"
)

type rebootInput struct {
	Scope
	InstanceIDs []string `json:"instance_ids" jsonschema:"instances to reboot"`
	Idempotent  bool     `json:"idempotent,omitempty" jsonschema:"ask again if it is not known whether AWS has heard it; an instance may then reboot twice" default:"false"`
}

func rebootInstances(env Env) action.Action {
	return action.New(action.Def[rebootInput, struct{}]{
		Name:    "aws.ec2.reboot_instances",
		Summary: "Reboot instances and wait until their status checks pass",
		Details: `
EC2 does not tell whether an instance has rebooted, and its call takes no token. So the action tags the instances (` + "`almanac:note:reboot`" + `) before it asks and
again after AWS has answered. If an answer was lost in between, nobody knows whether AWS has heard it: the step then fails with
kind unknown, unless ` + "`idempotent: true`" + ` lets it ask again.

Right after a reboot was asked for, EC2 still shows the checks of before; the action waits at least a minute. To wait until
commands can be run, follow it with aws.ssm.wait_managed. There is nothing to take back.
`,
		Example: `action: aws.ec2.reboot_instances
with: { instance_ids: [i-0123456789abcdef0] }`,
		Timeout: 30 * time.Minute,
		Do: func(ctx context.Context, in rebootInput) (struct{}, error) {
			return struct{}{}, env.in(ctx, in.Scope).reboot(ctx, in)
		},
	})
}

// What a note of a reboot says.
const (
	rebootAsking = "asking"
	rebootAsked  = "asked"
)

func (c client) reboot(ctx context.Context, in rebootInput) error {
	if err := wellFormed(instanceForm, "instance", in.InstanceIDs...); err != nil {
		return err
	}
	ids := sorted(in.InstanceIDs)
	if _, err := c.waitSeen(ctx, ids); err != nil {
		return err
	}
	// All are asked for in one call, so that all say the same.
	noted, err := c.notes(ctx, "reboot", ids, !c.first())
	if err != nil {
		return err
	}
	all := func(text string) map[string]string {
		texts := map[string]string{}
		for _, id := range ids {
			texts[id] = text
		}
		return texts
	}
	said := ""
	for _, text := range noted {
		if said != rebootAsked {
			said = text
		}
	}
	if said == rebootAsking && !in.Idempotent {
		return action.Errorf(action.Unknown, "an earlier attempt was about to reboot %s, and its answer was lost: see whether they have rebooted; it is not asked again", named(ids))
	}
	if said != rebootAsked {
		if err := c.note(ctx, "reboot", all(rebootAsking)); err != nil {
			return err
		}
		if _, err := c.news(ctx, "ec2", "RebootInstances", members{"InstanceIds": anys(ids)}); err != nil {
			if action.KindOf(err) != action.Unavailable && ctx.Err() == nil { // AWS has said no
				err = errors.Join(err, c.forget(ctx, "reboot", ids))
			}
			return err
		}
		if err := c.note(ctx, "reboot", all(rebootAsked)); err != nil {
			return err
		}
	}
	if err := c.Sleep(ctx, time.Minute); err != nil {
		return err
	}
	return c.wait(ctx, 30*time.Minute, "status checks", func() (bool, string, error) {
		var found []members
		for some := range slices.Chunk(ids, 100) {
			these, err := c.list(ctx, "ec2", "DescribeInstanceStatus", "InstanceStatuses", members{"IncludeAllInstances": true, "InstanceIds": anys(some)})
			if notFound(err) {
				return false, "not all seen", nil
			}
			if err != nil {
				return false, "", err
			}
			found = append(found, these...)
		}
		fine, not := 0, []string{}
		for _, s := range found {
			inside, system := s.in("InstanceStatus").text("Status"), s.in("SystemStatus").text("Status")
			if inside == "ok" && system == "ok" {
				fine++
			} else {
				not = append(not, s.text("InstanceId")+" "+inside+"/"+system)
			}
		}
		return fine == len(ids), named(not), nil
	})
}
