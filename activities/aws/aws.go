// Package aws is the actions that change and read what is in AWS.
//
// It gives Actions. It promises of every action that it may be repeated under
// the token of its step and has one effect, that what it makes carries the tags
// of its execution from the first moment, and that its compensation finds by the
// token what was made, also if no answer ever came. It refuses to know how a
// call reaches AWS (awsapi.Caller), and to look at a clock of its own.
//
// How that is kept is in few places: client.go (one call, and what its error
// means), wait.go (news that is late, and what takes long), tags.go (how we mark
// what we make), note.go (what an action remembers of a state that it changes).
package aws

import (
	"context"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/registry"
)

// Env is what the actions work with.
type Env struct {
	// Caller calls AWS. With nil every action answers that there is none.
	Caller awsapi.Caller

	// Sleep waits for d, or for ctx to end. nil is a timer; a rehearsal lets time
	// that it makes up pass.
	Sleep func(ctx context.Context, d time.Duration) error

	// Now is the time by the same clock; nil is time.Now.
	Now func() time.Time

	// Models tells of operations which members are tokens, and how to get their
	// next page; nil is those that come with this program.
	Models *awsapi.Models

	// Nodes lists the nodes of the registry, for what reports on them. With nil
	// such actions answer that there is none.
	Nodes func(ctx context.Context) ([]registry.Listed, error)
}

// Actions lists the actions of this package.
func Actions(env Env) []action.Action {
	return []action.Action{
		runInstance(env),
		runInstances(env),
		startInstances(env),
		stopInstances(env),
		rebootInstances(env),
		terminateInstance(env),
		terminateInstances(env),
		createImage(env),
		copyImage(env),
		findImage(env),
		findImages(env),
		shareImage(env),
		deprecateImage(env),
		deregisterImage(env),
		createSnapshot(env),
		createTags(env),
		deleteTags(env),
		waitManaged(env),
		sendCommand(env),
		putParameter(env),
		getParameter(env),
		putSecret(env),
		updateLaunchTemplate(env),
		startInstanceRefresh(env),
		deployStack(env),
		deleteStack(env),
		invokeFunction(env),
		executeMachine(env),
		putObject(env),
		getObject(env),
		publish(env),
		send(env),
		importFindings(env),
		importCompliance(env),
		call(env),
	}
}

// Scope is where and as whom an action works. Every input has it.
type Scope struct {
	Region  string `json:"region,omitempty" jsonschema:"region to work in" default:"that of the worker"`
	Role    string `json:"role,omitempty" jsonschema:"role to assume: its ARN, or its name if account is given" default:"the worker's own credentials"`
	Account string `json:"account,omitempty" jsonschema:"12 digits; the step fails if it would work in another account"`
}
