package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/internal/runview"
)

func (a *app) planCommand() *cobra.Command {
	var in inputFlags
	var nodes bool
	cmd := &cobra.Command{
		Use:   "plan RUNBOOK",
		Short: "Show what a runbook would do, without a server",
		Long: `Show what an execution would do with these inputs, as far as it can be told
before it runs: for each step

  +  it runs            -  it is skipped, and why
  ?  it is decided while the execution runs, and by what

with its targets and inputs, who must approve, and what rollback would undo (↶).
A value in parentheses is not known yet: (known after build). Steps in a loop or
a called runbook stand below it. Nothing is started, and nothing is asked of a server
unless --nodes is given: then the plan names the nodes that conditions match now.
An execution chooses when the step begins.`,
		Example: a.examples(
			"starter plan linux/rolling-restart -i service=nginx -i targets=web-1,web-2",
			"starter plan ./patch.yaml --inputs prod.yaml -o json",
			"starter plan ./patch.yaml --nodes",
		),
		Args:              one("RUNBOOK"),
		ValidArgsFunction: runbookArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			prog, err := a.load(args[0])
			if err != nil {
				return err
			}
			inputs, err := a.inputs(args[0], prog, in, true)
			if err != nil {
				return err
			}
			var fleet []registry.Listed
			if nodes {
				err := a.with(cmd.Context(), func(ctx context.Context, s *server) (err error) {
					fleet, err = s.matching(ctx, "")
					return a.explain(s, "", err)
				})
				if err != nil {
					return err
				}
			}
			pl := planOn(prog, inputs, fleet)
			if a.json() {
				return printJSON(a.stdout, pl)
			}
			printPlan(a.stdout, pl, a.view(a.stdout))
			return nil
		},
	}
	in.add(a, cmd)
	cmd.Flags().BoolVar(&nodes, "nodes", false, "ask the registry which nodes conditions match now")
	return cmd
}

// summary is a plan in one line.
func summary(pl *plan) string {
	t := pl.Totals
	parts := []string{fmt.Sprintf("%d to run", t.Run)}
	if t.Skip > 0 {
		parts = append(parts, fmt.Sprintf("%d skipped", t.Skip))
	}
	if t.Later > 0 {
		parts = append(parts, fmt.Sprintf("%d decided later", t.Later))
	}
	if t.Approvals > 0 {
		parts = append(parts, plural(t.Approvals, "approval"))
	}
	s := fmt.Sprintf("plan: %s: %s", pl.Runbook, strings.Join(parts, ", "))
	switch {
	case pl.OnFailure == "stop":
		s += "; on failure nothing is rolled back"
	case t.Undo > 0:
		s += fmt.Sprintf("; rollback would undo %s", plural(t.Undo, "step"))
	}
	return s
}

func printPlan(w io.Writer, pl *plan, o runview.Options) {
	paint := func(s string, colors ...text.Color) string {
		if !o.Color {
			return s
		}
		return text.Escape(s, text.Colors(colors).EscapeSeq())
	}
	title := paint(pl.Runbook, text.Bold)
	if pl.Summary != "" {
		title += ": " + runview.Clean(pl.Summary)
	}
	fmt.Fprintln(w, title)
	limit := ""
	if pl.Timeout != "" {
		limit = "; timeout " + pl.Timeout
	}
	fmt.Fprintf(w, "on failure: %s%s\n", pl.OnFailure, limit)
	if pl.Lock != nil {
		fmt.Fprintf(w, "lock: %s\n", short(pl.Lock.Value, o.Width-6))
	}
	if pl.Places > 0 {
		fmt.Fprintf(w, "at once: at most %s of it\n", plural(pl.Places, "execution"))
	}

	var rows [][]string
	for _, in := range pl.inputs {
		if raw, ok := pl.Inputs[in.Name]; ok {
			rows = append(rows, []string{in.Name, short(runview.PlainValue(raw), o.Width-24)})
		}
	}
	section(w, "inputs", rows)
	rows = nil
	for _, v := range pl.Vars {
		rows = append(rows, []string{v.Name, short(v.Value, o.Width-24)})
	}
	section(w, "vars", rows)

	t := table.NewWriter()
	t.SetStyle(table.Style{Box: table.BoxStyle{PaddingRight: "  "}, Options: table.OptionsNoBordersAndSeparators})
	t.SuppressTrailingSpaces()
	room := max(cmp.Or(o.Width, 120)-50, 30)
	narrow := o.Width > 0 && o.Width < 80 // what there is to say of a step stands below it
	phase := ""
	for _, s := range pl.Steps {
		if s.Phase != phase {
			phase = s.Phase
			t.AppendRow(table.Row{"", paint(phase, text.Faint)})
		}
		mark, color := "+", text.FgGreen
		switch s.Decision {
		case willSkip:
			mark, color = "-", text.Faint
		case later:
			mark, color = "?", text.FgYellow
		}
		name := lastID(s.Path)
		if s.Name != "" {
			name = s.Name
		}
		undo := ""
		if s.Undo != "" && s.Decision != willSkip {
			undo = "↶"
		}
		indent := strings.Repeat("  ", s.Depth)
		if narrow {
			room = max(o.Width-9-len(indent), 20)
			title := short(strings.TrimRight(name+" · "+s.Form+" "+undo, " "), room+2)
			below := strings.ReplaceAll("\n"+planDetail(s, room), "\n", "\n"+indent+"  ")
			t.AppendRow(table.Row{paint(mark, color), strings.TrimRight(indent+title+below, " \n")})
			continue
		}
		t.AppendRow(table.Row{paint(mark, color), indent + oneLine(name), paint(s.Form, text.Faint), undo, planDetail(s, room)})
	}
	fmt.Fprintln(w, "\nsteps")
	for _, l := range strings.Split(t.Render(), "\n") {
		fmt.Fprintln(w, strings.TrimRight("  "+l, " "))
	}
	fmt.Fprintf(w, "\n%s\n", summary(pl))
}

func section(w io.Writer, title string, rows [][]string) {
	if len(rows) > 0 {
		fmt.Fprintf(w, "\n%s\n", title)
		columns(w, "  ", nil, rows)
	}
}

// planDetail is what there is to say of a planned step, one thing on a line of
// at most room columns.
func planDetail(s plannedStep, room int) string {
	var lines []string
	if s.Why != "" {
		// What decides it stays in sight, however long the condition is.
		switch after := knownAfter(s.DependsOn); {
		case len(s.DependsOn) == 0:
			lines = append(lines, short(s.Why, room))
		case len(after)+20 > room:
			lines = append(lines, short(s.Why, room), short(after, room))
		default:
			lines = append(lines, short(s.Why, room-len(after)-1)+" "+after)
		}
	}
	if s.Decision == willSkip {
		return strings.Join(lines, "\n")
	}
	if s.Targets != "" {
		lines = append(lines, short("on "+s.Targets, room))
	}
	if s.Note != "" {
		lines = append(lines, short(s.Note, room))
	}
	for _, v := range s.With {
		text, rest, _ := strings.Cut(strings.TrimSpace(v.Value), "\n")
		if rest != "" {
			more := plural(strings.Count(rest, "\n")+1, "more line")
			text = short(text, room-len(v.Name)-len(more)-6) + " (" + more + ")"
		}
		lines = append(lines, short(v.Name+": "+text, room))
	}
	return strings.Join(lines, "\n")
}

func oneLine(s string) string { return strings.Join(strings.Fields(runview.Clean(s)), " ") }

// short is s on one line of at most width columns.
func short(s string, width int) string {
	if width < 20 {
		width = 96
	}
	return text.Snip(oneLine(s), width, "…")
}
