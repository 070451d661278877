package awssecret

import (
	"context"
	"strings"

	"github.com/almanac-run/almanac/internal/awsapi"
)

// Unwrapper returns what unwraps data keys by a caller of AWS, each with the key
// of KMS that is named: in the region of its ARN, else in that of the environment.
func Unwrapper(caller awsapi.Caller) func(ctx context.Context, kmsKey string, wrapped []byte, about map[string]string) ([]byte, error) {
	return func(ctx context.Context, kmsKey string, wrapped []byte, about map[string]string) ([]byte, error) {
		return KeysOf(caller, kmsKey).Unwrap(ctx, wrapped, about)
	}
}

// KeysOf makes data keys under the key of KMS of this id, alias or ARN.
func KeysOf(caller awsapi.Caller, kmsKey string) Keys {
	k := Keys{Caller: caller, KeyID: kmsKey}
	if part := strings.Split(kmsKey, ":"); len(part) >= 6 && part[0] == "arn" {
		k.Scope.Region = part[3]
	}
	return k
}
