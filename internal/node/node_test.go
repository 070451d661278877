package node

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.temporal.io/sdk/client"
)

func TestOptions(t *testing.T) {
	c, err := client.NewLazyClient(client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	if err := errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o770)); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		o    Options
		says string // empty: accepted
	}{
		{Options{Client: c, ID: "web-1.example_com", StateDir: filepath.Join(dir, "a", "b")}, ""},
		{Options{Client: c, ID: "web-1", StateDir: dir, Root: dir}, ""},
		{Options{Client: c, ID: "", StateDir: dir}, "node id"},
		{Options{Client: c, ID: "a/b", StateDir: dir}, "node id"},
		{Options{Client: c, ID: "-a", StateDir: dir}, "node id"},
		{Options{Client: c, ID: strings.Repeat("a", 129), StateDir: dir}, "node id"},
		{Options{Client: c, ID: "web-1"}, "required"},
		{Options{ID: "web-1", StateDir: dir}, "required"},
		{Options{Client: c, ID: "web-1", StateDir: dir, Root: filepath.Join(dir, "none")}, "root directory"},
		{Options{Client: c, ID: "web-1", StateDir: "/dev/null/x"}, "state directory"},
		{Options{Client: c, ID: "web-1", StateDir: open}, "others can write in the state directory"},
	}
	for _, tt := range tests {
		tt.o.Logger = slog.New(slog.DiscardHandler)
		err := tt.o.complete()
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%+v: %v, want %q", tt.o, err, tt.says)
		}
	}
}
