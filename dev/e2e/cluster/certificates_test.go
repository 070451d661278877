//go:build linux

package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// script runs deploy/certificates.sh.
func script(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"../../../deploy/certificates.sh", "-d", dir}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func must(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := script(t, dir, args...)
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return out
}

func read(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		t.Fatalf("%s is no certificate", file)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// files are what is in a directory, by name.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, dir+"/")] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// What the script makes says what the authorizer wants, for as long as was asked for, and nobody else can read it.
func TestCertificates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, dir, "-t", "7", "trial", "almanac.example.com", "10.1.2.3", "fd00::1")
	for who, want := range map[string]string{
		"agent-web-1": "spiffe://almanac/agent/web-1", "worker-w1": "spiffe://almanac/worker/w1", "operator-trial": "spiffe://almanac/operator/trial",
		"viewer-ui": "spiffe://almanac/viewer/ui", "admin-trial": "spiffe://almanac/admin/trial",
	} {
		c := read(t, filepath.Join(dir, who, "tls.crt"))
		if len(c.URIs) != 1 || c.URIs[0].String() != want || len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || c.IsCA {
			t.Errorf("%s: %v, uses %v, authority %t", who, c.URIs, c.ExtKeyUsage, c.IsCA)
		}
		if left := time.Until(c.NotAfter); left > 7*24*time.Hour || left < 6*24*time.Hour {
			t.Errorf("%s: good for %s", who, left)
		}
	}
	server := read(t, filepath.Join(dir, "server", "tls.crt"))
	for _, name := range []string{"temporal-1", "localhost", "almanac.example.com", "10.1.2.3", "fd00::1", "127.0.0.1"} {
		if err := server.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if len(server.ExtKeyUsage) != 1 || server.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth {
		t.Errorf("the servers' certificate is good for %v", server.ExtKeyUsage)
	}
	// Three authorities, and no certificate is good at another's.
	for authority, certificates := range map[string][]string{
		"clients":  {"server/tls", "agent-web-1/tls", "worker-w1/tls"},
		"inside":   {"server/inside"},
		"database": {"server/database", "postgresql/tls", "worker-w1/database"},
	} {
		for _, by := range []string{"clients", "inside", "database"} {
			roots := x509.NewCertPool()
			roots.AddCert(read(t, filepath.Join(dir, "authorities", by+".crt")))
			for _, name := range certificates {
				_, err := read(t, filepath.Join(dir, name+".crt")).Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
				if (err == nil) != (by == authority) {
					t.Errorf("%s by the authority %s: %v", name, by, err)
				}
			}
		}
	}
	// A machine's directory has no authority's key, and nothing is open to others.
	keys := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && path != dir && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has the mode %v", path, info.Mode())
		}
		if strings.HasSuffix(path, ".key") {
			keys++
		}
		return err
	})
	if err != nil || keys != 16 {
		t.Errorf("%d keys: %v", keys, err)
	}
}

// Run again it changes nothing but what expires soon, or what is to have other names; and never an authority.
func TestCertificatesAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, dir, "server", "temporal-1")
	must(t, dir, "agent", "web-1", "web-2")
	before := files(t, dir)
	changed := func() string {
		after := files(t, dir)
		var names []string
		for name, text := range after {
			if before[name] != text {
				names = append(names, strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, ".crt"), ".key"), ".for"))
			}
		}
		for name := range before {
			if _, ok := after[name]; !ok {
				t.Errorf("%s is gone", name)
			}
		}
		before = after
		seen := map[string]bool{}
		for _, name := range names {
			seen[name] = true
		}
		text := ""
		for _, name := range []string{"authorities/clients", "authorities/inside", "authorities/database", "server/tls", "server/inside", "server/database", "server/seal", "postgresql/tls", "agent-web-1/tls", "agent-web-2/tls", "agent-web-3/tls"} {
			if seen[name] {
				text += name + " "
			}
		}
		return text
	}
	for _, step := range []struct {
		args []string
		want string
	}{
		{[]string{"server", "temporal-1"}, ""},
		{[]string{"agent", "web-1", "web-2"}, ""},
		{[]string{"renew"}, ""},
		{[]string{"agent", "web-3"}, "agent-web-3/tls "},
		{[]string{"server", "temporal-1", "temporal-2"}, "server/tls postgresql/tls "},
		{[]string{"-t", "1", "agent", "web-1"}, ""},                   // it is good for longer
		{[]string{"-t", "200", "agent", "web-1"}, "agent-web-1/tls "}, // it has less than a third of that
		{[]string{"-t", "200", "renew"}, "server/tls server/inside server/database postgresql/tls agent-web-2/tls agent-web-3/tls "},
	} {
		out := must(t, dir, step.args...)
		if got := changed(); got != step.want {
			t.Errorf("%v changed %q, want %q\n%s", step.args, got, step.want, out)
		}
	}
	// A certificate of an authority that is no more is made anew; half of an authority is never completed.
	for _, file := range []string{"inside.crt", "inside.key"} {
		if err := os.Remove(filepath.Join(dir, "authorities", file)); err != nil {
			t.Fatal(err)
		}
		if file == "inside.crt" {
			if out, err := script(t, dir, "agent", "web-1"); err == nil || !strings.Contains(out, "only one of") {
				t.Errorf("half of an authority: %v\n%s", err, out)
			}
		}
	}
	delete(before, "authorities/inside.crt")
	delete(before, "authorities/inside.key")
	must(t, dir, "renew")
	if got := changed(); got != "authorities/inside server/inside " {
		t.Errorf("a new authority changed %q", got)
	}
}

func TestCertificatesRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args string
		says string
	}{
		{"", "Usage"},
		{"frobnicate", "no command"},
		{"agent", "wants a name"},
		{"agent web/1", "no name"},
		{"agent ../x", "no name"},
		{"operator a,URI:spiffe://almanac/admin/a", "no name"},
		{"server a,IP:1.2.3.4", "no host name"},
		{"server temporal-1:7233", "without a port"},
		{"-t 99999999999999999999 agent a", "number of days"},
		{"server", "names and addresses"},
		{"-t 0 agent a", "number of days"},
		{"-t x agent a", "number of days"},
		{"-t 4000 agent a", "itself expires"},
		{"renew", "nothing in"},
	} {
		dir := filepath.Join(t.TempDir(), "none")
		out, err := script(t, dir, strings.Fields(tt.args)...)
		if err == nil || !strings.Contains(out, tt.says) {
			t.Errorf("%s: %v, want %q\n%s", tt.args, err, tt.says, out)
		}
	}
	if out, err := script(t, t.TempDir(), "help"); err != nil || !strings.Contains(out, "Examples:") {
		t.Errorf("help: %v\n%s", err, out)
	}
}

// A run that was cut off, or met another, leaves nothing that stays wrong.
func TestCertificatesMended(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ends := make(chan error)
	for range 2 {
		go func() {
			out, err := script(t, dir, "trial")
			if err != nil {
				err = fmt.Errorf("%w\n%s", err, out)
			}
			ends <- err
		}()
	}
	for range 2 {
		if err := <-ends; err != nil {
			t.Errorf("two at once: %v", err)
		}
	}
	fits := func(what string) {
		t.Helper()
		pairs, err := filepath.Glob(filepath.Join(dir, "*", "*.crt"))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, file := range pairs {
			if key := strings.TrimSuffix(file, ".crt") + ".key"; !strings.HasSuffix(file, "ca.crt") {
				n++
				if _, err := tls.LoadX509KeyPair(file, key); err != nil {
					t.Errorf("%s: %s: %v", what, file, err)
				}
			}
		}
		if n != 15 {
			t.Errorf("%s: %d pairs, want 15", what, n)
		}
	}
	fits("two at once")
	if out := must(t, dir, "renew"); out != "" {
		t.Errorf("two at once left something to renew:\n%s", out)
	}
	// The key is put in its place before the certificate.
	other, err := os.ReadFile(filepath.Join(dir, "agent-web-2", "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "agent-web-1", "tls.key"), other, 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, dir, "renew")
	fits("cut off between key and certificate")
	if err := os.WriteFile(filepath.Join(dir, "agent-web-1", "tls.for"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "viewer-ui", "tls.crt")); err != nil {
		t.Fatal(err)
	}
	if out, err := script(t, dir, "renew"); err == nil || !strings.Contains(out, "agent-web-1/tls.for") {
		t.Errorf("nobody knows what it is for: %v\n%s", err, out)
	}
	fits("one that nobody knows keeps no other from being renewed")
	must(t, dir, "agent", "web-1")
	must(t, dir, "renew")
	// All ids that a node may have.
	long := strings.Repeat("n", 128)
	must(t, dir, "agent", long, "A.b_c-1")
	if got := read(t, filepath.Join(dir, "agent-"+long, "tls.crt")).URIs[0].String(); got != "spiffe://almanac/agent/"+long {
		t.Errorf("a long id: %s", got)
	}
}
