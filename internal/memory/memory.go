// Package memory gives memory back that a process which mostly waits does not need.
//
// It gives GiveBack. It promises that what is given back comes again when it is
// needed, at the cost of reading it from the page cache.
package memory

import "runtime/debug"

// GiveBack returns to the system what is free of the heap, and the pages of the
// program, most of which only the start of a process needs.
func GiveBack() {
	debug.FreeOSMemory()
	forgetProgram()
}
