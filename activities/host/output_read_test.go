package host

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/output"
)

func writeOutput(t *testing.T, store output.Dir, ref string, b []byte) output.Writer {
	t.Helper()
	w, err := store.Append(ref)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	return w
}

// Whatever is in an output arrives byte for byte, in parts that fit into history.
func TestReadOutput(t *testing.T) {
	n := Node{ID: "web-1", OutputDir: t.TempDir()}
	store := output.Dir(n.OutputDir)
	tests := map[string][]byte{
		"empty":              {},
		"text":               []byte("one\ntwo\n"),
		"long text":          []byte(strings.Repeat("äöü€😀\n", 60_000)),
		"control characters": bytes.Repeat([]byte{1, 27}, 200_000),
		"binary":             bytes.Repeat([]byte{0, 255, 10, 'x'}, 100_000),
		"half a character":   []byte("abc\xf0\x9f"),
		"only a beginning":   {0xf0},
	}
	for name, want := range tests {
		t.Run(name, func(t *testing.T) {
			ref := output.Ref("x", name, n.ID)
			writeOutput(t, store, ref, want).Close()
			for _, limit := range []int{0, 7, 1 << 30} {
				if limit == 7 && len(want) > 1000 {
					continue
				}
				got := []byte{}
				for range 1000 {
					out, err := n.ReadOutput(t.Context(), OutputReadInput{Ref: ref, Offset: int64(len(got)), Limit: limit})
					if err != nil {
						t.Fatal(err)
					}
					if raw, _ := json.Marshal(out); len(raw) > 600<<10 {
						t.Fatalf("a part of %d bytes", len(raw))
					}
					part, err := out.Bytes()
					if err != nil {
						t.Fatal(err)
					}
					if out.Size != int64(len(want)) || !out.Ended || out.Offset != int64(len(got)) {
						t.Fatalf("offset %d, size %d, ended %v", out.Offset, out.Size, out.Ended)
					}
					if len(part) == 0 {
						break
					}
					got = append(got, part...)
				}
				if !bytes.Equal(got, want) {
					t.Errorf("limit %d: %d bytes, want %d", limit, len(got), len(want))
				}
			}
		})
	}
}

func TestReadOutputPlaces(t *testing.T) {
	n := Node{ID: "web-1", OutputDir: t.TempDir()}
	store := output.Dir(n.OutputDir)
	ref := output.Ref("x", "s", n.ID)
	w := writeOutput(t, store, ref, []byte("0123456789"))
	for _, tt := range []struct {
		offset int64
		limit  int
		want   string
		at     int64
	}{
		{0, 4, "0123", 0}, {8, 4, "89", 8}, {10, 4, "", 10}, {99, 4, "", 10}, {-3, 9, "789", 7}, {-99, 2, "01", 0},
	} {
		out, err := n.ReadOutput(t.Context(), OutputReadInput{Ref: ref, Offset: tt.offset, Limit: tt.limit})
		if err != nil || out.Data != tt.want || out.Offset != tt.at || out.Ended {
			t.Errorf("%+v: %+v, %v", tt, out, err)
		}
	}
	w.Close()
	if out, err := n.ReadOutput(t.Context(), OutputReadInput{Ref: ref}); err != nil || !out.Ended {
		t.Errorf("after its writer: %+v, %v", out, err)
	}
}

// Nothing but the node's own outputs can be read.
func TestReadOutputRefuses(t *testing.T) {
	dir := t.TempDir()
	n := Node{ID: "web-1", OutputDir: filepath.Join(dir, "output")}
	store := output.Dir(n.OutputDir)
	writeOutput(t, store, output.Ref("x", "s", "web-2"), []byte("another's")).Close()
	if err := os.WriteFile(filepath.Join(dir, "web-1.log"), []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	for ref, kind := range map[string]action.Kind{
		output.Ref("x", "s", "web-2"): action.Invalid,
		output.Ref("x", "s", "web-1"): action.NotFound,
		"../../web-1.log":             action.Invalid,
		"x/../web-1.log":              action.Invalid,
		"../output/web-1.log":         action.Invalid,
		"web-1.log":                   action.Invalid,
		"/etc/passwd":                 action.Invalid,
		"":                            action.Invalid,
		"x/s/../web-1.log":            action.Invalid,
		"x/s\x00/web-1.log":           action.Invalid,
	} {
		out, err := n.ReadOutput(t.Context(), OutputReadInput{Ref: ref})
		if err == nil || action.KindOf(err) != kind {
			t.Errorf("%q: %+v, %v, want %s", ref, out, err, kind)
		}
	}
	if a := ReadOutput(Node{}); a.Name != OutputRead {
		t.Error(a.Name)
	}
}
