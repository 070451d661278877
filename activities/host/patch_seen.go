package host

import (
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/journal"
	"github.com/almanac-run/almanac/patch"
)

// seenFile, in the state directory, keeps when the node was first offered each
// update: apt has no dates where its changelogs cannot be reached, and a delay
// has to be counted from something. It is no part of the journal, whose entries end with their steps.
const (
	seenFile = "offers.json"
	seenLock = "offers.lock"
)

// The bounds of what is kept. An update that is not offered for so long, as
// because it was installed and has not been taken back, is forgotten.
const (
	mostSeen = 20_000
	keepSeen = 90 * 24 * time.Hour
)

// seen is when one version of a package was offered.
type seen struct {
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// firstSeen notes what the machine is offered at this time, and tells its offers
// without a publication when each was seen first. All are noted: a date that is known today
// may not be to be had tomorrow.
func (n Node) firstSeen(m *patch.Machine, now time.Time) error {
	if n.StateDir == "" {
		return action.Errorf(action.Internal, "this node has no state directory")
	}
	state := journal.At(n.StateDir)
	lock, err := state.Lock(seenLock)
	if err != nil {
		return stateError(err)
	}
	defer lock.Unlock()
	known := map[string]seen{}
	// A file that is no JSON was damaged; without it updates wait longer than they
	// have to, and none comes too early.
	if err := state.ReadJSON(seenFile, &known); err != nil && isPathError(err) && !errors.Is(err, fs.ErrNotExist) {
		return stateError(err)
	}
	if known == nil {
		known = map[string]seen{}
	}
	note(known, m.Offers, now.UTC().Truncate(time.Second))
	return stateError(state.WriteJSON(seenFile, known))
}

func isPathError(err error) bool {
	var e *fs.PathError
	return errors.As(err, &e)
}

// note brings what is known up to date, and sets the offers' FirstSeen.
func note(known map[string]seen, offers []patch.Offer, now time.Time) {
	for i := range offers {
		o := &offers[i]
		key := o.Name + " " + o.Version
		s, ok := known[key]
		if !ok {
			s.First = now
		}
		s.Last = now
		known[key] = s
		if o.FirstSeen = (time.Time{}); o.Published.IsZero() {
			o.FirstSeen = s.First
		}
	}
	maps.DeleteFunc(known, func(_ string, s seen) bool { return now.Sub(s.Last) > keepSeen })
	if len(known) <= mostSeen {
		return
	}
	// Those that were offered last stay, and of them those that have waited longest.
	keys := slices.SortedFunc(maps.Keys(known), func(a, b string) int {
		return cmp.Or(known[b].Last.Compare(known[a].Last), known[a].First.Compare(known[b].First), cmp.Compare(a, b))
	})
	for _, key := range keys[mostSeen:] {
		delete(known, key)
	}
}
