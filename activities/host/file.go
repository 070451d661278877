package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"syscall"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/journal"
)

// What host.file.write and host.file.remove share: how a file is looked at,
// replaced, and put back.

// A change is what the journal keeps of one call. It is on the disk, with the
// backup, before the file is touched.
type change struct {
	Path   string `json:"path"`
	Phase  phase  `json:"phase"`
	Before file   `json:"before"`
	After  file   `json:"after"`
}

type phase string

const (
	prepared phase = "prepared" // the file may be either
	made     phase = "made"
	undone   phase = "undone"
)

const (
	changeFile = "file.json"
	backupFile = "file.backup"
)

// maxBackup bounds the copy that is kept of a file, in bytes.
const maxBackup = 1 << 30

// file is one regular file, or that there is none.
type file struct {
	Exists bool   `json:"exists"`
	Sum    string `json:"sum,omitempty"` // SHA-256 of the content
	Size   int64  `json:"size,omitempty"`
	Mode   uint32 `json:"mode,omitempty"` // permissions, setuid, setgid and sticky
	UID    int    `json:"uid,omitempty"`
	GID    int    `json:"gid,omitempty"`
}

// look describes the file base in dir, copying its content to w if w is not nil.
func look(dir *os.Root, base string, w io.Writer) (file, error) {
	info, err := dir.Lstat(base)
	if errors.Is(err, fs.ErrNotExist) {
		return file{}, nil
	}
	if err != nil {
		return file{}, fileError(base, err)
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		// Writing through it would change a file nobody named; replacing it would remove the link.
		to, _ := dir.Readlink(base)
		return file{}, action.Errorf(action.Invalid, "%s is a symbolic link (to %s); name the file itself", base, to)
	case !info.Mode().IsRegular():
		return file{}, action.Errorf(action.Invalid, "%s is not a regular file", base)
	case info.Size() > maxBackup:
		return file{}, action.Errorf(action.Invalid, "%s is %d bytes; a backup may have %d", base, info.Size(), maxBackup)
	}
	f, err := dir.OpenFile(base, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return file{}, fileError(base, err)
	}
	defer f.Close()
	if opened, err := f.Stat(); err != nil || !os.SameFile(info, opened) {
		return file{}, action.Errorf(action.Conflict, "%s was replaced by another file at this moment", base)
	}
	sum := sha256.New()
	to := io.Writer(sum)
	if w != nil {
		to = io.MultiWriter(sum, w)
	}
	// It may grow while it is read, or be one of the kernel's, whose size is 0.
	size, err := io.Copy(to, io.LimitReader(f, maxBackup+1))
	if err != nil {
		return file{}, fileError(base, err)
	}
	if size > maxBackup {
		return file{}, action.Errorf(action.Invalid, "%s is larger than the %d bytes that a backup may have", base, maxBackup)
	}
	st := file{Exists: true, Sum: hex.EncodeToString(sum.Sum(nil)), Size: size, Mode: modeBits(info.Mode())}
	st.UID, st.GID = ownerOf(info)
	return st, nil
}

func ownerOf(info fs.FileInfo) (uid, gid int) {
	sys := info.Sys().(*syscall.Stat_t) // of every file on a Unix
	return int(sys.Uid), int(sys.Gid)
}

func modeBits(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	for bit, flag := range modeFlags {
		if m&flag != 0 {
			bits |= bit
		}
	}
	return bits
}

func fileMode(bits uint32) fs.FileMode {
	m := fs.FileMode(bits & 0o777)
	for bit, flag := range modeFlags {
		if bits&bit != 0 {
			m |= flag
		}
	}
	return m
}

var modeFlags = map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky}

// tempName is the name under which a call's file is written, beside where it is to be.
func tempName(token string) string { return ".almanac-" + token }

// put makes base in dir the file want with that content, all at once: whoever
// looks sees the old file or the new one.
func put(dir *os.Root, base, token string, want file, content io.Reader) error {
	temp := tempName(token)
	dir.Remove(temp) // of an attempt that was killed
	f, err := dir.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fileError("write beside "+base, err)
	}
	defer dir.Remove(temp)
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, sum), content); err != nil {
		return fileError("write "+base, err)
	}
	if hex.EncodeToString(sum.Sum(nil)) != want.Sum {
		return action.Errorf(action.Conflict, "what %s was to become is damaged (a backup that was cut off?); it is left as it is", base)
	}
	made, err := f.Stat()
	if err != nil {
		return fileError("write "+base, err)
	}
	// The group may be the directory's (setgid).
	if uid, gid := ownerOf(made); want.UID != uid || want.GID != gid {
		if err := f.Chown(want.UID, want.GID); err != nil {
			return fileError(fmt.Sprintf("give %s to %d:%d", base, want.UID, want.GID), err)
		}
	}
	// After the owner: a change of owner takes setuid away.
	if err := f.Chmod(fileMode(want.Mode)); err != nil {
		return fileError("set the mode of "+base, err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fileError("write "+base, err)
	}
	if err := dir.Rename(temp, base); err != nil {
		return fileError("write "+base, err)
	}
	return syncRoot(dir)
}

// drop removes base from dir; that it is gone already is well.
func drop(dir *os.Root, base string) error {
	if err := dir.Remove(base); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fileError("remove "+base, err)
	}
	return syncRoot(dir)
}

func syncRoot(dir *os.Root) error {
	d, err := dir.Open(".")
	if err != nil {
		return fileError("directory", err)
	}
	defer d.Close()
	return fileError("directory", d.Sync())
}

// alter makes one change under the call's token: it backs up, changes, and
// remembers. want says what the file is to be, given what it is. It returns
// the change, also if an earlier attempt has made it.
func (n Node) alter(ctx context.Context, path string, want func(now file) (file, error), content func() io.Reader) (change, error) {
	call := action.FromContext(ctx)
	entry, use, err := n.lock(call)
	if err != nil {
		return change{}, err
	}
	defer use.Unlock()
	var c change
	switch err := entry.ReadJSON(changeFile, &c); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return c, stateError(err)
	case c.Phase == made:
		return c, nil
	case c.Phase == undone:
		return c, action.Errorf(action.Conflict, "this step was rolled back on this node already")
	}
	dir, base, err := n.dir(path)
	if err != nil {
		return c, err
	}
	defer dir.Close()
	now, err := look(dir, base, nil)
	if err != nil {
		return c, err
	}
	if c.Phase == prepared && now.same(c.After) {
		// An earlier attempt came so far, and was killed.
	} else if c, err = prepare(entry, dir, base, path, want); err != nil {
		return c, err
	}
	if c.After != c.Before {
		if c.After.Exists {
			err = put(dir, base, call.Token, c.After, content())
		} else {
			err = drop(dir, base)
		}
		if err != nil {
			return c, err
		}
	}
	c.Phase = made
	return c, stateError(entry.WriteJSON(changeFile, c))
}

// prepare writes the backup and the intention.
func prepare(entry journal.Entry, dir *os.Root, base, path string, want func(file) (file, error)) (change, error) {
	backup, err := os.OpenFile(entry.File(backupFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return change{}, fileError("backup", err)
	}
	defer backup.Close()
	c := change{Path: path, Phase: prepared}
	// One look: what is described is what is copied.
	if c.Before, err = look(dir, base, backup); err != nil {
		return c, err
	}
	if c.After, err = want(c.Before); err != nil {
		return c, err
	}
	if err := errors.Join(backup.Sync(), backup.Close()); err != nil {
		return c, fileError("backup", err)
	}
	return c, stateError(entry.WriteJSON(changeFile, c))
}

// same tells whether both are the same file as far as its content goes: who may
// read it can be changed by others without harm.
func (f file) same(g file) bool { return f.Exists == g.Exists && f.Sum == g.Sum }

// restore takes back what alter did under the call's token. changed is what the
// recorded output says, false if it is not known.
func (n Node) restore(ctx context.Context, path string, changed bool) error {
	call := action.FromContext(ctx)
	entry, use, err := n.lock(call)
	if err != nil {
		return err
	}
	defer use.Unlock()
	var c change
	switch err := entry.ReadJSON(changeFile, &c); {
	case errors.Is(err, fs.ErrNotExist) && !changed:
		// It was never begun, and is not to begin late.
		return stateError(entry.WriteJSON(changeFile, change{Path: path, Phase: undone}))
	case errors.Is(err, fs.ErrNotExist):
		return action.Errorf(action.NotFound, "the backup of %s is no longer on this node", path)
	case err != nil:
		return stateError(err)
	case c.Phase == undone:
		return nil
	case c.Before == c.After:
		c.Phase = undone
		return stateError(entry.WriteJSON(changeFile, c))
	}
	dir, base, err := n.dir(c.Path)
	if action.KindOf(err) == action.NotFound && !c.Before.Exists {
		return nil // with its directory, it is gone
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	dir.Remove(tempName(call.Token)) // of an attempt that was killed
	now, err := look(dir, base, nil)
	if err != nil {
		return err
	}
	switch {
	case now == c.Before:
	case !now.same(c.After) && !now.same(c.Before):
		return action.Errorf(action.Conflict, "%s was changed by somebody else since; it is left as it is, and what it was before is in %s", c.Path, entry.File(backupFile))
	case !c.Before.Exists:
		err = drop(dir, base)
	default:
		err = putBack(entry, dir, base, call.Token, c.Before)
	}
	if err != nil {
		return err
	}
	c.Phase = undone
	return stateError(entry.WriteJSON(changeFile, c))
}

func putBack(entry journal.Entry, dir *os.Root, base, token string, before file) error {
	backup, err := os.Open(entry.File(backupFile))
	if err != nil {
		return fileError("backup", err)
	}
	defer backup.Close()
	return put(dir, base, token, before, backup)
}

// parseMode reads "0644"; empty means that nothing was said.
func parseMode(text string) (mode uint32, ok bool, err error) {
	if text == "" {
		return 0, false, nil
	}
	m, err := strconv.ParseUint(text, 8, 32)
	if err != nil || m > 0o7777 {
		return 0, false, action.Errorf(action.Invalid, "mode %q is not octal like \"0644\"", text)
	}
	return uint32(m), true, nil
}
