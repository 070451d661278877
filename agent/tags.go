package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"strings"

	"github.com/almanac-run/almanac/internal/instance"
	"github.com/almanac-run/almanac/internal/node"
)

// The values of --ec2-metadata.
const (
	metadataAuto = "auto" // if the firmware says that this is an instance
	metadataOn   = "on"
	metadataOff  = "off"
)

// tagOptions say where a node's tags come from; what comes later wins.
type tagOptions struct {
	metadata string   // one of the values of --ec2-metadata
	file     string   // empty: none
	tags     []string // name=value
}

// complete sets the node's tags, and where in AWS it is.
func (t tagOptions) complete(ctx context.Context, o *node.Options, logger *slog.Logger) error {
	o.Tags = map[string]string{}
	if err := t.ofEC2(ctx, o, logger); err != nil {
		return err
	}
	if t.file != "" {
		f, err := os.Open(t.file)
		if err != nil {
			return fmt.Errorf("tags file: %w", err)
		}
		defer f.Close()
		tags, err := readTags(f)
		if err != nil {
			return fmt.Errorf("tags file %s:%w", t.file, err)
		}
		maps.Copy(o.Tags, tags)
	}
	for _, tag := range t.tags {
		name, value, ok := strings.Cut(tag, "=")
		if !ok || name == "" {
			return fmt.Errorf("tag %q: want name=value", tag)
		}
		o.Tags[name] = value
	}
	return nil
}

func (t tagOptions) ofEC2(ctx context.Context, o *node.Options, logger *slog.Logger) error {
	switch t.metadata {
	case metadataOn:
	case metadataOff:
		return nil
	case metadataAuto:
		if !instance.OnEC2("") {
			return nil
		}
	default:
		return fmt.Errorf("--ec2-metadata is %s, %s or %s, not %q", metadataAuto, metadataOn, metadataOff, t.metadata)
	}
	d, err := instance.Metadata(ctx, os.Getenv(instance.EndpointEnv))
	switch {
	case err != nil && t.metadata == metadataOn:
		return fmt.Errorf("%w; --ec2-metadata off does without it", err)
	case err != nil:
		logger.Warn("this is an instance of EC2, but its metadata cannot be read: its tags are not known", "error", err)
		return nil
	}
	o.Region, o.Account = d.Region, d.Account
	maps.Copy(o.Tags, d.Tags)
	logger.Info("this is an instance of EC2", "instance", d.ID, "region", d.Region, "account", d.Account, "tags", len(d.Tags), "tags_visible", d.Tags != nil)
	return nil
}

// readTags reads lines of name=value. Empty lines and those that begin with # say nothing.
// The error begins with the number of the line.
func readTags(r io.Reader) (map[string]string, error) {
	tags := map[string]string{}
	lines := bufio.NewScanner(r)
	n := 0
	for lines.Scan() {
		n++
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || name == "" {
			return nil, fmt.Errorf("%d: %q: want name=value", n, line)
		}
		if _, twice := tags[name]; twice {
			return nil, fmt.Errorf("%d: tag %s stands there twice", n, name)
		}
		tags[name] = value
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%d: %w", n+1, err)
	}
	return tags, nil
}
