package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// one takes one argument, and says what it is if it is missing.
func one(what string) cobra.PositionalArgs { return oneOrTwo(what, "") }

// oneOrTwo takes one argument and, unless second is empty, perhaps a second.
func oneOrTwo(first, second string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		most := 1
		if second != "" {
			most = 2
		}
		switch {
		case len(args) == 0 && first == "EXECUTION":
			return fmt.Errorf("%s needs the id of an execution; list shows them", cmd.Name())
		case len(args) == 0:
			return fmt.Errorf("%s needs the name or file of a runbook; describe lists the names", cmd.Name())
		case len(args) > most && strings.Contains(args[most], "=") && cmd.Flags().Lookup("input") != nil:
			return fmt.Errorf("an input is given with -i: -i %s", args[most])
		case len(args) > most:
			return fmt.Errorf("%s takes one %s, and was also given %q", cmd.Name(), strings.TrimSpace(first+" "+second), args[most:])
		}
		return nil
	}
}
