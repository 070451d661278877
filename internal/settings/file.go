package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/almanac-run/almanac/lang/program"
)

// entry is what a file says of one setting.
type entry struct {
	place  string // file:line
	values []string
	list   bool
}

// mostFile bounds what is read of a file of settings, in bytes.
const mostFile = 1 << 20

func readFile(name string, known []string) (map[string]entry, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("file of settings: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, mostFile+1))
	if err != nil {
		return nil, fmt.Errorf("file of settings: %w", err)
	}
	if len(text) > mostFile {
		return nil, fmt.Errorf("%s: more than %d bytes, which is no file of settings", name, mostFile)
	}
	return parse(name, text, known)
}

// parse reads a mapping of names to scalars or lists of scalars. It returns all
// mistakes, a line for each.
func parse(file string, text []byte, known []string) (map[string]entry, error) {
	entries := map[string]entry{}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return entries, nil
	} else if err != nil {
		return nil, fmt.Errorf("%s: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var wrong []error
	say := func(n *yaml.Node, format string, args ...any) {
		wrong = append(wrong, fmt.Errorf("%s:%d:%d: %s", file, n.Line, n.Column, fmt.Sprintf(format, args...)))
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return entries, nil // comments only
	}
	if root.Kind != yaml.MappingNode {
		say(root, "want settings, each as name: value")
		return nil, errors.Join(wrong...)
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		e := entry{place: fmt.Sprintf("%s:%d", file, key.Line)}
		_, twice := entries[key.Value]
		switch {
		case !slices.Contains(known, key.Value):
			say(key, "no setting %q%s", key.Value, suggestion(key.Value, known))
			continue
		case twice:
			say(key, "%s is set twice, in %s as well", key.Value, entries[key.Value].place)
			continue
		case value.Kind == yaml.SequenceNode:
			e.list = true
			for _, v := range value.Content {
				if v.Kind != yaml.ScalarNode || v.Tag == "!!null" {
					say(v, "%s: want a value in each line of the list", key.Value)
					continue
				}
				e.values = append(e.values, v.Value)
			}
		case value.Kind == yaml.ScalarNode && value.Tag != "!!null":
			e.values = []string{value.Value}
		default:
			say(value, "%s: want a value, or a list of values", key.Value)
		}
		entries[key.Value] = e
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		wrong = append(wrong, fmt.Errorf("%s: more than one document; only one can be the settings", file))
	}
	return entries, errors.Join(wrong...)
}

// suggestion is what an unknown name may have been meant to be.
func suggestion(name string, known []string) string {
	plain := strings.ToLower(strings.ReplaceAll(strings.TrimLeft(name, "-"), "_", "-"))
	if slices.Contains(known, plain) {
		return "; did you mean " + plain + "?"
	}
	if n := program.Nearest(plain, known); n != "" {
		return "; did you mean " + n + "?"
	}
	return "; there is " + strings.Join(known, ", ")
}
