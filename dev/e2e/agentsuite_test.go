package e2e

import (
	"os"
	"os/exec"
	"testing"

	"github.com/almanac-run/almanac/dev/server"
)

// TestAgentSuite runs the tests of the agent program against a real server,
// which they skip without one: the server lives in this module only.
func TestAgentSuite(t *testing.T) {
	srv, err := server.Start(t.Context(), server.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Stop() })
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-v", "./agent")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "TEMPORAL_ADDRESS="+srv.Address())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
