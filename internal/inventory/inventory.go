// Package inventory is what is known of a node, as data: its packages, services,
// files and so on.
//
// It gives Item, the one form of every fact; Snapshot, what a node reports; New and
// NewSection, which make them from plain items; and Encode, Decode and Parts, their passage
// through Temporal. It promises that equal facts have equal digests, wherever
// they were found and in whatever order, and that what Decode gives keeps to the limits: it may
// come from a node that lies. It refuses to know how facts are found and kept.
package inventory

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/almanac-run/almanac/lang/program"
)

// Limits of what is reported.
const (
	MaxKey      = 1 << 10   // bytes of a key or a scope
	MaxValues   = 256 << 10 // bytes of the JSON of one item's values
	MaxItems    = 50_000    // of a section, and of a snapshot
	MaxSections = 200       // of a snapshot
)

// Item is one fact: {"kind":"package","key":"openssl","values":{"version":"3.0.15-1","arch":"amd64"}}.
type Item struct {
	Kind   string         `json:"kind" jsonschema:"package, service, user, port, kernel, interface, file, instance, fact, or one of your own"`
	Key    string         `json:"key" jsonschema:"unique within its kind and scope"`
	Values map[string]any `json:"values" jsonschema:"what is known of it, as JSON can say it"`
}

// UnmarshalJSON keeps numbers as they are written: 3 is not 3.0, and long ones lose no digit.
func (i *Item) UnmarshalJSON(b []byte) error {
	type plain Item
	return exactly(b, (*plain)(i))
}

// Section is all that was found of one kind within one scope. It replaces what was
// known of that kind and scope. A file's scope is the pattern it was looked for by, a
// fact's the name of its command, so that two runbooks which look for
// different things do not take each other's away; else it is empty.
type Section struct {
	Kind   string `json:"kind"`
	Scope  string `json:"scope,omitempty"`
	Digest string `json:"digest"` // of Items

	// Items are sorted by key. Unchanged says that they are left out, since the
	// last report had a section with the same digest.
	Items     []Item `json:"items,omitempty"`
	Unchanged bool   `json:"unchanged,omitempty"`
}

// Name names the section in messages: package, file /etc/*.conf.
func (s Section) Name() string {
	if s.Scope == "" {
		return s.Kind
	}
	return s.Kind + " " + s.Scope
}

// Snapshot is one report of a node. Sections that are not in it are as they were.
type Snapshot struct {
	Node     string    `json:"node"`
	At       time.Time `json:"at"` // when it was collected, by the clock of who collected
	Sections []Section `json:"sections"`
}

// MissingError says that the store lacks sections of which a snapshot only said that they are
// unchanged: whoever reports has to send their items.
type MissingError struct{ Sections []string } // names, as Section.Name gives them

func (e *MissingError) Error() string {
	return "the inventory store lacks the items of " + strings.Join(e.Sections, ", ")
}

// New makes a snapshot from plain items: a section for each kind, without scope.
func New(node string, at time.Time, items []Item) (Snapshot, error) {
	kinds := map[string][]Item{}
	for _, i := range items {
		kinds[i.Kind] = append(kinds[i.Kind], i)
	}
	s := Snapshot{Node: node, At: at, Sections: []Section{}}
	for kind, of := range kinds {
		section, err := NewSection(kind, "", of)
		if err != nil {
			return Snapshot{}, err
		}
		s.Sections = append(s.Sections, section)
	}
	slices.SortFunc(s.Sections, func(a, b Section) int { return cmp.Compare(a.Kind, b.Kind) })
	return s, s.head()
}

// NewSection makes a section: it sorts the items and takes their digest. Items that are the same
// become one; others that have one key get #2, #3 … appended. items is not changed.
func NewSection(kind, scope string, items []Item) (Section, error) {
	s := Section{Kind: kind, Scope: scope, Items: []Item{}}
	if len(items) > MaxItems {
		return s, fmt.Errorf("%s: %d items; at most %d are kept", s.Name(), len(items), MaxItems)
	}
	type written struct {
		Item
		json string
	}
	all := make([]written, 0, len(items))
	for _, i := range items {
		if i.Kind != kind {
			return s, fmt.Errorf("%s: an item is of kind %s", s.Name(), i.Kind)
		}
		values, err := i.JSON()
		if err != nil {
			return s, fmt.Errorf("%s: %w", s.Name(), err)
		}
		all = append(all, written{i, values})
	}
	slices.SortStableFunc(all, func(a, b written) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.json, b.json))
	})
	all = slices.CompactFunc(all, func(a, b written) bool { return a.Key == b.Key && a.json == b.json })
	taken := map[string]bool{}
	for _, w := range all {
		for n, key := 2, w.Key; taken[w.Key]; n++ {
			w.Key = fmt.Sprintf("%s#%d", key, n)
		}
		taken[w.Key] = true
		s.Items = append(s.Items, w.Item)
	}
	slices.SortFunc(s.Items, func(a, b Item) int { return cmp.Compare(a.Key, b.Key) })
	values, err := s.check()
	if err == nil {
		s.Digest = digest(s.Items, values)
	}
	return s, err
}

// JSON returns the values as canonical JSON: keys sorted, nothing escaped that need not be.
func (i Item) JSON() (string, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	values := i.Values
	if values == nil {
		values = map[string]any{}
	}
	if err := enc.Encode(values); err != nil {
		return "", fmt.Errorf("%s: %w", i.Key, err)
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// digest is that of items with these values, as JSON.
func digest(items []Item, values []string) string {
	h := sha256.New()
	for n, i := range items {
		fmt.Fprintf(h, "%d:%s%d:%s", len(i.Key), i.Key, len(values[n]), values[n])
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Digest is that of all sections: equal for equal facts.
func (s Snapshot) Digest() string {
	h := sha256.New()
	for _, section := range s.Sections {
		fmt.Fprintf(h, "%q %s\n", section.Name(), section.Digest)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

var (
	nodeForm   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	kindForm   = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)
	digestForm = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// Check finds what is wrong with a snapshot that somebody else made. Afterwards all digests are true.
func (s Snapshot) Check() error {
	if err := s.head(); err != nil {
		return err
	}
	items := 0
	seen := map[[2]string]bool{}
	for _, section := range s.Sections {
		if seen[[2]string{section.Kind, section.Scope}] {
			return fmt.Errorf("the section %s is there twice", clip(section.Name()))
		}
		seen[[2]string{section.Kind, section.Scope}] = true
		values, err := section.check()
		if err != nil {
			return err
		}
		if section.Unchanged {
			if len(section.Items) > 0 || !digestForm.MatchString(section.Digest) {
				return fmt.Errorf("%s: a section that is unchanged has a digest and no items", clip(section.Name()))
			}
			continue
		}
		if digest(section.Items, values) != section.Digest {
			return fmt.Errorf("%s: the digest is not that of the items", clip(section.Name()))
		}
		if items += len(section.Items); items > MaxItems {
			return fmt.Errorf("more than %d items", MaxItems)
		}
	}
	return nil
}

// head checks what is not about sections alone.
func (s Snapshot) head() error {
	switch {
	case !nodeForm.MatchString(s.Node):
		return fmt.Errorf("node id %q: want letters, digits, '.', '_' and '-', at most 128", clip(s.Node))
	case s.At.Year() < 2000 || s.At.Year() > 2200:
		return fmt.Errorf("a snapshot of the year %d: the clock of node %s is wrong", s.At.Year(), s.Node)
	case len(s.Sections) > MaxSections:
		return fmt.Errorf("%d sections; at most %d are kept", len(s.Sections), MaxSections)
	}
	return nil
}

// longNumber is in every text that may have a number out of range.
var longNumber = regexp.MustCompile(`[0-9]{18}|[0-9][eE]`)

// check returns the items' values as JSON, which takes longest of all.
func (s Section) check() ([]string, error) {
	if !kindForm.MatchString(s.Kind) {
		return nil, fmt.Errorf("kind %q: want small letters, digits and '_', at most 32", clip(s.Kind))
	}
	if len(s.Scope) > MaxKey || !text(s.Scope) {
		return nil, fmt.Errorf("%s: a scope is text of at most %d bytes", s.Kind, MaxKey)
	}
	values := make([]string, len(s.Items))
	for i, item := range s.Items {
		switch {
		case item.Kind != s.Kind:
			return nil, fmt.Errorf("%s: an item is of kind %q", s.Kind, clip(item.Kind))
		case item.Key == "" || len(item.Key) > MaxKey || !text(item.Key):
			return nil, fmt.Errorf("%s: key %q: want text of 1 to %d bytes", s.Kind, clip(item.Key), MaxKey)
		case i > 0 && s.Items[i-1].Key >= item.Key:
			return nil, fmt.Errorf("%s: the keys are not in order, or %q is there twice", s.Kind, clip(item.Key))
		}
		text, err := item.JSON()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.Kind, err)
		}
		if len(text) > MaxValues {
			return nil, fmt.Errorf("%s %s: the values take %d KiB; at most %d KiB are kept", s.Kind, clip(item.Key), len(text)>>10, MaxValues>>10)
		}
		// Numbers that expressions could not hold would fail every query that comes across them.
		if longNumber.MatchString(text) {
			if _, err := program.Decode(json.RawMessage(text), program.Type{Kind: program.Any}); err != nil {
				return nil, fmt.Errorf("%s %s: %w", s.Kind, clip(item.Key), err)
			}
		}
		values[i] = text
	}
	return values, nil
}

// text tells whether every database takes s as text.
func text(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

func clip(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}

// Limits of an encoded snapshot: Temporal takes 2 MB in one payload, and what unpacks to
// more than maxDecoded is no honest report.
const (
	maxEncoded = 1 << 20
	maxDecoded = 64 << 20
)

// Encode writes a snapshot as base64 of gzip of JSON, of at most 1 MiB. Parts makes snapshots that fit.
func Encode(s Snapshot) (string, error) {
	packed, err := pack(s)
	if err == nil && len(packed) > maxEncoded {
		err = fmt.Errorf("the report of node %s is larger than %d KiB, compressed", s.Node, maxEncoded>>10)
	}
	return packed, err
}

// Decode reads what Encode wrote and checks it.
func Decode(encoded string) (Snapshot, error) {
	var s Snapshot
	if len(encoded) > 2*maxEncoded {
		return s, fmt.Errorf("the report is larger than %d KiB, compressed", maxEncoded>>10)
	}
	raw, err := unpack(encoded)
	if err != nil {
		return s, err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if err := dec.Decode(&s); err != nil {
		return s, fmt.Errorf("the report is not what a node writes: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return s, errors.New("the report is not what a node writes: more follows it")
	}
	return s, s.Check()
}

// Parts divides a snapshot into some that Encode takes. A section stays whole.
func (s Snapshot) Parts() ([]Snapshot, error) {
	part := Snapshot{Node: s.Node, At: s.At}
	var parts []Snapshot
	size := 0
	for _, section := range s.Sections {
		packed, err := pack(Snapshot{Node: s.Node, At: s.At, Sections: []Section{section}})
		if err != nil {
			return nil, err
		}
		if len(packed) > maxEncoded {
			return nil, fmt.Errorf("%s: its %d items are larger than %d KiB, compressed; look for less at a time", section.Name(), len(section.Items), maxEncoded>>10)
		}
		// Together they are at most as large as each by itself.
		if size+len(packed) > maxEncoded {
			parts, size = append(parts, part), 0
			part.Sections = nil
		}
		part.Sections = append(part.Sections, section)
		size += len(packed)
	}
	if len(part.Sections) > 0 {
		parts = append(parts, part)
	}
	return parts, nil
}
