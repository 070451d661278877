package simcloud

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/internal/awsapi"
)

// Entry of the ledger is one call and what it did. What AWS did by itself (an
// instance refresh) is an entry whose Operation is empty.
type Entry struct {
	Seq                int // from 1, without gaps
	At                 time.Time
	Account, Region    string
	Role               string
	Service, Operation string
	Token              string // the token of a step: in a tag, or in the member that AWS keeps for one
	Execution, Step    string // from tags
	Fault              string // what the call met; "" if nothing
	Error              string // code of the answer; "" if it was carried out
	Effects            []Effect
}

// Effect is a change of the world.
type Effect struct {
	Change string // made, changed, removed
	Kind   string // "instance", "image", …
	ID     string
	Tags   map[string]string // after the change
	What   string            // what was changed, in a word or two
}

func (e Entry) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %s %s %s", e.Seq, e.Region, e.Service, e.Operation)
	if e.Token != "" {
		fmt.Fprintf(&b, " token=%s", e.Token)
	}
	if e.Fault != "" {
		fmt.Fprintf(&b, " met %s", e.Fault)
	}
	if e.Error != "" {
		fmt.Fprintf(&b, " error=%s", e.Error)
	}
	for _, f := range e.Effects {
		fmt.Fprintf(&b, "; %s %s %s", f.Change, f.Kind, f.ID)
		if f.What != "" {
			fmt.Fprintf(&b, " (%s)", f.What)
		}
	}
	return b.String()
}

// Ledger returns all entries so far, oldest first.
func (c *Cloud) Ledger() []Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.ledger)
}

// record writes the call's entry.
func (k *call) record(meets Fault, err error) {
	if k.given {
		return
	}
	e := Entry{
		Seq: len(k.ledger) + 1, At: k.now, Account: k.account, Region: k.region, Role: k.role,
		Service: k.service, Operation: k.operation, Fault: string(meets.Kind), Effects: k.effects,
	}
	e.Token, e.Execution, e.Step = k.marks()
	if err != nil {
		e.Error = "no answer"
		var answer *awsapi.Error
		if errors.As(err, &answer) {
			e.Error = answer.Code
		}
	}
	k.ledger = append(k.ledger, e)
}

// tokenMembers are where a token is if it is in no tag, best first.
var tokenMembers = []string{"ClientToken", "ClientRequestToken", "MessageDeduplicationId", "Comment"}

// marks finds the token and the tags of execution and step in the input.
func (k *call) marks() (token, execution, step string) {
	tags := k.in.tags("Tags")
	for _, spec := range k.in.subs("TagSpecifications") {
		maps.Copy(tags, spec.tags("Tags"))
	}
	token, execution, step = tags[k.Tags.Token], tags[k.Tags.Execution], tags[k.Tags.Step]
	for _, name := range tokenMembers {
		if token == "" {
			token = k.in.str(name)
		}
	}
	return token, execution, step
}

// Resource is something that exists.
type Resource struct {
	Kind, ID, Name  string
	Account, Region string
	Tags            map[string]string
	Made            time.Time
	Changes         int // how often it was changed since
}

// resource is what all that exists has in common.
type resource struct {
	place
	kind, id, name string
	tags           map[string]string
	made           time.Time
	changes        int
	removed        bool
	origin         origin
	owner          string // what it goes with, such as a volume with its instance; "" is nothing
	visible        [replicas]time.Time
}

// origin is who made a resource.
type origin int

const (
	byCall  origin = iota // a call
	byOther               // it was there before, or AWS made it for something else
	byAWS                 // it belongs to the furniture: default networks, public images
)

func (r *resource) common() *resource { return r }

func (r *resource) public() Resource {
	return Resource{r.kind, r.id, r.name, r.account, r.region, maps.Clone(r.tags), r.made, r.changes}
}

// make makes a resource and records it.
func (k *call) make(kind, id, name string, tags map[string]string) *resource {
	r := &resource{place: k.place, kind: kind, id: id, name: name, tags: tags, made: k.now}
	if r.tags == nil {
		r.tags = map[string]string{}
	}
	if k.given {
		r.origin = byOther
	}
	for i := range r.visible {
		r.visible[i] = k.after(k.Delays.Visible, "visible", id, i)
	}
	k.resources.put(kind+" "+r.key(id), r)
	k.effect("made", r, "")
	return r
}

func (k *call) changed(r *resource, what string) {
	r.changes++
	k.effect("changed", r, what)
}

func (k *call) remove(r *resource) {
	if r.removed {
		return
	}
	r.removed = true
	k.effect("removed", r, "")
	k.resources.drop(r.kind + " " + r.key(r.id))
}

func (k *call) effect(change string, r *resource, what string) {
	k.effects = append(k.effects, Effect{change, r.kind, r.id, maps.Clone(r.tags), what})
}

// sees says whether the replica that answers this call knows the resource.
func (k *call) sees(r *resource) bool {
	if k.given || r.place != k.place && r.origin != byAWS {
		return true // who was let see it from elsewhere, was so later
	}
	replica := int(k.share("replica", k.identity, k.nth) * replicas)
	return !k.now.Before(r.visible[replica])
}

// Live returns what exists and is not AWS's own furniture, sorted by kind, place
// and id. An instance is not live from the moment its termination was accepted.
func (c *Cloud) Live() []Resource {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle(c.now())
	live := []Resource{}
	for _, r := range c.resources.all() {
		if r.origin != byAWS {
			live = append(live, r.public())
		}
	}
	return live
}

// Untagged returns what calls made and did not mark with the tag of their
// execution, and that can have tags. What goes with something else does not count.
func (c *Cloud) Untagged() []Resource {
	c.mu.Lock()
	defer c.mu.Unlock()
	var left []Resource
	for _, r := range c.resources.all() {
		if r.origin == byCall && r.owner == "" && taggable[r.kind] && r.tags[c.Tags.Execution] == "" {
			left = append(left, r.public())
		}
	}
	return left
}

var taggable = map[string]bool{
	"instance": true, "volume": true, "image": true, "snapshot": true, "launch-template": true, "stack": true,
	"parameter": true, "secret": true, "auto-scaling-group": true, "topic": true, "queue": true, "key": true, "state-machine": true,
}

// Difference is what is live in one of two worlds only, or was changed in between.
type Difference struct{ Made, Removed, Changed []Resource }

// Empty says that there is no difference.
func (d Difference) Empty() bool { return len(d.Made)+len(d.Removed)+len(d.Changed) == 0 }

func (d Difference) String() string {
	var b strings.Builder
	for _, part := range []struct {
		sign string
		of   []Resource
	}{{"+", d.Made}, {"-", d.Removed}, {"~", d.Changed}} {
		for _, r := range part.of {
			fmt.Fprintf(&b, "%s %s %s %s %s\n", part.sign, r.Kind, r.Region, r.ID, r.Name)
		}
	}
	return b.String()
}

// Diff compares two results of Live.
func Diff(before, after []Resource) Difference {
	var d Difference
	was := map[string]Resource{}
	for _, r := range before {
		was[r.Kind+" "+r.Account+" "+r.Region+" "+r.ID] = r
	}
	for _, r := range after {
		key := r.Kind + " " + r.Account + " " + r.Region + " " + r.ID
		old, ok := was[key]
		delete(was, key)
		switch {
		case !ok:
			d.Made = append(d.Made, r)
		case old.Changes != r.Changes:
			d.Changed = append(d.Changed, r)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(was)) {
		d.Removed = append(d.Removed, was[key])
	}
	return d
}
