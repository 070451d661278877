package command

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/almanac-run/almanac/internal/journal"
)

// executable is this program, even if its file was replaced by a newer one.
func executable() (string, error) { return "/proc/self/exe", nil }

var bootID = sync.OnceValue(func() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
})

// becomeReaper makes what the command leaves behind our child, so that it is found.
func becomeReaper() { unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// attributes: a group to signal, and an end with its supervisor.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// memoryFile is a file that is on no disk, and that any user can open by /dev/fd.
func memoryFile(name, content string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.WriteString(content); err != nil {
		f.Close()
		return nil, fmt.Errorf("file in memory: %w", err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		f.Close()
		return nil, err
	}
	unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK)
	return f, nil
}

// stat is what /proc says of a process.
type stat struct {
	parent, group, session int
	start                  uint64
	zombie                 bool
}

func readStat(pid int) (stat, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, false
	}
	// The name, in parentheses, may hold anything.
	i := strings.LastIndexByte(string(b), ')')
	if i < 0 {
		return stat{}, false
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 20 {
		return stat{}, false
	}
	s := stat{zombie: f[0] == "Z" || f[0] == "X"}
	s.parent, _ = strconv.Atoi(f[1])
	s.group, _ = strconv.Atoi(f[2])
	s.session, _ = strconv.Atoi(f[3])
	s.start, _ = strconv.ParseUint(f[19], 10, 64)
	return s, true
}

func process(pid int) journal.Process {
	s, _ := readStat(pid)
	return journal.Process{PID: pid, Start: s.start}
}

func self() journal.Process { return process(os.Getpid()) }

func alive(p journal.Process) bool {
	s, ok := readStat(p.PID)
	return ok && p.PID > 0 && s.start == p.Start && !s.zombie
}

func processes() map[int]stat {
	all := map[int]stat{}
	dir, _ := os.ReadDir("/proc")
	for _, d := range dir {
		if pid, err := strconv.Atoi(d.Name()); err == nil {
			if s, ok := readStat(pid); ok {
				all[pid] = s
			}
		}
	}
	return all
}

// tree returns the processes of the group pgid and all descendants of this
// process: since it is their reaper, what the command started is among them,
// however it has detached itself.
func tree(pgid int) []int {
	all := processes()
	me := os.Getpid()
	var pids []int
	for pid, s := range all {
		if s.zombie || pid == me {
			continue
		}
		ours := s.group == pgid
		for p, n := s.parent, 0; !ours && p > 1 && n < 1000; n++ {
			ours = p == me
			p = all[p].parent
		}
		if ours {
			pids = append(pids, pid)
		}
	}
	return pids
}

func killTree(pgid int, sig syscall.Signal) {
	syscall.Kill(-pgid, sig)
	for _, pid := range tree(pgid) {
		if s, ok := readStat(pid); ok && s.group != pgid {
			syscall.Kill(pid, sig)
		}
	}
}

func treeAlive(pgid int) bool { return len(tree(pgid)) > 0 }

// reap takes note of the ends of adopted processes. The command itself has ended before.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err != nil || pid <= 0 {
			return
		}
	}
}

// killLeft kills what is left of a command whose supervisor has died.
func killLeft(rec journal.Record) {
	if rec.BootID != bootID() || rec.Supervisor.PID <= 1 {
		return
	}
	// The numbers may be others' by now, after many processes or in another
	// container. A group and its session keep theirs while they have members; a
	// new one of the same number has a leader that was started later.
	leader, group := rec.Command, rec.Command.PID
	if group == 0 { // it killed its supervisor before that had noted it: all of the session is its
		leader = rec.Supervisor
	}
	for range 20 { // what is forked meanwhile is found the next time
		all, found := processes(), false
		if p, ok := all[leader.PID]; ok && p.start != leader.Start {
			return
		}
		for pid, s := range all {
			if s.session == rec.Supervisor.PID && (group == 0 || s.group == group) && s.start >= leader.Start && !s.zombie {
				syscall.Kill(pid, syscall.SIGKILL)
				found = true
			}
		}
		if !found {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}
