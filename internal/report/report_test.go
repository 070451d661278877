package report

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
)

var began = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

const hostile = `"><script>alert(1)</script><img src=x onerror=alert(1)>{{.}}</style></title>` + "\u202e\x1b[31m"

func fleetOf(n int, id string) Fleet {
	f := Fleet{Title: "default", At: began, Command: "starter nodes --html fleet.html"}
	for i := range 30 {
		f.Days = append(f.Days, Day{began.AddDate(0, 0, i-30), i, 30 - i, 3})
	}
	for i := range n {
		f.Nodes = append(f.Nodes, Node{ID: fmt.Sprint(id, i), Name: id, OS: "debian 13", Reach: "agent", Seen: "now", Status: []string{Compliant, NonCompliant, Unknown}[i%3],
			Tags: []string{"role=" + id}, Standings: []Standing{{Baseline: "linux", Status: NonCompliant, Missing: "1 critical", Why: id, Since: began}}})
	}
	return f
}

func executionOf(id string) Execution {
	return Execution{ID: id, Runbook: id, Summary: id, Status: "rolled_back", Message: id, Caller: id, Digest: id, URL: "javascript:alert(1)//" + id, Started: began,
		Ended: began.Add(time.Minute), At: began.Add(time.Hour), Partial: id, Left: id, Commands: []string{id}, RolledBack: []string{id},
		Failures: []Failure{{id, id, id, id, id, id, id}}, NotRolledBack: []Failure{{id, id, id, id, id, id, id}}, Groups: []Group{{id, id, id, 2, []string{id}}},
		Steps: []Step{{Path: id, Name: id, Form: id, Phase: "", State: "failed", Message: id, Target: id, Child: id, ChildURL: "javascript:x", Counts: id, Start: began, End: began.Add(time.Second),
			Works: []Work{{Name: id, State: id, Message: id, Start: began, Attempts: 2}}}}}
}

type page interface{ Write(io.Writer) error }

func written(t testing.TB, p page) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Whatever nodes and people call things, a page has the elements that it has for
// harmless data, and nothing that runs or is fetched.
func TestNothingBecomesMarkup(t *testing.T) {
	for _, tt := range []struct {
		name              string
		harmless, hostile page
	}{
		{"fleet", fleetOf(3, "web"), fleetOf(3, hostile)},
		{"execution", executionOf("web"), executionOf(hostile)},
	} {
		was, is := elements(t, written(t, tt.harmless)), elements(t, written(t, tt.hostile))
		if strings.Join(was, "\n") != strings.Join(is, "\n") {
			t.Errorf("%s: the elements differ: %d and %d", tt.name, len(was), len(is))
		}
		text := written(t, tt.hostile)
		if strings.ContainsAny(text, "\x1b\u202e") {
			t.Errorf("%s: a control character is left", tt.name)
		}
	}
}

// elements lists the elements of a page with the names of their attributes, and
// fails if one could run or fetch something.
func elements(t *testing.T, page string) []string {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		one := n.Data
		for _, a := range n.Attr {
			one += " " + a.Key
			fetches := a.Key == "src" || a.Key == "style" || strings.HasPrefix(a.Key, "on") || a.Key == "href" && strings.HasPrefix(strings.TrimSpace(a.Val), "javascript")
			if fetches {
				t.Errorf("<%s %s=%q>", n.Data, a.Key, a.Val)
			}
		}
		switch n.Data {
		case "script":
			if n.FirstChild.Data != script {
				t.Errorf("a script that is not ours: %q", n.FirstChild.Data)
			}
		case "link", "iframe", "object", "embed", "img", "base":
			t.Errorf("<%s>", n.Data)
		}
		all = append(all, one)
	}
	return all
}

// What the policy lets through is what is in the page, to the byte.
func TestPolicyFits(t *testing.T) {
	text := written(t, fleetOf(1, "web"))
	for tag, want := range map[string]string{"style": style, "script": script} {
		m := regexp.MustCompile(`(?s)<` + tag + `>(.*?)</` + tag + `>`).FindStringSubmatch(text)
		if m == nil || m[1] != want {
			t.Errorf("the page's %s is not the one that the policy names", tag)
		}
	}
	if !strings.Contains(strings.ReplaceAll(text, "&#39;", "'"), strings.ReplaceAll(sum(script), "+", "&#43;")) {
		t.Error("the page has no policy")
	}
	if regexp.MustCompile(`(?i)https?://|@import|url\([^#]`).MatchString(style + script) {
		t.Error("style or script name something outside")
	}
}

func TestHistory(t *testing.T) {
	if drawn(nil) != nil || drawn([]Day{{Day: began}}) != nil {
		t.Error("nothing is drawn of nothing")
	}
	h := drawn([]Day{{began, 8, 0, 0}, {began.AddDate(0, 0, 1), 3, 4, 1}})
	if len(h.Bars) != 2 || len(h.Bars[0].Parts) != 1 || h.Bars[0].Parts[0] != (dayPart{"ok", "8.0", "200.0"}) {
		t.Fatalf("%+v", h.Bars)
	}
	// 3 of 8 below, then 4, then 1; each begins where the one before ends.
	if got := fmt.Sprint(h.Bars[1].Parts); got != "[{ok 133.0 75.0} {bad 33.0 100.0} {none 8.0 25.0}]" {
		t.Error(got)
	}
	if h.Bars[1].Text != "2026-11-26: 3 compliant, 4 not compliant, 1 unknown" {
		t.Error(h.Bars[1].Text)
	}
	for n, want := range map[float64]float64{0.2: 1, 1: 1, 1.5: 2, 3: 5, 7: 10, 13: 20, 1250: 2000} {
		if got := nice(n); got != want {
			t.Errorf("nice(%v) = %v, want %v", n, got, want)
		}
	}
	for _, n := range []int{1, 2, 7, 30, 90, 366} {
		days := make([]Day, n)
		for i := range days {
			days[i] = Day{began.AddDate(0, 0, i), 1, 0, 0}
		}
		if h := drawn(days); len(h.Dates) < min(n, 2) || len(h.Dates) > mostTicks+1 {
			t.Errorf("%d days have %d dates", n, len(h.Dates))
		}
	}
}

func TestTimeline(t *testing.T) {
	at := func(s int) time.Time { return began.Add(time.Duration(s) * time.Second) }
	x := Execution{Started: began, Ended: at(100), Steps: []Step{
		{Path: "a", State: "succeeded", Start: at(0), End: at(25)},
		{Path: "b", State: "running", Start: at(75)},
		{Path: "c", State: "pending"},
		{Path: "a", Phase: "rollback", State: "rolled_back", Start: at(-5), End: at(200)},
	}}
	p := x.page()
	for i, want := range []lane{
		{X: "0.00", W: "12.50", Class: "ok", At: "+0s", Took: "25s", Text: "a: succeeded, +0s for 25s"},
		{X: "37.50", W: "62.50", Class: "run", At: "+1m15s", Took: "2m5s so far", Text: "b: running, +1m15s for 2m5s so far"},
		{},
		// A clock that is wrong moves nothing out of the picture.
		{X: "0.00", W: "100.00", Class: "back", At: "+0s", Took: "3m25s", Text: "a: rolled back, +0s for 3m25s"},
	} {
		if p.Rows[i].Lane != want {
			t.Errorf("%d: %+v, want %+v", i, p.Rows[i].Lane, want)
		}
	}
	if p.Rows[3].Heading != "Rollback" || p.Rows[0].Heading != "" {
		t.Error("the phases have no headings")
	}
	for _, span := range []time.Duration{1, time.Millisecond, 3 * time.Second, time.Minute, 100 * time.Minute, 30 * time.Hour, 400 * time.Hour, 9000 * time.Hour} {
		if n := int(span / interval(span)); n > mostTicks || n < 1 && span > time.Millisecond {
			t.Errorf("%s has %d ticks", span, n)
		}
	}
}

// Of thousands of targets none that failed is lost among those that went well,
// each is in one place, and the page stays small.
func TestFolded(t *testing.T) {
	for _, n := range []int{0, 1, 200, 201, 999, 5000} {
		works := make([]Work, n)
		for i := range works {
			works[i] = Work{Name: fmt.Sprintf("n%04d", i), State: "succeeded", Start: began.Add(time.Duration(i) * time.Second), End: began.Add(time.Duration(i+5) * time.Second)}
			if i%100 == 7 {
				works[i].State = "failed"
			}
		}
		got, text := folded(works, "targets")
		failed, in := 0, 0
		for _, w := range got {
			var size int
			if at := strings.LastIndex(w.Name, "("); at < 0 {
				in++
			} else if _, err := fmt.Sscanf(w.Name[at:], "(%d)", &size); err != nil {
				t.Fatal(err)
			} else if in += size; w.End.Sub(w.Start) < time.Duration(size+5-1)*time.Second {
				t.Errorf("%s takes %s: a group is until its last has ended", w.Name, w.End.Sub(w.Start))
			}
			if w.State == "failed" {
				failed++
			}
		}
		if failed != (n+92)/100 || in != n || len(got) > max(fewWorks, mostGroups+failed) || (text == "") != (n <= fewWorks) {
			t.Errorf("%d works: %d rows of %d, %d failed, %q", n, len(got), in, failed, text)
		}
	}
	bad := make([]Work, 1000)
	if got, text := folded(bad, "targets"); len(got) != mostWorks || !strings.Contains(text, "800 more") {
		t.Errorf("of 1000 that did not succeed: %d, %s", len(got), text)
	}
	x := executionOf("x")
	for i := range 5000 {
		x.Steps[0].Works = append(x.Steps[0].Works, Work{Name: fmt.Sprint("n", i), State: "succeeded", Start: began, End: began.Add(time.Second)})
	}
	if size := len(written(t, x)); size > 200<<10 {
		t.Errorf("5000 targets make %d KiB", size>>10)
	}
}

// BenchmarkFleet writes the page of 10,000 nodes.
func BenchmarkFleet(b *testing.B) {
	f := fleetOf(10000, "web-")
	for b.Loop() {
		b.ReportMetric(float64(len(written(b, f)))/(1<<20), "MiB")
	}
}
