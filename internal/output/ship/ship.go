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
	"io"
	"log/slog"
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
	tried := map[string]bool{}
	var failed error
	for {
		batch, times, err := s.batch(ctx, tried)
		if err != nil || len(batch) == 0 {
			return false, errors.Join(err, failed)
		}
		answer := output.KeepOutput{}
		if !s.on {
			answer, err = s.send(ctx, nil)
		}
		if s.on = err == nil && !answer.Off; s.on {
			answer, err = s.send(ctx, batch)
		}
		if err != nil || answer.Off {
			s.on = false
			return answer.Off, err
		}
		for _, ref := range answer.Kept {
			if at, ok := times[ref]; ok {
				if err := s.dir.MarkSent(ref, at); err != nil && failed == nil {
					failed = err // a full disk: it is sent again, and found to be there
				}
			}
		}
		for _, b := range batch {
			if why := answer.Failed[b.Ref]; why != "" && failed == nil {
				failed = errors.New(why)
			}
		}
	}
}

var errEnough = errors.New("enough")

// batch collects outputs to send, and of when they are.
func (s *Shipper) batch(ctx context.Context, tried map[string]bool) ([]output.Kept, map[string]time.Time, error) {
	var batch []output.Kept
	times := map[string]time.Time{}
	inline := int64(0)
	err := s.dir.Own(s.mine).List(ctx, func(e output.Entry) error {
		if e.Note || e.Live || e.Sent || tried[e.Ref] {
			return nil
		}
		tried[e.Ref] = true
		k := output.Kept{Ref: e.Ref, Size: e.Size}
		if e.Size <= small && inline+e.Size <= mostInline {
			b, err := s.read(e)
			if err != nil {
				return nil // it was removed, or is continued: another time
			}
			k.Data = base64.StdEncoding.EncodeToString(b)
			inline += e.Size
		}
		batch = append(batch, k)
		times[e.Ref] = e.At
		if len(batch) == mostOutputs {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return batch, times, err
}

func (s *Shipper) read(e output.Entry) ([]byte, error) {
	f, err := s.dir.Open(e.Ref)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, e.Size)
	_, err = io.ReadFull(f, b)
	return b, err
}
