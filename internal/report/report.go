// Package report writes pages that people read in a browser and hand on: how a
// fleet complies, and what an execution did.
//
// It gives Fleet and Execution, plain data with their Write. It promises that a
// page is one file which needs no network, reads without scripts, on paper and
// by a screen reader, and that nothing of its data can become markup or code,
// whoever it is from. It refuses to know where the data comes from.
package report

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"
	"unicode"
)

// The statuses of compliance.
const (
	Compliant    = "compliant"
	NonCompliant = "non_compliant"
	Unknown      = "unknown"
)

// Fleet is what the page of a fleet shows.
type Fleet struct {
	Title   string // what the nodes are: a namespace, a condition
	At      time.Time
	Days    []Day  // in their order, none left out
	NoDays  string // why there are none
	Nodes   []Node // in the order of the table
	Command string // how the page was made
}

// Day is how pairs of node and baseline stood at the end of a day.
type Day struct {
	Day                              time.Time
	Compliant, NonCompliant, Unknown int
}

// Node is one machine. Texts are as people read them.
type Node struct {
	ID, Name, OS, Reach, Seen, Clock, Agent string

	Away      string // why it is no target now; empty: it is one
	Status    string // the worst of its standings
	Tags      []string
	Standings []Standing
}

// Standing is how a node stands to a baseline.
type Standing struct {
	Baseline, Status string
	Missing          string // "3 critical, 12 important"
	Failed           int
	Restart          bool // one is due
	Why              string
	Since, At        time.Time
}

// Execution is what the page of an execution shows.
type Execution struct {
	ID, Runbook, Summary string
	Status               string // an outcome, or what it does now
	Message              string
	Caller, Digest, URL  string
	Started, Ended       time.Time // Ended is zero while it runs
	At                   time.Time // the page was made
	Partial              string    // what is not shown, and why
	Steps                []Step    // in the order of the table
	Failures             []Failure // the innermost last
	Groups               []Group   // targets that failed, alike ones together
	RolledBack           []string
	NotRolledBack        []Failure
	Left                 string   // what stays as it is, in a sentence
	Commands             []string // to go on with
}

// Step is one row of the timeline.
type Step struct {
	Path, Name, Form string
	Phase            string // "", "rollback" or "finally"
	State            string
	Message          string
	Target           string // if there is one
	Child, ChildURL  string // execution of a runbook that it called
	Depth            int    // of nesting
	Counts           string // of targets or iterations
	Start, End       time.Time
	Works            []Work // on targets or in iterations, by their start
}

// Work is a step on one target, or in one iteration.
type Work struct {
	Name, State, Message string
	Start, End           time.Time
	Attempts             int
}

// Failure is one step that failed, or whose rollback did.
type Failure struct {
	Step, Target, Action, Kind, Message string
	Place                               string // file:line:col
	Tail                                string // the last lines of a command
}

// Group is targets of a step that failed alike.
type Group struct {
	Step, Why, Line string
	Count           int
	Targets         []string // the first
}

//go:embed page.css
var style string

//go:embed page.js
var script string

//go:embed page.html
var pages string

// policy lets the page have its own style and script and nothing else: whatever
// else were in it, a browser would neither run nor fetch it.
var policy = fmt.Sprintf("default-src 'none'; style-src 'sha256-%s'; script-src 'sha256-%s'; base-uri 'none'; form-action 'none'", sum(style), sum(script))

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return base64.StdEncoding.EncodeToString(h[:])
}

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"style":  func() template.CSS { return template.CSS(style) },
	"script": func() template.JS { return template.JS(script) },
	"policy": func() string { return policy },
	"time":   stamp,
	"clock":  func(t time.Time) string { return t.UTC().Format(time.TimeOnly) },
	"took":   took,
	"words":  func(s string) string { return strings.ReplaceAll(s, "_", " ") },
	"status": statusWords,
	"tone":   tone,
	"sign":   sign,
	"join":   strings.Join,
}).Parse(pages))

// Write writes the page.
func (f Fleet) Write(w io.Writer) error { return write(w, "fleet", f.page()) }

// Write writes the page.
func (x Execution) Write(w io.Writer) error { return write(w, "execution", x.page()) }

func write(w io.Writer, page string, data any) error {
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, page, data); err != nil {
		return err
	}
	// Control characters say nothing to a reader, and those of direction can make
	// a text look like another.
	_, err := w.Write(bytes.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return unicode.ReplacementChar
		}
		return r
	}, b.Bytes()))
	return err
}

// stamp is a time of the page. All are UTC, since a page is read elsewhere.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04 UTC")
}

// took is a duration as people read it.
func took(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		s := d.Round(time.Second).String()
		if strings.HasSuffix(s, "m0s") {
			s = strings.TrimSuffix(s, "0s")
		}
		return s
	}
	return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
}

func statusWords(s string) string {
	switch s {
	case NonCompliant:
		return "not compliant"
	case "":
		return Unknown
	}
	return strings.ReplaceAll(s, "_", " ")
}

// tone is the colour of a state, by the name of its class. No state is told by
// its colour alone: sign and word stand beside it.
func tone(state string) string {
	switch state {
	case "succeeded", Compliant:
		return "ok"
	case "failed", "not_rolled_back", "rollback_failed", "timed_out", NonCompliant:
		return "bad"
	case "unreached", "cancelled", "waiting", "handled", "lost":
		return "warn"
	case "running", "finally":
		return "run"
	case "rolled_back", "rolling_back":
		return "back"
	}
	return "none"
}

func sign(state string) string {
	switch tone(state) {
	case "ok":
		return "✔"
	case "bad":
		return "✘"
	case "warn":
		return "!"
	case "run":
		return "▸"
	case "back":
		return "↶"
	}
	return "·"
}
