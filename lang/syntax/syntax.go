// Package syntax turns the YAML text of a runbook into a tree whose every value
// knows its place, and shows mistakes at their place.
//
// It gives Parse, the tree (Node), the expressions inside a text (Node.Segments)
// and Snippet. It promises that a tree holds nothing that could surprise its
// reader: no aliases, no duplicate keys, bounded size and depth; that Parse is
// cheap on hostile input; and that the position of every character of a value
// is its position in the source, escapes and block scalars included. It is the
// only package that knows YAML, and refuses to know what the keys mean or what
// an expression says.
package syntax

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/almanac-run/almanac/lang/program"
	"gopkg.in/yaml.v3"
)

// The limits of a source. They are far above what a person writes and far
// below what would hurt the reader.
const (
	MaxBytes = 1 << 20 // of the source
	MaxNodes = 100_000 // keys and values
	MaxDepth = 64      // lists and maps within each other
)

// Kind is what a Node is.
type Kind int

// The kinds of nodes. The kinds of plain scalars follow the core schema of YAML
// 1.2: yes, no, on, off and dates are strings.
const (
	Null Kind = iota
	Bool
	Int
	Float
	String
	List
	Map
)

// String names the kind as messages do.
func (k Kind) String() string {
	return [...]string{"nothing", "bool", "int", "float", "string", "list", "map"}[k]
}

// Node is one value of the tree. It is immutable.
type Node struct {
	Kind  Kind
	Pos   program.Pos // of its first character, a quote or block indicator included
	Width int         // characters it takes on its first line, at least 1

	// Value is the text of a scalar, quotes and escapes resolved; of a number
	// or bool as it was written.
	Value string
	Items []*Node // of a List
	Pairs []Pair  // of a Map, in source order, keys unique

	style  yaml.Style
	source *source
	places []program.Pos // of each character of Value and of its end; nil until asked for
}

// Pair is one key of a map and its value.
type Pair struct {
	Key   *Node // a scalar
	Value *Node
}

// Get returns the value of the key, or nil.
func (n *Node) Get(key string) *Node {
	for _, p := range n.Pairs {
		if p.Key.Value == key {
			return p.Value
		}
	}
	return nil
}

// source is the text and its lines, without line ends.
type source struct {
	file  string
	lines []string
}

// Parse reads the one YAML document of a runbook. The root of the tree is a Map.
// It is nil if the text has a mistake that would make others appear where there
// are none; keys given twice are left out of it. file is only for the diagnostics.
func Parse(file string, text []byte) (*Node, []Diagnostic) {
	p := &parser{src: &source{file: file}}
	body := strings.TrimPrefix(string(text[:min(len(text), MaxBytes+1)]), "\ufeff")
	if p.refuse(body) {
		return nil, p.diags
	}
	p.src.lines = strings.Split(body, "\n")
	for i, line := range p.src.lines {
		p.src.lines[i] = strings.TrimSuffix(line, "\r")
	}
	root := p.document(body)
	Sort(p.diags)
	if p.broken {
		return nil, p.diags
	}
	return root, p.diags
}

type parser struct {
	src    *source
	diags  []Diagnostic
	nodes  int
	deep   bool // the depth was reported
	broken bool // the tree is not what the author meant
}

func (p *parser) errorf(pos program.Pos, width int, code, format string, args ...any) {
	p.diags = append(p.diags, Diagnostic{Severity: Error, File: p.src.file, Pos: pos, Width: width,
		Code: code, Message: fmt.Sprintf(format, args...)})
	p.broken = p.broken || code != "duplicate-key" && code != "merge-key"
}

// refuse looks at the bytes before any YAML is read, so that the cost of
// hostile input is one pass over it.
func (p *parser) refuse(body string) bool {
	if len(body) > MaxBytes {
		p.errorf(program.Pos{Line: 1, Col: 1}, 0, "too-large", "the file is larger than 1 MiB; move long scripts and data out of the runbook")
		return true
	}
	line, col, marks := 1, 1, 0
	for i, r := range body {
		at := program.Pos{Line: line, Col: col}
		col++
		switch {
		case r == '\n':
			line, col = line+1, 1
			marks++
		case r == ',' || r == '[' || r == '{':
			marks++
		case r == utf8.RuneError && !strings.HasPrefix(body[i:], "\ufffd"):
			p.errorf(at, 1, "invalid-utf8", "the byte 0x%02x is not valid UTF-8; save the file as UTF-8", body[i])
			return true
		case r == '\r' && strings.HasPrefix(body[i:], "\r\n"), r == '\t':
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 || r == 0xfeff || r == 0xfffe || r == 0xffff:
			p.errorf(at, 1, "invalid-character", "the character U+%04X cannot stand in a runbook; inside double quotes write it as an escape: \"\\u%04X\"", r, r)
			return true
		}
		if marks > MaxNodes {
			p.errorf(at, 1, "too-large", "the file has more than %d lines and list entries", MaxNodes)
			return true
		}
	}
	return false
}

func (p *parser) document(body string) *Node {
	dec := yaml.NewDecoder(strings.NewReader(body))
	var doc yaml.Node
	if err := decode(dec, &doc); errors.Is(err, io.EOF) {
		p.errorf(program.Pos{Line: 1, Col: 1}, 0, "empty-file", "the file is empty; a runbook begins with `runbook: name`")
		return nil
	} else if err != nil {
		p.syntaxError(err, body)
		return nil
	}
	var root *Node
	if len(doc.Content) == 1 {
		root = p.node(doc.Content[0], 1)
	}
	if p.broken {
		return nil
	}
	if root.Kind == Null {
		p.errorf(root.Pos, 0, "empty-file", "the file is empty; a runbook begins with `runbook: name`")
		return nil
	}
	if root.Kind != Map {
		p.errorf(root.Pos, root.Width, "not-a-map", "a runbook is a map of keys such as `runbook:` and `steps:`; found a %s", root.Kind)
		return nil
	}
	var next yaml.Node
	if err := decode(dec, &next); err == nil {
		p.errorf(program.Pos{Line: max(next.Line, 1), Col: max(next.Column, 1)}, 0, "several-documents", "a file holds one runbook; a second document begins here")
	} else if !errors.Is(err, io.EOF) {
		p.syntaxError(err, body)
	}
	return root
}

// decode is Decode; a panic of the YAML library becomes an error.
func decode(dec *yaml.Decoder, into *yaml.Node) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("yaml: %v", r)
		}
	}()
	return dec.Decode(into)
}

// node copies a YAML node, refusing what a runbook may not contain. It stops at
// the first thing that makes going on pointless or costly.
func (p *parser) node(y *yaml.Node, depth int) *Node {
	// The library puts what is missing at the end of the text on a line after it.
	n := &Node{Pos: program.Pos{Line: min(max(y.Line, 1), len(p.src.lines)), Col: max(y.Column, 1)}, style: y.Style, source: p.src, Width: 1}
	p.nodes++
	switch {
	case p.nodes > MaxNodes:
		if p.nodes == MaxNodes+1 {
			p.errorf(n.Pos, 1, "too-large", "the file has more than %d keys and values", MaxNodes)
		}
		return n
	case depth > MaxDepth:
		if !p.deep {
			p.errorf(n.Pos, 1, "too-deep", "lists and maps are nested more than %d deep", MaxDepth)
		}
		p.deep = true
		return n
	case y.Kind == yaml.AliasNode:
		p.errorf(n.Pos, 1+len(y.Value), "alias", "aliases (*%s) are not part of the language; write the value out, or put it under `vars:`", y.Value)
		return n
	case y.Anchor != "":
		p.errorf(n.Pos, 1+len(y.Anchor), "anchor", "anchors (&%s) are not part of the language; write the value out, or put it under `vars:`", y.Anchor)
		return n
	case y.Style&yaml.TaggedStyle != 0:
		if strings.HasPrefix(y.Tag, "!!") {
			p.errorf(n.Pos, max(1, len(y.Tag)), "tag", "tags (%s) are not part of the language; quote a value to make it a string", y.Tag)
		} else {
			p.errorf(n.Pos, max(1, len(y.Tag)), "tag", "YAML takes a value that begins with ! (%s) for a tag; quote the whole value: '!…'", y.Tag)
		}
		return n
	}
	switch y.Kind {
	case yaml.SequenceNode:
		n.Kind = List
		for _, item := range y.Content {
			n.Items = append(n.Items, p.node(item, depth+1))
		}
	case yaml.MappingNode:
		n.Kind = Map
		p.pairs(n, y, depth)
	default:
		n.Kind, n.Value = scalarKind(y), y.Value
		n.Width = p.width(n)
	}
	return n
}

func (p *parser) pairs(n *Node, y *yaml.Node, depth int) {
	first := map[string]program.Pos{}
	for i := 0; i+1 < len(y.Content); i += 2 {
		if p.nodes > MaxNodes {
			return
		}
		key, value := p.node(y.Content[i], depth+1), p.node(y.Content[i+1], depth+1)
		switch other, dup := first[key.Value]; {
		case key.Kind == List || key.Kind == Map:
			p.errorf(key.Pos, 1, "bad-key", "a key is a word, not a %s", key.Kind)
			continue
		case key.Value == "<<" && key.style == 0:
			p.errorf(key.Pos, 2, "merge-key", "merge keys (<<) are not part of the language; write the keys out")
			continue
		case y.Content[i].Kind == yaml.AliasNode:
			continue // said already
		case dup:
			p.errorf(key.Pos, key.Width, "duplicate-key", "the key %s is given twice; the other is at %s", key.Value, other)
			continue
		}
		first[key.Value] = key.Pos
		n.Pairs = append(n.Pairs, Pair{Key: key, Value: value})
	}
}

var (
	intText   = regexp.MustCompile(`^([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$`)
	floatText = regexp.MustCompile(`^([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$`)
)

// scalarKind resolves a scalar by the core schema of YAML 1.2; the library's
// own resolution reads 0777 as octal and 1_000 as a number.
func scalarKind(y *yaml.Node) Kind {
	if y.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return String
	}
	switch y.Value {
	case "", "~", "null", "Null", "NULL":
		return Null
	case "true", "True", "TRUE", "false", "False", "FALSE":
		return Bool
	}
	switch {
	case intText.MatchString(y.Value):
		return Int
	case floatText.MatchString(y.Value):
		return Float
	}
	return String
}

func (p *parser) width(n *Node) int {
	switch {
	case n.style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return 1
	case n.style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
		last := n.At(utf8.RuneCountInString(n.Value))
		if last.Line == n.Pos.Line {
			return max(1, last.Col-n.Pos.Col+1)
		}
		return 1
	}
	first, _, _ := strings.Cut(n.Value, "\n")
	line := ""
	if i := n.Pos.Line - 1; i >= 0 && i < len(p.src.lines) {
		line = p.src.lines[i]
	}
	if w := utf8.RuneCountInString(first); n.Pos.Col-1+w <= utf8.RuneCountInString(line) {
		return max(1, w)
	}
	return max(1, utf8.RuneCountInString(strings.TrimRight(line, " \t"))-n.Pos.Col+1)
}
