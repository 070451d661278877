// Package patch decides what to do about the packages of a machine: which
// updates a baseline approves, which it holds back, and what is missing.
//
// It gives FromJSON, which reads a baseline and says all that is wrong with it
// (package patch/baseline reads files), and Decide, which is pure: a baseline,
// what is installed, what is offered and a time give a Report. It promises that
// nothing is chosen that a rule or a pin holds back, or that is older than what is
// installed; that the order of rules decides nothing; and that whatever a machine
// says ends in a report of bounded size. It refuses to know package managers,
// nodes and history.
package patch

import "time"

// Installed is a package that is on the machine.
type Installed struct {
	Name    string `json:"name"`
	Arch    string `json:"arch,omitempty"`
	Version string `json:"version"`
}

// Offer is an update that a repository has for a package that is installed:
// what rules see as `patch`. A package may have several, one for each version.
// What the distribution does not say is empty.
type Offer struct {
	Name           string    `json:"name" jsonschema:"of the package; of Windows, KB and a number"`
	Arch           string    `json:"arch,omitempty" jsonschema:"amd64, x86_64, noarch"`
	Installed      string    `json:"installed" jsonschema:"version that is on the machine; empty if none is"`
	Version        string    `json:"version" jsonschema:"version that is offered"`
	Severity       string    `json:"severity" jsonschema:"critical, important, moderate or low; empty if it is not said"`
	Classification string    `json:"classification" jsonschema:"security, bugfix or enhancement; empty if it is not said"`
	Advisory       string    `json:"advisory,omitempty" jsonschema:"name of the advisory"`
	CVEs           []string  `json:"cves,omitempty" jsonschema:"ids of the vulnerabilities that it closes; the first 20"`
	Published      time.Time `json:"published,omitzero" jsonschema:"when the distribution published it"`
	FirstSeen      time.Time `json:"first_seen,omitzero" jsonschema:"when the machine was first seen to be offered it, if it is not known when it was published"`
	Repository     string    `json:"repository,omitempty" jsonschema:"where it comes from"`
}

// since is from when delays and ages are counted: from the publication, or where
// nobody tells that, from when the machine first saw it. That is later than the truth and
// never earlier, so that no delay is cut short. Zero if neither is known.
func (o Offer) since() time.Time {
	if o.Published.IsZero() {
		return o.FirstSeen
	}
	return o.Published
}

// Machine is what a package manager says of the machine.
type Machine struct {
	OS            string      `json:"os"`      // ID of os-release: debian, amzn, rhel; "windows"
	Version       string      `json:"version"` // VERSION_ID of os-release
	Manager       string      `json:"manager"` // apt, dnf, zypper, windows
	Installed     []Installed `json:"installed"`
	Offers        []Offer     `json:"offers"`
	RebootPending bool        `json:"reboot_pending"`
}
