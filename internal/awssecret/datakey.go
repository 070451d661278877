package awssecret

import (
	"context"
	"errors"

	"github.com/almanac-run/almanac/internal/awsapi"
)

// DataKey is a key of 256 bits that KMS has made: to encrypt with here, and
// wrapped, to be kept beside what it has encrypted.
type DataKey struct {
	Plain   []byte // never to be kept
	Wrapped []byte
}

// Keys makes data keys under one key of KMS, and unwraps them.
type Keys struct {
	Caller awsapi.Caller
	Scope  awsapi.Scope
	KeyID  string // id, ARN or alias of the key of KMS
}

// Make returns a new data key. Unwrapping it takes the same about: KMS keeps it,
// readable, in its log, so that it is no place for a secret.
func (k Keys) Make(ctx context.Context, about map[string]string) (DataKey, error) {
	out, err := k.Caller.Call(ctx, k.Scope, "kms", "GenerateDataKey", map[string]any{
		"KeyId": k.KeyID, "KeySpec": "AES_256", "EncryptionContext": anyMap(about),
	})
	if err != nil {
		return DataKey{}, err
	}
	plain, _ := out["Plaintext"].([]byte)
	wrapped, _ := out["CiphertextBlob"].([]byte)
	if len(plain) != 32 || len(wrapped) == 0 {
		return DataKey{}, errors.New("the answer of KMS has no data key of 256 bits")
	}
	return DataKey{Plain: plain, Wrapped: wrapped}, nil
}

// Unwrap returns the plain data key. The error is an *awsapi.Error if the key of
// KMS is disabled or another one, or if it was made about something else.
func (k Keys) Unwrap(ctx context.Context, wrapped []byte, about map[string]string) ([]byte, error) {
	out, err := k.Caller.Call(ctx, k.Scope, "kms", "Decrypt", map[string]any{
		"KeyId": k.KeyID, "CiphertextBlob": wrapped, "EncryptionContext": anyMap(about),
	})
	if err != nil {
		return nil, err
	}
	plain, _ := out["Plaintext"].([]byte)
	if len(plain) != 32 {
		return nil, errors.New("the answer of KMS has no data key of 256 bits")
	}
	return plain, nil
}

func anyMap(texts map[string]string) map[string]any {
	all := map[string]any{}
	for name, text := range texts {
		all[name] = text
	}
	return all
}
