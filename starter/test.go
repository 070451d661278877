package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"github.com/almanac-run/almanac/internal/rehearse"
	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/lang/program"
)

func (a *app) testCommand() *cobra.Command {
	var o testOptions
	cmd := &cobra.Command{
		Use:   "test [RUNBOOK | FOLDER]...",
		Short: "Run the unit tests of runbooks, without a server",
		Long: `Play the tests in NAME.test.yaml beside runbooks, in memory, without a server, a
node or a cloud: each says what the runbook is given, what its steps answer and
what people say, and what has to come out. docs/spec.md says how they are written.

Arguments are files, names, and folders, in which every NAME.test.yaml is played.
Without arguments the current folder is. Time is skipped. Each difference is shown
at its place. With -o json the results are one object, with tests and coverage.`,
		Example: a.examples(
			"starter test",
			"starter test linux/write-config --coverage",
			"starter test runbooks/ --junit report.xml",
		),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return runbookNames(), cobra.ShellCompDirectiveDefault
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{"."}
			}
			return a.test(args, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.only, "only", "", "play only the tests with this in their name")
	f.StringVar(&o.junit, "junit", "", "write the results to this file, as JUnit XML")
	f.BoolVar(&o.coverage, "coverage", false, "say which steps, sides of if:, on_error: and rollbacks no test takes")
	f.BoolVar(&o.update, "update", false, "write the traces that came into the files, where a trace is expected")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "show what happens in each test")
	return cmd
}

type testOptions struct {
	only, junit               string
	coverage, update, verbose bool
}

// testResult is one test as it is printed.
type testResult struct {
	Runbook string      `json:"runbook"`
	File    string      `json:"file"`
	Name    string      `json:"name"`
	Passed  bool        `json:"passed"`
	Wrong   []testWrong `json:"wrong,omitempty"`
	Trace   []string    `json:"trace,omitempty"`
	took    time.Duration
}

type testWrong struct {
	Pos     program.Pos `json:"pos"`
	Message string      `json:"message"`
}

// testsJSON is what -o json prints.
type testsJSON struct {
	Tests    []testResult        `json:"tests"`
	Coverage []rehearse.Coverage `json:"coverage,omitempty"`
}

func (a *app) test(args []string, o testOptions) error {
	var targets []string
	for _, arg := range args {
		found, err := a.testTargets(arg)
		if err != nil {
			return err
		}
		targets = append(targets, found...)
	}
	if len(targets) == 0 {
		return invalidf("there is no NAME%s in %s", rehearse.Suffix, strings.Join(args, ", "))
	}
	all := testsJSON{Tests: []testResult{}}
	var broken error
	for _, runbook := range targets {
		if err := a.testOne(runbook, o, &all); err != nil {
			broken = errors.Join(broken, err) // it hides no other file
		}
	}
	failed := 0
	for _, t := range all.Tests {
		if !t.Passed {
			failed++
		}
	}
	if a.json() {
		if err := printJSON(a.stdout, all); err != nil {
			return err
		}
	} else {
		for _, c := range all.Coverage {
			printCoverage(a.stdout, c)
		}
		fmt.Fprintf(a.stdout, "\n%s, %d failed\n", plural(len(all.Tests), "test"), failed)
	}
	if o.junit != "" {
		if err := writeJUnit(o.junit, all.Tests); err != nil {
			return err
		}
	}
	switch {
	case broken != nil:
		return &exitError{exitInvalid, broken}
	case failed > 0:
		return &exitError{code: exitTestFailed}
	}
	return nil
}

// testTargets lists the runbooks with tests that an argument stands for.
func (a *app) testTargets(arg string) ([]string, error) {
	info, err := os.Stat(arg)
	if err != nil || !info.IsDir() {
		return []string{strings.TrimSuffix(arg, rehearse.Suffix) + map[bool]string{true: ".yaml"}[strings.HasSuffix(arg, rehearse.Suffix)]}, nil
	}
	var targets []string
	err = filepath.WalkDir(arg, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if name := d.Name(); path != arg && (strings.HasPrefix(name, ".") || name == "node_modules" || name == "testdata") {
				return filepath.SkipDir
			}
		case strings.HasSuffix(path, rehearse.Suffix):
			if !isFile(path) {
				path = "./" + path
			}
			targets = append(targets, strings.TrimSuffix(path, rehearse.Suffix)+".yaml")
		}
		return nil
	})
	if err != nil {
		return nil, invalidf("%w", err)
	}
	return targets, nil
}

// testOne plays the tests of one runbook.
func (a *app) testOne(runbook string, o testOptions, all *testsJSON) error {
	prog, err := a.load(runbook)
	if err != nil {
		return err
	}
	file, source, err := a.testFile(runbook)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return invalidf("runbook %s has no tests: there is no NAME%s beside it", runbook, rehearse.Suffix)
		}
		return invalidf("%w", err)
	}
	f, err := a.parseTests(file, source, prog)
	if err != nil {
		return err
	}
	var verdicts []*rehearse.Verdict
	for i := range f.Tests {
		if !strings.Contains(f.Tests[i].Name, o.only) {
			continue
		}
		v := f.Play(&f.Tests[i], rehearse.Options{Program: prog, Actions: actionInfos(), Cloud: simulatedCloud, Seed: 1})
		verdicts = append(verdicts, v)
	}
	if text, changed := f.Rewritten(verdicts); o.update && changed {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			return invalidf("--update: %w", err)
		}
		fmt.Fprintf(a.stderr, "%s is rewritten; read the difference\n", file)
		for _, v := range verdicts {
			v.Accept()
		}
	}
	for _, v := range verdicts {
		t := testResult{Runbook: prog.Runbook, File: file, Name: v.Name, Passed: len(v.Wrong) == 0, took: v.Took}
		for _, w := range v.Wrong {
			t.Wrong = append(t.Wrong, testWrong{w.Pos, w.Message})
		}
		if !t.Passed || o.verbose {
			t.Trace = v.Case.Trace
		}
		all.Tests = append(all.Tests, t)
		if !a.json() {
			printTest(a.stdout, t, o.verbose, a.view(a.stdout))
		}
	}
	if o.coverage {
		all.Coverage = append(all.Coverage, rehearse.Cover(prog, verdicts))
	}
	return nil
}

func printTest(w io.Writer, t testResult, verbose bool, view runview.Options) {
	mark, color := "✔", text.FgGreen
	if !t.Passed {
		mark, color = "✘", text.FgRed
	}
	if view.Color {
		mark = text.Escape(mark, text.Colors{color}.EscapeSeq())
	}
	fmt.Fprintf(w, "%s %s: %s\n", mark, t.Runbook, runview.Clean(t.Name))
	for _, wrong := range t.Wrong {
		fmt.Fprintf(w, "  %s:%s: %s\n", t.File, wrong.Pos, strings.ReplaceAll(runview.Clean(wrong.Message), "\n", "\n    "))
	}
	if verbose {
		trace(w, t.Trace)
	}
}

func printCoverage(w io.Writer, c rehearse.Coverage) {
	var parts []string
	for _, p := range []struct {
		name  string
		share rehearse.Share
	}{{"steps", c.Steps}, {"sides of if:", c.Ifs}, {"on_error:", c.Errors}, {"rollbacks", c.Undone}} {
		if p.share.Of > 0 {
			parts = append(parts, fmt.Sprintf("%d of %d %s", p.share.Taken, p.share.Of, p.name))
		}
	}
	fmt.Fprintf(w, "\ncoverage of %s: %s\n", c.Runbook, strings.Join(parts, ", "))
	for _, m := range c.Missing {
		fmt.Fprintf(w, "  %s\n", m)
	}
}

// JUnit's form, as far as CI systems read it.
type (
	junitSuites struct {
		XMLName xml.Name     `xml:"testsuites"`
		Suites  []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Time     string      `xml:"time,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		File    string        `xml:"file,attr"`
		Time    string        `xml:"time,attr"`
		Failure *junitFailure `xml:"failure,omitempty"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

func writeJUnit(file string, tests []testResult) error {
	var doc junitSuites
	var total time.Duration
	for _, t := range tests {
		n := len(doc.Suites)
		if n == 0 || doc.Suites[n-1].Name != t.Runbook {
			doc.Suites = append(doc.Suites, junitSuite{Name: t.Runbook})
			n, total = n+1, 0
		}
		s := &doc.Suites[n-1]
		c := junitCase{Class: t.Runbook, Name: t.Name, File: t.File, Time: fmt.Sprintf("%.3f", t.took.Seconds())}
		s.Tests++
		if !t.Passed {
			s.Failures++
			var lines []string
			for _, w := range t.Wrong {
				lines = append(lines, fmt.Sprintf("%s:%s: %s", t.File, w.Pos, runview.Clean(w.Message)))
			}
			first, _, _ := strings.Cut(lines[0], "\n")
			c.Failure = &junitFailure{Message: first, Text: strings.Join(lines, "\n")}
		}
		total += t.took
		s.Time = fmt.Sprintf("%.3f", total.Seconds())
		s.Cases = append(s.Cases, c)
	}
	out, err := xml.MarshalIndent(doc, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, append([]byte(xml.Header), append(out, '\n')...), 0o644); err != nil {
		return fmt.Errorf("--junit: %w", err)
	}
	return nil
}
