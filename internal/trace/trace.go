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
//	after 1m: ask lock/a other     another execution asks for a lock (by workflow id)
//	after 1m: give lock/a other    … or gives it back, which the lock does for one that is terminated
//
// PATH is "undo." and a step's path for its compensation.
package trace

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
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
	"go.temporal.io/sdk/temporal"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/rehearse/play"
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
	Inputs  string   // JSON object; may be empty
	Only    []string // nodes, as in workflows.Start
	Script  string

	// Then is the script of an execution that takes back what this one has left;
	// empty: there is none.
	Then string

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
	mu    sync.Mutex
	rules map[string][]*rule
	trace []string
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
	all, ended := p.run(t, nil)
	if p.Then == "" {
		return all
	}
	if ended.Result.Left == nil {
		t.Fatalf("nothing is left to take back:\n%s", all)
	}
	p.Script = p.Then
	again, _ := p.run(t, ended.Result.Left)
	return fmt.Sprintf("%sleft: %d\n%s", all, ended.Result.LeftCount, again)
}

// run plays one execution, which takes back what is left of another if left is given.
func (p Play) run(t testing.TB, left json.RawMessage) (string, *play.Ended) {
	t.Helper()
	inputs := map[string]json.RawMessage{}
	if p.Inputs != "" {
		if err := json.Unmarshal([]byte(p.Inputs), &inputs); err != nil {
			t.Fatal(err)
		}
	}
	s := &stage{Play: p, rules: map[string][]*rule{}}
	var moments []play.Moment
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
			moments = append(moments, play.Moment{After: d, Do: func(on *play.Stage) { s.happen(on, rest) }})
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
	ended, err := play.Play{
		Program: p.Program, Inputs: inputs, Caller: "ana", Only: p.Only, Left: left, Handler: s.answer, Moments: moments, Cut: p.Cut,
		Locks: func(lock, what string) { s.note("~ %s %s", lock, what) },
	}.Run()
	if err != nil {
		t.Fatalf("%v; so far:\n%s", err, strings.Join(s.trace, "\n"))
	}
	for id, rules := range s.rules {
		for _, r := range rules {
			if !r.used {
				t.Errorf("the script's line about %s, %s, was never needed", id, r.kind)
			}
		}
	}
	s.sortTogether()
	s.outcome(ended)
	if p.View {
		s.view(ended.View)
	}
	return strings.Join(s.trace, "\n") + "\n", ended
}

// happen is what a person does.
func (s *stage) happen(on *play.Stage, what string) {
	s.note("* %s", what)
	verb, rest, _ := strings.Cut(what, " ")
	switch verb {
	case "cancel":
		on.Cancel()
		return
	case workflows.LockAsk, workflows.LockGive:
		lock, who, _ := strings.Cut(rest, " ")
		on.Lock(lock, workflows.LockMessage{Verb: verb, Claim: workflows.Claim{Holder: workflows.Holder{ID: who}, Limit: 1}})
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
		on.Signal(name, answer)
		return
	}
	on.Update(name, answer, func(err error) { s.note("* refused: %v", err) })
}

func (s *stage) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trace = append(s.trace, fmt.Sprintf(format, args...))
}

// answer plays the actions.
func (s *stage) answer(ctx context.Context, a *play.Attempt) (json.RawMessage, error) {
	if len(a.Token) != 26 {
		return nil, fmt.Errorf("token %q", a.Token)
	}
	id, line := a.ID, a.Action
	if a.Undo {
		line = workflows.CompensatePrefix + line
	}
	if a.Node != "" {
		line += " on " + a.Node
	}
	line += " " + play.Brief(a.Input)
	if a.Undo { // undo.PATH.NUMBER
		id = id[:strings.LastIndexByte(id, '.')]
		line += fmt.Sprintf(" made %s", a.Output)
	}
	line += " (" + id + ")"

	r := s.rule(id)
	switch {
	case r != nil && r.kind == "ok":
		s.note("%s", line)
		return json.RawMessage(r.text), nil
	case r != nil && r.kind == "unreached":
		s.note("%s: %s", line, r.kind)
		return nil, play.ErrUnreached
	case r != nil && r.kind == string(action.Restarting): // its text is how long
		s.note("%s: %s", line, r.kind)
		return nil, temporal.NewApplicationError("the node restarts", r.kind, json.RawMessage(fmt.Sprintf(`{"within":%q}`, r.text)))
	case r != nil:
		s.note("%s: %s", line, r.kind)
		return nil, temporal.NewApplicationError(r.text, r.kind)
	}
	if !slices.Contains(s.Silent, a.Action) {
		s.note("%s", line)
	}
	if a.Undo {
		return json.RawMessage("null"), nil
	}
	return s.Answer(ctx, a.Action, a.Node, a.Input)
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
func (s *stage) outcome(ended *play.Ended) {
	if ended.Err != nil {
		s.note("error: %v", ended.Err)
		return
	}
	r := ended.Result
	s.note("%s", strings.TrimSpace(string(r.Outcome)+" "+r.Message))
	for _, f := range r.NotRolledBack {
		s.note("not rolled back: %v", f)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Outputs)) {
		s.note("output %s = %s", name, r.Outputs[name])
	}
}

// view notes the steps as people see them.
func (s *stage) view(v workflows.View) {
	phases := map[string]string{"rollback": "↩ ", "finally": "finally "}
	for _, row := range v.Steps {
		line := strings.Repeat("  ", row.Depth) + phases[row.Phase] + row.Path + " " + row.State
		if row.Total > 0 {
			line += fmt.Sprintf(" %d/%d", row.Done, row.Total)
		}
		if c := row.Recap; c != nil && c.Unreached+c.Skipped+c.Cancelled > 0 {
			line += fmt.Sprintf(" (%d failed, %d unreached, %d skipped, %d cancelled)", c.Failed, c.Unreached, c.Skipped, c.Cancelled)
		}
		if row.Message != "" {
			line += ": " + row.Message
		}
		s.note("  | %s", line)
	}
}
