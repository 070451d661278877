package runview

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/lang/syntax"
)

// Diagnostics renders mistakes as a compiler does: for each its place and
// message, the line and the one before it, and a caret below the place.
func Diagnostics(ds []syntax.Diagnostic, o Options) string {
	var b strings.Builder
	for i, d := range ds {
		if i > 0 {
			b.WriteByte('\n')
		}
		severity, color := "error", text.FgRed
		if d.Severity == syntax.Warning {
			severity, color = "warning", text.FgYellow
		}
		code := ""
		if d.Code != "" {
			code = o.paint(" ["+d.Code+"]", text.Faint)
		}
		fmt.Fprintf(&b, "%s %s %s%s\n", o.paint(fmt.Sprintf("%s:%s:", line(d.File), d.Pos), text.Bold),
			o.paint(severity+":", color, text.Bold), Clean(d.Message), code)
		if o.Source != nil {
			b.WriteString(snippet(o.Source(d.File), d.Pos, d.Width, color, o))
		}
	}
	return b.String()
}

// snippet shows the line of pos and the one before it, and carets below the
// width characters at pos. It returns "" if the source has no such place.
func snippet(source []byte, pos program.Pos, width int, color text.Color, o Options) string {
	lines := bytes.Split(bytes.TrimPrefix(source, []byte("\ufeff")), []byte("\n"))
	if len(source) == 0 || pos.Line < 1 || pos.Line > len(lines) {
		return ""
	}
	margin := len(strconv.Itoa(pos.Line)) + 4
	room := max(o.width()-margin-3, 12)
	// One column for each character keeps the caret true: tabs become spaces.
	show := func(n int) []rune {
		s := strings.ReplaceAll(strings.TrimRight(string(lines[n-1]), "\r"), "\t", " ")
		return []rune(Clean(s))
	}
	at := show(pos.Line)
	col := min(max(pos.Col-1, 0), len(at))
	end := min(col+max(width, 1), max(len(at), col+1))
	from := 0
	if end > room && len(at) > room {
		from = min(max(0, col-room/3), max(0, len(at)-room))
	}
	cut := func(r []rune) string {
		r = r[min(from, len(r)):]
		s := string(r)
		if from > 0 && len(r) > 0 {
			s = "…" + string(r[1:])
		}
		return clip(s, room)
	}
	var b strings.Builder
	gutter := func(n string) string { return o.paint(fmt.Sprintf("%*s | ", margin, n), text.Faint) }
	if pos.Line > 1 && len(bytes.TrimSpace(lines[pos.Line-2])) > 0 {
		b.WriteString(strings.TrimRight(gutter(strconv.Itoa(pos.Line-1))+cut(show(pos.Line-1)), " ") + "\n")
	}
	b.WriteString(strings.TrimRight(gutter(strconv.Itoa(pos.Line))+cut(at), " ") + "\n")
	indent := text.StringWidthWithoutEscSequences(string(at[from:col]))
	under := text.StringWidthWithoutEscSequences(string(at[col:min(end, len(at))]))
	under = min(max(under, 1), max(room-indent, 1))
	b.WriteString(gutter("") + strings.Repeat(" ", indent) + o.paint(strings.Repeat("^", under), color, text.Bold) + "\n")
	return b.String()
}
