// Command starter checks, plans, runs and follows runbooks.
//
// It compiles a runbook, shows every mistake, checks the inputs, starts the
// execution on a Temporal server and follows it; it answers what waits for a
// person, and shows what an execution did. It promises that a runbook with a
// mistake never becomes an execution, and that its exit code says how the
// execution ended. It runs no step itself: a worker does. Installed as
// temporal-runbook it is `temporal runbook`.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/almanac-run/almanac/internal/runview"
)

func main() {
	os.Exit(run(os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// run is main without the process: args[0] is the program's name.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{program: "starter", stdin: stdin, stdout: stdout, stderr: stderr, sources: map[string][]byte{}}
	if strings.TrimSuffix(filepath.Base(args[0]), ".exe") == "temporal-runbook" {
		a.program = "temporal runbook"
	} else if strings.ContainsRune(args[0], filepath.Separator) {
		a.called = args[0] // it need not be on PATH
	}
	root := a.root()
	root.SetArgs(args[1:])
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(context.Background())
	if err == nil {
		return exitSucceeded
	}
	var exit *exitError
	if !errors.As(err, &exit) {
		exit = &exitError{code: exitFailed, err: err}
		if !a.began { // cobra refused the command line
			exit.code = exitUsage
			exit.err = fmt.Errorf("%w\n%s --help says more", err, cmd.CommandPath())
		}
	}
	if exit.err != nil {
		fmt.Fprintf(stderr, "%s: %s\n", a.program, runview.Clean(exit.err.Error()))
	}
	return exit.code
}

// app is one run of the program: its streams and global flags.
type app struct {
	program        string
	called         string // how it was called, if by a path: for the commands that are shown
	stdin          io.Reader
	stdout, stderr io.Writer
	began          bool // the command line was accepted

	output, color               string
	address, namespace, profile string
	configFile                  string
	keyFile                     string
	insecure                    bool

	sources map[string][]byte // of the runbooks read so far, by file
}

// groups are the subcommands, in the order of the help text.
func (a *app) groups() []group {
	return []group{
		{"before", "Before a run:", []*cobra.Command{
			a.checkCommand(),
			a.planCommand(),
			a.rehearseCommand(),
			a.testCommand(),
			a.describeCommand(),
			a.graphCommand(),
			a.actionsCommand(),
			a.schemaCommand(),
			a.baselineCommand(),
		}},
		{"run", "Run and follow:", []*cobra.Command{
			a.runCommand(),
			a.watchCommand(),
			a.listCommand(),
			a.showCommand(),
			a.logsCommand(),
			a.reportCommand(),
			a.cancelCommand(),
		}},
		{"fleet", "The fleet:", []*cobra.Command{
			a.nodesCommand(),
			a.complianceCommand(),
			a.inventoryCommand(),
		}},
		{"answer", "Answer what waits:", []*cobra.Command{
			a.approveCommand(),
			a.rejectCommand(),
			a.resumeCommand(),
			a.retryCommand(),
			a.skipCommand(),
			a.continueCommand(),
			a.rollbackCommand(),
			a.stopCommand(),
		}},
		{"other", "Other:", []*cobra.Command{
			a.sweepCommand(),
			a.versionsCommand(),
			a.versionCommand(),
		}},
	}
}

type group struct {
	id, title string
	commands  []*cobra.Command
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   strings.ReplaceAll(a.program, " ", "-"),
		Short: "Run operations runbooks that are not left half done",
		Long: `Check, plan, run and follow runbooks.

A runbook is given by the name of a shipped one (linux/rolling-restart), by the
name of one in a folder of ALMANAC_RUNBOOKS, or as a file (./patch.yaml, - for
standard input). An execution is given by its id, which run prints.

The server is that of the Temporal profile or environment (TEMPORAL_ADDRESS,
TEMPORAL_NAMESPACE, TEMPORAL_PROFILE, …), else localhost:7233.

` + exitText(),
		Example: a.examples(
			"starter check patch.yaml",
			"starter run linux/rolling-restart -i service=nginx -i targets=web-1,web-2",
			"starter list --status waiting",
		),
		Annotations:       map[string]string{cobra.CommandDisplayNameAnnotation: a.program},
		SilenceErrors:     true,
		SilenceUsage:      true,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: a.begin,
	}
	f := root.PersistentFlags()
	f.StringVarP(&a.output, "output", "o", "text", "how to print: text or json")
	f.StringVar(&a.color, "color", "auto", "colour the output: auto, always or never; NO_COLOR is respected")
	f.StringVar(&a.address, "address", "", "Temporal server, as host:port")
	f.StringVarP(&a.namespace, "namespace", "n", "", "Temporal namespace")
	f.StringVar(&a.profile, "profile", "", "profile of the Temporal configuration file")
	f.StringVar(&a.configFile, "config-file", "", "Temporal configuration file")
	f.StringVar(&a.keyFile, "key-file", "", "keys that executions are encrypted with")
	f.BoolVar(&a.insecure, "insecure", false, "encrypt nothing, as the worker does that was told so")
	a.complete(root, "output", "text", "json")
	a.complete(root, "color", "auto", "always", "never")
	cobra.EnableCommandSorting = false
	for _, g := range a.groups() {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, c := range g.commands {
			c.GroupID = g.id
			root.AddCommand(c)
		}
	}
	root.SetHelpCommandGroupID("other")
	root.SetCompletionCommandGroupID("other")
	return root
}

func (a *app) begin(*cobra.Command, []string) error {
	if a.output != "text" && a.output != "json" {
		return fmt.Errorf("--output is text or json, not %q", a.output)
	}
	if a.color != "auto" && a.color != "always" && a.color != "never" {
		return fmt.Errorf("--color is auto, always or never, not %q", a.color)
	}
	a.began = true
	return nil
}

func (a *app) json() bool { return a.output == "json" }

// again is how this program is called again with the same connection, for the
// commands that its output names.
func (a *app) again() string {
	cmd := cmp.Or(a.called, a.program)
	for _, f := range []struct{ flag, value string }{
		{"--profile", a.profile}, {"--config-file", a.configFile}, {"--address", a.address}, {"--namespace", a.namespace},
		{"--key-file", a.keyFile},
	} {
		if f.value != "" {
			cmd += " " + f.flag + " " + runview.Quote(f.value)
		}
	}
	if a.insecure {
		cmd += " --insecure"
	}
	return cmd
}

// examples are command lines for a help text; each begins with "starter".
func (a *app) examples(lines ...string) string {
	var b strings.Builder
	for i, l := range lines {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString("  " + strings.ReplaceAll(l, "starter ", a.program+" "))
	}
	return b.String()
}

// terminal returns the file descriptor behind a stream if it is a terminal.
func terminal(stream any) (fd int, ok bool) {
	f, isFile := stream.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	return int(f.Fd()), true
}

// view says how to render on w.
func (a *app) view(w io.Writer) runview.Options {
	o := runview.Options{Now: time.Now(), Program: a.again(), Source: a.source}
	fd, tty := terminal(w)
	switch a.color {
	case "always":
		o.Color = true
	case "auto":
		o.Color = tty && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	if tty {
		if width, height, err := term.GetSize(fd); err == nil && width > 0 {
			o.Width, o.Height = width, height
		}
	}
	return o
}

// source returns the text of a runbook that this run has read.
func (a *app) source(file string) []byte { return a.sources[file] }
