package collect

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/internal/inventory"
)

// services are those of systemd; where it does not run, or in a root directory, the scripts in /etc/init.d.
func (m Machine) services(ctx context.Context) ([]inventory.Item, error) {
	if m.Root == "" {
		if _, err := os.Stat("/run/systemd/system"); err == nil {
			return m.systemd(ctx)
		}
	}
	return m.scripts(ctx)
}

func (m Machine) systemd(ctx context.Context) ([]inventory.Item, error) {
	files, err := m.run(ctx, 4<<20, time.Minute, "systemctl", "list-unit-files", "--type=service", "--no-legend", "--no-pager", "--plain")
	if err != nil {
		return nil, err
	}
	units, err := m.run(ctx, 4<<20, time.Minute, "systemctl", "list-units", "--type=service", "--all", "--no-legend", "--no-pager", "--plain")
	if err != nil {
		return nil, err
	}
	return parseSystemd(string(files), string(units)), nil
}

// parseSystemd joins the files of units ("ssh.service enabled enabled") with the units that are
// loaded ("ssh.service loaded active running OpenBSD Secure Shell server").
func parseSystemd(files, units string) []inventory.Item {
	all := map[string]map[string]any{}
	for line := range strings.Lines(files) {
		f := strings.Fields(text(line))
		// A template is no service, and what is made for a session comes and goes.
		if len(f) < 2 || strings.Contains(f[0], "@.") || f[1] == "transient" || f[1] == "generated" && strings.HasPrefix(f[0], "run-") {
			continue
		}
		all[f[0]] = map[string]any{"state": f[1], "enabled": strings.HasPrefix(f[1], "enabled"), "active": false}
	}
	for line := range strings.Lines(units) {
		f := strings.Fields(text(line))
		if len(f) < 4 || f[1] != "loaded" && f[1] != "masked" {
			continue
		}
		values := all[f[0]]
		if values == nil {
			// An instance of a template, such as getty@tty1.
			if !strings.Contains(f[0], "@") || strings.HasPrefix(f[0], "user@") || strings.HasPrefix(f[0], "user-runtime-dir@") {
				continue
			}
			values = map[string]any{"state": "instance", "enabled": false}
			all[f[0]] = values
		}
		values["active"] = f[2] == "active" || f[2] == "activating" || f[2] == "reloading"
		values["failed"] = f[2] == "failed"
	}
	var items []inventory.Item
	for name, values := range all {
		items = append(items, inventory.Item{Kind: "service", Key: strings.TrimSuffix(name, ".service"), Values: values})
	}
	return items
}

// mostScripts bounds how many scripts are asked for their status.
const mostScripts = 300

func (m Machine) scripts(ctx context.Context) ([]inventory.Item, error) {
	dir := m.file("/etc/init.d")
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, errors.New("neither systemd runs, nor is there an /etc/init.d")
	}
	var items []inventory.Item
	for i, f := range files {
		info, err := os.Stat(filepath.Join(dir, f.Name()))
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 || i >= mostScripts {
			continue
		}
		links, _ := filepath.Glob(m.file("/etc") + "/rc[2-5].d/S[0-9][0-9]" + strings.ReplaceAll(f.Name(), `\`, `\\`))
		values := map[string]any{"enabled": len(links) > 0}
		if slices.Contains([]string{"rc", "rcS", "README", "skeleton", "functions", "halt", "reboot", "single"}, f.Name()) {
			continue // no service has these names
		}
		// LSB: 0 runs, 1 to 3 does not; others do not know, and then it is not said.
		code, err := m.exitCode(ctx, 10*time.Second, filepath.Join(dir, f.Name()), "status")
		if err == nil && code <= 3 {
			values["active"] = code == 0
		}
		items = append(items, inventory.Item{Kind: "service", Key: text(f.Name()), Values: values})
	}
	return items, ctx.Err()
}
