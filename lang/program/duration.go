package program

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ParseDuration reads a duration as runbooks write it: what time.ParseDuration
// reads, with d for days of 24 hours: "90s", "1h30m", "1d12h". It is the only
// reader of durations, so that a literal, an input and an action agree.
func ParseDuration(s string) (time.Duration, error) {
	sign, rest := "", s
	if rest != "" && (rest[0] == '-' || rest[0] == '+') {
		sign, rest = rest[:1], rest[1:]
	}
	days, after, ok := strings.Cut(rest, "d")
	if !ok {
		d, err := time.ParseDuration(s)
		if err != nil {
			return 0, badDuration(s)
		}
		return d, nil
	}
	n, err := strconv.ParseFloat(days, 64)
	if err != nil || strings.Trim(days, "0123456789.") != "" {
		return 0, badDuration(s)
	}
	var d time.Duration
	if after != "" {
		if after[0] == '-' || after[0] == '+' {
			return 0, badDuration(s)
		}
		if d, err = time.ParseDuration(after); err != nil {
			return 0, badDuration(s)
		}
	}
	const day = float64(24 * time.Hour)
	whole := n * day
	// One day short of the largest: adding d must not overflow either.
	if whole > float64(1<<63-1)-day || d > 1<<63-1-time.Duration(whole) {
		return 0, fmt.Errorf("%q is too long a duration", clip(s))
	}
	if d += time.Duration(whole); sign == "-" {
		d = -d
	}
	return d, nil
}

// ParseTimestamp reads a timestamp as runbooks write it, RFC 3339, into UTC, where
// its year must have four digits too.
func ParseTimestamp(s string) (time.Time, error) {
	ts, err := time.Parse(time.RFC3339, s)
	if ts = ts.UTC(); err != nil || ts.Year() < 1 || ts.Year() > 9999 {
		return time.Time{}, fmt.Errorf("%q is not a timestamp; write it like 2026-11-23T09:00:00Z or 2026-11-23T09:00:00+01:00", clip(s))
	}
	return ts, nil
}

func badDuration(s string) error {
	return fmt.Errorf(`%q is not a duration; write it like 90s, 1h30m or 2d`, clip(s))
}

// clip shortens text that a message quotes.
func clip(s string) string {
	const most = 60
	if r := []rune(s[:min(len(s), 4*most)]); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}
