package awssecret

import (
	"bytes"
	"testing"

	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/simcloud"
)

// A key is found in the region of its ARN, whatever the caller's is.
func TestUnwrapper(t *testing.T) {
	cloud := simcloud.New(simcloud.Options{})
	t.Cleanup(cloud.Close)
	made, err := cloud.Call(t.Context(), awsapi.Scope{Region: "eu-central-1"}, "kms", "CreateKey", map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	arn, _ := made["KeyMetadata"].(map[string]any)["Arn"].(string)
	about := map[string]string{"key": "d1"}
	key, err := KeysOf(cloud, arn).Make(t.Context(), about)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := Unwrapper(cloud)(t.Context(), arn, key.Wrapped, about)
	if err != nil || !bytes.Equal(plain, key.Plain) {
		t.Errorf("unwrapped it is another: %v", err)
	}
	if _, err := Unwrapper(cloud)(t.Context(), arn, key.Wrapped, map[string]string{"key": "d2"}); err == nil {
		t.Error("unwrapped as another key")
	}
}
