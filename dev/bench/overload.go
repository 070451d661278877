package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// The bars of many executions at once.
const (
	overloadQueued = 5_000
	overloadCalm   = 30 * time.Second
	overloadShare  = 0.6
	overloadWait   = 2 * time.Second
)

// overload queues thousands of executions of one step at once, a tenth of them
// with a key each of fifty, and counts those that do not end well; then it starts
// 60 % of what the server did a second, and measures how long each waits for its first step.
func (b *bench) overload(ctx context.Context) error {
	plain, err := compiled("runbook: bench/queued\nsteps:\n  - { id: one, action: bench.noop }\n")
	if err != nil {
		return err
	}
	locked := make([]*program.Program, 50)
	for i := range locked {
		if locked[i], err = compiled(fmt.Sprintf("runbook: bench/locked\nlock: bench/%d\nsteps:\n  - { id: one, action: bench.noop }\n", i)); err != nil {
			return err
		}
	}
	runs, errs := make([]client.WorkflowRun, overloadQueued), make([]error, overloadQueued)
	began := time.Now()
	each(overloadQueued, func(i int) {
		p := plain
		if i%10 == 0 {
			p = locked[i/10%len(locked)]
		}
		runs[i], errs[i] = b.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: workflows.TaskQueue, ID: fmt.Sprintf("queued-%d", i),
			Priority: workflows.Fair(fmt.Sprint("caller ", i%5))}, p.Runbook, workflows.Start{Program: p})
	})
	each(overloadQueued, func(i int) {
		if errs[i] == nil {
			errs[i] = runs[i].Get(ctx, nil)
		}
	})
	rate := overloadQueued / time.Since(began).Seconds()
	lost := 0
	for _, err := range errs {
		if err != nil {
			lost++
		}
	}
	b.row(fmt.Sprintf("%d executions queued at once: lost", overloadQueued), fmt.Sprint(lost), fmt.Sprintf("%.0f a second", rate), float64(lost), "= 0", lost == 0)

	tick := time.NewTicker(time.Duration(float64(time.Second) / (overloadShare * rate)))
	defer tick.Stop()
	runs = runs[:0]
	for end := time.Now().Add(overloadCalm); time.Now().Before(end); {
		<-tick.C
		run, err := b.start(ctx, plain)
		if err != nil {
			return err
		}
		runs = append(runs, run)
	}
	var waits []time.Duration
	for _, run := range runs {
		wait, err := b.firstStep(ctx, run)
		if err != nil {
			return err
		}
		waits = append(waits, wait)
	}
	_ = median(waits) // sorts
	p99 := waits[len(waits)*99/100]
	b.row("… p99 from start to first step at 60 % load", p99.Round(time.Millisecond).String(), fmt.Sprintf("%d executions", len(waits)),
		p99.Seconds()/overloadWait.Seconds(), "≤ 1.00", p99 <= overloadWait)
	return nil
}

// firstStep is how long after its start the first activity of an execution began.
func (b *bench) firstStep(ctx context.Context, run client.WorkflowRun) (time.Duration, error) {
	if err := run.Get(ctx, nil); err != nil {
		return 0, err
	}
	var started time.Time
	for it := b.client.GetWorkflowHistory(ctx, run.GetID(), run.GetRunID(), false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); it.HasNext(); {
		e, err := it.Next()
		if err != nil {
			return 0, err
		}
		switch e.EventType {
		case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
			started = e.EventTime.AsTime()
		case enumspb.EVENT_TYPE_ACTIVITY_TASK_STARTED:
			return e.EventTime.AsTime().Sub(started), nil
		}
	}
	return 0, fmt.Errorf("execution %s has no step", run.GetID())
}

// each calls f for 0 to n-1, sixteen at a time.
func each(n int, f func(int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range 16 {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}
