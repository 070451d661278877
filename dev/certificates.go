package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.temporal.io/sdk/client"
)

// Who connects here, as the directories that `sh deploy/certificates.sh trial` makes are called.
const (
	asAdmin    = "admin-trial"
	asWorker   = "worker-w1"
	asOperator = "operator-trial"
	asServer   = "server"
)

func asAgent(id string) string { return "agent-" + id }

// checkCertificates says what cannot be had with a server that asks who calls.
func checkCertificates(o options) error {
	if o.certificates == "" {
		return nil
	}
	if o.uiPort != 0 {
		return errors.New("--certificates: the Web UI would speak for everybody who opens it; add --ui-port 0")
	}
	if _, err := os.Stat(filepath.Join(o.certificates, asServer)); err != nil {
		return fmt.Errorf("--certificates: %w; make them with: sh deploy/certificates.sh -d %s trial", err, o.certificates)
	}
	return nil
}

// identify gives a connection the certificate of somebody, if the server asks for one.
func (s *server) identify(opts *client.Options, who string) error {
	if s.certificates == "" {
		return nil
	}
	dir := filepath.Join(s.certificates, who)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	if err != nil {
		return fmt.Errorf("certificate of %s: %w", who, err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return fmt.Errorf("certificate of %s: %w", who, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return fmt.Errorf("%s has no certificate", filepath.Join(dir, "ca.crt"))
	}
	opts.ConnectionOptions.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12}
	return nil
}

// certificateFor are the variables with which the command line program is an operator of a server that asks who calls.
func certificateFor(s *server) []variable {
	if s.certificates == "" {
		return nil
	}
	dir := filepath.Join(s.certificates, asOperator)
	return []variable{
		{"TEMPORAL_TLS", "true", ""},
		{"TEMPORAL_TLS_SERVER_CA_CERT_PATH", filepath.Join(dir, "ca.crt"), ""},
		{"TEMPORAL_TLS_CLIENT_CERT_PATH", filepath.Join(dir, "tls.crt"), ""},
		{"TEMPORAL_TLS_CLIENT_KEY_PATH", filepath.Join(dir, "tls.key"), ""},
	}
}
