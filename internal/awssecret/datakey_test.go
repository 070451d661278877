package awssecret

import (
	"bytes"
	"errors"
	"testing"

	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/simcloud"
)

func TestDataKeys(t *testing.T) {
	cloud := simcloud.New(simcloud.Options{})
	t.Cleanup(cloud.Close)
	made, err := cloud.Call(t.Context(), awsapi.Scope{}, "kms", "CreateKey", map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	id, _ := made["KeyMetadata"].(map[string]any)["KeyId"].(string)
	k := Keys{Caller: cloud, KeyID: id}
	about := map[string]string{"namespace": "default"}
	key, err := k.Make(t.Context(), about)
	if err != nil {
		t.Fatal(err)
	}
	other, err := k.Make(t.Context(), about)
	if err != nil || bytes.Equal(other.Plain, key.Plain) {
		t.Errorf("two keys are one: %v", err)
	}
	if plain, err := k.Unwrap(t.Context(), key.Wrapped, about); err != nil || !bytes.Equal(plain, key.Plain) {
		t.Errorf("unwrapped it is another: %v", err)
	}
	var denied *awsapi.Error
	if _, err := k.Unwrap(t.Context(), key.Wrapped, map[string]string{"namespace": "theirs"}); !errors.As(err, &denied) {
		t.Errorf("unwrapped about something else: %v", err)
	}
	if _, err := cloud.Call(t.Context(), awsapi.Scope{}, "kms", "DisableKey", map[string]any{"KeyId": id}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Unwrap(t.Context(), key.Wrapped, about); !errors.As(err, &denied) || denied.Class != awsapi.Conflict {
		t.Errorf("unwrapped by a disabled key: %v", err)
	}
}
