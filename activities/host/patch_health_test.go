package host

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/almanac-run/almanac/action"
)

// Updates with which a node is not healthy are taken back at once, unless they
// are to be kept; whatever happens in between, nothing happens twice. It is a part of TestPatchApt, and leaves the
// root as it was.
func unhealthy(t *testing.T, b bench) {
	version := func(name string) string { return dpkgVersion(t, b.Root, name) }
	dpkg := func() string { return read(t, filepath.Join(b.Root, "var/log/dpkg.log")) }
	ill := func(t *testing.T, err error, says string) PatchDetail {
		t.Helper()
		var e *action.Error
		if !errors.As(err, &e) || e.Kind != action.Failed || err.Error() != says {
			t.Fatalf("error %v\nwant  %s", err, says)
		}
		return e.Detail.(PatchDetail)
	}
	// It says how often it ran, and what it knows by a secret.
	const check = `echo run >> "$ALMANAC_RUNS"
now=$(cat "$NODE_ROOT/usr/share/alpha/version")
test "$now" = 1.0 || { echo "alpha $now is bad ($PASSWORD)" >&2; exit 4; }`

	t.Run("they are taken back", func(t *testing.T) {
		runs := filepath.Join(t.TempDir(), "runs")
		in := baseline(only("alpha", "beta"))
		in["health"], in["health_env"] = check, map[string]any{"ALMANAC_RUNS": runs, "PASSWORD": map[string]any{"$secret": "env:PASSWORD"}}
		before := dpkg()
		const says = "health check failed: exit 4: alpha 2.0 is bad (***); 3 updates taken back; it is healthy again"
		_, err := b.do(callContext("ill"), "host.patch.install", in)
		detail := ill(t, err, says)
		if detail.ExitCode != 4 || detail.Upgraded != 0 || !strings.Contains(detail.Tail, "is bad") || strings.Contains(detail.Tail, "hunter2") {
			t.Errorf("detail %+v", detail)
		}
		if version("alpha") != "1.0" || version("beta") != "1.0" || version("gamma") != "1.0" {
			t.Errorf("alpha %s, beta %s, gamma %s", version("alpha"), version("beta"), version("gamma"))
		}
		// Asked again, by a server that has lost the answer, it says the same; a rollback has nothing to do.
		after := dpkg()
		_, err = b.do(callContext("ill"), "host.patch.install", in)
		ill(t, err, says)
		for range 2 {
			if err := b.undo("ill", "host.patch.install", in, nil); err != nil {
				t.Fatal(err)
			}
		}
		_, err = b.do(callContext("ill"), "host.patch.install", in)
		ill(t, err, says)
		if dpkg() != after || after == before {
			t.Errorf("dpkg has worked again: %s", strings.TrimPrefix(dpkg(), after))
		}
		if got := read(t, runs); got != "run\nrun\n" {
			t.Errorf("the script ran: %q", got)
		}
		// What somebody installs later is not this step's to take back.
		apt := func(version string) {
			// A configuration file of it was changed by hand in another test.
			run(t, "/", "chroot", b.Root, "apt-get", "-q", "-y", "--allow-downgrades", "-o", "Dpkg::Options::=--force-confold", "install", "alpha="+version)
		}
		apt("2.0")
		if err := b.undo("ill", "host.patch.install", in, nil); err != nil || version("alpha") != "2.0" {
			t.Errorf("alpha %s, error %v", version("alpha"), err)
		}
		apt("1.0")
	})

	t.Run("they are kept", func(t *testing.T) {
		in := baseline(only("alpha"))
		in["health"], in["health_timeout"], in["on_unhealthy"] = "sleep 60", "300ms", "keep"
		_, err := b.do(callContext("keep"), "host.patch.install", in)
		if detail := ill(t, err, "health check failed: it did not end within 300ms; 1 update kept"); detail.Upgraded != 1 || version("alpha") != "2.0" {
			t.Errorf("alpha %s, detail %+v", version("alpha"), detail)
		}
		// Another attempt has nothing to install, and does not take that for health.
		in["health"] = "echo no; exit 1"
		_, err = b.do(callContext("keep-2"), "host.patch.install", in)
		ill(t, err, "health check failed: exit 1: no; this step has changed no package")
		in["health"] = "true"
		if out, err := b.do(callContext("keep-3"), "host.patch.install", in); err != nil || out["status"] != "compliant" {
			t.Errorf("%v, error %v", out, err)
		}
		if err := b.undo("keep", "host.patch.install", in, nil); err != nil || version("alpha") != "1.0" {
			t.Errorf("after undo alpha %s, error %v", version("alpha"), err)
		}
	})

	t.Run("a script that cannot be run is found before", func(t *testing.T) {
		before := dpkg()
		for name, value := range map[string]any{"health_env": map[string]any{"A-B": "x"}, "health_shell": "fish"} {
			in := baseline(only("alpha"))
			in["health"], in[name] = "true", value
			if _, err := b.do(callContext("wrong-"+name), "host.patch.install", in); action.KindOf(err) != action.Invalid || !strings.Contains(err.Error(), "health") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if dpkg() != before {
			t.Error("something was installed")
		}
	})

	t.Run("the agent is killed while they are taken back", func(t *testing.T) {
		runs := filepath.Join(b.Root, "tardy-runs")
		in := baseline(only("tardy"))
		in["health"] = "false"
		killAgent(t, b, "ill-killed", in, runs)
		const says = "health check failed: exit 1; 1 update taken back; it is still not healthy: exit 1"
		_, err := b.do(callContext("ill-killed"), "host.patch.install", in)
		ill(t, err, says)
		if got := read(t, runs); got != "started\ndone\n" || version("tardy") != "1.0" {
			t.Errorf("tardy %s, runs %q", version("tardy"), got)
		}
		if n := strings.Count(dpkg(), " upgrade tardy:all 2.0 1.0"); n != 1 {
			t.Errorf("it was taken back %d times", n)
		}
		// Had it died before it could note that, the next attempt would find everything in its place.
		file := filepath.Join(b.StateDir, "journal/ill-killed", patchFile)
		var s patchState
		if err := json.Unmarshal([]byte(read(t, file)), &s); err != nil {
			t.Fatal(err)
		}
		s.RolledBack, s.Looks = false, s.Looks[:1]
		if err := os.WriteFile(file, marshal(t, s), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = b.do(callContext("ill-killed"), "host.patch.install", in)
		ill(t, err, says)
		if n := strings.Count(dpkg(), " upgrade tardy:all 2.0 1.0"); n != 1 {
			t.Errorf("it was taken back %d times", n)
		}
	})
}

// What an error quotes of a health check's output is one line.
func TestPatchLastLine(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "\n \n": "", "one": "one", "one\n two \n\n": "two", strings.Repeat("é", 300): strings.Repeat("é", 199) + "…",
	} {
		if got := lastLine(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
