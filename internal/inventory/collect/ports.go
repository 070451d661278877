package collect

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/almanac-run/almanac/internal/inventory"
)

// socket is one that waits for others.
type socket struct {
	protocol string
	address  netip.AddrPort
	uid      int
	inode    string
}

// ports are the sockets of TCP and UDP that wait for others. Those of UDP with a
// port that the system picked are somebody's own questions and are left out.
func (m Machine) ports(context.Context) ([]inventory.Item, error) {
	return ports("/proc", m.userNames())
}

func ports(proc string, users map[int]string) ([]inventory.Item, error) {
	low, high := 32768, 60999
	_ = lines(filepath.Join(proc, "sys/net/ipv4/ip_local_port_range"), func(line string) {
		_, _ = fmt.Sscan(line, &low, &high)
	})
	var all []socket
	known := false
	for _, protocol := range []string{"tcp", "tcp6", "udp", "udp6"} {
		var wrong error
		first := true
		err := lines(filepath.Join(proc, "net", protocol), func(line string) {
			if first {
				first = false // the heading
				return
			}
			s, listens, err := parseSocket(protocol, line)
			if err != nil {
				wrong = err
			}
			if port := int(s.address.Port()); listens && (s.protocol == "tcp" || port < low || port > high) {
				all = append(all, s)
			}
		})
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return nil, err
		case wrong != nil:
			return nil, wrong
		}
		known = true
	}
	if !known {
		return nil, errors.New("this system does not tell them in /proc/net")
	}
	owners := processes(proc, all)
	items := map[string]inventory.Item{}
	for _, s := range all {
		key := s.protocol + "/" + s.address.String()
		// Several processes may share a port.
		item, ok := items[key]
		if !ok {
			values := map[string]any{"protocol": s.protocol, "address": s.address.Addr().String(), "port": int(s.address.Port()), "uid": s.uid}
			if name := users[s.uid]; name != "" {
				values["user"] = name
			}
			item = inventory.Item{Kind: "port", Key: key, Values: values}
			items[key] = item
		}
		if names := owners[s.inode]; len(names) > 0 {
			had, _ := item.Values["processes"].([]string)
			names = append(slices.Clone(had), names...)
			slices.Sort(names)
			item.Values["processes"] = slices.Compact(names)
		}
	}
	list := make([]inventory.Item, 0, len(items))
	for _, i := range items {
		list = append(list, i)
	}
	return list, nil
}

// parseSocket reads a line of /proc/net/tcp and the like:
//
//	0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 …
func parseSocket(protocol, line string) (socket, bool, error) {
	f := strings.Fields(line)
	if len(f) < 10 {
		return socket{}, false, fmt.Errorf("/proc/net/%s is not of the form that is known", protocol)
	}
	address, port, _ := strings.Cut(f[1], ":")
	raw, err := hex.DecodeString(address)
	number, err2 := strconv.ParseUint(port, 16, 16)
	uid, err3 := strconv.Atoi(f[7])
	if err != nil || err2 != nil || err3 != nil || len(raw) != 4 && len(raw) != 16 {
		return socket{}, false, fmt.Errorf("/proc/net/%s is not of the form that is known", protocol)
	}
	// Words of four bytes in the order of the processor; all that Go runs Linux on and that matters here is little-endian.
	for i := 0; i < len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	addr, _ := netip.AddrFromSlice(raw)
	s := socket{protocol: strings.TrimSuffix(protocol, "6"), address: netip.AddrPortFrom(addr.Unmap(), uint16(number)), uid: uid, inode: f[9]}
	if addr.Is6() && addr.IsUnspecified() {
		s.address = netip.AddrPortFrom(addr, uint16(number)) // [::], and not 0.0.0.0
	}
	const listening, unconnected = "0A", "07"
	return s, s.protocol == "tcp" && f[3] == listening || s.protocol == "udp" && f[3] == unconnected, nil
}

// processes returns the names of the processes that have sockets, by inode. Those of other
// users are seen by root only.
func processes(proc string, sockets []socket) map[string][]string {
	wanted := map[string]bool{}
	for _, s := range sockets {
		wanted[s.inode] = true
	}
	found := map[string][]string{}
	dirs, _ := os.ReadDir(proc)
	for _, d := range dirs {
		if _, err := strconv.Atoi(d.Name()); err != nil {
			continue
		}
		fds, err := os.ReadDir(filepath.Join(proc, d.Name(), "fd"))
		if err != nil {
			continue // it has ended, or is somebody else's
		}
		name := ""
		for _, fd := range fds {
			link, err := os.Readlink(filepath.Join(proc, d.Name(), "fd", fd.Name()))
			inode, ok := strings.CutPrefix(link, "socket:[")
			if inode = strings.TrimSuffix(inode, "]"); err != nil || !ok || !wanted[inode] {
				continue
			}
			if name == "" {
				b, err := os.ReadFile(filepath.Join(proc, d.Name(), "comm"))
				if name = text(strings.TrimSpace(string(b))); err != nil || name == "" {
					break
				}
			}
			found[inode] = append(found[inode], name)
		}
	}
	return found
}
