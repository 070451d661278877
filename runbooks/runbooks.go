// Package runbooks is the library of runbooks that come with Almanac.
//
// It gives their names and sources, built into the programs, so that one is
// started by name with no file at hand. It promises that each compiles without
// a warning and does what the tests beside it show (NAME.test.yaml, NAME.txtar). It
// knows nothing of the language: a runbook is text here.
package runbooks

import (
	"embed"
	"fmt"
	"io/fs"
	"strings"
)

//go:embed */*.yaml
var files embed.FS

// tests are what NAME.test.yaml ends with.
const tests = ".test.yaml"

// Names lists the runbooks, sorted: "linux/run-command".
func Names() []string {
	paths, err := fs.Glob(files, "*/*.yaml") // sorted
	if err != nil {
		panic(err) // of the pattern
	}
	var names []string
	for _, p := range paths {
		if !strings.HasSuffix(p, tests) {
			names = append(names, strings.TrimSuffix(p, ".yaml"))
		}
	}
	return names
}

// Tests returns the text of the unit tests beside a runbook, and the file name
// by which messages call it. The error is fs.ErrNotExist if there are none.
func Tests(name string) (file string, source []byte, err error) {
	source, err = files.ReadFile(name + tests)
	if err != nil {
		return "", nil, fmt.Errorf("runbook %q comes without tests: %w", name, fs.ErrNotExist)
	}
	return "runbooks/" + name + tests, source, nil
}

// Source returns the text of a runbook, and the file name by which messages
// call it. The error is fs.ErrNotExist if there is none of that name.
func Source(name string) (file string, source []byte, err error) {
	source, err = files.ReadFile(name + ".yaml")
	if err != nil || strings.HasSuffix(name+".yaml", tests) {
		return "", nil, fmt.Errorf("no runbook %q comes with Almanac: %w", name, fs.ErrNotExist)
	}
	return "runbooks/" + name + ".yaml", source, nil
}
