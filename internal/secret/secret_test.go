package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

var errAny = errors.New("any error")

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	link := func(name, to string) string {
		file := filepath.Join(dir, name)
		if err := os.Symlink(to, file); err != nil {
			t.Fatal(err)
		}
		return file
	}
	syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600)
	t.Setenv("SECRET", "s3cret")
	t.Setenv("EMPTY", "")
	for _, name := range []string{"TEMPORAL_API_KEY", "ALMANAC_KEYS", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "OTEL_EXPORTER_OTLP_HEADERS"} {
		t.Setenv(name, "hunter2")
	}
	tests := []struct {
		ref, want string
		err       error
	}{
		{"env:SECRET", "s3cret", nil},
		{"env:EMPTY", "", nil},
		{"env:NOT_SET_ANYWHERE", "", fs.ErrNotExist},
		{"env:TEMPORAL_API_KEY", "", fs.ErrPermission},
		{"env:ALMANAC_KEYS", "", fs.ErrPermission},
		{"env:PGPASSWORD", "", fs.ErrPermission},
		{"env:AWS_SECRET_ACCESS_KEY", "", fs.ErrPermission},
		{"env:OTEL_EXPORTER_OTLP_HEADERS", "", fs.ErrPermission},
		{"file:" + write("a", "line\n"), "line", nil},
		{"file:" + write("b", "two\n\n"), "two\n", nil},
		{"file:" + write("c", "dos\r\n"), "dos", nil},
		{"file:" + write("d", " spaces "), " spaces ", nil},
		{"file:" + write("e", ""), "", nil},
		{"file:" + filepath.Join(dir, "none"), "", fs.ErrNotExist},
		{"file:" + dir, "", ErrReference},
		{"file:" + filepath.Join(dir, "pipe"), "", ErrReference},
		{"file:relative", "", ErrReference},
		{"file:/proc/self/environ", "", fs.ErrPermission},
		{"file:" + link("environ", "/proc/self/environ"), "", fs.ErrPermission},
		{"file:" + link("circle", filepath.Join(dir, "circle")), "", errAny},
		{"ssm:/path", "", ErrNotHere},
		{"hunter2", "", ErrReference},
		{"pass:hunter2", "", ErrReference},
		{"", "", ErrReference},
		{"env:", "", ErrReference},
	}
	for _, tt := range tests {
		got, err := Resolve(t.Context(), tt.ref)
		if got != tt.want || !errors.Is(err, tt.err) && (tt.err != errAny || err == nil) {
			t.Errorf("%s: %q, %v; want %q, %v", tt.ref, got, err, tt.want, tt.err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows a value: %v", tt.ref, err)
		}
	}
	if _, err := Resolve(t.Context(), "file:"+write("large", strings.Repeat("x", MaxSize+1))); err == nil {
		t.Error("a file over the limit is taken")
	}
}

const value = `p@ss "word"/<tag>&+1`

func TestMaskForms(t *testing.T) {
	b := []byte(value)
	escaped, _ := json.Marshal(value)
	plain := strings.NewReplacer(`"`, `\"`).Replace(value)
	texts := map[string]string{
		"as it is":            value,
		"in a line":           "password=" + value + ";",
		"twice":               value + value,
		"JSON":                string(escaped),
		"JSON, HTML as it is": plain,
		"URL query":           "?p=" + url.QueryEscape(value),
		"URL path":            "/" + url.PathEscape(value),
		"hex":                 hex.EncodeToString(b),
		"HEX":                 strings.ToUpper(hex.EncodeToString(b)),
		"base64":              base64.StdEncoding.EncodeToString(b),
		"base64 URL":          base64.URLEncoding.EncodeToString(b),
	}
	for shift := 1; shift <= 4; shift++ {
		texts[fmt.Sprintf("base64 after %d", shift)] = base64.StdEncoding.EncodeToString(append(bytes.Repeat([]byte("u"), shift), b...))
	}
	var m Masker
	m.Add(value)
	for name, text := range texts {
		got := m.Mask(text)
		if !strings.Contains(got, Masked) {
			t.Errorf("%s: %q is not masked", name, text)
		}
		// What is left of an encoded value must not be worth decoding.
		if left := len(strings.ReplaceAll(got, Masked, "")); strings.HasPrefix(name, "base64") && left > 12 {
			t.Errorf("%s: %q leaves %d characters", name, got, left)
		}
	}
	if got := m.Mask("nothing of it"); got != "nothing of it" {
		t.Errorf("masked %q", got)
	}
}

func TestMaskRules(t *testing.T) {
	tests := []struct {
		name       string
		values     []string
		text, want string
	}{
		{"no values", nil, "abc", "abc"},
		{"short values stay", []string{"abc", ""}, "abc", "abc"},
		{"shortest", []string{"abcd"}, "xabcdx", "x***x"},
		{"longer first", []string{"abcd", "abcdefgh"}, "abcdefgh", "***"},
		{"overlapping", []string{"abcdef", "defghi"}, "xabcdefghix", "x***x"},
		{"overlapping itself", []string{"abab"}, "ababababx", "***x"},
		{"lines of a key", []string{"-----BEGIN-----\nMIIEvQIBADANBg\nab\n-----END-----"}, "got MIIEvQIBADANBg, ab", "got ***, ab"},
	}
	for _, tt := range tests {
		var m Masker
		for _, v := range tt.values {
			m.Add(v)
		}
		if got := m.Mask(tt.text); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestMaskLongValue(t *testing.T) {
	var m Masker
	var b strings.Builder
	for i := range 100000 {
		fmt.Fprintf(&b, "%d,", i)
	}
	m.Add(b.String())
	if got := m.Mask("x" + b.String() + "y"); got != "x***y" {
		t.Errorf("%d bytes left: %.80q", len(got), got)
	}
}

func TestMaskData(t *testing.T) {
	var m Masker
	m.Add("hunter22")
	var data any
	json.Unmarshal([]byte(`{"a":["x hunter22",1,null,true],"hunter22":{"b":"hunter22"}}`), &data)
	got, _ := json.Marshal(m.MaskData(data))
	if want := `{"***":{"b":"***"},"a":["x ***",1,null,true]}`; string(got) != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// What programs made of this value, as they printed it.
func TestMaskAsProgramsPrint(t *testing.T) {
	const value = "it's \"a\" pass/wörd&<x> $HOME 😀"
	var m Masker
	m.Add(value)
	m.Add("abc12\n")
	for name, text := range map[string]string{
		"printf %q":          `it\'s\ \"a\"\ pass/wörd\&\<x\>\ \$HOME\ 😀`,
		"set -x":             `'it'\''s "a" pass/wörd&<x> $HOME 😀'`,
		"declare -p":         `"it's \"a\" pass/wörd&<x> \$HOME 😀"`,
		"Python repr":        `'it\'s "a" pass/wörd&<x> $HOME 😀'`,
		"Python shlex":       `'it'"'"'s "a" pass/wörd&<x> $HOME 😀'`,
		"Python json":        `"it's \"a\" pass/w\u00f6rd&<x> $HOME \ud83d\ude00"`,
		"PHP json":           `"it's \"a\" pass\/wörd&<x> $HOME 😀"`,
		"Python quote":       `it%27s%20%22a%22%20pass/w%C3%B6rd%26%3Cx%3E%20%24HOME%20%F0%9F%98%80`,
		"encodeURIComponent": `it's%20%22a%22%20pass%2Fw%C3%B6rd%26%3Cx%3E%20%24HOME%20%F0%9F%98%80`,
		"lower case URL":     `it%27s+%22a%22+pass%2fw%c3%b6rd%26%3cx%3e+%24HOME+%f0%9f%98%80`,
		"Python html":        `it&#x27;s &quot;a&quot; pass/wörd&amp;&lt;x&gt; $HOME 😀`,
		"text in XML":        `it's "a" pass/wörd&amp;&lt;x&gt; $HOME 😀`,
		"without newline":    `abc12`,
	} {
		want := strings.NewReplacer(strings.Trim(text, `"'`), Masked).Replace(text)
		if got := m.Mask(text); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// The program base64 wraps its lines, wherever the value begins and lines end.
func TestMaskWrappedBase64(t *testing.T) {
	var value strings.Builder
	for i := range 60 {
		fmt.Fprintf(&value, "%c%d", 'a'+i%26, i*i)
	}
	var m Masker
	m.Add(value.String())
	for before := range 5 {
		text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("u", before) + value.String() + "\n"))
		for _, width := range []int{60, 64, 76} {
			var wrapped strings.Builder
			for i := 0; i < len(text); i += width {
				wrapped.WriteString(text[i:min(i+width, len(text))] + "\n")
			}
			// A line may begin or end with what is too short to be recognised.
			left := strings.ReplaceAll(strings.ReplaceAll(m.Mask(wrapped.String()), Masked, ""), "\n", "")
			if len(left) > 2*window {
				t.Errorf("after %d bytes, in lines of %d, %q is left", before, width, left)
			}
		}
	}
}

// joined makes one mask of masks that touch: where one value follows another, a
// stream may have two.
func joined(s string) string {
	for strings.Contains(s, Masked+Masked) {
		s = strings.ReplaceAll(s, Masked+Masked, Masked)
	}
	return s
}

// However a stream is cut, it is masked as the whole text is.
func TestWriterMasksAcrossPieces(t *testing.T) {
	var m Masker
	m.Add("abcd")
	m.Add("abcdefgh")
	m.Add("fghijk")
	for _, text := range []string{"abcd", "xabcdefghx", "abcabcd", "abcdefgh", "abcdefg", "abcdefghijk", "abcdabcd", "ab", "", "aaabcdeabcdefghijkx"} {
		want := m.Mask(text)
		for first := range len(text) + 1 {
			for second := first; second <= len(text); second++ {
				var b bytes.Buffer
				w := m.Writer(&b)
				for _, piece := range []string{text[:first], text[first:second], text[second:]} {
					if n, err := w.Write([]byte(piece)); n != len(piece) || err != nil {
						t.Fatal(n, err)
					}
				}
				w.Flush()
				if joined(b.String()) != want {
					t.Fatalf("%q cut at %d and %d: %q, want %q", text, first, second, b.String(), want)
				}
			}
		}
	}
}

func TestWriterHoldsBackLittle(t *testing.T) {
	var m Masker
	m.Add("password")
	var b bytes.Buffer
	w := m.Writer(&b)
	w.Write([]byte("prompt: password"))
	if b.String() != "prompt: ***" {
		t.Errorf("a complete value is held back: %q", b.String())
	}
	w.Write([]byte(" then pas"))
	if b.String() != "prompt: *** then " {
		t.Errorf("%q", b.String())
	}
	b.Reset()
	// A stream that is one value after the other has no place to cut.
	for range 1000 {
		w.Write([]byte(strings.Repeat("password", 1000)))
	}
	if len(w.held) > 2*maxHeld {
		t.Errorf("%d bytes are held back", len(w.held))
	}
}

func FuzzWriter(f *testing.F) {
	f.Add("abcdef", "xxabcdefxx", 3)
	f.Add("aaaa", "aaaaaaa", 2)
	f.Add("0", "0", 2)
	f.Add("line one is long\nline two is long", "line two is long", 5)
	f.Fuzz(func(t *testing.T, value, text string, size int) {
		var m Masker
		m.Add(value)
		var b bytes.Buffer
		w := m.Writer(&b)
		size = max(1, size%64)
		for rest := text; rest != ""; {
			n := min(size, len(rest))
			w.Write([]byte(rest[:n]))
			rest = rest[n:]
		}
		w.Flush()
		if len(value) >= MinLength && !strings.Contains(Masked, value) && strings.Contains(b.String(), value) && !strings.Contains(value, "***") {
			t.Errorf("%q is in %q", value, b.String())
		}
		if len(text) < maxHeld && joined(b.String()) != joined(m.Mask(text)) {
			t.Errorf("stream %q, whole %q", b.String(), m.Mask(text))
		}
	})
}
