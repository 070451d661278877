package dial

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"
)

// counter is a server that says so.
type counter struct {
	workflowservice.UnimplementedWorkflowServiceServer
	calls atomic.Int64
}

func (c *counter) GetSystemInfo(context.Context, *workflowservice.GetSystemInfoRequest) (*workflowservice.GetSystemInfoResponse, error) {
	return &workflowservice.GetSystemInfoResponse{}, nil
}

func (c *counter) DescribeNamespace(context.Context, *workflowservice.DescribeNamespaceRequest) (*workflowservice.DescribeNamespaceResponse, error) {
	c.calls.Add(1)
	return &workflowservice.DescribeNamespaceResponse{}, nil
}

func serve(t *testing.T, address string) (*counter, *grpc.Server, string) {
	t.Helper()
	var l net.Listener
	var err error
	for range 50 { // a port that was just in use is free a moment later
		if l, err = net.Listen("tcp", address); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	c, s := &counter{}, grpc.NewServer()
	workflowservice.RegisterWorkflowServiceServer(s, c)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return c, s, l.Addr().String()
}

// Two servers take turns; when one is gone the other does all, and one that comes back does its part again.
func TestSeveral(t *testing.T) {
	a, aServer, aAddress := serve(t, "127.0.0.1:0")
	b, _, bAddress := serve(t, "127.0.0.1:0")
	c, err := Dial(t.Context(), client.Options{HostPort: aAddress + ", " + bAddress}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{})
		return err
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
			if err := ask(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	until("both are asked", func() bool { return a.calls.Load() > 3 && b.calls.Load() > 3 })
	aServer.Stop()
	_ = ask() // one that was under way may be lost
	before := b.calls.Load()
	until("the one that is left is asked", func() bool { return b.calls.Load() > before+10 })
	again, _, _ := serve(t, aAddress)
	until("the one that is back is asked", func() bool { return again.calls.Load() > 3 })
}

func TestSeveralRefuses(t *testing.T) {
	for _, tt := range []struct{ address, says string }{
		{"a:1", ""},
		{"dns:///a:1", ""},
		{"a:1,b:2", ""},
		{"a:1,", `address ""`},
		{"a:1,b", `address "b"`},
		{"a:1,:2", `address ":2"`},
		{"a:1 b:2,c:3", `address "a:1 b:2"`},
	} {
		_, err := Several(client.Options{HostPort: tt.address})
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", tt.address, err, tt.says)
		}
	}
}

// Each server is known by its own name, or all by the one that the options give.
func TestSeveralNames(t *testing.T) {
	one := client.Options{HostPort: "a:1,b:2"}
	one.ConnectionOptions.TLS = &tls.Config{ServerName: "cluster"}
	for _, tt := range []struct {
		opts client.Options
		want string
	}{{client.Options{HostPort: "a:1,b:2"}, "a b"}, {one, " "}} {
		l, err := parse(tt.opts)
		if err != nil {
			t.Fatal(err)
		}
		if got := l[0].ServerName + " " + l[1].ServerName; got != tt.want {
			t.Errorf("names %q, want %q", got, tt.want)
		}
	}
}
