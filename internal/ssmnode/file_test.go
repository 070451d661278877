package ssmnode

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/simcloud"
)

// mode is the permissions of a file of the instance.
func (w *world) mode(name string) string {
	info, err := os.Stat(filepath.Join(w.home(), name))
	if err != nil {
		return "-"
	}
	bits := info.Sys().(*syscall.Stat_t).Mode & 0o7777
	return fmt.Sprintf("%04o", bits)
}

func TestFileWrite(t *testing.T) {
	hostile := "it's $(touch pwned) `x` \"q\" {{ssm:x}} \\n %s\n\nü\x00\x01 no newline at the end"
	for _, tt := range []struct {
		name   string
		before string // "-": there is none
		mode   os.FileMode
		in     m
		out    m
		after  string
		bits   string
	}{
		{"new", "-", 0, m{"content": hostile}, m{"changed": true, "created": true, "size": float64(len(hostile))}, hostile, "0644"},
		{"another", "old", 0o640, m{"content": hostile}, m{"changed": true, "created": false, "size": float64(len(hostile))}, hostile, "0640"},
		{"the same", "x\n", 0o600, m{"content": "x\n"}, m{"changed": false, "created": false, "size": 2.0}, "x\n", "0600"},
		{"another mode", "x\n", 0o600, m{"content": "x\n", "mode": "0755"}, m{"changed": true, "created": false, "size": 2.0}, "x\n", "0755"},
		{"setuid", "-", 0, m{"content": "x", "mode": "4755"}, m{"changed": true, "created": true, "size": 1.0}, "x", "4755"},
		{"empty", "old", 0o644, m{"content": ""}, m{"changed": true, "created": false, "size": 0.0}, "", "0644"},
		{"owner by name", "old", 0o644, m{"content": "new", "owner": "root", "group": "0"}, m{"changed": true, "created": false, "size": 3.0}, "new", "0644"},
	} {
		for _, name := range []string{"f", "it's $(touch pwned) -n\n"} {
			t.Run(tt.name, func(t *testing.T) {
				w := newWorld(t, nil)
				path := filepath.Join(w.home(), name)
				if tt.before != "-" {
					w.put(name, tt.before, tt.mode)
				}
				bits := w.mode(name)
				in := m{"path": path}
				for k, v := range tt.in {
					in[k] = v
				}
				out := w.must("host.file.write", in)
				want := m{"path": path}
				for k, v := range tt.out {
					want[k] = v
				}
				if diff := cmp.Diff(want, out); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if w.file(name) != tt.after || w.mode(name) != tt.bits {
					t.Errorf("%q, mode %s", w.file(name), w.mode(name))
				}
				// Again, and back, and back again; the second time nothing is done.
				w.attempt = 2
				if again := w.must("host.file.write", in); cmp.Diff(out, again) != "" {
					t.Errorf("again: %v", again)
				}
				for range 2 {
					if err := w.compensate("host.file.write", in, out); err != nil {
						t.Fatal(err)
					}
				}
				if w.file(name) != tt.before || w.mode(name) != bits {
					t.Errorf("taken back: %q, mode %s", w.file(name), w.mode(name))
				}
				if w.file("pwned") != "-" {
					t.Error("a value was run")
				}
				if left, _ := filepath.Glob(filepath.Join(w.home(), ".almanac-*")); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
			})
		}
	}
}

func TestFileRemove(t *testing.T) {
	w := newWorld(t, nil)
	in := m{"path": w.put("f", "content", 0o604)}
	if out := w.must("host.file.remove", in); out["changed"] != true || w.file("f") != "-" {
		t.Errorf("%v, %q", out, w.file("f"))
	}
	if err := w.compensate("host.file.remove", in, m{"path": in["path"], "changed": true}); err != nil || w.file("f") != "content" || w.mode("f") != "0604" {
		t.Errorf("%v, %q, %s", err, w.file("f"), w.mode("f"))
	}
	w.token = "b" + token[1:]
	in = m{"path": filepath.Join(w.home(), "nothing")}
	if out := w.must("host.file.remove", in); out["changed"] != false {
		t.Error(out)
	}
	if err := w.compensate("host.file.remove", in, m{"path": in["path"], "changed": false}); err != nil {
		t.Error(err)
	}
}

func TestFileRefused(t *testing.T) {
	w := newWorld(t, nil)
	w.put("file", "x", 0o644)
	if err := os.Symlink("file", filepath.Join(w.home(), "link")); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(w.home(), name) }
	for i, tt := range []struct {
		in   m
		kind action.Kind
		says string
	}{
		{m{"path": "relative", "content": ""}, action.Invalid, "not absolute"},
		{m{"path": at("dir") + "/", "content": ""}, action.Invalid, "does not name a file"},
		{m{"path": "/", "content": ""}, action.Invalid, "does not name a file"},
		{m{"path": at("link"), "content": ""}, action.Invalid, "symbolic link (to file)"},
		{m{"path": w.home(), "content": ""}, action.Invalid, "not a regular file"},
		{m{"path": at("no/such"), "content": ""}, action.NotFound, "there is no directory"},
		{m{"path": at("file"), "content": "y", "mode": "rw"}, action.Invalid, "octal"},
		{m{"path": at("file"), "content": "y", "owner": "nosuchuser"}, action.Invalid, "no user"},
		{m{"path": at("file"), "content": "y", "group": "$(id)"}, action.Invalid, "no group"},
		{m{"path": at("file"), "content": m{"$secret": "env:X"}}, action.Invalid, "content is a secret"},
		{m{"path": at("file"), "content": strings.Repeat("x", 100_000)}, action.Invalid, "aws.s3.put_object"},
	} {
		w.token = fmt.Sprintf("%c%s", 'a'+i, token[1:])
		_, err := w.do("host.file.write", tt.in)
		wants(t, err, tt.kind, tt.says)
		if err := w.compensate("host.file.write", tt.in, nil); err != nil {
			t.Errorf("%s: nothing to take back: %v", tt.says, err)
		}
	}
	if w.file("file") != "x" {
		t.Errorf("%q", w.file("file"))
	}
}

// What somebody else has written since is not destroyed, and can be tried again
// when he has cleared the way.
func TestFileConflict(t *testing.T) {
	w := newWorld(t, nil)
	in := m{"path": w.put("f", "before", 0o644), "content": "after"}
	out := w.must("host.file.write", in)
	w.put("f", "somebody else's", 0o644)
	w.attempt = 2
	err := w.compensate("host.file.write", in, out)
	wants(t, err, action.Conflict, "changed by somebody else")
	if w.file("f") != "somebody else's" {
		t.Errorf("%q", w.file("f"))
	}
	w.put("f", "after", 0o644)
	if err := w.compensate("host.file.write", in, out); err != nil || w.file("f") != "before" {
		t.Errorf("%v, %q", err, w.file("f"))
	}
}

// A step that was taken back before it began does not begin late.
func TestFileUndoneFirst(t *testing.T) {
	w := newWorld(t, nil)
	in := m{"path": w.put("f", "before", 0o644), "content": "after"}
	if err := w.compensate("host.file.write", in, nil); err != nil {
		t.Fatal(err)
	}
	_, err := w.do("host.file.write", in)
	wants(t, err, action.Conflict, "rolled back")
	if w.file("f") != "before" {
		t.Errorf("%q", w.file("f"))
	}
	// But if it is known to have changed the file, its backup has to be there.
	w.token = "b" + token[1:]
	err = w.compensate("host.file.write", in, m{"path": in["path"], "changed": true})
	wants(t, err, action.NotFound, "backup")
}

// Every call is lost in turn; the step is tried again, or taken back without an answer.
func TestFileLost(t *testing.T) {
	for _, kind := range []simcloud.FaultKind{simcloud.Lose, simcloud.Drop} {
		for _, operation := range []string{"SendCommand", "GetCommandInvocation", "ListCommands"} {
			for _, undo := range []bool{false, true} {
				w := newWorld(t, func(o *simcloud.Options) {
					o.Faults = []simcloud.Fault{{Operation: operation, Kind: kind, Times: 1}}
				})
				in := m{"path": w.put("f", "before", 0o644), "content": "after"}
				_, err := w.do("host.file.write", in)
				w.attempt = 2
				if undo {
					if err := w.compensate("host.file.write", in, nil); err != nil || w.file("f") != "before" {
						t.Errorf("%s of %s: %v, %q", kind, operation, err, w.file("f"))
					}
					continue
				}
				if err != nil {
					if out := w.must("host.file.write", in); out["changed"] != true {
						t.Errorf("%s of %s: %v", kind, operation, out)
					}
				}
				if w.file("f") != "after" {
					t.Errorf("%s of %s: %q", kind, operation, w.file("f"))
				}
			}
		}
	}
}

// A script that was killed half way is finished by the next attempt.
func TestFileHalfWay(t *testing.T) {
	w := newWorld(t, nil)
	in := m{"path": w.put("f", "before", 0o640), "content": "after"}
	own := filepath.Join(w.home(), ".almanac", "commands", token)
	sum := func(text string) string {
		w2 := newWorld(t, nil)
		out := w2.must("host.command.run", m{"script": "sha256sum | cut -d' ' -f1", "stdin": text})
		return out["stdout"].(string)
	}
	about := fmt.Sprintf(" 640 %d %d\n", os.Getuid(), os.Getgid())
	for name, content := range map[string]string{"begun": "", "phase": "prepared\n", "before": sum("before") + about, "after": sum("after") + about, "backup": "before"} {
		if err := os.MkdirAll(own, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(own, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.put("f", "after", 0o640) // so far it had come
	if out := w.must("host.file.write", in); out["changed"] != true {
		t.Error(out)
	}
	if err := w.compensate("host.file.write", in, nil); err != nil || w.file("f") != "before" {
		t.Errorf("%v, %q", err, w.file("f"))
	}
}
