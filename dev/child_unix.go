//go:build unix

package main

import (
	"os"
	"syscall"
)

// terminate and kill reach the whole group; that it is gone already is no error.
func terminate(p *os.Process) { _ = syscall.Kill(-p.Pid, syscall.SIGTERM) }
func kill(p *os.Process)      { _ = syscall.Kill(-p.Pid, syscall.SIGKILL) }
