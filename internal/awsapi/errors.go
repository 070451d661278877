package awsapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// Codes of errors that are ours, not AWS's.
const (
	CodeParameters  = "ParamValidation"         // the input does not fit the model
	CodeToken       = "IdempotencyTokenMissing" // see Caller
	CodeCredentials = "NoCredentials"           // there are none, or they cannot be renewed
	CodeAccount     = "AccountMismatch"         // they are another account's than Scope says
	CodeConnection  = "ConnectionError"         // no answer, or half of one
	CodeEndpoint    = "NoEndpoint"              // the endpoint rules know none
	CodeAnswer      = "UnreadableAnswer"        // what was answered is not what the model says
)

// classes are codes that no rule of Classify gets right. Sources: "Common
// errors" of the services' API references, "Error codes for the Amazon EC2 API",
// "Error responses" of Amazon S3, botocore's _retry.json and the SDK's list of
// throttling codes, which Classify asks itself.
var classes = map[string]Class{
	// Who is asking.
	"AuthFailure":                         Denied,
	"AccountProblem":                      Denied,
	"AllAccessDisabled":                   Denied,
	"Blocked":                             Denied,
	"ExpiredToken":                        Denied,
	"ExpiredTokenException":               Denied,
	"IncompleteSignature":                 Denied,
	"InvalidAccessKeyId":                  Denied,
	"InvalidClientTokenId":                Denied,
	"InvalidIdentityToken":                Denied,
	"InvalidSignatureException":           Denied,
	"InvalidToken":                        Denied,
	"KMSAccessDeniedException":            Denied,
	"MissingAuthenticationToken":          Denied,
	"MissingAuthenticationTokenException": Denied,
	"NotSignedUp":                         Denied,
	"OptInRequired":                       Denied,
	"PendingVerification":                 Denied,
	"RequestExpired":                      Denied,
	"RequestTimeTooSkewed":                Denied,
	"SignatureDoesNotMatch":               Denied,
	"SubscriptionRequiredException":       Denied,
	"UnrecognizedClientException":         Denied,

	// EC2 says of an image that was deregistered that it is unavailable.
	"InvalidAMIID.Unavailable": NotFound,

	// The node is there, but its agent has not registered, or not yet.
	"InvalidInstanceId": Conflict,

	"ConditionalCheckFailedException": Conflict,
	"DependencyViolation":             Conflict,
	"DisabledException":               Conflict,
	"IdempotentInstanceTerminated":    Conflict,
	"KMSInvalidStateException":        Conflict,
	"OperationAborted":                Conflict,
	"OperationNotPermitted":           Conflict, // such as termination protection
	"PreconditionFailed":              Conflict,
	"UnsupportedOperation":            Conflict, // EC2: not in this state, or of this kind

	// The same token with other parameters: whoever made the token is wrong.
	"IdempotentParameterMismatch":          Invalid,
	"IdempotencyParameterMismatch":         Invalid,
	"IdempotentParameterMismatchException": Invalid,
	"InvalidAction":                        Invalid,
	"SerializationException":               Invalid,
	"UnknownOperationException":            Invalid,
	"UnknownParameter":                     Invalid,

	// A limit that time does not lift. (LimitExceededException is on the SDK's
	// list of throttling codes.)
	"LimitExceeded":                  Failed,
	"InstanceLimitExceeded":          Failed,
	"ServiceQuotaExceededException":  Failed,
	"VcpuLimitExceeded":              Failed,
	"VolumeLimitExceeded":            Failed,
	"MaxSpotInstanceCountExceeded":   Failed,
	"ResourceLimitExceededException": Failed,

	"IDPCommunicationError":                Unavailable,
	"InsufficientCapacity":                 Unavailable,
	"InsufficientHostCapacity":             Unavailable,
	"InsufficientInstanceCapacity":         Unavailable,
	"RequestTimeout":                       Unavailable,
	"RequestTimeoutException":              Unavailable,
	"ServerException":                      Unavailable,
	"ServiceFailure":                       Unavailable,
	"Unavailable":                          Unavailable,
	"InsufficientReservedInstanceCapacity": Unavailable,
}

// patterns are what codes of one class have in common. The first that fits decides.
var patterns = []struct {
	class Class
	parts []string // a part with * at its end begins the code, one with * in front ends it
}{
	{Throttled, []string{"Throttl", "TooManyRequests", "RequestLimitExceeded", "SlowDown", "RateExceeded"}},
	{Denied, []string{"AccessDenied", "Unauthorized", "NotAuthorized", "Forbidden*"}},
	{NotFound, []string{"NotFound", "NoSuch*", "DoesNotExist", "NonExistent", "*.Unknown"}},
	{Conflict, []string{"Already", "Duplicate", "InUse", "Incorrect*", "Conflict", "*State", "*StateException", "*StateFault", "InvalidStateTransition*", "*NotEmpty"}},
	{Failed, []string{"LimitExceeded", "QuotaExceeded", "*QuotaExceededFault"}},
	{Invalid, []string{"Malformed", "Validation", "InvalidParameter", "Invalid*", "Missing*", "Unsupported*", "*Malformed"}},
	{Unavailable, []string{"InternalError", "InternalFailure", "InternalServer", "InternalService", "ServiceUnavailable", "Unavailable*"}},
}

// Classify gives the class of one of AWS's codes, and that of the HTTP status if
// the code tells nothing.
func Classify(code string, status int) Class {
	if class, ok := classes[code]; ok {
		return class
	}
	if _, ok := retry.DefaultThrottleErrorCodes[code]; ok {
		return Throttled
	}
	for _, p := range patterns {
		for _, part := range p.parts {
			if fits(code, part) {
				return p.class
			}
		}
	}
	switch {
	case status == http.StatusTooManyRequests:
		return Throttled
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return Denied
	case status == http.StatusNotFound, status == http.StatusGone:
		return NotFound
	case status == http.StatusConflict, status == http.StatusPreconditionFailed, status == http.StatusLocked:
		return Conflict
	case status == http.StatusRequestTimeout, status >= 500:
		return Unavailable
	case status >= 400:
		return Invalid
	}
	return Failed
}

func fits(code, part string) bool {
	if rest, ok := strings.CutSuffix(part, "*"); ok {
		return strings.HasPrefix(code, rest)
	}
	if rest, ok := strings.CutPrefix(part, "*"); ok {
		return strings.HasSuffix(code, rest)
	}
	return strings.Contains(code, part)
}

// advice ends the message of an error about credentials: AWS's own says what is
// wrong, not what to do.
func advice(code string) string {
	switch code {
	case "ExpiredToken", "ExpiredTokenException", "RequestExpired":
		return "; the credentials have expired: log in again (aws sso login) or renew them where they come from"
	case "InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId", "InvalidToken":
		return "; AWS does not know these credentials: look at AWS_PROFILE and AWS_ACCESS_KEY_ID, and whether the region is enabled in the account"
	case "RequestTimeTooSkewed":
		return "; set this machine's clock"
	}
	return ""
}

const credentialsHelp = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; log in (aws sso login); or give the machine a role"

// attemptError is the error of one attempt as the SDK's retryer reads it.
type attemptError struct {
	answer *Error
	cause  error // of the connection, or an *answered
	sent   bool  // the request may have reached AWS
}

func (e *attemptError) Error() string        { return e.answer.Error() }
func (e *attemptError) Unwrap() error        { return e.cause }
func (e *attemptError) ErrorCode() string    { return e.answer.Code }
func (e *attemptError) ErrorMessage() string { return e.answer.Message }
func (e *attemptError) HTTPStatusCode() int  { return e.answer.Status }

// ErrorFault implements smithy.APIError.
func (e *attemptError) ErrorFault() smithy.ErrorFault { return smithy.FaultUnknown }

// answerError turns what a protocol made of an answer into an Error.
func answerError(err error, resp *http.Response) *Error {
	out := &Error{Status: resp.StatusCode, RequestID: requestID(resp.Header)}
	if api, ok := errors.AsType[smithy.APIError](err); ok && api.ErrorCode() != "UnknownError" {
		out.Code, out.Message = api.ErrorCode(), api.ErrorMessage()
		if out.Message == "UnknownError" { // as the library fills it
			out.Message = http.StatusText(resp.StatusCode)
		}
	} else {
		// The answer has no body, as to HEAD, or none that a service makes: one of
		// a proxy or a load balancer.
		out.Code = strings.ReplaceAll(http.StatusText(resp.StatusCode), " ", "")
		if out.Code == "" {
			out.Code = fmt.Sprintf("HTTP%d", resp.StatusCode)
		}
		out.Message = strings.TrimSpace(fmt.Sprintf("HTTP status %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))) + " without an error that AWS would send"
	}
	out.Class = Classify(out.Code, out.Status)
	out.Message += advice(out.Code)
	return out
}

func requestID(h http.Header) string {
	for _, name := range []string{"X-Amzn-Requestid", "X-Amz-Request-Id", "X-Amz-Requestid"} {
		if v := h.Get(name); v != "" {
			return v
		}
	}
	return ""
}

// sendError is the error of a request without a whole answer.
func sendError(err error, sent bool) *attemptError {
	class := Unavailable
	if errors.As(err, new(*tls.CertificateVerificationError)) {
		class = Failed // a certificate does not become good by itself
	}
	return &attemptError{
		answer: &Error{Code: CodeConnection, Message: err.Error(), Class: class},
		cause:  &smithyhttp.RequestSendError{Err: err},
		sent:   sent,
	}
}

// unwrapped is the Error in err with the names of the call; context errors stay as they are.
func unwrapped(err error, service, operation string) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s %s: %w", service, operation, err)
	}
	var out *Error
	if a, ok := errors.AsType[*attemptError](err); ok {
		out = a.answer
	} else if e, ok := errors.AsType[*Error](err); ok {
		out = e
	} else {
		return fmt.Errorf("%s %s: %w", service, operation, err)
	}
	named := *out
	named.Service, named.Operation = or(named.Service, service), or(named.Operation, operation)
	return &named
}
