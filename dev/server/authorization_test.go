package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/almanac-run/almanac/dev/authorizer"
)

// ownCertificate is one that a server and an admin may both have, and its own authority.
func ownCertificate(t *testing.T) (a Authorization, pair tls.Certificate, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "admin/ada"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name, kind string, der []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	a.Cert, a.Key = file("cert", "CERTIFICATE", der), file("key", "PRIVATE KEY", secret)
	a.ClientCA = a.Cert
	a.Tokens = &authorizer.Tokens{Issuer: "i", Audience: "a", Keys: file("issuer", "PUBLIC KEY", public)}
	if pair, err = tls.LoadX509KeyPair(a.Cert, a.Key); err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(made)
	return a, pair, pool
}

// TestNoWayAround tries every port of a server with authorization, as somebody on its machine who has nothing, and as
// one whose certificate is good for the front door.
func TestNoWayAround(t *testing.T) {
	a, pair, pool := ownCertificate(t)
	s := start(t, Options{Authorization: &a})
	request := &workflowservice.DescribeNamespaceRequest{Namespace: "default"}
	ask := func(port int, c credentials.TransportCredentials) error {
		conn, err := grpc.NewClient(hostPort(port), grpc.WithTransportCredentials(c))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, err = workflowservice.NewWorkflowServiceClient(conn).DescribeNamespace(t.Context(), request)
		return err
	}
	known := &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}
	if err := ask(s.ports.frontend, credentials.NewTLS(known)); err != nil {
		t.Errorf("an admin at the front door: %v", err)
	}
	blind := &tls.Config{InsecureSkipVerify: true} // who attacks does not mind whom
	blindKnown := &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}}
	for name, port := range s.ports.services() {
		if err := ask(port, insecure.NewCredentials()); err == nil || strings.Contains(err.Error(), "Unimplemented") {
			t.Errorf("%s answers without TLS: %v", name, err)
		}
		if err := ask(port, credentials.NewTLS(blind)); err == nil || strings.Contains(err.Error(), "Unimplemented") {
			t.Errorf("%s answers without a certificate: %v", name, err)
		}
		if port == s.ports.frontend {
			continue
		}
		if err := ask(port, credentials.NewTLS(blindKnown)); err == nil || strings.Contains(err.Error(), "Unimplemented") {
			t.Errorf("%s, which is for the server's own parts, answers to a client's certificate: %v", name, err)
		}
	}

	// The frontend speaks HTTP, too.
	get := func(c *tls.Config) (int, string) {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: c}}
		resp, err := client.Get("https://" + hostPort(s.ports.http) + "/api/v1/namespaces/default")
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body) // for the message
		return resp.StatusCode, string(body)
	}
	if code, body := get(&tls.Config{RootCAs: pool}); code != http.StatusForbidden || !strings.Contains(body, "no client certificate") {
		t.Errorf("HTTP without a certificate: %d %s", code, body)
	}
	if code, body := get(known); code != http.StatusOK {
		t.Errorf("HTTP with a certificate: %d %s", code, body)
	}
	resp, err := http.Get("http://" + hostPort(s.ports.http) + "/api/v1/namespaces/default")
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			t.Error("HTTP answers without TLS")
		}
	}
}

// TestSealKeyStays starts a server again on its file: agents can still report what they were given before.
func TestSealKeyStays(t *testing.T) {
	a, _, _ := ownCertificate(t)
	file := filepath.Join(t.TempDir(), "db")
	stop(t, start(t, Options{File: file, Authorization: &a}))
	before, err := os.ReadFile(file + ".seal")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file + ".seal")
	if err != nil {
		t.Fatal(err)
	}
	if len(before) != 32 || info.Mode().Perm() != 0o600 {
		t.Errorf("the seal key has %d bytes and mode %v", len(before), info.Mode())
	}
	g, err := newGuard(Options{File: file, Authorization: &a}, "default")
	if err != nil || g == nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(file + ".seal")
	if err != nil || string(after) != string(before) {
		t.Errorf("the seal key has changed: %v", err)
	}
	if err := os.WriteFile(file+".seal", []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newGuard(Options{File: file, Authorization: &a}, "default"); err == nil {
		t.Error("took a seal key of five bytes")
	}
}

// TestAuthorizationRefused gives settings that would let somebody in.
func TestAuthorizationRefused(t *testing.T) {
	good, _, _ := ownCertificate(t)
	for what, o := range map[string]Options{
		"a web ui":          {UIPort: FreePort, Authorization: &good},
		"no certificate":    {Authorization: &Authorization{ClientCA: good.ClientCA}},
		"nobody can come":   {Authorization: &Authorization{Cert: good.Cert, Key: good.Key}},
		"a missing file":    {Authorization: &Authorization{Cert: good.Cert, Key: "/does/not/exist", ClientCA: good.ClientCA}},
		"no authorities":    {Authorization: &Authorization{Cert: good.Cert, Key: good.Key, ClientCA: good.Key}},
		"a token's no keys": {Authorization: &Authorization{Cert: good.Cert, Key: good.Key, Options: authorizer.Options{Tokens: &authorizer.Tokens{}}}},
	} {
		if s, err := Start(t.Context(), o); err == nil {
			t.Errorf("%s: it started", what)
			stop(t, s)
		} else {
			t.Logf("%s: %v", what, err)
		}
	}
}
