package awsapi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// roleARN completes a role that is given by its name.
func (c *Client) roleARN(in Scope, region string) (string, error) {
	if in.Role == "" || strings.HasPrefix(in.Role, "arn:") {
		return in.Role, nil
	}
	if in.Account == "" {
		return "", &Error{Code: CodeParameters, Class: Invalid,
			Message: fmt.Sprintf("the role %q is a name; give its ARN, or the account that it is in", in.Role)}
	}
	parts, err := c.models.partitions()
	if err != nil {
		return "", err
	}
	name, _ := attr(parts.of(region), "name").(string)
	return fmt.Sprintf("arn:%s:iam::%s:role/%s", name, in.Account, strings.TrimPrefix(in.Role, "/")), nil
}

// credentials chooses whose signature the call bears, and looks whether they are
// the account's that the scope names.
func (c *Client) credentials(ctx context.Context, k *call) error {
	if k.auth.Name == "none" || k.auth.Name == "bearer" {
		return nil
	}
	k.signAs = c.config.Credentials
	if k.signAs == nil {
		return credentialsError(errors.New("the environment and the profile name none"))
	}
	if k.scope.Role != "" {
		k.signAs = c.role(k.scope.Role, k.region)
	}
	if k.scope.Account == "" {
		return nil
	}
	account, err := c.account(ctx, k.scope.Role, k.region)
	if err != nil {
		return err
	}
	if account != k.scope.Account {
		return &Error{Code: CodeAccount, Class: Denied,
			Message: fmt.Sprintf("the credentials are account %s's, and the call is for account %s", account, k.scope.Account)}
	}
	return nil
}

func credentialsError(err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e // of AssumeRole
	}
	return &Error{Code: CodeCredentials, Class: Denied, Message: fmt.Sprintf("no AWS credentials: %v; %s", err, credentialsHelp)}
}

// role returns the credentials of a role, of which one session is kept for all calls.
func (c *Client) role(arn, region string) *aws.CredentialsCache {
	c.mu.Lock()
	defer c.mu.Unlock()
	cache := c.roles[arn]
	if cache == nil {
		cache = aws.NewCredentialsCache(&assumedRole{client: c, arn: arn, region: region}, func(o *aws.CredentialsCacheOptions) {
			o.ExpiryWindow = 5 * time.Minute
			o.ExpiryWindowJitterFrac = 0.5
		})
		c.roles[arn] = cache
	}
	return cache
}

type assumedRole struct {
	client      *Client
	arn, region string
}

// Retrieve implements aws.CredentialsProvider.
func (r *assumedRole) Retrieve(ctx context.Context) (aws.Credentials, error) {
	out, err := r.client.call(ctx, Scope{Region: r.region}, "sts", "AssumeRole", map[string]any{
		"RoleArn": r.arn, "RoleSessionName": r.client.options.Session,
	})
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("assume role %s: %w", r.arn, unwrapped(err, "sts", "AssumeRole"))
	}
	got, _ := out["Credentials"].(map[string]any)
	text := func(name string) string { s, _ := got[name].(string); return s }
	expires, ok := got["Expiration"].(time.Time)
	creds := aws.Credentials{
		AccessKeyID: text("AccessKeyId"), SecretAccessKey: text("SecretAccessKey"), SessionToken: text("SessionToken"),
		Source: "AssumeRole", CanExpire: ok, Expires: expires,
	}
	if !creds.HasKeys() {
		return creds, &Error{Service: "sts", Operation: "AssumeRole", Code: CodeAnswer, Class: Failed, Message: "the answer holds no credentials"}
	}
	return creds, nil
}

// owner is the account of some credentials, asked for once.
type owner struct {
	mu      sync.Mutex
	account string
}

func (c *Client) account(ctx context.Context, role, region string) (string, error) {
	c.mu.Lock()
	o := c.owners[role]
	if o == nil {
		o = &owner{}
		c.owners[role] = o
	}
	c.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.account != "" {
		return o.account, nil
	}
	out, err := c.call(ctx, Scope{Region: region, Role: role}, "sts", "GetCallerIdentity", nil)
	if err != nil {
		return "", unwrapped(err, "sts", "GetCallerIdentity")
	}
	account, _ := out["Account"].(string)
	if account == "" {
		return "", &Error{Service: "sts", Operation: "GetCallerIdentity", Code: CodeAnswer, Class: Failed, Message: "the answer names no account"}
	}
	o.account = account
	return account, nil
}
