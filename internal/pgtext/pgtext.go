// Package pgtext says what can be said of a connection string of PostgreSQL.
//
// It gives Masked, for whoever prints one, and Check and Unquoted, for whoever reads one. It promises that no
// password is shown: neither in a URL nor as words, however it is quoted or escaped, nor in a string that is
// mistyped. It refuses to know what a string connects to.
package pgtext

import (
	"errors"
	"net/url"
	"regexp"
	"strings"
)

// Is tells whether an address is one of PostgreSQL.
func Is(address string) bool {
	return strings.HasPrefix(address, "postgres://") || strings.HasPrefix(address, "postgresql://")
}

var (
	scheme = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://`)
	secret = regexp.MustCompile(`(?i)password|secret`)
	// A quote that is not closed hides all that follows.
	words = regexp.MustCompile(`(?is)([\w-]*(?:password|secret)\w*\s*=\s*)('(?:[^'\\]|\\.)*(?:'|\\?$)|(?:[^\s\\]|\\.|\\$)*)`)
)

// Masked is text with *** for the passwords of a connection string, be it a URL or words (host=… password=…). Of a
// URL in which it cannot be said where the password ends, only the scheme is left. Other text stays as it is.
func Masked(text string) string {
	at := scheme.FindStringIndex(text)
	if at == nil {
		return words.ReplaceAllString(text, "$1***")
	}
	before, name, rest := words.ReplaceAllString(text[:at[0]], "$1***"), text[at[0]:at[1]], text[at[1]:]
	u, err := url.Parse(name + rest)
	if err != nil || misplaced(rest) {
		return before + name + "…"
	}
	host, rest := rest[:end(rest)], rest[end(rest):]
	if _, ok := u.User.Password(); ok {
		user, _, _ := strings.Cut(host, ":")
		host = user + ":***" + host[strings.LastIndex(host, "@"):]
	}
	rest, fragment, _ := strings.Cut(rest, "#")
	path, query, asked := strings.Cut(rest, "?")
	text = before + name + host + path
	if asked {
		pairs := strings.Split(query, "&")
		for i, pair := range pairs {
			key, _, is := strings.Cut(pair, "=")
			plain, err := url.QueryUnescape(key)
			switch {
			case err != nil, !is && pair != "":
				pairs[i] = "***" // perhaps the rest of a password with an & in it
			case secret.MatchString(plain):
				pairs[i] = key + "=***"
			}
		}
		text += "?" + strings.Join(pairs, "&")
	}
	if fragment != "" {
		text += "#***"
	}
	return text
}

// end is where the host of a URL ends, whose scheme is cut off.
func end(rest string) int {
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		return i
	}
	return len(rest)
}

// misplaced tells whether an @ stands where none is expected: behind a password with a slash, say.
func misplaced(rest string) bool { return strings.Contains(rest[end(rest):], "@") }

var errNoURL = errors.New("cannot be read as a URL: in a password, write / as %2F, @ as %40, # as %23, ? as %3F and % as %25")

// Check finds out whether the address, a URL, can be taken apart. The error quotes nothing of it. Who has it read by pgx
// does this first: pgx then takes the beginning of a mistyped password for a host, and says so.
func Check(address string) error {
	_, rest, _ := strings.Cut(address, "://")
	rest, _, _ = strings.Cut(rest, "?")
	if _, err := url.Parse(address); err != nil || misplaced(rest) {
		return errNoURL
	}
	return nil
}

// Unquoted is an error of pgx about a connection string without that string, in which pgx masks some passwords only.
func Unquoted(err error) error {
	text := err.Error()
	if i := strings.LastIndex(text, "`: "); i >= 0 {
		text = text[i+len("`: "):]
	}
	return errors.New(text)
}
