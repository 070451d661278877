package dial

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
)

// issue writes a certificate with its key.
func issue(t *testing.T, dir, name string, changed time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "tls.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), changed)
	write(t, filepath.Join(dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), changed)
}

func write(t *testing.T, file string, text []byte, changed time.Time) {
	t.Helper()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, changed, changed); err != nil {
		t.Fatal(err)
	}
}

// A certificate that is renewed is shown from then on; while its files do not fit, the one of before is.
func TestRenewed(t *testing.T) {
	dir, begin := t.TempDir(), time.Now().Add(-time.Hour)
	issue(t, dir, "first", begin)
	t.Setenv("TEMPORAL_CONFIG_FILE", filepath.Join(dir, "none"))
	t.Setenv("TEMPORAL_TLS_CLIENT_CERT_PATH", filepath.Join(dir, "tls.crt"))
	t.Setenv("TEMPORAL_TLS_CLIENT_KEY_PATH", filepath.Join(dir, "tls.key"))
	opts, err := Options("test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	shown := func() string {
		t.Helper()
		return show(t, opts)
	}
	if got := shown(); got != "first" {
		t.Errorf("shows %q", got)
	}
	issue(t, dir, "second", begin.Add(time.Minute))
	if got := shown(); got != "second" {
		t.Errorf("renewed: shows %q", got)
	}
	half, err := os.ReadFile(filepath.Join(dir, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	issue(t, dir, "third", begin.Add(2*time.Minute))
	third, err := os.ReadFile(filepath.Join(dir, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "tls.key"), half, begin.Add(2*time.Minute))
	if got := shown(); got != "second" {
		t.Errorf("half renewed: shows %q", got)
	}
	write(t, filepath.Join(dir, "tls.key"), third, begin.Add(3*time.Minute))
	if got := shown(); got != "third" {
		t.Errorf("wholly renewed: shows %q", got)
	}
	if err := os.Remove(filepath.Join(dir, "tls.crt")); err != nil {
		t.Fatal(err)
	}
	if got := shown(); got != "third" {
		t.Errorf("removed: shows %q", got)
	}
}

// show is the name of the certificate that a connection shows.
func show(t *testing.T, opts client.Options) string {
	t.Helper()
	c := opts.ConnectionOptions.TLS
	if c == nil || len(c.Certificates) > 0 {
		t.Fatal("the certificate is a fixed one")
	}
	made, err := c.GetClientCertificate(&tls.CertificateRequestInfo{})
	if err != nil {
		t.Fatal(err)
	}
	return made.Leaf.Subject.CommonName
}
