package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/internal/output"
)

// farNode answers as a node does whose output directory is elsewhere, and as the control worker.
type farNode struct {
	t       *testing.T
	node    host.Node
	central output.Dir // of the control worker; empty: there is no central store
	down    bool
	asked   int // the node
}

func (n *farNode) ask(ctx context.Context, activity, node string, in, out any) error {
	at := n.node
	if node == "" {
		if n.central == "" {
			return &refusal{string(action.NotFound), "the output is on its node"}
		}
		at.OutputDir = string(n.central)
	} else {
		n.asked++
	}
	if node != "" && (n.down || node != n.node.ID) {
		return fmt.Errorf("node %s does not answer", node)
	}
	raw, err := json.Marshal(in)
	if err != nil {
		return err
	}
	if activity != host.OutputRead {
		return fmt.Errorf("asked for %s", activity)
	}
	answer, err := host.ReadOutput(at).Do(ctx, raw)
	if err != nil {
		return &refusal{string(action.KindOf(err)), err.Error()}
	}
	if raw, err = json.Marshal(answer); err != nil {
		return err
	}
	return json.Unmarshal(raw, out)
}

// What a node keeps to itself is read there: all of it, its last lines with few questions, and what comes later.
func TestFarOutput(t *testing.T) {
	n := &farNode{t: t, node: host.Node{ID: "far-1", OutputDir: t.TempDir()}}
	here, there := output.Dir(t.TempDir()), output.Dir(n.node.OutputDir)
	ref := output.Ref("x", "step", "far-1")
	text := strings.Repeat("a line with an ä in it\n", 40_000)
	write(t, there, ref, text)
	far := &farOutputs{ask: n.ask, ctx: t.Context(), last: true, failed: map[string]farFailure{}, none: map[string]farFailure{}}
	read := func(tail int) string {
		t.Helper()
		var b strings.Builder
		a := &app{stdout: &b}
		r := &logReader{logRef: logRef{step: "step", target: "far-1", ref: ref}}
		if err := r.open(a.opener(here, far), tail); err != nil {
			t.Fatal(err)
		}
		defer r.close()
		if err := r.print(a, false, true); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if got := read(-1); got != text {
		t.Errorf("%d bytes, want %d", len(got), len(text))
	}
	if most := len(text)/host.MaxOutputRead + 2; n.asked > most {
		t.Errorf("asked %d times for %d bytes, want at most %d", n.asked, len(text), most)
	}
	n.asked = 0
	if got := read(3); got != strings.Repeat("a line with an ä in it\n", 3) || n.asked > 3 {
		t.Errorf("the last lines, after %d questions: %q", n.asked, got)
	}

	// Followed, it is asked now and then, and once more at the end.
	far.last = false
	w, err := there.Append(ref)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	a := &app{stdout: &b}
	r := &logReader{logRef: logRef{step: "step", target: "far-1", ref: ref}}
	if err := r.open(a.opener(here, far), 0); err != nil {
		t.Fatal(err)
	}
	n.asked = 0
	for i := range 20 {
		if i == 10 {
			if _, err := io.WriteString(w, "late\n"); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.print(a, false, false); err != nil {
			t.Fatal(err)
		}
	}
	if n.asked > 2 {
		t.Errorf("asked %d times in a moment", n.asked)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	far.last = true
	if err := r.print(a, false, true); err != nil || b.String() != "late\n" {
		t.Errorf("%v, %q", err, b.String())
	}
}

// A node that is away does not hold up the others, and is named at the end.
func TestFarOutputOfNodeThatIsAway(t *testing.T) {
	n := &farNode{t: t, node: host.Node{ID: "far-1", OutputDir: t.TempDir()}, down: true}
	far := &farOutputs{ask: n.ask, ctx: t.Context(), last: true, most: 2, failed: map[string]farFailure{}, none: map[string]farFailure{}}
	for i := range 3 {
		_, err := far.open(logRef{step: "s", target: "far-1", ref: output.Ref("x", fmt.Sprint("s", i), "far-1")})
		if !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
	if n.asked != 1 || !strings.Contains(far.why(), "far-1: node far-1 does not answer") {
		t.Errorf("asked %d times; %s", n.asked, far.why())
	}
	n.down, far.last = false, false
	ref := output.Ref("x", "s", "far-1")
	write(t, output.Dir(n.node.OutputDir), ref, "first\n")
	far.failed["far-1"] = farFailure{errors.New("away"), time.Now().Add(-deafFor)}
	r, err := far.open(logRef{step: "s", target: "far-1", ref: ref})
	if err != nil {
		t.Fatal(err)
	}
	n.down = true
	if b, err := io.ReadAll(r); string(b) != "first\n" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	far.last = true
	if _, err := io.ReadAll(r); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("the rest: %v", err)
	}
	// Only so many without a --target.
	for i := range 3 {
		_, _ = far.open(logRef{step: "s", target: fmt.Sprint("n", i), ref: output.Ref("x", "s", fmt.Sprint("n", i))})
	}
	if !strings.Contains(far.why(), "--target") {
		t.Error(far.why())
	}
}

// What the central store has is read there, also when its node is gone; what still grows, on the node; and when the node goes
// in the middle, the rest in the central store.
func TestCentralOutput(t *testing.T) {
	n := &farNode{t: t, node: host.Node{ID: "far-1", OutputDir: t.TempDir()}, central: output.Dir(t.TempDir()), down: true}
	far := &farOutputs{ask: n.ask, ctx: t.Context(), failed: map[string]farFailure{}, none: map[string]farFailure{}}
	sent, growing := output.Ref("x", "sent", "far-1"), output.Ref("x", "growing", "far-1")
	write(t, n.central, sent, "it was sent\n")
	r, err := far.open(logRef{step: "sent", target: "far-1", ref: sent})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); string(b) != "it was sent\n" || err != nil || n.asked > 0 {
		t.Errorf("%q, %v; the node was asked %d times", b, err, n.asked)
	}
	n.down = false
	write(t, output.Dir(n.node.OutputDir), growing, "first\n")
	if r, err = far.open(logRef{step: "growing", target: "far-1", ref: growing}); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); string(b) != "first\n" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	write(t, n.central, growing, "first\nsecond\n")
	n.down, far.last = true, true
	if b, err := io.ReadAll(r); string(b) != "second\n" || err != nil {
		t.Errorf("after its node went: %q, %v", b, err)
	}
}

// An output that was removed says so, wherever that was, and its node is asked for others.
func TestExpiredOutput(t *testing.T) {
	const note = "expired on 2026-11-20 (kept for 30d)"
	for _, where := range []string{"here", "central", "node"} {
		n := &farNode{t: t, node: host.Node{ID: "far-1", OutputDir: t.TempDir()}, central: output.Dir(t.TempDir())}
		here := output.Dir(t.TempDir())
		dir := map[string]output.Dir{"here": here, "central": n.central, "node": output.Dir(n.node.OutputDir)}[where]
		ref, other := output.Ref("x", "old", "far-1"), output.Ref("x", "new", "far-1")
		write(t, dir, ref, "old\n")
		write(t, output.Dir(n.node.OutputDir), other, "new\n")
		if err := dir.Own(nil).Expire(t.Context(), ref, note); err != nil {
			t.Fatal(err)
		}
		far := &farOutputs{ask: n.ask, ctx: t.Context(), last: true, failed: map[string]farFailure{}, none: map[string]farFailure{}}
		open := (&app{}).opener(here, far)
		if _, err := open(logRef{step: "old", target: "far-1", ref: ref}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", where, err)
		}
		if why := far.why(); !strings.Contains(why, "far-1: output x/old/far-1.log "+note) {
			t.Errorf("%s: %s", where, why)
		}
		if _, err := open(logRef{step: "new", target: "far-1", ref: other}); err != nil {
			t.Errorf("%s: the other output: %v", where, err)
		}
	}
}

// Of a step that is tried again the central store has what the first attempt wrote: what comes now is read on the node, also by
// who has begun to read before, and without its node there is still the beginning.
func TestCentralOutputOfAnotherAttempt(t *testing.T) {
	n := &farNode{t: t, node: host.Node{ID: "far-1", OutputDir: t.TempDir()}, central: output.Dir(t.TempDir())}
	ref := output.Ref("x", "retried", "far-1")
	write(t, n.central, ref, "first\n")
	write(t, output.Dir(n.node.OutputDir), ref, "first\n")
	for _, began := range []bool{false, true} {
		far := &farOutputs{ask: n.ask, ctx: t.Context(), running: map[string]bool{}, failed: map[string]farFailure{}, none: map[string]farFailure{}}
		far.running[ref] = !began
		r, err := far.open(logRef{step: "retried", target: "far-1", ref: ref})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if string(got) != strings.Repeat("first\n", len(got)/6) || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		write(t, output.Dir(n.node.OutputDir), ref, "second\n")
		far.running[ref] = true
		r.(*farOutput).next = time.Time{}
		rest, err := io.ReadAll(r)
		if err != nil || !strings.HasSuffix(string(got)+string(rest), "second\n") {
			t.Errorf("began before: %t: %q, then %q, %v", began, got, rest, err)
		}
	}
	n.down = true
	far := &farOutputs{ask: n.ask, ctx: t.Context(), last: true, running: map[string]bool{ref: true}, failed: map[string]farFailure{}, none: map[string]farFailure{}}
	r, err := far.open(logRef{step: "retried", target: "far-1", ref: ref})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); string(b) != "first\n" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

// An output that two sources name is one, and is running if one of them says so.
func TestUniqueOutputs(t *testing.T) {
	a := logRef{step: "s", target: "n", ref: "x/s/n.log"}
	running := a
	running.running = true
	if got := unique([]logRef{a, running}); len(got) != 1 || got[0] != running {
		t.Errorf("%+v", got)
	}
}

// A node that says it has more than it has, or less than nothing, ends no starter's day.
func TestFarOutputOfImpossibleSize(t *testing.T) {
	ref := output.Ref("x", "s", "far-1")
	for _, size := range []int64{-1, 1 << 20, 1 << 62} {
		asked := 0
		ask := func(_ context.Context, _, node string, in, out any) error {
			if node == "" {
				return &refusal{string(action.NotFound), "the output is on its node"}
			}
			if asked++; asked > 20 {
				return errors.New("asked for ever")
			}
			got := out.(*host.OutputReadOutput)
			*got = host.OutputReadOutput{Offset: in.(host.OutputReadInput).Offset, Size: size, Ended: true}
			if got.Offset == 0 {
				got.Data = "one\ntwo\n"
			}
			return nil
		}
		for _, tail := range []int{-1, 1} {
			asked = 0
			far := &farOutputs{ask: ask, ctx: t.Context(), last: true, failed: map[string]farFailure{}, none: map[string]farFailure{}}
			var b strings.Builder
			a := &app{stdout: &b}
			r := &logReader{logRef: logRef{step: "s", target: "far-1", ref: ref}}
			err := r.open(a.opener(output.Dir(t.TempDir()), far), tail)
			if err == nil {
				err = r.print(a, false, true)
				r.close()
			}
			if err != nil {
				t.Errorf("size %d, last lines %d: %v", size, tail, err)
			}
		}
	}
}
