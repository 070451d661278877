package compile

import (
	"slices"
	"strings"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/lang/syntax"
)

// awsWorld is what the names of the actions begin with to which `aws:` belongs.
const awsWorld = "aws."

// awsKeys are the keys of `aws:`: inputs that every aws.* action has.
var awsKeys = []key{
	{"region", false, shapeText, "Region of the calls; what the environment or the profile of the worker says if not given."},
	{"role", false, shapeText, "Role to assume: its ARN, or its name if the account is given."},
	{"account", false, shapeText, "The 12 digits of the account that must be meant: calls as anyone else's are refused."},
}

// awsKey is `aws:` of a runbook or a step.
var awsKey = key{"aws", false, shapeKeys(func() []key { return awsKeys }), "As whom and where aws.* actions call AWS; what a step says goes before what the runbook says, and `with:` before both."}

// awsScope compiles an `aws:` to the inputs that it stands for.
func (c *compiler) awsScope(n *syntax.Node, sc *scope) []program.Entry {
	if n == nil {
		return nil
	}
	var entries []program.Entry
	m := c.keys(n, "`aws:`", awsKeys, nil)
	for _, k := range awsKeys {
		if n := m.get(k.name); n != nil {
			if v, _ := c.value(n, stringType, sc, valueOpts{}); v != nil {
				entries = append(entries, program.Entry{Key: k.name, Value: *v})
			}
		}
	}
	return entries
}

// inAWS adds to the inputs of an aws.* action what `aws:` of its step and of the
// runbook say that `with:` does not. n is the step's; it may be nil.
func (c *compiler) inAWS(with []program.Entry, n *syntax.Node, info action.Info, sc *scope) []program.Entry {
	if !strings.HasPrefix(info.Name, awsWorld) {
		if n != nil {
			c.errorf(n, "misplaced-key", "`aws:` means nothing to action %s; it is for aws.* actions", info.Name)
		}
		return with
	}
	for _, e := range slices.Concat(c.awsScope(n, sc), c.aws) {
		known := slices.ContainsFunc(info.Inputs, func(f action.Field) bool { return f.Name == e.Key })
		given := slices.ContainsFunc(with, func(w program.Entry) bool { return w.Key == e.Key })
		if known && !given {
			with = append(with, e)
		}
	}
	return with
}
