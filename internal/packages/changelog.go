package packages

import (
	"cmp"
	"context"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/patch"
)

// How long, and for how many source packages, changelogs are asked for: Debian and
// Ubuntu keep them on a server of their own, one request each, that many networks do not reach.
const (
	changelogsTake = 90 * time.Second
	mostChangelogs = 100
)

// describe adds what the changelogs say of the offers: how urgent they are,
// which CVEs they are about, and when they were published. What cannot be had stays empty.
func (a apt) describe(ctx context.Context, offers []patch.Offer) error {
	begin := time.Now()
	r, err := a.ask(ctx, 2*time.Minute, a.tool("dpkg-query", "-W", "-f", `${Package}\t${source:Package}\n`))
	if err != nil {
		return err
	}
	sources := map[string]string{}
	for line := range strings.Lines(r.stdout) {
		name, source, _ := strings.Cut(strings.TrimSpace(line), "\t")
		sources[name] = source
	}
	seen := map[string]change{} // by source and version: what is built from one source has one changelog
	asked := 0
	// Those of security first.
	order := make([]int, len(offers))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int {
		return -cmp.Compare(offers[x].Classification, offers[y].Classification)
	})
	for _, i := range order {
		o := &offers[i]
		key := cmp.Or(sources[o.Name], o.Name) + "\x00" + o.Version + "\x00" + o.Installed
		c, ok := seen[key]
		if !ok {
			if asked >= mostChangelogs || time.Since(begin) > changelogsTake || ctx.Err() != nil {
				return ctx.Err()
			}
			asked++
			r, err := a.ask(ctx, 30*time.Second, a.tool("apt-get", "-q", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10", "-o", "Acquire::https::Timeout=10",
				"-o", "APT::Sandbox::User=root", "-o", "Dir::Bin::Pager=cat", "changelog", "--", o.Name+"="+o.Version))
			if err != nil || r.code != 0 {
				if err != nil || unresolved.MatchString(r.all) {
					return ctx.Err() // nor will the next one be there
				}
				seen[key] = change{}
				continue
			}
			c = parseChangelog(r.stdout, o.Installed)
			seen[key] = c
		}
		o.Severity, o.CVEs, o.Published = c.severity, c.cves, c.date
	}
	return nil
}

var unresolved = regexp.MustCompile(`(?i)could not (resolve|connect)|temporary failure|connection timed out|network is unreachable|could not handshake|certificate`)

// A change is what a changelog says of the versions since the one that is installed.
type change struct {
	severity string
	cves     []string
	date     time.Time // of the newest
}

var (
	headForm = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]+ \(([^ ()]+)\) .*;.*urgency=([a-zA-Z]+)`)
	cveForm  = regexp.MustCompile(`CVE-[0-9]{4}-[0-9]{4,7}`)
)

// urgencies are Debian's, and what the rest of the world calls them.
var urgencies = map[string]string{"low": "low", "medium": "moderate", "high": "important", "emergency": "critical", "critical": "critical"}

var ranks = []string{"", "low", "moderate", "important", "critical"}

// parseChangelog reads a Debian changelog down to the version that is installed.
func parseChangelog(text, installed string) change {
	var c change
	entries := 0
	for line := range strings.Lines(text) {
		if m := headForm.FindStringSubmatch(line); m != nil {
			// A binary rebuilt without a change of its source has +b1.
			base, _, _ := strings.Cut(installed, "+b")
			if m[1] == installed || m[1] == base || entries == 50 {
				break
			}
			entries++
			if s := urgencies[strings.ToLower(m[2])]; slices.Index(ranks, s) > slices.Index(ranks, c.severity) {
				c.severity = s
			}
			continue
		}
		if entries == 0 {
			continue
		}
		for _, cve := range cveForm.FindAllString(line, -1) {
			if !slices.Contains(c.cves, cve) && len(c.cves) < 200 {
				c.cves = append(c.cves, cve)
			}
		}
		if rest, ok := strings.CutPrefix(line, " -- "); ok && c.date.IsZero() {
			if _, when, ok := strings.Cut(rest, ">  "); ok {
				for _, form := range []string{"Mon, 2 Jan 2006 15:04:05 -0700", "Mon, 02 Jan 2006 15:04:05 -0700"} {
					if t, err := time.Parse(form, strings.TrimSpace(when)); err == nil {
						c.date = t.UTC()
						break
					}
				}
			}
		}
	}
	slices.Sort(c.cves)
	return c
}
