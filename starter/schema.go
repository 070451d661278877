package main

import (
	"github.com/spf13/cobra"

	"github.com/almanac-run/almanac/lang/compile"
)

func (a *app) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of runbooks, for editors",
		Long: `Print the JSON Schema of the language, with every action and its inputs. An
editor completes from it when the runbook's first line names the file:

  # yaml-language-server: $schema=runbook.schema.json`,
		Example: a.examples("starter schema > runbook.schema.json"),
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			schema, err := compile.Schema(actionInfos())
			if err != nil {
				return err
			}
			if len(schema) > 0 && schema[len(schema)-1] != '\n' {
				schema = append(schema, '\n')
			}
			_, err = a.stdout.Write(schema)
			return err
		},
	}
}
