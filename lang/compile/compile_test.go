package compile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/lang/expr"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// The actions of the tests: one of every kind of input.

type commandIn struct {
	Script           string                   `json:"script" jsonschema:"what to run" code:"true"`
	Shell            string                   `json:"shell,omitempty" jsonschema:"what reads it" enum:"bash,sh,pwsh,python3"`
	Env              map[string]action.Secret `json:"env,omitempty" jsonschema:"environment"`
	WorkingDirectory string                   `json:"working_directory,omitempty" jsonschema:"where"`
	User             string                   `json:"user,omitempty" jsonschema:"as whom"`
	Idempotent       bool                     `json:"idempotent,omitempty" jsonschema:"may run twice"`
	Name             string                   `json:"name,omitempty" jsonschema:"shares its name with a key of steps"`
}

type commandOut struct {
	ExitCode int    `json:"exit_code" jsonschema:"how it ended"`
	Stdout   string `json:"stdout" jsonschema:"what it wrote"`
}

type machineIn struct {
	Image    string            `json:"image" jsonschema:"what it starts from"`
	Size     string            `json:"size,omitempty" jsonschema:"how large" enum:"small,large" default:"small"`
	Disks    []diskIn          `json:"disks,omitempty" jsonschema:"disks"`
	Tags     map[string]string `json:"tags,omitempty" jsonschema:"tags"`
	Count    int               `json:"count,omitempty" jsonschema:"how many"`
	Price    float64           `json:"price,omitempty" jsonschema:"at most"`
	Spot     bool              `json:"spot,omitempty" jsonschema:"may be taken away"`
	Lifetime action.Duration   `json:"lifetime,omitempty" jsonschema:"how long"`
	Until    time.Time         `json:"until,omitzero" jsonschema:"when it ends"`
	Password action.Secret     `json:"password,omitzero" jsonschema:"for root"`
	Extra    any               `json:"extra,omitempty" jsonschema:"anything"`
}

type diskIn struct {
	Kind string        `json:"kind" jsonschema:"which" enum:"ssd,hdd"`
	GB   int           `json:"gb,omitempty" jsonschema:"size"`
	Key  action.Secret `json:"key,omitzero" jsonschema:"encryption key"`
}

type machineOut struct {
	ID      string            `json:"id" jsonschema:"which"`
	Address string            `json:"address,omitempty" jsonschema:"if it has one"`
	Started time.Time         `json:"started" jsonschema:"when"`
	Boot    action.Duration   `json:"boot" jsonschema:"how long it took"`
	Disks   []string          `json:"disks" jsonschema:"ids"`
	Tags    map[string]string `json:"tags" jsonschema:"tags"`
}

type noIn struct{}
type noOut struct{}

type sayIn struct {
	Text string        `json:"text" jsonschema:"what to say"`
	URL  action.Secret `json:"url" jsonschema:"where"`
}

type regionalIn struct {
	Name   string `json:"name" jsonschema:"what to make"`
	Region string `json:"region,omitempty" jsonschema:"where"`
	Role   string `json:"role,omitempty" jsonschema:"as whom"`
}

type anyIn struct {
	Operation string         `json:"operation" jsonschema:"what to call"`
	Input     map[string]any `json:"input,omitempty" jsonschema:"what it takes"`
}

type anyOut struct {
	Output map[string]any `json:"output" jsonschema:"what it answers"`
}

// inspectAny knows that the operation "make" takes a list of names and answers a count.
func inspectAny(in map[string]any) (found action.Inspection) {
	if in["operation"] != "make" {
		return found
	}
	out := object("output", object("count", intType))
	found.Output = &out
	input, _ := in["input"].(map[string]any)
	if _, ok := input["Names"]; !ok {
		found.Problems = append(found.Problems, action.Problem{Path: []any{"input", "Names"}, Message: "Names is required"})
	}
	for key, v := range input {
		switch v := v.(type) {
		case []any:
			for i, name := range v {
				_, text := name.(string)
				if later, ok := name.(action.Later); !text && (!ok || later.Type.Kind != program.String) {
					found.Problems = append(found.Problems, action.Problem{Path: []any{"input", key, i}, Message: fmt.Sprintf("needs a string, got %v", name), Warning: key == "Doubtful"})
				}
			}
		default:
			found.Problems = append(found.Problems, action.Problem{Path: []any{"input", key}, Name: true, Message: "no such member"})
		}
	}
	return found
}

func infos() []action.Info {
	nothing := func(context.Context, noIn) (noOut, error) { return noOut{}, nil }
	return []action.Info{
		action.New(action.Def[commandIn, commandOut]{Name: "host.command.run", Summary: "Run a script",
			Do: func(context.Context, commandIn) (commandOut, error) { return commandOut{}, nil }}).Info,
		action.New(action.Def[noIn, noOut]{Name: "host.service.restart", Summary: "Restart a service", Do: nothing, Timeout: time.Minute}).Info,
		action.New(action.Def[machineIn, machineOut]{Name: "cloud.machine.create", Summary: "Create a machine",
			Do:         func(context.Context, machineIn) (machineOut, error) { return machineOut{}, nil },
			Compensate: func(context.Context, machineIn, *machineOut) error { return nil }}).Info,
		action.New(action.Def[regionalIn, noOut]{Name: "aws.thing.make", Summary: "Make a thing in a region",
			Do: func(context.Context, regionalIn) (noOut, error) { return noOut{}, nil }}).Info,
		action.New(action.Def[anyIn, anyOut]{Name: "any.call", Summary: "Call something", Inspect: inspectAny,
			Do: func(context.Context, anyIn) (anyOut, error) { return anyOut{}, nil }}).Info,
		action.New(action.Def[sayIn, noOut]{Name: "notify.say", Summary: "Say something",
			Do: func(context.Context, sayIn) (noOut, error) { return noOut{}, nil }}).Info,
		action.New(action.Def[noIn, noOut]{Name: "noop", Summary: "Do nothing", Do: nothing}).Info,
	}
}

// library serves the files of an archive as runbooks: sub/child.yaml is "sub/child".
func library(files []txtar.File) Options {
	opts := Options{Actions: infos()}
	opts.Runbook = func(name string) (string, []byte, error) {
		for _, f := range files {
			if f.Name == name+".yaml" {
				return f.Name, f.Data, nil
			}
		}
		return "", nil, fs.ErrNotExist
	}
	for _, f := range files {
		if name, ok := strings.CutSuffix(f.Name, ".yaml"); ok && name != "runbook" {
			opts.Runbooks = append(opts.Runbooks, name)
		}
	}
	return opts
}

// archives calls f with every archive of a folder in testdata. f returns what
// the file `want` should hold.
func archives(t *testing.T, folder, want string, f func(t *testing.T, files []txtar.File) []byte) {
	paths, err := filepath.Glob(filepath.Join("testdata", folder, "*.txtar"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no archives in %s: %v", folder, err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if len(strings.TrimSpace(string(ar.Comment))) == 0 {
				t.Error("the first lines must say what the case shows")
			}
			got := f(t, ar.Files)
			i := slices.IndexFunc(ar.Files, func(f txtar.File) bool { return f.Name == want })
			if os.Getenv("UPDATE") != "" {
				if i < 0 {
					ar.Files = append(ar.Files, txtar.File{Name: want, Data: got})
				} else {
					ar.Files[i].Data = got
				}
				if err := os.WriteFile(path, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if i < 0 {
				t.Fatalf("no %s in the archive; UPDATE=1 writes it", want)
			}
			if diff := cmp.Diff(string(ar.Files[i].Data), string(got)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", want, diff)
			}
		})
	}
}

func TestOK(t *testing.T) {
	archives(t, "ok", "program.json", func(t *testing.T, files []txtar.File) []byte {
		prog, diags := Compile("runbook.yaml", files[0].Data, library(files))
		for _, d := range diags {
			t.Errorf("%s (%s)", d, d.Code)
		}
		if prog == nil {
			return nil
		}
		checkRoundTrip(t, prog)
		prog.Digest = "" // changes with every comment
		for _, c := range prog.Children {
			c.Digest = ""
		}
		raw, err := json.MarshalIndent(prog, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		return append(raw, '\n')
	})
}

func checkRoundTrip(t *testing.T, prog *program.Program) {
	t.Helper()
	raw, err := json.Marshal(prog)
	if err != nil {
		t.Fatal(err)
	}
	var back program.Program
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	again, err := json.Marshal(&back)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, again) {
		t.Errorf("read back and written again:\n%s", cmp.Diff(string(raw), string(again)))
	}
}

// A line of expected diagnostics is "file:line:col: message [code]".
func TestErr(t *testing.T) {
	archives(t, "err", "diagnostics", func(t *testing.T, files []txtar.File) []byte {
		prog, diags := Compile("runbook.yaml", files[0].Data, library(files))
		if failed(diags) != (prog == nil) {
			t.Errorf("program %v with diagnostics %v", prog, diags)
		}
		var b bytes.Buffer
		for _, d := range diags {
			fmt.Fprintf(&b, "%s [%s]\n", d, d.Code)
		}
		return b.Bytes()
	})
}

// TestCodes holds the cases against the source: a code that no case shows, or
// that no source has, fails.
func TestCodes(t *testing.T) {
	if os.Getenv("UPDATE") != "" {
		t.Skip("the cases are being rewritten")
	}
	inSource := map[string]bool{}
	for _, pattern := range []string{"*.go", "../syntax/*.go"} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			src, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`(?:errorf|errorAt|warnf)\([^"\n]*"([a-z0-9-]+)",|Code: "([a-z0-9-]+)"`).FindAllStringSubmatch(string(src), -1) {
				inSource[m[1]+m[2]] = true
			}
		}
	}
	for _, code := range []string{expr.CodeSyntax, expr.CodeReference, expr.CodeUnguarded, expr.CodeType, expr.CodeSecret, expr.CodeExpensive, expr.CodeUnsupported} {
		inSource[code] = true
	}
	shown := map[string]bool{}
	paths, _ := filepath.Glob("testdata/err/*.txtar")
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, diagnostics, _ := strings.Cut(string(text), "-- diagnostics --\n")
		for _, m := range regexp.MustCompile(`(?m) \[([a-z0-9-]+)\]$`).FindAllStringSubmatch(diagnostics, -1) {
			shown[m[1]] = true
			if !inSource[m[1]] {
				t.Errorf("%s shows the code %s, which no source has", path, m[1])
			}
		}
	}
	elsewhere := map[string]bool{ // shown by tests of their own, since they need bytes or sizes
		"too-large": true, "invalid-utf8": true, "invalid-character": true, "too-deep": true, "program-too-large": true,
	}
	for code := range inSource {
		if !shown[code] && !elsewhere[code] {
			t.Errorf("no case in testdata/err shows the code %s", code)
		}
	}
}

func TestProgramTooLarge(t *testing.T) {
	var b strings.Builder
	b.WriteString("runbook: large\nsteps:\n")
	for range 300 {
		fmt.Fprintf(&b, "  - targets: [a]\n    run: |\n      %s\n", strings.Repeat("x", 3300))
	}
	prog, diags := Compile("large.yaml", []byte(b.String()), Options{Actions: infos()})
	if prog != nil || len(diags) != 1 || diags[0].Code != "program-too-large" || !strings.Contains(diags[0].Message, "bytes") {
		t.Errorf("%v", diags)
	}
}

// A file that is wrong everywhere is told so often enough, and in time.
func TestManyMistakes(t *testing.T) {
	var b strings.Builder
	b.WriteString("runbook: many\ninputs:\n")
	for i := range 300 {
		fmt.Fprintf(&b, "  input_%d: { type: int, default: 1 }\n", i)
	}
	b.WriteString("steps:\n")
	for i := range 3000 {
		fmt.Fprintf(&b, "  - assert: inputs.inptu_%d > 1\n", i)
	}
	start := time.Now()
	prog, diags := Compile("many.yaml", []byte(b.String()), Options{Actions: infos()})
	if took := time.Since(start); prog != nil || len(diags) != maxDiagnostics || took > 5*time.Second {
		t.Errorf("%d diagnostics in %v", len(diags), took)
	}
}

func FuzzCompile(f *testing.F) {
	for _, pattern := range []string{"testdata/ok/*.txtar", "testdata/err/*.txtar"} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			ar, err := txtar.ParseFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(ar.Files[0].Data)
		}
	}
	opts := Options{Actions: infos(), Runbook: func(name string) (string, []byte, error) {
		if name == "child" {
			return "child.yaml", []byte("runbook: child\ninputs: { a: { type: string, default: x } }\nsteps: [ { assert: inputs.a != \"\" } ]\n"), nil
		}
		return "", nil, fs.ErrNotExist
	}}
	f.Fuzz(func(t *testing.T, source []byte) {
		prog, diags := Compile("f.yaml", source, opts)
		if (prog == nil) != failed(diags) {
			t.Fatalf("program %v with %v", prog != nil, diags)
		}
		for _, d := range diags {
			if d.Code == "" || d.Message == "" || d.Pos.Line < 1 || d.Pos.Col < 1 {
				t.Errorf("diagnostic without code, message or place: %#v", d)
			}
		}
		again, diagsAgain := Compile("f.yaml", source, opts)
		a, errA := json.Marshal(prog)
		b, errB := json.Marshal(again)
		if errA != nil || errB != nil || !bytes.Equal(a, b) || !slices.Equal(diags, diagsAgain) {
			t.Errorf("compiled twice:\n%s %v\n%s %v", a, diags, b, diagsAgain)
		}
		if prog != nil {
			checkRoundTrip(t, prog)
		}
	})
}

// thousand is a runbook of 1,000 steps as people write them.
func thousand() []byte {
	var b strings.Builder
	b.WriteString("runbook: large\ninputs:\n  image: { type: string }\n  on: { type: bool, default: true }\nsteps:\n")
	for i := 0; i < 1000; i += 4 {
		fmt.Fprintf(&b, `  - id: create_%d
    name: Create machine %d
    action: cloud.machine.create
    with: { image: "${{ inputs.image }}-%d", count: %d, tags: { env: prod } }
  - id: run_on_%d
    targets: [ "${{ steps.create_%d.id }}" ]
    env: { ID: "${{ steps.create_%d.id }}" }
    run: echo "$ID"
  - id: maybe_%d
    if: inputs.on && steps.run_on_%d.exit_code == 0
    action: noop
  - assert: steps.run_on_%d.stdout.startsWith("i") || size(steps.create_%d.disks) > %d
    message: machine %d said ${{ steps.run_on_%d.stdout }}
`, i, i, i, i, i, i, i, i, i, i, i, i, i, i)
	}
	return []byte(b.String())
}

// BenchmarkThousandSteps has a bar: 100 ms.
func BenchmarkThousandSteps(b *testing.B) {
	source := thousand()
	opts := Options{Actions: infos()}
	b.ReportAllocs()
	for b.Loop() {
		if prog, diags := Compile("large.yaml", source, opts); prog == nil {
			b.Fatal(diags)
		}
	}
}
