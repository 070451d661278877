// Package telemetry tells operators how a control worker does: whether it lives
// and is ready, metrics for Prometheus, and executions as traces.
//
// It gives Health, Metrics and Traces. It promises that nothing of an
// execution's inputs, outputs and messages is told, that what is counted is not counted
// again at a replay, and that the number of series is bounded, whatever runbooks
// are called. It refuses to know how the work is done: it is told of what has
// ended (workflows.Watcher).
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// Health is whether the worker is ready, and why it is not.
type Health struct {
	mu    sync.Mutex
	why   string                      // empty: ready
	check func(context.Context) error // of what may change while it works
}

// NewHealth returns a Health that is not ready, and why.
func NewHealth(why string) *Health { return &Health{why: why} }

// Ready makes it ready as long as check, which is asked each time, returns nil.
func (h *Health) Ready(check func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.why, h.check = "", check
}

// NotReady makes it not ready, and says why.
func (h *Health) NotReady(why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.why = why
}

// checkWithin bounds the question to the server: shorter than who asks usually waits.
const checkWithin = 3 * time.Second

// Err is why the worker is not ready, nil if it is.
func (h *Health) Err(ctx context.Context) error {
	h.mu.Lock()
	why, check := h.why, h.check
	h.mu.Unlock()
	if why != "" {
		return errors.New(why)
	}
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	return check(ctx)
}

// Handler serves /healthz (the process lives), /readyz and /metrics.
func Handler(h *Health, m *Metrics) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := h.Err(r.Context()); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.Handle("GET /metrics", m.handler())
	return mux
}

// Serve answers at an address until the returned function is called.
func Serve(address string, h http.Handler) (at net.Addr, stop func(), err error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, nil, fmt.Errorf("--listen: %w", err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	go func() { _ = s.Serve(l) }() // it ends by stop
	return l.Addr(), func() { _ = s.Close() }, nil
}

// Ask asks the worker at an address whether it is ready.
func Ask(ctx context.Context, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, 2*checkWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return err
	}
	// Not by a proxy: what is asked is on this machine.
	resp, err := (&http.Client{Transport: &http.Transport{}}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text := make([]byte, 500)
	n, _ := resp.Body.Read(text) // an answer without a text is an answer
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, text[:n])
	}
	return nil
}

// Notify tells the service manager, if there is one that listens, what systemd's
// sd_notify tells: "READY=1", "STOPPING=1".
func Notify(state string) error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(state))
	return err
}
