package aws

import (
	"encoding/base64"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/almanac-run/almanac/action"
)

// script is a script as it is sent to a node by AWS-RunShellScript or
// AWS-RunPowerShellScript.
//
// What is sent is a fixed text of ours. The script, its arguments and the values
// of its environment stand in it in base64 only: so nothing in them can end a
// quotation, and SSM finds no {{ parameter }} to put in. The text writes the
// script to a file and runs it with the values as its environment and arguments.
// Systems Manager's own way, a parameter that a document declares with
// interpolationType ENV_VAR, would need a document of ours in every account and
// region, and agents since 3.3.2746.0: older ones put the value into the text. The
// commands of AWS-RunShellScript are no such parameter.
//
// It runs it once. A second delivery, by SSM or because we sent again, waits for
// the lock, finds how the first one ended and answers the same. If the first one
// began and nobody knows how it ended (the node went down) it answers unknown.
type script struct {
	token, shell, text, dir string
	args                    []string
	env                     map[string]string
	stdin, user             string // on Linux
	again                   bool   // run it again if nobody knows how it ended
	repeat                  bool   // it is safe to repeat by itself: only a success is remembered
	home                    bool   // it begins in the home of its user, if dir is empty
	whole                   bool   // all that it wrote is shown, since SSM passes it on
}

// exitUnknown and saysUnknown are how the wrapper answers unknown.
const (
	exitUnknown = 198
	saysUnknown = "almanac: unknown: "
)

// By these exit codes a script asks SSM's agent to restart the machine and to run
// it again. Since the wrapper answers the same after the restart, that would go on
// for ever: SSM is told 1, and the code itself stands in front of standard error.
const (
	saysExit          = "almanac: exit code "
	saysBytes         = "almanac: bytes " // of standard output and standard error, where all of them is shown
	rebootCode        = 194
	rebootCodeWindows = 3010
)

var (
	envForm  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	userForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
)

// check refuses names that would not be names in the text that is sent, or that it needs itself.
func (s script) check() error {
	for _, name := range slices.Sorted(maps.Keys(s.env)) {
		if !envForm.MatchString(name) || strings.HasPrefix(strings.ToLower(name), "almanac_") {
			return action.Errorf(action.Invalid, "env: %q is no name of a variable, or begins with almanac_", name)
		}
	}
	if s.user != "" && !userForm.MatchString(s.user) {
		return action.Errorf(action.Invalid, "user: %q is no name of a user", s.user)
	}
	for what, values := range map[string][]string{"args": s.args, "env": slices.Collect(maps.Values(s.env)), "working_directory": {s.dir}} {
		if slices.ContainsFunc(values, func(v string) bool { return strings.ContainsRune(v, 0) }) {
			return action.Errorf(action.Invalid, "%s: a value has a zero byte, which no operating system takes", what)
		}
	}
	return nil
}

func b64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// lines is the text that is sent, for a shell on Linux.
func (s script) lines() []string {
	var values, export, args strings.Builder
	n := 0
	value := func(text string) string {
		n++
		// A command substitution drops newlines at the end: the dot stands behind them.
		fmt.Fprintf(&values, "    almanac_%d=$(printf %%s '%s' | base64 -d; printf .) && almanac_%d=${almanac_%d%%.} || exit 1\n", n, b64(text), n, n)
		return fmt.Sprintf(`"$almanac_%d"`, n)
	}
	for _, a := range s.args {
		args.WriteString(" " + value(a))
	}
	switch {
	case s.dir != "":
		fmt.Fprintf(&export, "    cd %s || exit 1\n", value(s.dir))
	case s.home:
		export.WriteString("    cd \"$HOME\" 2>/dev/null || cd / || exit 1\n")
	}
	for _, name := range slices.Sorted(maps.Keys(s.env)) {
		fmt.Fprintf(&export, "    export %s=%s\n", name, value(s.env[name]))
	}
	file, needs, as, mine, done := "script", "flock base64", "", "", ""
	if s.shell == "pwsh" {
		file = "script.ps1" // it wants the ending
	}
	stdin := "/dev/null"
	if s.stdin != "" {
		mine = "  printf %s '" + b64(s.stdin) + "' | base64 -d >\"$almanac_own/stdin\" || exit 1\n"
		stdin = `"$almanac_own/stdin"`
	}
	if s.user != "" {
		// Who runs it may not look into our directory: it reads a copy.
		needs += " runuser"
		as = "runuser -u '" + s.user + "' -- "
		mine += strings.NewReplacer("@USER@", s.user, "@FILE@", file).Replace(forUser)
		done = "  rm -rf \"$almanac_copy\"\n"
		home := "    export HOME=\"$almanac_home\" USER='" + s.user + "' LOGNAME='" + s.user + "'\n"
		rest := export.String()
		export.Reset()
		export.WriteString(home + rest)
	} else {
		mine += "  almanac_copy=$almanac_own\n"
		if s.home {
			home := "    [ -n \"${HOME:-}\" ] || export HOME=\"$(getent passwd \"$(id -u)\" | cut -d: -f6)\"\n"
			rest := export.String()
			export.Reset()
			export.WriteString(home + rest)
		}
	}
	with := ` "$almanac_copy/` + file + `"` + args.String()
	run := map[string]string{
		"":        "if command -v bash >/dev/null 2>&1; then exec " + as + "bash -e -o pipefail" + with + "; fi\n    exec " + as + "sh -e" + with,
		"bash":    "exec " + as + "bash -e -o pipefail" + with,
		"sh":      "exec " + as + "sh -e" + with,
		"pwsh":    "exec " + as + "pwsh -NoProfile -NonInteractive -File" + with,
		"python3": "exec " + as + "python3" + with,
	}[s.shell]
	text := strings.NewReplacer(
		"@TOKEN@", s.token, "@SCRIPT@", b64(s.text), "@RUN@", run, "@FILE@", file, "@NEEDS@", needs, "@STDIN@", stdin,
		"@MINE@\n", mine, "@DONE@\n", done, "@VALUES@\n", values.String(), "@EXPORT@\n", export.String(),
		"@AGAIN@", yes(s.again || s.repeat), "@REPEAT@", yes(s.repeat), "@WHOLE@", yes(s.whole),
		"@EXIT@", fmt.Sprint(exitUnknown), "@SAYS@", saysUnknown, "@SAYSEXIT@", saysExit, "@SAYSBYTES@", saysBytes, "@REBOOT@", fmt.Sprint(rebootCode),
	).Replace(onLinux)
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

func yes(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

const forUser = `  id -u '@USER@' >/dev/null 2>&1 || { echo "almanac: the node has no user @USER@" >&2; exit 1; }
  almanac_home=$(getent passwd '@USER@' | cut -d: -f6)
  almanac_copy=$(mktemp -d) && cp "$almanac_own/@FILE@" "$almanac_copy/@FILE@" && chown -R '@USER@' "$almanac_copy" || exit 1
`

const onLinux = `# Almanac runs this script once; a second delivery gets the result of the first.
umask 077
almanac_state=${ALMANAC_STATE_DIR:-/var/lib/almanac}/commands
almanac_own=$almanac_state/@TOKEN@
mkdir -p "$almanac_own" || exit 1
for almanac_need in @NEEDS@; do
  command -v "$almanac_need" >/dev/null 2>&1 || { echo "almanac: $almanac_need is not installed on this node" >&2; exit 1; }
done
exec 9>"$almanac_own/lock" && flock 9 || exit 1
if [ ! -e "$almanac_own/exit" ]; then
  if [ -e "$almanac_own/begun" ] && [ @AGAIN@ = no ]; then
    echo "@SAYS@this script began on this node before, and nobody knows how it ended; it is not run again. See $almanac_own" >&2
    exit @EXIT@
  fi
  printf %s '@SCRIPT@' | base64 -d >"$almanac_own/@FILE@" || exit 1
@MINE@
  : >"$almanac_own/begun"
  (
    exec 9>&- <@STDIN@
    umask 022
@VALUES@
@EXPORT@
    @RUN@
  ) >"$almanac_own/stdout" 2>"$almanac_own/stderr"
  echo $? >"$almanac_own/exit.new" && mv "$almanac_own/exit.new" "$almanac_own/exit" || exit 1
@DONE@
fi
almanac_show() {
  if [ @WHOLE@ = yes ] || [ "$(wc -c <"$1")" -le $(($2 + $3)) ]; then cat "$1"; return; fi
  head -c "$2" "$1"
  printf '\n[almanac: the middle is left out; all of it is in %s on the node]\n' "$1"
  tail -c "$3" "$1"
}
almanac_exit=$(cat "$almanac_own/exit")
if [ @WHOLE@ = yes ]; then echo "@SAYSBYTES@$(wc -c <"$almanac_own/stdout") $(wc -c <"$almanac_own/stderr")" >&2; fi
if [ @REPEAT@ = yes ] && [ "$almanac_exit" != 0 ]; then rm -f "$almanac_own/exit"; fi
if [ "$almanac_exit" = @REBOOT@ ]; then
  echo "@SAYSEXIT@$almanac_exit" >&2
  almanac_exit=1
fi
almanac_show "$almanac_own/stdout" 6000 14000
almanac_show "$almanac_own/stderr" 1500 5000 >&2
find "$almanac_state" -mindepth 1 -maxdepth 1 -mtime +30 -exec rm -rf {} + 2>/dev/null
exit "$almanac_exit"
`

// powershell is the text that is sent, for Windows.
func (s script) powershell() []string {
	value := func(text string) string { return "(Almanac-Text '" + b64(text) + "')" }
	var export strings.Builder
	var args []string
	for _, a := range s.args {
		args = append(args, value(a))
	}
	for _, name := range slices.Sorted(maps.Keys(s.env)) {
		fmt.Fprintf(&export, "    [Environment]::SetEnvironmentVariable('%s', %s, 'Process')\n", name, value(s.env[name]))
	}
	if s.dir != "" {
		fmt.Fprintf(&export, "    Set-Location -LiteralPath %s -ErrorAction Stop\n", value(s.dir))
	}
	stdout, stderr := "20000", "6500"
	if s.whole {
		stdout, stderr = "([int]::MaxValue)", "([int]::MaxValue)"
	}
	text := strings.NewReplacer(
		"@TOKEN@", s.token, "@SCRIPT@", value(s.text), "@ARGS@", strings.Join(args, ", "), "@EXPORT@\n", export.String(),
		"@AGAIN@", map[bool]string{true: "$true", false: "$false"}[s.again],
		"@EXIT@", fmt.Sprint(exitUnknown), "@SAYS@", saysUnknown, "@SAYSEXIT@", saysExit, "@REBOOT@", fmt.Sprint(rebootCodeWindows),
		"@STDOUT@", stdout, "@STDERR@", stderr,
	).Replace(onWindows)
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

const onWindows = `# Almanac runs this script once; a second delivery gets the result of the first.
function Almanac-Text($b) { [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($b)) }
function Almanac-Show($file, $most) {
  if (-not (Test-Path -LiteralPath $file)) { return '' }
  $text = [IO.File]::ReadAllText($file)
  if ($text.Length -le $most) { return $text }
  $head = [int]($most / 4)
  $text.Substring(0, $head) + [Environment]::NewLine + "[almanac: the middle is left out; all of it is in $file on the node]" + [Environment]::NewLine + $text.Substring($text.Length - $most + $head)
}
$almanacOwn = Join-Path $env:ProgramData 'Almanac\commands\@TOKEN@'
$almanacLock = New-Object System.Threading.Mutex($false, 'Global\almanac-@TOKEN@')
try { [void]$almanacLock.WaitOne() } catch [System.Threading.AbandonedMutexException] { }
[void](New-Item -ItemType Directory -Force -Path $almanacOwn -ErrorAction Stop)
if (-not (Test-Path -LiteralPath "$almanacOwn\exit")) {
  if ((Test-Path -LiteralPath "$almanacOwn\begun") -and -not @AGAIN@) {
    [Console]::Error.WriteLine("@SAYS@this script began on this node before, and nobody knows how it ended; it is not run again. See $almanacOwn")
    exit @EXIT@
  }
  [IO.File]::WriteAllText("$almanacOwn\script.ps1", @SCRIPT@, (New-Object Text.UTF8Encoding $true))
  [IO.File]::WriteAllText("$almanacOwn\begun", '')
  $almanacExit = 0
  try {
@EXPORT@
    $almanacArgs = @(@ARGS@)
    $global:LASTEXITCODE = 0
    & "$almanacOwn\script.ps1" @almanacArgs 1> "$almanacOwn\stdout" 2> "$almanacOwn\stderr"
    $almanacExit = $global:LASTEXITCODE
  } catch {
    [IO.File]::AppendAllText("$almanacOwn\stderr", ($_ | Out-String), [Text.Encoding]::Unicode)
    $almanacExit = 1
  }
  [IO.File]::WriteAllText("$almanacOwn\exit.new", "$almanacExit")
  Move-Item -LiteralPath "$almanacOwn\exit.new" -Destination "$almanacOwn\exit" -Force
}
$almanacExit = [int][IO.File]::ReadAllText("$almanacOwn\exit")
if ($almanacExit -eq @REBOOT@) {
  [Console]::Error.WriteLine("@SAYSEXIT@$almanacExit")
  $almanacExit = 1
}
[Console]::Out.Write((Almanac-Show "$almanacOwn\stdout" @STDOUT@))
[Console]::Error.Write((Almanac-Show "$almanacOwn\stderr" @STDERR@))
exit $almanacExit
`
