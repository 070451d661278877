package output

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"
)

// Central keeps outputs that have ended, where all control workers reach them. Its methods may be
// called from several goroutines and processes.
type Central interface {
	// Put keeps what from gives as the output of that reference, in place of what was kept before.
	// It is all or nothing: if from does not give size bytes, or anything else goes
	// wrong, what was there before is there still, and no reader ever sees a part. Memory is bounded.
	Put(ctx context.Context, ref string, from io.Reader, size int64) error

	// ReadAt reads what begins at offset, as io.ReaderAt does: io.EOF says that there is no more. The
	// error wraps fs.ErrNotExist if there is no such output; it is an *ExpiredError if there was one.
	ReadAt(ctx context.Context, ref string, p []byte, offset int64) (int, error)

	// Size returns the number of bytes; an error as ReadAt.
	Size(ctx context.Context, ref string) (int64, error)

	// Check finds out whether it is there and may be used.
	Check(ctx context.Context) error

	Shelf
}

// Shelf is what retention looks through: see package retain.
type Shelf interface {
	// List calls each for all outputs, and for the notes of those that were removed, in no order. It
	// ends with the first error that each returns.
	List(ctx context.Context, each func(Entry) error) error

	// Expire removes an output and leaves note in its place, which says why. It does nothing if the
	// output is being written.
	Expire(ctx context.Context, ref, note string) error

	// Forget removes a note.
	Forget(ctx context.Context, ref string) error
}

// Entry is an output on a Shelf, or what is left of it.
type Entry struct {
	Ref  string
	Size int64
	At   time.Time // when it was last written, or removed
	Live bool      // it is being written
	Sent bool      // it is in the central store as well
	Anew bool      // it was removed before, and was begun anew
	Note bool      // it was removed, and only a note is left
}

// ExpiredError says that there was such an output. It is fs.ErrNotExist as well.
type ExpiredError struct{ Ref, Note string }

func (e *ExpiredError) Error() string { return fmt.Sprintf("output %s %s", e.Ref, e.Note) }

// Is makes it fs.ErrNotExist.
func (e *ExpiredError) Is(target error) bool { return target == fs.ErrNotExist }

// None is the error about an output that is not there; note is what was left of it, or empty.
func None(ref, note string) error {
	note = strings.TrimSpace(note)
	if note == "" {
		return fmt.Errorf("output %s: %w", ref, fs.ErrNotExist)
	}
	return &ExpiredError{ref, note}
}

// NoteName is the name under which a store that keeps outputs by name leaves the note of one.
func NoteName(ref string) string { return strings.TrimSuffix(ref, ".log") + noteSuffix }

// RefOfNote is the output whose note has that name; ok tells whether it is a note's.
func RefOfNote(name string) (ref string, ok bool) {
	base, ok := strings.CutSuffix(name, noteSuffix)
	return base + ".log", ok
}

const (
	noteSuffix = ".expired"
	sentSuffix = ".sent"

	// MaxNote bounds a note, in bytes.
	MaxNote = 500
)

// Exactly reads size bytes from r. If there are fewer the error is none of io's, lest it be taken for
// an end; nor is it if r fails with one. What is behind them is not read. A size below 0 is an error.
func Exactly(r io.Reader, size int64) io.Reader { return &exactly{r, size, size} }

type exactly struct {
	r          io.Reader
	size, left int64
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	if e.left < 0 {
		return 0, fmt.Errorf("an output of %d bytes", e.size)
	}
	n, err := e.r.Read(p[:min(int64(len(p)), e.left)])
	e.left -= int64(n)
	switch {
	case err == nil || e.left == 0:
		return n, nil
	case err == io.EOF:
		return n, fmt.Errorf("the output ended after %d of %d bytes", e.size-e.left, e.size)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return n, errors.New(err.Error())
	}
	return n, err
}
