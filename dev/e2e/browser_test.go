package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"go.temporal.io/sdk/client"

	"github.com/almanac-run/almanac/dev/server"
	"github.com/almanac-run/almanac/internal/catalog"
	"github.com/almanac-run/almanac/lang/compile"
	"github.com/almanac-run/almanac/runbooks"
	"github.com/almanac-run/almanac/workflows"
)

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
	t.Skip("no Chromium on PATH: nobody looks at the Web UI")
	return ""
}

// shown is the text of a page and the HTML of the frames in which it shows
// Markdown, with single spaces. A frame that is not there yet has none.
func shown(ctx context.Context) (string, error) {
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string]("document.body.textContent"))
	if err != nil {
		return "", err
	}
	frames, err := chromedp.Run(ctx, chromedp.Nodes(chromedp.CSSAll("iframe"), chromedp.AtLeast(0)))
	if err != nil {
		return "", err
	}
	for _, frame := range frames {
		inside, cancel := context.WithTimeout(ctx, time.Second)
		html, err := chromedp.Run(inside, chromedp.InnerHTML(chromedp.CSS("main"), chromedp.FromNode(frame)))
		cancel()
		if err == nil {
			text += "\n" + html
		}
	}
	return strings.Join(strings.Fields(text), " "), nil
}

// open starts the browser; what it returns opens a page, waits until it shows
// what is wanted, and fails if it does not.
func open(t *testing.T, browser string) func(what, url string, want ...string) {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(browser), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.WindowSize(1400, 1600),
		// Otherwise sandboxed frames, which hold the Markdown, are processes that the page's connection does not reach.
		chromedp.Flag("disable-features", "IsolateSandboxedIframes,SitePerProcess,IsolateOrigins"), chromedp.Flag("disable-site-isolation-trials", true))
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if _, err := chromedp.Run(ctx, chromedp.Navigate("about:blank")); err != nil {
		t.Fatalf("%s: %v", browser, err)
	}
	return func(what, url string, want ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		if _, err := chromedp.Run(ctx, chromedp.Navigate(url)); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		missing := want
		for end := time.Now().Add(12 * time.Second); len(missing) > 0 && time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
			got, err := shown(ctx)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			missing = slices.DeleteFunc(slices.Clone(want), func(w string) bool { return strings.Contains(got, w) })
		}
		if len(missing) > 0 {
			t.Errorf("%s (%s): the page does not show %q", what, url, missing)
		}
		if dir := os.Getenv("ALMANAC_SCREENSHOTS"); dir != "" {
			time.Sleep(time.Second)
			picture, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, strings.ReplaceAll(what, " ", "-")+".png"), picture, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestWebUI runs the tour and looks at it in the Web UI, while it waits and at
// its end: the runbook's name, the table of its steps with their states, and the
// steps' names beside the events. ALMANAC_SCREENSHOTS=DIR makes pictures to look at.
func TestWebUI(t *testing.T) {
	chromium := browser(t)
	srv, err := server.Start(t.Context(), server.Options{File: filepath.Join(t.TempDir(), "db"), UIPort: server.FreePort})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Stop() })
	c, err := client.Dial(client.Options{HostPort: srv.Address(), Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	startFleet(t, srv.Address(), "web-1", "web-2", "web-3")
	work(t, c, "tour")
	file, source, err := runbooks.Source("demo/tour")
	if err != nil {
		t.Fatal(err)
	}
	p, ds := compile.Compile(file, source, compile.Options{Actions: catalog.Actions()})
	if p == nil {
		t.Fatal(ds)
	}
	run := begin(t, c, "tour", p, nil)
	wait(t, "the approval", func() bool { v := view(c, "tour"); return v != nil && len(v.Waiting) == 1 })
	page := srv.UIAddress() + "/namespaces/default/workflows/tour/" + run.GetRunID()
	seen := open(t, chromium)
	seen("what it waits for", page+"/user-metadata", "demo/tour", "<table>",
		"<td>Look at the nodes (survey)</td> <td>succeeded</td>", "<td>Approve release 2.0 (approve)</td> <td>waiting")
	answer(t, c, "tour", workflows.AnswerApprove, workflows.Answer{By: "ana"})
	if r := ended(t, run); r.Outcome != workflows.RolledBack {
		t.Errorf("%s: %s", r.Outcome, r.Message)
	}
	seen("its steps", page+"/user-metadata", "demo/tour", "<table>",
		"<td>Publish release 2.0 (publish)</td> <td>succeeded</td>", "<td>Check the release as a visitor sees it (check)</td> <td>failed",
		"<td>roll back Write the page on web-1 (publish[0].page)</td> <td>rolled back</td>", "<td>Say what each node serves now (finally.report)</td> <td>succeeded</td>")
	seen("its events", page+"/history", "demo/tour", "host.command.run", "<p>Say what each node serves now on web-1</p>")
	seen("the list", srv.UIAddress()+"/namespaces/default/workflows", "demo/tour")
}
