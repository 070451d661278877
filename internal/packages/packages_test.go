package packages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/patch"
)

func pkg(name, arch, version string) Package {
	return Package{Name: name, Arch: arch, Version: version}
}

func TestFind(t *testing.T) {
	tests := []struct {
		release string
		tools   string // of the root
		want    string
	}{
		{"ID=debian\nVERSION_ID=\"12\"\n", "apt-get dnf", "apt"},
		{"ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", "apt-get zypper", "apt"},
		{"ID=\"amzn\"\nID_LIKE=\"fedora\"\n", "dnf yum apt-get", "dnf"},
		{"ID=\"amzn\"\n", "yum", "dnf"},
		{"ID=opensuse-leap\nID_LIKE=\"suse opensuse\"\n", "zypper dnf", "zypper"},
		{"ID=unheard\n", "zypper", "zypper"},
		{"", "apt-get", "apt"},
		{"ID=debian\n", "", ""},
		{"ID=arch\n", "pacman", ""},
	}
	for _, tt := range tests {
		root := t.TempDir()
		os.MkdirAll(filepath.Join(root, "etc"), 0o755)
		os.MkdirAll(filepath.Join(root, "usr/bin"), 0o755)
		os.WriteFile(filepath.Join(root, "etc/os-release"), []byte(tt.release), 0o644)
		for tool := range strings.FieldsSeq(tt.tools) {
			os.WriteFile(filepath.Join(root, "usr/bin", tool), nil, 0o755)
		}
		m, err := Find(root)
		got := ""
		if err == nil {
			got = m.Name()
		} else if !errors.Is(err, ErrNone) {
			t.Errorf("%q with %s: %v", tt.release, tt.tools, err)
		}
		if got != tt.want {
			t.Errorf("%q with %s: %q, want %q", tt.release, tt.tools, got, tt.want)
		}
	}
}

const policySources = `Package files:
 100 /var/lib/dpkg/status
     release a=now
 500 http://mirror.example/debian-security bookworm-security/main amd64 Packages
     release v=12,o=Debian,a=oldstable-security,n=bookworm-security,l=Debian-Security,c=main,b=amd64
     origin mirror.example
 100 http://mirror.example/debian bookworm-backports/main amd64 Packages
     release v=,o=Debian Backports,a=oldstable-backports,n=bookworm-backports,l=Debian Backports,c=main,b=amd64
     origin mirror.example
 500 http://mirror.example/debian bookworm/main amd64 Packages
     release v=12.15,o=Debian,a=oldstable,n=bookworm,l=Debian,c=main,b=amd64
     origin mirror.example
Pinned packages:
     tar -> 1.34 with priority 990
`

const policyNames = `openssl:
  Installed: 3.0.15-1
  Candidate: 3.0.17-1
  Version table:
     3.5.1-1 100
        100 http://mirror.example/debian bookworm-backports/main amd64 Packages
     3.0.17-1 500
        500 http://mirror.example/debian bookworm/main amd64 Packages
     3.0.16-1 500
        500 http://mirror.example/debian-security bookworm-security/main amd64 Packages
 *** 3.0.15-1 100
        100 /var/lib/dpkg/status
     3.0.14-1 500
        500 http://mirror.example/debian bookworm/main amd64 Packages
libc6:
  Installed: 2.36-9
  Candidate: 2.36-10
  Version table:
     2.36-10 500
        500 http://mirror.example/debian bookworm/main amd64 Packages
        500 http://mirror.example/debian-security bookworm-security/main amd64 Packages
 *** 2.36-9 100
        100 /var/lib/dpkg/status
libc6:i386:
  Installed: 2.36-9
  Candidate: 2.36-10
  Version table:
     2.36-10 500 (phased 20%)
        500 http://mirror.example/debian bookworm/main i386 Packages
 *** 2.36-9 100
        100 /var/lib/dpkg/status
tar:
  Installed: 1.34
  Candidate: 1.34
  Version table:
     1.35 -1
        500 http://mirror.example/debian bookworm/main amd64 Packages
 *** 1.34 100
        100 /var/lib/dpkg/status
gone:
  Installed: (none)
  Candidate: 1.0
  Version table:
     1.0 500
        500 http://mirror.example/debian bookworm/main amd64 Packages
`

func TestAptPolicy(t *testing.T) {
	installed := []Package{
		{Name: "libc6", Arch: "amd64", Version: "2.36-9"}, {Name: "libc6", Arch: "i386", Version: "2.36-9"},
		{Name: "openssl", Arch: "amd64", Version: "3.0.15-1"}, {Name: "tar", Arch: "all", Version: "1.34"},
	}
	got := parsePolicy(policyNames, installed, "amd64", parseSources(policySources))
	want := []patch.Offer{
		// Not what backports has, since apt would not choose it; both versions of the others.
		{Name: "openssl", Arch: "amd64", Installed: "3.0.15-1", Version: "3.0.17-1", Repository: "bookworm/main"},
		{Name: "openssl", Arch: "amd64", Installed: "3.0.15-1", Version: "3.0.16-1", Repository: "bookworm-security/main", Classification: "security"},
		{Name: "libc6", Arch: "amd64", Installed: "2.36-9", Version: "2.36-10", Repository: "bookworm-security/main", Classification: "security"},
		{Name: "libc6", Arch: "i386", Installed: "2.36-9", Version: "2.36-10"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDpkg(t *testing.T) {
	got := parseDpkg("ii \tbash\tamd64\t5.2\nhi \theld\tall\t1\nrc \tgone\tamd64\t1\niU \thalf\tamd64\t2\niFR\tbroken\tamd64\t2\niW \twaiting\tamd64\t3\ngarbage\n")
	want := State{Held: []string{"held"}, Installed: []Package{
		{Name: "bash", Arch: "amd64", Version: "5.2"}, {Name: "held", Arch: "all", Version: "1"}, {Name: "waiting", Arch: "amd64", Version: "3"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestChangelog(t *testing.T) {
	const text = `Get:1 changelog
openssl (3.0.17-1~deb12u2) bookworm-security; urgency=medium

  * CVE-2025-9230 (Out-of-bounds read)
  * CVE-2025-9230 again, CVE-2025-9231

 -- Someone <someone@example.org>  Sat, 27 Sep 2025 22:48:15 +0200

openssl (3.0.17-1~deb12u1) bookworm; urgency=high

  * CVE-2024-13176

 -- Someone <someone@example.org>  Mon, 7 Jul 2025 21:01:00 +0200

openssl (3.0.15-1) bookworm; urgency=critical

  * CVE-2020-1111

 -- Someone <someone@example.org>  Mon, 7 Jul 2020 21:01:00 +0200
`
	tests := []struct {
		text, installed string
		want            change
	}{
		{text, "3.0.15-1+b2", change{"important", []string{"CVE-2024-13176", "CVE-2025-9230", "CVE-2025-9231"}, time.Date(2025, 9, 27, 20, 48, 15, 0, time.UTC)}},
		{text, "3.0.17-1~deb12u1", change{"moderate", []string{"CVE-2025-9230", "CVE-2025-9231"}, time.Date(2025, 9, 27, 20, 48, 15, 0, time.UTC)}},
		{"", "1", change{}},
		{"nothing that looks like it\n -- x  y\nCVE-2020-1111", "1", change{}},
		{"xx (1) y; urgency=high\n\n -- A <a@b>  someday\n", "0", change{severity: "important"}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, parseChangelog(tt.text, tt.installed), cmp.AllowUnexported(change{})); diff != "" {
			t.Errorf("since %s: %s", tt.installed, diff)
		}
	}
}

func TestUpdateinfo(t *testing.T) {
	const text = `<?xml version="1.0" encoding="UTF-8"?>
<updates>
<update type="security"><id>ALAS-1</id><issued date="2023-02-17T01:02:03Z"/><severity>medium</severity>
 <references><reference type="cve" id="CVE-2023-0001"/><reference type="bugzilla" id="1"/><reference type="cve" id="CVE-2023-0001"/></references>
 <pkglist><collection><package name="curl" version="8.0" release="1.amzn" epoch="0" arch="x86_64"/><package name="curl" version="8.0" release="1.amzn" epoch="0" arch="aarch64"/></collection></pkglist></update>
<update type="bugfix"><id>RHBA-2</id><issued date="2023-03-01 10:00:00"/><severity>None</severity>
 <pkglist><collection><package name="curl" version="8.0" release="1.amzn" arch="x86_64"/></collection></pkglist></update>
<update type="security"><id>ALAS-0</id><severity>low</severity>
 <pkglist><collection><package name="curl" version="8.0" release="1.amzn" epoch="0" arch="x86_64"/></collection></pkglist></update>
<update type="recommended"><id>SUSE-3</id><issued date="1579167000"/><severity>important</severity>
 <pkglist><collection><package name="bash" version="5" release="2" epoch="1" arch="noarch"/></collection></pkglist></update>
<update type="security"><id>GZIP-1</id><issued date="2024-01-01"/><severity>Critical</severity>
 <pkglist><collection><package name="gzip" version="1.1" release="1" arch="noarch"/><package name="gzip" version="1.1" release="1" arch="i686"/></collection></pkglist></update>
<update type="bugfix"><id>GZIP-2</id><issued date="2024-02-02"/>
 <pkglist><collection><package name="gzip" version="1.2" release="1" arch="noarch"/></collection></pkglist></update>
<update type="security"><id>OTHER</id><pkglist><collection><package name="not-here" version="1" release="1" epoch="0" arch="noarch"/></collection></pkglist></update>
</updates>`
	offers := []patch.Offer{
		{Name: "curl", Arch: "x86_64", Installed: "7.0-1", Version: "8.0-1.amzn"},
		{Name: "bash", Arch: "noarch", Installed: "4-1", Version: "1:5-2"},
		// The version that closed the hole is not offered any more: the next one has its severity, and its own date.
		{Name: "gzip", Arch: "noarch", Installed: "1.0-1", Version: "1.3-1"},
		{Name: "gzip", Arch: "noarch", Installed: "1.0-1", Version: "1.2-1"},
		{Name: "gzip", Arch: "noarch", Installed: "1.0-1", Version: "1.4-1"},
		// Nor does what was closed before say anything about what is installed.
		{Name: "gzip", Arch: "i686", Installed: "1.1-1", Version: "1.3-1"},
	}
	known := newKnowledge(offers)
	if err := parseUpdateinfo(strings.NewReader(text), known); err != nil {
		t.Fatal(err)
	}
	known.tell(offers)
	var got []string
	for _, o := range offers {
		got = append(got, strings.Join([]string{o.Name, o.Version, o.Advisory, o.Severity, o.Classification, strings.Join(o.CVEs, "+"), o.Published.Format(time.DateTime)}, "|"))
	}
	want := []string{
		"curl|8.0-1.amzn|ALAS-1|moderate|security|CVE-2023-0001|2023-02-17 01:02:03",
		"bash|1:5-2|SUSE-3|important|bugfix||2020-01-16 09:30:00",
		"gzip|1.3-1|||||0001-01-01 00:00:00",
		"gzip|1.2-1|GZIP-1|critical|security||2024-02-02 00:00:00",
		"gzip|1.4-1|||||0001-01-01 00:00:00",
		"gzip|1.3-1|||||0001-01-01 00:00:00",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := parseUpdateinfo(strings.NewReader(text[:400]), known); err == nil {
		t.Error("a file that is cut off was read without an error")
	}
}

func TestRepoquery(t *testing.T) {
	got := parseRepoquery("alpha\t0:1.1-1\tnoarch\ttest\n\nalpha\t0:1.1-1\tnoarch\tmirror\nbeta\t2:1-1\tx86_64\ttest\nstranger\t0:1-1\tnoarch\ttest\n",
		[]Package{pkg("alpha", "noarch", "1.0-1"), pkg("beta", "i686", "1-1"), pkg("beta", "x86_64", "1:1-1")})
	want := []patch.Offer{
		{Name: "alpha", Arch: "noarch", Installed: "1.0-1", Version: "1.1-1", Repository: "test"},
		{Name: "beta", Arch: "x86_64", Installed: "1:1-1", Version: "2:1-1", Repository: "test"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestWindows(t *testing.T) {
	got := windowsAnswer{Version: "10.0.20348.0", Reboot: true,
		Installed: []windowsUpdate{{KB: []string{"5034123"}, Revision: "200"}, {Title: "without a number"}},
		Offered: []windowsUpdate{
			{KB: []string{"5040001"}, Revision: "201", Severity: "Critical", Categories: []string{"Windows Server 2022", "Security Updates", "Updates"}, Bulletins: []string{"MS24-001"}, CVEs: []string{"CVE-2024-0001"}},
			{KB: []string{"5040002"}, Revision: "1", Severity: "", Categories: []string{"Updates"}},
			{KB: []string{"1; Remove-Item C:"}, Revision: "1"},
		}}.machine()
	want := patch.Machine{OS: "windows", Version: "10.0.20348.0", Manager: "windows", RebootPending: true,
		Installed: []Package{{Name: "KB5034123", Version: "200"}},
		Offers: []patch.Offer{
			{Name: "KB5040001", Version: "201", Severity: "critical", Classification: "security", Advisory: "MS24-001", CVEs: []string{"CVE-2024-0001"}, Repository: "windows-update"},
			{Name: "KB5040002", Version: "1", Classification: "bugfix", Repository: "windows-update"},
		}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	cmd, err := windows{}.Install([]Package{{Name: "KB5040001", Version: "201"}}, nil)
	if err != nil || !strings.Contains(strings.Join(cmd.Env, "\n"), `ALMANAC_UPDATES=["KB5040001"]`) || strings.Contains(strings.Join(cmd.Argv, "\n"), "KB5040001") {
		t.Errorf("what to install belongs into the environment: %v", err)
	}
}

// The tools are told names and versions, and nothing that is an option, a path or a pattern.
func TestCommands(t *testing.T) {
	want, hold := []Package{pkg("openssl", "amd64", "3.0.17-1~deb12u2"), pkg("tzdata", "all", "2026f-0")}, []Package{pkg("libc6", "amd64", "2.36-9")}
	tests := []struct {
		m    Manager
		want string
	}{
		{apt{}, "sh -ec SCRIPT almanac Package: libc6\nPin: version 2.36-9\nPin-Priority: 1001\n\n --only-upgrade install -- openssl:amd64=3.0.17-1~deb12u2 tzdata=2026f-0"},
		{apt{system{root: "/r"}}, "chroot /r sh -ec SCRIPT almanac Package: libc6\nPin: version 2.36-9\nPin-Priority: 1001\n\n --only-upgrade install -- openssl:amd64=3.0.17-1~deb12u2 tzdata=2026f-0"},
		{dnf{system{}, "dnf"}, "dnf -y --setopt=exit_on_lock=1 --setopt=*.skip_if_unavailable=0 --setopt=best=1 --color=never --exclude=libc6 --setopt=install_weak_deps=0 upgrade openssl-0:3.0.17-1~deb12u2.amd64 tzdata-0:2026f-0.all"},
		{dnf{system{root: "/r", foreign: true, release: map[string]string{"VERSION_ID": "40"}}, "dnf"}, "dnf --installroot=/r -y --setopt=exit_on_lock=1 --setopt=*.skip_if_unavailable=0 --setopt=best=1 --color=never --releasever=40 --exclude=libc6 --setopt=install_weak_deps=0 upgrade openssl-0:3.0.17-1~deb12u2.amd64 tzdata-0:2026f-0.all"},
		{zypper{system{}}, "bash -c SCRIPT almanac 1 8 6 libc6 zypper --non-interactive --xmlout --no-refresh install --no-recommends --auto-agree-with-licenses --dry-run zypper --non-interactive --no-refresh install --no-recommends --auto-agree-with-licenses openssl.amd64=3.0.17-1~deb12u2 tzdata.all=2026f-0"},
	}
	for _, tt := range tests {
		cmd, err := tt.m.Install(want, hold)
		if err != nil {
			t.Fatal(err)
		}
		for i, arg := range cmd.Argv {
			if strings.HasPrefix(arg, "\n") {
				cmd.Argv[i] = "SCRIPT"
			}
		}
		if got := strings.Join(cmd.Argv, " "); got != tt.want {
			t.Errorf("%T:\n%s\nwant\n%s", tt.m, got, tt.want)
		}
		for _, evil := range []Package{
			pkg("-o", "amd64", "1"), pkg("../x", "amd64", "1"), pkg("a b", "amd64", "1"), pkg("a*", "amd64", "1"), pkg("a\nPackage: b", "amd64", "1"),
			pkg("a", "amd64", "1 b"), pkg("a", "amd64", "-1"), pkg("a", "amd64", ""), pkg("a", "$(id)", "1"), pkg("", "", "1"), pkg("a", "amd64", "1\nPin-Priority: 1"),
		} {
			if _, err := tt.m.Install([]Package{evil}, nil); err == nil {
				t.Errorf("%T is told to install %q", tt.m, evil)
			}
			if _, err := tt.m.Install(want, []Package{evil}); err == nil {
				t.Errorf("%T is told to hold %q", tt.m, evil)
			}
			if _, _, err := tt.m.Restore(context.Background(), []Package{evil}, nil); err == nil {
				t.Errorf("%T is told to put back %q", tt.m, evil)
			}
			if _, _, err := tt.m.Restore(context.Background(), nil, []Package{evil}); err == nil {
				t.Errorf("%T is told to remove %q", tt.m, evil)
			}
		}
	}
}

func TestExplain(t *testing.T) {
	me := fmt.Sprintf("process %d (packages.test)", os.Getpid())
	tests := []struct {
		m      Manager
		code   int
		output string
		kind   error
		says   string
	}{
		{apt{}, 100, "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 4711 (unattended-upgr)\nE: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?", ErrBusy, "process 4711 (unattended-upgr)"},
		{apt{}, 2, fmt.Sprintf("dpkg: error: dpkg frontend lock was locked by another process with pid %d\nNote: removing the lock file is always wrong", os.Getpid()), ErrBusy, ""},
		{apt{}, 100, "Err:1 http://mirror.example x\nE: Failed to fetch http://mirror.example/x.deb  Connection timed out\nE: Unable to fetch some archives, maybe run apt-get update", ErrUnreachable, "mirror.example/x.deb"},
		{apt{}, 100, "The following packages have unmet dependencies:\n beta : Depends: gamma (>= 2.0) but 1.0 is to be installed\nE: Unable to correct problems, you have held broken packages.", nil, "beta : Depends: gamma (>= 2.0)"},
		{dnf{system{}, "dnf"}, 200, "", ErrBusy, ""},
		{dnf{system{}, "dnf"}, 1, fmt.Sprintf("Waiting for process with pid %d to finish.", os.Getpid()), ErrBusy, ""},
		{dnf{system{}, "dnf"}, 1, "Error: Failed to download metadata for repo 'updates': Cannot download repomd.xml", ErrUnreachable, "'updates'"},
		{dnf{system{}, "dnf"}, 1, "Error: \n Problem: package alpha-1.2-1.noarch requires libbeta >= 2.0, but none of the providers can be installed", nil, "requires libbeta"},
		{zypper{}, 7, "System management is locked by the application with pid 99999999 (zypper).", ErrBusy, "process 99999999 (zypper)"},
		{zypper{}, 4, "Problem retrieving files from 'test'.\nSkipping repository 'test' because of the above error.", ErrUnreachable, "'test'"},
		{zypper{}, 104, "<message type=\"error\">No provider of &apos;alpha=9&apos; found.</message>", nil, "No provider of 'alpha=9' found."},
		{apt{}, 1, "", nil, "it said nothing"},
		{apt{}, 1, "E: \x1b]0;evil\a\x1b[31m text", nil, "E: ?]0;evil??[31m text"},
	}
	for _, tt := range tests {
		err := tt.m.Explain(tt.code, tt.output)
		for _, kind := range []error{ErrBusy, ErrUnreachable} {
			if errors.Is(err, kind) != (kind == tt.kind) {
				t.Errorf("%q: %v", tt.output, err)
			}
		}
		says := tt.says
		if says == "" && strings.Contains(tt.output, fmt.Sprint(os.Getpid())) {
			says = me
		}
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", tt.output, err, says)
		}
	}
	long := apt{}.Explain(1, strings.Repeat("E: "+strings.Repeat("x", 1000)+"\n", 1)+strings.Repeat("E: y\n", 10_000))
	if len(long.Error()) > 2000 {
		t.Errorf("%d bytes", len(long.Error()))
	}
}

func TestAsk(t *testing.T) {
	ctx := context.Background()
	r, err := system{}.ask(ctx, time.Minute, []string{"sh", "-c", "echo out; echo err >&2; exit 3"})
	if err != nil || r.code != 3 || r.stdout != "out\n" || !strings.Contains(r.all, "err") {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := (system{}).ask(ctx, time.Minute, []string{"sh", "-c", "yes"}); err == nil || !strings.Contains(err.Error(), "printed more than") {
		t.Errorf("endless output: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := (system{}).ask(short, time.Minute, []string{"sleep", "30"}); err != context.DeadlineExceeded {
		t.Errorf("who asked has no more time: %v", err)
	}
	begin, pid := time.Now(), filepath.Join(t.TempDir(), "pid")
	// What it has started has its output, and ends with it.
	if _, err := (system{}).ask(ctx, 100*time.Millisecond, []string{"sh", "-c", `sleep 30 & echo $! > "$0"; echo waiting for it; sleep 30`, pid}); err == nil || !strings.Contains(err.Error(), "did not end within 100ms: waiting for it") || time.Since(begin) > 10*time.Second {
		t.Errorf("a tool that hangs: %v after %s", err, time.Since(begin))
	}
	left, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	// Killed, it may take a moment, and wait for somebody to bury it.
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile(filepath.Join("/proc", strings.TrimSpace(string(left)), "stat"))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			break
		}
		if time.Since(begin) > 5*time.Second {
			t.Fatalf("what the tool has started goes on: %s", stat)
		}
	}
}

func TestRefreshWaits(t *testing.T) {
	defer func(p time.Duration) { patience = p }(patience)
	patience = 2 * time.Second
	dir := t.TempDir()
	script := `echo x >> "$0"; if test $(wc -l < "$0") -lt 3; then echo "E: Could not get lock /x. It is held by process 1 (init)" >&2; exit 100; fi`
	fails := func(r result) error {
		if r.code != 0 {
			return explain("test", r.all)
		}
		return nil
	}
	if _, err := (system{}).refresh(context.Background(), fails, []string{"sh", "-c", script, filepath.Join(dir, "tries")}); err != nil {
		t.Errorf("free at the third time: %v", err)
	}
	patience = 200 * time.Millisecond
	_, err := system{}.refresh(context.Background(), fails, []string{"sh", "-c", "echo 'E: Could not get lock /x. It is held by process 1 (init)'; exit 100"})
	if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "process 1 (init)") {
		t.Errorf("never free: %v", err)
	}
}
