package notify

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/action"
)

const token = "abcdefghijklmnopqrstuvwxyz"

// run runs an action as the engine does; ref "url" is a secret with the value url.
func run(ctx context.Context, t *testing.T, name, url string, in map[string]any) (any, error) {
	t.Helper()
	raw, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{"env:URL": url, "env:PASSWORD": "hunter2", "env:OLD": "hunter1"}
	ctx = action.WithCall(ctx, action.Call{
		Token:  token,
		Reveal: func(_ context.Context, ref string) (string, error) { return secrets[ref], nil },
		Mask: func(s string) string {
			for _, v := range secrets {
				if v != "" {
					s = strings.ReplaceAll(s, v, "***")
				}
			}
			return s
		},
	})
	for _, a := range Actions() {
		if a.Name == name {
			return a.Do(ctx, raw)
		}
	}
	t.Fatalf("no action %s", name)
	return nil, nil
}

func secret(ref string) map[string]string { return map[string]string{"$secret": ref} }

func TestHTTPNotifications(t *testing.T) {
	var got string
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = r.Method + " " + r.URL.Path + " " + r.Header.Get("Content-Type") + " " + r.Header.Get("Idempotency-Key") + " " + r.Header.Get("X-Token") + " " + string(body)
	}))
	defer hook.Close()
	cases := []struct {
		name, action string
		in           map[string]any
		want         string
	}{
		{"slack text is escaped", "notify.slack", map[string]any{"webhook_url": secret("env:URL"), "text": `<!channel> & "quotes"`},
			`{"text":"\u0026lt;!channel\u0026gt; \u0026amp; \"quotes\""}`},
		{"slack blocks", "notify.slack", map[string]any{"webhook_url": secret("env:URL"), "text": "t", "blocks": []any{map[string]any{"type": "divider"}}},
			`{"blocks":[{"type":"divider"}],"text":"t"}`},
		{"webhook", "notify.webhook", map[string]any{"url": secret("env:URL"), "payload": json.RawMessage(`{"id":12345678901234567890}`),
			"headers": map[string]any{"X-Token": secret("env:PASSWORD")}},
			`{"id":12345678901234567890}`},
		{"webhook without payload", "notify.webhook", map[string]any{"url": secret("env:URL")}, `{}`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			out, err := run(t.Context(), t, c.action, hook.URL+"/T0/secret", c.in)
			if err != nil {
				t.Fatal(err)
			}
			header := ""
			if c.in["headers"] != nil {
				header = "hunter2"
			}
			want := "POST /T0/secret application/json " + token + " " + header + " " + c.want
			if diff := cmp.Diff(want, got); diff != "" || out != (Sent{Status: 200}) {
				t.Errorf("out %+v, the server saw (-want +got):\n%s", out, diff)
			}
		})
	}
}

// A webhook's URL is its password: no error shows it.
func TestWebhookURLIsNeverShown(t *testing.T) {
	answers := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/secret/moved" {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
			return
		}
		w.WriteHeader(404)
		_, _ = io.WriteString(w, "no_team")
	}))
	defer answers.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	cases := []struct {
		url, want string
		kind      action.Kind
	}{
		{answers.URL + "/secret", "webhook: 404 Not Found: no_team", action.NotFound},
		{answers.URL + "/secret/moved", "webhook: 302 Found, to /elsewhere", action.Failed},
		{"http://" + closed.Addr().String() + "/secret", "webhook: dial tcp " + closed.Addr().String() + ": connect: connection refused", action.Unavailable},
		{"ftp://h/secret", "the URL should begin with http:// or https://", action.Invalid},
		{"http://h:x/secret", "the URL cannot be read; it should be like https://host/path", action.Invalid},
	}
	for _, c := range cases {
		for name, in := range map[string]map[string]any{
			"notify.webhook": {"url": secret("env:URL")},
			"notify.slack":   {"webhook_url": secret("env:URL"), "text": "t"},
		} {
			_, err := run(t.Context(), t, name, c.url, in)
			if err == nil || strings.Contains(err.Error(), "secret") || !strings.HasSuffix(err.Error(), c.want) || action.KindOf(err) != c.kind {
				t.Errorf("%s to %s: got %v (%s), want %s: …%s", name, c.url, err, action.KindOf(err), c.kind, c.want)
			}
		}
	}
}

func TestSlackBlocksAreAList(t *testing.T) {
	_, err := run(t.Context(), t, "notify.slack", "http://h/", map[string]any{"webhook_url": secret("env:URL"), "text": "t", "blocks": "x"})
	if action.KindOf(err) != action.Invalid || err.Error() != "blocks is not a list" {
		t.Errorf("got %v", err)
	}
}

func mailTo(s *smtpServer, more map[string]any) map[string]any {
	in := map[string]any{
		"server": "127.0.0.1", "port": s.Port, "ca_file": s.CAFile,
		"from": "Ops <ops@example.com>", "to": []string{"a@example.com", "B <b@example.org>"},
		"subject": "Pätched: 100%", "body": "Line one\n.\nFrom here\nEnde ü\n",
	}
	maps.Copy(in, more)
	return in
}

func TestEmail(t *testing.T) {
	login := map[string]any{"username": "ann", "password": secret("env:PASSWORD")}
	for name, c := range map[string]struct {
		implicit  bool
		more      map[string]any
		login     string
		encrypted bool
	}{
		"starttls":          {false, login, ":ann:hunter2", true},
		"implicit":          {true, map[string]any{"tls": "implicit", "username": "ann", "password": secret("env:PASSWORD")}, ":ann:hunter2", true},
		"none, no password": {false, map[string]any{"tls": "none"}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSMTPServer(t, c.implicit)
			var ids []string
			for range 2 { // an attempt whose answer was lost, and the next
				out, err := run(t.Context(), t, "notify.email", "", mailTo(s, c.more))
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, out.(EmailOutput).MessageID)
			}
			mails := s.mails()
			if len(mails) != 2 {
				t.Fatalf("%d mails, want 2", len(mails))
			}
			want := "<" + token + "@example.com>"
			if diff := cmp.Diff([]string{want, want}, ids); diff != "" {
				t.Errorf("message ids (-want +got):\n%s", diff)
			}
			m := mails[0]
			if m.From != "FROM:<ops@example.com>" || strings.Join(m.To, " ") != "TO:<a@example.com> TO:<b@example.org>" {
				t.Errorf("envelope %s, %s", m.From, m.To)
			}
			if m.Encrypted != c.encrypted || m.Login != c.login {
				t.Errorf("encrypted %t, login %q; want %t, %q", m.Encrypted, m.Login, c.encrypted, c.login)
			}
			if got := m.Header.Get("Message-Id"); got != want {
				t.Errorf("Message-ID %s, want %s", got, want)
			}
			subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
			if err != nil || subject != "Pätched: 100%" {
				t.Errorf("subject %q, %v", subject, err)
			}
			body, err := io.ReadAll(decodeBody(m))
			if err != nil || strings.ReplaceAll(string(body), "\r\n", "\n") != "Line one\n.\nFrom here\nEnde ü\n" {
				t.Errorf("body %q, %v", body, err)
			}
		})
	}
}

func TestEmailCannotBeInjected(t *testing.T) {
	s := newSMTPServer(t, false)
	for _, more := range []map[string]any{
		{"subject": "a\r\nBcc: evil@example.com"},
		{"subject": "a\nBcc: evil@example.com"},
		{"from": "ops@example.com\r\nBcc: evil@example.com"},
		{"from": "Ops\nBcc: evil@example.com <ops@example.com>"},
		{"to": []string{"a@example.com>\r\nRCPT TO:<evil@example.com"}},
		{"to": []string{"a@example.com, evil@example.com"}},
		{"to": []string{"not an address"}},
		{"to": []string{}},
		{"to": make([]string, maxRecipients+1)},
	} {
		if _, err := run(t.Context(), t, "notify.email", "", mailTo(s, more)); action.KindOf(err) != action.Invalid {
			t.Errorf("%v: got %v, want it refused as invalid", more, err)
		}
	}
	body := "\r\n.\r\nMAIL FROM:<evil@example.com>\r\nRCPT TO:<evil@example.com>\r\nDATA\r\nBcc: evil@example.com\r\n\r\n.\r\n"
	if _, err := run(t.Context(), t, "notify.email", "", mailTo(s, map[string]any{"body": body})); err != nil {
		t.Fatal(err)
	}
	mails := s.mails()
	if len(mails) != 1 || len(mails[0].To) != 2 || mails[0].Header.Get("Bcc") != "" {
		t.Errorf("the server took %+v", mails)
	}
}

func TestEmailErrors(t *testing.T) {
	login := map[string]any{"username": "ann", "password": secret("env:PASSWORD")}
	cases := []struct {
		name    string
		replies map[string]string
		more    map[string]any
		kind    action.Kind
		text    string
	}{
		{"wrong password", nil, map[string]any{"username": "ann", "password": secret("env:OLD")}, action.Denied, "535"},
		{"login needed", map[string]string{"MAIL": "530 5.7.0 log in first"}, nil, action.Denied, "log in first"},
		{"no such mailbox", map[string]string{"RCPT": "550 5.1.1 nobody"}, nil, action.Invalid, "nobody"},
		{"try later", map[string]string{"RCPT": "450 4.2.1 later"}, nil, action.Unavailable, "later"},
		{"mail refused", map[string]string{".": "554 5.7.1 spam"}, login, action.Invalid, "spam"},
		{"mail refused for now", map[string]string{".": "452 4.3.1 full"}, login, action.Unavailable, "full"},
		{"hangs up", map[string]string{"MAIL": "drop"}, nil, action.Unavailable, ""},
		{"no starttls", map[string]string{"no starttls": "x"}, nil, action.Invalid, "STARTTLS"},
		{"certificate", nil, map[string]any{"ca_file": ""}, action.Failed, "certificate"},
		{"password in clear", nil, map[string]any{"tls": "none", "username": "ann", "password": secret("env:PASSWORD")}, action.Invalid, "in clear"},
		{"password alone", nil, map[string]any{"password": secret("env:PASSWORD")}, action.Invalid, "no username"},
		{"port", nil, map[string]any{"port": 70000}, action.Invalid, "port is 70000"},
		{"nobody listens", nil, map[string]any{"port": 1}, action.Unavailable, "refused"},
		{"goodbye fails", map[string]string{"QUIT": "500 no", "RSET": "500 no"}, nil, "", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := newSMTPServer(t, false)
			if c.replies != nil {
				s.Replies = c.replies
			}
			_, err := run(t.Context(), t, "notify.email", "", mailTo(s, c.more))
			if c.kind == "" {
				if err != nil || len(s.mails()) != 1 {
					t.Errorf("got %v, %d mails; the mail was taken", err, len(s.mails()))
				}
				return
			}
			if err == nil || action.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "hunter") {
				t.Errorf("got %v (%s), want %s: …%s…", err, action.KindOf(err), c.kind, c.text)
			}
		})
	}
}

func TestEmailStops(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = run(ctx, t, "notify.email", "", mailTo(&smtpServer{Port: l.Addr().(*net.TCPAddr).Port}, nil))
	if action.KindOf(err) != action.Timeout || time.Since(began) > 5*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}
