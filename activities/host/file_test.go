package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/almanac-run/almanac/action"
)

// undo compensates an action by name; out as the engine recorded it, nil if its answer was lost.
func (b bench) undo(token, name string, in any, out any) error {
	b.t.Helper()
	return b.action(name).Compensate(callContext(token), marshal(b.t, in), marshal(b.t, out))
}

// state is a file as a test sees it: "content mode uid:gid", or "none".
func state(t *testing.T, file string) string {
	t.Helper()
	info, err := os.Lstat(file)
	if os.IsNotExist(err) {
		return "none"
	}
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sys := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%q %04o %d:%d", content, modeBits(info.Mode()), sys.Uid, sys.Gid)
}

// owner gives a file to another user if the test may.
func owner(t *testing.T, file string, mode os.FileMode) {
	t.Helper()
	if os.Geteuid() == 0 {
		if err := os.Chown(file, 1234, 2345); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
}

// Every way through write and remove, and back.
func TestFileChangeAndBack(t *testing.T) {
	const write, remove = "host.file.write", "host.file.remove"
	old := func(t *testing.T, file string) {
		os.WriteFile(file, []byte("old\n"), 0o600)
		owner(t, file, 0o640|os.ModeSetgid)
	}
	tests := []struct {
		name    string
		before  func(*testing.T, string)
		action  string
		with    map[string]any
		content string // after Do; "none"
	}{
		{"new", nil, write, map[string]any{"content": "new\n"}, "new\n"},
		{"replace", old, write, map[string]any{"content": "new\n"}, "new\n"},
		{"mode only", old, write, map[string]any{"content": "old\n", "mode": "0600"}, "old\n"},
		{"no change", old, write, map[string]any{"content": "old\n"}, "old\n"},
		{"empty", old, write, map[string]any{"content": ""}, ""},
		{"remove", old, remove, map[string]any{}, "none"},
		{"remove nothing", nil, remove, map[string]any{}, "none"},
	}
	for _, tt := range tests {
		for _, lost := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, answer lost %v", tt.name, lost), func(t *testing.T) {
				b := newBench(t)
				file := filepath.Join(t.TempDir(), "f.conf")
				if tt.before != nil {
					tt.before(t, file)
				}
				before := state(t, file)
				tt.with["path"] = file
				var out map[string]any
				for range 2 { // twice: the first answer may be lost
					var err error
					if out, err = b.do(callContext("tok"), tt.action, tt.with); err != nil {
						t.Fatal(err)
					}
				}
				after := state(t, file)
				if tt.content == "none" && after != "none" || tt.content != "none" && !strings.HasPrefix(after, fmt.Sprintf("%q ", tt.content)) {
					t.Fatalf("after: %s", after)
				}
				if changed := before != after; out["changed"] != changed {
					t.Errorf("out %v, but it was %s and is %s", out, before, after)
				}
				var known any
				if !lost {
					known = out
				}
				for range 2 {
					if err := b.undo("tok", tt.action, tt.with, known); err != nil {
						t.Fatal(err)
					}
					if got := state(t, file); got != before {
						t.Fatalf("back: %s, was %s", got, before)
					}
				}
				if files, _ := os.ReadDir(filepath.Dir(file)); len(files) > 1 {
					t.Errorf("left behind: %v", files)
				}
			})
		}
	}
}

func TestFileUndoWithoutDo(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(t.TempDir(), "f")
	os.WriteFile(file, []byte("mine"), 0o600)
	in := map[string]any{"path": file, "content": "x"}
	if err := b.undo("tok", "host.file.write", in, nil); err != nil || !strings.HasPrefix(state(t, file), `"mine"`) {
		t.Errorf("error %v, file %s", err, state(t, file))
	}
	// An attempt that comes late does nothing any more.
	if _, err := b.do(callContext("tok"), "host.file.write", in); action.KindOf(err) != action.Conflict || !strings.HasPrefix(state(t, file), `"mine"`) {
		t.Errorf("late: error %v, file %s", err, state(t, file))
	}
	// The node has lost its memory: say so, rather than nothing.
	err := b.undo("other", "host.file.write", in, map[string]any{"path": file, "changed": true, "created": false, "size": 1})
	if action.KindOf(err) != action.NotFound {
		t.Errorf("error %v, want not_found", err)
	}
}

// The agent was killed between the change and its note of it, and the other way round.
func TestFileAfterCrash(t *testing.T) {
	for _, renamed := range []bool{false, true} {
		for _, redo := range []bool{false, true} {
			t.Run(fmt.Sprintf("renamed %v, redo %v", renamed, redo), func(t *testing.T) {
				b := newBench(t)
				file := filepath.Join(t.TempDir(), "f")
				os.WriteFile(file, []byte("old"), 0o600)
				before := state(t, file)
				in := map[string]any{"path": file, "content": "new"}
				if _, err := b.do(callContext("tok"), "host.file.write", in); err != nil {
					t.Fatal(err)
				}
				entry, _ := b.Journal().Entry("tok")
				var c change
				if err := entry.ReadJSON(changeFile, &c); err != nil {
					t.Fatal(err)
				}
				c.Phase = prepared
				entry.WriteJSON(changeFile, c)
				if !renamed {
					os.WriteFile(file, []byte("old"), 0o600)
					os.WriteFile(filepath.Join(filepath.Dir(file), ".almanac-tok"), []byte("ne"), 0o600)
				}
				if redo {
					out, err := b.do(callContext("tok"), "host.file.write", in)
					if err != nil || out["changed"] != true {
						t.Fatalf("out %v, error %v", out, err)
					}
				}
				if err := b.undo("tok", "host.file.write", in, nil); err != nil || state(t, file) != before {
					t.Fatalf("error %v, file %s, was %s", err, state(t, file), before)
				}
				if files, _ := os.ReadDir(filepath.Dir(file)); len(files) > 1 {
					t.Errorf("left behind: %v", files)
				}
			})
		}
	}
}

// In a directory that gives its group to new files, a file still gets its own back.
func TestFileInSetgidDirectory(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") != "true" {
		t.Skip("only root may give a directory to another group")
	}
	b := newBench(t)
	dir := t.TempDir()
	if err := errors.Join(os.Chown(dir, 0, 4321), os.Chmod(dir, 0o775|os.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "f")
	os.WriteFile(file, []byte("old"), 0o640)
	os.Chown(file, 0, 0)
	before := state(t, file)
	in := map[string]any{"path": file, "content": "new"}
	if _, err := b.do(callContext("tok"), "host.file.write", in); err != nil || state(t, file) != strings.Replace(before, "old", "new", 1) {
		t.Errorf("error %v, file %s, was %s", err, state(t, file), before)
	}
	if err := b.undo("tok", "host.file.write", in, nil); err != nil || state(t, file) != before {
		t.Errorf("back: error %v, file %s, was %s", err, state(t, file), before)
	}
}

func TestFileOfASecret(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(t.TempDir(), "f")
	in := map[string]any{"path": file, "content": map[string]string{"$secret": "env:PASSWORD"}}
	if _, err := b.do(callContext("tok"), "host.file.write", in); err != nil {
		t.Fatal(err)
	}
	if got := state(t, file); !strings.HasPrefix(got, `"hunter2-hunter2" 0600`) {
		t.Errorf("file %s, want it closed to others", got)
	}
}

// An attempt that changed nothing and whose answer was lost is not to begin after its rollback.
func TestFileUndoOfNoChange(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(t.TempDir(), "f")
	os.WriteFile(file, []byte("x"), 0o600)
	in := map[string]any{"path": file, "content": "x"}
	b.do(callContext("tok"), "host.file.write", in)
	if err := b.undo("tok", "host.file.write", in, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := b.do(callContext("tok"), "host.file.write", in); action.KindOf(err) != action.Conflict {
		t.Errorf("late: error %v", err)
	}
}

// A disk that is full is no mistake of ours, and later may do.
func TestFileWithoutState(t *testing.T) {
	b := newBench(t)
	b.StateDir = "/dev/null"
	_, err := b.do(callContext("tok"), "host.file.write", map[string]any{"path": "/tmp/f", "content": "x"})
	if action.KindOf(err) != action.Unavailable {
		t.Errorf("error %v of kind %s", err, action.KindOf(err))
	}
	_, err = b.do(callContext("tok"), "host.command.run", map[string]any{"script": "true"})
	if action.KindOf(err) != action.Unavailable {
		t.Errorf("error %v of kind %s", err, action.KindOf(err))
	}
}

func TestFileUndoLeavesOthersWorkAlone(t *testing.T) {
	others := map[string]func(file string){
		"changed":  func(f string) { os.WriteFile(f, []byte("theirs"), 0o600) },
		"a link":   func(f string) { os.Remove(f); os.Symlink("/etc/passwd", f) },
		"replaced": func(f string) { os.Remove(f); os.Mkdir(f, 0o700) },
		"removed":  func(f string) { os.Remove(f) },
	}
	for name, other := range others {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			file := filepath.Join(t.TempDir(), "f")
			os.WriteFile(file, []byte("old"), 0o600)
			in := map[string]any{"path": file, "content": "new"}
			out, err := b.do(callContext("tok"), "host.file.write", in)
			if err != nil {
				t.Fatal(err)
			}
			other(file)
			before, _ := os.Lstat(file)
			err = b.undo("tok", "host.file.write", in, out)
			if k := action.KindOf(err); err == nil || k != action.Conflict && k != action.Invalid {
				t.Errorf("error %v, want conflict", err)
			}
			after, _ := os.Lstat(file)
			if (before == nil) != (after == nil) || before != nil && !os.SameFile(before, after) {
				t.Error("it was touched")
			}
			if passwd, _ := os.ReadFile("/etc/passwd"); !strings.Contains(string(passwd), "root") {
				t.Error("the link was followed")
			}
		})
	}
}

func TestFileSeriesIsTakenBackInReverse(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(t.TempDir(), "f")
	os.WriteFile(file, []byte("0"), 0o600)
	for i := 1; i <= 3; i++ {
		if _, err := b.do(callContext(fmt.Sprint("tok", i)), "host.file.write", map[string]any{"path": file, "content": fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for i := 3; i >= 1; i-- {
		if err := b.undo(fmt.Sprint("tok", i), "host.file.write", map[string]any{"path": file, "content": fmt.Sprint(i)}, nil); err != nil {
			t.Fatal(err)
		}
		if got := state(t, file); !strings.HasPrefix(got, fmt.Sprintf("%q ", fmt.Sprint(i-1))) {
			t.Fatalf("after taking back %d: %s", i, got)
		}
	}
}

func TestFileRefusals(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "f"), []byte("old"), 0o600)
	os.Symlink("f", filepath.Join(dir, "link"))
	syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600)
	tests := []struct {
		with map[string]any
		kind action.Kind
	}{
		{map[string]any{"path": "relative"}, action.Invalid},
		{map[string]any{"path": ""}, action.Invalid},
		{map[string]any{"path": "/"}, action.Invalid},
		{map[string]any{"path": dir + "/"}, action.Invalid},
		{map[string]any{"path": dir}, action.Invalid},
		{map[string]any{"path": dir + "/a\x00b"}, action.Invalid},
		{map[string]any{"path": dir + "/link"}, action.Invalid},
		{map[string]any{"path": dir + "/fifo"}, action.Invalid},
		{map[string]any{"path": dir + "/no/f"}, action.NotFound},
		{map[string]any{"path": dir + "/f/g"}, action.Failed},
		{map[string]any{"path": dir + "/f", "mode": "rw"}, action.Invalid},
		{map[string]any{"path": dir + "/f", "mode": "99999"}, action.Invalid},
		{map[string]any{"path": dir + "/f", "owner": "nobody-here"}, action.Invalid},
		{map[string]any{"path": dir + "/f", "group": "nobody-here"}, action.Invalid},
	}
	for i, tt := range tests {
		tt.with["content"] = "x"
		_, err := b.do(callContext(fmt.Sprint("tok", i)), "host.file.write", tt.with)
		if err == nil || action.KindOf(err) != tt.kind {
			t.Errorf("%v: error %v of kind %s, want %s", tt.with, err, action.KindOf(err), tt.kind)
		}
	}
	if got := state(t, filepath.Join(dir, "f")); !strings.HasPrefix(got, `"old"`) {
		t.Errorf("file %s", got)
	}
}

func TestFileInRoot(t *testing.T) {
	b := newBench(t)
	b.Root = t.TempDir()
	outside := t.TempDir()
	os.MkdirAll(filepath.Join(b.Root, "etc", "app"), 0o755)
	os.Symlink("app", filepath.Join(b.Root, "etc", "link"))
	os.Symlink(outside, filepath.Join(b.Root, "etc", "out"))
	os.Symlink("../../..", filepath.Join(b.Root, "etc", "up"))
	tests := []struct {
		path, file string // file: where it must be, below the root; empty: refused
	}{
		{"/etc/app/f", "etc/app/f"},
		{"/etc/link/g", "etc/app/g"},
		{"/../../etc/app/h", "etc/app/h"},
		{"/top", "top"},
		{"/etc/out/f", ""},
		{"/etc/up/f", ""},
	}
	for i, tt := range tests {
		in := map[string]any{"path": tt.path, "content": "x"}
		_, err := b.do(callContext(fmt.Sprint("tok", i)), "host.file.write", in)
		if (err == nil) != (tt.file != "") {
			t.Errorf("%s: error %v", tt.path, err)
		}
		if tt.file != "" && state(t, filepath.Join(b.Root, tt.file)) == "none" {
			t.Errorf("%s: not in %s", tt.path, tt.file)
		}
		if err := b.undo(fmt.Sprint("tok", i), "host.file.write", in, nil); err != nil {
			t.Errorf("%s: %v", tt.path, err)
		}
		if tt.file != "" && state(t, filepath.Join(b.Root, tt.file)) != "none" {
			t.Errorf("%s: not taken back", tt.path)
		}
	}
	if files, _ := os.ReadDir(outside); len(files) > 0 {
		t.Errorf("written outside of the root: %v", files)
	}
}

// Readers see the old content or the new, never something between.
func TestFileIsReplacedAtOnce(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(t.TempDir(), "f")
	size := 1 << 20
	os.WriteFile(file, []byte(strings.Repeat("a", size)), 0o600)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 20 {
			b.do(callContext(fmt.Sprint("tok", i)), "host.file.write", map[string]any{"path": file, "content": strings.Repeat(string(rune('a'+i)), size)})
		}
	}()
	for {
		text, err := os.ReadFile(file)
		if err != nil || len(text) != size || strings.Count(string(text), string(text[0])) != size {
			t.Fatalf("%d bytes, error %v", len(text), err)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}
