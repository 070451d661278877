package sweep

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/workflows"
)

// Verdict says what to think of a resource.
type Verdict string

// The verdicts. Where several executions have a say, the first of these decides.
const (
	InUse   Verdict = "running" // its execution runs, or that which called it
	Unknown Verdict = "unknown" // the server knows no such execution
	Kept    Verdict = "kept"    // it is a result, or somebody wants it
	Stopped Verdict = "stopped" // its runbook leaves what it did if it fails
	Left    Verdict = "left"    // left over
)

var verdicts = []Verdict{InUse, Unknown, Kept, Stopped, Left}

// Options say what is to be removed beside what is left over, and what is not.
type Options struct {
	Execution string        // only what this one and those that it called have made; and that also if it is unknown
	Stopped   bool          // also what is Stopped
	OlderThan time.Duration // only what was made at least so long ago
	Now       time.Time     // zero is time.Now
}

func (o Options) now() time.Time {
	if o.Now.IsZero() {
		return time.Now()
	}
	return o.Now
}

// names tells whether the option names the execution of a tag, or one that called it.
func (o Options) names(tag string) bool {
	named := TagValue(o.Execution)
	return o.Execution != "" && (tag == named || strings.HasPrefix(tag, named+"/"))
}

// Judged is a resource with what to think of it.
type Judged struct {
	Resource
	Verdict Verdict `json:"verdict"`
	Reason  string  `json:"reason"`
	Remove  bool    `json:"remove"` // Remove removes it
}

// Judge judges resources. Those that the options do not name are left out. An
// error means that the server cannot tell: then nothing may be removed.
func Judge(ctx context.Context, s Server, resources []Resource, o Options) ([]Judged, error) {
	j := judge{Server: s, known: map[string][]Execution{}}
	var all []Judged
	removed := map[string]bool{} // by region and id
	for _, r := range resources {
		if o.Execution != "" && !o.names(r.Execution) {
			continue
		}
		one, err := j.one(ctx, r, o)
		if err != nil {
			return nil, err
		}
		removed[r.Region+" "+r.ID] = one.Remove
		all = append(all, one)
	}
	for i := range all {
		for _, whole := range all[i].partOf {
			if all[i].Remove && !removed[all[i].Region+" "+whole] {
				all[i].Verdict, all[i].Remove, all[i].Reason = Kept, false, whole+" needs it, which stays"
			}
		}
	}
	return all, nil
}

// judge remembers the answers of the server.
type judge struct {
	Server
	known map[string][]Execution
}

func (j judge) executions(ctx context.Context, tag string) ([]Execution, error) {
	if found, ok := j.known[tag]; ok {
		return found, nil
	}
	found, err := j.Executions(ctx, tag)
	if err != nil {
		return nil, fmt.Errorf("look for execution %s: %w", tag, err)
	}
	j.known[tag] = found
	return found, nil
}

// one judges a resource without what it is part of.
func (j judge) one(ctx context.Context, r Resource, o Options) (Judged, error) {
	v, why, err := j.verdict(ctx, r)
	if err != nil {
		return Judged{}, err
	}
	one := Judged{Resource: r, Verdict: v, Reason: why}
	one.Remove = v == Left || v == Stopped && o.Stopped || v == Unknown && o.names(r.Execution)
	if wanted := wanted(r); wanted != "" && v != InUse && v != Kept {
		one.Verdict, one.Remove, one.Reason = Kept, false, wanted
	}
	if one.Remove && o.OlderThan > 0 {
		switch age := o.now().Sub(r.Made); {
		case r.Made.IsZero():
			one.Remove, one.Reason = false, one.Reason+"; AWS does not say how old it is"
		case age < o.OlderThan:
			one.Remove, one.Reason = false, one.Reason+"; it is not that old"
		}
	}
	one.Remove = one.Remove && r.kind != nil
	return one, nil
}

// clocks is how far AWS's clock and the server's may be apart.
const clocks = 5 * time.Minute

// verdict judges by the executions that may have made the resource: if an id was
// used more than once, or a tag could be that of several, all have a say.
func (j judge) verdict(ctx context.Context, r Resource) (Verdict, string, error) {
	found, err := j.executions(ctx, r.Execution)
	if err != nil {
		return "", "", err
	}
	makers := slices.DeleteFunc(slices.Clone(found), func(e Execution) bool {
		return !e.Started.IsZero() && !r.Made.IsZero() && r.Made.Before(e.Started.Add(-clocks))
	})
	if len(makers) > 0 {
		return j.all(ctx, makers, map[string]bool{})
	}
	// One that called it may still be known: it lives longer.
	for at, c := range r.Execution {
		if c != '/' {
			continue
		}
		callers, err := j.executions(ctx, r.Execution[:at])
		if err != nil {
			return "", "", err
		}
		for _, e := range callers {
			if e.Status == Running {
				return InUse, e.ID + " runs, which called it", nil
			}
		}
	}
	if len(found) > 0 {
		return Unknown, "it is older than each execution of that id that the server knows", nil
	}
	return Unknown, "the server knows no such execution", nil
}

// all judges by each of some executions: the most careful verdict counts.
func (j judge) all(ctx context.Context, some []Execution, seen map[string]bool) (Verdict, string, error) {
	verdict, why := Left, ""
	for _, e := range some {
		v, w, err := j.chain(ctx, e, seen)
		if err != nil {
			return "", "", err
		}
		if why == "" || slices.Index(verdicts, v) < slices.Index(verdicts, verdict) {
			verdict, why = v, w
		}
	}
	return verdict, why, nil
}

// chain judges by an execution and those that called it. Who called one that
// succeeded says what becomes of its results.
func (j judge) chain(ctx context.Context, e Execution, seen map[string]bool) (Verdict, string, error) {
	own, why := alone(e)
	if e.Parent == "" || own == InUse || seen[e.ID] {
		return own, why, nil
	}
	seen[e.ID] = true
	found, err := j.executions(ctx, TagValue(e.Parent))
	if err != nil {
		return "", "", err
	}
	callers := slices.DeleteFunc(slices.Clone(found), func(p Execution) bool { return p.ID != e.Parent })
	if len(callers) == 0 {
		return Unknown, "the server does not know " + e.Parent + ", which called " + e.ID, nil
	}
	theirs, theirWhy, err := j.all(ctx, callers, seen)
	switch {
	case err != nil:
		return "", "", err
	case own == Kept:
		return theirs, theirWhy, nil
	case theirs == Kept:
		return own, why, nil
	case slices.Index(verdicts, theirs) < slices.Index(verdicts, own):
		return theirs, theirWhy, nil
	}
	return own, why, nil
}

// alone judges by one execution.
func alone(e Execution) (Verdict, string) {
	switch {
	case e.Status == workflows.Succeeded:
		return Kept, e.ID + " succeeded: it is a result"
	case e.Status == workflows.Failed:
		return Stopped, e.ID + " failed, and was not rolled back"
	case !slices.Contains([]Status{workflows.RolledBack, workflows.RollbackFailed, workflows.Cancelled, workflows.TimedOut, Terminated}, e.Status):
		return InUse, e.ID + " is " + words(e.Status)
	case e.Stopped:
		return Stopped, e.ID + " was " + words(e.Status) + ", and its runbook leaves what it did"
	}
	return Left, e.ID + " was " + words(e.Status)
}

func words(s Status) string {
	switch s {
	case workflows.RolledBack:
		return "rolled back"
	case workflows.RollbackFailed:
		return "not rolled back entirely"
	case workflows.TimedOut:
		return "timed out"
	}
	return string(s)
}

// owners are tags that AWS sets on what belongs to something larger, or is a
// copy that AWS made with all tags. Both may bear our tags, and neither is ours.
var owners = map[string]string{
	"aws:cloudformation:stack-id":       "it belongs to a stack of CloudFormation",
	"aws:autoscaling:groupName":         "it belongs to an Auto Scaling group",
	"aws:ec2:fleet-id":                  "it belongs to a fleet of EC2",
	"aws:ec2spot:fleet-request-id":      "it belongs to a spot fleet",
	"aws:dlm:lifecycle-policy-id":       "it is a copy by Data Lifecycle Manager",
	"aws:backup:source-resource":        "it is a copy by AWS Backup",
	"aws:elasticmapreduce:job-flow-id":  "it belongs to a cluster of EMR",
	"aws:servicecatalog:provisionedArn": "it belongs to a product of Service Catalog",
}

// wanted says why a resource stays, whatever became of its execution; "" if
// nothing speaks for it.
func wanted(r Resource) string {
	if keep, ok := r.tags[TagKeep]; ok && !strings.EqualFold(keep, "false") {
		return "it has the tag " + TagKeep
	}
	for _, key := range slices.Sorted(maps.Keys(owners)) {
		if _, ok := r.tags[key]; ok {
			return owners[key]
		}
	}
	if r.changed {
		return "it was changed since its step made it, and may be needed"
	}
	return ""
}
