package main

import "github.com/spf13/cobra"

// complete lists the values of a flag for the shell.
func (a *app) complete(cmd *cobra.Command, flag string, values ...string) {
	// The only error is a flag that does not exist, or two completions of one.
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err)
	}
}
