package collect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/almanac-run/almanac/internal/inventory"
)

// pkg is an installed package, whoever installed it.
type pkg struct{ name, version, arch, source, manager string }

// packages come from the databases of dpkg, rpm and apk.
func (m Machine) packages(ctx context.Context) ([]inventory.Item, error) {
	var all []pkg
	known := false
	for _, read := range []func(context.Context) ([]pkg, error){m.dpkg, m.rpm, m.apk} {
		some, err := read(ctx)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return nil, err
		}
		known = true
		all = append(all, some...)
	}
	if !known {
		return nil, errors.New("there is no database of dpkg, rpm or apk")
	}
	return packageItems(all), nil
}

// packageItems names packages by their name, and those of which there are several with what tells them apart.
func packageItems(all []pkg) []inventory.Item {
	names, arches := map[string]int{}, map[string]int{}
	for _, p := range all {
		names[p.name]++
		arches[p.name+":"+p.arch]++
	}
	items := make([]inventory.Item, 0, len(all))
	for _, p := range all {
		key := p.name
		switch {
		case arches[p.name+":"+p.arch] > 1:
			key = p.name + "-" + p.version + ":" + p.arch
		case names[p.name] > 1:
			key = p.name + ":" + p.arch
		}
		values := map[string]any{"name": p.name, "version": p.version, "manager": p.manager}
		if p.arch != "" {
			values["arch"] = p.arch
		}
		if p.source != "" && p.source != p.name {
			values["source"] = p.source
		}
		items = append(items, inventory.Item{Kind: "package", Key: key, Values: values})
	}
	return items
}

func (m Machine) dpkg(context.Context) ([]pkg, error) {
	var all []pkg
	var p pkg
	installed := false
	flush := func() {
		if p.name != "" && installed {
			p.manager = "dpkg"
			all = append(all, p)
		}
		p, installed = pkg{}, false
	}
	err := lines(m.file("/var/lib/dpkg/status"), func(line string) {
		if line == "" {
			flush()
			return
		}
		key, value, _ := strings.Cut(line, ": ")
		switch key {
		case "Package":
			p.name = value
		case "Version":
			p.version = value
		case "Architecture":
			p.arch = value
		case "Source":
			p.source, _, _ = strings.Cut(value, " ") // a version in parentheses may follow
		case "Status":
			// want, flag, state: "hold ok installed", "deinstall ok config-files", "install ok half-configured"
			state := value[strings.LastIndex(value, " ")+1:]
			installed = state != "not-installed" && state != "config-files"
		}
	})
	flush()
	return all, err
}

func (m Machine) rpm(ctx context.Context) ([]pkg, error) {
	there := false
	for _, dir := range []string{"/var/lib/rpm", "/usr/lib/sysimage/rpm"} {
		files, _ := os.ReadDir(m.file(dir))
		for _, f := range files {
			there = there || f.Name() == "rpmdb.sqlite" || f.Name() == "Packages" || f.Name() == "Packages.db"
		}
	}
	if !there {
		return nil, fs.ErrNotExist
	}
	args := []string{"-qa", "--qf", `%{NAME}\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\t%{ARCH}\t%{SOURCERPM}\n`}
	if m.Root != "" {
		args = append([]string{"--root", m.Root}, args...)
	}
	out, err := m.run(ctx, maxText, 2*time.Minute, "rpm", args...)
	if err != nil {
		return nil, err
	}
	return parseRPM(string(out)), nil
}

func parseRPM(out string) []pkg {
	var all []pkg
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSpace(text(line)), "\t")
		if len(f) < 4 || f[0] == "gpg-pubkey" {
			continue // a key is no package
		}
		if f[2] == "(none)" {
			f[2] = ""
		}
		p := pkg{name: f[0], version: f[1], arch: f[2], manager: "rpm"}
		// openssl-3.0.7-27.el9.src.rpm is of openssl.
		if parts := strings.Split(strings.TrimSuffix(f[3], ".src.rpm"), "-"); len(parts) > 2 {
			p.source = strings.Join(parts[:len(parts)-2], "-")
		}
		all = append(all, p)
	}
	return all
}

func (m Machine) apk(context.Context) ([]pkg, error) {
	var all []pkg
	p := pkg{}
	flush := func() {
		if p.name != "" {
			p.manager = "apk"
			all = append(all, p)
		}
		p = pkg{}
	}
	err := lines(m.file("/lib/apk/db/installed"), func(line string) {
		key, value, _ := strings.Cut(line, ":")
		switch {
		case line == "":
			flush()
		case key == "P":
			p.name = value
		case key == "V":
			p.version = value
		case key == "A":
			p.arch = value
		case key == "o":
			p.source = value
		}
	})
	flush()
	if err != nil {
		return nil, fmt.Errorf("apk: %w", err)
	}
	return all, nil
}
