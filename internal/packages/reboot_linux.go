package packages

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// rebootPending tells whether the machine waits for a restart: because a
// package said so, or because a kernel was installed since the last one.
func (s system) rebootPending(ctx context.Context) (bool, error) {
	for _, mark := range []string{"run/reboot-required", "run/reboot-needed"} {
		if _, err := os.Lstat(s.in(mark)); err == nil {
			return true, nil
		}
	}
	if s.root != "" {
		return false, nil // its kernel, and what runs, are the machine's
	}
	if s.has("needs-restarting") {
		r, err := s.ask(ctx, 2*time.Minute, []string{"needs-restarting", "-r"})
		if err != nil {
			return false, err
		}
		if r.code == 1 {
			return true, nil
		}
	}
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return false, nil // it does not tell when it was started
	}
	kernels, _ := filepath.Glob("/boot/vmlinuz-*") // the pattern is right
	return newer(kernels, bootTime(string(stat))), nil
}

func bootTime(stat string) time.Time {
	for line := range strings.Lines(stat) {
		if rest, ok := strings.CutPrefix(line, "btime "); ok {
			if seconds, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64); err == nil {
				return time.Unix(seconds, 0)
			}
		}
	}
	return time.Time{}
}

// newer tells whether one of the files came after that time. Their change time
// counts: the modification time is that of whoever built the package.
func newer(files []string, than time.Time) bool {
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil || than.IsZero() {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && time.Unix(st.Ctim.Unix()).After(than) {
			return true
		}
	}
	return false
}
