package ssmnode

import (
	"context"
	_ "embed" // the scripts
	"path"
	"strconv"
	"strings"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/host"
)

//go:embed file.sh
var fileScript string

// fileEnv checks a path and makes the environment of the script.
func fileEnv(verb, file string) (map[string]string, error) {
	switch {
	case !strings.HasPrefix(file, "/"):
		return nil, action.Errorf(action.Invalid, "path %q is not absolute", file)
	case strings.ContainsRune(file, 0) || strings.HasSuffix(file, "/") || path.Clean(file) == "/":
		return nil, action.Errorf(action.Invalid, "path %q does not name a file", file)
	}
	return map[string]string{"file_verb": verb, "file_path": path.Clean(file), "file_mode": "", "file_owner": "", "file_group": "", "file_changed": ""}, nil
}

func (n node) writeFile(ctx context.Context, in host.FileWriteInput) (host.FileWriteOutput, error) {
	env, err := fileEnv("write", in.Path)
	if err != nil {
		return host.FileWriteOutput{}, err
	}
	if err := notSecret("content", in.Content); err != nil {
		return host.FileWriteOutput{}, err
	}
	mode, ok, err := host.ParseMode(in.Mode)
	if err != nil {
		return host.FileWriteOutput{}, err
	}
	if ok {
		env["file_mode"] = strconv.FormatUint(uint64(mode), 8)
	}
	env["file_owner"], env["file_group"] = in.Owner, in.Group
	is, err := n.fixed(ctx, "host.file.write", "", fileScript, env, in.Content.Plain)
	if err != nil {
		return host.FileWriteOutput{}, err
	}
	return host.FileWriteOutput{Path: in.Path, Changed: is["changed"] == "yes", Created: is["created"] == "yes", Size: int64(len(in.Content.Plain))}, nil
}

func (n node) removeFile(ctx context.Context, in host.FileRemoveInput) (host.FileRemoveOutput, error) {
	env, err := fileEnv("remove", in.Path)
	if err != nil {
		return host.FileRemoveOutput{}, err
	}
	is, err := n.fixed(ctx, "host.file.remove", "", fileScript, env, "")
	if err != nil {
		return host.FileRemoveOutput{}, err
	}
	return host.FileRemoveOutput{Path: in.Path, Changed: is["changed"] == "yes"}, nil
}

func (n node) unwriteFile(ctx context.Context, in host.FileWriteInput, out *host.FileWriteOutput) error {
	return n.restoreFile(ctx, "host.file.write", in.Path, out != nil && out.Changed)
}

func (n node) unremoveFile(ctx context.Context, in host.FileRemoveInput, out *host.FileRemoveOutput) error {
	return n.restoreFile(ctx, "host.file.remove", in.Path, out != nil && out.Changed)
}

// restoreFile puts a file back. changed is what the recorded output says, false if it is not known.
func (n node) restoreFile(ctx context.Context, what, file string, changed bool) error {
	env, err := fileEnv("undo", file)
	if err != nil {
		return nil // Do refused it as well
	}
	if changed {
		env["file_changed"] = "yes"
	}
	_, err = n.fixed(ctx, what, "undo", fileScript, env, "")
	return err
}
