package host

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/registry"
)

// These tests work on real package managers, in directories that stand for
// machines. They make no mounts.

// They run beside each other, since much of their time they wait; so what is shortened is shortened for all.
func init() {
	rebootAfter, lockPatience, lockAgain = 10*time.Millisecond, 500*time.Millisecond, 100*time.Millisecond
}

// needs says that a test cannot do without root and these programs. In continuous
// integration they have to be there.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	lacks := ""
	if os.Geteuid() != 0 {
		lacks = "root"
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			lacks = p
		}
	}
	switch {
	case lacks == "":
	case os.Getenv("CI") == "true":
		t.Fatalf("this test needs %s", lacks)
	default:
		t.Skipf("this test needs %s; CI=true makes that an error", lacks)
	}
}

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func write(t *testing.T, file, content string, mode os.FileMode) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(content), mode)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// insiders are the processes whose root is that directory.
func insiders(root string) []int {
	var pids []int
	dir, _ := os.ReadDir("/proc")
	for _, d := range dir {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		if of, err := os.Readlink(filepath.Join("/proc", d.Name(), "root")); err == nil && of == root {
			pids = append(pids, pid)
		}
	}
	return pids
}

// emptied makes sure that nothing goes on in the root when the test ends.
func emptied(t *testing.T, root string) {
	t.Cleanup(func() {
		for _, pid := range insiders(root) {
			t.Errorf("process %d is left in the root", pid)
			syscall.Kill(pid, syscall.SIGKILL)
		}
		if mounts, err := os.ReadFile("/proc/self/mounts"); err == nil && strings.Contains(string(mounts), root) {
			t.Errorf("a mount is left in the root")
		}
	})
}

// archive is where the machine's own apt gets Debian from.
type archive struct{ main, security, suite string }

func machineArchive(t *testing.T) archive {
	var a archive
	out := run(t, "/", "apt-get", "indextargets", "--format", "$(CREATED_BY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)")
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) < 5 || f[0] != "Packages" || f[3] != "main" || f[4] != "Debian" {
			continue
		}
		switch {
		case strings.HasSuffix(f[2], "-security"):
			a.security = f[1] + " " + f[2]
		case !strings.Contains(f[2], "-") && a.main == "":
			a.main, a.suite = f[1], f[2]
		}
	}
	if a.main == "" || a.security == "" {
		t.Fatalf("apt's sources name no Debian with its security updates (is `apt-get update` needed?):\n%s", out)
	}
	return a
}

var debianTar sync.Mutex

// debian returns a new root with a minimal Debian from its main suite. The tar file it
// comes from is made once in a while.
func debian(t *testing.T) (string, archive) {
	needs(t, "debootstrap", "apt-get", "dpkg-deb", "tar", "chroot")
	a := machineArchive(t)
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "almanac-test")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	tar := filepath.Join(cache, "debian-"+a.suite+".tar")
	debianTar.Lock()
	defer debianTar.Unlock()
	// An old one has versions that the suite no longer has.
	if info, err := os.Stat(tar); err != nil || time.Since(info.ModTime()) > 3*24*time.Hour {
		// Beside the tar file: a temporary directory may be on a file system without devices.
		root, err := os.MkdirTemp(cache, "root-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(root)
		run(t, "/", "debootstrap", "--variant=minbase", "--include=openssl,libxml2,libexpat1", a.suite, root, a.main)
		run(t, "/", "tar", "-C", root, "-cf", tar+".new", "--exclude=./var/cache/apt", "--exclude=./var/lib/apt/lists",
			"--exclude=./usr/share/doc", "--exclude=./usr/share/man", "--exclude=./usr/share/locale", ".")
		if err := os.Rename(tar+".new", tar); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "/", "tar", "-C", root, "-xpf", tar)
	// It need not survive a power failure.
	write(t, filepath.Join(root, "etc/dpkg/dpkg.cfg.d/quick"), "force-unsafe-io\n", 0o644)
	for _, dir := range []string{"var/cache/apt/archives/partial", "var/lib/apt/lists/partial"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	emptied(t, root)
	return root, a
}

func dpkgVersion(t *testing.T, root, name string) string {
	t.Helper()
	out, err := exec.Command("chroot", root, "dpkg-query", "-W", "-f", "${db:Status-Abbrev}|${Version}", name).Output()
	status, version, _ := strings.Cut(string(out), "|")
	if err != nil || len(status) < 2 || status[1] != 'i' {
		return "" // not installed, or not completely
	}
	return version
}

func newPatchBench(t *testing.T, root string) bench {
	b := newBench(t)
	b.Root = root
	return b
}

func baseline(rules ...map[string]any) map[string]any {
	return map[string]any{"baseline": map[string]any{"baseline": "test", "rules": rules}}
}

var securityRule = map[string]any{"approve": `patch.classification == "security"`}

// patches are the decisions of a report, by package and decision.
func patches(out map[string]any) map[string]string {
	all := map[string]string{}
	list, _ := out["patches"].([]any)
	for _, p := range list {
		p := p.(map[string]any)
		all[p["name"].(string)+" "+p["version"].(string)] = p["decision"].(string)
	}
	return all
}

func upgraded(out map[string]any, list string) string {
	var all []string
	changes, _ := out[list].([]any)
	for _, c := range changes {
		c := c.(map[string]any)
		all = append(all, fmt.Sprintf("%s %s>%s", c["name"], c["from"], c["to"]))
	}
	return strings.Join(all, ", ")
}

// A Debian whose security updates have just been switched on: what the baseline approves of
// them is found, installed and put back.
func TestPatchDebian(t *testing.T) {
	t.Parallel()
	root, a := debian(t)
	write(t, filepath.Join(root, "etc/apt/sources.list"), fmt.Sprintf("deb %s %s main\n", a.main, a.suite), 0o644)
	// The root may be some days old, and what is put back has to be what the suite has.
	run(t, "/", "chroot", root, "apt-get", "-q", "update")
	run(t, "/", "chroot", root, "apt-get", "-q", "-y", "upgrade")
	b := newPatchBench(t, root)
	var told []string
	b.Node.Comply = func(_ context.Context, c registry.Compliance) error { told = append(told, c.Status); return nil }
	in := baseline(securityRule, map[string]any{"reject": `patch.name == "tzdata"`})
	out, err := b.do(callContext("scan-1"), "host.patch.scan", in)
	if err != nil || out["status"] != "compliant" || out["os"] != "debian" || out["manager"] != "apt" {
		t.Fatalf("before: %v, error %v", out, err)
	}

	write(t, filepath.Join(root, "etc/apt/sources.list"), fmt.Sprintf("deb %s %s main\ndeb %s main\n", a.main, a.suite, a.security), 0o644)
	out, err = b.do(callContext("scan-2"), "host.patch.scan", in)
	if err != nil {
		t.Fatal(err)
	}
	missing := int(out["missing"].(float64))
	if missing == 0 || out["status"] != "non_compliant" {
		t.Fatalf("%s has no security updates for any package of the root: %v", a.security, out)
	}
	before := run(t, "/", "chroot", root, "dpkg-query", "-W")
	auto := run(t, "/", "chroot", root, "apt-mark", "showauto")

	out, err = b.do(callContext("install"), "host.patch.install", in)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("upgraded %s", upgraded(out, "upgraded"))
	if int(out["upgraded_count"].(float64)) < missing || out["status"] != "compliant" || out["missing"] != 0.0 || out["kernel"] != "" {
		t.Errorf("installed %v of %d: %v", out["upgraded_count"], missing, out["why"])
	}
	for _, c := range out["upgraded"].([]any) {
		c := c.(map[string]any)
		if got := dpkgVersion(t, root, c["name"].(string)); got != c["to"] {
			t.Errorf("dpkg has %s %s, want %s", c["name"], got, c["to"])
		}
		if c["name"] == "tzdata" {
			t.Errorf("tzdata is rejected, and was upgraded")
		}
	}
	if now := run(t, "/", "chroot", root, "apt-mark", "showauto"); now != auto {
		t.Errorf("automatically installed are now %q, were %q", now, auto)
	}
	if log := b.log(out["ref"]); !strings.Contains(log, "Setting up") {
		t.Errorf("the complete output has no trace of dpkg: %q", log)
	}
	// Asked again it has nothing to do, and says the same.
	size := out["size"]
	again, err := b.do(callContext("install"), "host.patch.install", in)
	if err != nil || again["size"] != size || upgraded(again, "upgraded") != upgraded(out, "upgraded") {
		t.Errorf("the second time: %v, error %v", again, err)
	}

	for range 2 {
		if err := b.undo("install", "host.patch.install", in, out); err != nil {
			t.Fatal(err)
		}
	}
	if after := run(t, "/", "chroot", root, "dpkg-query", "-W"); after != before {
		t.Errorf("after the rollback:\n%s\nbefore it:\n%s", after, before)
	}
	if _, err := b.do(callContext("install"), "host.patch.install", in); action.KindOf(err) != action.Conflict {
		t.Errorf("installed after its rollback: %v", err)
	}
	if got := strings.Join(told, " "); got != "compliant non_compliant compliant compliant non_compliant non_compliant" {
		t.Errorf("the registry was told %s", got)
	}
}

// deb makes a package; control may have more fields, postinst may be empty.
func deb(t *testing.T, repo, name, version, control, postinst string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	write(t, filepath.Join(dir, "DEBIAN/control"), fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: Test <test@example.com>\nDescription: test\n%s", name, version, control), 0o644)
	write(t, filepath.Join(dir, "usr/share", name, "version"), version+"\n", 0o644)
	write(t, filepath.Join(dir, "etc", name+".conf"), "version "+version+"\n", 0o644)
	write(t, filepath.Join(dir, "DEBIAN/conffiles"), "/etc/"+name+".conf\n", 0o644)
	if postinst != "" {
		write(t, filepath.Join(dir, "DEBIAN/postinst"), "#!/bin/sh\nset -e\n"+postinst, 0o755)
	}
	if err := os.MkdirAll(repo, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "/", "dpkg-deb", "--root-owner-group", "-Zgzip", "--build", dir, filepath.Join(repo, name+"_"+version+"_all.deb"))
}

// index writes the files that make a directory of packages a repository.
func index(t *testing.T, repo, label, codename string) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(repo, "*.deb"))
	var b strings.Builder
	for _, f := range files {
		content := read(t, f)
		b.WriteString(strings.TrimSpace(run(t, "/", "dpkg-deb", "--field", f)))
		fmt.Fprintf(&b, "\nFilename: ./%s\nSize: %d\nSHA256: %x\n\n", filepath.Base(f), len(content), sha256.Sum256([]byte(content)))
	}
	write(t, filepath.Join(repo, "Packages"), b.String(), 0o644)
	write(t, filepath.Join(repo, "Release"), fmt.Sprintf("Origin: Debian\nLabel: %s\nSuite: %s\nCodename: %s\nDate: %s\nSHA256:\n %x %d Packages\n",
		label, codename, codename, time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC"), sha256.Sum256([]byte(b.String())), b.Len()), 0o644)
}

// ownDebian is a Debian with packages of ours: version 1.0 of each installed, 2.0 offered.
func ownDebian(t *testing.T) string {
	root, _ := debian(t)
	main, security := filepath.Join(root, "srv/main"), filepath.Join(root, "srv/security")
	for _, name := range []string{"alpha", "beta", "gamma", "delta", "slow", "kernelish", "held"} {
		deb(t, main, name, "1.0", "", "")
	}
	// It takes a while to be put back.
	deb(t, main, "tardy", "1.0", "", "test \"$2\" = 2.0 || exit 0\necho started >> /tardy-runs\nsleep 2\necho done >> /tardy-runs\n")
	deb(t, security, "tardy", "2.0", "", "")
	deb(t, security, "alpha", "2.0", "", "")
	deb(t, security, "beta", "2.0", "Depends: gamma (>= 2.0)\n", "")
	deb(t, main, "gamma", "2.0", "", "")
	deb(t, security, "delta", "2.0", "Depends: extra\n", "")
	deb(t, main, "extra", "1.0", "", "")
	deb(t, security, "held", "2.0", "", "")
	deb(t, security, "slow", "2.0", "", "echo started >> /slow-runs\nsleep 2\necho done >> /slow-runs\n")
	deb(t, security, "kernelish", "2.0", "", "touch /run/reboot-required\n")
	index(t, main, "Debian", "test")
	index(t, security, "Debian-Security", "test-security")
	write(t, filepath.Join(root, "etc/apt/sources.list"), "deb [trusted=yes] file:/srv/main ./\ndeb [trusted=yes] file:/srv/security ./\n", 0o644)
	run(t, "/", "chroot", root, "apt-get", "-q", "update")
	run(t, "/", "chroot", root, "apt-get", "-q", "-y", "install", "alpha=1.0", "beta=1.0", "gamma=1.0", "delta=1.0", "slow=1.0", "kernelish=1.0", "held=1.0", "tardy=1.0")
	run(t, "/", "chroot", root, "apt-mark", "auto", "gamma", "delta")
	return root
}

func only(names ...string) map[string]any {
	list, _ := json.Marshal(names)
	return map[string]any{"approve": "patch.name in " + string(list)}
}

// What is approved is installed, with what it needs, and nothing else; what is
// rejected stays, whoever needs it.
func TestPatchApt(t *testing.T) {
	t.Parallel()
	root := ownDebian(t)
	b := newPatchBench(t, root)
	version := func(name string) string { return dpkgVersion(t, root, name) }

	t.Run("scan", func(t *testing.T) {
		out, err := b.do(callContext("scan"), "host.patch.scan", baseline(securityRule, map[string]any{"reject": `patch.name == "held"`}))
		if err != nil {
			t.Fatal(err)
		}
		got := patches(out)
		want := map[string]string{"alpha 2.0": "install", "beta 2.0": "install", "gamma 2.0": "not_in_baseline", "delta 2.0": "install", "held 2.0": "reject"}
		for p, decision := range want {
			if got[p] != decision {
				t.Errorf("%s: %q, want %s", p, got[p], decision)
			}
		}
		if out["missing"] != 6.0 || out["rejected"] != 1.0 {
			t.Errorf("missing %v, rejected %v", out["missing"], out["rejected"])
		}
	})

	// These packages have no changelogs, and so no dates.
	t.Run("a delay counts from when the node first saw it", func(t *testing.T) {
		in := baseline(map[string]any{"approve": `patch.name in ["alpha", "held"]`, "after": "7d"})
		out, err := b.do(callContext("scan-seen"), "host.patch.scan", in)
		if got := patches(out); err != nil || got["alpha 2.0"] != "wait" || !strings.Contains(string(marshal(t, out)), `"until":"`) {
			t.Fatalf("%v, error %v", got, err)
		}
		var known map[string]seen
		file := filepath.Join(b.StateDir, seenFile)
		if err := json.Unmarshal([]byte(read(t, file)), &known); err != nil {
			t.Fatal(err)
		}
		s := known["alpha 2.0"]
		s.First = s.First.Add(-8 * 24 * time.Hour)
		known["alpha 2.0"] = s
		if err := os.WriteFile(file, marshal(t, known), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err = b.do(callContext("scan-seen"), "host.patch.scan", in)
		if got := patches(out); err != nil || got["alpha 2.0"] != "install" || got["held 2.0"] != "wait" {
			t.Errorf("%v, error %v", got, err)
		}
		out, err = b.do(callContext("seen"), "host.patch.install", in)
		if err != nil || upgraded(out, "upgraded") != "alpha 1.0>2.0" {
			t.Errorf("upgraded %s, error %v", upgraded(out, "upgraded"), err)
		}
		if err := b.undo("seen", "host.patch.install", in, out); err != nil {
			t.Error(err)
		}
	})

	t.Run("what needs a rejected one fails, the rest does not", func(t *testing.T) {
		write(t, filepath.Join(root, "etc/alpha.conf"), "changed here\n", 0o644)
		in := baseline(only("alpha", "beta"), map[string]any{"reject": `patch.name == "gamma"`})
		_, err := b.do(callContext("reject"), "host.patch.install", in)
		if action.KindOf(err) != action.Failed || !strings.Contains(err.Error(), "beta 2.0") || !strings.Contains(err.Error(), "gamma") {
			t.Fatalf("error %v", err)
		}
		var e *action.Error
		if errors.As(err, &e); len(e.Detail.(PatchDetail).Failed) != 1 || e.Detail.(PatchDetail).Upgraded != 1 {
			t.Errorf("detail %+v", e.Detail)
		}
		if version("alpha") != "2.0" || version("beta") != "1.0" || version("gamma") != "1.0" {
			t.Errorf("alpha %s, beta %s, gamma %s", version("alpha"), version("beta"), version("gamma"))
		}
		if got := read(t, filepath.Join(root, "etc/alpha.conf")); got != "changed here\n" {
			t.Errorf("the changed configuration file is now %q", got)
		}
		// The answer was an error: the rollback has to find out by itself.
		if err := b.undo("reject", "host.patch.install", in, nil); err != nil || version("alpha") != "1.0" {
			t.Errorf("undo: alpha %s, error %v", version("alpha"), err)
		}
	})

	t.Run("dependencies come along, and go", func(t *testing.T) {
		in := baseline(only("beta", "delta"))
		in["exclude"] = []string{"al*"}
		out, err := b.do(callContext("deps"), "host.patch.install", in)
		if err != nil {
			t.Fatal(err)
		}
		if got := upgraded(out, "upgraded"); got != "beta 1.0>2.0, delta 1.0>2.0, gamma 1.0>2.0" {
			t.Errorf("upgraded %s", got)
		}
		if got := upgraded(out, "added"); got != "extra >1.0" || version("alpha") != "1.0" {
			t.Errorf("added %s; alpha %s", got, version("alpha"))
		}
		if got := run(t, "/", "chroot", root, "apt-mark", "showauto", "gamma", "delta"); got != "delta\ngamma\n" {
			t.Errorf("of gamma and delta, marked as there for others is now %q", got)
		}
		if err := b.undo("deps", "host.patch.install", in, out); err != nil {
			t.Fatal(err)
		}
		if version("beta") != "1.0" || version("gamma") != "1.0" || version("delta") != "1.0" || version("extra") != "" {
			t.Errorf("after undo: beta %s, gamma %s, delta %s, extra %s", version("beta"), version("gamma"), version("delta"), version("extra"))
		}
		if got := run(t, "/", "chroot", root, "apt-mark", "showauto", "gamma", "delta"); got != "delta\ngamma\n" {
			t.Errorf("after undo, of gamma and delta, marked as there for others is %q", got)
		}
	})

	t.Run("held by an administrator", func(t *testing.T) {
		run(t, "/", "chroot", root, "apt-mark", "hold", "held")
		defer run(t, "/", "chroot", root, "apt-mark", "unhold", "held")
		_, err := b.do(callContext("held"), "host.patch.install", baseline(only("held", "alpha")))
		if action.KindOf(err) != action.Failed || !strings.Contains(err.Error(), "it is held on the node") || version("alpha") != "2.0" || version("held") != "1.0" {
			t.Errorf("alpha %s, held %s, error %v", version("alpha"), version("held"), err)
		}
		if err := b.undo("held", "host.patch.install", baseline(only("held", "alpha")), nil); err != nil {
			t.Error(err)
		}
	})

	t.Run("restart", func(t *testing.T) {
		in := baseline(only("kernelish"))
		// A root that stands for a machine is not restarted.
		out, err := b.do(callContext("noboot"), "host.patch.install", in)
		if err != nil || out["reboot_pending"] != true || out["rebooted"] != false || out["status"] != "non_compliant" {
			t.Fatalf("%v, error %v", out, err)
		}
		if _, err := b.do(callContext("noboot-2"), "host.patch.install", map[string]any{"baseline": in["baseline"], "reboot": "always"}); action.KindOf(err) != action.Invalid {
			t.Errorf("reboot: always on a root directory: %v", err)
		}
		if err := b.undo("noboot", "host.patch.install", in, out); err != nil {
			t.Fatal(err)
		}
		os.Remove(filepath.Join(root, "run/reboot-required"))
		boot, asked := "one", make(chan string, 10)
		machine := b
		machine.BootID = func() string { return boot }
		machine.Node.Reboot = func(context.Context) error { asked <- boot; return nil }
		_, err = machine.do(callContext("boot"), "host.patch.install", in)
		var e *action.Error
		if !errors.As(err, &e) || e.Kind != action.Restarting || e.Detail.(action.RestartDetail).Within != "15m0s" {
			t.Fatalf("error %v", err)
		}
		<-asked
		// The agent is offered the work again before it has ended: it waits, and asks for nothing.
		ctx, cancel := context.WithTimeout(callContext("boot"), 300*time.Millisecond)
		_, err = machine.do(ctx, "host.patch.install", in)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || len(asked) != 0 {
			t.Errorf("before the restart: %v, asked %d times", err, len(asked))
		}
		boot = "two"
		os.Remove(filepath.Join(root, "run/reboot-required"))
		out, err = machine.do(callContext("boot"), "host.patch.install", in)
		if err != nil || out["rebooted"] != true || out["reboot_pending"] != false || out["status"] != "compliant" || len(asked) != 0 {
			t.Errorf("after the restart: %v, error %v, asked %d times", out, err, len(asked))
		}
		if n := strings.Count(b.log(out["ref"]), "Setting up kernelish (2.0)"); n != 2 { // once here, once above
			t.Errorf("installed %d times", n)
		}
		if err := machine.undo("boot", "host.patch.install", in, out); err != nil {
			t.Fatal(err)
		}

		// What is healthy before the restart may not be behind it.
		in = baseline(only("kernelish"))
		in["health"] = `test ! -e "$NODE_ROOT/run/ill"`
		if _, err = machine.do(callContext("boot-ill"), "host.patch.install", in); action.KindOf(err) != action.Restarting {
			t.Fatalf("error %v", err)
		}
		<-asked
		boot = "three"
		os.Remove(filepath.Join(root, "run/reboot-required"))
		write(t, filepath.Join(root, "run/ill"), "", 0o644)
		defer os.Remove(filepath.Join(root, "run/ill"))
		_, err = machine.do(callContext("boot-ill"), "host.patch.install", in)
		if action.KindOf(err) != action.Failed || err.Error() != "health check failed: exit 1; 1 update taken back; it is still not healthy: exit 1" || version("kernelish") != "1.0" || len(asked) != 0 {
			t.Errorf("kernelish %s, error %v, asked %d times", version("kernelish"), err, len(asked))
		}
	})

	t.Run("a node that is not healthy afterwards", func(t *testing.T) { unhealthy(t, bench{t, b.Node}) })

	t.Run("a repository that is not there", func(t *testing.T) {
		sources := filepath.Join(root, "etc/apt/sources.list")
		was := read(t, sources)
		defer write(t, sources, was, 0o644)
		// The first is an error to apt, the second, which does not answer, only a warning.
		for _, repo := range []string{"file:/srv/nowhere", "http://127.0.0.1:9"} {
			write(t, sources, was+"deb [trusted=yes] "+repo+" ./\n", 0o644)
			for _, name := range []string{"scan", "install"} {
				_, err := b.do(callContext("nowhere"), "host.patch."+name, baseline(securityRule))
				if action.KindOf(err) != action.Unavailable || !strings.Contains(err.Error(), repo) {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	})

	t.Run("another program has the package manager", func(t *testing.T) {
		lock, err := os.OpenFile(filepath.Join(root, "var/lib/dpkg/lock-frontend"), os.O_RDWR|os.O_CREATE, 0o640)
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
		// As dpkg takes it. The lock is this process's, until the file is closed.
		if err := syscall.FcntlFlock(lock.Fd(), syscall.F_SETLK, &syscall.Flock_t{Type: syscall.F_WRLCK}); err != nil {
			t.Fatal(err)
		}
		_, err = b.do(callContext("busy"), "host.patch.install", baseline(only("alpha")))
		want := fmt.Sprintf("another program is using the package manager: process %d (host.test)", os.Getpid())
		if action.KindOf(err) != action.Unavailable || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		lock.Close()
		if out, err := b.do(callContext("busy"), "host.patch.install", baseline(only("alpha"))); err != nil || upgraded(out, "upgraded") != "alpha 1.0>2.0" {
			t.Errorf("when it is free again: %v, error %v", out, err)
		}
		if err := b.undo("busy", "host.patch.install", baseline(only("alpha")), nil); err != nil {
			t.Error(err)
		}
	})

	t.Run("an agent that is killed", func(t *testing.T) { agentKilled(t, bench{t, b.Node}) })

	t.Run("an interrupted dpkg", func(t *testing.T) {
		run(t, "/", "chroot", root, "dpkg", "--unpack", "/srv/security/held_2.0_all.deb")
		if version("held") != "" {
			t.Fatalf("held is %s", version("held"))
		}
		// What dpkg leaves when it dies; with it apt-get refuses to work.
		write(t, filepath.Join(root, "var/lib/dpkg/updates/0000"), run(t, "/", "chroot", root, "dpkg-query", "-s", "held"), 0o644)
		out, err := b.do(callContext("broken"), "host.patch.install", baseline(only("alpha")))
		if err != nil || version("held") != "2.0" || version("alpha") != "2.0" {
			t.Errorf("held %s, alpha %s: %v, error %v", version("held"), version("alpha"), out["why"], err)
		}
	})

	t.Run("a version that nobody has any more", func(t *testing.T) {
		// It is gone when the node is found ill.
		later := filepath.Join(root, "srv/later")
		run(t, "/", "cp", "-a", filepath.Join(root, "srv/main"), later)
		os.Remove(filepath.Join(later, "delta_1.0_all.deb"))
		index(t, later, "Debian", "test")
		in := baseline(only("beta", "delta"))
		in["health"] = `cd "$NODE_ROOT/srv"
test ! -d later || { rm -rf main; mv later main; chroot "$NODE_ROOT" apt-get -q update; }
false`
		_, err := b.do(callContext("gone"), "host.patch.install", in)
		const names = "delta 1.0 (no repository offers this version any more)"
		if action.KindOf(err) != action.Failed || !strings.Contains(err.Error(), "health check failed: exit 1") || !strings.Contains(err.Error(), names) || !strings.Contains(err.Error(), "it is still not healthy") {
			t.Errorf("error %v", err)
		}
		// The rollback names it again, since it is still not as it was.
		err = b.undo("gone", "host.patch.install", in, nil)
		if action.KindOf(err) != action.Failed || !strings.Contains(err.Error(), names) {
			t.Errorf("error %v", err)
		}
		if version("beta") != "1.0" || version("gamma") != "1.0" || version("delta") != "2.0" {
			t.Errorf("beta %s, gamma %s, delta %s", version("beta"), version("gamma"), version("delta"))
		}
	})
}

// agentVariable makes the test's program an agent that does one thing.
const agentVariable = "ALMANAC_TEST_PATCH_AGENT"

func TestPatchAgent(t *testing.T) {
	raw := os.Getenv(agentVariable)
	if raw == "" {
		return // it is the part of an agent that other tests start
	}
	var job struct {
		Root, StateDir, Token string
		Input                 map[string]any
	}
	if err := json.Unmarshal([]byte(raw), &job); err != nil {
		t.Fatal(err)
	}
	b := bench{t, Node{ID: "web-1", StateDir: job.StateDir, Root: job.Root}}
	if _, err := b.do(callContext(job.Token), "host.patch.install", job.Input); err != nil {
		t.Fatal(err)
	}
}

// killAgent has an agent do the installation, and kills it once "started" stands in the file.
func killAgent(t *testing.T, b bench, token string, in map[string]any, runs string) {
	t.Helper()
	job, err := json.Marshal(map[string]any{"Root": b.Root, "StateDir": b.StateDir, "Token": token, "Input": in})
	if err != nil {
		t.Fatal(err)
	}
	agent := exec.Command(os.Args[0], "-test.run=^TestPatchAgent$")
	agent.Env = append(os.Environ(), agentVariable+"="+string(job))
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if s, err := os.ReadFile(runs); err == nil && string(s) == "started\n" {
			break
		}
		if time.Since(begin) > 30*time.Second {
			t.Fatal("the package manager did not begin")
		}
	}
	agent.Process.Kill()
	agent.Wait()
	if len(insiders(b.Root)) == 0 {
		t.Fatal("the package manager has ended with its agent")
	}
}

// An agent that is killed in the middle of an installation: the package manager
// goes on, and the next attempt finds it, finished or not. Nothing runs twice.
func agentKilled(t *testing.T, b bench) {
	root := b.Root
	in := baseline(only("slow", "alpha"))
	runs := filepath.Join(root, "slow-runs")

	killed := func(t *testing.T, token string) { killAgent(t, b, token, in, runs) }

	t.Run("comes back while it runs", func(t *testing.T) {
		killed(t, "kill-1")
		out, err := b.do(callContext("kill-1"), "host.patch.install", in)
		if err != nil || upgraded(out, "upgraded") != "alpha 1.0>2.0, slow 1.0>2.0" {
			t.Fatalf("%v, error %v", upgraded(out, "upgraded"), err)
		}
		if got := read(t, runs); got != "started\ndone\n" {
			t.Errorf("runs: %q", got)
		}
		if n := strings.Count(read(t, filepath.Join(root, "var/log/dpkg.log")), " upgrade slow:all 1.0 2.0"); n != 1 {
			t.Errorf("dpkg upgraded it %d times", n)
		}
		if err := b.undo("kill-1", "host.patch.install", in, out); err != nil || dpkgVersion(t, root, "slow") != "1.0" {
			t.Errorf("slow %s, error %v", dpkgVersion(t, root, "slow"), err)
		}
	})

	t.Run("is only to be rolled back", func(t *testing.T) {
		os.Remove(runs)
		killed(t, "kill-2")
		if err := b.undo("kill-2", "host.patch.install", in, nil); err != nil {
			t.Fatal(err)
		}
		if got := read(t, runs); got != "started\ndone\n" {
			t.Errorf("the rollback did not wait for the installation: %q", got)
		}
		if dpkgVersion(t, root, "slow") != "1.0" || dpkgVersion(t, root, "alpha") != "1.0" {
			t.Errorf("slow %s, alpha %s", dpkgVersion(t, root, "slow"), dpkgVersion(t, root, "alpha"))
		}
	})

	t.Run("a step that is cancelled meanwhile", func(t *testing.T) {
		os.Remove(runs)
		ctx, cancel := context.WithCancel(callContext("cancel"))
		defer cancel()
		go func() {
			for ctx.Err() == nil {
				if s, err := os.ReadFile(runs); err == nil && string(s) == "started\n" {
					cancel()
				}
				time.Sleep(20 * time.Millisecond)
			}
		}()
		_, err := b.do(ctx, "host.patch.install", in)
		if !errors.Is(err, context.Canceled) || read(t, runs) != "started\ndone\n" {
			t.Errorf("runs %q, error %v", read(t, runs), err)
		}
		if err := b.undo("cancel", "host.patch.install", in, nil); err != nil || dpkgVersion(t, root, "slow") != "1.0" {
			t.Errorf("slow %s, error %v", dpkgVersion(t, root, "slow"), err)
		}
	})

	t.Run("with its supervisor, as by a power failure", func(t *testing.T) {
		os.Remove(runs)
		killed(t, "kill-3")
		// Everything ends at once.
		supervised := read(t, filepath.Join(b.StateDir, "journal/kill-3-install-0/command.json"))
		var rec struct{ Supervisor struct{ PID int } }
		if err := json.Unmarshal([]byte(supervised), &rec); err != nil {
			t.Fatal(err)
		}
		syscall.Kill(rec.Supervisor.PID, syscall.SIGKILL)
		for _, pid := range insiders(root) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		out, err := b.do(callContext("kill-3"), "host.patch.install", in)
		if err != nil || dpkgVersion(t, root, "slow") != "2.0" || dpkgVersion(t, root, "alpha") != "2.0" || out["status"] != "compliant" {
			t.Errorf("slow %s, alpha %s: %v, error %v", dpkgVersion(t, root, "slow"), dpkgVersion(t, root, "alpha"), out, err)
		}
		if err := b.undo("kill-3", "host.patch.install", in, out); err != nil {
			t.Error(err)
		}
	})
}
