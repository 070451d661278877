package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities"
	"github.com/almanac-run/almanac/internal/catalog"
	"github.com/almanac-run/almanac/internal/control"
	"github.com/almanac-run/almanac/lang/compile"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// freshWorker is a worker that forgets: it takes up each workflow task as if it had just been started, from the history
// alone. So an execution meets a fresh worker at each of its events where one can come in.
func freshWorker() error {
	if os.Getenv("UPGRADE_CACHE") == "" {
		worker.SetStickyWorkflowCacheSize(0)
	}
	c, err := client.Dial(client.Options{HostPort: os.Getenv("UPGRADE_ADDRESS"), Logger: quiet{}})
	if err != nil {
		return err
	}
	w := worker.New(c, os.Getenv("UPGRADE_QUEUE"), worker.Options{})
	workflows.Register(w)
	activities.Register(w, things(os.Getenv("UPGRADE_LOG")), activities.Options{})
	control.Locks(w, c)
	return w.Run(nil)
}

type thing struct {
	Name string `json:"name" jsonschema:"what to make"`
}
type made struct {
	ID string `json:"id" jsonschema:"what was made"`
}

// things are actions that write down what they do.
func things(log string) []action.Action {
	write := func(verb string, in thing) error {
		f, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(f, verb, in.Name)
		return errors.Join(err, f.Close())
	}
	return []action.Action{
		action.New(action.Def[thing, made]{Name: "test.make", Summary: "Make a thing",
			Do:         func(_ context.Context, in thing) (made, error) { return made{in.Name}, write("make", in) },
			Compensate: func(_ context.Context, in thing, _ *made) error { return write("take", in) },
		}),
		action.New(action.Def[thing, made]{Name: "test.fail", Summary: "Fail",
			Do: func(_ context.Context, in thing) (made, error) {
				return made{}, errors.Join(write("fail", in), action.Errorf(action.Failed, "it broke"))
			}}),
	}
}

const everything = `
runbook: test/everything
inputs:
  names: { type: list<string>, default: [a, b, c] }
lock: shared
steps:
  - { id: base, action: test.make, with: { name: base } }
  - id: outer
    for_each: ${{ inputs.names }}
    max_concurrency: 2
    steps:
      - { id: o, action: test.make, with: { name: "o-${{ item }}" } }
      - id: inner
        repeat: { until: "index == 1", every: 50ms }
        steps: [ { id: i, action: test.make, with: { name: "i-${{ item }}" } } ]
  - id: sides
    timeout: 1m
    parallel:
      left: [ { id: l1, action: test.make, with: { name: l1 } }, { id: l2, wait: 100ms }, { id: l3, action: test.make, with: { name: l3 } } ]
      right: [ { id: r1, action: test.make, with: { name: r1 } }, { id: r2, action: test.fail, with: { name: r2 }, on_error: { steps: [ { id: r3, action: test.make, with: { name: "r3-${{ error.kind }}" } } ] } } ]
  - { id: kid, runbook: test/kid, with: { what: inside } }
  - id: custom
    action: test.make
    with: { name: custom }
    rollback: { steps: [ { id: u1, wait: 50ms }, { id: u2, action: test.make, with: { name: "undo-${{ steps.custom.id }}" } } ] }
  - id: again
    retry: { attempts: 2, backoff: 50ms }
    on_error: continue
    steps: [ { id: a1, action: test.make, with: { name: a1 } }, { id: a2, action: test.fail, with: { name: a2 } } ]
  - { id: ok, approval: { message: "Go on?" } }
  - { id: broken, action: test.fail, with: { name: broken } }
finally:
  - { id: f1, action: test.make, with: { name: "f1-${{ steps.base.id }}" } }
`

const kid = `
runbook: test/kid
inputs: { what: { type: string } }
steps:
  - { id: k1, action: test.make, with: { name: "k1-${{ inputs.what }}" } }
  - { id: k2, wait: 50ms }
  - { id: k3, action: test.make, with: { name: k3 } }
`

func compiled(t *testing.T, source string, more map[string]string) *program.Program {
	t.Helper()
	infos := catalog.Actions()
	for _, a := range things("") {
		infos = append(infos, a.Info)
	}
	p, ds := compile.Compile("test.yaml", []byte(source), compile.Options{Actions: infos, Runbook: func(name string) (string, []byte, error) {
		if s, ok := more[name]; ok {
			return name + ".yaml", []byte(s), nil
		}
		return "", nil, fs.ErrNotExist
	}})
	if p == nil {
		t.Fatal(ds)
	}
	return p
}

// TestFreshWorker runs a runbook with every form on a worker that remembers, and on one that is fresh at each workflow
// task: both do the same, in the same order where there is one.
func TestFreshWorker(t *testing.T) {
	t.Parallel()
	h := settle(t, "")
	c, err := client.Dial(client.Options{HostPort: h.address, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	p := compiled(t, everything, map[string]string{"test/kid": kid})
	type ending struct {
		Log        []string // sorted
		Error      string
		RolledBack int
	}
	var got []ending
	for _, cache := range []string{"remembers", ""} {
		queue := "upgrade-" + cache
		log := filepath.Join(t.TempDir(), "log")
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "UPGRADE_ROLE=worker", "UPGRADE_ADDRESS="+h.address, "UPGRADE_QUEUE="+queue, "UPGRADE_LOG="+log, "UPGRADE_CACHE="+cache)
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: queue, TaskQueue: queue, TypedSearchAttributes: workflows.Attributes(p.Runbook, "ana")},
			p.Runbook, workflows.Start{Program: p})
		if err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
			update, err := c.UpdateWorkflow(t.Context(), client.UpdateWorkflowOptions{WorkflowID: queue, UpdateName: workflows.AnswerApprove,
				Args: []any{workflows.Answer{By: "ana"}}, WaitForStage: client.WorkflowUpdateStageCompleted})
			if err == nil && update.Get(t.Context(), nil) == nil {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("it does not ask: %v", err)
			}
		}
		err = run.Get(t.Context(), nil)
		if err == nil {
			t.Fatal("it succeeded")
		}
		d, derr := c.DescribeWorkflowExecution(t.Context(), queue, "")
		if derr != nil {
			t.Fatal(derr)
		}
		text, err2 := os.ReadFile(log)
		if err2 != nil {
			t.Fatal(err2)
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		slices.Sort(lines)
		message := err.Error()
		got = append(got, ending{lines, message[strings.LastIndex(message, "test.yaml"):], strings.Count(string(text), "take ")})
		t.Logf("%s: %d events, %d effects", queue, d.GetWorkflowExecutionInfo().GetHistoryLength(), len(lines))
	}
	if len(got[0].Log) < 30 || got[0].RolledBack < 12 {
		t.Errorf("it hardly did anything: %+v", got[0])
	}
	if diff := cmp.Diff(got[0], got[1]); diff != "" {
		t.Errorf("a fresh worker makes a difference (-without +with):\n%s", diff)
	}
}
