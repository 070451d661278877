package canary

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"html"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/klauspost/compress/zstd"
)

func zipped(b []byte) []byte {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	z.Write(b)
	z.Close()
	return buf.Bytes()
}

func inJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// written are the ways in which programs write a value. They take it as it is, so that they are independent of how the searcher takes it apart.
var written = map[string]func(string) []byte{
	"raw":           func(v string) []byte { return []byte(v) },
	"hex":           func(v string) []byte { return []byte(hex.EncodeToString([]byte(v))) },
	"HEX":           func(v string) []byte { return []byte(strings.ToUpper(hex.EncodeToString([]byte(v)))) },
	"hex in a word": func(v string) []byte { return []byte("f" + hex.EncodeToString([]byte(v))) },
	"powershell in a word": func(v string) []byte {
		return []byte("x" + base64.RawStdEncoding.EncodeToString(wide([]byte("echo "+v), 0)))
	},
	"hex dump":         func(v string) []byte { return fmt.Appendf(nil, "%q", hex.EncodeToString([]byte("name="+v+";"))) },
	"base64":           func(v string) []byte { return []byte(base64.StdEncoding.EncodeToString([]byte(v))) },
	"base64, 1 before": func(v string) []byte { return []byte(base64.StdEncoding.EncodeToString([]byte("a" + v + "b"))) },
	"base64, 2 before": func(v string) []byte { return []byte(base64.StdEncoding.EncodeToString([]byte("ab" + v + "cd"))) },
	"base64, for URLs": func(v string) []byte { return []byte(base64.URLEncoding.EncodeToString([]byte("ÿ?" + v + "ÿ?"))) },
	"base64 in a word": func(v string) []byte { return []byte("key" + base64.RawStdEncoding.EncodeToString([]byte(v))) },
	"base64 in lines": func(v string) []byte {
		text := base64.StdEncoding.EncodeToString([]byte("some more text before " + strings.Repeat(v, 3)))
		return []byte(strings.Join(slices.Collect(chunks(text, 76)), "\n"))
	},
	"base64 of base64": func(v string) []byte {
		return []byte(base64.StdEncoding.EncodeToString([]byte(" " + base64.StdEncoding.EncodeToString([]byte("x"+v)))))
	},
	"URL query":    func(v string) []byte { return []byte(url.QueryEscape(v)) },
	"URL path":     func(v string) []byte { return []byte(url.PathEscape(v)) },
	"URL, all":     func(v string) []byte { return eachByte("%%%02X")([]byte(v))[0] },
	"JSON":         func(v string) []byte { return inJSON(map[string]string{"a": v}) },
	"JSON in JSON": func(v string) []byte { return inJSON(string(inJSON(v))) },
	"JSON, ASCII":  func(v string) []byte { return []byte(strconv.QuoteToASCII(v)) },
	"JSON, all":    func(v string) []byte { return eachByte(`\u00%02x`)([]byte(v))[0] },
	"Go":           func(v string) []byte { return []byte(strconv.Quote(v)) },
	"C, all":       func(v string) []byte { return eachByte(`\x%02x`)([]byte(v))[0] },
	"octal":        func(v string) []byte { return eachByte(`\%03o`)([]byte(v))[0] },
	"HTML":         func(v string) []byte { return []byte(html.EscapeString(v)) },
	"XML":          func(v string) []byte { var b bytes.Buffer; xml.EscapeText(&b, []byte(v)); return b.Bytes() },
	"shell":        func(v string) []byte { return []byte("'" + strings.ReplaceAll(v, "'", `'\''`) + "'") },
	"utf-16 le": func(v string) (b []byte) {
		for _, u := range utf16.Encode([]rune(v)) {
			b = append(b, byte(u), byte(u>>8))
		}
		return b
	},
	"utf-16 be": func(v string) (b []byte) {
		for _, u := range utf16.Encode([]rune(v)) {
			b = append(b, byte(u>>8), byte(u))
		}
		return b
	},
	"powershell": func(v string) []byte { return []byte(base64.StdEncoding.EncodeToString(wide([]byte("echo "+v), 0))) },
	"gzip":       func(v string) []byte { return zipped([]byte("log line " + v)) },
	"zlib": func(v string) []byte {
		var b bytes.Buffer
		z := zlib.NewWriter(&b)
		z.Write([]byte(v))
		z.Close()
		return b.Bytes()
	},
	"zstd": func(v string) []byte {
		z, err := zstd.NewWriter(nil)
		if err != nil {
			panic(err)
		}
		return z.EncodeAll([]byte("log line "+v), nil)
	},
	"gzip, cut off":     func(v string) []byte { b := zipped([]byte(v + random() + random())); return b[:len(b)-6] },
	"base64 of gzip":    func(v string) []byte { return inJSON(zipped([]byte(v))) },
	"gzip of base64":    func(v string) []byte { return zipped(inJSON([]byte("xx" + v))) },
	"hex of gzip":       func(v string) []byte { return []byte(hex.EncodeToString(zipped([]byte(v)))) },
	"basic auth":        func(v string) []byte { return []byte("Basic " + base64.StdEncoding.EncodeToString([]byte("ann:"+v))) },
	"only its first":    func(v string) []byte { return []byte(v[:14] + "***") },
	"only its last":     func(v string) []byte { return []byte("***" + v[len(v)-14:]) },
	"a payload's bytes": func(v string) []byte { return inJSON(map[string]any{"data": inJSON(map[string]any{"token": v})}) },
	"backwards":         func(v string) []byte { b := []byte(v); slices.Reverse(b); return b },
}

func chunks(text string, n int) func(func(string) bool) {
	return func(yield func(string) bool) {
		for ; len(text) > n; text = text[n:] {
			if !yield(text[:n]) {
				return
			}
		}
		yield(text)
	}
}

// Every form is found, whatever stands around it, and nothing is found where nothing is.
func TestSearcherFindsEveryForm(t *testing.T) {
	g := garrison{}
	g.plant("awkward")
	g.plain("plain")
	g.adopt("key", []byte("\x00\xff\x10a\x80binary\x01\x02key of 32 bytes!!\xfe\xfd\xfc\xfb"))
	s := newSearcher(g)
	noise := []byte(strings.Repeat("\x00\x9f{\"level\":\"info\"} Zm9vYmFy 4a6b%20\x1f\x8b\x08 ", 50))
	if found := s.search("noise", noise); len(found) > 0 {
		t.Errorf("found in noise: %v", found)
	}
	other := garrison{}
	count := 0
	for name, write := range written {
		for kind, c := range g {
			if kind == "key" && (strings.Contains(name, "utf-16") || strings.Contains(name, "powershell") || strings.Contains(name, "JSON") ||
				strings.Contains(name, "URL ") || name == "Go" || name == "HTML" || name == "XML" || name == "only its first" || name == "only its last" || name == "a payload's bytes") {
				continue // texts of text: a key is none, and its own text is base64
			}
			count++
			in := slices.Concat(noise, []byte(" "), write(c.value), []byte("\" "), noise)
			found := s.search("place", in)
			if len(found) != 1 || found[0].kind != kind {
				t.Errorf("%s of %s: found %v\nin %q", name, kind, found, write(c.value))
			}
		}
		// The same form of what is no canary is not found.
		stranger := other.plant(name)
		if found := s.search("place", write(stranger)); len(found) > 0 {
			t.Errorf("%s of a stranger: found %v", name, found)
		}
	}
	t.Logf("%d forms × values found", count)
}

// A searcher that lacks a form fails the table above: for each form there is a way to write it that nothing else finds.
func TestEveryFormIsNeeded(t *testing.T) {
	all := forms
	defer func() { forms = all }()
	for i, gone := range all {
		forms = slices.Delete(slices.Clone(all), i, i+1)
		g := garrison{}
		value := g.plant("it")
		s := newSearcher(g)
		missed := ""
		for name, write := range written {
			if len(s.search("place", write(value))) == 0 {
				missed = name
			}
		}
		if missed == "" {
			t.Errorf("without the form %q everything is still found: it is not tested, or not needed", gone.name)
		}
	}
}
