package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/runview"
)

func (a *app) actionsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "actions [ACTION]",
		Short: "List the actions that a runbook can use, or show one",
		Long: `List the actions that a step's action: may name; of one, its inputs, outputs and
an example. Those that begin with host. run on the nodes of targets:, all others
on the worker. Those marked ↶ are taken back when an execution rolls back.`,
		Example: a.examples("starter actions", "starter actions host.file.write"),
		Args:    cobra.MaximumNArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var names []string
			for _, info := range actionInfos() {
				if len(args) == 0 {
					names = append(names, info.Name+"\t"+info.Summary)
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			infos := actionInfos()
			if len(args) == 1 {
				return a.oneAction(infos, args[0])
			}
			if a.json() {
				all := []actionJSON{}
				for _, info := range infos {
					all = append(all, actionData(info))
				}
				return printJSON(a.stdout, all)
			}
			var rows [][]string
			for _, info := range infos {
				undo := ""
				if info.Compensates {
					undo = "↶"
				}
				rows = append(rows, []string{info.Name, undo, info.Summary})
			}
			columns(a.stdout, "", nil, rows)
			return nil
		},
	}
}

// actionJSON and fieldJSON are the JSON form of an action.
type actionJSON struct {
	Name        string      `json:"name"`
	Summary     string      `json:"summary"`
	Details     string      `json:"details,omitempty"`
	Example     string      `json:"example,omitempty"`
	Timeout     string      `json:"timeout"`
	OnNode      bool        `json:"on_node"`
	Compensates bool        `json:"compensates"`
	Inputs      []fieldJSON `json:"inputs"`
	Outputs     []fieldJSON `json:"outputs"`
}

type fieldJSON struct {
	Name     string   `json:"name"`
	Type     string   `json:"type"`
	Summary  string   `json:"summary"`
	Required bool     `json:"required"`
	Default  string   `json:"default,omitempty"`
	Enum     []string `json:"enum,omitempty"`
	Secret   bool     `json:"secret,omitempty"`
}

func actionData(info action.Info) actionJSON {
	fields := func(fs []action.Field) []fieldJSON {
		out := []fieldJSON{}
		for _, f := range fs {
			out = append(out, fieldJSON{f.Name, f.Type.String(), f.Summary, f.Required, f.Default, f.Enum, f.Secret})
		}
		return out
	}
	return actionJSON{info.Name, info.Summary, info.Details, info.Example, info.Timeout.String(), info.OnNode(), info.Compensates,
		fields(info.Inputs), fields(info.Outputs)}
}

func (a *app) oneAction(infos []action.Info, name string) error {
	i := slices.IndexFunc(infos, func(info action.Info) bool { return info.Name == name })
	if i < 0 {
		names := make([]string, len(infos))
		for i, info := range infos {
			names[i] = info.Name
		}
		if near := nearest(name, names); near != "" {
			return usagef("there is no action %s; did you mean %s?", name, near)
		}
		return usagef("there is no action %s; %s actions lists them", name, a.again())
	}
	info := infos[i]
	if a.json() {
		return printJSON(a.stdout, actionData(info))
	}
	w := a.stdout
	fmt.Fprintf(w, "%s: %s\n", info.Name, info.Summary)
	where := "runs on the worker"
	if info.OnNode() {
		where = "runs on the step's targets"
	}
	undo := "has nothing to take back"
	if info.Compensates {
		undo = "is taken back in rollback"
	}
	fmt.Fprintf(w, "%s; %s; one attempt may take %s unless the step says timeout:\n", where, undo, runview.Elapsed(info.Timeout))
	if d := strings.TrimSpace(info.Details); d != "" {
		fmt.Fprintf(w, "\n%s\n", d)
	}
	table := func(title string, fields []action.Field) {
		if len(fields) == 0 {
			return
		}
		fmt.Fprintf(w, "\n%s\n", title)
		var rows [][]string
		for _, f := range fields {
			var notes []string
			if f.Required && title == "inputs" {
				notes = append(notes, "required")
			}
			if f.Default != "" {
				notes = append(notes, "default "+f.Default)
			}
			if len(f.Enum) > 0 {
				notes = append(notes, "one of "+strings.Join(f.Enum, ", "))
			}
			if f.Secret {
				notes = append(notes, "may be a secret")
			}
			summary := f.Summary
			if len(notes) > 0 {
				summary += " (" + strings.Join(notes, "; ") + ")"
			}
			rows = append(rows, []string{f.Name, f.Type.String(), summary})
		}
		columns(w, "  ", nil, rows)
	}
	table("inputs", info.Inputs)
	table("outputs", info.Outputs)
	if e := strings.TrimRight(info.Example, "\n"); e != "" {
		fmt.Fprintf(w, "\nexample\n  %s\n", strings.ReplaceAll(e, "\n", "\n  "))
	}
	return nil
}
