package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/inventory"
)

// inbox takes reports as the inventory does, and can be made to fail.
type inbox struct {
	sync.Mutex
	snapshots []inventory.Snapshot
	err       error
	have      map[string]string // digests by section
	forgetful bool              // keeps nothing
}

func (b *inbox) report(_ context.Context, s inventory.Snapshot) error {
	b.Lock()
	defer b.Unlock()
	if err := s.Check(); err != nil {
		return err
	}
	b.snapshots = append(b.snapshots, s)
	if b.err != nil {
		return b.err
	}
	var missing []string
	for _, section := range s.Sections {
		if section.Unchanged && b.have[section.Name()] != section.Digest {
			missing = append(missing, section.Name())
		} else if !b.forgetful {
			b.have[section.Name()] = section.Digest
		}
	}
	if missing != nil {
		return &inventory.MissingError{Sections: missing}
	}
	return nil
}

// sent says what the reports since the last call had: a name, and ~ for one that was unchanged.
func (b *inbox) sent() string {
	b.Lock()
	defer b.Unlock()
	var all []string
	for _, s := range b.snapshots {
		for _, section := range s.Sections {
			name := section.Name()
			if section.Unchanged {
				name = "~" + name
			}
			all = append(all, name)
		}
		all = append(all, "|")
	}
	b.snapshots = nil
	return strings.Join(all, " ")
}

func (b bench) write(path, text string) {
	b.t.Helper()
	file := filepath.Join(b.Root, path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func newInventory(t *testing.T) (bench, *inbox) {
	b := newBench(t)
	b.Root = t.TempDir()
	in := &inbox{have: map[string]string{}}
	b.Report = in.report
	b.write("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n")
	b.write("var/lib/dpkg/status", "Package: bash\nStatus: install ok installed\nVersion: 5.2\nArchitecture: amd64\n\n")
	b.write("etc/app/a.conf", "a")
	return b, in
}

var collected = map[string]any{"kinds": []string{"user", "package"}, "files": []string{"/etc/app/*.conf"},
	"facts": []any{map[string]any{"name": "sshd", "script": `printf '{"permitrootlogin":"no"}'`}}}

func TestInventoryReportsWhatChanged(t *testing.T) {
	b, in := newInventory(t)
	collect := func(want string, changed bool, extra ...string) map[string]any {
		t.Helper()
		input := map[string]any{}
		for k, v := range collected {
			input[k] = v
		}
		for _, k := range extra {
			input[k] = true
		}
		out, err := b.do(callContext("inv"), "host.inventory.collect", input)
		if err != nil {
			t.Fatal(err)
		}
		if got := in.sent(); got != want || out["changed"] != changed || out["reported"] != true {
			t.Errorf("sent %q, want %q; %v", got, want, out)
		}
		return out
	}
	out := collect("package user file /etc/app/*.conf fact sshd |", true)
	if got := fmt.Sprint(out["counts"]); got != "map[fact:1 file:1 package:1 user:1]" {
		t.Error(got)
	}
	digest := out["digest"]
	out = collect("~package ~user ~file /etc/app/*.conf ~fact sshd |", false)
	if out["digest"] != digest {
		t.Error("the digest differs without a change")
	}
	b.write("etc/app/b.conf", "b")
	out = collect("~package ~user file /etc/app/*.conf ~fact sshd |", true)
	if out["digest"] == digest {
		t.Error("the digest is the same after a change")
	}
	collect("package user file /etc/app/*.conf fact sshd |", false, "full")

	// What is not acknowledged is sent again.
	b.write("etc/app/c.conf", "c")
	in.err = errors.New("no connection")
	if _, err := b.do(callContext("inv"), "host.inventory.collect", collected); action.KindOf(err) != action.Unavailable || !strings.Contains(err.Error(), "no connection") {
		t.Errorf("%v", err)
	}
	in.err = nil
	in.sent()
	collect("~package ~user file /etc/app/*.conf ~fact sshd |", true)

	// An inventory that has lost what it had gets all of it.
	in.have = map[string]string{}
	collect("~package ~user ~file /etc/app/*.conf ~fact sshd | package user file /etc/app/*.conf fact sshd |", false)
	in.have, in.forgetful = map[string]string{}, true
	if _, err := b.do(callContext("inv"), "host.inventory.collect", map[string]any{"kinds": []string{"user"}}); err != nil {
		t.Errorf("sent in full and taken: %v", err)
	}

	// A state that is damaged is no reason to fail.
	in.forgetful = false
	if err := os.WriteFile(filepath.Join(b.StateDir, "inventory.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	in.sent()
	collect("package user file /etc/app/*.conf fact sshd |", true)
}

func TestInventoryWithoutReport(t *testing.T) {
	b, _ := newInventory(t)
	b.Report = nil
	for i, changed := range []bool{true, false} {
		out, err := b.do(callContext("inv"), "host.inventory.collect", collected)
		if err != nil || out["reported"] != false || out["changed"] != changed {
			t.Errorf("%d: %v, %v", i, out, err)
		}
	}
}

// What cannot be found is told, and what is known of it stays.
func TestInventoryProblems(t *testing.T) {
	b, in := newInventory(t)
	out, err := b.do(callContext("inv"), "host.inventory.collect", map[string]any{"kinds": []string{"user", "service"}, "files": []string{"/etc/app/*"},
		"facts": []any{
			map[string]any{"name": "bad", "script": "echo no json"},
			map[string]any{"name": "fails", "script": "echo why >&2; exit 3"},
			map[string]any{"name": "slow", "script": "sleep 60", "timeout": "200ms"},
			map[string]any{"name": "long", "script": "head -c 2000000 /dev/zero"},
		}})
	if err != nil {
		t.Fatal(err)
	}
	if got := in.sent(); got != "user file /etc/app/* |" {
		t.Errorf("sent %q", got)
	}
	var got []string
	for _, p := range out["problems"].([]any) {
		got = append(got, p.(string))
	}
	want := []string{"service: neither systemd runs", "fact bad: what it prints is not JSON", "fact fails: sh: exit code 3: why",
		"fact slow: sh: it takes longer than 200ms", "fact long: sh: it writes more than 1024 KiB"}
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("%q", got)
	}
	_, err = b.do(callContext("inv"), "host.inventory.collect", map[string]any{"kinds": []string{"service"}})
	if action.KindOf(err) != action.Failed || !strings.Contains(err.Error(), "nothing could be found: service: ") {
		t.Errorf("%v", err)
	}
}

func TestInventoryRefuses(t *testing.T) {
	b, _ := newInventory(t)
	fact := func(name, script, timeout string) map[string]any {
		return map[string]any{"facts": []any{map[string]any{"name": name, "script": script, "timeout": timeout}}}
	}
	for _, tt := range []struct {
		in   any
		says string
	}{
		{map[string]any{"kinds": []string{"weather"}}, "there are instance, interface"},
		{map[string]any{"kinds": []string{"file"}}, "files: and facts:"},
		{map[string]any{"files": []string{"etc/*"}}, "not absolute"},
		{map[string]any{"files": []string{"/etc/../x"}}, "has a .. in it"},
		{map[string]any{"files": []string{"/etc/[a"}}, "not of the form"},
		{fact("a b", "x", "1s"), "a name is of small letters"},
		{fact("a", " ", "1s"), "a script is text"},
		{fact("a", "x", "1h"), "at most 10m"},
		{map[string]any{"facts": []any{map[string]any{"name": "a", "script": "x"}, map[string]any{"name": "a", "script": "y"}}}, "two of the name a"},
		{map[string]any{"files": make([]string, 101)}, "at most 100"},
	} {
		_, err := b.do(callContext("inv"), "host.inventory.collect", tt.in)
		if action.KindOf(err) != action.Invalid || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%v: %v, want %q", tt.in, err, tt.says)
		}
	}
}

// The whole machine that runs the test: every kind that it has is found, and the report is one that the inventory takes.
func TestInventoryOfThisMachine(t *testing.T) {
	b := newBench(t)
	in := &inbox{have: map[string]string{}}
	b.Report = in.report
	start := time.Now()
	out, err := b.do(callContext("inv"), "host.inventory.collect", map[string]any{"files": []string{"/etc/ssl/**"}})
	if err != nil {
		t.Fatal(err)
	}
	counts := out["counts"].(map[string]any)
	t.Logf("%v in %s; problems: %v", counts, time.Since(start).Round(time.Millisecond), out["problems"])
	for _, kind := range []string{"user", "kernel", "instance"} {
		if counts[kind] == nil {
			t.Errorf("no %s: %v", kind, out["problems"])
		}
	}
}
