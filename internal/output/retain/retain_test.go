package retain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/internal/output"
)

var now = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// put makes an output that is days old.
func put(t *testing.T, dir output.Dir, name string, size int, days float64) string {
	t.Helper()
	ref := output.Ref("x", name, "web-1")
	w, err := dir.Append(ref)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, strings.Repeat("x", size)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	age(t, dir, ref, days)
	return ref
}

func age(t *testing.T, dir output.Dir, ref string, days float64) {
	t.Helper()
	at := now.Add(-time.Duration(days * 24 * float64(time.Hour)))
	if err := os.Chtimes(filepath.Join(string(dir), ref), at, at); err != nil {
		t.Fatal(err)
	}
}

// What is kept of some outputs: each has a size in KiB and an age in days; S is one that is in the central
// store, L one that is being written.
func TestOnce(t *testing.T) {
	type out struct {
		kib  int
		days float64
		mark string
	}
	for _, tt := range []struct {
		name       string
		keep, most string
		outputs    []out
		want       string // indices that stay
	}{
		{"no limits", "0", "0", []out{{1, 900, ""}}, "0"},
		{"by age", "30d", "0", []out{{1, 31, ""}, {1, 29, ""}, {0, 30.1, ""}}, "1"},
		{"one that is written stays", "30d", "1KiB", []out{{9, 31, "L"}, {1, 29, ""}}, "0 1"},
		{"by size, oldest first", "0", "10KiB", []out{{4, 1, ""}, {4, 3, ""}, {4, 2, ""}}, "0 2"},
		{"exactly as much as may be", "0", "12KiB", []out{{4, 1, ""}, {4, 3, ""}, {4, 2, ""}}, "0 1 2"},
		{"within a minute no more than has to", "0", "5KiB", []out{{2, 1, ""}, {2, 1, ""}, {2, 1, ""}}, "two"},
		{"the newest is larger than the limit", "0", "1KiB", []out{{4, 1, ""}, {4, 2, ""}}, ""},
		{"those in the central store first", "0", "8KiB", []out{{4, 9, ""}, {4, 1, "S"}, {4, 5, ""}}, "0 2"},
		{"both", "30d", "4KiB", []out{{4, 31, ""}, {4, 2, ""}, {4, 1, ""}}, "2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := output.Dir(t.TempDir())
			var l Limits
			if err := errors.Join(l.Keep.Set(tt.keep), l.Most.Set(tt.most)); err != nil {
				t.Fatal(err)
			}
			var refs []string
			for i, o := range tt.outputs {
				ref := put(t, dir, fmt.Sprint(i), o.kib<<10, o.days)
				refs = append(refs, ref)
				switch o.mark {
				case "S":
					if err := dir.MarkSent(ref, now.Add(-time.Duration(o.days*24)*time.Hour)); err != nil {
						t.Fatal(err)
					}
				case "L":
					w, err := dir.Append(ref)
					if err != nil {
						t.Fatal(err)
					}
					defer w.Close()
				}
			}
			removed, err := Once(t.Context(), dir.Own(nil), l, now)
			if err != nil {
				t.Fatal(err)
			}
			var stay []string
			for i, ref := range refs {
				if _, err := dir.Size(ref); err == nil {
					stay = append(stay, fmt.Sprint(i))
				} else if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "expired on 2026-11-20 (") {
					t.Errorf("%d: %v", i, err)
				}
			}
			got := strings.Join(stay, " ")
			if tt.want == "two" && len(stay) == 2 {
				got = "two"
			}
			if got != tt.want || removed.Outputs != len(refs)-len(stay) {
				t.Errorf("%q stay, want %q; %+v", got, tt.want, removed)
			}
		})
	}
}

// A note says why an output went, and goes itself, with what was around it.
func TestNotesGo(t *testing.T) {
	dir := output.Dir(t.TempDir())
	ref := put(t, dir, "s", 10, 31)
	l := Limits{Keep: Age(30 * 24 * time.Hour)}
	if _, err := Once(t.Context(), dir.Own(nil), l, now); err != nil {
		t.Fatal(err)
	}
	_, err := dir.Open(ref)
	var expired *output.ExpiredError
	if !errors.As(err, &expired) || expired.Note != "expired on 2026-11-20 (kept for 30d)" {
		t.Errorf("%v", err)
	}
	if _, err := Once(t.Context(), dir.Own(nil), l, now.Add(notes-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Open(ref); !errors.As(err, &expired) {
		t.Errorf("the note went too soon: %v", err)
	}
	if _, err := Once(t.Context(), dir.Own(nil), l, time.Now().Add(notes+time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Open(ref); !errors.Is(err, fs.ErrNotExist) || errors.As(err, &expired) {
		t.Errorf("after the note: %v", err)
	}
	if left, _ := os.ReadDir(string(dir)); len(left) > 0 {
		t.Errorf("%s is left", left[0].Name())
	}
}

// Of a directory that nodes share each removes its own.
func TestOwn(t *testing.T) {
	dir := output.Dir(t.TempDir())
	ref := put(t, dir, "s", 10, 31)
	mine := func(ref string) bool { return output.OfTarget(ref, "web-2") }
	if _, err := Once(t.Context(), dir.Own(mine), Limits{Keep: 1}, now); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Size(ref); err != nil {
		t.Error(err)
	}
}

// Who writes on while the output is removed loses nothing.
func TestRemovedWhileContinued(t *testing.T) {
	dir := output.Dir(t.TempDir())
	ref := output.Ref("x", "s", "web-1")
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := dir.Own(nil).Expire(context.Background(), ref, "gone"); err != nil {
				done <- err
				return
			}
			if err := dir.Own(nil).Forget(context.Background(), ref); err != nil {
				done <- err
				return
			}
		}
	}()
	for i := range 2000 {
		w, err := dir.Append(ref)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, "line\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := dir.Size(ref); err != nil { // as long as it is open it is there
			t.Fatalf("after %d: %v", i, err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFlags(t *testing.T) {
	for text, want := range map[string]string{
		"10GiB": "10GiB", "1.5GiB": "1.5GiB", "1024": "1KiB", "0": "0", "512KiB": "512KiB", "100B": "100",
		"-1": "!", "10GB": "!", "x": "!", "": "!", "-1GiB": "!", "NaNGiB": "!", "1e30TiB": "!",
	} {
		var s Size
		got := ""
		if err := s.Set(text); err != nil {
			got = "!"
		} else {
			got = s.String()
		}
		if got != want {
			t.Errorf("size %q: %s, want %s", text, got, want)
		}
	}
	for text, want := range map[string]string{"30d": "30d", "720h": "30d", "12h": "12h0m0s", "0": "0s", "-1d": "!", "x": "!"} {
		var a Age
		got := ""
		if err := a.Set(text); err != nil {
			got = "!"
		} else {
			got = a.String()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("age %q: %s", text, diff)
		}
	}
}
