package instance

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const identity = `{"accountId": "123456789012", "region": "eu-west-1", "instanceId": "i-0123456789abcdef0", "architecture": "x86_64"}`

// imds answers as the service does: to who has a token, with version 2 only.
type imds struct {
	document string
	tags     map[string]string // nil: not let through
	status   int               // of every answer; 0: as it should be
	slow     time.Duration
	gone     string // a tag that is listed and not there
}

func (m imds) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	time.Sleep(m.slow)
	tag, isTag := strings.CutPrefix(r.URL.Path, "/latest/meta-data/tags/instance/")
	switch {
	case m.status != 0:
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(m.status)
	case r.URL.Path == "/latest/api/token":
		if r.Method != http.MethodPut || r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") == "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		fmt.Fprint(w, "token-1")
	case r.Header.Get("X-aws-ec2-metadata-token") != "token-1":
		w.WriteHeader(http.StatusUnauthorized)
	case r.URL.Path == "/latest/dynamic/instance-identity/document":
		fmt.Fprint(w, m.document)
	case r.URL.Path == "/latest/meta-data/tags/instance" && m.tags != nil:
		for name := range m.tags {
			fmt.Fprintln(w, name)
		}
		if m.gone != "" {
			fmt.Fprintln(w, m.gone)
		}
	case isTag && m.tags[tag] != "":
		fmt.Fprint(w, m.tags[tag])
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func TestMetadata(t *testing.T) {
	tests := []struct {
		name string
		imds imds
		want *Data
		says string
	}{
		{"tags", imds{document: identity, tags: map[string]string{"Name": "web 1", "team:x": "a=b"}},
			&Data{"i-0123456789abcdef0", "eu-west-1", "123456789012", map[string]string{"Name": "web 1", "team:x": "a=b"}}, ""},
		{"no tags let through", imds{document: identity}, &Data{ID: "i-0123456789abcdef0", Region: "eu-west-1", Account: "123456789012"}, ""},
		{"no tags", imds{document: identity, tags: map[string]string{}},
			&Data{"i-0123456789abcdef0", "eu-west-1", "123456789012", map[string]string{}}, ""},
		{"a tag is taken away", imds{document: identity, tags: map[string]string{"a": "b"}, gone: "c"},
			&Data{"i-0123456789abcdef0", "eu-west-1", "123456789012", map[string]string{"a": "b"}}, ""},
		{"names that are paths", imds{document: identity, tags: map[string]string{"a": "b", "../../dynamic/x": "c", "q?x": "d"}},
			&Data{"i-0123456789abcdef0", "eu-west-1", "123456789012", map[string]string{"a": "b"}}, ""},
		{"switched off", imds{status: http.StatusForbidden}, nil, "switched off"},
		{"another server", imds{status: http.StatusNotFound}, nil, "no session token: not there"},
		{"a redirect", imds{status: http.StatusFound}, nil, "status 302"},
		{"no document", imds{document: "<html>"}, nil, "identity document"},
		{"a hostile document", imds{document: strings.Replace(identity, "eu-west-1", `x' OR '1`, 1)}, nil, "identity document: instance"},
		{"an endless document", imds{document: strings.Repeat("x", 1<<20)}, nil, "more than 65536 bytes"},
		{"no answer", imds{document: identity, slow: 1200 * time.Millisecond}, nil, "no answer in time"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(tt.imds)
			defer srv.Close()
			began := time.Now()
			got, err := Metadata(t.Context(), srv.URL+"/")
			if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("error %v, want %q", err, tt.says)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("after %v", took)
			}
		})
	}
}

func TestOnEC2(t *testing.T) {
	for _, tt := range []struct {
		file, text string
		want       bool
	}{
		{"sys/class/dmi/id/sys_vendor", "Amazon EC2\n", true},
		{"sys/hypervisor/uuid", "ec2e1916-9099-7caf-fd21-012345abcdef\n", true},
		{"sys/class/dmi/id/product_uuid", "EC2E1916-9099-7CAF-FD21-012345ABCDEF\n", true},
		{"sys/class/dmi/id/sys_vendor", "QEMU\n", false},
		{"sys/class/dmi/id/other", "Amazon EC2\n", false},
	} {
		root := t.TempDir()
		file := filepath.Join(root, tt.file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(tt.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := OnEC2(root); got != tt.want {
			t.Errorf("%s %q: %v", tt.file, tt.text, got)
		}
	}
}
