package simcloud

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestHybridNodes(t *testing.T) {
	w := newWorld(t, Options{})
	id := w.Cloud.Register(Hybrid{Name: "rack-7", Region: "eu-west-1", Tags: map[string]string{"site": "berlin"}})
	w.agents(1)
	info := w.do("ssm DescribeInstanceInformation", m{"Filters": []any{m{"Key": "ResourceType", "Values": []any{"ManagedInstance"}}}})
	w.is("its own", []any{length(info, "InstanceInformationList"), text(info, "InstanceInformationList", 0, "InstanceId"), text(info, "InstanceInformationList", 0, "ComputerName")}, []any{1, id, "rack-7"})
	w.is("no instance", length(w.do("ec2 DescribeInstances", nil), "Reservations"), 1)
	w.do("ssm AddTagsToResource", m{"ResourceType": "ManagedInstance", "ResourceId": id, "Tags": []any{m{"Key": "a", "Value": "b"}}})
	w.is("tags", length(w.do("ssm ListTagsForResource", m{"ResourceType": "ManagedInstance", "ResourceId": id}), "TagList"), 2)
	w.fails("InvalidResourceId", "ssm ListTagsForResource", m{"ResourceType": "ManagedInstance", "ResourceId": "mi-0123456789abcdef0"})
	cmd := w.send(m{"InstanceIds": []any{id}})
	w.pass(time.Minute)
	w.is("takes commands", w.details(cmd), map[string]int{"Success": 1})
}

func TestPatches(t *testing.T) {
	w := newWorld(t, Options{Patches: func(Instance) []Patch {
		return []Patch{{ID: "a", State: "Missing", Severity: "Critical"}, {ID: "b", State: "Missing", Fails: true}, {ID: "c", State: "Installed"}, {ID: "d", State: "InstalledOther"}}
	}})
	id := w.agents(1)[0]
	states := func() []any {
		out := w.do("ssm DescribeInstancePatchStates", m{"InstanceIds": []any{id}})
		if length(out, "InstancePatchStates") == 0 {
			return nil
		}
		s := out["InstancePatchStates"].([]any)[0].(m)
		return []any{s["MissingCount"], s["InstalledCount"], s["InstalledOtherCount"], s["InstalledPendingRebootCount"], s["FailedCount"], s["CriticalNonCompliantCount"], s["Operation"]}
	}
	w.is("never scanned", states(), []any(nil))
	run := func(parameters m) {
		w.do("ssm SendCommand", m{"DocumentName": "AWS-RunPatchBaseline", "InstanceIds": []any{id}, "Parameters": parameters})
		w.pass(10 * time.Minute)
	}
	run(m{"Operation": []any{"Scan"}})
	w.is("scanned", states(), []any{2, 1, 1, 0, 0, 1, "Scan"})
	run(m{"Operation": []any{"Install"}, "RebootOption": []any{"NoReboot"}})
	w.is("installed", states(), []any{0, 1, 1, 1, 1, 1, "Install"})
	run(m{"Operation": []any{"Install"}})
	w.is("restarted", states(), []any{0, 2, 1, 0, 1, 0, "Install"})
	out := w.do("ssm DescribeInstancePatches", m{"InstanceId": id, "Filters": []any{m{"Key": "State", "Values": []any{"Failed"}}}})
	w.is("by state", []any{length(out, "Patches"), text(out, "Patches", 0, "KBId")}, []any{1, "b"})
	w.fails("ValidationException", "ssm DescribeInstancePatches", m{"InstanceId": id, "MaxResults": 5})
	w.fails("InvalidInstanceId", "ssm DescribeInstancePatches", m{"InstanceId": "i-0123456789abcdef0"})
	w.fails("ValidationException", "ssm DescribeInstancePatchStates", m{"InstanceIds": anyOf(make([]string, 51))})
}

func TestInventoryEntries(t *testing.T) {
	w := newWorld(t, Options{})
	id := w.agents(1)[0]
	content := []any{}
	for range 60 {
		content = append(content, m{"Name": "x"})
	}
	put := m{"TypeName": "AWS:Application", "SchemaVersion": "1.1", "CaptureTime": "2026-11-25T10:00:00Z", "Content": content}
	w.do("ssm PutInventory", m{"InstanceId": id, "Items": []any{put}})
	n, pages, in := 0, 0, m{"InstanceId": id, "TypeName": "AWS:Application"}
	for {
		out := w.do("ssm ListInventoryEntries", in)
		n, pages = n+length(out, "Entries"), pages+1
		w.is("captured", out["CaptureTime"], "2026-11-25T10:00:00Z")
		if in["NextToken"] = out["NextToken"]; in["NextToken"] == nil {
			break
		}
	}
	w.is("entries, pages", []any{n, pages}, []any{60, 2})
	w.is("another type", length(w.do("ssm ListInventoryEntries", m{"InstanceId": id, "TypeName": "AWS:Network"}), "Entries"), 0)
	w.fails("ValidationException", "ssm ListInventoryEntries", m{"InstanceId": id, "TypeName": "AWS:Network", "MaxResults": 51})
	put["CaptureTime"] = "2026-11-25 10:00"
	w.fails("ValidationException", "ssm PutInventory", m{"InstanceId": id, "Items": []any{put}})
	w.fails("InvalidInstanceId", "ssm ListInventoryEntries", m{"InstanceId": "i-0123456789abcdef0", "TypeName": "AWS:Network"})
}

func TestOutputInLogs(t *testing.T) {
	long := strings.Repeat(strings.Repeat("x", 99)+"\n", 20_000) // 2 MB
	w := newWorld(t, Options{Shell: func(context.Context, Command) CommandResult {
		return CommandResult{Stdout: long, Duration: time.Second}
	}})
	id := w.agents(1)[0]
	cmd := w.send(m{"InstanceIds": []any{id}, "CloudWatchOutputConfig": m{"CloudWatchOutputEnabled": true, "CloudWatchLogGroupName": "/runs"}})
	w.fails("ResourceNotFoundException", "logs DescribeLogStreams", m{"logGroupName": "/others"})
	w.pass(time.Minute)
	streams := w.do("logs DescribeLogStreams", m{"logGroupName": "/runs", "logStreamNamePrefix": cmd + "/" + id})
	name := text(streams, "logStreams", 0, "logStreamName")
	w.is("what is empty is not written", []any{length(streams, "logStreams"), name}, []any{1, cmd + "/" + id + "/aws-runShellScript/stdout"})
	var all strings.Builder
	pages, in := 0, m{"logGroupName": "/runs", "logStreamName": name, "startFromHead": true}
	for {
		out := w.do("logs GetLogEvents", in)
		for _, e := range out["events"].([]any) {
			all.WriteString(text(e.(m), "message") + "\n")
		}
		if out["nextForwardToken"] == in["nextToken"] {
			break
		}
		in["nextToken"], pages = out["nextForwardToken"], pages+1
	}
	w.is("all of it, in pages", []any{all.String() == long, pages}, []any{true, 2})
	w.fails("ResourceNotFoundException", "logs GetLogEvents", m{"logGroupName": "/runs", "logStreamName": "no", "startFromHead": true})
	w.do("logs CreateLogGroup", m{"logGroupName": "/other"})
	w.fails("ResourceAlreadyExistsException", "logs CreateLogGroup", m{"logGroupName": "/other"})
}

// A machine that goes away does not say how its command ended, and SSM waits for it.
func TestNodeGoesAwayDuringCommand(t *testing.T) {
	w := newWorld(t, Options{Shell: func(context.Context, Command) CommandResult { return CommandResult{Duration: time.Hour} }})
	id := w.agents(1)[0]
	cmd := w.send(m{"InstanceIds": []any{id}, "TimeoutSeconds": 60})
	w.pass(time.Minute)
	w.is("runs", w.details(cmd), map[string]int{"InProgress": 1})
	w.do("ec2 TerminateInstances", m{"InstanceIds": []any{id}})
	w.pass(30 * time.Minute)
	w.is("it seems to run", w.details(cmd), map[string]int{"InProgress": 1})
	w.pass(31 * time.Minute)
	w.is("in the end", w.details(cmd), map[string]int{"DeliveryTimedOut": 1})
}

func TestLongCommand(t *testing.T) {
	w := newWorld(t, Options{})
	id := w.agents(1)[0]
	w.fails("MaxDocumentSizeExceeded", "ssm SendCommand", m{"DocumentName": "AWS-RunShellScript", "InstanceIds": []any{id}, "Parameters": script(strings.Repeat("x", 100_000))})
}
