package awsapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
)

// Options are settings of a Client. The zero value is what the environment says.
type Options struct {
	Profile string  // of ~/.aws/config
	Region  string  // where Scope names none
	Models  *Models // nil: OpenModels("")

	// Endpoint takes all calls, as the URL of what is spoken to in place of AWS; empty: AWS, or what the environment says.
	Endpoint string

	// HTTP sends the requests; nil is a client with the usual timeouts of a
	// connection. It must not follow redirects.
	HTTP interface {
		Do(*http.Request) (*http.Response, error)
	}

	// MaxAnswer bounds the body of one answer in bytes; 0 is 64 MiB.
	MaxAnswer int64

	// Session names sessions of assumed roles, for CloudTrail; "almanac" if empty.
	Session string
}

const (
	maxAttempts = 3
	userAgent   = "almanac"
)

// Client is AWS. It is safe for concurrent use, and a process makes one: it
// keeps sessions of roles, and what it learned of AWS's rate limits. Made by New.
type Client struct {
	options Options
	models  *Models
	config  aws.Config
	signer  *v4.Signer
	retryer *retry.Standard
	limits  limits
	skew    atomic.Int64 // how far AWS's clock is ahead of ours, in nanoseconds
	buckets sync.Map     // region by bucket, where S3 said that it is another

	mu     sync.Mutex
	roles  map[string]*aws.CredentialsCache
	owners map[string]*owner
	hosts  map[string]discovered
}

var _ Caller = (*Client)(nil)

// New reads the environment and the profiles. It does not call AWS.
func New(ctx context.Context, o Options) (*Client, error) {
	var load []func(*config.LoadOptions) error
	if o.Profile != "" {
		load = append(load, config.WithSharedConfigProfile(o.Profile))
	}
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("AWS configuration: %w", err)
	}
	if o.Models == nil {
		if o.Models, err = OpenModels(""); err != nil {
			return nil, err
		}
	}
	if o.HTTP == nil {
		transport := http.DefaultTransport
		if b, ok := cfg.HTTPClient.(*awshttp.BuildableClient); ok { // with AWS_CA_BUNDLE and the proxy
			transport = b.WithTransportOptions(func(t *http.Transport) {
				t.MaxIdleConnsPerHost = 32
				t.ResponseHeaderTimeout = 2 * time.Minute // some operations wait for a task to appear
			}).GetTransport()
		}
		o.HTTP = &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	if o.MaxAnswer == 0 {
		o.MaxAnswer = 64 << 20
	}
	o.Session = or(o.Session, "almanac")
	return &Client{
		options: o,
		models:  o.Models,
		config:  cfg,
		signer:  v4.NewSigner(),
		retryer: retry.NewStandard(func(s *retry.StandardOptions) {
			s.MaxAttempts = maxAttempts
			s.MaxBackoff = 5 * time.Second
			// Its quota is for a client without callers that retry: ours would find it
			// empty after a bad minute and get no second attempt at all.
			s.RateLimiter = noQuota{}
		}),
		roles:  map[string]*aws.CredentialsCache{},
		owners: map[string]*owner{},
		hosts:  map[string]discovered{},
	}, nil
}

type noQuota struct{}

func (noQuota) GetToken(context.Context, uint) (func() error, error) {
	return func() error { return nil }, nil
}
func (noQuota) AddTokens(uint) error { return nil }

// Models returns the descriptions of services that the client calls by.
func (c *Client) Models() *Models { return c.models }

// Call implements Caller. A streaming body may also be an io.ReadSeeker, which is
// read from its beginning in every attempt.
func (c *Client) Call(ctx context.Context, in Scope, service, operation string, input map[string]any) (map[string]any, error) {
	out, err := c.call(ctx, in, service, operation, input)
	if err != nil {
		return nil, unwrapped(err, service, operation)
	}
	return out, nil
}

func (c *Client) call(ctx context.Context, in Scope, service, operation string, values map[string]any) (map[string]any, error) {
	call, err := c.prepare(in, service, operation, values)
	if err != nil {
		return nil, err
	}
	if err := c.credentials(ctx, call); err != nil {
		return nil, err
	}
	if err := c.presign(ctx, call); err != nil {
		return nil, err
	}
	if err := c.discover(ctx, call); err != nil {
		return nil, err
	}
	key := strings.Join([]string{call.scope.Role, call.region, service, operation}, "\x00")
	return c.attempts(ctx, c.limits.key(key), call)
}

// attempts sends the request until it is answered, or not worth another try.
func (c *Client) attempts(ctx context.Context, limit *limit, k *call) (map[string]any, error) {
	redirected := false
	for n := 1; ; n++ {
		if err := limit.wait(ctx); err != nil {
			return nil, err
		}
		out, err := c.attempt(ctx, k)
		var failed *attemptError
		isAttempt := errors.As(err, &failed)
		limit.done(isAttempt && failed.answer.Class == Throttled)
		if !isAttempt || ctx.Err() != nil {
			if ctx.Err() != nil && err != nil {
				return nil, ctx.Err()
			}
			return out, err
		}
		if region := c.redirect(k, failed); region != "" && !redirected {
			redirected = true
			k.region = region
			if err := c.build(k); err != nil {
				return nil, err
			}
			continue
		}
		skewed := c.learnSkew(failed)
		// The SDK knows statuses and codes of throttling; an InternalError inside a
		// 200 is neither.
		class := failed.answer.Class
		passes := class != Failed && c.retryer.IsErrorRetryable(failed) || class == Throttled || class == Unavailable
		if n >= maxAttempts || !skewed && !passes {
			return nil, failed
		}
		if class != Throttled && !skewed && failed.sent && !k.again {
			return nil, failed
		}
		delay, err := c.retryer.RetryDelay(n, failed)
		if err != nil {
			return nil, failed
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}
