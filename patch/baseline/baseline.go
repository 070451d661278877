// Package baseline reads baselines from files.
//
// It gives Parse, which finds all mistakes of a file, each at its place: inside
// an expression too. What they are, package patch says; it is apart so that a
// node, which gets a baseline as an object, links no YAML.
package baseline

import (
	"slices"

	"github.com/almanac-run/almanac/lang/syntax"
	"github.com/almanac-run/almanac/patch"
)

// Parse reads a baseline. It is nil if there is an error among the diagnostics, which
// are all there are, in the order of their places. file is only for them.
func Parse(file string, source []byte) (*patch.Baseline, []syntax.Diagnostic) {
	root, diags := syntax.Parse(file, source)
	for i, d := range diags {
		switch d.Code { // it speaks of runbooks
		case "empty-file":
			diags[i].Message = "the file is empty; a baseline begins with `baseline: name`"
		case "not-a-map":
			diags[i].Message = "a baseline is a map with the keys `baseline:` and `rules:`"
		case "several-documents":
			diags[i].Message = "a file holds one baseline; a second document begins here"
		}
	}
	if root == nil {
		return nil, diags
	}
	b, mistakes := patch.Read(tree(root))
	for _, m := range mistakes {
		n := m.Node.Place.(*syntax.Node) // tree made it
		d := syntax.Diagnostic{Severity: syntax.Error, File: file, Pos: n.Pos, Width: n.Width, Code: m.Code, Message: m.Message}
		if m.Offset >= 0 {
			d.Pos, d.Width = n.At(m.Offset), m.Width
		}
		if m.Warning {
			d.Severity = syntax.Warning
		}
		diags = append(diags, d)
	}
	syntax.Sort(diags)
	if slices.ContainsFunc(diags, func(d syntax.Diagnostic) bool { return d.Severity == syntax.Error }) {
		return nil, diags
	}
	return b, diags
}

var kinds = map[syntax.Kind]patch.Kind{
	syntax.Null: patch.Nothing, syntax.Bool: patch.Bool, syntax.Int: patch.Number, syntax.Float: patch.Number,
	syntax.String: patch.String, syntax.List: patch.List, syntax.Map: patch.Map,
}

func tree(n *syntax.Node) *patch.Node {
	t := &patch.Node{Kind: kinds[n.Kind], Text: n.Value, Place: n}
	for _, item := range n.Items {
		t.Items = append(t.Items, tree(item))
	}
	for _, p := range n.Pairs {
		t.Pairs = append(t.Pairs, patch.Pair{Key: tree(p.Key), Value: tree(p.Value)})
	}
	return t
}
