package compile

import (
	"fmt"
	"strings"

	"github.com/agext/levenshtein"
)

// suggest ends a message about an unknown name: the name that was probably
// meant, or what there is. what is a verb phrase, "it has".
func suggest(name, what string, known []string) string {
	if near := nearest(name, known); near != "" {
		return fmt.Sprintf("; did you mean %s?", near)
	}
	if len(known) == 0 {
		return ""
	}
	const most = 15
	if len(known) > most {
		return fmt.Sprintf("; %s %s and %d more", what, strings.Join(known[:most], ", "), len(known)-most)
	}
	return fmt.Sprintf("; %s %s", what, strings.Join(known, ", "))
}

// nearest returns the known name that differs from name by little, or "".
func nearest(name string, known []string) string {
	if len(name) > 100 {
		return ""
	}
	best, least := "", min(max(1, (len(name)+2)/3)+1, max(len(name), 2))
	for _, k := range known {
		if len(name) == 1 && len(k) == 1 {
			continue // every letter is near every other
		}
		if d := levenshtein.Distance(strings.ToLower(name), strings.ToLower(k), nil); d < least {
			best, least = k, d
		}
	}
	if best != "" {
		return best
	}
	// A last word alone is how names are misremembered: "restart" for host.service.restart.
	for _, k := range known {
		if strings.HasSuffix(k, "."+name) {
			return k
		}
	}
	return ""
}
