package main

import (
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/almanac-run/almanac/internal/inventory"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/lang/program"
)

// complianceFilter says of which nodes and baselines compliance prints what.
type complianceFilter struct {
	where, baseline string
	missing, csv    bool
	failOn          string
	history         string
	days            time.Duration // history, read
}

// severities, worst first. What is of none of them is "other".
var severities = []string{"critical", "important", "moderate", "low"}

const failOnAny = "any"

func (a *app) complianceCommand() *cobra.Command {
	var f complianceFilter
	cmd := &cobra.Command{
		Use:   "compliance",
		Short: "Show which nodes comply with their baselines, and what is missing",
		Long: `Show for each node and baseline whether the node complies, since when, what is
missing by severity, what could not be installed and when somebody looked, as the
registry knows it now. A node that nobody has looked at is unknown; with
--baseline so is each that this baseline was not looked at on. The last line is
that of the fleet.

With --fail-on the exit code is 12 if a node that is shown lacks something of that
severity or a worse one. "any" is stricter: it also counts nodes that do not
comply for another reason, and nodes that are unknown. If there is no node at all,
nothing was judged, and that is an error.

--history prints how the fleet stood at the end of each day (UTC), in pairs of node
and baseline, from the inventory store.

In the Web UI, and with temporal workflow list, this query finds the nodes:

  WorkflowType="almanac.node" AND AlmanacCompliance="non_compliant"`,
		Example: a.examples(
			"starter compliance --missing",
			`starter compliance --where 'node.tags[?"stage"].orValue("") == "production"' --fail-on critical`,
			"starter compliance --baseline linux-production --csv",
			"starter compliance --history 30d",
		),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return a.with(cmd.Context(), func(ctx context.Context, s *server) error {
				if f.history != "" {
					return a.complianceHistory(ctx, s, f)
				}
				return a.compliance(ctx, s, f)
			})
		},
	}
	cmd.Flags().StringVar(&f.where, "where", "", "only nodes for which this condition holds: CEL over node, as in targets")
	cmd.Flags().StringVar(&f.baseline, "baseline", "", "only this baseline")
	cmd.Flags().BoolVar(&f.missing, "missing", false, "only what does not comply, or is unknown")
	cmd.Flags().StringVar(&f.failOn, "fail-on", "", "exit code 12 if something of this severity or a worse one is missing: "+strings.Join(severities, ", ")+", any")
	cmd.Flags().BoolVar(&f.csv, "csv", false, "print comma-separated values")
	cmd.Flags().StringVar(&f.history, "history", "", "print the daily figures of so long instead: 30d")
	a.complete(cmd, "fail-on", append(slices.Clone(severities), failOnAny)...)
	return cmd
}

// mostHistory is how far back --history looks; the inventory store has no more.
const mostHistory = 366 * 24 * time.Hour

func (f *complianceFilter) check() error {
	if f.failOn != "" && f.failOn != failOnAny && !slices.Contains(severities, f.failOn) {
		return usagef("--fail-on is one of %s, any, not %q", strings.Join(severities, ", "), f.failOn)
	}
	if f.history != "" {
		d, err := program.ParseDuration(f.history)
		switch {
		case err != nil:
			return usagef("--history: %w", err)
		case d < 0 || d > mostHistory:
			return usagef("--history is at most 366d, not %s", f.history)
		case f.where != "" || f.missing || f.failOn != "":
			return usagef("--history is about the whole fleet: of --where, --missing and --fail-on it takes none")
		}
		f.days = d
	}
	return checkNodeCondition(f.where)
}

// standing is how one node stands to one baseline.
type standing struct {
	Node string `json:"node"`
	Name string `json:"name,omitempty"`
	registry.Compliance
}

// fleetStanding is how a fleet stands, by node.
type fleetStanding struct {
	Nodes        int            `json:"nodes"`
	Compliant    int            `json:"compliant"`
	NonCompliant int            `json:"non_compliant"`
	Unknown      int            `json:"unknown"`
	Missing      map[string]int `json:"missing"` // by severity
	Lacking      int            `json:"lacking"` // nodes on which something is missing
}

// standings lists how nodes stand to a baseline, or to all. What nobody has
// looked at is unknown.
func standings(nodes []registry.Listed, baseline string) []standing {
	all := []standing{}
	for i := range nodes {
		n := &nodes[i]
		looked := false
		for _, c := range n.Compliance {
			if baseline == "" || c.Baseline == baseline {
				all = append(all, standing{n.ID, n.Name, c})
				looked = true
			}
		}
		if !looked {
			all = append(all, standing{n.ID, n.Name, registry.Compliance{Baseline: baseline, Status: registry.Unknown, Message: "nobody has looked"}})
		}
	}
	return all
}

// sum counts each node once, with the worst that it comes to.
func sum(all []standing) fleetStanding {
	fs := fleetStanding{Missing: map[string]int{}}
	status, lacking := map[string]string{}, map[string]bool{}
	for _, s := range all {
		if was := status[s.Node]; was == "" || s.Status == registry.NonCompliant {
			status[s.Node] = s.Status
		}
		for severity, n := range s.Missing {
			if n > 0 {
				fs.Missing[severity] += n
				lacking[s.Node] = true
			}
		}
	}
	for _, s := range status {
		fs.Nodes++
		switch s {
		case registry.Compliant:
			fs.Compliant++
		case registry.NonCompliant:
			fs.NonCompliant++
		default:
			fs.Unknown++
		}
	}
	fs.Lacking = len(lacking)
	return fs
}

// String is the line below the table.
func (fs fleetStanding) String() string {
	line := fmt.Sprintf("%d of %d compliant", fs.Compliant, fs.Nodes)
	if fs.Unknown > 0 {
		line += fmt.Sprintf(", %d unknown", fs.Unknown)
	}
	if fs.Lacking > 0 {
		line += fmt.Sprintf("; missing: %s on %s", missingText(fs.Missing), plural(fs.Lacking, "node"))
	}
	return line
}

// missingText is "3 critical, 12 important", worst first.
func missingText(missing map[string]int) string {
	var parts []string
	for _, severity := range bySeverity(missing) {
		if n := missing[severity]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, severity))
		}
	}
	return strings.Join(parts, ", ")
}

// bySeverity sorts severities, worst first, those that nobody knows last.
func bySeverity(missing map[string]int) []string {
	rank := func(s string) int {
		if i := slices.Index(severities, s); i >= 0 {
			return i
		}
		return len(severities)
	}
	return slices.SortedFunc(maps.Keys(missing), func(a, b string) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b)) })
}

// lacks tells whether --fail-on of a severity counts what a node stands at.
func (s *standing) lacks(failOn string) bool {
	if failOn == failOnAny {
		return s.Status != registry.Compliant
	}
	for _, severity := range severities {
		if s.Missing[severity] > 0 {
			return true
		}
		if severity == failOn {
			break
		}
	}
	return false
}

func (a *app) compliance(ctx context.Context, s *server, f complianceFilter) error {
	nodes, err := s.matching(ctx, f.where)
	var exit *exitError
	switch {
	case errors.As(err, &exit):
		return err
	case err != nil:
		return a.explain(s, "", err)
	}
	all := standings(nodes, f.baseline)
	shown := all
	if f.missing {
		shown = slices.DeleteFunc(slices.Clone(all), func(s standing) bool { return s.Status == registry.Compliant })
	}
	total := sum(all)
	switch {
	case a.json():
		err = printJSON(a.stdout, struct {
			Standings []standing    `json:"standings"`
			Fleet     fleetStanding `json:"fleet"`
		}{shown, total})
	case f.csv:
		err = complianceCSV(a, shown)
	default:
		a.complianceTable(shown, total)
	}
	if err != nil || f.failOn == "" {
		return err
	}
	if len(nodes) == 0 {
		return fmt.Errorf("there is no such node, so --fail-on has nothing to judge; %s nodes lists them", a.again())
	}
	hit := map[string]bool{}
	for i := range all {
		if all[i].lacks(f.failOn) {
			hit[all[i].Node] = true
		}
	}
	if len(hit) == 0 {
		return nil
	}
	what := "lack something " + f.failOn + " or worse"
	if f.failOn == failOnAny {
		what = "do not comply, or are unknown"
	}
	return &exitError{exitNotCompliant, fmt.Errorf("--fail-on %s: %d of %d nodes %s", f.failOn, len(hit), total.Nodes, what)}
}

func (a *app) complianceTable(shown []standing, total fleetStanding) {
	var rows [][]string
	for _, s := range shown {
		rows = append(rows, standingRow(&s, time.Now()))
	}
	heading, rows := fit([]string{"NODE", "BASELINE", "STATUS", "SINCE", "MISSING", "FAILED", "RESTART", "LOOKED", "WHY"}, rows,
		a.view(a.stdout).Width, "WHY", "LOOKED", "FAILED", "RESTART", "SINCE")
	columns(a.stdout, "", heading, rows)
	if total.Nodes == 0 {
		fmt.Fprintf(a.stderr, "no such nodes; %s nodes lists all\n", a.again())
		return
	}
	fmt.Fprintln(a.stdout, total)
}

func standingRow(s *standing, now time.Time) []string {
	since, looked, failed, restart := "-", "never", "-", "-"
	if !s.Since.IsZero() {
		since = s.Since.Local().Format("2006-01-02 15:04")
	}
	if !s.At.IsZero() {
		looked = runview.Elapsed(now.Sub(s.At)) + " ago"
	}
	if s.Failed > 0 {
		failed = strconv.Itoa(s.Failed)
	}
	if s.RebootPending {
		restart = "due"
	}
	why := s.Message
	if r := []rune(why); len(r) > 80 {
		why = string(r[:79]) + "…"
	}
	return []string{s.Node, cmp.Or(s.Baseline, "-"), s.Status, since, cmp.Or(missingText(s.Missing), "-"), failed, restart, looked, why}
}

func complianceCSV(a *app, shown []standing) error {
	w := csv.NewWriter(a.stdout)
	heading := []string{"node", "name", "baseline", "status", "since"}
	heading = append(heading, severities...)
	_ = w.Write(append(heading, "other", "failed", "reboot_pending", "at", "execution", "message")) // Error says it
	stamp := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format(time.RFC3339)
	}
	for _, s := range shown {
		row := []string{s.Node, s.Name, s.Baseline, s.Status, stamp(s.Since)}
		other := 0
		for severity, n := range s.Missing {
			if !slices.Contains(severities, severity) {
				other += n
			}
		}
		for _, severity := range severities {
			row = append(row, strconv.Itoa(s.Missing[severity]))
		}
		row = append(row, strconv.Itoa(other), strconv.Itoa(s.Failed), strconv.FormatBool(s.RebootPending), stamp(s.At), s.Execution, s.Message)
		for i := range row {
			row[i] = cell(row[i])
		}
		_ = w.Write(row)
	}
	w.Flush()
	return w.Error()
}

// cell is a text that a spreadsheet does not take for a formula: a node says
// what it is called, and a formula can send away what stands beside it.
func cell(s string) string {
	s = runview.Clean(s)
	if s != "" && strings.ContainsRune("=+-@\t", rune(s[0])) {
		return "'" + s
	}
	return s
}

// The question of the control worker about the past, and its answer.
const actionComplianceHistory = "almanac.compliance.history"

type historyQuestion struct {
	Since    time.Time `json:"since"`
	Baseline string    `json:"baseline,omitempty"`
}

type historyAnswer struct {
	Days []inventory.ComplianceDay `json:"days"`
}

// history asks the inventory store how the fleet stood on each day.
func (s *server) history(ctx context.Context, back time.Duration, baseline string) ([]inventory.ComplianceDay, error) {
	var answer historyAnswer
	err := s.ask(ctx, actionComplianceHistory, "", historyQuestion{time.Now().Add(-back).UTC(), baseline}, &answer)
	if err != nil {
		return nil, fmt.Errorf("the daily figures: %w", err)
	}
	return answer.Days, nil
}

func (a *app) complianceHistory(ctx context.Context, s *server, f complianceFilter) error {
	days, err := s.history(ctx, f.days, f.baseline)
	if err != nil {
		return a.explain(s, "", err)
	}
	if a.json() {
		return printJSON(a.stdout, historyAnswer{append([]inventory.ComplianceDay{}, days...)})
	}
	heading := []string{"DAY", "COMPLIANT", "NOT", "UNKNOWN", "SHARE"}
	var rows [][]string
	seen := false
	for _, d := range days {
		all := d.Compliant + d.NonCompliant + d.Unknown
		share := "-"
		if all > 0 {
			seen = true
			share = fmt.Sprintf("%.0f%%", float64(d.Compliant)/float64(all)*100)
		}
		rows = append(rows, []string{d.Day.UTC().Format(time.DateOnly), strconv.Itoa(d.Compliant), strconv.Itoa(d.NonCompliant), strconv.Itoa(d.Unknown), share})
	}
	if f.csv {
		w := csv.NewWriter(a.stdout)
		_ = w.Write([]string{"day", "compliant", "non_compliant", "unknown", "share"}) // Error says it
		_ = w.WriteAll(rows)
		return w.Error()
	}
	if !seen {
		fmt.Fprintln(a.stderr, "the inventory store has no compliance of those days: scan nodes, for example with linux/patch-scan")
	}
	columns(a.stdout, "", heading, rows)
	return nil
}
