package inventory

import "time"

// Status is whether a node complies with a baseline.
type Status string

// The statuses.
const (
	Compliant    Status = "compliant"
	NonCompliant Status = "non_compliant"
	Undecided    Status = "unknown" // what would have to be known was never reported
)

// Missing counts what keeps a node from compliance, by severity: updates of a patch
// baseline that are not installed, rules that do not hold.
type Missing struct {
	Critical  int `json:"critical" jsonschema:"of severity critical"`
	Important int `json:"important" jsonschema:"of severity important"`
	Moderate  int `json:"moderate" jsonschema:"of severity moderate"`
	Low       int `json:"low" jsonschema:"of severity low"`
	Other     int `json:"other" jsonschema:"of another severity, or none"`
}

// Add counts one of a severity.
func (m *Missing) Add(severity string) {
	switch severity {
	case "critical":
		m.Critical++
	case "important":
		m.Important++
	case "moderate":
		m.Moderate++
	case "low":
		m.Low++
	default:
		m.Other++
	}
}

// Total is the sum.
func (m Missing) Total() int { return m.Critical + m.Important + m.Moderate + m.Low + m.Other }

// Compliance is how one node stands to one baseline.
type Compliance struct {
	Node          string    `json:"node" jsonschema:"id of the node"`
	Baseline      string    `json:"baseline" jsonschema:"name of the baseline, or of the file of rules"`
	Status        Status    `json:"status" jsonschema:"compliant, non_compliant or unknown"`
	Since         time.Time `json:"since" jsonschema:"since when it has this status"`
	Missing       Missing   `json:"missing" jsonschema:"what is missing, by severity"`
	RebootPending bool      `json:"reboot_pending" jsonschema:"it waits for a restart"`
	At            time.Time `json:"at" jsonschema:"when it was found"`
}

// ComplianceDay is how the fleet stood at the end of a day (UTC), or now if the day has not ended.
type ComplianceDay struct {
	Day          time.Time `json:"day" jsonschema:"its beginning"`
	Compliant    int       `json:"compliant" jsonschema:"pairs of node and baseline"`
	NonCompliant int       `json:"non_compliant" jsonschema:"pairs of node and baseline"`
	Unknown      int       `json:"unknown" jsonschema:"pairs of node and baseline"`
}
