package collect

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/almanac-run/almanac/internal/inventory"
)

// Limits of files.
const (
	MaxFiles     = 10_000    // that one pattern may match
	MaxLooked    = 200_000   // entries of directories that are read for one pattern
	MaxFileBytes = 64 << 20  // of a file whose hash is taken
	maxHashed    = 512 << 20 // of all files of one pattern whose hash is taken
)

// CheckPattern says what is wrong with a pattern.
func CheckPattern(pattern string) error {
	switch {
	case !path.IsAbs(pattern):
		return fmt.Errorf("pattern %q is not absolute", pattern)
	case len(pattern) > inventory.MaxKey || !doublestar.ValidatePattern(pattern) || text(pattern) != pattern:
		return fmt.Errorf("pattern %q is not of the form /etc/ssh/*.conf or /etc/**/*.d/*", text(pattern))
	case slices.Contains(strings.Split(pattern, "/"), ".."):
		return fmt.Errorf("pattern %q has a .. in it", pattern)
	}
	return nil
}

// Files finds what matches a pattern: *, ?, [a-z] and {a,b} within a name, ** for directories at any depth.
// Links are not followed by ** and are told as links.
func (m Machine) Files(ctx context.Context, pattern string) ([]inventory.Item, error) {
	if err := CheckPattern(pattern); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(m.file("/"))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	users, groups := m.userNames(), m.groupNames()
	looked := &counted{FS: root.FS(), ctx: ctx}
	var items []inventory.Item
	room := int64(maxHashed)
	each := func(name string, _ fs.DirEntry) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(items) == MaxFiles {
			return fmt.Errorf("it matches more than %d files", MaxFiles)
		}
		info, err := root.Lstat(name)
		if err != nil || len(name) >= inventory.MaxKey {
			return nil // gone meanwhile, or a link on the way leads out of the root
		}
		item, err := fileItem(root, name, info, users, groups, &room)
		items = append(items, item)
		return err
	}
	name := strings.TrimPrefix(path.Clean(pattern), "/")
	if strings.ContainsAny(name, `*?[{\`) {
		err = doublestar.GlobWalk(looked, name, each, doublestar.WithNoFollow())
	} else {
		err = each(cmp.Or(name, "."), nil)
	}
	if err == nil {
		err = looked.err
	}
	if err != nil {
		return nil, fmt.Errorf("file %s: %w", pattern, err)
	}
	return items, nil
}

// counted is a file system in which only so much is looked at.
type counted struct {
	fs.FS
	ctx context.Context
	n   int
	err error // why no more is looked at
}

// ReadDir reads a directory as long as there is room.
func (c *counted) ReadDir(name string) ([]fs.DirEntry, error) {
	if c.err == nil {
		c.err = c.ctx.Err()
	}
	if c.err != nil {
		return nil, c.err
	}
	entries, err := fs.ReadDir(c.FS, name)
	if c.n += len(entries); c.n > MaxLooked {
		c.err = fmt.Errorf("more than %d files would have to be looked at; use a narrower pattern", MaxLooked)
		return nil, c.err
	}
	return entries, err
}

// Stat saves doublestar from opening what it asks about.
func (c *counted) Stat(name string) (fs.FileInfo, error) { return fs.Stat(c.FS, name) }

func fileItem(root *os.Root, name string, info fs.FileInfo, users, groups map[int]string, room *int64) (inventory.Item, error) {
	mode := info.Mode()
	values := map[string]any{
		"mode": fmt.Sprintf("%04o", permissions(mode)), "type": fileType(mode), "modified": info.ModTime().UTC().Format(time.RFC3339),
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		values["uid"], values["gid"] = int(st.Uid), int(st.Gid)
		values["owner"] = nameOr(users, int(st.Uid))
		values["group"] = nameOr(groups, int(st.Gid))
	}
	switch {
	case mode.IsRegular():
		values["size"] = info.Size()
		sum, err := hash(root, name, room)
		if err != nil {
			return inventory.Item{}, err
		}
		if sum != "" {
			values["sha256"] = sum
		}
	case mode&fs.ModeSymlink != 0:
		if to, err := root.Readlink(name); err == nil {
			values["target"] = text(to)
		}
	}
	return inventory.Item{Kind: "file", Key: text(path.Join("/", name)), Values: values}, nil
}

// permissions are those that chmod takes: set-user-id and so on, too.
func permissions(mode fs.FileMode) uint32 {
	p := uint32(mode.Perm())
	for _, bit := range []struct {
		is  fs.FileMode
		bit uint32
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if mode&bit.is != 0 {
			p |= bit.bit
		}
	}
	return p
}

func fileType(mode fs.FileMode) string {
	switch {
	case mode.IsRegular():
		return "file"
	case mode.IsDir():
		return "directory"
	case mode&fs.ModeSymlink != 0:
		return "link"
	}
	return "other"
}

func nameOr(names map[int]string, id int) string {
	if name := names[id]; name != "" {
		return name
	}
	return strconv.Itoa(id)
}

// hash returns the SHA-256 of a file, or "" if it cannot be read or is larger than MaxFileBytes.
func hash(root *os.Root, name string, room *int64) (string, error) {
	// What was a file a moment ago may be a pipe now, and would be waited for.
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", nil
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > MaxFileBytes {
		return "", nil
	}
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, MaxFileBytes+1))
	if *room -= n; *room < 0 {
		return "", fmt.Errorf("the files have more than %d MiB; use a narrower pattern", maxHashed>>20)
	}
	if err != nil || n > MaxFileBytes {
		return "", nil
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func (m Machine) userNames() map[int]string  { return m.names("/etc/passwd") }
func (m Machine) groupNames() map[int]string { return m.names("/etc/group") }

// names reads who has a number. A file that is not there knows nobody.
func (m Machine) names(file string) map[int]string {
	names := map[int]string{}
	_ = lines(m.file(file), func(line string) {
		f := strings.Split(line, ":")
		if id, err := strconv.Atoi(at(f, 2)); err == nil && names[id] == "" {
			names[id] = f[0]
		}
	})
	return names
}
