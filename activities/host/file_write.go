package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/almanac-run/almanac/action"
)

type fileWriteInput struct {
	Path    string        `json:"path" jsonschema:"absolute path of the file; its directory must exist"`
	Content action.Secret `json:"content" jsonschema:"all of its content"`
	Mode    string        `json:"mode,omitempty" jsonschema:"permissions in octal, as text" default:"as it was; of a new file 0644, or 0600 if content is a secret"`
	Owner   string        `json:"owner,omitempty" jsonschema:"user it belongs to, by name or number" default:"as it was; the agent's of a new file"`
	Group   string        `json:"group,omitempty" jsonschema:"group it belongs to, by name or number" default:"as it was; the agent's of a new file"`
}

type fileWriteOutput struct {
	Path    string `json:"path" jsonschema:"the file"`
	Changed bool   `json:"changed" jsonschema:"false if it was so already"`
	Created bool   `json:"created" jsonschema:"true if there was none"`
	Size    int64  `json:"size" jsonschema:"its bytes"`
}

func fileWrite(n Node) action.Action {
	return action.New(action.Def[fileWriteInput, fileWriteOutput]{
		Name:    "host.file.write",
		Summary: "Write a file on a node",
		Details: `The file is replaced all at once: whoever reads it sees the old content or the new. A symbolic link is refused, name the file itself.

Rollback restores content, mode and owner as they were, or removes a file that was not there. If somebody else has changed the content since, rollback
fails with kind conflict and leaves the file alone.`,
		Example: `id: motd
targets: [web-1]
action: host.file.write
with: { path: /etc/motd, content: "Maintenance tonight.\n", mode: "0644" }`,
		Do: func(ctx context.Context, in fileWriteInput) (fileWriteOutput, error) {
			content, err := in.Content.Reveal(ctx)
			if err != nil {
				return fileWriteOutput{}, err
			}
			c, err := n.alter(ctx, in.Path, func(now file) (file, error) { return in.after(now, content) },
				func() io.Reader { return strings.NewReader(content) })
			if err != nil {
				return fileWriteOutput{}, err
			}
			return fileWriteOutput{Path: in.Path, Changed: c.Before != c.After, Created: !c.Before.Exists, Size: c.After.Size}, nil
		},
		Compensate: func(ctx context.Context, in fileWriteInput, out *fileWriteOutput) error {
			return n.restore(ctx, in.Path, out != nil && out.Changed)
		},
	})
}

// after is what the file is to be.
func (in fileWriteInput) after(now file, content string) (file, error) {
	sum := sha256.Sum256([]byte(content))
	want := file{Exists: true, Sum: hex.EncodeToString(sum[:]), Size: int64(len(content)),
		Mode: 0o644, UID: os.Geteuid(), GID: os.Getegid()}
	if in.Content.Ref != "" {
		want.Mode = 0o600
	}
	if now.Exists {
		want.Mode, want.UID, want.GID = now.Mode, now.UID, now.GID
	}
	mode, ok, err := parseMode(in.Mode)
	if err != nil {
		return want, err
	}
	if ok {
		want.Mode = mode
	}
	if in.Owner != "" {
		id := in.Owner
		if u, err := user.Lookup(in.Owner); err == nil {
			id = u.Uid
		}
		if want.UID, err = strconv.Atoi(id); err != nil || want.UID < 0 {
			return want, action.Errorf(action.Invalid, "the node has no user %q", in.Owner)
		}
	}
	if in.Group != "" {
		id := in.Group
		if g, err := user.LookupGroup(in.Group); err == nil {
			id = g.Gid
		}
		if want.GID, err = strconv.Atoi(id); err != nil || want.GID < 0 {
			return want, action.Errorf(action.Invalid, "the node has no group %q", in.Group)
		}
	}
	return want, nil
}
