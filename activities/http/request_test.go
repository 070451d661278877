package http

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/httpcall"
	"github.com/almanac-run/almanac/internal/secret"
)

const token = "abcdefghijklmnopqrstuvwxyz"

// do runs http.request as the engine does: inputs as JSON, one secret known,
// which is masked in what comes back.
func do(t *testing.T, in map[string]any) (RequestOutput, error) {
	t.Helper()
	return doIn(t.Context(), t, in)
}

func doIn(ctx context.Context, t *testing.T, in map[string]any) (RequestOutput, error) {
	t.Helper()
	raw, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var masker secret.Masker
	ctx = action.WithCall(ctx, action.Call{
		Token: token,
		Reveal: func(_ context.Context, ref string) (string, error) {
			if ref != "env:TOKEN" {
				return "", action.Errorf(action.NotFound, "no such secret")
			}
			masker.Add("hunter2")
			return "hunter2", nil
		},
		Mask: masker.Mask,
	})
	out, err := Actions()[0].Do(ctx, raw)
	got, _ := out.(RequestOutput)
	return got, err
}

var secretToken = map[string]string{"$secret": "env:TOKEN"}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// seen is what a server saw of a request.
func seen(r *http.Request) string {
	body, _ := io.ReadAll(r.Body)
	user, password, _ := r.BasicAuth()
	return fmt.Sprintf("%s %s type=%q key=%q token=%q user=%q %q body=%q", r.Method, r.URL.RequestURI(),
		r.Header.Get("Content-Type"), r.Header.Get("Idempotency-Key"), r.Header.Get("X-Token"), user, password, body)
}

func TestRequestArrivesAsGiven(t *testing.T) {
	var got string
	url := serve(t, func(w http.ResponseWriter, r *http.Request) { got = seen(r) })
	hostile := "'; touch pwned #$(touch pwned)`x` & = ? % + \"\n\x00 ü"
	cases := []struct {
		name string
		in   map[string]any
		want string
	}{
		{"plain get", map[string]any{"url": url + "/a?b=1"},
			`GET /a?b=1 type="" key="" token="" user="" "" body=""`},
		{"query is added and encoded", map[string]any{"url": url + "/?a=%20x", "query": map[string]string{"q": "a&b=c #?", "n": "ü"}},
			`GET /?a=%20x&n=%C3%BC&q=a%26b%3Dc+%23%3F type="" key="" token="" user="" "" body=""`},
		{"text goes as it is", map[string]any{"url": url, "method": "POST", "body": hostile},
			fmt.Sprintf(`POST / type="text/plain; charset=utf-8" key=%q token="" user="" "" body=%q`, token, hostile)},
		{"data goes as JSON, digits kept", map[string]any{"url": url, "method": "PUT", "body": json.RawMessage(`{"id":12345678901234567890}`)},
			fmt.Sprintf(`PUT / type="application/json" key=%q token="" user="" "" body="{\"id\":12345678901234567890}"`, token)},
		{"own headers win", map[string]any{"url": url, "method": "DELETE",
			"headers": map[string]any{"idempotency-key": "mine", "x-token": secretToken, "content-type": "x/y"}},
			`DELETE / type="x/y" key="mine" token="hunter2" user="" "" body=""`},
		{"basic authentication", map[string]any{"url": url, "username": "ann", "password": secretToken},
			`GET / type="" key="" token="" user="ann" "hunter2" body=""`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if _, err := do(t, c.in); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("the server saw (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnswer(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["X-Two"] = []string{"a", "b"}
		w.Header().Set("Set-Cookie", "session=1")
		w.Header().Set("X-Echo", r.Header.Get("X-Token"))
		w.WriteHeader(201)
		switch r.URL.Path {
		case "/json":
			_, _ = io.WriteString(w, ` {"id": 12345678901234567890, "echo": "`+r.Header.Get("X-Token")+`"}`)
		case "/text":
			_, _ = io.WriteString(w, "caf\xff "+r.Header.Get("Authorization"))
		case "/scalar":
			_, _ = io.WriteString(w, "12")
		}
	})
	headers := map[string]any{"X-Token": secretToken}
	out, err := do(t, map[string]any{"url": url + "/json", "headers": headers})
	if err != nil {
		t.Fatal(err)
	}
	if out.Status != 201 || string(out.JSON) != `{"id":12345678901234567890,"echo":"***"}` || strings.Contains(out.Body, "hunter2") || out.Truncated || out.Duration < 0 {
		t.Errorf("got %+v", out)
	}
	if out.Headers["x-two"] != "a, b" || out.Headers["x-echo"] != "***" || out.Headers["set-cookie"] != "" {
		t.Errorf("headers %v", out.Headers)
	}
	out, err = do(t, map[string]any{"url": url + "/text", "username": "ann", "password": secretToken})
	if err != nil || out.Body != "caf\uFFFD Basic ***" || out.JSON != nil {
		t.Errorf("got %+v, %v", out, err)
	}
	if out, err = do(t, map[string]any{"url": url + "/scalar"}); err != nil || out.Body != "12" || out.JSON != nil {
		t.Errorf("got %+v, %v", out, err)
	}
}

func TestStatusDecidesTheKind(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var status int
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &status)
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "because\n\x1b[31mof "+r.Header.Get("X-Token"))
	})
	cases := map[int]action.Kind{
		429: action.Throttled, 500: action.Unavailable, 503: action.Unavailable, 408: action.Unavailable,
		401: action.Denied, 403: action.Denied, 407: action.Denied, 404: action.NotFound, 410: action.NotFound,
		409: action.Conflict, 412: action.Conflict, 423: action.Conflict, 400: action.Invalid, 422: action.Invalid,
		304: action.Failed, 299: "",
	}
	for status, kind := range cases {
		_, err := do(t, map[string]any{"url": fmt.Sprintf("%s/%d?q=1", url, status), "headers": map[string]any{"X-Token": secretToken}})
		if kind == "" {
			if err != nil {
				t.Errorf("%d: %v", status, err)
			}
			continue
		}
		if err == nil || action.KindOf(err) != kind {
			t.Errorf("%d: %v (%s), want kind %s", status, err, action.KindOf(err), kind)
		}
	}

	_, err := do(t, map[string]any{"url": url + "/429?q=1", "headers": map[string]any{"X-Token": secretToken}})
	want := "GET " + url + "/429: 429 Too Many Requests, retry after 7: because [31mof ***"
	if err.Error() != want {
		t.Errorf("got  %q\nwant %q", err, want)
	}
	wantDetail := httpcall.Detail{Status: 429, RetryAfter: "7", Body: "because\n\x1b[31mof ***"}
	if diff := cmp.Diff(wantDetail, err.(*action.Error).Detail); diff != "" {
		t.Errorf("detail (-want +got):\n%s", diff)
	}

	if out, err := do(t, map[string]any{"url": url + "/404", "expect_status": []int{404}}); err != nil || out.Status != 404 {
		t.Errorf("an expected 404: %+v, %v", out, err)
	}
	if _, err := do(t, map[string]any{"url": url + "/200", "expect_status": []int{404}}); action.KindOf(err) != action.Failed || err == nil {
		t.Errorf("an unexpected 200: %v", err)
	}
}

// Credentials reach the first origin only: not another host, not another port,
// not plain http, and not the first one again when someone else sends us there.
func TestRedirectsDropCredentials(t *testing.T) {
	var got []string
	see := func(name string, r *http.Request) {
		got = append(got, fmt.Sprintf("%s %s auth=%t cookie=%t token=%t referer=%t accept=%q", name, r.URL.Path,
			r.Header.Get("Authorization") != "", r.Header.Get("Cookie") != "", r.Header.Get("X-Token") != "",
			r.Header.Get("Referer") != "", r.Header.Get("Accept")))
	}
	var first *httptest.Server
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		see("other", r)
		if r.URL.Path == "/back" {
			http.Redirect(w, r, first.URL+"/end", http.StatusFound)
		}
	}))
	defer other.Close()
	first = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		see("first", r)
		switch to := r.URL.Query().Get("to"); to {
		case "":
		default:
			http.Redirect(w, r, to, http.StatusFound)
		}
	}))
	defer first.Close()
	tlsFirst := httptest.NewTLSServer(first.Config.Handler)
	defer tlsFirst.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tlsFirst.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	otherHost := strings.Replace(first.URL, "127.0.0.1", "localhost", 1) // the same port, another name

	const all, none = `auth=true cookie=true token=true referer=false accept="a/b"`, `auth=false cookie=false token=false referer=false accept="a/b"`
	cases := []struct {
		name, base, to string
		want           []string
	}{
		{"same origin", first.URL, "/end", []string{"first / " + all, "first /end " + all}},
		{"another port", first.URL, other.URL + "/end", []string{"first / " + all, "other /end " + none}},
		{"another host", first.URL, otherHost + "/end", []string{"first / " + all, "first /end " + none}},
		{"and back", first.URL, other.URL + "/back", []string{"first / " + all, "other /back " + none, "first /end " + none}},
		{"https to http", tlsFirst.URL, first.URL + "/end", []string{"first / " + all, "first /end " + none}},
		{"user in the location", first.URL, strings.Replace(other.URL, "//", "//x:y@", 1) + "/end", []string{"first / " + all, "other /end " + none}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got = nil
			_, err := do(t, map[string]any{
				"url": c.base + "/", "query": map[string]string{"to": c.to}, "ca_file": ca,
				"headers": map[string]any{"Authorization": secretToken, "Cookie": secretToken, "X-Token": secretToken, "Accept": "a/b"},
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRedirectsAreLimited(t *testing.T) {
	calls := 0
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		calls++
		to := "/again"
		if r.URL.Path == "/file" {
			to = "file:///etc/passwd"
		}
		http.Redirect(w, r, to, http.StatusFound)
	})
	cases := []struct {
		in        map[string]any
		kind      action.Kind
		text      string
		wantCalls int
	}{
		{map[string]any{"url": url}, action.Failed, "redirected too often: 5 times", 6},
		{map[string]any{"url": url, "redirects": 1}, action.Failed, "redirected too often: 1 times", 2},
		{map[string]any{"url": url, "redirects": 0}, action.Failed, "302 Found, to /again", 1},
		{map[string]any{"url": url, "method": "POST", "body": "x"}, action.Failed, "302 Found, to /again", 1},
		{map[string]any{"url": url + "/file"}, action.Failed, "redirected too often: to \"file:\"", 1},
		{map[string]any{"url": url, "redirects": 0, "expect_status": []int{302}}, "", "", 1},
	}
	for _, c := range cases {
		calls = 0
		_, err := do(t, c.in)
		if c.kind == "" {
			if err != nil {
				t.Errorf("%v: %v", c.in, err)
			}
		} else if err == nil || action.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%v: got %v, want %s: …%s", c.in, err, c.kind, c.text)
		}
		if calls != c.wantCalls {
			t.Errorf("%v: %d calls, want %d", c.in, calls, c.wantCalls)
		}
	}
}

func TestRefusedInputs(t *testing.T) {
	cases := []struct {
		in   map[string]any
		want string
	}{
		{map[string]any{"url": "file:///etc/passwd"}, `the URL begins with "file:"`},
		{map[string]any{"url": "gopher://h/"}, `the URL begins with "gopher:"`},
		{map[string]any{"url": "h/p"}, `the URL begins with ":"`},
		{map[string]any{"url": "http:///p"}, "the URL names no host"},
		{map[string]any{"url": "http://a b/"}, "the URL cannot be read"},
		{map[string]any{"url": "http://ann:pw@h/"}, "the URL holds a user or password"},
		{map[string]any{"url": "http://h/", "method": "get"}, `input "method" is "get"`},
		{map[string]any{"url": "http://h/", "body": "x"}, "a GET has no body"},
		{map[string]any{"url": "http://h/", "timeout": "11m"}, "timeout is 11m0s; it may be up to 10m0s"},
		{map[string]any{"url": "http://h/", "timeout": "-1s"}, "timeout is -1s"},
		{map[string]any{"url": "http://h/", "max_bytes": 2 << 20}, "max_bytes is 2097152"},
		{map[string]any{"url": "http://h/", "redirects": 21}, "redirects is 21"},
		{map[string]any{"url": "http://h/", "password": secretToken}, "a password but no username"},
		{map[string]any{"url": "http://h/", "headers": map[string]any{"X-A": "b\r\nX-Evil: 1"}}, `header "X-A" has a name or a value`},
		{map[string]any{"url": "http://h/", "headers": map[string]any{"X A": "b"}}, `header "X A" has a name or a value`},
		{map[string]any{"url": "http://h/", "ca_file": "/nonexistent"}, "ca_file: stat /nonexistent"},
		{map[string]any{"url": "http://h/", "ca_file": "/dev/zero"}, "ca_file: /dev/zero is not a file"},
		{map[string]any{"url": "http://h/", "ca_file": "request_test.go"}, "holds no certificate"},
	}
	for _, c := range cases {
		_, err := do(t, c.in)
		if err == nil || action.KindOf(err) != action.Invalid || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "pw") {
			t.Errorf("%v:\n got %v\nwant invalid: …%s…", c.in, err, c.want)
		}
	}
	_, err := do(t, map[string]any{"url": "http://h/", "headers": map[string]any{"A": map[string]string{"$secret": "env:NONE"}}})
	if action.KindOf(err) != action.NotFound || err.Error() != `header "A": no such secret` {
		t.Errorf("a secret that does not exist: %v", err)
	}
}

func TestBodyIsBounded(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/huge":
			for range 1 << 10 {
				if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<16)); err != nil {
					return
				}
			}
		case "/bomb": // 1 GB of zeros in 1 MB
			w.Header().Set("Content-Encoding", "gzip")
			z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed)
			for range 1 << 10 {
				if _, err := z.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		case "/controls":
			_, _ = w.Write(bytes.Repeat([]byte{1}, 1<<20))
		case "/json":
			_, _ = io.WriteString(w, `["`+strings.Repeat("<", 1000<<10)+`"]`)
		}
	})
	for _, path := range []string{"/huge", "/bomb"} {
		out, err := do(t, map[string]any{"url": url + path, "max_bytes": 1000})
		if err != nil || !out.Truncated || len(out.Body) != 1000 || out.JSON != nil {
			t.Errorf("%s: %d bytes, truncated %t, %v", path, len(out.Body), out.Truncated, err)
		}
	}
	for _, path := range []string{"/controls", "/json"} {
		out, err := do(t, map[string]any{"url": url + path, "max_bytes": 1 << 20})
		b, _ := json.Marshal(out)
		if err != nil || !out.Truncated || len(b) > outputBytes || out.Body == "" {
			t.Errorf("%s: output of %d bytes, truncated %t, %v", path, len(b), out.Truncated, err)
		}
	}
}

// Of a secret that stands where the body is cut, the first half is masked too.
func TestSecretAtTheCut(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "abc", r.Header.Get("X-Token"))
		w.(http.Flusher).Flush()
		<-r.Context().Done() // and what is not read may never come
	})
	for size := 1; size < 10; size++ {
		out, err := do(t, map[string]any{"url": url, "headers": map[string]any{"X-Token": secretToken}, "max_bytes": size, "timeout": "200ms"})
		if want := "abc***"[:min(size, 6)]; err != nil || out.Body != want || !out.Truncated {
			t.Errorf("%d bytes: %q, truncated %v, error %v; want %q", size, out.Body, out.Truncated, err, want)
		}
	}
}

func TestNoAnswer(t *testing.T) {
	release := make(chan struct{})
	slow := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
		}
		<-release
	})
	defer close(release)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	untrusted := httptest.NewTLSServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = nil
	defer untrusted.Close()

	cases := []struct {
		name, url string
		kind      action.Kind
		text      string
	}{
		{"slow answer", slow + "/?key=hunter3", action.Unavailable, "GET " + slow + "/: no answer within 50ms"},
		{"slow body", slow + "/body", action.Unavailable, "no answer within 50ms"},
		{"refused", "http://" + closed.Addr().String() + "/?key=hunter3", action.Unavailable, "connection refused"},
		{"no such host", "http://almanac.invalid/?key=hunter3", action.Unavailable, "GET http://almanac.invalid/: "},
		{"certificate", untrusted.URL, action.Failed, "certificate"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			timeout := "50ms"
			if c.name != "slow answer" && c.name != "slow body" {
				timeout = "5s"
			}
			_, err := do(t, map[string]any{"url": c.url, "timeout": timeout})
			if err == nil || action.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "hunter3") {
				t.Errorf("got %v (%s), want %s: …%s…", err, action.KindOf(err), c.kind, c.text)
			}
		})
	}

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := doIn(ctx, t, map[string]any{"url": slow}); action.KindOf(err) != action.Timeout {
		t.Errorf("the step's own timeout: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := doIn(ctx, t, map[string]any{"url": slow}); action.KindOf(err) != action.Cancelled {
		t.Errorf("cancelled: %v", err)
	}
}

// Whatever the parameters are, the server reads back exactly these, and the
// URL's own stay.
func FuzzQuery(f *testing.F) {
	f.Add("k", "v")
	f.Add("a&b=c", "'; touch pwned #")
	f.Add("", "\x00\n%zz+ü")
	f.Fuzz(func(t *testing.T, k, v string) {
		text, err := withQuery("http://h/p?own=1#f", map[string]string{k: v})
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := url.ParseQuery(u.RawQuery)
		if err != nil || u.Host != "h" || u.Path != "/p" {
			t.Fatalf("%q: %v", text, err)
		}
		want := url.Values{"own": {"1"}}
		want.Add(k, v)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	})
}
