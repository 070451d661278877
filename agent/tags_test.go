package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/internal/instance"
	"github.com/almanac-run/almanac/internal/node"
)

func TestReadTags(t *testing.T) {
	for _, tt := range []struct {
		text string
		want map[string]string
		says string
	}{
		{"", map[string]string{}, ""},
		{"# comment\n\nrole=web\r\n  zone = b=c \nempty=\n", map[string]string{"role": "web", "zone": "b=c", "empty": ""}, ""},
		{"role=web\nrole", nil, `2: "role": want name=value`},
		{"=web", nil, "1: "},
		{"a=1\na=2", nil, "2: tag a stands there twice"},
		{"a=1\n" + strings.Repeat("x", 1<<20), nil, "2: "},
	} {
		got, err := readTags(strings.NewReader(tt.text))
		if (err == nil) != (tt.says == "") || err != nil && !strings.HasPrefix(err.Error(), tt.says) {
			t.Errorf("%.40q: %v, want %q", tt.text, err, tt.says)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%.40q: -want +got:\n%s", tt.text, diff)
		}
	}
}

// The command line wins over the file, and the file over EC2.
func TestTags(t *testing.T) {
	tags := map[string]string{"a": "ec2", "b": "ec2", "c": "ec2"}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, one := strings.CutPrefix(r.URL.Path, "/latest/meta-data/tags/instance/")
		switch {
		case r.Method == http.MethodPut:
			fmt.Fprint(w, "token")
		case one:
			fmt.Fprint(w, tags[name])
		case strings.HasSuffix(r.URL.Path, "document"):
			fmt.Fprint(w, `{"instanceId":"i-0123456789abcdef0","region":"eu-west-1","accountId":"123456789012"}`)
		default:
			fmt.Fprint(w, "a\nb\nc")
		}
	}))
	defer srv.Close()
	file := filepath.Join(t.TempDir(), "tags")
	if err := os.WriteFile(file, []byte("b=file\nc=file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	t.Setenv(instance.EndpointEnv, srv.URL)
	var o node.Options
	if err := (tagOptions{metadata: metadataOn, file: file, tags: []string{"c=flag", "d=x=y"}}).complete(t.Context(), &o, logger); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"a": "ec2", "b": "file", "c": "flag", "d": "x=y"}, o.Tags); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if o.Region != "eu-west-1" || o.Account != "123456789012" {
		t.Errorf("region %q, account %q", o.Region, o.Account)
	}
	srv.Close()
	for _, tt := range []struct {
		o    tagOptions
		says string
	}{
		{tagOptions{metadata: metadataOn}, "--ec2-metadata off does without it"},
		{tagOptions{metadata: metadataOff}, ""},
		{tagOptions{metadata: "yes"}, "auto, on or off"},
		{tagOptions{metadata: metadataOff, tags: []string{"x"}}, "want name=value"},
		{tagOptions{metadata: metadataOff, file: file + "2"}, "tags file"},
	} {
		err := tt.o.complete(t.Context(), &o, logger)
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%+v: %v, want %q", tt.o, err, tt.says)
		}
	}
}
