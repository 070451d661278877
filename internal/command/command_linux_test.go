package command

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/almanac-run/almanac/internal/journal"
	"github.com/almanac-run/almanac/internal/output"
)

// With this variable set the test program is an agent that runs one job and
// prints how it ended: a process that tests can kill.
const agentVar = "ALMANAC_TEST_AGENT"

func TestMain(m *testing.M) {
	Main()
	Ready()
	if dir := os.Getenv(agentVar); dir != "" {
		b := bench{dir: dir, script: os.Getenv("SCRIPT")}
		rec, err := Run(context.Background(), b.job())
		fmt.Println(rec.ExitCode, err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// bench is one command under one token.
type bench struct {
	t      *testing.T
	dir    string
	script string
}

func newBench(t *testing.T, script string) bench {
	b := bench{t, t.TempDir(), script}
	t.Cleanup(func() {
		// Whatever a test has left running has the test's directory in its environment.
		for _, p := range b.processes() {
			syscall.Kill(p, syscall.SIGKILL)
		}
	})
	return b
}

func (b bench) job() Job {
	entry, err := journal.Journal(filepath.Join(b.dir, "journal")).Entry("token")
	if err != nil {
		panic(err)
	}
	return Job{Entry: entry, Execution: "e", Step: "s", Spec: func() (Spec, error) { return b.spec(), nil }}
}

func (b bench) spec() Spec {
	return Spec{
		Argv: []string{"bash", "-e", ScriptArg}, Script: b.script, Dir: b.dir,
		Env:     []string{"PATH=" + os.Getenv("PATH"), "BENCH=" + b.dir},
		Outputs: filepath.Join(b.dir, "output"), Ref: output.Ref("e", "s", "n"), Stdout: 4096,
	}
}

// agent starts another process that runs the job.
func (b bench) agent() *exec.Cmd {
	b.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), agentVar+"="+b.dir, "SCRIPT="+b.script)
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	return cmd
}

// effects counts the lines that the script has appended to "effects".
func (b bench) effects() int {
	text, _ := os.ReadFile(filepath.Join(b.dir, "effects"))
	return strings.Count(string(text), "\n")
}

func (b bench) log() string {
	text, _ := os.ReadFile(filepath.Join(b.dir, "output", output.Ref("e", "s", "n")))
	return string(text)
}

// processes are those that the command has made and that still run.
func (b bench) processes() []int {
	var pids []int
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		env, _ := os.ReadFile(filepath.Join("/proc", d.Name(), "environ"))
		if s, ok := readStat(pid); ok && !s.zombie && strings.Contains(string(env), "BENCH="+b.dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (b bench) record() journal.Record {
	rec, _, err := b.job().Entry.Record()
	if err != nil {
		b.t.Fatal(err)
	}
	return rec
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not in time: %s", what)
}

const effect = "echo x >> effects\n"

func TestFinishedIsAnsweredFromTheJournal(t *testing.T) {
	for _, code := range []int{0, 3} {
		b := newBench(t, fmt.Sprintf("%s echo said; exit %d", effect, code))
		for range 3 {
			rec, err := Run(t.Context(), b.job())
			if err != nil || rec.ExitCode != code || rec.Stdout != "said\n" {
				t.Fatalf("record %+v, error %v", rec, err)
			}
		}
		if n := b.effects(); n != 1 {
			t.Errorf("exit code %d: it ran %d times", code, n)
		}
		if b.log() != "said\n" {
			t.Errorf("log %q", b.log())
		}
	}
}

// A command that ran for something else is no answer, and is not run again unless that is harmless.
func TestOtherInput(t *testing.T) {
	b := newBench(t, effect+" sleep 1")
	run := func(input string, idempotent bool) (journal.Record, error) {
		job := b.job()
		job.Input, job.Idempotent = input, idempotent
		return Run(t.Context(), job)
	}
	ended := make(chan error)
	go func() {
		_, err := run("one", false)
		ended <- err
	}()
	eventually(t, "the command runs", func() bool { return b.effects() == 1 })
	for _, while := range []string{"runs", "has ended"} {
		var unknown *UnknownError
		if _, err := run("two", false); !errors.As(err, &unknown) || !unknown.Other || b.effects() != 1 {
			t.Errorf("other input while it %s: %v, %d times", while, err, b.effects())
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, same := range []string{"one", ""} { // older engines and agents have none
		if rec, err := run(same, false); err != nil || rec.Input != "one" || b.effects() != 1 {
			t.Errorf("input %q: %+v, %v, %d times", same, rec, err, b.effects())
		}
	}
	if rec, err := run("two", true); err != nil || rec.Input != "two" || b.effects() != 2 {
		t.Errorf("idempotent: %+v, %v, %d times", rec, err, b.effects())
	}
}

func TestAgentKilledWhileCommandRuns(t *testing.T) {
	b := newBench(t, effect+"echo before; until test -e go; do sleep 0.02; done; echo after; exit 7")
	agent := b.agent()
	eventually(t, "the command runs", func() bool { return b.effects() == 1 })
	agent.Process.Kill()
	agent.Wait()
	os.WriteFile(filepath.Join(b.dir, "go"), nil, 0o600)
	rec, err := Run(t.Context(), b.job())
	if err != nil || rec.ExitCode != 7 || b.effects() != 1 {
		t.Fatalf("record %+v, error %v, %d effects", rec, err, b.effects())
	}
	if rec.Stdout != "before\nafter\n" || b.log() != rec.Stdout || rec.Size != int64(len(b.log())) {
		t.Errorf("stdout %q, log %q, size %d", rec.Stdout, b.log(), rec.Size)
	}
}

func TestCommandEndsWhileNobodyWaits(t *testing.T) {
	b := newBench(t, effect+"sleep 0.3; echo done")
	agent := b.agent()
	eventually(t, "the command runs", func() bool { return b.effects() == 1 })
	agent.Process.Kill()
	agent.Wait()
	eventually(t, "it ends by itself", func() bool { return b.record().State == journal.Exited })
	rec, err := Run(t.Context(), b.job())
	if err != nil || rec.ExitCode != 0 || rec.Stdout != "done\n" || b.effects() != 1 {
		t.Fatalf("record %+v, error %v, %d effects", rec, err, b.effects())
	}
}

// The agent is killed at any moment, again and again: the command never runs
// twice, and its end is known, unless its supervisor was killed as well.
func TestAgentKilledAtAnyMoment(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for i := range 25 {
		b := newBench(t, effect+"sleep 0.05; exit 5")
		for range 3 {
			agent := b.agent()
			time.Sleep(time.Duration(random.IntN(80)) * time.Millisecond)
			agent.Process.Kill()
			agent.Wait()
		}
		rec, err := Run(t.Context(), b.job())
		if err != nil || rec.ExitCode != 5 || b.effects() != 1 {
			t.Fatalf("round %d: record %+v, error %v, %d effects", i, rec, err, b.effects())
		}
	}
}

func TestSupervisorKilled(t *testing.T) {
	b := newBench(t, effect+"setsid sleep 100 & sleep 100")
	agent := b.agent()
	eventually(t, "the command runs", func() bool { return b.effects() == 1 && b.record().Command.PID != 0 })
	syscall.Kill(b.record().Supervisor.PID, syscall.SIGKILL)
	agent.Wait()
	for range 2 {
		_, err := Run(t.Context(), b.job())
		var unknown *UnknownError
		if !errors.As(err, &unknown) || unknown.Reboot || b.effects() != 1 {
			t.Fatalf("error %v, %d effects; want unknown, and no second run", err, b.effects())
		}
	}
	job := b.job()
	job.Idempotent = true
	b.script = effect + "exit 4"
	job.Spec = func() (Spec, error) { return b.spec(), nil }
	rec, err := Run(t.Context(), job)
	if err != nil || rec.ExitCode != 4 || rec.Run != 2 || b.effects() != 2 {
		t.Fatalf("idempotent: record %+v, error %v, %d effects", rec, err, b.effects())
	}
}

// A command may kill its supervisor before that has noted whom it supervises: what it leaves is ended all the same.
func TestSupervisorKilledAtOnce(t *testing.T) {
	b := newBench(t, effect+"sleep 100 & sleep 100")
	agent := b.agent()
	eventually(t, "the command runs", func() bool { return b.effects() == 1 && b.record().Command.PID != 0 && len(b.processes()) > 2 })
	rec := b.record()
	rec.Command = journal.Process{}
	if err := b.job().Entry.SetRecord(rec); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(rec.Supervisor.PID, syscall.SIGKILL)
	agent.Wait()
	var unknown *UnknownError
	if _, err := Run(t.Context(), b.job()); !errors.As(err, &unknown) || unknown.Other || b.effects() != 1 {
		t.Fatalf("error %v, %d effects; want unknown", err, b.effects())
	}
	eventually(t, "nothing is left", func() bool { return len(b.processes()) == 0 })
}

func TestJournalOfAnotherBoot(t *testing.T) {
	b := newBench(t, effect)
	b.job().Entry.SetRecord(journal.Record{State: journal.Started, Run: 1, BootID: "another", Command: journal.Process{PID: os.Getpid(), Start: 1}})
	_, err := Run(t.Context(), b.job())
	var unknown *UnknownError
	if !errors.As(err, &unknown) || !unknown.Reboot || b.effects() != 0 {
		t.Fatalf("error %v, %d effects; want unknown after a restart of the node", err, b.effects())
	}
}

func TestAcceptedIsNotStarted(t *testing.T) {
	b := newBench(t, effect)
	b.job().Entry.SetRecord(journal.Record{State: journal.Accepted, Run: 1})
	rec, err := Run(t.Context(), b.job())
	if err != nil || rec.ExitCode != 0 || b.effects() != 1 {
		t.Fatalf("record %+v, error %v, %d effects; want it run, once", rec, err, b.effects())
	}
}

// What kept it from being started may have passed.
func TestNotStartedForLackOfSomething(t *testing.T) {
	b := newBench(t, effect)
	b.job().Entry.SetRecord(journal.Record{State: journal.Exited, Run: 1, ExitCode: 127, Error: "no space left on device", Passing: true})
	rec, err := Run(t.Context(), b.job())
	if err != nil || rec.ExitCode != 0 || rec.Error != "" || rec.Run != 2 || b.effects() != 1 {
		t.Fatalf("record %+v, error %v, %d effects; want it run, once", rec, err, b.effects())
	}
	if !passing(startError(&os.PathError{Op: "fork/exec", Path: "/bin/sh", Err: syscall.EAGAIN})) || passing(startError(&os.PathError{Err: syscall.ENOENT})) {
		t.Error("EAGAIN passes, ENOENT does not")
	}
}

// An agent died while it spoke to the supervisor, which then ends without having begun.
func TestSupervisorThatNeverBegan(t *testing.T) {
	b := newBench(t, effect)
	entry := b.job().Entry
	entry.SetRecord(journal.Record{State: journal.Accepted, Run: 1})
	lock, err := entry.TryLock(journal.LockRunning)
	if err != nil {
		t.Fatal(err)
	}
	supervisor := exec.Command("sleep", "0.5")
	supervisor.ExtraFiles = []*os.File{lock.File}
	if err := supervisor.Start(); err != nil {
		t.Fatal(err)
	}
	lock.Unlock()
	go supervisor.Wait()
	rec, err := Run(t.Context(), b.job())
	if err != nil || rec.ExitCode != 0 || b.effects() != 1 {
		t.Fatalf("record %+v, error %v, %d effects; want it run, once", rec, err, b.effects())
	}
}

func TestTwoAtOnce(t *testing.T) {
	b := newBench(t, effect+"sleep 0.2; exit 6")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if rec, err := Run(t.Context(), b.job()); err != nil || rec.ExitCode != 6 {
				t.Errorf("record %+v, error %v", rec, err)
			}
		})
	}
	wg.Wait()
	if n := b.effects(); n != 1 {
		t.Errorf("it ran %d times", n)
	}
}

func TestCancelEndsEveryProcess(t *testing.T) {
	tests := map[string]string{
		"children":              "sleep 100 & sleep 100 & wait",
		"grandchildren":         "(sleep 100; sleep 100) & bash -c 'sleep 100; true' & wait",
		"another session":       "setsid setsid sleep 100 & (setsid bash -c 'sleep 100 & sleep 100' &) ; sleep 100",
		"deaf to TERM":          "trap '' TERM; sleep 100 & while true; do sleep 1; done",
		"the command ends well": "trap 'exit 0' TERM; (trap '' TERM; sleep 100) & wait",
	}
	for name, script := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, effect+script)
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				eventually(t, "the command runs", func() bool { return len(b.processes()) > 1 && b.record().Command.PID != 0 })
				time.Sleep(100 * time.Millisecond)
				cancel()
			}()
			job := b.job()
			job.Spec = func() (Spec, error) {
				s := b.spec()
				s.Grace = 300 * time.Millisecond
				return s, nil
			}
			rec, err := Run(ctx, job)
			if err != nil || rec.Stopped != journal.Cancelled {
				t.Fatalf("record %+v, error %v", rec, err)
			}
			if left := b.processes(); len(left) > 0 {
				t.Errorf("still running: %v", left)
			}
			if name == "the command ends well" && rec.ExitCode != 0 {
				t.Errorf("exit code %d", rec.ExitCode)
			}
		})
	}
}

// The engine stops listening: who comes within the patience finds the command
// running, and else it is ended.
func TestAbandoned(t *testing.T) {
	for _, comes := range []bool{true, false} {
		t.Run(fmt.Sprintf("comes back %v", comes), func(t *testing.T) {
			b := newBench(t, effect+"until test -e go; do sleep 0.02; done; exit 8")
			ctx, cut := context.WithCancel(t.Context())
			job := b.job()
			job.Abandoned, job.Patience = func() bool { return true }, time.Second
			first := make(chan error, 1)
			var rec journal.Record
			go func() {
				var err error
				rec, err = Run(ctx, job)
				first <- err
			}()
			eventually(t, "the command runs", func() bool { return b.effects() == 1 && b.record().Command.PID != 0 })
			cut()
			if !comes {
				if err := <-first; err != nil || rec.Stopped != journal.Abandoned || len(b.processes()) > 0 {
					t.Fatalf("record %+v, error %v, processes %v", rec, err, b.processes())
				}
				return
			}
			second := make(chan journal.Record, 1)
			go func() {
				rec, _ := Run(t.Context(), b.job())
				second <- rec
			}()
			if err := <-first; !errors.Is(err, ErrSuperseded) {
				t.Fatalf("first: %v, want ErrSuperseded", err)
			}
			time.Sleep(1200 * time.Millisecond)
			os.WriteFile(filepath.Join(b.dir, "go"), nil, 0o600)
			if rec := <-second; rec.ExitCode != 8 || rec.Stopped != "" || b.effects() != 1 {
				t.Errorf("second: %+v, %d effects", rec, b.effects())
			}
		})
	}
}

// While nobody can come, patience does not run; it begins when somebody can.
func TestNobodyCanCome(t *testing.T) {
	b := newBench(t, effect+"sleep 100")
	ctx, cut := context.WithCancel(t.Context())
	job := b.job()
	var nobody atomic.Bool
	nobody.Store(true)
	job.Abandoned, job.Patience, job.Nobody = func() bool { return true }, time.Second, nobody.Load
	ended := make(chan journal.Record, 1)
	go func() {
		rec, err := Run(ctx, job)
		if err != nil {
			t.Error(err)
		}
		ended <- rec
	}()
	eventually(t, "the command runs", func() bool { return b.effects() == 1 && b.record().Command.PID != 0 })
	cut()
	select {
	case rec := <-ended:
		t.Fatalf("it was ended while nobody could come: %+v", rec)
	case <-time.After(2500 * time.Millisecond):
	}
	nobody.Store(false)
	back := time.Now()
	if rec := <-ended; rec.Stopped != journal.Abandoned || time.Since(back) < 800*time.Millisecond {
		t.Errorf("%+v after %v", rec, time.Since(back))
	}
}

func TestDeadlineHoldsWithoutAgent(t *testing.T) {
	b := newBench(t, effect+"sleep 100")
	job := b.job()
	job.Spec = func() (Spec, error) {
		s := b.spec()
		s.Deadline = time.Now().Add(500 * time.Millisecond)
		return s, nil
	}
	stopping := make(chan struct{})
	job.Stopping = stopping
	go func() {
		eventually(t, "the command runs", func() bool { return b.effects() == 1 })
		close(stopping)
	}()
	if _, err := Run(t.Context(), job); !errors.Is(err, ErrStopping) {
		t.Fatalf("error %v, want ErrStopping", err)
	}
	if len(b.processes()) == 0 {
		t.Fatal("the command did not go on")
	}
	rec, err := Run(t.Context(), b.job())
	if err != nil || rec.Stopped != journal.TimedOut || len(b.processes()) > 0 {
		t.Fatalf("record %+v, error %v, processes %v", rec, err, b.processes())
	}
}

func TestLeftoverMayGoOn(t *testing.T) {
	b := newBench(t, "sleep 100 & echo started")
	begin := time.Now()
	rec, err := Run(t.Context(), b.job())
	if err != nil || rec.ExitCode != 0 || rec.Stdout != "started\n" {
		t.Fatalf("record %+v, error %v", rec, err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	if len(b.processes()) != 1 {
		t.Errorf("processes %v, want the one left behind", b.processes())
	}
}

func TestNotStarted(t *testing.T) {
	b := newBench(t, "")
	job := b.job()
	job.Spec = func() (Spec, error) {
		s := b.spec()
		s.Argv = []string{"no-such-program"}
		return s, nil
	}
	rec, err := Run(t.Context(), job)
	if err != nil || !strings.Contains(rec.Error, "no-such-program: not found in PATH") {
		t.Fatalf("record %+v, error %v", rec, err)
	}
}

func TestLargeOutput(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 100 MB")
	}
	b := newBench(t, "head -c 100000000 /dev/zero | tr '\\0' x; seq 1 100000")
	job := b.job()
	job.Spec = func() (Spec, error) {
		s := b.spec()
		s.Mask = []string{"a-secret-that-does-not-occur"}
		return s, nil
	}
	var most int64
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			rec := b.record()
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", rec.Supervisor.PID))
			for line := range strings.Lines(string(status)) {
				if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok && rec.Supervisor.PID > 0 {
					n, _ := strconv.ParseInt(strings.Fields(kb)[0], 10, 64)
					most = max(most, n)
				}
			}
			select {
			case <-done:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	begin := time.Now()
	rec, err := Run(t.Context(), job)
	if err != nil || rec.ExitCode != 0 {
		t.Fatalf("record %+v, error %v", rec, err)
	}
	close(done)
	watching.Wait()
	if want := int64(100000000 + 588895); rec.Size != want {
		t.Errorf("size %d, want %d", rec.Size, want)
	}
	if len(rec.Stdout) > 5000 || !strings.HasSuffix(rec.Stdout, "\n99999\n100000\n") {
		t.Errorf("stdout of %d bytes ends %q", len(rec.Stdout), rec.Stdout[max(0, len(rec.Stdout)-40):])
	}
	t.Logf("%v, supervisor used %d KiB at most", time.Since(begin).Round(time.Millisecond), most)
	if most == 0 || most > 80<<10 {
		t.Errorf("the supervisor used %d KiB", most)
	}
}

func TestOutputLimit(t *testing.T) {
	b := newBench(t, "seq 1 100000")
	job := b.job()
	job.Spec = func() (Spec, error) {
		s := b.spec()
		s.MaxOutput = 10000
		return s, nil
	}
	rec, err := Run(t.Context(), job)
	if err != nil || rec.ExitCode != 0 || rec.Size != int64(10000+len(tooMuch)) || !strings.HasSuffix(b.log(), tooMuch) {
		t.Fatalf("record %+v, error %v, log ends %q", rec, err, b.log()[max(0, len(b.log())-50):])
	}
	if all := int64(588895); rec.Omitted != all-10000 { // seq's
		t.Errorf("omitted %d, want %d", rec.Omitted, all-10000)
	}
}

// Output is there to be read while the command runs, an unfinished line after a moment too.
func TestOutputIsLive(t *testing.T) {
	b := newBench(t, "echo one; printf two; until test -e go; do sleep 0.02; done")
	done := make(chan error, 1)
	go func() { _, err := Run(t.Context(), b.job()); done <- err }()
	eventually(t, "the output is there", func() bool { return b.log() == "one\ntwo" })
	os.WriteFile(filepath.Join(b.dir, "go"), nil, 0o600)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Nothing of a command's values is in a process list or on the disk.
func TestNothingToBeSeen(t *testing.T) {
	const canary = "canary-6b1f"
	b := newBench(t, "until test -e go; do sleep 0.02; done; echo $CANARY; cat")
	job := b.job()
	job.Spec = func() (Spec, error) {
		s := b.spec()
		s.Env = append(s.Env, "CANARY="+canary)
		s.Stdin = canary
		s.Mask = []string{canary}
		return s, nil
	}
	done := make(chan journal.Record, 1)
	go func() { rec, _ := Run(t.Context(), job); done <- rec }()
	eventually(t, "the command runs", func() bool { return b.record().Command.PID != 0 })
	rec := b.record()
	for _, name := range []string{"cmdline", "environ"} {
		for _, pid := range []int{rec.Supervisor.PID, rec.Command.PID} {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
			if strings.Contains(string(text), canary) && (pid != rec.Command.PID || name != "environ") {
				t.Errorf("%s of process %d holds the value", name, pid)
			}
		}
	}
	os.WriteFile(filepath.Join(b.dir, "go"), nil, 0o600)
	if rec := <-done; rec.Stdout != "***\n***" {
		t.Errorf("stdout %q", rec.Stdout)
	}
	filepath.WalkDir(b.dir, func(path string, d os.DirEntry, err error) error {
		if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), canary) {
			t.Errorf("%s holds the value", path)
		}
		return nil
	})
}

// What a command leaves behind and what then ends takes no place in the process
// table, however long the command runs.
func TestOrphansAreBuried(t *testing.T) {
	b := newBench(t, "for i in $(seq 100); do (true &); done; "+effect+"until test -e go; do sleep 0.02; done; exit 9")
	done := make(chan journal.Record, 1)
	go func() { rec, _ := Run(t.Context(), b.job()); done <- rec }()
	eventually(t, "the command runs", func() bool { return b.effects() == 1 })
	eventually(t, "no orphan is left", func() bool {
		zombies := 0
		for _, s := range processes() {
			if s.zombie && s.parent == b.record().Supervisor.PID {
				zombies++
			}
		}
		return zombies == 0
	})
	os.WriteFile(filepath.Join(b.dir, "go"), nil, 0o600)
	if rec := <-done; rec.ExitCode != 9 {
		t.Errorf("record %+v", rec)
	}
}

// A process that has the number of a command's group by now is left alone.
func TestNumbersOfOthers(t *testing.T) {
	other := exec.Command("setsid", "sh", "-c", "sleep 100 & wait")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Wait()
	defer syscall.Kill(-other.Process.Pid, syscall.SIGKILL)
	pid := other.Process.Pid
	members := func() (n int) {
		for _, s := range processes() {
			if s.group == pid && !s.zombie {
				n++
			}
		}
		return n
	}
	eventually(t, "it leads a group", func() bool { return members() == 2 })
	leader := process(pid)
	earlier := journal.Process{PID: pid, Start: leader.Start - 1}
	for name, rec := range map[string]journal.Record{
		"its leader was started later": {Supervisor: earlier, Command: earlier},
		"it is in another session":     {Supervisor: journal.Process{PID: 1}, Command: leader},
	} {
		b := newBench(t, effect)
		rec.State, rec.Run, rec.BootID = journal.Started, 1, bootID()
		b.job().Entry.SetRecord(rec)
		_, err := Run(t.Context(), b.job())
		var unknown *UnknownError
		if !errors.As(err, &unknown) || members() != 2 {
			t.Errorf("%s: error %v, %d of its 2 processes left", name, err, members())
		}
	}
}

func TestEndedBeforeItBegan(t *testing.T) {
	b := newBench(t, effect)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if rec, err := Run(ctx, b.job()); !errors.Is(err, context.Canceled) || b.effects() != 0 {
		t.Fatalf("record %+v, error %v, %d effects", rec, err, b.effects())
	}
	if rec, err := Run(t.Context(), b.job()); err != nil || rec.ExitCode != 0 || b.effects() != 1 {
		t.Fatalf("afterwards: record %+v, error %v, %d effects", rec, err, b.effects())
	}
}

// A supervisor that waits for its command may be killed while it waits.
func TestSpare(t *testing.T) {
	spareWaits := func() *helper {
		t.Helper()
		for range 100 {
			spare.Lock()
			h := spare.waiting
			spare.Unlock()
			if h != nil {
				return h
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Fatal("no supervisor waits")
		return nil
	}
	h := spareWaits()
	b := newBench(t, "echo one")
	if rec, err := Run(t.Context(), b.job()); err != nil || rec.ExitCode != 0 || rec.Supervisor.PID != h.cmd.Process.Pid {
		t.Errorf("record %+v, error %v; want it from the process that waited, %d", rec, err, h.cmd.Process.Pid)
	}
	next := spareWaits()
	if next == h {
		t.Error("a supervisor waits that had a command")
	}
	if err := next.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	b = newBench(t, "echo two")
	if rec, err := Run(t.Context(), b.job()); err != nil || rec.ExitCode != 0 || rec.Supervisor.PID == next.cmd.Process.Pid {
		t.Errorf("after it was killed: record %+v, error %v", rec, err)
	}
}

func TestMainIsRequired(t *testing.T) {
	mainCalled = false
	defer func() { mainCalled = true }()
	if _, err := Run(t.Context(), newBench(t, "true").job()); err == nil || !strings.Contains(err.Error(), "command.Main") {
		t.Fatalf("error %v", err)
	}
}
