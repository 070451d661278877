package syntax

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/almanac-run/almanac/lang/program"
	"github.com/rogpeppe/go-internal/txtar"
	"gopkg.in/yaml.v3"
)

// TestHostile holds what could hurt a reader of YAML: each is refused at its
// place, quickly and in little memory.
func TestHostile(t *testing.T) {
	laughs := "a: &a [x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c <= 'j'; c++ {
		laughs += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c, ", c-1), 9), ", "))
	}
	merge := "a: &a { k: v }\n"
	for c := 'b'; c <= 'j'; c++ {
		merge += fmt.Sprintf("%c: &%c { <<: [%s] }\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c, ", c-1), 9), ", "))
	}
	for _, tt := range []struct{ name, source, code, pos string }{
		{"alias bomb", laughs, "anchor", "1:4"},
		{"merge bomb", merge, "anchor", "1:4"},
		{"anchor that holds itself", "a: &a [*a]\n", "anchor", "1:4"},
		{"flow lists in each other", "a: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000), "too-deep", "1:67"},
		{"very deep flow lists", "a: " + strings.Repeat("[", 90_000), "yaml", "1:1"},
		{"block lists in each other", "a:\n " + strings.Repeat("- ", 5000), "too-deep", "2:128"},
		{"maps in each other", strings.Repeat("{a: ", 200) + strings.Repeat("}", 200), "too-deep", "1:254"},
		{"many entries", "a: [" + strings.Repeat("a,", 500_000) + "]", "too-large", "1:200004"},
		{"many keys in one map", "{" + strings.Repeat("a,", 500_000) + "}", "too-large", "1:200001"},
		{"many keys and values", "a:\n" + strings.Repeat(" - {a: {}, b: c, d: e}\n", 18_000), "too-large", ""},
		{"many lines", strings.Repeat("-\n", 400_000), "too-large", "100001:2"},
		{"larger than 1 MiB", "a: " + strings.Repeat("x", 1<<20), "too-large", "1:1"},
		{"key given twice", "a: 1\nb: 2\na: 3\n", "duplicate-key", "3:1"},
		{"not UTF-8", "a: b\nc: \"d\xff\"\n", "invalid-utf8", "2:6"},
		{"UTF-16", "\xff\xfea\x00:\x00 \x00b\x00", "invalid-utf8", "1:1"},
		{"NUL", "a: b\x00c\n", "invalid-character", "1:5"},
		{"escape character", "a: \"\x1b[2J\"\n", "invalid-character", "1:5"},
		{"line separator", "a: b\u2028c\n", "invalid-character", "1:5"},
		{"carriage return alone", "a: b\rc: d\n", "invalid-character", "1:5"},
		{"second byte order mark", "\ufeff\ufeffa: b\n", "invalid-character", "1:1"},
		{"several documents", "a: b\n---\nc: d\n", "several-documents", "2:1"},
		{"empty", "", "empty-file", "1:1"},
		{"comments alone", "# x\n", "empty-file", "1:1"},
		{"a document mark alone", "---\n", "empty-file", "2:1"},
		{"a list", "- a\n", "not-a-map", "1:1"},
		{"a word", "hello\n", "not-a-map", "1:1"},
		{"an alias of nothing", "a: *b\n", "yaml", "1:1"},
		{"a tag", "a: !!python/object:os.system x\n", "tag", "1:4"},
		{"a list as key", "? [a]\n: b\n", "bad-key", "1:3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			_, diags := Parse("f", []byte(tt.source))
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			if len(diags) == 0 || diags[0].Code != tt.code || tt.pos != "" && diags[0].Pos.String() != tt.pos {
				t.Errorf("got %v, want %s at %s", diags, tt.code, tt.pos)
			}
			if took > 500*time.Millisecond { // the bar is 100 ms; the machine may be busy
				t.Errorf("took %s", took)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
				t.Errorf("used %d MiB", used>>20)
			}
		})
	}
}

// TestSyntaxErrors shows that a mistake of YAML is reported on its own line.
func TestSyntaxErrors(t *testing.T) {
	for _, tt := range []struct{ name, source, pos, contains string }{
		{"bad indentation", "a:\n  b: 1\n c: 2\n", "3:2", "check the indentation"},
		{"deep bad indentation", "a:\n  - b: 1\n    c: 2\n   d: 3\ne: 4\n", "4:4", "check the indentation"},
		{"missing bracket", "a: [1, 2\nb: 3\n", "1:1", "not closed"},
		{"missing brace", "a: {b: 2\nc: 3\n", "1:1", "not closed"},
		{"missing quote", "a: \"x\nb: y\n", "1:1", "not closed"},
		{"tab", "a:\n\t- b\n", "2:1", "tab"},
		{"tab after spaces", "a:\n  b: 1\n \tc: 1\n", "3:2", "tab"},
		{"two colons", "a: b: c\n", "1:5", "second `: `"},
		{"indented deeper", "- a: b\n   c: d\n", "2:4", "indented deeper"},
		{"expression in a map", "a: 1\nb: { x: ${{ c ? d : e }} }\n", "2:9", `quote it: "${{ c ? d : e }}"`},
		{"expression in a map of maps", "- { a: b, c: [d], e: { F: ${{ g.h }} }, i: 'j' }\n", "1:27", `quote it: "${{ g.h }}"`},
		{"expression in a list", "a: [ ${{ b[\"c\"] }} ]\n", "1:6", "quote it: '${{ b[\"c\"] }}'"},
		{"expression in a map of lines", "a: {\n  b: \"${{ c }}\",\n  d: ${{ e }}\n}\n", "3:6", `quote it: "${{ e }}"`},
		{"colon in an expression", "a: 1\nb: ${{ {\"x\": 1} }}\n", "2:4", "quote it: '${{ {\"x\": 1} }}'"},
		{"not the expression's fault", "a: [ \"${{ b }}\", c\nd: e\n", "1:1", "not closed"},
		{"no colon", "a: 1\nb\nc: 2\n", "2:1", "missing"},
		{"percent", "a: %x\n", "1:1", "quote it"},
		{"escape", "a: \"\\d\"\n", "1:1", "unknown escape"},
		{"no list here", "a: - b\n", "1:1", "line of its own"},
		{"text after", "a: \"x\" y\n", "1:1", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root, diags := Parse("f", []byte(tt.source))
			if root != nil || len(diags) != 1 || diags[0].Pos.String() != tt.pos || !strings.Contains(diags[0].Message, tt.contains) {
				t.Errorf("got %v, want one at %s with %q", diags, tt.pos, tt.contains)
			}
		})
	}
}

func TestKinds(t *testing.T) {
	for text, want := range map[string]Kind{
		"": Null, "~": Null, "null": Null, "true": Bool, "False": Bool, "yes": String, "on": String, "NO": String, "y": String,
		"1": Int, "-1": Int, "0644": Int, "0o17": Int, "0x1F": Int, "1_000": String, "0b11": String, "1:30": String,
		"1.5": Float, ".5": Float, "1e3": Float, ".inf": Float, "1.": Float, "1.2.3": String, "10%": String, "5m": String,
		"2026-11-23": String, "2026-11-23T09:00:00Z": String, "'1'": String, `"true"`: String, "=": String,
	} {
		root, diags := Parse("f", []byte("a: "+text+"\n"))
		if len(diags) > 0 {
			t.Errorf("%q: %v", text, diags)
			continue
		}
		if got := root.Get("a").Kind; got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
}

// In TestPlaces, § marks a character and the test finds it in the value; the
// place in the source must be where it stands there.
func TestPlaces(t *testing.T) {
	for _, tt := range []struct{ name, source string }{
		{"plain", "a: one §two"},
		{"plain, folded", "a: one\n  two\n\n\n  three §x"},
		{"plain, blanks at the end of a line", "a: one   \n   two §x"},
		{"single quotes", "a: 'it''s ä §x'"},
		{"single quotes, folded", "a: 'one\n  two\n\n  it''s §x'"},
		{"double quotes", `a: "\t\x41\u00e4\U0001F600\"\\ §x"`},
		{"double quotes, folded", "a: \"one\n   two \\\n   three\\\n   \\  four\n\n   §x\""},
		{"double quotes, blank before the break", "a: \"one  \n  §x\""},
		{"literal", "a: |\n  one\n    two §x\n"},
		{"literal, blank lines", "a: |\n\n\n  one\n\n   \n    §x\n"},
		{"literal, indentation given", "a:\n  b: |2\n      one\n     §x\n"},
		{"literal, keep", "a: |+\n  one §x\n\n\n"},
		{"literal in a list", "a:\n- |\n one\n  ä§x\n"},
		{"folded", "a: >\n  one\n  two\n\n  three §x\n"},
		{"folded, more indented", "a: >-\n  one\n    two\n    three\n  four\n  §x\n"},
		{"folded, blank lines before indented", "a: >\n  one\n\n    two\n\n\n  three\n\n  §x\n"},
		{"folded, a blank line before the last character", "a: >-\n  one §x\n\n  y\n"},
		{"folded, blank lines first", "a: >-\n\n  one §x\n\n  y\n"},
		{"folded, indentation given", "a: >1\n   one\n  §x\n"},
		{"after a byte order mark", "\ufeffa: §x"},
		{"after line ends of Windows", "a: |\r\n  one\r\n  §x\r\n"},
		{"in a flow map", "a: { b: [x, \"y §x\"] }"},
		{"a key", "b: { 'it''s §x': 1 }"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root, diags := Parse("f", []byte(tt.source))
			if root == nil {
				t.Fatal(diags)
			}
			n := find(root)
			if n == nil {
				t.Fatal("§ is in no value")
			}
			offset := utf8.RuneCountInString(n.Value[:strings.Index(n.Value, "§")])
			body := strings.TrimPrefix(tt.source, "\ufeff")
			before := body[:strings.Index(body, "§")]
			want := program.Pos{Line: strings.Count(before, "\n") + 1, Col: utf8.RuneCountInString(before[strings.LastIndex(before, "\n")+1:]) + 1}
			if got := n.At(offset); got != want {
				t.Errorf("§ is at %s, want %s", got, want)
			}
		})
	}
}

func find(n *Node) *Node {
	if n == nil || strings.Contains(n.Value, "§") {
		return n
	}
	for _, item := range n.Items {
		if found := find(item); found != nil {
			return found
		}
	}
	for _, p := range n.Pairs {
		for _, in := range []*Node{p.Key, p.Value} {
			if found := find(in); found != nil {
				return found
			}
		}
	}
	return nil
}

func TestSegments(t *testing.T) {
	for _, tt := range []struct {
		value string
		want  []Segment // nil: unterminated
	}{
		{"text", []Segment{{Text: "text"}}},
		{"${{ a }}", []Segment{{Expr: true, Text: "a", Offset: 4}}},
		{"${{a}}", []Segment{{Expr: true, Text: "a", Offset: 3}}},
		{"ä ${{ a }} b", []Segment{{Text: "ä "}, {Expr: true, Text: "a", Offset: 6, Start: 2}, {Text: " b", Offset: 10, Start: 10}}},
		{"${{a}}${{b}}", []Segment{{Expr: true, Text: "a", Offset: 3}, {Expr: true, Text: "b", Offset: 9, Start: 6}}},
		{`${{ "}}" + '}}' }}`, []Segment{{Expr: true, Text: `"}}" + '}}'`, Offset: 4}}},
		{`${{ "\"}}" }}`, []Segment{{Expr: true, Text: `"\"}}"`, Offset: 4}}},
		{`${{ r"\" + "}}" }}`, []Segment{{Expr: true, Text: `r"\" + "}}"`, Offset: 4}}},
		{`${{ """a"}}" """ }}`, []Segment{{Expr: true, Text: `"""a"}}" """`, Offset: 4}}},
		{`${{ {"a": {"b": 1}} }}`, []Segment{{Expr: true, Text: `{"a": {"b": 1}}`, Offset: 4}}},
		{`${{ {"a": {"b": 1}}}}`, []Segment{{Expr: true, Text: `{"a": {"b": 1}}`, Offset: 4}}},
		{"${{ a // it's }}", []Segment{{Expr: true, Text: "a // it's", Offset: 4}}},
		{"${{ a // it's\n}}", []Segment{{Expr: true, Text: "a // it's", Offset: 4}}},
		{"${{ }}", []Segment{{Expr: true, Offset: 4}}},
		{"$ {{ a }} {{ b }} ${c}", []Segment{{Text: "$ {{ a }} {{ b }} ${c}"}}},
		{"${{ a }", nil},
		{`${{ "a }}`, nil},
		{"${{ {a }}", nil},
		{"x ${{ a }} ${{", nil},
	} {
		n := &Node{Kind: String, Value: tt.value, source: &source{}}
		got, _, ok := n.Segments()
		if ok != (tt.want != nil) || fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("%s:\n got %+v %v\nwant %+v", tt.value, got, ok, tt.want)
		}
	}
}

// FuzzParse: no panic, every diagnostic has a place, and the value of every
// scalar can be read back from its lines.
func FuzzParse(f *testing.F) {
	paths, _ := filepath.Glob("../compile/testdata/*/*.txtar")
	for _, path := range paths {
		if ar, err := txtar.ParseFile(path); err == nil {
			f.Add(ar.Files[0].Data)
		}
	}
	for _, s := range []string{"a: >2\n   x\n   y\n", "a: \"x\\\n  y\\xe4\"\n", "a: 'b\n\n c'\n", "? a\n: |+\n  x\n\n", "a:\n- b\n  c\n", "a: >+\n\n  x\n\n   y\n\n z\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		root, diags := Parse("f", text)
		if root == nil && len(diags) == 0 {
			t.Fatal("neither tree nor diagnostics")
		}
		for _, d := range diags {
			if d.Pos.Line < 1 || d.Pos.Col < 1 {
				t.Errorf("no place: %+v", d)
			}
		}
		lines := bytes.Count(text, []byte("\n")) + 1
		var walk func(n *Node)
		walk = func(n *Node) {
			n.Segments()
			for i := range utf8.RuneCountInString(n.Value) + 1 {
				if at := n.At(i); at.Line < 1 || at.Col < 1 || at.Line > lines {
					t.Fatalf("character %d of %q is at %s", i, n.Value, at)
				}
			}
			for _, item := range n.Items {
				walk(item)
			}
			for _, p := range n.Pairs {
				walk(p.Key)
				walk(p.Value)
			}
		}
		if root != nil {
			walk(root)
		}
	})
}

// TestReadBack reads every scalar of the cases back from its lines: none may
// fall back to the place of its beginning.
func TestReadBack(t *testing.T) {
	paths, err := filepath.Glob("../compile/testdata/*/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal("no cases", err)
	}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		root, _ := Parse(path, txtar.Parse(raw).Files[0].Data)
		if root == nil {
			continue
		}
		var walk func(n *Node)
		walk = func(n *Node) {
			if size := utf8.RuneCountInString(n.Value); size > 1 && n.At(0) == n.At(1) && n.style&yaml.DoubleQuotedStyle == 0 {
				t.Errorf("%s: %s: %q cannot be read back", path, n.Pos, n.Value)
			}
			for _, item := range n.Items {
				walk(item)
			}
			for _, p := range n.Pairs {
				walk(p.Key)
				walk(p.Value)
			}
		}
		walk(root)
	}
}
