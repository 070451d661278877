package patch

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/almanac-run/almanac/lang/program"
)

// Baseline says which updates are wanted. FromJSON and package patch/baseline make
// one that is right; its JSON is what FromJSON reads. It is immutable.
//
// The order of its rules decides nothing: an update is approved as soon as any rule
// approves it, and never if one rejects it. So whoever reads one rule knows what it does,
// and an exclusion cannot be undone by where somebody adds a line. Of several
// rules that agree, the first is named and its level counts.
type Baseline struct {
	Name    string `json:"baseline"`
	Summary string `json:"summary,omitempty"`
	Rules   []Rule `json:"rules"`

	// Pin holds a package to versions: patterns of names to a pattern of
	// versions. A version that fits still needs a rule that approves it.
	Pin map[string]string `json:"pin,omitempty"`
}

// Rule approves or rejects updates: exactly one of Approve and Reject is set.
type Rule struct {
	OS      []string `json:"os,omitempty"`      // ids as in os-release, perhaps with a version: "amzn", "rhel:9"; empty: every one
	Approve string   `json:"approve,omitempty"` // CEL over patch
	After   Delay    `json:"after,omitzero"`    // with Approve: how long after its publication
	Level   string   `json:"level,omitempty"`   // with Approve: the severity of what this rule approves, whatever the distribution says
	Reject  string   `json:"reject,omitempty"`  // CEL over patch
}

// Delay is a duration that is written as runbooks do, with d for days.
type Delay time.Duration

// String writes whole days as days.
func (d Delay) String() string {
	const day = 24 * time.Hour
	if v := time.Duration(d); v%day != 0 || v == 0 {
		return v.String()
	}
	return strconv.FormatInt(int64(time.Duration(d)/day), 10) + "d"
}

// MarshalText writes the text form.
func (d Delay) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the text form.
func (d *Delay) UnmarshalText(b []byte) error {
	v, err := program.ParseDuration(string(b))
	*d = Delay(v)
	return err
}

// Digest tells baselines apart: "sha256:" and hex of the JSON form, which does
// not depend on how the file was laid out.
func (b *Baseline) Digest() string {
	raw, err := json.Marshal(b)
	if err != nil {
		panic(err) // strings and numbers only
	}
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// For returns the numbers, from 1, of the rules that mean a machine of this
// ID and VERSION_ID of os-release. An empty version is every version.
func (b *Baseline) For(os, version string) []int {
	var numbers []int
	for i, r := range b.Rules {
		if r.means(os, version) {
			numbers = append(numbers, i+1)
		}
	}
	return numbers
}

func (r Rule) means(os, version string) bool {
	for _, want := range r.OS {
		id, wanted, versioned := strings.Cut(want, ":")
		if id != os {
			continue
		}
		if !versioned || version == "" || version == wanted || strings.HasPrefix(version, wanted+".") {
			return true
		}
	}
	return len(r.OS) == 0
}

// pinned returns the pattern that a version of a package does not fit; it is
// empty if nothing holds the package to another version.
func (b *Baseline) pinned(name, version string) string {
	if len(b.Pin) == 0 {
		return ""
	}
	worst := ""
	for names, versions := range b.Pin {
		if matches(names, name) && !fits(versions, version) && (worst == "" || versions < worst) {
			worst = versions // of several always the same, since a map has no order
		}
	}
	return worst
}

// fits tells whether a version matches a pattern: as it is, without its epoch,
// or without the revision too, so that "1.24.0" lets a rebuild of 1.24.0 in.
func fits(pattern, version string) bool {
	epoch, upstream, revision := cut(version)
	if matches(pattern, version) || matches(pattern, upstream) {
		return true
	}
	return epoch != "" && matches(pattern, strings.TrimSuffix(upstream+"-"+revision, "-"))
}

// matches tells whether text fits a pattern with *, ? and [a-z].
func matches(pattern, text string) bool {
	ok, err := path.Match(pattern, text)
	return ok && err == nil
}
