package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	common "go.temporal.io/api/common/v1"
	enums "go.temporal.io/api/enums/v1"
	history "go.temporal.io/api/history/v1"
	"go.temporal.io/api/serviceerror"
	workflow "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/simcloud"
	"github.com/almanac-run/almanac/internal/sweep"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// known is a server that knows these executions.
type known []sweep.Execution

func (k known) Executions(_ context.Context, tag string) ([]sweep.Execution, error) {
	var found []sweep.Execution
	for _, e := range k {
		if sweep.TagValue(e.ID) == tag {
			found = append(found, e)
		}
	}
	return found, nil
}

// sweepWorld is a cloud with a parameter of each of these executions, and one of
// nobody.
func sweepWorld(t *testing.T, executions ...string) *simcloud.Cloud {
	t.Helper()
	cloud := simcloud.New(simcloud.Options{Seed: 1, Region: "eu-central-1"})
	t.Cleanup(cloud.Close)
	given := func(region, service, operation string, in map[string]any) map[string]any {
		out, err := cloud.Given().Call(context.Background(), awsapi.Scope{Region: region}, service, operation, in)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, region := range []string{"eu-central-1", "us-east-1"} {
		given(region, "ec2", "CreateLaunchTemplate", map[string]any{"LaunchTemplateName": "nobodys", "LaunchTemplateData": map[string]any{"InstanceType": "t3.micro"}})
		for _, e := range executions {
			given(region, "ec2", "CreateLaunchTemplate", map[string]any{"LaunchTemplateName": "of-" + e, "LaunchTemplateData": map[string]any{"InstanceType": "t3.micro"},
				"TagSpecifications": []any{map[string]any{"ResourceType": "launch-template", "Tags": []any{
					map[string]any{"Key": "almanac:execution", "Value": e}, map[string]any{"Key": "almanac:step", "Value": "make"}, map[string]any{"Key": "almanac:token", "Value": "t"},
				}}}})
		}
	}
	return cloud
}

func runSweep(t *testing.T, caller awsapi.Caller, s sweep.Server, output string, o sweepOptions) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	a := &app{program: "starter", stdout: &out, stderr: &errs, output: output, color: "never", address: "temporal:7233"}
	err := a.sweep(context.Background(), caller, s, o)
	var exit *exitError
	switch {
	case errors.As(err, &exit) && exit.err == nil:
		code = exit.code
	case err != nil:
		t.Fatal(err)
	}
	clean := regexp.MustCompile(`lt-[0-9a-f]+`).ReplaceAllString(out.String(), "LT")
	clean = regexp.MustCompile(`20[0-9-]+ [0-9]+:[0-9]+`).ReplaceAllString(clean, "DATE")
	return clean, errs.String(), code
}

func TestSweepShowsAndRemoves(t *testing.T) {
	cloud := sweepWorld(t, "bad", "good", "now", "stop", "whose")
	live := cloud.Live
	s := known{{ID: "bad", Status: workflows.RolledBack}, {ID: "good", Status: workflows.Succeeded}, {ID: "now", Status: sweep.Running}, {ID: "stop", Status: workflows.Failed}}
	before := live()
	got, stderr, code := runSweep(t, cloud, s, "text", sweepOptions{})
	want := `left over:
  KIND             ID  NAME    REGION        EXECUTION  STEP  MADE  WHY
  launch template  LT  of-bad  eu-central-1  bad        make  DATE     bad was rolled back

kept by the runbook; --stopped removes it:
  KIND             ID  NAME     REGION        EXECUTION  STEP  MADE  WHY
  launch template  LT  of-stop  eu-central-1  stop       make  DATE     stop failed, and was not rolled back

of executions that the server does not know: forgotten since, or of another server or namespace; --execution ID removes it:
  KIND             ID  NAME      REGION        EXECUTION  STEP  MADE  WHY
  launch template  LT  of-whose  eu-central-1  whose      make  DATE     the server knows no such execution

1 resource wanted: of executions that succeeded, or marked
1 resource of executions that run

1 resource would be removed by
  starter --address temporal:7233 sweep --yes
`
	if diff := cmp.Diff(squeeze(want), squeeze(got)); diff != "" || stderr != "" || code != 0 {
		t.Errorf("code %d, stderr %q (-want +got):\n%s", code, stderr, diff)
	}
	if d := simcloud.Diff(before, live()); !d.Empty() {
		t.Errorf("showing changed: %s", d)
	}

	got, stderr, code = runSweep(t, cloud, s, "text", sweepOptions{yes: true, regions: []string{"us-east-1", "eu-central-1"}, Options: sweep.Options{Stopped: true}})
	if want := "4 resources removed, 0 could not be"; !strings.Contains(got, want) || !strings.Contains(got, "launch template LT in us-east-1: removed") || stderr != "" || code != 0 {
		t.Errorf("code %d, stderr %q:\n%s", code, stderr, got)
	}
	var removed []string
	for _, r := range simcloud.Diff(before, live()).Removed {
		removed = append(removed, r.Region+" "+r.Name)
	}
	if diff := cmp.Diff([]string{"eu-central-1 of-bad", "us-east-1 of-bad", "eu-central-1 of-stop", "us-east-1 of-stop"}, byName(removed)); diff != "" {
		t.Error(diff)
	}

	got, _, code = runSweep(t, cloud, s, "text", sweepOptions{yes: true, Options: sweep.Options{Execution: "whose"}})
	if !strings.Contains(got, "1 resource removed") || code != 0 {
		t.Errorf("code %d:\n%s", code, got)
	}
	got, _, _ = runSweep(t, cloud, s, "text", sweepOptions{})
	if !strings.Contains(got, "nothing to remove") {
		t.Error(got)
	}
}

func byName(lines []string) []string {
	out := append([]string{}, lines...)
	for i := range out {
		for j := i + 1; j < len(out); j++ {
			a, b := strings.Fields(out[i]), strings.Fields(out[j])
			if b[1]+b[0] < a[1]+a[0] {
				out[i], out[j] = out[j], out[i]
			}
		}
	}
	return out
}

// squeeze makes runs of spaces one.
func squeeze(s string) string { return regexp.MustCompile(` +`).ReplaceAllString(s, " ") }

func TestSweepJSON(t *testing.T) {
	cloud := sweepWorld(t, "bad", "good")
	s := known{{ID: "bad", Status: workflows.RolledBack}, {ID: "good", Status: workflows.Succeeded}}
	for _, yes := range []bool{false, true} {
		got, _, code := runSweep(t, refusingRegion{cloud}, s, "json", sweepOptions{yes: yes, all: true, role: "arn:aws:iam::123456789012:role/a b"})
		var out sweptJSON
		if err := json.Unmarshal([]byte(got), &out); err != nil {
			t.Fatal(err, got)
		}
		command := "starter --address temporal:7233 sweep --all-regions --role 'arn:aws:iam::123456789012:role/a b' --yes"
		results := 0
		if yes {
			command, results = "", 2
		}
		if len(out.Resources) != 4 || len(out.Problems) != 1 || len(out.Results) != results || out.Command != command || code != exitFailed {
			t.Errorf("code %d, %d problems, command %s:\n%s", code, len(out.Problems), out.Command, got)
		}
	}
}

// refusingRegion refuses a call in one region.
type refusingRegion struct{ awsapi.Caller }

func (c refusingRegion) Call(ctx context.Context, in awsapi.Scope, service, operation string, input map[string]any) (map[string]any, error) {
	if in.Region == "eu-west-1" && operation == "DescribeImages" {
		return nil, &awsapi.Error{Service: service, Operation: operation, Code: "UnauthorizedOperation", Class: awsapi.Denied}
	}
	return c.Caller.Call(ctx, in, service, operation, input)
}

// One that cannot be removed makes the exit code.
func TestSweepFails(t *testing.T) {
	cloud := sweepWorld(t, "bad")
	got, _, code := runSweep(t, refusingDelete{cloud}, known{{ID: "bad", Status: workflows.RolledBack}}, "text", sweepOptions{yes: true})
	if !strings.Contains(got, "NOT removed: ec2 DeleteLaunchTemplate: UnauthorizedOperation") || !strings.Contains(got, "0 resources removed, 1 could not be") || code != exitFailed {
		t.Errorf("code %d:\n%s", code, got)
	}
}

type refusingDelete struct{ awsapi.Caller }

func (c refusingDelete) Call(ctx context.Context, in awsapi.Scope, service, operation string, input map[string]any) (map[string]any, error) {
	if strings.HasPrefix(operation, "Delete") {
		return nil, &awsapi.Error{Service: service, Operation: operation, Code: "UnauthorizedOperation", Class: awsapi.Denied}
	}
	return c.Caller.Call(ctx, in, service, operation, input)
}

// listing is a client that answers from what it holds, and whose list is late:
// it has those only that are listed.
type listing struct {
	client.Client
	runs   []*workflow.WorkflowExecutionInfo // of one id, the last is the newest
	listed int                               // how many of them are in the list
	start  *workflows.Start
	query  string
}

func (c *listing) DescribeWorkflowExecution(_ context.Context, id, run string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	for i := len(c.runs) - 1; i >= 0; i-- {
		if e := c.runs[i].GetExecution(); e.GetWorkflowId() == id && (run == "" || e.GetRunId() == run) {
			return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: c.runs[i]}, nil
		}
	}
	return nil, serviceerror.NewNotFound("no such execution")
}

func (c *listing) ListWorkflow(_ context.Context, r *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	c.query = r.GetQuery()
	return &workflowservice.ListWorkflowExecutionsResponse{Executions: c.runs[:c.listed]}, nil
}

func (c *listing) GetWorkflowHistory(context.Context, string, string, bool, enums.HistoryEventFilterType) client.HistoryEventIterator {
	return &firstEvent{start: c.start}
}

type firstEvent struct{ start *workflows.Start }

func (e *firstEvent) HasNext() bool { return e.start != nil }

func (e *firstEvent) Next() (*history.HistoryEvent, error) {
	input, err := converter.GetDefaultDataConverter().ToPayloads(e.start)
	return &history.HistoryEvent{Attributes: &history.HistoryEvent_WorkflowExecutionStartedEventAttributes{
		WorkflowExecutionStartedEventAttributes: &history.WorkflowExecutionStartedEventAttributes{Input: input}}}, err
}

// info is a run of an execution; first is the run that began it.
func info(id, run, first string, status enums.WorkflowExecutionStatus, outcome string) *workflow.WorkflowExecutionInfo {
	fields := map[string]*common.Payload{}
	for name, value := range map[string]string{workflows.AttrRunbook: "a/b", workflows.AttrStatus: outcome} {
		if outcome == "not ours" {
			continue
		}
		p, err := converter.GetDefaultDataConverter().ToPayload(value)
		if err != nil {
			panic(err)
		}
		fields[name] = p
	}
	return &workflow.WorkflowExecutionInfo{
		Execution: &common.WorkflowExecution{WorkflowId: id, RunId: run}, FirstRunId: first, Status: status,
		StartTime: timestamppb.New(time.Date(2026, 1, int(run[0]-'0'), 0, 0, 0, 0, time.UTC)), SearchAttributes: &common.SearchAttributes{IndexedFields: fields},
	}
}

func TestExecutionsOfTemporal(t *testing.T) {
	const (
		runs       = enums.WORKFLOW_EXECUTION_STATUS_RUNNING
		completed  = enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
		failed     = enums.WORKFLOW_EXECUTION_STATUS_FAILED
		canceled   = enums.WORKFLOW_EXECUTION_STATUS_CANCELED
		terminated = enums.WORKFLOW_EXECUTION_STATUS_TERMINATED
		timedOut   = enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT
		continued  = enums.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW
	)
	rollback := &workflows.Start{Program: &program.Program{OnFailure: program.OnFailureRollback}}
	stop := &workflows.Start{Program: &program.Program{OnFailure: program.OnFailureStop}}
	for _, tt := range []struct {
		what   string
		runs   []*workflow.WorkflowExecutionInfo
		listed int
		start  *workflows.Start
		tag    string
		want   string // id, status, day of its start
		query  string
	}{
		{what: "none"},
		{what: "not in the list yet", runs: []*workflow.WorkflowExecutionInfo{info("e", "1", "1", runs, "running")}, want: "e running 1"},
		{what: "no runbook", runs: []*workflow.WorkflowExecutionInfo{info("e", "1", "1", runs, "not ours")}, listed: 1},
		{what: "succeeded", runs: []*workflow.WorkflowExecutionInfo{info("e", "1", "1", completed, "succeeded")}, listed: 1, want: "e succeeded 1"},
		{what: "rolled back", runs: []*workflow.WorkflowExecutionInfo{info("e", "1", "1", failed, "rolled_back")}, listed: 1, want: "e rolled_back 1"},
		{what: "its runbook leaves", runs: []*workflow.WorkflowExecutionInfo{info("e", "1", "1", failed, "failed")}, listed: 1, want: "e failed 1"},
		{what: "failed without an outcome", runs: []*workflow.WorkflowExecutionInfo{info("e", "1", "1", failed, "running")}, listed: 1, want: "e failed 1"},
		{what: "cancelled", runs: []*workflow.WorkflowExecutionInfo{info("e", "1", "1", canceled, "cancelled")}, listed: 1, start: rollback, want: "e cancelled 1"},
		{what: "cancelled, and leaves", runs: []*workflow.WorkflowExecutionInfo{info("e", "1", "1", canceled, "cancelled")}, listed: 1, start: stop, want: "e cancelled 1 stopped"},
		{what: "terminated", runs: []*workflow.WorkflowExecutionInfo{info("e", "1", "1", terminated, "running")}, listed: 1, start: rollback, want: "e terminated 1"},
		{what: "terminated, program unknown", runs: []*workflow.WorkflowExecutionInfo{info("e", "1", "1", terminated, "running")}, listed: 1, want: "e terminated 1 stopped"},
		{what: "timed out", runs: []*workflow.WorkflowExecutionInfo{info("e", "1", "1", timedOut, "running")}, listed: 1, start: rollback, want: "e timed_out 1"},
		{what: "paused", runs: []*workflow.WorkflowExecutionInfo{info("e", "1", "1", enums.WorkflowExecutionStatus(99), "running")}, listed: 1, want: "e running 1"},
		{what: "continued as new", runs: []*workflow.WorkflowExecutionInfo{info("e", "1", "1", continued, "running"), info("e", "2", "1", failed, "rolled_back")}, listed: 2, want: "e rolled_back 1"},
		{what: "continued, its beginning forgotten", runs: []*workflow.WorkflowExecutionInfo{info("e", "2", "1", failed, "rolled_back")}, listed: 1, want: "e rolled_back ?"},
		{what: "used again, the new one not listed", runs: []*workflow.WorkflowExecutionInfo{info("e", "1", "1", failed, "rolled_back"), info("e", "2", "2", runs, "running")}, listed: 1, want: "e running 2, e rolled_back 1"},
		{what: "ids that a tag cannot tell apart", tag: "e_1", runs: []*workflow.WorkflowExecutionInfo{info("e#1", "1", "1", runs, "running"), info("e-1", "2", "2", runs, "running"), info("e_1", "3", "3", failed, "rolled_back")}, listed: 3,
			want: "e#1 running 1, e_1 rolled_back 3", query: "WorkflowId STARTS_WITH 'e'"},
		{what: "an id to be quoted", tag: "it's", query: `WorkflowId = 'it\'s'`},
		{what: "an id that begins with nothing", tag: "_x", query: "AlmanacRunbook IS NOT NULL"},
	} {
		if tt.tag == "" {
			tt.tag = "e"
		}
		c := &listing{runs: tt.runs, listed: tt.listed, start: tt.start}
		all, err := executions{&server{Client: c, namespace: "default"}}.Executions(context.Background(), tt.tag)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range all {
			day := "?"
			if !e.Started.IsZero() {
				day = fmt.Sprint(e.Started.Day())
			}
			s := fmt.Sprintf("%s %s %s", e.ID, e.Status, day)
			if e.Stopped {
				s += " stopped"
			}
			got = append(got, s)
		}
		if strings.Join(got, ", ") != tt.want {
			t.Errorf("%s: %q, want %q", tt.what, strings.Join(got, ", "), tt.want)
		}
		if tt.query != "" && c.query != tt.query {
			t.Errorf("%s: query %s, want %s", tt.what, c.query, tt.query)
		}
	}
}
