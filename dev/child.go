package main

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"time"
)

// child is a process that does not outlive this one: it leads a process group, which ends with stop, and on Linux the
// kernel ends it when this process is killed.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; read it after done
}

func newChild(cmd *exec.Cmd) *child {
	cmd.SysProcAttr = childAttributes()
	cmd.WaitDelay = time.Second // for a pipe that a grandchild holds
	return &child{cmd: cmd, done: make(chan struct{})}
}

// start starts it. The thread that does must live as long as the child: it is whose death the kernel watches.
func (c *child) start() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			c.err = c.cmd.Wait()
			close(c.done)
		}
	}()
	return <-started
}

// stop asks the child's group to end, and after five seconds makes it. It may be called again.
func (c *child) stop() {
	if c.ended() {
		return
	}
	terminate(c.cmd.Process)
	select {
	case <-c.done:
	case <-time.After(5 * time.Second):
	}
	kill(c.cmd.Process) // what is left of the group
	<-c.done
}

func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// wait waits for its end, or ends it with ctx.
func (c *child) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		c.stop()
		return ctx.Err()
	case <-c.done:
	}
	if c.err != nil {
		return fmt.Errorf("%s: %w", line(c.cmd), c.err)
	}
	return nil
}
