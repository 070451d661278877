package host

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/command"
	"github.com/almanac-run/almanac/internal/journal"
	"github.com/almanac-run/almanac/internal/output"
)

// A command that runs while its agent is upgraded is known again by a digest of this: a
// further field has to be left out where it is empty.
type commandRunInput struct {
	Script           string                   `json:"script" jsonschema:"what to run, as the text of a script; values come by env and never become part of it" code:"true"`
	Shell            string                   `json:"shell,omitempty" jsonschema:"what reads the script" enum:"bash,sh,pwsh,python3" default:"bash if the node has it, else sh"`
	Args             []string                 `json:"args,omitempty" jsonschema:"arguments of the script; they are seen in the process list"`
	Env              map[string]action.Secret `json:"env,omitempty" jsonschema:"environment variables, beside PATH, HOME and a few more"`
	Stdin            action.Secret            `json:"stdin,omitzero" jsonschema:"what the script reads from standard input" default:"nothing"`
	WorkingDirectory string                   `json:"working_directory,omitempty" jsonschema:"where it runs" default:"the node's root directory, else the user's home"`
	User             string                   `json:"user,omitempty" jsonschema:"who runs it, by name or number" default:"the agent's user"`
	Idempotent       bool                     `json:"idempotent,omitempty" jsonschema:"run it again if it is not known how it ended, as after a power failure" default:"false"`
	SuccessCodes     []int                    `json:"success_codes,omitempty" jsonschema:"exit codes that mean success" default:"[0]"`
}

type commandRunOutput struct {
	ExitCode int             `json:"exit_code" jsonschema:"how it ended; 128 and more if by a signal"`
	Stdout   string          `json:"stdout" jsonschema:"what it wrote to standard output, without the last newline; of more than 4 KiB the beginning and the end"`
	Ref      string          `json:"ref" jsonschema:"where its complete output is kept, both streams; starter logs prints it"`
	Size     int64           `json:"size" jsonschema:"bytes of its complete output"`
	Omitted  int64           `json:"omitted,omitempty" jsonschema:"bytes that it wrote beyond what the agent keeps (1 GiB), and that are lost; absent if all is kept"`
	Duration action.Duration `json:"duration" jsonschema:"how long it ran"`
}

// CommandDetail is the detail of the error of a command that failed, and of its heartbeats.
type CommandDetail struct {
	ExitCode int    `json:"exit_code"`
	Tail     string `json:"tail"` // the last lines of its output
	Ref      string `json:"ref"`  // where all of it is kept
	Size     int64  `json:"size"` // bytes of it so far
}

const (
	keepStdout = 4 << 10 // bytes of standard output in the outputs
	tailLines  = 20
	tailBytes  = 4 << 10
)

func commandRun(n Node) action.Action {
	return action.New(action.Def[commandRunInput, commandRunOutput]{
		Name:    "host.command.run",
		Summary: "Run a script on a node",
		Details: commandRunDetails,
		Example: `id: load
targets: [web-1]
action: host.command.run
with:
  script: |
    uptime
    test -e "$FILE"
  env: { FILE: /etc/hostname }`,
		Do: n.runCommand,
	})
}

const commandRunDetails = `The step form ` + "`run:`" + ` is this action.

bash runs the script with ` + "`-e -o pipefail`" + `, sh with ` + "`-e`" + `: the first command that fails ends it. Nothing of the
agent's environment is passed on but PATH, LANG, LC_ALL and TZ; HOME, USER, LOGNAME, SHELL, TMPDIR and ALMANAC_NODE,
ALMANAC_EXECUTION, ALMANAC_STEP and ALMANAC_TOKEN are set. A node with a root directory adds NODE_ROOT and puts the root's bin first in PATH.

A value of ` + "`env`" + ` above 64 KiB (an operating system takes no more) arrives in another way: the variable's name with _FILE
appended holds the path of a file with the value, and in bash and sh the variable itself is set too, without being exported.

The script runs at most once. If the agent is restarted the script goes on, and its result is reported afterwards. If nobody can say how
it ended (the node lost power) the step fails with kind unknown, unless ` + "`idempotent: true`" + ` lets it run again. On cancel and time-out
the script and all processes it has started get TERM and, five seconds later, KILL. What it leaves running when it ends by itself goes on; such
processes should have their output redirected, because nobody reads it any more.`

// nobody tells whether nobody can come for a command, so that it is not ended for that: the engine waits for it still, or
// cannot give it up at present.
func (n Node) nobody(call action.Call) func() bool {
	return func() bool {
		wanted, known := call.Wanted()
		return wanted || !known && n.ServerAway != nil && n.ServerAway()
	}
}

func (n Node) runCommand(ctx context.Context, in commandRunInput) (commandRunOutput, error) {
	call := action.FromContext(ctx)
	entry, err := n.entry(call)
	if err != nil {
		return commandRunOutput{}, err
	}
	asked, err := json.Marshal(in) // of secrets it has the references
	if err != nil {
		return commandRunOutput{}, err
	}
	digest := fmt.Sprintf("%x", sha256.Sum256(asked))
	outputs := output.Dir(n.OutputDir)
	var deadline time.Time
	if d, ok := ctx.Deadline(); ok {
		// A little earlier than the engine gives up: then there is time to say how far it came.
		deadline = d.Add(-min(3*time.Second, time.Until(d)/10))
	}
	var specErr error
	rec, err := command.Run(ctx, command.Job{
		Entry: entry, Execution: call.Execution, Step: call.Step, Input: digest, Idempotent: in.Idempotent,
		Stopping: n.Stopping, Nobody: n.nobody(call), Abandoned: call.Abandoned,
		Spec: func() (command.Spec, error) {
			spec, err := n.commandSpec(ctx, in)
			spec.Deadline, specErr = deadline, err
			return spec, err
		},
		Watch: func(rec journal.Record) { call.Heartbeat(commandDetail(outputs, rec, 1)) },
	})
	var unknown *command.UnknownError
	switch {
	case err == nil:
	case specErr != nil:
		return commandRunOutput{}, specErr
	case errors.Is(err, command.ErrStopping), errors.Is(err, command.ErrSuperseded):
		return commandRunOutput{}, &action.Error{Kind: action.Lost, Err: err}
	case errors.As(err, &unknown):
		detail := commandDetail(outputs, unknown.Record, tailLines)
		detail.ExitCode = -1
		return commandRunOutput{}, &action.Error{Kind: action.Unknown, Err: err, Detail: detail}
	case errors.Is(err, command.ErrNoMain):
		return commandRunOutput{}, action.Errorf(action.Internal, "run the command: %w", err)
	default:
		// It is not started, or the journal knows of it: another attempt is safe.
		return commandRunOutput{}, action.Errorf(action.Unavailable, "run the command: %w", err)
	}
	if rec.Error != "" {
		kind := action.Invalid
		if rec.Passing {
			kind = action.Unavailable
		}
		return commandRunOutput{}, action.Errorf(kind, "the command could not be started: %s", rec.Error)
	}
	out := commandRunOutput{
		ExitCode: rec.ExitCode, Stdout: strings.TrimRight(rec.Stdout, "\n"), Ref: rec.Ref, Size: rec.Size, Omitted: rec.Omitted,
		Duration: action.Duration(rec.EndedAt.Sub(rec.StartedAt).Round(time.Millisecond)),
	}
	fail := func(k action.Kind, format string, args ...any) (commandRunOutput, error) {
		return out, &action.Error{Kind: k, Err: fmt.Errorf(format, args...), Detail: commandDetail(outputs, rec, tailLines)}
	}
	switch rec.Stopped {
	case journal.Cancelled:
		return fail(action.Cancelled, "the command was cancelled")
	case journal.TimedOut:
		return fail(action.Timeout, "the command took longer than its timeout, and was ended")
	case journal.Abandoned:
		return fail(action.Failed, "the command was ended: the node had lost its connection, and nobody waited for the command any more")
	case journal.Terminated:
		return fail(action.Failed, "the command was ended from outside (is the node shutting down?)")
	}
	codes := in.SuccessCodes
	if len(codes) == 0 {
		codes = []int{0}
	}
	if !slices.Contains(codes, rec.ExitCode) {
		if rec.ExitCode > 128 && rec.ExitCode <= 128+64 {
			return fail(action.Failed, "exit code %d (signal %d)", rec.ExitCode, rec.ExitCode-128)
		}
		return fail(action.Failed, "exit code %d", rec.ExitCode)
	}
	return out, nil
}

// commandDetail says what is known of a command's output now.
func commandDetail(outputs output.Store, rec journal.Record, lines int) CommandDetail {
	d := CommandDetail{ExitCode: rec.ExitCode, Ref: rec.Ref, Size: rec.Size}
	r, err := outputs.Open(rec.Ref)
	if err != nil {
		return d
	}
	defer r.Close()
	if size, err := outputs.Size(rec.Ref); err == nil && rec.State != journal.Exited {
		d.Size = max(size-rec.Offset, 0)
	}
	d.Tail, _ = output.LastLines(r, rec.Offset, lines, tailBytes)
	return d
}

// A variable larger than this is handed over as a file: Linux takes 128 KiB in
// one string, and all together share a limit that depends on the stack's.
const (
	largeValue = 64 << 10
	allValues  = 512 << 10
)

func (n Node) commandSpec(ctx context.Context, in commandRunInput) (command.Spec, error) {
	call := action.FromContext(ctx)
	spec := command.Spec{
		Script: in.Script, Outputs: n.OutputDir, MaxOutput: n.MaxOutput, Stdout: keepStdout,
		Ref: output.Ref(call.Execution, strings.Replace(call.Step, "@"+n.ID, "", 1), n.ID),
	}
	reveal := func(s action.Secret) (string, error) {
		value, err := s.Reveal(ctx)
		if err == nil && s.Ref != "" {
			spec.Mask = append(spec.Mask, value)
		}
		return value, err
	}
	env, err := n.environment(ctx, in, &spec)
	if err != nil {
		return spec, err
	}
	names := slices.Sorted(maps.Keys(in.Env))
	values := map[string]string{}
	total := 0
	for _, name := range names {
		if !validName(name) {
			return spec, action.Errorf(action.Invalid, "env: %q is no name of a variable", name)
		}
		value, err := reveal(in.Env[name])
		if err != nil {
			return spec, fmt.Errorf("env %s: %w", name, err)
		}
		if strings.ContainsRune(value, 0) {
			return spec, action.Errorf(action.Invalid, "env %s: a variable cannot hold a NUL byte", name)
		}
		values[name] = value
		total += len(value)
	}
	// The largest go first, until the rest fits.
	slices.SortStableFunc(names, func(a, b string) int { return len(values[b]) - len(values[a]) })
	var large []string
	for _, name := range names {
		if len(values[name]) <= largeValue && total <= allValues {
			env[name] = values[name]
			continue
		}
		total -= len(values[name])
		large = append(large, name)
		if spec.Files == nil {
			spec.Files = map[string]string{}
		}
		spec.Files[name+"_FILE"] = values[name]
	}
	if spec.Stdin, err = reveal(in.Stdin); err != nil {
		return spec, fmt.Errorf("stdin: %w", err)
	}
	if err := n.interpreter(in, large, env["PATH"], &spec); err != nil {
		return spec, err
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		spec.Env = append(spec.Env, name+"="+env[name])
	}
	return spec, nil
}

// interpreter sets what reads the script.
func (n Node) interpreter(in commandRunInput, large []string, path string, spec *command.Spec) error {
	shell := in.Shell
	if shell == "" {
		shell = "sh"
		if command.Find("bash", path) {
			shell = "bash"
		}
	}
	switch shell {
	case "bash":
		spec.Argv = []string{"bash", "--noprofile", "--norc", "-e", "-o", "pipefail", command.ScriptArg}
	case "sh":
		spec.Argv = []string{"sh", "-e", command.ScriptArg}
	case "pwsh":
		spec.Argv = []string{"pwsh", "-NoProfile", "-NonInteractive", "-File", command.ScriptArg}
	case "python3":
		spec.Argv = []string{"python3", command.ScriptArg}
	default:
		return action.Errorf(action.Invalid, "shell %q is none of bash, sh, pwsh, python3", shell)
	}
	if !command.Find(shell, path) {
		return action.Errorf(action.Invalid, "the node has no %s", shell)
	}
	if shell == "bash" || shell == "sh" {
		// On the script's first line, so that its lines keep their numbers. The x
		// keeps newlines at the end of the value.
		for _, name := range large {
			spec.Script = fmt.Sprintf("%[1]s=$(cat \"$%[1]s_FILE\" && printf x); %[1]s=${%[1]s%%x}; ", name) + spec.Script
		}
	}
	for _, arg := range in.Args {
		if strings.ContainsRune(arg, 0) {
			return action.Errorf(action.Invalid, "args: an argument cannot hold a NUL byte")
		}
	}
	spec.Argv = append(spec.Argv, in.Args...)
	return nil
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment returns what every command is told, and sets user and directory.
func (n Node) environment(ctx context.Context, in commandRunInput, spec *command.Spec) (map[string]string, error) {
	call := action.FromContext(ctx)
	env := map[string]string{
		"PATH": defaultPath, "TMPDIR": os.TempDir(), "SHELL": "/bin/sh", "HOME": "/",
		"ALMANAC_NODE": n.ID, "ALMANAC_EXECUTION": call.Execution, "ALMANAC_STEP": call.Step, "ALMANAC_TOKEN": call.Token,
	}
	for _, name := range []string{"PATH", "LANG", "LC_ALL", "TZ"} {
		if v, ok := os.LookupEnv(name); ok && v != "" {
			env[name] = v
		}
	}
	who, err := user.Current()
	if in.User != "" {
		if who, err = user.Lookup(in.User); err != nil {
			who, err = user.LookupId(in.User)
		}
		if err != nil {
			return nil, action.Errorf(action.Invalid, "the node has no user %q", in.User)
		}
		if spec.Credential, err = credential(who); err != nil {
			return nil, err
		}
	}
	if err == nil {
		env["USER"], env["LOGNAME"] = who.Username, who.Username
		if info, err := os.Stat(who.HomeDir); err == nil && info.IsDir() {
			env["HOME"] = who.HomeDir
		}
	}
	if n.Root != "" {
		env["HOME"], env["NODE_ROOT"] = n.Root, n.Root
		if bin := filepath.Join(n.Root, "bin"); isDir(bin) {
			env["PATH"] = bin + ":" + env["PATH"]
		}
	}
	spec.Dir = env["HOME"]
	if in.WorkingDirectory != "" {
		if spec.Dir, err = n.workingDirectory(in.WorkingDirectory); err != nil {
			return nil, err
		}
	}
	return env, nil
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

func (n Node) workingDirectory(dir string) (string, error) {
	what := "working_directory " + dir
	if n.Root == "" {
		if !filepath.IsAbs(dir) {
			return "", action.Errorf(action.Invalid, "%s is not an absolute path", what)
		}
		if _, err := os.Stat(dir); err != nil {
			return "", fileError(what, err)
		}
		if !isDir(dir) {
			return "", action.Errorf(action.Invalid, "%s is not a directory", what)
		}
		return dir, nil
	}
	root, err := os.OpenRoot(n.Root)
	if err != nil {
		return "", fileError("the node's root", err)
	}
	defer root.Close()
	inner := filepath.Join(".", filepath.Clean("/"+dir))
	sub, err := root.OpenRoot(inner) // refuses what leads out of the root
	if err != nil {
		return "", fileError(what, err)
	}
	sub.Close()
	return filepath.Join(n.Root, inner), nil
}

func credential(who *user.User) (*command.Credential, error) {
	uid, err := strconv.ParseUint(who.Uid, 10, 32)
	if err != nil {
		return nil, action.Errorf(action.Invalid, "user %s has no number", who.Username)
	}
	gid, err := strconv.ParseUint(who.Gid, 10, 32)
	if err != nil {
		return nil, action.Errorf(action.Invalid, "user %s has no group", who.Username)
	}
	if int(uid) == os.Geteuid() {
		return nil, nil
	}
	if os.Geteuid() != 0 {
		return nil, action.Errorf(action.Denied, "the agent does not run as root, and cannot run a command as %s", who.Username)
	}
	c := &command.Credential{UID: uint32(uid), GID: uint32(gid)}
	ids, err := who.GroupIds()
	if err != nil {
		ids = nil // the main group will have to do
	}
	for _, id := range ids {
		if g, err := strconv.ParseUint(id, 10, 32); err == nil {
			c.Groups = append(c.Groups, uint32(g))
		}
	}
	return c, nil
}

// validName tells whether shells can refer to a variable of that name.
func validName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}
