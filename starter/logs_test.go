package main

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/internal/output"
)

func write(t *testing.T, store output.Dir, ref, text string) {
	t.Helper()
	w, err := store.Append(ref)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// Outputs are found by what their names say: step, target, and how often the
// step was scheduled; another execution's are not.
func TestStored(t *testing.T) {
	store := output.Dir(t.TempDir())
	write(t, store, output.Ref("a/b*", "publish[0].look#2", "web-1"), "x\n")
	write(t, store, output.Ref("a/b*", "survey@web/2", "web/2"), "x\n")
	write(t, store, output.Ref("a/bc", "other", "web-1"), "x\n")
	got := map[string]bool{}
	for _, l := range stored(store, "a/b*", "") {
		got[l.step+" "+l.target] = true
		if _, err := store.Size(l.ref); err != nil {
			t.Error(err)
		}
	}
	want := map[string]bool{"publish[0].look web-1": true, "survey web/2": true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if one := stored(store, "a/b*", "web/2"); len(one) != 1 || one[0].target != "web/2" {
		t.Errorf("of one target: %v", one)
	}
}

func TestLogFilter(t *testing.T) {
	for _, tt := range []struct {
		filter logFilter
		step   string
		want   bool
	}{
		{logFilter{}, "a", true},
		{logFilter{step: "a"}, "a", true},
		{logFilter{step: "a"}, "a.b", true},
		{logFilter{step: "a"}, "a[3].b", true},
		{logFilter{step: "a"}, "ab", false},
		{logFilter{step: "a"}, "ba", false},
		{logFilter{step: "b"}, "a[3].b", true},
		{logFilter{step: "b"}, "a[3].b[0].c", true},
		{logFilter{step: "a", target: "n1"}, "a", true},
		{logFilter{step: "a", target: "n2"}, "a", false},
		{logFilter{only: map[[2]string]bool{{"a", "n1"}: true}}, "a", true},
		{logFilter{only: map[[2]string]bool{{"a", "n2"}: true, {"b", "n1"}: true}}, "a", false},
		{logFilter{only: map[[2]string]bool{}}, "a", false},
	} {
		if got := tt.filter.fits(logRef{step: tt.step, target: "n1"}); got != tt.want {
			t.Errorf("%+v fits %s: %v", tt.filter, tt.step, got)
		}
	}
}

func TestTail(t *testing.T) {
	long := strings.Repeat("a long line of output that takes its place in the block\n", 2000)
	for _, tt := range []struct {
		name, text string
		n          int
		want       string
	}{
		{"none", "a\nb\n", 0, ""},
		{"one", "a\nb\n", 1, "b\n"},
		{"one that has not ended", "a\nb", 1, "b"},
		{"more than there are", "a\nb\n", 9, "a\nb\n"},
		{"empty", "", 3, ""},
		{"over blocks", long + "last\n", 1501, strings.Repeat("a long line of output that takes its place in the block\n", 1500) + "last\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			store := output.Dir(t.TempDir())
			ref := output.Ref("x", "s", "n")
			write(t, store, ref, tt.text)
			var b strings.Builder
			r := &logReader{logRef: logRef{ref: ref}}
			if err := r.open((&app{}).opener(store, nil), tt.n); err != nil {
				t.Fatal(err)
			}
			defer r.close()
			if err := r.print(&app{stdout: &b}, false, true); err != nil {
				t.Fatal(err)
			}
			if b.String() != tt.want {
				t.Errorf("got %d bytes, want %d: %.60q", b.Len(), len(tt.want), b.String())
			}
		})
	}
}

// An output that is still being written is printed line by line, with where it
// comes from; also if it is closed in between, since there are so many.
func TestFollowOutput(t *testing.T) {
	for _, pause := range []bool{false, true} {
		store := output.Dir(t.TempDir())
		ref := output.Ref("x", "s", "n")
		write(t, store, ref, "before\nfirst\nsec")
		var b strings.Builder
		a := &app{stdout: &b}
		r := &logReader{logRef: logRef{step: "s", target: "n", ref: ref}}
		for i, more := range []string{"", "ond\nthird", ""} {
			if more != "" {
				write(t, store, ref, more)
			}
			if err := r.open(a.opener(store, nil), 2); err != nil {
				t.Fatal(err)
			}
			if err := r.print(a, true, i == 2); err != nil {
				t.Fatal(err)
			}
			if pause {
				r.pause()
			}
		}
		r.close()
		if want := "s@n | first\ns@n | second\ns@n | third\n"; b.String() != want {
			t.Errorf("pause %v: got %q, want %q", pause, b.String(), want)
		}
	}
}

func TestNearest(t *testing.T) {
	for word, want := range map[string]string{"linux/roling-restart": "linux/rolling-restart", "xyz": ""} {
		if got := nearest(word, []string{"linux/rolling-restart", "demo/tour"}); got != want {
			t.Errorf("nearest(%q) = %q, want %q", word, got, want)
		}
	}
	if got := fmt.Sprint(plural(1, "step"), " ", plural(2, "step")); got != "1 step 2 steps" {
		t.Error(got)
	}
}
