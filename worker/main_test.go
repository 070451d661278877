package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/almanac-run/almanac/internal/codec"
)

// worker runs the program's command line in this process.
func worker(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := command(slog.New(slog.DiscardHandler))
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestKeyCommands(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, name := range []string{codec.EnvKeys, codec.EnvFile, codec.EnvInsecure} {
		t.Setenv(name, "")
	}
	t.Setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
	t.Setenv("TEMPORAL_CONFIG_FILE", "/nonexistent")
	began := time.Now()
	if _, err := worker(t); err == nil || !strings.Contains(err.Error(), "worker key new > .almanac/keys") || time.Since(began) > 5*time.Second {
		t.Errorf("without a key: %v", err)
	}
	line, err := worker(t, "key", "new", "--id", "k1")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(".almanac", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(codec.DefaultFile, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	one, err := worker(t, "node-key", "web-1")
	if err != nil || !strings.HasSuffix(one, " node/web-1\n") || strings.Contains(one, strings.Fields(line)[1]) {
		t.Errorf("node-key: %q, %v", one, err)
	}
	if again, err := worker(t, "node-key", "web-1"); err != nil || again != one {
		t.Errorf("the second time it is another: %v", err)
	}
	if two, err := worker(t, "node-key", "web-2"); err != nil || strings.Fields(two)[1] == strings.Fields(one)[1] {
		t.Errorf("two nodes have one key: %v", err)
	}
	if _, err := worker(t, "node-key", "web/1"); err == nil || !strings.Contains(err.Error(), "node id") {
		t.Errorf("a bad id: %v", err)
	}
	tokens := filepath.Join(dir, "tokens")
	if err := os.WriteFile(tokens, []byte("ann 0123456789-0123456789\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for says, args := range map[string][]string{
		"who may read?":    {"codec"},
		"chmod 600":        {"codec", "--tokens", tokens},
		"belong together":  {"codec", "--tls-cert", "x"},
		"audience":         {"codec", "--oidc-issuer", "https://login.example.com"},
		"unknown command":  {"kye"},
		"accepts 1 arg(s)": {"node-key"},
	} {
		if _, err := worker(t, args...); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %v, want %q", args, err, says)
		}
	}
}
