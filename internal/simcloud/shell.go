package simcloud

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// outputKept is what RealShell keeps of each stream; the rest is dropped.
const outputKept = 1 << 20

// RealShell returns a shell that really runs the scripts of AWS-RunShellScript,
// with sh, each instance's in a directory of its own below dir. What a script
// sees is its directory, as HOME and as the current one, and a small environment,
// in which programs that change the machine itself only say that they were
// called. It is not kept from the rest of the machine. It and what it has started
// are killed when ctx ends. Other documents are Simulated.
func RealShell(dir string) func(context.Context, Command) CommandResult {
	return func(ctx context.Context, c Command) CommandResult {
		if c.Document != "AWS-RunShellScript" {
			return Simulated(c)
		}
		result, err := run(ctx, filepath.Join(dir, c.Instance.ID), c)
		if err != nil {
			return CommandResult{ExitCode: 1, Stderr: err.Error()}
		}
		return result
	}
}

func run(ctx context.Context, home string, c Command) (CommandResult, error) {
	if err := os.MkdirAll(home, 0o700); err != nil {
		return CommandResult{}, err
	}
	bin := filepath.Join(home, ".bin")
	if err := standIns(bin); err != nil {
		return CommandResult{}, err
	}
	script := filepath.Join(home, ".command-"+c.ID)
	if err := os.WriteFile(script, []byte(strings.Join(c.Script, "\n")+"\n"), 0o600); err != nil {
		return CommandResult{}, err
	}
	defer os.Remove(script)

	cmd := exec.CommandContext(ctx, "sh", script)
	cmd.Dir = home
	if c.Directory != "" {
		cmd.Dir = filepath.Join(home, filepath.Join("/", c.Directory))
		if err := os.MkdirAll(cmd.Dir, 0o700); err != nil {
			return CommandResult{}, err
		}
	}
	cmd.Env = []string{
		"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + home, "ALMANAC_STATE_DIR=" + filepath.Join(home, ".almanac"), "LANG=C.UTF-8", "AWS_REGION=" + c.Instance.Region,
		"INSTANCE_ID=" + c.Instance.ID, fmt.Sprintf("BOOT_ID=%s-%d", c.Instance.ID, c.Instance.Boots),
	}
	var stdout, stderr bounded
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	inGroup(cmd)
	cmd.WaitDelay = time.Second
	begun := time.Now()
	err := cmd.Run()
	result := CommandResult{Stdout: stdout.String(), Stderr: stderr.String(), Duration: time.Since(begun)}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		result.ExitCode = exit.ExitCode()
	case err != nil:
		result.ExitCode = 137
		result.Stderr += err.Error() + "\n"
	}
	return result, nil
}

// machineWide are the programs by which a script of an image would change the
// machine that stands in for the instance.
var machineWide = []string{"apt-get", "apt-mark", "dnf", "yum", "zypper", "rpm", "dpkg", "reboot", "shutdown", "systemctl", "passwd", "cloud-init"}

// standIns makes a directory of programs of these names that change nothing.
func standIns(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, name := range machineWide {
		text := "#!/bin/sh\necho \"(simulated) " + name + " $*\"\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// bounded keeps the beginning of what is written to it.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if left := outputKept - b.Len(); left > 0 {
		b.Buffer.Write(p[:min(left, len(p))])
	}
	return len(p), nil
}
