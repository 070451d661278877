package workflows

import (
	"strings"

	"github.com/almanac-run/almanac/lang/program"
)

// each calls fn for every step of a program, nested ones included, in source order.
func each(p *program.Program, fn func(*program.Step)) {
	eachOf(p.Steps, fn)
	eachOf(p.Finally, fn)
}

func eachOf(steps []program.Step, fn func(*program.Step)) {
	for i := range steps {
		s := &steps[i]
		fn(s)
		eachOf(s.Steps, fn)
		for b := range s.Branches {
			eachOf(s.Branches[b].Steps, fn)
		}
		if s.OnError != nil {
			eachOf(s.OnError.Steps, fn)
		}
		if s.Rollback != nil {
			eachOf(s.Rollback.Steps, fn)
		}
	}
}

// find returns the step with that id, or nil.
func find(p *program.Program, id string) *program.Step {
	var found *program.Step
	if p != nil {
		each(p, func(s *program.Step) {
			if s.ID == id && found == nil {
				found = s
			}
		})
	}
	return found
}

// walk calls fn for every step as people see it: each step of the program with
// its record (nil if it has not begun), below a loop only the iterations whose
// records are kept, below on_error only if it ran. It ends when fn returns
// false, and then returns false.
func walk(steps []program.Step, parent *record, prefix string, depth int, fn func(s *program.Step, rec *record, path string, depth int) bool) bool {
	for i := range steps {
		s := &steps[i]
		var rec *record
		if parent != nil {
			rec = parent.Sub[s.ID]
		}
		path := prefix + s.ID
		if !fn(s, rec, path, depth) || !walkInside(s, rec, path, depth+1, fn) {
			return false
		}
	}
	return true
}

func walkInside(s *program.Step, rec *record, path string, depth int, fn func(s *program.Step, rec *record, path string, depth int) bool) bool {
	inner := path + "."
	if rec != nil {
		inner = attemptPath(rec, path) + "."
	}
	switch s.Kind {
	case program.KindForEach, program.KindRepeat:
		if rec == nil {
			break
		}
		for _, key := range iterations(rec) {
			if !walk(s.Steps, rec.Sub[key], path+key+".", depth, fn) {
				return false
			}
		}
	case program.KindParallel:
		for b := range s.Branches {
			var branch *record
			if rec != nil {
				branch = rec.Sub[s.Branches[b].Name]
			}
			if !walk(s.Branches[b].Steps, branch, inner+s.Branches[b].Name+".", depth, fn) {
				return false
			}
		}
	case program.KindBlock:
		if !walk(s.Steps, rec, inner, depth, fn) {
			return false
		}
	}
	if s.OnError != nil && rec != nil && rec.Sub["on_error"] != nil {
		return walk(s.OnError.Steps, rec.Sub["on_error"], path+".on_error.", depth, fn)
	}
	return true
}

// iterations lists the keys of a loop's kept iterations, by index.
func iterations(rec *record) []string {
	var keys []string
	for key := range rec.Sub { //workflowcheck:ignore sorted below
		if strings.HasPrefix(key, "[") {
			keys = append(keys, key)
		}
	}
	sortByIndex(keys)
	return keys
}
