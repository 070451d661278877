package collect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/almanac-run/almanac/internal/inventory"
)

// searched is where programs are looked for.
const searched = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// output keeps up to so many bytes and calls full when there are more.
type output struct {
	kept bytes.Buffer // not embedded: io.Copy would use its ReadFrom
	most int64
	full func()
	over bool
}

// Write keeps what there is room for.
func (o *output) Write(p []byte) (int, error) {
	if int64(o.kept.Len()+len(p)) > o.most {
		if !o.over {
			o.over = true
			o.full()
		}
		return len(p), nil
	}
	return o.kept.Write(p)
}

// start runs a program to its end: its process group is killed when ctx ends, its time is over
// or it writes more than most bytes.
func (m Machine) start(ctx context.Context, most int64, timeout time.Duration, prog string, args ...string) (stdout, stderr []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	name := filepath.Base(prog)
	if !strings.Contains(prog, "/") {
		if prog, err = lookPath(prog); err != nil {
			return nil, nil, err
		}
	}
	out, complaint := &output{most: most, full: cancel}, &output{most: 4 << 10, full: func() {}}
	cmd := exec.CommandContext(ctx, prog, args...)
	cmd.Env = []string{"PATH=" + searched, "HOME=/", "LC_ALL=C", "ALMANAC_NODE=" + m.ID}
	cmd.Dir = "/"
	if m.Root != "" {
		cmd.Dir = m.Root
		cmd.Env = append(cmd.Env, "NODE_ROOT="+m.Root)
	}
	cmd.Stdout, cmd.Stderr = out, complaint
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for what it has left running, with our pipe
	err = cmd.Run()
	switch {
	case out.over:
		err = fmt.Errorf("%s: it writes more than %d KiB", name, most>>10)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("%s: it takes longer than %s", name, timeout)
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.Is(err, exec.ErrWaitDelay):
		err = nil
	}
	return out.kept.Bytes(), complaint.kept.Bytes(), err
}

func lookPath(prog string) (string, error) {
	for dir := range strings.SplitSeq(searched, ":") {
		file := filepath.Join(dir, prog)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("the node has no %s", prog)
}

// run returns what a program writes.
func (m Machine) run(ctx context.Context, most int64, timeout time.Duration, prog string, args ...string) ([]byte, error) {
	stdout, stderr, err := m.start(ctx, most, timeout, prog, args...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("%s: exit code %d: %s", filepath.Base(prog), exit.ExitCode(), lastLine(stderr))
	}
	return stdout, err
}

// exitCode returns how a program ended.
func (m Machine) exitCode(ctx context.Context, timeout time.Duration, prog string, args ...string) (int, error) {
	_, _, err := m.start(ctx, 64<<10, timeout, prog, args...)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return exit.ExitCode(), nil
	}
	return 0, err
}

func lastLine(b []byte) string {
	all := strings.Split(strings.TrimSpace(text(string(b))), "\n")
	return all[len(all)-1]
}

// Fact is a command that prints JSON.
type Fact struct {
	Name    string
	Script  string        // read by sh -e
	Timeout time.Duration // 0 is 30 s
}

// MaxFact bounds what a fact's command writes, in bytes.
const MaxFact = 1 << 20

// maxScript is what fits into one argument.
const maxScript = 64 << 10

var factName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// Check says what is wrong with a fact.
func (f Fact) Check() error {
	switch {
	case !factName.MatchString(f.Name):
		return fmt.Errorf("fact %q: a name is of small letters, digits, '.', '_' and '-', at most 64", text(f.Name))
	case strings.TrimSpace(f.Script) == "" || len(f.Script) > maxScript || strings.ContainsRune(f.Script, 0):
		return fmt.Errorf("fact %s: a script is text of 1 byte to %d KiB", f.Name, maxScript>>10)
	case f.Timeout < 0 || f.Timeout > 10*time.Minute:
		return fmt.Errorf("fact %s: a timeout is at most 10m", f.Name)
	}
	return nil
}

// Fact runs a fact's command. An object becomes one item, whose key is the fact's name; of a
// list of objects each becomes one, with the name and its own "key".
func (m Machine) Fact(ctx context.Context, f Fact) ([]inventory.Item, error) {
	if err := f.Check(); err != nil {
		return nil, err
	}
	if f.Timeout == 0 {
		f.Timeout = 30 * time.Second
	}
	out, err := m.run(ctx, MaxFact, f.Timeout, "sh", "-e", "-c", f.Script)
	if err == nil {
		var items []inventory.Item
		if items, err = factItems(f.Name, out); err == nil {
			return items, nil
		}
	}
	return nil, fmt.Errorf("fact %s: %w", f.Name, err)
}

func factItems(name string, out []byte) ([]inventory.Item, error) {
	dec := json.NewDecoder(bytes.NewReader(out))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("what it prints is not JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("what it prints is not JSON: more follows the value")
	}
	switch v := v.(type) {
	case map[string]any:
		return []inventory.Item{{Kind: "fact", Key: name, Values: v}}, nil
	case []any:
		items := []inventory.Item{}
		for i, e := range v {
			values, _ := e.(map[string]any)
			key, _ := values["key"].(string)
			if key == "" {
				return nil, fmt.Errorf("of the list that it prints, element %d is not an object with a key", i+1)
			}
			items = append(items, inventory.Item{Kind: "fact", Key: name + "/" + key, Values: values})
		}
		return items, nil
	}
	return nil, errors.New("it prints neither an object nor a list of objects")
}
