package rehearse

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/lang/compile"
)

const guarded = `
runbook: guarded
inputs: { n: { type: int, default: 1 }, pw: { type: secret, default: "env:X" } }
steps:
  - { id: look, if: inputs.n > 0, targets: { where: 'node.tags[?"role"].orValue("") == "db"' }, run: uptime, on_error: continue }
  - { id: ok, approval: { message: "Go?", approvers: [ann], timeout: 1h } }
  - { id: make, action: box.make, with: { name: "${{ string(inputs.n) }}" } }
  - { id: wait, wait: 1h }
outputs: { id: "${{ steps.make.id }}" }
`

// Every mistake in a file of tests has its place.
func TestParseFile(t *testing.T) {
	prog := compiled(t, guarded)
	_, ds := ParseFile("g.test.yaml", []byte(`
tets: []
rehearse:
  inputs: { n: x }
  people: []
tests:
  - inputs: { m: 1 }
    answers:
      look: { output: {}, times: 0 }
      make: { error: { kind: broken }, takes: soon }
  - name: b
    nodes: [ { name: x }, web-1, { id: a, tags: { n: 1 } } ]
    people: [ { does: nod }, { step: ok } ]
    at: noon
    expect: { outcome: done, rolled_back: make, trase: "" }
  - name: b
`), prog)
	var got []string
	for _, d := range ds {
		got = append(got, strings.TrimPrefix(d.String(), "g.test.yaml:"))
	}
	want := []string{
		"2:1: a file of tests has no key tets; did you mean tests?",
		`4:16: input n: have string, want int`,
		"5:3: rehearse: has no key people; it has answers, at, caller, given, inputs, nodes",
		"7:5: the test has no name:",
		"7:18: input m: there is no such input; there is n, pw",
		"9:15: an answer has no key output; did you mean outputs?",
		"9:34: times: is a number from 1",
		"10:22: broken is no kind of error; the kinds are [invalid denied not_found conflict throttled unavailable failed internal timeout unreached lost unknown cancelled]",
		"10:47: want a duration such as 90s or 1h30m",
		"12:14: a node has an id",
		"12:54: have int 1, want string; quote it",
		"13:23: people cannot nod; they approve, reject, resume, retry, skip, continue, rollback, stop, cancel",
		"13:30: what a person does has does: one of approve, reject, resume, retry, skip, continue, rollback, stop, cancel",
		"14:9: want a time such as 2026-01-02T03:04:05Z",
		"15:24: done is no outcome; the outcomes are [succeeded failed rolled_back rollback_failed cancelled timed_out]",
		"15:43: have string, want a list",
		"15:49: expect: has no key trase; did you mean trace?",
		`16:5: the test "b" is there twice`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("diagnostics (-want +got):\n%s", diff)
	}
}

func verdicts(t *testing.T, runbook, tests string) (*File, []*Verdict) {
	t.Helper()
	o := Options{Program: compiled(t, runbook), Actions: infos(), Cloud: newShelf}
	f, ds := ParseFile("t.test.yaml", []byte(tests), o.Program)
	if f == nil {
		t.Fatal(ds)
	}
	var all []*Verdict
	for i := range f.Tests {
		all = append(all, f.Play(&f.Tests[i], o))
	}
	return f, all
}

func wrongs(all []*Verdict) string {
	var b strings.Builder
	for _, v := range all {
		for _, w := range v.Wrong {
			b.WriteString(v.Name + ": " + w.Pos.String() + ": " + w.Message + "\n")
		}
	}
	return b.String()
}

func TestVerdicts(t *testing.T) {
	_, all := verdicts(t, guarded, `tests:
  - name: right
    nodes: [ { id: db-1, tags: { role: db } }, { id: db-2, tags: { role: db } }, web-1 ]
    answers:
      look@db-2: [ { error: { kind: unreached }, times: 1 } ]
      make: { outputs: { id: box-7 } }
    people: [ { step: ok, does: approve, by: ann, after: 10m } ]
    expect:
      outcome: succeeded
      outputs: { id: box-7 }
  - name: cancelled
    inputs: { n: 0 }
    people: [ { does: approve, step: ok, by: ann }, { does: cancel, after: 1h } ]
    expect: { outcome: cancelled, rolled_back: [ make ], left_behind: [] }
  - name: wrong
    answers:
      mak: { outputs: { id: x } }
      undo.make: { error: { kind: denied } }
    people: [ { does: approve, by: bob }, { does: reject } ]
    expect:
      outcome: succeeded
      failed: make
      message: lightning
      outputs: { id: x, idd: y }
      rolled_back: [ a, b ]
`)
	if got := wrongs(all[:2]); got != "" {
		t.Errorf("wrong: %s", got)
	}
	want := `wrong: 21:16: the outcome is failed, want succeeded: runbook.yaml:6:5: step ok: rejected by ann
wrong: 22:15: step ok failed, want make: runbook.yaml:6:5: step ok: rejected by ann
wrong: 23:16: the message is "runbook.yaml:6:5: step ok: rejected by ann", want "lightning" in it
wrong: 24:16: there is no output id; there is none
wrong: 24:16: there is no output idd; there is none
wrong: 25:20: rolled back is, in this order (- wanted, + got):
- a
- b
wrong: 17:7: nothing at step mak asked for this answer; did you mean make?
wrong: 18:7: nothing at step undo.make asked for this answer
wrong: 15:5: refused: approve ok: bob is no approver of step ok; approvers: ann
`
	if diff := cmp.Diff(want, wrongs(all[2:])); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Where nobody answers and no time-out ends it, the test says so.
func TestWaitsForEver(t *testing.T) {
	_, all := verdicts(t, "runbook: t\nsteps: [ { id: ok, approval: { message: x } } ]\n", "tests: [ { name: a, expect: { outcome: succeeded } } ]\n")
	if got, want := wrongs(all), "a: 1:10: step ok waits for ever for approve or reject; say in people: what people do\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestDiff(t *testing.T) {
	got := diff([]string{"a", "b", "c", "d"}, []string{"a", "c", "x", "d"})
	if want := "  a\n- b\n  c\n+ x\n  d"; got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestUpdateAndCoverage(t *testing.T) {
	const tests = `tests:
  - name: one # stays
    inputs: { n: 0 }
    people: [ { does: approve, by: ann } ]
    expect:
      trace: |
        old
        older

      outcome: succeeded
  - name: two
    inputs: { n: 0 }
    expect: { outcome: failed }
`
	f, all := verdicts(t, guarded, tests)
	text, changed := f.Rewritten(all)
	want := strings.Replace(tests, "        old\n        older\n", `        look is skipped
        ok waits for approve or reject
        ok ann says approve
        make box.make {"name":"0"}
`, 1)
	if diff := cmp.Diff(want, string(text)); diff != "" || !changed {
		t.Errorf("rewritten (-want +got):\n%s", diff)
	}
	prog := compiled(t, guarded)
	c := Cover(prog, all)
	wantCover := Coverage{Runbook: "guarded", Steps: Share{4, 3}, Ifs: Share{2, 1}, Errors: Share{1, 0}, Undone: Share{1, 0}, Missing: []string{
		"5:5: step look was never taken", "5:5: step look never needed its on_error:", "7:5: step make was never rolled back",
	}}
	if diff := cmp.Diff(wantCover, c); diff != "" {
		t.Errorf("coverage (-want +got):\n%s", diff)
	}
}

// The example of docs/spec.md passes, on the runbook of that page.
func TestSpec(t *testing.T) {
	page, err := os.ReadFile("../../docs/spec.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml( test)?\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	var runbook, tests string
	for _, b := range blocks {
		switch {
		case b[1] != "":
			tests = b[2]
		case strings.Contains(b[2], "runbook: demo/greeting "):
			runbook = b[2]
		}
	}
	p, ds := compile.Compile("greeting.yaml", []byte(runbook), compile.Options{Actions: infos()})
	if p == nil {
		t.Fatal(ds)
	}
	f, ds := ParseFile("docs/spec.md", []byte(tests), p)
	if f == nil || len(f.Tests) != 3 || f.Rehearse == nil {
		t.Fatal(ds)
	}
	for i := range f.Tests {
		v := f.Play(&f.Tests[i], Options{Program: p, Actions: infos()})
		for _, w := range v.Wrong {
			t.Errorf("%s: %s", v.Name, w.Message)
		}
	}
}
