package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/command"
	"github.com/almanac-run/almanac/internal/journal"
	"github.com/almanac-run/almanac/internal/output"
	"github.com/almanac-run/almanac/internal/packages"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/patch"
)

// What the actions host.patch.* share.

// How long, and how often, another program that has the package manager is waited for.
var (
	lockPatience = 5 * time.Minute
	lockAgain    = 10 * time.Second
)

const mostFailures = 100

// patchState is what the journal keeps of one installation.
type patchState struct {
	Decided   bool           `json:"decided"`
	Machine   patch.Machine  `json:"machine"` // with what was offered when it was decided
	Before    packages.State `json:"before"`
	DecidedAt time.Time      `json:"decided_at"`

	Hold     []packages.Package   `json:"hold,omitempty"`
	Queue    [][]packages.Package `json:"queue,omitempty"` // transactions that are still to be made, in order
	Run      int                  `json:"run"`             // number of the next, or of the one that runs
	Failures []patch.Failure      `json:"failures,omitempty"`
	After    packages.State       `json:"after"` // once the queue is empty

	Snapshot string `json:"snapshot,omitempty"`

	Look  int          `json:"look,omitempty"`  // number of the next run of the health script
	Looks []healthLook `json:"looks,omitempty"` // what it has found, each time

	RebootFrom  string    `json:"reboot_from,omitempty"` // boot id when the restart was asked for
	RebootAsked time.Time `json:"reboot_asked,omitzero"`
	RebootAgain time.Time `json:"reboot_again,omitzero"` // when it was asked for last
	Rebooted    bool      `json:"rebooted,omitempty"`

	RollingBack bool `json:"rolling_back,omitempty"`
	RolledBack  bool `json:"rolled_back,omitempty"`
	Restore     int  `json:"restore,omitempty"` // number of the run that puts back
}

func (s patchState) clone() patchState {
	s.Queue, s.Failures, s.Looks = slices.Clone(s.Queue), slices.Clone(s.Failures), slices.Clone(s.Looks)
	return s
}

// patching is one installation of this node.
type patching struct {
	node    Node
	call    action.Call
	entry   journal.Entry
	manager packages.Manager
	state   patchState
	known   bool // the journal had it
}

const patchFile = "patch.json"

func (n Node) patching(ctx context.Context) (*patching, error) {
	p := &patching{node: n, call: action.FromContext(ctx)}
	var err error
	if p.entry, err = n.entry(p.call); err != nil {
		return nil, err
	}
	if p.manager, err = n.packages(); err != nil {
		return nil, err
	}
	return p, p.load()
}

func (p *patching) load() error {
	err := p.entry.ReadJSON(patchFile, &p.state)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	p.known = err == nil
	return stateError(err)
}

// begin saves what was decided; if another attempt was quicker, that counts.
func (p *patching) begin(s patchState) error {
	use, err := p.entry.Lock(journal.LockUse)
	if err != nil {
		return stateError(err)
	}
	defer use.Unlock()
	if err := p.load(); err != nil {
		return err
	}
	switch {
	case p.state.RollingBack || p.state.RolledBack:
		return action.Errorf(action.Conflict, "this step was rolled back on this node already")
	case p.state.Decided:
		return nil
	}
	return p.write(s)
}

// save replaces what the journal knows by the step forward that next is. It refuses
// if it is no longer ours to go on.
func (p *patching) save(next patchState) error {
	use, err := p.entry.Lock(journal.LockUse)
	if err != nil {
		return stateError(err)
	}
	defer use.Unlock()
	var now patchState
	if err := p.entry.ReadJSON(patchFile, &now); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return stateError(err)
	}
	if now.Run != p.state.Run || now.Look != p.state.Look || now.Restore != p.state.Restore || (now.RollingBack && !p.state.RollingBack) {
		return &action.Error{Kind: action.Lost, Err: command.ErrSuperseded}
	}
	return p.write(next)
}

func (p *patching) write(s patchState) error {
	if err := p.entry.WriteJSON(patchFile, s); err != nil {
		return stateError(err)
	}
	p.state, p.known = s, true
	return nil
}

// ended is how a run of the package manager ended.
type ended struct {
	journal.Record
	text string // the end of its output
}

// interrupted is the error of a run that was made to end.
func (e ended) interrupted() error {
	switch e.Stopped {
	case "":
		return nil
	case journal.TimedOut:
		return action.Errorf(action.Timeout, "the package manager took longer than the step's timeout, and was ended")
	}
	return action.Errorf(action.Unavailable, "the package manager was ended from outside (is the node shutting down?)")
}

// run runs the package manager under the name of one of the step's runs: once,
// but for a run whose end nobody saw. That is run again: package managers can
// be told the same twice, and repair what they left. A run is not ended
// because the step is cancelled or the engine does not hear us.
func (p *patching) run(ctx context.Context, name string, cmd packages.Command) (ended, error) {
	entry, err := p.node.Journal().Entry(p.call.Token + "-" + name)
	if err != nil {
		return ended{}, stateError(err)
	}
	outputs := output.Dir(p.node.OutputDir)
	patience := 2 * time.Hour
	var deadline time.Time
	if d, ok := ctx.Deadline(); ok {
		deadline = d.Add(-min(30*time.Second, time.Until(d)/10))
		patience = time.Until(d)
	}
	ref, _ := p.output()
	job := command.Job{
		Entry: entry, Execution: p.call.Execution, Step: p.call.Step, Idempotent: true,
		Stopping: p.node.Stopping, Abandoned: func() bool { return true }, Patience: patience,
		Spec: func() (command.Spec, error) {
			if cmd.Argv == nil {
				return command.Spec{}, errNotBegun
			}
			return command.Spec{
				Argv: cmd.Argv, Env: cmd.Env, Dir: "/", Deadline: deadline, Grace: 20 * time.Second,
				Outputs: p.node.OutputDir, Ref: ref, MaxOutput: 64 << 20,
			}, nil
		},
		Watch: func(rec journal.Record) { p.call.Heartbeat(commandDetail(outputs, rec, 1)) },
	}
	rec, err := command.Run(ctx, job)
	var unknown *command.UnknownError
	for try := 1; errors.As(err, &unknown) && try < 3; try++ {
		rec, err = command.Run(ctx, job) // its supervisor died while we waited for it: from the beginning
	}
	switch {
	case errors.Is(err, errNotBegun):
		return ended{}, err
	case errors.Is(err, command.ErrStopping), errors.Is(err, command.ErrSuperseded):
		return ended{}, &action.Error{Kind: action.Lost, Err: err}
	case errors.Is(err, command.ErrNoMain):
		return ended{}, action.Errorf(action.Internal, "run the package manager: %w", err)
	case err != nil:
		return ended{}, action.Errorf(action.Unavailable, "run the package manager: %w", err)
	case rec.Error != "":
		return ended{}, action.Errorf(action.Unavailable, "the package manager could not be started: %s", rec.Error)
	}
	e := ended{Record: rec}
	if r, err := outputs.Open(rec.Ref); err == nil {
		defer r.Close()
		e.text, _ = output.LastLines(r, rec.Offset, 400, 32<<10)
	}
	return e, nil
}

var errNotBegun = errors.New("it has not begun")

// output is where the package manager's output is kept, and its size so far.
func (p *patching) output() (ref string, size int64) {
	ref = output.Ref(p.call.Execution, strings.Replace(p.call.Step, "@"+p.node.ID, "", 1), p.node.ID)
	size, err := output.Dir(p.node.OutputDir).Size(ref)
	if err != nil {
		return ref, 0 // nothing was written yet
	}
	return ref, size
}

func (p *patching) detail(upgraded int) PatchDetail {
	d := PatchDetail{Failed: []PatchFailure{}, Upgraded: upgraded, Snapshot: snapshotBack(p.state.Snapshot)}
	d.Ref, d.Size = p.output()
	if r, err := output.Dir(p.node.OutputDir).Open(d.Ref); err == nil {
		defer r.Close()
		d.Tail, _ = output.LastLines(r, 0, tailLines, tailBytes)
	}
	return d
}

// packages returns the node's package manager.
func (n Node) packages() (packages.Manager, error) {
	if n.Root != "" && os.Geteuid() != 0 {
		return nil, action.Errorf(action.Denied, "the agent does not run as root, and cannot manage the packages of a root directory")
	}
	m, err := packages.Find(n.Root)
	if err != nil {
		return nil, action.Errorf(action.Invalid, "the node has %w", err)
	}
	return m, nil
}

// packagesError gives an error of a package manager its kind.
func packagesError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, packages.ErrBusy), errors.Is(err, packages.ErrUnreachable):
		return &action.Error{Kind: action.Unavailable, Err: err}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, fs.ErrPermission):
		return &action.Error{Kind: action.Denied, Err: err}
	}
	return &action.Error{Kind: action.Failed, Err: err}
}

func parseBaseline(raw json.RawMessage) (*patch.Baseline, error) {
	b, err := patch.FromJSON(raw)
	if err != nil {
		return nil, action.Errorf(action.Invalid, "%w", err)
	}
	return b, nil
}

// inspectBaseline finds the mistakes of a baseline that is written in the runbook.
func inspectBaseline(in map[string]any) action.Inspection {
	v, ok := in["baseline"]
	if !ok || later(v) {
		return action.Inspection{}
	}
	raw, err := json.Marshal(v)
	if err == nil {
		_, err = patch.FromJSON(raw)
	}
	if err == nil {
		return action.Inspection{}
	}
	message := strings.TrimPrefix(err.Error(), "the baseline is wrong:\n")
	return action.Inspection{Problems: []action.Problem{{Path: []any{"baseline"}, Message: strings.ReplaceAll(message, "\n", "; ")}}}
}

// later tells whether part of a value is known only when the step runs.
func later(v any) bool {
	switch v := v.(type) {
	case action.Later, program.Type:
		return true
	case map[string]any:
		for _, e := range v {
			if later(e) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, later)
	}
	return false
}

type pkgKey struct{ name, arch string }

// missing returns those of want that are not there in the wanted version.
func missing(want, installed []packages.Package) []packages.Package {
	there := map[packages.Package]bool{}
	for _, p := range installed {
		there[p] = true
	}
	return slices.DeleteFunc(slices.Clone(want), func(p packages.Package) bool { return there[p] })
}

// compare tells what differs: versions, packages that came and packages that
// went. Of a package that may be there in several versions, as a kernel, each
// comes and goes by itself.
func compare(before, after []packages.Package) (changed, added, removed []patchChange) {
	was, is := byKey(before), byKey(after)
	for _, p := range after {
		k := pkgKey{p.Name, p.Arch}
		old := was[k]
		switch {
		case slices.Contains(old, p.Version):
		case len(old) == 1 && len(is[k]) == 1:
			changed = append(changed, patchChange{Name: p.Name, Arch: p.Arch, From: old[0], To: p.Version})
		default:
			added = append(added, patchChange{Name: p.Name, Arch: p.Arch, To: p.Version})
		}
	}
	for _, p := range before {
		k := pkgKey{p.Name, p.Arch}
		now := is[k]
		if !slices.Contains(now, p.Version) && !(len(was[k]) == 1 && len(now) == 1) {
			removed = append(removed, patchChange{Name: p.Name, Arch: p.Arch, From: p.Version})
		}
	}
	return changed, added, removed
}

func byKey(list []packages.Package) map[pkgKey][]string {
	m := map[pkgKey][]string{}
	for _, p := range list {
		k := pkgKey{p.Name, p.Arch}
		m[k] = append(m[k], p.Version)
	}
	return m
}

// abridgedList names a few of many.
func abridgedList(names []string) string {
	const most = 10
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
