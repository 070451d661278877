package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/runbooks"
)

func (a *app) describeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "describe [RUNBOOK]",
		Short: "Describe a runbook: its inputs, steps and outputs",
		Long: `Describe a runbook: what it is for, its inputs and what they may be, its steps,
what rollback takes back, its outputs, and a command line that runs it. Without
an argument the runbooks known by name are listed.`,
		Example:           a.examples("starter describe", "starter describe linux/rolling-restart"),
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: runbookArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.listRunbooks()
			}
			prog, err := a.load(args[0])
			if err != nil {
				return err
			}
			d := describe(prog, args[0], a.again())
			if a.json() {
				return printJSON(a.stdout, d)
			}
			a.printDescription(prog, d)
			return nil
		},
	}
}

func (a *app) listRunbooks() error {
	type known struct {
		Name    string `json:"name"`
		Summary string `json:"summary,omitempty"`
		File    string `json:"file,omitempty"` // of those in ALMANAC_RUNBOOKS
		Error   string `json:"error,omitempty"`
	}
	all := []known{}
	for _, name := range runbookNames() {
		k := known{Name: name}
		file, source, err := a.read(name)
		if err != nil {
			k.Error = err.Error()
		} else if prog, ds := a.compile(file, source); prog == nil {
			k.Error = mistakes(ds)
		} else {
			k.Summary = prog.Summary
		}
		if !slices.Contains(runbooks.Names(), name) {
			k.File = file
		}
		all = append(all, k)
	}
	if a.json() {
		return printJSON(a.stdout, all)
	}
	var rows [][]string
	for _, k := range all {
		rows = append(rows, []string{k.Name, k.Summary + k.Error})
	}
	columns(a.stdout, "", nil, rows)
	return nil
}

// description is what describe prints.
type description struct {
	Runbook   string       `json:"runbook"`
	Summary   string       `json:"summary,omitempty"`
	Details   string       `json:"details,omitempty"`
	File      string       `json:"file,omitempty"`
	Digest    string       `json:"digest"`
	OnFailure string       `json:"on_failure"`
	Locked    bool         `json:"locked,omitempty"`      // it waits for keys that depend on its inputs, as plan shows
	Places    int          `json:"max_running,omitempty"` // how many executions of it run at once
	Inputs    []inputInfo  `json:"inputs"`
	Steps     []stepInfo   `json:"steps"`
	Outputs   []outputInfo `json:"outputs"`
	Calls     []string     `json:"calls,omitempty"` // runbooks
	Command   string       `json:"command"`
}

type inputInfo struct {
	Name     string            `json:"name"`
	Type     program.Type      `json:"type"`
	Summary  string            `json:"summary,omitempty"`
	Required bool              `json:"required"`
	Default  json.RawMessage   `json:"default,omitempty"`
	Enum     []json.RawMessage `json:"enum,omitempty"`
	Pattern  string            `json:"pattern,omitempty"`
	Min      json.RawMessage   `json:"min,omitempty"`
	Max      json.RawMessage   `json:"max,omitempty"`
}

type stepInfo struct {
	ID    string `json:"id"`
	Depth int    `json:"depth"`
	Phase string `json:"phase,omitempty"`
	Name  string `json:"name,omitempty"`
	Form  string `json:"form"`
	If    string `json:"if,omitempty"`
	Undo  bool   `json:"undo,omitempty"` // rollback takes it back
}

type outputInfo struct {
	Name string       `json:"name"`
	Type program.Type `json:"type"`
}

func describe(prog *program.Program, arg, program string) description {
	d := description{Runbook: prog.Runbook, Summary: prog.Summary, Details: prog.Details, File: prog.File, Digest: prog.Digest,
		OnFailure: prog.OnFailure, Locked: prog.Lock != nil, Places: prog.MaxRunning, Inputs: []inputInfo{}, Steps: []stepInfo{}, Outputs: []outputInfo{}}
	cmd := program + " run " + runview.Quote(arg)
	for _, in := range prog.Inputs {
		d.Inputs = append(d.Inputs, inputInfo{in.Name, in.Type, in.Summary, in.Default == nil, in.Default, in.Enum, in.Pattern, in.Min, in.Max})
		if in.Default == nil {
			cmd += " -i " + runview.Quote(in.Name+"="+exampleOf(in))
		}
	}
	d.Command = cmd
	d.Steps = stepInfos(d.Steps, prog.Steps, 0, "", prog.OnFailure)
	d.Steps = stepInfos(d.Steps, prog.Finally, 0, "finally", prog.OnFailure)
	for _, o := range prog.Outputs {
		d.Outputs = append(d.Outputs, outputInfo{o.Name, o.Type})
	}
	for name := range prog.Children {
		d.Calls = append(d.Calls, name)
	}
	slices.Sort(d.Calls)
	return d
}

// exampleOf is a value of the input's type; whether it fits a pattern only a person can say.
func exampleOf(in program.Input) string {
	if len(in.Enum) > 0 {
		return runview.PlainValue(in.Enum[0])
	}
	switch in.Type.Kind {
	case program.Int, program.Float:
		if in.Min != nil {
			return runview.PlainValue(in.Min)
		}
		return "1"
	case program.Bool:
		return "true"
	case program.DurationType:
		return "10m"
	case program.Timestamp:
		return "2030-01-01T00:00:00Z"
	case program.List:
		return "[…]"
	case program.Map, program.Object:
		return "{…}"
	case program.Secret:
		return "env:" + strings.ToUpper(in.Name)
	}
	return "…"
}

func stepInfos(into []stepInfo, steps []program.Step, depth int, phase, onFailure string) []stepInfo {
	for i := range steps {
		s := &steps[i]
		info := stepInfo{ID: s.ID, Depth: depth, Phase: phase, Form: form(s)}
		if s.Name != nil && s.Name.Lit != nil {
			info.Name = runview.PlainValue(s.Name.Lit)
		}
		if s.If != nil {
			info.If = s.If.Text
		}
		undone := s.Call != nil && s.Call.Compensates
		if s.Rollback != nil {
			undone = !s.Rollback.None
		}
		info.Undo = undone && onFailure != program.OnFailureStop
		into = append(into, info)
		into = stepInfos(into, s.Steps, depth+1, phase, onFailure)
		for _, b := range s.Branches {
			into = stepInfos(into, b.Steps, depth+1, phase, onFailure)
		}
	}
	return into
}

func (a *app) printDescription(prog *program.Program, d description) {
	w := a.stdout
	title := d.Runbook
	if d.Summary != "" {
		title += ": " + oneLine(d.Summary)
	}
	fmt.Fprintln(w, title)
	if text := strings.TrimSpace(runview.Clean(d.Details)); text != "" {
		fmt.Fprintf(w, "\n%s\n", text)
	}
	var rows [][]string
	for i, in := range d.Inputs {
		rows = append(rows, []string{in.Name, in.Type.String(), constraints(prog.Inputs[i]), in.Summary})
	}
	section(w, "inputs", rows)
	rows = nil
	phase := ""
	for _, s := range d.Steps {
		if s.Phase != phase {
			phase = s.Phase
			rows = append(rows, []string{phase + ":", "", "", ""})
		}
		undo, cond := "", ""
		if s.Undo {
			undo = "↶"
		}
		if s.If != "" {
			cond = "if " + s.If
		}
		name := s.ID
		if s.Name != "" {
			name += ": " + s.Name
		}
		rows = append(rows, []string{strings.Repeat("  ", s.Depth) + name, s.Form, undo, cond})
	}
	section(w, "steps (↶ what rollback takes back)", rows)
	rows = nil
	for _, o := range d.Outputs {
		rows = append(rows, []string{o.Name, o.Type.String()})
	}
	section(w, "outputs", rows)
	if len(d.Calls) > 0 {
		fmt.Fprintf(w, "\ncalls %s\n", strings.Join(d.Calls, ", "))
	}
	fmt.Fprintf(w, "\non failure: %s\n", d.OnFailure)
	if d.Locked {
		fmt.Fprintln(w, "waits for its lock, whose keys plan shows")
	}
	if d.Places > 0 {
		fmt.Fprintf(w, "at once: at most %s of it\n", plural(d.Places, "execution"))
	}
	fmt.Fprintf(w, "\nrun it with\n  %s\n", d.Command)
}

// constraints says what an input may be, in the words of the runbook.
func constraints(in program.Input) string {
	var parts []string
	if in.Default == nil {
		parts = append(parts, "required")
	} else {
		parts = append(parts, "default "+short(showDefault(in.Default), 40))
	}
	if len(in.Enum) > 0 {
		values := make([]string, len(in.Enum))
		for i, e := range in.Enum {
			values[i] = runview.PlainValue(e)
		}
		parts = append(parts, "one of "+strings.Join(values, ", "))
	}
	if in.Pattern != "" {
		parts = append(parts, "matches "+in.Pattern)
	}
	if in.Min != nil {
		parts = append(parts, "at least "+runview.PlainValue(in.Min))
	}
	if in.Max != nil {
		parts = append(parts, "at most "+runview.PlainValue(in.Max))
	}
	return strings.Join(parts, "; ")
}

func showDefault(raw json.RawMessage) string {
	if s := runview.PlainValue(raw); s != "" {
		return s
	}
	return `""`
}
