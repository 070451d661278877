package output

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Beside an output, <target>.log, stand its note, <target>.expired, once it was removed, and an empty
// file <target>.sent once it is in the central store as well: of its time, so that an
// output that was continued is not taken for sent.

// Own returns the outputs of which mine is true, or all if it is nil, for retention: nodes
// may share a directory, and each removes its own.
func (d Dir) Own(mine func(ref string) bool) Shelf { return shelf{d, mine} }

// OfTarget tells whether an output is that of a target.
func OfTarget(ref, target string) bool { return path.Base(ref) == segment(target)+".log" }

// none is the error about an output that is not there.
func (d Dir) none(ref string) error {
	note, _ := os.ReadFile(filepath.Join(string(d), filepath.FromSlash(NoteName(ref)))) // mostly there is none
	return None(ref, string(note[:min(len(note), MaxNote)]))
}

// MarkSent notes that the output is in the central store, as it was at that time.
func (d Dir) MarkSent(ref string, at time.Time) error {
	name, err := d.file(ref)
	if err != nil {
		return err
	}
	mark := strings.TrimSuffix(name, ".log") + sentSuffix
	f, err := os.OpenFile(mark, os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(f.Close(), os.Chtimes(mark, at, at))
	}
	if _, gone := os.Lstat(name); errors.Is(gone, fs.ErrNotExist) {
		return d.unmark(name) // it was removed while it was sent
	}
	if err != nil {
		return fmt.Errorf("output store: %w", err)
	}
	return nil
}

// unmark removes the mark of the output in the file of that name. Mostly there is none.
func (d Dir) unmark(name string) error {
	if err := os.Remove(strings.TrimSuffix(name, ".log") + sentSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("output store: %w", err)
	}
	return nil
}

type shelf struct {
	Dir
	mine func(ref string) bool
}

// List implements Shelf.
func (s shelf) List(ctx context.Context, each func(Entry) error) error {
	executions, err := os.ReadDir(string(s.Dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, execution := range executions {
		steps, _ := os.ReadDir(filepath.Join(string(s.Dir), execution.Name())) // what cannot be read is not ours
		for _, step := range steps {
			if err := s.step(ctx, path.Join(execution.Name(), step.Name()), each); err != nil {
				return err
			}
		}
	}
	return err
}

func (s shelf) step(ctx context.Context, step string, each func(Entry) error) error {
	dir, err := os.Open(filepath.Join(string(s.Dir), filepath.FromSlash(step)))
	if err != nil {
		return nil // it was removed in between
	}
	defer dir.Close()
	for ctx.Err() == nil {
		files, err := dir.ReadDir(1000) // of a shared directory there are as many as nodes
		if len(files) == 0 || err != nil {
			return nil
		}
		for _, f := range files {
			e, ok := s.entry(path.Join(step, f.Name()))
			if !ok {
				continue
			}
			if err := each(e); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// entry is what the file of that name below the directory stands for; ok is false if it is nothing, or another node's: thousands
// of nodes may share the directory, and none looks at the files of all others.
func (s shelf) entry(name string) (e Entry, ok bool) {
	file := filepath.Join(string(s.Dir), filepath.FromSlash(name))
	e.Ref = name
	if ref, note := RefOfNote(name); note {
		e.Ref, e.Note = ref, true
	}
	left := strings.HasPrefix(path.Base(name), unfinished)
	if !left && (Check(e.Ref) != nil || s.mine != nil && !s.mine(e.Ref)) {
		return e, false
	}
	info, err := os.Lstat(file)
	if err != nil || !info.Mode().IsRegular() {
		return e, false
	}
	if left {
		if time.Since(info.ModTime()) > leftAfter {
			_ = os.Remove(file) // whoever wrote it was killed
		}
		return e, false
	}
	e.Size, e.At = info.Size(), info.ModTime()
	if e.Note {
		return e, true
	}
	base := strings.TrimSuffix(file, ".log")
	_, err = os.Lstat(base + noteSuffix)
	e.Anew = err == nil
	mark, err := os.Stat(base + sentSuffix)
	e.Sent = err == nil && mark.ModTime().Equal(e.At)
	// Most are sent; that one of those is about to be continued Expire finds out.
	e.Live = !e.Sent && s.Growing(e.Ref)
	return e, true
}

// Expire implements Shelf.
func (s shelf) Expire(_ context.Context, ref, note string) error {
	name, err := s.file(ref)
	if err != nil {
		return err
	}
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("output store: %w", err)
	}
	defer f.Close()
	// Whoever opens it for writing waits here, and then sees that it is gone.
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil
	}
	base := strings.TrimSuffix(name, ".log")
	// On a full disk the output goes without a note: room is what is wanted.
	_ = os.WriteFile(base+noteSuffix, []byte(note+"\n"), 0o600)
	if err := os.Remove(name); err != nil {
		return fmt.Errorf("output store: %w", err)
	}
	return s.unmark(name)
}

// Forget implements Shelf. It takes directories with it that are empty then.
func (s shelf) Forget(_ context.Context, ref string) error {
	name, err := s.file(ref)
	if err != nil {
		return err
	}
	if err := os.Remove(strings.TrimSuffix(name, ".log") + noteSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("output store: %w", err)
	}
	if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		_ = s.unmark(name) // whoever removed the output was killed before
	}
	step := filepath.Dir(name)
	if os.Remove(step) == nil {
		_ = os.Remove(filepath.Dir(step)) // other steps may be there
	}
	return nil
}

// InDir is a Central in a directory, which control workers on several machines have to share.
func InDir(dir string) Central { return dirCentral{shelf{Dir: Dir(dir)}} }

// dirCentral is a central store in a directory.
type dirCentral struct{ shelf }

// Check finds out whether something can be written there.
func (c dirCentral) Check(context.Context) error {
	err := os.MkdirAll(string(c.Dir), 0o700)
	if err == nil {
		var f *os.File
		if f, err = os.CreateTemp(string(c.Dir), unfinished); err == nil {
			err = errors.Join(f.Close(), os.Remove(f.Name()))
		}
	}
	if err != nil {
		return fmt.Errorf("output store %s: %w", c.Dir, err)
	}
	return nil
}

// What begins so is not finished, and after so long it will not be.
const (
	unfinished = ".put-"
	leftAfter  = 24 * time.Hour
)

// Put implements Central.
func (c dirCentral) Put(ctx context.Context, ref string, from io.Reader, size int64) error {
	name, err := c.file(ref)
	if err != nil {
		return err
	}
	if err := c.put(ctx, name, Exactly(from, size)); err != nil {
		return fmt.Errorf("output store %s: %w", c.Dir, err)
	}
	return nil
}

func (c dirCentral) put(ctx context.Context, name string, from io.Reader) (err error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), unfinished)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = io.Copy(f, untilDone{ctx, from})
	if err = errors.Join(err, file{f}.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	_ = os.Remove(strings.TrimSuffix(name, ".log") + noteSuffix) // mostly there is none
	return syncDir(filepath.Dir(name))
}

// untilDone reads until ctx ends.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

// ReadAt implements Central.
func (c dirCentral) ReadAt(_ context.Context, ref string, p []byte, offset int64) (int, error) {
	r, err := c.Open(ref)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	return r.ReadAt(p, offset)
}

// Size implements Central.
func (c dirCentral) Size(_ context.Context, ref string) (int64, error) { return c.Dir.Size(ref) }
