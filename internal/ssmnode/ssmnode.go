// Package ssmnode is what a runbook can do on a node that only the agent of AWS
// Systems Manager reaches.
//
// It gives Actions, the actions of the world "host" as package host defines them,
// for a worker that is not on the node, and List and Find, which nodes there are.
// It promises the same as on a node with an agent of ours: at most one run under a
// token, a backup on the node before a change, an honest kind for what
// cannot be known. What Systems Manager cannot do as promised is refused, and
// the error says what to use instead. It refuses to know Temporal.
package ssmnode

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/aws"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/internal/inventory"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/patch"
)

// Env is what the actions work with.
type Env struct {
	AWS aws.Env

	// Output is where nodes put output that is longer than Systems Manager's API
	// tells. Without it only the beginning and the end of a long output are
	// known; all of it stays on the node.
	Output aws.Place

	// OutputDir is the output store; empty: no complete output is kept.
	OutputDir string

	// Kept is called when an output is in OutputDir; nil: nobody wants to know.
	Kept func()

	// Report takes the facts of a node to the inventory; nil: they are not reported.
	Report func(ctx context.Context, facts inventory.Snapshot) error

	// Comply tells the registry what a node comes to against a baseline; nil: nobody is told.
	Comply func(ctx context.Context, node string, c registry.Compliance) error
}

// Actions lists the actions: those of host.Actions.
func Actions(env Env) []action.Action {
	all := []action.Action{
		serve(env, "host.command.run", node.runCommand, nil),
		serve(env, "host.file.write", node.writeFile, node.unwriteFile),
		serve(env, "host.file.remove", node.removeFile, node.unremoveFile),
		serve(env, "host.node.describe", node.describe, nil),
		serve(env, "host.inventory.collect", collector().collect, nil),
		serve(env, "host.patch.scan", complying(node.scanPatches, func(o host.PatchScanOutput) patch.Report { return o.Report }), nil),
		serve(env, "host.patch.install", complying(node.installPatches, func(o host.PatchInstallOutput) patch.Report { return o.Report }), node.uninstallPatches),
	}
	for _, info := range infos() {
		if verb, ok := strings.CutPrefix(info.Name, "host.service."); ok {
			all = append(all, serviceAction(env, info, verb))
		}
	}
	return all
}

// infos are the actions as a node with an agent of ours has them.
func infos() []action.Info {
	var all []action.Info
	for _, a := range host.Actions(host.Node{}) {
		all = append(all, a.Info)
	}
	return all
}

// serve makes an action of that name: what it is comes from package host, what it does from here.
func serve[In, Out any](env Env, name string, do func(node, context.Context, In) (Out, error), undo func(node, context.Context, In, *Out) error) action.Action {
	all := infos()
	at := slices.IndexFunc(all, func(i action.Info) bool { return i.Name == name })
	if at < 0 {
		panic("no such action: " + name)
	}
	info := all[at]
	def := action.Def[In, Out]{
		Name: info.Name, Summary: info.Summary, Details: info.Details, Example: info.Example, Timeout: info.Timeout, Inspect: info.Inspect,
		Do: func(ctx context.Context, in In) (Out, error) {
			n, err := env.node(ctx)
			if err != nil {
				var none Out
				return none, err
			}
			return do(n, ctx, in)
		},
	}
	if undo != nil {
		def.Compensate = func(ctx context.Context, in In, out *Out) error {
			n, err := env.node(ctx)
			if err != nil {
				return err
			}
			return undo(n, ctx, in, out)
		}
	}
	return action.New(def)
}

// node is the node that a call is for.
type node struct {
	Env
	aws.Managed
	target action.Target
	call   action.Call
}

func (e Env) node(ctx context.Context) (node, error) {
	call := action.FromContext(ctx)
	t := call.Target
	if t.ID == "" {
		return node{}, action.Errorf(action.Internal, "this call names no node")
	}
	scope := aws.Scope{Region: t.Region, Role: t.Role, Account: t.Account}
	n := node{Env: e, Managed: e.AWS.Managed(ctx, scope, t.ID), target: t, call: call}
	if t.Platform == "" {
		known, err := n.find(ctx, true)
		if err != nil {
			return node{}, err
		}
		n.target.Platform = known.Platform
	}
	return n, nil
}

func (n node) windows() bool { return n.target.Platform == "windows" }

// notSecret refuses a secret: what is sent by Systems Manager anyone may read who
// may look at the history of commands.
func notSecret(what string, s action.Secret) error {
	if s.Ref == "" {
		return nil
	}
	return action.Errorf(action.Invalid, "%s is a secret, and Systems Manager keeps what it sends readable in its history of commands; "+
		"let a script on the node fetch it (aws ssm get-parameter --with-decryption, by the instance's own profile), or put Almanac's agent on the node", what)
}

// verdict is the error of what did not succeed, but for its exit code.
func verdict(r aws.Ran, detail any) error {
	kind, text := action.Failed, ""
	switch r.Status {
	case aws.TimedOut:
		kind, text = action.Timeout, "the command took longer than its timeout, and was ended"
	case aws.Cancelled:
		kind, text = action.Cancelled, "the command was cancelled"
	case aws.Unreached:
		kind, text = action.Unreached, "the node did not take the command, and nothing ran: is its SSM agent online?"
	case aws.Unknown:
		kind, text = action.Unknown, "nobody can tell how the command ended; it is not run again"
	default:
		return nil
	}
	if r.Reason != "" {
		text += " (" + r.Reason + ")"
	}
	if _, says, ok := strings.Cut(r.Stderr, "almanac: unknown: "); ok && kind == action.Unknown {
		text += ": " + strings.TrimSpace(says)
	}
	return &action.Error{Kind: kind, Err: fmt.Errorf("%s; command %s", text, r.CommandID), Detail: detail}
}

// kinds are the exit codes by which our own scripts say what kind of error it was.
var kinds = map[int]action.Kind{
	71: action.Invalid, 72: action.Denied, 73: action.NotFound, 74: action.Conflict, 75: action.Unavailable, 76: action.Failed,
}

// fixed runs one of our own scripts, which is safe to repeat. Its answer is lines
// of name=value on standard output.
func (n node) fixed(ctx context.Context, what, purpose, script string, env map[string]string, stdin string) (map[string]string, error) {
	if n.windows() {
		return nil, action.Errorf(action.Invalid, "%s is not there for Windows nodes that Systems Manager reaches: use host.command.run with a PowerShell script", what)
	}
	ran, err := n.Run(ctx, aws.Script{Purpose: purpose, Shell: "sh", Text: script, Env: env, Stdin: stdin, Repeatable: true})
	if err != nil {
		return nil, err
	}
	if err := verdict(ran, nil); err != nil {
		return nil, err
	}
	if ran.ExitCode != 0 {
		kind, ok := kinds[ran.ExitCode]
		if !ok {
			kind = action.Failed
		}
		says := strings.TrimSpace(ran.Stderr)
		if _, own, ok := strings.Cut(says, "almanac: "); ok {
			says = own
		}
		if says == "" {
			says = "exit code " + strconv.Itoa(ran.ExitCode)
		}
		return nil, action.Errorf(kind, "%s", says)
	}
	answer := map[string]string{}
	for line := range strings.Lines(ran.Stdout) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "="); ok {
			answer[name] = value
		}
	}
	return answer, nil
}
