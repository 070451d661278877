package host

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"unicode/utf8"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/output"
)

// OutputRead is the name of the activity that ReadOutput serves.
const OutputRead = "host.output.read"

// MaxOutputRead is how many bytes of an output one call reads at most.
const MaxOutputRead = 256 << 10

// OutputReadInput says which part of an output is wanted.
type OutputReadInput struct {
	Ref    string `json:"ref" jsonschema:"the output, as a command's outputs name it"`
	Offset int64  `json:"offset,omitempty" jsonschema:"first byte; below 0: from the end"`
	Limit  int    `json:"limit,omitempty" jsonschema:"bytes at most; 256 KiB if 0 or more than that"`
}

// OutputReadOutput is a part of an output: Data, or Base64 if it is no text.
type OutputReadOutput struct {
	Data   string `json:"data,omitempty" jsonschema:"the part, if it is text"`
	Base64 string `json:"base64,omitempty" jsonschema:"the part, if it is none"`
	Offset int64  `json:"offset" jsonschema:"where the part begins"`
	Size   int64  `json:"size" jsonschema:"bytes of the whole output so far"`
	Ended  bool   `json:"ended" jsonschema:"nobody writes it at the moment"`
}

// Bytes is the part, in whichever form it came.
func (o OutputReadOutput) Bytes() ([]byte, error) {
	if o.Base64 != "" {
		return base64.StdEncoding.DecodeString(o.Base64)
	}
	return []byte(o.Data), nil
}

// ReadOutput reads the complete outputs that the node keeps, in parts, for who
// does not share its output directory. It is served like an action, but
// runbooks do not have it: what a step needs of an output is among its results.
func ReadOutput(n Node) action.Action {
	if n.OutputDir == "" && n.StateDir != "" {
		n.OutputDir = filepath.Join(n.StateDir, "output")
	}
	return action.New(action.Def[OutputReadInput, OutputReadOutput]{
		Name:    OutputRead,
		Summary: "Read a part of a command's complete output",
		Do:      n.ReadOutput,
	})
}

// ReadOutput does what the action of that name does.
func (n Node) ReadOutput(_ context.Context, in OutputReadInput) (OutputReadOutput, error) {
	// Nodes may share a directory; each reads its own outputs only.
	if path.Base(in.Ref) != path.Base(output.Ref("", "", n.ID)) {
		return OutputReadOutput{}, action.Errorf(action.Invalid, "output %q is none of node %s", in.Ref, n.ID)
	}
	store := output.Dir(n.OutputDir)
	r, err := store.Open(in.Ref)
	var expired *output.ExpiredError
	switch {
	case errors.As(err, &expired):
		return OutputReadOutput{}, action.Errorf(action.NotFound, "%w", expired)
	case errors.Is(err, fs.ErrNotExist):
		return OutputReadOutput{}, action.Errorf(action.NotFound, "node %s has no output %s (any more)", n.ID, in.Ref)
	case err != nil:
		return OutputReadOutput{}, action.Errorf(action.Invalid, "%w", err)
	}
	defer r.Close()
	// Before the size: what is written after that is seen as an output that grows.
	ended := !store.Growing(in.Ref)
	size, err := r.Seek(0, io.SeekEnd)
	if err != nil {
		return OutputReadOutput{}, action.Errorf(action.Unavailable, "output %s: %w", in.Ref, err)
	}
	out, err := OutputPart(in, size, r.ReadAt)
	out.Ended = ended
	return out, err
}

// OutputPart is the part that is wanted of an output of that size, which readAt reads as io.ReaderAt does.
func OutputPart(in OutputReadInput, size int64, readAt func(p []byte, offset int64) (int, error)) (OutputReadOutput, error) {
	if in.Limit <= 0 || in.Limit > MaxOutputRead {
		in.Limit = MaxOutputRead
	}
	if in.Offset < 0 {
		in.Offset += size
	}
	out := OutputReadOutput{Offset: min(max(in.Offset, 0), size), Size: size}
	b := make([]byte, min(int64(in.Limit), size-out.Offset))
	read, err := readAt(b, out.Offset)
	if err != nil && err != io.EOF {
		return OutputReadOutput{}, action.Errorf(action.Unavailable, "output %s: %w", in.Ref, err)
	}
	out.Data, out.Base64 = carry(b[:read])
	return out, nil
}

// carry returns b as text without loss, or else as base64. A character that
// was cut off at the end is left for the next part.
func carry(b []byte) (text, coded string) {
	whole := b
	for i := 1; i < utf8.UTFMax && i < len(b); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-i:]) {
				whole = b[:len(b)-i]
			}
			break
		}
	}
	if !utf8.Valid(whole) {
		return "", base64.StdEncoding.EncodeToString(b)
	}
	// A text of control characters is longer in JSON than in base64.
	var escaped bytes.Buffer
	if err := json.NewEncoder(&escaped).Encode(string(whole)); err != nil || escaped.Len() > 2*len(b)+64 {
		return "", base64.StdEncoding.EncodeToString(b)
	}
	return string(whole), ""
}
