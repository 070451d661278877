// Command bench measures what a runbook costs against a Temporal workflow
// written by hand that calls the same activities, on one server in one run, and
// prints ratios with the bar each must meet. It exits with 1 if a bar is missed.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/protobuf/proto"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities"
	"github.com/almanac-run/almanac/dev/server"
	"github.com/almanac-run/almanac/internal/control"
	"github.com/almanac-run/almanac/lang/compile"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

func main() {
	rounds := flag.Int("rounds", 7, "pairs of runs for the wall time per step")
	profile := flag.String("cpuprofile", "", "write a CPU profile of the replays to this `file`")
	only := flag.String("only", "", "only these measures, separated by commas: wall, history, throughput, replay, compile, agent, encryption, authorization, canaries, corpus, overload, baseline, fleet")
	dir := flag.String("replay", "", "only replay the histories in this `directory`")
	flag.Parse()
	profileTo = *profile
	if *dir != "" {
		if err := replayFrom(*dir); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(*rounds, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// profileTo is the file for a CPU profile of our replays; empty: none.
var profileTo string

type input struct {
	Text string `json:"text,omitempty" jsonschema:"text to send back"`
}

type output struct {
	Text string `json:"text" jsonschema:"the text"`
}

// actions are one that does nothing, and one that answers 1 KB.
func actions() []action.Action {
	kilobyte := strings.Repeat("x", 1024)
	return []action.Action{
		action.New(action.Def[input, output]{Name: "bench.noop", Summary: "Do nothing",
			Do: func(context.Context, input) (output, error) { return output{}, nil }}),
		action.New(action.Def[input, output]{Name: "bench.kilobyte", Summary: "Answer 1 KB",
			Do: func(context.Context, input) (output, error) { return output{Text: kilobyte}, nil }}),
	}
}

// handWritten is the workflow that an engineer would write instead.
func handWritten(ctx workflow.Context, name string, steps int) error {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Hour, HeartbeatTimeout: 10 * time.Second})
	for range steps {
		var out output
		if err := workflow.ExecuteActivity(ctx, name, "token", input{Text: "hello"}).Get(ctx, &out); err != nil {
			return err
		}
	}
	return nil
}

// runbook is the same as a runbook. Each step reads what the one before gave,
// since what nobody reads is not kept, and the other side decodes every output.
func runbook(name string, steps int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "runbook: bench/steps\nsteps:\n")
	for i := range steps {
		text := "hello"
		if i > 0 {
			text = fmt.Sprintf(`"${{ steps.s%d.text == 'no' ? '' : 'hello' }}"`, i-1)
		}
		fmt.Fprintf(&b, "  - { id: s%d, action: %s, with: { text: %s } }\n", i, name, text)
	}
	return b.String()
}

func compiled(source string) (*program.Program, error) {
	var infos []action.Info
	for _, a := range actions() {
		infos = append(infos, a.Info)
	}
	p, ds := compile.Compile("bench.yaml", []byte(source), compile.Options{Actions: infos})
	if p == nil {
		return nil, fmt.Errorf("%v", ds)
	}
	return p, nil
}

type bench struct {
	client  client.Client
	address string // of the server
	out     table.Writer
	missed  int
	count   int
}

func run(rounds int, only string) error {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "almanac-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	srv, err := server.Start(ctx, server.Options{
		LogFile: dir + "/server.log",
		// Else a history is cut by continue-as-new long before 10,000 events.
		Dynamic: map[string]any{"limit.historyCount.suggestContinueAsNew": 20_000},
	})
	if err != nil {
		return err
	}
	defer srv.Stop()
	c, err := client.Dial(client.Options{HostPort: srv.Address(), Logger: quiet{}})
	if err != nil {
		return err
	}
	defer c.Close()
	w := worker.New(c, workflows.TaskQueue, worker.Options{})
	workflows.Register(w)
	w.RegisterWorkflow(handWritten)
	w.RegisterWorkflow(oneOnNode)
	control.Locks(w, c)
	activities.Register(w, actions(), activities.Options{})
	if err := w.Start(); err != nil {
		return err
	}
	defer w.Stop()

	b := &bench{client: c, address: srv.Address(), out: table.NewWriter()}
	b.out.SetOutputMirror(os.Stdout)
	b.out.AppendHeader(table.Row{"measure", "runbook", "hand-written", "ratio", "bar", ""})
	var names []string
	if only != "" {
		names = strings.Split(only, ",")
	}
	for _, measure := range []struct {
		name string
		take func(context.Context) error
	}{
		{"wall", func(ctx context.Context) error { return b.wallTime(ctx, rounds) }},
		{"history", b.history},
		{"throughput", b.throughput},
		{"replay", b.replay},
		{"compile", b.compile},
		{"agent", b.agent},
		{"encryption", b.encryption},
		{"authorization", b.authorization},
		{"canaries", b.canaries},
		{"corpus", b.corpus},
		{"overload", b.overload},
		{"baseline", b.baseline},
		{"fleet", b.fleet},
	} {
		if names != nil && !slices.Contains(names, measure.name) {
			continue
		}
		if err := measure.take(ctx); err != nil {
			return fmt.Errorf("%s: %w", measure.name, err)
		}
	}
	b.out.Render()
	if b.missed > 0 {
		return fmt.Errorf("%d bars missed", b.missed)
	}
	return nil
}

// row prints one measure; ours and theirs are text, ratio is held against bar.
func (b *bench) row(measure, ours, theirs string, ratio float64, bar string, ok bool) {
	verdict := "ok"
	if !ok {
		verdict = "MISSED"
		b.missed++
	}
	b.out.AppendRow(table.Row{measure, ours, theirs, fmt.Sprintf("%.2f", ratio), bar, verdict})
	fmt.Fprintf(os.Stderr, "%s: %.2f (%s)\n", measure, ratio, bar)
}

func (b *bench) start(ctx context.Context, p *program.Program) (client.WorkflowRun, error) {
	b.count++
	return b.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: workflows.TaskQueue, ID: fmt.Sprintf("runbook-%d", b.count)}, p.Runbook, workflows.Start{Program: p})
}

func (b *bench) startHand(ctx context.Context, name string, steps int) (client.WorkflowRun, error) {
	b.count++
	return b.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: workflows.TaskQueue, ID: fmt.Sprintf("hand-%d", b.count)}, handWritten, name, steps)
}

// pair times both sides, one after the other.
func (b *bench) pair(ctx context.Context, p *program.Program, steps int) (ours, theirs time.Duration, err error) {
	for _, side := range []struct {
		took  *time.Duration
		start func() (client.WorkflowRun, error)
	}{
		{&ours, func() (client.WorkflowRun, error) { return b.start(ctx, p) }},
		{&theirs, func() (client.WorkflowRun, error) { return b.startHand(ctx, "bench.noop", steps) }},
	} {
		began := time.Now()
		run, err := side.start()
		if err != nil {
			return 0, 0, err
		}
		if err := run.Get(ctx, nil); err != nil {
			return 0, 0, err
		}
		*side.took = time.Since(began)
	}
	return ours, theirs, nil
}

func median(ds []time.Duration) time.Duration {
	slices.Sort(ds)
	return ds[len(ds)/2]
}

func (b *bench) wallTime(ctx context.Context, rounds int) error {
	const steps = 50
	p, err := compiled(runbook("bench.noop", steps))
	if err != nil {
		return err
	}
	var ours, theirs []time.Duration
	for i := range rounds + 1 {
		o, t, err := b.pair(ctx, p, steps)
		if err != nil {
			return err
		}
		if i > 0 { // the first pair warms up
			ours, theirs = append(ours, o), append(theirs, t)
		}
	}
	ratio := median(ours).Seconds() / median(theirs).Seconds()
	b.row("wall time per step, 50 steps", (median(ours) / steps).String(), (median(theirs) / steps).String(), ratio, "≤ 1.10", ratio <= 1.10)
	return nil
}

// size returns a history's events and bytes.
func (b *bench) size(ctx context.Context, run client.WorkflowRun) (events, bytes int64, err error) {
	if err := run.Get(ctx, nil); err != nil {
		return 0, 0, err
	}
	d, err := b.client.DescribeWorkflowExecution(ctx, run.GetID(), run.GetRunID())
	if err != nil {
		return 0, 0, err
	}
	return d.WorkflowExecutionInfo.HistoryLength, d.WorkflowExecutionInfo.HistorySizeBytes, nil
}

// history compares what one step more adds.
func (b *bench) history(ctx context.Context) error {
	const small, large = 20, 120
	var events, bytes [2][3]int64 // ours, theirs; at small, twice small, large
	sizes := [3]int{small, 2 * small, large}
	for i, steps := range sizes {
		p, err := compiled(runbook("bench.kilobyte", steps))
		if err != nil {
			return err
		}
		run, err := b.start(ctx, p)
		if err != nil {
			return err
		}
		if events[0][i], bytes[0][i], err = b.size(ctx, run); err != nil {
			return err
		}
		if run, err = b.startHand(ctx, "bench.kilobyte", steps); err != nil {
			return err
		}
		if events[1][i], bytes[1][i], err = b.size(ctx, run); err != nil {
			return err
		}
	}
	per := func(v [3]int64, from, to int) float64 {
		return float64(v[to]-v[from]) / float64(sizes[to]-sizes[from])
	}
	// The program itself stands once in the history: taken off, since it is the
	// definition, not the run. It is what the start event grew by.
	programBytes := func(steps int) float64 {
		p, _ := compiled(runbook("bench.kilobyte", steps))
		raw, _ := json.Marshal(p)
		return float64(len(raw))
	}
	perProgram := (programBytes(large) - programBytes(small)) / float64(large-small)
	e0, e1 := per(events[0], 0, 2), per(events[1], 0, 2)
	b.row("history events per step", fmt.Sprintf("%.2f", e0), fmt.Sprintf("%.2f", e1), e0/e1, "= 1.00", e0 == e1)
	b0, b1 := per(bytes[0], 0, 2)-perProgram, per(bytes[1], 0, 2)
	b.row("history bytes per step, 1 KB outputs", fmt.Sprintf("%.0f", b0), fmt.Sprintf("%.0f", b1), b0/b1, "≤ 1.30", b0/b1 <= 1.3)
	withProgram := (b0 + perProgram) / b1
	b.row("… with its share of the program", fmt.Sprintf("%.0f", b0+perProgram), fmt.Sprintf("%.0f", b1), withProgram, "≤ 1.30", withProgram <= 1.3)
	early, late := per(bytes[0], 0, 1), per(bytes[0], 1, 2)
	b.row("… steps 41 to 120 against 21 to 40", fmt.Sprintf("%.0f", late), fmt.Sprintf("%.0f", early), late/early, "constant", late/early < 1.05)
	return nil
}

func (b *bench) throughput(ctx context.Context) error {
	const executions, steps = 200, 10
	p, err := compiled(runbook("bench.noop", steps))
	if err != nil {
		return err
	}
	all := func(start func() (client.WorkflowRun, error)) (time.Duration, error) {
		began := time.Now()
		runs := make([]client.WorkflowRun, executions)
		for i := range runs {
			if runs[i], err = start(); err != nil {
				return 0, err
			}
		}
		var wg sync.WaitGroup
		errs := make([]error, executions)
		for i, r := range runs {
			wg.Go(func() { errs[i] = r.Get(ctx, nil) })
		}
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				return 0, err
			}
		}
		return time.Since(began), nil
	}
	var ours, theirs []time.Duration
	for range 3 {
		o, err := all(func() (client.WorkflowRun, error) { return b.start(ctx, p) })
		if err != nil {
			return err
		}
		t, err := all(func() (client.WorkflowRun, error) { return b.startHand(ctx, "bench.noop", steps) })
		if err != nil {
			return err
		}
		ours, theirs = append(ours, o), append(theirs, t)
	}
	rate := func(d time.Duration) string { return fmt.Sprintf("%.0f steps/s", executions*steps/d.Seconds()) }
	o, t := median(ours), median(theirs)
	ratio := t.Seconds() / o.Seconds()
	b.row("throughput, 200 executions of 10 steps", rate(o), rate(t), ratio, "≥ 0.90", ratio >= 0.9)
	return nil
}

func (b *bench) fetch(ctx context.Context, run client.WorkflowRun) (*historypb.History, error) {
	if err := run.Get(ctx, nil); err != nil {
		return nil, err
	}
	var h historypb.History
	it := b.client.GetWorkflowHistory(ctx, run.GetID(), run.GetRunID(), false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for it.HasNext() {
		e, err := it.Next()
		if err != nil {
			return nil, err
		}
		h.Events = append(h.Events, e)
	}
	return &h, nil
}

// replay replays histories of 10,000 events of both sides.
func (b *bench) replay(ctx context.Context) error {
	const steps = 1667
	p, err := compiled(runbook("bench.noop", steps))
	if err != nil {
		return err
	}
	run, err := b.start(ctx, p)
	if err != nil {
		return err
	}
	ours, err := b.fetch(ctx, run)
	if err != nil {
		return err
	}
	if run, err = b.startHand(ctx, "bench.noop", steps); err != nil {
		return err
	}
	theirs, err := b.fetch(ctx, run)
	if err != nil {
		return err
	}
	o, t, ratio, err := replayApart(ours, theirs)
	if err != nil {
		return err
	}
	ratio *= float64(len(theirs.Events)) / float64(len(ours.Events)) // per event
	b.row(fmt.Sprintf("replay of %d events", len(ours.Events)), o.String(), t.String(), ratio, "≤ 1.50", ratio <= 1.5)
	return nil
}

// replayApart replays in a process of its own, as a worker would: beside a
// server's heap every allocation costs a share of marking it.
func replayApart(ours, theirs *historypb.History) (o, t time.Duration, ratio float64, err error) {
	dir, err := os.MkdirTemp("", "almanac-replay")
	if err != nil {
		return 0, 0, 0, err
	}
	defer os.RemoveAll(dir)
	for name, h := range map[string]*historypb.History{"ours": ours, "theirs": theirs} {
		raw, err := proto.Marshal(h)
		if err != nil {
			return 0, 0, 0, err
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			return 0, 0, 0, err
		}
	}
	cmd := exec.Command(os.Args[0], "-replay", dir, "-cpuprofile", profileTo)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, 0, 0, fmt.Errorf("replay: %w", err)
	}
	_, err = fmt.Sscan(string(out), &o, &t, &ratio)
	return o, t, ratio, err
}

// replayFrom replays both histories in turn and prints the median nanoseconds,
// and the median of the ratios of each turn: what else the machine does bears on
// both of a turn.
func replayFrom(dir string) error {
	replayer := worker.NewWorkflowReplayer()
	replayer.RegisterDynamicWorkflow(workflows.Runbook, workflow.DynamicRegisterOptions{})
	replayer.RegisterWorkflow(handWritten)
	var histories [2]historypb.History
	var took [2][]time.Duration
	for i, name := range []string{"ours", "theirs"} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := proto.Unmarshal(raw, &histories[i]); err != nil {
			return err
		}
	}
	if profileTo != "" {
		f, err := os.Create(profileTo)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	var ratios []float64
	for range 15 {
		for i := range histories {
			began := time.Now()
			if err := replayer.ReplayWorkflowHistory(quiet{}, &histories[i]); err != nil {
				return fmt.Errorf("%d events: %w", len(histories[i].Events), err)
			}
			took[i] = append(took[i], time.Since(began))
		}
		last := len(took[0]) - 1
		ratios = append(ratios, took[0][last].Seconds()/took[1][last].Seconds())
	}
	slices.Sort(ratios)
	fmt.Println(int64(median(took[0])), int64(median(took[1])), ratios[len(ratios)/2])
	return nil
}

func (b *bench) compile(context.Context) error {
	source := richRunbook(1000)
	var took []time.Duration
	for range 5 {
		began := time.Now()
		if _, err := compiled(source); err != nil {
			return err
		}
		took = append(took, time.Since(began))
	}
	m := median(took)
	b.row("compile a runbook of 1,000 steps", m.String(), "100ms", m.Seconds()/0.1, "≤ 1.00", m <= 100*time.Millisecond)
	return nil
}

// richRunbook has conditions, text with expressions and references to the step before.
func richRunbook(steps int) string {
	var b strings.Builder
	b.WriteString("runbook: bench/rich\ninputs:\n  env: { type: string, default: prod }\n  n: { type: int, default: 3 }\nsteps:\n  - { id: s0, action: bench.noop }\n")
	for i := 1; i < steps; i++ {
		fmt.Fprintf(&b, "  - id: s%d\n    name: Step %d of ${{ inputs.env }}\n    action: bench.noop\n    with: { text: \"${{ steps.s%d.text }} in ${{ inputs.env }}\" }\n", i, i, i-1)
	}
	b.WriteString("outputs:\n  n: ${{ inputs.n }}\n")
	return b.String()
}

type quiet struct{}

func (quiet) Debug(string, ...any)     {}
func (quiet) Info(string, ...any)      {}
func (quiet) Warn(string, ...any)      {}
func (quiet) Error(string, ...any)     {}
func (q quiet) With(...any) log.Logger { return q }
