package awsapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/aws-http-auth/credentials"
	"github.com/aws/smithy-go/aws-http-auth/sigv4a"
	authv4 "github.com/aws/smithy-go/aws-http-auth/v4"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// attempt signs and sends the request once.
func (c *Client) attempt(ctx context.Context, k *call) (map[string]any, error) {
	written := atomic.Bool{}
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders: func() { written.Store(true) },
	})
	req := k.request.Clone(traced)
	req.Body, req.ContentLength = http.NoBody, 0
	if k.body != nil {
		size, err := k.body.Seek(0, io.SeekEnd)
		if err == nil {
			_, err = k.body.Seek(0, io.SeekStart)
		}
		if err != nil {
			return nil, fmt.Errorf("reading the body: %w", err)
		}
		// The transport may still be reading when the answer is there; the next
		// attempt must not meet it.
		body := &guarded{r: k.body}
		defer body.Close()
		if size > 0 {
			req.Body, req.ContentLength = body, size
		}
	}
	if err := c.sign(ctx, k, req); err != nil {
		return nil, err
	}
	if k.service.name == "s3" {
		// An object that is stored compressed is answered as it is stored.
		req.Header.Set("Accept-Encoding", "identity")
	}
	resp, err := c.options.HTTP.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // the outer one quotes the URL with what may be in its query
		}
		return nil, sendError(err, written.Load())
	}
	defer resp.Body.Close()
	body := &bounded{r: resp.Body, left: c.options.MaxAnswer}
	resp.Body = io.NopCloser(body)
	out, err := c.receive(k, resp)
	if body.err != nil {
		if errors.Is(body.err, errTooLong) {
			return nil, &Error{Code: CodeAnswer, Class: Failed, Status: resp.StatusCode,
				Message: fmt.Sprintf("the answer is longer than %d bytes", c.options.MaxAnswer)}
		}
		return nil, sendError(fmt.Errorf("reading the answer: %w", body.err), true)
	}
	return out, err
}

// receive reads an answer.
func (c *Client) receive(k *call, resp *http.Response) (map[string]any, error) {
	var raw []byte
	status := resp.StatusCode
	if k.service.name == "s3" && (resp.StatusCode >= 300 || k.wire.output == nil || k.wire.output.shape.Payload == "" || k.wire.output.fields[k.wire.output.shape.Payload].node.kind != Blob) {
		var err error
		if raw, err = io.ReadAll(resp.Body); err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusOK && rootElement(raw) == "Error" {
			// CopyObject and CompleteMultipartUpload begin to answer before they know.
			resp.StatusCode, resp.Status = http.StatusInternalServerError, "500 Internal Server Error"
		}
		resp.Body = io.NopCloser(bytes.NewReader(raw))
	}
	out, err := k.service.deserialize(k.wire, resp)
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		failed := &attemptError{answer: answerError(err, resp), sent: true}
		failed.answer.Status = status
		failed.cause = &answered{header: resp.Header, body: raw}
		return nil, failed
	}
	if err != nil {
		return nil, &Error{Code: CodeAnswer, Class: Failed, Status: resp.StatusCode, RequestID: requestID(resp.Header), Message: err.Error()}
	}
	if k.service.name == "s3" && k.op.name == "GetBucketLocation" {
		if location := bucketLocation(raw); location != "" {
			out["LocationConstraint"] = location
		}
	}
	return out, nil
}

// deserialize lets the protocol read an answer. The library's parsers are young;
// should one panic at an answer, the worker lives on.
func (s *service) deserialize(w *wire, resp *http.Response) (values map[string]any, err error) {
	defer func() {
		if r := recover(); r != nil {
			values, err = nil, fmt.Errorf("the answer cannot be read: %v", r)
		}
	}()
	return s.deserializeBare(w, resp)
}

func (s *service) deserializeBare(w *wire, resp *http.Response) (map[string]any, error) {
	if s.protocol.name == "ec2" && resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return w.deserializeEC2(resp)
	}
	out := &output{node: w.output, values: map[string]any{}}
	err := s.protocol.DeserializeResponse(context.Background(), w.schema, &smithy.TypeRegistry{}, &smithyhttp.Response{Response: resp}, out)
	return out.values, err
}

// answered is the cause of an error that AWS answered.
type answered struct {
	header http.Header
	body   []byte // of S3 only
}

func (a *answered) Error() string { return "answered" }

// guarded is a reader that ends when it is closed.
type guarded struct {
	mu sync.Mutex
	r  io.Reader
}

func (g *guarded) Read(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.r == nil {
		return 0, io.ErrClosedPipe
	}
	return g.r.Read(p)
}

func (g *guarded) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.r = nil
	return nil
}

var errTooLong = errors.New("too long")

// bounded reads at most left bytes, and remembers why it stopped.
type bounded struct {
	r    io.Reader
	left int64
	err  error
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		b.err = errTooLong
		return 0, b.err
	}
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

const (
	emptySum        = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	unsignedPayload = "UNSIGNED-PAYLOAD"
)

func (c *Client) sign(ctx context.Context, k *call, req *http.Request) error {
	switch k.auth.Name {
	case "none":
		return nil
	case "bearer":
		if c.config.BearerAuthTokenProvider == nil {
			return &Error{Code: CodeCredentials, Class: Denied, Message: "this service wants a bearer token, and the profile gives none (sso_session, then aws sso login)"}
		}
		token, err := c.config.BearerAuthTokenProvider.RetrieveBearerToken(ctx)
		if err != nil {
			return credentialsError(err)
		}
		req.Header.Set("Authorization", "Bearer "+token.Value)
		return nil
	}
	creds, err := k.signAs.Retrieve(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return credentialsError(err)
	}
	sum := emptySum
	if k.unsigned {
		sum = unsignedPayload
	} else if k.body != nil {
		digest, err := sumOf(k.body, sha256.New())
		if err != nil {
			return err
		}
		if _, err := k.body.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("reading the body: %w", err)
		}
		sum = hex.EncodeToString(digest)
	}
	if strings.HasPrefix(k.auth.SigningName, "s3") || k.unsigned || k.service.name == "glacier" {
		req.Header.Set("X-Amz-Content-Sha256", sum)
	}
	if k.auth.Name == "sigv4a" {
		return c.sign4a(req, creds, sum, k)
	}
	return c.signer.SignHTTP(ctx, creds, req, sum, k.auth.SigningName, k.auth.SigningRegion, c.now(), func(o *v4.SignerOptions) {
		o.DisableURIPathEscaping = k.auth.DisableDoubleEncoding
	})
}

// sign4a signs for several regions at once. sum is in hex, or says that the body is not signed.
func (c *Client) sign4a(req *http.Request, creds aws.Credentials, sum string, k *call) error {
	hash, err := hex.DecodeString(sum)
	if err != nil {
		hash = []byte(sum)
	}
	signer := sigv4a.New(func(o *authv4.SignerOptions) {
		o.DisableDoublePathEscape, o.DisableImplicitPayloadHashing = k.auth.DisableDoubleEncoding, true
	})
	return signer.SignRequest(&sigv4a.SignRequestInput{
		Request: req, PayloadHash: hash, Service: k.auth.SigningName, RegionSet: k.auth.SigningRegionSet, Time: c.now(),
		Credentials: credentials.Credentials{AccessKeyID: creds.AccessKeyID, SecretAccessKey: creds.SecretAccessKey, SessionToken: creds.SessionToken},
	})
}

// learnSkew takes AWS's clock over where AWS refused a signature and its clock
// is far from ours.
func (c *Client) learnSkew(failed *attemptError) bool {
	a, ok := failed.cause.(*answered)
	if !ok {
		return false
	}
	switch failed.answer.Code {
	case "RequestTimeTooSkewed", "RequestExpired", "InvalidSignatureException", "SignatureDoesNotMatch", "AuthFailure":
	default:
		return false
	}
	theirs, err := http.ParseTime(a.header.Get("Date"))
	if err != nil {
		return false
	}
	skew := time.Until(theirs)
	if (skew - time.Duration(c.skew.Load())).Abs() < 4*time.Minute {
		return false
	}
	c.skew.Store(int64(skew))
	return true
}
