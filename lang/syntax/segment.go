package syntax

import (
	"strings"
	"unicode/utf8"

	"github.com/almanac-run/almanac/lang/program"
)

// Segment is a piece of a scalar: literal text, or the inside of one `${{ … }}`.
type Segment struct {
	Expr   bool
	Text   string // of an expression without the braces and the blanks around it
	Offset int    // of Text in the scalar's Value, in characters
	Start  int    // where the piece begins, the `${{` included
}

const (
	opening = "${{"
	closing = "}}"
)

// HasExpr tells whether a scalar contains the beginning of an expression.
func (n *Node) HasExpr() bool { return strings.Contains(n.Value, opening) }

// Segments cuts a scalar into text and expressions. An expression ends at the
// first `}}` that is not inside one of its strings or braces. ok is
// false if one does not end: bad is then the place of its `${{`.
func (n *Node) Segments() (segments []Segment, bad program.Pos, ok bool) {
	rest, offset := n.Value, 0
	for {
		before, after, found := strings.Cut(rest, opening)
		if before != "" {
			segments = append(segments, Segment{Text: before, Offset: offset, Start: offset})
		}
		if !found {
			return segments, bad, true
		}
		offset += utf8.RuneCountInString(before)
		end := exprEnd(after)
		if end < 0 {
			return nil, n.At(offset), false
		}
		text := strings.TrimLeft(after[:end], " \t\n")
		skipped := utf8.RuneCountInString(after[:end]) - utf8.RuneCountInString(text)
		segments = append(segments, Segment{Expr: true, Text: strings.TrimRight(text, " \t\n"),
			Offset: offset + len(opening) + skipped, Start: offset})
		offset += len(opening) + utf8.RuneCountInString(after[:end]) + len(closing)
		rest = after[end+len(closing):]
	}
}

// exprEnd returns where the `}}` stands that ends the CEL expression at the
// beginning of text, or -1.
func exprEnd(text string) int {
	depth := 0
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == '"' || c == '\'':
			raw := i > 0 && (text[i-1] == 'r' || text[i-1] == 'R') || i > 1 && (text[i-2] == 'r' || text[i-2] == 'R') && strings.ContainsRune("bB", rune(text[i-1]))
			n := stringEnd(text[i:], raw)
			if n < 0 {
				return -1
			}
			i += n
			continue
		case c == '/' && strings.HasPrefix(text[i:], "//"):
			line, _, _ := strings.Cut(text[i:], "\n")
			if n := strings.Index(line, closing); n >= 0 {
				return i + n // as YAML folds lines, a comment cannot be trusted to end
			}
			i += len(line)
			continue
		case c == '{':
			depth++
		case c == '}' && depth > 0:
			depth--
		case strings.HasPrefix(text[i:], closing):
			return i
		}
		i++
	}
	return -1
}

// stringEnd returns the length of the CEL string literal at the beginning of
// text, or -1 if it does not end.
func stringEnd(text string, raw bool) int {
	quote := text[:1]
	if strings.HasPrefix(text, strings.Repeat(quote, 3)) {
		quote = text[:3]
	}
	for i := len(quote); i < len(text); i++ {
		switch {
		case text[i] == '\\' && !raw:
			i++
		case strings.HasPrefix(text[i:], quote):
			return i + len(quote)
		case text[i] == '\n' && len(quote) == 1:
			return -1
		}
	}
	return -1
}
