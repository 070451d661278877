package inventory

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// pack writes v as base64 of gzip of JSON.
func pack(v any) (string, error) {
	var text strings.Builder
	encode := base64.NewEncoder(base64.StdEncoding, &text)
	zip := gzip.NewWriter(encode)
	enc := json.NewEncoder(zip)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "", err
	}
	if err := zip.Close(); err != nil {
		return "", err
	}
	err := encode.Close()
	return text.String(), err
}

// unpack returns the JSON, of at most maxDecoded bytes.
func unpack(text string) ([]byte, error) {
	packed, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("the report is not base64: %w", err)
	}
	zip, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("the report is not compressed: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(zip, maxDecoded+1))
	if err != nil {
		return nil, fmt.Errorf("the report is damaged: %w", err)
	}
	if len(raw) > maxDecoded {
		return nil, fmt.Errorf("the report unpacks to more than %d MiB", maxDecoded>>20)
	}
	return raw, nil
}
