package authorizer

import (
	"crypto/x509"
	"fmt"
	"strings"
)

// fromCertificate reads who a verified certificate is for: its one name spiffe://<trust domain>/role/name, or without
// any such name its common name, role/name. A certificate of a server, which has neither, is nobody's.
func fromCertificate(cert *x509.Certificate, trustDomain string) (Identity, error) {
	text := cert.Subject.CommonName
	found := 0
	for _, uri := range cert.URIs {
		if uri.Scheme != "spiffe" {
			continue
		}
		found++
		if uri.Host != trustDomain {
			return Identity{}, fmt.Errorf("the certificate is of the trust domain %q, not %s", uri.Host, trustDomain)
		}
		if uri.RawQuery != "" || uri.Fragment != "" || uri.User != nil {
			return Identity{}, fmt.Errorf("the certificate's name %q is more than spiffe://%s/role/name", uri, trustDomain)
		}
		text = strings.TrimPrefix(uri.Path, "/")
	}
	if found > 1 {
		return Identity{}, fmt.Errorf("the certificate has %d spiffe:// names, and one is wanted", found)
	}
	role, name, _ := strings.Cut(text, "/")
	who, err := identity(role, name)
	if err != nil {
		return Identity{}, fmt.Errorf("the certificate names nobody: %w", err)
	}
	return who, nil
}
