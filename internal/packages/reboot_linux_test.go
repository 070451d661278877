package packages

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestBootTime(t *testing.T) {
	if got := bootTime("cpu 1 2\nbtime 1700000000\nprocesses 1\n"); got.Unix() != 1700000000 {
		t.Error(got)
	}
	kernel := filepath.Join(t.TempDir(), "vmlinuz-6.1")
	if err := errors.Join(os.WriteFile(kernel, nil, 0o644), os.Chtimes(kernel, time.Unix(0, 0), time.Unix(0, 0))); err != nil {
		t.Fatal(err)
	}
	if !newer([]string{kernel}, time.Now().Add(-time.Hour)) || newer([]string{kernel}, time.Now().Add(time.Hour)) || newer([]string{kernel}, time.Time{}) || newer([]string{"/none"}, time.Unix(0, 0)) {
		t.Error("a kernel is newer than a start of the machine before it, and than no other")
	}
}
