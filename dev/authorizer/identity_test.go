package authorizer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/server/common/authorization"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
)

var now = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

// claims of a good token, with changes; a nil takes one out.
func claimsWith(changes map[string]any) map[string]any {
	c := map[string]any{"iss": "https://login.example", "aud": "almanac", "sub": "olga@example.com", "almanac_role": "operator", "exp": now.Add(time.Hour).Unix(), "iat": now.Unix()}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func sign(t *testing.T, alg jose.SignatureAlgorithm, key any, header map[string]any, claims map[string]any) string {
	t.Helper()
	o := &jose.SignerOptions{}
	o.WithType("JWT")
	for k, v := range header {
		o.WithHeader(jose.HeaderKey(k), v)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, o)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.Sign(raw)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// byHand makes a token that no library would make.
func byHand(t *testing.T, header, claims map[string]any, signature func(input string) []byte) string {
	t.Helper()
	part := func(v any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	input := part(header) + "." + part(claims)
	return input + "." + base64.RawURLEncoding.EncodeToString(signature(input))
}

func withSecret(secret []byte) func(string) []byte {
	return func(input string) []byte {
		h := hmac.New(sha256.New, secret)
		h.Write([]byte(input))
		return h.Sum(nil)
	}
}

func jwks(t *testing.T, keys map[string]crypto.PublicKey) []byte {
	t.Helper()
	var set jose.JSONWebKeySet
	for id, key := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key, KeyID: id})
	}
	raw, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func write(t *testing.T, name string, raw []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func withTokens(t *testing.T, tokens Tokens) *Authorizer {
	t.Helper()
	tokens.Issuer, tokens.Audience = "https://login.example", "almanac"
	tokens.now = func() time.Time { return now }
	a, err := New(Options{Namespace: "default", Tokens: &tokens})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// who asks as the server does, and tells who it is or why it is nobody.
func who(t *testing.T, a *Authorizer, info *authorization.AuthInfo) (string, error) {
	t.Helper()
	claims, err := a.GetClaims(info)
	if err != nil {
		t.Fatal(err)
	}
	i, err := known(claims)
	if err != nil {
		return "", err
	}
	if i.String() != claims.Subject || i.Role == server {
		t.Errorf("claims are of %q, the identity is %s", claims.Subject, i)
	}
	return i.String(), nil
}

func TestTokens(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edPublic, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set := jwks(t, map[string]crypto.PublicKey{"r": rsaKey.Public(), "e": ecKey.Public(), "d": edPublic})
	a := withTokens(t, Tokens{Keys: write(t, "keys.json", set)})
	der, err := x509.MarshalPKIXPublicKey(rsaKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	kid := func(id string) map[string]any { return map[string]any{"kid": id} }
	good := sign(t, jose.RS256, rsaKey, kid("r"), claimsWith(nil))
	parts := strings.Split(good, ".")
	changed := func(changes map[string]any) string {
		raw, err := json.Marshal(claimsWith(changes))
		if err != nil {
			t.Fatal(err)
		}
		return parts[0] + "." + base64.RawURLEncoding.EncodeToString(raw) + "." + parts[2]
	}
	rs := func(changes map[string]any) string { return sign(t, jose.RS256, rsaKey, kid("r"), claimsWith(changes)) }
	hs := map[string]any{"alg": "HS256", "typ": "JWT", "kid": "r"}
	none := func(alg string) string {
		return byHand(t, map[string]any{"alg": alg, "typ": "JWT", "kid": "r"}, claimsWith(nil), func(string) []byte { return nil })
	}
	self := jose.JSONWebKey{Key: other.Public(), KeyID: "r"}

	for _, c := range []struct{ what, header, want string }{
		{"RS256", "Bearer " + good, "operator/olga@example.com"},
		{"small letters", "bearer " + good, "operator/olga@example.com"},
		{"ES256", "Bearer " + sign(t, jose.ES256, ecKey, kid("e"), claimsWith(nil)), "operator/olga@example.com"},
		{"EdDSA", "Bearer " + sign(t, jose.EdDSA, edKey, kid("d"), claimsWith(nil)), "operator/olga@example.com"},
		{"an agent", "Bearer " + rs(map[string]any{"almanac_role": "agent", "sub": "web-1"}), "agent/web-1"},
		{"several audiences", "Bearer " + rs(map[string]any{"aud": []string{"x", "almanac"}}), "operator/olga@example.com"},
		{"a list of groups with one role", "Bearer " + rs(map[string]any{"almanac_role": []string{"staff", "viewer"}}), "viewer/olga@example.com"},
		{"a clock that is a little behind", "Bearer " + rs(map[string]any{"exp": now.Add(-10 * time.Second).Unix()}), "operator/olga@example.com"},

		{"another key under the key id", "Bearer " + sign(t, jose.RS256, other, kid("r"), claimsWith(nil)), ""},
		{"an unknown key id", "Bearer " + sign(t, jose.RS256, rsaKey, kid("x"), claimsWith(nil)), ""},
		{"no key id", "Bearer " + sign(t, jose.RS256, rsaKey, nil, claimsWith(nil)), ""},
		{"a key id that is a path", "Bearer " + sign(t, jose.RS256, other, kid("../../../dev/null"), claimsWith(nil)), ""},
		{"a key that the token brings", "Bearer " + sign(t, jose.RS256, other, map[string]any{"kid": "r", "jwk": self}, claimsWith(nil)), ""},
		{"a place where the token's key is", "Bearer " + sign(t, jose.RS256, other, map[string]any{"kid": "r", "jku": "https://evil.example/keys"}, claimsWith(nil)), ""},
		{"alg none", "Bearer " + none("none"), ""},
		{"alg None", "Bearer " + none("None"), ""},
		{"alg NONE", "Bearer " + none("NONE"), ""},
		{"no alg", "Bearer " + none(""), ""},
		{"HS256 with the public key as PEM", "Bearer " + byHand(t, hs, claimsWith(nil), withSecret(publicPEM)), ""},
		{"HS256 with the public key as PEM, trimmed", "Bearer " + byHand(t, hs, claimsWith(nil), withSecret([]byte(strings.TrimSpace(string(publicPEM))))), ""},
		{"HS256 with the public key as DER", "Bearer " + byHand(t, hs, claimsWith(nil), withSecret(der)), ""},
		{"HS256 with the JWKS", "Bearer " + byHand(t, hs, claimsWith(nil), withSecret(set)), ""},
		{"HS256 with nothing", "Bearer " + byHand(t, hs, claimsWith(nil), withSecret(nil)), ""},
		{"ES256 of the RSA key's id", "Bearer " + sign(t, jose.ES256, ecKey, kid("r"), claimsWith(nil)), ""},
		{"another role under the signature", "Bearer " + changed(map[string]any{"almanac_role": "admin"}), ""},
		{"no signature", "Bearer " + parts[0] + "." + parts[1] + ".", ""},
		{"two parts", "Bearer " + parts[0] + "." + parts[1], ""},
		{"expired", "Bearer " + rs(map[string]any{"exp": now.Add(-time.Minute).Unix()}), ""},
		{"no expiry", "Bearer " + rs(map[string]any{"exp": nil}), ""},
		{"not yet valid", "Bearer " + rs(map[string]any{"nbf": now.Add(time.Hour).Unix()}), ""},
		{"issued in the future", "Bearer " + rs(map[string]any{"iat": now.Add(time.Hour).Unix()}), ""},
		{"another issuer", "Bearer " + rs(map[string]any{"iss": "https://login.example.evil"}), ""},
		{"no issuer", "Bearer " + rs(map[string]any{"iss": nil}), ""},
		{"another audience", "Bearer " + rs(map[string]any{"aud": "grafana"}), ""},
		{"no audience", "Bearer " + rs(map[string]any{"aud": nil}), ""},
		{"no role", "Bearer " + rs(map[string]any{"almanac_role": nil}), ""},
		{"a role that is none", "Bearer " + rs(map[string]any{"almanac_role": "root"}), ""},
		{"the server's own role", "Bearer " + rs(map[string]any{"almanac_role": "server"}), ""},
		{"two roles", "Bearer " + rs(map[string]any{"almanac_role": []string{"viewer", "admin"}}), ""},
		{"no name", "Bearer " + rs(map[string]any{"sub": nil}), ""},
		{"a name with a slash", "Bearer " + rs(map[string]any{"almanac_role": "agent", "sub": "web-1/web-2"}), ""},
		{"a name with a quote", "Bearer " + rs(map[string]any{"almanac_role": "agent", "sub": "web-1' OR 'a'='a"}), ""},
		{"a name with a line", "Bearer " + rs(map[string]any{"sub": "olga\nadmin"}), ""},
		{"Basic", "Basic " + good, ""},
		{"no scheme", good, ""},
		{"nothing after the scheme", "Bearer ", ""},
		{"a long one", "Bearer " + good + strings.Repeat("A", 20<<10), ""},
	} {
		got, err := who(t, a, &authorization.AuthInfo{AuthToken: c.header})
		if got != c.want {
			t.Errorf("%s: %q (%v), want %q", c.what, got, err, c.want)
		}
		if c.what == "expired" && !errors.Is(err, errExpired) {
			t.Errorf("of an expired token it says %v", err)
		}
		if err != nil && strings.Contains(err.Error(), "ey") && strings.Contains(err.Error(), parts[2][:10]) {
			t.Errorf("%s: the refusal repeats the token", c.what)
		}
	}

	t.Run("groups", func(t *testing.T) {
		a := withTokens(t, Tokens{Keys: write(t, "keys.pem", publicPEM), RoleClaim: "groups", NameClaim: "email", Roles: map[string]Role{"sre": Operator, "all": Viewer}})
		for _, c := range []struct {
			groups any
			want   string
		}{{[]string{"sre", "canteen"}, "operator/o@example.com"}, {[]string{"sre", "all"}, ""}, {"admin", ""}, {[]any{1, nil}, ""}} {
			token := sign(t, jose.PS256, rsaKey, nil, claimsWith(map[string]any{"groups": c.groups, "email": "o@example.com"}))
			if got, err := who(t, a, &authorization.AuthInfo{AuthToken: "Bearer " + token}); got != c.want {
				t.Errorf("%v: %q (%v), want %q", c.groups, got, err, c.want)
			}
		}
	})
	t.Run("without", func(t *testing.T) {
		a, err := New(Options{Namespace: "default"})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := who(t, a, &authorization.AuthInfo{AuthToken: "Bearer " + good}); err == nil {
			t.Errorf("a server without keys took a token, of %s", got)
		}
	})
}

// TestKeysRotate changes the keys of an issuer: a new one counts soon, and one that is gone no more.
func TestKeysRotate(t *testing.T) {
	first, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	second, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	token := func(key *ecdsa.PrivateKey, id string) *authorization.AuthInfo {
		return &authorization.AuthInfo{AuthToken: "Bearer " + sign(t, jose.ES256, key, map[string]any{"kid": id}, claimsWith(nil))}
	}
	before, after := jwks(t, map[string]crypto.PublicKey{"1": first.Public()}), jwks(t, map[string]crypto.PublicKey{"2": second.Public()})
	check := func(t *testing.T, a *Authorizer, rotate func()) {
		t.Helper()
		clock := now
		a.keys.now = func() time.Time { return clock }
		a.keys.looked = clock
		if got, err := who(t, a, token(first, "1")); got == "" {
			t.Fatal(err)
		}
		rotate()
		clock = clock.Add(time.Minute)
		if got, err := who(t, a, token(second, "2")); got == "" {
			t.Errorf("the new key does not count: %v", err)
		}
		if got, _ := who(t, a, token(first, "1")); got != "" {
			t.Error("the old key still counts")
		}
	}
	t.Run("file", func(t *testing.T) {
		file := write(t, "keys", before)
		check(t, withTokens(t, Tokens{Keys: file}), func() {
			if err := os.WriteFile(file, append(after, '\n'), 0o600); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("https", func(t *testing.T) {
		set, asked, down := before, 0, false
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked++
			if down {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			_, _ = w.Write(set)
		}))
		defer s.Close()
		a := withTokens(t, Tokens{Keys: s.URL, client: s.Client()})
		check(t, a, func() { set = after })
		for range 100 { // key ids that nobody has must not become requests
			_, _ = who(t, a, token(first, "nobody's"))
		}
		if asked > 3 {
			t.Errorf("%d requests for keys", asked)
		}
		down = true
		a.keys.now = func() time.Time { return now.Add(time.Hour) }
		if got, err := who(t, a, token(second, "2")); got == "" {
			t.Errorf("while the issuer is away its key does not count: %v", err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})
		secret, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: first, KeyID: "1"}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, raw := range [][]byte{nil, []byte("{}"), []byte(`{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`), secret, private, []byte("no keys")} {
			_, err := New(Options{Namespace: "default", Tokens: &Tokens{Issuer: "i", Audience: "a", Keys: write(t, "keys", raw)}})
			if err == nil {
				t.Errorf("took %q as keys", raw)
			}
		}
		for _, keys := range []string{"", "http://login.example/keys", "file:///etc/passwd", "/does/not/exist"} {
			if _, err := New(Options{Namespace: "default", Tokens: &Tokens{Issuer: "i", Audience: "a", Keys: keys}}); err == nil {
				t.Errorf("took keys at %q", keys)
			}
		}
	})
}

func TestCertificates(t *testing.T) {
	a, err := New(Options{Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cn   string
		uris []string
		want string
	}{
		{"agent/web-1", nil, "agent/web-1"},
		{"worker/w.example", nil, "worker/w.example"},
		{"", []string{"spiffe://almanac/agent/web-1"}, "agent/web-1"},
		{"admin/eve", []string{"spiffe://almanac/agent/web-1"}, "agent/web-1"},
		{"operator/o", []string{"https://example.com/admin/o"}, "operator/o"},

		{"web-1", nil, ""},
		{"", nil, ""},
		{"agent/", nil, ""},
		{"agent/web-1/web-2", nil, ""},
		{"agent/web 1", nil, ""},
		{"agent/web@1", nil, ""},
		{"Agent/web-1", nil, ""},
		{"server/x", nil, ""},
		{"root/x", nil, ""},
		{"temporal/internal", nil, ""},
		{"admin/eve", []string{"spiffe://other/admin/eve"}, ""},
		{"admin/eve", []string{"spiffe://almanac/admin/eve", "spiffe://almanac/agent/web-1"}, ""},
		{"", []string{"spiffe://almanac/agent/web-1?x=1"}, ""},
		{"", []string{"spiffe://almanac/agent/web-1%2fx"}, ""},
		{"", []string{"spiffe://user@almanac/agent/web-1"}, ""},
		{"", []string{"spiffe://almanac//agent/web-1"}, ""},
	} {
		cert := &x509.Certificate{Subject: pkix.Name{CommonName: c.cn}}
		for _, text := range c.uris {
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			cert.URIs = append(cert.URIs, u)
		}
		info := &authorization.AuthInfo{TLSSubject: &cert.Subject, TLSConnection: &credentials.TLSInfo{State: tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}}}
		if got, err := who(t, a, info); got != c.want {
			t.Errorf("%q %v: %q (%v), want %q", c.cn, c.uris, got, err, c.want)
		}
		unverified := &authorization.AuthInfo{TLSConnection: &credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}}}
		if got, _ := who(t, a, unverified); got != "" {
			t.Errorf("%q: %s by a certificate that was not verified", c.cn, got)
		}
	}
}

// TestSeal gives out a task as the server's interceptor does: the agent that got it reports, with the very token, and no other.
func TestSeal(t *testing.T) {
	a, err := New(Options{Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(Options{Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	token := []byte("\x0a\x03abc")
	give := func(i Identity) []byte {
		claims := &authorization.Claims{Subject: i.String(), Extensions: i}
		ctx := authorization.NewInterceptor(a, a, nil, nil, nil, nil, "", "", nil, nil, nil, nil).EnhanceContext(t.Context(), &authorization.AuthInfo{}, claims)
		resp, err := a.seal(ctx, nil, nil, func(context.Context, any) (any, error) {
			return &workflowservice.PollActivityTaskQueueResponse{TaskToken: token}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return resp.(*workflowservice.PollActivityTaskQueueResponse).GetTaskToken()
	}
	if got := give(Identity{Worker, "w"}); string(got) != string(token) {
		t.Errorf("a worker's token was changed: %q", got)
	}
	full := give(Identity{Agent, "web-1"})
	report := func(a *Authorizer, name string, token []byte) error {
		return ownTask(caller{Identity{Agent, name}, &a.o}, &workflowservice.RespondActivityTaskCompletedRequest{TaskToken: token})
	}
	if err := report(a, "web-1", full); err != nil {
		t.Error(err)
	}
	if report(b, "web-1", full) == nil {
		t.Error("a server with another key took the token")
	}
	for name, bad := range map[string][]byte{
		"web-2": full, "web-1 ": full, "web-11": full,
	} {
		if report(a, name, bad) == nil {
			t.Errorf("%s reported web-1's task", name)
		}
	}
	for i := range full {
		flipped := append([]byte(nil), full...)
		flipped[i] ^= 1
		if report(a, "web-1", flipped) == nil {
			t.Errorf("byte %d may be changed", i)
		}
	}
	for i := range full {
		if report(a, "web-1", full[:i]) == nil {
			t.Errorf("took the first %d bytes", i)
		}
	}
	if report(a, "web-1", append(full, full...)) == nil || report(a, "web-1", append(append([]byte(nil), full...), "\x0a\x03xyz"...)) == nil {
		t.Error("took a token with something after it")
	}
	// The server reads on past the seal, which is a field that it does not know.
	var read workflowservice.GetSystemInfoRequest
	if err := proto.Unmarshal(full[len(token):], &read); err != nil {
		t.Error(err)
	}
}

var _ grpc.UnaryServerInterceptor = (*Authorizer)(nil).seal
