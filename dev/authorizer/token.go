package authorizer

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Tokens say which signed tokens (JWT) are good. Issuer, Audience and Keys are required.
type Tokens struct {
	Issuer   string // must be the token's iss
	Audience string // must be among the token's aud

	// Keys is where the issuer's public keys are: a file with a JWKS or with PEM public keys, or an https:// address of a
	// JWKS. Both are read again: a file when it has changed, an address every ten minutes and for a key id that is not known.
	Keys string

	RoleClaim string // claim that names the role: a text, or a list with one; empty: almanac_role
	NameClaim string // claim that names the caller; empty: sub

	// Roles says which value of RoleClaim is which role, as groups of a directory; nil: roles go by their names.
	Roles map[string]Role

	now    func() time.Time // nil: time.Now
	client *http.Client     // nil: one of our own
}

// signatures are the algorithms of a public key: with a secret one, who can check a token could make one.
var signatures = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA}

const (
	leeway     = 30 * time.Second // clocks differ
	mostKeys   = 100
	mostBytes  = 1 << 20
	longest    = 16 << 10 // of a token
	fetchEvery = 10 * time.Minute
	fetchAgain = 30 * time.Second
	lookAgain  = time.Second
)

// What a caller with a bad token is told. What exactly is wrong with a forged one is for nobody but the server's log.
var (
	errToken   = errors.New("the token is not valid here")
	errExpired = errors.New("the token has expired: get a new one")
)

func (a *Authorizer) fromToken(header string) (Identity, error) {
	if a.keys == nil {
		return Identity{}, errors.New("this server takes client certificates, and no tokens")
	}
	scheme, text, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "bearer") || len(text) > longest {
		return Identity{}, errToken
	}
	t := a.o.Tokens
	parsed, err := jwt.ParseSigned(strings.TrimSpace(text), signatures)
	if err != nil || len(parsed.Headers) != 1 {
		return Identity{}, errToken
	}
	var standard jwt.Claims
	var all map[string]any
	signed := false
	for _, key := range a.keys.find(parsed.Headers[0].KeyID) {
		if key.Use != "" && key.Use != "sig" || key.Algorithm != "" && key.Algorithm != parsed.Headers[0].Algorithm {
			continue
		}
		// An HMAC key has no place in the list, and the library takes an algorithm for its own kind of key only.
		if parsed.Claims(key.Key, &standard, &all) == nil {
			signed = true
			break
		}
	}
	if !signed {
		return Identity{}, errToken
	}
	now := time.Now
	if t.now != nil {
		now = t.now
	}
	err = standard.ValidateWithLeeway(jwt.Expected{Issuer: t.Issuer, AnyAudience: jwt.Audience{t.Audience}, Time: now()}, leeway)
	switch {
	case errors.Is(err, jwt.ErrExpired):
		return Identity{}, errExpired
	case err != nil || standard.Expiry == nil:
		return Identity{}, errToken
	}
	name, _ := all[orElse(t.NameClaim, "sub")].(string)
	return identity(t.role(all[orElse(t.RoleClaim, "almanac_role")]), name)
}

// role finds the one role that a claim names. Of two it is not ours to choose.
func (t *Tokens) role(claim any) string {
	var values []any
	switch c := claim.(type) {
	case string:
		values = []any{c}
	case []any:
		values = c
	}
	var roles []string
	for _, v := range values {
		text, _ := v.(string)
		role := Role(text)
		if t.Roles != nil {
			role = t.Roles[text]
		}
		if slices.Contains(Roles, role) && !slices.Contains(roles, string(role)) {
			roles = append(roles, string(role))
		}
	}
	if len(roles) != 1 {
		return strings.Join(roles, " and ") // which is no role
	}
	return roles[0]
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// keys are an issuer's public keys, kept fresh.
type keys struct {
	from   string
	client *http.Client // nil for a file
	now    func() time.Time

	mu      sync.Mutex
	set     []jose.JSONWebKey
	looked  time.Time // last attempt
	changed time.Time // a file's time, when it was read
	size    int64
}

func (t *Tokens) open() (*keys, error) {
	if t.Issuer == "" || t.Audience == "" || t.Keys == "" {
		return nil, errors.New("tokens: Issuer, Audience and Keys are required")
	}
	for value, role := range t.Roles {
		if !slices.Contains(Roles, role) {
			return nil, fmt.Errorf("tokens: %q stands for %q, which is no role", value, role)
		}
	}
	k := &keys{from: t.Keys, now: time.Now}
	if strings.Contains(t.Keys, "://") {
		u, err := url.Parse(t.Keys)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("tokens: keys are in a file or at an https:// address, not at %q", t.Keys)
		}
		if k.client = t.client; k.client == nil {
			k.client = &http.Client{Timeout: 10 * time.Second}
		}
	}
	if err := k.load(); err != nil {
		return nil, fmt.Errorf("tokens: keys of %s: %w", t.Issuer, err)
	}
	return k, nil
}

// find returns the keys that may have signed a token: those with its key id, and those that have none.
func (k *keys) find(id string) []jose.JSONWebKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	match := func() []jose.JSONWebKey {
		var found []jose.JSONWebKey
		for _, key := range k.set {
			if key.KeyID == id || key.KeyID == "" {
				found = append(found, key)
			}
		}
		return found
	}
	found := match()
	age := k.now().Sub(k.looked)
	stale := age > lookAgain
	if k.client != nil {
		stale = age > fetchEvery || len(found) == 0 && age > fetchAgain
	}
	// Keys that cannot be read again stay as they are: the issuer may be away for a while.
	if stale && k.load() == nil {
		found = match()
	}
	return found
}

// load reads the keys. The caller holds the lock, or nobody else has k yet.
func (k *keys) load() error {
	k.looked = k.now()
	raw, err := k.fetch()
	if err != nil || raw == nil {
		return err
	}
	set, err := parseKeys(raw)
	if err != nil {
		return err
	}
	k.set = set
	return nil
}

// fetch returns what is there, or nil if it is what was there before.
func (k *keys) fetch() ([]byte, error) {
	if k.client == nil {
		info, err := os.Stat(k.from)
		if err != nil || info.ModTime().Equal(k.changed) && info.Size() == k.size {
			return nil, err
		}
		f, err := os.Open(k.from)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		raw, err := io.ReadAll(io.LimitReader(f, mostBytes))
		if err == nil {
			k.changed, k.size = info.ModTime(), info.Size()
		}
		return raw, err
	}
	resp, err := k.client.Get(k.from)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", k.from, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, mostBytes))
}

// parseKeys reads a JWKS, or public keys and certificates in PEM. Keys that sign with a secret are refused.
func parseKeys(raw []byte) ([]jose.JSONWebKey, error) {
	var set []jose.JSONWebKey
	if strings.HasPrefix(strings.TrimSpace(string(raw)), "{") {
		var jwks jose.JSONWebKeySet
		if err := json.Unmarshal(raw, &jwks); err != nil {
			return nil, fmt.Errorf("no JWKS: %w", err)
		}
		for _, key := range jwks.Keys {
			if !key.Valid() || !key.IsPublic() {
				return nil, fmt.Errorf("key %q of the JWKS is no public key", key.KeyID)
			}
		}
		set = jwks.Keys
	} else {
		for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
			var key crypto.PublicKey
			var err error
			switch block.Type {
			case "PUBLIC KEY":
				key, err = x509.ParsePKIXPublicKey(block.Bytes)
			case "CERTIFICATE":
				var cert *x509.Certificate
				if cert, err = x509.ParseCertificate(block.Bytes); err == nil {
					key = cert.PublicKey
				}
			default:
				err = fmt.Errorf("it is a %s", block.Type)
			}
			if err != nil {
				return nil, fmt.Errorf("want PEM public keys: %w", err)
			}
			set = append(set, jose.JSONWebKey{Key: key})
		}
	}
	if len(set) == 0 || len(set) > mostKeys {
		return nil, fmt.Errorf("there are %d public keys, want 1 to %d", len(set), mostKeys)
	}
	return set, nil
}
