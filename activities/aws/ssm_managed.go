package aws

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
)

// Managed is one node of Systems Manager, for actions that work on a node without
// an agent of ours: an instance (i-…) or a hybrid node (mi-…).
type Managed struct {
	client
	id string
}

// Managed returns a node, as the step of ctx works on it.
func (e Env) Managed(ctx context.Context, s Scope, id string) Managed {
	return Managed{e.in(ctx, s), id}
}

// Script is a script for a managed node. Nothing in its values can become code
// on the way, and it runs once under the step's token; see aws.ssm.send_command.
type Script struct {
	Purpose    string // "" or a word, where one step has several scripts
	Windows    bool   // it goes to PowerShell; Shell, Stdin and User do not apply
	Shell      string // bash, sh, pwsh, python3; "" is bash if the node has it, else sh
	Text       string
	Args       []string
	Env        map[string]string
	Stdin      string
	Directory  string // "" is the user's home
	User       string // "" is the SSM agent's, root mostly
	Idempotent bool   // run it again if nobody knows how it ended
	Repeatable bool   // it is safe to repeat by itself: one that failed runs again
	Output     Place
	Timeout    time.Duration // 0: until ctx ends, an hour if it does not
}

// Place is where a node puts the complete output of what it runs, since the API
// tells the beginning only: S3 if there is a bucket, else CloudWatch Logs if there
// is a log group. The node needs the permission to write there.
type Place struct {
	Bucket, Prefix string // of S3, in the node's region
	LogGroup       string // of CloudWatch Logs
}

func (p Place) isSet() bool { return p.Bucket != "" || p.LogGroup != "" }

// Ran is how a script or a document ended on a node.
type Ran struct {
	CommandID      string
	Status         string // one of the constants
	Reason         string // SSM's word for it
	ExitCode       int    // -1 if it did not run to its end
	Stdout, Stderr string // what the API tells
	Cut            bool   // there may be more of them than that
	Began, Ended   time.Time
	Output         Place

	taken bool // the node was seen to have fetched it

	// What the wrapper says in front of standard error: how many bytes the streams
	// have, below 0 if it does not say, and how long that itself is.
	bytes map[string]int64
	says  int64
}

// What a script can have come to on a node.
const (
	Succeeded = statusSucceeded
	Failed    = statusFailed
	TimedOut  = statusTimedOut
	Cancelled = statusCancelled
	Unreached = statusUnreached // nothing ran
	Unknown   = statusUnknown   // nobody can tell how it ended, or whether it ran
)

const (
	// mostText is what SSM takes as a document with its parameters in it.
	mostText = 64 << 10

	// deliveryTakes is how long a node may take to fetch a command.
	deliveryTakes = 5 * time.Minute

	// Of longer ones than that it is not certain that they are complete: SSM tells
	// 24,000 and 8,000 characters, less what it says about that.
	certainStdout, certainStderr = 23500, 7500
)

// Run runs a script on the node and waits for its end. The error is nil however
// the script ended. If ctx ends before, the command is cancelled and followed.
func (m Managed) Run(ctx context.Context, s Script) (Ran, error) {
	own := script{
		token: m.token(), shell: s.Shell, text: s.Text, dir: s.Directory, args: s.Args, stdin: s.Stdin, user: s.User,
		again: s.Idempotent, repeat: s.Repeatable, home: true, whole: s.Output.isSet(),
	}
	given := own
	if given.env = s.Env; s.Windows && (s.Stdin != "" || s.User != "") {
		return Ran{}, action.Errorf(action.Invalid, "on Windows, Systems Manager gives a script neither standard input nor a user of its own: leave stdin and user out")
	}
	if err := given.check(); err != nil {
		return Ran{}, err
	}
	own.env = map[string]string{"ALMANAC_NODE": m.id, "ALMANAC_EXECUTION": m.step.Execution, "ALMANAC_STEP": m.step.Step, "ALMANAC_TOKEN": m.token()}
	maps.Copy(own.env, s.Env)
	if s.Purpose != "" {
		own.token += "-" + s.Purpose
	}
	document, lines := documentLinux, own.lines
	if s.Windows {
		document, lines = documentWindows, own.powershell
	}
	text := lines()
	size := 0
	for _, line := range text {
		size += len(line) + 1
	}
	if size > mostText {
		return Ran{}, action.Errorf(action.Invalid, "the script and its values are %d bytes as they are sent, and Systems Manager takes %d: put what is large into S3 (aws.s3.put_object) and let the script fetch it", size, mostText)
	}
	parameters := map[string]any{
		"commands":         anys(text),
		"executionTimeout": []any{strconv.FormatInt(m.timeout(ctx, s.Timeout), 10)},
	}
	ran, err := m.command(ctx, sending{mark: own.token, document: document, parameters: parameters, out: s.Output, repeatable: s.Repeatable, stops: true})
	if ran.Status == Failed || ran.Status == Succeeded {
		all := len(ran.Stderr)
		ran.readBytes()
		ran.ExitCode, ran.Stderr = exitCode(ran.ExitCode, ran.Stderr)
		ran.says = int64(all - len(ran.Stderr))
		if ran.ExitCode == exitUnknown && strings.HasPrefix(ran.Stderr, saysUnknown) {
			ran.Status = Unknown
		}
	}
	return ran, err
}

// readBytes takes what the wrapper says of the sizes from standard error.
func (r *Ran) readBytes() {
	first, rest, _ := strings.Cut(r.Stderr, "\n")
	text, says := strings.CutPrefix(first, saysBytes)
	of := strings.Fields(text)
	if !r.Output.isSet() || !says || len(of) != 2 {
		return
	}
	stdout, err := strconv.ParseInt(of[0], 10, 64)
	stderr, err2 := strconv.ParseInt(of[1], 10, 64)
	if err == nil && err2 == nil && stdout >= 0 && stderr >= 0 {
		r.bytes, r.Stderr = map[string]int64{"stdout": stdout, "stderr": stderr}, rest
	}
}

// Document runs a document of AWS on the node, likewise. purpose tells several of
// one step apart. Of its parameters nothing may come from elsewhere but as one of a
// few known words: old agents put them into scripts as text. If ctx ends before, the
// node goes on: half an installation does more harm than a whole one.
func (m Managed) Document(ctx context.Context, purpose, name string, parameters map[string]string, out Place) (Ran, error) {
	all := map[string]any{}
	for key, value := range parameters {
		all[key] = []any{value}
	}
	return m.command(ctx, sending{mark: m.token() + "-" + purpose, document: name, parameters: all, out: out})
}

// timeout is how long a script may run, in seconds: it ends a little before
// nobody waits for it any more.
func (m Managed) timeout(ctx context.Context, most time.Duration) int64 {
	if end, ok := ctx.Deadline(); ok {
		left := end.Sub(m.Now())
		left -= min(20*time.Second, left/10)
		if most == 0 || left < most {
			most = left
		}
	}
	if most == 0 {
		most = time.Hour
	}
	return int64(min(max(most, time.Second), 48*time.Hour) / time.Second)
}

// sending is a command that is to be sent.
type sending struct {
	mark, document string
	parameters     map[string]any
	out            Place
	repeatable     bool // one that failed is sent again
	stops          bool // it is cancelled if nobody waits for it any more
}

// command sends a command, or finds the one that an attempt before has sent.
func (m Managed) command(ctx context.Context, s sending) (Ran, error) {
	id, err := m.sentBefore(ctx, []string{m.id}, s.mark, !m.first())
	if err != nil {
		return Ran{}, err
	}
	if id != "" {
		ran, err := m.follow(ctx, id, s)
		if err != nil || !s.repeatable || ran.Status == Succeeded {
			return ran, err
		}
	}
	input := members{
		"Comment": m.comment(s.mark), "DocumentName": s.document, "InstanceIds": []any{m.id}, "Parameters": s.parameters,
		"TimeoutSeconds": int64(deliveryTakes / time.Second),
	}
	switch {
	case s.out.Bucket != "":
		input = input.with(members{"OutputS3BucketName": s.out.Bucket, "OutputS3KeyPrefix": s.out.Prefix})
	case s.out.LogGroup != "":
		input["CloudWatchOutputConfig"] = map[string]any{"CloudWatchOutputEnabled": true, "CloudWatchLogGroupName": s.out.LogGroup}
	}
	answer, err := m.call(ctx, "ssm", "SendCommand", input)
	if err != nil {
		return Ran{}, m.unwanted(ctx, s, "", err)
	}
	return m.follow(ctx, answer.in("Command").text("CommandId"), s)
}

// unwanted stops a command for which nobody waits any more, as far as SSM can. err
// is why, and is returned with what has become of it. Without an id the command is
// looked for: the answer that has it may have been lost.
func (m Managed) unwanted(ctx context.Context, s sending, id string, err error) error {
	if !s.stops || m.step.Abandoned() || ctx.Err() == nil && action.KindOf(err) != action.Timeout {
		return err
	}
	late, done := context.WithTimeout(context.WithoutCancel(ctx), stopTakes)
	defer done()
	if id == "" {
		var wrong error
		if id, wrong = m.sentBefore(late, []string{m.id}, s.mark, true); id == "" {
			return errors.Join(err, wrong)
		}
	}
	return fmt.Errorf("%w; command %s %s", err, id, m.stop(late, id))
}

// follow waits until a command has ended on the node.
func (m Managed) follow(ctx context.Context, id string, s sending) (Ran, error) {
	ran := Ran{CommandID: id, ExitCode: -1, Output: s.out}
	asked := m.Now() // when it was first asked for, and when the instance was last looked at
	looked := asked
	gone := ""
	err := m.wait(ctx, 2*time.Hour, "command "+id, func() (bool, string, error) {
		v, err := m.call(ctx, "ssm", "GetCommandInvocation", members{"CommandId": id, "InstanceId": m.id})
		if is(err, "InvocationDoesNotExist") {
			if m.Now().Sub(asked) < newsTakes {
				return false, "not known yet", nil
			}
			gone = "Systems Manager does not know of it"
			return true, "", nil
		}
		if err != nil {
			return false, "", err
		}
		ran.read(v)
		if !isOpen(v.text("Status")) {
			return true, "", nil
		}
		if m.Now().Sub(looked) >= time.Minute {
			looked = m.Now()
			gone = m.gone(ctx)
		}
		return gone != "", v.text("StatusDetails"), nil
	})
	switch {
	case err != nil:
		return ran, m.unwanted(ctx, s, id, err)
	case gone != "" && ran.Status == "":
		// It never ends, or would be told to have ended hours later. It is not to begin
		// when the instance is started again.
		_ = m.cancel(ctx, id)
		ran.Status, ran.Reason = Unknown, gone
	}
	return ran, nil
}

// read takes what the API tells of a command on a node. Status stays empty while
// it has not ended.
func (r *Ran) read(v members) {
	r.Began, r.Ended = v.time("ExecutionStartDateTime"), v.time("ExecutionEndDateTime")
	r.taken = r.taken || v.text("Status") == "InProgress" || !r.Began.IsZero()
	if isOpen(v.text("Status")) {
		return
	}
	how := outcome(v)
	r.Status, r.Reason, r.ExitCode = how.Status, how.Reason, int(v.int("ResponseCode"))
	r.Stdout, r.Stderr = v.text("StandardOutputContent"), v.text("StandardErrorContent")
	r.Cut = len(r.Stdout) > certainStdout || len(r.Stderr) > certainStderr
	if r.Status != Succeeded && r.Status != Failed {
		r.ExitCode = -1
	}
	// "Not delivered in time" is also what is said of a node that took it and was
	// not heard of again.
	if strings.ReplaceAll(r.Reason, " ", "") == "DeliveryTimedOut" && r.taken {
		r.Status = Unknown
	}
}

// gone says why an instance will not answer any more; empty if it may. Who may not
// ask takes it for there.
func (m Managed) gone(ctx context.Context) string {
	if !strings.HasPrefix(m.id, "i-") {
		return ""
	}
	found, err := m.list(ctx, "ec2", "DescribeInstances", "Reservations", members{"Filters": []any{filter("instance-id", m.id)}})
	if err != nil {
		return ""
	}
	for _, r := range found {
		for _, i := range r.list("Instances") {
			if state := i.in("State").text("Name"); slices.Contains([]string{"shutting-down", "terminated", "stopping", "stopped"}, state) {
				return "the instance is " + state
			}
		}
	}
	return ""
}

// CopyOutput writes what the node has put at the place of its output: standard
// output to one writer, standard error to the other, at most so many bytes of each.
// It returns whether it was there, for which it looks until it should be.
func (m Managed) CopyOutput(ctx context.Context, r Ran, stdout, stderr io.Writer, most int64) (bool, error) {
	if !r.Output.isSet() {
		return false, nil
	}
	var names []string
	found, err := m.within(ctx, commandNewsTakes, "complete output", func() (bool, string, error) {
		var err error
		names, err = m.outputs(ctx, r)
		there := len(names) > 0
		for stream, size := range r.bytes {
			there = there && (size == 0 || slices.ContainsFunc(names, func(name string) bool { return strings.HasSuffix(name, "/"+stream) }))
		}
		return there, "not there yet", err
	})
	if err != nil || !found {
		return false, err
	}
	streams := map[string]*copying{
		"stdout": {w: stdout, left: most, want: -1},
		"stderr": {w: stderr, left: most, want: -1, skip: r.says},
	}
	for stream, size := range r.bytes {
		c := streams[stream]
		c.want = min(size, most)
		c.left = c.want // an event of CloudWatch Logs does not tell whether its last line had an end
	}
	for _, name := range names {
		if c := streams[name[strings.LastIndexByte(name, '/')+1:]]; c != nil {
			if err := m.copyOne(ctx, r.Output, name, c); err != nil {
				return false, err
			}
		}
	}
	return true, nil
}

// copying is one stream on its way.
type copying struct {
	w       io.Writer
	skip    int64 // bytes of the wrapper's, in front
	left    int64 // bytes that may still be written
	want    int64 // bytes that there are to be; below 0 if nobody said
	written int64
}

func (c *copying) Write(b []byte) (int, error) {
	all := len(b)
	skip := min(c.skip, int64(len(b)))
	c.skip -= skip
	b = b[skip:]
	b = b[:min(int64(len(b)), c.left)]
	n, err := c.w.Write(b)
	c.left -= int64(n)
	c.written += int64(n)
	if err != nil {
		return n, err
	}
	return all, nil
}

// outputs are the names of the streams of a command on the node, one for each step
// of the document.
func (m Managed) outputs(ctx context.Context, r Ran) ([]string, error) {
	below := r.CommandID + "/" + m.id + "/"
	var names []string
	if r.Output.Bucket != "" {
		if r.Output.Prefix != "" {
			below = strings.TrimSuffix(r.Output.Prefix, "/") + "/" + below
		}
		answer, err := m.call(ctx, "s3", "ListObjectsV2", members{"Bucket": r.Output.Bucket, "Prefix": below})
		if err != nil {
			return nil, err
		}
		for _, o := range answer.list("Contents") {
			names = append(names, o.text("Key"))
		}
	} else {
		streams, err := m.listed(ctx, "logs", "DescribeLogStreams", "logStreams", members{"logGroupName": r.Output.LogGroup, "logStreamNamePrefix": below})
		if is(err, "ResourceNotFoundException") {
			return nil, nil // the agent makes the group
		}
		if err != nil {
			return nil, err
		}
		for _, s := range streams {
			names = append(names, s.text("logStreamName"))
		}
	}
	slices.Sort(names)
	return names, nil
}

// listed is list for services whose members begin with a small letter.
func (m Managed) listed(ctx context.Context, service, operation, name string, in members) ([]members, error) {
	var all []members
	in = in.with(members{})
	for range 100 {
		out, err := m.call(ctx, service, operation, in)
		if err != nil {
			return nil, err
		}
		all = append(all, out.list(name)...)
		next := out.text("nextToken")
		if next == "" {
			break
		}
		in["nextToken"] = next
	}
	return all, nil
}

// part is how much of an object is read at once, in bytes.
const part = 4 << 20

func (m Managed) copyOne(ctx context.Context, from Place, name string, to *copying) error {
	if from.Bucket != "" {
		for at := int64(0); to.left > 0; at += part {
			answer, err := m.call(ctx, "s3", "GetObject", members{"Bucket": from.Bucket, "Key": name, "Range": fmt.Sprintf("bytes=%d-%d", at, at+part-1)})
			if is(err, "InvalidRange") {
				return nil // it ends there
			}
			if err != nil {
				return err
			}
			b, _ := answer["Body"].([]byte)
			if _, err := to.Write(b); err != nil || len(b) < part {
				return err
			}
		}
		return nil
	}
	in := members{"logGroupName": from.LogGroup, "logStreamName": name, "startFromHead": true}
	// The agent writes it in parts, the last ones perhaps after the command has ended.
	_, err := m.within(ctx, commandNewsTakes, "complete output", func() (bool, string, error) {
		for to.left > 0 {
			answer, err := m.call(ctx, "logs", "GetLogEvents", in)
			if err != nil {
				return false, "", err
			}
			for _, e := range answer.list("events") {
				// An event is several lines, of which the last one may have lost its end.
				if _, err := to.Write([]byte(strings.TrimSuffix(e.text("message"), "\n") + "\n")); err != nil {
					return false, "", action.Errorf(action.Unavailable, "keep the output: %w", err)
				}
			}
			next := answer.text("nextForwardToken")
			if next == "" || next == in.text("nextToken") {
				break
			}
			in["nextToken"] = next
		}
		return to.left == 0 || to.written >= to.want, "not all of it is there yet", nil
	})
	return err
}

// Sent finds the command that this step has sent for a purpose, in an attempt before
// or in the step that is taken back; empty if there is none.
func (m Managed) Sent(ctx context.Context, purpose string) (string, error) {
	return m.sentBefore(ctx, []string{m.id}, m.token()+"-"+purpose, true)
}

// Within looks again and again until look has an answer, for as long as AWS's news
// may take. It returns whether there was one.
func (m Managed) Within(ctx context.Context, what string, look func() (bool, error)) (bool, error) {
	return m.within(ctx, newsTakes, what, func() (bool, string, error) {
		ok, err := look()
		return ok, "not there yet", err
	})
}

// Call calls AWS where the node is. Its error has a kind.
func (m Managed) Call(ctx context.Context, service, operation string, in map[string]any) (map[string]any, error) {
	return m.call(ctx, service, operation, in)
}
