package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/almanac-run/almanac/lang/program"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    "Print the version of this program, and of the compiled form of runbooks that it makes.",
		Example: a.examples("starter version", "starter version -o json"),
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version string `json:"version"`
				Commit  string `json:"commit,omitempty"`
				Program int    `json:"program"`
				Go      string `json:"go"`
				OS      string `json:"os"`
			}{"unknown", "", program.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				v.Version = info.Main.Version
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						v.Commit = s.Value
					}
				}
			}
			if a.json() {
				return printJSON(a.stdout, v)
			}
			fmt.Fprintf(a.stdout, "%s %s (program format %d, %s, %s)\n", a.program, v.Version, v.Program, v.Go, v.OS)
			return nil
		},
	}
}
