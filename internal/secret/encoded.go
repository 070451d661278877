package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf16"
)

// encoded returns value in the forms in which programs commonly print it: in
// hex, in base64 (wherever it begins in the encoded text, wrapped into lines or
// not), and escaped for URLs, JSON, shells, Python, HTML. Some may be the same.
func encoded(value string) []string {
	b := []byte(value)
	all := []string{hex.EncodeToString(b), strings.ToUpper(hex.EncodeToString(b))}
	all = append(all, escapedForURLs(value)...)
	all = append(all, escapedForJSON(value)...)
	for _, r := range replacers {
		all = append(all, r.Replace(value))
	}
	all = append(all, shellSpecial.ReplaceAllString(value, `\$0`)) // printf %q
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		all = append(all, inBase64(enc, b)...)
	}
	return all
}

var shellSpecial = regexp.MustCompile(`[^A-Za-z0-9_./:=@%+,\-\x80-\x{10FFFF}]`)

var replacers = []*strings.Replacer{
	strings.NewReplacer(`'`, `'\''`),                                              // a shell's trace (set -x)
	strings.NewReplacer(`'`, `'"'"'`),                                             // Python's shlex
	strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`"),              // bash's declare -p
	strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\n", `\n`, "\r", `\r`, "\t", `\t`), // Python's repr, bash's $'…'
	escapedForHTML(`"`, `'`),                                                      // text in XML
	escapedForHTML(`&quot;`, `&#39;`),                                             // most languages
	escapedForHTML(`&#34;`, `&#39;`),                                              // Go
	escapedForHTML(`&quot;`, `&#x27;`),                                            // Python
	escapedForHTML(`&quot;`, `&#039;`),                                            // PHP
	escapedForHTML(`&quot;`, `&apos;`),                                            // attributes in XML
}

func escapedForHTML(quote, apostrophe string) *strings.Replacer {
	return strings.NewReplacer(`&`, `&amp;`, `<`, `&lt;`, `>`, `&gt;`, `"`, quote, `'`, apostrophe)
}

var (
	percent     = regexp.MustCompile(`%[0-9A-F]{2}`)
	unreserved  = strings.NewReplacer("%21", "!", "%27", "'", "%28", "(", "%29", ")", "%2A", "*")
	keepSlashes = strings.NewReplacer("%2F", "/")
)

func escapedForURLs(value string) []string {
	query := url.QueryEscape(value)
	full := strings.ReplaceAll(query, "+", "%20")
	all := []string{query, full, url.PathEscape(value),
		unreserved.Replace(full),  // JavaScript's encodeURIComponent
		keepSlashes.Replace(full), // Python's quote
	}
	for _, text := range all {
		all = append(all, percent.ReplaceAllStringFunc(text, strings.ToLower))
	}
	return all
}

func escapedForJSON(value string) []string {
	var all []string
	for _, escapeHTML := range []bool{true, false} {
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(escapeHTML)
		if enc.Encode(value) != nil {
			continue
		}
		text := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSuffix(buf.String(), "\n"), `"`), `"`)
		var ascii strings.Builder
		for _, r := range text {
			if r < 0x80 {
				ascii.WriteRune(r)
				continue
			}
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&ascii, `\u%04x`, unit)
			}
		}
		all = append(all, text, strings.ReplaceAll(text, "/", `\/`), ascii.String())
	}
	return all
}

// A value of which base64 makes more than a line is searched window by window,
// since lines may end anywhere; up to a size, because there are many windows.
const (
	window   = 12
	wrapFrom = 40
	wrapTo   = 8 << 10
)

func inBase64(enc *base64.Encoding, b []byte) []string {
	all := []string{enc.EncodeToString(b)}
	// Inside a longer encoded text the value may begin at any of three
	// places; what does not depend on its neighbours is the same.
	for shift := range 3 {
		text := enc.EncodeToString(append(make([]byte, shift), b...))
		begin := []int{0, 2, 3}[shift]
		end := (len(b) + shift) / 3 * 4
		if end-begin < 2*MinLength {
			continue
		}
		text = text[begin:end]
		all = append(all, text)
		if len(b) < wrapFrom || len(b) > wrapTo {
			continue
		}
		for i := range len(text) - window + 1 {
			all = append(all, text[i:i+window])
		}
	}
	return all
}
