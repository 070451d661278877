package host

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/almanac-run/almanac/action"
)

// rpmPackage is one version of a package without content to speak of.
func rpmPackage(t *testing.T, top, name, epoch, version, requires string) {
	t.Helper()
	spec := fmt.Sprintf("Name: %s\nVersion: %s\nRelease: 1\nSummary: test\nLicense: MIT\nBuildArch: noarch\n", name, version)
	if epoch != "" {
		spec += "Epoch: " + epoch + "\n"
	}
	if requires != "" {
		spec += "Requires: " + requires + "\n"
	}
	spec += fmt.Sprintf("%%description\ntest\n%%install\nmkdir -p %%{buildroot}/usr/share/%s\necho %s > %%{buildroot}/usr/share/%[1]s/version\n%%files\n/usr/share/%[1]s/version\n", name, version)
	file := filepath.Join(top, name+".spec")
	write(t, file, spec, 0o644)
	run(t, top, "rpmbuild", "-bb", "--quiet", "--define", "_topdir "+top+"/build", "--define", "_rpmdir "+top+"/repo",
		"--define", "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm", file)
}

func update(id, kind, severity, issued, name, epoch, version string) string {
	return fmt.Sprintf(`<update status="final" type="%s" version="1"><id>%s</id><title>%s</title><issued date="%s"/><severity>%s</severity>
<references><reference href="" id="CVE-2026-00%s" type="cve" title=""/></references>
<pkglist><collection short="t"><name>t</name><package name="%s" version="%s" release="1" epoch="%s" arch="noarch" src=""><filename>x</filename></package></collection></pkglist></update>
`, kind, id, id, issued, severity, id[len(id)-2:], name, version, epoch)
}

// rpmRepository is a small repository with advisories.
func rpmRepository(t *testing.T) (top string) {
	top = t.TempDir()
	rpmPackage(t, top, "alpha", "", "1.0", "")
	rpmPackage(t, top, "alpha", "", "1.1", "")
	rpmPackage(t, top, "alpha", "", "1.2", "libbeta >= 2.0")
	rpmPackage(t, top, "libbeta", "", "1.0", "")
	rpmPackage(t, top, "libbeta", "", "2.0", "")
	rpmPackage(t, top, "gamma", "", "1.0", "")
	rpmPackage(t, top, "gamma", "", "1.5", "")
	rpmPackage(t, top, "delta", "1", "1.0", "")
	rpmPackage(t, top, "delta", "1", "2.0", "extra")
	rpmPackage(t, top, "extra", "", "1.0", "")
	write(t, filepath.Join(top, "updateinfo.xml"), `<?xml version="1.0" encoding="UTF-8"?><updates>`+
		update("TEST-01", "security", "Critical", "2026-01-02 03:04:05", "alpha", "0", "1.1")+
		update("TEST-02", "security", "Medium", time.Now().UTC().Format(time.DateTime), "gamma", "", "1.5")+
		update("TEST-03", "security", "Important", "2026-01-02", "delta", "1", "2.0")+
		update("TEST-04", "bugfix", "None", "2026-01-02", "alpha", "0", "1.2")+
		"</updates>", 0o644)
	createRepository(t, top)
	return top
}

func createRepository(t *testing.T, top string) {
	t.Helper()
	run(t, top, "createrepo_c", "-q", "repo")
	run(t, top, "modifyrepo_c", "--mdtype=updateinfo", "updateinfo.xml", "repo/repodata")
}

// What dnf and zypper have in common, in a root of packages that they manage from outside.
func TestPatchRPM(t *testing.T) {
	t.Parallel()
	managers := []struct {
		name, id, config, repo string
	}{
		{"dnf", "ID=fedora\nVERSION_ID=40\n", "etc/dnf/dnf.conf", "etc/yum.repos.d/test.repo"},
		{"zypper", "ID=opensuse-leap\nID_LIKE=\"suse opensuse\"\nVERSION_ID=15.6\n", "etc/zypp/zypp.conf", "etc/zypp/repos.d/test.repo"},
	}
	for _, m := range managers {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			needs(t, m.name, "rpm", "rpmbuild", "createrepo_c", "modifyrepo_c", "bash")
			top := rpmRepository(t)
			root := filepath.Join(t.TempDir(), "root")
			write(t, filepath.Join(root, "etc/os-release"), m.id, 0o644)
			write(t, filepath.Join(root, m.config), "[main]\n", 0o644)
			repo := filepath.Join(root, m.repo)
			write(t, repo, "[test]\nname=test\nbaseurl=file://"+top+"/repo\nenabled=1\ngpgcheck=0\n", 0o644)
			run(t, filepath.Join(top, "repo"), "rpm", "--root", root, "-i", "alpha-1.0-1.noarch.rpm", "libbeta-1.0-1.noarch.rpm", "gamma-1.0-1.noarch.rpm", "delta-1.0-1.noarch.rpm")
			emptied(t, root)
			b := newPatchBench(t, root)
			installed := func() string {
				lines := strings.Fields(run(t, "/", "rpm", "--root", root, "-qa", "--qf", "%{NAME}=%{VERSION}\n"))
				return strings.Join(sorted(lines), " ")
			}
			const before = "alpha=1.0 delta=1.0 gamma=1.0 libbeta=1.0"
			rules := []map[string]any{
				{"approve": `patch.severity == "critical"`},
				{"approve": `patch.classification == "security"`, "after": "7d"},
				{"reject": `patch.name == "libbeta"`},
			}

			out, err := b.do(callContext("scan"), "host.patch.scan", baseline(rules...))
			if err != nil {
				t.Fatal(err)
			}
			got := patches(out)
			for p, want := range map[string]string{"alpha 1.1-1": "install", "delta 1:2.0-1": "install", "gamma 1.5-1": "wait", "libbeta 2.0-1": "reject", "alpha 1.2-1": "not_in_baseline"} {
				if got[p] != want {
					t.Errorf("%s: %q, want %s", p, got[p], want)
				}
			}
			by := out["missing_by_severity"].(map[string]any)
			if by["critical"] != 1.0 || by["important"] != 1.0 || out["missing"] != 2.0 || out["manager"] != m.name {
				t.Errorf("missing %v, manager %v", by, out["manager"])
			}
			for _, p := range out["patches"].([]any) {
				p := p.(map[string]any)
				if p["name"] == "alpha" && p["version"] == "1.1-1" && (p["advisory"] != "TEST-01" || fmt.Sprint(p["cves"]) != "[CVE-2026-0001]" || p["published"] != "2026-01-02T03:04:05Z") {
					t.Errorf("alpha: %v", p)
				}
			}

			in := baseline(rules...)
			out, err = b.do(callContext("install"), "host.patch.install", in)
			if err != nil {
				t.Fatal(err)
			}
			if got := installed(); got != "alpha=1.1 delta=2.0 extra=1.0 gamma=1.0 libbeta=1.0" {
				t.Errorf("installed %s", got)
			}
			if got := upgraded(out, "upgraded") + "; " + upgraded(out, "added"); got != "alpha 1.0-1>1.1-1, delta 1:1.0-1>1:2.0-1; extra >1.0-1" || out["status"] != "compliant" {
				t.Errorf("%s, %s: %s", got, out["status"], out["why"])
			}
			for range 2 {
				if err := b.undo("install", "host.patch.install", in, out); err != nil {
					t.Fatal(err)
				}
			}
			if got := installed(); got != before {
				t.Errorf("after undo %s", got)
			}

			// What needs a rejected one fails; the others do not.
			in = baseline(only("alpha", "gamma"), rules[2])
			_, err = b.do(callContext("reject"), "host.patch.install", in)
			if action.KindOf(err) != action.Failed || !strings.Contains(err.Error(), "alpha 1.2-1") || !strings.Contains(err.Error(), "libbeta") {
				t.Errorf("error %v", err)
			}
			if got := installed(); got != "alpha=1.0 delta=1.0 gamma=1.5 libbeta=1.0" {
				t.Errorf("installed %s", got)
			}
			if err := b.undo("reject", "host.patch.install", in, nil); err != nil || installed() != before {
				t.Errorf("after undo %s, error %v", installed(), err)
			}

			// Unless nobody rejects it.
			in = baseline(only("alpha", "gamma"))
			out, err = b.do(callContext("gone"), "host.patch.install", in)
			if got := installed(); err != nil || got != "alpha=1.2 delta=1.0 gamma=1.5 libbeta=2.0" {
				t.Errorf("installed %s, error %v", got, err)
			}
			if err := os.Remove(filepath.Join(top, "repo/gamma-1.0-1.noarch.rpm")); err != nil {
				t.Fatal(err)
			}
			createRepository(t, top)
			// A rollback takes what is known; a scan is what asks.
			if _, err := b.do(callContext("scan-2"), "host.patch.scan", in); err != nil {
				t.Fatal(err)
			}
			err = b.undo("gone", "host.patch.install", in, out)
			if action.KindOf(err) != action.Failed || !strings.Contains(err.Error(), "gamma 1.0-1 (no repository offers this version any more)") {
				t.Errorf("error %v", err)
			}
			if got := installed(); got != "alpha=1.0 delta=1.0 gamma=1.5 libbeta=1.0" {
				t.Errorf("after undo %s", got)
			}

			write(t, repo, "[test]\nname=test\nbaseurl=file://"+top+"/nowhere\nenabled=1\ngpgcheck=0\n", 0o644)
			_, err = b.do(callContext("nowhere"), "host.patch.scan", in)
			if action.KindOf(err) != action.Unavailable || !strings.Contains(err.Error(), "'test'") {
				t.Errorf("a repository that is not there: %v", err)
			}
		})
	}
}

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}
