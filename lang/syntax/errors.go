package syntax

import (
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/almanac-run/almanac/lang/program"
	"gopkg.in/yaml.v3"
)

// explanations turn the YAML library's words into what its reader can act on.
var explanations = map[string]string{
	"found character that cannot start any token":                  "a value cannot begin with this character; quote it",
	"found a tab character that violates indentation":              "a tab cannot indent; use spaces",
	"found a tab character where an indentation space is expected": "a tab cannot indent; use spaces",
	"mapping values are not allowed in this context":               "a second `: ` on the line; quote a value that contains `: `",
	"mapping keys are not allowed in this context":                 "a key cannot stand here",
	"block sequence entries are not allowed in this context":       "a list entry (`- `) cannot stand here; begin it on a line of its own",
	"could not find expected ':'":                                  "a `:` is missing after this key, or a quote or bracket before it is not closed",
	"found unexpected end of stream":                               "this quoted value is not closed",
	"found unknown escape character":                               "unknown escape in double quotes; write \\\\ for a backslash, or use single quotes",
	"did not find expected key":                                    "expected a key here: check the indentation and the quotes of this line and the one before",
	"did not find expected '-' indicator":                          "expected the next list entry (`- `) here: check the indentation",
	"did not find expected ',' or ']'":                             "expected `,` or `]`: the list is not closed, or a value in it needs quotes",
	"did not find expected ',' or '}'":                             "expected `,` or `}`: the map is not closed, or a value in it needs quotes",
	"did not find expected node content":                           "expected a value here",
	"did not find expected <document start>":                       "the text goes on after the end of the runbook: check the indentation",
}

var yamlError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// syntaxError gives the library's error a place: it names at most a line, and
// for many errors that where the surrounding block begins.
func (p *parser) syntaxError(err error, body string) {
	message, line := err.Error(), 1
	if m := yamlError.FindStringSubmatch(message); m != nil {
		message = m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
	}
	line = p.firstBadLine(body, message, line)
	if d, ok := p.bareExpression(message, min(max(line, 1), len(p.src.lines))); ok {
		p.errorf(d.Pos, d.Width, "yaml", "%s", d.Message)
		return
	}
	if meaning, ok := explanations[message]; ok {
		message = meaning
	}
	line = min(max(line, 1), len(p.src.lines))
	text := p.src.lines[line-1]
	indent := len(text) - len(strings.TrimLeft(text, " "))
	col := indent + 1
	if first := strings.Index(text, ": "); strings.HasPrefix(message, "a second") && first >= 0 {
		if second := strings.Index(text[first+2:], ": "); second >= 0 {
			col = utf8.RuneCountInString(text[:first+2+second]) + 1
		} else {
			message = "this line is indented deeper than its neighbours, but the line before has a value already: check the indentation"
		}
	}
	if strings.Contains(message, "tab") {
		if i := strings.IndexByte(text, '\t'); i >= 0 {
			col = utf8.RuneCountInString(text[:i]) + 1
		}
	}
	if strings.HasPrefix(text[indent:], "\t") {
		message = "a tab cannot indent; use spaces"
	}
	width := utf8.RuneCountInString(strings.TrimRight(text, " \t")) - col + 1
	p.errorf(program.Pos{Line: line, Col: col}, width, "yaml", "%s", message)
}

// bareExpression finds the expression without quotes in a line that the YAML
// library refuses: in [ … ] and { … } YAML takes its braces for its own, and
// elsewhere it ends a key at a `: ` in it.
func (p *parser) bareExpression(message string, line int) (Diagnostic, bool) {
	flow := strings.HasPrefix(message, "did not find expected ','") || message == "did not find expected node content"
	colon := message == "mapping values are not allowed in this context"
	if !flow && !colon {
		return Diagnostic{}, false
	}
	text := p.src.lines[line-1]
	depth, opened := 0, false
	quote, before := byte(0), byte(' ') // before: the last character that is no space
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote != 0:
			if c == '\\' && quote == '"' {
				i++
			} else if c == quote {
				quote = 0
			}
		case (c == '"' || c == '\'') && strings.IndexByte(" {[,:-", before) >= 0:
			quote = c
		case c == '#' && i > 0 && text[i-1] == ' ':
			return Diagnostic{}, false
		case strings.HasPrefix(text[i:], "${{"):
			end := strings.Index(text[i:], "}}") + 2
			if end < 2 {
				return Diagnostic{}, false
			}
			for i+end < len(text) && text[i+end] == '}' && strings.Count(text[i:i+end], "{") > strings.Count(text[i:i+end], "}") {
				end++ // a brace of the expression's own came first
			}
			if rest := strings.TrimLeft(text[i+end:], " "); strings.HasPrefix(rest, "}}") && strings.Count(text[i:i+end], "{") > strings.Count(text[i:i+end], "}") {
				end = len(text) - len(rest) - i + 2
			}
			expr, q, why := text[i:i+end], `"`, "inside { } and [ ] YAML takes the braces of an expression for its own"
			if strings.Contains(expr, `"`) {
				q = "'"
			}
			if colon {
				why = "YAML ends a key at `: `, in an expression too"
			}
			if colon && !strings.Contains(expr, ": ") || flow && depth == 0 && opened {
				i += end - 1
				break
			}
			return Diagnostic{Pos: program.Pos{Line: line, Col: utf8.RuneCountInString(text[:i]) + 1},
				Width: utf8.RuneCountInString(expr), Message: why + "; quote it: " + q + expr + q}, true
		case c == '{' || c == '[':
			depth, opened = depth+1, true
		case c == '}' || c == ']':
			depth--
		}
		if c != ' ' {
			before = c
		}
	}
	return Diagnostic{}, false
}

// firstBadLine searches the shortest beginning of the text that shows the same error.
func (p *parser) firstBadLine(body, message string, line int) int {
	if len(body) > MaxBytes/4 {
		return line
	}
	ends := []int{}
	for i := range len(body) {
		if body[i] == '\n' {
			ends = append(ends, i+1)
		}
	}
	ends = append(ends, len(body))
	bad := sort.Search(len(ends), func(i int) bool {
		dec := yaml.NewDecoder(strings.NewReader(body[:ends[i]]))
		for {
			if err := decode(dec, new(yaml.Node)); err != nil {
				return strings.HasSuffix(err.Error(), message)
			}
		}
	})
	return min(bad+1, len(ends))
}
