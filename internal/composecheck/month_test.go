//go:build unix

package composecheck

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What only shows after weeks: certificates end, and disks are full.

func TestLogsAreBounded(t *testing.T) {
	for name, s := range project(t).Services {
		if s.Logging == nil || s.Logging.Options["max-size"] == "" || s.Logging.Options["max-file"] == "" {
			t.Errorf("%s: Docker keeps all that it ever wrote: %+v", name, s.Logging)
		}
	}
}

// PostgreSQL has a copy of its certificate, which follows what is renewed. The real script runs, with programs that note that they were called.
func TestDatabaseTakesRenewedCertificate(t *testing.T) {
	s := project(t).Services["postgresql"]
	if len(s.Entrypoint) != 3 || s.Entrypoint[0] != "bash" || s.Entrypoint[1] != "-euc" || s.Init == nil || !*s.Init {
		t.Fatalf("entry point %q, init %v", s.Entrypoint, s.Init)
	}
	dir := t.TempDir()
	calls := filepath.Join(dir, "calls")
	for name, does := range map[string]string{
		"install": "", "psql": "[ $(grep -c psql " + calls + ") != 1 ]", "docker-entrypoint.sh": "exec sleep 60", // the first psql fails
	} {
		text := "#!/bin/sh\necho " + name + " >>" + calls + "\n" + does + "\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("bash", "-euc", strings.Replace(s.Entrypoint[2], "sleep 1800", "sleep 0.1", 1))
	cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // with the loop, which has lost its parent
		_ = cmd.Wait()
	}()
	var text []byte
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		text, _ = os.ReadFile(calls) // none: not yet
		if strings.Count(string(text), "psql") >= 3 {
			break
		}
	}
	rest := strings.Replace(string(text), "docker-entrypoint.sh\n", "", 1)
	if !strings.HasPrefix(rest, "install\ninstall\npsql\ninstall\npsql\ninstall\npsql\n") || rest == string(text) {
		t.Errorf("called in this order:\n%s", text)
	}
}
