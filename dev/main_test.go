//go:build !external

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	embedded "github.com/almanac-run/almanac/dev/server"
	"github.com/almanac-run/almanac/internal/node"
)

// The test binary, called by another name, is one of the programs that this one starts.
func TestMain(m *testing.M) {
	node.ExecMain()
	switch filepath.Base(os.Args[0]) {
	case "temporal":
		fakeTemporal()
	case "starter":
		fakeStarter()
	case "parent":
		fakeParent()
	}
	os.Exit(m.Run())
}

// fakeTemporal is the temporal command: it refuses flags that the real one does not have.
func fakeTemporal() {
	if len(os.Args) < 3 || os.Args[1] != "server" || os.Args[2] != "start-dev" {
		os.Exit(2)
	}
	flags := flag.NewFlagSet("temporal", flag.ExitOnError)
	port := flags.Int("port", 0, "")
	uiPort := flags.Int("ui-port", 0, "")
	file := flags.String("db-filename", "", "")
	for _, name := range []string{"ip", "ui-ip", "ui-codec-endpoint", "log-level", "search-attribute", "dynamic-config-value", "sqlite-pragma"} {
		flags.String(name, "", "")
	}
	_ = flags.Parse(os.Args[3:])
	must(os.WriteFile(os.Getenv("FAKE_DIR")+"/temporal.pid", []byte(strconv.Itoa(os.Getpid())), 0o600))
	_, err := embedded.Start(context.Background(), embedded.Options{Port: *port, UIPort: *uiPort, File: *file})
	must(err)
	select {}
}

// fakeStarter is the command line program, with an execution that waits for one approval.
func fakeStarter() {
	waits, approved := os.Getenv("FAKE_DIR")+"/waits", os.Getenv("FAKE_DIR")+"/approved"
	switch os.Args[1] {
	case "run":
		fmt.Println("fake: waiting for approval of", os.Args[2])
		must(os.WriteFile(waits, nil, 0o600))
		interrupted := make(chan os.Signal, 1)
		signal.Notify(interrupted, os.Interrupt)
		for !exists(approved) {
			select {
			case <-interrupted:
				fmt.Println("fake: goes on")
				os.Exit(9)
			case <-time.After(10 * time.Millisecond):
			}
		}
		fmt.Println("fake: rolled back")
		os.Exit(5)
	case "watch":
		fmt.Println("fake: rolled back")
		os.Exit(5)
	case "show":
		switch {
		case !exists(waits):
			os.Exit(1)
		case exists(approved):
			fmt.Println(`{"status":"running"}`)
		default:
			fmt.Println(`{"waiting":[{"step":"go","kind":"approval"}]}`)
		}
	case "approve":
		fmt.Println("fake: approved on", os.Getenv("TEMPORAL_ADDRESS"))
		must(os.WriteFile(approved, nil, 0o600))
	}
	os.Exit(0)
}

// fakeParent starts a child and tells its process.
func fakeParent() {
	c := newChild(exec.Command("sleep", "60"))
	must(c.start())
	fmt.Println(c.cmd.Process.Pid)
	select {}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func exists(name string) bool { _, err := os.Stat(name); return !errors.Is(err, fs.ErrNotExist) }

// output is where run writes to while the test reads.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// setUp gives a machine with neither a server nor a temporal command, and a fake starter.
func setUp(t *testing.T) (options, *output) {
	t.Helper()
	t.Setenv("TEMPORAL_ADDRESS", "")
	t.Setenv("PATH", t.TempDir())
	t.Setenv("FAKE_DIR", t.TempDir())
	out := &output{}
	return options{
		ephemeral: true,
		aws:       awsSimulated,
		dir:       t.TempDir(),
		port:      freePort(t),
		uiPort:    freePort(t),
		starter:   fake(t, t.TempDir(), "starter"),
		out:       out,
	}, out
}

// fake puts the test binary into a directory under another name.
func fake(t *testing.T, dir, name string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func freePort(t *testing.T) int {
	t.Helper()
	port, err := embedded.ReservePort(0)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// runUntilReady runs until the output says that all is ready, calls check, interrupts, and wants a clean end.
func runUntilReady(t *testing.T, o options, out *output, check func()) {
	t.Helper()
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	type end struct {
		code int
		err  error
	}
	ends := make(chan end, 1)
	go func() {
		code, err := run(ctx, o)
		ends <- end{code, err}
	}()
	deadline := time.Now().Add(30 * time.Second)
	for !strings.Contains(out.String(), "Ctrl-C stops everything") {
		select {
		case e := <-ends:
			log, _ := os.ReadFile(filepath.Join(o.dir, "server.log"))
			t.Fatalf("ended with %d, %v\n%s%s", e.code, e.err, out, log)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("not ready in time:\n%s", out)
		}
	}
	check()
	interrupt()
	began := time.Now()
	if e := <-ends; e.code != 0 || e.err != nil {
		t.Errorf("ended with %d, %v; want 0 and no error", e.code, e.err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %v to stop", took)
	}
}

func wantPage(t *testing.T, port int) {
	t.Helper()
	resp, err := http.Get(uiAddress(port) + "/namespaces/default/workflows")
	if err != nil {
		t.Error(err)
		return
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("web ui: %s", resp.Status)
	}
}

func TestServerInThisProcess(t *testing.T) {
	o, out := setUp(t)
	o.ephemeral = false
	runUntilReady(t, o, out, func() {
		wantPage(t, o.uiPort)
		if want := "in this process"; !strings.Contains(out.String(), want) {
			t.Errorf("output does not say %q:\n%s", want, out)
		}
	})
	if _, err := os.Stat(filepath.Join(o.dir, "dev.db")); err != nil {
		t.Error(err)
	}
}

func TestServerOfTheTemporalCommand(t *testing.T) {
	o, out := setUp(t)
	o.ephemeral = false
	fake(t, os.Getenv("PATH"), "temporal")
	var pid int
	runUntilReady(t, o, out, func() {
		wantPage(t, o.uiPort)
		text, err := os.ReadFile(os.Getenv("FAKE_DIR") + "/temporal.pid")
		if err != nil {
			t.Fatal(err)
		}
		pid, _ = strconv.Atoi(string(text))
		if want := "run by " + os.Getenv("PATH") + "/temporal"; !strings.Contains(out.String(), want) {
			t.Errorf("output does not say %q:\n%s", want, out)
		}
	})
	wantGone(t, pid)
}

func TestServerThatEnds(t *testing.T) {
	o, _ := setUp(t)
	o.address = ""
	if err := os.WriteFile(filepath.Join(os.Getenv("PATH"), "temporal"), []byte("#!/bin/sh\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	code, err := run(t.Context(), o)
	if code != 1 || err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %d, %v; want 1 and the exit status", code, err)
	}
}

func TestServerAtAnAddress(t *testing.T) {
	s, err := embedded.Start(t.Context(), embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	o, out := setUp(t)
	t.Setenv("TEMPORAL_ADDRESS", s.Address())
	o.address = s.Address()
	runUntilReady(t, o, out, func() {
		if want := s.Address() + ", already running"; !strings.Contains(out.String(), want) {
			t.Errorf("output does not say %q:\n%s", want, out)
		}
	})
}

func TestTakenPort(t *testing.T) {
	o, _ := setUp(t)
	l, err := net.Listen("tcp", hostPort(o.port))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = run(t.Context(), o)
	if err == nil {
		t.Fatal("started on a port that is taken")
	}
	for _, want := range []string{
		fmt.Sprintf("port %d is used by", o.port),
		fmt.Sprintf("(process %d)", os.Getpid()),
		"TEMPORAL_ADDRESS=" + hostPort(o.port),
		"--port",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

func TestDemo(t *testing.T) {
	for name, test := range map[string]struct {
		table bool
		lines []string
	}{
		"lines": {false, []string{
			"run demo/tour --id tour-",
			"fake: waiting for approval of demo/tour",
			"approve tour-",
			" go --comment 'looks good'",
			"fake: approved on ",
			"fake: rolled back",
			"run demo/image --id image-",
			"fake: rolled back",
			"which is what they show: the exit code is 5",
		}},
		"table": {true, []string{
			"run demo/tour --id tour-",
			"fake: waiting for approval of demo/tour",
			"fake: goes on",
			"approve tour-",
			"fake: approved on ",
			"watch tour-",
			"fake: rolled back",
			"run demo/image --id image-",
			"fake: rolled back",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			o, out := setUp(t)
			o.demo, o.demoExit, o.table = true, true, test.table
			code, err := run(t.Context(), o)
			if err != nil || code != 5 {
				t.Errorf("got %d, %v; want the starter's exit code 5", code, err)
			}
			rest := out.String()
			for _, want := range append([]string{uiAddress(o.uiPort) + "/namespaces/default/workflows/tour-"}, test.lines...) {
				_, after, found := strings.Cut(rest, want)
				if !found {
					t.Fatalf("%q is missing, or not in its place, in\n%s", want, out)
				}
				rest = after
			}
			if n := strings.Count(out.String(), "fake: approved"); n != 1 {
				t.Errorf("approved %d times, want once", n)
			}
		})
	}
}

func TestDemoWithoutStarter(t *testing.T) {
	o, _ := setUp(t)
	o.demo, o.starter = true, filepath.Join(t.TempDir(), "missing")
	code, err := run(t.Context(), o)
	if code != 1 || err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %d, %v; want 1 and that the starter is missing", code, err)
	}
}

func TestChildDiesWithParent(t *testing.T) {
	if childAttributes().Pdeathsig == 0 {
		t.Skip("only Linux ends the children of a killed process")
	}
	parent := exec.Command(fake(t, t.TempDir(), "parent"))
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(stdout, &pid); err != nil {
		t.Fatal(err)
	}
	_ = parent.Process.Kill()
	_ = parent.Wait()
	wantGone(t, pid)
}

func wantGone(t *testing.T, pid int) {
	t.Helper()
	for range 100 {
		if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
			return
		}
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && strings.Contains(string(stat), ") Z ") {
			return // dead; init has not asked for its exit code yet
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("process %d is still there", pid)
}

func TestSettingsFor(t *testing.T) {
	for _, name := range []string{"TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE", "ALMANAC_UI", "ALMANAC_OUTPUT_DIR", "ALMANAC_KEYS", "ALMANAC_KEY_FILE"} {
		t.Setenv(name, "")
	}
	usual := &server{address: "127.0.0.1:7233", namespace: "default", ui: "http://127.0.0.1:8233"}
	if got := settingsFor(options{dir: ".almanac"}, usual); got != "" {
		t.Errorf("the usual needs no settings; got %q", got)
	}
	other := &server{address: "127.0.0.1:17233", namespace: "default"}
	if got, want := settingsFor(options{dir: "/x"}, other), "TEMPORAL_ADDRESS=127.0.0.1:17233 ALMANAC_OUTPUT_DIR=/x/output ALMANAC_KEY_FILE=/x/keys "; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
