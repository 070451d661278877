package workflows

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/lang/program"
)

// State is where an execution stands: everything that continue-as-new carries
// to the next run. The next run walks the program from its start, passes over
// what is recorded as done, and goes on with the rest. Only the interpreter
// reads and writes it.
type State struct {
	Phase      phase                      `json:"phase"`
	StartedAt  time.Time                  `json:"started_at"` // of the execution, not of this run
	Deadline   *time.Time                 `json:"deadline,omitempty"`
	Vars       map[string]json.RawMessage `json:"vars,omitempty"`
	Steps      *record                    `json:"steps"`                 // tree of what ran, in the shape of the program
	Finally    *record                    `json:"finally,omitempty"`     // likewise, of `finally:`
	Undo       []*undo                    `json:"undo,omitempty"`        // what rollback would do, last first
	Recorded   int                        `json:"recorded,omitempty"`    // how many compensations have been recorded
	Taken      []*undo                    `json:"taken,omitempty"`       // what rollback has done, for people
	Left       []*undo                    `json:"left,omitempty"`        // what could not be taken back, in the order in which it was tried
	LeftKeys   []string                   `json:"left_keys,omitempty"`   // locks of called runbooks under which Left, or of a TakeBack Undo, was done
	LeftBehind []*Failure                 `json:"left_behind,omitempty"` // what child runbooks could not take back
	End        *Result                    `json:"end,omitempty"`         // set when the steps have ended
	Shared     []json.RawMessage          `json:"shared,omitempty"`      // in JSON: inputs that several of Undo and Left have in common

	// Keys are the locks that the execution holds or waits for, in the order in which
	// it takes them; Admitted is when it held them all. Nil if it needs none.
	Keys     []*hold    `json:"keys,omitempty"`
	Admitted *time.Time `json:"admitted,omitempty"`

	// Open are the steps that wait for a person when the execution continues as new.
	Open []string `json:"open,omitempty"`

	// Remote says of targets that have no agent of ours how the control worker reaches them.
	Remote map[string]*action.Target `json:"remote,omitempty"`
}

// phase is the part of an execution that runs.
type phase string

const (
	phaseSteps    phase = "steps"
	phaseRollback phase = "rollback"
	phaseFinally  phase = "finally"
)

// relink makes what is being taken back one with what is shown of it: in JSON
// they are two.
func (s *State) relink() {
	s.Taken = slices.DeleteFunc(s.Taken, func(u *undo) bool { return u.State == StateRollingBack })
	for _, u := range slices.Backward(s.Undo) {
		if u.State == StateRollingBack {
			s.Taken = append(s.Taken, u)
		}
	}
}

// record is what is known of one step, one iteration, one branch or one target.
type record struct {
	State   string             `json:"s,omitempty"`
	Name    string             `json:"n,omitempty"` // resolved `name:`
	Start   *time.Time         `json:"b,omitempty"`
	End     *time.Time         `json:"e,omitempty"`
	Out     json.RawMessage    `json:"o,omitempty"` // steps.<id>, if the program reads it
	Message string             `json:"m,omitempty"`
	Failure *Failure           `json:"f,omitempty"`
	Logs    []Pointer          `json:"l,omitempty"`
	Target  string             `json:"t,omitempty"`
	Child   string             `json:"c,omitempty"` // workflow id
	Sub     map[string]*record `json:"sub,omitempty"`

	// Gen counts how often work was scheduled, so that each time has its own
	// token; Try the attempts at a block or child.
	Gen int `json:"g,omitempty"`
	Try int `json:"y,omitempty"`

	// Back says that the attempt Try has failed, with Failure, and is being taken
	// back before the next, which begins at Until.
	Back bool `json:"back,omitempty"`

	// Of loops and of steps on several targets: items below Next were taken up,
	// those in Open have not ended.
	Nodes   []string          `json:"nodes,omitempty"`
	Next    int               `json:"next,omitempty"`
	Open    []int             `json:"open,omitempty"`
	Done    int               `json:"done,omitempty"`
	Errors  int               `json:"errors,omitempty"`
	Total   int               `json:"total,omitempty"`
	Results []json.RawMessage `json:"results,omitempty"`
	Passed  int               `json:"passed,omitempty"` // batches that ended, with their bake and gate

	// Of steps on several targets: how each of Nodes stands; why it was halted;
	// errors that an operator has accepted; whether what failed is to be tried again.
	Away     []string  `json:"away,omitempty"` // matched, and were no target because they were away
	Marks    standings `json:"marks,omitempty"`
	Halted   string    `json:"halted,omitempty"`
	Forgiven int       `json:"forgiven,omitempty"`
	Again    bool      `json:"again,omitempty"`
	Kept     int       `json:"kept,omitempty"` // bytes of Results; above mostAnswers there are none

	Limit *time.Time `json:"limit,omitempty"` // when the step's own timeout passes

	// Of waits.
	Until   *time.Time                 `json:"until,omitempty"`
	Answers []Answer                   `json:"answers,omitempty"` // that count
	Choice  string                     `json:"choice,omitempty"`  // that decided
	With    map[string]json.RawMessage `json:"with,omitempty"`    // inputs changed by an operator
}

// sub returns the record below r with that key, made if it is new.
func (r *record) sub(key string) *record {
	if s := r.Sub[key]; s != nil {
		return s
	}
	if r.Sub == nil {
		r.Sub = map[string]*record{}
	}
	s := &record{}
	r.Sub[key] = s
	return s
}

// done tells whether the step has ended in a way that lets what follows run.
func (r *record) done() bool {
	return r.State == StateSucceeded || r.State == StateHandled || r.State == StateSkipped
}

// missing tells whether a result is not there. In a list that has been through
// JSON it is null.
func missing(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// undo is one compensation, recorded before the effect is scheduled.
type undo struct {
	Path    string          `json:"path"`
	Number  int             `json:"number,omitempty"` // in the order in which they were recorded, from 1; 0: by an older worker
	Name    string          `json:"name,omitempty"`
	Target  string          `json:"target,omitempty"`
	Remote  *action.Target  `json:"remote,omitempty"` // how Target is reached, if not by its own agent
	Action  string          `json:"action,omitempty"` // empty: Custom
	Input   json.RawMessage `json:"input,omitempty"`
	Output  json.RawMessage `json:"output,omitempty"` // nil: the answer was lost, or the step failed
	Shared  *int            `json:"shared,omitempty"` // in JSON: Input is this one of State.Shared
	Token   string          `json:"token,omitempty"`
	Custom  *custom         `json:"custom,omitempty"`
	Runbook string          `json:"runbook"` // whose step it is
	Pos     program.Pos     `json:"pos"`
	State   string          `json:"state,omitempty"`   // once tried
	Message string          `json:"message,omitempty"` // why it failed; of State.Left, if it was tried
	Start   *time.Time      `json:"b,omitempty"`
	End     *time.Time      `json:"e,omitempty"`
	Sub     *record         `json:"sub,omitempty"` // of Custom, while it runs
}

// record numbers compensations that are recorded now.
func (s *State) record(us ...*undo) {
	for _, u := range us {
		s.Recorded++
		u.Number = s.Recorded
	}
}

// custom is a `rollback:` of the runbook's own, with the values of the moment
// its step completed.
type custom struct {
	Step   string                     `json:"step"`         // id, in the program Runbook
	ID     string                     `json:"id,omitempty"` // of the child execution it comes from; also Began, Inputs, Vars
	Began  time.Time                  `json:"began,omitzero"`
	Inputs map[string]json.RawMessage `json:"inputs,omitempty"`
	Vars   map[string]json.RawMessage `json:"vars,omitempty"`
	Steps  map[string]json.RawMessage `json:"steps,omitempty"`
	Item   json.RawMessage            `json:"item,omitempty"` // of the innermost loop
	Index  *int                       `json:"index,omitempty"`
	Loop   string                     `json:"loop,omitempty"` // its step's id, for the item's type
}

// shareAbove is the size from which an input that several compensations have is
// written once: a file for thousands of nodes is the same for all, and too
// large for the compression to see that.
const shareAbove = 256

// share returns us with what their inputs have in common taken out.
func share(us []*undo) (apart []*undo, shared []json.RawMessage) {
	at := map[string]int{}
	apart = make([]*undo, len(us))
	for i, u := range us {
		apart[i] = u
		if len(u.Input) < shareAbove {
			continue
		}
		n, ok := at[string(u.Input)]
		if !ok {
			n = len(shared)
			at[string(u.Input)] = n
			shared = append(shared, u.Input)
		}
		copied := *u
		copied.Input, copied.Shared = nil, &n
		apart[i] = &copied
	}
	return apart, shared
}

// packAbove is the JSON size from which State is compressed. Thousands of
// similar compensations shrink to a twentieth, and must fit into one payload.
const packAbove = 64 << 10

type plainState State

// MarshalJSON writes the state, compressed if it is large.
func (s *State) MarshalJSON() ([]byte, error) {
	apart := plainState(*s)
	both, shared := share(slices.Concat(s.Undo, s.Left))
	apart.Undo, apart.Left, apart.Shared = both[:len(s.Undo)], both[len(s.Undo):], shared
	plain, err := json.Marshal(&apart)
	if err != nil || len(plain) <= packAbove {
		return plain, err
	}
	packed, err := pack(plain)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string][]byte{"gzip": packed})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (s *State) UnmarshalJSON(b []byte) error {
	var packed struct {
		Gzip []byte `json:"gzip"`
	}
	if err := json.Unmarshal(b, &packed); err != nil {
		return err
	}
	if packed.Gzip != nil {
		plain, err := unpack(packed.Gzip)
		if err != nil {
			return err
		}
		b = plain
	}
	if err := json.Unmarshal(b, (*plainState)(s)); err != nil {
		return err
	}
	for _, u := range slices.Concat(s.Undo, s.Left) {
		if u.Shared == nil {
			continue
		}
		if *u.Shared < 0 || *u.Shared >= len(s.Shared) {
			return fmt.Errorf("the state has no shared input %d", *u.Shared)
		}
		u.Input, u.Shared = s.Shared[*u.Shared], nil
	}
	s.Shared = nil
	return nil
}

func pack(plain []byte) ([]byte, error) {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// maxUnpacked bounds what a compressed state may grow to.
const maxUnpacked = 256 << 20

func unpack(packed []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxUnpacked+1))
	if err == nil && len(plain) > maxUnpacked {
		err = fmt.Errorf("state is larger than %d bytes", maxUnpacked)
	}
	return plain, err
}
