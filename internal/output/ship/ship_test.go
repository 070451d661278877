package ship

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/almanac-run/almanac/internal/output"
)

func write(t *testing.T, dir output.Dir, name string, size int) {
	t.Helper()
	w, err := dir.Append(output.Ref("x", name, "web-1"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(w, strings.Repeat("x", size))
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
}

// What is sent when, by how the control worker answers. Times are since the start.
func TestRun(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(at time.Duration) (off bool, err error)
		until  time.Duration
		due    time.Duration // when another output ends; 0: none does
		want   string        // when was something sent, or asked whether there is a store
	}{
		{"soon after the start, and after an output", func(time.Duration) (bool, error) { return false, nil }, 3 * time.Hour, time.Hour / 2, "5s? 5s 30m5s"},
		{"again while the server is away", func(at time.Duration) (bool, error) {
			if at < 10*time.Minute {
				return false, errors.New("away")
			}
			return false, nil
		}, 3 * time.Hour, time.Minute / 2, "5s? 1m5s? 3m5s? 7m5s? 15m5s? 15m5s"},
		{"seldom while there is no store", func(at time.Duration) (bool, error) { return at < 10*time.Hour, nil }, 13 * time.Hour, time.Hour, "5s? 6h0m5s? 12h0m5s? 12h0m5s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := output.Dir(t.TempDir())
			write(t, dir, "first", 10)
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var sent []string
				s := New(dir, nil, func(_ context.Context, outputs []output.Kept) (output.KeepOutput, error) {
					at := time.Since(began)
					what := at.String()
					if outputs == nil {
						what += "?"
					}
					sent = append(sent, what)
					off, err := tt.answer(at)
					out := output.KeepOutput{Off: off}
					for _, o := range outputs {
						out.Kept = append(out.Kept, o.Ref)
					}
					return out, err
				}, slog.New(slog.DiscardHandler))
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { s.Run(ctx); close(done) }()
				if tt.due > 0 {
					time.Sleep(tt.due)
					write(t, dir, "second", 10)
					s.Due()
				}
				time.Sleep(tt.until - tt.due)
				stop()
				<-done
				if got := strings.Join(sent, " "); got != tt.want {
					t.Errorf("sent at %s, want %s", got, tt.want)
				}
			})
		})
	}
}

// One sending has so many outputs, and so much in it, at most; the rest follows.
func TestBatches(t *testing.T) {
	dir := output.Dir(t.TempDir())
	for i := range 70 {
		write(t, dir, fmt.Sprint("s", i), 20<<10)
	}
	write(t, dir, "large", small+1)
	seen := map[string]int{}
	sendings := 0
	s := New(dir, nil, func(_ context.Context, outputs []output.Kept) (output.KeepOutput, error) {
		if outputs == nil {
			return output.KeepOutput{}, nil
		}
		sendings++
		inline := 0
		for _, o := range outputs {
			inline += len(o.Data)
			seen[o.Ref]++
			if o.Size <= small && o.Data == "" {
				t.Errorf("%s is small, and would have to be fetched", o.Ref)
			}
			if o.Size > small && o.Data != "" {
				t.Errorf("%s has %d bytes with it", o.Ref, len(o.Data))
			}
		}
		if len(outputs) > mostOutputs || inline > mostInline*4/3+100 {
			t.Errorf("%d outputs, %d bytes", len(outputs), inline)
		}
		return output.KeepOutput{Failed: map[string]string{outputs[0].Ref: "no room"}}, nil
	}, slog.New(slog.DiscardHandler))
	if off, err := s.Once(t.Context()); off || err == nil || err.Error() != "no room" {
		t.Errorf("%v, %v", off, err)
	}
	for ref, n := range seen {
		if n != 1 {
			t.Errorf("%s was sent %d times", ref, n)
		}
	}
	if len(seen) != 71 || sendings != 3 {
		t.Errorf("%d outputs in %d sendings", len(seen), sendings)
	}
}

// So many outputs, as of a node that has had none sent yet, are looked through once.
func TestMany(t *testing.T) {
	dir := output.Dir(t.TempDir())
	const n = 400
	for i := range n {
		write(t, dir, fmt.Sprint("s", i), 1)
	}
	looked, sent := 0, 0
	s := New(dir, func(string) bool { looked++; return true }, func(_ context.Context, outputs []output.Kept) (output.KeepOutput, error) {
		out := output.KeepOutput{}
		for _, o := range outputs {
			out.Kept = append(out.Kept, o.Ref)
		}
		sent += len(outputs)
		return out, nil
	}, slog.New(slog.DiscardHandler))
	if off, err := s.Once(t.Context()); off || err != nil || sent != n || looked != n {
		t.Errorf("%d were sent, %d looked at; %v, %v", sent, looked, off, err)
	}
}
