package workflows

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/lang/program"
)

// wait is something a person must answer, while it is open.
type wait struct {
	Wait
	rec *record
	sc  *scope
	// inputs are the keys that Answer.With may have; nil: none.
	inputs []string
}

// choices says which answers fit which kind of wait.
var choices = map[string][]string{
	"approval": {AnswerApprove, AnswerReject},
	"pause":    {AnswerResume},
	"ask":      {AnswerRetry, AnswerSkip, AnswerRollback, AnswerStop},
	"halt":     {AnswerContinue, AnswerRetry, AnswerSkip, AnswerRollback, AnswerStop},
}

type namedAnswer struct{ name, description string }

var allAnswers = []namedAnswer{
	{AnswerApprove, "Approve a step that waits for approval"},
	{AnswerReject, "Reject a step that waits for approval"},
	{AnswerResume, "Go on after a pause"},
	{AnswerRetry, "Run the failed step again"},
	{AnswerSkip, "Go on without the failed step"},
	{AnswerContinue, "Go on with the remaining targets of the halted step"},
	{AnswerRollback, "Take back what was done"},
	{AnswerStop, "End, and leave everything as it is"},
}

// answers lets people answer, by Update (which is refused if it does not fit)
// and by Signal (which is then ignored), and ask for the state.
func (r *run) answers(ctx workflow.Context) error {
	err := workflow.SetQueryHandlerWithOptions(ctx, QueryState, func() (View, error) { return r.view(), nil },
		workflow.QueryHandlerOptions{Description: "What the execution has done and waits for"})
	if err != nil {
		return err
	}
	err = workflow.SetQueryHandlerWithOptions(ctx, QueryTargets, func(from int) (TargetsPage, error) { return r.page(from), nil },
		workflow.QueryHandlerOptions{Description: "How each target stands, after so many"})
	if err != nil {
		return err
	}
	for _, a := range allAnswers {
		err := workflow.SetUpdateHandlerWithOptions(ctx, a.name,
			func(ctx workflow.Context, answer Answer) (string, error) {
				if err := workflow.Await(ctx, func() bool { return !r.reopening(ctx) }); err != nil {
					return "", err
				}
				w, err := r.fits(a.name, answer)
				if err != nil {
					return "", err // two answers in one workflow task: the second no longer fits
				}
				r.accept(w, a.name, answer)
				return w.Step, nil
			},
			workflow.UpdateHandlerOptions{
				Description: a.description,
				Validator: func(ctx workflow.Context, answer Answer) error {
					if r.reopening(ctx) {
						return nil // it is looked at again
					}
					_, err := r.fits(a.name, answer)
					return err
				},
			})
		if err != nil {
			return err
		}
		workflow.GetSignalChannelWithOptions(ctx, a.name, workflow.SignalChannelOptions{Description: a.description})
	}
	if r.start.State != nil {
		r.listen(ctx) // a wait may be open since the run before, and its answer on the way
	}
	return nil
}

// listen takes signals as they come. It begins with the first wait: a coroutine
// costs at every workflow task, also when it has nothing to do, and most
// executions wait for nobody.
func (r *run) listen(ctx workflow.Context) {
	r.listening = true
	workflow.Go(ctx, func(ctx workflow.Context) {
		// Not by a selector: that has taken a signal before its turn comes to handle it, and
		// what it has taken is lost if the execution continues as new in the same task.
		said := func() bool {
			return !r.reopening(ctx) && slices.ContainsFunc(allAnswers, func(a namedAnswer) bool { return workflow.GetSignalChannel(ctx, a.name).Len() > 0 })
		}
		for workflow.Await(ctx, said) == nil {
			r.drainSignals(ctx)
		}
	})
}

// reopening tells whether steps that waited for a person in the run before are
// still to wait again. That happens in the first workflow task of a run, but not
// at once: one in a branch or an iteration comes after what listens to answers,
// which would find that nobody waits for an answer sent between the runs. A step
// that has not come to its wait in that task does not wait any more.
func (r *run) reopening(ctx workflow.Context) bool {
	return len(r.toReopen) > 0 && workflow.GetInfo(ctx).GetCurrentHistoryLength() == r.firstTask
}

func (r *run) signalled(ctx workflow.Context, name string, answer Answer) {
	w, err := r.fits(name, answer)
	if err != nil {
		workflow.GetLogger(ctx).Warn("signal ignored", "signal", name, "reason", err)
		return
	}
	r.accept(w, name, answer)
}

// drainSignals takes the signals that have arrived, so that none is lost when
// the run ends.
func (r *run) drainSignals(ctx workflow.Context) {
	for _, a := range allAnswers {
		var answer Answer
		for workflow.GetSignalChannel(ctx, a.name).ReceiveAsync(&answer) {
			r.signalled(ctx, a.name, answer)
			answer = Answer{}
		}
	}
}

// What an answer may hold: it stays in the state of the execution.
const (
	mostName    = 200
	mostComment = 4 << 10
)

// fits finds what an answer answers, or says why it answers nothing.
func (r *run) fits(name string, answer Answer) (*wait, error) {
	if len(answer.By) > mostName || len(answer.Comment) > mostComment {
		return nil, fmt.Errorf("a name has at most %d bytes and a comment %d", mostName, mostComment)
	}
	var candidates []string
	for _, path := range r.order {
		w := r.waits[path]
		if w.rec.Choice == "" && slices.Contains(w.Choices, name) && (answer.Step == "" || answer.Step == path) {
			candidates = append(candidates, path)
		}
	}
	switch {
	case len(candidates) == 0 && len(r.order) == 0:
		return nil, errors.New("no step waits for an answer")
	case len(candidates) == 0 && answer.Step != "":
		if w := r.waits[answer.Step]; w != nil {
			return nil, fmt.Errorf("step %s waits for %s, not for %s", answer.Step, strings.Join(w.Choices, ", "), name)
		}
		return nil, fmt.Errorf("step %s does not wait; waiting: %s", answer.Step, strings.Join(r.order, ", "))
	case len(candidates) == 0:
		w := r.waits[r.order[0]]
		return nil, fmt.Errorf("step %s waits for %s, not for %s", w.Step, strings.Join(w.Choices, ", "), name)
	case len(candidates) > 1:
		return nil, fmt.Errorf("several steps wait: say which: %s", strings.Join(candidates, ", "))
	}
	w := r.waits[candidates[0]]
	if len(w.Approvers) > 0 {
		if answer.By == "" {
			return nil, fmt.Errorf("step %s has named approvers: say who you are", w.Step)
		}
		if !slices.Contains(w.Approvers, answer.By) {
			return nil, fmt.Errorf("%s is no approver of step %s; approvers: %s", answer.By, w.Step, strings.Join(w.Approvers, ", "))
		}
	}
	if w.Quorum > 1 && answer.By == "" {
		return nil, fmt.Errorf("step %s needs %d approvals: say who you are", w.Step, w.Quorum)
	}
	if answer.By != "" && slices.Contains(w.Approved, answer.By) && name == AnswerApprove {
		return nil, fmt.Errorf("%s has approved step %s already", answer.By, w.Step)
	}
	for _, key := range sortedKeys(answer.With) {
		if name != AnswerRetry || !slices.Contains(w.inputs, key) {
			return nil, fmt.Errorf("step %s has no input %s to change; it has %s", w.Step, key, strings.Join(w.inputs, ", "))
		}
	}
	return w, nil
}

// accept applies an answer that fits.
func (r *run) accept(w *wait, name string, answer Answer) {
	w.rec.Answers = append(w.rec.Answers, answer)
	if name == AnswerApprove {
		w.Approved = append(w.Approved, answer.By)
	}
	if name != AnswerApprove || len(w.Approved) >= w.Quorum {
		w.rec.Choice = name
	}
	if len(answer.With) > 0 {
		if w.rec.With == nil {
			w.rec.With = map[string]json.RawMessage{}
		}
		for _, key := range sortedKeys(answer.With) {
			w.rec.With[key] = answer.With[key]
		}
	}
	r.dirty = true
}

// people opens a wait and blocks until it is answered (true) or its deadline
// has passed (false). The answer is in rec.Choice and rec.Answers.
func (r *run) people(ctx workflow.Context, sc *scope, rec *record, w *wait) (bool, error) {
	if !r.listening {
		r.drainSignals(ctx) // what was sent before anything waited answers nothing
		r.listen(ctx)
	}
	w.rec, w.sc = rec, sc
	w.Choices = choices[w.Kind]
	for _, a := range rec.Answers {
		w.Approved = append(w.Approved, a.By) // given in an earlier run of the execution
	}
	rec.State, rec.Message = StateWaiting, w.Message
	r.waits[w.Step] = w
	r.toReopen = slices.DeleteFunc(r.toReopen, func(p string) bool { return p == w.Step })
	if !slices.Contains(r.order, w.Step) {
		r.order = append(r.order, w.Step)
	}
	r.dirty = true
	r.attribute(ctx, AttrStatus, "waiting", AttrStep, w.Step)
	answered, err := r.await(ctx, sc, w.Deadline, w.Kind+" "+w.Step, func() bool { return rec.Choice != "" })
	if errors.Is(err, errHalted) && r.draining {
		return false, err // an answer that comes before the next run begins still counts
	}
	delete(r.waits, w.Step)
	r.order = slices.DeleteFunc(r.order, func(p string) bool { return p == w.Step })
	r.dirty = true
	if err != nil {
		return false, err
	}
	rec.State = StateRunning
	if len(r.order) == 0 {
		r.attribute(ctx, AttrStatus, "running")
	}
	return answered, nil
}

// approval waits for a quorum of named people.
func (r *run) approval(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step) error {
	a := s.Approval
	w := &wait{Wait: Wait{Step: path, Kind: "approval", Pos: s.Pos}}
	var err error
	if w.Message, err = sc.text(ctx, &a.Message); err != nil {
		return err
	}
	if a.Approvers != nil {
		if err := sc.decode(ctx, a.Approvers, &w.Approvers, "a list of names"); err != nil {
			return err
		}
		slices.Sort(w.Approvers)
		w.Approvers = slices.Compact(w.Approvers) // a quorum counts people
	}
	if w.Quorum, err = sc.integer(ctx, a.Quorum, 1); err != nil {
		return err
	}
	if w.Quorum < 1 || len(w.Approvers) > 0 && w.Quorum > len(w.Approvers) {
		return sc.fail(action.Invalid, s.Pos, "a quorum of %d cannot be reached with %d approvers", w.Quorum, len(w.Approvers))
	}
	if a.Timeout != nil {
		d, err := sc.duration(ctx, a.Timeout, 0)
		if err != nil {
			return err
		}
		t := rec.Start.Add(d)
		w.Deadline = &t
	}
	answered, err := r.people(ctx, sc, rec, w)
	if err != nil {
		return err
	}
	decision, by := "approved", []any{}
	comment := ""
	for _, given := range rec.Answers {
		if given.By != "" {
			by = append(by, given.By)
		}
		if given.Comment != "" {
			comment = given.Comment
		}
	}
	who := joinAny(by)
	switch {
	case answered && rec.Choice == AnswerReject:
		last := rec.Answers[len(rec.Answers)-1]
		message := "rejected"
		if last.By != "" {
			message += " by " + last.By
		}
		if last.Comment != "" {
			message += ": " + last.Comment
		}
		return sc.fail(action.Denied, s.Pos, "%s", message)
	case !answered && a.OnTimeout == program.OnTimeoutReject:
		return sc.fail(action.Denied, s.Pos, "rejected: nobody approved in time")
	case !answered && a.OnTimeout == program.OnTimeoutApprove:
		decision, rec.Message = "timed_out", "approved: its time passed"
	case !answered:
		return sc.fail(action.Timeout, s.Pos, "nobody approved in time")
	default:
		rec.Message = "approved"
		if who != "" {
			rec.Message += " by " + who
		}
		if comment != "" {
			rec.Message += ": " + comment
		}
	}
	rec.Out, err = json.Marshal(map[string]any{"decision": decision, "by": by, "comment": comment})
	return err
}

func joinAny(list []any) string {
	var parts []string
	for _, v := range list {
		parts = append(parts, fmt.Sprint(v))
	}
	return strings.Join(parts, ", ")
}

// pause waits until somebody says resume.
func (r *run) pause(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step) error {
	message, err := sc.text(ctx, s.Message)
	if err != nil {
		return err
	}
	_, err = r.people(ctx, sc, rec, &wait{Wait: Wait{Step: path, Kind: "pause", Message: message, Pos: s.Pos}})
	if err == nil {
		rec.Message = ""
		if by := rec.Answers[len(rec.Answers)-1].By; by != "" {
			rec.Message = "resumed by " + by
		}
	}
	return err
}

// ask lets an operator choose what to do about a failed step.
func (r *run) ask(ctx workflow.Context, sc *scope, rec *record, path string, s *program.Step, f *Failure) (string, error) {
	if rec.Failure == nil { // else asked by an earlier run of the execution, and answered perhaps
		rec.Failure, rec.Choice, rec.Answers = f, "", nil
	}
	w := &wait{Wait: Wait{Step: path, Kind: "ask", Message: f.Message, Failure: f, Pos: s.Pos}}
	if rec.Halted != "" {
		w.Kind = "halt"
	}
	if s.Call != nil {
		for _, e := range s.Call.With {
			w.inputs = append(w.inputs, e.Key)
		}
	}
	if s.Child != nil {
		for _, e := range s.Child.With {
			w.inputs = append(w.inputs, e.Key)
		}
	}
	if _, err := r.people(ctx, sc, rec, w); err != nil {
		return "", err
	}
	choice := rec.Choice
	rec.Choice, rec.Answers, rec.Message = "", nil, ""
	return choice, nil
}

func sortedKeys(m map[string]json.RawMessage) []string {
	return workflow.DeterministicKeys(m)
}

// inTime is a deadline for people.
func inTime(t *time.Time) string {
	if t == nil {
		return ""
	}
	return " until " + t.UTC().Format(time.RFC3339)
}
