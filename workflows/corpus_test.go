package workflows_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// corpus is what the recorded histories have, each with one history that has it.
type corpus struct {
	seen  map[string]string
	table map[string]map[string]int // by form of step and ending: how many histories
}

func (c *corpus) add(what, file string) {
	if c.seen[what] == "" {
		c.seen[what] = file
	}
}

// fields adds the fields of a program that are set, as "program.Step.Retry", and the values that are one of several, as
// "program.Kind wait".
func (c *corpus) fields(v reflect.Value, file string) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			c.fields(v.Elem(), file)
		}
	case reflect.Slice:
		for i := range v.Len() {
			c.fields(v.Index(i), file)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			c.fields(v.MapIndex(k), file)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if !v.Field(i).IsZero() {
				c.add(v.Type().String()+"."+v.Type().Field(i).Name, file)
				c.fields(v.Field(i), file)
			}
		}
	case reflect.String:
		c.add("value "+v.String(), file)
	}
}

// wanted lists the fields of a type and of those below it in package program.
func wanted(t reflect.Type, into map[string]bool) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || into[t.String()] || t == reflect.TypeFor[program.Type]() || t == reflect.TypeFor[program.Pos]() {
		return // types say what the compiler knew; the interpreter reads places for messages only
	}
	into[t.String()] = true
	for i := range t.NumField() {
		into[t.String()+"."+t.Field(i).Name] = true
		wanted(t.Field(i).Type, into)
	}
}

// constants are the values of some string constants of a file.
func constants(t *testing.T, file string, is func(name, typ string) bool) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		typ, _ := spec.Type.(*ast.Ident)
		name := ""
		if typ != nil {
			name = typ.Name
		}
		if lit, ok := spec.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING && is(spec.Names[0].Name, name) {
			v, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, v)
		}
		return true
	})
	if len(values) == 0 {
		t.Fatalf("%s has no such constants", file)
	}
	return values
}

// registered notes the names of the workflows that a worker has.
type registered struct {
	worker.Registry
	names []string
}

func (r *registered) RegisterWorkflowWithOptions(_ any, o workflow.RegisterOptions) {
	r.names = append(r.names, o.Name)
}
func (r *registered) RegisterDynamicWorkflow(any, workflow.DynamicRegisterOptions) {}

// ending is how a run ended, or that it has not.
func ending(h *historypb.History) string {
	last := h.Events[len(h.Events)-1]
	switch last.EventType {
	case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
		var r workflows.Result
		if ps := last.GetWorkflowExecutionCompletedEventAttributes().GetResult(); ps != nil {
			_ = converter.GetDefaultDataConverter().FromPayloads(ps, &r)
		}
		return string(r.Outcome)
	case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
		return last.GetWorkflowExecutionFailedEventAttributes().GetFailure().GetApplicationFailureInfo().GetType()
	case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
		return string(workflows.Cancelled)
	case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
		return "continued"
	case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
		return "terminated"
	}
	return "open"
}

// Everything of a Start that the interpreter reads, and what a server may put into a history: each needs a history.
var (
	startFields = []string{"inputs", "caller", "only", "within", "state", "take_back"}
	phases      = []string{"steps", "rollback", "finally"}
	eventTypes  = []enumspb.EventType{
		enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED,
		enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED,
		enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED,
		enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED,
		enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED,
		enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
		enumspb.EVENT_TYPE_WORKFLOW_TASK_FAILED, // of a reset
		enumspb.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED,
		enumspb.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES,
		enumspb.EVENT_TYPE_TIMER_FIRED,
		enumspb.EVENT_TYPE_TIMER_CANCELED,
		enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
		enumspb.EVENT_TYPE_ACTIVITY_TASK_FAILED,
		enumspb.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT,
		enumspb.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED,
		enumspb.EVENT_TYPE_ACTIVITY_TASK_CANCELED,
		enumspb.EVENT_TYPE_MARKER_RECORDED,
		enumspb.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED,
		enumspb.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED,
		enumspb.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED,
		enumspb.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED,
		enumspb.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED,
		enumspb.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED,
	}
	endings = []string{"continued", "terminated", "open"} // beside the outcomes
)

func read(t *testing.T, files []string) *corpus {
	t.Helper()
	c := &corpus{seen: map[string]string{}, table: map[string]map[string]int{}}
	for _, file := range files {
		h := readHistory(t, file)
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		for _, e := range h.Events {
			c.add("event "+e.EventType.String(), name)
		}
		end := ending(h)
		c.add("ending "+end, name)
		first := h.Events[0].GetWorkflowExecutionStartedEventAttributes()
		c.add("workflow "+first.GetWorkflowType().GetName(), name)
		start, raw := startOf(t, first.GetInput())
		if start == nil {
			continue
		}
		for field := range raw {
			c.add("start "+field, name)
		}
		var state struct{ Phase string }
		if json.Unmarshal(raw["state"], &state) == nil && state.Phase != "" {
			c.add("phase "+state.Phase, name)
		}
		if start.Program == nil {
			continue // its steps are not run again
		}
		c.fields(reflect.ValueOf(start.Program), name)
		for _, kind := range kindsOf(start.Program) {
			if c.table[kind] == nil {
				c.table[kind] = map[string]int{}
			}
			c.table[kind][end]++
		}
	}
	return c
}

// startOf reads the input of a runbook's execution; nil if it is of another workflow.
func startOf(t *testing.T, input *commonpb.Payloads) (*workflows.Start, map[string]json.RawMessage) {
	t.Helper()
	var start workflows.Start
	var raw map[string]json.RawMessage
	if len(input.GetPayloads()) != 1 || json.Unmarshal(input.Payloads[0].Data, &start) != nil || start.Runs() == nil {
		return nil, nil
	}
	if err := json.Unmarshal(input.Payloads[0].Data, &raw); err != nil {
		t.Fatal(err)
	}
	return &start, raw
}

func kindsOf(p *program.Program) []string {
	found := &corpus{seen: map[string]string{}}
	found.fields(reflect.ValueOf(p.Steps), "x")
	found.fields(reflect.ValueOf(p.Finally), "x")
	var kinds []string
	for what := range found.seen {
		if kind, ok := strings.CutPrefix(what, "value "); ok {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// TestReplayCorpus counts what the recorded histories have, and fails for a form, an attribute or an ending of the
// language that none has. Then add a scene to dev/e2e/upgrade and record it:
//
//	cd dev && UPDATE_HISTORY=1 go test -run Record ./e2e/upgrade
func TestReplayCorpus(t *testing.T) {
	c := read(t, histories(t))
	want := map[string]bool{}
	fields := map[string]bool{}
	wanted(reflect.TypeFor[program.Program](), fields)
	for f := range fields {
		if strings.Count(f, ".") == 2 {
			want[f] = true
		}
	}
	source := "../lang/program/program.go"
	kinds := constants(t, source, func(_, typ string) bool { return typ == "Kind" })
	choices := constants(t, source, func(name, _ string) bool {
		return strings.HasPrefix(name, "OnFailure") || strings.HasPrefix(name, "OnTimeout")
	})
	for _, v := range slices.Concat(kinds, choices) {
		want["value "+v] = true
	}
	outcomes := constants(t, "api.go", func(_, typ string) bool { return typ == "Outcome" })
	for _, v := range slices.Concat(outcomes, endings) {
		want["ending "+v] = true
	}
	for _, v := range startFields {
		want["start "+v] = true
	}
	for _, v := range phases {
		want["phase "+v] = true
	}
	for _, v := range eventTypes {
		want["event "+v.String()] = true
	}
	r := &registered{}
	workflows.Register(r)
	for _, v := range r.names {
		want["workflow "+v] = true
	}
	lack := 0
	for what := range want {
		if c.seen[what] == "" {
			lack++
			t.Errorf("no history has: %s", what)
		}
	}
	t.Logf("%d of %d forms, attributes, endings and events have a history", len(want)-lack, len(want))
	columns := slices.Concat(outcomes, endings)
	text := fmt.Sprintf("%-12s", "")
	for _, end := range columns {
		text += fmt.Sprintf(" %15s", end)
	}
	for _, kind := range kinds {
		text += fmt.Sprintf("\n%-12s", kind)
		for _, end := range columns {
			text += fmt.Sprintf(" %15d", c.table[kind][end])
		}
	}
	t.Logf("histories by form and ending:\n%s", text)
}

var (
	dataForm = regexp.MustCompile(`"data":"([A-Za-z0-9+/=]*)"`)
	machine  = regexp.MustCompile(`\b[0-9]+@[A-Za-z0-9.-]+|/(tmp|root|home|Users)/`)
)

// TestReplayCorpusTellsNothing looks for what a history must not tell: paths, host names, users and processes of where
// it was recorded. And the folder stays small.
func TestReplayCorpusTellsNothing(t *testing.T) {
	hostname, _ := os.Hostname()
	size := 0
	for _, file := range histories(t) {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		size += len(raw)
		text := string(raw)
		for _, m := range dataForm.FindAllStringSubmatch(text, -1) {
			data, err := base64.StdEncoding.DecodeString(m[1])
			if err != nil {
				t.Fatal(err)
			}
			text += "\n" + string(data)
		}
		if at := machine.FindString(text); at != "" {
			t.Errorf("%s tells of the machine where it was recorded: %s", file, at)
		}
		if len(hostname) > 4 && strings.Contains(text, hostname) {
			t.Errorf("%s has this machine's host name", file)
		}
	}
	t.Logf("%d KiB", size>>10)
	if size > 3<<20 {
		t.Errorf("%d bytes, more than 3 MiB: keep histories small", size)
	}
}
