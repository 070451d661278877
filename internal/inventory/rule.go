package inventory

// Rule says what must hold of items: the compiled form of one rule of a file, which
// package rules reads. Its expressions have been checked.
type Rule struct {
	Name     string `json:"name" jsonschema:"unique in its file"`
	Summary  string `json:"summary,omitempty" jsonschema:"what it asks for, in a sentence"`
	Severity string `json:"severity" jsonschema:"critical, important, moderate or low"`
	Kind     string `json:"kind" jsonschema:"kind of the items it is about"`
	Where    string `json:"where,omitempty" jsonschema:"which of them; empty: all"`
	Assert   string `json:"assert" jsonschema:"what must hold of each"`
	Required bool   `json:"required,omitempty" jsonschema:"a node without such an item breaks the rule"`
}
