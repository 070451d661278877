package secret

import (
	"io"
	"strings"
	"sync"
)

// Masked stands where a value was.
const Masked = "***"

// MinLength is the length in bytes from which a value is masked. Shorter ones
// are not: replacing every "1" would destroy the output, and show the value.
const MinLength = 4

// pieceSize bounds one searched piece: a longer value is searched piece by
// piece, so that a stream holds back little and a long value costs no more than a short one.
const pieceSize = 512

// Masker replaces values that were added to it. It finds a value as it is, each
// of its lines, and the value as others write it: see encoded. Of a value above
// 64 KiB it finds only the first two. The zero Masker is ready; it may be used
// by several goroutines.
type Masker struct {
	mu      sync.RWMutex
	pieces  map[string]bool
	byHead  map[head][]string // pieces by their first bytes, so that one pass over a text finds all
	seen    []bool            // the first two bytes of some piece: most places of a text need one look
	begins  map[string]bool   // what pieces begin with, shorter than a head
	longest int
}

type head [MinLength]byte

// Add makes the Masker know value.
func (m *Masker) Add(value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pieces == nil {
		m.pieces, m.byHead, m.seen, m.begins = map[string]bool{}, map[head][]string{}, make([]bool, 1<<16), map[string]bool{}
	}
	for _, form := range forms(value) {
		for _, piece := range split(form) {
			if m.pieces[piece] {
				continue
			}
			m.pieces[piece] = true
			h := head([]byte(piece[:MinLength]))
			m.byHead[h] = append(m.byHead[h], piece)
			m.seen[int(piece[0])<<8|int(piece[1])] = true
			for n := 1; n < MinLength; n++ {
				m.begins[piece[:n]] = true
			}
			m.longest = max(m.longest, len(piece))
		}
	}
}

func forms(value string) []string {
	if len(value) < MinLength {
		return nil
	}
	all := []string{value}
	if lines := strings.Split(value, "\n"); len(lines) > 1 {
		for _, line := range lines {
			// Short lines of a long secret ("{", "---") are no secret.
			if line = strings.TrimSpace(line); len(line) >= 2*MinLength {
				all = append(all, line)
			}
		}
	}
	if len(value) > 64<<10 {
		return all
	}
	all = append(all, encoded(value)...)
	// Shells drop the newline at the end, and often the spaces around.
	if trimmed := strings.TrimSpace(value); trimmed != value && len(trimmed) >= MinLength {
		all = append(append(all, trimmed), encoded(trimmed)...)
	}
	return all
}

func split(form string) []string {
	var pieces []string
	for len(form) >= 2*pieceSize {
		pieces = append(pieces, form[:pieceSize])
		form = form[pieceSize:]
	}
	if len(form) >= MinLength {
		pieces = append(pieces, form)
	}
	return pieces
}

// Mask returns text with every value replaced by Masked.
func (m *Masker) Mask(text string) string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	b := []byte(text)
	spans := m.spans(b)
	if len(spans) == 0 {
		return text
	}
	return string(replace(nil, b, spans))
}

// MaskData returns v, a value as encoding/json decodes into any, with every
// string in it masked, keys of maps included.
func (m *Masker) MaskData(v any) any {
	switch v := v.(type) {
	case string:
		return m.Mask(v)
	case []any:
		for i := range v {
			v[i] = m.MaskData(v[i])
		}
	case map[string]any:
		for key, elem := range v {
			masked := m.Mask(key)
			if masked != key {
				delete(v, key)
			}
			v[masked] = m.MaskData(elem)
		}
	}
	return v
}

type span struct{ begin, end int }

// spans returns where values stand in b, in order, overlapping and touching ones joined.
func (m *Masker) spans(b []byte) []span {
	if len(m.pieces) == 0 {
		return nil
	}
	var found []span
	for i := 0; i+MinLength <= len(b); i++ {
		if !m.seen[int(b[i])<<8|int(b[i+1])] {
			continue
		}
		longest := 0
		for _, p := range m.byHead[head(b[i:i+MinLength])] {
			if len(p) > longest && len(p) <= len(b)-i && string(b[i:i+len(p)]) == p {
				longest = len(p)
			}
		}
		if longest > 0 {
			found = append(found, span{i, i + longest})
		}
	}
	var joined []span
	for _, s := range found {
		if n := len(joined); n > 0 && s.begin <= joined[n-1].end {
			joined[n-1].end = max(joined[n-1].end, s.end)
			continue
		}
		joined = append(joined, s)
	}
	return joined
}

func replace(to, b []byte, spans []span) []byte {
	at := 0
	for _, s := range spans {
		to = append(append(to, b[at:s.begin]...), Masked...)
		at = s.end
	}
	return append(to, b[at:]...)
}

// Writer returns a writer that writes masked to w what is written to it. It
// finds values that come in pieces: it holds back what may be the beginning of
// one, until more comes or Flush is called. Not for several goroutines.
func (m *Masker) Writer(w io.Writer) *Writer { return &Writer{m: m, w: w} }

// Writer masks a stream; see Masker.Writer.
type Writer struct {
	m    *Masker
	w    io.Writer
	held []byte
}

// maxHeld bounds what a Writer holds back when values follow one another without an end.
const maxHeld = 64 << 10

// Write masks p and writes it, or holds its end back. It reports len(p) written
// unless the writer below failed.
func (w *Writer) Write(p []byte) (int, error) {
	w.held = append(w.held, p...)
	w.m.mu.RLock()
	spans := w.m.spans(w.held)
	keep := w.m.mayBegin(w.held)
	w.m.mu.RUnlock()
	for i, s := range spans {
		if s.end > keep && len(w.held)-s.begin <= maxHeld {
			keep = min(keep, s.begin)
			spans = spans[:i]
			break
		}
		keep = max(keep, s.end)
	}
	return len(p), w.emit(keep, spans)
}

// Flush writes what is held back.
func (w *Writer) Flush() error {
	w.m.mu.RLock()
	spans := w.m.spans(w.held)
	w.m.mu.RUnlock()
	return w.emit(len(w.held), spans)
}

func (w *Writer) emit(n int, spans []span) error {
	if n == 0 {
		return nil
	}
	_, err := w.w.Write(replace(nil, w.held[:n], spans))
	w.held = append(w.held[:0], w.held[n:]...)
	return err
}

// mayBegin returns the first place of b whose rest is the beginning of a value;
// len(b) if there is none.
func (m *Masker) mayBegin(b []byte) int {
	first := min(len(b), max(0, len(b)-m.longest+1))
	end := string(b[first:])
	for i := range len(end) {
		rest := end[i:]
		if len(rest) < MinLength {
			if m.begins[rest] {
				return first + i
			}
			continue
		}
		for _, p := range m.byHead[head([]byte(rest[:MinLength]))] {
			if len(p) > len(rest) && strings.HasPrefix(p, rest) {
				return first + i
			}
		}
	}
	return len(b)
}

// Empty tells whether nothing was added that can be masked.
func (m *Masker) Empty() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.pieces) == 0
}
