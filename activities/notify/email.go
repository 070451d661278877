package notify

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"time"

	"github.com/wneessen/go-mail"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/httpcall"
)

// EmailInput is the input of notify.email.
type EmailInput struct {
	Server   string        `json:"server" jsonschema:"host name of the SMTP server"`
	Port     int           `json:"port,omitempty" jsonschema:"its port" default:"587, or 465 with tls implicit, or 25 with tls none"`
	TLS      string        `json:"tls,omitempty" jsonschema:"how the connection is encrypted" enum:"starttls,implicit,none" default:"starttls"`
	CAFile   string        `json:"ca_file,omitempty" jsonschema:"PEM file on the worker: certificates to trust besides the system's"`
	Username string        `json:"username,omitempty" jsonschema:"user to log in as"`
	Password action.Secret `json:"password,omitzero" jsonschema:"password to log in with"`
	From     string        `json:"from" jsonschema:"sender: ops@example.com, or Ops <ops@example.com>"`
	To       []string      `json:"to" jsonschema:"recipients, at most 100"`
	Subject  string        `json:"subject" jsonschema:"one line"`
	Body     string        `json:"body" jsonschema:"plain text"`
}

// EmailOutput is the output of notify.email.
type EmailOutput struct {
	MessageID string `json:"message_id" jsonschema:"Message-ID of the mail, the same for every attempt"`
}

const maxRecipients = 100

func email() action.Action {
	return action.New(action.Def[EmailInput, EmailOutput]{
		Name:    "notify.email",
		Summary: "Send a mail by SMTP",
		Details: `
Every attempt of a step sends the same Message-ID, by which mail systems recognise a mail that comes twice. A password is
not sent over a connection that is not encrypted.
`,
		Example: `action: notify.email
with:
  server: smtp.example.com
  username: ops
  password: ${{ inputs.smtp_password }}
  from: Operations <ops@example.com>
  to: [team@example.com]
  subject: "Patched by ${{ execution.id }}"
  body: All nodes are patched.`,
		Timeout: 2 * time.Minute,
		Do:      sendEmail,
	})
}

func sendEmail(ctx context.Context, in EmailInput) (EmailOutput, error) {
	msg, err := message(in, action.FromContext(ctx).Token)
	if err != nil {
		return EmailOutput{}, err
	}
	client, err := smtpClient(ctx, in)
	if err != nil {
		return EmailOutput{}, err
	}
	conn, err := client.DialToSMTPClientWithContext(ctx)
	if err != nil {
		return EmailOutput{}, smtpError(ctx, in.Server, err)
	}
	// What goes wrong once the server has taken the mail does not matter.
	defer func() { _ = client.CloseWithSMTPClient(conn) }()
	if err := client.SendWithSMTPClient(conn, msg); err != nil && !msg.IsDelivered() {
		return EmailOutput{}, smtpError(ctx, in.Server, err)
	}
	return EmailOutput{MessageID: msg.GetMessageID()}, nil
}

// message makes the mail. Addresses are parsed and written anew by the library,
// the subject is encoded: no text becomes a header.
func message(in EmailInput, token string) (*mail.Msg, error) {
	for name, text := range map[string]string{"from": in.From, "subject": in.Subject, "to": strings.Join(in.To, "")} {
		if strings.ContainsAny(text, "\r\n\x00") {
			return nil, action.Errorf(action.Invalid, "%s has more than one line", name)
		}
	}
	if len(in.To) == 0 || len(in.To) > maxRecipients {
		return nil, action.Errorf(action.Invalid, "there are %d recipients; there may be 1 to %d", len(in.To), maxRecipients)
	}
	msg := mail.NewMsg(mail.WithNoDefaultUserAgent())
	if err := msg.From(in.From); err != nil {
		return nil, action.Errorf(action.Invalid, "from: %w", err)
	}
	if err := msg.To(in.To...); err != nil {
		return nil, action.Errorf(action.Invalid, "to: %w", err)
	}
	msg.Subject(in.Subject)
	msg.SetBodyString(mail.TypeTextPlain, in.Body)
	msg.SetDate()
	sender := msg.GetFrom()[0].Address
	msg.SetMessageIDWithValue(token + "@" + sender[strings.LastIndexByte(sender, '@')+1:])
	return msg, nil
}

// authMechanisms are how to log in, the best first. All run over TLS.
var authMechanisms = []mail.SMTPAuthType{
	mail.SMTPAuthSCRAMSHA256, mail.SMTPAuthSCRAMSHA1, mail.SMTPAuthPlain, mail.SMTPAuthLogin, mail.SMTPAuthCramMD5,
}

func smtpClient(ctx context.Context, in EmailInput) (*mail.Client, error) {
	if in.Port < 0 || in.Port > 65535 {
		return nil, action.Errorf(action.Invalid, "port is %d; it may be 1 to 65535", in.Port)
	}
	config := &tls.Config{ServerName: in.Server, MinVersion: tls.VersionTLS12}
	if in.CAFile != "" {
		roots, err := httpcall.Roots(in.CAFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = roots
	}
	opts := []mail.Option{mail.WithTLSConfig(config), mail.WithTimeout(30 * time.Second), mail.WithDialContextFunc(
		func(dialCtx context.Context, network, addr string) (net.Conn, error) {
			var dialer interface {
				DialContext(context.Context, string, string) (net.Conn, error)
			} = &net.Dialer{}
			if in.TLS == "implicit" {
				dialer = &tls.Dialer{Config: config}
			}
			conn, err := dialer.DialContext(dialCtx, network, addr)
			if err == nil {
				// The library watches no context once it is connected.
				context.AfterFunc(ctx, func() { _ = conn.Close() })
			}
			return conn, err
		})}
	port := 587
	switch in.TLS {
	case "implicit":
		port = 465
		opts = append(opts, mail.WithSSL())
	case "none":
		port = 25
		opts = append(opts, mail.WithTLSPolicy(mail.NoTLS))
	default:
		opts = append(opts, mail.WithTLSPolicy(mail.TLSMandatory))
	}
	if in.Port != 0 {
		port = in.Port
	}
	opts = append(opts, mail.WithPort(port))
	switch {
	case in.Username == "" && !in.Password.IsZero():
		return nil, action.Errorf(action.Invalid, "there is a password but no username")
	case in.Username != "" && in.TLS == "none":
		return nil, action.Errorf(action.Invalid, "tls is none: the password would be sent in clear; use starttls or implicit")
	case in.Username != "":
		password, err := in.Password.Reveal(ctx)
		if err != nil {
			return nil, fmt.Errorf("password: %w", err)
		}
		opts = append(opts, mail.WithOpportunisticSMTPAuth(authMechanisms...), mail.WithUsername(in.Username), mail.WithPassword(password))
	}
	client, err := mail.NewClient(in.Server, opts...)
	if err != nil {
		return nil, action.Errorf(action.Invalid, "server: %w", err)
	}
	return client, nil
}

// smtpError gives the error the kind that the server's reply code means.
func smtpError(ctx context.Context, server string, err error) error {
	if kind, ok := httpcall.ContextKind(ctx); ok {
		return action.Errorf(kind, "mail server %s: %w", server, ctx.Err())
	}
	code := 0
	if e, ok := errors.AsType[*textproto.Error](err); ok {
		code = e.Code
	}
	if e, ok := errors.AsType[*mail.SendError](err); ok && code == 0 {
		code = e.ErrorCode()
	}
	text := httpcall.Line(action.FromContext(ctx).Mask(err.Error()))
	var kind action.Kind
	var netErr net.Error
	switch {
	case errors.As(err, new(*tls.CertificateVerificationError)):
		kind = action.Failed
	case code == 530 || code == 534 || code == 535 || code == 538:
		kind = action.Denied
	case code >= 500:
		kind = action.Invalid
	case code >= 400:
		kind = action.Unavailable
	case errors.As(err, &netErr):
		kind = action.Unavailable
	case strings.Contains(err.Error(), "STARTTLS") || strings.Contains(err.Error(), "AUTH"):
		kind = action.Invalid
	default:
		kind = action.Unavailable
	}
	return action.Errorf(kind, "mail server %s: %s", server, text)
}
