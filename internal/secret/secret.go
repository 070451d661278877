// Package secret turns references to secrets into their values, and takes the
// values out of text again.
//
// It gives Resolve for the references "env:NAME" and "file:/path", and Masker,
// which replaces values in strings, in JSON-like data and in streams. It
// promises that no error holds a value, and that a value is found again in the
// forms programs commonly print it in. It refuses to know who asks: whoever
// resolves must mask what it sends out.
package secret

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// MaxSize bounds the value of one secret, in bytes.
const MaxSize = 1 << 20

// unset is fs.ErrNotExist without its words, which are those of files.
type unset struct{}

func (unset) Error() string {
	return "not set in the environment of the agent or worker that runs the step"
}
func (unset) Unwrap() error { return os.ErrNotExist }

// The reasons why a reference cannot be resolved, beside fs.ErrNotExist and
// fs.ErrPermission.
var (
	ErrReference = errors.New("not a reference to a secret")
	ErrNotHere   = errors.New("this kind of reference cannot be resolved here")
)

// Resolve returns the value that ref names, read at this moment: "env:NAME" is
// a variable of this process's environment, "file:/path" a regular file, without one
// trailing newline. The error wraps fs.ErrNotExist, fs.ErrPermission,
// ErrReference or ErrNotHere, and never holds a value.
func Resolve(_ context.Context, ref string) (string, error) {
	scheme, name, ok := strings.Cut(ref, ":")
	if !ok || name == "" {
		// The text may be a value that somebody wrote in the place of a reference.
		return "", fmt.Errorf("%w: want env:NAME or file:/path", ErrReference)
	}
	switch scheme {
	case "env":
		// What the process itself connects with is not for runbooks.
		if ownSetting(name) {
			return "", fmt.Errorf("secret %s: %w: the process's own settings", ref, os.ErrPermission)
		}
		value, ok := os.LookupEnv(name)
		if !ok {
			return "", fmt.Errorf("secret %s: %w", ref, unset{})
		}
		if len(value) > MaxSize {
			return "", fmt.Errorf("secret %s: more than %d bytes", ref, MaxSize)
		}
		return value, nil
	case "file":
		value, err := readFile(name)
		if err != nil {
			return "", fmt.Errorf("secret %s: %w", ref, err)
		}
		return value, nil
	case "ssm", "secretsmanager":
		return "", fmt.Errorf("secret %s: %w; env: and file: can", ref, ErrNotHere)
	}
	return "", fmt.Errorf("%w: want env:NAME or file:/path", ErrReference)
}

// ownSetting tells whether a variable is one that our programs themselves connect, sign or encrypt with.
func ownSetting(name string) bool {
	switch name {
	case "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN", "PGPASSWORD":
		return true
	}
	return strings.HasPrefix(name, "TEMPORAL_") || strings.HasPrefix(name, "ALMANAC_") || strings.HasPrefix(name, "OTEL_")
}

func readFile(name string) (string, error) {
	if !strings.HasPrefix(name, "/") {
		return "", fmt.Errorf("%w: the path is not absolute", ErrReference)
	}
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		return "", reason(err)
	}
	// There stand this and other processes' environments, which env: keeps back.
	if strings.HasPrefix(real, "/proc/") || strings.HasPrefix(real, "/sys/") {
		return "", fmt.Errorf("%w: what the kernel tells of processes is no secret", os.ErrPermission)
	}
	// Opening a pipe or a device could block or have effects: look first.
	info, err := os.Lstat(real)
	if err != nil {
		return "", reason(err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%w: not a regular file", ErrReference)
	}
	f, err := os.OpenFile(real, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", reason(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return "", reason(err)
	}
	if len(b) > MaxSize {
		return "", fmt.Errorf("more than %d bytes", MaxSize)
	}
	s := strings.TrimSuffix(string(b), "\n")
	return strings.TrimSuffix(s, "\r"), nil
}

// reason is what a file's error says beside the path, which the reference has.
func reason(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}
