package output

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

func TestRefStaysInside(t *testing.T) {
	tests := []struct{ execution, step, target, want string }{
		{"run-1", "copies[3].copy#2", "web-1", "run-1/copies[3].copy#2/web-1.log"},
		{"..", "../../etc", "../passwd", "%2E./%2E.%2F..%2Fetc/%2E.%2Fpasswd.log"},
		{"", "", "", "%/%/%.log"},
		{"a/b", `a\b`, "a\nb", "a%2Fb/a%5Cb/a%0Ab.log"},
		{".hidden", "ü", "~root", "%2Ehidden/%C3%BC/%7Eroot.log"},
	}
	for _, tt := range tests {
		if got := Ref(tt.execution, tt.step, tt.target); got != tt.want {
			t.Errorf("Ref(%q, %q, %q) = %q, want %q", tt.execution, tt.step, tt.target, got, tt.want)
		}
	}
	long := strings.Repeat("x", 1000)
	a, b := Ref(long+"a", "s", "t"), Ref(long+"b", "s", "t")
	if a == b || len(filepath.Dir(filepath.Dir(a))) > 255 {
		t.Errorf("long names: %q and %q", a, b)
	}
}

func FuzzRef(f *testing.F) {
	f.Add("..", ".", "a/../b")
	f.Fuzz(func(t *testing.T, execution, step, target string) {
		ref := Ref(execution, step, target)
		if _, err := Dir("/store").file(ref); err != nil || !filepath.IsLocal(ref) || strings.Count(ref, "/") != 2 {
			t.Errorf("%q: %v", ref, err)
		}
	})
}

func TestDirRefuses(t *testing.T) {
	d := Dir(t.TempDir())
	for _, ref := range []string{"", "a.log", "a/b/c", "../b/c.log", "a/../c.log", "a/b/..log", "/a/b.log", "a//c.log", "a/b/c/d.log", "a/b\x00/c.log", `a/..\x/c.log`} {
		if _, err := d.Append(ref); err == nil {
			t.Errorf("Append(%q) is accepted", ref)
		}
		if _, err := d.Open(ref); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open(%q): %v", ref, err)
		}
	}
	if _, err := Dir("").Append("a/b/c.log"); err == nil {
		t.Error("a store without a directory is accepted")
	}
}

func TestDirKeepsAndContinues(t *testing.T) {
	d := Dir(filepath.Join(t.TempDir(), "store"))
	ref := Ref("e", "s", "n")
	if _, err := d.Open(ref); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open: %v", err)
	}
	if _, err := d.Size(ref); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Size: %v", err)
	}
	w, err := d.Append(ref)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "one\n")
	r, err := d.Open(ref)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, _ := io.ReadAll(r); string(b) != "one\n" {
		t.Errorf("%q", b)
	}
	w.Close()
	w, _ = d.Append(ref)
	io.WriteString(w, "two\n")
	if err := errors.Join(w.Sync(), w.Close()); err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(r); string(b) != "two\n" {
		t.Errorf("a reader at the end does not see what is added: %q", b)
	}
	if size, err := d.Size(ref); size != 8 || err != nil {
		t.Errorf("size %d, %v", size, err)
	}
	filepath.WalkDir(string(d), func(path string, e fs.DirEntry, err error) error {
		info, _ := os.Stat(path)
		if want := map[bool]fs.FileMode{true: 0o700, false: 0o600}[e.IsDir()]; info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), want)
		}
		return nil
	})
}

func TestLastLines(t *testing.T) {
	d := Dir(t.TempDir())
	tests := []struct {
		text         string
		from         int64
		lines, limit int
		want         string
	}{
		{"", 0, 3, 100, ""},
		{"a\nb\nc\n", 0, 2, 100, "b\nc"},
		{"a\nb\nc\n", 0, 1, 100, "c"},
		{"a\nb\nc", 0, 9, 100, "a\nb\nc"},
		{"a\nb\nc\n", 2, 9, 100, "b\nc"},
		{"a\nb\nc\n", 6, 9, 100, ""},
		{"abcdefgh\n", 0, 9, 4, "fgh"},
		{"xü\n", 0, 9, 2, ""},
		{"a\n\n\n", 0, 2, 100, "a"},
		{"bin\x00\xff\n", 0, 2, 100, "bin\uFFFD\uFFFD"},
	}
	for i, tt := range tests {
		ref := Ref("e", "s", string(rune('a'+i)))
		w, _ := d.Append(ref)
		io.WriteString(w, tt.text)
		w.Close()
		r, err := d.Open(ref)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := LastLines(r, tt.from, tt.lines, tt.limit); got != tt.want || err != nil {
			t.Errorf("%q from %d, %d lines, %d bytes: %q, %v; want %q", tt.text, tt.from, tt.lines, tt.limit, got, err, tt.want)
		}
		r.Close()
	}
}

func TestExcerpt(t *testing.T) {
	tests := []struct {
		write      []string
		head, tail int
		want       string
	}{
		{nil, 2, 2, ""},
		{[]string{"abcd"}, 2, 2, "abcd"},
		{[]string{"a", "b", "c", "d"}, 2, 2, "abcd"},
		{[]string{"abcde"}, 2, 2, "ab\n… 1 bytes left out …\nde"},
		{[]string{"abc", "defghijklmnopq", "r"}, 2, 3, "ab\n… 13 bytes left out …\npqr"},
		{[]string{"xü12345ü"}, 2, 3, "x\n… 5 bytes left out …\n5ü"},
	}
	for _, tt := range tests {
		e := Excerpt{Head: tt.head, Tail: tt.tail}
		for _, s := range tt.write {
			e.Write([]byte(s))
		}
		if got := e.Text(); got != tt.want || !utf8.ValidString(got) {
			t.Errorf("%q: %q, want %q", tt.write, got, tt.want)
		}
	}
	e := Excerpt{Head: 10, Tail: 10}
	for range 100000 {
		e.Write([]byte("some line\n"))
	}
	if cap(e.tail) > 1000 || e.Size() != 1000000 {
		t.Errorf("keeps %d bytes of %d", cap(e.tail), e.Size())
	}
}

// Who looks whether an output is being written is not taken for its writer by another who looks.
func TestGrowingAtOnce(t *testing.T) {
	d := Dir(t.TempDir())
	ref := Ref("e", "s", "n")
	w, err := d.Append(ref)
	if err != nil {
		t.Fatal(err)
	}
	if !d.Growing(ref) {
		t.Error("its writer is not seen")
	}
	w.Close()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 2000 {
				if d.Growing(ref) {
					t.Error("nobody writes it")
					return
				}
			}
		})
	}
	all.Wait()
}

// A mark of an output that was removed while it was sent does not stay; nor does that of one whose remover was killed.
func TestMarkOfRemovedOutput(t *testing.T) {
	d := Dir(t.TempDir())
	for _, killed := range []bool{false, true} {
		ref := Ref("e", "s", "n")
		w, err := d.Append(ref)
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
		if err := d.Own(nil).Expire(t.Context(), ref, "expired"); err != nil {
			t.Fatal(err)
		}
		if killed {
			if err := os.WriteFile(filepath.Join(string(d), "e/s/n.sent"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		} else if err := d.MarkSent(ref, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := d.Own(nil).Forget(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(string(d)); err != nil || len(left) > 0 {
			t.Errorf("killed %t: there is still %v, %v", killed, left, err)
		}
	}
}
