package rehearse

import (
	"regexp"
	"strings"

	"github.com/almanac-run/almanac/internal/rehearse/play"
)

var (
	generation = regexp.MustCompile(`#\d+`)
	iteration  = regexp.MustCompile(`\[\d+\]`)
)

// base is the path of a piece of work without its attempts, and for a
// compensation that of the work that it takes back.
func base(a *play.Attempt) string {
	path := a.Path
	if a.Undo { // in the child execution first: first/undo.PATH.TOKEN
		id := strings.TrimPrefix(a.ID, "undo.")
		path = strings.TrimSuffix(a.Path, a.ID) + id[:max(strings.LastIndexByte(id, '.'), 0)]
	}
	return generation.ReplaceAllString(path, "")
}

// stepOf is the path of the step, without the node.
func stepOf(base string) string {
	if i := strings.LastIndexByte(base, '@'); i >= 0 {
		return base[:i]
	}
	return base
}

// alike is what pieces of work have in common that differ in iteration and node only.
func alike(base string) string { return iteration.ReplaceAllString(stepOf(base), "[*]") }

// keys are the names under which an answer for a piece of work may stand, best first.
func keys(base string) []string {
	star := iteration.ReplaceAllString(base, "[*]")
	var all []string
	for _, k := range []string{base, star, stepOf(base), stepOf(star)} {
		if len(all) == 0 || all[len(all)-1] != k {
			all = append(all, k)
		}
	}
	return all
}
