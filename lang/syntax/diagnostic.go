package syntax

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/almanac-run/almanac/lang/program"
)

// Severity tells whether a Diagnostic stops the compiler.
type Severity string

// The severities.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Diagnostic is one mistake in a runbook, at its place. The message says what
// was found, what was expected and what would have been accepted.
type Diagnostic struct {
	Severity Severity    `json:"severity"`
	File     string      `json:"file"`
	Pos      program.Pos `json:"pos"`
	Width    int         `json:"width,omitempty"` // characters to underline; at least 1 is shown
	Code     string      `json:"code"`            // stable, kebab-case: "unknown-key"
	Message  string      `json:"message"`
}

// String returns "file:line:col: message", with "warning: " before a warning.
func (d Diagnostic) String() string {
	warn := ""
	if d.Severity == Warning {
		warn = "warning: "
	}
	return fmt.Sprintf("%s:%s: %s%s", d.File, d.Pos, warn, d.Message)
}

// Sort orders diagnostics by file, place and message.
func Sort(ds []Diagnostic) {
	slices.SortFunc(ds, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Pos.Line, b.Pos.Line),
			cmp.Compare(a.Pos.Col, b.Pos.Col), cmp.Compare(a.Message, b.Message))
	})
}
