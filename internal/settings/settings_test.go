package settings

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// flags are those of a program of this test.
func flags() (*pflag.FlagSet, *[]string, *time.Duration) {
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	AddFile(fs)
	fs.String("queue", "usual", "")
	fs.String("key-file", "", "")
	fs.Bool("insecure", false, "")
	list := fs.StringArray("place", []string{"here"}, "")
	d := fs.Duration("stop-timeout", 30*time.Second, "")
	Instead(fs, "key-file", "ALMANAC_TESTKEYS")
	return fs, list, d
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "s.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestPrecedence sets one setting in every combination of places: the highest wins, and is told.
func TestPrecedence(t *testing.T) {
	for set := range 8 {
		t.Setenv("ALMANAC_QUEUE", "")
		fs, _, _ := flags()
		file := write(t, "insecure: true\n")
		want, source := "usual", "default"
		if set&1 != 0 {
			file = write(t, "# first\nqueue: of-file\n")
			want, source = "of-file", file+":2"
		}
		args := []string{"--config", file}
		if set&2 != 0 {
			t.Setenv("ALMANAC_QUEUE", "of-environment")
			want, source = "of-environment", "environment (ALMANAC_QUEUE)"
		}
		if set&4 != 0 {
			args = append(args, "--queue", "of-flag")
			want, source = "of-flag", "flag"
		}
		if err := fs.Parse(args); err != nil {
			t.Fatal(err)
		}
		all, err := Resolve(fs)
		if err != nil {
			t.Fatal(err)
		}
		var got Setting
		for _, s := range all {
			if s.Name == "queue" {
				got = s
			}
		}
		if diff := cmp.Diff(Setting{Name: "queue", Value: want, Source: source}, got); diff != "" {
			t.Errorf("combination %03b: %s", set, diff)
		}
		if v, _ := fs.GetString("queue"); v != want {
			t.Errorf("combination %03b: the flag has %q", set, v)
		}
	}
}

func TestLists(t *testing.T) {
	fs, list, d := flags()
	t.Setenv(EnvFile, write(t, "place: [a, 'b,c']\nstop-timeout: 1m\nkey-file: /f\n"))
	if _, err := Resolve(fs); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "b,c"}, *list); diff != "" || *d != time.Minute {
		t.Errorf("%s; %s", diff, *d)
	}
	fs, list, _ = flags()
	t.Setenv("ALMANAC_PLACE", `x, "y,z"`)
	t.Setenv("ALMANAC_TESTKEYS", "k1 secret")
	t.Setenv("ALMANAC_KEY_FILE", "/other")
	all, err := Resolve(fs)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"x", "y,z"}, *list); diff != "" {
		t.Error(diff)
	}
	if v, _ := fs.GetString("key-file"); v != "" {
		t.Errorf("key-file is %q, though the keys themselves are given", v)
	}
	t.Setenv("ALMANAC_PLACE", "x\ny")
	fs, _, _ = flags()
	if _, err := Resolve(fs); err == nil || !strings.Contains(err.Error(), "ALMANAC_PLACE: have 2 lines, want one") {
		t.Errorf("the second line was passed over: %v", err)
	}
	if got := all[1]; got != (Setting{Name: "key-file", Value: "***", Source: "environment (ALMANAC_TESTKEYS)"}) {
		t.Errorf("%+v", got)
	}
}

func TestMistakes(t *testing.T) {
	tests := map[string]struct{ file, env, want string }{
		"unknown":    {"kwekwe: x\nqueue: y\nStop_Timeout: 3s\n", "", "FILE:1:1: no setting \"kwekwe\"; there is insecure, key-file, place, queue, stop-timeout\nFILE:3:1: no setting \"Stop_Timeout\"; did you mean stop-timeout?"},
		"misspelled": {"quee: x\n", "", `FILE:1:1: no setting "quee"; did you mean queue?`},
		"bad value":  {"queue: y\nstop-timeout: soon\ninsecure: perhaps\n", "", "FILE:3: insecure: strconv.ParseBool: parsing \"perhaps\": invalid syntax\nFILE:2: stop-timeout: time: invalid duration \"soon\""},
		"variable":   {"", "soon", `ALMANAC_STOP_TIMEOUT: time: invalid duration "soon"`},
		"twice":      {"queue: y\nqueue: z\n", "", "FILE:2:1: queue is set twice, in FILE:1 as well"},
		"nested":     {"queue: {a: b}\n", "", "FILE:1:8: queue: want a value, or a list of values"},
		"empty":      {"queue:\n", "", "FILE:1:7: queue: want a value, or a list of values"},
		"list":       {"queue: [a, b]\n", "", "FILE:1: queue: have a list, want one value"},
		"in a list":  {"place: [a, [b]]\n", "", "FILE:1:12: place: want a value in each line of the list"},
		"no mapping": {"- queue\n", "", "FILE:1:1: want settings, each as name: value"},
		"two":        {"queue: a\n---\nqueue: b\n", "", "FILE: more than one document; only one can be the settings"},
		"no YAML":    {"queue: [\n", "", "FILE: line 1: did not find expected node content"},
		"comments":   {"# nothing\n", "", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			fs, _, _ := flags()
			file := write(t, tt.file)
			t.Setenv(EnvFile, file)
			t.Setenv("ALMANAC_STOP_TIMEOUT", tt.env)
			got := ""
			if _, err := Resolve(fs); err != nil {
				got = strings.ReplaceAll(err.Error(), file, "FILE")
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	fs, _, _ := flags()
	t.Setenv(EnvFile, "/nonexistent/s.yaml")
	if _, err := Resolve(fs); err == nil {
		t.Error("a file that is not there was taken")
	}
}

// What a password may look like is pgtext's to know.
func TestMasked(t *testing.T) {
	fs, _, _ := flags()
	if err := fs.Parse([]string{"--queue", "postgres://u:hunter@h/db", "--place", "http://a:hunter@b", "--place", "password=hunter"}); err != nil {
		t.Fatal(err)
	}
	all, err := Resolve(fs)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if want, ok := map[string]string{"queue": "postgres://u:***@h/db", "place": "[http://a:***@b,password=***]"}[s.Name]; ok && s.Value != want {
			t.Errorf("%s is shown as %s, want %s", s.Name, s.Value, want)
		}
	}
}

func TestMisspelt(t *testing.T) {
	for _, tt := range []struct{ variable, meant string }{
		{"ALMANAC_QUEEU", "ALMANAC_QUEUE"},
		{"ALMANAC_queue", "ALMANAC_QUEUE"},
		{"ALMANAC_QUEUE", ""},
		{"ALMANCA_QUEUE", "ALMANAC_QUEUE"},
		{"ALMANAC-QUEUE", "ALMANAC_QUEUE"},
		{"ALMANAC_STOP_TIMOUT", "ALMANAC_STOP_TIMEOUT"},
		{"ALMANAC_KEYFILE", "ALMANAC_KEY_FILE"},
		{"ALMANAC_KEY", "ALMANAC_KEYS"},
		{"ALMANAC_REFUSE_PLIAN", "ALMANAC_REFUSE_PLAIN"},
		{"ALMANAC_CONFG", "ALMANAC_CONFIG"},
		{"ALMANAC_TESTKEY", "ALMANAC_TESTKEYS"},
		{"ALMANAC_TESTKEYS", ""},
		{"ALMANAC_KEYS", ""},
		{"ALMANAC_NODE", ""},
		{"ALMANAC_KEPT", ""},
		{"ALMANAC_X", ""},
		{"ALMANAC_", ""},
		{"QUEUE", ""},
		{"QUEEU", ""},
		{"ALMANAC_QUE\nUE", ""},
		{"", ""},
	} {
		fs, _, _ := flags()
		got := Misspelt(fs, []string{"PATH=/bin", tt.variable + "=canary=1"})
		var want []string
		if tt.meant != "" {
			want = []string{tt.variable + " is no setting; did you mean " + tt.meant + "?"}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", tt.variable, diff)
		}
	}
	fs, _, _ := flags()
	if got := Misspelt(fs, []string{"ALMANAC_QUEEU=", "ALMANAC_QUEEU"}); got != nil {
		t.Errorf("an empty variable counts as none: %s", got)
	}
}
