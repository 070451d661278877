package runview

import (
	"fmt"
	"io"
	"strings"
)

// Screen redraws text in place on a terminal. Use it from one goroutine.
type Screen struct {
	w     io.Writer
	width int
	last  string
}

// NewScreen returns a Screen that draws on w from the cursor's line down.
func NewScreen(w io.Writer) *Screen { return &Screen{w: w} }

// Draw replaces what was drawn before by content, which ends with a line
// break, on a terminal of width columns and, unless it is 0, most lines: of
// more, which would scroll away and be drawn again below, the last are drawn.
// It hides the cursor until Close.
func (s *Screen) Draw(content string, width, most int) {
	for most > 1 && height(content, width) > most-1 { // a line is the cursor's
		_, content, _ = strings.Cut(content, "\n")
	}
	if content == s.last {
		return
	}
	var b strings.Builder
	if s.last == "" {
		b.WriteString("\x1b[?25l")
	}
	// A terminal that was made narrower since has broken the lines anew.
	if up := height(s.last, width); up > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", up)
	}
	// Each line is overwritten and its rest erased: clearing first would flicker.
	b.WriteString("\r")
	b.WriteString(strings.ReplaceAll(content, "\n", "\x1b[K\n"))
	b.WriteString("\x1b[J")
	s.width, s.last = width, content
	_, _ = io.WriteString(s.w, b.String())
}

// Clear erases what was drawn, so that other text can stand there.
func (s *Screen) Clear() {
	if s.last == "" {
		return
	}
	_, _ = fmt.Fprintf(s.w, "\x1b[%dA\r\x1b[J\x1b[?25h", height(s.last, s.width))
	s.last = ""
}

// Close leaves what was drawn and shows the cursor again.
func (s *Screen) Close() {
	if s.last == "" {
		return
	}
	_, _ = io.WriteString(s.w, "\x1b[?25h")
	s.last = ""
}
