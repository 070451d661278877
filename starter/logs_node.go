package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/internal/output"
	"github.com/almanac-run/almanac/workflows"
)

// Output that is not in the directory here is in the central store or on the node that wrote it, and is
// read there by questions to the control worker or the node, each of which is a short workflow: in large parts,
// and less often while nothing comes.
const (
	mostFar    = 20 // outputs that are read on their nodes unless one target is named
	firstPause = time.Second
	mostPause  = 5 * time.Second
	deafFor    = 30 * time.Second // a node that has not answered is not asked again
)

// farOutputs reads outputs from the central store, or on their nodes.
type farOutputs struct {
	ask  func(ctx context.Context, activity, node string, in, out any) error
	ctx  context.Context
	most int  // outputs; 0: any number
	last bool // all that is there is wanted now; nothing comes after
	refs []string
	// running holds what is being written: of an earlier attempt's output the central store may have a part.
	running map[string]bool
	failed  map[string]farFailure // by node that does not answer
	none    map[string]farFailure // by reference: it is not where it was looked for, with the reason
}

type farFailure struct {
	err error
	at  time.Time
}

func newFarOutputs(ctx context.Context, s *server, f logFilter) *farOutputs {
	far := &farOutputs{ctx: ctx, ask: s.ask, most: mostFar, running: map[string]bool{}, failed: map[string]farFailure{}, none: map[string]farFailure{}}
	if f.target != "" {
		far.most = 0
	}
	return far
}

// open returns the output as the central store or its node has it. The error wraps fs.ErrNotExist if it cannot be had there.
func (f *farOutputs) open(l logRef) (output.Reader, error) {
	none := fmt.Errorf("output %s: %w", l.ref, fs.ErrNotExist)
	if l.target == "" || f.deaf(f.failed[l.target]) || f.deaf(f.none[l.ref]) {
		return nil, none
	}
	if !slices.Contains(f.refs, l.ref) {
		if f.most > 0 && len(f.refs) >= f.most {
			return nil, none
		}
		f.refs = append(f.refs, l.ref)
	}
	r := &farOutput{far: f, logRef: l}
	if err := r.fetch(0); err != nil {
		f.note(l, err)
		return nil, none
	}
	return r, nil
}

// deaf tells whether what has failed is not to be tried again yet.
func (f *farOutputs) deaf(failure farFailure) bool {
	return failure.err != nil && (f.last || time.Since(failure.at) < deafFor)
}

// note remembers that an output cannot be had. A node that does not answer is not asked for others.
func (f *farOutputs) note(l logRef, err error) {
	var no *refusal
	if !errors.As(err, &no) {
		f.failed[l.target] = farFailure{err, time.Now()}
		return
	}
	at := time.Now()
	if no.kind == string(action.NotFound) {
		at = at.Add(mostPause - deafFor) // it is about to be written
	}
	f.none[l.ref] = farFailure{err, at}
}

// why says, behind an error, what kept outputs from being read on their nodes.
func (f *farOutputs) why() string {
	var b strings.Builder
	for _, node := range slices.Sorted(maps.Keys(f.failed)) {
		fmt.Fprintf(&b, "\n  %s: %v", node, f.failed[node].err)
	}
	for _, ref := range slices.Sorted(maps.Keys(f.none)) {
		fmt.Fprintf(&b, "\n  %s: %v", ofRef(ref).target, f.none[ref].err)
	}
	if f.most > 0 && len(f.refs) >= f.most {
		fmt.Fprintf(&b, "\n  %d outputs were looked for on their nodes; for another, name it with --target", f.most)
	}
	return b.String()
}

// farOutput is one output in the central store or on its node. It keeps one part of it.
type farOutput struct {
	logRef
	far   *farOutputs
	there bool  // it was read on its node
	at    int64 // of the next Read
	part  []byte
	begin int64 // of part
	size  int64 // as it was last seen
	ended bool  // nobody wrote it when it was last seen
	final bool  // it was last seen after everything had ended
	next  time.Time
	pause time.Duration
}

// fetch reads the part that begins at offset.
func (r *farOutput) fetch(offset int64) error {
	ctx, cancel := context.WithTimeout(r.far.ctx, askTimeout)
	defer cancel()
	out, err := r.read(ctx, host.OutputReadInput{Ref: r.ref, Offset: offset})
	if err != nil {
		return err
	}
	b, err := out.Bytes()
	if err != nil {
		return fmt.Errorf("node %s: output %s: %w", r.target, r.ref, err)
	}
	if out.Offset == offset {
		r.part, r.begin = b, offset
	}
	r.size, r.ended, r.final = max(out.Size, 0), out.Ended, r.far.last
	return nil
}

// read asks the control worker, which has what is in the central store and what ran through Systems Manager, and
// then the node: in the other order if it was there before or is being written, since it grows there.
func (r *farOutput) read(ctx context.Context, in host.OutputReadInput) (host.OutputReadOutput, error) {
	ask := func(node string) (out host.OutputReadOutput, err error) {
		return out, r.far.ask(ctx, workflows.ActionReadOutput, node, in, &out)
	}
	first, second := "", r.target
	nodeFirst := r.there || r.far.running[r.ref]
	if nodeFirst {
		first, second = second, first
	}
	out, err := ask(first)
	if err == nil {
		r.there = first != ""
		return out, nil
	}
	out, other := ask(second)
	if other == nil {
		r.there = second != ""
		return out, nil
	}
	// Of two reasons the node's is told, unless the central store had it once.
	central, node := err, other
	if nodeFirst {
		central, node = other, err
	}
	if strings.Contains(central.Error(), "expired on ") {
		return out, central
	}
	return out, node
}

// Read returns what comes next, and io.EOF while there is no more.
func (r *farOutput) Read(p []byte) (int, error) {
	if n := r.kept(p, r.at); n > 0 {
		r.at += int64(n)
		return n, nil
	}
	// What is known to be there is fetched at once. Else it is looked for now
	// and then, and once more at the end.
	behind := r.at < r.size
	if !behind && (r.final || !r.far.last && time.Now().Before(r.next)) {
		return 0, io.EOF
	}
	if err := r.fetch(r.at); err != nil {
		if r.far.last {
			return 0, fmt.Errorf("the rest of output %s: %w", r.ref, err)
		}
		r.pause = mostPause // its node may come back
		r.next = time.Now().Add(r.pause)
		return 0, io.EOF
	}
	n := r.kept(p, r.at)
	if r.pause = min(max(2*r.pause, firstPause), mostPause); n > 0 && !r.ended {
		r.pause = firstPause
	}
	r.next = time.Now().Add(r.pause)
	if n == 0 {
		return 0, io.EOF
	}
	r.at += int64(n)
	return n, nil
}

// kept copies what the part has from offset on.
func (r *farOutput) kept(p []byte, offset int64) int {
	if offset < r.begin || offset >= r.begin+int64(len(r.part)) {
		return 0
	}
	return copy(p, r.part[offset-r.begin:])
}

// ReadAt reads backwards cheaply too: what it fetches ends where p ends.
func (r *farOutput) ReadAt(p []byte, offset int64) (int, error) {
	for n := 0; n < len(p); {
		got := r.kept(p[n:], offset+int64(n))
		if got == 0 {
			from := offset + int64(n)
			if n == 0 {
				from = max(0, offset+int64(len(p))-host.MaxOutputRead)
			}
			if err := r.fetch(from); err != nil {
				return n, err
			}
			if got = r.kept(p[n:], offset+int64(n)); got == 0 {
				return n, io.EOF
			}
		}
		n += got
	}
	return len(p), nil
}

// Seek moves to where the next Read begins.
func (r *farOutput) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return r.at, errors.New("before the beginning")
	}
	r.at = offset
	return r.at, nil
}

// Close lets go of the part.
func (r *farOutput) Close() error {
	r.part = nil
	return nil
}

// running lists the outputs of commands that run: of those on nodes that keep
// their output to themselves only the execution's pending work knows.
func (s *server) running(ctx context.Context, id, target string) []logRef {
	d, err := s.describe(ctx, id)
	if err != nil {
		return nil // what else is known is shown
	}
	var all []logRef
	for _, p := range d.GetPendingActivities() {
		payloads := p.GetHeartbeatDetails()
		if len(payloads.GetPayloads()) == 0 {
			continue
		}
		var detail json.RawMessage
		if err := s.convert().FromPayloads(payloads, &detail); err != nil {
			continue // of another action
		}
		if ref := outputOf(detail); ref != "" {
			if l := ofRef(ref); target == "" || l.target == target {
				l.running = true
				all = append(all, l)
			}
		}
	}
	return all
}

// likely lists where the output of a target's steps would be, for steps of so
// many targets that the execution does not keep where each one's is.
func (s *server) likely(ctx context.Context, id, target string) []logRef {
	targets, err := s.targets(ctx, id)
	if err != nil {
		return nil
	}
	var all []logRef
	for _, t := range targets {
		if t.Target == target && (t.State == workflows.StateSucceeded || t.State == workflows.StateFailed || t.State == workflows.StateRunning) {
			all = append(all, logRef{step: t.Step, target: target, ref: cmp.Or(t.Ref, output.Ref(id, t.Step, target))})
		}
	}
	return all
}
