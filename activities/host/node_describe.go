package host

import (
	"bufio"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/command"
)

type nodeDescribeInput struct{}

// Description is what a node says of itself.
type Description struct {
	ID           string            `json:"id" jsonschema:"what the node is called in targets"`
	Name         string            `json:"name" jsonschema:"its host name"`
	OS           string            `json:"os" jsonschema:"its operating system: debian, amzn, darwin"`
	Version      string            `json:"version" jsonschema:"that of the operating system; may be empty"`
	Arch         string            `json:"arch" jsonschema:"its processor: amd64, arm64"`
	Tags         map[string]string `json:"tags" jsonschema:"the tags its agent was started with"`
	BootID       string            `json:"boot_id" jsonschema:"differs after a restart of the machine; may be empty"`
	AgentVersion string            `json:"agent_version" jsonschema:"version of the agent"`
	Platform     string            `json:"platform" jsonschema:"linux, windows or darwin"`
}

func nodeDescribe(n Node) action.Action {
	return action.New(action.Def[nodeDescribeInput, Description]{
		Name:    "host.node.describe",
		Summary: "Say what a node is",
		Details: "What `where:` sees as `node`.",
		Example: "id: facts\ntargets: [web-1]\naction: host.node.describe",
		Do:      func(context.Context, nodeDescribeInput) (Description, error) { return Describe(n), nil },
	})
}

// Describe says what the node is.
func Describe(n Node) Description {
	name, err := os.Hostname()
	if err != nil {
		name = n.ID
	}
	out := Description{
		ID: n.ID, Name: name, OS: runtime.GOOS, Arch: runtime.GOARCH, Platform: runtime.GOOS,
		Tags: map[string]string{}, BootID: command.BootID(), AgentVersion: n.Version,
	}
	for k, v := range n.Tags {
		out.Tags[k] = v
	}
	// A root that is a whole system of its own says which; one that is only a directory is part of this one.
	release := osRelease(filepath.Join(n.Root, "/etc/os-release"))
	if n.Root != "" && len(release) == 0 {
		release = osRelease("/etc/os-release")
	}
	if id := release["ID"]; id != "" {
		out.OS = id
	}
	out.Version = release["VERSION_ID"]
	return out
}

func osRelease(file string) map[string]string {
	release := map[string]string{}
	f, err := os.Open(file)
	if err != nil {
		return release
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), "="); ok {
			release[key] = strings.Trim(value, `"'`)
		}
	}
	return release
}
