// Package docs keeps the derived files of docs/ up to date.
//
// It has nothing but tests. They promise that docs/actions.md and
// docs/runbook.schema.json say what the definitions of the actions say, and
// that the examples in these compile. UPDATE=1 rewrites the files.
package docs
