package codecserver

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/almanac-run/almanac/internal/codec"
)

const (
	ui    = "https://ui.example.com"
	token = "an-honest-token-0123456789"
)

func newCodec(t *testing.T, namespace string) *codec.Codec {
	t.Helper()
	line, err := codec.NewKey("k1")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := codec.Read(t.Context(), line, nil)
	if err != nil {
		t.Fatal(err)
	}
	return codec.New(keys, codec.Options{Namespace: namespace})
}

func TestDecode(t *testing.T) {
	c := newCodec(t, "prod")
	who, err := Tokens("# people\nann " + token + "\nbob another-token-0123456789\n")
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	h, err := Handler(Options{Codec: c, Origins: []string{ui}, Who: []Who{who}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := c.Encode([]*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"canary-77"`)}})
	if err != nil {
		t.Fatal(err)
	}
	body, err := protojson.Marshal(&commonpb.Payloads{Payloads: sealed})
	if err != nil {
		t.Fatal(err)
	}
	other, err := newCodec(t, "prod").Encode(sealed)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := protojson.Marshal(&commonpb.Payloads{Payloads: other})
	if err != nil {
		t.Fatal(err)
	}
	for what, tt := range map[string]struct {
		method, path, auth, extras, origin, namespace, kind string
		body                                                []byte
		code                                                int
	}{
		"fine":                    {code: 200},
		"fine, from no browser":   {origin: "-", code: 200},
		"in the Web UI's header":  {auth: "Bearer an-opaque-access-token", extras: token, code: 200},
		"a wrong one there":       {auth: "-", extras: token + "x", code: 401},
		"no token":                {auth: "-", code: 401},
		"a wrong token":           {auth: "Bearer " + token + "x", code: 401},
		"a part of a token":       {auth: "Bearer " + token[:22], code: 401},
		"the name as a token":     {auth: "Bearer ann", code: 401},
		"another scheme":          {auth: "Basic " + token, code: 401},
		"another page":            {origin: "https://evil.example.com", code: 403},
		"a page with that prefix": {origin: ui + ".evil.example.com", code: 403},
		"null":                    {origin: "null", code: 403},
		"another namespace":       {namespace: "test", code: 403},
		"no namespace":            {namespace: "-", code: 403},
		"no JSON":                 {kind: "text/plain", code: 415},
		"rubbish":                 {body: []byte("rubbish"), code: 400},
		"null payload":            {body: []byte(`{"payloads":[null]}`), code: 400},
		"another key's":           {body: foreign, code: 400},
		"too long":                {body: bytes.Repeat([]byte(" "), mostBody+1), code: 413},
		"encode":                  {path: "/encode", code: 404},
		"GET":                     {method: "GET", code: 405},
		"before the request":      {method: "OPTIONS", auth: "-", namespace: "-", kind: "-", code: 204},
		"before, another page":    {method: "OPTIONS", origin: "https://evil.example.com", code: 403},
	} {
		t.Run(what, func(t *testing.T) {
			log.Reset()
			or := func(s, usual string) string {
				if s == "" {
					return usual
				}
				return strings.TrimPrefix(s, "-")
			}
			if tt.body == nil {
				tt.body = body
			}
			r := httptest.NewRequest(or(tt.method, "POST"), or(tt.path, "/decode"), bytes.NewReader(tt.body))
			r.Header.Set("Authorization", or(tt.auth, "Bearer "+token))
			if tt.extras != "" {
				r.Header.Set("Authorization-Extras", tt.extras)
			}
			r.Header.Set("X-Namespace", or(tt.namespace, "prod"))
			r.Header.Set("Content-Type", or(tt.kind, "application/json"))
			if o := or(tt.origin, ui); o != "" {
				r.Header.Set("Origin", o)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tt.code {
				t.Fatalf("%d %s, want %d", w.Code, w.Body, tt.code)
			}
			var got commonpb.Payloads
			if tt.code == 200 && (protojson.Unmarshal(w.Body.Bytes(), &got) != nil || string(got.Payloads[0].Data) != `"canary-77"`) {
				t.Errorf("decoded %s", w.Body)
			}
			if tt.code != 200 && strings.Contains(w.Body.String(), "canary") {
				t.Errorf("%d, and %s", tt.code, w.Body)
			}
			if allowed := w.Header().Get("Access-Control-Allow-Origin"); allowed != "" && allowed != ui {
				t.Errorf("allows %s", allowed)
			}
			if tt.code == 200 && !strings.Contains(log.String(), "who=ann namespace=prod") || tt.code == 200 && !strings.Contains(log.String(), "payloads=1") {
				t.Errorf("log: %s", log.String())
			}
			if strings.Contains(log.String(), "canary") || strings.Contains(log.String(), token) {
				t.Errorf("log: %s", log.String())
			}
		})
	}
}

func TestOptions(t *testing.T) {
	c := newCodec(t, "")
	who := func(context.Context, string) (string, error) { return "x", nil }
	for _, origin := range []string{"*", "https://*", "https://ui.example.com/", "ui.example.com", "null"} {
		if _, err := Handler(Options{Codec: c, Origins: []string{origin}, Who: []Who{who}}); err == nil {
			t.Errorf("origin %s is taken", origin)
		}
	}
	if _, err := Handler(Options{Codec: c}); err == nil {
		t.Error("everybody may ask")
	}
	for _, text := range []string{"", "# none", "ann short", "ann", token} {
		if _, err := Tokens(text); err == nil {
			t.Errorf("tokens %q are taken", text)
		}
	}
}

// issuer is an OpenID provider with one key.
type issuer struct {
	*httptest.Server
	key *ecdsa.PrivateKey
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"issuer":%q,"authorization_endpoint":%q,"token_endpoint":%q,"jwks_uri":%q,"id_token_signing_alg_values_supported":["ES256"]}`,
			i.URL, i.URL+"/auth", i.URL+"/token", i.URL+"/keys")
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		point, err := key.PublicKey.Bytes() // 4, x, y
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprintf(w, `{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","use":"sig","kid":"one","x":%q,"y":%q}]}`, b64(point[1:33]), b64(point[33:]))
	})
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	return i
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (i *issuer) sign(t *testing.T, header, claims map[string]any) string {
	t.Helper()
	h, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	c, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	text := b64(h) + "." + b64(c)
	if header["alg"] == "none" {
		return text + "."
	}
	sum := sha256.Sum256([]byte(text))
	der, err := i.key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	r, s := new(big.Int), new(big.Int)
	// SEQUENCE of two INTEGERs, each shorter than 128 bytes.
	n := int(der[3])
	r.SetBytes(der[4 : 4+n])
	s.SetBytes(der[6+n:])
	return text + "." + b64(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

func TestOIDC(t *testing.T) {
	good, evil := newIssuer(t), newIssuer(t)
	who, err := OIDC(t.Context(), good.URL, "almanac")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OIDC(t.Context(), good.URL, ""); err == nil {
		t.Error("every audience is taken")
	}
	es := map[string]any{"alg": "ES256", "kid": "one"}
	claims := func(change map[string]any) map[string]any {
		c := map[string]any{"iss": good.URL, "aud": "almanac", "sub": "u-1", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix()}
		for k, v := range change {
			c[k] = v
		}
		return c
	}
	for what, tt := range map[string]struct {
		by     *issuer
		header map[string]any
		change map[string]any
		who    string // empty: refused
	}{
		"fine":                     {good, es, nil, "u-1"},
		"with an address":          {good, es, map[string]any{"email": "ann@example.com", "email_verified": true}, "ann@example.com"},
		"with an unproven address": {good, es, map[string]any{"email": "ann@example.com"}, "u-1"},
		"one of its audiences":     {good, es, map[string]any{"aud": []string{"x", "almanac"}}, "u-1"},
		"another audience":         {good, es, map[string]any{"aud": "grafana"}, ""},
		"expired":                  {good, es, map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}, ""},
		"no expiry":                {good, es, map[string]any{"exp": nil}, ""},
		"another issuer":           {good, es, map[string]any{"iss": "https://evil.example.com"}, ""},
		"another's key":            {evil, es, nil, ""},
		"no signature":             {good, map[string]any{"alg": "none"}, nil, ""},
		"another algorithm":        {good, map[string]any{"alg": "HS256", "kid": "one"}, nil, ""},
		"of nobody":                {good, es, map[string]any{"sub": ""}, ""},
	} {
		name, err := who(t.Context(), tt.by.sign(t, tt.header, claims(tt.change)))
		if name != tt.who || (err == nil) != (tt.who != "") {
			t.Errorf("%s: %q, %v", what, name, err)
		}
	}
}
