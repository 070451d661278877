package packages

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is all that a tool is told: no questions, no other language than the one we read.
var environment = []string{
	"PATH=" + path, "HOME=/root", "LC_ALL=C", "LANG=C",
	"DEBIAN_FRONTEND=noninteractive", "DEBIAN_PRIORITY=critical", "APT_LISTCHANGES_FRONTEND=none",
	"NEEDRESTART_MODE=l", "UCF_FORCE_CONFFOLD=1",
}

// system is a machine, or a directory that stands for one.
type system struct {
	root    string // empty: the machine itself
	foreign bool   // the root has no tools of its own: the machine's work on it
	release map[string]string
	environ []string // what its tools are told; nil: environment
}

// in returns the path of one of the system's files. Links are not resolved: it
// is for paths that only the system's administrator can change.
func (s system) in(name string) string { return filepath.Join("/", s.root, name) }

func (s system) has(tool string) bool {
	for dir := range strings.SplitSeq(path, ":") {
		if info, err := os.Stat(filepath.Join(s.in(dir), tool)); err == nil && info.Mode()&0o111 != 0 {
			return true
		}
	}
	return false
}

// argv is how a tool of the system is started. A tool that is not the root's own
// gets rootOption, and works on the root from outside.
func (s system) argv(rootOption, tool string, args ...string) []string {
	switch {
	case s.root == "":
		return append([]string{tool}, args...)
	case s.foreign:
		return append([]string{tool, rootOption + s.root}, args...)
	}
	return append([]string{"chroot", s.root, tool}, args...)
}

func (s system) command(argv []string) Command { return Command{Argv: argv, Env: environment} }

// mostOutput bounds what a tool may print that is asked something.
const mostOutput = 64 << 20

// result is how a tool ended.
type result struct {
	code   int
	stdout string
	all    string // the end of both streams, for messages
}

// ask runs a tool that only looks, to its end.
func (s system) ask(ctx context.Context, limit time.Duration, argv []string) (result, error) {
	asked := ctx
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = environment, "/"
	if s.environ != nil {
		cmd.Env, cmd.Dir = s.environ, ""
	}
	out, tail := &capped{most: mostOutput, cancel: cancel}, &tail{}
	cmd.Stdout, cmd.Stderr = io.MultiWriter(out, tail), tail
	// A group of its own: what it has started ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	r := result{stdout: out.String(), all: tail.String()}
	var exit *exec.ExitError
	switch {
	case out.over:
		return r, fmt.Errorf("%s printed more than %d MiB", filepath.Base(argv[0]), mostOutput>>20)
	case asked.Err() != nil:
		return r, asked.Err()
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return r, fmt.Errorf("%s did not end within %s: %s", strings.Join(argv[:min(len(argv), 4)], " "), limit, complaint(r.all))
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return r, err
	}
	return r, nil
}

// patience is how long is waited for another program that uses the package manager.
var patience = 5 * time.Minute

// refresh asks until the tool is not kept away by another program any more.
func (s system) refresh(ctx context.Context, explain func(result) error, argv []string) (result, error) {
	for begin := time.Now(); ; {
		r, err := s.ask(ctx, 10*time.Minute, argv)
		if err == nil {
			err = explain(r)
		}
		if !errors.Is(err, ErrBusy) || time.Since(begin) > patience {
			return r, err
		}
		select {
		case <-ctx.Done():
			return r, err // who holds it is worth more than that we were told to end
		case <-time.After(min(2*time.Second, patience/4)):
		}
	}
}

func (s system) osRelease() map[string]string {
	release := map[string]string{}
	f, err := os.OpenInRoot(s.in("."), "etc/os-release")
	if err != nil {
		f, err = os.OpenInRoot(s.in("."), "usr/lib/os-release") // the former is often a link
	}
	if err != nil {
		return release
	}
	defer f.Close()
	for lines := bufio.NewScanner(io.LimitReader(f, 64<<10)); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), "="); ok {
			release[key] = strings.Trim(value, `"'`)
		}
	}
	return release
}

// capped keeps what is written up to a limit; beyond it, it ends the writer.
type capped struct {
	bytes.Buffer
	most   int
	over   bool
	cancel func()
}

func (c *capped) Write(p []byte) (int, error) {
	if c.Len()+len(p) > c.most {
		if !c.over {
			c.over = true
			c.cancel()
		}
		return len(p), nil
	}
	return c.Buffer.Write(p)
}

// tail keeps the last 16 KiB. Both of a tool's streams write to it, each from its own goroutine.
type tail struct {
	sync.Mutex
	kept []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.Lock()
	defer t.Unlock()
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - 16<<10; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.Lock()
	defer t.Unlock()
	return string(t.kept)
}
