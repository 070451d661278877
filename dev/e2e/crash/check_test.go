package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/converter"

	"github.com/almanac-run/almanac/workflows"
)

// promises compares a ledger with what was promised, and returns what was broken. partly: it is
// enough if some of what is wanted is done, and all of it taken back.
func promises(s *subject, all []entry, partly bool) (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }

	// Each effect as often as it is wanted, and under one token once.
	want, got := map[string]int{}, map[string]int{}
	for _, e := range s.want {
		want[e]++
	}
	tokens := map[string]int{}
	for _, e := range all {
		got[e.String()]++
		tokens[e.verb+" "+e.name+" of token "+e.token]++
	}
	// What is taken back early, since it was cancelled.
	if partly {
		for _, e := range s.want {
			if name, ok := strings.CutPrefix(e, "make "); ok {
				want["take "+name] = max(want["take "+name], want[e])
			}
		}
	}
	names := map[string]bool{}
	for e := range want {
		names[e] = true
	}
	for e := range got {
		names[e] = true
	}
	for _, e := range sorted(names) {
		if n := got[e]; n > want[e] || n < want[e] && !partly {
			bad("%s: %d times, want %d", e, n, want[e])
		}
	}
	for _, what := range sorted(tokens) {
		if n := tokens[what]; n > 1 {
			bad("%s: %d times", what, n)
		}
	}

	// What is there.
	there := map[string]bool{}
	for _, name := range live(all) {
		there[name] = true
	}
	for _, name := range s.lives {
		if !partly && !there[name] {
			bad("%s is gone", name)
		}
	}
	for _, name := range sorted(there) {
		if partly || !slices.Contains(s.lives, name) {
			bad("%s is left", name)
		}
	}

	// Last first: nothing is taken that something stands on which was made later.
	type item struct{ token, name string }
	var stack []item
	for _, e := range all {
		at := slices.IndexFunc(stack, func(i item) bool { return i.token == e.token || i.token == e.of })
		switch {
		case e.verb == "make":
			stack = append(stack, item{e.token, e.name})
		case e.verb == "take" && at < 0:
			bad("%s: it was not there", e)
		case e.verb == "take" || e.verb == "drop" && at >= 0:
			for _, later := range stack[at+1:] {
				if e.verb == "take" && !beside(later.name, e.name) {
					bad("%s is taken before %s, which was made later", e.name, later.name)
				}
			}
			stack = slices.Delete(stack, at, at+1)
		}
	}

	// `finally` has run if anything has.
	if partly && len(all) > 0 && want["note report"] > 0 && got["note report"] == 0 {
		bad("finally has not run")
	}
	return wrong
}

func sorted[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// TestPromises shows that each promise can be broken.
func TestPromises(t *testing.T) {
	s := &subject{want: []string{"make a", "make b", "make c-1", "make c-2", "take c-1", "take c-2", "take b", "take a", "note report"}}
	line := func(text string) (all []entry) {
		for _, e := range strings.Fields(text) {
			verb, name, _ := strings.Cut(e, ":")
			all = append(all, entry{verb: verb, name: name, token: name})
		}
		return all
	}
	for _, tt := range []struct {
		name, ledger string
		partly       bool
		want         string // in the first violation; empty: none
	}{
		{"right", "make:a make:b make:c-2 make:c-1 take:c-2 take:c-1 take:b take:a note:report", false, ""},
		{"partly right", "make:a make:b take:b take:a note:report", true, ""},
		{"nothing", "", true, ""},
		{"something is missing", "make:a make:b take:b take:a note:report", false, "make c-1: 0 times, want 1"},
		{"twice", "make:a make:a take:a note:report", true, "make a: 2 times, want 1"},
		{"left", "make:a note:report", true, "a is left"},
		{"first first", "make:a make:b take:a take:b note:report", true, "a is taken before b, which was made later"},
		{"never made", "make:a take:a take:b note:report", true, "take b: it was not there"},
		{"no finally", "make:a take:a", true, "finally has not run"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := promises(s, line(tt.ledger), tt.partly)
			if tt.want == "" && len(got) > 0 || tt.want != "" && !strings.Contains(strings.Join(got, "\n"), tt.want) {
				t.Errorf("found %q, want %q", got, tt.want)
			}
		})
	}
}

// patience is how long the last of an execution may take to be gone, on a busy machine.
const patience = 20 * time.Second

// until waits till nothing is wrong, and returns what still is.
func until(look func() []string) (wrong []string) {
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		if wrong = look(); len(wrong) == 0 || time.Now().After(end) {
			return wrong
		}
	}
}

// leftovers are the locks and children of an execution that are open after it has
// ended, and the processes that its commands have left.
func leftovers(ctx context.Context, s *site, root string, children []string) []string {
	wrong := until(func() (wrong []string) {
		for _, id := range append([]string{"lock/" + root}, children...) {
			d, err := s.client.DescribeWorkflowExecution(ctx, id, "")
			var none *serviceerror.NotFound
			switch {
			case errors.As(err, &none):
			case err != nil:
				wrong = append(wrong, fmt.Sprintf("%s: %v", id, err))
			case d.GetWorkflowExecutionInfo().GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:
				wrong = append(wrong, fmt.Sprintf("%s is still open", strings.Replace(id, root, "EXECUTION", 1)))
			}
		}
		return wrong
	})
	// A process that is ended has a moment to be gone, and no more: a command that
	// was cancelled would have gone on for 25 s.
	var left []string
	for range 30 {
		if left = processesOf(root); len(left) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return append(wrong, left...)
}

// processesOf finds what runs for an execution by what its commands have in their environment.
func processesOf(root string) (found []string) {
	all, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range all {
		env := "\x00" + text(file)
		if strings.Contains(env, "\x00ALMANAC_EXECUTION="+root+"\x00") || strings.Contains(env, "\x00ALMANAC_EXECUTION="+root+"/") {
			found = append(found, "a process is left: "+strings.ReplaceAll(text(filepath.Join(filepath.Dir(file), "cmdline")), "\x00", " "))
		}
	}
	return found
}

// audit reads the histories of an execution, those of its runs and children, and wants each
// effect to have its piece of work there, with its token, and each piece of work its end. It returns the ids of the children, and how many runs there are.
func audit(ctx context.Context, s *site, root, run string, all []entry) (wrong, children []string, runs int, err error) {
	type work struct{ execution, id, token string }
	ended := map[work]bool{}
	var read func(id, run string) error
	read = func(id, run string) error {
		for run != "" {
			runs++
			scheduled := map[int64]work{}
			next := ""
			events := s.client.GetWorkflowHistory(ctx, id, run, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
			for events.HasNext() {
				e, err := events.Next()
				if err != nil {
					return err
				}
				if a := e.GetActivityTaskScheduledEventAttributes(); a != nil {
					w := work{execution: id, id: a.GetActivityId()}
					if p := a.GetInput().GetPayloads(); len(p) > 0 {
						_ = converter.GetDefaultDataConverter().FromPayload(p[0], &w.token)
					}
					scheduled[e.GetEventId()] = w
					ended[w] = false
				}
				if n := endsActivity(e); n > 0 {
					ended[scheduled[n]] = true
				}
				if c := e.GetChildWorkflowExecutionStartedEventAttributes(); c != nil {
					children = append(children, c.GetWorkflowExecution().GetWorkflowId())
					if err := read(c.GetWorkflowExecution().GetWorkflowId(), c.GetWorkflowExecution().GetRunId()); err != nil {
						return err
					}
				}
				if c := e.GetWorkflowExecutionContinuedAsNewEventAttributes(); c != nil {
					next = c.GetNewExecutionRunId()
				}
			}
			run = next
		}
		return nil
	}
	if err := read(root, run); err != nil {
		return nil, nil, 0, err
	}
	for _, e := range all {
		w := work{e.execution, e.work, e.token}
		done, ok := ended[w]
		switch {
		case !ok:
			wrong = append(wrong, fmt.Sprintf("%s: the history has no work %s with its token", e, e.work))
		case !done:
			wrong = append(wrong, fmt.Sprintf("%s: the history has no end of %s", e, e.work))
		}
	}
	return wrong, children, runs - len(children), nil
}

// endsActivity is the number of the event that an event is the end of; 0 if of none.
func endsActivity(e *historypb.HistoryEvent) int64 {
	return max(e.GetActivityTaskCompletedEventAttributes().GetScheduledEventId(), e.GetActivityTaskFailedEventAttributes().GetScheduledEventId(),
		e.GetActivityTaskTimedOutEventAttributes().GetScheduledEventId(), e.GetActivityTaskCanceledEventAttributes().GetScheduledEventId())
}

// judge says what is wrong with an execution that has ended.
func (l *lane) judge(ctx context.Context, s *subject, root, run string, r *workflows.Result, cancelled bool) (wrong []string, runs int, err error) {
	all := ledger(filepath.Join(l.site.world(), root))
	partly := s.loose
	switch {
	case cancelled && r.Outcome == workflows.Cancelled:
		partly = true // else it came too late, and everything is as usual
	case r.Outcome != s.outcome:
		wrong = append(wrong, fmt.Sprintf("the outcome is %s (%s), want %s", r.Outcome, r.Message, s.outcome))
	}
	for _, f := range r.NotRolledBack {
		wrong = append(wrong, "not taken back: "+f.Error())
	}
	wrong = append(wrong, promises(s, all, partly)...)
	gaps, children, runs, err := audit(ctx, l.site, root, run, all)
	if err != nil {
		return nil, 0, err
	}
	wrong = append(wrong, gaps...)
	wrong = append(wrong, leftovers(ctx, l.site, root, children)...)
	if s.nodes {
		for _, id := range l.nodes {
			if got := text(filepath.Join(l.root(id), "config")); got != "old" {
				wrong = append(wrong, fmt.Sprintf("the file on node %s is %q, want what it was", id, got))
			}
		}
	}
	return wrong, runs, nil
}

// keepEvidence copies what is known of a run that broke a promise to where it stays, and returns that.
func (l *lane) keepEvidence(ctx context.Context, root string, wrong []string) string {
	to := filepath.Join(evidence(), root)
	must(os.MkdirAll(to, 0o755))
	for _, name := range []string{"log", "points"} {
		_ = os.WriteFile(filepath.Join(to, name), []byte(text(filepath.Join(l.site.world(), root, name))), 0o644)
	}
	_ = os.WriteFile(filepath.Join(to, "processes.log"), []byte(text(l.log())), 0o644)
	_ = os.WriteFile(filepath.Join(to, "violations"), []byte(strings.Join(wrong, "\n")+"\n"), 0o644)
	for name, id := range map[string]string{"history": root, "history.first": root + "/first", "history.second": root + "/second", "history.lock": "lock/" + root} {
		if h := l.site.history(ctx, id); h != "" {
			_ = os.WriteFile(filepath.Join(to, name), []byte(h), 0o644)
		}
	}
	return to
}

var evidence = onceDir("almanac-crash-")

// history is that of the last run of an execution, as text; empty if there is none.
func (s *site) history(ctx context.Context, id string) string {
	var b strings.Builder
	events := s.client.GetWorkflowHistory(ctx, id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		e, err := events.Next()
		var none *serviceerror.NotFound
		if errors.As(err, &none) {
			break
		}
		if err != nil {
			fmt.Fprintln(&b, err)
			break
		}
		fmt.Fprintln(&b, e)
	}
	return b.String()
}
