// Package workflows runs compiled runbooks as Temporal workflows.
//
// It gives the interpreter (Runbook, registered for every workflow type) and the
// messages that clients exchange with an execution. It promises what docs/spec.md says of running:
// a compensation is in the workflow's state before its effect is scheduled,
// rollback is last in first out, `finally` runs always, and a recorded history
// replays the same. It refuses to know actions (it calls them by name), YAML and
// the compiler, clocks, randomness and I/O.
package workflows

import (
	"encoding/json"
	"time"

	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/lang/program"
)

// TaskQueue is where executions and the actions of the control worker run.
const TaskQueue = registry.TaskQueue

// NodeQueue is the task queue of one node's agent.
func NodeQueue(node string) string { return "node/" + node }

// CompensatePrefix stands before an action's name in the activity type that
// compensates it: "compensate:host.file.write".
const CompensatePrefix = "compensate:"

// Start is the input of an execution.
type Start struct {
	Program *program.Program           `json:"program"`
	Inputs  map[string]json.RawMessage `json:"inputs,omitempty"` // checked by CheckInputs; a secret is {"$secret": ref}
	Caller  string                     `json:"caller,omitempty"` // who started it, as the starter knows
	Only    []string                   `json:"only,omitempty"`   // nodes: steps on several targets run on no others; nil: on all
	Within  []Holder                   `json:"within,omitempty"` // the executions that call this one, outermost first
	State   *State                     `json:"state,omitempty"`  // set by continue-as-new only

	// TakeBack makes the execution take back what another one has left, and do nothing else.
	TakeBack *TakeBack `json:"take_back,omitempty"`
}

// TakeBack is what an execution that has ended has left.
type TakeBack struct {
	Of  string `json:"of"`            // id of that execution
	Run string `json:"run,omitempty"` // of Temporal, since an id can be used again

	// Program is what it ran. Start has none then: a worker that knows no TakeBack
	// refuses such a start, and does not run the runbook a second time.
	Program *program.Program `json:"program"`

	Left json.RawMessage `json:"left,omitempty"` // its Result.Left; nil once it is in State
}

// Runs returns the program that the execution runs, or whose work it takes back.
func (s *Start) Runs() *program.Program {
	if s.TakeBack != nil {
		return s.TakeBack.Program
	}
	return s.Program
}

// Outcome is how an execution ended.
type Outcome string

// The outcomes. All but Succeeded and Cancelled make the workflow fail, with
// the outcome as the failure's type and a Result as its detail.
const (
	Succeeded      Outcome = "succeeded"
	Failed         Outcome = "failed"
	RolledBack     Outcome = "rolled_back"
	RollbackFailed Outcome = "rollback_failed"
	Cancelled      Outcome = "cancelled"
	TimedOut       Outcome = "timed_out"
)

// Result is what an execution returns: as its result if it succeeded, else as
// the first detail of its failure (or cancellation).
type Result struct {
	Outcome Outcome                    `json:"outcome"`
	Message string                     `json:"message,omitempty"` // of `stop:`, or the failure in one line
	Outputs map[string]json.RawMessage `json:"outputs,omitempty"`
	Failure *Failure                   `json:"failure,omitempty"` // nil if it succeeded

	// RolledBack and NotRolledBack name the steps whose compensation succeeded
	// and failed, in the order they ran.
	RolledBack    []string   `json:"rolled_back,omitempty"`
	NotRolledBack []*Failure `json:"not_rolled_back,omitempty"`

	// Undo is, for a child runbook that succeeded, what its caller must compensate later.
	Undo json.RawMessage `json:"undo,omitempty"`

	// Left is what could not be taken back, or was not because of `on_failure: stop`,
	// for a TakeBack; LeftCount is how many compensations that are.
	Left      json.RawMessage `json:"left,omitempty"`
	LeftCount int             `json:"left_count,omitempty"`

	// Keys are the locks that a child runbook passes on to its caller with Undo.
	Keys []string `json:"keys,omitempty"`
}

// Failure is one step's error with its place.
type Failure struct {
	Step    string          `json:"step"`              // path, such as "copies[3].copy"
	Target  string          `json:"target,omitempty"`  // node id
	Action  string          `json:"action,omitempty"`  // action or form
	Kind    string          `json:"kind"`              // action.Kind
	Message string          `json:"message"`           // one line or more
	Runbook string          `json:"runbook,omitempty"` // of the step
	File    string          `json:"file,omitempty"`
	Pos     program.Pos     `json:"pos"`
	Detail  json.RawMessage `json:"detail,omitempty"` // the action's own: of a command its exit code, tail and output pointer
	Cause   *Failure        `json:"cause,omitempty"`  // in a child runbook

	// Then is what its step says, or an operator has chosen, to do about it:
	// "rollback" or "stop"; empty: as the runbook says.
	Then string `json:"then,omitempty"`
}

// QueryState is the query that returns a View.
const QueryState = "state"

// View is an execution as people see it.
type View struct {
	Runbook   string     `json:"runbook"`
	Status    string     `json:"status"` // "running", "waiting", "rolling_back", "finally", or an Outcome
	StartedAt time.Time  `json:"started_at"`
	EndedAt   *time.Time `json:"ended_at,omitempty"`
	Caller    string     `json:"caller,omitempty"`
	TakesBack string     `json:"takes_back,omitempty"` // id of the execution whose work this one takes back
	Steps     []StepView `json:"steps"`                // in program order, then rollback, then finally; nested steps follow their parent
	Waiting   []Wait     `json:"waiting,omitempty"`
	Result    *Result    `json:"result,omitempty"` // once ended
}

// The states of a step.
const (
	StatePending       = "pending"
	StateRunning       = "running"
	StateWaiting       = "waiting" // for a person, or for time
	StateSucceeded     = "succeeded"
	StateFailed        = "failed"
	StateHandled       = "handled" // failed, and on_error took care
	StateSkipped       = "skipped"
	StateCancelled     = "cancelled"
	StateUnreached     = "unreached" // of one target: nobody took the work
	StateRollingBack   = "rolling_back"
	StateRolledBack    = "rolled_back"
	StateNotRolledBack = "not_rolled_back"
)

// StepView is one step as people see it. Of a loop, only the iteration that
// runs or failed is listed below it; Done, Errors and Total count them.
type StepView struct {
	Path      string      `json:"path"`
	Depth     int         `json:"depth"` // of nesting, 0 at the top
	Name      string      `json:"name,omitempty"`
	Form      string      `json:"form"`            // action name, or program.Kind
	Phase     string      `json:"phase,omitempty"` // "" (steps), "rollback" or "finally"
	State     string      `json:"state"`
	StartedAt *time.Time  `json:"started_at,omitempty"`
	EndedAt   *time.Time  `json:"ended_at,omitempty"`
	Target    string      `json:"target,omitempty"` // if there is one only
	Done      int         `json:"done,omitempty"`   // targets or iterations that ended well
	Errors    int         `json:"errors,omitempty"`
	Total     int         `json:"total,omitempty"`
	Message   string      `json:"message,omitempty"` // why skipped, what it waits for, the error's first line
	Outputs   []Pointer   `json:"outputs,omitempty"` // complete output in the output store, last 20
	Pos       program.Pos `json:"pos"`
	Child     string      `json:"child,omitempty"` // workflow id of a child runbook
	Recap     *Recap      `json:"recap,omitempty"` // of a step on several targets
}

// Recap counts how the targets of a step stand, each once; those that have not
// begun are what is left of Total. Once the step has ended they count as skipped.
type Recap struct {
	Total     int `json:"total"`
	Succeeded int `json:"succeeded"`
	Failed    int `json:"failed"`
	Unreached int `json:"unreached"` // nobody took the work: nothing ran
	Skipped   int `json:"skipped"`   // not begun when the step ended
	Cancelled int `json:"cancelled"` // cut off
	Running   int `json:"running"`
	Away      int `json:"away,omitempty"` // matched as well, and were no target, since they were away: not in Total

	Failures []Alike  `json:"failures,omitempty"` // of those that failed or were unreached, most targets first
	Others   int      `json:"others,omitempty"`   // failures that are in none of the groups
	Left     []string `json:"left,omitempty"`     // of those skipped, cancelled and away, the first
}

// Alike is targets that failed the same way: up to numbers and their own names
// in the last line.
type Alike struct {
	Count    int      `json:"count"`
	Kind     string   `json:"kind"` // action.Kind
	ExitCode int      `json:"exit_code,omitempty"`
	Line     string   `json:"line"`  // a command's last, or the first of the error
	Nodes    []string `json:"nodes"` // the first
}

// QueryTargets is the query that returns a TargetsPage: how each target of each
// step stands. Its argument is how many targets to pass over.
const QueryTargets = "targets"

// TargetsPage is a part of the targets of an execution, in the order of its steps.
type TargetsPage struct {
	Targets []TargetView `json:"targets"`
	Next    int          `json:"next,omitempty"` // the argument of the next page; 0: there is none
}

// TargetView is one target of one step.
type TargetView struct {
	Step     string `json:"step"` // path
	Target   string `json:"target"`
	State    string `json:"state"`               // StateUnreached if nobody took the work
	Kind     string `json:"kind,omitempty"`      // of its failure, as all that follows
	ExitCode int    `json:"exit_code,omitempty"` // of a command
	Line     string `json:"line,omitempty"`
	Ref      string `json:"ref,omitempty"` // its complete output
}

// Pointer names one piece of complete output.
type Pointer struct {
	Target string `json:"target,omitempty"`
	Ref    string `json:"ref"` // in the output store
	Size   int64  `json:"size"`
}

// Wait is something a person must answer, or, of kind WaitLock, the turn of this
// execution: that nobody answers, and Step is the workflow id of the lock.
type Wait struct {
	Step      string      `json:"step"` // path
	Kind      string      `json:"kind"` // "approval", "pause", "ask", "halt" or WaitLock
	Message   string      `json:"message"`
	Approvers []string    `json:"approvers,omitempty"`
	Quorum    int         `json:"quorum,omitempty"`
	Approved  []string    `json:"approved,omitempty"` // by whom so far
	Deadline  *time.Time  `json:"deadline,omitempty"`
	Choices   []string    `json:"choices"`           // names of updates that answer it
	Failure   *Failure    `json:"failure,omitempty"` // for "ask" and "halt"
	Pos       program.Pos `json:"pos"`
}

// WaitLock is the kind of a Wait for the locks of `lock:` and the places of `max_running:`.
const WaitLock = "lock"

// The answers, each an Update (with a validator that refuses what does not fit)
// and a Signal of the same name, for the Web UI. Their argument is an Answer.
//
// What answers "ask" answers "halt", too: of a step on targets that was halted
// retry is for those that failed, and skip leaves those that have not begun.
const (
	AnswerApprove  = "approve"  // an approval
	AnswerReject   = "reject"   // an approval
	AnswerResume   = "resume"   // a pause
	AnswerRetry    = "retry"    // ask: run the failed step again, with Answer.With over its inputs
	AnswerSkip     = "skip"     // ask: go on without the failed step's outputs
	AnswerContinue = "continue" // halt: go on with the targets that have not begun
	AnswerRollback = "rollback" // ask: fail, and roll back
	AnswerStop     = "stop"     // ask: fail, and leave everything as it is
)

// Answer is what a person says to a Wait.
type Answer struct {
	Step    string                     `json:"step,omitempty"` // path; may be empty if one step waits
	By      string                     `json:"by,omitempty"`   // who; required of approvals with approvers
	Comment string                     `json:"comment,omitempty"`
	With    map[string]json.RawMessage `json:"with,omitempty"` // AnswerRetry: inputs to change
}

// Search attributes of an execution. KeywordList for targets, else Keyword.
const (
	AttrRunbook = "AlmanacRunbook"
	AttrStatus  = "AlmanacStatus" // View.Status
	AttrStep    = "AlmanacStep"   // path of the step that waits or failed
	AttrCaller  = "AlmanacCaller"
	AttrTargets = "AlmanacTargets" // node ids, the first 20
)
