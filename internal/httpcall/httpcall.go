// Package httpcall makes one HTTP call for an action.
//
// It gives Do, which every action that speaks HTTP goes through. It promises
// that the answer is bounded in time and size (unpacked size, too), that
// credentials reach only the origin they were given for, that certificates are
// verified, that no secret stands in an error or an answer, and that every
// error has the kind that decides about retry. It refuses to know what the call is for.
package httpcall

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/net/http/httpguts"

	"github.com/almanac-run/almanac/action"
)

// Client makes calls. It keeps connections alive between them; it is safe for
// concurrent use. Made by New.
type Client struct{ transport *http.Transport }

// New makes a Client. It uses the proxy that the environment names, as curl does.
func New() *Client {
	return &Client{transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    10 * time.Second,
		IdleConnTimeout:        30 * time.Second,
		MaxIdleConns:           100,
		MaxResponseHeaderBytes: 64 << 10,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
	}}
}

// Request is one call.
type Request struct {
	Method string
	URL    string // http or https, without user and password
	Name   string // what errors call the other side, if the URL is a secret; if empty, the URL without its query

	Headers     map[string]action.Secret
	Username    string // basic authentication, if not empty
	Password    action.Secret
	Body        []byte // nil: none
	ContentType string // of Body, unless Headers says
	CAFile      string // PEM file of certificates to trust besides the system's
	Redirects   int    // how many to follow, of GET and HEAD only
	MaxBytes    int64  // of the answer's body, unpacked; little more is read
	Timeout     time.Duration
	Expect      []int // the statuses that are no error; empty: 200 to 299
}

// Response is an answer. Its texts are valid UTF-8 and hold no revealed secret.
type Response struct {
	Status    int
	Headers   map[string]string // by lower-case name, without Set-Cookie: a session is a secret
	Body      string
	Truncated bool // the body was longer than MaxBytes
	Duration  time.Duration
}

// Detail is the Detail of an error about an answer.
type Detail struct {
	Status     int    `json:"status"`
	RetryAfter string `json:"retry_after,omitempty"` // as the other side said it
	Location   string `json:"location,omitempty"`    // of a redirect that was not followed
	Body       string `json:"body,omitempty"`        // its first 2 KiB
}

const (
	detailBytes = 2 << 10

	// overlap is how much is read beyond MaxBytes: of a secret that stands at the
	// cut, the first half would not be recognised.
	overlap = 1 << 10
)

// Do makes the call. An error is an action.Error; if its Detail is a Detail,
// there was an answer, which is returned as well.
func (c *Client) Do(ctx context.Context, r Request) (Response, error) {
	call := action.FromContext(ctx)
	u, err := parseURL(r.URL, r.Name != "")
	if err != nil {
		return Response{}, err
	}
	name := r.Name
	if name == "" {
		name = r.Method + " " + (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
	}

	inner, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	req, mask, err := newRequest(inner, r, u, call)
	if err != nil {
		return Response{}, err
	}
	transport, done, err := c.transportFor(r.CAFile)
	if err != nil {
		return Response{}, err
	}
	defer done()

	client := http.Client{Transport: transport, CheckRedirect: checkRedirect(r.Redirects)}
	began := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return Response{}, callError(ctx, name, mask, r.Timeout, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, r.MaxBytes+overlap))
	if err != nil && int64(len(body)) <= r.MaxBytes {
		return Response{}, callError(ctx, name, mask, r.Timeout, fmt.Errorf("reading the answer: %w", err))
	}
	out := Response{
		Status:    resp.StatusCode,
		Headers:   map[string]string{},
		Truncated: int64(len(body)) > r.MaxBytes,
		Duration:  time.Since(began),
	}
	out.Body = mask(strings.ToValidUTF8(string(body), "\uFFFD"))
	if out.Truncated && int64(len(out.Body)) > r.MaxBytes {
		out.Body = strings.ToValidUTF8(out.Body[:r.MaxBytes], "")
	}
	for k, v := range resp.Header {
		if k != "Set-Cookie" {
			out.Headers[strings.ToLower(k)] = mask(strings.ToValidUTF8(strings.Join(v, ", "), "\uFFFD"))
		}
	}
	if expected(out.Status, r.Expect) {
		return out, nil
	}
	return out, statusError(name, out)
}

func parseURL(text string, secret bool) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		// The cause quotes the URL, which may be a secret.
		return nil, action.Errorf(action.Invalid, "the URL cannot be read; it should be like https://host/path")
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		if secret { // of which the beginning is a part
			return nil, action.Errorf(action.Invalid, "the URL should begin with http:// or https://")
		}
		return nil, action.Errorf(action.Invalid, "the URL begins with %q; it should begin with http:// or https://", u.Scheme+":")
	}
	if u.Hostname() == "" {
		return nil, action.Errorf(action.Invalid, "the URL names no host; it should be like https://host/path")
	}
	if u.User != nil {
		return nil, action.Errorf(action.Invalid, "the URL holds a user or password, which would be kept in clear; give them as inputs of their own")
	}
	return u, nil
}

// newRequest builds the request, and a function that masks what was revealed for it.
func newRequest(ctx context.Context, r Request, u *url.URL, call action.Call) (*http.Request, func(string) string, error) {
	mask := call.Mask
	req, err := http.NewRequestWithContext(ctx, r.Method, u.String(), bytes.NewReader(r.Body))
	if err != nil {
		return nil, nil, action.Errorf(action.Invalid, "%w", err)
	}
	if r.Body == nil {
		req.Body, req.GetBody, req.ContentLength = nil, nil, 0
	} else if r.ContentType != "" {
		req.Header.Set("Content-Type", r.ContentType)
	}
	req.Header.Set("User-Agent", "almanac")
	if writes(r.Method) && call.Token != "" {
		req.Header.Set("Idempotency-Key", call.Token)
	}
	for _, k := range slices.Sorted(maps.Keys(r.Headers)) {
		v, err := r.Headers[k].Reveal(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("header %q: %w", k, err)
		}
		if !httpguts.ValidHeaderFieldName(k) || !httpguts.ValidHeaderFieldValue(v) {
			return nil, nil, action.Errorf(action.Invalid, "header %q has a name or a value that HTTP does not allow", k)
		}
		if strings.EqualFold(k, "Host") {
			req.Host = v
			continue
		}
		req.Header.Set(k, v)
	}
	if r.Username != "" {
		password, err := r.Password.Reveal(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("password: %w", err)
		}
		req.SetBasicAuth(r.Username, password)
		// Neighbours change how the password looks in base64, so nobody else can find it there.
		encoded := base64.StdEncoding.EncodeToString([]byte(r.Username + ":" + password))
		mask = func(s string) string { return call.Mask(strings.ReplaceAll(s, encoded, "***")) }
	}
	return req, mask, nil
}

func writes(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch || method == http.MethodDelete
}

func (c *Client) transportFor(caFile string) (t *http.Transport, done func(), err error) {
	if caFile == "" {
		return c.transport, func() {}, nil
	}
	pool, err := Roots(caFile)
	if err != nil {
		return nil, nil, err
	}
	t = c.transport.Clone()
	t.TLSClientConfig.RootCAs = pool
	return t, t.CloseIdleConnections, nil
}

const maxRoots = 1 << 20

// Roots returns the system's trusted certificates and those of a PEM file.
func Roots(file string) (*x509.CertPool, error) {
	// Opening a pipe could block, and a device has no end: look first.
	info, err := os.Stat(file)
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxRoots) {
		err = fmt.Errorf("%s is not a file of at most %d bytes", file, maxRoots)
	}
	if err != nil {
		return nil, action.Errorf(action.Invalid, "ca_file: %w", err)
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, action.Errorf(action.Invalid, "ca_file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, action.Errorf(action.Invalid, "ca_file: %s holds no certificate in PEM form", file)
	}
	return pool, nil
}

var errRedirects = errors.New("redirected too often")

// checkRedirect follows up to limit redirects of GET and HEAD. A write that is
// redirected is an answer to look at, not one to send again elsewhere (as a GET,
// which may even succeed).
//
// Once a chain has left its first origin, only harmless headers go along, even
// if it returns there: what net/http keeps back (Authorization and Cookie, from
// other domains) leaves X-Api-Key, other ports and https to http.
func checkRedirect(limit int) func(*http.Request, []*http.Request) error {
	return func(req *http.Request, via []*http.Request) error {
		first := via[0]
		if limit == 0 || first.Method != http.MethodGet && first.Method != http.MethodHead {
			return http.ErrUseLastResponse
		}
		if len(via) > limit {
			return fmt.Errorf("%w: %d times", errRedirects, limit)
		}
		if req.URL.Scheme != "http" && req.URL.Scheme != "https" {
			return fmt.Errorf("%w: to %q", errRedirects, req.URL.Scheme+":")
		}
		req.Header.Del("Referer") // it has the query of the page before
		req.URL.User = nil
		left := slices.ContainsFunc(append(via[1:len(via):len(via)], req), func(r *http.Request) bool {
			return origin(r.URL) != origin(first.URL)
		})
		if !left {
			return nil
		}
		req.Host = ""
		for k := range req.Header {
			switch k {
			case "Accept", "Accept-Language", "Accept-Encoding", "User-Agent":
			default:
				req.Header.Del(k)
			}
		}
		return nil
	}
}

func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

// callError is the error of a call that got no whole answer.
func callError(ctx context.Context, name string, mask func(string) string, timeout time.Duration, err error) error {
	if kind, ok := ContextKind(ctx); ok {
		return action.Errorf(kind, "%s: %w", name, ctx.Err())
	}
	// The outer error quotes the whole URL.
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	var netErr net.Error
	switch {
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return action.Errorf(action.Failed, "%s: %s", name, mask(err.Error()))
	case errors.Is(err, errRedirects):
		return action.Errorf(action.Failed, "%s: %s", name, mask(err.Error()))
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return action.Errorf(action.Unavailable, "%s: no answer within %s", name, timeout)
	}
	return action.Errorf(action.Unavailable, "%s: %s", name, mask(err.Error()))
}

// ContextKind tells whether the step itself was stopped, and how.
func ContextKind(ctx context.Context) (action.Kind, bool) {
	switch {
	case ctx.Err() == nil:
		return "", false
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return action.Timeout, true
	}
	return action.Cancelled, true
}

func expected(status int, list []int) bool {
	if len(list) == 0 {
		return status >= 200 && status <= 299
	}
	return slices.Contains(list, status)
}

func statusError(name string, r Response) error {
	d := Detail{Status: r.Status, RetryAfter: r.Headers["retry-after"], Location: r.Headers["location"], Body: r.Body}
	if len(d.Body) > detailBytes {
		d.Body = strings.ToValidUTF8(d.Body[:detailBytes], "")
	}
	text := strings.TrimSpace(fmt.Sprintf("%s: %d %s", name, r.Status, http.StatusText(r.Status)))
	if d.RetryAfter != "" {
		text += ", retry after " + Line(d.RetryAfter)
	}
	if d.Location != "" {
		text += ", to " + Line(d.Location)
	}
	if line := Line(d.Body); line != "" {
		text += ": " + line
	}
	return &action.Error{Kind: kindOf(r.Status), Err: errors.New(text), Detail: d}
}

func kindOf(status int) action.Kind {
	switch status {
	case http.StatusTooManyRequests:
		return action.Throttled
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		return action.Denied
	case http.StatusNotFound, http.StatusGone:
		return action.NotFound
	case http.StatusConflict, http.StatusPreconditionFailed, http.StatusLocked:
		return action.Conflict
	case http.StatusRequestTimeout:
		return action.Unavailable
	}
	switch {
	case status >= 500:
		return action.Unavailable
	case status >= 400:
		return action.Invalid
	}
	return action.Failed
}

// Line is what another system said, as one line of at most 200 characters that
// is safe to show on a terminal.
func Line(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	line := []rune(strings.Join(strings.Fields(text), " "))
	if len(line) > 200 {
		return string(line[:200]) + "…"
	}
	return string(line)
}
