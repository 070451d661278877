package aws

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/almanac-run/almanac/action"
)

type switchInput struct {
	Scope
	InstanceIDs []string `json:"instance_ids" jsonschema:"the instances"`
}

type switchOutput struct {
	Changed []string `json:"changed" jsonschema:"the instances that were in the other state before"`
}

const switchDetails = `
Before it changes an instance it tags it (` + "`almanac:note:stop` or `almanac:note:start`" + `, with the step's token): so that later attempts and rollback
know which instances were in the other state, also if an answer was lost. The tag stays until rollback or the next such step.
Rollback brings those instances back to the state in which they were, and no others; one that was terminated in the meantime is left.
`

func stopInstances(env Env) action.Action {
	return action.New(action.Def[switchInput, switchOutput]{
		Name:    "aws.ec2.stop_instances",
		Summary: "Stop instances and wait until they are",
		Details: switchDetails,
		Example: `id: stop
action: aws.ec2.stop_instances
with: { instance_ids: [i-0123456789abcdef0] }`,
		Timeout: 30 * time.Minute,
		Do: func(ctx context.Context, in switchInput) (switchOutput, error) {
			return env.in(ctx, in.Scope).change(ctx, in.InstanceIDs, toStopped)
		},
		Compensate: func(ctx context.Context, in switchInput, out *switchOutput) error {
			return env.in(ctx, in.Scope).changeBack(ctx, in.InstanceIDs, toStopped, out)
		},
	})
}

// A way is from one of the two states in which an instance can stay to the other.
type way struct{ note, operation, from, to string }

var (
	toStopped = way{note: "stop", operation: "StopInstances", from: "running", to: "stopped"}
	toRunning = way{note: "start", operation: "StartInstances", from: "stopped", to: "running"}
)

// back is the way back.
func (w way) back() way {
	if w == toStopped {
		return toRunning
	}
	return toStopped
}

// change brings instances into a state and says which were in the other one.
func (c client) change(ctx context.Context, ids []string, w way) (switchOutput, error) {
	if err := wellFormed(instanceForm, "instance", ids...); err != nil {
		return switchOutput{}, err
	}
	ids = sorted(ids)
	now, err := c.waitSeen(ctx, ids)
	if err != nil {
		return switchOutput{}, err
	}
	noted, err := c.notes(ctx, w.note, ids, !c.first() && slices.ContainsFunc(ids, func(id string) bool { return stateOf(now[id]) != w.from }))
	if err != nil {
		return switchOutput{}, err
	}
	write := map[string]string{}
	for _, id := range ids {
		state := stateOf(now[id])
		_, known := noted[id]
		switch {
		case state == "terminated" || state == "shutting-down":
			return switchOutput{}, action.Errorf(action.Conflict, "instance %s is %s", id, state)
		// One on its way to the other state is as good as there.
		case !known && (state == w.from || w == toStopped && state == "pending" || w == toRunning && state == "stopping"):
			write[id], noted[id] = "", ""
		}
	}
	if err := c.note(ctx, w.note, write); err != nil {
		return switchOutput{}, err
	}
	return switchOutput{Changed: append([]string{}, slices.Sorted(maps.Keys(noted))...)}, c.bring(ctx, ids, w, false)
}

// changeBack brings the instances that were changed into the state in which they were.
func (c client) changeBack(ctx context.Context, ids []string, w way, out *switchOutput) error {
	var changed []string
	if out != nil {
		changed = out.Changed
	} else {
		noted, err := c.notes(ctx, w.note, sorted(ids), true)
		if err != nil {
			return err
		}
		changed = slices.Sorted(maps.Keys(noted))
	}
	if len(changed) == 0 {
		return nil
	}
	if err := c.bring(ctx, changed, w.back(), true); err != nil {
		return err
	}
	return c.forget(ctx, w.note, changed)
}

// bring goes the way with all instances. Those that end are left if they may.
func (c client) bring(ctx context.Context, ids []string, w way, mayEnd bool) error {
	unseen := c.Now()
	return c.wait(ctx, 30*time.Minute, "instances to be "+w.to, func() (bool, string, error) {
		now, err := c.theseInstances(ctx, ids)
		if err != nil {
			return false, "", err
		}
		var ask, not []string
		for _, id := range ids {
			state := stateOf(now[id])
			switch {
			case state == w.to:
			case mayEnd && (state == "shutting-down" || state == "terminated" || state == "" && c.Now().Sub(unseen) >= goneTakes):
			case state == "shutting-down" || state == "terminated":
				return false, "", action.Errorf(action.Failed, "instance %s is %s: %s", id, state, reason(now[id]))
			default:
				if state == w.from {
					ask = append(ask, id)
				}
				not = append(not, id+" "+state)
			}
		}
		if len(ask) > 0 {
			_, err = c.call(ctx, "ec2", w.operation, members{"InstanceIds": anys(ask)})
			if notFound(err) || is(err, "IncorrectInstanceState") {
				err = nil // whoever answered knows of another state; look again
			}
		}
		return len(not) == 0, named(not), err
	})
}
