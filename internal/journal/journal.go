// Package journal is a node's memory of what it was asked to do.
//
// It gives one Entry per idempotency token: a private directory with a record
// of a command (accepted, started, exited), files of the action's own (a
// backup), and locks. It promises that a record is either the old or the new
// one, on the disk before the call returns, that only one holder has an entry
// at a time, in any process, and that a lock ends with its holder, however it
// dies. It refuses to know what is run, and keeps no secret.
package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"
)

// Journal is the journal in the directory of that name, created when needed.
type Journal string

// Keep is how long an entry is kept after its last change, at least: longer than
// any execution is expected to come back to one of its steps. It is removed
// after twice as long; see Expire.
const Keep = 30 * 24 * time.Hour

// markFile marks an entry that was found old.
const markFile = "old"

// Entry is the memory of one token. It may be used by one goroutine; others
// open their own.
type Entry struct{ dir string }

var tokenForm = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

// Entry returns the entry of a token, and creates its directory.
func (j Journal) Entry(token string) (Entry, error) {
	if j == "" {
		return Entry{}, errors.New("journal: no state directory is set")
	}
	if !tokenForm.MatchString(token) {
		return Entry{}, errors.New("journal: not a token")
	}
	dir := filepath.Join(string(j), token)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Entry{}, fmt.Errorf("journal: %w", err)
	}
	// The entry itself has to survive a crash, not only what is in it.
	if err := syncDir(string(j)); err != nil {
		return Entry{}, err
	}
	return Entry{dir}, nil
}

// At returns the entry whose directory is dir; for a process that was given it.
func At(dir string) Entry { return Entry{dir} }

// Dir returns the entry's directory.
func (e Entry) Dir() string { return e.dir }

// File returns the path of one of the entry's files.
func (e Entry) File(name string) string { return filepath.Join(e.dir, name) }

// Lock takes the lock of that name, waiting until its holder lets go.
func (e Entry) Lock(name string) (*Lock, error) {
	return e.lock(name, unix.LOCK_EX)
}

// ErrHeld is the error of TryLock while somebody holds the lock.
var ErrHeld = errors.New("journal: the lock is held")

// TryLock takes the lock of that name, or returns ErrHeld.
func (e Entry) TryLock(name string) (*Lock, error) {
	return e.lock(name, unix.LOCK_EX|unix.LOCK_NB)
}

func (e Entry) lock(name string, how int) (*Lock, error) {
	f, err := os.OpenFile(e.File(name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		if err == unix.EWOULDBLOCK {
			return nil, ErrHeld
		}
		return nil, fmt.Errorf("journal: lock %s: %w", name, err)
	}
	return &Lock{f}, nil
}

// Lock is a lock that is held. Processes that were given File hold it together:
// it ends when the last of them has closed it or died.
type Lock struct{ File *os.File }

// Unlock lets go of this process's share of the lock.
func (l *Lock) Unlock() { l.File.Close() }

// ReadJSON reads one of the entry's files into v. The error wraps
// fs.ErrNotExist if there is none.
func (e Entry) ReadJSON(name string, v any) error {
	b, err := os.ReadFile(e.File(name))
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("journal: %s: %w", e.File(name), err)
	}
	return nil
}

// WriteJSON writes v into one of the entry's files. When it returns the file is on
// the disk; a crash before leaves the file that was there.
func (e Entry) WriteJSON(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return e.Write(name, b)
}

// Write is WriteJSON for bytes.
func (e Entry) Write(name string, b []byte) error { return e.write(name, b, true) }

// write replaces a file of the entry. Without durable it is there for other
// processes, and a loss of power may take it away.
func (e Entry) write(name string, b []byte, durable bool) error {
	f, err := os.CreateTemp(e.dir, "."+name+".*")
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil && durable {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := os.Rename(f.Name(), e.File(name)); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if !durable {
		return nil
	}
	return syncDir(e.dir)
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// Expire removes the entries whose last change is older than age and that
// nobody holds. It returns how many, and goes on past one that cannot be removed.
//
// The clock may have been wrong then or be wrong now. So an entry that is found
// old is marked, which is a change, and goes when it is found old again.
func (j Journal) Expire(now time.Time, age time.Duration) (int, error) {
	entries, err := os.ReadDir(string(j))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("journal: %w", err)
	}
	removed := 0
	var all error
	for _, d := range entries {
		if !d.IsDir() || !tokenForm.MatchString(d.Name()) {
			continue
		}
		e := Entry{filepath.Join(string(j), d.Name())}
		info, err := os.Stat(e.dir) // changes with every record, since each is a rename in it
		if err != nil || now.Sub(info.ModTime()) < age {
			continue
		}
		if _, err := os.Lstat(e.File(markFile)); err != nil {
			all = errors.Join(all, e.Write(markFile, nil))
			continue
		}
		ok, err := e.remove()
		if ok {
			removed++
		}
		all = errors.Join(all, err)
	}
	return removed, all
}

func (e Entry) remove() (bool, error) {
	for _, name := range []string{LockUse, LockRunning} {
		l, err := e.TryLock(name)
		if errors.Is(err, ErrHeld) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		defer l.Unlock()
	}
	if err := os.RemoveAll(e.dir); err != nil {
		return false, fmt.Errorf("journal: %w", err)
	}
	return true, nil
}

// The locks of an entry: LockUse is held by whoever decides about the token,
// LockRunning by whatever runs for it.
const (
	LockUse     = "use.lock"
	LockRunning = "running.lock"
)
