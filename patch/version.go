package patch

import (
	"cmp"
	"strings"
)

// order returns how versions of a package manager are compared: below, at or
// above 0 if a is older than, as new as, or newer than b. It is nil for a package
// manager that is not known.
func order(manager string) func(a, b string) int {
	switch manager {
	case "apt":
		return compareDebian
	case "dnf", "zypper":
		return compareRPM
	case "windows": // numbers with dots between them, which RPM's order covers
		return compareRPM
	}
	return nil
}

// Newer tells whether version a is newer than b to a package manager; of one that is
// not known, nothing is.
func Newer(manager, a, b string) bool {
	compare := order(manager)
	return compare != nil && compare(a, b) > 0
}

// compareDebian compares versions as dpkg does, by the Debian policy's section
// on the Version field: epoch, upstream version, revision.
func compareDebian(a, b string) int {
	epochA, upstreamA, revisionA := cut(a)
	epochB, upstreamB, revisionB := cut(b)
	return cmp.Or(
		compareNumbers(epochA, epochB),
		compareDebianPart(upstreamA, upstreamB),
		compareDebianPart(revisionA, revisionB),
	)
}

// compareRPM compares versions as rpm does: epoch, version, release.
func compareRPM(a, b string) int {
	epochA, versionA, releaseA := cut(a)
	epochB, versionB, releaseB := cut(b)
	return cmp.Or(
		compareNumbers(epochA, epochB),
		compareRPMPart(versionA, versionB),
		compareRPMPart(releaseA, releaseB),
	)
}

// cut takes the epoch and what follows the last hyphen off a version: both
// package managers write it so. What stands before a colon is an epoch only if
// it is a number.
func cut(version string) (epoch, upstream, revision string) {
	if before, after, ok := strings.Cut(version, ":"); ok && strings.Trim(before, "0123456789") == "" {
		epoch, version = before, after
	}
	if i := strings.LastIndexByte(version, '-'); i >= 0 {
		return epoch, version[:i], version[i+1:]
	}
	return epoch, version, ""
}

// compareNumbers compares decimal numbers of any length; an empty one is 0.
func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

// compareDebianPart compares by turns what is no digit, in an order of its own,
// and what is, as a number.
func compareDebianPart(a, b string) int {
	for a != "" || b != "" {
		for a != "" && !isDigit(a[0]) || b != "" && !isDigit(b[0]) {
			if d := cmp.Compare(debianWeight(a), debianWeight(b)); d != 0 {
				return d
			}
			a, b = a[1:], b[1:] // weights differ if one is at its end
		}
		var numberA, numberB string
		numberA, a = take(a, isDigit)
		numberB, b = take(b, isDigit)
		if d := compareNumbers(numberA, numberB); d != 0 {
			return d
		}
	}
	return 0
}

// debianWeight is the place of the first character: a tilde is before the end,
// the end (and a digit) before letters, letters before everything else.
func debianWeight(s string) int {
	switch {
	case s == "" || isDigit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case isLetter(s[0]):
		return int(s[0])
	}
	return int(s[0]) + 256
}

// compareRPMPart compares segments of digits or letters and passes over what is
// between them. A tilde is before the end, a caret after it and before
// everything else.
func compareRPMPart(a, b string) int {
	for a != "" || b != "" {
		_, a = take(a, isSeparator)
		_, b = take(b, isSeparator)
		switch tildeA, tildeB := strings.HasPrefix(a, "~"), strings.HasPrefix(b, "~"); {
		case tildeA && tildeB:
			a, b = a[1:], b[1:]
			continue
		case tildeA:
			return -1
		case tildeB:
			return 1
		}
		switch caretA, caretB := strings.HasPrefix(a, "^"), strings.HasPrefix(b, "^"); {
		case caretA && caretB:
			a, b = a[1:], b[1:]
			continue
		case caretA && b != "" || caretB && a == "":
			return -1
		case caretA || caretB:
			return 1
		}
		if a == "" || b == "" {
			break
		}
		kind, compare := isLetter, strings.Compare
		number := isDigit(a[0])
		if number {
			kind, compare = isDigit, compareNumbers
		}
		var segmentA, segmentB string
		segmentA, a = take(a, kind)
		segmentB, b = take(b, kind)
		if segmentB == "" { // of the other kind: a number is newer than letters
			if number {
				return 1
			}
			return -1
		}
		if d := compare(segmentA, segmentB); d != 0 {
			return d
		}
	}
	return cmp.Compare(min(len(a), 1), min(len(b), 1)) // whichever goes on is newer
}

// take cuts off the longest beginning of s whose bytes are all of a kind.
func take(s string, kind func(byte) bool) (taken, rest string) {
	n := 0
	for n < len(s) && kind(s[n]) {
		n++
	}
	return s[:n], s[n:]
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// isSeparator tells what RPM passes over.
func isSeparator(c byte) bool { return !isDigit(c) && !isLetter(c) && c != '~' && c != '^' }
