package simcloud

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func script(lines ...any) m { return m{"commands": lines} }

// send sends a shell script and returns the command's id.
func (w *world) send(with m) string {
	w.Helper()
	in := m{"DocumentName": "AWS-RunShellScript", "Parameters": script("true")}
	for k, v := range with {
		in[k] = v
	}
	return text(w.do("ssm SendCommand", in), "Command", "CommandId")
}

func anyOf(ids []string) []any {
	var all []any
	for _, id := range ids {
		all = append(all, id)
	}
	return all
}

// details counts the invocations of a command by their status details.
func (w *world) details(id string) map[string]int {
	w.Helper()
	count := map[string]int{}
	in := m{"CommandId": id}
	for {
		out := w.do("ssm ListCommandInvocations", in)
		for n := range length(out, "CommandInvocations") {
			count[text(out, "CommandInvocations", n, "StatusDetails")]++
		}
		if in["NextToken"] = out["NextToken"]; in["NextToken"] == nil {
			return count
		}
	}
}

func (w *world) commandStatus(id string) string {
	w.Helper()
	c := w.do("ssm ListCommands", m{"CommandId": id})
	return text(c, "Commands", 0, "Status") + "/" + text(c, "Commands", 0, "StatusDetails")
}

func TestRegistration(t *testing.T) {
	w := newWorld(t, Options{
		Delays: Delays{Launch: Range{time.Minute, time.Minute}, Register: Range{time.Minute, time.Minute}},
		Agent:  func(i Instance) Agent { return Agent{Never: i.Type == "m6i.xlarge", Late: time.Minute} },
	})
	run := func(token string, with m) string {
		return text(w.do("ec2 RunInstances", w.runInput(token, with)), "Instances", 0, "InstanceId")
	}
	id, never, bare := run("a", nil), run("b", m{"InstanceType": "m6i.xlarge"}), run("c", m{"IamInstanceProfile": nil})
	known := func() int { return length(w.do("ssm DescribeInstanceInformation", nil), "InstanceInformationList") }
	cmd := func(id string) m {
		return m{"DocumentName": "AWS-RunShellScript", "Parameters": script("true"), "InstanceIds": []any{id}}
	}
	w.pass(2 * time.Minute)
	w.is("running, not registered", []any{w.ec2State(id), known()}, []any{"running", 0})
	w.fails("InvalidInstanceId", "ssm SendCommand", cmd(id))
	w.pass(time.Minute)
	w.is("registered", known(), 1)
	w.do("ssm SendCommand", cmd(id))
	w.pass(time.Hour)
	w.fails("InvalidInstanceId", "ssm SendCommand", cmd(never))
	w.fails("InvalidInstanceId", "ssm SendCommand", cmd(bare)) // no profile, no agent

	w.do("ec2 StopInstances", m{"InstanceIds": []any{id}})
	w.is("stopped", text(w.do("ssm DescribeInstanceInformation", m{"Filters": []any{m{"Key": "InstanceIds", "Values": []any{id}}}}), "InstanceInformationList", 0, "PingStatus"), "ConnectionLost")
	w.fails("InvalidInstanceId", "ssm SendCommand", cmd(id))
	w.is("filtered", length(w.do("ssm DescribeInstanceInformation", m{"Filters": []any{m{"Key": "PingStatus", "Values": []any{"Online"}}}}), "InstanceInformationList"), 0)
	w.fails("InvalidFilterKey", "ssm DescribeInstanceInformation", m{"Filters": []any{m{"Key": "Ping", "Values": []any{"Online"}}}})

	managed := newWorld(t, Options{HostManagement: true})
	managed.do("ec2 RunInstances", managed.runInput("c", m{"IamInstanceProfile": nil}))
	w.is("host management", length(managed.do("ssm DescribeInstanceInformation", nil), "InstanceInformationList"), 1)
}

func TestSendCommandRefuses(t *testing.T) {
	w := newWorld(t, Options{})
	ids := w.agents(51)
	windows := text(w.given("ec2 RunInstances", w.runInput("", m{
		"ImageId": text(w.do("ssm GetParameter", m{"Name": "/aws/service/ami-windows-latest/Windows_Server-2022-English-Full-Base"}), "Parameter", "Value"),
	})), "Instances", 0, "InstanceId")
	one := anyOf(ids[:1])
	for _, tt := range []struct {
		in   m
		code string
	}{
		{m{"InstanceIds": anyOf(ids)}, "ValidationException"},
		{m{"Targets": []any{m{"Key": "InstanceIds", "Values": anyOf(ids)}}}, "ValidationException"},
		{m{}, "ValidationException"},
		{m{"InstanceIds": one, "Targets": []any{m{"Key": "tag:role", "Values": []any{"web"}}}}, "ValidationException"},
		{m{"InstanceIds": append(slices.Clone(one), one...)}, "DuplicateInstanceId"},
		{m{"InstanceIds": []any{"i-0123456789abcdef0"}}, "InvalidInstanceId"},
		{m{"InstanceIds": []any{windows}}, "UnsupportedPlatformType"},
		{m{"InstanceIds": one, "Comment": strings.Repeat("x", 101)}, "ValidationException"},
		{m{"InstanceIds": one, "TimeoutSeconds": 10}, "ValidationException"},
		{m{"InstanceIds": one, "MaxConcurrency": "0"}, "ValidationException"},
		{m{"InstanceIds": one, "MaxErrors": "many"}, "ValidationException"},
		{m{"InstanceIds": one, "DocumentName": "Mine"}, "InvalidDocument"},
		{m{"InstanceIds": one, "DocumentName": "AWS-RunAnsiblePlaybook"}, "NotSimulated"},
		{m{"InstanceIds": one, "Parameters": m{}}, "InvalidParameters"},
		{m{"InstanceIds": one, "Parameters": m{"commands": []any{"true"}, "timeout": []any{"1"}}}, "InvalidParameters"},
	} {
		in := m{"DocumentName": "AWS-RunShellScript", "Parameters": script("true")}
		for k, v := range tt.in {
			in[k] = v
		}
		w.fails(tt.code, "ssm SendCommand", in)
	}
	// A command to ids reaches these and no others.
	id := w.send(m{"InstanceIds": one})
	w.pass(time.Minute)
	w.is("reached", w.details(id), map[string]int{"Success": 1})
}

func TestInvocations(t *testing.T) {
	w := newWorld(t, Options{
		Delays: Delays{Command: Range{5 * time.Second, 5 * time.Second}, Deliver: Range{7 * time.Second, 7 * time.Second}},
		Shell: func(_ context.Context, c Command) CommandResult {
			return CommandResult{ExitCode: 3, Stdout: strings.Repeat("ö", 30000), Stderr: strings.Repeat("e", 9000), Duration: 10 * time.Second}
		},
	})
	id := w.agents(1)[0]
	w.do("s3 CreateBucket", m{"Bucket": "logs", "CreateBucketConfiguration": m{"LocationConstraint": "eu-west-1"}})
	cmd := w.send(m{"InstanceIds": []any{id}, "Comment": "tok", "OutputS3BucketName": "logs", "OutputS3KeyPrefix": "p"})
	get := m{"CommandId": cmd, "InstanceId": id}
	if e := w.fails("InvocationDoesNotExist", "ssm GetCommandInvocation", get); e.Class != "not_found" {
		t.Errorf("%+v", e)
	}
	w.is("not listed yet", length(w.do("ssm ListCommands", nil), "Commands")+length(w.do("ssm ListCommandInvocations", nil), "CommandInvocations"), 0)
	w.pass(5 * time.Second)
	status := func() []any {
		v := w.do("ssm GetCommandInvocation", get)
		return []any{v["Status"], v["ResponseCode"], len([]rune(text(v, "StandardOutputContent"))), len(text(v, "StandardErrorContent"))}
	}
	w.is("pending", status(), []any{"Pending", -1, 0, 0})
	w.pass(2 * time.Second)
	w.is("in progress", status(), []any{"InProgress", -1, 0, 0})
	w.pass(10 * time.Second)
	w.is("failed, output cut", status(), []any{"Failed", 3, 24000, 8000})
	w.is("whole output", bodyLength(w.do("s3 GetObject", m{"Bucket": "logs", "Key": "p/" + cmd + "/" + id + "/awsrunShellScript/0.awsrunShellScript/stdout"})), 60000)
	out := w.do("ssm ListCommandInvocations", m{"CommandId": cmd, "Details": true})
	w.is("list", []any{len([]rune(text(out, "CommandInvocations", 0, "CommandPlugins", 0, "Output"))), text(out, "CommandInvocations", 0, "Comment")}, []any{2500, "tok"})

	// The look-up before a command is sent again.
	found := w.do("ssm ListCommands", m{"Filters": []any{m{"key": "InvokedAfter", "value": w.at.Add(-time.Minute).Format(time.RFC3339)}}})
	w.is("by comment", text(found, "Commands", 0, "Comment"), "tok")
	found = w.do("ssm ListCommands", m{"Filters": []any{m{"key": "InvokedAfter", "value": w.at.Format(time.RFC3339)}}})
	w.is("none since", length(found, "Commands"), 0)
	// No token: twice is two.
	if again := w.send(m{"InstanceIds": []any{id}, "Comment": "tok"}); again == cmd {
		t.Error("two commands are one")
	}
}

func bodyLength(out m) int { b, _ := out["Body"].([]byte); return len(b) }

func TestMaxConcurrencyAndErrors(t *testing.T) {
	for _, tt := range []struct {
		atOnce, errors string
		bad            int // that many fail, the first ones
		all            int
		ran            int
		status         string
	}{
		{"1", "0", 1, 10, 1, "Failed/Failed"},
		{"1", "0", 0, 10, 10, "Success/Success"},
		{"1", "2", 10, 10, 3, "Failed/Failed"},
		{"1", "2", 2, 10, 10, "Failed/Incomplete"},
		{"1", "10%", 50, 50, 6, "Failed/Failed"}, // AWS's own example: it stops at the sixth
		{"1", "5%", 50, 50, 3, "Failed/Failed"},
		{"1", "10%", 5, 5, 1, "Failed/Failed"},  // 10% of 5 is none
		{"5", "0", 1, 10, 5, "Failed/Failed"},   // those that run already go on
		{"50%", "0", 1, 10, 5, "Failed/Failed"}, //
		{"50", "0", 50, 60, 50, "Failed/Failed"},
	} {
		var ran []string
		w := newWorld(t, Options{Shell: func(_ context.Context, c Command) CommandResult {
			ran = append(ran, c.Instance.ID)
			code := 0
			if len(ran) <= tt.bad {
				code = 1
			}
			return CommandResult{ExitCode: code, Duration: time.Minute}
		}})
		w.agents(tt.all)
		cmd := w.send(m{"Targets": []any{m{"Key": "tag:role", "Values": []any{"web"}}}, "MaxConcurrency": tt.atOnce, "MaxErrors": tt.errors})
		most := 0
		for range 120 {
			most = max(most, w.details(cmd)["InProgress"])
			w.pass(30 * time.Second)
		}
		at := w.details(cmd)
		name := fmt.Sprintf("%+v", tt)
		w.is(name, []any{len(ran), w.commandStatus(cmd), at["Terminated"]}, []any{tt.ran, tt.status, tt.all - tt.ran})
		w.Cloud.mu.Lock()
		c, _ := w.commands.get(cmd)
		w.Cloud.mu.Unlock()
		if most > c.atOnce {
			t.Errorf("%s: %d at once", name, most)
		}
	}
}

// What was not reached does not show in the whole: judge each target.
func TestUnreached(t *testing.T) {
	kinds := map[string]Agent{"m6i.xlarge": {Undeliverable: true}, "m6i.2xlarge": {Silent: true}}
	w := newWorld(t, Options{Agent: func(i Instance) Agent { return kinds[i.Type] }})
	w.agents(5)
	more := func(n int, kind string) {
		w.given("ec2 RunInstances", w.runInput("", m{"MinCount": n, "MaxCount": n, "InstanceType": kind, "TagSpecifications": []any{
			m{"ResourceType": "instance", "Tags": []any{m{"Key": "role", "Value": "web"}}},
		}}))
	}
	more(3, "m6i.xlarge")
	web := []any{m{"Key": "tag:role", "Values": []any{"web"}}}
	cmd := w.send(m{"Targets": web, "TimeoutSeconds": 600})
	w.pass(time.Minute)
	w.is("undeliverable", w.details(cmd), map[string]int{"Success": 5, "Undeliverable": 3})
	w.is("and the whole", w.commandStatus(cmd), "Success/Success")

	more(2, "m6i.2xlarge")
	cmd = w.send(m{"Targets": web, "TimeoutSeconds": 600, "MaxErrors": "2"})
	w.pass(time.Minute)
	w.is("waiting", []any{w.details(cmd), w.commandStatus(cmd)}, []any{map[string]int{"Success": 5, "Undeliverable": 3, "Pending": 2}, "InProgress/InProgress"})
	w.pass(70 * time.Minute) // to start, and to run
	w.is("not delivered", []any{w.details(cmd), w.commandStatus(cmd)}, []any{map[string]int{"Success": 5, "Undeliverable": 3, "DeliveryTimedOut": 2}, "Failed/Incomplete"})
	cmd = w.send(m{"Targets": web, "TimeoutSeconds": 600, "MaxErrors": "0"})
	w.pass(71 * time.Minute)
	w.is("not delivered", w.commandStatus(cmd), "TimedOut/DeliveryTimedOut")

	// A tag reaches what has been stopped, too.
	ids := w.agents(1)
	w.do("ec2 StopInstances", m{"InstanceIds": anyOf(ids)})
	cmd = w.send(m{"Targets": web})
	w.pass(time.Minute)
	w.is("stopped", w.details(cmd)["Undeliverable"], 4)
	cmd = w.send(m{"Targets": []any{m{"Key": "InstanceIds", "Values": anyOf(ids)}}})
	w.is("all of them", []any{w.details(cmd), w.commandStatus(cmd)}, []any{map[string]int{"Undeliverable": 1}, "Failed/Failed"})

	// Nobody was asked, and that is a success.
	cmd = w.send(m{"Targets": []any{m{"Key": "tag:role", "Values": []any{"wbe"}}}})
	w.is("at first", w.commandStatus(cmd), "Pending/Pending")
	w.pass(time.Second)
	w.is("nobody", []any{w.details(cmd), w.commandStatus(cmd)}, []any{map[string]int{}, "Success/NoInstancesInTag"})
	w.fails("NotSimulated", "ssm SendCommand", m{"DocumentName": "AWS-RunShellScript", "Parameters": script("true"), "Targets": []any{m{"Key": "resource-groups:Name", "Values": []any{"x"}}}})
}

func TestCancelAndTimeout(t *testing.T) {
	w := newWorld(t, Options{
		Shell: func(_ context.Context, c Command) CommandResult { return CommandResult{Duration: 10 * time.Minute} },
		Agent: func(i Instance) Agent { return Agent{IgnoresCancel: i.Type == "m6i.xlarge"} },
	})
	ids := w.agents(4)
	stubborn := text(w.given("ec2 RunInstances", w.runInput("", m{"InstanceType": "m6i.xlarge"})), "Instances", 0, "InstanceId")
	cmd := w.send(m{"InstanceIds": anyOf(append([]string{stubborn}, ids...)), "MaxConcurrency": "3"})
	w.pass(time.Minute)
	w.is("before", w.details(cmd), map[string]int{"InProgress": 3, "Pending": 2})
	w.do("ssm CancelCommand", m{"CommandId": cmd})
	w.is("after", []any{w.details(cmd), w.commandStatus(cmd)}, []any{map[string]int{"Cancelled": 4, "InProgress": 1}, "Cancelling/Cancelling"})
	w.pass(10 * time.Minute)
	w.is("in the end", []any{w.details(cmd), w.commandStatus(cmd)}, []any{map[string]int{"Cancelled": 4, "Success": 1}, "Cancelled/Cancelled"})
	w.do("ssm CancelCommand", m{"CommandId": cmd}) // nothing left to cancel
	w.fails("InvalidCommandId", "ssm CancelCommand", m{"CommandId": "00000000-0000-4000-a000-000000000000"})

	cmd = w.send(m{"InstanceIds": anyOf(ids), "Parameters": m{"commands": []any{"sleep 600"}, "executionTimeout": []any{"60"}}})
	w.details(cmd)
	w.pass(61 * time.Second)
	w.is("execution timeout", []any{w.details(cmd), w.commandStatus(cmd)}, []any{map[string]int{"ExecutionTimedOut": 4}, "TimedOut/ExecutionTimedOut"})
}

// An agent that never says how it went, and one that runs everything twice.
func TestLostAndDoubled(t *testing.T) {
	runs := map[string]int{}
	w := newWorld(t, Options{
		Agent: func(i Instance) Agent { return Agent{Mute: i.Type == "m6i.xlarge", Twice: i.Type == "m6i.2xlarge"} },
		Shell: func(_ context.Context, c Command) CommandResult {
			runs[c.Instance.Type]++
			return CommandResult{Stdout: "done", Duration: time.Second}
		},
	})
	var ids []string
	for _, kind := range []string{"m6i.xlarge", "m6i.2xlarge"} {
		ids = append(ids, text(w.given("ec2 RunInstances", w.runInput("", m{"InstanceType": kind})), "Instances", 0, "InstanceId"))
	}
	cmd := w.send(m{"InstanceIds": anyOf(ids), "MaxErrors": "1"})
	w.details(cmd)
	w.pass(time.Minute)
	w.is("at first", w.details(cmd), map[string]int{"InProgress": 1, "Success": 1})
	w.pass(2 * time.Hour)
	w.is("in the end", w.details(cmd), map[string]int{"DeliveryTimedOut": 1, "Success": 1}) // though it ran
	w.is("output", w.do("ssm GetCommandInvocation", m{"CommandId": cmd, "InstanceId": ids[0]})["StandardOutputContent"], "")
	w.is("runs", runs, map[string]int{"m6i.xlarge": 1, "m6i.2xlarge": 2})
}

// A command may be cancelled while its shell runs; it is cancelled all the same.
func TestCancelWhileItRuns(t *testing.T) {
	var w *world
	w = newWorld(t, Options{Shell: func(_ context.Context, c Command) CommandResult {
		w.do("ssm CancelCommand", m{"CommandId": c.ID})
		return CommandResult{Stdout: "done"}
	}})
	ids := w.agents(1)
	cmd := w.send(m{"InstanceIds": anyOf(ids)})
	w.is("cancelled", w.details(cmd), map[string]int{"Cancelled": 1})
	w.is("output", w.do("ssm GetCommandInvocation", m{"CommandId": cmd, "InstanceId": ids[0]})["StandardOutputContent"], "")
}

// A command runs when its time has come, whether or not anyone looks at it.
func TestNobodyLooks(t *testing.T) {
	ran := 0
	w := newWorld(t, Options{
		Delays: Delays{Deliver: Range{time.Second, time.Second}},
		Shell:  func(context.Context, Command) CommandResult { ran++; return CommandResult{} },
	})
	ids := w.agents(1)
	cmd := w.send(m{"InstanceIds": anyOf(ids)})
	w.is("at first", ran, 0)
	w.pass(time.Minute)
	w.do("ec2 TerminateInstances", m{"InstanceIds": anyOf(ids)})
	w.is("ran", []any{ran, w.details(cmd)}, []any{1, map[string]int{"Success": 1}})
}

func TestPatchBaseline(t *testing.T) {
	w := newWorld(t, Options{Seed: 3})
	ids := w.agents(1)
	state := func() []any {
		out := w.do("ssm DescribeInstancePatchStates", m{"InstanceIds": anyOf(ids)})
		return []any{length(out, "InstancePatchStates"), text(out, "InstancePatchStates", 0, "Operation"), at(out, "InstancePatchStates", 0, "MissingCount") != int64(0), at(out, "InstancePatchStates", 0, "InstalledPendingRebootCount") != int64(0)}
	}
	patch := func(operation, reboot string) {
		w.send(m{"DocumentName": "AWS-RunPatchBaseline", "InstanceIds": anyOf(ids), "Parameters": m{"Operation": []any{operation}, "RebootOption": []any{reboot}}})
		w.is("not done yet", len(state()) > 0, true)
		w.pass(5 * time.Minute)
	}
	w.is("never", state()[0], 0)
	patch("Scan", "NoReboot")
	w.is("scanned", state(), []any{1, "Scan", true, false})
	i, _ := w.instances.get(ids[0])
	boots := i.boots
	patch("Install", "NoReboot")
	w.is("installed", append(state(), i.boots-boots), []any{1, "Install", false, true, 0})
	patch("Install", "RebootIfNeeded")
	w.is("rebooted", append(state(), i.boots-boots), []any{1, "Install", false, false, 1})
	for document, params := range map[string]m{
		"AWS-UpdateSSMAgent":      nil,
		"AWS-ConfigureAWSPackage": {"action": []any{"Install"}, "name": []any{"AmazonCloudWatchAgent"}},
	} {
		cmd := w.send(m{"DocumentName": document, "InstanceIds": anyOf(ids), "Parameters": params})
		w.pass(time.Minute)
		w.is(document, w.details(cmd), map[string]int{"Success": 1})
	}
}

// With the real clock and the real shell, commands run.
func TestRealShell(t *testing.T) {
	dir := t.TempDir()
	c := New(Options{Shell: RealShell(dir)})
	t.Cleanup(c.Close)
	w := &world{TB: t, Cloud: c}
	w.in.Region = "eu-west-1"
	ids := w.agents(2)
	wait := func(cmd, id string) m {
		t.Helper()
		for range 500 {
			v := w.do("ssm GetCommandInvocation", m{"CommandId": cmd, "InstanceId": id})
			if s := text(v, "Status"); s != "Pending" && s != "InProgress" {
				return v
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatal("it does not end")
		return nil
	}
	cmd := w.send(m{"InstanceIds": anyOf(ids), "MaxConcurrency": "1", "MaxErrors": "1", "Parameters": script("echo $INSTANCE_ID", "pwd > here", "echo no >&2", "exit 4")})
	for _, id := range ids {
		v := wait(cmd, id)
		w.is("answer", []any{v["ResponseCode"], v["StandardOutputContent"], v["StandardErrorContent"], v["StatusDetails"]}, []any{4, id + "\n", "no\n", "Failed"})
		here, err := os.ReadFile(filepath.Join(dir, id, "here"))
		if err != nil || strings.TrimSpace(string(here)) != filepath.Join(dir, id) {
			t.Errorf("%q %v", here, err)
		}
	}

	cmd = w.send(m{"InstanceIds": anyOf(ids[:1]), "Parameters": script("dnf -y update", "reboot", `case $ALMANAC_STATE_DIR in "$HOME"/*) echo here;; esac`)})
	w.is("what changes the machine", wait(cmd, ids[0])["StandardOutputContent"], "(simulated) dnf -y update\n(simulated) reboot \nhere\n")

	// Cancelled: what it has started goes with it.
	cmd = w.send(m{"InstanceIds": anyOf(ids[:1]), "Parameters": script("sh -c 'sleep 1; touch late' &", "touch begun", "wait")})
	begun := filepath.Join(dir, ids[0], "begun")
	for range 500 {
		if _, err := os.Stat(begun); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.do("ssm CancelCommand", m{"CommandId": cmd})
	w.is("cancelled", wait(cmd, ids[0])["StatusDetails"], "Cancelled")
	time.Sleep(1200 * time.Millisecond)
	if _, err := os.Stat(filepath.Join(dir, ids[0], "late")); err == nil {
		t.Error("what the command started went on")
	}

	cmd = w.send(m{"InstanceIds": anyOf(ids[:1]), "Parameters": m{"commands": []any{"sleep 60"}, "executionTimeout": []any{"1"}}})
	w.is("timed out", wait(cmd, ids[0])["StatusDetails"], "ExecutionTimedOut")
}

func TestParameters(t *testing.T) {
	w := newWorld(t, Options{})
	put := func(with m) m {
		in := m{"Name": "/app/web", "Type": "String", "Value": "one"}
		for k, v := range with {
			in[k] = v
		}
		return in
	}
	get := func(name string) any { return at(w.do("ssm GetParameter", m{"Name": name}), "Parameter", "Value") }
	w.is("version", w.do("ssm PutParameter", put(m{"Tags": []any{m{"Key": "almanac:execution", "Value": "e"}}}))["Version"], 1)
	w.fails("ParameterAlreadyExists", "ssm PutParameter", put(nil))
	w.is("version", w.do("ssm PutParameter", put(m{"Value": "two", "Overwrite": true}))["Version"], 2)
	w.is("values", []any{get("/app/web"), get("/app/web:1"), get("arn:aws:ssm:eu-west-1:123456789012:parameter/app/web:2")}, []any{"two", "one", "two"})
	w.fails("ParameterVersionNotFound", "ssm GetParameter", m{"Name": "/app/web:9"})
	w.fails("ParameterVersionNotFound", "ssm GetParameter", m{"Name": "/app/web:stable"})

	// A label is on one version.
	w.is("label", w.do("ssm LabelParameterVersion", m{"Name": "/app/web", "Labels": []any{"stable", "aws-x"}, "ParameterVersion": 1}), m{"InvalidLabels": []any{"aws-x"}, "ParameterVersion": 1})
	w.is("by label", get("/app/web:stable"), "one")
	w.do("ssm LabelParameterVersion", m{"Name": "/app/web", "Labels": []any{"stable"}})
	w.is("by label", get("/app/web:stable"), "two")
	history := w.do("ssm GetParameterHistory", m{"Name": "/app/web"})
	w.is("history", []any{length(history, "Parameters"), at(history, "Parameters", 1, "Labels")}, []any{2, []any{"stable"}})

	for _, tt := range []struct {
		with m
		code string
	}{
		{m{"Name": "/app/new", "Type": nil}, "ValidationException"},
		{m{"Name": "/app/new", "Type": "Text"}, "UnsupportedParameterType"},
		{m{"Name": "/aws/mine"}, "AccessDeniedException"},
		{m{"Name": "/app/a b"}, "ValidationException"},
		{m{"Name": "/app/new", "Value": strings.Repeat("x", 4097)}, "ValidationException"},
		{m{"Name": "/app/new", "AllowedPattern": "^[0-9]+$"}, "ParameterPatternMismatchException"},
		{m{"Overwrite": true, "Tags": []any{m{"Key": "a", "Value": "b"}}}, "ValidationException"},
	} {
		w.fails(tt.code, "ssm PutParameter", put(tt.with))
	}

	// A secret is shown to those who ask for it, and its sealed form hides it.
	w.do("ssm PutParameter", m{"Name": "/app/secret", "Type": "SecureString", "Value": "canary"})
	if v, _ := get("/app/secret").(string); strings.Contains(v, "canary") || v == "" {
		t.Errorf("sealed: %q", v)
	}
	w.is("opened", at(w.do("ssm GetParameter", m{"Name": "/app/secret", "WithDecryption": true}), "Parameter", "Value"), "canary")
	for _, e := range w.Ledger() {
		if strings.Contains(fmt.Sprintf("%+v", e), "canary") {
			t.Error("the ledger keeps a secret")
		}
	}

	out := w.do("ssm GetParameters", m{"Names": []any{"/app/web", "/app/none"}})
	w.is("several", []any{length(out, "Parameters"), out["InvalidParameters"]}, []any{1, []any{"/app/none"}})
	w.do("ssm PutParameter", put(m{"Name": "/app/deep/er"}))
	w.is("path", []any{length(w.do("ssm GetParametersByPath", m{"Path": "/app"}), "Parameters"), length(w.do("ssm GetParametersByPath", m{"Path": "/app/", "Recursive": true}), "Parameters")}, []any{2, 3})

	// AWS says yes, and makes nothing.
	w.is("no such image", w.do("ssm PutParameter", put(m{"Name": "/app/ami", "DataType": "aws:ec2:image", "Value": "ami-0123456789abcdef0"}))["Version"], 1)
	w.fails("ParameterNotFound", "ssm GetParameter", m{"Name": "/app/ami"})
	w.do("ssm PutParameter", put(m{"Name": "/app/ami", "DataType": "aws:ec2:image", "Value": w.linux()}))
	w.is("an image", get("/app/ami"), w.linux())

	w.do("ssm AddTagsToResource", m{"ResourceType": "Parameter", "ResourceId": "/app/ami", "Tags": []any{m{"Key": "a", "Value": "b"}}})
	w.is("tags", length(w.do("ssm ListTagsForResource", m{"ResourceType": "Parameter", "ResourceId": "/app/ami"}), "TagList"), 1)
	w.do("ssm DeleteParameter", m{"Name": "/app/ami"})
	w.fails("ParameterNotFound", "ssm DeleteParameter", m{"Name": "/app/ami"})

	for n := range 99 {
		w.do("ssm PutParameter", put(m{"Value": fmt.Sprint(n), "Overwrite": true}))
	}
	w.fails("ParameterMaxVersionLimitExceeded", "ssm PutParameter", put(m{"Value": "x", "Overwrite": true}))
}
