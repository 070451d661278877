package ssmnode

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/simcloud"
)

// fakeSystemctl keeps the state of units in files, and says what it was asked.
const fakeSystemctl = `#!/bin/sh
echo "$*" >>"$ALMANAC_ROOT/calls"
for name; do :; done
unit=$ALMANAC_ROOT/units/$name
case $1 in
  show)
    [ -d "$unit" ] || { echo LoadState=not-found; exit 0; }
    echo LoadState=loaded; echo "ActiveState=$(cat "$unit/active")"; echo "UnitFileState=$(cat "$unit/enabled")" ;;
  start | restart) [ ! -e "$unit/broken" ] || { echo "Job for $name failed." >&2; exit 1; }; echo active >"$unit/active" ;;
  stop) echo inactive >"$unit/active" ;;
  reload) : ;;
  enable) echo enabled >"$unit/enabled" ;;
  disable) echo disabled >"$unit/enabled" ;;
esac
`

// fakeScript is a service as System V knows it.
const fakeScript = `#!/bin/sh
echo "${0##*/} $1" >>"$ALMANAC_ROOT/calls"
unit=$ALMANAC_ROOT/units/${0##*/}
case $1 in
  status) [ "$(cat "$unit/active")" = active ] || exit 3 ;;
  start | restart) [ ! -e "$unit/broken" ] || { echo "no" >&2; exit 1; }; echo active >"$unit/active" ;;
  stop) echo inactive >"$unit/active" ;;
esac
`

const fakeUpdate = `#!/bin/sh
echo "update-rc.d $*" >>"$ALMANAC_ROOT/calls"
rm -f "$ALMANAC_ROOT"/etc/rc3.d/S??"$1"
[ "$2" = disable ] || : >"$ALMANAC_ROOT/etc/rc3.d/S50$1"
`

// serviceWorld is an instance whose services are made up: of systemd or of scripts.
type serviceWorld struct {
	*world
	root string
}

func newServiceWorld(t *testing.T, systemd bool) serviceWorld {
	t.Helper()
	root := t.TempDir()
	s := serviceWorld{root: root}
	s.world = newWorld(t, func(o *simcloud.Options) {
		o.Shell = func(ctx context.Context, c simcloud.Command) simcloud.CommandResult {
			cmd := exec.CommandContext(ctx, "sh", "-c", strings.Join(c.Script, "\n"))
			cmd.Env = []string{"PATH=" + root + "/bin:" + os.Getenv("PATH"), "HOME=" + root, "ALMANAC_ROOT=" + root, "ALMANAC_STATE_DIR=" + root + "/state"}
			var stdout, stderr strings.Builder
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			_ = cmd.Run()
			return simcloud.CommandResult{ExitCode: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String(), Duration: time.Second}
		}
	})
	s.make("bin/systemctl", fakeSystemctl)
	s.make("bin/update-rc.d", fakeUpdate)
	if systemd {
		s.make("run/systemd/system/.x", "")
	}
	s.make("etc/rc3.d/.x", "")
	return s
}

func (s serviceWorld) make(name, content string) {
	s.Helper()
	file := filepath.Join(s.root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		s.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o755); err != nil {
		s.Fatal(err)
	}
}

func (s serviceWorld) unit(name, active, enabled string) {
	s.make("units/"+name+"/active", active+"\n")
	s.make("units/"+name+"/enabled", enabled+"\n")
	s.make("etc/init.d/"+name, fakeScript)
	if enabled == "enabled" {
		s.make("etc/rc3.d/S50"+name, "")
	}
}

// calls are what was asked since the last time, but for questions.
func (s serviceWorld) calls() string {
	file := filepath.Join(s.root, "calls")
	b, _ := os.ReadFile(file)
	os.Remove(file)
	var all []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "show ") && !strings.HasSuffix(line, " status") {
			all = append(all, line)
		}
	}
	return strings.Join(all, ", ")
}

func TestServices(t *testing.T) {
	for _, systemd := range []bool{true, false} {
		for i, tt := range []struct {
			verb, active, enabled string
			want                  string // active, enabled, changed
			did, undid            string // systemctl's words; a script's follow from them
		}{
			{"start", "inactive", "enabled", "true true true", "start", "stop"},
			{"start", "active", "enabled", "true true false", "start", ""},
			{"stop", "active", "disabled", "false false true", "stop", "start"},
			{"stop", "inactive", "disabled", "false false false", "stop", ""},
			{"restart", "active", "enabled", "true true false", "restart", ""},
			{"restart", "inactive", "enabled", "true true true", "restart", "stop"},
			{"reload", "active", "enabled", "true true false", "reload", ""},
			{"enable", "inactive", "disabled", "false true true", "enable", "disable"},
			{"enable", "active", "enabled", "true true false", "enable", ""},
			{"disable", "active", "enabled", "true false true", "disable", "enable"},
			{"status", "inactive", "enabled", "false true false", "", ""},
		} {
			t.Run(fmt.Sprintf("%s %v %d", tt.verb, systemd, i), func(t *testing.T) {
				s := newServiceWorld(t, systemd)
				s.unit("nginx", tt.active, tt.enabled)
				words := func(verb string) string {
					switch {
					case verb == "":
						return ""
					case systemd:
						return verb + " -- nginx"
					case verb == "enable" || verb == "disable":
						return "update-rc.d nginx " + verb
					}
					return "nginx " + verb
				}
				in := m{"name": "nginx"}
				out := s.must("host.service."+tt.verb, in)
				if got := fmt.Sprint(out["active"], " ", out["enabled"], " ", out["changed"]); got != tt.want || out["name"] != "nginx" {
					t.Errorf("%s, want %s", got, tt.want)
				}
				if got := s.calls(); got != words(tt.did) {
					t.Errorf("did %q, want %q", got, words(tt.did))
				}
				s.attempt = 2
				if again := s.must("host.service."+tt.verb, in); fmt.Sprint(again) != fmt.Sprint(out) || s.calls() != "" {
					t.Errorf("again: %v", again)
				}
				if !s.find("host.service." + tt.verb).Compensates {
					return
				}
				for n := range 2 {
					if err := s.compensate("host.service."+tt.verb, in, out); err != nil {
						t.Fatal(err)
					}
					want := words(tt.undid)
					if n > 0 {
						want = ""
					}
					if got := s.calls(); got != want {
						t.Errorf("undone by %q, want %q", got, want)
					}
				}
				s.token = "b" + token[1:]
				if now := s.must("host.service.status", in); now["active"] != (tt.active == "active") || now["enabled"] != (tt.enabled == "enabled") {
					t.Errorf("taken back: %v", now)
				}
			})
		}
	}
}

func TestServiceFails(t *testing.T) {
	for _, systemd := range []bool{true, false} {
		s := newServiceWorld(t, systemd)
		s.unit("nginx", "inactive", "disabled")
		_, err := s.do("host.service.start", m{"name": "apache"})
		wants(t, err, action.NotFound, "no service apache")
		_, err = s.do("host.service.start", m{"name": "a;b"})
		wants(t, err, action.Invalid, "no name of a service")
		_, err = s.do("host.service.start", m{"name": "--help"})
		wants(t, err, action.Invalid, "no name of a service")
		// It is safe to repeat: when what was in the way is gone, a further attempt does it.
		s.token = "b" + token[1:]
		s.make("units/nginx/broken", "")
		_, err = s.do("host.service.start", m{"name": "nginx"})
		wants(t, err, action.Failed, "start service nginx: exit code 1")
		os.Remove(filepath.Join(s.root, "units/nginx/broken"))
		s.attempt = 2
		if out := s.must("host.service.start", m{"name": "nginx"}); out["active"] != true || out["changed"] != true {
			t.Error(out)
		}
		// Taken back before it began, it does not begin late.
		s.token = "c" + token[1:]
		if err := s.compensate("host.service.stop", m{"name": "nginx"}, nil); err != nil {
			t.Fatal(err)
		}
		_, err = s.do("host.service.stop", m{"name": "nginx"})
		wants(t, err, action.Conflict, "rolled back")
	}
	none := newServiceWorld(t, false)
	_, err := none.do("host.service.start", m{"name": "nginx"})
	wants(t, err, action.Invalid, "has no services")
}
