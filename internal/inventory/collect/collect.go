// Package collect finds the facts of the machine it runs on.
//
// It gives Machine, with a method that finds the items of one kind, Files and Fact. It promises that
// the same machine gives the same items in any order; that what it reads and runs is
// bounded in size and time; that it changes nothing and calls nobody; and that no password, not even its hash, is
// among the items. It refuses to know who wants the facts and where they go.
//
// Linux is known best. Elsewhere a kind that cannot be found is an error that says so.
package collect

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/almanac-run/almanac/internal/inventory"
)

// Machine is the machine, or a directory that stands for it.
type Machine struct {
	ID   string            // of the node
	Tags map[string]string // of the node: the region may be among them
	Root string            // files are taken below it; empty: the whole machine. Network, kernel and hardware are the machine's
}

// Kinds are the kinds that Kind finds, in order.
var Kinds = slices.Sorted(maps.Keys(kinds))

var kinds = map[string]func(Machine, context.Context) ([]inventory.Item, error){
	"instance":  Machine.instance,
	"interface": Machine.interfaces,
	"kernel":    Machine.kernel,
	"package":   Machine.packages,
	"port":      Machine.ports,
	"service":   Machine.services,
	"user":      Machine.users,
}

// Kind finds all items of one of Kinds.
func (m Machine) Kind(ctx context.Context, kind string) ([]inventory.Item, error) {
	find, ok := kinds[kind]
	if !ok {
		return nil, fmt.Errorf("there is no kind %q; there are %s", kind, strings.Join(Kinds, ", "))
	}
	items, err := find(m, ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	return items, nil
}

// file is a path of the node as a path of the machine. Only for paths that are known here: those
// of a user go through os.Root.
func (m Machine) file(path string) string { return filepath.Join("/", m.Root, path) }

// maxText bounds a file of text that is read.
const maxText = 64 << 20

// lines calls each for every line of a file of the machine. A line is at most 1 MiB.
func lines(file string, each func(line string)) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	scan := bufio.NewScanner(io.LimitReader(f, maxText))
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		each(text(scan.Text()))
	}
	return scan.Err()
}

// text makes s what every database and expression takes.
func text(s string) string {
	if utf8.ValidString(s) && !strings.ContainsRune(s, 0) {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
}

func (m Machine) kernel(context.Context) ([]inventory.Item, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, err
	}
	values := map[string]any{
		"release": unix.ByteSliceToString(u.Release[:]), "version": unix.ByteSliceToString(u.Version[:]),
		"machine": unix.ByteSliceToString(u.Machine[:]), "hostname": unix.ByteSliceToString(u.Nodename[:]),
	}
	return []inventory.Item{{Kind: "kernel", Key: strings.ToLower(unix.ByteSliceToString(u.Sysname[:])), Values: values}}, nil
}

func (m Machine) interfaces(context.Context) ([]inventory.Item, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var items []inventory.Item
	for _, i := range all {
		addresses := []string{}
		if addrs, err := i.Addrs(); err == nil {
			for _, a := range addrs {
				addresses = append(addresses, a.String())
			}
		}
		slices.Sort(addresses)
		items = append(items, inventory.Item{Kind: "interface", Key: text(i.Name), Values: map[string]any{
			"mac": i.HardwareAddr.String(), "mtu": i.MTU, "up": i.Flags&net.FlagUp != 0,
			"loopback": i.Flags&net.FlagLoopback != 0, "addresses": addresses,
		}})
	}
	return items, nil
}

func (m Machine) users(context.Context) ([]inventory.Item, error) {
	groups := map[string][]string{}
	names := map[string]string{} // of groups by number
	err := lines(m.file("/etc/group"), func(line string) {
		f := strings.Split(line, ":")
		if len(f) < 4 {
			return
		}
		names[f[2]] = f[0]
		for user := range strings.SplitSeq(f[3], ",") {
			if user = strings.TrimSpace(user); user != "" {
				groups[user] = append(groups[user], f[0])
			}
		}
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// Only whether there is a password, never anything of it. The agent may not be allowed to look.
	passwords := map[string]string{}
	_ = lines(m.file("/etc/shadow"), func(line string) {
		if f := strings.Split(line, ":"); len(f) > 1 {
			passwords[f[0]] = passwordState(f[1])
		}
	})
	var items []inventory.Item
	err = lines(m.file("/etc/passwd"), func(line string) {
		f := strings.Split(line, ":")
		uid, err := strconv.Atoi(at(f, 2))
		if len(f) < 7 || err != nil || f[0] == "" {
			return
		}
		values := map[string]any{"uid": uid, "home": f[5], "shell": f[6], "comment": f[4]}
		if gid, err := strconv.Atoi(f[3]); err == nil {
			values["gid"] = gid
		}
		of := append([]string{}, groups[f[0]]...)
		if name := names[f[3]]; name != "" {
			of = append(of, name)
		}
		slices.Sort(of)
		values["groups"] = slices.Compact(of)
		if state := passwords[f[0]]; state != "" {
			values["password"] = state
		} else if f[1] == "" {
			values["password"] = "empty"
		}
		items = append(items, inventory.Item{Kind: "user", Key: f[0], Values: values})
	})
	return items, err
}

func at(fields []string, i int) string {
	if i < len(fields) {
		return fields[i]
	}
	return ""
}

// passwordState says what a field of the shadow file means.
func passwordState(field string) string {
	switch {
	case field == "":
		return "empty"
	case strings.HasPrefix(field, "!"), strings.HasPrefix(field, "*"):
		return "locked"
	}
	return "set"
}

// instance says what the machine is: its hardware as the firmware tells it, and the
// cloud if the firmware or cloud-init knows. Nobody is asked over the network.
func (m Machine) instance(context.Context) ([]inventory.Item, error) {
	dmi := func(name string) string {
		b, err := os.ReadFile("/sys/class/dmi/id/" + name)
		if err != nil || len(b) > 1000 {
			return ""
		}
		return text(strings.TrimSpace(string(b)))
	}
	h := hardware{
		vendor: dmi("sys_vendor"), product: dmi("product_name"), uuid: dmi("product_uuid"), bios: dmi("bios_version"),
		board: dmi("board_asset_tag"), chassis: dmi("chassis_asset_tag"),
	}
	values := h.values(m.Tags, "/run/cloud-init/instance-data.json")
	values["arch"], values["cpus"] = runtime.GOARCH, runtime.NumCPU()
	_ = lines("/proc/meminfo", func(line string) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			if kib, err := strconv.ParseInt(strings.Fields(rest + " 0")[0], 10, 64); err == nil {
				values["memory_mib"] = kib / 1024
			}
		}
	})
	return []inventory.Item{{Kind: "instance", Key: m.ID, Values: values}}, nil
}
