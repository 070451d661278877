package aws

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
)

type sendCommandInput struct {
	Scope
	InstanceIDs      []string            `json:"instance_ids,omitempty" jsonschema:"instances (i-…) and hybrid nodes (mi-…), at most 50"`
	TargetTags       map[string][]string `json:"target_tags,omitempty" jsonschema:"in place of instance_ids: tags, each with the values of which a node has one; at most 5 tags"`
	Script           string              `json:"script,omitempty" jsonschema:"what to run, as the text of a script; values come by env and args and never become part of it" code:"true"`
	Shell            string              `json:"shell,omitempty" jsonschema:"what reads the script; powershell is for Windows" enum:"bash,sh,python3,powershell" default:"bash if the node has it, else sh"`
	Args             []string            `json:"args,omitempty" jsonschema:"arguments of the script"`
	Env              map[string]string   `json:"env,omitempty" jsonschema:"environment variables; AWS keeps them readable with the command: they are no place for a secret"`
	WorkingDirectory string              `json:"working_directory,omitempty" jsonschema:"where the script runs" default:"the SSM agent's own"`
	Idempotent       bool                `json:"idempotent,omitempty" jsonschema:"run the script again if it is not known how it ended, as after a power failure" default:"false"`
	SuccessCodes     []int               `json:"success_codes,omitempty" jsonschema:"exit codes that mean success" default:"[0]"`
	Document         string              `json:"document,omitempty" jsonschema:"in place of script: an SSM document of type Command, by name or ARN"`
	Parameters       map[string][]string `json:"parameters,omitempty" jsonschema:"parameters of the document"`
	ExecutionTimeout action.Duration     `json:"execution_timeout,omitempty" jsonschema:"how long the script may run on a node, at most 48h" default:"1h"`
	DeliveryTimeout  action.Duration     `json:"delivery_timeout,omitempty" jsonschema:"how long a node may take to fetch it, at least 30s; one that has not is unreached" default:"10m"`
	MaxConcurrency   string              `json:"max_concurrency,omitempty" jsonschema:"on how many nodes at once, a number or a percentage" default:"50"`
	MaxErrors        string              `json:"max_errors,omitempty" jsonschema:"after more than so many errors it begins on no further node, a number or a percentage" default:"0"`
}

type sendCommandOutput struct {
	CommandID string          `json:"command_id" jsonschema:"the command"`
	ExitCode  int             `json:"exit_code" jsonschema:"how it ended; on several nodes, the first exit code that is not 0"`
	Stdout    string          `json:"stdout" jsonschema:"of one node, the end of what it wrote to standard output, 4 KiB; empty if there were several"`
	Results   []commandResult `json:"results" jsonschema:"how it went on each node, sorted by id"`
}

// commandResult is how a command went on one node.
type commandResult struct {
	InstanceID string `json:"instance_id" jsonschema:"the node"`
	Status     string `json:"status" jsonschema:"how it went" enum:"succeeded,failed,timed_out,cancelled,unreached,unknown"`
	Reason     string `json:"reason,omitempty" jsonschema:"SSM's word for it"`
	ExitCode   int    `json:"exit_code" jsonschema:"how it ended; -1 if it did not run to its end"`
	Stdout     string `json:"stdout,omitempty" jsonschema:"the end of standard output; left out of successes on more than 20 nodes"`
	Stderr     string `json:"stderr,omitempty" jsonschema:"the end of standard error"`
}

// What a command can have come to on a node.
const (
	statusSucceeded = "succeeded"
	statusFailed    = "failed"
	statusTimedOut  = "timed_out"
	statusCancelled = "cancelled"
	statusUnreached = "unreached"
	statusUnknown   = "unknown"
)

const (
	documentLinux   = "AWS-RunShellScript"
	documentWindows = "AWS-RunPowerShellScript"

	stopTakes    = time.Minute // that a cancelled command is followed to its end
	mostTargets  = 50          // that SendCommand takes by id
	mostComment  = 100
	outputOfOne  = 4 << 10 // bytes of a stream, of one node
	outputOfEach = 1 << 10 // of each of several
	mostOutputs  = 20      // nodes whose output is read if all went well
	sentWithin   = 48 * time.Hour
)

func sendCommand(env Env) action.Action {
	return action.New(action.Def[sendCommandInput, sendCommandOutput]{
		Name:    "aws.ssm.send_command",
		Summary: "Run a script or an SSM document on managed nodes and wait for all of them",
		Details: sendCommandDetails,
		Example: `id: release
action: aws.ssm.send_command
with:
  instance_ids: [i-0123456789abcdef0]
  script: |
    test -d "$DIR"
    cat /etc/os-release
  env: { DIR: /etc }`,
		Timeout: 2 * time.Hour,
		Do: func(ctx context.Context, in sendCommandInput) (sendCommandOutput, error) {
			return env.in(ctx, in.Scope).send(ctx, in)
		},
		Compensate: func(ctx context.Context, in sendCommandInput, out *sendCommandOutput) error {
			if out != nil {
				return nil // it ended
			}
			c := env.in(ctx, in.Scope)
			id, err := c.sentBefore(ctx, in.InstanceIDs, c.token(), true)
			if err != nil || id == "" {
				return err
			}
			return c.cancel(ctx, id)
		},
	})
}

const sendCommandDetails = `
What is sent is a fixed text, in which the script, its arguments and the values of its environment stand in base64 only: nothing in
them can become code on the way. bash runs the script with ` + "`-e -o pipefail`" + `, sh with ` + "`-e`" + `: the first command that fails ends it. PowerShell goes on after
an error unless the script says otherwise; its exit code is that of ` + "`exit`" + ` or of the last program.

SSM takes no token for a command. The step's token stands in the command's comment, by which every further attempt looks for it before it sends again; and
on Linux and Windows the text that is sent keeps, under the token, how the script ended (` + "`/var/lib/almanac/commands`" + `,
` + "`%ProgramData%\\Almanac\\commands`" + `): a second delivery does not run it, it answers the same. If nobody can say how it ended, the
node answers unknown, unless ` + "`idempotent: true`" + ` lets it run again. A document of your own is guarded by the comment only,
and what becomes part of its parameters may become code: do not pass values to AWS-RunShellScript that way, use ` + "`script`" + `.

Each node is judged by itself: SSM calls a command a success when it could not be delivered to some nodes. If the script failed on a node the step
fails with kind failed; if it ran nowhere badly but some nodes did not get it, with kind unreached. Both name the nodes.

On cancel and time-out the command is cancelled, and followed until it has ended on each node, for a minute at most. Rollback cancels a command that still runs; what a script did is for the runbook's
own ` + "`rollback:`" + ` to take back.`

// input is the call's, but for the targets.
func (in sendCommandInput) input(c client) (members, error) {
	input := members{
		"Comment": c.comment(c.token()), "DocumentName": in.Document,
		"TimeoutSeconds": seconds(in.DeliveryTimeout, 10*time.Minute),
	}.with(members{"MaxConcurrency": in.MaxConcurrency, "MaxErrors": in.MaxErrors})
	parameters := map[string]any{}
	switch {
	case (in.Script == "") == (in.Document == ""):
		return nil, action.Errorf(action.Invalid, "give either script or document")
	case (len(in.InstanceIDs) == 0) == (len(in.TargetTags) == 0):
		return nil, action.Errorf(action.Invalid, "give either instance_ids or target_tags")
	case len(in.InstanceIDs) > mostTargets:
		return nil, action.Errorf(action.Invalid, "%d instances are more than the %d that SSM takes by id: use target_tags, or for_each over parts of the list", len(in.InstanceIDs), mostTargets)
	case in.Document != "" && (in.Shell != "" || len(in.Args)+len(in.Env) > 0 || in.WorkingDirectory != "" || in.Idempotent || in.ExecutionTimeout != 0):
		return nil, action.Errorf(action.Invalid, "shell, args, env, working_directory, idempotent and execution_timeout are for a script; a document has parameters")
	case in.Script != "" && len(in.Parameters) > 0:
		return nil, action.Errorf(action.Invalid, "parameters are for a document; a script has args and env")
	case in.Document != "":
		for name, values := range in.Parameters {
			parameters[name] = anys(values)
		}
		if len(parameters) > 0 {
			input["Parameters"] = parameters
		}
	default:
		s := script{token: c.token(), shell: in.Shell, text: in.Script, dir: in.WorkingDirectory, args: in.Args, again: in.Idempotent,
			env: map[string]string{"ALMANAC_EXECUTION": c.step.Execution, "ALMANAC_STEP": c.step.Step, "ALMANAC_TOKEN": c.token()}}
		given := script{env: in.Env, args: in.Args}
		if err := given.check(); err != nil {
			return nil, err
		}
		maps.Copy(s.env, in.Env)
		lines := s.lines
		if input["DocumentName"] = documentLinux; in.Shell == "powershell" {
			input["DocumentName"], lines = documentWindows, s.powershell
		}
		parameters["commands"] = anys(lines())
		parameters["executionTimeout"] = []any{strconv.FormatInt(seconds(in.ExecutionTimeout, time.Hour), 10)}
		input["Parameters"] = parameters
	}
	if len(in.InstanceIDs) > 0 {
		input["InstanceIds"] = anys(sorted(in.InstanceIDs))
		return input, nil
	}
	var targets []any
	for _, key := range slices.Sorted(maps.Keys(in.TargetTags)) {
		targets = append(targets, map[string]any{"Key": "tag:" + key, "Values": anys(in.TargetTags[key])})
	}
	input["Targets"] = targets
	return input, nil
}

func seconds(d action.Duration, otherwise time.Duration) int64 {
	if d == 0 {
		d = action.Duration(otherwise)
	}
	return int64(time.Duration(d) / time.Second)
}

// comment names the step to people, and, by its first word, to later attempts.
func (c client) comment(mark string) string {
	text := tagValue(mark + " " + c.step.Execution + " " + c.step.Step)
	return text[:min(len(text), mostComment)]
}

func (c client) send(ctx context.Context, in sendCommandInput) (sendCommandOutput, error) {
	input, err := in.input(c)
	if err != nil {
		return sendCommandOutput{}, err
	}
	id, err := c.sentBefore(ctx, in.InstanceIDs, c.token(), !c.first())
	if err != nil {
		return sendCommandOutput{}, err
	}
	if id == "" {
		answer, err := c.call(ctx, "ssm", "SendCommand", input)
		if err != nil {
			return sendCommandOutput{}, err
		}
		id = answer.in("Command").text("CommandId")
	}
	results, err := c.results(ctx, in, id)
	if err != nil {
		if ctx.Err() != nil && !c.step.Abandoned() {
			// Nobody waits for it any more. It is stopped as far as SSM can.
			late, done := context.WithTimeout(context.WithoutCancel(ctx), stopTakes)
			defer done()
			err = fmt.Errorf("%w; command %s %s", err, id, c.stop(late, id))
		}
		return sendCommandOutput{CommandID: id}, err
	}
	out := sendCommandOutput{CommandID: id, Results: results}
	for _, r := range results {
		if out.ExitCode == 0 {
			out.ExitCode = r.ExitCode
		}
	}
	if len(results) == 1 {
		out.Stdout = results[0].Stdout
	}
	return out, judge(id, results)
}

// stop cancels a command and follows it on each of its nodes to the end, as far
// as ctx allows. It returns what it has come to, to go on from "command ID".
func (c client) stop(ctx context.Context, id string) string {
	if err := c.cancel(ctx, id); err != nil {
		return "could not be cancelled: " + err.Error()
	}
	var how []string
	ok, err := c.within(ctx, stopTakes, "cancel command "+id, func() (bool, string, error) {
		all, err := c.list(ctx, "ssm", "ListCommandInvocations", "CommandInvocations", members{"CommandId": id})
		if err != nil {
			return false, "", err
		}
		how = nil
		open := []string{}
		for _, v := range all {
			if isOpen(v.text("Status")) {
				open = append(open, v.text("InstanceId"))
			}
			how = append(how, v.text("StatusDetails")+" on "+v.text("InstanceId"))
		}
		return len(all) > 0 && len(open) == 0, "still runs on " + named(open), nil
	})
	switch {
	case ok:
		return "was cancelled: " + named(sorted(how))
	case err != nil && ctx.Err() == nil:
		return "was cancelled, and how it ended is not known: " + err.Error()
	}
	return "was cancelled, and has not ended everywhere so far: " + named(sorted(how))
}

// sentBefore finds the command that an attempt before has sent, by the first word
// of its comment; empty if there is none. If there may be one it looks until the
// news would have come.
func (c client) sentBefore(ctx context.Context, instances []string, mark string, mayHave bool) (id string, err error) {
	input := members{"Filters": []any{map[string]any{"key": "InvokedAfter", "value": c.Now().Add(-sentWithin).UTC().Format("2006-01-02T15:04:05Z")}}}
	if len(instances) > 0 {
		input["InstanceId"] = sorted(instances)[0]
	}
	look := func() (bool, string, error) {
		found, err := c.list(ctx, "ssm", "ListCommands", "Commands", input)
		for _, cmd := range found {
			if first, _, _ := strings.Cut(cmd.text("Comment"), " "); first == mark && id == "" { // the newest stands first
				id = cmd.text("CommandId")
			}
		}
		return id != "", "none so far", err
	}
	if !mayHave {
		_, _, err = look()
		return id, err
	}
	_, err = c.within(ctx, commandNewsTakes, "look for a command of this step", look)
	return id, err
}

// cancel asks SSM to stop a command where it runs, and not to begin it elsewhere.
func (c client) cancel(ctx context.Context, id string) error {
	_, err := c.call(ctx, "ssm", "CancelCommand", members{"CommandId": id})
	if is(err, "InvalidCommandId", "DuplicateInstanceId") {
		return nil // it is not there any more
	}
	return err
}

// results waits until a command has ended everywhere, and reads how.
func (c client) results(ctx context.Context, in sendCommandInput, id string) ([]commandResult, error) {
	var invocations []members
	missing := []string{}
	ended := time.Time{} // when the command as a whole was first seen to have ended
	err := c.wait(ctx, 2*time.Hour, "command "+id, func() (bool, string, error) {
		whole, err := c.list(ctx, "ssm", "ListCommands", "Commands", members{"CommandId": id})
		if is(err, "InvalidCommandId") || err == nil && len(whole) == 0 {
			return false, "not known yet", nil
		}
		if err != nil {
			return false, "", err
		}
		if invocations, err = c.list(ctx, "ssm", "ListCommandInvocations", "CommandInvocations", members{"CommandId": id}); err != nil {
			return false, "", err
		}
		open := 0
		missing = sorted(in.InstanceIDs)
		for _, v := range invocations {
			if isOpen(v.text("Status")) {
				open++
			}
			missing = slices.DeleteFunc(missing, func(id string) bool { return id == v.text("InstanceId") })
		}
		sees := fmt.Sprintf("%s, ended on %d of %d nodes", whole[0].text("Status"), len(invocations)-open, max(len(invocations), len(in.InstanceIDs)))
		if isOpen(whole[0].text("Status")) || open > 0 {
			return false, sees, nil
		}
		if ended.IsZero() {
			ended = c.Now()
		}
		// The list may be later than the whole.
		complete := len(missing) == 0 && int64(len(invocations)) >= whole[0].int("TargetCount")
		return complete || c.Now().Sub(ended) >= commandNewsTakes, sees, nil
	})
	if err != nil {
		return nil, err
	}
	results := []commandResult{}
	for _, v := range invocations {
		results = append(results, outcome(v))
	}
	for _, id := range missing {
		results = append(results, commandResult{InstanceID: id, Status: statusUnreached, Reason: "NotSent", ExitCode: -1})
	}
	slices.SortFunc(results, func(a, b commandResult) int { return strings.Compare(a.InstanceID, b.InstanceID) })
	for i := range results {
		if err := c.readOutput(ctx, in, id, &results[i], len(results)); err != nil {
			return nil, err
		}
	}
	return results, nil
}

func isOpen(status string) bool {
	return slices.Contains([]string{"Pending", "InProgress", "Delayed", "Cancelling"}, status)
}

// outcome is what an invocation came to, by its details: its status alone does
// not tell a script that failed from one that was never delivered.
func outcome(v members) commandResult {
	r := commandResult{InstanceID: v.text("InstanceId"), Reason: v.text("StatusDetails"), ExitCode: -1}
	switch strings.ReplaceAll(r.Reason, " ", "") {
	case "Success":
		r.Status, r.Reason = statusSucceeded, ""
	case "Failed":
		r.Status = statusFailed
	case "ExecutionTimedOut":
		r.Status = statusTimedOut
	case "Cancelled":
		r.Status = statusCancelled
	default: // Undeliverable, DeliveryTimedOut, Terminated, InvalidPlatform, AccessDenied, …
		r.Status = statusUnreached
	}
	return r
}

// readOutput adds what a node wrote, and its exit code.
func (c client) readOutput(ctx context.Context, in sendCommandInput, id string, r *commandResult, of int) error {
	if r.Status == statusUnreached || r.Status == statusSucceeded && of > mostOutputs {
		if r.Status == statusSucceeded {
			r.ExitCode = 0
		}
		return nil
	}
	var answer members
	ok, err := c.within(ctx, commandNewsTakes, "output of "+r.InstanceID, func() (bool, string, error) {
		var err error
		answer, err = c.call(ctx, "ssm", "GetCommandInvocation", members{"CommandId": id, "InstanceId": r.InstanceID})
		if is(err, "InvocationDoesNotExist", "InvalidPluginName") { // a document of several steps has several outputs
			return is(err, "InvalidPluginName"), "not known yet", nil
		}
		return err == nil, "", err
	})
	if err != nil || !ok {
		return err
	}
	most := outputOfOne
	if of > 1 {
		most = outputOfEach
	}
	stderr := answer.text("StandardErrorContent")
	if r.ExitCode = int(answer.int("ResponseCode")); in.Script != "" {
		r.ExitCode, stderr = exitCode(r.ExitCode, stderr)
	}
	r.Stdout, r.Stderr = tail(answer.text("StandardOutputContent"), most), tail(stderr, most)
	codes := in.SuccessCodes
	if len(codes) == 0 {
		codes = []int{0}
	}
	switch {
	case in.Script == "":
	case r.ExitCode == exitUnknown && strings.HasPrefix(answer.text("StandardErrorContent"), saysUnknown):
		r.Status = statusUnknown
	case r.Status == statusFailed && slices.Contains(codes, r.ExitCode):
		r.Status, r.Reason = statusSucceeded, ""
	case r.Status == statusSucceeded && !slices.Contains(codes, r.ExitCode):
		r.Status = statusFailed
	}
	return nil
}

// exitCode is a script's own exit code, and what it wrote to standard error: the
// wrapper tells SSM another one where the agent would restart the machine.
func exitCode(told int, stderr string) (int, string) {
	first, rest, _ := strings.Cut(stderr, "\n")
	text, says := strings.CutPrefix(strings.TrimRight(first, "\r"), saysExit)
	code, err := strconv.Atoi(text)
	if told != 1 || !says || err != nil || code != rebootCode && code != rebootCodeWindows {
		return told, stderr
	}
	return code, rest
}

// tail is the end of a text, at most so many bytes of it, from the beginning of
// a line if there is one, without the last newline.
func tail(text string, most int) string {
	text = strings.TrimRight(strings.ToValidUTF8(text, "\uFFFD"), "\r\n")
	if len(text) <= most {
		return text
	}
	text = text[len(text)-most:]
	if _, rest, ok := strings.Cut(text, "\n"); ok {
		return rest
	}
	return strings.ToValidUTF8(text, "")
}

// judge is the error of a command that did not succeed on every node.
func judge(id string, results []commandResult) error {
	on := map[string][]string{}
	for _, r := range results {
		text := r.InstanceID
		if r.Status == statusFailed {
			text += fmt.Sprintf(" (exit code %d)", r.ExitCode)
		} else if r.Reason != "" {
			text += " (" + r.Reason + ")"
		}
		on[r.Status] = append(on[r.Status], text)
	}
	if len(results) == 0 {
		return action.Errorf(action.NotFound, "command %s has no targets: no managed node has these tags", id)
	}
	var parts []string
	kind := action.Unreached
	for _, status := range []string{statusFailed, statusTimedOut, statusCancelled, statusUnknown, statusUnreached} {
		if len(on[status]) == 0 {
			continue
		}
		parts = append(parts, strings.ReplaceAll(status, "_", " ")+" on "+named(on[status]))
		switch {
		case status == statusUnreached:
		case status == statusUnknown && kind == action.Unreached:
			kind = action.Unknown
		case status != statusUnknown:
			kind = action.Failed
		}
	}
	if len(parts) == 0 {
		return nil
	}
	text := fmt.Sprintf("command %s of %d nodes: %s", id, len(results), strings.Join(parts, "; "))
	for _, r := range results {
		if said := tail(r.Stderr+"\n"+r.Stdout, outputOfEach); r.Status == statusFailed && said != "" {
			text += fmt.Sprintf("; %s wrote: %s", r.InstanceID, said)
			break // the rest is in the detail
		}
	}
	return &action.Error{Kind: kind, Err: fmt.Errorf("%s", text), Detail: map[string]any{"command_id": id, "results": results}}
}
