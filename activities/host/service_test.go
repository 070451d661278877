package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/almanac-run/almanac/action"
)

// A service of System V: it runs as long as its pid file is there, and notes
// what it is told. Its daemon keeps its output open, as some do.
const initScript = `#!/bin/sh
pid=$NODE_ROOT/web.pid
case "$1" in
start) echo start >> "$NODE_ROOT/told"; sleep 60 & echo $! > "$pid" ;;
stop) echo stop >> "$NODE_ROOT/told"; kill $(cat "$pid"); rm -f "$pid" ;;
restart) echo restart >> "$NODE_ROOT/told"; test -e "$pid" && kill $(cat "$pid"); sleep 60 & echo $! > "$pid" ;;
reload) echo "bad configuration in web.conf"; exit 6 ;;
status) test -e "$pid" || exit 3 ;;
esac
`

func newServices(t *testing.T, active bool) bench {
	b := newBench(t)
	b.Root = t.TempDir()
	dir := filepath.Join(b.Root, "etc", "init.d")
	os.MkdirAll(dir, 0o755)
	if err := os.WriteFile(filepath.Join(dir, "web"), []byte(initScript), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.do(callContext("cleanup"), "host.service.stop", map[string]any{"name": "web"}) })
	if active {
		if _, err := b.do(callContext("setup"), "host.service.start", map[string]any{"name": "web"}); err != nil {
			t.Fatal(err)
		}
		os.Remove(filepath.Join(b.Root, "told"))
	}
	return b
}

func TestServiceAndBack(t *testing.T) {
	tests := []struct {
		action        string
		active        bool // before
		then, changed bool // active after Do, and whether it says so
		told          string
	}{
		{"start", false, true, true, "start stop"},
		{"start", true, true, false, "start"},
		{"stop", true, false, true, "stop start"},
		{"restart", true, true, false, "restart"},
		{"restart", false, true, true, "restart stop"},
	}
	for _, tt := range tests {
		for _, lost := range []bool{false, true} {
			b := newServices(t, tt.active)
			in := map[string]any{"name": "web"}
			name := "host.service." + tt.action
			out, err := b.do(callContext("tok"), name, in)
			if err != nil || out["active"] != tt.then || out["changed"] != tt.changed {
				t.Errorf("%+v: out %v, error %v", tt, out, err)
			}
			var known any
			if !lost {
				known = out
			}
			for range 2 {
				if err := b.undo("tok", name, in, known); err != nil {
					t.Errorf("%+v: undo: %v", tt, err)
				}
			}
			now, err := b.do(callContext("look"), "host.service.status", in)
			if err != nil || now["active"] != tt.active {
				t.Errorf("%+v: after undo %v, error %v", tt, now, err)
			}
			told, _ := os.ReadFile(filepath.Join(b.Root, "told"))
			if got := strings.Join(strings.Fields(string(told)), " "); got != tt.told {
				t.Errorf("%+v: told %q", tt, got)
			}
		}
	}
}

func TestServiceEnable(t *testing.T) {
	b := newServices(t, false)
	in := map[string]any{"name": "web"}
	steps := []struct {
		token, action string
		undo          bool
		enabled       bool
	}{
		{"a", "enable", false, true},
		{"b", "enable", false, true},
		{"b", "enable", true, true}, // it was enabled before b
		{"c", "disable", false, false},
		{"c", "disable", true, true},
		{"a", "enable", true, false},
		{"a", "enable", true, false},
	}
	for _, s := range steps {
		var err error
		if s.undo {
			err = b.undo(s.token, "host.service."+s.action, in, nil)
		} else {
			_, err = b.do(callContext(s.token), "host.service."+s.action, in)
		}
		now, statusErr := b.do(callContext("look"), "host.service.status", in)
		if err != nil || statusErr != nil || now["enabled"] != s.enabled {
			t.Errorf("%+v: %v, errors %v, %v", s, now, err, statusErr)
		}
	}
}

// Do failed before it began, or comes after its rollback.
func TestServiceUndoWithoutDo(t *testing.T) {
	b := newServices(t, false)
	for i, name := range []string{"web", "nothing", "no name"} {
		in := map[string]any{"name": name}
		token := fmt.Sprint("tok", i)
		for range 2 {
			if err := b.undo(token, "host.service.start", in, nil); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := b.do(callContext(token), "host.service.start", in); err == nil || name == "web" && action.KindOf(err) != action.Conflict {
			t.Errorf("%s, late: %v", name, err)
		}
	}
	if now, err := b.do(callContext("look"), "host.service.status", map[string]any{"name": "web"}); err != nil || now["active"] != false {
		t.Errorf("status %v, error %v", now, err)
	}
}

func TestServiceRefusals(t *testing.T) {
	b := newServices(t, false)
	tests := []struct {
		action, name string
		kind         action.Kind
		says         string
	}{
		{"start", "nothing", action.NotFound, "no service nothing"},
		{"start", "../../bin/sh", action.Invalid, "no name of a service"},
		{"start", "-h", action.Invalid, "no name of a service"},
		{"status", "", action.Invalid, "no name of a service"},
		{"reload", "web", action.Failed, "exit code 6: bad configuration in web.conf"},
	}
	for _, tt := range tests {
		_, err := b.do(callContext("tok"), "host.service."+tt.action, map[string]any{"name": tt.name})
		if err == nil || action.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s %q: error %v, want %s: %s", tt.action, tt.name, err, tt.kind, tt.says)
		}
	}
}

func TestNodeDescribe(t *testing.T) {
	b := newBench(t)
	b.Tags = map[string]string{"role": "web"}
	out, err := b.do(callContext("tok"), "host.node.describe", map[string]any{})
	if err != nil || out["id"] != "web-1" || out["tags"].(map[string]any)["role"] != "web" || out["os"] == "" || out["arch"] == "" || out["boot_id"] == "" {
		t.Fatalf("out %v, error %v", out, err)
	}
	b.Tags = nil
	if out, _ := b.do(callContext("tok"), "host.node.describe", map[string]any{}); out["tags"] == nil {
		t.Errorf("tags are null")
	}
}
