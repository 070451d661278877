package aws

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/awsapi"
)

// client makes the calls of one attempt at one step.
type client struct {
	Env
	scope awsapi.Scope
	step  action.Call
}

// in is the client of a step's scope.
func (e Env) in(ctx context.Context, s Scope) client {
	if e.Sleep == nil {
		e.Sleep = sleep
	}
	if e.Now == nil {
		e.Now = time.Now
	}
	return client{Env: e, scope: awsapi.Scope(s), step: action.FromContext(ctx)}
}

// Time is the time by the clock of Env.
func (e Env) Time() time.Time {
	if e.Now == nil {
		return time.Now()
	}
	return e.Now()
}

// at is the same client in another region.
func (c client) at(region string) client {
	c.scope.Region = region
	return c
}

// first tells whether no attempt before can have had an effect that is not
// known yet: of late news there is none to wait for.
func (c client) first() bool { return c.step.Attempt <= 1 }

// token is the step's token, which EC2 and others take as it is.
func (c client) token() string { return c.step.Token }

// uuid is a token for services that want 32 characters and more, made of the
// step's: the same in every attempt.
func (c client) uuid(purpose string) string {
	h := sha256.Sum256([]byte(c.step.Token + "\x00" + purpose))
	h[6] = h[6]&0x0f | 0x50
	h[8] = h[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// call makes one call. Its error has the kind of what AWS answered.
func (c client) call(ctx context.Context, service, operation string, in members) (members, error) {
	if c.Caller == nil {
		return nil, action.Errorf(action.Denied, "this worker has no access to AWS: none was configured when it started")
	}
	out, err := c.Caller.Call(ctx, c.scope, service, operation, in)
	if err != nil {
		return nil, kinded(err)
	}
	return out, nil
}

// list makes the calls for all pages of a list of EC2, SSM and others that page by NextToken.
func (c client) list(ctx context.Context, service, operation, name string, in members) ([]members, error) {
	var all []members
	in = in.with(members{})
	for range awsapi.MaxPages {
		out, err := c.call(ctx, service, operation, in)
		if err != nil {
			return nil, err
		}
		all = append(all, out.list(name)...)
		next := out.text("NextToken")
		if next == "" {
			return all, nil
		}
		in["NextToken"] = next
	}
	return nil, action.Errorf(action.Failed, "%s %s: more than %d pages", service, operation, awsapi.MaxPages)
}

// kinded gives AWS's answer its kind, and says what to do where that is known.
func kinded(err error) error {
	var e *awsapi.Error
	if !errors.As(err, &e) {
		return err // the context's, mostly
	}
	kind, advice := action.Kind(e.Class), ""
	switch {
	case strings.HasPrefix(e.Code, "Idempoten") && strings.Contains(e.Code, "Mismatch"):
		// Tokens and inputs are ours: one step has said two things.
		kind = action.Internal
	case e.Code == "IdempotentInstanceTerminated":
		kind, advice = action.NotFound, "; what this step had made was terminated since, and is not made again under the same token"
	case e.Code == "InvalidInstanceId": // of SSM, which means that nothing was sent
		kind, advice = action.Unreached, "; its SSM agent must be registered and online: wait for it with aws.ssm.wait_managed, and see whether it has an instance profile that allows it (AmazonSSMManagedInstanceCore)"
	case strings.HasSuffix(e.Code, "InProgress"): // something else is under way
		kind = action.Conflict
	case e.Code == "OperationNotPermitted":
		kind, advice = action.Conflict, "; it may be protected: lift the protection first"
	case kind == action.Denied && e.Code != awsapi.CodeAccount && e.Code != awsapi.CodeCredentials && !strings.Contains(e.Code, "Token"):
		advice = "; whom the worker acts as needs the permission " + permission(e.Service, e.Operation)
	}
	if !slices.Contains(action.Kinds, kind) {
		kind = action.Failed
	}
	return &action.Error{Kind: kind, Err: &answered{e, advice}}
}

// answered is AWS's error with our advice behind it.
type answered struct {
	by     *awsapi.Error
	advice string
}

func (a *answered) Error() string { return a.by.Error() + a.advice }

// Unwrap returns AWS's error.
func (a *answered) Unwrap() error { return a.by }

// permission is what IAM calls an operation.
func permission(service, operation string) string {
	switch service + " " + operation {
	case "lambda Invoke":
		operation = "InvokeFunction"
	case "s3 HeadObject":
		operation = "GetObject"
	}
	if service == "stepfunctions" {
		service = "states"
	}
	return service + ":" + operation
}

// code is AWS's code of an error; empty if AWS said nothing.
func code(err error) string {
	var e *awsapi.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// is tells whether AWS said one of these codes.
func is(err error, codes ...string) bool {
	return err != nil && slices.Contains(codes, code(err))
}

// notFound tells whether AWS says that there is no such thing; it may only not
// have heard of it yet.
func notFound(err error) bool {
	return err != nil && action.KindOf(err) == action.NotFound && code(err) != "IdempotentInstanceTerminated"
}

// passing tells whether the same call may do a little later.
func passing(err error) bool {
	k := action.KindOf(err)
	return k == action.Throttled || k == action.Unavailable
}
