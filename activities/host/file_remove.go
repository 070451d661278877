package host

import (
	"context"

	"github.com/almanac-run/almanac/action"
)

type fileRemoveInput struct {
	Path string `json:"path" jsonschema:"absolute path of the file"`
}

type fileRemoveOutput struct {
	Path    string `json:"path" jsonschema:"the file"`
	Changed bool   `json:"changed" jsonschema:"false if there was none"`
}

func fileRemove(n Node) action.Action {
	return action.New(action.Def[fileRemoveInput, fileRemoveOutput]{
		Name:    "host.file.remove",
		Summary: "Remove a file from a node",
		Details: `That there is no such file is no error. Directories and symbolic links are refused.

Rollback brings the file back with its content, mode and owner. If there is another file of that name by then, rollback fails with kind conflict and leaves it alone.`,
		Example: `id: unlock
targets: [web-1]
action: host.file.remove
with: { path: /var/lock/deploy }`,
		Do: func(ctx context.Context, in fileRemoveInput) (fileRemoveOutput, error) {
			c, err := n.alter(ctx, in.Path, func(file) (file, error) { return file{}, nil }, nil)
			if err != nil {
				return fileRemoveOutput{}, err
			}
			return fileRemoveOutput{Path: in.Path, Changed: c.Before.Exists}, nil
		},
		Compensate: func(ctx context.Context, in fileRemoveInput, out *fileRemoveOutput) error {
			return n.restore(ctx, in.Path, out != nil && out.Changed)
		},
	})
}
