// Package crash shows that executions keep their promises wherever something dies.
//
// The test binary plays a Temporal server, control workers, agents and the person who answers. A run without
// trouble tells the points of a runbook: each report to the server and each effect, before and after. Then
// the process that comes to a point kills itself there (or the execution is cancelled there), is started
// again, and what was done is compared with what was promised. docs/crash.md says what that shows.
//
//	go test ./e2e/crash                        some points of each runbook
//	ALMANAC_CRASH=all go test -tags mutants    all of them, for an hour (make crash)
//	ALMANAC_CRASH_POINT="kill image/effect make image#1:after" go test -v -run Replay
package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// plan is what happens in one run: "kill POINT" or "cancel POINT" of a subject, none, or several.
type plan struct {
	subject *subject
	deeds   []string
}

// String is how the run is played again: the value of ALMANAC_CRASH_POINT.
func (p plan) String() string {
	var all []string
	for _, d := range p.deeds {
		verb, point, _ := strings.Cut(d, " ")
		all = append(all, verb+" "+p.subject.name+"/"+point)
	}
	if all == nil {
		return p.subject.name
	}
	return strings.Join(all, " + ")
}

// verdict is what became of a run.
type verdict struct {
	wrong    []string
	outcome  workflows.Outcome
	points   []string // that it passed, in order
	missed   []string // deeds whose point it never came to
	runs     int      // in which the execution and its children ended: more than one for each that continued as new
	evidence string   // directory; empty if nothing is wrong
}

// mostTime is how long a run may take: some seconds are usual, more when processes are killed on a busy machine.
const mostTime = 4 * time.Minute

var runs atomic.Int64

// play plays one run in a lane.
func (l *lane) play(t *testing.T, p plan, prog *program.Program) (v verdict) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), mostTime)
	defer cancel()
	root := fmt.Sprintf("%s-%d", p.subject.name, runs.Add(1))
	dir := filepath.Join(l.site.world(), root)
	for _, sub := range []string{"armed", "fired"} {
		must(os.MkdirAll(filepath.Join(dir, sub), 0o755))
	}
	must(os.WriteFile(filepath.Join(dir, "log"), nil, 0o644))
	cancels := ""
	for _, d := range p.deeds {
		verb, point, _ := strings.Cut(d, " ")
		must(os.WriteFile(filepath.Join(dir, "armed", point), []byte(verb), 0o644))
		if verb == "cancel" {
			cancels = point
		}
	}
	inputs := map[string]json.RawMessage{}
	if p.subject.nodes {
		inputs["dir"], _ = json.Marshal(l.site.world())
		inputs["nodes"], _ = json.Marshal(l.nodes)
		for _, id := range l.nodes {
			must(os.WriteFile(filepath.Join(l.root(id), "config"), []byte("old"), 0o644))
		}
	}
	must(os.WriteFile(filepath.Join(dir, "points"), nil, 0o644))

	ended := make(chan struct{})
	var helpers sync.WaitGroup
	if cancels != "" {
		helpers.Go(func() { l.cancelAt(ctx, root, filepath.Join(dir, "fired", cancels), filepath.Join(dir, "go"), ended) })
	}
	if p.subject.called != nil {
		helpers.Go(func() { l.answer(ctx, root, filepath.Join(dir, "fired", cancels), ended) })
	}
	run, result, err := l.execute(ctx, root, prog, inputs)
	close(ended)
	helpers.Wait()
	for err == nil {
		v.outcome = result.Outcome
		if v.wrong, v.runs, err = l.judge(ctx, p.subject, root, run, result, cancels != ""); err == nil || !pause(ctx) {
			break
		}
		err = nil // the server is away for a moment
	}
	if err != nil {
		v.wrong = append(v.wrong, fmt.Sprintf("the execution did not come to an end that can be judged: %v", err))
	}
	v.points = strings.Split(strings.TrimSpace(text(filepath.Join(dir, "points"))), "\n")
	for _, d := range p.deeds {
		_, point, _ := strings.Cut(d, " ")
		if _, err := os.Stat(filepath.Join(dir, "fired", point)); err != nil {
			v.missed = append(v.missed, d)
		}
	}
	if len(v.wrong) > 0 {
		calm, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if l.mutant == "" {
			v.evidence = l.keepEvidence(calm, root, v.wrong)
		}
		_ = l.site.client.TerminateWorkflow(calm, root, "", "it broke a promise")
	}
	// Whatever comes late finds nobody who counts.
	_ = os.Remove(filepath.Join(dir, "points"))
	return v
}

// execute starts an execution and waits for its end, also while the server comes and goes.
func (l *lane) execute(ctx context.Context, root string, prog *program.Program, inputs map[string]json.RawMessage) (run string, result *workflows.Result, err error) {
	var w client.WorkflowRun
	for {
		w, err = l.site.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
			ID: root, TaskQueue: l.name, WorkflowTaskTimeout: taskTimeout, TypedSearchAttributes: workflows.Attributes(prog.Runbook, "ana"),
		}, prog.Runbook, workflows.Start{Program: prog, Inputs: inputs, Caller: "ana"})
		if err == nil {
			break
		}
		if !pause(ctx) {
			return "", nil, err
		}
	}
	run = w.GetRunID()
	for {
		result = new(workflows.Result)
		err := w.Get(ctx, result)
		var app *temporal.ApplicationError
		var cancelled *temporal.CanceledError
		var ended *temporal.WorkflowExecutionError
		switch {
		case err == nil:
			return run, result, nil
		case errors.As(err, &app) && app.HasDetails():
			return run, result, app.Details(result)
		case errors.As(err, &cancelled) && cancelled.HasDetails():
			return run, result, cancelled.Details(result)
		case errors.As(err, &ended) || !pause(ctx):
			return run, nil, err
		}
	}
}

// pause waits a moment; false: there is no more time.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(100 * time.Millisecond):
		return true
	}
}

// cancelAt cancels an execution when a process has come to its point and waits there.
func (l *lane) cancelAt(ctx context.Context, root, fired, goOn string, ended <-chan struct{}) {
	defer os.WriteFile(goOn, nil, 0o644) // also if there is nothing left to cancel
	for {
		select {
		case <-ended:
			return
		case <-ctx.Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
		if _, err := os.Stat(fired); err != nil {
			continue
		}
		err := l.site.client.CancelWorkflow(ctx, root, "")
		var none *serviceerror.NotFound
		if err == nil || errors.As(err, &none) {
			return
		}
	}
}

// answer approves whatever of an execution waits for it, until somebody cancels.
func (l *lane) answer(ctx context.Context, root, cancelled string, ended <-chan struct{}) {
	for {
		select {
		case <-ended:
			return
		case <-ctx.Done():
			return
		case <-time.After(150 * time.Millisecond):
		}
		if info, err := os.Stat(cancelled); err == nil && !info.IsDir() {
			return
		}
		for _, id := range []string{root + "/first", root, root + "/second"} {
			d, err := l.site.client.DescribeWorkflow(ctx, id, "")
			if err != nil || d.Status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
				continue
			}
			if s, _ := d.TypedSearchAttributes.GetKeyword(temporal.NewSearchAttributeKeyKeyword(workflows.AttrStatus)); s != "waiting" {
				continue
			}
			few, cancel := context.WithTimeout(ctx, 20*time.Second)
			h, err := l.site.client.UpdateWorkflow(few, client.UpdateWorkflowOptions{WorkflowID: id, UpdateName: workflows.AnswerApprove,
				Args: []any{workflows.Answer{By: "ana"}}, WaitForStage: client.WorkflowUpdateStageCompleted})
			if err == nil {
				_ = h.Get(few, nil) // if it was not taken, it is asked for again
			}
			cancel()
		}
	}
}

// field is where many runs are played side by side.
type field struct {
	t        *testing.T
	site     *site
	programs map[*subject]*program.Program
	lanes    [2]chan *lane // without and with nodes
}

// newField opens so many lanes without nodes, and with nodes.
func newField(t *testing.T, events, plain, nodes int) *field {
	t.Helper()
	f := &field{t: t, site: open(t, events), programs: map[*subject]*program.Program{}}
	for _, s := range subjects {
		f.programs[s] = s.compile(t)
	}
	for i, n := range []int{plain, nodes} {
		f.lanes[i] = make(chan *lane, n)
		for range n {
			f.lanes[i] <- f.site.lane(i == 1, "")
		}
	}
	t.Cleanup(func() {
		for i, n := range []int{plain, nodes} {
			for range n {
				(<-f.lanes[i]).stop()
			}
		}
	})
	return f
}

// play plays a run in the next lane that is free. After a violation the lane is a new one.
func (f *field) play(p plan) verdict {
	i := 0
	if p.subject.nodes {
		i = 1
	}
	l := <-f.lanes[i]
	v := l.play(f.t, p, f.programs[p.subject])
	if len(v.wrong) > 0 {
		l.stop()
		l = f.site.lane(i == 1, "")
	}
	f.lanes[i] <- l
	return v
}

// points are those of a subject, from a run in which nothing happens.
func (f *field) points(s *subject) []string {
	f.t.Helper()
	v := f.play(plan{subject: s})
	for _, w := range v.wrong {
		f.t.Errorf("%s, without any trouble: %s (%s)", s.name, w, v.evidence)
	}
	return v.points
}

// tally counts runs of one kind.
type tally struct {
	kind, runbook                    string
	points, runs, missed, violations int
}

// figures are what all campaigns of this process came to; TestMain prints them.
var figures struct {
	sync.Mutex
	rows  []*tally
	notes []string
}

func figure(kind, runbook string, points int) *tally {
	sum := &tally{kind: kind, runbook: runbook, points: points}
	figures.Lock()
	figures.rows = append(figures.rows, sum)
	figures.Unlock()
	return sum
}

func remark(format string, args ...any) {
	figures.Lock()
	figures.notes = append(figures.notes, fmt.Sprintf(format, args...))
	figures.Unlock()
}

func printFigures() {
	defer func() {
		for _, n := range figures.notes {
			fmt.Println(n)
		}
	}()
	if len(figures.rows) == 0 {
		return
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "what\trunbook\tpoints\truns\tnot met\tviolations")
	var all tally
	for _, r := range figures.rows {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\n", r.kind, r.runbook, r.points, r.runs, r.missed, r.violations)
		all.runs, all.missed, all.violations = all.runs+r.runs, all.missed+r.missed, all.violations+r.violations
	}
	fmt.Fprintf(w, "all\t\t\t%d\t%d\t%d\n", all.runs, all.missed, all.violations)
	w.Flush()
}

// tellProgress says every minute how far a campaign is that takes an hour.
func tellProgress() {
	for range time.Tick(time.Minute) {
		figures.Lock()
		var all tally
		for _, r := range figures.rows {
			all.runs, all.violations = all.runs+r.runs, all.violations+r.violations
		}
		fmt.Fprintf(os.Stderr, "%s  %d runs, %d violations so far\n", time.Now().Format(time.TimeOnly), all.runs, all.violations)
		figures.Unlock()
	}
}

// count notes what became of a run.
func (sum *tally) count(t *testing.T, p plan, v verdict) {
	t.Helper()
	figures.Lock()
	defer figures.Unlock()
	sum.runs++
	if len(v.missed) > 0 {
		sum.missed++
		t.Logf("not met: %s in %s", strings.Join(v.missed, ", "), p)
	}
	if len(v.wrong) > 0 {
		sum.violations++
		t.Errorf("ALMANAC_CRASH_POINT=%q\n  %s\n  evidence: %s", p, strings.Join(v.wrong, "\n  "), v.evidence)
	}
}

// job is a plan, and where it counts.
type job struct {
	plan
	sum *tally
}

// playAll plays runs side by side.
func (f *field) playAll(jobs []job) {
	f.t.Helper()
	var all sync.WaitGroup
	for _, j := range jobs {
		all.Go(func() { j.sum.count(f.t, j.plan, f.play(j.plan)) })
	}
	all.Wait()
}

// scale is how much a campaign does.
type scale struct {
	kill, cancel int // every how many-th point
	pairs        int // of points, for each runbook
	cut          int // every how many-th point where executions continue as new all the time
	serverFor    time.Duration
}

// extent is small, or with ALMANAC_CRASH=all everything.
func extent(t *testing.T) scale {
	t.Helper()
	if !everything() {
		// What is tried is the same each time. These tests wait more than they work.
		t.Parallel()
		return scale{kill: 31, cancel: 41, pairs: 1, cut: 97, serverFor: 15 * time.Second}
	}
	sc := scale{kill: 1, cancel: 1, pairs: 40, cut: 4, serverFor: 10 * time.Minute}
	if n, err := strconv.Atoi(os.Getenv("ALMANAC_CRASH_STRIDE")); err == nil && n > 1 {
		sc = scale{kill: n, cancel: n, pairs: max(40/n, 1), cut: 4 * n, serverFor: 10 * time.Minute / time.Duration(n)}
	}
	return sc
}

func everything() bool { return os.Getenv("ALMANAC_CRASH") == "all" }

// chance draws what is drawn: from ALMANAC_CRASH_SEED, else from the time, else (in the small campaign) always the same.
func chance(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(1)
	if everything() {
		seed = uint64(time.Now().UnixNano())
	}
	if given := os.Getenv("ALMANAC_CRASH_SEED"); given != "" {
		var err error
		if seed, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatalf("ALMANAC_CRASH_SEED: %v", err)
		}
	}
	remark("%s: seed %d", t.Name(), seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// every returns some of the points, beginning with another one for each.
func every(points []string, n, from int) (some []string) {
	for i := from % n; i < len(points); i += n {
		some = append(some, points[i])
	}
	return some
}

// TestPoints kills whoever comes to a point, at points of all runbooks; cancels there; and kills at two.
func TestPoints(t *testing.T) {
	sc, chance, began := extent(t), chance(t), time.Now()
	f := newField(t, 0, 6, 3)
	var jobs []job
	for i, s := range subjects {
		points := f.points(s)
		kill, cancel, pairs := figure("kill", s.name, len(points)), figure("cancel", s.name, len(points)), figure("two kills", s.name, len(points))
		for _, p := range every(points, sc.kill, 7*i) {
			jobs = append(jobs, job{plan{s, []string{"kill " + p}}, kill})
		}
		for _, p := range every(points, sc.cancel, 7*i) {
			jobs = append(jobs, job{plan{s, []string{"cancel " + p}}, cancel})
		}
		for range sc.pairs {
			two := chance.Perm(len(points))[:2]
			slices.Sort(two)
			first, second := points[two[0]], points[two[1]]
			if name, ok := strings.CutSuffix(first, "#1:before"); ok && second == name+"#1:after" {
				second = name + "#2:after" // what is killed before it is done is done the next time
			}
			jobs = append(jobs, job{plan{s, []string{"kill " + first, "kill " + second}}, pairs})
		}
	}
	// Those with nodes have lanes of their own: all begin at once.
	chance.Shuffle(len(jobs), func(i, j int) { jobs[i], jobs[j] = jobs[j], jobs[i] })
	f.playAll(jobs)
	for _, j := range jobs {
		if kind := j.sum.kind; kind != "two kills" && j.sum.missed > 2+j.sum.runs/10 {
			t.Errorf("%s %s: %d of %d runs did not come to their point: the points are not the same from run to run", kind, j.sum.runbook, j.sum.missed, j.sum.runs)
			break
		}
	}
	took := time.Since(began)
	remark("%s: %d runs in %s, %.0f a minute", t.Name(), len(jobs), took.Round(time.Second), float64(len(jobs))/took.Minutes())
}

// TestAfterCancel cancels at one point of each runbook, and kills whoever comes to a
// point afterwards: while what runs is stopped and all is taken back.
func TestAfterCancel(t *testing.T) {
	sc := extent(t)
	f := newField(t, 0, 4, 2)
	var jobs []job
	for i, s := range subjects {
		cancel := plan{s, []string{"cancel " + s.cancelAt}}
		v := f.play(cancel)
		at := slices.Index(v.points, s.cancelAt)
		sum := figure("kill after a cancel", s.name, len(v.points)-at-1)
		sum.count(t, cancel, v)
		if at < 0 || v.outcome != workflows.Cancelled {
			t.Errorf("%s: the cancel came to nothing: %s; points\n%s", s.name, v.outcome, strings.Join(v.points, "\n"))
			continue
		}
		for _, p := range every(v.points[at+1:], sc.kill, 7*i) {
			jobs = append(jobs, job{plan{s, append(slices.Clone(cancel.deeds), "kill "+p)}, sum})
		}
	}
	f.playAll(jobs)
}

// TestCut kills and cancels where the server suggests to continue as new all the time: what
// is done is the same as without.
func TestCut(t *testing.T) {
	sc := extent(t)
	f := newField(t, 15, 4, 2)
	var jobs []job
	for i, s := range subjects {
		v := f.play(plan{subject: s})
		sum := figure("cut, kill or cancel", s.name, len(v.points))
		sum.count(t, plan{subject: s}, v)
		if v.runs < 2 && s.name != "lost" {
			t.Errorf("%s: %d runs: it did not continue as new", s.name, v.runs)
		}
		for n, p := range every(v.points, sc.cut, 7*i) {
			jobs = append(jobs, job{plan{s, []string{[]string{"kill ", "cancel "}[n%2] + p}}, sum})
		}
	}
	f.playAll(jobs)
}

// TestServerKilled kills the server with SIGKILL every four to eight seconds, while
// executions run and processes die.
func TestServerKilled(t *testing.T) {
	sc, chance := extent(t), chance(t)
	f := newField(t, 0, 4, 2)
	points := map[*subject][]string{}
	sums := map[*subject]*tally{}
	for _, s := range subjects {
		points[s] = f.points(s)
		sums[s] = figure("server killed", s.name, len(points[s]))
	}
	kills := 0
	over := make(chan struct{})
	dice := rand.New(rand.NewPCG(chance.Uint64(), 1))
	var killer sync.WaitGroup
	killer.Go(func() {
		end := time.After(sc.serverFor)
		for {
			select {
			case <-time.After(4*time.Second + time.Duration(dice.Int64N(int64(4*time.Second)))):
				f.site.server.kill()
				kills++
			case <-end:
				close(over)
				return
			}
		}
	})
	// As many players as lanes, each with what comes next.
	var mu sync.Mutex
	next := func(nodes bool, n int) plan {
		mu.Lock()
		defer mu.Unlock()
		var fit []*subject
		for _, s := range subjects {
			if s.nodes == nodes {
				fit = append(fit, s)
			}
		}
		s := fit[n%len(fit)]
		point := points[s][chance.IntN(len(points[s]))]
		return plan{s, [][]string{nil, {"kill " + point}, {"cancel " + point}}[chance.IntN(3)]}
	}
	var players sync.WaitGroup
	for i := range 6 {
		players.Go(func() {
			for n := i; ; n++ {
				select {
				case <-over:
					return
				default:
				}
				p := next(i >= 4, n)
				v := f.play(p)
				v.missed = nil // where it comes to depends on when the server was away
				sums[p.subject].count(t, p, v)
			}
		})
	}
	players.Wait()
	killer.Wait()
	remark("%s: %d kills of the server in %s", t.Name(), kills, sc.serverFor)
	if kills < int(sc.serverFor/(9*time.Second)) {
		t.Errorf("the server was killed %d times in %s only", kills, sc.serverFor)
	}
}

// TestMutants plants each bug in the processes of a lane, and wants its check to notice.
func TestMutants(t *testing.T) {
	if !everything() {
		t.Parallel()
	}
	sites := map[int]*site{}
	caught := 0
	for _, name := range sorted(mutants) {
		if name == "" {
			continue
		}
		m := mutants[name]
		subject := subjectOf(t, m.subject)
		if sites[m.events] == nil {
			sites[m.events] = open(t, m.events)
		}
		l := sites[m.events].lane(subject.nodes, name)
		p := plan{subject: subject}
		if m.at != "" {
			p.deeds = []string{m.at}
		}
		v := l.play(t, p, subject.compile(t))
		l.stop()
		switch {
		case !slices.ContainsFunc(v.wrong, func(w string) bool { return strings.Contains(w, m.caught) }):
			t.Errorf("mutant %s (%s): found %q, want %q; points\n%s", name, m.bug, v.wrong, m.caught, strings.Join(v.points, "\n"))
		default:
			caught++
		}
	}
	remark("mutants caught %d/%d", caught, len(mutants)-1)
}

// TestReplay plays one run again.
func TestReplay(t *testing.T) {
	given := os.Getenv("ALMANAC_CRASH_POINT")
	if given == "" {
		t.Skip("ALMANAC_CRASH_POINT is not set: there is nothing to play again")
	}
	var p plan
	for d := range strings.SplitSeq(given, " + ") {
		verb, rest, ok := strings.Cut(d, " ")
		if !ok {
			rest = verb
		}
		name, point, _ := strings.Cut(rest, "/")
		p.subject = subjectOf(t, name)
		if ok {
			p.deeds = append(p.deeds, verb+" "+point)
		}
	}
	f := newField(t, 0, 1, 1)
	v := f.play(p)
	t.Logf("points passed:\n  %s", strings.Join(v.points, "\n  "))
	t.Logf("not met: %q; outcome %s in %d runs", v.missed, v.outcome, v.runs)
	for _, w := range v.wrong {
		t.Error(w)
	}
	if v.evidence != "" {
		t.Logf("evidence: %s", v.evidence)
	}
}

func onceDir(pattern string) func() string {
	return sync.OnceValue(func() string {
		dir, err := os.MkdirTemp("", pattern)
		must(err)
		return dir
	})
}
