package command

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/almanac-run/almanac/internal/journal"
	"github.com/almanac-run/almanac/internal/memory"
)

// helper is a supervisor that waits for its command, as it is seen from the
// process that started it.
type helper struct {
	cmd   *exec.Cmd
	to    *os.File // socket: the lock's share, then a handover; its end tells it to go
	ready *os.File // one byte says that it has its command; the end of the file, that it has died
	done  chan struct{}
}

// handover is what a supervisor gets to work on. Not JSON: values need not be UTF-8.
type handover struct {
	Dir  string // of the entry
	Spec Spec
}

// spare is the supervisor that waits for the next command: to make a process of
// this program ready takes ten times as long as all that it has to do until a
// command runs. It ends with this process.
var spare struct {
	sync.Mutex
	waiting *helper
	wanted  bool // Ready was called
}

// spareAfter lets a command begin before the next spare is made ready.
const spareAfter = 100 * time.Millisecond

// Ready keeps a supervisor ready from now on, so that a command on an idle
// node begins at once. It costs some megabytes.
func Ready() {
	spare.Lock()
	spare.wanted = true
	spare.Unlock()
	makeSpare()
}

func makeSpare() {
	spare.Lock()
	defer spare.Unlock()
	if !spare.wanted || spare.waiting != nil {
		return
	}
	if h, err := startHelper(modeSpare); err == nil { // else the next command starts one
		spare.waiting = h
	}
}

// takeHelper returns the spare, or starts a supervisor.
func takeHelper() (*helper, error) {
	spare.Lock()
	h := spare.waiting
	spare.waiting = nil
	wanted := spare.wanted
	spare.Unlock()
	if wanted {
		time.AfterFunc(spareAfter, makeSpare)
	}
	if h != nil {
		select {
		case <-h.done: // somebody killed it
			h.close()
		default:
			return h, nil
		}
	}
	return startHelper(modeNow)
}

func (h *helper) close() {
	h.to.Close()
	h.ready.Close()
}

func startHelper(mode string) (*helper, error) {
	exe, err := executable()
	if err != nil {
		return nil, err
	}
	// No other process that is started at this moment may get them.
	syscall.ForkLock.RLock()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(pair[0])
		unix.CloseOnExec(pair[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("start the supervisor: %w", err)
	}
	h := &helper{to: os.NewFile(uintptr(pair[0]), "supervisor"), done: make(chan struct{})}
	its := os.NewFile(uintptr(pair[1]), "agent")
	defer its.Close()
	var says *os.File
	if h.ready, says, err = os.Pipe(); err != nil {
		h.to.Close()
		return nil, err
	}
	defer says.Close()
	h.cmd = exec.Command(exe, subcommand, mode)
	h.cmd.Args[0] = supervisorName
	h.cmd.Env = []string{"GOTRACEBACK=single"} // whatever is in our environment is not for others to see
	h.cmd.Dir = "/"
	h.cmd.Stdin, h.cmd.Stdout = its, says
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := h.cmd.Start(); err != nil {
		h.close()
		return nil, fmt.Errorf("start the supervisor: %w", err)
	}
	go func() {
		h.cmd.Wait()
		close(h.done)
	}()
	return h, nil
}

// supervise gives a supervisor spec and its share of the lock, and returns when it
// has them, or has died: then the record says how far it came.
func supervise(e journal.Entry, running *journal.Lock, spec Spec) (<-chan struct{}, error) {
	h, err := takeHelper()
	if err != nil {
		return nil, err
	}
	defer h.close()
	err = unix.Sendmsg(int(h.to.Fd()), []byte{0}, unix.UnixRights(int(running.File.Fd())), nil, 0)
	if err == nil {
		err = gob.NewEncoder(h.to).Encode(handover{e.Dir(), spec})
	}
	if err == nil {
		h.ready.SetReadDeadline(time.Now().Add(30 * time.Second))
		_, err = h.ready.Read(make([]byte, 1))
	}
	if err != nil {
		h.cmd.Process.Kill()
		<-h.done
	}
	return h.done, nil
}

// receive waits for a command, and returns it with the file whose lock it holds
// as long as this process lives. The error is io.EOF if the agent has ended.
func receive(from *os.File) (handover, *os.File, error) {
	var h handover
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	for {
		var err error
		if n, oobn, _, _, err = unix.Recvmsg(int(from.Fd()), b, oob, 0); err == nil {
			break
		} else if !errors.Is(err, unix.EINTR) {
			return h, nil, err
		}
	}
	if n == 0 {
		return h, nil, io.EOF
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return h, nil, errors.Join(errors.New("no lock was handed over"), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return h, nil, errors.Join(errors.New("no lock was handed over"), err)
	}
	unix.CloseOnExec(fds[0]) // ours as long as we live, not the command's
	lock := os.NewFile(uintptr(fds[0]), "lock")
	return h, lock, gob.NewDecoder(from).Decode(&h)
}

// The modes of a supervisor: with a command that is there, and before there is one.
const (
	modeNow   = "now"
	modeSpare = "spare"
)

// rest does in advance, if there is time for it, what is done once in a process,
// and gives back what that and the start have touched: a spare may wait for weeks.
func rest(mode string) {
	if mode != modeSpare {
		return
	}
	_, _ = os.FindProcess(os.Getpid()) // finds out, by a process, whether the kernel has handles of processes
	var b bytes.Buffer
	_ = gob.NewEncoder(&b).Encode(handover{Spec: Spec{Argv: []string{"x"}, Credential: &Credential{}, Deadline: time.Now()}})
	_ = gob.NewDecoder(&b).Decode(&handover{})
	memory.GiveBack()
}
