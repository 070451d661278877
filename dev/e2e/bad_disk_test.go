package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/almanac-run/almanac/workflows"
)

// smallDisk is a file system of so many bytes, and of 200 files.
func smallDisk(t *testing.T, dir string, size int) {
	t.Helper()
	needsRoot(t, "a file system")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,nr_inodes=200,mode=700", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// fill takes all the space there is, until the returned function is called.
func fill(t *testing.T, dir string) (empty func()) {
	t.Helper()
	ballast := filepath.Join(dir, "ballast")
	err := os.Mkdir(ballast, 0o700)
	for i, block := 0, make([]byte, 1<<20); err == nil; i++ {
		err = os.WriteFile(filepath.Join(ballast, fmt.Sprint(i)), block, 0o600)
		if errors.Is(err, syscall.ENOSPC) && exists(filepath.Join(ballast, fmt.Sprint(i))) {
			err, block = nil, nil // it has taken what there was; now the files
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return func() {
		if err := os.RemoveAll(ballast); err != nil {
			t.Error(err)
		}
	}
}

// halves lists what writes that did not succeed have left in a journal.
func halves(t *testing.T, state string) (left []string) {
	t.Helper()
	err := filepath.WalkDir(state, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasPrefix(d.Name(), ".") {
			left = append(left, path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return left
}

// complaint is what the engine last heard of an execution's work.
func (b *badDays) complaint(id string) string {
	d, err := b.c.DescribeWorkflowExecution(context.Background(), id, "")
	if err != nil {
		return ""
	}
	for _, p := range d.GetPendingActivities() {
		if m := p.GetLastFailure().GetMessage(); m != "" {
			return m
		}
	}
	return ""
}

const diskRunbook = `
runbook: test/disk
on_failure: stop
inputs:
  dir: { type: string }
  node: { type: string }
steps:
  - id: work
    targets: [ "${{ inputs.node }}" ]
    env: { DIR: "${{ inputs.dir }}" }
    run: |
      echo ran >> "$DIR/effects"
      echo fine
`

// fullStateDisk fills the disk of an agent's state. It does not begin to serve
// there; when the disk fills later, a command waits, with the reason said, and
// runs once when there is space again. A command that fills the disk by itself has its end known.
func fullStateDisk(t *testing.T, b *badDays) {
	const id = "full-state"
	state := nodeDir(t, id)
	smallDisk(t, state, 1<<20)
	empty := fill(t, state)
	b.launch(t, nil, b.address, id, state).refused(20*time.Second, "no space left on device")
	empty()
	b.start(t, id, state)
	empty = fill(t, state)
	dir := t.TempDir()
	run := b.begin(t, id, diskRunbook, inputs("dir", dir, "node", id))
	eventually(t, 20*time.Second, "the reason is said", func() bool { return strings.Contains(b.complaint(id), "no space left on device") })
	if left := halves(t, state); len(left) > 0 || exists(dir+"/effects") {
		t.Errorf("left in the journal: %q; effects %q", left, text(dir+"/effects"))
	}
	empty()
	if r := ended(t, run); r.Outcome != workflows.Succeeded || text(dir+"/effects") != "ran\n" {
		t.Errorf("%s: %s; effects %q", r.Outcome, r.Message, text(dir+"/effects"))
	}
	r := ended(t, b.begin(t, id+"-self", `
runbook: test/fill
steps:
  - id: fill
    targets: [full-state]
    run: |
      head -c 3000000 /dev/zero | tr '\0' x
      exit 7
`, nil))
	if r.Outcome != workflows.Failed || r.Failure.Kind != "failed" || !strings.Contains(r.Message, "exit code 7") {
		t.Errorf("%s: %s: %+v", r.Outcome, r.Message, r.Failure)
	}
	nothingLeft(t, id, time.Second)
	if left := halves(t, state); len(left) > 0 {
		t.Errorf("left in the journal: %q", left)
	}
}

// fullOutputDisk fills the disk of the outputs only, before a command and
// during one: the first waits, and the second ends as it would have, with a word on what was lost.
func fullOutputDisk(t *testing.T, b *badDays) {
	const id = "full-output"
	outputs := filepath.Join(t.TempDir(), "outputs")
	smallDisk(t, outputs, 1<<20)
	b.start(t, id, nodeDir(t, id), "--output-dir", outputs)
	empty := fill(t, outputs)
	dir := t.TempDir()
	run := b.begin(t, id, diskRunbook, inputs("dir", dir, "node", id))
	eventually(t, 20*time.Second, "the reason is said", func() bool { return strings.Contains(b.complaint(id), "no space left on device") })
	if exists(dir + "/effects") {
		t.Error("the command has run")
	}
	empty()
	if r := ended(t, run); r.Outcome != workflows.Succeeded || text(dir+"/effects") != "ran\n" {
		t.Errorf("%s: %s; effects %q", r.Outcome, r.Message, text(dir+"/effects"))
	}
	r := ended(t, b.begin(t, id+"-during", `
runbook: test/during
steps:
  - id: fill
    targets: [full-output]
    run: |
      head -c 3000000 /dev/zero | tr '\0' x
      echo; echo all is well
outputs:
  said: ${{ steps.fill.stdout }}
`, nil))
	if said := string(r.Outputs["said"]); r.Outcome != workflows.Succeeded || !strings.Contains(said, "all is well") || !strings.Contains(said, "output could not be kept") || !strings.Contains(said, "no space left on device") {
		t.Errorf("%s: %s; it said …%s", r.Outcome, r.Message, said[max(0, len(said)-300):])
	}
	nothingLeft(t, id, time.Second)
}
