//go:build !unix

package simcloud

import "os/exec"

// inGroup does nothing: there are no process groups; the command itself is killed.
func inGroup(*exec.Cmd) {}
