package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/workflows"
)

// The bars of an agent.
const (
	agentBinary = 40 << 20 // bytes of the program, as the Makefile builds it
	agentMemory = 30 << 20 // bytes resident, idle
	agentIdle   = 30 * time.Second
)

// agent measures the program agent: its size, its memory when it has nothing
// to do, and how soon after its step a command begins on an idle node.
func (b *bench) agent(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "almanac-bench-agent")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "agent")
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", program, "./agent")
	build.Dir = ".."
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the agent: %w", err)
	}
	info, err := os.Stat(program)
	if err != nil {
		return err
	}
	b.amount("program agent", info.Size(), agentBinary)

	const node = "bench-agent"
	agent := exec.Command(program, "--insecure", "--id", node, "--state-dir", filepath.Join(dir, "state"), "--ec2-metadata", "off")
	agent.Env = append(os.Environ(), "TEMPORAL_ADDRESS="+b.address)
	agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said, err := agent.StderrPipe()
	if err != nil {
		return err
	}
	if err := agent.Start(); err != nil {
		return err
	}
	defer func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
	}()
	ready := make(chan struct{})
	go func() {
		told := false
		for lines := bufio.NewScanner(said); lines.Scan(); {
			if !told && strings.Contains(lines.Text(), "node is ready") {
				close(ready)
				told = true
			}
		}
	}()
	select {
	case <-ready:
	case <-time.After(agentIdle):
		return fmt.Errorf("the agent is not ready")
	}
	time.Sleep(agentIdle)
	// With the supervisor that waits for the next command.
	resident, err := residentOf(agent.Process.Pid)
	if err != nil {
		return err
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", agent.Process.Pid))
	if err != nil {
		return err
	}
	for _, file := range tasks {
		children, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, child := range strings.Fields(string(children)) {
			pid, _ := strconv.Atoi(child)
			more, err := residentOf(pid)
			if err != nil {
				return err
			}
			resident += more
		}
	}
	b.amount("memory of an agent, idle for 30 s", resident, agentMemory)
	return b.commandStart(ctx, node)
}

// amount prints bytes that are held against a bar.
func (b *bench) amount(measure string, got, bar int64) {
	mb := func(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/(1<<20)) }
	ratio := float64(got) / float64(bar)
	b.row(measure, mb(got), mb(bar), ratio, "≤ 1.00", ratio <= 1)
}

// residentOf is the resident memory of a process, in bytes.
func residentOf(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "VmRSS:" {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("process %d does not say how much memory it has", pid)
}

// oneOnNode is the hand-written workflow of one activity on a node's queue.
func oneOnNode(ctx workflow.Context, node, activity, token string, input map[string]any) (json.RawMessage, error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue: workflows.NodeQueue(node), StartToCloseTimeout: time.Minute, HeartbeatTimeout: 10 * time.Second,
	})
	var out json.RawMessage
	err := workflow.ExecuteActivity(ctx, activity, token, input).Get(ctx, &out)
	return out, err
}

// commandStart compares the time from a step's schedule to the first
// instruction of its script with that of a bare activity on the same queue, to its end.
func (b *bench) commandStart(ctx context.Context, node string) error {
	const rounds = 21
	var commands, bare []time.Duration
	for i := range rounds {
		time.Sleep(300 * time.Millisecond) // it is idle
		out, scheduled, _, err := b.once(ctx, node, "host.command.run", map[string]any{"shell": "bash", "script": `printf %s "$EPOCHREALTIME"`})
		if err != nil {
			return err
		}
		var answer struct {
			Stdout string `json:"stdout"`
		}
		if err := json.Unmarshal(out, &answer); err != nil {
			return err
		}
		seconds, micros, _ := strings.Cut(answer.Stdout, ".")
		s, err1 := strconv.ParseInt(seconds, 10, 64)
		us, err2 := strconv.ParseInt(micros, 10, 64)
		if err1 != nil || err2 != nil {
			return fmt.Errorf("the script says %q", answer.Stdout)
		}
		began := time.Unix(s, us*1000)
		_, from, to, err := b.once(ctx, node, "host.node.describe", map[string]any{})
		if err != nil {
			return err
		}
		if i > 0 { // the first pair warms up
			commands, bare = append(commands, began.Sub(scheduled)), append(bare, to.Sub(from))
		}
	}
	ours, theirs := median(commands), median(bare)
	ratio := ours.Seconds() / theirs.Seconds()
	b.row("start of a command on an idle node", ours.Round(10*time.Microsecond).String(), theirs.Round(10*time.Microsecond).String(), ratio, "≤ 2.00", ratio <= 2)
	return nil
}

// once runs one activity on a node, and returns when it was scheduled and when it ended.
func (b *bench) once(ctx context.Context, node, activity string, input map[string]any) (out json.RawMessage, scheduled, ended time.Time, err error) {
	b.count++
	id := fmt.Sprintf("one-%d", b.count)
	run, err := b.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: workflows.TaskQueue, ID: id}, oneOnNode, node, activity, id, input)
	if err != nil {
		return nil, scheduled, ended, err
	}
	if err := run.Get(ctx, &out); err != nil {
		return nil, scheduled, ended, err
	}
	it := b.client.GetWorkflowHistory(ctx, run.GetID(), run.GetRunID(), false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for it.HasNext() {
		e, err := it.Next()
		if err != nil {
			return nil, scheduled, ended, err
		}
		switch e.GetEventType() {
		case enumspb.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
			scheduled = e.GetEventTime().AsTime()
		case enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
			ended = e.GetEventTime().AsTime()
		}
	}
	return out, scheduled, ended, nil
}
