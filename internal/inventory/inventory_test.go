package inventory

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func TestNewIsDeterministic(t *testing.T) {
	a := []Item{
		{"user", "root", map[string]any{"uid": 0, "home": "/root"}},
		{"package", "zlib", map[string]any{"version": "1", "arch": "amd64"}},
		{"package", "zlib", map[string]any{"version": "1", "arch": "i386"}},
		{"package", "zlib", map[string]any{"version": "1", "arch": "amd64"}}, // again
		{"package", "bash", map[string]any{"version": "5<6"}},
	}
	b := []Item{a[4], a[2], a[0], a[1]}
	one, err := New("web-1", noon, a)
	if err != nil {
		t.Fatal(err)
	}
	two, err := New("web-1", noon, b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(one, two); diff != "" {
		t.Errorf("the order of the items matters:\n%s", diff)
	}
	var keys []string
	for _, s := range one.Sections {
		for _, i := range s.Items {
			keys = append(keys, i.Kind+" "+i.Key)
		}
	}
	if got := strings.Join(keys, ","); got != "package bash,package zlib,package zlib#2,user root" {
		t.Error(got)
	}
	a[4].Values["version"] = "5"
	three, _ := New("web-1", noon, a)
	if three.Sections[0].Digest == one.Sections[0].Digest || three.Sections[1].Digest != one.Sections[1].Digest {
		t.Error("the digest does not tell what changed")
	}
}

// What goes through Temporal is what was sent: the kinds of numbers and long ones too.
func TestEncode(t *testing.T) {
	items := []Item{{"fact", "x", map[string]any{"n": json.Number("9007199254740993"), "f": json.Number("3.0"), "b": true, "l": []any{"ü", nil}, "s": "<&>"}}}
	s, err := New("web-1", noon, items)
	if err != nil {
		t.Fatal(err)
	}
	text, err := Encode(s)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, back); diff != "" {
		t.Error(diff)
	}
	values, _ := back.Sections[0].Items[0].JSON()
	if values != `{"b":true,"f":3.0,"l":["ü",null],"n":9007199254740993,"s":"<&>"}` {
		t.Error(values)
	}
}

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

func TestParts(t *testing.T) {
	var sections []Section
	for i := range 4 {
		var items []Item
		for j := range 10_000 {
			items = append(items, Item{"file", fmt.Sprintf("/d%d/f%d", i, j), map[string]any{"sha256": random(20)}})
		}
		s, err := NewSection("file", fmt.Sprintf("/d%d/*", i), items)
		if err != nil {
			t.Fatal(err)
		}
		sections = append(sections, s)
	}
	whole := Snapshot{Node: "web-1", At: noon, Sections: sections}
	if _, err := Encode(whole); err == nil {
		t.Fatal("this test needs more data")
	}
	parts, err := whole.Parts()
	if err != nil {
		t.Fatal(err)
	}
	var back []Section
	for _, p := range parts {
		text, err := Encode(p)
		if err != nil {
			t.Error(err)
		}
		if _, err := Decode(text); err != nil {
			t.Error(err)
		}
		back = append(back, p.Sections...)
	}
	if len(parts) < 2 || !cmp.Equal(back, sections) {
		t.Errorf("%d parts do not make up the whole", len(parts))
	}
	var large []Item
	for j := range 40_000 {
		large = append(large, Item{"file", fmt.Sprintf("/f%d", j), map[string]any{"sha256": random(40)}})
	}
	s, err := NewSection("file", "/**", large)
	if err != nil {
		t.Fatal(err)
	}
	whole.Sections = []Section{s}
	if _, err := whole.Parts(); err == nil || !strings.Contains(err.Error(), "file /**: its 40000 items") {
		t.Errorf("%v", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	section := func(kind, key string, values map[string]any) Section {
		s := Section{Kind: kind, Items: []Item{{kind, key, values}}}
		written, _ := s.Items[0].JSON()
		s.Digest = digest(s.Items, []string{written})
		return s
	}
	of := func(change func(s *Snapshot)) string {
		s := Snapshot{Node: "web-1", At: noon, Sections: []Section{section("package", "a", map[string]any{"v": 1})}}
		change(&s)
		text, err := pack(s)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	var bomb bytes.Buffer
	zip := gzip.NewWriter(&bomb)
	for range 80 {
		_, _ = zip.Write(make([]byte, 1<<20))
	}
	_ = zip.Close()
	if _, err := Decode(of(func(*Snapshot) {})); err != nil {
		t.Fatal(err)
	}
	many := make([]Section, MaxSections+1)
	for i := range many {
		many[i] = section("package", "a", nil)
		many[i].Scope = fmt.Sprint(i)
	}
	tests := []struct{ text, says string }{
		{"", "not compressed"},
		{"***", "not base64"},
		{base64.StdEncoding.EncodeToString([]byte("plain")), "not compressed"},
		{base64.StdEncoding.EncodeToString(bomb.Bytes()), "unpacks to more than"},
		{strings.Repeat("A", 3<<20), "larger than"},
		{of(func(s *Snapshot) { s.Node = "../x" }), "node id"},
		{of(func(s *Snapshot) { s.At = time.Time{} }), "year 1"},
		{of(func(s *Snapshot) { s.Sections[0].Digest = "x" }), "digest"},
		{of(func(s *Snapshot) { s.Sections[0].Items[0].Values["v"] = 2 }), "digest"},
		{of(func(s *Snapshot) { s.Sections[0].Unchanged = true }), "unchanged"},
		{of(func(s *Snapshot) { s.Sections = append(s.Sections, s.Sections[0]) }), "twice"},
		{of(func(s *Snapshot) { s.Sections[0] = section("Package", "a", nil) }), "kind"},
		{of(func(s *Snapshot) { s.Sections[0] = section("package", "", nil) }), "key"},
		{of(func(s *Snapshot) { s.Sections[0] = section("package", "a\x00b", nil) }), "key"},
		{of(func(s *Snapshot) { s.Sections[0] = section("package", strings.Repeat("k", MaxKey+1), nil) }), "key"},
		{of(func(s *Snapshot) { s.Sections[0].Scope = strings.Repeat("k", MaxKey+1) }), "scope"},
		{of(func(s *Snapshot) {
			s.Sections[0] = section("package", "a", map[string]any{"x": strings.Repeat("k", MaxValues)})
		}), "values take"},
		{of(func(s *Snapshot) {
			s.Sections[0] = section("package", "a", map[string]any{"x": json.Number("99999999999999999999")})
		}), "out of the range"},
		{of(func(s *Snapshot) { s.Sections[0].Items[0].Kind = "user" }), "is of kind"},
		{of(func(s *Snapshot) {
			s.Sections[0].Items = append(s.Sections[0].Items, Item{"package", "A", nil})
			s.Sections[0].Digest = digest(s.Sections[0].Items, []string{"{}", "{}"})
		}), "not in order"},
		{of(func(s *Snapshot) { s.Sections = many }), "sections"},
	}
	for i, tt := range tests {
		if _, err := Decode(tt.text); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%d: %v, want %q", i, err, tt.says)
		}
	}
}

func FuzzDecode(f *testing.F) {
	s, _ := New("web-1", noon, []Item{{"package", "a", map[string]any{"v": 1}}})
	raw, _ := json.Marshal(s)
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var b bytes.Buffer
		zip := gzip.NewWriter(&b)
		_, _ = zip.Write(raw)
		_ = zip.Close()
		s, err := Decode(base64.StdEncoding.EncodeToString(b.Bytes()))
		if err == nil && s.Check() != nil {
			t.Error("it decodes, but is wrong")
		}
	})
}
