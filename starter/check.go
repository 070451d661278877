package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/lang/syntax"
	"github.com/almanac-run/almanac/runbooks"
)

func (a *app) checkCommand() *cobra.Command {
	var asJSON, shipped bool
	cmd := &cobra.Command{
		Use:   "check [RUNBOOK | FOLDER]...",
		Short: "Find every mistake in runbooks, without a server",
		Long: `Check runbooks as the compiler does before a start: keys, types, every
expression, the actions and their inputs, and which step may refer to which.
All mistakes are shown in one pass, each with its place, the line and a caret.

Arguments are files, names, - for standard input, and folders, in which every
YAML file with a top-level runbook: key is checked. Without arguments the
current folder is. Warnings alone do not fail.

With --json (or -o json) the diagnostics are an array of objects with severity,
file, pos ("line:col"), width, code and message.`,
		Example: a.examples(
			"starter check patch.yaml",
			"starter check runbooks/ --json",
			"cat patch.yaml | starter check -",
		),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 && !shipped {
				args = []string{"."}
			}
			if shipped {
				args = append(args, runbooks.Names()...)
			}
			return a.check(args, asJSON || a.json())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "the same as -o json")
	cmd.Flags().BoolVar(&shipped, "shipped", false, "check the shipped runbooks too")
	return cmd
}

func (a *app) check(args []string, asJSON bool) error {
	all := []syntax.Diagnostic{} // an empty array, not null
	checked, passed := 0, 0
	var unread []error // they hide no mistakes of other files
	for _, arg := range args {
		files, others, err := runbookFiles(arg)
		if err != nil {
			unread = append(unread, err)
		}
		passed += others
		for _, f := range files {
			file, source, err := a.read(f)
			if err != nil {
				unread = append(unread, err)
				continue
			}
			_, ds := a.compile(file, source)
			all = append(all, ds...)
			checked++
		}
	}
	wrong := false
	for _, d := range all {
		wrong = wrong || d.Severity != syntax.Warning
	}
	if asJSON {
		if err := printJSON(a.stdout, all); err != nil {
			return err
		}
	} else {
		fmt.Fprint(a.stdout, runview.Diagnostics(all, a.view(a.stdout)))
		if len(all) > 0 {
			fmt.Fprintln(a.stdout)
		}
		note := ""
		if passed > 0 {
			note = fmt.Sprintf("; %s without runbook: passed over", plural(passed, "YAML file"))
		}
		fmt.Fprintf(a.stdout, "%s checked, %s%s\n", plural(checked, "runbook"), mistakes(all), note)
	}
	switch {
	case len(unread) > 0:
		return &exitError{exitInvalid, errors.Join(unread...)}
	case wrong:
		return &exitError{code: exitInvalid}
	}
	return nil
}

// runbookFiles lists the runbooks that an argument stands for, and how many
// YAML files of a folder are something else.
func runbookFiles(arg string) (files []string, others int, err error) {
	info, err := os.Stat(arg)
	if err != nil || !info.IsDir() {
		return []string{arg}, 0, nil
	}
	err = filepath.WalkDir(arg, func(path string, d fs.DirEntry, err error) error {
		switch ext := filepath.Ext(path); {
		case err != nil:
			return err
		case d.IsDir():
			if name := d.Name(); path != arg && (strings.HasPrefix(name, ".") || name == "node_modules" || name == "testdata") {
				return filepath.SkipDir
			}
			return nil
		case ext != ".yaml" && ext != ".yml":
			return nil
		}
		source, err := readFile(path)
		if err != nil {
			return err
		}
		if bytes.HasPrefix(source, []byte("runbook:")) || bytes.Contains(source, []byte("\nrunbook:")) {
			if !isFile(path) {
				path = "./" + path
			}
			files = append(files, path)
		} else {
			others++
		}
		return nil
	})
	return files, others, err
}
