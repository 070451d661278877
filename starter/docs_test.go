package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// docs/cli.md is made from the commands; UPDATE=1 rewrites it.
func TestReference(t *testing.T) {
	const file = "../docs/cli.md"
	got := reference()
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is stale; UPDATE=1 go test ./starter/ rewrites it (-file +commands):\n%s", file, diff)
	}
}

func reference() string {
	a := &app{program: "starter", stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard}
	root := a.root()
	var b strings.Builder
	fmt.Fprintf(&b, "# The command line: starter\n\nThis page is made from the commands; `UPDATE=1 go test ./starter/` rewrites it.\n"+
		"Installed as `temporal-runbook`, the program is `temporal runbook …` and says so in its help.\n\n")
	long, _, _ := strings.Cut(root.Long, "\n\nExit codes:")
	fmt.Fprintf(&b, "%s\n\n", long)
	fmt.Fprintf(&b, "## Exit codes\n\n| code | meaning |\n| --- | --- |\n")
	for _, e := range exitCodes {
		fmt.Fprintf(&b, "| %d | %s |\n", e.code, e.meaning)
	}
	fmt.Fprintf(&b, "\n## Environment\n\n| variable | meaning |\n| --- | --- |\n")
	for _, e := range environment {
		fmt.Fprintf(&b, "| `%s` | %s |\n", e.name, e.meaning)
	}
	fmt.Fprintf(&b, "\n## Flags of every command\n\n%s", flags(root.PersistentFlags()))
	for _, g := range a.groups() {
		fmt.Fprintf(&b, "\n## %s\n", strings.TrimSuffix(g.title, ":"))
		for _, c := range g.commands {
			for _, r := range root.Commands() {
				if r.Name() == c.Name() {
					command(&b, r)
				}
			}
		}
	}
	b.WriteString("\n### starter completion bash|zsh|fish|powershell\n\nPrint the completion of a shell: commands, flags, names of runbooks and their inputs, ids of executions.\n\n" +
		"```\nsource <(starter completion bash)\n```\n")
	return b.String()
}

func command(b *strings.Builder, c *cobra.Command) {
	fmt.Fprintf(b, "\n### %s%s\n\n%s.\n\n%s\n\n```\n%s\n```\n", c.CommandPath(), strings.TrimPrefix(c.Use, c.Name()), c.Short, indented(c.Long), dedent(c.Example))
	if f := flags(c.LocalNonPersistentFlags()); f != "" {
		fmt.Fprintf(b, "\n%s", f)
	}
	for _, sub := range c.Commands() {
		command(b, sub)
	}
}

// indented keeps the indented parts of a help text as they are.
func indented(text string) string {
	var out []string
	for _, par := range strings.Split(text, "\n\n") {
		if strings.HasPrefix(par, "  ") {
			par = "```\n" + dedent(par) + "\n```"
		}
		out = append(out, par)
	}
	return strings.Join(out, "\n\n")
}

func dedent(s string) string { return strings.ReplaceAll(strings.TrimPrefix(s, "  "), "\n  ", "\n") }

func flags(set *pflag.FlagSet) string {
	var b strings.Builder
	set.VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" {
			return
		}
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		usage := f.Usage
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" {
			usage += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(&b, "| %s | %s |\n", name, strings.ReplaceAll(usage, "|", "\\|"))
	})
	if b.Len() == 0 {
		return ""
	}
	return "| flag | meaning |\n| --- | --- |\n" + b.String()
}

// Every command says what it does and shows how; a person reads that first.
func TestCommandsHaveHelp(t *testing.T) {
	a := &app{program: "starter", stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard}
	for _, g := range a.groups() {
		for _, c := range g.commands {
			if c.Short == "" || c.Long == "" || !strings.HasPrefix(c.Example, "  starter "+c.Name()) && !strings.Contains(c.Example, "| starter "+c.Name()) {
				t.Errorf("%s lacks its summary, help or an example", c.Name())
			}
			if strings.HasSuffix(c.Short, ".") {
				t.Errorf("%s: the summary ends with a full stop", c.Name())
			}
		}
	}
}

func TestExitCodesDiffer(t *testing.T) {
	seen := map[int]bool{}
	for _, e := range exitCodes {
		if seen[e.code] || e.meaning == "" {
			t.Errorf("exit code %d stands twice or means nothing", e.code)
		}
		seen[e.code] = true
	}
}
