package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/user"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/lang/program"
)

// inputFlags are the flags of commands that take a runbook's inputs.
type inputFlags struct {
	pairs []string
	file  string
	given map[string]json.RawMessage // what holds if nothing else is given
}

func (f *inputFlags) add(a *app, cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.pairs, "input", "i", nil, "an input, as name=value; a list as a,b and a map as k=v,k=v, or both as JSON; a secret as env:NAME or file:/path")
	cmd.Flags().StringVar(&f.file, "inputs", "", "file of inputs, YAML or JSON; - for standard input. --input goes before it")
	_ = cmd.RegisterFlagCompletionFunc("input", func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		file, source, err := a.read(args[0])
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		if prog, _ := a.compile(file, source); prog != nil {
			for _, in := range prog.Inputs {
				names = append(names, in.Name+"=\t"+in.Summary)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	})
}

// inputs collects the inputs of a runbook from flags, a file and, if ask is
// set and standard input is a terminal, by asking for those that are missing.
// Every mistake is named.
func (a *app) inputs(runbook string, prog *program.Program, flags inputFlags, ask bool) (map[string]json.RawMessage, error) {
	given := map[string]json.RawMessage{}
	maps.Copy(given, flags.given)
	var wrong []string
	if flags.file != "" {
		fromFile, err := a.inputsFile(flags.file)
		if err != nil {
			return nil, err
		}
		for name, raw := range fromFile {
			given[name] = raw
			var ref string
			if in, ok := input(prog, name); ok && in.Type.Kind == program.Secret && json.Unmarshal(raw, &ref) == nil {
				if given[name], err = program.ParseInput(in.Type, ref); err != nil {
					wrong = append(wrong, fmt.Sprintf("input %s: %v", name, err))
					delete(given, name)
				}
			}
		}
	}
	failed, seen := map[string]bool{}, map[string]bool{}
	for _, pair := range flags.pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, usagef("--input %s is not name=value", runview.Quote(pair))
		}
		if seen[name] {
			wrong = append(wrong, fmt.Sprintf("input %s: is given twice; write a list as %s=a,b", name, name))
			failed[name] = true
			continue
		}
		seen[name] = true
		in, known := input(prog, name)
		if !known {
			given[name] = json.RawMessage("null") // CheckInputs says what there is instead
			continue
		}
		raw, err := program.ParseInput(in.Type, value)
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("input %s: %v", name, err))
			failed[name] = true
			continue
		}
		given[name] = raw
	}
	if fd, tty := terminal(a.stdin); ask && tty && fd >= 0 && len(wrong) == 0 && flags.file != "-" {
		if err := a.askInputs(prog, given); err != nil {
			return nil, err
		}
	}
	checked, mistakes := program.CheckInputs(prog.Inputs, given)
	for _, m := range mistakes {
		if failed[m.Input] {
			continue // told already
		}
		what := "input " + m.Input + ": "
		if m.Input == "" {
			what = ""
		}
		hint := ""
		if _, known := input(prog, m.Input); !known && m.Input != "" {
			names := []string{}
			for _, in := range prog.Inputs {
				names = append(names, in.Name)
			}
			if near := nearest(m.Input, names); near != "" && !strings.Contains(m.Message, near) {
				hint = "; did you mean " + near + "?"
			}
		}
		wrong = append(wrong, what+m.Message+hint)
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		return nil, invalidf("%s of %s\n  %s\n%s describe %s says what they may be",
			plural(len(wrong), "wrong input"), prog.Runbook, strings.Join(wrong, "\n  "), a.again(), runview.Quote(runbook))
	}
	return checked, nil
}

func input(prog *program.Program, name string) (program.Input, bool) {
	i := slices.IndexFunc(prog.Inputs, func(in program.Input) bool { return in.Name == name })
	if i < 0 {
		return program.Input{}, false
	}
	return prog.Inputs[i], true
}

// inputsFile reads a map of inputs, as YAML or JSON.
func (a *app) inputsFile(file string) (map[string]json.RawMessage, error) {
	var source []byte
	var err error
	if file == "-" {
		source, err = io.ReadAll(io.LimitReader(a.stdin, maxSource+1))
	} else {
		source, err = readFile(file)
	}
	if err != nil {
		return nil, invalidf("inputs: %w", err)
	}
	if len(source) > maxSource {
		return nil, invalidf("inputs: %s is larger than %d MB", file, maxSource>>20)
	}
	given := map[string]json.RawMessage{}
	if trimmed := bytes.TrimSpace(source); len(trimmed) > 0 && trimmed[0] == '{' && json.Unmarshal(trimmed, &given) == nil {
		return given, nil
	}
	var values map[string]any
	if err := yaml.Unmarshal(source, &values); err != nil {
		return nil, invalidf("inputs: %s: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	for name, v := range values {
		raw, err := json.Marshal(v)
		if err != nil { // a map whose keys are no text
			return nil, invalidf("inputs: %s: %s: %w", file, name, err)
		}
		given[name] = raw
	}
	return given, nil
}

// askInputs asks on the terminal for each required input that is not given,
// until the answer fits.
func (a *app) askInputs(prog *program.Program, given map[string]json.RawMessage) error {
	var in *bufio.Reader
	for _, want := range prog.Inputs {
		if _, ok := given[want.Name]; ok || want.Default != nil {
			continue
		}
		if in == nil {
			in = bufio.NewReader(a.stdin)
		}
		raw, err := a.askInput(in, want)
		if err != nil {
			return err
		}
		given[want.Name] = raw
	}
	return nil
}

func (a *app) askInput(in *bufio.Reader, want program.Input) (json.RawMessage, error) {
	fmt.Fprintf(a.stderr, "%s (%s)", want.Name, want.Type)
	if want.Summary != "" {
		fmt.Fprintf(a.stderr, ": %s", runview.Clean(want.Summary))
	}
	fmt.Fprintln(a.stderr)
	for i, choice := range want.Enum {
		fmt.Fprintf(a.stderr, "  %d) %s\n", i+1, runview.PlainValue(choice))
	}
	switch want.Type.Kind {
	case program.Secret:
		fmt.Fprintln(a.stderr, "  a reference, never the secret itself: env:NAME or file:/path, read where it is used")
	case program.List:
		fmt.Fprintln(a.stderr, "  as a,b or JSON")
	case program.Map:
		fmt.Fprintln(a.stderr, "  as key=value,key=value or JSON")
	case program.Object:
		fmt.Fprintln(a.stderr, "  as JSON")
	}
	for {
		fmt.Fprint(a.stderr, "> ")
		answer, err := in.ReadString('\n')
		if err != nil {
			fmt.Fprintln(a.stderr)
			return nil, invalidf("input %s is missing", want.Name)
		}
		answer = strings.TrimRight(answer, "\r\n")
		var raw json.RawMessage
		var n int
		if _, err := fmt.Sscanf(answer, "%d", &n); err == nil && len(want.Enum) >= n && n > 0 && fmt.Sprint(n) == answer && want.Type.Kind == program.String {
			raw = want.Enum[n-1]
		} else if raw, err = program.ParseInput(want.Type, answer); err != nil {
			fmt.Fprintf(a.stderr, "  %v\n", err)
			continue
		}
		if _, mistakes := program.CheckInputs([]program.Input{want}, map[string]json.RawMessage{want.Name: raw}); len(mistakes) > 0 {
			fmt.Fprintf(a.stderr, "  %s\n", mistakes[0].Message)
			continue
		}
		return raw, nil
	}
}

// callerEnv names who runs this program, where the environment does not.
const callerEnv = "ALMANAC_CALLER"

// caller is who runs this program, as the operating system knows.
func caller() string {
	for _, env := range []string{callerEnv, "SUDO_USER"} {
		if name := os.Getenv(env); name != "" {
			return name
		}
	}
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "unknown"
}
