package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"go.temporal.io/server/common/dynamicconfig"

	"github.com/almanac-run/almanac/dev/settings"
)

func start(t *testing.T, o Options) *Server {
	t.Helper()
	o.LogFile = filepath.Join(t.TempDir(), "server.log")
	began := time.Now()
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("started in %v", time.Since(began).Round(time.Millisecond))
	t.Cleanup(func() { stop(t, s) })
	return s
}

func stop(t *testing.T, s *Server) {
	t.Helper()
	began := time.Now()
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	took := time.Since(began)
	t.Logf("stopped in %v", took.Round(time.Millisecond))
	if took > 3*time.Second {
		t.Errorf("stop took %v, want less than 3s", took)
	}
}

func dial(t *testing.T, s *Server) client.Client {
	t.Helper()
	c, err := client.Dial(client.Options{HostPort: s.Address(), Logger: silent{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func echo(_ workflow.Context, in string) (string, error) { return in, nil }

func serve(t *testing.T, c client.Client) worker.Worker {
	t.Helper()
	w := worker.New(c, "test", worker.Options{})
	w.RegisterWorkflow(echo)
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestRestartKeepsExecutions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "with space.db")
	s := start(t, Options{File: file})
	c := dial(t, s)
	w := serve(t, c)
	options := client.StartWorkflowOptions{
		ID: "kept", TaskQueue: "test",
		TypedSearchAttributes: searchAttributes("kept-runbook"),
	}
	run, err := c.ExecuteWorkflow(t.Context(), options, echo, "hello")
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Get(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	options.ID, options.TaskQueue = "waiting", "nobody"
	if _, err := c.ExecuteWorkflow(t.Context(), options, echo, "later"); err != nil {
		t.Fatal(err)
	}
	w.Stop()
	stop(t, s)

	c = dial(t, start(t, Options{File: file}))
	var got string
	if err := c.GetWorkflow(t.Context(), "kept", run.GetRunID()).Get(t.Context(), &got); err != nil || got != "hello" {
		t.Errorf("after a restart: result %q, error %v; want hello", got, err)
	}
	if d, err := c.DescribeWorkflowExecution(t.Context(), "waiting", ""); err != nil {
		t.Error(err)
	} else if got := d.GetWorkflowExecutionInfo().GetStatus().String(); got != "Running" {
		t.Errorf("after a restart: the execution that nobody works on is %s, want Running", got)
	}
	waitForCount(t, c, `AlmanacRunbook = "kept-runbook"`, 2)
}

func TestStopWithWorkers(t *testing.T) {
	s := start(t, Options{})
	c := dial(t, s)
	w := serve(t, c)
	t.Cleanup(w.Stop)
	run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{TaskQueue: "test"}, echo, "x")
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Get(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	stop(t, s) // polls are still open
}

// TestOlderFile starts on a file that was made before one of the search attributes existed.
func TestOlderFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "older.db")
	s := start(t, Options{File: file})
	c := dial(t, s)
	if got := attributes(t, c); !maps.Equal(got, settings.SearchAttributes) {
		t.Errorf("a new file has %v, want %v", got, settings.SearchAttributes)
	}
	_, err := c.OperatorService().RemoveSearchAttributes(t.Context(), &operatorservice.RemoveSearchAttributesRequest{
		Namespace: settings.Namespace, SearchAttributes: []string{"AlmanacStep"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, there := attributes(t, c)["AlmanacStep"]; there {
		t.Fatal("AlmanacStep was not removed")
	}
	stop(t, s)
	c = dial(t, start(t, Options{File: file}))
	if got := attributes(t, c); !maps.Equal(got, settings.SearchAttributes) {
		t.Errorf("an older file has %v, want %v", got, settings.SearchAttributes)
	}
	step := temporal.NewSearchAttributes(temporal.NewSearchAttributeKeyKeyword("AlmanacStep").ValueSet("copy"))
	if _, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{TaskQueue: "test", TypedSearchAttributes: step}, echo, "x"); err != nil {
		t.Errorf("the new attribute is not known yet: %v", err)
	}
	waitForCount(t, c, "AlmanacStep = 'copy'", 1)
}

// attributes are the server's search attributes named after Almanac.
func attributes(t *testing.T, c client.Client) map[string]enumspb.IndexedValueType {
	t.Helper()
	have, err := c.OperatorService().ListSearchAttributes(t.Context(), &operatorservice.ListSearchAttributesRequest{Namespace: settings.Namespace})
	if err != nil {
		t.Fatal(err)
	}
	ours := maps.Clone(have.GetCustomAttributes())
	maps.DeleteFunc(ours, func(name string, _ enumspb.IndexedValueType) bool { return !strings.HasPrefix(name, "Almanac") })
	return ours
}

func TestTwoServersInOneProcess(t *testing.T) {
	a, b := dial(t, start(t, Options{})), dial(t, start(t, Options{}))
	if _, err := a.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "in-a", TaskQueue: "test"}, echo, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := a.DescribeWorkflowExecution(t.Context(), "in-a", ""); err != nil {
		t.Error(err)
	}
	if _, err := b.DescribeWorkflowExecution(t.Context(), "in-a", ""); err == nil {
		t.Error("the second server knows an execution of the first")
	}
}

func TestWebUI(t *testing.T) {
	s := start(t, Options{UIPort: FreePort})
	if page := get(t, s.UIAddress()+"/namespaces/default/workflows"); !strings.Contains(page, "<html") {
		t.Errorf("the page is not HTML: %.200q", page)
	}
	var namespace struct {
		NamespaceInfo struct{ Name string }
	}
	if err := json.Unmarshal([]byte(get(t, s.UIAddress()+"/api/v1/namespaces/default")), &namespace); err != nil {
		t.Fatal(err)
	}
	if got := namespace.NamespaceInfo.Name; got != settings.Namespace {
		t.Errorf("the Web UI sees namespace %q, want %q", got, settings.Namespace)
	}
	var set struct{ DisableNewsFetch, NotifyOnNewVersion bool }
	if err := json.Unmarshal([]byte(get(t, s.UIAddress()+"/api/v1/settings")), &set); err != nil {
		t.Fatal(err)
	}
	if !set.DisableNewsFetch || set.NotifyOnNewVersion {
		t.Errorf("the Web UI may ask the internet for news: %+v", set)
	}
}

func TestLoopbackOnly(t *testing.T) {
	s := start(t, Options{UIPort: FreePort})
	for _, address := range []string{s.Address(), strings.TrimPrefix(s.UIAddress(), "http://")} {
		if h, _, err := net.SplitHostPort(address); err != nil || h != host {
			t.Errorf("%s: want an address of %s", address, host)
		}
	}
	_, port, _ := net.SplitHostPort(s.Address())
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		ip, ok := a.(*net.IPNet)
		if !ok || ip.IP.IsLoopback() || ip.IP.To4() == nil {
			continue
		}
		if c, err := net.DialTimeout("tcp", net.JoinHostPort(ip.IP.String(), port), time.Second); err == nil {
			c.Close()
			t.Errorf("the server answers on %s", ip.IP)
		}
	}
}

func TestRefusals(t *testing.T) {
	taken, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	notADatabase := filepath.Join(t.TempDir(), "text.db")
	if err := os.WriteFile(notADatabase, []byte(strings.Repeat("no database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	inUse := filepath.Join(t.TempDir(), "used.db")
	start(t, Options{File: inUse})
	for name, test := range map[string]struct {
		options Options
		want    string
	}{
		"port":         {Options{Port: port}, "is taken"},
		"ui port":      {Options{UIPort: port}, "web ui: port"},
		"file in use":  {Options{File: inUse}, "in use by another server"},
		"no directory": {Options{File: filepath.Join(t.TempDir(), "missing", "x.db")}, "no such file"},
		"not sqlite":   {Options{File: notADatabase}, "not a database"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Start(context.Background(), test.options)
			if err == nil {
				_ = s.Stop()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %q, want it to say %q", err, test.want)
			}
		})
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s", url, resp.Status, body)
	}
	return string(body)
}

func searchAttributes(runbook string) temporal.SearchAttributes {
	return temporal.NewSearchAttributes(temporal.NewSearchAttributeKeyKeyword("AlmanacRunbook").ValueSet(runbook))
}

// waitForCount waits until a query finds n executions: visibility is written a moment after the fact.
func waitForCount(t *testing.T, c client.Client, query string, n int64) {
	t.Helper()
	var got int64
	for range 100 {
		resp, err := c.CountWorkflow(t.Context(), &workflowservice.CountWorkflowExecutionsRequest{Query: query})
		if err != nil {
			t.Fatal(err)
		}
		if got = resp.GetCount(); got == n {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("%s finds %d executions, want %d", query, got, n)
}

// TestSettingsAreKnown finds misspelt keys and values of a wrong type: the server would ignore them.
func TestSettingsAreKnown(t *testing.T) {
	var text strings.Builder
	for k, v := range settings.Dynamic {
		fmt.Fprintf(&text, "%s:\n  - value: %v\n", k, v)
	}
	result := dynamicconfig.LoadYamlFile([]byte(text.String()))
	for _, err := range append(result.Errors, result.Warnings...) {
		t.Error(err)
	}
}

func BenchmarkStep(b *testing.B) {
	s, err := Start(b.Context(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Stop()
	c, err := client.Dial(client.Options{HostPort: s.Address(), Logger: silent{}})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	w := worker.New(c, "test", worker.Options{DisableEagerActivities: true})
	w.RegisterWorkflow(steps)
	w.RegisterActivity(step)
	if err := w.Start(); err != nil {
		b.Fatal(err)
	}
	defer w.Stop()
	b.ResetTimer()
	run, err := c.ExecuteWorkflow(b.Context(), client.StartWorkflowOptions{TaskQueue: "test"}, steps, b.N)
	if err != nil {
		b.Fatal(err)
	}
	if err := run.Get(b.Context(), nil); err != nil {
		b.Fatal(err)
	}
}

func step(context.Context) error { return nil }

// steps runs n activities, one after the other.
func steps(ctx workflow.Context, n int) error {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute})
	for range n {
		if err := workflow.ExecuteActivity(ctx, step).Get(ctx, nil); err != nil {
			return err
		}
	}
	return nil
}
