// Package command runs commands on a node so that nothing about them is lost.
//
// It gives Run: start a command, or come back to one that was started under the
// same token, and wait for how it ended. It promises that a command starts at most
// once per token (unless it is said to be idempotent), that it goes on when the
// agent is killed, upgraded or restarted, that its end is recorded all the
// same, and that cancelling it or its time-out ends every process it has made. It
// refuses to know Temporal, runbooks and what a command means.
//
// Each command has a supervisor: a process of the same program (see Main) in a
// session of its own, which starts the command, masks and keeps its output,
// ends it in time, and writes the record. One waits ready for the next command (see Ready). The supervisor holds the entry's lock
// LockRunning as long as it lives, from before it exists: an entry that is
// Started while nobody holds the lock is a command whose end nobody saw.
package command

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/almanac-run/almanac/internal/journal"
)

// Spec is a command to run. It goes to the supervisor through a pipe: nothing of it is
// seen in a process list or stays on the disk.
type Spec struct {
	Argv  []string // the program, by path or looked up in PATH of Env; Script's place is ScriptArg
	Env   []string // NAME=value; the command gets nothing else
	Dir   string
	Stdin string

	// Script is handed over as a file that exists in memory only; ScriptArg in
	// Argv becomes its path. Files are handed over likewise, each with its path in
	// the variable of that name.
	Script string
	Files  map[string]string

	Credential *Credential   // nil: as this process
	Deadline   time.Time     // when it is made to end; zero: never
	Grace      time.Duration // between asking it to end and killing it; 0 is 5 s

	Outputs   string   // directory of the output store
	Ref       string   // of the output
	MaxOutput int64    // bytes kept; 0 is 1 GiB
	Stdout    int      // bytes of standard output kept in the record
	Mask      []string // values that must not be in what is kept
}

// ScriptArg is what stands in Spec.Argv for the path of Spec.Script.
const ScriptArg = "\x00script"

// Credential is the user a command runs as.
type Credential struct {
	UID    uint32
	GID    uint32
	Groups []uint32
}

// Job is a command under its token.
type Job struct {
	Entry           journal.Entry
	Execution, Step string
	Input           string               // a digest of what is asked for, or "": a command that ran for something else is no answer
	Idempotent      bool                 // may be run again if nobody saw how it ended, or it ran for another Input
	Spec            func() (Spec, error) // called only if the command is to be started now

	// Stopping is closed when this process is about to end: Run then returns
	// ErrStopping and leaves the command alone. nil: never.
	Stopping <-chan struct{}

	// Abandoned is asked when ctx has ended: true means that nobody wants the
	// command to end, only that nobody listens at the moment. It is then ended if
	// no other Run has come for it within Patience. nil: never abandoned.
	Abandoned func() bool
	Patience  time.Duration // 0 is 25 s

	// Nobody tells whether nobody can come at present: Patience begins when it has
	// become false. nil: never.
	Nobody func() bool

	// Watch, if not nil, is called about once a second while the command runs.
	Watch func(journal.Record)
}

var errNotStarted = errors.New("the supervisor ended before it started the command")

// ErrNoMain is a mistake in the program that called Run.
var ErrNoMain = errors.New("this program cannot run commands: it does not call command.Main first")

// ErrSuperseded says that another Run waits for the command now.
var ErrSuperseded = errors.New("a later delivery of the same step waits for the command")

// ErrStopping says that the command goes on without us.
var ErrStopping = errors.New("the agent is stopping; the command goes on and is found again")

// UnknownError says that a command was started and nobody saw how it ended, or that
// another one was under this token.
type UnknownError struct {
	Record journal.Record
	Reboot bool // the node was restarted in the meantime
	Other  bool // it ran for another Input
}

func (e *UnknownError) Error() string {
	if e.Other {
		return "the node has run this step before, with other inputs (was the execution reset, or the server restored from a backup?); it was not run again"
	}
	why := "its supervisor was killed"
	if e.Reboot {
		why = "the node was restarted while it ran"
	}
	return "it is not known how the command ended: " + why + "; it was not run again"
}

// BootID differs after each restart of the machine; empty if the system does not tell.
func BootID() string { return bootID() }

// mainCalled guards against a program that forgets Main: starting it again as a
// supervisor would make it do its own work, without end.
var mainCalled bool

// newest knows the last Run of this process by entry: the one that the engine
// listens to. Runs are numbered in the order in which they come.
var newest struct {
	sync.Mutex
	last int
	runs map[string]int
}

func nextRun(dir string) int {
	newest.Lock()
	defer newest.Unlock()
	if newest.runs == nil {
		newest.runs = map[string]int{}
	}
	newest.last++
	newest.runs[dir] = newest.last
	return newest.last
}

func isNewest(dir string, run int) bool {
	newest.Lock()
	defer newest.Unlock()
	return newest.runs[dir] == run
}

func endRun(dir string, run int) {
	newest.Lock()
	defer newest.Unlock()
	if newest.runs[dir] == run {
		delete(newest.runs, dir)
	}
}

// Run starts job's command, unless its entry says that it was started before,
// and waits for its end. If ctx ends first the command is made to end, and the
// record that tells so is returned. Errors are ErrStopping, ErrSuperseded, ErrNoMain, *UnknownError,
// and what kept the command from being started, or us from seeing how it ended:
// after these Run may be called again.
func Run(ctx context.Context, job Job) (journal.Record, error) {
	run := nextRun(job.Entry.Dir())
	defer endRun(job.Entry.Dir(), run)
	for try := 1; ; try++ {
		exited, err := begin(ctx, job)
		if err != nil {
			return journal.Record{}, err
		}
		rec, err := wait(ctx, job, exited, run)
		// The supervisor may have been that of an agent which died while it spoke to it.
		if err == nil && job.other(rec) {
			return journal.Record{}, &UnknownError{Record: rec, Other: true}
		}
		if !errors.Is(err, errNotStarted) || try == 3 {
			return rec, err
		}
	}
}

// other tells whether a command ran for something else. Older agents did not note what for.
func (j Job) other(rec journal.Record) bool {
	return j.Input != "" && rec.Input != "" && j.Input != rec.Input
}

// begin makes sure that the command was started, and returns a channel that is
// closed when its supervisor has ended; nil if that is not our child.
func begin(ctx context.Context, job Job) (<-chan struct{}, error) {
	e := job.Entry
	use, err := e.Lock(journal.LockUse)
	if err != nil {
		return nil, err
	}
	defer use.Unlock()
	running, err := e.TryLock(journal.LockRunning)
	for i := 0; i < 5 && errors.Is(err, journal.ErrHeld); i++ {
		// Somebody who only looks holds it for a moment; a supervisor holds on.
		time.Sleep(2 * time.Millisecond)
		running, err = e.TryLock(journal.LockRunning)
	}
	if errors.Is(err, journal.ErrHeld) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer running.Unlock()
	rec, ok, err := e.Record()
	if err != nil {
		return nil, err
	}
	switch {
	case ok && rec.State == journal.Exited && !rec.Passing && !(job.Idempotent && job.other(rec)):
		return nil, nil
	case ok && rec.State == journal.Started && !job.Idempotent:
		return nil, unknown(rec)
	case ok && rec.State == journal.Started:
		killLeft(rec)
	}
	if err := ctx.Err(); err != nil {
		return nil, err // it ended while we waited for the lock: nothing is to begin now
	}
	if !mainCalled {
		return nil, ErrNoMain
	}
	spec, err := job.Spec()
	if err != nil {
		return nil, err
	}
	rec = journal.Record{
		Execution: job.Execution, Step: job.Step, Input: job.Input, State: journal.Accepted,
		Run: rec.Run + 1, BootID: bootID(), AcceptedAt: time.Now(), Ref: spec.Ref,
	}
	if err := e.Accept(rec); err != nil {
		return nil, err
	}
	return supervise(e, running, spec)
}

func unknown(rec journal.Record) error {
	// Its supervisor is gone, and nobody would end what is left of it.
	killLeft(rec)
	return &UnknownError{Record: rec, Reboot: rec.BootID != bootID()}
}

// wait waits for the end of a command that was started.
func wait(ctx context.Context, job Job, exited <-chan struct{}, run int) (journal.Record, error) {
	poll := 200 * time.Millisecond
	if exited != nil {
		poll = time.Second
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var told time.Time
	var patience <-chan time.Time
	bound := cmp.Or(job.Patience, 25*time.Second)
	for {
		if patience != nil && job.Nobody != nil && job.Nobody() {
			patience = time.After(bound)
		}
		if patience != nil && !isNewest(job.Entry.Dir(), run) {
			return journal.Record{}, ErrSuperseded
		}
		running, err := job.Entry.TryLock(journal.LockRunning)
		switch {
		case err == nil:
			rec, ok, err := job.Entry.Record()
			running.Unlock()
			switch {
			case err != nil:
				return journal.Record{}, err
			case ok && rec.State == journal.Exited:
				return rec, nil
			case ok && rec.State == journal.Started:
				return journal.Record{}, unknown(rec)
			}
			return journal.Record{}, errNotStarted
		case !errors.Is(err, journal.ErrHeld):
			return journal.Record{}, err
		}
		if job.Watch != nil && time.Since(told) >= time.Second {
			if rec, ok, err := job.Entry.Record(); ok && err == nil {
				job.Watch(rec)
			}
			told = time.Now()
		}
		select {
		case <-job.Stopping:
			return journal.Record{}, ErrStopping
		default:
		}
		select {
		case <-exited:
			exited = nil
			tick.Reset(20 * time.Millisecond)
		case <-tick.C:
		case <-job.Stopping:
			return journal.Record{}, ErrStopping
		case <-ctx.Done():
			select {
			case <-job.Stopping: // then that is why ctx ended
				return journal.Record{}, ErrStopping
			default:
			}
			if job.Abandoned != nil && job.Abandoned() {
				patience = time.After(bound)
			} else {
				sig := signalCancel
				if errors.Is(ctx.Err(), context.DeadlineExceeded) {
					sig = signalTimeout
				}
				if err := cancel(job.Entry, sig); err != nil {
					return journal.Record{}, err
				}
			}
			ctx = context.Background() // it has said what it had to say
			tick.Reset(100 * time.Millisecond)
		case <-patience:
			if err := cancel(job.Entry, signalAbandon); err != nil {
				return journal.Record{}, err
			}
		}
	}
}

// cancel asks the supervisor to end its command.
func cancel(e journal.Entry, sig syscall.Signal) error {
	// Between accepting and starting the record does not yet name the supervisor.
	for range 50 {
		rec, ok, err := e.Record()
		if err != nil {
			return err
		}
		if ok && rec.State != journal.Accepted {
			if alive(rec.Supervisor) {
				syscall.Kill(rec.Supervisor.PID, sig)
			}
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New("the supervisor does not say who it is")
}

const (
	signalCancel  = syscall.SIGUSR1
	signalTimeout = syscall.SIGUSR2
	signalAbandon = syscall.SIGALRM
)
