package crash

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/almanac-run/almanac/action"
)

// world is what executions change, and where they are killed: a directory with
// one directory for each execution, which all processes share. In it are
//
//	log     the ledger: one line for each effect (see entry)
//	points  the points that were passed, in order
//	armed   a file for each point at which something is to happen: "kill" or "cancel"
//	fired   those of armed that were reached
//	go      is made by the driver when it has sent the cancel
//
// The ledger is all the state there is. A line is written by one system call,
// so that no kill can tear an effect in two.
type world struct {
	dir  string
	lane string // "l3-", with which the ids of its nodes begin

	mu sync.Mutex // nobody dies in the middle of an effect
}

// rootOf is the execution that a workflow id belongs to: its own, that of its
// caller, or that of whose lock it is.
func rootOf(id string) string {
	root, _, _ := strings.Cut(strings.TrimPrefix(id, "lock/"), "/")
	return root
}

// within is the rest of a workflow id, "" for the execution itself, and "lock" for its lock.
func within(id string) string {
	if strings.HasPrefix(id, "lock/") {
		return "lock "
	}
	if _, rest, ok := strings.Cut(id, "/"); ok {
		return rest + " "
	}
	return ""
}

// plain is the id of a piece of work without what differs from run to run: the
// part of the token in that of a compensation, and the lane in that of a node.
func (w *world) plain(id string) string {
	if strings.HasPrefix(id, "undo.") && len(id) > 7 && id[len(id)-7] == '.' {
		id = id[:len(id)-7]
	}
	if i := strings.LastIndexByte(id, '/'); strings.HasPrefix(id, "lock/") && i > 0 {
		id = id[:i]
	}
	return strings.ReplaceAll(id, "@"+w.lane, "@")
}

// pass runs do between the two points of that name. A point is called by its name
// and how often the execution has come to it, never by a number that what runs
// side by side would share: so it is the same point in every run.
func (w *world) pass(root, name string, do func() error) error {
	dir := filepath.Join(w.dir, root)
	if _, err := os.Stat(filepath.Join(dir, "points")); err != nil {
		return do() // nobody counts here
	}
	point := w.reach(dir, strings.ReplaceAll(name, "/", ":"))
	w.at(dir, point+":before")
	if err := do(); err != nil {
		return err
	}
	note(filepath.Join(dir, "points"), point+":after\n")
	w.at(dir, point+":after")
	return nil
}

// reach notes that a point is reached, and returns it.
func (w *world) reach(dir, name string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	raw, _ := os.ReadFile(filepath.Join(dir, "points"))
	n := 1
	for line := range strings.Lines(string(raw)) {
		if strings.HasPrefix(line, name+"#") && strings.HasSuffix(line, ":before\n") {
			n++
		}
	}
	point := fmt.Sprintf("%s#%d", name, n)
	note(filepath.Join(dir, "points"), point+":before\n")
	return point
}

func note(file, line string) {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	must(err)
	_, err = f.WriteString(line)
	must(err)
	must(f.Close())
}

// at does what is to happen at a point, once.
func (w *world) at(dir, point string) {
	fired := filepath.Join(dir, "fired", point)
	if os.Rename(filepath.Join(dir, "armed", point), fired) != nil {
		return
	}
	what, _ := os.ReadFile(fired)
	if string(what) == "kill" {
		w.mu.Lock()
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "go")); err == nil {
			return
		}
	}
}

// entry is one line of the ledger.
type entry struct {
	verb      string // make, take, drop or note
	name      string
	token     string // of the work that did it
	execution string // workflow id
	work      string // activity id
	of        string // the token of what is taken or dropped, if that is another
}

func (e entry) String() string { return e.verb + " " + e.name }

func (e entry) line() string {
	return strings.Join([]string{e.verb, e.name, e.token, e.execution, e.work, e.of}, "\t") + "\n"
}

func ledger(dir string) []entry {
	raw, _ := os.ReadFile(filepath.Join(dir, "log"))
	var all []entry
	for line := range strings.Lines(string(raw)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		f = append(f, make([]string, max(0, 6-len(f)))...)
		all = append(all, entry{f[0], f[1], f[2], f[3], f[4], f[5]})
	}
	return all
}

// live are the tokens of what was made and is still there.
func live(all []entry) map[string]string {
	there := map[string]string{}
	for _, e := range all {
		switch e.verb {
		case "make":
			there[e.token] = e.name
		case "take":
			delete(there, e.token)
			delete(there, e.of)
		case "drop":
			delete(there, e.of)
		}
	}
	return there
}

// effect changes the world as systems with tokens do: once for each. do looks at
// the ledger and says what is to be written, if anything.
func (w *world) effect(ctx context.Context, verb, name string, do func(all []entry, token string) (*entry, error)) error {
	call := action.FromContext(ctx)
	root := rootOf(call.Execution)
	return w.pass(root, "effect "+within(call.Execution)+verb+" "+name, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		token := call.Token
		if verb == "make" && planted.token {
			token = rand.Text()
		}
		e, err := do(ledger(filepath.Join(w.dir, root)), token)
		if err != nil || e == nil {
			return err
		}
		e.verb, e.name, e.token, e.execution, e.work = verb, name, token, call.Execution, call.Step
		note(filepath.Join(w.dir, root, "log"), e.line())
		if planted.shadow && verb == "make" {
			note(filepath.Join(w.dir, root, "log"), entry{"make", name + "'s shadow", rand.Text(), call.Execution, "nowhere", ""}.line())
		}
		return nil
	})
}

type thing struct {
	Name string `json:"name" jsonschema:"what it is called"`
	Of   string `json:"of,omitempty" jsonschema:"the id of what it is made of, which has to be there"`
}

type made struct {
	ID string `json:"id" jsonschema:"what was made"`
}

type dropped struct {
	Name string `json:"name" jsonschema:"what it is called"`
	ID   string `json:"id" jsonschema:"what is to go"`
}

// actions work in the world.
func (w *world) actions() []action.Action {
	return []action.Action{
		action.New(action.Def[thing, made]{
			Name: "crash.make", Summary: "Make a thing, perhaps of another",
			Do: func(ctx context.Context, in thing) (made, error) {
				if planted.lazy && in.Name == "image" {
					return made{ID: action.FromContext(ctx).Token}, nil
				}
				id := ""
				err := w.effect(ctx, "make", in.Name, func(all []entry, token string) (*entry, error) {
					id = token
					there := live(all)
					if _, ok := there[in.Of]; in.Of != "" && !ok {
						return nil, action.Errorf(action.NotFound, "there is no %s", in.Of)
					}
					if slices.ContainsFunc(all, func(e entry) bool { return e.verb == "make" && e.token == token }) {
						return nil, nil
					}
					return &entry{}, nil
				})
				return made{ID: id}, err
			},
			Compensate: func(ctx context.Context, in thing, out *made) error {
				if planted.swallow == in.Name && in.Name != "" {
					return nil
				}
				if planted.gone && out == nil {
					return nil // it does not know the id, finds nothing, and says that it is gone
				}
				return w.effect(ctx, "take", in.Name, func(all []entry, token string) (*entry, error) {
					if out != nil {
						token = out.ID
					}
					if _, ok := live(all)[token]; !ok {
						return nil, nil
					}
					return &entry{}, nil
				})
			},
		}),
		action.New(action.Def[dropped, made]{
			Name: "crash.drop", Summary: "Take a thing out of the world for good",
			Do: func(ctx context.Context, in dropped) (made, error) {
				return made{ID: in.ID}, w.effect(ctx, "drop", in.Name, func(all []entry, _ string) (*entry, error) {
					if _, ok := live(all)[in.ID]; !ok {
						return nil, nil
					}
					return &entry{of: in.ID}, nil
				})
			},
		}),
		action.New(action.Def[thing, made]{
			Name: "crash.note", Summary: "Write down something that stays",
			Do: func(ctx context.Context, in thing) (made, error) {
				return made{}, w.effect(ctx, "note", in.Name, func(all []entry, token string) (*entry, error) {
					if slices.ContainsFunc(all, func(e entry) bool { return e.verb == "note" && e.token == token }) {
						return nil, nil
					}
					return &entry{}, nil
				})
			},
		}),
		action.New(action.Def[thing, made]{
			Name: "crash.flaky", Summary: "Fail the first time, and write down the second",
			Do: func(ctx context.Context, in thing) (made, error) {
				token := action.FromContext(ctx).Token
				first := false
				err := w.effect(ctx, "note", in.Name, func(all []entry, _ string) (*entry, error) {
					i := slices.IndexFunc(all, func(e entry) bool { return e.verb == "note" && e.name == in.Name })
					first = i < 0 || all[i].token == token
					if slices.ContainsFunc(all, func(e entry) bool { return e.verb == "note" && e.token == token }) {
						return nil, nil
					}
					return &entry{}, nil
				})
				if err == nil && first {
					err = action.Errorf(action.Failed, "the first time it fails")
				}
				return made{}, err
			},
		}),
		action.New(action.Def[thing, made]{
			Name: "crash.fail", Summary: "Fail",
			Do: func(context.Context, thing) (made, error) {
				if planted.mild {
					return made{}, nil
				}
				return made{}, action.Errorf(action.Failed, "it broke")
			},
		}),
	}
}

// The commands of nodes reach the world by two programs of the node, point and effect.
// What kills the agent is its own command.
const pointProgram = `#!/bin/sh
# point NAME: a point in a command.
run="$DIR/${ALMANAC_EXECUTION%%/*}"
name="command $1 ${ALMANAC_STEP%@*}@${ALMANAC_NODE#*-}"
n=$(grep -cF "$name#" "$run/points")
point="$name#$((n + 1)):at"
echo "$point" >> "$run/points"
mv "$run/armed/$point" "$run/fired/$point" 2>/dev/null || exit 0
if [ "$(cat "$run/fired/$point")" = kill ]; then
	kill -KILL "$(cat "$NODE_ROOT/agent.pid")"
	exit 0
fi
i=0
until [ -e "$run/go" ] || [ $i -gt 600 ]; do sleep 0.05; i=$((i + 1)); done
# A command that is cancelled has to be ended; it does not end.
case $1 in undo*) ;; *) sleep 25 ;; esac
`

const effectProgram = `#!/bin/sh
# effect make|take NAME: make the thing, or take it if it is there.
run="$DIR/${ALMANAC_EXECUTION%%/*}"
name="$2@${ALMANAC_NODE#*-}"
tab=$(printf '\t')
of=
if [ "$1" = take ]; then
	last=$(grep -E "^(make|take)$tab$name$tab" "$run/log" | tail -n 1)
	case $last in make*) ;; *) exit 0 ;; esac
	of=$(echo "$last" | cut -f 3)
fi
printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$name" "$ALMANAC_TOKEN" "$ALMANAC_EXECUTION" "$ALMANAC_STEP" "$of" >> "$run/log"
`
