package runview

import (
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/text"
)

// Screen redraws text in place on a terminal. Use it from one goroutine.
type Screen struct {
	w     io.Writer
	lines int
	last  string
}

// NewScreen returns a Screen that draws on w from the cursor's line down.
func NewScreen(w io.Writer) *Screen { return &Screen{w: w} }

// Draw replaces what was drawn before by content, which ends with a line
// break, on a terminal of width columns. It hides the cursor until Close.
func (s *Screen) Draw(content string, width int) {
	if content == s.last {
		return
	}
	var b strings.Builder
	if s.last == "" {
		b.WriteString("\x1b[?25l")
	}
	if s.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.lines)
	}
	// Each line is overwritten and its rest erased: clearing first would flicker.
	b.WriteString("\r")
	b.WriteString(strings.ReplaceAll(content, "\n", "\x1b[K\n"))
	b.WriteString("\x1b[J")
	s.lines = 0
	for l := range strings.Lines(content) {
		w := text.StringWidthWithoutEscSequences(strings.TrimSuffix(l, "\n"))
		s.lines += max(1, (w+width-1)/max(width, 1)) // a link or a command may take several
	}
	s.last = content
	_, _ = io.WriteString(s.w, b.String())
}

// Clear erases what was drawn, so that other text can stand there.
func (s *Screen) Clear() {
	if s.last == "" {
		return
	}
	if s.lines > 0 {
		_, _ = fmt.Fprintf(s.w, "\x1b[%dA", s.lines)
	}
	_, _ = io.WriteString(s.w, "\r\x1b[J\x1b[?25h")
	s.lines, s.last = 0, ""
}

// Close leaves what was drawn and shows the cursor again.
func (s *Screen) Close() {
	if s.last == "" {
		return
	}
	_, _ = io.WriteString(s.w, "\x1b[?25h")
	s.lines, s.last = 0, ""
}
