package main

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/internal/codec"
	"github.com/almanac-run/almanac/internal/settings"
)

// TestSettingsPage holds the table of docs/operations.md against the flags; UPDATE=1 rewrites it.
func TestSettingsPage(t *testing.T) {
	const file, begin, end = "../docs/operations.md", "<!-- settings of the worker, by TestSettingsPage -->\n", "<!-- end -->\n"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), begin)
	got, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		t.Fatalf("%s has no place for the table", file)
	}
	want := settings.Table(command(slog.New(slog.DiscardHandler)).Flags())
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the table is not what the flags say; UPDATE=1 rewrites it (-want +got):\n%s", diff)
	}
}

// What is printed is what a worker has.
func TestConfigCommand(t *testing.T) {
	for _, name := range []string{codec.EnvKeys, codec.EnvFile, codec.EnvInsecure, settings.EnvFile, "ALMANAC_INVENTORY", "ALMANAC_LOG_LEVEL"} {
		t.Setenv(name, "")
	}
	file := filepath.Join(t.TempDir(), "worker.yaml")
	if err := os.WriteFile(file, []byte("log-level: debug\nlisten: 127.0.0.1:9464\nssm: [eu-central-1]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ALMANAC_INVENTORY", "postgres://u:canary@db/almanac")
	t.Setenv("ALMANAC_LOG_LEVEL", "warn")
	t.Setenv(codec.EnvKeys, "k1 canary")
	out, err := worker(t, "config", "--config", file, "--task-queue", "q", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var all []settings.Setting
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got := map[string][2]string{}
	for _, s := range all {
		got[s.Name] = [2]string{s.Value, s.Source}
	}
	for name, want := range map[string][2]string{
		"listen":       {"127.0.0.1:9464", file + ":2"},
		"log-level":    {"warn", "environment (ALMANAC_LOG_LEVEL)"},
		"task-queue":   {"q", "flag"},
		"stop-timeout": {"30s", "default"},
		"inventory":    {"postgres://u:***@db/almanac", "environment (ALMANAC_INVENTORY)"},
		"key-file":     {"***", "environment (ALMANAC_KEYS)"},
		"ssm":          {"[eu-central-1]", file + ":3"},
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	if text, err := worker(t, "config", "--config", file); err != nil || strings.Contains(out+text, "canary") || !strings.Contains(text, "listen") {
		t.Errorf("%v: %s", err, text)
	}
}

func TestServiceMistakes(t *testing.T) {
	for _, name := range []string{settings.EnvFile, "ALMANAC_LISTEN", "ALMANAC_LOG_LEVEL", "ALMANAC_LOG_FORMAT"} {
		t.Setenv(name, "")
	}
	t.Setenv(codec.EnvInsecure, "1")
	t.Setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
	t.Setenv("TEMPORAL_CONFIG_FILE", "/nonexistent")
	file := filepath.Join(t.TempDir(), "worker.yaml")
	if err := os.WriteFile(file, []byte("lissen: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for says, args := range map[string][]string{
		file + `:1:1: no setting "lissen"; did you mean listen?`: {"--config", file},
		`log level "loud": want debug, info, warn or error`:      {"--log-level", "loud"},
		`log format "xml": want text or json`:                    {"--log-format", "xml"},
		"--listen: listen tcp: address nowhere":                  {"--listen", "nowhere"},
		`--ssm "Frankfurt": want a region`:                       {"--ssm", "Frankfurt"},
		"--stop-timeout 0s: want some time, such as 30s":         {"--stop-timeout", "0s"},
		"--stop-timeout -5s: want some time, such as 30s":        {"--stop-timeout", "-5s"},
		"build 1.4.0 of which deployment":                        {"--build-id", "1.4.0"},
		"there is nothing to ask":                                {"health"},
		"connection refused":                                     {"health", "--listen", "127.0.0.1:1"},
		"want text or json":                                      {"config", "-o", "xml"},
	} {
		if _, err := worker(t, args...); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %v, want %q", args, err, says)
		}
	}
}
