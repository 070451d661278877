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
//
// It runs it once. A second delivery, by SSM or because we sent again, waits for
// the lock, finds how the first one ended and answers the same. If the first one
// began and nobody knows how it ended (the node went down) it answers unknown.
type script struct {
	token, shell, text, dir string
	args                    []string
	env                     map[string]string
	again                   bool // run it again if nobody knows how it ended
}

// exitUnknown and saysUnknown are how the wrapper answers unknown.
const (
	exitUnknown = 198
	saysUnknown = "almanac: unknown: "
)

var envForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// check refuses names that would not be names in the text that is sent, or that it needs itself.
func (s script) check() error {
	for _, name := range slices.Sorted(maps.Keys(s.env)) {
		if !envForm.MatchString(name) || strings.HasPrefix(strings.ToLower(name), "almanac_") {
			return action.Errorf(action.Invalid, "env: %q is no name of a variable, or begins with almanac_", name)
		}
	}
	for what, values := range map[string][]string{"args": s.args, "env": slices.Collect(maps.Values(s.env))} {
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
	if s.dir != "" {
		fmt.Fprintf(&export, "    cd %s || exit 1\n", value(s.dir))
	}
	for _, name := range slices.Sorted(maps.Keys(s.env)) {
		fmt.Fprintf(&export, "    export %s=%s\n", name, value(s.env[name]))
	}
	with := ` "$almanac_own/script"` + args.String()
	run := map[string]string{
		"":        "if command -v bash >/dev/null 2>&1; then exec bash -e -o pipefail" + with + "; fi\n    exec sh -e" + with,
		"bash":    "exec bash -e -o pipefail" + with,
		"sh":      "exec sh -e" + with,
		"python3": "exec python3" + with,
	}[s.shell]
	text := strings.NewReplacer(
		"@TOKEN@", s.token, "@SCRIPT@", b64(s.text), "@RUN@", run,
		"@VALUES@\n", values.String(), "@EXPORT@\n", export.String(),
		"@AGAIN@", map[bool]string{true: "yes", false: "no"}[s.again],
		"@EXIT@", fmt.Sprint(exitUnknown), "@SAYS@", saysUnknown,
	).Replace(onLinux)
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

const onLinux = `# Almanac runs this script once; a second delivery gets the result of the first.
umask 077
almanac_state=${ALMANAC_STATE_DIR:-/var/lib/almanac}/commands
almanac_own=$almanac_state/@TOKEN@
mkdir -p "$almanac_own" || exit 1
for almanac_need in flock base64; do
  command -v "$almanac_need" >/dev/null 2>&1 || { echo "almanac: $almanac_need is not installed on this node" >&2; exit 1; }
done
exec 9>"$almanac_own/lock" && flock 9 || exit 1
if [ ! -e "$almanac_own/exit" ]; then
  if [ -e "$almanac_own/begun" ] && [ @AGAIN@ = no ]; then
    echo "@SAYS@this script began on this node before, and nobody knows how it ended; it is not run again. See $almanac_own" >&2
    exit @EXIT@
  fi
  printf %s '@SCRIPT@' | base64 -d >"$almanac_own/script" || exit 1
  : >"$almanac_own/begun"
  (
    exec 9>&- </dev/null
    umask 022
@VALUES@
@EXPORT@
    @RUN@
  ) >"$almanac_own/stdout" 2>"$almanac_own/stderr"
  echo $? >"$almanac_own/exit.new" && mv "$almanac_own/exit.new" "$almanac_own/exit" || exit 1
fi
almanac_show() {
  if [ "$(wc -c <"$1")" -le $(($2 + $3)) ]; then cat "$1"; return; fi
  head -c "$2" "$1"
  printf '\n[almanac: the middle is left out; all of it is in %s on the node]\n' "$1"
  tail -c "$3" "$1"
}
almanac_show "$almanac_own/stdout" 6000 14000
almanac_show "$almanac_own/stderr" 1500 5000 >&2
almanac_exit=$(cat "$almanac_own/exit")
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
	text := strings.NewReplacer(
		"@TOKEN@", s.token, "@SCRIPT@", value(s.text), "@ARGS@", strings.Join(args, ", "), "@EXPORT@\n", export.String(),
		"@AGAIN@", map[bool]string{true: "$true", false: "$false"}[s.again],
		"@EXIT@", fmt.Sprint(exitUnknown), "@SAYS@", saysUnknown,
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
[Console]::Out.Write((Almanac-Show "$almanacOwn\stdout" 20000))
[Console]::Error.Write((Almanac-Show "$almanacOwn\stderr" 6500))
exit [int][IO.File]::ReadAllText("$almanacOwn\exit")
`
