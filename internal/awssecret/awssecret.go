// Package awssecret turns the references to secrets that AWS keeps into their
// values: "ssm:/path" of Parameter Store and "secretsmanager:name" of Secrets
// Manager; and makes data keys under a key of KMS.
//
// It promises that a value is read at the moment it is asked for, and that no
// error holds one. It refuses to know who asks and where a value goes: whoever
// resolves must mask it.
package awssecret

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/awsapi"
)

// Resolver resolves references by calls of AWS, and hands all others on.
type Resolver struct {
	Caller awsapi.Caller
	Scope  awsapi.Scope

	// Next resolves what is no reference of AWS.
	Next func(ctx context.Context, ref string) (string, error)
}

// Resolve returns the value that ref names:
//
//	ssm:/path              a parameter's newest version: String, StringList (with its commas) or SecureString
//	ssm:/path:3            version 3
//	ssm:/path:prod         the version with the label prod
//	secretsmanager:name    the secret's current value
//	secretsmanager:name#k  the member k of a secret that is a JSON object
//
// In place of /path and name an ARN may stand; its region is then called. The
// error is an *action.Error of the kind that AWS's answer means: what is only
// throttled is worth another attempt.
func (r Resolver) Resolve(ctx context.Context, ref string) (string, error) {
	scheme, name, _ := strings.Cut(ref, ":")
	var value string
	var err error
	switch scheme {
	case "ssm":
		value, err = r.parameter(ctx, name)
	case "secretsmanager":
		value, err = r.secret(ctx, name)
	default:
		return r.Next(ctx, ref)
	}
	if err == nil {
		return value, nil
	}
	kind := action.Invalid
	var answer *awsapi.Error
	if errors.As(err, &answer) {
		kind = action.Kind(answer.Class)
	}
	return "", action.Errorf(kind, "secret %s: %w", ref, err)
}

func (r Resolver) parameter(ctx context.Context, name string) (string, error) {
	out, err := r.Caller.Call(ctx, r.in(name), "ssm", "GetParameter", map[string]any{"Name": name, "WithDecryption": true})
	if err != nil {
		return "", err
	}
	parameter, _ := out["Parameter"].(map[string]any)
	value, ok := parameter["Value"].(string)
	if !ok {
		return "", errors.New("the answer of Parameter Store has no value")
	}
	return value, nil
}

func (r Resolver) secret(ctx context.Context, name string) (string, error) {
	id, key, member := strings.Cut(name, "#")
	out, err := r.Caller.Call(ctx, r.in(id), "secretsmanager", "GetSecretValue", map[string]any{"SecretId": id})
	if err != nil {
		return "", err
	}
	text, ok := out["SecretString"].(string)
	if !ok {
		binary, isBinary := out["SecretBinary"].([]byte)
		if !isBinary {
			return "", errors.New("the answer of Secrets Manager has no value")
		}
		text = string(binary)
	}
	if !member {
		return text, nil
	}
	// What the decoder would say of it could quote the value.
	var members map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &members) != nil {
		return "", fmt.Errorf("it is no JSON object, so that it has no member %q", key)
	}
	raw, ok := members[key]
	if !ok {
		return "", fmt.Errorf("its JSON object has no member %q", key)
	}
	if value := ""; json.Unmarshal(raw, &value) == nil {
		return value, nil
	}
	return string(raw), nil
}

// in is the scope of a call about what name names: an ARN says where it is.
func (r Resolver) in(name string) awsapi.Scope {
	scope := r.Scope
	if arn := strings.SplitN(name, ":", 6); len(arn) == 6 && arn[0] == "arn" && arn[3] != "" {
		scope.Region = arn[3]
	}
	return scope
}
