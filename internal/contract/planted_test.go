package contract

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/almanac-run/almanac/internal/awsapi"
)

// spoiled is a caller with a mistake planted in it.
type spoiled struct {
	awsapi.Caller
	spoil func(in object)
}

func (c spoiled) Call(ctx context.Context, in awsapi.Scope, service, operation string, input map[string]any) (map[string]any, error) {
	input = maps.Clone(input)
	c.spoil(input)
	return c.Caller.Call(ctx, in, service, operation, input)
}

// plants are mistakes, and claims that must fail by them. Others may.
var plants = []struct {
	name  string
	spoil func(in object)
	fail  map[string][]string // by scenario
}{
	{"a caller that drops tokens", func(in object) { delete(in, "ClientToken"); delete(in, "ClientRequestToken") }, map[string][]string{
		"ec2 launch tokens":                   {"the same token is the same instance", "and there is one only", "the same token with other parameters is refused"},
		"ec2 image copies":                    {"the same token is the same copy"},
		"ec2 launch templates":                {"the same token is answered again", "the same token is the same version"},
		"cloudformation stacks":               {"the same token is answered again", "and carry the token"},
		"secretsmanager":                      {"secretsmanager CreateSecret"},
		"action aws.ec2.run_instance":         {"done again under its token, it is one", "reply 1, of RunInstances, lost: it is one"},
		"action aws.secretsmanager.put (new)": {"it is done"},
	}},
	{"a caller that makes up a token anew each time", func() func(in object) {
		var n atomic.Int64
		return func(in object) {
			for _, name := range []string{"ClientToken", "ClientRequestToken"} {
				if _, ok := in[name]; ok {
					in[name] = fmt.Sprintf("%032d", n.Add(1))
				}
			}
		}
	}(), map[string][]string{
		"ec2 launch tokens":                    {"the same token is the same instance", "and there is one only"},
		"secretsmanager":                       {"the token is the version", "the same token is the same version"},
		"action aws.ec2.run_instance":          {"done again under its token, it is one", "reply 1, of RunInstances, lost: it is one"},
		"action aws.secretsmanager.put (over)": {"taken back, all is as before"},
	}},
	{"a caller that drops tags", func(in object) { delete(in, "TagSpecifications"); delete(in, "Tags") }, map[string][]string{
		"ec2 instance lifecycle":         {"the instance has its tags from the beginning", "it is found by a tag"},
		"ec2 images":                     {"it has its tags from the beginning"},
		"ec2 snapshots":                  {"it is found by owner and tag"},
		"ssm parameters":                 {"it has its tags from the beginning"},
		"action aws.ec2.run_instance":    {"reply 1, of RunInstances, never comes: taken back, nothing is left"},
		"action aws.ec2.create_image":    {"reply 1, of CreateImage, never comes: taken back, nothing is left"},
		"action aws.ec2.create_snapshot": {"reply 1, of CreateSnapshot, lost: it is one"},
	}},
}

// TestPlanted plants mistakes, and sees that the scenarios and deeds find them
// in our simulated cloud; those of tags also over the wire.
func TestPlanted(t *testing.T) {
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) {
			b.needed(t)
			for _, plant := range plants {
				if b.name != "simcloud" && plant.fail["ec2 snapshots"] == nil {
					continue // moto does not look at tokens: it cannot show that one is missing
				}
				for name, claims := range plant.fail {
					t.Run(plant.name+"/"+name, func(t *testing.T) {
						t.Parallel()
						wrap := func(c awsapi.Caller) awsapi.Caller { return spoiled{c, plant.spoil} }
						got := outcomeOf(t, b, name, wrap)
						for _, claim := range claims {
							if !got.failed(claim) && known(b.name, name, claim) == nil {
								t.Errorf("nobody notices %s: %q holds", plant.name, claim)
							}
						}
					})
				}
			}
		})
	}
}

// outcomeOf plays a scenario or a deed with another caller.
func outcomeOf(t *testing.T, b backend, name string, wrap func(awsapi.Caller) awsapi.Caller) outcome {
	t.Helper()
	if at := slices.IndexFunc(scenarios, func(sc scenario) bool { return sc.name == name }); at >= 0 {
		p := b.open(t, scenarios[at].options...)
		p.caller = wrap(p.caller)
		return scenarios[at].play(p)
	}
	at := slices.IndexFunc(deeds, func(d deed) bool { return d.name() == name })
	if at < 0 {
		t.Fatalf("there is neither a scenario nor a deed %q", name)
	}
	return deeds[at].play(func() place { return b.open(t, deeds[at].options...) }, wrap)
}

// TestDifferences: a difference that is listed for what is not run would never be missed.
func TestDifferences(t *testing.T) {
	var names []string
	for _, sc := range scenarios {
		names = append(names, sc.name)
		if sc.by == "" {
			t.Errorf("%s does not say where AWS promises it", sc.name)
		}
	}
	for _, d := range deeds {
		names = append(names, d.name())
	}
	for i, d := range differences {
		if !slices.Contains(names, d.scenario) || !slices.ContainsFunc(backends, func(b backend) bool { return b.name == d.backend }) {
			t.Errorf("there is no scenario %q of %s", d.scenario, d.backend)
		}
		if known(d.backend, d.scenario, d.claim) != &differences[i] {
			t.Errorf("%s, %s, %q is listed twice", d.backend, d.scenario, d.claim)
		}
	}
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			t.Errorf("there are two scenarios %q", name)
		}
	}
}
