package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/dev/load"
	"github.com/almanac-run/almanac/dev/server"
	"github.com/almanac-run/almanac/dev/settings"
	"github.com/almanac-run/almanac/internal/catalog"
	"github.com/almanac-run/almanac/internal/control"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/lang/compile"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// The sizes that the bars are about.
const (
	rateNodes    = 1_000
	rateAtOnce   = 100
	largeNodes   = 5_000
	largeAtOnce  = 50
	listedNodes  = 10_000
	mostEvents   = 8_000
	mostBytes    = 8 << 20
	mostToSelect = 2 * time.Second
)

// handQueue is where the hand-written workflow runs, beside the control worker.
const handQueue = "bench"

// A command by the interpreter, and by the workflow that an engineer would write instead.
const commandRunbook = `
runbook: bench/command
inputs:
  nodes: { type: list<string> }
steps:
  - id: work
    targets: { nodes: "${{ inputs.nodes }}", max_concurrency: %d }
    run: "true"
outputs:
  ok: ${{ size(steps.work.succeeded) }}
`

const selectRunbook = `
runbook: bench/select
steps:
  - id: work
    targets: { where: 'node.os == "debian" && node.tags.role == "db" && node.tags.rack == "r012"' }
    run: "true"
outputs:
  ok: ${{ size(steps.work.succeeded) }}
`

// handFanout runs the command that commandRunbook runs, so many at once.
func handFanout(ctx workflow.Context, nodes []string, atOnce int) (int, error) {
	slots, all := workflow.NewSemaphore(ctx, int64(atOnce)), workflow.NewWaitGroup(ctx)
	ok := 0
	for _, n := range nodes {
		if err := slots.Acquire(ctx, 1); err != nil {
			return ok, err
		}
		all.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer all.Done()
			defer slots.Release(1)
			ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
				TaskQueue: workflows.NodeQueue(n), StartToCloseTimeout: time.Hour, ScheduleToStartTimeout: 10 * time.Second, HeartbeatTimeout: 10 * time.Second,
			})
			var out struct {
				ExitCode int    `json:"exit_code"`
				Stdout   string `json:"stdout"`
			}
			if workflow.ExecuteActivity(ctx, "host.command.run", "token", map[string]any{"script": "true"}).Get(ctx, &out) == nil && out.ExitCode == 0 {
				ok++
			}
		})
	}
	all.Wait(ctx)
	return ok, nil
}

// fleet measures commands on many nodes, and the registry, on a server of its
// own: with the settings that everybody has, and nothing on it but the fleet.
func (b *bench) fleet(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "almanac-bench-fleet")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	srv, err := server.Start(ctx, server.Options{LogFile: dir + "/server.log"})
	if err != nil {
		return err
	}
	defer srv.Stop()
	c, err := client.Dial(client.Options{HostPort: srv.Address(), Logger: quiet{}})
	if err != nil {
		return err
	}
	defer c.Close()
	hand := worker.New(c, handQueue, worker.Options{
		MaxConcurrentActivityExecutionSize: 200, MaxConcurrentWorkflowTaskExecutionSize: 100, StickyScheduleToStartTimeout: 5 * time.Second, // as the control worker
	})
	hand.RegisterWorkflow(handFanout)
	if err := hand.Start(); err != nil {
		return err
	}
	defer hand.Stop()
	works, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- control.Run(works, control.Options{Client: c, Logger: slog.New(slog.DiscardHandler)}) }()
	defer func() { stop(); <-ended }()

	f := &fleetBench{bench: b, client: c, address: srv.Address(), nodes: load.Nodes(listedNodes)}
	for _, measure := range []func(context.Context) error{f.rate, f.large, f.registry} {
		if err := measure(ctx); err != nil {
			select {
			case died := <-ended:
				ended <- nil
				err = errors.Join(err, died)
			default:
			}
			return err
		}
	}
	return nil
}

type fleetBench struct {
	*bench
	client  client.Client
	address string
	nodes   []registry.Node
}

// serve plays some of the nodes.
func (f *fleetBench) serve(ctx context.Context, from, to int) (*load.Fleet, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return load.Serve(ctx, f.address, load.IDs(f.nodes[from:to]), load.Nothing)
}

// start begins an execution of a runbook on nodes, by its name on this server.
func (f *fleetBench) start(ctx context.Context, p *program.Program, nodes []string) (client.WorkflowRun, error) {
	in := map[string]json.RawMessage{}
	if nodes != nil {
		raw, err := json.Marshal(nodes)
		if err != nil {
			return nil, err
		}
		in["nodes"] = raw
	}
	f.count++
	return f.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: workflows.TaskQueue, ID: fmt.Sprintf("fleet-%d", f.count)}, p.Runbook, workflows.Start{Program: p, Inputs: in})
}

// succeeded waits for an execution and checks on how many nodes it succeeded.
func succeeded(ctx context.Context, run client.WorkflowRun, want int) error {
	var r workflows.Result
	if err := run.Get(ctx, &r); err != nil {
		return err
	}
	if got := string(r.Outputs["ok"]); got != fmt.Sprint(want) {
		return fmt.Errorf("%s: %s nodes succeeded, want %d", run.GetID(), got, want)
	}
	return nil
}

// once checks that each node began one piece of work, and never more at once than allowed.
func once(fl *load.Fleet, nodes, atOnce int) error {
	began := fl.Began()
	for piece, times := range began {
		if times != 1 {
			return fmt.Errorf("%s began %d times on %s", piece.ID, times, piece.Node)
		}
	}
	if _, most := fl.AtOnce(); len(began) != nodes || most > atOnce {
		return fmt.Errorf("%d nodes began, at most %d at once; want %d and %d", len(began), most, nodes, atOnce)
	}
	return nil
}

func compiledFleet(source string) (*program.Program, error) {
	p, ds := compile.Compile("bench.yaml", []byte(source), compile.Options{Actions: catalog.Actions()})
	if p == nil {
		return nil, fmt.Errorf("%v", ds)
	}
	return p, nil
}

// rate compares one command on many nodes with the hand-written workflow, in
// turn. The fastest of each side count: whatever else the machine does can only
// slow them down, and a run takes all its processors.
func (f *fleetBench) rate(ctx context.Context) error {
	const pairs = 7
	p, err := compiledFleet(fmt.Sprintf(commandRunbook, rateAtOnce))
	if err != nil {
		return err
	}
	fl, err := f.serve(ctx, 0, rateNodes)
	if err != nil {
		return err
	}
	defer fl.Stop()
	nodes := load.IDs(f.nodes[:rateNodes])
	sides := [2]func() error{
		func() error {
			run, err := f.start(ctx, p, nodes)
			if err != nil {
				return err
			}
			return succeeded(ctx, run, rateNodes)
		},
		func() error {
			f.count++
			run, err := f.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: handQueue, ID: fmt.Sprintf("fleet-hand-%d", f.count)}, handFanout, nodes, rateAtOnce)
			if err != nil {
				return err
			}
			var ok int
			if err := run.Get(ctx, &ok); err != nil {
				return err
			}
			if ok != rateNodes {
				return fmt.Errorf("by hand: %d nodes succeeded, want %d", ok, rateNodes)
			}
			return nil
		},
	}
	var took [2][]time.Duration
	var ratios []float64
	for i := range pairs + 1 {
		var pair [2]time.Duration
		for k := range sides {
			side := (i + k) % 2 // who goes first pays for who went before
			fl.Reset()
			began := time.Now()
			if err := sides[side](); err != nil {
				return err
			}
			pair[side] = time.Since(began)
			if err := once(fl, rateNodes, rateAtOnce); err != nil {
				return err
			}
		}
		if i == 0 { // it warms up
			continue
		}
		took[0], took[1] = append(took[0], pair[0]), append(took[1], pair[1])
		ratios = append(ratios, pair[1].Seconds()/pair[0].Seconds())
	}
	fmt.Fprintf(os.Stderr, "a command on %d nodes: ratios of the pairs %.2f\n", rateNodes, ratios)
	ours, theirs := slices.Min(took[0]), slices.Min(took[1])
	rate := func(d time.Duration) string { return fmt.Sprintf("%.0f nodes/s", rateNodes/d.Seconds()) }
	ratio := theirs.Seconds() / ours.Seconds()
	f.row("command on 1,000 nodes, 100 at once", rate(ours), rate(theirs), ratio, "≥ 0.80", ratio >= 0.8)
	return nil
}

// large measures the histories of one command on very many nodes.
func (f *fleetBench) large(ctx context.Context) error {
	p, err := compiledFleet(fmt.Sprintf(commandRunbook, largeAtOnce))
	if err != nil {
		return err
	}
	fl, err := f.serve(ctx, 0, largeNodes)
	if err != nil {
		return err
	}
	defer fl.Stop()
	began := time.Now()
	run, err := f.start(ctx, p, load.IDs(f.nodes[:largeNodes]))
	if err != nil {
		return err
	}
	first := run.GetRunID()
	if err := succeeded(ctx, run, largeNodes); err != nil {
		return err
	}
	took := time.Since(began)
	if err := once(fl, largeNodes, largeAtOnce); err != nil {
		return err
	}
	runs, events, bytes, err := f.largestRun(ctx, run.GetID(), first)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "a command on %d nodes: %.0f nodes/s, %d runs\n", largeNodes, largeNodes/took.Seconds(), runs)
	f.row("largest history, 5,000 targets: events", fmt.Sprint(events), fmt.Sprint(mostEvents), float64(events)/mostEvents, "≤ 1.00", events <= mostEvents)
	f.row("… KiB", fmt.Sprint(bytes>>10), fmt.Sprint(mostBytes>>10), float64(bytes)/mostBytes, "≤ 1.00", bytes <= mostBytes)
	return nil
}

// largestRun follows an execution through its runs, and gives their number and
// the most events and bytes of any.
func (f *fleetBench) largestRun(ctx context.Context, id, run string) (runs int, events, bytes int64, err error) {
	for run != "" {
		d, err := f.client.DescribeWorkflowExecution(ctx, id, run)
		if err != nil {
			return 0, 0, 0, err
		}
		info := d.WorkflowExecutionInfo
		runs, events, bytes = runs+1, max(events, info.HistoryLength), max(bytes, info.HistorySizeBytes)
		last, err := f.client.GetWorkflowHistory(ctx, id, run, false, enumspb.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT).Next()
		if err != nil {
			return 0, 0, 0, err
		}
		run = last.GetWorkflowExecutionContinuedAsNewEventAttributes().GetNewExecutionRunId()
	}
	return runs, events, bytes, nil
}

// registry measures how long it takes to list ten thousand nodes, and to select
// a few of them by a condition and run a command there.
func (f *fleetBench) registry(ctx context.Context) error {
	p, err := compiledFleet(selectRunbook)
	if err != nil {
		return err
	}
	from, to := 12*40, 13*40 // rack r012
	fl, err := f.serve(ctx, from, to)
	if err != nil {
		return err
	}
	defer fl.Stop()
	matching := 0
	for _, n := range f.nodes {
		if n.OS == "debian" && n.Tags["role"] == "db" && n.Tags["rack"] == "r012" {
			matching++
		}
	}
	enter := load.RegisterAsleep
	if os.Getenv("ALMANAC_LONG") != "" {
		enter = load.Register
	}
	began := time.Now()
	patient, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	if err := enter(patient, f.client, f.nodes); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%d nodes registered in %.0f s\n", listedNodes, time.Since(began).Seconds())

	lister := registry.Lister{Service: f.client.WorkflowService(), Namespace: settings.Namespace}
	var listed, selected []time.Duration
	for range 5 {
		if err := load.Beat(ctx, f.client, f.nodes); err != nil {
			return err
		}
		began := time.Now()
		all, err := lister.All(ctx, began)
		if err != nil {
			return err
		}
		listed = append(listed, time.Since(began))
		alive := 0
		for i := range all {
			if all[i].Registration && all[i].Absent() == "" {
				alive++
			}
		}
		if alive != listedNodes {
			return fmt.Errorf("%d of %d nodes are listed and there", alive, listedNodes)
		}
		began = time.Now()
		run, err := f.start(ctx, p, nil)
		if err != nil {
			return err
		}
		if err := succeeded(ctx, run, matching); err != nil {
			return err
		}
		selected = append(selected, time.Since(began))
	}
	for _, m := range []struct {
		name string
		took []time.Duration
	}{
		{"list 10,000 nodes", listed},
		{fmt.Sprintf("select %d of 10,000 by a condition, and run there", matching), selected},
	} {
		fastest := slices.Min(m.took) // whatever else the machine does can only add to it
		fmt.Fprintf(os.Stderr, "%s: %s\n", m.name, strings.Trim(fmt.Sprint(m.took), "[]"))
		f.row(m.name, fastest.Round(time.Millisecond).String(), mostToSelect.String(), fastest.Seconds()/mostToSelect.Seconds(), "≤ 1.00", fastest <= mostToSelect)
	}
	return nil
}
