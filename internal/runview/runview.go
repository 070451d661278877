// Package runview renders an execution for people and for machines.
//
// It gives the table that a terminal redraws (Table, Screen), the plain lines
// and JSON events of everything else (Follower, Event), the report of how an
// execution ended (Ending), and the source line and caret of a mistake
// (Diagnostics). It promises that the same View gives the same text, that no
// line is wider than asked, and that nothing which came from a node or a remote
// system can move the cursor or colour the screen. It knows no server: it is
// given workflows.View values, wherever they come from.
package runview

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/text"
)

// Options say how to render.
type Options struct {
	Color   bool
	Width   int       // columns; 0: 120
	Height  int       // lines; 0: no limit. Table folds finished and coming steps to fit.
	Now     time.Time // what running steps and deadlines are measured against
	Program string    // how the reader calls the CLI, for the commands shown: "starter", "temporal runbook"

	// Source returns the text of a runbook's file, or nil if there is none, or
	// none that surely is what was compiled. May be nil.
	Source func(file string) []byte
}

func (o Options) width() int {
	if o.Width <= 0 {
		return 120
	}
	return max(o.Width, 20)
}

// Execution names an execution. Either field may be empty.
type Execution struct {
	ID  string `json:"id,omitempty"`
	URL string `json:"url,omitempty"` // its page in the Web UI
}

// paint colours s if colours are wanted.
func (o Options) paint(s string, colors ...text.Color) string {
	if !o.Color || s == "" || len(colors) == 0 {
		return s
	}
	return text.Escape(s, text.Colors(colors).EscapeSeq())
}

// Clean makes text from elsewhere safe to show: line breaks and tabs stay,
// every other control character and invalid byte is replaced.
func Clean(s string) string {
	s = strings.ReplaceAll(s, "\r\n", "\n")
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case unicode.IsControl(r), r == unicode.ReplacementChar, unicode.Is(unicode.Bidi_Control, r):
			return '\uFFFD'
		}
		return r
	}, s)
}

// line is Clean on one line: breaks and tabs become spaces.
func line(s string) string {
	return strings.Join(strings.FieldsFunc(Clean(s), func(r rune) bool { return r == '\n' || r == '\t' }), " ")
}

// clip shortens s, which may hold colours, to width columns.
func clip(s string, width int) string {
	if text.StringWidthWithoutEscSequences(s) <= width {
		return s
	}
	return text.Snip(s, width, "…")
}

// Elapsed writes a duration as people read it: 0.4s, 12s, 4m10s, 2h05m, 3d4h.
func Elapsed(d time.Duration) string {
	switch {
	case d < 0:
		return "0.0s"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}

// Quote makes s one word of a POSIX shell's command line.
func Quote(s string) string {
	if s != "" && strings.IndexFunc(s, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("_-./:@%+=,", r)
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
