package play

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/activities/http"
	"github.com/almanac-run/almanac/lang/compile"
	"github.com/almanac-run/almanac/workflows"
)

// played plays the steps of a runbook and returns what was asked for and when,
// in seconds since the start, then how it ended.
func played(t *testing.T, steps string, handler func(ctx context.Context, a *Attempt) (json.RawMessage, error), change ...func(*Play)) string {
	t.Helper()
	var infos []action.Info
	for _, a := range append(host.Actions(host.Node{}), http.Actions()...) {
		infos = append(infos, a.Info)
	}
	p, ds := compile.Compile("t.yaml", []byte("runbook: t\n"+steps), compile.Options{Actions: infos,
		Runbook: func(string) (string, []byte, error) { return "", nil, fs.ErrNotExist }})
	if p == nil {
		t.Fatal(ds)
	}
	var b strings.Builder
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	one := Play{Program: p, ID: "x", Handler: func(ctx context.Context, a *Attempt) (json.RawMessage, error) {
		name := a.Path
		if a.Undo {
			name = "undo " + a.Action
		}
		fmt.Fprintf(&b, "%.0f %s.%d\n", a.Now().Sub(began).Seconds(), name, a.N)
		return handler(ctx, a)
	}}
	for _, c := range change {
		c(&one)
	}
	ended, err := one.Run()
	if err != nil {
		t.Fatal(err)
	}
	kind := ""
	if f := ended.Result.Failure; f != nil {
		kind = " " + f.Kind
	}
	fmt.Fprintf(&b, "%.0f %s%s\n", ended.Ended.Sub(began).Seconds(), ended.Result.Outcome, kind)
	return b.String()
}

const two = `
steps:
  - { id: a, targets: [n], action: host.file.write, with: { path: /a, content: b } }
  - { id: b, timeout: 1m, action: http.request, with: { url: "http://x" } }
`

func TestTime(t *testing.T) {
	ok := func(context.Context, *Attempt) (json.RawMessage, error) { return json.RawMessage("{}"), nil }
	on := func(id string, do func(ctx context.Context, a *Attempt) (json.RawMessage, error)) func(context.Context, *Attempt) (json.RawMessage, error) {
		return func(ctx context.Context, a *Attempt) (json.RawMessage, error) {
			if a.ID == id {
				return do(ctx, a)
			}
			return ok(ctx, a)
		}
	}
	fails := func(err error, times int) func(context.Context, *Attempt) (json.RawMessage, error) {
		return on("b", func(_ context.Context, a *Attempt) (json.RawMessage, error) {
			if a.N <= times {
				return nil, err
			}
			return json.RawMessage("{}"), nil
		})
	}
	tests := []struct {
		name, steps string
		handler     func(context.Context, *Attempt) (json.RawMessage, error)
		change      func(*Play)
		want        string
	}{
		{"nothing takes time", two, ok, nil, "0 a@n.1\n0 b.1\n0 succeeded\n"},
		{"a handler sleeps", two, on("b", func(ctx context.Context, _ *Attempt) (json.RawMessage, error) {
			return json.RawMessage("{}"), Sleep(ctx, 30*time.Second)
		}), nil, "0 a@n.1\n0 b.1\n30 succeeded\n"},
		{"a handler sleeps longer than its timeout", two, on("b", func(ctx context.Context, _ *Attempt) (json.RawMessage, error) {
			return json.RawMessage("{}"), Sleep(ctx, 2*time.Minute)
		}), nil, "0 a@n.1\n0 b.1\n60 undo host.file.write.1\n60 rolled_back timeout\n"},
		{"what passes is tried again by itself", two, fails(action.Errorf(action.Throttled, "slow"), 2), nil,
			"0 a@n.1\n0 b.1\n1 b.2\n3 b.3\n3 succeeded\n"},
		{"what does not pass is not", two, fails(action.Errorf(action.Denied, "no"), 2), nil,
			"0 a@n.1\n0 b.1\n0 undo host.file.write.1\n0 rolled_back denied\n"},
		{"who died is missed after ten seconds", two, fails(ErrDied, 1), nil, "0 a@n.1\n0 b.1\n11 b.2\n11 succeeded\n"},
		{"and in the end lost", two, fails(ErrDied, 9), nil,
			"0 a@n.1\n0 b.1\n11 b.2\n23 b.3\n37 b.4\n55 b.5\n65 undo host.file.write.1\n65 rolled_back lost\n"},
		{"a node that takes no work", two, on("a@n", func(context.Context, *Attempt) (json.RawMessage, error) { return nil, ErrUnreached }), nil,
			"0 a@n.1\n10 failed unreached\n"},
		{"a panic is a mistake of ours", two, on("b", func(context.Context, *Attempt) (json.RawMessage, error) { panic("oh") }), nil,
			"0 a@n.1\n0 b.1\n0 undo host.file.write.1\n0 rolled_back internal\n"},
		{"somebody cancels while it sleeps", two, on("b", func(ctx context.Context, _ *Attempt) (json.RawMessage, error) {
			return nil, Sleep(ctx, 50*time.Second)
		}), func(p *Play) { p.Moments = []Moment{{20 * time.Second, (*Stage).Cancel}} },
			"0 a@n.1\n0 b.1\n20 undo host.file.write.1\n20 cancelled cancelled\n"},
		{"somebody cancels as it answers", two, fails(ErrCancel, 1), nil, "0 a@n.1\n0 b.1\n0 undo host.file.write.1\n0 cancelled cancelled\n"},
		{"side by side", "steps:\n  - parallel:\n      a: [ { id: a, action: http.request, with: { url: 'http://x' } }, { id: c, wait: 1s } ]\n      b: [ { id: b, action: http.request, with: { url: 'http://x' } }, { id: d, action: http.request, with: { url: 'http://x' } } ]\n",
			func(ctx context.Context, a *Attempt) (json.RawMessage, error) {
				return json.RawMessage("{}"), Sleep(ctx, time.Duration(len(a.Path))*time.Second)
			}, nil, "0 parallel_3.a.a.1\n0 parallel_3.b.b.1\n14 parallel_3.b.d.1\n28 succeeded\n"},
		{"thirty days", "steps: [ { wait: 30d } ]", ok, nil, "2592000 succeeded\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			change := tt.change
			if change == nil {
				change = func(*Play) {}
			}
			if diff := cmp.Diff(tt.want, played(t, tt.steps, tt.handler, change)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestGivesUp(t *testing.T) {
	p := func(p *Play) { p.Most = 50 }
	got := played(t, "steps:\n  - id: r\n    repeat: { until: steps.a.status == 1, every: 1s }\n    steps: [ { id: a, action: http.request, with: { url: 'http://x' } } ]\n",
		func(context.Context, *Attempt) (json.RawMessage, error) { return json.RawMessage(`{"status":2}`), nil }, p)
	if !strings.HasSuffix(got, "cancelled cancelled\n") || strings.Count(got, "\n") > 60 {
		t.Errorf("got\n%s", got)
	}
	var on *Stage
	_ = played(t, "steps: [ { pause: look } ]", nil, func(p *Play) {
		p.Started = func(s *Stage) { on = s }
		p.Waits = func(child string, w workflows.Wait) []Saying {
			return []Saying{{Verb: "approve"}, {After: time.Minute, Verb: "resume"}}
		}
	})
	if got := on.ended.Refused; len(got) != 1 || !strings.Contains(got[0], "waits for resume, not for approve") {
		t.Errorf("refused %q", got)
	}
}

// Several steps that begin to wait at once are all answered.
func TestWaits(t *testing.T) {
	var told []string
	got := played(t, "steps:\n  - parallel:\n      a: [ { id: a, approval: { message: a } } ]\n      b: [ { id: b, approval: { message: b } }, { id: c, pause: c } ]\n", nil, func(p *Play) {
		p.Waits = func(child string, w workflows.Wait) []Saying {
			told = append(told, w.Step)
			return []Saying{{After: time.Minute, Verb: w.Choices[0]}}
		}
	})
	if want := []string{"parallel_3.a.a", "parallel_3.b.b", "parallel_3.b.c"}; !cmp.Equal(told, want) || got != "120 succeeded\n" {
		t.Errorf("told %v, then %s", told, got)
	}
}
