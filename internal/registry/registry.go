// Package registry is what is known of the nodes of a fleet.
//
// It gives Node, how a node is found and named in Temporal, and Admit and
// Merge, which decide what becomes of a report about a node. A node is a
// long-lived workflow, whose memo is the Node: it costs history when something
// changes and never by the second, the server lists and filters it, and people
// see it in the Web UI. Who is alive the server knows by the heartbeats of the
// workers. The package promises that two agents never serve one id. It refuses
// to know how a node is reached, and reads no clock.
package registry

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// How a node's workflow is found, and what may be said to it.
const (
	TaskQueue    = "almanac" // of the control worker, which runs the workflow
	WorkflowType = "almanac.node"
	Memo         = "node"       // holds the Node
	UpdateReport = "report"     // takes a Node, answers Reported; refused by Admit
	SignalFacts  = "compliance" // takes a Compliance
	Compliant    = "compliant"
	NonCompliant = "non_compliant"
	Unknown      = "unknown" // nobody has looked

	// AttrCompliance is the search attribute of a node's workflow: Compliant, NonCompliant or Unknown.
	AttrCompliance = "AlmanacCompliance"
)

// WorkflowID is that of a node's workflow.
func WorkflowID(node string) string { return "node/" + node }

// How a node is reached.
const (
	ReachAgent = "agent" // by Almanac's agent on it
	ReachSSM   = "ssm"   // by the agent of AWS Systems Manager
)

// Node is one machine, as it was last reported.
type Node struct {
	ID           string            `json:"id"`
	Name         string            `json:"name"`     // host name
	Platform     string            `json:"platform"` // linux, windows, darwin
	OS           string            `json:"os"`       // debian, amzn, windows
	Version      string            `json:"version"`  // of the operating system
	Arch         string            `json:"arch"`
	AgentVersion string            `json:"agent_version"`
	Tags         map[string]string `json:"tags"`
	Reach        string            `json:"reach"`
	BootID       string            `json:"boot_id,omitempty"`

	// Region, Account and Role are for nodes in AWS; Role is whom the worker has to be to reach it.
	Region  string `json:"region,omitempty"`
	Account string `json:"account,omitempty"`
	Role    string `json:"role,omitempty"`

	// Installation is a secret-free name that an agent gave itself when its state
	// directory was made. PastBoots are boot ids that others have followed.
	Installation string   `json:"installation,omitempty"`
	PastBoots    []string `json:"past_boots,omitempty"`

	// Clock is how far the node's clock is ahead of the server's, and Uncertain
	// how far that may be wrong. Limit is what is still right.
	Clock     Duration `json:"clock"`
	Uncertain Duration `json:"uncertain,omitempty"`
	Limit     Duration `json:"limit,omitempty"`

	// Online is what Systems Manager says of its agent; of our own agents the server knows it.
	Online bool      `json:"ssm_online,omitempty"`
	Seen   time.Time `json:"seen,omitzero"` // of nodes reached by SSM: the last sign of life

	Registered time.Time `json:"registered,omitzero"` // first report
	Reported   time.Time `json:"reported,omitzero"`   // latest report

	Compliance []Compliance `json:"compliance,omitempty"` // by baseline, sorted
}

// Duration is a time.Duration as text, with the precision that a clock check has.
type Duration time.Duration

// MarshalText writes the text form, in milliseconds.
func (d Duration) MarshalText() ([]byte, error) {
	return []byte(time.Duration(d).Round(time.Millisecond).String()), nil
}

// UnmarshalText reads the text form.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// ClockWrong tells whether the node's clock is certainly off by more than its limit.
func (n *Node) ClockWrong() bool {
	return n.Limit > 0 && max(n.Clock, -n.Clock)-n.Uncertain > n.Limit
}

// Compliance is what a node comes to against one baseline.
type Compliance struct {
	Baseline      string         `json:"baseline"`
	Status        string         `json:"status"`            // Compliant or NonCompliant
	Missing       map[string]int `json:"missing,omitempty"` // approved and not installed, by severity; "other" if not said
	Failed        int            `json:"failed,omitempty"`  // could not be installed
	RebootPending bool           `json:"reboot_pending,omitempty"`
	Message       string         `json:"message,omitempty"` // why, in one line
	Execution     string         `json:"execution,omitempty"`
	Since         time.Time      `json:"since,omitzero"` // it has this status; set by the registry
	At            time.Time      `json:"at,omitzero"`    // it was found out; set by the registry
}

// Reported answers a report.
type Reported struct {
	// Now is a moment between the report and its answer, by the server's clock.
	Now time.Time `json:"now"`
}

const (
	mostBoots     = 20
	mostBaselines = 20
)

// Admit says why a report about a known node is not taken. What it refuses is a
// second agent under the id of the first: one that was installed apart, or a
// copy of the same installation on another machine. A boot id never returns
// after another has followed it, unless two machines use it in turn.
func (n *Node) Admit(report Node) error {
	switch {
	case report.ID != n.ID:
		return fmt.Errorf("this is node %s, not %s", n.ID, report.ID)
	case report.Reach != ReachAgent || n.Reach != ReachAgent:
		return nil
	case report.Installation != n.Installation:
		since := ""
		if !n.Registered.IsZero() {
			since = ", since " + n.Registered.UTC().Format(time.DateTime)
		}
		return fmt.Errorf("another agent serves node %s: on %s%s. Give this one another --id; if that machine is gone or its state directory was lost: starter nodes forget %s",
			n.ID, cmp.Or(n.Name, "a machine without a name"), since, n.ID)
	case report.BootID != n.BootID && slices.Contains(n.PastBoots, report.BootID):
		return fmt.Errorf("two machines serve node %s with copies of one state directory: this one and %s. On the copy, remove the state directory and give its agent another --id",
			n.ID, cmp.Or(n.Name, "one without a name"))
	}
	return nil
}

// Merge returns the node after a report that Admit takes. A node that our agent
// serves stays its own, whatever Systems Manager tells of it.
func (n *Node) Merge(report Node, now time.Time) Node {
	if n.Reach == ReachAgent && report.Reach == ReachSSM {
		return *n
	}
	merged := report
	merged.Registered, merged.Reported = n.Registered, now
	merged.Compliance, merged.PastBoots = n.Compliance, n.PastBoots
	if report.BootID != n.BootID && n.BootID != "" && n.Reach == report.Reach {
		past := append(slices.Clone(n.PastBoots), n.BootID)
		merged.PastBoots = past[max(0, len(past)-mostBoots):]
	}
	return merged
}

// Assess returns the node with what it comes to against one baseline.
func (n *Node) Assess(c Compliance, now time.Time) Node {
	c.At, c.Since = now, now
	all := slices.Clone(n.Compliance)
	i, found := slices.BinarySearchFunc(all, c.Baseline, func(have Compliance, name string) int { return cmp.Compare(have.Baseline, name) })
	switch {
	case found:
		if all[i].Status == c.Status {
			c.Since = all[i].Since
		}
		all[i] = c
	default:
		all = slices.Insert(all, i, c)
	}
	if len(all) > mostBaselines {
		oldest := slices.MinFunc(all, func(a, b Compliance) int { return a.At.Compare(b.At) })
		all = slices.DeleteFunc(all, func(have Compliance) bool { return have.Baseline == oldest.Baseline })
	}
	assessed := *n
	assessed.Compliance = all
	return assessed
}

// Status is the worst that the node comes to against any baseline.
func (n *Node) Status() string {
	status := Unknown
	for _, c := range n.Compliance {
		if c.Status == NonCompliant {
			return NonCompliant
		}
		status = Compliant
	}
	return status
}

// Facts is the node as conditions see it: `node` in `where:`.
func (n *Node) Facts() map[string]any {
	tags := make(map[string]any, len(n.Tags))
	for k, v := range n.Tags {
		tags[k] = v
	}
	return map[string]any{
		"id": n.ID, "name": n.Name, "os": n.OS, "version": n.Version, "arch": n.Arch, "tags": tags,
		"boot_id": n.BootID, "agent_version": n.AgentVersion,
		"platform": n.Platform, "reach": n.Reach, "compliance": n.Status(), "region": n.Region, "account": n.Account,
	}
}
