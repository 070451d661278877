package collect

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/internal/inventory"
)

// root makes a directory that stands for a machine from "path: text" pairs.
func root(t *testing.T, files map[string]string) Machine {
	t.Helper()
	m := Machine{ID: "web-1", Root: t.TempDir()}
	for path, text := range files {
		file := m.file(path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// show writes items, sorted as a section has them, one a line.
func show(t *testing.T, items []inventory.Item) string {
	t.Helper()
	if len(items) == 0 {
		return ""
	}
	s, err := inventory.NewSection(items[0].Kind, "", items)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, i := range s.Items {
		values, err := i.JSON()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %s\n", i.Key, values)
	}
	return b.String()
}

func same(t *testing.T, got, want string) {
	t.Helper()
	if diff := cmp.Diff(strings.TrimSpace(want), strings.TrimSpace(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDpkgAndApk(t *testing.T) {
	m := root(t, map[string]string{
		"/var/lib/dpkg/status": `Package: openssl
Status: install ok installed
Architecture: amd64
Source: openssl-src (3.0.15)
Version: 3.0.15-1
Description: text
 Version: of the text, and not of the package

Package: gone
Status: deinstall ok config-files
Version: 1

Package: held
Status: hold ok half-configured
Architecture: all
Version: 2

Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36

Package: libc6
Status: install ok installed
Architecture: i386
Version: 2.36`,
		"/lib/apk/db/installed": "P:musl\nV:1.2\nA:x86_64\no:musl\n\nP:busybox-binsh\nV:1.36\nA:x86_64\no:busybox\n",
	})
	items, err := m.Kind(t.Context(), "package")
	if err != nil {
		t.Fatal(err)
	}
	same(t, show(t, items), `
busybox-binsh {"arch":"x86_64","manager":"apk","name":"busybox-binsh","source":"busybox","version":"1.36"}
held {"arch":"all","manager":"dpkg","name":"held","version":"2"}
libc6:amd64 {"arch":"amd64","manager":"dpkg","name":"libc6","version":"2.36"}
libc6:i386 {"arch":"i386","manager":"dpkg","name":"libc6","version":"2.36"}
musl {"arch":"x86_64","manager":"apk","name":"musl","version":"1.2"}
openssl {"arch":"amd64","manager":"dpkg","name":"openssl","source":"openssl-src","version":"3.0.15-1"}`)
	if _, err := root(t, nil).Kind(t.Context(), "package"); err == nil || !strings.Contains(err.Error(), "no database") {
		t.Errorf("%v", err)
	}
}

func TestRPM(t *testing.T) {
	all := parseRPM("kernel\t5.14.0-1.el9\tx86_64\tkernel-5.14.0-1.el9.src.rpm\nkernel\t5.14.0-2.el9\tx86_64\tkernel-5.14.0-2.el9.src.rpm\n" +
		"openssl-libs\t1:3.0.7-27.el9\tx86_64\topenssl-3.0.7-27.el9.src.rpm\ngpg-pubkey\t8483c65d-5ccc5b19\t(none)\t(none)\nbroken line\n")
	same(t, show(t, packageItems(all)), `
kernel-5.14.0-1.el9:x86_64 {"arch":"x86_64","manager":"rpm","name":"kernel","version":"5.14.0-1.el9"}
kernel-5.14.0-2.el9:x86_64 {"arch":"x86_64","manager":"rpm","name":"kernel","version":"5.14.0-2.el9"}
openssl-libs {"arch":"x86_64","manager":"rpm","name":"openssl-libs","source":"openssl","version":"1:3.0.7-27.el9"}`)
}

// No part of a password is ever among the items.
func TestUsers(t *testing.T) {
	m := root(t, map[string]string{
		"/etc/passwd": "root:x:0:0:root:/root:/bin/bash\nwww:x:33:33::/var/www:/usr/sbin/nologin\neve::1000:1000:Eve \xff:/home/eve:/bin/sh\nold:$6$SECRETHASH:1001:9:x:/:/bin/sh\nbroken\n+::::::\n",
		"/etc/group":  "root:x:0:\nwww:x:33:\nsudo:x:27:eve, www\n",
		"/etc/shadow": "root:$6$SECRETHASH$x:1:2:3:4:::\nwww:*:1:::::\neve::1:::::\n",
	})
	items, err := m.Kind(t.Context(), "user")
	if err != nil {
		t.Fatal(err)
	}
	got := show(t, items)
	same(t, got, `
eve {"comment":"Eve `+"\ufffd"+`","gid":1000,"groups":["sudo"],"home":"/home/eve","password":"empty","shell":"/bin/sh","uid":1000}
old {"comment":"x","gid":9,"groups":[],"home":"/","shell":"/bin/sh","uid":1001}
root {"comment":"root","gid":0,"groups":["root"],"home":"/root","password":"set","shell":"/bin/bash","uid":0}
www {"comment":"","gid":33,"groups":["sudo","www"],"home":"/var/www","password":"locked","shell":"/usr/sbin/nologin","uid":33}`)
	if strings.Contains(got, "SECRET") {
		t.Error("a hash is among the items")
	}
}

func TestServices(t *testing.T) {
	m := root(t, map[string]string{
		"/etc/init.d/web":     "#!/bin/sh\ntest \"$1\" = status && exit 0\n",
		"/etc/init.d/db":      "#!/bin/sh\nexit 3\n",
		"/etc/init.d/odd":     "#!/bin/sh\necho usage; exit 64\n",
		"/etc/init.d/README":  "#!/bin/sh\n",
		"/etc/rc3.d/S50web":   "",
		"/etc/rc0.d/K50db":    "",
		"/etc/init.d/sub/dir": "",
	})
	items, err := m.Kind(t.Context(), "service")
	if err != nil {
		t.Fatal(err)
	}
	same(t, show(t, items), `
db {"active":false,"enabled":false}
odd {"enabled":false}
web {"active":true,"enabled":true}`)
	same(t, show(t, parseSystemd(
		"ssh.service enabled enabled\ngetty@.service enabled enabled\napt-daily.service static -\nbad.service masked enabled\nrun-u1.service transient -\n",
		"ssh.service loaded active running OpenBSD Secure Shell server\ngetty@tty1.service loaded active running Getty on tty1\n"+
			"bad.service masked inactive dead bad.service\nrun-u1.service loaded active running x\nuser@0.service loaded active running x\ngone.service not-found inactive dead gone\napt-daily.service loaded failed failed Daily\n")), `
apt-daily {"active":false,"enabled":false,"failed":true,"state":"static"}
bad {"active":false,"enabled":false,"failed":false,"state":"masked"}
getty@tty1 {"active":true,"enabled":false,"failed":false,"state":"instance"}
ssh {"active":true,"enabled":true,"failed":false,"state":"enabled"}`)
}

func TestPorts(t *testing.T) {
	proc := root(t, map[string]string{
		"/net/tcp": "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n" +
			"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 111 1 0 100 0 0 10 0\n" +
			"   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 112 1 0 100 0 0 10 0\n" +
			"   2: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 113 1 0 100 0 0 10 0\n",
		"/net/tcp6": "heading\n   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 114 1\n" +
			"   1: 0000000000000000FFFF00000100007F:1F91 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 115 1\n",
		"/net/udp": "heading\n   0: 00000000:0044 00000000:0000 07 0:0 0:0 0 0 0 116 2\n   1: 00000000:C000 00000000:0000 07 0:0 0:0 0 0 0 117 2\n",
		"/41/comm": "sshd\n", "/42/comm": "web\n", "/x/comm": "",
	})
	for link, to := range map[string]string{"/41/fd/3": "socket:[112]", "/41/fd/4": "socket:[114]", "/42/fd/9": "socket:[111]", "/42/fd/1": "/dev/null"} {
		_ = os.MkdirAll(filepath.Dir(proc.file(link)), 0o755)
		if err := os.Symlink(to, proc.file(link)); err != nil {
			t.Fatal(err)
		}
	}
	items, err := ports(proc.Root, map[int]string{1000: "www"})
	if err != nil {
		t.Fatal(err)
	}
	same(t, show(t, items), `
tcp/0.0.0.0:22 {"address":"0.0.0.0","port":22,"processes":["sshd"],"protocol":"tcp","uid":0}
tcp/127.0.0.1:8080 {"address":"127.0.0.1","port":8080,"processes":["web"],"protocol":"tcp","uid":1000,"user":"www"}
tcp/127.0.0.1:8081 {"address":"127.0.0.1","port":8081,"protocol":"tcp","uid":0}
tcp/[::]:22 {"address":"::","port":22,"processes":["sshd"],"protocol":"tcp","uid":0}
udp/0.0.0.0:68 {"address":"0.0.0.0","port":68,"protocol":"udp","uid":0}`)
}

// A port that this test opens is found, with its process.
func TestPortsOfThisMachine(t *testing.T) {
	if _, err := os.Stat("/proc/net/tcp"); err != nil {
		t.Skip("this system has no /proc/net")
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	items, err := Machine{}.Kind(t.Context(), "port")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(items, func(i inventory.Item) bool { return i.Key == "tcp/"+l.Addr().String() })
	if i < 0 || !slices.Contains(items[i].Values["processes"].([]string), "collect.test") {
		t.Errorf("%s: %v", l.Addr(), items)
	}
}

func TestFiles(t *testing.T) {
	m := root(t, map[string]string{"/etc/a.conf": "a", "/etc/d/b.conf": "bb", "/etc/d/e/c.conf": "", "/etc/passwd": "me:x:4242:1::/:/bin/sh\n"})
	_ = os.Chmod(m.file("/etc/a.conf"), 0o640|os.ModeSetuid)
	_ = os.Symlink("/etc/hostname", m.file("/etc/out.conf"))
	_ = os.Symlink("..", m.file("/etc/d/up"))
	if err := os.WriteFile(m.file("/etc/large.conf"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(m.file("/etc/large.conf"), MaxFileBytes+1); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		_ = os.Chown(m.file("/etc/large.conf"), 4242, 1)
	}
	brief := func(pattern string) string {
		items, err := m.Files(t.Context(), pattern)
		if err != nil {
			return err.Error()
		}
		var all []string
		for _, i := range items {
			line := fmt.Sprint(i.Key, " ", i.Values["type"], " ", i.Values["mode"], " ", i.Values["size"])
			if s, ok := i.Values["sha256"].(string); ok {
				line += " " + s[:8]
			}
			if to, ok := i.Values["target"]; ok {
				line = fmt.Sprint(i.Key, " -> ", to)
			}
			if os.Geteuid() == 0 && i.Key == "/etc/large.conf" {
				line += fmt.Sprint(" ", i.Values["owner"])
			}
			all = append(all, line)
		}
		slices.Sort(all)
		return strings.Join(all, "\n")
	}
	large := "/etc/large.conf file 0600 67108865"
	if os.Geteuid() == 0 {
		large += " me"
	}
	same(t, brief("/etc/*.conf"), "/etc/a.conf file 4640 1 ca978112\n"+large+"\n/etc/out.conf -> /etc/hostname")
	same(t, brief("/etc/**/{b,c}.conf"), "/etc/d/b.conf file 0755 2 3b64db95\n/etc/d/e/c.conf file 0755 0 e3b0c442")
	same(t, brief("/etc/d"), "/etc/d directory 0755 <nil>")
	same(t, brief("/etc/out.conf"), "/etc/out.conf -> /etc/hostname")
	same(t, brief("/nowhere/*"), "")
	same(t, brief("/"), "/ directory 0755 <nil>")
	for i := range MaxFiles + 1 {
		if err := os.WriteFile(m.file(fmt.Sprintf("/etc/d/%d", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	same(t, brief("/etc/d/*"), "file /etc/d/*: it matches more than 10000 files")
}

// A pipe in the place of a file is not waited for.
func TestFilesDoNotHang(t *testing.T) {
	m := root(t, map[string]string{"/etc/a": "a"})
	if err := mkfifo(m.file("/etc/b")); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		items, err := m.Files(t.Context(), "/etc/*")
		if err == nil && len(items) != 2 {
			err = fmt.Errorf("%v", items)
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for the pipe")
	}
}

func TestFact(t *testing.T) {
	m := root(t, map[string]string{"/x": ""})
	fact := func(script string) string {
		items, err := m.Fact(t.Context(), Fact{Name: "f", Script: script, Timeout: 2 * time.Second})
		if err != nil {
			return err.Error()
		}
		return show(t, items)
	}
	same(t, fact(`printf '{"n":9007199254740993,"node":"%s","root":"%s"}' "$ALMANAC_NODE" "$(test -e x && echo here)"`), `f {"n":9007199254740993,"node":"web-1","root":"here"}`)
	same(t, fact(`echo '[{"key":"b","v":1},{"key":"a"}]'`), "f/a {\"key\":\"a\"}\nf/b {\"key\":\"b\",\"v\":1}")
	same(t, fact(`echo '[{"v":1}]'`), "fact f: of the list that it prints, element 1 is not an object with a key")
	same(t, fact(`echo 3`), "fact f: it prints neither an object nor a list of objects")
	same(t, fact(`echo '{}{}'`), "fact f: what it prints is not JSON: more follows the value")
	same(t, fact(`false; echo '{}'`), "fact f: sh: exit code 1:")
	same(t, fact(`printf '{}'; sleep 30 & `), "f {}") // what it leaves running is not waited for
	// The whole group ends with its time, those that ignore TERM too.
	start := time.Now()
	same(t, fact(`trap '' TERM; sh -c "trap '' TERM; sleep 31; sleep 31" & wait`), "fact f: sh: it takes longer than 2s")
	if took := time.Since(start); took > 6*time.Second {
		t.Errorf("it took %s", took)
	}
	if left := running(t, "sleep\x0031"); left > 0 {
		t.Errorf("%d processes are left", left)
	}
}

// running counts processes by their command line.
func running(t *testing.T, cmdline string) int {
	n := 0
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(b), cmdline) {
			n++
		}
	}
	return n
}

func TestInstance(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data.json")
	if err := os.WriteFile(file, []byte(`{"v1":{"cloud_name":"aws","region":"eu-west-1","availability_zone":"eu-west-1a","instance_id":"i-0abc"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	tags := map[string]string{"region": "us-east-1"}
	for _, tt := range []struct {
		h         hardware
		cloudInit string
		want      string
	}{
		{hardware{vendor: "Amazon EC2", product: "m7g.large", board: "i-0def", uuid: "EC2AB"}, "/nowhere", "map[cloud:aws id:i-0def product:m7g.large region:us-east-1 type:m7g.large uuid:ec2ab vendor:Amazon EC2]"},
		{hardware{vendor: "Amazon EC2", product: "m7g.large"}, file, "map[cloud:aws id:i-0abc product:m7g.large region:eu-west-1 type:m7g.large vendor:Amazon EC2 zone:eu-west-1a]"},
		{hardware{vendor: "Xen", product: "HVM domU", bios: "4.11.amazon"}, "/nowhere", "map[bios:4.11.amazon cloud:aws product:HVM domU region:us-east-1 vendor:Xen]"},
		{hardware{vendor: "Microsoft Corporation", chassis: azureChassis}, "/nowhere", "map[cloud:azure region:us-east-1 vendor:Microsoft Corporation]"},
		{hardware{vendor: "Dell"}, "/nowhere", "map[region:us-east-1 vendor:Dell]"},
	} {
		if got := fmt.Sprint(tt.h.values(tags, tt.cloudInit)); got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.h, got, tt.want)
		}
	}
}
