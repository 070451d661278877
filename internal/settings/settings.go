// Package settings gives the flags of a program their values from the
// environment and from a file as well.
//
// It gives Resolve, and Misspelt. It promises one precedence for every setting: the flag on
// the command line, else the environment variable ALMANAC_<FLAG>, else the file,
// else the default; that a mistake in the file has a place and all mistakes are
// told at once; and to say of each setting where it comes from. It refuses to
// know what the settings mean: a flag's own type reads its value.
package settings

import (
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/almanac-run/almanac/internal/codec"
	"github.com/almanac-run/almanac/internal/pgtext"
	"github.com/almanac-run/almanac/lang/program"
)

// The flag that names the file, and its variable.
const (
	FileFlag = "config"
	EnvFile  = "ALMANAC_CONFIG"
)

// Setting is one setting as it is in effect.
type Setting struct {
	Name   string `json:"name"`  // the flag's
	Value  string `json:"value"` // passwords masked
	Source string `json:"source"`
}

// AddFile adds the flag that names the file.
func AddFile(fs *pflag.FlagSet) {
	fs.String(FileFlag, "", "file of settings, YAML: the names of these flags without the dashes ("+EnvFile+")")
}

// instead is the annotation of a flag whose program reads another variable itself.
const instead = "almanac_instead"

// Instead says that the environment may hold what a flag names in a variable
// that the program reads by itself: if it is set, it takes the place of the
// flag's own variable and of the file.
func Instead(fs *pflag.FlagSet, flag, variable string) {
	if err := fs.SetAnnotation(flag, instead, []string{variable}); err != nil {
		panic(err)
	}
}

// prefix begins the names of our variables.
const prefix = "ALMANAC_"

// Variable is the environment variable of a flag.
func Variable(flag string) string {
	return prefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Of lists the flags of fs that are settings, by name.
func Of(fs *pflag.FlagSet) []*pflag.Flag {
	var flags []*pflag.Flag
	fs.VisitAll(func(f *pflag.Flag) {
		switch f.Name {
		case FileFlag, "help", "version":
		default:
			flags = append(flags, f)
		}
	})
	return flags
}

// Resolve sets each flag that the command line did not, from the environment or
// from the file that --config or ALMANAC_CONFIG names, and returns all settings,
// sorted by name. A variable that is empty counts as not set. Of a flag that may be
// repeated, the values are separated by commas in its variable (one with a comma
// of its own in double quotes), and are a list in the file. They are not added
// to those of a lower place: the highest has all.
func Resolve(fs *pflag.FlagSet) ([]Setting, error) {
	file := ""
	if f := fs.Lookup(FileFlag); f != nil {
		if file = f.Value.String(); !f.Changed {
			file = os.Getenv(EnvFile)
		}
	}
	flags := Of(fs)
	var names []string
	for _, f := range flags {
		names = append(names, f.Name)
	}
	given := map[string]entry{}
	if file != "" {
		var err error
		if given, err = readFile(file, names); err != nil {
			return nil, err
		}
	}
	var all []Setting
	var wrong []error
	for _, f := range flags {
		s := Setting{Name: f.Name, Source: "default"}
		other := f.Annotations[instead]
		value := os.Getenv(Variable(f.Name))
		e, inFile := given[f.Name]
		switch {
		case f.Changed:
			s.Source = "flag"
		case len(other) > 0 && os.Getenv(other[0]) != "":
			all = append(all, Setting{Name: f.Name, Value: "***", Source: "environment (" + other[0] + ")"})
			continue
		case value != "":
			s.Source = "environment (" + Variable(f.Name) + ")"
			if err := setText(f, value); err != nil {
				wrong = append(wrong, fmt.Errorf("%s: %w", Variable(f.Name), err))
			}
		case inFile:
			s.Source = e.place
			if err := set(f, e.values, e.list); err != nil {
				wrong = append(wrong, fmt.Errorf("%s: %s: %w", e.place, f.Name, err))
			}
		}
		s.Value = masked(f)
		all = append(all, s)
	}
	return all, errors.Join(wrong...)
}

// masked is the value of a flag as it may be shown.
func masked(f *pflag.Flag) string {
	slice, many := f.Value.(pflag.SliceValue)
	if !many {
		return pgtext.Masked(f.Value.String())
	}
	var values []string
	for _, v := range slice.GetSlice() {
		values = append(values, pgtext.Masked(v))
	}
	return "[" + strings.Join(values, ",") + "]"
}

// Misspelt lists the variables of an environment (os.Environ) that are no setting, but look as if one was meant: a
// sentence for each, with its name and never its value. Others are not told of: our programs share environments, and people have
// variables of their own.
func Misspelt(fs *pflag.FlagSet, environ []string) []string {
	names := []string{EnvFile, codec.EnvKeys, codec.EnvFile, codec.EnvInsecure, codec.EnvRefuse}
	for _, f := range Of(fs) {
		names = append(append(names, Variable(f.Name)), f.Annotations[instead]...)
	}
	var rest []string // the prefix would make all of them alike
	for _, n := range names {
		rest = append(rest, strings.TrimPrefix(n, prefix))
	}
	var all []string
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		if value == "" || slices.Contains(names, name) || !nameForm.MatchString(name) {
			continue
		}
		meant := program.Nearest(name, names)
		if r, ok := strings.CutPrefix(name, prefix); ok {
			if meant = program.Nearest(r, rest); meant != "" {
				meant = prefix + meant
			}
		}
		if meant != "" {
			all = append(all, fmt.Sprintf("%s is no setting; did you mean %s?", name, meant))
		}
	}
	slices.Sort(all)
	return all
}

// nameForm is that of a name which somebody may have typed.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,100}$`)

// setText sets a flag to the text of a variable.
func setText(f *pflag.Flag, text string) error {
	if _, list := f.Value.(pflag.SliceValue); !list {
		return set(f, []string{text}, false)
	}
	r := csv.NewReader(strings.NewReader(text))
	r.TrimLeadingSpace = true
	lines, err := r.ReadAll()
	switch {
	case err != nil:
		return err
	case len(lines) != 1:
		return fmt.Errorf("have %d lines, want one: values separated by commas", len(lines))
	}
	return set(f, lines[0], true)
}

func set(f *pflag.Flag, values []string, list bool) error {
	var err error
	switch slice, many := f.Value.(pflag.SliceValue); {
	case many:
		err = slice.Replace(values)
	case list:
		return errors.New("have a list, want one value")
	default:
		err = f.Value.Set(values[0])
	}
	if err == nil {
		f.Changed = true
	}
	return err
}

// Table is the settings of fs as a table in Markdown, for the documentation:
// name, default, and what it means.
func Table(fs *pflag.FlagSet) string {
	var b strings.Builder
	b.WriteString("| setting | default | |\n| --- | --- | --- |\n")
	for _, f := range Of(fs) {
		value := f.DefValue
		if value != "" && value != "[]" {
			value = "`" + value + "`"
		} else {
			value = ""
		}
		more := ""
		if _, list := f.Value.(pflag.SliceValue); list {
			more = " (a list)"
		}
		fmt.Fprintf(&b, "| `%s`%s | %s | %s |\n", f.Name, more, value, strings.ReplaceAll(f.Usage, "|", `\|`))
	}
	return b.String()
}
