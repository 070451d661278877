// Package ship brings outputs from the directory in which commands write them to the central store.
//
// It gives Shipper, for an agent, which hands them to the control worker, and for the control worker
// itself. It promises that an output is brought there once it has ended, and again if it was
// continued; that it is tried again until it is there, however long that takes and through restarts; and that
// executions wait for none of this. It refuses to know how they are sent.
package ship

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"time"

	"github.com/almanac-run/almanac/internal/output"
)

// Shipper sends what is in Dir. Made by New.
type Shipper struct {
	dir  output.Dir
	mine func(ref string) bool
	send Send
	log  *slog.Logger
	due  chan struct{}
	on   bool // there was a central store when it was last asked
}

// Send takes outputs to the central store, and says what has become of them. Without outputs it says
// whether there is one.
type Send func(ctx context.Context, outputs []output.Kept) (output.KeepOutput, error)

// New returns a Shipper of those outputs in dir of which mine is true.
func New(dir output.Dir, mine func(ref string) bool, send Send, log *slog.Logger) *Shipper {
	return &Shipper{dir: dir, mine: mine, send: send, log: log, due: make(chan struct{}, 1)}
}

// Due says that an output may have ended. It returns at once.
func (s *Shipper) Due() {
	select {
	case s.due <- struct{}{}:
	default:
	}
}

const (
	gather  = 5 * time.Second // so that what ends at about the same time goes together
	look    = time.Hour       // without being told
	offFor  = 6 * time.Hour   // after there was no central store
	mostOff = time.Hour       // between attempts

	// Of one sending: small outputs are a part of it, others are fetched.
	mostOutputs = 50
	small       = 64 << 10
	mostInline  = 512 << 10
)

// Run sends until ctx ends.
func (s *Shipper) Run(ctx context.Context) {
	s.Due() // what was there before
	due, next, pause := s.due, look, time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-due:
			select {
			case <-time.After(gather):
			case <-ctx.Done():
				return
			}
		case <-time.After(next):
		}
		off, err := s.Once(ctx)
		due, next = s.due, look
		switch {
		case ctx.Err() != nil:
			return
		case off:
			due, next = nil, offFor
		case err != nil:
			pause = min(max(2*pause, time.Minute), mostOff)
			due, next = nil, pause
			s.log.Warn("outputs are not in the central store; trying again", "in", pause, "error", err)
			continue
		}
		pause = 0
	}
}

// Once sends all that has ended and is not sent. off tells that there is no central store. The error
// is the first of those that were met; it has gone on past one that concerns one output only.
func (s *Shipper) Once(ctx context.Context) (off bool, err error) {
	var b batch
	err = s.dir.Own(s.mine).List(ctx, func(e output.Entry) error {
		if e.Note || e.Live || e.Sent {
			return nil
		}
		k := output.Kept{Ref: e.Ref, Size: e.Size, Anew: e.Anew}
		if e.Size <= small {
			text, err := s.read(e)
			if err != nil {
				b.note(err)
				return nil
			}
			if b.inline+e.Size > mostInline {
				if err := s.flush(ctx, &b); err != nil {
					return err
				}
			}
			k.Data = base64.StdEncoding.EncodeToString(text)
			b.inline += e.Size
		}
		b.outputs, b.times = append(b.outputs, k), append(b.times, e.At)
		if len(b.outputs) == mostOutputs {
			return s.flush(ctx, &b)
		}
		return nil
	})
	if err == nil {
		err = s.flush(ctx, &b)
	}
	if errors.Is(err, errOff) {
		return true, nil
	}
	return false, errors.Join(err, b.failed)
}

// batch is what goes in one sending, and of when each is.
type batch struct {
	outputs []output.Kept
	times   []time.Time
	inline  int64 // bytes that go with it
	failed  error // the first that concerns one output only; of earlier sendings, too
}

// note remembers the first error that says more than that an output was removed, or is continued: then it is for another time.
func (b *batch) note(err error) {
	if b.failed == nil && !errors.Is(err, fs.ErrNotExist) {
		b.failed = err
	}
}

var errOff = errors.New("there is no central store")

// flush sends a batch and empties it.
func (s *Shipper) flush(ctx context.Context, b *batch) error {
	if len(b.outputs) == 0 {
		return nil
	}
	var answer output.KeepOutput
	var err error
	if !s.on {
		answer, err = s.send(ctx, nil)
	}
	if s.on = err == nil && !answer.Off; s.on {
		answer, err = s.send(ctx, b.outputs)
	}
	if err == nil && answer.Off {
		err = errOff
	}
	if err != nil {
		s.on = false
		return err
	}
	for i, o := range b.outputs {
		if slices.Contains(answer.Kept, o.Ref) {
			b.note(s.dir.MarkSent(o.Ref, b.times[i])) // on a full disk it is sent again, and found to be there
		}
		if why := answer.Failed[o.Ref]; why != "" {
			b.note(errors.New(why))
		}
	}
	*b = batch{failed: b.failed}
	return nil
}

func (s *Shipper) read(e output.Entry) ([]byte, error) {
	f, err := s.dir.Open(e.Ref)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text := make([]byte, e.Size)
	if _, err := io.ReadFull(f, text); err != nil {
		return nil, fmt.Errorf("output %s: %w", e.Ref, err)
	}
	return text, nil
}
