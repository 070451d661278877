package postgres

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
)

// A connection shows the certificate that is in the file when it is made.
func TestCertificateIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	issue := func(serial int64) {
		t.Helper()
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{SerialNumber: big.NewInt(serial)}
		der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		for file, block := range map[string]*pem.Block{"c.crt": {Type: "CERTIFICATE", Bytes: der}, "c.key": {Type: "PRIVATE KEY", Bytes: secret}} {
			if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	issue(1)
	s, err := New("postgres://almanac@127.0.0.1:1/almanac?sslmode=require&sslcert=" + dir + "/c.crt&sslkey=" + dir + "/c.key")
	if err != nil {
		t.Fatal(err)
	}
	defer s.db.Close()
	issue(2)
	config := s.db.Config()
	if config.BeforeConnect == nil {
		t.Fatal("nothing is read before a connection is made")
	}
	if err := config.BeforeConnect(t.Context(), config.ConnConfig); err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(config.ConnConfig.TLSConfig.Certificates[0].Certificate[0])
	if err != nil || leaf.SerialNumber.Int64() != 2 {
		t.Errorf("shows the certificate %v: %v", leaf.SerialNumber, err)
	}
}
