package node

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"

	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/internal/registry"
)

// A state directory keeps its name, and knows when it is a copy.
func TestInstallation(t *testing.T) {
	dir := t.TempDir()
	name, moved, err := installation(dir)
	if err != nil || len(name) != 32 || moved {
		t.Fatalf("%q, moved %v, %v", name, moved, err)
	}
	if again, moved, err := installation(dir); err != nil || again != name || moved {
		t.Errorf("again: %q, moved %v, %v", again, moved, err)
	}
	clone := t.TempDir()
	if out, err := exec.Command("cp", "-a", dir+"/.", clone).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if same, moved, err := installation(clone); err != nil || same != name || !moved {
		t.Errorf("copy: %q, moved %v, %v", same, moved, err)
	}
	if err := settle(clone, name); err != nil {
		t.Fatal(err)
	}
	if same, moved, err := installation(clone); err != nil || same != name || moved {
		t.Errorf("settled copy: %q, moved %v, %v", same, moved, err)
	}
	if other, _, err := installation(t.TempDir()); err != nil || other == name {
		t.Errorf("another: %q, %v", other, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	broken := t.TempDir()
	if err := os.Mkdir(filepath.Join(broken, "installation"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := installation(broken); err == nil {
		t.Error("a directory is taken for a name")
	}
}

// While the clock is wrong new work is refused, and the registry is told of the
// change; what is read, taken back or has begun is served.
func TestClockGuard(t *testing.T) {
	for _, tt := range []struct {
		name    string
		ahead   time.Duration
		refused string // empty: served
		report  bool
	}{
		{"host.command.run", 0, "", false},
		{"host.command.run", 59 * time.Second, "", false},
		{"host.command.run", time.Hour, "the clock of node n is 1h0m0s ahead of the server's, and more than 1m0s is too much", true},
		{"host.command.run", -2 * time.Minute, "2m0s behind the server's", true},
		{"compensate:host.file.write", time.Hour, "", true},
		{host.OutputRead, time.Hour, "", true},
	} {
		r := &registrar{o: Options{ID: "n", Logger: slog.New(slog.DiscardHandler)}, trigger: make(chan struct{}, 1)}
		env := new(testsuite.WorkflowTestSuite).NewTestActivityEnvironment()
		env.SetWorkerOptions(worker.Options{Interceptors: []interceptor.WorkerInterceptor{
			&clockGuard{limit: time.Minute, now: func() time.Time { return time.Now().Add(tt.ahead) }, r: r}}})
		env.RegisterActivityWithOptions(func(context.Context) error { return nil }, activity.RegisterOptions{Name: tt.name})
		_, err := env.ExecuteActivity(tt.name)
		var app *temporal.ApplicationError
		switch {
		case tt.refused == "" && err != nil:
			t.Errorf("%s, %v ahead: %v", tt.name, tt.ahead, err)
		case tt.refused != "" && (!errors.As(err, &app) || app.Type() != "unreached" || !app.NonRetryable() || !strings.Contains(app.Message(), tt.refused)):
			t.Errorf("%s, %v ahead: %v, want %q", tt.name, tt.ahead, err, tt.refused)
		}
		if told := len(r.trigger) == 1; told != tt.report {
			t.Errorf("%s, %v ahead: report %v, want %v", tt.name, tt.ahead, told, tt.report)
		}
	}
}

func TestMeasure(t *testing.T) {
	server := time.Unix(1_000_000, 0)
	r := &registrar{}
	// The request left at 59:50 by the node's clock, the answer came at 59:54; the server's was 0:00 in between.
	r.measure(server.Add(-10*time.Second), server.Add(-6*time.Second), server)
	if time.Duration(r.self.Clock) != -8*time.Second || time.Duration(r.self.Uncertain) != 2*time.Second {
		t.Errorf("clock %v, uncertain %v", time.Duration(r.self.Clock), time.Duration(r.self.Uncertain))
	}
	for _, tt := range []struct {
		clock, uncertain time.Duration
		wrong            bool
	}{
		{time.Minute, 0, false}, {61 * time.Second, 0, true}, {-61 * time.Second, 0, true}, {61 * time.Second, 2 * time.Second, false},
	} {
		n := registry.Node{Limit: registry.Duration(time.Minute), Clock: registry.Duration(tt.clock), Uncertain: registry.Duration(tt.uncertain)}
		if got := n.ClockWrong(); got != tt.wrong {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}
