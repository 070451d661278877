package simcloud

import (
	"fmt"

	"github.com/almanac-run/almanac/internal/awsapi"
)

// rules are how a service refuses.
type rules struct {
	missing, unknown, invalid string // codes for members
	throttled                 string // code
	status                    int    // of HTTP, when throttled
}

var servicesRules = map[string]rules{
	"autoscaling":              {"ValidationError", "ValidationError", "ValidationError", "Throttling", 400},
	"cloudformation":           {"ValidationError", "ValidationError", "ValidationError", "Throttling", 400},
	"ec2":                      {"MissingParameter", "UnknownParameter", "InvalidParameterValue", "RequestLimitExceeded", 503},
	"kms":                      {"ValidationException", "ValidationException", "ValidationException", "ThrottlingException", 400},
	"lambda":                   {"InvalidParameterValueException", "InvalidParameterValueException", "InvalidParameterValueException", "TooManyRequestsException", 429},
	"logs":                     {"InvalidParameterException", "InvalidParameterException", "InvalidParameterException", "ThrottlingException", 400},
	"resourcegroupstaggingapi": {"InvalidParameterException", "InvalidParameterException", "InvalidParameterException", "ThrottledException", 400},
	"s3":                       {"InvalidRequest", "InvalidArgument", "InvalidArgument", "SlowDown", 503},
	"secretsmanager":           {"ValidationException", "InvalidParameterException", "InvalidParameterException", "ThrottlingException", 400},
	"securityhub":              {"InvalidInputException", "InvalidInputException", "InvalidInputException", "TooManyRequestsException", 429},
	"sns":                      {"InvalidParameter", "InvalidParameter", "InvalidParameter", "Throttled", 429},
	"sqs":                      {"MissingParameter", "InvalidParameterValue", "InvalidParameterValue", "RequestThrottled", 403},
	"ssm":                      {"ValidationException", "ValidationException", "ValidationException", "ThrottlingException", 400},
	"stepfunctions":            {"ValidationException", "ValidationException", "ValidationException", "ThrottlingException", 400},
	"sts":                      {"ValidationError", "ValidationError", "ValidationError", "Throttling", 400},
}

// fail is an answer of AWS that it did not carry out the call.
func (k *call) fail(code, format string, args ...any) *awsapi.Error {
	class := classOf(code)
	return &awsapi.Error{
		Service: k.service, Operation: k.operation,
		Code: code, Message: fmt.Sprintf(format, args...),
		Status: statusOf(k.service, code, class), RequestID: k.requestID(), Class: class,
	}
}

// noAnswer is what a caller sees who cannot know whether there was an effect.
func (k *call) noAnswer(message string) *awsapi.Error {
	return &awsapi.Error{Service: k.service, Operation: k.operation, Code: awsapi.CodeConnection, Message: message, Class: awsapi.Unavailable}
}

func (k *call) requestID() string {
	if k.identity == "" {
		return ""
	}
	return asUUID(fmt.Sprintf("%x", k.hash("request", k.identity, k.nth)))
}

// classes are codes that are no refusal by AWS: of the real caller, of this
// package, and such as only their HTTP status tells about.
var classes = map[string]awsapi.Class{
	awsapi.CodeAccount: awsapi.Denied, awsapi.CodeEndpoint: awsapi.Invalid, awsapi.CodeConnection: awsapi.Unavailable, "NotSimulated": awsapi.Invalid,
	"404": awsapi.NotFound, "DryRunOperation": awsapi.Conflict, "NotModified": awsapi.Failed, "PermanentRedirect": awsapi.Failed,
	"ServiceException": awsapi.Unavailable, "KMSInternalException": awsapi.Unavailable, "ResourceContention": awsapi.Unavailable,
}

// classOf sorts a code as the real caller does: an action must not meet one class
// in a rehearsal and another one at AWS.
func classOf(code string) awsapi.Class {
	if class, ok := classes[code]; ok {
		return class
	}
	return awsapi.Classify(code, 400)
}

func statusOf(service, code string, class awsapi.Class) int {
	switch {
	case code == "NotSimulated" || code == awsapi.CodeAccount || code == awsapi.CodeEndpoint:
		return 0
	case code == "PreconditionFailed" || code == "DryRunOperation":
		return 412
	case code == "NotModified":
		return 304
	case code == "PermanentRedirect":
		return 301
	case class == awsapi.Throttled:
		return servicesRules[service].status
	case class == awsapi.Unavailable:
		return 500
	case code == "InvalidRange":
		return 416
	case code == "InvalidInstanceId" || code == "InvalidAMIID.Unavailable":
		return 400
	case class == awsapi.Denied:
		return 403
	case class == awsapi.NotFound && (service == "s3" || service == "lambda" || service == "sns"):
		return 404
	}
	return 400
}
