//go:build !linux

package memory

// forgetProgram leaves it to the system what stays in memory.
func forgetProgram() {}
