package report

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// What the templates draw: numbers in the units of the drawings.

const (
	mostGroups = 100 // drawn of a step on many targets
	fewOpen    = 40  // targets of a step that are shown at once
	fewWorks   = 200 // of one step, each drawn by itself
	mostWorks  = 200 // that did not succeed, each listed though the others are grouped
	mostShare  = 40  // rows of a table of counts
	mostTicks  = 6
)

// fleetPage is a Fleet as it is drawn.
type fleetPage struct {
	Fleet
	Total   share
	Away    int
	History *history
	Shares  []shares
}

// share is how many of something stand how, and where the parts of its bar are.
type share struct {
	Name                             string
	Compliant, NonCompliant, Unknown int
	Bar                              []segment
}

// All is their sum.
func (s share) All() int { return s.Compliant + s.NonCompliant + s.Unknown }

// segment is a part of a bar, in per cent of its width.
type segment struct {
	Class, Text string
	X, W        string
}

// shares is one table of counts.
type shares struct {
	Title, Of string
	Rows      []share
	More      int
}

func percent(part, of float64) string {
	if of == 0 {
		return "0"
	}
	return strconv.FormatFloat(part/of*100, 'f', 2, 64)
}

func (s *share) add(status string) {
	switch status {
	case Compliant:
		s.Compliant++
	case NonCompliant:
		s.NonCompliant++
	default:
		s.Unknown++
	}
}

func (s *share) draw() {
	at, all := 0.0, float64(s.All())
	s.Bar = nil
	for _, p := range []struct {
		class string
		n     int
	}{{"ok", s.Compliant}, {"bad", s.NonCompliant}, {"none", s.Unknown}} {
		if p.n > 0 {
			s.Bar = append(s.Bar, segment{Class: p.class, X: percent(at, all), W: percent(float64(p.n), all),
				Text: fmt.Sprintf("%d of %d %s", p.n, s.All(), map[string]string{"ok": "compliant", "bad": "not compliant", "none": "unknown"}[p.class])})
			at += float64(p.n)
		}
	}
}

// counted is a table of counts, the largest first.
func counted(title, of string, by map[string]*share) shares {
	t := shares{Title: title, Of: of}
	for name, s := range by {
		s.Name = name
		s.draw()
		t.Rows = append(t.Rows, *s)
	}
	slices.SortFunc(t.Rows, func(a, b share) int { return cmp.Or(cmp.Compare(b.All(), a.All()), cmp.Compare(a.Name, b.Name)) })
	if len(t.Rows) > mostShare {
		t.More, t.Rows = len(t.Rows)-mostShare, t.Rows[:mostShare]
	}
	return t
}

func (f Fleet) page() fleetPage {
	p := fleetPage{Fleet: f}
	systems, baselines := map[string]*share{}, map[string]*share{}
	of := func(by map[string]*share, name string) *share {
		if by[name] == nil {
			by[name] = &share{}
		}
		return by[name]
	}
	for _, n := range f.Nodes {
		p.Total.add(n.Status)
		of(systems, cmp.Or(n.OS, "not known")).add(n.Status)
		for _, s := range n.Standings {
			of(baselines, s.Baseline).add(s.Status)
		}
		if n.Away != "" {
			p.Away++
		}
	}
	p.Total.draw()
	p.Shares = []shares{counted("By system", "system", systems), counted("By baseline", "baseline", baselines)}
	p.History = drawn(f.Days)
	return p
}

// The drawing of the days, in pixels of its own.
const (
	historyWidth  = 720
	historyHeight = 200
	historyLeft   = 44
	historyTop    = 8
)

// history is stacked bars, one for each day.
type history struct {
	Bars         []dayBar
	Ticks, Dates []tick
	Days         []Day // for the table, the newest first
	First, Last  Day
	Width        int
}

type dayBar struct {
	X, W  string
	Parts []dayPart
	Text  string
}

type dayPart struct{ Class, Y, H string }

type tick struct {
	At, Text string
	Anchor   string // of the text
}

// drawn is nil if there is nothing to draw.
func drawn(days []Day) *history {
	most := 0
	for _, d := range days {
		most = max(most, d.Compliant+d.NonCompliant+d.Unknown)
	}
	if most == 0 {
		return nil
	}
	h := &history{First: days[0], Last: days[len(days)-1], Days: slices.Clone(days), Width: historyWidth}
	slices.Reverse(h.Days)
	step := nice(float64(most) / 4)
	top := step * float64((most+int(step)-1)/int(step))
	y := func(n float64) float64 { return historyTop + historyHeight*(1-n/top) }
	number := func(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) }
	for n := 0.0; n <= top; n += step {
		h.Ticks = append(h.Ticks, tick{At: number(y(n)), Text: strconv.Itoa(int(n))})
	}
	wide := float64(historyWidth-historyLeft) / float64(len(days))
	every := max(1, (len(days)+mostTicks-1)/mostTicks)
	for i, d := range days {
		x := historyLeft + wide*float64(i)
		bar := min(wide*0.84, 40) // of few days they stay bars
		b := dayBar{X: number(x + (wide-bar)/2), W: number(bar), Text: fmt.Sprintf("%s: %d compliant, %d not compliant, %d unknown",
			d.Day.UTC().Format(time.DateOnly), d.Compliant, d.NonCompliant, d.Unknown)}
		from := 0.0
		for _, part := range []struct {
			class string
			n     int
		}{{"ok", d.Compliant}, {"bad", d.NonCompliant}, {"none", d.Unknown}} {
			if part.n > 0 {
				b.Parts = append(b.Parts, dayPart{part.class, number(y(from + float64(part.n))), number(historyHeight * float64(part.n) / top)})
				from += float64(part.n)
			}
		}
		h.Bars = append(h.Bars, b)
		if i%every == 0 && i+every/2 < len(days) || i == len(days)-1 {
			anchor := "middle"
			if i == len(days)-1 && wide < 60 {
				anchor = "end"
				x = historyWidth - wide/2
			}
			h.Dates = append(h.Dates, tick{number(x + wide/2), d.Day.UTC().Format("2 Jan"), anchor})
		}
	}
	return h
}

// nice is the least of 1, 2, 5, 10, 20, … that is not below f.
func nice(f float64) float64 {
	for n := 1.0; ; n *= 10 {
		for _, m := range []float64{1, 2, 5} {
			if n*m >= f {
				return n * m
			}
		}
	}
}

// executionPage is an Execution as it is drawn.
type executionPage struct {
	Execution
	Took  time.Duration
	Ticks []tick
	Rows  []row
	Tally []state
}

// state counts the steps in it.
type state struct {
	Name  string
	Count int
}

// row is a step, with what it did on each target.
type row struct {
	Step
	Heading string // of a phase that begins here
	Lane    lane
	Nested  []nested
	Noun    string // what the nested are: targets, iterations
	Folded  string // says how they were put together
	Open    bool   // they are shown at once
}

// lane is a bar in time, in per cent of the execution.
type lane struct {
	X, W  string
	Class string
	Text  string
	Took  string
	At    string
}

// nested is one target of a step, or some that went the same way.
type nested struct {
	Work
	Lane lane
}

func (x Execution) page() executionPage {
	end := x.Ended
	if end.IsZero() {
		end = x.At
	}
	for _, s := range x.Steps { // clocks of a server may differ by a little
		if s.End.After(end) {
			end = s.End
		}
	}
	p := executionPage{Execution: x, Took: end.Sub(x.Started)}
	span := max(p.Took, time.Millisecond)
	place := func(from, to time.Time, state, what string) lane {
		if from.IsZero() {
			return lane{}
		}
		l := lane{Class: tone(state), At: "+" + took(from.Sub(x.Started))}
		if to.IsZero() {
			to = end
			l.Took = took(to.Sub(from)) + " so far"
		} else {
			l.Took = took(to.Sub(from))
		}
		at := min(max(float64(from.Sub(x.Started)), 0), float64(span))
		wide := min(max(float64(to.Sub(from)), 0), float64(span)-at)
		l.X, l.W = percent(at, float64(span)), percent(wide, float64(span))
		l.Text = fmt.Sprintf("%s: %s, %s for %s", what, statusWords(state), l.At, l.Took)
		return l
	}
	every := interval(span)
	for at := time.Duration(0); at <= span; at += every {
		anchor := "middle"
		switch {
		case at == 0:
			anchor = "start"
		case span-at < every/3:
			anchor = "end"
		}
		p.Ticks = append(p.Ticks, tick{percent(float64(at), float64(span)), took(at), anchor})
	}
	phase, states := "", map[string]int{}
	for _, s := range x.Steps {
		r := row{Step: s, Lane: place(s.Start, s.End, s.State, s.Path)}
		if s.Phase != phase {
			phase = s.Phase
			r.Heading = map[string]string{"rollback": "Rollback", "finally": "Finally"}[phase]
		}
		r.Noun = "targets"
		if s.Form == "for_each" || s.Form == "repeat" {
			r.Noun = "steps of iterations"
		}
		works, folded := folded(s.Works, r.Noun)
		for _, w := range works {
			r.Nested = append(r.Nested, nested{w, place(w.Start, w.End, w.State, w.Name)})
		}
		r.Folded = folded
		r.Open = folded == "" && len(works) <= fewOpen
		if s.Phase == "" {
			states[s.State]++
		}
		p.Rows = append(p.Rows, r)
	}
	for name, n := range states {
		p.Tally = append(p.Tally, state{name, n})
	}
	slices.SortFunc(p.Tally, func(a, b state) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Name, b.Name)) })
	return p
}

// interval is between the ticks of a time axis.
func interval(span time.Duration) time.Duration {
	for _, unit := range []time.Duration{time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second, 10 * time.Second, time.Minute, 10 * time.Minute, time.Hour} {
		for _, n := range []time.Duration{1, 2, 5} {
			if span/(unit*n) < mostTicks {
				return unit * n
			}
		}
	}
	return max(span/(mostTicks-1)/time.Hour*time.Hour, time.Hour)
}

// folded puts the works of a step on many targets together: those that did not
// succeed stay by themselves, the others are groups in the order of their start.
func folded(works []Work, noun string) ([]Work, string) {
	if len(works) <= fewWorks {
		return works, ""
	}
	var apart, others []Work
	more := 0
	for _, w := range works {
		switch t := tone(w.State); {
		case t == "ok" || t == "back":
			others = append(others, w)
		case len(apart) < mostWorks:
			apart = append(apart, w)
		default:
			more++
		}
	}
	size := max(1, (len(others)+mostGroups-1)/mostGroups)
	for group := range slices.Chunk(others, size) {
		if size == 1 {
			apart = append(apart, group[0])
			continue
		}
		g := Work{Name: fmt.Sprintf("%s … %s (%d)", group[0].Name, group[len(group)-1].Name, len(group)), State: group[0].State, Start: group[0].Start}
		for _, w := range group {
			if w.End.After(g.End) {
				g.End = w.End
			}
		}
		apart = append(apart, g)
	}
	text := fmt.Sprintf("%d %s, those that succeeded in groups of %d by their start", len(works), noun, size)
	if more > 0 {
		text += fmt.Sprintf("; %d more that did not succeed are left out", more)
	}
	return apart, text
}
