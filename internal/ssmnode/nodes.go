package ssmnode

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/registry"
)

// mostNodes is what one call of Systems Manager takes or gives, of nodes.
const mostNodes = 50

// List calls found for every node that Systems Manager knows in a region of an
// account, whatever its state, in batches as they come. Their tags are those of the
// instance; of a hybrid node, those of the node.
func List(ctx context.Context, caller awsapi.Caller, scope awsapi.Scope, found func(registry.Node)) error {
	return lister{caller: caller, scope: scope}.list(ctx, nil, found)
}

// Find is List for one node, as one that was just launched; nil if Systems Manager
// knows it in none of these places. A place that does not answer counts only if
// none of the others has the node.
func Find(ctx context.Context, caller awsapi.Caller, scopes []awsapi.Scope, id string) (*registry.Node, error) {
	var node *registry.Node
	var failed []error
	for _, scope := range scopes {
		err := lister{caller: caller, scope: scope}.list(ctx, []string{id}, func(n registry.Node) { node = &n })
		if node != nil {
			return node, nil
		}
		failed = append(failed, err)
	}
	return nil, errors.Join(failed...)
}

// find is Find for the node of a call. brief leaves out what others than Systems
// Manager know, and its account.
func (n node) find(ctx context.Context, brief bool) (*registry.Node, error) {
	scope := awsapi.Scope{Region: n.target.Region, Role: n.target.Role, Account: n.target.Account}
	var known *registry.Node
	err := lister{caller: kinded{n}, scope: scope, brief: brief}.list(ctx, []string{n.target.ID}, func(found registry.Node) { known = &found })
	if err == nil && known == nil {
		err = action.Errorf(action.Unreached, "Systems Manager does not know %s there: its agent has never registered, or was removed", n.target.ID)
	}
	return known, err
}

// kinded calls for a node, so that errors have a kind.
type kinded struct{ node }

func (k kinded) Call(ctx context.Context, _ awsapi.Scope, service, operation string, in map[string]any) (map[string]any, error) {
	return k.Managed.Call(ctx, service, operation, in)
}

func (n node) describe(ctx context.Context, _ host.NodeDescribeInput) (host.Description, error) {
	known, err := n.find(ctx, false)
	if err != nil {
		return host.Description{}, err
	}
	return host.Description{
		ID: known.ID, Name: known.Name, OS: known.OS, Version: known.Version, Arch: known.Arch, Tags: known.Tags,
		AgentVersion: known.AgentVersion, Platform: known.Platform,
	}, nil
}

// lister asks in one place.
type lister struct {
	caller  awsapi.Caller
	scope   awsapi.Scope
	account string
	brief   bool
}

func (l lister) list(ctx context.Context, ids []string, found func(registry.Node)) error {
	in := map[string]any{"MaxResults": int64(mostNodes)}
	if ids != nil {
		in = map[string]any{"Filters": []any{map[string]any{"Key": "InstanceIds", "Values": anys(ids)}}}
	}
	l.account = l.scope.Account
	return l.pages(ctx, "ssm", "DescribeInstanceInformation", "InstanceInformationList", in, func(some []map[string]any) error {
		if l.account == "" && len(some) > 0 && !l.brief {
			who, err := l.caller.Call(ctx, l.scope, "sts", "GetCallerIdentity", map[string]any{})
			if err != nil {
				return err
			}
			l.account = text(who, "Account")
		}
		var nodes []*registry.Node
		for _, info := range some {
			nodes = append(nodes, l.node(info))
		}
		if !l.brief {
			for _, add := range []func(context.Context, []*registry.Node) error{l.instances, l.hybrid, l.compliance} {
				if err := add(ctx, nodes); err != nil {
					return err
				}
			}
		}
		for _, n := range nodes {
			found(*n)
		}
		return nil
	})
}

// pages calls take for the list of every page.
func (l lister) pages(ctx context.Context, service, operation, member string, in map[string]any, take func([]map[string]any) error) error {
	in = maps.Clone(in)
	for {
		out, err := l.caller.Call(ctx, l.scope, service, operation, in)
		if err != nil {
			return err
		}
		if err := take(objects(out, member)); err != nil {
			return err
		}
		next := text(out, "NextToken")
		if next == "" {
			return nil
		}
		in["NextToken"] = next
	}
}

// node is what DescribeInstanceInformation tells.
func (l lister) node(info map[string]any) *registry.Node {
	n := &registry.Node{
		ID: text(info, "InstanceId"), Name: text(info, "ComputerName"), Platform: platform(text(info, "PlatformType")),
		OS: system(text(info, "PlatformName")), Version: text(info, "PlatformVersion"), AgentVersion: text(info, "AgentVersion"),
		Tags: map[string]string{}, Reach: registry.ReachSSM, Region: l.scope.Region, Account: l.account, Role: l.scope.Role,
		Online: text(info, "PingStatus") == "Online", Seen: when(info, "LastPingDateTime"), Registered: when(info, "RegistrationDate"),
	}
	if n.Platform == "windows" {
		n.OS = "windows"
	}
	return n
}

// platform is as Go calls it.
func platform(ssm string) string {
	switch strings.ToLower(ssm) {
	case "macos":
		return "darwin"
	case "windows":
		return "windows"
	}
	return "linux"
}

// systems are the ids that os-release has for what Systems Manager calls by its name.
var systems = []struct{ begins, id string }{
	{"Amazon Linux", "amzn"}, {"Ubuntu", "ubuntu"}, {"Debian", "debian"}, {"Red Hat Enterprise", "rhel"}, {"CentOS", "centos"},
	{"SLES", "sles"}, {"SUSE Linux Enterprise", "sles"}, {"Oracle Linux", "ol"}, {"Rocky", "rocky"}, {"AlmaLinux", "almalinux"},
	{"Fedora", "fedora"}, {"Bottlerocket", "bottlerocket"}, {"Raspbian", "raspbian"}, {"macOS", "darwin"},
}

func system(name string) string {
	for _, s := range systems {
		if strings.HasPrefix(strings.ToLower(name), strings.ToLower(s.begins)) {
			return s.id
		}
	}
	first, _, _ := strings.Cut(strings.ToLower(name), " ")
	return first
}

// instances adds what EC2 knows of those that are instances.
func (l lister) instances(ctx context.Context, nodes []*registry.Node) error {
	by := map[string]*registry.Node{}
	for _, n := range nodes {
		if strings.HasPrefix(n.ID, "i-") {
			by[n.ID] = n
		}
	}
	if len(by) == 0 {
		return nil
	}
	// By a filter: one id that EC2 has forgotten would make the whole call fail.
	ids := slices.Sorted(maps.Keys(by))
	in := map[string]any{"Filters": []any{map[string]any{"Name": "instance-id", "Values": anys(ids)}}}
	return l.pages(ctx, "ec2", "DescribeInstances", "Reservations", in, func(some []map[string]any) error {
		for _, r := range some {
			for _, i := range objects(r, "Instances") {
				n := by[text(i, "InstanceId")]
				if n == nil {
					continue
				}
				n.Tags = tags(i, "Tags")
				n.Arch = map[string]string{"x86_64": "amd64", "i386": "386"}[text(i, "Architecture")]
				if strings.HasPrefix(text(i, "Architecture"), "arm64") {
					n.Arch = "arm64"
				}
				if at, _ := i["Placement"].(map[string]any); n.Region == "" {
					n.Region = region(text(at, "AvailabilityZone"))
				}
			}
		}
		return nil
	})
}

// region is that of a zone such as eu-west-1a or us-west-2-lax-1a; empty if it is none.
func region(zone string) string {
	parts := strings.Split(zone, "-")
	for i, p := range parts {
		if digits := strings.TrimRight(p, "abcdefghijklmnopqrstuvwxyz"); i >= 2 && digits != "" && strings.Trim(digits, "0123456789") == "" {
			return strings.Join(append(parts[:i:i], digits), "-")
		}
	}
	return ""
}

// hybrid adds the tags of those that are no instances. There is no call for several.
func (l lister) hybrid(ctx context.Context, nodes []*registry.Node) error {
	for _, n := range nodes {
		if strings.HasPrefix(n.ID, "i-") {
			continue
		}
		out, err := l.caller.Call(ctx, l.scope, "ssm", "ListTagsForResource", map[string]any{"ResourceType": "ManagedInstance", "ResourceId": n.ID})
		if err != nil {
			return err
		}
		n.Tags = tags(out, "TagList")
	}
	return nil
}

// compliance adds what Patch Manager found last.
func (l lister) compliance(ctx context.Context, nodes []*registry.Node) error {
	by := map[string]*registry.Node{}
	var ids []string
	for _, n := range nodes {
		by[n.ID], ids = n, append(ids, n.ID)
	}
	if len(ids) == 0 {
		return nil
	}
	in := map[string]any{"InstanceIds": anys(ids)}
	return l.pages(ctx, "ssm", "DescribeInstancePatchStates", "InstancePatchStates", in, func(some []map[string]any) error {
		for _, s := range some {
			if n := by[text(s, "InstanceId")]; n != nil {
				n.Compliance = []registry.Compliance{stateOf(s).compliance()}
			}
		}
		return nil
	})
}

func text(m map[string]any, name string) string {
	s, _ := m[name].(string)
	return s
}

func objects(m map[string]any, name string) []map[string]any {
	var all []map[string]any
	items, _ := m[name].([]any)
	for _, item := range items {
		if one, ok := item.(map[string]any); ok {
			all = append(all, one)
		}
	}
	return all
}

func tags(m map[string]any, name string) map[string]string {
	all := map[string]string{}
	for _, t := range objects(m, name) {
		all[text(t, "Key")] = text(t, "Value")
	}
	return all
}

func anys(texts []string) []any {
	all := make([]any, len(texts))
	for i, t := range texts {
		all[i] = t
	}
	return all
}
