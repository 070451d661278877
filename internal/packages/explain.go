package packages

import (
	"fmt"
	"html"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// What the tools say when another program has the lock, and when a repository
// does not answer. There are no exit codes for it, but zypper's.
var (
	busySigns = regexp.MustCompile(`(?i)could not get lock|unable to lock|unable to acquire the dpkg|(frontend|database) lock (was|is) locked|` +
		`waiting for process with pid|existing lock.* another copy is running|failed to obtain the transaction lock|can't create transaction lock|` +
		`system management is locked|another app is currently holding the yum lock`)
	unreachableSigns = regexp.MustCompile(`(?im)^(W|E): Failed to fetch|unable to fetch some archives|could not resolve|temporary failure resolving|` +
		`does not have a release file|failed to download metadata for repo|cannot download repomd|errors? downloading (packages|metadata)|` +
		`errors? during downloading|curl error|problem retrieving files from|could not refresh the repositories|valid metadata not found|` +
		`cannot (find a valid baseurl|retrieve repository metadata)|some index files failed to download`)
	tagForm    = regexp.MustCompile(`<[^>]*>`)
	holderForm = regexp.MustCompile(`(?i)(?:process|pid:?|application with pid) (\d{1,9})\b(?: \(([^)\n]{1,40})\))?`)
	plainLine  = regexp.MustCompile(`(?i)^(E:|W: Failed|errors?\b|fatal|problem|dpkg: error|- |no match for|nothing provides|package .* (is not|has no)|.* : (Pre)?Depends:|could not|cannot)`)
)

// explain says why a tool failed.
func explain(what string, output string) error {
	said := complaint(output)
	switch {
	case busySigns.MatchString(output):
		by := ""
		if m := holderForm.FindStringSubmatch(output); m != nil {
			name := m[2]
			if comm, err := os.ReadFile(filepath.Join("/proc", m[1], "comm")); name == "" && err == nil {
				name = strings.TrimSpace(string(comm))
			}
			by = ": process " + m[1]
			if name != "" {
				by += " (" + printable(name) + ")"
			}
		}
		return fmt.Errorf("%s: %w%s: %s", what, ErrBusy, by, said)
	case unreachableSigns.MatchString(output):
		return fmt.Errorf("%s: %w: %s", what, ErrUnreachable, said)
	}
	return fmt.Errorf("%s: %s", what, said)
}

// complaint takes from a tool's output the lines that say what was wrong; if
// none looks like that, the last ones.
func complaint(output string) string {
	const most, bytes = 8, 1500
	var lines, plain []string
	for line := range strings.Lines(output) {
		// Of what a progress display has written over, the last state.
		line = strings.TrimRight(line, "\r\n")
		line = line[strings.LastIndexByte(line, '\r')+1:]
		if line = strings.TrimSpace(printable(line)); strings.HasPrefix(line, "<") { // zypper's XML
			line = html.UnescapeString(strings.TrimSpace(tagForm.ReplaceAllString(line, " ")))
		}
		if line == "" || slices.Contains(lines, line) {
			continue
		}
		lines = append(lines, line)
		if plainLine.MatchString(line) {
			plain = append(plain, line)
		}
	}
	if len(plain) > 0 {
		lines = plain[:min(len(plain), most)]
	} else {
		lines = lines[max(0, len(lines)-3):]
	}
	text := strings.Join(lines, "; ")
	if text == "" {
		return "it said nothing"
	}
	if len(text) > bytes {
		text = strings.ToValidUTF8(text[:bytes], "") + "…"
	}
	return text
}

// printable replaces what a terminal would take for more than text.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || r == '\r' {
			return r
		}
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}
