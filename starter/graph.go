package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/almanac-run/almanac/lang/program"
)

func (a *app) graphCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "graph RUNBOOK",
		Short: "Draw a runbook's steps, as Mermaid or DOT",
		Long: `Draw the steps of a runbook in the order they run: blocks, loops and branches as
boxes, conditions on the arrows into their steps, ↶ on what rollback takes back.
Mermaid is shown by many Markdown viewers; DOT is drawn by Graphviz.`,
		Example:           a.examples("starter graph linux/rolling-restart", "starter graph ./patch.yaml --format dot | dot -Tsvg > patch.svg"),
		Args:              one("RUNBOOK"),
		ValidArgsFunction: runbookArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			if format != "mermaid" && format != "dot" {
				return usagef("--format is mermaid or dot, not %q", format)
			}
			prog, err := a.load(args[0])
			if err != nil {
				return err
			}
			g := graphOf(prog)
			switch {
			case a.json():
				return printJSON(a.stdout, g)
			case format == "dot":
				g.dot(a.stdout)
			default:
				g.mermaid(a.stdout)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "mermaid", "mermaid or dot")
	a.complete(cmd, "format", "mermaid", "dot")
	return cmd
}

// graph is a drawing: nodes, nested in boxes, and arrows.
type graph struct {
	Title string  `json:"title"`
	Nodes []gnode `json:"nodes"` // a box before what is in it
	Edges []gedge `json:"edges"`

	ends []string // nodes that end the execution: stop and fail
}

type gnode struct {
	ID    string `json:"id"`
	Label string `json:"label"`
	Box   string `json:"box,omitempty"` // id of the box around it
	IsBox bool   `json:"is_box,omitempty"`
	Kind  string `json:"kind"` // program.Kind, or "start", "end"
}

type gedge struct {
	From  string `json:"from"`
	To    string `json:"to"`
	Label string `json:"label,omitempty"`
}

func graphOf(prog *program.Program) *graph {
	g := &graph{Title: prog.Runbook, Nodes: []gnode{}, Edges: []gedge{}}
	g.Nodes = append(g.Nodes, gnode{ID: "start", Label: prog.Runbook, Kind: "start"})
	from := g.steps(prog.Steps, "", []string{"start"})
	from, g.ends = append(from, g.ends...), nil // `finally` runs however the steps end
	if len(prog.Finally) > 0 {
		g.Nodes = append(g.Nodes, gnode{ID: "box_finally", Label: "finally", IsBox: true, Kind: "finally"})
		from = g.steps(prog.Finally, "box_finally", from)
	}
	g.Nodes = append(g.Nodes, gnode{ID: "end", Label: "end", Kind: "end"})
	g.join(append(from, g.ends...), "end", "")
	return g
}

func (g *graph) join(from []string, to, label string) {
	for _, f := range from {
		g.Edges = append(g.Edges, gedge{f, to, label})
	}
}

// steps draws a sequence after the nodes of from, and returns the nodes that
// what comes next follows.
func (g *graph) steps(steps []program.Step, box string, from []string) []string {
	for i := range steps {
		s := &steps[i]
		label := s.ID + "\n" + form(s)
		undone := s.Call != nil && s.Call.Compensates
		if s.Rollback != nil {
			undone = !s.Rollback.None
		}
		if undone {
			label += " ↶"
		}
		cond := ""
		if s.If != nil {
			cond = "if " + strings.Join(strings.Fields(s.If.Text), " ")
		}
		id := "s_" + s.ID
		if len(s.Steps) == 0 && len(s.Branches) == 0 {
			g.Nodes = append(g.Nodes, gnode{ID: id, Label: label, Box: box, Kind: string(s.Kind)})
			g.join(from, id, cond)
			before := from
			from = []string{id}
			if s.OnError != nil && len(s.OnError.Steps) > 0 {
				from = append(from, g.handler(s, box, id)...)
			}
			if s.Kind == program.KindStop || s.Kind == program.KindFail {
				g.ends = append(g.ends, id)
				if s.If == nil {
					return nil
				}
				from = before // whoever comes to the next step has not stopped
			}
			continue
		}
		// A box is entered at its first steps and left from its last.
		inner := "box_" + s.ID
		g.Nodes = append(g.Nodes, gnode{ID: inner, Label: strings.ReplaceAll(label, "\n", " "), Box: box, IsBox: true, Kind: string(s.Kind)})
		enter := id
		g.Nodes = append(g.Nodes, gnode{ID: enter, Label: s.ID, Box: inner, Kind: "enter"})
		g.join(from, enter, cond)
		var last []string
		if len(s.Branches) > 0 {
			for _, b := range s.Branches {
				branch := "box_" + s.ID + "_" + b.Name
				g.Nodes = append(g.Nodes, gnode{ID: branch, Label: b.Name, Box: inner, IsBox: true, Kind: "branch"})
				last = append(last, g.steps(b.Steps, branch, []string{enter})...)
			}
		} else {
			last = g.steps(s.Steps, inner, []string{enter})
		}
		if s.Kind == program.KindForEach || s.Kind == program.KindRepeat {
			g.join(last, enter, "again")
		}
		from = last
		if s.OnError != nil && len(s.OnError.Steps) > 0 {
			from = append(from, g.handler(s, box, enter)...)
		}
	}
	return from
}

// handler draws the steps of on_error.
func (g *graph) handler(s *program.Step, box, id string) []string {
	inner := "box_" + s.ID + "_on_error"
	g.Nodes = append(g.Nodes, gnode{ID: inner, Label: "on_error", Box: box, IsBox: true, Kind: "on_error"})
	at := len(g.Edges)
	last := g.steps(s.OnError.Steps, inner, []string{id})
	if at < len(g.Edges) {
		g.Edges[at].Label = "error"
	}
	return last
}

// shapes of nodes in Mermaid, by kind; others are rectangles.
var shapes = map[string][2]string{
	"start": {"([", "])"}, "end": {"([", "])"}, "enter": {"((", "))"},
	"approval": {"{{", "}}"}, "pause": {"{{", "}}"}, "wait": {"[/", "/]"}, "wait_until": {"[/", "/]"},
	"runbook": {"[[", "]]"}, "assert": {"{", "}"},
}

func (g *graph) mermaid(w io.Writer) {
	quote := func(s string) string {
		return `"` + strings.NewReplacer("#", "#35;", `"`, "#quot;", "\n", "<br>", "<", "#lt;", ">", "#gt;").Replace(s) + `"`
	}
	fmt.Fprintln(w, "flowchart TD")
	var draw func(box, indent string)
	draw = func(box, indent string) {
		for _, n := range g.Nodes {
			if n.Box != box {
				continue
			}
			if n.IsBox {
				fmt.Fprintf(w, "%ssubgraph %s [%s]\n", indent, n.ID, quote(n.Label))
				draw(n.ID, indent+"  ")
				fmt.Fprintf(w, "%send\n", indent)
				continue
			}
			shape, ok := shapes[n.Kind]
			if !ok {
				shape = [2]string{"[", "]"}
			}
			fmt.Fprintf(w, "%s%s%s%s%s\n", indent, mermaidID(n.ID), shape[0], quote(n.Label), shape[1])
		}
	}
	draw("", "  ")
	for _, e := range g.Edges {
		label := ""
		if e.Label != "" {
			label = "|" + quote(e.Label) + "|"
		}
		fmt.Fprintf(w, "  %s -->%s %s\n", mermaidID(e.From), label, mermaidID(e.To))
	}
}

// mermaidID avoids "end", which is a keyword there.
func mermaidID(id string) string {
	if id == "end" {
		return "end_"
	}
	return id
}

func (g *graph) dot(w io.Writer) {
	quote := func(s string) string {
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
	}
	fmt.Fprintf(w, "digraph %s {\n  node [shape=box, fontname=\"sans-serif\"];\n", quote(g.Title))
	shapes := map[string]string{"start": "oval", "end": "oval", "enter": "circle", "approval": "hexagon", "pause": "hexagon", "assert": "diamond", "runbook": "component"}
	var draw func(box, indent string)
	draw = func(box, indent string) {
		for _, n := range g.Nodes {
			if n.Box != box {
				continue
			}
			if n.IsBox {
				fmt.Fprintf(w, "%ssubgraph %s {\n%s  label=%s;\n", indent, quote("cluster_"+n.ID), indent, quote(n.Label))
				draw(n.ID, indent+"  ")
				fmt.Fprintf(w, "%s}\n", indent)
				continue
			}
			shape := ""
			if s := shapes[n.Kind]; s != "" {
				shape = ", shape=" + s
			}
			fmt.Fprintf(w, "%s%s [label=%s%s];\n", indent, quote(n.ID), quote(n.Label), shape)
		}
	}
	draw("", "  ")
	for _, e := range g.Edges {
		label := ""
		if e.Label != "" {
			label = " [label=" + quote(e.Label) + "]"
		}
		fmt.Fprintf(w, "  %s -> %s%s;\n", quote(e.From), quote(e.To), label)
	}
	fmt.Fprintln(w, "}")
}
