package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/lang/syntax"
	"github.com/almanac-run/almanac/patch"
	"github.com/almanac-run/almanac/patch/baseline"
)

func (a *app) baselineCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "baseline",
		Short: "Check what patches are approved by",
		Long: `A baseline is a file of rules that say which updates of a machine's packages are
wanted; docs/baselines.md explains it.`,
		Example: a.examples("starter baseline check prod-linux.yaml"),
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.baselineCheckCommand())
	return cmd
}

func (a *app) baselineCheckCommand() *cobra.Command {
	var os string
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Find every mistake in a baseline, and list its rules",
		Long: `Check a baseline as a node does before it decides: keys, delays, pins and every
expression over patch. All mistakes are shown in one pass, each with its place,
the line and a caret. Then its rules are listed as they are numbered in reports;
with --os those for one system, as in rhel or rhel:9.

FILE may be - for standard input. Warnings alone do not fail. With -o json the
output is an object: diagnostics, as starter check --json prints them, and
baseline, as the input of an action takes it.`,
		Example: a.examples("starter baseline check prod-linux.yaml", "starter baseline check prod-linux.yaml --os debian:12"),
		Args:    one("FILE"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(_ *cobra.Command, args []string) error {
			file := args[0]
			if !isFile(file) {
				file = "./" + file // never the name of a runbook
			}
			return a.checkBaseline(file, os)
		},
	}
	cmd.Flags().StringVar(&os, "os", "", "list the rules for one system: its ID in os-release, perhaps with a version")
	return cmd
}

func (a *app) checkBaseline(arg, os string) error {
	file, source, err := a.read(arg)
	if err != nil {
		return err
	}
	b, ds := baseline.Parse(file, source)
	if a.json() {
		if ds == nil {
			ds = []syntax.Diagnostic{}
		}
		out := struct {
			Diagnostics []syntax.Diagnostic `json:"diagnostics"`
			Baseline    *patch.Baseline     `json:"baseline"`
		}{ds, b}
		if err := printJSON(a.stdout, out); err != nil {
			return err
		}
	} else {
		fmt.Fprint(a.stdout, runview.Diagnostics(ds, a.view(a.stdout)))
		if len(ds) > 0 {
			fmt.Fprintln(a.stdout)
		}
		if b != nil {
			a.printBaseline(b, os)
		}
		fmt.Fprintf(a.stdout, "1 baseline checked, %s\n", mistakes(ds))
	}
	if b == nil {
		return &exitError{code: exitInvalid}
	}
	return nil
}

// printBaseline lists the rules, numbered as reports number them, and the pins.
func (a *app) printBaseline(b *patch.Baseline, os string) {
	fmt.Fprintf(a.stdout, "%s  %s\n", runview.Clean(b.Name), b.Digest())
	if b.Summary != "" {
		fmt.Fprintln(a.stdout, runview.Clean(b.Summary))
	}
	fmt.Fprintln(a.stdout)
	numbers := make([]int, len(b.Rules))
	for i := range numbers {
		numbers[i] = i + 1
	}
	if os != "" {
		id, version, _ := strings.Cut(os, ":")
		numbers = b.For(id, version)
	}
	var rows [][]string
	for _, n := range numbers {
		r := b.Rules[n-1]
		does, when, text := "approve", "at once", r.Approve
		if r.After > 0 {
			when = "after " + r.After.String()
		}
		if r.Reject != "" {
			does, when, text = "reject", "", r.Reject
		}
		systems := "all"
		if len(r.OS) > 0 {
			systems = strings.Join(r.OS, ", ")
		}
		rows = append(rows, []string{strconv.Itoa(n), does, when, systems, r.Level, text})
	}
	if len(rows) == 0 {
		fmt.Fprintf(a.stdout, "No rule is for %s: nothing is approved there.\n", runview.Clean(os))
	}
	heading := []string{"RULE", "", "WHEN", "SYSTEMS", "LEVEL", "PATCHES"}
	if !slices.ContainsFunc(rows, func(r []string) bool { return r[4] != "" }) {
		heading = slices.Delete(heading, 4, 5)
		for i := range rows {
			rows[i] = slices.Delete(rows[i], 4, 5)
		}
	}
	columns(a.stdout, "", heading, rows)
	if len(b.Pin) > 0 {
		fmt.Fprintln(a.stdout)
		rows = nil
		for name, version := range b.Pin {
			rows = append(rows, []string{name, version})
		}
		slices.SortFunc(rows, func(x, y []string) int { return strings.Compare(x[0], y[0]) })
		columns(a.stdout, "", []string{"PINNED", "TO"}, rows)
	}
	fmt.Fprintln(a.stdout)
}
