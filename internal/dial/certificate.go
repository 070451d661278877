package dial

import (
	"crypto/tls"
	"os"
	"sync"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
)

// Renewed makes a connection show the certificate that is in the file now, at each handshake: certificates are
// renewed more often than programs start. The server ends connections every few minutes, so that there is a handshake soon.
// A pair that does not fit, as for the moment in which both files are replaced, leaves the one of before in use.
// Certificates that are no files stay what they are.
func Renewed(opts client.Options, profile envconfig.LoadClientConfigProfileOptions) (client.Options, error) {
	settings, err := envconfig.LoadClientConfigProfile(profile)
	if err != nil {
		return opts, err
	}
	c := opts.ConnectionOptions.TLS
	if c == nil || settings.TLS == nil || settings.TLS.ClientCertPath == "" || settings.TLS.ClientKeyPath == "" || len(c.Certificates) != 1 {
		return opts, nil
	}
	p := &pair{cert: settings.TLS.ClientCertPath, key: settings.TLS.ClientKeyPath, good: &c.Certificates[0]}
	c = c.Clone()
	c.Certificates = nil // they would be shown in place of what the function returns
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return p.get(), nil }
	opts.ConnectionOptions.TLS = c
	return opts, nil
}

// pair is a certificate with its key, in files.
type pair struct {
	cert, key string
	mu        sync.Mutex
	good      *tls.Certificate // the last that could be read
	read      [2]time.Time     // when the files had been changed, then
}

func (p *pair) get() *tls.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := [2]time.Time{changed(p.cert), changed(p.key)}
	if now == p.read {
		return p.good
	}
	if made, err := tls.LoadX509KeyPair(p.cert, p.key); err == nil {
		p.good, p.read = &made, now
	}
	return p.good
}

// changed is when a file was changed; zero if it is not there.
func changed(file string) time.Time {
	info, err := os.Stat(file)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
