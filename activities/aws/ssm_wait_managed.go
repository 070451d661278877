package aws

import (
	"context"
	"slices"
	"time"

	"github.com/almanac-run/almanac/action"
)

type waitManagedInput struct {
	Scope
	InstanceIDs []string `json:"instance_ids" jsonschema:"instances (i-…) and hybrid nodes (mi-…)"`
}

type waitManagedOutput struct {
	Nodes []managedNode `json:"nodes" jsonschema:"what Systems Manager knows of each, in the order of the ids"`
}

type managedNode struct {
	InstanceID   string `json:"instance_id" jsonschema:"the node"`
	Platform     string `json:"platform" jsonschema:"Linux, Windows or MacOS"`
	PlatformName string `json:"platform_name,omitempty" jsonschema:"such as Amazon Linux"`
	AgentVersion string `json:"agent_version,omitempty" jsonschema:"version of the SSM agent"`
	IPAddress    string `json:"ip_address,omitempty" jsonschema:"its address"`
}

func waitManaged(env Env) action.Action {
	return action.New(action.Def[waitManagedInput, waitManagedOutput]{
		Name:    "aws.ssm.wait_managed",
		Summary: "Wait until the SSM agents of instances are online",
		Details: `
It reads only. Until then aws.ssm.send_command is refused. An agent registers within minutes after a launch if the instance has an
instance profile that allows it (AmazonSSMManagedInstanceCore) and reaches the endpoints ssm and ssmmessages of its region.
`,
		Example: `action: aws.ssm.wait_managed
with: { instance_ids: [i-0123456789abcdef0] }
timeout: 10m`,
		Timeout: 15 * time.Minute,
		Do: func(ctx context.Context, in waitManagedInput) (waitManagedOutput, error) {
			c, ids := env.in(ctx, in.Scope), sorted(in.InstanceIDs)
			if len(ids) == 0 {
				return waitManagedOutput{}, action.Errorf(action.Invalid, "no instance is named")
			}
			out := waitManagedOutput{}
			err := c.wait(ctx, 15*time.Minute, "SSM agents", func() (bool, string, error) {
				nodes, not, err := c.online(ctx, ids)
				out.Nodes = nodes
				return len(not) == 0, named(not), err
			})
			return out, err
		},
	})
}

// online describes the nodes whose agents are online, and says what the others are.
func (c client) online(ctx context.Context, ids []string) (nodes []managedNode, not []string, err error) {
	state := map[string]string{}
	for some := range slices.Chunk(ids, 50) {
		found, err := c.list(ctx, "ssm", "DescribeInstanceInformation", "InstanceInformationList",
			members{"Filters": []any{map[string]any{"Key": "InstanceIds", "Values": anys(some)}}})
		if err != nil {
			return nil, nil, err
		}
		for _, n := range found {
			id := n.text("InstanceId")
			if state[id] = n.text("PingStatus"); state[id] == "Online" {
				nodes = append(nodes, managedNode{InstanceID: id, Platform: n.text("PlatformType"), PlatformName: n.text("PlatformName"),
					AgentVersion: n.text("AgentVersion"), IPAddress: n.text("IPAddress")})
			}
		}
	}
	for _, id := range ids {
		switch state[id] {
		case "Online":
		case "":
			not = append(not, id+" has not registered (instance profile? network?)")
		default:
			not = append(not, id+" "+state[id])
		}
	}
	slices.SortFunc(nodes, func(a, b managedNode) int { return slices.Index(ids, a.InstanceID) - slices.Index(ids, b.InstanceID) })
	return nodes, not, nil
}
