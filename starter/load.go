package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/spf13/cobra"

	"github.com/almanac-run/almanac/internal/rehearse"
	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/lang/compile"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/lang/syntax"
	"github.com/almanac-run/almanac/runbooks"
)

// runbooksEnv lists folders of runbooks; a runbook a/b is a/b.yaml in one of them.
const runbooksEnv = "ALMANAC_RUNBOOKS"

// maxSource bounds what is read as a runbook or as inputs: the compiler
// refuses less, but must not be given a disk to read.
const maxSource = 8 << 20

// isFile tells whether a runbook is given as a file rather than by its name.
func isFile(arg string) bool {
	return arg == "-" || strings.HasPrefix(arg, ".") || filepath.IsAbs(arg) ||
		strings.HasSuffix(arg, ".yaml") || strings.HasSuffix(arg, ".yml")
}

// read returns the text of the runbook that the user named.
func (a *app) read(arg string) (file string, source []byte, err error) {
	switch {
	case arg == "-":
		file = "stdin"
		source, err = io.ReadAll(io.LimitReader(a.stdin, maxSource+1))
	case isFile(arg):
		file = arg
		source, err = readFile(arg)
	default:
		if file, source, err = named(arg, libraries()); errors.Is(err, fs.ErrNotExist) {
			return "", nil, a.unknownRunbook(arg)
		}
	}
	if err != nil {
		return "", nil, invalidf("%w", err)
	}
	if len(source) > maxSource {
		return "", nil, invalidf("%s: larger than %d MB", file, maxSource>>20)
	}
	a.sources[file] = source
	return file, source, nil
}

func readFile(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxSource+1))
}

// libraries are the folders of ALMANAC_RUNBOOKS.
func libraries() []string { return filepath.SplitList(os.Getenv(runbooksEnv)) }

// named finds a runbook by name: in folders, then among the shipped ones.
func named(name string, folders []string) (string, []byte, error) {
	if fs.ValidPath(name) { // no .., so that a name stays inside its folder
		for _, dir := range folders {
			file := filepath.Join(dir, filepath.FromSlash(name)+".yaml")
			source, err := readFile(file)
			if err == nil || !errors.Is(err, fs.ErrNotExist) {
				return file, source, err
			}
		}
	}
	return runbooks.Source(name)
}

// unknownRunbook says what would have been accepted.
func (a *app) unknownRunbook(name string) error {
	hint := fmt.Sprintf("the shipped ones are: %s\na file is given by its path: ./%s.yaml", strings.Join(runbooks.Names(), ", "), name)
	if near := nearest(name, runbookNames()); near != "" {
		hint = fmt.Sprintf("did you mean %s?", near)
	}
	if _, err := os.Stat(name); err == nil {
		hint = fmt.Sprintf("a file without .yaml is given as ./%s", name)
	}
	return invalidf("there is no runbook %s; %s", name, hint)
}

// nearest returns the candidate that a misspelt word most likely meant, or "".
func nearest(word string, candidates []string) string {
	best, score := "", 0.6
	for _, c := range candidates {
		if m := levenshtein.Match(word, c, nil); m > score {
			best, score = c, m
		}
	}
	return best
}

// runbookNames lists shipped runbooks and those in the folders of ALMANAC_RUNBOOKS.
func runbookNames() []string {
	names := slices.Clone(runbooks.Names())
	for _, dir := range libraries() {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && strings.HasSuffix(path, ".yaml") && !strings.HasSuffix(path, rehearse.Suffix) {
				if rel, err := filepath.Rel(dir, path); err == nil {
					names = append(names, filepath.ToSlash(strings.TrimSuffix(rel, ".yaml")))
				}
			}
			return nil
		})
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// compile compiles a runbook that was read. Runbooks that it calls are looked
// for beside it (from its folder up, as far as their names have parts), then as
// any other name.
func (a *app) compile(file string, source []byte) (*program.Program, []syntax.Diagnostic) {
	return compile.Compile(file, source, compile.Options{
		Actions: actionInfos(),
		Runbook: func(name string) (string, []byte, error) {
			folders := libraries()
			if file != "stdin" {
				beside := []string{}
				dir := filepath.Dir(file)
				for range strings.Count(name, "/") + 1 {
					beside = append(beside, dir)
					dir = filepath.Join(dir, "..")
				}
				folders = append(beside, folders...)
			}
			file, source, err := named(name, folders)
			if err == nil {
				a.sources[file] = source
			}
			return file, source, err
		},
	})
}

// load reads and compiles a runbook. Its mistakes are shown on standard error
// and end the command; warnings are shown.
func (a *app) load(arg string) (*program.Program, error) {
	file, source, err := a.read(arg)
	if err != nil {
		return nil, err
	}
	prog, ds := a.compile(file, source)
	if len(ds) > 0 {
		fmt.Fprintf(a.stderr, "%s\n", runview.Diagnostics(ds, a.view(a.stderr)))
	}
	if prog == nil {
		return nil, invalidf("%s: %s", file, mistakes(ds))
	}
	return prog, nil
}

// mistakes counts diagnostics: "2 mistakes, 1 warning".
func mistakes(ds []syntax.Diagnostic) string {
	wrong, warned := 0, 0
	for _, d := range ds {
		if d.Severity == syntax.Warning {
			warned++
		} else {
			wrong++
		}
	}
	var parts []string
	if wrong > 0 || warned == 0 {
		parts = append(parts, plural(wrong, "mistake"))
	}
	if warned > 0 {
		parts = append(parts, plural(warned, "warning"))
	}
	return strings.Join(parts, ", ")
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// runbookArgs completes the name of a runbook, or a file.
func runbookArgs(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return runbookNames(), cobra.ShellCompDirectiveDefault
}
