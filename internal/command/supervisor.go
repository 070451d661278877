package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/almanac-run/almanac/internal/journal"
	"github.com/almanac-run/almanac/internal/output"
	"github.com/almanac-run/almanac/internal/secret"
)

// How a supervisor is called.
const (
	supervisorName = "almanac"
	subcommand     = "exec-command"
)

// Main must be the first thing that a program does that runs commands: it says
// that the program knows of the other role that copies of it have.
func Main() { mainCalled = true }

// A supervisor begins here, and exits: before main, and before the packages are
// made ready that an agent speaks to its server with. They take several times as long
// as all that a supervisor has to do until its command runs.
func init() {
	if len(os.Args) != 3 || os.Args[0] != supervisorName || os.Args[1] != subcommand {
		return
	}
	// On Linux the kernel ends the command when the thread that started it ends.
	runtime.LockOSThread()
	os.Exit(superviseMain(os.Args[2]))
}

func superviseMain(mode string) int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, signalCancel, signalTimeout, signalAbandon, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	// Whoever waits for our word may have died: that must not end us. Caught and
	// not ignored, because what is ignored stays so in the command.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	rest(mode)
	handed, lock, err := receive(os.Stdin)
	if err != nil {
		return 1 // the agent died, perhaps while it spoke: nothing has run
	}
	defer runtime.KeepAlive(lock)
	e, spec := journal.At(handed.Dir), handed.Spec
	rec, ok, err := e.Record()
	if err != nil || !ok {
		return 1
	}
	becomeReaper()
	rec.State, rec.StartedAt = journal.Started, time.Now()
	rec.Supervisor = self()
	outputs := output.Dir(spec.Outputs)
	rec.Offset, err = outputs.Size(spec.Ref)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail(e, rec, err)
	}
	// From here on the command may have run.
	if err := e.SetRecord(rec); err != nil {
		return 1
	}
	os.Stdout.Write([]byte{'.'})
	os.Stdout.Close()
	// Else a command that fills the disk with its output would end unknown.
	_ = os.WriteFile(e.File(reserveFile), make([]byte, reserveSize), 0o600)
	err = run(e, &rec, spec, outputs, signals)
	_ = os.Remove(e.File(reserveFile))
	if err != nil {
		return fail(e, rec, err)
	}
	rec.State, rec.EndedAt = journal.Exited, time.Now()
	// A disk that is full at this moment must not make the end unknown.
	for range 60 {
		if err = e.SetRecord(rec); err == nil {
			return 0
		}
		time.Sleep(time.Second)
	}
	return 1
}

// reserveFile keeps space for the record of the end, which is at most that long.
const (
	reserveFile = "reserve"
	reserveSize = 32 << 10
)

// fail records that the command was not started.
func fail(e journal.Entry, rec journal.Record, err error) int {
	rec.State, rec.EndedAt, rec.Error = journal.Exited, time.Now(), err.Error()
	rec.ExitCode, rec.Passing = 127, passing(err)
	if e.SetRecord(rec) != nil {
		return 1
	}
	return 0
}

// passing tells whether the node only lacks something at this moment.
func passing(err error) bool {
	return slices.ContainsFunc([]error{
		syscall.ENOSPC, syscall.EDQUOT, syscall.ENOMEM, syscall.EAGAIN, syscall.EMFILE, syscall.ENFILE, syscall.EIO, syscall.ETXTBSY,
	}, func(e error) bool { return errors.Is(err, e) })
}

// run starts the command and waits for its end. It fills rec; an error means
// that the command was not started.
func run(e journal.Entry, rec *journal.Record, spec Spec, outputs output.Store, signals <-chan os.Signal) error {
	w, err := outputs.Append(spec.Ref)
	if err != nil {
		return err
	}
	defer w.Close()
	var masker secret.Masker
	for _, value := range spec.Mask {
		masker.Add(value)
	}
	limit := spec.MaxOutput
	if limit <= 0 {
		limit = 1 << 30
	}
	log := &log{w: w, left: limit}
	excerpt := &output.Excerpt{Head: spec.Stdout / 2, Tail: spec.Stdout - spec.Stdout/2}
	stdout := newStream(&masker, log, excerpt)
	stderr := newStream(&masker, log, nil)

	cmd, files, err := prepare(spec)
	if err != nil {
		return err
	}
	// Pipes of our own: what the command leaves behind may hold them open, and
	// must not hold us.
	outR, outW, err := os.Pipe()
	if err != nil {
		return err
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = outW, errW
	err = cmd.Start()
	outW.Close()
	errW.Close()
	for _, f := range files {
		f.Close()
	}
	if err != nil {
		return startError(err)
	}
	rec.Command = process(cmd.Process.Pid)
	recorded := e.SetRecord(*rec)

	var copying sync.WaitGroup
	copying.Go(func() { io.Copy(stdout, outR) })
	copying.Go(func() { io.Copy(stderr, errR) })
	drained := make(chan struct{})
	go func() { copying.Wait(); close(drained) }()
	flushing := time.NewTicker(250 * time.Millisecond)
	defer flushing.Stop()

	exited := make(chan syscall.WaitStatus, 1)
	go func() { exited <- await(rec.Command.PID) }()
	deadline := after(spec.Deadline)
	var kill <-chan time.Time
	grace := spec.Grace
	if grace <= 0 {
		grace = 5 * time.Second
	}
	end := func(why journal.Reason) {
		if rec.Stopped == "" {
			rec.Stopped = why
			killTree(rec.Command.PID, syscall.SIGTERM)
			kill = time.After(grace)
		}
	}
	if recorded != nil {
		// Without a record of the process nobody could find it after us.
		end(journal.Terminated)
	}
	var status syscall.WaitStatus
	for waiting := true; waiting; {
		select {
		case status = <-exited:
			waiting = false
		case <-deadline:
			end(journal.TimedOut)
		case sig := <-signals:
			switch sig {
			case signalCancel:
				end(journal.Cancelled)
			case signalTimeout:
				end(journal.TimedOut)
			case signalAbandon:
				end(journal.Abandoned)
			case syscall.SIGHUP:
			default:
				end(journal.Terminated)
			}
		case <-kill:
			kill = time.After(again)
			killTree(rec.Command.PID, syscall.SIGKILL)
		case <-flushing.C:
			stdout.tick()
			stderr.tick()
		}
	}
	if rec.Stopped != "" {
		// The command has ended; what it started may not have.
		if !endTree(rec.Command.PID, kill) {
			log.write([]byte(notEnded))
		}
	}
	// What it left running on purpose may hold the pipes: its output is no longer ours.
	select {
	case <-drained:
	case <-time.After(time.Second):
	}
	outR.Close()
	errR.Close()
	<-drained
	stdout.flush()
	stderr.flush()
	rec.ExitCode = exitCode(status)
	rec.Stdout = excerpt.Text()
	rec.Size, rec.Omitted = log.written, log.omitted
	if err := errors.Join(log.err, w.Sync()); err != nil {
		// The command ran: that its output was lost is said where it would have stood.
		rec.Stdout = strings.TrimLeft(rec.Stdout+"\n(output could not be kept: "+err.Error()+")", "\n")
	}
	return nil
}

// await waits for the end of the process pid, and buries every other child that
// ends before: what the command leaves behind becomes ours (see becomeReaper),
// and a command that runs for months may leave much.
func await(pid int) syscall.WaitStatus {
	for {
		var status syscall.WaitStatus
		switch ended, err := syscall.Wait4(-1, &status, 0, nil); {
		case ended == pid:
			return status
		case err != nil && err != syscall.EINTR:
			return 127 << 8
		}
	}
}

// again is how soon after a kill the next follows, for what was made in the meantime.
const again = 100 * time.Millisecond

const notEnded = "\nalmanac: some of the command's processes cannot be ended, and were left running\n"

// endTree ends what is left of a command that was made to end. It gives up on
// what does not end when killed: a process that waits for a dead disk, or one
// that belongs to another user (sudo).
func endTree(pgid int, kill <-chan time.Time) bool {
	for kills := 0; treeAlive(pgid); reap() {
		select {
		case <-kill:
			if kills++; kills > 100 {
				return false
			}
			kill = time.After(again)
			killTree(pgid, syscall.SIGKILL)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return true
}

func after(t time.Time) <-chan time.Time {
	if t.IsZero() {
		return nil
	}
	return time.After(time.Until(t))
}

func exitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// startError drops what os/exec says of files that the reader does not know.
func startError(err error) error {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return fmt.Errorf("%s: %w", pathErr.Path, pathErr.Err)
	}
	return err
}

// prepare makes the command, and the files it is handed, which are to be closed
// once it has started.
func prepare(spec Spec) (*exec.Cmd, []*os.File, error) {
	if len(spec.Argv) == 0 {
		return nil, nil, errors.New("no command")
	}
	env := slices.Clone(spec.Env)
	var files []*os.File
	hand := func(name, content string) (string, error) {
		f, err := memoryFile(name, content)
		if err != nil {
			return "", err
		}
		files = append(files, f)
		return fmt.Sprintf("/dev/fd/%d", 2+len(files)), nil
	}
	argv := slices.Clone(spec.Argv)
	for i, arg := range argv {
		if arg == ScriptArg {
			name, err := hand("script", spec.Script)
			if err != nil {
				return nil, nil, err
			}
			argv[i] = name
		}
	}
	for _, name := range sortedKeys(spec.Files) {
		file, err := hand("value", spec.Files[name])
		if err != nil {
			return nil, nil, err
		}
		env = append(env, name+"="+file)
	}
	prog, err := lookPath(argv[0], spec.Env)
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(context.Background(), prog, argv[1:]...)
	cmd.Env, cmd.Dir, cmd.ExtraFiles = env, spec.Dir, files
	if spec.Stdin != "" {
		// A file and not a pipe: nobody has to stay to write it.
		f, err := memoryFile("stdin", spec.Stdin)
		if err != nil {
			return nil, nil, err
		}
		cmd.Stdin = f
		files = append(files, f)
	}
	cmd.SysProcAttr = attributes()
	if c := spec.Credential; c != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.UID, Gid: c.GID, Groups: c.Groups}
	}
	return cmd, files, nil
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// lookPath finds a program as the command itself would, by the PATH it gets.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := ""
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	if file := find(name, path); file != "" {
		return file, nil
	}
	return "", fmt.Errorf("%s: not found in PATH (%s)", name, path)
}

// Find tells whether a program of that name is in path, a list as PATH's.
func Find(name, path string) bool { return find(name, path) != "" }

func find(name, path string) string {
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file
		}
	}
	return ""
}

// log is the one output file that both streams write to.
type log struct {
	mu      sync.Mutex
	w       io.Writer
	left    int64
	written int64
	omitted int64 // above the limit
	err     error // the first
}

const tooMuch = "\nalmanac: the output is too large; the rest is left out\n"

func (l *log) write(p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left <= 0 {
		l.omitted += int64(len(p))
		return
	}
	if l.err != nil || len(p) == 0 {
		return
	}
	if l.left -= int64(len(p)); l.left <= 0 {
		l.omitted = -l.left
		p = append(p[:len(p)+int(l.left):len(p)+int(l.left)], tooMuch...)
	}
	n, err := l.w.Write(p)
	l.written += int64(n)
	l.err = err
}

// stream takes one of the command's streams to the log: masked, and line by
// line, so that the lines of two streams do not get mixed up.
type stream struct {
	mu      sync.Mutex
	mask    *secret.Writer
	log     *log
	excerpt *output.Excerpt // may be nil
	line    []byte          // masked, not yet in the log
	quiet   bool            // nothing came since the last tick
}

func newStream(m *secret.Masker, l *log, e *output.Excerpt) *stream {
	s := &stream{log: l, excerpt: e}
	s.mask = m.Writer(lineWriter{s})
	return s
}

const maxLine = 32 << 10

// Write never fails: a command is not stopped because its output cannot be kept.
func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quiet = false
	s.mask.Write(p)
	return len(p), nil
}

type lineWriter struct{ s *stream }

func (w lineWriter) Write(p []byte) (int, error) {
	s := w.s
	if s.excerpt != nil {
		s.excerpt.Write(p)
	}
	s.line = append(s.line, p...)
	end := len(s.line)
	if end < maxLine {
		for end > 0 && s.line[end-1] != '\n' {
			end--
		}
	}
	s.log.write(s.line[:end])
	s.line = append(s.line[:0], s.line[end:]...)
	return len(p), nil
}

// tick writes a line that is not complete (a prompt, a progress bar) once
// nothing more came for a moment.
func (s *stream) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.quiet && len(s.line) > 0 {
		s.log.write(s.line)
		s.line = s.line[:0]
	}
	s.quiet = true
}

func (s *stream) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mask.Flush()
	s.log.write(s.line)
	s.line = nil
}
