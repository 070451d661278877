package node

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/internal/output"
)

// A node whose clock is wrong removes nothing by it: it would take all for old. Once the clock is right it does.
func TestExpireWhileClockIsWrong(t *testing.T) {
	dir := t.TempDir()
	o := Options{ID: "web-1", StateDir: dir, OutputDir: filepath.Join(dir, "output"), Outputs: UsualOutputs, Logger: slog.New(slog.DiscardHandler)}
	ref := output.Ref("x", "s", "web-1")
	w, err := output.Dir(o.OutputDir).Append(ref)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	synctest.Test(t, func(t *testing.T) {
		old := time.Now().Add(-31 * 24 * time.Hour)
		if err := os.Chtimes(filepath.Join(o.OutputDir, ref), old, old); err != nil {
			t.Fatal(err)
		}
		r := &registrar{o: o}
		r.wrong.Store(true)
		go expire(t.Context(), o, host.Node{ID: o.ID, StateDir: dir}, r)
		time.Sleep(2 * time.Hour)
		if _, err := output.Dir(o.OutputDir).Size(ref); err != nil {
			t.Error(err)
		}
		r.wrong.Store(false)
		time.Sleep(2 * time.Hour)
		if _, err := output.Dir(o.OutputDir).Size(ref); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it stays: %v", err)
		}
	})
}
