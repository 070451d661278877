// Package pages looks at the pages of internal/report in a browser. It has tests only.
package pages

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/almanac-run/almanac/internal/report"
)

// hostile is what a node might call itself.
const hostile = `"><script>window.hit = 1</script><img src="http://127.0.0.1:9/x" onerror="window.hit = 1">`

var began = time.Date(2026, 11, 25, 9, 0, 0, 0, time.UTC)

func fleet(nodes int) report.Fleet {
	f := report.Fleet{Title: "Namespace default", At: began, Command: "starter nodes --html fleet.html"}
	for i := range 60 {
		f.Days = append(f.Days, report.Day{Day: began.AddDate(0, 0, i-59), Compliant: 40 + i + i%7, NonCompliant: max(60-i-(i%7)*2, 4), Unknown: (60 - i) / 4})
	}
	systems := []string{"debian 13", "debian 12", "ubuntu 24.04", "amzn 2023", "rhel 9.4", "windows 10.0.20348"}
	for i := range nodes {
		n := report.Node{ID: fmt.Sprintf("web-%03d", i), Name: fmt.Sprintf("web-%03d.example.com", i), OS: systems[i*i%6], Reach: "agent", Seen: "now", Clock: "right",
			Tags: []string{"role=web", "stage=" + []string{"production", "test"}[i%2]}, Status: report.Compliant}
		switch {
		case i%5 == 3:
			n.Status = report.NonCompliant
			n.Standings = []report.Standing{{Baseline: "linux-production", Status: n.Status, Missing: "3 critical, 12 important", Restart: i%2 == 0, Since: began.AddDate(0, 0, -i)},
				{Baseline: "sshd", Status: report.Compliant, Since: began.AddDate(0, 0, -70)}}
		case i%11 == 5:
			n.Status, n.Seen, n.Away = report.Unknown, "3d4h ago", "offline since 2026-11-22 05:00:00"
		default:
			n.Standings = []report.Standing{{Baseline: "linux-production", Status: n.Status, Since: began.AddDate(0, 0, -i)}}
		}
		f.Nodes = append(f.Nodes, n)
	}
	f.Nodes[4] = report.Node{ID: "i-0123456789abcdef0", Name: hostile, OS: hostile, Reach: "ssm", Seen: "now", Status: report.NonCompliant, Tags: []string{hostile},
		Standings: []report.Standing{{Baseline: hostile, Status: report.NonCompliant, Why: hostile, Since: began, Failed: 2}}}
	return f
}

func execution(targets int) report.Execution {
	at := func(s int) time.Time { return began.Add(time.Duration(s) * time.Second) }
	x := report.Execution{ID: "linux-patch-fleet-20261125-090000-k3fa", Runbook: "linux/patch-fleet", Summary: "Patch a fleet in growing batches, with a health check and rollback",
		Status: "rolled_back", Caller: "ana", Digest: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", URL: "http://127.0.0.1:8233/namespaces/default/workflows/x",
		Started: began, Ended: at(412), At: at(500), Left: "Of what rollback takes back, nothing is left.",
		Commands: []string{"starter show linux-patch-fleet-20261125-090000-k3fa", "starter logs linux-patch-fleet-20261125-090000-k3fa --failed"}, RolledBack: []string{"install on 9 targets", "drain on 9 targets"},
		Failures: []report.Failure{{Step: "install", Target: "web-007", Action: "host.patch.install", Kind: "failed", Message: "exit code 100", Place: "patch-fleet.yaml:31:9",
			Tail: "Err:1 stable/main openssl 3.5.4\nE: Unable to fetch some archives\n" + hostile}},
		Groups: []report.Group{{Step: "install", Why: "exit code 100", Line: "E: Unable to fetch some archives", Count: 2, Targets: []string{"web-007", "web-011"}},
			{Step: "install", Why: "unreached", Line: "nobody took the work", Count: 1, Targets: []string{"web-002"}}},
	}
	step := func(path, name, form, state string, depth, from, to int, works ...report.Work) *report.Step {
		x.Steps = append(x.Steps, report.Step{Path: path, Name: name, Form: form, State: state, Depth: depth, Start: at(from), End: at(to), Works: works})
		return &x.Steps[len(x.Steps)-1]
	}
	step("scan", "See what is missing", "host.patch.scan", "succeeded", 0, 0, 38)
	step("approve", "Approve the change", "approval", "succeeded", 0, 38, 120).Message = "approved by ben"
	step("patch", "Patch in batches", "block", "failed", 0, 120, 330)
	step("patch.drain", "Take it out of the load balancer", "http.post", "succeeded", 1, 120, 140)
	var works []report.Work
	for i := range targets {
		w := report.Work{Name: fmt.Sprintf("web-%03d", i), State: "succeeded", Start: at(140 + i*150/targets), End: at(140 + i*150/targets + 20 + i*7%20), Attempts: 1}
		switch i {
		case 2:
			w.State, w.Message = "unreached", "nobody took the work"
		case 5:
			w.Attempts = 3
		case 7, 11:
			w.State, w.Message = "failed", "exit code 100"
		case 8:
			w.Name, w.Message = hostile, hostile
		}
		works = append(works, w)
	}
	step("patch.install", "Install the updates", "host.patch.install", "failed", 1, 140, 330, works...).Counts = fmt.Sprintf("%d of %d, 2 failed, 1 unreached", targets-3, targets)
	step("verify", "Health check", "http.get", "skipped", 0, 0, 0).Start = time.Time{}
	step("install", "Install the updates", "host.patch.install", "rolled_back", 0, 332, 395).Phase = "rollback"
	step("finally.report", "Tell the channel", "notify.slack", "succeeded", 0, 396, 411).Phase = "finally"
	return x
}

// browser is Chromium, or the test is skipped; where CI is set it must be there.
func browser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("no Chromium on PATH")
	}
	t.Skip("no Chromium on PATH: nobody looks at the pages")
	return ""
}

// tab is a page of a browser, and what went on in it.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	requests []string
	said     []string // in the console, by the page or by the browser
}

func open(t *testing.T) *tab {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(browser(t)), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1280, 900))
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &tab{t: t, ctx: ctx}
	err := chromedp.Listen(ctx, func(ev any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch ev := ev.(type) {
		case *network.EventRequestWillBeSent:
			b.requests = append(b.requests, ev.Request.URL)
		case *log.EventEntryAdded:
			b.said = append(b.said, ev.Entry.Text)
		case *runtime.EventConsoleAPICalled:
			b.said = append(b.said, string(ev.Type))
		case *runtime.EventExceptionThrown:
			b.said = append(b.said, ev.ExceptionDetails.Text)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	return b
}

// visit loads a page from a file, and returns what was requested and said.
func (b *tab) visit(page string) (requests, said []string) {
	b.t.Helper()
	file := filepath.Join(b.t.TempDir(), "page.html")
	if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
		b.t.Fatal(err)
	}
	b.mu.Lock()
	b.requests, b.said = nil, nil
	b.mu.Unlock()
	if err := chromedp.Do(b.ctx, chromedp.Navigate((&url.URL{Scheme: "file", Path: file}).String())); err != nil {
		b.t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // what would be fetched has been asked for
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.requests {
		if !strings.HasPrefix(r, "file://") {
			requests = append(requests, r)
		}
	}
	return requests, b.said
}

func eval[T any](b *tab, js string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](js))
	if err != nil {
		b.t.Fatalf("%s: %v", js, err)
	}
	return v
}

// picture keeps a picture of the page if ALMANAC_SCREENSHOTS names a directory.
func (b *tab) picture(name string) {
	b.t.Helper()
	dir := os.Getenv("ALMANAC_SCREENSHOTS")
	if dir == "" {
		return
	}
	picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *tab) emulate(width int64, scheme, media string) {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: media, Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	if err == nil {
		err = chromedp.Do(b.ctx, chromedp.EmulateViewport(width, 900))
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

func text(t *testing.T, p interface{ Write(io.Writer) error }) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// A page loads from a file, asks nobody for anything, says nothing in the
// console, and runs nothing that a node put into a name. On a phone nothing is
// wider than the screen.
func TestPages(t *testing.T) {
	b := open(t)
	for _, p := range []struct{ name, page, shows string }{
		{"fleet", text(t, fleet(24)), "Compliance over time"},
		{"execution", text(t, execution(30)), "linux/patch-fleet"},
		{"execution-large", text(t, execution(5000)), "in groups of"},
		{"fleet-empty", text(t, report.Fleet{Title: "Namespace default", At: began, NoDays: "no answer within 20s"}), "no answer within"},
		{"execution-running", text(t, report.Execution{ID: "x", Runbook: "demo/tour", Status: "running", Started: began, At: began.Add(time.Minute),
			Steps: []report.Step{{Path: "a", Form: "wait", State: "waiting", Start: began}}}), "still runs"},
	} {
		requests, said := b.visit(p.page)
		if len(requests)+len(said) > 0 {
			t.Errorf("%s: it requests %q and says %q", p.name, requests, said)
		}
		if hit := eval[bool](b, "typeof window.hit !== 'undefined' || document.images.length > 0"); hit {
			t.Errorf("%s: a name has become an element, or has run", p.name)
		}
		if shown := eval[string](b, "document.body.innerText"); !strings.Contains(shown, p.shows) {
			t.Errorf("%s does not show %q", p.name, p.shows)
		}
		for _, look := range []struct {
			name          string
			width         int64
			scheme, media string
		}{{"light", 1280, "light", ""}, {"dark", 1280, "dark", ""}, {"phone", 390, "light", ""}, {"paper", 800, "light", "print"}} {
			b.emulate(look.width, look.scheme, look.media)
			if wide := eval[float64](b, "document.documentElement.scrollWidth - window.innerWidth"); wide > 0 {
				t.Errorf("%s, %s: %v pixels wider than the screen", p.name, look.name, wide)
			}
			if few := eval[string](b, faint); few != "" {
				t.Errorf("%s, %s: too little contrast: %s", p.name, look.name, few)
			}
			b.picture(p.name + "-" + look.name)
		}
		b.emulate(1280, "light", "")
	}
}

// faint lists text whose contrast to what is behind it is below 4.5 (WCAG AA).
const faint = `(() => {
  const parse = (c) => (c.match(/[\d.]+/g) || []).map(Number);
  const light = (c) => { const [r, g, b] = c.map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
  const bad = new Set();
  for (const e of document.querySelectorAll("body *")) {
    if (e.closest("svg") || ![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    const a = light(parse(getComputedStyle(e).color).slice(0, 3)), b = light(behind(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.add(e.tagName + "." + e.className + " " + ratio.toFixed(2));
  }
  return [...bad].slice(0, 5).join(", ");
})()`

// The table can be filtered by words and status, and sorted.
func TestFilter(t *testing.T) {
	b := open(t)
	b.visit(text(t, fleet(140)))
	visible := func() int {
		return eval[int](b, `[...document.querySelectorAll("#node-table tbody tr")].filter((r) => r.offsetParent).length`)
	}
	set := func(id, value string) {
		eval[string](b, fmt.Sprintf(`(() => { const e = document.getElementById(%q); e.value = %q; e.dispatchEvent(new Event("input")); return "" })()`, id, value))
	}
	is := func(what string, want int) {
		t.Helper()
		if got := visible(); got != want {
			t.Errorf("%s: %d rows, want %d", what, got, want)
		}
	}
	is("all", 140)
	if err := chromedp.Do(b.ctx, chromedp.SendKeys(chromedp.ID("find"), "WEB-01")); err != nil {
		t.Fatal(err)
	}
	is("typed", 10)
	set("status", "non_compliant")
	is("not compliant", 2)
	if got := eval[string](b, `document.getElementById("shown").textContent`); got != "2 of 140" {
		t.Errorf("it says %q", got)
	}
	set("find", "critical stage=production web-0")
	is("words in any order", 10)
	set("find", "nobody")
	set("status", "compliant")
	is("none", 0)
	if eval[bool](b, `document.getElementById("none").hidden`) {
		t.Error("that there is none is not said")
	}
	set("find", "")
	set("status", "")
	first := func() string { return eval[string](b, `document.querySelector("#node-table tbody code").textContent`) }
	heading := `document.querySelector("#node-table thead button")`
	eval[string](b, heading+`.click(), ""`)
	if got := first(); got != "i-0123456789abcdef0" {
		t.Errorf("sorted: %s first", got)
	}
	eval[string](b, heading+`.click(), ""`)
	if got := first(); got != "web-139" {
		t.Errorf("sorted the other way: %s first", got)
	}
	if got := eval[string](b, heading+`.parentElement.getAttribute("aria-sort")`); got != "descending" {
		t.Errorf("aria-sort is %q", got)
	}
}

// Without scripts all nodes are there, and no filter that would not work.
func TestWithoutScripts(t *testing.T) {
	b := open(t)
	if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	b.visit(text(t, fleet(140)))
	if n := eval[int](b, `[...document.querySelectorAll("#node-table tbody tr")].filter((r) => r.offsetParent).length`); n != 140 {
		t.Errorf("%d rows", n)
	}
	if eval[bool](b, `document.querySelector("form").offsetParent !== null`) {
		t.Error("there is a filter that does nothing")
	}
}

// Should something become markup one day, the browser refuses to run or fetch it.
// And these tests would see it if it did not.
func TestPolicy(t *testing.T) {
	b := open(t)
	page := strings.Replace(text(t, fleet(140)), "</main>", `<script>window.hit = 1</script><img src="http://127.0.0.1:9/x" onerror="window.hit = 1"></main>`, 1)
	b.visit(page)
	if eval[bool](b, "typeof window.hit !== 'undefined'") {
		t.Error("a script that is not the page's has run")
	}
	open := strings.Replace(page, "Content-Security-Policy", "X", 1)
	requests, _ := b.visit(open)
	if len(requests) == 0 || !eval[bool](b, "window.hit === 1") {
		t.Error("without its policy the page fetches and runs, and this test does not notice")
	}
}
