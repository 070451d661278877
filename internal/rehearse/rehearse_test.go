package rehearse

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/lang/compile"
	"github.com/almanac-run/almanac/lang/program"
)

// shelf is a cloud of boxes, as small as can be: two requests make a box, one
// removes it. Some of its actions have mistakes.
type shelf struct {
	env   CloudEnv
	mu    sync.Mutex
	boxes map[string]Thing // by id
	byTok map[string]string
	made  int
}

type boxIn struct {
	Name string `json:"name" jsonschema:"what to call it"`
}
type boxOut struct {
	ID string `json:"id" jsonschema:"the box"`
}

var errTooMany = action.Errorf(action.Throttled, "too many requests")

func newShelf(env CloudEnv) (Cloud, error) {
	return &shelf{env: env, boxes: map[string]Thing{}, byTok: map[string]string{}}, nil
}

func (s *shelf) request(ctx context.Context, operation string, do func() ([]Effect, error)) error {
	return s.env.Around(ctx, operation, errTooMany, func() ([]Effect, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return do()
	})
}

// make makes a box, and takes half an hour over it.
func (s *shelf) make(ctx context.Context, in boxIn, adopt bool) (boxOut, error) {
	token := action.FromContext(ctx).Token
	var id string
	err := s.request(ctx, "FindBox", func() ([]Effect, error) {
		if adopt {
			id = s.byTok[token]
		}
		return nil, nil
	})
	if err != nil {
		return boxOut{}, err
	}
	if id == "" {
		err := s.request(ctx, "MakeBox", func() ([]Effect, error) {
			s.made++
			id = fmt.Sprintf("box-%d", s.made)
			t := Thing{Kind: "box", ID: id, Name: in.Name}
			s.boxes[id], s.byTok[token] = t, id
			return []Effect{{"made", t}}, nil
		})
		if err != nil {
			return boxOut{}, err
		}
	}
	if err := s.env.Sleep(ctx, 30*time.Minute); err != nil {
		return boxOut{}, action.Errorf(action.Failed, "waiting for %s: %w", id, err)
	}
	return boxOut{ID: id}, nil
}

func (s *shelf) remove(ctx context.Context, out *boxOut) error {
	token := action.FromContext(ctx).Token
	return s.request(ctx, "RemoveBox", func() ([]Effect, error) {
		id := s.byTok[token]
		if out != nil {
			id = out.ID
		}
		t, ok := s.boxes[id]
		if !ok {
			return nil, nil
		}
		delete(s.boxes, id)
		return []Effect{{"removed", t}}, nil
	})
}

func (s *shelf) Actions() []action.Action {
	def := func(name string, adopt bool, undo func(context.Context, boxIn, *boxOut) error) action.Action {
		return action.New(action.Def[boxIn, boxOut]{Name: name, Summary: "Make a box",
			Do:         func(ctx context.Context, in boxIn) (boxOut, error) { return s.make(ctx, in, adopt) },
			Compensate: undo})
	}
	remove := func(ctx context.Context, _ boxIn, out *boxOut) error { return s.remove(ctx, out) }
	return []action.Action{
		def("box.make", true, remove),
		def("box.leaks", true, func(context.Context, boxIn, *boxOut) error { return nil }),
		def("box.twice", false, remove),
		def("box.forgets", true, func(ctx context.Context, _ boxIn, out *boxOut) error {
			if out == nil {
				return nil // as if nothing could have been made without an answer
			}
			return s.remove(ctx, out)
		}),
		def("box.stuck", true, func(context.Context, boxIn, *boxOut) error { return action.Errorf(action.Denied, "no") }),
		def("box.bare", true, nil),
		action.New(action.Def[boxIn, struct{}]{Name: "box.drop", Summary: "Remove the boxes of a name",
			Do: func(ctx context.Context, in boxIn) (struct{}, error) {
				return struct{}{}, s.request(ctx, "DropBox", func() ([]Effect, error) {
					var effects []Effect
					for id, t := range s.boxes {
						if t.Name == in.Name {
							delete(s.boxes, id)
							effects = append(effects, Effect{"removed", t})
						}
					}
					return effects, nil
				})
			}}),
	}
}

func (s *shelf) Live() []Thing {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Thing
	for _, id := range sorted(s.boxes) {
		all = append(all, s.boxes[id])
	}
	return all
}

func (s *shelf) Given() []Thing     { return nil }
func (s *shelf) Unknown(error) bool { return false }
func (s *shelf) Close()             {}

func infos() []action.Info {
	var all []action.Info
	for _, a := range slices.Concat((&shelf{}).Actions(), host.Actions(host.Node{})) {
		all = append(all, a.Info)
	}
	return all
}

// children are the runbooks that others may call.
var children = map[string]string{"child": `
runbook: child
inputs: { name: { type: string } }
steps:
  - { id: put, action: box.make, with: { name: "${{ inputs.name }}" } }
  - { id: after, wait: 1s }
`}

func compiled(t testing.TB, source string) *program.Program {
	t.Helper()
	p, ds := compile.Compile("runbook.yaml", []byte(source), compile.Options{Actions: infos(), Runbook: func(name string) (string, []byte, error) {
		if s, ok := children[name]; ok {
			return name + ".yaml", []byte(s), nil
		}
		return "", nil, fs.ErrNotExist
	}})
	if p == nil {
		t.Fatal(ds)
	}
	return p
}

func rehearsed(t testing.TB, source string, change ...func(*Options)) *Report {
	t.Helper()
	o := Options{Program: compiled(t, source), Actions: infos(), Cloud: newShelf}
	for _, c := range change {
		c(&o)
	}
	r, err := Rehearse(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Cases {
		if c.Error != "" {
			t.Errorf("%s %s: %s", c.Step, c.Fault, c.Error)
		}
	}
	return r
}

// lines writes what matters of a report.
func lines(r *Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "straight: %s, %.0fs, makes %v\n", r.Straight.Outcome, r.Straight.Seconds, r.Made)
	for _, c := range r.Cases {
		fmt.Fprintf(&b, "%s %s: %s", c.Step, c.Fault, c.Outcome)
		if len(c.RolledBack) > 0 {
			fmt.Fprintf(&b, ", takes back %s", strings.Join(c.RolledBack, ", "))
		}
		for _, l := range c.Left {
			fmt.Fprintf(&b, "\n  LEFT %s by %s: %s", l.What, l.Step, l.Why)
		}
		for _, l := range c.Kept {
			fmt.Fprintf(&b, "\n  kept %s by %s: %s", l.What, l.Step, l.Why)
		}
		b.WriteByte('\n')
	}
	for _, u := range r.Unreached {
		fmt.Fprintf(&b, "never reached: %s\n", u.Step)
	}
	return b.String()
}

// All that can go wrong with actions that are right leaves nothing behind.
func TestNothingLeft(t *testing.T) {
	r := rehearsed(t, `
runbook: right
steps:
  - { id: first, action: box.make, with: { name: a } }
  - { id: second, action: box.make, with: { name: b } }
  - { id: never, if: execution.caller == "nobody", wait: 1s }
`)
	want := `straight: succeeded, 3600s, makes [box box-1 (a) box box-2 (b)]
first fails: rolled_back, takes back first
first timeout: rolled_back, takes back first
first lost: rolled_back, takes back first
first retried: succeeded
first throttled: succeeded
first dies-before:1: succeeded
first dies-after:1: succeeded
first dies-before:2: succeeded
first dies-after:2: succeeded
first cancelled: cancelled, takes back first
first undo-dies: cancelled, takes back first
second fails: rolled_back, takes back second, first
second timeout: rolled_back, takes back second, first
second lost: rolled_back, takes back second, first
second retried: succeeded
second throttled: succeeded
second dies-before:1: succeeded
second dies-after:1: succeeded
second dies-before:2: succeeded
second dies-after:2: succeeded
second cancelled: cancelled, takes back second, first
second undo-dies: cancelled, takes back second, first
never reached: never
`
	if diff := cmp.Diff(want, lines(r)); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

// Each kind of mistake is found, and its reason said.
func TestJudge(t *testing.T) {
	tests := []struct {
		name, steps string
		finds       []string // "FAULT: what: why" of some cases
		never       string   // in no case
	}{
		{"a compensation that does nothing", "  - { id: a, action: box.leaks, with: { name: a } }\n  - { id: b, action: box.make, with: { name: b } }", []string{
			"b fails: box box-1 (a) by a: its compensation ran and did not remove it",
			"a timeout: box box-1 (a) by a: its compensation ran and did not remove it",
		}, "by b"},
		{"a second one after a retry", "  - { id: a, action: box.twice, with: { name: a } }", []string{
			"a retried: box box-2 (a) by a: it was made again, though the token was the same",
			"a dies-after:2: box box-2 (a) by a: it was made again, though the token was the same",
		}, "a dies-before:2"},
		{"a compensation that needs the answer", "  - { id: a, action: box.forgets, with: { name: a } }\n  - { id: b, wait: 1s }", []string{
			"a lost: box box-1 (a) by a: its compensation ran and did not remove it",
			"a timeout: box box-1 (a) by a: its compensation ran and did not remove it",
		}, "b cancelled"},
		{"a compensation that fails", "  - { id: a, action: box.stuck, with: { name: a } }\n  - { id: b, wait: 1s }", []string{
			"b cancelled: box box-1 (a) by a: it could not be taken back: denied: no",
		}, ""},
		{"an action without compensation", "  - { id: a, action: box.bare, with: { name: a } }\n  - { id: b, wait: 1s }", []string{
			"b cancelled: box box-1 (a) by a: box.bare has no compensation, and the step says no rollback:",
		}, ""},
		{"a rollback: that removes something else", "  - { id: a, action: box.make, with: { name: a }, rollback: { targets: [web-1], run: echo } }\n  - { id: b, wait: 1s }", []string{
			"b cancelled: box box-1 (a) by a: the rollback: of the step ran and did not remove it",
		}, ""},
		{"what a retry: makes anew", "  - { id: a, action: box.make, with: { name: a }, retry: { attempts: 2 } }", []string{
			"a late: box box-1 (a) by a: the first attempt had made it when its time was over, and the retry: made another",
		}, "a timeout"},
		{"a file whose step fails later", "  - { id: a, targets: [web-1], action: host.file.write, with: { path: /a, content: b } }\n  - { id: b, targets: [web-1], run: echo }", nil, " by "},
		{"a script with a rollback:", "  - { id: a, targets: [web-1], run: ./on, rollback: { targets: [web-1], run: ./off } }\n  - { id: b, wait: 1s }", nil, " by "},
		{"a child runbook and a loop", "  - id: l\n    for_each: ['1', '2', '3', '4', '5']\n    max_concurrency: 2\n    steps:\n      - { id: a, action: box.make, with: { name: '${{ item }}' } }\n", nil, " by "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := rehearsed(t, "runbook: t\nsteps:\n"+tt.steps)
			var got []string
			for _, c := range r.Cases {
				for _, l := range c.Left {
					got = append(got, fmt.Sprintf("%s %s: %s by %s: %s", c.Step, c.Fault, l.What, l.Step, l.Why))
				}
			}
			for _, want := range tt.finds {
				if !slices.Contains(got, want) {
					t.Errorf("does not find\n  %s\nbut\n  %s", want, strings.Join(got, "\n  "))
				}
			}
			for _, g := range got {
				if tt.never != "" && strings.Contains(g, tt.never) {
					t.Errorf("finds %s", g)
				}
			}
		})
	}
}

// What a runbook means to leave is not left behind.
func TestKept(t *testing.T) {
	for name, source := range map[string]string{
		"rollback: none of step a":                          "runbook: t\nsteps:\n  - { id: a, action: box.make, with: { name: a }, rollback: none }\n  - { id: b, wait: 1s }\n",
		"on_failure: stop":                                  "runbook: t\non_failure: stop\nsteps:\n  - { id: a, action: box.make, with: { name: a } }\n  - { id: b, wait: 1s }\n",
		"it was made in finally:, which nothing takes back": "runbook: t\nsteps:\n  - { id: b, wait: 1s }\nfinally:\n  - { id: a, action: box.make, with: { name: a } }\n",
	} {
		r := rehearsed(t, source)
		if r.Left() != 0 {
			t.Errorf("%s: %s", name, lines(r))
		}
		if !strings.Contains(lines(r), "b cancelled: cancelled\n  kept box box-1 (a) by "+r.Made[0].work+": "+name+"\n") {
			t.Errorf("%s: not kept:\n%s", name, lines(r))
		}
	}
}

const people = `
runbook: people
timeout: 2d
steps:
  - { id: a, action: box.make, with: { name: a } }
  - { id: ok, approval: { message: "Go?", approvers: [ann, bob, carol], quorum: 2, timeout: 1d } }
  - { id: look, pause: Look }
  - { id: b, targets: { where: 'node.tags.role == "web"' }, run: uptime, on_error: { steps: [ { id: tell, wait: 1s } ] } }
  - { id: c, runbook: child, with: { name: c } }
`

func TestPeopleNodesAndChildren(t *testing.T) {
	r := rehearsed(t, people)
	got := lines(r)
	for _, want := range []string{
		"ok rejected: rolled_back, takes back a\n", "ok unanswered: rolled_back, takes back a\n", "ok cancelled: cancelled, takes back a\n",
		"look cancelled: cancelled, takes back a\n", "b@web-1 fails: succeeded\n", "b@web-3 unreached: succeeded\n",
		"c/put timeout: rolled_back, takes back a\n", "c/after cancelled: cancelled, takes back a\n", "c/put retried: succeeded\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q", want)
		}
	}
	if r.Left() != 0 || len(r.Unreached) != 0 || t.Failed() {
		t.Errorf("%d left behind:\n%s", r.Left(), got)
	}
}

// What a run makes that succeeds in another way than the straight one is no
// leftover; what the straight one removes later is.
func TestAnotherWay(t *testing.T) {
	r := rehearsed(t, `
runbook: t
steps:
  - { id: a, targets: [web-1], run: ./try, on_error: { steps: [ { id: b, action: box.make, with: { name: b } } ] } }
`)
	if r.Left() != 0 || !strings.Contains(lines(r), "a@web-1 fails: succeeded\n  kept box box-1 (b) by a.on_error.b: it succeeded in another way") {
		t.Errorf("report:\n%s", lines(r))
	}
	r = rehearsed(t, `
runbook: t
steps:
  - { id: a, action: box.make, with: { name: a } }
  - { id: b, action: box.drop, with: { name: a }, on_error: continue }
  - { id: c, if: has(steps.b), action: box.drop, with: { name: a } }
`)
	got := lines(r)
	for _, want := range []string{"b fails: succeeded\n  kept box box-1 (a) by a: step b removes it, and that is what failed\n", "makes []"} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
}

// The same seed gives the same report, whatever runs beside what.
func TestDeterministic(t *testing.T) {
	source := "runbook: t\nsteps:\n  - parallel:\n      a: [ { id: a, action: box.make, with: { name: a } } ]\n      b: [ { id: b, action: box.leaks, with: { name: b } } ]\n" +
		"  - { id: c, targets: [web-1, web-2, web-3, web-4], run: uptime }\n"
	var first string
	for i := range 5 {
		r := rehearsed(t, source, func(o *Options) { o.Trace = true })
		r.Took = 0
		raw, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = string(raw)
		} else if diff := cmp.Diff(first, string(raw)); diff != "" {
			t.Fatalf("differs (-first +now):\n%s", diff)
		}
	}
	if !strings.Contains(first, `"step":"c@web-4"`) || !strings.Contains(first, `"tried":3,"of":4`) {
		t.Errorf("not the first, the middle and the last of four nodes: %s", first)
	}
}

func TestChoose(t *testing.T) {
	source := "runbook: t\nsteps:\n  - { id: a, action: box.make, with: { name: a } }\n"
	r := rehearsed(t, source, func(o *Options) { o.Step, o.Fault, o.Trace = "a", "dies-after:2", true })
	if len(r.Cases) != 1 || r.Cases[0].At != "2: MakeBox" || len(r.Cases[0].Trace) != 3 {
		t.Errorf("%+v", r.Cases)
	}
	for _, tt := range []struct{ step, fault, want string }{
		{"a", "unreached", "step a cannot fail as unreached; it can as fails, timeout"},
		{"aa", "", "no work at step aa; there is work at a"},
		{"", "rejected", "no step fails as rejected"},
	} {
		_, err := Rehearse(Options{Program: compiled(t, source), Actions: infos(), Cloud: newShelf, Step: tt.step, Fault: tt.fault})
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s %s: %v, want %s", tt.step, tt.fault, err, tt.want)
		}
	}
}

// What has no end is given up.
func TestEndless(t *testing.T) {
	_, err := Rehearse(Options{Actions: infos(), Program: compiled(t, `
runbook: t
steps:
  - id: r
    repeat: { until: steps.look.stdout == "ready", every: 1s }
    steps: [ { id: look, targets: [web-1], run: cat } ]
`)})
	if err == nil || !strings.Contains(err.Error(), "for ever") {
		t.Errorf("error %v", err)
	}
}
