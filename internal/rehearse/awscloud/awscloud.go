// Package awscloud is the simulated AWS of rehearsals.
//
// It gives New, a rehearse.Cloud in which the actions of aws. really run. It
// promises that what a scene's inputs name by an id (an image, an instance, a
// subnet, …) is there under that id. It refuses to know what a rehearsal does.
package awscloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/aws"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/internal/rehearse"
	"github.com/almanac-run/almanac/internal/simcloud"
)

// cloud is the simulated AWS of one run.
type cloud struct {
	sim *simcloud.Cloud
	env rehearse.CloudEnv

	mu     sync.Mutex
	named  map[string]bool   // ids in the scene's inputs
	ours   map[string]string // the simulated id of one that the scene names
	theirs map[string]string // and back
	given  map[string]simcloud.Resource
}

// New makes a simulated AWS that takes about as long as the real one for what it does.
func New(env rehearse.CloudEnv) (rehearse.Cloud, error) {
	c := &cloud{
		sim: simcloud.New(simcloud.Options{
			Seed: env.Seed, Clock: env.Now, Sleep: env.Sleep, Delays: simcloud.RealDelays(), HostManagement: true,
		}),
		env: env, named: map[string]bool{}, ours: map[string]string{}, theirs: map[string]string{}, given: map[string]simcloud.Resource{},
	}
	texts := slices.Collect(maps.Values(env.Inputs))
	if env.Program != nil {
		raw, err := json.Marshal(env.Program)
		if err != nil {
			return nil, err
		}
		texts = append(texts, raw)
	}
	for _, g := range env.Given {
		texts = append(texts, g.Input)
	}
	for _, raw := range texts {
		for _, id := range idForm.FindAllString(string(raw), -1) {
			c.named[id] = true
		}
	}
	for i, call := range env.Given {
		if err := c.give(call); err != nil {
			return nil, fmt.Errorf("given[%d]: %w", i, err)
		}
	}
	return c, nil
}

var idForm = regexp.MustCompile(`\b(ami|i|lt|subnet|sg|vpc)-[0-9a-f]{8,17}\b`)

// give makes a call of the scene, before anything begins.
func (c *cloud) give(g rehearse.Given) error {
	var in map[string]any
	if err := json.Unmarshal(g.Input, &in); err != nil {
		return err
	}
	service, operation, _ := strings.Cut(g.Call, ".")
	scope := awsapi.Scope{Region: g.Region}
	rename(in, func(id string) string { c.adopt(scope, id); return id })
	out, err := c.before(scope, service, operation, rename(whole(in), c.inward).(map[string]any))
	if err != nil {
		return err
	}
	if g.As == "" {
		return nil
	}
	prefix, _, _ := strings.Cut(g.As, "-")
	id := firstID(out, prefix)
	if id == "" {
		return fmt.Errorf("%s makes nothing that could be called %s", g.Call, g.As)
	}
	c.ours[g.As], c.theirs[id] = id, g.As
	return nil
}

// whole makes whole numbers of JSON what a caller of AWS takes.
func whole(v any) any {
	switch v := v.(type) {
	case float64:
		if v == float64(int64(v)) {
			return int64(v)
		}
	case map[string]any:
		for k := range v {
			v[k] = whole(v[k])
		}
	case []any:
		for i := range v {
			v[i] = whole(v[i])
		}
	}
	return v
}

// firstID finds the first id of a kind in an answer; maps are short here.
func firstID(v any, prefix string) string {
	switch v := v.(type) {
	case string:
		if m := idForm.FindString(v); m != "" && m == v && strings.HasPrefix(v, prefix+"-") {
			return v
		}
	case map[string]any:
		for _, name := range []string{"ImageId", "InstanceId", "SubnetId", "GroupId", "VpcId", "LaunchTemplateId", "LaunchTemplate", "Instances", "Subnets", "SecurityGroups", "Vpcs"} {
			if id := firstID(v[name], prefix); id != "" {
				return id
			}
		}
	case []any:
		for _, e := range v {
			if id := firstID(e, prefix); id != "" {
				return id
			}
		}
	}
	return ""
}

// before makes a call whose effects were there before.
func (c *cloud) before(in awsapi.Scope, service, operation string, members map[string]any) (map[string]any, error) {
	was := map[string]bool{}
	for _, r := range c.sim.Live() {
		was[r.Kind+" "+r.ID] = true
	}
	out, err := c.sim.Given().Call(context.Background(), in, service, operation, members)
	for _, r := range c.sim.Live() {
		if !was[r.Kind+" "+r.ID] {
			c.given[r.Kind+" "+r.ID] = r
		}
	}
	return out, err
}

// adopt makes what the scene's inputs name by an id.
func (c *cloud) adopt(in awsapi.Scope, id string) {
	if !c.named[id] || c.ours[id] != "" {
		return
	}
	prefix, _, _ := strings.Cut(id, "-")
	var out map[string]any
	var err error
	switch prefix {
	case "ami", "i":
		if out, err = c.before(in, "ssm", "GetParameter", map[string]any{"Name": publicImage}); err != nil {
			return
		}
		parameter, _ := out["Parameter"].(map[string]any)
		image := parameter["Value"]
		if prefix == "ami" {
			region := in.Region
			if region == "" {
				region = c.sim.Region
			}
			out, err = c.before(in, "ec2", "CopyImage", map[string]any{"Name": "given-" + id, "SourceImageId": image, "SourceRegion": region})
		} else {
			out, err = c.before(in, "ec2", "RunInstances", map[string]any{"ImageId": image, "MinCount": int64(1), "MaxCount": int64(1), "InstanceType": "t3.small"})
		}
	case "subnet":
		out, err = c.before(in, "ec2", "DescribeSubnets", map[string]any{})
	case "sg":
		out, err = c.before(in, "ec2", "DescribeSecurityGroups", map[string]any{})
	case "vpc":
		out, err = c.before(in, "ec2", "DescribeVpcs", map[string]any{})
	}
	if made := firstID(out, prefix); err == nil && made != "" {
		c.ours[id], c.theirs[made] = made, id
	}
}

const publicImage = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"

// rename replaces the ids in a value; in a longer text, such as a name, they stay.
func rename(v any, name func(string) string) any {
	switch v := v.(type) {
	case string:
		if idForm.FindString(v) == v && v != "" {
			return name(v)
		}
		return v
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[k] = rename(e, name)
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i, e := range v {
			l[i] = rename(e, name)
		}
		return l
	}
	return v
}

func (c *cloud) inward(id string) string {
	if real := c.ours[id]; real != "" {
		return real
	}
	return id
}

func (c *cloud) outward(id string) string {
	if known := c.theirs[id]; known != "" {
		return known
	}
	return id
}

// Call is what the actions call. It implements awsapi.Caller.
func (c *cloud) Call(ctx context.Context, in awsapi.Scope, service, operation string, members map[string]any) (map[string]any, error) {
	throttled := &awsapi.Error{Service: service, Operation: operation, Code: "RequestLimitExceeded", Message: "Rate exceeded", Status: 400, Class: awsapi.Throttled}
	var out map[string]any
	err := c.env.Around(ctx, service+" "+operation, throttled, func() ([]rehearse.Effect, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.named) > 0 {
			rename(members, func(id string) string { c.adopt(in, id); return id })
			if len(c.ours) > 0 {
				members = rename(members, c.inward).(map[string]any)
			}
		}
		at := 0
		if !reads(operation) {
			at = len(c.sim.Ledger())
		}
		var err error
		if out, err = c.sim.Call(ctx, in, service, operation, members); out != nil && len(c.theirs) > 0 {
			out = rename(out, c.outward).(map[string]any)
		}
		if reads(operation) {
			return nil, err
		}
		var effects []rehearse.Effect
		for _, e := range c.sim.Ledger()[at:] {
			for _, f := range e.Effects {
				effects = append(effects, rehearse.Effect{Change: f.Change, Thing: c.thing(simcloud.Resource{Kind: f.Kind, ID: f.ID, Region: e.Region})})
			}
		}
		return effects, err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// reads tells whether an operation changes nothing. Most requests are looks at
// what takes its time, and to copy the whole ledger for each costs more than they do.
func reads(operation string) bool {
	return strings.HasPrefix(operation, "Describe") || strings.HasPrefix(operation, "List") || strings.HasPrefix(operation, "Get")
}

// Actions are those of aws.
func (c *cloud) Actions() []action.Action {
	return aws.Actions(aws.Env{Caller: c, Sleep: c.env.Sleep, Now: c.env.Now, Nodes: c.nodes})
}

// nodes is a small fleet for what reports on it: one node complies, one does not,
// and one was never looked at.
func (c *cloud) nodes(context.Context) ([]registry.Listed, error) {
	all := []registry.Listed{{Node: registry.Node{ID: "node-1"}}, {Node: registry.Node{ID: "node-2"}}, {Node: registry.Node{ID: "node-3"}}}
	all[0].Node = all[0].Assess(registry.Compliance{Baseline: "rehearsal", Status: registry.Compliant}, c.env.Now())
	all[1].Node = all[1].Assess(registry.Compliance{Baseline: "rehearsal", Status: registry.NonCompliant, Missing: map[string]int{"critical": 1}}, c.env.Now())
	return all, nil
}

func (c *cloud) thing(r simcloud.Resource) rehearse.Thing {
	t := rehearse.Thing{Kind: r.Kind, ID: c.outward(r.ID), Name: r.Name}
	if r.Region != c.sim.Region {
		t.Where = r.Region
	}
	return t
}

// Live is what exists.
func (c *cloud) Live() []rehearse.Thing {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []rehearse.Thing
	for _, r := range c.sim.Live() {
		all = append(all, c.thing(r))
	}
	return all
}

// Given is what was there before.
func (c *cloud) Given() []rehearse.Thing {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []rehearse.Thing
	for _, r := range c.given {
		all = append(all, c.thing(r))
	}
	return all
}

// Unknown tells whether an error says that an operation is not simulated.
func (c *cloud) Unknown(err error) bool {
	var e *awsapi.Error
	return errors.As(err, &e) && e.Code == "NotSimulated"
}

// Close ends what runs in the background.
func (c *cloud) Close() { c.sim.Close() }
