package main

import (
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/almanac-run/almanac/internal/inventory"
	"github.com/almanac-run/almanac/internal/inventory/rules"
	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/lang/expr"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/lang/syntax"
)

// An asker puts a question to the control worker.
type asker func(ctx context.Context, activity string, in, out any) error

// askInventory does what do does with the inventory of a server.
func (a *app) askInventory(ctx context.Context, do func(context.Context, asker) error) error {
	return a.with(ctx, func(ctx context.Context, s *server) error {
		return a.explain(s, "", do(ctx, func(ctx context.Context, activity string, in, out any) error {
			return s.ask(ctx, activity, "", in, out)
		}))
	})
}

func (a *app) inventoryCommand() *cobra.Command {
	var at string
	var kinds []string
	var asCSV bool
	cmd := &cobra.Command{
		Use:   "inventory NODE",
		Short: "Show what a node has, and find things on all nodes",
		Long: `Show what is known of a node, now or at an earlier time: its packages, services,
users, listening ports, files and what else a runbook has had collected by
host.inventory.collect.

The subcommands compare two times, search all nodes, and check rules.`,
		Example: a.examples(
			"starter inventory web-1 --kind package,service",
			"starter inventory web-1 --at 2026-11-01",
			"starter inventory diff web-1 --since 7d",
			`starter inventory query 'item.kind == "package" && item.key == "openssl"'`,
		),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("which node? starter nodes lists them")
			}
			return nil
		},
		ValidArgsFunction: a.nodeArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			in := inventory.ShowInput{Node: args[0], Kinds: kinds}
			var err error
			if in.At, err = moment("--at", at, time.Now()); err != nil {
				return err
			}
			return a.askInventory(cmd.Context(), func(ctx context.Context, ask asker) error {
				return a.inventoryShow(ctx, ask, in, asCSV)
			})
		},
	}
	cmd.Flags().StringVar(&at, "at", "", "show what it had then: a time (2026-11-01, 2026-11-01T12:00:00Z) or so long ago (7d)")
	cmd.Flags().StringSliceVar(&kinds, "kind", nil, "only these kinds, such as package or file")
	cmd.Flags().BoolVar(&asCSV, "csv", false, "print comma-separated values")
	cmd.AddCommand(a.inventoryDiffCommand(), a.inventoryQueryCommand(), a.inventoryCheckCommand())
	return cmd
}

// moment reads a time: a date, a time of RFC 3339, or how long before now. Empty is the zero time.
func moment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := program.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, text, time.Local); err == nil {
		return t, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, usagef("%s is a time such as 2026-11-01 or 2026-11-01T12:00:00Z, or how long ago, such as 7d; not %q", flag, text)
	}
	return t, nil
}

// inventoryTime is a time in a table.
func inventoryTime(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// pairs writes values as name=value, sorted by name.
func pairs(values map[string]any) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		all = append(all, name+"="+plainValue(values[name]))
	}
	return strings.Join(all, " ")
}

func plainValue(v any) string {
	text, ok := v.(string)
	if !ok {
		raw, err := json.Marshal(v)
		if err != nil {
			return fmt.Sprint(v)
		}
		return string(raw)
	}
	if text == "" || strings.ContainsAny(text, " =\"\n\t") {
		return strconv.Quote(text)
	}
	return text
}

// clippedTo shortens a cell of a table.
func clippedTo(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// mostCell is how wide the values of an item are shown in a table; -o json and --csv have all of them.
const mostCell = 120

func writeCSV(w io.Writer, heading []string, rows [][]string) error {
	out := csv.NewWriter(w)
	_ = out.Write(heading) // Error says it
	for _, row := range rows {
		for i := range row {
			row[i] = runview.Clean(row[i])
		}
		_ = out.Write(row)
	}
	out.Flush()
	return out.Error()
}

// nothingKnown says what was asked for and not found. known are the sections, of those kinds, that the node ever reported.
func nothingKnown(in inventory.ShowInput, known []inventory.Reported) string {
	text := "nothing"
	if len(in.Kinds) > 0 {
		text += " of kind " + strings.Join(in.Kinds, " or ")
	}
	text += " is known of " + in.Node
	if !in.At.IsZero() {
		text += " at " + in.At.Local().Format("2006-01-02 15:04")
	}
	if len(known) == 0 {
		return text + "; it never reported that"
	}
	first := slices.MinFunc(known, func(a, b inventory.Reported) int { return a.FirstAt.Compare(b.FirstAt) }).FirstAt
	if !in.At.IsZero() && in.At.Before(first) {
		text += "; its first report was at " + first.Local().Format("2006-01-02 15:04")
	}
	return text
}

func (a *app) inventoryShow(ctx context.Context, ask asker, in inventory.ShowInput, asCSV bool) error {
	all := inventory.NodePage{Sections: []inventory.Reported{}, Items: []inventory.Item{}}
	for {
		var page inventory.NodePage
		if err := ask(ctx, inventory.ActivityShow, in, &page); err != nil {
			return err
		}
		all.At, all.Sections = page.At, page.Sections
		all.Items = append(all.Items, page.Items...)
		if in.Cursor = page.Cursor; in.Cursor == "" {
			break
		}
	}
	if a.json() {
		return printJSON(a.stdout, all)
	}
	most := mostCell
	if asCSV {
		most = 1 << 30
	}
	var rows [][]string
	for _, i := range all.Items {
		rows = append(rows, []string{i.Kind, i.Key, clippedTo(pairs(i.Values), most)})
	}
	if asCSV {
		return writeCSV(a.stdout, []string{"kind", "key", "values"}, rows)
	}
	if len(rows) == 0 {
		fmt.Fprintln(a.stderr, runview.Clean(nothingKnown(in, all.Sections)))
		return nil
	}
	columns(a.stdout, "", []string{"KIND", "KEY", "VALUES"}, rows)
	seen := time.Time{}
	for _, s := range all.Sections {
		if s.SeenAt.After(seen) {
			seen = s.SeenAt
		}
	}
	fmt.Fprintf(a.stdout, "%s, last reported %s\n", plural(len(rows), "item"), inventoryTime(seen))
	return nil
}

func (a *app) inventoryDiffCommand() *cobra.Command {
	var since, until string
	var kinds []string
	var asCSV bool
	cmd := &cobra.Command{
		Use:   "diff NODE",
		Short: "Show what changed on a node",
		Long: `Compare what a node had at two times: what was added, removed or changed, and when
that was first found. What was reported for the first time in between is compared
with that first report.`,
		Example: a.examples(
			"starter inventory diff web-1 --since 7d",
			"starter inventory diff web-1 --since 2026-11-01 --until 2026-11-08 --kind package",
		),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("which node? starter nodes lists them")
			}
			return nil
		},
		ValidArgsFunction: a.nodeArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			in := inventory.DiffInput{Node: args[0], Kinds: kinds}
			var err error
			if in.Since, err = moment("--since", since, time.Now()); err != nil {
				return err
			}
			if in.Until, err = moment("--until", until, time.Now()); err != nil {
				return err
			}
			return a.askInventory(cmd.Context(), func(ctx context.Context, ask asker) error {
				return a.inventoryDiff(ctx, ask, in, asCSV)
			})
		},
	}
	cmd.Flags().StringVar(&since, "since", "1d", "the earlier time: a time (2026-11-01) or so long ago (7d)")
	cmd.Flags().StringVar(&until, "until", "", "the later time; else now")
	cmd.Flags().StringSliceVar(&kinds, "kind", nil, "only these kinds, such as package or file")
	cmd.Flags().BoolVar(&asCSV, "csv", false, "print comma-separated values")
	return cmd
}

func (a *app) inventoryDiff(ctx context.Context, ask asker, in inventory.DiffInput, asCSV bool) error {
	all := inventory.DiffPage{Changes: []inventory.Change{}}
	for {
		var page inventory.DiffPage
		if err := ask(ctx, inventory.ActivityDiff, in, &page); err != nil {
			return err
		}
		all.First = page.First
		all.Changes = append(all.Changes, page.Changes...)
		if in.Cursor = page.Cursor; in.Cursor == "" {
			break
		}
	}
	if a.json() {
		return printJSON(a.stdout, all)
	}
	var rows [][]string
	for _, c := range all.Changes {
		if asCSV {
			rows = append(rows, []string{c.What, c.At.Format(time.RFC3339), c.Kind, c.Key, pairs(c.Before), pairs(c.After)})
			continue
		}
		rows = append(rows, []string{c.What, inventoryTime(c.At), c.Kind, c.Key, clippedTo(changed(c), mostCell)})
	}
	if asCSV {
		return writeCSV(a.stdout, []string{"what", "at", "kind", "key", "before", "after"}, rows)
	}
	for _, name := range all.First {
		fmt.Fprintf(a.stderr, "%s was first reported since then, and is compared with that report\n", runview.Clean(name))
	}
	if len(rows) == 0 {
		fmt.Fprintln(a.stdout, "nothing changed")
		return nil
	}
	columns(a.stdout, "", []string{"WHAT", "FOUND", "KIND", "KEY", "VALUES"}, rows)
	fmt.Fprintln(a.stdout, plural(len(rows), "change"))
	return nil
}

// changed says what is different about an item: of one that is new or gone all of it.
func changed(c inventory.Change) string {
	if c.Before == nil || c.After == nil {
		return pairs(c.Before) + pairs(c.After)
	}
	names := map[string]bool{}
	for name := range c.Before {
		names[name] = true
	}
	for name := range c.After {
		names[name] = true
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		side := func(values map[string]any) string {
			if v, ok := values[name]; ok {
				return plainValue(v)
			}
			return "none"
		}
		if before, after := side(c.Before), side(c.After); before != after {
			all = append(all, fmt.Sprintf("%s %s → %s", name, before, after))
		}
	}
	return strings.Join(all, ", ")
}

func (a *app) inventoryQueryCommand() *cobra.Command {
	var limit int
	var asCSV bool
	cmd := &cobra.Command{
		Use:   "query CONDITION",
		Short: "Find items on all nodes by a condition",
		Long: `Find what nodes have now and meets a condition: CEL over item, with the fields
node, kind, key, first_seen, the item's own values (item.version), and values, which
has them again (item.values.kind). An item that lacks a field does not meet a
condition that asks for it. Text is compared as text: "10" < "9".`,
		Example: a.examples(
			`starter inventory query 'item.kind == "package" && item.key == "openssl" && !item.version.startsWith("3.")'`,
			`starter inventory query 'item.kind == "port" && item.port < 1024 && item.node.startsWith("web-")'`,
			`starter inventory query 'item.kind == "user" && item.uid == 0 && item.key != "root"' -o json`,
		),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("want one condition, in quotes: 'item.kind == \"package\"'")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 {
				return usagef("--limit is at least 1")
			}
			if err := checkItemCondition(args[0]); err != nil {
				return err
			}
			return a.askInventory(cmd.Context(), func(ctx context.Context, ask asker) error {
				return a.inventoryQuery(ctx, ask, args[0], limit, asCSV)
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 1000, "how many at most")
	cmd.Flags().BoolVar(&asCSV, "csv", false, "print comma-separated values")
	return cmd
}

// checkItemCondition finds the mistakes of a condition over item.
func checkItemCondition(text string) error {
	checked, problems := expr.Check(text, rules.Scope)
	for _, p := range problems {
		return usagef("%s\n  %s\n  %s^", p.Message, text, strings.Repeat(" ", p.Offset))
	}
	if k := checked.Type.Kind; k != program.Bool && k != program.Any {
		return usagef("the condition is true or false, and this is a %s: %s", checked.Type, text)
	}
	return nil
}

func (a *app) inventoryQuery(ctx context.Context, ask asker, text string, limit int, asCSV bool) error {
	all := inventory.QueryPage{Items: []inventory.Found{}}
	in := inventory.QueryInput{Query: text}
	for {
		in.Limit = min(limit-len(all.Items), 1000)
		var page inventory.QueryPage
		if err := ask(ctx, inventory.ActivityQuery, in, &page); err != nil {
			return err
		}
		all.Items = append(all.Items, page.Items...)
		all.Unclear += page.Unclear
		all.Why = cmp.Or(all.Why, page.Why)
		all.Cursor = page.Cursor
		if in.Cursor = page.Cursor; in.Cursor == "" || len(all.Items) >= limit {
			break
		}
	}
	if all.Unclear > 0 {
		fmt.Fprintf(a.stderr, "the condition failed for %s: %s\n", plural(all.Unclear, "fact"), runview.Clean(all.Why))
	}
	if all.Cursor != "" {
		fmt.Fprintf(a.stderr, "there are more than %d; --limit shows more\n", limit)
	}
	all.Cursor = "" // of no use to who reads this
	if a.json() {
		return printJSON(a.stdout, all)
	}
	var rows [][]string
	for _, f := range all.Items {
		if asCSV {
			rows = append(rows, []string{f.Node, f.Kind, f.Key, pairs(f.Values), f.FirstSeen.Format(time.RFC3339)})
			continue
		}
		rows = append(rows, []string{f.Node, f.Kind, f.Key, clippedTo(pairs(f.Values), mostCell)})
	}
	if asCSV {
		return writeCSV(a.stdout, []string{"node", "kind", "key", "values", "first_seen"}, rows)
	}
	if len(rows) == 0 {
		fmt.Fprintln(a.stderr, "no node has such an item")
		return nil
	}
	columns(a.stdout, "", []string{"NODE", "KIND", "KEY", "VALUES"}, rows)
	fmt.Fprintln(a.stdout, plural(len(rows), "item"))
	return nil
}

func (a *app) inventoryCheckCommand() *cobra.Command {
	var failOn string
	var record, asCSV bool
	cmd := &cobra.Command{
		Use:   "check RULES",
		Short: "Check rules about items on all nodes",
		Long: `Check a file of rules on all nodes that the inventory knows, and show for each
whether it complies and which items do not. A rule names a kind of items and what
must hold of each of them:

  rules:
    - name: sshd-no-root
      summary: sshd forbids root login
      severity: critical
      kind: fact
      where: item.key == "sshd"
      assert: item.permitrootlogin == "no"
      required: true

where: picks the items, and required: makes a rule of a node that has none. A rule
that cannot be decided of an item, since that lacks a field, does not hold. A node that
never reported the kind is unknown.

With --record the outcome is kept as the nodes' compliance with a baseline of the
file's name. With --fail-on the exit code is 12 if a node breaks a rule of that
severity or a worse one; "any" also counts nodes that are unknown.`,
		Example: a.examples(
			"starter inventory check ssh.yaml",
			"starter inventory check ssh.yaml --record --fail-on important",
		),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("want one file of rules, or -")
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if failOn != "" && failOn != failOnAny && !slices.Contains(severities, failOn) {
				return usagef("--fail-on is one of %s, any, not %q", strings.Join(severities, ", "), failOn)
			}
			in, err := a.readRules(args[0])
			if err != nil {
				return err
			}
			in.Record = record
			return a.askInventory(cmd.Context(), func(ctx context.Context, ask asker) error {
				return a.inventoryCheck(ctx, ask, in, failOn, asCSV)
			})
		},
	}
	cmd.Flags().BoolVar(&record, "record", false, "keep the outcome as the nodes' compliance")
	cmd.Flags().StringVar(&failOn, "fail-on", "", "exit code 12 if a rule of this severity or a worse one is broken: "+strings.Join(severities, ", ")+", any")
	cmd.Flags().BoolVar(&asCSV, "csv", false, "print comma-separated values")
	a.complete(cmd, "fail-on", append(slices.Clone(severities), failOnAny)...)
	return cmd
}

// readRules reads and checks a file of rules; its mistakes are printed.
func (a *app) readRules(arg string) (inventory.CheckInput, error) {
	var in inventory.CheckInput
	file, source, err := arg, []byte(nil), error(nil)
	if arg == "-" {
		file = "stdin"
		source, err = io.ReadAll(io.LimitReader(a.stdin, maxSource+1))
	} else {
		source, err = readFile(arg)
	}
	switch {
	case err != nil:
		return in, invalidf("%w", err)
	case len(source) > maxSource:
		return in, invalidf("%s: larger than %d MB", file, maxSource>>20)
	}
	a.sources[file] = source
	parsed, diags := rules.Parse(file, source)
	if len(diags) > 0 {
		if a.json() {
			if err := printJSON(a.stdout, diags); err != nil {
				return in, err
			}
		} else {
			fmt.Fprint(a.stderr, runview.Diagnostics(diags, a.view(a.stderr)))
		}
	}
	if slices.ContainsFunc(diags, func(d syntax.Diagnostic) bool { return d.Severity == syntax.Error }) {
		return in, &exitError{code: exitInvalid}
	}
	return inventory.CheckInput{Baseline: rules.Baseline(file), Rules: parsed}, nil
}

func (a *app) inventoryCheck(ctx context.Context, ask asker, in inventory.CheckInput, failOn string, asCSV bool) error {
	all := []inventory.Checked{}
	for {
		var page inventory.CheckPage
		if err := ask(ctx, inventory.ActivityCheck, in, &page); err != nil {
			return err
		}
		all = append(all, page.Nodes...)
		if in.Cursor = page.Cursor; in.Cursor == "" {
			break
		}
	}
	var err error
	switch {
	case a.json():
		err = printJSON(a.stdout, all)
	case asCSV:
		var rows [][]string
		for _, n := range all {
			m := n.Missing
			row := []string{n.Node, n.Baseline, string(n.Status), n.Since.Format(time.RFC3339)}
			for _, count := range []int{m.Critical, m.Important, m.Moderate, m.Low} {
				row = append(row, strconv.Itoa(count))
			}
			var broken []string
			for _, b := range n.Broken {
				broken = append(broken, b.Rule)
			}
			rows = append(rows, append(row, strings.Join(broken, " "), strings.Join(n.Undecided, " ")))
		}
		err = writeCSV(a.stdout, slices.Concat([]string{"node", "baseline", "status", "since"}, severities, []string{"broken", "unknown"}), rows)
	default:
		a.printChecked(all, in)
	}
	if err != nil || failOn == "" {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("the inventory knows no node, so --fail-on has nothing to judge")
	}
	failed := 0
	for _, n := range all {
		if failsOn(n, failOn) {
			failed++
		}
	}
	if failed == 0 {
		return nil
	}
	what := "break a rule of severity " + failOn + " or worse"
	if failOn == failOnAny {
		what = "do not comply, or are unknown"
	}
	return &exitError{exitNotCompliant, fmt.Errorf("--fail-on %s: %d of %s %s", failOn, failed, plural(len(all), "node"), what)}
}

// failsOn tells whether a node breaks a rule of a severity or a worse one.
func failsOn(n inventory.Checked, failOn string) bool {
	if failOn == failOnAny {
		return n.Status != inventory.Compliant
	}
	for _, b := range n.Broken {
		if i := slices.Index(severities, b.Severity); i >= 0 && i <= slices.Index(severities, failOn) {
			return true
		}
	}
	return false
}

func (a *app) printChecked(all []inventory.Checked, in inventory.CheckInput) {
	if len(all) == 0 {
		fmt.Fprintln(a.stderr, "the inventory knows no node; a runbook with host.inventory.collect fills it")
		return
	}
	counts := map[inventory.Status]int{}
	var rows [][]string
	for _, n := range all {
		counts[n.Status]++
		for _, b := range n.Broken {
			why := strings.Join(b.Keys, ", ")
			if b.Items > len(b.Keys) {
				why += fmt.Sprintf(" and %d more", b.Items-len(b.Keys))
			}
			if b.Items == 0 {
				why = "there is none"
			}
			if b.Why != "" {
				why += ": " + b.Why
			}
			rows = append(rows, []string{n.Node, b.Severity, b.Rule, clippedTo(why, mostCell)})
		}
		for _, rule := range n.Undecided {
			rows = append(rows, []string{n.Node, "unknown", rule, "the node never reported this kind"})
		}
	}
	columns(a.stdout, "", []string{"NODE", "SEVERITY", "RULE", "ITEMS"}, rows)
	fmt.Fprintf(a.stdout, "%s checked on %s: %d compliant, %d not, %d unknown\n", plural(len(in.Rules), "rule"), plural(len(all), "node"),
		counts[inventory.Compliant], counts[inventory.NonCompliant], counts[inventory.Undecided])
}
