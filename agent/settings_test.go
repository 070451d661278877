package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Flags, environment and file give the agent its settings, in this order. A bad id is told before anything is done.
func TestSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log strings.Builder
	says := func(want string, args ...string) {
		t.Helper()
		cmd := command(slog.New(slog.DiscardHandler))
		cmd.SetArgs(args)
		cmd.SetErr(&log)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
	t.Setenv("ALMANAC_CONFIG", file)
	write("id: of/file\ntag: [role=web]\n")
	says(`"of/file"`)
	t.Setenv("ALMANAC_ID", "of/environment")
	says(`"of/environment"`)
	says(`"of/flag"`, "--id", "of/flag")
	write("tags: [role=web]\n")
	says(file + `:1:1: no setting "tags"; did you mean tag?`)
	if text := log.String(); strings.Contains(text, "ALMANAC_") {
		t.Errorf("there is nothing to warn of: %s", text)
	}
	t.Setenv("ALMANAC_OUTPUT_KEPE", "canary")
	write("log-format: json\n")
	says(`"of/environment"`)
	if text := log.String(); !strings.Contains(text, `"level":"WARN","msg":"ALMANAC_OUTPUT_KEPE is no setting; did you mean ALMANAC_OUTPUT_KEEP?"`) || strings.Contains(text, "canary") {
		t.Errorf("the log has %s", text)
	}
	write("log-level: loud\n")
	says(`log level "loud"`)
}
