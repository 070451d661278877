//go:build unix && !linux

package command

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/almanac-run/almanac/internal/journal"
)

func executable() (string, error) { return os.Executable() }

// bootID is unknown here: an entry whose supervisor is gone is unknown anyway.
func bootID() string { return "" }

func becomeReaper() {}

func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// memoryFile is a file without a name.
func memoryFile(_, content string) (*os.File, error) {
	f, err := os.CreateTemp("", "almanac-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err == nil {
		_, err = f.WriteString(content)
	}
	if err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func process(pid int) journal.Process { return journal.Process{PID: pid} }

func self() journal.Process { return process(os.Getpid()) }

func alive(p journal.Process) bool { return p.PID > 1 && unix.Kill(p.PID, 0) == nil }

func killTree(pgid int, sig syscall.Signal) { syscall.Kill(-pgid, sig) }

func treeAlive(pgid int) bool { return unix.Kill(-pgid, 0) == nil }

func reap() {}

// killLeft does nothing: the number may be another group's by now.
func killLeft(journal.Record) {}
