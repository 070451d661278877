package simcloud

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

var ssmOperations = map[string]func(*call) (map[string]any, error){
	"DescribeInstanceInformation": describeInstanceInformation, "SendCommand": sendCommand, "ListCommands": listCommands,
	"ListCommandInvocations": listCommandInvocations, "GetCommandInvocation": getCommandInvocation, "CancelCommand": cancelCommand,
	"DescribeInstancePatchStates": describeInstancePatchStates, "DescribeInstancePatches": describeInstancePatches,
	"PutInventory": putInventory, "ListInventoryEntries": listInventoryEntries,

	"PutParameter": putParameter, "GetParameter": getParameter, "GetParameters": getParameters,
	"GetParametersByPath": getParametersByPath, "DeleteParameter": deleteParameter, "LabelParameterVersion": labelParameterVersion,
	"GetParameterHistory": getParameterHistory, "AddTagsToResource": addTagsToResource, "ListTagsForResource": listTagsForResource,
}

// Agent is how the SSM agent of an instance behaves.
type Agent struct {
	Never         bool          // it never registers
	Late          time.Duration // it registers that much later than Delays.Register says
	Silent        bool          // it is online, and takes no command: DeliveryTimedOut
	Mute          bool          // it runs commands, and never says how they ended: in progress, and in the end DeliveryTimedOut
	Twice         bool          // it runs each command twice, and says how the second run ended
	Undeliverable bool          // commands to it are Undeliverable
	IgnoresCancel bool          // a command that runs is not stopped
	Version       string        // "" is 3.3.3050.0
}

// Command is what is run on one instance.
type Command struct {
	ID, Document string
	Instance     Instance
	Script       []string // lines; empty if the document runs no script
	Parameters   map[string][]string
	Directory    string        // to run it in; "" is the agent's own
	Timeout      time.Duration // after which AWS stops it
}

// CommandResult is how a command ended.
type CommandResult struct {
	ExitCode       int
	Stdout, Stderr string
	Duration       time.Duration // with a virtual clock
}

// What GetCommandInvocation answers of the output, in characters, and what a
// list does.
const (
	stdoutShown, stderrShown, listShown = 24000, 8000, 2500
)

// mostDocument is about what the parameters of a command may have, in bytes of
// their JSON: with them in it, a document has at most 64 KB.
const mostDocument = 80 << 10

// document is a document of AWS that can be sent.
type document struct {
	plugin    string
	platforms []string
	required  []string
	optional  []string
}

var documents = map[string]document{
	"AWS-RunShellScript":      {"aws:runShellScript", []string{"linux"}, []string{"commands"}, []string{"workingDirectory", "executionTimeout"}},
	"AWS-RunPowerShellScript": {"aws:runPowerShellScript", []string{"windows", "linux"}, []string{"commands"}, []string{"workingDirectory", "executionTimeout"}},
	"AWS-UpdateSSMAgent":      {"aws:updateSsmAgent", []string{"linux", "windows"}, nil, []string{"version", "allowDowngrade"}},
	"AWS-ConfigureAWSPackage": {"aws:configurePackage", []string{"linux", "windows"}, []string{"action", "name"}, []string{"version", "installationType", "additionalArguments"}},
	// Both are for Windows. An image that a rehearsal makes up is one of Linux, whatever its runbook expects.
	"AWS-InstallWindowsUpdates": {"aws:runPowerShellScript", []string{"windows", "linux"}, []string{"Action"}, []string{"AllowReboot", "IncludeKbs", "ExcludeKbs", "Categories", "SeverityLevels", "Products", "PublishedDaysOld", "PublishedDateAfter", "PublishedDateBefore"}},
	"AWSEC2-RunSysprep":         {"aws:runPowerShellScript", []string{"windows", "linux"}, nil, []string{"Id", "workingDirectory", "executionTimeout"}},
	"AWS-RunPatchBaseline":      {"aws:runShellScript", []string{"linux", "windows"}, []string{"Operation"}, []string{"SnapshotId", "RebootOption", "InstallOverrideList", "BaselineOverride", "AssociationId"}},
}

// Simulated is how commands end if nobody says otherwise: well.
func Simulated(c Command) CommandResult {
	first := func(name string) string {
		if v := c.Parameters[name]; len(v) > 0 {
			return v[0]
		}
		return ""
	}
	switch c.Document {
	case "AWS-UpdateSSMAgent":
		return CommandResult{Stdout: "amazon-ssm-agent has been updated successfully\n", Duration: 20 * time.Second}
	case "AWS-ConfigureAWSPackage":
		return CommandResult{Stdout: first("action") + " of " + first("name") + " was successful\n", Duration: 30 * time.Second}
	case "AWS-InstallWindowsUpdates":
		return CommandResult{Stdout: "No further updates found\n", Duration: 25 * time.Minute}
	case "AWSEC2-RunSysprep":
		return CommandResult{Stdout: "Sysprep is done\n", Duration: 3 * time.Minute}
	case "AWS-RunPatchBaseline":
		return CommandResult{Stdout: "Operation " + first("Operation") + " completed\n", Duration: 4 * time.Minute}
	}
	return CommandResult{Duration: time.Second}
}

// command is a command that was sent.
type command struct {
	place
	id        string
	in        input
	document  document
	instances []*invocation // in the order in which they have their turn
	atOnce    int           // how many run at the same time
	errors    int           // how many errors are borne
	requested time.Time
	visible   time.Time
	startBy   time.Time // what has not started by then does not
	expires   time.Time // when AWS stops to wait for an answer
	turn      time.Time // up to when turns have been given
	cancelled bool
}

// invocation is a command on one instance.
type invocation struct {
	instance   *instance
	details    string // status details; "" while it waits for its turn
	start, end time.Time
	ran        bool // the shell was called
	cancelled  bool
	stop       context.CancelFunc // of what runs; nil if nothing does
	result     CommandResult
	exit       int
}

// Status details of invocations, and the status that belongs to each.
const (
	pending          = "Pending"
	inProgress       = "InProgress"
	success          = "Success"
	failed           = "Failed"
	executionTimeout = "ExecutionTimedOut"
	deliveryTimeout  = "DeliveryTimedOut"
	undeliverable    = "Undeliverable"
	terminated       = "Terminated"
	cancelled        = "Cancelled"
)

var statusOfDetails = map[string]string{
	pending: pending, inProgress: inProgress, success: success, failed: failed, executionTimeout: "TimedOut",
	deliveryTimeout: "TimedOut", undeliverable: failed, terminated: cancelled, cancelled: cancelled,
}

// status is an invocation's at a time: until it has ended, it is under way.
func (v *invocation) status(now time.Time) string {
	switch {
	case !v.end.IsZero() && !now.Before(v.end):
		return v.details
	case v.ran:
		return inProgress
	}
	return pending
}

func (v *invocation) over(now time.Time) bool { return !v.end.IsZero() && !now.Before(v.end) }

// state is that of an agent at a time.
func (i *instance) ping(now time.Time) string {
	switch {
	case i.registered.IsZero() || now.Before(i.registered):
		return ""
	case i.removed:
		return ""
	case i.phase.at(now) == "running":
		return "Online"
	}
	return "ConnectionLost"
}

func sendCommand(k *call) (map[string]any, error) {
	doc, ok := documents[k.in.str("DocumentName")]
	if !ok {
		if strings.HasPrefix(k.in.str("DocumentName"), "AWS-") || strings.HasPrefix(k.in.str("DocumentName"), "Amazon") {
			return nil, k.fail("NotSimulated", "document %s is not simulated", k.in.str("DocumentName"))
		}
		return nil, k.fail("InvalidDocument", "Document with name %s does not exist.", k.in.str("DocumentName"))
	}
	if err := k.commandInput(doc); err != nil {
		return nil, err
	}
	targets, err := k.targets(doc)
	if err != nil {
		return nil, err
	}
	cmd := &command{place: k.place, id: k.uuid(), in: maps.Clone(k.in), document: doc, requested: k.now, turn: k.now}
	cmd.visible = k.after(k.Delays.Command, "command", cmd.id)
	cmd.startBy = k.now.Add(time.Duration(k.in.intOr("TimeoutSeconds", 3600)) * time.Second)
	cmd.expires = cmd.startBy.Add(cmd.limit())
	if cmd.atOnce, err = k.limit("MaxConcurrency", "50", len(targets), 1); err != nil {
		return nil, err
	}
	if cmd.errors, err = k.limit("MaxErrors", "0", len(targets), 0); err != nil {
		return nil, err
	}
	for _, i := range targets {
		cmd.instances = append(cmd.instances, &invocation{instance: i, exit: -1})
	}
	k.commands.put(cmd.id, cmd)
	k.effects = append(k.effects, Effect{Change: "made", Kind: "command", ID: cmd.id, What: strconv.Itoa(len(targets)) + " instances"})
	if k.Clock == nil {
		k.advance(cmd, k.now)
	}
	answer := k.describeCommand(cmd)
	if k.in.has("Targets") {
		answer["TargetCount"] = int64(0) // targets are looked up after the answer
	}
	return object("Command", answer), nil
}

// commandInput refuses what SSM refuses before it looks for instances.
func (k *call) commandInput(doc document) error {
	if len(k.in.str("Comment")) > 100 {
		return k.fail("ValidationException", "Value at 'comment' failed to satisfy constraint: Member must have length less than or equal to 100")
	}
	if t := k.in.intOr("TimeoutSeconds", 3600); t < 30 || t > 2592000 {
		return k.fail("ValidationException", "Value '%d' at 'timeoutSeconds' failed to satisfy constraint: Member must have value from 30 to 2592000", t)
	}
	given := k.in.sub("Parameters")
	if text, err := json.Marshal(given); err != nil || len(text) > mostDocument {
		return k.fail("MaxDocumentSizeExceeded", "The size limit of a document is 64 KB.")
	}
	for _, name := range doc.required {
		if len(given.strs(name)) == 0 {
			return k.fail("InvalidParameters", "Document %s needs the parameter %s", k.in.str("DocumentName"), name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if !slices.Contains(doc.required, name) && !slices.Contains(doc.optional, name) {
			return k.fail("InvalidParameters", "Document %s has no parameter %s", k.in.str("DocumentName"), name)
		}
		if elements(given[name]) == nil {
			return k.fail("ValidationException", "The parameter %s is not a list of strings", name)
		}
	}
	return nil
}

// targets finds the instances of a command.
func (k *call) targets(doc document) ([]*instance, error) {
	named, by := k.in.strs("InstanceIds"), k.in.subs("Targets")
	if len(named) == 0 && len(by) == 0 {
		return nil, k.fail("ValidationException", "Either InstanceIds or Targets must be given")
	}
	if len(named) > 0 && len(by) > 0 {
		return nil, k.fail("ValidationException", "InstanceIds and Targets cannot both be given")
	}
	if len(named) > 50 {
		return nil, k.fail("ValidationException", "Value at 'instanceIds' failed to satisfy constraint: Member must have length less than or equal to 50")
	}
	if len(by) > 5 {
		return nil, k.fail("ValidationException", "Value at 'targets' failed to satisfy constraint: Member must have length less than or equal to 5")
	}
	for n, id := range named {
		if slices.Contains(named[:n], id) {
			return nil, k.fail("DuplicateInstanceId", "Instance %s is named twice", id)
		}
	}
	var found []*instance
	var wrong []string
	for _, id := range named {
		i, ok := k.instances.get(id)
		if !ok || i.place != k.place || i.ping(k.now) != "Online" {
			wrong = append(wrong, id)
			continue
		}
		if !slices.Contains(doc.platforms, i.platform()) {
			return nil, k.fail("UnsupportedPlatformType", "Document %s does not run on %s, which is %s", k.in.str("DocumentName"), id, i.platform())
		}
		found = append(found, i)
	}
	if len(wrong) > 0 {
		return nil, k.fail("InvalidInstanceId", "Instances [[%s]] not in a valid state for account %s", strings.Join(wrong, ", "), k.account)
	}
	if len(by) == 0 {
		return found, nil
	}
	for _, t := range by {
		if _, err := k.isTarget(&instance{resource: &resource{}}, t); err != nil {
			return nil, err
		}
	}
	for _, i := range k.instances.all() {
		// Instances of a tag that have an agent, even if it is gone: those are Undeliverable.
		if i.place != k.place || i.registered.IsZero() || k.now.Before(i.registered) || i.isGone(k.now) || i.phase.at(k.now) == "terminated" ||
			!slices.Contains(doc.platforms, i.platform()) {
			continue
		}
		all := true
		for _, t := range by {
			is, err := k.isTarget(i, t)
			if err != nil {
				return nil, err
			}
			all = all && is
		}
		if all {
			found = append(found, i)
		}
	}
	return found, nil
}

func (k *call) isTarget(i *instance, t input) (bool, error) {
	values := t.strs("Values")
	switch name := t.str("Key"); {
	case strings.EqualFold(name, "InstanceIds"):
		if len(values) > 50 {
			return false, k.fail("ValidationException", "at most 50 values may be given")
		}
		return slices.Contains(values, i.id) || slices.Equal(values, []string{"*"}), nil
	case strings.HasPrefix(name, "tag:"):
		v, has := i.tags[strings.TrimPrefix(name, "tag:")]
		return has && slices.Contains(values, v), nil
	case name == "tag-key":
		return slices.ContainsFunc(values, func(v string) bool { _, has := i.tags[v]; return has }), nil
	default:
		return false, k.fail("NotSimulated", "targets by %s are not simulated", name)
	}
}

// limit reads a number, or a share of all such as 10%, which is rounded down.
func (k *call) limit(member, otherwise string, all, least int) (int, error) {
	text := k.in.str(member)
	if text == "" {
		text = otherwise
	}
	digits, percent := strings.CutSuffix(text, "%")
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 || percent && n > 100 || n == 0 && least == 1 {
		return 0, k.fail("ValidationException", "Value '%s' at '%s' is neither a number nor a percentage", text, member)
	}
	if percent {
		n = n * all / 100
	}
	return max(n, least), nil
}

// isOver says whether it is known how it ends everywhere.
func (cmd *command) isOver() bool {
	return !slices.ContainsFunc(cmd.instances, func(v *invocation) bool { return v.end.IsZero() })
}

// advance gives turns, and runs what has its turn, up to now.
func (c *Cloud) advance(cmd *command, now time.Time) {
	for c.runDue(cmd, now) || c.giveTurn(cmd, now) {
	}
	if c.Clock != nil {
		return
	}
	for _, v := range cmd.instances { // the real clock calls by itself
		if !v.start.IsZero() && !v.ran && v.end.IsZero() {
			time.AfterFunc(v.start.Sub(now), func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.advance(cmd, c.now())
			})
			return
		}
	}
}

// giveTurn gives the next instance its turn if one is free by now, or ends the
// command if there have been too many errors by then. It says whether it did.
func (c *Cloud) giveTurn(cmd *command, now time.Time) bool {
	next := slices.IndexFunc(cmd.instances, func(v *invocation) bool { return v.start.IsZero() && v.end.IsZero() })
	if next < 0 {
		return false
	}
	for {
		busy, errors := 0, 0
		var free time.Time // when the next one ends
		for _, v := range cmd.instances {
			switch {
			case v.over(cmd.turn):
				if v.details == failed || v.details == executionTimeout {
					errors++
				}
			case !v.start.IsZero() || !v.end.IsZero():
				busy++
				if !v.end.IsZero() && (free.IsZero() || v.end.Before(free)) {
					free = v.end
				}
			}
		}
		if errors > cmd.errors {
			for _, v := range cmd.instances {
				if v.start.IsZero() && v.end.IsZero() {
					v.details, v.end = terminated, cmd.turn
				}
			}
			return true
		}
		if busy < cmd.atOnce {
			break
		}
		if free.IsZero() || free.After(now) {
			return false
		}
		cmd.turn = free
	}
	v := cmd.instances[next]
	switch agent := v.instance.agent; {
	case agent.Undeliverable || v.instance.ping(cmd.turn) != "Online":
		v.details, v.end = undeliverable, cmd.turn
	case agent.Silent:
		v.details, v.end = deliveryTimeout, cmd.expires
	default:
		v.start = cmd.turn.Add(c.pick(c.Delays.Deliver, "deliver", cmd.id, v.instance.id))
		if v.start.After(cmd.startBy) {
			v.start, v.details, v.end = time.Time{}, deliveryTimeout, cmd.expires
		}
	}
	return true
}

// runDue runs one instance's command whose start has come. It says whether it did.
func (c *Cloud) runDue(cmd *command, now time.Time) bool {
	var v *invocation
	for _, each := range cmd.instances {
		if !each.start.IsZero() && !each.start.After(now) && !each.ran && each.end.IsZero() && (v == nil || each.start.Before(v.start)) {
			v = each
		}
	}
	if v == nil || c.ctx.Err() != nil {
		return false
	}
	v.ran = true
	what := cmd.on(v)
	ctx, stop := context.WithCancel(c.ctx)
	v.stop = stop
	if c.Clock != nil {
		var result CommandResult
		c.unlocked(func() { result = c.runs(ctx, v.instance.agent, what) })
		c.ended(cmd, v, result, v.start.Add(result.Duration), result.Duration > what.Timeout, what.Timeout)
		return true
	}
	go func() {
		limited, cancel := context.WithTimeout(ctx, what.Timeout)
		result := c.runs(limited, v.instance.agent, what)
		late := limited.Err() == context.DeadlineExceeded
		cancel()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ended(cmd, v, result, c.now(), late, 0)
		c.advance(cmd, c.now())
	}()
	return true
}

func (c *Cloud) runs(ctx context.Context, agent Agent, what Command) CommandResult {
	if agent.Twice {
		c.Shell(ctx, what)
	}
	return c.Shell(ctx, what)
}

// on is the command as the shell of an instance sees it.
func (cmd *command) on(v *invocation) Command {
	given := cmd.in.sub("Parameters")
	params := map[string][]string{}
	for name := range given {
		params[name] = given.strs(name)
	}
	what := Command{
		ID: cmd.id, Document: cmd.in.str("DocumentName"), Instance: v.instance.public(), Parameters: params,
		Script: params["commands"], Timeout: cmd.limit(),
	}
	if dir := params["workingDirectory"]; len(dir) > 0 {
		what.Directory = dir[0]
	}
	return what
}

// limit is the execution timeout.
func (cmd *command) limit() time.Duration {
	if given := cmd.in.sub("Parameters").strs("executionTimeout"); len(given) > 0 {
		if n, err := strconv.Atoi(given[0]); err == nil {
			return time.Duration(n) * time.Second
		}
	}
	return time.Hour
}

// ended notes how a command ended on an instance.
func (c *Cloud) ended(cmd *command, v *invocation, result CommandResult, at time.Time, late bool, limit time.Duration) {
	v.stop()
	if !v.end.IsZero() {
		return // cancelled in the meantime
	}
	v.result, v.end, v.exit = result, at, result.ExitCode
	switch {
	case (v.instance.agent.Mute || v.instance.ping(c.now()) != "Online") && !v.cancelled:
		// An instance that was stopped in the meantime does not say how it ended, either.
		v.details, v.end, v.exit, v.result = deliveryTimeout, cmd.expires, -1, CommandResult{}
		return
	case v.cancelled:
		v.details, v.exit = cancelled, -1
	case late:
		v.details, v.exit, v.result = executionTimeout, 137, CommandResult{}
		if limit > 0 {
			v.end = v.start.Add(limit)
		}
	case result.ExitCode != 0:
		v.details = failed
	default:
		v.details = success
		c.patch(cmd, v)
	}
	c.keepOutput(cmd, v)
}

// losesNodes notes which nodes were stopped or terminated while the command ran:
// nothing more is heard from them.
func (cmd *command) losesNodes(now time.Time) {
	for _, v := range cmd.instances {
		if v.ran && !v.cancelled && v.end.After(now) && v.instance.ping(now) != "Online" {
			v.details, v.end, v.exit, v.result = deliveryTimeout, cmd.expires, -1, CommandResult{}
		}
	}
}

// keepOutput puts the whole output where OutputS3BucketName and
// CloudWatchOutputConfig say. What is empty is not written.
func (c *Cloud) keepOutput(cmd *command, v *invocation) {
	if logs := cmd.in.sub("CloudWatchOutputConfig"); logs.bool("CloudWatchOutputEnabled") {
		name := or(logs.str("CloudWatchLogGroupName"), "/aws/ssm/"+cmd.in.str("DocumentName"))
		c.byItself("ssm", cmd.place, cmd.id+" logs "+v.instance.id, v.end, func(k *call) {
			g, ok := c.logs.get(k.key(name))
			if !ok {
				g = k.newLogGroup(name)
			}
			stream := strings.Join([]string{cmd.id, v.instance.id, strings.ReplaceAll(cmd.document.plugin, ":", "-"), ""}, "/")
			late := v.end.Add(c.pick(c.Delays.Command, "logs", cmd.id))
			g.write(stream+"stdout", v.result.Stdout, v.end, late)
			g.write(stream+"stderr", v.result.Stderr, v.end, late)
		})
	}
	b, ok := c.buckets3.get(cmd.in.str("OutputS3BucketName"))
	if !ok {
		return
	}
	plugin := strings.ReplaceAll(cmd.document.plugin, ":", "")
	prefix := strings.Join([]string{cmd.in.str("OutputS3KeyPrefix"), cmd.id, v.instance.id, plugin, "0." + plugin, ""}, "/")
	c.byItself("ssm", b.place, cmd.id+" "+v.instance.id, v.end, func(k *call) {
		for _, stream := range []struct{ name, text string }{{"stdout", v.result.Stdout}, {"stderr", v.result.Stderr}} {
			if stream.text != "" {
				k.putIn(b, newObject(strings.TrimPrefix(prefix, "/")+stream.name, []byte(stream.text), v.end))
			}
		}
	})
}

// command finds a command that may be seen; nil if none may.
func (k *call) command(id string) *command {
	cmd, ok := k.commands.get(id)
	if !ok || cmd.place != k.place || k.now.Before(cmd.visible) {
		return nil
	}
	return cmd
}

func (cmd *command) count(now time.Time, details ...string) int64 {
	n := int64(0)
	for _, v := range cmd.instances {
		if slices.Contains(details, v.status(now)) {
			n++
		}
	}
	return n
}

// status is that of the whole, which is not that of its parts: what was
// undeliverable does not show in it, unless that is all of them.
func (cmd *command) status(now time.Time) (status, details string) {
	open := cmd.count(now, pending, inProgress)
	errors := cmd.count(now, failed, executionTimeout)
	late := cmd.count(now, deliveryTimeout)
	switch {
	case len(cmd.instances) == 0 && !now.After(cmd.requested):
		return pending, pending
	case len(cmd.instances) == 0:
		return success, "NoInstancesInTag"
	case cmd.count(now, undeliverable) == int64(len(cmd.instances)):
		return failed, failed
	case open > 0 && cmd.cancelled:
		return "Cancelling", "Cancelling"
	case open == int64(len(cmd.instances)) && cmd.count(now, pending) == open && open > 0:
		return pending, pending
	case open > 0:
		return inProgress, inProgress
	case cmd.cancelled && cmd.count(now, cancelled) > 0:
		return cancelled, cancelled
	case errors > int64(cmd.errors) && cmd.count(now, failed) == 0:
		return "TimedOut", executionTimeout
	case errors > int64(cmd.errors):
		return failed, failed
	case late > int64(cmd.errors):
		return "TimedOut", deliveryTimeout
	case errors+late > 0:
		return failed, "Incomplete"
	}
	return success, success
}

func (k *call) describeCommand(cmd *command) map[string]any {
	status, details := cmd.status(k.now)
	open := cmd.count(k.now, pending, inProgress)
	return object(
		"CommandId", cmd.id, "DocumentName", cmd.in.str("DocumentName"), "DocumentVersion", "$DEFAULT", "Comment", cmd.in.str("Comment"),
		"ExpiresAfter", cmd.expires, "Parameters", cmd.in.sub("Parameters"), "InstanceIds", cmd.in.strs("InstanceIds"), "Targets", elements(cmd.in["Targets"]),
		"RequestedDateTime", cmd.requested, "Status", status, "StatusDetails", details, "TimeoutSeconds", cmd.in.intOr("TimeoutSeconds", 3600),
		"OutputS3BucketName", cmd.in.str("OutputS3BucketName"), "OutputS3KeyPrefix", cmd.in.str("OutputS3KeyPrefix"),
		"MaxConcurrency", or(cmd.in.str("MaxConcurrency"), "50"), "MaxErrors", or(cmd.in.str("MaxErrors"), "0"),
		"TargetCount", len(cmd.instances), "CompletedCount", int64(len(cmd.instances))-open,
		"ErrorCount", cmd.count(k.now, failed, executionTimeout), "DeliveryTimedOutCount", cmd.count(k.now, deliveryTimeout),
	)
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// asked are the commands that a list asks for, newest first.
func (k *call) asked() ([]*command, error) {
	for _, f := range k.in.subs("Filters") {
		if !slices.Contains([]string{"InvokedAfter", "InvokedBefore", "Status", "DocumentName"}, f.str("key")) {
			return nil, k.fail("InvalidFilterKey", "The filter key %q is not valid", f.str("key"))
		}
	}
	var rows []*command
	for _, cmd := range k.commands.all() {
		if k.command(cmd.id) == nil || k.in.has("CommandId") && cmd.id != k.in.str("CommandId") {
			continue
		}
		status, _ := cmd.status(k.now)
		keep := true
		for _, f := range k.in.subs("Filters") {
			value := f.str("value")
			at := f.time("value")
			switch f.str("key") {
			case "InvokedAfter":
				keep = keep && cmd.requested.After(at)
			case "InvokedBefore":
				keep = keep && cmd.requested.Before(at)
			case "Status":
				keep = keep && status == value
			case "DocumentName":
				keep = keep && cmd.in.str("DocumentName") == value
			}
		}
		if keep {
			rows = append(rows, cmd)
		}
	}
	slices.SortStableFunc(rows, func(a, b *command) int { return b.requested.Compare(a.requested) })
	return rows, nil
}

func listCommands(k *call) (map[string]any, error) {
	rows, err := k.asked()
	if err != nil {
		return nil, err
	}
	if id := k.in.str("InstanceId"); id != "" {
		rows = slices.DeleteFunc(rows, func(cmd *command) bool { return cmd.invocation(id) == nil })
	}
	rows, next := page(k, rows, "MaxResults")
	return object("NextToken", next, "Commands", list(rows, k.describeCommand)), nil
}

func (cmd *command) invocation(instance string) *invocation {
	for _, v := range cmd.instances {
		if v.instance.id == instance {
			return v
		}
	}
	return nil
}

func listCommandInvocations(k *call) (map[string]any, error) {
	cmds, err := k.asked()
	if err != nil {
		return nil, err
	}
	type row struct {
		*command
		*invocation
	}
	var rows []row
	for _, cmd := range cmds {
		for _, v := range cmd.instances {
			if id := k.in.str("InstanceId"); id == "" || id == v.instance.id {
				rows = append(rows, row{cmd, v})
			}
		}
	}
	rows, next := page(k, rows, "MaxResults")
	return object("NextToken", next, "CommandInvocations", list(rows, func(r row) map[string]any {
		details := r.invocation.status(k.now)
		out := object("CommandId", r.id, "InstanceId", r.instance.id, "Comment", r.in.str("Comment"), "DocumentName", r.in.str("DocumentName"),
			"DocumentVersion", "$DEFAULT", "RequestedDateTime", r.requested, "Status", statusOfDetails[details], "StatusDetails", details, "InstanceName", "")
		if k.in.bool("Details") && r.ran {
			out["CommandPlugins"] = []any{object("Name", r.document.plugin, "Status", statusOfDetails[details], "StatusDetails", details,
				"ResponseCode", r.responseCode(k.now), "ResponseStartDateTime", r.start, "ResponseFinishDateTime", r.endBy(k.now),
				"Output", cut(r.output(k.now).Stdout+r.output(k.now).Stderr, listShown))}
		}
		return out
	})), nil
}

func (v *invocation) responseCode(now time.Time) int {
	if v.over(now) {
		return v.exit
	}
	return -1
}

// output is what is known by now: nothing while it runs.
func (v *invocation) output(now time.Time) CommandResult {
	if v.over(now) {
		return v.result
	}
	return CommandResult{}
}

func (v *invocation) endBy(now time.Time) time.Time {
	if v.over(now) {
		return v.end
	}
	return time.Time{}
}

// cut leaves the first n characters.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	if all := []rune(text); len(all) > n {
		return string(all[:n])
	}
	return text
}

func getCommandInvocation(k *call) (map[string]any, error) {
	cmd := k.command(k.in.str("CommandId"))
	if cmd == nil || cmd.invocation(k.in.str("InstanceId")) == nil {
		return nil, k.fail("InvocationDoesNotExist", "The command ID and managed node ID you specified did not match any invocations. Verify the command ID and the managed node ID and try again.")
	}
	v := cmd.invocation(k.in.str("InstanceId"))
	if name := k.in.str("PluginName"); name != "" && name != cmd.document.plugin {
		return nil, k.fail("InvalidPluginName", "There is no plugin %s", name)
	}
	details := v.status(k.now)
	begun, ended, elapsed := "", "", ""
	if v.ran {
		begun = v.start.UTC().Format(stamp)
	}
	if v.ran && v.over(k.now) {
		ended = v.end.UTC().Format(stamp)
		elapsed = "PT" + strconv.FormatFloat(v.end.Sub(v.start).Seconds(), 'f', -1, 64) + "S"
	}
	out := v.output(k.now)
	answer := object("CommandId", cmd.id, "InstanceId", v.instance.id, "Comment", cmd.in.str("Comment"), "DocumentName", cmd.in.str("DocumentName"),
		"DocumentVersion", "$DEFAULT", "PluginName", cmd.document.plugin, "ResponseCode", v.responseCode(k.now), "Status", statusOfDetails[details],
		"StatusDetails", details, "ExecutionStartDateTime", begun, "ExecutionElapsedTime", elapsed, "ExecutionEndDateTime", ended)
	answer["StandardOutputContent"] = cut(out.Stdout, stdoutShown)
	answer["StandardErrorContent"] = cut(out.Stderr, stderrShown)
	return answer, nil
}

func cancelCommand(k *call) (map[string]any, error) {
	cmd, ok := k.commands.get(k.in.str("CommandId"))
	if !ok || cmd.place != k.place {
		return nil, k.fail("InvalidCommandId", "The command %s does not exist", k.in.str("CommandId"))
	}
	named := k.in.strs("InstanceIds")
	for _, id := range named {
		if cmd.invocation(id) == nil {
			return nil, k.fail("InvalidInstanceId", "The command was not sent to %s", id)
		}
	}
	found := false
	for _, v := range cmd.instances {
		if named != nil && !slices.Contains(named, v.instance.id) || v.over(k.now) || v.ran && v.instance.agent.IgnoresCancel {
			continue
		}
		found = true
		v.cancelled = true
		if v.ran && k.Clock == nil {
			v.stop() // it ends when what runs has ended
			continue
		}
		v.details, v.end, v.exit = cancelled, k.now, -1
		if v.start.IsZero() {
			v.start = k.now
		}
	}
	if found {
		cmd.cancelled = true
		k.effects = append(k.effects, Effect{Change: "changed", Kind: "command", ID: cmd.id, What: "cancel"})
	}
	return map[string]any{}, nil
}

func describeInstanceInformation(k *call) (map[string]any, error) {
	var rows []*instance
	for _, i := range k.instances.all() {
		if i.place == k.place && i.ping(k.now) != "" {
			rows = append(rows, i)
		}
	}
	type wanted struct {
		key    string
		values []string
	}
	var by []wanted
	for _, f := range k.in.subs("Filters") {
		by = append(by, wanted{f.str("Key"), f.strs("Values")})
	}
	for _, f := range k.in.subs("InstanceInformationFilterList") {
		by = append(by, wanted{f.str("key"), f.strs("valueSet")})
	}
	known := map[string]func(*instance) string{
		"InstanceIds":  func(i *instance) string { return i.id },
		"PingStatus":   func(i *instance) string { return i.ping(k.now) },
		"AgentVersion": func(i *instance) string { return i.agentVersion() },
		"PlatformTypes": func(i *instance) string {
			return map[string]string{"linux": "Linux", "windows": "Windows"}[i.platform()]
		},
		"ResourceType": (*instance).resourceType,
		"IamRole":      func(i *instance) string { return i.profile },
	}
	for _, f := range by {
		get := known[f.key]
		if tag, ok := strings.CutPrefix(f.key, "tag:"); ok {
			get = func(i *instance) string { return i.tags[tag] }
		}
		if get == nil {
			return nil, k.fail("InvalidFilterKey", "The filter key %q is not valid", f.key)
		}
		rows = slices.DeleteFunc(rows, func(i *instance) bool { return !slices.Contains(f.values, get(i)) })
	}
	rows, next := page(k, rows, "MaxResults")
	return object("NextToken", next, "InstanceInformationList", list(rows, func(i *instance) map[string]any {
		name := map[string]string{"linux": "Amazon Linux", "windows": "Microsoft Windows Server 2022 Datacenter"}[i.platform()]
		if strings.HasPrefix(i.image.name, "ubuntu") {
			name = "Ubuntu"
		}
		version, computer := "2023", i.id+"."+i.region+".compute.internal"
		switch name {
		case "Ubuntu":
			version = "24.04"
		case "Amazon Linux":
		default:
			version = "10.0.20348"
		}
		if i.hybrid {
			computer = i.name
		}
		seen := k.now
		if i.ping(k.now) != "Online" {
			seen = i.phase.until
		}
		return object("InstanceId", i.id, "PingStatus", i.ping(k.now), "LastPingDateTime", seen, "AgentVersion", i.agentVersion(),
			"IsLatestVersion", true, "PlatformType", known["PlatformTypes"](i), "PlatformName", name, "PlatformVersion", version, "ResourceType", i.resourceType(),
			"ComputerName", computer, "RegistrationDate", i.registered)
	})), nil
}

func (i *instance) resourceType() string {
	if i.hybrid {
		return "ManagedInstance"
	}
	return "EC2Instance"
}

func (i *instance) agentVersion() string { return or(i.agent.Version, "3.3.3050.0") }
