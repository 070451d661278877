// Package arch holds the picture of the packages: which may know which. It has
// tests only. A package that is new gets its place in layers; a rule that is in
// the way is a decision to discuss, and its reason stands beside it.
package arch

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/almanac-run/almanac"

// layers, lowest first. A package imports packages of the layers before its own
// only: not the layers above, and not its neighbours.
var layers = []struct {
	why      string
	packages []string
}{
	{"plain data and arithmetic, and what talks to the machine only", []string{
		"lang/program", "fleet", "runbooks", "internal/output", "internal/secret", "internal/journal", "internal/dial",
		"internal/docs", "internal/registry", "internal/memory", "internal/report", "internal/instance", "internal/codec",
		"internal/worklog", "internal/pgtest", "internal/pgtext",
	}},
	{"YAML with places becomes data; commands survive their agent; outputs are brought to the central store, and removed when they are old", []string{
		"lang/syntax", "internal/command", "internal/settings", "internal/output/ship", "internal/output/retain", "internal/output/postgres",
	}},
	{"what an action is, what an expression means, and what AWS takes; they do not know each other", []string{"action", "lang/expr", "internal/awsapi"}},
	{"outputs in S3, by the one caller of AWS", []string{"internal/output/s3"}},
	{"one careful HTTP caller for all actions that call", []string{"internal/httpcall"}},
	{"which updates a baseline wants: its rules are expressions", []string{"patch"}},
	{"a baseline as a file, apart so that nodes link no YAML", []string{"patch/baseline"}},
	{"what a machine's package manager says, in the words of baselines", []string{"internal/packages"}},
	{"what is known of nodes, as data", []string{"internal/inventory"}},
	{"facts are found on nodes, kept by the control worker, and judged by rules; none of these knows the others", []string{
		"internal/inventory/collect", "internal/inventory/store", "internal/inventory/rules",
	}},
	{"a simulated cloud behind the one caller of AWS, and the secrets that AWS keeps", []string{"internal/simcloud", "internal/awssecret"}},
	{"the work. The interpreter calls actions by name: so others add workers with actions of their own, and a workflow never compiles", []string{
		"lang/compile", "workflows", "activities", "activities/aws", "activities/host", "activities/http", "activities/notify",
	}},
	{"the work of host on nodes that only Systems Manager reaches, done by that of aws; the list of all actions", []string{"internal/ssmnode", "internal/catalog"}},
	{"an execution in memory, for rehearsals and tests", []string{"internal/rehearse/play"}},
	{"the inventory's answers to questions", []string{"internal/inventory/serve"}},
	{"what operators see of the work", []string{"internal/telemetry"}},
	{"decrypting for people", []string{"internal/codecserver"}},
	{"bodies of programs: everything above main that is worth a test", []string{
		"internal/control", "internal/node", "internal/rehearse", "internal/runview", "internal/sweep", "internal/trace",
	}},
	{"the simulated AWS of rehearsals, apart so that who rehearses without it does not link AWS's SDK", []string{"internal/rehearse/awscloud"}},
	{"programs", []string{"starter", "worker", "agent", "internal/awsapi/pack"}},
}

// only says who may import something, and why it is nobody else. An entry that
// ends in / means everything below it.
var only = []struct {
	what, why string
	may       []string
}{
	{"cel.dev/cel-go/", "one package knows CEL, so that cost limits and determinism have one home", []string{"lang/expr"}},
	{"github.com/google/cel-go/", "the old name of cel.dev/cel-go", nil},
	{"gopkg.in/yaml.v3", "one package guards against what YAML lets through; the starter reads files of inputs, the worker and the agent files of settings", []string{"lang/syntax", "starter", "internal/settings"}},
	{"go.temporal.io/sdk/workflow", "only what runs as a workflow may speak as one; play stands in for the server", []string{"workflows", "internal/rehearse/play"}},
	{"go.temporal.io/sdk/client", "who talks to the server is a program", []string{"internal/dial", "internal/control", "internal/telemetry", "internal/node", "internal/rehearse/play", "internal/runview", "starter", "worker"}},
	{"go.temporal.io/server/", "the server's weight stays in dev, a module of its own", nil},
	{"github.com/aws/aws-sdk-go-v2/service/", "one generic caller speaks to every service; each generated client would cost minutes to build", nil},
	{"github.com/aws/", "one package talks to AWS, so that credentials, retry and rate limits have one home", []string{"internal/awsapi"}},
	{"github.com/spf13/cobra", "flags belong to programs", []string{"starter", "worker", "agent"}},
	{"database/sql", "one package speaks SQL, so that there is one schema", []string{"internal/inventory/store"}},
	{"modernc.org/sqlite", "a driver of the inventory store", []string{"internal/inventory/store"}},
	{"github.com/jackc/pgx/v5/", "a driver of the inventory store; outputs are large objects, which database/sql does not have", []string{"internal/inventory/store", "internal/output/postgres"}},
	{"github.com/johannesboyne/gofakes3/", "it stands for S3 in tests only", nil},
	{"github.com/pressly/goose/v3", "it makes the tables of the inventory store", []string{"internal/inventory/store"}},
	{"net/http", "a workflow, a compiler and a node's actions call nobody", []string{
		"internal/httpcall", "internal/awsapi", "activities/http", "activities/notify", "starter",
		"internal/codecserver", "internal/telemetry",
		"internal/instance", // the metadata service of EC2, which is on the machine's own link and has no other protocol
	}},
	{"math/rand", "chance is not repeatable", nil},
	{"math/rand/v2", "chance is not repeatable", nil},
	{"unsafe", "nothing here is worth it", nil},
}

// names that say nothing about what is inside.
var nameless = []string{"util", "utils", "common", "types", "helpers", "misc", "shared", "base", "lib", "pkg", "cmd"}

// breaches lists what is wrong with a package that imports these.
func breaches(pkg string, imports []string) []string {
	var wrong []string
	if slices.Contains(nameless, path.Base(pkg)) {
		wrong = append(wrong, fmt.Sprintf("%s: the name says nothing about what is inside", pkg))
	}
	mine := layerOf(pkg)
	if mine < 0 {
		wrong = append(wrong, fmt.Sprintf("%s: has no place in the layers; give it one in internal/arch", pkg))
	}
	for _, imp := range imports {
		if inner, ok := strings.CutPrefix(imp, module+"/"); ok && mine >= 0 {
			if theirs := layerOf(inner); theirs >= mine {
				wrong = append(wrong, fmt.Sprintf("%s imports %s, which is not below it (%s)", pkg, inner, layers[mine].why))
			}
		}
		for _, rule := range only {
			match := imp == strings.TrimSuffix(rule.what, "/") || strings.HasSuffix(rule.what, "/") && strings.HasPrefix(imp, rule.what)
			if match && !slices.Contains(rule.may, pkg) {
				wrong = append(wrong, fmt.Sprintf("%s imports %s: %s", pkg, imp, rule.why))
			}
		}
	}
	return wrong
}

func layerOf(pkg string) int {
	return slices.IndexFunc(layers, func(l struct {
		why      string
		packages []string
	}) bool {
		return slices.Contains(l.packages, pkg)
	})
}

func TestPicture(t *testing.T) {
	packages := read(t, "../..")
	for pkg, imports := range packages {
		for _, wrong := range breaches(pkg, imports) {
			t.Error(wrong)
		}
	}
	for _, l := range layers {
		for _, pkg := range l.packages {
			if _, ok := packages[pkg]; !ok {
				t.Errorf("%s is in the layers, but there is no such package", pkg)
			}
		}
	}
}

// read returns the imports of every package of this module, tests left out.
func read(t *testing.T, root string) map[string][]string {
	t.Helper()
	packages := map[string][]string{}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			// A directory with a go.mod is another module; what begins with a dot or is testdata is no package.
			_, err := os.Stat(filepath.Join(file, "go.mod"))
			if err == nil && rel != "." || d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && rel != "." {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg := path.Dir(rel)
		packages[pkg] = append(packages[pkg], []string{}...)
		for _, spec := range parsed.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if !slices.Contains(packages[pkg], imp) {
				packages[pkg] = append(packages[pkg], imp)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return packages
}

// The rules catch what they are there for.
func TestRulesCatch(t *testing.T) {
	tests := []struct {
		pkg, imports string
		says         string // empty: nothing is wrong
	}{
		{"workflows", module + "/activities", "not below"},
		{"workflows", module + "/activities/host", "not below"},
		{"workflows", module + "/lang/compile", "not below"},
		{"lang/compile", module + "/activities/host", "not below"},
		{"lang/program", module + "/lang/syntax", "not below"},
		{"action", module + "/lang/expr", "not below"},
		{"lang/expr", module + "/action", "not below"},
		{"activities/http", module + "/activities/notify", "not below"},
		{"activities/host", module + "/activities", "not below"},
		{"internal/output", module + "/action", "not below"},
		{"internal/node", module + "/agent", "not below"},
		{"workflows", "cel.dev/cel-go/cel", "one package knows CEL"},
		{"workflows", "cel.dev/cel-go", "one package knows CEL"},
		{"lang/compile", "gopkg.in/yaml.v3", "one package guards"},
		{"starter", "go.temporal.io/server/temporal", "stays in dev"},
		{"activities/host", "go.temporal.io/sdk/workflow", "may speak as one"},
		{"internal/node", "github.com/aws/aws-sdk-go-v2/config", "one package talks to AWS"},
		{"internal/awsapi", "github.com/aws/aws-sdk-go-v2/service/ec2", "one generic caller"},
		{"internal/awsapi", "github.com/aws/aws-sdk-go-v2/config", ""},
		{"internal/awsapi", module + "/action", "not below"},
		{"action", module + "/internal/awsapi", "not below"},
		{"workflows", "math/rand/v2", "not repeatable"},
		{"workflows", "net/http", "call nobody"},
		{"internal/control", "database/sql", "one package speaks SQL"},
		{"internal/control", "github.com/jackc/pgx/v5/stdlib", "a driver"},
		{"internal/inventory/rules", module + "/internal/inventory/store", "not below"},
		{"activities/host", module + "/internal/inventory/serve", "not below"},
		{"internal/util", "fmt", "says nothing"},
		{"internal/new", "fmt", "no place in the layers"},
		{"workflows", module + "/action", ""},
		{"workflows", "fmt", ""},
		{"lang/expr", "cel.dev/cel-go/common/types", ""},
		{"starter", module + "/lang/compile", ""},
	}
	for _, tt := range tests {
		wrong := strings.Join(breaches(tt.pkg, []string{tt.imports}), "\n")
		if tt.says == "" && wrong != "" || !strings.Contains(wrong, tt.says) {
			t.Errorf("%s imports %s: %q, want %q", tt.pkg, tt.imports, wrong, tt.says)
		}
	}
}

// heavy must not be in a program, directly or through anything else.
var heavy = []struct{ program, what, why string }{
	{"agent", "github.com/aws/", "an agent holds no cloud's SDK"},
	{"agent", "go.temporal.io/server/", "an agent is not a server"},
	{"agent", "modernc.org/sqlite", "facts leave the node, and the control worker keeps them"},
	{"agent", module + "/internal/inventory/store", "facts leave the node, and the control worker keeps them"},
	{"agent", "github.com/jackc/pgx/v5/", "outputs leave the node, and the control worker keeps them"},
	{"worker", "github.com/johannesboyne/gofakes3/", "it stands for S3 in tests only"},
	{"agent", module + "/lang/syntax", "an agent gets values, not files; the rules of a baseline are the only expressions it evaluates"},
	{"agent", module + "/lang/compile", "an agent never compiles"},
	{"agent", module + "/workflows", "an agent runs no workflow"},
	{"agent", "github.com/prometheus/", "what a node does is counted and traced by the worker"},
	{"agent", "go.opentelemetry.io/", "what a node does is counted and traced by the worker"},
	{"worker", "go.temporal.io/server/", "the server's weight stays in dev"},
	{"worker", module + "/lang/compile", "a workflow never compiles"},
	{"worker", module + "/lang/syntax", "a workflow never reads YAML"},
	{"starter", "go.temporal.io/server/", "the server's weight stays in dev"},
	{"starter", "modernc.org/sqlite", "the starter asks the control worker, which has the database"},
	{"starter", module + "/internal/inventory/store", "the starter asks the control worker, which has the database"},
}

func TestPrograms(t *testing.T) {
	deps := map[string][]string{}
	for _, h := range heavy {
		if deps[h.program] == nil {
			cmd := exec.Command("go", "list", "-deps", "./"+h.program)
			cmd.Dir = "../.."
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("go list -deps ./%s: %v", h.program, err)
			}
			deps[h.program] = strings.Fields(string(out))
			if !slices.Contains(deps[h.program], "go.temporal.io/sdk/client") {
				t.Errorf("%s does not link Temporal's client: this list is not what it links", h.program)
			}
		}
		for _, dep := range deps[h.program] {
			if strings.HasPrefix(dep+"/", strings.TrimSuffix(h.what, "/")+"/") || strings.HasSuffix(h.what, "/") && strings.HasPrefix(dep, h.what) {
				t.Errorf("%s links %s: %s", h.program, dep, h.why)
			}
		}
	}
}
