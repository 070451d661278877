package workflows

import (
	"encoding/base32"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/lang/program"
)

// answerOf is what a command of so many bytes of noise answers.
func answerOf(random *rand.ChaCha8, node string, size int) json.RawMessage {
	noise := make([]byte, size*5/8)
	_, _ = random.Read(noise)
	text := base32.StdEncoding.EncodeToString(noise)
	raw, _ := json.Marshal(map[string]any{"exit_code": 0, "stdout": text[:len(text)/2] + "\n" + text[len(text)/2:], "ref": "patch-fleet-20261125-101500-ab12/install%40" + node + "/" + node + ".log", "size": size, "duration": "1.5s"})
	return raw
}

// TestStateOfThousands holds the state of steps on 5,000 nodes against what one
// message takes, with the worst that commands answer: 4 KiB that cannot be
// compressed from each, all read by a later step; and all of them failed.
func TestStateOfThousands(t *testing.T) {
	const n = 5000
	random := rand.NewChaCha8([32]byte{1})
	now := time.Now()
	for _, name := range []string{"all succeeded", "all failed"} {
		rec := &record{State: StateRunning, Start: &now, Next: n, Total: n, Marks: make(standings, n)}
		for i := range n {
			node := fmt.Sprintf("web-%d.example.internal", i)
			rec.Nodes = append(rec.Nodes, node)
			if name == "all succeeded" {
				rec.Marks[i] = markSucceeded
				rec.Results = append(rec.Results, bounds(answerOf(random, node, 4<<10), n))
				continue
			}
			rec.Marks[i] = markFailed
			var d map[string]any
			_ = json.Unmarshal(answerOf(random, node, 4<<10), &d)
			detail, _ := json.Marshal(map[string]any{"exit_code": 100, "tail": d["stdout"], "ref": d["ref"], "size": d["size"]})
			f := &Failure{Step: "install", Target: node, Action: "host.command.run", Kind: "failed", Message: "exit code 100", File: "patch.yaml", Detail: detail}
			if rec.Errors++; rec.Errors > mostShown {
				f = f.brief()
			}
			sub := rec.sub("@" + node)
			*sub = record{State: StateFailed, Start: &now, End: &now, Target: node, Failure: f, Message: f.Message,
				Logs: []Pointer{{Target: node, Ref: fmt.Sprint(d["ref"]), Size: 4096}}}
		}
		raw, err := json.Marshal(&State{Steps: &record{Sub: map[string]*record{"install": rec}}})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d KiB", name, len(raw)>>10)
		if len(raw) > mostPayload {
			t.Errorf("%s: the state is %d bytes, over %d", name, len(raw), mostPayload)
		}
		var back State
		if err := json.Unmarshal(raw, &back); err != nil {
			t.Fatal(err)
		}
		again := back.Steps.Sub["install"]
		if diff := cmp.Diff(rec.recap(), again.recap()); diff != "" {
			t.Errorf("%s: the recap differs in the next run (-was +is):\n%s", name, diff)
		}
	}
}

func TestBounds(t *testing.T) {
	long := strings.Repeat("x", 4000)
	in := json.RawMessage(`{"exit_code":0,"n":12345678901234567890,"f":1.0,"stdout":"` + long + `\nthe last line\n","ref":"` + long + `","list":["` + long + `","short\nof two lines"]}`)
	if got := bounds(in, mostWhole); string(got) != string(in) {
		t.Errorf("of %d targets an answer is cut", mostWhole)
	}
	var got map[string]any
	raw := bounds(in, mostWhole+1)
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if got["stdout"] != "the last line" || got["ref"] != long || !strings.Contains(string(raw), `"n":12345678901234567890`) || !strings.Contains(string(raw), `"f":1.0`) {
		t.Errorf("kept %.300s", raw)
	}
	if l := got["list"].([]any); len(l[0].(string)) > mostText || l[1] != "short\nof two lines" {
		t.Errorf("of the list: %v", l)
	}
	if s := lastLine(strings.Repeat("ä", 300)); len(s) > mostText || !strings.HasSuffix(s, "ää") || strings.ContainsRune(s, '\uFFFD') {
		t.Errorf("a line of wide characters: %q", s)
	}
}

// Whether answers are kept is read off the program; in doubt they are.
func TestKeepsAnswers(t *testing.T) {
	step := func(gate, output string) *program.Step {
		s := &program.Step{ID: "s", Targets: &program.Targets{}}
		if gate != "" {
			s.Targets.Gate = &program.Expr{Text: gate}
		}
		if output != "" {
			s.Outputs = []program.Output{{Value: program.Value{Map: []program.Entry{{Value: program.Value{Expr: &program.Expr{Text: output}}}}}}}
		}
		return s
	}
	for _, tt := range []struct {
		gate, output string
		read, want   bool
	}{
		{"", "", false, false},
		{"", "", true, true},
		{"size(result.failed) + size(result . unreached) == 0", "size(result.skipped)", false, false},
		{"result.nodes.all(n, result.nodes[n].ok)", "", false, true},
		{"", "result", false, true},
		{"", "result.nodes.size()", false, true},
		{"size(result.failed) == 0 && [result].size() == 1", "", false, true},
	} {
		r := &run{read: map[string]bool{"s": tt.read}}
		if got := r.keepsAnswers(step(tt.gate, tt.output)); got != tt.want {
			t.Errorf("gate %q, output %q, read %v: %v", tt.gate, tt.output, tt.read, got)
		}
	}
}

// fleetOf is a record of a step on nodes that stand like this.
func fleetOf(state, marks string, failures map[int]*Failure) *record {
	rec := &record{State: state, Marks: standings(marks)}
	for i := range marks {
		node := fmt.Sprintf("web-%d", i)
		rec.Nodes = append(rec.Nodes, node)
		if f := failures[i]; f != nil {
			*rec.sub("@" + node) = record{State: StateFailed, Target: node, Failure: f}
		}
	}
	return rec
}

func command(code int, tail string) *Failure {
	raw, _ := json.Marshal(commandDetail{ExitCode: code, Tail: tail, Ref: "x/y/z.log"})
	return &Failure{Kind: "failed", Message: fmt.Sprintf("exit code %d", code), Detail: raw}
}

func TestRecap(t *testing.T) {
	away := &Failure{Kind: "unreached", Message: "nobody took the work"}
	failures := map[int]*Failure{
		0: command(1, "start\ndpkg was interrupted\n\n"),
		2: command(100, "E: lock held by 4711"),
		3: command(100, "E: lock held by 12"),
		4: command(100, "E: lock held by 3"),
		5: away,
		7: command(1, "web-7: no space left"),
	}
	rec := fleetOf(StateFailed, "fsfffu.fcr.", failures)
	got := rec.recap()
	want := &Recap{Total: 11, Succeeded: 1, Failed: 5, Unreached: 1, Skipped: 2, Cancelled: 2,
		Failures: []Alike{
			{3, "failed", 100, "E: lock held by 4711", []string{"web-2", "web-3", "web-4"}},
			{1, "failed", 1, "dpkg was interrupted", []string{"web-0"}},
			{1, "unreached", 0, "nobody took the work", []string{"web-5"}},
			{1, "failed", 1, "web-7: no space left", []string{"web-7"}},
		},
		Left: []string{"web-6", "web-8", "web-9", "web-10"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	rec.Away = []string{"db-1", "db-2"}
	if got := rec.recap(); got.Away != 2 || got.Total != 11 || got.Left[4] != "db-1" {
		t.Errorf("with nodes that were away: %+v", got)
	}
	rec.State = StateRunning
	if got := rec.recap(); got.Skipped != 0 || got.Running != 1 || got.Cancelled != 1 {
		t.Errorf("while it runs: %+v", got)
	}
	// Each is counted once, however it stands.
	random := rand.New(rand.NewPCG(5, 6))
	for range 500 {
		marks := make([]byte, random.IntN(60))
		failures := map[int]*Failure{}
		for i := range marks {
			if marks[i] = ".rsfuc"[random.IntN(6)]; marks[i] == 'f' || marks[i] == 'u' {
				failures[i] = command(random.IntN(20), "line "+string(rune('a'+random.IntN(20))))
			}
		}
		for _, state := range []string{StateRunning, StateSucceeded, StateFailed, StateHandled, StateCancelled} {
			c := fleetOf(state, string(marks), failures).recap()
			if c == nil {
				c = &Recap{}
			}
			sum := c.Succeeded + c.Failed + c.Unreached + c.Skipped + c.Cancelled + c.Running
			if state == StateRunning {
				sum += strings.Count(string(marks), ".")
			}
			grouped := c.Others
			for _, a := range c.Failures {
				grouped += a.Count
			}
			if sum != len(marks) || grouped != c.Failed+c.Unreached {
				t.Fatalf("%s of %s: %d counted, %d grouped: %+v", state, marks, sum, grouped, c)
			}
		}
	}
}

// A page takes up where the one before ended, and none is listed twice.
func TestTargetsPages(t *testing.T) {
	const n = 4500
	steps := []program.Step{
		{ID: "one", Kind: program.KindAction, Targets: &program.Targets{Single: true}},
		{ID: "many", Kind: program.KindAction, Targets: &program.Targets{}},
		{ID: "none", Kind: program.KindAction, Targets: &program.Targets{}},
	}
	r := &run{prog: &program.Program{Steps: steps}, state: &State{Steps: &record{}}}
	*r.state.Steps.sub("one") = record{State: StateFailed, Target: "db-1", Failure: &Failure{Kind: "unreached", Message: "away"}}
	r.state.Steps.Sub["many"] = fleetOf(StateFailed, strings.Repeat("sf.", n/3), map[int]*Failure{1: command(3, "bad")})
	seen := map[string]TargetView{}
	pages := 0
	for from := 0; ; {
		p := r.page(from)
		pages++
		for _, v := range p.Targets {
			if _, twice := seen[v.Step+v.Target]; twice {
				t.Fatalf("%s@%s is listed twice", v.Step, v.Target)
			}
			seen[v.Step+v.Target] = v
		}
		if p.Next == 0 {
			break
		}
		from = p.Next
	}
	if pages != 3 || len(seen) != n+1 {
		t.Errorf("%d targets on %d pages", len(seen), pages)
	}
	for key, want := range map[string]TargetView{
		"onedb-1":      {Step: "one", Target: "db-1", State: StateUnreached, Kind: "unreached", Line: "away"},
		"manyweb-0":    {Step: "many", Target: "web-0", State: StateSucceeded},
		"manyweb-1":    {Step: "many", Target: "web-1", State: StateFailed, Kind: "failed", ExitCode: 3, Line: "bad", Ref: "x/y/z.log"},
		"manyweb-4499": {Step: "many", Target: "web-4499", State: StateSkipped},
	} {
		if diff := cmp.Diff(want, seen[key]); diff != "" {
			t.Errorf("%s: -want +got:\n%s", key, diff)
		}
	}
}

// A large file written on 5,000 nodes is once in the state, and each of its
// compensations has it again in the next run.
func TestSharedInputs(t *testing.T) {
	random := rand.NewChaCha8([32]byte{2})
	large := answerOf(random, "x", 100<<10)
	s := &State{Steps: &record{}}
	for i := range 5000 {
		input := large
		if i%1000 == 0 {
			input = json.RawMessage(fmt.Sprintf(`{"n":%d}`, i))
		}
		s.Undo = append(s.Undo, &undo{Path: "write", Target: fmt.Sprintf("web-%d", i), Action: "host.file.write", Input: input, Output: json.RawMessage(`{"changed":true}`), Token: "abcdefghijklmnopqrstuvwxyz"})
	}
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d KiB", len(raw)>>10)
	if len(raw) > mostPayload/4 {
		t.Errorf("the state is %d bytes", len(raw))
	}
	var back State
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	for i, u := range back.Undo {
		if string(u.Input) != string(s.Undo[i].Input) || u.Shared != nil || u.Target != s.Undo[i].Target {
			t.Fatalf("compensation %d is another: %.100s", i, u.Input)
		}
	}
	if err := json.Unmarshal([]byte(`{"undo":[{"path":"a","shared":3}],"shared":["x"]}`), &back); err == nil {
		t.Error("an input that is not there was not missed")
	}
}

// Answers that no state could hold are dropped while they come, and the step
// fails in the end, rather than the execution.
func TestTooManyAnswers(t *testing.T) {
	r := &run{read: map[string]bool{"s": true}}
	s := &program.Step{ID: "s", Targets: &program.Targets{}}
	rec := fleetOf(StateRunning, "ss", nil)
	r.track(rec, s)
	if rec.Results == nil {
		t.Fatal("answers are not kept")
	}
	sc := &scope{prog: &program.Program{File: "x.yaml"}}
	rec.Results[0], rec.Results[1] = json.RawMessage("{}"), json.RawMessage("{}")
	if raw, err := r.perNode(sc, rec, s, true); err != nil || !strings.Contains(string(raw), `"web-1":{}`) {
		t.Errorf("%s, %v", raw, err)
	}
	rec.Kept, rec.Results = mostAnswers+1, nil
	if r.track(rec, s); rec.Results != nil {
		t.Error("answers are kept again")
	}
	if raw, err := r.perNode(sc, rec, s, true); err == nil || !strings.Contains(err.Error(), "8 MiB") {
		t.Errorf("%.100s, %v", raw, err)
	}
}
