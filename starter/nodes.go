package main

import (
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
	"go.temporal.io/api/serviceerror"

	"github.com/almanac-run/almanac/internal/inventory"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/lang/compile"
	"github.com/almanac-run/almanac/lang/expr"
)

// nodesFilter says which nodes to list.
type nodesFilter struct {
	where string
	csv   bool
	html  string
}

func (a *app) nodesCommand() *cobra.Command {
	var f nodesFilter
	cmd := &cobra.Command{
		Use:   "nodes",
		Short: "List the nodes that can be reached",
		Long: `List every node of the registry, by agent and by Systems Manager alike, with what
its agent said of it, when it was seen last, how far its clock is off and whether
it complies with its baselines. A node that is offline or whose clock is wrong is
no target of a condition.`,
		Example: a.examples(
			"starter nodes",
			`starter nodes --where 'node.tags[?"role"].orValue("") == "web" && node.compliance != "compliant"'`,
			"starter nodes -o json",
			"starter nodes --html fleet.html",
			"starter nodes forget web-7",
		),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkNodeCondition(f.where); err != nil {
				return err
			}
			return a.with(cmd.Context(), func(ctx context.Context, s *server) error { return a.nodes(ctx, s, f) })
		},
	}
	cmd.Flags().StringVar(&f.where, "where", "", "only nodes for which this condition holds: CEL over node, as in targets")
	cmd.Flags().BoolVar(&f.csv, "csv", false, "print comma-separated values")
	cmd.Flags().StringVar(&f.html, "html", "", "write a page to this file instead: compliance over time, by system and by baseline, and the nodes (- is standard output)")
	cmd.AddCommand(a.nodesForgetCommand())
	return cmd
}

func (a *app) nodesForgetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "forget NODE...",
		Short: "Take nodes that are gone out of the registry",
		Long: `Take nodes out of the registry, with what is known of their compliance. An agent
that still runs comes back with its next report, within the hour: stop it first.
Afterwards another machine may have the node's id.`,
		Example: a.examples("starter nodes forget web-7"),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("which node? starter nodes lists them")
			}
			return nil
		},
		ValidArgsFunction: a.nodeArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, s *server) error {
				for _, id := range args {
					err := s.TerminateWorkflow(ctx, registry.WorkflowID(id), "", "forgotten")
					var none *serviceerror.NotFound
					switch {
					case errors.As(err, &none):
						return fmt.Errorf("there is no node %s; %s nodes lists them", id, a.again())
					case err != nil:
						return a.explain(s, "", err)
					}
					short, done := context.WithTimeout(ctx, 10*time.Second)
					err = s.ask(short, inventory.ActivityForget, "", inventory.ForgetInput{Node: id}, new(inventory.Forgotten))
					done()
					if err != nil {
						fmt.Fprintf(a.stderr, "the inventory still knows %s: %v\n", id, err)
					}
					if !a.json() {
						fmt.Fprintf(a.stdout, "%s is forgotten\n", id)
					}
				}
				if a.json() {
					return printJSON(a.stdout, map[string][]string{"forgotten": args})
				}
				return nil
			})
		},
	}
	return cmd
}

// checkNodeCondition finds the mistakes of a condition over node.
func checkNodeCondition(where string) error {
	if where == "" {
		return nil
	}
	checked, problems := expr.Check(where, expr.Scope{Names: []expr.Name{{Name: "node", Type: compile.NodeType()}}})
	for _, p := range problems {
		return usagef("--where: %s\n  %s\n  %s^", p.Message, where, strings.Repeat(" ", p.Offset))
	}
	if checked.Type.String() != "bool" {
		return usagef("--where is a condition, and this is %s: %s", checked.Type, where)
	}
	return nil
}

func (s *server) lister() registry.Lister {
	return registry.Lister{Service: s.WorkflowService(), Namespace: s.namespace, Converter: s.convert()}
}

// matching lists the nodes for which a condition holds; "" holds for all.
func (s *server) matching(ctx context.Context, where string) ([]registry.Listed, error) {
	all, err := s.lister().All(ctx, time.Now())
	if err != nil {
		return nil, err
	}
	return those(all, where)
}

// those are the nodes of all for which a condition holds.
func those(all []registry.Listed, where string) ([]registry.Listed, error) {
	if where == "" {
		return all, nil
	}
	found := []registry.Listed{}
	for i := range all {
		v, err := expr.Eval(where, map[string]any{"node": all[i].Facts()})
		if err != nil {
			hint := ""
			if strings.Contains(err.Error(), "no such key") {
				hint = "\n  of a tag that not every node has, ask node.tags[?\"NAME\"].orValue(\"\")"
			}
			return nil, usagef("--where, of node %s: %v%s", all[i].ID, err, hint)
		}
		if v == true {
			found = append(found, all[i])
		}
	}
	return found, nil
}

func (a *app) nodes(ctx context.Context, s *server, f nodesFilter) error {
	found, err := s.matching(ctx, f.where)
	var exit *exitError
	switch {
	case errors.As(err, &exit):
		return err
	case err != nil:
		return a.explain(s, "", err)
	case f.html != "":
		return a.writePage(f.html, a.fleetReport(ctx, s, found, f))
	case a.json():
		return printJSON(a.stdout, found)
	}
	heading := []string{"NODE", "NAME", "OS", "REACH", "SEEN", "CLOCK", "COMPLIANCE", "RUNS", "AGENT", "TAGS"}
	var rows [][]string
	for i := range found {
		rows = append(rows, nodeRow(&found[i], time.Now()))
	}
	if f.csv {
		w := csv.NewWriter(a.stdout)
		_ = w.Write(heading) // Error says it
		_ = w.WriteAll(rows)
		return w.Error()
	}
	if len(found) == 0 {
		if f.where != "" {
			fmt.Fprintf(a.stderr, "no such nodes; %s nodes lists all\n", a.again())
		} else {
			fmt.Fprintln(a.stderr, "no nodes; start an agent on a machine: agent --id web-1 --tag role=web")
		}
		return nil
	}
	away := 0
	for i := range found {
		if found[i].Absent() != "" {
			away++
		}
	}
	total := fmt.Sprintf("%d nodes", len(found))
	if len(found) == 1 {
		total = "1 node"
	}
	if away > 0 {
		total += fmt.Sprintf(", %d no target now (offline, or the clock is wrong)", away)
	}
	shown, rows := fit(heading, rows, a.view(a.stdout).Width, "AGENT", "NAME", "TAGS", "CLOCK", "OS")
	columns(a.stdout, "", shown, rows)
	fmt.Fprintln(a.stdout, total)
	return nil
}

func nodeRow(n *registry.Listed, now time.Time) []string {
	seen := "never"
	switch {
	case n.Alive:
		seen = "now"
	case !n.LastSeen.IsZero():
		seen = runview.Elapsed(now.Sub(n.LastSeen)) + " ago"
	}
	clock := "right"
	if off := time.Duration(n.Clock).Round(time.Second); n.Reach == registry.ReachSSM || !n.Registration {
		clock = "unknown"
	} else if off != 0 {
		clock = fmt.Sprintf("%+.0fs", off.Seconds())
		if n.ClockWrong {
			clock += " wrong"
		}
	}
	var tags []string
	for _, name := range slices.Sorted(maps.Keys(n.Tags)) {
		tags = append(tags, name+"="+n.Tags[name])
	}
	runs := "-"
	if n.Reach == registry.ReachAgent {
		runs = strconv.Itoa(n.Running)
	}
	row := []string{n.ID, n.Name, strings.TrimSpace(n.OS + " " + n.Version), n.Reach, seen, clock, n.Status, runs, n.AgentVersion, strings.Join(tags, ",")}
	for i := range row {
		row[i] = runview.Clean(row[i])
	}
	return row
}

// nodeArgs completes ids of nodes.
func (a *app) nodeArgs(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var ids []string
	_ = a.with(cmd.Context(), func(ctx context.Context, s *server) error {
		found, err := s.matching(ctx, "")
		for i := range found {
			if !slices.Contains(args, found[i].ID) {
				ids = append(ids, found[i].ID)
			}
		}
		return err
	})
	return ids, cobra.ShellCompDirectiveNoFileComp
}
