package notify

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"mime/quotedprintable"
	"net"
	"net/http/httptest"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// smtpServer is a mail server for one test: it takes mails, or answers a
// command as Replies says.
type smtpServer struct {
	Port    int
	CAFile  string
	Replies map[string]string // by verb; "." is the answer to a mail's end, "drop" hangs up

	config   *tls.Config
	implicit bool
	listener net.Listener

	mu    sync.Mutex
	Mails []mailSeen
}

// mailSeen is a mail as the server took it.
type mailSeen struct {
	From, Login string
	To          []string
	Encrypted   bool
	Header      textproto.MIMEHeader
	Body        string
}

func newSMTPServer(t *testing.T, implicit bool) *smtpServer {
	t.Helper()
	web := httptest.NewUnstartedServer(nil) // for its certificate of 127.0.0.1
	web.StartTLS()
	defer web.Close()
	s := &smtpServer{
		CAFile:   filepath.Join(t.TempDir(), "ca.pem"),
		Replies:  map[string]string{},
		config:   &tls.Config{Certificates: web.TLS.Certificates},
		implicit: implicit,
	}
	if err := os.WriteFile(s.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if implicit {
		l = tls.NewListener(l, s.config)
	}
	s.listener, s.Port = l, l.Addr().(*net.TCPAddr).Port
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.session(conn)
		}
	}()
	return s
}

func (s *smtpServer) session(conn net.Conn) {
	defer func() { conn.Close() }()
	var m mailSeen
	m.Encrypted = s.implicit
	in := bufio.NewReader(conn)
	say := func(line string) { fmt.Fprintf(conn, "%s\r\n", line) }
	say("220 test")
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		verb, rest, _ := strings.Cut(line, " ")
		verb = strings.ToUpper(verb)
		if reply := s.Replies[verb]; reply == "drop" {
			return
		} else if reply != "" {
			say(reply)
			continue
		}
		switch verb {
		case "EHLO":
			say("250-test")
			if !m.Encrypted && s.Replies["no starttls"] == "" {
				say("250-STARTTLS")
			}
			say("250 AUTH PLAIN")
		case "STARTTLS":
			say("220 go on")
			conn = tls.Server(conn, s.config)
			in = bufio.NewReader(conn)
			m.Encrypted = true
		case "AUTH":
			plain, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(rest, "PLAIN "))
			m.Login = strings.ReplaceAll(string(plain), "\x00", ":")
			if m.Login != ":ann:hunter2" {
				say("535 5.7.8 wrong " + string(plain[1:]))
				continue
			}
			say("235 welcome")
		case "MAIL":
			m.From = rest
			say("250 ok")
		case "RCPT":
			m.To = append(m.To, rest)
			say("250 ok")
		case "DATA":
			say("354 go on")
			r := textproto.NewReader(in)
			dot := r.DotReader()
			body := textproto.NewReader(bufio.NewReader(dot))
			m.Header, _ = body.ReadMIMEHeader()
			text, _ := io.ReadAll(body.R)
			m.Body = string(text)
			_, _ = io.Copy(io.Discard, dot)
			if reply := s.Replies["."]; reply != "" {
				say(reply)
				continue
			}
			s.mu.Lock()
			s.Mails = append(s.Mails, m)
			s.mu.Unlock()
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

func (s *smtpServer) mails() []mailSeen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]mailSeen(nil), s.Mails...)
}

func decodeBody(m mailSeen) io.Reader {
	if m.Header.Get("Content-Transfer-Encoding") == "quoted-printable" {
		return quotedprintable.NewReader(strings.NewReader(m.Body))
	}
	return strings.NewReader(m.Body)
}
