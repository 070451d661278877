package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"github.com/almanac-run/almanac/internal/rehearse"
	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/runbooks"
	"github.com/almanac-run/almanac/workflows"
)

func (a *app) rehearseCommand() *cobra.Command {
	var in inputFlags
	var o rehearse.Options
	var answers string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "rehearse RUNBOOK",
		Short: "Let every step fail in memory, and see what would be left behind",
		Long: `Run a runbook in memory, without a server, a node or a cloud: once straight, then
once for each piece of its work and each way that can go wrong:

` + faultText() + `

Each of these runs is judged: how it ended, what was rolled back, and what was
left behind that nobody meant to leave, with the reason and what to change. Time
is skipped, so that hours take milliseconds. Of large loops and many targets the
first, the middle and the last one fail.

Actions of aws. run in a simulated cloud. All others answer what goes well; what
they answer instead, the nodes there are, and inputs that are not given here are
taken from rehearse: in the file NAME.test.yaml beside the runbook, or --answers.
What a script on a node changes cannot be known: its steps are listed as not seen.
Approvals are given and pauses resumed after a minute. No secret is read.

The exit code is 10 if anything was left behind in any run that nobody meant to
leave, and 1 if the straight run does not succeed.`,
		Example: a.examples(
			"starter rehearse linux/write-config",
			"starter rehearse ./build.yaml -i region=eu-west-1 -o json",
			"starter rehearse ./build.yaml --step image --fault lost",
		),
		Args:              one("RUNBOOK"),
		ValidArgsFunction: runbookArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			prog, err := a.load(args[0])
			if err != nil {
				return err
			}
			if o.Fault != "" && !slices.ContainsFunc(rehearse.Faults, func(f rehearse.FaultKind) bool { return strings.Split(o.Fault, ":")[0] == f.Name }) {
				return usagef("there is no fault %s; %s --help lists them", o.Fault, a.again()+" rehearse")
			}
			if o.Scene, err = a.scene(args[0], answers, prog, in); err != nil {
				return err
			}
			o.Program, o.Actions, o.Cloud = prog, actionInfos(), simulatedCloud
			o.Trace = verbose || o.Step != "" && o.Fault != ""
			o.Requests = o.Trace
			return a.rehearse(o)
		},
	}
	in.add(a, cmd)
	f := cmd.Flags()
	f.StringVar(&answers, "answers", "", "file with rehearse:, in place of NAME.test.yaml")
	f.StringVar(&o.Step, "step", "", "let only this step fail, as PATH, PATH@NODE, or with [*] for any iteration")
	f.StringVar(&o.Fault, "fault", "", "let it fail only so; with --step, what happens is shown")
	f.Uint64Var(&o.Seed, "seed", 1, "what chance in the simulated cloud comes from")
	f.BoolVarP(&verbose, "verbose", "v", false, "show what happens in each run")
	var names []string
	for _, fault := range rehearse.Faults {
		names = append(names, fault.Name+"\t"+fault.Meaning)
	}
	a.complete(cmd, "fault", names...)
	return cmd
}

func faultText() string {
	var b strings.Builder
	for _, f := range rehearse.Faults {
		fmt.Fprintf(&b, "  %-11s  %s\n", f.Name, f.Meaning)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// scene is what a rehearsal begins with: what the file of tests says, with the
// inputs of the command line over its own.
func (a *app) scene(runbook, answers string, prog *program.Program, in inputFlags) (rehearse.Scene, error) {
	var scene rehearse.Scene
	file, source := answers, []byte(nil)
	var err error
	if answers != "" {
		if source, err = readFile(answers); err != nil {
			return scene, invalidf("%w", err)
		}
	} else {
		file, source, err = a.testFile(runbook)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return scene, invalidf("%w", err)
		}
	}
	if source != nil {
		f, err := a.parseTests(file, source, prog)
		if err != nil {
			return scene, err
		}
		if f.Rehearse != nil {
			scene = *f.Rehearse
		}
	}
	in.given = scene.Inputs
	scene.Inputs, err = a.inputs(runbook, prog, in, true)
	var wrong *exitError
	if errors.As(err, &wrong) && wrong.code == exitInvalid && answers == "" {
		wrong.err = fmt.Errorf("%w\na rehearsal finds them in rehearse: of NAME%s beside the runbook too", wrong.err, rehearse.Suffix)
	}
	return scene, err
}

// testFile reads the file of tests beside a runbook.
func (a *app) testFile(runbook string) (string, []byte, error) {
	switch {
	case runbook == "-":
		return "", nil, fs.ErrNotExist
	case isFile(runbook):
		file := strings.TrimSuffix(strings.TrimSuffix(runbook, ".yaml"), ".yml") + rehearse.Suffix
		source, err := readFile(file)
		return file, source, err
	}
	if fs.ValidPath(runbook) {
		for _, dir := range libraries() {
			file := filepath.Join(dir, filepath.FromSlash(runbook)+rehearse.Suffix)
			if source, err := readFile(file); err == nil || !errors.Is(err, fs.ErrNotExist) {
				return file, source, err
			}
			if _, err := os.Stat(filepath.Join(dir, filepath.FromSlash(runbook)+".yaml")); err == nil {
				return "", nil, fs.ErrNotExist // the shipped one of that name is another
			}
		}
	}
	return runbooks.Tests(runbook)
}

// parseTests reads a file of tests; its mistakes are shown.
func (a *app) parseTests(file string, source []byte, prog *program.Program) (*rehearse.File, error) {
	a.sources[file] = source
	f, ds := rehearse.ParseFile(file, source, prog)
	if len(ds) > 0 {
		fmt.Fprintf(a.stderr, "%s\n", runview.Diagnostics(ds, a.view(a.stderr)))
	}
	if f == nil {
		return nil, invalidf("%s: %s", file, mistakes(ds))
	}
	return f, nil
}

func (a *app) rehearse(o rehearse.Options) error {
	_, tty := terminal(a.stderr)
	if tty && !a.json() {
		var mu sync.Mutex
		var last time.Time
		o.Progress = func(done, total int) {
			mu.Lock()
			defer mu.Unlock()
			if time.Since(last) > 100*time.Millisecond || done == total {
				last = time.Now()
				fmt.Fprintf(a.stderr, "\r%d of %d failures\x1b[K", done, total)
			}
			if done == total {
				fmt.Fprint(a.stderr, "\r\x1b[K")
			}
		}
	}
	report, err := rehearse.Rehearse(o)
	if err != nil {
		return err
	}
	if a.json() {
		if err := printJSON(a.stdout, report); err != nil {
			return err
		}
	} else {
		printRehearsal(a.stdout, report, o, a.view(a.stdout))
	}
	switch {
	case report.Left() > 0:
		return &exitError{code: exitLeftBehind}
	case report.Straight.Outcome != workflows.Succeeded || report.Broken() > 0:
		return &exitError{code: exitFailed}
	}
	return nil
}

func printRehearsal(w io.Writer, r *rehearse.Report, o rehearse.Options, view runview.Options) {
	paint := func(s string, colors ...text.Color) string {
		if !view.Color {
			return s
		}
		return text.Escape(s, text.Colors(colors).EscapeSeq())
	}
	if r.Straight.Outcome == workflows.Succeeded {
		fmt.Fprintf(w, "%s: when all goes well it succeeds\n", paint(r.Runbook, text.Bold))
	} else {
		fmt.Fprintf(w, "%s: when nothing goes wrong it ends as %s\n", paint(r.Runbook, text.Bold), words(string(cmp.Or(r.Straight.Outcome, "unknown"))))
		fmt.Fprintf(w, "  %s\n", runview.Clean(cmp.Or(r.Straight.Error, r.Straight.Message)))
		fmt.Fprintf(w, "  what its steps answer is made up; answers: in NAME%s says it better\n", rehearse.Suffix)
	}
	for _, t := range r.Made {
		fmt.Fprintf(w, "  makes %s, by %s\n", runview.Clean(t.String()), t.Step)
	}
	if o.Trace && o.Step == "" {
		trace(w, r.Straight.Trace)
	}

	printCases(w, r, o, view, paint)
	printLeft(w, r)
	if len(r.Unreached) > 0 {
		fmt.Fprintf(w, "\nnever reached\n")
		var rows [][]string
		for _, u := range r.Unreached {
			at := fmt.Sprintf("%s:%s", u.File, u.Pos)
			if u.If != "" {
				at += "  if: " + short(u.If, 60)
			}
			rows = append(rows, []string{u.Step, u.Form, at})
		}
		columns(w, "  ", nil, rows)
	}
	if len(r.Unused) > 0 {
		fmt.Fprintf(w, "\nanswers that nothing asked for: %s\n", strings.Join(r.Unused, ", "))
	}
	if len(r.Unseen) > 0 {
		fmt.Fprintf(w, "\nnot seen: what these steps change, which say no rollback:\n  %s\n", strings.Join(r.Unseen, ", "))
	}
	for _, u := range r.Untried {
		fmt.Fprintf(w, "\nof %s %d of %d failed: the first, the middle and the last\n", u.Step, u.Tried, u.Of)
	}
	fmt.Fprintf(w, "\n%s\n", verdict(r))
}

// printCases prints the runs by step. Those of one step that went the same way
// are one row, and so are steps that differ in iteration or node only.
func printCases(w io.Writer, r *rehearse.Report, o rehearse.Options, view runview.Options, paint func(string, ...text.Color) string) {
	var names []string // of the steps of the block
	var block [][]string
	form := ""
	flush := func() {
		if len(names) > 0 {
			fmt.Fprintf(w, "\n%s %s\n", paint(strings.Join(names, " "), text.Bold), paint(form, text.Faint))
			marked(w, block, view.Color)
		}
		names, block = nil, nil
	}
	for from := 0; from < len(r.Cases); {
		step := r.Cases[from].Step
		to := from
		for to < len(r.Cases) && r.Cases[to].Step == step {
			to++
		}
		rows := caseRows(r.Cases[from:to], o.Trace, view.Width)
		if len(names) > 0 && rehearse.Alike(names[0]) == rehearse.Alike(step) && slices.EqualFunc(rows, block, slices.Equal) {
			names = append(names, step)
		} else {
			flush()
			names, block, form = []string{step}, rows, r.Cases[from].Form
		}
		if o.Trace {
			for i, c := range r.Cases[from:to] {
				block = rows[i : i+1]
				if i > 0 {
					marked(w, block, view.Color)
				} else {
					flush()
				}
				trace(w, c.Trace)
			}
			names = nil
		}
		from = to
	}
	flush()
}

// marked writes rows whose first cell is a mark, in its colour.
func marked(w io.Writer, rows [][]string, color bool) {
	var b strings.Builder
	columns(&b, "  ", nil, rows)
	out := b.String()
	if color {
		for mark, c := range map[string]text.Color{"✔": text.FgGreen, "✘": text.FgRed, "!": text.FgYellow} {
			out = strings.ReplaceAll("\n"+out, "\n  "+mark+" ", "\n  "+text.Escape(mark, text.Colors{c}.EscapeSeq())+" ")[1:]
		}
	}
	fmt.Fprint(w, out)
}

// caseRows are rows of a mark, faults, how that ended, and what there is to say.
func caseRows(cases []rehearse.Case, each bool, width int) [][]string {
	var rows [][]string
	for _, c := range cases {
		mark, detail := "✔", ""
		switch {
		case c.Error != "":
			mark, detail = "✘", c.Error
		case len(c.Left) > 0:
			var things []string
			for _, l := range c.Left {
				things = append(things, l.What)
			}
			mark, detail = "✘", "LEFT BEHIND: "+several(things)
		case c.Unrecovered:
			mark, detail = "!", "could have gone on: "+short(c.Message, 80)
		case len(c.RolledBack) > 0:
			detail = "took back " + several(c.RolledBack)
		}
		if width > 0 {
			detail = short(detail, max(width-40, 30))
		}
		row := []string{mark, c.Fault, words(string(c.Outcome)), detail}
		if c.At != "" && (each || len(c.Left) > 0) {
			row[1] = c.Fault + " (" + c.At[strings.Index(c.At, " ")+1:] + ")"
		}
		i := slices.IndexFunc(rows, func(o []string) bool { return o[0] == row[0] && o[2] == row[2] && o[3] == row[3] })
		if i < 0 || each {
			rows = append(rows, row)
		} else {
			rows[i][1] = joined(rows[i][1], row[1])
		}
	}
	return rows
}

// joined adds a fault to a list of them: dies-after:1, dies-after:2 and
// dies-after:3 are "dies-after:1-3".
func joined(list, fault string) string {
	kind, call, numbered := strings.Cut(fault, ":")
	all := strings.Split(list, ", ")
	at := slices.IndexFunc(all, func(f string) bool { return strings.HasPrefix(f, kind+":") && !strings.Contains(f, "(") })
	if !numbered || at < 0 || strings.Contains(fault, "(") {
		return list + ", " + fault
	}
	n, err := strconv.Atoi(call)
	cut := strings.LastIndexAny(all[at], ":,-")
	last, lastErr := strconv.Atoi(all[at][cut+1:])
	switch {
	case err != nil || lastErr != nil || n != last+1:
		all[at] += "," + call
	case all[at][cut] == '-':
		all[at] = all[at][:cut+1] + call
	default:
		all[at] += "-" + call
	}
	return strings.Join(all, ", ")
}

// printLeft says of what was left behind why it was, once for each reason.
func printLeft(w io.Writer, r *rehearse.Report) {
	type reason struct{ what, step, why, fix string }
	var order []reason
	in := map[reason][]string{}
	var kept []string
	for _, c := range r.Cases {
		for _, l := range c.Left {
			k := reason{l.What, l.Step, l.Why, l.Fix}
			if in[k] == nil {
				order = append(order, k)
			}
			in[k] = append(in[k], c.Step+" "+c.Fault)
		}
		for _, l := range c.Kept {
			line := fmt.Sprintf("%s (%s)", l.What, l.Why)
			if !slices.Contains(kept, line) {
				kept = append(kept, line)
			}
		}
	}
	if len(order) > 0 {
		fmt.Fprintf(w, "\nleft behind\n")
	}
	for _, k := range order {
		fmt.Fprintf(w, "  %s, by %s\n", runview.Clean(k.what), k.step)
		fmt.Fprintf(w, "    why: %s\n", runview.Clean(k.why))
		if k.fix != "" {
			fmt.Fprintf(w, "    change: %s\n", runview.Clean(k.fix))
		}
		first := in[k][0]
		step, fault, _ := strings.Cut(first, " ")
		fmt.Fprintf(w, "    in %s; see it: --step %s --fault %s\n", plural(len(in[k]), "run"), runview.Quote(step), fault)
	}
	if len(kept) > 0 {
		fmt.Fprintf(w, "\nleft by intention, or because what removes it is what failed\n")
		for _, k := range kept {
			fmt.Fprintf(w, "  %s\n", runview.Clean(k))
		}
	}
}

// verdict is a rehearsal in one line.
func verdict(r *rehearse.Report) string {
	s := fmt.Sprintf("%s tried, %d left something behind", plural(len(r.Cases), "failure"), r.Left())
	if n := r.Broken(); n > 0 {
		s += fmt.Sprintf(", %d could not be played", n)
	}
	n := 0
	for _, c := range r.Cases {
		if c.Unrecovered {
			n++
		}
	}
	if n > 0 {
		s += fmt.Sprintf(", %d ended what could have gone on", n)
	}
	if r.Whole {
		s += fmt.Sprintf(", %s never reached", plural(len(r.Unreached), "step"))
	}
	if r.Straight.Outcome == workflows.Succeeded {
		s += ", " + took(r)
	}
	return s
}

// took is how long the straight run would take, as far as that is known.
func took(r *rehearse.Report) string {
	if r.Instant > 0 && r.Straight.Seconds < 1 {
		return "how long it takes is not known"
	}
	s := "about " + runview.Elapsed(seconds(r.Straight.Seconds).Round(time.Second)) + " when all goes well"
	if r.Instant > 0 {
		s += ", not counting " + plural(r.Instant, "made-up answer")
	}
	return s
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func words(s string) string { return strings.ReplaceAll(s, "_", " ") }

// several names the first few of a list.
func several(names []string) string {
	const most = 4
	s := strings.Join(names[:min(len(names), most)], ", ")
	if n := len(names) - most; n > 0 {
		s += fmt.Sprintf(" and %d more", n)
	}
	return s
}

func trace(w io.Writer, lines []string) {
	for _, l := range lines {
		fmt.Fprintf(w, "      | %s\n", runview.Clean(l))
	}
}
