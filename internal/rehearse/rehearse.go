// Package rehearse runs a runbook against a simulated world in memory: once
// straight, then once for each piece of its work and each way that can go wrong,
// and says what each of these runs leaves behind.
//
// It gives Rehearse, which does that and reports, and Test, which plays one case
// of a NAME.test.yaml (see File). It promises that the same scene and seed give
// the same report, that no machine, no server and no cloud is touched, and that
// no secret is read. It refuses to guess what cannot be known: what a script on
// a node changes is reported as not seen.
package rehearse

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// Scene is what a run finds.
type Scene struct {
	Inputs  map[string]json.RawMessage // checked
	Nodes   []Node                     // nil: three that are made up
	Answers []Answer
	People  []Person // nil in a rehearsal: everything is approved and resumed
	Given   []Given
	At      time.Time
	Caller  string
}

// Node is a node that `where:` may find.
type Node struct {
	ID      string            `json:"id"`
	Name    string            `json:"name"`
	OS      string            `json:"os"`
	Version string            `json:"version"`
	Arch    string            `json:"arch"`
	Tags    map[string]string `json:"tags"`
}

// madeUp are the nodes if a scene has none.
func madeUp() []Node {
	var nodes []Node
	for i := range 3 {
		id := fmt.Sprintf("web-%d", i+1)
		nodes = append(nodes, Node{ID: id, Name: id, OS: "debian", Version: "12", Arch: "amd64", Tags: map[string]string{"role": "web"}})
	}
	return nodes
}

// Answer is what the work at a path answers, in place of doing it. Those of one
// path apply in turn.
type Answer struct {
	Path    string          // of a step, with iterations ("[*]" is any) and, if it matters, "@" and a node
	Outputs json.RawMessage // an object; what it does not say is made up
	Kind    action.Kind     // of an error; empty: none
	Message string
	Detail  json.RawMessage
	Takes   time.Duration
	Times   int // how often it applies; 0: always
	Pos     program.Pos
}

// Person is what somebody does.
type Person struct {
	Step    string // that waits; empty with Does "cancel"
	Does    string // name of an update, or "cancel"
	By      string // empty: whoever may
	Comment string
	With    map[string]json.RawMessage
	After   time.Duration // since the step waits; of cancel, since the start
	Pos     program.Pos
}

// Thing is something that a run made.
type Thing struct {
	Kind string `json:"kind"` // "instance"; of what is only noted, the action
	ID   string `json:"id"`   // the same in each run that makes it
	Name string `json:"name,omitempty"`
	Step string `json:"step"` // whose work made it, as a path

	Where string `json:"where,omitempty"` // region, if it is not the usual one

	what string // in words
	work string // base path of the work
	own  bool   // noted by the rehearsal; nobody knows what it really is
}

// key tells a thing from all others: two regions may each have one of a name.
func (t Thing) key() string { return t.Kind + " " + t.ID + " " + t.Where }

func (t Thing) String() string {
	if t.what != "" {
		return t.what
	}
	s := t.Kind + " " + t.ID
	if t.Name != "" && t.Name != t.ID {
		s += " (" + t.Name + ")"
	}
	if t.Where != "" {
		s += " in " + t.Where
	}
	return s
}

// Cloud is a simulated world in which some actions really run.
type Cloud interface {
	Actions() []action.Action
	Live() []Thing  // what exists; Step is not needed
	Given() []Thing // what was there before, whether it still is or not
	// Unknown tells whether an error says no more than that the cloud does not know the operation.
	Unknown(err error) bool
	Close()
}

// Effect is what a request did.
type Effect struct {
	Change string // made, changed or removed
	Thing  Thing
}

// Given is a request that is made before a run begins.
type Given struct {
	Call   string          // "ec2.CreateLaunchTemplate"
	Region string          // empty: the cloud's own
	Input  json.RawMessage // an object
	As     string          // the id by which the scene calls what it makes; may be empty
	Pos    program.Pos
}

// CloudEnv is what a Cloud is made with. It is one run's.
type CloudEnv struct {
	Seed    uint64
	Inputs  map[string]json.RawMessage // of the scene; what they or the program name by an id is there
	Program *program.Program
	Given   []Given
	Now     func() time.Time
	Sleep   func(ctx context.Context, d time.Duration) error

	// Around has to be called for each request that an action makes: do makes it and
	// tells what it changed. throttled is the error of one that comes too often.
	Around func(ctx context.Context, operation string, throttled error, do func() ([]Effect, error)) error
}

// Options of a rehearsal.
type Options struct {
	Program *program.Program
	Scene   Scene
	Actions []action.Info                 // what is known of actions
	Cloud   func(CloudEnv) (Cloud, error) // nil: no action really runs
	Seed    uint64

	Step, Fault string                // only these; empty: all
	Trace       bool                  // keep the trace of each run
	Requests    bool                  // and in it the requests of simulated actions
	Progress    func(done, total int) // may be called from several goroutines
}

// Report is the result of a rehearsal.
type Report struct {
	Runbook   string        `json:"runbook"`
	Seed      uint64        `json:"seed"`
	Straight  Case          `json:"straight"` // nothing goes wrong
	Cases     []Case        `json:"cases"`
	Made      []Thing       `json:"made"`             // what a run leaves that goes well
	Whole     bool          `json:"whole"`            // all that can go wrong was tried
	Unreached []Unreached   `json:"unreached"`        // steps that no run came to, if Whole
	Untried   []Untried     `json:"untried"`          // the like of what was tried
	Unused    []string      `json:"unused,omitempty"` // answers that nothing asked for, if Whole
	Unseen    []string      `json:"unseen"`           // steps that change what nobody can know
	Took      time.Duration `json:"-"`                // of the machine's time
	Works     int           `json:"works"`            // pieces of work in the straight run
	Instant   int           `json:"instant"`          // those whose answers are made up, and took no time
}

// Case is one run.
type Case struct {
	Step        string            `json:"step,omitempty"` // path of the work at which something goes wrong
	Form        string            `json:"form,omitempty"` // its action, or what waits
	Fault       string            `json:"fault,omitempty"`
	At          string            `json:"at,omitempty"` // which request of the action, if that is it
	Outcome     workflows.Outcome `json:"outcome"`
	Message     string            `json:"message,omitempty"`
	Failed      string            `json:"failed,omitempty"` // path of the step that ended it
	RolledBack  []string          `json:"rolled_back,omitempty"`
	Left        []Left            `json:"left,omitempty"`        // left behind
	Kept        []Left            `json:"kept,omitempty"`        // left by intention
	Unrecovered bool              `json:"unrecovered,omitempty"` // what passes by itself ended it
	Seconds     float64           `json:"seconds"`               // of the execution, in its own time
	Trace       []string          `json:"trace,omitempty"`
	Error       string            `json:"error,omitempty"` // it could not be played to its end
}

// Left is something that a run left behind.
type Left struct {
	Thing Thing  `json:"thing"`
	Step  string `json:"step"`
	What  string `json:"what"`
	Why   string `json:"why"`
	Fix   string `json:"fix,omitempty"`
	Twice bool   `json:"twice,omitempty"` // the straight run makes fewer
}

// Unreached is a step that no run came to.
type Unreached struct {
	Runbook string      `json:"runbook"`
	Step    string      `json:"step"` // id
	Form    string      `json:"form"`
	If      string      `json:"if,omitempty"`
	File    string      `json:"file,omitempty"`
	Pos     program.Pos `json:"pos"`
}

// Untried counts the like of what was tried.
type Untried struct {
	Step  string `json:"step"`
	Tried int    `json:"tried"`
	Of    int    `json:"of"`
}

// Alike is what paths have in common that differ in iteration and node only.
func Alike(path string) string { return alike(path) }

// Left counts the runs that left something behind.
func (r *Report) Left() int {
	n := 0
	for _, c := range r.Cases {
		if len(c.Left) > 0 {
			n++
		}
	}
	return n
}

// Broken counts the runs that could not be played to their end.
func (r *Report) Broken() int {
	n := 0
	for _, c := range r.Cases {
		if c.Error != "" {
			n++
		}
	}
	return n
}
