package crash

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/almanac-run/almanac/internal/catalog"
	"github.com/almanac-run/almanac/lang/compile"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// subject is a runbook and what it has to come to, wherever something dies.
type subject struct {
	name    string
	source  string
	called  map[string]string // runbooks that it calls
	nodes   bool              // it runs on three agents
	outcome workflows.Outcome
	want    []string // each effect as often as it stands here, in any order
	lives   []string // what is there in the end

	cancelAt string // a point at which a cancel finds work to stop and to take back

	// loose: a step is not tried again, so that what is done depends on where
	// something dies. Some of want is done, and all of it taken back.
	loose bool
}

// All but errors fail at their end: their points are those of the way there, and those
// of the rollback.
var subjects = []*subject{
	{
		// An image is built, copied to two regions and shared, and tried on an instance that goes again.
		name: "image", cancelAt: "effect make share-west#1:after", outcome: workflows.RolledBack,
		source: `
runbook: crash/image
steps:
  - { id: builder, action: crash.make, with: { name: builder } }
  - { id: image, action: crash.make, with: { name: image } }
  - id: regions
    for_each: [east, west]
    max_concurrency: 2
    steps:
      - { id: copy, action: crash.make, with: { name: "copy-${{ item }}", of: "${{ steps.image.id }}" } }
      - { id: share, action: crash.make, with: { name: "share-${{ item }}", of: "${{ steps.copy.id }}" } }
  - { id: instance, action: crash.make, with: { name: instance, of: "${{ steps.image.id }}" } }
  - { id: boots, wait: 200ms }
  - { id: ended, action: crash.drop, with: { name: instance, id: "${{ steps.instance.id }}" } }
  - { id: published, action: crash.fail, with: { name: published } }
finally:
  - { id: report, action: crash.note, with: { name: report } }
`,
		want: []string{
			"make builder", "make image", "make copy-east", "make copy-west", "make share-east", "make share-west", "make instance",
			"drop instance", "take share-east", "take share-west", "take copy-east", "take copy-west", "take image", "take builder", "note report",
		},
	},
	{
		// A canary node, then the other two; one of them fails, and all go back. The commands are real ones.
		name: "batches", cancelAt: "command start roll@b#1:at", outcome: workflows.RolledBack, nodes: true,
		source: `
runbook: crash/batches
inputs:
  dir: { type: string }
  nodes: { type: list<string> }
steps:
  - id: config
    targets: { nodes: "${{ inputs.nodes }}", batches: [1, 2] }
    action: host.file.write
    with: { path: /config, content: new }
  - id: roll
    targets: { nodes: "${{ inputs.nodes }}", batches: [1, 2], bake: 100ms, gate: size(result.failed) == 0 }
    env: { DIR: "${{ inputs.dir }}" }
    run: |
      point start
      effect make app
      point exit
      case $ALMANAC_NODE in *-c) exit 1 ;; esac
    rollback:
      targets: ${{ inputs.nodes }}
      env: { DIR: "${{ inputs.dir }}" }
      run: |
        point undo
        effect take app
        point undone
`,
		want: []string{"make app@a", "make app@b", "make app@c", "take app@a", "take app@b", "take app@c"},
	},
	{
		// What a called runbook has made, its caller takes back. The driver approves three times.
		name: "children", cancelAt: "RespondWorkflowTaskCompleted second asks for nothing#1:after", outcome: workflows.RolledBack,
		source: `
runbook: crash/children
steps:
  - { id: base, action: crash.make, with: { name: base } }
  - { id: first, runbook: crash/kid, with: { name: one } }
  - { id: settle, wait: 200ms }
  - { id: ok, approval: { message: "Go on?" } }
  - { id: second, runbook: crash/kid, with: { name: two } }
  - { id: broken, action: crash.fail, with: { name: broken } }
finally:
  - { id: report, action: crash.note, with: { name: report } }
`,
		called: map[string]string{"crash/kid": `
runbook: crash/kid
inputs:
  name: { type: string }
steps:
  - { id: low, action: crash.make, with: { name: "${{ inputs.name }} low" } }
  - { id: ok, approval: { message: "Go on?" } }
  - { id: nap, wait: 100ms }
  - { id: high, action: crash.make, with: { name: "${{ inputs.name }} high" } }
`},
		want: []string{
			"make base", "make one low", "make one high", "make two low", "make two high",
			"take two high", "take two low", "take one high", "take one low", "take base", "note report",
		},
	},
	{
		// Errors that are tried again, handled, and passed over; a lock is held all the while.
		name: "errors", cancelAt: "effect make instead#1:after", outcome: workflows.Succeeded,
		source: `
runbook: crash/errors
lock: ${{ execution.id }}
steps:
  - { id: kept, action: crash.make, with: { name: kept } }
  - id: tried
    retry: { attempts: 2, backoff: 100ms }
    steps:
      - { id: first, action: crash.make, with: { name: tried } }
      - { id: flaky, action: crash.flaky, with: { name: flaky } }
  - id: caught
    action: crash.fail
    with: { name: caught }
    on_error:
      steps:
        - { id: instead, action: crash.make, with: { name: instead } }
  - id: passed
    on_error: continue
    steps:
      - { id: half, action: crash.make, with: { name: half } }
      - { id: broken, action: crash.fail, with: { name: broken } }
finally:
  - { id: report, action: crash.note, with: { name: report } }
`,
		want: []string{
			"make kept", "make tried", "note flaky", "take tried", "make tried", "note flaky", "make instead", "make half", "note report",
		},
		lives: []string{"kept", "tried", "instead", "half"},
	},
	{
		// Steps that are not tried again: whose reply is lost has failed, and is taken back nevertheless.
		name: "lost", cancelAt: "effect make s2#1:after", outcome: workflows.RolledBack, loose: true,
		source: `
runbook: crash/lost
steps:
  - { id: s1, action: crash.make, with: { name: s1 } }
  - { id: s2, action: crash.make, with: { name: s2 }, retry: { attempts: 1 } }
  - { id: s3, action: crash.make, with: { name: s3 }, retry: { attempts: 1 } }
  - { id: broken, action: crash.fail, with: { name: broken } }
`,
		want: []string{"make s1", "make s2", "make s3", "take s3", "take s2", "take s1"},
	},
}

func subjectOf(t *testing.T, name string) *subject {
	t.Helper()
	for _, s := range subjects {
		if s.name == name {
			return s
		}
	}
	t.Fatalf("there is no runbook %q here", name)
	return nil
}

func (s *subject) compile(t *testing.T) *program.Program {
	t.Helper()
	infos := catalog.Actions()
	for _, a := range new(world).actions() {
		infos = append(infos, a.Info)
	}
	p, ds := compile.Compile(s.name+".yaml", []byte(s.source), compile.Options{Actions: infos,
		Runbook: func(name string) (string, []byte, error) {
			if source, ok := s.called[name]; ok {
				return name + ".yaml", []byte(source), nil
			}
			return "", nil, fs.ErrNotExist
		}})
	if p == nil {
		t.Fatal(ds)
	}
	return p
}

// beside tells whether two things may be made and taken in any order: they belong
// to different iterations or nodes.
func beside(a, b string) bool {
	of := func(name string) string {
		if i := strings.LastIndexAny(name, "-@"); i >= 0 {
			return name[i+1:]
		}
		return ""
	}
	return of(a) != "" && of(b) != "" && of(a) != of(b)
}
