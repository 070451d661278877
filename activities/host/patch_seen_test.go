package host

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/patch"
)

// A node remembers when it was first offered an update; what it has forgotten, or never
// knew, is new: a delay may be too long, and is never too short.
func TestPatchFirstSeen(t *testing.T) {
	n := Node{ID: "web-1", StateDir: t.TempDir()}
	day := func(d int) time.Time { return time.Date(2026, 11, d, 3, 4, 5, 678, time.UTC) }
	seenAt := func(now time.Time, offers ...patch.Offer) string {
		t.Helper()
		m := patch.Machine{Offers: offers}
		if err := n.firstSeen(&m, now); err != nil {
			t.Fatal(err)
		}
		all := ""
		for _, o := range m.Offers {
			all += fmt.Sprintf("%s %s %s; ", o.Name, o.Version, o.FirstSeen.Format("2006-01-02"))
		}
		return all
	}
	offer := func(name, version string) patch.Offer { return patch.Offer{Name: name, Version: version} }
	dated := patch.Offer{Name: "c", Version: "1", Published: day(1)}
	const none = "0001-01-01"
	tests := []struct {
		now    time.Time
		offers []patch.Offer
		want   string
	}{
		{day(10), []patch.Offer{offer("a", "1"), dated}, "a 1 2026-11-10; c 1 " + none + "; "},
		{day(12), []patch.Offer{offer("a", "1"), offer("a", "2"), offer("b", "1")}, "a 1 2026-11-10; a 2 2026-11-12; b 1 2026-11-12; "},
		// Whose date cannot be had any more was seen before.
		{day(13), []patch.Offer{offer("c", "1")}, "c 1 2026-11-10; "},
		// It was installed and taken back in between.
		{day(20), []patch.Offer{offer("a", "1")}, "a 1 2026-11-10; "},
		// After a long time it is new again.
		{day(13).Add(keepSeen), []patch.Offer{offer("b", "1"), offer("a", "1")}, "b 1 2026-11-12; a 1 2026-11-10; "},
		{day(1).Add(3 * keepSeen), []patch.Offer{offer("b", "1")}, "b 1 2026-11-12; "},
		{day(2).Add(4 * keepSeen), []patch.Offer{offer("a", "1")}, "a 1 2027-10-28; "},
	}
	for _, tt := range tests {
		if got := seenAt(tt.now, tt.offers...); got != tt.want {
			t.Errorf("on %s: %s, want %s", tt.now.Format(time.DateOnly), got, tt.want)
		}
	}

	// A damaged file is begun anew; a disk that takes nothing is an error that may pass.
	if err := os.WriteFile(filepath.Join(n.StateDir, seenFile), []byte(`{"a 1": {"fir`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := seenAt(day(25), offer("a", "1")); got != "a 1 2026-11-25; " {
		t.Errorf("after damage: %s", got)
	}
	n.StateDir = filepath.Join(n.StateDir, "nowhere")
	if err := n.firstSeen(&patch.Machine{}, day(25)); action.KindOf(err) != action.Unavailable {
		t.Errorf("a state directory that is gone: %v", err)
	}
}

// What is kept is bounded: what is offered now and has waited longest stays.
func TestPatchFirstSeenBound(t *testing.T) {
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	known := map[string]seen{"old 1": {now.Add(-40 * 24 * time.Hour), now.Add(-time.Hour)}, "waits 1": {now.Add(-40 * 24 * time.Hour), now.Add(-time.Hour)}}
	offers := []patch.Offer{{Name: "waits", Version: "1"}}
	for i := range mostSeen {
		offers = append(offers, patch.Offer{Name: "new", Version: fmt.Sprintf("%06d", i)})
	}
	note(known, offers, now)
	_, old := known["old 1"]
	_, waits := known["waits 1"]
	if len(known) != mostSeen || old || !waits {
		t.Errorf("%d are kept; one that is offered no more %v, one that waits %v", len(known), old, waits)
	}
}
