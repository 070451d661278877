package packages

import (
	"bufio"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/almanac-run/almanac/patch"
)

// An advisory is what a repository's updateinfo.xml says of some versions.
type advisory struct {
	id, severity, classification string
	cves                         []string
	issued                       time.Time
}

// xmlUpdate is the part of an <update> that we read.
type xmlUpdate struct {
	Type   string `xml:"type,attr"`
	ID     string `xml:"id"`
	Issued struct {
		Date string `xml:"date,attr"`
	} `xml:"issued"`
	Severity   string `xml:"severity"`
	References []struct {
		Type string `xml:"type,attr"`
		ID   string `xml:"id,attr"`
	} `xml:"references>reference"`
	Packages []struct {
		Name    string `xml:"name,attr"`
		Epoch   string `xml:"epoch,attr"`
		Version string `xml:"version,attr"`
		Release string `xml:"release,attr"`
		Arch    string `xml:"arch,attr"`
	} `xml:"pkglist>collection>package"`
}

// advisories reads what the fetched updateinfo files say of the offers, and puts
// it into them.
func (s system) advisories(ctx context.Context, offers []patch.Offer) error {
	known := newKnowledge(offers)
	for _, file := range s.updateinfo() {
		if err := readUpdateinfo(ctx, file, known); err != nil {
			return fmt.Errorf("security data %s: %w", strings.TrimPrefix(file, s.root), err)
		}
	}
	known.tell(offers)
	return nil
}

// knowledge is what advisories say of offers.
type knowledge struct {
	offered map[Package][]Package // by name and architecture; the version is what is installed
	own     map[Package]*advisory
	earlier map[Package]*advisory // about a version before it that is not offered any more
}

func newKnowledge(offers []patch.Offer) *knowledge {
	k := &knowledge{map[Package][]Package{}, map[Package]*advisory{}, map[Package]*advisory{}}
	for _, o := range offers {
		key := Package{Name: o.Name, Arch: o.Arch}
		k.offered[key] = append(k.offered[key], Package{Name: o.Name, Arch: o.Arch, Version: o.Version}, Package{Version: o.Installed})
	}
	return k
}

// learn takes what an advisory says of one version. If that is not offered, since repositories
// often keep the newest only, the next newer one has what it had.
func (k *knowledge) learn(p Package, a func() *advisory) {
	list := k.offered[Package{Name: p.Name, Arch: p.Arch}]
	var next Package
	for i := 0; i < len(list); i += 2 {
		offer, installed := list[i], list[i+1].Version
		if offer == p {
			better(k.own, p, a())
			return
		}
		if patch.Newer("dnf", p.Version, installed) && patch.Newer("dnf", offer.Version, p.Version) && (next.Version == "" || patch.Newer("dnf", next.Version, offer.Version)) {
			next = offer
		}
	}
	if next.Version != "" {
		better(k.earlier, next, a())
	}
}

func better(m map[Package]*advisory, p Package, a *advisory) {
	if old := m[p]; old == nil || a.outweighs(old) {
		m[p] = a
	}
}

// tell puts what is known into the offers. An offer was published when its own advisory says.
func (k *knowledge) tell(offers []patch.Offer) {
	for i := range offers {
		o := &offers[i]
		p := Package{Name: o.Name, Arch: o.Arch, Version: o.Version}
		a, before := k.own[p], k.earlier[p]
		published := time.Time{}
		if a != nil {
			published = a.issued
		}
		if before != nil && (a == nil || before.outweighs(a)) {
			a = before
		}
		if a == nil {
			continue
		}
		if published.IsZero() {
			published = a.issued
		}
		o.Advisory, o.Severity, o.Classification, o.CVEs, o.Published = a.id, a.severity, a.classification, a.cves, published
	}
}

// mostUpdateinfo bounds what one file may unpack to.
const mostUpdateinfo = 1 << 30

// readUpdateinfo reads a file, one update at a time.
func readUpdateinfo(ctx context.Context, file string, known *knowledge) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	r, done, err := unpacked(ctx, f)
	if err != nil {
		return err
	}
	limited := &io.LimitedReader{R: bufio.NewReader(r), N: mostUpdateinfo}
	err = parseUpdateinfo(limited, known)
	if limited.N <= 0 {
		err = fmt.Errorf("it is larger than %d MiB", mostUpdateinfo>>20)
	}
	return errors.Join(err, done())
}

// unpacked returns the content of a file that is compressed as its name says.
// What Go does not unpack, the tools of the machine do, which came with its package manager.
func unpacked(ctx context.Context, f *os.File) (io.Reader, func() error, error) {
	nothing := func() error { return nil }
	var argv []string
	switch filepath.Ext(f.Name()) {
	case ".xml":
		return f, nothing, nil
	case ".gz":
		r, err := gzip.NewReader(f)
		return r, nothing, err
	case ".bz2":
		return bzip2.NewReader(f), nothing, nil
	case ".xz":
		argv = []string{"xz", "-dc"}
	case ".zst":
		argv = []string{"zstd", "-dcq"}
	case ".zck":
		argv = []string{"unzck", "--stdout", f.Name()}
	default:
		return nil, nil, errors.New("compressed in a way that is not known")
	}
	if _, err := exec.LookPath(argv[0]); err != nil {
		return nil, nil, fmt.Errorf("it is compressed, and the machine has no %s; install it", argv[0])
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Env = f, environment
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	return out, func() error {
		io.Copy(io.Discard, io.LimitReader(out, 1<<20))
		out.Close()
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%s: %w", argv[0], err)
		}
		return nil
	}, nil
}

func parseUpdateinfo(r io.Reader, known *knowledge) error {
	dec := xml.NewDecoder(r)
	dec.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		start, ok := token.(xml.StartElement)
		if !ok || start.Name.Local != "update" {
			continue
		}
		var u xmlUpdate
		if err := dec.DecodeElement(&u, &start); err != nil {
			return err
		}
		a := sync.OnceValue(u.advisory)
		for _, p := range u.Packages {
			version := p.Version + "-" + p.Release
			if p.Epoch != "" {
				version = evr(p.Epoch + ":" + version)
			}
			known.learn(Package{Name: p.Name, Arch: p.Arch, Version: version}, a)
		}
	}
}

// outweighs decides between two advisories about one version.
func (a *advisory) outweighs(b *advisory) bool {
	if x, y := a.classification == "security", b.classification == "security"; x != y {
		return x
	}
	if x, y := slices.Index(ranks, a.severity), slices.Index(ranks, b.severity); x != y {
		return x > y
	}
	return a.id < b.id
}

func (u xmlUpdate) advisory() *advisory {
	a := &advisory{id: u.ID, issued: issued(u.Issued.Date)}
	switch severity := strings.ToLower(strings.TrimSpace(u.Severity)); severity {
	case "critical", "important", "moderate", "low":
		a.severity = severity
	case "medium": // Amazon
		a.severity = "moderate"
	case "high":
		a.severity = "important"
	}
	switch u.Type {
	case "security", "bugfix", "enhancement":
		a.classification = u.Type
	case "recommended": // SUSE
		a.classification = "bugfix"
	case "optional", "feature", "newpackage":
		a.classification = "enhancement"
	}
	for _, r := range u.References {
		if r.Type == "cve" && cveForm.MatchString(r.ID) && len(a.cves) < 200 {
			if cve := cveForm.FindString(r.ID); !slices.Contains(a.cves, cve) {
				a.cves = append(a.cves, cve)
			}
		}
	}
	slices.Sort(a.cves)
	return a
}

// issued reads the date of an advisory, which each distribution writes in its own way.
func issued(text string) time.Time {
	text = strings.TrimSpace(text)
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Unix(seconds, 0).UTC()
	}
	for _, form := range []string{time.DateTime, time.DateOnly, time.RFC3339, "2006-01-02 15:04:05 MST", "2006-01-02 15:04"} {
		if t, err := time.Parse(form, text); err == nil {
			return t.UTC()
		}
	}
	return time.Time{}
}
