package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"time"

	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/metrics"
	"go.temporal.io/server/common/rpc/encryption"
	"go.temporal.io/server/temporal"

	"github.com/almanac-run/almanac/dev/authorizer"
)

// Authorization makes a server know its callers: all connections are TLS, and the authorizer decides about each call.
type Authorization struct {
	authorizer.Options // Namespace is the server's own; empty SealKey: one that is kept beside File

	// Cert and Key are files with the server's certificate and its key; ClientCA is one with the authorities whose
	// client certificates count. Empty ClientCA: callers have tokens. With both each caller may choose.
	Cert, Key, ClientCA string
}

// insides is the name in the certificate by which the parts of one server know each other.
const insides = "almanac-server"

// guard is what a server with Authorization has beyond one without.
type guard struct {
	authorizer *authorizer.Authorizer
	internode  config.GroupTLS
	frontend   config.GroupTLS
	client     *tls.Config // of the server's own parts
}

func newGuard(o Options, namespace string) (*guard, error) {
	a := o.Authorization
	if a == nil {
		return nil, nil
	}
	if o.UIPort != 0 {
		return nil, errors.New("the web ui would speak for everybody who opens it: a server with authorization has none; run Temporal's own with a login")
	}
	front := *a
	front.Namespace = namespace
	if len(front.SealKey) == 0 && o.File != "" {
		var err error
		if front.SealKey, err = sealKey(o.File + ".seal"); err != nil {
			return nil, err
		}
	}
	g, err := frontGuard(front)
	if err != nil {
		return nil, err
	}
	return g, g.insides()
}

// frontGuard is a guard without certificates for the server's own parts.
func frontGuard(a Authorization) (*guard, error) {
	if a.Cert == "" || a.Key == "" || a.ClientCA == "" && a.Tokens == nil {
		return nil, errors.New("authorization needs the server's Cert and Key, and ClientCA or Tokens")
	}
	// The server itself would only say that something could not be made.
	if _, err := tls.LoadX509KeyPair(a.Cert, a.Key); err != nil {
		return nil, fmt.Errorf("authorization: the server's certificate: %w", err)
	}
	if a.ClientCA != "" {
		raw, err := os.ReadFile(a.ClientCA)
		if err != nil {
			return nil, fmt.Errorf("authorization: the authorities of clients: %w", err)
		}
		if !x509.NewCertPool().AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("authorization: %s has no certificate of an authority", a.ClientCA)
		}
	}
	g := &guard{}
	var err error
	if g.authorizer, err = authorizer.New(a.Options); err != nil {
		return nil, err
	}
	g.frontend.Server = config.ServerTLS{CertFile: a.Cert, KeyFile: a.Key}
	if a.ClientCA != "" {
		g.frontend.Server.RequireClientAuth, g.frontend.Server.ClientCAFiles = true, []string{a.ClientCA}
	}
	return g, nil
}

// insides makes an authority that lives as long as the process: with a certificate of it the parts of the server call
// each other. Without, whoever reaches their ports does what he wants, past all authorization.
func (g *guard) insides() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: insides}, DNSNames: []string{insides},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	text := base64.StdEncoding.EncodeToString(certPEM)
	g.internode = config.GroupTLS{
		Server: config.ServerTLS{CertData: text, KeyData: base64.StdEncoding.EncodeToString(keyPEM), ClientCAData: []string{text}, RequireClientAuth: true},
		Client: config.ClientTLS{ServerName: insides, RootCAData: []string{text}},
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	g.client = &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: insides, MinVersion: tls.VersionTLS12}
	return nil
}

// sealKey reads the key beside the database, or makes it.
func sealKey(file string) ([]byte, error) {
	key, err := os.ReadFile(file)
	if err == nil && len(key) != 32 {
		return nil, fmt.Errorf("%s has %d bytes, want 32; remove it, and agents report anew what they had not", file, len(key))
	}
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return key, err
	}
	key = make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	return key, os.WriteFile(file, key, 0o600)
}

// options are what the server is built with in place of an authorizer that allows everything.
func (g *guard) options(cfg *config.Config, logger log.Logger) ([]temporal.ServerOption, error) {
	cfg.Global.TLS.Frontend, cfg.Global.TLS.Internode = g.frontend, g.internode
	provider, err := encryption.NewTLSConfigProviderFromConfig(cfg.Global.TLS, metrics.NoopMetricsHandler, logger, nil)
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	if g.authorizer.TakesTokens() {
		provider = certificateOrToken{provider}
	}
	return append(g.authorizer.ServerOptions(), temporal.WithTLSConfigFactory(provider)), nil
}

// certificateOrToken lets clients connect without a certificate; a certificate that they show must still be good.
type certificateOrToken struct{ encryption.TLSConfigProvider }

func (p certificateOrToken) GetFrontendServerConfig() (*tls.Config, error) {
	c, err := p.TLSConfigProvider.GetFrontendServerConfig()
	if err != nil {
		return nil, err
	}
	return ifGiven(c), nil
}

func ifGiven(c *tls.Config) *tls.Config {
	c = c.Clone()
	if c.ClientAuth == tls.RequireAndVerifyClientCert {
		c.ClientAuth = tls.VerifyClientCertIfGiven
	}
	if get := c.GetConfigForClient; get != nil {
		c.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			c, err := get(h)
			if c == nil || err != nil {
				return c, err
			}
			return ifGiven(c), nil
		}
	}
	return c
}
