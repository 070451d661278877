package host

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/inventory"
	"github.com/almanac-run/almanac/internal/inventory/collect"
)

type inventoryCollectInput struct {
	Kinds []string        `json:"kinds,omitempty" jsonschema:"what to look for: instance, interface, kernel, package, port, service, user" default:"all of them"`
	Files []string        `json:"files,omitempty" jsonschema:"patterns of files to look at, such as /etc/ssh/*_config or /etc/cron.d/**" default:"none"`
	Facts []inventoryFact `json:"facts,omitempty" jsonschema:"facts of your own, from commands" default:"none"`
	Full  bool            `json:"full,omitempty" jsonschema:"report everything again, and not only what has changed" default:"false"`
}

type inventoryFact struct {
	Name    string          `json:"name" jsonschema:"key of the fact: small letters, digits, '.', '_' and '-'"`
	Script  string          `json:"script" jsonschema:"read by sh -e; prints a JSON object, or a list of objects that have a key" code:"true"`
	Timeout action.Duration `json:"timeout,omitempty" jsonschema:"how long it may take, at most 10m" default:"30s"`
}

type inventoryCollectOutput struct {
	Counts   map[string]int `json:"counts" jsonschema:"items found, by kind"`
	Digest   string         `json:"digest" jsonschema:"of all that was found; equal facts have equal digests"`
	Changed  bool           `json:"changed" jsonschema:"something differs from the last report, or it is the first"`
	Reported bool           `json:"reported" jsonschema:"the inventory has it; false if the agent reports to none"`
	Problems []string       `json:"problems" jsonschema:"what could not be found, and why; the inventory keeps what it knows of that"`
}

const inventoryCollectDetails = `The facts go to the inventory store and not into the step's output: ` + "`starter inventory NODE`" + ` shows them. Of what has not
changed since the last report only a digest is sent.

Each fact is an item with a kind, a key and values. Packages come from dpkg, rpm and apk, services from systemd or the scripts in /etc/init.d, listening
ports from /proc. Of a user it is told whether the password is set, locked or empty, and nothing more of it. Files get their size, mode, owner, group and SHA-256 (up to
64 MiB each); a pattern may match 10,000. A fact's command runs as the agent's user, may write 1 MiB, and can run more than
once: it must only look. What it prints is kept in the inventory, so that it must not print secrets.

On a node with a root directory packages, services, users and files are those of the root; ports, interfaces, kernel and instance are the machine's.`

// mostSections bounds patterns and facts of one step.
const mostSections = 100

func inventoryCollect(n Node) action.Action {
	c := collector{Node: n, busy: make(chan struct{}, 1)}
	return action.New(action.Def[inventoryCollectInput, inventoryCollectOutput]{
		Name:    "host.inventory.collect",
		Summary: "Collect the facts of a node for the inventory",
		Details: inventoryCollectDetails,
		Timeout: 30 * time.Minute,
		Example: `id: facts
targets: [web-1]
action: host.inventory.collect
with:
  files: [/etc/ssh/*_config]
  facts:
    - name: uptime
      script: printf '{"since":"%s"}' "$(uptime -s)"`,
		Do: c.collect,
	})
}

// collector keeps two collections of one node from reporting at once.
type collector struct {
	Node
	busy chan struct{}
}

func (c collector) collect(ctx context.Context, in inventoryCollectInput) (inventoryCollectOutput, error) {
	out := inventoryCollectOutput{Counts: map[string]int{}, Problems: []string{}}
	if err := in.check(); err != nil {
		return out, err
	}
	if c.StateDir == "" {
		return out, action.Errorf(action.Internal, "this node has no state directory")
	}
	select {
	case c.busy <- struct{}{}:
		defer func() { <-c.busy }()
	case <-ctx.Done():
		return out, ctx.Err()
	}
	snap := inventory.Snapshot{Node: c.ID, At: time.Now()}
	err := c.find(ctx, in, func(kind, scope string, items []inventory.Item, err error) {
		var section inventory.Section
		if err == nil {
			section, err = inventory.NewSection(kind, scope, items)
		}
		if err == nil {
			// One that cannot be sent must not keep the others from being sent.
			_, err = inventory.Snapshot{Node: c.ID, At: snap.At, Sections: []inventory.Section{section}}.Parts()
		}
		if err != nil {
			out.Problems = append(out.Problems, clipped(err.Error()))
			return
		}
		out.Counts[kind] += len(section.Items)
		snap.Sections = append(snap.Sections, section)
	})
	if err != nil {
		return out, err
	}
	if len(snap.Sections) == 0 {
		return out, action.Errorf(action.Failed, "nothing could be found: %s", strings.Join(out.Problems, "; "))
	}
	out.Digest = snap.Digest()
	acknowledged := c.acknowledged()
	for _, s := range snap.Sections {
		out.Changed = out.Changed || acknowledged[s.Name()] != s.Digest
	}
	if c.Report != nil {
		if err := c.report(ctx, snap, acknowledged, in.Full); err != nil {
			return out, err
		}
		out.Reported = true
	}
	return out, c.acknowledge(acknowledged, snap)
}

func (in *inventoryCollectInput) check() error {
	if len(in.Files)+len(in.Facts) > mostSections {
		return action.Errorf(action.Invalid, "%d patterns and facts; at most %d", len(in.Files)+len(in.Facts), mostSections)
	}
	if in.Kinds == nil {
		in.Kinds = collect.Kinds
	}
	for _, kind := range in.Kinds {
		if !slices.Contains(collect.Kinds, kind) {
			return action.Errorf(action.Invalid, "kinds: there is no kind %q; there are %s, and files: and facts:", kind, strings.Join(collect.Kinds, ", "))
		}
	}
	for _, pattern := range in.Files {
		if err := collect.CheckPattern(pattern); err != nil {
			return action.Errorf(action.Invalid, "files: %w", err)
		}
	}
	names := map[string]bool{}
	for _, f := range in.Facts {
		if err := f.fact().Check(); err != nil {
			return action.Errorf(action.Invalid, "facts: %w", err)
		}
		if names[f.Name] {
			return action.Errorf(action.Invalid, "facts: there are two of the name %s", f.Name)
		}
		names[f.Name] = true
	}
	return nil
}

func (f inventoryFact) fact() collect.Fact {
	return collect.Fact{Name: f.Name, Script: f.Script, Timeout: time.Duration(f.Timeout)}
}

// find calls section for everything that is asked for, once each. What cannot be found is
// left to section; the error is that ctx has ended.
func (c collector) find(ctx context.Context, in inventoryCollectInput, section func(kind, scope string, items []inventory.Item, err error)) error {
	m := collect.Machine{ID: c.ID, Tags: c.Tags, Root: c.Root}
	unique := func(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }
	for _, kind := range unique(in.Kinds) {
		items, err := m.Kind(ctx, kind)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		section(kind, "", items, err)
	}
	for _, pattern := range unique(in.Files) {
		items, err := m.Files(ctx, pattern)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		section("file", pattern, items, err)
	}
	for _, f := range in.Facts {
		items, err := m.Fact(ctx, f.fact())
		if ctx.Err() != nil {
			return ctx.Err()
		}
		section("fact", f.Name, items, err)
	}
	return nil
}

// report sends what has changed, and everything that the store turns out to lack.
func (c collector) report(ctx context.Context, snap inventory.Snapshot, acknowledged map[string]string, full bool) error {
	send := snap
	send.Sections = slices.Clone(snap.Sections)
	for i, s := range send.Sections {
		if !full && acknowledged[s.Name()] == s.Digest {
			send.Sections[i].Items, send.Sections[i].Unchanged = nil, true
		}
	}
	missing, err := c.send(ctx, send)
	if err == nil && len(missing) > 0 {
		send.Sections = slices.DeleteFunc(slices.Clone(snap.Sections), func(s inventory.Section) bool { return !slices.Contains(missing, s.Name()) })
		missing, err = c.send(ctx, send)
	}
	if err == nil && len(missing) > 0 {
		err = &inventory.MissingError{Sections: missing}
	}
	if err != nil {
		return action.Errorf(action.Unavailable, "the inventory did not take the report; it is sent again: %w", err)
	}
	return nil
}

// send reports in as many parts as it takes, and returns the names of the sections that are to be sent again.
func (c collector) send(ctx context.Context, snap inventory.Snapshot) (missing []string, err error) {
	parts, err := snap.Parts()
	if err != nil {
		return nil, err
	}
	for _, part := range parts {
		err := c.Report(ctx, part)
		var lacks *inventory.MissingError
		if errors.As(err, &lacks) {
			missing = append(missing, lacks.Sections...)
		} else if err != nil {
			return nil, err
		}
	}
	return missing, nil
}

func (c collector) acknowledgedFile() string { return filepath.Join(c.StateDir, "inventory.json") }

// acknowledged returns the digests of what the inventory has, by the sections' names. If
// nothing is known, or the file is damaged, everything is sent again.
func (c collector) acknowledged() map[string]string {
	digests := map[string]string{}
	b, err := os.ReadFile(c.acknowledgedFile())
	if err != nil || json.Unmarshal(b, &digests) != nil {
		return map[string]string{}
	}
	return digests
}

// mostAcknowledged bounds the file: patterns that are no longer looked for stay in it.
const mostAcknowledged = 1000

func (c collector) acknowledge(digests map[string]string, snap inventory.Snapshot) error {
	if len(digests) > mostAcknowledged {
		clear(digests)
	}
	for _, s := range snap.Sections {
		digests[s.Name()] = s.Digest
	}
	b, err := json.Marshal(digests)
	if err != nil {
		return err
	}
	file := c.acknowledgedFile()
	if err := os.WriteFile(file+".new", b, 0o600); err != nil {
		return stateError(err)
	}
	return stateError(os.Rename(file+".new", file))
}

func clipped(s string) string {
	const most = 300
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
