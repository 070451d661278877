package patch

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The rules that Debian's policy and deb-version(7) publish.
func TestCompareDebian(t *testing.T) {
	inOrder(t, compareDebian, [][]string{
		{"~~", "~~a", "~", "", "a"}, // the policy's own example
		{"1.0~beta1~svn1245", "1.0~beta1", "1.0"},
		{"1.0~rc1-1", "1.0-1", "1.0-1+deb12u1", "1.0-1.1", "1.0-2", "1.0a-1", "1.0+dfsg-1", "1.0.1-1"},
		{"1.9", "1.10", "2.0", "1:0.5", "2:0.1", "10:0"},
		{"2.36-9+deb12u3", "2.36-9+deb12u10", "2.36-10"},
		{"5.10.0-8", "5.10.0-28"},
		{"1.2.3-1~bpo11+1", "1.2.3-1", "1.2.3-1+b1"},
		{"1a", "1b", "1+"},   // letters before other characters
		{"1.0-1", "1.0-1-1"}, // the last hyphen begins the revision
		{"99999999999999999998", "99999999999999999999", "100000000000000000000"}, // longer than a machine's number
	})
	same(t, compareDebian, [][2]string{{"1.0", "1.00"}, {"0:1.0", "1.0"}, {"1.0-0", "1.0"}, {"007", "7"}, {"1.0-", "1.0"}})
}

// The rules that rpm publishes (rpm-version(7), the manual on dependencies).
func TestCompareRPM(t *testing.T) {
	inOrder(t, compareRPM, [][]string{
		{"1.0~rc1", "1.0", "1.0^git1", "1.0.1"},
		{"1.0~rc1~git1", "1.0~rc1", "1.0~rc2"},
		{"1.0^20210501", "1.0^20210502", "1.01"},
		{"1.0~rc1^git1", "1.0", "1.0^git1~pre", "1.0^git1"},
		{"1.0a", "1.0.1", "1.9", "1.10", "2"},
		{"a", "b", "ba", "1"}, // a number is newer than letters
		{"1.0-1.el9", "1.0-2.el9", "1.0-10.el9", "1.0-10.el9_2"},
		{"9:1", "10:0"},
		{"3.0.7-24.el9", "1:3.0.1-41.el9"},
		{"20101121", "20101122"},
		{"2.0", "2.0.1", "2_0.1a", "2.0.1.1"},
	})
	same(t, compareRPM, [][2]string{{"1.0", "1_0"}, {"1.05", "1.5"}, {"1.0", "1..0"}, {"0:1", "1"}, {"1.0.", "1.0"}})
}

func inOrder(t *testing.T, compare func(a, b string) int, chains [][]string) {
	t.Helper()
	for _, chain := range chains {
		for i, a := range chain {
			for k, b := range chain {
				if got, want := sign(compare(a, b)), sign(i-k); got != want {
					t.Errorf("%q and %q: %d, want %d", a, b, got, want)
				}
			}
		}
	}
}

func same(t *testing.T, compare func(a, b string) int, pairs [][2]string) {
	t.Helper()
	for _, p := range pairs {
		if got := compare(p[0], p[1]); got != 0 || compare(p[1], p[0]) != 0 {
			t.Errorf("%q and %q: %d, want 0", p[0], p[1], got)
		}
	}
}

func sign(n int) int { return max(-1, min(1, n)) }

// versions are generated, near each other, from what versions are made of.
func versions(r *rand.Rand, pieces []string, epochs bool) [2]string {
	build := func() []string {
		v := []string{"1"}
		for range r.IntN(6) {
			v = append(v, pieces[r.IntN(len(pieces))])
		}
		return v
	}
	a := build()
	b := build()
	if r.IntN(3) > 0 { // most differ by one piece
		b = slices.Clone(a)
		switch i := r.IntN(len(a)); r.IntN(3) {
		case 0:
			b[i] = pieces[r.IntN(len(pieces))]
		case 1:
			b = append(b, pieces[r.IntN(len(pieces))])
		default:
			b = slices.Delete(b, i, i+1)
		}
	}
	if len(b) == 0 || !isDigit(b[0][0]) {
		b = append([]string{"1"}, b...)
	}
	text := func(parts []string) string {
		v := strings.Join(parts, "")
		if epochs && r.IntN(6) == 0 {
			v = fmt.Sprint(r.IntN(12), ":", v)
		}
		return v
	}
	return [2]string{text(a), text(b)}
}

// tool finds a program; without it the test is skipped, but in CI it fails.
func tool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is needed: %v", name, err)
		}
		t.Skipf("%s is not here: %v", name, err)
	}
}

// dpkg itself orders generated versions as we do.
func TestDebianOrderIsDpkgs(t *testing.T) {
	tool(t, "dpkg")
	r := rand.New(rand.NewPCG(1, 2))
	pieces := []string{"0", "00", "1", "9", "10", "a", "b", "z", "A", ".", "+", "~", "-", "~~", "rc", "deb12u", "bpo"}
	var script bytes.Buffer
	var pairs [][2]string
	for len(pairs) < 3000 {
		p := versions(r, pieces, true)
		if strings.HasSuffix(p[0], "-") || strings.HasSuffix(p[1], "-") {
			continue // dpkg refuses an empty revision
		}
		pairs = append(pairs, p)
		fmt.Fprintf(&script, "if dpkg --compare-versions '%s' lt '%s'; then echo -1; elif dpkg --compare-versions '%s' gt '%s'; then echo 1; else echo 0; fi\n", p[0], p[1], p[0], p[1])
	}
	cmd := exec.Command("sh")
	cmd.Stdin = &script
	differ(t, pairs, compareDebian, "dpkg", cmd)
}

// rpm itself orders generated versions as we do.
func TestRPMOrderIsRPMs(t *testing.T) {
	tool(t, "rpm")
	r := rand.New(rand.NewPCG(3, 4))
	pieces := []string{"0", "00", "1", "9", "10", "a", "b", "z", "A", ".", "..", "_", "+", "~", "^", "-", "rc", "git", "el9"}
	var script bytes.Buffer
	var pairs [][2]string
	for len(pairs) < 5000 {
		p := versions(r, pieces, true)
		if strings.Count(p[0], "-") > 1 || strings.Count(p[1], "-") > 1 || strings.HasSuffix(p[0], "-") || strings.HasSuffix(p[1], "-") {
			continue // no name-version-release has them
		}
		if strings.Contains(p[0], "-") != strings.Contains(p[1], "-") {
			continue // offers have a release
		}
		pairs = append(pairs, p)
		fmt.Fprintf(&script, "print(rpm.vercmp('%s','%s')..'\\n')\n", p[0], p[1])
	}
	file := filepath.Join(t.TempDir(), "compare.lua") // an argument has at most 128 KiB
	if err := os.WriteFile(file, script.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	differ(t, pairs, compareRPM, "rpm", exec.Command("rpm", "--eval", "%{lua: dofile('"+file+"')}"))
}

// differ compares ours with one answer a line from a program.
func differ(t *testing.T, pairs [][2]string, compare func(a, b string) int, program string, cmd *exec.Cmd) {
	t.Helper()
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	answers := strings.Fields(string(out))
	if len(answers) != len(pairs) {
		t.Fatalf("%d answers to %d questions", len(answers), len(pairs))
	}
	seen := map[string]int{}
	for i, p := range pairs {
		seen[answers[i]]++
		if got := fmt.Sprint(sign(compare(p[0], p[1]))); got != answers[i] {
			t.Errorf("%q and %q: %s, and %s says %s", p[0], p[1], got, program, answers[i])
		}
	}
	if seen["-1"] < 100 || seen["0"] < 100 || seen["1"] < 100 {
		t.Errorf("the questions have no variety: %v", seen)
	}
}

// A comparison is an order: antisymmetric, and never a panic.
func FuzzCompare(f *testing.F) {
	f.Add("1:1.0~rc1-1", "1.0^git-2")
	f.Add("", "~")
	f.Add("^", "~^")
	f.Fuzz(func(t *testing.T, a, b string) {
		for name, compare := range map[string]func(a, b string) int{"debian": compareDebian, "rpm": compareRPM} {
			if compare(a, a) != 0 {
				t.Errorf("%s: %q differs from itself", name, a)
			}
			if x, y := sign(compare(a, b)), sign(compare(b, a)); x != -y {
				t.Errorf("%s: %q and %q: %d, and the other way round %d", name, a, b, x, y)
			}
		}
	})
}
