// Package output keeps the complete output of commands.
//
// It gives Store, where commands write it, Dir, a Store in a directory, Central, where it is
// brought when it has ended, and the few ways to look at what is kept: head, tail, last lines. It promises that a
// reference can never name anything outside the store, that what was
// written is never changed, only continued, that readers in other processes see output
// while it is being written, and that what is removed leaves a note behind. It refuses to know commands, secrets and history:
// what it is given it keeps as it is.
package output

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Store keeps outputs by reference. Its methods may be called from several
// goroutines and processes; one output has one writer at a time.
type Store interface {
	// Append opens the output for writing at its end, creating it.
	Append(ref string) (Writer, error)

	// Open opens the output for reading from its beginning. At its end, reading
	// returns io.EOF, and later more if the output has grown. The error
	// wraps fs.ErrNotExist if there is no such output; it is an *ExpiredError if there was one.
	Open(ref string) (Reader, error)

	// Size returns the number of bytes kept so far; an error as Open.
	Size(ref string) (int64, error)
}

// Writer continues one output. Sync returns when what was written survives a crash.
type Writer interface {
	io.WriteCloser
	Sync() error
}

// Reader reads one output, at any place.
type Reader interface {
	io.ReadSeekCloser
	io.ReaderAt
}

// Ref returns the reference of what target wrote for a step of an execution:
// "<execution>/<step>/<target>.log". Each part is made safe for a file name, and
// different parts stay different.
func Ref(execution, step, target string) string {
	return path.Join(segment(execution), segment(step), segment(target)+".log")
}

// maxSegment keeps names below what file systems take (255 bytes), with room for ".log".
const (
	maxSegment = 200
	maxName    = maxSegment + len(".log")
)

func segment(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-', c == '@', c == '#', c == '[', c == ']', c == '=', c == '+', c == ',':
			b.WriteByte(c)
		case c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	name := b.String()
	if name == "" {
		return "%"
	}
	if len(name) > maxSegment {
		h := fnv.New64a()
		h.Write([]byte(s))
		name = fmt.Sprintf("%s%%%016x", name[:maxSegment-17], h.Sum64())
	}
	return name
}

// Dir is a Store in the directory of that name, which is created when needed.
// Directories have mode 0700, files 0600.
type Dir string

// file returns the file of ref, or an error if ref is none of Ref's.
func (d Dir) file(ref string) (string, error) {
	if d == "" {
		return "", errors.New("output store: no directory is set")
	}
	if err := Check(ref); err != nil {
		return "", err
	}
	return filepath.Join(string(d), filepath.FromSlash(ref)), nil
}

// Check says what is wrong with a reference, if anything is: it is as Ref makes them.
func Check(ref string) error {
	parts := strings.Split(ref, "/")
	if len(parts) != 3 || !strings.HasSuffix(ref, ".log") {
		return fmt.Errorf("output %q: not a reference to an output", ref)
	}
	for _, p := range parts {
		if p == "" || len(p) > maxName || p[0] == '.' || strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == '\\' || r >= 0x7f }) {
			return fmt.Errorf("output %q: not a reference to an output", ref)
		}
	}
	return nil
}

// Append implements Store.
func (d Dir) Append(ref string) (Writer, error) {
	name, err := d.file(ref)
	if err != nil {
		return nil, err
	}
	// Whoever removes what is old may take the file, or its empty directory, away in between.
	for range 100 {
		var f *os.File
		if err = os.MkdirAll(filepath.Dir(name), 0o700); err == nil {
			f, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			break
		}
		// Says that it is being written, for as long as this process writes it.
		// Shared, and waiting: only who looks whether it is locked is in the way, for a moment.
		for unix.Flock(int(f.Fd()), unix.LOCK_SH) == unix.EINTR {
		}
		if is(f, name) {
			return file{f}, nil
		}
		err = fmt.Errorf("output %s: removed as soon as it was opened", ref)
		_ = f.Close()
	}
	return nil, fmt.Errorf("output store: %w", err)
}

// is tells whether f is still the file of that name.
func is(f *os.File, name string) bool {
	have, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(name)
	return err == nil && os.SameFile(have, there)
}

// file is an output that is being written.
type file struct{ *os.File }

// Sync implements Writer. The output's name has to survive a crash too, and those of its
// directories; a command that only begins does not wait for that.
func (f file) Sync() error {
	if err := f.File.Sync(); err != nil {
		return err
	}
	for dir, i := filepath.Dir(f.Name()), 0; i < 3; dir, i = filepath.Dir(dir), i+1 {
		if err := syncDir(dir); err != nil {
			return fmt.Errorf("output store: %w", err)
		}
	}
	return nil
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Open implements Store.
func (d Dir) Open(ref string) (Reader, error) {
	name, err := d.file(ref)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, d.none(ref)
	}
	if err != nil {
		return nil, fmt.Errorf("output store: %w", err)
	}
	return f, nil
}

// looking is held by who looks whether an output is being written: two at once would take each other for a writer.
var looking sync.Mutex

// Growing tells whether somebody writes the output at the moment.
func (d Dir) Growing(ref string) bool {
	name, err := d.file(ref)
	if err != nil {
		return false
	}
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	looking.Lock()
	defer looking.Unlock()
	held := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == unix.EWOULDBLOCK
	if !held {
		_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
	}
	return held
}

// Size implements Store.
func (d Dir) Size(ref string) (int64, error) {
	name, err := d.file(ref)
	if err != nil {
		return 0, err
	}
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, d.none(ref)
	}
	if err != nil {
		return 0, fmt.Errorf("output store: %w", err)
	}
	return info.Size(), nil
}

// LastLines returns at most lines lines, and at most limit bytes, from the end
// of what r holds from offset from on, as valid UTF-8 without the last newline.
func LastLines(r Reader, from int64, lines, limit int) (string, error) {
	size, err := r.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	begin := max(from, size-int64(limit))
	if begin >= size {
		return "", nil
	}
	b := make([]byte, size-begin)
	n, err := r.ReadAt(b, begin)
	if err != nil && err != io.EOF {
		return "", err
	}
	text := strings.TrimRight(Text(b[:n]), "\n")
	for i := len(text); lines > 0; lines-- {
		i = strings.LastIndexByte(text[:i], '\n')
		if i < 0 {
			return text, nil
		}
		if lines == 1 {
			return text[i+1:], nil
		}
	}
	return "", nil
}

// Text returns b as valid UTF-8: what is not (a character cut in two, binary
// data) becomes U+FFFD, and NUL too, which JSON columns and terminals do not take.
func Text(b []byte) string {
	for i := 0; i < 3 && len(b) > 0 && !utf8.RuneStart(b[0]); i++ {
		b = b[1:] // the rest of a character whose beginning was cut off
	}
	return strings.ReplaceAll(strings.ToValidUTF8(string(b), "\uFFFD"), "\x00", "\uFFFD")
}

// Excerpt keeps the beginning and the end of a stream in bounded memory. The
// zero Excerpt keeps nothing: set Head and Tail first. Not for several goroutines.
type Excerpt struct {
	Head, Tail int // bytes to keep of each

	head, tail []byte
	size       int64
}

// Write implements io.Writer; it never fails.
func (e *Excerpt) Write(p []byte) (int, error) {
	n := len(p)
	e.size += int64(n)
	if room := e.Head - len(e.head); room > 0 {
		take := min(room, len(p))
		e.head, p = append(e.head, p[:take]...), p[take:]
	}
	if len(p) > e.Tail {
		p = p[len(p)-e.Tail:]
	}
	e.tail = append(e.tail, p...)
	// Cut now and then only: a copy for every short line would cost more than the lines.
	if len(e.tail) > 2*e.Tail {
		e.tail = append(e.tail[:0], e.tail[len(e.tail)-e.Tail:]...)
	}
	return n, nil
}

// Size returns how many bytes were written.
func (e *Excerpt) Size() int64 { return e.size }

// Text returns what was kept as valid UTF-8, with a line that says how much was
// left out if anything was.
func (e *Excerpt) Text() string {
	tail := e.tail
	if len(tail) > e.Tail {
		tail = tail[len(tail)-e.Tail:]
	}
	left := e.size - int64(len(e.head)) - int64(len(tail))
	if left == 0 {
		return Text(append(append([]byte(nil), e.head...), tail...))
	}
	head := strings.TrimSuffix(Text(e.head), "\uFFFD")
	return fmt.Sprintf("%s\n… %d bytes left out …\n%s", head, left, Text(tail))
}
