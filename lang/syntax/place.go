package syntax

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/almanac-run/almanac/lang/program"
	"gopkg.in/yaml.v3"
)

// At returns the place in the source of the character at the given offset
// (in characters) of a scalar's Value; the Value's length gives its end. A
// Value has lost quotes, escapes, indentation and folded lines, so this goes
// back to the raw lines and reads them again.
func (n *Node) At(offset int) program.Pos {
	if n.places == nil {
		n.places = n.read()
	}
	return n.places[max(0, min(offset, len(n.places)-1))]
}

// read returns the place of every character of Value and of its end. If the
// lines cannot be read back to exactly Value, everything is at the node's own place.
func (n *Node) read() []program.Pos {
	if n.Pos.Line >= 1 && n.Pos.Line <= len(n.source.lines) {
		switch r := (&reader{lines: n.source.lines, line: n.Pos.Line - 1, col: n.Pos.Col - 1}); {
		case n.style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
			if places := r.block(n.Value, n.style&yaml.FoldedStyle != 0); places != nil {
				return places
			}
		case n.style&yaml.SingleQuotedStyle != 0:
			if r.quoted('\''); string(r.out) == n.Value {
				return r.places
			}
		case n.style&yaml.DoubleQuotedStyle != 0:
			if r.quoted('"'); string(r.out) == n.Value {
				return r.places
			}
		default:
			if r.plain(n.Value); string(r.out) == n.Value {
				return r.places
			}
		}
	}
	places := make([]program.Pos, utf8.RuneCountInString(n.Value)+1)
	for i := range places {
		places[i] = n.Pos
	}
	return places
}

// reader reads one scalar from raw lines, keeping the place of what it reads.
type reader struct {
	lines     []string
	line, col int // from 0; col in characters
	out       []rune
	places    []program.Pos
}

func (r *reader) emit(c rune, line, col int) {
	r.out = append(r.out, c)
	r.places = append(r.places, program.Pos{Line: line + 1, Col: col + 1})
}

func (r *reader) end(line, col int) {
	r.places = append(r.places, program.Pos{Line: line + 1, Col: col + 1})
}

// fold reads a line break inside a plain or quoted scalar: one becomes a space,
// more become one fewer. It leaves r at the first character of the next line.
// It returns that line's characters, or nil at the end of the text.
func (r *reader) fold(col int, escaped bool) []rune {
	line, breaks := r.line, 0
	for r.line++; r.line < len(r.lines); r.line++ {
		breaks++
		text := strings.TrimLeft(r.lines[r.line], " \t")
		if text == "" {
			continue
		}
		r.col = utf8.RuneCountInString(r.lines[r.line]) - utf8.RuneCountInString(text)
		if breaks == 1 && !escaped {
			r.emit(' ', line, col)
		}
		for i := 1; i < breaks; i++ {
			r.emit('\n', line+i, 0)
		}
		return []rune(r.lines[r.line])
	}
	return nil
}

// blankFrom tells whether text has only blanks from i on.
func blankFrom(text []rune, i int) bool {
	for _, c := range text[min(i, len(text)):] {
		if c != ' ' && c != '\t' {
			return false
		}
	}
	return true
}

func (r *reader) plain(value string) {
	text := []rune(r.lines[r.line])
	want := utf8.RuneCountInString(value)
	for text != nil && len(r.out) < want {
		if blankFrom(text, r.col) {
			text = r.fold(r.col, false)
			continue
		}
		r.emit(text[r.col], r.line, r.col)
		r.col++
	}
	r.end(r.line, r.col)
}

// escapes are the one-character escapes of double quotes.
var escapes = map[rune]rune{'0': 0, 'a': '\a', 'b': '\b', 't': '\t', '\t': '\t', 'n': '\n', 'v': '\v', 'f': '\f', 'r': '\r',
	'e': 0x1b, ' ': ' ', '"': '"', '\'': '\'', '\\': '\\', 'N': 0x85, '_': 0xa0, 'L': 0x2028, 'P': 0x2029}

func (r *reader) quoted(quote rune) {
	text := []rune(r.lines[r.line])
	r.col++
	for text != nil {
		if blankFrom(text, r.col) {
			text = r.fold(r.col, false)
			continue
		}
		c, col := text[r.col], r.col
		r.col++
		switch {
		case c == quote && quote == '\'' && r.col < len(text) && text[r.col] == '\'':
			r.emit('\'', r.line, col)
			r.col++
		case c == quote:
			r.end(r.line, col)
			return
		case c == '\\' && quote == '"' && r.col == len(text):
			text = r.fold(col, true)
		case c == '\\' && quote == '"':
			digits := map[rune]int{'x': 2, 'u': 4, 'U': 8}[text[r.col]]
			if digits == 0 {
				r.emit(escapes[text[r.col]], r.line, col)
				r.col++
				continue
			}
			stop := min(r.col+1+digits, len(text))
			code, _ := strconv.ParseUint(string(text[r.col+1:stop]), 16, 32)
			r.emit(rune(code), r.line, col)
			r.col = stop
		default:
			r.emit(c, r.line, col)
		}
	}
}

// block reads a block scalar, or returns nil. Its indentation may be given in
// the header relative to a parent that is not known here; what the first line of
// text has lost tells it.
func (r *reader) block(value string, folded bool) []program.Pos {
	r.line++
	kept, ok := indentOf(strings.Split(value, "\n"))
	indent, found := indentOf(r.lines[min(r.line, len(r.lines)):])
	if !ok || !found || indent < kept {
		return nil
	}
	r.blockAt(indent-kept, folded)
	// What was read ends with every line break; which of them the value has depends on the header.
	n := utf8.RuneCountInString(value)
	if n > len(r.out) || string(r.out[:n]) != value {
		return nil
	}
	return r.places[:n+1]
}

// indentOf returns how many spaces the first line begins with that has anything else.
func indentOf(lines []string) (int, bool) {
	for _, line := range lines {
		if text := strings.TrimLeft(line, " "); text != "" {
			return len(line) - len(text), true
		}
	}
	return 0, false
}

func (r *reader) blockAt(indent int, folded bool) {
	wasText := false // the line before can be folded with this one
	for ; r.line < len(r.lines); r.line++ {
		line := []rune(r.lines[r.line])
		col := min(indent, len(line))
		if !blankFrom(line[:col], 0) {
			break
		}
		text := line[col:]
		blank := len(text) == 0
		foldable := !blank && text[0] != ' ' && text[0] != '\t'
		if folded && wasText && foldable {
			// One break between two lines of text is a space; of several the first is dropped.
			if n := len(r.out); n > 0 && r.out[n-1] == '\n' {
				if n > 1 && r.out[n-2] == '\n' {
					r.out, r.places = r.out[:n-1], r.places[:n-1]
				} else {
					r.out[n-1] = ' '
				}
			}
		}
		for _, c := range text {
			r.emit(c, r.line, col)
			col++
		}
		r.emit('\n', r.line, col)
		if !blank {
			wasText = foldable
		}
	}
	r.end(r.line, 0)
}
