package output

// ActivityKeep is the control worker's activity that takes outputs of a node into the central store. A
// node's agent has it done, by the workflow almanac.tell.
const ActivityKeep = "almanac.output.keep"

// KeepInput names outputs that have ended.
type KeepInput struct {
	Outputs []Kept `json:"outputs,omitempty" jsonschema:"outputs that have ended; none: is there a central store?"`
}

// Kept is one output of a node.
type Kept struct {
	Ref  string `json:"ref" jsonschema:"the output"`
	Size int64  `json:"size" jsonschema:"bytes of it"`
	Anew bool   `json:"anew,omitempty" jsonschema:"it was removed from the node and begun anew: what the store has of it is another's"`
	Data string `json:"data,omitempty" jsonschema:"all of it in base64, if it is small; else it is fetched from the node"`
}

// KeepOutput says what has become of them.
type KeepOutput struct {
	Off    bool              `json:"off,omitempty" jsonschema:"there is no central store"`
	Kept   []string          `json:"kept,omitempty" jsonschema:"those that the central store has"`
	Failed map[string]string `json:"failed,omitempty" jsonschema:"why others are not there, by reference"`
}
