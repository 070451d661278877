package runview

import (
	"fmt"
	"strings"

	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/almanac-run/almanac/workflows"
)

// mostRecaps bounds the steps of which Ending tells how their targets fared.
const mostRecaps = 20

// Recaps are the steps of v that ran on several targets.
func Recaps(v workflows.View) []workflows.StepView {
	var steps []workflows.StepView
	for _, s := range v.Steps {
		if s.Recap != nil {
			steps = append(steps, s)
		}
	}
	return steps
}

// leftUndone tells whether targets are left on which a step has not succeeded.
func leftUndone(c *workflows.Recap) bool {
	return c != nil && c.Failed+c.Unreached+c.Skipped+c.Cancelled+c.Away > 0
}

// counts says how many targets stand how: "38 ok, 1 failed, 1 skipped".
func counts(c *workflows.Recap) string {
	parts := []string{fmt.Sprintf("%d ok", c.Succeeded)}
	for _, p := range []struct {
		n    int
		what string
	}{{c.Failed, "failed"}, {c.Unreached, "unreached"}, {c.Skipped, "skipped"}, {c.Cancelled, "cancelled"}, {c.Away, "away"}, {c.Running, "running"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	return strings.Join(parts, ", ")
}

// recap tells for each step on several targets how these fared, what failed
// alike together.
func recap(v workflows.View, o Options) string {
	steps := Recaps(v)
	if len(steps) == 0 {
		return ""
	}
	width := 0
	for i, s := range steps {
		if i < mostRecaps {
			width = max(width, text.StringWidthWithoutEscSequences(line(s.Path)))
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", o.paint("targets", text.Bold))
	for i, s := range steps {
		if i == mostRecaps {
			fmt.Fprintf(&b, "  … and %d more steps\n", len(steps)-i)
			break
		}
		color := text.FgGreen
		if leftUndone(s.Recap) {
			color = text.FgRed
		}
		path := line(s.Path)
		pad := strings.Repeat(" ", max(width-text.StringWidthWithoutEscSequences(path), 0))
		fmt.Fprintf(&b, "  %s%s  %s\n", path, pad, o.paint(counts(s.Recap), color))
		b.WriteString(failures(s.Recap, len(s.Recap.Failures), "    ", o))
		if n := s.Recap.Skipped + s.Recap.Cancelled + s.Recap.Away; n > 0 {
			fmt.Fprintf(&b, "    %s\n", clip("not done: "+some(s.Recap.Left, n), o.width()-4))
		}
	}
	return b.String()
}

// failures lists the targets of c that failed, alike ones together: of the
// groups the first most.
func failures(c *workflows.Recap, most int, indent string, o Options) string {
	var b strings.Builder
	others := c.Others
	for i, a := range c.Failures {
		if i >= most {
			others += a.Count
			continue
		}
		fmt.Fprintf(&b, "%s%s\n", indent, clip(fmt.Sprintf("%d × %s: %s", a.Count, why(a), line(a.Line)), o.width()-len(indent)))
		fmt.Fprintf(&b, "%s    %s\n", indent, clip(some(a.Nodes, a.Count), o.width()-len(indent)-4))
	}
	if others > 0 {
		fmt.Fprintf(&b, "%s%d in other ways\n", indent, others)
	}
	return b.String()
}

// why is how targets failed, in a word or two: the exit code of a command, else
// the kind of error.
func why(a workflows.Alike) string {
	if a.ExitCode > 0 && a.Kind == "failed" {
		return fmt.Sprintf("exit %d", a.ExitCode)
	}
	return line(a.Kind)
}

// some names targets, the first of so many.
func some(names []string, of int) string {
	s := line(strings.Join(names, ", "))
	if of > len(names) {
		s += fmt.Sprintf(" and %d more", of-len(names))
	}
	return s
}
