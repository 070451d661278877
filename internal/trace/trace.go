// Package trace plays runbooks without a server, for tests: it gives actions
// their answers and people their moments from a script, skips the waiting, and
// returns the trace of what was asked of the actions, in order. What ran on
// several nodes at once is sorted by node, so that a trace is the same each time.
//
// A script has a line for each thing that happens:
//
//	PATH: KIND message [xN]        the work with that activity id fails (N times), its further generations included
//	PATH: ok {"id": "a"} [xN]      … or answers this
//	PATH: unreached                … or nobody takes it
//	after 1m: approve {"by": "li"} somebody answers by Update
//	after 1m: signal resume {}     … or by Signal
//	after 1m: cancel               … or cancels the execution
//
// PATH is "undo." and a step's path for its compensation.
package trace

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// Golden runs a case for each txtar archive that matches the pattern and
// compares what it returns with the archive's file "trace"; UPDATE=1 rewrites that.
func Golden(t *testing.T, pattern string, run func(t *testing.T, file string, parts map[string]string) string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no archives: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			parts := map[string]string{}
			for _, f := range a.Files {
				parts[f.Name] = string(f.Data)
			}
			got := run(t, file, parts)
			if os.Getenv("UPDATE") == "" {
				if diff := cmp.Diff(parts["trace"], got); diff != "" {
					t.Errorf("trace (-want +got):\n%s", diff)
				}
				return
			}
			i := slices.IndexFunc(a.Files, func(f txtar.File) bool { return f.Name == "trace" })
			if i < 0 {
				a.Files = append(a.Files, txtar.File{Name: "trace"})
				i = len(a.Files) - 1
			}
			a.Files[i].Data = []byte(got)
			if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Play is one execution to play.
type Play struct {
	Program *program.Program
	Inputs  string // JSON object; may be empty
	Script  string

	// Answer is what an action answers if the script does not say.
	Answer func(ctx context.Context, action, node string, input json.RawMessage) (json.RawMessage, error)

	// Silent actions are answered but not traced.
	Silent []string

	// View appends the state of each step at the end.
	View bool

	// Cut lets the execution continue as new whenever an activity has ended, a
	// timer has fired or somebody cancels, and nothing else is on its way. The trace must not differ.
	Cut bool
}

// stage is a Play while it runs.
type stage struct {
	Play
	mu      sync.Mutex
	rules   map[string][]*rule
	moments []moment // that are still to come
	trace   []string
}

// moment is a script's line about what a person does, and when.
type moment struct {
	after time.Duration
	what  string
}

// rule is a script's line about one activity.
type rule struct {
	kind, text string
	left       int // how often it still applies; negative: always
	used       bool
}

var timesRE = regexp.MustCompile(` x(\d+)$`)

// Run plays it and returns the trace. A script's line that was never needed is
// an error of the test.
func (p Play) Run(t testing.TB) string {
	t.Helper()
	inputs := map[string]json.RawMessage{}
	if p.Inputs != "" {
		if err := json.Unmarshal([]byte(p.Inputs), &inputs); err != nil {
			t.Fatal(err)
		}
	}
	s := &stage{Play: p, rules: map[string][]*rule{}}
	for sc := bufio.NewScanner(strings.NewReader(p.Script)); sc.Scan(); {
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		head, rest, ok := strings.Cut(line, ": ")
		if !ok {
			head, rest = strings.TrimSuffix(line, ":"), ""
		}
		if after, ok := strings.CutPrefix(head, "after "); ok {
			d, err := time.ParseDuration(after)
			if err != nil {
				t.Fatal(err)
			}
			s.moments = append(s.moments, moment{d, rest})
			continue
		}
		r := &rule{left: -1}
		if m := timesRE.FindStringSubmatch(rest); m != nil {
			r.left, _ = strconv.Atoi(m[1])
			rest = strings.TrimSuffix(rest, m[0])
		}
		r.kind, r.text, _ = strings.Cut(rest, " ")
		s.rules[head] = append(s.rules[head], r)
	}
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	start := &workflows.Start{Program: p.Program, Inputs: inputs, Caller: "ana"}
	env, next := s.play(t, start, began, began)
	for runs := 1; next != nil; runs++ {
		if runs > 100 {
			t.Fatalf("continues as new for ever; so far:\n%s", strings.Join(s.trace, "\n"))
		}
		env, next = s.play(t, next, began, env.Now())
	}
	for id, rules := range s.rules {
		for _, r := range rules {
			if !r.used {
				t.Errorf("the script's line about %s, %s, was never needed", id, r.kind)
			}
		}
	}
	s.sortTogether()
	s.outcome(env)
	if p.View {
		s.view(t, env)
	}
	return strings.Join(s.trace, "\n") + "\n"
}

// play plays one run of the execution; next is what it continues with, if it does.
func (s *stage) play(t testing.TB, start *workflows.Start, began, now time.Time) (env *testsuite.TestWorkflowEnvironment, next *workflows.Start) {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(log.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	env = suite.NewTestWorkflowEnvironment()
	env.SetTestTimeout(20 * time.Second)
	env.SetStartTime(now)
	env.RegisterDynamicWorkflow(workflows.Runbook, workflow.DynamicRegisterOptions{})
	env.RegisterDynamicActivity(s.answer, activity.DynamicRegisterOptions{})
	if s.Cut {
		env.SetOnActivityCompletedListener(func(*activity.Info, converter.EncodedValue, error) { env.SetContinueAsNewSuggested(true) })
		env.SetOnTimerFiredListener(func(string) { env.SetContinueAsNewSuggested(true) })
	}
	for _, m := range s.moments {
		env.RegisterDelayedCallback(func() {
			s.moments = slices.DeleteFunc(s.moments, func(o moment) bool { return o == m })
			s.happen(env, m.what)
		}, max(0, began.Add(m.after).Sub(now)))
	}
	env.ExecuteWorkflow(s.Program.Runbook, *start)
	if !env.IsWorkflowCompleted() {
		t.Fatalf("did not end; so far:\n%s", strings.Join(s.trace, "\n"))
	}
	var again *workflow.ContinueAsNewError
	if !errors.As(env.GetWorkflowError(), &again) {
		return env, nil
	}
	next = new(workflows.Start)
	if err := converter.GetDefaultDataConverter().FromPayloads(again.Input, next); err != nil {
		t.Fatal(err)
	}
	return env, next
}

// happen is what a person does.
func (s *stage) happen(env *testsuite.TestWorkflowEnvironment, what string) {
	s.note("* %s", what)
	verb, rest, _ := strings.Cut(what, " ")
	if verb == "cancel" {
		if s.Cut { // the server may suggest it in the very task that brings the cancellation
			env.RegisterDelayedCallback(func() { env.SetContinueAsNewSuggested(true) }, 0)
		}
		env.CancelWorkflow()
		return
	}
	name, arg := verb, rest
	if verb == "signal" {
		name, arg, _ = strings.Cut(rest, " ")
	}
	var answer workflows.Answer
	if err := json.Unmarshal([]byte(arg), &answer); err != nil {
		s.note("* %v", err)
		return
	}
	if verb == "signal" {
		env.SignalWorkflow(name, answer)
		return
	}
	env.UpdateWorkflow(name, "", &testsuite.TestUpdateCallback{
		OnReject:   func(err error) { s.note("* refused: %v", err) },
		OnAccept:   func() {},
		OnComplete: func(any, error) {},
	}, answer)
}

func (s *stage) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trace = append(s.trace, fmt.Sprintf(format, args...))
}

// answer plays the actions.
func (s *stage) answer(ctx context.Context, args converter.EncodedValues) (json.RawMessage, error) {
	info := activity.GetInfo(ctx)
	var token string
	var input, output json.RawMessage
	if err := args.Get(&token, &input, &output); err != nil {
		if err := args.Get(&token, &input); err != nil {
			return nil, err
		}
	}
	if len(token) != 26 {
		return nil, fmt.Errorf("token %q", token)
	}
	name, undo := strings.CutPrefix(info.ActivityType.Name, workflows.CompensatePrefix)
	id := info.ActivityID
	line := info.ActivityType.Name
	node, onNode := strings.CutPrefix(info.TaskQueue, workflows.NodeQueue(""))
	if onNode {
		line += " on " + node
	} else {
		node = ""
	}
	line += " " + brief(input)
	if undo { // undo.PATH.NUMBER
		id = id[:strings.LastIndexByte(id, '.')]
		line += fmt.Sprintf(" made %s", output)
	}
	line += " (" + id + ")"

	r := s.rule(id)
	switch {
	case r != nil && r.kind == "ok":
		s.note("%s", line)
		return json.RawMessage(r.text), nil
	case r != nil && r.kind == "unreached":
		s.note("%s: %s", line, r.kind)
		return nil, temporal.NewTimeoutError(enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START, nil)
	case r != nil:
		s.note("%s: %s", line, r.kind)
		return nil, temporal.NewApplicationError(r.text, r.kind)
	}
	if !slices.Contains(s.Silent, name) {
		s.note("%s", line)
	}
	if undo {
		return json.RawMessage("null"), nil
	}
	return s.Answer(ctx, name, node, input)
}

var generationRE = regexp.MustCompile(`#\d+$`)

// rule finds the script's line about an activity id, or about all its generations.
func (s *stage) rule(id string) *rule {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range []string{id, generationRE.ReplaceAllString(id, "")} {
		for _, r := range s.rules[key] {
			if r.left != 0 {
				r.left--
				r.used = true
				return r
			}
		}
	}
	return nil
}

// brief leaves out what stands in the runbook word for word: all of a script
// but its first line.
func brief(input json.RawMessage) string {
	return scriptRE.ReplaceAllString(strings.ReplaceAll(string(input), `\u003e`, ">"), `"script":"$1…"`)
}

var scriptRE = regexp.MustCompile(`"script":"((?:[^"\\]|\\"|\\u....)*)\\n(?:[^"\\]|\\.)+"`)

// sortTogether sorts by node what a step did on several nodes at the same time.
func (s *stage) sortTogether() {
	at := func(line string) (step, node string) {
		if m := atRE.FindStringSubmatch(line); m != nil {
			return m[1], m[2]
		}
		return "", ""
	}
	for from := 0; from < len(s.trace); {
		step, _ := at(s.trace[from])
		to := from + 1
		for ; to < len(s.trace); to++ {
			if next, _ := at(s.trace[to]); step == "" || next != step {
				break
			}
		}
		slices.SortStableFunc(s.trace[from:to], func(a, b string) int {
			_, nodeA := at(a)
			_, nodeB := at(b)
			return strings.Compare(nodeA, nodeB)
		})
		from = to
	}
}

var atRE = regexp.MustCompile(`\((\S+)@([^#)]+)(?:#\d+)?\)(?:: \w+)?$`)

// outcome notes how the execution ended.
func (s *stage) outcome(env *testsuite.TestWorkflowEnvironment) {
	var r workflows.Result
	err := env.GetWorkflowError()
	var app *temporal.ApplicationError
	var cancelled *temporal.CanceledError
	switch {
	case err == nil:
		err = env.GetWorkflowResult(&r)
	case errors.As(err, &app) && app.HasDetails():
		err = app.Details(&r)
	case errors.As(err, &cancelled) && cancelled.HasDetails():
		err = cancelled.Details(&r)
	}
	if err != nil {
		s.note("error: %v", err)
		return
	}
	s.note("%s", strings.TrimSpace(string(r.Outcome)+" "+r.Message))
	for _, f := range r.NotRolledBack {
		s.note("not rolled back: %v", f)
	}
	names := make([]string, 0, len(r.Outputs))
	for name := range r.Outputs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		s.note("output %s = %s", name, r.Outputs[name])
	}
}

// view notes the steps as people see them.
func (s *stage) view(t testing.TB, env *testsuite.TestWorkflowEnvironment) {
	t.Helper()
	got, err := env.QueryWorkflow(workflows.QueryState)
	if err != nil {
		return // a runbook that was refused has no state
	}
	var v workflows.View
	if err := got.Get(&v); err != nil {
		t.Fatal(err)
	}
	phases := map[string]string{"rollback": "↩ ", "finally": "finally "}
	for _, row := range v.Steps {
		line := strings.Repeat("  ", row.Depth) + phases[row.Phase] + row.Path + " " + row.State
		if row.Total > 0 {
			line += fmt.Sprintf(" %d/%d", row.Done, row.Total)
		}
		if row.Message != "" {
			line += ": " + row.Message
		}
		s.note("  | %s", line)
	}
}
