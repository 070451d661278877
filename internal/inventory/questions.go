package inventory

import (
	"bytes"
	"encoding/json"
	"time"
)

// What can be asked of the inventory and what is answered. A long answer comes in
// parts: the question is asked again with the cursor of the part before.

// Names of the activities that answer. Runbooks do not have them.
const (
	ActivityStore             = "almanac.inventory.store"
	ActivityShow              = "almanac.inventory.show"
	ActivityDiff              = "almanac.inventory.diff"
	ActivityQuery             = "almanac.inventory.query"
	ActivityCheck             = "almanac.inventory.check"
	ActivityForget            = "almanac.inventory.forget"
	ActivityCompliance        = "almanac.compliance.list"
	ActivityComplianceHistory = "almanac.compliance.history"
)

// Reported is what was reported of one kind within one scope, and when.
type Reported struct {
	Kind    string    `json:"kind" jsonschema:"of the items"`
	Scope   string    `json:"scope,omitempty" jsonschema:"pattern of the files, or name of the fact"`
	FirstAt time.Time `json:"first_at" jsonschema:"of the first report"`
	SeenAt  time.Time `json:"seen_at" jsonschema:"of the last report"`
}

// NodePage is what is known of a node, or the next part of it.
type NodePage struct {
	At       time.Time  `json:"at" jsonschema:"the time it is about"`
	Sections []Reported `json:"sections" jsonschema:"what was reported and when, sorted"`
	Items    []Item     `json:"items" jsonschema:"sorted by kind and key"`
	Cursor   string     `json:"cursor,omitempty" jsonschema:"where the next part begins; empty: there is no more"`
}

// Change is what became of one item between two times.
type Change struct {
	What   string         `json:"what" jsonschema:"added, removed or changed" enum:"added,removed,changed"`
	At     time.Time      `json:"at" jsonschema:"when it was first found so; of several changes the last"`
	Kind   string         `json:"kind" jsonschema:"of the item"`
	Key    string         `json:"key" jsonschema:"of the item"`
	Before map[string]any `json:"before,omitempty" jsonschema:"its values then; of one that was added none"`
	After  map[string]any `json:"after,omitempty" jsonschema:"its values later; of one that was removed none"`
}

// UnmarshalJSON keeps numbers as they are written.
func (c *Change) UnmarshalJSON(b []byte) error {
	type plain Change
	return exactly(b, (*plain)(c))
}

// DiffPage is what changed, or the next part of it.
type DiffPage struct {
	Changes []Change `json:"changes" jsonschema:"sorted by kind and key"`
	// First are the kinds that were reported for the first time in between: they are compared with that first report.
	First  []string `json:"first,omitempty" jsonschema:"what was first reported in between, and is compared with that first report"`
	Cursor string   `json:"cursor,omitempty" jsonschema:"where the next part begins; empty: there is no more"`
}

// Found is an item and who has it.
type Found struct {
	Node      string         `json:"node" jsonschema:"id of the node that has it"`
	Kind      string         `json:"kind" jsonschema:"of the item"`
	Key       string         `json:"key" jsonschema:"of the item"`
	Values    map[string]any `json:"values" jsonschema:"what is known of it"`
	FirstSeen time.Time      `json:"first_seen" jsonschema:"since when the node has it"`
}

// UnmarshalJSON keeps numbers as they are written.
func (f *Found) UnmarshalJSON(b []byte) error {
	type plain Found
	return exactly(b, (*plain)(f))
}

// exactly decodes JSON without making floats of all numbers.
func exactly(b []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	return dec.Decode(into)
}

// QueryPage is what meets a condition, or the next part of it.
type QueryPage struct {
	Items  []Found `json:"items" jsonschema:"sorted by kind, key and node"`
	Cursor string  `json:"cursor,omitempty" jsonschema:"where the next part begins; empty: there is no more"`

	// Unclear counts facts for which the condition failed for another reason than
	// that they lack a field, and Why is the first such reason.
	Unclear int    `json:"unclear,omitempty" jsonschema:"of how many facts the condition could not be decided, among those looked at"`
	Why     string `json:"why,omitempty" jsonschema:"why not, of the first"`
}

// Broken is a rule that does not hold on a node.
type Broken struct {
	Rule     string   `json:"rule" jsonschema:"its name"`
	Summary  string   `json:"summary,omitempty" jsonschema:"what it asks for"`
	Severity string   `json:"severity" jsonschema:"its severity"`
	Items    int      `json:"items" jsonschema:"how many items break it; 0 if there is none that it could hold of, and one is required"`
	Keys     []string `json:"keys" jsonschema:"keys of the first of them"`
	Why      string   `json:"why,omitempty" jsonschema:"why it could not be decided, which counts as broken"`
}

// Checked is how a node stands to a file of rules.
type Checked struct {
	Compliance
	Broken    []Broken `json:"broken" jsonschema:"rules that do not hold, in the order of the file"`
	Undecided []string `json:"undecided,omitempty" jsonschema:"rules about a kind that the node never reported"`
}

// CheckPage is how nodes stand to a file of rules, or the next part of them.
type CheckPage struct {
	Nodes  []Checked `json:"nodes" jsonschema:"sorted by id"`
	Cursor string    `json:"cursor,omitempty" jsonschema:"where the next part begins; empty: there is no more"`
}

// CompliancePage is how nodes stand to baselines, or the next part of it.
type CompliancePage struct {
	Compliance []Compliance `json:"compliance" jsonschema:"sorted by node and baseline"`
	Cursor     string       `json:"cursor,omitempty" jsonschema:"where the next part begins; empty: there is no more"`
}

// StoreInput is a report of a node.
type StoreInput struct {
	Snapshot string `json:"snapshot" jsonschema:"as Encode writes it"`
}

// StoreOutput says what became of it.
type StoreOutput struct {
	// Missing are sections of which only the digest was sent, and which the store
	// does not have: the node sends them again if its Report returns an MissingError.
	Missing []string `json:"missing" jsonschema:"names of sections whose items are wanted"`
}

// ShowInput asks what a node has.
type ShowInput struct {
	Node   string    `json:"node" jsonschema:"id of the node"`
	At     time.Time `json:"at,omitzero" jsonschema:"when" default:"now"`
	Kinds  []string  `json:"kinds,omitempty" jsonschema:"kinds of items" default:"all"`
	Cursor string    `json:"cursor,omitempty" jsonschema:"of the answer before"`
}

// DiffInput asks what changed on a node.
type DiffInput struct {
	Node   string    `json:"node" jsonschema:"id of the node"`
	Since  time.Time `json:"since" jsonschema:"the earlier time"`
	Until  time.Time `json:"until,omitzero" jsonschema:"the later time" default:"now"`
	Kinds  []string  `json:"kinds,omitempty" jsonschema:"kinds of items" default:"all"`
	Cursor string    `json:"cursor,omitempty" jsonschema:"of the answer before"`
}

// QueryInput asks which items meet a condition.
type QueryInput struct {
	Query  string `json:"query" jsonschema:"CEL over item"`
	Limit  int    `json:"limit,omitempty" jsonschema:"how many at most in this answer, 1 to 1000" default:"1000"`
	Cursor string `json:"cursor,omitempty" jsonschema:"of the answer before"`
}

// CheckInput asks which nodes keep rules.
type CheckInput struct {
	Baseline string `json:"baseline" jsonschema:"what the compliance is called"`
	Rules    []Rule `json:"rules" jsonschema:"what has to hold"`
	Record   bool   `json:"record,omitempty" jsonschema:"keep the compliance that was found" default:"false"`
	Cursor   string `json:"cursor,omitempty" jsonschema:"of the answer before"`
}

// ForgetInput names a node that is no more.
type ForgetInput struct {
	Node string `json:"node" jsonschema:"id of the node"`
}

// Forgotten is empty.
type Forgotten struct{}

// ComplianceInput selects nodes and baselines; what is empty selects all.
type ComplianceInput struct {
	Nodes    []string `json:"nodes,omitempty" jsonschema:"ids, at most 500" default:"all"`
	Baseline string   `json:"baseline,omitempty" jsonschema:"name of the baseline" default:"all"`
	Status   Status   `json:"status,omitempty" jsonschema:"compliant, non_compliant or unknown" default:"all"`
	Cursor   string   `json:"cursor,omitempty" jsonschema:"of the answer before"`
}

// ComplianceHistoryInput asks how the fleet stood over time.
type ComplianceHistoryInput struct {
	Since    time.Time `json:"since" jsonschema:"a time of the first day"`
	Baseline string    `json:"baseline,omitempty" jsonschema:"name of the baseline" default:"all"`
}

// ComplianceDays is how the fleet stood over time.
type ComplianceDays struct {
	Days []ComplianceDay `json:"days" jsonschema:"one for each day until today"`
}
