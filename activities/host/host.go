// Package host is what a runbook can do on a node.
//
// It gives Actions, the actions of the world "host", which a node's agent serves. It promises
// that a command runs at most once per token, that what is changed is
// backed up on the node before the change, and that a node with a root directory
// is left alone outside it. It refuses to know Temporal and other machines.
package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/inventory"
	"github.com/almanac-run/almanac/internal/journal"
	"github.com/almanac-run/almanac/internal/registry"
)

// Node is the machine that the actions work on.
type Node struct {
	ID      string
	Tags    map[string]string
	Version string // of the agent

	// Root, if not empty, is a directory that stands for the whole machine, as for
	// several nodes on one: file paths are taken below it, commands start in
	// it, and services are the scripts in its etc/init.d.
	Root string

	// StateDir keeps the journal and the backups. It belongs to one node, and
	// has to survive a restart.
	StateDir string

	// OutputDir keeps the complete output of commands; empty is "output" in StateDir.
	OutputDir string

	// Reboot asks the machine to restart, and returns before that happens. nil: as the machine does
	// it, and never for a node with a root directory.
	Reboot func(ctx context.Context) error

	// BootID differs after each restart of the machine. nil: the kernel's.
	BootID func() string

	// Report takes the facts of the node to the inventory. It returns an *inventory.MissingError if that
	// wants items of which only the digest was sent. nil: they stay here.
	Report func(ctx context.Context, facts inventory.Snapshot) error

	// Comply tells the registry what the node comes to against a baseline. nil: nobody is told.
	Comply func(ctx context.Context, c registry.Compliance) error

	// MaxOutput is how many bytes of one command's output are kept; 0 is 1 GiB.
	MaxOutput int64

	// Stopping is closed when the agent is about to end: commands then go on without it. nil: never.
	Stopping <-chan struct{}

	// ServerAway tells of a server that does not answer whether that is its own trouble: commands then go on, though nobody
	// asks for them. nil: never.
	ServerAway func() bool
}

// Actions returns the actions. A zero Node is enough for what they are, not for running them.
func Actions(n Node) []action.Action {
	if n.OutputDir == "" && n.StateDir != "" {
		n.OutputDir = filepath.Join(n.StateDir, "output")
	}
	return []action.Action{
		commandRun(n),
		fileWrite(n),
		fileRemove(n),
		serviceStart(n),
		serviceStop(n),
		serviceRestart(n),
		serviceReload(n),
		serviceEnable(n),
		serviceDisable(n),
		serviceStatus(n),
		nodeDescribe(n),
		inventoryCollect(n),
		patchScan(n),
		patchInstall(n),
	}
}

// Journal returns the node's journal.
func (n Node) Journal() journal.Journal {
	return journal.Journal(filepath.Join(n.StateDir, "journal"))
}

// entry returns the journal's entry of a call.
func (n Node) entry(c action.Call) (journal.Entry, error) {
	if n.StateDir == "" {
		return journal.Entry{}, action.Errorf(action.Internal, "this node has no state directory")
	}
	e, err := n.Journal().Entry(c.Token)
	return e, stateError(err)
}

// lock returns the entry of a call, and takes the lock under which it is changed.
func (n Node) lock(c action.Call) (journal.Entry, *journal.Lock, error) {
	e, err := n.entry(c)
	if err != nil {
		return e, nil, err
	}
	use, err := e.Lock(journal.LockUse)
	return e, use, stateError(err)
}

// stateError gives an error of the journal its kind: a disk that is full may
// have room again, and what the journal knows makes another attempt safe.
func stateError(err error) error {
	if err == nil {
		return nil
	}
	return &action.Error{Kind: action.Unavailable, Err: err}
}

// dir opens the directory that path is in, and returns it with path's last
// element. Symbolic links on the way are followed; they cannot lead out of the node's root.
func (n Node) dir(path string) (*os.Root, string, error) {
	if !filepath.IsAbs(path) {
		return nil, "", action.Errorf(action.Invalid, "path %q is not absolute", path)
	}
	if strings.ContainsRune(path, 0) || strings.HasSuffix(path, "/") {
		return nil, "", action.Errorf(action.Invalid, "path %q does not name a file", path)
	}
	clean := filepath.Clean(path)
	parent, base := filepath.Split(clean)
	if base == "" {
		return nil, "", action.Errorf(action.Invalid, "path %q does not name a file", path)
	}
	if n.Root == "" {
		root, err := os.OpenRoot(parent)
		return root, base, directoryError(parent, err)
	}
	top, err := os.OpenRoot(n.Root)
	if err != nil {
		return nil, "", fileError("the node's root", err)
	}
	defer top.Close()
	root, err := top.OpenRoot("." + parent)
	return root, base, directoryError(parent, err)
}

// directoryError is fileError for the directory that a file is to be in.
func directoryError(dir string, err error) error {
	dir = filepath.Clean(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return action.Errorf(action.NotFound, "there is no directory %s on the node", dir)
	}
	return fileError("directory "+dir, err)
}

// fileError gives an error of the file system its kind, and says what it was about.
func fileError(what string, err error) error {
	if err == nil {
		return nil
	}
	kind := action.Failed
	switch {
	case errors.Is(err, fs.ErrNotExist):
		kind = action.NotFound
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		kind = action.Denied
	case errors.Is(err, fs.ErrExist):
		kind = action.Conflict
	}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = fmt.Errorf("%s: %w", pathErr.Op, pathErr.Err)
	}
	return action.Errorf(kind, "%s: %w", what, err)
}
