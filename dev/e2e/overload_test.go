package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities"
	"github.com/almanac-run/almanac/internal/control"
	"github.com/almanac-run/almanac/lang/compile"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// floor is where executions meet: it knows how many are in each room, and in
// which order things happened.
type floor struct {
	mu      sync.Mutex
	in      map[string][]string // by room: names, in the order in which they came
	most    map[string]int      // at once, ever
	events  []string
	started map[string]time.Time
	waits   []time.Duration // of executions without locks: from the request to start it to the start of its first step
	delay   time.Duration   // of crowd.work
	fail    map[string]bool // names for which crowd.work fails
	blocked chan struct{}   // crowd.block waits for it
}

type visit struct {
	Room string `json:"room,omitempty" jsonschema:"which room"`
	Name string `json:"name" jsonschema:"who"`
}

type nothing struct{}

func (f *floor) note(ctx context.Context, what string) {
	info := activity.GetInfo(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if at, ok := f.started[info.WorkflowExecution.ID]; ok && info.WorkflowType.Name == "test/plain" {
		f.waits = append(f.waits, info.StartedTime.Sub(at))
		delete(f.started, info.WorkflowExecution.ID)
	}
	f.events = append(f.events, what)
}

func (f *floor) leave(in visit) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.in[in.Room] = slices.DeleteFunc(f.in[in.Room], func(name string) bool { return name == in.Name })
}

func (f *floor) actions() []action.Action {
	return []action.Action{
		action.New(action.Def[visit, nothing]{Name: "crowd.enter", Summary: "Enter a room",
			Do: func(ctx context.Context, in visit) (nothing, error) {
				f.note(ctx, "enter "+in.Room+" "+in.Name)
				f.mu.Lock()
				defer f.mu.Unlock()
				if !slices.Contains(f.in[in.Room], in.Name) {
					f.in[in.Room] = append(f.in[in.Room], in.Name)
				}
				f.most[in.Room] = max(f.most[in.Room], len(f.in[in.Room]))
				return nothing{}, nil
			},
			Compensate: func(ctx context.Context, in visit, _ *nothing) error {
				f.note(ctx, "back "+in.Room+" "+in.Name)
				f.leave(in)
				return nil
			}}),
		action.New(action.Def[visit, nothing]{Name: "crowd.leave", Summary: "Leave a room",
			Do: func(ctx context.Context, in visit) (nothing, error) {
				f.note(ctx, "leave "+in.Room+" "+in.Name)
				f.leave(in)
				return nothing{}, nil
			}}),
		action.New(action.Def[visit, nothing]{Name: "crowd.work", Summary: "Take some time",
			Do: func(ctx context.Context, in visit) (nothing, error) {
				f.note(ctx, "work "+in.Name)
				time.Sleep(f.delay)
				if f.fail[in.Name] {
					return nothing{}, action.Errorf(action.Failed, "it broke")
				}
				return nothing{}, nil
			}}),
		action.New(action.Def[visit, nothing]{Name: "crowd.block", Summary: "Wait for the test",
			Do: func(ctx context.Context, in visit) (nothing, error) {
				f.note(ctx, "block "+in.Name)
				select {
				case <-f.blocked:
				case <-ctx.Done():
				}
				return nothing{}, ctx.Err()
			}}),
	}
}

func (f *floor) compile(t *testing.T, source string, more map[string]string) *program.Program {
	t.Helper()
	var infos []action.Info
	for _, a := range f.actions() {
		infos = append(infos, a.Info)
	}
	p, ds := compile.Compile("test.yaml", []byte(source), compile.Options{Actions: infos, Runbook: func(name string) (string, []byte, error) {
		if s, ok := more[name]; ok {
			return name + ".yaml", []byte(s), nil
		}
		return "", nil, os.ErrNotExist
	}})
	if p == nil {
		t.Fatal(ds)
	}
	return p
}

// crowded starts a worker on a queue of its own.
func crowded(t *testing.T, c client.Client, queue string, o worker.Options) *floor {
	t.Helper()
	f := &floor{in: map[string][]string{}, most: map[string]int{}, started: map[string]time.Time{}, fail: map[string]bool{}, blocked: make(chan struct{})}
	w := worker.New(c, queue, o)
	workflows.Register(w)
	control.Locks(w, c)
	activities.Register(w, f.actions(), activities.Options{})
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return f
}

func (f *floor) start(t *testing.T, c client.Client, queue, id, caller string, p *program.Program, inputs map[string]string) client.WorkflowRun {
	t.Helper()
	raw := map[string]json.RawMessage{}
	for k, v := range inputs {
		raw[k], _ = json.Marshal(v)
	}
	f.mu.Lock()
	f.started[id] = time.Now()
	f.mu.Unlock()
	run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: queue, Priority: workflows.Fair(caller),
		TypedSearchAttributes: workflows.Attributes(p.Runbook, caller)}, p.Runbook, workflows.Start{Program: p, Inputs: raw, Caller: caller})
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// seen are the events so far that begin with a word.
func (f *floor) seen(word string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []string
	for _, e := range f.events {
		if rest, ok := strings.CutPrefix(e, word+" "); ok {
			list = append(list, rest)
		}
	}
	return list
}

func comesTrue(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within %s: %s", within, what)
}

func stateOf(t *testing.T, c client.Client, id string) workflows.View {
	t.Helper()
	var v workflows.View
	got, err := c.QueryWorkflow(t.Context(), id, "", workflows.QueryState)
	if err == nil {
		err = got.Get(&v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

const roomRunbook = `
runbook: test/room
inputs:
  room: { type: string }
  name: { type: string }
  hold: { type: bool, default: false }
lock: ${{ "room/" + inputs.room }}
steps:
  - { id: enter, action: crowd.enter, with: { room: "${{ inputs.room }}", name: "${{ inputs.name }}" } }
  - { id: hold, if: inputs.hold, action: crowd.block, with: { name: "${{ inputs.name }}" } }
  - { id: work, action: crowd.work, with: { name: "${{ inputs.name }}" } }
  - { id: out, action: crowd.leave, with: { room: "${{ inputs.room }}", name: "${{ inputs.name }}" } }
finally:
  - { id: clean, action: crowd.work, with: { name: "clean ${{ inputs.name }}" } }
`

const slotsRunbook = `
runbook: test/slots
inputs: { name: { type: string } }
max_running: 3
steps:
  - { id: enter, action: crowd.enter, with: { room: slots, name: "${{ inputs.name }}" } }
  - { id: out, action: crowd.leave, with: { room: slots, name: "${{ inputs.name }}" } }
`

const plainRunbook = `
runbook: test/plain
inputs: { name: { type: string } }
steps:
  - { id: one, action: crowd.work, with: { name: "${{ inputs.name }}" } }
  - { id: two, action: crowd.work, with: { name: "${{ inputs.name }}" } }
`

// TestLocks: real executions and a real lock. Who waits says behind whom; one
// that is cancelled, terminated or rolled back lets go; the others get their
// turn in order, and the lock ends when nobody wants it.
func TestLocks(t *testing.T) {
	t.Parallel()
	_, c := serve(t, nil)
	f := crowded(t, c, "locks", worker.Options{})
	p := f.compile(t, roomRunbook, nil)
	begin := func(name, hold string) client.WorkflowRun {
		in := map[string]json.RawMessage{"room": json.RawMessage(`"a"`), "name": json.RawMessage(fmt.Sprintf("%q", name)), "hold": json.RawMessage(hold)}
		run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: name, TaskQueue: "locks", TypedSearchAttributes: workflows.Attributes(p.Runbook, "ana")},
			p.Runbook, workflows.Start{Program: p, Inputs: in, Caller: "ana"})
		if err != nil {
			t.Fatal(err)
		}
		return run
	}
	waiting := func(name string) bool {
		v := stateOf(t, c, name)
		return v.Status == "waiting" && len(v.Waiting) == 1 && v.Waiting[0].Message != "held by others"
	}
	began := func(name string) func() bool {
		return func() bool { return slices.Contains(f.seen("enter"), "a "+name) }
	}
	begin("one", "true")
	comesTrue(t, 20*time.Second, "one holds it", began("one"))
	var runs []client.WorkflowRun
	for _, name := range []string{"two", "three", "four", "five"} {
		f.fail["three"] = true
		runs = append(runs, begin(name, "false"))
		comesTrue(t, 20*time.Second, name+" waits", func() bool { return waiting(name) })
	}
	if w := stateOf(t, c, "four").Waiting[0]; w.Step != "lock/room/a" || w.Kind != workflows.WaitLock || w.Message != "held by one; 2 before it" {
		t.Errorf("four waits for %+v", w)
	}
	// What is said to an execution that had this id before is not for this one.
	must(c.SignalWorkflow(t.Context(), "four", "", workflows.SignalTurn, workflows.Turn{Key: "lock/room/a", Holder: workflows.Holder{ID: "four", FirstRun: "older"}, Held: true}))
	must(c.CancelWorkflow(t.Context(), "two", ""))
	if r := ended(t, runs[0]); r.Outcome != workflows.Cancelled || r.Message != "cancelled while it waited for lock/room/a" {
		t.Errorf("two: %+v", r)
	}
	must(c.TerminateWorkflow(t.Context(), "one", "", "gone"))
	last := begin("six", "false") // a new one makes the lock look soon
	runs = append(runs[1:], last)
	wants := map[string]workflows.Outcome{"three": workflows.RolledBack, "four": workflows.Succeeded, "five": workflows.Succeeded, "six": workflows.Succeeded}
	for _, run := range runs {
		if r := ended(t, run); r.Outcome != wants[run.GetID()] {
			t.Errorf("%s: %s %s", run.GetID(), r.Outcome, r.Message)
		}
	}
	if got := f.seen("enter"); !slices.Equal(got, []string{"a one", "a three", "a four", "a five", "a six"}) {
		t.Errorf("entered %v", got)
	}
	// Three held it until its rollback and its finally had ended.
	f.mu.Lock()
	at := func(e string) int { return slices.Index(f.events, e) }
	if back, clean, next := at("back a three"), at("work clean three"), at("enter a four"); back < 0 || clean < back || next < clean {
		t.Errorf("three was taken back at %d, cleaned at %d, and four came at %d: %v", back, clean, next, f.events)
	}
	f.mu.Unlock()
	comesTrue(t, 10*time.Second, "the lock ends", func() bool {
		d, err := c.DescribeWorkflowExecution(t.Context(), "lock/room/a", "")
		return err == nil && d.GetWorkflowExecutionInfo().GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED
	})
}

// TestLocksContinued: locks and their holders continue as new all the time.
func TestLocksContinued(t *testing.T) {
	t.Parallel()
	_, c := serve(t, often(20))
	f := crowded(t, c, "continued-locks", worker.Options{})
	p := f.compile(t, roomRunbook, nil)
	s := f.compile(t, slotsRunbook, nil)
	var runs []client.WorkflowRun
	for i := range 24 {
		name := fmt.Sprint("e", i)
		if i%2 == 0 {
			runs = append(runs, f.start(t, c, "continued-locks", name, "ana", p, map[string]string{"room": "a", "name": name}))
		} else {
			runs = append(runs, f.start(t, c, "continued-locks", name, "ana", s, map[string]string{"name": name}))
		}
	}
	for _, run := range runs {
		if r := ended(t, run); r.Outcome != workflows.Succeeded {
			t.Errorf("%s: %s %s", run.GetID(), r.Outcome, r.Message)
		}
	}
	if f.most["a"] != 1 || f.most["slots"] > 3 {
		t.Errorf("at once: %v", f.most)
	}
	d, err := c.DescribeWorkflowExecution(t.Context(), "lock/room/a", "")
	if err != nil {
		t.Fatal(err)
	}
	if info := d.GetWorkflowExecutionInfo(); info.GetFirstRunId() == info.GetExecution().GetRunId() {
		t.Error("the lock never continued as new")
	}
}

// TestFairness: somebody who has queued hundreds of executions does not keep
// another waiting.
func TestFairness(t *testing.T) {
	t.Parallel()
	_, c := serve(t, nil)
	f := crowded(t, c, "fair", worker.Options{MaxConcurrentActivityExecutionSize: 2, MaxConcurrentActivityTaskPollers: 2,
		MaxConcurrentWorkflowTaskPollers: 2, MaxConcurrentWorkflowTaskExecutionSize: 2, DisableEagerActivities: true})
	f.delay = 50 * time.Millisecond
	p := f.compile(t, plainRunbook, nil)
	flood, other := "flood", "ana"
	if os.Getenv("E2E_MUTANT") == "unfair" {
		other = flood
	}
	var runs []client.WorkflowRun
	for i := range 150 {
		name := fmt.Sprint("f", i)
		runs = append(runs, f.start(t, c, "fair", name, flood, p, map[string]string{"name": name}))
	}
	time.Sleep(time.Second)
	before := len(f.seen("work"))
	var quick []client.WorkflowRun
	for i := range 5 {
		name := fmt.Sprint("a", i)
		quick = append(quick, f.start(t, c, "fair", name, other, p, map[string]string{"name": name}))
	}
	for _, run := range quick {
		if r := ended(t, run); r.Outcome != workflows.Succeeded {
			t.Fatal(r)
		}
	}
	between := len(f.seen("work")) - before
	t.Logf("while 5 executions of 2 steps ran, %d steps of the flood's 300 were done", between-10)
	if between > 100 {
		t.Errorf("5 executions of another waited for %d steps of the flood", between-10)
	}
	for _, run := range runs {
		if r := ended(t, run); r.Outcome != workflows.Succeeded {
			t.Fatal(r)
		}
	}
}

// TestOverload queues hundreds of executions at once (5,000 with ALMANAC_LONG):
// none is lost, no more run than may, and at 60 % of what the server can do
// work does not wait.
func TestOverload(t *testing.T) {
	n, calm := 300, 3*time.Second
	if os.Getenv("ALMANAC_LONG") != "" {
		n, calm = 5000, time.Minute
	} else {
		t.Parallel()
	}
	_, c := serve(t, nil)
	f := crowded(t, c, "overload", worker.Options{MaxConcurrentActivityExecutionSize: 200, MaxConcurrentWorkflowTaskExecutionSize: 100})
	room, slots, plain := f.compile(t, roomRunbook, nil), f.compile(t, slotsRunbook, nil), f.compile(t, plainRunbook, nil)
	began := time.Now()
	runs := make([]client.WorkflowRun, n)
	var wg sync.WaitGroup
	for k := range 8 {
		wg.Go(func() {
			for i := k; i < n; i += 8 {
				name := fmt.Sprint("e", i)
				switch in := map[string]string{"name": name}; {
				case i%10 == 0:
					in["room"] = fmt.Sprint("r", i/10%5)
					runs[i] = f.start(t, c, "overload", name, fmt.Sprint("caller", i%3), room, in)
				case i%10 < 4:
					runs[i] = f.start(t, c, "overload", name, fmt.Sprint("caller", i%3), slots, in)
				default:
					runs[i] = f.start(t, c, "overload", name, fmt.Sprint("caller", i%3), plain, in)
				}
			}
		})
	}
	wg.Wait()
	queued := time.Since(began)
	lost := 0
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	for _, run := range runs {
		var r workflows.Result
		if err := run.Get(ctx, &r); err != nil || r.Outcome != workflows.Succeeded {
			lost++
			t.Errorf("%s: %v %s", run.GetID(), err, r.Outcome)
		}
	}
	took := time.Since(began)
	f.mu.Lock()
	steps, most := len(f.events), fmt.Sprint(f.most)
	for name, at := range f.most {
		if limit := map[bool]int{true: 3, false: 1}[name == "slots"]; at > limit {
			t.Errorf("%d at once in %s, which has room for %d", at, name, limit)
		}
	}
	all := percentile(f.waits, 99)
	f.waits = nil
	f.mu.Unlock()
	t.Logf("%d executions queued in %s, done in %s: %d lost, %d steps, of the others p99 from request to first step %s; at once %s", n, queued.Round(time.Millisecond), took.Round(time.Millisecond), lost, steps, all, most)

	// What this server can do is measured with executions that wait for nobody, then it gets 60 % of that.
	burst := max(n/10, 60)
	began = time.Now()
	runs = runs[:0]
	for i := range burst {
		name := fmt.Sprint("b", i)
		runs = append(runs, f.start(t, c, "overload", name, "ana", plain, map[string]string{"name": name}))
	}
	for _, run := range runs {
		ended(t, run)
	}
	capacity := float64(burst) / time.Since(began).Seconds()
	f.mu.Lock()
	f.waits = nil
	f.mu.Unlock()
	tick := time.NewTicker(time.Duration(float64(time.Second) / (0.6 * capacity)))
	defer tick.Stop()
	runs = runs[:0]
	for end := time.Now().Add(calm); time.Now().Before(end); {
		<-tick.C
		name := fmt.Sprint("c", len(runs))
		runs = append(runs, f.start(t, c, "overload", name, "ana", plain, map[string]string{"name": name}))
	}
	for _, run := range runs {
		ended(t, run)
	}
	f.mu.Lock()
	p99 := percentile(f.waits, 99)
	f.mu.Unlock()
	t.Logf("capacity %.0f executions of 2 steps a second; at 60 %% of it, over %s: %d executions, p99 from request to first step %s", capacity, calm, len(runs), p99)
	if p99 > 2*time.Second {
		t.Errorf("p99 from request to first step is %s, want 2s at most", p99)
	}
}

func percentile(ds []time.Duration, p int) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(ds))
	return sorted[min(len(sorted)*p/100, len(sorted)-1)].Round(time.Millisecond)
}
