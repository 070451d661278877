package canary

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/klauspost/compress/zstd"
)

// How a canary is found. Each of its parts is looked for in every form below, in
// all content at once. Since parts are of letters and digits, their raw form is also that in texts that
// were escaped for JSON, URLs, HTML, shells or Go. What is packed or encoded as a whole
// (gzip, zstd, zlib, base64, hex) is unpacked and searched again, one inside the other.

// form is one way to write the bytes of a part.
type form struct {
	name  string
	write func(part []byte) [][]byte
}

var forms = []form{
	{"raw", func(p []byte) [][]byte { return [][]byte{p} }},
	{"hex", func(p []byte) [][]byte {
		text := hex.EncodeToString(p)
		return [][]byte{[]byte(text), []byte(strings.ToUpper(text))}
	}},
	{"base64", func(p []byte) [][]byte {
		return slices.Concat(inBase64(base64.RawStdEncoding, p), inBase64(base64.RawURLEncoding, p))
	}},
	{"each byte %XX", eachByte("%%%02X", "%%%02x")},
	{"each byte \\u00XX", eachByte(`\u00%02X`, `\u00%02x`)},
	{"each byte \\xXX", eachByte(`\x%02X`, `\x%02x`)},
	{"each byte in octal", eachByte(`\%03o`)},
	{"utf-16", func(p []byte) [][]byte { return [][]byte{wide(p, 0), wide(p, 1)} }},
	{"base64 of utf-16", func(p []byte) [][]byte { return inBase64(base64.RawStdEncoding, wide(p, 0)) }},
	{"backwards", func(p []byte) [][]byte { q := slices.Clone(p); slices.Reverse(q); return [][]byte{q} }},
}

func eachByte(formats ...string) func([]byte) [][]byte {
	return func(p []byte) (all [][]byte) {
		for _, format := range formats {
			var b []byte
			for _, c := range p {
				b = fmt.Appendf(b, format, c)
			}
			all = append(all, b)
		}
		return all
	}
}

// inBase64 is what all texts have in common that hold p somewhere inside and are
// written in base64: it differs with p's offset, and its ends depend on the neighbours.
func inBase64(enc *base64.Encoding, p []byte) [][]byte {
	var all [][]byte
	for shift := range 3 {
		text := enc.EncodeToString(slices.Concat(make([]byte, shift), p))
		all = append(all, []byte(text[[]int{0, 2, 3}[shift]:(len(p)+shift)/3*4]))
	}
	return all
}

// wide is p in UTF-16, little endian, beginning with the byte at. That of big endian begins one byte later.
func wide(p []byte, at int) []byte {
	var b []byte
	for _, unit := range utf16.Encode([]rune(string(p))) {
		b = append(b, byte(unit), byte(unit>>8))
	}
	if at == 1 {
		return append([]byte{0}, b[:len(b)-1]...)
	}
	return b
}

// needle is a part in a form.
type needle struct {
	text   []byte
	canary *canary
	form   string
}

// searcher looks for many needles in one pass.
type searcher struct {
	byHead map[uint32][]needle
	some   [1 << 21]uint64 // which three bytes some needle begins with
}

func newSearcher(g garrison) *searcher {
	s := &searcher{byHead: map[uint32][]needle{}}
	for _, c := range g {
		for _, part := range c.parts {
			for _, f := range forms {
				for _, text := range f.write(part) {
					s.byHead[head(text)] = append(s.byHead[head(text)], needle{text, c, f.name})
					s.some[three(text)>>6] |= 1 << (three(text) & 63)
				}
			}
		}
	}
	return s
}

func three(b []byte) uint32 { return uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2]) }
func head(b []byte) uint32  { return three(b)<<8 | uint32(b[3]) }

// sighting is a canary that was found in a place.
type sighting struct {
	kind, place string
	how         string // form, and what was around it
}

// deepest is how many layers are unpacked: a file in base64 in a packed log in a payload.
const deepest = 4

// largest bounds what one packed piece is unpacked to, in bytes.
const largest = 64 << 20

// search returns what is seen in content, each kind once.
func (s *searcher) search(place string, content []byte) []sighting {
	found := map[string]sighting{}
	s.layer(place, "", content, 0, found)
	return slices.SortedFunc(maps.Values(found), func(a, b sighting) int { return strings.Compare(a.kind, b.kind) })
}

func (s *searcher) layer(place, inside string, content []byte, depth int, found map[string]sighting) {
	for i := 0; i+4 <= len(content); i++ {
		t := three(content[i:])
		if s.some[t>>6]&(1<<(t&63)) == 0 {
			continue
		}
		for _, n := range s.byHead[head(content[i:])] {
			if _, known := found[n.canary.kind]; !known && bytes.HasPrefix(content[i:], n.text) {
				found[n.canary.kind] = sighting{n.canary.kind, place, inside + n.form + ": " + around(content, i, len(n.text))}
			}
		}
	}
	if depth < deepest {
		for how, inner := range unpack(content) {
			s.layer(place, inside+how+" > ", inner, depth+1, found)
		}
	}
}

func around(content []byte, at, length int) string {
	text := content[max(0, at-80):min(len(content), at+length+40)]
	return fmt.Sprintf("%q", text)
}

// unpack gives what is packed or encoded in content, wherever it begins.
func unpack(content []byte) func(yield func(string, []byte) bool) {
	return func(yield func(string, []byte) bool) {
		for i := 0; i+4 < len(content); i++ {
			var how string
			var r io.Reader
			switch rest := content[i:]; {
			case rest[0] == 0x1f && rest[1] == 0x8b && rest[2] == 8:
				how = "gzip"
				if z, err := gzip.NewReader(bytes.NewReader(rest)); err == nil {
					z.Multistream(false)
					r = z
				}
			case rest[0] == 0x28 && rest[1] == 0xb5 && rest[2] == 0x2f && rest[3] == 0xfd:
				how = "zstd"
				if z, err := zstd.NewReader(bytes.NewReader(rest), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(largest)); err == nil {
					defer z.Close()
					r = z
				}
			case rest[0] == 0x78 && (rest[1] == 0x01 || rest[1] == 0x5e || rest[1] == 0x9c || rest[1] == 0xda):
				how = "zlib"
				if z, err := zlib.NewReader(bytes.NewReader(rest)); err == nil {
					r = z
				}
			}
			if r == nil {
				continue
			}
			// What is cut off or followed by something else is read as far as it goes.
			inner, _ := io.ReadAll(io.LimitReader(r, largest))
			if len(inner) > 0 && !yield(how, inner) {
				return
			}
		}
		if inner, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(content)), largest)); len(inner) > 8 && err == nil && !yield("deflate", inner) {
			return
		}
		for _, run := range runs(content) {
			if inner := decode64(run); len(inner) > 0 && !yield("base64", inner) {
				return
			}
			if inner := decodeHex(run); len(inner) > 0 && !yield("hex", inner) {
				return
			}
		}
	}
}

// runs are the long pieces of content that may be base64 or hex, broken into lines or not.
func runs(content []byte) [][]byte {
	const shortest = 24
	var all [][]byte
	var run []byte
	for i := 0; i <= len(content); i++ {
		if i < len(content) && letter64[content[i]] {
			run = append(run, content[i])
			continue
		}
		// One line's end inside, as encoders break lines, goes on; base64 has no other gaps.
		if i+1 < len(content) && len(run) >= shortest && (content[i] == '\n' || content[i] == '\r') && (letter64[content[i+1]] || content[i+1] == '\n') {
			continue
		}
		if len(run) >= shortest {
			all = append(all, run)
			run = nil
		}
		run = run[:0]
	}
	return all
}

var letter64 = func() (is [256]bool) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_" {
		is[c] = true
	}
	return is
}()

func decode64(run []byte) []byte {
	run = bytes.ReplaceAll(bytes.ReplaceAll(run, []byte("-"), []byte("+")), []byte("_"), []byte("/"))
	out := make([]byte, base64.RawStdEncoding.DecodedLen(len(run)))
	n, _ := base64.RawStdEncoding.Decode(out, run) // as far as it goes
	return out[:n]
}

func decodeHex(run []byte) []byte {
	out := make([]byte, hex.DecodedLen(len(run)))
	n, _ := hex.Decode(out, run[:len(run)&^1])
	if n < 12 {
		return nil
	}
	return out[:n]
}
