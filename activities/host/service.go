package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/command"
	"github.com/almanac-run/almanac/internal/output"
)

// What the actions host.service.* share.

type serviceInput struct {
	Name string `json:"name" jsonschema:"the service, as systemd or its script in /etc/init.d is called"`
}

type serviceOutput struct {
	Name    string `json:"name" jsonschema:"the service"`
	Active  bool   `json:"active" jsonschema:"it runs now"`
	Enabled bool   `json:"enabled" jsonschema:"it starts with the node"`
	Changed bool   `json:"changed" jsonschema:"running or enabled differ from before"`
}

const serviceDetails = "Services are those of systemd; where it does not run, the scripts in /etc/init.d; on a node with a root directory, the scripts in the root's etc/init.d."

// serviceState is what can be changed of a service.
type serviceState struct {
	Active  bool `json:"active"`
	Enabled bool `json:"enabled"`
}

// A manager is what looks after the services of a node.
type manager interface {
	state(ctx context.Context, name string) (serviceState, error)
	do(ctx context.Context, verb, name string) error // start, stop, restart, reload, enable, disable
}

func (n Node) services() (manager, error) {
	switch {
	case n.Root != "":
		return scripts{n}, nil
	case isDir("/run/systemd/system"):
		return systemd{n}, nil
	case isDir("/etc/init.d"):
		return scripts{n}, nil
	}
	return nil, action.Errorf(action.Invalid, "the node has no services: neither systemd runs, nor is there an /etc/init.d")
}

var serviceName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@:\\-]*$`)

// A servicing is what the journal keeps of one call: what the service was
// before, and whether it is so again.
type servicing struct {
	serviceState
	Undone bool `json:"undone,omitempty"`
}

const serviceFile = "service.json"

// service does verb, having noted what the service was before.
func (n Node) service(ctx context.Context, in serviceInput, verb string) (serviceOutput, error) {
	m, err := n.managerOf(in)
	if err != nil {
		return serviceOutput{}, err
	}
	before, err := m.state(ctx, in.Name)
	if err != nil {
		return serviceOutput{}, err
	}
	if verb != "" {
		entry, use, err := n.lock(action.FromContext(ctx))
		if err != nil {
			return serviceOutput{}, err
		}
		defer use.Unlock()
		var s servicing
		switch err := entry.ReadJSON(serviceFile, &s); {
		case err == nil && s.Undone:
			return serviceOutput{}, action.Errorf(action.Conflict, "this step was rolled back on this node already")
		case err == nil:
			before = s.serviceState // of the first attempt
		case !errors.Is(err, fs.ErrNotExist):
			return serviceOutput{}, stateError(err)
		default:
			if err := entry.WriteJSON(serviceFile, servicing{serviceState: before}); err != nil {
				return serviceOutput{}, stateError(err)
			}
		}
		if err := m.do(ctx, verb, in.Name); err != nil {
			return serviceOutput{}, err
		}
	}
	now, err := m.state(ctx, in.Name)
	if err != nil {
		return serviceOutput{}, err
	}
	return serviceOutput{Name: in.Name, Active: now.Active, Enabled: now.Enabled, Changed: now != before}, nil
}

// unservice makes the service what it was before: running or not, if active is
// what the action changes, else enabled or not.
func (n Node) unservice(ctx context.Context, in serviceInput, out *serviceOutput, active bool) error {
	entry, use, err := n.lock(action.FromContext(ctx))
	if err != nil {
		return err
	}
	defer use.Unlock()
	var s servicing
	switch err := entry.ReadJSON(serviceFile, &s); {
	case errors.Is(err, fs.ErrNotExist) && (out == nil || !out.Changed):
		// It was never begun, or did nothing, and is not to begin late.
		return stateError(entry.WriteJSON(serviceFile, servicing{Undone: true}))
	case errors.Is(err, fs.ErrNotExist):
		return action.Errorf(action.NotFound, "what service %s was before is no longer known on this node", in.Name)
	case err != nil:
		return stateError(err)
	case s.Undone:
		return nil
	}
	m, err := n.managerOf(in)
	if err != nil {
		return err
	}
	now, err := m.state(ctx, in.Name)
	if err != nil {
		return err
	}
	verb := ""
	switch {
	case active && now.Active && !s.Active:
		verb = "stop"
	case active && !now.Active && s.Active:
		verb = "start"
	case !active && now.Enabled && !s.Enabled:
		verb = "disable"
	case !active && !now.Enabled && s.Enabled:
		verb = "enable"
	}
	if verb != "" {
		if err := m.do(ctx, verb, in.Name); err != nil {
			return err
		}
	}
	s.Undone = true
	return stateError(entry.WriteJSON(serviceFile, s))
}

func (n Node) managerOf(in serviceInput) (manager, error) {
	if !serviceName.MatchString(in.Name) || len(in.Name) > 200 {
		return nil, action.Errorf(action.Invalid, "%q is no name of a service", in.Name)
	}
	return n.services()
}

type systemd struct{ n Node }

func (s systemd) state(ctx context.Context, name string) (serviceState, error) {
	out, code, err := s.n.execute(ctx, "systemctl", "show", "--property=LoadState,ActiveState,UnitFileState", "--", name)
	if err == nil && code != 0 {
		err = serviceError("show", name, out, code)
	}
	if err != nil {
		return serviceState{}, err
	}
	is := map[string]string{}
	for line := range strings.Lines(out) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		is[k] = v
	}
	if load := is["LoadState"]; load != "loaded" && load != "masked" {
		return serviceState{}, action.Errorf(action.NotFound, "the node has no service %s", name)
	}
	active := is["ActiveState"]
	return serviceState{
		Active:  active == "active" || active == "activating" || active == "reloading",
		Enabled: strings.HasPrefix(is["UnitFileState"], "enabled"),
	}, nil
}

func (s systemd) do(ctx context.Context, verb, name string) error {
	out, code, err := s.n.execute(ctx, "systemctl", verb, "--", name)
	if err == nil && code != 0 {
		err = serviceError(verb, name, out, code)
	}
	return err
}

// scripts are services as System V knows them: a script per service, and links
// in rc directories for those that start with the node.
type scripts struct{ n Node }

func (s scripts) etc() string { return filepath.Join("/", s.n.Root, "etc") }

func (s scripts) script(name string) (string, error) {
	file := filepath.Join(s.etc(), "init.d", name)
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return "", action.Errorf(action.NotFound, "the node has no service %s", name)
	}
	return file, nil
}

func (s scripts) state(ctx context.Context, name string) (serviceState, error) {
	file, err := s.script(name)
	if err != nil {
		return serviceState{}, err
	}
	out, code, err := s.n.execute(ctx, file, "status")
	if err != nil {
		return serviceState{}, err
	}
	// LSB: 0 runs, 1 to 3 does not, others do not know.
	if code > 3 {
		return serviceState{}, serviceError("status", name, out, code)
	}
	links, _ := filepath.Glob(filepath.Join(s.etc(), "rc[2-5].d", "S[0-9][0-9]"+strings.ReplaceAll(name, `\`, `\\`)))
	return serviceState{Active: code == 0, Enabled: len(links) > 0}, nil
}

func (s scripts) do(ctx context.Context, verb, name string) error {
	file, err := s.script(name)
	if err != nil {
		return err
	}
	var out string
	var code int
	switch {
	case verb != "enable" && verb != "disable":
		out, code, err = s.n.execute(ctx, file, verb)
	case s.n.Root != "":
		return s.link(verb == "enable", name)
	default:
		out, code, err = s.n.execute(ctx, "update-rc.d", name, verb)
	}
	if err == nil && code != 0 {
		err = serviceError(verb, name, out, code)
	}
	return err
}

// link makes or removes the link that starts a service of a root directory.
func (s scripts) link(enable bool, name string) error {
	dir := filepath.Join(s.etc(), "rc3.d")
	link := filepath.Join(dir, "S50"+name)
	if !enable {
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fileError("disable "+name, err)
		}
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fileError("enable "+name, err)
	}
	if err := os.Symlink("../init.d/"+name, link); err != nil && !errors.Is(err, fs.ErrExist) {
		return fileError("enable "+name, err)
	}
	return nil
}

func serviceError(verb, name, out string, code int) error {
	return action.Errorf(action.Failed, "%s service %s: exit code %d: %s", verb, name, code, strings.TrimSpace(out))
}

// execute runs a program that is known to be quick. Its output goes to a file
// and not a pipe, since a daemon it starts may keep it.
func (n Node) execute(ctx context.Context, prog string, args ...string) (out string, code int, err error) {
	if !strings.Contains(prog, "/") && !command.Find(prog, defaultPath) {
		return "", 0, action.Errorf(action.Invalid, "the node has no %s", prog)
	}
	f, err := os.CreateTemp("", "almanac-*")
	if err != nil {
		return "", 0, fileError("temporary file", err)
	}
	defer f.Close()
	os.Remove(f.Name())
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, prog, args...)
	cmd.Env = []string{"PATH=" + defaultPath, "HOME=/", "ALMANAC_NODE=" + n.ID}
	cmd.Dir = "/"
	if n.Root != "" {
		cmd.Dir = n.Root
		cmd.Env = append(cmd.Env, "NODE_ROOT="+n.Root)
	}
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "", 0, action.Errorf(action.Timeout, "%s: %w", filepath.Base(prog), ctx.Err())
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		return "", 0, action.Errorf(action.Failed, "%w", err)
	}
	b := make([]byte, 2<<10)
	size, err := f.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return "", 0, fmt.Errorf("output of %s: %w", filepath.Base(prog), err)
	}
	return output.Text(b[:size]), code, nil
}
