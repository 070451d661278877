// Package codecserver decrypts payloads for people: Temporal's Web UI asks it
// for what it shows.
//
// It gives Handler and the two ways to tell who asks, Tokens and OIDC. It
// promises to decrypt for nobody it does not know, to log who asked for how many payloads
// and never what is in them, and never to encrypt. It refuses to know where the keys come from.
package codecserver

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/almanac-run/almanac/internal/codec"
)

// Options of a Handler.
type Options struct {
	Codec   *codec.Codec
	Origins []string // of the Web UI, as scheme://host[:port]; no browser elsewhere gets an answer
	Who     []Who    // the first that knows the caller decides; at least one
	Logger  *slog.Logger
}

// Who tells by a bearer token who asks. The error is not shown to the caller.
type Who func(ctx context.Context, token string) (string, error)

const (
	mostBody     = 32 << 20 // bytes: the Web UI asks for a page of history at once
	mostPayloads = 10_000
)

// Handler serves POST /decode as Temporal's Web UI asks.
func Handler(o Options) (http.Handler, error) {
	if o.Codec == nil || len(o.Who) == 0 {
		return nil, errors.New("codec server: keys and a way to know who asks are required")
	}
	for _, origin := range o.Origins {
		scheme, rest, ok := strings.Cut(origin, "://")
		if !ok || scheme != "http" && scheme != "https" || rest == "" || strings.ContainsAny(rest, "/*? ") {
			return nil, fmt.Errorf("origin %q: want that of the Web UI, as https://temporal.example.com", origin)
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &server{o}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /decode", s.decode)
	mux.HandleFunc("OPTIONS /decode", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return s.cors(mux), nil
}

type server struct{ Options }

// cors turns away browsers that show another page than the Web UI, before
// anything else, and tells those that show it what they may send.
func (s *server) cors(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Add("Vary", "Origin")
		if origin := r.Header.Get("Origin"); origin != "" {
			if !slices.Contains(s.Origins, origin) {
				s.Logger.Warn("codec server: an origin that is not on the list", "origin", clip(origin), "from", r.RemoteAddr)
				http.Error(w, "this origin is not allowed", http.StatusForbidden)
				return
			}
			h.Set("Access-Control-Allow-Origin", origin)
			h.Set("Access-Control-Allow-Methods", "POST, OPTIONS")
			h.Set("Access-Control-Allow-Headers", "Authorization, Authorization-Extras, Content-Type, X-Namespace")
			// The Web UI asks with cookies if it is told to. None is read here, and a browser drops the answer without this.
			h.Set("Access-Control-Allow-Credentials", "true")
		}
		next.ServeHTTP(w, r)
	})
}

func (s *server) decode(w http.ResponseWriter, r *http.Request) {
	who, err := s.who(r)
	if err != nil {
		s.Logger.Warn("codec server: refused", "why", err, "from", r.RemoteAddr)
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "a valid bearer token is needed", http.StatusUnauthorized)
		return
	}
	log := s.Logger.With("who", who, "namespace", clip(r.Header.Get("X-Namespace")), "from", r.RemoteAddr)
	refuse := func(code int, text string, err error) {
		log.Warn("codec server: not decoded", "why", text, "error", err)
		http.Error(w, text, code)
	}
	if r.Header.Get("X-Namespace") != s.Codec.Namespace() {
		refuse(http.StatusForbidden, "this codec server is for another namespace", nil)
		return
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		refuse(http.StatusUnsupportedMediaType, "want JSON", err)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, mostBody))
	if err != nil {
		refuse(http.StatusRequestEntityTooLarge, "the request cannot be read, or is too long", err)
		return
	}
	var payloads commonpb.Payloads
	if err := protojson.Unmarshal(body, &payloads); err != nil || len(payloads.Payloads) > mostPayloads || slices.Contains(payloads.Payloads, nil) {
		refuse(http.StatusBadRequest, "the request is no list of payloads", nil) // the error would quote it
		return
	}
	opened, err := s.Codec.Decode(payloads.Payloads)
	if err != nil {
		refuse(http.StatusBadRequest, err.Error(), nil)
		return
	}
	answer, err := protojson.Marshal(&commonpb.Payloads{Payloads: opened})
	if err != nil {
		refuse(http.StatusInternalServerError, "the answer cannot be written", nil)
		return
	}
	// Before the answer: what was decoded is in the log, whether or not it arrived.
	log.Info("codec server: decoded", "payloads", len(opened))
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer)
}

func (s *server) who(r *http.Request) (string, error) {
	var tokens []string
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		tokens = append(tokens, strings.TrimSpace(token))
	}
	// The Web UI sends the access token, which need not be a JWT, as above, and the ID token of its login so.
	tokens = append(tokens, r.Header.Get("Authorization-Extras"))
	var errs []error
	for _, token := range tokens {
		if token == "" {
			continue
		}
		for _, who := range s.Who {
			name, err := who(r.Context(), token)
			if err == nil {
				return name, nil
			}
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		return "", errors.New("there is no bearer token")
	}
	return "", errors.Join(errs...)
}

// shortest is how long a token must be: it is a key, and is not to be guessed.
const shortest = 20

// Tokens reads names and tokens, each pair in a line. Lines that begin with # say nothing.
func Tokens(text string) (Who, error) {
	type entry struct {
		name string
		sum  [sha256.Size]byte
	}
	var all []entry
	for i, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		if len(f) != 2 || len(f[1]) < shortest {
			return nil, fmt.Errorf("line %d: want a name and a token of at least %d characters", i+1, shortest)
		}
		all = append(all, entry{f[0], sha256.Sum256([]byte(f[1]))})
	}
	if len(all) == 0 {
		return nil, errors.New("there is no token in it")
	}
	return func(_ context.Context, token string) (string, error) {
		sum := sha256.Sum256([]byte(token))
		name := ""
		for _, e := range all { // all of them, so that the time says nothing
			if subtle.ConstantTimeCompare(sum[:], e.sum[:]) == 1 {
				name = e.name
			}
		}
		if name == "" {
			return "", errors.New("the token is not on the list")
		}
		return name, nil
	}, nil
}

// OIDC takes ID tokens (or access tokens that are JWTs) of an issuer for an
// audience. It asks the issuer for its keys now, and again when it signs with new ones.
func OIDC(ctx context.Context, issuer, audience string) (Who, error) {
	if audience == "" {
		return nil, errors.New("OIDC: the audience is required: a token for another program must not do")
	}
	client := &http.Client{Timeout: 10 * time.Second}
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, client), issuer)
	if err != nil {
		return nil, fmt.Errorf("OIDC: issuer %s: %w", issuer, err)
	}
	verifier := provider.VerifierContext(oidc.ClientContext(ctx, client), &oidc.Config{ClientID: audience})
	return func(ctx context.Context, raw string) (string, error) {
		token, err := verifier.Verify(ctx, raw)
		if err != nil {
			return "", err
		}
		var claims struct {
			Email string `json:"email"`
			// An address that nobody has checked is a name that anybody may have chosen.
			Verified bool `json:"email_verified"`
		}
		if err := token.Claims(&claims); err == nil && claims.Email != "" && claims.Verified {
			return clip(claims.Email), nil
		}
		if token.Subject == "" {
			return "", errors.New("the token says of nobody")
		}
		return clip(token.Subject), nil
	}, nil
}

// clip shortens what a caller said for the log.
func clip(s string) string {
	if len(s) > 200 {
		s = s[:200]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// Serve serves h on l until ctx ends. With a certificate and its key, files in PEM, it speaks TLS.
func Serve(ctx context.Context, l net.Listener, h http.Handler, cert, key string) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		stopped <- s.Shutdown(ctx)
	}()
	var err error
	if cert != "" {
		err = s.ServeTLS(l, cert, key)
	} else {
		err = s.Serve(l)
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}
