package service

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/sdk/client"
)

// TestNamespaceGone takes the namespace away, as a server does that was restored from nothing: when the SDK gives up,
// which it does after two minutes, the programs end with an error and their service managers begin them anew.
func TestNamespaceGone(t *testing.T) {
	if os.Getenv("ALMANAC_LONG") == "" {
		t.Skip("ALMANAC_LONG is not set: it takes three minutes")
	}
	t.Parallel()
	h := settle(t)
	at := port(t)
	state := filepath.Join(h.dir, "state")
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	all := map[string]*process{
		"worker": h.start(nil, "worker", "--listen", at),
		"agent":  h.start(nil, "agent", "--id", "a", "--state-dir", state, "--ec2-metadata", "off"),
	}
	until(t, "ready", func() bool { return ready(at) })
	until(t, "the node", func() bool { _, out := h.run("starter", "nodes", "-o", "json"); return strings.Contains(out, `"a"`) })
	c, err := client.Dial(client.Options{HostPort: h.address})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.OperatorService().DeleteNamespace(t.Context(), &operatorservice.DeleteNamespaceRequest{Namespace: "default"}); err != nil {
		t.Fatal(err)
	}
	until(t, "not ready for the namespace", func() bool {
		_, text := get("http://" + at + "/readyz")
		return strings.Contains(text, "refuses this program's polls (Poll") && strings.Contains(text, "NotFound")
	})
	late, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for program, p := range all {
		select {
		case <-p.ended:
		case <-late.Done():
			t.Errorf("the %s goes on, and takes no work", program)
			continue
		}
		if code := p.ProcessState.ExitCode(); code != 1 || !strings.Contains(p.log.String(), "the server gives it no more work") {
			t.Errorf("the %s ends with exit code %d", program, code)
		}
	}
}
