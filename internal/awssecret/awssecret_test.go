package awssecret

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/awsapi"
)

// aws answers calls as a test says, and notes the region of each.
type aws struct {
	answers map[string]any // by operation and name: an output, or an error
	regions []string
}

func (a *aws) Call(_ context.Context, in awsapi.Scope, service, operation string, input map[string]any) (map[string]any, error) {
	a.regions = append(a.regions, in.Region)
	name, _ := input["Name"].(string)
	if operation == "GetParameter" && input["WithDecryption"] != true {
		return nil, errors.New("not decrypted")
	}
	if operation == "GetSecretValue" {
		name, _ = input["SecretId"].(string)
	}
	switch answer := a.answers[operation+" "+name].(type) {
	case map[string]any:
		return answer, nil
	case error:
		return nil, answer
	}
	return nil, &awsapi.Error{Service: service, Operation: operation, Code: "ParameterNotFound", Class: awsapi.NotFound}
}

func parameter(value string) map[string]any {
	return map[string]any{"Parameter": map[string]any{"Value": value}}
}

func TestResolve(t *testing.T) {
	const parameterARN = "arn:aws:ssm:eu-central-1:123456789012:parameter/db"
	const secretARN = "arn:aws:secretsmanager:us-east-2:123456789012:secret:db-AbCdEf"
	fake := &aws{answers: map[string]any{
		"GetParameter /db/password":       parameter("hunter2"),
		"GetParameter /db/password:3":     parameter("hunter1"),
		"GetParameter /db/password:prod":  parameter("hunter0"),
		"GetParameter /hosts":             parameter("a,b,c"),
		"GetParameter " + parameterARN:    parameter("far"),
		"GetParameter /busy":              &awsapi.Error{Code: "ThrottlingException", Class: awsapi.Throttled},
		"GetParameter /closed":            &awsapi.Error{Code: "AccessDeniedException", Class: awsapi.Denied},
		"GetParameter /empty":             map[string]any{},
		"GetSecretValue plain":            map[string]any{"SecretString": "hunter3"},
		"GetSecretValue binary":           map[string]any{"SecretBinary": []byte("hunter4")},
		"GetSecretValue object":           map[string]any{"SecretString": `{"password": "hunter5", "port": 5432, "a#b": "x"}`},
		"GetSecretValue " + secretARN:     map[string]any{"SecretString": `{"k": "hunter6"}`},
		"GetSecretValue none of anything": map[string]any{},
	}}
	r := Resolver{Caller: fake, Scope: awsapi.Scope{Region: "eu-west-1"}, Next: func(_ context.Context, ref string) (string, error) { return "next " + ref, nil }}
	for _, tt := range []struct {
		ref, want string
		kind      action.Kind
		region    string
	}{
		{ref: "ssm:/db/password", want: "hunter2", region: "eu-west-1"},
		{ref: "ssm:/db/password:3", want: "hunter1"},
		{ref: "ssm:/db/password:prod", want: "hunter0"},
		{ref: "ssm:/hosts", want: "a,b,c"},
		{ref: "ssm:" + parameterARN, want: "far", region: "eu-central-1"},
		{ref: "ssm:/nothing", kind: action.NotFound},
		{ref: "ssm:/busy", kind: action.Throttled},
		{ref: "ssm:/closed", kind: action.Denied},
		{ref: "ssm:/empty", kind: action.Invalid},
		{ref: "secretsmanager:plain", want: "hunter3"},
		{ref: "secretsmanager:binary", want: "hunter4"},
		{ref: "secretsmanager:object#password", want: "hunter5"},
		{ref: "secretsmanager:object#port", want: "5432"},
		{ref: "secretsmanager:object#a#b", want: "x"},
		{ref: "secretsmanager:object#user", kind: action.Invalid},
		{ref: "secretsmanager:plain#password", kind: action.Invalid},
		{ref: "secretsmanager:" + secretARN + "#k", want: "hunter6", region: "us-east-2"},
		{ref: "secretsmanager:none of anything", kind: action.Invalid},
		{ref: "env:NAME", want: "next env:NAME"},
	} {
		fake.regions = nil
		got, err := r.Resolve(t.Context(), tt.ref)
		if got != tt.want || (err == nil) != (tt.kind == "") || err != nil && action.KindOf(err) != tt.kind {
			t.Errorf("%s: %q, %v; want %q, %s", tt.ref, got, err, tt.want, tt.kind)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter") || !strings.Contains(err.Error(), tt.ref)) {
			t.Errorf("%s: the error holds a value, or no reference: %v", tt.ref, err)
		}
		if tt.region != "" && (len(fake.regions) != 1 || fake.regions[0] != tt.region) {
			t.Errorf("%s: called in %v, want %s", tt.ref, fake.regions, tt.region)
		}
	}
}
