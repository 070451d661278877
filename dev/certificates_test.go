//go:build !external

package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
)

// With --certificates the worker and the nodes come in, each by its own, and who has none does not.
func TestCertificates(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("sh", "../deploy/certificates.sh", "-d", dir, "trial").CombinedOutput(); err != nil {
		t.Fatalf("certificates.sh: %v\n%s", err, out)
	}
	o, out := setUp(t)
	o.certificates = dir
	if _, err := run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "--ui-port 0") {
		t.Errorf("with a web ui: %v", err)
	}
	o.uiPort = 0
	o.certificates = filepath.Join(dir, "none")
	if _, err := run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "certificates.sh") {
		t.Errorf("without certificates: %v", err)
	}
	o.certificates = dir
	runUntilReady(t, o, out, func() {
		s := &server{address: hostPort(o.port), namespace: "default", certificates: dir}
		for _, who := range []string{asOperator, ""} {
			opts := client.Options{HostPort: s.address, Logger: nil}
			if who != "" {
				if err := s.identify(&opts, who); err != nil {
					t.Fatal(err)
				}
			}
			c, err := client.DialContext(t.Context(), opts)
			if (err == nil) != (who != "") {
				t.Errorf("%q connects: %v", who, err)
			}
			if err != nil {
				continue
			}
			nodes := int64(0)
			for end := time.Now().Add(time.Minute); nodes != 3 && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				d, err := c.WorkflowService().CountWorkflowExecutions(t.Context(), &workflowservice.CountWorkflowExecutionsRequest{Namespace: "default", Query: "WorkflowType = 'almanac.node'"})
				if err != nil {
					t.Fatal(err)
				}
				nodes = d.GetCount()
			}
			if nodes != 3 {
				t.Errorf("%d nodes have registered, want 3", nodes)
			}
			c.Close()
		}
		if want := "TEMPORAL_TLS_CLIENT_CERT_PATH=" + filepath.Join(dir, asOperator, "tls.crt"); !strings.Contains(out.String(), want) {
			t.Errorf("output does not say %q:\n%s", want, out)
		}
	})
}
