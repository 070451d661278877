//go:build unix

package server

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// lockFile takes a lock that the kernel releases when the process ends, however it ends. Two servers on one file
// would each believe they own its executions.
func lockFile(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock database: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is in use by another server", strings.TrimSuffix(name, ".lock"))
		}
		return nil, fmt.Errorf("lock database: %w", err)
	}
	return f, nil
}
