package journal

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func newEntry(t *testing.T) (Journal, Entry) {
	t.Helper()
	j := Journal(filepath.Join(t.TempDir(), "journal"))
	e, err := j.Entry("token")
	if err != nil {
		t.Fatal(err)
	}
	return j, e
}

func TestEntryRefuses(t *testing.T) {
	j := Journal(t.TempDir())
	for _, token := range []string{"", "..", "a/b", ".", "a.b", "ü", strings.Repeat("a", 65)} {
		if _, err := j.Entry(token); err == nil {
			t.Errorf("token %q is accepted", token)
		}
	}
	if _, err := Journal("").Entry("token"); err == nil {
		t.Error("a journal without a directory is accepted")
	}
}

func TestRecord(t *testing.T) {
	_, e := newEntry(t)
	if _, ok, err := e.Record(); ok || err != nil {
		t.Fatal(ok, err)
	}
	want := Record{Execution: "e", Step: "s", State: Exited, Run: 2, BootID: "b", Command: Process{PID: 1, Start: 2},
		AcceptedAt: time.Now().UTC().Round(0), ExitCode: 3, Stopped: TimedOut, Stdout: "out", Ref: "r", Size: 9}
	if err := e.SetRecord(want); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := At(e.Dir()).Record(); got != want || !ok || err != nil {
		t.Errorf("got %+v, %v, %v, want %+v", got, ok, err, want)
	}
	filepath.WalkDir(e.Dir(), func(path string, d fs.DirEntry, err error) error {
		info, _ := os.Stat(path)
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
		if strings.HasPrefix(d.Name(), ".") {
			t.Errorf("%s was left behind", path)
		}
		return nil
	})
	os.WriteFile(e.File(recordFile), []byte(`{"sta`), 0o600)
	if _, ok, err := e.Record(); ok || err == nil {
		t.Error("a damaged record is no record, and no error")
	}
}

func TestLock(t *testing.T) {
	_, e := newEntry(t)
	l, err := e.TryLock(LockRunning)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.TryLock(LockRunning); !errors.Is(err, ErrHeld) {
		t.Fatalf("second: %v", err)
	}
	// A process that was given the file holds the lock with us, and after us.
	cmd := exec.Command("sleep", "60")
	cmd.ExtraFiles = []*os.File{l.File}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l.Unlock()
	if _, err := e.TryLock(LockRunning); !errors.Is(err, ErrHeld) {
		t.Errorf("held by another process: %v", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	l, err = e.TryLock(LockRunning)
	if err != nil {
		t.Fatalf("after its death: %v", err)
	}
	waited := make(chan error, 1)
	go func() {
		l, err := e.Lock(LockRunning)
		if err == nil {
			l.Unlock()
		}
		waited <- err
	}()
	select {
	case <-waited:
		t.Error("Lock did not wait")
	case <-time.After(50 * time.Millisecond):
	}
	l.Unlock()
	if err := <-waited; err != nil {
		t.Error(err)
	}
}

func TestExpire(t *testing.T) {
	j, _ := newEntry(t)
	old := time.Now().Add(-Keep - time.Hour)
	age := func(token string) Entry {
		e, err := j.Entry(token)
		if err != nil {
			t.Fatal(err)
		}
		e.SetRecord(Record{State: Exited})
		return e
	}
	gone, held := age("gone"), age("held")
	l, _ := held.TryLock(LockRunning)
	defer l.Unlock()
	os.WriteFile(filepath.Join(string(j), "not-ours"), nil, 0o600)
	// The first time it may be the clock that was set.
	for i, want := range []int{0, 0, 1} {
		if i != 1 {
			for _, e := range []Entry{gone, held} {
				os.Chtimes(e.Dir(), old, old)
			}
		}
		if n, err := j.Expire(time.Now(), Keep); n != want || err != nil {
			t.Errorf("removed %d the %dth time, %v; want %d", n, i+1, err, want)
		}
	}
	left, _ := os.ReadDir(string(j))
	var names []string
	for _, d := range left {
		names = append(names, d.Name())
	}
	if got := strings.Join(names, " "); got != "held not-ours token" {
		t.Errorf("left: %s", got)
	}
	if n, err := Journal(filepath.Join(t.TempDir(), "none")).Expire(time.Now(), Keep); n != 0 || err != nil {
		t.Errorf("no journal: %d, %v", n, err)
	}
}
